"""What native terms see and give, and what several of them use; from the terms to the loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...spec import PerChannel, Spec, Term


def loss(
    spec: Spec,
    input: Tensor,
    target: Tensor,
    sample_weight: Tensor | None,
    *,
    reduction: str,
    channel_axis: int,
    mask: Tensor | None = None,
    distances: Tensor | None = None,
    weights: Sequence[float | Tensor] | None = None,
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
        distances: of the input's shape: signed distances to the target's boundary, for the terms that need them.
        weights: the terms' weights in place of the spec's, numbers or scalar tensors: those of a schedule's step.
    """
    if sample_weight is not None and sample_weight.dtype == torch.bool:
        mask, sample_weight = (sample_weight if mask is None else mask & sample_weight), None
    inputs = _read(input, target, mask, sample_weight, distances, spec.ignore_index, channel_axis, reduction)
    terms, parts = {}, []
    numbers: Any = [weight for weight, _ in spec.parts] if weights is None else weights
    for name, weight, (_, term) in zip(spec.names, numbers, spec.parts, strict=True):
        if isinstance(weight, Tensor):
            # Of weight 0 a term adds nothing, a NaN neither, and what it adds to the gradient is not even looked at.
            used = weight != 0
            seen = inputs._replace(x=torch.where(used, inputs.x, inputs.x.detach()))
            terms[name] = _value(term, seen)
            parts.append(torch.where(used, weight.to(inputs.x.dtype) * terms[name], 0))
        else:
            terms[name] = _value(term, inputs)
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
        distances: of the input's shape, or None where no term needs them.
        reduction: "mean", "sum" or "none".
    """

    x: Tensor
    target: Labels | Tensor
    valid: Tensor | None
    weight: Tensor | None
    distances: Tensor | None
    reduction: str


class Found(NamedTuple):
    """A term at every position.

    Attributes:
        values: a map, 0 where the position does not count.
        counts: a map: the positions that do; None: all.
        weights: a map, 0 where the position does not count: what the normaliser "weights" sums; None: 1 for each.
    """

    values: Tensor
    counts: Tensor | None
    weights: Tensor | None = None


Implementation = Callable[[Any, Inputs], Found | Tensor]
_implementations: dict[type[Term], Implementation] = {}


def implements(term: type[Term]) -> Callable[[Implementation], Implementation]:
    """Register the function of a term. A term without a map gives its value, a scalar, for `Inputs.reduction`."""

    def register(function: Implementation) -> Implementation:
        _implementations[term] = function
        return function

    return register


def _read(
    input: Tensor,
    target: Tensor,
    valid: Tensor | None,
    weight: Tensor | None,
    distances: Tensor | None,
    ignore_index: int | None,
    channel_axis: int,
    reduction: str,
) -> Inputs:
    dense = target.ndim == input.ndim
    x = input.movedim(channel_axis, 1)
    x = x if x.dtype == torch.float64 else x.float()
    if ignore_index is not None and not dense:
        here = target != ignore_index
        valid = here if valid is None else here & valid
    weight = None if weight is None else select(valid, weight.to(x.dtype))
    distances = None if distances is None else distances.movedim(channel_axis, 1).to(x.dtype)
    if dense:
        return Inputs(x, target.movedim(channel_axis, 1).to(x.dtype), valid, weight, distances, reduction)
    ids = select(valid, target)
    known = (ids >= 0) & (ids < x.shape[1])
    return Inputs(x, Labels(select(known, ids), known), valid, weight, distances, reduction)


def _value(term: Any, inputs: Inputs) -> Tensor:
    """A term before its weight: a scalar, or for the reduction "none" a map."""
    found = _implementations[type(term)](term, inputs)
    if not isinstance(found, Found):
        return found
    values = found.values if inputs.weight is None else inputs.weight * found.values
    if inputs.reduction == "none":
        return values
    total = values.sum()
    if inputs.reduction == "sum" or term.normalizer == "one":
        return total
    size = _normalizer(term.normalizer, inputs, found)
    if isinstance(size, Tensor):
        # Where nothing counts, the mean is 0, or NaN with a gradient of 0.
        mean = total / torch.where(size != 0, size, math.inf)
        return mean if term.empty == "zero" else torch.where(size != 0, mean, math.nan)
    return total + math.nan if size == 0 and term.empty == "nan" else total / max(size, 1)


def _normalizer(name: str, inputs: Inputs, found: Found) -> int | Tensor:
    """What a mean divides by."""
    if name == "weights" and found.weights is not None:
        return found.weights.sum()
    if name == "sample_weights" and inputs.weight is not None:
        return select(found.counts, inputs.weight).sum()
    if name == "elements":
        return count(None, inputs.x)
    if name == "batch":
        return inputs.x.shape[0] if inputs.x.numel() else 0
    return count(found.counts, inputs.x)


def _zero(x: Tensor, reduction: str) -> Tensor:
    """0 that depends on the input, with a gradient of 0: for a spec whose weights are all 0."""
    values = torch.where(torch.zeros_like(x, dtype=torch.bool), x, 0.0).sum(1)
    return values if reduction == "none" else values.sum()


def kept(counts: Tensor | None, weight: Tensor | None) -> Tensor | None:
    """Where a value enters the loss: a map, or None for everywhere."""
    if weight is None:
        return counts
    return weight != 0 if counts is None else counts & (weight != 0)


def select(keep: Tensor | None, values: Tensor, other: float = 0) -> Tensor:
    """`values`, a map or with channels, and 0 (or another number) elsewhere."""
    if keep is None:
        return values
    return torch.where(keep if values.ndim == keep.ndim else keep.unsqueeze(1), values, other)


def unless(bad: Tensor, values: Tensor, other: float = 0) -> Tensor:
    """`values`, and another number where `bad`."""
    return torch.where(bad, other, values)


def count(counts: Tensor | None, x: Tensor) -> int | Tensor:
    """How many positions count; an integer, since float32 counts to 2^24 only."""
    return x.numel() // x.shape[1] if counts is None else counts.sum()


def constants(values: Any, x: Tensor) -> Tensor:
    """The constants of a spec, one for each channel."""
    return torch.tensor(values, dtype=x.dtype, device=x.device)


def positionwise(inputs: Inputs, value: Callable[[Tensor, Tensor], Tensor]) -> Found:
    """A term that looks at one position at a time: its map, of the input and the dense target."""
    keep = kept(inputs.valid, inputs.weight)
    return Found(select(keep, value(select(keep, inputs.x), select(keep, target(inputs)))), inputs.valid)


def channelwise(term: PerChannel, inputs: Inputs, value: Callable[[Tensor, Tensor], Tensor]) -> Found:
    """A term with a value for every channel of a position."""
    return positionwise(inputs, lambda x, t: over_channels(term, value(x, t)))


def over_channels(term: PerChannel, values: Tensor) -> Tensor:
    """The map of a term from what it has for every channel."""
    return values.mean(1) if term.channels == "mean" else values.sum(1)


def nan_where(bad: Tensor, values: Tensor) -> Tensor:
    """`values`, and NaN where `bad`; there what they are made of gets a gradient of NaN, too."""
    return values * torch.where(bad, math.nan, 1.0)


def per_channel(values: Tensor, x: Tensor) -> Tensor:
    """One number for each channel, laid along the channel axis."""
    return values.reshape(-1, *(1 for _ in range(x.ndim - 2)))


def target(inputs: Inputs) -> Tensor:
    """The dense target; of class indices 1 for the class, NaN where it is out of range."""
    x, given = inputs.x, inputs.target
    if not isinstance(given, Labels):
        return given
    classes = per_channel(torch.arange(x.shape[1], device=x.device), x)
    one_hot = (given.ids.unsqueeze(1) == classes).to(x.dtype)
    return torch.where(given.known.unsqueeze(1), one_hot, math.nan)


def smooth(t: Tensor, smoothing: float, share: float) -> Tensor:
    """`(1 - smoothing) t + smoothing * share`."""
    return (1 - smoothing) * t + smoothing * share if smoothing else t


def weighted_log(u: Tensor, minus_log: Tensor) -> Tensor:
    """`u * -log p`, where a class without target counts nothing, even at `p = 0`."""
    return u * torch.where((u != 0) | (minus_log != math.inf), minus_log, 0)
