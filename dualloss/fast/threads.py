"""The functions around a kernel, as LLVM IR: one that shares the rows among threads, and one that XLA can call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from ..exact.sums import STATE
from .layout import ARGUMENTS, GEOMETRY, POINTERS
from .vectors import F64, I1, I8, I32, I64, count_up

_SHARED = ("arrays", "geometry", "parameters", "states", "work")
_FIELDS = 3 + len(_SHARED)


def add_run(module: ir.Module, kernel: Any, gradient: bool, count: int) -> None:
    """The functions that share the rows among threads."""
    pointer = ir.PointerType(I8)
    places = kernel.type.pointee.args
    threaded = os.name == "posix"

    def function(name: str, result: Any, args: Sequence[Any]) -> Any:
        return ir.Function(module, ir.FunctionType(result, args), name)

    # What a thread does: take some rows until none are left. A thread that is held up leaves them to the others.
    thread = function("thread", pointer, [pointer])
    b = ir.IRBuilder(thread.append_basic_block())
    fields = b.bitcast(thread.args[0], I64.as_pointer())
    taken, rows, share, *values = (b.load(b.gep(fields, [I64(i)])) for i in range(_FIELDS))
    given = dict(zip(_SHARED, values, strict=True))
    head, inside, after = (b.append_basic_block(name) for name in ("head", "body", "after"))
    b.branch(head)
    b.position_at_end(head)
    given["first"] = b.atomic_rmw("add", b.inttoptr(taken, I64.as_pointer()), share, "monotonic")
    b.cbranch(b.icmp_signed("<", given["first"], rows), inside, after)
    b.position_at_end(inside)
    last = b.add(given["first"], share)
    given["last"] = b.select(b.icmp_signed("<", last, rows), last, rows)
    b.call(kernel, [
        given[name] if kind == I64 else b.inttoptr(given[name], kind)
        for name, kind in zip(ARGUMENTS, places, strict=True)
    ])  # fmt: skip
    b.branch(head)
    b.position_at_end(after)
    b.ret(ir.Constant(pointer, None))

    # 0, or 1 where there is no memory.
    run = function("run", I32, [*places[:3], places[5]])
    arrays, geometry, parameters, states = run.args
    b = ir.IRBuilder(run.append_basic_block())
    allocate = function("malloc", pointer, [I64])
    free = function("free", ir.VoidType(), [pointer])

    def number(name: str) -> Any:
        return b.load(b.gep(geometry, [I64(GEOMETRY.index(name))]))

    rows, share, threads, work = (number(name) for name in ("rows", "share", "threads", "work"))
    size = count * STATE * 8
    taken = b.alloca(I64)  # the rows that some thread has
    b.store(I64(0), taken)
    # Every thread's part begins where a cache line does: its vectors are aligned, and no two threads share a line.
    each = b.add(work, I64(-(-(size + 8 * _FIELDS) // 64) * 64))
    given = b.call(allocate, [b.add(b.mul(each, threads), I64(64))])
    none = ir.Constant(pointer, None)
    with b.if_then(b.icmp_unsigned("==", given, none), likely=False):
        b.ret(I32(1))
    memory = b.inttoptr(b.and_(b.add(b.ptrtoint(given, I64), I64(63)), I64(-64)), pointer)
    held = b.call(allocate, [b.mul(threads, I64(8))])
    with b.if_then(b.icmp_unsigned("==", held, none), likely=False):
        b.call(free, [given])
        b.ret(I32(1))
    ids = b.bitcast(held, I64.as_pointer())

    def of(k: Any) -> tuple[Any, Any]:
        """A thread's fields and its states."""
        start = b.gep(memory, [b.mul(k, each)])
        fields = b.gep(start, [work])
        return b.bitcast(fields, I64.as_pointer()), b.gep(fields, [I64(8 * _FIELDS)])

    def prepare(k: Any) -> None:
        fields, own = of(k)
        fill = module.globals.get("llvm.memset.p0i8.i64") or function(
            "llvm.memset.p0i8.i64", ir.VoidType(), [pointer, I8, I64, I1]
        )
        b.call(fill, [own, I8(0), I64(size), I1(0)])
        start = b.gep(memory, [b.mul(k, each)])
        given = [b.ptrtoint(v, I64) for v in (arrays, geometry, parameters, own, start)]
        for i, v in enumerate([b.ptrtoint(taken, I64), rows, share, *given]):
            b.store(v, b.gep(fields, [I64(i)]))

    count_up(b, I64(0), threads, prepare)
    if threaded:
        create = function("pthread_create", I32, [I64.as_pointer(), pointer, thread.type, pointer])
        join = function("pthread_join", I32, [I64, pointer.as_pointer()])

        def start(k: Any) -> None:
            place = b.gep(ids, [k])
            failed = b.call(create, [place, ir.Constant(pointer, None), thread, b.bitcast(of(k)[0], pointer)])
            b.store(b.select(b.icmp_signed("==", failed, I32(0)), b.load(place), I64(0)), place)
            with b.if_then(b.icmp_signed("!=", failed, I32(0)), likely=False):  # no thread to be had
                b.call(thread, [b.bitcast(of(k)[0], pointer)])

        count_up(b, I64(1), threads, start)
    b.call(thread, [b.bitcast(of(I64(0))[0], pointer)])
    if threaded:

        def wait(k: Any) -> None:
            one = b.load(b.gep(ids, [k]))
            with b.if_then(b.icmp_signed("!=", one, I64(0))):
                b.call(join, [one, ir.Constant(pointer.as_pointer(), None)])

        count_up(b, I64(1), threads, wait)

    def add(k: Any) -> None:
        own = b.bitcast(of(k)[1], I64.as_pointer())

        def one(i: Any) -> None:
            place = b.gep(states, [i])
            b.store(b.add(b.load(place), b.load(b.gep(own, [i]))), place)

        count_up(b, I64(0), I64(count * STATE), one)

    count_up(b, I64(0), threads, add)
    b.call(free, [given])
    b.call(free, [held])
    b.ret(I32(0))

    call = function("call", ir.VoidType(), [pointer, pointer.as_pointer()])
    outputs, inputs = call.args
    b = ir.IRBuilder(call.append_basic_block())
    held = b.alloca(ir.ArrayType(pointer, len(POINTERS)))
    last = len(POINTERS) - 1
    for i in range(last):
        b.store(b.load(b.gep(inputs, [I64(i)])), b.gep(held, [I32(0), I32(i)]))
    geometry, parameters = (b.load(b.gep(inputs, [I64(last + i)])) for i in range(2))
    result = b.bitcast(outputs, pointer.as_pointer())
    states = b.load(result)
    if gradient:
        b.store(b.load(b.gep(result, [I64(1)])), b.gep(held, [I32(0), I32(last)]))
    b.call(module.globals["llvm.memset.p0i8.i64"], [states, I8(0), I64(size), I1(0)])
    sizes = b.bitcast(geometry, I64.as_pointer())
    failed = b.call(run, [
        b.gep(held, [I32(0), I32(0)]), sizes, b.bitcast(parameters, F64.as_pointer()),
        b.bitcast(states, I64.as_pointer()),
    ])  # fmt: skip
    with b.if_then(b.icmp_signed("!=", failed, I32(0)), likely=False):  # XLA takes no errors: everything is NaN

        def mark(i: Any) -> None:
            b.store(I64(1), b.gep(b.bitcast(states, I64.as_pointer()), [b.add(b.mul(i, I64(STATE)), I64(STATE - 1))]))

        count_up(b, I64(0), I64(count), mark)
        if gradient:
            rows, height, sample = (
                b.load(b.gep(sizes, [I64(GEOMETRY.index(name))])) for name in ("rows", "height", "x_sample")
            )
            bytes = b.mul(
                b.mul(b.sdiv(rows, b.select(b.icmp_signed(">", height, I64(0)), height, I64(1))), sample), I64(4)
            )
            b.call(module.globals["llvm.memset.p0i8.i64"], [b.load(b.gep(result, [I64(1)])), I8(-1), bytes, I1(0)])
    b.ret_void()
