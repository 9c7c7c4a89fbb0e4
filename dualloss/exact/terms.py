"""What a term gives the engine, and how a term's implementation is found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..spec import PerChannel, Term
from . import functions, sums
from .ops import Array, Ops

Function = Callable[[Ops, Array], Array]


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
        weight: the sample weights, float64 per position, or None.
        distances: the signed distances to the boundary of each class, for the terms that need them; or None.
    """

    ops: Ops
    x: Array
    t: Array
    valid: Array | None
    axis: int
    spatial: Sequence[int]
    weight: Array | None = None
    distances: Array | None = None
    _softmax: Softmax | None = None
    _sigmoid: Sigmoid | None = None

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

    @property
    def sigmoid(self) -> Sigmoid:
        """The sigmoid, computed once for all the terms that need it."""
        if self._sigmoid is None:
            self._sigmoid = Sigmoid.of(self)
        return self._sigmoid

    def per_channel(self, values: Sequence[float]) -> Array:
        """One constant a channel, laid along the channel axis."""
        return self.ops.constant(values, self.x, self.axis)


@dataclass(frozen=True)
class Softmax:
    """``d = x - max x``, the probabilities, ``1 - p`` without cancellation, and ``log sum exp d``.

    docs/numerics/classification.md, Softmax.
    """

    d: Array
    p: Array
    rest: Array
    log_sum: Array

    @staticmethod
    def of(inputs: Inputs, exp: Function = functions.exp, log1p: Function = functions.log1p) -> Softmax:
        """NaN where an input is NaN or +inf or all are -inf: there some ``d``, hence the sum, is NaN."""
        ops, axis = inputs.ops, inputs.axis
        d = inputs.x - ops.amax(inputs.x, axis)
        e = exp(ops, d)
        top = d == 0.0
        others = sums.channel_sum(ops, [ops.where(top, 0.0, e)], axis)
        tops = ops.isum(ops.where(top, 1.0, 0.0), axis)
        all_but_one, total = others + (tops - 1.0), others + tops
        rest = ops.where(top, all_but_one, total - e) / total
        return Softmax(d, e / total, rest, log1p(ops, all_but_one))


@dataclass(frozen=True)
class Sigmoid:
    """``v = exp(-|x|)``, the sigmoid and ``1`` less it (docs/numerics/classification.md, Sigmoid). NaN for NaN."""

    v: Array
    p: Array
    rest: Array

    @staticmethod
    def of(inputs: Inputs) -> Sigmoid:
        """Of every element."""
        ops, x = inputs.ops, inputs.x
        v = functions.exp(ops, 0.0 - ops.abs(x))
        near, far = 1.0 / (v + 1.0), v / (v + 1.0)
        up = x >= 0.0
        return Sigmoid(v, ops.where(up, near, far), ops.where(up, far, near))


@dataclass(frozen=True)
class Result:
    """A term with a value at every position.

    Attributes:
        value: the value, at most 48 bits.
        counts: positions that count; None: all.
        share: what the gradient's coefficient is scaled by: 1 / channels for a mean over channels.
        gradient: the gradient for a coefficient, a scalar or one per position (0 where nothing counts).
        weights: what the normaliser "weights" sums over the positions that count; None: 1.
    """

    value: Array
    counts: Array | None
    share: float
    gradient: Callable[[Array], Array]
    weights: Array | None = None


@dataclass(frozen=True)
class Totals:
    """A term that is a function of sums over positions.

    Attributes:
        rows: (M, n): what to sum, each row for itself. The sums of parts of a batch add up.
        gradient: the gradient for the sums, float64 (M,), a coefficient, a scalar, and the reduction.
    """

    rows: Array
    gradient: Callable[[Array, Array, str], Array]


Implementation = Callable[[Any, Inputs], Result | Totals]
FromSums = Callable[[Ops, Any, Array, str], Array]
_implementations: dict[type[Term], Implementation] = {}
_from_sums: dict[type[Term], FromSums] = {}


def implements(term: type[Term], from_sums: FromSums | None = None) -> Callable[[Implementation], Implementation]:
    """Register the exact value and gradient of a term.

    ``from_sums(ops, term, sums, reduction)``, for a term that gives :class:`Totals`: its value, a scalar.
    """

    def register(function: Implementation) -> Implementation:
        _implementations[term] = function
        if from_sums is not None:
            _from_sums[term] = from_sums
        return function

    return register


def evaluate(term: Term, inputs: Inputs) -> Result | Totals:
    """Value and gradient of a term."""
    return _implementations[type(term)](term, inputs)


def value_of_sums(ops: Ops, term: Term, totals: Array, reduction: str) -> Array:
    """The value of a term that is a function of sums."""
    return _from_sums[type(term)](ops, term, totals, reduction)


def over_channels(
    term: PerChannel, inputs: Inputs, parts: Sequence[Array], beside: Array | None = None
) -> tuple[Array, float]:
    """A term's value at a position, from what it has for every channel, and its :attr:`Result.share`.

    ``beside`` is what the sum over the channels has beside these, per position.
    """
    total = sums.channel_sum(inputs.ops, parts, inputs.axis)
    if beside is not None:
        total = total + beside
    if term.channels == "sum":
        return functions.chop(inputs.ops, total), 1.0
    share = 1 / inputs.channels
    return functions.times(inputs.ops, total, share), share


def per_channel(
    term: PerChannel, inputs: Inputs, parts: Sequence[Array], g: Callable[[], Array], beside: Array | None = None
) -> Result:
    """The result of a term that looks at one element at a time: its values, and its gradient for a coefficient of 1."""
    value, share = over_channels(term, inputs, parts, beside)
    return Result(value, inputs.valid, share, lambda c: scaled(inputs.ops, c, g()))


def scaled(ops: Ops, c: Array, g: Array) -> Array:
    """``c ⊗ g``, exactly 0 where ``c`` is, whatever ``g`` holds there."""
    return ops.where(c == 0.0, 0.0, functions.times(ops, c, g))


def through_softmax(inputs: Inputs, g: Array) -> Array:
    """The gradient of the softmax's input, from that of its output; 0 where that is 0 in every channel."""
    ops, axis, soft = inputs.ops, inputs.axis, inputs.softmax
    untouched = ops.isum(ops.where(g == 0.0, 0.0, 1.0), axis) == 0.0
    q = functions.chop(ops, soft.p)
    # The softmax's Jacobian does not see a shift; this one makes what is left at p = 1 small.
    h = g - ops.amax(ops.where(soft.d == 0.0, g, float("-inf")), axis)
    return ops.where(untouched, 0.0, functions.times(ops, q, h - sums.channel_sum(ops, [q * h], axis)))


def through_activation(inputs: Inputs, activation: str, g: Array) -> Array:
    """The gradient of the input, from that of the softmax, of the sigmoid or ("none") of itself."""
    ops = inputs.ops
    if activation == "softmax":
        return through_softmax(inputs, g)
    if activation == "none":
        return g
    slope = functions.times(ops, inputs.sigmoid.p, inputs.sigmoid.rest)
    return ops.where(g == 0.0, 0.0, functions.times(ops, g, slope))
