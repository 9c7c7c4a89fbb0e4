"""The value of every term over many batches, in both frameworks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dualloss as dl
from dualloss.exact import loss_and_gradient, sums
from dualloss.exact.numpy_ops import NumpyOps

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
keras = pytest.importorskip("keras", reason="Keras is not installed")

from dualloss.tf import Loss, TermMetric, term_metrics  # noqa: E402
from dualloss.torch import Loss as TorchLoss  # noqa: E402
from dualloss.torch import Terms  # noqa: E402

SameBits = Callable[[Any, Any], None]

IGNORED = 255
SPEC = (
    dl.CrossEntropy(ignore_index=IGNORED)
    + dl.Linear(0, 0.5, steps=4) * dl.Boundary()
    + 0 * dl.Boundary(kernel="laplacian8")
    + 0.1 * dl.Dice()
)
SPLITS = ((7,), (2, 4, 1))


def _data() -> tuple[Any, Any, Any]:
    """Logits, channels last, labels of which some are ignored, and weights per position."""
    rng = np.random.default_rng(5)
    x = rng.normal(0, 2, (7, 4, 3, 3)).astype(np.float32)
    labels = np.where(rng.random(x.shape[:-1]) < 0.2, IGNORED, rng.integers(0, 3, x.shape[:-1]))
    return x, labels, rng.random(x.shape[:-1]).astype(np.float32)


def _pieces(split: tuple[int, ...], *arrays: Any) -> Any:
    ends = np.cumsum(split)
    return zip(*(np.split(array, ends[:-1]) for array in arrays), strict=True)


def _torch(spec: Any, split: tuple[int, ...], arrays: Any, **options: Any) -> dict[str, Any]:
    terms = Terms(TorchLoss(spec, channel_axis=-1, **options))
    for piece in _pieces(split, *arrays):
        terms.update(*(torch.from_numpy(part) for part in piece))
    return terms.compute()


def _keras(spec: Any, split: tuple[int, ...], arrays: Any, **options: Any) -> dict[str, Any]:
    metrics = term_metrics(Loss(spec, jit_compile=False, **options))
    for piece in _pieces(split, *arrays):
        x, labels, *weight = piece
        for metric in metrics:
            metric.update_state(labels, x, *weight)
    return {metric.name: metric.result() for metric in metrics}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_values_are_those_of_one_batch_whatever_the_split(weighted: bool, reduction: str, same_bits: SameBits) -> None:
    arrays = _data()[: 3 if weighted else 2]
    expected = loss_and_gradient(SPEC.at(1), *arrays, reduction=reduction).terms
    assert list(expected) == ["cross_entropy", "boundary", "boundary_2", "dice"]
    for split in SPLITS:
        for found in (f(SPEC, split, arrays, reduction=reduction) for f in (_torch, _keras)):
            assert list(found) == list(expected)
            for name, value in expected.items():
                same_bits(found[name], value)


def test_the_label_that_a_sum_ignores_is_ignored_in_every_term(same_bits: SameBits) -> None:
    arrays = _data()[:2]
    kept = loss_and_gradient(dl.Boundary(ignore_index=IGNORED), *arrays).loss
    same_bits(_torch(SPEC, (7,), arrays)["boundary"], kept)
    same_bits(_keras(SPEC, (7,), arrays)["boundary"], kept)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_term_whose_sums_do_not_add_is_averaged_over_batches(reduction: str, same_bits: SameBits) -> None:
    spec = SPEC + dl.Lovasz()
    arrays = _data()[:2]
    losses = [
        loss_and_gradient(dl.Lovasz(ignore_index=IGNORED), *piece, reduction=reduction).loss
        for piece in _pieces((3, 4), *arrays)
    ]
    total = float(losses[0]) + float(losses[1])
    expected = np.float32(total / 2 if reduction == "mean" else total)
    for found in (f(spec, (3, 4), arrays, reduction=reduction) for f in (_torch, _keras)):
        same_bits(found["lovasz"], expected)
        same_bits(found["dice"], loss_and_gradient(SPEC.at(0), *arrays, reduction=reduction).terms["dice"])


def test_a_loss_of_native_numerics_has_exact_terms_too(same_bits: SameBits) -> None:
    arrays = _data()[:2]
    exact = _torch(SPEC, (7,), arrays)
    for found in (f(SPEC, (3, 4), arrays, numerics="native") for f in (_torch, _keras)):
        for name, value in exact.items():
            same_bits(found[name], value)


def test_reset_forgets(same_bits: SameBits) -> None:
    x, labels, _ = _data()
    loss = TorchLoss(SPEC, channel_axis=-1)
    terms = Terms(loss)
    terms.update(torch.from_numpy(x[:3]), torch.from_numpy(labels[:3]))
    terms.reset()
    with pytest.raises(RuntimeError, match="update"):
        terms.compute()
    terms.update(torch.from_numpy(x), torch.from_numpy(labels))
    metric = TermMetric(Loss(SPEC, jit_compile=False), "dice")
    assert metric.result() == 0
    metric.update_state(labels[:3], x[:3])
    metric.reset_state()
    metric.update_state(labels, x)
    expected = loss_and_gradient(SPEC.at(0), x, labels).terms["dice"]
    same_bits(terms.compute()["dice"], expected)
    same_bits(metric.result(), expected)


def test_states_of_ranks_add(same_bits: SameBits) -> None:
    x, labels, _ = _data()
    ranks: list[Any] = []
    for piece in _pieces((3, 4), x, labels):
        terms = Terms(TorchLoss(SPEC, channel_axis=-1))
        terms.update(*map(torch.from_numpy, piece))
        ranks.append(terms)
    assert ranks[0].state.shape == (4, 12, 12)
    ranks[0].state += ranks[1].state
    for name, value in _torch(SPEC, (7,), (x, labels)).items():
        same_bits(ranks[0].compute()[name], value)


def test_state_has_room_for_any_number_of_batches() -> None:
    """Carried limbs stand for the same sum, and leave the headroom of 31 bits free."""
    ops = NumpyOps()
    values = np.array([[3e38, -1e-40, 7.25], [-3e38, 2.0**-140, -9e9], [1.5, -2.5, np.inf]])
    states = sums.state(ops, values) * (2**31 - 1)
    carried = sums.carried(ops, states)
    np.testing.assert_array_equal(sums.to_float(ops, carried), sums.to_float(ops, states))
    np.testing.assert_array_equal(sums.carried(ops, carried), carried)
    lower = carried[:, : sums.LIMBS - 1]
    assert (states[:, : sums.LIMBS - 1] >= 2**32).any()
    assert ((lower >= 0) & (lower < 2**32)).all()


def test_update_leaves_no_graph_behind() -> None:
    x, labels, _ = _data()
    terms = Terms(TorchLoss(SPEC, channel_axis=-1))
    terms.update(torch.from_numpy(x).requires_grad_(), torch.from_numpy(labels))
    assert not any(value.requires_grad for value in terms.compute().values())


@pytest.mark.parametrize(("make", "wrong"), [(Terms, Loss), (term_metrics, TorchLoss)], ids=["torch", "tf"])
def test_other_losses_are_refused(make: Any, wrong: Any) -> None:
    right = TorchLoss if make is Terms else Loss
    with pytest.raises(ValueError, match="reduction='none'"):
        make(right(dl.TOTAL_LOSS, reduction="none"))
    with pytest.raises((TypeError, AttributeError)):
        make(dl.TOTAL_LOSS)
    with pytest.raises(TypeError, match="loss is Loss"):
        make(wrong(dl.TOTAL_LOSS))


def test_unknown_term() -> None:
    with pytest.raises(ValueError, match="'cross_entropy', 'boundary'"):
        TermMetric(Loss(dl.TOTAL_LOSS), "edges")


# --- Keras


def _model() -> Any:
    identity = keras.layers.Dense(3, kernel_initializer="identity", use_bias=False)
    return keras.Sequential([keras.Input((None, None, 3)), identity])


@pytest.mark.parametrize("jit_compile", [False, True])
def test_through_keras(jit_compile: bool) -> None:
    x, labels, weight = (array[:6] for array in _data())
    target = np.eye(3, dtype=np.float32)[labels % 3]
    spec = dl.MeanSquaredError() + 0.1 * dl.MeanAbsoluteError()
    loss = Loss(spec, jit_compile=jit_compile)
    model = _model()
    weighted = [TermMetric(loss, "mean_squared_error", name="weighted")]
    metrics = term_metrics(loss)
    model.compile(keras.optimizers.SGD(0.0), loss, metrics=metrics, weighted_metrics=weighted, jit_compile=jit_compile)
    history = model.fit(x, target, batch_size=3, sample_weight=weight, epochs=2, verbose=0).history
    plain, counted = loss_and_gradient(spec, x, target).terms, loss_and_gradient(spec, x, target, weight).terms
    for name, value in (*plain.items(), ("weighted", counted["mean_squared_error"])):
        assert history[name] == [float(value)] * 2
    if not jit_compile:
        found = model.evaluate(x, target, batch_size=4, verbose=0, return_dict=True)
        assert {name: found[name] for name in plain} == {name: float(value) for name, value in plain.items()}


def test_saved_model_keeps_the_metrics(tmp_path: Path) -> None:
    x, labels, _ = _data()
    loss = Loss(SPEC, jit_compile=False, reduction="sum")
    model = _model()
    model.compile("sgd", loss, metrics=[TermMetric(loss, "boundary_2", name="diagonal")], run_eagerly=True)
    model.evaluate(x, labels, verbose=0)
    model.save(tmp_path / "model.keras")
    found = keras.saving.load_model(tmp_path / "model.keras").evaluate(x, labels, verbose=0, return_dict=True)
    assert found["diagonal"] == float(loss_and_gradient(SPEC.at(0), x, labels, reduction="sum").terms["boundary_2"])
