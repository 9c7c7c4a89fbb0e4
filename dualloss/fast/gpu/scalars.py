"""The handful of numbers around a kernel, as Triton source: one launch in place of some sixty.

:func:`dualloss.fast.program.evaluate` runs once over symbols, arrays of single nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...exact.sums import STATE
from ..program import Program, Row, Signature
from ..program import evaluate as combined
from ..trace import Graph, Node, TraceOps, ordered
from .source import constant, expression, helpers

ARGUMENTS = ("states0", "states1", "totals", "weights", "positions", "samples")
"""What both launches are called with: the sums of one run or two, those of the whole batch, the weights of the terms
(float64), and the numbers of positions and samples."""


class Small:
    """A small array of nodes."""

    def __init__(self, items: Any) -> None:
        self.items = np.asarray(items, dtype=object)

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.items.shape

    def __getitem__(self, index: Any) -> Small:
        return Small(self.items[index])

    def __add__(self, other: Any) -> Small:
        return _each(lambda a, b: a + b, self, other)

    def __radd__(self, other: Any) -> Small:
        return _each(lambda a, b: b + a, self, other)

    def __sub__(self, other: Any) -> Small:
        return _each(lambda a, b: a - b, self, other)

    def __rsub__(self, other: Any) -> Small:
        return _each(lambda a, b: b - a, self, other)

    def __mul__(self, other: Any) -> Small:
        return _each(lambda a, b: a * b, self, other)

    def __rmul__(self, other: Any) -> Small:
        return _each(lambda a, b: b * a, self, other)

    def __truediv__(self, other: Any) -> Small:
        return _each(lambda a, b: a / b, self, other)

    def __lt__(self, other: Any) -> Small:
        return _each(lambda a, b: a < b, self, other)

    def __gt__(self, other: Any) -> Small:
        return _each(lambda a, b: a > b, self, other)

    def __le__(self, other: Any) -> Small:
        return _each(lambda a, b: a <= b, self, other)

    def __ge__(self, other: Any) -> Small:
        return _each(lambda a, b: a >= b, self, other)

    def __eq__(self, other: object) -> Any:
        return _each(lambda a, b: a == b, self, other)

    __hash__ = object.__hash__


def _each(function: Callable[..., Any], *args: Any) -> Small:
    """A function of nodes on every element; what is no array is the same for all."""
    arrays = [v.items for v in args if isinstance(v, Small)]

    def one(*items: Any) -> Any:
        rest = iter(items)
        return function(*(next(rest) if isinstance(v, Small) else v for v in args))

    return Small(np.frompyfunc(one, len(arrays), 1)(*arrays))


class SmallOps:
    """See :class:`dualloss.exact.ops.Ops`; what acts on every element is :class:`..trace.TraceOps`."""

    def __init__(self, graph: Graph) -> None:
        self._graph, self._ops = graph, TraceOps(graph)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._ops, name)
        return lambda *args: _each(method, *args)

    def stack(self, items: Sequence[Small], axis: int) -> Small:  # noqa: D102
        return Small(np.stack([v.items for v in items], axis))

    def concat(self, items: Sequence[Small], axis: int) -> Small:  # noqa: D102
        return Small(np.concatenate([v.items for v in items], axis))

    def reshape(self, v: Small, sizes: Sequence[int]) -> Small:  # noqa: D102
        return Small(v.items.reshape(sizes))

    def rounded_sums(self, states: Small) -> Small:
        """What :func:`dualloss.exact.sums.to_float` gives."""
        flat = states.items.reshape(-1, STATE)
        found = np.empty(len(flat), dtype=object)
        for k, state in enumerate(flat):
            found[k] = self._graph.node("rounded", tuple(state))
        return Small(found.reshape(states.shape[:-1]))


@dataclass(frozen=True)
class Scalars:
    """The launches around the kernels of a loss.

    Attributes:
        runs: for each run of a kernel, its rows (first, second) and whether it writes the gradient.
        source: the functions ``before0``, ``before1``, which write the parameters of a run, and ``after``, which writes
            loss, terms and sums; they take ARGUMENTS, then those pointers.
        parameters: the number of parameters.
        sums: the shape of the sums.
    """

    runs: tuple[tuple[bool, bool, bool], ...]
    source: str
    parameters: int
    sums: tuple[int, ...]


def scalars(
    what: Signature, program: Program, reduction: str, gradient: bool, totals: tuple[int, ...] | None, weights: bool
) -> Scalars:
    """The launches for a loss all of whose terms are means; ``totals``: the shape of those, if they are given."""
    graph = Graph(1, 0)

    def leaves(name: str, shape: tuple[int, ...], kind: str) -> Small:
        count = int(np.prod(shape))
        found = np.empty(count, dtype=object)
        for k in range(count):
            found[k] = graph.make("leaf", (), (name, k), kind, False, False)
        return Small(found.reshape(shape))

    runs: list[tuple[bool, bool, bool]] = []
    given: list[Small] = []

    def run(first: bool, second: bool, with_gradient: bool, parameters: Small) -> tuple[Small, None]:
        rows: list[Row] = program.rows(first, second)
        states = leaves(f"states{len(runs)}", (sum(row.states for row in rows), STATE), "i")
        runs.append((first, second, with_gradient))
        given.append(parameters)
        return states, None

    ops: Any = SmallOps(graph)
    known = {name: leaves(name, (), "i") for name in ("positions", "samples")}
    known["nothing"] = Small(graph.constant(0, "i"))
    loss, terms, sums, _ = combined(
        ops, what, program, reduction, run, known,
        weights=leaves("weights", (len(program.terms),), "f") if weights else None,
        totals=None if totals is None else leaves("totals", totals, "i"),
        gradient=gradient,
    )  # fmt: skip
    texts = [helpers()]
    for k, parameters in enumerate(given):
        texts.append(_function(f"before{k}", {"parameters": parameters}))
    texts.append(_function("after", {"loss": loss, "terms": terms, "sums": sums}))
    return Scalars(tuple(runs), "\n\n".join(texts), program.parameters, sums.shape)


def _function(name: str, results: dict[str, Small]) -> str:
    """A function that computes nodes and stores them."""
    lines = ["@triton.jit", f"def {name}({', '.join((*ARGUMENTS, *results))}):"]
    roots = [node for result in results.values() for node in result.items.ravel()]
    names: dict[int, str] = {}
    for node in ordered(roots):
        names[id(node)] = f"v{len(names)}"
        a = [names[id(arg)] for arg in node.args]
        lines.append(f"    {names[id(node)]} = {_value(node, a)}")
    for result, array in results.items():
        for k, node in enumerate(array.items.ravel()):
            value = f"rounded({names[id(node)]})" if result in ("loss", "terms") else names[id(node)]
            lines.append(f"    tl.store({result} + {k}, {value})")
    return "\n".join(lines) + "\n"


def _value(node: Node, a: Sequence[str]) -> str:
    if node.op == "leaf":
        name, index = node.attrs
        if name in ("positions", "samples"):
            return f"tl.full((), 0, tl.int64) + {name}"
        return f"tl.load({name} + {index})"
    if node.op == "const":
        (value,) = node.attrs
        if node.kind == "f":
            return constant(value)
        return f"tl.full((), {int(value)}, {'tl.int1' if node.kind == 'b' else 'tl.int64'})"
    return f"rounded_sum({', '.join(a)})" if node.op == "rounded" else expression(node, a)
