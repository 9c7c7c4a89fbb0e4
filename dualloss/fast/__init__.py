"""Exact numerics in one pass over the input, on CPUs: the same bits as the array engine, in a fraction of its time.

The engine is run once over symbols (:mod:`.trace`, :mod:`.program`), what it did is written as LLVM IR
(:mod:`.codegen`) and compiled with llvmlite for the machine at hand (:mod:`.kernel`). Needs llvmlite, the extra
``fast``; without it, and for what kernels do not cover, the array engine computes the loss.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..exact import functions
from .host import HostOps
from .program import Program, Signature, trace
from .program import evaluate as combined
from .trace import Unsupported

_OPS = HostOps()
_log = logging.getLogger(__name__)


_allowed = os.environ.get("DUALLOSS_KERNELS", "1") != "0"
_triton = importlib.util.find_spec("triton") is not None
enabled = importlib.util.find_spec("llvmlite") is not None and _allowed
"""Whether losses use kernels where they can: where llvmlite is installed, unless DUALLOSS_KERNELS=0 forbids it."""
on_devices = _triton and _allowed
"""The same of CUDA devices (:mod:`dualloss.torch.gpu`), where triton is installed."""


@contextlib.contextmanager
def using(kernels: bool) -> Iterator[None]:
    """Allow or forbid kernels for a while. What a compiler has traced stays as it was traced."""
    global enabled, on_devices
    before = enabled, on_devices
    enabled, on_devices = kernels, kernels and _triton
    try:
        yield
    finally:
        enabled, on_devices = before


@functools.lru_cache(maxsize=256)
def program(what: Signature) -> Program | None:
    """The program of a loss; None where there is no kernel for it."""
    try:
        return trace(what)
    except Unsupported as missing:
        _log.info("no kernel computes %r (%s): the array engine does", what.spec, missing)
        return None


def all_classes(labels: Any, mask: Any, channels: int, ignore_index: int | None) -> bool:
    """Whether every label of a position that counts is a class; of NumPy arrays."""
    if labels.size == 0 or (labels.min() >= 0 and labels.max() < channels):
        return True
    wrong = (labels < 0) | (labels >= channels)
    if ignore_index is not None:
        wrong &= labels != ignore_index
    if mask is not None:
        wrong &= mask
    return not bool(wrong.any())


@functools.lru_cache(maxsize=256)
def compiled(what: Signature, first: bool, second: bool, gradient: bool) -> Any:
    """The kernel of these rows (:meth:`.program.Program.rows`), perhaps with the gradient."""
    from .kernel import Kernel

    traced = program(what)
    assert traced is not None
    started = time.perf_counter()
    kernel = Kernel(traced.rows(first, second), traced.gradient if gradient else None, what.channels)
    _log.info("compiled a kernel of %r in %.1f s", what.spec, time.perf_counter() - started)
    return kernel


@dataclass(frozen=True)
class Result:
    """What a pass gives: float32 loss and terms (K,), int64 sums (K, M, STATE), the float32 gradient or None."""

    loss: Any
    terms: Any
    sums: Any
    gradient: Any


def evaluate(
    what: Signature,
    reduction: str,
    axis: int,
    x: Any,
    target: Any,
    *,
    mask: Any = None,
    weight: Any = None,
    weights: Any = None,
    totals: Any = None,
    gradient: bool = True,
    threads: int = 1,
) -> Result:
    """Loss, terms, sums and, on demand, the gradient, of NumPy arrays.

    Args:
        what: the loss and the kind of its input, for which :func:`program` gives one.
        reduction: ``"mean"`` or ``"sum"``.
        axis: the channel axis of ``x`` and of a dense target.
        x: the input, float32, of any memory layout; one with the channels first or last is read in place.
        target: labels, int64 per position, or float32 of the shape of ``x``.
        mask: booleans per position.
        weight: float32 per position.
        weights: the terms' weights at a schedule's step, float64 (K,).
        totals: the sums of the whole batch, if this is a part of it.
        gradient: whether to compute it; it has the memory layout of ``x``.
        threads: how many may work.
    """
    from .kernel import Arrays

    traced = program(what)
    assert traced is not None
    given = Arrays(what.labels, axis, x, target, mask, weight, gradient)

    def run(first: bool, second: bool, with_gradient: bool, parameters: Any) -> tuple[Any, Any]:
        return compiled(what, first, second, with_gradient).run(given, parameters, threads), None

    samples = given.batch if given.positions else 0
    known = {"positions": given.samples * given.positions, "samples": samples, "nothing": 0}
    with np.errstate(all="ignore"):
        loss, terms, sums, _ = combined(
            _OPS,
            what,
            traced,
            reduction,
            run,
            {name: np.int64(number) for name, number in known.items()},
            weights=weights,
            totals=totals,
            gradient=gradient,
        )
    return Result(loss, terms, sums, given.result())


def scaled(gradient: Any, upstream: float, threads: int = 1) -> Any:
    """A float32 gradient times an upstream gradient, rounded to float32, in the memory layout it has."""
    from .kernel import Arrays

    upstream = 0.0 if abs(upstream) < functions.TINY else upstream
    flat = gradient.ravel(order="K")
    given = Arrays(True, 0, flat, None, None, None, True)
    _scaling().run(given, [upstream], threads)
    found = given.result()
    if gradient.flags.c_contiguous:
        return found.reshape(gradient.shape)
    steps = sorted(range(gradient.ndim), key=lambda axis: -gradient.strides[axis])
    return found.reshape([gradient.shape[a] for a in steps]).transpose([steps.index(a) for a in range(gradient.ndim)])


@functools.cache
def _scaling() -> Any:
    from .kernel import Kernel
    from .trace import Graph, TraceOps

    graph = Graph(1, 0)
    ops: Any = TraceOps(graph)
    return Kernel([], functions.load(ops, graph.leaf("x", "f", chan=True)) * graph.parameter(0), 1)
