"""Signed distances for tensors, computed on the host; one opaque operation in compiled graphs."""

from __future__ import annotations

import torch
from torch import Tensor

from ..distances import signed_distances


@torch.library.custom_op(
    "dualloss::signed_distances", mutates_args=(), schema="(Tensor target, Tensor? valid, int classes) -> Tensor"
)
def _on_host(target: Tensor, valid: Tensor | None, classes: int) -> Tensor:
    allowed = None if valid is None else valid.cpu().numpy()
    return torch.from_numpy(signed_distances(target.cpu().numpy(), classes, allowed)).to(target.device)


@_on_host.register_fake
def _(target: Tensor, valid: Tensor | None, classes: int) -> Tensor:
    shape = target.shape[:-1] if target.dtype == torch.bool else target.shape
    return torch.empty((*shape, classes), dtype=torch.float32, device=target.device)


def distances(target: Tensor, mask: Tensor | None, ignore: int | None, labels: bool, classes: int, axis: int) -> Tensor:
    """float32 of the input's shape: of int64 labels per position, or of a dense target of the input's shape."""
    with torch.no_grad():
        if not labels:
            inside = (target > 0.5).movedim(axis, -1).contiguous()
            return _on_host(inside, mask, classes).movedim(-1, axis)
        valid = mask
        if ignore is not None:
            valid = target != ignore if mask is None else mask & (target != ignore)
        return _on_host(target, valid, classes).movedim(-1, axis)
