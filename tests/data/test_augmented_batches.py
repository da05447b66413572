"""Augmented batches: the same images for every batch size, memory format and way of reading them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from helpers.drawn_arrays import draw_dataset
from tune_swa import plugins
from tune_swa.data import augmentation
from tune_swa.data.batches import ImageBatches
from tune_swa.data.dataset import Dataset
from tune_swa.data.gather import Resident
from tune_swa.data.registered_augmentations import list_required
from tune_swa.data.resident import keep_resident, release_resident_images
from tune_swa.errors import RequestError
from tune_swa.plugins import register_augmentation

DRAW = {"seed": 3, "epoch": 5, "purpose": "train"}
EVERYTHING = (
    "hflip", "vflip", "crop", "random_resized_crop", "rotation(degrees=30)",
    "color_jitter(brightness=0.4,contrast=0.4,saturation=0.4,hue=0.1)", "trivial_augment", "random_erasing",
    "mixup", "cutmix",
)  # fmt: skip


@pytest.fixture(scope="module")
def data() -> Dataset:
    return draw_dataset(train=150, val=4, test=4)


def read_epoch(
    data: Dataset, augment: tuple[str, ...], batch_size: int, *, channels_last: bool = True, **draw: object
) -> tuple[Tensor, Tensor]:
    """All images and labels of an epoch."""
    batches = ImageBatches(data, data.train, "cpu", channels_last=channels_last)
    return join_batches(batches.iterate_training(batch_size, augment=augment, **{**DRAW, **draw}))


def join_batches(pairs: object) -> tuple[Tensor, Tensor]:
    images, labels = zip(*pairs, strict=True)  # type: ignore[call-overload]
    return torch.cat(images), torch.cat(labels)


@pytest.mark.parametrize("augment", [*((name,) for name in EVERYTHING), EVERYTHING], ids="+".join)
def test_images_depend_on_neither_batch_size_nor_format(augment: tuple[str, ...], data: Dataset) -> None:
    images, labels = read_epoch(data, augment, 64)
    torch.manual_seed(0)  # the global generator has no say
    for batch_size, channels_last in ((16, True), (7, False), (150, True)):
        again = read_epoch(data, augment, batch_size, channels_last=channels_last)
        assert torch.equal(again[0], images)
        assert torch.equal(again[1], labels)
    assert not torch.equal(read_epoch(data, (), 64)[0], images)


def test_images_that_are_changed_a_few_at_a_time_are_the_same(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a CPU changes large ones."""
    together = read_epoch(data, EVERYTHING, 64)
    for images in (1, 5):
        monkeypatch.setitem(augmentation.CHUNK_VALUES, "cpu", images * data.images[0].size)
        apart = read_epoch(data, EVERYTHING, 64)
        assert torch.equal(apart[0], together[0])
        assert torch.equal(apart[1], together[1])


def test_images_kept_on_a_device_are_augmented_as_those_that_are_streamed(data: Dataset) -> None:
    release_resident_images()
    streamed = ImageBatches(data, data.train, "cpu", channels_last=True)
    resident = ImageBatches(data, data.train, "cpu", channels_last=True)
    resident._gather = Resident(keep_resident(data, data.train, torch.device("cpu")))
    before = data.images.copy()
    for _ in range(2):  # the images that are kept stay as they are
        for left, right in zip(
            streamed.iterate_training(64, augment=EVERYTHING, **DRAW),
            resident.iterate_training(64, augment=EVERYTHING, **DRAW),
            strict=True,
        ):
            assert torch.equal(left[0], right[0])
            assert torch.equal(left[1], right[1])
    assert (data.images == before).all()
    release_resident_images()


@pytest.mark.parametrize("name", EVERYTHING)
def test_each_seed_epoch_and_purpose_draws_anew(name: str, data: Dataset) -> None:
    """Of one image, which is found again by its colour: the order is another one."""
    one = Dataset.from_arrays(
        data.images[:1].repeat(40, axis=0), data.labels[:1].repeat(40), *(data.train[:40],) * 3,
        class_names=data.class_names,
    )  # fmt: skip
    if name in ("mixup", "cutmix"):  # an image that is mixed with itself stays
        one.images[::2] = 255 - one.images[::2]
    images, _ = read_epoch(one, (name,), 16)
    for changed in ({"seed": 4}, {"epoch": 6}, {"purpose": "bn"}):
        assert not torch.equal(read_epoch(one, (name,), 16, **changed)[0], images)


@pytest.mark.parametrize("channels_last", [True, False])
def test_mixed_batches_keep_their_format(channels_last: bool, data: Dataset) -> None:
    batches = ImageBatches(data, data.train, "cpu", channels_last=channels_last)
    sizes = []
    for images, targets in batches.iterate_training(64, augment=EVERYTHING, **DRAW):
        assert images.is_contiguous(memory_format=torch.channels_last) == channels_last
        assert images.dtype == targets.dtype == torch.float32
        assert targets.shape == (len(images), 3)
        sizes.append(len(images))
    assert sizes == [64, 64, 22]


def test_the_first_batches_are_the_same_without_the_others(data: Dataset) -> None:
    """As a refresh of batch normalisation over a few batches takes them."""
    images, labels = read_epoch(data, EVERYTHING, 16)
    few, their_labels = read_epoch(data, EVERYTHING, 16, max_batches=2)
    assert torch.equal(few, images[:32])
    assert torch.equal(their_labels, labels[:32])


def test_flips_come_first_and_the_others_in_the_order_of_the_list(data: Dataset) -> None:
    erased_last, erased_first = (
        read_epoch(data, augment, 64)[0]
        for augment in (
            ("rotation(degrees=30)", "random_erasing"),
            ("random_erasing", "rotation(degrees=30)"),
        )
    )
    assert not torch.equal(erased_last, erased_first)
    one, other = (read_epoch(data, augment, 64)[0] for augment in (("hflip", "crop"), ("crop", "hflip")))
    assert torch.equal(one, other)


# -- those of a plugin


@pytest.fixture
def _no_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_augmentations", {})


@pytest.mark.usefixtures("_no_functions")
def test_a_registered_function_gets_each_image_with_a_generator_of_its_own(data: Dataset) -> None:
    drawn: list[float] = []

    def change(image: Tensor, generator: torch.Generator) -> Tensor:
        drawn.append(float(torch.rand((), generator=generator)))
        return v2.RandomPhotometricDistort()(image)  # which draws from torch's own generator

    register_augmentation("distort", change)
    torch.manual_seed(1)
    images, _ = read_epoch(data, ("plugin/distort",), 64)
    assert len(set(drawn)) == 150
    following = float(torch.rand(()))
    torch.manual_seed(1)
    assert following == float(torch.rand(()))
    again, _ = read_epoch(data, ("plugin/distort",), 16)
    assert torch.equal(again, images)
    assert not torch.equal(read_epoch(data, ("plugin/distort",), 16, epoch=6)[0], images)
    assert not torch.equal(images, read_epoch(data, (), 64)[0])


@pytest.mark.usefixtures("_no_functions")
def test_a_function_may_use_its_memory_again(data: Dataset) -> None:
    memory = torch.empty(3, 16, 16, dtype=torch.uint8)
    register_augmentation("again", lambda image, generator: torch.sub(255, image, out=memory))
    register_augmentation("anew", lambda image, generator: 255 - image)
    images, _ = read_epoch(data, ("plugin/again",), 64)
    assert torch.equal(images, read_epoch(data, ("plugin/anew",), 64)[0])


@pytest.mark.usefixtures("_no_functions")
def test_what_is_no_image_is_refused(data: Dataset) -> None:
    register_augmentation("half", lambda image, generator: image[:, ::2])
    with pytest.raises(
        RequestError, match=r"plugin/half returned a tensor \[3, 8, 16\].*expected.*\[3, 16, 16\]"
    ):
        read_epoch(data, ("plugin/half",), 64)


@pytest.mark.usefixtures("_no_functions")
def test_names_are_known_before_anything_trains() -> None:
    register_augmentation("distort", lambda image, generator: image)
    assert [found.name for found in list_required([("hflip", "plugin/distort"), ()])] == ["distort"]
    with pytest.raises(
        RequestError, match=r"no plugin has registered plugin/distrt\. Did you mean plugin/distort\?"
    ):
        list_required([(), ("plugin/distrt",)])
    with pytest.raises(ValueError, match="is registered already"):
        register_augmentation("distort", lambda image, generator: image)
    with pytest.raises(ValueError, match="use letters"):
        register_augmentation("my own", lambda image, generator: image)
