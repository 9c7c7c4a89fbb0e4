"""Numbers: what constants count as, and sums."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[Any]


def float32(constant: float) -> np.longdouble:
    """A constant of a spec; what float32 has only as a subnormal counts as 0."""
    value = np.float32(constant)
    return np.longdouble(0 if abs(value) < 2.0**-126 else value)


def float32s(constants: float | Sequence[float] | None, channels: int) -> Reals:
    """One constant for each channel, of one for all or of each its own; None: 1."""
    if constants is None:
        return np.ones(channels, np.longdouble)
    given = constants if isinstance(constants, Sequence) else [constants] * channels
    return np.array([float32(value) for value in given])


def exact_sum(values: Reals) -> np.longdouble:
    """The sum, rounded once. Each value goes in as a pair of float64 that add up to it."""
    high = values.astype(np.float64)
    if not np.isfinite(high).all():
        return np.longdouble(high.sum())
    low = (values - high).astype(np.float64)
    return np.longdouble(math.fsum(itertools.chain(high.flat, low.flat)))
