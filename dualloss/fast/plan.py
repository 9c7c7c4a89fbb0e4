"""In which order a kernel computes: stages for stencils, and for each node whether to keep or to repeat it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .layout import TILE
from .program import Row
from .trace import Node, ordered

HEAVY = 6
"""What costs more than so many additions is kept between loops, and not computed again."""
PAD = TILE
"""Columns on both sides of a row in a ring."""
_COST = {"pick": 1, "div": 8, "sqrt": 10, "exp": 30, "log1p": 40, "const": 0, "channel": 0, "param": 0}


@dataclass(frozen=True)
class Rings:
    """How much memory the rows between the stages take.

    Attributes:
        stages: the number of stages.
        rings: for each the number of its channels and how many stages later it is last read.
    """

    stages: int
    rings: tuple[tuple[int, int], ...]

    def bytes(self, block: int, reach: int, channels: int) -> int:
        """For blocks of ``block`` columns."""
        if self.stages == 1:
            return 0
        padded = block + 2 * PAD
        return 8 * padded * (channels + sum(c * ((later + 1) * reach + 1) for c, later in self.rings))


@dataclass(eq=False)
class Stage:
    """Nodes that are computed for the same row at the same time.

    Attributes:
        number: its place; stage n works n times the reach of a shift behind the first.
        rows: indices of the rows to sum here.
        kept: nodes that later stages read.
        final: the gradient, in the last stage.
        read: nodes of earlier stages that this one reads from their rings.
        nodes: what is computed here, arguments first.
    """

    number: int
    rows: list[int] = field(default_factory=list)
    kept: list[Node] = field(default_factory=list)
    final: Node | None = None
    read: set[int] = field(default_factory=set)
    nodes: list[Node] = field(default_factory=list)


class Plan:
    """The stages of a kernel.

    Attributes:
        rows: the nodes to sum.
        gradient: the gradient, or None.
        channels: the number of channels.
        nodes: all there are, arguments first.
        stages: what is computed together.
        kept: what later stages read.
        ring_of: the number of the ring of each node that later stages read, by its id.
        rings: their sizes.
    """

    def __init__(self, rows: Sequence[Row], gradient: Node | None, channels: int) -> None:
        self.rows, self.gradient, self.channels = [row.node for row in rows], gradient, channels
        self.roots = [*self.rows, *([] if gradient is None else [gradient])]
        self.nodes = ordered(self.roots)
        self._plan()

    def _plan(self) -> None:
        """Who is computed where, and who is kept for whom."""
        stage: dict[int, int] = {}
        local: dict[int, bool] = {}  # whether it needs nothing but its own position, so that any stage can compute it
        for node in self.nodes:
            stage[id(node)] = max((stage[id(a)] for a in node.args), default=0) + (node.op == "shift")
            local[id(node)] = node.op != "shift" and all(local[id(a)] for a in node.args)
        shifted = {id(node) for node in ordered([node.args[0] for node in self.nodes if node.op == "shift"])}
        number = max(stage[id(root)] for root in self.roots) + 1
        self.stages = [Stage(n) for n in range(number)]
        self.ring_of: dict[int, int] = {}
        last_read: list[int] = []
        kept: list[Node] = []

        def keep(node: Node, reader: int) -> None:
            if id(node) not in self.ring_of:
                self.ring_of[id(node)] = len(kept)
                kept.append(node)
                last_read.append(0)
            k = self.ring_of[id(node)]
            last_read[k] = max(last_read[k], reader - stage[id(node)])

        for k, row in enumerate(self.rows):
            self.stages[-1 if local[id(row)] else stage[id(row)]].rows.append(k)
        if self.gradient is not None:
            self.stages[-1].final = self.gradient
        for here in reversed(self.stages):
            roots = [self.rows[k] for k in here.rows] + [n for n in kept if stage[id(n)] == here.number]
            here.kept = roots[len(here.rows) :]
            roots += [] if here.final is None else [here.final]
            needed: set[int] = set()
            stack = list(roots)
            while stack:
                node = stack.pop()
                if id(node) in needed or not (node.pos or node.chan):
                    continue
                needed.add(id(node))
                if node.op == "shift":
                    keep(node.args[0], here.number)
                elif stage[id(node)] < here.number and (
                    not local[id(node)] or (id(node) in shifted and self.cost(node, whole=True) > HEAVY)
                ):
                    here.read.add(id(node))
                    keep(node, here.number)
                else:
                    stack.extend(node.args)
            here.nodes = [n for n in self.nodes if id(n) in needed]
        self.kept = kept
        self.rings = Rings(
            number, tuple((self.channels if n.chan else 1, k) for n, k in zip(kept, last_read, strict=True))
        )

    def levels(self, here: Stage) -> dict[int, int]:
        """The first channel loop that can compute a node; for one per position, that before which it is known."""
        level: dict[int, int] = {}
        for node in here.nodes:
            args = () if node.op == "shift" or id(node) in here.read else node.args
            at = max((level.get(id(a), 0) for a in args), default=0)
            level[id(node)] = at + 1 if args and node.op in ("amax", "isum") else at
        return level

    @staticmethod
    def cost(node: Node, whole: bool = False) -> int:
        """What computing a node again costs, roughly in additions: in a channel loop, or with the loops before it."""
        total, seen, stack = 0, set(), [node]
        while stack:
            v = stack.pop()
            if id(v) in seen or not v.pos:
                continue
            seen.add(id(v))
            total += _COST.get(v.op, 1)
            if total > 10 * HEAVY:
                break
            stack.extend(v.args if v.chan or whole else ())
        return total
