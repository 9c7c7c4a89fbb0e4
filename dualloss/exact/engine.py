"""From the terms to the loss and its gradient (docs/numerics.md, section 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..spec import Spec
from . import classification, functions, regression, segmentation, sums, terms  # noqa: F401  (some only register)
from .constants import float32
from .ops import Array, Ops
from .terms import Inputs, Result


@dataclass(frozen=True)
class Evaluation:
    """What one pass gives.

    Attributes:
        loss: float32, a scalar, or for ``"none"`` the map with the channel axis kept at length 1.
        terms: float32 of shape (K,), each term's value before its weight; for ``"none"`` (K, *map).
        sums: int64 (K, 2, STATE): the sums of values and of normalisers, which add over parts of a batch.
        gradient: float32, of the input's shape, computed when called; its argument is the upstream gradient per
            position (float64, for ``"none"``), or None for 1.
    """

    loss: Array
    terms: Array
    sums: Array
    gradient: Callable[[Array | None], Array]


def targets(
    ops: Ops, target: Array, labels: bool, channels: int, axis: int, ignore_index: int | None, mask: Array | None
) -> tuple[Array, Array | None]:
    """The dense target and the valid positions.

    ``target`` is dense, or int64 labels per position; ``mask`` per position, boolean.
    """
    if not labels:
        t, valid = functions.load(ops, target), mask
    else:
        t = ops.where(target == ops.iota(channels, target, axis), 1.0, 0.0)
        known = ops.both(target >= 0, target < channels)
        t = ops.where(known, t, float("nan"))
        valid = mask
        if ignore_index is not None:
            here = ops.invert(target == ignore_index)
            valid = here if mask is None else ops.both(here, mask)
    return (t if valid is None else ops.where(valid, t, 0.0)), valid


def evaluate(
    ops: Ops, spec: Spec, inputs: Inputs, weight: Array | None, reduction: str, totals: Array | None = None
) -> Evaluation:
    """The loss, and on demand the gradient.

    Args:
        ops: the backend's operations.
        spec: the loss.
        inputs: what the terms see.
        weight: float64 sample weights per position, or None.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        totals: the ``sums`` whose normalisers to use instead of this batch's own (for parts of a larger batch).
    """
    weights = [float32(w) for w, _ in spec.parts]
    results = [terms.evaluate(term, inputs) for _, term in spec.parts]
    values = [_weighted(ops, result, weight) for result in results]
    states = _states(ops, values, results)
    sizes = sums.to_float(ops, states)
    scales = _scales(ops, sizes if totals is None else sums.to_float(ops, totals), reduction)
    if reduction == "none":
        reduced = values
        loss = ops.store(_combined(ops, weights, values), "float32")
    else:
        reduced, loss = _reduced(ops, weights, sizes, scales)

    def gradient(upstream: Array | None) -> Array:
        parts = []
        factors = [f for f in (weight, upstream) if f is not None]
        for k, (w, result) in enumerate(zip(weights, results, strict=True)):
            if w == 0.0:
                continue
            c = ops.float32(scales[k] * (w * result.share))  # one product in the graph: compilers regroup two
            if factors:
                for factor in factors:
                    c = c * factor
                c = ops.float32(c)
                for factor in factors:
                    c = ops.where(factor == 0.0, 0.0, c)
            if result.counts is not None:
                c = ops.where(result.counts, c, 0.0)
            parts.append(result.gradient(c))
        g = _sum(ops, parts) if parts else ops.zeros_like(inputs.x)
        return ops.store(ops.float32(g), "float32")

    return Evaluation(loss, ops.store(ops.float32(ops.stack(reduced, 0)), "float32"), states, gradient)


def from_sums(ops: Ops, spec: Spec, states: Array, reduction: str) -> tuple[Array, Array]:
    """Loss and terms, as :class:`Evaluation` gives them, from (added) sums."""
    weights = [float32(w) for w, _ in spec.parts]
    sizes = sums.to_float(ops, states)
    reduced, loss = _reduced(ops, weights, sizes, _scales(ops, sizes, reduction))
    return loss, ops.store(ops.float32(ops.stack(reduced, 0)), "float32")


def backward(ops: Ops, upstream: Array | None, gradient: Array, dtype: str) -> Array:
    """The input's gradient, from the float32 one; ``upstream`` is a scalar, or None where it is in it already."""
    g = functions.load(ops, gradient)
    return functions.to_dtype(ops, g if upstream is None else functions.load(ops, upstream) * g, dtype)


def _weighted(ops: Ops, result: Result, weight: Array | None) -> Array:
    value = result.value
    if weight is not None:
        value = ops.where(weight == 0.0, 0.0, functions.times(ops, weight, value))
    return value if result.counts is None else ops.where(result.counts, value, 0.0)


def _states(ops: Ops, values: Sequence[Array], results: Sequence[Result]) -> Array:
    """(K, 2, STATE): each term's sum of values, and the sum that its mean divides by."""
    rows = list(values)
    sizes = []
    for result in results:
        if isinstance(result.normaliser, str):
            everywhere = result.counts is None or result.normaliser == "all"
            counted = ops.zeros_like(result.value) < 1.0 if everywhere else result.counts
            sizes.append(sums.count_state(ops, ops.count(ops.stack([counted], 0)))[0])
        else:
            omega = result.normaliser
            rows.append(omega if result.counts is None else ops.where(result.counts, omega, 0.0))
            sizes.append(len(rows) - 1)
    states = sums.state(ops, ops.stack(rows, 0))
    pairs = [(states[k], states[n] if isinstance(n, int) else n) for k, n in enumerate(sizes)]
    return ops.stack([ops.stack(pair, 0) for pair in pairs], 0)


def _scales(ops: Ops, sizes: Array, reduction: str) -> Array:
    """What each term's sum is multiplied by, (K,), from (K, 2) sums of values and normalisers."""
    ones = ops.ones_like(sizes[:, 1])
    return ops.where(sizes[:, 1] == 0.0, 0.0, ones / sizes[:, 1]) if reduction == "mean" else ones


def _reduced(ops: Ops, weights: Sequence[float], sizes: Array, scales: Array) -> tuple[list[Array], Array]:
    totals = sizes[:, 0] * scales
    reduced = [totals[k] for k in range(len(weights))]
    return reduced, ops.store(_combined(ops, weights, reduced), "float32")


def _combined(ops: Ops, weights: Sequence[float], values: Sequence[Array]) -> Array:
    parts = [functions.times(ops, value, w) for w, value in zip(weights, values, strict=True) if w != 0.0]
    return ops.float32(_sum(ops, parts)) if parts else ops.zeros_like(values[0])


def _sum(ops: Ops, parts: Sequence[Array]) -> Array:
    """Left to right, chopped after every addition: no compiler regroups across that."""
    result = parts[0]
    for part in parts[1:]:
        result = functions.chop(ops, result + part)
    return result
