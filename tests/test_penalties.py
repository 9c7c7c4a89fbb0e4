"""Penalties on weights in both frameworks, and how they relate to the optimizers' weight_decay."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dualloss as dl
from dualloss.exact.constants import chop, float32

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
keras = pytest.importorskip("keras", reason="Keras is not installed")

from dualloss.tf import Regularizer  # noqa: E402
from dualloss.torch import penalty  # noqa: E402

SameBits = Callable[[Any, Any], None]

BOTH = 0.01 * dl.L2() + 0.3 * dl.L1()
SHAPES = ((3, 4), (50,), (2, 3, 3, 2), (1,), ())
SCALES = (1, 1e-3, 100, 1e-25, 1e12)


def _arrays() -> list[Any]:
    rng = np.random.default_rng(3)
    arrays = [np.asarray(rng.normal(0, scale, shape), np.float32) for shape, scale in zip(SHAPES, SCALES, strict=True)]
    arrays[1][::7] = 0
    return arrays


def _truth(spec: Any, arrays: list[Any]) -> Any:
    """docs/numerics/penalties.md, in exact fractions."""
    total = 0.0
    for k, (weight, term) in enumerate(spec.parts):
        summed = Fraction(0)
        for w in (Fraction(float(v)) for array in arrays for v in array.ravel()):
            value = abs(w) if term == dl.L1() else w * w
            summed += Fraction(int(value * 2**160), 2**160)
        part = chop(float32(weight) * float(summed))
        total = part if k == 0 else chop(total + part)
    return np.float32(total)


def _torch(spec: Any, arrays: list[Any], upstream: float = 1.0, **options: Any) -> tuple[Any, list[Any]]:
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    value = penalty(spec, tensors, **options)
    (value * upstream).backward()
    return value, [tensor.grad for tensor in tensors]


def _keras(regularizer: Any, array: Any, upstream: float = 1.0) -> tuple[Any, Any]:
    x = tf.constant(array)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = regularizer(x)
        scaled = value * upstream
    return value, tape.gradient(scaled, x)


@pytest.mark.parametrize("spec", [dl.L1(), dl.L2(), 0.01 * dl.L2(), BOTH, 0 * dl.L1() + dl.L2()], ids=str)
def test_value_is_that_of_the_definition(spec: Any, same_bits: SameBits) -> None:
    arrays = _arrays()
    same_bits(penalty(spec, map(torch.tensor, arrays)), _truth(spec, arrays))
    for array in arrays[:2]:
        same_bits(Regularizer(spec, jit_compile=False)(array), _truth(spec, [array]))


@pytest.mark.parametrize("jit_compile", [True, False])
def test_frameworks_have_the_same_bits(jit_compile: bool, same_bits: SameBits) -> None:
    regularizer = Regularizer(BOTH, jit_compile=jit_compile)
    for array in _arrays()[: 2 if jit_compile else None]:
        value, (gradient,) = _torch(BOTH, [array], 0.7)
        found = _keras(regularizer, array, 0.7)
        same_bits(found[0], value)
        same_bits(found[1], gradient)


def test_gradient_is_two_w_and_the_sign(same_bits: SameBits) -> None:
    w = np.array([-3, 0, 0.5], np.float32)
    same_bits(_torch(dl.L2(), [w])[1][0], np.array([-6, 0, 1], np.float32))
    same_bits(_torch(dl.L1(), [w])[1][0], np.array([-1, 0, 1], np.float32))
    same_bits(_torch(0.25 * dl.L2() + dl.L1(), [w])[1][0], np.array([-2.5, 0, 1.25], np.float32))


def test_order_of_the_tensors_does_not_show(same_bits: SameBits) -> None:
    arrays = _arrays()
    same_bits(_torch(BOTH, arrays[::-1])[0], _torch(BOTH, arrays)[0])
    flat = np.concatenate([array.ravel() for array in arrays])
    value, (gradient,) = _torch(BOTH, [flat])
    same_bits(value, _torch(BOTH, arrays)[0])
    same_bits(gradient, torch.cat([part.ravel() for part in _torch(BOTH, arrays)[1]]))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_gradient_has_the_dtype_of_the_weights(dtype: str, same_bits: SameBits) -> None:
    array = _arrays()[0]
    w = torch.tensor(array).to(getattr(torch, dtype)).requires_grad_()
    value = penalty(BOTH, [w])
    value.backward()
    x = tf.cast(array, dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        found = Regularizer(BOTH, jit_compile=False)(x)
    same_bits(found, value)
    assert found.dtype == tf.float32
    gradient = tape.gradient(found, x)
    assert gradient.dtype == x.dtype
    same_bits(tf.bitcast(gradient, tf.uint16), w.grad.view(torch.int16).numpy().view(np.uint16))


@pytest.mark.parametrize("numerics", ["exact", "native"])
def test_parameters_of_a_module(numerics: str, same_bits: SameBits) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    value = penalty(dl.L2(), model.parameters(), numerics=numerics)
    same_bits(penalty(dl.L2(), model.named_parameters(), numerics=numerics), value)
    same_bits(penalty(dl.L2(), list(model.parameters()), numerics=numerics), value)
    value.backward()
    for parameter in model.parameters():
        same_bits(parameter.grad, 2 * parameter)


def test_a_frozen_parameter_counts_without_a_gradient(same_bits: SameBits) -> None:
    free, frozen = torch.ones(3, requires_grad=True), torch.full((2,), 5.0)
    value = penalty(dl.L2(), [free, frozen])
    value.backward()
    assert value.item() == 53
    same_bits(free.grad, torch.full((3,), 2.0))


def test_compiled_penalty_has_the_same_bits(same_bits: SameBits) -> None:
    compiled = torch.compile(lambda *w: penalty(BOTH, w), backend="aot_eager", fullgraph=True)
    arrays = _arrays()[:2]
    w = [torch.tensor(array, requires_grad=True) for array in arrays]
    value = compiled(*w)
    value.backward()
    expected = _torch(BOTH, arrays)
    same_bits(value, expected[0])
    for parameter, gradient in zip(w, expected[1], strict=True):
        same_bits(parameter.grad, gradient)


def test_native_is_close_to_exact() -> None:
    arrays = _arrays()
    value, gradients = _torch(BOTH, arrays)
    found = _torch(BOTH, arrays, numerics="native")
    np.testing.assert_allclose(found[0].item(), value.item(), rtol=1e-6)
    for actual, expected in zip(found[1], gradients, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6)
    for array in arrays:
        exact, native = (_keras(Regularizer(BOTH, n, jit_compile=False), array) for n in ("exact", "native"))
        np.testing.assert_allclose(native[0], exact[0], rtol=1e-6)
        np.testing.assert_allclose(native[1], exact[1], rtol=1e-6)


def test_second_derivatives() -> None:
    w = torch.tensor([1.0, -2.0], requires_grad=True)
    (first,) = torch.autograd.grad(penalty(dl.L2(), [w], numerics="native"), w, create_graph=True)
    assert torch.autograd.grad(first.sum(), w)[0].tolist() == [2, 2]
    (first,) = torch.autograd.grad(penalty(dl.L2(), [w]), w, create_graph=True)
    with pytest.raises(RuntimeError, match="once only"):
        torch.autograd.grad(first.sum(), w)
    x = tf.constant([1.0, -2.0])
    with tf.GradientTape() as outer, pytest.raises(RuntimeError, match="once only"):
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            value = Regularizer(dl.L2(), jit_compile=False)(x)
        outer.gradient(inner.gradient(value, x), x)


def test_empty_arrays_count_nothing(same_bits: SameBits) -> None:
    value, (gradient,) = _torch(BOTH, [np.zeros((0, 3), np.float32)])
    same_bits(value, np.float32(0))
    assert gradient.shape == (0, 3)


def test_nan_gives_the_nan_of_the_definition(same_bits: SameBits) -> None:
    w = np.array([1, np.nan], np.float32)
    nan = np.array(0x7FC00000, np.uint32).view(np.float32)
    value, (gradient,) = _torch(BOTH, [w])
    same_bits(value, nan)
    same_bits(gradient[1], nan)
    found = _keras(Regularizer(BOTH, jit_compile=False), w)
    same_bits(found[0], value)
    same_bits(found[1], gradient)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        (dl.L2() + dl.Boundary(), ValueError, "Boundary"),
        (dl.CrossEntropy(), ValueError, "CrossEntropy"),
        (dl.Linear(0, 1, steps=3) * dl.L2(), ValueError, r"spec\.at\(step\)"),
        (0.01, TypeError, "float"),
    ],
    ids=str,
)
def test_other_specs_are_refused(spec: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        penalty(spec, [torch.ones(2)])
    with pytest.raises(error, match=message):
        Regularizer(spec)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        (torch.nn.Linear(2, 2), TypeError, r"model\.parameters\(\)"),
        ([], ValueError, "empty"),
        ([np.ones(2, np.float32)], TypeError, r"parameters\[0\] is ndarray"),
        ([torch.ones(2), torch.ones(2, dtype=torch.float64)], TypeError, r"parameters\[1\] has dtype torch.float64"),
        ([("bias", torch.ones(2, dtype=torch.int32))], TypeError, "bias has dtype torch.int32"),
    ],
    ids=["module", "empty", "array", "float64", "named"],
)
def test_other_parameters_are_refused(parameters: Any, error: type[Exception], message: str) -> None:
    for numerics in ("exact", "native"):
        with pytest.raises(error, match=message):
            penalty(dl.L2(), parameters, numerics=numerics)


def test_regularizer_refuses_other_dtypes_and_options() -> None:
    with pytest.raises(TypeError, match="float64"):
        Regularizer(dl.L2())(tf.ones(2, tf.float64))
    with pytest.raises(ValueError, match="fast"):
        Regularizer(dl.L2(), "fast")
    with pytest.raises(ValueError, match="perhaps"):
        Regularizer(dl.L2(), jit_compile="perhaps")


# --- Keras


def _layer_model(regularizer: Any) -> Any:
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense(2, kernel_regularizer=regularizer, use_bias=False)
    model = keras.Sequential([keras.Input((3,)), dense])
    return model


@pytest.mark.parametrize("mode", [{"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True}], ids=str)
def test_fit_takes_the_gradient_of_the_penalty(mode: dict[str, Any], same_bits: SameBits) -> None:
    model = _layer_model(Regularizer(BOTH))
    kernel = model.get_weights()[0]
    model.compile(keras.optimizers.SGD(1.0), loss=lambda y, p: 0.0 * keras.ops.mean(p), **mode)
    history = model.fit(np.ones((4, 3), np.float32), np.ones((4, 2), np.float32), epochs=1, verbose=0)
    value, (gradient,) = _torch(BOTH, [kernel])
    assert history.history["loss"] == [value.item()]
    same_bits(model.get_weights()[0], kernel - gradient.numpy())


def test_saved_model_keeps_the_regularizer(tmp_path: Path) -> None:
    model = _layer_model(Regularizer(BOTH, "native", jit_compile=False))
    model.save(tmp_path / "model.keras")
    found = keras.saving.load_model(tmp_path / "model.keras").layers[0].kernel_regularizer
    assert isinstance(found, Regularizer)
    assert found.get_config() == model.layers[0].kernel_regularizer.get_config()
    assert (found.spec, found.numerics, found.jit_compile) == (BOTH, "native", False)
    assert repr(found) == f"Regularizer({BOTH!r}, numerics='native', jit_compile=False)"


def test_keras_own_regularizers_are_the_same_sums() -> None:
    w = _arrays()[0]
    np.testing.assert_allclose(
        Regularizer(0.3 * dl.L2(), jit_compile=False)(w), keras.regularizers.L2(0.3)(w), rtol=1e-6
    )
    np.testing.assert_allclose(
        Regularizer(0.3 * dl.L1(), jit_compile=False)(w), keras.regularizers.L1(0.3)(w), rtol=1e-6
    )
    np.testing.assert_allclose(
        Regularizer(BOTH, jit_compile=False)(w), keras.regularizers.L1L2(l1=0.3, l2=0.01)(w), rtol=1e-6
    )


# --- weight_decay: what docs/regularization.md states

DECAY, RATE, STEPS = 0.1, 0.01, 5


def _train_torch(make: Any, start: Any, spec: Any = None, decay: float = 0.0, **options: Any) -> Any:
    """A few steps on the weights, the loss being their product with random numbers, and the penalty.

    ``decay`` shrinks the weights by hand before every step.
    """
    rng = np.random.default_rng(1)
    w = torch.tensor(start, requires_grad=True)
    optimizer = make([w], lr=RATE, **options)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = (w * torch.tensor(rng.normal(size=start.shape).astype(np.float32))).sum()
        if spec is not None:
            loss = loss + penalty(spec, [w])
        loss.backward()
        with torch.no_grad():
            w.mul_(1 - decay * RATE)
        optimizer.step()
    return w.detach().numpy()


def _train_keras(optimizer: Any, start: Any, spec: Any = None, decay: float = 0.0) -> Any:
    """The same in Keras."""
    rng = np.random.default_rng(1)
    w = keras.Variable(start)
    for _ in range(STEPS):
        given = tf.constant(rng.normal(size=start.shape).astype(np.float32))
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(w.value * given)
            if spec is not None:
                loss += Regularizer(spec, jit_compile=False)(w)
        gradient = tape.gradient(loss, w.value)
        w.assign(w - w * decay * RATE)
        optimizer.apply([gradient], [w])
    return w.numpy()


START = np.linspace(-2, 2, 12, dtype=np.float32)
HALF = 0.5 * DECAY * dl.L2()
TORCH_COUPLED = {
    "SGD": (torch.optim.SGD, {}),
    "SGD, momentum": (torch.optim.SGD, {"momentum": 0.9}),
    "Adam": (torch.optim.Adam, {}),
    "Adagrad": (torch.optim.Adagrad, {}),
    "Adamax": (torch.optim.Adamax, {}),
    "RMSprop": (torch.optim.RMSprop, {}),
    "NAdam": (torch.optim.NAdam, {}),
    "RAdam": (torch.optim.RAdam, {}),
}
KERAS_DECOUPLED = {
    "SGD": lambda **o: keras.optimizers.SGD(RATE, **o),
    "SGD, momentum": lambda **o: keras.optimizers.SGD(RATE, momentum=0.9, **o),
    "Adam": lambda **o: keras.optimizers.Adam(RATE, **o),
    "Adagrad": lambda **o: keras.optimizers.Adagrad(RATE, **o),
    "Adamax": lambda **o: keras.optimizers.Adamax(RATE, **o),
    "RMSprop": lambda **o: keras.optimizers.RMSprop(RATE, **o),
    "Nadam": lambda **o: keras.optimizers.Nadam(RATE, **o),
    "Lion": lambda **o: keras.optimizers.Lion(RATE, **o),
}


def _apart(found: Any, wanted: Any) -> float:
    """The largest difference, relative to the largest change of a weight: docs/regularization.md's measure."""
    return float(np.abs(found - wanted).max() / np.abs(wanted - START).max())


ROUNDING, APART = 2e-5, 5e-4


@pytest.mark.parametrize("name", TORCH_COUPLED)
def test_weight_decay_in_torch_is_half_of_l2_in_the_loss(name: str) -> None:
    make, options = TORCH_COUPLED[name]
    decayed = _train_torch(make, START, weight_decay=DECAY, **options)
    assert _apart(_train_torch(make, START, HALF, **options), decayed) < ROUNDING
    assert _apart(_train_torch(make, START, 2 * HALF, **options), decayed) > APART
    assert _apart(_train_torch(make, START, **options), decayed) > APART
    shrunk = _apart(_train_torch(make, START, decay=DECAY, **options), decayed)
    assert shrunk < ROUNDING if name == "SGD" else shrunk > APART


def test_adamw_in_torch_shrinks_the_weights() -> None:
    decayed = _train_torch(torch.optim.AdamW, START, weight_decay=DECAY)
    assert _apart(_train_torch(torch.optim.Adam, START, decay=DECAY), decayed) < ROUNDING
    assert _apart(_train_torch(torch.optim.Adam, START, HALF), decayed) > APART


@pytest.mark.parametrize("name", KERAS_DECOUPLED)
def test_weight_decay_in_keras_shrinks_the_weights(name: str) -> None:
    make = KERAS_DECOUPLED[name]
    decayed = _train_keras(make(weight_decay=DECAY), START)
    assert _apart(_train_keras(make(), START, decay=DECAY), decayed) < ROUNDING
    assert _apart(_train_keras(make(), START), decayed) > APART
    by_loss = _apart(_train_keras(make(), START, HALF), decayed)
    assert by_loss < ROUNDING if name == "SGD" else by_loss > APART


def test_adamw_is_adam_with_weight_decay_in_keras() -> None:
    decayed = _train_keras(keras.optimizers.AdamW(RATE, weight_decay=DECAY), START)
    np.testing.assert_array_equal(_train_keras(keras.optimizers.Adam(RATE, weight_decay=DECAY), START), decayed)


def test_defaults_of_adamw_differ() -> None:
    in_torch = torch.optim.AdamW([torch.ones(1, requires_grad=True)]).defaults
    in_keras = keras.optimizers.AdamW()
    assert (in_torch["weight_decay"], in_torch["eps"]) == (0.01, 1e-8)
    assert (in_keras.weight_decay, in_keras.epsilon) == (0.004, 1e-7)


@pytest.mark.parametrize(
    ("in_torch", "in_keras"),
    [
        ((torch.optim.SGD, {"weight_decay": DECAY}), KERAS_DECOUPLED["SGD"](weight_decay=DECAY)),
        (
            # Both add epsilon to the root, but Keras before the correction of the bias: small, it does not show.
            (torch.optim.AdamW, {"weight_decay": DECAY, "eps": 1e-12}),
            keras.optimizers.AdamW(RATE, weight_decay=DECAY, epsilon=1e-12),
        ),
    ],
    ids=["SGD", "AdamW"],
)
def test_the_weight_decays_that_agree_across_frameworks(in_torch: Any, in_keras: Any) -> None:
    make, options = in_torch
    assert _apart(_train_torch(make, START, **options), _train_keras(in_keras, START)) < ROUNDING


def test_the_penalty_agrees_across_frameworks_where_weight_decay_does_not() -> None:
    momentum = {"momentum": 0.9}
    by_decay = _train_torch(torch.optim.SGD, START, weight_decay=DECAY, **momentum)
    assert _apart(_train_keras(keras.optimizers.SGD(RATE, **momentum, weight_decay=DECAY), START), by_decay) > APART
    by_loss = _train_torch(torch.optim.SGD, START, HALF, **momentum)
    assert _apart(_train_keras(keras.optimizers.SGD(RATE, **momentum), START, HALF), by_loss) < ROUNDING
