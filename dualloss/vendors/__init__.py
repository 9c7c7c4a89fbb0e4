"""Losses of other libraries as specs, and specs as losses of PyTorch and Keras. Imports no framework by itself.

An importer knows an object by the module and name of its class, and reads its options. What no spec says is a
ValueError; nothing is approximated. `ROWS` says of every loss under which conditions both are equal. The proof that
they are: `python -m dualloss.vendors.proof`.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any, Literal

from ..spec import Spec
from . import keras_losses, monai, smp, torch_nn  # noqa: F401  (each registers its losses)
from ._registry import REFUSED, ROWS, Context, Row, convert, find, show, unchanged

__all__ = ["REFUSED", "ROWS", "Row", "from_keras", "from_torch", "to_keras", "to_torch"]

Targets = Literal["indices", "probabilities"]
TORCH = ("torch", "smp", "monai")


def from_torch(
    loss: Any,
    *,
    targets: Targets = "indices",
    spatial: int | None = None,
    classes: int | None = None,
    like: str | None = None,
) -> Spec:
    """The spec of a loss module of `torch.nn`, `segmentation_models_pytorch.losses` or `monai.losses`.

    `dualloss.torch.Loss(spec)` and `dualloss.tf.Loss(spec)`, with their default reduction "mean", compute the number
    that the module computes; the module's own reduction "sum" becomes part of the spec.

    Args:
        loss: the module.
        targets: whether the loss will see class indices (default) or "probabilities": `torch.nn.CrossEntropyLoss`
            divides its mean by something else for these.
        spatial: how many spatial axes its inputs will have, where a weight's shape alone does not say to which axis
            it belongs.
        classes: how many channels its inputs will have, where the options alone do not say it.
        like: a library, or library==version, where the two differ: "keras" is what the documentation says,
            "keras==3.15.1" what that version computes.

    Raises:
        TypeError: no module of these libraries' kind.
        ValueError: a loss or an option that no spec says, with the reason.
    """
    if isinstance(loss, type):
        raise TypeError(f"loss={show(loss)} is a class, expected an instance: {loss.__name__}(...)")
    if not callable(loss):
        raise TypeError(f"loss={show(loss)}, expected a loss module")
    if isinstance(loss, FunctionType):
        raise ValueError(
            f"loss is the function {loss.__module__}.{loss.__name__}, expected a loss module, which holds its options: "
            "torch.nn.CrossEntropyLoss(...)"
        )
    if type(loss).__module__.startswith("keras."):
        raise ValueError(f"loss={show(loss)} is a loss of Keras, expected one of PyTorch: use from_keras")
    context = _context(targets, spatial, classes, like)
    row = find(type(loss), TORCH)
    unchanged(loss, row.label)
    return convert(row, lambda option: getattr(loss, option), context)


def from_keras(loss: Any, *, spatial: int | None = None, like: str | None = None) -> Spec:
    """The spec of a loss of `keras.losses`.

    `dualloss.tf.Loss(spec)` and `dualloss.torch.Loss(spec)`, with their default reduction "mean", compute the number
    that the loss computes; the loss's own reduction "sum" becomes part of the spec.

    Args:
        loss: an instance; one of `keras.losses`' functions, as `compile` wraps it; or, without Keras being needed, a
            config of an instance (`keras.losses.serialize(loss)`) or one of Keras' string identifiers ("mse").
        spatial: how many spatial axes its inputs will have, where `axis` alone does not say which axes those are.
        like: "keras" for what the documentation says, "keras==3.15.1" for what that version computes, where the two
            differ.

    Raises:
        TypeError: nothing of this kind.
        ValueError: a loss or an option that no spec says, with the reason.
    """
    if isinstance(loss, type):
        raise TypeError(f"loss={show(loss)} is a class, expected an instance: {loss.__name__}(...)")
    row, read = keras_losses.identify(loss)
    return convert(row, read, _context("indices", spatial, None, like))


def to_torch(spec: Spec, *, targets: Targets = "indices", spatial: int | None = None) -> Any:
    """The loss of `torch.nn` that computes exactly what a spec says.

    Args:
        spec: the spec.
        targets: whether the loss will see class indices (default) or "probabilities".
        spatial: how many spatial axes its inputs will have; needed for weights of channels, which PyTorch aligns with
            the last axis.

    Raises:
        ValueError: there is none; the message says why not.
    """
    return torch_nn.export(spec, _context(targets, spatial, None, None))


def to_keras(spec: Spec, *, targets: Targets = "indices", spatial: int | None = None) -> Any:
    """The loss of `keras.losses` that computes exactly what a spec says.

    Args:
        spec: the spec.
        targets: whether the loss will see class indices (default) or "probabilities".
        spatial: how many spatial axes its inputs will have; needed where Keras' loss has an `axis` for them.

    Raises:
        ValueError: there is none; the message says why not.
    """
    return keras_losses.export(spec, _context(targets, spatial, None, None))


def _context(targets: str, spatial: int | None, classes: int | None, like: str | None) -> Context:
    if targets not in ("indices", "probabilities"):
        raise ValueError(f"targets={show(targets)}, expected 'indices' or 'probabilities'")
    for name, value, least in (("spatial", spatial, 0), ("classes", classes, 1)):
        if value is not None and (type(value) is not int or value < least):
            raise ValueError(f"{name}={show(value)}, expected an integer >= {least}")
    if like is not None and not isinstance(like, str):
        raise TypeError(f"like={show(like)}, expected a str")
    return Context(targets, spatial, classes, like)
