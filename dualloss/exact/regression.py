"""Regression terms (docs/numerics.md, sections 3.4 and 3.5)."""

from __future__ import annotations

from ..spec import Huber, MeanSquaredError
from . import functions, sums
from .constants import float32
from .ops import Array
from .terms import Inputs, Result, implements, scaled


@implements(MeanSquaredError)
def mean_squared_error(term: MeanSquaredError, inputs: Inputs) -> Result:
    """``(x - t)^2``, the mean over channels."""
    ops = inputs.ops
    d = inputs.x - inputs.t
    share = 1 / inputs.channels
    value = functions.times(ops, sums.channel_sum(ops, [d * d], inputs.axis), share)

    def gradient(c: Array) -> Array:
        return scaled(ops, c, d * 2.0)

    return Result(value, inputs.valid, "count", share, gradient)


@implements(Huber)
def huber(term: Huber, inputs: Inputs) -> Result:
    """``d^2 / 2`` up to ``delta``, then ``delta (|d| - delta / 2)``, the mean over channels."""
    ops, delta = inputs.ops, float32(term.delta)
    d = inputs.x - inputs.t
    size = ops.abs(d)
    share = 1 / inputs.channels
    losses = ops.where(size <= delta, d * d * 0.5, (size - delta * 0.5) * delta)
    value = functions.times(ops, sums.channel_sum(ops, [losses], inputs.axis), share)

    def gradient(c: Array) -> Array:
        return scaled(ops, c, ops.where(d > delta, delta, ops.where(d < -delta, -delta, d)))

    return Result(value, inputs.valid, "count", share, gradient)
