"""Run `report` and `compare` on finished or running searches."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tune_swa.errors import RequestError
from tune_swa.files import refuse_strange_files
from tune_swa.plugins import load_plugins
from tune_swa.text import escape_controls, quote_name


def compare_command(options: argparse.Namespace) -> int:
    """Print the experiments side by side; what holds none is named and passed over (`results/*`)."""
    from tune_swa.cli.terminal import NamesConsole
    from tune_swa.results.api import NoExperimentError, describe_experiment
    from tune_swa.results.terminal_table import side_by_side_table

    records, missing = [], []
    for path in options.folders:
        try:
            records.append(describe_experiment(path))
        except NoExperimentError as error:
            missing.append((path, error))
    if not records:
        raise missing[0][1]
    for path, reason in missing:
        print(f"note: {quote_name(path)}: {reason.why}, passed over", file=sys.stderr)
    NamesConsole(highlight=False).print(side_by_side_table(records))
    return 0


def report_command(options: argparse.Namespace) -> int:
    from tune_swa.experiment.state import ExperimentState
    from tune_swa.results.provenance import restore_experiment
    from tune_swa.results.report.images import find_images, make_pictures, make_thumbnails
    from tune_swa.results.report.page import write_report

    load_plugins(options.plugin)
    state = ExperimentState.read(journal_of(options.folder))
    refuse_strange_files(options.folder)
    experiment = restore_experiment(state)
    data, why = find_images(experiment, options.data_dir, state)
    if why and state.confirmations:
        print(f"note: images are named but not shown: {escape_controls(why)}", file=sys.stderr)
    try:
        thumbnails = make_thumbnails(experiment, options.data_dir, data)
        path = write_report(state, options.folder, thumbnails, picture=make_pictures(data), exclusive=False)
    except OSError as error:
        raise RequestError(f"{options.folder}: cannot be written to ({error.strerror or error})") from None
    print(quote_name(str(path)))
    return 0


def journal_of(folder: Path) -> Path:
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
