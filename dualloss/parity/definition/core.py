"""Sections 2 and 4 of docs/numerics.md, and what a term gives (3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .arithmetic import NAN, asum, bfloat16, chop, exact_sum, float16, float32, load, times

if TYPE_CHECKING:
    from dualloss.spec import Spec

DType = Literal["float16", "bfloat16", "float32"]
Reduction = Literal["mean", "sum", "none"]
Array = np.ndarray[Any, np.dtype[Any]]
Rows = list[list[float]]
"""Numbers by position, then by channel."""

NARROW: dict[str, Callable[[float], float]] = {"float16": float16, "bfloat16": bfloat16, "float32": float32}

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
    weights: list[float] | None = None  # the sample weights; a mask is in `valid`

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
    """What a term with a value at every position gives.

    Attributes:
        value: V.
        counts: which positions count.
        share: I for a mean over channels, else None.
        gradient: from a coefficient c for each position to the gradient.
        says: what the normaliser "weights" sums; None: nothing.
    """

    value: list[float]
    counts: list[bool]
    share: float | None
    gradient: Callable[[list[float]], Rows]
    says: list[float] | None = None


@dataclass(frozen=True)
class Ratio:
    """What a term that is a ratio of sums gives.

    Attributes:
        value: M by reduction, "mean" or "sum".
        gradient: from the weight of the term and the reduction to the gradient.
    """

    value: Callable[[str], float]
    gradient: Callable[[float, str], Rows]


Implementation = Callable[[Any, Batch], Term | Ratio]

TERMS: dict[str, Implementation] = {}
"""The function of each class of terms: (its options, the batch) -> what it gives."""


def implements(*names: str) -> Callable[[Implementation], Implementation]:
    """Register the function of the classes of terms of these names."""

    def register(function: Implementation) -> Implementation:
        for name in names:
            TERMS[name] = function
        return function

    return register


def pointwise(g: Rows) -> Callable[[list[float]], Rows]:
    """The gradient c ⊗ g of a term that looks at one position at a time; 0 where c = 0, whatever stands there."""

    def gradient(c: list[float]) -> Rows:
        return [[0.0 if ci == 0 else times(ci, v) for v in row] for ci, row in zip(c, g, strict=True)]

    return gradient


def over_channels(
    options: Any, batch: Batch, parts: Rows, beside: Sequence[float] | None = None
) -> tuple[list[float], float | None]:
    """V of a term per channel, from all that a position has for its channels (and beside them), and its share."""
    totals = [asum(row) for row in parts]
    if beside is not None:
        totals = [total + more for total, more in zip(totals, beside, strict=True)]
    if options.channels == "sum":
        return [chop(total) for total in totals], None
    share = 1 / batch.channels
    return [times(share, total) for total in totals], share


def by_position(options: Any, batch: Batch, parts: Rows, g: Rows, beside: Sequence[float] | None = None) -> Term:
    """A term per channel that looks at one position at a time."""
    value, share = over_channels(options, batch, parts, beside)
    return Term(value, batch.valid, share, pointwise(g))


def by_element(options: Any, batch: Batch, one: Callable[[int, float, float], tuple[tuple[float, ...], float]]) -> Term:
    """A term per channel that looks at one channel at a time: `one(channel, x, t)` gives its P and its g."""
    found = [
        [one(c, xc, tc) for c, (xc, tc) in enumerate(zip(x, t, strict=True))]
        for x, t in zip(batch.x, batch.t, strict=True)
    ]
    parts = [[v for p, _ in row for v in p] for row in found]
    return by_position(options, batch, parts, [[g for _, g in row] for row in found])


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
        reduction: "mean", "sum" or, for terms with a map, "none".
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
    if reduction == "none":
        for _, options in spec.parts:
            if not options.has_map:
                raise ValueError(f"reduction='none', expected another one: {type(options).__name__} has no map")
    dtype_name = x.dtype.name if dtype is None else dtype
    _read_input(x, dtype_name)
    batch = _read_batch(spec, x, target, sample_weight, channel_axis, labels)
    positions = range(batch.n)
    h = _read_upstream(upstream, reduction, batch)

    parts = []
    for name, (weight, options) in zip(spec.names, spec.parts, strict=True):
        term = TERMS[type(options).__name__](options, batch)
        if not isinstance(weight, float):
            raise TypeError(f"{name} has the weight {weight}, expected a number: that of a step, spec.at(step)")
        if isinstance(term, Ratio):
            parts.append(_place_ratio(name, float32(weight), term, reduction))
        else:
            parts.append(_place(name, float32(weight), options, term, batch, reduction, h))
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

    gammas = [part.gradient() for part in kept]
    narrow = NARROW[dtype_name]
    gradient = []
    for i in positions:
        for c in range(batch.channels):
            g = _chopped_sum([gamma[i][c] for gamma in gammas])
            gradient.append(narrow(g if reduction == "none" else h[i] * g))
    return Result(loss, _write_gradient(gradient, batch, x, channel_axis), terms)


def penalty(spec: Spec, weights: Array, *, dtype: DType | None = None, upstream: float = 1.0) -> Result:
    """A spec of penalties on an array of weights of any shape, by docs/numerics/penalties.md."""
    flat = weights.reshape(-1)
    found = evaluate(spec, flat, np.zeros_like(flat), dtype=dtype, reduction="sum", upstream=upstream)
    return Result(found.loss, found.gradient.reshape(weights.shape), found.terms)


@dataclass(frozen=True)
class _Part:
    """A term in its place: w_k, v_k,i (none of a ratio), M_k and the gradient of section 4."""

    name: str
    w: float
    v: list[float]
    mean: float
    gradient: Callable[[], Rows]


def _normalizer(options: Any, term: Term, batch: Batch) -> float:
    """N_k."""
    counting = [i for i in range(batch.n) if term.counts[i]]
    if options.normalizer == "elements":
        return float(batch.n)
    if options.normalizer == "batch":
        return float(batch.shape[0] if batch.n else 0)
    if options.normalizer == "sample_weights" and batch.weights is not None:
        return exact_sum(batch.weights[i] for i in counting)
    if options.normalizer == "weights" and term.says is not None:
        return exact_sum(term.says[i] for i in counting)
    return float(len(counting))


def _place(name: str, w: float, options: Any, term: Term, batch: Batch, reduction: str, h: list[float]) -> _Part:
    """The term's values under the sample weights, their reduction, and its gradient."""
    r, empty = 1.0, False
    if reduction == "mean" and options.normalizer != "one":
        n = _normalizer(options, term, batch)
        r, empty = (0.0, options.empty == "nan") if n == 0 else (1 / n, False)
    a = float32(r * w) if term.share is None else float32(r * times(w, term.share))
    v, c = [], []
    for i in range(batch.n):
        s = None if batch.weights is None else batch.weights[i]
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
    mean = NAN if empty else exact_sum(v) * r
    return _Part(name, w, v, mean, lambda: term.gradient(c))


def _place_ratio(name: str, w: float, term: Ratio, reduction: str) -> _Part:
    """The value and the gradient of a ratio of sums, which has the sample weights within."""
    return _Part(name, w, [], term.value(reduction), lambda: term.gradient(w, reduction))


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
) -> Batch:
    """What comes in, checked and read."""
    if x.ndim == 0:
        raise ValueError("x has no axes, expected (B,) or channels")
    single = x.ndim == 1
    last = x[:, None] if single else np.moveaxis(x, channel_axis, -1)
    shape, channels = last.shape[:-1], last.shape[-1]
    if channels == 0:
        raise ValueError(f"x has shape {x.shape}, expected at least one channel")
    if channels > MOST_CHANNELS:
        raise ValueError(f"x has {channels} channels, expected at most {MOST_CHANNELS}")
    for _, options in spec.parts:
        if single and options.needs_channels:
            raise ValueError(f"x has shape {x.shape}, expected a channel axis for {type(options).__name__}")
        options.check_layout(channels=channels, spatial=len(shape) - 1)
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
        if spec.ignore_index is not None:
            raise ValueError(f"target is dense, where ignore_index={spec.ignore_index} has no meaning")
        dense = target[:, None] if single else np.moveaxis(target, channel_axis, -1)
        targets = _rows(_numbers("target", dense), channels)
    elif target.shape == shape:
        if channels == 1 and not any(options.about_classes for _, options in spec.parts):
            raise ValueError("target has class indices for one channel, expected a term about classes")
        if dense_only := [type(options).__name__ for _, options in spec.parts if options.needs_dense]:
            raise ValueError(f"target has class indices, expected dense targets for {dense_only[0]}")
        targets, valid = _one_hot(target, valid, channels, spec.ignore_index, labels)
    else:
        expected = f"{shape} class indices or {x.shape} numbers"
        raise ValueError(f"target has shape {target.shape}, expected {expected}")
    inputs = _rows([load(v) for v in last.ravel().tolist()], channels)
    return Batch(shape, channels, inputs, targets, valid, weights)


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
