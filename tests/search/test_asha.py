"""The stopping rule on made-up curves: who is stopped where, and who never meets whom."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tune_swa.config import SchedulerSpec
from tune_swa.experiment.trial_state import TrialState
from tune_swa.search.asha import PhaseAsha, branch_rungs, trunk_rungs

EPOCHS = 20


def swa(name: str, start: int, trunk: str | None = None) -> TrialState:
    return TrialState(name, "swa", "search", {}, 0, "tpe", 0, trunk or f"trunk of {name}", start + 1)


def baseline(name: str, trunk: str | None = None) -> TrialState:
    return TrialState(name, "baseline", "search", {}, 0, "baseline", 0, trunk or f"trunk of {name}", None)


def asha(**changes: object) -> PhaseAsha:
    spec = SchedulerSpec.model_validate({"trunk_rungs": [2, 8], "reduction_factor": 3, **changes})
    return PhaseAsha(spec, EPOCHS)


def play(rule: PhaseAsha, trial: TrialState, curve: list[float], first: int = 0) -> int | None:
    """Report a curve from epoch `first` on; return the epoch it was stopped at."""
    for epoch, value in enumerate(curve, start=first):
        if rule.judge_epoch(trial, epoch, value).stop:
            return epoch
    return None


def test_the_ladders() -> None:
    assert trunk_rungs(SchedulerSpec(grace_epochs=3), 20, False) == [9]  # half way
    assert trunk_rungs(SchedulerSpec(grace_epochs=12), 120, False) == [59]
    assert trunk_rungs(SchedulerSpec(grace_epochs=15), 20, False) == [14]  # not before grace
    assert trunk_rungs(SchedulerSpec(grace_epochs=3), 3, False) == []  # the run is too short
    assert branch_rungs(SchedulerSpec(reduction_factor=3), 20) == [12, 16]
    assert branch_rungs(SchedulerSpec(reduction_factor=3), 120) == [79, 105, 114]
    assert trunk_rungs(SchedulerSpec(trunk_rungs=(1, 4)), 20, False) == [1, 4]
    assert branch_rungs(SchedulerSpec(branch_rungs=(7,)), 20) == [7]


def test_trunks_that_all_have_a_baseline_are_not_judged_unless_asked_for() -> None:
    assert trunk_rungs(SchedulerSpec(), 20, True) == []
    assert trunk_rungs(SchedulerSpec(trunk_rungs=(1, 4)), 20, True) == [1, 4]
    rule = PhaseAsha(SchedulerSpec(), EPOCHS, every_trunk_has_a_baseline=True)
    assert [play(rule, swa(n, 18), [v] * EPOCHS) for n, v in (("a", 0.9), ("b", 0.1))] == [None, None]


@settings(max_examples=100, deadline=None)
@given(epochs=st.integers(2, 500), grace=st.integers(1, 50), factor=st.floats(1.1, 10))
def test_rungs_lie_inside_the_run(epochs: int, grace: int, factor: float) -> None:
    spec = SchedulerSpec(grace_epochs=grace, reduction_factor=factor)
    for rungs in (trunk_rungs(spec, epochs, False), branch_rungs(spec, epochs)):
        assert rungs == sorted(set(rungs))
        assert all(0 <= r < epochs - 1 for r in rungs)


def test_the_worst_is_stopped_at_the_first_rung_and_the_first_one_never() -> None:
    rule = asha()
    assert play(rule, swa("a", 18), [0.5] * EPOCHS) is None
    assert play(rule, swa("b", 18), [0.4] * EPOCHS) == 2
    assert play(rule, swa("c", 18), [0.6] * EPOCHS) is None


def test_stopped_at_a_later_rung() -> None:
    rule = asha()
    assert play(rule, swa("a", 18), [0.5] * 3 + [0.9] * 17) is None
    # as good at the first rung, behind at the second
    assert play(rule, swa("b", 18), [0.5] * 3 + [0.7] * 17) == 8


def test_the_cutoff_is_the_quantile_of_what_the_rung_saw_before() -> None:
    """As in Ray's and Optuna's asynchronous halving: with factor 3, the upper third goes on."""
    rule = asha()
    seen = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    for index, value in enumerate(seen):
        rule.judge_epoch(swa(str(index), 18), 2, value)
    cutoff = float(np.quantile(seen, 2 / 3))
    assert rule.judge_epoch(swa("below", 18), 2, cutoff - 1e-9).stop
    # the rung has one more value now, so the quantile has moved
    cutoff = float(np.quantile([*seen, cutoff - 1e-9], 2 / 3))
    assert not rule.judge_epoch(swa("tie", 18), 2, cutoff).stop


def test_ties_go_on() -> None:
    rule = asha()
    assert [play(rule, swa(n, 18), [0.5] * EPOCHS) for n in "abcd"] == [None] * 4


def test_a_baseline_feeds_the_trunk_rungs_and_is_never_stopped() -> None:
    rule = asha()
    play(rule, swa("good", 18), [0.9] * EPOCHS)
    assert play(rule, baseline("bad"), [0.1] * EPOCHS) is None
    assert rule.rung_values("trunk", 2) == {"trunk of good": 0.9, "trunk of bad": 0.1}
    assert rule.rung_values("branch", 12) == {}


def test_a_baselines_trunk_can_stop_the_swa_trials_on_it() -> None:
    """Its verdict holds for the SWA trials that share the trunk; the baseline runs on."""
    rule = asha()
    play(rule, baseline("good"), [0.9] * EPOCHS)
    assert play(rule, baseline("bad", trunk="shared"), [0.1] * EPOCHS) is None
    assert play(rule, swa("on it", 10, trunk="shared"), [0.1] * EPOCHS) == 2


def test_a_trunk_counts_once_however_many_trials_run_it() -> None:
    rule = asha()
    for index in range(5):
        play(rule, swa(str(index), 10, trunk="shared"), [0.5] * 3)
    assert rule.rung_values("trunk", 2) == {"shared": 0.5}
    # with five records of 0.5, 0.4 would be far below the cutoff in any case; one record suffices
    assert rule.judge_epoch(swa("x", 10), 2, 0.4).stop


def test_a_trunks_verdict_holds_for_all_its_trials() -> None:
    rule = asha()
    play(rule, swa("good", 18), [0.9] * EPOCHS)
    assert play(rule, swa("first", 18, trunk="shared"), [0.5] * EPOCHS) == 2
    # the record at the rung stays what it was, whatever came after
    for name in "abc":
        rule.judge_epoch(baseline(name), 2, 0.0)
    assert play(rule, swa("second", 18, trunk="shared"), [0.5] * EPOCHS) == 2


def test_a_late_starter_is_in_no_rung_before_its_start() -> None:
    """A trial whose first report is epoch 14 (its trunk came from another) fills rung 16 only."""
    rule = asha()
    late = swa("late", 12)
    assert play(rule, late, [0.9] * 6, first=14) is None
    assert rule.rung_values("trunk", 2) == {}
    assert rule.rung_values("trunk", 8) == {}
    assert rule.rung_values("branch", 12) == {}
    assert rule.rung_values("branch", 16) == {"late": 0.9}


def test_a_trial_is_recorded_only_at_the_rungs_very_epoch() -> None:
    rule = asha()
    assert rule.judge_epoch(swa("a", 18), 3, 0.9).rung is None
    assert rule.rung_values("trunk", 2) == {}


def test_no_raw_value_meets_an_averaged_one() -> None:
    """At a rung of both ladders, raw models are with raw ones, averages with averages."""
    rule = asha(trunk_rungs=[10], branch_rungs=[10])
    rule.judge_epoch(swa("averaged", 5), 10, 0.95)
    rule.judge_epoch(swa("raw", 15), 10, 0.5)
    rule.judge_epoch(baseline("base"), 10, 0.6)
    assert rule.rung_values("branch", 10) == {"averaged": 0.95}
    assert rule.rung_values("trunk", 10) == {"trunk of raw": 0.5, "trunk of base": 0.6}
    # 0.7 is far below the average, and above every raw model: it goes on
    assert not rule.judge_epoch(swa("other raw", 15), 10, 0.7).stop
    assert rule.judge_epoch(swa("poor average", 5), 10, 0.7).stop


def test_the_first_average_is_a_copy_and_is_not_judged() -> None:
    """After epoch swa_start+1 the average holds one model: it is a raw one still."""
    rule = asha(trunk_rungs=[10], branch_rungs=[10])
    rule.judge_epoch(swa("averaged", 5), 10, 0.95)
    first = swa("first", 9)
    assert first.fork_epoch == 10
    assert rule.judge_epoch(first, 10, 0.1).rung is None
    assert list(rule.rung_values("branch", 10)) == ["averaged"]
    assert list(rule.rung_values("trunk", 10)) == []


def test_switched_off_it_stops_nobody() -> None:
    rule = asha(asha=False)
    assert [play(rule, swa(n, 5), [v] * EPOCHS) for n, v in (("a", 0.9), ("b", 0.1))] == [None, None]


_reports = st.lists(st.tuples(st.integers(0, 7), st.integers(0, EPOCHS - 1), st.floats(0, 1)), max_size=60)


@settings(max_examples=200, deadline=None)
@given(reports=_reports)
def test_rungs_hold_what_belongs_there(reports: list[tuple[int, int, float]]) -> None:
    """Whatever is reported in whatever order: baselines go on, phases stay apart, and the same
    reports give the same verdicts again (which is how a resume rebuilds the rungs)."""
    trials = [baseline("0"), baseline("1"), *(swa(str(i), 2 * i) for i in range(2, 8))]
    rule, again = asha(), asha()
    for index, epoch, value in reports:
        trial = trials[index]
        verdict = rule.judge_epoch(trial, epoch, value)
        assert verdict == again.judge_epoch(trial, epoch, value)
        if trial.kind == "baseline":
            assert not verdict.stop
        if verdict.stop:
            assert verdict.rung == epoch
    for rung in rule.branch_rungs:
        for name in rule.rung_values("branch", rung):
            first = trials[int(name)].fork_epoch
            assert first is not None
            assert rung > first
    for rung in rule.trunk_rungs:
        for trunk in rule.rung_values("trunk", rung):
            first = trials[int(trunk.removeprefix("trunk of "))].fork_epoch
            assert first is None or rung < first
