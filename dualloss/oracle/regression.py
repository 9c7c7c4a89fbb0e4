"""Regression terms."""

from __future__ import annotations

import numpy as np

from ..spec import Huber, MeanSquaredError
from .core import Found, Inputs, float32, implements, pointwise
from .distances import Bound


@implements(MeanSquaredError, native=Bound(loss=4, map=5, gradient=4))
def mean_squared_error(term: MeanSquaredError, inputs: Inputs) -> Found:
    """`V` = mean over c of `(x - t)^2`; gradient `2 (x - t)`."""
    d = inputs.x - inputs.t
    g = 2 * d
    return Found((d * d).mean(-1), inputs.valid, np.longdouble(inputs.valid.sum()), pointwise(g / d.shape[-1]))


@implements(Huber, native=Bound(loss=4, map=5, gradient=4))
def huber(term: Huber, inputs: Inputs) -> Found:
    """`V` = mean over c of `d^2 / 2` up to `|d| = delta`, then `delta (|d| - delta / 2)`; `d = x - t`."""
    d, delta = inputs.x - inputs.t, float32(term.delta)
    value = np.where(abs(d) <= delta, d * d / 2, delta * (abs(d) - delta / 2)).mean(-1)
    g = np.clip(d, -delta, delta)
    return Found(value, inputs.valid, np.longdouble(inputs.valid.sum()), pointwise(g / d.shape[-1]))
