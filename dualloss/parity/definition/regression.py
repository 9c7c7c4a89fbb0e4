"""The terms of docs/numerics/regression.md."""

from __future__ import annotations

from typing import Any

from .core import Batch, Term, each_channel, float32, implements


@implements("MeanSquaredError")
def mean_squared_error(options: Any, batch: Batch) -> Term:
    """docs/numerics/regression.md, MeanSquaredError."""

    def one(channel: int, x: float, t: float) -> tuple[tuple[float, ...], float]:
        d = x - t
        return (d * d,), 2 * d

    return each_channel(batch, one)


@implements("Huber")
def huber(options: Any, batch: Batch) -> Term:
    """docs/numerics/regression.md, Huber."""
    delta = float32(options.delta)

    def one(channel: int, x: float, t: float) -> tuple[tuple[float, ...], float]:
        d = x - t
        a = abs(d)
        p = (d * d) * 0.5 if a <= delta else delta * (a - delta * 0.5)
        return (p,), delta if d > delta else -delta if d < -delta else d

    return each_channel(batch, one)
