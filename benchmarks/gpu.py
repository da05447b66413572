"""What a GPU does with this program, in one call of at most nine minutes: checks, then measurements.

    python benchmarks/gpu.py --json gpu.json
    python benchmarks/gpu.py --device cpu       # the same parts on a CPU, small: is the script in order?

Needs torch, torchvision, numpy, Pillow and pydantic, not Ray. Prints Markdown tables as it goes: of the
checks (`pass`, `FAIL` or `skipped`, and what was found), of the measurements, and what the tutorial's table
of eight rows would take on this card. The parts run in a process of their own, which is replaced, so one
that fails, hangs or loses its device costs only itself. Images are drawn, 14,034 JPEGs of 150 px as in the
tutorial's set, and removed at the end. The exit code is 0 unless the script itself breaks: read the table.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpu_parts import Bench, Outcome, Part

ROOT = Path(__file__).resolve().parent.parent
NEEDED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "numpy": "numpy",
    "PIL": "pillow",
    "pydantic": "pydantic",
}
"""Modules, and the packages that bring them."""
RESERVE_SECONDS = 5.0
"""Of the budget, for the end."""
LEAST_SECONDS = 5.0
"""No part is begun with less."""
PATIENCE_WITH_CPUS = 5
"""Times what a part may take on a GPU, on cores that may be shared with anybody."""


def find_missing() -> list[str]:
    """Packages that the script needs and this Python does not have."""
    return [package for module, package in NEEDED.items() if not _is_there(module)]


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # of a module that was hidden from imports
        return False


class Runner:
    """Runs parts one after the other within a budget, prints a line for each, keeps the file up to date."""

    def __init__(
        self, bench: Bench, budget: float, path: Path | None, catalogue: str = "gpu_catalogue"
    ) -> None:
        self.bench = bench
        self._catalogue = catalogue
        self._path = path
        self._began = datetime.now(UTC).isoformat(timespec="seconds")
        self._begun = time.monotonic()
        self._ends = self._begun + budget - RESERVE_SECONDS
        self._worker: Any = None
        self.outcomes: list[Outcome] = []

    def run(self, parts: Sequence[Part]) -> None:
        """Run `parts`; those that the budget has no time for are named as skipped."""
        from gpu_parts import Outcome

        for part in parts:
            left = self._ends - time.monotonic()
            if left < LEAST_SECONDS:
                outcome = Outcome(part.name, part.kind, "skipped", "no time left in the budget", 0.0)
            else:
                fresh = part.fresh and self.bench.on_gpu  # a CPU is not spoiled by anybody
                worker = self._get_worker(fresh=fresh)
                most = part.seconds * (1 if self.bench.on_gpu else PATIENCE_WITH_CPUS)
                outcome = worker.run(part, min(most, left), short_of_time=left < most)
                if fresh or outcome.status == "FAIL":
                    self.stop()  # nobody knows in which state it has left the device
            self.outcomes.append(outcome)
            reason = outcome.reason.replace("|", "/")
            print(f"| {part.name} | {outcome.status} | {reason} | {outcome.seconds:.1f} |", flush=True)
            if outcome.trace:
                print(outcome.trace, file=sys.stderr, flush=True)
            self.save()

    def fit_to_memory(self) -> None:
        """Take smaller batches where those of the tutorial, with about 9 GB in bf16, do not fit the card."""
        found = [f.value for f in self.outcomes[0].figures if f.what == "GPU"]
        if found:
            gigabytes = json.loads(str(found[0]))["memory"] / 1e9
            batch_size = 256 if gigabytes > 15 else 128 if gigabytes > 7 else 64
            if batch_size != self.bench.batch_size:
                self.bench = replace(self.bench, batch_size=batch_size)
                self.stop()

    def stop(self) -> None:
        """End the process that runs the parts."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def save(self) -> None:
        """Write everything so far, whole or not at all."""
        if self._path is None:
            return
        report = {
            "command": " ".join([os.path.relpath(sys.argv[0], ROOT), *sys.argv[1:]]),
            "began": self._began,
            "seconds": time.monotonic() - self._begun,
            "sizes": {
                k: str(v) if isinstance(v, Path) else v for k, v in vars(self.bench).items() if k != "folder"
            },
            "parts": [outcome.as_dict() for outcome in self.outcomes],
            "table_hours": {str(k): v for k, v in predict_hours(self.outcomes).items()},
        }
        draft = self._path.with_name(f".{self._path.name}.new")
        try:
            draft.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            draft.replace(self._path)
        except OSError as error:  # a full disk; the tables are still printed
            print(f"{self._path}: cannot be written ({error.strerror})", file=sys.stderr, flush=True)

    def _get_worker(self, *, fresh: bool) -> Any:
        from gpu_parts import Worker

        if fresh and self._worker is not None and self._worker.used:
            self.stop()
        if self._worker is None:
            self._worker = Worker(self.bench, self._catalogue)
        return self._worker


def predict_hours(outcomes: Sequence[Outcome]) -> dict[int, float]:
    """Hours of the tutorial's whole table on this card by the number of trials at once, where measured."""
    from gpu_table import predict_table

    seconds: dict[str, dict[int, float]] = {"trunk": {}, "branch": {}}
    for figure in (f for outcome in outcomes if outcome.name == "trials at once" for f in outcome.figures):
        words = figure.what.replace(",", "").split()
        if words[-2:] == ["the", "tutorial"] and isinstance(figure.value, float):
            seconds[words[3]][int(words[0])] = figure.value
    together = sorted(seconds["trunk"].keys() & seconds["branch"].keys())
    return {n: predict_table(seconds["trunk"], seconds["branch"], n) / 3600 for n in together}


def print_measurements(outcomes: Sequence[Outcome]) -> None:
    """Every figure of the measurements, and the prediction."""
    from common import table

    rows = [[o.name, f.what, str(f)] for o in outcomes if o.kind == "measurement" for f in o.figures]
    print(f"\n{table(['measurement', 'figure', 'value'], rows)}\n")
    for together, hours in predict_hours(outcomes).items():
        print(f"The tutorial's table (8 rows, 120 epochs, 453 to train), {together} at once on this device: "
              f"{60 * hours:.1f} minutes.")  # fmt: skip


def print_heading(kind: str) -> None:
    print(f"\n| {kind} | result | what was found | seconds |\n| --- | --- | --- | --- |", flush=True)


def parse_minutes(text: str) -> float:
    """A budget of some minutes."""
    minutes = float(text)
    if not 0 < minutes < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: expected more than 0, and a number")
    return minutes


def parse_output(text: str) -> Path:
    """A file that can be written: the parts take minutes, and are not to end in a complaint about it."""
    path = Path(text)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text}: no such file can be written")
    return path


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument(
        "--minutes", type=parse_minutes, default=9.0, help="budget; parts without time left are skipped"
    )
    parser.add_argument(
        "--quick", action="store_true", help="every part once, without compiling: is it in order?"
    )
    parser.add_argument(
        "--json", type=parse_output, metavar="PATH", help="file for everything that was found"
    )
    given = parser.parse_args()
    missing = find_missing()
    if missing:
        parser.error(
            f"{' and '.join(missing)} cannot be imported; install with: pip install {' '.join(missing)}"
        )
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))  # the package need not be installed; processes started here inherit it
    from gpu_catalogue import CHECKS, MEASURES
    from gpu_parts import choose_sizes

    if given.quick:
        os.environ["TORCH_COMPILE_DISABLE"] = "1"
    with tempfile.TemporaryDirectory(prefix="tune-swa-gpu-", ignore_cleanup_errors=True) as folder:
        bench = choose_sizes(given.device, Path(folder), quick=given.quick)
        runner = Runner(bench, 60 * given.minutes, given.json)
        begun = time.monotonic()
        try:
            print_heading("check")
            runner.run(CHECKS[:1])
            if runner.outcomes[0].status == "FAIL":
                parser.exit(2, f"--device {given.device} cannot be used: {runner.outcomes[0].reason}\n")
            runner.fit_to_memory()
            runner.run(CHECKS[1:])
            print_heading("measurement")
            runner.run(MEASURES)
        finally:
            runner.stop()
    outcomes = runner.outcomes
    print_measurements(outcomes)
    runner.save()
    counts = {status: sum(o.status == status for o in outcomes) for status in ("pass", "FAIL", "skipped")}
    machine = next((f.value for o in outcomes[:1] for f in o.figures if f.what == "where"), "")
    print(f"\n{machine}\n{counts['pass']} of {len(outcomes)} parts pass, {counts['FAIL']} fail, "
          f"{counts['skipped']} skipped, in {time.monotonic() - begun:.0f} s.")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
