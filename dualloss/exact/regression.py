"""Regression terms (docs/numerics/regression.md)."""

from __future__ import annotations

import math

from ..spec import (
    Charbonnier,
    CosineSimilarity,
    Huber,
    LogCosh,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    MeanSquaredLogarithmicError,
    Quantile,
    SmoothL1,
)
from . import functions, sums
from .constants import float32
from .ops import Array, Ops
from .terms import Inputs, Result, implements, per_channel, scaled

_LN2 = float.fromhex("0x1.62e42fefa39efp-1")
_COSH = tuple(1.0 / math.factorial(2 * k) for k in range(9, 0, -1))
"""``(cosh a - 1) / a^2`` by powers of ``a^2``, the highest first."""
_SINH = tuple(1.0 / math.factorial(2 * k + 1) for k in range(9, 0, -1))
"""``(sinh a - a) / a^3``."""


def sign(ops: Ops, v: Array) -> Array:
    """1, -1, or 0 for 0; NaN for NaN."""
    return ops.where(v > 0.0, 1.0, ops.where(v < 0.0, -1.0, v))


@implements(MeanSquaredError)
def mean_squared_error(term: MeanSquaredError, inputs: Inputs) -> Result:
    """``(x - t)^2``."""
    d = inputs.x - inputs.t
    return per_channel(term, inputs, [d * d], lambda: d * 2.0)


@implements(MeanAbsoluteError)
def mean_absolute_error(term: MeanAbsoluteError, inputs: Inputs) -> Result:
    """``|x - t|``."""
    ops, d = inputs.ops, inputs.x - inputs.t
    return per_channel(term, inputs, [ops.abs(d)], lambda: sign(ops, d))


@implements(MeanAbsolutePercentageError)
def mean_absolute_percentage_error(term: MeanAbsolutePercentageError, inputs: Inputs) -> Result:
    """``100 |x - t| / max(|t|, epsilon)``."""
    ops, least = inputs.ops, float32(term.epsilon)
    d, size = inputs.x - inputs.t, ops.abs(inputs.t)
    factor = ops.ones_like(size) * 100.0 / ops.where(size > least, size, least)
    return per_channel(term, inputs, [ops.abs(d) * factor], lambda: sign(ops, d) * factor)


@implements(MeanSquaredLogarithmicError)
def mean_squared_logarithmic_error(term: MeanSquaredLogarithmicError, inputs: Inputs) -> Result:
    """``log((x + 1) / (t + 1))^2``."""
    ops, x, least = inputs.ops, inputs.x, float32(term.epsilon)
    y, u = (ops.where(v <= least, least, v) for v in (x, inputs.t))
    above = y >= u
    # From the smaller one up: the logarithm's argument, less 1, does not cancel.
    log = functions.log_of_one_plus(ops, ops.where(above, y - u, u - y) / (ops.where(above, u, y) + 1.0))
    q = ops.where(above, log, 0.0 - log)

    def gradient() -> Array:
        g = ops.where(x >= least, q / (y + 1.0) * 2.0, 0.0)
        return ops.where(ops.isnan(q), float("nan"), g)

    return per_channel(term, inputs, [q * q], gradient)


@implements(Huber)
def huber(term: Huber, inputs: Inputs) -> Result:
    """``d^2 / 2`` up to ``delta``, then ``delta (|d| - delta / 2)``."""
    ops, delta = inputs.ops, float32(term.delta)
    d = inputs.x - inputs.t
    size = ops.abs(d)
    losses = ops.where(size <= delta, d * d * 0.5, (size - delta * 0.5) * delta)
    return per_channel(term, inputs, [losses], lambda: ops.where(d > delta, delta, ops.where(d < -delta, -delta, d)))


@implements(SmoothL1)
def smooth_l1(term: SmoothL1, inputs: Inputs) -> Result:
    """``d^2 / (2 beta)`` below ``beta``, then ``|d| - beta / 2``."""
    ops, beta = inputs.ops, float32(term.beta)
    d = inputs.x - inputs.t
    size = ops.abs(d)
    if beta == 0.0:
        return per_channel(term, inputs, [size], lambda: sign(ops, d))
    inverse = 1.0 / beta
    near = size < beta
    losses = ops.where(near, functions.times(ops, d, d) * (0.5 * inverse), size - 0.5 * beta)
    return per_channel(term, inputs, [losses], lambda: ops.where(near, functions.times(ops, d, inverse), sign(ops, d)))


@implements(Charbonnier)
def charbonnier(term: Charbonnier, inputs: Inputs) -> Result:
    """``sqrt(d^2 + epsilon^2)``."""
    ops, epsilon = inputs.ops, float32(term.epsilon)
    d = inputs.x - inputs.t
    losses = ops.sqrt(functions.times(ops, d, d) + epsilon * epsilon)
    infinite = losses == float("inf")
    return per_channel(
        term, inputs, [losses], lambda: ops.where(infinite, sign(ops, d), d / functions.chop(ops, losses))
    )


@implements(LogCosh)
def log_cosh(term: LogCosh, inputs: Inputs) -> Result:
    """``log cosh d``, near 0 by ``cosh d - 1``, elsewhere by ``exp(-2 |d|)``."""
    ops, d = inputs.ops, inputs.x - inputs.t
    size = ops.abs(d)
    near = size < 1.0
    w = functions.times(ops, size, size)
    h = functions.times(ops, w, functions.polynomial(ops, _COSH, w))
    v = functions.exp_of_any(ops, size * -2.0)
    tail = functions.log_of_one_plus(ops, ops.where(near, h, v))
    losses = ops.where(near, tail, functions.chop(ops, size + tail) - _LN2)

    def gradient() -> Array:
        odd = functions.times(ops, size, functions.times(ops, w, functions.polynomial(ops, _SINH, w)))
        tanh = ops.where(near, functions.chop(ops, size + odd) / (h + 1.0), (1.0 - v) / (v + 1.0))
        return ops.where(d < 0.0, 0.0 - tanh, tanh)

    return per_channel(term, inputs, [losses], gradient)


@implements(CosineSimilarity)
def cosine_similarity(term: CosineSimilarity, inputs: Inputs) -> Result:
    """Minus the cosine of the angle, or 1 less the cosine."""
    ops, axis, x, t, least = inputs.ops, inputs.axis, inputs.x, inputs.t, float32(term.epsilon)
    xx, tt, xt = (sums.channel_sum(ops, [product], axis) for product in (x * x, t * t, x * t))
    long, long_t = (ops.where(squared > least, squared, least) for squared in (xx, tt))
    # NaN and infinities leave here. Moreover XLA must not see a root below a fraction bar: it would multiply by its
    # reciprocal.
    n = ops.where(xx * tt < float("inf"), ops.sqrt(long * long_t), float("nan"))
    k = xt / n
    if term.form == "negative":
        value = 0.0 - k
    else:
        apart = x / functions.chop(ops, ops.sqrt(long)) - t / functions.chop(ops, ops.sqrt(long_t))
        half = sums.channel_sum(ops, [apart * apart], axis) * 0.5
        value = ops.where(ops.both(xx >= least, tt >= least), half, 1.0 - k)
    value = functions.chop(ops, value)

    def gradient(c: Array) -> Array:
        across = functions.chop(ops, t / n)
        along = ops.where(xx >= least, functions.times(ops, k, x / long), 0.0)
        return scaled(ops, c, along - across)

    return Result(value, inputs.valid, 1.0, gradient)


@implements(Quantile)
def quantile(term: Quantile, inputs: Inputs) -> Result:
    """``quantile (t - x)`` below the target, ``(1 - quantile) (x - t)`` above it."""
    ops, low, high = inputs.ops, float32(term.quantile), float32(1.0 - term.quantile)
    d = inputs.x - inputs.t
    size = ops.abs(d)
    losses = ops.where(d <= 0.0, size * low, size * high)
    return per_channel(term, inputs, [losses], lambda: ops.where(d > 0.0, high, ops.where(d < 0.0, -low, d)))
