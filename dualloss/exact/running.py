"""A term's value over many batches: the sums of each added up, in a state that no number of batches overflows."""

from __future__ import annotations

from . import functions, sums
from .ops import Array, Ops


def added(ops: Ops, state: Array, more: Array) -> Array:
    """Two states (..., STATE) as one."""
    return sums.carried(ops, sums.carried(ops, state) + sums.carried(ops, more))


def of_value(ops: Ops, value: Array) -> Array:
    """The state (2, STATE) of one batch of a term whose sums do not add: its float32 value, and 1 batch."""
    wide = ops.stack([ops.stack([functions.load(ops, value)], 0)], 0)
    one = ops.count(ops.zeros_like(wide) == 0.0)
    return ops.concat([sums.state(ops, wide), sums.count_state(ops, one)], 0)


def value(ops: Ops, state: Array, reduction: str) -> Array:
    """The mean of such a term over its batches, or for the reduction "sum" their sum, float32; 0 of no batch."""
    totals = sums.to_float(ops, state[:2])
    result = totals[0]
    if reduction == "mean":
        result = ops.where(totals[1] == 0.0, 0.0, totals[0] / totals[1])
    return ops.store(ops.float32(result), "float32")
