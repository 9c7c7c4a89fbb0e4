"""Native numerics: every term as one would write it in TensorFlow, for its tapes to differentiate.

The counterpart of this file is dualloss/torch/native.py: the same functions in the same order. Half precision
is computed in float32, and the gradient comes back in the input's dtype; float64 stays float64. The bounds
against the float64 oracle stand in `dualloss.oracle.NATIVE_ULP`.

A `tf.where` keeps a value out of the result, but not out of the gradient: 0 times the NaN or infinity of
the branch not taken is NaN. So what must not count is replaced *before* it enters a formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, NamedTuple

import tensorflow as tf

from ..spec import BinaryCrossEntropy, Boundary, CrossEntropy, Huber, MeanSquaredError, Spec, Term

Tensor = Any  # tf.Tensor; TensorFlow has no types for its functions


@tf.autograph.experimental.do_not_convert  # there is nothing to convert
def loss(
    spec: Spec,
    input: Tensor,
    target: Tensor,
    sample_weight: Tensor | None,
    *,
    reduction: str,
    channel_axis: int,
    mask: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and its terms before their weights; float32 (float64 for a float64 input).

    The arguments have been checked and brought to form already. Only the number of channels need be known.

    Args:
        spec: the loss.
        input: floating, `(B, *spatial)` with the channels on `channel_axis`.
        target: int64 class indices `(B, *spatial)`, or dense, of the input's shape. An index out of range
            makes its position NaN.
        sample_weight: `(B, *spatial)`: boolean, a mask; or floating, weights.
        reduction: "mean", "sum" or "none".
        channel_axis: where the channels are.
        mask: boolean, `(B, *spatial)`, beside floating weights.
    """
    if sample_weight is not None and sample_weight.dtype == tf.bool:
        mask, sample_weight = (sample_weight if mask is None else mask & sample_weight), None
    inputs = _read(input, target, mask, sample_weight, spec.ignore_index, channel_axis)
    terms, parts = {}, []
    for name, (weight, term) in zip(spec.names, spec.parts, strict=True):
        found = TERMS[type(term)](term, inputs)
        terms[name] = _reduce(found, inputs.weight, reduction)
        if weight != 0:
            parts.append(weight * terms[name])
    return (sum(parts[1:], parts[0]) if parts else _zero(inputs.x, reduction)), terms


class Labels(NamedTuple):
    """Class indices as maps.

    Attributes:
        ids: int64, 0 where not valid or out of range.
        known: where it is in range.
    """

    ids: Tensor
    known: Tensor


class Inputs(NamedTuple):
    """What the terms see. The channels are on the last axis; a map has the shape `(B, *spatial)`.

    Attributes:
        x: the input.
        target: class indices, or dense, of the input's shape.
        valid: a map: neither ignored nor masked; None: everywhere.
        weight: a map: sample weights, 0 where not valid; None: 1.
    """

    x: Tensor
    target: Labels | Tensor
    valid: Tensor | None
    weight: Tensor | None


class Found(NamedTuple):
    """A term at every position.

    Attributes:
        values: a map, 0 where the position does not count.
        normalizer: what a mean divides by.
    """

    values: Tensor
    normalizer: Tensor


def cross_entropy(term: CrossEntropy, inputs: Inputs) -> Found:
    """`-sum_c w_c t'_c log p_c`; framework primitives for class indices, log-softmax for dense targets."""
    kept, count = _kept(inputs.valid, inputs.weight), _count(inputs.valid, inputs.x)
    x = _select(kept, inputs.x)
    w = None if term.class_weights is None else _constants(term.class_weights, x)

    if isinstance(inputs.target, Labels) and not term.label_smoothing:
        ids, known = inputs.target
        # The label's weight says the rest about it as well: NaN out of range, 0 where not kept.
        u = tf.ones_like(ids, dtype=x.dtype) if w is None else tf.gather(w, ids)
        weights = u = tf.where(known, u, math.nan)
        values = _weighted_log(_select(kept, u), tf.nn.sparse_softmax_cross_entropy_with_logits(ids, x))
    else:
        t = _target(inputs)
        u = _smooth(_select(kept, t), term.label_smoothing, 1 / x.shape[-1])
        u = u if w is None else w * u
        weights = t if w is None else w * t
        values = _select(kept, tf.reduce_sum(_weighted_log(u, -tf.nn.log_softmax(x)), -1))

    if term.normalizer == "all":
        return Found(values, _count(None, x))
    if term.normalizer == "valid" or w is None:
        return Found(values, count)
    return Found(values, _sum(_select(inputs.valid, weights)))


def binary_cross_entropy(term: BinaryCrossEntropy, inputs: Inputs) -> Found:
    """Mean over channels of `-(pi t' log sigmoid(x) + (1 - t') log sigmoid(-x))`."""
    kept = _kept(inputs.valid, inputs.weight)
    x = _select(kept, inputs.x)
    t = _smooth(_select(kept, _target(inputs)), term.label_smoothing, 1 / 2)
    positive = t
    if term.pos_weight is not None:
        positive = _constants(term.pos_weight, x) * t
    # Two log-sigmoids rather than the primitive: it cancels for confident answers.
    values = _weighted_log(positive, -tf.math.log_sigmoid(x)) + _weighted_log(1 - t, -tf.math.log_sigmoid(-x))
    return Found(_select(kept, tf.reduce_mean(values, -1)), _count(inputs.valid, x))


def mean_squared_error(term: MeanSquaredError, inputs: Inputs) -> Found:
    """Mean over channels of `(x - t)^2`."""
    kept = _kept(inputs.valid, inputs.weight)
    x, t = _select(kept, inputs.x), _select(kept, _target(inputs))
    return Found(tf.reduce_mean(tf.math.squared_difference(x, t), -1), _count(inputs.valid, x))


def huber(term: Huber, inputs: Inputs) -> Found:
    """Mean over channels of `d^2 / 2` up to `|d| = delta`, then `delta (|d| - delta / 2)`; `d = x - t`."""
    kept = _kept(inputs.valid, inputs.weight)
    d = _select(kept, inputs.x) - _select(kept, _target(inputs))
    near = tf.clip_by_value(d, -term.delta, term.delta)
    # Both branches in one, `near` being `d` or `delta`: no infinity of a branch not taken gets in.
    return Found(tf.reduce_mean(near * (d - near / 2), -1), _count(inputs.valid, d))


def boundary(term: Boundary, inputs: Inputs) -> Found:
    """Mean over channels of `(K q - K t)^2`; `q` the input or its softmax."""
    counts = None if inputs.valid is None else _eroded(inputs.valid, term.kernel)
    kept = _kept(counts, inputs.weight)
    seen = None if kept is None else ~_eroded(~kept, term.kernel)  # by a position that is kept
    x, t = _select(seen, inputs.x), _select(seen, _target(inputs))
    q = x if term.on == "logits" else tf.nn.softmax(x)
    # Slices, not a convolution: those may compute in TF32.
    d = _select(kept, _laplacian(q - t, term.kernel, term.padding))
    return Found(tf.reduce_mean(d * d, -1), _count(counts, x))


TERMS: dict[type[Term], Callable[[Any, Inputs], Found]] = {
    CrossEntropy: cross_entropy,
    BinaryCrossEntropy: binary_cross_entropy,
    MeanSquaredError: mean_squared_error,
    Huber: huber,
    Boundary: boundary,
}
"""The function of every term."""


def _read(
    input: Tensor,
    target: Tensor,
    valid: Tensor | None,
    weight: Tensor | None,
    ignore_index: int | None,
    channel_axis: int,
) -> Inputs:
    dense = target.shape.rank == input.shape.rank
    x = _channels_last(input, channel_axis)
    x = x if x.dtype == tf.float64 else tf.cast(x, tf.float32)
    if ignore_index is not None and not dense:
        here = target != ignore_index
        valid = here if valid is None else here & valid
    weight = None if weight is None else _select(valid, tf.cast(weight, x.dtype))
    if dense:
        return Inputs(x, tf.cast(_channels_last(target, channel_axis), x.dtype), valid, weight)
    ids = _select(valid, target)
    known = (ids >= 0) & (ids < x.shape[-1])
    return Inputs(x, Labels(_select(known, ids), known), valid, weight)


def _reduce(found: Found, weight: Tensor | None, reduction: str) -> Tensor:
    values = found.values if weight is None else weight * found.values
    if reduction == "none":
        return values
    total = _sum(values)
    if reduction == "sum":
        return total
    # Where nothing counts, the mean is 0.
    size = tf.cast(found.normalizer, total.dtype)
    return total / tf.where(size != 0, size, math.inf)


def _sum(values: Tensor) -> Tensor:
    """The sum over positions; in float64, since XLA may add one after the other."""
    return tf.cast(tf.reduce_sum(tf.cast(values, tf.float64)), values.dtype)


def _zero(x: Tensor, reduction: str) -> Tensor:
    """0 that depends on the input, with a gradient of 0: for a spec whose weights are all 0."""
    values = tf.reduce_sum(tf.where(tf.zeros_like(x, dtype=tf.bool), x, 0.0), -1)
    return values if reduction == "none" else tf.reduce_sum(values)


def _kept(counts: Tensor | None, weight: Tensor | None) -> Tensor | None:
    """Where a value enters the loss: a map, or None for everywhere."""
    if weight is None:
        return counts
    return weight != 0 if counts is None else counts & (weight != 0)


def _select(kept: Tensor | None, values: Tensor) -> Tensor:
    """`values`, a map or with channels, and 0 elsewhere."""
    if kept is None:
        return values
    return tf.where(kept if values.shape.rank == kept.shape.rank else kept[..., None], values, 0)


def _count(counts: Tensor | None, x: Tensor) -> Tensor:
    """How many positions count; an integer, since float32 counts to 2^24 only."""
    if counts is None:
        return tf.size(x, tf.int64) // x.shape[-1]
    return tf.math.count_nonzero(counts)


def _constants(values: Any, x: Tensor) -> Tensor:
    """The constants of a spec, one for each channel."""
    return tf.constant(values, x.dtype)


def _channels_last(values: Tensor, channel_axis: int) -> Tensor:
    """`values` with the channel axis moved to the end."""
    axes = list(range(values.shape.rank))
    axes.append(axes.pop(channel_axis))
    return values if axes == sorted(axes) else tf.transpose(values, axes)


def _target(inputs: Inputs) -> Tensor:
    """The dense target; of class indices 1 for the class, NaN where it is out of range."""
    x, target = inputs.x, inputs.target
    if not isinstance(target, Labels):
        return target
    one_hot = tf.one_hot(target.ids, x.shape[-1], dtype=x.dtype)
    return tf.where(target.known[..., None], one_hot, math.nan)


def _smooth(t: Tensor, smoothing: float, share: float) -> Tensor:
    """`(1 - smoothing) t + smoothing * share`."""
    return (1 - smoothing) * t + smoothing * share if smoothing else t


def _weighted_log(u: Tensor, minus_log: Tensor) -> Tensor:
    """`u * -log p`, where a class without target counts nothing, even at `p = 0`."""
    return u * tf.where((u != 0) | (minus_log != math.inf), minus_log, 0)


def _laplacian(u: Tensor, kernel: str, padding: str) -> Tensor:
    """Minus the Laplacian along the spatial axes."""
    if padding == "zeros":
        return _zero_padded(u, kernel)
    return _differences(u, kernel, padding)


def _zero_padded(u: Tensor, kernel: str) -> Tensor:
    """With zeros off the edge the Laplacian is its own adjoint: cheaper than the gradients of slices."""

    @tf.custom_gradient
    def laplacian(u: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        # The same of the upstream gradient, differentiable again.
        return _differences(u, kernel, "zeros"), laplacian

    return laplacian(u)


def _differences(u: Tensor, kernel: str, padding: str) -> Tensor:
    """The sum over the neighbours of the centre's difference to them."""
    padded = _padded(u, padding)
    windows = list(_windows(u.shape.rank - 2, kernel))
    result = len(windows) * u
    for window in windows:
        result = result - padded[window]
    return result


def _eroded(valid: Tensor, kernel: str) -> Tensor:
    """Where a position and all its neighbours are true; off the edge counts as true."""
    result = valid[..., None]
    axes = valid.shape.rank - 1
    padded = tf.pad(result, [(0, 0), *[(1, 1)] * axes, (0, 0)], constant_values=True)
    for window in _windows(axes, kernel):
        result = result & padded[window]
    return result[..., 0]


def _windows(axes: int, kernel: str) -> Iterator[tuple[slice, ...]]:
    """The neighbours of every position, as slices of an array that is padded by 1 along its spatial axes."""
    slices = {-1: slice(0, -2), 0: slice(1, -1), 1: slice(2, None)}
    for offset in product(slices, repeat=axes):
        steps = sum(map(abs, offset))
        if steps == 1 or (steps and kernel == "laplacian8"):
            yield (slice(None), *(slices[step] for step in offset), slice(None))


def _padded(u: Tensor, padding: str) -> Tensor:
    """`u` with one more position on both sides of every spatial axis."""
    if padding == "zeros":
        return tf.pad(u, [(0, 0), *[(1, 1)] * (u.shape.rank - 2), (0, 0)])
    for axis in range(1, u.shape.rank - 1):
        first, last = _cut(u, axis, 0, 1), _cut(u, axis, -1, None)
        if padding == "reflect":  # an axis of length 1 has no second position: then its only one
            first = _cut(tf.concat([_cut(u, axis, 1, 2), first], axis), axis, 0, 1)
            last = _cut(tf.concat([last, _cut(u, axis, -2, -1)], axis), axis, -1, None)
        u = tf.concat([first, u, last], axis)
    return u


def _cut(u: Tensor, axis: int, start: int, stop: int | None) -> Tensor:
    """A slice along one axis."""
    return u[(slice(None),) * axis + (slice(start, stop),)]
