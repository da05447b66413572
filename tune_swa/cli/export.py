"""Run `export-model`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_swa.cli.results import journal_of
from tune_swa.errors import RequestError
from tune_swa.files import refuse_strange_files
from tune_swa.plugins import find_changed, load_plugins, require_model
from tune_swa.text import format_bytes

if TYPE_CHECKING:
    from tune_swa.config import Experiment
    from tune_swa.data.dataset import Dataset
    from tune_swa.execution.average_export import RequestedModel
    from tune_swa.experiment.state import ExperimentState
    from tune_swa.training.model_export import Report

PROGRAM = "torch.export"
MODEL_FORMATS = ("state_dict", "safetensors", PROGRAM)
"""Formats of `tune_swa.training.model_export`, which imports torch."""


def export_model_command(options: argparse.Namespace) -> int:
    from tune_swa.cli.terminal import NamesConsole
    from tune_swa.execution.plugin_checks import check_names
    from tune_swa.experiment.state import ExperimentState
    from tune_swa.results.provenance import require_header, restore_experiment
    from tune_swa.results.report.images import find_images

    _check_options(options)
    load_plugins(options.plugin)
    check_names()
    folder, output = options.folder, options.output or options.folder / _name_folder(options)
    state = ExperimentState.read(journal_of(folder))
    experiment = restore_experiment(state)
    changed = find_changed(require_header(state).get("plugins", {}))
    if changed is not None:
        raise RequestError(f"--plugin {changed.name}: {changed.file} has changed since then. Restore it")
    if options.merged:
        _check_merged(options.merged, folder, experiment, state)
    if not options.output:
        refuse_strange_files(folder)
    console = NamesConsole(highlight=False)
    with console.status("loading torch"):
        from tune_swa.training.model_export import export_model
    data, why = find_images(experiment, options.data_dir, state)
    with console.status("loading weights"):
        chosen = _load_model(options, experiment, state, data, why)
    formats, left_out = _choose_formats(options.format, chosen)
    try:
        output.mkdir(parents=True, exist_ok=True)
        report = export_model(
            chosen.model,
            chosen.about,
            chosen.settings.train,
            formats,
            output,
            data,
            chosen.posterior,
        )
    except OSError as error:
        raise RequestError(f"{output}: cannot be written to ({error.strerror or error})") from None
    say = partial(console.print, markup=False, soft_wrap=True)
    _print_report(say, chosen, report, output, why)
    if left_out:
        say(f"No file for torch.export: {left_out}")
    return 0


def _choose_formats(given: Sequence[str], chosen: RequestedModel) -> tuple[tuple[str, ...], str | None]:
    """Return the formats to write, and why not all of them: torch.export need not bear a plugin's code.

    Raises:
        RequestError: it does not, and was asked for.
    """
    from tune_swa.training.export_formats import explain_untraceable

    formats, arch = tuple(dict.fromkeys(given)) or MODEL_FORMATS, chosen.about["arch"]
    if PROGRAM not in formats or require_model(arch) is None:
        return formats, None
    why = explain_untraceable(chosen.model, chosen.about["preprocessing"]["image_size"])
    if why is None:
        return formats, None
    why = f"it cannot write {arch} ({why})"
    if given:
        raise RequestError(f"--format {PROGRAM}: {why}. Leave that format out")
    return tuple(name for name in formats if name != PROGRAM), why


def _check_options(options: argparse.Namespace) -> None:
    """Refuse options of other exports than the one that is asked for.

    Raises:
        RequestError: naming the option that is missing.
    """
    for name, of in (("trial", "average"), ("arm", "ensemble"), ("group", "ensemble")):
        given = getattr(options, name)
        if given is not None and getattr(options, of) is None:
            raise RequestError(f"--{name} {given}: is only for --{of}, which is not given. Add it")


def _name_folder(options: argparse.Namespace) -> str:
    """Name the folder inside the experiment's that an export goes to."""
    which = options.average or options.ensemble
    if which is not None:
        return f"export-{re.sub('[^a-z0-9._]+', '-', which.casefold()).strip('-.')}"
    return f"export-{options.merged}" if options.merged else "export"


def _load_model(
    options: argparse.Namespace,
    experiment: Experiment,
    state: ExperimentState,
    data: Dataset | None,
    why: str,
) -> RequestedModel:
    """Load the model that is asked for.

    Raises:
        RequestError: it is not there, or damaged.
    """
    from tune_swa.training.model_export import load_handed_over

    if options.average is None and options.ensemble is None:
        return _load_handed_over(options.folder, f"best_{options.merged or 'model'}", experiment)
    from tune_swa.execution.average_export import load_average
    from tune_swa.execution.ensemble_export import load_ensemble
    from tune_swa.execution.kept_runs import KeptRuns
    from tune_swa.experiment.folder import choose_storage
    from tune_swa.results.provenance import require_header
    from tune_swa.storage import FolderStore, open_store

    _, best = load_handed_over(options.folder)
    storage = choose_storage(state, options.storage, options.folder)
    store = FolderStore(options.folder) if storage is None else open_store(storage, experiment.name)
    kept = KeptRuns(experiment, require_header(state), store, data, why)
    if options.ensemble is None:
        return load_average(kept, state, options.average, options.trial, best["preprocessing"])
    which = options.ensemble, options.arm, options.group
    return load_ensemble(kept, state, options.folder, *which, best["preprocessing"])


def _load_handed_over(folder: Path, name: str, experiment: Experiment) -> RequestedModel:
    """Load the best model or merge, which the search has written; errors as in `_load_model`."""
    from tune_swa.execution.average_export import RequestedModel
    from tune_swa.experiment.events import DamagedError, params_of
    from tune_swa.training.model_export import load_handed_over

    model, about = load_handed_over(folder, name)
    try:
        params = params_of(about)
        experiment.check_configuration(params, swa=about["kind"] == "swa")
        settings = experiment.run_settings(about["kind"], params)
    except (ValueError, DamagedError):
        raise RequestError(
            f"{folder / name}.json: its params are not those of a {about['kind']} run of this "
            "search. Write it again: the command of the search with --resume"
        ) from None
    return RequestedModel(model, about, settings, _name_model(about))


def _print_report(
    say: Callable[[str], None], chosen: RequestedModel, report: Report, output: Path, why: str
) -> None:
    """Print what was written, and whether it gives what the search recorded.

    Args:
        say: prints a line.
        chosen: what was exported.
        report: of its files.
        output: where they are.
        why: why there were no images to compare with.
    """
    from tune_swa.training.model_export import POSTERIOR
    from tune_swa.training.plugin_networks import list_plugin_files

    say(f"{chosen.title}, each file read again:")
    for outcome in report.outcomes:
        found = ", ".join(f"{part} {100 * value:.2f} %" for part, value in outcome.accuracy.items())
        say(f"  {outcome.path}  {format_bytes(outcome.size)}  {found}")
    if chosen.posterior is not None:
        size = format_bytes((output / POSTERIOR).stat().st_size)
        say(f"  {output / POSTERIOR}  {size}  what the members were drawn from")
    files = [("model.json", "what images it takes"), ("classify.py", "an example that uses it")]
    for name in list_plugin_files(chosen.about["arch"]):
        files.append((name, "builds the network, with tune_swa; a file of torch.export needs neither"))
    for file, what in files:
        say(f"  {output / file}  {what}")
    recorded = ", ".join(f"{part} {100 * value:.2f} %" for part, value in report.recorded.items())
    if why:
        say(f"The accuracy (recorded: {recorded}) was not compared: {why}")
    elif report.differences:
        other = "; ".join(report.differences)
        say(f"Recorded: {recorded}. Single images may differ, as this machine does: {other}.")
    else:
        say("That is the recorded accuracy.")


def _check_merged(method: str, folder: Path, experiment: Experiment, state: ExperimentState) -> None:
    """Check that a search has made merges of a method.

    Raises:
        RequestError: it has not, or not yet.
    """
    if not any(merge.method == method for merge in experiment.merge):
        raise RequestError(
            f"{folder}: its search has no {method} in its section merge. A new search whose space file asks "
            f"for it makes one; without --{method} the best model is exported"
        )
    if not any(merge.rpartition(" ")[2] == method for merge in (m.merge for m in state.merges.values())):
        needs = {
            "soup": "two completed trials of one trunk or more",
            "swap": "two completed members of a configuration or more",
        }
        raise RequestError(
            f"{folder}: there is no {method} yet. It is made of {needs[method]} when the search has ended: "
            "let it end (--resume)"
        )


def _name_model(about: Mapping[str, Any]) -> str:
    """Name a model by its configuration and trial, or by what it is the mean of."""
    if "recipe" in about:
        return f"{about['merge']} of {', '.join(about['recipe'])}"
    return f"{about['configuration']} ({about['trial']})"
