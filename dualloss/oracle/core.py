"""What the terms see and give, what several of them use, and from the terms to the loss."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..spec import Spec, Term
from .distances import Bound

Reals = NDArray[Any]
Reduction = Literal["mean", "sum", "none"]


@dataclass(frozen=True)
class Result:
    """A loss and its gradient, in float64.

    Attributes:
        loss: a float; for the reduction "none" the map, of shape `(B, *spatial)`.
        gradient: with respect to the input, of the input's shape.
        terms: each term before its weight, by its name in `spec.names`; floats, or maps for "none".
        map: the loss at every position, whatever the reduction.
    """

    loss: Any
    gradient: NDArray[np.float64]
    terms: dict[str, Any]
    map: NDArray[np.float64]


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
        spec: the loss.
        x: the input: `(B, C, *spatial)` with its channels on `channel_axis`, or `(B,)`, which is one channel.
        target: dense, of the input's shape; or class indices, of the input's shape without the channel axis.
            An index outside `0..C-1` that is not ignored makes its position NaN.
        sample_weight: `(B,)` or `(B, *spatial)`. Booleans are a mask.
        reduction: "mean", "sum" or "none".
        upstream: the gradient of what follows with respect to the loss: a number, or a map for "none".
        channel_axis: where the channels are.

    Raises:
        ValueError: for an unknown reduction, or shapes that don't fit together.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction={reduction!r}, expected 'mean', 'sum' or 'none'")
    raw = np.asarray(x)
    if raw.ndim == 0:
        raise ValueError("x is a scalar, expected an array of shape (B,) or (B, C, *spatial)")
    single = raw.ndim == 1
    with np.errstate(all="ignore"):  # infinities and NaN are answers here
        inputs = _read(raw, target, sample_weight, spec.ignore_index, channel_axis)
        maps, terms, gradient = [], {}, np.zeros_like(inputs.x)
        positions = inputs.x.shape[:-1]
        h = _at_positions(np.asarray(upstream, np.longdouble), positions if reduction == "none" else (), "upstream")
        for name, (weight, term) in zip(spec.names, spec.parts, strict=True):
            found = _implementations[type(term)](term, inputs)
            value = np.where(found.counts, inputs.weighted(found.value), 0.0)
            scale = 1 / found.normaliser if found.normaliser != 0 else np.longdouble(0)
            scale = scale if reduction == "mean" else np.longdouble(1)
            terms[name] = _float64(value) if reduction == "none" else float(exact_sum(value) * scale)
            if weight != 0:
                c = np.where(found.counts, inputs.weighted(np.full(positions, float32(weight) * scale)), 0.0)
                if reduction == "none":  # per position, so it belongs inside a gradient that mixes neighbours
                    c = np.where(h == 0, 0.0, c * h)
                gradient = gradient + found.gradient(c)
                maps.append((float32(weight), value, scale))
        total = sum((w * v for w, v, _ in maps), np.zeros_like(inputs.x[..., 0]))
        loss = float(sum((w * exact_sum(v) * scale for w, v, scale in maps), np.longdouble(0)))
        gradient = gradient if reduction == "none" else h * gradient
        gradient = gradient[..., 0] if single else np.moveaxis(gradient, -1, channel_axis)
        per_position = _float64(total)
        return Result(per_position if reduction == "none" else loss, _float64(gradient), terms, per_position)


# --- What the terms see ---


@dataclass(frozen=True)
class Inputs:
    """The input and the dense target, both `(B, *spatial, C)`, the valid positions and the sample weights."""

    x: Reals
    t: Reals
    valid: NDArray[np.bool_]
    weight: Reals | None

    def weighted(self, value: Reals) -> Reals:
        """`s V`; a weight of 0 gives 0, whatever stands there."""
        return value if self.weight is None else np.where(self.weight == 0, 0.0, self.weight * value)


def _read(
    raw: NDArray[Any],
    target: ArrayLike,
    sample_weight: ArrayLike | None,
    ignore_index: int | None,
    channel_axis: int,
) -> Inputs:
    x = raw.astype(np.longdouble)
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
    return Inputs(x, np.where(valid[..., None], t, 0.0), valid, weight)


def _at_positions(given: NDArray[Any], positions: tuple[int, ...], name: str) -> NDArray[Any]:
    """A number, `(B,)` or `(B, *spatial)`, as a map."""
    expected = dict.fromkeys(((), positions[:1], positions))
    if given.shape not in expected:
        raise ValueError(f"{name} has shape {given.shape}, expected {' or '.join(map(str, expected))}")
    missing = len(positions) - given.ndim
    return np.broadcast_to(given.reshape(given.shape + (1,) * missing), positions)


def _number(values: NDArray[Any]) -> Reals:
    """As the definition reads a target or a weight: integers count as float32."""
    integral = np.issubdtype(values.dtype, np.integer)
    return (values.astype(np.float32) if integral else values).astype(np.longdouble)


def float32(constant: float) -> np.longdouble:
    """A constant of a spec."""
    return np.longdouble(np.float32(constant))


def exact_sum(values: Reals) -> np.longdouble:
    """The sum, rounded once. Each value goes in as a pair of float64 that add up to it."""
    high = values.astype(np.float64)
    if not np.isfinite(high).all():
        return np.longdouble(high.sum())
    low = (values - high).astype(np.float64)
    return np.longdouble(math.fsum(itertools.chain(high.flat, low.flat)))


def _float64(values: Reals) -> NDArray[np.float64]:
    return np.asarray(values).astype(np.float64)


# --- The terms ---


@dataclass(frozen=True)
class Found:
    """A term at every position.

    Attributes:
        value: the map of values.
        counts: the positions that count.
        normaliser: what a mean divides by.
        gradient: the input's gradient of the sum over positions of `c * value`, for a map `c` that is 0 where
            a position doesn't count.
    """

    value: Reals
    counts: NDArray[np.bool_]
    normaliser: np.longdouble
    gradient: Callable[[Reals], Reals]


Implementation = Callable[[Any, Inputs], Found]
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


def smooth(t: Reals, smoothing: float, share: float) -> Reals:
    """`(1 - smoothing) t + smoothing * share`."""
    return float32(1 - smoothing) * t + float32(smoothing * share) if smoothing else t


def weighted_log(u: Reals, minus_log: Reals) -> Reals:
    """`u * -log p`, and 0 where `u` is: a class without target counts nothing, even at `p = 0`."""
    return np.where((u == 0) & ~np.isnan(minus_log), 0.0, u * minus_log)


def pointwise(g: Reals) -> Callable[[Reals], Reals]:
    """The gradient of a term that looks at one position at a time; where `c` is 0, so is it."""
    return lambda c: np.where(c[..., None] == 0, 0.0, c[..., None] * g)


@dataclass(frozen=True)
class Softmax:
    """`p`, `-log p`, and for each class the sum of the others: `1 - p` without cancellation."""

    p: Reals
    minus_log: Reals
    rest: Reals

    @staticmethod
    def of(x: Reals) -> Softmax:
        """NaN where an input is NaN or +inf, or all are -inf."""
        d = x - x.max(-1, keepdims=True)  # NaN if any x is NaN or +inf, or all are -inf
        e = np.exp(d)
        # The largest has e = 1; log1p of the sum of the others is right where that sum is tiny.
        top = np.arange(x.shape[-1]) == np.expand_dims(x.argmax(-1), -1)
        others = np.where(top, 0.0, e).sum(-1, keepdims=True)
        total = 1 + others
        bad = np.isnan(d).any(-1, keepdims=True)
        p, minus_log, rest = e / total, np.log1p(others) - d, sum_of_others(e) / total
        return Softmax(*(np.where(bad, np.nan, v) for v in (p, minus_log, rest)))


def sum_of_others(values: Reals) -> Reals:
    """For each channel the sum of the other channels."""
    return values @ (1 - np.eye(values.shape[-1], dtype=values.dtype))
