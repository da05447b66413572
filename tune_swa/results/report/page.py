"""How does a search look on one page that needs nothing else?

`report.html` holds plotly.js, the figures and their tables, and asks the network for nothing. What
comes from outside (names of classes, files and experiments) is escaped by jinja2, and JSON inside the
page cannot end its script element.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml
from markupsafe import Markup

from tune_swa.experiment.state import ExperimentState
from tune_swa.files import replace_file
from tune_swa.inference.statistics import mcnemar_test
from tune_swa.results.comparison import Comparison, compare_configurations
from tune_swa.results.contrasts import Arm, Contrast, Verdict
from tune_swa.results.importance import compute_importance
from tune_swa.results.predictions import SHIPPED, TestPredictions, read_predictions
from tune_swa.results.provenance import build_metadata, require_header
from tune_swa.results.report import figures, fresh_seed_figures
from tune_swa.results.report.duplicates import Picture, describe_duplicates
from tune_swa.results.report.figures import Figure
from tune_swa.results.summary import close_text, summary_text
from tune_swa.results.verdict import analyse_confirmation
from tune_swa.results.verdict_sentences import verdict_text

NAME = "report.html"
MOST_CHANGED = 24
"""Images shown that changed sides."""

Thumbnail = Callable[[int], "tuple[bytes, str] | None"]
"""PNG and name of a test image by its number; None where it is not at hand."""


@dataclass(frozen=True)
class Changed:
    """An image on which the finalist and the baseline disagree."""

    number: int
    name: str
    label: str
    gained: int
    """Seeds on which only the finalist is right, less those on which only the baseline is."""
    picture: str | None
    """As a data URI."""


def write_report(
    state: ExperimentState,
    folder: Path,
    thumbnail: Thumbnail | None = None,
    *,
    picture: Picture | None = None,
    exclusive: bool = True,
) -> Path:
    """Write `report.html` into `folder`, and return its path.

    Args:
        state: the fold of the journal; the search may still run.
        folder: the experiment's folder.
        thumbnail: shows test images; None: they are listed by number.
        picture: shows images that occur more than once; None: they are named only.
        exclusive: whether this process is the search; else that one may be writing its report meanwhile.

    Raises:
        RequestError: the journal is empty, or the predictions cannot be read.
        OSError: the disk refused.
    """
    path = folder / NAME
    replace_file(path, build_report(state, folder, thumbnail, picture=picture).encode(), exclusive=exclusive)
    return path


def build_report(
    state: ExperimentState,
    folder: Path,
    thumbnail: Thumbnail | None = None,
    *,
    picture: Picture | None = None,
) -> str:
    """The page; arguments and errors as of `write_report`."""
    compared = compare_configurations(state)
    header = require_header(state)
    predictions = {name: models[SHIPPED] for name, models in read_predictions(state, folder).items()}
    found = analyse_confirmation(state, predictions) if state.confirmations else None
    names = [str(name) for name in header["data"]["class_names"]]
    sections = list(_figures(state, compared, found, predictions, names))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tune_swa.results.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["script"] = _script
    lines = verdict_text(found).replace(" %", "\N{NO-BREAK SPACE}%").splitlines() if found else []
    leading = found.leading if found else None
    # the colour is of what is said of SWA; older journals said that of the leading finalist alone
    said_of_swa = found.agreed if found and found.plan is not None else leading and leading.outcome
    return environment.get_template("report.html.j2").render(
        name=compared.experiment.name,
        verdict=lines,
        words=said_of_swa or "",
        summary=summary_text(state).splitlines(),
        running=state.finished is None,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        table=figures.entry_rows(compared, found),
        images=compared.images,
        test_images=found.images if found else None,
        former=found is not None and found.plan is None,
        as_good=close_text(compared),
        sections=sections,
        changed=list(_changed(leading, predictions, names, thumbnail)) if leading else [],
        sides=_sides(leading, predictions) if leading else [],
        duplicates=describe_duplicates(header, picture),
        space=yaml.safe_dump(header["spec"], sort_keys=False, allow_unicode=True, width=100),
        about=_about(state),
        plotly=Markup(_plotly()),
    )


def _figures(
    state: ExperimentState,
    compared: Comparison,
    found: Verdict | None,
    predictions: dict[str, TestPredictions],
    names: Sequence[str],
) -> Iterator[dict[str, Any]]:
    shown: list[Figure] = []
    leading = found.leading if found else None
    if found is not None and (found.against_plain or found.against_trunk):
        shown += [fresh_seed_figures.forest(found), fresh_seed_figures.seeds(found)]
    raced = fresh_seed_figures.race(state, compared)
    shown += [raced] if raced else []
    shown += [figures.landscape(compared), figures.curves(compared), figures.work(state)]
    values, why = compute_importance(compared)
    shown += [figures.importance(values, why), figures.best_of(compared)]
    if leading is not None:
        pair: list[Arm] = [leading.against, leading.arm]
        shown += [
            figures.calibration(pair, predictions),
            figures.classes(leading.arm, leading.against, predictions, names),
        ]
    for figure in shown:
        yield {
            "name": figure.name,
            "title": figure.title,
            "text": figure.text,
            "json": None if figure.figure is None else figure.figure.to_plotly_json(),
            "header": figure.header,
            "rows": figure.rows,
            "numeric": figure.numeric,
        }


def _changed(
    c: Contrast, predictions: dict[str, TestPredictions], names: Sequence[str], thumbnail: Thumbnail | None
) -> Iterator[Changed]:
    """The images that most seeds agree on."""
    gained = c.differences.sum(axis=0).astype(int)
    order = sorted(np.flatnonzero(gained), key=lambda i: (-abs(gained[i]), gained[i], i))
    labels = next(iter(predictions.values())).label
    for i in order[:MOST_CHANGED]:
        shown = thumbnail(int(i)) if thumbnail else None
        picture = None
        if shown is not None:
            picture = "data:image/png;base64," + base64.b64encode(shown[0]).decode()
        yield Changed(
            number=int(i),
            name=shown[1] if shown else f"test image {i}",
            label=names[labels[i]] if labels[i] < len(names) else str(labels[i]),
            gained=int(gained[i]),
            picture=picture,
        )


def _sides(c: Contrast, predictions: dict[str, TestPredictions]) -> list[list[object]]:
    """Seed by seed, how many images changed sides, and McNemar's test of that pair."""
    runs = {run.seed: run.name for run in c.arm.runs}
    others = {run.seed: run.name for run in c.against.runs}
    rows: list[list[object]] = []
    for seed in c.seeds:
        pair = mcnemar_test(predictions[runs[seed]].correct, predictions[others[seed]].correct)
        rows.append([seed, pair.gained, pair.lost, f"{pair.p_value:.2g}"])
    return rows


def _about(state: ExperimentState) -> list[tuple[str, str]]:
    found = build_metadata(state)
    rows = []
    for key, value in found.items():
        name = key.partition(".")[2]
        if name == "space":
            continue
        try:
            loaded = json.loads(value)
        except ValueError:
            loaded = value
        if name == "data" and isinstance(loaded, dict):
            loaded.pop("duplicates", None)  # they have a section of their own
        rows.append((name.replace("_", " "), _plain(loaded)))
    statuses = Counter(trial.status for trial in state.trials.values())
    rows.append(("trials", ", ".join(f"{n} {status}" for status, n in statuses.items())))
    rows.append(("sessions", str(state.sessions)))
    return rows


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items() if v not in (None, [], {}))
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return str(value)


def _script(value: Any) -> Markup:
    """JSON that can stand in a script element, whatever its strings say."""
    from plotly.io import to_json

    text: str = to_json(value, validate=False)
    escaped = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return Markup(escaped.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    text: str = get_plotlyjs()
    return text
