"""The temperature that is fitted on validation images, and what it changes."""

from __future__ import annotations

import io
import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.resumed_runs import NUMERICS
from tune_swa.config import RunSettings, TrainSpec
from tune_swa.data.dataset import Dataset
from tune_swa.training import temperature as module
from tune_swa.training.metrics import NonFiniteError, compute_logits, predict_logits
from tune_swa.training.prediction_file import pack_predictions
from tune_swa.training.run import Run
from tune_swa.training.temperature import HIGHEST, LOWEST, fit_temperature


def draw_logits(
    images: int = 300, classes: int = 5, scale: float = 1.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Logits times `scale` of which the label is drawn: at scale 1 the best temperature is about 1."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, classes, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return logits * scale, labels


def mean_nll(logits: Tensor, labels: Tensor, temperature: float) -> float:
    return float(torch.nn.functional.cross_entropy(logits.double() / temperature, labels))


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("classes", [2, 10])
def test_no_other_temperature_has_a_smaller_nll(scale: float, classes: int) -> None:
    logits, labels = draw_logits(classes=classes, scale=scale)
    found = fit_temperature(logits, labels)
    grid = np.geomspace(LOWEST, HIGHEST, 4001)
    losses = [mean_nll(logits, labels, t) for t in grid]
    best = int(np.argmin(losses))
    assert 0 < best < 4000
    assert grid[best - 1] < found < grid[best + 1]
    assert mean_nll(logits, labels, found) <= losses[best]


@pytest.mark.parametrize(("right", "gap"), [(3, 2.0), (9, 0.5), (99, 7.0)])
def test_two_logits_with_one_gap(right: int, gap: float) -> None:
    """Of n + 1 images n are right, all at the same confidence, which then is n / (n + 1): T = gap / log n."""
    logits = torch.tensor([[gap, 0.0]]).repeat(right + 1, 1)
    labels = torch.tensor([0] * right + [1])
    assert fit_temperature(logits, labels) == pytest.approx(gap / math.log(right), rel=1e-8)


def test_logits_that_are_three_times_too_large_have_three_times_the_temperature() -> None:
    logits, labels = draw_logits(images=20_000)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(1, abs=0.02)
    assert fit_temperature(3 * logits, labels) == pytest.approx(3 * found, rel=1e-6)


def test_what_is_added_to_all_logits_of_an_image_changes_nothing() -> None:
    logits, labels = draw_logits()
    shifted = logits.double() + torch.linspace(-1e3, 1e3, len(logits))[:, None]
    assert fit_temperature(shifted, labels) == pytest.approx(fit_temperature(logits, labels), rel=1e-6)


def test_parts_of_the_images_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = draw_logits()
    whole = fit_temperature(logits, labels)
    monkeypatch.setattr(module, "CHUNK", 7 * logits.shape[1])
    assert fit_temperature(logits, labels) == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize(
    "logits",
    [
        torch.tensor([[5.0, 0.0], [0.0, 5.0]]),  # every image is right
        torch.tensor([[1e4, 0.0], [0.0, 1e4]]),  # by so much that the nll is 0 in fp64, too
        torch.tensor([[5.0, 5.0], [0.0, 5.0]]),  # a tie
        torch.zeros(2, 2),
        torch.full((2, 2), 7.5),
    ],
)
def test_images_that_say_nothing_leave_the_probabilities_as_they_are(logits: Tensor) -> None:
    assert fit_temperature(logits, torch.tensor([0, 1])) == 1.0


def test_the_range_is_kept() -> None:
    label = torch.tensor([0, 0, 0])
    assert fit_temperature(torch.tensor([[0.0, 9.0], [0.0, 3.0], [1.0, 0.0]]), label) == HIGHEST  # misleading
    assert fit_temperature(1e-4 * torch.tensor([[0.0, 9.0], [20.0, 0.0], [20.0, 0.0]]), label) == LOWEST


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_logits_of_any_size_have_a_temperature(size: float) -> None:
    logits, labels = draw_logits(scale=size)
    assert fit_temperature(logits, labels) == (LOWEST if size < 1 else HIGHEST)


def test_a_class_that_is_ruled_out_does_not_matter() -> None:
    logits, labels = draw_logits()
    ruled_out = torch.cat([logits, torch.full((len(logits), 1), -math.inf)], dim=1)
    assert fit_temperature(ruled_out, labels) == pytest.approx(fit_temperature(logits, labels), rel=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_logits_that_are_not_finite_are_refused(bad: float, place: int) -> None:
    logits = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    logits[1, place] = bad
    with pytest.raises(NonFiniteError, match="on the validation images"):
        fit_temperature(logits, torch.tensor([0, 1]))


# ------------------------------------------------------------------------------------ its scores


def predict(logits: Tensor, labels: Tensor, temperature: float | None) -> dict[str, float]:
    return predict_logits(logits, labels, temperature).compute_metrics()


def test_scores_at_a_temperature_are_those_of_divided_logits() -> None:
    logits, labels = draw_logits(scale=3)
    plain, divided = predict(logits, labels, None), predict(logits / 2.5, labels, None)
    assert set(plain) == {"accuracy", "nll", "ece", "brier"}
    assert predict(logits, labels, 2.5) == {
        **plain,
        "temperature": 2.5,
        **{f"{name}_calibrated": divided[name] for name in ("nll", "ece", "brier")},
    }


def test_a_temperature_of_1_changes_no_bit() -> None:
    logits, labels = draw_logits()
    found = predict(logits, labels, 1.0)
    assert all(found[f"{name}_calibrated"] == found[name] for name in ("nll", "ece", "brier"))


def test_no_temperature_changes_a_prediction() -> None:
    """Two logits that differ by one bit are equal after the division, and the first would be taken."""
    near = torch.tensor([[1.75 + 2 * 2**-23, 1.75 + 3 * 2**-23, 0.0]])
    assert near.argmax() == 1
    assert (near / 1.5).argmax() == 0
    found = predict_logits(near, torch.tensor([1]), 1.5)
    assert found.compute_metrics()["accuracy"] == 1.0
    assert found.calibrated is not None
    assert found.calibrated.confidence.item() == pytest.approx(float((near / 1.5).softmax(1)[0, 1]))


# --------------------------------------------------------------------------------------- a run


@pytest.mark.usefixtures("narrow_network")
@pytest.mark.parametrize(("swa_start", "refresh"), [(0, False), (None, False), (None, True)])
def test_a_run_fits_the_model_that_it_tests(swa_start: int | None, refresh: bool, tiny_data: Dataset) -> None:
    """Computed here from the model itself, and of the validation images alone."""
    train = TrainSpec(epochs=2, batch_size=16)
    swa_lr = None if swa_start is None else 3e-3
    run = Run(RunSettings(lr=3e-3, swa_start=swa_start, swa_lr=swa_lr, train=train), tiny_data, NUMERICS)
    assert len(list(run)) == 2
    found = run.predict_test_images(refresh=refresh)
    model = run.shipped_model
    if refresh:
        from tune_swa.averaging.swa import refresh_bn

        refresh_bn(model, (images for images, _ in run.draw_batches("bn")))
    pixels = torch.from_numpy(tiny_data.images).permute(0, 3, 1, 2) / 255
    labels = torch.from_numpy(tiny_data.labels)
    logits, _ = compute_logits(model, [(pixels, labels)], nullcontext())
    temperature = fit_temperature(logits[tiny_data.val], labels[tiny_data.val])
    assert found.calibrated is not None
    assert found.calibrated.temperature == pytest.approx(temperature, rel=1e-4)
    expected = mean_nll(logits[tiny_data.test], labels[tiny_data.test], temperature)
    assert found.compute_metrics()["nll_calibrated"] == pytest.approx(expected, rel=1e-4)


def test_the_file_of_predictions_has_the_scores_at_the_temperature() -> None:
    logits, labels = draw_logits()
    plain = predict_logits(logits, labels)
    fitted = predict_logits(logits, labels, 2.0)
    with np.load(io.BytesIO(pack_predictions({"shipped": fitted, "refreshed": plain}))) as file:
        arrays = dict(file)
    extra = {name for name in arrays if name.endswith("_calibrated")}
    assert extra == {f"shipped.{score}_calibrated" for score in ("nll", "brier", "confidence")}
    assert fitted.calibrated is not None
    np.testing.assert_array_equal(arrays["shipped.nll_calibrated"], fitted.calibrated.nll.numpy())
    np.testing.assert_array_equal(arrays["refreshed.nll"], arrays["shipped.nll"])
