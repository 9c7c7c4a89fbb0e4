"""Exact sums of vectors (docs/numerics.md, section 1.5), as LLVM IR."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from ..exact.sums import LIMBS, STATE, UNIT
from .polynomials import MAGIC, MAGIC_BITS
from .vectors import F64, I1, I32, I64, LANES, VF, VI, Vectors


class Sums:
    """The sums of a row: digits as float64 since the last flush, and int64 limbs with the counts of no numbers.

    One, or one for each channel. A vector of each: the lanes are added at the end.
    """

    def __init__(self, kernel: Vectors, number: int) -> None:
        self.kernel, self.number = kernel, number
        self._digits = kernel.alloca(ir.ArrayType(VF, number * LIMBS))
        self._totals = kernel.alloca(ir.ArrayType(VI, number * STATE))

        def clear(i: Any) -> None:
            kernel.b.store(kernel.f(0.0), kernel.b.gep(self._digits, [I32(0), i]))

        def empty(i: Any) -> None:
            kernel.b.store(kernel.i(0), kernel.b.gep(self._totals, [I32(0), i]))

        kernel.loop(I64(0), I64(number * LIMBS), clear)
        kernel.loop(I64(0), I64(number * STATE), empty)

    def digit(self, channel: Any, limb: int) -> Any:
        """Where the digits of a limb are."""
        b = self.kernel.b
        return b.gep(self._digits, [I32(0), b.add(b.mul(channel, I64(LIMBS)), I64(limb))])

    def total(self, channel: Any, place: int) -> Any:
        """Where a limb, or a count, is."""
        b = self.kernel.b
        return b.gep(self._totals, [I32(0), b.add(b.mul(channel, I64(STATE)), I64(place))])

    def add(self, channel: Any, value: Any, inside: Any) -> None:
        """What :func:`dualloss.exact.sums.state` does: the digits of a value, the counts of what is no number.

        Digits are added as float64 numbers, which is exact for 2^19 of them; :meth:`flush` takes them over.
        """
        kernel, b = self.kernel, self.kernel.b
        value = b.select(inside, value, kernel.f(0.0))
        size = kernel.call(f"llvm.fabs.v{LANES}f64", [value])
        finite = b.fcmp_ordered("<", size, kernel.f(2.0**128))
        rest = b.select(finite, value, kernel.f(0.0))
        largest = kernel.call(f"llvm.vector.reduce.fmax.v{LANES}f64", [b.select(finite, size, kernel.f(0.0))], F64)
        before = b.block
        after = b.append_basic_block("added")
        # A limb above all values has no digits; and once nothing is left, the limbs below have none.
        blocks = [b.append_basic_block(f"limb{limb}") for limb in range(LIMBS)]
        entries: list[list[tuple[Any, Any]]] = [[] for _ in range(LIMBS)]
        chooser = before
        for limb in reversed(range(LIMBS)):
            b.position_at_end(chooser)
            chooser = b.append_basic_block("choose")
            entries[limb].append((rest, b.block))
            unit = 2.0 ** (32 * limb - UNIT)
            b.cbranch(b.fcmp_ordered(">=", largest, F64(unit)), blocks[limb], chooser)
        b.position_at_end(chooser)
        b.branch(after)
        for limb in reversed(range(LIMBS)):
            b.position_at_end(blocks[limb])
            left = b.phi(VF)
            for item, block in entries[limb]:
                left.add_incoming(item, block)
            unit = 2.0 ** (32 * limb - UNIT)
            digit = kernel.call(f"llvm.trunc.v{LANES}f64", [b.fmul(left, kernel.f(1.0 / unit))])
            place = self.digit(channel, limb)
            b.store(b.fadd(b.load(place), digit), place)
            if limb == 0:
                b.branch(after)
                continue
            left_now = kernel.fma(digit, kernel.f(-unit), left)  # exact: the digit is a leading part
            some = kernel.call(f"llvm.vector.reduce.or.v{LANES}i64", [b.bitcast(left_now, VI)], I64)
            entries[limb - 1].append((left_now, b.block))
            b.cbranch(b.icmp_signed("==", b.shl(some, I64(1)), I64(0)), after, blocks[limb - 1])
        b.position_at_end(after)
        strange = kernel.call(f"llvm.vector.reduce.and.v{LANES}i1", [finite], I1)
        with b.if_then(b.not_(strange), likely=False):
            nan = b.fcmp_unordered("uno", value, value)
            large = b.and_(b.not_(finite), b.not_(nan))
            flags = (
                b.and_(large, b.fcmp_ordered(">", value, kernel.f(0.0))),
                b.and_(large, b.fcmp_ordered("<", value, kernel.f(0.0))),
                nan,
            )
            for n, flag in enumerate(flags):
                place = self.total(channel, LIMBS + n)
                b.store(b.add(b.load(place), b.zext(flag, VI)), place)

    def flush(self) -> None:
        """Take the digits over to the limbs. They are below 2^51, coming from at most 2^19 vectors."""
        kernel, b = self.kernel, self.kernel.b

        def one(channel: Any) -> None:
            for limb in range(LIMBS):
                digits = b.load(self.digit(channel, limb))
                b.store(kernel.f(0.0), self.digit(channel, limb))
                whole = b.sub(b.bitcast(b.fadd(digits, kernel.f(MAGIC)), VI), kernel.i(MAGIC_BITS))
                place = self.total(channel, limb)
                b.store(b.add(b.load(place), whole), place)

        kernel.loop(I64(0), I64(self.number), one)

    def write(self, states: Any, start: int) -> None:
        """Add the lanes to the states, from one on."""
        kernel, b = self.kernel, self.kernel.b

        def one(i: Any) -> None:
            vector = b.load(b.gep(self._totals, [I32(0), i]))
            total = kernel.call(f"llvm.vector.reduce.add.v{LANES}i64", [vector], I64)
            at = b.gep(states, [b.add(i, I64(start * STATE))])
            b.store(b.add(b.load(at), total), at)

        kernel.loop(I64(0), I64(self.number * STATE), one)
