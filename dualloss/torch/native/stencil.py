"""Neighbours of a position, along the spatial axes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def laplacian(u: Tensor, kernel: str, padding: str) -> Tensor:
    """Minus the Laplacian along the spatial axes."""
    if padding == "zeros":
        return _OwnAdjoint.apply(u, kernel)
    return _differences(u, kernel, padding)


def sobel(u: Tensor, axis: int, padding: str) -> Tensor:
    """The difference of both neighbours along a spatial axis, smoothed by 1 2 1 along the others."""
    for other in range(2, u.ndim):
        if other != axis:
            wide = padded(u, [other], padding)
            u = cut(wide, other, 0, -2) + 2 * u + cut(wide, other, 2, None)
    wide = padded(u, [axis], padding)
    return cut(wide, axis, 2, None) - cut(wide, axis, 0, -2)


def blurred(u: Tensor, weights: tuple[float, ...]) -> Tensor:
    """The sum over a symmetric window along every spatial axis; zeros off the edge."""
    return _OwnAdjoint.apply(u, weights)


class _OwnAdjoint(torch.autograd.Function):
    """Symmetric stencils with zeros off the edge are their own adjoints: cheaper than the gradients of slices."""

    @staticmethod
    def forward(u: Tensor, kernel: str | tuple[float, ...]) -> Tensor:
        """Minus the Laplacian of this name, or a window's weighted sums."""
        return _differences(u, kernel, "zeros") if isinstance(kernel, str) else _weighted_sums(u, kernel)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, str | tuple[float, ...]], output: Tensor) -> None:
        """Keep the kernel."""
        ctx.kernel = inputs[1]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        """The same of the upstream gradient, differentiable again."""
        return _OwnAdjoint.apply(upstream, ctx.kernel), None


def _differences(u: Tensor, kernel: str, padding: str) -> Tensor:
    """The sum over the neighbours of the centre's difference to them."""
    wide = padded(u, range(2, u.ndim), padding)
    neighbours = list(windows(u.ndim - 2, kernel))
    result = len(neighbours) * u
    for window in neighbours:
        result = result - wide[window]
    return result


def _weighted_sums(u: Tensor, weights: tuple[float, ...]) -> Tensor:
    """Along one axis after the other; slices, not a convolution: those may compute in TF32."""
    last = len(weights) - 1
    for axis in range(2, u.ndim):
        wide = padded(u, [axis], "zeros", last // 2)
        u = weights[0] * cut(wide, axis, 0, -last or None)
        for j in range(1, last + 1):
            u = u + weights[j] * cut(wide, axis, j, j - last or None)
    return u


def eroded(valid: Tensor, kernel: str) -> Tensor:
    """Where a position and all its neighbours are true; off the edge counts as true."""
    result = valid.unsqueeze(1)
    wide = F.pad(result, [1, 1] * (valid.ndim - 1), value=True)
    for window in windows(valid.ndim - 1, kernel):
        result = result & wide[window]
    return result.squeeze(1)


def windows(axes: int, kernel: str) -> Iterator[tuple[slice, ...]]:
    """The neighbours of every position, as slices of an array that is padded by 1 along its spatial axes."""
    slices = {-1: slice(0, -2), 0: slice(1, -1), 1: slice(2, None)}
    for offset in product(slices, repeat=axes):
        steps = sum(map(abs, offset))
        if steps == 1 or (steps and kernel != "laplacian"):
            yield (slice(None), slice(None), *(slices[step] for step in offset))


def window_eroded(valid: Tensor, reach: int, edge: bool) -> Tensor:
    """Where all positions up to `reach` away along every axis are true; off the edge counts as `edge`."""
    for axis in range(1, valid.ndim):
        wide = F.pad(valid, [0, 0] * (valid.ndim - 1 - axis) + [reach, reach], value=edge)
        for j in range(2 * reach + 1):
            valid = valid & cut(wide, axis, j, j - 2 * reach or None)
    return valid


def padded(u: Tensor, axes: Sequence[int], padding: str, reach: int = 1) -> Tensor:
    """`u` with more positions on both sides of these axes: `reach` zeros, or one of another kind."""
    if padding == "zeros":
        return F.pad(u, [reach if axis in axes else 0 for axis in reversed(range(u.ndim)) for _ in range(2)])
    for axis in axes:
        first, last = cut(u, axis, 0, 1), cut(u, axis, -1, None)
        if padding == "reflect":  # an axis of length 1 has no second position: then its only one
            first = cut(torch.cat([cut(u, axis, 1, 2), first], axis), axis, 0, 1)
            last = cut(torch.cat([last, cut(u, axis, -2, -1)], axis), axis, -1, None)
        u = torch.cat([first, u, last], axis)
    return u


def cut(u: Tensor, axis: int, start: int, stop: int | None) -> Tensor:
    """A slice along one axis."""
    return u[(slice(None),) * axis + (slice(start, stop),)]
