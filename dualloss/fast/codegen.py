"""A loss's program as LLVM IR.

A kernel goes over rows of positions. A vector holds LANES positions of one channel; what a position needs of all its
channels (softmax, sums) takes loops over the channels, one after the other, with the vectors between them in a scratch
that stays in the first-level cache. A stencil reads its neighbours from rings of rows: stage by stage, each a row
behind the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from .layout import ARGUMENTS, GEOMETRY, POINTERS, TILE
from .plan import HEAVY, PAD, Plan, Rings, Stage
from .polynomials import MAGIC, MAGIC_BITS
from .program import Row
from .sums import Sums
from .threads import add_run
from .trace import Node
from .vectors import F32, F64, I1, I8, I32, I64, LANES, VB, VF, VF32, VI, VI8, Vectors


def build(rows: Sequence[Row], gradient: Node | None, channels: int) -> tuple[ir.Module, Rings, int]:
    """The module with the functions ``run`` and ``call``, the rings that need memory, and the bytes needed besides.

    ``run(arrays, geometry, parameters, states)`` adds the exact sums of ``rows`` to ``states``, int64 (number, STATE),
    one for a row or for each of its channels, and writes the gradient. ``call(outputs, inputs)`` is the same for XLA:
    the inputs are the arrays in the order of POINTERS without the gradient, then geometry and parameters; the outputs
    the states, then the gradient.
    """
    module = ir.Module("dualloss")
    kernel = Kernel(module, rows, gradient, channels)
    kernel.write()
    add_run(module, kernel.function, gradient is not None, sum(row.states for row in rows))
    kernel.fixed_bytes.initializer = I64(kernel.fixed)
    return module, kernel.rings, kernel.fixed


class Kernel(Vectors):
    """The function ``kernel(arrays, geometry, parameters, first, last, states, work)`` of a module.

    It goes over the rows ``first`` to ``last`` of all samples' rows, adds the exact sums to ``states`` and writes the
    gradient; ``work`` is memory for its rings.
    """

    def __init__(self, module: ir.Module, rows: Sequence[Row], gradient: Node | None, channels: int) -> None:
        self.module, self.channels, self.gradient = module, channels, gradient
        self.plan = Plan(rows, gradient, channels)
        self.nodes, self.stages, self.rings = self.plan.nodes, self.plan.stages, self.plan.rings
        self.rows = self.plan.rows
        self.by_channel = [row.by_channel for row in rows]

    def write(self) -> None:
        """Write the function."""
        pointer = ir.PointerType(I8)
        kind = ir.FunctionType(
            ir.VoidType(),
            [pointer.as_pointer(), I64.as_pointer(), F64.as_pointer(), I64, I64, I64.as_pointer(), pointer],
        )
        self.function = ir.Function(self.module, kind, "kernel")
        self.given = dict(zip(ARGUMENTS, self.function.args, strict=True))
        b = self.b = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.entry = self.function.entry_basic_block
        self.work = self.given["work"]
        self.fixed_bytes = ir.GlobalVariable(self.module, I64, "fixed")  # known when all is written
        self.fixed_bytes.global_constant, self.fixed_bytes.linkage = True, "private"
        self.arrays = {name: b.load(b.gep(self.given["arrays"], [I64(i)])) for i, name in enumerate(POINTERS)}
        self.geometry = {name: b.load(b.gep(self.given["geometry"], [I64(i)])) for i, name in enumerate(GEOMETRY)}
        self.scalars: dict[int, Any] = {}
        self.constants: dict[Any, Any] = {}
        for node in self.nodes:
            if not node.pos and not node.chan:
                self.scalars[id(node)] = self.operation(node, [self.scalars[id(a)] for a in node.args])
        self.places = [Sums(self, self.channels if each else 1) for each in self.by_channel]
        self.x_tile = self.alloca(ir.ArrayType(ir.VectorType(F32, TILE), self.channels))
        self.t_tile = self.alloca(ir.ArrayType(ir.VectorType(F32, TILE), self.channels))
        self.g_tile = self.alloca(ir.ArrayType(ir.VectorType(F32, TILE), self.channels))
        self.lay_rings()
        self.all_rows()
        start = 0
        for place in self.places:
            place.write(self.given["states"], start)
            start += place.number
        b.ret_void()

    def lay_rings(self) -> None:
        """Where the rings begin, how long they are, and the numbers all of them share."""
        b, g = self.b, self.geometry
        staged = len(self.stages) > 1
        self.spatial = self.nodes[0].graph.rank - 2
        self.reach: Any = I64(0 if self.spatial == 1 or not staged else 1)
        if staged and self.spatial == 3:
            self.reach = g["plane"]
        self.padded = b.add(g["block"], I64(2 * PAD))
        self.ring_length, self.ring_start = [], []
        # What is a float32 number takes half of its place.
        self.narrow = [node.op == "leaf" and node.kind == "f" for node in self.plan.kept]
        self.ring_work = b.gep(self.work, [b.load(self.fixed_bytes)])
        work = b.bitcast(self.ring_work, F64.as_pointer())
        self.zeros = work  # a row of nothing, for what lies off the edge
        start: Any = b.mul(self.padded, I64(self.channels))
        for channels, later in self.rings.rings:
            length = b.add(b.mul(self.reach, I64(later + 1)), I64(1))
            self.ring_length.append(length)
            self.ring_start.append(b.gep(work, [start]))
            start = b.add(start, b.mul(b.mul(self.padded, I64(channels)), length))
        self.work_bytes = b.mul(start, I64(8))

    def all_rows(self) -> None:
        """The rows of this call, sample by sample and block by block of their columns."""
        b, g = self.b, self.geometry
        last_stage = len(self.stages) - 1
        delay = b.mul(self.reach, I64(last_stage))

        def some(first: Any) -> None:
            """From one row on, as far as the sample goes."""
            sample, start = b.sdiv(first, g["height"]), b.srem(first, g["height"])
            left = b.sub(self.given["last"], first)
            stop = self.smaller(b.add(start, left), g["height"])

            def block(column: Any) -> None:
                if last_stage:
                    fill = self.declared("llvm.memset.p0i8.i64", ir.VoidType(), [self.work.type, I8, I64, I1])
                    b.call(fill, [self.ring_work, I8(0), self.work_bytes, I1(0)])
                end = self.smaller(b.add(column, g["block"]), g["width"])

                def step(i: Any) -> None:
                    for here in self.stages:
                        halo = b.mul(self.reach, I64(last_stage - here.number))
                        r = b.sub(i, b.mul(self.reach, I64(here.number)))
                        low, high = b.sub(start, halo), b.add(stop, halo)
                        inside = b.and_(
                            b.icmp_signed(">=", r, self.larger(low, I64(0))),
                            b.icmp_signed("<", r, self.smaller(high, g["height"])),
                        )
                        with b.if_then(inside):
                            own = b.and_(b.icmp_signed(">=", r, start), b.icmp_signed("<", r, stop))
                            self.row(here, sample, r, column, end, own)

                self.loop(b.sub(start, delay), b.add(stop, delay), step)

            self.loop(I64(0), g["width"], block, g["block"])
            self.next_first = b.add(first, b.sub(stop, start))

        before = b.block
        head, inside, after = (b.append_basic_block(name) for name in ("samples", "sample", "end"))
        b.branch(head)
        b.position_at_end(head)
        first = b.phi(I64)
        first.add_incoming(self.given["first"], before)
        b.cbranch(b.icmp_signed("<", first, self.given["last"]), inside, after)
        b.position_at_end(inside)
        some(first)
        first.add_incoming(self.next_first, b.block)
        b.branch(head)
        b.position_at_end(after)

    def row(self, here: Stage, sample: Any, r: Any, column: Any, end: Any, own: Any) -> None:
        """A stage's part of one row: the columns of the block, and in all but the last stage some on either side."""
        b, g = self.b, self.geometry
        start = b.mul(r, g["width"])
        length = self.smaller(b.sub(g["positions"], start), g["width"])
        self.column = b.sub(column, I64(PAD))  # what stands first in a ring's row
        first, after = column, end
        if here is not self.stages[-1]:
            column, end = self.larger(b.sub(column, I64(PAD)), I64(0)), b.add(end, I64(PAD))
        self.row_number = r

        def tile(w: Any) -> None:
            number = self.smaller(b.sub(length, w), I64(TILE))
            # What lies beside the block is computed for its neighbours, and counted in a block of its own.
            counted = b.and_(b.icmp_signed(">=", w, first), b.icmp_signed("<", w, after))
            self.own = b.and_(own, counted)
            self.tile(here, sample, b.add(start, w), w, number)

        self.loop(column, self.smaller(end, length), tile, I64(TILE))
        for k in here.rows:
            self.places[k].flush()

    def tile(self, here: Stage, sample: Any, position: Any, w: Any, number: Any) -> None:
        """``number`` positions of a sample, from ``position`` on, which is column ``w`` of its row."""
        b, g = self.b, self.geometry
        self.number = number
        flat = b.add(b.mul(sample, g["positions"]), position)
        x = b.add(b.mul(sample, g["x_sample"]), b.mul(position, g["x_position"]))
        t = b.add(b.mul(sample, g["t_sample"]), b.mul(position, g["t_position"]))
        uses = {node.attrs[0] for node in here.nodes if node.op in ("leaf", "pick")}
        if "x" in uses:
            self.stage_in("x", self.x_tile, x, g["x_channel"], g["x_position"])
        if "target" in uses:
            self.stage_in("target", self.t_tile, t, g["t_channel"], g["t_position"])
        self.loop(I64(0), number, lambda start: self.vectors(here, flat, w, number, start), I64(LANES))
        if here.final is not None:
            self.stage_out(x)
        if self.channels >= 512:  # a row would add too many digits
            for k in here.rows:
                if self.rows[k].chan:
                    self.places[k].flush()

    def vectors(self, here: Stage, flat: Any, w: Any, number: Any, start: Any) -> None:
        """A vector of positions of a tile, from one on."""
        b = self.b
        self.start, self.w, flat = start, b.add(w, start), b.add(flat, start)
        lanes = ir.Constant(VI, list(range(LANES)))
        self.left = self.smaller(b.sub(number, start), I64(LANES))
        self.inside = b.icmp_signed("<", lanes, self.splat(self.left, VI))
        self.known: dict[int, Any] = dict(self.scalars)
        self.ring_rows: dict[Any, Any] = {}
        for node in here.nodes:
            if node.op == "leaf" and not node.chan:
                self.known[id(node)] = self.position_leaf(node, flat)
            elif node.op == "shift" or id(node) in here.read:
                self.find_row(node, here)
                if not node.chan:
                    self.known[id(node)] = self.from_ring(node, here, None)
        self.channel_loops(here)
        for node in here.kept:
            if not node.chan:
                self.to_ring(node, self.known[id(node)], I64(0))
        positional = [k for k in here.rows if not self.rows[k].chan]
        if positional:
            with b.if_then(self.own):
                for k in positional:
                    self.places[k].add(I64(0), self.known[id(self.rows[k])], self.inside)

    def lanes_of(self, tile: Any, c: Any) -> Any:
        """Where this vector's numbers of a channel are in a tile."""
        b = self.b
        flat = b.bitcast(tile, F32.as_pointer())
        return b.bitcast(b.gep(flat, [b.add(b.mul(c, I64(TILE)), self.start)]), VF32.as_pointer())

    # --- Rings ---

    def ring_row(self, k: int, r: Any) -> Any:
        """Where a row of a ring begins."""
        b = self.b
        size = b.mul(self.padded, I64(self.rings.rings[k][0]))
        if self.narrow[k]:
            size = b.sdiv(size, I64(2))  # padded is even
        return b.gep(self.ring_start[k], [b.mul(b.urem(r, self.ring_length[k]), size)])

    def find_row(self, node: Node, here: Stage) -> None:
        """The row that a shift, or a node of an earlier stage, is read from: its start, at this tile's column."""
        b, g, r = self.b, self.geometry, self.row_number
        across: Any = b.sub(self.w, self.column)
        source = node if id(node) in here.read else node.args[0]
        k = self.plan.ring_of[id(source)]
        if source is node:
            start = self.ring_row(k, r)
        else:
            axis, step = node.attrs
            if axis == self.spatial - 1:
                start, across = self.ring_row(k, r), b.add(across, I64(step))
            else:
                other = b.add(r, b.mul(g["plane"], I64(step)) if self.spatial - axis == 3 else I64(step))
                there, size = (
                    (b.srem(r, g["plane"]), g["plane"])
                    if self.spatial - axis == 2 and self.spatial == 3
                    else (r, g["height"])
                )
                if there is r:
                    valid = b.and_(b.icmp_signed(">=", other, I64(0)), b.icmp_signed("<", other, size))
                else:
                    moved = b.add(there, I64(step))
                    valid = b.and_(b.icmp_signed(">=", moved, I64(0)), b.icmp_signed("<", moved, size))
                start = b.select(valid, self.ring_row(k, b.select(valid, other, r)), self.zeros)
        if self.narrow[k]:
            start = b.bitcast(start, F32.as_pointer())
        self.ring_rows[id(node)] = b.gep(start, [across])

    def from_ring(self, node: Node, here: Stage, c: Any) -> Any:
        """A vector of a row."""
        b = self.b
        at = self.ring_rows[id(node)]
        if c is not None:
            at = b.gep(at, [b.mul(c, self.padded)])
        if at.type.pointee == F32:
            return b.fpext(b.load(b.bitcast(at, VF32.as_pointer()), align=4), VF)
        value = b.load(b.bitcast(at, VF.as_pointer()), align=8)
        if node.kind == "i":
            return b.bitcast(value, VI)
        return b.icmp_signed("!=", b.bitcast(value, VI), self.i(0)) if node.kind == "b" else value

    def to_ring(self, node: Node, value: Any, c: Any) -> None:
        """Keep a vector, 0 beyond the row's end."""
        b, k = self.b, self.plan.ring_of[id(node)]
        at = self.ring_row(k, self.row_number)
        index = b.add(b.sub(self.w, self.column), b.mul(c, self.padded))
        if self.narrow[k]:
            value = b.fptrunc(b.select(self.inside, value, self.f(0.0)), VF32)
            at = b.gep(b.bitcast(at, F32.as_pointer()), [index])
            b.store(value, b.bitcast(at, VF32.as_pointer()), align=4)
            return
        if node.kind == "b":
            value = b.sext(value, VI)
        value = b.select(self.inside, b.bitcast(value, VI), self.i(0))
        b.store(value, b.bitcast(b.gep(at, [index]), VI.as_pointer()), align=8)

    def stage_in(self, name: str, tile: Any, base: Any, channel: Any, position: Any) -> None:
        """Bring float32 values of a tile to the scratch (channels, TILE)."""
        b = self.b
        source = b.bitcast(self.arrays[name], F32.as_pointer())
        whole_tile = ir.VectorType(F32, TILE).as_pointer()
        whole = b.and_(b.icmp_signed("==", position, I64(1)), b.icmp_signed("==", self.number, I64(TILE)))
        with b.if_else(whole) as (then, otherwise):
            with then:

                def one(c: Any) -> None:
                    at = b.gep(source, [b.add(base, b.mul(c, channel))])
                    b.store(self.read(b.load(b.bitcast(at, whole_tile), align=4)), b.gep(tile, [I32(0), c]))

                self.loop(I64(0), I64(self.channels), one)
            with otherwise:
                flat = b.bitcast(tile, F32.as_pointer())

                def lane(i: Any) -> None:
                    start = b.add(base, b.mul(i, position))

                    def each(c: Any) -> None:
                        value = self.read(b.load(b.gep(source, [b.add(start, b.mul(c, channel))])))
                        b.store(value, b.gep(flat, [b.add(b.mul(c, I64(TILE)), i)]))

                    self.loop(I64(0), I64(self.channels), each)

                self.loop(I64(0), self.number, lane)

    def stage_out(self, base: Any) -> None:
        """Bring the gradient from its scratch to its array."""
        b, tile = self.b, self.g_tile
        channel, position = self.geometry["x_channel"], self.geometry["x_position"]
        target = b.bitcast(self.arrays["gradient"], F32.as_pointer())
        whole_tile = ir.VectorType(F32, TILE).as_pointer()
        whole = b.and_(b.icmp_signed("==", position, I64(1)), b.icmp_signed("==", self.number, I64(TILE)))
        with b.if_else(whole) as (then, otherwise):
            with then:

                def one(c: Any) -> None:
                    at = b.gep(target, [b.add(base, b.mul(c, channel))])
                    b.store(b.load(b.gep(tile, [I32(0), c])), b.bitcast(at, whole_tile), align=4)

                self.loop(I64(0), I64(self.channels), one)
            with otherwise:
                flat = b.bitcast(tile, F32.as_pointer())

                def lane(i: Any) -> None:
                    start = b.add(base, b.mul(i, position))

                    def each(c: Any) -> None:
                        value = b.load(b.gep(flat, [b.add(b.mul(c, I64(TILE)), i)]))
                        b.store(value, b.gep(target, [b.add(start, b.mul(c, channel))]))

                    self.loop(I64(0), I64(self.channels), each)

                self.loop(I64(0), self.number, lane)

    def position_leaf(self, node: Node, flat: Any) -> Any:
        """One number for each position, from a contiguous array."""
        b = self.b
        (name,) = node.attrs
        scalar, vector = {"label": (I64, VI), "mask": (I8, VI8), "weight": (F32, VF32)}[name]
        source = b.gep(b.bitcast(self.arrays[name], scalar.as_pointer()), [flat])
        whole = b.icmp_signed("==", self.left, I64(LANES))
        place = self.alloca(vector)
        with b.if_else(whole) as (then, otherwise):
            with then:
                b.store(b.load(b.bitcast(source, vector.as_pointer()), align=1), place)
            with otherwise:
                b.store(ir.Constant(vector, [0] * LANES), place)
                lanes = b.bitcast(place, scalar.as_pointer())
                self.loop(I64(0), self.left, lambda i: b.store(b.load(b.gep(source, [i])), b.gep(lanes, [i])))
        value = b.load(place)
        if name == "mask":
            return b.icmp_unsigned("!=", value, ir.Constant(VI8, [0] * LANES))
        return b.fpext(self.read(value), VF) if name == "weight" else value

    def read(self, v: Any) -> Any:
        """Float32 numbers as the numerics read them: what is below the normal ones, and -0, is +0."""
        b, kind = self.b, v.type
        scalar = isinstance(kind, ir.FloatType)
        limit, zero = (ir.Constant(F32, n) for n in (2.0**-126, 0.0))
        if not scalar:
            limit, zero = (ir.Constant(kind, [n] * kind.count) for n in (limit, zero))
        name = "llvm.fabs.f32" if scalar else f"llvm.fabs.v{kind.count}f32"
        return b.select(b.fcmp_ordered("<", self.call(name, [v], kind), limit), zero, v)

    def channel_loops(self, here: Stage) -> None:
        """The loops over the channels, and what is computed for a position between them."""
        b = self.b
        level = self.plan.levels(here)
        reductions = [n for n in here.nodes if n.op in ("amax", "isum") and id(n) not in here.read]
        summed = [self.rows[k] for k in here.rows]
        ends_of = [n for n in (*summed, *here.kept, *([] if here.final is None else [here.final])) if n.chan]
        last = max([level[id(n)] - 1 for n in reductions] + [level[id(n)] for n in ends_of], default=-1)
        stored: dict[int, Any] = {}
        computed: dict[int, int] = {}
        plan: list[tuple[list[Node], list[Node], list[Node]]] = []
        for loop in range(last + 1):
            ends = [n for n in reductions if level[id(n)] == loop + 1]
            outputs = [n for n in ends_of if level[id(n)] == loop]
            needs: list[Node] = []
            seen: set[int] = set()
            stack = [n.args[0] for n in ends] + outputs
            while stack:
                node = stack.pop()
                if id(node) in seen:
                    continue
                seen.add(id(node))
                if not node.chan:
                    needs.append(node)
                    continue
                if node.op == "shift" or id(node) in here.read:
                    continue
                if node.kind != "b" and computed.get(id(node), loop) < loop:
                    stored[id(node)] = None
                    continue
                if node.pos and node.kind != "b" and self.plan.cost(node) > HEAVY:
                    computed[id(node)] = loop
                stack.extend(node.args)
            plan.append((ends, needs, outputs))
        for i in stored:
            stored[i] = self.alloca(ir.ArrayType(VF, self.channels))
        for loop, (ends, needs, outputs) in enumerate(plan):
            for node in needs:
                self.position(node)
            if not ends and not outputs:
                continue
            starts = [self.start_of(n) for n in ends]
            before = b.block
            head, body, after = (b.append_basic_block(name) for name in ("channels", "channel", "done"))
            b.branch(head)
            b.position_at_end(head)
            c = b.phi(I64)
            c.add_incoming(I64(0), before)
            phis = [b.phi(start.type) for start in starts]
            for phi, start in zip(phis, starts, strict=True):
                phi.add_incoming(start, before)
            b.cbranch(b.icmp_signed("<", c, I64(self.channels)), body, after)
            b.position_at_end(body)
            found = dict(self.known)
            for root in [n.args[0] for n in ends] + outputs:
                self.in_loop(root, c, found, here, loop, computed, stored)
            for node in (n for n in here.nodes if id(n) in stored and computed[id(n)] == loop):
                value = found[id(node)]
                b.store(b.bitcast(value, VF) if node.kind == "i" else value, b.gep(stored[id(node)], [I32(0), c]))
            reduced = [self.reduce(n, phi, found[id(n.args[0])]) for n, phi in zip(ends, phis, strict=True)]
            for k in here.rows:
                if any(self.rows[k] is n for n in outputs):
                    with b.if_then(self.own):
                        place = self.places[k]
                        place.add(c if place.number > 1 else I64(0), found[id(self.rows[k])], self.inside)
            for n in outputs:
                if n is here.final:
                    b.store(self.rounded(found[id(n)]), self.lanes_of(self.g_tile, c))
                if any(n is k for k in here.kept):
                    self.to_ring(n, found[id(n)], c)
            for phi, value in zip(phis, reduced, strict=True):
                phi.add_incoming(value, b.block)
            c.add_incoming(b.add(c, I64(1)), b.block)
            b.branch(head)
            b.position_at_end(after)
            for n, phi in zip(ends, phis, strict=True):
                self.known[id(n)] = phi
        for k in here.rows:
            if not self.rows[k].chan:
                self.position(self.rows[k])
        for node in here.kept:
            if not node.chan:
                self.position(node)

    def position(self, root: Node) -> None:
        """Compute what is one number per position."""
        stack = [root]
        while stack:
            node = stack[-1]
            missing = [] if id(node) in self.known else [a for a in node.args if id(a) not in self.known]
            if missing:
                stack.extend(missing)
                continue
            stack.pop()
            if id(node) not in self.known:
                self.known[id(node)] = self.operation(node, [self.known[id(a)] for a in node.args])

    def in_loop(
        self,
        root: Node,
        c: Any,
        found: dict[int, Any],
        here: Stage,
        loop: int,
        computed: dict[int, int],
        stored: dict[int, Any],
    ) -> None:
        """Compute what differs between channels, for channel ``c``."""
        stack = [root]
        while stack:
            node = stack[-1]
            if id(node) in found:
                stack.pop()
                continue
            if node.op == "shift" or id(node) in here.read:
                found[id(node)] = self.from_ring(node, here, c)
                continue
            if id(node) in stored and computed[id(node)] < loop:
                value = self.b.load(self.b.gep(stored[id(node)], [I32(0), c]))
                found[id(node)] = self.b.bitcast(value, VI) if node.kind == "i" else value
                continue
            missing = [a for a in node.args if id(a) not in found]
            if missing:
                stack.extend(missing)
                continue
            found[id(node)] = self.operation(node, [found[id(a)] for a in node.args], c)
            stack.pop()

    def start_of(self, node: Node) -> Any:
        """What a reduction starts from."""
        if node.op == "isum":
            return ir.Constant(VF, [0.0] * LANES) if node.kind == "f" else ir.Constant(VI, [0] * LANES)
        if node.kind == "f":
            return ir.Constant(VF, [float("-inf")] * LANES)
        return ir.Constant(VI, [-(1 << 63)] * LANES)

    def reduce(self, node: Node, total: Any, value: Any) -> Any:
        """One step of a reduction."""
        b = self.b
        if node.op == "isum":
            return b.fadd(total, value) if node.kind == "f" else b.add(total, value)
        larger = b.fcmp_ordered(">", value, total) if node.kind == "f" else b.icmp_signed(">", value, total)
        return b.select(larger, value, total)

    def operation(self, node: Node, a: list[Any], c: Any = None) -> Any:
        """The code of one node."""
        b, op = self.b, node.op
        if op == "const":
            value = node.attrs[0]
            if node.kind == "b":
                return ir.Constant(VB, [value] * LANES)
            return self.f(value) if node.kind == "f" else self.i(value)
        if op == "pick":
            return self.pick(node, a[0])
        if op == "param":
            at = b.gep(self.given["parameters"], [I64(node.attrs[0])])
            if node.chan:
                at = b.gep(at, [c])
            return self.splat(b.load(at), VF)
        if op == "leaf":  # what differs between channels: the others are loaded beforehand
            tile = self.x_tile if node.attrs[0] == "x" else self.t_tile
            return b.fpext(b.load(self.lanes_of(tile, c)), VF)
        if op == "channel":
            return self.splat(c, VI)
        if op == "vector":
            return self.splat(b.load(b.gep(self.vector(node.attrs[0]), [I32(0), c])), VF)
        if op in ("add", "sub", "mul", "div"):
            if node.kind == "f":
                return {"add": b.fadd, "sub": b.fsub, "mul": b.fmul, "div": b.fdiv}[op](*a)
            return {"add": b.add, "sub": b.sub, "mul": b.mul}[op](*a)
        if op in ("lt", "gt", "le", "ge", "eq"):
            sign = {"lt": "<", "gt": ">", "le": "<=", "ge": ">=", "eq": "=="}[op]
            if node.args[0].kind == "f":
                return b.fcmp_ordered(sign, *a)
            return b.icmp_signed(sign, *a)
        if op == "where":
            return b.select(*a)
        if op == "and":
            return b.and_(*a)
        if op == "not":
            return b.not_(a[0])
        if op == "bits":
            return b.bitcast(a[0], VI)
        if op == "value":
            return b.bitcast(a[0], VF)
        if op == "fand":
            return b.bitcast(b.and_(b.bitcast(a[0], VI), self.i(node.attrs[0])), VF)
        if op == "band":
            return b.and_(a[0], self.i(node.attrs[0]))
        if op == "shl":
            return b.shl(a[0], self.i(node.attrs[0]))
        if op == "shr":
            return b.ashr(a[0], self.i(node.attrs[0]))
        if op == "larger":
            return b.select(b.icmp_signed(">", *a), *a)
        if op == "to_int":
            return b.sub(b.bitcast(b.fadd(a[0], self.f(MAGIC)), VI), self.i(MAGIC_BITS))
        if op == "to_float":  # of exponents and the like, below 2^51 in magnitude
            return b.fsub(b.bitcast(b.add(a[0], self.i(MAGIC_BITS)), VF), self.f(MAGIC))
        if op in ("rint", "trunc", "abs", "sqrt"):
            name = "fabs" if op == "abs" else op
            return self.call(f"llvm.{name}.v{LANES}f64", a)
        if op == "isnan":
            return b.fcmp_unordered("uno", a[0], a[0])
        if op == "float32":
            return b.fpext(b.fptrunc(self.flushed(a[0]), VF32), VF)
        if op == "exp":
            return self.exp(a[0])
        if op == "log1p":
            return self.log1p(a[0])
        raise NotImplementedError(op)

    def pick(self, node: Node, label: Any) -> Any:
        """What stands at each position's label: of the input, of constants or of parameters.

        Labels beyond the channels: any value.
        """
        b = self.b
        (source,) = node.attrs
        last = self.i(self.channels - 1)
        label = b.select(b.icmp_unsigned("<", label, last), label, last)
        kind, index = VF, label
        if source == "x":
            lanes = ir.Constant(VI, list(range(LANES)))
            kind, index = VF32, b.add(b.mul(label, self.i(TILE)), lanes)
            table = b.gep(b.bitcast(self.x_tile, F32.as_pointer()), [self.start])
        elif isinstance(source, int):
            table = b.gep(self.given["parameters"], [I64(source)])
        else:
            table = b.bitcast(self.vector(source), F64.as_pointer())
        result = ir.Constant(kind, ir.Undefined)
        for lane in range(LANES):
            value = b.load(b.gep(table, [b.extract_element(index, I32(lane))]))
            result = b.insert_element(result, value, I32(lane))
        return b.fpext(result, VF) if source == "x" else result

    def vector(self, values: tuple[float, ...]) -> Any:
        """A table of constants."""
        if values not in self.constants:
            kind = ir.ArrayType(F64, len(values))
            table = ir.GlobalVariable(self.module, kind, f"table{len(self.constants)}")
            table.initializer = ir.Constant(kind, [ir.Constant(F64, v) for v in values])
            table.global_constant = True
            table.linkage = "private"
            self.constants[values] = table
        return self.constants[values]
