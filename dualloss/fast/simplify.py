"""Operations whose result is known are not done. No value changes."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

from ..exact import functions
from .trace import Graph, Node, ordered


def simplified(graph: Graph, roots: list[Node]) -> list[Node]:
    """The roots, rewritten."""
    done: dict[int, Node] = {}
    for node in ordered(roots):
        args = tuple(done[id(a)] for a in node.args)
        done[id(node)] = simple(graph, node.op, args, node.attrs, node.kind, like=node)
    return [done[id(root)] for root in roots]


def simple(
    graph: Graph, op: str, args: tuple[Node, ...], attrs: tuple[Any, ...], kind: str, like: Node | None = None
) -> Node:
    """The operation, or what is known to be its result, bit for bit."""
    if not args:
        assert like is not None
        return like
    if op == "where":
        condition, a, b = args
        if condition.op == "const":
            return a if condition.attrs[0] else b
        if a is b:
            return a
        if _flushes(condition, a, b):
            return b
        if a.op == "div" and b.op == "div" and a.args[1] is b.args[1]:  # one division instead of two
            chosen = simple(graph, "where", (condition, a.args[0], b.args[0]), (), kind)
            return graph.node("div", (chosen, a.args[1]), kind=kind)
    if op == "and":
        for one, other in (args, args[::-1]):
            if one.op == "const":
                return other if one.attrs[0] else one
    if op in ("isum", "amax"):
        return graph.make(op, args, attrs, kind, args[0].pos, False) if args[0].chan else _of_equals(graph, op, args[0])
    values = [a.attrs[0] for a in args if a.op == "const"]
    if len(values) == len(args):
        found = _folded(op, values, attrs, args[0].kind)
        if found is not None:
            return graph.make("const", (), (found,), kind, False, False)
    if op == "mul" and kind == "f":
        for one, other in (args, args[::-1]):
            if one.op == "const" and one.attrs[0] == 1.0:
                return other
            if one.op == "const" and _positive_zero(one.attrs[0]) and _not_negative(other):
                return one
    if op == "sub" and kind == "f" and args[1].op == "const" and _positive_zero(args[1].attrs[0]):
        return args[0]
    return graph.node(op, args, attrs, kind)


def _of_equals(graph: Graph, op: str, v: Node) -> Node:
    """A reduction over channels that are all the same."""
    return v if op == "amax" else simple(graph, "mul", (v, graph.lift(graph.channels, v.kind)), (), v.kind)


def _flushes(condition: Node, a: Node, b: Node) -> bool:
    """Whether a leaf is to be flushed, which kernels do when they read it."""
    if condition.op != "lt" or b.op not in ("leaf", "pick") or not is_zero(a):
        return False
    size, bound = condition.args
    return size.op == "abs" and size.args[0] is b and bound.op == "const" and bound.attrs[0] == functions.TINY


def is_zero(node: Node) -> bool:
    """Whether it is the constant +0."""
    return node.op == "const" and _positive_zero(node.attrs[0])


def _positive_zero(value: float) -> bool:
    return value == 0.0 and math.copysign(1.0, value) > 0


def _not_negative(node: Node) -> bool:
    """Whether it is a table of finite numbers without a sign."""
    return node.op == "vector" and all(math.copysign(1.0, v) > 0 and math.isfinite(v) for v in node.attrs[0])


def _bits(value: float) -> int:
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


def _folded(op: str, v: list[Any], attrs: tuple[Any, ...], kind: str) -> Any:
    """The result for constants, where Python computes it as the kernel does; else None."""
    compare: dict[str, Callable[[Any, Any], bool]] = {
        "lt": lambda a, b: a < b, "gt": lambda a, b: a > b, "le": lambda a, b: a <= b, "ge": lambda a, b: a >= b,
        "eq": lambda a, b: a == b,
    }  # fmt: skip
    if op in compare:
        return int(compare[op](*v))
    if op == "not":
        return int(not v[0])
    if op in ("add", "sub", "mul"):
        result = {"add": v[0] + v[1], "sub": v[0] - v[1], "mul": v[0] * v[1]}[op]
        return result if kind == "f" or abs(result) < 2**63 else None
    if op == "bits":
        return _bits(v[0])
    if op == "band":
        return v[0] & attrs[0]
    if op == "shr":
        return v[0] >> attrs[0]
    if op == "larger":
        return max(v)
    if op == "fand":
        return struct.unpack("<d", struct.pack("<q", _bits(v[0]) & attrs[0]))[0]
    if op == "abs":
        return abs(v[0])
    if op == "isnan":
        return int(math.isnan(v[0]))
    return None
