"""Schedule, metrics, weights, checkpoints and numerics, each against a reference of its own."""

from __future__ import annotations

import copy
import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.swa_utils import update_bn

from tune_swa.averaging.swa import refresh_bn
from tune_swa.config import ModelSpec, TrainSpec
from tune_swa.errors import RequestError
from tune_swa.hardware.torch_probe import Gpu
from tune_swa.seeds import derive_seed
from tune_swa.training import checkpoint as checkpoints
from tune_swa.training.metrics import (
    NonFiniteError,
    evaluate_logits,
    evaluate_model,
    expected_calibration_error,
    predict_images,
)
from tune_swa.training.model import build_model, hash_weights, resolve_weights
from tune_swa.training.numerics import Numerics, decide_numerics, describe_hardware
from tune_swa.training.schedule import base_factor

Weights = dict[str, torch.Tensor]

# ------------------------------------------------------------------------------------- schedule


def torch_cosine(t_max: int, steps: int) -> list[float]:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = CosineAnnealingLR(optimizer, T_max=t_max)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_cosine_over_the_run_equals_torchs() -> None:
    train = TrainSpec(epochs=20)
    ours = [base_factor(e, train, 7) for e in range(20)]
    np.testing.assert_allclose(ours, torch_cosine(20, 20), atol=1e-12)


def test_the_per_batch_wave_equals_torchs_stepped_per_batch() -> None:
    """The tutorial's code: T_max 120, stepped per batch, so a period of 240 batches."""
    train = TrainSpec(epochs=120, unit="batch", t_max=120)
    ours = [base_factor(b, train, 44) for b in range(600)]
    np.testing.assert_allclose(ours, torch_cosine(120, 600), atol=1e-9)
    assert ours[0] == pytest.approx(1)
    assert ours[240] == pytest.approx(1)
    assert ours[120] == pytest.approx(0)


def test_warm_up_rises_to_the_cosines_start() -> None:
    train = TrainSpec(epochs=10, warmup_epochs=3)
    factors = [base_factor(e, train, 5) for e in range(10)]
    assert factors[:4] == [1 / 4, 2 / 4, 3 / 4, 1.0]
    assert factors[3:] == sorted(factors[3:], reverse=True)
    assert factors[-1] > 0


def test_constant_schedule() -> None:
    assert {base_factor(e, TrainSpec(schedule="constant"), 5) for e in range(20)} == {1.0}


# -------------------------------------------------------------------------------------- metrics


def test_metrics_by_hand() -> None:
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.4, 0.3], [0.05, 0.05, 0.9]])
    labels = torch.tensor([0, 1, 0, 0])
    found = evaluate_logits(probabilities.log(), labels)
    assert found.accuracy == 0.5
    assert found.nll == pytest.approx(-np.log([0.7, 0.8, 0.3, 0.05]).mean(), rel=1e-6)
    # each of 0.7, 0.8, 0.4 and 0.9 is alone in its bin of 1/15
    assert found.ece == pytest.approx((0.3 + 0.2 + 0.4 + 0.9) / 4, rel=1e-5)


def test_the_deviation_between_images_is_there_where_it_is_asked_for() -> None:
    logits = torch.randn(40, 3, generator=torch.Generator().manual_seed(3)) * 4
    labels = torch.arange(40) % 3
    plain, spread = evaluate_logits(logits, labels), evaluate_logits(logits, labels, spread=True)
    losses = torch.nn.functional.cross_entropy(logits.double(), labels, reduction="none").numpy()
    assert plain.nll_sd is None
    assert spread.nll_sd == pytest.approx(losses.std(ddof=1), rel=1e-6)
    assert {**spread.as_dict(), "nll_sd": None} == {**plain.as_dict(), "nll_sd": None}
    assert evaluate_logits(logits[:1], labels[:1], spread=True).nll_sd is None


def reference_ece(confidence: np.ndarray, correct: np.ndarray, bins: int) -> float:
    total = 0.0
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    for b in range(bins):
        inside = index == b
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - correct[inside].mean())
    return total


def test_ece_against_a_plain_loop_over_bins() -> None:
    rng = np.random.default_rng(0)
    confidence, correct = rng.uniform(0.1, 1, 500), rng.random(500) < 0.7
    ours = expected_calibration_error(torch.from_numpy(confidence), torch.from_numpy(correct))
    assert ours == pytest.approx(reference_ece(confidence, correct, 15), abs=1e-12)


@pytest.mark.parametrize("edge", [0.0, 0.2, 0.4, 1.0])
def test_points_on_a_bins_edge_are_counted(edge: float) -> None:
    """With strict edges on both sides they would be dropped, and the error would be 0."""
    confidence = torch.full((10,), edge, dtype=torch.float64)
    wrong = torch.full((10,), edge < 0.5)
    expected = abs(edge - float(wrong[0]))
    assert expected_calibration_error(confidence, wrong, bins=5) == pytest.approx(expected)


def test_predictions_have_scikit_learns_nll_and_brier_score() -> None:
    from sklearn.metrics import brier_score_loss, log_loss

    logits = torch.randn(200, 3, generator=torch.Generator().manual_seed(5)) * 2
    labels = torch.arange(200) % 3
    found = predict_images(torch.nn.Identity(), [(logits, labels)], nullcontext()).compute_metrics()
    probabilities = logits.double().softmax(dim=1).numpy()
    assert found["nll"] == pytest.approx(log_loss(labels.numpy(), probabilities), rel=1e-6)
    each = [brier_score_loss(labels.numpy() == k, probabilities[:, k]) for k in range(3)]
    assert found["brier"] == pytest.approx(sum(each), rel=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_outputs_are_refused(bad: float) -> None:
    with pytest.raises(NonFiniteError):
        evaluate_logits(torch.tensor([[bad, 0.0]]), torch.tensor([1]))


def test_batches_do_not_change_the_metrics() -> None:
    model = torch.nn.Linear(4, 3)
    images, labels = torch.randn(10, 4), torch.arange(10) % 3
    numerics = decide_numerics(TrainSpec(), 32, device="cpu")
    one = evaluate_model(model, [(images, labels)], numerics.autocast())
    many = evaluate_model(model, zip(images.split(3), labels.split(3), strict=True), numerics.autocast())
    assert one.accuracy == many.accuracy
    assert one.nll == pytest.approx(many.nll, rel=1e-6)


# ----------------------------------------------------------------------------------- BN refresh


def small_network(momentum: float | None = 0.1) -> torch.nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8, momentum=momentum), torch.nn.ReLU()]
        layers += [torch.nn.Conv2d(8, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Flatten()]
        layers += [torch.nn.BatchNorm1d(128, track_running_stats=False), torch.nn.Linear(128, 2)]
        return torch.nn.Sequential(*layers)


def draw_images(batches: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(4 + i, 3, 8, 8, generator=generator) for i in range(batches)]


def assert_same_network(left: torch.nn.Module, right: torch.nn.Module) -> None:
    for name, tensor in left.state_dict().items():
        assert torch.equal(tensor, right.state_dict()[name]), name
    assert list(left.state_dict()) == list(right.state_dict())
    for one, other in zip(left.modules(), right.modules(), strict=True):
        assert one.training == other.training
        assert getattr(one, "momentum", 0) == getattr(other, "momentum", 0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("batches", [0, 1, 7])
@pytest.mark.parametrize("training", [True, False])
def test_a_refresh_has_the_bits_of_update_bn(precision: Any, batches: int, training: bool) -> None:
    ours = small_network(momentum=0.3).train(training)
    ours(draw_images(3)[-1])  # statistics of before, which are forgotten
    theirs = copy.deepcopy(ours)
    numerics = Numerics("cpu", precision, 1, False, True, False)
    with numerics.autocast():
        refresh_bn(ours, draw_images(batches))
        update_bn(draw_images(batches), theirs)
    assert int(ours[1].num_batches_tracked) == batches
    assert_same_network(ours, theirs)


def test_a_refresh_that_fails_leaves_momenta_and_mode() -> None:
    def broken() -> Iterator[torch.Tensor]:
        yield from draw_images(2)
        raise OSError("an image is gone")

    model = small_network(momentum=None).eval()
    expected = copy.deepcopy(model)
    with pytest.raises(OSError, match="an image is gone"):
        refresh_bn(model, broken())
    update_bn(draw_images(2), expected)
    assert_same_network(model, expected)


def test_a_network_without_batch_normalisation_is_not_run() -> None:
    refresh_bn(torch.nn.Linear(2, 2), (pytest.fail("a batch was asked for") for _ in range(1)))


def test_a_refresh_records_no_gradients() -> None:
    seen = []
    model = small_network()
    model.register_forward_hook(lambda *given: seen.append(given[-1].requires_grad))
    refresh_bn(model, draw_images(2))
    assert seen == [False, False]


# -------------------------------------------------------------------------------------- weights


def test_a_state_dict_file_is_loaded(tmp_path: Path) -> None:
    source = torchvision.models.resnet18(num_classes=5)
    torch.save({"state_dict": {f"module.{n}": t for n, t in source.state_dict().items()}}, tmp_path / "w.pt")
    weights = resolve_weights(ModelSpec(weights=str(tmp_path / "w.pt")))
    same = build_model(5, 0, weights)
    for name, tensor in source.state_dict().items():
        assert torch.equal(same.state_dict()[name], tensor), name
    other = build_model(7, 0, weights)
    assert other.fc.weight.shape == (7, 512)
    assert torch.equal(other.conv1.weight, source.conv1.weight)
    assert hash_weights(weights) != hash_weights(None)
    assert hash_weights(weights) == hash_weights(dict(reversed(list(weights.items()))))


WRAPPED: dict[str, Callable[[Weights], object]] = {
    "DataParallel": lambda state: {f"module.{n}": t for n, t in state.items()},
    "averaged": lambda state: {"n_averaged": torch.tensor(3), **{f"module.{n}": t for n, t in state.items()}},
    "compiled": lambda state: {f"_orig_mod.module.{n}": t for n, t in state.items()},
    "lightning": lambda state: {"epoch": 3, "state_dict": {f"model.{n}": t for n, t in state.items()}},
    "checkpoint": lambda state: {"epoch": 3, "model_state_dict": dict(state), "optimizer": {}},
    "counters": lambda state: {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")},
    "double": lambda state: {n: t.double() for n, t in state.items()},
}


@pytest.mark.parametrize("wrapping", WRAPPED)
def test_what_training_programs_wrap_around_a_state_dict_is_taken_off(wrapping: str, tmp_path: Path) -> None:
    source = torchvision.models.resnet18(num_classes=5)
    torch.save(WRAPPED[wrapping](source.state_dict()), tmp_path / "w.pt")
    model = build_model(5, 0, resolve_weights(ModelSpec(weights=str(tmp_path / "w.pt"))))
    for name, tensor in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_a_file_without_a_classifier_gets_a_fresh_one(tmp_path: Path) -> None:
    source = torchvision.models.resnet18(num_classes=5).state_dict()
    torch.save({n: t for n, t in source.items() if not n.startswith("fc.")}, tmp_path / "w.pt")
    model = build_model(5, 0, resolve_weights(ModelSpec(weights=str(tmp_path / "w.pt"))))
    assert torch.equal(model.conv1.weight, source["conv1.weight"])
    assert torch.equal(model.fc.weight, build_model(5, 0).fc.weight)


def test_half_floats_are_read_as_fp32(tmp_path: Path) -> None:
    source = torchvision.models.resnet18(num_classes=5)
    torch.save(source.bfloat16().state_dict(), tmp_path / "w.pt")
    weights = resolve_weights(ModelSpec(weights=str(tmp_path / "w.pt")))
    assert weights is not None
    assert {t.dtype for t in weights.values()} == {torch.float32, torch.int64}
    assert hash_weights(weights) != "none"


def test_random_weights_follow_the_seed() -> None:
    assert torch.equal(build_model(3, 1).conv1.weight, build_model(3, 1).conv1.weight)
    assert not torch.equal(build_model(3, 1).conv1.weight, build_model(3, 2).conv1.weight)


class Dangerous:
    """Would end the tests if it were unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (3,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "cannot be read as a state_dict"),
        (b"no weights at all", "cannot be read as a state_dict"),
        ([1, 2], "holds no state_dict"),
        ({"a": torch.zeros(1)}, "it lacks conv1.weight"),
        (Dangerous(), "other things than tensors: posix._exit, which would be run"),
        (torch.nn.Linear(2, 2), "other things than tensors: a whole model .* write its weights with"),
    ],
    ids=["missing", "empty", "garbage", "list", "other-network", "code", "whole-model"],
)
def test_wrong_weights_files(content: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(RequestError, match=message):
        resolve_weights(ModelSpec(weights=str(path)))


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("conv1.weight", torch.zeros(64, 1, 7, 7), "other shapes for conv1.weight"),
        ("fc.weight", torch.zeros(5, 256), "other shapes for fc.weight"),
        ("fc.weight", torch.tensor(1.0), "other shapes for fc.weight"),
        ("fc.bias", torch.zeros(7), "other shapes for fc.weight"),
        ("bn1.weight", torch.ones(64, dtype=torch.int64), "other types for bn1.weight"),
        ("bn1.weight", torch.ones(64, dtype=torch.complex64), "other types for bn1.weight"),
        ("bn1.weight", torch.ones(64, device="meta"), "other types for bn1.weight"),
        ("bn1.weight", torch.ones(64).to_sparse(), "other types for bn1.weight"),
        ("bn1.weight", torch.full((64,), float("inf")), "bn1.weight: not finite"),
        ("layer9.weight", torch.ones(1), "has unknown layer9.weight"),
    ],
)
def test_one_wrong_tensor(name: str, tensor: torch.Tensor, message: str, tmp_path: Path) -> None:
    state = torchvision.models.resnet18(num_classes=5).state_dict()
    torch.save({**state, name: tensor}, tmp_path / "w.pt")
    with pytest.raises(RequestError, match=message):
        resolve_weights(ModelSpec(weights=str(tmp_path / "w.pt")))


def test_imagenet_weights_come_from_torchvisions_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real loading code on a file of the right name, without the network."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    entry = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    source = torchvision.models.resnet18()
    torch.save(source.state_dict(), folder / entry.url.rpartition("/")[2])
    weights = resolve_weights(ModelSpec(weights="imagenet"))
    assert weights is not None
    assert torch.equal(weights["conv1.weight"], source.conv1.weight)
    torch.save(Dangerous(), folder / entry.url.rpartition("/")[2])
    with pytest.raises(RequestError, match="Delete it, and it is downloaded again"):
        resolve_weights(ModelSpec(weights="imagenet"))


def test_imagenet_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(RequestError, match=r"could not be downloaded.*by hand.*model\.weights=none"):
        resolve_weights(ModelSpec(weights="imagenet"))
    assert capsys.readouterr() == ("", "")


# ---------------------------------------------------------------------------------- checkpoints


def test_a_disk_that_is_full_is_named_as_such() -> None:
    with pytest.raises(OSError, match="No space left on device"):
        checkpoints.save_checkpoint({"weights": torch.ones(100_000)}, Path("/dev/full"))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "Input/output error"),
        PermissionError(errno.EACCES, "Permission denied"),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
    ],
    ids=repr,
)
def test_what_cannot_be_read_now_is_not_called_damaged(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.save_checkpoint({"epoch": 1}, tmp_path / "c.pt")

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(type(error)) as raised:
        checkpoints.load_checkpoint(tmp_path / "c.pt")
    assert raised.value is error


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "other", "missing"])
def test_damaged_checkpoints_are_recognised(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    checkpoints.save_checkpoint({"epoch": 1, "weights": torch.ones(3000)}, path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:2000])
    elif damage == "flipped":  # inside of the weights: torch alone would load it
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "other":
        torch.save({"format": 999}, path)
    else:
        path.unlink()
    with pytest.raises(checkpoints.CheckpointError, match=r"c\.pt"):
        checkpoints.load_checkpoint(path)


# ------------------------------------------------------------------------------------- numerics


def test_numerics_on_the_cpu() -> None:
    assert decide_numerics(TrainSpec(), 224, device="cpu", threads=3) == Numerics(
        "cpu", "fp32", 3, True, True, False
    )
    given = TrainSpec(precision="bf16", channels_last=False, fused=False)
    chosen = decide_numerics(given, 224, device="cpu", threads=1)
    assert (chosen.precision, chosen.channels_last, chosen.fused) == ("bf16", False, False)
    assert Numerics(**chosen.as_dict()) == chosen
    for precision in ("fp16", "tf32"):
        with pytest.raises(RequestError, match=rf"train\.precision: {precision} needs a GPU"):
            decide_numerics(TrainSpec.model_validate({"precision": precision}), 32, device="cpu")


@pytest.mark.parametrize(
    ("wanted", "size", "expected"),
    [("auto", 63, False), ("auto", 64, True), (True, 32, True), (False, 224, False)],
)
def test_memory_format_on_the_cpu(wanted: Any, size: int, expected: bool) -> None:
    assert decide_numerics(TrainSpec(channels_last=wanted), size, device="cpu").channels_last is expected


def make_gpu(name: str, capability: str) -> Gpu:
    return Gpu(name, 16 * 10**9, 15 * 10**9, capability, bf16=float(capability) >= 8)


P100, V100, T4, A100 = map(make_gpu, ("P100", "V100", "T4", "A100"), ("6.0", "7.0", "7.5", "8.0"))


@pytest.fixture
def any_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build of torch for every GPU."""
    monkeypatch.setattr(torch._C, "_cuda_getArchFlags", lambda: "sm_50 compute_50", raising=False)


@pytest.mark.usefixtures("any_kernels")
@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        ([A100], "bf16"),
        ([T4], "fp16"),
        ([P100], "fp32"),
        ([A100, T4], "fp16"),
        ([A100, V100, P100], "fp32"),
    ],
)
def test_auto_is_what_all_gpus_can_run(gpus: list[Gpu], expected: str) -> None:
    assert decide_numerics(TrainSpec(), 32, gpus=gpus).precision == expected
    assert decide_numerics(TrainSpec(), 32, gpus=gpus, device="cpu").precision == "fp32"
    assert decide_numerics(TrainSpec(), 32, gpus=[]).device == "cpu"


@pytest.mark.usefixtures("any_kernels")
@pytest.mark.parametrize(
    ("precision", "gpus", "message"),
    [
        ("bf16", [A100, T4], "T4 has no bf16; use fp16, fp32 or auto"),
        ("tf32", [A100, V100], r"V100 has no TF32 \(compute capability 7.0; .* use fp16, fp32 or auto"),
    ],
)
def test_a_gpu_that_cannot_run_the_precision_is_named(precision: Any, gpus: list[Gpu], message: str) -> None:
    wanted = TrainSpec(precision=precision)
    with pytest.raises(RequestError, match=message):
        decide_numerics(wanted, 32, gpus=gpus)
    assert decide_numerics(wanted, 32, gpus=[A100]).precision == precision
    for runs_anywhere in ("fp32", "fp16"):
        given = TrainSpec.model_validate({"precision": runs_anywhere})
        assert decide_numerics(given, 32, gpus=gpus).precision == runs_anywhere


@pytest.mark.parametrize(
    ("built_for", "capability", "runs"),
    [
        ("sm_75 sm_80 sm_90", "7.0", False),  # a V100
        ("sm_75 sm_80 sm_90", "7.5", True),
        ("sm_75 sm_80 sm_90", "8.9", True),  # machine code runs within its major version
        ("sm_75 sm_86", "8.0", False),  # but not on earlier minor versions
        ("sm_75 sm_80 sm_90", "12.0", False),
        ("sm_75 sm_90 compute_90", "12.0", True),  # PTX is compiled on everything later
        ("sm_75 compute_90", "8.0", False),
        ("sm_90a", "9.0", True),
        ("sm_100a sm_120a", "12.1", False),
        ("sm_100f", "10.3", True),
        ("", "7.0", True),  # not known
    ],
)
def test_a_gpu_without_kernels_is_named(
    built_for: str, capability: str, runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch._C, "_cuda_getArchFlags", lambda: built_for, raising=False)
    gpus = [make_gpu("an unusual one", capability)]
    if runs:
        assert decide_numerics(TrainSpec(), 32, gpus=gpus).device == "cuda"
        return
    remedy = "CUDA_VISIBLE_DEVICES, install a build of torch for it, or train on the CPU with --gpus 0"
    with pytest.raises(RequestError, match=f"no kernels for an unusual one .*{capability}.*{remedy}"):
        decide_numerics(TrainSpec(), 32, gpus=gpus)
    assert decide_numerics(TrainSpec(), 32, gpus=gpus, device="cpu").device == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_is_asked_for_where_there_is_none() -> None:
    with pytest.raises(RequestError, match=r"no GPU can be used here \(.+\); train on the CPU with --gpus 0"):
        decide_numerics(TrainSpec(), 32, device="cuda")


BACKENDS = """
import sys, torch
from tune_swa.training.numerics import Numerics

def show():
    with torch.backends.cudnn.flags():  # reads all of them, and raises where they contradict each other
        pass
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    newer = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision
    print(*tf32, *(name == "tf32" for name in newer), torch.backends.cudnn.benchmark)

show()
for precision in ("tf32", "fp32", "tf32", "bf16", "fp16"):
    Numerics("cuda", precision, 1, True, True, False).set_backends()
    show()
    torch.compile(lambda x: x @ x, backend="eager")(torch.ones(2, 2))
    show()
    Numerics("cpu", "fp32", 1, True, True, False).set_backends()
    show()
assert not torch.cuda.is_initialized()
"""


def test_tf32_is_on_where_it_was_asked_for_and_off_elsewhere() -> None:
    """In a process of its own: these settings are the process's."""
    done = subprocess.run([sys.executable, "-c", BACKENDS], capture_output=True, text=True, check=True)
    before, *after = done.stdout.splitlines()
    # torch computes convolutions in TF32 on its own account
    assert before == "False True False True False"
    on, off = " ".join(["True"] * 5), "False False False False True"
    assert after == [state for state in (on, off, on, off, off) for _ in range(3)]


def test_the_hardware_is_recorded_without_initialising_cuda() -> None:
    assert describe_hardware()["gpus"] == []
    assert "cudnn" not in describe_hardware()
    found = describe_hardware([A100, T4])
    assert found["gpus"] == ["A100", "T4"]
    assert (found["cuda"], found["cudnn"]) == (torch.version.cuda, torch.backends.cudnn.version())


def test_seeds_by_purpose() -> None:
    assert derive_seed(0, 1, "order") == derive_seed(0, 1, "order")
    found = {derive_seed(s, e, p) for s in range(3) for e in range(20) for p in ("order", "bn")}
    assert len(found) == 3 * 20 * 2
    assert all(0 <= seed < 2**63 for seed in found)
    assert derive_seed(0, 1) != derive_seed(0, "1")
