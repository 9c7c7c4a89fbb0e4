"""The terms of docs/numerics/penalties.md, on an input of one channel."""

from __future__ import annotations

from typing import Any

from .arithmetic import asum, chop
from .core import Batch, Term, implements, pointwise
from .regression import sign


@implements("L1")
def l1(options: Any, batch: Batch) -> Term:
    """L1."""
    return _penalty(batch, [abs(w) for (w,) in batch.x], [sign(w) for (w,) in batch.x])


@implements("L2")
def l2(options: Any, batch: Batch) -> Term:
    """L2."""
    return _penalty(batch, [w * w for (w,) in batch.x], [2 * w for (w,) in batch.x])


def _penalty(batch: Batch, p: list[float], g: list[float]) -> Term:
    return Term([chop(asum([v])) for v in p], batch.valid, None, pointwise([[v] for v in g]))
