"""The kernels of CUDA devices in Triton's interpreter, which runs them on CPUs: the bits of the array engine.

For the session ``triton`` of nox, which installs triton and sets TRITON_INTERPRET=1; elsewhere all of it is skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")  # before triton, whose LLVM would meet torch's
pytest.importorskip("triton", reason="triton is not installed: nox -s triton does that")

import torch
from kernel_cases import CONFIGS, HOT, all_classes, assert_bits, same, signature

import dualloss as dl
import dualloss.torch
from dualloss import fast
from dualloss.exact import engine, loss_and_gradient
from dualloss.exact.numpy_ops import NumpyOps
from dualloss.exact.sums import LIMBS, STATE, to_float
from dualloss.fast.host import HostOps
from dualloss.parity import cases, exhaustive
from dualloss.torch import gpu

ROOT = Path(__file__).resolve().parents[1]
pytestmark = [
    pytest.mark.filterwarnings("default"),  # NumPy's, of NaN and infinities, which the interpreter meets
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") != "1", reason="TRITON_INTERPRET=1 is not set: nox -s triton does that"
    ),
]


@pytest.fixture(autouse=True)
def on_cpu() -> Iterator[None]:
    with gpu.interpreted(), np.errstate(all="ignore"):
        yield


def check(case: cases.Case, what: fast.Signature, first: bool) -> None:
    def compute(axis: int, *arrays: Any) -> tuple[Any, ...]:
        x, target, mask, weight = (None if v is None else torch.tensor(np.array(v)) for v in arrays)
        assert x is not None
        assert target is not None
        gradient = torch.empty(x.shape)
        reduction = case.config.reduction
        found = gpu.evaluate(what, reduction, axis, x, target, mask=mask, weight=weight, gradient=gradient)
        return tuple(v.numpy() for v in (*found, gradient))

    assert_bits(case, what, first, compute)


@pytest.mark.parametrize("number", range(0, len(CONFIGS), 6), ids=lambda number: CONFIGS[number].name)
def test_bits_are_those_of_the_array_engine(number: int) -> None:
    """Some configurations, each with some of the families: the interpreter takes its time."""
    config = CONFIGS[number]
    what = signature(config)
    if fast.program(what) is None:
        assert not (config.spec == dl.TOTAL_LOSS or isinstance(config.spec, dl.CrossEntropy))
        return
    chosen = list(cases.families(config.spec))[number % 5 :: 5]
    for family in chosen[: 1 if what.channels > 64 else None]:
        case = cases.make(config, family)
        check(case, what, number % 4 > 1)
        if what.labels and all_classes(case, what):
            check(case, signature(config, trusted=True), number % 4 <= 1)


def evaluated(what: fast.Signature, x: Any, labels: Any, **options: Any) -> tuple[Any, ...]:
    """Loss, terms, sums and gradient as NumPy arrays."""
    wanted = options.pop("gradient", True)
    gradient = torch.empty(x.shape) if wanted else None
    given = {name: torch.tensor(v) for name, v in options.items()}
    found = gpu.evaluate(what, "mean", 1, torch.tensor(x), torch.tensor(labels), gradient=gradient, **given)
    return *(v.numpy() for v in found), None if gradient is None else gradient.numpy()


@pytest.mark.parametrize("shape", [(1, 3, 37), (2, 3, 1, 1), (1, 3, 5, 131), (2, 3, 3, 4, 7)], ids=str)
@pytest.mark.parametrize("name", HOT)
def test_hot_terms_on_sizes_that_leave_rests(name: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(len(shape))
    x = rng.normal(0, 3, shape).astype(np.float32)
    labels = rng.integers(0, 3, (shape[0], *shape[2:]))
    spec, options = HOT[name], {}
    if spec.scheduled:
        options, spec = {"weights": np.array([1.0, 0.5])}, spec.at(10)
    wanted = loss_and_gradient(spec, x, labels, channel_axis=1)
    for trusted in (False, True):
        what = fast.Signature(HOT[name], 3, len(shape) - 2, True, False, False, trusted)
        loss, _, sums, gradient = evaluated(what, x, labels, **options)
        assert same(loss, wanted.loss)
        assert same(sums, wanted.sums)
        assert same(gradient, wanted.gradient)


@pytest.mark.parametrize("channels", [1, 2, 21, 33, 70])
def test_few_and_many_channels(channels: int) -> None:
    rng = np.random.default_rng(channels)
    x = rng.normal(0, 3, (2, channels, 3, 5)).astype(np.float32)
    labels = rng.integers(0, channels, (2, 3, 5))
    spec = dl.TOTAL_LOSS + dl.Dice()
    wanted = loss_and_gradient(spec, x, labels, channel_axis=1)
    for trusted in (False, True):
        what = fast.Signature(spec, channels, 2, True, False, False, trusted)
        loss, _, _, gradient = evaluated(what, x, labels)
        assert same(loss, wanted.loss)
        assert same(gradient, wanted.gradient)


def test_more_than_int32_can_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "UNTIL_WIDE", 10)
    rng = np.random.default_rng(1)
    x, labels = rng.normal(0, 3, (2, 3, 5, 7)).astype(np.float32), rng.integers(0, 3, (2, 5, 7))
    wanted = loss_and_gradient(dl.TOTAL_LOSS, x, labels, channel_axis=1)
    what = fast.Signature(dl.TOTAL_LOSS, 3, 2, True, False, False, True)
    loss, _, _, gradient = evaluated(what, x, labels)
    assert same(loss, wanted.loss)
    assert same(gradient, wanted.gradient)
    assert "tl.int64) * BLOCK" in gpu.compiled(what, False, True, True).source(wide=True)[0]


def test_parts_of_a_batch_use_the_sums_of_the_whole() -> None:
    rng = np.random.default_rng(5)
    spec = dl.CrossEntropy(ignore_index=0, normalizer="valid") + 0.5 * dl.Boundary(ignore_index=0)
    x, labels = rng.normal(0, 3, (4, 3, 8, 8)).astype(np.float32), rng.integers(0, 3, (4, 8, 8))
    what = fast.Signature(spec, 3, 2, True, False, False, True)
    whole = evaluated(what, x, labels)
    parts = [slice(0, 1), slice(1, 4)]
    sums = sum(evaluated(what, x[p], labels[p], gradient=False)[2] for p in parts)
    assert same(sums, whole[2])
    gradients = [evaluated(what, x[p], labels[p], totals=sums)[3] for p in parts]
    assert same(np.concatenate(gradients), whole[3])


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "int64"])
def test_labels_of_any_integer_dtype(dtype: str) -> None:
    rng = np.random.default_rng(6)
    spec = dl.CrossEntropy(ignore_index=99) + dl.Boundary(ignore_index=99)
    x, labels = rng.normal(0, 3, (2, 3, 5, 7)).astype(np.float32), rng.integers(0, 3, (2, 5, 7)).astype(dtype)
    labels[0, 1:3, 2] = 99
    wanted = loss_and_gradient(spec, x, labels, channel_axis=1)
    for trusted in (False, True):
        loss, _, _, gradient = evaluated(fast.Signature(spec, 3, 2, True, False, False, trusted), x, labels)
        assert same(loss, wanted.loss)
        assert same(gradient, wanted.gradient)


@pytest.mark.parametrize("wrong", [-1, 3, 2**31, 2**32 + 1, -(2**31), -(2**63)])
def test_a_label_that_is_no_class(wrong: int) -> None:
    rng = np.random.default_rng(7)
    spec = dl.CrossEntropy(ignore_index=1) + dl.Boundary(ignore_index=1)
    x, labels = rng.normal(0, 3, (1, 3, 5, 7)).astype(np.float32), rng.integers(0, 3, (1, 5, 7))
    labels[0, 2, 3] = wrong
    wanted = loss_and_gradient(spec, x, labels, channel_axis=1, check_labels=False)
    loss, _, _, gradient = evaluated(fast.Signature(spec, 3, 2, True, False, False), x, labels)
    assert np.isnan(loss)
    assert same(loss, wanted.loss)
    assert same(gradient, wanted.gradient)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_other_dtypes_of_the_input(dtype: str) -> None:
    x = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(8)).to(getattr(torch, dtype))
    x[0, 0, 0, :2] = torch.tensor([1e-6, 3e38]).to(x.dtype)
    labels = torch.zeros(2, 5, 7, dtype=torch.int64)
    found = []
    for kernels in (True, False):
        with fast.using(kernels):
            input = x.clone().requires_grad_()
            loss = dualloss.torch.Loss(dl.TOTAL_LOSS)(input, labels)
            loss.backward(torch.tensor(0.7))
            assert input.grad is not None
            found.append((loss.detach().numpy(), input.grad.view(torch.int16).numpy()))
    assert same(found[0][0], found[1][0])
    assert same(found[0][1], found[1][1])


def test_sums_rounded_by_one_launch() -> None:
    rng = np.random.default_rng(2)
    states = rng.integers(-(2**62), 2**62, (400, STATE)) >> rng.integers(0, 63, (400, STATE))
    states[:, LIMBS:] = rng.random((400, 3)) < 0.1
    states[::3] *= rng.random((134, STATE)) < 0.3
    ties = np.zeros((24, STATE), np.int64)  # halves of the last bit, as they are and with a little more or less
    for k, top in enumerate(range(3, LIMBS)):
        ties[4 * k : 4 * k + 4, top - 3 : top + 1] = [
            [0, 2048, 0, 1],
            [1, 2048, 0, 1],
            [-1, 2048, 0, 1],
            [1, 6144, 0, 1],
        ]
    states = np.concatenate([states, ties, -ties])
    wanted = to_float(HostOps(), states)
    found = gpu.DeviceOps().rounded_sums(torch.tensor(states)).numpy()
    assert same(np.where(np.isnan(found), 0.0, found), np.where(np.isnan(wanted), 0.0, wanted))
    assert same(np.isnan(found), np.isnan(wanted))


@pytest.mark.parametrize("upstream", [0.3, 1.0, -1e-38, 0.0, 1e30, 2.0**-60, float("inf"), float("nan")])
@pytest.mark.parametrize("in_place", [False, True])
def test_scaled_is_what_backward_gives(upstream: float, in_place: bool) -> None:
    rng = np.random.default_rng(9)
    gradient = (rng.normal(size=(2, 3, 5, 7)) * 10.0 ** rng.integers(-36, 3, (2, 3, 5, 7))).astype(np.float32)
    gradient[0, 0, 0, :3] = np.nan, np.inf, 0.0
    wanted = engine.backward(NumpyOps(), np.array(upstream, np.float32), gradient, "float32")
    given = torch.tensor(gradient).contiguous(memory_format=torch.channels_last)
    found = gpu.scaled(given, torch.tensor(upstream), in_place)
    assert (found is given) == in_place
    assert same(found.numpy(), wanted)


def test_a_graph_that_is_kept_gives_its_gradient_again() -> None:
    x = torch.randn(1, 3, 5, 7, requires_grad=True)
    loss = dualloss.torch.Loss(dl.TOTAL_LOSS)(x, torch.zeros(1, 5, 7, dtype=torch.int64))
    # Copies: what is written over in place would equal itself.
    first, second = (torch.autograd.grad(loss, x, torch.tensor(0.3), retain_graph=True)[0].clone() for _ in range(2))
    (last,) = torch.autograd.grad(loss, x, torch.tensor(0.3))
    assert same(first.numpy(), second.numpy())
    assert same(first.numpy(), last.numpy())


@pytest.mark.parametrize("how", ["eager", "compiled"])
@pytest.mark.parametrize("numerics", ["exact", "native"])
def test_torch_uses_them(how: str, numerics: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    x, labels = rng.normal(0, 3, (2, 3, 6, 7)).astype(np.float32), rng.integers(0, 3, (2, 6, 7))
    wanted = loss_and_gradient(dl.TOTAL_LOSS, x, labels, channel_axis=1, upstream=0.3)
    criterion: Any = dualloss.torch.Loss(dl.TOTAL_LOSS, numerics=numerics)
    if how == "compiled":
        torch._dynamo.reset()
        criterion = torch.compile(criterion, fullgraph=True)
    used: list[fast.Signature] = []
    compiled = gpu.compiled

    def noted(what: fast.Signature, *options: bool) -> Any:
        used.append(what)
        return compiled(what, *options)

    monkeypatch.setattr(gpu, "compiled", noted)
    for input in (torch.tensor(x), torch.tensor(x).contiguous(memory_format=torch.channels_last)):
        input.requires_grad_()
        loss = criterion(input, torch.tensor(labels))
        loss.backward(torch.tensor(0.3))
        assert same(loss.detach().numpy(), wanted.loss)
        assert input.grad is not None
        assert same(input.grad.numpy(), wanted.gradient)
        assert input.grad.stride() == input.stride()
    assert {what.trusted for what in used} == ({True} if how == "eager" else {False, True})
    if how == "compiled":
        wrong = torch.tensor(labels)
        wrong[0, 0, 0] = 3
        assert criterion(torch.tensor(x), wrong).isnan()


@pytest.mark.parametrize("function", ["exp", "log1p"])
def test_every_argument_of(function: str) -> None:
    given = exhaustive.arguments(function)
    kept, raw = exhaustive.on_device(function, given, "cpu")
    row = exhaustive.checked(function, "triton", kept, raw)
    assert row.ok, str(row)
    assert row.count == len(given)


@pytest.fixture(scope="module")
def compiled_for_a_device() -> list[dict[str, Any]]:
    """total_loss at 21 channels, compiled for compute capability 9.0 in a process that does not interpret."""
    variables = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "dualloss.parity.ptx", "--json"], cwd=ROOT, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_compiled_code_fuses_nothing(compiled_for_a_device: list[dict[str, Any]]) -> None:
    """The only fused operations are those that exp and log1p are written with: 21 channels, and the label's, in all."""
    what = fast.Signature(dl.TOTAL_LOSS, 21, 2, True, False, False, True)
    text, _ = gpu.compiled(what, False, True, True).source(wide=False)
    exp, log1p = (text.split(f"def {name}(v)")[1].split("@triton")[0].count("tl.fma(") for name in ("exp", "log1p"))
    assert text.count("tl.fma(") == exp + log1p
    assert [launch["PTX"]["fma"] for launch in compiled_for_a_device] == [0, 22 * exp + log1p]
    assert all(launch["PTX"]["other roundings"] == 0 for launch in compiled_for_a_device)


def test_compiled_code_stays_in_registers(compiled_for_a_device: list[dict[str, Any]]) -> None:
    for launch in compiled_for_a_device:
        assert launch["spilled bytes"] == 0
        assert launch["registers"] <= 168
        assert launch["PTX"]["atomic int64 add"] > 0
