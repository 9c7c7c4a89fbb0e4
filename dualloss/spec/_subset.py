"""Some terms of a sum."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ._base import Spec, Term
from ._schedules import Weight


@dataclass(frozen=True)
class Subset(Spec):
    """Some terms of a sum, each of weight 1, with the label that the whole sum ignores. No file holds one."""

    parts: tuple[tuple[Weight, Term], ...] = ()
    ignore_index: int | None = None

    @staticmethod
    def of(spec: Spec, places: Iterable[int]) -> Subset:
        """The terms at these places."""
        return Subset(tuple((1.0, spec.parts[k][1]) for k in places), spec.ignore_index)
