"""The commands. torch and ray are imported only by those that need them."""

from __future__ import annotations

import argparse
import importlib.util
import json
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tune_swa import __version__, supervisor
from tune_swa.errors import Interrupted, RequestError, SearchFailed, TuneSwaError

if TYPE_CHECKING:
    from rich.console import Console

    from tune_swa.data.dataset import Dataset
    from tune_swa.journal import ExperimentState
    from tune_swa.news import Log
    from tune_swa.results.report import Thumbnail
    from tune_swa.spec import Experiment


MODEL_FORMATS = ("state_dict", "safetensors", "torch.export")
"""Those of `tune_swa.training.export`, which imports torch."""


def main(arguments: Sequence[str] | None = None, program: str = "tune-swa") -> int:
    """Run a command and return its exit code: 0 done, 1 no result, 2 wrong request, 130 interrupted.

    Args:
        arguments: default: those of the process, which then runs its search under a supervisor.
        program: what the command line calls itself.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    return _run(given, program, supervised=arguments is None)


def _run(given: list[str], program: str, *, supervised: bool) -> int:
    code = _run_command(given, program, supervised=supervised)
    supervisor.leave(code)
    return code


def _run_command(given: list[str], program: str, *, supervised: bool) -> int:
    options = build_parser(program).parse_args(given)
    command: Callable[[argparse.Namespace], int] = options.command
    options.given = given
    options.program = program
    options.supervised = supervised
    try:
        return command(options)
    except Interrupted:
        print(f"Interrupted. {how_to_go_on(options)}", file=sys.stderr)
        return Interrupted.exit_code
    except TuneSwaError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:  # before a trial was started
        print(f"Interrupted. {how_to_go_on(options)}", file=sys.stderr)
        return Interrupted.exit_code
    except BrokenPipeError:  # the reader of our output has gone (`| head`)
        sys.stderr.close()
        return 1
    finally:
        supervisor.last_word()


def run_search(arguments: Sequence[str] | None = None) -> int:
    """What `run_search.py` runs: `tune-swa search` under its own name."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return _run(["search", *given], "run_search.py", supervised=arguments is None)


class _Parser(argparse.ArgumentParser):
    """Answers a usage error in the form of all other errors."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}. See {self.prog} --help", file=sys.stderr)
        sys.exit(RequestError.exit_code)


def build_parser(program: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="tune-swa" if program == "run_search.py" else program,
        description="Search when stochastic weight averaging should start, its rate, and the base rate.",
    )
    parser.add_argument("--version", action="version", version=f"tune-swa {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    search = commands.add_parser(
        "search",
        help="search the space that a file describes",
        description="Search the space that a file describes, and compare every configuration with the "
        "baseline. The results go to RESULTS_DIR/NAME.",
    )
    if program == "run_search.py":
        search.prog = program
    _add_search_options(search)
    search.set_defaults(command=_search)
    confirm = commands.add_parser(
        "confirm",
        help="run the finalists of a search on fresh seeds, or on more of them",
        description="Run the finalists of a search on fresh seeds, and say whether SWA is better there. "
        "More seeds than before are a further look at the test images: the level is halved for it.",
    )
    _add_confirm_options(confirm)
    confirm.set_defaults(command=_confirm)
    compare = commands.add_parser(
        "compare",
        help="put experiments side by side",
        description="The best configurations of several experiments, and what their fresh seeds say.",
    )
    compare.add_argument(
        "folders",
        nargs="+",
        metavar="RESULTS_DIR/NAME",
        help="experiments' folders, or URI/NAME of --storage",
    )
    compare.set_defaults(command=_compare)
    report = commands.add_parser(
        "report",
        help="write the report of a search again",
        description="Write report.html of a search that has finished, is running, or was killed.",
    )
    report.add_argument("folder", type=Path, metavar="RESULTS_DIR/NAME", help="the experiment's folder")
    report.add_argument("--data-dir", type=Path, metavar="DIR", help="where the images are, to show some")
    report.set_defaults(command=_report)
    export = commands.add_parser(
        "export-model",
        help="write the best model in other formats",
        description="Write the model that a search hands over in other formats, with model.json, which says "
        "what images it takes, and classify.py, which uses it. Each file is read again and compared with the "
        "accuracy that the search recorded.",
    )
    _add_export_options(export)
    export.set_defaults(command=_export_model)
    doctor = commands.add_parser(
        "doctor",
        help="look at this machine: what it can do, and what would stop a search",
        description="Look at this machine before a search of days: packages, GPUs, cores, memory, disks, "
        "network, image cache, Ray, and the searches in the results folder. Each line is ok, a note, or a "
        "problem with what to do. Nothing is changed; the network is asked whether weights and sets of "
        "images can be downloaded. Exit code: 0 without a problem, 1 with one.",
    )
    _add_doctor_options(doctor)
    doctor.set_defaults(command=_doctor)
    schema = commands.add_parser(
        "schema",
        help="print the JSON schema of space files",
        description="Print the JSON schema of space files, by which editors complete and check them.",
    )
    schema.set_defaults(command=_schema)
    return parser


def _add_search_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--space", required=True, metavar="FILE", help="the space file (YAML)")
    add("--gpus", type=int, metavar="N", help="GPUs to use; default: all there are; 0: run on the CPU")
    add("--gpus-per-trial", metavar="F", help="fraction of a GPU that one trial gets")
    add("--cpus", type=int, metavar="N", help="CPU cores to use; default: all; 1: one trial at a time")
    add("--name", help="name of the experiment; default: the space file's")
    add("--results-dir", default="results", metavar="DIR", help="where results go; default: results")
    add("--data-dir", type=Path, metavar="DIR", help="where the images are, or are downloaded to")
    add("--trials", metavar="N", help="number of SWA trials")
    add("--seed", metavar="N", help="seed of the sampler and of the training")
    add("--resume", action="store_true", help="go on with the experiment of this name")
    add("--address", metavar="ADDR", help="a running Ray cluster (`auto`: this machine's)")
    add(
        "--storage",
        metavar="URI",
        help="folder or URI that all machines of a cluster share, for checkpoints and copies of the results",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override any setting by its dotted path; the value is YAML; can be repeated",
    )
    _add_log_option(parser)
    add("--no-confirm", action="store_true", help="end with the search; run no fresh seeds")
    add("--dry-run", action="store_true", help="print the plan; train nothing")
    add("--quiet", action="store_true", help="print nothing but the result and errors")


def _add_confirm_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", type=Path, metavar="RESULTS_DIR/NAME", help="the experiment's folder")
    add("--seeds", metavar="N", help="fresh seeds in all; default: as in its space file")
    add("--top", metavar="N", help="number of finalists; default: as in its space file")
    add("--gpus", type=int, metavar="N", help="as in `tune-swa search`, like all that follow")
    add("--cpus", type=int, metavar="N")
    add("--data-dir", type=Path, metavar="DIR")
    add("--address", metavar="ADDR")
    add("--storage", metavar="URI")
    _add_log_option(parser)
    add("--quiet", action="store_true")


def _add_log_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log",
        action="append",
        default=[],
        choices=("mlflow", "wandb", "none"),
        help="tell MLflow or Weights & Biases of every trial, too (their own environment variables say where "
        "and how); none: write no files for TensorBoard; can be repeated",
    )


def _add_export_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", type=Path, metavar="RESULTS_DIR/NAME", help="the experiment's folder")
    add(
        "--format",
        action="append",
        default=[],
        choices=MODEL_FORMATS,
        help="can be repeated; default: all of them",
    )
    add("--output", type=Path, metavar="DIR", help="where the files go; default: RESULTS_DIR/NAME/export")
    add("--data-dir", type=Path, metavar="DIR", help="where the images are, to compare the accuracy")


def _add_doctor_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--data-dir", type=Path, metavar="DIR", help="look at the images there, too")
    add("--results-dir", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    add("--storage", metavar="URI", help="try a folder or URI for the checkpoints, too")
    add("--address", metavar="ADDR", help="try to join a running Ray cluster, too (`auto`: this machine's)")
    add("--ray", action="store_true", help="start a Ray as a search would, too; takes some seconds")


def load_experiment(options: argparse.Namespace) -> Experiment:
    """The space file with the overrides of the command line."""
    from tune_swa import spacefile

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
    return spacefile.load(options.space, options.set, given)


def _confirm(options: argparse.Namespace) -> int:
    """Go on with an experiment: what is left of its search, if anything is, and fresh seeds."""
    from tune_swa import spacefile

    folder: Path = options.folder
    space = folder / "space.yaml"
    if not (folder / "journal.jsonl").is_file() or not space.is_file():
        raise RequestError(
            f"{folder}: no experiment (looked for journal.jsonl and space.yaml). Give the folder of a "
            "search, such as results/NAME"
        )
    keys = {"--seeds": ("confirm.seeds", options.seeds), "--top": ("confirm.top", options.top)}
    given = {f"{o} {value}": f"{key}={value}" for o, (key, value) in keys.items() if value is not None}
    experiment = spacefile.load(space, [], given)
    if experiment.name != folder.resolve().name:
        raise RequestError(
            f"{folder}: its space.yaml is of an experiment named {experiment.name}. Give the folder its name "
            "back"
        )
    options.results_dir = folder.resolve().parent
    options.resume, options.no_confirm, options.dry_run = True, False, False
    return _run_experiment(options, experiment)


def _search(options: argparse.Namespace) -> int:
    return _run_experiment(options, load_experiment(options))


def _run_experiment(options: argparse.Namespace, experiment: Experiment) -> int:
    from rich.console import Console

    options.journal = Path(options.results_dir) / experiment.name / "journal.jsonl"
    console = Console(highlight=False)
    if options.dry_run:
        from tune_swa.search.plan import make_plan, print_plan
        from tune_swa.search.ray_session import some_machine

        with some_machine(options.address) as machine:
            plan = make_plan(
                experiment,
                options.data_dir,
                machine=machine,
                gpus=options.gpus,
                cpus=options.cpus,
                confirm=not options.no_confirm,
            )
        print_plan(console, plan)
        if not options.no_confirm:
            from tune_swa.results.verdict import outlook

            console.print(outlook(experiment), markup=False)
        return 0
    _check_installed(options.log)
    if options.supervised:
        ended = supervisor.split()
        if ended is not None:
            return _end_of_child(ended, options)
    tools = dict.fromkeys(name for name in options.log if name != "none")
    supervisor.interrupt_once()  # until the search has handlers of its own
    with nullcontext() if options.quiet else console.status("loading torch and Ray"):
        from tune_swa.results.comparison import best_trial
        from tune_swa.results.export import write_space
        from tune_swa.results.pages import Writer
        from tune_swa.results.study import StudyFile
        from tune_swa.results.tensorboard import EventFiles
        from tune_swa.search.neighbours import Courier
        from tune_swa.search.runner import Request, search

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
        from tune_swa.results.report import write_report

        try:
            data, _ = _images_of(experiment, request.images_dir, state)
            thumbnails = _thumbnails(experiment, request.images_dir, data)
        except RequestError:  # they have changed meanwhile
            thumbnails = None
        write_report(state, folder, thumbnails)

    def prepare_logs() -> None:
        for courier in couriers:
            courier.prepare()

    couriers = [Courier(name, experiment, request.folder) for name in tools]
    files: list[Log] = [StudyFile()] if "none" in options.log else [StudyFile(), EventFiles()]
    patience = 2.0  # a search that was asked to stop has to
    try:
        outcome = search(
            request,
            Writer(write_page, logs=[*files, *couriers]),
            write_space,
            best_trial,
            prepare_logs,
        )
        patience = 60.0
    finally:
        for courier in couriers:
            courier.close(patience)
    _print_result(console, outcome.folder)
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


def _end_of_child(ended: supervisor.Ended, options: argparse.Namespace) -> int:
    """Say what the search's process could not say any more, and give the exit code."""
    if ended.spoke:
        return ended.code
    if ended.asked:
        what, code = "Interrupted.", Interrupted.exit_code
    elif ended.code == -signal.SIGKILL:
        what = "error: the search's process was killed from outside, by the system if memory was short."
        code = SearchFailed.exit_code
    elif ended.code < 0:
        what = f"error: the search's process crashed ({signal.strsignal(-ended.code)})."
        code = SearchFailed.exit_code
    else:
        what = "error: Ray's processes have died, and the search with them."
        code = SearchFailed.exit_code
    print(f"{what} What was done is kept. {how_to_go_on(options)}", file=sys.stderr)
    return code


def _print_result(console: Console, folder: Path) -> None:
    from tune_swa.journal import ExperimentState
    from tune_swa.results.render import comparison_table
    from tune_swa.results.summary import summary_text
    from tune_swa.results.verdict import verdict, verdict_text

    state = ExperimentState.read(folder / "journal.jsonl")
    console.print(comparison_table(state))
    console.print(summary_text(state), markup=False)
    found = verdict(state, folder)
    if found is not None:
        console.print()
        console.print(verdict_text(found), markup=False)
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    console.print(f"\nFiles in {shown}/", markup=False)
    for name, what in (
        ("report.html", "all of this on one page: open it in a browser"),
        ("trials.parquet", "one row per trial"),
        ("epochs.parquet", "one row per trial and epoch"),
        ("comparison.parquet", "every configuration against the baseline"),
        ("confirm.parquet", "one row per run on a fresh seed, with what it does on the test images"),
        ("predictions.parquet", "one row per test image and run on a fresh seed"),
        ("optuna.log", "its trials for optuna-dashboard, and for optuna.load_study"),
        ("tensorboard", "every epoch of every trial: tensorboard --logdir"),
        ("best_model.pt", "weights of the best configuration, for torchvision.models.resnet18"),
        ("best_model.json", "what one needs to know to use them"),
        ("space.yaml", "the space as it was searched"),
        ("journal.jsonl", "everything that happened, a line each"),
        ("search.log", "images skipped or converted, and what went wrong on the way"),
    ):
        if (folder / name).exists():
            console.print(f"  {name:<21} {what}", markup=False, soft_wrap=True)


def _compare(options: argparse.Namespace) -> int:
    from rich.console import Console

    from tune_swa.results.analysis import side_by_side
    from tune_swa.results.render import side_by_side_table

    Console(highlight=False).print(side_by_side_table(side_by_side(options.folders)))
    return 0


def _journal_of(folder: Path) -> Path:
    """Raises:
    RequestError: `folder` is not an experiment's.
    """
    journal = folder / "journal.jsonl"
    if not journal.is_file():
        raise RequestError(
            f"{folder}: no experiment (looked for journal.jsonl). Give the folder of a search, such as "
            "results/NAME"
        )
    return journal


def _report(options: argparse.Namespace) -> int:
    from tune_swa.journal import ExperimentState
    from tune_swa.results.provenance import experiment_of
    from tune_swa.results.report import write_report

    state = ExperimentState.read(_journal_of(options.folder))
    experiment = experiment_of(state)
    data, why = _images_of(experiment, options.data_dir, state)
    if why and state.confirmations:
        print(f"note: images are named but not shown: {why}", file=sys.stderr)
    try:
        thumbnails = _thumbnails(experiment, options.data_dir, data)
        path = write_report(state, options.folder, thumbnails, alone=False)
    except OSError as error:
        raise RequestError(f"{options.folder}: cannot be written to ({error.strerror or error})") from None
    print(path)
    return 0


def _export_model(options: argparse.Namespace) -> int:
    from rich.console import Console

    from tune_swa.journal import ExperimentState
    from tune_swa.results.provenance import experiment_of

    folder, output = options.folder, options.output or options.folder / "export"
    state = ExperimentState.read(_journal_of(folder))
    experiment = experiment_of(state)
    console = Console(highlight=False)
    with console.status("loading torch"):
        from tune_swa.training.export import export_model, load_handed_over
    model, about = load_handed_over(folder)
    settings = experiment.swa_settings if about["kind"] == "swa" else experiment.baseline_settings
    data, why = _images_of(experiment, options.data_dir, state)
    try:
        output.mkdir(parents=True, exist_ok=True)
        report = export_model(
            model,
            about,
            settings(about["params"]).train,
            tuple(dict.fromkeys(options.format)) or MODEL_FORMATS,
            output,
            data,
        )
    except OSError as error:
        raise RequestError(f"{output}: cannot be written to ({error.strerror or error})") from None
    say = partial(console.print, markup=False, soft_wrap=True)
    say(f"{about['configuration']} ({about['trial']}), each file read again:")
    for outcome in report.outcomes:
        found = ", ".join(f"{part} {100 * value:.2f} %" for part, value in outcome.accuracy.items())
        say(f"  {outcome.path}  {outcome.size / 1e6:.1f} MB  {found}")
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


def _images_of(
    experiment: Experiment, data_dir: Path | None, state: ExperimentState
) -> tuple[Dataset | None, str]:
    """The images of a search, or why they are not at hand. Nothing is downloaded for this.

    Raises:
        RequestError: those in `data_dir` are others.
    """
    from tune_swa.data.dataset import prepare

    assert state.header is not None
    try:
        data = prepare(experiment.data, data_dir, download=False)
    except RequestError as error:
        if data_dir is not None:
            raise
        return None, str(error)
    if data.fingerprint == state.header["data"]["fingerprint"]:
        return data, ""
    why = "the images there are not those of the search (their fingerprint differs)"
    if data_dir is not None:
        raise RequestError(f"--data-dir {data_dir}: {why}. Name their folder")
    return None, f"{why}. Name their folder with --data-dir"


def _thumbnails(experiment: Experiment, data_dir: Path | None, data: Dataset | None) -> Thumbnail | None:
    """Test images of `data` as small pictures; None where they are not at hand.

    Raises:
        RequestError: they have gone since.
    """
    if data is None:
        return None
    from tune_swa.data.dataset import file_names

    names = file_names(experiment.data, data_dir, data)

    def thumbnail(number: int) -> tuple[bytes, str] | None:
        import io

        from PIL import Image

        if number >= len(data.test):
            return None
        row = int(data.test[number])
        image = Image.fromarray(data.images[row])
        image.thumbnail((96, 96))
        file = io.BytesIO()
        image.save(file, "png")
        return file.getvalue(), names(row) if names else f"test image {number}"

    return thumbnail


def _doctor(options: argparse.Namespace) -> int:
    from tune_swa.doctor.examination import Request, examine
    from tune_swa.doctor.render import show, summary

    request = Request(
        results_dir=options.results_dir,
        data_dir=options.data_dir,
        storage=options.storage,
        address=options.address,
        ray=options.ray,
    )
    findings = show(examine(request))
    print(f"\n{summary(findings)}")
    return SearchFailed.exit_code if any(finding.level == "problem" for finding in findings) else 0


def _schema(options: argparse.Namespace) -> int:
    from tune_swa.spec import Experiment

    print(json.dumps(Experiment.model_json_schema(by_alias=True), indent=2))
    return 0


def how_to_go_on(options: argparse.Namespace) -> str:
    """What to tell someone whose search has stopped: the command is the last line."""
    journal: Path | None = getattr(options, "journal", None)
    if journal is not None and journal.exists():
        return f"Continue with:\n{continue_command(options)}"
    words = [*_program(options), *options.given[1:]]
    return f"Nothing had begun. Start again with:\n{shlex.join(words)}"


def continue_command(options: argparse.Namespace) -> str:
    """The command line that goes on with an interrupted search."""
    words = [*_program(options), *options.given[1:]]
    if "--resume" not in words and options.command is _search:
        words.append("--resume")
    return shlex.join(words)


def _program(options: argparse.Namespace) -> list[str]:
    if options.program == "run_search.py":
        return ["python", "run_search.py"]
    return [options.program, options.given[0]]


if __name__ == "__main__":
    sys.exit(main())
