"""Forecast what a search takes on this machine, from the journal of its rehearsal."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from tune_swa.config import AverageSpec, Experiment
from tune_swa.config.rescaling import rescale_experiment
from tune_swa.execution.slots import total_trials
from tune_swa.experiment.events import EpochReported, Event, TrialStarted, TrialSuggested
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState
from tune_swa.search.confirm_cost import looks_cost, members_cost
from tune_swa.search.simulation import SimulatedSearch, TrialTimes, simulate_search
from tune_swa.search.trunk_sharing import planned_epochs

MOST_EPOCHS = 12_000
"""Epochs that are gone through one by one, in some twenty seconds; of a longer search some stand for several,
and some trials too."""
LEAST_EPOCHS = 40
"""Of a run that stands for a longer one: of 10 epochs, one is a tenth."""
DRAWS = 4
"""Of made-up accuracies at most, the shortest search of which counts."""
SAVING_SHARE = 1.02
"""`checkpoint_every: auto` takes a fiftieth of a trial's time."""


@dataclass(frozen=True)
class ImageCounts:
    """Images of each part."""

    train: int
    val: int
    test: int


@dataclass(frozen=True)
class Rates:
    """Seconds that a worker takes, as measured."""

    train: float
    """To train on an image."""
    refresh: float
    """For an image of a refresh of the batch-normalisation statistics."""
    evaluate: float
    """To evaluate an image."""
    epoch: float
    """For an epoch, besides."""
    save: float
    """To write a state."""
    trial: float
    """For a trial, besides: from a free slot to its first epoch, and what that takes more than others."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Of an average's score, by method: in units of a refresh and an evaluation for each of its draws."""


@dataclass(frozen=True)
class Forecast:
    """What a search takes, at least and at most: early stopping and looks decide between these."""

    low: SimulatedSearch
    high: SimulatedSearch
    besides: float
    """Seconds for decoding, the start and the end, and for further members of SWAP."""

    @property
    def seconds(self) -> tuple[float, float]:
        """Of the whole search, at least and at most."""
        ends = sorted((self.low.seconds, self.high.seconds))
        return self.besides + ends[0], self.besides + ends[1]


def measure_rates(
    events: Iterable[Event], state: ExperimentState, experiment: Experiment, images: ImageCounts
) -> Rates:
    """Measure what the parts of a trial take.

    In the first epoch of a trial memory is taken and kernels are chosen: what it takes more than the others
    is counted for the trial. Epochs on fresh seeds count, when as many slots are taken as can be.

    Args:
        events: of the journal of a search that has ended.
        state: what they fold into.
        experiment: its settings.
        images: it had.
    """
    measured = _Measured(state, experiment, images)
    for event in events:
        measured.add_event(event)
    return measured.summarise()


class _Measured:
    """Collects seconds from a journal."""

    def __init__(self, state: ExperimentState, experiment: Experiment, images: ImageCounts) -> None:
        self.state, self.experiment, self.images = state, experiment, images
        self.found: dict[str, list[tuple[int, float]]] = defaultdict(list)
        """Seconds by what they are of, with a rank: those of the highest rank count."""
        self.suggested: dict[str, float] = {}
        self.last: dict[str, float] = {}
        """When each trial's last event was."""
        self.fresh: set[str] = set()
        """Trials that have not reported since they started."""
        self.first: list[tuple[int, float, tuple[int, int, int]]] = []
        """Of first epochs: rank, seconds since the start, and images that were trained on, refreshed with and
        evaluated."""

    def add_event(self, event: Event) -> None:
        if isinstance(event, TrialSuggested):
            self.suggested[event.trial] = event.time
        elif isinstance(event, TrialStarted):
            self.last[event.trial] = event.time
            self.fresh.add(event.trial)
            if event.attempt == 1 and event.trial in self.suggested:
                trial = self.state.trials[event.trial]
                waited = event.time - self.suggested[event.trial]
                self.found["trial"].append((self._rank(trial), waited))
        elif isinstance(event, EpochReported) and event.trial in self.last:
            self._add_epoch(event, self.state.trials[event.trial])
            self.last[event.trial] = event.time
            self.fresh.discard(event.trial)

    def _rank(self, trial: TrialState, *, first: bool = False) -> int:
        return (0 if first else 2) + (trial.stage == "confirm")

    def _add_epoch(self, event: EpochReported, trial: TrialState) -> None:
        record, images = event.record, self.images
        first = event.trial in self.fresh
        rank = self._rank(trial, first=first)
        train, refresh, evaluate = (record.get(f"{part}_seconds") or 0.0 for part in ("train", "bn", "eval"))
        branch = record.get("phase") == "branch"
        taken_over = record.get("shared_from") is not None
        if train:
            self.found["train"].append((rank, train / images.train))
        refreshed = count_refreshed(self.experiment, images.train)
        if branch and (refresh or self.experiment.averaging.tail != "cyclic"):
            self.found["refresh"].append((rank, refresh / refreshed))
        passes = 1 if taken_over or not branch else 2
        if first:
            shown = images.train * bool(train), refreshed * bool(refresh), passes * images.val
            self.first.append((self._rank(trial), event.time - self.last[event.trial], shown))
        self.found["evaluate"].append((rank, evaluate / (passes * images.val)))
        if trial.stage == "confirm" and event.epoch == self.experiment.train.epochs - 1:
            return  # it was tested as well
        scored = self._add_scores(trial, event.epoch)
        rest = event.time - self.last[event.trial] - train - refresh - evaluate - scored
        saved = event.checkpoint is not None or bool(event.get("published"))
        if not first:
            self.found["save" if saved else "epoch"].append((rank, rest))

    def _add_scores(self, trial: TrialState, epoch: int) -> float:
        """Take in the scores of averages besides the leading one; return their seconds."""
        leader = self.experiment.averages[0].label if self.experiment.averages else None
        total = 0.0
        for label, score in trial.scores.get(epoch, {}).items():
            if trial.kind == "swa" and label == leader:
                continue
            seconds, members = score.get("seconds", 0.0), max(1, score["members"])
            total += seconds
            self.found[f"score {read_method(label)}"].append((2, seconds / members))
        return total

    def summarise(self) -> Rates:
        typical = {name: _choose_typical(values) for name, values in self.found.items()}
        train, refresh, evaluate = (typical.get(name, 0.0) for name in ("train", "refresh", "evaluate"))
        epoch = max(0.0, typical.get("epoch", 0.0))
        save = max(0.0, typical.get("save", epoch) - epoch)
        refreshed = count_refreshed(self.experiment, self.images.train)
        unit = refresh * refreshed + evaluate * self.images.val
        scores = {
            name.removeprefix("score "): seconds / unit
            for name, seconds in typical.items()
            if name.startswith("score ") and unit > 0
        }
        trial = max(0.0, typical.get("trial", 0.0))
        if self.first:
            rates = train, refresh, evaluate
            more = [
                (
                    rank,
                    seconds - epoch - sum(rate * number for rate, number in zip(rates, shown, strict=True)),
                )
                for rank, seconds, shown in self.first
            ]
            trial += max(0.0, _choose_typical(more))
        return Rates(train, refresh, evaluate, epoch, save, trial, scores)


def read_method(label: str) -> str:
    """Return the method of an average, with which its label begins."""
    return label.partition("-")[0]


def count_refreshed(experiment: Experiment, train: int) -> int:
    """Count the images of a refresh of the batch-normalisation statistics."""
    averaging = experiment.averaging
    if averaging.bn_batches is None:
        return train
    return min(train, averaging.bn_batches * (averaging.bn_batch_size or experiment.train.batch_size))


def forecast_search(
    experiment: Experiment, slots: int, rates: Rates, images: ImageCounts, besides: float, *, confirm: bool
) -> Forecast:
    """Forecast a search.

    Args:
        experiment: its settings.
        slots: trials at once.
        rates: as measured.
        images: of the search.
        besides: seconds for decoding, the start and the end.
        confirm: whether fresh seeds follow.
    """
    times = compute_times(experiment, rates, images)
    members = members_cost(experiment).epochs[1]
    besides += members * (times.train + times.refresh + 2 * times.evaluate + times.epoch) / slots
    first, longest = (_choose_extreme(experiment, longest=longest) for longest in (False, True))
    high = _simulate_stretched(longest, slots, times, confirm=confirm)
    if first == longest:
        return Forecast(high, high, besides)
    draws = max(1, min(DRAWS, MOST_EPOCHS // max(1, high.epochs)))
    drawn = (_simulate_stretched(first, slots, times, confirm=confirm, draw=draw) for draw in range(draws))
    return Forecast(min(drawn, key=lambda found: found.seconds), high, besides)


def compute_times(experiment: Experiment, rates: Rates, images: ImageCounts) -> TrialTimes:
    """Compute the seconds that the parts of a trial of a search take."""
    share = SAVING_SHARE if experiment.search.checkpoint_every == "auto" else 1.0
    refresh = rates.refresh * count_refreshed(experiment, images.train)
    evaluate = rates.evaluate * images.val
    test = rates.evaluate * (images.test + images.val)
    scores, tests = {}, {}
    for average in (*experiment.averages[1:], *experiment.baseline.averages):
        factor = rates.scores.get(average.method, 1.0)
        scores[average.label] = factor * _count_draws(average, "search_samples") * (refresh + evaluate)
        tests[average.label] = factor * _count_draws(average, "samples") * (refresh + test)
    return TrialTimes(
        train=rates.train * images.train * share,
        refresh=refresh * share,
        evaluate=evaluate * share,
        test=test,
        epoch=rates.epoch,
        save=rates.save,
        trial=rates.trial,
        scores=scores,
        tests=tests,
    )


def _count_draws(average: AverageSpec, field: str) -> int:
    return int(getattr(average, field, 1))


def _choose_extreme(experiment: Experiment, *, longest: bool) -> Experiment:
    """The experiment with one number of fresh seeds: those of the first look, or of the last."""
    dumped = experiment.model_dump(mode="json", by_alias=True)
    if longest:
        dumped["scheduler"]["asha"] = False
        dumped["confirm"]["seeds"] = experiment.confirm.most_seeds
    # an ensemble trains nothing, and may need more seeds
    dumped["confirm"] |= {"max_seeds": None, "ensemble": None}
    found = Experiment.model_validate(dumped)
    same = longest and not experiment.scheduler.asha and experiment.confirm.max_seeds is None
    return _choose_extreme(experiment, longest=False) if same else found


def _simulate_stretched(
    experiment: Experiment, slots: int, times: TrialTimes, *, confirm: bool, draw: int = 0
) -> SimulatedSearch:
    """Simulate a search; of a very long one with shorter runs, each of whose epochs stands for several, and
    then with fewer of them."""
    epochs, runs = experiment.train.epochs, _count_runs(experiment)
    total = epochs * runs + looks_cost(experiment).epochs[1]
    wanted = min(epochs, max(LEAST_EPOCHS, int(epochs * MOST_EPOCHS / max(1, total))))
    part = MOST_EPOCHS / (wanted * runs)
    if wanted == epochs and part >= 1:
        return simulate_search(experiment, slots, times, confirm=confirm, draw=draw)
    shorter = rescale_experiment(experiment, wanted).experiment
    if part < 1:
        shorter = _thin_out(shorter, part)
    stretched = epochs / wanted
    longer = {name: getattr(times, name) * stretched for name in ("train", "refresh", "evaluate", "epoch")}
    found = simulate_search(shorter, slots, replace(times, **longer), confirm=confirm, draw=draw)
    # values that became equal make fewer trials, too
    more, search = runs / _count_runs(shorter), found.stages["search"]
    search.epochs, missing = round(more * search.epochs), (more - 1) * search.ends
    for stage in found.stages.values():
        stage.epochs = round(stage.epochs * stretched)
        stage.ends += missing
    return found


def _count_runs(experiment: Experiment) -> float:
    """Count the runs of a search: shared epochs once where it is known which are, and no more than its budget
    has epochs for."""
    epochs, budget = experiment.train.epochs, experiment.search.epochs
    planned = planned_epochs(experiment) if experiment.search.share else None
    runs = total_trials(experiment) if planned is None else planned / epochs
    return runs if budget is None else min(runs, budget / epochs)


def _thin_out(experiment: Experiment, part: float) -> Experiment:
    """The experiment with a part of its trials."""
    dumped = experiment.model_dump(mode="json", by_alias=True)
    search, epochs = dumped["search"], experiment.train.epochs
    if search["trials"] is not None or search["epochs"] is None:
        search["trials"] = max(len(experiment.points), math.ceil(part * experiment.swa_trials), 2)
    if search["epochs"] is not None:  # beyond the baselines
        least = (experiment.baseline_trials + 1) * epochs
        search["epochs"] = min(search["epochs"], max(math.ceil(part * search["epochs"]), least))
    return Experiment.model_validate(dumped)


def _choose_typical(values: list[tuple[int, float]]) -> float:
    """Return the median of the values of the highest rank."""
    best = max(rank for rank, _ in values)
    return statistics.median(value for rank, value in values if rank == best)
