"""Regression terms."""

from __future__ import annotations

import torch.nn.functional as F

from ...spec import Huber, MeanSquaredError
from .core import Found, Inputs, implements, kept, over_channels, select, target


@implements(MeanSquaredError)
def mean_squared_error(term: MeanSquaredError, inputs: Inputs) -> Found:
    """Mean over channels of `(x - t)^2`."""
    keep = kept(inputs.valid, inputs.weight)
    x, t = select(keep, inputs.x), select(keep, target(inputs))
    return Found(over_channels(term, F.mse_loss(x, t, reduction="none")), inputs.valid)


@implements(Huber)
def huber(term: Huber, inputs: Inputs) -> Found:
    """Mean over channels of `d^2 / 2` up to `|d| = delta`, then `delta (|d| - delta / 2)`; `d = x - t`."""
    keep = kept(inputs.valid, inputs.weight)
    x, t = select(keep, inputs.x), select(keep, target(inputs))
    return Found(over_channels(term, F.huber_loss(x, t, reduction="none", delta=term.delta)), inputs.valid)
