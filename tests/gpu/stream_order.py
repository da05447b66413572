"""Order of work between streams: what may run at the same time, and whether it touches the same memory.

Each stream counts the work queued on it. An event carries how far its stream, and those that it waited for,
had come; a stream that waits for the event knows as much (vector clocks, Fidge 1988 and Mattern 1989).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary, finalize

import torch

Clock = dict[int, int]
"""Pieces of work done on each stream, by the stream's id."""


class StreamOrder:
    """What each stream has waited for."""

    def __init__(self) -> None:
        self.current = 0
        """Id of the stream that work is queued on; 0 is the default stream."""
        self._clocks: defaultdict[int, Clock] = defaultdict(dict)
        self._host: Clock = {}

    def queue_work(self) -> int:
        """Queue a piece of work on the current stream and return its number there."""
        clock = self._clocks[self.current]
        clock[self.current] = clock.get(self.current, 0) + 1
        return clock[self.current]

    def record(self, stream: int) -> Clock:
        return dict(self._clocks[stream])

    def wait(self, stream: int, reached: Clock) -> None:
        _advance(self._clocks[stream], reached)

    def wait_on_host(self, *reached: Clock) -> None:
        """The host waits, for everything if it is not said what for; what it queues next comes after that."""
        for clock in reached or self._clocks.values():
            _advance(self._host, clock)

    def is_after(self, stream: int, other: int, number: int) -> bool:
        """Whether all that is queued on `stream` from here on comes after a piece of work on `other`."""
        known = max(self._clocks[stream].get(other, 0), self._host.get(other, 0))
        return stream == other or number <= known


def _advance(clock: Clock, reached: Clock) -> None:
    for stream, number in reached.items():
        clock[stream] = max(clock.get(stream, 0), number)


@dataclass
class Memory:
    """Who used a piece of memory of the GPU."""

    owner: int
    """Stream that it was allocated on. The allocator gives it to that stream's next work once it is free."""
    writer: int
    written: int
    uses: Clock = field(default_factory=dict)
    recorded: set[int] = field(default_factory=set)
    """Streams that `record_stream` was called with."""


class RaceDetector:
    """Finds memory that two streams use with nothing that puts them in order."""

    def __init__(self, order: StreamOrder) -> None:
        self.races: list[str] = []
        self._order = order
        self._memory: WeakKeyDictionary[torch.UntypedStorage, Memory] = WeakKeyDictionary()

    def note_work(
        self,
        name: str,
        read: Iterable[torch.UntypedStorage],
        written: Iterable[torch.UntypedStorage],
        results: Iterable[torch.UntypedStorage],
    ) -> None:
        """An operator on the current stream. Results that are new memory are allocated there."""
        order, stream = self._order, self._order.current
        number = order.queue_work()
        for storage in read:
            memory = self._memory.get(storage)
            if memory is not None:
                if not order.is_after(stream, memory.writer, memory.written):
                    self.races.append(f"{name} on stream {stream} reads what stream {memory.writer} writes")
                memory.uses[stream] = number
        for storage in written:
            memory = self._memory.get(storage)
            if memory is not None:
                for other, used in memory.uses.items():
                    if not order.is_after(stream, other, used):
                        self.races.append(f"{name} on stream {stream} writes what stream {other} uses")
                memory.writer, memory.written = stream, number
        for storage in results:
            if storage not in self._memory:
                memory = Memory(stream, stream, number, {stream: number})
                self._memory[storage] = memory
                finalize(storage, self._note_free, memory)

    def note_recorded(self, storage: torch.UntypedStorage, stream: int) -> None:
        if storage in self._memory:
            self._memory[storage].recorded.add(stream)

    def _note_free(self, memory: Memory) -> None:
        for stream, number in memory.uses.items():
            ordered = self._order.is_after(memory.owner, stream, number)
            if not ordered and stream not in memory.recorded:
                self.races.append(
                    f"memory of stream {memory.owner} was freed while stream {stream} used it (record_stream)"
                )
