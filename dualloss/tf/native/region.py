"""Terms that compare regions."""

from __future__ import annotations

import math

import tensorflow as tf

from ...spec import Dice, FocalTversky, Jaccard, Lovasz, Region, Tversky
from .activation import apart, probabilities
from .core import Inputs, Tensor, constants, implements, kept, select, sum_of, target


@implements(Dice)
def dice(term: Dice, inputs: Inputs) -> Tensor:
    """`1 - 2 I / (P + T)`, which is `(FP + FN) / (2 I + FP + FN)`."""
    return _mean(term, inputs, *_losses(term, inputs, 2, 1, 1))


@implements(Jaccard)
def jaccard(term: Jaccard, inputs: Inputs) -> Tensor:
    """`1 - I / (P + T - I)`, which is `(FP + FN) / (I + FP + FN)`."""
    return _mean(term, inputs, *_losses(term, inputs, 1, 1, 1))


@implements(Tversky)
def tversky(term: Tversky, inputs: Inputs) -> Tensor:
    """`1 - I / (I + alpha FP + beta FN)`."""
    return _mean(term, inputs, *_losses(term, inputs, 1, term.alpha, term.beta))


@implements(FocalTversky)
def focal_tversky(term: FocalTversky, inputs: Inputs) -> Tensor:
    """A power of the Tversky loss: of each group's, or of their mean."""
    losses, absent = _losses(term, inputs, 1, term.alpha, term.beta)
    if term.power_of_mean:
        return _power(_mean(term, inputs, losses, absent), term.gamma)
    return _mean(term, inputs, _power(losses, term.gamma), absent)


def _losses(term: Region, inputs: Inputs, twice: int, alpha: float, beta: float) -> tuple[Tensor, Tensor]:
    """The loss of every group, and whether it has no target; of shape (B, classes), without the axes of one group."""
    keep = kept(inputs.valid, inputs.weight)
    x, t = select(keep, inputs.x), select(keep, target(inputs))
    chosen = list(term.counted(x.shape[-1]))
    p, rest = probabilities(x, term.activation)
    p, rest, t = (v if len(chosen) == x.shape[-1] else tf.gather(v, chosen, axis=-1) for v in (p, rest, t))
    last = x.shape.rank - 1
    axes = [a for a in range(last + 1) if 0 < a < last or not (term.per_class if a else term.per_sample)]

    def total(values: Tensor) -> Tensor:
        values = select(keep, values)
        return sum_of(values if inputs.weight is None else inputs.weight[..., None] * values, axes)

    u = apart(p, rest, t)
    if term.squared:  # alpha FP + beta FN is beta * sum of u^2 + (alpha - beta) * sum of p u
        both, wrong = p * t, beta * total(u * u)
        wrong = wrong if alpha == beta else wrong + (alpha - beta) * total(p * u)
    elif term.overlap == "minimum":  # of equals the gradient is the mean of both sides
        both = tf.where(u == 0, (p + t) / 2, tf.where(u < 0, p, t))
        wrong = alpha * total((abs(u) + u) / 2) + beta * total((abs(u) - u) / 2)
    else:
        both, wrong = p * t, alpha * total(p * (1 - t)) + beta * total(t * rest)
    return _loss_of_sums(term, twice * total(both), wrong), total(t) == 0


def _loss_of_sums(term: Region, both: Tensor, wrong: Tensor) -> Tensor:
    """`1 - score`, or `-log` of the score, without cancellation where little is wrong."""
    smooth = term.smooth if term.smooth_denominator is None else term.smooth_denominator
    denominator = both + wrong + smooth
    low = (denominator < term.epsilon) | (denominator == 0)
    denominator = tf.where(
        low, constants(term.epsilon or math.inf, denominator), denominator
    )  # nothing in nothing is a score of 0
    score = (both + term.smooth) / denominator
    # Of both forms the one of which neither value nor gradient cancels.
    loss = tf.where(low | (score < 0.5), 1 - score, (wrong + (smooth - term.smooth)) / denominator)
    if not term.log:
        return loss
    near, far = loss <= 0.25, score < term.epsilon
    value = tf.where(
        near, -tf.math.log1p(-tf.where(near, loss, 0)), -tf.math.log(tf.where(near | far, constants(1, score), score))
    )
    return tf.where(far, constants(-math.log(term.epsilon), value), value)


def _power(loss: Tensor, exponent: float) -> Tensor:
    """A power, and 0 up to 0, where its gradient may be infinite."""
    nothing = loss <= 0
    zero, one = constants(0, loss), constants(1, loss)
    return tf.where(nothing, zero, tf.where(nothing, one, loss) ** exponent)


def _mean(term: Region, inputs: Inputs, losses: Tensor, absent: Tensor) -> Tensor:
    """The mean or sum over the groups that count."""
    if term.class_weights is not None:
        chosen = term.counted(len(term.class_weights))
        losses = losses * constants([term.class_weights[c] for c in chosen], losses)
    total = sum_of(losses if term.empty_class == "keep" else tf.where(absent, constants(0, losses), losses))
    if inputs.reduction == "sum":
        return total
    size = tf.math.count_nonzero(~absent) if term.empty_class == "exclude" else tf.size(losses, tf.int64)
    return total / tf.cast(tf.maximum(size, 1), total.dtype)


@implements(Lovasz)
def lovasz(term: Lovasz, inputs: Inputs) -> Tensor:
    """Errors in falling order, each times what the Jaccard loss gains by it."""
    x, t = select(inputs.valid, inputs.x), select(inputs.valid, target(inputs))
    inside = t > 0.5
    if term.activation == "hinge":
        errors = tf.nn.relu(1 - tf.where(inside, x, -x))
    else:
        p, rest = probabilities(x, term.activation)
        errors = abs(tf.where(inside, rest, p))
    errors = select(inputs.valid, errors * tf.where(tf.math.is_nan(t), t, 1))
    last = x.shape.rank - 1

    def rows(values: Tensor) -> Tensor:
        """A row of positions for each class of each group."""
        axes = [0, last, *range(1, last)] if term.per_sample else [last, *range(last)]
        shape = tf.shape(values)
        shape = [shape[0] if term.per_sample else 1, x.shape[-1], tf.reduce_prod(shape[int(term.per_sample) : -1])]
        return tf.reshape(tf.transpose(values, axes), shape)

    # NaN first, which devices would put to either end.
    key = tf.where(tf.math.is_nan(errors), constants(math.inf, errors), errors)
    if inputs.valid is not None:  # the others to the end, where nothing is gained any more
        key = tf.where(inputs.valid[..., None], key, -1)
    order = tf.argsort(rows(key), -1, "DESCENDING", stable=True)  # ties in the order of the positions
    inside, errors = rows(inside), tf.gather(rows(errors), order, batch_dims=2)
    size = tf.math.count_nonzero(inside, -1, keepdims=True)
    gains = _jaccard_gains(tf.gather(inside, order, batch_dims=2), size, x.dtype)
    # An infinite error that gains nothing adds nothing.
    losses = sum_of(tf.where((gains != 0) | tf.math.is_nan(errors), errors, 0) * gains, [-1])
    present = tf.reduce_any(inside | rows(tf.math.is_nan(t)), -1)
    counts = present if term.classes == "present" else tf.ones_like(losses, dtype=tf.bool)
    number = tf.maximum(tf.math.count_nonzero(counts, -1), 1)
    means = sum_of(tf.where(counts, losses, 0), [-1]) / tf.cast(number, losses.dtype)
    total = sum_of(means)
    return total if inputs.reduction == "sum" else total / tf.cast(tf.maximum(tf.size(means), 1), total.dtype)


def _jaccard_gains(inside: Tensor, size: Tensor, dtype: tf.DType) -> Tensor:
    """By how much the Jaccard loss grows with each further position that is wrong."""
    found, wrong = tf.cumsum(tf.cast(inside, tf.int64), -1), tf.range(1, tf.shape(inside, tf.int64)[-1] + 1)
    union, missing = tf.cast(size + wrong - found, dtype), tf.cast(size - found, dtype)
    gains = tf.where(inside, 1 / union, missing / union / (union - 1))
    return tf.where(size == 0, tf.cast(wrong == 1, dtype), gains)
