"""Streams and events of made-up GPUs: torch's own classes over bases that know ids and order alone."""

from __future__ import annotations

import sys
from itertools import count
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from made_up_gpus import MadeUpGpus, Put  # type: ignore[import-not-found]
    from stream_order import Clock  # type: ignore[import-not-found]

CUDA = 1
"""Number of the device type in torch."""
installed: Any = None
"""The GPUs of this process. A program may keep a stream for longer than a test keeps its GPUs."""
_ids = count(1)


class StreamBase(torch.Stream):  # type: ignore[misc]
    """In place of `torch._C._CudaStreamBase`."""

    def __new__(
        cls, *, priority: int = 0, stream_id: int | None = None, device_index: int | None = None,
        device_type: int = CUDA, stream_ptr: int = 0,
    ) -> StreamBase:  # fmt: skip
        made = super().__new__(
            cls,
            stream_id=next(_ids) if stream_id is None else stream_id,
            device_index=installed.current if device_index is None else device_index,
            device_type=device_type,
        )
        assert isinstance(made, cls)
        return made

    @property
    def cuda_stream(self) -> int:
        return int(self.stream_id)

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        installed.synchronisations += 1
        installed.order.wait_on_host(installed.order.record(self.stream_id))


class EventBase:
    """In place of `torch._C._CudaEventBase`."""

    reached: Clock

    def __new__(cls, **_: Any) -> EventBase:
        made = super().__new__(cls)
        made.reached = {}
        return made

    def record(self, stream: torch.Stream) -> None:
        self.reached = installed.order.record(stream.stream_id)

    def wait(self, stream: torch.Stream) -> None:
        """The stream's next work waits; the host does not."""
        installed.order.wait(stream.stream_id, self.reached)

    def query(self) -> bool:
        return True

    def elapsed_time(self, end: EventBase) -> float:
        return 1.0

    def synchronize(self) -> None:
        installed.synchronisations += 1
        installed.order.wait_on_host(self.reached)


def _rebuild_class(kind: type, base: type) -> type:
    """torch's class with its own methods over another base."""
    namespace = {k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__")}
    return type(kind.__name__, (base,), namespace)


CLASSES = {
    kind: _rebuild_class(kind, base)
    for kind, base in ((torch.cuda.Stream, StreamBase), (torch.cuda.Event, EventBase))
}


def install(gpus: MadeUpGpus, put: Put) -> None:
    """Put made-up streams and events behind `torch.cuda.Stream` and `torch.cuda.Event`."""
    put(sys.modules[__name__], "installed", gpus)
    current: dict[int, int] = {}
    """Id of the current stream of each device; 0 is the default stream."""

    def get_stream(index: int) -> tuple[int, int, int]:
        index = gpus.current if index < 0 else index
        return current.get(index, 0), index, CUDA

    def set_stream(stream_id: int, device_index: int, device_type: int) -> None:
        gpus.current = device_index
        current[device_index] = gpus.order.current = stream_id

    for kind, made in CLASSES.items():
        put(torch.cuda, kind.__name__, made)
        put(torch.cuda.streams, kind.__name__, made)
        # `super()` in their methods looks its class up in a cell that all methods of a class share
        query = vars(kind)["query"]
        put(query.__closure__[query.__code__.co_freevars.index("__class__")], "cell_contents", made)
    put(torch._C, "_cuda_getCurrentStream", get_stream)
    put(torch._C, "_cuda_getDefaultStream", lambda index: (0, max(index, 0), CUDA))
    put(torch._C, "_cuda_getCurrentRawStream", lambda index: current.get(index, 0))
    put(torch._C, "_cuda_setStream", set_stream)
    put(torch._C, "_cuda_isCurrentStreamCapturing", lambda: False)
    put(torch.cuda.graphs, "_cuda_isCurrentStreamCapturing", lambda: False)
