"""Penalties on the weights of a model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...spec import L1, L2, Spec
from .core import Inputs, implements, loss


def penalty(spec: Spec, arrays: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The value of all elements of some arrays together, and the terms before their weights.

    Args:
        spec: of terms about weights.
        arrays: at least one, of any shapes and on any devices.
    """
    values, terms = [], []
    for array in arrays:
        column = array.reshape(-1, 1)
        value, found = loss(spec, column, column, None, reduction="sum", channel_axis=1)
        values.append(value.to(arrays[0].device))
        terms.append({name: term.to(arrays[0].device) for name, term in found.items()})
    return torch.stack(values).sum(), {name: torch.stack([of[name] for of in terms]).sum() for name in spec.names}


@implements(L1)
def l1(term: L1, inputs: Inputs) -> Tensor:
    """`|w|`."""
    return inputs.x.abs().sum()


@implements(L2)
def l2(term: L2, inputs: Inputs) -> Tensor:
    """`w^2`."""
    return (inputs.x * inputs.x).sum()
