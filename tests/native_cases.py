"""What the tests of the native numerics share: specs with data for them, and the comparison with the oracle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dualloss import (
    TOTAL_LOSS,
    BinaryCrossEntropy,
    BinaryFocal,
    Boundary,
    CategoricalHinge,
    Charbonnier,
    CosineSimilarity,
    CrossEntropy,
    Focal,
    Hinge,
    Huber,
    KLDivergence,
    LogCosh,
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
)
from dualloss.oracle import Result, native_bound, scaled_ulp_error

IGNORED = 255
WEIGHTS = (0.1, 1.0, 0.0, 2.0, 0.7)


class Case(NamedTuple):
    """A spec and what its data are: the spatial sizes, the kind of target, the kind of sample weight."""

    spec: Spec
    spatial: tuple[int, ...]
    target: str
    weight: str = ""


CASES: dict[str, Case] = {
    "cross_entropy": Case(CrossEntropy(), (16, 12), "labels"),
    "cross_entropy_flat": Case(CrossEntropy(), (), "labels", "weights"),
    "cross_entropy_weights": Case(
        CrossEntropy(class_weights=WEIGHTS, ignore_index=IGNORED), (9, 7), "labels", "weights"
    ),
    "cross_entropy_smooth": Case(
        CrossEntropy(class_weights=WEIGHTS, label_smoothing=0.1, normalizer="valid", ignore_index=IGNORED),
        (9, 7),
        "labels",
        "mask",
    ),
    "cross_entropy_soft": Case(CrossEntropy(class_weights=WEIGHTS), (40,), "soft", "mask"),
    "cross_entropy_all": Case(CrossEntropy(normalizer="elements"), (3, 4, 5), "soft", "weights"),
    "cross_entropy_of_probabilities": Case(
        CrossEntropy(inputs="probabilities", label_smoothing=0.1, ignore_index=IGNORED), (9, 7), "labels", "weights"
    ),
    "cross_entropy_clipped_first": Case(
        CrossEntropy(inputs="probabilities", renormalize="after", clip=1e-3, class_weights=WEIGHTS),
        (9, 7),
        "labels",
        "mask",
    ),
    "cross_entropy_as_it_is": Case(
        CrossEntropy(inputs="probabilities", renormalize="never", clip=0.01, normalizer="batch"), (9, 7), "soft"
    ),
    "likelihood": Case(NegativeLogLikelihood(class_weights=WEIGHTS, ignore_index=IGNORED), (9, 7), "labels", "weights"),
    "likelihood_soft": Case(NegativeLogLikelihood(class_weights=WEIGHTS), (9, 7), "soft", "mask"),
    "binary": Case(BinaryCrossEntropy(), (9, 7), "soft"),
    "binary_labels": Case(
        BinaryCrossEntropy(pos_weight=WEIGHTS, label_smoothing=0.1) + 0.0 * CrossEntropy(ignore_index=IGNORED),
        (9, 7),
        "labels",
        "weights",
    ),
    "binary_ignoring": Case(
        BinaryCrossEntropy(pos_weight=2, class_weights=WEIGHTS, ignore_value=1, channels="sum"), (9, 7), "one_hot"
    ),
    "binary_of_probabilities": Case(
        BinaryCrossEntropy(inputs="probabilities", pos_weight=WEIGHTS, clip=1e-3), (9, 7), "soft", "mask"
    ),
    "binary_bounded": Case(
        BinaryCrossEntropy(inputs="probabilities", clip=None, class_weights=WEIGHTS, label_smoothing=0.1),
        (9, 7),
        "labels",
        "weights",
    ),
    "focal": Case(Focal(alpha=WEIGHTS, ignore_index=IGNORED), (9, 7), "labels", "weights"),
    "focal_soft": Case(Focal(gamma=0.5, alpha=0.25, channels="mean", label_smoothing=0.1), (9, 7), "soft", "mask"),
    "focal_0": Case(Focal(gamma=0), (9, 7), "labels"),
    "focal_of_probabilities": Case(Focal(inputs="probabilities", gamma=1.5), (9, 7), "labels", "weights"),
    "focal_as_it_is": Case(Focal(inputs="probabilities", renormalize=False, gamma=1), (9, 7), "soft", "mask"),
    "focal_clipped": Case(Focal(clip_softmax=True, alpha=0.25, clip=0.01), (9, 7), "labels", "weights"),
    "binary_focal": Case(
        BinaryFocal(alpha=0.25, class_weights=WEIGHTS, ignore_index=IGNORED), (9, 7), "labels", "weights"
    ),
    "binary_focal_soft": Case(BinaryFocal(gamma=0.5, label_smoothing=0.1), (9, 7), "soft", "mask"),
    "binary_focal_0": Case(BinaryFocal(gamma=0), (9, 7), "labels"),
    "binary_focal_of_probabilities": Case(
        BinaryFocal(inputs="probabilities", gamma=3, alpha=0.75, clip=0.01), (9, 7), "soft", "weights"
    ),
    "divergence": Case(KLDivergence(), (9, 7), "soft", "weights"),
    "divergence_of_logarithms": Case(
        KLDivergence(inputs="log_probabilities", log_target=True, normalizer="batch"), (9, 7), "logarithms"
    ),
    "divergence_mean": Case(KLDivergence(log_target=True, channels="mean"), (9, 7), "logarithms", "mask"),
    "divergence_labels": Case(KLDivergence(inputs="log_probabilities"), (9, 7), "labels", "weights"),
    "divergence_of_probabilities": Case(KLDivergence(inputs="probabilities", clip=0.01), (9, 7), "soft", "mask"),
    "poisson": Case(Poisson(full=True), (9, 7), "counts", "weights"),
    "poisson_rate": Case(Poisson(inputs="rate", epsilon=1e-3), (9, 7), "counts", "mask"),
    "hinge": Case(Hinge(), (9, 7), "labels", "weights"),
    "squared_hinge": Case(SquaredHinge(normalizer="one"), (9, 7), "real", "mask"),
    "categorical_hinge": Case(CategoricalHinge(ignore_index=IGNORED), (9, 7), "labels", "weights"),
    "categorical_hinge_soft": Case(CategoricalHinge(normalizer="elements"), (9, 7), "soft", "mask"),
    "mean_squared_error": Case(MeanSquaredError(), (9, 7), "real", "weights"),
    "mean_squared_error_sum": Case(
        MeanSquaredError(channels="sum", normalizer="sample_weights"), (9, 7), "real", "weights"
    ),
    "mean_absolute_error": Case(MeanAbsoluteError(), (9, 7), "real", "weights"),
    "percentage": Case(MeanAbsolutePercentageError(epsilon=0.5), (9, 7), "real", "mask"),
    "logarithmic": Case(MeanSquaredLogarithmicError(), (9, 7), "counts", "weights"),
    "logarithmic_near": Case(MeanSquaredLogarithmicError(epsilon=0.5), (9, 7), "near", "mask"),
    "huber": Case(Huber(delta=0.7), (30,), "real", "mask"),
    "smooth_l1": Case(SmoothL1(beta=0.7), (9, 7), "real", "weights"),
    "smooth_l1_0": Case(SmoothL1(beta=0), (9, 7), "real", "mask"),
    "charbonnier": Case(Charbonnier(epsilon=0.3), (9, 7), "real", "weights"),
    "log_cosh": Case(LogCosh(), (9, 7), "real", "weights"),
    "log_cosh_near": Case(LogCosh(), (9, 7), "near", "mask"),
    "cosine": Case(CosineSimilarity(), (9, 7), "real", "weights"),
    "cosine_distance": Case(CosineSimilarity(form="distance", epsilon=3), (9, 7), "real", "mask"),
    "quantile": Case(Quantile(quantile=0.9), (9, 7), "real", "weights"),
    "boundary": Case(Boundary(), (16, 12), "labels"),
    "boundary_1d": Case(Boundary(padding="reflect", ignore_index=IGNORED), (50,), "labels", "weights"),
    "boundary_2d": Case(Boundary(kernel="laplacian8", padding="replicate"), (9, 7), "soft", "mask"),
    "boundary_3d": Case(Boundary(kernel="laplacian8", padding="reflect", ignore_index=IGNORED), (6, 1, 5), "labels"),
    "boundary_softmax": Case(
        Boundary(on="probabilities", padding="replicate", ignore_index=IGNORED), (9, 7), "labels", "weights"
    ),
    "boundary_softmax_3d": Case(Boundary(kernel="laplacian8", on="probabilities"), (4, 3, 5), "soft"),
    "total": Case(TOTAL_LOSS, (16, 12), "labels"),
    "sum": Case(
        CrossEntropy(ignore_index=IGNORED) + 0.5 * Boundary(on="probabilities") + 0.1 * Huber(),
        (9, 7),
        "labels",
        "weights",
    ),
}


def example(case: str, scale: float = 3.0, channels: int = 5) -> tuple[Spec, Any, Any, Any]:
    """The spec of a case, an input with the channels last, a target and a sample weight."""
    spec, spatial, target, weight = CASES[case]
    rng = np.random.default_rng(7)
    shape = (3, *spatial)
    x = for_spec(spec, (rng.normal(size=(*shape, channels)) * scale).astype(np.float32))
    labels: Any = rng.integers(0, channels, shape)
    soft = rng.dirichlet(np.ones(channels), shape)
    t = {
        "labels": labels if spec.ignore_index is None else np.where(rng.random(shape) < 0.1, IGNORED, labels),
        "one_hot": np.eye(channels)[labels],
        "soft": soft,
        "logarithms": np.log(soft),
        "counts": rng.poisson(2.0, x.shape),
        "real": rng.normal(size=x.shape),
        "near": x + 1e-3 * rng.normal(size=x.shape),
    }[target]
    s = {
        "": None,
        "mask": rng.random(shape) < 0.8,
        "weights": rng.integers(0, 4, shape).astype(np.float32) / 3,
    }
    return spec, x, t if target == "labels" else t.astype(np.float32), s[weight]


def for_spec(spec: Spec, x: Any) -> Any:
    """Normal numbers, or what the spec's terms take of them: probabilities, their logarithms, or rates."""
    kind = kind_of_input(spec)
    if kind == "log_rate":
        return np.clip(x, -60, 20)
    if kind == "rate":
        return np.exp(np.clip(x, -10, 10))
    if kind == "logits":
        return x
    e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    p = np.maximum(e / e.sum(-1, keepdims=True), 1e-30)
    return (np.log(p) if kind == "log_probabilities" else p).astype(np.float32)


def kind_of_input(spec: Spec) -> str:
    """ "logits" (or any numbers), "probabilities", "log_probabilities", "rate" or "log_rate"."""
    (_, term), *_ = spec.parts
    if isinstance(term, NegativeLogLikelihood):
        return "log_probabilities"
    return "probabilities" if getattr(term, "activation", "") == "none" else getattr(term, "inputs", "logits")


def _of_every_kind() -> list[str]:
    found: dict[Any, str] = {}
    for name, case in CASES.items():
        kind = (kind_of_input(case.spec), *(type(term) for _, term in case.spec.parts))
        found.setdefault(kind, name)
    return list(found.values())


OF_EVERY_KIND = _of_every_kind()
"""Of each term, or sum of terms, and each kind of input one case: for what takes long."""

REDUCTIONS = [
    (case, reduction)
    for case, (spec, *_) in CASES.items()
    for reduction in ("mean", "sum", "none")
    if reduction != "none" or all(term.has_map for _, term in spec.parts)
]


def within(found: Result, truth: Result, spec: Spec, dtype: str = "float32") -> None:
    """Assert that value and gradient are within the bound; that of a sum is the sum of its terms' bounds."""
    bounds = [native_bound(term) for weight, term in spec.parts if weight]
    values = sum(bound.map if np.ndim(truth.loss) else bound.loss for bound in bounds)
    assert scaled_ulp_error(found.loss, truth.loss) <= values
    assert scaled_ulp_error(found.gradient, truth.gradient, dtype) <= sum(bound.gradient for bound in bounds)


def same_side(found: Result, truth: Result) -> None:
    """Assert that every element is the one of the right side of an edge, up to rounding.

    A gradient is rounded at the scale of its position's largest element: the cosine of a vector of length 1e-6
    has gradients of 1e6, and what cancels to 0 beside these may leave one rounding of them.
    """
    np.testing.assert_allclose(found.loss, truth.loss, rtol=2e-6, atol=1e-7)
    finite = np.where(np.isfinite(truth.gradient), np.abs(truth.gradient), 0)
    scale = np.maximum(1, finite.max(-1, keepdims=True))
    np.testing.assert_allclose(found.gradient / scale, truth.gradient / scale, rtol=2e-6, atol=1e-7)


OUT_OF_RANGE: list[Spec] = [
    CrossEntropy(),
    CrossEntropy(label_smoothing=0.1),
    CrossEntropy(class_weights=(1, 2, 3)),
    CrossEntropy(inputs="probabilities", clip=0.3),
    CrossEntropy(inputs="probabilities", renormalize="after", clip=0.3),
    CrossEntropy(inputs="probabilities", renormalize="never", clip=0.3),
    NegativeLogLikelihood(),
    NegativeLogLikelihood(class_weights=(1, 2, 3)),
    BinaryCrossEntropy(),
    BinaryCrossEntropy(inputs="probabilities", clip=0.3),
    BinaryCrossEntropy(inputs="probabilities", clip=None),
    Focal(),
    Focal(inputs="probabilities", clip=0.3),
    Focal(clip_softmax=True, clip=0.3),
    BinaryFocal(),
    BinaryFocal(inputs="probabilities", clip=0.3),
    KLDivergence(),
    KLDivergence(inputs="log_probabilities"),
    KLDivergence(inputs="probabilities", clip=0.3),
    Poisson(),
    Poisson(inputs="rate"),
    Hinge(),
    SquaredHinge(),
    CategoricalHinge(),
    MeanSquaredError(),
    MeanAbsoluteError(),
    MeanAbsolutePercentageError(),
    MeanSquaredLogarithmicError(epsilon=0.5),
    Huber(),
    SmoothL1(),
    SmoothL1(beta=0),
    Charbonnier(),
    LogCosh(),
    CosineSimilarity(),
    CosineSimilarity(form="distance"),
    Quantile(),
    Boundary(),
    Boundary(on="probabilities"),
]

INFINITE: list[Spec] = [
    CrossEntropy(),
    CrossEntropy(label_smoothing=0.1),
    CrossEntropy(class_weights=(1, 0, 3)),
    CrossEntropy(class_weights=(1, 0, 3), label_smoothing=0.1),
    CrossEntropy(inputs="probabilities"),
    CrossEntropy(inputs="probabilities", renormalize="after"),
    CrossEntropy(inputs="probabilities", renormalize="never"),
    NegativeLogLikelihood(),
    NegativeLogLikelihood(class_weights=(1, 0, 3)),
    BinaryCrossEntropy(),
    BinaryCrossEntropy(pos_weight=(1, 0, 3)),
    BinaryCrossEntropy(ignore_value=1),
    BinaryCrossEntropy(inputs="probabilities"),
    BinaryCrossEntropy(inputs="probabilities", clip=None),
    Focal(),
    Focal(gamma=0.5, alpha=(1, 0, 3)),
    Focal(inputs="probabilities"),
    Focal(clip_softmax=True),
    BinaryFocal(),
    BinaryFocal(gamma=0.5, alpha=0.25),
    BinaryFocal(inputs="probabilities", gamma=0.5),
    KLDivergence(),
    KLDivergence(inputs="log_probabilities"),
    KLDivergence(inputs="probabilities"),
    Poisson(),
    Poisson(inputs="rate"),
    Hinge(),
    SquaredHinge(),
    CategoricalHinge(),
    MeanSquaredError(),
    MeanAbsoluteError(),
    MeanAbsolutePercentageError(),
    MeanSquaredLogarithmicError(),
    Huber(),
    SmoothL1(),
    SmoothL1(beta=0),
    Charbonnier(),
    LogCosh(),
    CosineSimilarity(),
    CosineSimilarity(form="distance"),
    Quantile(quantile=0.9),
]

_INF, _NAN = math.inf, math.nan
_ROWS = [[0.0, -_INF, 1.0], [-_INF] * 3, [0.0, _INF, 1.0], [0.0, _NAN, 1.0], [-_INF, 2.0, 1.0]]
_SHARES = [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.5, _INF, 0.5], [0.5, _NAN, 0.5], [-0.5, 1.25, 0.25]]


def infinite(spec: Spec, soft: bool) -> tuple[Any, Any]:
    """Inputs with infinities and NaN (probabilities beyond 0 and 1), with every label; one-hot targets if `soft`."""
    rows = _SHARES if kind_of_input(spec) == "probabilities" else _ROWS
    labels = np.tile(np.arange(3), len(rows))
    return np.repeat(np.array(rows, np.float32), 3, 0), np.eye(3, dtype=np.float32)[labels] if soft else labels


def _pairs(x: Sequence[Any], t: Sequence[Any]) -> tuple[Any, Any]:
    """Every one of the inputs with every one of the targets: numbers (then with one channel), or positions."""
    left, right = (np.array(v, np.float32).reshape(len(v), -1) for v in (x, t))
    return np.repeat(left, len(t), 0), np.tile(right, (len(x), 1))


_EDGES = [0.0, 1e-30, 1e-7, 2e-7, 1e-3, 0.25, 0.5, 0.75, 1 - 2.0**-22, 1 - 2.0**-23, 1 - 2.0**-24, 1.0]
_ERRORS = _pairs([-0.75, 0.0, 0.25, 0.5, 1.0], [0.0, 0.5, 1.0])
_MARGINS = _pairs([-2.0, -1.0, 0.0, 0.5, 1.0, 2.0], [-1.0, 0.0, 0.5, 1.0])
_ANSWERS = _pairs([-0.5, *_EDGES, 1.5], [0.0, 0.25, 1.0])
_TWO = _pairs([[p, 1 - p] for p in _EDGES], [[0, 1], [1, 0], [0.25, 0.75]])
_THREE = _pairs([[2, 2, -1], [1, 0, 0], [0, 0, 0], [3, 1, 2], [-1, -1, -1]], np.eye(3).tolist())
_FAR = _pairs([[200, 0, 0], [0, 200, 100], [-200, 0, 0]], np.eye(3).tolist())
_ARROWS = _pairs([[0, 0], [2**-20, 0], [3, 4], [-3, -4]], [[0, 0], [3, 4], [0, 2**-20]])

KINKS: list[tuple[Spec, tuple[Any, Any]]] = [
    (MeanAbsoluteError(), _ERRORS),
    (MeanAbsolutePercentageError(epsilon=0.5), _ERRORS),
    (MeanSquaredLogarithmicError(epsilon=0.5), _ERRORS),
    (Huber(delta=0.5), _ERRORS),
    (SmoothL1(beta=0.5), _ERRORS),
    (SmoothL1(beta=0), _ERRORS),
    (Charbonnier(), _ERRORS),
    (Charbonnier(epsilon=1e-30), _ERRORS),
    (LogCosh(), _ERRORS),
    (Quantile(quantile=0.25), _ERRORS),
    (Hinge(), _MARGINS),
    (SquaredHinge(), _MARGINS),
    (CategoricalHinge(), _THREE),
    (BinaryCrossEntropy(inputs="probabilities"), _ANSWERS),
    (BinaryCrossEntropy(inputs="probabilities", clip=None), _ANSWERS),
    (BinaryFocal(inputs="probabilities", gamma=1), _ANSWERS),
    (BinaryFocal(inputs="probabilities", gamma=0.5), _ANSWERS),
    (KLDivergence(inputs="probabilities"), _ANSWERS),
    (CrossEntropy(inputs="probabilities"), _TWO),
    (CrossEntropy(inputs="probabilities", renormalize="after"), _TWO),
    (CrossEntropy(inputs="probabilities", renormalize="never"), _TWO),
    (Focal(inputs="probabilities", gamma=0.5), _TWO),
    (Focal(gamma=0.5), _FAR),
    (Focal(clip_softmax=True), _FAR),
    (BinaryFocal(gamma=0.5), _FAR),
    (Poisson(inputs="rate", full=True), _pairs([0.0, 1.0, 3.0], [0.0, 1.0, 2.0])),
    (CosineSimilarity(epsilon=2**-40), _ARROWS),
    (CosineSimilarity(epsilon=2**-40, form="distance"), _ARROWS),
]
"""Specs with inputs and dense targets on both sides of every edge, and on it."""
