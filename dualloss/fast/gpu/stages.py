"""What one launch computes: what a neighbour can recompute, and what it has to read from memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..program import Row
from ..trace import Node, ordered

Offset = tuple[int, ...]
MOST = 700
"""Nodes, counted at each neighbour where they are needed, above which a launch reads more from memory."""
_HEAVY = frozenset(("amax", "isum", "exp", "log1p"))


@dataclass(eq=False)
class Stage:
    """One launch.

    Attributes:
        rows: indices of the rows to sum.
        keep: nodes to write to memory, for later launches.
        final: the gradient, in the last launch.
        read: the ids of nodes that earlier launches have written.
    """

    rows: list[int] = field(default_factory=list)
    keep: list[Node] = field(default_factory=list)
    final: Node | None = None
    read: set[int] = field(default_factory=set)


class Stages:
    """The launches of a kernel.

    Attributes:
        launches: in their order.
        place: where each kept node begins, by its id, in numbers per position.
        size: how many numbers are kept for each position.
    """

    def __init__(self, rows: Sequence[Row], gradient: Node | None, channels: int) -> None:
        nodes = ordered([*(row.node for row in rows), *([] if gradient is None else [gradient])])
        sources = {id(n.args[0]): n.args[0] for n in nodes if n.op == "shift"}
        heavy = {id(n): n for n in sources.values() if any(v.op in _HEAVY for v in ordered([n]))}
        nested = {id(n): n for n in sources.values() if any(v.op == "shift" for v in ordered([n]))}
        kept = {**heavy, **nested}
        self._divide(rows, gradient, nodes, kept)
        if max(self._count(rows, launch) for launch in self.launches) > MOST:
            kept = {i: n for i, n in sources.items() if n.op not in ("leaf", "const")}
            self._divide(rows, gradient, nodes, kept)
        self.place: dict[int, int] = {}
        self.size = 0
        for node in kept.values():
            self.place[id(node)] = self.size
            self.size += channels if node.chan else 1

    def _divide(self, rows: Sequence[Row], gradient: Node | None, nodes: Sequence[Node], kept: dict[int, Node]) -> None:
        stage: dict[int, int] = {}
        for node in nodes:
            read = node.op == "shift" and id(node.args[0]) in kept
            stage[id(node)] = max((stage[id(a)] for a in node.args), default=0) + read
        number = max(stage.values(), default=0) + 1
        self.launches = [Stage() for _ in range(number)]
        for node in kept.values():
            self.launches[stage[id(node)]].keep.append(node)
        self.launches[-1].final = gradient
        for k, launch in enumerate(self.launches):
            launch.read = {i for i in kept if stage[i] < k}
        for k, row in enumerate(rows):
            first = stage[id(row.node)]
            shared = [self._shared(launch, row.node) for launch in self.launches[first:]]
            self.launches[first + max(range(len(shared)), key=lambda n: (shared[n], n))].rows.append(k)

    @staticmethod
    def _shared(launch: Stage, node: Node) -> int:
        """How much of what a row needs for each channel a launch computes anyway."""
        roots = launch.keep + ([] if launch.final is None else [launch.final])
        computed = {(id(n), offset) for n, offset in instances(roots, launch.read) if n.chan}
        return sum((id(n), offset) in computed for n, offset in instances([node], launch.read))

    @staticmethod
    def _count(rows: Sequence[Row], launch: Stage) -> int:
        roots = [rows[k].node for k in launch.rows] + launch.keep + ([] if launch.final is None else [launch.final])
        return len(instances(roots, launch.read))


def at(node: Node, offset: Offset) -> tuple[Node, Offset]:
    """A node at a neighbour; what is the same everywhere, at the position itself."""
    return node, offset if node.pos and node.op != "const" else (0,) * len(offset)


def below(node: Node, offset: Offset, read: set[int]) -> list[tuple[Node, Offset]]:
    """What a node at a neighbour is computed from, and where that stands."""
    if id(node) in read:
        return []
    if node.op == "shift":
        axis, step = node.attrs
        moved = tuple(o + step * (a == axis) for a, o in enumerate(offset))
        return [at(node.args[0], moved)]
    return [at(a, offset) for a in node.args]


def instances(roots: Sequence[Node], read: set[int]) -> list[tuple[Node, Offset]]:
    """All nodes below the roots at the neighbours where they are needed, arguments first."""
    if not roots:
        return []
    here = (0,) * (roots[0].graph.rank - 2)
    seen: set[tuple[int, Offset]] = set()
    result = []
    stack = [(*at(root, here), False) for root in reversed(roots)]
    while stack:
        node, offset, done = stack.pop()
        key = id(node), offset
        if done:
            result.append((node, offset))
        elif key not in seen:
            seen.add(key)
            stack.append((node, offset, True))
            stack.extend((*item, False) for item in reversed(below(node, offset, read)))
    return result
