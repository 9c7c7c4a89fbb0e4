"""Native numerics in TensorFlow: near the oracle, differentiable twice, the rules of the definition."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from native_cases import (
    CASES,
    IGNORED,
    INFINITE,
    KINKS,
    OF_EVERY_KIND,
    OUT_OF_RANGE,
    REDUCTIONS,
    example,
    for_spec,
    infinite,
    same_side,
    within,
)

from dualloss import BinaryCrossEntropy, Boundary, CrossEntropy, Focal, Linear, MeanSquaredError, Spec
from dualloss.oracle import Result, evaluate, native_bound, scaled_ulp_error
from dualloss.spec._base import NORMALIZERS

tf = pytest.importorskip("tensorflow")
native = pytest.importorskip("dualloss.tf.native")

pytestmark = pytest.mark.usefixtures("formulas")

MODES = ["eager", "graph", "xla"]
SOME_CASES = ["cross_entropy_weights", "cross_entropy_of_probabilities", "binary_labels", "focal", "cosine", "sum"]
each_case = pytest.mark.parametrize("case", CASES)


def run(
    spec: Spec,
    x: Any,
    target: Any,
    weight: Any = None,
    reduction: str = "mean",
    upstream: Any = 1.0,
    mode: str = "eager",
    **options: Any,
) -> Result:
    """Value and gradient by TensorFlow, in the form of the oracle's."""
    options.setdefault("channel_axis", -1)

    def loss(x: Any, target: Any, weight: Any, upstream: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            value, terms = native.loss(spec, x, target, weight, reduction=reduction, **options)
        return value, tape.gradient(value, x, tf.cast(upstream, value.dtype)), terms

    if mode != "eager":
        loss = tf.function(loss, jit_compile=mode == "xla")
    x = tf.convert_to_tensor(x)
    upstream = np.broadcast_to(upstream, x.shape[:-1] if reduction == "none" else ())
    value, gradient, terms = loss(x, *(None if v is None else tf.constant(v) for v in (target, weight, upstream)))
    assert gradient.dtype == x.dtype and value.dtype in (tf.float32, x.dtype)
    found = value.numpy()
    return Result(
        found,
        tf.cast(gradient, tf.float64).numpy(),
        {name: term.numpy() for name, term in terms.items()},
        found,
    )


@pytest.mark.parametrize(("case", "reduction"), REDUCTIONS)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_within_the_bound(case: str, scale: float, reduction: Any) -> None:
    """Loss, terms and gradient against the oracle."""
    spec, x, target, weight = example(case, scale)
    upstream = np.random.default_rng(1).normal(size=target.shape[: x.ndim - 1]) if reduction == "none" else 3.0
    found = run(spec, x, target, weight, reduction, upstream)
    truth = evaluate(spec, x, target, sample_weight=weight, reduction=reduction, upstream=upstream)
    within(found, truth, spec)
    for name, (_, term) in zip(spec.names, spec.parts, strict=True):
        bound = native_bound(term)
        assert scaled_ulp_error(found.terms[name], truth.terms[name]) <= max(bound.loss, bound.map)


@pytest.mark.parametrize("case", OF_EVERY_KIND)
@pytest.mark.parametrize("mode", MODES[1:])
def test_compiled(case: str, mode: str) -> None:
    """`tf.function`, with and without XLA, keeps the bound."""
    spec, x, target, weight = example(case)
    found = run(spec, x, target, weight, mode=mode)
    within(found, evaluate(spec, x, target, sample_weight=weight), spec)


@pytest.mark.parametrize("xla", [False, True])
def test_compiled_for_any_size(xla: bool) -> None:
    """One trace for batches and images of every size."""
    spec = CrossEntropy(ignore_index=IGNORED) + Boundary(padding="reflect", ignore_index=IGNORED)
    compiled = tf.function(
        lambda x, t: native.loss(spec, x, t, None, reduction="mean", channel_axis=-1)[0],
        input_signature=[tf.TensorSpec((None, None, None, 4)), tf.TensorSpec((None, None, None), tf.int64)],
        jit_compile=xla,
    )
    rng = np.random.default_rng(2)
    for size in [(2, 5, 6), (3, 1, 7), (1, 4, 1)]:
        x, labels = rng.normal(size=(*size, 4)).astype(np.float32), rng.integers(0, 4, size)
        value = compiled(tf.constant(x), tf.constant(labels))
        assert scaled_ulp_error(value, evaluate(spec, x, labels).loss) <= 2 * native_bound(Boundary()).loss


def test_many_channels() -> None:
    """The bound does not grow with a usual number of classes."""
    for case in ("cross_entropy", "boundary", "total"):
        spec, x, target, weight = example(case, channels=21)
        within(run(spec, x, target, weight), evaluate(spec, x, target, sample_weight=weight), spec)


@pytest.mark.parametrize("mode", MODES)
def test_confident_answers(mode: str) -> None:
    """All logits far apart, right and wrong: binary losses stay right, a log-softmax drops what 1 hides."""
    x = np.array([[20.0, 0.0], [-19.0, 1.0], [40.0, -40.0]], np.float32)
    labels = x.argmax(-1)
    spec: Spec = BinaryCrossEntropy()
    within(run(spec, x, labels, mode=mode), evaluate(spec, x, labels), spec)
    found, truth = run(CrossEntropy(), x, labels, mode=mode), evaluate(CrossEntropy(), x, labels)
    bound = native_bound(CrossEntropy())
    assert scaled_ulp_error(found.loss, truth.loss, at_least=1) <= bound.loss
    assert scaled_ulp_error(found.gradient, truth.gradient, at_least=1 / 3) <= bound.gradient


def test_many_positions() -> None:
    """The mean of a million values; float32 added one after the other would be wrong in the fifth digit."""
    x = np.random.default_rng(5).normal(size=(1_000_000, 1)).astype(np.float32) + 1
    for mode in MODES:
        spec = MeanSquaredError()
        within(run(spec, x, 0 * x, mode=mode), evaluate(spec, x, 0 * x), spec)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@each_case
def test_half_precision(case: str, dtype: str) -> None:
    """Computed in float32, the gradient rounded once to the input's dtype."""
    spec, x, target, weight = example(case)
    half = tf.cast(x, dtype)
    found = run(spec, half, target, weight, upstream=64.0)
    truth = evaluate(spec, tf.cast(half, tf.float64).numpy(), target, sample_weight=weight, upstream=64.0)
    assert scaled_ulp_error(found.loss, truth.loss) <= sum(native_bound(term).loss for _, term in spec.parts)
    assert scaled_ulp_error(found.gradient, truth.gradient, dtype) <= 0.51


@each_case
def test_gradients_of_gradients(case: str) -> None:
    """Nested tapes give the product of PyTorch's Hessian with a vector, in float64."""
    torch = pytest.importorskip("torch")
    from dualloss.torch import native as torch_native

    spec, *data = example(case, scale=1.0)
    x = data[0].astype(np.float64)
    vector = np.random.default_rng(6).normal(size=x.shape)
    options: dict[str, Any] = {"reduction": "mean", "channel_axis": -1}

    leaf = torch.tensor(x, requires_grad=True)
    target, weight = torch.tensor(data[1]), None if data[2] is None else torch.tensor(data[2])
    value = torch_native.loss(spec, leaf, target, weight, **options)[0]
    (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
    along = (gradient * torch.tensor(vector)).sum()
    expected = torch.zeros_like(leaf)  # of a term that is linear in its input
    if along.requires_grad:
        (expected,) = torch.autograd.grad(along, leaf, materialize_grads=True)

    leaf = tf.constant(x)
    target, weight = (None if v is None else tf.constant(v) for v in data[1:])
    with tf.GradientTape() as outer:
        outer.watch(leaf)
        with tf.GradientTape() as inner:
            inner.watch(leaf)
            value = native.loss(spec, leaf, target, weight, **options)[0]
        product = tf.reduce_sum(inner.gradient(value, leaf) * vector)
    found = outer.gradient(product, leaf, unconnected_gradients="zero")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * float(expected.abs().max()))


# --- The rules: exactly 0, NaN or an infinity where the oracle has it ---


@pytest.mark.parametrize(
    ("case", "mode"),
    [(case, "eager") for case in CASES] + [(case, "xla") for case in SOME_CASES],
)
def test_what_does_not_count_is_not_seen(case: str, mode: str) -> None:
    """NaN in the input (and the dense target) where a label is ignored, a mask is false or a weight is 0."""
    spec, x, target, weight = example(case)
    seen = np.ones(x.shape[:-1], bool) if weight is None else np.asarray(weight, bool)
    if spec.ignore_index is not None:
        seen = seen & (target != IGNORED)
    if "boundary" in spec.names and weight is not None and weight.dtype != bool:
        return  # there a position of weight 0 is still a neighbour
    x = np.where(seen[..., None], x, np.nan)
    if target.ndim == x.ndim and weight is not None and weight.dtype == bool:
        target = np.where(seen[..., None], target, np.nan)
    found = run(spec, x, target, weight, mode=mode)
    assert np.isfinite(found.loss) and np.isfinite(found.gradient).all()
    within(found, evaluate(spec, x, target, sample_weight=weight), spec)


@each_case
def test_a_sample_of_weight_0_is_not_seen(case: str) -> None:
    """It may be NaN altogether, as the padding of a batch is."""
    spec, x, target, _ = example(case)
    weight = np.zeros(x.shape[:-1], np.float32)
    weight[1:] = 2
    x[0] = np.nan
    found = run(spec, x, target, weight)
    assert np.isfinite(found.loss) and np.isfinite(found.gradient).all()
    within(found, evaluate(spec, x, target, sample_weight=weight), spec)


@pytest.mark.parametrize(
    ("spec", "mode"),
    [(spec, "eager") for spec in OUT_OF_RANGE] + [(spec, "xla") for spec in OUT_OF_RANGE[::4]],
    ids=repr,
)
def test_labels_out_of_range_are_nan(spec: Spec, mode: str) -> None:
    """In the places where the oracle has NaN."""
    labels = np.array([[0, 1, 2, 3, 0, 1, 2, 0, -1, 1], [0, 1, 2, 3, 0, 1, 2, 0, 0, 1]])
    x = for_spec(spec, np.random.default_rng(8).normal(size=(2, 10, 3)).astype(np.float32))
    weight = np.ones((2, 10), np.float32)
    weight[1, 3] = 0
    for s in (None, weight) if mode == "eager" else (weight,):
        for reduction in ("none", "mean") if mode == "eager" else ("none",):
            found = run(spec, x, labels, s, reduction, mode=mode)
            within(found, evaluate(spec, x, labels, sample_weight=s, reduction=reduction), spec)


@pytest.mark.parametrize(
    ("spec", "soft", "mode"),
    [(spec, soft, "eager") for spec in INFINITE for soft in (False, True)]
    + [(spec, True, "xla") for spec in INFINITE[1::3]],
    ids=repr,
)
def test_infinite_inputs(spec: Spec, soft: bool, mode: str) -> None:
    """A logit of -inf is a class of probability 0; the rest follows from the formulas."""
    x, target = infinite(spec, soft)
    found = run(spec, x, target, reduction="none", mode=mode)
    within(found, evaluate(spec, x, target, reduction="none"), spec)


@pytest.mark.parametrize(
    ("spec", "data", "mode"),
    [(*kink, "eager") for kink in KINKS] + [(*kink, "xla") for kink in KINKS[2::3]],
    ids=lambda value: "" if isinstance(value, tuple) else repr(value),
)
def test_kinks(spec: Spec, data: Any, mode: str) -> None:
    """On an edge, where a formula has two sides, the gradient is the one that the definition chose."""
    x, target = data
    found, truth = run(spec, x, target, reduction="none", mode=mode), evaluate(spec, x, target, reduction="none")
    same_side(found, truth)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_normalisers(normalizer: Any) -> None:
    """What a mean divides by, and what it is where that is 0."""
    spec = MeanSquaredError(normalizer=normalizer, empty="nan")
    _, x, target, weight = example("mean_squared_error")
    mask = np.random.default_rng(4).random(weight.shape) < 0.5
    for s in (None, weight, mask):
        within(run(spec, x, target, s), evaluate(spec, x, target, sample_weight=s), spec)
    nothing, empty = run(spec, x, target, mask & False), run(spec, x[:0], target[:0])
    assert nothing.loss == 0 if normalizer in ("elements", "batch", "one") else np.isnan(nothing.loss)
    assert empty.loss == 0 if normalizer == "one" else np.isnan(empty.loss)
    assert not nothing.gradient.any()


@pytest.mark.parametrize("mode", MODES)
def test_weights_of_a_schedule(mode: str) -> None:
    """They take the place of the spec's; at 0 a term adds nothing, not even a NaN."""
    spec = MeanSquaredError() + 2 * BinaryCrossEntropy() + Linear(0, 1, 10) * Focal()
    x, labels = np.random.default_rng(3).normal(size=(7, 3)).astype(np.float32), np.arange(7) % 3
    found = run(spec, x, labels, weights=[1.0, 0.5, tf.constant(0.25)], mode=mode)
    truth = MeanSquaredError() + 0.5 * BinaryCrossEntropy() + 0.25 * Focal()
    within(found, evaluate(truth, x, labels), truth)
    x[0] = -math.inf
    found = run(spec, x, labels, weights=[0.0, 0.0, tf.constant(0.0)], mode=mode)
    assert found.loss == 0 and not found.gradient.any() and np.isnan(found.terms["focal"])


@each_case
def test_nothing_counts(case: str) -> None:
    """A batch that is empty, or ignored altogether, has the loss 0 and the gradient 0."""
    spec, x, target, weight = example(case)
    for reduction in ("mean", "sum"):
        none = run(spec, x, target, np.zeros(x.shape[:-1], bool), reduction)
        empty = run(spec, x[:0], target[:0], None if weight is None else weight[:0], reduction)
        for found in (none, empty):
            assert found.loss == 0 and not found.gradient.any()


def test_a_spec_of_weight_0() -> None:
    """The loss is 0 and depends on the input."""
    for reduction in ("mean", "none"):
        found = run(0 * MeanSquaredError(), np.full((4, 2), np.nan, np.float32), np.zeros((4, 2)), None, reduction)
        assert not found.loss.any() and found.loss.shape == (() if reduction == "mean" else (4,))
        assert not found.gradient.any() and np.isnan(found.terms["mean_squared_error"]).all()


def test_a_mask_beside_weights() -> None:
    """The mask decides what counts, the weights how much."""
    spec, x, target, weight = example("cross_entropy_weights")
    mask = np.random.default_rng(4).random(weight.shape) < 0.5
    found = run(spec, x, target, weight, mask=tf.constant(mask))
    truth = evaluate(spec, x, np.where(mask, target, IGNORED), sample_weight=weight)
    within(found, truth, spec)
    both = run(spec, x, target, ~mask, mask=tf.constant(mask))
    assert both.loss == 0 and not both.gradient.any()


@each_case
def test_the_channel_axis(case: str) -> None:
    """Where it is makes no difference."""
    spec, x, target, weight = example(case)
    moved = [np.moveaxis(v, -1, 1) if v.ndim == x.ndim else v for v in (x, target)]
    found = run(spec, moved[0], moved[1], weight, channel_axis=1)
    gradient = np.moveaxis(found.gradient, 1, -1)
    truth = evaluate(spec, x, target, sample_weight=weight)
    within(Result(found.loss, gradient, found.terms, found.map), truth, spec)
