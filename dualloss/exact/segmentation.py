"""Segmentation terms (docs/numerics.md, section 3.6)."""

from __future__ import annotations

from ..spec import Boundary
from . import functions, stencil, sums
from .ops import Array
from .terms import Inputs, Result, implements


@implements(Boundary)
def boundary(term: Boundary, inputs: Inputs) -> Result:
    """``(K q - K t)^2``, the mean over channels; ``q`` the input or its softmax."""
    ops, axes, axis = inputs.ops, inputs.spatial, inputs.axis
    share = 1 / inputs.channels
    q = inputs.x if term.on == "logits" else functions.chop(ops, inputs.softmax.p)

    def edges(v: Array) -> Array:
        return stencil.laplacian(ops, v, axes, term.kernel, term.padding)

    difference = edges(q) - edges(inputs.t)
    value = functions.times(ops, sums.channel_sum(ops, [difference * difference], axis), share)
    counts = None if inputs.valid is None else stencil.erode(ops, inputs.valid, axes, term.kernel)

    def gradient(c: Array) -> Array:
        y = ops.where(c == 0.0, 0.0, functions.times(ops, c, difference * 2.0))
        g = stencil.laplacian_adjoint(ops, y, axes, term.kernel, term.padding)
        if term.on == "logits":
            return g
        untouched = ops.isum(ops.where(g == 0.0, 0.0, 1.0), axis) == 0.0
        through = functions.times(ops, q, g - sums.channel_sum(ops, [q * g], axis))
        return ops.where(untouched, 0.0, through)

    return Result(value, counts, "count", share, gradient)
