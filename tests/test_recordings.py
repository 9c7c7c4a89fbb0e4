"""Recordings of trainings, what diverged first of two, and their replay."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dualloss as dl
from dualloss.check.diff import DiffReport, LossArrays, diff
from dualloss.check.matching import find_order
from dualloss.check.replay import check_recording
from dualloss.cli import main
from dualloss.exact import loss_and_gradient
from dualloss.recording import (
    LEAST_BYTES,
    Convention,
    Recording,
    RecordingError,
    Writer,
    about,
    seal,
    statistics,
    stride,
)  # fmt: skip

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
keras = pytest.importorskip("keras", reason="Keras is not installed")

import dualloss.tf  # noqa: E402
import dualloss.torch  # noqa: E402

SameBits = Callable[[Any, Any], None]

SPEC = dl.CrossEntropy() + 0.5 * dl.Boundary()
BATCH, CLASSES = 4, 5
_RNG = np.random.default_rng(3)
IMAGES = _RNG.normal(0, 1, (12, 6, 5, 3)).astype(np.float32)
LABELS = _RNG.integers(0, CLASSES, (12, 6, 5))
KERNEL = _RNG.normal(0, 0.1, (3, 3, 3, CLASSES)).astype(np.float32)


# --- Trainings


def train_torch(
    path: Path | None = None,
    *,
    criterion: Any = None,
    images: Any = IMAGES,
    labels: Any = LABELS,
    kernel: Any = KERNEL,
    rate: float = 0.05,
    scale: float = 1.0,
    data: bool = True,
    weights: bool = True,
    steps: int = 6,
    dtype: Any = torch.float32,
    compiled: bool = False,
    **options: Any,
) -> list[Any]:
    """Losses, gradients by the logits and the last weights of a training of one convolution, recorded or not."""
    model = torch.nn.Conv2d(3, CLASSES, 3, padding=1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()))
    optimizer = torch.optim.SGD(model.parameters(), rate)
    forward = torch.compile(model, backend="eager") if compiled else model
    criterion = criterion or dualloss.torch.Loss(SPEC)
    recorder = None if path is None else dualloss.torch.record(path, **options)
    called = criterion if recorder is None else recorder.loss(criterion)
    if recorder and weights:
        recorder.weights(model)
    found = []
    for k in range(steps):
        part = slice(k * BATCH % 12, k * BATCH % 12 + BATCH)
        x, y = torch.from_numpy(np.moveaxis(images[part], -1, 1).copy()), torch.from_numpy(labels[part].copy())
        if recorder and data:
            recorder.tensor("data", x, channel_axis=1)
        logits = forward(x).to(dtype)
        logits.retain_grad()
        loss = called(logits, y if y.ndim == 3 else y.movedim(-1, 1))
        optimizer.zero_grad()
        (loss * scale).backward()
        optimizer.step()
        if recorder:
            if weights:
                recorder.weights(model)
            recorder.step()
        found += [loss.detach().clone(), logits.grad.clone()]
    if recorder:
        recorder.close()
    return [*found, model.weight.detach()]


def keras_model() -> Any:
    model = keras.Sequential(
        [keras.Input((None, None, 3)), keras.layers.Conv2D(CLASSES, 3, padding="same", use_bias=False)]
    )
    model.layers[-1].set_weights([KERNEL])
    return model


def fit(
    path: Path | None = None,
    *,
    criterion: Any = None,
    labels: Any = LABELS,
    rate: float = 0.05,
    compiling: Any = None,
    **options: Any,
) -> Any:
    """The model after two epochs of three steps."""
    model = keras_model()
    criterion = criterion or dualloss.tf.Loss(SPEC)
    recorder = None if path is None else dualloss.tf.record(path, weights=True, **options)
    model.compile(
        keras.optimizers.SGD(rate), loss=recorder.loss(criterion) if recorder else criterion,
        **{"jit_compile": False, **(compiling or {})},
    )  # fmt: skip
    model.fit(
        IMAGES, labels, batch_size=BATCH, epochs=2, shuffle=False, verbose=0,
        validation_data=(IMAGES[:4], labels[:4]), callbacks=[recorder] if recorder else [],
    )  # fmt: skip
    return model


def loop(path: Path | None, graph: bool) -> list[Any]:
    """Losses and gradients by the logits of a loop of one's own."""
    criterion = dualloss.tf.Loss(SPEC)
    recorder = None if path is None else dualloss.tf.record(path)
    called = criterion if recorder is None else recorder.loss(criterion)
    kernel = tf.Variable(KERNEL)

    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            if recorder:
                recorder.tensor("data", x)
            logits = tf.nn.conv2d(x, kernel, 1, "SAME")
            loss = called(y, logits)
        gradient, by_kernel = tape.gradient(loss, [logits, kernel])
        kernel.assign_sub(0.05 * by_kernel)
        return loss, gradient

    run = tf.function(step) if graph else step
    found = []
    for k in range(6):
        part = slice(k * BATCH % 12, k * BATCH % 12 + BATCH)
        found += run(tf.constant(IMAGES[part]), tf.constant(LABELS[part]))
    if recorder:
        recorder.close()
    return [*found, kernel.numpy()]


def write(path: Path, *steps: dict[str, Any], loss: dict[str, Any] | None = None, **options: Any) -> Path:
    """A recording of given arrays."""
    writer = Writer(path, framework="torch", versions={"dualloss": "0"}, **options)
    writer.describe(**(loss or {"kind": "test"}))
    for arrays in steps:
        number = writer.begin("the loss")
        for name, array in arrays.items():
            if number is not None:
                writer.put(number, name, np.asarray(array))
        writer.next()
    writer.close()
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one training, recorded in both frameworks."""
    folder = tmp_path_factory.mktemp("runs")
    train_torch(folder / "torch")
    fit(folder / "keras")
    return folder


# --- Nothing changes


Module: Any = torch.nn.Module


class Own(Module):
    def forward(self, input: Any, target: Any) -> Any:
        return torch.nn.functional.cross_entropy(input, target) + 0.1 * input.square().mean()


CRITERIA = {
    "exact": dualloss.torch.Loss(SPEC),
    "native": dualloss.torch.Loss(SPEC, numerics="native"),
    "module": Own(),
    "function": torch.nn.functional.cross_entropy,
}


@pytest.mark.parametrize("criterion", CRITERIA)
def test_pytorch_computes_the_same_bits(criterion: str, tmp_path: Path, same_bits: SameBits) -> None:
    plain = train_torch(criterion=CRITERIA[criterion])
    recorded = train_torch(tmp_path / "run", criterion=CRITERIA[criterion])
    for one, other in zip(plain, recorded, strict=True):
        same_bits(one, other)
    steps = Recording(tmp_path / "run").steps
    assert list(steps) == [0, 1, 2, 3, 4, 5]
    for number, step in steps.items():
        same_bits(step.arrays["loss"].values(), plain[2 * number])
        same_bits(step.arrays["gradient"].values(), plain[2 * number + 1].movedim(1, -1))


def test_pytorch_under_a_compiled_model(tmp_path: Path, same_bits: SameBits) -> None:
    for one, other in zip(train_torch(compiled=True), train_torch(tmp_path / "run", compiled=True), strict=True):
        same_bits(one, other)
    assert diff(write_again(tmp_path / "run"), tmp_path / "run").same_bits


def test_a_loss_that_is_compiled_runs_outside_of_the_graph(tmp_path: Path) -> None:
    with dualloss.torch.record(tmp_path / "run") as recorder:
        criterion = recorder.loss(torch.nn.functional.cross_entropy)
        step = torch.compile(lambda x, y: criterion(2 * x, y), backend="eager")
        step(torch.ones(2, 3, requires_grad=True), torch.tensor([0, 1])).backward()
    arrays = Recording(tmp_path / "run").steps[0].arrays
    assert arrays["input"].values().tolist() == [[2.0] * 3] * 2 and "gradient" in arrays


def write_again(path: Path) -> Path:
    """A copy of a recording."""
    shutil.copytree(path, path.with_name("again"))
    return path.with_name("again")


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_tensorflow_computes_the_same_bits(graph: bool, tmp_path: Path, same_bits: SameBits) -> None:
    plain, recorded = loop(None, graph), loop(tmp_path / "run", graph)
    for one, other in zip(plain, recorded, strict=True):
        same_bits(one, other)
    steps = Recording(tmp_path / "run").steps
    assert list(steps) == [0, 1, 2, 3, 4, 5]  # without a call of step()
    for number, step in steps.items():
        same_bits(step.arrays["loss"].values(), plain[2 * number])
        same_bits(step.arrays["gradient"].values(), plain[2 * number + 1])
        same_bits(step.arrays["data"].values(), IMAGES[number * 4 % 12 :][:4])
        assert {"terms/cross_entropy", "terms/boundary", "upstream"} < step.arrays.keys()


def test_fit_computes_the_same_bits(runs: Path, same_bits: SameBits) -> None:
    steps = Recording(runs / "keras").steps
    assert list(steps) == [0, 1, 2, 3, 4, 5]  # none of them an evaluation
    assert [step.notes["iteration"] for step in steps.values()] == [1, 2, 3, 4, 5, 6]
    (last,) = (array for name, array in steps[5].arrays.items() if name.startswith("weights/"))
    same_bits(last.values(), fit().get_weights()[0])


# --- The recorders


def test_an_exception_leaves_what_was_before_it(tmp_path: Path) -> None:
    x, y = torch.zeros(2, 3, requires_grad=True), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="7"), dualloss.torch.record(tmp_path / "run") as recorder:
        criterion = recorder.loss(dualloss.torch.Loss(dl.CrossEntropy()))
        criterion(x, y).backward()
        criterion(x, torch.tensor([0, 7]))
    steps = Recording(tmp_path / "run").steps
    assert steps[0].arrays["gradient"].whole and "loss" not in steps[1].arrays
    assert steps[1].arrays["target"].values().tolist() == [0, 7]  # what it failed on
    assert not criterion(x, y).isnan() and len(Recording(tmp_path / "run").steps) == 2


def test_no_graph_is_kept(tmp_path: Path) -> None:
    import gc
    import weakref

    x = torch.zeros(2, 3, requires_grad=True)
    with dualloss.torch.record(tmp_path / "run") as recorder:
        y = (2 * x).requires_grad_()
        loss = recorder.loss(torch.nn.functional.cross_entropy)(y, torch.tensor([0, 1]))
        loss.backward()
        alive = weakref.ref(y)
        del y, loss
        gc.collect()
        assert alive() is None


def test_pytorch_evaluations_are_no_steps(tmp_path: Path) -> None:
    with dualloss.torch.record(tmp_path / "run") as recorder:
        criterion = recorder.loss(torch.nn.functional.cross_entropy)
        for _ in range(3):
            criterion(torch.zeros(2, 3, requires_grad=True), torch.tensor([0, 1])).backward()
            with torch.no_grad():
                criterion(torch.ones(2, 3), torch.tensor([0, 1]))
    steps = Recording(tmp_path / "run").steps
    assert list(steps) == [0, 1, 2] and not any(step.arrays["input"].values().any() for step in steps.values())


def test_the_names_of_arguments_say_which_is_which(tmp_path: Path) -> None:
    def loss(y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        return (torch.nn.functional.cross_entropy(y_pred, y_true, reduction="none") * sample_weight).sum()

    x, y, w = torch.zeros(2, 3, requires_grad=True), torch.tensor([0, 1]), torch.tensor([1.0, 2.0])
    with dualloss.torch.record(tmp_path / "run") as recorder:
        recorder.loss(loss)(y, sample_weight=w, y_pred=x).backward()
    arrays = Recording(tmp_path / "run").steps[0].arrays
    assert arrays["input"].shape == (2, 3) and arrays["target"].values().tolist() == [0, 1]
    assert arrays["sample_weight"].values().tolist() == [1, 2] and arrays["gradient"].shape == (2, 3)
    for function, order, expected in (
        (lambda a, b: a, "auto", "input-first"),
        (lambda a, b: a, "target-first", "target-first"),
        (lambda target, logits: target, "auto", "target-first"),
        (lambda labels, target: target, "auto", "input-first"),
    ):
        assert Convention.of(function, order, "input-first").input[0] == (expected == "target-first")
    with pytest.raises(ValueError, match="order is 'last', expected one of 'auto', 'input-first', 'target-first'"):
        Convention.of(loss, "last", "input-first")


def test_gradients_of_a_scaled_loss_come_with_what_arrives(tmp_path: Path) -> None:
    train_torch(tmp_path / "run", scale=1024.0)
    arrays = Recording(tmp_path / "run").steps[0].arrays
    assert arrays["upstream"].values() == 1024
    assert check_recording(tmp_path / "run").same_bits


def test_the_other_uses_of_the_logits_are_not_in_the_gradient(tmp_path: Path) -> None:
    found = []
    for name, penalty in (("a", 0.0), ("b", 3.0)):
        with dualloss.torch.record(tmp_path / name) as recorder:
            x = torch.ones(2, 3, requires_grad=True)
            y = torch.tensor([0, 1])
            (recorder.loss(torch.nn.functional.cross_entropy)(x, y) + penalty * x.sum()).backward()
        found.append(Recording(tmp_path / name).steps[0].arrays["gradient"].sha256)
    assert found[0] == found[1]


def test_keras_losses_of_every_kind(tmp_path: Path, same_bits: SameBits) -> None:
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    x, y = tf.constant(IMAGES[:4, ..., :2]), tf.constant(LABELS[:4] % 2)
    for name, criterion in {
        "object": plain,
        "function": lambda y_true, y_pred: keras.losses.sparse_categorical_crossentropy(y_true, y_pred, True),
        "name": "sparse_categorical_crossentropy",
    }.items():
        recorder = dualloss.tf.record(tmp_path / name)
        recorded = recorder.loss(criterion)
        same_bits(recorded(y, x), (keras.losses.get(criterion) if name == "name" else criterion)(y, x))
        recorder.close()
        stored = Recording(tmp_path / name).steps[0].arrays
        same_bits(stored["input"].values(), x)
        assert stored["loss"].shape == (() if name == "object" else (4, 6, 5))


def test_keras_masks_reach_the_loss(tmp_path: Path, same_bits: SameBits) -> None:
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Embedding(9, 3, mask_zero=True, embeddings_initializer="ones")]
    )
    x, y = np.array([[1, 2, 0, 0], [3, 0, 0, 0]]), np.array([[0, 1, 2, 0], [1, 1, 1, 1]])
    criterion = dualloss.tf.Loss(dl.CrossEntropy(class_weights=(1, 2, 3), normalizer="elements"))
    recorder = dualloss.tf.record(tmp_path / "run")
    same_bits(recorder.loss(criterion)(y, model(x)), criterion(y, model(x)))
    recorder.close()


def test_keras_compiled_with_xla_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="jit_compile=False"):
        fit(tmp_path / "run", compiling={"jit_compile": True})
    recorder = dualloss.tf.record(tmp_path / "loop")
    criterion = recorder.loss(dualloss.tf.Loss(SPEC))
    step = tf.function(lambda x, y: criterion(y, x), jit_compile=True)
    with pytest.raises(ValueError, match="jit_compile=False"):
        step(tf.zeros((1, 3, 3, 2)), tf.zeros((1, 3, 3), tf.int32))


def test_keras_without_a_recorded_loss(tmp_path: Path) -> None:
    model = keras_model()
    model.compile("sgd", loss="mse", jit_compile=False)
    with pytest.raises(ValueError, match="the recorder has no loss"):
        model.fit(IMAGES, IMAGES[..., :1], verbose=0, callbacks=[dualloss.tf.record(tmp_path / "run")])


def test_data_in_fit(tmp_path: Path, runs: Path) -> None:
    base: Any = keras.Model

    class Model(base):
        def train_step(self, data: Any) -> Any:
            recorder.tensor("data", data[0])
            return super().train_step(data)

    recorder = dualloss.tf.record(tmp_path / "run", every=2)
    inner = keras_model()
    model = Model(inner.inputs, inner.outputs)
    model.compile(keras.optimizers.SGD(0.05), loss=recorder.loss(dualloss.tf.Loss(SPEC)), jit_compile=False)
    model.fit(IMAGES, LABELS, batch_size=BATCH, epochs=2, shuffle=False, verbose=0, callbacks=[recorder])
    report = diff(tmp_path / "run", runs / "torch")
    assert report.ok and report.series["data"] == {0: 0.0, 2: 0.0, 4: 0.0}


def test_keras_runs_several_steps_at_a_time(tmp_path: Path) -> None:
    fit(tmp_path / "run", compiling={"steps_per_execution": 3})
    assert list(Recording(tmp_path / "run").steps) == [0, 1, 2, 3, 4, 5]


def test_a_saved_model_has_the_loss_itself(tmp_path: Path) -> None:
    fit(tmp_path / "run").save(tmp_path / "model.keras")
    loss = keras.saving.load_model(tmp_path / "model.keras").loss
    assert isinstance(loss, dualloss.tf.Loss) and loss.spec == SPEC


def test_schedules_are_recorded_with_their_step(tmp_path: Path) -> None:
    spec = dl.CrossEntropy() + dl.Linear(0, 1, steps=4) * dl.Boundary()
    x, y = np.moveaxis(IMAGES[:2], -1, 1).copy(), LABELS[:2] % 3
    with dualloss.torch.record(tmp_path / "torch") as recorder:
        criterion = dualloss.torch.Loss(spec)
        called = recorder.loss(criterion)
        for _ in range(3):
            called(torch.from_numpy(x).requires_grad_(), torch.from_numpy(y)).backward()
            criterion.advance(2)
    with dualloss.tf.record(tmp_path / "tf") as tf_recorder:
        loss = dualloss.tf.Loss(spec)
        tf_called = tf_recorder.loss(loss)
        for _ in range(3):
            tf_called(y, IMAGES[:2])
            loss.advance(2)
    for name in ("torch", "tf"):
        assert [step.notes["schedule"] for step in Recording(tmp_path / name).steps.values()] == [0, 2, 4]
        assert check_recording(tmp_path / name).same_bits
    assert "nothing" not in diff(tmp_path / "torch", tmp_path / "tf").verdict


def test_wrong_uses(tmp_path: Path) -> None:
    for module in (dualloss.torch, dualloss.tf):
        name = module.__name__
        recorder = module.record(tmp_path / name)
        recorder.loss(module.Loss(SPEC))
        with pytest.raises(RuntimeError, match="expected one loss in a recording"):
            recorder.loss(module.Loss(SPEC))
        with pytest.raises(ValueError, match="name is 'gradient'"):
            recorder.tensor("gradient", np.zeros(3))
        with pytest.raises(TypeError, match="name is 3, expected a string"):
            recorder.tensor(3, np.zeros(3))
        with pytest.raises(FileExistsError, match="expected a new folder"):
            module.record(tmp_path / name)
        for wrong, error, message in (
            ({"every": 0}, ValueError, "every is 0, expected at least 1"),
            ({"every": 1.0}, TypeError, "every is 1.0, expected an integer"),
            ({"max_bytes": 10}, ValueError, f"max_bytes is 10, expected at least {LEAST_BYTES}"),
            ({"whole": -1}, ValueError, "whole is -1"),
            ({"start": -1}, ValueError, "start is -1"),
            ({"steps": 3}, TypeError, "steps is int, expected numbers of steps or a function"),
            ({"steps": ["a"]}, TypeError, "steps holds 'a', expected integers"),
        ):
            with pytest.raises(error, match=message):
                module.record(tmp_path / f"{name} {wrong}", **wrong)


# --- The files


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"every": 3}, [0, 3, 6, 9]),
        ({"steps": [1, 8, 50]}, [1, 8]),
        ({"steps": lambda n: n > 7}, [8, 9]),
        ({"start": 4, "every": 5}, [5, 10]),
    ],
)
def test_chosen_steps(options: dict[str, Any], expected: list[int], tmp_path: Path) -> None:
    write(tmp_path / "run", *({"input": np.full(3, k)} for k in range(10)), **options)
    found = Recording(tmp_path / "run").steps
    assert list(found) == expected
    first = options.get("start", 0)
    assert [int(step.arrays["input"].values()[0]) for step in found.values()] == [n - first for n in expected]


ARRAYS = {
    "float16": np.linspace(-2, 2, 60, dtype=np.float16).reshape(3, 4, 5),
    "float64": np.linspace(-2, 2, 60).reshape(3, 4, 5),
    "uint8": np.arange(60, dtype=np.uint8),
    "bool": np.arange(60) % 2 == 0,
    "big-endian": np.arange(60).astype(">i4"),
    "transposed": np.arange(60.0).reshape(3, 20).T,
    "empty": np.zeros((0, 3)),
    "number": np.float32(3.5),
    "nan": np.array([np.nan, np.inf, -np.inf, 1.5]),
    "name/with: 'signs' \u00e9": np.arange(3),
    "long " * 100: np.arange(300),
}


def test_arrays_come_back(tmp_path: Path) -> None:
    write(tmp_path / "run", ARRAYS)
    found = Recording(tmp_path / "run").steps[0].arrays
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name].values(), array, strict=name != "big-endian")


def test_bfloat16_comes_back(tmp_path: Path) -> None:
    x = torch.randn(4, 50, requires_grad=True)
    y = torch.arange(4)
    with dualloss.torch.record(tmp_path / "torch") as recorder:
        recorder.loss(dualloss.torch.Loss(dl.CrossEntropy()))(x.bfloat16(), y).backward()
    x_tf = tf.cast(x.detach().numpy(), tf.bfloat16)
    with dualloss.tf.record(tmp_path / "tf") as tf_recorder, tf.GradientTape() as tape:
        tape.watch(x_tf)
        loss = tf_recorder.loss(dualloss.tf.Loss(dl.CrossEntropy()))(y.numpy(), x_tf)
        tape.gradient(loss, x_tf)
    stored = Recording(tmp_path / "torch").steps[0].arrays["input"]
    assert stored.dtype == "bfloat16" and stored.raw().dtype == np.uint16
    np.testing.assert_array_equal(stored.values(), x.detach().bfloat16().float().numpy())
    assert diff(tmp_path / "torch", tmp_path / "tf").same_bits
    assert check_recording(tmp_path / "torch").same_bits


def test_statistics() -> None:
    found = statistics(np.array([3.0, -4.0, np.nan, np.inf, -np.inf], np.float32))
    assert (found.min, found.max, found.mean, found.norm, found.nan, found.inf) == (-4, 3, -0.5, 5, 1, 2)
    assert statistics(np.array([np.nan])).min is None and statistics(np.zeros(0)).norm is None
    large = _RNG.normal(size=200_001).astype(np.float32)
    found = statistics(large)
    assert found.mean == pytest.approx(large.mean(dtype=np.float64), rel=1e-9, abs=1e-12)
    assert found.norm == pytest.approx(np.linalg.norm(large.astype(np.float64)), rel=1e-12)


@pytest.mark.parametrize("shape", [(8, 64, 64, 4), (1023, 3), (1 << 15,), (5,), (0, 3)])
def test_samples_have_every_channel(shape: tuple[int, ...]) -> None:
    size = int(np.prod(shape))
    step = stride(size)
    picked = np.arange(size)[::step]
    assert len(picked) <= 1025
    assert len(shape) == 1 or set((picked % shape[-1]).tolist()) == set(range(shape[-1] if size else 0))


def test_large_arrays_are_hashed_and_sampled(tmp_path: Path) -> None:
    x = _RNG.normal(size=(8, 50, 50, 4)).astype(np.float32)
    write(tmp_path / "a", {"input": x}, whole=1000)
    write(tmp_path / "b", {"input": x})
    write(tmp_path / "c", {"input": np.where(x == x.max(), 0, x)}, whole=1000)
    sampled, whole = (Recording(tmp_path / name).steps[0].arrays["input"] for name in "ab")
    assert not sampled.whole and sampled.values() is None and whole.whole
    assert (sampled.sha256, sampled.statistics) == (whole.sha256, whole.statistics)
    np.testing.assert_array_equal(sampled.sample(), whole.sample())
    assert sum(f.stat().st_size for f in (tmp_path / "a").rglob("*")) < 30_000
    assert diff(tmp_path / "a", tmp_path / "b").same_bits
    report = diff(tmp_path / "a", tmp_path / "c")
    assert not report.same_bits and "compared by a sample" in report.text()  # which does not show the difference


def test_size_is_bounded(tmp_path: Path) -> None:
    x = _RNG.normal(size=(10, 1000)).astype(np.float32)
    write(tmp_path / "run", *({"input": x + k, "gradient": x} for k in range(200)), max_bytes=600_000)
    size = sum(f.stat().st_size for f in (tmp_path / "run").rglob("*") if f.is_file())
    assert 400_000 < size <= 600_000
    found = Recording(tmp_path / "run")
    whole = [step.arrays["input"].whole for step in found.steps.values()]
    sampled_from, stopped = found.meta["sampled_from"], found.meta["stopped_at"]
    assert whole == [n < sampled_from for n in range(stopped)] and 0 < sampled_from < stopped < 200
    assert not found.dropped and len(found.limits) == 2
    assert f"from step {sampled_from} on" in diff(tmp_path / "run", tmp_path / "run").text()


def test_a_full_disk_stops_the_recording_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(tmp_path / "run", framework="torch", versions={})
    x = np.arange(100.0)
    writer.put(0, "input", x)
    writer.next()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    writer.put(1, "input", x)
    with pytest.warns(RuntimeWarning, match="stops at step 1: .*No space left"):
        writer.next()
    monkeypatch.undo()
    writer.put(2, "input", x)
    writer.close()
    found = Recording(tmp_path / "run")
    assert list(found.steps) == [0] and found.meta["stopped_at"] == 1 and "No space" in found.limits[0]


KILLED = """
import sys
import numpy as np
from dualloss.recording import Writer
writer = Writer(sys.argv[1], framework="torch", versions={})
x = np.arange(50_000, dtype=np.float32)
print("ready", flush=True)
for k in range(1_000_000):
    for name in ("input", "target", "gradient"):
        writer.put(k, name, x + k)
    writer.next()
"""


def test_a_killed_process_leaves_a_readable_recording(tmp_path: Path) -> None:
    for attempt, delay in enumerate((0.001, 0.02, 0.05, 0.11, 0.2)):
        path = tmp_path / str(attempt)
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        found = Recording(path)
        assert list(found.steps) == list(range(len(found.steps))) and len(found.dropped) <= 1
        assert not found.meta["closed"]
        for number, step in found.steps.items():
            assert step.arrays["gradient"].values()[0] == number and len(step.arrays) == 3
    assert len(found.steps) > 2


def test_incomplete_and_damaged_steps_are_dropped(tmp_path: Path) -> None:
    x = np.arange(100.0)
    path = write(tmp_path / "run", *({"input": x + k} for k in range(7)))
    (path / "step-00000000" / "step.json").write_text("{")
    (path / "step-00000001" / "input.npy").unlink()
    data = bytearray((path / "step-00000002" / "input.npy").read_bytes())
    data[-3] ^= 1
    (path / "step-00000002" / "input.npy").write_bytes(data)
    (path / "step-00000003").rename(path / ".step-00000003.partial")
    entry = json.loads((path / "step-00000004" / "step.json").read_text())
    entry["arrays"]["input"]["file"] = "../step-00000005/input.npy"
    del entry["sha256"]
    (path / "step-00000004" / "step.json").write_text(seal(entry))
    text = (path / "step-00000005" / "step.json").read_text()
    (path / "step-00000005" / "step.json").write_text(text.replace('"nan": 0', '"nan": 1'))
    found = Recording(path)
    assert list(found.steps) == [6]
    for line, expected in zip(
        sorted(found.dropped),
        (
            "step.json cannot be read",
            "input cannot be read",
            "input is damaged",
            "incomplete",
            "without a folder",
            "step.json is damaged",
        ),
        strict=True,
    ):
        assert expected in line
    assert "step 2: input is damaged" in diff(path, path).text()


def test_what_is_no_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "run", {"input": np.arange(3)})
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for name, meta in {"broken": "{", "other": '{"format": "x"}', "part": None, "next": None}.items():
        (tmp_path / name).mkdir()
        known = json.loads((path / "meta.json").read_text())
        if name == "next":
            known["version"] = 2
        if name == "part":
            del known["framework"]
        (tmp_path / name / "meta.json").write_text(meta or json.dumps(known))
    for name, expected in {
        "none": "does not exist, expected the folder of a recording",
        "empty": "is no recording, expected a folder with a meta.json",
        "file": "is no recording",
        "broken": "its meta.json cannot be read",
        "other": "has no format 'dualloss recording'",
        "part": "has nothing for 'framework'",
        "next": "has the format version 2, this version of dualloss reads 1",
    }.items():
        with pytest.raises(RecordingError, match=f"{name}.*{expected}"):
            Recording(tmp_path / name)
        assert main(["diff", str(path), str(tmp_path / name)]) == 2
        assert expected in capsys.readouterr().err


def test_reading_needs_no_framework(runs: Path) -> None:
    code = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "tensorflow", "keras"):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Block())
from dualloss.cli import main
assert main(["diff", {str(runs / "torch")!r}, {str(runs / "keras")!r}]) == 0
assert main(["check-recording", {str(runs / "keras")!r}]) == 0
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    assert result.returncode == 0, result.stderr
    assert "same within rounding" in result.stdout and "same bits as the spec" in result.stdout


# --- What diverged first


def compared(tmp_path: Path, **b: Any) -> DiffReport:
    """The report on two trainings in PyTorch, the second with other options."""
    a = {key: b.pop(f"a_{key}") for key in ("criterion", "labels", "data", "weights") if f"a_{key}" in b}
    train_torch(tmp_path / "a", **a)
    train_torch(tmp_path / "b", **{**a, **b})
    return diff(tmp_path / "a", tmp_path / "b")


def found_in(report: DiffReport, stage: str, step: int, *words: str) -> None:
    assert (report.stage, report.step, report.ok) == (stage, step, False), report.text()
    text = report.text()
    for word in words:
        assert word in text, text
    assert json.loads(report.to_json())["stage"] == stage


def test_the_same_training_in_both_frameworks(runs: Path) -> None:
    report = diff(runs / "torch", runs / "keras")
    assert report.ok and not report.same_bits and report.verdict == "same within rounding: 6 steps"
    assert max(report.series["logits"].values()) < 1e-5 and "weights" in report.series
    assert "a alone has 'data'" in report.text()


def test_one_hot_targets_in_one_framework_only(tmp_path: Path, runs: Path) -> None:
    fit(tmp_path / "run", labels=np.eye(CLASSES, dtype=np.float32)[LABELS])
    report = diff(runs / "torch", tmp_path / "run")
    assert report.ok and "encoded differently: a class indices, int64; b one-hot, float32" in report.text()


def test_another_learning_rate_in_the_other_framework(tmp_path: Path, runs: Path) -> None:
    fit(tmp_path / "run", rate=0.1)
    found_in(diff(runs / "torch", tmp_path / "run"), "update", 0, "b's update is 2 times a's")


def test_another_loss_in_the_other_framework(tmp_path: Path, runs: Path) -> None:
    fit(tmp_path / "run", criterion=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    found_in(diff(runs / "torch", tmp_path / "run"), "loss", 0, "b's is keras.src.losses.losses.SparseCategorical")


def test_the_same_training_twice(tmp_path: Path) -> None:
    report = compared(tmp_path)
    assert report.ok and report.same_bits and report.text().startswith("same bits: 6 steps\n")


ORDER = np.array([2, 0, 3, 1])


@pytest.mark.parametrize("data", [True, False], ids=["recorded", "not recorded"])
def test_samples_in_another_order(data: bool, tmp_path: Path) -> None:
    order = np.concatenate([ORDER, 4 + np.arange(8)])
    report = compared(tmp_path, images=IMAGES[order], labels=LABELS[order], a_data=data)
    found_in(report, "data", 0, "the same samples in another order: a's samples are b's 1, 3, 0, 2")


@pytest.mark.parametrize("data", [True, False], ids=["recorded", "not recorded"])
def test_batches_in_another_order(data: bool, tmp_path: Path) -> None:
    order = np.roll(np.arange(12), -4)
    report = compared(tmp_path, images=IMAGES[order], labels=LABELS[order], a_data=data)
    found_in(report, "data", 0, "a's step 0 is b's step 2: the batches come in another order")


@pytest.mark.parametrize("data", [True, False], ids=["recorded", "not recorded"])
def test_samples_in_an_order_across_batches(data: bool, tmp_path: Path) -> None:
    order = np.array([3, 7, 11, 0, 1, 2, 4, 5, 6, 8, 9, 10])
    report = compared(tmp_path, images=IMAGES[order], labels=LABELS[order], a_data=data)
    found_in(report, "data", 0, "all steps together have the same samples, in another order")


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (IMAGES * np.float32(255), "data: b is 255 times a"),
        ((IMAGES - 0.5) / np.float32(0.25), "data: b is 4 times a plus -2"),
        ((IMAGES - [0.4, 0.5, 0.6]).astype(np.float32) / np.array([0.2, 0.3, 0.4], np.float32), "by channel"),
        (IMAGES[..., ::-1], "RGB against BGR"),
        (IMAGES[:, ::-1], "flipped along the spatial axis 1"),
        (IMAGES[:, :, ::-1], "flipped along the spatial axis 2"),
        (IMAGES[:, ::-1, ::-1], "turned by 180 degrees"),
        (IMAGES + np.float32(0.01) * IMAGES**2, "they differ by 0.0"),
    ],
    ids=["scale", "affine", "channels", "BGR", "rows", "columns", "turned", "else"],
)
def test_data_that_differ(images: Any, words: str, tmp_path: Path) -> None:
    found_in(compared(tmp_path, images=images), "data", 0, words)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ((LABELS + 1) % CLASSES, "a's 0 is 1, 1 is 2, 2 is 3, 3 is 4, 4 is 0"),
        (np.minimum(LABELS + 1, 4), "plus 1, but for 1 label"),
        (np.where(LABELS == 4, 0, LABELS), "a's 4 is 0 in b"),
        (LABELS[:, ::-1].copy(), "flipped along the spatial axis 1"),
        (LABELS[:, ::-1, ::-1].copy(), "turned by 180 degrees"),
        (LABELS[np.r_[ORDER, 4:12]], "but the data come in the same order"),
        (np.where(_RNG.random(LABELS.shape) < 0.1, 2, LABELS), "% of the labels differ"),
    ],
    ids=["permuted", "off by one", "merged", "rows", "turned", "order", "noise"],
)
def test_targets_that_differ(labels: Any, words: str, tmp_path: Path) -> None:
    found_in(compared(tmp_path, labels=labels), "targets", 0, words)


def test_labels_off_by_one(tmp_path: Path) -> None:
    write(tmp_path / "a", {"input": IMAGES[:4], "target": LABELS[:4] % 2})
    write(tmp_path / "b", {"input": IMAGES[:4], "target": LABELS[:4] % 2 + 1})
    found_in(diff(tmp_path / "a", tmp_path / "b"), "targets", 0, "b's labels are a's plus 1")


def test_another_label_to_ignore(tmp_path: Path) -> None:
    ignored = LABELS.copy()
    ignored[:, 0] = 255
    other = np.where(ignored == 255, -100, ignored)
    write(tmp_path / "a", {"input": IMAGES, "target": ignored.astype(np.uint8)})
    write(tmp_path / "b", {"input": IMAGES, "target": other})
    found_in(diff(tmp_path / "a", tmp_path / "b"), "targets", 0, "a's 255 is -100 in b (the label to ignore?)", "uint8")


def test_one_hot_and_indices_are_the_same_targets_in_another_encoding(tmp_path: Path) -> None:
    one_hot = np.eye(CLASSES, dtype=np.float32)[LABELS]
    report = compared(tmp_path, labels=one_hot)
    assert report.ok and report.same_bits, report.text()
    assert "encoded differently: a class indices, int64; b one-hot, float32" in report.text()
    (tmp_path / "2").mkdir()
    report = compared(tmp_path / "2", labels=np.eye(CLASSES, dtype=np.float32)[np.minimum(LABELS + 1, 4)])
    found_in(report, "targets", 0, "plus 1, but for 1 label", "encoded differently")


def test_labels_of_another_order_go_with_the_logits(tmp_path: Path) -> None:
    """One label a sample: as labels alone they could as well be renamed."""
    x, y = IMAGES[:4, 0, 0], np.array([0, 1, 2, 0])
    write(tmp_path / "a", {"input": x, "target": y})
    write(tmp_path / "b", {"input": x[ORDER], "target": y[ORDER]})
    write(tmp_path / "c", {"input": x, "target": y[ORDER]})
    found_in(
        diff(tmp_path / "a", tmp_path / "b"), "data", 0, "a's samples are b's 1, 3, 0, 2 (targets and logits alike)"
    )
    found_in(diff(tmp_path / "a", tmp_path / "c"), "targets", 0, "; but the logits come in the same order")


def test_soft_targets(tmp_path: Path) -> None:
    soft = 0.9 * np.eye(3, dtype=np.float32)[LABELS % 3] + np.float32(0.1 / 3)
    write(tmp_path / "a", {"input": IMAGES, "target": LABELS % 3})
    write(tmp_path / "b", {"input": IMAGES, "target": soft})
    found_in(diff(tmp_path / "a", tmp_path / "b"), "targets", 0, "b's are soft", "b dense, float32")


def test_scaled_targets(tmp_path: Path) -> None:
    t = np.abs(IMAGES[:4])
    write(tmp_path / "a", {"input": IMAGES[:4], "target": t})
    write(tmp_path / "b", {"input": IMAGES[:4], "target": t / np.float32(255)})
    found_in(diff(tmp_path / "a", tmp_path / "b"), "targets", 0, "b is 1/255 times a")


def test_targets_that_cannot_be_compared(tmp_path: Path) -> None:
    write(tmp_path / "a", {"input": IMAGES, "target": LABELS % 3}, whole=500)
    write(tmp_path / "b", {"input": IMAGES, "target": np.eye(3)[LABELS % 3]}, whole=500)
    report = diff(tmp_path / "a", tmp_path / "b")
    assert report.ok and not report.same_bits and "the targets cannot be compared" in report.text()


def test_sample_weights_that_differ(tmp_path: Path) -> None:
    step = {"input": IMAGES[:4], "target": LABELS[:4] % 3}
    write(tmp_path / "a", {**step, "sample_weight": np.arange(1.0, 5)})
    write(tmp_path / "b", {**step, "sample_weight": np.arange(1.0, 5) / 2})
    write(tmp_path / "c", step)
    found_in(diff(tmp_path / "a", tmp_path / "b"), "sample weights", 0, "b is 0.5 times a")
    found_in(diff(tmp_path / "a", tmp_path / "c"), "sample weights", 0, "a alone has sample weights")


def test_another_model(tmp_path: Path) -> None:
    report = compared(tmp_path, kernel=KERNEL + np.float32(0.01))
    found_in(report, "logits", 0, "the logits, so the model", "the weights differed before: weight differs most")


def test_a_model_that_computes_something_else(tmp_path: Path) -> None:
    """The data are the same, but the model gets others: as with another mode, dropout or preprocessing inside."""
    train_torch(tmp_path / "a")
    train_torch(tmp_path / "b", images=IMAGES * np.float32(1.01))
    for number in range(6):  # the recorded data are those of a
        where = [tmp_path / run / f"step-{number:08d}" for run in "ab"]
        entries = [json.loads((folder / "step.json").read_text()) for folder in where]
        entries[1]["arrays"]["data"] = entries[0]["arrays"]["data"]
        shutil.copy(where[0] / "data.npy", where[1])
        del entries[1]["sha256"]
        (where[1] / "step.json").write_text(seal(entries[1]))
    found_in(diff(tmp_path / "a", tmp_path / "b"), "logits", 0, "the weights were the same before")


def test_a_model_that_ends_in_a_softmax(tmp_path: Path) -> None:
    x = IMAGES[:4]
    powers = np.exp(x)
    for name, value in {"softmax": powers / powers.sum(-1, keepdims=True), "sigmoid": 1 / (1 + np.exp(-x))}.items():
        write(tmp_path / f"a {name}", {"input": x, "target": LABELS[:4] % 3})
        write(tmp_path / f"b {name}", {"input": value, "target": LABELS[:4] % 3})
        for one, other in (("a", "b"), ("b", "a")):
            report = diff(tmp_path / f"{one} {name}", tmp_path / f"{other} {name}")
            ends = "b's are" if one == "a" else "a's are"
            found_in(report, "logits", 0, f"{ends} the {name} of ")


def _ending(path: Path, end: str, *, rate: float = 0.1, even: bool = False, twice: bool = False) -> Path:
    """A training whose model ends in something, or not, and whose loss takes that back, or not."""
    model = torch.nn.Linear(24, 1 if end.startswith("sigmoid") else CLASSES)
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(_HEAD.T[: model.out_features].copy() * (not even)))
        model.bias.zero_()
    losses: dict[str, Any] = {
        "softmax": lambda input, target: torch.nn.functional.nll_loss(torch.log(input), target),
        "log-softmax": torch.nn.functional.nll_loss,
        "none": torch.nn.functional.cross_entropy,
        "sigmoid": lambda input, target: torch.nn.functional.binary_cross_entropy(input, target[:, None] / 4.0),
        "sigmoid none": lambda input, target: torch.nn.functional.binary_cross_entropy_with_logits(
            input, target[:, None] / 4.0
        ),
    }
    ends: dict[str, Any] = {
        "softmax": lambda z: z.softmax(1), "log-softmax": lambda z: z.log_softmax(1), "sigmoid": torch.sigmoid
    }  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), rate)
    with dualloss.torch.record(path) as recorder:
        criterion = recorder.loss(losses["none" if twice else end])
        recorder.weights(model)
        for x, y in zip(_POINTS.reshape(6, 4, 24), _CLASS, strict=True):
            loss = criterion(ends.get(end, lambda z: z)(model(torch.from_numpy(x))), torch.from_numpy(y))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.weights(model)
            recorder.step()
    return path


@pytest.mark.parametrize("end", ["softmax", "log-softmax", "sigmoid"])
@pytest.mark.parametrize("even", [False, True], ids=["", "even"])
def test_a_loss_that_takes_the_activation_back(end: str, even: bool, tmp_path: Path) -> None:
    plain = _ending(tmp_path / "a", "sigmoid none" if end == "sigmoid" else "none", even=even)
    ending = _ending(tmp_path / "b", end, even=even)
    for one, other, text in ((plain, ending, "b's are the"), (ending, plain, "a's are the")):
        report = diff(one, other)
        assert report.ok and not report.same_bits, report.text()
        assert report.verdict == f"same training: the loss of one takes the {end} back: 6 steps"
        assert f"{text} {end} of" in report.text() and max(report.series["gradient"].values()) < 1e-5
    found_in(diff(plain, _ending(tmp_path / "rate", end, even=even, rate=0.2)), "update", 0, "b's update is 2 times")


def test_a_softmax_too_many(tmp_path: Path) -> None:
    """Also where all classes are as likely, so that the first loss is the same."""
    for even in (False, True):
        _ending(tmp_path / f"a {even}", "none", even=even)
        _ending(tmp_path / f"b {even}", "softmax", even=even, twice=True)
        report = diff(tmp_path / f"a {even}", tmp_path / f"b {even}")
        found_in(report, "logits", 0, "b's are the softmax of a's: one model ends in it")


def test_the_table_says_where_it_leaves_steps_out(tmp_path: Path) -> None:
    text = diff(_drift(tmp_path / "a", 1.0, 0.0, 9), _drift(tmp_path / "b", 1.0, 1e-7, 9)).text()
    shown = [line.split()[0] for line in text[text.index("step ") :].splitlines()[1:] if line.startswith("  ")]
    assert shown[:8] == ["0", "1", "2", "3", "4", "...", "6", "..."] and "...  and 1 step between" in text
    text = diff(_drift(tmp_path / "c", 1.0, 0.0, 40), _drift(tmp_path / "d", 1.0, 1e-7, 40)).text()
    steps = [int(n) for n in re.findall(r"^ +(\d+) ", text, re.MULTILINE)]
    left = [int(n) for n in re.findall(r"and (\d+) steps? between", text)]
    assert len(steps) + sum(left) == 40


def test_the_first_tensor_that_differs(tmp_path: Path) -> None:
    step = {"features/1": IMAGES, "features/2": 2 * IMAGES, "input": IMAGES, "target": LABELS % 3}
    write(tmp_path / "a", step)
    write(tmp_path / "b", {**step, "features/2": 3 * IMAGES, "input": 1.5 * IMAGES})
    found_in(diff(tmp_path / "a", tmp_path / "b"), "logits", 0, "the first tensor that differs is 'features/2'")


def test_another_reduction(tmp_path: Path) -> None:
    report = compared(tmp_path, criterion=dualloss.torch.Loss(SPEC, reduction="sum"))
    positions = BATCH * 6 * 5
    found_in(report, "loss", 0, f"b's loss is {positions} times a's, the number of positions", "another reduction")


def test_another_term(tmp_path: Path) -> None:
    spec = dl.CrossEntropy() + 0.5 * dl.Boundary(padding="replicate")
    report = compared(tmp_path, criterion=dualloss.torch.Loss(spec))
    found_in(report, "loss", 0, "the term boundary", "made with another spec")
    assert "the term cross_entropy" not in report.text()
    (tmp_path / "2").mkdir()
    spec = dl.CrossEntropy() + 0.25 * dl.Boundary()
    found_in(compared(tmp_path / "2", criterion=dualloss.torch.Loss(spec)), "loss", 0, "no term differs")


def test_what_losses_say_of_themselves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2, 0.5, 1, 1]), ignore_index=255)
    assert about(plain) == {
        "kind": "torch.nn.modules.loss.CrossEntropyLoss",
        "settings": {"weight": [1, 2, 0.5, 1, 1], "reduction": "mean", "ignore_index": 255, "label_smoothing": 0.0},
    }
    found = about(keras.losses.CategoricalFocalCrossentropy(gamma=3.0))
    assert found["kind"].endswith("CategoricalFocalCrossentropy") and found["settings"]["gamma"] == 3
    assert about(functools.partial(plain, input=3))["settings"] == {"input": 3}
    assert about(torch.nn.functional.cross_entropy) == {"kind": "torch.nn.functional.cross_entropy", "settings": {}}
    train_torch(tmp_path / "a", criterion=torch.nn.CrossEntropyLoss())
    train_torch(tmp_path / "b", criterion=torch.nn.CrossEntropyLoss(label_smoothing=0.1))
    assert main(["diff", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    assert "Label smoothing on one side only" in capsys.readouterr().out


def test_a_loss_of_another_kind_is_explained(tmp_path: Path) -> None:
    train_torch(tmp_path / "a")
    train_torch(tmp_path / "b", criterion=torch.nn.CrossEntropyLoss())
    seen: list[LossArrays] = []

    def explain(a: Sequence[LossArrays], b: Sequence[LossArrays]) -> str:
        assert len(a) == len(b) == 6
        seen.extend((a[0], b[0]))
        return "b lacks the boundary term"

    report = diff(tmp_path / "a", tmp_path / "b", explain=explain)
    found_in(report, "loss", 0, "b lacks the boundary term", "b's is torch.nn.modules.loss.CrossEntropyLoss")
    a, b = seen
    assert a.input.shape == a.gradient.shape == (*a.target.shape, CLASSES) and a.loss != b.loss
    train_torch(tmp_path / "c", criterion=torch.nn.CrossEntropyLoss(), whole=100)
    report = diff(tmp_path / "a", tmp_path / "c", explain=explain)
    assert report.stage == "loss" and "were not kept whole" in report.text()


@pytest.mark.parametrize(
    ("scale", "words"), [(4.0, "b's gradient is 4 times a's"), (-1.0, "b's gradient is -1 times a's")]
)
def test_a_scaled_gradient(scale: float, words: str, tmp_path: Path) -> None:
    found_in(
        compared(tmp_path, scale=scale),
        "gradient",
        0,
        words,
        f"arrives at the loss differs already, 1 against {scale:g}",
    )


class Detached(Module):
    """The value of a cross-entropy, with the gradient of another temperature."""

    def forward(self, input: Any, target: Any) -> Any:
        value = torch.nn.functional.cross_entropy(input, target)
        other = torch.nn.functional.cross_entropy(2 * input, target)
        return value.detach() + other - other.detach()


def test_another_gradient(tmp_path: Path) -> None:
    report = compared(tmp_path, a_criterion=torch.nn.CrossEntropyLoss(), criterion=Detached())
    found_in(report, "gradient", 0, "they differ by")
    assert "arrives" not in report.text()


@pytest.mark.parametrize("weights", [True, False], ids=["weights", "no weights"])
def test_another_learning_rate(weights: bool, tmp_path: Path) -> None:
    report = compared(tmp_path, rate=0.075, a_weights=weights)
    found_in(report, "update", 0, "so it is the optimizer")
    assert ("b's update is 1.5 times a's" in report.text()) == weights


def test_a_slightly_different_learning_rate(tmp_path: Path) -> None:
    """Its first effect is within the tolerance; what passes it grew out of that."""
    report = compared(tmp_path, rate=0.05 * (1 + 1e-3), a_weights=False)
    found_in(report, "update", 0, "up to step 0 everything recorded has the same bits")


def _drift(path: Path, factor: float, size: float = 1e-7, steps: int = 12) -> Path:
    """A training whose logits drift away by this factor a step."""
    rng = np.random.default_rng(9)
    noise = rng.normal(0, 1, IMAGES.shape)
    return write(
        path,
        *(
            {"input": IMAGES * (1 + size * factor**k * noise).astype(np.float32), "target": LABELS}
            for k in range(steps)
        ),
    )


def test_rounding_that_grows(tmp_path: Path) -> None:
    report = diff(_drift(tmp_path / "a", 2.0, 0.0), _drift(tmp_path / "b", 4.0))
    found_in(report, "rounding", 5, "drift apart from rounding", "exponentially")
    assert report.growth["logits"].doubling == pytest.approx(0.5, rel=0.1)
    assert report.growth["logits"].shape == "exponential"
    assert diff(tmp_path / "a", _drift(tmp_path / "c", 1.01)).ok


def test_a_jump_is_no_rounding(tmp_path: Path) -> None:
    _drift(tmp_path / "a", 1.0, 0.0)
    path = _drift(tmp_path / "b", 1.0)
    steps = {k: v for k, v in Recording(path).steps.items()}
    arrays = [
        {n: v.values() * (1.01 if k >= 7 and n == "input" else 1) for n, v in s.arrays.items()}
        for k, s in steps.items()
    ]
    write(tmp_path / "c", *arrays)
    found_in(
        diff(tmp_path / "a", tmp_path / "c"),
        "update",
        6,
        "at step 7 the logits differ by 0.0099",
        "7         0   9.9e-03",
    )


def test_a_leap_of_what_has_grown_is_rounding(tmp_path: Path) -> None:
    """A unit that is on in one run and off in the other."""
    _drift(tmp_path / "a", 1.0, 0.0)
    steps = Recording(_drift(tmp_path / "b", 1.5, 1e-6)).steps.values()
    noise = np.float32(1) + np.float32(2e-3) * _RNG.normal(0, 1, IMAGES.shape).astype(np.float32)
    logits = [step.arrays["input"].values() * (noise if step.number > 7 else np.float32(1)) for step in steps]
    write(tmp_path / "c", *({"input": x, "target": LABELS} for x in logits))
    found_in(diff(tmp_path / "a", tmp_path / "c"), "rounding", 8)


def test_gradients_with_nan(tmp_path: Path) -> None:
    step = {"input": IMAGES, "target": LABELS % 3, "loss": np.float32(1)}
    gradient = IMAGES.copy()
    broken = IMAGES.copy()
    broken[0, 0, 0] = np.nan
    write(tmp_path / "a", {**step, "gradient": gradient})
    write(tmp_path / "b", {**step, "gradient": broken})
    found_in(diff(tmp_path / "a", tmp_path / "b"), "gradient", 0, "a has 0 NaN and 0 infinities, b 3 NaN", "other")
    assert diff(tmp_path / "b", tmp_path / "b").same_bits


def test_half_precision(tmp_path: Path) -> None:
    train_torch(tmp_path / "a", criterion=torch.nn.CrossEntropyLoss())
    train_torch(tmp_path / "b", criterion=torch.nn.CrossEntropyLoss(), dtype=torch.bfloat16, steps=1)
    report = diff(tmp_path / "a", tmp_path / "b")
    assert report.ok and 1e-4 < report.series["logits"][0] < 1e-2


def test_layouts_are_one(tmp_path: Path, runs: Path) -> None:
    """PyTorch's gradients and kernels have other layouts than Keras', which test the same above; here by hand."""
    x = IMAGES[:4]
    write(tmp_path / "a", {"data": np.moveaxis(x, -1, 1), "input": x})
    write(tmp_path / "b", {"data": x, "input": x})
    assert diff(tmp_path / "a", tmp_path / "b").ok
    write(tmp_path / "c", {"data": x[:, :5], "input": x})
    found_in(diff(tmp_path / "a", tmp_path / "c"), "data", 0, "shape (4, 3, 6, 5) against (4, 5, 5, 3)")


_POINTS = _RNG.normal(0, 1, (6, 4, 2, 3, 4)).astype(np.float32)
_CLASS = _RNG.integers(0, CLASSES, (6, 4))
_HEAD = _RNG.normal(0, 0.2, (24, CLASSES)).astype(np.float32)


def _head(
    path: Path,
    *,
    channels_first: bool = False,
    transposed: bool = False,
    shuffled: bool = False,
    rate: float = 0.1,
    decay: float = 0.0,
    head: Any = _HEAD,
    initial: bool = True,
    points: Any = _POINTS,
    whole: int = 1 << 24,
) -> Path:
    """A training of Flatten and Dense; ``shuffled`` holds the kernel as nobody does."""
    rng = np.random.default_rng(11)
    shape = points.shape[2:]
    kernel, bias = head.reshape(*shape, -1), np.zeros(head.shape[-1], np.float32)
    if channels_first:
        points, kernel = np.moveaxis(points, -1, 2), np.moveaxis(kernel, -2, 0)
    kernel = kernel.reshape(head.shape)
    order = rng.permutation(kernel.size)

    def held() -> Any:
        found = kernel.ravel()[order].reshape(kernel.shape) if shuffled else kernel
        return found.T if transposed else found

    steps: list[dict[str, Any]] = []
    for x, y in zip(points.reshape(*points.shape[:2], -1), _CLASS, strict=True):
        step = {"initial/kernel": held(), "initial/bias": bias} if initial and not steps else {}
        logits = x @ kernel + bias
        powers = np.exp(logits - logits.max(-1, keepdims=True))
        gradient = (powers / powers.sum(-1, keepdims=True) - np.eye(head.shape[-1])[y]).astype(np.float32) / len(x)
        kernel = kernel - np.float32(rate) * (x.T @ gradient + np.float32(decay) * kernel)
        bias = bias - np.float32(rate) * gradient.sum(0)
        step |= {"input": logits, "target": y, "gradient": gradient, "weights/kernel": held(), "weights/bias": bias}
        steps.append(step)
    return write(path, *steps, whole=whole)


@pytest.mark.parametrize("initial", [True, False], ids=["initial", "no initial"])
@pytest.mark.parametrize("transposed", [True, False], ids=["transposed", "as it is"])
@pytest.mark.parametrize("head", [_HEAD, 0 * _HEAD], ids=["random", "zeros"])
def test_weights_behind_a_flatten(initial: bool, transposed: bool, head: Any, tmp_path: Path) -> None:
    """Channels first and last hold them in another order."""
    _head(tmp_path / "a", head=head, initial=initial)
    other: dict[str, Any] = {"channels_first": True, "transposed": transposed, "initial": initial, "head": head}
    report = diff(tmp_path / "a", _head(tmp_path / "same", **other))
    assert report.ok and report.verdict == "same within rounding: 6 steps", report.text()
    assert max(report.series["weights"].values()) < 1e-6 and "kernel was compared reordered: along ax" in report.text()
    report = diff(tmp_path / "a", _head(tmp_path / "rate", **other, rate=0.15))
    found_in(report, "update", 0)
    assert ("b's update is 1.5 times a's" in report.text()) == initial
    report = diff(tmp_path / "a", _head(tmp_path / "decay", **other, decay=0.01))
    found_in(report, "update", 0 if head.any() else 1)
    assert report.series["weights"][0] < 0.01


@pytest.mark.parametrize("whole", [1 << 24, 64], ids=["whole", "sampled"])
def test_weights_that_cannot_be_aligned(whole: int, tmp_path: Path) -> None:
    """Then the logits say it."""
    _head(tmp_path / "a", whole=whole)
    report = diff(tmp_path / "a", _head(tmp_path / "same", shuffled=True, whole=whole))
    assert report.ok and report.verdict == "same within rounding: 6 steps", report.text()
    assert "kernel was left out of the comparison: it" in report.text()
    assert ("record with whole=" in report.text()) == (whole == 64)
    faults: list[dict[str, Any]] = [{"rate": 0.2}, {"decay": 0.01}]
    for fault in faults:
        path = tmp_path / next(iter(fault))
        report = diff(tmp_path / "a", _head(path, shuffled=True, whole=whole, **fault))
        found_in(report, "update", 0, "so it is the optimizer")
        assert "rounding" not in report.verdict
    _head(tmp_path / "c", head=_HEAD + 1, whole=whole)
    found_in(diff(tmp_path / "a", tmp_path / "c"), "logits", 0, "the weights differed before: kernel differs most")


def test_no_weights_can_be_aligned(tmp_path: Path) -> None:
    paths = {"a": _head(tmp_path / "a"), "b": _head(tmp_path / "b", shuffled=True, rate=0.2)}
    for name, path in paths.items():
        steps = [
            {n: v.values() for n, v in step.arrays.items() if not n.endswith("bias")}
            for step in Recording(path).steps.values()
        ]
        write(tmp_path / f"{name} kernel", *steps)
    report = diff(tmp_path / "a kernel", tmp_path / "b kernel")
    found_in(report, "update", 0, "at step 1 the logits differ", "could be aligned, so these were not compared: kernel")
    assert "weights" not in report.series


def _normalised(path: Path, *, momentum: float = 0.01, frozen: bool = False, evaluating: Any = None) -> Path:
    """A training with running statistics in PyTorch."""
    model = torch.nn.Sequential(torch.nn.Linear(24, 6), torch.nn.BatchNorm1d(6, 1e-3, momentum), torch.nn.Linear(6, 5))
    first, last = _HEAD[:, :1] * np.arange(1, 7, dtype=np.float32), _HEAD[:6]
    with torch.no_grad():
        for layer, kernel in ((model[0], first), (model[2], last)):
            layer.weight.copy_(torch.from_numpy(kernel.T.copy()))
            layer.bias.zero_()
        if evaluating is not None:
            model[1].running_mean.fill_(evaluating)
    model[1].train(evaluating is None)
    model[0].requires_grad_(not frozen)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    with dualloss.torch.record(path) as recorder:
        criterion = recorder.loss(torch.nn.CrossEntropyLoss())
        recorder.weights(model)
        for x, y in zip(_POINTS.reshape(6, 4, 24), _CLASS, strict=True):
            loss = criterion(model(torch.from_numpy(x)), torch.from_numpy(y))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.weights(model)
            recorder.step()
    return path


def _normalised_keras(path: Path, *, frozen: bool = False) -> Path:
    layers = [keras.layers.Dense(6), keras.layers.BatchNormalization(), keras.layers.Dense(5)]
    model = keras.Sequential([keras.Input((24,)), *layers])
    first, last = _HEAD[:, :1] * np.arange(1, 7, dtype=np.float32), _HEAD[:6]
    layers[0].set_weights([first, np.zeros(6, np.float32)])
    layers[2].set_weights([last, np.zeros(5, np.float32)])
    layers[0].trainable = not frozen
    recorder = dualloss.tf.record(path, weights=True)
    loss = recorder.loss(keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.compile(keras.optimizers.SGD(0.1), loss=loss, jit_compile=False)
    model.fit(
        _POINTS.reshape(24, 24), _CLASS.ravel(), batch_size=4, shuffle=False, callbacks=[recorder], verbose=0
    )  # fmt: skip
    recorder.close()
    return path


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
def test_running_statistics(frozen: bool, tmp_path: Path) -> None:
    """They are no stage: a training does not depend on them. An evaluation does."""
    a, b = _normalised(tmp_path / "a", frozen=frozen), _normalised_keras(tmp_path / "b", frozen=frozen)
    for path, names in ((a, ("1.running_mean", "1.running_var")), (b, ("moving_mean", "moving_variance"))):
        steps = Recording(path).steps
        for number, prefixes in ((0, ("initial-state/", "state/")), (5, ("state/",))):
            for prefix in prefixes:
                found = [n for n in steps[number].arrays if n.startswith(prefix)]
                assert len(found) == (4 if frozen else 2)
                assert all(n.endswith(name) for n, name in zip(found[-2:], names, strict=True))
    report = diff(a, b)
    assert report.ok, report.text()
    assert report.verdict == "same training within rounding: 6 steps; but not the state that evaluation uses"
    assert "1.running_var differs most" in report.text() and "unbiased variance" in report.text()
    assert "momentum" not in report.text() and max(report.series["weights"].values()) < 1e-5
    report = diff(a, _normalised(tmp_path / "c", frozen=frozen, momentum=0.1))
    assert report.ok and report.verdict.endswith("but not the state that evaluation uses")
    assert "it moves 10 times as far in b (another momentum" in report.text()
    assert report.series["state"][0] > 1e-3
    assert diff(a, _normalised(tmp_path / "d", frozen=frozen)).same_bits


def test_another_state_before(tmp_path: Path) -> None:
    a, b = (_normalised(tmp_path / str(mean), evaluating=mean) for mean in (0.0, 0.5))
    found_in(diff(a, b), "logits", 0, "the weights were the same before, but not the state", "1.running_mean")


def test_another_model_behind_a_flatten(tmp_path: Path) -> None:
    _head(tmp_path / "a")
    _head(tmp_path / "b", channels_first=True, points=_POINTS * np.float32(1.01))
    report = diff(tmp_path / "a", tmp_path / "b")
    found_in(report, "logits", 0, "the weights were the same before but for the order in kernel: if that is the one of")
    assert max(report.series["weights"].values()) < 0.1


def test_weights_of_another_number(tmp_path: Path) -> None:
    write(tmp_path / "a", {"input": IMAGES, "weights/1": _HEAD, "weights/2": _HEAD})
    write(tmp_path / "b", {"input": IMAGES, "weights/kernel": _HEAD})
    report = diff(tmp_path / "a", tmp_path / "b")
    assert report.ok and "a has 2 arrays weights/..., b has 1: they were not compared" in report.text()


def test_a_square_kernel_stays_transposed(tmp_path: Path) -> None:
    """Though an update makes it other than any tolerance."""
    head = _RNG.normal(0, 0.2, (24, 24)).astype(np.float32)
    _head(tmp_path / "a", head=head)
    for initial in (True, False):
        other: dict[str, Any] = {"head": head, "transposed": True, "initial": initial}
        report = diff(tmp_path / "a", _head(tmp_path / f"same {initial}", **other))
        assert report.ok, report.text()
        report = diff(tmp_path / "a", _head(tmp_path / f"rate {initial}", **other, rate=0.2))
        found_in(report, "update", 0, "b's update is 2 times a's" if initial else "so it is the optimizer")
        assert ("could have differed already" in report.text()) != initial
        assert 0.01 < max(report.series["weights"].values()) < 0.3


def test_a_first_difference_above_the_tolerance_is_no_rounding(tmp_path: Path) -> None:
    x = IMAGES[:4]
    write(tmp_path / "a", *({"target": LABELS[:4], **({"input": x} if k > 2 else {})} for k in range(5)))
    write(tmp_path / "b", *({"target": LABELS[:4], "input": x * np.float32(1.01)} for _ in range(5)))
    found_in(
        diff(tmp_path / "a", tmp_path / "b"), "update", 3, "differ already at the first step that both have them of"
    )


def test_an_order_of_many_rows() -> None:
    rows = _RNG.normal(0, 1, (9000, 3)).astype(np.float32)
    order = _RNG.permutation(9000)
    assert (rows == rows[order][find_order(rows, rows[order], 1e-6)]).all()
    assert find_order(rows, rows + np.float32(1), 1e-6) is None


def test_weights_behind_a_flatten_in_both_frameworks(tmp_path: Path) -> None:
    for rate in (0.1, 0.2):
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(24, CLASSES))
        kernel = np.moveaxis(_HEAD.reshape(2, 3, 4, CLASSES), 2, 0).reshape(24, CLASSES).T
        with torch.no_grad():
            model[1].weight.copy_(torch.from_numpy(kernel.copy()))
            model[1].bias.zero_()
        optimizer = torch.optim.SGD(model.parameters(), rate)
        with dualloss.torch.record(tmp_path / f"torch {rate}") as recorder:
            criterion = recorder.loss(torch.nn.CrossEntropyLoss())
            recorder.weights(model)
            for x, y in zip(np.moveaxis(_POINTS, -1, 2), _CLASS, strict=True):
                loss = criterion(model(torch.from_numpy(x.copy())), torch.from_numpy(y))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                recorder.weights(model)
                recorder.step()
    other = keras.Sequential([keras.Input((2, 3, 4)), keras.layers.Flatten(), keras.layers.Dense(CLASSES)])
    other.layers[-1].set_weights([_HEAD, np.zeros(CLASSES, np.float32)])
    recorder = dualloss.tf.record(tmp_path / "keras", weights=True)
    loss = recorder.loss(keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    other.compile(keras.optimizers.SGD(0.1), loss=loss, jit_compile=False)
    other.fit(
        _POINTS.reshape(24, 2, 3, 4), _CLASS.ravel(), batch_size=4, shuffle=False, callbacks=[recorder], verbose=0
    )  # fmt: skip
    recorder.close()
    report = diff(tmp_path / "torch 0.1", tmp_path / "keras")
    assert report.ok and max(report.series["weights"].values()) < 1e-6, report.text()
    found_in(diff(tmp_path / "torch 0.2", tmp_path / "keras"), "update", 0, "b's update is 0.5 times a's")


def test_no_step_in_common(tmp_path: Path) -> None:
    write(tmp_path / "a", *({"input": np.arange(3)} for _ in range(3)))
    write(tmp_path / "b", {"input": np.arange(3)}, start=7)
    with pytest.raises(RecordingError, match=r"the steps 0 to 2 \(3\).*the steps 7 to 7 \(1\)"):
        diff(tmp_path / "a", tmp_path / "b")


# --- The replay


def test_a_recording_of_the_spec_has_its_bits(runs: Path) -> None:
    for name in ("torch", "keras"):
        report = check_recording(runs / name, SPEC)
        assert report.ok and report.same_bits and report.text().startswith("same bits as the spec: 6 steps\n")
        assert all(replay.loss_error <= 0.5 and set(replay.terms.values()) == {0.0} for replay in report.replays)
        assert json.loads(report.to_json())["same_bits"] is True


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_other_reductions_are_replayed(reduction: str, tmp_path: Path) -> None:
    spec = dl.CrossEntropy(ignore_index=2)
    criterion = dualloss.torch.Loss(spec, reduction=reduction)
    w = torch.arange(1.0, 5)
    x, y = torch.from_numpy(np.moveaxis(IMAGES[:4], -1, 1).copy()).requires_grad_(), torch.from_numpy(LABELS[:4] % 3)
    with dualloss.torch.record(tmp_path / "run") as recorder:
        (2 * recorder.loss(criterion)(x, y, w)).sum().backward()
    report = check_recording(tmp_path / "run")
    assert report.same_bits and report.replays[0].gradient_ulp == 0
    other = check_recording(tmp_path / "run", reduction="mean")
    assert not other.ok


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_other_peoples_losses_are_the_same_within_rounding(dtype: str, tmp_path: Path) -> None:
    train_torch(tmp_path / "run", criterion=torch.nn.CrossEntropyLoss(), dtype=getattr(torch, dtype), steps=2)
    report = check_recording(tmp_path / "run", dl.CrossEntropy())
    assert report.ok and not report.same_bits, report.text()
    assert report.verdict.startswith("same as the spec within ")


@pytest.mark.parametrize(
    ("criterion", "words"),
    [
        (
            torch.nn.CrossEntropyLoss(reduction="sum"),
            "120 times the spec's, the number of positions: a sum against a mean?",
        ),
        (torch.nn.CrossEntropyLoss(label_smoothing=0.1), "the gradient differs"),
        (Detached(), "the gradient differs, though the loss is the same"),
        (torch.nn.CrossEntropyLoss(reduction="none"), "another reduction"),
    ],
    ids=["sum", "smoothing", "gradient", "none"],
)
def test_a_loss_that_differs_from_the_spec(criterion: Any, words: str, tmp_path: Path) -> None:
    called = criterion
    if criterion.__dict__.get("reduction") == "none":
        with dualloss.torch.record(tmp_path / "run") as recorder:
            x = torch.from_numpy(np.moveaxis(IMAGES, -1, 1).copy()).requires_grad_()
            recorder.loss(called)(x, torch.from_numpy(LABELS % 3)).mean().backward()
    else:
        train_torch(tmp_path / "run", criterion=called, steps=1)
    report = check_recording(tmp_path / "run", dl.CrossEntropy())
    assert not report.ok and "differs from the spec: at 1 of 1 step" in report.text() and words in report.text()


def test_a_term_that_differs_from_the_spec(runs: Path) -> None:
    report = check_recording(runs / "torch", dl.CrossEntropy() + 0.5 * dl.Boundary(padding="replicate"))
    assert not report.ok and "the term boundary is" in report.text() and "the term cross_entropy" not in report.text()


def test_labels_of_keras_are_replayed(tmp_path: Path) -> None:
    with dualloss.tf.record(tmp_path / "run") as recorder:
        criterion = recorder.loss(keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        criterion(LABELS[:4, ..., None].astype(np.float32) % 3, IMAGES[:4])
    report = check_recording(tmp_path / "run", dl.CrossEntropy())
    assert report.ok and "no gradient was recorded" in report.text()


def test_nan_is_replayed(tmp_path: Path) -> None:
    """A label out of range, in a graph."""
    x, y = tf.constant(IMAGES[:4]), tf.constant(np.where(LABELS[:4] % 3 == 2, 7, LABELS[:4] % 3))
    with dualloss.tf.record(tmp_path / "run") as recorder:
        criterion = recorder.loss(dualloss.tf.Loss(dl.CrossEntropy()))

        @tf.function
        def step() -> Any:
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = criterion(y, x)
            return tape.gradient(loss, x)

        assert np.isnan(step()).any()
    report = check_recording(tmp_path / "run")
    assert report.same_bits and np.isnan(report.replays[0].loss)
    assert json.loads(report.to_json())["replays"][0]["loss"] == "nan"


def test_what_cannot_be_replayed(tmp_path: Path) -> None:
    train_torch(tmp_path / "sampled", whole=100)
    with pytest.raises(
        RecordingError, match=r"its input has 600 elements and was not kept whole \(record with whole=\)"
    ):
        check_recording(tmp_path / "sampled")
    write(tmp_path / "none")
    with pytest.raises(RecordingError, match="has no complete step"):
        check_recording(tmp_path / "none", SPEC)
    with pytest.raises(RecordingError, match="does not say which spec"):
        check_recording(tmp_path / "none")
    write(tmp_path / "shapes", {"input": IMAGES, "target": LABELS[:1], "loss": np.float32(1)})
    with pytest.raises(RecordingError, match="target has shape"):
        check_recording(tmp_path / "shapes", SPEC)


# --- The guide


def test_the_examples_of_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[1] / "docs" / "recording.md").read_text()
    examples = re.findall(r"<!-- example -->\n```python\n(.*?)```", page, re.DOTALL)
    assert len(examples) == 2
    monkeypatch.chdir(tmp_path)
    for example in examples:
        exec(example, {})
    for name in ("run-torch", "run-keras"):
        assert list(Recording(name).steps) == [0, 2, 4, 6, 8]
        assert check_recording(name).same_bits
    assert diff("run-torch", "run-keras").stage == "targets"


# --- The commands


def test_commands(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "spec.json").write_text(SPEC.to_json())
    (tmp_path / "other.json").write_text(dl.CrossEntropy().to_json())
    torch_run, keras_run = str(runs / "torch"), str(runs / "keras")
    assert main(["diff", torch_run, keras_run, "--json", str(tmp_path / "out.json")]) == 0
    assert capsys.readouterr().out.startswith("same within rounding: 6 steps\n")
    assert json.loads((tmp_path / "out.json").read_text())["ok"] is True
    assert main(["check-recording", keras_run, "--spec", str(tmp_path / "spec.json")]) == 0
    assert main(["check-recording", keras_run, "--spec", str(tmp_path / "other.json"), "--ulp", "8"]) == 1
    assert "differs from the spec" in capsys.readouterr().out
    for arguments, expected in (
        (["--spec", str(tmp_path / "no.json")], "no.json"),
        (["--spec", str(tmp_path / "out.json")], "out.json"),
    ):
        assert main(["check-recording", keras_run, *arguments]) == 2
        assert expected in capsys.readouterr().err


def test_the_replay_is_the_reference(runs: Path, same_bits: SameBits) -> None:
    arrays = Recording(runs / "keras").steps[2].arrays
    expected = loss_and_gradient(SPEC, arrays["input"].values(), arrays["target"].values())
    same_bits(arrays["loss"].values(), expected.loss)
    same_bits(arrays["gradient"].values(), expected.gradient)
