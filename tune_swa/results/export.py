"""Write the result files and the space file, each whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from tune_swa.config import Experiment
from tune_swa.experiment.state import ExperimentState
from tune_swa.files import Writer, replace_file, replace_files
from tune_swa.results.tables import build_tables


def write_tables(state: ExperimentState, folder: Path) -> None:
    """Write trials.parquet, epochs.parquet and comparison.parquet into `folder`, averages.parquet and
    soups.parquet if the space file asks for them, confirm.parquet and predictions.parquet once fresh seeds
    are planned, and ensembles.parquet and merges.parquet if ensembles or merges of their runs are asked for.

    All are complete on the disk before the first one takes its name, so a full disk or a kill
    while writing leaves the old ones as they were.

    Raises:
        RequestError: the journal is empty.
        OSError: the disk refused.
    """
    tables = {stem: t for stem, t in build_tables(state, folder)._asdict().items() if t is not None}
    replace_files({folder / f"{stem}.parquet": _parquet_writer(table) for stem, table in tables.items()})


def write_space(experiment: Experiment, path: Path) -> None:
    """Write an experiment as a space file, every default spelled out, that reads back as the same one.

    Raises:
        OSError: the disk refused.
    """
    spec = experiment.model_dump(mode="json", by_alias=True)
    text = yaml.dump(spec, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    replace_file(path, text.encode())


def _parquet_writer(table: Any) -> Writer:
    return lambda path: pq.write_table(table, path, compression="zstd")


# ------------------------------------------------------------------------------------------ YAML


class _Dumper(yaml.SafeDumper):
    """Writes for the reader of space files, which takes more for a number than PyYAML does (1e5)."""


def _represent_string(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="'" if _is_numeric(value) else None)


def _represent_list(dumper: _Dumper, value: list[Any]) -> yaml.SequenceNode:
    flat = not any(isinstance(item, dict | list) for item in value)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=flat)


def _is_numeric(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


_Dumper.add_representer(str, _represent_string)
_Dumper.add_representer(list, _represent_list)
