"""Made-up GPUs behind torch's own Python code for CUDA: they answer for `torch._C._cuda_*`.

Nothing of `torch.cuda` written in Python is replaced: its checks, its lazy initialisation and its errors run
as they are. What a process gets is the driver's answers: how many GPUs, which, how much memory is free, and
an allocator that only counts. No kernel runs; `fake_cuda` is for tensors.
"""

from __future__ import annotations

import json
import os
import uuid
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from stream_order import StreamOrder  # type: ignore[import-not-found]

GIB = 1 << 30
VARIABLE = "MADE_UP_GPUS"
"""Environment variable that hands the GPUs to child processes, as JSON."""
FOLDER = Path(__file__).resolve().parent

NO_DRIVER = (
    "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver "
    "from http://www.nvidia.com/Download/index.aspx"
)
TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version {}). Please update your GPU driver by "
    "downloading and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx "
    "Alternatively, go to: https://pytorch.org to install a PyTorch version that has been compiled with your "
    "version of the CUDA driver."
)

Put = Callable[[Any, str, Any], None]
"""`setattr`, or pytest's that undoes it."""


@dataclass(frozen=True)
class Card:
    """One GPU, or one slice of a GPU (MIG) where its `uuid` begins with `MIG-`."""

    name: str = "NVIDIA H100 80GB HBM3"
    memory: int = 80 * GIB
    """In bytes."""
    capability: tuple[int, int] = (9, 0)
    taken: int = 0
    """Bytes that processes outside the test hold."""
    uuid: str = field(default_factory=lambda: f"GPU-{uuid.uuid4()}")
    context_bytes: int = 500_000_000
    """What each process that uses the card takes of it before its first tensor."""

    @property
    def is_slice(self) -> bool:
        return self.uuid.startswith("MIG-")


def laptop_8gb(**more: Any) -> Card:
    return Card("NVIDIA GeForce RTX 3070", 8 * GIB, (8, 6), **more)


def v100_16gb(**more: Any) -> Card:
    return Card("Tesla V100-SXM2-16GB", 16 * GIB, (7, 0), **more)


def t4_16gb(**more: Any) -> Card:
    return Card("Tesla T4", 16 * GIB, (7, 5), **more)


def rtx_24gb(**more: Any) -> Card:
    return Card("NVIDIA GeForce RTX 4090", 24 * GIB, (8, 9), **more)


def a100_80gb(**more: Any) -> Card:
    return Card("NVIDIA A100-SXM4-80GB", 80 * GIB, (8, 0), **more)


def h100_80gb(**more: Any) -> Card:
    return Card("NVIDIA H100 80GB HBM3", 80 * GIB, (9, 0), **more)


@dataclass
class Use:
    """What this process has of one GPU that it sees."""

    card: Card
    fraction: float = 1.0
    """Share of the memory that the allocator is held to."""
    has_context: bool = False
    allocated: int = 0
    """Bytes of live tensors."""
    reserved: int = 0
    """Bytes that the allocator holds: those, and what it keeps for the next ones."""
    peak_allocated: int = 0
    peak_reserved: int = 0
    out_of_memory: int = 0
    """How often a reservation was refused."""

    @property
    def total(self) -> int:
        return self.reserved + (self.card.context_bytes if self.has_context else 0)


class MadeUpGpus:
    """GPUs of a made-up machine, as one process sees them.

    Args:
        cards: in the order of their indices.
        driver: newest CUDA version that the driver serves, such as 13000 for 13.0; None: no driver.
            One of an earlier major version than torch's is too old: NVML still counts its GPUs.
        shared: folder through which the test's processes see how much of a card the others hold. A killed
            process gives back what it had.
    """

    def __init__(self, *cards: Card, driver: int | None = 13000, shared: Path | None = None) -> None:
        self.cards = cards
        self.driver = driver
        self.shared = shared
        self.current = 0
        """Index of the current device."""
        self.synchronisations = 0
        """How often the process waited for a device, a stream or an event."""
        self.order = StreamOrder()
        self._uses: list[Use] | None = None

    @classmethod
    def from_json(cls, text: str) -> MadeUpGpus:
        """GPUs as `environment` describes them."""
        facts = json.loads(text)
        cards = [Card(**{**card, "capability": tuple(card["capability"])}) for card in facts["cards"]]
        shared = facts["shared"]
        return cls(*cards, driver=facts["driver"], shared=shared and Path(shared))

    def environment(self) -> dict[str, str]:
        """Variables with which a child process that imports torch sees these GPUs."""
        facts = {
            "cards": [asdict(card) for card in self.cards],
            "driver": self.driver,
            "shared": self.shared and str(self.shared),
        }
        paths = [
            str(FOLDER / "stubs"),
            str(FOLDER),
            str(FOLDER.parent),
            *filter(None, [os.environ.get("PYTHONPATH")]),
        ]
        return {VARIABLE: json.dumps(facts), "PYTHONPATH": os.pathsep.join(paths)}

    # -- what a test sets and asks

    @property
    def uses(self) -> list[Use]:
        """What this process has of each GPU that it sees. As in CUDA, CUDA_VISIBLE_DEVICES is read once."""
        if self._uses is None:
            self._uses = [Use(card) for card in self._visible_cards()]
        return self._uses

    def reserve(self, count: int, index: int = 0) -> None:
        """Allocate `count` bytes, as a tensor of that size would.

        Raises:
            torch.OutOfMemoryError: they are more than the process's share, or than is free.
        """
        use = self._touch(index)
        grown = max(0, use.allocated + count - use.reserved)
        allowed = int(use.fraction * use.card.memory)
        if use.reserved + grown > allowed or grown > self._free_bytes(use):
            use.out_of_memory += 1
            free = self._free_bytes(use)
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {count / GIB:.2f} GiB. GPU {index} has a total "
                f"capacity of {use.card.memory / GIB:.2f} GiB of which {free / GIB:.2f} GiB is free. "
                f"{allowed / GIB:.2f} GiB allowed; this process has {use.reserved / GIB:.2f} GiB in use."
            )
        use.allocated += count
        use.reserved += grown
        use.peak_allocated = max(use.peak_allocated, use.allocated)
        use.peak_reserved = max(use.peak_reserved, use.reserved)
        self._publish()

    def release(self, count: int, index: int = 0) -> None:
        """Free `count` bytes. The allocator keeps them until `torch.cuda.empty_cache`."""
        self.uses[index].allocated -= count

    def install(self, put: Put = setattr) -> None:
        """Put the GPUs behind torch in this process."""
        import made_up_driver  # type: ignore[import-not-found]
        import made_up_streams  # type: ignore[import-not-found]

        made_up_driver.install(self, put)
        made_up_streams.install(self, put)
        for name in [name for name in dir(type(self)) if name.startswith("_cuda_")]:
            put(torch._C, name, getattr(self, name))
        # copies that torch.cuda took of functions of torch._C
        put(torch.cuda, "_exchange_device", self._cuda_exchangeDevice)
        put(torch.cuda, "_maybe_exchange_device", self._cuda_exchangeDevice)
        runtime = torch.cuda._cudart or SimpleNamespace()  # None: torch was built for the CPU
        put(torch.cuda, "_cudart", runtime)
        put(runtime, "cudaMemGetInfo", self._memory_info)
        # what initialising CUDA leaves in torch.cuda
        for name, value in {
            "_initialized": False,
            "_cached_device_count": None,
            "_queued_calls": list(torch.cuda._queued_calls),
            "_get_device_properties": None,
            "default_generators": (),
        }.items():
            put(torch.cuda, name, value)

    # -- what torch asks, by its names

    def _cuda_getDeviceCount(self) -> int:  # noqa: N802
        if self._driver_error():
            warnings.warn(f"CUDA initialization: {self._driver_error()}", stacklevel=2)
            return 0
        return len(self.uses) if self.driver else 0

    def _cuda_init(self) -> None:
        if error := self._driver_error():
            raise RuntimeError(error)
        if not self.driver:
            raise RuntimeError(NO_DRIVER)
        if not self.uses:
            raise RuntimeError("No CUDA GPUs are available")
        setattr(torch.cuda, "_get_device_properties", self._properties)  # noqa: B010
        # only their states are asked for: nothing is drawn on a made-up GPU
        torch.cuda.default_generators = tuple(torch.Generator() for _ in self.uses)  # type: ignore[assignment]

    def _cuda_getDevice(self) -> int:  # noqa: N802
        return self.current

    def _cuda_setDevice(self, index: int) -> None:  # noqa: N802
        self._touch(index)
        self.current = index

    def _cuda_exchangeDevice(self, index: int) -> int:  # noqa: N802
        if index < 0:
            return -1
        self._touch(index)
        before, self.current = self.current, index
        return before

    def _cuda_synchronize(self) -> None:
        self._touch(self.current)
        self.synchronisations += 1
        self.order.wait_on_host()

    def _cuda_getMemoryFraction(self, index: int) -> float:  # noqa: N802
        return self._checked(index).fraction

    def _cuda_setMemoryFraction(self, fraction: float, index: int) -> None:  # noqa: N802
        self._checked(index).fraction = fraction
        self._publish()

    def _cuda_emptyCache(self) -> None:  # noqa: N802
        for use in self.uses:
            use.reserved = use.allocated
        self._publish()

    def _cuda_memoryStats(self, index: int) -> dict[str, Any]:  # noqa: N802
        use = self._checked(index)

        def statistic(current: int, peak: int) -> dict[str, dict[str, int]]:
            return {"all": {"current": current, "peak": peak, "allocated": peak, "freed": peak - current}}

        return {
            "allocated_bytes": statistic(use.allocated, use.peak_allocated),
            "active_bytes": statistic(use.allocated, use.peak_allocated),
            "reserved_bytes": statistic(use.reserved, use.peak_reserved),
            "num_ooms": use.out_of_memory,
            "num_alloc_retries": 0,
        }

    def _cuda_resetPeakMemoryStats(self, index: int) -> None:  # noqa: N802
        use = self._checked(index)
        use.peak_allocated, use.peak_reserved = use.allocated, use.reserved

    def _cuda_resetAccumulatedMemoryStats(self, index: int) -> None:  # noqa: N802
        self._checked(index).out_of_memory = 0

    def _cuda_canDeviceAccessPeer(self, index: int, other: int) -> bool:  # noqa: N802
        self._checked(index)
        return not self._checked(other).card.is_slice

    def _cuda_ipc_collect(self) -> None:
        """Nothing is shared."""

    def _memory_info(self, index: int) -> tuple[int, int]:
        """Free and total bytes; `cudaMemGetInfo`."""
        use = self._touch(index)
        return self._free_bytes(use), use.card.memory

    def _properties(self, index: int) -> SimpleNamespace:
        card = self._checked(index).card
        return SimpleNamespace(
            name=card.name,
            major=card.capability[0],
            minor=card.capability[1],
            total_memory=card.memory,
            multi_processor_count=100,
            uuid=card.uuid.partition("-")[2],
            is_integrated=0,
            is_multi_gpu_board=0,
        )

    # -- inside

    def _driver_error(self) -> str | None:
        newest = int((torch.version.cuda or "0").partition(".")[0])
        if not self.driver or self.driver // 1000 >= newest:
            return None
        return TOO_OLD.format(self.driver)

    def _visible_cards(self) -> list[Card]:
        """Cards that CUDA_VISIBLE_DEVICES leaves, by the rules of CUDA as torch.cuda describes them."""
        wanted = torch.cuda._parse_visible_devices()
        if wanted and isinstance(wanted[0], str):
            uuids = [card.uuid for card in self.cards]
            ordinals = torch.cuda._transform_uuid_to_ordinals(wanted, uuids)
        else:
            # what follows an index that does not exist is ignored
            ordinals = list(takewhile(lambda ordinal: ordinal < len(self.cards), wanted))
        chosen = [self.cards[ordinal] for ordinal in ordinals]
        # CUDA gives a process one slice, however many are visible
        return [card for card in chosen if card.is_slice][:1] or chosen

    def _checked(self, index: int) -> Use:
        if not 0 <= index < len(self.uses):
            raise torch.AcceleratorError("CUDA error: invalid device ordinal")
        return self.uses[index]

    def _touch(self, index: int) -> Use:
        """A GPU that the process uses: from here on it has a context there."""
        use = self._checked(index)
        if not use.has_context:
            use.has_context = True
            self._publish()
        return use

    def _free_bytes(self, use: Use) -> int:
        return max(0, use.card.memory - use.card.taken - use.total - self._held_by_others(use.card))

    def _publish(self) -> None:
        """Write down what this process has, for the other processes of the test."""
        if self.shared is not None:
            held = {use.card.uuid: {"bytes": use.total, "fraction": use.fraction} for use in self.uses}
            unfinished = self.shared / f".{os.getpid()}"
            unfinished.write_text(json.dumps(held), encoding="utf-8")
            unfinished.replace(self.shared / f"{os.getpid()}.json")

    def _held_by_others(self, card: Card) -> int:
        total = 0
        for file in self.shared.glob("*.json") if self.shared is not None else ():
            alive = file.stem != str(os.getpid()) and Path("/proc", file.stem).exists()
            if alive:
                total += json.loads(file.read_text(encoding="utf-8")).get(card.uuid, {}).get("bytes", 0)
        return total
