"""The section `confirm` of a space file: runs on fresh seeds after the search."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from tune_swa.config.settings_model import Settings


class RaceSpec(Settings):
    """The race: the best of both sides on a few fresh seeds, by the validation images alone, halving as it
    goes. What wins is confirmed on seeds after those, so neither side rests on one lucky run."""

    configurations: Literal["auto"] | Annotated[int, Field(ge=1, le=1000)] = "auto"
    """SWA configurations that enter, the best of the search. `auto`: 8, or as many as keep the race below
    half of the epochs of the search and the first look; no race if that leaves none to choose among."""
    seeds: Annotated[int, Field(ge=1, le=1000)] = 3
    """Fresh seeds of those that stay to the end. Three tell configurations apart that one run confuses, and
    cost less than the first look; the runs that decide come after them."""


class ConfirmSpec(Settings):
    """Settings of the runs on fresh seeds after the search, of finalists and baselines."""

    top: Annotated[int, Field(ge=1, le=1000)] = 2
    """Number of finalists."""
    seeds: Annotated[int, Field(ge=1, le=1000)] = 5
    """Fresh seeds for each arm, the same for all, before the first look at the test images. With fewer than
    five an interval is as wide as the question."""
    max_seeds: Annotated[int, Field(ge=1, le=1000)] | None = None
    """More seeds are trained, up to this many, while the answer is open: looks at numbers of seeds that are
    planned beforehand, and a level for each. Default: `seeds`, which is one look."""
    baselines: Literal["auto"] | Annotated[int, Field(ge=1, le=1000)] = "auto"
    """Baselines that fresh seeds are spent on, the best first: in the race beside the own trunk of each SWA
    configuration, or without one at once beside that of each finalist. `auto`: 8 where each rate that is
    listed has one, since most of their epochs are shared; else 3, as none are."""
    race: RaceSpec | Literal[False] = RaceSpec()
    """`false`: the best of the search become finalists without one."""
    ensemble: Annotated[int, Field(ge=2, le=100)] | None = None
    """Runs in an ensemble: those on fresh seeds are independent, so disjoint groups of so many give deep
    ensembles of plain training, and of averages (MultiSWA, MultiSWAG), at no further training. Five groups
    give a verdict, fewer a description. Default: none."""
    keep_weights: bool = False
    """Keep the last checkpoint of every run on fresh seeds, from which `export-model --ensemble` takes the
    members. By default only that of each configuration's best run is, since all take many times its room."""
    merges: bool = False
    """Follow the recipe of the best merge of each kind in `merge` on the fresh seeds, too: its members are
    trained again, merged and tested, and the model is compared with plain training and with SWA. Off by
    default, as it takes as many further SWA runs on each seed as the merge has members."""

    @field_validator("max_seeds", mode="after")
    @classmethod
    def _not_below_seeds(cls, value: int | None, info: ValidationInfo) -> int | None:
        seeds = info.data.get("seeds")
        if value is not None and seeds is not None and value < seeds:
            raise ValueError(f"is below confirm.seeds ({seeds}); give {seeds} or more, or leave it out")
        return value

    @field_validator("ensemble", mode="after")
    @classmethod
    def _has_a_group(cls, value: int | None, info: ValidationInfo) -> int | None:
        seeds = info.data.get("max_seeds") or info.data.get("seeds")
        if value is not None and seeds is not None and value > seeds:
            raise ValueError(
                f"takes {value} runs of each arm, but there are {seeds} fresh seeds; give confirm.seeds "
                f"{value} or more (a verdict needs five groups: {5 * value} seeds), or a smaller ensemble"
            )
        return value

    @field_validator("race", mode="after")
    @classmethod
    def _enough_for_finalists(
        cls, value: RaceSpec | Literal[False], info: ValidationInfo
    ) -> RaceSpec | Literal[False]:
        top = info.data.get("top")
        entered = value.configurations if value else "auto"
        if top is not None and entered != "auto" and entered < top:
            raise ValueError(
                f"has {entered} configurations, but {top} finalists come out of it (confirm.top); give it "
                f"{top} or more"
            )
        return value

    @property
    def most_seeds(self) -> int:
        """Seeds of the last planned look."""
        return self.seeds if self.max_seeds is None else self.max_seeds
