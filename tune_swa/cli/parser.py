"""Define the commands and their options."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from tune_swa import __version__
from tune_swa.cli.export import MODEL_FORMATS, export_model_command
from tune_swa.cli.machine import doctor_command, schema_command
from tune_swa.cli.plugin_options import add_plugin_option
from tune_swa.cli.results import compare_command, report_command
from tune_swa.cli.search import confirm_command, search_command
from tune_swa.cli.spaces import init_command
from tune_swa.errors import RequestError
from tune_swa.files import expand_home
from tune_swa.text import quote_name

PATHS = {
    "space": "--space",
    "results_dir": "--results-dir",
    "data_dir": "--data-dir",
    "output": "--output",
    "folder": "RESULTS_DIR/NAME",
}
"""Options that are paths, with the names that messages give them."""
TRACKERS = ("mlflow", "wandb", "none")
"""What `--log` names."""


def expand_paths(options: argparse.Namespace) -> None:
    """Make the paths of a command line `Path`s; shells leave the `~` of `--results-dir=~/res` as it is.

    Raises:
        RequestError: there is no such user.
    """
    for name, given_by in PATHS.items():
        text = getattr(options, name, None)
        if text is not None:
            setattr(options, name, expand_home(text, given_by))
    if "folders" in options:
        folders = (
            folder if "://" in folder else expand_home(folder, PATHS["folder"]) for folder in options.folders
        )
        options.folders = [str(folder) for folder in folders]


class _Parser(argparse.ArgumentParser):
    """Reports a usage error as all other errors are reported."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {quote_name(message)}. See {self.prog} --help", file=sys.stderr)
        sys.exit(RequestError.exit_code)


def build_parser(program: str) -> argparse.ArgumentParser:
    """Build the parser of all commands; `program` is the name that usage lines show."""
    parser = _Parser(
        prog="tune-swa" if program == "run_search.py" else program,
        description="Search when stochastic weight averaging should start, its rate, and the base rate.",
    )
    parser.add_argument("--version", action="version", version=f"tune-swa {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_training_commands(commands, program)
    _add_reading_commands(commands)
    _add_machine_commands(commands)
    return parser


def _add_training_commands(commands: argparse._SubParsersAction[_Parser], program: str) -> None:
    """Add the commands that train: search and confirm."""
    search = commands.add_parser(
        "search",
        help="search the space that a file describes",
        description="Search the space that a file describes, and compare every configuration with the "
        "baseline. The results go to RESULTS_DIR/NAME.",
    )
    if program == "run_search.py":
        search.prog = program
    _add_search_options(search)
    search.set_defaults(command=search_command, takes_resume=True)
    confirm = commands.add_parser(
        "confirm",
        help="run the finalists of a search on fresh seeds, or on more of them",
        description="Run the finalists of a search on fresh seeds, and test whether SWA is better there. "
        "More seeds than were planned are a further look at the test images: the level is halved for it.",
    )
    _add_confirm_options(confirm)
    confirm.set_defaults(command=confirm_command)


def _add_reading_commands(commands: argparse._SubParsersAction[_Parser]) -> None:
    """Add the commands that read what a search left: compare, report and export-model."""
    compare = commands.add_parser(
        "compare",
        help="put experiments side by side",
        description="The best configurations of several experiments, and their results on fresh seeds.",
    )
    compare.add_argument(
        "folders",
        nargs="+",
        metavar="RESULTS_DIR/NAME",
        help="experiments' folders, or URI/NAME of --storage",
    )
    compare.set_defaults(command=compare_command)
    report = commands.add_parser(
        "report",
        help="write the report of a search again",
        description="Write report.html of a search that has finished, is running, or was killed.",
    )
    report.add_argument("folder", metavar="RESULTS_DIR/NAME", help="the experiment's folder")
    report.add_argument("--data-dir", metavar="DIR", help="where the images are, to show some")
    add_plugin_option(report, "registers the images")
    report.set_defaults(command=report_command)
    export = commands.add_parser(
        "export-model",
        help="write the best model in other formats",
        description="Write the best model in other formats, with model.json, which describes the images it "
        "takes, and classify.py, which uses it. Each file is read again and compared with the accuracy that "
        "the search recorded.",
    )
    _add_export_options(export)
    export.set_defaults(command=export_model_command)


def _add_machine_commands(commands: argparse._SubParsersAction[_Parser]) -> None:
    """Add the commands that need no experiment: doctor, schema and init."""
    doctor = commands.add_parser(
        "doctor",
        help="look at this machine: what it can do, and what would stop a search",
        description="Look at this machine before a search of days: packages, GPUs, cores, memory, disks, "
        "image cache and Ray. Each line is ok, a note, or a problem with what to do. Nothing is changed. "
        "Exit code: 0 without a problem, 1 with one.",
    )
    _add_doctor_options(doctor)
    doctor.set_defaults(command=doctor_command)
    schema = commands.add_parser(
        "schema",
        help="print the JSON schema of space files",
        description="Print the JSON schema of space files, by which editors complete and check them.",
    )
    schema.set_defaults(command=schema_command)
    init = commands.add_parser(
        "init",
        help="print a shipped space, to start a space file of one's own",
        description="Print a space that comes with tune_swa, with its comments: `tune-swa init swa_grid > "
        "mine.yaml` starts a space file of one's own. Without a name: list the shipped spaces.",
    )
    init.add_argument("shipped", nargs="?", metavar="NAME", help="a shipped space; default: list them")
    init.set_defaults(command=init_command)


def _add_search_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--space",
        required=True,
        metavar="FILE",
        help="the space file (YAML), or the name of a shipped one (`tune-swa init` lists them)",
    )
    add("--gpus", type=int, metavar="N", help="GPUs to use; default: all there are; 0: run on the CPU")
    add(
        "--gpus-per-trial",
        metavar="F",
        help="fraction of a GPU that one trial gets; default: auto, as measured",
    )
    add("--cpus", type=int, metavar="N", help="CPU cores to use; default: all; 1: one trial at a time")
    add("--name", help="name of the experiment; default: the space file's")
    add("--results-dir", default="results", metavar="DIR", help="where results go; default: results")
    add("--data-dir", metavar="DIR", help="where the images are, or are downloaded to")
    add("--trials", metavar="N", help="number of SWA trials")
    add("--seed", metavar="N", help="seed of the sampler and of the training")
    add(
        "--epochs",
        type=int,
        metavar="N",
        help="shorten or lengthen the space to runs of N epochs: all that counts epochs goes in proportion, "
        "and its name becomes NAME-N-epochs",
    )
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
    add_plugin_option(parser, "registers networks, images or augmentations")
    _add_log_option(parser)
    add("--no-confirm", action="store_true", help="end with the search; run no fresh seeds")
    one_of = parser.add_mutually_exclusive_group()
    one_of.add_argument("--dry-run", action="store_true", help="print the plan; train nothing")
    one_of.add_argument(
        "--smoke",
        action="store_true",
        help="rehearse the whole search with a few images in a minute or two, and forecast what it takes",
    )
    add("--quiet", action="store_true", help="print nothing but the result and errors")


def _add_confirm_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", metavar="RESULTS_DIR/NAME", help="the experiment's folder")
    add("--seeds", metavar="N", help="fresh seeds in all; default: as in its space file")
    add("--top", metavar="N", help="number of finalists; default: as in its space file")
    add(
        "--merges",
        action="store_true",
        help="follow the recipes of the best merges on the fresh seeds, too; default: as in its space file",
    )
    add("--gpus", type=int, metavar="N", help="as in `tune-swa search`, like all that follow")
    add("--cpus", type=int, metavar="N")
    add("--data-dir", metavar="DIR")
    add("--address", metavar="ADDR")
    add("--storage", metavar="URI")
    add_plugin_option(parser, "the search began with")
    _add_log_option(parser)
    add("--quiet", action="store_true")


def _add_log_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log",
        action="append",
        default=[],
        choices=TRACKERS,
        help="tell MLflow or Weights & Biases of every trial, too (their own environment variables say where "
        "and how); none: write no files for TensorBoard; can be repeated",
    )


def _add_export_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", metavar="RESULTS_DIR/NAME", help="the experiment's folder")
    add(
        "--format",
        action="append",
        default=[],
        choices=MODEL_FORMATS,
        help="can be repeated; default: all of them",
    )
    add("--output", metavar="DIR", help="where the files go; default: RESULTS_DIR/NAME/export")
    other = parser.add_mutually_exclusive_group()
    for method, what in (("soup", "soup"), ("swap", "mean of SWAP's members")):
        other.add_argument(
            f"--{method}",
            dest="merged",
            action="store_const",
            const=method,
            help=f"the best {what} instead; default folder: export-{method}",
        )
    other.add_argument(
        "--average",
        metavar="LABEL",
        help="an average of one run instead, as averages.parquet names it (swag-20, subspace-5); of one that "
        "draws its members all of them, and what they were drawn from; default folder: export-LABEL",
    )
    other.add_argument(
        "--ensemble",
        metavar="METHOD",
        help="an ensemble of runs on fresh seeds instead, as ensembles.parquet names it (MultiSWA, 'deep "
        "ensemble'); default folder: export-METHOD",
    )
    add("--trial", metavar="NAME", help="the run of --average; default: the best model's")
    add(
        "--arm",
        metavar="NAME",
        help="the arm of --ensemble; default: the first finalist, or the best baseline",
    )
    add("--group", type=int, metavar="N", help="the group of --ensemble; default: the first one")
    add("--storage", metavar="URI", help="where the checkpoints are, if the search was given that")
    add("--data-dir", metavar="DIR", help="where the images are, to compare the accuracy")
    add_plugin_option(parser, "the search began with")


def _add_doctor_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--data-dir", metavar="DIR", help="look at the images there, too")
    add("--results-dir", default="results", metavar="DIR", help="default: results")
    add("--storage", metavar="URI", help="try a folder or URI for the checkpoints, too")
    add("--address", metavar="ADDR", help="try to join a running Ray cluster, too (`auto`: this machine's)")
    add("--ray", action="store_true", help="start a Ray as a search would, too; takes some seconds")
