"""Native numerics in PyTorch: near the oracle, differentiable twice, the rules of the definition."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from dualloss import TOTAL_LOSS, BinaryCrossEntropy, Boundary, CrossEntropy, Huber, MeanSquaredError, Spec
from dualloss.oracle import Result, evaluate, native_bound, scaled_ulp_error

torch = pytest.importorskip("torch")
native = pytest.importorskip("dualloss.torch.native")

IGNORED = 255
MODES = ["eager", "traced"]  # "traced": the graphs of torch.compile, run without the slow generation of code
WEIGHTS = (0.1, 1.0, 0.0, 2.0, 0.7)

# A spec and its data: the spatial sizes, the kind of target, the kind of sample weight.
CASES: dict[str, tuple[Spec, tuple[int, ...], str, str]] = {
    "cross_entropy": (CrossEntropy(), (16, 12), "labels", ""),
    "cross_entropy_flat": (CrossEntropy(), (), "labels", "weights"),
    "cross_entropy_weights": (
        CrossEntropy(class_weights=WEIGHTS, ignore_index=IGNORED),
        (9, 7),
        "labels",
        "weights",
    ),
    "cross_entropy_smooth": (
        CrossEntropy(class_weights=WEIGHTS, label_smoothing=0.1, normalizer="valid", ignore_index=IGNORED),
        (9, 7),
        "labels",
        "mask",
    ),
    "cross_entropy_soft": (CrossEntropy(class_weights=WEIGHTS), (40,), "soft", "mask"),
    "cross_entropy_all": (CrossEntropy(normalizer="elements"), (3, 4, 5), "soft", "weights"),
    "binary": (BinaryCrossEntropy(), (9, 7), "soft", ""),
    "binary_labels": (
        BinaryCrossEntropy(pos_weight=WEIGHTS, label_smoothing=0.1) + 0.0 * CrossEntropy(ignore_index=IGNORED),
        (9, 7),
        "labels",
        "weights",
    ),
    "mean_squared_error": (MeanSquaredError(), (9, 7), "real", "weights"),
    "huber": (Huber(delta=0.7), (30,), "real", "mask"),
    "boundary": (Boundary(), (16, 12), "labels", ""),
    "boundary_1d": (Boundary(padding="reflect", ignore_index=IGNORED), (50,), "labels", "weights"),
    "boundary_2d": (Boundary(kernel="laplacian8", padding="replicate"), (9, 7), "soft", "mask"),
    "boundary_3d": (
        Boundary(kernel="laplacian8", padding="reflect", ignore_index=IGNORED),
        (6, 1, 5),
        "labels",
        "",
    ),
    "boundary_softmax": (
        Boundary(on="probabilities", padding="replicate", ignore_index=IGNORED),
        (9, 7),
        "labels",
        "weights",
    ),
    "boundary_softmax_3d": (Boundary(kernel="laplacian8", on="probabilities"), (4, 3, 5), "soft", ""),
    "total": (TOTAL_LOSS, (16, 12), "labels", ""),
    "sum": (
        CrossEntropy(ignore_index=IGNORED) + 0.5 * Boundary(on="probabilities") + 0.1 * Huber(),
        (9, 7),
        "labels",
        "weights",
    ),
}
each_case = pytest.mark.parametrize("case", CASES)


def example(case: str, scale: float = 3.0, channels: int = 5) -> tuple[Spec, Any, Any, Any]:
    """The spec of a case, an input with the channels last, a target and a sample weight."""
    spec, spatial, target, weight = CASES[case]
    rng = np.random.default_rng(7)
    shape = (3, *spatial)
    x = (rng.normal(size=(*shape, channels)) * scale).astype(np.float32)
    t: Any = rng.integers(0, channels, shape)
    if target == "labels" and spec.ignore_index is not None:
        t = np.where(rng.random(shape) < 0.1, IGNORED, t)
    if target == "soft":
        t = rng.dirichlet(np.ones(channels), shape).astype(np.float32)
    if target == "real":
        t = rng.normal(size=x.shape).astype(np.float32)
    s = {
        "": None,
        "mask": rng.random(shape) < 0.8,
        "weights": rng.integers(0, 4, shape).astype(np.float32) / 3,
    }
    return spec, x, t, s[weight]


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
    """Value and gradient by PyTorch, in the form of the oracle's."""

    def loss(x: Any, target: Any, weight: Any) -> Any:
        options.setdefault("channel_axis", -1)
        return native.loss(spec, x, target, weight, reduction=reduction, **options)

    if mode != "eager":
        torch.compiler.reset()
        loss = torch.compile(loss, fullgraph=True, backend={"traced": "aot_eager"}.get(mode, "inductor"))
    leaf = (x if isinstance(x, torch.Tensor) else torch.tensor(x)).requires_grad_()
    value, terms = loss(leaf, torch.tensor(target), None if weight is None else torch.tensor(weight))
    (gradient,) = torch.autograd.grad(value, leaf, torch.tensor(upstream, dtype=value.dtype).expand_as(value))
    assert gradient.dtype == leaf.dtype and value.dtype in (torch.float32, leaf.dtype)
    detached = {name: term.detach().numpy() for name, term in terms.items()}
    loss_ = value.detach().numpy()
    return Result(loss_, gradient.double().numpy(), detached, loss_)


def within(found: Result, truth: Result, spec: Spec, dtype: str = "float32") -> None:
    """Assert that value and gradient are within the bound; that of a sum is the sum of its terms' bounds."""
    bounds = [native_bound(term) for weight, term in spec.parts if weight]
    values = sum(bound.map if np.ndim(truth.loss) else bound.loss for bound in bounds)
    assert scaled_ulp_error(found.loss, truth.loss) <= values
    assert scaled_ulp_error(found.gradient, truth.gradient, dtype) <= sum(bound.gradient for bound in bounds)


@each_case
@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
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


@pytest.mark.parametrize(
    ("case", "mode"),
    [(case, "traced") for case in CASES]
    + [(case, "compiled") for case in ("cross_entropy_soft", "binary_labels", "total", "sum")],
)
def test_compiled(case: str, mode: str) -> None:
    """`torch.compile(fullgraph=True)` keeps the bound."""
    spec, x, target, weight = example(case)
    found = run(spec, x, target, weight, mode=mode)
    within(found, evaluate(spec, x, target, sample_weight=weight), spec)


def test_compiled_for_any_size() -> None:
    """One graph for batches and images of every size."""
    spec = CrossEntropy(ignore_index=IGNORED) + Boundary(padding="reflect", ignore_index=IGNORED)
    torch.compiler.reset()
    compiled = torch.compile(
        lambda x, t: native.loss(spec, x, t, None, reduction="mean", channel_axis=1)[0],
        fullgraph=True,
        dynamic=True,
    )
    rng = np.random.default_rng(2)
    for i, size in enumerate([(2, 5, 6), (3, 8, 7), (5, 4, 9)]):
        x, labels = rng.normal(size=(size[0], 4, *size[1:])).astype(np.float32), rng.integers(0, 4, size)
        with torch.compiler.set_stance("fail_on_recompile" if i else "default"):
            value = compiled(torch.tensor(x), torch.tensor(labels))
        truth = evaluate(spec, x, labels, channel_axis=1).loss
        assert scaled_ulp_error(value, truth) <= 2 * native_bound(Boundary()).loss


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
    half = torch.tensor(x).to(getattr(torch, dtype))
    found = run(spec, half, target, weight, upstream=64.0)
    truth = evaluate(spec, half.detach().double().numpy(), target, sample_weight=weight, upstream=64.0)
    assert scaled_ulp_error(found.loss, truth.loss) <= sum(native_bound(term).loss for _, term in spec.parts)
    assert scaled_ulp_error(found.gradient, truth.gradient, dtype) <= 0.51


@each_case
def test_gradients_of_gradients(case: str) -> None:
    """The derivatives of the gradient, in float64."""
    spec, *data = example(case, scale=1.0)
    corner = (slice(1), *(slice(3) for _ in CASES[case][1]))
    x = torch.tensor(data[0][corner], dtype=torch.float64, requires_grad=True)
    target, weight = (None if v is None else torch.tensor(v[corner]) for v in data[1:])

    def loss(x: Any) -> Any:
        return native.loss(spec, x, target, weight, reduction="mean", channel_axis=-1)[0]

    assert torch.autograd.gradcheck(loss, x)
    assert torch.autograd.gradgradcheck(loss, x)


# --- The rules: exactly 0, NaN or an infinity where the oracle has it ---


@each_case
@pytest.mark.parametrize("mode", MODES)
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


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "spec",
    [
        CrossEntropy(),
        CrossEntropy(label_smoothing=0.1),
        CrossEntropy(class_weights=(1, 2, 3)),
        BinaryCrossEntropy(),
        MeanSquaredError(),
        Boundary(),
        Boundary(on="probabilities"),
    ],
    ids=repr,
)
def test_labels_out_of_range_are_nan(spec: Spec, mode: str) -> None:
    """In the places where the oracle has NaN."""
    labels = np.array([[0, 1, 2, 3, 0, 1, 2, 0, -1, 1], [0, 1, 2, 3, 0, 1, 2, 0, 0, 1]])
    x = np.random.default_rng(8).normal(size=(2, 10, 3)).astype(np.float32)
    weight = np.ones((2, 10), np.float32)
    weight[1, 3] = 0
    for s in (None, weight):
        for reduction in ("none", "mean"):
            found = run(spec, x, labels, s, reduction, mode=mode)
            within(found, evaluate(spec, x, labels, sample_weight=s, reduction=reduction), spec)


INFINITE = [
    [0.0, -math.inf, 1.0],
    [-math.inf] * 3,
    [0.0, math.inf, 1.0],
    [0.0, math.nan, 1.0],
    [-math.inf, 2.0, 1.0],
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(
    "spec",
    [
        CrossEntropy(),
        CrossEntropy(label_smoothing=0.1),
        CrossEntropy(class_weights=(1, 0, 3)),
        CrossEntropy(class_weights=(1, 0, 3), label_smoothing=0.1),
        BinaryCrossEntropy(),
        BinaryCrossEntropy(pos_weight=(1, 0, 3)),
        MeanSquaredError(),
        Huber(),
    ],
    ids=repr,
)
def test_infinite_inputs(spec: Spec, soft: bool, mode: str) -> None:
    """A logit of -inf is a class of probability 0; the rest follows from the formulas."""
    x = np.repeat(np.array(INFINITE, np.float32), 3, 0)
    labels: Any = np.tile(np.arange(3), 5)
    target = np.eye(3, dtype=np.float32)[labels] if soft else labels
    found = run(spec, x, target, reduction="none", mode=mode)
    within(found, evaluate(spec, x, target, reduction="none"), spec)


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
    found = run(spec, x, target, weight, mask=torch.tensor(mask))
    truth = evaluate(spec, x, np.where(mask, target, IGNORED), sample_weight=weight)
    within(found, truth, spec)
    both = run(spec, x, target, ~mask, mask=torch.tensor(mask))
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
