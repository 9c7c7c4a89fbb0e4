"""Exact numerics in one pass over the input, on CUDA devices, with Triton: the same bits as the array engine.

The program of a loss, of which :mod:`..codegen` makes LLVM IR for CPUs, is written as Triton source here
(:mod:`.source`): one launch, or more where neighbours need what is costly (:mod:`.stages`).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from typing import Any

import torch
from torch import Tensor

from ...torch.ops import TorchOps
from .. import program
from ..program import Signature
from ..program import evaluate as combined
from . import launch

_OPS = TorchOps()


@functools.lru_cache(maxsize=256)
def compiled(what: Signature, first: bool, second: bool, gradient: bool) -> launch.Kernel:
    """The kernel of these rows (:meth:`..program.Program.rows`), perhaps with the gradient."""
    traced = program(what)
    assert traced is not None
    name = hashlib.sha256(repr((what, first, second, gradient)).encode()).hexdigest()[:16]
    return launch.Kernel(traced.rows(first, second), traced.gradient if gradient else None, what.channels, name)


def evaluate(
    what: Signature,
    reduction: str,
    axis: int,
    x: Tensor,
    target: Tensor,
    *,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    weights: Tensor | None = None,
    totals: Tensor | None = None,
    gradient: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, terms, sums and, on demand, the gradient. Nothing waits for the device.

    Args:
        what: the loss and the kind of its input, for which :func:`..program` gives one. Labels that are not trusted are
            looked at on the device, which then does what it would do for trusted ones, if it can.
        reduction: ``"mean"`` or ``"sum"``.
        axis: the channel axis of ``x`` and of a dense target.
        x: the input, of any floating dtype and memory layout; one with the channels first or last is read in place.
        target: labels of any integer dtype per position, or floats of the shape of ``x``.
        mask: booleans per position.
        weight: floats per position.
        weights: the terms' weights at a schedule's step, float64 (K,).
        totals: the sums of the whole batch, if this is a part of it.
        gradient: where to write it, float32 of the shape of ``x``, its channels first or last in memory.

    Returns:
        Float32 loss () and terms (K,), int64 sums (K, M, STATE).
    """
    given = launch.Arrays(what.labels, axis, x, target, mask, weight, gradient)
    programs: list[tuple[Signature, Any]] = [(what, program(what))]
    flag = None
    if what.labels and not what.trusted:
        trusted = dataclasses.replace(what, trusted=True)
        programs = [(trusted, program(trusted)), *programs]
        flag = launch.wrong_labels(given, what.channels, what.spec.ignore_index)

    def run(first: bool, second: bool, with_gradient: bool, parameters: Tensor) -> tuple[Tensor, None]:
        kernels = [compiled(kind, first, second, with_gradient) for kind, _ in programs]
        states = launch.new_states(kernels[0].count, given.device)
        for when, kernel in enumerate(kernels):
            kernel.run(given, parameters, states, flag, when)
        return states, None

    samples = given.batch if given.positions else 0
    numbers = {"positions": given.total, "samples": samples, "nothing": 0}
    known = {name: torch.full((), n, dtype=torch.int64, device=given.device) for name, n in numbers.items()}
    loss, terms, sums, _ = combined(
        _OPS, what, programs[-1][1], reduction, run, known, weights=weights, totals=totals,
        gradient=gradient is not None,
    )  # fmt: skip
    return loss, terms, sums
