"""Weights that follow a schedule: the specs, and losses at every step in both frameworks."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dualloss as dl
from dualloss.exact import loss_and_gradient

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
keras = pytest.importorskip("keras", reason="Keras is not installed")

from dualloss.tf import Loss, ScheduleSteps  # noqa: E402
from dualloss.torch import Loss as TorchLoss  # noqa: E402

SameBits = Callable[[Any, Any], None]

SPEC = dl.CrossEntropy() + dl.Linear(0, 0.5, steps=10) * dl.Boundary()
FIRST = dl.Linear(1, 0, steps=10) * dl.Boundary() + 0 * dl.Huber() + dl.Linear(0, 3, steps=3) * dl.CrossEntropy()
SMALL = dl.MeanSquaredError() + dl.Linear(0, 0.5, steps=10) * dl.MeanAbsoluteError()
STEPS = (0, 1, 3, 10, 99)


def _data() -> tuple[Any, Any]:
    """Logits, channels last, and labels."""
    rng = np.random.default_rng(11)
    return rng.normal(0, 2, (4, 3, 4, 3)).astype(np.float32), rng.integers(0, 3, (4, 3, 4))


def _dense() -> tuple[Any, Any]:
    """For SMALL, which compiles fast."""
    x, target = _data()
    return x, np.eye(3, dtype=np.float32)[target]


def _torch(loss: Any, x: Any, target: Any) -> tuple[Any, Any]:
    x = torch.from_numpy(x).requires_grad_()
    value = loss(x, torch.from_numpy(target))
    value.sum().backward()
    return value.detach(), x.grad


def _keras(loss: Any, x: Any, target: Any) -> tuple[Any, Any]:
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss(target, x)
        total = tf.reduce_sum(value)
    return value, tape.gradient(total, x)


# --- The spec


def test_a_weight_that_float32_holds_as_a_subnormal_only_is_0() -> None:
    assert dl.Linear(0, 2.0**-126, steps=2).at(1) == 0


def test_the_spec_of_a_step_has_plain_numbers() -> None:
    assert SPEC.at(0) == dl.CrossEntropy() + 0 * dl.Boundary()
    assert SPEC.at(10) == dl.TOTAL_LOSS
    assert dl.TOTAL_LOSS.at(3) is dl.TOTAL_LOSS
    assert repr(SPEC) == "CrossEntropy() + Linear(start=0.0, end=0.5, steps=10) * Boundary()"


def test_schedules_go_through_json_and_pickle() -> None:
    for spec in (SPEC, FIRST):
        assert dl.from_json(spec.to_json()) == spec == pickle.loads(pickle.dumps(spec))
        assert hash(dl.from_json(spec.to_json())) == hash(spec)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schedule": "Cosine", "start": 0, "end": 1, "steps": 5}', "Cosine"),
        ('{"schedule": "Linear", "start": 0, "end": 1}', "start, end, steps"),
        ('{"schedule": "Linear", "start": 0, "end": 1, "steps": 0}', "steps=0"),
        ("{}", "None"),
    ],
)
def test_bad_schedules_in_json_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dl.from_json(f'{{"dualloss": 1, "terms": [{{"weight": {text}, "term": "Boundary"}}]}}')


# --- Values and gradients


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("spec", [SPEC, FIRST], ids=["last", "first"])
def test_a_scheduled_loss_is_the_loss_of_its_step(spec: Any, reduction: str, same_bits: SameBits) -> None:
    x, target = _data()
    in_torch = TorchLoss(spec, reduction=reduction, channel_axis=-1)
    in_keras = Loss(spec, reduction=reduction, jit_compile=False)
    for step in STEPS:
        expected = loss_and_gradient(spec.at(step), x, target, reduction=reduction)
        in_torch.step = in_keras.step = step
        for value, gradient in (_torch(in_torch, x, target), _keras(in_keras, x, target)):
            same_bits(value, expected.loss)
            same_bits(gradient, expected.gradient)


def test_terms_without_a_map_follow_the_schedule(same_bits: SameBits) -> None:
    x, target = _data()
    spec = dl.Linear(0, 0.3, steps=3) * dl.Dice() + dl.Boundary() + dl.Linear(1, 0, steps=3) * dl.Lovasz()
    in_torch, in_keras = TorchLoss(spec, channel_axis=-1), Loss(spec, jit_compile=False)
    for step in (0, 1, 3):
        expected = loss_and_gradient(spec.at(step), x, target)
        in_torch.step = in_keras.step = step
        for value, gradient in (_torch(in_torch, x, target), _keras(in_keras, x, target)):
            same_bits(value, expected.loss)
            same_bits(gradient, expected.gradient)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_native_numerics_follow_the_schedule(reduction: str) -> None:
    x, target = _data()
    for step in STEPS:
        for make, run in ((TorchLoss, _torch), (Loss, _keras)):
            options: dict[str, Any] = {"reduction": reduction, "numerics": "native", "channel_axis": -1}
            scheduled = make(SPEC, **options)
            scheduled.step = step
            expected = run(make(SPEC.at(step), **options), x, target)
            for found, wanted in zip(run(scheduled, x, target), expected, strict=True):
                np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("numerics", ["exact", "native"])
def test_weight_zero_hides_a_nan_of_its_term(numerics: str, same_bits: SameBits) -> None:
    """A class of probability 0 has a cross-entropy, but no Laplacian."""
    x, target = _data()
    x[..., 0], target[:] = -np.inf, np.maximum(target, 1)
    for make, run, options in ((TorchLoss, _torch, {"channel_axis": -1}), (Loss, _keras, {"jit_compile": False})):
        loss = make(SPEC, numerics=numerics, **options)
        alone = run(make(dl.CrossEntropy(), numerics=numerics, **options), x, target)
        for found, expected in zip(run(loss, x, target), alone, strict=True):
            assert np.isfinite(np.asarray(expected)).all()
            same_bits(found, expected)
        loss.step = 1
        assert np.isnan(float(run(loss, x, target)[0]))


def test_a_term_of_weight_zero_does_not_even_chop_the_gradient(same_bits: SameBits) -> None:
    """The gradient of one term may have 53 bits, sums of terms have 48: here that decides how float32 rounds."""
    x = np.zeros((1, 7, 1), np.float32)
    x[0, 3, 0], x[0, 5, 0] = 1 + 3 * 2.0**-23, 2.0**-46
    target = np.zeros_like(x)
    boundary, huber = dl.Boundary(), dl.Huber()
    alone = loss_and_gradient(boundary, x, target, reduction="sum").gradient
    chopped = loss_and_gradient(boundary + 2.0**-120 * huber, x, target, reduction="sum").gradient
    assert (alone != chopped).any()
    for spec in (boundary + dl.Linear(0, 1, steps=2) * huber, dl.Linear(0, 1, steps=2) * huber + boundary):
        same_bits(_torch(TorchLoss(spec, reduction="sum", channel_axis=-1), x, target)[1], alone)
        same_bits(_keras(Loss(spec, reduction="sum", jit_compile=False), x, target)[1], alone)


def test_numpy_takes_plain_numbers() -> None:
    with pytest.raises(ValueError, match=r"spec\.at\(step\)"):
        loss_and_gradient(SPEC, *_data())


def test_terms_sums_and_totals_at_a_step(same_bits: SameBits) -> None:
    x, target = _data()
    expected = loss_and_gradient(SPEC.at(3), x, target)
    part = loss_and_gradient(SPEC.at(3), x[:1], target[:1], totals=expected.sums)
    tensors = torch.from_numpy(x), torch.from_numpy(target)
    loss = TorchLoss(SPEC, channel_axis=-1)
    loss.step = 3
    totals = loss.sums(*tensors)
    value, terms = loss.from_sums(totals, return_terms=True)
    same_bits(value, expected.loss)
    same_bits(terms["boundary"], expected.terms["boundary"])
    same_bits(loss(*tensors, return_terms=True)[1]["boundary"], expected.terms["boundary"])
    same_bits(loss(tensors[0][:1], tensors[1][:1], totals=totals), part.loss)
    loss = Loss(SPEC, jit_compile=False)
    loss.step = 3
    totals = loss.sums(target, x)
    value, terms = loss.from_sums(totals, return_terms=True)
    same_bits(value, expected.loss)
    same_bits(terms["boundary"], expected.terms["boundary"])
    same_bits(loss(target[:1], x[:1], totals=totals), part.loss)


@pytest.mark.parametrize("make", [TorchLoss, Loss], ids=["torch", "tf"])
def test_steps_are_counted(make: Any) -> None:
    loss = make(SPEC)
    assert int(loss.step) == 0
    loss.advance()
    loss.advance(4)
    assert int(loss.step) == 5
    loss.step = np.int64(7)
    assert int(loss.step) == 7
    assert "step=7" in repr(loss)
    for wrong, error in ((-1, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="step"):
            loss.step = wrong
        assert int(loss.step) == 7
    make(dl.TOTAL_LOSS).advance()


# --- PyTorch


def test_state_dict_holds_the_step(same_bits: SameBits) -> None:
    x, target = _data()
    loss = TorchLoss(SPEC, channel_axis=-1)
    loss.advance(3)
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert list(state) == ["step"]
    assert state["step"].dtype == torch.int64
    found = TorchLoss(SPEC, channel_axis=-1)
    found.load_state_dict(state)
    assert int(found.step) == 3
    same_bits(_torch(found, x, target)[0], loss_and_gradient(SPEC.at(3), x, target).loss)
    found.advance()
    same_bits(_torch(found, x, target)[0], loss_and_gradient(SPEC.at(4), x, target).loss)
    model = torch.nn.ModuleDict({"criterion": TorchLoss(SPEC, channel_axis=-1)})
    model.load_state_dict({"criterion.step": state["step"]}, assign=True)
    same_bits(_torch(model["criterion"], x, target)[0], loss_and_gradient(SPEC.at(3), x, target).loss)


def test_copies_and_casts_keep_the_step(same_bits: SameBits) -> None:
    x, target = _data()
    loss = TorchLoss(SPEC, channel_axis=-1)
    loss.advance(3)
    for found in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss).half(), loss.double()):
        same_bits(_torch(found, x, target)[0], loss_and_gradient(SPEC.at(3), x, target).loss)
    copied = copy.deepcopy(loss)
    copied.advance()
    assert (int(loss.step), int(copied.step)) == (3, 4)


def test_the_step_may_move_before_the_backward_pass(same_bits: SameBits) -> None:
    x, target = _data()
    for reduction in ("mean", "none"):
        loss = TorchLoss(SPEC, channel_axis=-1, reduction=reduction)
        loss.step = 3
        given = torch.from_numpy(x).requires_grad_()
        value = loss(given, torch.from_numpy(target))
        loss.step = 9
        value.sum().backward()
        same_bits(given.grad, loss_and_gradient(SPEC.at(3), x, target, reduction=reduction).gradient)


def test_compiled_loss_is_compiled_once_for_all_steps(same_bits: SameBits) -> None:
    x, target = _dense()
    loss = TorchLoss(SMALL, channel_axis=-1)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for step in range(12):
        value, gradient = _torch(compiled, x, target)
        expected = loss_and_gradient(SMALL.at(step), x, target)
        same_bits(value, expected.loss)
        same_bits(gradient, expected.gradient)
        loss.advance()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_a_compiled_step_may_advance(same_bits: SameBits) -> None:
    x, target = _dense()
    spec = dl.Linear(0, 0.3, steps=7) * dl.MeanSquaredError()
    loss = TorchLoss(spec, channel_axis=-1)

    @torch.compile(backend="eager")
    def step(x: Any, target: Any) -> Any:
        value = loss(x, target)
        loss.advance()
        return value

    for n in range(3):
        found = step(torch.from_numpy(x), torch.from_numpy(target))
        same_bits(found, loss_and_gradient(spec.at(n), x, target).loss)


def test_a_loss_without_schedule_has_no_state() -> None:
    loss = TorchLoss(dl.TOTAL_LOSS)
    loss.advance()
    assert not loss.state_dict()
    assert not list(loss.buffers())


# --- TensorFlow and Keras


@pytest.mark.parametrize("jit_compile", [True, False])
def test_a_graph_is_traced_once_for_all_steps(jit_compile: bool, same_bits: SameBits) -> None:
    x, target = _dense()
    loss = Loss(SMALL, jit_compile=jit_compile)

    @tf.function
    def graph(target: Any, x: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(target, x)
        return value, tape.gradient(value, x)

    for step in STEPS:
        loss.step = step
        expected = loss_and_gradient(SMALL.at(step), x, target)
        value, gradient = graph(tf.constant(target), tf.constant(x))
        same_bits(value, expected.loss)
        same_bits(gradient, expected.gradient)
    assert graph.experimental_get_tracing_count() == 1


def test_the_step_is_not_set_inside_a_graph() -> None:
    loss = Loss(SPEC)
    with pytest.raises(RuntimeError, match=r"outside tf\.function"):
        tf.function(loss.advance, autograph=False)()
    assert loss.step == 0


def test_config_holds_the_step(same_bits: SameBits) -> None:
    x, target = _data()
    loss = Loss(SPEC, jit_compile=False)
    loss.step = 3
    for found in (Loss.from_config(loss.get_config()), copy.deepcopy(loss)):
        assert found.step == 3
        same_bits(found(target, x), loss_and_gradient(SPEC.at(3), x, target).loss)
        found.advance()
        assert loss.step == 3
    assert "step" not in Loss(dl.TOTAL_LOSS).get_config()
    same_bits(loss.call(target, x), loss_and_gradient(SPEC.at(3), x, target, reduction="none").loss)


def _model(outputs: int = 1) -> Any:
    given = keras.Input((None, None, 3))
    layers = [
        keras.layers.Dense(3, kernel_initializer="identity", use_bias=False, name=f"y{k}") for k in range(outputs)
    ]
    return keras.Model(given, [layer(given) for layer in layers] if outputs > 1 else layers[0](given))


def _losses_at(*steps: int) -> list[float]:
    x, target = _dense()
    return [float(loss_and_gradient(SMALL.at(step), x, target).loss) for step in steps]


@pytest.mark.parametrize("mode", [{"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True}], ids=str)
def test_fit_moves_the_schedule_and_resumes(mode: dict[str, Any], tmp_path: Path) -> None:
    x, target = _dense()
    model = _model()
    model.compile(keras.optimizers.SGD(0.0), Loss(SMALL, jit_compile=False), **mode)
    fit = {"batch_size": len(x), "verbose": 0, "callbacks": [ScheduleSteps()]}
    history = model.fit(x, target, epochs=3, **fit).history
    assert history["loss"] == _losses_at(0, 1, 2)
    if mode == {"jit_compile": False}:
        history = model.fit(x, target, epochs=2, validation_data=(x, target), **fit).history
        assert history["loss"] == _losses_at(3, 4)
        assert history["val_loss"] == _losses_at(4, 5)
        model.save(tmp_path / "model.keras")
        model = keras.saving.load_model(tmp_path / "model.keras")
        assert model.evaluate(x, target, batch_size=len(x), verbose=0) == _losses_at(5)[0]
        assert model.fit(x, target, epochs=2, **fit).history["loss"] == _losses_at(5, 6)


def test_steps_per_execution_moves_in_stairs() -> None:
    x, target = _dense()
    model = _model()
    model.compile(keras.optimizers.SGD(0.0), Loss(SMALL, jit_compile=False), steps_per_execution=2, jit_compile=False)
    twice = np.concatenate([x, x]), np.concatenate([target, target])
    history = model.fit(*twice, epochs=2, batch_size=len(x), verbose=0, callbacks=[ScheduleSteps()]).history
    assert history["loss"] == _losses_at(0, 2)


@pytest.mark.parametrize("kind", ["list", "dict"])
def test_losses_of_several_outputs_are_found(kind: str) -> None:
    x, target = _dense()
    losses = [Loss(SMALL, jit_compile=False), Loss(dl.MeanSquaredError(), jit_compile=False)]
    model = _model(2)
    model.compile("sgd", losses if kind == "list" else dict(zip(("y0", "y1"), losses, strict=True)), run_eagerly=True)
    model.fit(x, [target, target], batch_size=1, verbose=0, callbacks=[ScheduleSteps()])
    assert [loss.step for loss in losses] == [len(x), 0]


def test_losses_held_elsewhere_are_given() -> None:
    x, target = _dense()
    loss = Loss(SMALL, jit_compile=False)
    model = _model()
    model.compile("sgd", lambda y_true, y_pred: loss(y_true, y_pred), run_eagerly=True)
    with pytest.raises(ValueError, match=r"ScheduleSteps\(\[loss\]\)"):
        model.fit(x, target, verbose=0, callbacks=[ScheduleSteps()])
    model.fit(x, target, batch_size=2, verbose=0, callbacks=[ScheduleSteps([loss])])
    assert loss.step == 2
    with pytest.raises(TypeError, match="function"):
        ScheduleSteps([model.loss])


REPLICAS = """
import os
os.environ["KERAS_BACKEND"] = "tensorflow"
import numpy as np
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras
import dualloss as dl
from dualloss.exact import loss_and_gradient
from dualloss.tf import Loss, ScheduleSteps, term_metrics

spec = dl.CrossEntropy() + dl.Linear(0, 0.5, steps=4) * dl.CrossEntropy(label_smoothing=0.5)
rng = np.random.default_rng(0)
x, y = rng.normal(0, 2, (4, 5, 3)).astype("f"), rng.integers(0, 3, (4, 5))
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    dense = keras.layers.Dense(3, kernel_initializer="identity", use_bias=False)
    model = keras.Sequential([keras.Input((5, 3)), dense])
    loss = Loss(spec, jit_compile=False)
    model.compile(keras.optimizers.SGD(0.0), loss, metrics=term_metrics(loss)[1:], jit_compile=False)
callback = ScheduleSteps()
history = model.fit(x, y, epochs=2, batch_size=4, shuffle=False, verbose=0, callbacks=[callback]).history
for step in range(2):
    halves = [loss_and_gradient(spec.at(step), x[i], y[i]).loss for i in (slice(2), slice(2, 4))]
    # Keras averages the replicas' losses in float32.
    np.testing.assert_allclose(history["loss"][step], np.mean(halves), rtol=1e-6)
    value = loss_and_gradient(spec.at(step), x, y).terms["cross_entropy_2"]
    assert history["cross_entropy_2"][step] == value, (history, value)
"""


def test_two_replicas_follow_the_schedule_and_add_their_terms() -> None:
    done = subprocess.run([sys.executable, "-c", REPLICAS], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
