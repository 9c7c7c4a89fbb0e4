"""What the importers say of edges: there the library's loss does one thing, ours another."""

from __future__ import annotations

from typing import Any

import torch  # first: TensorFlow brings its own copies of some libraries

# isort: split
import keras
import numpy as np
import tensorflow as tf
from torch import nn

import dualloss as dl
import dualloss.torch

INF, NAN = float("inf"), float("nan")


def in_torch(loss: Any, x: Any, t: Any) -> tuple[float, Any]:
    """The value and gradient of a PyTorch loss."""
    given = torch.tensor(x, requires_grad=True)
    value = loss(given, torch.tensor(t))
    (gradient,) = torch.autograd.grad(value, given)
    return value.item(), gradient.numpy()


def in_keras(loss: Any, x: Any, t: Any) -> tuple[float, Any]:
    """The value and gradient of a Keras loss."""
    given = tf.constant(x, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(given)
        value = loss(tf.constant(t), given)
    return float(value), tape.gradient(value, given).numpy()


def ours(spec: Any, x: Any, t: Any, axis: int = 1) -> tuple[float, Any]:
    """Ours."""
    return in_torch(dualloss.torch.Loss(spec, channel_axis=axis), x, t)


def same(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=0, equal_nan=True)


def test_torch_mean_of_nothing() -> None:
    """The row's term has empty="nan" for it: the value is NaN, the gradient 0, in both."""
    loss = nn.CrossEntropyLoss(ignore_index=1)
    for value, gradient in (in_torch(loss, [[1.0, 2.0]], [1]), ours(dl.from_torch(loss), [[1.0, 2.0]], [1])):
        assert np.isnan(value) and not gradient.any()


def test_torch_classes_of_weight_0() -> None:
    loss = nn.CrossEntropyLoss(weight=torch.tensor([0.0, 1.0]))
    value, gradient = in_torch(loss, [[1.0, 2.0]], [0])
    assert np.isnan(value) and np.isnan(gradient).all()
    value, gradient = ours(dl.from_torch(loss), [[1.0, 2.0]], [0])
    assert np.isnan(value) and not gradient.any()


def test_torch_nan_at_an_ignored_position() -> None:
    loss, x, t = nn.CrossEntropyLoss(), [[1.0, 2.0], [NAN, 0.0]], [0, -100]
    (value, gradient), (here, ours_) = in_torch(loss, x, t), ours(dl.from_torch(loss), x, t)
    same(value, here)
    assert np.isnan(gradient[1]).any() and not ours_[1].any()


def test_torch_impossible_class_beside_a_dense_target() -> None:
    loss, x, t = nn.CrossEntropyLoss(), [[1.0, -INF]], [[1.0, 0.0]]
    assert np.isnan(in_torch(loss, x, t)[0])
    assert ours(dl.from_torch(loss, targets="probabilities"), x, t)[0] == 0


def test_torch_infinite_logits_of_right_answers() -> None:
    loss, x, t = nn.BCEWithLogitsLoss(), [[INF, -INF]], [[1.0, 0.0]]
    assert np.isnan(in_torch(loss, x, t)[0])
    assert ours(dl.from_torch(loss), x, t)[0] == 0


def test_torch_gradient_of_an_absolute_nan() -> None:
    loss = nn.L1Loss()
    value, gradient = in_torch(loss, [[NAN]], [[1.0]])
    assert np.isnan(value) and gradient == 0
    assert np.isnan(ours(dl.from_torch(loss), [[NAN]], [[1.0]])[1])


def test_torch_divergence_from_an_impossible_class() -> None:
    loss, x, t = nn.KLDivLoss(reduction="batchmean"), [[0.0, -INF]], [[1.0, 0.0]]
    assert np.isnan(in_torch(loss, x, t)[0])
    assert ours(dl.from_torch(loss), x, t)[0] == 0


def test_torch_divergence_to_a_negative_target() -> None:
    loss, x, t = nn.KLDivLoss(reduction="sum"), [[-1.0, -1.0]], [[1.0, -0.5]]
    assert np.isnan(in_torch(loss, x, t)[0])
    assert ours(dl.from_torch(loss), x, t)[0] == 1


def test_keras_gradient_of_targets_that_do_not_sum_to_1() -> None:
    loss, x, t = keras.losses.CategoricalCrossentropy(from_logits=True), [[1.0, 1.0]], [[0.0, 0.0]]
    (value, gradient), (here, ours_) = in_keras(loss, x, t), ours(dl.from_keras(loss), x, t)
    assert value == here == 0
    same(gradient, [[0.5, 0.5]])
    assert not ours_.any()


def test_keras_infinite_error_of_huber() -> None:
    loss = keras.losses.Huber(delta=2.0)
    assert np.isnan(in_keras(loss, [[INF]], [[0.0]])[1])
    same(ours(dl.from_keras(loss), [[INF]], [[0.0]])[1], [[2.0]])


def test_keras_digits_of_small_errors() -> None:
    loss, x, t = keras.losses.LogCosh(), [[1e-4]], [[0.0]]
    assert in_keras(loss, x, t)[0] == 0
    same(ours(dl.from_keras(loss), x, t)[0], 5e-9)


def test_keras_labels_that_are_not_all_0_and_1() -> None:
    """Outside what the row holds for: a 0 among other labels stays 0 there."""
    loss, x, t = keras.losses.Hinge(), [[0.5, 0.5]], [[0.0, -1.0]]
    same(in_keras(loss, x, t)[0], (1 + 1.5) / 2)
    same(ours(dl.from_keras(loss), x, t)[0], (1.5 + 1.5) / 2)


def test_keras_logits_behind_probabilities() -> None:
    """Where Keras can, it goes back to the softmax's input; ours are probabilities, clipped."""
    loss, logits, t = keras.losses.CategoricalCrossentropy(), [[40.0, 0.0]], [[0.0, 1.0]]
    p = keras.ops.softmax(tf.constant(logits))
    same(float(loss(tf.constant(t), p)), 40)
    same(ours(dl.from_keras(loss), p.numpy(), t)[0], -np.log(np.float64(np.float32(1e-7))))


def test_keras_weight_of_a_ratio_of_sums() -> None:
    loss, p, t = keras.losses.Dice(), [[0.5, 0.5], [0.25, 0.75]], [[1.0, 0.0], [1.0, 0.0]]
    weight = [1.0, 3.0]
    plain = in_keras(loss, p, t)[0]
    same(float(loss(tf.constant(t), tf.constant(p), tf.constant(weight))), 2 * plain)
    here = dualloss.torch.Loss(dl.from_keras(loss))(torch.tensor(p), torch.tensor(t), torch.tensor(weight)).item()
    assert abs(here - 2 * plain) > 0.1
