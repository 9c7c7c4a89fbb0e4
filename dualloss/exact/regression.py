"""Regression terms (docs/numerics/regression.md)."""

from __future__ import annotations

from ..spec import Huber, MeanSquaredError
from .constants import float32
from .terms import Inputs, Result, implements, per_channel


@implements(MeanSquaredError)
def mean_squared_error(term: MeanSquaredError, inputs: Inputs) -> Result:
    """``(x - t)^2``."""
    d = inputs.x - inputs.t
    return per_channel(term, inputs, [d * d], lambda: d * 2.0)


@implements(Huber)
def huber(term: Huber, inputs: Inputs) -> Result:
    """``d^2 / 2`` up to ``delta``, then ``delta (|d| - delta / 2)``."""
    ops, delta = inputs.ops, float32(term.delta)
    d = inputs.x - inputs.t
    size = ops.abs(d)
    losses = ops.where(size <= delta, d * d * 0.5, (size - delta * 0.5) * delta)
    return per_channel(
        term, inputs, [losses], lambda: ops.where(d > delta, delta, ops.where(d < -delta, -delta, d))
    )
