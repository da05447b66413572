"""Any text gives a result or a readable error: space files and overrides, spoiled at random."""

from __future__ import annotations

from contextlib import suppress
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from tune_swa.config import Experiment, yaml_file
from tune_swa.errors import RequestError
from tune_swa.execution.dry_run import make_plan
from tune_swa.execution.plan_table import print_plan
from tune_swa.execution.slots import Machine
from tune_swa.results.export import write_space

SHIPPED = sorted((Path(__file__).parent.parent.parent / "search_spaces").glob("*.yaml"))
TEXTS = [path.read_text() for path in SHIPPED]

quick = settings(max_examples=150, deadline=None)
words = st.sampled_from(
    ["0", "-1", "1e400", ".nan", "~", "true", "[]", "{}", "[1, 2]", "{choice: [1, 2]}", "'x'", "5e-5", "lr", "- 1", "&a 1", "1e308", "5e-324", "1.000000000001", "99999999999999999999", "~nobody-here/x", "*a", "!!set {}", "\x00", "1:2"]
)  # fmt: skip


@st.composite
def spoiled_spaces(draw: st.DrawFn) -> str:
    """A shipped file with lines dropped, repeated, moved, or with other values."""
    lines = draw(st.sampled_from(TEXTS)).splitlines()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        change = draw(st.sampled_from(["drop", "repeat", "move", "value", "indent", "text"]))
        if change == "drop" and len(lines) > 1:
            del lines[at]
        elif change == "repeat":
            lines.insert(at, lines[at])
        elif change == "move":
            lines.insert(draw(st.integers(0, len(lines) - 1)), lines.pop(at))
        elif change == "value":
            lines[at] = lines[at].partition(":")[0] + ": " + draw(words)
        elif change == "indent":
            lines[at] = draw(st.sampled_from([" ", "   ", "\t"])) + lines[at]
        else:
            lines[at] = draw(st.text(max_size=20))
    return "\n".join(lines)


@quick
@given(spoiled_spaces())
def test_a_spoiled_space_file_is_a_space_or_a_readable_error(text: str) -> None:
    try:
        experiment = yaml_file.parse_experiment(text, "f.yaml")
    except RequestError as error:
        assert str(error).startswith("f.yaml")
    else:
        assert experiment.swa_trials > 0
        plan_or_say_why_not(experiment)


def plan_or_say_why_not(experiment: Experiment) -> None:
    """What can be read can be planned, too, or is refused with a message; and both at once."""
    with suppress(RequestError):
        print_plan(Console(file=StringIO()), make_plan(experiment, machine=Machine(gpus=4, cpus=16)))


keys = st.one_of(
    st.sampled_from(["name", "space.lr", "space", "points.0.lr", "train", "train.epochs", "space.train.batch_size", "search.seed", "baseline", "data.path", "resources.gpus_per_trial", "scheduler.branch_rungs", "scheduler.reduction_factor", "scheduler.grace_epochs", "confirm.seeds", "confirm.top", "search.trials", "data.split_seed"]),
    st.text(max_size=8),
)  # fmt: skip


@quick
@example(TEXTS[0], "resources.gpus_per_trial", "0")
@given(st.sampled_from(TEXTS), keys, st.one_of(words, st.text(max_size=8)))
def test_any_override_is_taken_or_a_readable_error(text: str, key: str, value: str) -> None:
    try:
        experiment = yaml_file.parse_experiment(text, "f.yaml", [f"{key}={value}"])
    except RequestError as error:
        assert str(error).startswith(("f.yaml", "--set"))
    else:
        plan_or_say_why_not(experiment)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_the_resolved_space_is_the_same_experiment(path: Path, tmp_path: Path) -> None:
    experiment = yaml_file.load_experiment(path)
    write_space(experiment, tmp_path / "space.yaml")
    assert yaml_file.load_experiment(tmp_path / "space.yaml") == experiment
