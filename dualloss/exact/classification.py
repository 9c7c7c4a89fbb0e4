"""Terms that look at all classes of a position, and at counts (docs/numerics/classification.md)."""

from __future__ import annotations

from ..spec import CategoricalHinge, CrossEntropy, Focal, KLDivergence, NegativeLogLikelihood, Poisson
from . import functions, sums
from .constants import float32
from .ops import Array, Ops
from .probabilities import NAN, Classes, Clipped, constants, nan_in_either, smoothed, unless_empty
from .terms import Inputs, Result, Softmax, implements, over_channels, per_channel, scaled, through_softmax

_TWO_PI = float.fromhex("0x1.921fb54442d18p+2")


@implements(CrossEntropy)
def cross_entropy(term: CrossEntropy, inputs: Inputs) -> Result:
    """``-sum_c w_c t'_c log p_c``; of logits the gradient is ``p sum_c(w_c t'_c) - w t'``, without cancellation."""
    ops, axis = inputs.ops, inputs.axis
    u, weights = _weighted_classes(term, inputs, smoothed(ops, inputs.t, term.label_smoothing, inputs.channels))
    if term.inputs == "logits":
        soft = inputs.softmax
        losses, bad = soft.log_sum - soft.d, ops.isnan(soft.log_sum)

        def slope() -> Array:
            mass = sums.channel_sum(ops, [u], axis)
            return functions.times(ops, soft.p, mass - u) - nothing_of_nothing(ops, u, soft.rest)

    else:
        given = Classes.of(inputs, term.clip, term.renormalize)
        losses, bad = given.losses, given.bad

        def slope() -> Array:
            h = functions.chop(ops, u / given.p)
            if given.total is not None:
                h = h - sums.channel_sum(ops, [u], axis) / given.total
            h = ops.where(given.inside, h, ops.where(ops.isnan(u), NAN, 0.0))
            return ops.where(bad, NAN, given.back(h))

    value = functions.chop(ops, sums.channel_sum(ops, [unless_empty(ops, u, losses)], axis))
    value = ops.where(bad, NAN, value)
    return Result(value, inputs.valid, 1.0, lambda c: scaled(ops, c, slope()), weights)


def nothing_of_nothing(ops: Ops, amount: Array, rest: Array) -> Array:
    """``amount ⊗ rest``, written so that kernels need not compute ``rest`` where the amount is 0.

    Beside ``p ⊗ (...)`` that changes no bit: where the one is NaN so is the other, and else the product is 0.
    """
    return ops.where(amount == 0.0, 0.0, functions.times(ops, amount, rest))


@implements(NegativeLogLikelihood)
def negative_log_likelihood(term: NegativeLogLikelihood, inputs: Inputs) -> Result:
    """``-sum_c w_c t_c x_c``."""
    ops = inputs.ops
    u, weights = _weighted_classes(term, inputs, inputs.t)
    products = unless_empty(ops, u, 0.0 - inputs.x)
    value = functions.chop(ops, sums.channel_sum(ops, [products], inputs.axis))
    return Result(value, inputs.valid, 1.0, lambda c: scaled(ops, c, 0.0 - u), weights)


def _weighted_classes(
    term: CrossEntropy | NegativeLogLikelihood, inputs: Inputs, t: Array
) -> tuple[Array, Array | None]:
    """``w t`` for the (smoothed) target, and what the normaliser "weights" sums."""
    ops = inputs.ops
    if term.class_weights is None:
        return t, None
    w = constants(inputs, term.class_weights)
    weights = None
    if term.normalizer == "weights":
        weights = sums.channel_sum(ops, [functions.times(ops, w, inputs.t)], inputs.axis)
    return functions.times(ops, w, t), weights


@implements(Focal)
def focal(term: Focal, inputs: Inputs) -> Result:
    """``a_c (1 - p_c)^gamma t'_c -log p_c``."""
    ops, axis, gamma = inputs.ops, inputs.axis, float32(term.gamma)
    amount = smoothed(ops, inputs.t, term.label_smoothing, inputs.channels)
    if term.alpha is not None:
        amount = functions.times(ops, constants(inputs, term.alpha), amount)
    empty = amount == 0.0
    given, kept = None, None
    if term.inputs == "probabilities":
        given = Classes.of(inputs, term.clip, "before" if term.renormalize else "never")
        p, rest, losses, bad = given.p, given.rest, given.losses, given.bad
    else:
        soft = inputs.softmax
        p, rest, losses, bad = soft.p, soft.rest, soft.log_sum - soft.d, ops.isnan(soft.log_sum)
        if term.clip_softmax:
            kept = Clipped.of(ops, p, rest, term.clip)
            p, rest, losses = kept.p, kept.rest, 0.0 - functions.log_beside(ops, kept.p, kept.rest)
    factor = functions.power(ops, rest, gamma)
    parts = ops.where(empty, 0.0, functions.times(ops, amount, factor) * losses)
    value, share = over_channels(term, inputs, [ops.where(bad, NAN, parts)])

    def pull() -> Array:
        """What the factor's derivative gives: ``gamma (1 - p)^(gamma - 1) -log p``."""
        if gamma == 0.0:
            return ops.zeros_like(rest)
        # No division by a quotient (XLA would make one division of two): a choice stands between.
        ratio = losses / ops.where(rest == 0.0, 1.0, rest)
        w = functions.times(ops, functions.times(ops, factor, ratio), gamma)
        return ops.where(rest == 0.0, 0.0, ops.where(p == 0.0, 0.0, w))

    def gradient(c: Array) -> Array:
        if given is None and kept is None:
            e = functions.times(ops, amount, functions.times(ops, p, pull()) + factor)
            e = ops.where(empty, 0.0, e)
            mass = sums.channel_sum(ops, [e], axis)
            return scaled(ops, c, functions.times(ops, p, mass - e) - nothing_of_nothing(ops, e, rest))
        h = functions.times(ops, amount, pull() + functions.chop(ops, factor / p))
        h = ops.where(empty, 0.0, h)
        if given is not None:
            h = ops.where(given.inside, h, ops.where(ops.isnan(amount), NAN, 0.0))
            return scaled(ops, c, ops.where(bad, NAN, given.back(h)))
        assert kept is not None
        h = ops.where(kept.inside, h, ops.where(ops.isnan(amount), NAN, 0.0))
        g = through_softmax(inputs, scaled(ops, c, 0.0 - h))
        return ops.where(c == 0.0, 0.0, ops.where(bad, NAN, g))

    return Result(value, inputs.valid, share, gradient)


@implements(KLDivergence)
def kl_divergence(term: KLDivergence, inputs: Inputs) -> Result:
    """``t (log t - log p)``."""
    ops, axis, x, t = inputs.ops, inputs.axis, inputs.x, inputs.t
    if term.inputs == "probabilities":
        least = float32(term.clip)

        def limited(v: Array) -> Array:
            return ops.where(v < least, least, ops.where(v > 1.0, 1.0, v))

        share, y = limited(t), limited(x)
        wrong = nan_in_either(ops, x, t)
        losses = functions.log(ops, share) - functions.log(ops, y)
        parts = ops.where(wrong, NAN, share * losses)

        def gradient() -> Array:
            g = ops.where(ops.both(x >= least, x <= 1.0), 0.0 - share / y, 0.0)
            return ops.where(wrong, NAN, g)

        return per_channel(term, inputs, [parts], gradient)
    if term.log_target:
        share, logs = functions.exp_of_any(ops, t), t
    else:
        share = ops.where(t <= 0.0, 0.0, t)
        logs = functions.log(ops, share)
    if term.inputs == "log_probabilities":
        return per_channel(term, inputs, [unless_empty(ops, share, logs - x)], lambda: 0.0 - share)
    soft = Softmax.of(inputs, functions.exp_of_any, functions.log_of_one_plus)
    logs = logs + (soft.log_sum - soft.d)
    mass = sums.channel_sum(ops, [share], axis)
    # Of targets with a sum s near 1 the values cancel where p is near t, and t log(t / p) + p - t does not; what that
    # adds to the sum over the classes is 1 - s.
    usual = ops.both(mass >= 0.5, mass <= 2.0)
    apart = soft.p - share
    v = apart / ops.where(share == 0.0, 1.0, share)
    near = ops.abs(v) <= 0.25
    v = ops.where(near, v, 0.0)  # before the division by it: p is a quotient, too
    parts = ops.where(near, share * functions.above_log(ops, v), apart + functions.times(ops, share, logs))
    parts = ops.where(share == 0.0, soft.p, parts)
    parts = ops.where(usual, parts, unless_empty(ops, share, logs))

    def through_logits() -> Array:
        return functions.times(ops, soft.p, mass - share) - functions.times(ops, share, soft.rest)

    beside = ops.where(usual, mass - 1.0, 0.0)
    return per_channel(term, inputs, [ops.where(ops.isnan(soft.log_sum), NAN, parts)], through_logits, beside)


@implements(CategoricalHinge)
def categorical_hinge(term: CategoricalHinge, inputs: Inputs) -> Result:
    """``max(0, 1 + max_c (1 - t_c) x_c - sum_c t_c x_c)``; on the margin as inside it."""
    ops, axis, x, t = inputs.ops, inputs.axis, inputs.x, inputs.t
    other = 1.0 - t
    rivals = ops.where(other == 0.0, 0.0, functions.times(ops, other, x))
    best = ops.amax(rivals, axis)
    margin = (best - sums.channel_sum(ops, [unless_empty(ops, t, x)], axis)) + 1.0
    nans = ops.isum(ops.where(ops.isnan(rivals), 1.0, 0.0), axis)
    bad = ops.isnan(ops.where(nans > 0.0, NAN, margin))
    value = ops.where(bad, NAN, ops.where(margin > 0.0, functions.chop(ops, margin), 0.0))

    def gradient(c: Array) -> Array:
        first = rivals == best
        ties = ops.isum(ops.where(first, 1.0, 0.0), axis)
        g = ops.where(first, other / ties, 0.0) - t
        return scaled(ops, c, ops.where(bad, NAN, ops.where(margin >= 0.0, g, 0.0)))

    return Result(value, inputs.valid, 1.0, gradient)


@implements(Poisson)
def poisson(term: Poisson, inputs: Inputs) -> Result:
    """``exp x - t x``, or ``x - t log x``."""
    ops, x, t = inputs.ops, inputs.x, inputs.t
    if term.inputs == "log_rate":
        rate = functions.exp_of_any(ops, x)
        parts = [rate, 0.0 - unless_empty(ops, t, x)]

        def gradient() -> Array:
            return rate - t

    else:
        rate = x + float32(term.epsilon)
        parts = [x, 0.0 - unless_empty(ops, t, functions.log(ops, rate))]

        def gradient() -> Array:
            return ops.where(t == 0.0, 1.0, 1.0 - t / rate)

    if term.full:
        stirling = [t * functions.log(ops, t), 0.0 - t, functions.log(ops, functions.times(ops, t, _TWO_PI)) * 0.5]
        parts += [ops.where(t > 1.0, part, 0.0) for part in stirling]
    return per_channel(term, inputs, parts, gradient)
