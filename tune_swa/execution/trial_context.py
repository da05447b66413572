"""Hold what all trials of an experiment have in common.

It travels to the workers once, through Ray's object store.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tune_swa.config import DataSpec
from tune_swa.data.dataset import Dataset
from tune_swa.errors import RequestError
from tune_swa.hardware.gpu_memory import CONTEXT_BYTES
from tune_swa.plugin_files import PluginSource
from tune_swa.storage import Store
from tune_swa.training.model import StateDict
from tune_swa.training.numerics import Numerics


@dataclass(frozen=True)
class TrialContext:
    """Settings, images and numerics of every trial."""

    store: Store
    """Holds the checkpoints; every worker sees it."""
    data: DataSpec
    data_dir: Path | None
    fingerprint: str
    """Fingerprint of the images and their splits, as the driver found them."""
    numerics: Numerics
    torch: str
    """Its version on all nodes that were inspected; others may join later."""
    weights: StateDict | None
    checkpoint_every: int | Literal["auto"]
    keep_all: bool
    context_bytes: int = CONTEXT_BYTES
    """GPU memory that a CUDA context takes beside the allocator."""
    plugins: tuple[PluginSource, ...] = ()
    """Code of the user's own that every worker runs."""
    trial_bytes: int | None = None
    """Peak that a trial's allocator was measured to hold; None: not measured."""
    images: bytes | None = None
    """The driver's `Dataset`, pickled, for workers of the same machine; None: each node finds its own."""

    def unpickle_images(self) -> Dataset | None:
        """Return the driver's images; None where it sent none, or where the decoded ones have gone since."""
        if self.images is None:
            return None
        try:
            found: Dataset = pickle.loads(self.images)
        except RequestError:
            return None
        return found

    @property
    def on_gpu(self) -> bool:
        return self.numerics.device == "cuda"
