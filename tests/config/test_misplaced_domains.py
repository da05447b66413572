"""What cannot be searched, and domains that are not where a space has them: each message says what to do."""

from __future__ import annotations

import pytest

from tune_swa.config.yaml_file import parse_experiment
from tune_swa.errors import RequestError

SPACE = "name: x\n%sspace:\n  lr: 1e-3\n  swa_start: 5\n  swa_lr: 1e-3\n%s"
NETWORKS = "{choice: [resnet18, resnet34]}"


ONE_NETWORK = "cannot be searched: a search has one network, and one set of weights to start from; run one"
WHOLE_NAME = "what is searched is listed in space by its whole name, train.batch_size"


@pytest.mark.parametrize(
    ("section", "searched", "message"),
    [
        ("", f"  model.arch: {NETWORKS}\n", f"f.yaml:6: space.model.arch: {ONE_NETWORK}"),
        (f"model: {{arch: {NETWORKS}}}\n", "", f"f.yaml:2: model.arch: {ONE_NETWORK}"),
        ("", f"  model: {{arch: {NETWORKS}}}\n", f"f.yaml:6: space.model: {ONE_NETWORK}"),
        ("", "  data.image_size: {int: [32, 64]}\n", "space.data.image_size: cannot be searched: all trials"),
        ("", "  confirm.seeds: 3\n", "space.confirm.seeds: cannot be searched: it is no setting of a trial"),
        ("train: {batch_size: {choice: [32, 64]}}\n", "", f"f.yaml:2: train.batch_size: {WHOLE_NAME}"),
        ("", "  train: {batch_size: {choice: [32, 64]}}\n", f"f.yaml:6: space.train: {WHOLE_NAME}"),
        ("", "  averaging: {swa_start: {int: [1, 5]}}\n", "listed in space by its whole name, swa_start"),
        ("train: {epochs: {choice: [5, 9]}}\n", "", "train.epochs: cannot be searched: rungs and curves"),
    ],
)
def test_the_message_says_where_a_domain_goes(section: str, searched: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_experiment(SPACE % (section, searched), "f.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
