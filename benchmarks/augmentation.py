"""What each augmentation costs for an image, against torchvision's own transforms image by image.

    python benchmarks/augmentation.py                # 32 and 224 pixels, batches of 64, one thread
    python benchmarks/augmentation.py --sizes 32

Times are the processor's, of one thread, so that other programs matter little. Ours include drawing the
numbers of an epoch. torchvision's are seeded for each image, without which an image would depend on the batch
that it is in; its mixup and cutmix take a whole batch, with one number. All of a size run in turn in one
process.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from common import table, where
from torch import Tensor
from torchvision.models import resnet18
from torchvision.transforms import v2

from tune_swa.data.augmentation import EpochAugmentation
from tune_swa.data.epoch_draws import EpochDraws
from tune_swa.seeds import derive_seed

BATCH, BATCHES = 64, 4
JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}


def list_pairs(size: int) -> dict[str, v2.Transform]:
    """Ours by their texts, with torchvision's."""
    jitter = ",".join(f"{name}={value}" for name, value in JITTER.items())
    return {
        "hflip": v2.RandomHorizontalFlip(),
        "crop": v2.RandomCrop(size, padding=4),
        "random_resized_crop": v2.RandomResizedCrop(size),
        "rotation(degrees=15)": v2.RandomRotation(15),
        "rotation(degrees=15,interpolation=bilinear)": v2.RandomRotation(15, v2.InterpolationMode.BILINEAR),
        "color_jitter(brightness=0.4)": v2.ColorJitter(brightness=0.4),
        f"color_jitter({jitter})": v2.ColorJitter(**JITTER),
        "trivial_augment": v2.TrivialAugmentWide(),
        "random_erasing": v2.RandomErasing(),
        "mixup": v2.MixUp(num_classes=10),
        "cutmix": v2.CutMix(num_classes=10),
    }


def run_ours(text: str, images: Tensor, labels: Tensor) -> Callable[[], object]:
    """An epoch of batches [B, H, W, 3] uint8, or mixed [B, 3, H, W] float32."""
    count, size = BATCH * BATCHES, images.shape[1]
    numbers = images.permute(0, 3, 1, 2).float() / 255

    def run() -> None:
        draws = EpochDraws(0, 0, "train", torch.arange(count), (size, size), torch.device("cpu"))
        plan = EpochAugmentation([text], 4, draws, 10)
        for start in range(0, count, BATCH):
            place = slice(start, start + BATCH)
            if plan.mixing is None:
                plan.change_images(images.clone(), place)
            else:
                plan.mixing.mix_batch(numbers, labels, (numbers[-1:], labels[-1:]), place)

    return run


def run_torchvision(transform: v2.Transform, images: Tensor, labels: Tensor) -> Callable[[], object]:
    """The same number of images, each seeded by itself; mixed ones by batch."""
    whole = images.permute(0, 3, 1, 2).contiguous()
    numbers = whole.float() / 255

    def run() -> None:
        with torch.random.fork_rng(devices=[]):
            for batch in range(BATCHES):
                if isinstance(transform, v2.MixUp | v2.CutMix):
                    torch.default_generator.manual_seed(derive_seed(0, batch))
                    transform(numbers, labels)
                    continue
                changed = []
                for place, image in enumerate(whole):
                    torch.default_generator.manual_seed(derive_seed(0, 0, "train", "name", place))
                    changed.append(transform(image))
                torch.stack(changed)

    return run


def run_step(size: int, batch: int) -> Callable[[], object]:
    """A training step of ResNet-18, for comparison."""
    model = resnet18(num_classes=10).to(memory_format=torch.channels_last)
    images = torch.rand(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch) % 10

    def run() -> None:
        torch.nn.functional.cross_entropy(model(images), labels).backward()

    return run


def measure(size: int, repeat: int) -> list[tuple[str, str, str, str]]:
    """Rows of the table."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (BATCH, size, size, 3), dtype=torch.uint8, generator=generator)
    labels = torch.arange(BATCH) % 10
    runs: dict[str, tuple[Callable[[], object], ...]] = {
        text: (run_ours(text, images, labels), run_torchvision(transform, images, labels))
        for text, transform in list_pairs(size).items()
    }
    step_batch = BATCH if size < 100 else 8
    runs[f"a training step of ResNet-18, batch {step_batch}"] = (run_step(size, step_batch),)
    times: dict[str, list[list[float]]] = {name: [[] for _ in each] for name, each in runs.items()}
    for name, each in runs.items():
        counts = [step_batch if "step" in name else BATCH * BATCHES] * len(each)
        for turn in range(repeat + 1):  # the first one warms up
            for own, run, count in zip(times[name], each, counts, strict=True):
                begun = time.process_time()
                run()
                if turn:
                    own.append((time.process_time() - begun) / count * 1e6)
    return [
        (f"{size} px", name, *(_show(own) for own in [*each, [], []][:2])) for name, each in times.items()
    ]


def _show(values: list[float]) -> str:
    if not values:
        return ""
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 224])
    parser.add_argument("--repeat", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    heading = where()
    rows = [row for size in args.sizes for row in measure(size, args.repeat)]
    print(f"{heading}\n\nMicroseconds of CPU time per image, median (lowest to highest) of {args.repeat}.\n")
    print(table(["images", "augmentation", "ours", "torchvision, image by image"], rows))


if __name__ == "__main__":
    main()
