"""NumPy operations for the handful of numbers around a kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..exact.numpy_ops import NumpyOps
from ..exact.sums import LIMBS, UNIT


class HostOps(NumpyOps):
    """:class:`NumpyOps`, with sums rounded by Python's integers: for a few, that is ten times as fast."""

    def stack(self, items: Sequence[Any], axis: int) -> Any:
        """What NumPy's stack gives, in a tenth of its time."""
        return np.array(items) if axis == 0 or np.ndim(items[0]) == 0 else super().stack(items, axis)

    def rounded_sums(self, states: Any) -> Any:
        """What :func:`dualloss.exact.sums.to_float` gives."""
        flat = np.asarray(states).reshape(-1, states.shape[-1]).tolist()
        return np.array([_rounded(state) for state in flat]).reshape(states.shape[:-1])


def _rounded(state: list[int]) -> float:
    infinite, minus, nan = (count > 0 for count in state[LIMBS:])
    if nan or (infinite and minus):
        return math.nan
    if infinite or minus:
        return math.inf if infinite else -math.inf
    total = sum(limb << (32 * k) for k, limb in enumerate(state[:LIMBS]) if limb)
    return math.ldexp(float(total), -UNIT)  # an integer is rounded once, ties to even, and far from subnormal
