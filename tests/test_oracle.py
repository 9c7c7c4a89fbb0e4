"""The oracle against other libraries' losses in float64, finite differences, and cases with a known answer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from dualloss import (
    L1,
    L2,
    SSIM,
    TOTAL_LOSS,
    BinaryCrossEntropy,
    BinaryFocal,
    Boundary,
    CategoricalHinge,
    Charbonnier,
    CosineSimilarity,
    CrossEntropy,
    Dice,
    DistanceMap,
    Focal,
    FocalTversky,
    Hinge,
    Huber,
    Jaccard,
    KLDivergence,
    Linear,
    LogCosh,
    Lovasz,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    MeanSquaredLogarithmicError,
    NegativeLogLikelihood,
    Poisson,
    Quantile,
    SmoothL1,
    Spec,
    SquaredHinge,
    TotalVariation,
    Tversky,
)
from dualloss.oracle import Result, evaluate, evaluate_penalty, scaled_ulp_error, ulp, ulp_error

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
    Boundary(ignore_index=IGNORED, on="probabilities", kernel="sobel", padding="replicate"),
    Focal(ignore_index=IGNORED, alpha=WEIGHTS) + BinaryFocal(ignore_index=IGNORED, gamma=0.5),
    CategoricalHinge(ignore_index=IGNORED) + 0.25 * Hinge() + SquaredHinge(channels="sum"),
    DistanceMap(ignore_index=IGNORED) + DistanceMap(activation="sigmoid", channels="sum"),
    SSIM(window=3) + 0.0 * CrossEntropy(ignore_index=IGNORED),
    TotalVariation() + LogCosh() + 0.5 * CosineSimilarity() + 0.0 * CrossEntropy(ignore_index=IGNORED),
]
WHOLE: list[Spec] = [
    Dice(ignore_index=IGNORED) + 0.5 * CrossEntropy(),
    Jaccard(ignore_index=IGNORED, activation="sigmoid", per_sample=True, per_class=False),
    Tversky(ignore_index=IGNORED, squared=True, class_weights=WEIGHTS),
    Lovasz(ignore_index=IGNORED),
    Lovasz(ignore_index=IGNORED, activation="hinge", per_sample=True, classes="all"),
]
each_term = pytest.mark.parametrize("spec", TERMS, ids=repr)
each_term_and_region = pytest.mark.parametrize("spec", TERMS + WHOLE, ids=repr)


def same(a: Result, b: Result) -> None:
    """Assert that two results are the same."""
    np.testing.assert_array_equal(a.loss, b.loss)
    np.testing.assert_array_equal(a.gradient, b.gradient)
    for name, value in a.terms.items():
        np.testing.assert_array_equal(value, b.terms[name])


@each_term_and_region
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


@each_term_and_region
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


# --- The catalogue against other libraries and plain formulas ---

# Channels last from here on.
SHAPE = (2, 5, 6, CLASSES)
X = rng().normal(size=SHAPE) * 2
OTHER = rng().normal(size=(2, *SHAPE))[1] * 2
P = rng().dirichlet(np.ones(CLASSES), SHAPE[:-1])
SOFT_LAST = np.moveaxis(SOFT, 1, -1)
ONE_HOT = np.eye(CLASSES)[LABELS]
COUNTS = rng().poisson(2.0, SHAPE).astype(np.float64)
LOG_P = np.log(P)
BITS = rng().integers(0, 2, SHAPE).astype(np.float64)
KAPPA = 2.0**-10  # a clip that float32 and its complement hold
LEAST = float(np.float32(1e-12))


def by_keras(formula: Any, x: Any) -> tuple[Any, Any]:
    """Value and gradient of `formula(tf, keras.losses, x)` by TensorFlow's tape, in float64."""
    tf, keras = pytest.importorskip("tensorflow"), pytest.importorskip("keras")
    leaf = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(leaf)
        loss = tf.reduce_mean(formula(tf, keras.losses, leaf))
    return loss.numpy(), tape.gradient(loss, leaf).numpy()


def _torch_nll(F: Any, x: Any, t: Any) -> Any:
    return F.nll_loss(x.reshape(-1, CLASSES), t.argmax(-1).ravel(), weight=t.new_tensor(WEIGHTS))


# The spec, an input, a target, and the formula of torch.nn.functional or torch for them.
BY_TORCH: dict[str, tuple[Spec, Any, Any, Any]] = {
    "nll": (NegativeLogLikelihood(class_weights=WEIGHTS), LOG_P, ONE_HOT, lambda torch, F, x, t: _torch_nll(F, x, t)),
    "bce": (
        BinaryCrossEntropy(inputs="probabilities", clip=None, class_weights=WEIGHTS),
        P,
        SOFT_LAST,
        lambda torch, F, x, t: F.binary_cross_entropy(x, t, weight=t.new_tensor(WEIGHTS)),
    ),
    "bce_clip": (
        BinaryCrossEntropy(inputs="probabilities", clip=2.0**-4, pos_weight=WEIGHTS, label_smoothing=0.25),
        P,
        SOFT_LAST,
        lambda torch, F, x, t: -(
            x.new_tensor(WEIGHTS) * (0.75 * t + 0.125) * x.clamp(2**-4, 1 - 2**-4).log()
            + (0.875 - 0.75 * t) * (1 - x.clamp(2**-4, 1 - 2**-4)).log()
        ).mean(),
    ),
    "ce_before": (
        CrossEntropy(inputs="probabilities", clip=2.0**-4, class_weights=WEIGHTS, normalizer="valid"),
        3 * P,
        SOFT_LAST,
        lambda torch, F, x, t: -(
            (x / x.sum(-1, keepdim=True)).clamp(2**-4, 1 - 2**-4).log() * t * t.new_tensor(WEIGHTS)
        ).sum(-1).mean(),
    ),
    "ce_after": (
        CrossEntropy(inputs="probabilities", clip=2.0**-4, renormalize="after", label_smoothing=0.5),
        P,
        SOFT_LAST,
        lambda torch, F, x, t: -(
            (x.clamp(2**-4, 1 - 2**-4) / x.clamp(2**-4, 1 - 2**-4).sum(-1, keepdim=True)).log() * (t / 2 + 0.125)
        ).sum(-1).mean(),
    ),
    "ce_never": (
        CrossEntropy(inputs="probabilities", clip=2.0**-4, renormalize="never"),
        P,
        SOFT_LAST,
        lambda torch, F, x, t: -(x.clamp(2**-4, 1 - 2**-4).log() * t).sum(-1).mean(),
    ),
    "focal": (
        Focal(gamma=1.5, alpha=WEIGHTS, label_smoothing=0.5),
        X,
        SOFT_LAST,
        lambda torch, F, x, t: -(
            t.new_tensor(WEIGHTS) * (1 - x.softmax(-1)) ** 1.5 * (t / 2 + 0.125) * x.log_softmax(-1)
        ).sum(-1).mean(),
    ),
    "focal_mean": (
        Focal(gamma=0, channels="mean"),
        X,
        SOFT_LAST,
        lambda torch, F, x, t: F.cross_entropy(x.movedim(-1, 1), t.movedim(-1, 1)) / CLASSES,
    ),
    "binary_focal": (
        BinaryFocal(gamma=2, alpha=0.25, class_weights=WEIGHTS),
        X,
        BITS,
        lambda torch, F, x, t: (
            x.new_tensor(WEIGHTS)
            * torch.where(t == 1, 0.25 * (1 - x.sigmoid()) ** 2, 0.75 * x.sigmoid() ** 2)
            * F.binary_cross_entropy_with_logits(x, t, reduction="none")
        ).mean(),
    ),
    "kl": (
        KLDivergence(inputs="log_probabilities", normalizer="batch"),
        LOG_P,
        SOFT_LAST,
        lambda torch, F, x, t: F.kl_div(x, t, reduction="batchmean"),
    ),
    "kl_log": (
        KLDivergence(channels="mean", log_target=True),
        X,
        np.log(SOFT_LAST),
        lambda torch, F, x, t: F.kl_div(x.log_softmax(-1), t, log_target=True, reduction="none").mean(),
    ),
    "poisson": (Poisson(full=True), X, COUNTS, lambda torch, F, x, t: F.poisson_nll_loss(x, t, full=True)),
    "poisson_rate": (
        Poisson(inputs="rate", epsilon=2.0**-7),
        P,
        COUNTS,
        lambda torch, F, x, t: F.poisson_nll_loss(x, t, log_input=False, eps=2**-7),
    ),
    "l1": (MeanAbsoluteError(), X, OTHER, lambda torch, F, x, t: F.l1_loss(x, t)),
    "l1_sum_of_channels": (MeanAbsoluteError(channels="sum"), X, OTHER, lambda torch, F, x, t: 4 * F.l1_loss(x, t)),
    "smooth_l1": (SmoothL1(beta=1.5), X, OTHER, lambda torch, F, x, t: F.smooth_l1_loss(x, t, beta=1.5)),
    "smooth_l1_0": (SmoothL1(beta=0), X, OTHER, lambda torch, F, x, t: F.l1_loss(x, t)),
    "quantile": (
        Quantile(quantile=0.75),
        X,
        OTHER,
        lambda torch, F, x, t: torch.where(t >= x, 0.75 * (t - x), 0.25 * (x - t)).mean(),
    ),
    "charbonnier": (
        Charbonnier(epsilon=0.25),
        X,
        OTHER,
        lambda torch, F, x, t: ((x - t) ** 2 + 0.0625).sqrt().mean(),
    ),
    "log_cosh": (LogCosh(), X, OTHER, lambda torch, F, x, t: (x - t).cosh().log().mean()),
    "cosine": (CosineSimilarity(), X, OTHER, lambda torch, F, x, t: -F.cosine_similarity(x, t, dim=-1).mean()),
    "cosine_distance": (
        CosineSimilarity(form="distance"),
        X,
        OTHER,
        lambda torch, F, x, t: 1 - F.cosine_similarity(x, t, dim=-1).mean(),
    ),
    "cosine_short": (
        CosineSimilarity(form="distance", epsilon=4.0),
        X,
        OTHER,
        lambda torch, F, x, t: 1
        - ((x * t).sum(-1) / ((x * x).sum(-1).clamp(min=4) * (t * t).sum(-1).clamp(min=4)).sqrt()).mean(),
    ),
    "variation": (
        TotalVariation(channels="sum", normalizer="batch"),
        X,
        OTHER,
        lambda torch, F, x, t: (x.diff(dim=1).abs().sum() + x.diff(dim=2).abs().sum()) / 2,
    ),
    "distances": (
        DistanceMap(target="distances"),
        X,
        OTHER,
        lambda torch, F, x, t: (x.softmax(-1) * t).mean(),
    ),
    "distances_sigmoid": (
        DistanceMap(target="distances", activation="sigmoid"),
        X,
        OTHER,
        lambda torch, F, x, t: (x.sigmoid() * t).mean(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_TORCH)
def test_a_term_by_torch(name: str) -> None:
    """PyTorch's function, or the formula of the docstring differentiated by autograd."""
    spec, x, target, formula = BY_TORCH[name]
    found = evaluate(spec, x, target)
    close(found, *by_torch(lambda torch, F, leaf: formula(torch, F, leaf, torch.tensor(target)), x))


INEXACT = {"poisson": 1e-11, "log_cosh": 1e-8}
"""Where Keras differs more: its epsilon is float64's 1e-7, its log 2 that of float32."""

BY_KERAS: dict[str, tuple[Spec, Any, Any, str, dict[str, Any]]] = {
    "ce": (CrossEntropy(inputs="probabilities"), P, SOFT_LAST, "categorical_crossentropy", {}),
    "bce": (
        BinaryCrossEntropy(inputs="probabilities", label_smoothing=0.25),
        P,
        SOFT_LAST,
        "binary_crossentropy",
        {"label_smoothing": 0.25},
    ),
    "focal": (
        Focal(inputs="probabilities", gamma=3, alpha=0.25),
        P,
        SOFT_LAST,
        "categorical_focal_crossentropy",
        {"gamma": 3.0, "alpha": 0.25},
    ),
    "focal_logits": (
        Focal(alpha=0.25, clip_softmax=True),
        X,
        SOFT_LAST,
        "categorical_focal_crossentropy",
        {"from_logits": True},
    ),
    "binary_focal": (
        BinaryFocal(inputs="probabilities", gamma=3, alpha=0.25),
        P,
        SOFT_LAST,
        "binary_focal_crossentropy",
        {"gamma": 3.0, "apply_class_balancing": True},
    ),
    "kl": (KLDivergence(inputs="probabilities"), P, SOFT_LAST, "kl_divergence", {}),
    "poisson": (Poisson(inputs="rate"), P, COUNTS, "poisson", {}),
    "hinge": (Hinge(), X, BITS, "hinge", {}),
    "squared_hinge": (SquaredHinge(), X, BITS, "squared_hinge", {}),
    "categorical_hinge": (CategoricalHinge(), X, ONE_HOT, "categorical_hinge", {}),
    "categorical_hinge_soft": (CategoricalHinge(), X, SOFT_LAST, "categorical_hinge", {}),
    "percentage": (MeanAbsolutePercentageError(), X, OTHER, "mean_absolute_percentage_error", {}),
    "logarithmic": (MeanSquaredLogarithmicError(), X, OTHER, "mean_squared_logarithmic_error", {}),
    "log_cosh": (LogCosh(), X, OTHER, "log_cosh", {}),
    "cosine": (CosineSimilarity(), X, OTHER, "cosine_similarity", {}),
    "dice": (Dice(activation="none", per_class=False, smooth_denominator=1e-7), P, SOFT_LAST, "dice", {}),
    "tversky": (
        Tversky(activation="none", per_class=False, smooth_denominator=1e-7, alpha=0.75, beta=0.25),
        P,
        SOFT_LAST,
        "tversky",
        {"alpha": 0.25, "beta": 0.75},  # the weights of false negatives and of false positives there
    ),
}


@pytest.mark.parametrize("name", BY_KERAS)
def test_a_term_by_keras(name: str) -> None:
    """`keras.losses` in float64."""
    spec, x, target, function, options = BY_KERAS[name]
    wanted = by_keras(lambda tf, losses, leaf: getattr(losses, function)(tf.constant(target), leaf, **options), x)
    close(evaluate(spec, x, target), *wanted, tolerance=INEXACT.get(name, 1e-12))


def test_total_variation_by_tensorflow() -> None:
    """`tf.image.total_variation` of each sample."""
    tf = pytest.importorskip("tensorflow")
    found = evaluate(TotalVariation(channels="sum", normalizer="batch"), X, OTHER)
    assert found.loss == pytest.approx(tf.image.total_variation(tf.constant(X)).numpy().mean(), rel=1e-14)


# --- Regions ---


def _activated(torch: Any, activation: str, x: Any) -> Any:
    return {"softmax": x.softmax(-1), "sigmoid": x.sigmoid(), "none": x}[activation]


def _sums(term: Any, torch: Any, x: Any, t: Any, s: Any) -> Any:
    """`I`, `P`, `T` of every group, as the docstrings have them."""
    p = _activated(torch, term.activation, x)
    axes = ([] if term.per_sample else [0]) + [1, 2]
    chosen = list(term.counted(CLASSES))
    overlap = torch.minimum(p, t) if term.overlap == "minimum" else p * t
    power = 2 if term.squared else 1
    parts = [(s[..., None] * v)[..., chosen].sum(axes) for v in (overlap, p**power, t**power)]
    return parts if term.per_class else [v.sum(-1) for v in parts]


def _score(term: Any, torch: Any, x: Any, t: Any, s: Any) -> Any:
    i, p, t = _sums(term, torch, x, t, s)
    more = term.smooth if term.smooth_denominator is None else term.smooth_denominator
    if isinstance(term, Dice):
        return (2 * i + term.smooth) / (p + t + more).clamp(min=term.epsilon)
    a, b = (1, 1) if isinstance(term, Jaccard) else (term.alpha, term.beta)
    return (i + term.smooth) / (i + a * (p - i) + b * (t - i) + more).clamp(min=term.epsilon)


_SOME = {"smooth": 1.0, "smooth_denominator": 0.5, "classes": (0, 2, 3), "background": False}
REGIONS: list[Any] = [
    Dice(),
    Dice(squared=True, per_sample=True, activation="sigmoid"),
    Dice(per_class=False, log=True, **_SOME),  # type: ignore[arg-type]
    Dice(activation="none", overlap="minimum", class_weights=WEIGHTS),
    Jaccard(log=True, per_sample=True),
    Jaccard(squared=True, per_class=False, per_sample=True, background=False),
    Jaccard(overlap="minimum", **_SOME),  # type: ignore[arg-type]
    Tversky(alpha=0.25, beta=2, squared=True, class_weights=WEIGHTS),
    Tversky(alpha=2, beta=0.25, overlap="minimum", activation="sigmoid", per_sample=True),
    FocalTversky(gamma=0.75, alpha=0.25, beta=0.5),
    FocalTversky(gamma=2, per_sample=True, class_weights=WEIGHTS, power_of_mean=True),
    FocalTversky(gamma=1.5, log=True, smooth=0.125),
]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("term", REGIONS, ids=repr)
def test_regions_by_torch(term: Any, reduction: Any) -> None:
    """The docstring's formulas by autograd, with sample weights of which some are 0."""
    x = P if term.activation == "none" else X
    weight = np.where(LABELS == 1, 0.0, 0.25 * (1 + LABELS))

    def formula(torch: Any, F: Any, leaf: Any) -> Any:
        score = _score(term, torch, leaf, torch.tensor(SOFT_LAST), torch.tensor(weight))
        loss = -score.log() if term.log else 1 - score
        if isinstance(term, FocalTversky) and not term.power_of_mean:
            loss = loss**term.gamma
        if term.class_weights is not None:
            loss = loss * loss.new_tensor(WEIGHTS)[list(term.counted(CLASSES))]
        loss = loss.mean() if reduction == "mean" else loss.sum()
        return loss**term.gamma if isinstance(term, FocalTversky) and term.power_of_mean else loss

    found = evaluate(term, x, SOFT_LAST, sample_weight=weight, reduction=reduction)
    close(found, *by_torch(formula, x), tolerance=1e-7 if isinstance(term, FocalTversky) else 1e-12)


def test_regions_without_target() -> None:
    """A class that does not occur: kept, 0, or out of the mean; with its gradient."""
    labels = np.where(LABELS == 2, 0, LABELS)
    kept, zero, gone = (evaluate(Dice(empty_class=rule), X, labels) for rule in ("keep", "zero", "exclude"))
    rows = [evaluate(Dice(classes=(c,)), X, labels).loss for c in range(CLASSES)]
    assert rows[2] == 1.0  # nothing of it is right, whatever the probabilities
    assert kept.loss == pytest.approx(np.mean(rows), rel=1e-14)
    assert zero.loss == pytest.approx((sum(rows) - 1) / 4, rel=1e-14)
    assert gone.loss == pytest.approx((sum(rows) - 1) / 3, rel=1e-14)
    np.testing.assert_allclose(gone.gradient, 4 / 3 * zero.gradient, rtol=1e-14)
    for rule in ("zero", "exclude"):
        nothing = evaluate(Dice(empty_class=rule, classes=(2,)), X, labels)
        assert nothing.loss == 0 and not nothing.gradient.any()
    smooth = evaluate(Dice(smooth=1.0, classes=(2,)), X, labels)
    assert smooth.loss < 1 and smooth.gradient.any()


def test_regions_at_small_denominators() -> None:
    """Below epsilon the denominator is a constant; a denominator of 0 is a score of 0."""
    x, t = np.full((1, 2, 1), 0.125), np.full((1, 2, 1), 0.25)
    low = evaluate(Dice(activation="none", epsilon=1.0), x, t)
    assert low.loss == 1 - 0.125
    np.testing.assert_array_equal(low.gradient, -2 * t)
    cut = evaluate(Dice(activation="none", epsilon=1.0, log=True), x, t)
    assert cut.loss == 0  # -log(max(score, 1))
    assert not cut.gradient.any()
    none = evaluate(Jaccard(activation="none", epsilon=0), 0 * x, 0 * t)
    assert none.loss == 1 and not none.gradient.any()


def test_regions_that_agree_to_the_last_bit() -> None:
    """`1 - score` where the score would round to 1."""
    for distance in (20.0, 60.0):
        x = np.array([[[distance, 0.0], [0.0, distance]]])
        small = math.exp(-distance) / (1 + math.exp(-distance))
        found = evaluate(Dice(), x, np.array([[0, 1]]))
        assert found.loss == pytest.approx(small, rel=1e-15)
        assert evaluate(Jaccard(log=True), x, np.array([[0, 1]])).loss == pytest.approx(2 * small, rel=1e-8)
        assert evaluate(Dice(squared=True), x, np.array([[0, 1]])).loss == pytest.approx(small**2, rel=1e-8)


def test_regions_know_ties_of_the_minimum() -> None:
    """Where prediction and target agree, half of either side's derivative."""
    x = np.array([[[0.5], [0.25]]])
    found = evaluate(Dice(activation="none", overlap="minimum"), x, np.array([[[0.5], [1.0]]]))
    # I = 0.75, P + T = 2.25: the score's derivative is (2 d - score) / 2.25, d = 1/2 at the tie and 1 below.
    score = 1.5 / 2.25
    np.testing.assert_allclose(found.gradient.ravel(), [-(1 - score) / 2.25, -(2 - score) / 2.25], rtol=1e-14)


# --- Lovász ---


def test_lovasz_of_decisions_is_the_jaccard_loss() -> None:
    """The extension agrees with the set function where every error is 0 or 1."""
    answers = rng().integers(0, CLASSES, LABELS.shape)
    hard = np.eye(CLASSES)[answers]
    truth = ONE_HOT.astype(bool)
    both, either = ((f(hard == 1, truth)).sum((0, 1, 2)) for f in (np.logical_and, np.logical_or))
    expected = 1 - both / either
    found = evaluate(Lovasz(activation="none"), hard, LABELS)
    assert found.loss == pytest.approx(np.mean(expected), rel=1e-14)


@pytest.mark.parametrize("activation", ["softmax", "none", "hinge"])
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("classes", ["present", "all"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_lovasz_by_torch(activation: Any, per_sample: bool, classes: Any, reduction: Any) -> None:
    """The docstring's sum over the sorted errors, by autograd; one class does not occur, some labels are ignored."""
    labels = np.where(LABELS == 1, 0, SOME_IGNORED)
    labels[0] = np.where(labels[0] == 2, 3, labels[0])
    x = P if activation == "none" else X

    def group(torch: Any, errors: Any, truth: Any) -> Any:
        order = errors.argsort(descending=True)
        came = truth[order].double()
        jaccard = 1 - (came.sum() - came.cumsum(0)) / (came.sum() + (1 - came).cumsum(0))
        return errors[order] @ torch.diff(jaccard, prepend=jaccard.new_zeros(1))

    def formula(torch: Any, F: Any, leaf: Any) -> Any:
        wanted = torch.tensor(labels)
        means = []
        for b in [[0], [1]] if per_sample else [[0, 1]]:
            kept = wanted[b] != IGNORED
            losses = []
            for c in range(CLASSES):
                truth = (wanted[b] == c)[kept]
                value = (leaf.softmax(-1) if activation == "softmax" else leaf)[b][..., c][kept]
                target = truth.double()
                errors = (1 - (2 * target - 1) * value).relu() if activation == "hinge" else (target - value).abs()
                if truth.any() or classes == "all":
                    losses.append(group(torch, errors, truth))
            means.append(torch.stack(losses).mean())
        total = torch.stack(means)
        return total.mean() if reduction == "mean" else total.sum()

    spec = Lovasz(activation=activation, per_sample=per_sample, classes=classes, ignore_index=IGNORED)
    close(evaluate(spec, x, labels, reduction=reduction), *by_torch(formula, x))


def test_lovasz_of_equal_errors_and_none() -> None:
    """Ties in the order of the positions; an error of 0 has no gradient; nothing present is 0."""
    x = np.full((1, 3, 1), 0.5)
    labels = np.array([[[1.0], [0.0], [1.0]]])
    found = evaluate(Lovasz(activation="none"), x, labels)
    assert found.loss == 0.5
    # J after 1, 2, 3 errors: 1/2, 2/3, 1.
    np.testing.assert_allclose(found.gradient.ravel(), [-1 / 2, 1 / 6, -1 / 3], rtol=1e-14)
    right = evaluate(Lovasz(activation="none"), labels, labels)
    assert right.loss == 0 and not right.gradient.any()
    nothing = evaluate(Lovasz(activation="none"), x, 0 * labels)
    assert nothing.loss == 0 and not nothing.gradient.any()
    counted = evaluate(Lovasz(activation="none", classes="all"), x, 0 * labels)
    assert counted.loss == 0.5  # the largest error alone
    np.testing.assert_array_equal(counted.gradient.ravel(), [1.0, 0.0, 0.0])
    for per_sample in (False, True):
        for classes in ("present", "all"):
            empty = evaluate(Lovasz(per_sample=per_sample, classes=classes), X[:0], LABELS[:0])
            assert empty.loss == 0 and empty.gradient.shape == X[:0].shape


def test_lovasz_of_infinite_errors() -> None:
    """They come first, NaN before them; one that adds nothing to the Jaccard loss counts nothing."""
    x, labels = np.array([[[-math.inf], [0.0], [math.inf]]]), np.array([[[1.0], [0.0], [1.0]]])
    found = evaluate(Lovasz(activation="hinge"), x, labels)
    assert found.loss == math.inf
    np.testing.assert_allclose(found.gradient.ravel(), [-1 / 2, 1 / 6, 0], rtol=1e-14)  # the last error is 0
    useless = evaluate(Lovasz(activation="hinge", classes="all"), [[[math.inf], [math.inf]]], np.zeros((1, 2, 1)))
    assert useless.loss == math.inf
    np.testing.assert_array_equal(useless.gradient.ravel(), [1.0, 0.0])
    unknown = evaluate(Lovasz(activation="none"), [[[math.inf], [math.nan]]], np.array([[[0.0], [1.0]]]))
    assert math.isnan(unknown.loss)
    np.testing.assert_allclose(unknown.gradient.ravel(), [0.0, math.nan])  # after the first the loss is 1


def test_lovasz_beyond_probabilities() -> None:
    """An input outside [0, 1] has an absolute error like any other."""
    found = evaluate(Lovasz(activation="none"), [[[1.5], [-0.25]]], np.array([[[1.0], [0.0]]]))
    # Errors 1/2 and 1/4; J after them: 1, 1.
    assert found.loss == 0.5
    np.testing.assert_array_equal(found.gradient.ravel(), [1.0, 0.0])


# --- Segmentation ---


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("on", ["logits", "probabilities"])
def test_sobel_is_a_convolution(axes: int, padding: Any, on: Any) -> None:
    """A difference along each axis, smoothed along the others."""
    x, target = rng().normal(size=(2, 2, *(4, 3, 5)[:axes], CLASSES))
    mode = {"zeros": "constant"}.get(padding, padding)
    kernels = []
    for axis in range(axes):
        kernel = np.ones(())
        for a in range(axes):
            kernel = np.multiply.outer(kernel, [-1.0, 0.0, 1.0] if a == axis else [1.0, 2.0, 1.0])
        kernels.append(kernel)

    def formula(torch: Any, F: Any, leaf: Any) -> Any:
        def edges(u: Any) -> Any:
            u = u.movedim(-1, 1)
            u = F.pad(u.reshape(-1, 1, *u.shape[2:]), [1, 1] * axes, mode=mode)
            return getattr(F, f"conv{axes}d")(u, torch.tensor(np.array(kernels))[:, None])

        q = leaf if on == "logits" else leaf.softmax(-1)
        return (edges(q) - edges(torch.tensor(target))).square().sum(1).mean()

    close(evaluate(Boundary(kernel="sobel", on=on, padding=padding), x, target), *by_torch(formula, x))


def test_sobel_does_not_see_the_centre() -> None:
    """A Laplacian does."""
    x = np.array([[[0.0], [1.0], [math.nan], [3.0], [5.0]]])
    found = evaluate(Boundary(kernel="sobel"), x, 0 * np.nan_to_num(x), reduction="none")
    np.testing.assert_array_equal(np.isnan(found.loss), [[False, True, False, True, False]])
    found = evaluate(Boundary(), x, 0 * np.nan_to_num(x), reduction="none")
    np.testing.assert_array_equal(np.isnan(found.loss), [[False, True, True, True, False]])


@pytest.mark.parametrize("size", [(9,), (6, 7), (6, 5, 7)], ids=str)
def test_ssim_by_convolution(size: tuple[int, ...]) -> None:
    """The docstring's formula on the positions whose window lies inside; the weights are rounded to float32."""
    spec = SSIM(window=5, sigma=1.25, data_range=2)
    x, target = rng().normal(size=(2, 2, *size, 3))
    heights = np.exp(-(np.arange(-2, 3) ** 2) / (2 * 1.25**2))
    line = (heights / heights.sum()).astype(np.float32).astype(np.float64)
    c1, c2 = (float(np.float32((k * 2) ** 2)) for k in (0.01, 0.03))

    def formula(torch: Any, F: Any, leaf: Any) -> Any:
        window = torch.ones((), dtype=leaf.dtype)
        for _ in size:
            window = torch.tensordot(window, torch.tensor(line), 0)

        def mean(u: Any) -> Any:
            u = u.movedim(-1, 1)
            return getattr(F, f"conv{len(size)}d")(u.reshape(-1, 1, *size), window[None, None])

        t = torch.tensor(target)
        mx, mt = mean(leaf), mean(t)
        sx, st, sxt = mean(leaf * leaf) - mx**2, mean(t * t) - mt**2, mean(leaf * t) - mx * mt
        ssim = (2 * mx * mt + c1) * (2 * sxt + c2) / ((mx**2 + mt**2 + c1) * (sx + st + c2))
        return 1 - ssim.mean()

    close(evaluate(spec, x, target), *by_torch(formula, x), tolerance=1e-12)


def test_ssim_counts_whole_windows() -> None:
    """Inside the image, without an invalid position; what stands there is seen nowhere."""
    x, target = rng().normal(size=(2, 1, 7, 8, 1))
    mask = np.ones((1, 7, 8), bool)
    found = evaluate(SSIM(window=3), x, target, sample_weight=mask, reduction="none").loss
    assert np.count_nonzero(found) == 5 * 6
    mask[0, 1, 1] = False
    x[0, 1, 1] = math.nan
    result = evaluate(SSIM(window=3), x, target, sample_weight=mask, reduction="none")
    assert np.count_nonzero(result.loss) == 5 * 6 - 4 and np.isfinite(result.gradient).all()
    assert result.gradient[0, 1, 1] == 0
    assert evaluate(SSIM(window=9), x, target).loss == 0  # no window fits


def test_ssim_of_near_images() -> None:
    """An image and the image brighter by d: no variance, `1 - ssim = d^2 / (x^2 + t^2 + c1)`."""
    t = np.full((1, 12, 12, 1), 0.5)
    for d in (2.0**-3, 2.0**-20, 2.0**-40):
        found = evaluate(SSIM(), t + d, t)
        total = evaluate(MeanSquaredError(), t, 0 * t).loss  # 1/4, and the sum of the weights is almost 1
        assert found.loss == pytest.approx(d * d / ((0.5 + d) ** 2 + total + 1e-4), rel=1e-5)
    assert evaluate(SSIM(), t, t).loss == 0


@pytest.mark.parametrize("size", [(9,), (5, 4), (3, 4, 3)], ids=str)
def test_signed_distances_by_search(size: tuple[int, ...]) -> None:
    """Every pair of positions; all of one class, or none of it, is 0; ignored positions are outside."""
    labels = rng().integers(0, 3, (3, *size))
    labels[1] = 1
    labels.flat[0] = IGNORED
    x = rng().normal(size=(*labels.shape, 4))
    places = np.indices(size).reshape(len(size), -1)
    apart = np.sqrt(((places[:, :, None] - places[:, None]) ** 2).sum(0))
    expected = np.zeros((3, math.prod(size), 4))
    for b, c in np.ndindex(3, 4):
        inside = labels[b].ravel() == c
        if inside.any() and not inside.all():
            out = np.where(inside[None], apart, np.inf).min(1)
            into = np.where(inside[None], np.inf, apart).min(1)
            expected[b, :, c] = np.where(inside, 1 - into, out)
    p = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    value = (p * expected.reshape(x.shape)).mean(-1)[labels != IGNORED].mean()
    spec = DistanceMap(ignore_index=IGNORED)
    assert evaluate(spec, x, labels).loss == pytest.approx(value, rel=1e-7)  # the distances are float32's
    known = evaluate(DistanceMap(target="distances"), x, expected.reshape(x.shape).astype(np.float32))
    found = evaluate(DistanceMap(), x, np.where(labels == IGNORED, 3, labels))
    assert known.loss != found.loss  # the ignored position is of class 3 here


def test_total_variation_of_valid_pairs() -> None:
    """A difference counts where both positions are valid; equal neighbours have no gradient."""
    x = np.array([[[1.0], [3.0], [3.0], [0.0], [7.0]]])
    mask = np.array([[True, True, True, True, False]])
    found = evaluate(TotalVariation(), x, 0 * x, sample_weight=mask, reduction="none")
    np.testing.assert_array_equal(found.loss, [[2.0, 0.0, 3.0, 0.0, 0.0]])
    np.testing.assert_array_equal(found.gradient.ravel(), [-1.0, 1.0, 1.0, -1.0, 0.0])


# --- Penalties ---


def test_penalties() -> None:
    """Of all arrays together."""
    w = [np.array([[1.5, -2.0], [0.0, 0.25]]), np.array(-3.0), np.zeros((0, 2))]
    found = evaluate_penalty(0.5 * L1() + 2 * L2(), w, upstream=3.0)
    assert found.terms == {"l1": 6.75, "l2": 15.3125} and found.loss == 0.5 * 6.75 + 2 * 15.3125
    assert [g.shape for g in found.gradients] == [(2, 2), (), (0, 2)]
    np.testing.assert_array_equal(found.gradients[0], 1.5 * np.sign(w[0]) + 12 * w[0])
    assert found.gradients[1] == -1.5 - 36
    assert evaluate_penalty(0.1 * L2(), [[1.0]]).loss == float(np.float32(0.1))
    assert evaluate_penalty(L2(), []).loss == 0


# --- Central differences for every term ---

DENSE = {
    "logits": X,
    "probabilities": 0.9 * P + 0.025,  # away from 0, where differences say little
    "positive": 3 * P + 0.1,
    "log": LOG_P,
}
DIFFERENCES: list[tuple[Spec, str, Any]] = [
    (CrossEntropy(class_weights=WEIGHTS, label_smoothing=0.25), "logits", SOFT_LAST),
    (CrossEntropy(inputs="probabilities", class_weights=WEIGHTS), "positive", SOFT_LAST),
    (CrossEntropy(inputs="probabilities", renormalize="after"), "probabilities", SOFT_LAST),
    (NegativeLogLikelihood(class_weights=WEIGHTS), "log", SOFT_LAST),
    (BinaryCrossEntropy(class_weights=WEIGHTS, pos_weight=2, channels="sum"), "logits", SOFT_LAST),
    (BinaryCrossEntropy(inputs="probabilities", clip=None, label_smoothing=0.5), "probabilities", SOFT_LAST),
    (Focal(gamma=0.5, alpha=0.25, channels="mean"), "logits", SOFT_LAST),
    (Focal(gamma=2, clip_softmax=True, clip=2.0**-6), "logits", SOFT_LAST),
    (Focal(gamma=3.5, inputs="probabilities"), "positive", SOFT_LAST),
    (Focal(gamma=1, inputs="probabilities", renormalize=False, alpha=WEIGHTS), "probabilities", SOFT_LAST),
    (BinaryFocal(gamma=1.5, alpha=0.25, label_smoothing=0.25), "logits", SOFT_LAST),
    (BinaryFocal(gamma=0.5, inputs="probabilities", class_weights=WEIGHTS), "probabilities", SOFT_LAST),
    (KLDivergence(log_target=True), "logits", LOG_P),
    (KLDivergence(inputs="probabilities"), "probabilities", SOFT_LAST),
    (Poisson(full=True, channels="sum"), "logits", COUNTS),
    (Poisson(inputs="rate"), "positive", COUNTS),
    (SquaredHinge(), "logits", BITS),
    (MeanAbsolutePercentageError(), "logits", OTHER),
    (MeanSquaredLogarithmicError(epsilon=0.25), "positive", OTHER),
    (SmoothL1(beta=0.5, channels="sum"), "logits", OTHER),
    (LogCosh(), "logits", OTHER),
    (CosineSimilarity(form="distance", epsilon=3), "logits", OTHER),
    (Quantile(quantile=0.3), "logits", OTHER),
    (Boundary(kernel="sobel", on="probabilities", padding="reflect", channels="sum"), "logits", SOFT_LAST),
    (DistanceMap(target="distances", activation="sigmoid"), "logits", OTHER),
    (SSIM(window=3, data_range=2, channels="sum"), "logits", OTHER),
    (TotalVariation(channels="sum"), "logits", OTHER),
    *[(term, "probabilities" if term.activation == "none" else "logits", SOFT_LAST) for term in REGIONS],
    (
        Dice(activation="sigmoid", empty_class="exclude", smooth=0.5),
        "logits",
        np.where(np.arange(CLASSES) == 2, 0, ONE_HOT),
    ),
    (Lovasz(), "logits", ONE_HOT),
    (Lovasz(activation="hinge", per_sample=True), "logits", BITS),
]


@pytest.mark.parametrize(
    ("spec", "inputs", "target"), DIFFERENCES, ids=lambda v: repr(v) if isinstance(v, Spec) else ""
)
def test_gradients_by_differences(spec: Spec, inputs: str, target: Any) -> None:
    """Along random directions, with a mask and an upstream gradient, and with weights where they are taken."""
    x = DENSE[inputs]
    whole = any(not term.has_map for _, term in spec.parts)
    weight: Any = rng().random(LABELS.shape) < 0.9
    if not isinstance(spec, Lovasz):
        weight = weight * rng().random(LABELS.shape)
    reduction: Any = "mean" if whole else "none"
    upstream: Any = 3.0 if whole else rng().normal(size=LABELS.shape)
    found = evaluate(spec, x, target, sample_weight=weight, reduction=reduction, upstream=upstream)

    def value(moved: Any) -> Any:
        result = evaluate(spec, moved, target, sample_weight=weight, reduction=reduction)
        return np.sum(result.loss * upstream)

    assert found.gradient.any()
    for _ in range(3):
        direction = RNG.normal(size=x.shape) * 1e-6
        slope = (value(x + direction) - value(x - direction)) / 2
        assert slope == pytest.approx((found.gradient * direction).sum(), rel=2e-6, abs=1e-15)


# --- Normalisers ---


def test_normalisers() -> None:
    """What a mean divides by; with weights, a mask, and class weights."""
    total = evaluate(MeanSquaredError(), X, OTHER, reduction="sum").loss
    sizes = {"valid": 60, "elements": 60, "batch": 2, "sample_weights": 60, "one": 1}
    for name, size in sizes.items():
        found = evaluate(MeanSquaredError(normalizer=name), X, OTHER)  # type: ignore[arg-type]
        assert found.loss == pytest.approx(total / size, rel=1e-15)
    mask = SOME_IGNORED != IGNORED
    total = evaluate(MeanSquaredError(), X, OTHER, sample_weight=mask, reduction="sum").loss
    for name, size in (sizes | {"valid": mask.sum(), "sample_weights": mask.sum()}).items():
        found = evaluate(MeanSquaredError(normalizer=name), X, OTHER, sample_weight=mask)
        assert found.loss == pytest.approx(total / size, rel=1e-15)
    weight = np.array([0.5, 3.0])
    spec = CrossEntropy(class_weights=WEIGHTS, ignore_index=IGNORED, normalizer="sample_weights")
    total = evaluate(spec, X, SOME_IGNORED, sample_weight=weight, reduction="sum").loss
    size = 0.5 * mask[0].sum() + 3 * mask[1].sum()
    assert evaluate(spec, X, SOME_IGNORED, sample_weight=weight).loss == pytest.approx(total / size, rel=1e-15)
    assert evaluate(MeanSquaredError(normalizer="batch"), X[:, :0], OTHER[:, :0]).loss == 0


def test_an_empty_mean_can_be_nan() -> None:
    """Its gradient is 0 even so; a sum is 0."""
    nothing = np.zeros(LABELS.shape, bool)
    for normalizer in ("valid", "sample_weights"):
        spec = MeanSquaredError(empty="nan", normalizer=normalizer)
        found = evaluate(spec, X, OTHER, sample_weight=nothing)
        assert math.isnan(found.loss) and not found.gradient.any()
        assert evaluate(spec, X, OTHER, sample_weight=nothing, reduction="sum").loss == 0
    for normalizer in ("one", "elements"):
        spec = MeanSquaredError(empty="nan", normalizer=normalizer)  # type: ignore[arg-type]
        assert evaluate(spec, X, OTHER, sample_weight=nothing).loss == 0


# --- Edges ---


def test_clipped_probabilities() -> None:
    """At 0 and 1 the value is that of the clip, and the gradient 0; the clip itself is inside."""
    spec = BinaryCrossEntropy(inputs="probabilities", clip=KAPPA)
    x, t = [0.0, 1.0, KAPPA, 1 - KAPPA], [1.0, 0.0, 1.0, 1.0]
    found = evaluate(spec, x, t, reduction="none")
    np.testing.assert_allclose(found.loss, -np.log([KAPPA] * 3 + [1 - KAPPA]), rtol=1e-15)
    np.testing.assert_allclose(found.gradient, [0, 0, -1 / KAPPA, -1 / (1 - KAPPA)], rtol=1e-15)
    free = evaluate(BinaryCrossEntropy(inputs="probabilities", clip=None), x, t, reduction="none")
    np.testing.assert_array_equal(free.loss[:2], [100, 100])
    np.testing.assert_allclose(free.gradient[:2], [-1 / LEAST, 1 / LEAST], rtol=1e-15)
    for off in (-0.5, 1.5, math.nan):
        assert np.isnan(evaluate(BinaryCrossEntropy(inputs="probabilities", clip=None), [off], [1.0]).loss)
    one = evaluate(CrossEntropy(inputs="probabilities", clip=KAPPA), [[0.0, 1.0]], [0])
    assert one.loss == pytest.approx(-math.log(KAPPA), rel=1e-15) and not one.gradient.any()
    low = evaluate(KLDivergence(inputs="probabilities", clip=KAPPA), [[0.0, 1.0]], [[0.5, 0.5]])
    np.testing.assert_array_equal(low.gradient, [[0.0, -0.5]])
    for row in ([0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0]):
        assert np.isnan(evaluate(CrossEntropy(inputs="probabilities"), [row], [0]).gradient).all()
    assert evaluate(CrossEntropy(inputs="probabilities", renormalize="never"), [[0.0, 0.0]], [0]).loss > 16


def test_focal_at_certainty() -> None:
    """p = 1 and p = 0 are limits, not 0 times infinity."""
    for gamma in (0.0, 0.5, 1.0, 2.0):
        right = evaluate(Focal(gamma=gamma), [[0.0, -math.inf]], [0])
        assert right.loss == 0 and not right.gradient.any()
        wrong = evaluate(Focal(gamma=gamma), [[0.0, -math.inf]], [1])
        assert wrong.loss == math.inf
        np.testing.assert_array_equal(wrong.gradient, [[1.0, -1.0]])
        x = [math.inf, -math.inf, math.inf]
        found = evaluate(BinaryFocal(gamma=gamma), x, [1.0, 1.0, 0.5], reduction="none")
        np.testing.assert_array_equal(found.loss, [0.0, math.inf, math.inf])
        np.testing.assert_array_equal(found.gradient, [0.0, -1.0, 0.5 * 0.5**gamma])
    assert evaluate(BinaryFocal(alpha=1), [math.inf], [0.0]).loss == 0  # a = 0


def test_ignored_values() -> None:
    """Elements whose target is the value: 0, and still in what the mean divides by."""
    spec = BinaryCrossEntropy(ignore_value=-1)
    found = evaluate(spec, [[0.0, math.nan]], [[1.0, -1.0]])
    assert found.loss == pytest.approx(math.log(2) / 2, rel=1e-15)
    np.testing.assert_array_equal(found.gradient, [[-0.25, 0.0]])


def test_margins() -> None:
    """On the margin the gradient of the hinges is that inside; ties of the best wrong class share theirs."""
    on = evaluate(Hinge(), [1.0, -1.0, 2.0, math.nan], [1.0, 0.0, 1.0, 1.0], reduction="none")
    np.testing.assert_array_equal(on.loss, [0, 0, 0, math.nan])
    np.testing.assert_array_equal(on.gradient, [-1, 1, 0, math.nan])
    tied = evaluate(CategoricalHinge(), [[1.0, 3.0, 3.0]], [0])
    assert tied.loss == 3
    np.testing.assert_array_equal(tied.gradient, [[-1.0, 0.5, 0.5]])
    far = evaluate(CategoricalHinge(), [[math.inf, 3.0, 2.0], [1.0, -math.inf, -2.0]], [0, 0], reduction="none")
    np.testing.assert_array_equal(far.loss, [0.0, 0.0])
    own = evaluate(CategoricalHinge(), [[-3.0, -2.0, -4.0]], [0])
    assert own.loss == 4  # the right class counts in the maximum, as 0
    np.testing.assert_array_equal(own.gradient, [[-1.0, 0.0, 0.0]])


def test_kinks_of_regression() -> None:
    """No gradient at x = t; below epsilon a logarithm and a length are constants."""
    for spec in (MeanAbsoluteError(), MeanAbsolutePercentageError(), SmoothL1(beta=0), Quantile()):
        found = evaluate(spec, [2.0], [2.0])
        assert found.loss == 0 and found.gradient[0] == 0
    low = evaluate(MeanSquaredLogarithmicError(epsilon=0.5), [0.25, 0.5], [1.0, 1.0], reduction="none")
    assert low.loss[0] == low.loss[1] and low.gradient[0] == 0 > low.gradient[1]
    for size in (1e-30, 0.0):
        short = evaluate(CosineSimilarity(epsilon=0.25), [[size, 0.0]], [[0.0, 2.0]])
        np.testing.assert_array_equal(short.gradient, [[0.0, -2.0]])
    assert evaluate(Charbonnier(), [0.0], [0.0]).loss == np.float32(1e-3)
    far = evaluate(Charbonnier(), [math.inf, -math.inf], [0.0, 0.0])
    assert far.loss == math.inf and list(far.gradient) == [0.5, -0.5]
    assert evaluate(LogCosh(), [1e-9, 1e4], [0.0, 0.0], reduction="none").loss == pytest.approx(
        [5e-19, 1e4 - math.log(2)], rel=1e-15
    )
    near = evaluate(CosineSimilarity(form="distance"), [[1.0, 1e-9]], [[1.0, 0.0]])
    assert near.loss == pytest.approx(5e-19, rel=1e-12)


def test_targets_without_mass() -> None:
    """A class without target counts nothing, even where its logarithm is infinite."""
    inf = math.inf
    assert evaluate(NegativeLogLikelihood(), [[-inf, -1.0]], [1]).loss == 1
    assert evaluate(KLDivergence(inputs="log_probabilities"), [[-inf, 0.0]], [[0.0, 1.0]]).loss == 0
    assert evaluate(KLDivergence(log_target=True), [[-inf, 0.0]], [[-inf, 0.0]]).loss == 0
    assert evaluate(Poisson(inputs="rate"), [-1.0], [0.0]).loss == -1
    for spec in (Focal(), KLDivergence(), NegativeLogLikelihood(), Poisson(), LogCosh(), CosineSimilarity()):
        found = evaluate(spec, [[math.nan, 0.0]], [[1.0, 0.0]])
        assert np.isnan(found.loss)


def test_labels_out_of_range_are_nan_in_regions() -> None:
    """The loss; the gradient at least at that position."""
    labels = np.array([[0, 1, 2, 9, 0, 1, 2, 0]])
    x = rng().normal(size=(1, 8, 3))
    for spec in (Dice(), Tversky(squared=True), Lovasz(), Lovasz(activation="hinge"), DistanceMap()):
        found = evaluate(spec, x, labels)
        assert np.isnan(found.loss) and np.isnan(found.gradient[0, 3]).all()


def test_what_has_no_map() -> None:
    """Not "none", and no map beside a mean."""
    for spec in (Dice(), MeanSquaredError() + 0 * Lovasz()):
        with pytest.raises(ValueError, match=r"reduction='none' for (Dice|Lovasz)\(\), which has no value"):
            evaluate(spec, X, LABELS, reduction="none")
        assert evaluate(spec, X, LABELS).map is None
    both = evaluate(0.5 * CrossEntropy() + 2 * Dice(), X, LABELS)
    assert both.loss == pytest.approx(0.5 * both.terms["cross_entropy"] + 2 * both.terms["dice"], rel=1e-15)
    with pytest.raises(ValueError, match="penalty on weights"):
        evaluate(MeanSquaredError() + L2(), X, OTHER)
    with pytest.raises(ValueError, match="no penalty"):
        evaluate_penalty(L2() + Huber(), [X])
    with pytest.raises(ValueError, match="schedule"):
        evaluate(Huber() * Linear(0, 1, steps=2), X, OTHER)


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
