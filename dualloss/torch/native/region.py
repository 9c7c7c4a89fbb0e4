"""Terms that compare regions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...spec import Dice, FocalTversky, Jaccard, Lovasz, Tversky
from ...spec._region import Region
from .activation import apart, probabilities
from .core import Inputs, constants, implements, kept, select, target


@implements(Dice)
def dice(term: Dice, inputs: Inputs) -> Tensor:
    """`1 - 2 I / (P + T)`, which is `(FP + FN) / (2 I + FP + FN)`."""
    return _mean_of_groups(term, inputs, 2, 1, 1)


@implements(Jaccard)
def jaccard(term: Jaccard, inputs: Inputs) -> Tensor:
    """`1 - I / (P + T - I)`, which is `(FP + FN) / (I + FP + FN)`."""
    return _mean_of_groups(term, inputs, 1, 1, 1)


@implements(Tversky)
def tversky(term: Tversky, inputs: Inputs) -> Tensor:
    """`1 - I / (I + alpha FP + beta FN)`."""
    return _mean_of_groups(term, inputs, 1, term.alpha, term.beta)


@implements(FocalTversky)
def focal_tversky(term: FocalTversky, inputs: Inputs) -> Tensor:
    """A power of the Tversky loss: of each group's, or of their mean."""
    if term.power_of_mean:
        return _power(_mean_of_groups(term, inputs, 1, term.alpha, term.beta), term.gamma)
    return _mean_of_groups(term, inputs, 1, term.alpha, term.beta, lambda loss: _power(loss, term.gamma))


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
    errors = select(inputs.valid, torch.where(t.isnan(), math.nan, errors))

    def rows(values: Tensor) -> Tensor:
        """A row of positions for each class of each group."""
        return values.flatten(2) if term.per_sample else values.movedim(1, 0).flatten(1).unsqueeze(0)

    key = errors.detach() if inputs.valid is None else _unless(inputs.valid, errors.detach(), -math.inf)
    order = rows(key).argsort(-1, descending=True, stable=True)  # ties in the order of the positions
    errors, inside = rows(errors).gather(-1, order), rows(inside)
    gains = _jaccard_gains(inside.gather(-1, order), inside.sum(-1, keepdim=True), x.dtype)
    values = (errors * gains).sum(-1)
    counts = inside.any(-1) if term.classes == "present" else torch.ones_like(values, dtype=torch.bool)
    means = torch.where(counts, values, 0).sum(-1) / counts.sum(-1).clamp(min=1)
    return means.sum() if inputs.reduction == "sum" else means.sum() / max(means.numel(), 1)
