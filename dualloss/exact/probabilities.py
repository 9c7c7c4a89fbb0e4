"""What terms for classes share: smoothed targets, probabilities kept from 0 and 1 (numerics/classification.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from . import functions, sums
from .constants import float32
from .ops import Array, Ops
from .terms import Inputs

NAN = float("nan")


@dataclass(frozen=True)
class Clipped:
    """A probability and ``1 - p``, both kept from 0 by ``clip``, and where it was so before."""

    p: Array
    rest: Array
    inside: Array

    @staticmethod
    def of(ops: Ops, y: Array, rest: Array, clip: float) -> Clipped:
        """From ``y`` and ``rest = 1 - y``; NaN for NaN."""
        least, most = float32(clip), float32(1.0 - clip)
        margin = 1.0 - most
        low, high = y < least, rest < margin
        p = ops.where(low, least, ops.where(high, most, y))
        r = ops.where(low, 1.0 - least, ops.where(high, margin, rest))
        return Clipped(p, r, ops.both(y >= least, rest >= margin))


@dataclass(frozen=True)
class Classes:
    """What stands for the softmax where the input holds probabilities of classes.

    Attributes:
        p: the clipped probabilities.
        rest: ``1 - p``.
        inside: where nothing was clipped.
        losses: ``-log p``.
        bad: positions where value and gradient are NaN.
        total: what the losses are renormalised by after the clip, or None.
        back: the gradient of the input, from minus the derivatives for what is clipped.
    """

    p: Array
    rest: Array
    inside: Array
    losses: Array
    bad: Array
    total: Array | None
    back: Callable[[Array], Array]

    @staticmethod
    def of(inputs: Inputs, clip: float, renormalize: str) -> Classes:
        """Of the input, divided by its sum "before" the clip, "after" it, or "never"."""
        ops, axis, x = inputs.ops, inputs.axis, inputs.x
        total = sums.channel_sum(ops, [x], axis)
        good = ops.abs(total) < float("inf")
        if renormalize == "before":
            good = ops.both(good, ops.abs(total) > 0.0)
            y = x / total
        else:
            y = x
        kept = Clipped.of(ops, y, 1.0 - y, clip)

        def back(h: Array) -> Array:
            if renormalize != "before":
                return 0.0 - h
            return (sums.channel_sum(ops, [h * y], axis) - h) / total

        after = None
        if renormalize == "after":
            after = sums.channel_sum(ops, [kept.p], axis)
            losses = functions.log_of_one_plus(ops, functions.chop(ops, (after - kept.p) / kept.p))
        else:
            losses = 0.0 - functions.log_beside(ops, kept.p, kept.rest)
        return Classes(kept.p, kept.rest, kept.inside, losses, ops.invert(good), after, back)


def smoothed(ops: Ops, t: Array, smoothing: float, shares: int) -> Array:
    """``(1 - smoothing) t + smoothing / shares``, chopped, so that no compiler regroups what is done with it."""
    if not smoothing:
        return t
    return functions.chop(ops, t * float32(1.0 - smoothing) + float32(smoothing / shares))


def constants(inputs: Inputs, values: Sequence[float] | float) -> Array:
    """Constants of a spec, one a channel or one for all."""
    given = [values] * inputs.channels if isinstance(values, float) else values
    return inputs.per_channel([float32(value) for value in given])


def unless_empty(ops: Ops, amount: Array, losses: Array) -> Array:
    """``amount * losses``; an amount of 0 counts nothing, even where the loss is infinite."""
    return ops.where(amount == 0.0, 0.0, amount * losses)


def nan_in_either(ops: Ops, a: Array, b: Array) -> Array:
    """Where NaN stands in one of two arrays."""
    return ops.isnan(ops.where(ops.isnan(a), a, b))
