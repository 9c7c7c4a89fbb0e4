"""Native numerics: every term as one would write it in PyTorch, for autograd to differentiate.

The counterpart of this file is dualloss/tf/native.py: the same functions in the same order. Half precision
is computed in float32, and the gradient comes back in the input's dtype; float64 stays float64. The bounds
against the float64 oracle stand in `dualloss.oracle.NATIVE_ULP`.

A `torch.where` keeps a value out of the result, but not out of the gradient: 0 times the NaN or infinity of
the branch not taken is NaN. So what must not count is replaced *before* it enters a formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..spec import BinaryCrossEntropy, Boundary, CrossEntropy, Huber, MeanSquaredError, Spec, Term


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

    The arguments have been checked and brought to form already.

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
    if sample_weight is not None and sample_weight.dtype == torch.bool:
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
    """What the terms see. The channels are on axis 1; a map has the shape `(B, *spatial)`.

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
    normalizer: int | Tensor


def cross_entropy(term: CrossEntropy, inputs: Inputs) -> Found:
    """`-sum_c w_c t'_c log p_c`; framework primitives for class indices, log-softmax for dense targets."""
    kept, count = _kept(inputs.valid, inputs.weight), _count(inputs.valid, inputs.x)
    x = _select(kept, inputs.x)
    w = None if term.class_weights is None else _constants(term.class_weights, x)

    if isinstance(inputs.target, Labels) and not term.label_smoothing:
        ids, known = inputs.target
        # The label's weight says the rest about it as well: NaN out of range, 0 where not kept.
        u = torch.ones_like(ids, dtype=x.dtype) if w is None else w[ids]
        weights = u = torch.where(known, u, math.nan)
        values = _weighted_log(_select(kept, u), F.cross_entropy(x, ids, reduction="none"))
    else:
        t = _target(inputs)
        u = _smooth(_select(kept, t), term.label_smoothing, 1 / x.shape[1])
        u = u if w is None else _per_channel(w, x) * u
        weights = t if w is None else _per_channel(w, x) * t
        values = _select(kept, _weighted_log(u, -F.log_softmax(x, 1)).sum(1))

    if term.normalizer == "all":
        return Found(values, _count(None, x))
    if term.normalizer == "valid" or w is None:
        return Found(values, count)
    return Found(values, _select(inputs.valid, weights).sum())


def binary_cross_entropy(term: BinaryCrossEntropy, inputs: Inputs) -> Found:
    """Mean over channels of `-(pi t' log sigmoid(x) + (1 - t') log sigmoid(-x))`."""
    kept = _kept(inputs.valid, inputs.weight)
    x = _select(kept, inputs.x)
    t = _smooth(_select(kept, _target(inputs)), term.label_smoothing, 1 / 2)
    positive = t
    if term.pos_weight is not None:
        positive = _per_channel(_constants(term.pos_weight, x), x) * t
    # Two log-sigmoids rather than the primitive: it cancels for confident answers.
    values = _weighted_log(positive, -F.logsigmoid(x)) + _weighted_log(1 - t, -F.logsigmoid(-x))
    return Found(_select(kept, values.mean(1)), _count(inputs.valid, x))


def mean_squared_error(term: MeanSquaredError, inputs: Inputs) -> Found:
    """Mean over channels of `(x - t)^2`."""
    kept = _kept(inputs.valid, inputs.weight)
    x, t = _select(kept, inputs.x), _select(kept, _target(inputs))
    return Found(F.mse_loss(x, t, reduction="none").mean(1), _count(inputs.valid, x))


def huber(term: Huber, inputs: Inputs) -> Found:
    """Mean over channels of `d^2 / 2` up to `|d| = delta`, then `delta (|d| - delta / 2)`; `d = x - t`."""
    kept = _kept(inputs.valid, inputs.weight)
    x, t = _select(kept, inputs.x), _select(kept, _target(inputs))
    return Found(F.huber_loss(x, t, reduction="none", delta=term.delta).mean(1), _count(inputs.valid, x))


def boundary(term: Boundary, inputs: Inputs) -> Found:
    """Mean over channels of `(K q - K t)^2`; `q` the input or its softmax."""
    counts = None if inputs.valid is None else _eroded(inputs.valid, term.kernel)
    kept = _kept(counts, inputs.weight)
    seen = None if kept is None else ~_eroded(~kept, term.kernel)  # by a position that is kept
    x, t = _select(seen, inputs.x), _select(seen, _target(inputs))
    q = x if term.on == "logits" else F.softmax(x, 1)
    # Slices, not a convolution: those may compute in TF32.
    d = _select(kept, _laplacian(q - t, term.kernel, term.padding))
    return Found((d * d).mean(1), _count(counts, x))


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
    dense = target.ndim == input.ndim
    x = input.movedim(channel_axis, 1)
    x = x if x.dtype == torch.float64 else x.float()
    if ignore_index is not None and not dense:
        here = target != ignore_index
        valid = here if valid is None else here & valid
    weight = None if weight is None else _select(valid, weight.to(x.dtype))
    if dense:
        return Inputs(x, target.movedim(channel_axis, 1).to(x.dtype), valid, weight)
    ids = _select(valid, target)
    known = (ids >= 0) & (ids < x.shape[1])
    return Inputs(x, Labels(_select(known, ids), known), valid, weight)


def _reduce(found: Found, weight: Tensor | None, reduction: str) -> Tensor:
    values = found.values if weight is None else weight * found.values
    if reduction == "none":
        return values
    total = values.sum()
    if reduction == "sum":
        return total
    if isinstance(found.normalizer, Tensor):
        # Where nothing counts, the mean is 0.
        return total / torch.where(found.normalizer != 0, found.normalizer, math.inf)
    return total / max(found.normalizer, 1)


def _zero(x: Tensor, reduction: str) -> Tensor:
    """0 that depends on the input, with a gradient of 0: for a spec whose weights are all 0."""
    values = torch.where(torch.zeros_like(x, dtype=torch.bool), x, 0.0).sum(1)
    return values if reduction == "none" else values.sum()


def _kept(counts: Tensor | None, weight: Tensor | None) -> Tensor | None:
    """Where a value enters the loss: a map, or None for everywhere."""
    if weight is None:
        return counts
    return weight != 0 if counts is None else counts & (weight != 0)


def _select(kept: Tensor | None, values: Tensor) -> Tensor:
    """`values`, a map or with channels, and 0 elsewhere."""
    if kept is None:
        return values
    return torch.where(kept if values.ndim == kept.ndim else kept.unsqueeze(1), values, 0)


def _count(counts: Tensor | None, x: Tensor) -> int | Tensor:
    """How many positions count; an integer, since float32 counts to 2^24 only."""
    return x.numel() // x.shape[1] if counts is None else counts.sum()


def _constants(values: Any, x: Tensor) -> Tensor:
    """The constants of a spec, one for each channel."""
    return torch.tensor(values, dtype=x.dtype, device=x.device)


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    """One number for each channel, laid along the channel axis."""
    return values.reshape(-1, *(1 for _ in range(x.ndim - 2)))


def _target(inputs: Inputs) -> Tensor:
    """The dense target; of class indices 1 for the class, NaN where it is out of range."""
    x, target = inputs.x, inputs.target
    if not isinstance(target, Labels):
        return target
    classes = _per_channel(torch.arange(x.shape[1], device=x.device), x)
    one_hot = (target.ids.unsqueeze(1) == classes).to(x.dtype)
    return torch.where(target.known.unsqueeze(1), one_hot, math.nan)


def _smooth(t: Tensor, smoothing: float, share: float) -> Tensor:
    """`(1 - smoothing) t + smoothing * share`."""
    return (1 - smoothing) * t + smoothing * share if smoothing else t


def _weighted_log(u: Tensor, minus_log: Tensor) -> Tensor:
    """`u * -log p`, where a class without target counts nothing, even at `p = 0`."""
    return u * torch.where((u != 0) | (minus_log != math.inf), minus_log, 0)


def _laplacian(u: Tensor, kernel: str, padding: str) -> Tensor:
    """Minus the Laplacian along the spatial axes."""
    if padding == "zeros":
        return _ZeroPadded.apply(u, kernel)
    return _differences(u, kernel, padding)


class _ZeroPadded(torch.autograd.Function):
    """With zeros off the edge the Laplacian is its own adjoint: cheaper than the gradients of slices."""

    @staticmethod
    def forward(u: Tensor, kernel: str) -> Tensor:
        """Minus the Laplacian."""
        return _differences(u, kernel, "zeros")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, str], output: Tensor) -> None:
        """Keep the name of the kernel."""
        ctx.kernel = inputs[1]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        """The same of the upstream gradient, differentiable again."""
        return _ZeroPadded.apply(upstream, ctx.kernel), None


def _differences(u: Tensor, kernel: str, padding: str) -> Tensor:
    """The sum over the neighbours of the centre's difference to them."""
    padded = _padded(u, padding)
    windows = list(_windows(u.ndim - 2, kernel))
    result = len(windows) * u
    for window in windows:
        result = result - padded[window]
    return result


def _eroded(valid: Tensor, kernel: str) -> Tensor:
    """Where a position and all its neighbours are true; off the edge counts as true."""
    result = valid.unsqueeze(1)
    padded = F.pad(result, [1, 1] * (valid.ndim - 1), value=True)
    for window in _windows(valid.ndim - 1, kernel):
        result = result & padded[window]
    return result.squeeze(1)


def _windows(axes: int, kernel: str) -> Iterator[tuple[slice, ...]]:
    """The neighbours of every position, as slices of an array that is padded by 1 along its spatial axes."""
    slices = {-1: slice(0, -2), 0: slice(1, -1), 1: slice(2, None)}
    for offset in product(slices, repeat=axes):
        steps = sum(map(abs, offset))
        if steps == 1 or (steps and kernel == "laplacian8"):
            yield (slice(None), slice(None), *(slices[step] for step in offset))


def _padded(u: Tensor, padding: str) -> Tensor:
    """`u` with one more position on both sides of every spatial axis."""
    if padding == "zeros":
        return F.pad(u, [1, 1] * (u.ndim - 2))
    for axis in range(2, u.ndim):
        first, last = _cut(u, axis, 0, 1), _cut(u, axis, -1, None)
        if padding == "reflect":  # an axis of length 1 has no second position: then its only one
            first = _cut(torch.cat([_cut(u, axis, 1, 2), first], axis), axis, 0, 1)
            last = _cut(torch.cat([last, _cut(u, axis, -2, -1)], axis), axis, -1, None)
        u = torch.cat([first, u, last], axis)
    return u


def _cut(u: Tensor, axis: int, start: int, stop: int | None) -> Tensor:
    """A slice along one axis."""
    return u[(slice(None),) * axis + (slice(start, stop),)]
