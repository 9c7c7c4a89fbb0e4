"""The kernels: the bits of the array engine, wherever they say that they can."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("llvmlite")

from kernel_cases import CONFIGS, HOT, all_classes, assert_bits, same, signature

import dualloss as dl
from dualloss import fast
from dualloss.exact import engine, loss_and_gradient, sums
from dualloss.exact.numpy_ops import NumpyOps
from dualloss.fast.host import HostOps
from dualloss.parity import cases, exhaustive

ROOT = Path(__file__).resolve().parents[1]


def check(case: cases.Case, what: fast.Signature, threads: int, first: bool) -> None:
    def compute(axis: int, x: Any, target: Any, mask: Any, weight: Any) -> tuple[Any, ...]:
        target = target.astype(np.int64) if what.labels else target
        reduction = case.config.reduction
        found = fast.evaluate(what, reduction, axis, x, target, mask=mask, weight=weight, threads=threads)
        return found.loss, found.terms, found.sums, found.gradient

    assert_bits(case, what, first, compute)


@pytest.mark.parametrize("config", CONFIGS[::9], ids=lambda config: config.name)
def test_bits_are_those_of_the_array_engine(config: cases.Config) -> None:
    what = signature(config)
    if fast.program(what) is None:
        assert not (config.spec == dl.TOTAL_LOSS or isinstance(config.spec, dl.CrossEntropy))
        return
    for k, family in enumerate(cases.families(config.spec)):
        case = cases.make(config, family)
        check(case, what, 1 + k % 2, k % 3 > 0)
        if what.labels and all_classes(case, what):
            check(case, signature(config, trusted=True), 2 - k % 2, k % 3 < 2)


def test_a_loss_below_the_normal_numbers_is_zero() -> None:
    """Its term is above them."""
    x, target = np.full((1, 2, 3), 3e-19, np.float32), np.zeros((1, 2, 3), np.float32)
    what = fast.Signature(1e-3 * dl.MeanSquaredError(), 2, 1, False, False, False)
    found = fast.evaluate(what, "mean", 1, x, target)
    assert found.terms[0] > 2.0**-126
    assert found.loss.view(np.int32) == 0


@pytest.mark.parametrize(
    "shape", [(1, 3, 37), (2, 3, 1, 1), (2, 3, 9, 131), (1, 3, 70, 300), (2, 3, 5, 6, 21)], ids=str
)
@pytest.mark.parametrize("name", HOT)
def test_hot_terms_on_sizes_that_leave_rests(name: str, shape: tuple[int, ...]) -> None:
    """Rows longer and shorter than the vectors and blocks of the kernels, more threads than rows."""
    rng = np.random.default_rng(len(shape))
    x = rng.normal(0, 3, shape).astype(np.float32)
    labels = rng.integers(0, 3, (shape[0], *shape[2:]))
    spec, weights = HOT[name], None
    if spec.scheduled:
        weights, spec = np.array([1.0, 0.5]), spec.at(10)
    wanted = loss_and_gradient(spec, x, labels, channel_axis=1)
    for trusted in (False, True):
        what = fast.Signature(HOT[name], 3, len(shape) - 2, True, False, False, trusted)
        assert fast.program(what) is not None
        for threads in (1, 3):
            found = fast.evaluate(what, "mean", 1, x, labels, weights=weights, threads=threads)
            assert same(found.loss, wanted.loss)
            assert same(found.gradient, wanted.gradient)


def test_parts_of_a_batch_use_the_sums_of_the_whole() -> None:
    rng = np.random.default_rng(5)
    spec = dl.CrossEntropy(ignore_index=0, normalizer="valid") + 0.5 * dl.Boundary(ignore_index=0)
    x, labels = rng.normal(0, 3, (4, 3, 8, 8)).astype(np.float32), rng.integers(0, 3, (4, 8, 8))
    what = fast.Signature(spec, 3, 2, True, False, False, True)
    whole = fast.evaluate(what, "mean", 1, x, labels)
    parts = [slice(0, 1), slice(1, 4)]
    sums = sum(fast.evaluate(what, "mean", 1, x[p], labels[p], gradient=False).sums for p in parts)
    assert same(sums, whole.sums)
    gradients = [fast.evaluate(what, "mean", 1, x[p], labels[p], totals=sums).gradient for p in parts]
    assert same(np.concatenate(gradients), whole.gradient)


@pytest.mark.parametrize("channels", [1, 2, 300, 3000])
def test_few_and_many_channels(channels: int) -> None:
    rng = np.random.default_rng(channels)
    x = rng.normal(0, 3, (2, channels, 3, 5)).astype(np.float32)
    labels = rng.integers(0, channels, (2, 3, 5))
    spec = dl.TOTAL_LOSS + dl.Dice()
    wanted = loss_and_gradient(spec, x, labels, channel_axis=1)
    for trusted in (False, True):
        what = fast.Signature(spec, channels, 2, True, False, False, trusted)
        found = fast.evaluate(what, "mean", 1, x, labels, threads=2)
        assert same(found.loss, wanted.loss)
        assert same(found.gradient, wanted.gradient)


@pytest.mark.parametrize("upstream", [0.3, -1e-38, 0.0, 1e30, 2.0**-60, float("inf"), float("nan")])
@pytest.mark.parametrize("order", ["C", "channels last"])
def test_scaled_is_what_backward_gives(upstream: float, order: str) -> None:
    rng = np.random.default_rng(9)
    gradient = (rng.normal(size=(2, 3, 5, 7)) * 10.0 ** rng.integers(-38, 3, (2, 3, 5, 7))).astype(np.float32)
    gradient[0, 0, 0, :3] = np.nan, np.inf, -0.0
    if order != "C":
        gradient = np.moveaxis(np.moveaxis(gradient, 1, -1).copy(), -1, 1)
    with np.errstate(all="ignore"):
        wanted = engine.backward(NumpyOps(), np.array(upstream, np.float64), gradient, "float32")
    found = fast.scaled(gradient, upstream, 2)
    assert same(found, wanted)
    assert found.strides == gradient.strides


limbs = st.lists(st.integers(-(2**60), 2**60) | st.sampled_from([0, 0, 0, 1, 2**31, 2**32 - 1]), min_size=9, max_size=9)


@given(limbs, st.lists(st.sampled_from([0, 0, 0, 1]), min_size=3, max_size=3))
def test_sums_are_rounded_alike_by_arrays_and_by_integers(values: list[int], flags: list[int]) -> None:
    values[-1] //= 2**8  # below the largest float64
    states = np.array([values + flags, [*values[::-1], 0, 0, 0]])
    states[1, 8] //= 2**8
    arrays, integers = sums.to_float(NumpyOps(), states), sums.to_float(HostOps(), states)
    np.testing.assert_array_equal(np.isnan(arrays), np.isnan(integers))
    assert same(np.nan_to_num(arrays), np.nan_to_num(integers))


@pytest.mark.parametrize("function", ["exp", "log1p"])
def test_every_argument_of_exp_and_log1p(function: str) -> None:
    given = exhaustive.arguments(function)
    kept, raw = exhaustive._kernels(function, given)
    assert hashlib.sha256(np.ascontiguousarray(kept, "<f8").tobytes()).hexdigest() == exhaustive.DIGESTS[function]
    assert exhaustive._slack(function, raw) > 40


def test_digits_of_many_channels_do_not_overflow() -> None:
    """All channels in one sum: whole and in parts the same."""
    x = np.full((1024, 5000), 1 - 2.0**-24, np.float32)
    target = np.zeros_like(x)
    spec = dl.Dice(activation="none", per_class=False)
    what = fast.Signature(spec, 5000, 0, False, False, False)
    whole = fast.evaluate(what, "mean", 1, x, target, gradient=False).sums
    pairs = zip(np.split(x, 16), np.split(target, 16), strict=True)
    parts = sum(fast.evaluate(what, "mean", 1, *pair, gradient=False).sums for pair in pairs)
    assert same(whole, parts)


def test_too_many_channels_for_one_sum_are_left_to_the_array_engine() -> None:
    spec = dl.Dice(activation="sigmoid", per_class=False)
    for channels, there in ((1 << 17, True), ((1 << 17) + 1, False)):
        assert (fast.program(fast.Signature(spec, channels, 0, False, False, False)) is not None) is there


def test_no_memory_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from dualloss.fast.kernel import Kernel
    from dualloss.fast.layout import GEOMETRY

    geometry = Kernel.geometry

    def huge(*arguments: Any) -> Any:
        found = geometry(*arguments)
        found[GEOMETRY.index("work")] = 1 << 60
        return found

    monkeypatch.setattr(Kernel, "geometry", huge)
    x, labels = np.ones((2, 3, 4, 4), np.float32), np.zeros((2, 4, 4), np.int64)
    with pytest.raises(MemoryError, match="a kernel of 3 channels needs"):
        fast.evaluate(fast.Signature(dl.TOTAL_LOSS, 3, 2, True, False, False, True), "mean", 1, x, labels)
    tf = pytest.importorskip("tensorflow")
    import dualloss.tf

    x = tf.constant(np.moveaxis(x, 1, -1))
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = dualloss.tf.Loss(dl.TOTAL_LOSS)(labels, x)
    assert np.isnan(loss.numpy()) and np.isnan(tape.gradient(loss, x).numpy()).all()


@pytest.mark.parametrize("change", ["zero_", "sign_", "numpy"])
def test_a_kept_graph_keeps_its_gradient(change: str) -> None:
    """Whoever gets the gradient may change it."""
    torch = pytest.importorskip("torch")
    import dualloss.torch

    x = torch.linspace(-1, 2, 2 * 3 * 4 * 4).reshape(2, 3, 4, 4).requires_grad_()
    loss = dualloss.torch.Loss(dl.TOTAL_LOSS)(x, torch.arange(32).reshape(2, 4, 4) % 3)
    wanted = None
    for keep in (True, True, False):
        (found,) = torch.autograd.grad(loss, x, retain_graph=keep)
        wanted = found.clone() if wanted is None else wanted
        assert same(found.numpy(), wanted.numpy())
        if change == "numpy":
            found.numpy()[...] = 7.0
        else:
            getattr(found, change)()


def test_what_is_a_view_with_the_sign_changed() -> None:
    torch = pytest.importorskip("torch")
    import dualloss.torch

    x = torch.linspace(-1, 2, 24).reshape(2, 3, 4)
    labels = torch.arange(8).reshape(2, 4) % 3
    seen, criterion = torch.complex(x, x).conj().imag, dualloss.torch.Loss(dl.CrossEntropy())
    assert seen.is_neg()
    assert same(criterion(seen, labels).numpy(), criterion(-x, labels).numpy())


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4), (2, 3, 4, 0), (2, 3, 2, 0, 5)])
@pytest.mark.parametrize("normalizer", ["valid", "batch"])
def test_nothing_there(shape: tuple[int, ...], normalizer: Any) -> None:
    x = np.zeros(shape, np.float32)
    spec = dl.MeanSquaredError(normalizer=normalizer) + dl.Boundary()
    wanted = loss_and_gradient(spec, x, x, channel_axis=1)
    found = fast.evaluate(fast.Signature(spec, 3, len(shape) - 2, False, False, False), "mean", 1, x, x)
    assert same(found.loss, wanted.loss)
    assert same(found.sums, wanted.sums)
    assert found.gradient.shape == shape


def test_an_empty_batch() -> None:
    what = fast.Signature(dl.TOTAL_LOSS, 3, 2, True, False, False)
    found = fast.evaluate(what, "mean", 1, np.zeros((0, 3, 4, 4), np.float32), np.zeros((0, 4, 4), np.int64))
    assert found.loss == 0
    assert found.gradient.shape == (0, 3, 4, 4)


@pytest.mark.parametrize(
    "spec", [dl.Dice(per_sample=True), dl.Lovasz(), dl.SSIM(), dl.Boundary(padding="reflect"), dl.DistanceMap()]
)
def test_what_has_no_kernel_says_so(spec: dl.Spec) -> None:
    assert fast.program(fast.Signature(spec, 3, 2, False, False, False)) is None


def use_of_kernels(monkeypatch: pytest.MonkeyPatch) -> list[fast.Signature]:
    """A list to which each kernel that is run is added."""
    used: list[fast.Signature] = []
    compiled = fast.compiled

    def noted(what: fast.Signature, *options: bool) -> Any:
        used.append(what)
        return compiled(what, *options)

    monkeypatch.setattr(fast, "compiled", noted)
    return used


@pytest.mark.parametrize("how", ["eager", "compiled"])
def test_torch_uses_them(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    import dualloss.torch

    rng = np.random.default_rng(3)
    x, labels = rng.normal(0, 3, (2, 3, 6, 7)).astype(np.float32), rng.integers(0, 3, (2, 6, 7))
    wanted = loss_and_gradient(dl.TOTAL_LOSS, x, labels, channel_axis=1, upstream=0.3)
    criterion = dualloss.torch.Loss(dl.TOTAL_LOSS)
    if how == "compiled":
        torch._dynamo.reset()
        criterion = torch.compile(criterion, fullgraph=True)
    used = use_of_kernels(monkeypatch)
    for input in (torch.tensor(x), torch.tensor(x).contiguous(memory_format=torch.channels_last)):
        input.requires_grad_()
        loss, terms = criterion(input, torch.tensor(labels), return_terms=True)
        loss.backward(torch.tensor(0.3))
        assert same(loss.detach().numpy(), wanted.loss)
        assert same(input.grad.numpy(), wanted.gradient)
        assert same(terms["boundary"].numpy(), wanted.terms["boundary"])
    assert used and {what.trusted for what in used} == {True}
    if how == "compiled":  # labels are seen only when the graph runs
        wrong = torch.tensor(labels)
        wrong[0, 0, 0] = 3
        assert criterion(torch.tensor(x), wrong).isnan()
        assert not used[-1].trusted
    if how == "eager":  # compiled, the array engine takes a minute
        count = len(used)
        with fast.using(False), torch.no_grad():
            criterion(torch.tensor(x), torch.tensor(labels))
        assert len(used) == count


def test_native_numerics_of_torch_use_them_and_keep_their_second_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    import dualloss.torch

    rng = np.random.default_rng(4)
    x = torch.tensor(rng.normal(0, 1, (2, 3, 6, 7)).astype(np.float32), requires_grad=True)
    labels = torch.tensor(rng.integers(0, 3, (2, 6, 7)))
    spec = dl.CrossEntropy() + dl.Linear(0, 1, steps=4) * dl.Boundary() + dl.Dice()
    used = use_of_kernels(monkeypatch)
    found = []
    for numerics in ("native", "exact"):
        criterion = dualloss.torch.Loss(spec, numerics=numerics)
        criterion.step = 2
        found.append([*torch.autograd.grad(criterion(x, labels), x)])
    assert same(found[0][0].numpy(), found[1][0].numpy())
    count = len(used)
    criterion = dualloss.torch.Loss(spec, numerics="native")
    derivatives = []
    for kernels in (True, False):
        with fast.using(kernels):
            (first,) = torch.autograd.grad(1.5 * criterion(x, labels), x, create_graph=True)
            derivatives.append([first.detach(), *torch.autograd.grad(first.square().sum(), x)])
    assert len(used) > count
    for kernel, formula in zip(*derivatives, strict=True):
        assert same(kernel.numpy(), formula.numpy())  # with create_graph both are the formulas'
    soft = torch.rand(2, 3, 6, 7, requires_grad=True)
    criterion(x, soft).backward()
    assert soft.grad is not None
    weight = torch.rand(2, requires_grad=True)
    criterion(x, labels, weight).backward()
    assert weight.grad is not None
    assert torch.func.grad(lambda v: criterion(v, labels))(x.detach()).shape == x.shape


def test_native_numerics_of_tf_use_them_and_keep_their_second_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    tf = pytest.importorskip("tensorflow")
    import dualloss.tf
    from dualloss.tf import fast as in_tf

    if in_tf._register() is None:
        pytest.skip("this TensorFlow does not let XLA's functions be registered")
    rng = np.random.default_rng(4)
    x = tf.constant(rng.normal(0, 1, (2, 6, 7, 3)).astype(np.float32))
    labels = rng.integers(0, 3, (2, 6, 7))
    used = use_of_kernels(monkeypatch)

    def derivatives(loss_fn: Any) -> list[Any]:
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                loss = loss_fn(labels, x)
            first = inner.gradient(loss, x)
            total = tf.reduce_sum(first * first)
        return [first.numpy(), outer.gradient(total, x).numpy()]

    kernel = derivatives(dualloss.tf.Loss(dl.TOTAL_LOSS, numerics="native"))
    assert used
    assert same(kernel[0], loss_and_gradient(dl.TOTAL_LOSS, x.numpy(), labels).gradient)
    with fast.using(False):
        formula = derivatives(dualloss.tf.Loss(dl.TOTAL_LOSS, numerics="native"))
    scale = np.abs(formula[1]).max()
    assert np.abs(kernel[1] - formula[1]).max() < 1e-5 * scale


@pytest.mark.parametrize("how", ["eager", "graph", "XLA", "batch unknown"])
def test_tf_uses_them(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tf = pytest.importorskip("tensorflow")
    import dualloss.tf
    from dualloss.tf import fast as in_tf

    if in_tf._register() is None:
        pytest.skip("this TensorFlow does not let XLA's functions be registered")
    rng = np.random.default_rng(3)
    x, labels = rng.normal(0, 3, (2, 6, 7, 3)).astype(np.float32), rng.integers(0, 3, (2, 6, 7))
    wanted = loss_and_gradient(dl.TOTAL_LOSS, x, labels)
    loss_fn = dualloss.tf.Loss(dl.TOTAL_LOSS)
    used = use_of_kernels(monkeypatch)

    def step(x: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = loss_fn(labels, x)
        return loss, tape.gradient(loss, x)

    if how == "batch unknown":
        signature = [tf.TensorSpec((None, 6, 7, 3), tf.float32), tf.TensorSpec((None, 6, 7), tf.int64)]
        step = tf.function(step, input_signature=signature, autograph=False)
    elif how != "eager":
        step = tf.function(step, jit_compile=how == "XLA", autograph=False)
    loss, gradient = step(tf.constant(x), tf.constant(labels))
    assert same(loss.numpy(), wanted.loss)
    assert same(gradient.numpy(), wanted.gradient)
    assert used
    if how != "eager":
        wrong = labels.copy()
        wrong[0, 0, 0] = 3
        nan = loss_and_gradient(dl.TOTAL_LOSS, x, wrong, check_labels=False)
        loss, gradient = step(tf.constant(x), tf.constant(wrong))
        assert np.isnan(loss.numpy())
        assert same(gradient.numpy(), nan.gradient)


@pytest.mark.parametrize("how", ["sys.modules['llvmlite'] = None", "os.environ['DUALLOSS_KERNELS'] = '0'"])
def test_without_kernels_the_array_engine_computes(how: str) -> None:
    pytest.importorskip("torch")
    code = f"""
import os, sys
{how}
import torch, dualloss, dualloss.torch, dualloss.fast
assert not dualloss.fast.enabled
x = torch.tensor([[[1.0, 2.0], [0.5, -1.0]]], requires_grad=True)
dualloss.torch.total_loss(torch.tensor([[0, 1]]), x).backward()
assert x.grad.any() and "llvmlite.binding" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_signatures_of_equal_losses_share_a_kernel() -> None:
    what = fast.Signature(dl.CrossEntropy(), 3, 2, True, False, False)
    again = dataclasses.replace(what, spec=dl.CrossEntropy(label_smoothing=0.0))
    assert fast.compiled(what, True, False, True) is fast.compiled(again, True, False, True)
