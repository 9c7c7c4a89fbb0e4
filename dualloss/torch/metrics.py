"""The value of every term over many batches."""

from __future__ import annotations

import torch
from torch import Tensor

from ..exact import running
from ..spec import Subset
from .loss import Loss
from .ops import TorchOps

_OPS = TorchOps()


class Terms:
    """Every term's value over many batches, before its weight: what to log of an epoch.

    It adds the exact sums behind the terms, whatever the loss's numerics: the values are those of all batches as one,
    to the bit, however they were split, and those of the metrics of ``dualloss.tf.term_metrics``. A term whose sums do
    not add (``Lovasz(per_sample=False)``) is averaged over the batches.

    Args:
        loss: the loss whose terms it follows; its ``reduction`` is "mean" or "sum".

    Attributes:
        state: int64 (K, M, 12), or None before the first batch. To merge ranks, add theirs (``all_reduce``).
    """

    def __init__(self, loss: Loss) -> None:
        if not isinstance(loss, Loss):
            raise TypeError(f"loss is {type(loss).__name__}, expected a dualloss.torch.Loss")
        if loss.reduction == "none":
            raise ValueError("loss has reduction='none', expected 'mean' or 'sum': sums have no map")
        self.names = loss.spec.names
        self.state: Tensor | None = None
        self._reduction = loss.reduction
        parts = range(len(self.names))
        self._adding = [k for k in parts if loss.spec.parts[k][1].mergeable]
        groups = [self._adding, *([k] for k in parts if k not in self._adding)]
        self._losses = [
            (group, Loss(Subset.of(loss.spec, group), reduction=loss.reduction, channel_axis=loss.channel_axis))
            for group in groups
            if group
        ]

    @torch.no_grad()
    def update(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> None:
        """Add a batch: the arguments of the loss. It costs about a loss without its gradient."""
        found: dict[int, Tensor] = {}
        for group, loss in self._losses:
            if group == self._adding:
                found.update(zip(group, loss.sums(input, target, sample_weight), strict=True))
            else:
                _, (value,) = _values(loss(input, target, sample_weight, return_terms=True))
                found[group[0]] = running.of_value(_OPS, value)
        longest = max(len(rows) for rows in found.values())
        padded = [torch.nn.functional.pad(found[k], (0, 0, 0, longest - len(found[k]))) for k in range(len(found))]
        more = torch.stack(padded)
        self.state = running.added(_OPS, torch.zeros_like(more) if self.state is None else self.state, more)

    def compute(self) -> dict[str, Tensor]:
        """Each term's value by name: float32 scalars."""
        if self.state is None:
            raise RuntimeError("compute() came before update(), expected at least one batch")
        found: dict[int, Tensor] = {}
        for group, loss in self._losses:
            if group == self._adding:
                found.update(zip(group, _values(loss.from_sums(self.state[group], return_terms=True))[1], strict=True))
            else:
                found[group[0]] = running.value(_OPS, self.state[group[0]], self._reduction)
        return {name: found[k] for k, name in enumerate(self.names)}

    def reset(self) -> None:
        """Forget every batch."""
        self.state = None


def _values(result: tuple[Tensor, dict[str, Tensor]]) -> tuple[Tensor, list[Tensor]]:
    loss, terms = result
    return loss, list(terms.values())
