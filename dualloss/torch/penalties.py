"""Penalties on the weights of a model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..exact import engine, functions, sums
from ..exact.layout import check_penalty
from ..exact.terms import Inputs
from ..spec import Spec
from . import native
from .ops import TorchOps

_OPS = TorchOps()
_FLOATS = (torch.float16, torch.bfloat16, torch.float32)


def penalty(
    spec: Spec, parameters: Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Tensor, *, numerics: str = "exact"
) -> Tensor:
    """A penalty on weights, to add to the loss: ``loss + penalty(1e-4 * dl.L2(), model.parameters())``.

    Args:
        spec: a sum of ``L1`` and ``L2`` with weights.
        parameters: float16, bfloat16 or float32 tensors, ``model.parameters()`` or ``model.named_parameters()``. One
            that comes twice counts twice.
        numerics: ``"exact"``: the bits that docs/numerics/penalties.md defines, whatever the order of the tensors;
            ``"native"``: PyTorch's own sums, differentiable any number of times.

    Returns:
        The penalty of all tensors together, a float32 scalar on the device of the first; its gradient reaches each.

    Raises:
        TypeError: what is no tensor, or of another dtype.
        ValueError: a spec of other terms, or with a schedule (give ``spec.at(step)``); no tensors.
    """
    check_penalty(spec, numerics)
    tensors = _tensors(parameters)
    return _Exact.apply(spec, *tensors) if numerics == "exact" else native.penalty(spec, tensors)[0]


class _Exact(torch.autograd.Function):
    """The value by the exact sums of every tensor, and the gradients, computed beside it."""

    @staticmethod
    def forward(ctx: Any, spec: Spec, *tensors: Tensor) -> Tensor:
        states, gradients = [], []
        for tensor, needed in zip(tensors, ctx.needs_input_grad[1:], strict=True):
            w = functions.load(_OPS, tensor.detach().reshape(-1, 1))
            result = engine.evaluate(_OPS, spec, Inputs(_OPS, w, w, None, 1, ()), "sum")
            states.append(result.sums.to(tensors[0].device))
            gradients.append(result.gradient(None).reshape(tensor.shape) if needed else None)
        ctx.dtypes = [str(tensor.dtype).removeprefix("torch.") for tensor in tensors]
        ctx.save_for_backward(*tensors, *gradients)
        return engine.from_sums(_OPS, spec, sums.carried(_OPS, torch.stack(states)).sum(0), "sum")[0]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        half = len(ctx.dtypes)
        return None, *(
            None if gradient is None else _Scaled.apply(upstream.to(gradient.device), tensor, gradient, dtype)
            for tensor, gradient, dtype in zip(
                ctx.saved_tensors[:half], ctx.saved_tensors[half:], ctx.dtypes, strict=True
            )
        )


class _Scaled(torch.autograd.Function):
    """Upstream times gradient, rounded to the tensor's dtype. It depends on the tensor, but knows no derivative."""

    @staticmethod
    def forward(ctx: Any, upstream: Tensor, tensor: Tensor, gradient: Tensor, dtype: str) -> Tensor:
        return engine.backward(_OPS, upstream, gradient, dtype)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(
            "exact numerics can be differentiated once only: for second derivatives use "
            "dualloss.torch.penalty(spec, parameters, numerics='native')"
        )


def _tensors(parameters: Any) -> list[Tensor]:
    """The tensors, checked."""
    if isinstance(parameters, nn.Module):
        raise TypeError(f"parameters is {type(parameters).__name__}, expected its tensors: model.parameters()")
    pairs = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    tensors = []
    for i, item in enumerate(pairs):
        name, value = item if isinstance(item, tuple) and len(item) == 2 else (f"parameters[{i}]", item)
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} is {type(value).__name__}, expected a torch.Tensor")
        if value.dtype not in _FLOATS:
            raise TypeError(f"{name} has dtype {value.dtype}, expected float16, bfloat16 or float32: cast it")
        tensors.append(value)
    if not tensors:
        raise ValueError("parameters is empty, expected at least one tensor (has the generator been used before?)")
    return tensors
