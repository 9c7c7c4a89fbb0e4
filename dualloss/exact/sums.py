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
_MAGNITUDE = (1 << 63) - 1
_DIGIT = (1 << 32) - 1


def channel_sum(ops: Ops, parts: Sequence[Array], axis: int) -> Array:
    """``asum``: the sum along ``axis`` of one or more arrays, in any order (section 1.4)."""
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
    assert result is not None
    return result * down


def state(ops: Ops, v: Array) -> Array:
    """The states of ``exact_sum`` over all axes of ``v`` but the first: int64 (rows, STATE). States add."""
    finite = ops.abs(v) < 2.0**128
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
    return ops.stack([*reversed(limbs), *(ops.count(flag) for flag in flags)], -1)


def count_state(ops: Ops, count: Array) -> Array:
    """The states of sums of ``count`` ones, for int64 counts (rows,)."""
    zero = count * 0
    return ops.stack([count if limb == _ONES else zero for limb in range(STATE)], -1)


def carried(ops: Ops, states: Array) -> Array:
    """The same sums in limbs that leave the headroom free for as many values again."""
    last = len(states.shape) - 1
    limbs = states[..., :LIMBS]
    none = ops.zeros_like(limbs[..., :1])
    top = ops.iota(LIMBS, limbs, last) == LIMBS - 1
    for _ in range(LIMBS - 1):
        carry = ops.where(top, 0, ops.shr(limbs, 32))
        limbs = ops.where(top, limbs, ops.band(limbs, _DIGIT))
        limbs = limbs + ops.concat([none, carry[..., :-1]], last)
    return ops.concat([limbs, states[..., LIMBS:]], last)


def to_float(ops: Ops, states: Array) -> Array:
    """The exact sums of states (..., STATE), each rounded once to float64, ties to even."""
    if hasattr(ops, "rounded_sums"):
        return ops.rounded_sums(states)
    limbs = states[..., :LIMBS]
    last = len(states.shape) - 1
    digits = _digits(ops, ops.stack([limbs, 0 - limbs], 0))
    negative = digits[0][..., -1:] < 0
    digits = ops.where(negative, digits[1], digits[0])
    # The leading digit that is not 0, the two after it, and whether anything follows.
    index = ops.iota(LIMBS + 1, digits, last)
    place = ops.amax(ops.where(digits > 0, index, 0), last)
    high, middle, low = (ops.isum_int(ops.where(index == place - back, digits, 0), last) for back in range(3))
    below = ops.both(index < place - 2, digits > 0)
    sticky = ops.amax(ops.where(below, ops.ones_like(digits), 0), last)
    # Two exact float64 numbers whose one addition rounds: 53 leading bits, then 43 and the sticky one.
    head = ops.to_float(ops.shl(high, 21) + ops.shr(middle, 11))
    tail = ops.shl(ops.band(middle, 2047), 32) + low
    tail = ops.to_float(tail + ops.where(ops.band(tail, 1) > 0, 0, sticky))
    scale = ops.value(ops.shl(place * 32 + (1023 - 64 - UNIT), 52))
    size = (head * 2.0**43 + tail) * scale
    result = ops.where(negative, 0.0 - size, size)[..., 0]
    infinite, minus, nan = (states[..., LIMBS + flag] > 0 for flag in range(3))
    result = ops.where(infinite, float("inf"), result)
    result = ops.where(minus, ops.where(infinite, float("nan"), float("-inf")), result)
    return ops.where(nan, float("nan"), result)


def _digits(ops: Ops, limbs: Array) -> Array:
    """Base 2^32 digits, lowest first and one more than limbs, all but the last from 0 to 2^32 - 1."""
    last = len(limbs.shape) - 1
    none = ops.zeros_like(limbs[..., :1])
    digits = ops.concat([limbs, none], last)
    top = ops.iota(LIMBS + 1, digits, last) == LIMBS
    for _ in range(LIMBS):  # a carry travels at most from the first limb to the last
        carry = ops.where(top, 0, ops.shr(digits, 32))
        digits = ops.where(top, digits, ops.band(digits, _DIGIT))
        digits = digits + ops.concat([none, carry[..., :-1]], last)
    return digits
