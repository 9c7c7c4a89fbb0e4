"""Arithmetic on vectors of positions, as LLVM IR.

No operation is reordered or contracted (no fast-math flag is set), so the bits are those of the array engine. Only
inside exp and log1p, which the definition lets be any good to 57 and 130 ulp, is the arithmetic of our own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from ..exact import functions
from .layout import LANES
from .polynomials import ATANH, EXP, MAGIC, MAGIC_BITS, ROOT

F64, F32, I64, I32, I8, I1 = (
    ir.DoubleType(), ir.FloatType(), ir.IntType(64), ir.IntType(32), ir.IntType(8), ir.IntType(1),
)  # fmt: skip
VF, VF32, VI, VI32, VB, VI8 = (ir.VectorType(t, LANES) for t in (F64, F32, I64, I32, I1, I8))


def count_up(b: ir.IRBuilder, start: Any, stop: Any, body: Callable[[Any], None], step: Any = None) -> None:
    """``for i in range(start, stop, step)``."""
    before = b.block
    head, inside, after = (b.append_basic_block(name) for name in ("head", "body", "after"))
    b.branch(head)
    b.position_at_end(head)
    i = b.phi(I64)
    i.add_incoming(start, before)
    b.cbranch(b.icmp_signed("<", i, stop), inside, after)
    b.position_at_end(inside)
    body(i)
    i.add_incoming(b.add(i, I64(1) if step is None else step), b.block)
    b.branch(head)
    b.position_at_end(after)


class Vectors:
    """A function being written.

    Attributes:
        module: what it is part of.
        b: where code is added.
        entry: its first block, which holds its memory.
        work: the memory that it is given, aligned to 64 bytes, and how much of that has been taken, ``fixed``.
    """

    module: ir.Module
    b: ir.IRBuilder
    entry: Any
    work: Any
    fixed: int = 0

    def alloca(self, kind: Any) -> Any:
        """Memory of the function, for a vector or an array of them; the larger ones in the work that it is given."""
        with self.b.goto_block(self.entry):
            self.b.position_at_start(self.entry)
            if not isinstance(kind, ir.ArrayType):
                place = self.b.alloca(kind)
                place.align = 64
                return place
            bits = kind.element.count * (32 if kind.element.element == F32 else 64)
            start, self.fixed = self.fixed, self.fixed + -(-kind.count * bits // 512) * 64
            return self.b.bitcast(self.b.gep(self.work, [I64(start)]), kind.as_pointer())

    def loop(self, start: Any, stop: Any, body: Callable[[Any], None], step: Any = None) -> None:
        """``for i in range(start, stop, step)``."""
        count_up(self.b, start, stop, body, step)

    def smaller(self, a: Any, c: Any) -> Any:
        """The smaller of two integers."""
        return self.b.select(self.b.icmp_signed("<", a, c), a, c)

    def larger(self, a: Any, c: Any) -> Any:
        """The larger of two integers."""
        return self.b.select(self.b.icmp_signed(">", a, c), a, c)

    def splat(self, scalar: Any, vector: Any) -> Any:
        """A number in every lane."""
        b = self.b
        one = b.insert_element(ir.Constant(vector, ir.Undefined), scalar, I32(0))
        return b.shuffle_vector(
            one, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(I32, LANES), [0] * LANES)
        )

    def f(self, value: float) -> Any:
        """A float64 constant in every lane."""
        return ir.Constant(VF, [ir.Constant(F64, value)] * LANES)

    def i(self, value: int) -> Any:
        """An int64 constant in every lane."""
        return ir.Constant(VI, [value] * LANES)

    def declared(self, name: str, kind: Any, args: Sequence[Any]) -> Any:
        """An LLVM intrinsic."""
        function = self.module.globals.get(name)
        return function or ir.Function(self.module, ir.FunctionType(kind, args), name)

    def call(self, name: str, args: Sequence[Any], kind: Any = VF) -> Any:
        """A call of an LLVM intrinsic."""
        return self.b.call(self.declared(name, kind, [a.type for a in args]), args)

    def rounded(self, v: Any) -> Any:
        """As float32, NaN as the one NaN."""
        b = self.b
        narrow = b.fptrunc(self.flushed(v), VF32)
        nan = b.fcmp_unordered("uno", v, v)
        quiet = b.bitcast(ir.Constant(VI32, [0x7FC00000] * LANES), VF32)
        return b.select(nan, quiet, narrow)

    def flushed(self, v: Any) -> Any:
        """What is below the normal float32 numbers as +0."""
        small = self.b.fcmp_ordered("<", self.call(f"llvm.fabs.v{LANES}f64", [v]), self.f(2.0**-126))
        return self.b.select(small, self.f(0.0), v)

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        """``x * y + z``, where it does not matter whether the product is rounded."""
        return self.call(f"llvm.fmuladd.v{LANES}f64", [x, y, z])

    def polynomial(self, coefficients: Sequence[float], x: Any) -> Any:
        """A polynomial, the highest power first, in pairs of pairs: few operations wait for another (Estrin)."""
        terms = [self.f(c) for c in reversed(coefficients)]
        while len(terms) > 1:
            pairs = [self.fma(high, x, low) for low, high in zip(terms[::2], terms[1::2], strict=False)]
            terms = pairs + terms[2 * len(pairs) :]
            x = self.b.fmul(x, x) if len(terms) > 1 else x
        return terms[0]

    def exp(self, v: Any) -> Any:
        """For -88 <= v <= 0: ``2^m exp(r)``, with a polynomial for ``|r| <= log(2) / 2``."""
        b = self.b
        shifted = self.fma(v, self.f(1.0 / math.log(2.0)), self.f(MAGIC))
        m = b.fsub(shifted, self.f(MAGIC))
        r = self.fma(m, self.f(-functions.LN2_HIGH), v)
        r = self.fma(m, self.f(-functions.LN2_LOW), r)
        scale = b.shl(b.bitcast(shifted, VI), self.i(52))
        return b.bitcast(b.add(b.bitcast(self.polynomial(EXP, r), VI), scale), VF)

    def log1p(self, v: Any) -> Any:
        """``e log 2 + 2 atanh(f / (2 + f))``, ``1 + v = 2^e (1 + f)``; where ``e = 0`` it is ``f = v``, exactly."""
        b = self.b
        u = b.bitcast(b.fadd(v, self.f(1.0)), VI)
        # The exponent for a mantissa from sqrt(1/2) to sqrt(2).
        e = b.ashr(b.sub(u, self.i(ROOT)), self.i(52))
        m = b.bitcast(b.sub(u, b.shl(e, self.i(52))), VF)
        f = b.select(b.icmp_signed("==", e, self.i(0)), v, b.fsub(m, self.f(1.0)))
        s = b.fdiv(f, b.fadd(f, self.f(2.0)))
        z = b.fmul(s, s)
        tail = b.fmul(z, self.polynomial(ATANH, z))
        near = self.fma(s, tail, b.fmul(s, self.f(2.0)))
        whole = b.fsub(b.bitcast(b.add(e, self.i(MAGIC_BITS)), VF), self.f(MAGIC))
        return b.select(b.fcmp_unordered("uno", v, v), v, self.fma(whole, self.f(math.log(2.0)), near))
