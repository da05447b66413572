"""Turn a name or a folder into seeded batches: sources, the decoded cache, divisions, batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tune_swa.data.batches import ImageBatches
    from tune_swa.data.dataset import Dataset, Estimate, estimate_dataset, prepare_dataset

__all__ = ["Dataset", "Estimate", "ImageBatches", "estimate_dataset", "prepare_dataset"]


def __getattr__(name: str) -> Any:
    """Import on demand: `ImageBatches` brings torch with it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "ImageBatches":
        from tune_swa.data import batches

        return batches.ImageBatches
    from tune_swa.data import dataset

    return getattr(dataset, name)
