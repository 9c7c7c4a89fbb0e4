"""Regression terms."""

from __future__ import annotations

import tensorflow as tf

from ...spec import Huber, MeanSquaredError
from .core import Found, Inputs, implements, kept, over_channels, select, target


@implements(MeanSquaredError)
def mean_squared_error(term: MeanSquaredError, inputs: Inputs) -> Found:
    """Mean over channels of `(x - t)^2`."""
    keep = kept(inputs.valid, inputs.weight)
    x, t = select(keep, inputs.x), select(keep, target(inputs))
    return Found(over_channels(term, tf.math.squared_difference(x, t)), inputs.valid)


@implements(Huber)
def huber(term: Huber, inputs: Inputs) -> Found:
    """Mean over channels of `d^2 / 2` up to `|d| = delta`, then `delta (|d| - delta / 2)`; `d = x - t`."""
    keep = kept(inputs.valid, inputs.weight)
    d = select(keep, inputs.x) - select(keep, target(inputs))
    near = tf.clip_by_value(d, -term.delta, term.delta)
    # Both branches in one, `near` being `d` or `delta`: no infinity of a branch not taken gets in.
    return Found(over_channels(term, near * (d - near / 2)), inputs.valid)
