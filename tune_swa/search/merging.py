"""Plan what merges models: those of the search, once it has nothing more to train, and those of the runs on a
fresh seed that follow a merge's recipe."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tune_swa.config import Experiment, SoupSpec, SwapSpec
from tune_swa.experiment.layout import MERGES, fresh_merge_name
from tune_swa.experiment.merge_events import ModelsMerged, TriedSoup
from tune_swa.experiment.merge_recipe import MergeRecipe
from tune_swa.experiment.state import ExperimentState
from tune_swa.search.event_recorder import EventRecorder
from tune_swa.search.members import list_members, plan_members
from tune_swa.search.retention import Retention

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MergeJob:
    """One merge that a worker computes."""

    merge: str
    """Its label."""
    rule: str
    """`greedy` or `uniform`; `recipe`: all candidates are merged and the model is tested."""
    trunk: str
    file: str
    """Name of the merged weights in the store, which no other merge has; empty on a fresh seed."""
    candidates: tuple[str, ...]
    """Names of trials in the order in which they are tried: of a soup the best by the objective first, of
    SWAP by the members' numbers."""
    seed: int | None = None
    """The fresh seed on which a recipe is followed; None: it merges trials of the search."""

    def describe(self) -> str:
        """The merge in a few words."""
        where = "" if self.seed is None else f" on seed {self.seed}"
        return f"{self.merge} of {len(self.candidates)} trials{where}"

    def build_event(self, tried: list[dict[str, Any]]) -> ModelsMerged:
        """Build the event of its result: each mean that was tried."""
        return ModelsMerged(
            merge=self.merge,
            trunk=self.trunk,
            candidates=list(self.candidates),
            tried=[TriedSoup(**step) for step in tried],
            file=self.file,
        )


class Merging:
    """Hands out the merges that are not recorded yet, each to one worker.

    A merge whose worker fails is not recorded, so the next session tries it again.

    Args:
        experiment: the settings.
        state: the fold of the journal, which goes on.
        recorder: writes the journal.
        retention: keeps the weights that are to be merged.
    """

    def __init__(
        self, experiment: Experiment, state: ExperimentState, recorder: EventRecorder, retention: Retention
    ) -> None:
        self._experiment, self._state = experiment, state
        self._recorder, self._retention = recorder, retention
        self._out: set[MergeJob] = set()
        self._deaths: Counter[MergeJob] = Counter()
        self.failures: dict[MergeJob, str] = {}
        """Why merges could not be computed in this session."""

    def plan_jobs(self) -> Iterator[MergeJob]:
        """Every merge of the completed trials, in the order of the space file and of the trunks; of SWAP, of
        the configurations all of whose members have ended. Then those of fresh seeds, so far as these have
        completed."""
        for spec in self._experiment.merge:
            yield from self._plan_swaps(spec) if spec.method == "swap" else self._plan_soups(spec)
        for look in self._state.confirmations:
            for recipe in map(MergeRecipe.from_event, look.merges or ()):
                for seed in look.seeds:
                    yield from self._plan_test(recipe, seed)

    def take_job(self) -> MergeJob | None:
        """Hand out the next merge; None where all are recorded, handed out or failed.

        To be called when all trials of the stage have ended or are live.
        """
        if not self._experiment.merge:
            return None
        for job in self.plan_jobs():
            if job not in self._out and job not in self.failures and not self._is_recorded(job):
                self._out.add(job)
                return job
        return None

    def take_report(self, job: MergeJob, report: dict[str, Any]) -> None:
        """Record what the worker of a merge reports, or take note of why it could not be computed."""
        if report["event"] == "unmerged":
            self.fail_job(job, report["error"])
        elif job.seed is None:
            self._recorder.record_event(job.build_event(report["tried"]))
        else:
            del report["event"]
            self._recorder.record_merge_test(job.merge, job.seed, job.candidates, **report)
            self._retention.release_members(job.candidates)

    def return_job(self, job: MergeJob) -> None:
        """Take note that the worker of a merge has ended, or died."""
        self._out.discard(job)
        if self._is_recorded(job) or job in self.failures:
            return
        self._deaths[job] += 1
        if self._deaths[job] > self._experiment.search.max_failures:
            times = self._deaths[job]
            self.fail_job(job, f"its worker process died ({times} time{'s' * (times > 1)})")

    def fail_job(self, job: MergeJob, reason: str) -> None:
        """Take note of why a merge cannot be computed now."""
        self.failures[job] = reason
        logger.warning("%s of %s: %s", job.merge, ", ".join(job.candidates), reason)

    def describe_failures(self) -> list[str]:
        """One line on each merge that could not be computed."""
        return [
            f"The {job.describe()} ({job.candidates[0]}, ...) could not be computed: {reason}. Its trials "
            "are done; --resume tries it again"
            for job, reason in self.failures.items()
        ]

    def _plan_soups(self, spec: SoupSpec) -> Iterator[MergeJob]:
        for trunk in self._state.trunks:
            candidates = self._list_candidates(trunk)
            if len(candidates) > 1:
                file = f"{MERGES}/{spec.rule}-{trunk}.pt"
                yield MergeJob(spec.label, spec.rule, trunk, file, candidates)

    def _plan_swaps(self, spec: SwapSpec) -> Iterator[MergeJob]:
        """The mean of a configuration's members, in the order of their numbers: who ended first does not
        matter. Members that failed are left out of it."""
        planned = plan_members(self._experiment, self._state)
        for arm in planned.arms if planned else ():
            members = list_members(self._state, arm.name, spec.members) or []
            if len(members) > 1:
                names = tuple(trial.name for trial in members)
                file = f"{MERGES}/{spec.label}-{arm.name}.pt"
                yield MergeJob(spec.label, spec.rule, members[0].trunk, file, names)

    def _list_candidates(self, trunk: str) -> tuple[str, ...]:
        trials = [self._state.trials[name] for name in self._state.trunks[trunk].trials]
        wanted = ("search", "swa", "completed")
        found = [t for t in trials if (t.stage, t.kind, t.status) == wanted and t.checkpoints]
        return tuple(trial.name for trial in sorted(found, key=self._state.objective.rank_trial))

    def _plan_test(self, recipe: MergeRecipe, seed: int) -> Iterator[MergeJob]:
        """Plan to follow a recipe on a seed, once all of its runs have completed and have their weights."""
        names = recipe.name_members(seed)
        runs = [self._state.trials[name] for name in names if name in self._state.trials]
        if len(runs) == len(names) and all(run.status == "completed" and run.checkpoints for run in runs):
            yield MergeJob(recipe.merge, "recipe", runs[0].trunk, "", tuple(names), seed)

    def _is_recorded(self, job: MergeJob) -> bool:
        if job.seed is not None:
            return fresh_merge_name(job.merge, job.seed) in self._state.tested_merges
        recorded = self._state.merges.get(job.file)
        return recorded is not None and tuple(recorded.candidates) == job.candidates
