"""Cross-entropies (docs/numerics/classification.md)."""

from __future__ import annotations

from ..spec import BinaryCrossEntropy, CrossEntropy
from . import functions, sums
from .constants import float32
from .ops import Array, Ops
from .terms import Inputs, Result, implements, per_channel, scaled


def _smoothed(ops: Ops, t: Array, smoothing: float, shares: int) -> Array:
    """``(1 - smoothing) t + smoothing / shares``, chopped, so that no compiler regroups what is done with it."""
    if not smoothing:
        return t
    return functions.chop(ops, t * float32(1.0 - smoothing) + float32(smoothing / shares))


@implements(CrossEntropy)
def cross_entropy(term: CrossEntropy, inputs: Inputs) -> Result:
    """``-sum_c w_c t'_c log p_c``, gradient ``p sum_c(w_c t'_c) - w t'`` without cancellation."""
    ops, axis, soft = inputs.ops, inputs.axis, inputs.softmax
    u = _smoothed(ops, inputs.t, term.label_smoothing, inputs.channels)
    weights = None
    if term.class_weights is not None:
        w = inputs.per_channel([float32(weight) for weight in term.class_weights])
        u = functions.times(ops, w, u)
        if term.normalizer == "weights":
            weights = sums.channel_sum(ops, [functions.times(ops, w, inputs.t)], axis)
    # A class without target counts nothing, even where its probability is 0.
    products = ops.where(u == 0.0, 0.0, u * (soft.log_sum - soft.d))
    value = functions.chop(ops, sums.channel_sum(ops, [products], axis))
    value = ops.where(ops.isnan(soft.log_sum), float("nan"), value)
    mass = sums.channel_sum(ops, [u], axis)

    def gradient(c: Array) -> Array:
        return scaled(ops, c, functions.times(ops, soft.p, mass - u) - functions.times(ops, u, soft.rest))

    return Result(value, inputs.valid, 1.0, gradient, weights)


@implements(BinaryCrossEntropy)
def binary_cross_entropy(term: BinaryCrossEntropy, inputs: Inputs) -> Result:
    """``-(pi t' log sigmoid(x) + (1 - t') log sigmoid(-x))``, the mean over channels."""
    ops, x = inputs.ops, inputs.x
    t = _smoothed(ops, inputs.t, term.label_smoothing, 2)
    positive = t
    if term.pos_weight is not None:
        given = term.pos_weight
        weights = [given] * inputs.channels if isinstance(given, float) else given
        positive = functions.times(ops, inputs.per_channel([float32(weight) for weight in weights]), t)
    negative = 1.0 - t
    v = functions.exp(ops, 0.0 - ops.abs(x))
    tail = functions.log1p(ops, v)
    near, far = 1.0 / (v + 1.0), v / (v + 1.0)
    up = x >= 0.0
    nan = ops.isnan(x)
    # -log sigmoid(x) and -log sigmoid(-x); a side without target counts nothing, even at infinity.
    plus = ops.where(positive == 0.0, 0.0, positive * (ops.where(x < 0.0, 0.0 - x, 0.0) + tail))
    minus = ops.where(negative == 0.0, 0.0, negative * (ops.where(x > 0.0, x, 0.0) + tail))
    plus = ops.where(nan, float("nan"), plus)

    def gradient() -> Array:
        pull = functions.times(ops, negative, ops.where(up, near, far))
        push = functions.times(ops, positive, ops.where(up, far, near))
        return ops.where(nan, float("nan"), pull - push)

    return per_channel(term, inputs, [plus, minus], gradient)
