"""What the terms see and give, and from the terms to the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..spec import PerChannel, PerPosition, Spec, Term
from .constants import Reals, exact_sum, float32
from .distances import Bound

Reduction = Literal["mean", "sum", "none"]


@dataclass(frozen=True)
class Result:
    """A loss and its gradient, in float64.

    Attributes:
        loss: a float; for the reduction "none" the map, of shape `(B, *spatial)`.
        gradient: with respect to the input, of the input's shape.
        terms: each term before its weight, by its name in `spec.names`; floats, or maps for "none".
        map: the loss at every position, whatever the reduction; None if some term has no value at a position.
    """

    loss: Any
    gradient: NDArray[np.float64]
    terms: dict[str, Any]
    map: NDArray[np.float64] | None


@dataclass(frozen=True)
class PenaltyResult:
    """A penalty on weights and its gradient, in float64.

    Attributes:
        loss: a float.
        gradients: with respect to each of the arrays, in their order.
        terms: each term before its weight, by its name in `spec.names`.
    """

    loss: float
    gradients: list[NDArray[np.float64]]
    terms: dict[str, float]


def evaluate(
    spec: Spec,
    x: ArrayLike,
    target: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = "mean",
    upstream: ArrayLike = 1.0,
    channel_axis: int = -1,
) -> Result:
    """The loss of `x` against `target`, and its gradient with respect to `x`.

    Args:
        spec: the loss, its weights plain numbers (of schedules: `spec.at(step)`).
        x: the input: `(B, C, *spatial)` with its channels on `channel_axis`, or `(B,)`, which is one channel.
        target: dense, of the input's shape; or class indices, of the input's shape without the channel axis.
            An index outside `0..C-1` that is not ignored makes its position NaN.
        sample_weight: `(B,)` or `(B, *spatial)`. Booleans are a mask.
        reduction: "mean", "sum" or "none".
        upstream: the gradient of what follows with respect to the loss: a number, or a map for "none".
        channel_axis: where the channels are.

    Raises:
        ValueError: for an unknown reduction; "none" of a term without a map; a penalty on weights; shapes that
            don't fit together.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction={reduction!r}, expected 'mean', 'sum' or 'none'")
    for _, term in spec.parts:
        if term.about_weights:
            raise ValueError(f"{term} is a penalty on weights, expected evaluate_penalty")
        if not term.has_map and reduction == "none":
            raise ValueError(f"reduction='none' for {term}, which has no value at a position")
    raw = np.asarray(x)
    if raw.ndim == 0:
        raise ValueError("x is a scalar, expected an array of shape (B,) or (B, C, *spatial)")
    with np.errstate(all="ignore"):  # infinities and NaN are answers here
        inputs = _read(raw, target, sample_weight, spec.ignore_index, channel_axis, reduction)
        result = _evaluate(spec, inputs, upstream)
    gradient = result.gradient[..., 0] if raw.ndim == 1 else np.moveaxis(result.gradient, -1, channel_axis)
    return Result(result.loss, gradient, result.terms, result.map)


def evaluate_penalty(spec: Spec, arrays: Sequence[ArrayLike], *, upstream: float = 1.0) -> PenaltyResult:
    """The value of a spec of penalties for all elements of some arrays together, and its gradients.

    Raises:
        ValueError: for a term that is no penalty on weights.
    """
    for _, term in spec.parts:
        if not term.about_weights:
            raise ValueError(f"{term} is no penalty on weights, expected L1 or L2")
    given = [_number(np.asarray(array)) for array in arrays]
    w = np.concatenate([np.zeros(0, np.longdouble), *(array.ravel() for array in given)])[:, None]
    with np.errstate(all="ignore"):
        result = _evaluate(spec, Inputs(w, np.zeros_like(w), np.ones(w.shape[:1], bool), None, "sum"), upstream)
    ends = np.cumsum([array.size for array in given])[:-1]
    parts = np.split(result.gradient[:, 0], ends) if given else []
    gradients = [part.reshape(array.shape) for part, array in zip(parts, given, strict=True)]
    return PenaltyResult(result.loss, gradients, result.terms)


def _evaluate(spec: Spec, inputs: Inputs, upstream: ArrayLike) -> Result:
    """The loss of the input with its channels last."""
    reduction, positions = inputs.reduction, inputs.x.shape[:-1]
    total, loss = np.zeros(positions, np.longdouble), np.longdouble(0)
    gradient, terms = np.zeros_like(inputs.x), dict[str, Any]()
    h = _at_positions(np.asarray(upstream, np.longdouble), positions if reduction == "none" else (), "upstream")
    for name, (weight, term) in zip(spec.names, spec.parts, strict=True):
        if not isinstance(weight, float):
            raise ValueError(f"{weight} is a schedule, expected a spec of plain weights: spec.at(step)")
        w, found = float32(weight), _implementations[type(term)](term, inputs)
        if isinstance(found, Whole):
            terms[name] = float(found.value)
            if weight != 0:
                loss = loss + w * found.value
                gradient = gradient + np.where(found.gradient == 0, 0.0, w * found.gradient)
            continue
        value = np.where(found.counts, inputs.weighted(found.value), 0.0)
        size = _normaliser(term, inputs, found)
        scale = 1 / size if size != 0 else np.longdouble(0)
        reduced = exact_sum(value) * (scale if reduction == "mean" else 1)
        if reduction == "mean" and size == 0 and isinstance(term, PerPosition) and term.empty == "nan":
            reduced = np.longdouble("nan")
        terms[name] = _float64(value) if reduction == "none" else float(reduced)
        if weight != 0:
            ones = np.full(positions, w * (scale if reduction == "mean" else 1))
            c = np.where(found.counts, inputs.weighted(ones), 0.0)
            if reduction == "none":  # per position, so it belongs inside a gradient that mixes neighbours
                c = np.where(h == 0, 0.0, c * h)
            gradient = gradient + found.gradient(c)
            total, loss = total + w * value, loss + w * reduced
    gradient = gradient if reduction == "none" else h * gradient
    per_position = _float64(total) if all(term.has_map for _, term in spec.parts) else None
    return Result(per_position if reduction == "none" else float(loss), _float64(gradient), terms, per_position)


def _normaliser(term: Term, inputs: Inputs, found: Found) -> np.longdouble:
    """What the term's mean divides by."""
    name = term.normalizer if isinstance(term, PerPosition) else "valid"
    counts = found.counts
    if name == "one":
        return np.longdouble(1)
    if name == "elements":
        return np.longdouble(counts.size)
    if name == "batch":
        return np.longdouble(len(counts) if counts.size else 0)
    if name == "weights" and found.mass is not None:
        return exact_sum(np.where(counts, found.mass, 0.0))
    if name == "sample_weights" and inputs.weight is not None:
        return exact_sum(np.where(counts, inputs.weight, 0.0))
    return np.longdouble(counts.sum())


# --- What the terms see ---


@dataclass(frozen=True)
class Inputs:
    """The input and the dense target, both `(B, *spatial, C)`, the valid positions and the sample weights."""

    x: Reals
    t: Reals
    valid: NDArray[np.bool_]
    weight: Reals | None
    reduction: Reduction

    @property
    def channels(self) -> int:
        """How many there are."""
        return int(self.x.shape[-1])

    def weighted(self, value: Reals) -> Reals:
        """`s V`; a weight of 0 gives 0, whatever stands there."""
        return value if self.weight is None else np.where(self.weight == 0, 0.0, self.weight * value)


def _read(
    raw: NDArray[Any],
    target: ArrayLike,
    sample_weight: ArrayLike | None,
    ignore_index: int | None,
    channel_axis: int,
    reduction: Reduction,
) -> Inputs:
    x = _number(raw)
    x = x[:, None] if x.ndim == 1 else np.moveaxis(x, channel_axis, -1)
    positions, channels = x.shape[:-1], x.shape[-1]
    wanted = np.asarray(target)
    valid = np.ones(positions, bool)
    if wanted.shape == raw.shape:
        t = _number(wanted)
        t = t[:, None] if t.ndim == 1 else np.moveaxis(t, channel_axis, -1)
    elif wanted.shape == positions:
        if ignore_index is not None:
            valid &= wanted != ignore_index
        hit = wanted[..., None] == np.arange(channels)
        t = np.where(hit.any(-1, keepdims=True), hit, np.longdouble("nan"))
    else:
        raise ValueError(f"target has shape {wanted.shape}, expected {positions} or {raw.shape}")
    weight = None
    if sample_weight is not None:
        given = np.asarray(sample_weight)
        weight = _at_positions(given if given.dtype == bool else _number(given), positions, "sample_weight")
        if given.dtype == bool:
            valid, weight = valid & weight, None
    return Inputs(x, np.where(valid[..., None], t, 0.0), valid, weight, reduction)


def _at_positions(given: NDArray[Any], positions: tuple[int, ...], name: str) -> NDArray[Any]:
    """A number, `(B,)` or `(B, *spatial)`, as a map."""
    expected = dict.fromkeys(((), positions[:1], positions))
    if given.shape not in expected:
        raise ValueError(f"{name} has shape {given.shape}, expected {' or '.join(map(str, expected))}")
    missing = len(positions) - given.ndim
    return np.broadcast_to(given.reshape(given.shape + (1,) * missing), positions)


def _number(values: NDArray[Any]) -> Reals:
    """As the definition reads numbers: integers as float32, and what float32 has only as a subnormal as 0."""
    integral = np.issubdtype(values.dtype, np.integer)
    read = (values.astype(np.float32) if integral else values).astype(np.longdouble)
    return np.where(abs(read) < 2.0**-126, 0.0, read)


def _float64(values: Reals) -> NDArray[np.float64]:
    return np.asarray(values).astype(np.float64)


# --- The terms ---


@dataclass(frozen=True)
class Found:
    """A term at every position.

    Attributes:
        value: the map of values.
        counts: the positions that count.
        gradient: the input's gradient of the sum over positions of `c * value`, for a map `c` that is 0 where
            a position doesn't count.
        mass: what the normaliser "weights" sums over the positions that count; None: 1.
    """

    value: Reals
    counts: NDArray[np.bool_]
    gradient: Callable[[Reals], Reals]
    mass: Reals | None = None


@dataclass(frozen=True)
class Whole:
    """A term that has one value for the whole batch: that of the reduction, and the input's gradient."""

    value: np.longdouble
    gradient: Reals


Implementation = Callable[[Any, Inputs], Found | Whole]
NativeBound = Bound | Callable[[Any], Bound]
_implementations: dict[type[Term], Implementation] = {}
_native_bounds: dict[type[Term], NativeBound] = {}


def implements(term: type[Term], *, native: NativeBound) -> Callable[[Implementation], Implementation]:
    """Register the truth of a term, and the bound of its native numerics: one for all, or a function of the term."""

    def register(function: Implementation) -> Implementation:
        _implementations[term] = function
        _native_bounds[term] = native
        return function

    return register


def native_bound(term: Term) -> Bound:
    """The bound of a term's native numerics."""
    native = _native_bounds[type(term)]
    return native if isinstance(native, Bound) else native(term)


def share(term: PerChannel, inputs: Inputs) -> np.longdouble:
    """What a channel's value is multiplied by before the channels are added."""
    return np.longdouble(1) if term.channels == "sum" else 1 / np.longdouble(inputs.channels)


def per_channel(term: PerChannel, inputs: Inputs, values: Reals, g: Reals) -> Found:
    """A term that looks at one channel of one position at a time: its values there, and their derivatives."""
    each = share(term, inputs)
    return Found(values.sum(-1) * each, inputs.valid, pointwise(g * each))


def pointwise(g: Reals) -> Callable[[Reals], Reals]:
    """The gradient of a term that looks at one position at a time; where `c` is 0, so is it."""
    return lambda c: np.where(c[..., None] == 0, 0.0, c[..., None] * g)
