"""The PyTorch backend as users meet it: the bits of the NumPy engine, autograd, compilation, errors."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from dualloss import TOTAL_LOSS, BinaryCrossEntropy, Boundary, CrossEntropy, Huber, MeanSquaredError
from dualloss.exact import loss_and_gradient

torch = pytest.importorskip("torch")

from dualloss.torch import Loss, total_loss  # noqa: E402

SameBits = Callable[[Any, Any], None]
ALL_TERMS = CrossEntropy() + 0.5 * Boundary() + MeanSquaredError() + BinaryCrossEntropy() + Huber(delta=0.7)


def first(array: Any) -> Any:
    """A tensor with the channels, NumPy's last axis, on axis 1."""
    array = np.asarray(array)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1) if array.ndim > 1 else array))


def target_of(case: Any) -> Any:
    return first(case.target) if case.target.shape == case.x.shape else torch.from_numpy(case.target)


def weight_of(case: Any) -> Any:
    return None if case.weight is None else torch.from_numpy(case.weight)


def value_and_gradient(loss: Any, x: Any, *args: Any, upstream: Any = None, **options: Any) -> tuple[Any, Any]:
    x = x.detach().requires_grad_()
    value = loss(x, *args, **options)
    value.backward(upstream)
    return value.detach(), x.grad


def numpy_bits(case: Any, **options: Any) -> tuple[Any, Any]:
    result = loss_and_gradient(case.spec, case.x, case.target, case.weight, **options)
    return result.loss, first(result.gradient)


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


# Values and gradients


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_bits_are_those_of_numpy(case: Any, reduction: str, same_bits: SameBits) -> None:
    loss = Loss(case.spec, reduction=reduction)
    value = loss(first(case.x), target_of(case), weight_of(case))
    upstream = torch.linspace(-1, 2, value.numel()).reshape(value.shape) if reduction == "none" else None
    found = value_and_gradient(loss, first(case.x), target_of(case), weight_of(case), upstream=upstream)
    wanted = numpy_bits(case, reduction=reduction, upstream=1.0 if upstream is None else upstream.numpy())
    same_bits(found[0], wanted[0])
    same_bits(found[1], wanted[1])


def test_labels_and_one_hot_targets_have_the_same_bits(total: Any, same_bits: SameBits) -> None:
    labels = torch.from_numpy(total.target)
    one_hot = torch.nn.functional.one_hot(labels, 4).movedim(-1, 1)
    by_label = value_and_gradient(Loss(TOTAL_LOSS), first(total.x), labels)
    for dense in (one_hot, one_hot.float(), one_hot.half(), one_hot.bool()):
        by_vector = value_and_gradient(Loss(TOTAL_LOSS), first(total.x), dense)
        same_bits(by_vector[0], by_label[0])
        same_bits(by_vector[1], by_label[1])


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32"])
def test_labels_of_any_integer_dtype(dtype: str, total: Any, same_bits: SameBits) -> None:
    labels = torch.from_numpy(total.target).to(getattr(torch, dtype))
    same_bits(Loss(TOTAL_LOSS)(first(total.x), labels), numpy_bits(total)[0])


def test_total_loss_takes_the_target_first(total: Any, same_bits: SameBits) -> None:
    x = first(total.x).requires_grad_()
    value = total_loss(torch.from_numpy(total.target), x)
    value.backward()
    same_bits(value, numpy_bits(total)[0])
    same_bits(x.grad, numpy_bits(total)[1])


def test_total_loss_has_the_arguments_y_true_and_y_pred(total: Any, same_bits: SameBits) -> None:
    value = total_loss(y_pred=first(total.x), y_true=torch.from_numpy(total.target))
    same_bits(value, numpy_bits(total)[0])


@pytest.mark.parametrize(
    ("y_true", "y_pred", "message"),
    [
        (
            torch.zeros(2, 5, dtype=torch.int64),
            torch.zeros(2, 3, 4),
            r"^y_true has shape \(2, 5\).* for y_pred \(2, 3, 4\)",
        ),
        (torch.full((2, 4), 3), torch.zeros(2, 3, 4), "^y_true has label 3"),
        (torch.zeros(2, 4), torch.zeros(2, 3, 4), "^y_true has dtype torch.float32"),
        (torch.zeros(2, 4), torch.zeros(2, 3, 4).double(), "^y_pred has dtype torch.float64"),
        ([0], torch.zeros(2, 3, 4), "^y_true is list"),
        (torch.zeros(2, 3, 4).requires_grad_(), torch.zeros(2, 3, 4), "^y_true requires a gradient.* y_pred only"),
    ],
    ids=["shape", "label", "dtype", "prediction", "list", "gradient"],
)
def test_errors_of_total_loss_speak_of_its_arguments(y_true: Any, y_pred: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        total_loss(y_true, y_pred)


@pytest.mark.parametrize("upstream", [65536.0, 0.3, 0.0, -1.0, float("inf")])
def test_upstream_gradient(upstream: float, total: Any, same_bits: SameBits) -> None:
    found = value_and_gradient(
        Loss(TOTAL_LOSS), first(total.x), torch.from_numpy(total.target), upstream=torch.tensor(upstream)
    )
    same_bits(found[1], numpy_bits(total, upstream=upstream)[1])


def test_a_scaled_loss_has_the_gradient_of_that_upstream(total: Any, same_bits: SameBits) -> None:
    x = first(total.x).requires_grad_()
    (65536.0 * Loss(TOTAL_LOSS)(x, torch.from_numpy(total.target))).backward()
    same_bits(x.grad, numpy_bits(total, upstream=65536.0)[1])


def test_a_map_reduced_outside_has_the_gradient_of_that_upstream(total: Any, same_bits: SameBits) -> None:
    x = first(total.x).requires_grad_()
    (Loss(TOTAL_LOSS, reduction="none")(x, torch.from_numpy(total.target)).sum() * 0.25).backward()
    same_bits(x.grad, numpy_bits(total, reduction="none", upstream=0.25)[1])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_gradient_has_the_dtype_of_the_input(dtype: str, total: Any, same_bits: SameBits) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = first(total.x).to(getattr(torch, dtype))
    value, gradient = value_and_gradient(Loss(TOTAL_LOSS), x, torch.from_numpy(total.target))
    half = total.x.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16)
    wanted = loss_and_gradient(TOTAL_LOSS, half, total.target)
    assert value.dtype == torch.float32
    assert gradient.dtype == x.dtype
    same_bits(value, wanted.loss)
    same_bits(gradient.movedim(1, -1).contiguous().view(torch.int16), wanted.gradient.view(np.int16))


def test_memory_layout_does_not_show(total: Any, same_bits: SameBits) -> None:
    labels, wanted = torch.from_numpy(total.target), numpy_bits(total)
    x = first(total.x)
    views = {
        "channels_last": x.contiguous(memory_format=torch.channels_last),
        "transposed": x.transpose(2, 3).contiguous().transpose(2, 3),
        "strided": torch.stack([x, x + 1], -1)[..., 0],
        "expanded": x[:1].expand(2, -1, -1, -1),
    }
    for name, view in views.items():
        assert name == "channels_last" or not view.is_contiguous()
        found = value_and_gradient(Loss(TOTAL_LOSS), view, labels.transpose(1, 2).contiguous().transpose(1, 2))
        if name == "expanded":
            same = loss_and_gradient(TOTAL_LOSS, np.stack([total.x[0]] * 2), total.target)
            same_bits(found[0], same.loss)
            same_bits(found[1], first(same.gradient))
        else:
            same_bits(found[0], wanted[0])
            same_bits(found[1], wanted[1])


@pytest.mark.parametrize("axis", [-1, 3])
def test_channels_on_the_last_axis(axis: int, case: Any, same_bits: SameBits) -> None:
    axis = axis if axis == -1 or case.x.ndim == 4 else max(case.x.ndim - 1, 1)
    loss = Loss(case.spec, channel_axis=axis)
    found = value_and_gradient(loss, torch.from_numpy(case.x), torch.from_numpy(case.target), weight_of(case))
    wanted = loss_and_gradient(case.spec, case.x, case.target, case.weight)
    same_bits(found[0], wanted.loss)
    same_bits(found[1], wanted.gradient)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("numerics", ["exact", "native"])
def test_all_ignored_gives_zero(numerics: str, reduction: str, same_bits: SameBits) -> None:
    spec = CrossEntropy(ignore_index=-100, class_weights=(1, 2, 3)) + 0.5 * Boundary() + Huber()
    loss = Loss(spec, reduction=reduction, numerics=numerics)
    x = torch.randn(2, 3, 4, 4)
    value, gradient = value_and_gradient(loss, x, torch.full((2, 4, 4), -100))
    same_bits(value, np.float32(0))
    assert not gradient.any()


@pytest.mark.parametrize("numerics", ["exact", "native"])
def test_all_masked_gives_zero(numerics: str, same_bits: SameBits) -> None:
    value, gradient = value_and_gradient(
        Loss(TOTAL_LOSS, numerics=numerics),
        torch.full((2, 3, 4, 4), float("nan")),
        torch.zeros(2, 4, 4, dtype=torch.long),
        torch.zeros(2, dtype=torch.bool),
    )
    same_bits(value, np.float32(0))
    assert not gradient.any()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("numerics", ["exact", "native"])
def test_empty_batch(numerics: str, reduction: str) -> None:
    loss = Loss(TOTAL_LOSS, reduction=reduction, numerics=numerics)
    x = torch.zeros(0, 3, 4, 5).requires_grad_()
    value = loss(x, torch.zeros(0, 4, 5, dtype=torch.long))
    value.sum().backward()
    assert value.shape == ((0, 4, 5) if reduction == "none" else ())
    assert value.dtype == torch.float32
    assert not value.any()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("numerics", ["exact", "native"])
def test_zero_weight_hides_nan(numerics: str) -> None:
    x = torch.randn(2, 3, 4)
    x[1] = float("nan")
    value, gradient = value_and_gradient(
        Loss(CrossEntropy(), numerics=numerics),
        x,
        torch.zeros(2, 4, dtype=torch.long),
        torch.tensor([1.0, 0.0]),
    )
    assert value.isfinite()
    assert gradient[0].any()
    assert not gradient[1].any()


def test_nan_input_gives_the_nan_of_the_definition(same_bits: SameBits) -> None:
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
    x[0, 1, 1, 1] = np.nan
    labels = np.zeros((2, 4, 4), np.int64)
    found = value_and_gradient(Loss(TOTAL_LOSS), first(x), torch.from_numpy(labels))
    wanted = loss_and_gradient(TOTAL_LOSS, x, labels)
    assert torch.isnan(found[0])
    same_bits(found[0], wanted.loss)
    same_bits(found[1], first(wanted.gradient))


@pytest.mark.usefixtures("one_thread")
def test_number_of_threads_does_not_show(make_case: Any, same_bits: SameBits) -> None:
    big = make_case(TOTAL_LOSS, (2, 64, 64, 11), "labels", "position")
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(value_and_gradient(Loss(TOTAL_LOSS), first(big.x), target_of(big), weight_of(big)))
    wanted = numpy_bits(big)
    for value, gradient in found:
        same_bits(value, wanted[0])
        same_bits(gradient, wanted[1])


def test_flushed_subnormals_do_not_show(make_case: Any, same_bits: SameBits) -> None:
    tiny = make_case(CrossEntropy() + MeanSquaredError(), (3, 5, 4), "soft")
    x = tiny.x.copy()
    x[0] = np.float32(1e-40)
    x[1, :, 0] = 88  # the others' probabilities, and so their gradients, get near the smallest floats
    wanted = loss_and_gradient(tiny.spec, x, tiny.target, upstream=2.0**-110)
    assert torch.set_flush_denormal(True)
    try:
        found = value_and_gradient(Loss(tiny.spec), first(x), first(tiny.target), upstream=torch.tensor(2.0**-110))
    finally:
        torch.set_flush_denormal(False)
    same_bits(found[0], wanted.loss)
    same_bits(found[1], first(wanted.gradient))


def test_default_dtype_does_not_show(case: Any, same_bits: SameBits) -> None:
    wanted = numpy_bits(case)
    torch.set_default_dtype(torch.float64)
    try:
        found = value_and_gradient(Loss(case.spec), first(case.x), target_of(case), weight_of(case))
    finally:
        torch.set_default_dtype(torch.float32)
    same_bits(found[0], wanted[0])
    same_bits(found[1], wanted[1])


# Autograd


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_value_without_autograd(context: Any, reduction: str, total: Any, same_bits: SameBits) -> None:
    with context():
        value = Loss(TOTAL_LOSS, reduction=reduction)(first(total.x).requires_grad_(), torch.from_numpy(total.target))
    assert not value.requires_grad
    same_bits(value, numpy_bits(total, reduction=reduction)[0])


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_constant_input_needs_no_gradient(reduction: str, total: Any) -> None:
    value = Loss(TOTAL_LOSS, reduction=reduction)(first(total.x), torch.from_numpy(total.target))
    assert not value.requires_grad


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_second_derivative_of_exact_numerics_is_refused(reduction: str, total: Any) -> None:
    x = first(total.x).requires_grad_()
    value = Loss(TOTAL_LOSS, reduction=reduction)(x, torch.from_numpy(total.target)).sum()
    (gradient,) = torch.autograd.grad(value, x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"differentiated once only.*numerics='native'"):
        gradient.square().sum().backward()


def test_second_derivative_of_native_numerics(total: Any) -> None:
    loss, labels = Loss(TOTAL_LOSS, numerics="native"), torch.from_numpy(total.target)
    x = first(total.x)
    direction = torch.linspace(-1, 1, x.numel()).reshape(x.shape)
    _, product = torch.autograd.functional.vhp(lambda x: loss(x, labels), x, direction)
    step = 2.0**-6
    ahead, behind = (value_and_gradient(loss, x + s * direction, labels)[1] for s in (step, -step))
    torch.testing.assert_close(product, (ahead - behind) / (2 * step), rtol=1e-3, atol=1e-5)
    assert product.abs().max() > 0.01


def test_gradient_flows_through_a_graph_only_once_retained(total: Any, same_bits: SameBits) -> None:
    x = first(total.x).requires_grad_()
    value = Loss(TOTAL_LOSS)(x, torch.from_numpy(total.target))
    (once,) = torch.autograd.grad(value, x, retain_graph=True)
    (twice,) = torch.autograd.grad(value, x)
    same_bits(once, twice)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(value, x)


def test_the_input_may_not_be_changed_before_the_backward_pass(total: Any) -> None:
    x = first(total.x).requires_grad_()
    logits = x * 1
    value = Loss(TOTAL_LOSS)(logits, torch.from_numpy(total.target))
    logits.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_autocast_around_model_and_loss() -> None:
    torch.manual_seed(0)
    model, labels = torch.nn.Conv2d(3, 4, 3, padding=1), torch.randint(4, (2, 6, 6))
    image = torch.randn(2, 3, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(image)
        logits.retain_grad()
        value = Loss(TOTAL_LOSS)(logits, labels)
    value.backward()
    assert logits.dtype == logits.grad.dtype == torch.bfloat16
    assert value.dtype == model.weight.grad.dtype == torch.float32
    outside, gradient = value_and_gradient(Loss(TOTAL_LOSS), logits, labels)
    assert torch.equal(value, outside)
    assert torch.equal(logits.grad, gradient)


# torch.compile


@pytest.fixture(scope="module")
def compiled() -> Any:
    """The total loss, compiled once, since generating code takes long; the tests use one shape."""
    torch.compiler.reset()
    return torch.compile(Loss(TOTAL_LOSS), fullgraph=True)


def test_compiled_bits(compiled: Any, total: Any, same_bits: SameBits) -> None:
    found = value_and_gradient(compiled, first(total.x), torch.from_numpy(total.target))
    wanted = numpy_bits(total)
    same_bits(found[0], wanted[0])
    same_bits(found[1], wanted[1])


def test_compiled_upstream_gradient(compiled: Any, total: Any, same_bits: SameBits) -> None:
    found = value_and_gradient(compiled, first(total.x), torch.from_numpy(total.target), upstream=torch.tensor(0.3))
    same_bits(found[1], numpy_bits(total, upstream=0.3)[1])


def test_label_out_of_range_is_nan_in_a_compiled_graph(compiled: Any, total: Any, same_bits: SameBits) -> None:
    labels = total.target.copy()
    labels[0, 1, 1] = 4
    found = value_and_gradient(compiled, first(total.x), torch.from_numpy(labels))
    wanted = loss_and_gradient(TOTAL_LOSS, total.x, labels, check_labels=False)
    assert torch.isnan(found[0])
    assert torch.isnan(found[1][0, :, 1, 1]).all()
    assert found[1][1].isfinite().all()
    same_bits(found[0], wanted.loss)
    same_bits(found[1], first(wanted.gradient))


def test_one_graph_for_all_shapes(make_case: Any, same_bits: SameBits) -> None:
    torch.compiler.reset()
    loss = torch.compile(Loss(TOTAL_LOSS, reduction="none"), fullgraph=True, dynamic=True, backend="aot_eager")
    for i, shape in enumerate([(2, 5, 6, 4), (3, 7, 3, 4), (5, 4, 9, 4)]):
        case = make_case(TOTAL_LOSS, shape, "labels", "position")
        upstream = torch.linspace(-1, 2, case.target.size).reshape(shape[:-1])
        with torch.compiler.set_stance("fail_on_recompile" if i else "default"):
            found = value_and_gradient(loss, first(case.x), target_of(case), weight_of(case), upstream=upstream)
        wanted = numpy_bits(case, reduction="none", upstream=upstream.numpy())
        same_bits(found[0], wanted[0])
        same_bits(found[1], wanted[1])


@pytest.mark.parametrize("numerics", ["exact", "native"])
def test_losses_that_differ_in_their_numbers_compile(numerics: str, total: Any, same_bits: SameBits) -> None:
    """On the second float at the same place torch.compile makes it symbolic."""
    torch.compiler.reset()
    for number in (0.3, 0.7):
        spec = CrossEntropy(label_smoothing=number) + number * Huber(delta=number)
        loss = Loss(spec, numerics=numerics)
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        args = first(total.x), torch.from_numpy(total.target)
        same_bits(value_and_gradient(compiled, *args)[1], value_and_gradient(loss, *args)[1])


@pytest.mark.parametrize(
    "case", ["classes_weighted", "boundary_of_probabilities", "rank_1", "all_terms"], indirect=True
)
def test_traced_bits(case: Any, same_bits: SameBits) -> None:
    """Traced into one graph as for compilation, without the slow generation of code."""
    torch.compiler.reset()
    loss = torch.compile(Loss(case.spec), fullgraph=True, backend="aot_eager")
    found = value_and_gradient(loss, first(case.x), target_of(case), weight_of(case))
    wanted = numpy_bits(case)
    same_bits(found[0], wanted[0])
    same_bits(found[1], wanted[1])


def test_model_and_loss_compile_as_one_graph(total: Any, same_bits: SameBits) -> None:
    torch.compiler.reset()
    torch.manual_seed(0)
    model, loss = torch.nn.Conv2d(4, 4, 1), Loss(TOTAL_LOSS)

    def step(x: Any, labels: Any) -> Any:
        value, terms = loss(model(x), labels, return_terms=True)
        return value, terms["boundary"]

    args = first(total.x), torch.from_numpy(total.target)
    plain = step(*args)
    together = torch.compile(step, fullgraph=True, backend="aot_eager")(*args)
    same_bits(together[0], plain[0])
    same_bits(together[1], plain[1])


# The module


def test_pickle_and_deepcopy_keep_the_settings(total: Any, same_bits: SameBits) -> None:
    loss = Loss(0.3 * TOTAL_LOSS, reduction="sum", channel_axis=-1)
    args = torch.from_numpy(total.x), torch.from_numpy(total.target)
    for other in (pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss)):
        assert repr(other) == repr(loss)
        same_bits(other(*args), loss(*args))


def test_moving_the_module_changes_nothing(total: Any, same_bits: SameBits) -> None:
    loss = Loss(TOTAL_LOSS).to("cpu").to(torch.float64).half().eval()
    same_bits(loss(first(total.x), torch.from_numpy(total.target)), numpy_bits(total)[0])


def test_module_has_no_state() -> None:
    loss = Loss(CrossEntropy(class_weights=(1, 2)))
    assert not loss.state_dict()
    assert not [*loss.parameters(), *loss.buffers()]
    loss.load_state_dict({})


def test_repr_shows_the_settings() -> None:
    text = repr(Loss(CrossEntropy(ignore_index=255) + 0.5 * Boundary(), reduction="sum", channel_axis=-1))
    assert text == (
        "Loss(CrossEntropy(ignore_index=255) + 0.5 * Boundary(), reduction='sum', numerics='exact', channel_axis=-1)"
    )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("numerics", ["exact", "native"])
def test_returned_terms_are_the_separate_losses(numerics: str, reduction: str, total: Any, same_bits: SameBits) -> None:
    options = {"reduction": reduction, "numerics": numerics}
    x, labels = first(total.x).requires_grad_(), torch.from_numpy(total.target)
    value, terms = Loss(TOTAL_LOSS, **options)(x, labels, return_terms=True)
    same_bits(value, Loss(TOTAL_LOSS, **options)(x, labels))
    assert list(terms) == ["cross_entropy", "boundary"]
    for name, spec in (("cross_entropy", CrossEntropy()), ("boundary", Boundary())):
        assert not terms[name].requires_grad
        same_bits(terms[name], Loss(spec, **options)(x, labels))


def test_a_term_of_weight_zero_is_reported_but_not_counted(total: Any, same_bits: SameBits) -> None:
    x, labels = first(total.x), torch.from_numpy(total.target)
    value, terms = Loss(CrossEntropy() + 0 * Boundary())(x, labels, return_terms=True)
    same_bits(value, Loss(CrossEntropy())(x, labels))
    same_bits(terms["boundary"], Loss(Boundary())(x, labels))


# Sums


@pytest.fixture
def batch(make_case: Any) -> Any:
    spec = CrossEntropy(class_weights=(1, 0.3, 2), ignore_index=255) + 0.5 * Boundary(padding="replicate") + Huber()
    return make_case(spec, (9, 5, 4, 3), "labels", "position")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_sums_of_any_split_give_the_bits_of_the_whole(
    seed: int, reduction: str, batch: Any, same_bits: SameBits
) -> None:
    rng = np.random.default_rng(seed)
    loss = Loss(batch.spec, reduction=reduction)
    args = first(batch.x), target_of(batch), weight_of(batch)
    order = rng.permutation(9)
    parts = np.split(order, np.sort(rng.integers(0, 10, 3)))  # some of them may be empty
    added = sum(loss.sums(*(a[part] for a in args)) for part in parts)
    assert torch.equal(added, loss.sums(*args))
    same_bits(loss.from_sums(added), loss(*args))


def test_sums_have_the_bits_of_numpy(case: Any) -> None:
    found = Loss(case.spec).sums(first(case.x).requires_grad_(), target_of(case), weight_of(case))
    wanted = loss_and_gradient(case.spec, case.x, case.target, case.weight).sums
    assert found.dtype == torch.int64
    assert not found.requires_grad
    np.testing.assert_array_equal(found.numpy(), wanted)


def test_micro_batches_with_totals_have_the_gradient_of_the_whole(batch: Any, same_bits: SameBits) -> None:
    loss = Loss(batch.spec)
    args = first(batch.x), target_of(batch), weight_of(batch)
    value, gradient = value_and_gradient(loss, *args)
    totals = loss.sums(*args)
    parts = [
        value_and_gradient(loss, *(a[s] for a in args), totals=totals) for s in (slice(0, 4), slice(4, 5), slice(5, 9))
    ]
    same_bits(torch.cat([g for _, g in parts]), gradient)
    torch.testing.assert_close(sum(v for v, _ in parts), value, rtol=1e-6, atol=0)


def test_micro_batches_with_totals_and_a_map(batch: Any, same_bits: SameBits) -> None:
    loss = Loss(batch.spec, reduction="none")
    args = first(batch.x), target_of(batch), weight_of(batch)
    upstream = torch.linspace(-1, 2, batch.target.size).reshape(batch.target.shape)
    _, gradient = value_and_gradient(loss, *args, upstream=upstream)
    parts = [
        value_and_gradient(loss, *(a[s] for a in args), upstream=upstream[s], totals=loss.sums(*args))[1]
        for s in (slice(0, 4), slice(4, 9))
    ]
    same_bits(torch.cat(parts), gradient)


@pytest.mark.parametrize("numerics", ["native", "exact"])
def test_what_sums_cannot_do_is_said(numerics: str, total: Any) -> None:
    args = first(total.x), torch.from_numpy(total.target)
    sums = Loss(TOTAL_LOSS).sums(*args)
    if numerics == "exact":
        with pytest.raises(ValueError, match="reduction is 'none'"):
            Loss(TOTAL_LOSS, reduction="none").from_sums(sums)
        return
    native = Loss(TOTAL_LOSS, numerics="native")
    for call in (
        lambda: native.sums(*args),
        lambda: native.from_sums(sums),
        lambda: native(*args, totals=sums),
    ):
        with pytest.raises(ValueError, match="needs numerics='exact'"):
            call()


# Native numerics


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_native_is_close_to_exact(case: Any, reduction: str) -> None:
    args = target_of(case), weight_of(case)
    found = {}
    for numerics in ("exact", "native"):
        loss = Loss(case.spec, reduction=reduction, numerics=numerics)
        value = loss(first(case.x), *args)
        found[numerics] = value_and_gradient(loss, first(case.x), *args, upstream=torch.ones_like(value) * 0.3)
    for native, exact in zip(found["native"], found["exact"], strict=True):
        assert exact.any()
        torch.testing.assert_close(native, exact, rtol=1e-5, atol=1e-5 * exact.abs().max().item())


def test_native_label_out_of_range_is_an_error_too(total: Any) -> None:
    with pytest.raises(ValueError, match="label 4"):
        Loss(TOTAL_LOSS, numerics="native")(first(total.x), torch.full((2, 5, 6), 4))


# Training


@pytest.mark.parametrize("numerics", ["exact", "native"])
def test_training_lowers_the_loss(numerics: str) -> None:
    torch.manual_seed(0)
    image = torch.randn(4, 2, 8, 8)
    labels = (image[:, 0] > 0).long() + (image[:, 1] > 0).long()
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 8, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 3, 1))
    loss, optimizer = Loss(TOTAL_LOSS, numerics=numerics), torch.optim.Adam(model.parameters(), 0.05)
    values = []
    for _ in range(40):
        optimizer.zero_grad()
        values.append(loss(model(image), labels))
        values[-1].backward()
        optimizer.step()
    assert values[-1] < 0.5 * values[0]


def test_gradient_scaler_recovers_the_gradient_in_half_precision(make_case: Any) -> None:
    """Scaled by 65536, the gradients of a large float16 batch do not vanish."""
    big = make_case(CrossEntropy(), (4, 64, 64, 5), "labels")
    x, labels = first(big.x).half(), target_of(big)
    plain = value_and_gradient(Loss(CrossEntropy()), x, labels)[1]
    scaled = value_and_gradient(Loss(CrossEntropy()), x, labels, upstream=torch.tensor(65536.0))[1]
    full = value_and_gradient(Loss(CrossEntropy()), x.float(), labels)[1]
    torch.testing.assert_close(scaled.float() / 65536, full, rtol=1e-3, atol=1e-9)
    assert (plain == 0).sum() > (scaled == 0).sum()


# Errors


def pair(shape: tuple[int, ...] = (2, 3, 4, 4), target: tuple[int, ...] = (2, 4, 4)) -> tuple[Any, Any]:
    return torch.zeros(shape), torch.zeros(target, dtype=torch.long)


def with_label(value: int, where: tuple[int, ...]) -> tuple[Any, Any]:
    x, labels = pair()
    labels[where] = value
    return x, labels


ERRORS: dict[str, tuple[Any, tuple[Any, ...], type[Exception], str]] = {
    "float64 input": (
        TOTAL_LOSS,
        (torch.zeros(2, 3, 4, 4, dtype=torch.float64), pair()[1]),
        TypeError,
        r"input has dtype torch.float64, expected float16, bfloat16 or float32",
    ),
    "integer input": (TOTAL_LOSS, (pair()[0].long(), pair()[1]), TypeError, r"input has dtype torch.int64"),
    "float labels": (
        TOTAL_LOSS,
        (pair()[0], pair()[1].float()),
        TypeError,
        r"target has dtype torch.float32, expected integer class indices for its shape \(2, 4, 4\)",
    ),
    "boolean labels": (TOTAL_LOSS, (pair()[0], pair()[1].bool()), TypeError, r"target has dtype torch.bool"),
    "float64 target": (
        TOTAL_LOSS,
        (pair()[0], pair()[0].double()),
        TypeError,
        r"target has dtype torch.float64",
    ),
    "float64 weight": (
        TOTAL_LOSS,
        (*pair(), torch.ones(2).double()),
        TypeError,
        r"sample_weight has dtype torch.float64",
    ),
    "input no tensor": (TOTAL_LOSS, ([[1.0]], pair()[1]), TypeError, "input is list, expected a"),
    "target no tensor": (
        TOTAL_LOSS,
        (pair()[0], np.zeros((2, 4, 4), int)),
        TypeError,
        "target is ndarray, expected a torch.Tensor",
    ),
    "target None": (TOTAL_LOSS, (pair()[0], None), TypeError, "target is NoneType"),
    "weight no tensor": (TOTAL_LOSS, (*pair(), 1.0), TypeError, "sample_weight is float"),
    "labels with an axis of 1": (
        TOTAL_LOSS,
        pair(target=(2, 1, 4, 4)),
        ValueError,
        r"target has shape \(2, 1, 4, 4\), expected \(2, 4, 4\) class indices or \(2, 3, 4, 4\) dense",
    ),
    "channels last by mistake": (TOTAL_LOSS, pair(target=(2, 4, 4, 3)), ValueError, r"\(2, 4, 4, 3\)"),
    "smaller target": (TOTAL_LOSS, pair(target=(2, 4, 3)), ValueError, r"target has shape \(2, 4, 3\)"),
    "another batch": (TOTAL_LOSS, pair(target=(3, 4, 4)), ValueError, r"target has shape \(3, 4, 4\)"),
    "scalar input": (MeanSquaredError(), pair((), ()), ValueError, r"input has shape \(\)"),
    "weight of a wrong batch": (
        TOTAL_LOSS,
        (*pair(), torch.ones(3)),
        ValueError,
        r"sample_weight has shape \(3,\), expected \(2,\) or \(2, 4, 4\)",
    ),
    "weight with a channel axis": (
        TOTAL_LOSS,
        (*pair(), torch.ones(2, 1, 4, 4)),
        ValueError,
        r"sample_weight has shape",
    ),
    "label too large": (
        TOTAL_LOSS,
        with_label(3, (1, 2, 0)),
        ValueError,
        r"target has label 3 at position \(1, 2, 0\), expected 0 to 2$",
    ),
    "label negative": (
        TOTAL_LOSS,
        with_label(-1, (0, 0, 3)),
        ValueError,
        r"label -1 at position \(0, 0, 3\)",
    ),
    "label near the ignored one": (
        CrossEntropy(ignore_index=255),
        with_label(254, (0, 1, 3)),
        ValueError,
        r"label 254 at position \(0, 1, 3\), expected 0 to 2 \(ignore_index is 255\)",
    ),
    "ignore_index with dense targets": (
        CrossEntropy(ignore_index=255),
        (pair()[0], pair()[0]),
        ValueError,
        r"ignore_index=255 has no meaning",
    ),
    "class_weights of the wrong length": (
        CrossEntropy(class_weights=(1, 2)),
        pair(),
        ValueError,
        "class_weights has 2 values, expected 3",
    ),
    "pos_weight of the wrong length": (
        BinaryCrossEntropy(pos_weight=(1, 2)),
        (pair()[0], pair()[0]),
        ValueError,
        "pos_weight has 2 values, expected 3",
    ),
    "boundary without spatial axes": (
        TOTAL_LOSS,
        pair((2, 3), (2,)),
        ValueError,
        "0 spatial axes, expected 1 to 3 for Boundary",
    ),
    "boundary with four spatial axes": (
        TOTAL_LOSS,
        pair((1, 2, 1, 1, 1, 1), (1, 1, 1, 1, 1)),
        ValueError,
        "4 spatial axes",
    ),
    "cross-entropy of rank 1": (
        CrossEntropy(),
        pair((2,), (2,)),
        ValueError,
        r"input has shape \(2,\), expected a batch and a channel axis for CrossEntropy",
    ),
    "a 0/1 mask as indices of one channel": (
        BinaryCrossEntropy(),
        pair((2, 1, 4, 4), (2, 4, 4)),
        ValueError,
        "one channel; expected dense targets",
    ),
}  # fmt: skip


@pytest.mark.parametrize("numerics", ["exact", "native"])
@pytest.mark.parametrize("name", ERRORS)
def test_error(name: str, numerics: str) -> None:
    spec, args, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        Loss(spec, numerics=numerics)(*args)


@pytest.mark.parametrize("name", ["label too large", "labels with an axis of 1", "float64 input"])
def test_sums_make_the_same_checks(name: str) -> None:
    spec, args, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        Loss(spec).sums(*args)


def test_a_masked_label_may_be_out_of_range(same_bits: SameBits) -> None:
    x, labels = with_label(77, (1, 2, 0))
    mask = labels != 77
    value = Loss(TOTAL_LOSS)(x, labels, mask)
    same_bits(value, Loss(TOTAL_LOSS)(x, torch.where(mask, labels, 0), mask))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"reduction": "avg"}, ValueError, "reduction is 'avg', expected one of 'mean', 'sum', 'none'"),
        ({"reduction": None}, ValueError, "reduction is None"),
        ({"numerics": "fast"}, ValueError, "numerics is 'fast', expected one of 'exact', 'native'"),
        ({"channel_axis": 1.0}, TypeError, "channel_axis is 1.0, expected an integer"),
        ({"channel_axis": True}, TypeError, "channel_axis is True"),
        ({"spec": "cross_entropy"}, TypeError, "spec is str, expected a loss spec"),
        ({"spec": CrossEntropy}, TypeError, r"spec is the class CrossEntropy, expected an instance: CrossEntropy\(\)"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Loss(**{"spec": TOTAL_LOSS, **options})


@pytest.mark.parametrize("axis", [0, 4, -4, -5])
def test_channel_axis_must_be_one_of_the_input(axis: int) -> None:
    with pytest.raises(ValueError, match=f"channel_axis is {axis}, expected an axis of input"):
        Loss(TOTAL_LOSS, channel_axis=axis)(*pair())
