"""Penalties on the weights of a model (docs/numerics/penalties.md): the input is an array of any shape."""

from __future__ import annotations

from ..spec import L1, L2, Penalty
from . import functions
from .ops import Array, Ops
from .terms import Inputs, Totals, implements, scaled


def _value(ops: Ops, term: Penalty, totals: Array, reduction: str) -> Array:
    return totals[0]


@implements(L1, _value)
def l1(term: L1, inputs: Inputs) -> Totals:
    """``|w|``."""
    ops, w = inputs.ops, inputs.x
    sign = ops.where(w > 0.0, 1.0, ops.where(w < 0.0, -1.0, w))  # NaN stays NaN
    return Totals(ops.stack([ops.abs(w)], 0), lambda totals, c, reduction: scaled(ops, c, sign))


@implements(L2, _value)
def l2(term: L2, inputs: Inputs) -> Totals:
    """``w^2``."""
    ops, w = inputs.ops, inputs.x
    return Totals(ops.stack([functions.times(ops, w, w)], 0), lambda totals, c, reduction: scaled(ops, c, w * 2.0))
