"""Resume a search from its journal: rebuild what the coordinator knows, and finish what a kill cut off."""

from __future__ import annotations

from optuna.exceptions import OptunaError

from tune_swa.errors import RequestError
from tune_swa.experiment.events import Event, TrialReopened, TrialUntested
from tune_swa.experiment.layout import PREDICTIONS
from tune_swa.experiment.merge_events import MergeUntested
from tune_swa.results.predictions import find_damage
from tune_swa.search.coordinator import Coordinator
from tune_swa.search.members import find_last_step


def replay_events(coordinator: Coordinator, events: list[Event]) -> list[str]:
    """Rebuild the sampler's study and the rungs, and finish what the last session could not.

    Args:
        coordinator: has the fold of the events already.
        events: of the sessions before.

    Returns:
        A line on each file of predictions that was lost.

    Raises:
        RequestError: a trial is not of this space, or not what its sampler proposes.
    """
    for number, event in enumerate(events, start=1):
        try:
            coordinator.replay_event(event)
        except (ArithmeticError, ValueError, KeyError, TypeError, IndexError, OptunaError) as error:
            raise RequestError(
                f"{coordinator.journal.path}:{number}: this event does not fit the space of the search "
                f"({error}). Restore the journal from a copy, or give --name to start a new experiment"
            ) from None
    lost = _withdraw_lost_tests(coordinator)
    _end_finished_trials(coordinator)
    coordinator.resume_step()  # before anything is removed: its runs are yet to come
    coordinator.retention.remove_leftovers()
    return lost


def retry_exhausted(coordinator: Coordinator, share: float) -> list[str]:
    """Reopen the trials that failed because memory was exhausted: of a GPU, if trials have more of it now.

    Those of the search, until runs after it have begun, or have to begin anew because the search goes on;
    of these runs after that. To be called after `replay_events`.

    Args:
        coordinator: of the search.
        share: of a GPU that each trial has in this session.

    Returns:
        Their names.
    """
    step = coordinator.step
    if step is None and coordinator.has_searched:
        step = find_last_step(coordinator.state)
        if step is not None and step.stage != "swap" and not coordinator.confirms:
            return []
    names = None if step is None else set(step.names)
    reopened = [
        trial.name
        for trial in coordinator.state.trials.values()
        if trial.exhausted is not None
        and (trial.exhausted < share or not trial.exhausted)
        and (trial.stage == "search" if names is None else trial.name in names)
    ]
    for name in reopened:
        coordinator.record_event(TrialReopened(trial=name))
    return reopened


def _withdraw_lost_tests(coordinator: Coordinator) -> list[str]:
    """Record that runs whose predictions cannot be read count as untested; they are tested if they go on."""
    lost = []
    header = coordinator.state.header
    classes = int(header.data["num_classes"]) if header else 0
    for trial in coordinator.state.trials.values():
        if trial.tested is None:
            continue
        path = coordinator.folder / PREDICTIONS / f"{trial.name}.npz"
        reason = find_damage(path, trial.tested.images, classes)
        if reason is not None:
            lost.append(
                f"{path}: the predictions on the test images cannot be read ({reason}), so {trial.name} "
                "does not count as tested. To have it count, restore the file and the journal from copies"
            )
            coordinator.record_event(TrialUntested(trial=trial.name, reason=reason))
    for merged in list(coordinator.state.tested_merges.values()):
        path = coordinator.folder / PREDICTIONS / f"{merged.run}.npz"
        reason = find_damage(path, merged.images, classes)
        if reason is not None:
            lost.append(
                f"{path}: the predictions on the test images cannot be read ({reason}), so {merged.run} does "
                "not count as tested. To have it count, restore the file and the journal from copies"
            )
            coordinator.record_event(MergeUntested(run=merged.run, reason=reason))
    return lost


def _end_finished_trials(coordinator: Coordinator) -> None:
    """End the trials whose last report ended them, if a kill came before that was written."""
    for trial in list(coordinator.state.trials.values()):
        if trial.ended or trial.last is None:
            continue
        if trial.next_epoch == coordinator.experiment.train.epochs:
            coordinator.end_trial(trial, "completed", coordinator.objective.read_value(trial.last))
        elif trial.told_to_stop:
            coordinator.end_trial(trial, "pruned")
