"""Shifted neighbours, the Laplacian stencils and their adjoints (docs/numerics/segmentation.md, Boundary)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

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


def erode(ops: Ops, valid: Array, axes: Sequence[int], kernel: str) -> Array:
    """Where a position and all neighbours of its stencil are valid; off the edge counts as valid."""
    missing = ops.where(valid, 0.0, 1.0)
    whole = valid
    for offset in offsets(kernel, len(axes)):
        whole = ops.both(whole, neighbour(ops, missing, axes, offset, "zeros") < 1.0)
    return whole


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
