"""The loss as an ``nn.Module``: shapes and dtypes checked, then exact or native numerics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import TOTAL_LOSS
from ..exact import engine, functions
from ..exact.layout import Layout, Names, check_options, check_totals, label_error, lay_out
from ..exact.terms import Inputs
from ..spec import Spec
from . import native
from .ops import TorchOps

_OPS = TorchOps()
_NAMES = Names("input", "target", "sample_weight")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class Loss(nn.Module):
    """A loss spec as a PyTorch criterion.

    Args:
        spec: the loss, for example ``dualloss.TOTAL_LOSS``.
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for the per-position map.
        numerics: ``"exact"``: the bits that docs/numerics.md defines, the same on every framework and device;
            ``"native"``: PyTorch's own formulas, differentiable any number of times.
        channel_axis: the axis of the input that holds the classes or channels.

    Shapes:
        input: logits (no softmax or sigmoid before the loss) or values, (B, C, *spatial), or (B,) for terms without
            classes; float16, bfloat16 or float32. Axis 1 holds channels for regression terms too.
        target: (B, *spatial) integer class indices, or dense targets (probabilities, values) of the input's shape.
        sample_weight: (B,) or (B, *spatial). It scales values and gradients, not what a mean divides by; a boolean
            one is a mask, which leaves positions out of both.
        loss: a float32 scalar, or (B, *spatial) for ``reduction="none"``.

    Labels out of range raise a ValueError in eager mode; inside ``torch.compile`` the loss and that position's
    gradient become NaN. If everything is ignored the loss and the gradient are 0.
    """

    def __init__(self, spec: Spec, *, reduction: str = "mean", numerics: str = "exact", channel_axis: int = 1) -> None:
        super().__init__()
        check_options(spec, reduction, numerics, channel_axis)
        self.spec = spec
        self.reduction = reduction
        self.numerics = numerics
        self.channel_axis = channel_axis

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        sample_weight: Tensor | None = None,
        *,
        return_terms: bool = False,
        totals: Tensor | None = None,
    ) -> Any:
        """The loss.

        Args:
            input: the prediction.
            target: the target.
            sample_weight: weights or a mask.
            return_terms: also return a dict of each term's value before its weight, detached, for logging.
            totals: what :meth:`sums` gives for the whole batch of which this is a part (exact numerics): with its
                normalisers the gradients of the parts are those of the whole, to the bit, and their losses its shares.

        Raises:
            TypeError: unsupported dtypes or devices.
            ValueError: shapes that do not fit; labels out of range; a target or weight that requires a gradient
                (exact numerics).
        """
        layout, target, mask, weight = self._prepare(input, target, sample_weight)
        if self.numerics == "native":
            if totals is not None:
                raise ValueError("totals needs numerics='exact'")
            loss, terms = native.loss(
                self.spec,
                _shaped(input),
                target if layout.labels else _shaped(target),
                weight,
                mask=mask,
                reduction=self.reduction,
                channel_axis=layout.axis,
            )
            terms = {name: value.detach() for name, value in terms.items()}
        else:
            if totals is not None:
                check_totals(totals.shape, str(totals.dtype).removeprefix("torch."), self.spec)
            for name, value in (("target", target), ("sample_weight", weight)):
                if value is not None and value.requires_grad and torch.is_grad_enabled():
                    raise ValueError(
                        f"{name} requires a gradient, which exact numerics give for input only: detach() it, or use "
                        "numerics='native'"
                    )
            loss, values, _ = _Exact.apply(input, target, mask, weight, totals, self.spec, self.reduction, layout)
            terms = dict(zip(self.spec.names, values, strict=True)) if return_terms else {}
        return (loss, terms) if return_terms else loss

    def sums(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """The exact sums behind the loss: int64 of shape (terms, 2, 12).

        Sums of parts of a batch (micro-batches, ranks) add, with ``+`` or an all-reduce, to those of the whole,
        whatever the split. :meth:`from_sums` turns them into the loss; ``totals=`` in :meth:`forward` uses them.
        """
        self._needs_exact("sums")
        layout, target, mask, weight = self._prepare(input, target, sample_weight)
        with torch.no_grad():
            return _Exact.apply(input, target, mask, weight, None, self.spec, self.reduction, layout)[2]

    def from_sums(self, sums: Tensor) -> Tensor:
        """The loss (without a gradient) from :meth:`sums`."""
        self._needs_exact("from_sums")
        if self.reduction == "none":
            raise ValueError("reduction is 'none', expected 'mean' or 'sum': sums have no map")
        return engine.from_sums(_OPS, self.spec, sums, self.reduction)[0]

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return (
            f"{self.spec!r}, reduction={self.reduction!r}, numerics={self.numerics!r}, channel_axis={self.channel_axis}"
        )

    def _needs_exact(self, what: str) -> None:
        if self.numerics != "exact":
            raise ValueError(f"{what} needs numerics='exact', this loss has numerics={self.numerics!r}")

    def _prepare(
        self, input: Tensor, target: Tensor, weight: Tensor | None
    ) -> tuple[Layout, Tensor, Tensor | None, Tensor | None]:
        """Check everything; labels as int64, dense targets as floats, mask or weight per position."""
        for name, value in (("input", input), ("target", target), ("sample_weight", weight)):
            if not isinstance(value, Tensor) and not (value is None and name == "sample_weight"):
                raise TypeError(f"{name} is {type(value).__name__}, expected a torch.Tensor")
        if input.dtype not in _FLOATS:
            raise TypeError(f"input has dtype {input.dtype}, expected float16, bfloat16 or float32")
        if input.device.type == "mps" and self.numerics == "exact":
            raise TypeError("exact numerics need float64, which the device mps lacks; use numerics='native'")
        layout = lay_out(
            self.spec, input.shape, target.shape, None if weight is None else weight.shape, self.channel_axis, _NAMES
        )
        _check_dtype("target", target, layout.labels)
        mask = None
        if weight is not None:
            _check_dtype("sample_weight", weight, False)
            if layout.per_sample:
                positions = [n for a, n in enumerate(input.shape) if a != layout.axis]
                weight = weight.reshape(positions[0], *(1 for _ in positions[1:])).expand(positions)
            if weight.dtype == torch.bool:
                mask, weight = weight, None
            elif weight.dtype not in _FLOATS:
                weight = weight.to(torch.float32)
        if layout.labels:
            target = target.to(torch.int64)
            _check_labels(target, layout.channels, self.spec.ignore_index, mask)
        elif target.dtype not in _FLOATS:
            target = target.to(torch.float32)
        return layout, target, mask, weight


class _Exact(torch.autograd.Function):
    """Loss, terms and sums of the exact numerics; the gradient is computed beside them, not by autograd."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        target: Tensor,
        mask: Tensor | None,
        weight: Tensor | None,
        totals: Tensor | None,
        spec: Spec,
        reduction: str,
        layout: Layout,
    ) -> tuple[Tensor, Tensor, Tensor]:
        result = _evaluate(input, target, mask, weight, totals, spec, reduction, layout)
        loss, terms = result.loss, result.terms
        ctx.settings = (spec, reduction, layout)
        if reduction == "none":  # a stencil spreads the upstream gradient, so it must wait for that
            loss, terms = loss.squeeze(layout.axis), terms.squeeze(layout.axis + 1)
            ctx.save_for_backward(input, target, mask, weight, totals)
        elif ctx.needs_input_grad[0]:
            ctx.save_for_backward(input, result.gradient(None).reshape(input.shape))
        ctx.mark_non_differentiable(terms, result.sums)
        ctx.set_materialize_grads(False)
        return loss, terms, result.sums

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if upstream is None:
            return (None,) * 8
        return (_Gradient.apply(ctx.settings, upstream, *ctx.saved_tensors), *(None,) * 7)


class _Gradient(torch.autograd.Function):
    """Upstream times gradient, rounded to the input's dtype. It depends on the input, but knows no derivative."""

    @staticmethod
    def forward(ctx: Any, settings: tuple[Spec, str, Layout], upstream: Tensor, input: Tensor, *saved: Any) -> Tensor:
        spec, reduction, layout = settings
        scale: Tensor | None = upstream
        if reduction == "none":
            spread = functions.load(_OPS, upstream.unsqueeze(layout.axis))
            target, mask, weight, totals = saved
            result = _evaluate(input, target, mask, weight, totals, spec, reduction, layout)
            scale, gradient = None, result.gradient(spread).reshape(input.shape)
        else:
            (gradient,) = saved
        return engine.backward(_OPS, scale, gradient, str(input.dtype).removeprefix("torch."))

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(
            "exact numerics can be differentiated once only: for second derivatives use "
            "dualloss.torch.Loss(spec, numerics='native')"
        )


def _evaluate(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    totals: Tensor | None,
    spec: Spec,
    reduction: str,
    layout: Layout,
) -> engine.Evaluation:
    axis = layout.axis
    mask = None if mask is None else mask.unsqueeze(axis)
    weight = None if weight is None else functions.load(_OPS, weight.unsqueeze(axis))
    target = target.unsqueeze(axis) if layout.labels else _shaped(target)
    dense, valid = engine.targets(_OPS, target, layout.labels, layout.channels, axis, spec.ignore_index, mask)
    inputs = Inputs(_OPS, functions.load(_OPS, _shaped(input)), dense, valid, axis, layout.spatial, weight)
    return engine.evaluate(_OPS, spec, inputs, reduction, totals)


def total_loss(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Softmax cross-entropy plus 0.5 times the mean squared difference of the Laplacians, exact.

    Args:
        y_true: (B, *spatial) class indices or (B, C, *spatial) one-hot or soft targets; 1 to 3 spatial axes.
        y_pred: (B, C, *spatial) logits.

    Returns:
        The mean, a float32 scalar, with the same bits as ``dualloss.tf.total_loss`` of the same values.
    """
    return Loss(TOTAL_LOSS)(y_pred, y_true)


def _shaped(x: Tensor) -> Tensor:
    """A rank-1 input or target with a channel axis of length 1."""
    return x.unsqueeze(1) if x.ndim == 1 else x


def _check_dtype(name: str, value: Tensor, labels: bool) -> None:
    if labels and value.dtype not in _INTEGERS:
        raise TypeError(
            f"{name} has dtype {value.dtype}, expected integer class indices for its shape {tuple(value.shape)}"
        )
    if value.dtype not in (*_FLOATS, *_INTEGERS, torch.bool):
        raise TypeError(
            f"{name} has dtype {value.dtype}, expected float16, bfloat16, float32, an integer dtype or bool: cast it"
        )


def _check_labels(target: Tensor, channels: int, ignore: int | None, mask: Tensor | None) -> None:
    """Inside a compiled graph values cannot be looked at; there the position becomes NaN."""
    if torch.compiler.is_compiling():
        return
    wrong = (target < 0) | (target >= channels)
    if ignore is not None:
        wrong &= target != ignore
    if mask is not None:
        wrong &= mask
    if wrong.any():
        where = tuple(wrong.nonzero()[0].tolist())
        raise label_error(int(target[where]), where, channels, ignore, _NAMES)
