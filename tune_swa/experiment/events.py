"""The events of a journal and what they may hold.

An event is one line of `journal.jsonl`, as JSON, with the keys `event` and `time` (seconds since 1970) and
these others:

=============  =====================================================================================
created        format, version, spec, identity, data, weights, numerics, loop, hardware, versions, seed
session        number, slots, gpus, cpus, resumed, storage, spec (the present one: --trials, resources and
               confirm may differ from those it was created with; absent in older journals)
suggested      trial, kind, stage, params, seed, source, index, trunk, first_average
started        trial, device, node, attempt, from_epoch, damaged (why each newer checkpoint was not used),
               retried (the error of GPU memory after which the same process begins it again with streamed
               images; absent otherwise)
shared         trial, epochs (how many of its trunk it takes over), rungs (rung: decision, in their order)
epoch          trial, record, decision (continue | stop), rung, checkpoint, published (the epoch's record
               before any average, where the trunk's state was published with it)
lost           trial (null where a worker was warmed up), device, node, reason: a process that could not use
               its GPU any more has ended itself
ended          trial, status (completed | pruned | failed | interrupted), value, error, trunk_epoch (the
               epoch in which its trunk diverged; absent or null unless it failed by that), exhausted (the
               share of a GPU whose memory was too small; absent unless it failed by that)
reopened       trial: it had failed for GPU memory, and is to be tried again with a larger share
checkpoints    trial, removed (list)
race           round, rounds (seeds of each arm by the end of it, swa, plain: how many arms of each side; all
               rounds of the race, planned beforehand), seeds, arms (name, kind, params, roles), searched
               (trials of the search that had ended): its runs are those of every arm on every seed
confirm        look, seeds, arms, searched (as above); plan, looks (numbers of seeds), levels (one-sided, of
               each of them): what was planned before the first look of the plan. The last three are absent in
               older journals, whose looks were judged by another rule
judged         look, stop (success | futility | seeds: no more are planned; null: the next look follows)
tested         trial, images, shipped, refreshed (metrics on the test images; its predictions are in
               predictions/TRIAL.npz)
untested       trial, reason (its predictions are lost, so it does not count as tested any more)
collected      trunk, epochs (of published states that nobody needs any more)
finished       reason
=============  =====================================================================================
"""

from __future__ import annotations

import re
from typing import Any, Literal

FORMAT = 1
"""Version of the events' meaning. A journal of another version is refused, not guessed at."""

Event = dict[str, Any]
Kind = Literal["baseline", "swa"]
Stage = Literal["search", "race", "confirm"]
STAGES: tuple[Stage, ...] = ("search", "race", "confirm")
"""In their order: the search, then on fresh seeds the race (validation images), and tested runs."""

Stop = Literal["success", "futility", "seeds"]
"""Why a plan of looks trains no more seeds."""


class DamagedError(Exception):
    """An event that cannot have happened, or a value that it cannot have had; says why."""


def expect_types(fields: dict[str, Any], **types: type) -> None:
    """Raise unless each of the fields is there with its type; a whole number will do for a float."""
    for name, expected in types.items():
        value = fields[name]
        if type(value) is not expected and not (expected is float and type(value) is int):
            raise DamagedError(f"{name} is {value!r}"[:100])


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def check_name(field: str, name: str) -> None:
    """Names of trials and trunks become names of files: one that leads elsewhere was made by nobody here."""
    if not _NAME.fullmatch(name):
        raise DamagedError(f"{field} is {name!r}"[:100])


def check_arms(event: Event) -> None:
    """Raise unless an event plans runs of arms on seeds."""
    if not event["seeds"] or not all(type(seed) is int for seed in event["seeds"]):
        raise DamagedError(f"seeds are {event['seeds']!r}"[:100])
    for arm in event["arms"]:
        expect_types(arm, name=str, kind=str, params=dict, roles=list)
        check_name("name", arm["name"])
        params_of(arm)


def params_of(event: dict[str, Any]) -> dict[str, Any]:
    """Parameters of a suggestion or an arm. JSON has no tuples, parameters have no lists.

    Raises:
        DamagedError: a value is none that a parameter can have.
    """
    for parameter, value in event["params"].items():
        if isinstance(value, dict) or (isinstance(value, list) and not all(map(_is_word, value))):
            raise DamagedError(f"{parameter} is {value!r}"[:100])
    return {n: tuple(v) if isinstance(v, list) else v for n, v in event["params"].items()}


def _is_word(value: Any) -> bool:
    return isinstance(value, str)
