"""Name trunks by a hash of everything that influences a run before it averages."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from tune_swa.config import RunSettings, TrainSpec

NOT_IN_NAME = frozenset({"seed", "precision", "channels_last", "fused", "compile", "eval_batch_size"})
"""Training settings that are in the name elsewhere (resolved) or that change nothing learned."""


@dataclass(frozen=True)
class TrunkNamer:
    """Names trunks within one experiment."""

    data: str
    """Fingerprint of the images and their division."""
    weights: str
    """Fingerprint of the starting weights."""
    numerics: dict[str, Any]
    """Device, formats and kernels, resolved."""
    version: str
    """Versions of the training loop and of torch."""
    plugins: dict[str, str] = field(default_factory=dict)
    """Hashes of the plugins' sources, by name."""

    @classmethod
    def by_settings(cls) -> TrunkNamer:
        """Name trunks by the settings alone, where nothing is trained."""
        return cls(data="", weights="", numerics={}, version="")

    def name_trunk(self, run: RunSettings) -> str:
        """Return 16 hex digits that are equal for runs that are the same, bit for bit, until they average."""
        facts: dict[str, Any] = {
            "data": self.data,
            "weights": self.weights,
            "numerics": self.numerics,
            "version": self.version,
            "arch": run.model.arch,
            "lr": run.lr,
            "seed": run.seed,
            "train": run.train.model_dump(mode="json", exclude=set(NOT_IN_NAME)),
        }
        if run.train.is_schedule_free:  # its average is refreshed and evaluated in the trunk, too
            facts["refresh"] = [run.averaging.bn_batches, run.averaging.bn_batch_size]
        if facts["train"]["arithmetic"] is None:  # as it was before there was a choice
            del facts["train"]["arithmetic"]
        for key in ("freeze", "head_lr_factor"):
            if facts["train"][key] == TrainSpec.model_fields[key].default:
                del facts["train"][key]
        if self.plugins:
            facts["plugins"] = self.plugins
        text = json.dumps(facts, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
