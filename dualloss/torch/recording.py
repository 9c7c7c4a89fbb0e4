"""Recordings of a training: the loss's inputs, its value, its terms and its gradient at chosen steps."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .. import __version__
from ..recording import THE_LOSS, Chosen, Convention, Writer, about, check_name
from .loss import Loss


class Recorder:
    """What :func:`record` gives: a context manager, at whose end the recording ends."""

    def __init__(self, path: str | os.PathLike[str], **options: Any) -> None:
        versions = {"dualloss": __version__, "torch": torch.__version__}
        self._writer = Writer(path, framework="torch", versions=versions, **options)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def loss(
        self,
        criterion: Callable[..., Any],
        *,
        channel_axis: int | Literal["auto"] | None = "auto",
        order: str = "auto",
    ) -> Callable[..., Any]:
        """The criterion, recorded: call it in its place.

        At a chosen step it stores the input, the target, the sample weight, the loss, of a :class:`dualloss.torch.Loss`
        each term, and, when ``backward`` comes, the gradient that arrives at the loss and the one by the input, as far
        as it goes through this loss. Under ``torch.no_grad()`` (an evaluation) it records nothing and counts no step.

        Args:
            criterion: a :class:`dualloss.torch.Loss`, a module, a function.
            channel_axis: the axis of the input that holds the channels; None: there is none; "auto": that of the
                criterion, else 1.
            order: "input-first" or "target-first"; "auto": as the arguments' names say, else the input comes first.

        Raises:
            RuntimeError: the recording has a loss already. From the call: it was traced by ``torch.compile``.
        """
        axis = getattr(criterion, "channel_axis", 1) if channel_axis == "auto" else channel_axis
        function = criterion.forward if isinstance(criterion, nn.Module) else criterion
        convention = Convention.of(function, order, "input-first")
        self._writer.describe(**_description(criterion))
        recorded = functools.partial(self._recorded, criterion, convention, axis)
        eager: list[Callable[..., Any]] = []

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():
                raise RuntimeError(
                    "a recorded loss was traced by torch.compile, expected it outside of what is compiled"
                )
            if "torch._dynamo" not in sys.modules:
                return recorded(args, kwargs)
            if not eager:  # not before it is needed, since that imports the compiler
                eager.append(torch.compiler.disable(recorded))
            return eager[0](args, kwargs)

        return called

    def tensor(self, name: str, value: Any, *, channel_axis: int | None = None) -> None:
        """Store a tensor or an array at a chosen step, such as the batch as "data".

        Args:
            name: any but those of the loss's own arrays.
            value: a tensor, an array or a number.
            channel_axis: the axis that holds channels, if there is one.
        """
        number = self._writer.begin(f"tensor {check_name(name)}")
        if number is not None:
            self._put(number, name, value, channel_axis)

    def weights(self, model: nn.Module) -> None:
        """Store the parameters of a model at a chosen step: before the first loss, and after the optimizer's steps.

        Those that are not trained, and buffers of floats, such as running statistics, come with them as its state.
        """
        number, kind, state = self._writer.begin_weights()
        if number is not None:
            for name, value in _held(model):
                trained = isinstance(value, nn.Parameter) and value.requires_grad
                self._put(number, f"{kind if trained else state}/{name}", value)

    def step(self) -> None:
        """End the step. Without it a step ends where something begins that it has already, such as the loss."""
        self._writer.next()

    def close(self) -> None:
        """End the recording. What was recorded goes on working, and records nothing."""
        self._writer.close()

    def _recorded(
        self,
        criterion: Callable[..., Any],
        convention: Convention,
        axis: int | None,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        number = self._writer.begin(THE_LOSS) if torch.is_grad_enabled() else None
        if number is None:
            return criterion(*args, **kwargs)
        input, target, weight = convention.find(args, kwargs)
        last = input.ndim if isinstance(input, Tensor) else None
        for name, value in (("input", input), ("target", target), ("sample_weight", weight)):
            if isinstance(value, Tensor):
                self._put(number, name, value, axis if value.ndim == last and name != "sample_weight" else None)
        if isinstance(input, Tensor) and input.requires_grad:
            input = input.view_as(input)  # so that what else uses the input is not in its gradient
            input.register_hook(lambda gradient: self._put(number, "gradient", gradient, axis))
            args, kwargs = convention.replace(args, kwargs, input)
        if isinstance(criterion, Loss):
            if criterion.spec.scheduled:
                self._writer.note(schedule=int(criterion.step))
            loss, terms = criterion(*args, **{**kwargs, "return_terms": True})
            for name, value in terms.items():
                self._put(number, f"terms/{name}", value)
            result = (loss, terms) if kwargs.get("return_terms") else loss
        else:
            result = criterion(*args, **kwargs)
            loss = result[0] if isinstance(result, tuple) and result else result
        if isinstance(loss, Tensor):
            self._put(number, "loss", loss)
            if loss.requires_grad:
                loss.register_hook(lambda gradient: self._put(number, "upstream", gradient))
        return result

    def _put(self, number: int, name: str, value: Any, channel_axis: int | None = None) -> None:
        dtype = None
        if isinstance(value, Tensor):
            value = value.detach().cpu().resolve_conj().resolve_neg()
            if value.dtype == torch.bfloat16:
                value, dtype = value.view(torch.int16).numpy().view("uint16"), "bfloat16"
            else:
                value = value.numpy()
        self._writer.put(number, name, value, dtype=dtype, channel_axis=channel_axis)


def record(
    path: str | os.PathLike[str],
    *,
    steps: Chosen | None = None,
    every: int = 1,
    max_bytes: int = 1 << 30,
    whole: int = 1 << 24,
    start: int = 0,
) -> Recorder:
    """Record a training in a folder, for ``dualloss diff`` and ``dualloss check-recording``::

        with dualloss.torch.record("run", every=10) as rec:
            criterion = rec.loss(criterion)
            for x, y in loader:
                loss = criterion(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                rec.step()

    The training computes the same bits with and without it. What is on disk is readable at any moment.

    Args:
        path: a folder, new or empty.
        steps: the steps to store: their numbers, or a function of the number; None: every ``every``-th.
        every: see ``steps``.
        max_bytes: how many bytes the files may have together; near it only samples are stored, then nothing.
        whole: up to how many bytes an array is kept whole; of larger ones a hash, statistics and a sample.
        start: the number of the first step, of a training that resumes.

    Raises:
        FileExistsError: the folder has something in it.
        TypeError, ValueError: arguments out of range.
    """
    return Recorder(path, steps=steps, every=every, max_bytes=max_bytes, whole=whole, start=start)


def _held(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of floats by name, module by module, as Keras has them; each once."""
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        buffers = [(n, b) for n, b in module.named_buffers(recurse=False) if b.dtype in _FLOATS]
        for name, value in (*module.named_parameters(recurse=False), *buffers):
            if id(value) not in seen:
                seen.add(id(value))
                yield f"{prefix}.{name}" if prefix else name, value


_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _description(criterion: Callable[..., Any]) -> dict[str, Any]:
    found = about(criterion)
    if isinstance(criterion, Loss):
        found |= {"spec": criterion.spec.to_json(), "reduction": criterion.reduction, "numerics": criterion.numerics}
    return found
