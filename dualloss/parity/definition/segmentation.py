"""The terms of docs/numerics/segmentation.md."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import product
from typing import Any

import numpy as np

from .core import NAN, Batch, Rows, Softmax, Term, asum, chop, implements, softmax, times

Offset = tuple[int, ...]


def _offsets(kernel: str, axes: int) -> list[Offset]:
    """The stencil's neighbours, in the order in which they are subtracted."""
    if kernel == "laplacian":
        axis_steps = product(range(axes), (-1, 1))
        return [tuple(step if a == axis else 0 for a in range(axes)) for axis, step in axis_steps]
    return [o for o in product((-1, 0, 1), repeat=axes) if any(o)]


def _neighbour(i: int, step: int, size: int, padding: str) -> int | None:
    """The index along one axis that stands for i + step; None is a zero beyond the edge."""
    j = i + step
    if 0 <= j < size:
        return j
    if padding == "zeros":
        return None
    if padding == "replicate":
        return i
    return i - step if size > 1 else i


class _Field:
    """One channel's numbers at the positions of (B, *spatial)."""

    def __init__(self, shape: tuple[int, ...], numbers: Iterable[float]) -> None:
        self.shape = shape
        self.at = dict(zip(np.ndindex(shape), numbers, strict=True))

    def shifted(self, offset: Offset, padding: str) -> _Field:
        """v[o]: what stands at each position's neighbour, one axis after the other."""
        field = self
        for axis, step in enumerate(offset, start=1):
            if step:
                field = field._shifted(axis, step, padding)
        return field

    def _shifted(self, axis: int, step: int, padding: str) -> _Field:
        def number(where: tuple[int, ...]) -> float:
            j = _neighbour(where[axis], step, self.shape[axis], padding)
            return 0.0 if j is None else self.at[(*where[:axis], j, *where[axis + 1 :])]

        return _Field(self.shape, [number(where) for where in self.at])

    def adjoint(self, offset: Offset, padding: str) -> _Field:
        """oᵀY, one axis after the other."""
        field = self
        for axis, step in enumerate(offset, start=1):
            if step:
                field = field._adjoint(axis, step, padding)
        return field

    def _adjoint(self, axis: int, step: int, padding: str) -> _Field:
        size = self.shape[axis]
        edge = 0 if step == -1 else size - 1  # the position whose neighbour is beyond the edge
        if padding == "replicate":
            onto: int | None = edge
        elif padding == "reflect":
            onto = min(1, size - 1) if step == -1 else max(size - 2, 0)
        else:
            onto = None

        def number(where: tuple[int, ...]) -> float:
            def along(j: int) -> float:
                return self.at[(*where[:axis], j, *where[axis + 1 :])]

            j = where[axis]
            plain = along(j - step) if 0 <= j - step < size else 0.0
            return plain + along(edge) if j == onto else plain

        return _Field(self.shape, [number(where) for where in self.at])


@implements("Boundary")
def boundary(options: Any, batch: Batch) -> Term:
    """docs/numerics/segmentation.md, Boundary."""
    shape, channels, padding = batch.shape, batch.channels, options.padding
    axes = len(shape) - 1
    if not 1 <= axes <= 3:
        raise ValueError(f"Boundary needs 1 to 3 spatial axes, x has {axes}")
    offsets = _offsets(options.kernel, axes)
    kappa = len(offsets)
    inverse = 1 / channels

    on_logits = options.on == "logits"
    soft = [] if on_logits else [softmax(x) for x in batch.x]

    def chain(center: _Field, others: list[_Field]) -> list[float]:
        """κ * center minus the others, left to right."""
        result = []
        for where, v in center.at.items():
            total = kappa * v
            for other in others:
                total = total - other.at[where]
            result.append(total)
        return result

    def stencil(v: _Field) -> list[float]:
        """K(v)."""
        return chain(v, [v.shifted(o, padding) for o in offsets])

    def apart(s: Softmax | None, t: float, c: int) -> float:
        """chop(u), u being p - t."""
        if s is None:
            return NAN
        p, r = s.p[c], s.rest[c]
        return chop((1 - t) - r if p > r else p - t)

    responses = []  # D, by channel
    for c in range(channels):
        if on_logits:
            of_x = stencil(_Field(shape, [xi[c] for xi in batch.x]))
            of_t = stencil(_Field(shape, [ti[c] for ti in batch.t]))
            responses.append([kx - kt for kx, kt in zip(of_x, of_t, strict=True)])
        else:
            u = [apart(s, ti[c], c) for s, ti in zip(soft, batch.t, strict=True)]
            responses.append(stencil(_Field(shape, u)))
    values = [times(inverse, asum([d[i] * d[i] for d in responses])) for i in range(batch.n)]

    valid = _Field(shape, [float(v) for v in batch.valid])
    # Beyond the edge counts as valid: ask whether an invalid position is among the offsets, with zeros there.
    invalid = _Field(shape, [1 - v for v in valid.at.values()])
    touched = [invalid.shifted(o, "zeros") for o in offsets]
    counts = [bool(v) and not any(o.at[where] for o in touched) for where, v in valid.at.items()]

    def gradient(c: list[float]) -> Rows:
        by_channel = []
        for d in responses:
            y = _Field(shape, [0.0 if ci == 0 else times(ci, 2 * di) for ci, di in zip(c, d, strict=True)])
            by_channel.append(chain(y, [y.adjoint(o, padding) for o in offsets]))
        rows = [[g[i] for g in by_channel] for i in range(batch.n)]
        if on_logits:
            return rows
        result = []
        for s, row in zip(soft, rows, strict=True):
            if all(gc == 0 for gc in row):
                result.append([0.0] * channels)
            elif s is None or any(math.isnan(gc) for gc in row):
                result.append([NAN] * channels)
            else:
                shift = max(gc for gc, dc in zip(row, s.d, strict=True) if dc == 0)
                h = [gc - shift for gc in row]
                q = [chop(pc) for pc in s.p]
                total = asum([qc * hc for qc, hc in zip(q, h, strict=True)])
                result.append([times(qc, hc - total) for qc, hc in zip(q, h, strict=True)])
        return result

    return Term(values, counts, float(sum(counts)), True, gradient)
