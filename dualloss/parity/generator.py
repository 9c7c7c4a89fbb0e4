"""Inputs from integer arithmetic alone, so that no library's random stream or cast is part of a golden vector.

SplitMix64 (Steele, Lea and Flood 2014, Fast splittable pseudorandom number generators), seeded by a name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = Any

_MASK = 0xFFFFFFFFFFFFFFFF


def integers(name: str, count: int) -> Array:
    """``count`` uint64 for this name: FNV-1a of the name seeds the generator."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 & _MASK
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = steps + np.uint64(seed)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform(name: str, shape: Sequence[int]) -> Array:
    """Multiples of 2^-24 in [0, 1), float64."""
    drawn = integers(name, int(np.prod(shape, dtype=np.int64))) >> np.uint64(40)
    return drawn.astype(np.float64).reshape(shape) * 2.0**-24


def bell(name: str, shape: Sequence[int]) -> Array:
    """Sums of four uniforms, centred: multiples of 2^-24 in (-2, 2), float64."""
    return uniform(name, (4, *shape)).sum(axis=0) - 2.0


def labels(name: str, shape: Sequence[int], classes: int) -> Array:
    """int64 class indices."""
    return np.floor(uniform(name, shape) * classes).astype(np.int64)
