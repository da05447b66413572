"""Choose the images of a rehearsal: as many as its time allows, of each class."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from tune_swa.config import Experiment
from tune_swa.data.dataset import Dataset
from tune_swa.data.sampling import ImageSample, write_sample
from tune_swa.data.sources import Part
from tune_swa.execution.forecast import ImageCounts
from tune_swa.execution.slots import Placement
from tune_swa.training.numerics import decide_numerics
from tune_swa.training.run import Run

EPOCH_SECONDS = 1.6
"""Of training in an epoch of the rehearsal: a dozen of these, and what comes with them, take a minute."""
LEAST_IMAGES, MOST_IMAGES = 4, 256
"""Training images."""
PROBED = 4
"""Images of the step that is timed first."""


def choose_images(
    experiment: Experiment, sample: ImageSample, placement: Placement, folder: Path, *, named: bool
) -> ImageCounts:
    """Write the images of a rehearsal to a folder, and count them.

    Args:
        experiment: of the rehearsal.
        sample: has the images.
        placement: of the trials.
        folder: that they are written to.
        named: whether the classes' names are names of folders.
    """
    wanted = MOST_IMAGES
    if not placement.gpus:
        seconds = _time_step(experiment, sample, placement.cpus_per_trial)
        wanted = max(LEAST_IMAGES, min(MOST_IMAGES, int(EPOCH_SECONDS / seconds)))
    sample = sample.keep_classes(max(2, wanted))
    counts = []
    for part, number in zip(Part, (wanted, wanted // 2, wanted // 2), strict=True):
        rows = sample.choose_rows(part, number)
        write_sample(sample, rows, folder, named=named)
        counts.append(len(rows))
    return ImageCounts(*counts)


def _time_step(experiment: Experiment, sample: ImageSample, threads: int) -> float:
    """Seconds for an image of a training step on the CPU: of the second of two steps with few images."""
    settings = experiment.run_settings("baseline", {})
    train = settings.train.model_copy(update={"compile": False})
    settings = settings.model_copy(update={"train": train, "averages": ()})
    rows = sample.choose_rows(Part.TRAIN, PROBED)[: max(PROBED, 2)]
    data = Dataset.from_arrays(
        sample.images[rows],
        sample.labels[rows],
        range(len(rows)),
        range(len(rows)),
        range(len(rows)),
        class_names=sample.class_names,
    )
    numerics = decide_numerics(train, experiment.data.image_size, device="cpu", threads=threads)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        run = Run(settings, data, numerics)
        run.model.train()
        images, labels = next(iter(run.draw_batches("train")))
        run.train_batch(images, labels)
        begun = time.perf_counter()
        run.train_batch(images, labels)
        return (time.perf_counter() - begun) / len(labels)
    finally:
        torch.set_num_threads(before)
