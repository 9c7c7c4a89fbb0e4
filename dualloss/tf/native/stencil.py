"""Neighbours of a position, along the spatial axes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import tensorflow as tf

from .core import Tensor


def laplacian(u: Tensor, kernel: str, padding: str) -> Tensor:
    """Minus the Laplacian along the spatial axes."""
    if padding == "zeros":
        return _zero_padded(u, kernel)
    return _differences(u, kernel, padding)


def _zero_padded(u: Tensor, kernel: str) -> Tensor:
    """With zeros off the edge the Laplacian is its own adjoint: cheaper than the gradients of slices."""

    @tf.custom_gradient
    def own_adjoint(u: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        # The same of the upstream gradient, differentiable again.
        return _differences(u, kernel, "zeros"), own_adjoint

    return own_adjoint(u)


def _differences(u: Tensor, kernel: str, padding: str) -> Tensor:
    """The sum over the neighbours of the centre's difference to them."""
    wide = padded(u, padding)
    neighbours = list(windows(u.shape.rank - 2, kernel))
    result = len(neighbours) * u
    for window in neighbours:
        result = result - wide[window]
    return result


def eroded(valid: Tensor, kernel: str) -> Tensor:
    """Where a position and all its neighbours are true; off the edge counts as true."""
    result = valid[..., None]
    axes = valid.shape.rank - 1
    wide = tf.pad(result, [(0, 0), *[(1, 1)] * axes, (0, 0)], constant_values=True)
    for window in windows(axes, kernel):
        result = result & wide[window]
    return result[..., 0]


def windows(axes: int, kernel: str) -> Iterator[tuple[slice, ...]]:
    """The neighbours of every position, as slices of an array that is padded by 1 along its spatial axes."""
    slices = {-1: slice(0, -2), 0: slice(1, -1), 1: slice(2, None)}
    for offset in product(slices, repeat=axes):
        steps = sum(map(abs, offset))
        if steps == 1 or (steps and kernel == "laplacian8"):
            yield (slice(None), *(slices[step] for step in offset), slice(None))


def padded(u: Tensor, padding: str) -> Tensor:
    """`u` with one more position on both sides of every spatial axis."""
    if padding == "zeros":
        return tf.pad(u, [(0, 0), *[(1, 1)] * (u.shape.rank - 2), (0, 0)])
    for axis in range(1, u.shape.rank - 1):
        first, last = cut(u, axis, 0, 1), cut(u, axis, -1, None)
        if padding == "reflect":  # an axis of length 1 has no second position: then its only one
            first = cut(tf.concat([cut(u, axis, 1, 2), first], axis), axis, 0, 1)
            last = cut(tf.concat([last, cut(u, axis, -2, -1)], axis), axis, -1, None)
        u = tf.concat([first, u, last], axis)
    return u


def cut(u: Tensor, axis: int, start: int, stop: int | None) -> Tensor:
    """A slice along one axis."""
    return u[(slice(None),) * axis + (slice(start, stop),)]
