"""Probabilities, without cancellation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def probabilities(x: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """`p` by the activation, and `1 - p`, right where `p` rounds to 1 as well.

    A likely `p` is 1 less the others: so their small gradients are not differences of large ones.
    """
    if activation == "none":
        return x, 1 - x
    if activation == "sigmoid":
        p, others, likely = torch.sigmoid(x), torch.sigmoid(-x), x > 0
    else:
        p = F.softmax(x, 1)
        likely = p > 0.5  # one class at most
        others = torch.where(~likely, p, 0).sum(1, keepdim=True)
    return torch.where(likely, 1 - others, p), torch.where(likely, others, 1 - p)


def apart(p: Tensor, rest: Tensor, t: Tensor) -> Tensor:
    """`p - t`, for `rest = 1 - p`."""
    return torch.where(p > rest, (1 - t) - rest, p - t)
