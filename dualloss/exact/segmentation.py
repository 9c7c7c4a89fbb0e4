"""Segmentation terms (docs/numerics/segmentation.md)."""

from __future__ import annotations

from ..spec import SSIM, Boundary, DistanceMap, TotalVariation
from . import functions, stencil
from .constants import float32, gaussian
from .ops import Array, Ops
from .terms import Inputs, Result, implements, over_channels, through_activation


@implements(Boundary)
def boundary(term: Boundary, inputs: Inputs) -> Result:
    """``(K q - K t)^2``, the sum over stencils; ``q`` the input or its softmax."""
    ops, axes, padding = inputs.ops, inputs.spatial, term.padding
    kernel = "laplacian8" if term.kernel == "sobel" else term.kernel  # the neighbours of the stencil

    def edges(v: Array) -> list[Array]:
        if term.kernel == "sobel":
            return [stencil.sobel(ops, v, axes, along, padding) for along in axes]
        return [stencil.laplacian(ops, v, axes, kernel, padding)]

    def adjoint(parts: list[Array]) -> Array:
        if term.kernel == "sobel":
            found = zip(parts, axes, strict=True)
            return _sum(ops, [stencil.sobel_adjoint(ops, y, axes, along, padding) for y, along in found])
        return stencil.laplacian_adjoint(ops, parts[0], axes, kernel, padding)

    if term.on == "logits":
        apart = [a - b for a, b in zip(edges(inputs.x), edges(inputs.t), strict=True)]
    else:
        p, rest = inputs.softmax.p, inputs.softmax.rest
        apart = edges(functions.chop(ops, ops.where(p > rest, (1.0 - inputs.t) - rest, p - inputs.t)))
    value, share = over_channels(term, inputs, [d * d for d in apart])
    counts = None if inputs.valid is None else stencil.erode(ops, inputs.valid, axes, kernel)

    def gradient(c: Array) -> Array:
        g = adjoint([ops.where(c == 0.0, 0.0, functions.times(ops, c, d * 2.0)) for d in apart])
        return g if term.on == "logits" else through_activation(inputs, "softmax", g)

    return Result(value, counts, share, gradient)


@implements(DistanceMap)
def distance_map(term: DistanceMap, inputs: Inputs) -> Result:
    """``p D``, ``D`` the signed distance to the boundary of the class."""
    ops = inputs.ops
    away = inputs.t
    if term.target == "classes":
        away = ops.where(ops.isnan(inputs.t), float("nan"), inputs.distances)
    p = {"softmax": lambda: inputs.softmax.p, "sigmoid": lambda: inputs.sigmoid.p, "none": lambda: inputs.x}
    value, share = over_channels(term, inputs, [ops.where(away == 0.0, 0.0, p[term.activation]() * away)])

    def gradient(c: Array) -> Array:
        h = ops.where(c == 0.0, 0.0, functions.times(ops, c, away))
        return through_activation(inputs, term.activation, h)

    return Result(value, inputs.valid, share, gradient)


@implements(SSIM)
def ssim(term: SSIM, inputs: Inputs) -> Result:
    """``1 - SSIM``, from the differences, so that nothing cancels where the images are close."""
    ops, t = inputs.ops, inputs.t
    x = inputs.x if inputs.valid is None else ops.where(inputs.valid, inputs.x, 0.0)
    axes = [axis + 1 for axis in inputs.spatial]  # the arrays go through the window as one
    weights = gaussian(term.window, term.sigma)
    c1, c2 = (float32((k * term.data_range) ** 2) for k in (0.01, 0.03))
    d = x - t

    def chop(v: Array) -> Array:
        return functions.chop(ops, v)

    def times(a: Array, b: Array) -> Array:
        return functions.times(ops, a, b)

    means = stencil.window(ops, ops.stack([x, t, d, times(d, d), times(x, x), times(t, t)], 0), axes, weights)
    mx, mt, md, mdd, mxx, mtt = (means[i] for i in range(6))
    e1 = times(md, md)
    e2 = chop(mdd - e1)
    a1 = chop(times(mx, mt) * 2.0 + c1)
    b1 = chop(times(mx, mx) + times(mt, mt)) + c1
    b2 = chop(chop(mxx - times(mx, mx)) + chop(mtt - times(mt, mt))) + c2
    a2 = b2 - e2
    q = times(b1, b2)
    value, share = over_channels(term, inputs, [(times(b1, e2) + times(a2, e1)) / q])
    like = ops.zeros_like(value)
    counts = stencil.windows_inside(ops, like, inputs.valid, inputs.spatial, term.window // 2)

    def gradient(c: Array) -> Array:
        b = times(c, a1 * 2.0 / q)
        w = times(c, a2 * 2.0 / q)
        e = times(b, e2 / b2)
        a = chop(times(mx, times(w, e1 / b1) - e) + times(md, b - w))
        parts = ops.where(c == 0.0, 0.0, ops.stack([a, b, e], 0))
        spread = stencil.window(ops, parts, axes[::-1], weights)
        a, b, e = (spread[i] for i in range(3))
        pull = ops.where(b == 0.0, 0.0, times(d, b))
        push = ops.where(e == 0.0, 0.0, times(x, e))
        return chop(chop(pull - push) - a)

    return Result(value, counts, share, gradient)


@implements(TotalVariation)
def total_variation(term: TotalVariation, inputs: Inputs) -> Result:
    """The absolute differences of neighbours, the sum over axes."""
    ops, axes = inputs.ops, inputs.spatial

    def steps(axis: int) -> Array:
        apart = stencil.difference(ops, inputs.x, axis)
        if inputs.valid is None:
            return apart
        return ops.where(ops.both(inputs.valid, stencil.followed(ops, inputs.valid, axis)), apart, 0.0)

    apart = [steps(axis) for axis in axes]
    value, share = over_channels(term, inputs, [ops.abs(v) for v in apart])

    def gradient(c: Array) -> Array:
        found = []
        for v, axis in zip(apart, axes, strict=True):
            sign = ops.where(v > 0.0, 1.0, ops.where(v < 0.0, -1.0, v))  # NaN stays NaN
            y = ops.where(c == 0.0, 0.0, functions.times(ops, c, sign))
            found.append(stencil.difference_adjoint(ops, y, axis))
        return _sum(ops, found)

    return Result(value, inputs.valid, share, gradient)


def _sum(ops: Ops, parts: list[Array]) -> Array:
    """Left to right, chopped after every addition."""
    result = parts[0]
    for part in parts[1:]:
        result = functions.chop(ops, result + part)
    return result
