"""From the terms to the loss and its gradient (docs/numerics.md, section 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..spec import PerPosition, Spec, Term
from . import (  # noqa: F401  (some only register)
    binary,
    classification,
    functions,
    penalties,
    region,
    regression,
    segmentation,
    sums,
    terms,
)
from .constants import chop, float32
from .ops import Array, Ops
from .terms import Inputs, Result, Totals


@dataclass(frozen=True)
class Evaluation:
    """What one pass gives.

    Attributes:
        loss: float32, a scalar, or for ``"none"`` the map with the channel axis kept at length 1.
        terms: float32 of shape (K,), each term's value before its weight; for ``"none"`` (K, *map).
        sums: int64 (K, M, STATE): what each term sums over positions, which adds over parts of a batch: of most the
            values and the normaliser (M is the largest number of sums that a term has; others have zeros there).
        gradient: float32, of the input's shape, computed when called; its argument is the upstream gradient per
            position (float64, for ``"none"``), or None for 1.
    """

    loss: Array
    terms: Array
    sums: Array
    gradient: Callable[[Array | None], Array]


def targets(
    ops: Ops,
    target: Array,
    labels: bool,
    channels: int,
    axis: int,
    ignore_index: int | None,
    mask: Array | None,
    trusted: bool = False,
) -> tuple[Array, Array | None]:
    """The dense target and the valid positions.

    ``target`` is dense, or int64 labels per position; ``mask`` per position, boolean. ``trusted`` says that the labels
    of valid positions are known to be classes.
    """
    if not labels:
        t, valid = functions.load(ops, target), mask
    else:
        t = ops.where(target == ops.iota(channels, target, axis), 1.0, 0.0)
        if not trusted:
            t = ops.where(ops.both(target >= 0, target < channels), t, float("nan"))
        valid = mask
        if ignore_index is not None:
            here = ops.invert(target == ignore_index)
            valid = here if mask is None else ops.both(here, mask)
    return (t if valid is None else ops.where(valid, t, 0.0)), valid


def numbers(spec: Spec, step: int = 0) -> list[float]:
    """The terms' weights at a step, as the exact numerics use them."""
    return [float32(w) if isinstance(w, float) else float32(w.at(step)) for w, _ in spec.parts]


def _weights(spec: Spec, given: Array | None) -> list[Any]:
    """The terms' weights: numbers, and of schedules, if the weights at a step are given, scalars from those."""
    if given is None:
        return list(numbers(spec))
    return [float32(w) if isinstance(w, float) else given[k] for k, (w, _) in enumerate(spec.parts)]


def evaluate(
    ops: Ops,
    spec: Spec,
    inputs: Inputs,
    reduction: str,
    totals: Array | None = None,
    weights: Array | None = None,
) -> Evaluation:
    """The loss, and on demand the gradient.

    Args:
        ops: the backend's operations.
        spec: the loss.
        inputs: what the terms see.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        totals: the ``sums`` to use in place of this batch's own (for parts of a larger batch): for most terms their
            normalisers.
        weights: the terms' weights at a schedule's step, float64 (K,); numbers in the spec stay as they are.
    """
    w = _weights(spec, weights)
    found = [terms.evaluate(term, inputs) for _, term in spec.parts]
    values = [weighted(ops, result, inputs.weight) if isinstance(result, Result) else None for result in found]
    states = _states(ops, spec, inputs, values, found)
    own = sums.to_float(ops, states)
    whole = own if totals is None else sums.to_float(ops, totals)
    if reduction == "none":
        reduced = [value for value in values if value is not None]
        loss = ops.store(_combined(ops, w, reduced), "float32")
    else:
        reduced = _reduced(ops, spec, own, whole, reduction)
        loss = ops.store(_combined(ops, w, reduced), "float32")

    def gradient(upstream: Array | None) -> Array:
        parts, scheduled = [], []
        for k, (_, term) in enumerate(spec.parts):
            if isinstance(w[k], float) and w[k] == 0.0:
                continue
            result = found[k]
            scheduled.append(None if isinstance(w[k], float) else w[k])
            if isinstance(result, Totals):
                parts.append(result.gradient(whole[k], w[k] + ops.zeros_like(own[0, 0]), reduction))
            else:
                by = scale(ops, term, whole[k, 1], reduction)
                c = coefficient(ops, w[k], by, result, [f for f in (inputs.weight, upstream) if f is not None])
                parts.append(result.gradient(c))
        g = summed(ops, parts, scheduled) if parts else ops.zeros_like(inputs.x)
        return ops.store(ops.float32(g), "float32")

    return Evaluation(loss, ops.store(ops.float32(ops.stack(reduced, 0)), "float32"), states, gradient)


def from_sums(
    ops: Ops, spec: Spec, states: Array, reduction: str, weights: Array | None = None, totals: Array | None = None
) -> tuple[Array, Array]:
    """Loss and terms, as :class:`Evaluation` gives them, from (added) sums; ``totals`` are those of the whole batch."""
    w = _weights(spec, weights)
    own = sums.to_float(ops, states)
    reduced = _reduced(ops, spec, own, own if totals is None else sums.to_float(ops, totals), reduction)
    loss = ops.store(_combined(ops, w, reduced), "float32")
    return loss, ops.store(ops.float32(ops.stack(reduced, 0)), "float32")


def backward(ops: Ops, upstream: Array | None, gradient: Array, dtype: str) -> Array:
    """The input's gradient, from the float32 one; ``upstream`` is a scalar, or None where it is in it already."""
    g = functions.load(ops, gradient)
    return functions.to_dtype(ops, g if upstream is None else functions.load(ops, upstream) * g, dtype)


def weighted(ops: Ops, result: Result, weight: Array | None) -> Array:
    """A term's values with the sample weights, 0 where nothing counts."""
    value = result.value
    if weight is not None:
        value = ops.where(weight == 0.0, 0.0, functions.times(ops, weight, value))
    return value if result.counts is None else ops.where(result.counts, value, 0.0)


def coefficient(ops: Ops, weight: Any, by: Array, result: Result, factors: Sequence[Array]) -> Array:
    """What a term's gradient is multiplied by: a scalar, or one number per position."""
    share = result.share
    # One product in the graph for a constant weight: compilers regroup two, but not across a chop.
    w = chop(weight * share) if isinstance(weight, float) else functions.times(ops, weight, share)
    c = ops.float32(by * w)
    if factors:
        for factor in factors:
            c = c * factor
        c = ops.float32(c)
        for factor in factors:
            c = ops.where(factor == 0.0, 0.0, c)
    if not isinstance(weight, float):
        c = ops.where(weight == 0.0, 0.0, c)
    return c if result.counts is None else ops.where(result.counts, c, 0.0)


def _states(
    ops: Ops, spec: Spec, inputs: Inputs, values: Sequence[Array | None], found: Sequence[Result | Totals]
) -> Array:
    """(K, M, STATE): each term's sums; of most its values and what its mean divides by."""
    rows: list[Array] = []
    counted: dict[int, Array] = {}
    places: list[tuple[int, int | None]] = []
    for value, result, (_, term) in zip(values, found, spec.parts, strict=True):
        if isinstance(result, Totals):
            continue
        rows.append(value)
        amount = size(ops, term, inputs, result)
        if isinstance(amount, tuple):
            counted[len(places)] = sums.count_state(ops, ops.count(ops.stack([amount[0]], 0)))[0]
            places.append((len(rows) - 1, None))
        else:
            rows.append(amount)
            places.append((len(rows) - 2, len(rows) - 1))
    stacked: Any = sums.state(ops, ops.stack(rows, 0)) if rows else None
    pairs = iter(
        [ops.stack([stacked[v], counted[i] if n is None else stacked[n]], 0) for i, (v, n) in enumerate(places)]
    )
    states = [sums.state(ops, result.rows) if isinstance(result, Totals) else next(pairs) for result in found]
    return ops.stack(padded(ops, states), 0)


def padded(ops: Ops, states: Sequence[Array]) -> list[Array]:
    """Arrays (M_k, STATE) brought to one length with zeros."""
    longest = max(state.shape[0] for state in states)
    result = []
    for state in states:
        missing = longest - state.shape[0]
        none = ops.zeros_like(state[:1])
        result.append(ops.concat([state, *[none] * missing], 0) if missing else state)
    return result


def size(ops: Ops, term: Term, inputs: Inputs, result: Result) -> Array | tuple[Array]:
    """What a mean divides by: numbers to sum, or in a tuple a condition to count."""
    name = term.normalizer if isinstance(term, PerPosition) else "valid"
    everywhere = ops.zeros_like(result.value) < 1.0
    if name == "weights" and result.weights is not None:
        amount: Array = result.weights
    elif name == "sample_weights" and inputs.weight is not None:
        amount = inputs.weight + ops.zeros_like(result.value)
    elif name == "one":
        return (ops.invert(everywhere),)
    elif name == "elements":
        return (everywhere,)
    elif name == "batch":
        first = everywhere
        for axis in inputs.spatial:
            first = ops.cut(first, axis, 0, 1)
        return (first,)
    else:
        return (everywhere if result.counts is None else result.counts,)
    return amount if result.counts is None else ops.where(result.counts, amount, 0.0)


def scale(ops: Ops, term: Term, amount: Array, reduction: str) -> Array:
    """What a term's sum is multiplied by, from what its mean divides by."""
    one = ops.ones_like(amount)
    if reduction != "mean" or (isinstance(term, PerPosition) and term.normalizer == "one"):
        return one
    return ops.where(amount == 0.0, 0.0, one / amount)


def _reduced(ops: Ops, spec: Spec, own: Array, whole: Array, reduction: str) -> list[Array]:
    """Each term's value, a scalar."""
    result = []
    for k, (_, term) in enumerate(spec.parts):
        if not term.has_map:
            result.append(terms.value_of_sums(ops, term, whole[k], reduction))
            continue
        value = own[k, 0] * scale(ops, term, whole[k, 1], reduction)
        if reduction == "mean" and isinstance(term, PerPosition) and term.empty == "nan" and term.normalizer != "one":
            value = ops.where(whole[k, 1] == 0.0, float("nan"), value)
        result.append(value)
    return result


def _combined(ops: Ops, weights: Sequence[Any], values: Sequence[Array]) -> Array:
    parts, scheduled = [], []
    for w, value in zip(weights, values, strict=True):
        if not isinstance(w, float) or w != 0.0:
            parts.append(functions.times(ops, value, w))
            scheduled.append(None if isinstance(w, float) else w)
    return ops.float32(summed(ops, parts, scheduled)) if parts else ops.zeros_like(values[0])


def summed(ops: Ops, parts: Sequence[Array], scheduled: Sequence[Array | None]) -> Array:
    """Left to right, chopped after every addition: no compiler regroups across that.

    ``scheduled`` holds the weights that are known only when this runs: a part whose weight is 0 is left out, also of
    the chopping, whatever stands in it.
    """
    result: Array | None = None
    none_yet: Array | None = None  # whether every part so far was left out, where that is not known beforehand
    for part, weight in zip(parts, scheduled, strict=True):
        longer = part if result is None else functions.chop(ops, result + part)
        if none_yet is not None:
            longer = ops.where(none_yet, part, longer)
        if weight is None:
            result, none_yet = longer, None
            continue
        left_out = weight == 0.0
        if result is None:
            result, none_yet = ops.zeros_like(part), left_out
        elif none_yet is not None:
            none_yet = ops.both(none_yet, left_out)
        result = ops.where(left_out, result, longer)
    return result
