"""A launch as Triton source.

A program of the grid takes BLOCK positions, a thread one of them. What a position needs of all its channels takes loops
over the channels, one after the other; for few channels they are written out, so that what is heavy stays in registers
between them. A tensor holds the positions of a few channels, all in the thread that has the position. Values of
neighbours are computed again, at their offset, or read.
"""

from __future__ import annotations

import math
import struct
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...exact import functions
from ...exact.sums import LIMBS, STATE, UNIT
from ..plan import HEAVY, Plan
from ..polynomials import ATANH, EXP, MAGIC, MAGIC_BITS, ROOT
from ..program import Row
from ..trace import Node
from .stages import Offset, Stage, at, below, instances

WRITTEN_OUT = 32
"""Channels up to which loops are written out."""
LONGEST = 1500
"""Operations on tensors above which they are not: compiling would take minutes."""
KEPT = 48
"""Numbers of a thread that stay in registers from loop to loop, two registers each."""
CHUNK = 4
"""Channels, at most, of a tensor."""
ARGUMENTS = (
    "x", "label", "target", "mask", "weight", "gradient", "parameters", "tables", "states", "kept", "flag",
    "total", "positions", "s0", "s1", "s2",
    "x_sample", "x_channel", "x_position", "t_sample", "t_channel", "t_position",
)  # fmt: skip
"""What a launch is called with: pointers, numbers of positions, of all and of a sample, sizes and strides."""
_BINARY = {"add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "gt": ">", "le": "<=", "ge": ">=", "eq": "=="}
_BINARY["and"] = "&"
_REDUCTIONS = frozenset(("amax", "isum"))
_COMPARED = frozenset(("lt", "gt", "le", "ge", "eq"))
Key = tuple[int, Offset]
"""A node, by its id, at a neighbour."""


def constant(value: float) -> str:
    """A float64 number: Triton takes a bare one for a float32 where it meets no float64."""
    if math.isfinite(value):
        return f"tl.full((), {value!r}, tl.float64)"
    return f"tl.full((), {_bits(value)}, tl.int64).to(tl.float64, bitcast=True)"


def _bits(value: float) -> int:
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


def _horner(coefficients: Sequence[float], x: str) -> str:
    first, *rest = coefficients
    return "\n    ".join([f"p = {constant(first)}", *(f"p = tl.fma(p, {x}, {constant(c)})" for c in rest)])


def helpers() -> str:
    """The functions that launches call: exp, log1p, reading, rounding, exact sums."""
    return f"""import triton
import triton.language as tl


@triton.jit
def exp(v):
    shifted = tl.fma(v, {constant(1.0 / math.log(2.0))}, {constant(MAGIC)})
    m = shifted - {MAGIC!r}
    r = tl.fma(m, {constant(-functions.LN2_HIGH)}, v)
    r = tl.fma(m, {constant(-functions.LN2_LOW)}, r)
    {_horner(EXP, "r")}
    scale = shifted.to(tl.int64, bitcast=True) << 52
    return (p.to(tl.int64, bitcast=True) + scale).to(tl.float64, bitcast=True)


@triton.jit
def log1p(v):
    u = (v + 1.0).to(tl.int64, bitcast=True)
    e = (u - {ROOT}) >> 52
    m = (u - (e << 52)).to(tl.float64, bitcast=True)
    f = tl.where(e == 0, v, m - 1.0)
    s = f / (f + 2.0)
    z = s * s
    {_horner(ATANH, "z")}
    near = tl.fma(s, z * p, s * 2.0)
    whole = (e + {MAGIC_BITS}).to(tl.float64, bitcast=True) - {MAGIC!r}
    return tl.where(v != v, v, tl.fma(whole, {constant(math.log(2.0))}, near))


@triton.jit
def read(v):
    v = v.to(tl.float32)
    return tl.where(tl.abs(v) < {functions.TINY!r}, 0.0, v)


@triton.jit
def label_of(v):
    # What int32 cannot hold is no class, nor what the loss compares labels with.
    v = v.to(tl.int64)
    return tl.where((v >= -2147483648) & (v < 2147483648), v, -2147483648).to(tl.int32)


@triton.jit
def narrow(v):
    # What is below the normal numbers as 0, by the exponent: integers are cheaper here than float64.
    high = (v.to(tl.int64, bitcast=True) >> 32).to(tl.int32) & 0x7FFFFFFF
    return tl.where(high < {_bits(functions.TINY) >> 32}, 0.0, v.to(tl.float32))


@triton.jit
def rounded(v):
    v = narrow(v)
    return tl.where(v != v, 0x7FC00000, v.to(tl.int32, bitcast=True)).to(tl.float32, bitcast=True)


@triton.jit
def whole_part(v):
    small = tl.abs(v) < {2.0**52!r}
    return tl.where(small, tl.where(small, v, 0.0).to(tl.int64).to(tl.float64), v)


@triton.jit
def rounded_sum(l0, l1, l2, l3, l4, l5, l6, l7, l8, plus, minus, nan):
    limbs = (l0, l1, l2, l3, l4, l5, l6, l7, l8)
    nothing = l0 * 0
    carry = nothing
    for k in tl.static_range({LIMBS}):  # what is carried out of the highest limb has the sign of the sum
        carry = (limbs[k] + carry) >> 32
    negative = carry < 0
    carry = nothing
    high, middle, low, sticky, place = nothing, nothing, nothing, nothing, nothing
    before, second, rest = nothing, nothing, nothing  # the digit below, the one below that, and if there are others
    for k in tl.static_range({LIMBS + 1}):
        if k < {LIMBS}:
            carry = tl.where(negative, 0 - limbs[k], limbs[k]) + carry
            digit = carry & {2**32 - 1}
            carry = carry >> 32
        else:
            digit = carry
        some = digit > 0
        high, middle, low = tl.where(some, digit, high), tl.where(some, before, middle), tl.where(some, second, low)
        sticky, place = tl.where(some, rest, sticky), tl.where(some, k, place)
        rest = tl.where(second > 0, 1, rest)
        second, before = before, digit
    head = ((high << 21) + (middle >> 11)).to(tl.float64)
    tail = ((middle & 2047) << 32) + low
    tail = (tail + tl.where((tail & 1) > 0, 0, sticky)).to(tl.float64)
    scale = ((place * 32 + {1023 - 64 - UNIT}) << 52).to(tl.float64, bitcast=True)
    v = (head * {2.0**43!r} + tail) * scale
    v = tl.where(negative, 0.0 - v, v)
    v = tl.where(plus > 0, float("inf"), tl.where(minus > 0, float("-inf"), v))
    return tl.where((nan > 0) | ((plus > 0) & (minus > 0)), float("nan"), v)


@triton.jit
def add_row(at, v, BY_CHANNEL: tl.constexpr):
    total = tl.sum(v, 1, keep_dims=True)
    if BY_CHANNEL:
        tl.atomic_add(at, total, sem="relaxed")
    else:
        tl.atomic_add(at, tl.sum(tl.sum(total, 1), 0), sem="relaxed")


@triton.jit
def add_sum(states, v, inside, BY_CHANNEL: tl.constexpr):
    v = tl.where(inside, v, 0.0)
    finite = tl.abs(v) < {2.0**128!r}
    rest = tl.where(finite, v, 0.0)
    exponent = ((rest.to(tl.int64, bitcast=True) >> 52) & 2047).to(tl.int32)
    largest = tl.max(tl.max(exponent, 1), 0)
    smallest = tl.min(tl.min(tl.where(exponent > 0, exponent, 2047), 1), 0)
    # A limb above all values has no digits, nor has one below the last bit of the smallest.
    first = tl.maximum((smallest + {2048 - (1023 + 32 + 52 - UNIT)}) // 32 - 63, 0)
    last = (largest + {2048 - (1023 - UNIT)}) // 32 - 64
    for limb in range(first, last + 1):
        unit = ({1023 + UNIT} - 32 * (tl.full((), 0, tl.int64) + limb)) << 52
        units = rest * unit.to(tl.float64, bitcast=True)
        digit = whole_part(units) - whole_part(units * {2.0**-32!r}) * {2.0**32!r}
        add_row(states + limb, digit.to(tl.int64), BY_CHANNEL)
    if tl.min(tl.min(finite.to(tl.int32), 1), 0) == 0:
        add_row(states + {LIMBS}, (v >= {2.0**128!r}).to(tl.int64), BY_CHANNEL)
        add_row(states + {LIMBS + 1}, (v <= {-(2.0**128)!r}).to(tl.int64), BY_CHANNEL)
        add_row(states + {LIMBS + 2}, (v != v).to(tl.int64), BY_CHANNEL)
"""


def expression(node: Node, a: Sequence[str]) -> str:
    """The code of an operation that acts on every element."""
    op = node.op
    if op in _BINARY:
        return f"{a[0]} {_BINARY[op]} {a[1]}"
    if op == "where":
        return f"tl.where({', '.join(a)})"
    if op == "not":
        return f"{a[0]} == 0"
    if op == "bits":
        return f"{a[0]}.to(tl.int64, bitcast=True)"
    if op == "value":
        return f"{a[0]}.to(tl.float64, bitcast=True)"
    if op == "fand":
        return f"({a[0]}.to(tl.int64, bitcast=True) & {node.attrs[0]}).to(tl.float64, bitcast=True)"
    if op in ("band", "shl", "shr"):
        return f"{a[0]} {dict(band='&', shl='<<', shr='>>')[op]} {node.attrs[0]}"
    if op == "larger":
        return f"tl.where({a[0]} > {a[1]}, {a[0]}, {a[1]})"
    if op == "to_int":
        return f"{a[0]}.to(tl.int64)"
    if op == "to_float":
        return f"{a[0]}.to(tl.float64)"
    if op == "rint":  # of at most 2^51 in magnitude, all that the numerics round
        return f"({a[0]} + {MAGIC!r}) - {MAGIC!r}"
    if op == "isnan":
        return f"{a[0]} != {a[0]}"
    if op == "float32":
        return f"narrow({a[0]}).to(tl.float64)"
    if op in ("abs", "sqrt"):
        return f"tl.{op}({a[0]})"
    if op in ("exp", "log1p"):
        return f"{op}({a[0]})"
    raise NotImplementedError(op)


@dataclass(frozen=True)
class Chunk:
    """Channels that are worked on at a time: the first, if that is known here, how many, and what they are called."""

    start: int | None
    size: int
    name: str


class Writer:
    """Writes one launch, the function ``name``.

    Args:
        name: what to call it.
        rows: all rows that are summed.
        launch: which of them here, and what else.
        place: where kept nodes begin, by their ids, in numbers per position.
        channels: the number of channels.
        tables: constants along the channels, of all launches; more are added.
        wide: whether positions and elements are counted in int64.
    """

    def __init__(
        self,
        name: str,
        rows: Sequence[Row],
        launch: Stage,
        place: dict[int, int],
        channels: int,
        tables: list[float],
        wide: bool,
    ) -> None:
        self.launch, self.place, self.channels, self.tables = launch, place, channels, tables
        self.summed: list[tuple[Row, int]] = []
        start = 0
        for k, row in enumerate(rows):
            if k in launch.rows:
                self.summed.append((row, start))
            start += row.states
        roots = [row.node for row, _ in self.summed] + launch.keep
        roots += [] if launch.final is None else [launch.final]
        self.spatial = roots[0].graph.rank - 2
        self.here: Offset = (0,) * self.spatial
        self.all = instances(roots, launch.read)
        self.level = self._levels()
        self.by_exponent = self._by_exponent()
        self.short = all(
            abs(a.attrs[0]) < 2**31 for node, _ in self.all if node.op in _COMPARED for a in node.args
            if a.op == "const" and a.kind == "i"
        )  # fmt: skip
        per_channel = sum(node.chan for node, _ in self.all)
        self.written_out = channels <= WRITTEN_OUT and -(-channels // CHUNK) * per_channel <= LONGEST
        self.written_out &= not any(row.node.chan for row, _ in self.summed)  # sums are long
        self.indent, self.count = 1, 0
        self.known: dict[Key, str] = {}
        self.narrow: dict[Key, str] = {}
        self.stored: dict[tuple[Key, int | None], str] = {}
        self.channel_names: dict[tuple[str, int], str] = {}
        self.lines = ["@triton.jit", f"def {name}({', '.join(ARGUMENTS)}, WHEN: tl.constexpr, BLOCK: tl.constexpr):"]
        self._start("tl.int64" if wide else "tl.int32")
        self._loops()
        for row, start in self.summed:
            if not row.node.chan:
                self._sum(self.known[self._outside(row.node)], str(start), False)
        for node in launch.keep:
            if not node.chan:
                self._keep(node, self.known[self._outside(node)], None)

    @property
    def text(self) -> str:
        """The function."""
        return "\n".join(self.lines) + "\n"

    def _levels(self) -> dict[Key, int]:
        """The first channel loop that can compute a node; for one per position, that before which it is known."""
        level: dict[Key, int] = {}
        for node, offset in self.all:
            args = below(node, offset, self.launch.read)
            highest = max((level[id(a), o] for a, o in args), default=0)
            level[id(node), offset] = highest + (bool(args) and node.op in _REDUCTIONS)
        return level

    def _by_exponent(self) -> set[int]:
        """Maxima of int64 numbers of which only high bits are used: the high 32 are enough."""
        maxima = {id(node) for node, _ in self.all if node.op == "amax" and node.kind == "i"}
        roots = [row.node for row, _ in self.summed] + self.launch.keep
        for node, _ in self.all:
            if node.op != "shr" or node.attrs[0] < 32:
                maxima -= {id(a) for a in node.args}
        return maxima - {id(root) for root in roots}

    def _line(self, text: str) -> None:
        self.lines.append("    " * self.indent + text)

    def _name(self, expression: str) -> str:
        self.count += 1
        self._line(f"v{self.count} = {expression}")
        return f"v{self.count}"

    def _start(self, index: str) -> None:
        """Which positions these are, and where their numbers stand."""
        self._line("if WHEN >= 0:")
        self._line("    if tl.load(flag) != WHEN:")
        self._line("        return")
        if index == "tl.int64":
            for name in ARGUMENTS[ARGUMENTS.index("total") :]:
                self._line(f"{name} = tl.full((), 0, tl.int64) + {name}")
        self._line(f"p = tl.program_id(0).to({index}) * BLOCK + tl.arange(0, BLOCK)")
        self._line("inside = p < total")
        self._line("p = tl.minimum(p, total - 1)  # what is beyond the last position repeats it, and is not counted")
        self._line("sample = p // positions")
        self._line("place = p - sample * positions")
        self._line("x_at = sample * x_sample + place * x_position")
        self._line("t_at = sample * t_sample + place * t_position")
        if any(node.op == "shift" for node, _ in self.all):
            rest = "place"
            for axis in reversed(range(self.spatial)):
                self._line(f"at{axis} = {rest} % s{axis}" if axis else f"at{axis} = {rest}")
                if axis:
                    self._line(f"rest{axis} = {rest} // s{axis}")
                    rest = f"rest{axis}"
        self.bounds: dict[Any, str] = {}
        self.places: dict[Any, str] = {}

    # --- Neighbours ---

    def _bound(self, axis: int, step: int) -> str:
        """Whether a neighbour along an axis exists."""
        key = "along", axis, step
        if key not in self.bounds:
            test = f"at{axis} < s{axis} - {step}" if step > 0 else f"at{axis} >= {-step}"
            self.bounds[key] = self._name(test)
        return self.bounds[key]

    def _exists(self, offset: Offset) -> str:
        """Whether a neighbour exists."""
        if offset not in self.bounds:
            tests = [self._bound(axis, step) for axis, step in enumerate(offset) if step]
            self.bounds[offset] = self._name(" & ".join(tests))
        return self.bounds[offset]

    def _address(self, array: str, offset: Offset) -> str:
        """Where an array has its numbers of a neighbour."""
        if (array, offset) not in self.places:
            delta = ""
            for axis, step in enumerate(offset):
                delta = f"({delta} * s{axis} + {step})" if delta else str(step)
            if array in ("x", "target"):
                letter = array[0]
                at, unit = f"{letter}_at", f" * {letter}_position"
            else:
                at, unit = "p", ""
            moved = f"{at} + {delta}{unit}" if any(offset) else at
            self.places[array, offset] = self._name(f"{array} + ({moved})")
        return self.places[array, offset]

    # --- Loops over the channels ---

    def _loops(self) -> None:
        read, final = self.launch.read, self.launch.final
        reductions = [node for node, _ in self.all if node.op in _REDUCTIONS and id(node) not in read]
        outputs = [row.node for row, _ in self.summed if row.node.chan]
        outputs += [node for node in self.launch.keep if node.chan]
        outputs += [] if final is None else [final]
        outputs = list({id(node): node for node in outputs}.values())
        own = {id(node): self.level[self._key(node)] for node in (*reductions, *outputs)}
        last = max([own[id(n)] - 1 for n in reductions] + [own[id(n)] for n in outputs], default=-1)
        loops = []
        for level in range(last + 1):
            ends = [n for n in reductions if own[id(n)] == level + 1]
            here = [n for n in outputs if own[id(n)] == level]
            if ends or here:
                loops.append((ends, here))
        self._choose(loops)
        for ends, here in loops:
            self._loop(ends, here)

    def _choose(self, loops: Sequence[tuple[list[Node], list[Node]]]) -> None:
        """What to keep in registers from a loop to the next: the costliest of what would be computed again."""
        computed: dict[Key, int] = {}
        again: dict[Key, int] = {}
        for number, (ends, outputs) in enumerate(loops):
            stack = [at(n, self.here) for n in (*(n.args[0] for n in ends), *outputs)]
            seen: set[Key] = set()
            while stack:
                node, offset = stack.pop()
                key = id(node), offset
                if key in seen or not node.chan or node.op in _REDUCTIONS:
                    continue
                seen.add(key)
                cost = Plan.cost(node) if node.pos and node.kind != "b" else 0
                if cost > HEAVY and computed.setdefault(key, number) < number:
                    again[key] = cost
                    continue
                stack.extend(below(node, offset, self.launch.read))
        most = KEPT // self.channels if self.written_out else 0
        self.chosen = set(sorted(again, key=lambda key: -again[key])[:most])

    def _loop(self, ends: Sequence[Node], outputs: Sequence[Node]) -> None:
        """Reductions, and what is written or summed for each channel."""
        roots = [n.args[0] for n in ends] + list(outputs)
        for root in roots:
            for node, offset in self._needed(root):
                if not node.chan:
                    self._outside(node)
                elif id(node) in self.launch.read or node.op == "leaf":
                    self._address("kept" if id(node) in self.launch.read else node.attrs[0], offset)
                    if any(offset):
                        self._exists(offset)
                elif node.op == "shift":
                    self._bound(node.attrs[0], offset[node.attrs[0]] + node.attrs[1])
        totals = {}
        for n in ends:
            lowest, kind = self._first(n)
            shape = "(BLOCK,)" if n.pos else "(1,)"
            totals[id(n)] = self._name(f"tl.full({shape}, {lowest}, {kind})")
        start = 0
        if not self.written_out:
            start = self.channels - self.channels % CHUNK
            self._line(f"for c in range(0, {start}, {CHUNK}):")
            self.indent += 1
            self._channel(ends, outputs, totals, Chunk(None, CHUNK, self._channels("c", CHUNK)))
            self.indent -= 1
        while start < self.channels:  # as few tensors as can be, none of them with more than it needs
            size = min(CHUNK, 1 << ((self.channels - start).bit_length() - 1))
            self._channel(ends, outputs, totals, Chunk(start, size, self._channels(str(start), size)))
            start += size
        for n in ends:
            narrow = n.op == "amax" and n.args[0].op == "leaf"
            self.known[self._key(n)] = self._name(f"{totals[id(n)]}.to(tl.float64)") if narrow else totals[id(n)]

    def _channels(self, start: str, size: int) -> str:
        if (start, size) in self.channel_names:
            return self.channel_names[start, size]
        name = self._name(f"{start} + tl.arange(0, {size})[:, None]")
        if start != "c":
            self.channel_names[start, size] = name
        return name

    def _channel(self, ends: Sequence[Node], outputs: Sequence[Node], totals: dict[int, str], chunk: Chunk) -> None:
        """The body of a loop."""
        found: dict[Key, str] = {}
        for n in ends:
            total, arg = totals[id(n)], n.args[0]
            value = self._value(arg, found, chunk)
            if arg.op == "const":
                value = self._name(f"tl.broadcast_to({value}, ({chunk.size}, {'BLOCK' if n.pos else 1}))")
            if n.op == "isum":
                self._line(f"{total} = {total} + tl.sum({value}, 0)")
                continue
            if arg.op == "leaf":
                value = self.narrow[self._key(arg)]
            elif id(n) in self.by_exponent:
                value = self._name(f"({value} >> 32).to(tl.int32)")
            value = self._name(f"tl.max({value}, 0)")
            self._line(f"{total} = tl.where({value} > {total}, {value}, {total})")
        for n in outputs:
            value = self._value(n, found, chunk)
            if n is self.launch.final:
                at = self._name(f"(gradient + x_at)[None, :] + {chunk.name} * x_channel")
                whole = f"rounded(tl.where(inside[None, :], {value}, 0.0))"
                self._line(f"tl.store({at}, {whole}, mask=inside[None, :])")
            for row, start in self.summed:
                if row.node is n:
                    self._sum(value, f"{start} + {chunk.name}" if row.by_channel else str(start), row.by_channel, chunk)
            if n in self.launch.keep:
                self._keep(n, value, chunk)

    def _first(self, node: Node) -> tuple[str, str]:
        """What a reduction starts from."""
        if node.op == "isum":
            return ("0.0", "tl.float64") if node.kind == "f" else ("0", "tl.int64")
        if node.kind == "f":
            return 'float("-inf")', "tl.float32" if node.args[0].op == "leaf" else "tl.float64"
        return (str(-(2**31)), "tl.int32") if id(node) in self.by_exponent else (str(1 - 2**63), "tl.int64")

    # --- Values ---

    def _key(self, node: Node) -> Key:
        return id(node), at(node, self.here)[1]

    def _needed(self, root: Node, start: int | None = 0) -> list[tuple[Node, Offset]]:
        """What has to be computed for a node, of the channels from one on, arguments first."""
        seen: set[Key] = set()
        result = []
        stack = [(*at(root, self.here), False)]
        while stack:
            node, offset, done = stack.pop()
            key = id(node), offset
            if done:
                result.append((node, offset))
            elif key not in seen and key not in self.known:
                seen.add(key)
                stack.append((node, offset, True))
                if node.op not in _REDUCTIONS and (key, start) not in self.stored:
                    stack.extend((*item, False) for item in reversed(below(node, offset, self.launch.read)))
        return result

    def _outside(self, root: Node) -> Key:
        """Compute what is the same for all channels."""
        for node, offset in self._needed(root):
            if not node.chan:
                self.known[id(node), offset] = self._operation(node, offset, self.known, None)
        return self._key(root)

    def _value(self, root: Node, found: dict[Key, str], chunk: Chunk) -> str:
        """Compute a node for some channels."""
        start = chunk.start
        for node, offset in self._needed(root, start):
            key = id(node), offset
            if key in found:
                continue
            if start is not None and (key, start) in self.stored:
                found[key] = self.stored[key, start]
                continue
            found[key] = self._operation(node, offset, ChainMap(found, self.known), chunk)
            if start is not None and key in self.chosen:
                self.stored[key, start] = found[key]
        key = self._key(root)
        return self.known[key] if key in self.known else found[key]

    def _operation(self, node: Node, offset: Offset, found: Mapping[Key, str], chunk: Chunk | None) -> str:
        """The code of one node."""
        op = node.op
        if id(node) in self.launch.read:
            return self._kept(node, offset, chunk)
        if op == "leaf":
            return self._leaf(node, offset, chunk)
        a = [found[id(arg), o] for arg, o in below(node, offset, self.launch.read)]
        if op == "shift":
            axis, step = node.attrs
            source = node.args[0]
            if (source.op == "leaf" and source.attrs[0] != "mask") or id(source) in self.launch.read:
                return a[0]  # loaded as 0 off the edge
            exists = self._bound(axis, offset[axis] + step) + ("[None, :]" if source.chan else "")
            return self._name(f"tl.where({exists}, {a[0]}, {'0.0' if node.kind == 'f' else '0'})")
        if op == "const":
            value = node.attrs[0]
            if node.kind == "f":
                return self._name(constant(value))
            return self._name(f"tl.full((), {int(value)}, {'tl.int1' if node.kind == 'b' else 'tl.int64'})")
        if op == "pick":
            return self._pick(node, offset, a[0])
        if op in ("channel", "param", "vector"):
            c = "" if chunk is None else chunk.name
            if op == "channel":
                return c
            if op == "param":
                return self._name(f"tl.load(parameters + {node.attrs[0]}" + (f" + {c})" if node.chan else ")"))
            return self._name(f"tl.load(tables + {self._table(node.attrs[0])} + {c})")
        if op == "shr" and id(node.args[0]) in self.by_exponent:
            return self._name(f"({a[0]} >> {node.attrs[0] - 32}).to(tl.int64)")
        return self._name(expression(node, a))

    def _loaded(self, array: str, offset: Offset, channel: str | None) -> str:
        """Numbers of positions, or of those and of channels, 0 where there are none."""
        spread = "" if channel is None else "[None, :]"
        at = self._address(array, offset) + spread + ("" if channel is None else f" + {channel}")
        return self._load(at, offset, spread)

    def _load(self, at: str, offset: Offset, spread: str = "") -> str:
        if not any(offset):
            return f"tl.load({at})"
        return f"tl.load({at}, mask={self._exists(offset)}{spread}, other=0)"

    def _leaf(self, node: Node, offset: Offset, chunk: Chunk | None) -> str:
        """An input: float64, integers for labels, or boolean."""
        (name,) = node.attrs
        channel = None if chunk is None or not node.chan else f"{chunk.name} * {name[0]}_channel"
        value = self._loaded(name, offset, channel)
        if name == "label":
            return self._name(f"label_of({value})" if self.short else value)
        if name == "mask":
            return self._name(f"{value} != 0")
        narrow = self.narrow[id(node), offset] = self._name(f"read({value})")
        return self._name(f"{narrow}.to(tl.float64)")

    def _pick(self, node: Node, offset: Offset, label: str) -> str:
        """What stands at each position's label: of the input, of constants or of parameters. Beyond them: any value."""
        (source,) = node.attrs
        index = self._name(f"tl.where(({label} >= 0) & ({label} < {self.channels}), {label}, 0).to(tl.int32)")
        if source == "x":
            at = f"{self._address('x', offset)} + {index} * x_channel"
            return self._name(f"read({self._load(at, offset)}).to(tl.float64)")
        if isinstance(source, int):
            return self._name(f"tl.load(parameters + {source} + {index})")
        return self._name(f"tl.load(tables + {self._table(source)} + {index})")

    def _table(self, values: Sequence[float]) -> int:
        """Where a table of constants begins."""
        for start in range(len(self.tables) - len(values) + 1):
            if [_bits(v) for v in self.tables[start : start + len(values)]] == [_bits(v) for v in values]:
                return start
        self.tables.extend(values)
        return len(self.tables) - len(values)

    # --- Results ---

    def _sum(self, value: str, state: str, by_channel: bool, chunk: Chunk | None = None) -> None:
        self._line(f"add_sum(states + ({state}) * {STATE}, {value}, {self._all(chunk)}, {by_channel})")

    def _all(self, chunk: Chunk | None) -> str:
        """Which positions of which channels there are."""
        return "inside[None, :]" + ("" if chunk is None else f" & ({chunk.name} >= 0)")

    def _keep(self, node: Node, value: str, chunk: Chunk | None) -> None:
        """Write numbers to memory, as float64."""
        first = self.place[id(node)]
        if node.kind != "f":
            value = f"{value}.to(tl.int64).to(tl.float64, bitcast=True)"
        if chunk is None:
            at, inside = f"kept + {first} * total + p", "inside"
        else:
            at, inside = f"(kept + p)[None, :] + ({first} + {chunk.name}) * total", "inside[None, :]"
        self._line(f"tl.store({at}, tl.where({inside}, {value}, 0.0), mask={inside})")

    def _kept(self, node: Node, offset: Offset, chunk: Chunk | None) -> str:
        """Read them."""
        first = self.place[id(node)]
        channel = f"({first} + {chunk.name}) * total" if chunk is not None and node.chan else None
        if channel is None and first:
            at = self._name(f"{self._address('kept', offset)} + {first} * total")
            value = self._load(at, offset)
        else:
            value = self._loaded("kept", offset, channel)
        if node.kind == "f":
            return self._name(value)
        value = f"{value}.to(tl.int64, bitcast=True)"
        return self._name(value if node.kind == "i" else f"{value} != 0")


def utilities() -> str:
    """The launches that are the same for all losses."""
    return f"""{helpers()}

@triton.jit
def find_wrong(label, mask, wrong, total, CHANNELS: tl.constexpr, IGNORE, HAS_IGNORE: tl.constexpr,
               HAS_MASK: tl.constexpr, BLOCK: tl.constexpr):
    p = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(label + p, mask=p < total, other=0).to(tl.int64)
    bad = (v < 0) | (v >= CHANNELS)
    if HAS_IGNORE:
        bad = bad & (v != IGNORE)
    if HAS_MASK:
        bad = bad & (tl.load(mask + p, mask=p < total, other=0) != 0)
    if tl.max(bad.to(tl.int32), 0) > 0:
        tl.store(wrong, 1)


@triton.jit
def times(gradient, result, upstream, total, IN_PLACE: tl.constexpr, BLOCK: tl.constexpr):
    scale = read(tl.load(upstream)).to(tl.float64)
    if IN_PLACE:
        if scale == 1.0:
            return
    p = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    v = read(tl.load(gradient + p, mask=p < total, other=0.0)).to(tl.float64)
    tl.store(result + p, rounded(scale * v), mask=p < total)


@triton.jit
def round_sums(states, result, number, BLOCK: tl.constexpr):
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    at, inside = states + n * {STATE}, n < number
    v = rounded_sum({", ".join(f"tl.load(at + {k}, mask=inside, other=0)" for k in range(STATE))})
    tl.store(result + n, v, mask=inside)
"""
