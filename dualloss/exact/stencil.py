"""Stencils and their adjoints: Laplacians, Sobel, windows, differences (docs/numerics/segmentation.md)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from . import functions
from .ops import Array, Ops

Offset = tuple[int, ...]


def offsets(kernel: str, axes: int) -> list[Offset]:
    """The neighbours of a stencil, in the order in which they are subtracted."""
    if kernel == "laplacian8":
        return [o for o in product((-1, 0, 1), repeat=axes) if any(o)]
    return [tuple(step if a == axis else 0 for a in range(axes)) for axis in range(axes) for step in (-1, 1)]


def neighbour(ops: Ops, v: Array, axes: Sequence[int], offset: Offset, padding: str) -> Array:
    """``v`` at ``i + offset``, with the padding's value off the edge."""
    for axis, step in zip(axes, offset, strict=True):
        if step:
            v = _shift(ops, v, axis, step, padding)
    return v


def neighbour_adjoint(ops: Ops, v: Array, axes: Sequence[int], offset: Offset, padding: str) -> Array:
    """The transposed map of :func:`neighbour`."""
    for axis, step in zip(axes, offset, strict=True):
        if step:
            v = _shift_adjoint(ops, v, axis, step, padding)
    return v


def laplacian(ops: Ops, v: Array, axes: Sequence[int], kernel: str, padding: str) -> Array:
    """Minus the Laplacian. ``v`` has at most 48 bits, so the product is exact."""
    around = offsets(kernel, len(axes))
    result = v * float(len(around))
    for offset in around:
        result = result - neighbour(ops, v, axes, offset, padding)
    return result


def laplacian_adjoint(ops: Ops, v: Array, axes: Sequence[int], kernel: str, padding: str) -> Array:
    """The adjoint of :func:`laplacian`, which for zero padding is itself."""
    around = offsets(kernel, len(axes))
    result = v * float(len(around))
    for offset in around:
        result = result - neighbour_adjoint(ops, v, axes, offset, padding)
    return result


def sobel(ops: Ops, v: Array, axes: Sequence[int], along: int, padding: str) -> Array:
    """The difference along one axis of ``v`` smoothed along the others."""
    for axis in axes:
        if axis != along:
            around = functions.chop(ops, _shift(ops, v, axis, -1, padding) + _shift(ops, v, axis, 1, padding))
            v = functions.chop(ops, around + v * 2.0)
    return _shift(ops, v, along, 1, padding) - _shift(ops, v, along, -1, padding)


def sobel_adjoint(ops: Ops, v: Array, axes: Sequence[int], along: int, padding: str) -> Array:
    """The adjoint of :func:`sobel`."""
    v = _shift_adjoint(ops, v, along, 1, padding) - _shift_adjoint(ops, v, along, -1, padding)
    for axis in reversed(axes):
        if axis != along:
            # Each adjoint may end in an addition: without chops the graph has a tree of them, which may be regrouped.
            before = functions.chop(ops, _shift_adjoint(ops, v, axis, -1, padding))
            after = functions.chop(ops, _shift_adjoint(ops, v, axis, 1, padding))
            v = functions.chop(ops, functions.chop(ops, before + after) + v * 2.0)
    return v


def window(ops: Ops, v: Array, axes: Sequence[int], weights: Sequence[float]) -> Array:
    """The weighted sum over a window that is a product of one for each axis; zeros off the edge.

    The weights are symmetric, so that the adjoint is the same with the axes in the opposite order.
    """
    reach = len(weights) // 2
    for axis in axes:
        padded = ops.pad(v, axis, reach, reach)
        total = None
        for place, weight in enumerate(weights):
            part = functions.times(ops, _from(ops, padded, axis, place, 2 * reach), weight)
            total = part if total is None else functions.chop(ops, total + part)
        v = total
    return v


def windows_inside(ops: Ops, like: Array, valid: Array | None, axes: Sequence[int], reach: int) -> Array:
    """Where the window lies within the edges and holds valid positions only; ``like`` is an array per position."""
    inside = like < 1.0 if valid is None else valid
    v = ops.where(inside, 1.0, ops.zeros_like(like))
    for axis in axes:
        padded = ops.pad(v, axis, reach, reach)
        total = v * 0.0
        for place in range(2 * reach + 1):
            total = total + _from(ops, padded, axis, place, 2 * reach)  # integers: exact in any order
        v = ops.where(total == float(2 * reach + 1), 1.0, 0.0)
    return v > 0.0


def difference(ops: Ops, v: Array, axis: int) -> Array:
    """``v[+1] - v``, 0 on the far edge."""
    inside = _shift(ops, ops.ones_like(v), axis, 1, "zeros") > 0.0
    return ops.where(inside, _shift(ops, v, axis, 1, "zeros") - v, 0.0)


def difference_adjoint(ops: Ops, v: Array, axis: int) -> Array:
    """The adjoint of :func:`difference` for a ``v`` that is 0 on the far edge."""
    return _shift(ops, v, axis, -1, "zeros") - v


def followed(ops: Ops, valid: Array, axis: int) -> Array:
    """Where the next position along an axis is valid; off the edge counts as valid."""
    return _shift(ops, ops.where(valid, 0.0, 1.0), axis, 1, "zeros") < 1.0


def erode(ops: Ops, valid: Array, axes: Sequence[int], kernel: str) -> Array:
    """Where a position and all neighbours of its stencil are valid; off the edge counts as valid."""
    missing = ops.where(valid, 0.0, 1.0)
    whole = valid
    for offset in offsets(kernel, len(axes)):
        whole = ops.both(whole, neighbour(ops, missing, axes, offset, "zeros") < 1.0)
    return whole


def _from(ops: Ops, padded: Array, axis: int, start: int, spare: int) -> Array:
    """All but ``spare`` elements along an axis, from ``start`` on."""
    return ops.cut(padded, axis, start, start - spare if start < spare else None)


def _shift(ops: Ops, v: Array, axis: int, step: int, padding: str) -> Array:
    first, last = ops.cut(v, axis, 0, 1), ops.cut(v, axis, -1, None)
    if step < 0:
        if padding == "reflect":  # an axis of length 1 has no second element: then the first
            edge = ops.cut(ops.concat([ops.cut(v, axis, 1, 2), first], axis), axis, 0, 1)
        else:
            edge = first if padding == "replicate" else ops.zeros_like(first)
        return ops.concat([edge, ops.cut(v, axis, 0, -1)], axis)
    if padding == "reflect":
        edge = ops.cut(ops.concat([last, ops.cut(v, axis, -2, -1)], axis), axis, -1, None)
    else:
        edge = last if padding == "replicate" else ops.zeros_like(last)
    return ops.concat([ops.cut(v, axis, 1, None), edge], axis)


def _shift_adjoint(ops: Ops, v: Array, axis: int, step: int, padding: str) -> Array:
    moved = _shift(ops, v, axis, -step, "zeros")
    if padding == "zeros":
        return moved

    def blank(start: int | None, stop: int | None) -> Array:
        return ops.zeros_like(ops.cut(v, axis, start, stop))

    # What the padding copied from an element comes back to it; the slices also fit axes of length 1.
    if step < 0:
        edge = ops.cut(v, axis, 0, 1)
        parts = [edge, blank(1, None)] if padding == "replicate" else [blank(1, 2), edge, blank(2, None)]
    else:
        edge = ops.cut(v, axis, -1, None)
        parts = [blank(0, -1), edge] if padding == "replicate" else [blank(0, -2), edge, blank(-2, -1)]
    return moved + ops.concat(parts, axis)
