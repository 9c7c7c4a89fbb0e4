"""The operations in NumPy: the reference implementation of :class:`dualloss.exact.ops.Ops`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = Any

_DTYPES = {"float32": np.float32, "float16": np.float16}


class NumpyOps:
    """See :class:`dualloss.exact.ops.Ops`. bfloat16 comes and goes as ``ml_dtypes.bfloat16`` arrays."""

    def load(self, x: Array) -> Array:
        return np.asarray(x).astype(np.float64)

    def store(self, v: Array, dtype: str) -> Array:
        if dtype == "bfloat16":
            import ml_dtypes

            kind: Any = ml_dtypes.bfloat16
        else:
            kind = _DTYPES[dtype]
        narrow = v.astype(np.float32).astype(kind)
        return np.where(np.isnan(v), np.array(np.nan, kind), narrow)

    def float32(self, v: Array) -> Array:
        return np.where(np.abs(v) < 2.0**-126, 0.0, v).astype(np.float32).astype(np.float64)

    def bits(self, v: Array) -> Array:
        return np.asarray(v).view(np.int64)

    def value(self, b: Array) -> Array:
        return np.asarray(b).view(np.float64)

    def band(self, b: Array, mask: int) -> Array:
        return b & np.int64(mask)

    def shl(self, b: Array, n: int) -> Array:
        return b << np.int64(n)

    def shr(self, b: Array, n: int) -> Array:
        return b >> np.int64(n)

    def to_int(self, v: Array) -> Array:
        return v.astype(np.int64)

    def to_float(self, b: Array) -> Array:
        return b.astype(np.float64)

    def rint(self, v: Array) -> Array:
        return np.rint(v)

    def trunc(self, v: Array) -> Array:
        return np.trunc(v)

    def abs(self, v: Array) -> Array:
        return np.abs(v)

    def sqrt(self, v: Array) -> Array:
        return np.sqrt(v)

    def isnan(self, v: Array) -> Array:
        return np.isnan(v)

    def exp(self, v: Array) -> Array:
        return np.exp(v)

    def log1p(self, v: Array) -> Array:
        return np.log1p(v)

    def where(self, condition: Array, a: Array | float, b: Array | float) -> Array:
        return np.where(condition, a, b)

    def both(self, a: Array, b: Array) -> Array:
        return a & b

    def invert(self, a: Array) -> Array:
        return ~a

    def larger(self, a: Array, b: Array) -> Array:
        return np.maximum(a, b)

    def amax(self, v: Array, axis: int) -> Array:
        return v.max(axis=axis, keepdims=True)

    def isum(self, v: Array, axis: int) -> Array:
        return v.sum(axis=axis, keepdims=True)

    def isum_int(self, b: Array, axis: int) -> Array:
        return b.sum(axis=axis, keepdims=True)

    def total(self, b: Array) -> Array:
        return b.sum(axis=tuple(range(1, b.ndim)))

    def count(self, condition: Array) -> Array:
        return condition.sum(axis=tuple(range(1, condition.ndim)), dtype=np.int64)

    def stack(self, items: Sequence[Array], axis: int) -> Array:
        return np.stack(items, axis)

    def concat(self, items: Sequence[Array], axis: int) -> Array:
        return np.concatenate(items, axis=axis)

    def cut(self, v: Array, axis: int, start: int | None, stop: int | None) -> Array:
        return v[(slice(None),) * axis + (slice(start, stop),)]

    def pad(self, v: Array, axis: int, before: int, after: int) -> Array:
        return np.pad(v, [(before, after) if a == axis else (0, 0) for a in range(v.ndim)])

    def transpose(self, v: Array, order: Sequence[int]) -> Array:
        return v.transpose(order)

    def reshape(self, v: Array, sizes: Sequence[int]) -> Array:
        return v.reshape(sizes)

    def rows(self, v: Array, axes: int) -> Array:
        return v.reshape(math.prod(v.shape[:axes]), math.prod(v.shape[axes:]))

    def shaped(self, v: Array, like: Array) -> Array:
        return v.reshape(like.shape)

    def order(self, b: Array) -> Array:
        return np.argsort(~b, axis=1, kind="stable")  # ~b falls as b rises, and cannot overflow

    def gather(self, v: Array, index: Array) -> Array:
        return np.take_along_axis(v, index, 1)

    def scatter(self, v: Array, index: Array) -> Array:
        result = np.empty_like(v)
        np.put_along_axis(result, index, v, 1)
        return result

    def cumsum(self, b: Array) -> Array:
        return b.cumsum(axis=1)

    def zeros_like(self, v: Array) -> Array:
        return np.zeros_like(v)

    def ones_like(self, v: Array) -> Array:
        return np.ones_like(v)

    def iota(self, n: int, like: Array, axis: int) -> Array:
        return self._along(np.arange(n, dtype=np.int64), like, axis)

    def constant(self, values: Sequence[float], like: Array, axis: int) -> Array:
        return self._along(np.array(values, np.float64), like, axis)

    @staticmethod
    def _along(vector: Array, like: Array, axis: int) -> Array:
        return vector.reshape([-1 if a == axis else 1 for a in range(like.ndim)])
