"""Neighbours of a position, along the spatial axes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def laplacian(u: Tensor, kernel: str, padding: str) -> Tensor:
    """Minus the Laplacian along the spatial axes."""
    if padding == "zeros":
        return _ZeroPadded.apply(u, kernel)
    return _differences(u, kernel, padding)


class _ZeroPadded(torch.autograd.Function):
    """With zeros off the edge the Laplacian is its own adjoint: cheaper than the gradients of slices."""

    @staticmethod
    def forward(u: Tensor, kernel: str) -> Tensor:
        """Minus the Laplacian."""
        return _differences(u, kernel, "zeros")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, str], output: Tensor) -> None:
        """Keep the name of the kernel."""
        ctx.kernel = inputs[1]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        """The same of the upstream gradient, differentiable again."""
        return _ZeroPadded.apply(upstream, ctx.kernel), None


def _differences(u: Tensor, kernel: str, padding: str) -> Tensor:
    """The sum over the neighbours of the centre's difference to them."""
    wide = padded(u, padding)
    neighbours = list(windows(u.ndim - 2, kernel))
    result = len(neighbours) * u
    for window in neighbours:
        result = result - wide[window]
    return result


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
        if steps == 1 or (steps and kernel == "laplacian8"):
            yield (slice(None), slice(None), *(slices[step] for step in offset))


def padded(u: Tensor, padding: str) -> Tensor:
    """`u` with one more position on both sides of every spatial axis."""
    if padding == "zeros":
        return F.pad(u, [1, 1] * (u.ndim - 2))
    for axis in range(2, u.ndim):
        first, last = cut(u, axis, 0, 1), cut(u, axis, -1, None)
        if padding == "reflect":  # an axis of length 1 has no second position: then its only one
            first = cut(torch.cat([cut(u, axis, 1, 2), first], axis), axis, 0, 1)
            last = cut(torch.cat([last, cut(u, axis, -2, -1)], axis), axis, -1, None)
        u = torch.cat([first, u, last], axis)
    return u


def cut(u: Tensor, axis: int, start: int, stop: int | None) -> Tensor:
    """A slice along one axis."""
    return u[(slice(None),) * axis + (slice(start, stop),)]
