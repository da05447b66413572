"""What is concluded from fresh seeds, and the words for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_up import SECOND_ARM, SWA_ARM, TUNED_ARM, Writer, confirmed, experiment, usual

from tune_swa.errors import RequestError
from tune_swa.results import statistics
from tune_swa.results.predictions import read_predictions
from tune_swa.results.verdict import Words, decide, outlook, verdict, verdict_text


def text_of(folder: Path, writer: Writer) -> str:
    found = verdict(writer.state(), folder)
    assert found is not None
    return verdict_text(found)


def test_without_fresh_seeds_there_is_none(tmp_path: Path) -> None:
    assert verdict(usual(tmp_path).state(), tmp_path) is None


def test_a_planned_look_that_has_not_been_taken_is_none(tmp_path: Path) -> None:
    writer = usual(tmp_path)
    writer.look([SWA_ARM, TUNED_ARM], [8, 9])
    assert verdict(writer.state(), tmp_path) is None


def test_a_difference_is_found_and_is_what_the_predictions_say(tmp_path: Path) -> None:
    state = confirmed(tmp_path).state()
    found = verdict(state, tmp_path)
    assert found is not None
    assert (found.look, found.alpha, found.images, found.complete) == (1, pytest.approx(0.05), 400, True)
    assert [c.arm.name for c in found.against_baseline] == ["swa-0", "swa-1"]
    assert [c.words for c in found.against_baseline] == ["better", "not distinguishable"]
    said = {name: models["shipped"] for name, models in read_predictions(state, tmp_path).items()}
    table = [
        said[f"swa-0-seed{seed}"].right.astype(float) - said[f"base-0-seed{seed}"].right
        for seed in (8, 9, 10, 11, 12)
    ]
    expected = statistics.crossed(np.array(table)).interval
    leading = found.leading
    assert leading is not None
    assert leading.crossed.interval == expected
    raw = [c.crossed.interval.p_value for c in found.against_baseline]
    assert [c.p_value for c in found.against_baseline] == statistics.holm(raw)
    # SWA's part alone: each finalist against the baseline of its own rate, not corrected
    assert [(c.arm.name, c.against.name) for c in found.against_trunk] == [
        ("swa-0", "base-0"),
        ("swa-1", "base-1"),
    ]


def test_words_for_a_gain(tmp_path: Path) -> None:
    lines = text_of(tmp_path, confirmed(tmp_path)).splitlines()
    assert lines[0].startswith("SWA is better: SWA_1_5e-4 lr=1e-3 beats the tuned baseline lr=1e-3, +")
    assert lines[0].endswith("on 5 fresh seeds and 400 test images.")
    assert lines[1].startswith("Not distinguishable: SWA_0_2e-3 lr=3e-3 and the tuned baseline lr=1e-3, ")
    assert any(
        line.startswith("SWA's part alone: SWA_0_2e-3 lr=3e-3 against baseline lr=3e-3") for line in lines
    )
    assert "A BN refresh alone changes the tuned baseline by +0.00 points." in lines


def test_words_for_a_loss(tmp_path: Path) -> None:
    assert text_of(tmp_path, confirmed(tmp_path, gain=-0.2)).startswith(
        "SWA is worse: SWA_1_5e-4 lr=1e-3 loses against the tuned baseline lr=1e-3, -"
    )


def test_words_for_nothing_found_say_what_it_would_take(tmp_path: Path) -> None:
    text = text_of(tmp_path, confirmed(tmp_path, gain=0.01))
    assert text.startswith("Not distinguishable: SWA_1_5e-4 lr=1e-3 and the tuned baseline lr=1e-3, ")
    assert "5 seeds and 400 images find a difference of" in text
    assert "it takes" in text


def test_fewer_than_five_seeds_are_no_verdict(tmp_path: Path) -> None:
    text = text_of(tmp_path, confirmed(tmp_path, seeds=(8, 9, 10, 11)))
    assert text.startswith("No verdict, 4 fresh seeds are too few (5 or more): ")


def test_a_second_look_has_half_the_level_and_says_so(tmp_path: Path) -> None:
    writer = confirmed(tmp_path)
    writer.look([SWA_ARM, SECOND_ARM, TUNED_ARM], [8, 9, 10, 11, 12], number=2)
    found = verdict(writer.state(), tmp_path)
    assert found is not None
    assert found.alpha == pytest.approx(0.025)
    assert found.leading is not None
    assert found.leading.crossed.interval.level == pytest.approx(0.975)
    assert "This is look 2 at the test images, so its level is 2.5 %" in verdict_text(found)


def test_a_run_that_failed_is_left_out_with_its_pair(tmp_path: Path) -> None:
    writer = confirmed(tmp_path, seeds=range(8, 13))
    writer.look([SWA_ARM, SECOND_ARM, TUNED_ARM], range(8, 14), number=2)
    drawn = np.random.default_rng(0)
    writer.tested(TUNED_ARM, 13, drawn.random(400) < 0.8)
    writer.tested(SECOND_ARM, 13, drawn.random(400) < 0.8)
    writer.suggest("swa-0-seed13", SWA_ARM["params"], "confirm", 13)
    writer.end("swa-0-seed13", "failed", "the loss became NaN in epoch 2")
    found = verdict(writer.state(), tmp_path)
    assert found is not None
    assert {c.arm.name: c.seeds for c in found.against_baseline} == {
        "swa-0": (8, 9, 10, 11, 12),
        "swa-1": (8, 9, 10, 11, 12, 13),
    }
    assert found.complete
    assert "1 of its runs did not complete; a pair counts where both did." in verdict_text(found)


def test_a_verdict_under_way_says_that_it_is_none_yet(tmp_path: Path) -> None:
    writer = confirmed(tmp_path)
    writer.look([SWA_ARM, SECOND_ARM, TUNED_ARM], range(8, 14), number=2)
    text = text_of(tmp_path, writer)
    assert "3 of its runs have not ended, so this is not the verdict yet." in text


@pytest.mark.parametrize("spoil", ["remove", "truncate", "other images"])
def test_predictions_that_cannot_be_read_are_named(tmp_path: Path, spoil: str) -> None:
    state = confirmed(tmp_path).state()
    path = tmp_path / "predictions" / "swa-0-seed9.npz"
    if spoil == "remove":
        path.unlink()
    elif spoil == "truncate":
        path.write_bytes(path.read_bytes()[:100])
    else:
        np.savez(path, label=np.zeros(3), **{"shipped.predicted": np.zeros(3)})
    with pytest.raises(RequestError, match=r"swa-0-seed9\.npz: the predictions on the test images cannot be"):
        verdict(state, tmp_path)


@pytest.mark.parametrize(
    ("mean", "p", "seeds", "alpha", "words"),
    [
        (0.01, 0.04, 5, 0.05, "better"),
        (-0.01, 0.04, 5, 0.05, "worse"),
        (0.01, 0.051, 5, 0.05, "not distinguishable"),
        (0.01, 0.04, 5, 0.025, "not distinguishable"),
        (0.01, 0.0, 4, 0.05, "too few seeds"),
        (0.0, 0.0, 5, 0.05, "not distinguishable"),
    ],
)
def test_the_rule(mean: float, p: float, seeds: int, alpha: float, words: Words) -> None:
    assert decide(mean, p, seeds, alpha) == words


def test_the_outlook_is_the_designs_figure() -> None:
    """Section 10 of the design: 0.9 points between seeds, five seeds, two finalists, a gain of one point."""
    spec = experiment(confirm={"top": 2, "seeds": 5}, search={"trials": 4})
    assert "5 seeds find a gain of one point in 31 % of the cases." in outlook(spec)
    few = experiment(confirm={"top": 2, "seeds": 3})
    assert outlook(few) == "3 fresh seeds are too few for a verdict; it takes 5 or more (confirm.seeds)."
