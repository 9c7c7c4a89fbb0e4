"""The TensorFlow backend as users meet it: the bits of the NumPy engine, tapes, graphs, Keras, errors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dualloss import TOTAL_LOSS, BinaryCrossEntropy, Boundary, CrossEntropy, Huber, MeanSquaredError
from dualloss.exact import loss_and_gradient

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

from dualloss.tf import Loss, total_loss  # noqa: E402

SameBits = Callable[[Any, Any], None]


def value_and_gradient(
    loss: Any, target: Any, x: Any, *args: Any, upstream: Any = None, **options: Any
) -> tuple[Any, Any]:
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss(target, x, *args, **options)
    return value, tape.gradient(value, x, output_gradients=upstream)


def graph(loss: Any, *, jit_compile: bool = False, **options: Any) -> Any:
    """Loss and gradient in one graph, for any batch and any spatial shape of 2 axes and 4 channels."""
    signature = [
        tf.TensorSpec((None, None, None), tf.int64),
        tf.TensorSpec((None, None, None, 4), tf.float32),
    ]

    @tf.function(input_signature=None if jit_compile else signature, jit_compile=jit_compile)
    def step(target: Any, x: Any) -> Any:
        return value_and_gradient(loss, target, x, **options)

    return step


@pytest.fixture(scope="module")
def plain() -> Any:
    """The total loss without XLA."""
    return Loss(TOTAL_LOSS, jit_compile=False)


@pytest.fixture(scope="module")
def jitted() -> Any:
    """The total loss with XLA, compiled once for each shape."""
    return Loss(TOTAL_LOSS, jit_compile=True)


# Values and gradients


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_bits_are_those_of_numpy(case: Any, reduction: str, same_bits: SameBits) -> None:
    upstream: Any = 1.0
    if reduction == "none":
        shape = case.x.shape[:-1] if case.x.ndim > 1 else case.x.shape
        upstream = np.linspace(-1, 2, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    wanted = loss_and_gradient(case.spec, case.x, case.target, case.weight, reduction=reduction, upstream=upstream)
    found = value_and_gradient(
        Loss(case.spec, reduction=reduction, jit_compile=False),
        case.target,
        case.x,
        case.weight,
        upstream=tf.constant(upstream, tf.float32),
    )
    same_bits(found[0], wanted.loss)
    same_bits(found[1], wanted.gradient)


@pytest.mark.parametrize(
    "case", ["classes_weighted", "boundary_of_probabilities", "rank_1", "all_terms"], indirect=True
)
def test_bits_are_those_of_numpy_with_xla(case: Any, same_bits: SameBits) -> None:
    found = value_and_gradient(Loss(case.spec, jit_compile=True), case.target, case.x, case.weight)
    wanted = loss_and_gradient(case.spec, case.x, case.target, case.weight)
    same_bits(found[0], wanted.loss)
    same_bits(found[1], wanted.gradient)


def test_labels_and_one_hot_targets_have_the_same_bits(plain: Any, total: Any, same_bits: SameBits) -> None:
    wanted = value_and_gradient(plain, total.target, total.x)
    one_hot = np.eye(4, dtype=np.float32)[total.target]
    for dense in (one_hot, one_hot.astype(np.float16), one_hot.astype(np.int32), one_hot.astype(bool)):
        found = value_and_gradient(plain, dense, total.x)
        same_bits(found[0], wanted[0])
        same_bits(found[1], wanted[1])


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float64", "float32", "float16"])
def test_labels_of_any_dtype_of_integer_value(dtype: str, plain: Any, total: Any, same_bits: SameBits) -> None:
    wanted = loss_and_gradient(TOTAL_LOSS, total.x, total.target)
    same_bits(plain(total.target.astype(dtype), total.x), wanted.loss)


def test_total_loss_takes_the_target_first(total: Any, same_bits: SameBits) -> None:
    found = value_and_gradient(total_loss, total.target, total.x)
    wanted = loss_and_gradient(TOTAL_LOSS, total.x, total.target)
    same_bits(found[0], wanted.loss)
    same_bits(found[1], wanted.gradient)
    same_bits(total_loss(y_pred=total.x, y_true=total.target), wanted.loss)


@pytest.mark.parametrize("upstream", [65536.0, 0.3, 0.0, -1.0, float("inf")])
def test_upstream_gradient(upstream: float, plain: Any, jitted: Any, total: Any, same_bits: SameBits) -> None:
    wanted = loss_and_gradient(TOTAL_LOSS, total.x, total.target, upstream=upstream)
    for loss in (plain, jitted):
        found = value_and_gradient(loss, total.target, total.x, upstream=tf.constant(upstream))
        same_bits(found[1], wanted.gradient)


def test_a_map_reduced_outside_has_the_gradient_of_that_upstream(total: Any, same_bits: SameBits) -> None:
    loss = Loss(TOTAL_LOSS, reduction="none", jit_compile=False)
    found = value_and_gradient(lambda t, x: tf.reduce_sum(loss(t, x)) * 0.25, total.target, total.x)
    wanted = loss_and_gradient(TOTAL_LOSS, total.x, total.target, reduction="none", upstream=0.25)
    same_bits(found[1], wanted.gradient)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_gradient_has_the_dtype_of_the_input(
    dtype: str, plain: Any, jitted: Any, total: Any, same_bits: SameBits
) -> None:
    x = tf.cast(total.x, dtype)
    wanted = loss_and_gradient(TOTAL_LOSS, x.numpy(), total.target)
    for loss in (plain, jitted):
        value, gradient = value_and_gradient(loss, total.target, x)
        assert value.dtype == tf.float32
        assert gradient.dtype == x.dtype
        same_bits(value, wanted.loss)
        same_bits(gradient, wanted.gradient)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_channels_on_axis_1(jit_compile: bool, total: Any, same_bits: SameBits) -> None:
    loss = Loss(TOTAL_LOSS, channel_axis=1, jit_compile=jit_compile)
    found = value_and_gradient(loss, total.target, np.moveaxis(total.x, -1, 1))
    wanted = loss_and_gradient(TOTAL_LOSS, total.x, total.target)
    same_bits(found[0], wanted.loss)
    same_bits(found[1], np.moveaxis(wanted.gradient, -1, 1))


@pytest.mark.parametrize("numerics", ["exact", "native"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_all_ignored_gives_zero(numerics: str, reduction: str, same_bits: SameBits) -> None:
    spec = CrossEntropy(ignore_index=-100, class_weights=(1, 2, 3)) + 0.5 * Boundary() + Huber()
    loss = Loss(spec, reduction=reduction, numerics=numerics, jit_compile=False)
    value, gradient = value_and_gradient(
        loss, np.full((2, 4, 4), -100), tf.random.stateless_normal((2, 4, 4, 3), (1, 2))
    )
    same_bits(value, np.float32(0))
    assert not np.any(gradient)


@pytest.mark.parametrize("numerics", ["exact", "native"])
def test_all_masked_gives_zero(numerics: str, same_bits: SameBits) -> None:
    loss = Loss(TOTAL_LOSS, numerics=numerics, jit_compile=False)
    x = tf.fill((2, 4, 4, 3), float("nan"))
    value, gradient = value_and_gradient(loss, np.zeros((2, 4, 4), int), x, np.zeros(2, bool))
    same_bits(value, np.float32(0))
    assert not np.any(gradient)


@pytest.mark.parametrize("numerics", ["exact", "native"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_empty_batch(numerics: str, reduction: str, jit_compile: bool) -> None:
    loss = Loss(TOTAL_LOSS, reduction=reduction, numerics=numerics, jit_compile=jit_compile)
    value, gradient = value_and_gradient(loss, np.zeros((0, 4, 5), int), tf.zeros((0, 4, 5, 3)))
    assert value.shape == ((0, 4, 5) if reduction == "none" else ())
    assert value.dtype == tf.float32
    assert not np.any(value)
    assert gradient.shape == (0, 4, 5, 3)


@pytest.mark.parametrize("numerics", ["exact", "native"])
def test_zero_weight_hides_nan(numerics: str) -> None:
    x = np.ones((2, 4, 3), np.float32)
    x[1] = np.nan
    loss = Loss(CrossEntropy(), numerics=numerics, jit_compile=False)
    value, gradient = value_and_gradient(loss, np.zeros((2, 4), int), x, np.float32([1, 0]))
    assert np.isfinite(value)
    assert np.any(gradient[0])
    assert not np.any(gradient[1])


def test_nan_input_gives_the_nan_of_the_definition(plain: Any, jitted: Any, total: Any, same_bits: SameBits) -> None:
    x = total.x.copy()
    x[0, 1, 1, 1] = np.nan
    wanted = loss_and_gradient(TOTAL_LOSS, x, total.target)
    assert np.isnan(wanted.loss)
    for loss in (plain, jitted):
        found = value_and_gradient(loss, total.target, x)
        same_bits(found[0], wanted.loss)
        same_bits(found[1], wanted.gradient)


# Tapes


def test_persistent_tape(plain: Any, total: Any, same_bits: SameBits) -> None:
    x = tf.constant(total.x)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        value = plain(total.target, x)
    wanted = loss_and_gradient(TOTAL_LOSS, total.x, total.target)
    same_bits(tape.gradient(value, x), wanted.gradient)
    same_bits(tape.gradient(value, x), wanted.gradient)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_second_derivative_of_exact_numerics_is_refused(reduction: str, jit_compile: bool, total: Any) -> None:
    loss = Loss(TOTAL_LOSS, reduction=reduction, jit_compile=jit_compile)
    x = tf.constant(total.x)
    with tf.GradientTape() as outer:
        outer.watch(x)
        _, gradient = value_and_gradient(loss, total.target, x)
    with pytest.raises(RuntimeError, match=r"differentiated once only.*numerics='native'"):
        outer.gradient(gradient, x)


def test_second_derivative_of_native_numerics(total: Any) -> None:
    loss = Loss(TOTAL_LOSS, numerics="native")
    x = tf.constant(total.x)
    direction = tf.reshape(tf.linspace(-1.0, 1.0, total.x.size), x.shape)
    with tf.GradientTape() as outer:
        outer.watch(x)
        _, gradient = value_and_gradient(loss, total.target, x)
    product = outer.gradient(gradient, x, output_gradients=direction)
    step = 2.0**-6
    ahead, behind = (value_and_gradient(loss, total.target, x + s * direction)[1].numpy() for s in (step, -step))
    np.testing.assert_allclose(product, (ahead - behind) / (2 * step), rtol=1e-3, atol=1e-5)
    assert np.abs(product).max() > 0.01


# Graphs and XLA


@pytest.mark.parametrize("jit_compile", [False, True])
def test_graph_with_dynamic_batch_and_spatial_axes(jit_compile: bool, make_case: Any, same_bits: SameBits) -> None:
    step = graph(Loss(TOTAL_LOSS, jit_compile=jit_compile))
    for shape in [(2, 5, 6, 4)] if jit_compile else [(2, 5, 6, 4), (3, 1, 4, 4), (1, 7, 2, 4), (0, 2, 2, 4)]:
        case = make_case(TOTAL_LOSS, shape, "labels")
        found = step(case.target, case.x)
        wanted = loss_and_gradient(TOTAL_LOSS, case.x, case.target)
        same_bits(found[0], wanted.loss)
        same_bits(found[1], wanted.gradient)
    assert step.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("jit_compile", [False, True])
def test_loss_inside_a_larger_xla_graph(jit_compile: bool, total: Any, same_bits: SameBits) -> None:
    found = graph(Loss(TOTAL_LOSS, jit_compile=jit_compile), jit_compile=True)(total.target, total.x)
    wanted = loss_and_gradient(TOTAL_LOSS, total.x, total.target)
    same_bits(found[0], wanted.loss)
    same_bits(found[1], wanted.gradient)


def test_map_in_a_dynamic_graph(total: Any, same_bits: SameBits) -> None:
    step = graph(Loss(TOTAL_LOSS, reduction="none", jit_compile=False), upstream=None)
    found = step(total.target, total.x)
    wanted = loss_and_gradient(TOTAL_LOSS, total.x, total.target, reduction="none")
    same_bits(found[0], wanted.loss)
    same_bits(found[1], wanted.gradient)


def test_autograph_leaves_the_loss_alone(plain: Any, total: Any, same_bits: SameBits) -> None:
    @tf.function(autograph=True)
    def step(target: Any, x: Any, steps: Any) -> Any:
        value = 0.0
        for _ in tf.range(steps):  # a loop that only autograph can turn into a graph
            value = plain(target, x)
        return value

    wanted = loss_and_gradient(TOTAL_LOSS, total.x, total.target)
    same_bits(step(total.target, total.x, tf.constant(2)), wanted.loss)


def test_label_out_of_range_is_nan_in_a_graph(plain: Any, jitted: Any, total: Any, same_bits: SameBits) -> None:
    labels = total.target.copy()
    labels[0, 1, 1] = 4
    wanted = loss_and_gradient(TOTAL_LOSS, total.x, labels, check_labels=False)
    for loss in (plain, jitted):
        found = graph(loss)(labels, total.x)
        assert np.isnan(found[0])
        assert np.isnan(found[1][0, 1, 1]).all()
        assert np.isfinite(found[1][1]).all()
        same_bits(found[0], wanted.loss)
        same_bits(found[1], wanted.gradient)


@pytest.mark.parametrize("label", [1.5, float("nan"), float("inf"), 1e30])
def test_float_label_that_is_no_class(label: float, plain: Any, total: Any) -> None:
    labels = total.target.astype(np.float32)
    labels[1, 2, 3] = label
    with pytest.raises(ValueError, match=r"y_true has label .* at position \(1, 2, 3\), expected 0 to 3"):
        plain(labels, total.x)
    value = tf.function(plain)(labels, total.x)
    assert np.isnan(value)


# Terms and sums


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("numerics", ["exact", "native"])
def test_returned_terms_are_the_separate_losses(numerics: str, reduction: str, total: Any, same_bits: SameBits) -> None:
    options = {"reduction": reduction, "numerics": numerics, "jit_compile": False}
    loss = Loss(TOTAL_LOSS, **options)
    x = tf.constant(total.x)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        value, terms = loss(total.target, x, return_terms=True)
    same_bits(value, loss(total.target, x))
    assert list(terms) == ["cross_entropy", "boundary"]
    for name, spec in (("cross_entropy", CrossEntropy()), ("boundary", Boundary())):
        assert tape.gradient(terms[name], x) is None
        same_bits(terms[name], Loss(spec, **options)(total.target, x))


@pytest.fixture
def batch(make_case: Any) -> Any:
    spec = CrossEntropy(class_weights=(1, 0.3, 2), ignore_index=255) + 0.5 * Boundary(padding="replicate") + Huber()
    return make_case(spec, (9, 5, 4, 3), "labels", "position")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_sums_of_any_split_give_the_bits_of_the_whole(
    seed: int, reduction: str, batch: Any, same_bits: SameBits
) -> None:
    rng = np.random.default_rng(seed)
    loss = Loss(batch.spec, reduction=reduction, jit_compile=False)
    args = batch.target, batch.x, batch.weight
    parts = np.split(rng.permutation(9), np.sort(rng.integers(0, 10, 3)))  # some of them may be empty
    added = tf.add_n([loss.sums(*(a[part] for a in args)) for part in parts])
    same_bits(added, loss.sums(*args))
    same_bits(loss.from_sums(added), loss(*args))


def test_sums_have_the_bits_of_numpy(case: Any, same_bits: SameBits) -> None:
    found = Loss(case.spec, jit_compile=False).sums(case.target, case.x, case.weight)
    same_bits(found, loss_and_gradient(case.spec, case.x, case.target, case.weight).sums)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_micro_batches_with_totals_in_a_graph_have_the_gradient_of_the_whole(
    jit_compile: bool, batch: Any, same_bits: SameBits
) -> None:
    loss = Loss(batch.spec, jit_compile=jit_compile)

    @tf.function
    def accumulate(target: Any, x: Any, weight: Any) -> Any:
        args = [tf.split(a, 3) for a in (target, x, weight)]
        totals = tf.add_n([loss.sums(*part) for part in zip(*args, strict=True)])
        values, gradients = [], []
        for target_, x_, weight_ in zip(*args, strict=True):
            value, gradient = value_and_gradient(loss, target_, x_, weight_, totals=totals)
            values.append(value)
            gradients.append(gradient)
        return loss.from_sums(totals), tf.add_n(values), tf.concat(gradients, 0)

    value, added, gradient = accumulate(batch.target, batch.x, batch.weight)
    wanted = loss_and_gradient(batch.spec, batch.x, batch.target, batch.weight)
    same_bits(value, wanted.loss)
    same_bits(gradient, wanted.gradient)
    np.testing.assert_allclose(added, wanted.loss, rtol=1e-6)


def test_what_sums_cannot_do_is_said(plain: Any, total: Any) -> None:
    sums = plain.sums(total.target, total.x)
    with pytest.raises(ValueError, match="reduction is 'none'"):
        Loss(TOTAL_LOSS, reduction="none").from_sums(sums)
    native = Loss(TOTAL_LOSS, numerics="native")
    for call in (
        lambda: native.sums(total.target, total.x),
        lambda: native.from_sums(sums),
        lambda: native(total.target, total.x, totals=sums),
    ):
        with pytest.raises(ValueError, match="needs numerics='exact'"):
            call()


# Native numerics


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_native_is_close_to_exact(case: Any, reduction: str) -> None:
    found = {}
    for numerics in ("exact", "native"):
        loss = Loss(case.spec, reduction=reduction, numerics=numerics, jit_compile=False)
        found[numerics] = value_and_gradient(loss, case.target, case.x, case.weight)
    for native, exact in zip(found["native"], found["exact"], strict=True):
        assert np.any(exact)
        np.testing.assert_allclose(native, exact, rtol=1e-5, atol=1e-5 * np.abs(exact).max())


def test_native_numerics_take_a_mask_beside_weights(total: Any) -> None:
    weight = np.linspace(0, 1, 60, dtype=np.float32).reshape(2, 5, 6)
    found = []
    for numerics in ("exact", "native"):
        x = tf.constant(total.x)
        x._keras_mask = tf.constant(total.target != 2)
        found.append(Loss(TOTAL_LOSS, numerics=numerics, jit_compile=False)(total.target, x, weight))
    np.testing.assert_allclose(*found, rtol=1e-5)


# Keras


def linear(units: int = 4) -> Any:
    """A model with weights to train that starts as the identity, so that NumPy knows its logits."""
    x = keras.Input((5, 6, units))
    y = keras.layers.Conv2D(units, 1, use_bias=False, kernel_initializer="zeros")(x)
    return keras.Model(x, keras.layers.Add()([x, y]))


MODES = {
    "eager": {"run_eagerly": True},
    "graph": {"jit_compile": False},
    "xla": {"jit_compile": True},
    "auto": {"jit_compile": "auto"},
}


@pytest.mark.parametrize("mode", MODES)
def test_fit_has_the_bits_of_numpy(mode: str, total: Any, same_bits: SameBits) -> None:
    """One step on logits that are variables: the logged loss and the new logits follow from the gradient."""

    class Logits(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.logits = self.add_weight(shape=shape[1:], initializer="zeros", name="logits")

        def call(self, x: Any) -> Any:
            return x + self.logits

    model = keras.Sequential([keras.Input((5, 6, 4)), Logits()])
    model.compile(keras.optimizers.SGD(0.25), Loss(TOTAL_LOSS), **MODES[mode])
    x, y = total.x[:1], total.target[:1]
    history = model.fit(x, y, batch_size=1, epochs=2, verbose=0).history["loss"]
    logits, values = np.zeros_like(x), []
    for _ in range(2):
        step = loss_and_gradient(TOTAL_LOSS, x + logits, y)
        values.append(step.loss)
        logits = logits - np.float32(0.25) * step.gradient
    same_bits(np.float32(history), np.float32(values))
    same_bits(model.layers[-1].logits, logits[0])


def test_evaluate_and_predict(total: Any, same_bits: SameBits) -> None:
    model = linear()
    model.compile("sgd", Loss(TOTAL_LOSS))
    found = model.evaluate(total.x, total.target, batch_size=2, verbose=0)
    same_bits(np.float32(found), loss_and_gradient(TOTAL_LOSS, total.x, total.target).loss)
    same_bits(model.predict(total.x, verbose=0), total.x)


@pytest.mark.parametrize("shape", [(2,), (2, 5, 6)])
def test_sample_weight_through_keras(shape: tuple[int, ...], total: Any, same_bits: SameBits) -> None:
    model = linear()
    weight = np.linspace(0.25, 3, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    model.compile(keras.optimizers.SGD(0.1), Loss(TOTAL_LOSS), jit_compile=False)
    wanted = loss_and_gradient(TOTAL_LOSS, total.x, total.target, weight).loss
    found = model.evaluate(total.x, total.target, sample_weight=weight, batch_size=2, verbose=0)
    same_bits(np.float32(found), wanted)
    history = model.fit(total.x, total.target, sample_weight=weight, batch_size=2, verbose=0).history
    same_bits(np.float32(history["loss"][0]), wanted)


def test_label_as_float_through_fit(total: Any, same_bits: SameBits) -> None:
    model = linear()
    model.compile("sgd", Loss(TOTAL_LOSS), jit_compile=False)
    found = model.evaluate(total.x, total.target.astype(np.float32), batch_size=2, verbose=0)
    same_bits(np.float32(found), loss_and_gradient(TOTAL_LOSS, total.x, total.target).loss)


@pytest.mark.parametrize("numerics", ["exact", "native"])
def test_keras_mask_leaves_steps_out(numerics: str) -> None:
    """Masked steps count neither in value nor gradient, nor in the number that the mean divides by."""
    words = np.array([[1, 2, 3, 0, 0], [4, 1, 0, 0, 0]])
    labels = np.array([[0, 2, 1, 2, 2], [1, 1, 0, 0, 0]])
    embedding = keras.layers.Embedding(5, 3, mask_zero=True)
    logits = embedding(words)
    assert getattr(logits, "_keras_mask", None) is not None
    loss = Loss(CrossEntropy(), numerics=numerics, jit_compile=False)
    value, gradient = value_and_gradient(loss, labels, logits)
    wanted = loss_and_gradient(CrossEntropy(), logits.numpy()[words > 0], labels[words > 0])
    np.testing.assert_allclose(value, wanted.loss, rtol=1e-6)
    np.testing.assert_allclose(gradient.numpy()[words > 0], wanted.gradient, rtol=1e-5, atol=1e-7)
    assert not np.any(gradient.numpy()[words == 0])


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("layer", ["embedding", "masking"])
def test_keras_mask_through_fit(layer: str, mode: str, same_bits: SameBits) -> None:
    words = np.array([[1, 2, 3, 0, 0], [4, 1, 0, 0, 0]])
    labels = np.array([[0, 2, 1, 2, 2], [1, 1, 0, 0, 0]])
    if layer == "embedding":
        x, first = words, keras.layers.Embedding(5, 3, mask_zero=True)
    else:
        x, first = np.float32(words[..., None]), keras.layers.Masking()
    model = keras.Sequential([first, keras.layers.Dense(3)])
    logits = model(x)
    model.compile(keras.optimizers.SGD(0.1), Loss(CrossEntropy()), **MODES[mode])
    wanted = loss_and_gradient(CrossEntropy(), logits.numpy(), labels, words > 0).loss
    same_bits(np.float32(model.evaluate(x, labels, verbose=0)), wanted)
    weight = np.float32([[1, 2, 1, 5, 5], [0, 1, 5, 5, 5]])
    found = model.evaluate(x, labels, sample_weight=weight, verbose=0)
    # Keras' own losses fold the mask into the weights; here a masked step is not counted either.
    each = loss_and_gradient(CrossEntropy(), logits.numpy(), labels, words > 0, reduction="none").loss
    np.testing.assert_allclose(found, (each * weight).sum() / (words > 0).sum(), rtol=1e-6)
    model.fit(x, labels, verbose=0)


@pytest.fixture
def mixed_float16() -> Iterator[None]:
    keras.mixed_precision.set_global_policy("mixed_float16")
    yield
    keras.mixed_precision.set_global_policy("float32")


@pytest.mark.usefixtures("mixed_float16")
def test_mixed_precision_fit(total: Any) -> None:
    model = keras.Sequential([keras.Input((5, 6, 4)), keras.layers.Conv2D(4, 1)])
    loss = Loss(TOTAL_LOSS)
    model.compile(keras.optimizers.Adam(0.05), loss, jit_compile=False)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    logits = model(total.x)
    assert logits.dtype == tf.float16
    assert loss(total.target, logits).dtype == tf.float32
    history = model.fit(total.x, total.target, epochs=15, batch_size=2, verbose=0).history["loss"]
    assert np.isfinite(history).all()
    assert history[-1] < 0.9 * history[0]


@pytest.mark.parametrize("numerics", ["exact", "native"])
def test_training_lowers_the_loss(numerics: str) -> None:
    keras.utils.set_random_seed(0)
    image = np.random.default_rng(0).normal(size=(4, 8, 8, 2)).astype(np.float32)
    labels = (image > 0).sum(-1)
    model = keras.Sequential([keras.layers.Conv2D(8, 1, activation="relu"), keras.layers.Conv2D(3, 1)])
    model.compile(keras.optimizers.Adam(0.05), Loss(TOTAL_LOSS, numerics=numerics), jit_compile=False)
    history = model.fit(image, labels, batch_size=4, epochs=40, verbose=0).history["loss"]
    assert history[-1] < 0.5 * history[0]


def settings() -> Any:
    return Loss(
        CrossEntropy(class_weights=(1, 2, 0.1, 1), ignore_index=255) + 0.3 * Boundary(padding="reflect"),
        reduction="sum",
        channel_axis=1,
        jit_compile=False,
        name="segmentation",
    )


def test_config_round_trip() -> None:
    loss = settings()
    other = Loss.from_config(loss.get_config())
    assert other.spec == loss.spec
    assert other.get_config() == loss.get_config()


def test_repr_is_the_call_that_makes_the_loss() -> None:
    shown = "Loss(Huber(delta=0.7), reduction='sum', numerics='native', channel_axis=1, jit_compile=False, name='h')"
    assert repr(eval(shown)) == shown


def test_keras_serialization_round_trip() -> None:
    loss = settings()
    other = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert isinstance(other, Loss)
    assert other.spec == loss.spec
    assert other.get_config() == loss.get_config()
    assert keras.losses.deserialize(keras.losses.serialize(loss)).spec == loss.spec


def test_model_saved_and_loaded_keeps_the_loss(tmp_path: Path, total: Any, same_bits: SameBits) -> None:
    model = linear()
    model.compile("sgd", Loss(TOTAL_LOSS, jit_compile=False), jit_compile=False)
    before = model.evaluate(total.x, total.target, batch_size=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.loss, Loss)
    assert loaded.loss.spec == TOTAL_LOSS
    assert loaded.loss.get_config() == model.loss.get_config()
    after = loaded.evaluate(total.x, total.target, batch_size=2, verbose=0)
    same_bits(np.float32(after), np.float32(before))


def test_deepcopy_keeps_the_settings(total: Any, same_bits: SameBits) -> None:
    for loss in (Loss(0.3 * TOTAL_LOSS, jit_compile=False), Loss(0.3 * TOTAL_LOSS)):
        other = copy.deepcopy(loss)
        assert other.get_config() == loss.get_config()
        same_bits(other(total.target, total.x), loss(total.target, total.x))


def test_call_gives_the_map(plain: Any, total: Any, same_bits: SameBits) -> None:
    """`call` is what Keras asks of a loss: values that are not reduced yet."""
    wanted = loss_and_gradient(TOTAL_LOSS, total.x, total.target, reduction="none").loss
    same_bits(plain.call(total.target, total.x), wanted)


# Errors


def pair(shape: tuple[int, ...] = (2, 4, 4, 3), target: tuple[int, ...] = (2, 4, 4)) -> tuple[Any, Any]:
    return np.zeros(target, np.int64), np.zeros(shape, np.float32)


def with_label(value: int, where: tuple[int, ...]) -> tuple[Any, Any]:
    labels, x = pair()
    labels[where] = value
    return labels, x


ERRORS: dict[str, tuple[Any, tuple[Any, ...], type[Exception], str]] = {
    "float64 prediction": (
        TOTAL_LOSS,
        (pair()[0], pair()[1].astype(np.float64)),
        TypeError,
        "y_pred has dtype float64, expected float16, bfloat16 or float32",
    ),
    "integer prediction": (
        TOTAL_LOSS,
        (pair()[0], pair()[1].astype(np.int32)),
        TypeError,
        "y_pred has dtype int32",
    ),
    "boolean labels": (TOTAL_LOSS, (pair()[0] > 0, pair()[1]), TypeError, "y_true has dtype bool"),
    "float64 targets": (
        TOTAL_LOSS,
        (pair()[1].astype(np.float64), pair()[1]),
        TypeError,
        "y_true has dtype float64",
    ),
    "float64 weight": (TOTAL_LOSS, (*pair(), np.ones(2)), TypeError, "sample_weight has dtype float64"),
    "labels with an axis of 1": (
        TOTAL_LOSS,
        pair(target=(2, 4, 4, 1)),
        ValueError,
        r"y_true has shape \(2, 4, 4, 1\), expected \(2, 4, 4\) class indices or \(2, 4, 4, 3\) dense",
    ),
    "another batch": (TOTAL_LOSS, pair(target=(3, 4, 4)), ValueError, r"y_true has shape \(3, 4, 4\)"),
    "scalar prediction": (MeanSquaredError(), pair((), ()), ValueError, r"y_pred has shape \(\)"),
    "weight of a wrong batch": (
        TOTAL_LOSS,
        (*pair(), np.ones(3, np.float32)),
        ValueError,
        r"sample_weight has shape \(3,\), expected \(2,\) or \(2, 4, 4\)",
    ),
    "weight with a channel axis": (
        TOTAL_LOSS,
        (*pair(), np.ones((2, 4, 4, 1), np.float32)),
        ValueError,
        "sample_weight has shape",
    ),
    "label too large": (
        TOTAL_LOSS,
        with_label(3, (1, 2, 0)),
        ValueError,
        r"y_true has label 3 at position \(1, 2, 0\), expected 0 to 2$",
    ),
    "label near the ignored one": (
        CrossEntropy(ignore_index=255),
        with_label(254, (0, 1, 3)),
        ValueError,
        r"label 254 at position \(0, 1, 3\), expected 0 to 2 \(ignore_index is 255\)",
    ),
    "ignore_index with dense targets": (
        CrossEntropy(ignore_index=255),
        (pair()[1], pair()[1]),
        ValueError,
        "ignore_index=255 has no meaning",
    ),
    "class_weights of the wrong length": (
        CrossEntropy(class_weights=(1, 2)),
        pair(),
        ValueError,
        "class_weights has 2 values, expected 3",
    ),
    "pos_weight of the wrong length": (
        BinaryCrossEntropy(pos_weight=(1, 2)),
        (pair()[1], pair()[1]),
        ValueError,
        "pos_weight has 2 values, expected 3",
    ),
    "boundary without spatial axes": (
        TOTAL_LOSS,
        pair((2, 3), (2,)),
        ValueError,
        "0 spatial axes, expected 1 to 3 for Boundary",
    ),
    "cross-entropy of rank 1": (
        CrossEntropy(),
        pair((2,), (2,)),
        ValueError,
        "expected a batch and a channel axis for CrossEntropy",
    ),
    "a 0/1 mask as indices of one channel": (
        BinaryCrossEntropy(),
        pair((2, 4, 4, 1), (2, 4, 4)),
        ValueError,
        "one channel; expected dense targets",
    ),
}


@pytest.mark.parametrize("numerics", ["exact", "native"])
@pytest.mark.parametrize("name", ERRORS)
def test_error(name: str, numerics: str) -> None:
    spec, args, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        Loss(spec, numerics=numerics)(*args)


@pytest.mark.parametrize("name", ["labels with an axis of 1", "float64 prediction"])
def test_shapes_and_dtypes_are_checked_in_a_graph(name: str) -> None:
    spec, args, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        tf.function(Loss(spec))(*args)


def test_labels_with_an_axis_of_1_through_fit() -> None:
    model = linear()
    model.compile("sgd", Loss(TOTAL_LOSS))
    with pytest.raises(ValueError, match=r"y_true has shape .* class indices or"):
        model.fit(np.zeros((2, 5, 6, 4), np.float32), np.zeros((2, 5, 6, 1), int), verbose=0)


def test_unknown_channel_axis_in_a_graph() -> None:
    signature = [tf.TensorSpec((None,), tf.int64), tf.TensorSpec((None, None), tf.float32)]
    step = tf.function(Loss(CrossEntropy()), input_signature=signature)
    with pytest.raises(ValueError, match="known length of its channel axis"):
        step(np.zeros(2, np.int64), np.zeros((2, 3), np.float32))


def test_unknown_rank_in_a_graph() -> None:
    signature = [tf.TensorSpec(None, tf.int64), tf.TensorSpec((None, 3), tf.float32)]
    step = tf.function(Loss(CrossEntropy()), input_signature=signature)
    with pytest.raises(ValueError, match="y_true has an unknown number of axes"):
        step(np.zeros(2, np.int64), np.zeros((2, 3), np.float32))


@pytest.mark.parametrize("name", ["label too large", "labels with an axis of 1", "float64 prediction"])
def test_sums_make_the_same_checks(name: str) -> None:
    spec, args, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        Loss(spec).sums(*args)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"reduction": "avg"}, ValueError, "reduction is 'avg', expected one of 'mean', 'sum', 'none'"),
        ({"reduction": "sum_over_batch_size"}, ValueError, "reduction is 'sum_over_batch_size'"),
        ({"numerics": "fast"}, ValueError, "numerics is 'fast', expected one of 'exact', 'native'"),
        ({"channel_axis": 1.0}, TypeError, "channel_axis is 1.0, expected an integer"),
        ({"jit_compile": "yes"}, ValueError, "jit_compile is 'yes', expected True, False or 'auto'"),
        ({"spec": "cross_entropy"}, TypeError, "spec is str, expected a loss spec"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Loss(**{"spec": TOTAL_LOSS, **options})


@pytest.mark.parametrize("axis", [0, 4, -4, -5])
def test_channel_axis_must_be_one_of_the_prediction(axis: int) -> None:
    with pytest.raises(ValueError, match=f"channel_axis is {axis}, expected an axis of y_pred"):
        Loss(TOTAL_LOSS, channel_axis=axis)(*pair())
