"""Terms for which every channel is a question of its own (docs/numerics/classification.md)."""

from __future__ import annotations

from ..spec import BinaryCrossEntropy, BinaryFocal, Hinge, SquaredHinge
from . import functions
from .constants import float32
from .ops import Array, Ops
from .probabilities import NAN, Clipped, constants, nan_in_either, smoothed, unless_empty
from .terms import Inputs, Result, implements, per_channel


@implements(BinaryCrossEntropy)
def binary_cross_entropy(term: BinaryCrossEntropy, inputs: Inputs) -> Result:
    """``-w (pi t' log p + (1 - t') log(1 - p))``."""
    ops, x = inputs.ops, inputs.x
    t = smoothed(ops, inputs.t, term.label_smoothing, 2)
    positive, negative = t, 1.0 - t
    if term.pos_weight is not None:
        positive = functions.times(ops, constants(inputs, term.pos_weight), t)
    weights = None if term.class_weights is None else constants(inputs, term.class_weights)
    if weights is not None:
        positive, negative = functions.times(ops, weights, positive), functions.times(ops, weights, negative)
    if term.inputs == "logits":
        plus, minus = _logistic_losses(inputs)
        wrong = ops.isnan(x)

        def slope() -> Array:
            soft = inputs.sigmoid
            return functions.times(ops, negative, soft.p) - functions.times(ops, positive, soft.rest)

    elif term.clip is None:
        rest = 1.0 - x
        plus, minus = (
            ops.where(loss < 100.0, loss, 100.0)
            for loss in (0.0 - functions.log_beside(ops, x, rest), 0.0 - functions.log_beside(ops, rest, x))
        )
        wrong = ops.invert(ops.both(x >= 0.0, x <= 1.0))

        def slope() -> Array:
            variance, least = x * (1.0 - x), float32(1e-12)
            g = (x - t) / ops.where(variance > least, variance, least)
            return g if weights is None else functions.times(ops, weights, g)

    else:
        kept = Clipped.of(ops, x, 1.0 - x, term.clip)
        plus, minus = _losses(ops, kept)
        wrong = nan_in_either(ops, x, inputs.t)

        def slope() -> Array:
            return _slope(ops, kept, negative, positive)

    parts = [ops.where(wrong, NAN, unless_empty(ops, positive, plus)), unless_empty(ops, negative, minus)]
    ignored = None if term.ignore_value is None else inputs.t == float32(term.ignore_value)
    if ignored is not None:
        parts = [ops.where(ignored, 0.0, part) for part in parts]

    def gradient() -> Array:
        g = ops.where(wrong, NAN, slope())
        return g if ignored is None else ops.where(ignored, 0.0, g)

    return per_channel(term, inputs, parts, gradient)


def _logistic_losses(inputs: Inputs) -> tuple[Array, Array]:
    """``-log p`` and ``-log(1 - p)`` of the sigmoid."""
    ops, x = inputs.ops, inputs.x
    tail = functions.log1p(ops, inputs.sigmoid.v)
    return ops.where(x < 0.0, 0.0 - x, 0.0) + tail, ops.where(x > 0.0, x, 0.0) + tail


def _losses(ops: Ops, kept: Clipped) -> tuple[Array, Array]:
    """``-log p`` and ``-log(1 - p)`` of clipped probabilities."""
    return 0.0 - functions.log_beside(ops, kept.p, kept.rest), 0.0 - functions.log_beside(ops, kept.rest, kept.p)


def _slope(ops: Ops, kept: Clipped, negative: Array, positive: Array) -> Array:
    """The derivative of the two losses, weighted; 0 where clipped."""
    inside = functions.chop(ops, negative / kept.rest) - functions.chop(ops, positive / kept.p)
    return ops.where(kept.inside, inside, 0.0)


@implements(BinaryFocal)
def binary_focal(term: BinaryFocal, inputs: Inputs) -> Result:
    """``a (1 - q)^gamma b``, ``q`` the probability of the target and ``b`` the binary cross-entropy."""
    ops, x, gamma = inputs.ops, inputs.x, float32(term.gamma)

    def times(a: Array, b: Array | float) -> Array:
        return functions.times(ops, a, b)

    t = smoothed(ops, inputs.t, term.label_smoothing, 2)
    negative = 1.0 - t
    scale: Array | float = 1.0
    if term.alpha is not None:
        scale = times(t, float32(term.alpha)) + times(negative, float32(1.0 - term.alpha))
    if term.class_weights is not None:
        weights = constants(inputs, term.class_weights)
        scale = weights if term.alpha is None else times(weights, scale)
    kept = None
    if term.inputs == "logits":
        p, rest = inputs.sigmoid.p, inputs.sigmoid.rest
        plus, minus = _logistic_losses(inputs)
        wrong = ops.isnan(x)
    else:
        p, rest = x, 1.0 - x
        kept = Clipped.of(ops, p, rest, term.clip)
        plus, minus = _losses(ops, kept)
        wrong = ops.invert(ops.both(ops.both(x >= 0.0, x <= 1.0), ops.invert(ops.isnan(inputs.t))))
    miss = times(t, rest) + times(negative, p)
    factor = functions.power(ops, miss, gamma)
    losses = ops.where(t == 0.0, 0.0, times(t, plus)) + ops.where(negative == 0.0, 0.0, times(negative, minus))
    losses = functions.chop(ops, losses)
    parts = unless_empty(ops, times(factor, scale), losses)
    if kept is not None:
        parts = ops.where(wrong, NAN, parts)

    def pull() -> Array:
        """What the factor's derivative gives: ``gamma (1 - q)^(gamma - 1) b``."""
        if gamma == 0.0:
            return ops.zeros_like(losses)
        w = times(times(factor, losses / ops.where(miss == 0.0, 1.0, miss)), gamma)
        return ops.where(miss == 0.0, 0.0, ops.where(losses == float("inf"), 0.0, w))

    def gradient() -> Array:
        if kept is None:
            slope = times(negative, p) - times(t, rest)
            turn = times(negative - t, times(p, rest))
        else:
            slope, turn = _slope(ops, kept, negative, t), negative - t
        g = times(times(factor, slope) + times(pull(), turn), scale)
        return g if kept is None else ops.where(wrong, NAN, g)

    return per_channel(term, inputs, [parts], gradient)


@implements(Hinge)
def hinge(term: Hinge, inputs: Inputs) -> Result:
    """``max(0, 1 - t' x)``; the gradient on the margin is that inside."""
    ops = inputs.ops
    t, margin, nan = _margin(inputs)
    parts = ops.where(nan, NAN, ops.where(margin > 0.0, margin, 0.0))
    return per_channel(term, inputs, [parts], lambda: ops.where(nan, NAN, ops.where(margin >= 0.0, 0.0 - t, 0.0)))


@implements(SquaredHinge)
def squared_hinge(term: SquaredHinge, inputs: Inputs) -> Result:
    """``max(0, 1 - t' x)^2``."""
    ops = inputs.ops
    t, margin, nan = _margin(inputs)

    def short(values: Array) -> Array:
        return ops.where(nan, NAN, ops.where(margin > 0.0, values, 0.0))

    parts = short(margin * margin)
    return per_channel(term, inputs, [parts], lambda: short(functions.times(ops, margin, t) * -2.0))


def _margin(inputs: Inputs) -> tuple[Array, Array, Array]:
    """``t'``, how far the margin is missed, and where that is NaN."""
    ops = inputs.ops
    t = ops.where(inputs.t == 0.0, -1.0, inputs.t)
    margin = 1.0 - functions.times(ops, t, inputs.x)
    return t, margin, ops.isnan(margin)
