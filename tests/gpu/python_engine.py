"""Backward passes without autograd's C++ engine, which asks the driver for streams on any tensor of a GPU.

The graph, its nodes and their formulas are torch's own; what is done here is the order alone.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import torch
from torch import Tensor


def run_backward(
    tensors: Sequence[Tensor],
    gradients: Sequence[Tensor],
    keep_graph: bool,
    create_graph: bool,
    inputs: Sequence[Any],
    allow_unreachable: bool = False,
    accumulate_grad: bool = False,
    *,
    after_node: Callable[[], None] = lambda: None,
) -> tuple[()]:
    """As `Variable._execution_engine.run_backward`, for what `Tensor.backward()` asks of it.

    Args:
        after_node: called after each node.

    Raises:
        RuntimeError: a gradient is on another device than what it is the gradient of.
    """
    assert accumulate_grad
    assert not inputs
    assert not create_graph
    roots = [tensor.grad_fn for tensor in tensors]
    waiting = _count_edges(roots)
    received: dict[Any, dict[int, Tensor]] = {}
    order = count()
    ready: list[tuple[int, int, Any]] = []
    for root, gradient in zip(roots, gradients, strict=True):
        received[root] = {0: gradient}
        heapq.heappush(ready, (0, next(order), root))
    with torch.no_grad():
        while ready:
            _, _, node = heapq.heappop(ready)
            given = received.pop(node, {})
            results = _call_node(node, given) if given else [None] * len(node.next_functions)
            given.clear()
            after_node()
            for index, (following, slot) in enumerate(node.next_functions):
                if following is None:
                    continue
                result = results[index]
                if result is not None:
                    result = _fit_gradient(result, node, following._input_metadata[slot])
                    slots = received.setdefault(following, {})
                    slots[slot] = slots[slot] + result if slot in slots else result
                waiting[following] -= 1
                if not waiting[following]:
                    # the engine's order: gradients of leaves first, else what was computed last
                    leaf = type(following).__name__ == "AccumulateGrad"
                    rank = -(1 << 62) if leaf else -following._sequence_nr()
                    heapq.heappush(ready, (rank, next(order), following))
            del results
    return ()


def _count_edges(roots: Sequence[Any]) -> Counter[Any]:
    """How many nodes give each node a gradient."""
    edges: Counter[Any] = Counter()
    seen = set(roots)
    to_visit = list(seen)
    while to_visit:
        for following, _ in to_visit.pop().next_functions:
            if following is None:
                continue
            edges[following] += 1
            if following not in seen:
                seen.add(following)
                to_visit.append(following)
    return edges


def _call_node(node: Any, given: dict[int, Tensor]) -> Sequence[Tensor | None]:
    results = node(*(given.get(slot) for slot in range(len(node._input_metadata))))
    return results if isinstance(results, tuple) else (results,)


def _fit_gradient(gradient: Tensor, node: Any, wanted: Any) -> Tensor:
    """What the engine does to a gradient before it hands it on (`validate_outputs`)."""
    if gradient.device != wanted.device:
        raise RuntimeError(
            f"{node.name()} gave a gradient on {gradient.device} of a tensor on {wanted.device}"
        )
    if gradient.shape != wanted.shape:
        gradient = gradient.sum_to_size(wanted.shape)
    return gradient.to(wanted.dtype)
