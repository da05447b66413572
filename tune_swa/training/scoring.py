"""Score the averages of a run: weights into a scratch model, statistics refreshed, probabilities averaged."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from tune_swa.averaging.observers import Member, load_member
from tune_swa.training.metrics import compute_logits

Batches = Iterable[tuple[Tensor, Tensor]]


class MemberEvaluator:
    """Evaluates the members of averages in one scratch model, however many averages there are.

    Args:
        model: live model, which is copied once and not touched.
        refresh: recomputes the batch-normalisation statistics of a model.
        autocast: makes the context of a forward pass.
    """

    def __init__(
        self,
        model: nn.Module,
        refresh: Callable[[nn.Module], None],
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self.scratch = copy.deepcopy(model)
        """Holds the member that was loaded last, with its statistics."""
        self._refresh, self._autocast = refresh, autocast

    def load_refreshed(self, member: Member) -> nn.Module:
        """Load a member into the scratch model, with statistics that fit its weights."""
        load_member(self.scratch, member)
        if member.statistics is None:
            self._refresh(self.scratch)
        return self.scratch

    def compute_outputs(
        self, members: Iterator[Member], batches: Callable[[], Batches]
    ) -> tuple[Tensor, Tensor, int]:
        """Compute what an average says of images: the logits of one member, or the logarithms of the mean
        of several members' probabilities, which `log_softmax` leaves as they are.

        Args:
            members: at least one.
            batches: begins a pass over the images.

        Returns:
            Outputs [N, C], labels [N], and the number of members.
        """
        outputs, labels = compute_logits(self.load_refreshed(next(members)), batches(), self._autocast())
        count, total = 1, None
        for member in members:
            if total is None:
                total = torch.log_softmax(outputs.double(), dim=1)
            logits, labels = compute_logits(self.load_refreshed(member), batches(), self._autocast())
            total = torch.logaddexp(total, torch.log_softmax(logits.double(), dim=1))
            count += 1
        return (outputs if total is None else total - math.log(count)), labels, count
