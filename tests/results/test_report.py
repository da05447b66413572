"""The page: what is on it, and what it must not do."""

from __future__ import annotations

import errno
import itertools
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from helpers.journals import Writer, confirmed, experiment, usual
from tune_swa.monitoring.result_writer import REPORT_SECONDS, ResultWriter
from tune_swa.results.comparison import compare_configurations
from tune_swa.results.contrasts import TestedArm, Verdict
from tune_swa.results.importance import MOST_TRIALS, compute_importance
from tune_swa.results.predictions import RunPredictions, read_shipped
from tune_swa.results.report.fresh_seed_figures import draw_contrasts, draw_runs
from tune_swa.results.report.page import build_report, write_report
from tune_swa.results.report.prediction_figures import draw_calibration
from tune_swa.results.report.search_figures import draw_curves
from tune_swa.results.report.style import format_percent, format_points
from tune_swa.results.verdict import analyse_confirmation

FIGURES = (
    "forest", "seeds", "landscape", "curves", "work", "importance", "best_of", "calibration", "classes",
    "temperature",
)  # fmt: skip
SIX_MEGABYTES = 6_000_000


class Page(HTMLParser):
    """Text, tables and addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self._skip = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._skip = tag in ("script", "style")
        found = dict(attrs)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.addresses += [found[k] or "" for k in ("src", "href", "action") if k in found]

    def handle_endtag(self, tag: str) -> None:
        self._skip = False

    def handle_data(self, data: str) -> None:
        if not self._skip:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_it_has_the_verdict_every_figure_and_every_table(tmp_path: Path) -> None:
    writer = confirmed(tmp_path)
    writer.finish()
    page = Page(build_report(writer.state(), tmp_path))
    assert "SWA is better: SWA_1_5e-4 lr=1e-3 beats the tuned baseline lr=1e-3, +" in page.text
    assert {f"figure-{name}" for name in FIGURES if name != "importance"} <= set(page.ids)
    assert set(FIGURES) | {"table", "changed", "provenance"} <= set(page.ids)
    assert "93.00" in page.text
    assert "f00d" in page.text  # the fingerprint of the images
    assert "swa_lr: log_uniform" in page.text or "log_uniform:" in page.text
    assert "the search has not finished" not in page.text


def analyse(folder: Path) -> tuple[Verdict, list[TestedArm], RunPredictions]:
    """A made-up verdict, the two arms of its leading contrast, and the predictions."""
    state = confirmed(folder).state()
    said = read_shipped(state, folder)
    found = analyse_confirmation(state, said)
    assert found is not None
    assert found.leading is not None
    return found, [found.leading.against, found.leading.arm], said


def test_whatever_is_drawn_of_the_fresh_seeds_is_in_a_table(tmp_path: Path) -> None:
    """Every marker of the three figures, as the number that its table has."""
    found, pair, said = analyse(tmp_path)
    drawings = (
        (draw_contrasts(found), format_points, "x"),
        (draw_runs(found), format_percent, "y"),
        (draw_calibration(pair, said), format_percent, "y"),
    )
    for drawn, written, axis in drawings:
        table = " ".join(str(cell) for row in drawn.rows for cell in row)
        assert drawn.figure is not None
        markers = [trace[axis] for trace in drawn.figure.data if "markers" in trace.mode]
        assert sum(map(len, markers)) >= 15
        assert all(written(v / 100) in table for values in markers for v in values), drawn.name
    of_arm = [row for row in drawings[2][0].rows if row[0] == pair[1].label]
    assert of_arm[0][1] == "all"
    assert of_arm[0][7] == format_percent(pair[1].mean_of("ece"))  # the recorded one
    assert sum(int(str(row[2])) for row in of_arm[1:]) == of_arm[0][2] == 5 * 400


def test_an_arm_has_one_colour_in_all_figures(tmp_path: Path) -> None:
    found, pair, said = analyse(tmp_path)
    runs, curves = draw_runs(found).figure, draw_calibration(pair, said).figure
    assert runs is not None
    assert curves is not None
    of_runs = {trace.name: trace.line.color for trace in runs.data}
    assert len(set(of_runs.values())) == len(of_runs) == len(found.arms)
    of_curves = {trace.name: trace.line.color for trace in curves.data if trace.name}
    assert of_curves == {arm.label: of_runs[arm.label] for arm in pair}


def test_the_curves_of_a_run_are_drawn_where_they_end(tmp_path: Path) -> None:
    compared = compare_configurations(confirmed(tmp_path).state())
    figure = draw_curves(compared).figure
    assert figure is not None
    low, high = figure.layout.yaxis.range
    for trace in figure.data:
        ends = trace.y[len(trace.y) // 2 :]
        assert low < min(ends) <= max(ends) < high


def test_it_asks_for_nothing_from_outside(tmp_path: Path) -> None:
    text = build_report(confirmed(tmp_path).state(), tmp_path, lambda k: (b"png", f"test image {k}"))
    page = Page(text)
    assert page.addresses
    assert all(address.startswith("data:") for address in page.addresses)
    assert "@import" not in text
    assert len(text.encode()) < SIX_MEGABYTES


@pytest.mark.parametrize("trials", [0, 1, 4])
def test_a_search_that_has_just_begun_has_a_report_too(tmp_path: Path, trials: int) -> None:
    writer = Writer(tmp_path)
    for k in range(trials):
        writer.suggest(f"swa-{k}", {"lr": 1e-3, "swa_start": 1, "swa_lr": 5e-4})
        writer.start(f"swa-{k}")
        writer.epoch(f"swa-{k}", 0, 0.5)
    page = Page(build_report(writer.state(), tmp_path))
    assert "No verdict yet: nothing has been run on fresh seeds." in page.text
    assert "the search has not finished" in page.text


def test_names_cannot_become_markup(tmp_path: Path) -> None:
    evil = "</script><script>alert('&lt;')</script><img src=x onerror=alert(1)>"
    writer = confirmed(tmp_path)
    state = writer.state()
    assert state.header is not None
    state.header.data["class_names"] = [evil, "b"]
    state.header.versions[evil] = evil
    text = build_report(state, tmp_path, lambda k: (b"png", f"{evil} {k}"))
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert evil in Page(text).text  # shown as what it is
    own = [part for part in re.findall(r"<script>(.*?)</script>", text, re.S) if "alert(" in part]
    assert len(own) == 1  # inside the figures' JSON
    figures = own[0][own[0].index("{") : own[0].index("for (const")]
    assert "<" not in figures


def duplicates(**changes: Any) -> dict[str, Any]:
    """As a journal has it: one pair of a training and a test image."""
    image = {"row": 9, "name": "test/b/1.jpg", "part": "test", "label": "b"}
    copy = {"row": 2, "name": "train/a/7.jpg", "part": "train", "label": "a"}
    none: dict[str, Any] = {"counts": {}, "first": []}
    pair = [{"image": image, "copy": copy}]
    return {
        "setting": "warn",
        "sizes": {"train": 400, "val": 200, "test": 100},
        "identical": {"counts": {"train-test": 3, "train-train": 2}, "first": pair},
        "other_label": {"counts": {"all": 1}, "first": pair},
        "near": none,
        "left_out": none,
        **changes,
    }


def test_images_that_occur_twice_are_counted_shown_and_told_beside_the_verdict(tmp_path: Path) -> None:
    state = confirmed(tmp_path).state()
    assert state.header is not None
    assert "duplicates" not in Page(build_report(state, tmp_path)).ids  # a journal of before
    state.header.data["duplicates"] = duplicates()
    shown: list[int] = []

    def picture(row: int) -> bytes | None:
        shown.append(row)
        return b"png" if row == 9 else None

    text = build_report(state, tmp_path, picture=picture)
    page = Page(text)
    assert "duplicates" in page.ids
    warning = "3 of 100 test images are among the training images, too, so test accuracies are optimistic"
    assert warning in page.text
    assert page.text.index(warning) < page.text.index("Configurations")
    assert "identical test images, also in training 3 of 100" in page.text
    assert "identical training images, also in the same part 2 of 400" in page.text
    assert "in more than one class anywhere 1" in page.text
    assert "identical: test/b/1.jpg, test, b; train/a/7.jpg, train, a" in page.text
    assert shown == [9, 2, 9, 2]
    assert text.count('alt="test/b/1.jpg, test, b"') == 2
    assert 'alt="train' not in text


def test_where_no_image_occurs_twice_the_report_says_what_was_compared(tmp_path: Path) -> None:
    state = confirmed(tmp_path).state()
    assert state.header is not None
    none: dict[str, Any] = {"counts": {}, "first": []}
    for changes, expected, absent in (
        ({}, "There are none.", "left out"),
        (
            {"near": None},
            "No two images are identical. Nearly identical images were not counted",
            "There are none",
        ),
        (
            {"setting": "group", "left_out": {"counts": {"train-test": 4}, "first": []}},
            "(data.duplicates: group). 4 images were left out of training or validation",
            "not counted",
        ),
    ):
        state.header.data["duplicates"] = duplicates(**{"identical": none, "other_label": none, **changes})
        text = Page(build_report(state, tmp_path)).text
        assert expected in text
        assert absent not in text
        assert "are optimistic" not in text


@pytest.mark.parametrize("spoiled", [None, 7, [], {"identical": 3}, duplicates(identical={"counts": []})])
def test_spoiled_counts_of_copies_cost_their_section_alone(tmp_path: Path, spoiled: Any) -> None:
    state = confirmed(tmp_path).state()
    assert state.header is not None
    state.header.data["duplicates"] = spoiled
    assert "duplicates" not in Page(build_report(state, tmp_path)).ids


def test_what_was_stopped_shared_and_skipped_is_counted(tmp_path: Path) -> None:
    writer = usual(tmp_path)
    writer.suggest("swa-7", {"lr": 1e-3, "swa_start": 2, "swa_lr": 1e-3})
    writer.epoch("swa-7", 0, 0.5, shared_from="base-0")
    writer.epoch("swa-7", 1, 0.5)
    writer.end("swa-7", "pruned")
    text = Page(build_report(writer.state(), tmp_path)).text
    assert "17 epochs were trained and 1 shared with another trial of the same trunk." in text
    assert "Early stopping ended 1 trial and saved 2 epochs." in text


def test_many_trials_stay_a_page_for_a_phone(tmp_path: Path) -> None:
    writer = Writer(tmp_path, experiment(search={"trials": 600}))
    writer.trial("base-0", {"lr": 1e-3}, [0.5])
    for k in range(600):
        params = {"lr": 1e-3, "swa_start": k % 3, "swa_lr": 1e-4 * (1 + k / 10)}
        writer.trial(f"swa-{k}", params, [0.5, 0.6, 0.7, 0.8 + k / 6000])
    text = build_report(writer.state(), tmp_path)
    assert len(text.encode()) < SIX_MEGABYTES
    assert "more rows are in comparison.parquet" in Page(text).text


def test_it_is_written_beside_its_old_self_and_renamed(tmp_path: Path) -> None:
    writer = usual(tmp_path)
    path = write_report(writer.state(), tmp_path)
    inode = path.stat().st_ino
    write_report(writer.state(), tmp_path)
    assert path.stat().st_ino != inode
    assert not list(tmp_path.glob(".*.tmp"))


def test_beside_a_running_search_it_has_a_temporary_name_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = usual(tmp_path).state()
    renamed: list[str] = []
    rename = Path.replace

    def replace(self: Path, target: Path) -> Path:
        renamed.append(self.name)
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    write_report(state, tmp_path)
    write_report(state, tmp_path, exclusive=False)
    assert renamed == [".report.html.tmp", f".report.html.{os.getpid()}.tmp"]


def test_a_page_that_cannot_be_made_does_not_end_the_search(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(state: object, folder: Path) -> None:
        raise ZeroDivisionError

    writer = usual(tmp_path)
    writer.finish()
    pages = ResultWriter(tmp_path, write_report=broken)
    pages.write_all(writer.state())
    pages.write_all(writer.state())
    assert caplog.messages == ["the report cannot be written: ZeroDivisionError"]
    assert (tmp_path / "trials.parquet").exists()


def test_a_full_disk_is_still_told_by_whoever_writes_it(tmp_path: Path) -> None:
    def full(state: object, folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = usual(tmp_path)
    writer.finish()
    with pytest.raises(OSError, match="No space left"):
        ResultWriter(tmp_path, write_report=full).write_all(writer.state())


def test_what_an_old_look_left_unfinished_is_no_reason_for_a_page(tmp_path: Path) -> None:
    written: list[object] = []
    pages = ResultWriter(
        tmp_path, write_report=lambda state, folder: written.append(state), clock=lambda: 0.0
    )
    writer = usual(tmp_path)
    writer.suggest("swa-0-seed8", {"lr": 1e-3, "swa_start": 1, "swa_lr": 5e-4}, "confirm", 8)
    writer.start("swa-0-seed8")
    pages.write_all(writer.state())
    assert not written
    writer.end("swa-0-seed8", "interrupted")  # nothing more will come
    pages.write_all(writer.state())
    assert len(written) == 1
    writer.session(2)
    pages.write_all(writer.state())
    assert len(written) == 1
    writer.start("swa-0-seed8")
    writer.end("swa-0-seed8", "interrupted")
    pages.write_all(writer.state())
    assert len(written) == 2


def test_importance_of_many_trials_is_that_of_a_part_of_them(tmp_path: Path) -> None:
    writer = Writer(tmp_path, experiment(search={"trials": 600}))
    for k in range(2 * MOST_TRIALS):
        params = {"lr": [1e-3, 3e-3][k % 2], "swa_start": k % 3, "swa_lr": 1e-4 * (1 + k / 10)}
        writer.trial(f"swa-{k}", params, [0.5 + 0.2 * (k % 2) + k / 1e5])
    values, why = compute_importance(compare_configurations(writer.state()))
    assert why.startswith("fANOVA over the validation accuracy of 300 of 600 completed SWA trials, at equal")
    assert values is not None
    assert max(values, key=lambda name: values[name]) == "lr"


def test_during_the_search_it_takes_a_hundredth_of_the_time(tmp_path: Path) -> None:
    now, written = [0.0], []

    def slow(state: object, folder: Path) -> None:
        written.append(now[0])
        now[0] += 2.0

    writer = usual(tmp_path)
    pages = ResultWriter(tmp_path, write_report=slow, clock=lambda: now[0])
    for second in range(1000):
        now[0] = max(now[0], float(second))
        pages.write_all(writer.state())
    assert len(written) == 5
    assert written[0] == REPORT_SECONDS
    gaps = [b - a for a, b in itertools.pairwise(written)]
    assert min(gaps) >= 2.0 / 0.01
    writer.finish()
    pages.write_all(writer.state())
    assert len(written) == 6  # nothing more will come
