"""The commands. torch and ray are imported only by those that need them."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tune_swa import __version__, supervisor
from tune_swa.errors import Interrupted, RequestError, SearchFailed, TuneSwaError

if TYPE_CHECKING:
    from rich.console import Console

    from tune_swa.spec import Experiment


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
    add("--dry-run", action="store_true", help="print the plan; train nothing")
    add("--quiet", action="store_true", help="print nothing but the result and errors")


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


def _search(options: argparse.Namespace) -> int:
    from rich.console import Console

    experiment = load_experiment(options)
    options.journal = Path(options.results_dir) / experiment.name / "journal.jsonl"
    console = Console(highlight=False)
    if options.dry_run:
        from tune_swa.search.plan import make_plan, print_plan
        from tune_swa.search.ray_session import some_machine

        with some_machine(options.address) as machine:
            plan = make_plan(
                experiment, options.data_dir, machine=machine, gpus=options.gpus, cpus=options.cpus
            )
        print_plan(console, plan)
        return 0
    if options.supervised:
        ended = supervisor.split()
        if ended is not None:
            return _end_of_child(ended, options)
    supervisor.interrupt_once()  # until the search has handlers of its own
    with nullcontext() if options.quiet else console.status("loading torch and Ray"):
        from tune_swa.results.comparison import best_trial
        from tune_swa.results.export import export, write_space
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
        console=console,
    )
    outcome = search(request, export, write_space, best_trial)
    _print_result(console, outcome.folder)
    return 0


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

    state = ExperimentState.read(folder / "journal.jsonl")
    console.print(comparison_table(state))
    console.print(summary_text(state), markup=False)
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    console.print(f"\nFiles in {shown}/", markup=False)
    for name, what in (
        ("trials.parquet", "one row per trial"),
        ("epochs.parquet", "one row per trial and epoch"),
        ("comparison.parquet", "every configuration against the baseline"),
        ("best_model.pt", "weights of the best configuration, for torchvision.models.resnet18"),
        ("best_model.json", "what one needs to know to use them"),
        ("space.yaml", "the space as it was searched"),
        ("journal.jsonl", "everything that happened, a line each"),
        ("search.log", "images skipped or converted, and what went wrong on the way"),
    ):
        if (folder / name).exists():
            console.print(f"  {name:<20} {what}", markup=False, soft_wrap=True)


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
    if "--resume" not in words:
        words.append("--resume")
    return shlex.join(words)


def _program(options: argparse.Namespace) -> list[str]:
    if options.program == "run_search.py":
        return ["python", "run_search.py"]
    return [options.program, options.given[0]]


if __name__ == "__main__":
    sys.exit(main())
