"""Numbers on a grid of positions, and their neighbours: docs/numerics/segmentation.md, Boundary."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product

import numpy as np

Offset = tuple[int, ...]


class Field:
    """One channel's numbers at the positions of (B, *spatial)."""

    def __init__(self, shape: tuple[int, ...], numbers: Iterable[float]) -> None:
        self.shape = shape
        self.at = dict(zip(np.ndindex(shape), numbers, strict=True))

    @property
    def numbers(self) -> list[float]:
        """In C order."""
        return list(self.at.values())

    def combined(self, function: Callable[..., float], *others: Field) -> Field:
        """The function of the numbers of all fields, position by position."""
        return Field(self.shape, map(function, self.numbers, *(other.numbers for other in others)))

    def shifted(self, offset: Offset, padding: str) -> Field:
        """v[o]: what stands at each position's neighbour, one axis after the other."""
        field = self
        for axis, step in enumerate(offset, start=1):
            if step:
                field = field.shifted_along(axis, step, padding)
        return field

    def shifted_along(self, axis: int, step: int, padding: str) -> Field:
        """The same along one axis (of any step if the padding is zeros)."""

        def number(where: tuple[int, ...]) -> float:
            j = _neighbour(where[axis], step, self.shape[axis], padding)
            return 0.0 if j is None else self.at[(*where[:axis], j, *where[axis + 1 :])]

        return Field(self.shape, [number(where) for where in self.at])

    def adjoint(self, offset: Offset, padding: str) -> Field:
        """oᵀY, one axis after the other."""
        field = self
        for axis, step in enumerate(offset, start=1):
            if step:
                field = field.adjoint_along(axis, step, padding)
        return field

    def adjoint_along(self, axis: int, step: int, padding: str) -> Field:
        """The same along one axis."""
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

        return Field(self.shape, [number(where) for where in self.at])


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


def nearest_neighbours(axes: int) -> list[Offset]:
    """Offsets of "laplacian"."""
    return [tuple(step if a == axis else 0 for a in range(axes)) for axis, step in product(range(axes), (-1, 1))]


def all_neighbours(axes: int) -> list[Offset]:
    """Offsets of "laplacian8"."""
    return [o for o in product((-1, 0, 1), repeat=axes) if any(o)]
