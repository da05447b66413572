"""Made-up GPUs answer torch's own front end as a machine with such GPUs would."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import made_up_gpus  # type: ignore[import-not-found]
import pytest
import torch
from made_up_gpus import GIB, Card, MadeUpGpus

MakeUpGpus = Callable[..., MadeUpGpus]


def ask_child(code: str, gpus: MadeUpGpus, **variables: str) -> str:
    """What a fresh process prints that runs `code` on the GPUs."""
    environment = {**os.environ, **gpus.environment(), **variables}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


COUNT = "import torch; torch.cuda.init(); print(torch.cuda.device_count(), torch.cuda.is_available())"


def test_the_front_end_sees_four_cards(make_up_gpus: MakeUpGpus) -> None:
    make_up_gpus(*(made_up_gpus.a100_80gb() for _ in range(4)))
    assert torch.cuda.is_available()
    assert torch.cuda.device_count() == 4
    assert not torch.cuda.is_initialized()
    assert torch.cuda.get_device_name(3) == "NVIDIA A100-SXM4-80GB"
    assert torch.cuda.is_initialized()
    assert torch.cuda.get_device_capability(1) == (8, 0)
    assert torch.cuda.get_device_properties(0).total_memory == 80 * GIB
    with pytest.raises(AssertionError, match="Invalid device id"):
        torch.cuda.get_device_properties(4)


@pytest.mark.parametrize(
    ("card", "supported"),
    [
        (made_up_gpus.t4_16gb, False),
        (made_up_gpus.laptop_8gb, True),
        (made_up_gpus.rtx_24gb, True),
        (made_up_gpus.h100_80gb, True),
    ],
)
def test_bf16_goes_by_the_capability(
    card: Callable[[], Card], supported: bool, make_up_gpus: MakeUpGpus
) -> None:
    make_up_gpus(card())
    assert torch.cuda.is_bf16_supported(including_emulation=False) is supported


def test_torch_warns_of_a_card_that_its_kernels_are_not_built_for(make_up_gpus: MakeUpGpus) -> None:
    make_up_gpus(made_up_gpus.v100_16gb())
    if "sm_70" in torch.cuda.get_arch_list() or not torch.cuda.get_arch_list():
        pytest.skip("this torch is built for the V100, or for no GPU")
    with pytest.warns(UserWarning, match="Tesla V100"):
        torch.cuda.init()


def test_the_current_device_is_followed(make_up_gpus: MakeUpGpus) -> None:
    make_up_gpus(Card(), Card())
    assert torch.cuda.current_device() == 0
    with torch.cuda.device(1):
        assert torch.cuda.current_device() == 1
    torch.cuda.set_device(1)
    assert torch.cuda.current_device() == 1
    with pytest.raises(torch.AcceleratorError, match="invalid device ordinal"):
        torch.cuda.set_device(2)


def test_memory_is_counted(make_up_gpus: MakeUpGpus) -> None:
    gpus = make_up_gpus(Card(memory=80 * GIB, taken=10 * GIB, context_bytes=GIB))
    assert torch.cuda.mem_get_info("cuda") == (69 * GIB, 80 * GIB)
    gpus.reserve(5 * GIB)
    gpus.release(3 * GIB)
    assert torch.cuda.memory_allocated() == 2 * GIB
    assert torch.cuda.max_memory_allocated() == torch.cuda.memory_reserved() == 5 * GIB
    torch.cuda.reset_peak_memory_stats()
    assert torch.cuda.max_memory_allocated() == 2 * GIB
    torch.cuda.empty_cache()
    assert torch.cuda.mem_get_info(0) == (67 * GIB, 80 * GIB)


def test_a_process_is_held_to_its_fraction(make_up_gpus: MakeUpGpus) -> None:
    gpus = make_up_gpus(Card(memory=16 * GIB))
    torch.cuda.set_per_process_memory_fraction(0.25)
    assert torch.cuda.get_per_process_memory_fraction(0) == 0.25
    gpus.reserve(4 * GIB)
    with pytest.raises(torch.OutOfMemoryError, match=r"16.00 GiB .* 4.00 GiB allowed"):
        gpus.reserve(1)
    assert torch.cuda.memory_stats()["num_ooms"] == 1


def test_a_reservation_fails_where_others_have_the_memory(make_up_gpus: MakeUpGpus) -> None:
    gpus = make_up_gpus(Card(memory=16 * GIB, taken=14 * GIB))
    with pytest.raises(torch.OutOfMemoryError):
        gpus.reserve(2 * GIB)


def test_the_fraction_wants_an_index(make_up_gpus: MakeUpGpus) -> None:
    """torch's own check, which a replaced function would hide."""
    make_up_gpus(Card())
    with pytest.raises(ValueError, match="index"):
        torch.cuda.get_per_process_memory_fraction(torch.device("cuda"))
    assert torch.cuda.get_per_process_memory_fraction(torch.device("cuda", 0)) == 1.0


def test_a_driver_too_old_is_counted_by_nvml_alone(make_up_gpus: MakeUpGpus) -> None:
    if torch.version.cuda is None:
        pytest.skip("this torch is built for no GPU")
    make_up_gpus(Card(), Card(), driver=11040)
    assert torch.cuda.device_count() == 2  # by NVML, as on the real machine
    with pytest.warns(UserWarning, match="too old"):
        assert not torch.cuda.is_available()
    with pytest.raises(RuntimeError, match=r"too old \(found version 11040\)"):
        torch.cuda.init()


def test_without_a_driver_there_is_no_library_either(make_up_gpus: MakeUpGpus) -> None:
    make_up_gpus(driver=None)
    assert torch.cuda.device_count() == 0
    with pytest.raises(RuntimeError, match="Found no NVIDIA driver"):
        torch.cuda.init()
    with pytest.raises(OSError, match="cannot open"):
        ctypes.CDLL("libcuda.so.1")


def test_streams_and_events_are_torchs_own_classes(make_up_gpus: MakeUpGpus) -> None:
    gpus = make_up_gpus(Card(), Card())
    side = torch.cuda.Stream()
    assert torch.cuda.current_stream() == torch.cuda.default_stream() != side
    with torch.cuda.stream(side):
        assert torch.cuda.current_stream() == side
        event = side.record_event()
    torch.cuda.current_stream().wait_event(event)
    torch.cuda.current_stream().wait_stream(side)
    assert gpus.synchronisations == 0
    event.synchronize()
    torch.cuda.synchronize()
    assert gpus.synchronisations == 2
    assert torch.cuda.Stream(device=1).device == torch.device("cuda", 1)


def test_random_states_are_forked(make_up_gpus: MakeUpGpus) -> None:
    make_up_gpus(Card())
    device = torch.device("cuda", 0)
    before = torch.cuda.get_rng_state(device)
    with torch.random.fork_rng(devices=[device]):
        torch.manual_seed(7)
        assert torch.cuda.initial_seed() == 7
    assert torch.equal(torch.cuda.get_rng_state(device), before)


A, B, C = (f"GPU-{letter}0000000-0000-0000-0000-000000000000" for letter in "abc")
SLICES = [f"MIG-{number}0000000-0000-0000-0000-000000000000" for number in (1, 2, 3)]


@pytest.mark.parametrize(
    ("variable", "seen"),
    [
        (None, [A, B, C]),
        ("2,0", [C, A]),
        ("1,7,0", [B]),  # what follows an index that does not exist is ignored
        ("", []),
        ("-1", []),
        ("1,1", []),
        (f"{C},{A}", [C, A]),
        ("GPU-b", [B]),
        ("GPU-", []),  # ambiguous
        ("GPU-x", []),
    ],
)
def test_visible_devices(
    variable: str | None, seen: list[str], make_up_gpus: MakeUpGpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = make_up_gpus(*(Card(uuid=uuid) for uuid in (A, B, C)))
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert torch.cuda.device_count() == len(seen)
    assert [use.card.uuid for use in gpus.uses] == seen


def test_a_process_gets_one_slice_of_a_gpu(make_up_gpus: MakeUpGpus, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = make_up_gpus(*(Card("NVIDIA A100 MIG 2g.20gb", 20 * GIB, (8, 0), uuid=uuid) for uuid in SLICES))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(SLICES[1:]))
    torch.cuda.init()
    assert torch.cuda.device_count() == 1
    assert gpus.uses[0].card.uuid == SLICES[1]


def test_a_child_process_has_the_cards_and_its_own_visible_ones() -> None:
    gpus = MadeUpGpus(Card(uuid=A), made_up_gpus.t4_16gb(uuid=B))
    assert ask_child(COUNT, gpus) == "2 True"
    code = f"{COUNT}; print(torch.cuda.get_device_name(), torch.cuda.get_device_capability())"
    assert ask_child(code, gpus, CUDA_VISIBLE_DEVICES=B).splitlines() == ["1 True", "Tesla T4 (7, 5)"]


def test_a_child_that_needs_no_torch_does_not_import_it() -> None:
    code = "import sys, json; print('torch' in sys.modules, 'made_up_gpus' in sys.modules)"
    assert ask_child(code, MadeUpGpus(Card())) == "False False"


def test_processes_see_what_the_others_hold_until_they_die(tmp_path: Path, make_up_gpus: MakeUpGpus) -> None:
    gpus = make_up_gpus(Card(memory=16 * GIB, context_bytes=GIB), shared=tmp_path)
    code = (
        "import torch, sys; from made_up_gpus import GIB; torch.cuda.set_per_process_memory_fraction(0.5);"
        "torch._C._cuda_memoryStats.__self__.reserve(4 * GIB); print('ready', flush=True); sys.stdin.read()"
    )
    environment = {**os.environ, **gpus.environment()}
    child = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        assert torch.cuda.mem_get_info(0) == (10 * GIB, 16 * GIB)  # less 5 there and a context here
        (held,) = json.loads((tmp_path / f"{child.pid}.json").read_text()).values()
        assert held == {"bytes": 5 * GIB, "fraction": 0.5}
    finally:
        child.kill()
        child.communicate()
    assert torch.cuda.mem_get_info(0) == (15 * GIB, 16 * GIB)


def test_the_process_is_as_before_when_the_fixture_ends() -> None:
    before = [vars(torch.cuda).copy(), vars(torch._C).copy(), ctypes.CDLL]
    with pytest.MonkeyPatch.context() as patch:
        MadeUpGpus(Card()).install(
            lambda place, name, value: patch.setattr(place, name, value, raising=False)
        )
        torch.cuda.init()
        assert torch.cuda.Stream().query()
    assert [vars(torch.cuda), vars(torch._C), ctypes.CDLL] == before
