"""The loss as an ``nn.Module``: shapes and dtypes checked, then exact or native numerics."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import TOTAL_LOSS
from ..exact import engine, functions
from ..exact.layout import Layout, Names, check_mergeable, check_options, check_sums, label_error, lay_out
from ..exact.terms import Inputs
from ..spec import Spec, step_number
from . import fast, native
from .distances import distances
from .ops import TorchOps

_OPS = TorchOps()
_NAMES = Names("input", "target", "sample_weight")
_Y_NAMES = Names("y_pred", "y_true", "sample_weight")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class Loss(nn.Module):
    """A loss spec as a PyTorch criterion.

    Args:
        spec: the loss, for example ``dualloss.TOTAL_LOSS``.
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for the per-position map.
        numerics: ``"exact"``: the bits that docs/numerics.md defines, the same on every framework and device;
            ``"native"``: differentiable any number of times, also by target and weights; PyTorch's own formulas, but
            for value and first derivative where a kernel has them.
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

    Schedules: the loss of a spec with a schedule has a buffer ``step``, int64, at first 0, which ``state_dict`` holds.
    :meth:`advance` after each step of the optimizer, or ``criterion.step = n``, moves it; nothing else does.
    """

    step: Any  # read, a tensor; set, any integer
    _weights: Tensor
    _names = _NAMES

    def __init__(self, spec: Spec, *, reduction: str = "mean", numerics: str = "exact", channel_axis: int = 1) -> None:
        super().__init__()
        check_options(spec, reduction, numerics, channel_axis)
        self.spec = spec
        self._text = spec.to_json()  # here, since torch.compile cannot trace it
        self.reduction = reduction
        self.numerics = numerics
        self.channel_axis = channel_axis
        self._reached = 0  # the step, without a wait for the device that holds the buffer
        self._scheduled = spec.scheduled
        if self._scheduled:
            self.register_buffer("step", torch.zeros((), dtype=torch.int64))
            # float32 numbers, as their bits: half() and the like cast every floating buffer.
            self.register_buffer("_weights", _bits(spec, 0), persistent=False)

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
                normalisers the gradients of the parts are those of the whole, to the bit. Their losses are its
                shares; of a ratio of sums, such as Dice, each is the whole: log what :meth:`from_sums` gives.

        Raises:
            TypeError: unsupported dtypes or devices.
            ValueError: shapes that do not fit; labels out of range; a target or weight that requires a gradient
                (exact numerics).
        """
        layout, target, mask, weight, away = self._prepare(input, target, sample_weight)
        if self.numerics == "native":
            if totals is not None:
                raise ValueError("totals needs numerics='exact'")
            settings = _Settings(self.spec, self.reduction, layout, self._text)
            if not _differentiated(input, target, weight) and fast.serves(
                self.spec, self.reduction, layout, input, mask, weight
            ):
                loss, values = _Native.apply(settings, input, target, mask, weight, self._exact_weights())
                terms = dict(zip(self.spec.names, values, strict=True)) if return_terms else {}
            else:
                loss, terms = _native(settings, input, target, mask, weight, away, self._native_weights())
                terms = {name: value.detach() for name, value in terms.items()}
        else:
            if totals is not None:
                _check_tensor("totals", totals)
                check_sums("totals", totals.shape, str(totals.dtype).removeprefix("torch."), self.spec, layout.channels)
            for name, value in ((self._names.target, target), (self._names.weight, weight)):
                if value is not None and value.requires_grad and torch.is_grad_enabled():
                    raise ValueError(
                        f"{name} requires a gradient, which exact numerics give for {self._names.input} only: detach() "
                        "it, or use numerics='native'"
                    )
            settings = _Settings(self.spec, self.reduction, layout, self._text)
            loss, values, _ = _Exact.apply(settings, input, target, mask, weight, away, totals, self._exact_weights())
            terms = dict(zip(self.spec.names, values, strict=True)) if return_terms else {}
        return (loss, terms) if return_terms else loss

    def sums(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """The exact sums behind the loss: int64 of shape (K, M, 12), K terms with up to M sums each.

        M is 2, for values and normaliser, unless a term that is a ratio of sums needs more. Sums of parts of a batch
        (micro-batches, ranks) add, with ``+`` or an all-reduce, to those of the whole, whatever the split.
        :meth:`from_sums` turns them into the loss; ``totals=`` in :meth:`forward` uses them.
        """
        self._needs_exact("sums")
        check_mergeable(self.spec)
        layout, target, mask, weight, away = self._prepare(input, target, sample_weight)
        with torch.no_grad():
            settings = _Settings(self.spec, self.reduction, layout, self._text)
            return _Exact.apply(settings, input, target, mask, weight, away, None, self._exact_weights())[2]

    def from_sums(self, sums: Tensor, *, return_terms: bool = False) -> Any:
        """The loss (without a gradient) from :meth:`sums`, and on demand each term's value as in :meth:`forward`."""
        self._needs_exact("from_sums")
        if self.reduction == "none":
            raise ValueError("reduction is 'none', expected 'mean' or 'sum': sums have no map")
        _check_tensor("sums", sums)
        check_sums("sums", sums.shape, str(sums.dtype).removeprefix("torch."), self.spec)
        loss, values = engine.from_sums(_OPS, self.spec, sums, self.reduction, self._exact_weights())
        return (loss, dict(zip(self.spec.names, values, strict=True))) if return_terms else loss

    def advance(self, n: int = 1) -> None:
        """Move the schedules by ``n`` steps. Of a spec without schedules nothing changes.

        Call it where nothing is compiled, after each step of the optimizer: what it changes are values, for which
        ``torch.compile`` compiles nothing anew.
        """
        if torch.compiler.is_compiling():  # traced, it would compile anew for every step
            raise RuntimeError("advance() was traced by torch.compile, expected it outside of what is compiled")
        if self._scheduled:
            self._move(self._reached + n)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "step" and "step" in self.__dict__.get("_buffers", {}):
            self._move(value)
        else:
            super().__setattr__(name, value)

    def _move(self, step: Any) -> None:
        self._reached = step_number("step", step)
        self.step.fill_(self._reached)
        self._weights.copy_(_bits(self.spec, self._reached))

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        if self._scheduled:
            self._move(self.step)

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        step = f", step={self._reached}" if self._scheduled else ""
        return (
            f"{self.spec!r}, reduction={self.reduction!r}, numerics={self.numerics!r}, "
            f"channel_axis={self.channel_axis}{step}"
        )

    def _exact_weights(self) -> Tensor | None:
        """The terms' weights at the step of the schedules; None: those of the spec."""
        return self._weights.view(torch.float32).to(torch.float64) if self._scheduled else None

    def _native_weights(self) -> list[float | Tensor] | None:
        return _now(self.spec, self._weights.view(torch.float32)) if self._scheduled else None

    def _needs_exact(self, what: str) -> None:
        if self.numerics != "exact":
            raise ValueError(f"{what} needs numerics='exact', this loss has numerics={self.numerics!r}")

    def _prepare(
        self, input: Tensor, target: Tensor, weight: Tensor | None
    ) -> tuple[Layout, Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Check everything; labels as int64, dense targets as floats, mask or weight per position, distances."""
        names = self._names
        for name, value in ((names.input, input), (names.target, target), (names.weight, weight)):
            if value is not None or name != names.weight:
                _check_tensor(name, value)
        if input.dtype not in _FLOATS:
            raise TypeError(f"{names.input} has dtype {input.dtype}, expected float16, bfloat16 or float32")
        if input.device.type == "mps" and self.numerics == "exact":
            raise TypeError("exact numerics need float64, which the device mps lacks; use numerics='native'")
        layout = lay_out(
            self.spec,
            input.shape,
            target.shape,
            None if weight is None else weight.shape,
            self.channel_axis,
            names,
            mask=weight is not None and weight.dtype == torch.bool,
        )
        _check_dtype(names.target, target, layout.labels)
        mask = None
        if weight is not None:
            _check_dtype(names.weight, weight, False)
            if layout.per_sample:
                positions = [n for a, n in enumerate(input.shape) if a != layout.axis]
                weight = weight.reshape(positions[0], *(1 for _ in positions[1:])).expand(positions)
            if weight.dtype == torch.bool:
                mask, weight = weight, None
            elif weight.dtype not in _FLOATS:
                weight = weight.to(torch.float32)
        if layout.labels:
            target = target.to(torch.int64)
            _check_labels(target, layout.channels, self.spec.ignore_index, mask, names)
        elif target.dtype not in _FLOATS:
            target = target.to(torch.float32)
        away = None
        if any(term.needs_distances for _, term in self.spec.parts):
            away = distances(target, mask, self.spec.ignore_index, layout.labels, layout.channels, layout.axis)
        return layout, target, mask, weight, away


class _Settings(NamedTuple):
    """What is no tensor."""

    spec: Spec
    reduction: str
    layout: Layout
    text: str


class _Exact(torch.autograd.Function):
    """Loss, terms and sums of the exact numerics; the gradient is computed beside them, not by autograd.

    The tensors are those of :func:`_evaluate`.
    """

    @staticmethod
    def forward(ctx: Any, settings: _Settings, input: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
        spec, reduction, layout, text = settings
        target, mask, weight, _, totals, weights = others
        if fast.serves(spec, reduction, layout, input, mask, weight):
            loss, terms, sums, gradient = fast.evaluate(
                text, reduction, layout, input, target, mask, weight, totals, weights, ctx.needs_input_grad[1]
            )
            ctx.settings = settings
            if gradient is not None:
                ctx.save_for_backward(input, gradient)
            ctx.mark_non_differentiable(terms, sums)
            ctx.set_materialize_grads(False)
            return loss, terms, sums
        result = _evaluate(settings, input, *others)
        loss, terms, axis = result.loss, result.terms, settings.layout.axis
        ctx.settings = settings
        if settings.reduction == "none":  # a stencil spreads the upstream gradient, so it must wait for that
            loss, terms = loss.squeeze(axis), terms.squeeze(axis + 1)
            ctx.save_for_backward(input, *others)
        elif ctx.needs_input_grad[1]:
            ctx.save_for_backward(input, result.gradient(None).reshape(input.shape))
        ctx.mark_non_differentiable(terms, result.sums)
        ctx.set_materialize_grads(False)
        return loss, terms, result.sums

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        gradient = None if upstream is None else _Gradient.apply(ctx.settings, upstream, *ctx.saved_tensors)
        return None, gradient, *(None,) * (len(ctx.needs_input_grad) - 2)


class _Gradient(torch.autograd.Function):
    """Upstream times gradient, rounded to the input's dtype. It depends on the input, but knows no derivative."""

    @staticmethod
    def forward(ctx: Any, settings: _Settings, upstream: Tensor, input: Tensor, *saved: Any) -> Tensor:
        scale: Tensor | None = upstream
        if settings.reduction == "none":
            spread = functions.load(_OPS, upstream.unsqueeze(settings.layout.axis))
            scale, gradient = None, _evaluate(settings, input, *saved).gradient(spread).reshape(input.shape)
        else:
            (gradient,) = saved
            if fast.scales(input):
                return fast.scaled(gradient, upstream)
        return engine.backward(_OPS, scale, gradient, str(input.dtype).removeprefix("torch."))

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(
            "exact numerics can be differentiated once only: for second derivatives use "
            "dualloss.torch.Loss(spec, numerics='native')"
        )


class _Native(torch.autograd.Function):
    """Native numerics where a kernel knows value and gradient; a derivative of that gradient is autograd's."""

    @staticmethod
    def forward(ctx: Any, settings: _Settings, input: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
        target, mask, weight, weights = others
        loss, terms, _, gradient = fast.evaluate(
            settings.text, settings.reduction, settings.layout, input, target, mask, weight, None, weights,
            ctx.needs_input_grad[1],
        )  # fmt: skip
        ctx.settings = settings
        ctx.save_for_backward(input, gradient, *others)
        ctx.mark_non_differentiable(terms)
        ctx.set_materialize_grads(False)
        return loss, terms

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        nothing = (None,) * (len(ctx.needs_input_grad) - 2)
        if upstream is None:
            return None, None, *nothing
        input, gradient, target, mask, weight, weights = ctx.saved_tensors
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # create_graph=True
            now = None if weights is None else _now(ctx.settings.spec, weights.to(torch.float32))
            loss, _terms = _native(ctx.settings, input, target, mask, weight, None, now)
            return None, *torch.autograd.grad(loss, input, upstream, create_graph=True), *nothing
        return None, fast.scaled(gradient, upstream).to(input.dtype), *nothing


def _differentiated(input: Tensor, target: Tensor, weight: Tensor | None) -> bool:
    """Whether more is asked of native numerics than a derivative by the input: one by others, or torch.func's."""
    if any(v is not None and v.requires_grad for v in (target, weight)):
        return True
    return not torch.compiler.is_compiling() and torch._C._functorch.is_functorch_wrapped_tensor(input)


def _native(
    settings: _Settings,
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    distances: Tensor | None,
    weights: list[float | Tensor] | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and terms by PyTorch's own formulas."""
    spec, reduction, layout, _ = settings
    return native.loss(
        spec,
        _shaped(input),
        target if layout.labels else _shaped(target),
        weight,
        mask=mask,
        reduction=reduction,
        channel_axis=layout.axis,
        distances=distances,
        weights=weights,
    )


def _now(spec: Spec, weights: Tensor) -> list[float | Tensor]:
    """The terms' weights at a step, for native numerics."""
    return [w if isinstance(w, float) else weights[k] for k, (w, _) in enumerate(spec.parts)]


def _evaluate(
    settings: _Settings,
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    distances: Tensor | None,
    totals: Tensor | None,
    weights: Tensor | None,
) -> engine.Evaluation:
    spec, reduction, layout, _ = settings
    axis = layout.axis
    mask = None if mask is None else mask.unsqueeze(axis)
    weight = None if weight is None else functions.load(_OPS, weight.unsqueeze(axis))
    target = target.unsqueeze(axis) if layout.labels else _shaped(target)
    dense, valid = engine.targets(_OPS, target, layout.labels, layout.channels, axis, spec.ignore_index, mask)
    away = None if distances is None else functions.load(_OPS, distances)
    inputs = Inputs(_OPS, functions.load(_OPS, _shaped(input)), dense, valid, axis, layout.spatial, weight, away)
    return engine.evaluate(_OPS, spec, inputs, reduction, totals, weights)


class _TotalLoss(Loss):
    """A loss that speaks of its arguments as :func:`total_loss` calls them."""

    _names = _Y_NAMES


def total_loss(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Softmax cross-entropy plus 0.5 times the mean squared difference of the Laplacians, exact.

    Args:
        y_true: (B, *spatial) class indices or (B, C, *spatial) one-hot or soft targets; 1 to 3 spatial axes.
        y_pred: (B, C, *spatial) logits.

    Returns:
        The mean, a float32 scalar, with the same bits as ``dualloss.tf.total_loss`` of the same values.
    """
    return _TotalLoss(TOTAL_LOSS)(y_pred, y_true)


def _bits(spec: Spec, step: int) -> Tensor:
    """The weights at a step, float32, as int32."""
    return torch.tensor(engine.numbers(spec, step), dtype=torch.float32).view(torch.int32)


def _shaped(x: Tensor) -> Tensor:
    """A rank-1 input or target with a channel axis of length 1."""
    return x.unsqueeze(1) if x.ndim == 1 else x


def _check_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is {type(value).__name__}, expected a torch.Tensor")


def _check_dtype(name: str, value: Tensor, labels: bool) -> None:
    if labels and value.dtype not in _INTEGERS:
        raise TypeError(
            f"{name} has dtype {value.dtype}, expected integer class indices for its shape {tuple(value.shape)}"
        )
    if value.dtype not in (*_FLOATS, *_INTEGERS, torch.bool):
        raise TypeError(
            f"{name} has dtype {value.dtype}, expected float16, bfloat16, float32, an integer dtype or bool: cast it"
        )


def _check_labels(target: Tensor, channels: int, ignore: int | None, mask: Tensor | None, names: Names) -> None:
    """Inside a compiled graph values cannot be looked at; there the position becomes NaN."""
    if torch.compiler.is_compiling() or target.numel() == 0:
        return
    least, most = torch.stack(torch.aminmax(target)).tolist()  # one pass; the rest is for those that fail it
    if least >= 0 and most < channels:
        return
    wrong = (target < 0) | (target >= channels)
    if ignore is not None:
        wrong &= target != ignore
    if mask is not None:
        wrong &= mask
    if wrong.any():
        where = tuple(wrong.nonzero()[0].tolist())
        raise label_error(int(target[where]), where, channels, ignore, names)
