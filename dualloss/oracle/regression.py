"""Regression terms."""

from __future__ import annotations

import numpy as np

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
from .constants import float32
from .core import Found, Inputs, implements, per_channel, pointwise
from .distances import Bound


@implements(MeanSquaredError, native=Bound(loss=4, map=5, gradient=4))
def mean_squared_error(term: MeanSquaredError, inputs: Inputs) -> Found:
    """`d^2`, `d = x - t`; gradient `2 d`."""
    d = inputs.x - inputs.t
    return per_channel(term, inputs, d * d, 2 * d)


@implements(MeanAbsoluteError, native=Bound(loss=4, map=4, gradient=2))
def mean_absolute_error(term: MeanAbsoluteError, inputs: Inputs) -> Found:
    """`|d|`, `d = x - t`; gradient 0 at 0."""
    d = inputs.x - inputs.t
    return per_channel(term, inputs, abs(d), np.sign(d))


@implements(MeanAbsolutePercentageError, native=Bound(loss=4, map=6, gradient=3))
def mean_absolute_percentage_error(term: MeanAbsolutePercentageError, inputs: Inputs) -> Found:
    """`100 |x - t| / max(|t|, epsilon)`."""
    d, size = inputs.x - inputs.t, np.maximum(abs(inputs.t), float32(term.epsilon))
    return per_channel(term, inputs, 100 * abs(d) / size, 100 * np.sign(d) / size)


@implements(MeanSquaredLogarithmicError, native=Bound(loss=4, map=12, gradient=8))
def mean_squared_logarithmic_error(term: MeanSquaredLogarithmicError, inputs: Inputs) -> Found:
    """`q^2`, `q = log((y + 1) / (u + 1))` of input and target that are at least epsilon."""
    low = float32(term.epsilon)
    y, u = np.maximum(inputs.x, low), np.maximum(inputs.t, low)
    q = np.log1p((y - u) / (u + 1))
    return per_channel(term, inputs, q * q, np.where((inputs.x < low) & ~np.isnan(q), 0.0, 2 * q / (y + 1)))


@implements(Huber, native=Bound(loss=4, map=5, gradient=4))
def huber(term: Huber, inputs: Inputs) -> Found:
    """`d^2 / 2` up to `|d| = delta`, then `delta (|d| - delta / 2)`; `d = x - t`."""
    d, delta = inputs.x - inputs.t, float32(term.delta)
    value = np.where(abs(d) <= delta, d * d / 2, delta * (abs(d) - delta / 2))
    return per_channel(term, inputs, value, np.clip(d, -delta, delta))


@implements(SmoothL1, native=Bound(loss=4, map=4, gradient=5))
def smooth_l1(term: SmoothL1, inputs: Inputs) -> Found:
    """`d^2 / (2 beta)` where `|d| < beta`, else `|d| - beta / 2`; `d = x - t`."""
    d, beta = inputs.x - inputs.t, float32(term.beta)
    near = abs(d) < beta  # nowhere for beta = 0
    value = np.where(near, d * d / (2 * beta), abs(d) - beta / 2)
    return per_channel(term, inputs, value, np.where(near, d / beta, np.sign(d)))


@implements(Charbonnier, native=Bound(loss=4, map=5, gradient=4))
def charbonnier(term: Charbonnier, inputs: Inputs) -> Found:
    """`sqrt(d^2 + epsilon^2)`, `d = x - t`; gradient `d` over it, and the sign of `d` where that is infinite."""
    d = inputs.x - inputs.t
    value = np.hypot(d, float32(term.epsilon))
    return per_channel(term, inputs, value, np.where(np.isinf(d), np.sign(d), d / value))


@implements(LogCosh, native=Bound(loss=4, map=8, gradient=6))
def log_cosh(term: LogCosh, inputs: Inputs) -> Found:
    """`log cosh d`, `d = x - t`; gradient `tanh d`."""
    d = inputs.x - inputs.t
    size = abs(d)
    near = np.log1p(2 * np.sinh(np.minimum(size, 1) / 2) ** 2)  # cosh d = 1 + 2 sinh(d / 2)^2
    far = size + np.log1p(np.exp(-2 * size)) - np.log(np.longdouble(2))
    return per_channel(term, inputs, np.where(size < 1, near, far), np.tanh(d))


@implements(Quantile, native=Bound(loss=3, map=4, gradient=2))
def quantile(term: Quantile, inputs: Inputs) -> Found:
    """`quantile (t - x)` below the target, `(1 - quantile) (x - t)` above it."""
    d, below, above = inputs.x - inputs.t, float32(term.quantile), float32(1 - term.quantile)
    value = np.maximum(-below * d, above * d)
    g = np.where(d < 0, -below, np.where(d > 0, above, d))
    return per_channel(term, inputs, value, g)


@implements(CosineSimilarity, native=Bound(loss=7, map=6, gradient=10))
def cosine_similarity(term: CosineSimilarity, inputs: Inputs) -> Found:
    """`-cos`, or `1 - cos`, of the angle between input and target."""
    x, t, low = inputs.x, inputs.t, float32(term.epsilon)
    xx, tt, xt = ((a * b).sum(-1, keepdims=True) for a, b in ((x, x), (t, t), (x, t)))
    bad = ~np.isfinite(xx + tt + xt)
    size_x, size_t = np.sqrt(np.maximum(xx, low)), np.sqrt(np.maximum(tt, low))
    value = -xt / (size_x * size_t)
    if term.form == "distance":
        # |x / |x| - t / |t||^2 / 2 for vectors that are long enough: right where they are nearly parallel.
        apart = ((x / size_x - t / size_t) ** 2).sum(-1, keepdims=True) / 2
        value = np.where((xx >= low) & (tt >= low), apart, 1 + value)
    # t / (|x| |t|) less its part along x, the two over one denominator: for one channel nothing is left.
    g = np.where(xx >= low, x * xt - t * xx, -t * low) / (size_x * size_t * np.maximum(xx, low))
    value, g = np.where(bad, np.nan, value), np.where(bad, np.nan, g)
    return Found(value[..., 0], inputs.valid, pointwise(g))
