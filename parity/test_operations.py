"""The bit contract of every operation of ``dualloss.exact.ops.Ops``, and of what is built from them.

In every mode of modes.py. What is expected comes from integer arithmetic and Python's fractions, not from
one of the frameworks.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from modes import Mode, as_bits, differing, make

from dualloss import Huber, MeanSquaredError
from dualloss.exact import engine, functions, stencil, sums
from dualloss.exact.constants import chop
from dualloss.exact.terms import Inputs
from dualloss.parity import cases, definition
from dualloss.parity.cases import Config
from dualloss.parity.generator import bell, integers, labels

Array = Any

COUNT = 1_000_000
"""Elements of the random arrays."""


@dataclass(frozen=True)
class Format:
    """A narrow format: significant bits, exponent of the lowest unit, the first power of two out of range."""

    kind: Any
    digits: int
    lowest: int
    end: int
    flush: bool


FORMATS = {
    "float32": Format(np.float32, 24, -149, 128, True),
    "bfloat16": Format(ml_dtypes.bfloat16, 8, -133, 128, True),
    "float16": Format(np.float16, 11, -24, 16, False),
}

# ------------------------------------------------------------------------------------------------------------
# References: rounding and decoding in integers


def rounded(v: Array, form: Format) -> Array:
    """The nearest number of a format, ties to even, as float64; zeros and flushed values +0."""
    b = v.view(np.int64)
    exponent = (b >> 52) & 2047
    mantissa = (b & ((1 << 52) - 1)) | (exponent > 0).astype(np.int64) << 52
    exponent = np.maximum(exponent, 1) - 1023
    unit = np.maximum(exponent - (form.digits - 1), form.lowest)
    drop = np.minimum(unit - (exponent - 52), 62)
    kept, rest, half = mantissa >> drop, mantissa & ((np.int64(1) << drop) - 1), np.int64(1) << (drop - 1)
    kept += (rest > half) | ((rest == half) & (kept % 2 == 1))
    with np.errstate(all="ignore"):
        size = np.ldexp(kept.astype(np.float64), unit)
        size = np.where(size >= 2.0**form.end, np.inf, size)
        size = np.where((np.abs(v) < 2.0**-126) & form.flush, 0.0, size)
        result = np.where((b < 0) & (size > 0), -size, size)
        return np.where(np.isnan(v), np.nan, np.where(np.isinf(v), v, result))


def rounded_fraction(v: float, form: Format) -> float:
    """The same for one number, in fractions."""
    if math.isnan(v) or math.isinf(v):
        return v
    if v == 0 or (form.flush and abs(v) < 2.0**-126):
        return 0.0
    exact = Fraction(v)
    exponent = math.frexp(v)[1] - 1
    step = Fraction(2) ** max(exponent - (form.digits - 1), form.lowest)
    result = round(exact / step) * step
    return math.copysign(math.inf, v) if abs(result) >= Fraction(2) ** form.end else float(result) + 0.0


def encoded(v: Array, form: Format) -> Array:
    """Numbers of the format, in the format; NaN canonical."""
    with np.errstate(all="ignore"):
        if form.kind is ml_dtypes.bfloat16:
            b = (v.astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
            return np.where(np.isnan(v), np.uint16(0x7FC0), b).view(ml_dtypes.bfloat16)
        narrow = v.astype(form.kind)
        return np.where(np.isnan(v), np.array(np.nan, form.kind), narrow)


def decoded(patterns: Array, form: Format) -> Array:
    """What the bit patterns of a format stand for, as float64."""
    width = patterns.dtype.itemsize * 8
    b = patterns.astype(np.int64)
    fraction_bits = form.digits - 1
    exponent = (b >> fraction_bits) & ((1 << (width - 1 - fraction_bits)) - 1)
    fraction = b & ((1 << fraction_bits) - 1)
    special = exponent == (1 << (width - 1 - fraction_bits)) - 1
    mantissa = fraction + ((exponent > 0).astype(np.int64) << fraction_bits)
    size = np.ldexp(mantissa.astype(np.float64), np.maximum(exponent, 1) - 1 + form.lowest)
    size = np.where(special, np.where(fraction > 0, np.nan, np.inf), size)
    return np.where(b >> (width - 1) == 1, -size, size)


# ------------------------------------------------------------------------------------------------------------
# Values


def around(v: float) -> list[float]:
    """A number, its neighbours, and their negatives."""
    near = [math.nextafter(v, 0.0), v, math.nextafter(v, math.inf)]
    return [*near, *(-n for n in near)]


@cache
def edges() -> Array:
    """Zeros, infinities, NaN, halfway cases, and the ends of every format, with their neighbours."""
    found = [0.0, -0.0, math.inf, -math.inf, math.nan, 2.0**-1022, -(2.0**-1022), 1.7e308, -1.7e308]
    for v in (
        0.5,
        1.0,
        1.5,
        2.5,
        3.5,
        2.0**31,
        2.0**51 + 0.5,
        2.0**52 + 1,
        2.0**53,
        2.0**63,
        2.0**-600,
        2.0**423,
    ):
        found += around(v)
    for form in FORMATS.values():
        smallest = 2.0 ** (form.lowest + form.digits - 1)
        unit = 2.0**form.lowest
        largest = 2.0**form.end - 2.0 ** (form.end - form.digits)
        overflow = 2.0**form.end - 2.0 ** (form.end - form.digits - 1)
        for v in (smallest, smallest - unit / 2, unit, unit / 2, unit * 1.5, unit * 2.5, largest, overflow):
            found += around(v)
        for odd in (1, 3, 5):  # halfway between two neighbours above 1
            found += around(1 + odd * 2.0**-form.digits)
    return np.array(found)


@cache
def patterns() -> Array:
    """Random bits as float64, without subnormals: a product of two inputs is far above these."""
    v = integers("patterns", COUNT).view(np.float64)
    return np.concatenate([edges(), np.where(np.abs(v) < 2.0**-1022, 0.0, v)])


@cache
def near_formats() -> Array:
    """Random magnitudes within and around every format; many are halfway cases, or next to one."""
    b = integers("near", COUNT).view(np.int64)
    exponent = 1023 + labels("near exponents", (COUNT,), 330) - 180
    v = (b & ~(2047 << 52)) | exponent << 52
    which = np.arange(COUNT)
    for form, turn in ((FORMATS["float32"], 0), (FORMATS["bfloat16"], 1), (FORMATS["float16"], 2)):
        drop = 53 - form.digits
        halfway = (v >> drop << drop) | 1 << (drop - 1)
        v = np.where(which % 6 == turn, halfway + which // 6 % 3 - 1, v)
    return np.concatenate([edges(), v.view(np.float64)])


@cache
def plain(name: str) -> Array:
    """Random float32 values of many magnitudes, as float64."""
    v = np.ldexp(bell(name, (COUNT,)), labels(name + " exponents", (COUNT,), 40).astype(np.int32) - 20)
    return v.astype(np.float32).astype(np.float64)


@cache
def pairs() -> tuple[Array, Array]:
    """Every edge with every edge, then random bits."""
    e = edges()
    return (
        np.concatenate([np.repeat(e, len(e)), patterns()]),
        np.concatenate([np.tile(e, len(e)), patterns()[::-1]]),
    )


@cache
def whole(digits: int) -> Array:
    """Random int64 of up to so many bits, of every size and sign."""
    b = integers(f"whole {digits}", COUNT).view(np.int64)
    return np.concatenate(
        [
            [0, 1, -1, (1 << digits) - 1, 1 - (1 << digits)],
            b >> (64 - digits - 1) >> np.arange(COUNT) % digits,
        ]
    )


@cache
def grid() -> Array:
    """A small array with an axis to sum over, of integers as float64."""
    return np.floor(bell("grid", (3, 1000, 7)) * 2.0**40)


# ------------------------------------------------------------------------------------------------------------
# Contracts


@dataclass(frozen=True)
class Contract:
    """An operation, its arguments, and what it must give."""

    function: Callable[..., Any]
    arguments: Callable[[], Sequence[Array]]
    expected: Callable[..., Any]


def bits_of(v: Array) -> Array:
    return np.ascontiguousarray(v).view(np.int64)


def chopped(v: Array) -> Array:
    return (bits_of(v) >> 5 << 5).view(np.float64)


@cache
def maximisable() -> Array:
    """No NaN and no -0, whose maximum is anyone's guess: ``functions.load`` lets no -0 in."""
    v = patterns()[:990_000].reshape(99, 10, 1000)
    return np.where(np.isnan(v), -np.inf, np.where(v == 0.0, 0.0, v))


def narrow_inputs(name: str) -> tuple[Array]:
    """Every pattern of a 16-bit format; many of float32."""
    if name == "float32":
        raw = integers("float32", COUNT).astype(np.uint32)
        return (np.concatenate([edges().astype(np.float32).view(np.uint32), raw]).view(np.float32),)
    return (np.arange(1 << 16, dtype=np.uint16).view(FORMATS[name].kind),)


def raw_bits(x: Array) -> Array:
    return x.view(np.uint32 if x.dtype.itemsize == 4 else np.uint16)


def loading(name: str) -> Contract:
    """``functions.load``: exact, but below 2^-126 +0."""

    def expected(x: Array) -> Array:
        v = decoded(raw_bits(x), FORMATS[name])
        return np.where(np.abs(v) < 2.0**-126, 0.0, v)

    return Contract(lambda ops, x: functions.load(ops, x), lambda: narrow_inputs(name), expected)


def representable(name: str) -> tuple[Array]:
    """Every value of a format that ``store`` can meet: no flushed ones."""
    v = decoded(raw_bits(narrow_inputs(name)[0]), FORMATS[name])
    return (np.where((np.abs(v) < 2.0**-126) & FORMATS[name].flush, 0.0, v),)


def storing(name: str) -> Contract:
    return Contract(lambda ops, v: ops.store(v, name), lambda: representable(name), lambda v: encoded(v, FORMATS[name]))


def rounding(name: str) -> Contract:
    return Contract(
        lambda ops, v: functions.to_dtype(ops, v, name),
        lambda: (near_formats(),),
        lambda v: encoded(rounded(v, FORMATS[name]), FORMATS[name]),
    )


def whole_input(kind: Any) -> Contract:
    def arguments() -> tuple[Array]:
        if kind is np.bool_:
            return (np.array([True, False]),)
        low, high = max(np.iinfo(kind).min, -(2**53)), min(np.iinfo(kind).max, 2**53)
        return (np.array([low, low + 1, 0, 1, 2, 100, high - 1, high], kind),)

    return Contract(lambda ops, x: ops.load(x), arguments, lambda x: np.array([float(int(n)) for n in x]))


def elementwise(function: Callable[..., Any], expected: Callable[..., Any], values: Any = patterns) -> Contract:
    return Contract(function, lambda: (values(),), expected)


def cutting(start: int | None, stop: int | None) -> Contract:
    return Contract(
        lambda ops, v: tuple(ops.cut(v, axis, start, stop) for axis in range(3)),
        lambda: (bell("cut", (3, 1, 4)),),
        lambda v: tuple(np.take(v, range(v.shape[axis])[start:stop], axis) for axis in range(3)),
    )


def truncated(v: Array) -> Array:
    return np.copysign(np.floor(np.abs(v)), v)


def even(v: Array) -> Array:
    """Round to integer, ties to even, by way of floor; the sign of zero is that of the argument."""
    size = np.abs(v)
    low = np.floor(size)
    with np.errstate(invalid="ignore"):
        rest = size - low
        up = (rest > 0.5) | ((rest == 0.5) & (low % 2 == 1))
    return np.copysign(np.where(up, low + 1, low), v)


def compared(a: Array, b: Array) -> tuple[Array, ...]:
    """Comparisons by integers: the order of the bits is that of the numbers."""

    def key(v: Array) -> Array:
        bits = bits_of(v)
        return np.where(bits < 0, -(bits & ((1 << 63) - 1)), bits)

    fine = ~(np.isnan(a) | np.isnan(b))
    return (
        (key(a) < key(b)) & fine,
        (key(a) > key(b)) & fine,
        (key(a) >= key(b)) & fine,
        (key(a) == key(b)) & fine,
        (key(a) <= key(b)) & fine,
    )


def exactly(a: Array, b: Array) -> tuple[Array, ...]:
    """IEEE operations, NumPy's; results below the normal numbers are outside the contract."""
    with np.errstate(all="ignore"):
        return a + b, a - b, a * b, a / b


def in_range(a: Array, b: Array) -> tuple[Array, ...]:
    """Where no result is subnormal."""
    ok = np.ones(a.shape, bool)
    for r in exactly(a, b):
        ok &= ~((np.abs(r) < 2.0**-1021) & (r != 0.0)) & ~((r == 0.0) & (a != 0.0) & (b != 0.0) & (a != b) & (a != -b))
    return a[ok], b[ok]


def boxes() -> Array:
    """Four axes, the second of length 1."""
    return bell("boxes", (3, 1, 4, 5))


def padded(v: Array, axis: int) -> Array:
    before, after = (np.zeros([n if a == axis else size for a, size in enumerate(v.shape)]) for n in (2, 3))
    return np.concatenate([before, v, after], axis)


def tied() -> Array:
    """Rows with many equal elements, a row of far apart ones, and one of the extremes."""
    b = integers("tied", 5 * 300).reshape(5, 300).astype(np.int64) % 7
    b[1] = whole(63)[:300]
    b[2] = np.where(b[2] > 3, 2**63 - 1, -(2**63))
    return b


def falling(b: Array) -> Array:
    """The indices, the largest first, ties by index."""
    return np.array([sorted(range(len(row)), key=lambda i: (-row[i], i)) for row in b.tolist()])


def permuted() -> tuple[Array, Array]:
    return bell("permuted", (5, 300)), falling(tied())


def squares() -> Array:
    """What square roots are taken of, from the smallest squares of float32 numbers to the largest sums of them."""
    rng = np.random.default_rng(20)
    size = np.ldexp(rng.uniform(1, 2, 1 << 17), rng.integers(-252, 300, 1 << 17))
    return np.concatenate([[np.nan, np.inf, 1.0, 4.0, 2.0**-252], size, np.arange(1.0, 2000.0) ** 2 + 1])


def rooted(v: Array) -> Array:
    """IEEE's square root, proved by integers: no other is nearer."""
    found = np.sqrt(v)
    for square, root in zip(v[5::64].tolist(), found[5::64].tolist(), strict=True):
        below, above = (Fraction(math.nextafter(root, side)) for side in (0.0, math.inf))
        low, high = ((Fraction(root) + other) / 2 for other in (below, above))
        assert low**2 < Fraction(square) < high**2
    return found


CONTRACTS: dict[str, Contract] = {
    **{f"load {name}": loading(name) for name in FORMATS},
    **{f"load {np.dtype(k).name}": whole_input(k) for k in (np.bool_, np.uint8, np.int8, np.int16, np.int32, np.int64)},
    **{f"store {name}": storing(name) for name in FORMATS},
    **{f"to_dtype {name}": rounding(name) for name in FORMATS},
    "float32": elementwise(lambda ops, v: ops.float32(v), lambda v: rounded(v, FORMATS["float32"]), near_formats),
    "float32 wide": elementwise(lambda ops, v: ops.float32(v), lambda v: rounded(v, FORMATS["float32"])),
    "float32 of a product": Contract(
        lambda ops, a, b: ops.float32(a * b) * b,
        lambda: (plain("a"), plain("b")),
        lambda a, b: rounded(a * b, FORMATS["float32"]) * b,
    ),
    "bits": elementwise(lambda ops, v: ops.bits(v), bits_of),
    "value": elementwise(lambda ops, b: ops.value(b), lambda b: b.view(np.float64), lambda: bits_of(patterns())),
    "band": elementwise(
        lambda ops, b: tuple(ops.band(b, mask) for mask in (-(1 << 5), -(1 << 37), (1 << 32) - 1, 1, (1 << 63) - 1)),
        lambda b: tuple(b & np.int64(mask) for mask in (-(1 << 5), -(1 << 37), (1 << 32) - 1, 1, (1 << 63) - 1)),
        lambda: whole(63),
    ),
    "shl": elementwise(
        lambda ops, b: tuple(ops.shl(b, n) for n in (0, 1, 21, 32, 52, 63)),
        lambda b: tuple((b.astype(np.uint64) * np.uint64(1 << n)).view(np.int64) for n in (0, 1, 21, 32, 52, 63)),
        lambda: whole(63),
    ),
    "shr": elementwise(
        lambda ops, b: tuple(ops.shr(b, n) for n in (0, 1, 11, 32, 52, 63)),
        lambda b: tuple(
            np.floor_divide(b, 1 << n) if n < 63 else np.where(b < 0, -1, 0) for n in (0, 1, 11, 32, 52, 63)
        ),
        lambda: whole(63),
    ),
    "to_int": elementwise(
        lambda ops, v: ops.to_int(v),
        lambda v: v.astype(np.int64),
        lambda: np.append(whole(51).astype(np.float64), -0.0),
    ),
    "to_float": elementwise(lambda ops, b: ops.to_float(b), lambda b: b.astype(np.float64), lambda: whole(53)),
    "rint": elementwise(
        lambda ops, v: ops.rint(v),
        even,
        lambda: np.concatenate([patterns(), plain("rint"), np.arange(-999, 999) / 2]),
    ),
    "trunc": elementwise(
        lambda ops, v: ops.trunc(v),
        truncated,
        lambda: np.concatenate([patterns(), plain("trunc"), np.arange(-999, 999) / 2]),
    ),
    "abs": elementwise(lambda ops, v: ops.abs(v), lambda v: (bits_of(v) & ((1 << 63) - 1)).view(np.float64)),
    "isnan": elementwise(
        lambda ops, v: ops.isnan(v), lambda v: (bits_of(v) & ((1 << 63) - 1)) > bits_of(np.array([np.inf]))[0]
    ),
    "where": Contract(
        lambda ops, v, w: (
            ops.where(v > w, v, w),
            ops.where(v > w, v, 0.0),
            ops.where(v > w, float("nan"), w),
            ops.where(v > w, 1.0, float("-inf")),
        ),
        pairs,
        lambda v, w: (
            np.choose(v > w, [w, v]),
            np.choose(v > w, [np.zeros_like(v), v]),
            np.choose(v > w, [w, np.full_like(v, np.nan)]),
            np.choose(v > w, [np.full_like(v, -np.inf), np.ones_like(v)]),
        ),
    ),
    "where int64": Contract(
        lambda ops, b: (ops.where(b > 0, b, 7), ops.where(b > 0, -7, b), ops.where(b == 0, b, b - 1)),
        lambda: (whole(62),),
        lambda b: (
            np.choose(b > 0, [np.full_like(b, 7), b]),
            np.choose(b > 0, [b, np.full_like(b, -7)]),
            b - (b != 0),
        ),
    ),
    "where broadcast": Contract(
        lambda ops, v, w: (ops.where(v > w, v, w), ops.where(w == w, w, 0.0 * v)),
        lambda: (bell("v", (5, 1, 3)), bell("w", (1, 4, 1))),
        lambda v, w: (np.maximum(v, w), np.broadcast_to(w, (5, 4, 3)).copy()),
    ),
    "both invert": Contract(
        lambda ops, v, w: (ops.both(v > 0.0, w > 0.0), ops.invert(v > 0.0)),
        pairs,
        lambda v, w: ((v > 0) * (w > 0) == 1, (v > 0) == False),  # noqa: E712  (an independent spelling)
    ),
    "larger": Contract(
        lambda ops, a, b: ops.larger(a, b),
        lambda: (whole(63), whole(63)[::-1].copy()),
        lambda a, b: np.where(a < b, b, a),
    ),
    "amax": elementwise(
        lambda ops, v: tuple(ops.amax(v, axis) for axis in range(3)),
        lambda v: tuple(np.sort(v, axis).take([-1], axis) for axis in range(3)),
        maximisable,
    ),
    "amax int64": elementwise(
        lambda ops, b: tuple(ops.amax(b, axis) for axis in range(3)),
        lambda b: tuple(np.sort(b, axis).take([-1], axis) for axis in range(3)),
        lambda: whole(63)[:990000].reshape(99, 10, 1000),
    ),
    "isum": elementwise(
        lambda ops, v: tuple(ops.isum(v, axis) for axis in range(3)),
        lambda v: tuple(v.astype(np.int64).sum(axis, keepdims=True).astype(np.float64) for axis in range(3)),
        grid,
    ),
    "isum_int": elementwise(
        lambda ops, b: tuple(ops.isum_int(b, axis) for axis in range(3)),
        lambda b: tuple(sum(np.split(b, b.shape[axis], axis)) for axis in range(3)),
        lambda: whole(50)[:21000].reshape(3, 1000, 7),
    ),
    "total": elementwise(
        lambda ops, b: (ops.total(b), ops.total(b[:, :, :0])),
        lambda b: (np.array([sum(map(int, row.ravel())) for row in b]), np.zeros(len(b), np.int64)),
        lambda: whole(40)[:21000].reshape(3, 1000, 7),
    ),
    "count": elementwise(
        lambda ops, v: (ops.count(v > 0.0), ops.count(v[:, :0] > 0.0)),
        lambda v: (
            np.array([sum(n > 0 for n in row.ravel().tolist()) for row in v]),
            np.zeros(len(v), np.int64),
        ),
        grid,
    ),
    "stack concat": elementwise(
        lambda ops, v: (
            *(ops.stack([v, v - 1.0], axis) for axis in (0, 1, 2, 3, -1)),
            *(ops.concat([v, v[:, :1], v], 1) for axis in (1,)),
        ),
        lambda v: (
            *(np.stack([v, v - 1], axis) for axis in (0, 1, 2, 3, -1)),
            np.concatenate([v, v[:, :1], v], 1),
        ),
        grid,
    ),
    **{
        f"cut {start}:{stop}": cutting(start, stop)
        for start, stop in ((0, 1), (-1, None), (1, None), (0, -1), (-2, -1), (1, 2), (2, None), (0, -2))
    },
    "pad": elementwise(
        lambda ops, v: tuple(ops.pad(v, axis, 2, 3) for axis in range(4)),
        lambda v: tuple(padded(v, axis) for axis in range(4)),
        boxes,
    ),
    "transpose reshape rows shaped": elementwise(
        lambda ops, v: (
            ops.transpose(v, [3, 0, 2, 1]),
            ops.reshape(ops.transpose(v, [3, 0, 2, 1]), [5, -1]),
            ops.reshape(v, [-1, 5]),
            *(ops.rows(ops.transpose(v, [2, 1, 0, 3]), axes) for axes in (1, 2, 3)),
            ops.shaped(ops.rows(v, 2), ops.transpose(v, [3, 0, 2, 1])),
            ops.rows(v[:0], 1),
            ops.rows(v[:0], 3),
        ),
        lambda v: (
            np.einsum("abcd->dacb", v).copy(),
            np.array([[v[a, 0, c, d] for a in range(3) for c in range(4)] for d in range(5)]),
            np.array([v[a, 0, c] for a in range(3) for c in range(4)]),
            *(np.array([v[:, 0, c] for c in range(4)]).ravel().reshape(rows, -1) for rows in (4, 4, 12)),
            v.ravel().reshape(5, 3, 4, 1),
            np.zeros((0, 20)),
            np.zeros((0, 5)),
        ),
        boxes,
    ),
    "order": elementwise(lambda ops, b: (ops.order(b), ops.order(b[:, :0])), lambda b: (falling(b), b[:, :0]), tied),
    "gather scatter": Contract(
        lambda ops, v, index: (ops.gather(v, index), ops.scatter(v, index), ops.gather(index, index)),
        permuted,
        lambda v, index: (
            np.array([[row[i] for i in order] for row, order in zip(v, index, strict=True)]),
            np.array([[row[order.index(i)] for i in range(300)] for row, order in zip(v, index.tolist(), strict=True)]),
            np.array([[order[i] for i in order] for order in index.tolist()]),
        ),
    ),
    "cumsum": elementwise(
        lambda ops, b: (ops.cumsum(b), ops.cumsum(b[:, :0])),
        lambda b: (np.array([[sum(row[: i + 1]) for i in range(len(row))] for row in b.tolist()]), b[:, :0]),
        lambda: whole(50)[:1500].reshape(5, 300),
    ),
    "zeros ones": elementwise(
        lambda ops, v: (
            ops.zeros_like(v),
            ops.ones_like(v),
            ops.zeros_like(ops.bits(v)),
            ops.ones_like(ops.bits(v)),
        ),
        lambda v: tuple(np.full(v.shape, fill, kind) for kind in (np.float64, np.int64) for fill in (0, 1)),
        grid,
    ),
    "iota": elementwise(
        lambda ops, v: tuple(ops.iota(9, v, axis) for axis in range(3)),
        lambda v: tuple(np.arange(9).reshape([9 if a == axis else 1 for a in range(3)]) for axis in range(3)),
        grid,
    ),
    "constant": elementwise(
        lambda ops, v: tuple(ops.constant([0.25, -0.0, 3.7], v, axis) for axis in range(3)),
        lambda v: tuple(
            np.array([0.25, -0.0, 3.7]).reshape([3 if a == axis else 1 for a in range(3)]) for axis in range(3)
        ),
        grid,
    ),
    "sqrt": elementwise(lambda ops, v: ops.sqrt(v), rooted, squares),
    "+ - * /": Contract(lambda ops, a, b: (a + b, a - b, a * b, a / b), lambda: in_range(*pairs()), exactly),
    "< > >= == <=": Contract(lambda ops, a, b: (a < b, a > b, a >= b, a == b, a <= b), pairs, compared),
    "+ - int64": Contract(
        lambda ops, a, b: (a + b, a - b, 0 - a, 5 - a, a < b, a == 7, a > 0, a >= 0),
        lambda: (whole(61), whole(61)[::-1].copy()),
        lambda a, b: (a + b, a - b, -a, -(a - 5), b > a, a == 7, a > 0, a > -1),
    ),
}


def run_all(mode: Mode, contracts: Sequence[Contract]) -> list[list[Array]]:
    """The results of several contracts in one call, so that a compiler compiles once."""
    arguments = [given(c) for c in contracts]
    flat = [a for group in arguments for a in group]

    def bundle(ops: Any, *tensors: Any) -> Any:
        results: list[Any] = []
        at = 0
        for contract, group in zip(contracts, arguments, strict=True):
            result = contract.function(ops, *tensors[at : at + len(group)])
            results += result if isinstance(result, tuple) else (result,)
            at += len(group)
        return tuple(results)

    found = iter(mode.call(bundle, *flat))
    return [[next(found) for _ in several(expected(c))] for c in contracts]


def several(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


@cache
def given(contract: Contract) -> tuple[Array, ...]:
    with np.errstate(all="ignore"):
        return tuple(contract.arguments())


@cache
def expected(contract: Contract) -> Any:
    with np.errstate(all="ignore"):
        return contract.expected(*given(contract))


@cache
def compiled_results(mode: Mode) -> dict[str, list[Array]]:
    return dict(zip(CONTRACTS, run_all(mode, list(CONTRACTS.values())), strict=True))


@pytest.mark.parametrize("name", CONTRACTS)
def test_operation(mode: Mode, name: str) -> None:
    contract = CONTRACTS[name]
    results = compiled_results(mode)[name] if mode.compiles else run_all(mode, [contract])[0]
    for got, wanted in zip(results, several(expected(contract)), strict=True):
        found = differing(got, wanted)
        if name.startswith(("store", "to_dtype")) and not found and (as_bits(got) != as_bits(wanted)).any():
            found = "a NaN that is not the canonical one"
        assert not found, f"{name} in {mode.name}: {found}"


# ------------------------------------------------------------------------------------------------------------
# What is built from the operations


def products(ops: Any, a: Array, b: Array, c: Array) -> Any:
    """Products that feed additions: exact ones of two float32 values, and chopped ones."""
    p = functions.times(ops, a, b)
    return a * b + c, functions.chop(ops, a * b), p + c, c - p, functions.times(ops, p, c) + p


def quotients(ops: Any, a: Array, b: Array, c: Array) -> Any:
    """Divisions by tensors, of tensors and of constants, in the forms that the terms use."""
    s = ops.abs(b) + 1.0
    return a / s, 1.0 / s, (a + (c - 1.0)) / s, (s - a) / s


def chains(ops: Any, v: Array) -> Any:
    """Subtraction chains: every stencil, padding and adjoint."""
    return tuple(
        function(ops, v, (1, 2), kernel, padding)
        for kernel in ("laplacian", "laplacian8")
        for padding in ("zeros", "replicate", "reflect")
        for function in (stencil.laplacian, stencil.laplacian_adjoint)
    )


def channel_sums(ops: Any, v: Array) -> Any:
    return (
        sums.channel_sum(ops, [v], 1),
        sums.channel_sum(ops, [v, 1.0 - v], 1),
        sums.channel_sum(ops, [v], 0),
    )


def position_sums(ops: Any, v: Array) -> Any:
    states = sums.state(ops, v)
    return states, sums.to_float(ops, states), sums.to_float(ops, states + states)


def wide_values(name: str, shape: tuple[int, ...]) -> Array:
    """48-bit values of many magnitudes, both signs."""
    exponents = labels(name + " exponents", shape, 200).astype(np.int32) - 100
    return chopped(np.ldexp(bell(name, shape), exponents) * (1 / 3))


COMPOSITIONS: dict[str, tuple[Callable[..., Any], Callable[[], tuple[Array, ...]]]] = {
    "products": (products, lambda: (plain("a"), plain("b"), plain("c"))),
    "quotients": (quotients, lambda: (plain("a"), plain("b"), plain("c"))),
    "chains": (chains, lambda: (plain("v")[:983_040].reshape(15, 256, 256),)),
    "exp": (
        functions.exp,
        lambda: (np.append(-np.abs(plain("exp")), [0.0, -88.0, -87.4, -1e30, -np.inf, np.nan]),),
    ),
    "log1p": (
        functions.log1p,
        lambda: (np.append(np.abs(plain("log1p")), [0.0, 2.0**-126, 2.0**23 - 1, np.nan]),),
    ),
    "channel_sum": (channel_sums, lambda: (wide_values("channels", (1000, 1000)),)),
    "exact_sum": (position_sums, lambda: (wide_values("positions", (3, 300_000)),)),
}


@cache
def in_numpy(name: str) -> list[Array]:
    function, arguments = COMPOSITIONS[name]
    return make("numpy").call(function, *arguments())


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_composition(mode: Mode, name: str) -> None:
    """The same bits in every mode; what NumPy gives is checked below."""
    if mode.compiles and name in ("chains", "exact_sum"):
        pytest.skip("torch.compile takes long: these are part of every compiled run of the suite")
    function, arguments = COMPOSITIONS[name]
    for got, wanted in zip(mode.call(function, *arguments()), in_numpy(name), strict=True):
        assert not differing(got, wanted), f"{name} in {mode.name}: {differing(got, wanted)}"


def test_the_references_agree() -> None:
    """The integer reference of rounding is that of fractions."""
    sample = np.concatenate([edges(), near_formats()[-3000:]])
    for form in FORMATS.values():
        wanted = np.array([rounded_fraction(v, form) for v in sample.tolist()])
        assert not differing(rounded(sample, form), wanted)


def test_exp_and_log1p_are_the_definitions() -> None:
    for name, defined in (("exp", definition.exp_star), ("log1p", definition.log1p_star)):
        arguments = COMPOSITIONS[name][1]()[0][-400:-1]
        wanted = np.array([defined(v) for v in arguments.tolist()])
        assert not differing(in_numpy(name)[0][-400:-1], wanted)


def test_exact_sum_is_fsum() -> None:
    """The values' lowest bits are above 2^-160, so nothing is truncated."""
    values = COMPOSITIONS["exact_sum"][1]()[0]
    assert in_numpy("exact_sum")[1].tolist() == [math.fsum(row) for row in values.tolist()]


def test_channel_sum_is_within_its_bound() -> None:
    values = COMPOSITIONS["channel_sum"][1]()[0]
    found = in_numpy("channel_sum")[0][:, 0].tolist()
    for row, got in zip(values[:100].tolist(), found[:100], strict=True):
        true = sum(map(Fraction, row))
        bound = len(row) * Fraction(2) ** (len(row).bit_length() - 52) * Fraction(max(map(abs, row)))
        assert abs(Fraction(got) - true) <= bound


# ------------------------------------------------------------------------------------------------------------
# Every term before its float32 roundings, where a difference in the last of 53 bits shows


class Watched:
    """Operations that also keep what is about to be rounded to float32: the rounding hides almost any
    difference.
    """

    def __init__(self, ops: Any) -> None:
        self._ops = ops
        self.seen: list[Array] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)

    def float32(self, v: Array) -> Array:
        self.seen.append(v)
        return self._ops.float32(v)


def losses(config: Config) -> tuple[Callable[..., Any], tuple[Array, ...]]:
    """The sums of a configuration, and all that its loss and gradient round to float32; its arrays."""
    case = cases.make(replace(config, shape=(4, 32, 32, 3)), "scale_1")
    axis, is_labels = 3, config.target == "labels"
    arrays = [case.input, np.asarray(case.target), case.upstream]
    if case.weight is not None:
        shape = case.weight.shape + (1,) * (3 - case.weight.ndim)
        arrays.append(np.broadcast_to(case.weight.reshape(shape), (4, 32, 32)).copy())

    def function(ops: Any, x: Array, target: Array, upstream: Array, weight: Array | None = None) -> Any:
        def spread(v: Array) -> Array:
            return ops.stack([v], axis)

        ops = Watched(ops)
        mask = spread(weight) if config.weight == "mask" else None
        factor = functions.load(ops, spread(weight)) if weight is not None and mask is None else None
        target = spread(target) if is_labels else target
        dense, valid = engine.targets(ops, target, is_labels, 3, axis, config.spec.ignore_index, mask)
        inputs = Inputs(ops, functions.load(ops, x), dense, valid, axis, (1, 2), factor)
        result = engine.evaluate(ops, config.spec, inputs, config.reduction)
        up = functions.load(ops, spread(upstream)) if config.reduction == "none" else None
        result.gradient(up)
        return result.sums, *ops.seen

    return function, tuple(arrays)


CHOSEN = {
    config.name: config
    for config in cases.configs()
    if config.name
    in {
        "cross_entropy_weighted/soft-sample-sum-float32",
        "cross_entropy_all/labels-none-mean-float32",
        "boundary_8/labels-mask-none-float32",
        "boundary_probabilities/soft-none-mean-float32",
        "binary_cross_entropy_weighted/soft-none-mean-float32",
        "mean_squared_error/onehot-position-mean-float32",
        "three_terms/labels-position-none-float32",
        "three_terms/onehot-mask-mean-float32",
    }
}


@pytest.mark.parametrize("name", sorted(CHOSEN))
def test_terms_in_float64(mode: Mode, name: str) -> None:
    if mode.compiles and not name.startswith("binary"):
        pytest.skip("torch.compile takes long: here one configuration, the others in the runs of the suite")
    function, arrays = losses(CHOSEN[name])
    wanted = make("numpy").call(function, *arrays)
    for index, (got, right) in enumerate(zip(mode.call(function, *arrays), wanted, strict=True)):
        found = differing(unsigned_zeros(got), unsigned_zeros(right))
        assert not found, f"{f'rounding {index}' if index else 'sums'} of {name} in {mode.name}: {found}"


def test_every_chosen_configuration_is_there() -> None:
    assert len(CHOSEN) == 8


def unsigned_zeros(v: Array) -> Array:
    return np.where(v == 0, np.zeros_like(v), v)


NORMALISERS = (5, 7, 10, 13)


def coefficients(ops: Any, x: Array, totals: Array) -> Any:
    """What becomes the coefficients ``a_k`` of section 4, for many normalisers."""
    ops = Watched(ops)
    spec = 1.7 * MeanSquaredError() + 0.3 * Huber()
    inputs = Inputs(ops, functions.load(ops, x), functions.load(ops, x), None, 1, ())
    found = []
    for row in range(len(NORMALISERS)):
        result = engine.evaluate(ops, spec, inputs, "mean", totals[row])
        ops.seen.clear()
        result.gradient(None)
        found += ops.seen[:2]
    return tuple(found)


def test_coefficients(mode: Mode) -> None:
    """Section 4: ``R_k * (w_k ⊗ I)``, in this order; chained constant factors would be multiplied first."""
    if mode.compiles:
        pytest.skip("torch.compile takes long: the canaries show that it does not regroup constants")
    totals = np.zeros((len(NORMALISERS), 2, 2, sums.STATE), np.int64)
    totals[..., 1, 5] = np.array(NORMALISERS)[:, None]
    arrays = (np.ones((2, 3), np.float32), totals)
    wanted = [(1 / n) * chop(float(np.float32(w)) * (1 / 3)) for n in NORMALISERS for w in (1.7, 0.3)]
    found = [float(v) for v in mode.call(coefficients, *arrays)]
    assert found == wanted


ZERO = """
import os
os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", KERAS_BACKEND="tensorflow")
import numpy as np, tensorflow as tf
import dualloss.tf
tf.constant(-0.0, tf.float64)
x = tf.constant([[1.0, 2.0]])
with tf.GradientTape() as tape:
    tape.watch(x)
    loss = dualloss.tf.Loss(dualloss.MeanSquaredError(), jit_compile=False)(x, x)
bits = [loss.numpy(), *tape.gradient(loss, x).numpy()[0]]
print(*np.array(bits, np.float32).view(np.uint32))
"""


def test_zeros_stay_positive_after_minus_zero_was_a_constant() -> None:
    """TensorFlow's eager cache of constants gives a -0.0 that somebody made before for 0.0 (see the
    canary).
    """
    pytest.importorskip("tensorflow")
    done = subprocess.run([sys.executable, "-c", ZERO], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "0", "0"]
