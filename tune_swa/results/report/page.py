"""Build the report: one HTML page that holds plotly.js, the figures and their tables, and loads nothing.

Names of classes, files and experiments are escaped by jinja2, and JSON inside the page cannot end its script
element.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from tune_swa.experiment.state import ExperimentState
from tune_swa.files import replace_file
from tune_swa.results.average_contrasts import AverageContrast, compare_averages
from tune_swa.results.comparison import Comparison, compare_configurations
from tune_swa.results.comparison_rows import ComparisonRow, build_comparison_rows
from tune_swa.results.contrasts import Verdict
from tune_swa.results.ensembles import build_ensembles, compare_ensembles
from tune_swa.results.importance import compute_importance
from tune_swa.results.merges import compare_merges
from tune_swa.results.metric_format import MetricFormat
from tune_swa.results.predictions import SHIPPED, RunPredictions, read_predictions
from tune_swa.results.provenance import build_metadata, require_header
from tune_swa.results.report.averages_figure import draw_averages, draw_ensembles, draw_merges
from tune_swa.results.report.changed_images import Thumbnail, count_changes, list_changed_images
from tune_swa.results.report.duplicates import Picture, describe_duplicates
from tune_swa.results.report.fresh_seed_figures import draw_contrasts, draw_runs
from tune_swa.results.report.landscape import draw_landscape
from tune_swa.results.report.members import tabulate_members
from tune_swa.results.report.prediction_figures import draw_calibration, draw_classes
from tune_swa.results.report.race_figure import draw_race
from tune_swa.results.report.search_averages import tabulate_averages
from tune_swa.results.report.search_figures import (
    draw_curves,
    draw_epochs_spent,
    draw_expected_best,
    draw_importance,
)
from tune_swa.results.report.soups import tabulate_soups
from tune_swa.results.report.start_figure import draw_starts
from tune_swa.results.report.style import Figure
from tune_swa.results.report.temperature_figure import draw_temperatures, list_scored_models
from tune_swa.results.summary import close_text, summary_text
from tune_swa.results.verdict import analyse_confirmation
from tune_swa.results.verdict_sentences import verdict_text

NAME = "report.html"


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
    page = build_report(state, folder, thumbnail, picture=picture)
    # names of files need not be text
    replace_file(path, page.encode(errors="backslashreplace"), exclusive=exclusive)
    return path


def build_report(
    state: ExperimentState,
    folder: Path,
    thumbnail: Thumbnail | None = None,
    *,
    picture: Picture | None = None,
) -> str:
    """Build the page; arguments and errors as in `write_report`."""
    compared = compare_configurations(state)
    header = require_header(state)
    variants = read_predictions(state, folder)
    predictions = {name: models[SHIPPED] for name, models in variants.items()}
    found = analyse_confirmation(state, predictions) if state.confirmations else None
    leading = found.leading if found else None
    class_names = [str(name) for name in header.data["class_names"]]
    figures = [*_draw_figures(state, compared, found, predictions, class_names)]
    if found is not None:
        ensembles = compare_ensembles(found, build_ensembles(found, variants, state, folder))
        at = len([figure for figure in figures if figure.name in ("forest", "seeds")])
        merges = compare_merges(found, variants, state)
        figures[at:at] = _draw_averages(compare_averages(found, variants), ensembles, merges)
    lines = verdict_text(found).replace(" %", "\N{NO-BREAK SPACE}%").splitlines() if found else []
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tune_swa.results.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["script"] = _embed_json
    return environment.get_template("report.html.j2").render(
        name=compared.experiment.name,
        verdict=lines,
        outcome=_overall_outcome(found),
        summary=summary_text(state).splitlines(),
        running=state.finished is None,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        table=[_table_cells(row) for row in build_comparison_rows(compared, found)],
        objective=compared.objective.metric,
        unit=MetricFormat(compared.objective.metric).short,
        images=compared.images,
        test_images=found.images if found else None,
        former=found is not None and found.plan is None,
        as_good=close_text(compared),
        sections=[_describe_figure(figure) for figure in figures],
        changed=list(list_changed_images(leading, predictions, class_names, thumbnail)) if leading else [],
        changes=count_changes(leading, predictions) if leading else [],
        duplicates=describe_duplicates(header, picture),
        space=yaml.safe_dump(header.spec, sort_keys=False, allow_unicode=True, width=100),
        about=_list_provenance(state),
        plotly=Markup(_plotly_source()),
    )


def _overall_outcome(found: Verdict | None) -> str:
    """Return the outcome that colours the verdict: that for SWA, in older journals the leading finalist's."""
    if found is None:
        return ""
    if found.plan is not None:
        return found.agreed or ""
    return (found.leading.outcome if found.leading else None) or ""


def _draw_figures(
    state: ExperimentState,
    compared: Comparison,
    found: Verdict | None,
    predictions: RunPredictions,
    class_names: Sequence[str],
) -> Iterator[Figure]:
    if found is not None and (found.against_plain or found.against_trunk):
        yield draw_contrasts(found)
        yield draw_runs(found)
    averages = tabulate_averages(state.trials.values())
    if averages:
        yield averages
    soups = tabulate_soups(state)
    if soups:
        yield soups
    members = tabulate_members(state, compared.experiment)
    if members:
        yield members
    race = draw_race(state, compared)
    if race:
        yield race
    yield draw_starts(compared) if compared.experiment.averaging.tail == "base" else draw_landscape(compared)
    yield draw_curves(compared)
    yield draw_epochs_spent(state)
    yield draw_importance(*compute_importance(compared))
    yield draw_expected_best(compared)
    leading = found.leading if found else None
    if leading is not None:
        yield draw_calibration([leading.against, leading.arm], predictions)
    scored = list_scored_models(found) if found else []
    if scored:
        yield draw_temperatures(scored)
    if leading is not None:
        yield draw_classes(leading.arm, leading.against, predictions, class_names)


def _draw_averages(
    averages: Sequence[AverageContrast],
    ensembles: Sequence[AverageContrast],
    merges: Sequence[AverageContrast],
) -> Iterator[Figure]:
    if averages:
        yield draw_averages(averages)
    if ensembles:
        yield draw_ensembles(ensembles)
    if merges:
        yield draw_merges(merges)


def _describe_figure(figure: Figure) -> dict[str, Any]:
    """A figure as the template takes it."""
    return {**vars(figure), "json": None if figure.figure is None else figure.figure.to_plotly_json()}


def _table_cells(row: ComparisonRow) -> list[object]:
    """A row of the page's table of configurations."""
    at, written = row.contrast.interval if row.contrast else None, MetricFormat(row.metric)
    return [
        row.rank or "",
        row.entry.label,
        row.entry.trial.status,
        written.format_number(row.entry.read_metric(row.metric)),
        written.format_gain(row.entry.delta_vs_baseline),
        written.format_gain(row.entry.delta_vs_same_lr),
        written.format_number(row.test_mean),
        f"{written.format_gain(at.mean)} ({written.format_range(at.low, at.high)})" if at else "",
    ]


def _list_provenance(state: ExperimentState) -> list[tuple[str, str]]:
    """The metadata of the parquet files, as rows of a table."""
    rows = []
    for key, value in build_metadata(state).items():
        name = key.partition(".")[2]
        if name == "space":
            continue
        try:
            loaded = json.loads(value)
        except ValueError:
            loaded = value
        if name == "data" and isinstance(loaded, dict):
            loaded.pop("duplicates", None)  # they have a section of their own
        rows.append((name.replace("_", " "), _plain_text(loaded)))
    network = require_header(state).spec.get("model", {})
    rows.append(("network", f"{network.get('arch', 'resnet18')}, weights {network.get('weights', 'none')}"))
    statuses = Counter(trial.status for trial in state.trials.values())
    rows.append(("trials", ", ".join(f"{n} {status}" for status, n in statuses.items())))
    rows.append(("sessions", str(state.sessions)))
    return rows


def _plain_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_plain_text(v)}" for k, v in value.items() if v not in (None, [], {}))
    if isinstance(value, list):
        return ", ".join(map(_plain_text, value))
    return str(value)


def _embed_json(value: Any) -> Markup:
    """JSON that is safe inside a script element, whatever its strings contain."""
    from plotly.io import to_json

    text: str = to_json(value, validate=False)
    escaped = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return Markup(escaped.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _plotly_source() -> str:
    from plotly.offline import get_plotlyjs

    source: str = get_plotlyjs()
    return source
