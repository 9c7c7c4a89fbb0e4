"""Tensors for the kernels of :mod:`dualloss.fast`."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from .. import fast
from ..exact.layout import Layout
from ..exact.sums import STATE
from ..spec import Spec, from_json


def _supported(spec: Spec, channels: int, spatial: int, labels: bool, mask: bool, weight: bool) -> bool:
    return fast.program(fast.Signature(spec, channels, spatial, labels, mask, weight)) is not None


# What torch.compiler.assume_constant_result does; but that imports torch._dynamo, which takes seconds.
_supported._dynamo_marked_constant = True  # type: ignore[attr-defined]


def serves(
    spec: Spec, reduction: str, layout: Layout, input: Tensor, mask: Tensor | None, weight: Tensor | None
) -> bool:
    """Whether kernels compute this loss; else the array engine does."""
    if reduction == "none" or input.device.type != "cpu" or not fast.enabled:
        return False
    return _supported(
        spec, int(layout.channels), len(layout.spatial), layout.labels, mask is not None, weight is not None
    )


def evaluate(
    spec: Spec,
    text: str,
    reduction: str,
    axis: int,
    labels: bool,
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    totals: Tensor | None,
    weights: Tensor | None,
    gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Loss, terms, sums and, if asked for, the float32 gradient of the exact numerics; ``text`` is the spec's JSON."""
    if torch.compiler.is_compiling():
        loss, terms, sums, found = _operator(
            input, target, mask, weight, totals, weights, text, reduction, axis, labels, gradient
        )
        return loss, terms, sums, found if gradient else None
    # In eager mode the labels have been looked at.
    return _evaluate(spec, reduction, axis, labels, input, target, mask, weight, totals, weights, gradient, labels)


def _evaluate(
    spec: Spec,
    reduction: str,
    axis: int,
    labels: bool,
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    totals: Tensor | None,
    weights: Tensor | None,
    gradient: bool,
    trusted: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    channels = input.shape[axis] if input.ndim > 1 else 1
    what = fast.Signature(spec, channels, max(input.ndim - 2, 0), labels, mask is not None, weight is not None, trusted)

    def array(v: Tensor | None, dtype: torch.dtype | None = None) -> np.ndarray | None:
        return None if v is None else v.detach().to(dtype).numpy()

    found = fast.evaluate(
        what,
        reduction,
        axis,
        array(input, torch.float32),
        array(target, None if labels else torch.float32),
        mask=array(mask),
        weight=array(weight, torch.float32),
        weights=array(weights),
        totals=array(totals),
        gradient=gradient,
        threads=torch.get_num_threads(),
    )
    loss, terms, sums = (torch.from_numpy(np.array(v)) for v in (found.loss, found.terms, found.sums))
    return loss, terms, sums, None if found.gradient is None else torch.from_numpy(found.gradient)


def scaled(gradient: Tensor, upstream: Tensor) -> Tensor:
    """The float32 gradient for an upstream gradient, a scalar."""
    if torch.compiler.is_compiling():
        scaled_in_graph: Tensor = _scaled(gradient, upstream)
        return scaled_in_graph
    factor = float(upstream)
    return gradient if factor == 1.0 else _times(gradient, factor)


def _times(gradient: Tensor, factor: float) -> Tensor:
    return torch.from_numpy(fast.scaled(gradient.numpy(), factor, torch.get_num_threads()))


@torch.library.custom_op("dualloss::scaled", mutates_args=(), device_types="cpu")
def _scaled(gradient: Tensor, upstream: Tensor) -> Tensor:
    """The same as one node of a compiled graph."""
    return _times(gradient, float(upstream))


@_scaled.register_fake
def _(gradient: Tensor, upstream: Tensor) -> Tensor:
    return torch.empty_like(gradient)


@functools.lru_cache(maxsize=64)
def _spec(text: str) -> Spec:
    return from_json(text)


@torch.library.custom_op("dualloss::exact", mutates_args=(), device_types="cpu")
def _operator(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    totals: Tensor | None,
    weights: Tensor | None,
    spec: str,
    reduction: str,
    axis: int,
    labels: bool,
    gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same as one node of a compiled graph."""
    loss, terms, sums, found = _evaluate(
        _spec(spec), reduction, axis, labels, input, target, mask, weight, totals, weights, gradient,
        trusted=labels
        and fast.all_classes(
            target.numpy(), None if mask is None else mask.numpy(), input.shape[axis], _spec(spec).ignore_index
        ),
    )  # fmt: skip
    return loss, terms, sums, input.new_empty(0, dtype=torch.float32) if found is None else found.contiguous()


@_operator.register_fake
def _(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    totals: Tensor | None,
    weights: Tensor | None,
    spec: str,
    reduction: str,
    axis: int,
    labels: bool,
    gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    count = len(_spec(spec).parts)

    def of(dtype: torch.dtype, *shape: int) -> Tensor:
        return input.new_empty(shape, dtype=dtype)

    gradients = of(torch.float32, *input.shape) if gradient else of(torch.float32, 0)
    return of(torch.float32), of(torch.float32, count), of(torch.int64, count, 2, STATE), gradients
