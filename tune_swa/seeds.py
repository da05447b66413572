"""Derive all randomness of an experiment from one pure function of (seed, epoch, purpose).

No generator is carried from one epoch to the next, so a run that resumes or forks at an epoch
boundary draws what an uninterrupted run draws, by construction.
"""

from __future__ import annotations

import hashlib

_SEED_BITS = 63  # numpy, torch and optuna all accept non-negative 63-bit seeds


def derive_seed(seed: int, *path: int | str) -> int:
    """Return the seed that belongs to `path` (an epoch and a purpose, say) under `seed`.

    Args:
        seed: the experiment's or the trial's seed.
        path: what the randomness is for. Order matters; `1` and `"1"` are different.

    Returns:
        An integer in [0, 2**63). Different paths give unrelated values (BLAKE2b).
    """
    text = repr((int(seed), *path)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> (64 - _SEED_BITS)
