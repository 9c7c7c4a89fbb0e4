"""Programs of class indices, split into what holds on the label's channel and what holds on all others.

With labels most of what differs between channels differs in one: where the channel is the label. That one is computed
once for a position, not for each channel, and for the others the target is the constant 0, with which much goes away:
a sum of ``t f`` over the channels is ``f`` at the label. No value changes: every operation is done as before, or not at
all where its result is known.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

from .trace import Graph, Node, ordered


def specialised(graph: Graph, roots: list[Node]) -> list[Node]:
    """The roots, rewritten. Labels of positions that count are known to be classes."""
    return _Rewriter(graph).all(roots)


class _Rewriter:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        label = graph.leaf("label", "i")
        channel = graph.make("channel", (), (), "i", False, True)
        self.label = label
        self.here = graph.node("eq", (label, channel), kind="b")
        self.known = simple(
            graph, "and", (graph.node("ge", (label, graph.constant(0, "i")), kind="b"),
                           graph.node("lt", (label, graph.constant(graph.channels, "i")), kind="b")), (), "b",
        )  # fmt: skip
        self.touched: dict[int, bool] = {}
        self.plain: dict[int, bool] = {}
        self.done: dict[int, Node] = {}
        self.on_label: dict[int, Node] = {}
        self.off_label: dict[int, Node] = {}

    def all(self, roots: list[Node]) -> list[Node]:
        for node in ordered(roots):
            self.touched[id(node)] = node is self.here or any(self.touched[id(a)] for a in node.args if a.chan)
            leaf = node.op != "leaf" or node.attrs[0] == "x" or not node.chan
            self.plain[id(node)] = node.op != "shift" and leaf and all(self.plain[id(a)] for a in node.args if a.chan)
            args = tuple(self.done[id(a)] for a in node.args)
            if node.op in ("amax", "isum") and self.touched[id(node.args[0])] and self.plain[id(node.args[0])]:
                self.done[id(node)] = self.reduced(node)
            elif node.chan and self.touched[id(node)] and self.plain[id(node)]:
                self.done[id(node)] = self.both(node)
            else:
                self.done[id(node)] = simple(self.graph, node.op, args, node.attrs, node.kind, like=node)
        return [self.done[id(root)] for root in roots]

    def both(self, node: Node) -> Node:
        on, off = self.on(node), self.off(node)
        return simple(self.graph, "where", (self.here, on, off), (), node.kind)

    def reduced(self, node: Node) -> Node:
        """A sum or maximum over the channels."""
        graph = self.graph
        v = node.args[0]
        on, off = self.on(v), self.off(v)
        if off.chan:
            return graph.make(node.op, (self.both(v),), (), node.kind, node.pos, False)
        first = simple(graph, "where", (self.known, on, off), (), node.kind)
        if node.op == "amax":
            if graph.channels == 1:
                return first
            if node.kind == "i":
                return simple(graph, "larger", (first, off), (), "i")
            return simple(graph, "where", (graph.node("gt", (first, off), kind="b"), first, off), (), "f")
        rest = simple(graph, "mul", (off, graph.lift(graph.channels - 1, node.kind)), (), node.kind)
        return simple(graph, "add", (first, rest), (), node.kind)

    def on(self, node: Node) -> Node:
        """The value at the label, one per position."""
        return self.at(node, self.on_label, self.leaf_on, True)

    def off(self, node: Node) -> Node:
        """The value at a channel that is not the label."""
        return self.at(node, self.off_label, lambda leaf: leaf, False)

    def leaf_on(self, node: Node) -> Node:
        graph = self.graph
        if node.op in ("leaf", "vector", "param"):
            return graph.make("pick", (self.label,), node.attrs, node.kind, True, False)
        if node.op == "channel":
            return self.label
        return graph.make(node.op, node.args, node.attrs, node.kind, node.pos, False)  # a constant

    def at(self, root: Node, memo: dict[int, Node], leaf: Callable[[Node], Node], here: bool) -> Node:
        stack = [root]
        while stack:
            node = stack[-1]
            if id(node) in memo:
                stack.pop()
                continue
            if node is self.here:
                memo[id(node)] = self.graph.make("const", (), (int(here),), "b", False, False)
            elif not node.chan:
                memo[id(node)] = self.done[id(node)]
            elif not node.args:
                memo[id(node)] = leaf(node)
            elif not here and not self.touched[id(node)]:
                memo[id(node)] = self.done[id(node)]
            else:
                missing = [a for a in node.args if id(a) not in memo]
                if missing:
                    stack.extend(missing)
                    continue
                args = tuple(memo[id(a)] for a in node.args)
                memo[id(node)] = simple(self.graph, node.op, args, node.attrs, node.kind, like=node)
            stack.pop()
        return memo[id(root)]


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
