"""The forecast of `--smoke` against the real time of the search, one after the other on this machine.

    python benchmarks/forecast.py                 # digits, and a folder of drawn JPEGs; twenty minutes
    python benchmarks/forecast.py --repeat 3 --match JPEGs

Each round rehearses a search, runs it, and rehearses it again: what others do on the machine between the
two rehearsals shows in their difference.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import ROOT, table, where
from PIL import Image

UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
PHOTOS = 20
"""Of each class."""


def draw_photos(folder: Path) -> None:
    """Draw a folder of JPEGs: discs, squares and stripes on noise."""
    rng = np.random.default_rng(0)
    for kind, name in enumerate(("disc", "square", "stripes")):
        (folder / name).mkdir(parents=True)
        for number in range(PHOTOS):
            height, width = (int(side) for side in rng.integers(300, 700, 2))
            rows, columns = np.mgrid[:height, :width]
            row, column = height * rng.uniform(0.3, 0.7), width * rng.uniform(0.3, 0.7)
            radius = min(height, width) * rng.uniform(0.15, 0.3)
            shapes = (
                (rows - row) ** 2 + (columns - column) ** 2 < radius**2,
                (abs(rows - row) < radius) & (abs(columns - column) < radius),
                columns // 20 % 2 == 0,
            )
            image = rng.integers(0, 90, (height, width, 3))
            image[shapes[kind]] += rng.integers(60, 160, 3)
            Image.fromarray(image.astype(np.uint8)).save(folder / name / f"{number:02d}.jpg", quality=90)


def run_program(arguments: list[str], folder: Path) -> tuple[float, str]:
    """Run a search with a cache and results of its own; its seconds from outside, and its output."""
    environment = {**os.environ, "TUNE_SWA_CACHE": str(folder / "cache")}
    command = [
        sys.executable,
        str(ROOT / "run_search.py"),
        *arguments,
        "--results-dir",
        str(folder / "results"),
    ]
    begun = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return time.perf_counter() - begun, result.stdout


def read_forecast(output: str) -> tuple[float, float]:
    """Read the shortest and the longest time of a forecast, in seconds."""
    found = re.search(r"^Forecast for \S+ on this machine: (?:about )?(.+)$", output, re.MULTILINE)
    assert found is not None, output
    ends = [
        sum(int(number) * UNITS[unit] for number, unit in re.findall(r"(\d+)([dhms])", end))
        for end in found[1].split(" to ")
    ]
    return ends[0], ends[-1]


def compare_search(name: str, arguments: list[str]) -> list[object]:
    """Rehearse a search, run it and rehearse it again."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rehearsed, before = run_program([*arguments, "--smoke"], folder)
        real, _ = run_program(arguments, folder)
        again, after = run_program([*arguments, "--smoke", "--name", "again"], folder)
    cells = [f"{low:.0f} to {high:.0f} s" for low, high in map(read_forecast, (before, after))]
    return [name, *cells, f"{real:.0f} s", f"{rehearsed:.0f} and {again:.0f} s", f"{os.getloadavg()[1]:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--match", default="", help="only searches with this in their names")
    options = parser.parse_args()
    print(where() + "\n")
    with tempfile.TemporaryDirectory() as temporary:
        photos = Path(temporary) / "photos"
        draw_photos(photos)
        searches = {
            "digits, 8 trials of 6 epochs": ["--space", "digits", "--epochs", "6", "--trials", "8"],
            "60 JPEGs at 96 px, 9 trials of 6 epochs": [
                "--space", "swa_grid", "--data-dir", str(photos), "--epochs", "6", "--trials", "9",
                "--set", "data.image_size=96", "--set", "model.weights=none",
            ],
        }  # fmt: skip
        rows = []
        for _ in range(options.repeat):
            for name, arguments in searches.items():
                if options.match not in name:
                    continue
                rows.append(compare_search(name, [*arguments, "--gpus", "0"]))
                print(rows[-1], file=sys.stderr)
    header = ["search", "forecast before", "forecast after", "the search", "the rehearsals took", "load"]
    print(table(header, rows))


if __name__ == "__main__":
    main()
