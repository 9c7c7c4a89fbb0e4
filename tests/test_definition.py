"""The executable definition against truths of another make: NumPy's casts, fsum, decimals, matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dualloss
from dualloss import BinaryCrossEntropy, Boundary, CrossEntropy, Huber, MeanSquaredError
from dualloss.parity import definition
from dualloss.parity.definition import (
    asum,
    bfloat16,
    chop,
    evaluate,
    exact_sum,
    exp_star,
    float16,
    float32,
    load,
    log1p_star,
)
from dualloss.spec import TERMS

Array = np.ndarray[Any, np.dtype[Any]]

NAN, INF = math.nan, math.inf
TINY = 2.0**-126  # the smallest normal float32
EXP_BOUND = 2.0**-33  # of the relative errors, of exp* where it is not 0; over all q that of log1p* is 2^-27.91
LOG1P_BOUND = 2.0**-27.9
ULP = 2.0**-23  # of float32, at 1

finite = st.floats(allow_nan=False, allow_infinity=False)


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def logits(*shape: int, scale: float = 3.0, seed: int = 0) -> Array:
    return (random(seed).standard_normal(shape) * scale).astype(np.float32)


def f32(values: Any) -> Array:
    return np.asarray(values, np.float32)


def bits_of(array: Any) -> Array:
    held: Array = np.asarray(array)
    return held.view({2: np.uint16, 4: np.uint32}[held.dtype.itemsize])


def close(v: Any, rel: float) -> Any:
    """What is equal to v but for a relative error; no absolute one, since some of the numbers are tiny."""
    return pytest.approx(v, rel=rel, abs=0)


def assert_same_bits(a: Any, b: Any) -> None:
    assert np.asarray(a).dtype == np.asarray(b).dtype
    np.testing.assert_array_equal(bits_of(a), bits_of(b))


# Roundings --------------------------------------------------------------------------------------------------


def around(values: Iterable[float]) -> list[float]:
    """Each value with its float64 neighbours, of both signs."""
    near = [w for v in values for w in (math.nextafter(v, -INF), v, math.nextafter(v, INF))]
    return near + [-v for v in near]


def ties(digits: int, exponents: Iterable[int]) -> list[float]:
    """Numbers half-way between two of `digits` bits, whose lower one is even or odd, and these two."""
    firsts = (2 ** (digits - 1), 2 ** (digits - 1) + 1, 2**digits - 2, 2**digits - 1)
    return [math.ldexp(first + half, e) for first in firsts for half in (0.0, 0.5, 1.0) for e in exponents]


def assert_float32_as_numpy(v: float) -> None:
    with np.errstate(over="ignore"):
        cast = np.float32(v)
    assert_same_bits(np.float32(float32(v)), np.float32(0) if abs(v) < TINY else cast)


def test_float32_is_numpys_cast_at_ties_and_limits() -> None:
    for v in around([*ties(24, [-149, -100, -23, 0, 90, 104]), 1e300, 5e-324, TINY]):
        assert_float32_as_numpy(v)


@given(finite | st.floats(-1e38, 1e38) | st.floats(-1e-37, 1e-37))
def test_float32_is_numpys_cast_but_for_the_flush(v: float) -> None:
    assert_float32_as_numpy(v)


def assert_float16_as_numpy(v: float) -> None:
    with np.errstate(over="ignore"):
        cast = np.float16(v)
    assert_same_bits(np.float16(float16(v)), np.float16(0) if cast == 0 else cast)


def test_float16_is_numpys_cast_at_ties_and_limits() -> None:
    limits = [65504.0, 65519.0, 65520.0, 65536.0, 2.0**-14, 2.0**-24, 2.0**-25, 1e-300]
    for v in around([*ties(11, [-24, -14, 0, 5]), *limits]):
        assert_float16_as_numpy(v)


@given(finite | st.floats(-70000, 70000) | st.floats(-1e-4, 1e-4))
def test_float16_is_numpys_cast_but_for_the_sign_of_zero(v: float) -> None:
    assert_float16_as_numpy(v)


@given(st.integers(0x0080_0000, 0x7F7F_FFFF))
def test_bfloat16_of_a_float32_is_the_usual_bit_trick(bits: int) -> None:
    v = float(np.uint32(bits).view(np.float32))
    kept = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF_0000
    assert_same_bits(np.float32(bfloat16(v)), np.uint32(kept).view(np.float32))
    assert bfloat16(-v) == -bfloat16(v)


def test_bfloat16_rounds_once_and_flushes() -> None:
    assert bfloat16(1 + 2.0**-8) == 1
    assert bfloat16(1 + 2.0**-8 + 2.0**-40) == 1 + 2.0**-7  # by way of float32 it would be 1
    assert bfloat16(math.nextafter(TINY, 0)) == 0
    assert bfloat16(3.4e38) == INF


@pytest.mark.parametrize("narrow", [float32, bfloat16, float16])
def test_roundings_have_one_zero_one_nan_and_both_infinities(narrow: Callable[[float], float]) -> None:
    minus_nan = -NAN
    for v in (-0.0, 0.0, -1e-300, -5e-324):
        assert math.copysign(1, narrow(v)) == 1 and narrow(v) == 0
    for v in (NAN, minus_nan, INF - INF):
        assert bits_of(np.float32(narrow(v))) == 0x7FC0_0000
    assert bits_of(np.float16(float16(minus_nan))) == 0x7E00
    assert (narrow(INF), narrow(-INF)) == (INF, -INF)


def test_float32_rounds_an_integer_once() -> None:
    v = 2**60 + 2**36 + 1  # just above a tie of float32, which float64 would round it to
    assert float32(v) == 2**60 + 2**37


@given(finite)
def test_chop_keeps_48_bits_toward_zero(v: float) -> None:
    mantissa, exponent = math.frexp(v)
    unit = max(exponent - 48, -1074 + 5)  # a subnormal has fewer bits to keep
    expected = math.trunc(Fraction(mantissa) * Fraction(2) ** (exponent - unit)) * Fraction(2) ** unit
    assert Fraction(chop(v)) == expected
    assert chop(chop(v)) == chop(v)


def test_chop_keeps_infinities_and_nan() -> None:
    assert (chop(INF), chop(-INF)) == (INF, -INF)
    assert math.isnan(chop(NAN))


def test_load_flushes_float32_subnormals_and_keeps_those_of_float16() -> None:
    subnormal = float(np.float32(2.0**-127))
    assert (load(subnormal), load(-subnormal), load(TINY), load(2.0**-24)) == (0, 0, TINY, 2.0**-24)
    assert math.copysign(1, load(-0.0)) == 1
    assert math.isnan(load(NAN)) and load(-INF) == -INF


# Sums -------------------------------------------------------------------------------------------------------

term_lists = st.lists(
    st.floats(-1e30, 1e30) | st.floats(-1, 1) | st.sampled_from([1e-300, -1e-200, 0.0]),
    min_size=1,
    max_size=40,
)


@given(term_lists, st.randoms())
def test_asum_does_not_see_the_order_and_is_close_to_fsum(terms: list[float], shuffler: Any) -> None:
    result = asum(terms)
    shuffled = list(terms)
    shuffler.shuffle(shuffled)
    half = len(terms) // 2
    assert asum(shuffled) == result
    assert asum(terms[:half], terms[half:]) == result
    # each term errs by half a unit, at most 2^(digits - 51) of the largest term
    bound = len(terms) * max(map(abs, terms)) * 2.0 ** (len(terms).bit_length() - 52) + 2.0**-600
    assert abs(result - math.fsum(terms)) <= bound


@given(st.lists(st.integers(-(2**20), 2**20), min_size=1, max_size=63), st.integers(-500, 500))
def test_asum_is_exact_for_few_bits(terms: list[int], exponent: int) -> None:
    assert asum([math.ldexp(v, exponent) for v in terms]) == math.ldexp(sum(terms), exponent)


def test_asum_where_it_rounds() -> None:
    # two terms have two digits: units of 2^(0 - 51 + 2) beside a largest term of 1; ties go to even
    unit = 2.0**-49
    assert asum([1, unit * 0.5]) == 1
    assert asum([1, unit * 1.5]) == 1 + 2 * unit
    assert asum([1, unit * 0.5000001]) == 1 + unit
    assert asum([2.0**-601]) == 2.0**-601  # below 2^-600 the unit stays at 2^-650
    assert asum([2.0**-651]) == 0
    assert math.copysign(1, asum([-0.0, -1e-300])) == 1


def test_asum_of_what_is_not_finite() -> None:
    assert math.isnan(asum([1.0, INF, NAN]))
    assert asum([1.0, -INF]) == asum([-INF], [-INF, 1e308]) == -INF
    assert asum([1.0, INF]) == asum([INF], [INF, -1e308]) == INF
    assert math.isnan(asum([INF, 1.0], [-INF]))


kept_by_the_limbs = st.builds(math.ldexp, st.integers(-(2**53), 2**53), st.integers(-160, 128 - 54))


@given(st.lists(kept_by_the_limbs, max_size=60), st.randoms())
def test_exact_sum_is_fsum_for_multiples_of_its_unit(values: list[float], shuffler: Any) -> None:
    result = exact_sum(values)
    assert result == math.fsum(values)
    shuffler.shuffle(values)
    assert exact_sum(values) == result


def test_exact_sum_truncates_each_value_toward_zero() -> None:
    unit = 2.0**-160
    assert exact_sum([unit * 0.75] * 1000) == 0
    assert exact_sum([unit * 1.75, -unit * 0.75]) == unit
    assert exact_sum([-unit * 1.75]) == -unit


def test_exact_sum_of_what_is_not_finite() -> None:
    below = math.nextafter(2.0**128, 0)
    assert exact_sum([below, below]) == 2 * below  # the sum itself may go on
    assert exact_sum([2.0**128]) == INF
    assert exact_sum([-(2.0**128), 5.0]) == -INF
    assert math.isnan(exact_sum([INF, -(2.0**200)]))
    assert math.isnan(exact_sum([INF, NAN]))
    assert exact_sum([]) == 0


# exp* and log1p* --------------------------------------------------------------------------------------------


def relative_error(found: float, true: Callable[[Decimal], Decimal], v: float) -> float:
    with localcontext() as context:
        context.prec = 400
        truth = true(Decimal(v))
        return float(abs((Decimal(found) - truth) / truth))


def true_log1p(s: Decimal) -> Decimal:
    return (1 + s).ln()


@given(st.floats(-87.336, 0) | st.floats(-1, 0) | st.floats(-(2.0**-14), 0))
def test_exp_star_is_within_its_bound(d: float) -> None:
    assert relative_error(exp_star(d), Decimal.exp, d) < EXP_BOUND


@pytest.mark.parametrize("d", [-(2.0**-30), -5e-324, -(2.0**-16), -1.0, -87.33, -87.336])
def test_exp_star_is_within_its_bound_at_the_edges(d: float) -> None:
    assert relative_error(exp_star(d), Decimal.exp, d) < EXP_BOUND


def test_exp_star_between_grid_points_adds_two_terms_of_the_series() -> None:
    for r in (-(2.0**-40), -1.7e-7, -(2.0**-12), 2.0**-12, 4.3e-4):
        assert exp_star(r - 3 / 1024) == exp_star(-3 / 1024) + chop(exp_star(-3 / 1024) * (r + chop(r * r) * 0.5))


def test_exp_star_at_its_ends() -> None:
    assert exp_star(0.0) == exp_star(-0.0) == 1
    assert exp_star(-89432 * 2.0**-10) > TINY
    for d in (-89433 * 2.0**-10, -88.0, -88.5, -1e300, -INF):
        assert exp_star(d) == 0
    assert math.isnan(exp_star(NAN))


@pytest.mark.parametrize("k", [-1, -64, -9973, -50000, -89432])
def test_what_exp_star_keeps_is_what_the_page_makes_of_the_librarys_exp(k: int) -> None:
    raised = np.float64(math.exp(k * 2.0**-10)).view(np.int64) + 535902
    assert exp_star(k * 2.0**-10) == (raised & ~np.int64(2**20 - 1)).view(np.float64)


@given(st.floats(0, 2.0**24, exclude_max=True) | st.floats(0, 1) | st.floats(TINY, 1e-30))
def test_log1p_star_is_within_its_bound(s: float) -> None:
    if s >= TINY:
        assert relative_error(log1p_star(s), true_log1p, s) < LOG1P_BOUND


@pytest.mark.parametrize("s", [TINY, 2.0**-30, 0.2842864990234375, 1.0, 20.0, 2.0**16 - 0.5, 2.0**24 - 1])
def test_log1p_star_is_within_its_bound_at_the_edges(s: float) -> None:
    assert relative_error(log1p_star(s), true_log1p, s) < LOG1P_BOUND


def test_log1p_star_of_zero() -> None:
    assert log1p_star(0.0) == 0


@pytest.mark.parametrize("q", [TINY, 0.0046539306640625, 1.0, 2.80548095703125, 111202.0, 2.0**24 - 2.0**8])
def test_what_log1p_star_keeps_is_what_the_page_makes_of_the_librarys_log1p(q: float) -> None:
    # every q here is one of those of 16 bits; three of them come nearest to a threshold (131 ulp)
    raised = np.float64(math.log1p(q)).view(np.int64) + 17772251
    assert log1p_star(q) == (raised & ~np.int64(2**25 - 1)).view(np.float64)


# Terms against high precision -------------------------------------------------------------------------------


def decimal_softmax(x: Iterable[float]) -> list[Decimal]:
    exps = [Decimal(v).exp() for v in x]
    return [e / sum(exps) for e in exps]


def decimal_cross_entropy(x: Array, u: Array) -> tuple[float, list[float]]:
    """-Σ u log p and its gradient, to 60 digits."""
    with localcontext() as context:
        context.prec = 60
        p = decimal_softmax(map(float, x))
        weights = [Decimal(float(v)) for v in u]
        value = -sum(w * q.ln() for w, q in zip(weights, p, strict=True))
        return float(value), [float(q * sum(weights) - w) for w, q in zip(weights, p, strict=True)]


@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
@pytest.mark.parametrize("dense", [False, True])
def test_cross_entropy_is_the_formula(scale: float, dense: bool) -> None:
    x = logits(40, 5, scale=scale)
    labels = random(1).integers(0, 5, 40)
    rows = random(2).random((40, 5)).astype(np.float32) if dense else np.eye(5, dtype=np.float32)[labels]
    found = evaluate(CrossEntropy(), x, rows if dense else labels, reduction="none")
    expected = [decimal_cross_entropy(*pair) for pair in zip(x, rows, strict=True)]
    for loss, (value, _) in zip(found.loss.tolist(), expected, strict=True):
        assert abs(loss - value) <= 0.6 * math.ulp(value) * 2**29  # ulps of float32
    gradient = np.array([g for _, g in expected])
    np.testing.assert_allclose(found.gradient, gradient, rtol=0, atol=2 * ULP * abs(gradient).max())


@pytest.mark.parametrize("row", [[2, 2, -1], [0, 0, 0], [-5, 1e-3, 1e-3], [7, 7, 7]])
def test_cross_entropy_of_tied_logits(row: list[float]) -> None:
    value, gradient = decimal_cross_entropy(f32(row), f32([0, 1, 0]))
    found = evaluate(CrossEntropy(), f32([row]), np.array([1]))
    assert found.loss == close(value, rel=ULP)
    np.testing.assert_allclose(found.gradient[0], gradient, rtol=0, atol=ULP)


@pytest.mark.parametrize("gap", [12.0, 40.0, 80.0])
def test_cross_entropy_of_a_confident_prediction_keeps_its_digits(gap: float) -> None:
    value = math.log1p(math.exp(-gap))
    found = evaluate(CrossEntropy(), f32([[gap, 0.0]]), np.array([0]))
    assert found.loss == close(value, rel=ULP / 2 * 1.2)
    assert found.gradient[0, 1] == close(-math.expm1(-value), rel=ULP)


def gradients_before_rounding(spec: Any, x: list[float], t: list[float]) -> list[float]:
    """The term's gradient at one position, for the coefficient 1."""
    batch = definition.Batch(shape=(1,), channels=len(x), x=[x], t=[t], valid=[True])
    return definition.TERMS[type(spec).__name__](spec, batch).gradient([1.0])[0]


@pytest.mark.parametrize("gap", [20.0, 30.0, 40.0, 80.0])
def test_cross_entropy_gradients_of_a_confident_prediction_keep_their_digits(gap: float) -> None:
    small = math.exp(-gap) / (1 + math.exp(-gap))
    for row, where in (([gap, 0.0], 0), ([0.0, gap], 1)):
        label = [0.0, 0.0]
        label[where] = 1.0
        found = gradients_before_rounding(CrossEntropy(), row, label)
        assert found == [close(-small if c == where else small, rel=1e-8) for c in range(2)]
        rounded_ = evaluate(CrossEntropy(), f32([row]), np.array([where])).gradient[0].tolist()
        assert rounded_ == [close(v, rel=2.0**-24) for v in found]
    # the label is not the largest logit: 1 - p comes from the other branch
    assert gradients_before_rounding(CrossEntropy(), [gap, 0.0], [0.0, 1.0]) == [
        close(1 - small, rel=1e-8),
        close(small - 1, rel=1e-8),
    ]


@pytest.mark.parametrize("label", [0, 1, 2])
def test_cross_entropy_gradients_beside_tied_logits_and_weights(label: int) -> None:
    row, weights = [20.0, 20.0, -5.0], (0.5, 2.0, 3.0)
    u = [weights[c] if c == label else 0.0 for c in range(3)]
    _, expected = decimal_cross_entropy(f32(row), f32(u))
    found = gradients_before_rounding(CrossEntropy(class_weights=weights), row, [float(c == label) for c in range(3)])
    assert found == [close(v, rel=1e-8) for v in expected]


def test_cross_entropy_of_a_negative_target_at_probability_zero_is_minus_infinity() -> None:
    x = f32([[0, -INF, -INF]])
    assert evaluate(CrossEntropy(), x, f32([[1, -1, 0]])).loss == -INF
    assert np.isnan(evaluate(CrossEntropy(), x, f32([[1, -1, 1]])).loss)


def test_cross_entropy_with_weights_and_smoothing() -> None:
    x, labels, weights = logits(30, 4), random(1).integers(0, 4, 30), (0.5, 2.0, 0.0, 3.0)
    smoothed = np.eye(4)[labels] * np.float32(0.9) + np.float32(0.1 / 4)
    expected = [decimal_cross_entropy(row, t * weights) for row, t in zip(x, smoothed, strict=True)]
    values = [value for value, _ in expected]
    normalizers: dict[Any, Any] = {"weights": np.take(weights, labels).sum(), "valid": 30, "elements": 30}
    for normalizer, n in normalizers.items():
        spec = CrossEntropy(class_weights=weights, label_smoothing=0.1, normalizer=normalizer)
        found = evaluate(spec, x, labels)
        assert found.loss == close(math.fsum(values) / n, rel=ULP)
        np.testing.assert_allclose(found.gradient, np.array([g for _, g in expected]) / n, rtol=1e-5, atol=1e-8)


def test_the_weights_normalizer_of_dense_targets_may_be_small_and_leaves_masked_positions_out() -> None:
    x, t, weights = logits(3, 2), f32([[0.5, 0.25], [8, 8], [0, 0.125]]), (0.25, 0.5)
    found = evaluate(CrossEntropy(class_weights=weights), x, t, sample_weight=np.array([True, False, True]))
    values = [decimal_cross_entropy(x[i], t[i] * f32(weights))[0] for i in (0, 2)]
    assert found.loss == close(sum(values) / (0.25 * 0.5 + 0.5 * 0.375), rel=ULP)


def test_a_class_of_probability_zero_counts_nothing_without_a_target() -> None:
    x = f32([[1.0, -INF, 0.0]])
    found = evaluate(CrossEntropy(), x, np.array([0]))
    assert found.loss == evaluate(CrossEntropy(), x[:, [0, 2]], np.array([0])).loss
    assert found.gradient[0, 1] == 0
    assert evaluate(CrossEntropy(), x, np.array([1])).loss == INF


@pytest.mark.parametrize("options", [{}, {"pos_weight": (0.5, 3.0)}, {"pos_weight": 2.0}, {"label_smoothing": 0.2}])
def test_binary_cross_entropy_is_the_formula(options: dict[str, Any]) -> None:
    x, t = logits(30, 2, scale=8.0), random(1).random((30, 2)).astype(np.float32)
    positive, epsilon = options.get("pos_weight", 1.0), options.get("label_smoothing", 0.0)
    found = evaluate(BinaryCrossEntropy(**options), x, t, reduction="sum")
    x64 = x.astype(np.float64)
    smoothed = np.float64(np.float32(1 - epsilon)) * t + np.float64(np.float32(epsilon / 2))
    yes, no = np.logaddexp(0, -x64), np.logaddexp(0, x64)
    assert found.loss == close((positive * smoothed * yes + (1 - smoothed) * no).sum() / 2, rel=ULP)
    sigma = np.exp(-yes)
    expected = ((1 - smoothed) * sigma - positive * smoothed * np.exp(-no)) / 2
    np.testing.assert_allclose(found.gradient, expected, rtol=0, atol=2 * ULP)


def test_binary_cross_entropy_far_out_loses_nothing() -> None:
    x, t = f32([80.0, -80.0, 80.0, -80.0, INF, -INF]), f32([1, 0, 0, 1, 1, 0])
    found = evaluate(BinaryCrossEntropy(), x, t, reduction="none")
    tiny = math.exp(-80)
    np.testing.assert_allclose(found.loss, [tiny, tiny, 80, 80, 0, 0], rtol=ULP)
    np.testing.assert_allclose(found.gradient, [-tiny, tiny, 1, -1, 0, 0], rtol=ULP)


def rounded(v: Fraction) -> np.float32:
    """The float32 nearest to an exact number (of few enough bits to be a float64 on the way)."""
    assert Fraction(float(v)) == v
    return np.float32(float(v))


quarters = st.integers(-400, 400).map(lambda v: v / 4)


@given(st.lists(st.tuples(quarters, quarters), min_size=1, max_size=4))
def test_mean_squared_error_and_huber_are_exact_where_the_numbers_are(
    pairs: list[tuple[float, float]],
) -> None:
    x, t = (f32(v) for v in zip(*pairs, strict=True))
    delta = Fraction(3, 2)
    d = [Fraction(float(v)) for v in x - t]
    squares = evaluate(MeanSquaredError(), x, t, reduction="none")
    assert_same_bits(squares.loss, np.array([rounded(v * v) for v in d]))
    assert_same_bits(squares.gradient, np.array([rounded(2 * v) for v in d]))
    huber = evaluate(Huber(delta=1.5), x, t, reduction="none")
    small = [abs(v) <= delta for v in d]
    values = [v * v / 2 if near else delta * (abs(v) - delta / 2) for v, near in zip(d, small, strict=True)]
    assert_same_bits(huber.loss, np.array([rounded(v) for v in values]))
    assert_same_bits(huber.gradient, np.array([rounded(max(-delta, min(v, delta))) for v in d]))


def test_terms_of_several_channels_are_means_over_them() -> None:
    x, t = logits(6, 4), logits(6, 4, seed=1)
    for spec in (MeanSquaredError(), Huber(delta=0.7)):
        whole = evaluate(spec, x, t)
        single = evaluate(spec, x.reshape(24, 1), t.reshape(24, 1))
        assert whole.loss == close(single.loss, rel=ULP)
        np.testing.assert_allclose(whole.gradient.ravel(), single.gradient.ravel(), rtol=2 * ULP)


# Boundary against an explicit matrix ------------------------------------------------------------------------

SPATIAL = [(1,), (2,), (5,), (1, 1), (1, 4), (2, 2), (4, 3), (1, 2, 3), (2, 1, 1), (3, 2, 4), (2, 2, 2)]
KERNELS = ["laplacian", "laplacian8"]
PADDINGS = {"zeros": "constant", "replicate": "edge", "reflect": "reflect"}  # and NumPy's names


def stencil_matrix(shape: tuple[int, ...], kernel: Any, padding: Any) -> Array:
    """K as an integer matrix over the positions, from NumPy's padding of an array of position numbers."""
    n, axes = math.prod(shape), len(shape)
    fill: dict[str, Any] = {"constant_values": -1} if padding == "zeros" else {}
    padded = np.pad(np.arange(n).reshape(shape), 1, mode=PADDINGS[padding], **fill)  # type: ignore[call-overload]
    matrix = np.zeros((n, n), np.int64)
    for offset in product((-1, 0, 1), repeat=axes):
        distance = sum(map(abs, offset))
        if distance == 0 or (kernel == "laplacian" and distance > 1):
            continue
        window = tuple(slice(1 + o, 1 + o + size) for o, size in zip(offset, shape, strict=True))
        for i, j in enumerate(padded[window].ravel()):
            matrix[i, i] += 1
            if j >= 0:
                matrix[i, j] -= 1
    return matrix


@pytest.mark.parametrize("spatial", SPATIAL, ids=str)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("padding", PADDINGS)
def test_boundary_is_its_matrix_and_its_gradient_the_transpose(
    spatial: tuple[int, ...], kernel: Any, padding: Any
) -> None:
    # small integers and halves: every step is exact, so the bits must be equal
    draw = random(math.prod(spatial))
    batch, channels, n = 2, 2, math.prod(spatial)
    matrix = stencil_matrix(spatial, kernel, padding)
    x = draw.integers(-9, 10, (batch, *spatial, channels))
    t = draw.integers(-9, 10, x.shape)
    s = draw.integers(0, 4, (batch, *spatial))
    spec = Boundary(kernel=kernel, padding=padding)
    response = np.einsum("ij,bjc->bic", matrix, (x - t).reshape(batch, n, channels))
    flat = s.reshape(batch, n, 1)
    gradient = np.einsum("ij,bic->bjc", matrix, flat * response)  # 1/2, the mean, and 2, the square

    found = evaluate(spec, x.astype(np.float32), t, sample_weight=s, reduction="sum")
    assert_same_bits(found.loss, np.float32((flat * response**2).sum() / 2))
    assert_same_bits(found.gradient, gradient.reshape(x.shape).astype(np.float32))
    per_position = evaluate(spec, x.astype(np.float32), t, reduction="none").loss
    assert_same_bits(per_position, ((response**2).sum(-1) / 2).reshape(s.shape).astype(np.float32))
    # for "none", the stencil's transpose spreads the upstream gradient, too
    h = draw.integers(-3, 4, s.shape)
    spread = np.einsum("ij,bic->bjc", matrix, h.reshape(batch, n, 1) * flat * response)
    found = evaluate(spec, x.astype(np.float32), t, sample_weight=s, reduction="none", upstream=f32(h))
    assert_same_bits(found.gradient, spread.reshape(x.shape).astype(np.float32))
    spread = np.einsum("ij,bic->bjc", matrix, h.reshape(batch, n, 1) * response)
    found = evaluate(spec, x.astype(np.float32), t, reduction="none", upstream=f32(h))
    assert_same_bits(found.gradient, spread.reshape(x.shape).astype(np.float32))


@pytest.mark.parametrize("spatial", [(5,), (4, 3), (2, 3, 2)], ids=str)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("padding", PADDINGS)
def test_boundary_on_probabilities_is_the_chain_rule(spatial: tuple[int, ...], kernel: Any, padding: Any) -> None:
    x, labels = logits(2, *spatial, 3), random(1).integers(0, 3, (2, *spatial))
    found = evaluate(Boundary(on="probabilities", kernel=kernel, padding=padding), x, labels)
    n = math.prod(spatial)
    matrix = stencil_matrix(spatial, kernel, padding)
    exps = np.exp(x.reshape(2, n, 3).astype(np.float64))
    p = exps / exps.sum(-1, keepdims=True)
    response = np.einsum("ij,bjc->bic", matrix, p - np.eye(3)[labels.reshape(2, n)])
    assert found.loss == close((response**2).sum() / 3 / (2 * n), rel=2 * ULP)
    back = 2 * np.einsum("ij,bic->bjc", matrix, response) / 3 / (2 * n)
    expected = (p * (back - (p * back).sum(-1, keepdims=True))).reshape(x.shape)
    np.testing.assert_allclose(found.gradient, expected, rtol=0, atol=2 * ULP * abs(expected).max())
    # for "none", row by row: the Jacobian of the map, transposed, times the upstream gradient
    h = random(3).standard_normal(labels.shape).astype(np.float32)
    found = evaluate(
        Boundary(on="probabilities", kernel=kernel, padding=padding), x, labels, reduction="none", upstream=h
    )
    expected = np.zeros_like(p)
    for b, i in product(range(2), range(n)):
        of_p = 2 / 3 * matrix[i][:, None] * response[b, i]  # of the map at (b, i): j by class
        jacobian = p[b] * (of_p - (p[b] * of_p).sum(-1, keepdims=True))
        expected[b] += jacobian * h.reshape(2, n)[b, i]
    expected = expected.reshape(x.shape)
    np.testing.assert_allclose(found.gradient, expected, rtol=0, atol=2 * ULP * abs(expected).max())


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("padding", PADDINGS)
def test_boundary_on_probabilities_has_no_gradient_where_nothing_touches_a_nan(padding: Any, reduction: Any) -> None:
    x, labels = logits(3, 4, 3), random(1).integers(0, 3, (3, 4))
    x[0], x[1, 0] = NAN, NAN
    s = f32([[0] * 4, [0, 0, 1, 2], [1] * 4])
    spec = Boundary(on="probabilities", padding=padding)
    found = evaluate(spec, x, labels, sample_weight=s, reduction=reduction)
    # in the sample of weight 0 nothing touches any position; in the second nothing touches its NaN
    assert not bits_of(found.gradient[0]).any()
    assert not bits_of(found.gradient[1, 0]).any()
    assert np.isfinite(found.loss).all() and np.isfinite(found.gradient).all()
    assert found.gradient[1, 1:].all() and found.gradient[2].all()
    # but a counting neighbour sees a NaN of weight 0: that is no mask
    s[1, 1] = 1
    found = evaluate(spec, x, labels, sample_weight=s, reduction=reduction)
    assert np.isnan(found.gradient[1, :3]).all() and np.isfinite(found.gradient[[0, 2]]).all()
    if reduction == "none":
        np.testing.assert_array_equal(np.isnan(found.loss[1]), [False, True, False, False])
    else:
        assert np.isnan(found.loss)


def test_boundary_on_probabilities_has_a_gradient_at_whatever_a_coefficient_reaches() -> None:
    # the position's own coefficient is 0, its neighbours' are not
    x, labels, s = logits(1, 3, 2), np.array([[0, 1, 1]]), f32([[1, 0, 1]])
    assert evaluate(Boundary(on="probabilities"), x, labels, sample_weight=s).gradient[0, 1].all()


@pytest.mark.parametrize("on", ["logits", "probabilities"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("padding", PADDINGS)
def test_boundary_counts_positions_whose_neighbours_are_valid(on: Any, kernel: Any, padding: Any) -> None:
    labels = random(2).integers(0, 3, (1, 7, 6))
    labels[0, 2, 1] = labels[0, 6, 5] = 9
    x = logits(1, 7, 6, 3)
    counts = np.ones((7, 6), bool)
    for row, column in ((2, 1), (6, 5)):
        near = abs(np.arange(7)[:, None] - row), abs(np.arange(6)[None] - column)
        counts &= (near[0] + near[1] > 1) if kernel == "laplacian" else (np.maximum(*near) > 1)
    spec = Boundary(on=on, kernel=kernel, padding=padding, ignore_index=9)
    values = evaluate(spec, x, labels, reduction="none").loss
    np.testing.assert_array_equal(values[0] > 0, counts)
    mean = values.astype(float).sum() / counts.sum()
    assert evaluate(spec, x, labels).loss == close(mean, rel=2 * ULP)
    # what stands at an ignored position does not matter, not even NaN, and it gets no gradient
    spoiled = x.copy()
    spoiled[labels == 9] = NAN
    for reduction in ("mean", "sum", "none"):
        clean, found = (evaluate(spec, v, labels, reduction=reduction) for v in (x, spoiled))
        assert_same_bits(clean.loss, found.loss)
        assert_same_bits(clean.gradient, found.gradient)
        assert not found.gradient[labels == 9].any()


ORDERS: dict[str, list[list[tuple[int, ...]]]] = {
    "laplacian": [
        [(-1,), (1,)],
        [(-1, 0), (1, 0), (0, -1), (0, 1)],
        [(-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1)],
    ],
    "laplacian8": [
        [(-1,), (1,)],
        [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)],
        sorted(set(product((-1, 0, 1), repeat=3)) - {(0, 0, 0)}),
    ],
}
NEIGHBOURS = [
    (kernel, order, first) for kernel, orders in ORDERS.items() for order in orders for first in range(len(order) - 1)
]


@pytest.mark.parametrize(("kernel", "order", "first"), NEIGHBOURS)
def test_boundary_subtracts_its_offsets_in_order(kernel: Any, order: list[tuple[int, ...]], first: int) -> None:
    # The offset in place `first` cancels the centre: a tiny one stays after it, and would be lost before it.
    axes = len(order[0])
    tiny = 2.0**-60
    centre = (1,) * axes

    def put(numbers: Array, at_centre: float, cancelling: float, last: float, sign: int) -> Array:
        """The three numbers, at the centre and at `sign` times the two offsets from it."""
        numbers[centre] = at_centre
        numbers[tuple(1 + sign * o for o in order[first])] = cancelling
        numbers[tuple(1 + sign * o for o in order[first + 1])] = last
        return numbers.reshape(1, *numbers.shape)

    shape, zero = (1, *(3,) * axes, 1), np.zeros((1, *(3,) * axes, 1), np.float32)
    x = put(np.zeros((3,) * axes, np.float32), 0.5, len(order) * 0.5, tiny, 1).reshape(shape)
    assert evaluate(Boundary(kernel=kernel), x, zero, reduction="none").loss[0, *centre] == tiny * tiny
    assert evaluate(Boundary(kernel=kernel), zero, x, reduction="none").loss[0, *centre] == tiny * tiny

    # The gradient gathers from the other side: sample weights make Y such a field.
    u = random(1).integers(1, 99, (3,) * axes)
    response = stencil_matrix((3,) * axes, kernel, "zeros") @ u.ravel()
    assert response.all()
    d = response.reshape(u.shape)
    cancelling, last = (tuple(1 - o for o in order[first + k]) for k in (0, 1))
    s = put(np.zeros(u.shape, np.float32), d[cancelling], len(order) * d[centre], tiny, -1)
    found = evaluate(Boundary(kernel=kernel), f32(u).reshape(shape), zero, sample_weight=s, reduction="sum")
    assert found.gradient[0, *centre, 0] == -2 * d[last] * tiny


def test_boundary_needs_spatial_axes() -> None:
    for shape in ((3, 2), (1, 2, 2, 2, 2, 2)):
        with pytest.raises(ValueError, match="1 to 3 spatial axes"):
            evaluate(Boundary(), np.zeros(shape, np.float32), np.zeros(shape, np.float32))


# Reductions, weights, what is left out ----------------------------------------------------------------------

LABELLED = [
    CrossEntropy(ignore_index=9),
    CrossEntropy(ignore_index=9, label_smoothing=0.1, class_weights=(1, 2, 0.5)),
    Boundary(ignore_index=9),
    Boundary(ignore_index=9, on="probabilities", kernel="laplacian8", padding="reflect"),
    CrossEntropy(ignore_index=9) + 0.5 * MeanSquaredError() + 0.25 * Huber() + BinaryCrossEntropy(),
]


@pytest.mark.parametrize("spec", LABELLED, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("x", [logits(2, 3, 2, 3), np.full((2, 3, 2, 3), NAN, np.float32)], ids=["finite", "NaN"])
def test_everything_ignored_is_zero(spec: dualloss.Spec, reduction: Any, x: Array) -> None:
    found = evaluate(spec, x, np.full(x.shape[:-1], 9), reduction=reduction)
    assert not bits_of(found.loss).any() and not bits_of(found.gradient).any()


@pytest.mark.parametrize("spec", LABELLED, ids=str)
def test_an_empty_batch_is_zero(spec: dualloss.Spec) -> None:
    found = evaluate(spec, np.zeros((0, 3, 2, 3), np.float32), np.zeros((0, 3, 2), np.int64))
    assert_same_bits(found.loss, np.float32(0))
    assert found.gradient.shape == (0, 3, 2, 3)


@pytest.mark.parametrize("spec", LABELLED, ids=str)
def test_a_mask_is_as_ignored_labels(spec: dualloss.Spec) -> None:
    x, labels = logits(2, 4, 4, 3), random(1).integers(0, 3, (2, 4, 4))
    mask = random(3).random((2, 4, 4)) > 0.2
    for reduction in ("mean", "sum", "none"):
        masked = evaluate(spec, x, labels, sample_weight=mask, reduction=reduction)
        ignored = evaluate(spec, x, np.where(mask, labels, 9), reduction=reduction)
        assert_same_bits(masked.loss, ignored.loss)
        assert_same_bits(masked.gradient, ignored.gradient)


def test_ignored_labels_leave_the_other_positions_as_they_are() -> None:
    x, labels = logits(20, 3), random(1).integers(0, 3, 20)
    kept = random(2).random(20) > 0.4
    ignoring = np.where(kept, labels, -100)
    normalizers: dict[Any, Any] = {"weights": kept.sum(), "valid": kept.sum(), "elements": 20}
    for normalizer, n in normalizers.items():
        spec = CrossEntropy(ignore_index=-100, normalizer=normalizer)
        alone = evaluate(CrossEntropy(), x[kept], labels[kept], reduction="none").loss
        expected = math.fsum(map(float, alone)) / n
        assert evaluate(spec, x, ignoring).loss == close(expected, rel=ULP)


@pytest.mark.parametrize("spec", [CrossEntropy(), MeanSquaredError(), Huber(), BinaryCrossEntropy()], ids=str)
def test_sample_weights_scale_positions_and_not_the_normalizer(spec: dualloss.Spec) -> None:
    x, labels = logits(4, 5, 3), random(1).integers(0, 3, (4, 5))
    weights = f32([0, 1, 2, 0.5])
    plain = evaluate(spec, x, labels)
    values = evaluate(spec, x, labels, reduction="none").loss
    weighted = evaluate(spec, x, labels, sample_weight=weights)
    mapped = evaluate(spec, x, labels, sample_weight=weights, reduction="none").loss
    np.testing.assert_array_equal(mapped, values * weights[:, None])
    assert weighted.loss == close(mapped.astype(float).sum() / 20, rel=ULP)
    np.testing.assert_array_equal(weighted.gradient, plain.gradient * weights[:, None, None])
    each = np.broadcast_to(weights[:, None], (4, 5))
    assert_same_bits(evaluate(spec, x, labels, sample_weight=each).gradient, weighted.gradient)


@pytest.mark.parametrize("spec", [CrossEntropy(), MeanSquaredError(), Huber(), BinaryCrossEntropy()], ids=str)
def test_a_weight_of_zero_silences_nan(spec: dualloss.Spec) -> None:
    x, labels = logits(3, 2), np.array([0, 1, 1])
    x[1] = NAN
    weights = f32([1, 0, 1])
    for reduction in ("mean", "sum", "none"):
        found = evaluate(spec, x, labels, sample_weight=weights, reduction=reduction)
        assert np.isfinite(found.loss).all()
        assert np.isfinite(found.gradient).all() and not found.gradient[1].any()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_weight_of_zero_silences_a_coefficient_that_is_no_number(reduction: Any) -> None:
    # the NaN target at the first position makes the normaliser NaN
    x, t, spec = logits(2, 2), f32([[NAN, 0], [1, 0]]), CrossEntropy(class_weights=(1, 2))
    found = evaluate(spec, x, t, sample_weight=f32([0, 1]), reduction=reduction)
    assert not bits_of(found.gradient[0]).any()
    assert np.isnan(found.gradient[1]).all() == (reduction == "mean")


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_sums_of_terms_weigh_the_values_that_the_terms_report(reduction: Any) -> None:
    x, labels = logits(2, 4, 3, 3), random(1).integers(0, 3, (2, 4, 3))
    terms = [CrossEntropy(), Boundary(), Boundary(on="probabilities"), Huber()]
    weights = [1.0, 0.5, -0.3, 2.0]
    spec = sum(w * term for w, term in zip(weights, terms, strict=True))
    assert isinstance(spec, dualloss.Spec)
    found = evaluate(spec, x, labels, reduction=reduction)
    alone = [evaluate(term, x, labels, reduction=reduction) for term in terms]
    assert list(found.terms) == ["cross_entropy", "boundary", "boundary_2", "huber"]
    for value, one in zip(found.terms.values(), alone, strict=True):
        (itself,) = one.terms.values()
        assert_same_bits(value, itself)
        assert_same_bits(itself, one.loss)
    products = [float(np.float32(w)) * one.loss.astype(float) for w, one in zip(weights, alone, strict=True)]
    np.testing.assert_allclose(found.loss, sum(products), rtol=8 * ULP)
    expected = sum(w * one.gradient.astype(float) for w, one in zip(weights, alone, strict=True))
    np.testing.assert_allclose(found.gradient, expected, rtol=0, atol=4 * ULP * abs(found.gradient).max())


def test_a_term_of_weight_zero_is_left_out() -> None:
    x, labels = logits(1, 3, 2), np.array([[0, 1, 1]])
    x[0, 1:, 1] = INF  # the boundary is NaN
    for reduction in ("mean", "sum", "none"):
        alone = evaluate(Huber(), x, labels, reduction=reduction)
        boundary = evaluate(Boundary(), x, labels, reduction=reduction)
        assert np.isnan(boundary.loss).any() and np.isnan(boundary.gradient).any()
        for spec in (Huber() + 0.0 * Boundary(), 0.0 * Boundary() + Huber()):
            found = evaluate(spec, x, labels, reduction=reduction)
            assert_same_bits(found.loss, alone.loss)
            assert_same_bits(found.gradient, alone.gradient)
            # its own value is reported
            assert list(found.terms) == list(spec.names)
            assert_same_bits(found.terms["huber"], alone.loss)
            assert_same_bits(found.terms["boundary"], boundary.loss)
        nothing = evaluate(0.0 * Boundary(), x, labels, reduction=reduction)
        assert_same_bits(nothing.loss, np.zeros_like(boundary.loss))
        assert_same_bits(nothing.gradient, np.zeros_like(x))
        assert_same_bits(nothing.terms["boundary"], boundary.loss)


def test_the_loss_does_not_see_the_order_of_positions() -> None:
    x, labels, order = logits(50, 4, scale=20), random(1).integers(0, 4, 50), random(2).permutation(50)
    spec = CrossEntropy(class_weights=(0.1, 0.7, 1.3, 2)) + MeanSquaredError()
    plain, shuffled = evaluate(spec, x, labels), evaluate(spec, x[order], labels[order])
    assert_same_bits(plain.loss, shuffled.loss)
    assert_same_bits(plain.gradient[order], shuffled.gradient)


def test_the_upstream_gradient_scales() -> None:
    x, labels = logits(5, 3), np.array([0, 1, 2, 0, 1])
    plain = evaluate(CrossEntropy(), x, labels).gradient
    assert_same_bits(evaluate(CrossEntropy(), x, labels, upstream=-4.0).gradient, plain * np.float32(-4))
    each = f32([1, 0, 2, -1, 0.5])
    rows = evaluate(CrossEntropy(), x, labels, reduction="none").gradient
    mapped = evaluate(CrossEntropy(), x, labels, reduction="none", upstream=each).gradient
    np.testing.assert_array_equal(mapped, rows * each[:, None])
    single = evaluate(CrossEntropy(), x, labels, reduction="none", upstream=0.3).gradient
    assert_same_bits(single, evaluate(CrossEntropy(), x, labels, reduction="none", upstream=f32([0.3] * 5)).gradient)
    with pytest.raises(ValueError, match="upstream has shape"):
        evaluate(CrossEntropy(), x, labels, upstream=each)


def test_an_upstream_of_zero_silences_a_position_of_the_map_only() -> None:
    x, labels = logits(3, 2), np.array([0, 1, 1])
    x[1] = NAN
    for s in (None, f32([1, 2, 3])):
        found = evaluate(CrossEntropy(), x, labels, reduction="none", upstream=f32([1, 0, 2]), sample_weight=s)
        assert not bits_of(found.gradient[1]).any() and found.gradient[[0, 2]].all()
    assert np.isnan(evaluate(CrossEntropy(), x, labels, upstream=0.0).gradient[1]).all()
    # it also stops what the map's infinite coefficient would make NaN
    found = evaluate(
        MeanSquaredError(), f32([1, 1]), f32([0, 0]), sample_weight=f32([INF, INF]), reduction="none",
        upstream=f32([0, 1]),
    )  # fmt: skip
    np.testing.assert_array_equal(found.gradient, [0, INF])


# Roundings that show ----------------------------------------------------------------------------------------

three_equal = f32([[0, 0, 0]])


def test_constants_are_rounded_to_float32() -> None:
    for epsilon in (0.1, 0.3, 0.7, 0.999):
        found = evaluate(CrossEntropy(label_smoothing=epsilon), three_equal, np.array([0]))
        # p (U - t') with p = 1/3 leaves a third of 1 - epsilon
        assert found.gradient[0, 1] == np.float32(float(np.float32(1 - epsilon)) / 3)
    found = evaluate(BinaryCrossEntropy(label_smoothing=0.999), f32([0]), f32([0]))
    assert found.gradient[0] == np.float32(0.5) - np.float32(0.4995)
    found = evaluate(0.1 * MeanSquaredError(), f32([3]), f32([0]))
    assert found.loss == np.float32(float(np.float32(0.1)) * 9)


def test_coefficients_are_rounded_to_float32_before_they_multiply() -> None:
    for n in range(1, 60):
        coefficient = np.float32(1 / n)
        found = evaluate(CrossEntropy(), three_equal.repeat(n, 0), np.zeros(n, int))
        assert found.gradient[0, 1] == np.float32(float(coefficient) / 3)
        found = evaluate(MeanSquaredError(), np.full(n, 3, np.float32), np.zeros(n, int))
        assert found.gradient[0] == np.float32(coefficient * np.float64(6))
        s = random(n).random(n).astype(np.float32)
        found = evaluate(MeanSquaredError(), np.full(n, 3, np.float32), np.zeros(n, int), sample_weight=s)
        assert_same_bits(found.gradient, coefficient * s * np.float32(6))  # each product rounds to float32


def test_a_mean_over_channels_multiplies_by_a_float64() -> None:
    for total in range(1, 300):
        x = f32([[math.isqrt(total), 0, 0]])
        assert evaluate(MeanSquaredError(), x, x * 0).loss == np.float32(float(x[0, 0]) ** 2 / 3)


def test_the_upstream_joins_the_coefficient_of_a_map_in_one_rounding() -> None:
    x, t = f32([[0.5, 0.5]] * 40), np.zeros((40, 2), np.float32)  # 2 d = 1: the gradient is the coefficient
    s, h = (random(seed).random(40).astype(np.float32) for seed in (0, 1))
    a = np.float64(np.float32(np.float64(np.float32(0.1)) * 0.5))
    options: dict[str, Any] = {"reduction": "none", "upstream": h}
    found = evaluate(0.1 * MeanSquaredError(), x, t, sample_weight=s, **options).gradient
    once = (a * s * h).astype(np.float32)
    assert_same_bits(found, once[:, None].repeat(2, 1))
    assert (once != (a * s).astype(np.float32) * h).any() and (once != a.astype(np.float32) * (s * h)).any()
    # and the gradient is not rounded again by a product with h
    x = logits(40, 2)
    found = evaluate(0.1 * MeanSquaredError(), x, t, **options).gradient
    assert_same_bits(found, (a * h).astype(np.float32)[:, None] * (2 * x))
    after = h[:, None] * evaluate(0.1 * MeanSquaredError(), x, t, reduction="none").gradient
    assert (found != after).any()


def test_terms_are_not_rounded_before_they_are_weighed() -> None:
    seen = 0
    for n in range(1, 60):
        x = f32([1] + [0] * (n - 1))
        found = evaluate(3 * MeanSquaredError(), x, x * 0)
        assert found.loss == np.float32(chop(3 * (1 / n)))
        assert_same_bits(found.terms["mean_squared_error"], np.float32(1 / n))
        seen += bool(found.loss != np.float32(1 / n) * np.float32(3))
    assert seen


def test_the_values_of_a_map_are_not_rounded_before_they_are_weighed() -> None:
    x = f32([math.sqrt(v) for v in range(60)])
    squares = x.astype(float) ** 2
    found = evaluate(3 * MeanSquaredError(), x, x * 0, reduction="none")
    assert_same_bits(found.loss, np.array([chop(3 * v) for v in squares], np.float32))
    assert_same_bits(found.terms["mean_squared_error"], squares.astype(np.float32))
    assert (found.loss != np.float32(3) * squares.astype(np.float32)).any()


def test_sums_over_terms_keep_48_bits() -> None:
    for small, left in ((2.0**-47, 2.0**-47), (2.0**-48, 0), (1.75 * 2.0**-47, 2.0**-47)):
        spec = MeanSquaredError() + small * MeanSquaredError() + -1 * MeanSquaredError()
        for reduction in ("mean", "none"):
            found = evaluate(spec, f32([1]), f32([0]), reduction=reduction)
            assert found.loss == left
            assert found.gradient[0] == 2 * left


def test_boundary_takes_the_difference_of_two_responses() -> None:
    # the difference at the centre, 0.75 * 2^-48 - 1, would not keep these bits
    x = f32([0, 0.75 * 2.0**-48, 0]).reshape(1, 3, 1)
    for low in (x, -x):
        found = evaluate(Boundary(padding="replicate"), low, np.ones((1, 3, 1), int), reduction="none")
        assert found.loss[0, 1] == (1.5 * 2.0**-48) ** 2


def one_position(row: list[float], t: Any) -> Any:
    """What Boundary(on="probabilities") makes of a single position with zeros around it."""
    x = f32(row).reshape(1, 1, -1)
    return evaluate(Boundary(on="probabilities"), x, f32(t).reshape(x.shape), reduction="sum")


def test_boundary_on_confident_probabilities_does_not_cancel() -> None:
    with localcontext() as context:
        context.prec = 60
        for gap in (20, 30, 40):
            q = 1 / (1 + Decimal(gap).exp())  # of the other class; without neighbours D = 2 (p - t) = -+ 2 q
            found = one_position([gap, 0], [1, 0])
            assert found.loss == close(float((2 * q) ** 2), rel=ULP)
            # dV/dp is -+4 q, and so the difference of the classes 8 q; through the softmax times p (1 - p)
            slope = float(16 * q * q * (1 - q) / 2)
            assert found.gradient.ravel().tolist() == close([-slope, slope], rel=2 * ULP)


def test_boundary_on_even_probabilities_has_no_gradient() -> None:
    for classes in (2, 3, 7):
        assert (one_position([0] * classes, [0] * classes).gradient == 0).all()


def test_binary_cross_entropy_chops_the_two_sides_of_its_gradient() -> None:
    seen = 0
    for x in f32(np.linspace(0.1, 1.0, 40)):
        v = exp_star(-float(x))
        t = f32([1 / (1 + v)])  # the sides all but cancel
        alpha = float(t[0])
        sides = np.array([(1 - alpha) * (1 / (1 + v)), alpha * (v / (1 + v))])
        no, yes = (sides.view(np.int64) & -32).view(np.float64)
        assert evaluate(BinaryCrossEntropy(), f32([x]), t).gradient[0] == np.float32(no - yes)
        seen += bool(np.float32(no - yes) != np.float32(sides[0] - sides[1]))
    assert seen


# NaN, labels, dtypes, layouts -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "bad"),
    [
        ([NAN, 0, 0], True),
        ([INF, 0, 0], True),
        ([-INF, -INF, -INF], True),
        ([-INF, 0, -INF], False),
        ([3e38, -3e38, 0], False),
    ],
)
def test_softmax_terms_are_nan_where_the_logits_are_bad(row: list[float], bad: bool) -> None:
    x = f32([[1, 2, 3], row, [3, 2, 1]])
    found = evaluate(CrossEntropy(), x, np.array([0, 1, 2]), reduction="none")
    np.testing.assert_array_equal(np.isnan(found.loss), [False, bad, False])
    np.testing.assert_array_equal(np.isnan(found.gradient), np.array([False, bad, False])[:, None].repeat(3, 1))
    assert np.isnan(evaluate(CrossEntropy(), x, np.array([0, 1, 2])).loss) == bad


@pytest.mark.parametrize("spec", [CrossEntropy(), MeanSquaredError(), Huber(), BinaryCrossEntropy()], ids=str)
def test_every_nan_that_leaves_is_the_same(spec: dualloss.Spec) -> None:
    x = np.array([[0xFFC0_0001, 0x3F80_0000], [0x7F80_0001, 0xBF80_0000]], np.uint32).view(np.float32)
    found = evaluate(spec, x, np.array([0, 1]))
    assert bits_of(found.loss) == 0x7FC0_0000
    assert (bits_of(found.gradient)[:, 0] == 0x7FC0_0000).all()
    half = evaluate(spec, np.array([[0xFE01, 0]], np.uint16).view(np.float16), np.array([0]))
    assert bits_of(half.gradient)[0, 0] == 0x7E00


def test_a_label_out_of_range_is_an_error_or_nan() -> None:
    x, labels = logits(2, 3, 4), np.array([[0, 1, 2], [3, 4, -100]])
    with pytest.raises(ValueError, match=r"label 4 at position \(1, 1\)"):
        evaluate(CrossEntropy(ignore_index=-100), x, labels)
    found = evaluate(CrossEntropy(ignore_index=-100), x, labels, labels="nan", reduction="none")
    np.testing.assert_array_equal(np.isnan(found.loss), labels == 4)
    np.testing.assert_array_equal(np.isnan(found.gradient).all(-1), labels == 4)
    assert np.isnan(evaluate(CrossEntropy(ignore_index=-100), x, labels, labels="nan").loss)


def test_labels_are_checked_at_valid_positions_only() -> None:
    x, labels = logits(2, 3, 4), np.array([[0, 1, 2], [3, 4, -100]])
    mask = (labels >= 0) & (labels < 4)
    for spec in (CrossEntropy(), CrossEntropy(class_weights=(1, 2, 3, 4)), Boundary()):
        masked = evaluate(spec, x, labels, sample_weight=mask)
        ignored = evaluate(spec, x, np.where(mask, labels, 0), sample_weight=mask)
        assert_same_bits(masked.loss, ignored.loss)
        assert_same_bits(masked.gradient, ignored.gradient)
    with pytest.raises(ValueError, match="label 4"):  # a weight of 0 is no mask
        evaluate(CrossEntropy(), x, labels, sample_weight=mask.astype(np.float32))


def test_a_label_that_is_nan_reaches_whatever_looks_at_it() -> None:
    x, labels = logits(1, 5, 2), np.array([[0, 1, 7, 0, 1]])
    found = evaluate(Boundary(), x, labels, labels="nan", reduction="none")
    np.testing.assert_array_equal(np.isnan(found.loss[0]), [False, True, True, True, False])
    assert np.isnan(found.gradient).all()
    spec = CrossEntropy(class_weights=(1, 2))  # the mean divides by the weight of every target
    assert np.isnan(evaluate(spec, x, labels, labels="nan").gradient).all()


def test_class_indices_for_one_channel_need_a_term_about_classes() -> None:
    x, labels = logits(2, 3, 1), np.zeros((2, 3), int)
    for spec in (BinaryCrossEntropy(), MeanSquaredError() + Huber(), Boundary()):
        with pytest.raises(ValueError, match="one channel"):
            evaluate(spec, x, labels)
        one_hot = evaluate(CrossEntropy() + spec, x, labels[..., None] + 1)
        found = evaluate(CrossEntropy() + spec, x, labels)
        assert_same_bits(found.loss, one_hot.loss)
        assert_same_bits(found.gradient, one_hot.gradient)
        assert evaluate(spec, x, labels[..., None]).loss > 0  # dense targets are fine


def test_labels_may_be_floats_and_one_hot_rows_are_the_same() -> None:
    x, labels = logits(6, 3), np.array([0, 1, 2, 2, 1, 0])
    one_hot = np.eye(3)[labels]
    plain = evaluate(dualloss.TOTAL_LOSS, x[:, None], labels[:, None])
    for target in (
        labels.astype(np.float64),
        one_hot.astype(np.float16),
        one_hot.astype(bool),
        one_hot.astype(int),
    ):
        found = evaluate(dualloss.TOTAL_LOSS, x[:, None], target[:, None])
        assert_same_bits(found.loss, plain.loss)
        assert_same_bits(found.gradient, plain.gradient)


def test_float16_gradients_are_those_of_float32_rounded_once_more() -> None:
    x16, labels = logits(40, 3).astype(np.float16), random(1).integers(0, 3, 40)
    wide = evaluate(CrossEntropy(), x16.astype(np.float32), labels)
    found = evaluate(CrossEntropy(), x16, labels)
    assert_same_bits(found.loss, wide.loss)
    assert_same_bits(found.gradient, np.where(wide.gradient, wide.gradient, 0).astype(np.float16))


def test_bfloat16_comes_and_goes_in_float32_arrays() -> None:
    x = (bits_of(logits(40, 3)) & 0xFFFF_0000).view(np.float32)
    labels = random(1).integers(0, 3, 40)
    wide = evaluate(CrossEntropy(), x, labels)
    found = evaluate(CrossEntropy(), x, labels, dtype="bfloat16")
    assert_same_bits(found.loss, wide.loss)
    assert_same_bits(found.gradient, f32([[bfloat16(float(v)) for v in row] for row in wide.gradient]))
    with pytest.raises(ValueError, match="bfloat16 does not hold"):
        evaluate(CrossEntropy(), logits(40, 3), labels, dtype="bfloat16")


def test_the_channel_axis_is_where_one_says() -> None:
    x, labels = logits(2, 4, 3, 5), random(1).integers(0, 5, (2, 4, 3))
    last = evaluate(dualloss.TOTAL_LOSS, x, labels)
    first = evaluate(dualloss.TOTAL_LOSS, np.moveaxis(x, -1, 1), labels, channel_axis=1)
    assert_same_bits(last.loss, first.loss)
    assert_same_bits(np.moveaxis(last.gradient, -1, 1).copy(), first.gradient)


def test_what_the_page_gives_no_meaning_is_an_error() -> None:
    x, labels = logits(4, 3), np.array([0, 1, 2, 0])
    for wrong in (x.astype(np.float64), x.astype(np.int32)):
        with pytest.raises(TypeError, match="x has dtype"):
            evaluate(CrossEntropy(), wrong, labels)
    with pytest.raises(TypeError, match="target has dtype float64"):
        evaluate(CrossEntropy(), x, x.astype(np.float64))
    with pytest.raises(TypeError, match="sample_weight has dtype float64"):
        evaluate(CrossEntropy(), x, labels, sample_weight=np.ones(4))
    with pytest.raises(ValueError, match="at most 8388608"):
        evaluate(CrossEntropy(), np.zeros((1, 2**23 + 1), np.float32), labels[:1])
    with pytest.raises(ValueError, match="target has shape"):
        evaluate(CrossEntropy(), x, labels[:3])
    with pytest.raises(ValueError, match="sample_weight has shape"):
        evaluate(CrossEntropy(), x, labels, sample_weight=f32([[1, 2, 3, 4]]))
    with pytest.raises(ValueError, match="class_weights has 2"):
        evaluate(CrossEntropy(class_weights=(1, 2)), x, labels)
    with pytest.raises(ValueError, match="pos_weight has 2"):
        evaluate(BinaryCrossEntropy(pos_weight=(1, 2)), x, labels)
    with pytest.raises(ValueError, match="reduction"):
        evaluate(CrossEntropy(), x, labels, reduction="avg")  # type: ignore[arg-type]


def test_every_registered_term_is_defined() -> None:
    assert set(definition.TERMS) == set(TERMS)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(LABELLED), st.sampled_from([1.0, -3.5]), st.integers(0, 2**32 - 1))
def test_gradients_are_the_slopes_of_the_loss(spec: dualloss.Spec, weight: float, seed: int) -> None:
    draw, step = random(seed), 2.0**-6
    x = f32(draw.integers(-200, 200, (1, 3, 2, 3)) / 64)  # on a grid, so that the steps are exact
    labels, s = draw.choice([0, 1, 2, 2, 9], (1, 3, 2)), f32(draw.integers(0, 3, (1, 3, 2)))
    direction = f32(draw.integers(-1, 2, x.shape))

    def loss(at: Array) -> float:
        return float(evaluate(weight * spec, at, labels, sample_weight=s).loss)

    slope = (loss(x + f32(step) * direction) - loss(x - f32(step) * direction)) / (2 * step)
    gradient = evaluate(weight * spec, x, labels, sample_weight=s).gradient.astype(float)
    assert slope == pytest.approx((gradient * direction).sum(), abs=2e-3 * (abs(gradient).sum() + 0.1))
