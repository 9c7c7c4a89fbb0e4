"""Tensors for the kernels of :mod:`dualloss.fast`, as operators that every tracer of PyTorch knows what to do with."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import torch
from torch import Tensor

from .. import fast
from ..exact.layout import Layout
from ..exact.sums import STATE
from ..spec import Spec, from_json
from . import gpu


def _supported(spec: Spec, channels: int, spatial: int, labels: bool, mask: bool, weight: bool) -> bool:
    return fast.program(fast.Signature(spec, channels, spatial, labels, mask, weight)) is not None


# What torch.compiler.assume_constant_result does; but that imports torch._dynamo, which takes seconds.
_supported._dynamo_marked_constant = True  # type: ignore[attr-defined]


def serves(
    spec: Spec, reduction: str, layout: Layout, input: Tensor, mask: Tensor | None, weight: Tensor | None
) -> bool:
    """Whether kernels compute this loss; else the array engine does."""
    if reduction == "none" or not _here(input.device):
        return False
    return _supported(
        spec, int(layout.channels), len(layout.spatial), layout.labels, mask is not None, weight is not None
    )


def _here(device: torch.device) -> bool:
    """Whether there are kernels for tensors of a device."""
    return gpu.serves(device) or (device.type == "cpu" and fast.enabled)


def scales(input: Tensor) -> bool:
    """Whether :func:`scaled` is for gradients of an input."""
    return input.dtype == torch.float32 and _here(input.device)


def evaluate(
    text: str,
    reduction: str,
    layout: Layout,
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    totals: Tensor | None,
    weights: Tensor | None,
    gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Loss, terms, sums and, if asked for, the float32 gradient of the exact numerics; ``text`` is the spec's JSON."""
    trusted = layout.labels and not torch.compiler.is_compiling()  # in eager mode the labels have been looked at
    compute = _compute if _at_once(input) else _exact
    loss, terms, sums, found = compute(
        input, target, mask, weight, totals, weights, text, reduction, layout.axis, layout.labels, trusted, gradient
    )
    return loss, terms, sums, found if gradient else None


def scaled(gradient: Tensor, upstream: Tensor) -> Tensor:
    """The float32 gradient for an upstream gradient, a scalar."""
    if _at_once(upstream):
        if gpu.serves(gradient.device):  # a look at upstream would wait for the device
            return gpu.scaled(gradient, upstream, in_place=not _kept())
        if float(upstream) != 1.0:
            return _times(gradient, upstream)
        return gradient.clone() if _kept() else gradient  # who gets it may change it
    product: Tensor = _scaled(gradient, upstream)
    return product


def _kept() -> bool:
    """Whether the graph may be gone through once more; where PyTorch does not say, it may."""
    asked = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return asked is None or bool(asked())


def _at_once(v: Tensor) -> bool:
    """Whether nothing traces: then no operator has to be called, the first of which imports torch._dynamo."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return type(v) in (Tensor, torch.nn.Parameter) and torch._C._len_torch_dispatch_stack() == 0


def _compute(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    totals: Tensor | None,
    weights: Tensor | None,
    text: str,
    reduction: str,
    axis: int,
    labels: bool,
    trusted: bool,
    gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    spec = _spec(text)
    channels = int(input.shape[axis]) if input.ndim > 1 else 1
    spatial = max(input.ndim - 2, 0)
    what = fast.Signature(spec, channels, spatial, labels, mask is not None, weight is not None, trusted)
    if gpu.serves(input.device):
        place = _like(input, axis) if gradient else None
        computed = gpu.evaluate(
            what, reduction, axis, input, target, mask=mask, weight=weight, weights=weights, totals=totals,
            gradient=place,
        )  # fmt: skip
        return *computed, input.new_empty(0, dtype=torch.float32) if place is None else place

    def array(v: Tensor | None, dtype: torch.dtype | None = None) -> np.ndarray | None:
        return None if v is None else v.detach().to(dtype).resolve_neg().numpy()

    given, masked = array(target, None if labels else torch.float32), array(mask)
    if labels and not trusted:
        what = dataclasses.replace(what, trusted=fast.all_classes(given, masked, channels, spec.ignore_index))
    found = fast.evaluate(
        what,
        reduction,
        axis,
        array(input, torch.float32),
        given,
        mask=masked,
        weight=array(weight, torch.float32),
        weights=array(weights),
        totals=array(totals),
        gradient=gradient,
        threads=torch.get_num_threads(),
    )
    loss, terms, sums = (torch.from_numpy(np.array(v)) for v in (found.loss, found.terms, found.sums))
    if not gradient:
        return loss, terms, sums, torch.empty(0)
    result, expected = torch.from_numpy(found.gradient), _like(input, axis)
    return loss, terms, sums, result if result.stride() == expected.stride() else expected.copy_(result)


_exact = torch.library.custom_op("dualloss::exact", _compute, mutates_args=(), device_types=("cpu", "cuda"))


@_exact.register_fake
def _(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    totals: Tensor | None,
    weights: Tensor | None,
    text: str,
    reduction: str,
    axis: int,
    labels: bool,
    trusted: bool,
    gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    parts, channels = _spec(text).parts, input.shape[axis] if input.ndim > 1 else 1
    count, width = len(parts), max(term.count_sums(channels) for _, term in parts)
    sums = input.new_empty((count, width, STATE), dtype=torch.int64)
    loss, terms = (input.new_empty(shape, dtype=torch.float32) for shape in ((), (count,)))
    return loss, terms, sums, _like(input, axis) if gradient else input.new_empty(0, dtype=torch.float32)


def _times(gradient: Tensor, upstream: Tensor) -> Tensor:
    if gpu.serves(gradient.device):
        return gpu.scaled(gradient, upstream, in_place=False)
    result = torch.from_numpy(fast.scaled(gradient.numpy(), float(upstream), torch.get_num_threads()))
    return result if result.stride() == gradient.stride() else torch.empty_like(gradient).copy_(result)


_scaled = torch.library.custom_op("dualloss::scaled", _times, mutates_args=(), device_types=("cpu", "cuda"))


@_scaled.register_fake
def _(gradient: Tensor, upstream: Tensor) -> Tensor:
    return torch.empty_like(gradient)


def _like(input: Tensor, axis: int) -> Tensor:
    """Where the gradient goes: contiguous, or with the channels last in memory, as the input has them."""
    if input.ndim > 2 and not input.is_contiguous():
        last = input.movedim(axis, -1)
        if last.is_contiguous():
            return torch.empty(last.shape, dtype=torch.float32, device=input.device).movedim(-1, axis)
    return torch.empty(input.shape, dtype=torch.float32, device=input.device)


@functools.lru_cache(maxsize=64)
def _spec(text: str) -> Spec:
    return from_json(text)
