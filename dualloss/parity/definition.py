"""The exact numerics of docs/numerics.md, executable: scalar Python, slow, sharing no code with the engines.

Section numbers and formulas are those of the page. Scalars are Python floats, so `+ - * /` round once, to
nearest even, as the page asks. Everything else is exact arithmetic on integers and fractions: the roundings,
the sums and the kept bits of exp and log1p. NumPy only holds the arrays that come in and go out.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from functools import cache
from itertools import product
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
ABOUT_CLASSES = ("CrossEntropy",)  # 2: the terms for which one channel is one class


@dataclass(frozen=True)
class _Batch:
    """Section 2: what the terms look at. Positions are numbered in C order over `shape`."""

    shape: tuple[int, ...]  # (B, *spatial)
    channels: int
    x: Rows
    t: Rows
    valid: list[bool]

    @property
    def n(self) -> int:
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
class _Term:
    """What a term gives: `gradient` maps a coefficient c for each position to the gradient."""

    value: list[float]
    counts: list[bool]
    normalizer: float
    mean_over_channels: bool
    gradient: Callable[[list[float]], Rows]


def _pointwise(g: Rows) -> Callable[[list[float]], Rows]:
    """The gradient c ⊗ g of 3.2 to 3.5; 0 where c = 0, whatever stands there."""

    def gradient(c: list[float]) -> Rows:
        return [[0.0 if ci == 0 else times(ci, v) for v in row] for ci, row in zip(c, g, strict=True)]

    return gradient


@dataclass(frozen=True)
class _Softmax:
    """3.1, but for `bad`: `others` is T + (k0 - 1), `whole` is S."""

    d: list[float]
    e: list[float]
    others: float
    whole: float

    @property
    def p(self) -> list[float]:
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


def _softmax(x: list[float]) -> _Softmax | None:
    """3.1; None where the position is bad."""
    if any(math.isnan(v) or v == INF for v in x) or all(v == -INF for v in x):
        return None
    m = max(x)
    d = [v - m for v in x]
    e = [exp_star(v) for v in d]
    k0 = sum(v == 0 for v in d)
    t = asum([ec if dc < 0 else 0.0 for ec, dc in zip(e, d, strict=True)])
    return _Softmax(d, e, others=t + (k0 - 1), whole=t + k0)


def _cross_entropy(options: Any, batch: _Batch) -> _Term:
    """3.2."""
    classes = batch.channels
    weights = None if options.class_weights is None else [float32(w) for w in options.class_weights]
    if weights is not None and len(weights) != classes:
        raise ValueError(f"class_weights has {len(weights)} numbers, expected {classes}")
    epsilon = options.label_smoothing
    keep, spread = float32(1 - epsilon), float32(epsilon / classes)

    values, gradients = [], []
    for x, t in zip(batch.x, batch.t, strict=True):
        soft = _softmax(x)
        if soft is None:
            values.append(NAN)
            gradients.append([NAN] * classes)
            continue
        d, log_sum = soft.d, soft.log_sum
        smoothed = t if epsilon == 0 else [chop(keep * tc + spread) for tc in t]
        u = smoothed if weights is None else [times(w, v) for w, v in zip(weights, smoothed, strict=True)]
        terms = [0.0 if uc == 0 else uc * (log_sum - dc) for uc, dc in zip(u, d, strict=True)]
        values.append(chop(asum(terms)))
        total = asum(u)
        not_p = [
            soft.others / soft.whole if dc == 0 else (soft.whole - ec) / soft.whole
            for dc, ec in zip(d, soft.e, strict=True)
        ]
        gradients.append([times(pc, total - uc) - times(uc, rc) for pc, uc, rc in zip(soft.p, u, not_p, strict=True)])

    if options.normalizer == "all":
        normalizer = float(batch.n)
    elif options.normalizer == "valid" or weights is None:
        normalizer = float(sum(batch.valid))
    else:
        normalizer = exact_sum(
            asum([times(w, tc) for w, tc in zip(weights, t, strict=True)])
            for t, valid in zip(batch.t, batch.valid, strict=True)
            if valid
        )
    return _Term(values, batch.valid, normalizer, False, _pointwise(gradients))


def _each_channel(batch: _Batch, one: Callable[[int, float, float], tuple[tuple[float, ...], float]]) -> _Term:
    """3.3 to 3.5: V = I ⊗ asum of what `one(channel, x, t)` gives first; g is what it gives second."""
    inverse = 1 / batch.channels
    values, gradients = [], []
    for x, t in zip(batch.x, batch.t, strict=True):
        found = [one(c, xc, tc) for c, (xc, tc) in enumerate(zip(x, t, strict=True))]
        values.append(times(inverse, asum([v for terms, _ in found for v in terms])))
        gradients.append([g for _, g in found])
    return _Term(values, batch.valid, float(sum(batch.valid)), True, _pointwise(gradients))


def _binary_cross_entropy(options: Any, batch: _Batch) -> _Term:
    """3.3."""
    epsilon = options.label_smoothing
    keep, spread = float32(1 - epsilon), float32(epsilon / 2)
    positive = options.pos_weight
    if positive is not None and not isinstance(positive, Sequence):
        positive = [positive] * batch.channels
    if positive is not None and len(positive) != batch.channels:
        raise ValueError(f"pos_weight has {len(positive)} numbers, expected {batch.channels}")

    def one(channel: int, x: float, t: float) -> tuple[tuple[float, ...], float]:
        if math.isnan(x):
            return (NAN, NAN), NAN
        smoothed = t if epsilon == 0 else chop(keep * t + spread)
        alpha = smoothed if positive is None else times(float32(positive[channel]), smoothed)
        beta = 1 - smoothed
        v = exp_star(-abs(x))
        log_sum = log1p_star(v)
        sigma = 1 / (1 + v) if x >= 0 else v / (1 + v)
        sigma_bar = v / (1 + v) if x >= 0 else 1 / (1 + v)
        a = 0.0 if alpha == 0 else alpha * ((-x if x < 0 else 0.0) + log_sum)
        b = 0.0 if beta == 0 else beta * ((x if x > 0 else 0.0) + log_sum)
        return (a, b), times(beta, sigma) - times(alpha, sigma_bar)

    return _each_channel(batch, one)


def _mean_squared_error(options: Any, batch: _Batch) -> _Term:
    """3.4."""

    def one(channel: int, x: float, t: float) -> tuple[tuple[float, ...], float]:
        d = x - t
        return (d * d,), 2 * d

    return _each_channel(batch, one)


def _huber(options: Any, batch: _Batch) -> _Term:
    """3.5."""
    delta = float32(options.delta)

    def one(channel: int, x: float, t: float) -> tuple[tuple[float, ...], float]:
        d = x - t
        a = abs(d)
        p = (d * d) * 0.5 if a <= delta else delta * (a - delta * 0.5)
        return (p,), delta if d > delta else -delta if d < -delta else d

    return _each_channel(batch, one)


# 3.6: Boundary

Offset = tuple[int, ...]


def _offsets(kernel: str, axes: int) -> list[Offset]:
    """The stencil's neighbours, in the order in which they are subtracted."""
    if kernel == "laplacian":
        axis_steps = product(range(axes), (-1, 1))
        return [tuple(step if a == axis else 0 for a in range(axes)) for axis, step in axis_steps]
    return [o for o in product((-1, 0, 1), repeat=axes) if any(o)]


def _neighbour(i: int, step: int, size: int, padding: str) -> int | None:
    """The index along one axis that stands for i + step; None is a zero beyond the edge."""
    j = i + step
    if 0 <= j < size:
        return j
    if padding == "zeros":
        return None
    if padding == "replicate":
        return i
    return i - step if size > 1 else i


class _Field:
    """One channel's numbers at the positions of (B, *spatial)."""

    def __init__(self, shape: tuple[int, ...], numbers: Iterable[float]) -> None:
        self.shape = shape
        self.at = dict(zip(np.ndindex(shape), numbers, strict=True))

    def shifted(self, offset: Offset, padding: str) -> _Field:
        """v[o]: what stands at each position's neighbour, one axis after the other."""
        field = self
        for axis, step in enumerate(offset, start=1):
            if step:
                field = field._shifted(axis, step, padding)
        return field

    def _shifted(self, axis: int, step: int, padding: str) -> _Field:
        def number(where: tuple[int, ...]) -> float:
            j = _neighbour(where[axis], step, self.shape[axis], padding)
            return 0.0 if j is None else self.at[(*where[:axis], j, *where[axis + 1 :])]

        return _Field(self.shape, [number(where) for where in self.at])

    def adjoint(self, offset: Offset, padding: str) -> _Field:
        """oᵀY, one axis after the other."""
        field = self
        for axis, step in enumerate(offset, start=1):
            if step:
                field = field._adjoint(axis, step, padding)
        return field

    def _adjoint(self, axis: int, step: int, padding: str) -> _Field:
        size = self.shape[axis]
        edge = 0 if step == -1 else size - 1  # the position whose neighbour is beyond the edge
        if padding == "replicate":
            onto: int | None = edge
        elif padding == "reflect":
            onto = min(1, size - 1) if step == -1 else max(size - 2, 0)
        else:
            onto = None

        def number(where: tuple[int, ...]) -> float:
            def along(j: int) -> float:
                return self.at[(*where[:axis], j, *where[axis + 1 :])]

            j = where[axis]
            plain = along(j - step) if 0 <= j - step < size else 0.0
            return plain + along(edge) if j == onto else plain

        return _Field(self.shape, [number(where) for where in self.at])


def _boundary(options: Any, batch: _Batch) -> _Term:
    """3.6."""
    shape, channels, padding = batch.shape, batch.channels, options.padding
    axes = len(shape) - 1
    if not 1 <= axes <= 3:
        raise ValueError(f"Boundary needs 1 to 3 spatial axes, x has {axes}")
    offsets = _offsets(options.kernel, axes)
    kappa = len(offsets)
    inverse = 1 / channels

    on_logits = options.on == "logits"
    soft = [] if on_logits else [_softmax(x) for x in batch.x]

    def chain(center: _Field, others: list[_Field]) -> list[float]:
        """κ * center minus the others, left to right."""
        result = []
        for where, v in center.at.items():
            total = kappa * v
            for other in others:
                total = total - other.at[where]
            result.append(total)
        return result

    def stencil(v: _Field) -> list[float]:
        """K(v)."""
        return chain(v, [v.shifted(o, padding) for o in offsets])

    def apart(s: _Softmax | None, t: float, c: int) -> float:
        """chop(u), u being p - t."""
        if s is None:
            return NAN
        p, r = s.p[c], s.rest[c]
        return chop((1 - t) - r if p > r else p - t)

    responses = []  # D, by channel
    for c in range(channels):
        if on_logits:
            of_x = stencil(_Field(shape, [xi[c] for xi in batch.x]))
            of_t = stencil(_Field(shape, [ti[c] for ti in batch.t]))
            responses.append([kx - kt for kx, kt in zip(of_x, of_t, strict=True)])
        else:
            u = [apart(s, ti[c], c) for s, ti in zip(soft, batch.t, strict=True)]
            responses.append(stencil(_Field(shape, u)))
    values = [times(inverse, asum([d[i] * d[i] for d in responses])) for i in range(batch.n)]

    valid = _Field(shape, [float(v) for v in batch.valid])
    # Beyond the edge counts as valid: ask whether an invalid position is among the offsets, with zeros there.
    invalid = _Field(shape, [1 - v for v in valid.at.values()])
    touched = [invalid.shifted(o, "zeros") for o in offsets]
    counts = [bool(v) and not any(o.at[where] for o in touched) for where, v in valid.at.items()]

    def gradient(c: list[float]) -> Rows:
        by_channel = []
        for d in responses:
            y = _Field(shape, [0.0 if ci == 0 else times(ci, 2 * di) for ci, di in zip(c, d, strict=True)])
            by_channel.append(chain(y, [y.adjoint(o, padding) for o in offsets]))
        rows = [[g[i] for g in by_channel] for i in range(batch.n)]
        if on_logits:
            return rows
        result = []
        for s, row in zip(soft, rows, strict=True):
            if all(gc == 0 for gc in row):
                result.append([0.0] * channels)
            elif s is None or any(math.isnan(gc) for gc in row):
                result.append([NAN] * channels)
            else:
                shift = max(gc for gc, dc in zip(row, s.d, strict=True) if dc == 0)
                h = [gc - shift for gc in row]
                q = [chop(pc) for pc in s.p]
                total = asum([qc * hc for qc, hc in zip(q, h, strict=True)])
                result.append([times(qc, hc - total) for qc, hc in zip(q, h, strict=True)])
        return result

    return _Term(values, counts, float(sum(counts)), True, gradient)


TERMS: dict[str, Callable[[Any, _Batch], _Term]] = {
    "CrossEntropy": _cross_entropy,
    "BinaryCrossEntropy": _binary_cross_entropy,
    "MeanSquaredError": _mean_squared_error,
    "Huber": _huber,
    "Boundary": _boundary,
}
"""The function of each class of terms: (its options, the batch) -> what it gives."""

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
    term: _Term
    v: list[float]
    mean: float
    c: list[float]


def _weigh(
    name: str,
    w: float,
    term: _Term,
    batch: _Batch,
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
) -> tuple[_Batch, list[float] | None]:
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
    return _Batch(shape, channels, inputs, targets, valid), weights


def _read_upstream(upstream: float | Array, reduction: str, batch: _Batch) -> list[float]:
    """h at each position."""
    h = np.asarray(upstream)
    if h.shape != () and (reduction != "none" or h.shape != batch.shape):
        expected = f"() or {batch.shape}" if reduction == "none" else "()"
        raise ValueError(f"upstream has shape {h.shape}, expected {expected}")
    numbers = [float32(float(v)) for v in h.ravel().tolist()]
    return numbers * batch.n if h.shape == () else numbers


def _write_gradient(numbers: list[float], batch: _Batch, x: Array, channel_axis: int) -> Array:
    """The gradient in x's shape and in the dtype of its array."""
    rows = np.array(numbers, x.dtype).reshape(*batch.shape, batch.channels)
    return rows[:, 0] if x.ndim == 1 else np.ascontiguousarray(np.moveaxis(rows, -1, channel_axis))
