"""NumPy operations for the handful of numbers around a kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..exact.functions import TINY
from ..exact.numpy_ops import NumpyOps
from ..exact.sums import LIMBS, UNIT

_ZERO, _ONE = np.float64(0.0), np.float64(1.0)


class HostOps(NumpyOps):
    """:class:`NumpyOps`, quick for scalars, where NumPy's functions take ten times as long as what they compute."""

    def rounded_sums(self, states: Any) -> Any:
        """What :func:`dualloss.exact.sums.to_float` gives, by Python's integers."""
        if states.ndim == 1:
            return np.float64(_rounded(states.tolist()))
        flat = states.reshape(-1, states.shape[-1]).tolist()
        return np.array([_rounded(state) for state in flat]).reshape(states.shape[:-1])

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        """One of two values."""
        if isinstance(condition, np.bool_) and not any(isinstance(v, np.ndarray) for v in (a, b)):
            chosen = a if condition else b
            return np.float64(chosen) if isinstance(chosen, float) else chosen
        return super().where(condition, a, b)

    def float32(self, v: Any) -> Any:
        """Rounded to float32, what is below its normal numbers to +0."""
        if isinstance(v, np.float64):
            return np.float64(np.float32(_ZERO if abs(v) < TINY else v))
        return super().float32(v)

    def value(self, b: Any) -> Any:
        """The float64 number with these bits; NumpyOps would make an array of it."""
        return b.view(np.float64) if isinstance(b, np.int64) else super().value(b)

    def stack(self, items: Sequence[Any], axis: int) -> Any:
        """Some values in one array."""
        return np.array(items) if axis == 0 or np.ndim(items[0]) == 0 else super().stack(items, axis)

    def zeros_like(self, v: Any) -> Any:
        """+0."""
        return _ZERO if isinstance(v, np.float64) else super().zeros_like(v)

    def ones_like(self, v: Any) -> Any:
        """1."""
        return _ONE if isinstance(v, np.float64) else super().ones_like(v)


def _rounded(state: list[int]) -> float:
    infinite, minus, nan = state[LIMBS:]
    if infinite or minus or nan:
        return math.nan if nan or (infinite and minus) else math.inf if infinite else -math.inf
    total = sum([limb << (32 * k) for k, limb in enumerate(state[:LIMBS]) if limb])
    return math.ldexp(float(total), -UNIT)  # an integer is rounded once, ties to even, and far from subnormal
