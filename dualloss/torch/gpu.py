"""The kernels of CUDA devices: the programs of :mod:`dualloss.fast`, compiled by Triton and launched on tensors."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import linecache
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import fast
from ..exact.sums import STATE
from ..fast.gpu import scalars, source
from ..fast.gpu.stages import Stages
from ..fast.program import Ratio, Row, Signature
from ..fast.program import evaluate as combined
from ..fast.trace import Node
from .ops import TorchOps

BLOCK = 128
"""Positions of a program: as many as it has threads."""
WARPS = 4
UNTIL_WIDE = 2**31 - 2**20
"""Elements up to which int32 counts them, with room for the last program."""
OPTIONS: dict[str, Any] = {"num_warps": WARPS, "enable_fp_fusion": False}
"""No multiplication and addition become one."""


_interpreted = False


@contextlib.contextmanager
def interpreted() -> Iterator[None]:
    """For tests: these kernels for CPU tensors, where TRITON_INTERPRET=1 had been set when triton was imported."""
    global _interpreted
    before, _interpreted = _interpreted, True
    try:
        yield
    finally:
        _interpreted = before


def serves(device: torch.device) -> bool:
    """Whether these kernels are for tensors of a device."""
    return fast.on_devices and (device.type == "cuda" or (_interpreted and device.type == "cpu"))


def loaded(text: str, name: str) -> dict[str, Any]:
    """The functions of a source. Triton reads their text, which for it is that of a file that linecache knows."""
    file = f"<dualloss {name}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    namespace: dict[str, Any] = {"__name__": f"dualloss.fast.gpu.{name}"}
    exec(compile(text, file, "exec"), namespace)
    return namespace


class Arrays:
    """The tensors of a call, brought into layouts that kernels know.

    Attributes:
        batch: the size of the first axis.
        samples: how many times the kernel's spatial axes occur; without spatial axes the batch is one of its own.
        positions: positions of a sample.
        gradient: where the gradient goes, or None.
        device: where all are.
    """

    def __init__(
        self,
        labels: bool,
        axis: int,
        x: Tensor,
        target: Tensor,
        mask: Tensor | None,
        weight: Tensor | None,
        gradient: Tensor | None,
    ) -> None:
        self.device, self.gradient = x.device, gradient
        values = _arranged(x, axis)
        if gradient is not None and _steps(_moved(gradient, axis)) != _steps(values):
            values = _moved(torch.empty_like(gradient, dtype=x.dtype).copy_(x), axis)
        self.batch = int(values.shape[0])
        flat = values.ndim == 2
        self.samples = 1 if flat else self.batch
        self.spatial = [int(n) for n in (values.shape[:1] if flat else values.shape[2:])]
        self.positions = math.prod(self.spatial)
        self.channels = int(values.shape[1])
        held: dict[str, Tensor | None] = {"x": values, "mask": None, "weight": weight}
        steps = [_steps(values), (0, 0, 0)]
        if labels:
            held["label"] = target.contiguous()
        else:
            held["target"] = dense = _arranged(target, axis)
            steps[1] = _steps(dense)
        if mask is not None:
            held["mask"] = mask.contiguous().view(torch.uint8)
        if weight is not None:
            held["weight"] = weight.contiguous()
        self.held = {name: array.detach() for name, array in held.items() if array is not None}
        self.total = self.samples * self.positions
        self.numbers = [
            self.total,
            self.positions,
            *self.spatial,
            *([1] * (3 - len(self.spatial))),
            *steps[0],
            *steps[1],
        ]


def _moved(v: Tensor, axis: int) -> Tensor:
    """(B, C, *spatial)."""
    return v[:, None] if v.ndim == 1 else v.movedim(axis, 1)


def _arranged(v: Tensor, axis: int) -> Tensor:
    """The same, with the channels first or last in memory, without gaps."""
    moved = _moved(v, axis)
    if moved.is_contiguous() or moved.movedim(1, -1).is_contiguous():
        return moved
    return moved.contiguous()


def _steps(v: Tensor) -> tuple[int, int, int]:
    """From sample to sample, channel to channel, position to position."""
    channels, positions = int(v.shape[1]), math.prod(v.shape[2:])
    if v.ndim == 2 or not v.is_contiguous():
        return positions * channels, 1, channels
    return positions * channels, positions, 1


class Kernel:
    """Rows to sum and perhaps a gradient: one launch or, where neighbours need what is costly, several."""

    def __init__(self, rows: Sequence[Row], gradient: Node | None, channels: int, name: str) -> None:
        self.count, self.channels, self._name = sum(row.states for row in rows), channels, name
        self._rows, self._stages = rows, Stages(rows, gradient, channels)
        self._functions: dict[bool, tuple[list[Any], list[float]]] = {}
        self._tables: dict[torch.device, Tensor] = {}

    def source(self, wide: bool) -> tuple[str, list[float]]:
        """The source of its launches, and the constants that they read."""
        tables: list[float] = []
        texts = [source.helpers()]
        for k, launch in enumerate(self._stages.launches):
            place = self._stages.place
            texts.append(source.Writer(f"launch{k}", self._rows, launch, place, self.channels, tables, wide).text)
        return "\n\n".join(texts), tables

    def launches(self, wide: bool) -> list[Any]:
        """Its launches; ``wide``: for more elements than int32 can count."""
        return self._loaded(wide)[0]

    def _loaded(self, wide: bool) -> tuple[list[Any], list[float]]:
        if wide not in self._functions:
            text, tables = self.source(wide)
            functions = loaded(text, f"{self._name}{' wide' if wide else ''}")
            self._functions[wide] = [functions[f"launch{k}"] for k in range(len(self._stages.launches))], tables
        return self._functions[wide]

    def run(
        self,
        given: Arrays,
        parameters: Tensor,
        states: Tensor,
        flag: Tensor | None = None,
        when: int = 0,
        block: int = BLOCK,
    ) -> None:
        """Add the sums of the rows to ``states``, int64 (count, STATE), and write the gradient.

        Args:
            given: the arrays.
            parameters: the numbers of the program, float64.
            states: zeros.
            flag: an int32; the kernel does its work only if it is ``when``. None: always.
            when: 0 or 1.
            block: positions of a program.
        """
        if not given.total:
            return
        kept = self._stages.size * given.total
        wide = max(self.channels * given.total, kept) > UNTIL_WIDE
        launches, tables = self._loaded(wide)
        if given.device not in self._tables:
            self._tables[given.device] = torch.tensor(tables or [0.0], dtype=torch.float64, device=given.device)
        held, nothing = given.held, states
        memory = torch.empty(kept, dtype=torch.float64, device=given.device) if kept else nothing
        pointers = [held.get(name, nothing) for name in ("x", "label", "target", "mask", "weight")]
        pointers.append(nothing if given.gradient is None else given.gradient)
        pointers += [parameters, self._tables[given.device], states, memory, nothing if flag is None else flag]
        grid = (-(-given.total // block),)
        for launch in launches:
            launch[grid](*pointers, *given.numbers, WHEN=-1 if flag is None else when, BLOCK=block, **OPTIONS)


@functools.cache
def utilities() -> dict[str, Any]:
    """The launches that are the same for all losses."""
    return loaded(source.utilities(), "utilities")


def wrong_labels(given: Arrays, channels: int, ignore_index: int | None) -> Tensor:
    """Whether a label of a position that counts is no class: an int32 that is 1 or 0, on the device."""
    found = torch.zeros((), dtype=torch.int32, device=given.device)
    label, mask = given.held["label"], given.held.get("mask")
    if given.total:
        utilities()["find_wrong"][(-(-given.total // 1024),)](
            label, found if mask is None else mask, found, given.total, channels,
            0 if ignore_index is None else ignore_index, ignore_index is not None, mask is not None,
            BLOCK=1024, **OPTIONS,
        )  # fmt: skip
    return found


def _on(device: torch.device) -> Any:
    """Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def new_states(count: int, device: torch.device) -> Tensor:
    """Sums of nothing."""
    return torch.zeros((count, STATE), dtype=torch.int64, device=device)


def scaled(gradient: Tensor, upstream: Tensor, in_place: bool) -> Tensor:
    """A float32 gradient without gaps in memory times a scalar, rounded to float32."""
    result = gradient if in_place else torch.empty_like(gradient)
    if gradient.numel():
        with _on(gradient.device):
            utilities()["times"][(-(-gradient.numel() // 1024),)](
                gradient, result, upstream, gradient.numel(), in_place, BLOCK=1024, **OPTIONS
            )
    return result


class DeviceOps(TorchOps):
    """:class:`TorchOps`, with sums rounded by one launch: it is that of a hundred operations."""

    def rounded_sums(self, states: Tensor) -> Tensor:
        """What :func:`dualloss.exact.sums.to_float` gives."""
        flat = states.contiguous()
        result = torch.empty(states.shape[:-1], dtype=torch.float64, device=states.device)
        number = result.numel()
        utilities()["round_sums"][(-(-number // 128),)](flat, result, number, BLOCK=128, **OPTIONS)
        return result


_OPS = DeviceOps()


class Around:
    """The launches around the kernels: parameters, then loss, terms and sums."""

    def __init__(self, made: scalars.Scalars, name: str) -> None:
        self._made, self._functions = made, loaded(made.source, name)

    def evaluate(
        self,
        run: Callable[[bool, bool, bool, Tensor], tuple[Tensor, None]],
        given: Arrays,
        samples: int,
        weights: Tensor | None,
        totals: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, terms and sums; ``run`` is that of :func:`dualloss.fast.program.evaluate`."""
        made, device = self._made, given.device
        sums = torch.empty(made.sums, dtype=torch.int64, device=device)
        results = [torch.empty(shape, dtype=torch.float32, device=device) for shape in ((), made.sums[:1])]
        states: list[Tensor] = []

        def launch(name: str, *out: Tensor) -> None:
            first, second, *_ = [*states, sums, sums]  # of those that are not read any tensor will do
            others = (sums if v is None else v.contiguous() for v in (totals, weights))
            self._functions[name][(1,)](
                first, second, *others, given.total, samples, *out, **{**OPTIONS, "num_warps": 1}
            )

        for k, rows in enumerate(made.runs):
            parameters = torch.empty(made.parameters, dtype=torch.float64, device=device)
            launch(f"before{k}", parameters)
            states.append(run(*rows, parameters)[0])
        launch("after", *results, sums)
        return results[0], results[1], sums


@functools.lru_cache(maxsize=256)
def _around(
    what: Signature, reduction: str, gradient: bool, totals: tuple[int, ...] | None, weights: bool
) -> Around | None:
    """None for terms that are ratios of sums, of which there may be very many."""
    traced = fast.program(what)
    assert traced is not None
    if any(isinstance(term, Ratio) for term in traced.terms):
        return None
    key = (what, reduction, gradient, totals, weights)
    name = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
    return Around(scalars.scalars(what, traced, reduction, gradient, totals, weights), name)


@functools.lru_cache(maxsize=256)
def compiled(what: Signature, first: bool, second: bool, gradient: bool) -> Kernel:
    """The kernel of these rows (:meth:`dualloss.fast.program.Program.rows`), perhaps with the gradient."""
    traced = fast.program(what)
    assert traced is not None
    name = hashlib.sha256(repr((what, first, second, gradient)).encode()).hexdigest()[:16]
    return Kernel(traced.rows(first, second), traced.gradient if gradient else None, what.channels, name)


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
        what: the loss and the kind of its input, for which :func:`dualloss.fast.program` gives one. Labels that are not
            trusted are looked at on the device, which then does what it would do for trusted ones, if it can.
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
    with _on(x.device):
        given = Arrays(what.labels, axis, x, target, mask, weight, gradient)
        programs: list[tuple[Signature, Any]] = [(what, fast.program(what))]
        flag = None
        if what.labels and not what.trusted:
            trusted = dataclasses.replace(what, trusted=True)
            programs = [(trusted, fast.program(trusted)), *programs]
            flag = wrong_labels(given, what.channels, what.spec.ignore_index)

        def run(first: bool, second: bool, with_gradient: bool, parameters: Tensor) -> tuple[Tensor, None]:
            kernels = [compiled(kind, first, second, with_gradient) for kind, _ in programs]
            states = new_states(kernels[0].count, given.device)
            for when, kernel in enumerate(kernels):
                kernel.run(given, parameters, states, flag, when)
            return states, None

        samples = given.batch if given.positions else 0
        around = _around(
            what, reduction, gradient is not None, None if totals is None else tuple(totals.shape), weights is not None
        )
        if around is not None:
            return around.evaluate(run, given, samples, weights, totals)
        numbers = {"positions": given.total, "samples": samples, "nothing": 0}
        known = {name: torch.full((), n, dtype=torch.int64, device=given.device) for name, n in numbers.items()}
        loss, terms, sums, _ = combined(
            _OPS, what, programs[-1][1], reduction, run, known, weights=weights, totals=totals,
            gradient=gradient is not None,
        )  # fmt: skip
        return loss, terms, sums
