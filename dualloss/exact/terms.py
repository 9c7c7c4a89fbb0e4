"""What a term gives the engine, and how a term's implementation is found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..spec import Term
from . import functions, sums
from .ops import Array, Ops


@dataclass
class Inputs:
    """What every term sees. Position arrays have length 1 on the channel axis.

    Attributes:
        ops: the backend's operations.
        x: the input, float64.
        t: the target, dense, float64: NaN at every class where a label is out of range, 0 where invalid.
        valid: positions that are neither ignored nor masked; None: all.
        axis: the channel axis.
        spatial: the spatial axes.
    """

    ops: Ops
    x: Array
    t: Array
    valid: Array | None
    axis: int
    spatial: Sequence[int]
    _softmax: Softmax | None = None

    @property
    def channels(self) -> int:
        """The number of channels."""
        return int(self.x.shape[self.axis])

    @property
    def softmax(self) -> Softmax:
        """The softmax, computed once for all the terms that need it."""
        if self._softmax is None:  # functools.cached_property holds a lock, which torch.compile cannot trace
            self._softmax = Softmax.of(self)
        return self._softmax

    def per_channel(self, values: Sequence[float]) -> Array:
        """One constant a channel, laid along the channel axis."""
        return self.ops.constant(values, self.x, self.axis)


@dataclass(frozen=True)
class Softmax:
    """Section 3.1: ``d = x - max x``, the probabilities, ``1 - p`` without cancellation, and ``log sum exp d``."""

    d: Array
    p: Array
    rest: Array
    log_sum: Array

    @staticmethod
    def of(inputs: Inputs) -> Softmax:
        """NaN where an input is NaN or +inf or all are -inf: there some ``d``, hence the sum, is NaN."""
        ops, axis = inputs.ops, inputs.axis
        d = inputs.x - ops.amax(inputs.x, axis)
        e = functions.exp(ops, d)
        top = d == 0.0
        others = sums.channel_sum(ops, [ops.where(top, 0.0, e)], axis)
        tops = ops.isum(ops.where(top, 1.0, 0.0), axis)
        all_but_one, total = others + (tops - 1.0), others + tops
        rest = ops.where(top, all_but_one, total - e) / total
        return Softmax(d, e / total, rest, functions.log1p(ops, all_but_one))


@dataclass(frozen=True)
class Result:
    """A term at every position.

    Attributes:
        value: the value, at most 48 bits.
        counts: positions that count; None: all.
        normaliser: ``"count"`` (of those that count), ``"all"`` positions, or the weights to sum over those that count.
        share: what the gradient's coefficient is scaled by: 1 / channels for a mean over channels.
        gradient: the gradient for a coefficient, a scalar or one per position (0 where nothing counts).
    """

    value: Array
    counts: Array | None
    normaliser: Any
    share: float
    gradient: Callable[[Array], Array]


Implementation = Callable[[Any, Inputs], Result]
_implementations: dict[type[Term], Implementation] = {}


def implements(term: type[Term]) -> Callable[[Implementation], Implementation]:
    """Register the exact value and gradient of a term."""

    def register(function: Implementation) -> Implementation:
        _implementations[term] = function
        return function

    return register


def evaluate(term: Term, inputs: Inputs) -> Result:
    """Value and gradient of a term."""
    return _implementations[type(term)](term, inputs)


def scaled(ops: Ops, c: Array, g: Array) -> Array:
    """``c ⊗ g``, exactly 0 where ``c`` is, whatever ``g`` holds there."""
    return ops.where(c == 0.0, 0.0, functions.times(ops, c, g))
