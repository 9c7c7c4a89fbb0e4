"""The ways to run a function that is written over the operations of ``dualloss.exact.ops``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from dualloss.exact.numpy_ops import NumpyOps

Array = Any
Function = Callable[..., Any]

NAMES = ("numpy", "torch eager", "torch compiled", "tf eager", "tf graph", "tf XLA")


@dataclass(frozen=True)
class Mode:
    """A framework and how it runs.

    ``call(f, *arrays)``: the arrays of ``f(ops, *tensors)``, which gives a tensor or several.
    ``compiles``: whether a call takes seconds, so that tests bundle several functions in one.
    """

    name: str
    call: Callable[..., list[Array]]
    compiles: bool = False


def make(name: str) -> Mode:
    """The mode of this name; skips the test where its framework is missing."""
    framework, _, how = name.partition(" ")
    if framework == "torch":
        return _torch(name, how)
    if framework == "tf":
        return _tensorflow(name, how)
    return Mode(name, _numpy)


def as_bits(array: Array) -> Array:
    """The bits of a floating-point array; other arrays as they are."""
    array = np.asarray(array, order="C")  # keeps shape ()
    sizes = {2: np.uint16, 4: np.uint32, 8: np.uint64}
    return array if array.dtype.kind in "iub" else array.view(sizes[array.dtype.itemsize])


def differing(got: Array, expected: Array) -> str:
    """What differs first, or "". NaN equals NaN: within a computation its sign and payload are free."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return f"{got.dtype}{got.shape}, expected {expected.dtype}{expected.shape}"
    wrong = as_bits(got) != as_bits(expected)
    if got.dtype.kind not in "iub":
        wrong &= ~(np.isnan(got) & np.isnan(expected))
    where = np.argwhere(wrong)
    if not len(where):
        return ""
    first = tuple(where[0])
    pair = f"{got[first]!r}, expected {expected[first]!r}"
    return f"{len(where)} of {wrong.size} elements, first at {tuple(map(int, first))}: {pair}"


def _several(result: Any) -> Sequence[Any]:
    return result if isinstance(result, (tuple, list)) else (result,)


def _numpy(function: Function, *arrays: Array) -> list[Array]:
    with np.errstate(all="ignore"):
        return [np.asarray(r) for r in _several(function(NumpyOps(), *arrays))]


def _torch(name: str, how: str) -> Mode:
    torch: Any = pytest.importorskip("torch")
    from dualloss.torch.ops import TorchOps

    def tensor(array: Array) -> Any:
        if array.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(np.asarray(array))

    def array(result: Any) -> Array:
        if result.dtype == torch.bfloat16:
            return result.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return result.numpy()

    def call(function: Function, *arrays: Array) -> list[Array]:
        ops = TorchOps()

        def run(*tensors: Any) -> Any:
            return _several(function(ops, *tensors))

        if how == "compiled":
            torch._dynamo.reset()
            run = torch.compile(run, fullgraph=True, dynamic=False)
        return [array(r) for r in run(*map(tensor, arrays))]

    return Mode(name, call, compiles=how == "compiled")


def _tensorflow(name: str, how: str) -> Mode:
    tf: Any = pytest.importorskip("tensorflow")
    from dualloss.tf.ops import TensorFlowOps

    def call(function: Function, *arrays: Array) -> list[Array]:
        ops = TensorFlowOps()

        def run(*tensors: Any) -> Any:
            return tuple(_several(function(ops, *tensors)))

        if how != "eager":
            run = tf.function(run, autograph=False, jit_compile=how == "XLA")
        return [r.numpy() for r in run(*(tf.constant(a) for a in arrays))]

    return Mode(name, call)
