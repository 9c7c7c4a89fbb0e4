"""The exact numerics written down as a graph: the operations of :class:`dualloss.exact.ops.Ops` on symbols.

The engine runs once over symbols in place of arrays, so what a kernel computes has one source, the engine itself.
What kernels cannot do raises :class:`Unsupported`; the array engine computes such a loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Symbol = Any


class Unsupported(Exception):
    """The loss, or an operation that it needs, has no kernel."""


class Node:
    """A value of the graph, equal to every other of the same operation on the same arguments.

    Attributes:
        op: the operation.
        args: nodes.
        attrs: constants of the operation.
        kind: ``"f"`` float64, ``"i"`` int64, ``"b"`` boolean.
        pos: whether it differs between positions.
        chan: whether it differs between channels.
    """

    __slots__ = ("args", "attrs", "chan", "graph", "kind", "op", "pos")

    def __init__(
        self, graph: Graph, op: str, args: tuple[Node, ...], attrs: tuple[Any, ...], kind: str, pos: bool, chan: bool
    ) -> None:
        self.graph, self.op, self.args, self.attrs = graph, op, args, attrs
        self.kind, self.pos, self.chan = kind, pos, chan

    @property
    def shape(self) -> tuple[int, ...]:
        """What the engine asks of shapes: the rank, and the length of the channel axis. The other sizes are 1."""
        sizes = [1] * self.graph.rank
        if self.chan:
            sizes[self.graph.axis] = self.graph.channels
        return tuple(sizes)

    def _binary(self, op: str, other: Any, swap: bool = False) -> Node:
        other = self.graph.lift(other, self.kind)
        kind = "b" if op in ("lt", "gt", "le", "ge", "eq") else self.kind
        return self.graph.node(op, (other, self) if swap else (self, other), kind=kind)

    def __add__(self, other: Any) -> Node:
        return self._binary("add", other)

    def __radd__(self, other: Any) -> Node:
        return self._binary("add", other, swap=True)

    def __sub__(self, other: Any) -> Node:
        return self._binary("sub", other)

    def __rsub__(self, other: Any) -> Node:
        return self._binary("sub", other, swap=True)

    def __mul__(self, other: Any) -> Node:
        return self._binary("mul", other)

    def __rmul__(self, other: Any) -> Node:
        return self._binary("mul", other, swap=True)

    def __truediv__(self, other: Any) -> Node:
        return self._binary("div", other)

    def __rtruediv__(self, other: Any) -> Node:
        return self._binary("div", other, swap=True)

    def __lt__(self, other: Any) -> Node:
        return self._binary("lt", other)

    def __gt__(self, other: Any) -> Node:
        return self._binary("gt", other)

    def __le__(self, other: Any) -> Node:
        return self._binary("le", other)

    def __ge__(self, other: Any) -> Node:
        return self._binary("ge", other)

    def __eq__(self, other: object) -> Any:
        return self._binary("eq", other)

    __hash__ = object.__hash__


class Graph:
    """All nodes of one loss.

    Args:
        channels: the number of channels.
        spatial: the number of spatial axes.
    """

    axis = 1

    def __init__(self, channels: int, spatial: int) -> None:
        self.channels, self.rank = channels, 2 + spatial
        self._known: dict[Any, Node] = {}

    def node(self, op: str, args: tuple[Node, ...], attrs: tuple[Any, ...] = (), kind: str = "f") -> Node:
        """An operation whose result varies where its arguments do."""
        pos, chan = any(a.pos for a in args), any(a.chan for a in args)
        return self.make(op, args, attrs, kind, pos, chan)

    def make(self, op: str, args: tuple[Node, ...], attrs: tuple[Any, ...], kind: str, pos: bool, chan: bool) -> Node:
        """The node, which exists once."""
        key = (op, tuple(id(a) for a in args), tuple(map(repr, attrs)), kind, pos, chan)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = Node(self, op, args, attrs, kind, pos, chan)
        return found

    def constant(self, value: float, kind: str) -> Node:
        """A number."""
        return self.make("const", (), (value,), kind, False, False)

    def lift(self, value: Any, kind: str) -> Node:
        """A node as it is, a number as a constant of this kind."""
        return value if isinstance(value, Node) else self.constant(float(value) if kind == "f" else int(value), kind)

    def leaf(self, name: str, kind: str, *, chan: bool = False, pos: bool = True) -> Node:
        """An input of the kernel."""
        return self.make("leaf", (), (name,), kind, pos, chan)

    def parameter(self, index: int, by_channel: bool = False) -> Node:
        """A float64 number that is known when the kernel runs, or one for each channel, from an index on."""
        return self.make("param", (), (index,), "f", False, by_channel)


def ordered(roots: Sequence[Node]) -> list[Node]:
    """All nodes below the roots, arguments first."""
    seen: dict[int, Node] = {}
    stack = [(root, False) for root in reversed(roots)]
    result = []
    while stack:
        node, done = stack.pop()
        if done:
            result.append(node)
        elif id(node) not in seen:
            seen[id(node)] = node
            stack.append((node, True))
            stack.extend((a, False) for a in reversed(node.args) if id(a) not in seen)
    return result


class TraceOps:
    """See :class:`dualloss.exact.ops.Ops`."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def __getattr__(self, name: str) -> Any:
        def missing(*args: Any, **options: Any) -> Any:
            raise Unsupported(f"the operation {name}")

        return missing

    def _one(self, op: str, v: Symbol, *attrs: Any, kind: str = "f") -> Node:
        return self.graph.node(op, (v,), attrs, kind)

    def load(self, x: Symbol) -> Symbol:
        return x

    def store(self, v: Symbol, dtype: str) -> Symbol:
        if dtype != "float32":
            raise Unsupported(f"results of dtype {dtype}")
        return v  # the kernel's last step

    def float32(self, v: Symbol) -> Symbol:
        return self._one("float32", v)

    def bits(self, v: Symbol) -> Symbol:
        return self._one("bits", v, kind="i")

    def value(self, b: Symbol) -> Symbol:
        if b.op == "band" and b.args[0].op == "bits":  # an and of float64 numbers
            return self._one("fand", b.args[0].args[0], b.attrs[0])
        return self._one("value", b)

    def band(self, b: Symbol, mask: int) -> Symbol:
        return self._one("band", b, mask, kind="i")

    def shl(self, b: Symbol, n: int) -> Symbol:
        return self._one("shl", b, n, kind="i")

    def shr(self, b: Symbol, n: int) -> Symbol:
        return self._one("shr", b, n, kind="i")

    def to_int(self, v: Symbol) -> Symbol:
        return self._one("to_int", v, kind="i")

    def to_float(self, b: Symbol) -> Symbol:
        return self._one("to_float", b)

    def rint(self, v: Symbol) -> Symbol:
        return self._one("rint", v)

    def trunc(self, v: Symbol) -> Symbol:
        return self._one("trunc", v)

    def abs(self, v: Symbol) -> Symbol:
        return self._one("abs", v)

    def sqrt(self, v: Symbol) -> Symbol:
        return self._one("sqrt", v)

    def isnan(self, v: Symbol) -> Symbol:
        return self._one("isnan", v, kind="b")

    def exp(self, v: Symbol) -> Symbol:
        return self._one("exp", v)

    def log1p(self, v: Symbol) -> Symbol:
        return self._one("log1p", v)

    def where(self, condition: Symbol, a: Any, b: Any) -> Symbol:
        kind = next((v.kind for v in (a, b) if isinstance(v, Node)), "f")
        a, b = (self.graph.lift(v, kind) for v in (a, b))
        return a if a is b else self.graph.node("where", (condition, a, b), kind=kind)

    def both(self, a: Symbol, b: Symbol) -> Symbol:
        return a if a is b else self.graph.node("and", (a, b), kind="b")

    def invert(self, a: Symbol) -> Symbol:
        return a.args[0] if a.op == "not" else self._one("not", a, kind="b")

    def larger(self, a: Symbol, b: Symbol) -> Symbol:
        return a if a is b else self.graph.node("larger", (a, b), kind="i")

    def amax(self, v: Symbol, axis: int) -> Symbol:
        return self._reduce("amax", v, axis)

    def isum(self, v: Symbol, axis: int) -> Symbol:
        return self._reduce("isum", v, axis)

    def isum_int(self, b: Symbol, axis: int) -> Symbol:
        return self._reduce("isum", b, axis)

    def _reduce(self, op: str, v: Symbol, axis: int) -> Symbol:
        if axis != self.graph.axis or not v.chan:
            raise Unsupported(f"{op} over axis {axis}")
        return self.graph.make(op, (v,), (), v.kind, v.pos, False)

    def cut(self, v: Symbol, axis: int, start: int | None, stop: int | None) -> Symbol:
        if axis < 2:
            raise Unsupported(f"a cut of axis {axis}")
        return self._one("cut", v, axis, start, stop, kind=v.kind)

    def concat(self, items: Sequence[Symbol], axis: int) -> Symbol:
        """Only a shift by one with zeros from the edge: of these, :mod:`dualloss.exact.stencil` makes its stencils."""
        if len(items) == 2 and axis >= 2:
            for edge, rest, place, kept, step in (
                (items[0], items[1], (0, 1), (0, -1), -1),
                (items[1], items[0], (-1, None), (1, None), 1),
            ):
                if (
                    edge.op == "zeros" and edge.attrs == (axis, *place) and rest.op == "cut"
                    and rest.attrs == (axis, *kept) and rest.args[0] is edge.args[0] and rest.kind == "f"
                ):  # fmt: skip
                    return self._one("shift", rest.args[0], axis - 2, step)
        raise Unsupported("a concat that is no shift with zeros")

    def zeros_like(self, v: Symbol) -> Symbol:
        if v.op == "cut":
            return self.graph.make("zeros", v.args, v.attrs, v.kind, v.pos, v.chan)
        return self._full(v, 0)

    def ones_like(self, v: Symbol) -> Symbol:
        return self._full(v, 1)

    def _full(self, v: Symbol, value: int) -> Symbol:
        return self.graph.make("const", (), (float(value) if v.kind == "f" else value,), v.kind, v.pos, v.chan)

    def iota(self, n: int, like: Symbol, axis: int) -> Symbol:
        if axis != self.graph.axis or n != self.graph.channels:
            raise Unsupported("iota")
        return self.graph.make("channel", (), (), "i", False, True)

    def constant(self, values: Sequence[float], like: Symbol, axis: int) -> Symbol:
        if axis != self.graph.axis:
            raise Unsupported("constants along an axis that is not the channels'")
        return self.graph.make("vector", (), (tuple(values),), "f", False, True)
