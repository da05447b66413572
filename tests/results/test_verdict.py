"""What older journals conclude from fresh seeds, and the words for it: by the rule of their time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.journals import SECOND_ARM, SWA_ARM, TRUNK_ARM, TUNED_ARM, Writer, confirmed, experiment, usual
from tune_swa.errors import RequestError
from tune_swa.inference import statistics
from tune_swa.inference.foresight import foresee_looks
from tune_swa.results.api import load_results, side_by_side
from tune_swa.results.contrasts import Outcome
from tune_swa.results.former_rule import classify_difference
from tune_swa.results.outlook import describe_outlook
from tune_swa.results.predictions import read_predictions
from tune_swa.results.verdict import compute_verdict
from tune_swa.results.verdict_sentences import verdict_text


def text_of(folder: Path, writer: Writer) -> str:
    found = compute_verdict(writer.state(), folder)
    assert found is not None
    return verdict_text(found)


def test_without_fresh_seeds_there_is_none(tmp_path: Path) -> None:
    assert compute_verdict(usual(tmp_path).state(), tmp_path) is None


def test_a_planned_look_that_has_not_been_taken_is_none(tmp_path: Path) -> None:
    writer = usual(tmp_path)
    writer.look([SWA_ARM, TUNED_ARM], [8, 9])
    assert compute_verdict(writer.state(), tmp_path) is None


def test_a_difference_is_found_and_is_what_the_predictions_say(tmp_path: Path) -> None:
    state = confirmed(tmp_path).state()
    found = compute_verdict(state, tmp_path)
    assert found is not None
    assert (found.look, found.alpha, found.images, found.complete) == (1, pytest.approx(0.05), 400, True)
    assert [c.arm.name for c in found.against_plain] == ["swa-0", "swa-1"]
    assert [c.outcome for c in found.against_plain] == ["better", "not distinguishable"]
    said = {name: models["shipped"] for name, models in read_predictions(state, tmp_path).items()}
    table = [
        said[f"swa-0-seed{seed}"].correct.astype(float) - said[f"base-0-seed{seed}"].correct
        for seed in (8, 9, 10, 11, 12)
    ]
    expected = statistics.crossed_interval(np.array(table)).interval
    leading = found.leading
    assert leading is not None
    assert leading.crossed.interval == expected
    raw = [c.crossed.interval.p_value for c in found.against_plain]
    assert [c.p_value for c in found.against_plain] == statistics.adjust_holm(raw)
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
    alone = "Contribution of SWA alone: SWA_0_2e-3 lr=3e-3 against baseline lr=3e-3"
    assert any(line.startswith(alone) for line in lines)
    assert "A BN refresh alone changes the tuned baseline by +0.00 points." in lines


def test_words_for_a_loss(tmp_path: Path) -> None:
    assert text_of(tmp_path, confirmed(tmp_path, gain=-0.2)).startswith(
        "SWA is worse: SWA_1_5e-4 lr=1e-3 loses to the tuned baseline lr=1e-3, -"
    )


def test_words_for_nothing_found_say_what_it_would_take(tmp_path: Path) -> None:
    text = text_of(tmp_path, confirmed(tmp_path, gain=0.01))
    assert text.startswith("Not distinguishable: SWA_1_5e-4 lr=1e-3 and the tuned baseline lr=1e-3, ")
    assert "5 seeds and 400 images detect a difference of" in text
    assert "are needed to detect it" in text


def test_fewer_than_five_seeds_are_no_verdict(tmp_path: Path) -> None:
    text = text_of(tmp_path, confirmed(tmp_path, seeds=(8, 9, 10, 11)))
    assert text.startswith("No verdict with fewer than 5 fresh seeds: ")


def test_a_second_look_has_half_the_level_and_says_what_the_first_one_said(tmp_path: Path) -> None:
    writer = confirmed(tmp_path)
    first = text_of(tmp_path, writer).splitlines()[0]
    writer.look([SWA_ARM, SECOND_ARM, TUNED_ARM], [8, 9, 10, 11, 12], number=2)
    found = compute_verdict(writer.state(), tmp_path)
    assert found is not None
    assert found.alpha == pytest.approx(0.025)
    assert found.leading is not None
    assert found.leading.crossed.interval.level == pytest.approx(0.975)
    assert "This is look 2 at the test images, so its level is 2.5 %" in verdict_text(found)
    assert f"Look 1, at a level of 5 %: {first}" in verdict_text(found).splitlines()


def test_a_run_that_failed_is_left_out_with_its_pair(tmp_path: Path) -> None:
    writer = confirmed(tmp_path, seeds=range(8, 13))
    writer.look([SWA_ARM, SECOND_ARM, TUNED_ARM], range(8, 14), number=2)
    drawn = np.random.default_rng(0)
    writer.tested(TUNED_ARM, 13, drawn.random(400) < 0.8)
    writer.tested(SECOND_ARM, 13, drawn.random(400) < 0.8)
    writer.suggest("swa-0-seed13", SWA_ARM["params"], "confirm", 13)
    writer.end("swa-0-seed13", "failed", "the loss became NaN in epoch 2")
    found = compute_verdict(writer.state(), tmp_path)
    assert found is not None
    assert {c.arm.name: c.seeds for c in found.against_plain} == {
        "swa-0": (8, 9, 10, 11, 12),
        "swa-1": (8, 9, 10, 11, 12, 13),
    }
    assert found.complete
    failed = "Runs that did not complete: SWA_1_5e-4 lr=1e-3 on seed 13. Only seeds on which both sides"
    assert f"{failed} completed are compared." in verdict_text(found)


def test_before_all_runs_have_ended_there_is_no_verdict(tmp_path: Path) -> None:
    """Whoever could stop at the first "better" would look as often as they like."""
    writer = usual(tmp_path)
    arms = [SWA_ARM, SECOND_ARM, TUNED_ARM, TRUNK_ARM]
    writer.look(arms, range(8, 28))
    drawn = np.random.default_rng(3)
    for seed in range(8, 14):
        for arm in arms:
            writer.tested(arm, seed, drawn.random(400) < (0.95 if arm is SWA_ARM else 0.7))
    found = compute_verdict(writer.state(), tmp_path)
    assert found is not None
    assert [c.outcome for c in found.against_plain] == ["unfinished", "unfinished"]
    lines = verdict_text(found).splitlines()
    assert lines[0] == "No verdict yet: 24 of 80 runs on fresh seeds have completed."
    assert lines[1].startswith("Preliminary: SWA_1_5e-4 lr=1e-3 against the tuned baseline lr=1e-3, +")
    results = load_results(tmp_path)
    assert set(results.compare()["verdict"].dropna()) == {"unfinished"}
    assert set(results.comparison["verdict"].dropna()) == {"unfinished"}
    assert side_by_side([tmp_path])["verdict"].tolist() == ["unfinished"]


def test_until_a_further_look_has_ended_the_one_before_stands(tmp_path: Path) -> None:
    writer = confirmed(tmp_path)
    first = text_of(tmp_path, writer).splitlines()[0]
    writer.look([SWA_ARM, SECOND_ARM, TUNED_ARM], range(8, 14), number=2)
    assert text_of(tmp_path, writer).splitlines()[0] == (
        "No verdict yet: 15 of 18 runs on fresh seeds have completed. Until all have, the verdict of look "
        f"1 applies: {first}"
    )


def test_a_finalist_that_failed_on_every_seed_still_counts_for_holm(tmp_path: Path) -> None:
    whole = confirmed(tmp_path)
    both = compute_verdict(whole.state(), tmp_path)
    assert both is not None
    writer = usual(tmp_path / "failed")
    writer.look([SWA_ARM, SECOND_ARM, TUNED_ARM, TRUNK_ARM], range(8, 13))
    drawn = np.random.default_rng(3)
    for seed in range(8, 13):
        for arm in (TRUNK_ARM, TUNED_ARM, SECOND_ARM, SWA_ARM):  # drawn as `confirmed` draws
            right = drawn.random(400) < (0.9 if arm is SWA_ARM else 0.8)
            if arm is not SECOND_ARM:
                writer.tested(arm, seed, right)
                continue
            writer.suggest(f"swa-1-seed{seed}", SECOND_ARM["params"], "confirm", seed)
            writer.end(f"swa-1-seed{seed}", "failed", "the loss became NaN in epoch 2")
    found = compute_verdict(writer.state(), tmp_path / "failed")
    assert found is not None
    (c,) = found.against_plain
    assert c.crossed.interval == both.against_plain[0].crossed.interval
    assert c.p_value == pytest.approx(2 * c.crossed.interval.p_value)
    assert "SWA_0_2e-3 lr=3e-3 on seeds 8, 9, 10, 11, 12" in verdict_text(found)


def test_without_a_baseline_there_is_no_verdict_but_a_description(tmp_path: Path) -> None:
    writer = usual(tmp_path)
    trunk = TRUNK_ARM  # whose role is not the tuned baseline's
    writer.look([SECOND_ARM, trunk], range(8, 13))
    drawn = np.random.default_rng(1)
    for seed in range(8, 13):
        writer.tested(SECOND_ARM, seed, drawn.random(400) < 0.9)
        writer.tested(trunk, seed, drawn.random(400) < 0.8)
    lines = text_of(tmp_path, writer).splitlines()
    assert lines[0] == "No verdict: no baseline completed in the search."
    assert lines[1].startswith("Contribution of SWA alone: SWA_0_2e-3 lr=3e-3 against baseline lr=3e-3, +")
    assert load_results(tmp_path).compare()["role"].tolist() == ["trunk"]


def test_a_pair_is_compared_once_and_trunks_get_no_verdict(tmp_path: Path) -> None:
    confirmed(tmp_path)
    table = load_results(tmp_path).compare()
    assert list(zip(table["configuration"], table["role"], strict=True)) == [
        ("SWA_1_5e-4 lr=1e-3", "baseline"),
        ("SWA_0_2e-3 lr=3e-3", "baseline"),
        ("SWA_0_2e-3 lr=3e-3", "trunk"),
    ]
    assert table["verdict"].tolist()[:2] == ["better", "not distinguishable"]
    assert table["verdict"].isna().tolist() == [False, False, True]


def test_what_the_intervals_do_not_count_is_said(tmp_path: Path) -> None:
    """A p above the level beside an interval without 0 would look like a mistake."""
    assert "adjusted for 2 finalists (Holm), the intervals are not." in text_of(tmp_path, confirmed(tmp_path))


@pytest.mark.parametrize(
    ("seeds_differ", "images_differ", "words"),
    [
        (0.3, 0.0, "too small to detect with any realistic number of seeds"),
        (0.0, 0.3, "more seeds alone will not detect it: more test images are needed"),
        (0.0, 0.0, "agree on every image, so power cannot be estimated"),
    ],
)
def test_what_it_would_take_names_what_limits(
    seeds_differ: float, images_differ: float, words: str, tmp_path: Path
) -> None:
    writer = usual(tmp_path)
    writer.look([SWA_ARM, TUNED_ARM], range(8, 13))
    plain = np.arange(1000) < 800
    for k, seed in enumerate(range(8, 13)):
        other = plain.copy()
        # as many gained as lost, but for one image in a thousand
        other[: int(1000 * images_differ / 2)] = False
        other[1000 - int(1000 * images_differ / 2) - (1 if images_differ else 0) :] = True
        shift = int(1000 * seeds_differ * (k - 2) / 10) + (1 if seeds_differ and k == 0 else 0)
        if shift > 0:
            other[800 : 800 + shift] = True
        elif shift < 0:
            other[800 + shift : 800] = False
        writer.tested(SWA_ARM, seed, other)
        writer.tested(TUNED_ARM, seed, plain)
    assert words in text_of(tmp_path, writer)


def test_one_more_seed_after_a_failure_is_a_further_look(tmp_path: Path) -> None:
    writer = usual(tmp_path)
    writer.look([SWA_ARM, TUNED_ARM], range(8, 13))
    for seed in range(8, 12):
        writer.tested(SWA_ARM, seed, np.arange(100) < 90)
        writer.tested(TUNED_ARM, seed, np.arange(100) < 80 + seed % 3)
    for arm in (SWA_ARM, TUNED_ARM):
        writer.suggest(f"{arm['name']}-seed12", arm["params"], "confirm", 12)
        writer.end(f"{arm['name']}-seed12", "failed", "GPU memory is exhausted")
    text = text_of(tmp_path, writer)
    assert text.startswith("No verdict with fewer than 5 fresh seeds: ")
    assert "More seeds (`tune-swa confirm --seeds`) are a further look, at half the level." in text


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
        compute_verdict(state, tmp_path)


@pytest.mark.parametrize(
    ("mean", "p", "seeds", "alpha", "outcome"),
    [
        (0.01, 0.04, 5, 0.05, "better"),
        (-0.01, 0.04, 5, 0.05, "worse"),
        (0.01, 0.051, 5, 0.05, "not distinguishable"),
        (0.01, 0.04, 5, 0.025, "not distinguishable"),
        (0.01, 0.0, 4, 0.05, "too few seeds"),
        (0.0, 0.0, 5, 0.05, "not distinguishable"),
    ],
)
def test_the_rule(mean: float, p: float, seeds: int, alpha: float, outcome: Outcome) -> None:
    assert classify_difference(mean, p, seeds, alpha) == outcome


def test_the_outlook_says_what_the_planned_seeds_find() -> None:
    fixed, adaptive = experiment(confirm={"seeds": 5}), experiment(confirm={"seeds": 5, "max_seeds": 20})
    few, many = foresee_looks(0.01, 0.006, 337, (5,)), foresee_looks(0.01, 0.006, 337, (5, 10, 15, 20))
    assert (
        "5 seeds and 337 test images detect a gain of one point over the best plain training in"
        in describe_outlook(fixed, 337)
    )
    assert f" in {100 * few.chance:.0f} % of the cases" in describe_outlook(fixed, 337)
    text = describe_outlook(adaptive, 337)
    spent = f"({many.mean_seeds:.0f} on average, {many.mean_seeds_without:.0f} without any gain)"
    assert f"up to 20 seeds {spent} and 337 test images detect" in text
    assert many.chance > few.chance
    assert "1,000 test images" in describe_outlook(fixed, None)
    few = experiment(confirm={"top": 2, "seeds": 3})
    assert (
        describe_outlook(few, 337)
        == "3 fresh seeds are too few for a verdict; at least 5 are needed (confirm.seeds)."
    )
    assert describe_outlook(experiment(confirm={"seeds": 1}), 337).startswith("1 fresh seed is too few for")


def test_a_baseline_that_does_better_than_the_tuned_one_is_named(tmp_path: Path) -> None:
    """One seed has chosen the tuned one, so the difference to it may be the choice's."""
    writer = usual(tmp_path)
    writer.look([SWA_ARM, TUNED_ARM, TRUNK_ARM], range(8, 13))
    for seed in range(8, 13):
        writer.tested(SWA_ARM, seed, np.arange(100) < 90 + seed % 2)
        writer.tested(TUNED_ARM, seed, np.arange(100) < 80)
        writer.tested(TRUNK_ARM, seed, np.arange(100) < 85)
    said = (
        "On the fresh seeds, baseline lr=3e-3 has 85.00 %, more than the tuned baseline (80.00 %), which was "
        "chosen on a single seed: part of the difference to the tuned baseline is due to that choice."
    )
    assert said in text_of(tmp_path, writer).splitlines()
    assert "chosen on a single seed" not in text_of(tmp_path / "usual", _weaker_trunk(tmp_path / "usual"))


def _weaker_trunk(folder: Path) -> Writer:
    writer = usual(folder)
    writer.look([SWA_ARM, TUNED_ARM, TRUNK_ARM], range(8, 13))
    for seed in range(8, 13):
        for arm, right in ((SWA_ARM, 90 + seed % 2), (TUNED_ARM, 80), (TRUNK_ARM, 80)):
            writer.tested(arm, seed, np.arange(100) < right)
    return writer
