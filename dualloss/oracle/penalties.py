"""Penalties: terms on weights, which are the input here; one channel, and no target."""

from __future__ import annotations

import numpy as np

from ..spec import L1, L2
from .core import Found, Inputs, implements, pointwise
from .distances import Bound


@implements(L1, native=Bound(loss=4, map=4, gradient=2))
def l1(term: L1, inputs: Inputs) -> Found:
    """`|w|`; gradient 0 at 0."""
    w = inputs.x
    return Found(abs(w[..., 0]), inputs.valid, pointwise(np.sign(w)))


@implements(L2, native=Bound(loss=4, map=4, gradient=2))
def l2(term: L2, inputs: Inputs) -> Found:
    """`w^2`."""
    w = inputs.x
    return Found(w[..., 0] ** 2, inputs.valid, pointwise(2 * w))
