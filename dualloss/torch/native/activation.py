"""Probabilities, without cancellation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def probabilities(x: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """`p` by the activation, and `1 - p`, right where `p` rounds to 1 as well."""
    if activation == "none":
        return x, 1 - x
    if activation == "sigmoid":
        return torch.sigmoid(x), torch.sigmoid(-x)
    p = F.softmax(x, 1)
    likely = p > 0.5  # one class at most
    others = torch.where(likely, 0, p).sum(1, keepdim=True)
    return p, torch.where(likely, others, 1 - p)


def apart(p: Tensor, rest: Tensor, t: Tensor) -> Tensor:
    """`p - t`, for `rest = 1 - p`."""
    return torch.where(p > rest, (1 - t) - rest, p - t)
