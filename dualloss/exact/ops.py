"""The operation protocol: everything the exact numerics ask of an array library.

The terms are written once, over these operations and the arithmetic operators ``+ - * / < > <= >= ==`` of float64 and
int64 arrays. Each backend implements them in one-liners. The contract of each operation is about *bits*: a backend
whose operation returns other bits is wrong, however close the value (``parity`` finds it).

Positions and channels: an array of the input's layout has the channel axis somewhere; an array "per position" has the
same rank with length 1 there, so that both broadcast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

Array = Any
"""An array or tensor of the backend at hand."""


class Ops(Protocol):
    """Operations with a bit contract, over float64 (``v``) and int64 (``b``) arrays.

    NaN payloads and signs are free inside; :meth:`store` makes every NaN that leaves canonical.
    """

    def load(self, x: Array) -> Array:
        """Any float16, bfloat16, float32, integer or boolean array as float64, exactly."""

    def store(self, v: Array, dtype: str) -> Array:
        """A float64 array whose values ``dtype`` can represent, as ``dtype``; any NaN canonical."""

    def float32(self, v: Array) -> Array:
        """``|v| < 2^-126`` as +0, else rounded to the nearest float32, ties to even; still a float64 array."""

    def bits(self, v: Array) -> Array:
        """The bits of a float64 array as int64."""

    def value(self, b: Array) -> Array:
        """The float64 array with these bits."""

    def band(self, b: Array, mask: int) -> Array:
        """Bitwise and with a constant."""

    def shl(self, b: Array, n: int) -> Array:
        """Shift left by a constant."""

    def shr(self, b: Array, n: int) -> Array:
        """Arithmetic shift right by a constant."""

    def to_int(self, v: Array) -> Array:
        """Float64 integers below 2^51 in magnitude as int64."""

    def to_float(self, b: Array) -> Array:
        """Int64 of at most 53 bits as float64, exactly."""

    def rint(self, v: Array) -> Array:
        """Round to integer, ties to even."""

    def trunc(self, v: Array) -> Array:
        """Round to integer, toward zero."""

    def abs(self, v: Array) -> Array:
        """Magnitude."""

    def sqrt(self, v: Array) -> Array:
        """Square root of normal numbers >= 0, +inf and NaN, rounded once to nearest."""

    def isnan(self, v: Array) -> Array:
        """Where NaN stands."""

    def exp(self, v: Array) -> Array:
        """Float64 exp good to 57 ulp, for integer multiples of 2^-10 from -88 to 0."""

    def log1p(self, v: Array) -> Array:
        """Float64 log1p good to 130 ulp, for 0 and 16-bit numbers from 2^-126 up to 2^24."""

    def where(self, condition: Array, a: Array | float, b: Array | float) -> Array:
        """Elementwise choice; ``a`` and ``b`` broadcast, Python numbers take the other's dtype (float64 if both)."""

    def both(self, a: Array, b: Array) -> Array:
        """Logical and."""

    def invert(self, a: Array) -> Array:
        """Logical not."""

    def larger(self, a: Array, b: Array) -> Array:
        """The larger of two int64 arrays."""

    def amax(self, v: Array, axis: int) -> Array:
        """Largest element along an axis, which is kept with length 1. With NaN present: any value."""

    def isum(self, v: Array, axis: int) -> Array:
        """Sum along an axis (kept) of float64 *integers* whose partial sums stay below 2^53: exact in any order."""

    def isum_int(self, b: Array, axis: int) -> Array:
        """Sum along an axis (kept) of an int64 array."""

    def total(self, b: Array) -> Array:
        """Sum of an int64 array over all axes but the first; 0 where there is nothing to sum."""

    def count(self, condition: Array) -> Array:
        """How many elements of a boolean array are true along all axes but the first: int64."""

    def stack(self, items: Sequence[Array], axis: int) -> Array:
        """Arrays of one shape stacked along a new axis."""

    def concat(self, items: Sequence[Array], axis: int) -> Array:
        """Arrays joined along an axis."""

    def cut(self, v: Array, axis: int, start: int | None, stop: int | None) -> Array:
        """``v[start:stop]`` along one axis, with Python's rules for negative and overlong bounds."""

    def pad(self, v: Array, axis: int, before: int, after: int) -> Array:
        """A float64 array with zeros put before and after it along one axis."""

    def transpose(self, v: Array, order: Sequence[int]) -> Array:
        """The axes in another order: axis ``i`` of the result is axis ``order[i]`` of ``v``."""

    def reshape(self, v: Array, sizes: Sequence[int]) -> Array:
        """The elements in C order (whatever the memory layout) in another shape; one size may be -1, none 0."""

    def rows(self, v: Array, axes: int) -> Array:
        """Two axes, in C order: the first ``axes`` axes as one and the others as one; sizes may be 0."""

    def shaped(self, v: Array, like: Array) -> Array:
        """The elements in C order in the shape of ``like``."""

    def order(self, b: Array) -> Array:
        """For each row of int64 ``b`` (rows, n) the int64 indices that sort it, the largest first, ties by index."""

    def gather(self, v: Array, index: Array) -> Array:
        """``v[row, index[row, k]]`` at ``[row, k]``, of two-dimensional arrays."""

    def scatter(self, v: Array, index: Array) -> Array:
        """The float64 array with ``v[row, k]`` at ``[row, index[row, k]]``; each row of ``index`` is a permutation."""

    def cumsum(self, b: Array) -> Array:
        """The sums of int64 ``b`` (rows, n) up to and with each element of its row."""

    def zeros_like(self, v: Array) -> Array:
        """Zeros of the same shape and dtype."""

    def ones_like(self, v: Array) -> Array:
        """Ones of the same shape and dtype."""

    def iota(self, n: int, like: Array, axis: int) -> Array:
        """int64 ``0..n-1`` along ``axis`` of an array of the rank of ``like``, on its device."""

    def constant(self, values: Sequence[float], like: Array, axis: int) -> Array:
        """A float64 vector laid along ``axis`` of an array of the rank of ``like``, on its device."""
