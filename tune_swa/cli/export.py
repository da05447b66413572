"""Run `export-model`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_swa.cli.results import journal_of
from tune_swa.errors import RequestError
from tune_swa.files import refuse_strange_files
from tune_swa.text import format_bytes

if TYPE_CHECKING:
    from tune_swa.config import Experiment
    from tune_swa.experiment.state import ExperimentState

MODEL_FORMATS = ("state_dict", "safetensors", "torch.export")
"""Formats of `tune_swa.training.model_export`, which imports torch."""


def export_model_command(options: argparse.Namespace) -> int:
    from tune_swa.cli.terminal import NamesConsole
    from tune_swa.experiment.events import DamagedError, params_of
    from tune_swa.experiment.state import ExperimentState
    from tune_swa.results.provenance import restore_experiment
    from tune_swa.results.report.images import find_images

    name, usual = ("best_soup", "export-soup") if options.soup else ("best_model", "export")
    folder, output = options.folder, options.output or options.folder / usual
    state = ExperimentState.read(journal_of(folder))
    experiment = restore_experiment(state)
    if options.soup:
        _check_soups(folder, experiment, state)
    if not options.output:
        refuse_strange_files(folder)
    console = NamesConsole(highlight=False)
    with console.status("loading torch"):
        from tune_swa.training.model_export import export_model, load_handed_over
    model, about = load_handed_over(folder, name)
    try:
        params = params_of(about)
        experiment.check_configuration(params, swa=about["kind"] == "swa")
        run = experiment.run_settings(about["kind"], params)
    except (ValueError, DamagedError):
        raise RequestError(
            f"{folder / name}.json: its params are not those of a {about['kind']} run of this "
            "search. Write it again: the command of the search with --resume"
        ) from None
    data, why = find_images(experiment, options.data_dir, state)
    try:
        output.mkdir(parents=True, exist_ok=True)
        report = export_model(
            model,
            about,
            run.train,
            tuple(dict.fromkeys(options.format)) or MODEL_FORMATS,
            output,
            data,
        )
    except OSError as error:
        raise RequestError(f"{output}: cannot be written to ({error.strerror or error})") from None
    say = partial(console.print, markup=False, soft_wrap=True)
    say(f"{_name_model(about)}, each file read again:")
    for outcome in report.outcomes:
        found = ", ".join(f"{part} {100 * value:.2f} %" for part, value in outcome.accuracy.items())
        say(f"  {outcome.path}  {format_bytes(outcome.size)}  {found}")
    for file, what in (("model.json", "what images it takes"), ("classify.py", "an example that uses it")):
        say(f"  {output / file}  {what}")
    recorded = ", ".join(f"{part} {100 * value:.2f} %" for part, value in report.recorded.items())
    if why:
        say(f"The accuracy (recorded: {recorded}) was not compared: {why}")
    elif report.differences:
        other = "; ".join(report.differences)
        say(f"Recorded: {recorded}. Single images may differ, as this machine does: {other}.")
    else:
        say("That is the recorded accuracy.")
    return 0


def _check_soups(folder: Path, experiment: Experiment, state: ExperimentState) -> None:
    """Check that a search has made soups.

    Raises:
        RequestError: it has not, or not yet.
    """
    if not experiment.merge:
        raise RequestError(
            f"{folder}: its search makes no soups. The section merge of a space file asks for them, in a "
            "new search; without --soup the best model is exported"
        )
    if not state.merges:
        raise RequestError(
            f"{folder}: there is no soup yet. They are made when the search has ended, of two completed "
            "trials of one trunk or more: let it end (--resume)"
        )


def _name_model(about: Mapping[str, Any]) -> str:
    """Name a model by its configuration and trial, or by what it is the mean of."""
    if "recipe" in about:
        return f"{about['merge']} of {', '.join(about['recipe'])}"
    return f"{about['configuration']} ({about['trial']})"
