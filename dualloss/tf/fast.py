"""The kernels of :mod:`dualloss.fast` inside XLA's programs.

XLA on CPUs calls functions by name, and TensorFlow's library exports the registry of those names. It is C++, so it is
called as the Itanium ABI says, with strings as libstdc++ lays them out; where any of that is missing (another system,
another TensorFlow) :func:`serves` says no, and the array engine computes the loss.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from .. import fast
from ..exact import sums
from ..exact.layout import Layout
from ..spec import Spec
from .ops import TensorFlowOps

Tensor = Any

_OPS = TensorFlowOps()
_STRING = "NSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"
_REGISTRY = "_ZN3xla24CustomCallTargetRegistry6GlobalEv"
_REGISTER = f"_ZN3xla24CustomCallTargetRegistry8RegisterERK{_STRING}PvS8_"


class _String(ctypes.Structure):
    """A std::string whose characters lie elsewhere; read only."""

    _fields_ = (("data", ctypes.c_char_p), ("size", ctypes.c_size_t), ("buffer", ctypes.c_char * 16))


@functools.cache
def _register() -> Callable[[str, int], None] | None:
    """What makes a function known to XLA by a name; None where there is no way."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        from tensorflow.compiler.tf2xla.ops.gen_xla_ops import xla_custom_call_v2  # noqa: F401

        library = ctypes.CDLL(str(Path(tf.__file__).with_name("libtensorflow_cc.so.2")))
        registry, register = library[_REGISTRY], library[_REGISTER]
    except (ImportError, OSError, AttributeError):
        return None
    registry.restype, registry.argtypes = ctypes.c_void_p, []
    register.restype, register.argtypes = None, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]

    def known_as(name: str, address: int) -> None:
        texts = [_String(text, len(text)) for text in (name.encode(), b"Host")]
        register(registry(), ctypes.addressof(texts[0]), address, ctypes.addressof(texts[1]))

    return known_as


_known: dict[str, Any] = {}
"""The kernels that XLA knows, by name; graphs hold their addresses, so they stay."""


def _name(kernel: Any) -> str:
    """The name by which XLA knows a kernel: one that says what it computes.

    A graph that is saved and loaded in another process finds the same kernel there, or none, which is an error.
    """
    name = f"dualloss_{kernel.digest}"
    if name not in _known:
        register = _register()
        assert register is not None
        _known[name] = kernel
        register(name, kernel.call)
    return name


def serves(spec: Spec, reduction: str, layout: Layout, given: Any) -> bool:
    """Whether kernels compute this loss; else the array engine does."""
    if reduction == "none" or not fast.enabled or _register() is None or _accelerated():
        return False
    shape = given.y_pred.shape
    if any(n is None for a, n in enumerate(shape) if a != 0) or (shape[0] is None and shape.rank < 3):
        return False
    return fast.program(_signature(spec, layout, given, False)) is not None


@functools.cache
def _accelerated() -> bool:
    return bool(tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices("TPU"))


def spares_products() -> bool:
    """Whether to look at an upstream gradient, and leave out a product with 1; on a device, a look would wait."""
    return not _accelerated()


def _signature(spec: Spec, layout: Layout, given: Any, trusted: bool) -> fast.Signature:
    return fast.Signature(
        spec,
        layout.channels,
        len(layout.spatial),
        layout.labels,
        given.mask is not None,
        given.weight is not None,
        trusted and layout.labels,
    )


def _threads() -> int:
    asked = int(tf.config.threading.get_intra_op_parallelism_threads())
    return asked or len(os.sched_getaffinity(0))


def evaluate(
    spec: Spec, reduction: str, layout: Layout, given: Any, totals: Tensor | None, weights: Tensor | None, trusted: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, terms, and the float32 gradient; inside a function that XLA compiles."""
    axis, labels = layout.axis, layout.labels
    x = tf.cast(given.y_pred, tf.float32)
    shape = x.shape
    first = axis == 1 and shape.rank > 2
    last = axis == shape.rank - 1 or shape.rank == 1
    order = [0, *(a for a in range(1, shape.rank) if a != axis), axis] if not (first or last) else None

    def arranged(v: Tensor) -> Tensor:
        return v if order is None or shape.rank < 2 else tf.transpose(v, order)

    arrays = {"x": arranged(x)}
    if labels:
        arrays["label"] = given.target
    else:
        arrays["target"] = arranged(tf.cast(given.target, tf.float32))
    if given.mask is not None:
        arrays["mask"] = given.mask
    if given.weight is not None:
        arrays["weight"] = tf.cast(given.weight, tf.float32)
    traced = fast.program(_signature(spec, layout, given, trusted))
    assert traced is not None
    run = functools.partial(_run, spec, layout, given, arrays, not first, trusted)
    known = {
        "positions": tf.size(x, tf.int64) // layout.channels,
        "samples": tf.where(tf.size(x) > 0, tf.shape(x, tf.int64)[0], 0),
        "nothing": tf.constant(0, tf.int64),
    }
    what = _signature(spec, layout, given, trusted)
    loss, terms, _, gradient = fast.combined(
        _OPS, what, traced, reduction, run, known, weights=weights, totals=totals, gradient=True
    )
    if order is None:
        gradient = tf.reshape(gradient, tf.shape(x))
    else:
        gradient = tf.reshape(gradient, tf.gather(tf.shape(x), order))
        gradient = tf.transpose(gradient, [order.index(a) for a in range(shape.rank)])
    return loss, terms, gradient


def _run(
    spec: Spec,
    layout: Layout,
    given: Any,
    arrays: dict[str, Tensor],
    last: bool,
    trusted: bool,
    early: bool,
    late: bool,
    gradient: bool,
    parameters: Tensor,
) -> tuple[Tensor, Tensor]:
    """The states of rows and, if asked for, the gradient."""

    def kernel(trust: bool) -> Any:
        return fast.compiled(_signature(spec, layout, given, trust), early, late, gradient)

    def on(part: dict[str, Tensor]) -> list[Tensor]:
        """Of whole arrays whose sizes are known."""
        if trusted or not layout.labels:
            return _call(kernel(trusted), part, layout, last, parameters, gradient)
        good = _all_classes(part["label"], part.get("mask"), layout.channels, spec.ignore_index)
        return tf.cond(
            good,
            lambda: _call(kernel(True), part, layout, last, parameters, gradient),
            lambda: _call(kernel(False), part, layout, last, parameters, gradient),
        )

    if arrays["x"].shape[0] is not None:
        found = on(arrays)
        return found[0], found[1] if gradient else None
    # A batch of unknown size: XLA knows it, but calls have to say it before. Sample by sample, then.
    names = list(arrays)
    kinds = [tf.TensorSpec((kernel(trusted).count, sums.STATE), tf.int64)]
    size = int(np.prod(arrays["x"].shape[1:]))
    kinds += [tf.TensorSpec((size,), tf.float32)] if gradient else []

    def sample(items: list[Tensor]) -> list[Tensor]:
        return on({name: tf.expand_dims(item, 0) for name, item in zip(names, items, strict=True)})

    found = tf.map_fn(sample, [arrays[name] for name in names], fn_output_signature=kinds)
    return tf.reduce_sum(found[0], 0), found[1] if gradient else None


def _all_classes(labels: Tensor, mask: Tensor | None, channels: int, ignore_index: int | None) -> Tensor:
    wrong = tf.logical_or(labels < 0, labels >= channels)
    if ignore_index is not None:
        wrong = tf.logical_and(wrong, labels != ignore_index)
    if mask is not None:
        wrong = tf.logical_and(wrong, mask)
    return tf.logical_not(tf.reduce_any(wrong))


def _call(
    kernel: Any, arrays: dict[str, Tensor], layout: Layout, last: bool, parameters: Tensor, gradient: bool
) -> list[Tensor]:
    """The call of a kernel. All arrays are flat: so their layout in memory is the one of their shape."""
    from tensorflow.compiler.tf2xla.ops.gen_xla_ops import xla_custom_call_v2

    from ..fast.layout import POINTERS

    shape = list(arrays["x"].shape)
    sizes = shape if len(shape) == 1 else (shape[1:-1] if last else shape[2:])
    samples, spatial = (shape[0], sizes) if len(shape) > 2 else (1, shape[:1])
    geometry = kernel.geometry(samples, spatial, last, None if layout.labels else last, _threads())
    none = tf.zeros([1], tf.float32)
    operands = [tf.reshape(arrays.get(name, none), [-1]) for name in POINTERS if name != "gradient"]
    # Without a gradient, too, there are two results: one would not come as a list of places.
    size = int(np.prod(shape)) if gradient else 1
    found = xla_custom_call_v2(
        operands=[*operands, tf.constant(geometry), parameters],
        call_target_name=_name(kernel),
        backend_config="",
        has_side_effect=False,
        result_dtypes=[tf.int64, tf.float32],
        result_shapes=[(kernel.count, sums.STATE), (size,)],
    )
    return list(found) if gradient else [found[0]]
