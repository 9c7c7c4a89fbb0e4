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

    def edges(v: Array) -> Array:
        return stencil.laplacian(ops, v, axes, term.kernel, term.padding)

    if term.on == "logits":
        difference = edges(inputs.x) - edges(inputs.t)
    else:
        p, rest = inputs.softmax.p, inputs.softmax.rest
        apart = ops.where(p > rest, (1.0 - inputs.t) - rest, p - inputs.t)
        difference = edges(functions.chop(ops, apart))
    value = functions.times(ops, sums.channel_sum(ops, [difference * difference], axis), share)
    counts = None if inputs.valid is None else stencil.erode(ops, inputs.valid, axes, term.kernel)

    def gradient(c: Array) -> Array:
        y = ops.where(c == 0.0, 0.0, functions.times(ops, c, difference * 2.0))
        g = stencil.laplacian_adjoint(ops, y, axes, term.kernel, term.padding)
        if term.on == "logits":
            return g
        untouched = ops.isum(ops.where(g == 0.0, 0.0, 1.0), axis) == 0.0
        q = functions.chop(ops, inputs.softmax.p)
        # The softmax's Jacobian does not see a shift; this one makes what is left at p = 1 small.
        h = g - ops.amax(ops.where(inputs.softmax.d == 0.0, g, float("-inf")), axis)
        through = functions.times(ops, q, h - sums.channel_sum(ops, [q * h], axis))
        return ops.where(untouched, 0.0, through)

    return Result(value, counts, "count", share, gradient)
