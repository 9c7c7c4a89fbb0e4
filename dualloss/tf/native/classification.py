"""Terms for class labels and probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from ...exact.constants import float32
from ...spec import (
    BinaryCrossEntropy,
    BinaryFocal,
    CategoricalHinge,
    CrossEntropy,
    Focal,
    Hinge,
    KLDivergence,
    NegativeLogLikelihood,
    Poisson,
    SquaredHinge,
)
from .activation import probabilities
from .core import (
    Found,
    Inputs,
    Labels,
    Tensor,
    channelwise,
    constants,
    implements,
    kept,
    nan_where,
    over_channels,
    positionwise,
    select,
    smooth,
    target,
    unless,
    weighted_log,
)


@implements(CrossEntropy)
def cross_entropy(term: CrossEntropy, inputs: Inputs) -> Found:
    """`-sum_c w_c t'_c log p_c`; framework primitives for class indices, log-softmax for dense targets."""
    keep = kept(inputs.valid, inputs.weight)
    x = select(keep, inputs.x, _outside(term))
    w = None if term.class_weights is None else constants(term.class_weights, x)

    if isinstance(inputs.target, Labels) and term.inputs == "logits" and not term.label_smoothing:
        ids, known = inputs.target
        # The label's weight says the rest about it as well: NaN out of range, 0 where not kept.
        u = tf.where(known, tf.ones_like(ids, dtype=x.dtype) if w is None else tf.gather(w, ids), math.nan)
        values = weighted_log(select(keep, u), tf.nn.sparse_softmax_cross_entropy_with_logits(ids, x))
        return Found(values, inputs.valid, None if w is None else select(inputs.valid, u))

    t = target(inputs)
    u = smooth(select(keep, t), term.label_smoothing, 1 / x.shape[-1])
    u = u if w is None else w * u
    if term.inputs == "logits":
        minus_log = -tf.nn.log_softmax(x)
    else:
        minus_log = _minus_log(*_classes(x, u, term.renormalize, term.clip))
    values = select(keep, tf.reduce_sum(weighted_log(u, minus_log), -1))
    return Found(values, inputs.valid, None if w is None else select(inputs.valid, tf.reduce_sum(w * t, -1)))


@implements(NegativeLogLikelihood)
def negative_log_likelihood(term: NegativeLogLikelihood, inputs: Inputs) -> Found:
    """`-sum_c w_c t_c x_c`."""
    keep = kept(inputs.valid, inputs.weight)
    u = target(inputs)
    u = u if term.class_weights is None else constants(term.class_weights, u) * u
    values = tf.reduce_sum(_product(select(keep, u), -select(keep, inputs.x)), -1)
    return Found(
        values, inputs.valid, None if term.class_weights is None else select(inputs.valid, tf.reduce_sum(u, -1))
    )


@implements(BinaryCrossEntropy)
def binary_cross_entropy(term: BinaryCrossEntropy, inputs: Inputs) -> Found:
    """`-w (pi t' log p + (1 - t') log (1 - p))`; `p` the sigmoid of a logit, or a probability."""

    def value(x: Tensor, t: Tensor) -> Tensor:
        used = None if term.ignore_value is None else t != term.ignore_value
        x, t = select(used, x), smooth(t, term.label_smoothing, 1 / 2)
        positive, negative = t, 1 - t
        if term.pos_weight is not None:
            positive = constants(term.pos_weight, x) * positive
        if term.class_weights is not None:
            w = constants(term.class_weights, x)
            positive, negative = w * positive, w * negative
        if term.inputs == "logits":
            # Two log-sigmoids rather than the primitive: it cancels for confident answers.
            yes, no = -tf.math.log_sigmoid(x), -tf.math.log_sigmoid(-x)
        elif term.clip is None:
            yes, no = _bounded_logs(nan_where((x < 0) | (x > 1), x))
        else:
            x = nan_where(tf.math.is_nan(t), x)
            p, rest = _clipped(x, 1 - x, term.clip)
            yes, no = _minus_log(p, rest), _minus_log(rest, p)
        values = weighted_log(positive, yes) + weighted_log(negative, no)
        return select(used, values)

    return channelwise(term, inputs, value)


@implements(Focal)
def focal(term: Focal, inputs: Inputs) -> Found:
    """`-alpha_c (1 - p_c)^gamma t'_c log p_c`."""
    keep = kept(inputs.valid, inputs.weight)
    x = select(keep, inputs.x, _outside(term))
    u = smooth(select(keep, target(inputs)), term.label_smoothing, 1 / x.shape[-1])
    if term.alpha is not None:
        u = constants(term.alpha, x) * u
    if term.inputs == "probabilities":
        p, rest = _classes(x, u, "before" if term.renormalize else "never", term.clip)
        minus_log = _minus_log(p, rest)
    elif term.clip_softmax:
        unknown = tf.reduce_any(tf.math.is_nan(u), -1, keepdims=True)
        p, rest = _clipped(*probabilities(nan_where(unknown, x), "softmax"), term.clip)
        minus_log = _minus_log(p, rest)
    else:
        minus_log, (_, rest) = -tf.nn.log_softmax(x), probabilities(x, "softmax")
        rest = tf.where(minus_log == math.inf, tf.stop_gradient(rest), rest)  # an infinite loss has no slope to follow
    values = weighted_log(u * _power(rest, term.gamma), minus_log)
    return Found(select(keep, over_channels(term, values)), inputs.valid)


@implements(BinaryFocal)
def binary_focal(term: BinaryFocal, inputs: Inputs) -> Found:
    """`a (1 - q)^gamma b`; `b` the binary cross-entropy, `q` the probability of the right answer, `a` its weight."""

    def value(x: Tensor, t: Tensor) -> Tensor:
        t = smooth(t, term.label_smoothing, 1 / 2)
        if term.inputs == "logits":
            yes, no = -tf.math.log_sigmoid(x), -tf.math.log_sigmoid(-x)
            p, rest = tf.exp(-yes), tf.exp(-no)  # a sigmoid's gradient cancels where it is near 1
        else:
            p = nan_where((x < 0) | (x > 1) | tf.math.is_nan(t), x)
            near, far = _clipped(p, 1 - p, term.clip)
            rest, yes, no = 1 - p, _minus_log(near, far), _minus_log(far, near)
        b = weighted_log(t, yes) + weighted_log(1 - t, no)
        wrong = t * rest + (1 - t) * p
        wrong = tf.where(b == math.inf, tf.stop_gradient(wrong), wrong)  # an infinite loss has no slope to follow
        factor = _power(wrong, term.gamma)
        if term.alpha is not None:
            factor = (term.alpha * t + (1 - term.alpha) * (1 - t)) * factor
        if term.class_weights is not None:
            factor = constants(term.class_weights, x) * factor
        return weighted_log(factor, b)

    return channelwise(term, inputs, value)


@implements(KLDivergence)
def kl_divergence(term: KLDivergence, inputs: Inputs) -> Found:
    """`t (log t - log p)`, for targets that are probabilities or their logarithms."""

    def value(x: Tensor, t: Tensor) -> Tensor:
        if term.inputs == "probabilities":
            x, t = (_limited(v, term.clip, 1) for v in (nan_where(tf.math.is_nan(t), x), t))
            return t * (tf.math.log(t) - tf.math.log(x))
        # A class with the target 0 counts nothing.
        weight = tf.exp(t) if term.log_target else unless(t <= 0, t)
        some = weight != 0
        log_t = select(some, t) if term.log_target else tf.math.log(select(some, t, 1))
        if term.inputs == "logits":
            return weighted_log(weight, log_t - tf.nn.log_softmax(x))
        return _product(weight, log_t - x)

    return channelwise(term, inputs, value)


@implements(Poisson)
def poisson(term: Poisson, inputs: Inputs) -> Found:
    """`rate - t log rate`, and Stirling's formula for the rest."""

    def value(x: Tensor, t: Tensor) -> Tensor:
        if term.inputs == "log_rate":
            values = tf.exp(x) - _product(t, x)
        else:
            values = x - t * tf.math.log(select(t != 0, x + term.epsilon, 1))
        if not term.full:
            return values
        many = select(t > 1, t, 1)
        stirling = many * tf.math.log(many) - many + tf.math.log(2 * math.pi * many) / 2
        return values + select(t > 1, stirling)

    return channelwise(term, inputs, value)


@implements(Hinge)
def hinge(term: Hinge, inputs: Inputs) -> Found:
    """`max(0, 1 - t' x)`; `t'` is -1 for 0."""

    def value(x: Tensor, t: Tensor) -> Tensor:
        margin = 1 - select(t != 0, t, -1) * x
        return _positive(nan_where(tf.math.is_nan(margin), margin))

    return channelwise(term, inputs, value)


@implements(SquaredHinge)
def squared_hinge(term: SquaredHinge, inputs: Inputs) -> Found:
    """`max(0, 1 - t' x)^2`; `t'` is -1 for 0."""
    return channelwise(term, inputs, lambda x, t: tf.square(_positive(1 - select(t != 0, t, -1) * x)))


@implements(CategoricalHinge)
def categorical_hinge(term: CategoricalHinge, inputs: Inputs) -> Found:
    """`max(0, 1 + max_c (1 - t_c) x_c - sum_c t_c x_c)`."""

    def value(x: Tensor, t: Tensor) -> Tensor:
        wrong, right = _product(1 - t, x), tf.reduce_sum(_product(t, x), -1)
        margin = 1 + (tf.reduce_max(wrong, -1) - right)
        return _positive(nan_where(tf.math.is_nan(margin) | tf.reduce_any(tf.math.is_nan(wrong), -1), margin))

    return positionwise(inputs, value)


def _outside(term: CrossEntropy | Focal) -> float:
    """What stands in for inputs that do not count: probabilities must not add to 0."""
    return 1 if term.inputs == "probabilities" else 0


def _classes(x: Tensor, u: Tensor, renormalize: str, clip: float) -> tuple[Tensor, Tensor]:
    """Probabilities of classes, limited, and 1 less them; a position is NaN if any of its numbers is not finite."""
    x = nan_where(~tf.reduce_all(tf.math.is_finite(x + u), -1, keepdims=True), x)
    if renormalize == "before":
        return _clipped(*_shares(x), clip)
    p, rest = _clipped(x, 1 - x, clip)
    return _shares(p) if renormalize == "after" else (p, rest)


def _shares(x: Tensor) -> tuple[Tensor, Tensor]:
    """`x` divided by its sum, and 1 less that, without cancellation where one class has nearly all."""
    total = tf.reduce_sum(x, -1, keepdims=True)
    total = nan_where(total == 0, total)
    p = x / total
    likely = p > 0.5
    one = likely & (tf.math.count_nonzero(likely, -1, keepdims=True) == 1)
    others = tf.reduce_sum(unless(one, x), -1, keepdims=True) / total
    return p, tf.where(one, others, 1 - p)


def _clipped(p: Tensor, rest: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """`p` and `rest = 1 - p`, from `clip` to `1 - clip` in float32; beyond them the gradient is 0."""
    most = float32(1 - clip)
    low, high = p < clip, rest < 1 - most
    return unless(low, unless(high, p, most), clip), unless(low, unless(high, rest, 1 - most), 1 - clip)


def _limited(v: Tensor, low: float, high: float) -> Tensor:
    """`v` from `low` to `high`; beyond them the gradient is 0."""
    return unless(v < low, unless(v > high, v, high), low)


def _minus_log(p: Tensor, rest: Tensor) -> Tensor:
    """`-log p`, right where `p` rounds to 1 as well; `rest = 1 - p`."""
    near = rest < 0.25
    return -(tf.math.log(unless(near, p, 1)) + tf.math.log1p(-select(near, rest)))


@tf.custom_gradient
def _bounded_logs(x: Tensor) -> tuple[tuple[Tensor, Tensor], Callable[[Tensor, Tensor], Tensor]]:
    """`-log x` and `-log (1 - x)`, neither above 100, with the gradient of `torch.nn.BCELoss`."""

    def gradient(yes: Tensor, no: Tensor) -> Tensor:
        # Of the logarithms without the bound, but for a divisor that is never below 1e-12; differentiable again.
        return (no * x - yes * (1 - x)) / tf.maximum(x * (1 - x), 1e-12)

    return (tf.minimum(-tf.math.log(x), 100), tf.minimum(-tf.math.log1p(-x), 100)), gradient


def _power(v: Tensor, exponent: float) -> Tensor:
    """`v^exponent` for `v >= 0`; at 0 the gradient is 0."""
    if exponent == 0:
        return tf.ones_like(v)
    some = v != 0
    return select(some, select(some, v, 1) ** exponent)


def _positive(v: Tensor) -> Tensor:
    """`max(v, 0)`; at 0 the gradient is that of `v`."""
    return unless(v < 0, v)


def _product(u: Tensor, v: Tensor) -> Tensor:
    """`u v`, and 0 where `u` is, whatever stands in `v`."""
    return u * unless((u == 0) & ~tf.math.is_finite(v), v)
