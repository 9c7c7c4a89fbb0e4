"""The oracle against PyTorch's own losses in float64, finite differences, and cases with a known answer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from dualloss import (
    TOTAL_LOSS,
    BinaryCrossEntropy,
    Boundary,
    CrossEntropy,
    Huber,
    MeanSquaredError,
    Spec,
)
from dualloss.oracle import Result, evaluate, scaled_ulp_error, ulp, ulp_error

CLASSES = 4
IGNORED = 7


def rng() -> np.random.Generator:
    """Random numbers, the same for every test."""
    return np.random.default_rng(3)


RNG = rng()
LOGITS = RNG.normal(size=(2, CLASSES, 5, 6)) * 3
LABELS = RNG.integers(0, CLASSES, (2, 5, 6))
SOFT = RNG.dirichlet(np.ones(CLASSES), (2, 5, 6)).transpose(0, 3, 1, 2)
SOME_IGNORED = np.where(RNG.random(LABELS.shape) < 0.3, IGNORED, LABELS)
WEIGHTS = (0.5, 1.0, 0.25, 2.0)  # exact in float32, like every constant here
KERNELS = ("laplacian", "laplacian8")
PADDINGS = ("zeros", "replicate", "reflect")


def close(result: Result, loss: Any, gradient: Any, tolerance: float = 1e-13) -> None:
    """Assert value and gradient, both relative to their largest element."""
    for got, expected in ((result.loss, loss), (result.gradient, gradient)):
        expected = np.asarray(expected)
        np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * max(np.abs(expected).max(), 1e-300))


def by_torch(formula: Any, x: Any = LOGITS) -> tuple[Any, Any]:
    """Value and gradient of `formula(torch, F, x)` by PyTorch's autograd."""
    torch = pytest.importorskip("torch")
    leaf = torch.tensor(x, requires_grad=True)
    loss = formula(torch, torch.nn.functional, leaf)
    loss.sum().backward()
    return loss.detach().numpy(), leaf.grad.numpy()


def first(spec: Spec, x: Any, target: Any, **options: Any) -> Result:
    """The oracle with the channels on axis 1."""
    return evaluate(spec, x, target, channel_axis=1, **options)


# --- Against PyTorch's losses ---


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.25])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("ignored", [None, IGNORED])
def test_cross_entropy_of_labels(reduction: str, smoothing: float, weights: Any, ignored: int | None) -> None:
    """`F.cross_entropy`, whose mean is the one of "weights"."""
    labels = LABELS if ignored is None else SOME_IGNORED
    spec = CrossEntropy(label_smoothing=smoothing, class_weights=weights, ignore_index=ignored)

    def formula(torch: Any, F: Any, x: Any) -> Any:
        return F.cross_entropy(
            x,
            torch.tensor(labels),
            weight=None if weights is None else torch.tensor(weights, dtype=x.dtype),
            ignore_index=-100 if ignored is None else ignored,
            label_smoothing=smoothing,
            reduction=reduction,
        )

    close(first(spec, LOGITS, labels, reduction=reduction), *by_torch(formula))


@pytest.mark.parametrize("smoothing", [0.0, 0.25])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_of_probabilities(smoothing: float, weights: Any) -> None:
    """`F.cross_entropy` of dense targets, whose mean divides by the number of positions: "all" or "valid"."""
    loss, gradient = by_torch(
        lambda torch, F, x: F.cross_entropy(
            x,
            torch.tensor(SOFT),
            weight=None if weights is None else torch.tensor(weights, dtype=x.dtype),
            label_smoothing=smoothing,
        )
    )
    for normalizer in ("valid", "elements"):
        spec = CrossEntropy(label_smoothing=smoothing, class_weights=weights, normalizer=normalizer)
        close(first(spec, LOGITS, SOFT), loss, gradient)
    total = first(CrossEntropy(class_weights=weights), LOGITS, SOFT, reduction="sum").loss
    mass = LABELS.size if weights is None else (SOFT * np.array(WEIGHTS)[:, None, None]).sum()
    assert first(CrossEntropy(class_weights=weights), LOGITS, SOFT).loss == pytest.approx(total / mass, rel=1e-14)


@pytest.mark.parametrize("pos_weight", [None, 3.0, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.25])
def test_binary_cross_entropy(pos_weight: Any, smoothing: float) -> None:
    """`F.binary_cross_entropy_with_logits`; the mean over positions of means over channels is its mean."""

    def formula(torch: Any, F: Any, x: Any) -> Any:
        t = (1 - smoothing) * torch.tensor(SOFT) + smoothing / 2
        weight = None if pos_weight is None else torch.tensor(pos_weight, dtype=x.dtype).reshape(-1, 1, 1)
        return F.binary_cross_entropy_with_logits(x, t, pos_weight=weight)

    spec = BinaryCrossEntropy(pos_weight=pos_weight, label_smoothing=smoothing)
    close(first(spec, LOGITS, SOFT), *by_torch(formula))


def test_regression() -> None:
    """`F.mse_loss` and `F.huber_loss`."""
    target = rng().normal(size=LOGITS.shape)
    wanted = by_torch(lambda torch, F, x: F.mse_loss(x, torch.tensor(target)))
    close(first(MeanSquaredError(), LOGITS, target), *wanted)
    wanted = by_torch(lambda torch, F, x: F.huber_loss(x, torch.tensor(target), delta=1.5))
    close(first(Huber(delta=1.5), LOGITS, target), *wanted)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("on", ["logits", "probabilities"])
def test_boundary_is_a_convolution(axes: int, padding: Any, kernel: Any, on: Any) -> None:
    """`F.pad` and `F.conv`, differentiated by autograd."""
    x, target = rng().normal(size=(2, 3, CLASSES, *(4, 2, 3)[:axes]))
    mode = {"zeros": "constant"}.get(padding, padding)
    distance = np.abs(np.indices((3,) * axes) - 1).sum(0)
    stencil = np.where(distance == 1 if kernel == "laplacian" else distance > 0, 1.0, 0.0)
    stencil[(1,) * axes] = -stencil.sum()

    def formula(torch: Any, F: Any, x: Any) -> Any:
        def edges(u: Any) -> Any:
            u = F.pad(u.reshape(-1, 1, *u.shape[2:]), [1, 1] * axes, mode=mode)
            return getattr(F, f"conv{axes}d")(u, torch.tensor(stencil)[None, None])

        q = x if on == "logits" else torch.softmax(x, 1)
        return F.mse_loss(edges(q), edges(torch.tensor(target)))

    spec = Boundary(kernel=kernel, on=on, padding=padding)
    close(first(spec, x, target), *by_torch(formula, x))


def test_total_loss() -> None:
    """The loss this library began with: cross-entropy plus half the squared difference of Laplacians."""

    def formula(torch: Any, F: Any, x: Any) -> Any:
        labels = torch.tensor(LABELS)
        t = F.one_hot(labels, CLASSES).permute(0, 3, 1, 2).to(x.dtype)
        kernel = torch.tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype=x.dtype)
        kernel = kernel.expand(CLASSES, 1, 3, 3)
        edges = [F.conv2d(u, kernel, padding=1, groups=CLASSES) for u in (x, t)]
        return F.cross_entropy(x, labels) + 0.5 * F.mse_loss(*edges)

    close(first(TOTAL_LOSS, LOGITS, LABELS), *by_torch(formula))


# --- Finite differences ---


@pytest.mark.parametrize("size", [(4,), (1,), (3, 2), (1, 3), (2, 3, 2)], ids=str)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_boundary_on_probabilities_by_differences(size: tuple[int, ...], padding: Any, kernel: Any) -> None:
    """Every element of the gradient against central differences, with weights, a mask and an upstream map."""
    spec = Boundary(kernel=kernel, on="probabilities", padding=padding, ignore_index=IGNORED)
    x = rng().normal(size=(2, *size, 3))
    labels = rng().integers(0, 3, (2, *size))
    labels.flat[0] = IGNORED
    weight, upstream = rng().normal(size=(2, 2, *size))

    def value(x: Any) -> Any:
        return (evaluate(spec, x, labels, sample_weight=weight, reduction="none").loss * upstream).sum()

    step, expected = 1e-5, np.empty_like(x)
    for index in np.ndindex(*x.shape):
        moved = np.zeros_like(x)
        moved[index] = step
        expected[index] = (value(x + moved) - value(x - moved)) / (2 * step)
    found = evaluate(spec, x, labels, sample_weight=weight, reduction="none", upstream=upstream)
    np.testing.assert_allclose(found.gradient, expected, rtol=0, atol=1e-8 * np.abs(expected).max(initial=1))


# --- Known answers ---


def test_confident_losses_are_right() -> None:
    """`log1p(e^-d)` and its derivative, where `log(1 + e^-d)` would be 0."""
    for distance in (1.0, 20.0, 70.0, 300.0):
        small = math.exp(-distance)
        for result in (
            evaluate(CrossEntropy(), [[distance, 0.0]], [0]),
            evaluate(BinaryCrossEntropy(), [distance], [1.0]),
        ):
            assert result.loss == pytest.approx(math.log1p(small), rel=4e-16)
            np.testing.assert_allclose(result.gradient.flat[0], -small / (1 + small), rtol=4e-16)


def test_a_sum_over_positions_is_exact() -> None:
    """Large values that cancel leave the small one."""
    result = evaluate(MeanSquaredError(), [1e8, 1.0, 1e8], [0.0, 0.0, 0.0], sample_weight=[1.0, 1.0, -1.0])
    assert result.loss == pytest.approx(1 / 3, rel=1e-15)


def test_infinite_logits() -> None:
    """-inf is a class of probability 0; +inf, NaN or nothing but -inf have no softmax."""
    inf, nan = math.inf, math.nan
    result = evaluate(CrossEntropy(), [[0.0, -inf, 0.0]], [2])
    assert result.loss == pytest.approx(math.log(2), rel=1e-15)
    np.testing.assert_array_equal(result.gradient, [[0.5, 0.0, -0.5]])
    assert evaluate(CrossEntropy(), [[0.0, -inf]], [1]).loss == inf
    assert evaluate(CrossEntropy(label_smoothing=0.5), [[0.0, -inf]], [0]).loss == inf
    for row in ([0.0, inf], [0.0, nan], [-inf, -inf]):
        for weights in (None, (0.0, 1.0)):
            result = evaluate(CrossEntropy(class_weights=weights), [row, [0.0, 0.0]], [0, 1])
            assert np.isnan(result.loss)
            np.testing.assert_array_equal(np.isnan(result.gradient), [[True, True], [False, False]])
    x, target = [[-inf], [inf], [-inf], [nan]], [[0.0], [1.0], [1.0], [0.0]]
    result = evaluate(BinaryCrossEntropy(), x, target, reduction="none")
    np.testing.assert_array_equal(result.loss, [0.0, 0.0, inf, nan])
    np.testing.assert_array_equal(result.gradient[:3, 0], [0.0, 0.0, -1.0])
    result = evaluate(Huber(delta=2), [inf, -inf], [0.0, 0.0], reduction="none")
    np.testing.assert_array_equal(result.gradient, [2.0, -2.0])


# --- The rules ---

TERMS: list[Spec] = [
    CrossEntropy(ignore_index=IGNORED),
    CrossEntropy(ignore_index=IGNORED, class_weights=WEIGHTS, label_smoothing=0.5),
    CrossEntropy(ignore_index=IGNORED, class_weights=WEIGHTS, normalizer="valid"),
    Boundary(ignore_index=IGNORED),
    Boundary(ignore_index=IGNORED, on="probabilities", kernel="laplacian8", padding="reflect"),
    0.5 * BinaryCrossEntropy(pos_weight=WEIGHTS) + 0.0 * CrossEntropy(ignore_index=IGNORED),
    MeanSquaredError() + -2 * Huber() + Boundary(ignore_index=IGNORED),
]
each_term = pytest.mark.parametrize("spec", TERMS, ids=repr)


def same(a: Result, b: Result) -> None:
    """Assert that two results are the same."""
    np.testing.assert_array_equal(a.loss, b.loss)
    np.testing.assert_array_equal(a.gradient, b.gradient)
    for name, value in a.terms.items():
        np.testing.assert_array_equal(value, b.terms[name])


@each_term
def test_ignored_masked_and_absent_are_one(spec: Spec) -> None:
    """An ignored label is a masked one, and neither the logits nor the labels there are seen."""
    valid = SOME_IGNORED != IGNORED
    spoiled = np.where(valid[:, None], LOGITS, np.nan)
    expected = first(spec, LOGITS, SOME_IGNORED)
    assert np.isfinite(expected.loss) and not expected.gradient[:, 0][~valid].any()
    same(first(spec, spoiled, SOME_IGNORED), expected)
    same(first(spec, spoiled, np.where(valid, LABELS, 99), sample_weight=valid), expected)
    dense = np.where(valid[:, None], np.eye(CLASSES)[LABELS].transpose(0, 3, 1, 2), np.nan)
    same(first(spec, spoiled, dense, sample_weight=valid), expected)


@each_term
def test_a_whole_batch_ignored_is_zero(spec: Spec) -> None:
    """Not 0 / 0."""
    result = first(spec, np.full_like(LOGITS, np.nan), np.full_like(LABELS, IGNORED))
    assert result.loss == 0 and not result.gradient.any() and set(result.terms.values()) == {0.0}
    result = first(spec, LOGITS[:0], LABELS[:0])
    assert result.loss == 0 and result.gradient.shape == LOGITS[:0].shape


@each_term
def test_weights_scale_values_not_the_normaliser(spec: Spec) -> None:
    """A weight of 0 takes a sample out of the value, not out of the count."""
    weight = np.array([3.0, 0.0])
    spoiled = np.where(weight[:, None, None, None] == 0, np.nan, LOGITS)
    result = first(spec, spoiled, SOME_IGNORED, sample_weight=weight)
    plain = first(spec, LOGITS, SOME_IGNORED)
    both = first(spec, LOGITS, SOME_IGNORED, reduction="sum")
    part = first(spec, LOGITS[:1], SOME_IGNORED[:1], reduction="sum")
    np.testing.assert_allclose(result.gradient[0], 3 * plain.gradient[0], rtol=1e-15, atol=1e-18)
    assert not result.gradient[1].any()
    for name in spec.names:
        expected = 3 * part.terms[name] / both.terms[name] * plain.terms[name]
        assert result.terms[name] == pytest.approx(expected, rel=1e-14)


@each_term
def test_reductions_agree(spec: Spec) -> None:
    """The sum is that of the map; terms and their weights make the loss; an upstream map stands inside."""
    none, total = (first(spec, LOGITS, SOME_IGNORED, reduction=r) for r in ("none", "sum"))
    np.testing.assert_array_equal(none.map, none.loss)
    np.testing.assert_array_equal(none.gradient, total.gradient)
    assert total.loss == pytest.approx(none.loss.sum(), rel=1e-13)
    for result in (none, total, first(spec, LOGITS, SOME_IGNORED)):
        parts = [w * result.terms[name] for name, (w, _) in zip(spec.names, spec.parts, strict=True)]
        np.testing.assert_allclose(result.loss, sum(parts), rtol=1e-13, atol=1e-15)
    one = first(spec, LOGITS, SOME_IGNORED, reduction="none", upstream=np.eye(5, 6)[None].repeat(2, 0))
    scaled = first(spec, LOGITS, SOME_IGNORED, reduction="none", sample_weight=np.eye(5, 6)[None].repeat(2, 0))
    np.testing.assert_array_equal(one.gradient, scaled.gradient)


@each_term
def test_the_channel_axis(spec: Spec) -> None:
    """Where it is makes no difference."""
    expected = first(spec, LOGITS, SOME_IGNORED)
    found = evaluate(spec, np.moveaxis(LOGITS, 1, -1), SOME_IGNORED)
    assert found.loss == expected.loss
    np.testing.assert_array_equal(np.moveaxis(found.gradient, -1, 1), expected.gradient)


def test_a_rank_1_input_is_one_channel() -> None:
    """`(B,)` like `(B, 1)`."""
    x, target = rng().normal(size=(2, 9))
    for spec in (MeanSquaredError(), Huber(), BinaryCrossEntropy(pos_weight=2.0)):
        flat, column = evaluate(spec, x, target), evaluate(spec, x[:, None], target[:, None])
        assert flat.loss == column.loss
        np.testing.assert_array_equal(flat.gradient, column.gradient[:, 0])


def test_boundary_counts_positions_whose_neighbours_are_valid() -> None:
    """Off the edge is valid."""
    labels = np.zeros((1, 4, 4), int)
    labels[0, 0, 0] = IGNORED
    x = rng().normal(size=(1, 4, 4, 2))
    for kernel, counted in (("laplacian", 13), ("laplacian8", 12)):
        for padding in PADDINGS:
            spec = Boundary(kernel=kernel, padding=padding, ignore_index=IGNORED)  # type: ignore[arg-type]
            ones = evaluate(spec, x, labels, reduction="none").loss
            assert np.count_nonzero(ones) == counted
            assert evaluate(spec, x, labels).loss == pytest.approx(ones.sum() / counted, rel=1e-14)


def test_labels_out_of_range_are_nan_in_their_place() -> None:
    """The position for terms that look at one; its neighbourhood for the boundary."""
    labels = np.array([[0, 1, 2, 9, 0, 1, 2, 0]])
    x = rng().normal(size=(1, 8, 3))
    found = evaluate(CrossEntropy(), x, labels, reduction="none")
    np.testing.assert_array_equal(np.isnan(found.loss)[0], np.arange(8) == 3)
    np.testing.assert_array_equal(np.isnan(found.gradient)[0, :, 0], np.arange(8) == 3)
    found = evaluate(Boundary(), x, labels, reduction="none")
    np.testing.assert_array_equal(np.isnan(found.loss)[0], np.isin(np.arange(8), [2, 3, 4]))
    weight = np.arange(8.0)[None]
    found = evaluate(CrossEntropy(class_weights=(1, 1, 1)), x, labels, sample_weight=weight)
    np.testing.assert_array_equal(np.isnan(found.gradient)[0, :, 0], weight[0] != 0)  # the normaliser is NaN


def test_a_term_of_weight_0_is_left_out() -> None:
    """Even where it is NaN; its value is still told."""
    result = evaluate(MeanSquaredError() + 0 * CrossEntropy(), [[1.0, math.inf]], [0], reduction="sum")
    assert result.loss == math.inf and math.isnan(result.terms["cross_entropy"])
    result = evaluate(0 * MeanSquaredError(), [1.0], [math.nan])
    assert result.loss == 0 and result.gradient[0] == 0


def test_constants_are_float32() -> None:
    """They are part of the question."""
    assert evaluate(0.1 * MeanSquaredError(), [1.0], [0.0]).loss == float(np.float32(0.1))
    assert evaluate(Huber(delta=0.1), [1.0], [0.0]).gradient[0] == float(np.float32(0.1))


def test_what_does_not_fit() -> None:
    """Errors name the argument."""
    with pytest.raises(ValueError, match="reduction='max'"):
        evaluate(MeanSquaredError(), [1.0], [1.0], reduction="max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="x is a scalar"):
        evaluate(MeanSquaredError(), 1.0, 1.0)
    with pytest.raises(ValueError, match=r"target has shape \(3,\)"):
        evaluate(MeanSquaredError(), [[1.0], [2.0]], [1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="sample_weight has shape"):
        evaluate(MeanSquaredError(), [[1.0], [2.0]], [[1.0], [1.0]], sample_weight=[1.0])
    with pytest.raises(ValueError, match="upstream has shape"):
        evaluate(MeanSquaredError(), [1.0, 2.0], [1.0, 1.0], reduction="none", upstream=[1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match=r"upstream has shape \(2,\), expected \(\)"):
        evaluate(MeanSquaredError(), [1.0, 2.0], [1.0, 1.0], upstream=[1.0, 1.0])


# --- Distances ---


def test_ulp() -> None:
    """The spacing of NumPy's own float32 and float16, zero and subnormal numbers included."""
    values = np.array([0.0, 1.0, -1.5, 2.0, 3e38, 1e-30, 2.0**-126, 2.0**-140, 1 - 2.0**-24])
    np.testing.assert_array_equal(ulp(values[:-1]), np.abs(np.spacing(values[:-1].astype(np.float32))))
    assert ulp(values[-1]) == 2.0**-24  # 1 - 2^-24 is a float32 of its own, below 1
    halves = np.array([0.0, 1.0, 1000.0, 2.0**-20])
    np.testing.assert_array_equal(ulp(halves, "float16"), np.spacing(halves.astype(np.float16)))
    assert ulp(1.0, "bfloat16") == 2.0**-7


def test_ulp_error() -> None:
    """Right rounding is half an ulp; what cannot be counted is nothing or infinite."""
    inf, nan = math.inf, math.nan
    truth = rng().normal(size=1000)
    assert 0.49 < ulp_error(truth.astype(np.float32), truth).max() <= 0.5
    assert ulp_error(1 + 2.0**-22, 1.0) == 2
    for got, expected in ((nan, nan), (inf, inf), (inf, 1e39), (0.0, 1e-39), (0.0, 0.0)):
        assert ulp_error(got, expected) == 0
    for got, expected in ((nan, 1.0), (1.0, nan), (inf, -inf), (inf, 1.0), (1.0, inf), (inf, nan)):
        assert ulp_error(got, expected) == inf
    assert ulp_error(0.0, 2.0**-15, "float16") == 512  # float16 keeps its subnormals


def test_scaled_ulp_error() -> None:
    """In units of the largest element; NaN and infinities in their places."""
    assert scaled_ulp_error([1.0, 2.0**-23], [1.0, 0.0]) == 1
    assert scaled_ulp_error([2.0**-23], [0.0], at_least=1.0) == 1
    assert scaled_ulp_error([math.nan, 1.0], [math.nan, 1.0]) == 0
    assert scaled_ulp_error([math.inf], [math.inf]) == 0
    assert scaled_ulp_error([], []) == 0
    for wrong in ([math.nan, 1.0], [0.0, math.nan], [math.inf, 1.0]):
        assert scaled_ulp_error(wrong, [0.0, 1.0]) == math.inf
    assert scaled_ulp_error([0.0, 1.0], [math.nan, 1.0]) == math.inf
    with pytest.raises(ValueError, match=r"got has shape \(2,\)"):
        scaled_ulp_error([0.0, 1.0], [[0.0, 1.0]])
