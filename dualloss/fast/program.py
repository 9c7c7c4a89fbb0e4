"""From a loss to what its kernels compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..exact import engine, functions, region, sums, terms
from ..exact.constants import float32
from ..exact.ops import Array, Ops
from ..exact.terms import Inputs, Result
from ..spec import Region, Spec
from .labels import specialised
from .simplify import simplified
from .trace import Graph, Node, TraceOps, Unsupported


@dataclass(frozen=True)
class Signature:
    """What a kernel is compiled for.

    Attributes:
        spec: the loss.
        channels: the number of channels.
        spatial: the number of spatial axes.
        labels: whether the target holds class indices (int64) or a number for every element (float32).
        mask: whether there is one.
        weight: whether there are sample weights.
        trusted: whether all labels of positions that count are known to be classes.
    """

    spec: Spec
    channels: int
    spatial: int
    labels: bool
    mask: bool
    weight: bool
    trusted: bool = False


_MOST = 1 << 17
"""Channels whose digits a tile of positions can add up before they are taken over (:mod:`.sums`)."""


@dataclass(frozen=True)
class Row:
    """What is summed over positions: a number for each, or one for each channel, summed by channel or altogether."""

    node: Node
    by_channel: bool = False

    @property
    def states(self) -> int:
        """How many sums it makes."""
        return self.node.graph.channels if self.by_channel else 1


@dataclass(frozen=True)
class Mean:
    """A term with a value for every position.

    Attributes:
        value: the values.
        size: what their mean divides by: a row to sum, or what the shape says, "positions", "samples" or "nothing".
    """

    value: Row
    size: Row | str


@dataclass(frozen=True)
class Ratio:
    """A term that is a function of four sums for each group, the classes or all as one."""

    rows: tuple[Row, ...]
    groups: int


@dataclass(frozen=True)
class Program:
    """What is summed over positions, and the gradient.

    Attributes:
        graph: the nodes.
        terms: what each of the K terms sums.
        gradient: the gradient, in float64 before its rounding to float32. Its parameters: what the sum of term k is
            scaled by, from 0 on; the weight of term k where a schedule says it, from K on; then, for each ratio, three
            numbers for each group.
    """

    graph: Graph
    terms: tuple[Mean | Ratio, ...]
    gradient: Node

    @property
    def parameters(self) -> int:
        """How many there are."""
        return 2 * len(self.terms) + sum(3 * term.groups for term in self.terms if isinstance(term, Ratio))

    def rows(self, first: bool, second: bool) -> list[Row]:
        """The rows that the gradient needs, first, and those of the values that it does not."""
        found: list[Row] = []
        for term in self.terms:
            if isinstance(term, Ratio):
                found += term.rows if first else ()
                continue
            if second:
                found.append(term.value)
            if first and isinstance(term.size, Row):
                found.append(term.size)
        return found


def trace(what: Signature) -> Program:
    """The program of a loss.

    Raises:
        Unsupported: where kernels cannot compute it.
    """
    spec = what.spec
    graph = Graph(what.channels, what.spatial)
    ops: Any = TraceOps(graph)
    mask = graph.leaf("mask", "b") if what.mask else None
    target = graph.leaf("label", "i") if what.labels else graph.leaf("target", "f", chan=True)
    trusted = what.labels and what.trusted
    dense, valid = engine.targets(ops, target, what.labels, what.channels, 1, spec.ignore_index, mask, trusted)
    weight = functions.load(ops, graph.leaf("weight", "f")) if what.weight else None
    x = functions.load(ops, graph.leaf("x", "f", chan=True))
    inputs = Inputs(ops, x, dense, valid, 1, range(2, 2 + what.spatial), weight)
    count = len(spec.parts)
    used = 2 * count
    plans: list[Mean | Ratio] = []
    parts, scheduled = [], []
    for k, (w, term) in enumerate(spec.parts):
        by = float32(w) if isinstance(w, float) else graph.parameter(count + k)
        if isinstance(term, Region) and not term.per_sample:
            found, u = region.elements(term, inputs)
            groups = what.channels if term.per_class else 1
            plans.append(Ratio(tuple(Row(part, term.per_class) for part in found), groups))
            numbers = [graph.parameter(used + n * groups, term.per_class) for n in range(3)]
            used += 3 * groups
            gradient = region.pulled(term, inputs, u, numbers[0], numbers[1], numbers[2])
        elif not term.has_map or term.needs_distances:
            raise Unsupported(type(term).__name__)
        else:
            result = terms.evaluate(term, inputs)
            assert isinstance(result, Result)
            size = _size(ops, engine.size(ops, term, inputs, result))
            plans.append(Mean(Row(engine.weighted(ops, result, weight)), size))
            factors = [] if weight is None else [weight]
            gradient = result.gradient(engine.coefficient(ops, by, graph.parameter(k), result, factors))
        if not isinstance(by, float) or by != 0.0:
            parts.append(gradient)
            scheduled.append(None if isinstance(by, float) else by)
    program = Program(graph, tuple(plans), engine.summed(ops, parts, scheduled) if parts else ops.zeros_like(x))
    program = _rewritten(program, trusted)
    if what.channels > _MOST and any(row.node.chan and not row.by_channel for row in program.rows(True, True)):
        raise Unsupported(f"one sum over {what.channels} channels")
    return program


def _rewritten(program: Program, trusted: bool) -> Program:
    """The program made simpler, with trusted labels by what they say."""
    rows = program.rows(True, True)
    *nodes, gradient = (specialised if trusted else simplified)(
        program.graph, [*(row.node for row in rows), program.gradient]
    )
    new = {id(row): Row(node, row.by_channel) for row, node in zip(rows, nodes, strict=True)}
    plans: list[Mean | Ratio] = []
    for term in program.terms:
        if isinstance(term, Ratio):
            plans.append(Ratio(tuple(new[id(row)] for row in term.rows), term.groups))
        else:
            size = term.size if isinstance(term.size, str) else new[id(term.size)]
            plans.append(Mean(new[id(term.value)], size))
    return Program(program.graph, tuple(plans), gradient)


def _size(ops: Any, found: Any) -> Row | str:
    if not isinstance(found, tuple):
        return Row(found)
    (condition,) = found
    if condition.op == "cut":
        return "samples"
    if _always(condition):
        return "positions"
    if condition.op == "not" and _always(condition.args[0]):
        return "nothing"
    return Row(ops.where(condition, 1.0, 0.0))


def _always(condition: Node) -> bool:
    """Whether it is how the engine writes "everywhere": 0 < 1."""
    return condition.op == "lt" and all(a.op == "const" for a in condition.args)


Run = Callable[[bool, bool, bool, Array], tuple[Array, Array]]
"""``run(first, second, gradient, parameters)``: the states of those rows and, if asked for, the gradient."""


def evaluate(
    ops: Ops,
    what: Signature,
    program: Program,
    reduction: str,
    run: Run,
    known: dict[str, Array],
    *,
    weights: Array | None,
    totals: Array | None,
    gradient: bool,
) -> tuple[Array, Array, Array, Array]:
    """Loss, terms, sums and gradient (or None), from what kernels compute.

    Args:
        ops: the operations of the arrays at hand; here all are small.
        what, program: the loss.
        reduction: ``"mean"`` or ``"sum"``.
        run: the kernels.
        known: the numbers of positions and samples, and 0, "nothing": int64 scalars.
        weights: the terms' weights at a schedule's step, float64 (K,).
        totals: the sums of the whole batch, if this is a part of it.
        gradient: whether to compute it.
    """
    spec, plans = what.spec, program.terms
    one = ops.to_float(known["nothing"] + 1)
    zero = one * 0.0
    given = ops.stack([zero] * len(plans), 0) if weights is None else weights
    first: Array = None
    if not gradient:
        states, found = run(True, True, False, ops.stack([zero] * program.parameters, 0))
    elif program.rows(True, False):
        first, _ = run(True, False, False, ops.stack([zero] * program.parameters, 0))
    if gradient:
        early = _Rows(first)
        scales, numbers = [], []
        for k, ((w, term), plan) in enumerate(zip(spec.parts, plans, strict=True)):
            if isinstance(plan, Mean):
                amount = _amount(ops, plan, early, known)
                whole = sums.to_float(ops, amount if totals is None else totals[k, 1])
                scales.append(engine.scale(ops, term, whole, reduction))
                continue
            scales.append(one)
            own = _grouped(ops, plan, early)
            whole = sums.to_float(ops, own if totals is None else totals[k])
            weight = one * float32(w) if isinstance(w, float) else given[k]
            assert isinstance(term, Region)
            for vector in region.coefficients(ops, term, whole, weight, reduction):
                numbers.append(ops.reshape(vector, [plan.groups]))
        states, found = run(False, True, True, ops.concat([ops.stack(scales, 0), given, *numbers], 0))
    own_sums = []
    early, late = _Rows(first), _Rows(states)
    for plan in plans:
        source = early if gradient else late
        if isinstance(plan, Ratio):
            own_sums.append(_grouped(ops, plan, source))
        else:
            value = late.take(1)[0]
            own_sums.append(ops.stack([value, _amount(ops, plan, source, known)], 0))
    all_sums = ops.stack(engine.padded(ops, own_sums), 0)
    loss, values = engine.from_sums(ops, spec, all_sums, reduction, weights, totals)
    return loss, values, all_sums, found


class _Rows:
    """The states of a run, taken one row after the other."""

    def __init__(self, states: Array) -> None:
        self._states, self._next = states, 0

    def take(self, number: int) -> Array:
        start, self._next = self._next, self._next + number
        return self._states[start : self._next]


def _amount(ops: Ops, plan: Mean, rows: _Rows, known: dict[str, Array]) -> Array:
    return sums.count_state(ops, known[plan.size]) if isinstance(plan.size, str) else rows.take(1)[0]


def _grouped(ops: Ops, plan: Ratio, rows: _Rows) -> Array:
    """The four sums of each group, group by group."""
    parts: Sequence[Array] = [rows.take(row.states) for row in plan.rows]
    stacked = ops.stack(parts, 1)
    return ops.reshape(stacked, [4 * plan.groups, sums.STATE])
