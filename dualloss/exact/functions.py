"""Rounding and the exactly defined unary functions (docs/numerics.md, sections 1.1 to 1.3).

The functions take their argument on a coarse grid and give a few bits more than float32 has, rounded at a threshold
(not at the midpoint but near it) that no true value comes close to: so every float64 library gives the same bits, and
no table of hard cases is needed. What the grid drops comes back as a correction.
"""

from __future__ import annotations

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
