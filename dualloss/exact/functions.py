"""Rounding and the exactly defined unary functions (docs/numerics.md, sections 1.1 to 1.3).

The functions take their argument on a coarse grid and give a few bits more than float32 has, rounded at a threshold
(not at the midpoint but near it) that no true value comes close to: so every float64 library gives the same bits, and
no table of hard cases is needed. What the grid drops comes back as a correction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .ops import Array, Ops

TINY = 2.0**-126
"""The smallest normal float32: what is smaller counts as zero."""

EXP_GRID = 2.0**10
EXP_LOWEST = -89432
"""The lowest grid index whose exp is at least 2^-126."""
EXP_BITS = 33
EXP_THRESHOLD = 535902
LOG1P_BITS = 28
LOG1P_THRESHOLD = 17772251
_KEEP_33 = -(1 << (53 - EXP_BITS))
_KEEP_28 = -(1 << (53 - LOG1P_BITS))
_KEEP_48 = -(1 << 5)
_KEEP_16 = -(1 << 37)
_HALF_16 = 1 << 36
_MANTISSA = (1 << 52) - 1
_ONE = 1023 << 52
LN2_HIGH = float.fromhex("0x1.62e42feep-1")
"""The leading 32 bits of log 2: times an integer below 2^21 it is exact."""
LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
_LOG2_E = float.fromhex("0x1.71547652b82fep+0")
_ATANH = tuple(1.0 / k for k in range(23, 1, -2))
_FACTORIALS = tuple(1.0 / math.factorial(j) for j in range(13, 1, -1))


def load(ops: Ops, x: Array) -> Array:
    """Widen to float64; float32 subnormals and -0 count as +0."""
    v = ops.load(x)
    return ops.where(ops.abs(v) < TINY, 0.0, v)


def chop(ops: Ops, v: Array) -> Array:
    """The leading 48 bits. No compiler fuses a multiplication and an addition across it."""
    return ops.value(ops.band(ops.bits(v), _KEEP_48))


def times(ops: Ops, a: Array, b: Array | float) -> Array:
    """``a ⊗ b``: a product that may feed an addition."""
    return chop(ops, a * b)


def exp_on_grid(ops: Ops, k: Array) -> Array:
    """33 bits of ``exp(k 2^-10)`` for integers ``EXP_LOWEST <= k <= 0``."""
    return ops.value(ops.band(ops.bits(ops.exp(k * (1 / EXP_GRID))) + EXP_THRESHOLD, _KEEP_33))


def exp(ops: Ops, d: Array) -> Array:
    """``exp*(d)`` for ``d <= 0``, 0 below 2^-126; NaN for NaN."""
    y = ops.where(d < -88.0, -88.0, d) * EXP_GRID
    k = ops.rint(y)
    r = (y - k) * (1 / EXP_GRID)
    e = exp_on_grid(ops, k)
    e = e + times(ops, e, r + times(ops, r, r) * 0.5)
    return ops.where(k < EXP_LOWEST, 0.0, e)


def log1p_on_grid(ops: Ops, q: Array) -> Array:
    """28 bits of ``log1p(q)`` for ``q`` of 16 significant bits."""
    return ops.value(ops.band(ops.bits(ops.log1p(q)) + LOG1P_THRESHOLD, _KEEP_28))


def log1p(ops: Ops, s: Array) -> Array:
    """``log1p*(s)`` for ``0 <= s < 2^24``; NaN for NaN."""
    q = ops.value(ops.band(ops.bits(s) + _HALF_16, _KEEP_16))
    return log1p_on_grid(ops, q) + (s - q) / (q + 1.0)


def polynomial(ops: Ops, coefficients: Sequence[float], x: Array) -> Array:
    """Horner's scheme, the highest power first; every product chopped."""
    result: Any = coefficients[0]
    for coefficient in coefficients[1:]:
        result = times(ops, x, result) + coefficient
    return result


def _from_ratio(ops: Ops, z: Array) -> Array:
    """``log((1 + z) / (1 - z))`` for ``|z| <= 1/5``."""
    w = times(ops, z, z)
    return chop(ops, z * 2.0 + times(ops, z * 2.0, times(ops, w, polynomial(ops, _ATANH, w))))


def above_log(ops: Ops, v: Array) -> Array:
    """``v - log(1 + v)`` for ``|v| <= 1/4``, without its cancellation."""
    z = v / (v + 2.0)
    w = times(ops, z, z)
    return times(ops, v, z) - times(ops, z * 2.0, times(ops, w, polynomial(ops, _ATANH, w)))


def log(ops: Ops, v: Array) -> Array:
    """``ln*(v)`` for ``v >= 2^-1022``; -inf for 0, inf for inf, NaN for NaN and below 0."""
    b = ops.bits(v)
    m = ops.value(ops.band(b, _MANTISSA) + _ONE)
    large = m >= 1.5
    m = ops.where(large, m * 0.5, m)
    e = ops.shr(b, 52)
    e = ops.to_float(ops.where(large, e - 1022, e - 1023))
    near = _from_ratio(ops, (m - 1.0) / (m + 1.0))
    result = e * LN2_HIGH + chop(ops, near + times(ops, e, LN2_LOW))
    result = ops.where(v == 0.0, float("-inf"), result)
    result = ops.where(v == float("inf"), float("inf"), result)
    return ops.where(v >= 0.0, result, float("nan"))


def log_of_one_plus(ops: Ops, s: Array) -> Array:
    """``ln1p*(s)`` for ``s > -1``."""
    return _log_near_one(ops, ops.both(s >= -0.25, s < 0.5), s, s + 1.0)


def log_beside(ops: Ops, p: Array, rest: Array) -> Array:
    """``ln(p; rest)``: the logarithm of ``p`` for ``rest = 1 - p``, which is small where it matters."""
    return _log_near_one(ops, rest <= 0.25, 0.0 - rest, p)


def _log_near_one(ops: Ops, near: Array, s: Array, v: Array) -> Array:
    """``log v``, from ``s = v - 1`` where ``near``."""
    s = ops.where(near, s, 0.0)  # before the division: s may be a quotient, and XLA makes one division of two
    return ops.where(near, _from_ratio(ops, s / (s + 2.0)), log(ops, v))


def exp_of_any(ops: Ops, d: Array) -> Array:
    """``ex*(d)``: 0 below 2^-126, inf from 2^128 up, NaN for NaN."""
    nan = ops.isnan(d)
    z = ops.where(d < -90.0, -90.0, ops.where(d > 90.0, 90.0, d))
    k = ops.rint(z * _LOG2_E)
    r = chop(ops, chop(ops, z - k * LN2_HIGH) - times(ops, k, LN2_LOW))
    y = chop(ops, r + times(ops, times(ops, r, r), polynomial(ops, _FACTORIALS, r)))
    scale = ops.value(ops.shl(ops.to_int(ops.where(nan, 0.0, k)) + 1023, 52))
    e = (y + 1.0) * scale
    e = ops.where(e < TINY, 0.0, ops.where(e >= 2.0**128, float("inf"), e))
    return ops.where(nan, float("nan"), e)


def power(ops: Ops, v: Array, exponent: float) -> Array:
    """``pow*(v, exponent)`` for ``v >= 0`` and a constant ``exponent >= 0``; ``pow*(0, 0) = 1``."""
    if exponent == 0.0:
        return ops.ones_like(v)
    if exponent == 1.0:
        return v
    if exponent == 2.0:
        return times(ops, v, v)
    return ops.where(v == 0.0, 0.0, exp_of_any(ops, times(ops, log(ops, v), exponent)))


def to_dtype(ops: Ops, v: Array, dtype: str) -> Array:
    """Round once from float64 to ``dtype``: ``float32``, ``bfloat16`` or ``float16``."""
    if dtype == "float32":
        return ops.store(ops.float32(v), dtype)
    drop, overflow = {"bfloat16": (45, 2.0**128 - 2.0**119), "float16": (42, 65520.0)}[dtype]
    b = ops.bits(v)
    odd = ops.band(ops.shr(b, drop), 1)
    r = ops.value(ops.band(b + odd + ((1 << (drop - 1)) - 1), -(1 << drop)))
    size = ops.abs(v)
    if dtype == "bfloat16":
        r = ops.where(size < TINY, 0.0, r)
    else:
        r = ops.where(size < 2.0**-14, ops.rint(v * 2.0**24) * 2.0**-24, r)
    r = ops.where(size >= overflow, ops.where(v > 0.0, float("inf"), float("-inf")), r)
    r = ops.where(ops.isnan(v), float("nan"), r)
    return ops.store(ops.where(r == 0.0, 0.0, r), dtype)
