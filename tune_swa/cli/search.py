"""What do `search` and `confirm` do?"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from tune_swa import signals
from tune_swa.cli import supervisor
from tune_swa.cli.images import images_of, pictures_of, thumbnails_of
from tune_swa.cli.messages import end_of_child, print_result
from tune_swa.errors import RequestError

if TYPE_CHECKING:
    from tune_swa.config import Experiment
    from tune_swa.experiment.state import ExperimentState
    from tune_swa.experiment.updates import Log


def search_command(options: argparse.Namespace) -> int:
    return _run_experiment(options, load_experiment(options))


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
    keys = {"--seeds": ("confirm.seeds", options.seeds), "--top": ("confirm.top", options.top)}
    given = {f"{o} {value}": f"{key}={value}" for o, (key, value) in keys.items() if value is not None}
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
    return _run_experiment(options, experiment)


def load_experiment(options: argparse.Namespace) -> Experiment:
    """The space file with the overrides of the command line."""
    from tune_swa.config import yaml_file

    keys = {
        "--name": ("name", options.name),
        "--trials": ("search.trials", options.trials),
        "--seed": ("search.seed", options.seed),
        "--gpus-per-trial": ("resources.gpus_per_trial", options.gpus_per_trial),
    }
    given = {
        f"{option} {value}": f"{key}={json.dumps(value) if option == '--name' else value}"
        for option, (key, value) in keys.items()
        if value is not None
    }
    return yaml_file.load_experiment(options.space, options.set, given)


def _run_experiment(options: argparse.Namespace, experiment: Experiment) -> int:
    from rich.console import Console
    from rich.status import Status

    options.journal = Path(options.results_dir) / experiment.name / "journal.jsonl"
    console = Console(highlight=False)
    if options.dry_run:
        from tune_swa.execution.dry_run import make_plan, print_plan
        from tune_swa.execution.gpu_share import measure_trial
        from tune_swa.execution.session import some_machine
        from tune_swa.execution.site import Measure, survey_cluster

        waiting = nullcontext() if options.quiet else console.status("looking at the machine")
        with waiting, some_machine(options.address, options.gpus) as machine:
            measure: Measure = measure_trial
            if machine.nodes:
                machine, _, measure = survey_cluster(machine, options.gpus, console.print)
            if isinstance(waiting, Status) and machine.gpus:
                waiting.update("trying out what a trial takes of a GPU")
            plan = make_plan(
                experiment,
                options.data_dir,
                machine=machine,
                gpus=options.gpus,
                cpus=options.cpus,
                confirm=not options.no_confirm,
                measure=measure,
            )
        print_plan(console, plan)
        if not options.no_confirm:
            from tune_swa.results.outlook import describe_outlook

            images = None if isinstance(plan.images, str) else plan.images.test
            console.print(describe_outlook(experiment, images), markup=False)
        return 0
    _check_installed(options.log)
    if options.supervised:
        ended = supervisor.run_in_child()
        if ended is not None:
            return end_of_child(ended, options)
    tools = dict.fromkeys(name for name in options.log if name != "none")
    signals.interrupt_once()  # until the search has handlers of its own
    with nullcontext() if options.quiet else console.status("loading torch and Ray"):
        from tune_swa.execution.request import Request
        from tune_swa.execution.run import search
        from tune_swa.results.comparison import best_trial
        from tune_swa.results.export import write_space
        from tune_swa.tracking.optuna_log import StudyFile
        from tune_swa.tracking.tensorboard import EventFiles
        from tune_swa.tracking.trackers import TrackerThread

    request = Request(
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
        console=console,
    )

    def write_page(state: ExperimentState, folder: Path) -> None:
        from tune_swa.results.report.page import write_report

        try:
            data, _ = images_of(experiment, request.images_dir, state)
            thumbnails = thumbnails_of(experiment, request.images_dir, data)
        except RequestError:  # they have changed meanwhile
            data, thumbnails = None, None
        write_report(state, folder, thumbnails, picture=pictures_of(data))

    def prepare_logs() -> None:
        for tracker in trackers:
            tracker.connect()

    trackers = [TrackerThread(name, experiment, request.folder) for name in tools]
    files: list[Log] = [StudyFile()] if "none" in options.log else [StudyFile(), EventFiles()]
    patience = 2.0  # a search that was asked to stop has to
    try:
        outcome = search(
            request,
            write_space,
            best_trial,
            prepare_logs,
            write_report=write_page,
            logs=[*files, *trackers],
        )
        patience = 60.0
    finally:
        for tracker in trackers:
            tracker.close(patience)
    print_result(console, outcome.folder)
    return 0


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
