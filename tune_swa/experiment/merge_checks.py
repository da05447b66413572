"""Check what a journal says of merged models against the trials that it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tune_swa.experiment.events import DamagedError, LookPlanned, check_name
from tune_swa.experiment.layout import MERGES
from tune_swa.experiment.merge_events import MergeTested, ModelsMerged
from tune_swa.experiment.merge_recipe import MergeRecipe
from tune_swa.experiment.trial_state import TrialState


def check_merge(event: ModelsMerged, trials: Mapping[str, TrialState]) -> None:
    """Refuse a merge of anything but completed trials of its trunk.

    Raises:
        DamagedError: it cannot have happened.
    """
    if len(event.candidates) < 2:
        raise DamagedError(f"{event.candidates!r} were merged, which are fewer than two")
    for name in event.candidates:
        trial = _find_completed(name, trials)
        if trial.trunk != event.trunk or trial.records[-1].get("nll") is None:
            raise DamagedError(f"{name} is no candidate of the trunk {event.trunk!r}"[:200])
    if [tried.trial for tried in event.tried] != list(event.candidates[1:]):
        raise DamagedError(f"what was tried are not the candidates {event.candidates!r}"[:200])
    check_name("file", event.file.removeprefix(f"{MERGES}/"))


def check_merge_test(
    event: MergeTested, looks: Sequence[LookPlanned], trials: Mapping[str, TrialState]
) -> None:
    """Refuse a merged model of a fresh seed that was not planned, or whose members have not completed.

    Raises:
        DamagedError: it cannot have happened.
    """
    recipes = [
        MergeRecipe.from_event(planned)
        for look in looks
        if event.seed in look.seeds
        for planned in look.merges or ()
    ]
    due = [r.name_members(event.seed) for r in recipes if r.merge == event.merge]
    if list(event.members) not in due:
        raise DamagedError(f"{event.merge!r} of {list(event.members)!r} was not planned"[:200])
    for name in event.members:
        _find_completed(name, trials)


def _find_completed(name: str, trials: Mapping[str, TrialState]) -> TrialState:
    trial = trials.get(name)
    if trial is None or trial.status != "completed":
        raise DamagedError(f"{name!r} has not completed before it was merged"[:200])
    return trial
