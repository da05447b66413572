"""Figures of the runs on fresh seeds: every difference with its interval, and every run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import numpy as np
import plotly.graph_objects as go

from tune_swa.experiment.objective import Objective
from tune_swa.inference.statistics import Interval, bootstrap_interval
from tune_swa.results.contrasts import Contrast, TestedArm, Verdict
from tune_swa.results.metric_format import MetricFormat
from tune_swa.results.report.style import (
    BAD,
    GOOD,
    INK,
    PLAIN_ARMS,
    SWA_ARMS,
    Figure,
    add_seed_markers,
    blank_figure,
)

_FORMER_RULE = (
    "p-values against the tuned baseline are adjusted by Holm's method. The difference to a finalist's own "
    "trunk is the contribution of SWA alone and has no verdict."
)
_RULE = (
    "The verdict is about the best plain training; a better finalist also has to be ahead of all other plain "
    "training. The difference to its own trunk is the contribution of SWA alone."
)


def draw_contrasts(found: Verdict) -> Figure:
    """Draw every difference with its interval (a forest plot)."""
    shown = _list_contrasts(found)
    return Figure(
        "forest",
        "SWA against plain training on fresh seeds",
        "Diamonds: mean over the seeds with the interval for new seeds and new images, on which the verdict "
        "rests. Faint dots: single seeds. The interval over seeds alone is valid for these test images only; "
        f"the bootstrap is descriptive. {_FORMER_RULE if found.plan is None else _RULE}"
        f"{'' if found.plan is None else _explain_beside(found)}",
        _draw_forest(shown, MetricFormat(found.metric)),
        ["configuration", "against", "seeds", MetricFormat(found.metric).gain_heading,
         f"{100 * (1 - found.alpha):.4g} % interval", "p", "over seeds alone", "bootstrap", "verdict",
         "single seeds", *([f"beside it: {_beside_format(found).gain_heading}"] if found.plan else [])],
        [_tabulate_contrast(c, against, found) for c, against in shown],
        frozenset({2, 3, 4, 5, 6, 7, 10}),
    )  # fmt: skip


def _beside_format(found: Verdict) -> MetricFormat:
    return MetricFormat(Objective(found.metric).other)


def _explain_beside(found: Verdict) -> str:
    return (
        f" The last column of the table has the gain in {_beside_format(found).metric} of the same runs with "
        "an interval of the same kind: a description, on which no verdict rests."
    )


def _list_contrasts(found: Verdict) -> list[tuple[Contrast, str]]:
    """Every contrast, with what it is against."""
    own = {(c.arm.name, c.against.name) for c in found.against_trunk}
    if found.plan is None:
        trunks = [c for c in found.against_trunk if "baseline" not in c.against.roles]
        return [
            *((c, "the tuned baseline") for c in found.against_plain),
            *((c, "its own trunk") for c in trunks),
        ]
    others = [
        (c, f"{c.against.label} (its own trunk)" if (c.arm.name, c.against.name) in own else c.against.label)
        for c in found.against_others
    ]
    return [(c, f"{c.against.label} (the best plain training)") for c in found.against_plain] + others


def _draw_forest(shown: Sequence[tuple[Contrast, str]], written: MetricFormat) -> go.Figure:
    figure = blank_figure(110 + 70 * len(shown))
    colors: dict[str | None, str] = {"better": GOOD, "worse": BAD}
    for k, (c, _) in enumerate(shown):
        at, color = c.interval, colors.get(c.outcome, INK)
        one_seed = "nll lower by %{x:+.4f}" if written.is_nll else "%{x:+.2f} points"
        by_seed = [written.scale(value) for value in c.by_seed]
        add_seed_markers(figure, by_seed, k, color, f"one seed: {one_seed}<extra></extra>")
        figure.add_trace(
            go.Scatter(
                x=[written.scale(at.mean)], y=[k], mode="markers", showlegend=False,
                marker={"size": 12, "color": color, "symbol": "diamond"},
                error_x={
                    "type": "data", "symmetric": False, "array": [written.scale(at.high - at.mean)],
                    "arrayminus": [written.scale(at.mean - at.low)], "thickness": 2, "width": 6,
                    "color": color,
                },
                hovertemplate=f"{_describe_ends(at, written)}<extra></extra>",
            )
        )  # fmt: skip
    figure.add_vline(x=0, line={"color": INK, "width": 1, "dash": "dot"})
    figure.update_xaxes(title=written.gain_axis)
    names = [f"{c.arm.label}<br>against {against}" for c, against in shown]
    figure.update_yaxes(tickvals=list(range(len(shown))), ticktext=names, autorange="reversed")
    return figure


def _describe_ends(at: Interval, written: MetricFormat) -> str:
    return f"{written.format_gain(at.mean)} ({written.format_range(at.low, at.high)})"


def _tabulate_contrast(c: Contrast, against: str, found: Verdict) -> list[object]:
    at, seeds_alone, written = c.interval, c.paired, MetricFormat(found.metric)
    beside = [_describe_ends(c.beside, _beside_format(found))] if c.beside and found.plan else []
    by_seed = zip(c.seeds, c.by_seed, strict=True)
    return [
        c.arm.label, against, len(c.seeds), written.format_gain(at.mean),
        written.format_range(at.low, at.high),
        f"{c.p_value:.3g}", written.format_range(seeds_alone.low, seeds_alone.high),
        written.format_range(*bootstrap_interval(c.differences, at.level)), c.outcome or "",
        ", ".join(f"{seed}: {written.format_gain(v)}" for seed, v in by_seed), *beside,
    ]  # fmt: skip


def draw_runs(found: Verdict) -> Figure:
    """Draw the objective on the test images of every run, seed by seed."""
    figure, written = blank_figure(360), MetricFormat(found.metric)
    colors = _choose_colors(found)
    for arm in found.arms:
        if arm.runs:
            figure.add_trace(
                go.Scatter(
                    x=[str(s) for s in arm.seeds],
                    y=[written.scale(v) for v in arm.test_values(found.metric)],
                    name=arm.label,
                    mode="lines+markers",
                    line={"dash": "solid" if arm.kind == "swa" else "dot", "color": colors[arm.name]},
                )
            )  # fmt: skip
    figure.update_xaxes(title="seed", type="category")
    figure.update_yaxes(title=f"test {written.metric}, {written.unit}")
    return Figure(
        "seeds",
        "Every run on fresh seeds",
        f"{written.metric.capitalize()} on {found.images} test images. A BN refresh alone can improve plain "
        "training, so baselines are also evaluated with one.",
        figure,
        [
            "configuration",
            "role",
            "seed",
            f"test {written.short}",
            "sd",
            f"with BN refresh {written.short}",
            f"validation {written.short}",
        ],
        [row for arm in found.arms for row in _tabulate_runs(arm, written)],
        frozenset({2, 3, 4, 5, 6}),
    )


def _choose_colors(found: Verdict) -> dict[str, str]:
    """Return each arm's colour; the two of the leading contrast have those of the other figures."""
    leading = found.leading
    first = () if leading is None else (leading.arm.name, leading.against.name)
    arms = sorted(found.arms, key=lambda arm: arm.name not in first)
    swa, plain = ([arm for arm in arms if (arm.kind == "swa") == kind] for kind in (True, False))
    return {
        arm.name: color
        for side, colors in ((swa, SWA_ARMS), (plain, PLAIN_ARMS))
        for arm, color in zip(side, cycle(colors), strict=False)
    }


def _tabulate_runs(arm: TestedArm, written: MetricFormat) -> list[list[object]]:
    """The arm's mean, then each of its runs."""
    roles = " and ".join(arm.roles)
    each = arm.test_values(written.metric)
    again = arm.refreshed_values(written.metric)
    chosen = arm.validation_values(written.metric)
    sd = float(np.std(each, ddof=1)) if len(each) > 1 else None
    test, refreshed, validation = (
        written.format_number(float(np.mean(values)) if values else None) for values in (each, again, chosen)
    )
    rows: list[list[object]] = [
        [arm.label, roles, f"mean of {len(arm.runs)}", test, written.format_number(sd), refreshed, validation]
    ]
    known = again if len(again) == len(arm.runs) else [None] * len(arm.runs)
    return rows + [
        [arm.label, roles, seed, written.format_number(value), "", written.format_number(bn),
         written.format_number(val)]
        for seed, value, bn, val in zip(arm.seeds, each, known, chosen, strict=True)
    ]  # fmt: skip
