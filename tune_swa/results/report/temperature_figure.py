"""Figure of the nll on fresh seeds, as trained and at the temperature fitted on validation images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import plotly.graph_objects as go

from tune_swa.experiment.field_types import Metrics
from tune_swa.experiment.trial_state import TrialState
from tune_swa.results.contrasts import TestedArm, Verdict
from tune_swa.results.predictions import REFRESHED, SHIPPED
from tune_swa.results.report.style import BASELINE, INK, SWA, Figure, blank_figure, escape_html

UNSCALED, SCALED = "nll", "nll_calibrated"


@dataclass(frozen=True)
class ScoredModel:
    """A model of the runs of one arm."""

    arm: TestedArm
    name: str
    """`shipped`, `refreshed`, or the label of an average."""
    runs: Sequence[Metrics]
    """Metrics on the test images, of the runs that have a temperature; at least one."""

    @property
    def configuration(self) -> str:
        """The arm, with its chosen average where the model is of that."""
        return self.arm.label if self.name == SHIPPED else self.arm.configuration

    @property
    def title(self) -> str:
        return self.configuration if self.name == SHIPPED else f"{self.configuration}, {self.name}"

    def read_metric(self, metric: str) -> list[float]:
        """Return a metric of each run."""
        values: list[float] = [run[metric] for run in self.runs]  # type: ignore[literal-required]
        return values

    def format_mean(self, metric: str, *, scale: float = 1, digits: int = 4) -> str:
        """Write the mean over the seeds and, of two or more, their standard deviation."""
        values = scale * np.asarray(self.read_metric(metric))
        spread = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
        return f"{values.mean():.{digits}f}{spread}"


def list_scored_models(found: Verdict) -> list[ScoredModel]:
    """Every model of every arm; empty where no run has a temperature, as in older journals."""
    return [model for arm in found.arms for model in _list_models(arm)]


def draw_temperatures(models: Sequence[ScoredModel]) -> Figure:
    """Draw the nll of each model before and after its probabilities are scaled.

    Args:
        models: at least one.
    """
    unfitted = sum(value == 1.0 for model in models for value in model.read_metric("temperature"))
    note = (
        f" In {unfitted} cases all validation images are right; that fits no temperature, and it is 1."
        if unfitted
        else ""
    )
    return Figure(
        "temperature",
        "Probabilities at a fitted temperature",
        "Dividing the outputs of a model by a temperature changes how confident it is, and no predicted "
        "class: above 1 it is less confident. Each run has the temperature with the lowest nll on the "
        "validation images. Any model can be scaled like this, so an advantage in nll that is gone at the "
        "temperature is one of scale, not of the model. Test images, mean ± standard deviation over the "
        "seeds." + note,
        _draw_pairs(models),
        ["configuration", "model", "seeds", "nll", "nll, scaled", "ECE %", "ECE %, scaled", "Brier",
         "Brier, scaled", "temperature"],
        [_tabulate_model(model) for model in models],
        frozenset(range(2, 10)),
    )  # fmt: skip


def _list_models(arm: TestedArm) -> Iterator[ScoredModel]:
    runs = [models for models in map(_read_models, arm.runs) if "temperature" in models[SHIPPED]]
    names = dict.fromkeys(name for models in runs for name in models)
    for name in names:
        metrics = [models[name] for models in runs if name in models]
        if name not in (SHIPPED, REFRESHED) and metrics == [models[SHIPPED] for models in runs]:
            continue  # the leading average
        yield ScoredModel(arm, name, metrics)


def _read_models(run: TrialState) -> dict[str, Metrics]:
    """Metrics of every model of a run on the test images."""
    tested = run.tested
    assert tested is not None
    refreshed = {} if tested.refreshed is None else {REFRESHED: tested.refreshed}
    return cast("dict[str, Metrics]", {SHIPPED: tested.shipped, **refreshed, **(tested.averages or {})})


def _draw_pairs(models: Sequence[ScoredModel]) -> go.Figure:
    figure = blank_figure(120 + 34 * len(models))
    rows = list(range(len(models)))
    for metric, name, symbol in ((UNSCALED, "as trained", "circle-open"), (SCALED, "scaled", "diamond")):
        values = [model.read_metric(metric) for model in models]
        spreads = [float(np.std(v, ddof=1)) if len(v) > 1 else 0.0 for v in values]
        colors = [SWA if model.arm.kind == "swa" else BASELINE for model in models]
        figure.add_trace(
            go.Scatter(
                x=[float(np.mean(v)) for v in values], y=rows, mode="markers", name=name,
                marker={"size": 10, "color": colors, "symbol": symbol},
                error_x={"type": "data", "array": spreads, "thickness": 1, "width": 4, "color": INK},
                hovertemplate="%{x:.4f}<extra></extra>",
            )
        )  # fmt: skip
    figure.update_xaxes(title="nll on the test images, nats")
    figure.update_yaxes(tickvals=rows, ticktext=[escape_html(m.title) for m in models], autorange="reversed")
    return figure


def _tabulate_model(model: ScoredModel) -> list[object]:
    return [
        model.configuration, model.name, len(model.runs), model.format_mean("nll"),
        model.format_mean("nll_calibrated"), model.format_mean("ece", scale=100, digits=2),
        model.format_mean("ece_calibrated", scale=100, digits=2), model.format_mean("brier"),
        model.format_mean("brier_calibrated"), model.format_mean("temperature", digits=2),
    ]  # fmt: skip
