"""Terms that compare regions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ...spec import Dice, FocalTversky, Jaccard, Lovasz, Region, Tversky
from .activation import apart, probabilities
from .core import Inputs, constants, implements, kept, select, target


@implements(Dice)
def dice(term: Dice, inputs: Inputs) -> Tensor:
    """`1 - 2 I / (P + T)`, which is `(FP + FN) / (2 I + FP + FN)`."""
    return _mean(term, inputs, *_losses(term, inputs, 2, 1, 1))


@implements(Jaccard)
def jaccard(term: Jaccard, inputs: Inputs) -> Tensor:
    """`1 - I / (P + T - I)`, which is `(FP + FN) / (I + FP + FN)`."""
    return _mean(term, inputs, *_losses(term, inputs, 1, 1, 1))


@implements(Tversky)
def tversky(term: Tversky, inputs: Inputs) -> Tensor:
    """`1 - I / (I + alpha FP + beta FN)`."""
    return _mean(term, inputs, *_losses(term, inputs, 1, term.alpha, term.beta))


@implements(FocalTversky)
def focal_tversky(term: FocalTversky, inputs: Inputs) -> Tensor:
    """A power of the Tversky loss: of each group's, or of their mean."""
    losses, absent = _losses(term, inputs, 1, term.alpha, term.beta)
    if term.power_of_mean:
        return _power(_mean(term, inputs, losses, absent), term.gamma)
    return _mean(term, inputs, _power(losses, term.gamma), absent)


def _losses(term: Region, inputs: Inputs, twice: int, alpha: float, beta: float) -> tuple[Tensor, Tensor]:
    """The loss of every group, and whether it has no target; of shape (B, classes), without the axes of one group."""
    keep = kept(inputs.valid, inputs.weight)
    x, t = select(keep, inputs.x), select(keep, target(inputs))
    chosen = list(term.counted(x.shape[1]))
    p, rest = probabilities(x, term.activation)
    p, rest, t = (v if len(chosen) == x.shape[1] else v[:, chosen] for v in (p, rest, t))
    axes = [a for a in range(x.ndim) if a > 1 or not (term.per_class if a else term.per_sample)]

    def total(values: Tensor) -> Tensor:
        values = select(keep, values)
        values = values if inputs.weight is None else inputs.weight.unsqueeze(1) * values
        return values.sum(axes) if axes else values

    u = apart(p, rest, t)
    if term.squared:  # alpha FP + beta FN is beta * sum of u^2 + (alpha - beta) * sum of p u
        both, wrong = p * t, beta * total(u * u)
        wrong = wrong if alpha == beta else wrong + (alpha - beta) * total(p * u)
    elif term.overlap == "minimum":  # of equals the gradient is the mean of both sides
        both = torch.where(u == 0, (p + t) / 2, torch.where(u < 0, p, t))
        wrong = alpha * total((u.abs() + u) / 2) + beta * total((u.abs() - u) / 2)
    else:
        both, wrong = p * t, alpha * total(p * (1 - t)) + beta * total(t * rest)
    return _loss_of_sums(term, twice * total(both), wrong), total(t) == 0


def _loss_of_sums(term: Region, both: Tensor, wrong: Tensor) -> Tensor:
    """`1 - score`, or `-log` of the score, without cancellation where little is wrong."""
    smooth = term.smooth if term.smooth_denominator is None else term.smooth_denominator
    denominator = both + wrong + smooth
    low = (denominator < term.epsilon) | (denominator == 0)
    denominator = torch.where(low, term.epsilon or math.inf, denominator)  # nothing in nothing is a score of 0
    score = (both + term.smooth) / denominator
    # Of both forms the one of which neither value nor gradient cancels.
    loss = torch.where(low | (score < 0.5), 1 - score, (wrong + (smooth - term.smooth)) / denominator)
    if not term.log:
        return loss
    near, far = loss <= 0.25, score < term.epsilon
    value = torch.where(near, -torch.log1p(-torch.where(near, loss, 0)), -torch.where(near | far, 1, score).log())
    return torch.where(far, -math.log(term.epsilon), value)


def _power(loss: Tensor, exponent: float) -> Tensor:
    """A power, and 0 up to 0, where its gradient may be infinite."""
    nothing = loss <= 0
    return torch.where(nothing, 0, torch.where(nothing, 1, loss) ** exponent)


def _mean(term: Region, inputs: Inputs, losses: Tensor, absent: Tensor) -> Tensor:
    """The mean or sum over the groups that count."""
    if term.class_weights is not None:
        chosen = term.counted(len(term.class_weights))
        losses = losses * constants([term.class_weights[c] for c in chosen], losses)
    total = (losses if term.empty_class == "keep" else torch.where(absent, 0, losses)).sum()
    if inputs.reduction == "sum":
        return total
    if term.empty_class == "exclude":
        return total / (~absent).sum().clamp(min=1)
    return total / max(losses.numel(), 1)


@implements(Lovasz)
def lovasz(term: Lovasz, inputs: Inputs) -> Tensor:
    """Errors in falling order, each times what the Jaccard loss gains by it."""
    x, t = select(inputs.valid, inputs.x), select(inputs.valid, target(inputs))
    inside = t > 0.5
    if term.activation == "hinge":
        errors = F.relu(1 - torch.where(inside, x, -x))
    else:
        p, rest = probabilities(x, term.activation)
        errors = torch.where(inside, rest, p).abs()
    errors = select(inputs.valid, errors * torch.where(t.isnan(), t, 1))

    def rows(values: Tensor) -> Tensor:
        """A row of positions for each class of each group."""
        if term.per_sample:
            return values.unsqueeze(-1).flatten(2)
        return values.movedim(1, 0).flatten(1).unsqueeze(0)

    key = errors.detach()
    if inputs.valid is not None:  # the others to the end, where nothing is gained any more
        key = torch.where(inputs.valid.unsqueeze(1), key, -1)
    order = rows(key).argsort(dim=-1, descending=True, stable=True)  # ties in the order of the positions
    inside, errors = rows(inside), rows(errors).gather(-1, order)
    size = inside.sum(-1, keepdim=True)
    gains = _jaccard_gains(inside.gather(-1, order), size, x.dtype)
    # An infinite error that gains nothing adds nothing.
    losses = (torch.where((gains != 0) | errors.isnan(), errors, 0) * gains).sum(-1)
    present = (inside | rows(t.isnan())).any(-1)
    counts = present if term.classes == "present" else torch.ones_like(losses, dtype=torch.bool)
    means = torch.where(counts, losses, 0).sum(-1) / counts.sum(-1).clamp(min=1)
    return means.sum() if inputs.reduction == "sum" else means.sum() / max(means.numel(), 1)


def _jaccard_gains(inside: Tensor, size: Tensor, dtype: torch.dtype) -> Tensor:
    """By how much the Jaccard loss grows with each further position that is wrong."""
    found, wrong = inside.cumsum(-1), torch.arange(1, inside.shape[-1] + 1, device=inside.device)
    union, missing = (size + wrong - found).to(dtype), (size - found).to(dtype)
    gains = torch.where(inside, 1 / union, missing / union / (union - 1))
    return torch.where(size == 0, (wrong == 1).to(dtype), gains)
