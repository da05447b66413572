"""Fit the temperature that calibrates a model's probabilities (Guo et al. 2017, arXiv 1706.04599).

Probabilities are softmax(logits / T). T is the one number with the smallest mean negative log-likelihood of
images that the model was not trained on. It changes no prediction, only how confident all of them are. Where
the probabilities of several models are averaged, their logarithms take the place of the logits.
"""

from __future__ import annotations

import math

import scipy  # loads scipy.optimize when it is first used
import torch
from torch import Tensor

from tune_swa.training.metrics import NonFiniteError, Predictions, predict_logits

LOWEST, HIGHEST = 0.01, 100.0
"""Range of T. Networks are at 0.3 (a strong label smoothing) to 5. The upper end is reached where logits are
misleading, so that uniform probabilities are the best; there, a larger T would change nothing any more."""
TOLERANCE = 1e-10
"""Of log T."""
CHUNK = 2**20
"""Logits that are computed with in fp64 at a time: ImageNet's validation images would take gigabytes."""


def predict_calibrated(logits: Tensor, labels: Tensor, validation: int) -> Predictions:
    """Predict test images, also at the temperature that is fitted on validation images.

    Args:
        logits: [N, C] of the validation images, then of the test images.
        labels: [N] int64.
        validation: number of validation images.

    Raises:
        NonFiniteError: a logit is NaN or infinite.
    """
    # on the CPU: fp64 on a GPU would need memory there that nobody has counted
    temperature = fit_temperature(logits[:validation].cpu(), labels[:validation].cpu())
    return predict_logits(logits[validation:], labels[validation:], temperature)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the T from `LOWEST` to `HIGHEST` with the smallest nll of softmax(logits / T).

    The nll is convex in 1 / T, so the minimum is where its slope is 0, found in fp64. Where no class has a
    larger logit than the label on any image, the nll falls (or stays) as T goes to 0, and these images have
    nothing to say of how often the model is wrong: T is 1 then.

    Args:
        logits: [N, C].
        labels: [N] int64, on the same device.

    Raises:
        NonFiniteError: a logit is NaN or infinite; one of another class may be -inf.
    """
    rows = max(1, CHUNK // logits.shape[1])
    parts = list(zip(torch.split(logits, rows), torch.split(labels, rows), strict=True))
    largest = max(float(_logit_gaps(*part).max()) for part in parts)
    if not math.isfinite(largest):
        raise NonFiniteError("the model's outputs on the validation images are not finite")
    if largest <= 0:
        return 1.0

    def slope(log_temperature: float) -> float:
        inverse = math.exp(-log_temperature)
        return sum(_nll_slope(_logit_gaps(*part), inverse) for part in parts)

    low, high = math.log(LOWEST), math.log(HIGHEST)
    if slope(high) >= 0:
        return HIGHEST
    if slope(low) <= 0:
        return LOWEST
    return math.exp(scipy.optimize.brentq(slope, low, high, xtol=TOLERANCE))


def _logit_gaps(logits: Tensor, labels: Tensor) -> Tensor:
    """How much larger each logit is than the label's, [N, C] float64; NaN and inf stay, -inf is a number."""
    logits = logits.double()
    gaps = logits - logits.gather(1, labels[:, None])
    return gaps.clamp(min=-1e30)  # a probability of 0 times -inf would be NaN


def _nll_slope(gaps: Tensor, inverse: float) -> float:
    """Derivative by 1 / T of the sum of the nll at 1 / T = `inverse`: the expected gaps."""
    return float((torch.softmax(inverse * gaps, dim=1) * gaps).sum())
