"""Weights that follow a schedule: a number for every step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, SupportsFloat, SupportsIndex, TypeAlias

from ._validate import float32_number, integer, number, show


class Schedule(ABC):
    """A weight for every step. Immutable, hashable, picklable.

    A schedule takes the place of a term's weight: `Linear(0, 0.5, steps=1000) * term`. Numbers multiply it.
    """

    # NumPy's scalars and arrays leave `*` to this class instead of going through their elements.
    __array_ufunc__ = None

    @abstractmethod
    def at(self, step: int) -> float:
        """The weight at a step, an integer >= 0."""

    @abstractmethod
    def __mul__(self, factor: SupportsFloat | SupportsIndex) -> Schedule:
        """The schedule with every weight multiplied by a number."""


@dataclass(frozen=True)
class Linear(Schedule):
    """From `start` at step 0 to `end` at step `steps`, in a straight line; constant from there on.

    At step n:  start + (end - start) * min(n / steps, 1), in float64, in this order.

    Args:
        start: the weight at step 0, a finite number.
        end: the weight from step `steps` on, a finite number.
        steps: an integer >= 1.
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        """Check and store in one form."""
        object.__setattr__(self, "start", float32_number("start", self.start))
        object.__setattr__(self, "end", float32_number("end", self.end))
        object.__setattr__(self, "steps", integer("steps", self.steps))
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}, expected an integer >= 1")

    def at(self, step: int) -> float:
        """The weight at a step. Magnitudes that float32 has only as subnormals count as 0."""
        n = step_number("step", step)
        if n >= self.steps:
            return self.end
        value = self.start + (self.end - self.start) * (n / self.steps)
        return 0.0 if abs(value) < 2.0**-126 else value

    def __mul__(self, factor: SupportsFloat | SupportsIndex) -> Linear:
        """The schedule with both ends multiplied by a number."""
        if not _is_number(factor):
            return NotImplemented
        scale = float32_number("weight", factor)
        return Linear(scale * self.start, scale * self.end, self.steps)

    __rmul__ = __mul__


Weight: TypeAlias = float | Schedule
"""A term's weight."""

SCHEDULES: Mapping[str, type[Linear]] = {"Linear": Linear}
"""The schedules that JSON knows, by name."""


def step_number(name: str, value: Any) -> int:
    """An integer >= 0: how many steps have been done."""
    result = integer(name, value)
    if result < 0:
        raise ValueError(f"{name}={result}, expected an integer >= 0")
    return result


def check_weight(name: str, value: Any) -> Weight:
    """A schedule, or a float32_number."""
    return value if isinstance(value, Schedule) else float32_number(name, value)


def scaled(factor: Any, weight: Weight) -> Weight:
    """The product of a number or schedule and a weight."""
    if not isinstance(factor, Schedule):
        return weight * float32_number("weight", factor)
    if isinstance(weight, Schedule):
        raise TypeError(f"{factor} times a term of weight {weight}, expected at most one schedule")
    return factor * weight


def weight_to_json(weight: Weight) -> Any:
    """A number, or an object with the schedule's name and arguments."""
    return {"schedule": type(weight).__name__, **asdict(weight)} if isinstance(weight, Linear) else weight


def weight_from_json(value: Any) -> Weight:
    """What `weight_to_json` made."""
    if not isinstance(value, dict):
        return float32_number("weight", value)
    name = value.get("schedule")
    if not isinstance(name, str) or name not in SCHEDULES:
        raise ValueError(f"weight has the schedule {show(name)}, expected one of {', '.join(SCHEDULES)}")
    given = {key: item for key, item in value.items() if key != "schedule"}
    known = [f.name for f in fields(SCHEDULES[name])]
    if sorted(given) != sorted(known):
        raise ValueError(f"weight ({name}) has the keys {show(sorted(given))}, expected {', '.join(known)}")
    return SCHEDULES[name](**given)


def _is_number(value: Any) -> bool:
    try:
        number("weight", value)
    except TypeError:
        return False
    except ValueError:
        pass
    return True
