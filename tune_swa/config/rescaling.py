"""Shorten or lengthen an experiment in proportion: every setting that counts epochs goes with `train.epochs`.

Positions (`swa_start`) are rounded down, as a fraction of the epochs is. Lengths are rounded to the nearest
whole number and stay at least 1 where they were, so that what a search does, its rehearsal does too. Values
that become equal are merged. What counts models, samples or a part of a run does not change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from tune_swa.config.experiment import Experiment
from tune_swa.config.rescaled_averages import list_methods, needs_several_models, rescale_averages
from tune_swa.config.rescaled_domains import EpochScale, describe_domain, move_into, rescale_domain
from tune_swa.config.sections import DEFAULT_CYCLE
from tune_swa.errors import RequestError

MOST_EPOCHS = 100_000
NAME_LENGTH = 100
"""Most characters of an experiment's name."""
MERGED = " (values that became equal are merged)"
START = "swa_start"


@dataclass(frozen=True)
class Rescaled:
    """An experiment of another number of epochs."""

    experiment: Experiment
    changes: tuple[str, ...]
    """What became of each setting that counts epochs, a line each; none: it has as many epochs as before."""


def rescale_experiment(experiment: Experiment, epochs: int, *, rename: bool = True) -> Rescaled:
    """Shorten or lengthen an experiment in proportion.

    Args:
        experiment: what its space file describes.
        epochs: of a run of the result. As many as before: the experiment stays as it is.
        rename: call the result NAME-N-epochs, so that it does not take the name of the whole one.

    Raises:
        RequestError: a run of so few or many epochs cannot have what the space asks for.
    """
    if not 2 <= epochs <= MOST_EPOCHS:
        raise RequestError(f"--epochs {epochs}: expected 2 to {MOST_EPOCHS:,}")
    if epochs == experiment.train.epochs:
        return Rescaled(experiment, ())
    rescaler = _Rescaler(experiment, epochs)
    dumped = rescaler.rescale_all()
    if rename:
        dumped["name"] = name_rescaled(experiment.name, epochs)
    try:
        return Rescaled(Experiment.model_validate(dumped), tuple(rescaler.changes))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the space"
        few, more = ("few", "more") if epochs < experiment.train.epochs else ("many", "fewer")
        raise RequestError(
            f"--epochs {epochs}: the space cannot have so {few} epochs ({where}: {first['msg']}). Give {more}"
        ) from None


def name_rescaled(name: str, epochs: int) -> str:
    """Return the name of an experiment with another number of epochs: NAME-N-epochs."""
    suffix = f"-{epochs}-epochs"
    return name[: NAME_LENGTH - len(suffix)] + suffix


class _Rescaler:
    """Changes the dumped settings of an experiment, and notes what it changes."""

    def __init__(self, experiment: Experiment, epochs: int) -> None:
        self.experiment = experiment
        self.scale = EpochScale(experiment.train.epochs, epochs)
        self.spec: dict[str, Any] = experiment.model_dump(mode="json", by_alias=True)
        self.changes: list[str] = []

    def rescale_all(self) -> dict[str, Any]:
        spec, scale = self.spec, self.scale
        self._change(spec["train"], "train.epochs", scale.new)
        self._rescale_lengths()
        if scale.new == 2:  # has one model to average
            self._leave_out_several()
        self._rescale_start()
        self._rescale_averages()
        self._rescale_points()
        self._rescale_scheduler()
        self._rescale_search()
        return spec

    def _change(self, section: dict[str, Any], path: str, new: Any, note: str = "") -> None:
        """Set the setting that a path ends in, and note it where it changes."""
        key = path.rpartition(".")[2]
        if section[key] != new:
            self.changes.append(f"{path}: {describe_domain(section[key])} -> {describe_domain(new)}{note}")
            section[key] = new

    def _change_parameter(self, name: str, convert: Callable[[Any], Any]) -> None:
        """Rescale the domain or value of a parameter of the space."""
        old = self.spec["space"][name]
        new, merged = rescale_domain(old, convert, self.scale)
        if new != old:
            note = MERGED if merged else ""
            line = f"space.{name}: {describe_domain(old)} -> {describe_domain(new)}{note}"
            self.changes.append(line)
            self.spec["space"][name] = new
        elif name == START:  # written as fractions
            self.changes.append(f"space.{name}: {describe_domain(old)} of the epochs, as before")

    # -------------------------------------------------------------------------------------- training

    def _rescale_lengths(self) -> None:
        """Warm-up, t_max, anneal and cycle, in their sections and where they are searched."""
        tail = self.experiment.averaging.tail
        for name, convert in self._length_conversions().items():
            section, _, field = name.partition(".")
            needed = {"anneal_epochs": "constant", "cycle_epochs": "cyclic"}.get(field, tail)
            if tail == needed:
                self._change(self.spec[section], name, convert(self.spec[section][field]))
            if name in self.spec["space"]:
                self._change_parameter(name, convert)

    def _length_conversions(self) -> dict[str, Callable[[Any], Any]]:
        scale = self.scale
        units = self.experiment.list_extremes("train.unit")
        longest_warmup = scale.new - 1 if "epoch" in units else None

        def convert_cycle(cycle: int | None) -> int | None:
            new = scale.scale_length(DEFAULT_CYCLE if cycle is None else cycle, most=max(1, scale.new - 2))
            return None if cycle is None and new == DEFAULT_CYCLE else new

        return {
            "train.warmup_epochs": lambda length: scale.scale_length(length, most=longest_warmup),
            "train.t_max": lambda length: None if length is None else scale.scale_length(length),
            "averaging.anneal_epochs": scale.scale_length,
            "averaging.cycle_epochs": convert_cycle,
        }

    def _rescale_start(self) -> None:
        """Leave as many epochs after the latest start as the tail, averages and merges need."""
        scale, spec = self.scale, self.spec
        room = self._longest_cycle() if spec["averaging"]["tail"] == "cyclic" else 0
        if any(map(needs_several_models, spec["averages"])) or any(
            merge["method"] == "swap" for merge in spec.get("merge", ())
        ):
            room = max(room, 1)
        latest = scale.new - 2 - room
        if latest < 0:
            raise RequestError(
                f"--epochs {scale.new}: with averaging.tail cyclic a run has an epoch before its fork, the "
                "fork and a cycle; give 3 or more"
            )
        self._change_parameter(START, lambda start: scale.scale_start(start, latest))

    def _longest_cycle(self) -> int:
        cycles = _list_values(self.spec["space"].get("averaging.cycle_epochs"))
        cycles = cycles or [self.spec["averaging"]["cycle_epochs"]]
        return max(DEFAULT_CYCLE if cycle is None else int(cycle) for cycle in cycles)

    # -------------------------------------------------------------------------------------- averages

    def _leave_out_several(self) -> None:
        """Leave out what needs two models of a run: with two epochs there is one."""
        spec = self.spec
        lost = [average for average in spec["averages"] if needs_several_models(average)]
        if lost:
            spec["averages"] = [average for average in spec["averages"] if average not in lost]
            self.changes.append(f"averages: {list_methods(lost)} left out, as there is one model to average")
        swap = [merge for merge in spec.get("merge", ()) if merge["method"] == "swap"]
        if swap:
            spec["merge"] = [merge for merge in spec["merge"] if merge not in swap]
            self.changes.append("merge: swap left out, as its members would not differ")
            if not spec["merge"]:
                spec["confirm"].pop("merges", None)

    def _rescale_averages(self) -> None:
        spec, scale = self.spec, self.scale
        starts = [scale.resolve_start(start) for start in _list_values(spec["space"][START])]
        cycle = self._longest_cycle() if spec["averaging"]["tail"] == "cyclic" else 1
        models = (scale.new - 2 - max(starts)) // cycle + 1
        for section, path, available in (
            (spec, "averages", models),
            (spec["baseline"], "baseline.averages", scale.new),
        ):
            section["averages"], lines = rescale_averages(section["averages"], scale, available)
            self.changes += [f"{path}: {line}" for line in lines]
        choosable = [a for a in spec["averages"] if a["method"] in ("swa", "ema", "lawa", "power_ema")]
        if self.experiment.objective.of == "best" and len(choosable) < 2:
            spec["objective"]["of"] = "first"
            self.changes.append("objective.of: best -> first, as there is no choice any more")

    # ---------------------------------------------------------------------------- points and scheduler

    def _rescale_points(self) -> None:
        spec = self.spec
        conversions = self._length_conversions()
        conversions[START] = lambda start: self.scale.scale_start(start, self.scale.new - 2)
        for section, path in ((spec, "points"), (spec["baseline"], "baseline.points")):
            points = section["points"]
            if not points:
                continue
            moved = [self._rescale_point(point, conversions, swa=section is spec) for point in points]
            kept = [point for index, point in enumerate(moved) if point not in moved[:index]]
            if moved != points:
                fewer = MERGED if len(kept) < len(points) else ""
                self.changes.append(f"{path}: moved with the space{fewer}")
            section["points"] = kept
            trials = spec["search"]["trials"]
            if section is spec and trials is not None and len(kept) < len(points):
                least = 2 if any(merge["method"] == "soup" for merge in spec.get("merge", ())) else 1
                fewer_trials = max(trials - len(points) + len(kept), len(kept), least)
                self._change(spec["search"], "search.trials", fewer_trials, ", with the points")

    def _rescale_point(
        self, point: dict[str, Any], conversions: dict[str, Callable[[Any], Any]], *, swa: bool
    ) -> dict[str, Any]:
        """Move the values of a point that count epochs to values that the rescaled space has."""
        moved = dict(point)
        for name, convert in conversions.items():
            domain = self.spec["space"].get(name)
            is_swa = name == START or name.startswith("averaging.")
            if name in point:
                moved[name] = move_into(convert(point[name]), domain, self.scale)
            elif isinstance(domain, dict) and (swa or not is_swa) and name != START:
                section, _, field = name.partition(".")
                value = self.spec[section][field]
                if (near := move_into(value, domain, self.scale)) != value:
                    moved[name] = near
        return moved

    def _rescale_scheduler(self) -> None:
        scheduler, scale = self.spec["scheduler"], self.scale
        if scheduler["asha"]:
            grace = scale.scale_length(scheduler["grace_epochs"], most=scale.new)
            self._change(scheduler, "scheduler.grace_epochs", grace)
        for field in ("trunk_rungs", "branch_rungs"):
            if (rungs := scheduler[field]) == "auto":
                continue
            # a rung is after so many epochs, one more than its number
            moved = sorted({scale.scale_start(rung + 1, scale.new - 1, least=1) - 1 for rung in rungs})
            note = MERGED if len(moved) < len(rungs) else ""
            self._change(scheduler, f"scheduler.{field}", moved, note)

    def _rescale_search(self) -> None:
        search, scale = self.spec["search"], self.scale
        if search["epochs"] is not None:  # rounded up, so that as many trials fit as before
            budget = -(-search["epochs"] * scale.new // scale.old)
            self._change(search, "search.epochs", budget)
        if search["checkpoint_every"] != "auto":
            every = scale.scale_length(search["checkpoint_every"])
            self._change(search, "search.checkpoint_every", every)


def _list_values(domain: Any) -> Sequence[Any]:
    """Return the values of a domain as written, or the ends of a range; none: there is no domain."""
    if not isinstance(domain, dict):
        return [] if domain is None else [domain]
    if "choice" in domain:
        return list(domain["choice"])
    return list(domain["int"]) if "int" in domain else [domain.get("constant")]
