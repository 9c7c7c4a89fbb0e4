"""Sums without an order (docs/numerics.md, sections 1.4 and 1.5)."""

from __future__ import annotations

from collections.abc import Sequence

from .ops import Array, Ops

LIMBS = 9
STATE = LIMBS + 3
"""Length of a state: the limbs, then the counts of +inf, -inf and NaN."""
UNIT = 160
"""The lowest limb counts units of ``2^-UNIT``."""
_ONES = UNIT // 32
"""The limb that counts units of 1."""
_INFINITY = 0x7FF << 52
_MAGNITUDE = (1 << 63) - 1
_DIGIT = (1 << 32) - 1


def channel_sum(ops: Ops, parts: Sequence[Array], axis: int) -> Array:
    """``asum``: the sum along ``axis`` of one or more arrays, in any order, to about 2^-(51 - log2 m) of the largest."""
    count = sum(int(part.shape[axis]) for part in parts)
    digits = count.bit_length()
    largest = None
    for part in parts:
        here = ops.amax(ops.band(ops.bits(part), _MAGNITUDE), axis)
        largest = here if largest is None else ops.larger(largest, here)
    exponent = ops.shr(largest, 52)
    exponent = ops.where(exponent < 423, 423, exponent)  # 423 is 2^-600: far below any product of two inputs
    up = ops.value(ops.shl((2097 - digits) - exponent, 52))
    down = ops.value(ops.shl(exponent + (digits - 51), 52))
    result = None
    for part in parts:
        here = ops.isum(ops.rint(part * up), axis)
        result = here if result is None else result + here
    assert result is not None and largest is not None
    special = ops.where(largest > _INFINITY, float("nan"), float("inf"))
    return ops.where(largest >= _INFINITY, special, result * down)


def state(ops: Ops, v: Array) -> Array:
    """The state of ``exact_sum`` over all elements of ``v``: int64 of shape (STATE,). States add."""
    size = ops.abs(v)
    finite = size < 2.0**128
    rest = ops.where(finite, v, 0.0)
    limbs = []
    for limb in reversed(range(LIMBS)):
        unit = 2.0 ** (32 * limb - UNIT)
        digit = ops.trunc(rest * (1 / unit))
        rest = rest - digit * unit  # exact: the digit is a leading part of rest
        limbs.append(ops.total(ops.to_int(digit)))
    nan = ops.isnan(v)
    large = ops.both(ops.invert(finite), ops.invert(nan))
    flags = (ops.both(large, v > 0.0), ops.both(large, v < 0.0), nan)
    return ops.stack([*reversed(limbs), *(ops.count(flag) for flag in flags)])


def count_state(ops: Ops, count: Array) -> Array:
    """The state of a sum of ``count`` ones, ``count`` an int64 scalar."""
    zero = count * 0
    return ops.stack([count if limb == _ONES else zero for limb in range(STATE)])


def to_float(ops: Ops, states: Array) -> Array:
    """The exact sums of states (..., STATE), each rounded once to float64, ties to even."""
    columns = [states[..., limb] for limb in range(STATE)]
    digits, negative = _digits(ops, columns[:LIMBS])
    high = middle = low = sticky = below = place = columns[0] * 0
    for index, digit in enumerate(digits):
        found = digit > 0
        place = ops.where(found, index, place)
        high = ops.where(found, digit, high)
        middle = ops.where(found, digits[index - 1] if index > 0 else 0, middle)
        low = ops.where(found, digits[index - 2] if index > 1 else 0, low)
        sticky = ops.where(found, below, sticky)
        if index > 1:
            below = ops.larger(below, ops.where(digits[index - 2] > 0, 1, 0 * place))
    # Two exact float64 numbers whose one addition rounds: 53 leading bits, then 43 and whether anything follows.
    head = ops.to_float(ops.shl(high, 21) + ops.shr(middle, 11))
    tail = ops.shl(ops.band(middle, 2047), 32) + low
    tail = ops.to_float(tail + ops.where(ops.band(tail, 1) > 0, 0 * sticky, sticky))
    scale = ops.value(ops.shl(place * 32 + (1023 - 64 - UNIT), 52))
    result = (head * 2.0**43 + tail) * scale
    result = ops.where(negative, 0.0 - result, result)
    infinite, minus, nan = (column > 0 for column in columns[LIMBS:])
    result = ops.where(infinite, float("inf"), result)
    result = ops.where(minus, ops.where(infinite, float("nan"), float("-inf")), result)
    return ops.where(nan, float("nan"), result)


def _digits(ops: Ops, limbs: Sequence[Array]) -> tuple[list[Array], Array]:
    """The magnitude in base 2^32, lowest digit first, and where the sum is negative."""
    carried = []
    for sign in (1, -1):
        digits, carry = [], limbs[0] * 0
        for limb in limbs:
            carry = limb * sign + carry
            digits.append(ops.band(carry, _DIGIT))
            carry = ops.shr(carry, 32)
        carried.append([*digits, carry])
    negative = carried[0][-1] < 0
    return [ops.where(negative, minus, plus) for plus, minus in zip(*carried, strict=True)], negative
