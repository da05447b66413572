"""Figure of the race: which configurations are tested, by the validation metric on fresh seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from tune_swa.experiment.events import params_of
from tune_swa.experiment.state import ExperimentState
from tune_swa.results.comparison import Comparison, last_race, race_values
from tune_swa.results.metric_format import MetricFormat
from tune_swa.results.report.style import (
    BASELINE,
    SWA,
    Figure,
    add_seed_markers,
    blank_figure,
    escape_html,
)


@dataclass(frozen=True)
class _Entrant:
    label: str
    kind: str
    values: list[float]
    """The objective's metric."""
    tested: bool

    @property
    def mean(self) -> float | None:
        return float(np.mean(self.values)) if self.values else None


def draw_race(state: ExperimentState, compared: Comparison) -> Figure | None:
    """Draw the validation metric of every run of the last race; None without one."""
    written = MetricFormat(compared.objective.metric)
    entrants = _list_entrants(state, compared)
    if not entrants:
        return None
    return Figure(
        "race",
        "The race for the test images",
        f"{written.metric.capitalize()} of the search's best SWA configurations and the baselines on "
        f"{compared.images} validation images, on fresh seeds. Diamonds are means, filled for configurations "
        "that went on to the test images: after each round the better half of the SWA configurations stays, "
        "and all plain training that is not clearly worse.",
        _draw_chart(entrants, written),
        ["configuration", "kind", "seeds", f"mean validation {written.short}", "after the race"],
        [
            [e.label, e.kind, len(e.values), written.format_number(e.mean), "tested" if e.tested else ""]
            for e in entrants
        ],
        frozenset({2, 3}),
    )


def _list_entrants(state: ExperimentState, compared: Comparison) -> list[_Entrant]:
    """All that entered the last race: SWA first, best first."""
    rounds, values = last_race(state), race_values(state, compared.objective.metric)
    if not rounds:
        return []
    look = state.confirmations[-1] if state.confirmations else None
    after = look is not None and look.searched == rounds[0].searched
    tested = {arm.name for arm in look.arms} if look is not None and after else set()
    entrants = [
        _Entrant(
            label=compared.experiment.format_label(params_of(arm), arm.average, swa=arm.kind == "swa"),
            kind=arm.kind,
            values=values[arm.name],
            tested=arm.name in tested,
        )
        for arm in rounds[0].arms
    ]
    return sorted(entrants, key=lambda e: (e.kind != "swa", *_order_mean(e.mean, compared)))


def _order_mean(mean: float | None, compared: Comparison) -> tuple[bool, float]:
    """Sorts means, the best first; those without any come last."""
    return mean is None, -compared.objective.orient_value(mean or 0.0)


def _draw_chart(entrants: Sequence[_Entrant], written: MetricFormat) -> go.Figure:
    shown = "%{x:.4f}" if written.is_nll else "%{x:.2f} %"
    figure = blank_figure(max(240, 90 + 26 * len(entrants)))
    for k, entrant in enumerate(entrants):
        color = SWA if entrant.kind == "swa" else BASELINE
        add_seed_markers(
            figure, [written.scale(v) for v in entrant.values], k, color, f"{shown}<extra></extra>"
        )
        if entrant.mean is not None:
            symbol = "diamond" if entrant.tested else "diamond-open"
            figure.add_trace(
                go.Scatter(
                    x=[written.scale(entrant.mean)], y=[k], mode="markers", showlegend=False,
                    marker={"size": 12, "color": color, "symbol": symbol},
                    hovertemplate=f"mean {shown}<extra></extra>",
                )
            )  # fmt: skip
    names = [escape_html(e.label) for e in entrants]
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=names, autorange="reversed")
    figure.update_xaxes(title=f"validation {written.metric}, {written.unit}")
    return figure
