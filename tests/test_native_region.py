"""Native numerics of the region, segmentation and penalty terms, in both frameworks: near the oracle, same rules."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from native_cases import IGNORED, WEIGHTS, within

from dualloss import (
    L1,
    L2,
    SSIM,
    Boundary,
    Dice,
    DistanceMap,
    FocalTversky,
    Jaccard,
    Lovasz,
    Spec,
    TotalVariation,
    Tversky,
)
from dualloss.distances import signed_distances
from dualloss.oracle import Result, evaluate, evaluate_penalty, native_bound, scaled_ulp_error

# A spec and its data: the spatial sizes, the kind of target, the kind of sample weight.
CASES: dict[str, tuple[Spec, tuple[int, ...], str, str]] = {
    "dice": (Dice(), (9, 7), "labels", ""),
    "dice_flat": (Dice(per_sample=True, smooth=1.0), (), "labels", "weights"),
    "dice_absent": (Dice(per_sample=True, empty_class="exclude", ignore_index=IGNORED), (20,), "absent", "weights"),
    "dice_classes": (Dice(classes=(1, 4), per_class=False, smooth_denominator=1e-5), (3, 4, 5), "labels", "mask"),
    "dice_squared": (Dice(squared=True, activation="none"), (9, 7), "probabilities", "weights"),
    "dice_minimum": (Dice(overlap="minimum"), (9, 7), "soft", ""),
    "jaccard": (
        Jaccard(class_weights=WEIGHTS, background=False, ignore_index=IGNORED),
        (9, 7),
        "labels",
        "mask",
    ),
    "jaccard_log": (Jaccard(log=True, empty_class="zero", ignore_index=IGNORED), (20,), "absent", ""),
    "jaccard_sigmoid": (
        Jaccard(activation="sigmoid", per_sample=True, per_class=False, background=False),
        (9, 7),
        "soft",
        "weights",
    ),
    "tversky": (Tversky(alpha=0.2, beta=0.9, squared=True), (9, 7), "labels", "weights"),
    "tversky_log": (Tversky(alpha=0.9, log=True, activation="sigmoid", smooth=1e-3), (9, 7), "labels", ""),
    "focal_tversky": (FocalTversky(ignore_index=IGNORED), (3, 4, 5), "labels", "weights"),
    "focal_tversky_log": (FocalTversky(log=True, per_sample=True, gamma=2.0), (9, 7), "absent", "mask"),
    "focal_tversky_mean": (FocalTversky(power_of_mean=True, per_sample=True), (9, 7), "soft", ""),
    "lovasz": (Lovasz(ignore_index=IGNORED), (9, 7), "absent", ""),
    "lovasz_all": (Lovasz(per_sample=True, classes="all"), (3, 4, 5), "absent", "mask"),
    "lovasz_none": (Lovasz(activation="none", per_sample=True), (9, 7), "probabilities", ""),
    "lovasz_hinge": (Lovasz(activation="hinge", per_sample=True, ignore_index=IGNORED), (30,), "labels", "mask"),
    "lovasz_flat": (Lovasz(per_sample=True), (), "labels", ""),
    "sobel": (Boundary(kernel="sobel", channels="sum", ignore_index=IGNORED), (9, 7), "labels", "weights"),
    "sobel_1d": (Boundary(kernel="sobel", padding="replicate"), (30,), "soft", "mask"),
    "sobel_softmax": (Boundary(kernel="sobel", on="probabilities", padding="reflect"), (4, 1, 5), "labels", ""),
    "distances": (DistanceMap(channels="sum", normalizer="batch", ignore_index=IGNORED), (9, 7), "labels", "weights"),
    "distances_sigmoid": (DistanceMap(activation="sigmoid"), (3, 4, 5), "absent", "mask"),
    "distances_given": (DistanceMap(target="distances", activation="none"), (20,), "probabilities", "weights"),
    "ssim": (SSIM(window=3, sigma=1.0), (9, 8), "image", "weights"),
    "ssim_1d": (SSIM(window=5, channels="sum"), (30,), "image", "mask"),
    "ssim_3d": (SSIM(window=5, data_range=2.0), (6, 7, 5), "image", ""),
    "total_variation": (TotalVariation(normalizer="sample_weights"), (9, 7), "image", "weights"),
    "total_variation_3d": (TotalVariation(channels="sum"), (3, 1, 5), "image", "mask"),
    "sum": (
        Dice(ignore_index=IGNORED) + 0.5 * Lovasz() + 0.1 * Boundary(kernel="sobel"),
        (9, 7),
        "labels",
        "mask",
    ),
}
each_case = pytest.mark.parametrize("case", CASES)
FRAMEWORKS = ["torch", "tf"]
each_framework = pytest.mark.parametrize("framework", FRAMEWORKS)
# PyTorch's graphs run the same operations; TensorFlow's are rewritten.
each_engine = pytest.mark.parametrize(("framework", "mode"), [("torch", "eager"), ("tf", "eager"), ("tf", "graph")])

pytestmark = pytest.mark.usefixtures("formulas")


def example(case: str, scale: float = 3.0, channels: int = 5) -> tuple[Spec, Any, Any, Any]:
    """The spec of a case, an input with the channels last, a target and a sample weight."""
    spec, spatial, target, weight = CASES[case]
    rng = np.random.default_rng(11)
    shape = (3, *spatial)
    x = (rng.normal(size=(*shape, channels)) * scale).astype(np.float32)
    t: Any = rng.integers(0, channels, shape)
    if target == "absent":  # one class is nowhere, two in no position of the first sample
        t = np.where(np.arange(3).reshape(-1, *(1,) * len(spatial)) == 0, t % 2, t % 4)
    if target in ("labels", "absent") and spec.ignore_index is not None:
        t = np.where(rng.random(shape) < 0.15, IGNORED, t)
    if target in ("soft", "probabilities"):
        t = rng.dirichlet(np.ones(channels), shape).astype(np.float32)
    if target in ("probabilities", "image"):
        x = rng.random(x.shape, np.float32)
    if target == "image":
        t = (x + rng.normal(size=x.shape) / 8).astype(np.float32)
    weights = {
        "": None,
        "mask": rng.random(shape) < 0.85,
        "weights": rng.integers(0, 4, shape).astype(np.float32) / 3,
    }
    return spec, x, t, weights[weight]


def distances(spec: Spec, x: Any, target: Any, weight: Any) -> Any:
    """The signed distances, which a loss computes where a term needs them."""
    if not any(isinstance(term, DistanceMap) and term.target == "classes" for _, term in spec.parts):
        return None
    valid = np.ones(x.shape[:-1], bool) if weight is None or weight.dtype != bool else weight
    if target.ndim < x.ndim and spec.ignore_index is not None:
        valid = valid & (target != spec.ignore_index)
    return signed_distances(target, x.shape[-1], valid)


def run(
    framework: str,
    spec: Spec,
    x: Any,
    target: Any,
    weight: Any = None,
    reduction: str = "mean",
    upstream: Any = 1.0,
    mode: str = "eager",
    **options: Any,
) -> Result:
    """Value and gradient, in the form of the oracle's; of PyTorch compiled the graphs run without generated code."""
    native = pytest.importorskip(f"dualloss.{framework}.native")
    if options.get("channel_axis", -1) == -1:
        options = {"channel_axis": -1, "distances": distances(spec, x, target, weight)}
    run_on = _run_torch if framework == "torch" else _run_tf
    arrays = (x, target, weight, options.pop("distances", None))

    def loss(x: Any, target: Any, weight: Any, distances: Any) -> Any:
        return native.loss(spec, x, target, weight, reduction=reduction, distances=distances, **options)

    value, gradient, terms = run_on(loss, arrays, upstream, mode)
    return Result(value, gradient, terms, value)


def _run_torch(loss: Callable[..., Any], arrays: Any, upstream: Any, mode: str) -> tuple[Any, Any, dict[str, Any]]:
    import torch

    if mode != "eager":
        torch.compiler.reset()
        loss = torch.compile(loss, fullgraph=True, backend="aot_eager" if mode == "graph" else "inductor")
    tensors: list[Any] = [None if v is None else torch.tensor(v) for v in arrays]
    x, *others = tensors
    leaf = x.requires_grad_()
    value, terms = loss(leaf, *others)
    (gradient,) = torch.autograd.grad(value, leaf, torch.tensor(upstream, dtype=value.dtype).expand_as(value))
    assert gradient.dtype == leaf.dtype and value.dtype in (torch.float32, leaf.dtype)
    return value.detach().numpy(), gradient.numpy(), {name: term.detach().numpy() for name, term in terms.items()}


def _run_tf(loss: Callable[..., Any], arrays: Any, upstream: Any, mode: str) -> tuple[Any, Any, dict[str, Any]]:
    import tensorflow as tf

    def both(upstream: Any, x: Any, *others: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            value, terms = loss(x, *others)
        return value, tape.gradient(value, x, tf.cast(upstream, value.dtype)), terms

    if mode != "eager":
        both = tf.function(both, jit_compile=mode == "compiled", autograph=False)
    value, gradient, terms = both(tf.constant(upstream), *(None if v is None else tf.constant(v) for v in arrays))
    assert gradient.dtype == arrays[0].dtype and value.dtype in (tf.float32, gradient.dtype)
    return value.numpy(), gradient.numpy(), {name: term.numpy() for name, term in terms.items()}


def reductions(case: str) -> list[Any]:
    """Those that the case's terms have."""
    return ["mean", "sum", "none"] if all(term.has_map for _, term in CASES[case][0].parts) else ["mean", "sum"]


@each_framework
@pytest.mark.parametrize(("case", "reduction"), [(case, reduction) for case in CASES for reduction in reductions(case)])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_within_the_bound(framework: str, case: str, scale: float, reduction: Any) -> None:
    """Loss, terms and gradient against the oracle."""
    spec, x, target, weight = example(case, scale)
    upstream = np.random.default_rng(1).normal(size=x.shape[:-1]) if reduction == "none" else 3.0
    found = run(framework, spec, x, target, weight, reduction, upstream)
    truth = evaluate(spec, x, target, sample_weight=weight, reduction=reduction, upstream=upstream)
    within(found, truth, spec)
    for name, (_, term) in zip(spec.names, spec.parts, strict=True):
        bound = native_bound(term)
        assert scaled_ulp_error(found.terms[name], truth.terms[name]) <= max(bound.loss, bound.map)


@each_framework
@pytest.mark.parametrize(
    ("case", "mode"),
    [
        ("dice_classes", "graph"),
        ("dice_squared", "graph"),
        ("jaccard_log", "graph"),
        ("jaccard_sigmoid", "graph"),
        ("focal_tversky_mean", "graph"),
        ("lovasz_hinge", "graph"),
        ("sobel_softmax", "graph"),
        ("distances_sigmoid", "graph"),
        ("ssim_1d", "graph"),
        ("total_variation", "graph"),
        ("focal_tversky_log", "compiled"),
        ("lovasz_all", "compiled"),
    ],
)
def test_compiled(framework: str, case: str, mode: str) -> None:
    """Graphs of both frameworks, and the code of both compilers."""
    spec, x, target, weight = example(case)
    found = run(framework, spec, x, target, weight, mode=mode)
    within(found, evaluate(spec, x, target, sample_weight=weight), spec)


ANY_SIZE = Dice(per_sample=True) + Lovasz(per_sample=True) + SSIM(window=5) + TotalVariation()


def sizes() -> list[tuple[Any, Any]]:
    """Inputs and labels of three sizes; the last is smaller than the window of SSIM."""
    rng = np.random.default_rng(2)
    shapes = [(2, 5, 6), (3, 8, 7), (2, 4, 9)]
    return [(rng.random((*shape, 4), np.float32), rng.integers(0, 4, shape)) for shape in shapes]


def test_compiled_for_any_size_in_torch() -> None:
    """One graph for batches and images of every size."""
    torch = pytest.importorskip("torch")
    native = pytest.importorskip("dualloss.torch.native")
    torch.compiler.reset()
    compiled = torch.compile(
        lambda x, t: native.loss(ANY_SIZE, x, t, None, reduction="mean", channel_axis=-1)[0],
        fullgraph=True,
        dynamic=True,
        backend="aot_eager",
    )
    for i, (x, labels) in enumerate(sizes()):
        with torch.compiler.set_stance("fail_on_recompile" if i else "default"):
            value = compiled(torch.tensor(x), torch.tensor(labels))
        bound = sum(native_bound(term).loss for _, term in ANY_SIZE.parts)
        assert scaled_ulp_error(value, evaluate(ANY_SIZE, x, labels).loss) <= bound


@pytest.mark.parametrize("xla", [False, True])
def test_compiled_for_any_size_in_tf(xla: bool) -> None:
    """One trace for batches and images of every size."""
    tf = pytest.importorskip("tensorflow")
    native = pytest.importorskip("dualloss.tf.native")
    compiled = tf.function(
        lambda x, t: native.loss(ANY_SIZE, x, t, None, reduction="mean", channel_axis=-1)[0],
        input_signature=[tf.TensorSpec((None, None, None, 4)), tf.TensorSpec((None, None, None), tf.int64)],
        jit_compile=xla,
    )
    for x, labels in sizes()[: 1 if xla else 3]:
        value = compiled(tf.constant(x), tf.constant(labels))
        bound = sum(native_bound(term).loss for _, term in ANY_SIZE.parts)
        assert scaled_ulp_error(value, evaluate(ANY_SIZE, x, labels).loss) <= bound


@pytest.mark.parametrize(
    ("framework", "mode"), [("torch", "eager"), ("tf", "eager"), ("tf", "graph"), ("tf", "compiled")]
)
def test_errors_that_tie_come_in_the_order_of_the_positions(framework: str, mode: str) -> None:
    """Few different errors in many positions: the gradient shows the order."""
    rng = np.random.default_rng(3)
    x = rng.integers(0, 2, (2, 700, 3)).astype(np.float32)
    labels = rng.integers(0, 3, (2, 700))
    spec = Lovasz(activation="none")
    within(run(framework, spec, x / 2, labels, mode=mode), evaluate(spec, x / 2, labels), spec)


@each_framework
@pytest.mark.parametrize(
    "spec",
    [
        Dice(),
        Dice(activation="sigmoid"),
        Jaccard(squared=True),
        Tversky(log=True),
        FocalTversky(),
        Dice(overlap="minimum"),
        Lovasz(),
        Boundary(on="probabilities"),
        Boundary(kernel="sobel", on="probabilities"),
    ],
    ids=repr,
)
def test_confident_and_right(framework: str, spec: Spec) -> None:
    """A loss far below what float32 shows of 1 - score, or of 1 - p, keeps its leading digits; so does the gradient."""
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 3, (2, 6, 5))
    x = (np.where(np.eye(3)[labels] == 1, 16, -16) + rng.normal(size=(2, 6, 5, 3))).astype(np.float32)
    found, truth = run(framework, spec, x, labels), evaluate(spec, x, labels)
    assert 0 < truth.loss < 1e-6
    # The exp of a difference of 32 has a relative error of 16 ulp in float32.
    assert scaled_ulp_error(found.loss, truth.loss) <= 32
    assert scaled_ulp_error(found.gradient, truth.gradient) <= 32


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("case", ["dice", "tversky_log", "lovasz", "sobel", "distances", "ssim", "total_variation"])
def test_half_precision(case: str, dtype: str) -> None:
    """Computed in float32, the gradient rounded once to the input's dtype."""
    torch = pytest.importorskip("torch")
    native = pytest.importorskip("dualloss.torch.native")
    spec, x, target, weight = example(case)
    half = torch.tensor(x).to(getattr(torch, dtype)).requires_grad_()
    rounded = half.detach().float().numpy()
    args = [None if v is None else torch.tensor(v) for v in (target, weight, distances(spec, x, target, weight))]
    value, _ = native.loss(spec, half, args[0], args[1], distances=args[2], reduction="mean", channel_axis=-1)
    (gradient,) = torch.autograd.grad(64 * value, half)
    truth = evaluate(spec, rounded, target, sample_weight=weight, upstream=64.0)
    assert gradient.dtype == half.dtype
    assert scaled_ulp_error(value.detach(), truth.loss) <= sum(native_bound(term).loss for _, term in spec.parts)
    assert scaled_ulp_error(gradient.double(), truth.gradient, dtype) <= 0.51


SMALL = [case for case in CASES if not case.startswith(("ssim_", "total_variation_"))]


def small(case: str) -> tuple[Spec, list[Any]]:
    """A corner of a case's data: input, target, weight and distances, in float64 the ones that are floats."""
    spec, x, target, weight = example(case, scale=1.0)
    corner = (slice(2), *(slice(3) for _ in CASES[case][1]))
    arrays = [x, target, weight, distances(spec, x, target, weight)]
    arrays = [None if v is None else v[corner] for v in arrays]
    return spec, [v.astype(np.float64) if v is not None and v.dtype == np.float32 else v for v in arrays]


@pytest.mark.parametrize("case", SMALL)
def test_second_derivatives(case: str) -> None:
    """PyTorch's are the differences of the gradient."""
    torch = pytest.importorskip("torch")
    native = pytest.importorskip("dualloss.torch.native")
    spec, arrays = small(case)
    tensors: list[Any] = [None if v is None else torch.tensor(v) for v in arrays]
    x, target, weight, apart = tensors

    def loss(x: Any) -> Any:
        return native.loss(spec, x, target, weight, distances=apart, reduction="mean", channel_axis=-1)[0]

    assert torch.autograd.gradgradcheck(loss, x.requires_grad_(), fast_mode=True)


@pytest.mark.parametrize("case", SMALL)
def test_second_derivatives_agree(case: str) -> None:
    """Nested tapes give the product of PyTorch's Hessian with a vector, in float64."""
    torch, tf = pytest.importorskip("torch"), pytest.importorskip("tensorflow")
    from dualloss.tf import native as tf_native
    from dualloss.torch import native as torch_native

    spec, arrays = small(case)
    vector = np.random.default_rng(6).normal(size=arrays[0].shape)

    tensors: list[Any] = [None if v is None else torch.tensor(v) for v in arrays]
    leaf, target, weight, apart = tensors
    options: dict[str, Any] = {"reduction": "mean", "channel_axis": -1, "distances": apart}
    value = torch_native.loss(spec, leaf.requires_grad_(), target, weight, **options)[0]
    (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
    product = (gradient * torch.tensor(vector)).sum()
    expected: Any
    (expected,) = torch.autograd.grad(product, leaf, materialize_grads=True) if product.requires_grad else (0 * leaf,)

    leaf, target, weight, apart = (None if v is None else tf.constant(v) for v in arrays)
    options["distances"] = apart
    with tf.GradientTape() as outer:
        outer.watch(leaf)
        with tf.GradientTape() as inner:
            inner.watch(leaf)
            value = tf_native.loss(spec, leaf, target, weight, **options)[0]
        first = inner.gradient(value, leaf)
        product = tf.reduce_sum(first * vector)
    np.testing.assert_allclose(first, gradient.detach(), rtol=0, atol=1e-12 * float(gradient.detach().abs().max()))
    found = outer.gradient(product, leaf, unconnected_gradients="zero")
    scale = max(float(v.detach().abs().max()) for v in (expected, gradient))
    np.testing.assert_allclose(found, expected.detach(), rtol=0, atol=1e-12 * scale)


# --- The rules: exactly 0, NaN or an infinity where the oracle has it ---


def looks_at_neighbours(spec: Spec) -> bool:
    """Whether a position of weight 0 is still seen, by a neighbour."""
    return any(isinstance(term, Boundary | SSIM | TotalVariation) for _, term in spec.parts)


@each_engine
@pytest.mark.parametrize("case", [case for case, row in CASES.items() if row[0].ignore_index is not None or row[3]])
def test_what_does_not_count_is_not_seen(framework: str, case: str, mode: str) -> None:
    """NaN in the input (and the dense target) where a label is ignored, a mask is false or a weight is 0."""
    spec, x, target, weight = example(case)
    seen = np.ones(x.shape[:-1], bool)
    if weight is not None and (weight.dtype == bool or not looks_at_neighbours(spec)):
        seen = np.asarray(weight, bool)
    if spec.ignore_index is not None:
        seen = seen & (target != IGNORED)
    x = np.where(seen[..., None], x, np.float32(np.nan))
    if target.ndim == x.ndim and weight.dtype == bool:  # a target's NaN is seen where the weight is 0
        target = np.where(seen[..., None], target, np.float32(np.nan))
    found = run(framework, spec, x, target, weight, mode=mode)
    assert np.isfinite(found.loss) and np.isfinite(found.gradient).all()
    within(found, evaluate(spec, x, target, sample_weight=weight), spec)


@each_framework
@pytest.mark.parametrize("case", [case for case in CASES if "lovasz" not in case and case != "sum"])
def test_a_sample_of_weight_0_is_not_seen(framework: str, case: str) -> None:
    """It may be NaN altogether, as the padding of a batch is."""
    spec, x, target, _ = example(case)
    weight = np.zeros(x.shape[:-1], np.float32)
    weight[1:] = 2
    x[0] = np.nan
    found = run(framework, spec, x, target, weight)
    assert np.isfinite(found.loss) and np.isfinite(found.gradient).all()
    within(found, evaluate(spec, x, target, sample_weight=weight), spec)


@each_framework
@each_case
def test_nothing_counts(framework: str, case: str) -> None:
    """A batch that is ignored altogether, or empty, has the gradient 0, and the oracle's loss."""
    spec, x, target, weight = example(case)
    none = np.zeros(x.shape[:-1], bool)
    for reduction in ("mean", "sum"):
        for data in ((x * np.nan, target, none), (x[:0], target[:0], None if weight is None else weight[:0])):
            found = run(framework, spec, data[0], data[1], data[2], reduction)
            truth = evaluate(spec, data[0], data[1], sample_weight=data[2], reduction=reduction)
            assert scaled_ulp_error(found.loss, truth.loss) <= 2  # a constant: 0, or what is made of epsilon
            assert found.gradient.shape == data[0].shape and not found.gradient.any()


@each_engine
@pytest.mark.parametrize(
    "spec",
    [
        Dice(),
        Jaccard(log=True, activation="sigmoid"),
        FocalTversky(per_sample=True),
        FocalTversky(power_of_mean=True),
        Tversky(overlap="minimum"),
        Lovasz(),
        Lovasz(activation="none", per_sample=True),
        DistanceMap(activation="none"),
        Boundary(kernel="sobel"),
    ],
    ids=repr,
)
def test_labels_out_of_range_are_nan(framework: str, spec: Spec, mode: str) -> None:
    """In the places where the oracle has NaN."""
    labels = np.array([[0, 1, 2, 3, 0, 1, 2, 0, -1, 1], [0, 1, 2, 2, 0, 1, 2, 0, 0, 1]])
    x = np.random.default_rng(8).random((2, 10, 3), np.float32)
    found, truth = run(framework, spec, x, labels, mode=mode), evaluate(spec, x, labels)
    assert np.isnan(truth.loss)
    within(found, truth, spec)


@each_framework
def test_kinks(framework: str) -> None:
    """The gradients at equal neighbours, errors of 0, losses of 0 and of minima that tie are those of the oracle."""
    rng = np.random.default_rng(9)
    x = rng.integers(0, 2, (2, 12, 3)).astype(np.float32)
    dense = rng.integers(0, 2, (2, 12, 3)).astype(np.float32)
    specs = (
        TotalVariation(),
        Lovasz(activation="none"),
        Lovasz(activation="hinge"),
        Dice(activation="none", overlap="minimum"),
        FocalTversky(activation="none", overlap="minimum", per_sample=True),
    )
    for spec in specs:
        for target in (dense, x):
            within(run(framework, spec, x, target), evaluate(spec, x, target), spec)


@each_engine
def test_infinite_logits(framework: str, mode: str) -> None:
    """A class that is ruled out, rightly: it costs nothing, and is not NaN."""
    x = np.random.default_rng(12).normal(size=(2, 20, 3)).astype(np.float32)
    labels = np.arange(40).reshape(2, 20) % 2
    x[0, ::3, 2], x[1, 4, 2] = -np.inf, np.inf
    specs: tuple[Spec, ...] = (Lovasz(activation="hinge"), Lovasz(activation="hinge", per_sample=True))
    for spec in (*specs, Dice(activation="sigmoid"), Jaccard(activation="sigmoid", log=True, empty_class="exclude")):
        found, truth = run(framework, spec, x, labels, mode=mode), evaluate(spec, x, labels)
        assert np.isfinite(truth.loss)
        within(found, truth, spec)


@each_framework
def test_small_denominators(framework: str) -> None:
    """Below epsilon the denominator is epsilon; nothing in nothing is a score of 0, or of 1 with smoothing."""
    x, target = np.zeros((2, 4, 3), np.float32), np.zeros((2, 4, 3), np.float32)
    options: list[dict[str, Any]] = [{}, {"epsilon": 0.0}, {"smooth": 0.5}, {"log": True}, {"epsilon": 100.0}]
    for kind in options:
        spec = Dice(activation="none", **kind)
        for filled in (0.0, 1e-9, 0.25):
            truth = evaluate(spec, x + np.float32(filled), target + np.float32(filled))
            within(run(framework, spec, x + np.float32(filled), target + np.float32(filled)), truth, spec)


@each_framework
@pytest.mark.parametrize("case", ["dice", "lovasz_all", "sobel_softmax", "distances", "ssim", "total_variation_3d"])
def test_the_channel_axis(framework: str, case: str) -> None:
    """Where it is makes no difference."""
    spec, x, target, weight = example(case)
    arrays = (x, target, distances(spec, x, target, weight))
    x1, t1, d1 = (np.moveaxis(v, -1, 1) if v is not None and v.ndim == x.ndim else v for v in arrays)
    found = run(framework, spec, x1, t1, weight, channel_axis=1, distances=d1)
    truth = evaluate(spec, x, target, sample_weight=weight)
    within(dataclasses.replace(found, gradient=np.moveaxis(found.gradient, 1, -1)), truth, spec)


@each_framework
def test_penalties(framework: str) -> None:
    """Values and gradients for several arrays, one of them with zeros."""
    native = pytest.importorskip(f"dualloss.{framework}.native")
    rng = np.random.default_rng(10)
    arrays = [rng.normal(size=(40, 30)).astype(np.float32), np.array([0.0, -2.5, 0.0, 1e-3], np.float32)]
    for spec in (L1(), L2(), 0.01 * L2() + 0.5 * L1()):
        truth = evaluate_penalty(spec, arrays)
        if framework == "torch":
            import torch

            leaves = [torch.tensor(array, requires_grad=True) for array in arrays]
            value, terms = native.penalty(spec, leaves)
            gradients = torch.autograd.grad(value, leaves)
            value, terms = value.detach(), {name: term.detach() for name, term in terms.items()}
        else:
            import tensorflow as tf

            leaves = [tf.Variable(array) for array in arrays]
            with tf.GradientTape() as tape:
                value, terms = native.penalty(spec, leaves)
            gradients = tape.gradient(value, leaves)
        bounds = [native_bound(term) for _, term in spec.parts]
        assert scaled_ulp_error(value, truth.loss) <= sum(bound.loss for bound in bounds)
        for name, bound in zip(spec.names, bounds, strict=True):
            assert scaled_ulp_error(terms[name], truth.terms[name]) <= bound.loss
        for found, expected in zip(gradients, truth.gradients, strict=True):
            assert scaled_ulp_error(found, expected) <= sum(bound.gradient for bound in bounds)
