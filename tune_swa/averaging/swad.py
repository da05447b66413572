"""Dense averaging over the part of a run in which the validation loss stays low."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tune_swa.averaging.observers import Member, Observer, list_parameters


class RunningMean:
    """The plain mean of sets of weights, one after the other."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: list[Tensor] = []

    def add(self, tensors: list[Tensor]) -> None:
        """Take a set of weights in. They are copied."""
        self.count += 1
        if self.count == 1:
            self.mean = [tensor.clone() for tensor in tensors]
        else:
            torch._foreach_lerp_(self.mean, tensors, 1 / self.count)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "mean": self.mean}

    def load_state_dict(self, state: dict[str, Any], device: str | None = None) -> None:
        """Copy a state, to where it is or to a device."""
        self.count = state["count"]
        self.mean = [tensor.to(device or tensor.device, copy=True) for tensor in state["mean"]]


class Swad(Observer):
    """The mean of the models after each step of a window of epochs (Cha et al. 2021).

    An epoch's models are averaged into its segment; all segments weigh the same. With the live model's
    losses E_i on the validation images after epoch i, the window begins with the first epoch s whose loss
    is the least of E_s, ..., E_(s + converge - 1). It ends with epoch i - tolerance for the first later i
    after which the last `tolerance` losses are all above (1 + ratio) times the mean of the former; with the
    last epoch if there is none. While no window has begun, it is the whole run. Each segment counts once.

    It keeps at most max(converge, tolerance) + 1 sets of weights in the CPU's memory, and one on the model's
    device.

    Args:
        label: name of the average in tables.
        converge: losses, of which the first is the least, with which the window begins.
        tolerance: losses above the threshold, all of them, before which it ends.
        ratio: by which the threshold is above the mean loss with which the window begins.
    """

    def __init__(self, label: str, converge: int, tolerance: int, ratio: float) -> None:
        super().__init__(label)
        self._converge, self._tolerance, self._ratio = converge, tolerance, ratio
        self._segment = RunningMean()
        self._window = RunningMean()
        """Mean of the segments that are decided on: of all so far, or of the window without the last ones."""
        self._recent: deque[list[Tensor]] = deque()
        """Before a window: the last ones, which may begin one. In it: those that may lie after its end."""
        self._losses: list[float] = []
        self.first = 0
        """First epoch of the window, from the first that was observed on."""
        self.threshold: float | None = None
        """Losses above it may end the window. None: it has not begun."""
        self.ended = False
        """Whether the window's end is known: nothing changes any more."""

    @property
    def last(self) -> int:
        """Last epoch of the window so far, from the first that was observed on."""
        return self.count - 1 - (self._tolerance if self.ended else 0)

    def after_step(self, model: nn.Module) -> None:
        if not self.ended:
            self._segment.add(list_parameters(model))

    def after_epoch(self, model: nn.Module) -> None:
        if self.ended:
            return
        if self._segment.count == 0:  # begun at the end of an epoch whose steps it has not seen
            self._segment.add(list_parameters(model))
        segment = [tensor.to("cpu") for tensor in self._segment.mean]
        self._recent.append(segment)
        if self.threshold is None:
            self._window.add(segment)
        self._segment = RunningMean()
        self.count += 1
        self._keep_recent()

    def after_validation(self, loss: float) -> None:
        if self.ended:
            return
        self._losses.append(loss)
        del self._losses[: -max(self._converge, self._tolerance)]
        if self.threshold is None:
            self._begin_window()
        elif min(self._losses[-self._tolerance :]) > self.threshold:
            self.ended = True
            self._recent.clear()  # what is averaged ends before them

    def members(self, *, final: bool) -> Iterator[Member]:
        mean = RunningMean()
        mean.load_state_dict(self._window.state_dict())
        if self.threshold is not None:
            for segment in self._recent:
                mean.add(segment)
        yield Member(mean.mean)

    def state_dict(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "first": self.first,
            "threshold": self.threshold,
            "ended": self.ended,
            "losses": list(self._losses),
            "segment": self._segment.state_dict(),  # begun already where cycles are longer than an epoch
            "window": self._window.state_dict(),
            "recent": list(self._recent),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count, self.first = state["count"], state["first"]
        self.threshold, self.ended = state["threshold"], state["ended"]
        self._losses = list(state["losses"])
        self._segment.load_state_dict(state["segment"])
        self._window.load_state_dict(state["window"], "cpu")
        self._recent = deque([tensor.to("cpu", copy=True) for tensor in old] for old in state["recent"])

    def _begin_window(self) -> None:
        losses = self._losses[-self._converge :]
        if len(losses) < self._converge or losses[0] > min(losses):
            return
        self.first = self.count - self._converge
        self.threshold = (1 + self._ratio) * sum(losses) / len(losses)
        self._window = RunningMean()
        self._keep_recent()

    def _keep_recent(self) -> None:
        kept = self._converge if self.threshold is None else self._tolerance
        while len(self._recent) > kept:
            oldest = self._recent.popleft()
            if self.threshold is not None:
                self._window.add(oldest)
