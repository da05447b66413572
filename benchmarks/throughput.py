"""Images per second of a trial, against what the model allows and against image folders as usual.

    python benchmarks/throughput.py --images digits --size 32
    python benchmarks/throughput.py --images jpeg --size 64

Three ways to train an epoch of a ResNet-18, in turn, in one process: the trial's own loop with
decoded images and augmentation; the same model and optimizer stepping on one batch that stays where it
is, the limit; and torchvision's ImageFolder behind a DataLoader with the usual transforms (for digits:
PIL images in memory). On the CPU with as many threads as a trial has.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import spread, table, where
from PIL import Image
from timed_steps import seconds_of_epoch, seconds_resident, take_step, time_call
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from tune_swa.config import DataSpec, RunSettings, TrainSpec
from tune_swa.data.batches import list_batch_sizes
from tune_swa.data.dataset import Dataset, prepare_dataset
from tune_swa.training.numerics import Numerics, decide_numerics
from tune_swa.training.run import Run


def write_jpegs(folder: Path, count: int, side: int, classes: int = 6) -> None:
    """Crops of scikit-learn's two photographs as JPEG files, one folder a class."""
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    drawn = np.random.default_rng(0)
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        top, left = (drawn.integers(0, length - side) for length in photograph.shape[:2])
        target = folder / f"class-{number % classes}"
        target.mkdir(parents=True, exist_ok=True)
        crop = photograph[top : top + side, left : left + side]
        Image.fromarray(np.ascontiguousarray(crop)).save(target / f"{number:05d}.jpg", quality=90)


def new_run(data: Dataset, numerics: Numerics, batch_size: int) -> Run:
    """A baseline that would go on for ever."""
    train = TrainSpec(epochs=10_000, batch_size=batch_size, augment=("hflip",))
    return Run(RunSettings(lr=1e-3, train=train), data, numerics)


def seconds_of_loader(run: Run, loader: DataLoader[Any]) -> float:
    """The same model and optimizer behind a DataLoader."""

    def epoch() -> None:
        run.model.train()
        for images, labels in loader:
            take_step(run, images, labels)

    return time_call(run, epoch)


class InMemory(torch.utils.data.Dataset[Any]):
    """PIL images with a transform."""

    def __init__(self, data: Dataset, transform: Any) -> None:
        self.images = [Image.fromarray(np.asarray(data.images[row])) for row in data.train]
        self.labels = data.labels[data.train]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[index]), int(self.labels[index])


def open_images(given: argparse.Namespace, folder: Path) -> tuple[Dataset, torch.utils.data.Dataset[Any]]:
    """The images as a trial gets them, and as the tutorial's program does."""
    usual = transforms.Compose(
        [
            transforms.Resize((given.size, given.size)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
        ]
    )
    spec = {
        "dataset": "folder" if given.images == "jpeg" else "digits",
        "image_size": given.size,
        "train_images": given.count,
        "val_fraction": 0.1,
        "test_fraction": 0.1,
    }
    if given.images == "jpeg":
        write_jpegs(folder, given.count * 10 // 8 + 6, 150)
        data = prepare_dataset(DataSpec.model_validate(spec), folder)
        return data, torch.utils.data.Subset(ImageFolder(folder, usual), range(given.count))
    small = prepare_dataset(DataSpec.model_validate({**spec, "image_size": 8}))
    return prepare_dataset(DataSpec.model_validate(spec)), InMemory(small, usual)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", choices=["digits", "jpeg"], default="digits")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--count", type=int, default=400, help="training images")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=0, help="of the DataLoader")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(where())

    with tempfile.TemporaryDirectory() as temporary:
        data, folder = open_images(given, Path(temporary))
        loader = DataLoader(folder, given.batch_size, shuffle=True, num_workers=given.workers)
        numerics = decide_numerics(TrainSpec(), given.size, device=given.device, threads=given.threads)
        run = new_run(data, numerics, given.batch_size)
        sizes = list_batch_sizes(given.count, given.batch_size)
        ways = {
            "one resident batch": lambda: seconds_resident(run, sizes),
            "a trial": lambda: seconds_of_epoch(run),
            f"ImageFolder + DataLoader, {given.workers} workers": lambda: seconds_of_loader(run, loader),
        }
        measured: dict[str, list[float]] = {name: [] for name in ways}
        for way in ways.values():
            way()  # warm-up: kernels are chosen, memory is taken
        for _ in range(given.repeat):
            for name, way in ways.items():
                measured[name].append(given.count / way())
    limit = measured["one resident batch"]
    print(f"\n{given.images}, {given.size} px, batch {given.batch_size}, {given.count} images an epoch, "
          f"{numerics.device} {numerics.precision}, {given.threads} thread(s).\n")  # fmt: skip
    print(
        table(
            ["", "images/s", "ratio to the limit, by pairs"],
            [
                [name, spread(rates), spread([r / o for r, o in zip(rates, limit, strict=True)])]
                for name, rates in measured.items()
            ],
        )
    )
    ratio = statistics.median(
        t / o for t, o in zip(measured["a trial"], list(measured.values())[2], strict=True)
    )
    print(f"\nA trial is {ratio:.2f} times as fast as the DataLoader.")


if __name__ == "__main__":
    main()
