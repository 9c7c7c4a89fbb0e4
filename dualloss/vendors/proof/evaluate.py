"""One case: the library's own value and gradient, and ours in the other framework."""

from __future__ import annotations

import contextlib
import copy
import importlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from unittest import mock

import numpy as np

from ... import from_keras, from_torch
from ...spec import Spec
from .data import Array
from .grid import Case

OTHER = {"torch": "tf", "smp": "tf", "monai": "tf", "keras": "torch"}
"""The framework that a library's losses do not come from."""


@dataclass(frozen=True)
class Found:
    """A value and a gradient, the channels where the library has them."""

    value: float
    gradient: Array


def spec_of(case: Case) -> Spec:
    """The spec of the library's loss."""
    made = case.loss.make(case.options)
    keywords = case.loss.keywords(case.options, case.shape)
    return (from_keras if case.loss.vendor == "keras" else from_torch)(made, **keywords)


def vendor(case: Case, dtype: str) -> Found:
    """What the library computes."""
    data = case.data()
    target = case.loss.target(case.options, data.target, case.shape)
    if case.loss.vendor == "keras":
        return _keras(case, data.x, target, dtype)
    return _torch(case, data.x, target, dtype)


def ours(case: Case, spec: Spec, numerics: str) -> Found:
    """What the spec says, computed in the other framework."""
    data = case.data()
    compute = _dualloss_tf if OTHER[case.loss.vendor] == "tf" else _dualloss_torch
    return compute(spec, data.x, data.target, case.weight(), numerics)


def _torch(case: Case, x: Array, target: Array, dtype: str) -> Found:
    import torch

    kind = getattr(torch, dtype)
    made = copy.deepcopy(case.loss.make(case.options)).to(kind)
    given = torch.tensor(x, dtype=kind, requires_grad=True)
    wanted = torch.tensor(target)
    if wanted.dtype.is_floating_point:
        wanted = wanted.to(kind)
    with warnings.catch_warnings(), _without_casts(case) if dtype == "float64" else contextlib.nullcontext():
        warnings.simplefilter("ignore")
        value = made(given, wanted)
    gradient = torch.zeros_like(given)
    if value.requires_grad:
        (found,) = torch.autograd.grad(value, given, allow_unused=True)
        gradient = gradient if found is None else found
    return Found(value.item(), gradient.numpy())


@contextlib.contextmanager
def _without_casts(case: Case) -> Iterator[None]:
    """Some losses cast to float32 within, which would hide from a float64 result what they compute."""
    import torch

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch.Tensor, "float", torch.Tensor.double))
        if case.loss.name == "SSIMLoss":
            module = importlib.import_module("monai.metrics.regression")
            stack.enter_context(mock.patch.object(module, "convert_data_type", lambda value, **_: (value,)))
        yield


def _keras(case: Case, x: Array, target: Array, dtype: str) -> Found:
    import tensorflow as tf

    made = case.loss.make({**case.options, "dtype": dtype})
    given = tf.constant(np.moveaxis(x, 1, -1), dtype)
    wanted = target if target.ndim < x.ndim else np.moveaxis(target, 1, -1).astype(dtype)
    weight = case.weight()
    with tf.GradientTape() as tape:
        tape.watch(given)
        value = made(tf.constant(wanted), given, None if weight is None else tf.constant(weight, dtype))
    return Found(float(value), tape.gradient(value, given).numpy())


def _dualloss_tf(spec: Spec, x: Array, target: Array, weight: Array | None, numerics: str) -> Found:
    import tensorflow as tf

    from ... import tf as backend

    loss = backend.Loss(spec, numerics=numerics, channel_axis=1, jit_compile=False)
    given = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(given)
        value = loss(tf.constant(target), given, None if weight is None else tf.constant(weight))
    return Found(float(value), tape.gradient(value, given).numpy())


def _dualloss_torch(spec: Spec, x: Array, target: Array, weight: Array | None, numerics: str) -> Found:
    import torch

    from ... import torch as backend

    given = torch.tensor(np.moveaxis(x, 1, -1), requires_grad=True)
    wanted = torch.tensor(target if target.ndim < x.ndim else np.moveaxis(target, 1, -1))
    loss = backend.Loss(spec, numerics=numerics, channel_axis=-1)
    value = loss(given, wanted, None if weight is None else torch.tensor(weight))
    (gradient,) = torch.autograd.grad(value, given)
    return Found(value.item(), gradient.numpy())
