"""Programs of class indices, split into what holds on the label's channel and what holds on all others.

With labels most of what differs between channels differs in one: where the channel is the label. That one is computed
once for a position, not for each channel, and for the others the target is the constant 0, with which much goes away:
a sum of ``t f`` over the channels is ``f`` at the label. No value changes: every operation is done as before, or not at
all where its result is known.
"""

from __future__ import annotations

from collections.abc import Callable

from .simplify import is_zero, simple
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
            elif node.op == "shift":
                self.done[id(node)] = self.shifted(node, args[0])
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

    def shifted(self, node: Node, v: Node) -> Node:
        """Of what is 0 but at the label, two shifts of one number per position, and no ring of all channels."""
        graph = self.graph
        if v.op == "where" and v.args[0] is self.here and is_zero(v.args[2]) and not v.args[1].chan:
            label = graph.make("shift", (self.label,), node.attrs, "i", True, False)
            on = graph.make("shift", (v.args[1],), node.attrs, "f", True, False)  # 0 off the edge
            channel = graph.make("channel", (), (), "i", False, True)
            return graph.node("where", (graph.node("eq", (label, channel), kind="b"), on, v.args[2]))
        return simple(graph, "shift", (v,), node.attrs, node.kind)

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
