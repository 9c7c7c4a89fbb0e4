"""The operations in TensorFlow: see :class:`dualloss.exact.ops.Ops` for what each of them promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

Array = Any

_F64 = tf.float64


class TensorFlowOps:
    """Operations that hold their contract in eager mode, in graphs and under XLA."""

    def load(self, x: Array) -> Array:
        return tf.cast(x, _F64)

    def store(self, v: Array, dtype: str) -> Array:
        return self.where(tf.math.is_nan(v), float("nan"), tf.cast(v, dtype))  # casts make other NaNs of NaN

    def float32(self, v: Array) -> Array:
        # On the bits, not by casting to float32 and back: XLA may drop such a pair of casts.
        b = self.bits(v)
        odd = self.band(self.shr(b, 29), 1)
        rounded = self.value(self.band(b + odd + ((1 << 28) - 1), -(1 << 29)))
        size = tf.abs(v)
        infinite = self.where(v > 0.0, float("inf"), float("-inf"))
        rounded = self.where(size >= 2.0**128 - 2.0**103, infinite, rounded)
        rounded = self.where(tf.math.is_nan(v), float("nan"), rounded)
        return self.where(size < 2.0**-126, 0.0, rounded)

    def bits(self, v: Array) -> Array:
        return tf.bitcast(v, tf.int64)

    def value(self, b: Array) -> Array:
        return tf.bitcast(b, _F64)

    def band(self, b: Array, mask: int) -> Array:
        return tf.bitwise.bitwise_and(b, tf.constant(mask, tf.int64))

    def shl(self, b: Array, n: int) -> Array:
        return tf.bitwise.left_shift(b, tf.constant(n, tf.int64))

    def shr(self, b: Array, n: int) -> Array:
        return tf.bitwise.right_shift(b, tf.constant(n, tf.int64))

    def to_int(self, v: Array) -> Array:
        return tf.cast(v, tf.int64)

    def to_float(self, b: Array) -> Array:
        return tf.cast(b, _F64)

    def rint(self, v: Array) -> Array:
        return tf.math.rint(v)

    def trunc(self, v: Array) -> Array:
        # TensorFlow has no trunc of its own.
        return tf.where(v < 0.0, tf.math.ceil(v), tf.math.floor(v))

    def abs(self, v: Array) -> Array:
        return tf.abs(v)

    def sqrt(self, v: Array) -> Array:
        return tf.sqrt(v)

    def isnan(self, v: Array) -> Array:
        return tf.math.is_nan(v)

    def exp(self, v: Array) -> Array:
        return tf.exp(v)

    def log1p(self, v: Array) -> Array:
        return tf.math.log1p(v)

    def where(self, condition: Array, a: Array | float, b: Array | float) -> Array:
        tensors: list[Any] = [value for value in (a, b) if tf.is_tensor(value)]
        dtype = tensors[0].dtype if tensors else _F64
        # As NumPy scalars: TensorFlow caches Python's, and takes 0.0 for a -0.0 that it met before.
        a, b = (value if tf.is_tensor(value) else dtype.as_numpy_dtype(value) for value in (a, b))
        return tf.where(condition, tf.convert_to_tensor(a, dtype), tf.convert_to_tensor(b, dtype))

    def both(self, a: Array, b: Array) -> Array:
        return tf.logical_and(a, b)

    def invert(self, a: Array) -> Array:
        # Not logical_not: in graphs TensorFlow makes x >= y of not (x < y), which NaN tells apart.
        return tf.where(a, False, True)

    def larger(self, a: Array, b: Array) -> Array:
        return tf.maximum(a, b)

    def amax(self, v: Array, axis: int) -> Array:
        return tf.reduce_max(v, axis=axis, keepdims=True)

    def isum(self, v: Array, axis: int) -> Array:
        return tf.reduce_sum(v, axis=axis, keepdims=True)

    def isum_int(self, b: Array, axis: int) -> Array:
        return tf.reduce_sum(b, axis=axis, keepdims=True)

    def total(self, b: Array) -> Array:
        return tf.reduce_sum(b, axis=list(range(1, len(b.shape))))

    def count(self, condition: Array) -> Array:
        return self.total(tf.cast(condition, tf.int64))

    def stack(self, items: Sequence[Array], axis: int) -> Array:
        return tf.stack(list(items), axis)

    def concat(self, items: Sequence[Array], axis: int) -> Array:
        return tf.concat(list(items), axis)

    def cut(self, v: Array, axis: int, start: int | None, stop: int | None) -> Array:
        return v[(slice(None),) * axis + (slice(start, stop),)]

    def pad(self, v: Array, axis: int, before: int, after: int) -> Array:
        return tf.pad(v, [[before, after] if a == axis else [0, 0] for a in range(len(v.shape))])

    def transpose(self, v: Array, order: Sequence[int]) -> Array:
        return tf.transpose(v, order)

    def reshape(self, v: Array, sizes: Sequence[int]) -> Array:
        return tf.reshape(v, sizes)

    def rows(self, v: Array, axes: int) -> Array:
        shape = tf.shape(v, tf.int64)
        return tf.reshape(v, tf.stack([tf.reduce_prod(shape[:axes]), tf.reduce_prod(shape[axes:])]))

    def shaped(self, v: Array, like: Array) -> Array:
        return tf.reshape(v, tf.shape(like, tf.int64))

    def order(self, b: Array) -> Array:
        # Of equal elements top_k takes the one of the lower index first.
        return tf.cast(tf.math.top_k(b, tf.shape(b)[1]).indices, tf.int64)

    def gather(self, v: Array, index: Array) -> Array:
        return tf.gather(v, index, batch_dims=1)

    def scatter(self, v: Array, index: Array) -> Array:
        shape = tf.shape(v, tf.int64)
        row = tf.broadcast_to(tf.range(shape[0])[:, None], shape)
        return tf.scatter_nd(tf.stack([row, index], -1), v, shape)

    def cumsum(self, b: Array) -> Array:
        return tf.cumsum(b, axis=1)

    def zeros_like(self, v: Array) -> Array:
        return tf.zeros_like(v)

    def ones_like(self, v: Array) -> Array:
        return tf.ones_like(v)

    def iota(self, n: int, like: Array, axis: int) -> Array:
        return self._along(tf.range(n, dtype=tf.int64), like, axis)

    def constant(self, values: Sequence[float], like: Array, axis: int) -> Array:
        return self._along(tf.constant(values, _F64), like, axis)

    @staticmethod
    def _along(vector: Array, like: Array, axis: int) -> Array:
        return tf.reshape(vector, [-1 if a == axis else 1 for a in range(len(like.shape))])
