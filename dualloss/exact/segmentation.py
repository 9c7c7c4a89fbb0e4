"""Segmentation terms (docs/numerics/segmentation.md)."""

from __future__ import annotations

from ..spec import Boundary
from . import functions, stencil
from .ops import Array
from .terms import Inputs, Result, implements, over_channels, through_softmax


@implements(Boundary)
def boundary(term: Boundary, inputs: Inputs) -> Result:
    """``(K q - K t)^2``, the mean over channels; ``q`` the input or its softmax."""
    ops, axes = inputs.ops, inputs.spatial

    def edges(v: Array) -> Array:
        return stencil.laplacian(ops, v, axes, term.kernel, term.padding)

    if term.on == "logits":
        difference = edges(inputs.x) - edges(inputs.t)
    else:
        p, rest = inputs.softmax.p, inputs.softmax.rest
        apart = ops.where(p > rest, (1.0 - inputs.t) - rest, p - inputs.t)
        difference = edges(functions.chop(ops, apart))
    value, share = over_channels(term, inputs, [difference * difference])
    counts = None if inputs.valid is None else stencil.erode(ops, inputs.valid, axes, term.kernel)

    def gradient(c: Array) -> Array:
        y = ops.where(c == 0.0, 0.0, functions.times(ops, c, difference * 2.0))
        g = stencil.laplacian_adjoint(ops, y, axes, term.kernel, term.padding)
        return g if term.on == "logits" else through_softmax(inputs, g)

    return Result(value, counts, share, gradient)
