"""Region terms (docs/numerics/region.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..spec import Dice, FocalTversky, Jaccard, Lovasz, Region, Tversky
from . import functions, sums
from .constants import float32
from .ops import Array, Ops
from .terms import Inputs, Totals, implements, through_activation


@dataclass(frozen=True)
class Coefficients:
    """What makes the terms differ: ``kappa I / (kappa I + alpha FP + beta FN)``, and a power (0: none) of the loss."""

    kappa: float
    alpha: float
    beta: float
    gamma: float = 0.0
    of_mean: bool = False


_COEFFICIENTS: dict[type[Region], Callable[[Any], Coefficients]] = {
    Dice: lambda term: Coefficients(2.0, 1.0, 1.0),
    Jaccard: lambda term: Coefficients(1.0, 1.0, 1.0),
    Tversky: lambda term: Coefficients(1.0, float32(term.alpha), float32(term.beta)),
    FocalTversky: lambda term: Coefficients(
        1.0, float32(term.alpha), float32(term.beta), float32(term.gamma), term.power_of_mean
    ),
}


@dataclass(frozen=True)
class Groups:
    """The groups of a term; arrays (G,), or (B, G) with a row for each sample.

    Attributes:
        loss: 0 for the groups that do not count.
        counts: which groups count, as 0 and 1.
        slope: the derivative of the loss by ``1 - score``.
        pull: of the derivative of ``1 - score`` what elements without target multiply.
        push: and minus what elements with target multiply.
    """

    loss: Array
    counts: Array
    slope: Array
    pull: Array
    push: Array


def _groups(ops: Ops, term: Region, totals: Array) -> Groups:
    """From the four sums (..., G, 4) of each group."""
    k = _COEFFICIENTS[type(term)](term)
    overlap, wrong, missed, mass = (totals[..., i] for i in range(4))
    smooth = float32(term.smooth)
    extra = smooth if term.smooth_denominator is None else float32(term.smooth_denominator)
    epsilon = float32(term.epsilon)
    a, b = (k.beta, k.alpha - k.beta) if term.squared else (k.alpha, k.beta)
    numerator = overlap * k.kappa + smooth
    error = functions.chop(ops, functions.times(ops, wrong, a) + functions.times(ops, missed, b))
    denominator = functions.chop(ops, overlap * k.kappa + error) + extra
    low = denominator < epsilon if epsilon else denominator <= 0.0
    safe = ops.where(low, epsilon, denominator)
    none = safe == 0.0
    score = ops.where(none, 0.0, numerator / safe)
    lost = ops.where(low, 1.0 - score, (error + (extra - smooth)) / safe)
    loss, slope = lost, ops.ones_like(lost)
    if term.log:
        under = score < epsilon
        whole = functions.log(ops, ops.where(under, epsilon, score))
        near = ops.both(lost <= 0.25, ops.invert(under))
        loss = 0.0 - ops.where(near, functions.log_of_one_plus(ops, 0.0 - ops.where(near, lost, 0.0)), whole)
        slope = ops.where(under, 0.0, 1.0 / score)
    if k.gamma and not k.of_mean:
        loss, by = _power(ops, loss, k.gamma)
        slope = functions.times(ops, slope, by) if term.log else by
    share = k.beta - k.alpha if term.squared else k.beta
    pull = functions.chop(ops, functions.times(ops, score, k.alpha) / safe)
    push = functions.chop(ops, (lost * k.kappa + functions.times(ops, score, share)) / safe)
    pull = ops.where(low, 0.0, pull)
    push = ops.where(low, ops.where(none, 0.0, functions.chop(ops, k.kappa / safe)), push)
    counts = ops.ones_like(loss)
    if term.empty_class != "keep":
        empty = mass == 0.0
        loss, slope = ops.where(empty, 0.0, loss), ops.where(empty, 0.0, slope)
        if term.empty_class == "exclude":
            counts = ops.where(empty, 0.0, counts)
    if term.per_class:
        axis, groups = len(loss.shape) - 1, int(loss.shape[-1])
        if term.class_weights is not None:
            weights = ops.constant([float32(weight) for weight in term.class_weights], loss, axis)
            loss, slope = functions.times(ops, weights, loss), functions.times(ops, weights, slope)
        counts = counts * ops.constant(_chosen(term, groups), loss, axis)
    loss = ops.where(counts > 0.0, loss, 0.0)
    return Groups(loss, counts, slope, pull, push)


def _chosen(term: Region, channels: int) -> list[float]:
    """1 for the classes that count, 0 for others."""
    counted = set(term.counted(channels))
    return [1.0 if c in counted else 0.0 for c in range(channels)]


def _power(ops: Ops, base: Array, gamma: float) -> tuple[Array, Array]:
    """``base^gamma`` and its derivative; both 0 where the base is not above 0."""
    value = functions.power(ops, base, gamma)
    slope = functions.times(ops, value / base, gamma)
    at_most = base <= 0.0
    return ops.where(at_most, 0.0, value), ops.where(at_most, 0.0, slope)


def _batch(ops: Ops, term: Region, totals: Array) -> Groups:
    """The groups of the batch, from what :attr:`Totals.rows` sums to, zeros after it."""
    if totals.shape[0] is None:
        raise ValueError("sums has an unknown number of sums for each term, expected a known one: 4 for each class")
    number = totals.shape[0] // 4 if term.per_class else 1
    return _groups(ops, term, ops.reshape(ops.cut(totals, 0, 0, 4 * number), [number, 4]))


def _mean(ops: Ops, term: Region, totals: Array, reduction: str) -> tuple[Array, Array]:
    """The value before a power of it, and the number of groups that count."""
    if term.per_sample:
        total, number = totals[0], totals[1]
    else:
        groups = _batch(ops, term, totals)
        total = sums.channel_sum(ops, [groups.loss], 0)[0]
        number = ops.isum(groups.counts, 0)[0]
    if reduction == "sum":
        return total, number
    return ops.where(number == 0.0, 0.0, total / number), number


def _value(ops: Ops, term: Region, totals: Array, reduction: str) -> Array:
    k = _COEFFICIENTS[type(term)](term)
    value, _ = _mean(ops, term, totals, reduction)
    return _power(ops, value, k.gamma)[0] if k.of_mean else value


def elements(term: Region, inputs: Inputs) -> tuple[list[Array], Array]:
    """What the four sums of a group add up, for each element; and ``p - t``."""
    ops, t = inputs.ops, inputs.t
    p, rest = _probabilities(inputs, term.activation)
    u = functions.chop(ops, ops.where(p > rest, (1.0 - t) - rest, p - t))
    parts = [*_overlaps(ops, term, p, rest, t, u), t]
    if inputs.weight is not None:
        parts = [_weighted(ops, inputs.weight, part) for part in parts]
    if inputs.valid is not None:
        parts = [ops.where(inputs.valid, part, 0.0) for part in parts]
    if not term.per_class:
        counted = _counted(term, inputs)
        parts = [ops.where(counted, part, 0.0) for part in parts]
    return parts, u


def _counted(term: Region, inputs: Inputs) -> Array:
    return inputs.per_channel(_chosen(term, inputs.channels)) > 0.0


def coefficients(
    ops: Ops, term: Region, totals: Array, c: Array, reduction: str, own: Groups | None = None
) -> tuple[Array, Array, Array]:
    """Of each group what its elements' gradient is multiplied by, and the two factors in that (:class:`Groups`)."""
    k = _COEFFICIENTS[type(term)](term)
    groups = _batch(ops, term, totals) if own is None else own
    value, count = _mean(ops, term, totals, reduction)
    ratio = ops.where(count == 0.0, 0.0, 1.0 / count) if reduction == "mean" else ops.ones_like(count)
    slope = groups.slope
    if k.of_mean:
        slope = functions.times(ops, slope, _power(ops, value, k.gamma)[1])
    psi = functions.times(ops, c, functions.times(ops, ratio, slope))
    psi = ops.where(groups.counts > 0.0, ops.where(c == 0.0, 0.0, psi), 0.0)
    return psi, groups.pull, groups.push


def pulled(term: Region, inputs: Inputs, u: Array, psi: Array, pull: Array, push: Array) -> Array:
    """The gradient, from ``p - t`` and the coefficients of each element's group."""
    ops, t = inputs.ops, inputs.t
    if term.squared:
        h = functions.times(ops, pull * 2.0, u) - functions.times(ops, push, t)
    else:
        delta = t
        if term.overlap == "minimum":
            delta = ops.where(u < 0.0, 1.0, ops.where(u > 0.0, 0.0, ops.where(u == 0.0, 0.5, u)))
        h = functions.times(ops, pull, 1.0 - delta) - functions.times(ops, push, delta)
    h = ops.where(psi == 0.0, 0.0, functions.times(ops, psi, h))
    if inputs.weight is not None:
        h = _weighted(ops, inputs.weight, h)
    if inputs.valid is not None:
        h = ops.where(inputs.valid, h, 0.0)
    return through_activation(inputs, term.activation, ops.where(_counted(term, inputs), h, 0.0))


def region(term: Region, inputs: Inputs) -> Totals:
    """A ratio of sums, for each group."""
    ops, axis = inputs.ops, inputs.axis
    parts, u = elements(term, inputs)
    rank = len(inputs.t.shape)
    number = inputs.channels if term.per_class else 1
    place = [1] * rank
    if term.per_class:
        place[axis] = number
    own: Groups | None = None
    if term.per_sample:
        place[0] = -1
        own = _groups(ops, term, _by_sample(inputs, parts, term.per_class))
        rows = ops.stack([own.loss, own.counts], 0)
    elif term.per_class:
        front = [axis, *(a for a in range(rank) if a != axis)]
        rows = ops.reshape(ops.stack([ops.transpose(part, front) for part in parts], 1), [4 * number, -1])
    else:
        rows = ops.stack(parts, 0)

    def gradient(totals: Array, c: Array, reduction: str) -> Array:
        found = coefficients(ops, term, totals, c, reduction, own)
        return pulled(term, inputs, u, *(ops.reshape(v, place) for v in found))

    return Totals(rows, gradient)


for _term in _COEFFICIENTS:
    implements(_term, _value)(region)


def _probabilities(inputs: Inputs, activation: str) -> tuple[Array, Array]:
    """``p`` and ``1 - p``."""
    ops = inputs.ops
    if activation == "none":
        return inputs.x, functions.chop(ops, 1.0 - inputs.x)
    found = inputs.softmax if activation == "softmax" else inputs.sigmoid
    return functions.chop(ops, found.p), functions.chop(ops, found.rest)


def _overlaps(ops: Ops, term: Region, p: Array, rest: Array, t: Array, u: Array) -> tuple[Array, Array, Array]:
    """What the overlap sums, what the wrong and what the missed."""
    if term.overlap == "minimum":
        nan = ops.isnan(u)
        parts = (ops.where(u < 0.0, p, t), ops.where(u > 0.0, u, 0.0), ops.where(u < 0.0, 0.0 - u, 0.0))
        overlap, wrong, missed = (ops.where(nan, float("nan"), part) for part in parts)
        return overlap, wrong, missed
    both = functions.times(ops, p, t)
    if term.squared:
        return both, functions.times(ops, u, u), functions.times(ops, p, u)
    return both, functions.times(ops, p, 1.0 - t), functions.times(ops, t, rest)


def _weighted(ops: Ops, weight: Array, v: Array) -> Array:
    return ops.where(weight == 0.0, 0.0, functions.times(ops, weight, v))


def _by_sample(inputs: Inputs, parts: list[Array], per_class: bool) -> Array:
    """The exact sums over the positions of each sample, (B, groups, 4)."""
    ops = inputs.ops
    if per_class:
        front = [0, inputs.axis, *inputs.spatial]
        rows = ops.rows(ops.stack([ops.transpose(part, front) for part in parts], 2), 3)
    else:
        rows = ops.rows(ops.stack(parts, 1), 2)
    found = sums.to_float(ops, sums.state(ops, rows))
    return ops.reshape(found, [-1, inputs.channels if per_class else 1, 4])


def _lovasz_value(ops: Ops, term: Lovasz, totals: Array, reduction: str) -> Array:
    """From the sum of the samples' means and their number; the batch is one sample unless ``per_sample``."""
    if reduction == "sum":
        return totals[0]
    return ops.where(totals[1] == 0.0, 0.0, totals[0] / totals[1])


@implements(Lovasz, _lovasz_value)
def lovasz(term: Lovasz, inputs: Inputs) -> Totals:
    """The errors in falling order, each times what it adds to the Jaccard loss."""
    ops, axis, channels = inputs.ops, inputs.axis, inputs.channels
    unknown = ops.isnan(inputs.t)
    inside = inputs.t > 0.5
    if term.activation == "hinge":
        margin = functions.chop(ops, 1.0 - ops.where(inside, inputs.x, 0.0 - inputs.x))
        signed = ops.where(margin < 0.0, 0.0, margin)
    else:
        p, rest = _probabilities(inputs, term.activation)
        signed = ops.where(inside, rest, p)
    error = ops.where(unknown, float("nan"), ops.abs(signed))
    valid = ops.zeros_like(error) < 1.0
    if inputs.valid is not None:
        valid = ops.both(inputs.valid, valid)

    # Groups of positions in C order, whatever the layout: (C, n), or (B * C, n).
    front = [0, axis, *inputs.spatial] if term.per_sample else [axis, 0, *inputs.spatial]

    def grouped(v: Array) -> Array:
        v = ops.transpose(v, front)
        return ops.rows(v, 2) if term.per_sample else ops.reshape(v, [channels, -1])

    bad = ops.isnan(error)
    key = ops.where(bad, _LAST, ops.bits(ops.where(bad, 0.0, error)))
    order = ops.order(grouped(ops.where(valid, key, -1)))
    one = ops.ones_like(key)
    hits = ops.gather(grouped(ops.where(valid, ops.where(inside, one, 0), 0)), order)
    every = ops.isum_int(hits, 1)
    found = ops.cumsum(hits)
    place = ops.cumsum(ops.ones_like(hits))
    union, left = ops.to_float(every + place - found), ops.to_float(every - found)
    step = ops.where(hits > 0, 1.0 / union, left / (union * (union - 1.0)))
    step = ops.where(every == 0, ops.where(place == 1, 1.0, 0.0), step)
    step = ops.scatter(step, order)
    step = ops.transpose(ops.shaped(step, ops.transpose(error, front)), [front.index(a) for a in range(len(front))])
    step = ops.where(valid, step, 0.0)

    losses = functions.times(ops, error, step)
    losses = ops.where(ops.both(step == 0.0, ops.invert(bad)), 0.0, losses)
    losses = ops.where(valid, losses, 0.0)
    losses = ops.reshape(sums.to_float(ops, sums.state(ops, grouped(losses))), [-1, channels])
    counts = ops.ones_like(losses)
    if term.classes == "present":
        here = ops.isum_int(grouped(ops.where(valid, ops.where(unknown, one, ops.where(inside, one, 0)), 0)), 1)
        counts = ops.where(ops.reshape(here, [-1, channels]) > 0, 1.0, 0.0)
    total = sums.channel_sum(ops, [ops.where(counts > 0.0, losses, 0.0)], 1)
    number = ops.isum(counts, 1)
    means = ops.where(number == 0.0, 0.0, total / number)

    def gradient(totals: Array, c: Array, reduction: str) -> Array:
        ratio = ops.where(number == 0.0, 0.0, 1.0 / number)
        if term.per_sample and reduction == "mean":
            ratio = functions.times(ops, ratio, ops.where(totals[1] == 0.0, 0.0, 1.0 / totals[1]))
        psi = functions.times(ops, c, ratio)
        psi = ops.where(counts > 0.0, ops.where(c == 0.0, 0.0, psi), 0.0)
        sizes = [1] * len(front)
        sizes[0], sizes[axis] = -1, channels
        psi = ops.reshape(psi, sizes)
        down = ops.where(inside, signed >= 0.0, signed < 0.0)
        h = functions.times(ops, psi, ops.where(down, 0.0 - step, step))
        h = ops.where(error == 0.0, 0.0, ops.where(bad, float("nan"), h))
        h = ops.where(psi == 0.0, 0.0, ops.where(valid, h, 0.0))
        return h if term.activation == "hinge" else through_activation(inputs, term.activation, h)

    return Totals(ops.stack([means, ops.ones_like(means)], 0), gradient)


_LAST = 2**63 - 1
"""A key above that of every number: NaN comes first."""
