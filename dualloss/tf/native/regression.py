"""Regression terms."""

from __future__ import annotations

import math

import tensorflow as tf

from ...spec import (
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
from .core import Found, Inputs, Tensor, channelwise, implements, nan_where, positionwise, select, unless


@implements(MeanSquaredError)
def mean_squared_error(term: MeanSquaredError, inputs: Inputs) -> Found:
    """`(x - t)^2`."""
    return channelwise(term, inputs, lambda x, t: tf.math.squared_difference(x, t))


@implements(MeanAbsoluteError)
def mean_absolute_error(term: MeanAbsoluteError, inputs: Inputs) -> Found:
    """`|x - t|`."""
    return channelwise(term, inputs, lambda x, t: _absolute(x - t))


@implements(MeanAbsolutePercentageError)
def mean_absolute_percentage_error(term: MeanAbsolutePercentageError, inputs: Inputs) -> Found:
    """`100 |x - t| / max(|t|, epsilon)`."""
    return channelwise(term, inputs, lambda x, t: 100 * (_absolute(x - t) / tf.maximum(tf.abs(t), term.epsilon)))


@implements(MeanSquaredLogarithmicError)
def mean_squared_logarithmic_error(term: MeanSquaredLogarithmicError, inputs: Inputs) -> Found:
    """`log((y + 1) / (u + 1))^2`; `y` and `u` are input and target, epsilon at least."""

    def value(x: Tensor, t: Tensor) -> Tensor:
        y, u = (unless(v < term.epsilon, v, term.epsilon) for v in (nan_where(tf.math.is_nan(t), x), t))
        # The quotient less 1, or its inverse less 1: what the logarithm of a quotient near 1 needs.
        above = y >= u
        over, under = select(above, y - u) / (u + 1), unless(above, u - y) / (y + 1)
        return tf.square(tf.math.log1p(over) - tf.math.log1p(under))

    return channelwise(term, inputs, value)


@implements(Huber)
def huber(term: Huber, inputs: Inputs) -> Found:
    """`d^2 / 2` up to `|d| = delta`, then `delta (|d| - delta / 2)`; `d = x - t`."""
    return channelwise(term, inputs, lambda x, t: _huber(x - t, term.delta, 1))


@implements(SmoothL1)
def smooth_l1(term: SmoothL1, inputs: Inputs) -> Found:
    """`d^2 / (2 beta)` up to `|d| = beta`, then `|d| - beta / 2`; `d = x - t`."""
    if term.beta == 0:
        return channelwise(term, inputs, lambda x, t: _absolute(x - t))
    return channelwise(term, inputs, lambda x, t: _huber(x - t, term.beta, term.beta))


@implements(Charbonnier)
def charbonnier(term: Charbonnier, inputs: Inputs) -> Found:
    """`sqrt((x - t)^2 + epsilon^2)`."""

    def value(x: Tensor, t: Tensor) -> Tensor:
        d = x - t
        far = tf.abs(d) > 1e8 * term.epsilon  # there it is |d|, whose square may be an infinity
        near = unless(far, d) / term.epsilon
        return tf.where(far, _absolute(d), term.epsilon * tf.sqrt(tf.square(near) + 1))

    return channelwise(term, inputs, value)


@implements(LogCosh)
def log_cosh(term: LogCosh, inputs: Inputs) -> Found:
    """`log cosh (x - t)`."""

    def value(x: Tensor, t: Tensor) -> Tensor:
        d = x - t
        small = tf.abs(d) < 1
        a, near = _absolute(unless(small, d, 1)), select(small, d)
        far = a + (tf.math.log1p(tf.exp(-2 * a)) - math.log(2))
        # cosh d = 1 + 2 sinh^2 (d / 2), which does not cancel near 0.
        return tf.where(small, tf.math.log1p(2 * tf.square(tf.math.sinh(near / 2))), far)

    return channelwise(term, inputs, value)


@implements(CosineSimilarity)
def cosine_similarity(term: CosineSimilarity, inputs: Inputs) -> Found:
    """`-cos` or `1 - cos` of the angle between input and target; no squared length is below epsilon."""

    def value(x: Tensor, t: Tensor) -> Tensor:
        squares = [tf.reduce_sum(tf.square(v), -1) for v in (x, t)]
        lengths = [tf.sqrt(tf.maximum(square, term.epsilon)) for square in squares]
        cosine = tf.reduce_sum(x * t, -1) / (lengths[0] * lengths[1])
        if term.form == "negative":
            return -cosine
        # Of two directions, half the squared distance: it does not cancel where they are nearly the same.
        apart = x / lengths[0][..., None] - t / lengths[1][..., None]
        short = (squares[0] < term.epsilon) | (squares[1] < term.epsilon)
        return tf.where(short, 1 - cosine, tf.reduce_sum(tf.square(apart), -1) / 2)

    return positionwise(inputs, value)


@implements(Quantile)
def quantile(term: Quantile, inputs: Inputs) -> Found:
    """`quantile (t - x)` where the target is not below, else `(1 - quantile) (x - t)`."""

    def value(x: Tensor, t: Tensor) -> Tensor:
        a = _absolute(x - t)
        return tf.where(x <= t, term.quantile * a, (1 - term.quantile) * a)

    return channelwise(term, inputs, value)


def _absolute(d: Tensor) -> Tensor:
    """`|d|`; the gradient is 0 at 0, and NaN for NaN."""
    return tf.abs(nan_where(tf.math.is_nan(d), d))


def _huber(d: Tensor, delta: float, divisor: float) -> Tensor:
    """Both branches in one, `near` being `d` or `delta`: no infinity of a branch not taken gets in."""
    near = tf.clip_by_value(d, -delta, delta)
    return near / divisor * (d - near / 2)
