"""The ways to compute a loss that must agree. Each takes a case and gives the bits of loss and gradient."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import fast
from ..exact import loss_and_gradient
from .cases import Case, Config

Array = Any


@dataclass(frozen=True)
class Outcome:
    """Bits, as unsigned integers; the gradient channels last."""

    loss: Array
    gradient: Array


class Engine(ABC):
    """One way to compute.

    Attributes:
        name: what tables and messages call it.
        framework: ``"numpy"``, ``"torch"`` or ``"tf"``.
        compiles: whether it compiles for each configuration, which takes seconds.
        kernels: whether it computes with those of :mod:`dualloss.fast`, and not with arrays.
    """

    name: str
    framework: str
    compiles: bool = False
    kernels: bool = False

    def cannot(self, config: Config) -> str | None:
        """Why a configuration is beyond this engine, or None."""
        if self.kernels and (config.reduction == "none" or fast.program(_signature(config)) is None):
            return "there are no kernels for it"
        return None

    @abstractmethod
    def start(self, config: Config) -> Callable[[Case], Outcome]:
        """What runs the cases of a configuration."""


class NumPy(Engine):
    """The NumPy engine, which the others are compared with."""

    framework = "numpy"

    def __init__(self, channels_first: bool = False) -> None:
        self.name = "numpy channels first" if channels_first else "numpy"
        self._first = channels_first

    def start(self, config: Config) -> Callable[[Case], Outcome]:  # noqa: D102
        return self._run

    def _run(self, case: Case) -> Outcome:
        config = case.config
        x, target = to_numpy(case.input, config.dtype), case.target
        first = self._first and x.ndim > 1
        if first:
            x = np.moveaxis(x, -1, 1)
            target = target if config.target == "labels" else np.moveaxis(target, -1, 1)
        result = loss_and_gradient(
            config.spec, x, target, case.weight, reduction=config.reduction, upstream=case.upstream,
            channel_axis=1 if first else -1,
        )  # fmt: skip
        gradient = np.moveaxis(result.gradient, 1, -1) if first else result.gradient
        return Outcome(as_bits(result.loss), as_bits(gradient))


class Torch(Engine):
    """PyTorch on a device: eager, compiled, or eager with another memory layout."""

    framework = "torch"

    def __init__(self, device: str, how: str, threads: int | None = None, kernels: bool = False) -> None:
        self.name = f"torch{' kernels' if kernels else ''} {how}" + ("" if threads is None else f" {threads} threads")
        self.name += "" if device == "cpu" else f" {device}"
        self.compiles = how == "compiled"
        self.kernels = kernels
        self._device, self._how, self._threads = device, how, threads

    def start(self, config: Config) -> Callable[[Case], Outcome]:  # noqa: D102
        import torch

        import dualloss.torch

        criterion: Any = dualloss.torch.Loss(config.spec, reduction=config.reduction)
        if self._how == "compiled":
            torch._dynamo.reset()
            criterion = torch.compile(criterion, fullgraph=True, dynamic=False)
        dtype = getattr(torch, config.dtype)

        def run(case: Case) -> Outcome:
            with fast.using(self.kernels):
                return compute(case)

        def compute(case: Case) -> Outcome:
            before = torch.get_num_threads()
            torch.set_num_threads(self._threads or before)
            try:
                x = torch.from_numpy(case.input).to(self._device, dtype)
                target = torch.from_numpy(np.asarray(case.target)).to(self._device)
                if x.ndim > 1:
                    x = x.movedim(-1, 1)
                    target = target if config.target == "labels" else target.movedim(-1, 1).contiguous()
                if self._how == "channels_last":
                    if x.ndim == 4:
                        x = x.contiguous(memory_format=torch.channels_last)
                elif self._how == "strided":
                    x = torch.stack([x, x], -1)[..., 0]
                else:
                    x = x.contiguous()
                x.requires_grad_()
                weight = None if case.weight is None else torch.from_numpy(case.weight).to(self._device)
                loss = criterion(x, target, weight)
                loss.backward(torch.tensor(case.upstream, device=self._device))
                assert x.grad is not None
                gradient = x.grad if x.ndim == 1 else x.grad.movedim(1, -1)
                flat = gradient.contiguous().cpu()
                bits: Array = flat.view(torch.int32 if dtype == torch.float32 else torch.int16).numpy()
                unsigned = np.uint32 if dtype == torch.float32 else np.uint16
                return Outcome(as_bits(loss.detach().cpu().numpy()), bits.view(unsigned))
            finally:
                torch.set_num_threads(before)

        return run


class TensorFlow(Engine):
    """TensorFlow on a device: eager, a graph, XLA around everything, or eager with XLA for the loss alone."""

    framework = "tf"

    def __init__(self, device: str, how: str, kernels: bool = False) -> None:
        self.name = f"tf{' kernels' if kernels else ''} {how}" + ("" if device == "/CPU:0" else f" {device}")
        self.compiles = how != "eager" or kernels
        self.kernels = kernels
        self._device, self._how = device, how

    def cannot(self, config: Config) -> str | None:  # noqa: D102
        if self._how == "XLA" and any(term.needs_distances for _, term in config.spec.parts):
            return "distances are computed on the host, which a graph compiled as a whole cannot do"
        return super().cannot(config)

    def start(self, config: Config) -> Callable[[Case], Outcome]:  # noqa: D102
        import tensorflow as tf

        import dualloss.tf

        loss_fn = dualloss.tf.Loss(
            config.spec,
            reduction=config.reduction,
            jit_compile="auto" if self.kernels or self._how == "loss in XLA" else False,
        )

        def step(x: Any, target: Any, weight: Any, upstream: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = loss_fn(target, x, weight)
            return loss, tape.gradient(loss, x, output_gradients=upstream)

        if self._how == "graph":
            sizes: list[int | None] = list(config.shape)
            # Kernels need to know all sizes but the batch's; without spatial axes that, too.
            unknown = (1 if len(sizes) > 2 else 0) if self.kernels else max(len(sizes) - 1, 1)
            shape = [*([None] * unknown), *sizes[unknown:]]
            positions = shape[:-1] or shape
            labels = config.target == "labels"
            weight_shape = positions[:1] if config.weight == "sample" else positions
            weight_spec = tf.TensorSpec(weight_shape, tf.bool if config.weight == "mask" else tf.float32)
            signature = [
                tf.TensorSpec(shape, config.dtype),
                tf.TensorSpec(positions, tf.int64) if labels else tf.TensorSpec(shape, tf.float32),
                None if config.weight == "none" else weight_spec,
                tf.TensorSpec(positions if config.reduction == "none" else [], tf.float32),
            ]
            if signature[2] is None:
                inner = step
                call: Any = tf.function(
                    lambda x, t, up: inner(x, t, None, up),
                    input_signature=[signature[0], signature[1], signature[3]],
                    autograph=False,
                )
            else:
                call = tf.function(step, input_signature=signature, autograph=False)
        elif self._how == "XLA":
            call = tf.function(step, jit_compile=True, autograph=False)
        else:
            call = step

        def run(case: Case) -> Outcome:
            with fast.using(self.kernels), tf.device(self._device):
                x = tf.cast(tf.constant(case.input), config.dtype)
                if config.dtype == "float32":
                    x = tf.bitcast(tf.constant(case.input.view(np.int32)), tf.float32)  # keeps subnormals
                args = [x, tf.constant(case.target), tf.constant(case.upstream)]
                if case.weight is not None or self._how != "graph":
                    args.insert(2, None if case.weight is None else tf.constant(case.weight))
                loss, gradient = call(*args)
            return Outcome(as_bits(loss.numpy()), as_bits(gradient.numpy()))

        return run


def _signature(config: Config) -> fast.Signature:
    """What kernels have to be for."""
    rank = len(config.shape)
    channels = config.shape[-1] if rank > 1 else 1
    given = config.weight != "none"
    mask = config.weight == "mask"
    return fast.Signature(config.spec, channels, max(rank - 2, 0), config.target == "labels", mask, given and not mask)


def to_numpy(values: Array, dtype: str) -> Array:
    """float32 values as an array of ``dtype``."""
    if dtype == "bfloat16":
        import ml_dtypes

        return values.astype(ml_dtypes.bfloat16)
    return values.astype(dtype)


def as_bits(values: Array) -> Array:
    """A floating-point array as unsigned integers."""
    array = np.asarray(values)
    return array.view(np.uint32 if array.dtype.itemsize == 4 else np.uint16)


def available(frameworks: tuple[str, ...] = ("numpy", "torch", "tf")) -> tuple[list[Engine], list[str]]:
    """The engines of this interpreter, on every device present, and a line for each framework that is missing."""
    engines: list[Engine] = []
    missing = []
    if "numpy" in frameworks:
        engines += [NumPy(), NumPy(channels_first=True)]
    if "torch" in frameworks:
        if importlib.util.find_spec("torch") is None:
            missing.append("torch is not installed in this interpreter")
        else:
            import torch

            devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
            for device in devices:
                engines += [Torch(device, how) for how in ("eager", "channels_last", "strided")]
                engines.append(Torch(device, "compiled"))
            engines += [Torch("cpu", "eager", threads) for threads in (1, 2)]
            if fast.enabled:
                engines += [Torch("cpu", how, kernels=True) for how in ("channels_last", "strided", "compiled")]
                engines += [Torch("cpu", "eager", threads, kernels=True) for threads in (1, 2)]
            else:
                missing.append("kernels need llvmlite, which is not installed in this interpreter")
            if "cuda" in devices and fast.on_devices:
                engines += [
                    Torch("cuda", how, kernels=True) for how in ("eager", "channels_last", "strided", "compiled")
                ]
            elif "cuda" in devices:
                missing.append("kernels on cuda need triton, which is not installed in this interpreter")
    if "tf" in frameworks:
        if importlib.util.find_spec("tensorflow") is None or importlib.util.find_spec("keras") is None:
            missing.append("tensorflow with keras is not installed in this interpreter")
        else:
            import tensorflow as tf

            devices = ["/CPU:0", *(["/GPU:0"] if tf.config.list_physical_devices("GPU") else [])]
            engines += [TensorFlow(d, how) for d in devices for how in ("eager", "graph", "XLA", "loss in XLA")]
            if fast.enabled:
                engines += [TensorFlow("/CPU:0", how, kernels=True) for how in ("eager", "graph", "XLA")]
    return engines, missing
