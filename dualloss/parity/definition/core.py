"""Sections 1, 2 and 4 of docs/numerics.md, and what several terms use."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from dualloss.spec import Spec

DType = Literal["float16", "bfloat16", "float32"]
Reduction = Literal["mean", "sum", "none"]
Array = np.ndarray[Any, np.dtype[Any]]
Rows = list[list[float]]
"""Numbers by position, then by channel."""

NAN, INF = math.nan, math.inf

# ------------------------------------------------------------------------------------------------------------
# 1. Notation


def bits(v: float) -> int:
    """The 64 bits of a float64 as a signed integer."""
    return int(struct.unpack("<q", struct.pack("<d", v))[0])


def value(b: int) -> float:
    """The float64 of these 64 bits."""
    return float(struct.unpack("<d", struct.pack("<q", b))[0])


def chop(v: float) -> float:
    """The leading 48 significant bits of a float64, rounded toward zero."""
    return value(bits(v) & ~0b11111)


def times(a: float, b: float) -> float:
    """The page's circled product: chop(a * b)."""
    return chop(a * b)


def floor_log2(v: Fraction) -> int:
    """The largest integer e with 2^e <= v, for v > 0."""
    e = v.numerator.bit_length() - v.denominator.bit_length()
    return e if Fraction(2) ** e <= v else e - 1


def _nearest(v: float, digits: int, unit: int, end: int) -> float:
    """The multiple of 2^unit, of at most `digits` significant bits, that is nearest to v; ties to even.

    A result of 2^end or more is an infinity. Zero has no sign and NaN no payload.
    """
    if math.isnan(v):
        return NAN
    if v == 0 or math.isinf(v):
        return v if v else 0.0
    exact = Fraction(v)
    step = Fraction(2) ** max(floor_log2(abs(exact)) - (digits - 1), unit)
    result = round(exact / step) * step  # round() of a Fraction takes ties to even
    if abs(result) >= Fraction(2) ** end:
        return math.copysign(INF, v)
    return float(result)


def float32(v: float) -> float:
    """The nearest float32; +0 below 2^-126. Also of an integer of any size."""
    return 0.0 if abs(v) < 2.0**-126 else _nearest(v, digits=24, unit=-149, end=128)


def bfloat16(v: float) -> float:
    """The nearest bfloat16; +0 below 2^-126."""
    return 0.0 if abs(v) < 2.0**-126 else _nearest(v, digits=8, unit=-133, end=128)


def float16(v: float) -> float:
    """The nearest float16, subnormals kept."""
    return _nearest(v, digits=11, unit=-24, end=16)


NARROW: dict[str, Callable[[float], float]] = {"float16": float16, "bfloat16": bfloat16, "float32": float32}


def load(v: float) -> float:
    """1.1: a float16, bfloat16 or float32 that comes in; +0 below 2^-126."""
    return 0.0 if abs(v) < 2.0**-126 else v


# ------------------------------------------------------------------------------------------------------------
# 1.2, 1.3: exp* and log1p*

# Enough digits for an exact 1 + q (up to 141 decimal places), and far more than the 19 or so that decide.
_DECIMAL = Context(prec=200)


def _keep_bits(bits: int, true: Fraction, raise_by: int) -> float:
    """The largest number of so many bits not above true + raise_by * ulp64; ulp64 is that of true's binade."""
    raised = true + raise_by * Fraction(2) ** (floor_log2(true) - 52)
    step = Fraction(2) ** (floor_log2(raised) - (bits - 1))
    return float(raised // step * step)


@cache
def _exp_kept(k: int) -> float:
    """E of 1.2, for exp(k 2^-10)."""
    return _keep_bits(33, Fraction(_DECIMAL.exp(Decimal(k * 2.0**-10))), 535902)


@cache
def _log1p_kept(q: float) -> float:
    """Λ of 1.3, for log1p(q)."""
    if q == 0:
        return 0.0
    return _keep_bits(28, Fraction(_DECIMAL.ln(_DECIMAL.add(Decimal(1), Decimal(q)))), 17772251)


def exp_star(d: float) -> float:
    """exp(d) for d <= 0."""
    if math.isnan(d):
        return NAN
    z = d if d >= -88 else -88.0
    y = z * 2.0**10
    k = round(y)
    r = (y - k) * 2.0**-10
    e_kept = _exp_kept(k)
    e = e_kept + times(e_kept, r + times(r, r) * 0.5)
    return 0.0 if k < -89432 else e


def log1p_star(s: float) -> float:
    """log(1 + s) for 0 <= s < 2^24."""
    q = value((bits(s) + 2**36) & ~(2**37 - 1))
    return _log1p_kept(q) + (s - q) / (1 + q)


# ------------------------------------------------------------------------------------------------------------
# 1.4, 1.5: sums


def asum(*lists: Sequence[float]) -> float:
    """The sum along the channels of one position."""
    terms = [v for one in lists for v in one]
    infinities = {v for v in terms if math.isinf(v)}
    if any(math.isnan(v) for v in terms) or len(infinities) == 2:
        return NAN
    if infinities:
        return infinities.pop()
    largest = max(abs(v) for v in terms)
    b = len(terms).bit_length()
    e = -600 if largest == 0 else max(floor_log2(Fraction(largest)), -600)
    return sum(round(v * 2.0 ** (51 - b - e)) for v in terms) * 2.0 ** (e - 51 + b)


def exact_sum(values: Iterable[float]) -> float:
    """The sum over positions: exact over multiples of 2^-160, then rounded once."""
    total, infinities, nan = 0, set(), False
    for v in values:
        if math.isnan(v):
            nan = True
        elif abs(v) >= 2.0**128:
            infinities.add(math.copysign(INF, v))
        else:
            total += math.trunc(Fraction(v) * 2**160)
    if nan or len(infinities) == 2:
        return NAN
    return infinities.pop() if infinities else total / 2**160  # int / int rounds once, to nearest even


# ------------------------------------------------------------------------------------------------------------
# 1.1, 2: what comes in

MOST_CHANNELS = 2**23  # 1.3


@dataclass(frozen=True)
class Batch:
    """Section 2: what the terms look at. Positions are numbered in C order over `shape`."""

    shape: tuple[int, ...]  # (B, *spatial)
    channels: int
    x: Rows
    t: Rows
    valid: list[bool]

    @property
    def n(self) -> int:
        """The number of positions."""
        return len(self.x)


def _numbers(name: str, array: Array) -> list[float]:
    """1.1: the elements of a dense target or of a weight, in C order."""
    if array.dtype.kind == "b":
        return [float(v) for v in array.ravel().tolist()]
    if array.dtype.kind in "iu":
        return [float32(v) for v in array.ravel().tolist()]
    if array.dtype in (np.dtype(np.float16), np.dtype(np.float32)):
        return [load(v) for v in array.ravel().tolist()]
    raise TypeError(f"{name} has dtype {array.dtype}, expected float16, float32, an integer dtype or bool")


def _rows(numbers: list[float], channels: int) -> Rows:
    return [numbers[i : i + channels] for i in range(0, len(numbers), channels)]


def _read_input(x: Array, dtype: str) -> None:
    """Check that the array holds numbers of this dtype."""
    if x.dtype not in (np.dtype(np.float16), np.dtype(np.float32)):
        raise TypeError(f"x has dtype {x.dtype}, expected float16 or float32")
    if dtype not in NARROW:
        raise ValueError(f"dtype={dtype!r}, expected one of {', '.join(NARROW)}")
    held = "float16" if dtype == "float16" else "float32"
    if x.dtype != np.dtype(held):
        raise TypeError(f"x has dtype {x.dtype}, expected {held} for dtype={dtype!r}")
    if dtype == "bfloat16" and any(b & 0xFFFF for b in x[x == x].view(np.uint32).ravel().tolist()):
        raise ValueError("x has values that bfloat16 does not hold")


def _one_hot(
    labels: Array,
    valid: list[bool],
    channels: int,
    ignore_index: int | None,
    out_of_range: Literal["error", "nan"],
) -> tuple[Rows, list[bool]]:
    """Section 2, class indices: the targets, and what is valid after leaving the ignored labels out."""
    targets, still_valid = [], []
    for where, label, keep in zip(np.ndindex(labels.shape), labels.ravel().tolist(), valid, strict=True):
        keep = keep and label != ignore_index
        row = [0.0] * channels
        if keep and label in range(channels):
            row[int(label)] = 1.0
        elif keep and out_of_range == "nan":
            row = [NAN] * channels
        elif keep:
            raise ValueError(f"target has label {label} at position {where}, expected 0 to {channels - 1}")
        targets.append(row)
        still_valid.append(keep)
    return targets, still_valid


# ------------------------------------------------------------------------------------------------------------
# 3. Terms


@dataclass(frozen=True)
class Term:
    """What a term gives: `gradient` maps a coefficient c for each position to the gradient."""

    value: list[float]
    counts: list[bool]
    normalizer: float
    mean_over_channels: bool
    gradient: Callable[[list[float]], Rows]


def pointwise(g: Rows) -> Callable[[list[float]], Rows]:
    """The gradient c ⊗ g of a term that looks at one position at a time; 0 where c = 0, whatever stands there."""

    def gradient(c: list[float]) -> Rows:
        return [[0.0 if ci == 0 else times(ci, v) for v in row] for ci, row in zip(c, g, strict=True)]

    return gradient


Implementation = Callable[[Any, Batch], Term]

TERMS: dict[str, Implementation] = {}
"""The function of each class of terms: (its options, the batch) -> what it gives."""

ABOUT_CLASSES: set[str] = set()
"""Section 2: the terms for which one channel is one class."""


def implements(name: str, *, about_classes: bool = False) -> Callable[[Implementation], Implementation]:
    """Register the function of the class of terms of this name."""

    def register(function: Implementation) -> Implementation:
        TERMS[name] = function
        if about_classes:
            ABOUT_CLASSES.add(name)
        return function

    return register


@dataclass(frozen=True)
class Softmax:
    """docs/numerics/classification.md, Softmax, but for `bad`: `others` is T + (k0 - 1), `whole` is S."""

    d: list[float]
    e: list[float]
    others: float
    whole: float

    @property
    def p(self) -> list[float]:
        """p_c."""
        return [ec / self.whole for ec in self.e]

    @property
    def rest(self) -> list[float]:
        """r_c, which is 1 - p_c."""
        return [
            (self.others if dc == 0 else self.whole - ec) / self.whole for dc, ec in zip(self.d, self.e, strict=True)
        ]

    @property
    def log_sum(self) -> float:
        """L."""
        return log1p_star(self.others)


def softmax(x: list[float]) -> Softmax | None:
    """docs/numerics/classification.md, Softmax; None where the position is bad."""
    if any(math.isnan(v) or v == INF for v in x) or all(v == -INF for v in x):
        return None
    m = max(x)
    d = [v - m for v in x]
    e = [exp_star(v) for v in d]
    k0 = sum(v == 0 for v in d)
    t = asum([ec if dc < 0 else 0.0 for ec, dc in zip(e, d, strict=True)])
    return Softmax(d, e, others=t + (k0 - 1), whole=t + k0)


def each_channel(batch: Batch, one: Callable[[int, float, float], tuple[tuple[float, ...], float]]) -> Term:
    """A mean over channels: V = I ⊗ asum of what `one(channel, x, t)` gives first; g is what it gives second."""
    inverse = 1 / batch.channels
    values, gradients = [], []
    for x, t in zip(batch.x, batch.t, strict=True):
        found = [one(c, xc, tc) for c, (xc, tc) in enumerate(zip(x, t, strict=True))]
        values.append(times(inverse, asum([v for terms, _ in found for v in terms])))
        gradients.append([g for _, g in found])
    return Term(values, batch.valid, float(sum(batch.valid)), True, pointwise(gradients))


# ------------------------------------------------------------------------------------------------------------
# 4. From terms to the loss and its gradient


@dataclass(frozen=True)
class Result:
    """A loss, its gradient, and the terms' values. Losses are float32: numbers, or maps for "none"."""

    loss: Any
    gradient: Array
    terms: dict[str, Any]


def evaluate(
    spec: Spec,
    x: Array,
    target: Array,
    *,
    dtype: DType | None = None,
    sample_weight: Array | None = None,
    reduction: Reduction = "mean",
    upstream: float | Array = 1.0,
    channel_axis: int = -1,
    labels: Literal["error", "nan"] = "error",
) -> Result:
    """The loss of `spec`, its gradient with respect to `x`, and the terms' values, by the page.

    Args:
        spec: the terms and their weights.
        x: the input, (B, C, *spatial) with its channels on `channel_axis`, or (B,), which is one channel.
        target: class indices (x's shape without the channel axis; floats of integer value will do), or dense
            (x's shape, always so for an input of shape (B,)).
        dtype: the input's dtype, that of the array by default. "bfloat16" values come, and their gradient
            leaves, in a float32 array.
        sample_weight: None, or (B,) or (B, *spatial); of dtype bool, a mask.
        reduction: "mean", "sum" or "none".
        upstream: the gradient with respect to the loss; for "none" one number for each position, or for all.
        channel_axis: where the channels are.
        labels: what a label out of range does, at a valid position: "error", or "nan" as in compiled graphs.

    Raises:
        ValueError: a label out of range, class indices for one channel without a term about classes, or a
            shape, option or name that does not fit.
        TypeError: a dtype for which the page has no meaning.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction={reduction!r}, expected 'mean', 'sum' or 'none'")
    if labels not in ("error", "nan"):
        raise ValueError(f"labels={labels!r}, expected 'error' or 'nan'")
    dtype_name = x.dtype.name if dtype is None else dtype
    _read_input(x, dtype_name)
    batch, weights = _read_batch(spec, x, target, sample_weight, channel_axis, labels)
    positions = range(batch.n)
    h = _read_upstream(upstream, reduction, batch)

    parts = []
    for name, (weight, options) in zip(spec.names, spec.parts, strict=True):
        term = TERMS[type(options).__name__](options, batch)
        parts.append(_weigh(name, float32(weight), term, batch, weights, reduction, h))
    kept = [part for part in parts if part.w != 0]  # the others are reported and no more

    def total(numbers: Iterable[float]) -> float:
        """The sum over terms: the weights times these numbers, one for each term."""
        return _chopped_sum([times(part.w, y) for part, y in zip(kept, numbers, strict=True)])

    def as_map(numbers: list[float]) -> Array:
        return np.array(numbers, np.float32).reshape(batch.shape)

    loss: Any
    terms: dict[str, Any]
    if reduction == "none":
        loss = as_map([total(part.v[i] for part in kept) for i in positions])
        terms = {part.name: as_map([float32(v) for v in part.v]) for part in parts}
    else:
        loss = np.float32(total(part.mean for part in kept))
        terms = {part.name: np.float32(float32(part.mean)) for part in parts}

    gammas = [part.term.gradient(part.c) for part in kept]
    narrow = NARROW[dtype_name]
    gradient = []
    for i in positions:
        for c in range(batch.channels):
            g = _chopped_sum([gamma[i][c] for gamma in gammas])
            gradient.append(narrow(g if reduction == "none" else h[i] * g))
    return Result(loss, _write_gradient(gradient, batch, x, channel_axis), terms)


@dataclass(frozen=True)
class _Part:
    """A term in its place: w_k, v_k,i, M_k and c_k,i of section 4."""

    name: str
    w: float
    term: Term
    v: list[float]
    mean: float
    c: list[float]


def _weigh(
    name: str,
    w: float,
    term: Term,
    batch: Batch,
    weights: list[float] | None,
    reduction: str,
    h: list[float],
) -> _Part:
    """The term's values under the sample weights, their reduction, and the coefficients of its gradient."""
    n = term.normalizer
    r = (0.0 if n == 0 else 1 / n) if reduction == "mean" else 1.0
    a = float32(r * (w * (1 / batch.channels))) if term.mean_over_channels else float32(w * r)
    v, c = [], []
    for i in range(batch.n):
        s = None if weights is None else weights[i]
        if not term.counts[i] or s == 0:
            v.append(0.0)
            c.append(0.0)
            continue
        v.append(term.value[i] if s is None else times(s, term.value[i]))
        if reduction == "none" and h[i] == 0:
            c.append(0.0)
        elif reduction == "none":
            c.append(float32((a if s is None else a * s) * h[i]))
        else:
            c.append(a if s is None else float32(a * s))
    return _Part(name, w, term, v, exact_sum(v) * r, c)


def _chopped_sum(terms: list[float]) -> float:
    """The first term, plus each next one, chopped; then float32. 0 for no terms."""
    acc = 0.0
    for k, v in enumerate(terms):
        acc = v if k == 0 else chop(acc + v)
    return float32(acc)


def _read_batch(
    spec: Spec,
    x: Array,
    target: Array,
    sample_weight: Array | None,
    channel_axis: int,
    labels: Literal["error", "nan"],
) -> tuple[Batch, list[float] | None]:
    """The batch, and the sample weights by position (None without; a mask goes into what is valid)."""
    if x.ndim == 0:
        raise ValueError("x has no axes, expected (B,) or channels")
    single = x.ndim == 1
    last = x[:, None] if single else np.moveaxis(x, channel_axis, -1)
    shape, channels = last.shape[:-1], last.shape[-1]
    if channels == 0:
        raise ValueError(f"x has shape {x.shape}, expected at least one channel")
    if channels > MOST_CHANNELS:
        raise ValueError(f"x has {channels} channels, expected at most {MOST_CHANNELS}")
    n = math.prod(shape)

    valid, weights = [True] * n, None
    if sample_weight is not None:
        if sample_weight.shape not in (shape, shape[:1]):
            expected = f"{shape[:1]} or {shape}"
            raise ValueError(f"sample_weight has shape {sample_weight.shape}, expected {expected}")
        each = sample_weight.reshape(sample_weight.shape + (1,) * (len(shape) - sample_weight.ndim))
        numbers = _numbers("sample_weight", np.broadcast_to(each, shape))
        if sample_weight.dtype.kind == "b":
            valid = [v != 0 for v in numbers]
        else:
            weights = numbers

    if target.shape == x.shape:
        dense = target[:, None] if single else np.moveaxis(target, channel_axis, -1)
        targets = _rows(_numbers("target", dense), channels)
    elif target.shape == shape:
        if channels == 1 and not any(type(options).__name__ in ABOUT_CLASSES for _, options in spec.parts):
            raise ValueError("target has class indices for one channel, expected a term about classes")
        targets, valid = _one_hot(target, valid, channels, spec.ignore_index, labels)
    else:
        expected = f"{shape} class indices or {x.shape} numbers"
        raise ValueError(f"target has shape {target.shape}, expected {expected}")
    inputs = _rows([load(v) for v in last.ravel().tolist()], channels)
    return Batch(shape, channels, inputs, targets, valid), weights


def _read_upstream(upstream: float | Array, reduction: str, batch: Batch) -> list[float]:
    """h at each position."""
    h = np.asarray(upstream)
    if h.shape != () and (reduction != "none" or h.shape != batch.shape):
        expected = f"() or {batch.shape}" if reduction == "none" else "()"
        raise ValueError(f"upstream has shape {h.shape}, expected {expected}")
    numbers = [float32(float(v)) for v in h.ravel().tolist()]
    return numbers * batch.n if h.shape == () else numbers


def _write_gradient(numbers: list[float], batch: Batch, x: Array, channel_axis: int) -> Array:
    """The gradient in x's shape and in the dtype of its array."""
    rows = np.array(numbers, x.dtype).reshape(*batch.shape, batch.channels)
    return rows[:, 0] if x.ndim == 1 else np.ascontiguousarray(np.moveaxis(rows, -1, channel_axis))
