"""Where pixels come from: all ways give the same images, one batch ahead or not, kept or copied again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from tune_swa.data import resident
from tune_swa.data.dataset import Dataset
from tune_swa.data.gather import Gather, Resident, Streamed, fetch_ahead, resolve_device, view_as_words
from tune_swa.data.resident import find_resident, keep_resident, release_resident_images

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _nothing_is_kept() -> Iterator[None]:
    release_resident_images()
    yield
    release_resident_images()


def test_all_ways_give_the_same_images(tiny_data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "CHUNK", 5)  # several, the last one smaller
    rows = tiny_data.train[::-1].copy()
    order = torch.tensor([3, 0, 27, 3, 9, 1])
    expected = tiny_data.images[rows[order.numpy()]]
    ways: list[Gather] = [
        Resident(keep_resident(tiny_data, rows, CPU)),
        Streamed(tiny_data.images, rows, CPU),
    ]
    for way in ways:
        batches = list(way.iterate_batches(order, order, [4, 1]))
        assert [len(batch) for batch in batches] == [4, 1]
        assert {batch.dtype for batch in batches} == {torch.uint8}
        np.testing.assert_array_equal(torch.cat(batches), expected[:5])


@pytest.mark.parametrize(
    ("side", "word"), [(4, torch.int64), (2, torch.int32), (3, torch.uint8)], ids=["int64", "int32", "uint8"]
)
def test_rows_are_gathered_as_the_widest_words_that_divide_them(side: int, word: torch.dtype) -> None:
    images = torch.randint(0, 256, (9, side, side, 3), dtype=torch.uint8)
    assert view_as_words(images).dtype == word
    order = torch.tensor([8, 0, 8, 5])
    (batch,) = Resident(images).iterate_batches(order, order, [4])
    assert torch.equal(batch, images[order])


def test_a_batch_is_a_copy(tiny_data: Dataset) -> None:
    before = tiny_data.images.copy()
    kept = keep_resident(tiny_data, tiny_data.train, CPU)
    for way in (Streamed(tiny_data.images, tiny_data.train, CPU), Resident(kept)):
        order = torch.arange(3)
        next(way.iterate_batches(order, order, [3])).zero_()
    np.testing.assert_array_equal(tiny_data.images, before)
    np.testing.assert_array_equal(kept, before[tiny_data.train])


@pytest.mark.parametrize("count", [0, 1, 4])
def test_one_item_is_fetched_ahead(count: int) -> None:
    fetched: list[int] = []
    found = []
    for item in fetch_ahead(fetched.append(i) or i for i in range(count)):  # type: ignore[func-returns-value]
        found.append(item)
        assert fetched[-1] == min(item + 1, count - 1)
    assert found == list(range(count))


def test_images_are_kept_until_others_are_wanted(tiny_data: Dataset) -> None:
    assert find_resident(tiny_data, tiny_data.train, CPU) is None
    train = keep_resident(tiny_data, tiny_data.train, CPU)
    val = keep_resident(tiny_data, tiny_data.val, CPU)
    again = replace(tiny_data)  # the next trial's, opened again
    assert find_resident(again, again.train, CPU) is train
    assert find_resident(again, again.val, CPU) is val
    assert find_resident(again, again.test, CPU) is None
    other = replace(tiny_data, fingerprint="another set")
    assert find_resident(other, other.train, CPU) is None
    # it may need the memory of the first set, which is therefore gone
    assert find_resident(tiny_data, tiny_data.train, CPU) is None


def test_another_device_and_a_release_let_go_of_them(tiny_data: Dataset) -> None:
    keep_resident(tiny_data, tiny_data.train, CPU)
    assert find_resident(tiny_data, tiny_data.train, torch.device("meta")) is None
    assert find_resident(tiny_data, tiny_data.train, CPU) is None
    keep_resident(tiny_data, tiny_data.train, CPU)
    release_resident_images()
    assert find_resident(tiny_data, tiny_data.train, CPU) is None


def test_nothing_is_kept_of_images_that_have_no_room(tiny_data: Dataset) -> None:
    class Full(np.ndarray):
        def __getitem__(self, rows: object) -> object:
            raise torch.OutOfMemoryError

    full = replace(tiny_data, images=tiny_data.images.view(Full))
    with pytest.raises(torch.OutOfMemoryError):
        keep_resident(full, full.train, CPU)
    assert find_resident(tiny_data, tiny_data.train, CPU) is None


def test_a_device_with_an_index_is_as_it_is() -> None:
    for device in ("cpu", "cuda:1"):
        assert resolve_device(device) == torch.device(device)
