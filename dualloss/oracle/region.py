"""Terms that compare regions: ratios of sums over positions, and the Lovász extension of one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..spec import Dice, FocalTversky, Jaccard, Lovasz, Region, Tversky
from .activations import Activated
from .constants import Reals, float32, float32s
from .core import Inputs, Whole, implements
from .distances import Bound

_BOUND = Bound(loss=16, map=16, gradient=12)


@implements(Dice, native=_BOUND)
def dice(term: Dice, inputs: Inputs) -> Whole:
    """`2 I / (P + T)`."""
    return _overlap(term, inputs, 2, 1.0, 1.0)


@implements(Jaccard, native=_BOUND)
def jaccard(term: Jaccard, inputs: Inputs) -> Whole:
    """`I / (P + T - I)`."""
    return _overlap(term, inputs, 1, 1.0, 1.0)


@implements(Tversky, native=_BOUND)
def tversky(term: Tversky, inputs: Inputs) -> Whole:
    """`I / (I + alpha FP + beta FN)`."""
    return _overlap(term, inputs, 1, term.alpha, term.beta)


@implements(FocalTversky, native=_BOUND)
def focal_tversky(term: FocalTversky, inputs: Inputs) -> Whole:
    """A power of Tversky's."""
    return _overlap(term, inputs, 1, term.alpha, term.beta, term.gamma, term.power_of_mean)


@dataclass(frozen=True)
class _Loss:
    """A group's loss, and what minus its derivative for the score is."""

    value: Reals
    steep: Reals

    def power(self, gamma: np.longdouble) -> _Loss:
        """`value^gamma`; where the value is not above 0, it and the derivative are 0."""
        none = self.value <= 0
        value = np.where(none, 0.0, self.value**gamma)
        return _Loss(value, np.where(none, 0.0, self.steep * gamma * value / self.value))


def _overlap(
    term: Region,
    inputs: Inputs,
    kappa: int,
    alpha: float,
    beta: float,
    gamma: float | None = None,
    power_of_mean: bool = False,
) -> Whole:
    """`score = (kappa I + smooth) / (kappa I + E + smooth_denominator)`, `E = alpha FP + beta FN`.

    Everything is an array of all elements of the counted classes, or has length 1 along the axes of a group.
    """
    made = Activated.of(term.activation, inputs.x)
    chosen = list(term.counted(inputs.channels))
    t, p, rest, u = (v[..., chosen] for v in (inputs.t, made.p, made.rest, made.minus(inputs.t)))
    factor = np.where(inputs.valid, 1 if inputs.weight is None else inputs.weight, 0)[..., None]
    axes = (() if term.per_sample else (0,)) + tuple(range(1, t.ndim - 1)) + (() if term.per_class else (t.ndim - 1,))

    def total(values: Reals) -> Reals:
        return np.where(factor == 0, 0.0, factor * values).sum(axes, keepdims=True)

    a, b = float32(alpha), float32(beta)
    if term.overlap == "minimum":
        overlap, false_positive, false_negative = np.where(u < 0, p, t), np.maximum(u, 0), np.maximum(-u, 0)
        d_overlap = np.where(u < 0, 1.0, np.where(u > 0, 0.0, 0.5))
        error = a * total(false_positive) + b * total(false_negative)
        d_error = a * (1 - d_overlap) - b * d_overlap
    elif term.squared:  # FP = sum of p u, FN = sum of -t u
        overlap, d_overlap = p * t, t
        error = b * total(u * u) + (a - b) * total(p * u)
        d_error = 2 * a * u + (a - b) * t
    else:
        overlap, d_overlap = p * t, t
        error = a * total(p * (1 - t)) + b * total(t * rest)
        d_error = a * (1 - t) - b * t

    smooth = float32(term.smooth)
    more = smooth if term.smooth_denominator is None else float32(term.smooth_denominator)
    least = float32(term.epsilon)
    numerator, denominator = kappa * total(overlap) + smooth, kappa * total(overlap) + error + more
    low = (denominator < least) | (denominator == 0)
    over = np.where(low, least, denominator)
    score = np.where(over == 0, 0.0, numerator / over)
    loss = np.where(low, 1 - score, (error + (more - smooth)) / over)
    # The quotient rule; (denominator - numerator) / denominator is the loss.
    d_score = np.where(low, kappa * d_overlap / over, (kappa * d_overlap * loss - score * d_error) / over)
    d_score = np.where(over == 0, 0.0, d_score)

    found = _Loss(loss, np.ones_like(loss))
    if term.log:
        cut = score < least
        minus_log = np.where(loss <= 0.25, -np.log1p(-loss), -np.log(score))
        found = _Loss(np.where(cut, -np.log(least), minus_log), np.where(cut, 0.0, 1 / score))
    if gamma is not None and not power_of_mean:
        found = found.power(float32(gamma))
    counts = np.ones(found.value.shape, bool)
    if term.empty_class != "keep":
        empty = total(t) == 0
        found = _Loss(np.where(empty, 0.0, found.value), np.where(empty, 0.0, found.steep))
        if term.empty_class == "exclude":
            counts = ~empty
    if term.class_weights is not None:
        w = float32s(term.class_weights, inputs.channels)[chosen]
        found = _Loss(w * found.value, w * found.steep)

    groups = counts.sum()
    each = np.longdouble(1) if inputs.reduction == "sum" else 1 / np.longdouble(groups) if groups else np.longdouble(0)
    mean = _Loss(np.asarray(np.where(counts, found.value, 0.0).sum() * each), np.asarray(each))
    if gamma is not None and power_of_mean:
        mean = mean.power(float32(gamma))
    steep = np.where(counts, mean.steep * found.steep, 0.0)
    g = np.where((factor == 0) | (steep == 0), 0.0, factor * (steep * -d_score))
    return Whole(np.longdouble(mean.value), made.back(_placed(g, inputs.x.shape, chosen)))


def _placed(g: Reals, shape: tuple[int, ...], chosen: list[int]) -> Reals:
    """The classes' gradients at their places among all classes."""
    result = np.zeros(shape, np.longdouble)
    result[..., chosen] = g
    return result


@implements(Lovasz, native=Bound(loss=4, map=4, gradient=32))
def lovasz(term: Lovasz, inputs: Inputs) -> Whole:
    """The sum of the errors, each times what it adds to the Jaccard loss when they come in falling order."""
    x, channels = inputs.x, inputs.channels
    wanted = np.where(np.isnan(inputs.t), np.nan, inputs.t > 0.5).astype(x.dtype)
    sign = 1 - 2 * wanted  # of the error's derivative
    made = Activated.of("softmax" if term.activation == "softmax" else "none", x)
    if term.activation == "hinge":
        errors = np.maximum(1 + sign * x, 0)
    else:
        apart = np.where(wanted == 1, made.rest, made.p)
        errors, sign = abs(apart), np.where(apart < 0, -sign, sign)
    errors = np.where(np.isnan(wanted), np.nan, errors)

    samples, together = (x.shape[0], 1) if term.per_sample else (1, x.shape[0])
    rows = (samples, together * math.prod(x.shape[1:-1]), channels)
    valid = np.broadcast_to(inputs.valid[..., None], x.shape).reshape(rows)
    flat, truth, unknown = errors.reshape(rows), wanted.reshape(rows) == 1, np.isnan(wanted).reshape(rows)
    values, slopes = np.zeros((samples, channels), x.dtype), np.zeros(flat.shape, x.dtype)
    present = np.zeros((samples, channels), bool)
    for sample, channel in np.ndindex(samples, channels):
        at: Any = (sample, valid[sample, :, channel], channel)
        steps = _jaccard_steps(flat[at], truth[at])
        values[sample, channel] = np.where((steps == 0) & ~np.isnan(flat[at]), 0.0, flat[at] * steps).sum()
        slopes[at] = np.where(flat[at] == 0, 0.0, np.where(np.isnan(flat[at]), np.nan, steps))
        present[sample, channel] = (truth[at] | unknown[at]).any()

    counts = present if term.classes == "present" else np.ones_like(present)
    sizes = counts.sum(-1, keepdims=True)
    each = np.where(counts, 1 / np.maximum(sizes, 1).astype(x.dtype), 0.0)
    if term.per_sample and inputs.reduction == "mean" and samples:
        each = each / samples
    value = np.where(counts, values * each, 0.0).sum()
    g = np.where(each[:, None, :] == 0, 0.0, each[:, None, :] * slopes).reshape(x.shape)
    return Whole(np.longdouble(value), made.back(np.where(g == 0, 0.0, sign * g)))


def _jaccard_steps(errors: Reals, truth: NDArray[np.bool_]) -> Reals:
    """What each error adds to the Jaccard loss `1 - I / U` when it comes: a difference of two fractions of integers."""
    # NaN first; errors that are equal but for the last bits of their computation tie, in the order of the positions.
    order = np.lexsort((-errors.astype(np.float64), ~np.isnan(errors)))
    came = truth[order].astype(np.int64)
    size = came.sum()
    inter, union = size - came.cumsum(), size + (1 - came).cumsum()
    inter_before, union_before = inter + came, union - (1 - came)
    first = union_before == 0  # of a class that does not occur: from the loss 0 to 1
    gained = np.where(first, 1, inter_before * union - inter * union_before)
    steps = np.empty(errors.shape, errors.dtype)
    steps[order] = gained / np.where(first, 1, union_before * union).astype(errors.dtype)
    return steps
