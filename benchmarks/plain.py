"""The losses as people write them in their framework, and ours beside them, on one batch: steps to be timed.

Also what people compose of well-known libraries, `peer`: of total_loss segmentation-models-pytorch's cross-entropy and
kornia's filter, or Keras' own losses.
"""

from __future__ import annotations

import importlib.util
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import dualloss as dl
from dualloss import fast

LAPLACIAN = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], np.float32)
SPECS: dict[str, dl.Spec] = {
    "total_loss": dl.TOTAL_LOSS,
    "cross_entropy": dl.CrossEntropy(),
    "binary_cross_entropy": dl.BinaryCrossEntropy(),
    "focal": dl.Focal(gamma=2.0),
    "dice": dl.Dice(smooth=1.0),
    "mse": dl.MeanSquaredError(),
    "huber": dl.Huber(),
}

Size = tuple[int, ...]
"""Batch, channels, spatial axes."""

Step = Callable[[], float]
"""One forward and backward pass, finished when it returns the loss."""


def batch(size: Size) -> tuple[Any, Any]:
    """Logits, channels last, and labels: regions, with borders, as of a segmentation."""
    samples, channels, *spatial = size
    rng = np.random.default_rng(0)
    logits = 3 * rng.standard_normal((samples, *spatial, channels), np.float32)
    coarse = rng.integers(0, channels, (samples, *(-(-n // 8) for n in spatial)))
    for axis, n in enumerate(spatial, 1):
        coarse = np.take(coarse.repeat(8, axis), np.arange(n), axis)
    return logits, coarse


def laplacian(spatial: int) -> Any:
    """The kernel: its neighbours in the plane; of volumes those along all three axes."""
    if spatial == 2:
        return LAPLACIAN
    volume = np.zeros((3, 3, 3), np.float32)
    volume[1] = LAPLACIAN
    volume[0, 1, 1] = volume[2, 1, 1] = 1
    volume[1, 1, 1] = -6
    return volume


def smp_losses() -> Any:
    """The losses of segmentation-models-pytorch, whose package wants more than they do."""
    from dualloss.vendors.proof import losses_smp

    return losses_smp.losses


def torch_steps(loss: str, size: Size, modes: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Step]]]:
    """The modes of PyTorch, each with the losses "plain", "native" and "exact"."""
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from dualloss.torch import Loss

    logits, labels = batch(size)
    x = torch.from_numpy(np.moveaxis(logits, -1, 1).copy()).requires_grad_()
    y = torch.from_numpy(labels)
    channels, spatial = size[1], len(size) - 2
    kernel = torch.from_numpy(laplacian(spatial)).expand(channels, 1, *[3] * spatial).contiguous()
    convolve = {2: F.conv2d, 3: F.conv3d}[spatial]

    def edges(images: Tensor) -> Tensor:
        return convolve(images, kernel, padding=1, groups=channels)

    def one_hot(target: Tensor) -> Tensor:
        return F.one_hot(target, channels).movedim(-1, 1).float()

    def total_loss(input: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(input, target) + 0.5 * F.mse_loss(edges(input), edges(one_hot(target)))

    def focal(input: Tensor, target: Tensor) -> Tensor:
        logs = F.log_softmax(input, 1).gather(1, target[:, None])
        return (-((1 - logs.exp()) ** 2) * logs).mean()

    def dice(input: Tensor, target: Tensor) -> Tensor:
        p, t = input.softmax(1), one_hot(target)
        axes = (0, *range(2, input.ndim))
        return (1 - (2 * (p * t).sum(axes) + 1) / (p.sum(axes) + t.sum(axes) + 1)).mean()

    plain: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "total_loss": total_loss,
        "cross_entropy": F.cross_entropy,
        "binary_cross_entropy": lambda x, y: F.binary_cross_entropy_with_logits(x, one_hot(y)),
        "focal": focal,
        "dice": dice,
        "mse": lambda x, y: F.mse_loss(x, one_hot(y)),
        "huber": lambda x, y: F.huber_loss(x, one_hot(y)),
    }

    def step(criterion: Callable[[Tensor, Tensor], Tensor]) -> Step:
        def once() -> float:
            x.grad = None
            value = criterion(x, y)
            value.backward()
            return value.item()

        return once

    losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "plain": plain[loss],
        "native": Loss(SPECS[loss], numerics="native"),
        "exact": Loss(SPECS[loss]),
    }
    if "eager" in modes:
        eager = dict(losses)
        if loss == "total_loss" and spatial == 2 and importlib.util.find_spec("kornia") is not None:
            from kornia.filters import filter2d

            cross_entropy = smp_losses().SoftCrossEntropyLoss(smooth_factor=0.0)
            stencil = torch.from_numpy(LAPLACIAN)[None]

            def composed(input: Tensor, target: Tensor) -> Tensor:
                found, wanted = (filter2d(v, stencil, "constant") for v in (input, one_hot(target)))
                return cross_entropy(input, target) + 0.5 * F.mse_loss(found, wanted)

            eager["peer"] = composed
        yield "eager", {name: step(criterion) for name, criterion in eager.items()}
    if "compile" in modes:
        steps = {name: step(torch.compile(criterion)) for name, criterion in losses.items()}
        if loss == "total_loss" and fast.enabled:
            steps["kernel"] = kernel_step(1, x.detach().numpy(), y.numpy(), torch.get_num_threads())
        yield "compile", steps


def kernel_step(axis: int, x: np.ndarray, y: np.ndarray, threads: int) -> Step:
    """The kernel of total_loss alone, its gradient in memory that it has already."""
    from dualloss.fast.kernel import Arrays

    what = fast.Signature(SPECS["total_loss"], x.shape[axis], x.ndim - 2, True, False, False, True)
    program = fast.program(what)
    assert program is not None
    kernel = fast.compiled(what, False, True, True)
    given = Arrays(True, axis, x, y, None, None, True)
    numbers = [1.0] * program.parameters

    def once() -> float:
        kernel.run(given, numbers, threads)
        return math.nan  # what it computes are sums

    return once


def tf_step(criterion: Callable[[Any, Any], Any], compiled: Callable[[Any], Any], y: Any, x: Any) -> Step:
    """A loss of TensorFlow and its gradient."""
    import tensorflow as tf

    @compiled
    def both(y_true: Any, y_pred: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(y_pred)
            value = criterion(y_true, y_pred)
        return value, tape.gradient(value, y_pred)

    def once() -> float:
        value, gradient = both(y, x)
        tf.reshape(gradient, [-1])[0].numpy()  # waits for it
        return float(value)

    return once


def tf_steps(loss: str, size: Size, modes: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Step]]]:
    """The modes of TensorFlow, each with its losses."""
    import keras
    import tensorflow as tf

    from dualloss.tf import Loss

    logits, labels = batch(size)
    channels, spatial = size[1], len(size) - 2
    x, y = tf.constant(logits), tf.constant(labels)
    kernel = laplacian(spatial)

    def edges(images: Any) -> Any:
        if spatial == 2:
            return tf.nn.depthwise_conv2d(images, np.repeat(kernel[:, :, None, None], channels, 2), [1] * 4, "SAME")
        # There is no depthwise convolution of volumes: every channel is an image of its own.
        shape = tf.shape(images)
        apart = tf.reshape(tf.transpose(images, [0, 4, 1, 2, 3]), [-1, *size[2:], 1])
        found = tf.nn.conv3d(apart, kernel[..., None, None], [1] * 5, "SAME")
        return tf.transpose(tf.reshape(found, [shape[0], channels, *size[2:]]), [0, 2, 3, 4, 1])

    def total_loss(y_true: Any, y_pred: Any) -> Any:
        one_hot = tf.one_hot(y_true, channels)
        cross_entropy = tf.nn.softmax_cross_entropy_with_logits(one_hot, y_pred)
        boundary = tf.square(edges(y_pred) - edges(one_hot))
        return tf.reduce_mean(cross_entropy) + 0.5 * tf.reduce_mean(boundary)

    def focal(y_true: Any, y_pred: Any) -> Any:
        logs = -tf.nn.sparse_softmax_cross_entropy_with_logits(y_true, y_pred)
        return tf.reduce_mean(-((1 - tf.exp(logs)) ** 2) * logs)

    def dice(y_true: Any, y_pred: Any) -> Any:
        p, t = tf.nn.softmax(y_pred), tf.one_hot(y_true, channels)
        axes = list(range(spatial + 1))
        both, each = tf.reduce_sum(p * t, axes), tf.reduce_sum(p, axes) + tf.reduce_sum(t, axes)
        return tf.reduce_mean(1 - (2 * both + 1) / (each + 1))

    def huber(y_true: Any, y_pred: Any) -> Any:
        return tf.reduce_mean(keras.losses.huber(tf.one_hot(y_true, channels), y_pred))

    plain: dict[str, Callable[[Any, Any], Any]] = {
        "total_loss": total_loss,
        "cross_entropy": lambda y, x: tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, x)),
        "binary_cross_entropy": lambda y, x: tf.reduce_mean(
            tf.nn.sigmoid_cross_entropy_with_logits(tf.one_hot(y, channels), x)
        ),
        "focal": focal,
        "dice": dice,
        "mse": lambda y, x: tf.reduce_mean(tf.square(x - tf.one_hot(y, channels))),
        "huber": huber,
    }

    def step(criterion: Callable[[Any, Any], Any], compiled: Callable[[Any], Any]) -> Step:
        return tf_step(criterion, compiled, y, x)

    class Shift(keras.layers.Layer):
        """The least that a model can do: one weight to train."""

        def build(self, shape: Any) -> None:
            self.shift = self.add_weight(shape=(), initializer="zeros")

        def call(self, inputs: Any) -> Any:
            return inputs + self.shift

    def fit(criterion: Any) -> Step:
        model = keras.Sequential([keras.Input((*size[2:], channels)), Shift()])
        model.compile(keras.optimizers.SGD(0.0), loss=criterion)
        data = tf.data.Dataset.from_tensors((x, y)).repeat()
        fitted = iter(data)

        def once() -> float:
            images, target = next(fitted)
            return float(model.train_on_batch(images, target))

        return once

    compilers: dict[str, Callable[[Any], Any]] = {
        "eager": lambda function: function,
        "graph": tf.function,
        "XLA": tf.function(jit_compile=True),
    }
    losses: dict[str, Callable[[Any, Any], Any]] = {
        "plain": plain[loss],
        "native": Loss(SPECS[loss], numerics="native"),
        "exact": Loss(SPECS[loss]),
    }
    sparse, squared = keras.losses.SparseCategoricalCrossentropy(from_logits=True), keras.losses.MeanSquaredError()

    def composed(y_true: Any, y_pred: Any) -> Any:
        return sparse(y_true, y_pred) + 0.5 * squared(edges(tf.one_hot(y_true, channels)), edges(y_pred))

    for mode, compiled in compilers.items():
        if mode in modes:
            beside = {"peer": composed} if loss == "total_loss" and mode != "XLA" else {}
            yield mode, {name: step(criterion, compiled) for name, criterion in {**losses, **beside}.items()}
    if "fit" in modes:
        # Keras hands labels over as floats.
        losses["plain"] = lambda y_true, y_pred: plain[loss](tf.cast(y_true, tf.int64), y_pred)
        yield "fit", {name: fit(criterion) for name, criterion in losses.items()}


def torch_demo() -> dict[str, Callable[[], Any]]:
    """A step of the demo's training (examples/train_torch.py); its loss and gradient alone; and their kernel alone."""
    import torch

    settings = _examples()
    from unet_torch import UNet

    from dualloss.torch import Loss

    net, criterion = UNet(), Loss(SPECS["total_loss"])
    optimizer = torch.optim.Adam(net.parameters(), lr=settings.learning_rate)
    images, classes = map(torch.from_numpy, settings.train_scenes.batch(0))
    images = images[:, None]
    logits = net(images).detach().requires_grad_()

    def step() -> None:
        found = criterion(net(images), classes)
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        found.item()

    def loss() -> None:
        logits.grad = None
        found = criterion(logits, classes)
        found.backward()
        found.item()

    steps: dict[str, Callable[[], Any]] = {"step": step, "loss": loss}
    if fast.enabled:
        steps["kernel"] = kernel_step(1, logits.detach().numpy(), classes.numpy(), torch.get_num_threads())
    return steps


def tf_demo() -> dict[str, Callable[[], Any]]:
    """A step of the demo's training (examples/train_keras.py), and its loss and gradient alone."""
    settings = _examples()
    import keras
    import tensorflow as tf
    from unet_keras import unet

    from dualloss.tf import Loss

    net, criterion = unet(), Loss(SPECS["total_loss"])
    net.compile(keras.optimizers.Adam(settings.learning_rate), loss=criterion)
    images, classes = settings.train_scenes.batch(0)
    images, classes = tf.constant(images[..., None]), tf.constant(classes)
    logits = tf.constant(net.predict(images, verbose=0))

    loss = tf_step(criterion, tf.function, classes, logits)
    steps: dict[str, Callable[[], Any]] = {"step": lambda: net.train_on_batch(images, classes), "loss": loss}
    if fast.enabled:
        steps["kernel"] = kernel_step(3, logits.numpy(), classes.numpy().astype(np.int64), os.cpu_count() or 1)
    return steps


def _examples() -> Any:
    """The settings of the examples, whose folder can be imported from now on."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    from common import Settings

    return Settings()


DEMOS = {"torch": torch_demo, "tf": tf_demo}
STEPS = {"torch": torch_steps, "tf": tf_steps}
MODES = {"torch": ("eager", "compile"), "tf": ("eager", "graph", "XLA", "fit")}


def elements(size: Size) -> int:
    """Of the logits."""
    return math.prod(size)
