"""The NumPy engine as its users meet it; the bits themselves are tested against the definition elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualloss import (
    SSIM,
    TOTAL_LOSS,
    BinaryCrossEntropy,
    Boundary,
    CrossEntropy,
    DistanceMap,
    Huber,
    KLDivergence,
    MeanSquaredError,
)
from dualloss.exact import loss_and_gradient
from dualloss.oracle import evaluate, scaled_ulp_error, ulp_error

SameBits = Callable[[Any, Any], None]


def test_output_has_the_documented_shapes_and_dtypes(case: Any) -> None:
    found = loss_and_gradient(case.spec, case.x, case.target, case.weight)
    assert np.shape(found.loss) == ()
    assert found.loss.dtype == np.float32
    assert (found.gradient.shape, found.gradient.dtype) == (case.x.shape, case.x.dtype)
    assert found.sums.shape == (len(case.spec.parts), 2, 12)
    assert found.sums.dtype == np.int64
    assert tuple(found.terms) == case.spec.names


def test_map_has_the_shape_of_the_positions(total: Any) -> None:
    found = loss_and_gradient(TOTAL_LOSS, total.x, total.target, reduction="none")
    assert found.loss.shape == total.target.shape
    assert found.loss.dtype == np.float32
    assert {value.shape for value in found.terms.values()} == {total.target.shape}


def test_value_and_gradient_are_those_of_the_formula(total: Any) -> None:
    """Cross-entropy plus half the boundary term, written down in float64."""
    x, t = total.x.astype(np.float64), np.eye(4)[total.target]
    exp = np.exp(x)
    p = exp / exp.sum(-1, keepdims=True)

    def laplacian(v: Any) -> Any:
        v = np.pad(v, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return 4 * v[:, 1:-1, 1:-1] - v[:, :-2, 1:-1] - v[:, 2:, 1:-1] - v[:, 1:-1, :-2] - v[:, 1:-1, 2:]

    difference = laplacian(x - t)
    value = -(t * np.log(p)).sum(-1).mean() + 0.5 * (difference**2).mean()
    gradient = (p - t) / total.target.size + laplacian(difference) / x.size
    found = loss_and_gradient(TOTAL_LOSS, total.x, total.target)
    np.testing.assert_allclose(found.loss, value, rtol=1e-7)
    np.testing.assert_allclose(found.gradient, gradient, rtol=0, atol=2e-7 * np.abs(gradient).max())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_the_float32_result_rounded_once(dtype: str, total: Any, same_bits: SameBits) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    half = total.x.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16)
    found = loss_and_gradient(TOTAL_LOSS, half, total.target)
    wide = loss_and_gradient(TOTAL_LOSS, half.astype(np.float32), total.target)
    same_bits(found.loss, wide.loss)
    same_bits(found.gradient, wide.gradient.astype(half.dtype))


@pytest.mark.parametrize("axis", [1, 2, -2])
def test_channel_axis(axis: int, total: Any, same_bits: SameBits) -> None:
    wanted = loss_and_gradient(TOTAL_LOSS, total.x, total.target)
    moved = np.moveaxis(total.x, -1, axis)
    found = loss_and_gradient(TOTAL_LOSS, moved, total.target, channel_axis=axis)
    same_bits(found.loss, wanted.loss)
    same_bits(found.gradient, np.moveaxis(wanted.gradient, -1, axis))


def test_labels_and_one_hot_targets_have_the_same_bits(total: Any, same_bits: SameBits) -> None:
    wanted = loss_and_gradient(TOTAL_LOSS, total.x, total.target)
    one_hot = np.eye(4, dtype=np.float32)[total.target]
    for dense in (one_hot, one_hot.astype(np.float16), one_hot.astype(np.uint8), one_hot.astype(bool)):
        found = loss_and_gradient(TOTAL_LOSS, total.x, dense)
        same_bits(found.loss, wanted.loss)
        same_bits(found.gradient, wanted.gradient)


@pytest.mark.parametrize("upstream", [0.3, -65536.0, 0.0])
def test_upstream_scales_the_float32_gradient(upstream: float, total: Any, same_bits: SameBits) -> None:
    wanted = loss_and_gradient(TOTAL_LOSS, total.x, total.target)
    found = loss_and_gradient(TOTAL_LOSS, total.x, total.target, upstream=upstream)
    same_bits(found.loss, wanted.loss)
    # Adding 0 turns -0 into the +0 of the definition.
    same_bits(found.gradient, np.float32(upstream) * wanted.gradient + np.float32(0))


def test_upstream_of_a_map_selects_positions(total: Any) -> None:
    upstream = np.zeros((2, 5, 6), np.float32)
    upstream[1, 2, 3] = 1
    found = loss_and_gradient(TOTAL_LOSS, total.x, total.target, reduction="none", upstream=upstream)
    reached = np.zeros((2, 5, 6), bool)
    reached[1, 2, 2:5] = reached[1, 1:4, 3] = True
    assert (found.gradient[~reached] == 0).all()
    assert (found.gradient[reached] != 0).all()


def test_a_map_takes_a_scalar_upstream(total: Any, same_bits: SameBits) -> None:
    whole = loss_and_gradient(TOTAL_LOSS, total.x, total.target, reduction="none", upstream=2)
    full = np.full(total.target.shape, 2, np.float32)
    same_bits(
        whole.gradient, loss_and_gradient(TOTAL_LOSS, total.x, total.target, reduction="none", upstream=full).gradient
    )


@pytest.mark.parametrize("dtype", ["uint8", "uint64", "int8", "int16"])
def test_labels_of_any_integer_dtype(dtype: str, total: Any, same_bits: SameBits) -> None:
    wanted = loss_and_gradient(TOTAL_LOSS, total.x, total.target)
    found = loss_and_gradient(TOTAL_LOSS, total.x, total.target.astype(dtype))
    same_bits(found.gradient, wanted.gradient)


@pytest.mark.parametrize("classes", [3, 1000])
@pytest.mark.parametrize("away", [1e-2, 1e-4, 1e-6])
def test_a_divergence_next_to_its_target_does_not_cancel(classes: int, away: float) -> None:
    """The loss is of the size of the square of the distance, far below the terms of the sum that defines it."""
    rng = np.random.default_rng(classes)
    t = rng.dirichlet(np.full(classes, 2.0), 64).astype(np.float32)
    x = (np.log(t.astype(np.float64)) + away * rng.normal(size=t.shape)).astype(np.float32)
    spec = KLDivergence()
    found, true = loss_and_gradient(spec, x, t), evaluate(spec, x, t)
    assert float(ulp_error(found.loss, true.loss)) <= 1
    assert scaled_ulp_error(found.gradient, true.gradient) <= 4


def test_label_out_of_range_without_a_check_is_nan(total: Any) -> None:
    labels = total.target.copy()
    labels[0, 1, 1] = -1
    found = loss_and_gradient(CrossEntropy(), total.x, labels, check_labels=False)
    wrong = np.zeros(labels.shape, bool)
    wrong[0, 1, 1] = True
    assert np.isnan(found.loss)
    np.testing.assert_array_equal(np.isnan(found.gradient).all(-1), wrong)
    np.testing.assert_array_equal(np.isnan(found.gradient).any(-1), wrong)


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(12)))
def test_permuted_positions_permute_the_gradient(order: list[int]) -> None:
    """A sum in any order is the same sum."""
    rng = np.random.default_rng(1)
    x = (rng.normal(size=(12, 4)) * 10.0 ** rng.integers(-6, 3, (12, 1))).astype(np.float32)
    labels, weight = rng.integers(0, 4, 12), rng.random(12).astype(np.float32)
    spec = CrossEntropy(class_weights=(1, 0.3, 2, 0.7)) + Huber()
    wanted = loss_and_gradient(spec, x, labels, weight)
    found = loss_and_gradient(spec, x[order], labels[order], weight[order])
    assert found.loss.tobytes() == wanted.loss.tobytes()
    assert found.gradient.tobytes() == wanted.gradient[order].tobytes()


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 8), max_size=4).map(sorted), order=st.permutations(range(8)))
def test_split_batches_add_up_to_the_whole(cuts: list[int], order: list[int]) -> None:
    rng = np.random.default_rng(2)
    spec = CrossEntropy(class_weights=(1, 0.3, 2)) + 0.5 * Boundary() + 0.1 * MeanSquaredError()
    x = rng.normal(0, 3, (8, 4, 3)).astype(np.float32)
    labels, weight = rng.integers(0, 3, (8, 4)), rng.random(8).astype(np.float32)
    whole = loss_and_gradient(spec, x, labels, weight)
    parts = np.split(np.array(order), cuts)
    sums = sum(loss_and_gradient(spec, x[i], labels[i], weight[i]).sums for i in parts)
    np.testing.assert_array_equal(sums, whole.sums)
    gradients = [loss_and_gradient(spec, x[i], labels[i], weight[i], totals=sums).gradient for i in parts]
    assert np.concatenate(gradients).tobytes() == whole.gradient[order].tobytes()


def test_inputs_are_left_alone(case: Any) -> None:
    before = case.x.copy(), case.target.copy(), None if case.weight is None else case.weight.copy()
    loss_and_gradient(case.spec, case.x, case.target, case.weight)
    for array, copy in zip((case.x, case.target, case.weight), before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_no_warnings_from_extreme_values() -> None:
    """Overflow, infinities and NaN are part of the definition, not accidents. (Warnings are errors here.)"""
    x = np.float32([[3e38, -3e38, 0], [np.inf, 0, 0], [-np.inf, -np.inf, 1], [np.nan, 0, 0]])
    found = loss_and_gradient(CrossEntropy() + MeanSquaredError(), x, np.float32(np.eye(4, 3)), reduction="none")
    np.testing.assert_array_equal(np.isnan(found.loss), [False, True, False, True])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_everything_ignored_or_nothing_there_is_zero(reduction: str) -> None:
    spec = CrossEntropy(ignore_index=9) + Boundary()
    for size, label in ((2, 9), (0, 0)):
        x = np.full((size, 4, 3), np.nan, np.float32)
        found = loss_and_gradient(spec, x, np.full((size, 4), label), reduction=reduction)
        assert found.loss == 0
        assert not found.gradient.any()


X = np.zeros((2, 4, 3), np.float32)
Y = np.zeros((2, 4), np.int64)
DISTANCES = DistanceMap(target="distances")


@pytest.mark.parametrize(
    ("spec", "args", "options", "error", "message"),
    [
        (TOTAL_LOSS, (X.astype(np.float64), Y), {}, TypeError, "input has dtype float64, expected one of"),
        (TOTAL_LOSS, ([[[1, 2]]], [[0]]), {}, TypeError, "input has dtype int64"),
        (TOTAL_LOSS, (X, Y.astype(np.float32)), {}, TypeError, "target has dtype float32, expected integer"),
        (TOTAL_LOSS, (X, Y > 0), {}, TypeError, "target has dtype bool"),
        (TOTAL_LOSS, (X, X.astype(np.float64)), {}, TypeError, "target has dtype float64"),
        (TOTAL_LOSS, (X, Y, np.ones(2)), {}, TypeError, "sample_weight has dtype float64"),
        (TOTAL_LOSS, (X, Y[..., None]), {}, ValueError, r"target has shape \(2, 4, 1\), expected \(2, 4\)"),
        (TOTAL_LOSS, (X, Y, np.ones(4, np.float32)), {}, ValueError, r"sample_weight has shape \(4,\)"),
        (TOTAL_LOSS, (X, Y + 3), {}, ValueError, r"target has label 3 at position \(0, 0\), expected 0 to 2"),
        (CrossEntropy(ignore_index=0), (X, X), {}, ValueError, "ignore_index=0 has no meaning"),
        (CrossEntropy(class_weights=[1]), (X, Y), {}, ValueError, "class_weights has 1 values, expected 3"),
        (BinaryCrossEntropy(pos_weight=[1]), (X, X), {}, ValueError, "pos_weight has 1 values, expected 3"),
        (TOTAL_LOSS, (X[:, 0], Y[:, 0]), {}, ValueError, "0 spatial axes, expected 1 to 3 for Boundary"),
        (CrossEntropy(), (X[0, 0], Y[0, :3]), {}, ValueError, "expected a batch and a channel axis"),
        (TOTAL_LOSS, (X, Y), {"channel_axis": 0}, ValueError, "channel_axis is 0, expected an axis"),
        (TOTAL_LOSS, (X, Y), {"channel_axis": 3}, ValueError, "channel_axis is 3, expected an axis"),
        (TOTAL_LOSS, (X, Y), {"reduction": "avg"}, ValueError, "reduction is 'avg', expected one of"),
        (TOTAL_LOSS, (X, Y, np.ones((2, 1), np.float32)), {}, ValueError, r"sample_weight has shape \(2, 1\)"),
        (
            TOTAL_LOSS,
            (X, Y.astype(np.uint64) + np.uint64(2**63)),
            {},
            ValueError,
            "target has label 9223372036854775807 at position",
        ),
        (SSIM(window=5), (X, X), {}, ValueError, "4 positions along axis 1, expected at least 5 for SSIM"),
        (DISTANCES, (X, Y), {}, ValueError, "target"),
        (DISTANCES + CrossEntropy(), (X, X), {}, ValueError, "expected a loss of each, added"),
        (DISTANCES + CrossEntropy(ignore_index=1), (X, X), {}, ValueError, "takes no class indices"),
        (TOTAL_LOSS, (X, Y), {"upstream": np.ones(2)}, ValueError, r"upstream has shape \(2,\), expected a scalar"),
        (TOTAL_LOSS, (X, Y), {"totals": np.zeros((1, 2, 12), np.int64)}, ValueError, "totals has shape"),
        (TOTAL_LOSS, (X, Y), {"totals": np.zeros((2, 2, 12))}, TypeError, "totals has dtype float64"),
        ("total", (X, Y), {}, TypeError, "spec is str, expected a loss spec"),
        (
            CrossEntropy,
            (X, Y),
            {},
            TypeError,
            r"spec is the class CrossEntropy, expected an instance: CrossEntropy\(\)",
        ),
    ],
)
def test_error(spec: Any, args: tuple[Any, ...], options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        loss_and_gradient(spec, *args, **options)
