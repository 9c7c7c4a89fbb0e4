"""How far two results are apart, in ulp of float32."""

from __future__ import annotations

import numpy as np

from .data import Array
from .evaluate import Found


def ulp(value: float) -> float:
    """The distance of neighbouring float32 at a magnitude."""
    return float(np.spacing(np.float32(min(abs(value), 3e38))))


SMALLEST = 2.0**-30
"""Results below count as if they were this large: 1 - p of a library is a multiple of 2^-53 at best, its ulp."""


def apart(found: Array, *wanted: Array) -> float:
    """The largest distance of an element to the nearest of what is wanted, in ulp of the largest element of these.

    Infinite where NaN or infinities are not the same.
    """
    first = np.asarray(wanted[0], np.float64)
    finite = np.abs(first[np.isfinite(first)])
    unit = ulp(max(float(finite.max()) if finite.size else 0.0, SMALLEST))
    distances = [_distance(np.asarray(found, np.float64), np.asarray(w, np.float64)) for w in wanted]
    nearest = np.minimum.reduce(distances)
    return float(nearest.max() / unit) if nearest.size else 0.0


def _distance(a: Array, b: Array) -> Array:
    if a.shape != b.shape:
        return np.full(a.shape, np.inf)
    with np.errstate(invalid="ignore"):
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        distance = np.abs(a - b)
    return np.where(same, 0.0, np.where(np.isnan(distance), np.inf, distance))


def errors(found: Found, *wanted: Found) -> tuple[float, float]:
    """Those of the value and of the gradient."""
    return (
        apart(np.asarray(found.value), *(np.asarray(w.value) for w in wanted)),
        apart(found.gradient, *(w.gradient for w in wanted)),
    )
