"""Draw quasi-random points of a search space: scipy's scrambled Sobol sequence, addressed by index.

Optuna's QMCSampler counts its points in the study's attributes, which a rebuilt study does not
have; addressed by index, the sequence goes on where it was.
"""

from __future__ import annotations

import math
import warnings

from tune_swa.config import Choices, Parameter, Params, Value


def sobol_point(parameters: tuple[Parameter, ...], index: int, seed: int) -> Params:
    """Return point `index` of the Sobol sequence (Sobol 1967, Owen scrambling by `seed`)."""
    from scipy.stats import qmc  # its import takes half a second, which other samplers do without

    engine = qmc.Sobol(len(parameters), scramble=True, rng=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # balance needs powers of two; a search ends anywhere
        if index:
            engine.fast_forward(index)
        row = engine.random(1)[0]
    return {p.name: _map_to_domain(p, float(u)) for p, u in zip(parameters, row, strict=True)}


def _map_to_domain(parameter: Parameter, u: float) -> Value:
    """Map u in [0, 1) into the domain, keeping both bounds reachable."""
    domain = parameter.domain
    if isinstance(domain, Choices):
        return domain.values[min(int(u * len(domain.values)), len(domain.values) - 1)]
    if domain.integer and domain.log:
        # whole numbers own the half unit around them
        low, high = math.log(domain.low - 0.5), math.log(domain.high + 0.5)
        value = round(math.exp(low + u * (high - low)))
        return int(min(max(value, domain.low), domain.high))
    values = domain.list_values()
    if values is not None:
        return values[min(int(u * len(values)), len(values) - 1)]
    if domain.log:
        low, high = math.log(domain.low), math.log(domain.high)
        return min(max(math.exp(low + u * (high - low)), domain.low), domain.high)
    return domain.low + u * (domain.high - domain.low)
