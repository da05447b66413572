"""Checks of benchmarks/gpu.py: whether a trial does on this device what it should."""

from __future__ import annotations

import copy
import gc
import importlib.util
import json
import math
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from common import where
from gpu_images import draw_dataset
from gpu_parts import (
    Bench,
    Child,
    Figure,
    NotOnThisDeviceError,
    Record,
    expect,
    first_line,
)
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from tune_swa.config import RunSettings, TrainSpec
from tune_swa.data.batches import ImageBatches
from tune_swa.data.dataset import Dataset
from tune_swa.data.gather import release_resident_images
from tune_swa.errors import RequestError
from tune_swa.hardware.torch_probe import probe_gpus, probe_torch
from tune_swa.training import checkpoint
from tune_swa.training.model_export import export_model
from tune_swa.training.numerics import Numerics, decide_numerics, describe_hardware, local_gpus
from tune_swa.training.run import Run

SIZE = 32
"""Pixels of the drawn images."""
AUGMENT = (
    "hflip", "vflip", "crop", "random_resized_crop", "rotation(degrees=30,interpolation=bilinear)",
    "color_jitter(brightness=0.4,contrast=0.4,saturation=0.4,hue=0.1)", "trivial_augment", "random_erasing",
    "mixup", "cutmix",
)  # fmt: skip
"""Every augmentation."""
EPOCHS, START = 5, 1
"""Of the runs that are checked: epoch 2 is the first that is averaged."""
RESTORED_AT = 3
"""Epochs of the straight run before its state is saved: one has been averaged."""
MOVEMENT = 0.01
"""What two runs may differ by after the same epochs on a GPU, as a share of the way that their weights went:
sums in another order, and nothing else."""
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
BITS_OF_FP32 = 2e-5
"""Relative error of a product, far above that of fp32 (1e-7 to 1e-6) and below that of TF32, whose factors
have ten bits (3e-4)."""


# --------------------------------------------------------------------------------------- helpers


def small_data(bench: Bench, *, seed: int = 0) -> Dataset:
    """Images in memory that a network learns to tell apart within an epoch or two."""
    if bench.on_gpu:
        return draw_dataset(128, 64, SIZE, seed=seed)
    return draw_dataset(36, 18, SIZE // 2, seed=seed)


def new_run(
    bench: Bench, data: Dataset, precision: str = "fp32", *, start: int | None = START, **options: Any
) -> Run:
    """A run of `EPOCHS` epochs; `options` are those of `Run`."""
    numerics = choose_numerics(bench, precision, data.images.shape[1])
    train = TrainSpec(epochs=EPOCHS, batch_size=16 if bench.on_gpu else 12, augment=("hflip", "crop"))
    rates = {"lr": 1e-3} if start is None else {"lr": 1e-3, "swa_start": start, "swa_lr": 5e-4}
    run = Run(RunSettings.model_validate({**rates, "train": train}), data, numerics, **options)
    if precision == "fp16" and not bench.on_gpu:
        run.scaler = torch.amp.GradScaler("cpu")
    return run


def choose_numerics(bench: Bench, precision: str, size: int) -> Numerics:
    """As a search resolves them. On a CPU `tf32` is set by hand, though its arithmetic stays fp32, and bf16
    stands in for fp16, with which a CPU is a hundred times as slow.

    Raises:
        NotOnThisDeviceError: this GPU does not have the format.
    """
    if not bench.on_gpu:
        found = decide_numerics(TrainSpec(), size, device="cpu", threads=1)
        instead: dict[str, Any] = {"fp16": "bf16"}
        return replace(found, precision=instead.get(precision, precision))
    try:
        train = TrainSpec.model_validate({"precision": precision})
        return decide_numerics(train, size, device="cuda", threads=1)
    except RequestError as error:
        raise NotOnThisDeviceError(f"refused, as it should be: {error}") from None


def flatten_weights(state: Mapping[str, Any]) -> Tensor:
    """All floating-point tensors of a model's state in one vector, fp64 on the CPU."""
    tensors = [t.detach().double().cpu().flatten() for t in state.values() if t.is_floating_point()]
    return torch.cat(tensors)


def free_memory() -> None:
    """Give back what nobody holds any more, and the images that this process keeps on the GPU."""
    release_resident_images()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@contextmanager
def compute_reproducibly(bench: Bench) -> Iterator[None]:
    """Kernels that add in the same order every time, as far as torch has them."""
    if not bench.on_gpu:
        yield
        return
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read when the context is made
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False


# ---------------------------------------------------------------------------------------- checks


def describe_machine(bench: Bench, record: Record) -> str:
    """What torch can do here, by the probes that the program itself asks."""
    record(Figure("where", where()))
    record(Figure("processor", describe_hardware()["processor"] or platform.machine()))
    if not bench.on_gpu:
        facts = probe_torch()
        for key in ("cpu_error", "torchvision_error"):
            expect(facts[key] is None, f"{key}: {facts[key]}")
        return "the CPU trains a step; no GPU is looked at"
    survey = probe_gpus()
    for key in ("cuda", "driver_cuda", "driver", "cudnn", "error"):
        if survey[key]:
            record(Figure(key, str(survey[key])))
    expect(bool(survey["gpus"]), f"torch finds no GPU ({survey['error']})")
    for gpu in survey["gpus"]:
        record(Figure("GPU", json.dumps(gpu)))
    gpu = survey["gpus"][0]
    expect(gpu["error"] is None, f"{gpu['name']}: {gpu['error']}")
    memory, free = gpu["memory"] / 1e9, gpu["free"] / 1e9
    versions = f"CUDA {survey['cuda']}, driver {survey['driver']}"
    return f"{gpu['name']}, {memory:.1f} GB, {free:.1f} GB free, {versions}"


def check_training(bench: Bench, record: Record, precision: str) -> str:
    """A run to its end: the loss falls, everything is finite, averages and statistics are fp32."""
    run = new_run(bench, small_data(bench), precision)
    records = list(run)
    losses = [r.train_loss for r in records]
    record(Figure("first loss", losses[0]))
    record(Figure("last loss", losses[-1]))
    record(Figure("accuracy", 100 * records[-1].accuracy, "%"))
    expect(all(math.isfinite(v) for r in records for v in (r.train_loss, r.nll, r.ece)), "not finite")
    expect(losses[-1] < 0.7 * losses[0], f"the loss went from {losses[0]:.3g} to {losses[-1]:.3g} only")
    expect(records[-1].accuracy > 0.6, f"{100 * records[-1].accuracy:.0f} % in three classes")
    states = [*run.model.state_dict().values(), *run.shipped_model.state_dict().values()]
    expect(all(t.dtype == torch.float32 for t in states if t.is_floating_point()), "weights are not fp32")
    if precision == "fp16":
        expect(
            run.scaler.is_enabled() and run.scaler.get_scale() > 1, "the gradient scaler is off, or gave up"
        )
    stand_in = {"fp16": "; bf16 with a gradient scaler, for a CPU", "tf32": "; a CPU computes it as fp32"}
    instead = "" if bench.on_gpu else stand_in.get(precision, "")
    return f"loss {losses[0]:.2f} to {losses[-1]:.2f}, accuracy {100 * records[-1].accuracy:.0f} %{instead}"


def check_streaming(bench: Bench, record: Record) -> str:
    """Batches of images that lie on the device and of those copied batch by batch, against the CPU's."""
    data = replace(small_data(bench), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    batches = 0
    for channels_last in (False, True):
        make = partial(ImageBatches, data, data.train, channels_last=channels_last)
        resident, streamed, host = make(bench.device), make(bench.device, max_resident_bytes=0), make("cpu")
        if bench.on_gpu:
            expect(resident.resident, "images that fit are not kept on the GPU")
            expect(not streamed.resident, "images are kept on the GPU although they may not be")
        for purpose in ("train", "bn"):
            draws = {"augment": AUGMENT, "seed": 3, "epoch": 5, "purpose": purpose}
            triples = zip(*(b.iterate_training(16, **draws) for b in (resident, streamed, host)), strict=True)
            for (a, labels), (b, other), (c, own) in triples:
                expect(
                    torch.equal(a, b) and torch.equal(labels, other), "resident and streamed images differ"
                )
                expect(torch.equal(a.cpu(), c), "the device's images differ from the CPU's")
                expect(torch.equal(labels.cpu(), own), "the device's labels differ from the CPU's")
                batches += 1
    with compute_reproducibly(bench):
        runs = [new_run(bench, data), new_run(bench, data, stream_images=True)]
        losses = [[run.run_epoch().train_loss for _ in range(2)] for run in runs]
    gap = max(abs(a - b) / abs(a) for a, b in zip(*losses, strict=True))
    record(Figure("relative difference of the losses", gap))
    expect(gap <= (1e-3 if bench.on_gpu else 0), f"losses differ by {gap:.2g}: {losses}")
    instead = "" if bench.on_gpu else "; a CPU reads both from the same array"
    return f"{batches} batches bit for bit equal, and equal to the CPU's{instead}"


def check_restoring(bench: Bench, record: Record) -> str:
    """A run restored from its checkpoint, and one begun from a trunk's state, against the straight run."""
    data = small_data(bench)
    allowed = MOVEMENT if bench.on_gpu else 0.0
    with compute_reproducibly(bench):
        straight, trunk = new_run(bench, data), new_run(bench, data, start=None)
        saved: dict[str, Path] = {"own": bench.folder / "own.pt", "trunk": bench.folder / "trunk.pt"}
        for _ in range(RESTORED_AT):
            straight.run_epoch()
        checkpoint.save_checkpoint(straight.state_dict(), saved["own"])
        while trunk.epoch <= START:
            trunk.run_epoch()
        trunk.begin_epoch()  # the first epoch that is averaged
        checkpoint.save_checkpoint(trunk.trunk_state(), saved["trunk"])
        begun = flatten_weights(straight.model.state_dict())
        expected = list(straight)[-1]
        ended = flatten_weights(straight.shipped_model.state_dict())
        way = float((flatten_weights(straight.model.state_dict()) - begun).norm())
        found = {}
        for name, path in saved.items():
            again = new_run(bench, data)
            again.load_state_dict(checkpoint.load_checkpoint(path, again.device))
            last = list(again)[-1]
            found[name] = float((flatten_weights(again.shipped_model.state_dict()) - ended).norm()) / way
            record(Figure(f"difference after {name}", found[name], "of the way"))
            expect(last.n_averaged == expected.n_averaged, f"{last.n_averaged} models, {expected.n_averaged}")
        # that the measure sees a fault: the same without the optimizer's state
        spoiled, state = new_run(bench, data), checkpoint.load_checkpoint(saved["own"], straight.device)
        fresh = spoiled.optimizer.state_dict()
        spoiled.load_state_dict({**state, "optimizer": {**state["optimizer"], "state": fresh["state"]}})
        list(spoiled)
        fault = float((flatten_weights(spoiled.shipped_model.state_dict()) - ended).norm()) / way
    record(Figure("difference without the optimizer's state", fault, "of the way"))
    expect(fault > 5 * MOVEMENT, f"a lost optimizer state shows as {fault:.2g} only: the check sees nothing")
    for name, gap in found.items():
        expect(gap <= allowed, f"{name}: {gap:.2g} of the way that the weights went; allowed are {allowed:g}")
    exact = " (bit for bit)" if not any(found.values()) else ""
    return (
        f"checkpoint {found['own']:.1e}, trunk {found['trunk']:.1e} of the way that the weights went{exact}; "
        f"allowed {allowed:g}, without the optimizer's state {fault:.2f}"
    )


def check_export(bench: Bench, record: Record) -> str:
    """The model in each format, compared here, and by a process that sees no GPU."""
    data = small_data(bench)
    bf16 = bench.on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    run = new_run(bench, data, "bf16" if bf16 else "fp32")
    last = list(run)[-1]
    about = describe_model(run, data, last.accuracy)
    model = copy.deepcopy(run.shipped_model).cpu().eval()
    formats = ["state_dict", "torch.export"]
    if importlib.util.find_spec("safetensors") is not None:
        formats.append("safetensors")
    output = bench.folder / "export"
    output.mkdir(exist_ok=True)
    report = export_model(model, about, run.settings.train, formats, output, data)
    expect(not report.differences, f"named as different on the same machine: {report.differences}")
    for outcome in report.outcomes:
        record(Figure(outcome.format, 100 * outcome.accuracy["validation"], "%"))
    child = Child(export_without_gpu, model, about, run.settings.train, formats, output, data)
    try:
        differences = child.receive()
    finally:
        child.end()
    expect(not isinstance(differences, str), f"without a GPU: {differences}")
    record(Figure("differences without a GPU", "; ".join(differences) or "none"))
    expect(bool(differences) == bench.on_gpu, f"named as different without a GPU: {differences}")
    return f"{', '.join(formats)}: {100 * last.accuracy:.1f} % recorded and read again, and without a GPU"


def describe_model(run: Run, data: Dataset, accuracy: float) -> dict[str, Any]:
    """What `best_model.json` would say of it."""
    return {
        "arch": "resnet18",
        "num_classes": data.num_classes,
        "class_names": list(data.class_names),
        "preprocessing": {
            "image_size": data.images.shape[1], "resize": "squash", "exif_rotation": False,
            "mean": list(data.mean), "std": list(data.std),
        },
        "trial": "swa-0000",
        "kind": "swa",
        "configuration": "drawn",
        "params": {"lr": 1e-3},
        "validation": {"accuracy": accuracy},
        "test": None,
        "numerics": run.numerics.as_dict(),
        "hardware": describe_hardware(local_gpus() if run.device.type == "cuda" else ()),
        "versions": {"torch": str(torch.__version__).partition("+")[0]},
    }  # fmt: skip


def export_without_gpu(connection: Connection, *given: Any) -> None:
    """Export in a process that sees no GPU; sends the differences, or the error as text."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch asks the driver
    torch.set_num_threads(1)
    try:
        connection.send(export_model(*given).differences)
    except Exception as error:
        connection.send(first_line(error))


def check_tf32(bench: Bench, record: Record) -> str:
    """Products of matrices and convolutions in fp32 and tf32 against fp64, with the backends of a run."""
    drawn = torch.Generator().manual_seed(0)
    side, channels = (512, 64) if bench.on_gpu else (128, 16)
    left, right = (torch.randn(side, side, generator=drawn) for _ in range(2))
    images = torch.randn(8, channels, 16, 16, generator=drawn)
    kernel = torch.randn(channels, channels, 3, 3, generator=drawn)

    def find_error(result: Tensor, truth: Tensor) -> float:
        return float((result.double().cpu() - truth).norm() / truth.norm())

    errors: dict[tuple[str, str], float] = {}
    for precision in ("tf32", "fp32"):
        with suppress(NotOnThisDeviceError):
            choose_numerics(bench, precision, SIZE).set_backends()
        a, b, x, w = (t.to(bench.device) for t in (left, right, images, kernel))
        errors[precision, "matmul"] = find_error(a @ b, left.double() @ right.double())
        truth = nn.functional.conv2d(images.double(), kernel.double())
        errors[precision, "convolution"] = find_error(nn.functional.conv2d(x, w), truth)
    for (precision, what), error in errors.items():
        record(Figure(f"{precision} {what}", error, "relative error"))
    for what in ("matmul", "convolution"):
        error = errors["fp32", what]
        expect(error < BITS_OF_FP32, f"fp32: a {what} is off by {error:.1e}, as TF32 is")
    half = find_error((left.bfloat16() @ right.bfloat16()).float(), left.double() @ right.double())
    expect(half > BITS_OF_FP32, f"a product of bf16 is off by {half:.1e} only: the check sees nothing")
    worst = max(error for (precision, _), error in errors.items() if precision == "fp32")
    if not bench.on_gpu:
        return f"fp32 is off by {worst:.0e} at most; a CPU has no TF32"
    if torch.cuda.get_device_capability() >= (8, 0) and torch.version.hip is None:
        # cuDNN takes the fastest kernel, which for a convolution this small may be one without TF32
        on = errors["tf32", "matmul"]
        expect(on > BITS_OF_FP32, f"tf32: a product of matrices is off by {on:.1e}, so TF32 is not on")
        return f"fp32 is off by {worst:.0e} at most, tf32 by {on:.0e}"
    return f"fp32 is off by {worst:.0e} at most; this GPU has no TF32"


def check_refresh(bench: Bench, record: Record) -> str:
    """The statistics that the loop gives an average, against torch's update_bn over the same batches."""
    gaps = {}
    for precision in ("fp32", "bf16"):
        try:
            run = new_run(bench, small_data(bench), precision)
        except NotOnThisDeviceError:
            continue
        while run.averaging is None:
            run.run_epoch()
        averages = run.averaging
        theirs = copy.deepcopy(averages.average)
        with run.numerics.autocast():
            update_bn((images for images, _ in run.draw_batches("bn")), theirs)
        run.refresh_model(averages.average, run.epoch)
        ours = averages.average
        pairs = [
            (a, b)
            for (name, a), b in zip(theirs.named_buffers(), ours.buffers(), strict=True)
            if "running" in name
        ]
        gaps[precision] = max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)
        counts = [
            (a, b) for (n, a), b in zip(theirs.named_buffers(), ours.buffers(), strict=True) if "num_b" in n
        ]
        expect(all(torch.equal(a, b) for a, b in counts), f"{precision}: the counts of batches differ")
        record(Figure(f"largest difference, {precision}", gaps[precision], "relative"))
    allowed = 1e-5 if bench.on_gpu else 0.0
    for precision, gap in gaps.items():
        expect(gap <= allowed, f"{precision}: running statistics differ by {gap:.1e}; allowed {allowed:g}")
    exact = "bit for bit" if not any(gaps.values()) else f"to {max(gaps.values()):.0e}"
    return f"running means, variances and counts equal {exact}"
