"""The operations in PyTorch: see :class:`dualloss.exact.ops.Ops` for what each of them promises."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

Array = Any

_F64 = torch.float64
_STORED = {
    "float32": (torch.float32, torch.int32, 0x7FC00000),
    "bfloat16": (torch.bfloat16, torch.int16, 0x7FC0),
    "float16": (torch.float16, torch.int16, 0x7E00),
}
"""Each dtype with the integers of its width and its one NaN."""


class TorchOps:
    """Operations on tensors of any device that has float64."""

    def load(self, x: Array) -> Array:
        return x.to(_F64)

    def store(self, v: Array, dtype: str) -> Array:
        # Casts make other NaNs of NaN, and Inductor moves a choice of floats before the cast: choose on the bits.
        kind, integer, nan = _STORED[dtype]
        return torch.where(v.isnan(), nan, v.to(kind).view(integer)).view(kind)

    def float32(self, v: Array) -> Array:
        return torch.where(v.abs() < 2.0**-126, 0.0, v).to(torch.float32).to(_F64)

    def bits(self, v: Array) -> Array:
        return v.view(torch.int64)

    def value(self, b: Array) -> Array:
        return b.view(_F64)

    def band(self, b: Array, mask: int) -> Array:
        return b & mask

    def shl(self, b: Array, n: int) -> Array:
        return b << n

    def shr(self, b: Array, n: int) -> Array:
        return b >> n

    def to_int(self, v: Array) -> Array:
        return v.to(torch.int64)

    def to_float(self, b: Array) -> Array:
        return b.to(_F64)

    def rint(self, v: Array) -> Array:
        return v.round()

    def trunc(self, v: Array) -> Array:
        return v.trunc()

    def abs(self, v: Array) -> Array:
        return v.abs()

    def sqrt(self, v: Array) -> Array:
        root = v.sqrt()
        if v.device.type != "cpu":
            return root
        # PyTorch's on CPUs, from a vector library, is off by a unit in the last place now and then. The rest of the
        # square says to which side: all products but l * l are exact, and that one is far smaller than what decides.
        i = root.view(torch.int64)
        h = (i & -(1 << 27)).view(_F64)
        l = root - h  # noqa: E741
        rest = ((v - h * h) - 2 * (h * l)) - l * l
        up, down = (i + 1).view(_F64) - root, root - (i - 1).view(_F64)
        i = i + (rest > root * up).to(torch.int64) - (rest < -(root * down)).to(torch.int64)
        return torch.where((v > 0) & (v < math.inf), i.view(_F64), root)

    def isnan(self, v: Array) -> Array:
        return v.isnan()

    def exp(self, v: Array) -> Array:
        return v.exp()

    def log1p(self, v: Array) -> Array:
        return v.log1p()

    def where(self, condition: Array, a: Array | float, b: Array | float) -> Array:
        if not isinstance(a, torch.Tensor) and not isinstance(b, torch.Tensor):
            b = torch.full((), b, dtype=_F64, device=condition.device)
        return torch.where(condition, a, b)

    def both(self, a: Array, b: Array) -> Array:
        return a & b

    def invert(self, a: Array) -> Array:
        return ~a

    def larger(self, a: Array, b: Array) -> Array:
        return torch.maximum(a, b)

    def amax(self, v: Array, axis: int) -> Array:
        return v.amax(dim=axis, keepdim=True)

    def isum(self, v: Array, axis: int) -> Array:
        return v.sum(dim=axis, keepdim=True)

    def isum_int(self, b: Array, axis: int) -> Array:
        return b.sum(dim=axis, keepdim=True)

    def total(self, b: Array) -> Array:
        return b.sum(dim=tuple(range(1, b.ndim)))

    def count(self, condition: Array) -> Array:
        return condition.sum(dim=tuple(range(1, condition.ndim)))

    def stack(self, items: Sequence[Array], axis: int) -> Array:
        return torch.stack(list(items), axis)

    def concat(self, items: Sequence[Array], axis: int) -> Array:
        return torch.cat(list(items), dim=axis)

    def cut(self, v: Array, axis: int, start: int | None, stop: int | None) -> Array:
        return v[(slice(None),) * axis + (slice(start, stop),)]

    def pad(self, v: Array, axis: int, before: int, after: int) -> Array:
        return torch.nn.functional.pad(v, [0, 0] * (v.ndim - 1 - axis) + [before, after])

    def transpose(self, v: Array, order: Sequence[int]) -> Array:
        return v.permute(*order)

    def reshape(self, v: Array, sizes: Sequence[int]) -> Array:
        return v.reshape(*sizes)

    def rows(self, v: Array, axes: int) -> Array:
        return v.reshape(math.prod(v.shape[:axes]), math.prod(v.shape[axes:]))

    def shaped(self, v: Array, like: Array) -> Array:
        return v.reshape(like.shape)

    def order(self, b: Array) -> Array:
        return torch.sort(b, dim=1, descending=True, stable=True).indices

    def gather(self, v: Array, index: Array) -> Array:
        return v.gather(1, index)

    def scatter(self, v: Array, index: Array) -> Array:
        return torch.zeros_like(v).scatter(1, index, v)

    def cumsum(self, b: Array) -> Array:
        return b.cumsum(dim=1)

    def zeros_like(self, v: Array) -> Array:
        return torch.zeros_like(v)

    def ones_like(self, v: Array) -> Array:
        return torch.ones_like(v)

    def iota(self, n: int, like: Array, axis: int) -> Array:
        return self._along(torch.arange(n, device=like.device), like, axis)

    def constant(self, values: Sequence[float], like: Array, axis: int) -> Array:
        return self._along(torch.tensor(values, dtype=_F64, device=like.device), like, axis)

    @staticmethod
    def _along(vector: Array, like: Array, axis: int) -> Array:
        return vector.reshape([-1 if a == axis else 1 for a in range(like.ndim)])
