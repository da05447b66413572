"""A whole search with code of the user's own, through Ray: in the driver and in the workers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import tune_swa
from helpers.called_search import call_search
from helpers.plugin_files import DRAWN, SMALL_NETWORK, write_plugin
from tune_swa import plugins
from tune_swa.cli.smoke import export_handed_over
from tune_swa.search.trunk_names import TrunkNamer

SPACE = """
name: plug
data: {dataset: drawn, image_size: 8}
model: {arch: small}
train: {epochs: 3, batch_size: 20, augment: [plugin/darken]}
averaging: {anneal_epochs: 1}
space: {lr: 1e-2, swa_start: {choice: [0, 1]}, swa_lr: 1e-3}
search: {sampler: grid}
scheduler: {asha: false, grace_epochs: 1}
"""
DARKEN = """
import beside


def darken(image, generator):
    return image // int(beside.torch.randint(1, 4, (), generator=generator))


tune_swa.register_augmentation("darken", darken)
"""


def test_a_search_with_a_network_images_and_an_augmentation_of_a_plugin(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    one_ray: None,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_plugin(tmp_path, DRAWN + SMALL_NETWORK + DARKEN, "my_plugin_z")
    (tmp_path / "beside.py").write_text("import torch\n")
    (tmp_path / "space.yaml").write_text(SPACE)
    given = ["--space", "space.yaml", "--gpus", "0", "--cpus", "1", "--no-confirm", "--quiet"]
    code, _, errors = call_search(capfd, *given)
    assert code == 2
    assert "--plugin MODULE one of your own" in errors
    code, _, errors = call_search(capfd, *given, "--plugin", "my_plugin_z")
    assert (code, errors) == (0, "")
    results = tune_swa.load_results(tmp_path / "results" / "plug")
    assert list(results.trials["status"]) == ["completed"] * 3
    header = json.loads((tmp_path / "results" / "plug" / "journal.jsonl").read_text().splitlines()[0])
    assert header["plugins"] == plugins.describe_sources()
    assert header["plugins"]["my_plugin_z"]["models"] == ["small"]
    about = json.loads((tmp_path / "results" / "plug" / "best_model.json").read_text())
    assert about["plugins"] == header["plugins"]
    assert set(torch.load(tmp_path / "results" / "plug" / "best_model.pt")) >= {"head.weight", "body.1.bias"}
    assert type(results.best_model()).__name__ == "Small"
    export_handed_over(tmp_path / "results" / "plug", None)  # as a rehearsal does, with what is loaded
    assert (tmp_path / "results" / "plug" / "export" / "my_plugin_z.py").read_text() == path.read_text()
    state = results.state
    settings = [results.experiment.run_settings(t.kind, t.params, t.seed) for t in state.trials.values()]
    hashes = {"my_plugin_z": header["plugins"]["my_plugin_z"]["hash"]}
    facts = (header["data"]["fingerprint"], "none", header["numerics"])
    namer = TrunkNamer(*facts, f"{header['loop']}/{torch.__version__}", plugins=hashes)
    assert [t.trunk for t in state.trials.values()] == [namer.name_trunk(run) for run in settings]
    code, _, errors = call_search(capfd, *given, "--resume")
    assert code == 2
    assert f"began with a plugin ({path}). Add --plugin my_plugin_z" in errors
    path.write_text(path.read_text() + "# changed\n")
    code, _, errors = call_search(capfd, *given, "--resume", "--plugin", str(path))
    assert code == 2
    assert "has changed since this search began" in errors
    plugins.load_plugins([])
