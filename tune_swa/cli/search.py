"""Run the commands `search` and `confirm`."""

from __future__ import annotations

import argparse
import importlib.util
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tune_swa import plugins, signals
from tune_swa.cli import supervisor
from tune_swa.cli.messages import explain_child_exit, print_result
from tune_swa.cli.plugin_options import check_recorded_plugins, load_named_plugins, read_name
from tune_swa.cli.smoke import rehearse_request
from tune_swa.errors import RequestError

if TYPE_CHECKING:
    from rich.console import Console

    from tune_swa.config import Experiment
    from tune_swa.execution.request import Request

OWN_OPTIONS = {
    "--name": "name",
    "--trials": "search.trials",
    "--seed": "search.seed",
    "--gpus-per-trial": "resources.gpus_per_trial",
}
"""Options that give a setting of the space file, by its dotted name."""


def search_command(options: argparse.Namespace) -> int:
    plugins.announce_plugins(options.plugin)
    if options.resume and (name := options.name or _read_planned_name(options)):
        check_recorded_plugins(Path(options.results_dir) / name, options.plugin)
    return run_experiment(options, rescale_as_asked(options, load_experiment(options)))


def rescale_as_asked(options: argparse.Namespace, experiment: Experiment) -> Experiment:
    """Return the experiment of `--epochs`, and keep what has changed among the options."""
    options.rescaled = ()
    if options.epochs is None:
        return experiment
    from tune_swa.config.rescaling import rescale_experiment

    found = rescale_experiment(experiment, options.epochs, rename=options.name is None)
    options.rescaled = found.changes
    return found.experiment


def _read_planned_name(options: argparse.Namespace) -> str | None:
    """The name that the experiment of a space file will have; None: the file does not say."""
    from tune_swa.config.rescaling import name_rescaled

    name = read_name(options.space)
    if name is not None and options.epochs is not None:
        rescaled = name_rescaled(name, options.epochs)
        return rescaled if (Path(options.results_dir) / rescaled).exists() else name
    return name


def confirm_command(options: argparse.Namespace) -> int:
    """Go on with an experiment: what is left of its search, if anything is, and fresh seeds."""
    from tune_swa.config import yaml_file

    folder: Path = options.folder
    space = folder / "space.yaml"
    if not (folder / "journal.jsonl").is_file() or not space.is_file():
        raise RequestError(
            f"{folder}: no experiment (looked for journal.jsonl and space.yaml). Give the folder of a "
            "search, such as results/NAME"
        )
    plugins.announce_plugins(options.plugin)
    check_recorded_plugins(folder, options.plugin)
    keys = {"--seeds": ("confirm.seeds", options.seeds), "--top": ("confirm.top", options.top)}
    given = {f"{o} {value}": f"{key}={value}" for o, (key, value) in keys.items() if value is not None}
    if options.merges:
        given["--merges"] = "confirm.merges=true"
    # a plan of looks is the search's; whoever asks for a number of seeds later gets that number
    plain = [] if options.seeds is None else ["confirm.max_seeds=null"]
    experiment = yaml_file.load_experiment(space, plain, given)
    if experiment.name != folder.resolve().name:
        raise RequestError(
            f"{folder}: its space.yaml is of an experiment named {experiment.name}. Give the folder its name "
            "back"
        )
    options.results_dir = folder.resolve().parent
    options.resume, options.no_confirm, options.dry_run = True, False, False
    # its space file may come from elsewhere: it does not choose where something is written
    options.download = experiment.data.path is None or options.data_dir is not None
    return run_experiment(options, experiment)


def load_experiment(options: argparse.Namespace) -> Experiment:
    """The space file with the overrides of the command line, but for `--epochs`."""
    from tune_swa.config import yaml_file

    own = {
        "--name": options.name,
        "--trials": options.trials,
        "--seed": options.seed,
        "--gpus-per-trial": options.gpus_per_trial,
    }
    return yaml_file.load_experiment(options.space, options.set, collect_overrides(own))


def collect_overrides(values: Mapping[str, object]) -> dict[str, str]:
    """Return the settings that options of their own give: the option as written to its KEY=VALUE.

    Args:
        values: of options; None: not given.
    """
    return {
        f"{option} {value}": f"{OWN_OPTIONS[option]}={json.dumps(value) if option == '--name' else value}"
        for option, value in values.items()
        if value is not None
    }


def run_experiment(options: argparse.Namespace, experiment: Experiment) -> int:
    """Run a search, or what is left of one, and print the result; returns the exit code."""
    from tune_swa.cli.terminal import NamesConsole

    require_current_folder()
    smoke = getattr(options, "smoke", False)
    if not smoke:  # which leaves nothing to go on with
        options.journal = Path(options.results_dir) / experiment.name / "journal.jsonl"
    console = NamesConsole(highlight=False)
    _check_installed(options.log)
    if options.no_confirm and experiment.confirm.merges and not options.quiet:
        console.print(_explain_untested(options, experiment), markup=False, soft_wrap=True)
    if options.dry_run:
        load_named_plugins(experiment)
        return _print_plan(_make_request(options, experiment, console))
    if options.supervised:
        child = supervisor.run_in_child()
        if child is not None:
            return explain_child_exit(child, options)
    with signals.keep_handlers():
        signals.interrupt_once()  # until the search has handlers of its own
        load_named_plugins(experiment)
        if smoke:
            return rehearse_request(_make_request(options, experiment, console))
        from tune_swa.execution.run import run_search

        outcome = run_search(_make_request(options, experiment, console))
    print_result(console, outcome.folder)
    return 0


def require_current_folder() -> None:
    """Check that the current folder is there: libraries of torch end a process that has none.

    Raises:
        RequestError: it has been removed.
    """
    try:
        Path.cwd()
    except FileNotFoundError:
        raise RequestError("the current folder has been removed. Change to one that is there (cd)") from None


def _explain_untested(options: argparse.Namespace, experiment: Experiment) -> str:
    folder = Path(options.results_dir) / experiment.name
    return (
        "confirm.merges: with --no-confirm there are no fresh seeds on which merges could be tested. "
        f"`tune-swa confirm {shlex.quote(str(folder))}` runs them later"
    )


def _print_plan(request: Request) -> int:
    from tune_swa.execution.dry_run import plan_request
    from tune_swa.execution.plan_table import print_plan
    from tune_swa.results.outlook import describe_outlook

    plan = plan_request(request)
    print_plan(request.console, plan)
    if request.confirm:
        images = None if isinstance(plan.images, str) else plan.images.test
        request.console.print(describe_outlook(request.experiment, images), markup=False)
    return 0


def _make_request(options: argparse.Namespace, experiment: Experiment, console: Console) -> Request:
    from tune_swa.execution.request import Request

    return Request(
        experiment=experiment,
        results_dir=Path(options.results_dir),
        data_dir=options.data_dir,
        gpus=options.gpus,
        cpus=options.cpus,
        resume=options.resume,
        address=options.address,
        storage=options.storage,
        quiet=options.quiet,
        confirm=not options.no_confirm,
        download=getattr(options, "download", True),
        logs=tuple(options.log),
        rescaled=getattr(options, "rescaled", ()),
        console=console,
    )


def _check_installed(logs: Sequence[str]) -> None:
    """Raises:
    RequestError: a package that `--log` names is missing.
    """
    for name in logs:
        if name != "none" and importlib.util.find_spec(name) is None:
            raise RequestError(
                f"--log {name}: the package {name} is not installed. Install it with "
                f"`pip install 'tune-swa[{name}]'`, or leave --log {name} out"
            )
