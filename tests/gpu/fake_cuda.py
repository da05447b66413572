"""Tensors on `cuda:0` that have shapes and no numbers, beside tensors of the CPU that are real.

With made-up GPUs installed, code for a GPU runs as it is: FakeTensorMode computes shapes, number formats and
devices of every operator, and refuses operands of two devices. Each wait of the host for the GPU is counted
with the line that caused it; what the host would read there is ones.
"""

from __future__ import annotations

import linecache
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from weakref import WeakSet

import made_up_streams  # type: ignore[import-not-found]
import pytest
import torch
from python_engine import run_backward  # type: ignore[import-not-found]
from stream_order import RaceDetector  # type: ignore[import-not-found]
from torch import Tensor
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

import tune_swa

aten = torch.ops.aten
PRODUCT = str(Path(tune_swa.__file__).parent)
IN_PLACE = {aten._fused_sgd_, aten._fused_adam_, aten._fused_adamw_, aten._amp_update_scale_}
"""Operators that change their operands alone, some of which torch has no shapes for."""


class NoDevice(FakeTensorMode):
    """FakeTensorMode that never touches a GPU, though torch was told that there is one."""

    avoid_device_init = True


class FakeCuda(TorchDispatchMode):
    """Runs operators on tensors of a GPU without numbers, and those on the CPU as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.races = RaceDetector(made_up_streams.installed.order)
        self.waits: Counter[str] = Counter()
        """How often the host waited for the GPU, by what for and where."""
        self.pinned: WeakSet[torch.UntypedStorage] = WeakSet()
        """Memory of the host that a GPU copies from by itself."""
        self._fake = NoDevice(allow_non_fake_inputs=True)
        self._lifts_cpu_alone: bool | None = None

    def __enter__(self) -> FakeCuda:
        # else torch.tensor(..., device="cuda") asks the driver before any mode is asked
        self._lifts_cpu_alone = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        torch._C._ensureCUDADeviceGuardSet()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch._C._set_only_lift_cpu_tensors(self._lifts_cpu_alone)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is aten.is_pinned.default:
            return args[0].untyped_storage() in self.pinned
        if func is aten._pin_memory.default:
            return self._pin(args[0].clone())
        pin = kwargs.pop("pin_memory", False)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        to_gpu = torch.device(kwargs.get("device") or "cpu").type == "cuda"
        if to_gpu or any(map(_is_fake, tensors)):
            result = self._run_fake(func, args, kwargs, tensors)
            self._note_work(func, args, kwargs, tensors, result)
            return result
        result = func(*args, **kwargs)
        return self._pin(result) if pin else result

    def _run_fake(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor]
    ) -> Any:
        if func is aten._local_scalar_dense.default:
            self._count("a number read")
            return torch.ones((), dtype=args[0].dtype).item()
        if func is aten.record_stream.default:
            self.races.note_recorded(args[0].untyped_storage(), args[1].stream_id)
            return None
        if func is aten.copy_.default:
            return self._copy(*args, **kwargs)
        if func is aten._to_copy.default:
            self._note_copy(args[0], torch.device(kwargs.get("device") or args[0].device), kwargs)
        elif any(tensor.dim() and not _is_fake(tensor) for tensor in tensors):
            # indexing, above all: torch then copies the index to the GPU, and waits
            self._count("an operand on the CPU")
        if func.overloadpacket in IN_PLACE:
            devices = {str(tensor.device) for tensor in tensors}
            if len(devices) > 1:
                raise RuntimeError(f"{func}: tensors on {' and '.join(sorted(devices))}")
            return args[0] if func._schema.returns else None
        with self._fake:
            result = func(*args, **kwargs)
        return tree_map_only(FakeTensor, _read_back, result)

    def _note_work(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor], result: Any
    ) -> None:
        if func is aten.record_stream.default:
            return
        written = [
            kwargs.get(argument.name, args[place] if place < len(args) else None)
            for place, argument in enumerate(func._schema.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        ]
        self.races.note_work(
            str(func), *(map(Tensor.untyped_storage, _find_fakes(v)) for v in (tensors, written, result))
        )

    def _copy(self, target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        self._note_copy(source, target.device, {"non_blocking": non_blocking})
        if not _is_fake(target):
            return target.fill_(1)
        with self._fake:
            aten.copy_.default(target, source, non_blocking)
        return target

    def _note_copy(self, source: Tensor, device: torch.device, options: dict[str, Any]) -> None:
        """A copy between host and GPU is waited for, but for one that says otherwise from pinned memory."""
        if source.device.type == device.type:
            return
        if device.type == "cpu":
            self._count("a copy to the CPU")
        elif not options.get("non_blocking"):
            self._count("a copy to the GPU that blocks")
        elif source.untyped_storage() not in self.pinned:
            self._count("a copy to the GPU from memory that is not pinned")

    def _pin(self, tensor: Tensor) -> Tensor:
        self.pinned.add(tensor.untyped_storage())
        return tensor

    def _count(self, what: str) -> None:
        self.waits[f"{what} ({_find_product_line()})"] += 1


def _find_product_line() -> str:
    """The innermost line of the product that is being run."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and PRODUCT not in frame.f_code.co_filename:
        frame = frame.f_back
    if frame is None:
        return "a test"
    code = frame.f_code
    line = linecache.getline(code.co_filename, frame.f_lineno).strip()
    return f"{Path(code.co_filename).name}, {code.co_name}: {line}"


def _is_fake(value: Any) -> bool:
    return isinstance(value, FakeTensor)


def _find_fakes(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if _is_fake(leaf)]


def _read_back(tensor: FakeTensor) -> Tensor:
    """A result as it is, but for one on the CPU: real, and full of ones."""
    if tensor.device.type == "cuda":
        return tensor
    strides = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    return strides.fill_(1)


@contextmanager
def fake_cuda() -> Iterator[FakeCuda]:
    """Everything inside sees made-up GPUs, which must be installed, with tensors that have no numbers.

    Raises:
        AssertionError: two streams used the same memory at a time, perhaps.
    """
    mode = FakeCuda()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(), mode:
        # copy.deepcopy looks at where a tensor's numbers are
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        patch.setattr(torch.autograd, "_engine_run_backward", run_backward)
        # it allocates on a GPU that it is told of
        patch.setattr(fake_tensor, "init_gpu_context", lambda device: None)
        yield mode
        if mode.races.races:
            raise AssertionError("; ".join(dict.fromkeys(mode.races.races)))
