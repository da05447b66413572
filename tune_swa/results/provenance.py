"""Provenance of the results: settings, seeds, versions, data and hardware."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from pydantic import ValidationError

from tune_swa.config import Experiment
from tune_swa.errors import RequestError
from tune_swa.experiment.events import ExperimentCreated
from tune_swa.experiment.folder import keep_suffixes
from tune_swa.experiment.state import ExperimentState
from tune_swa.plugins import recall_models
from tune_swa.text import escape_controls

PREFIX = "tune_swa."
"""Prefix of every key in the metadata of a parquet file."""


def require_header(state: ExperimentState) -> ExperimentCreated:
    """The `created` event of an experiment, with the settings of its newest session.

    Raises:
        RequestError: the journal does not have one (yet).
    """
    if state.header is None:
        raise RequestError(f"{state.where}: is empty, the experiment has not started yet. Wait until it has")
    return state.header


def restore_experiment(state: ExperimentState) -> Experiment:
    """The experiment as its newest session described it.

    Raises:
        RequestError: the journal is empty, or its description is not one that this version reads.
    """
    header = require_header(state)
    recall_models(header.get("plugins"))
    try:
        return keep_suffixes(Experiment.model_validate(header.spec), header)
    except ValidationError as error:
        raise RequestError(
            f"{state.where}: tune_swa {header.version} described the experiment in a way that this "
            f"version does not read ({error.errors()[0]['msg']}). Use the version that wrote it"
        ) from None


def validation_images(state: ExperimentState) -> int:
    """Number of images behind every accuracy of the search."""
    return int(require_header(state).data["val"])


def build_metadata(state: ExperimentState) -> dict[str, str]:
    """Metadata of a result file: `tune_swa.*` keys, with JSON where the value is more than a word."""
    header = require_header(state)
    experiment = restore_experiment(state)
    data = header.data
    seeds = {
        "training": experiment.seed,
        "sampler": experiment.search.seed,
        "split": experiment.data.split_seed,
    }
    values = {
        "version": header.version,
        "experiment": experiment.name,
        "created": datetime.fromtimestamp(header.time, UTC).isoformat(timespec="seconds"),
        "space": json.dumps(header.spec),
        "seeds": json.dumps(seeds),
        "versions": json.dumps(header.versions),
        "data": json.dumps(data),
        "data_fingerprint": str(data.get("fingerprint")),
        "weights": str(header.weights or None),
        "hardware": json.dumps(header.hardware),
        "numerics": json.dumps(header.numerics),
    }
    if header.get("plugins"):
        values["plugins"] = json.dumps(header.plugins)
    return {PREFIX + key: escape_controls(value) for key, value in values.items()}
