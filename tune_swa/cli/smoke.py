"""Run `search --smoke`: rehearse a search, and print what it would take."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tune_swa.cli.export import export_model_command
from tune_swa.plugins import list_sources

if TYPE_CHECKING:
    from tune_swa.execution.rehearsal import Rehearsal
    from tune_swa.execution.request import Request


Number = TypeVar("Number", int, float)


def rehearse_request(request: Request) -> int:
    """Rehearse the search of a request; returns the exit code."""
    from tune_swa.monitoring.progress_lines import format_duration

    console = request.console

    def say(text: str) -> None:
        if not request.quiet:
            console.print(f"  {text}", markup=False, soft_wrap=True)

    with nullcontext() if request.quiet else console.status("loading torch and Ray"):
        from tune_swa.execution.rehearsal import rehearse_search
    if not request.quiet:
        console.print(f"Rehearsal of {request.experiment.name}:", markup=False)
    found = rehearse_search(request, export_handed_over, say)
    for line in describe_rehearsal(found, request.experiment.name):
        console.print(line, markup=False, soft_wrap=True)
    say(f"It took {format_duration(found.seconds)}; nothing of it is kept.")
    return 0


def export_handed_over(folder: Path, images: Path) -> None:
    """Export the model of a results folder in every format, without a word."""
    options = argparse.Namespace(
        folder=folder, output=None, format=[], merged=None, average=None, ensemble=None, trial=None, arm=None
    )
    options.group, options.storage, options.data_dir = None, None, images
    options.plugin = [source.option for source in list_sources()]  # or the export would forget them
    with redirect_stdout(io.StringIO()):
        export_model_command(options)


def describe_rehearsal(found: Rehearsal, name: str) -> list[str]:
    """Describe what was measured, and what the search would take."""
    from tune_swa.monitoring.progress_lines import format_duration
    from tune_swa.search.simulation import StageTime

    plan, rates, forecast = found.plan, found.rates, found.forecast
    slots = plan.placement.slots
    shortest, longest = (format_duration(seconds) for seconds in forecast.seconds)
    lines = [f"Smaller than the search: {'; '.join(found.smaller)}."] if found.smaller else []
    train, refresh, evaluate = map(_format_milliseconds, (rates.train, rates.refresh, rates.evaluate))
    lines += [
        f"An image takes {train} of training, {refresh} in a BN refresh and {evaluate} in an evaluation, "
        f"with {slots} trial{'s' * (slots > 1)} at once.",
        f"Forecast for {name} on this machine: "
        + (f"{shortest} to {longest}" if shortest != longest else f"about {longest}"),
        f"  start {format_duration(found.start)}, decoding {format_duration(found.decoding)}",
    ]
    titles = {"search": "search", "race": "race", "confirm": "fresh seeds", "swap": "swap"}
    before = (0.0, 0.0)
    for stage, high in forecast.high.stages.items():
        low = forecast.low.stages.get(stage, StageTime(ends=before[0]))
        spent = _join_ends(low.ends - before[0], high.ends - before[1], format_duration)
        epochs = _join_ends(low.epochs, high.epochs, "{:,}".format)
        before = low.ends, high.ends
        lines.append(f"  {titles[stage]} {spent} ({epochs} epochs trained)")
    if shortest != longest:
        lines.append(
            "The longer one stops no trial early and trains all planned seeds; the shorter one stops as many "
            "as ASHA does where no configuration is better than another, and needs one look."
        )
    return lines


def _join_ends(one: Number, other: Number, write: Callable[[Number], str]) -> str:
    """Write a range, the lower end first: a stage may be longer in the search that is shorter as a whole."""
    low, high = write(min(one, other)), write(max(one, other))
    return low if low == high else f"{low} to {high}"


def _format_milliseconds(seconds: float) -> str:
    milliseconds = 1e3 * seconds
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.2g} ms"
