"""Checks of options. Each takes the argument's name and its value and returns the value to store.

A wrong kind of value is a TypeError, a wrong value a ValueError; both name the argument, what came and what
is expected. Scalars and arrays of NumPy, PyTorch and TensorFlow work through iteration, `item()` and
`float()`, so nothing has to be imported for them.
"""

from __future__ import annotations

import math
import operator
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

Check = Callable[[str, Any], Any]

SMALLEST = 2.0**-126
"""The smallest normal float32; the exact numerics flush what is smaller to 0."""
OVERFLOW = (2.0 - 2.0**-24) * 2.0**127
"""From here on, rounding to float32 gives an infinity."""


def show(value: object) -> str:
    """A short repr for messages, whatever came."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python refuses to print an integer of thousands of digits
        return f"<{type(value).__name__} too long to print>"


def number(name: str, value: Any) -> float:
    """A finite real number; a bool is none."""
    scalar = _python_scalar(value)
    is_number = hasattr(scalar, "__float__") and not isinstance(scalar, bool) and not _is_array(scalar)
    try:
        result = float(scalar) if is_number else None
    except OverflowError:
        result = math.inf
    except (TypeError, ValueError):
        result = None
    if result is None:
        raise TypeError(f"{name}={show(value)}, expected a real number")
    if not math.isfinite(result):
        raise ValueError(f"{name}={show(value)}, expected a finite number")
    return result + 0.0  # -0.0 becomes 0.0: equal specs also print alike


def float32_number(name: str, value: Any) -> float:
    """A finite number that does not vanish or overflow when the exact numerics round it to float32."""
    result = number(name, value)
    if result != 0 and not SMALLEST <= abs(result) < OVERFLOW:
        raise ValueError(f"{name}={show(value)}, expected 0 or a magnitude from 1.18e-38 to 3.4e38 (normal float32)")
    return result


def not_negative(name: str, value: Any) -> float:
    """A float32_number that is 0 or more."""
    result = float32_number(name, value)
    if result < 0:
        raise ValueError(f"{name}={show(value)}, expected a number >= 0")
    return result


def positive(name: str, value: Any) -> float:
    """A float32_number above 0."""
    result = float32_number(name, value)
    if result <= 0:
        raise ValueError(f"{name}={show(value)}, expected a number > 0")
    return result


def fraction(name: str, value: Any) -> float:
    """A number from 0 to 1."""
    result = number(name, value)
    if not 0 <= result <= 1:
        raise ValueError(f"{name}={show(value)}, expected a number from 0 to 1")
    return result


def open_fraction(name: str, value: Any) -> float:
    """A float32_number above 0 and below 1."""
    result = float32_number(name, value)
    if not 0 < result < 1:
        raise ValueError(f"{name}={show(value)}, expected a number above 0 and below 1")
    return result


def clip_margin(name: str, value: Any) -> float:
    """How far probabilities stay from 0 and 1: below 1/2, and so far that 1 less it is not 1 in float32."""
    result = float32_number(name, value)
    if not 3e-8 <= result < 0.5:
        raise ValueError(f"{name}={show(value)}, expected a number from 3e-8, and below 0.5")
    return result


def boolean(name: str, value: Any) -> bool:
    """True or False; no number."""
    scalar = _python_scalar(value)
    if not isinstance(scalar, bool):
        raise TypeError(f"{name}={show(value)}, expected True or False")
    return scalar


def odd(name: str, value: Any) -> int:
    """An odd integer from 1 to 99."""
    result = integer(name, value)
    if not (1 <= result < 100 and result % 2):
        raise ValueError(f"{name}={show(value)}, expected an odd integer from 1 to 99")
    return result


def indices(name: str, value: Any) -> tuple[int, ...]:
    """A sequence of at least one integer >= 0, none twice; kept in increasing order."""
    unordered = isinstance(value, Mapping | Set | str | bytes | bytearray)
    if unordered or not isinstance(value, Iterable) or _is_array_scalar(value):
        raise TypeError(f"{name}={show(value)}, expected a sequence of class indices")
    result = tuple(integer(f"{name}[{i}]", item) for i, item in enumerate(value))
    if not result or min(result) < 0 or len(set(result)) < len(result):
        raise ValueError(f"{name}={show(value)}, expected at least one class index >= 0, and none twice")
    return tuple(sorted(result))


def integer(name: str, value: Any) -> int:
    """An integer that fits 64 bits; a bool or a float is none."""
    scalar = _python_scalar(value)
    try:
        result = None if isinstance(scalar, bool) else operator.index(scalar)
    except TypeError:
        result = None
    if result is None:
        raise TypeError(f"{name}={show(value)}, expected an integer")
    if not -(2**63) < result < 2**63 - 1:  # the ends stand for labels that are no class
        raise ValueError(f"{name}={show(value)}, expected an integer of 64 bits")
    return result


def not_negatives(name: str, value: Any) -> tuple[float, ...]:
    """A sequence of at least one number, each not_negative."""
    # A dict (of class to weight) would iterate over its keys, a set in any order, bytes over integers.
    unordered = isinstance(value, Mapping | Set | str | bytes | bytearray)
    if unordered or not isinstance(value, Iterable) or _is_array_scalar(value):
        raise TypeError(f"{name}={show(value)}, expected a sequence of numbers")
    result = tuple(not_negative(f"{name}[{i}]", item) for i, item in enumerate(value))
    if not result:
        raise ValueError(f"{name}={show(value)}, expected at least one number")
    return result


def not_negative_or_several(name: str, value: Any) -> float | tuple[float, ...]:
    """A number or a sequence of numbers, each not_negative."""
    several = isinstance(value, Iterable) and not _is_array_scalar(value)
    return not_negatives(name, value) if several else not_negative(name, value)


def optional(check: Check) -> Check:
    """None, or what `check` takes."""
    return lambda name, value: None if value is None else check(name, value)


def choice(*names: str) -> Check:
    """One of these strings."""

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in names:
            raise ValueError(f"{name}={show(value)}, expected one of {', '.join(map(repr, names))}")
        return str(value)

    return check


def _python_scalar(value: Any) -> Any:
    return value.item() if _is_array_scalar(value) and hasattr(value, "item") else value


def _is_array(value: Any) -> bool:
    shape = getattr(value, "shape", None)
    return shape is not None and len(shape) > 0


def _is_array_scalar(value: Any) -> bool:
    shape = getattr(value, "shape", None)
    return shape is not None and len(shape) == 0


def check_length(name: str, values: Sequence[float] | None, channels: int) -> None:
    """Raise ValueError unless there is one value for each channel (None: there need be none)."""
    if values is not None and len(values) != channels:
        raise ValueError(f"{name} has {len(values)} values, expected {channels}, one for each channel of the input")
