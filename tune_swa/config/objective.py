"""What trials are compared by, as the space file has it."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from pydantic import SerializerFunctionWrapHandler, model_serializer

from tune_swa.config.settings_model import Settings

Metric: TypeAlias = Literal["accuracy", "nll"]


class ObjectiveSpec(Settings):
    """What trials are compared by: in the search, on fresh seeds and in the verdict."""

    metric: Metric = "accuracy"
    """`accuracy`, the fraction of images classified correctly (higher is better), or `nll`, the mean
    negative log-likelihood in nats per image (lower is better), where the probabilities are what counts.
    Default: accuracy, which most people tune for."""
    of: Literal["first", "best"] = "first"
    """Which of the listed averages the metric is of: the first one, or in each trial the best one on the
    validation images, after the epochs that score them all. Default: first, which needs no choice on these
    images; best costs nothing more where averages are listed anyway."""

    @model_serializer(mode="wrap")
    def _leave_out_first(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave the default out, so that journals are those of versions that knew no other."""
        dumped: dict[str, Any] = handler(self)
        if self.of == "first":
            dumped.pop("of", None)
        return dumped
