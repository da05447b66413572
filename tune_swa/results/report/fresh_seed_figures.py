"""Which pictures show the fresh seeds: the race, every difference, every run?"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from tune_swa.experiment.events import params_of
from tune_swa.experiment.state import ExperimentState
from tune_swa.inference import statistics
from tune_swa.results.comparison import Comparison, last_race, race_accuracies
from tune_swa.results.contrasts import Verdict
from tune_swa.results.report.figures import (
    BAD,
    BASELINE,
    GOOD,
    INK,
    SWA,
    Figure,
    blank,
    percent,
    points,
    safe,
)


def forest(found: Verdict) -> Figure:
    """Every contrast with its interval."""
    best = "the tuned baseline" if found.plan is None else "the best plain training"
    own = {(c.arm.name, c.against.name) for c in found.against_trunk}
    shown = [(c, best if found.plan is None else f"{c.against.label} ({best})") for c in found.against_plain]
    shown += [
        (c, f"{c.against.label} (its own trunk)" if (c.arm.name, c.against.name) in own else c.against.label)
        for c in found.against_others
    ]
    if found.plan is None:
        shown += [(c, "its own trunk") for c in found.against_trunk if "baseline" not in c.against.roles]
    names = [f"{c.arm.label}<br>against {other}" for c, other in shown]
    figure = blank(110 + 70 * len(shown))
    colors: dict[str | None, str] = {"better": GOOD, "worse": BAD}
    for k, (c, _) in enumerate(shown):
        at = c.interval
        color = colors.get(c.outcome, INK)
        figure.add_trace(
            go.Scatter(
                x=[100 * v for v in c.by_seed], y=[k] * len(c.by_seed), mode="markers", showlegend=False,
                marker={"size": 7, "color": color, "opacity": 0.35},
                hovertemplate="one seed: %{x:+.2f} points<extra></extra>",
            )
        )  # fmt: skip
        figure.add_trace(
            go.Scatter(
                x=[100 * at.mean], y=[k], mode="markers", showlegend=False,
                marker={"size": 12, "color": color, "symbol": "diamond"},
                error_x={
                    "type": "data", "symmetric": False, "array": [100 * (at.high - at.mean)],
                    "arrayminus": [100 * (at.mean - at.low)], "thickness": 2, "width": 6, "color": color,
                },
                hovertemplate=f"{points(at.mean)} ({points(at.low)} to {points(at.high)})<extra></extra>",
            )
        )  # fmt: skip
    figure.add_vline(x=0, line={"color": INK, "width": 1, "dash": "dot"})
    figure.update_xaxes(title="difference, points")
    figure.update_yaxes(tickvals=list(range(len(shown))), ticktext=names, autorange="reversed")
    rows = []
    for c, other in shown:
        at, near = c.interval, c.paired
        low, high = statistics.bootstrap_interval(c.differences, at.level)
        rows.append(
            [c.arm.label, other, len(c.seeds), points(at.mean), f"{points(at.low)} to {points(at.high)}",
             f"{c.p_value:.3g}", f"{points(near.low)} to {points(near.high)}",
             f"{points(low)} to {points(high)}", c.outcome or "",
             ", ".join(f"{seed}: {points(v)}" for seed, v in zip(c.seeds, c.by_seed, strict=True))]
        )  # fmt: skip
    rule = (
        "p-values against the tuned baseline are Holm's; what is against a finalist's own trunk describes "
        "SWA's part, and has no verdict."
        if found.plan is None
        else "The verdict stands with the best plain training; to be better, a finalist has to be ahead of "
        "the others, too. The difference to its own trunk is SWA's part alone."
    )
    return Figure(
        "forest",
        "SWA against plain training on fresh seeds",
        "Diamonds are means over the seeds with the interval for new seeds and new images, which decides; "
        "faint dots are single seeds. The interval over seeds alone holds for these very images; the "
        f"bootstrap is a description. {rule}",
        figure,
        ["configuration", "against", "seeds", "points", f"{100 * (1 - found.alpha):.4g} % interval", "p",
         "over seeds alone", "bootstrap", "verdict", "single seeds"],
        rows,
        frozenset({2, 3, 4, 5, 6, 7}),
    )  # fmt: skip


def seeds(found: Verdict) -> Figure:
    """Test accuracy of every run, seed by seed."""
    figure = blank(360)
    for arm in found.arms:
        if arm.runs:
            figure.add_trace(
                go.Scatter(
                    x=[str(s) for s in arm.seeds], y=[100 * a for a in arm.test], name=arm.label,
                    mode="lines+markers", line={"dash": "solid" if arm.kind == "swa" else "dot"},
                )
            )  # fmt: skip
    figure.update_xaxes(title="seed", type="category")
    figure.update_yaxes(title="test accuracy, %")
    rows: list[list[object]] = []
    for arm in found.arms:
        sd = float(np.std(arm.test, ddof=1)) if len(arm.test) > 1 else None
        mean = float(np.mean(arm.test)) if arm.test else None
        refreshed = float(np.mean(arm.refreshed)) if arm.refreshed else None
        roles = " and ".join(arm.roles)
        rows.append(
            [arm.label, roles, f"mean of {len(arm.runs)}", percent(mean), percent(sd),
             percent(refreshed), percent(float(np.mean(arm.validation)) if arm.runs else None)]
        )  # fmt: skip
        again = arm.refreshed if len(arm.refreshed) == len(arm.runs) else [None] * len(arm.runs)
        each = zip(arm.seeds, arm.test, again, arm.validation, strict=True)
        rows += [
            [arm.label, roles, seed, percent(test), "", percent(bn), percent(val)]
            for seed, test, bn, val in each
        ]
    return Figure(
        "seeds",
        "Every run on fresh seeds",
        f"Accuracy on {found.images} test images. A BN refresh alone can improve plain training, so "
        "baselines are given with one, too.",
        figure,
        ["configuration", "role", "seed", "test %", "sd", "with BN refresh %", "validation %"],
        rows,
        frozenset({2, 3, 4, 5, 6}),
    )


def race(state: ExperimentState, compared: Comparison) -> Figure | None:
    """Validation accuracy of every run of the last race; None without one."""
    rounds, accuracies = last_race(state), race_accuracies(state)
    if not rounds:
        return None
    look = state.confirmations[-1] if state.confirmations else None
    after = look is not None and look["searched"] == rounds[0]["searched"]
    tested = {arm["name"] for arm in look["arms"]} if look is not None and after else set()
    rows = []
    for arm in rounds[0]["arms"]:
        swa, values = arm["kind"] == "swa", accuracies[arm["name"]]
        name = compared.experiment.format_label(params_of(arm), swa=swa)
        mean = float(np.mean(values)) if values else None
        went = "tested" if arm["name"] in tested else ""
        rows.append((not swa, -(mean or 0), [name, arm["kind"], len(values), percent(mean), went], values))
    rows.sort(key=lambda row: row[:2])
    names = [str(row[2][0]) for row in rows]
    figure = blank(max(240, 90 + 26 * len(rows)))
    for k, (plain, _, row, values) in enumerate(rows):
        color = BASELINE if plain else SWA
        figure.add_trace(
            go.Scatter(
                x=[100 * v for v in values], y=[k] * len(values), mode="markers", showlegend=False,
                marker={"size": 7, "color": color, "opacity": 0.35},
                hovertemplate="%{x:.2f} %<extra></extra>",
            )
        )  # fmt: skip
        if values:
            symbol = "diamond" if row[4] == "tested" else "diamond-open"
            figure.add_trace(
                go.Scatter(
                    x=[100 * float(np.mean(values))], y=[k], mode="markers", showlegend=False,
                    marker={"size": 12, "color": color, "symbol": symbol},
                    hovertemplate="mean %{x:.2f} %<extra></extra>",
                )
            )  # fmt: skip
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=[safe(n) for n in names], autorange="reversed"
    )
    figure.update_xaxes(title="validation accuracy, %")
    return Figure(
        "race",
        "The race: who is tested",
        "The best SWA configurations of the search and the baselines on fresh seeds, by the "
        f"{compared.images} validation images alone. Diamonds are means, filled where the configuration went "
        "on to the test images: of SWA the better half stays after each round, of plain training all that "
        "are not clearly worse.",
        figure,
        ["configuration", "kind", "seeds", "mean validation %", "after the race"],
        [row for *_, row, _ in rows],
        frozenset({2, 3}),
    )
