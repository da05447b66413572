"""Run `report` and `compare` on finished or running searches."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tune_swa.errors import RequestError
from tune_swa.files import refuse_links


def compare_command(options: argparse.Namespace) -> int:
    from rich.console import Console

    from tune_swa.results.api import side_by_side
    from tune_swa.results.terminal_table import side_by_side_table

    Console(highlight=False).print(side_by_side_table(side_by_side(options.folders)))
    return 0


def report_command(options: argparse.Namespace) -> int:
    from tune_swa.experiment.state import ExperimentState
    from tune_swa.results.provenance import restore_experiment
    from tune_swa.results.report.images import find_images, make_pictures, make_thumbnails
    from tune_swa.results.report.page import write_report

    state = ExperimentState.read(journal_of(options.folder))
    refuse_links(options.folder)
    experiment = restore_experiment(state)
    data, why = find_images(experiment, options.data_dir, state)
    if why and state.confirmations:
        print(f"note: images are named but not shown: {why}", file=sys.stderr)
    try:
        thumbnails = make_thumbnails(experiment, options.data_dir, data)
        path = write_report(state, options.folder, thumbnails, picture=make_pictures(data), exclusive=False)
    except OSError as error:
        raise RequestError(f"{options.folder}: cannot be written to ({error.strerror or error})") from None
    print(path)
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
