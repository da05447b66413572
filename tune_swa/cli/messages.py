"""Messages at the end of a search."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tune_swa.cli import supervisor
from tune_swa.errors import Interrupted, SearchFailed

if TYPE_CHECKING:
    from rich.console import Console


def print_result(console: Console, folder: Path) -> None:
    from tune_swa.experiment.state import ExperimentState
    from tune_swa.results.average_contrasts import compare_averages
    from tune_swa.results.ensembles import build_ensembles, compare_ensembles
    from tune_swa.results.merges import compare_merges
    from tune_swa.results.predictions import read_predictions
    from tune_swa.results.summary import summary_text
    from tune_swa.results.terminal_table import averages_table, comparison_table, merges_table
    from tune_swa.results.verdict import compute_verdict
    from tune_swa.results.verdict_sentences import verdict_text

    state = ExperimentState.read(folder / "journal.jsonl")
    console.print(comparison_table(state))
    console.print(summary_text(state), markup=False)
    found = compute_verdict(state, folder)
    if found is not None:
        console.print()
        console.print(verdict_text(found), markup=False)
        predictions = read_predictions(state, folder)
        ensembles = build_ensembles(found, predictions, state, folder)
        averages, grouped = compare_averages(found, predictions), compare_ensembles(found, ensembles)
        if averages:
            console.print()
            console.print(averages_table(averages, "average"))
        if grouped:
            console.print()
            console.print(averages_table(grouped, "ensemble"))
        if merges := compare_merges(found, predictions, state):
            console.print()
            console.print(merges_table(merges))
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    console.print(f"\nFiles in {shown}/", markup=False)
    for name, what in (
        ("report.html", "all of this on one page: open it in a browser"),
        ("trials.parquet", "one row per trial"),
        ("epochs.parquet", "one row per trial and epoch"),
        ("comparison.parquet", "every configuration against the baseline"),
        ("confirm.parquet", "one row per run on a fresh seed, with what it does on the test images"),
        ("predictions.parquet", "one row per test image and run on a fresh seed"),
        ("averages.parquet", "one row per trial and average, where it was scored"),
        ("ensembles.parquet", "one row per ensemble of runs on fresh seeds"),
        ("soups.parquet", "one row per trial of a soup, or member of SWAP, in the order of the means"),
        ("merges.parquet", "one row per merge of runs on a fresh seed"),
        ("optuna.log", "its trials for optuna-dashboard, and for optuna.load_study"),
        ("tensorboard", "every epoch of every trial: tensorboard --logdir"),
        ("best_model.pt", "weights of the best configuration, a state_dict"),
        ("best_model.json", "what one needs to know to use them"),
        ("best_soup.pt", "weights of the best soup, with best_soup.json"),
        ("best_swap.pt", "weights of the best mean of SWAP's members, with best_swap.json"),
        ("space.yaml", "the space as it was searched"),
        ("journal.jsonl", "everything that happened, a line each"),
        ("search.log", "images skipped or converted, and what went wrong on the way"),
    ):
        if (folder / name).exists():
            console.print(f"  {name:<21} {what}", markup=False, soft_wrap=True)


def explain_child_exit(child: supervisor.ChildExit, options: argparse.Namespace) -> int:
    """Say what the search's process could not say any more, and give the exit code."""
    if child.clean:
        return child.code
    if child.interrupted:
        what, code = "Interrupted.", Interrupted.exit_code
    else:
        what, code = f"error: {describe_death(child.code)}", SearchFailed.exit_code
    kept = "What was done is kept. " if _has_begun(options) else ""
    print(f"{what} {kept}{how_to_go_on(options)}", file=sys.stderr)
    return code


def describe_death(code: int) -> str:
    """A sentence on a search's process that ended without a word; `code` is as in `ChildExit`."""
    if code == -signal.SIGKILL:
        return "the search's process was killed from outside, by the system if memory was short."
    if code < 0:
        return f"the search's process crashed ({signal.strsignal(-code)})."
    return "Ray's processes have died, and the search with them."


def how_to_go_on(options: argparse.Namespace) -> str:
    """Say how to continue a search that has stopped: the command is the last line."""
    if _has_begun(options):
        return f"Continue with:\n{continue_command(options)}"
    smoke = getattr(options, "smoke", False)
    why = "A rehearsal leaves nothing to go on with" if smoke else "Nothing had begun"
    return f"{why}. Start again with:\n{shlex.join(options.words)}"


def _has_begun(options: argparse.Namespace) -> bool:
    """Whether there is a search to go on with; a rehearsal is none."""
    journal: Path | None = getattr(options, "journal", None)
    return journal is not None and journal.exists()


def continue_command(options: argparse.Namespace) -> str:
    """The command line that goes on with an interrupted search."""
    words = [*options.words]
    if "--resume" not in words and getattr(options, "takes_resume", False):
        words.append("--resume")
    return shlex.join(words)
