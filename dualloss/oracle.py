"""The truth in float64: every term as its formula stands in a textbook, with NumPy.

This is what the exact and the native numerics are measured against. It shares no code with either and has
none of their roundings: it works in `numpy.longdouble` (64 significant bits on x86, float64 on platforms with
nothing wider), avoids cancellation where the formulas allow it, and rounds to float64 at the end. A loss of
1e-30 is as right as a loss of 1.

What it computes is docs/numerics.md, sections 2 to 4, without the roundings. The constants of a spec are read
as float32, as there: they are part of the question, not of the error. Inside this module the channels are
last, `(B, *spatial, C)`; a "map" is `(B, *spatial)`. To add a term, write one function under `@_term`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .spec import BinaryCrossEntropy, Boundary, CrossEntropy, Huber, MeanSquaredError, Spec, Term

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
            found = _TERMS[type(term)](term, inputs)
            value = np.where(found.counts, inputs.weighted(found.value), 0.0)
            scale = 1 / found.normaliser if found.normaliser != 0 else np.longdouble(0)
            scale = scale if reduction == "mean" else np.longdouble(1)
            terms[name] = _float64(value) if reduction == "none" else float(_sum(value) * scale)
            if weight != 0:
                c = np.where(found.counts, inputs.weighted(np.full(positions, _float32(weight) * scale)), 0.0)
                if reduction == "none":  # per position, so it belongs inside a gradient that mixes neighbours
                    c = np.where(h == 0, 0.0, c * h)
                gradient = gradient + found.gradient(c)
                maps.append((_float32(weight), value, scale))
        total = sum((w * v for w, v, _ in maps), np.zeros_like(inputs.x[..., 0]))
        loss = float(sum((w * _sum(v) * scale for w, v, scale in maps), np.longdouble(0)))
        gradient = gradient if reduction == "none" else h * gradient
        gradient = gradient[..., 0] if single else np.moveaxis(gradient, -1, channel_axis)
        per_position = _float64(total)
        return Result(per_position if reduction == "none" else loss, _float64(gradient), terms, per_position)


# --- What the terms see ---


@dataclass(frozen=True)
class _Inputs:
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
) -> _Inputs:
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
    return _Inputs(x, np.where(valid[..., None], t, 0.0), valid, weight)


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


def _float32(constant: float) -> np.longdouble:
    """A constant of a spec."""
    return np.longdouble(np.float32(constant))


def _sum(values: Reals) -> np.longdouble:
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
class _Found:
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


_TERMS: dict[type[Term], Callable[[Any, _Inputs], _Found]] = {}


def _term(spec: type[Term]) -> Callable[[Callable[[Any, _Inputs], _Found]], Callable[[Any, _Inputs], _Found]]:
    def register(function: Callable[[Any, _Inputs], _Found]) -> Callable[[Any, _Inputs], _Found]:
        _TERMS[spec] = function
        return function

    return register


def _smooth(t: Reals, smoothing: float, share: float) -> Reals:
    """`(1 - smoothing) t + smoothing * share`."""
    return _float32(1 - smoothing) * t + _float32(smoothing * share) if smoothing else t


def _weighted_log(u: Reals, minus_log: Reals) -> Reals:
    """`u * -log p`, and 0 where `u` is: a class without target counts nothing, even at `p = 0`."""
    return np.where((u == 0) & ~np.isnan(minus_log), 0.0, u * minus_log)


def _pointwise(g: Reals) -> Callable[[Reals], Reals]:
    """The gradient of a term that looks at one position at a time; where `c` is 0, so is it."""
    return lambda c: np.where(c[..., None] == 0, 0.0, c[..., None] * g)


@dataclass(frozen=True)
class _Softmax:
    """`p`, `-log p`, and for each class the sum of the others: `1 - p` without cancellation."""

    p: Reals
    minus_log: Reals
    rest: Reals

    @staticmethod
    def of(x: Reals) -> _Softmax:
        d = x - x.max(-1, keepdims=True)  # NaN if any x is NaN or +inf, or all are -inf
        e = np.exp(d)
        # The largest has e = 1; log1p of the sum of the others is right where that sum is tiny.
        top = np.arange(x.shape[-1]) == np.expand_dims(x.argmax(-1), -1)
        others = np.where(top, 0.0, e).sum(-1, keepdims=True)
        total = 1 + others
        bad = np.isnan(d).any(-1, keepdims=True)
        p, minus_log, rest = e / total, np.log1p(others) - d, _sum_of_others(e) / total
        return _Softmax(*(np.where(bad, np.nan, v) for v in (p, minus_log, rest)))


def _sum_of_others(values: Reals) -> Reals:
    """For each channel the sum of the other channels."""
    return values @ (1 - np.eye(values.shape[-1], dtype=values.dtype))


@_term(CrossEntropy)
def _cross_entropy(term: CrossEntropy, inputs: _Inputs) -> _Found:
    """`V = -sum_c u_c log p_c` with `u_c = w_c t'_c`; gradient `p_c sum_j u_j - u_c`."""
    channels = inputs.x.shape[-1]
    w = np.ones(channels, np.longdouble)
    if term.class_weights is not None:
        w = np.array([_float32(v) for v in term.class_weights])
    u = w * _smooth(inputs.t, term.label_smoothing, 1 / channels)
    soft = _Softmax.of(inputs.x)
    value = _weighted_log(u, soft.minus_log).sum(-1)
    # p_c sum_j u_j - u_c, the two shares of u_c taken together: for a single class nothing cancels.
    g = soft.p * _sum_of_others(u) - u * soft.rest

    normaliser = np.longdouble(inputs.valid.sum())
    if term.normalizer == "all":
        normaliser = np.longdouble(inputs.valid.size)
    elif term.normalizer == "weights" and term.class_weights is not None:
        normaliser = _sum(np.where(inputs.valid, (w * inputs.t).sum(-1), 0.0))
    return _Found(value, inputs.valid, normaliser, _pointwise(g))


@_term(BinaryCrossEntropy)
def _binary_cross_entropy(term: BinaryCrossEntropy, inputs: _Inputs) -> _Found:
    """Mean over c of `-a log sigmoid(x) - b log sigmoid(-x)`; gradient `b sigmoid(x) - a sigmoid(-x)`."""
    x, channels = inputs.x, inputs.x.shape[-1]
    t = _smooth(inputs.t, term.label_smoothing, 1 / 2)
    weights = term.pos_weight if isinstance(term.pos_weight, tuple) else (term.pos_weight,)
    a = t if term.pos_weight is None else np.array([_float32(v) for v in weights]) * t
    b = 1 - t
    small = np.exp(-abs(x))
    minus_log = np.maximum(-x, 0) + np.log1p(small)  # -log sigmoid(x)
    minus_log_other = np.maximum(x, 0) + np.log1p(small)  # -log sigmoid(-x)
    value = (_weighted_log(a, minus_log) + _weighted_log(b, minus_log_other)).mean(-1)
    near, far = 1 / (1 + small), small / (1 + small)
    g = b * np.where(x >= 0, near, far) - a * np.where(x >= 0, far, near)
    return _Found(value, inputs.valid, np.longdouble(inputs.valid.sum()), _pointwise(g / channels))


@_term(MeanSquaredError)
def _mean_squared_error(term: MeanSquaredError, inputs: _Inputs) -> _Found:
    """`V` = mean over c of `(x - t)^2`; gradient `2 (x - t)`."""
    d = inputs.x - inputs.t
    g = 2 * d
    return _Found((d * d).mean(-1), inputs.valid, np.longdouble(inputs.valid.sum()), _pointwise(g / d.shape[-1]))


@_term(Huber)
def _huber(term: Huber, inputs: _Inputs) -> _Found:
    """`V` = mean over c of `d^2 / 2` up to `|d| = delta`, then `delta (|d| - delta / 2)`; `d = x - t`."""
    d, delta = inputs.x - inputs.t, _float32(term.delta)
    value = np.where(abs(d) <= delta, d * d / 2, delta * (abs(d) - delta / 2)).mean(-1)
    g = np.clip(d, -delta, delta)
    return _Found(value, inputs.valid, np.longdouble(inputs.valid.sum()), _pointwise(g / d.shape[-1]))


_PAD_MODES: Mapping[str, Any] = {
    "zeros": {"mode": "constant", "constant_values": -1},
    "replicate": {"mode": "edge"},
    "reflect": {"mode": "reflect"},
}


@dataclass(frozen=True)
class _Stencil:
    """`K` as a table: each of `sources` holds the neighbour of every position; -1 is a zero off the edge."""

    sources: list[NDArray[np.int64]]

    @staticmethod
    def of(kernel: str, padding: str, spatial: tuple[int, ...]) -> _Stencil:
        table = np.pad(np.arange(math.prod(spatial)).reshape(spatial), 1, **_PAD_MODES[padding])
        sources = []
        for offset in itertools.product((-1, 0, 1), repeat=len(spatial)):
            steps = sum(map(abs, offset))
            if steps == 1 or (steps and kernel == "laplacian8"):
                window = tuple(slice(1 + o, 1 + o + n) for o, n in zip(offset, spatial, strict=True))
                sources.append(table[window].ravel())
        return _Stencil(sources)

    def looks_at(self, u: Reals, source: NDArray[np.int64]) -> Reals:
        """`u` at the source, for `u` of shape `(B, positions, C)`."""
        return np.where((source < 0)[:, None], np.zeros((), u.dtype), u[:, source])

    def apply(self, u: Reals) -> Reals:
        """The sum over the neighbours of their difference to the centre."""
        return sum((self.looks_at(u, source) - u for source in self.sources), np.zeros_like(u))

    def transposed(self, y: Reals) -> Reals:
        """The adjoint of `apply`: what each position got from a source goes back to it."""
        result = np.zeros_like(y)
        for source in self.sources:
            result -= y
            inside = source >= 0
            into: Any = (slice(None), source[inside])
            np.add.at(result, into, y[:, inside])
        return result


@_term(Boundary)
def _boundary(term: Boundary, inputs: _Inputs) -> _Found:
    """`V` = mean over c of `(K q - K t)^2`; gradient `K^T (2 c D)`, through the softmax if `q` is one."""
    shape, spatial, channels = inputs.x.shape, inputs.x.shape[1:-1], inputs.x.shape[-1]
    rows = (shape[0], math.prod(spatial), channels)
    stencil = _Stencil.of(term.kernel, term.padding, spatial)
    softmax = _Softmax.of(inputs.x)
    q, apart = inputs.x, inputs.x - inputs.t
    if term.on == "probabilities":  # p - t is t's complement less p's where p is nearly 1
        q = softmax.p
        apart = np.where(q > softmax.rest, (1 - inputs.t) - softmax.rest, q - inputs.t)
    d = stencil.apply(apart.reshape(rows)).reshape(shape)

    # Off the edge is valid with any padding: what it shows there is the position or its neighbour anyway.
    inside = _Stencil.of(term.kernel, "zeros", spatial)
    invalid = ~inputs.valid.reshape((*rows[:2], 1))
    touched = invalid | np.any([inside.looks_at(invalid, source) for source in inside.sources], axis=0)
    counts = ~touched.reshape(shape[:-1])

    def gradient(c: Reals) -> Reals:
        y = np.where(c[..., None] == 0, 0.0, c[..., None] * 2 * d / channels)
        g = stencil.transposed(y.reshape(rows)).reshape(shape)
        if term.on == "logits":
            return g
        unused = (g == 0).all(-1, keepdims=True)
        # The Jacobian does not see a shift; less the likeliest class's, what is left at p = 1 is small.
        g = g - np.take_along_axis(g, inputs.x.argmax(-1)[..., None], -1)
        return np.where(unused, 0.0, q * (g - (q * g).sum(-1, keepdims=True)))

    return _Found((d * d).mean(-1), counts, np.longdouble(counts.sum()), gradient)


# --- Distances ---


@dataclass(frozen=True)
class _Format:
    """A floating point format: significant bits, exponents of the smallest and the largest normal numbers."""

    bits: int
    smallest: int
    largest: int
    flushes: bool  # what is smaller than a normal number counts as 0 (docs/numerics.md, section 1)


_FORMATS = {
    "float32": _Format(24, -126, 127, True),
    "bfloat16": _Format(8, -126, 127, True),
    "float16": _Format(11, -14, 15, False),
}


def ulp(value: ArrayLike, dtype: str = "float32") -> NDArray[np.float64]:
    """The distance between neighbouring numbers of `dtype` at `|value|`, element by element.

    In float32 `2^(e - 23)` for `2^e <= |value| < 2^(e + 1)`; and 2^-149 below the smallest normal number.
    """
    form, magnitude = _FORMATS[dtype], np.abs(np.asarray(value, np.float64))
    exponent = np.where(magnitude == 0, form.smallest, np.frexp(magnitude)[1] - 1)
    return np.ldexp(1.0, np.maximum(exponent, form.smallest) - (form.bits - 1))


def ulp_error(got: ArrayLike, truth: ArrayLike, dtype: str = "float32") -> NDArray[np.float64]:
    """`|got - truth|` in ulp of the truth, element by element. Correct rounding gives 0.5 at most.

    No error: NaN for NaN; an infinity for itself, or for a truth that rounds to it; 0 for a truth that the
    format flushes to it. NaN or an infinity in any other place is an infinite error.
    """
    found, true, form = np.asarray(got, np.float64), np.asarray(truth, np.float64), _FORMATS[dtype]
    overflow = (2.0 - 2.0**-form.bits) * 2.0**form.largest
    with np.errstate(all="ignore"):
        error = np.abs(found - true) / ulp(true, dtype)
        error = np.where(np.isfinite(found) & np.isfinite(true), error, np.inf)
        rounded = np.where(np.abs(true) >= overflow, np.copysign(np.inf, true), true)
        same = (np.isnan(found) & np.isnan(true)) | (np.isinf(found) & (found == rounded))
        same |= form.flushes & (found == 0) & (np.abs(true) < 2.0**form.smallest)
        return np.where(same, 0.0, error)


def scaled_ulp_error(got: ArrayLike, truth: ArrayLike, dtype: str = "float32", *, at_least: float = 0.0) -> float:
    """`max |got - truth| / ulp(scale)`: the error of a gradient or a map, relative to its scale.

    The scale is the largest `|truth|`, or `at_least` if that is larger. Both maxima are over the finite
    elements; NaN and infinities must stand in the same places, else the error is infinite.
    """
    found, true = np.asarray(got, np.float64), np.asarray(truth, np.float64)
    if found.shape != true.shape:
        raise ValueError(f"got has shape {found.shape}, expected that of truth, {true.shape}")
    finite = np.isfinite(true)
    placed = np.array_equal(found[~finite], true[~finite], equal_nan=True) and np.isfinite(found[finite]).all()
    if not placed:
        return math.inf
    if not finite.any():
        return 0.0
    error, scale = np.abs(found[finite] - true[finite]).max(), np.abs(true[finite]).max()
    return float(error / ulp(max(scale, at_least), dtype))


@dataclass(frozen=True)
class Bound:
    """What the native numerics of a term promise, in float32 ulp of the scale (`scaled_ulp_error`).

    Attributes:
        loss: the mean and the sum.
        map: the values per position, relative to the largest.
        gradient: relative to its largest element.
    """

    loss: float
    map: float
    gradient: float


NATIVE_ULP: dict[tuple[type[Term], str | None], Bound] = {
    (CrossEntropy, None): Bound(loss=4, map=4, gradient=10),
    (BinaryCrossEntropy, None): Bound(loss=4, map=5, gradient=6),
    (MeanSquaredError, None): Bound(loss=4, map=5, gradient=4),
    (Huber, None): Bound(loss=4, map=5, gradient=4),
    (Boundary, "logits"): Bound(loss=4, map=24, gradient=24),
    (Boundary, "probabilities"): Bound(loss=4, map=24, gradient=96),
}
"""Measured over the cases of the tests (logits of scale 1 to 30, 5 and 21 channels), with headroom.

The scale of `CrossEntropy` is at least that of one undecided position: 1, and its coefficient for the
gradient. A log-softmax drops what is below 1e-7 of that, which is all there is if every position is decided.
Of the boundary term the bounds are those of 26 neighbours; on probabilities its gradient is a small
difference of large numbers where they are near 0 or 1.
"""


def native_bound(term: Term) -> Bound:
    """The row of `NATIVE_ULP` for a term."""
    return NATIVE_ULP[type(term), getattr(term, "on", None)]
