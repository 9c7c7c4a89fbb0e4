"""What the bits do not depend on: how a batch is split, the order of samples, positions and channels,
layouts, threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualloss import SSIM, Boundary, DistanceMap, Lovasz, Spec, TotalVariation
from dualloss.exact import loss_and_gradient, sums
from dualloss.exact.numpy_ops import NumpyOps
from dualloss.parity import cases
from dualloss.parity.engines import as_bits
from dualloss.parity.generator import integers

Array = Any

SPECS = {name: spec for name, spec in {**cases.SPECS, **cases.MORE}.items() if not name.startswith("all_of")}
del SPECS["distance_map_given"]  # takes no labels, and does what "distance_map" does with the distances
MERGEABLE = [name for name, spec in SPECS.items() if all(term.mergeable for _, term in spec.parts)]
NEIGHBOURS = (Boundary, DistanceMap, SSIM, TotalVariation)
POINTWISE = [
    name
    for name, spec in SPECS.items()
    if not any(isinstance(term, (*NEIGHBOURS, Lovasz)) or getattr(term, "per_sample", False) for _, term in spec.parts)
]
# What is said of one class by its number does not move with the channels.
SYMMETRIC = [
    name
    for name, spec in SPECS.items()
    if all(getattr(term, "background", True) and not getattr(term, "classes", None) for _, term in spec.parts)
    or name.startswith("lovasz")
]
SHAPE = (6, 7, 5, 3)


@dataclass(frozen=True)
class Problem:
    """A spec and its arrays, channels last. Values of every kind: with ties, infinities, and weights of 0."""

    spec: Spec
    input: Array
    target: Array
    weight: Array

    def run(self, reduction: str = "mean", **options: Any) -> Any:
        return loss_and_gradient(self.spec, self.input, self.target, self.weight, reduction=reduction, **options)


def problem(name: str, family: str = "scale_30") -> Problem:
    spec = SPECS[name]
    masked = not all(term.takes_weights for _, term in spec.parts)
    config = cases.Config(f"invariance {name}", name, spec, shape=SHAPE, weight="mask" if masked else "position")
    case = cases.make(config, family if family in cases.families(spec) else "probabilities")
    assert case.weight is not None
    if masked:
        return Problem(config.spec, case.input, np.asarray(case.target), case.weight)
    weight = np.where(integers("drop", case.weight.size).reshape(case.weight.shape) % 5 == 0, 0, case.weight)
    return Problem(config.spec, case.input, np.asarray(case.target), weight.astype(np.float32))


def same(got: Array, expected: Array) -> None:
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.dtype == expected.dtype and got.shape == expected.shape
    if got.dtype.kind == "f":
        got, expected = as_bits(got), as_bits(expected)
    np.testing.assert_array_equal(got, expected)


def permutation(n: int) -> Array:
    return np.argsort(integers("permutation", n))


SPLITS = [[1] * 6, [2, 4], [5, 1], [0, 3, 3]]


def parts(p: Problem, split: list[int]) -> Iterator[Problem]:
    at = 0
    for size in split:
        rows = slice(at, at + size)
        yield Problem(p.spec, p.input[rows], p.target[rows], p.weight[rows])
        at += size


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", MERGEABLE)
def test_a_split_batch(name: str, reduction: str) -> None:
    """The sums of the parts add to those of the whole, and with them the parts' gradients are the whole's."""
    p = problem(name)
    whole = p.run(reduction)
    for split in SPLITS:
        added = sum(part.run(reduction).sums for part in parts(p, split))
        same(added, whole.sums)
        found = [part.run(reduction, totals=added).gradient for part in parts(p, split)]
        same(np.concatenate(found), whole.gradient)


@pytest.mark.parametrize("name", [name for name in SPECS if name in MERGEABLE or name.endswith("sample")])
def test_the_order_of_samples(name: str) -> None:
    p, order = problem(name), permutation(SHAPE[0])
    shuffled = Problem(p.spec, p.input[order], p.target[order], p.weight[order])
    for reduction in ("mean", "sum"):
        before, after = p.run(reduction), shuffled.run(reduction)
        same(after.loss, before.loss)
        same(after.sums, before.sums)
        same(after.gradient, before.gradient[order])


@pytest.mark.parametrize("name", POINTWISE)
def test_the_order_of_positions(name: str) -> None:
    """Of terms without a stencil: any shuffle over batch and space."""
    p = problem(name)
    n = math.prod(SHAPE[:-1])
    order = permutation(n)

    def shuffle(a: Array, tail: tuple[int, ...] = ()) -> Array:
        return a.reshape(n, *tail)[order].reshape(a.shape)

    before = p.run()
    after = Problem(p.spec, shuffle(p.input, (3,)), shuffle(p.target), shuffle(p.weight)).run()
    same(after.loss, before.loss)
    same(after.sums, before.sums)
    same(after.gradient, shuffle(before.gradient, (3,)))


@pytest.mark.parametrize("name", SYMMETRIC)
def test_the_order_of_channels(name: str) -> None:
    """With the constants of the channels permuted too. Many channels, so that the order of a sum would
    show.
    """
    channels = 40
    config = cases.Config(f"channels {name}", name, _spread(SPECS[name], channels), shape=(2, 6, 5, channels))
    case = cases.make(config, "scale_1" if "scale_1" in cases.families(config.spec) else "probabilities")
    order = permutation(channels)
    back = np.argsort(order)
    target = np.where(case.target == cases.IGNORED, cases.IGNORED, back[np.minimum(case.target, channels - 1)])
    before = loss_and_gradient(config.spec, case.input, case.target)
    after = loss_and_gradient(_permuted(config.spec, order), case.input[..., order], target)
    same(after.loss, before.loss)
    by_class = [not term.has_map and not getattr(term, "per_sample", False) for _, term in config.spec.parts]
    if not any(by_class):  # those sums stand in the order of the classes
        same(after.sums, before.sums)
    same(after.gradient, before.gradient[..., order])


def _changed(spec: Spec, change: Any) -> Spec:
    total: Any = 0
    for weight, term in spec.parts:
        found = {o: getattr(term, o, None) for o in ("class_weights", "pos_weight", "alpha")}
        options = {o: change(values) for o, values in found.items() if isinstance(values, tuple)}
        total = total + weight * (replace(term, **options) if options else term)
    return total


def _spread(spec: Spec, channels: int) -> Spec:
    return _changed(spec, lambda values: tuple(values[c % len(values)] * (c + 1) for c in range(channels)))


def _permuted(spec: Spec, order: Array) -> Spec:
    return _changed(spec, lambda values: tuple(values[c] for c in order))


@pytest.mark.parametrize("name", ["total_loss", "three_terms"])
def test_layouts(name: str) -> None:
    """Every place of the channel axis; strided, reversed and Fortran-ordered memory."""
    p = problem(name)
    before = p.run()
    for axis in (1, 2):
        moved = np.moveaxis(p.input, -1, axis)
        for x in (moved, np.ascontiguousarray(moved), np.asfortranarray(moved)):
            after = loss_and_gradient(p.spec, x, p.target, p.weight, channel_axis=axis)
            same(after.loss, before.loss)
            same(np.moveaxis(after.gradient, axis, -1), before.gradient)
    doubled = np.repeat(p.input, 2, axis=1)[:, ::2]
    backwards = p.input[::-1].copy()[::-1]
    for x in (doubled, backwards):
        same(replace(p, input=x).run().gradient, before.gradient)


# ------------------------------------------------------------------------------------------------------------
# The frameworks


@pytest.mark.parametrize("name", ["total_loss_ignore", "cross_entropy_weighted", "boundary_8"])
def test_a_split_batch_in_torch(name: str) -> None:
    torch = pytest.importorskip("torch")
    from dualloss.torch import Loss

    p = problem(name)
    whole = p.run()
    criterion = Loss(p.spec, channel_axis=-1)
    pieces = [[torch.from_numpy(a) for a in (q.input, q.target, q.weight)] for q in parts(p, [2, 1, 3])]
    totals: Any = sum(criterion.sums(*piece) for piece in pieces)
    same(totals.numpy(), whole.sums)
    same(criterion.from_sums(totals).numpy(), whole.loss)
    found = []
    for x, target, weight in pieces:
        x.requires_grad_()
        criterion(x, target, weight, totals=totals).backward()
        found.append(x.grad.numpy())
    same(np.concatenate(found), whole.gradient)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("name", ["total_loss_ignore", "cross_entropy_weighted"])
def test_a_split_batch_in_tensorflow(name: str, jit_compile: bool) -> None:
    tf = pytest.importorskip("tensorflow")
    from dualloss.tf import Loss

    p = problem(name)
    whole = p.run()
    loss_fn = Loss(p.spec, jit_compile=jit_compile)
    pieces = [[tf.constant(a) for a in (q.target, q.input, q.weight)] for q in parts(p, [3, 3])]
    totals = sum(loss_fn.sums(*piece) for piece in pieces)
    same(totals.numpy(), whole.sums)
    same(loss_fn.from_sums(totals).numpy(), whole.loss)
    found = []
    for target, x, weight in pieces:
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = loss_fn(target, x, weight, totals=totals)
        found.append(tape.gradient(loss, x).numpy())
    same(np.concatenate(found), whole.gradient)


@pytest.mark.parametrize("name", ["total_loss", "three_terms"])
def test_threads_in_torch(name: str) -> None:
    """With enough elements for torch to use several."""
    torch = pytest.importorskip("torch")
    from dualloss.torch import Loss

    config = cases.Config(f"threads {name}", name, SPECS[name], shape=(2, 150, 160, 3))
    case = cases.make(config, "scale_30")
    expected = loss_and_gradient(config.spec, case.input, case.target)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            x = torch.from_numpy(case.input).requires_grad_()
            loss = Loss(config.spec, channel_axis=-1)(x, torch.from_numpy(case.target))
            loss.backward()
            same(loss.detach().numpy(), expected.loss)
            same(x.grad.numpy(), expected.gradient)
    finally:
        torch.set_num_threads(before)


# ------------------------------------------------------------------------------------------------------------
# Exact sums

OPS = NumpyOps()

# 48 significant bits, whose lowest is at least 2^-160 and whose highest is below 2^128.
VALUES = st.builds(math.ldexp, st.integers(-(2**48) + 1, 2**48 - 1).map(float), st.integers(-160, 80))


def state(values: list[float]) -> Array:
    return sums.state(OPS, np.array([values], np.float64))


def total(states: Array) -> float:
    return float(sums.to_float(OPS, states)[0])


@settings(deadline=None, max_examples=300)
@given(st.lists(VALUES, max_size=40))
def test_exact_sum_is_fsum(values: list[float]) -> None:
    assert total(state(values)).hex() == (math.fsum(values) + 0.0).hex()


@settings(deadline=None, max_examples=100)
@given(st.lists(VALUES, min_size=1, max_size=20))
def test_exact_sum_cancels(values: list[float]) -> None:
    assert total(state([*values, *(-v for v in values)])).hex() == "0x0.0p+0"
    assert total(state([*values, values[0], *(-v for v in values)])) == values[0]


@settings(deadline=None, max_examples=150)
@given(st.lists(VALUES | st.sampled_from([math.inf, -math.inf, math.nan]), max_size=30), st.randoms())
def test_states_add(values: list[float], random: Any) -> None:
    """Any split, any order."""
    at = random.randint(0, len(values))
    shuffled = random.sample(values, len(values))
    np.testing.assert_array_equal(state(values), state(shuffled))
    np.testing.assert_array_equal(state(values), state(shuffled[:at]) + state(shuffled[at:]))


@settings(deadline=None, max_examples=100)
@given(st.lists(VALUES, max_size=5), st.integers(0, 3), st.integers(0, 3), st.integers(0, 2))
def test_infinities_and_nan(values: list[float], up: int, down: int, nan: int) -> None:
    found = total(state([*values, *[math.inf] * up, *[-math.inf] * down, *[math.nan] * nan]))
    if nan or (up and down):
        assert math.isnan(found)
    elif up or down:
        assert found == (math.inf if up else -math.inf)
    else:
        assert math.isfinite(found)


def test_many_values_of_every_exponent() -> None:
    bits = integers("wide", 200_000)
    values = np.ldexp((bits >> np.uint64(16)).astype(np.float64) - 2.0**47, (bits % np.uint64(240)).astype(int) - 160)
    for sign in (1, -1):
        assert total(sums.state(OPS, sign * values[None])) == math.fsum(sign * values)


def test_what_is_below_the_lowest_limb_is_dropped() -> None:
    assert total(state([2.0**-161] * 4)) == 0
    assert total(state([1.75 * 2.0**-160, -1.75 * 2.0**-160, 2.0**-159])) == 2.0**-159
    assert total(state([1.75 * 2.0**-160] * 2)) == 2.0**-159
    assert total(state([2.0**128, 1.0])) == math.inf
    assert total(state([-(2.0**128)])) == -math.inf


def test_ties_round_to_even() -> None:
    top, little = 2.0**53, 2.0**-100
    for values, expected in (
        ([top, 1.0], top),
        ([top, 3.0], top + 4),
        ([top, 1.0, little], top + 2),
        ([top, 1.0, -little], top),
        ([top, 3.0, -little], top + 2),
        ([top, 2.0, 1.0, -little], top + 2),
    ):
        assert total(state(values)) == expected
        assert total(state([-v for v in values])) == -expected
