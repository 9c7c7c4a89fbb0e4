"""Distances between a result and the truth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class _Format:
    """A floating point format: significant bits, exponents of the smallest and the largest normal numbers."""

    bits: int
    smallest: int
    largest: int
    flushes: bool  # what is smaller than a normal number counts as 0 (docs/numerics.md, section 1)


_FORMATS = {
    "float32": _Format(24, -126, 127, True),
    "bfloat16": _Format(8, -126, 127, True),
    "float16": _Format(11, -14, 15, False),
}


def ulp(value: ArrayLike, dtype: str = "float32") -> NDArray[np.float64]:
    """The distance between neighbouring numbers of `dtype` at `|value|`, element by element.

    In float32 `2^(e - 23)` for `2^e <= |value| < 2^(e + 1)`; and 2^-149 below the smallest normal number.
    """
    form, magnitude = _FORMATS[dtype], np.abs(np.asarray(value, np.float64))
    exponent = np.where(magnitude == 0, form.smallest, np.frexp(magnitude)[1] - 1)
    return np.ldexp(1.0, np.maximum(exponent, form.smallest) - (form.bits - 1))


def ulp_error(got: ArrayLike, truth: ArrayLike, dtype: str = "float32") -> NDArray[np.float64]:
    """`|got - truth|` in ulp of the truth, element by element. Correct rounding gives 0.5 at most.

    No error: NaN for NaN; an infinity for itself, or for a truth that rounds to it; 0 for a truth that the
    format flushes to it. NaN or an infinity in any other place is an infinite error.
    """
    found, true, form = np.asarray(got, np.float64), np.asarray(truth, np.float64), _FORMATS[dtype]
    overflow = (2.0 - 2.0**-form.bits) * 2.0**form.largest
    with np.errstate(all="ignore"):
        error = np.abs(found - true) / ulp(true, dtype)
        error = np.where(np.isfinite(found) & np.isfinite(true), error, np.inf)
        rounded = np.where(np.abs(true) >= overflow, np.copysign(np.inf, true), true)
        same = (np.isnan(found) & np.isnan(true)) | (np.isinf(found) & (found == rounded))
        same |= form.flushes & (found == 0) & (np.abs(true) < 2.0**form.smallest)
        return np.where(same, 0.0, error)


def scaled_ulp_error(got: ArrayLike, truth: ArrayLike, dtype: str = "float32", *, at_least: float = 0.0) -> float:
    """`max |got - truth| / ulp(scale)`: the error of a gradient or a map, relative to its scale.

    The scale is the largest `|truth|`, or `at_least` if that is larger. Both maxima are over the finite
    elements; NaN and infinities must stand in the same places, else the error is infinite.
    """
    found, true = np.asarray(got, np.float64), np.asarray(truth, np.float64)
    if found.shape != true.shape:
        raise ValueError(f"got has shape {found.shape}, expected that of truth, {true.shape}")
    finite = np.isfinite(true)
    placed = np.array_equal(found[~finite], true[~finite], equal_nan=True) and np.isfinite(found[finite]).all()
    if not placed:
        return math.inf
    if not finite.any():
        return 0.0
    error, scale = np.abs(found[finite] - true[finite]).max(), np.abs(true[finite]).max()
    return float(error / ulp(max(scale, at_least), dtype))


# The bounds, which stand where the terms are registered, are measured over the cases of the tests (logits of
# scale 1 to 30, 5 and 21 channels), with headroom.
#
# The scale of `CrossEntropy` is at least that of one undecided position: 1, and its coefficient for the
# gradient. A log-softmax drops what is below 1e-7 of that, which is all there is if every position is decided.
# Of the boundary term the bounds are those of 26 neighbours. Where all positions are decided, what is left of the
# terms on probabilities (Lovasz, Boundary, ...) is exp(-d) for differences d of logits, which float32 rounds
# by d / 2 ulp. SSIM's variances are small differences of squares.
@dataclass(frozen=True)
class Bound:
    """What the native numerics of a term promise, in float32 ulp of the scale (`scaled_ulp_error`).

    Attributes:
        loss: the mean and the sum.
        map: the values per position, relative to the largest.
        gradient: relative to its largest element.
    """

    loss: float
    map: float
    gradient: float
