"""How fast a difference grows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .matching import Array, fit_line


@dataclass(frozen=True)
class Growth:
    """How the difference of a quantity grows.

    Attributes:
        first, last: the relative differences at the first and the last common step that have it.
        doubling: in how many steps it doubles, by a straight line through its logarithm; None: it does not grow, or
            there are fewer than three steps with a difference.
        shape: "exponential", as rounding grows in a training; "power": as a constant difference of every update adds
            up; None as for ``doubling``.
    """

    first: float
    last: float
    doubling: float | None
    shape: str | None


def grow(row: dict[int, float]) -> Growth:
    """The growth of relative differences by step."""
    numbers = sorted(row)
    points = [(n, row[n]) for n in numbers if 0 < row[n] < math.inf]
    first, last = row[numbers[0]], row[numbers[-1]]
    if len(points) < 3:
        return Growth(first, last, None, None)
    steps = np.array([n for n, _ in points], np.float64)
    logs = np.log2([value for _, value in points])
    slope, rest = _fit(steps, logs)
    _, rest_power = _fit(np.log2(steps - steps[0] + 1), logs)
    spread = float(((logs - logs.mean()) ** 2).sum())
    if logs[-1] < logs[0] + 1 or min(rest, rest_power) > 0.2 * spread:  # not even doubled, or by leaps
        return Growth(first, last, None, None)
    return Growth(first, last, 1 / slope, "exponential" if rest <= rest_power else "power")


def _fit(x: Array, y: Array) -> tuple[float, float]:
    slope, shift = fit_line(x, y)
    return slope, float(((slope * x + shift - y) ** 2).sum())


def growth_text(growth: Growth) -> str:
    """The growth in words."""
    text = f"{growth.first:.2g} at first, {growth.last:.2g} at last"
    if growth.doubling is None:
        return text
    return text + f"; doubles in {growth.doubling:.3g} steps" + (
        ", exponentially" if growth.shape == "exponential" else " on average, more slowly each time"
    )  # fmt: skip
