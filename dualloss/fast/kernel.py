"""Kernels: compiled once for a loss and a kind of input, then run on pointers by several threads."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import math
import os
import threading
from collections.abc import Sequence
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from ..exact.sums import STATE
from . import codegen
from .layout import GEOMETRY, POINTERS, TILE
from .program import Row
from .trace import Node

_RUN = ctypes.CFUNCTYPE(ctypes.c_int32, *(ctypes.c_void_p,) * 4)
_LEAST = 1 << 14
"""Elements below which a second thread costs more than it saves."""
_MUCH = 1 << 27
"""Bytes that no second thread gets: region terms need some thousands for each channel."""


class Arrays:
    """The arrays of a call, brought into shapes and layouts that kernels know.

    Attributes:
        batch: the size of the first axis.
        samples: how many times the kernel's spatial axes occur; without spatial axes the batch is one of its own.
        spatial: their sizes.
        positions: positions of a sample.
        x_last, t_last: whether the channels of the input, and of a dense target (None: labels), are last in memory.
        places: the addresses of the arrays.
    """

    def __init__(self, labels: bool, axis: int, x: Any, target: Any, mask: Any, weight: Any, gradient: bool) -> None:
        self._axis, self._shape = axis, np.shape(x)
        values = _arranged(x, axis)
        self.batch = values.shape[0]
        self.samples: int = values.shape[0] if values.ndim > 2 else 1
        self.spatial: tuple[int, ...] = values.shape[2:] if values.ndim > 2 else values.shape[:1]
        self.positions = math.prod(self.spatial)
        self.x_last = _last(values)
        self.t_last: bool | None = None
        self._gradient = None
        held = {"x": values}
        others = [("mask", mask, np.bool_), ("weight", weight, np.float32)]
        if labels:
            others.append(("label", target, np.int64))  # of what has none, None
        else:
            held["target"] = _arranged(target, axis)
            self.t_last = _last(held["target"])
        for name, array, dtype in others:
            if array is not None:
                held[name] = np.ascontiguousarray(array, dtype)
        if gradient:
            shape = values.shape
            if self.x_last:
                shape = (shape[0], *shape[2:], shape[1])
            held["gradient"] = np.empty(shape, np.float32)
            self._gradient = np.moveaxis(held["gradient"], -1, 1) if self.x_last else held["gradient"]
        self._held = held
        self.places = {name: array.ctypes.data for name, array in held.items()}

    def result(self) -> Any:
        """The gradient, in the shape of the input; or None."""
        if self._gradient is None:
            return None
        moved = self._gradient if len(self._shape) == 1 else np.moveaxis(self._gradient, 1, self._axis)
        return moved.reshape(self._shape)


def _last(v: Any) -> bool:
    """Whether the channels, axis 1, are last in memory."""
    return v.ndim == 2 or not v.flags.c_contiguous


def _arranged(v: Any, axis: int) -> Any:
    """(B, C, *spatial), float32, with the channels first or last in memory."""
    v = np.asarray(v, np.float32)
    v = v[:, None] if v.ndim == 1 else np.moveaxis(v, axis, 1)
    return v if v.flags.c_contiguous or np.moveaxis(v, 1, -1).flags.c_contiguous else np.ascontiguousarray(v)


class Kernel:
    """Rows to sum and perhaps a gradient, compiled."""

    def __init__(self, rows: Sequence[Row], gradient: Node | None, channels: int) -> None:
        self.count, self.channels = sum(row.states for row in rows), channels
        module, self.rings, self.fixed = codegen.build(rows, gradient, channels)
        text = str(module)
        self.digest = hashlib.sha256(text.encode()).hexdigest()[:32]
        self._engine = _compiled(text)
        self._run = _RUN(self._engine.get_function_address("run"))

    @property
    def call(self) -> int:
        """The address of the function for XLA."""
        return int(self._engine.get_function_address("call"))

    def geometry(self, samples: int, spatial: Sequence[int], x_last: bool, t_last: bool | None, threads: int) -> Any:
        """The numbers that a kernel gets, int64, for arrays without gaps.

        Args:
            samples: how many there are.
            spatial: their sizes, at least one.
            x_last: whether the channels of the input are the last axis in memory; else they follow the sample.
            t_last: the same of the dense target; None for labels.
            threads: how many may work.
        """
        positions, plane = math.prod(spatial), 1
        if self.rings.stages == 1:
            if x_last and t_last is not False:
                samples, positions = 1, samples * positions  # one sample follows the other
            part = -(-samples * positions // (4 * threads))
            width = max(1, min(positions, max(64, min(1024, -(-part // TILE) * TILE))))
            height, block, reach = -(-positions // width), width, 0
        else:
            width = max(1, spatial[-1])
            height = positions // width
            block = max(TILE, min(-(-width // TILE) * TILE, 128))
            reach = 0 if len(spatial) == 1 else 1
            if len(spatial) == 3:
                plane = reach = spatial[1]
        rows = samples * height
        work = self.fixed + -(-self.rings.bytes(block, reach, self.channels) // 64) * 64
        if samples * positions * self.channels < _LEAST or work > _MUCH:
            threads = 1
        # Some shares for each thread, but not so small that the rows around them, which stencils need, cost much.
        least = 32 * reach * (self.rings.stages - 1)
        share = max(1, min(max(-(-rows // (4 * threads)), least), -(-rows // threads)) if threads > 1 else rows)
        steps = [
            (self.channels * positions, *((1, self.channels) if last else (positions, 1))) for last in (x_last, t_last)
        ]
        sizes = (height, width, positions, block, plane)
        return np.array([*sizes, *steps[0], *steps[1], rows, share, threads, work], np.int64)

    def run(self, given: Arrays, parameters: Sequence[float], threads: int) -> Any:
        """The states of the rows, int64 (count, STATE); writes the gradient, if the kernel has one.

        Args:
            given: the arrays.
            parameters: the numbers of the program.
            threads: how many may work.
        """
        geometry = self.geometry(given.samples, given.spatial, given.x_last, given.t_last, threads)
        assert len(geometry) == len(GEOMETRY)
        arrays = np.array([given.places.get(name, 0) for name in POINTERS], np.uint64)
        numbers = np.array(parameters, np.float64)
        states = np.zeros((self.count, STATE), np.int64)
        if self._run(*(a.ctypes.data for a in (arrays, geometry, numbers, states))):
            needed = int(geometry[GEOMETRY.index("work")] * geometry[GEOMETRY.index("threads")])
            raise MemoryError(f"a kernel of {self.channels} channels needs {needed:,} bytes")
        return states


@functools.cache
def _target() -> tuple[Any, str, str]:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple(), llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()


_compiling = threading.Lock()
_NEAR: dict[str, str] = {} if os.name == "nt" else {"reloc": "pic", "codemodel": "small"}
"""Near code: else every constant takes an instruction for its address. Untried on Windows, so not there."""


def _compiled(module: str) -> Any:
    """The machine code of a module."""
    with _compiling:
        target, cpu, features = _target()
        machine = target.create_target_machine(cpu=cpu, features=features, opt=3, jit=True, **_NEAR)
        parsed = llvm.parse_assembly(module)
        parsed.verify()
        options = llvm.create_pipeline_tuning_options(speed_level=3)
        options.loop_unrolling = False
        builder = llvm.create_pass_builder(machine, options)
        builder.getModulePassManager().run(parsed, builder)
        # One stretch of memory for all sections: what is addressed relative to the code has to be near.
        engine = llvm.create_mcjit_compiler(parsed, machine, use_lmm=bool(_NEAR) or None)
        engine.finalize_object()
    return engine
