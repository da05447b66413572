"""What is tried out before trials are placed, and what it was found to take."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tune_swa.config import RunSettings
from tune_swa.plugin_files import PluginSource
from tune_swa.plugins import install_plugins
from tune_swa.training.numerics import Numerics

EPOCHS = 3
"""One before averaging, one that ends in a checkpoint, one that goes on from it."""


@dataclass(frozen=True)
class Workload:
    """A training step to try out."""

    settings: RunSettings
    numerics: Numerics
    image_size: int
    num_classes: int
    train_images: int
    """Images of the real set: batches are no larger than that."""
    val_images: int
    plugins: tuple[PluginSource, ...] = ()
    """Code of the user's own that builds the network."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**asdict(self), "settings": self.settings.model_dump(mode="json")}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Workload:
        plugins = tuple(PluginSource(**source) for source in fields["plugins"])
        install_plugins(plugins)  # else the network's name is unknown
        settings, numerics = RunSettings.model_validate(fields["settings"]), Numerics(**fields["numerics"])
        return cls(**{**fields, "settings": settings, "numerics": numerics, "plugins": plugins})

    @property
    def batch_size(self) -> int:
        """Images of a training batch."""
        return min(self.settings.train.batch_size, self.train_images)


@dataclass(frozen=True)
class TrialCost:
    """Measured cost of one trial."""

    device: str
    """Name of the GPU, or `cpu`."""
    memory: int
    """Bytes of that GPU; of a CPU 0."""
    trial_bytes: int
    """Peak bytes of a trial, without resident images. On the CPU, what the process has grown by."""
    context_bytes: int
    """Bytes that a process takes besides, for CUDA itself and its kernels."""
    host_seconds: float
    """Seconds of a training step in the process that sends it to the GPU."""
    device_seconds: float
    """Seconds of a training step on the GPU. On the CPU the two are the same."""
    exhausted: str | None = None
    """Why the trial could not even be tried out, for want of memory; the other figures are 0 then."""
    free: int = 0
    """Bytes that were free before, of a GPU."""
