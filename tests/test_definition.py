"""The executable definition against truths of another make: NumPy's casts, fsum, decimals, matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dualloss
from dualloss import (
    L1,
    L2,
    SSIM,
    BinaryCrossEntropy,
    BinaryFocal,
    Boundary,
    CategoricalHinge,
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
    SquaredHinge,
    TotalVariation,
    Tversky,
)
from dualloss.parity import definition
from dualloss.parity.definition import (
    asum,
    bfloat16,
    chop,
    evaluate,
    ex_star,
    exact_sum,
    exp_star,
    float16,
    float32,
    ln1p_star,
    ln_star,
    load,
    log1p_star,
    penalty,
    pow_star,
)
from dualloss.spec import TERMS

Array = np.ndarray[Any, np.dtype[Any]]

NAN, INF = math.nan, math.inf
TINY = 2.0**-126  # the smallest normal float32
# Of the relative errors, of exp* where it is not 0. Over all k and both ends of r the largest of exp* is 2^-32.76, over
# all q that of log1p* is 2^-27.91; those of ln* and ln1p* were 2^-46.98, of ex* 2^-47.36.
EXP_BOUND = 2.0**-32.7
LOG1P_BOUND = 2.0**-27.9
LN_BOUND, EX_BOUND = 2.0**-46.9, 2.0**-47.3
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
        context.prec = 120
        truth = true(Decimal(v))
        return float(abs((Decimal(found) - truth) / truth))


def true_log1p(s: Decimal) -> Decimal:
    return (1 + s).ln()


@given(st.floats(-87.336, 0) | st.floats(-1, 0) | st.floats(-(2.0**-14), 0))
def test_exp_star_is_within_its_bound(d: float) -> None:
    assert relative_error(exp_star(d), Decimal.exp, d) < EXP_BOUND


@pytest.mark.parametrize("d", [-(2.0**-30), -5e-324, -(2.0**-16), -1.0, -87.33, -87.336, -18.71533203125])
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


@given(st.floats(0, 2.0**23, exclude_max=True) | st.floats(0, 1) | st.floats(TINY, 1e-30))
def test_log1p_star_is_within_its_bound(s: float) -> None:
    if s >= TINY:
        assert relative_error(log1p_star(s), true_log1p, s) < LOG1P_BOUND


@pytest.mark.parametrize("s", [TINY, 2.0**-30, 0.2842864990234375, 1.0, 20.0, 2.0**16 - 0.5, 2.0**23 - 1])
def test_log1p_star_is_within_its_bound_at_the_edges(s: float) -> None:
    assert relative_error(log1p_star(s), true_log1p, s) < LOG1P_BOUND


def test_log1p_star_of_zero() -> None:
    assert log1p_star(0.0) == 0


@pytest.mark.parametrize("q", [TINY, 0.0046539306640625, 1.0, 2.80548095703125, 111202.0, 2.0**23 - 2.0**7])
def test_what_log1p_star_keeps_is_what_the_page_makes_of_the_librarys_log1p(q: float) -> None:
    # every q here is one of those of 16 bits; three of them come nearest to a threshold (131 ulp)
    raised = np.float64(math.log1p(q)).view(np.int64) + 17772251
    assert log1p_star(q) == (raised & ~np.int64(2**25 - 1)).view(np.float64)


# ln*, ln1p*, ex*, pow* --------------------------------------------------------------------------------------


@given(st.floats(1e-300, 1e300) | st.floats(0.5, 2) | st.floats(TINY, 1e38))
def test_ln_star_is_within_its_bound(v: float) -> None:
    if v == 1:
        assert ln_star(v) == 0
    else:
        assert relative_error(ln_star(v), Decimal.ln, v) < LN_BOUND


@pytest.mark.parametrize("v", [1 - 2.0**-53, 1 + 2.0**-52, 0.75, 1.5, 1.5 - 2.0**-52, 2.0, 0.5, TINY, 2.0**128])
def test_ln_star_is_within_its_bound_at_the_edges(v: float) -> None:
    assert relative_error(ln_star(v), Decimal.ln, v) < LN_BOUND


@given(st.floats(-1 + 2.0**-40, 1e30) | st.floats(-0.3, 0.6) | st.floats(-1e-12, 1e-12))
def test_ln1p_star_is_within_its_bound(s: float) -> None:
    if abs(s) > 1e-60:  # below, the decimals are too few
        assert relative_error(ln1p_star(s), true_log1p, s) < LN_BOUND


@pytest.mark.parametrize("s", [-0.25, math.nextafter(-0.25, -1), 0.5, math.nextafter(0.5, 0), 1e-30, -(2.0**-60), 1e30])
def test_ln1p_star_is_within_its_bound_at_the_edges(s: float) -> None:
    assert relative_error(ln1p_star(s), true_log1p, s) < LN_BOUND


@settings(deadline=None)
@given(st.floats(-87.3, 88.7) | st.floats(-1, 1) | st.floats(-1e-9, 1e-9))
def test_ex_star_is_within_its_bound(d: float) -> None:
    assert relative_error(ex_star(d), Decimal.exp, d) < EX_BOUND


def test_logarithms_and_exponentials_at_their_ends() -> None:
    assert (ln_star(0.0), ln_star(INF), ln_star(1.0)) == (-INF, INF, 0)
    assert (ln1p_star(-1.0), ln1p_star(INF), ln1p_star(0.0)) == (-INF, INF, 0)
    assert all(math.isnan(v) for v in (ln_star(-1e-300), ln_star(NAN), ln1p_star(-1.1), ln1p_star(NAN), ex_star(NAN)))
    assert (ex_star(0.0), ex_star(INF), ex_star(-INF), ex_star(1e300), ex_star(-1e300)) == (1, INF, 0, INF, 0)
    # exp(88.7228...) is 2^128, exp(-87.3365...) is 2^-126
    assert ex_star(88.7228) < 2.0**128 and ex_star(88.72284) == INF
    assert ex_star(-87.3365) > TINY and ex_star(-87.3366) == 0


@given(st.floats(1e-4, 1e4), st.floats(0.1, 4))
def test_pow_star_is_the_power(v: float, gamma: float) -> None:
    # the logarithm's error counts gamma ln(v) times, up to 37
    assert pow_star(v, gamma) == close(v**gamma, rel=2.0**-40)


def test_pow_star_of_its_special_exponents_and_of_zero() -> None:
    v = 1 + 2.0**-30 + 2.0**-52
    assert (pow_star(v, 0), pow_star(v, 1), pow_star(v, 2)) == (1, v, chop(v * v))
    assert (pow_star(0.0, 0), pow_star(0.0, 0.5), pow_star(0.0, 2), pow_star(INF, 0.5)) == (1, 0, 0, INF)
    assert pow_star(NAN, 0) == 1 and math.isnan(pow_star(NAN, 0.5)) and math.isnan(pow_star(-1.0, 0.5))


# Terms against high precision -------------------------------------------------------------------------------


def decimal_softmax(x: Iterable[float | Decimal]) -> list[Decimal]:
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
    term = definition.TERMS[type(spec).__name__](spec, batch)
    assert isinstance(term, definition.Term)
    return term.gradient([1.0])[0]


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


# Every other term with a map against its formula in decimals --------------------------------------------------

Numbers = list[Decimal]
Truth = Callable[[Numbers, Numbers], Decimal]
"""V of one position, from its inputs and targets."""

STEP = Decimal("1e-20")


def d32(v: float) -> Decimal:
    """A constant as the exact numerics use it."""
    return Decimal(float(np.float32(v)))


def decimals(row: Iterable[float]) -> Numbers:
    return [Decimal(float(v)) for v in row]


def slopes(function: Callable[[Numbers], Decimal], x: Numbers) -> list[float]:
    """The gradient by differences, whose error is about the square of the step."""
    result = []
    for k in range(len(x)):
        low, high = (function([*x[:k], x[k] + sign * STEP, *x[k + 1 :]]) for sign in (-1, 1))
        result.append(float((high - low) / (2 * STEP)))
    return result


def total(values: Iterable[Decimal]) -> Decimal:
    return sum(values, Decimal(0))


def power(v: Decimal, gamma: float) -> Decimal:
    return v ** d32(gamma) if v else Decimal(0)


def clipped(v: Decimal, least: float) -> Decimal:
    return min(max(v, d32(least)), d32(1 - least))


def sigmoid(x: Decimal) -> Decimal:
    return 1 / (1 + (-x).exp())


def smoothed(t: Decimal, epsilon: float, answers: int) -> Decimal:
    return t * d32(1 - epsilon) + d32(epsilon / answers) if epsilon else t


def per_channel(truth: Callable[[Decimal, Decimal], Decimal]) -> Truth:
    """A mean over channels."""
    return lambda x, t: total(truth(xc, tc) for xc, tc in zip(x, t, strict=True)) / len(x)


def classes_truth(spec: Any) -> Truth:
    """CrossEntropy and Focal."""
    gamma = getattr(spec, "gamma", None)
    weights = spec.class_weights if gamma is None else spec.alpha
    renormalize = {True: "before", False: "never"}.get(spec.renormalize, spec.renormalize)

    def truth(x: Numbers, t: Numbers) -> Decimal:
        if spec.inputs == "logits":
            p = decimal_softmax(x)
            if spec.clip_softmax:
                p = [clipped(v, spec.clip) for v in p]
        else:
            p = [v / total(x) for v in x] if renormalize == "before" else x
            p = [clipped(v, spec.clip) for v in p]
            p = [v / total(p) for v in p] if renormalize == "after" else p
        w = decimals(f32(weights)) if isinstance(weights, tuple) else [d32(1 if weights is None else weights)] * len(x)
        u = [wc * smoothed(tc, spec.label_smoothing, len(x)) for wc, tc in zip(w, t, strict=True)]
        f = [Decimal(1) if gamma is None else power(1 - v, gamma) for v in p]
        return total(-uc * fc * v.ln() for uc, fc, v in zip(u, f, p, strict=True))

    return truth


def binary_truth(spec: Any) -> Truth:
    """BinaryCrossEntropy and BinaryFocal."""

    def truth(x: Numbers, t: Numbers) -> Decimal:
        result = Decimal(0)
        for c, (xc, tc) in enumerate(zip(x, t, strict=True)):
            p = q = sigmoid(xc) if spec.inputs == "logits" else xc
            if spec.inputs == "probabilities" and spec.clip is not None:
                q = clipped(p, spec.clip)
            yes = smoothed(tc, spec.label_smoothing, 2)
            no = 1 - yes
            w = Decimal(1) if spec.class_weights is None else d32(spec.class_weights[c])
            if isinstance(spec, BinaryFocal):
                if spec.alpha is not None:
                    w *= d32(spec.alpha) * yes + d32(1 - spec.alpha) * no
                w *= power(1 - (yes * p + no * (1 - p)), spec.gamma)
            elif spec.pos_weight is not None:
                yes *= d32(spec.pos_weight if isinstance(spec.pos_weight, float) else spec.pos_weight[c])
            result -= w * (yes * q.ln() + no * (1 - q).ln())
        return result / len(x)

    return truth


def divergence_truth(spec: Any) -> Truth:
    def truth(x: Numbers, t: Numbers) -> Decimal:
        logs = [v.ln() for v in decimal_softmax(x)] if spec.inputs == "logits" else x
        if spec.inputs == "probabilities":
            logs = [min(max(v, d32(spec.clip)), Decimal(1)).ln() for v in x]
            t = [min(max(v, d32(spec.clip)), Decimal(1)) for v in t]
        if spec.log_target:
            return total(tc.exp() * (tc - lc) for tc, lc in zip(t, logs, strict=True))
        return total(tc * (tc.ln() - lc) for tc, lc in zip(t, logs, strict=True) if tc > 0)

    return truth


def poisson_truth(spec: Any) -> Truth:
    def one(x: Decimal, t: Decimal) -> Decimal:
        value = x.exp() - t * x if spec.inputs == "log_rate" else x - t * (x + d32(spec.epsilon)).ln()
        if spec.full and t > 1:
            value += t * t.ln() - t + (2 * Decimal(math.pi) * t).ln() / 2
        return value

    return per_channel(one)


def hinge_truth(exponent: int) -> Truth:
    return per_channel(lambda x, t: max(Decimal(0), 1 - (t or Decimal(-1)) * x) ** exponent)


def categorical_hinge_truth(x: Numbers, t: Numbers) -> Decimal:
    others = max((1 - tc) * xc for xc, tc in zip(x, t, strict=True))
    return max(Decimal(0), 1 + others - total(tc * xc for xc, tc in zip(x, t, strict=True)))


def cosine_truth(spec: Any) -> Truth:
    def truth(x: Numbers, t: Numbers) -> Decimal:
        lengths = [max(total(v * v for v in row), d32(spec.epsilon)).sqrt() for row in (x, t)]
        cosine = total(xc * tc for xc, tc in zip(x, t, strict=True)) / (lengths[0] * lengths[1])
        return (1 if spec.form == "distance" else 0) - cosine

    return truth


def log_squared(epsilon: float) -> Truth:
    return per_channel(lambda x, t: ((max(x, d32(epsilon)) + 1).ln() - (max(t, d32(epsilon)) + 1).ln()) ** 2)


def smooth_l1(beta: float) -> Truth:
    b = d32(beta)
    return per_channel(lambda x, t: (x - t) ** 2 / (2 * b) if abs(x - t) < b else abs(x - t) - b / 2)


TRUTHS: list[tuple[Any, Truth, str, str]] = [
    *(
        (spec, classes_truth(spec), "probabilities", "soft")
        for spec in (
            CrossEntropy(inputs="probabilities"),
            CrossEntropy(inputs="probabilities", renormalize="after", class_weights=(0.5, 2, 3), label_smoothing=0.1),
            CrossEntropy(inputs="probabilities", renormalize="never"),
            Focal(inputs="probabilities", gamma=1.5, alpha=(0.5, 2, 3)),
            Focal(inputs="probabilities", renormalize=False, label_smoothing=0.1),
        )
    ),
    *(
        (spec, classes_truth(spec), "logits", "soft")
        for spec in (
            Focal(),
            Focal(gamma=0.5, alpha=0.25),
            Focal(gamma=1, alpha=(0.5, 2, 3), label_smoothing=0.1),
            Focal(gamma=0),
            Focal(gamma=2.5, clip_softmax=True),
        )
    ),
    *(
        (spec, binary_truth(spec), "probabilities" if spec.inputs == "probabilities" else "logits", "soft")
        for spec in (
            BinaryCrossEntropy(class_weights=(0.5, 2, 3), pos_weight=1.5, label_smoothing=0.1),
            BinaryCrossEntropy(inputs="probabilities", class_weights=(0.5, 2, 3), pos_weight=(1, 2, 0.3)),
            BinaryCrossEntropy(inputs="probabilities", clip=None, class_weights=(0.5, 2, 3), label_smoothing=0.1),
            BinaryFocal(),
            BinaryFocal(gamma=0.7, alpha=0.25, class_weights=(0.5, 2, 3), label_smoothing=0.1),
            BinaryFocal(inputs="probabilities", gamma=3, alpha=0.3),
            BinaryFocal(inputs="probabilities", gamma=1),
        )
    ),
    (
        NegativeLogLikelihood(class_weights=(0.5, 2, 3)),
        lambda x, t: -total(d32(w) * tc * xc for w, tc, xc in zip((0.5, 2, 3), t, x, strict=True)),
        "logits",
        "soft",
    ),
    *(
        (spec, divergence_truth(spec), spec.inputs, "logits" if spec.log_target else "soft")
        for spec in (
            KLDivergence(),
            KLDivergence(log_target=True),
            KLDivergence(inputs="log_probabilities"),
            KLDivergence(inputs="log_probabilities", log_target=True),
            KLDivergence(inputs="probabilities"),
        )
    ),
    *(
        (spec, poisson_truth(spec), "logits" if spec.inputs == "log_rate" else "rates", "counts")
        for spec in (
            Poisson(),
            Poisson(inputs="rate", epsilon=0.01),
            Poisson(full=True),
            Poisson(inputs="rate", full=True),
        )
    ),
    (Hinge(), hinge_truth(1), "logits", "answers"),
    (SquaredHinge(), hinge_truth(2), "logits", "answers"),
    (CategoricalHinge(), categorical_hinge_truth, "logits", "one_hot"),
    (MeanAbsoluteError(), per_channel(lambda x, t: abs(x - t)), "logits", "logits"),
    (
        MeanAbsolutePercentageError(epsilon=0.5),
        per_channel(lambda x, t: 100 * abs(x - t) / max(abs(t), d32(0.5))),
        "logits",
        "logits",
    ),
    (MeanSquaredLogarithmicError(epsilon=0.3), log_squared(0.3), "rates", "rates"),
    (SmoothL1(beta=0.7), smooth_l1(0.7), "logits", "logits"),
    (LogCosh(), per_channel(lambda x, t: (((x - t).exp() + (t - x).exp()) / 2).ln()), "logits", "logits"),
    (
        Quantile(quantile=0.3),
        per_channel(lambda x, t: max(d32(0.3) * (t - x), d32(0.7) * (x - t))),
        "logits",
        "logits",
    ),
    *(
        (spec, cosine_truth(spec), "logits", "logits")
        for spec in (CosineSimilarity(), CosineSimilarity(form="distance", epsilon=12))
    ),
]


def drawn(kind: str, *shape: int, seed: int = 0) -> Array:
    draw = random(seed)
    if kind in ("logits", "log_probabilities"):
        return logits(*shape, seed=seed)
    if kind in ("probabilities", "soft"):
        return f32(draw.uniform(0.02, 0.98, shape))
    if kind == "rates":
        return f32(draw.uniform(0.05, 6, shape))
    if kind == "one_hot":
        return np.eye(shape[-1], dtype=np.float32)[draw.integers(0, shape[-1], shape[:-1])]
    return f32(draw.integers(-1, 2, shape)) if kind == "answers" else f32(draw.integers(0, 6, shape))


@pytest.mark.parametrize(
    ("spec", "truth", "inputs", "targets"), TRUTHS, ids=lambda v: str(v) if v != v or hasattr(v, "parts") else ""
)
def test_terms_are_their_formulas(spec: Any, truth: Truth, inputs: str, targets: str) -> None:
    x, t = drawn(inputs, 12, 3), drawn(targets, 12, 3, seed=1)
    x[0], t[0] = x[0] / 64, t[0] / 64 if inputs == targets else t[0]  # small differences, too
    found = evaluate(spec, x, t, reduction="none")
    with localcontext() as context:
        context.prec = 60
        for i in range(12):
            row, answers = decimals(x[i]), decimals(t[i])
            value = float(truth(row, answers))
            gradient = slopes(lambda at, answers=answers: truth(at, answers), row)  # type: ignore[misc]
            assert found.loss[i] == pytest.approx(value, rel=ULP, abs=1e-9)
            scale = max(map(abs, gradient))
            np.testing.assert_allclose(found.gradient[i], gradient, rtol=0, atol=2 * ULP * scale)


def test_a_formula_that_is_off_by_a_little_is_seen() -> None:
    x, t = drawn("logits", 12, 3), drawn("soft", 12, 3, seed=1)
    for spec, other in (
        (Focal(), Focal(gamma=2 + 1e-5)),
        (LogCosh(), Huber()),
        (Quantile(), Quantile(quantile=0.50001)),
    ):
        found, off = (evaluate(v, x, t, reduction="none") for v in (spec, other))
        assert (abs(found.loss - off.loss) > ULP * found.loss).any()
        assert (abs(found.gradient - off.gradient) > 2 * ULP * abs(found.gradient).max()).any()


def test_a_sum_over_channels_is_the_mean_times_their_number() -> None:
    x, t = drawn("logits", 12, 4), drawn("soft", 12, 4, seed=1)
    for term in (BinaryCrossEntropy, Focal, KLDivergence, MeanSquaredError, LogCosh):
        mean, both = (evaluate(term(channels=how), x, t, reduction="none") for how in ("mean", "sum"))
        np.testing.assert_array_equal(both.loss, 4 * mean.loss)
        np.testing.assert_array_equal(both.gradient, 4 * mean.gradient)


# Edges of the terms -----------------------------------------------------------------------------------------


def test_clipped_probabilities_have_no_gradient_beyond_the_clip() -> None:
    least, most = np.float32(0.1), np.float32(1 - 0.1)
    x = f32([0, np.nextafter(least, f32(0)), least, 0.5, most, np.nextafter(most, f32(1)), 1, 2, -1, INF, -INF])
    inside = np.array([False, False, True, True, True, *[False] * 6])
    for target in (0.0, 0.25, 1.0):
        t = np.full(x.shape, target, np.float32)
        found = evaluate(BinaryCrossEntropy(inputs="probabilities", clip=0.1), x, t, reduction="none")
        np.testing.assert_array_equal(found.gradient != 0, inside)
        p = np.clip(x.astype(float), float(least), float(most))
        np.testing.assert_allclose(found.loss, -target * np.log(p) - (1 - target) * np.log1p(-p), rtol=ULP)
    rows, one_hot = np.stack([x[:8], 1 - x[:8]], -1), f32([[1, 0]] * 8)
    for spec in (
        CrossEntropy(inputs="probabilities", clip=0.1, renormalize="never"),
        Focal(inputs="probabilities", clip=0.1, renormalize=False),
    ):
        found = evaluate(spec, rows, one_hot, reduction="none")
        np.testing.assert_array_equal(found.gradient[:, 0] != 0, inside[:8])
        assert not found.gradient[:, 1].any()
        assert found.loss[0] > 0 and (found.loss[5:] == found.loss[5]).all() and found.loss[1] == found.loss[0]


@pytest.mark.parametrize("clip", [0.1, 0.4])
def test_values_beyond_the_clip_are_those_of_the_clip(clip: float) -> None:
    x, t = f32([[-1, 0, 0.05], [0.95, 1, 2], [0.2, 0.5, 0.7], [0, 1, 0.5]]), drawn("soft", 4, 3)
    for spec in (
        CrossEntropy(inputs="probabilities", clip=clip, renormalize="never"),
        CrossEntropy(inputs="probabilities", clip=clip, renormalize="after"),
        Focal(inputs="probabilities", clip=clip, renormalize=False, gamma=1.5),
        Focal(clip=clip, clip_softmax=True),
        BinaryCrossEntropy(inputs="probabilities", clip=clip),
        BinaryFocal(inputs="probabilities", clip=clip, gamma=1),
        KLDivergence(inputs="probabilities", clip=clip),
    ):
        of_classes = isinstance(spec, CrossEntropy | Focal)
        of = classes_truth if of_classes else divergence_truth if isinstance(spec, KLDivergence) else binary_truth
        inputs = np.clip(x, 0, 1) if isinstance(spec, BinaryFocal) else x
        found = evaluate(spec, inputs, t, reduction="none")
        with localcontext() as context:
            context.prec = 60
            for row, answers, loss in zip(inputs, t, found.loss, strict=True):
                assert loss == pytest.approx(float(of(spec)(decimals(row), decimals(answers))), rel=2 * ULP, abs=1e-9)


def test_divergence_of_probabilities_is_clipped_on_both_sides() -> None:
    x, t = f32([0.05, 0.1, 0.5, 1, 1.5, 0.5, 0.5])[:, None], f32([1, 1, 1, 1, 1, 2, -1])[:, None]
    found = evaluate(KLDivergence(inputs="probabilities", clip=0.1), x, t, reduction="none")
    tenth = math.log(np.float32(0.1))
    least = float(np.float32(0.1))
    small = least * (tenth - math.log(0.5))
    np.testing.assert_allclose(found.loss, [-tenth, -tenth, math.log(2), 0, 0, math.log(2), small], rtol=2 * ULP)
    np.testing.assert_allclose(found.gradient[:, 0], [0, -1 / least, -2, -1, 0, -2, -2 * least], rtol=ULP)


def test_binary_focal_of_what_is_no_probability_is_nan() -> None:
    x, t = f32([-0.1, 1.1, NAN, 0.5, 0, 1]), f32([0, 1, 1, NAN, 0, 1])
    found = evaluate(BinaryFocal(inputs="probabilities", gamma=0), x, t, reduction="none")
    for values in (found.loss, found.gradient):
        np.testing.assert_array_equal(np.isnan(values), [True, True, True, True, False, False])


def test_small_clips_do_not_cancel() -> None:
    for clip, above in ((1e-7, 2.0**-23), (3e-8, 2.0**-24)):  # 1 - clip is rounded to float32
        spec = BinaryCrossEntropy(inputs="probabilities", clip=clip)
        found = evaluate(spec, f32([0, 1, 0, 1]), f32([1, 0, 0, 1]), reduction="none")
        truth = [-math.log(clip), -math.log(above), -math.log1p(-clip), -math.log1p(-above)]
        np.testing.assert_allclose(found.loss, truth, rtol=ULP)


def test_probabilities_that_are_none_make_classes_nan() -> None:
    x = f32([[0.5, 0.5], [NAN, 1], [INF, 1], [0, 0], [1, -1], [0.25, 0.25]])
    for before, spec in (
        (True, CrossEntropy(inputs="probabilities")),
        (True, Focal(inputs="probabilities")),
        (False, CrossEntropy(inputs="probabilities", renormalize="after")),
        (False, Focal(inputs="probabilities", renormalize=False)),
    ):
        found = evaluate(spec, x, np.zeros(6, int), reduction="none")
        bad = [False, True, True, before, before, False]
        np.testing.assert_array_equal(np.isnan(found.loss), bad)
        np.testing.assert_array_equal(np.isnan(found.gradient), np.array(bad)[:, None].repeat(2, 1))


def test_logarithms_are_kept_above_minus_100_without_a_clip() -> None:
    x, t = f32([0, 1, 0, 1, -0.1, 1.1, NAN, 0.5]), f32([1, 0, 0, 1, 0, 0, 0, NAN])
    found = evaluate(BinaryCrossEntropy(inputs="probabilities", clip=None), x, t, reduction="none")
    np.testing.assert_array_equal(found.loss, f32([100, 100, 0, 0, NAN, NAN, NAN, NAN]))
    steep = 1 / np.float32(1e-12)
    np.testing.assert_array_equal(found.gradient, f32([-steep, steep, 0, 0, NAN, NAN, NAN, NAN]))


def test_an_ignored_value_hides_whatever_stands_there_and_stays_in_the_mean() -> None:
    x, t = f32([[1, NAN, INF], [2, 3, 4]]), f32([[1, -1, -1], [0, 1, 0.5]])
    for inputs in ("logits", "probabilities"):
        spec = BinaryCrossEntropy(inputs=inputs, ignore_value=-1)
        found = evaluate(spec, x, t)
        alone = [evaluate(replace(spec, ignore_value=None), x[i], t[i], reduction="sum").loss for i in range(2) if i]
        first = evaluate(spec, x[0, :1], t[0, :1], reduction="sum").loss
        assert found.loss == close((first + alone[0]) / 6, rel=ULP)
        assert not bits_of(found.gradient[0, 1:]).any() and np.isfinite(found.gradient).all()


def test_focal_of_what_is_certain() -> None:
    # p = 1 exactly: no error and no gradient, for whatever exponent
    for gamma in (0, 0.5, 1, 2, 3.5):
        found = evaluate(Focal(gamma=gamma), f32([[200, 0, -INF]]), np.array([0]))
        assert found.loss == 0 and not found.gradient.any()
        wrong = evaluate(Focal(gamma=gamma), f32([[200, 0, -INF]]), np.array([1]))
        assert wrong.loss == 200
        np.testing.assert_allclose(wrong.gradient, [[1, -1, 0]], rtol=ULP)
        binary = evaluate(BinaryFocal(gamma=gamma), f32([200, 200, INF, -INF]), f32([1, 0, 0, 0]), reduction="none")
        np.testing.assert_array_equal(binary.loss, [0, 200, INF, 0])
        np.testing.assert_allclose(binary.gradient, [0, 1, 1, 0], rtol=ULP)


def test_divergence_counts_nothing_where_there_is_no_target() -> None:
    x, t = f32([[-INF, 0, 1], [NAN, 0, 1]]), f32([[0, -0.5, 0.5], [0, 0, 1]])
    found = evaluate(KLDivergence(inputs="log_probabilities"), x, t, reduction="none")
    assert found.loss.tolist() == [close(0.5 * (math.log(0.5) - 1), rel=ULP), -1]
    np.testing.assert_array_equal(found.gradient, -np.maximum(t, 0))
    logs = evaluate(KLDivergence(log_target=True), x[:1], f32([[-INF, 0, -INF]]), reduction="none")
    assert logs.loss[0] == close(math.log(1 + math.e), rel=ULP)
    assert np.isnan(evaluate(KLDivergence(), x, t, reduction="none").gradient[1]).all()
    assert np.isnan(evaluate(KLDivergence(inputs="probabilities"), f32([[0.5]]), f32([[NAN]])).gradient).all()


def test_divergence_of_equal_distributions_is_fine() -> None:
    # what exp* and log1p* leave, 2^-28, would show here
    x = logits(40, 5)
    with localcontext() as context:
        context.prec = 40
        rows = [[float(v) for v in decimal_softmax(decimals(row))] for row in x]
    found = evaluate(KLDivergence(), x, f32(rows), reduction="none")
    with localcontext() as context:
        context.prec = 40
        for row, target, loss in zip(x, f32(rows), found.loss, strict=True):
            truth = divergence_truth(KLDivergence())(decimals(row), decimals(target))
            assert abs(float(truth) - loss) < 2.0**-44


def test_poisson_of_nothing_counted() -> None:
    found = evaluate(Poisson(inputs="rate"), f32([-1e-7, 0, 2, -1]), f32([0, 0, 0, 1]), reduction="none")
    np.testing.assert_array_equal(found.loss, f32([-1e-7, 0, 2, NAN]))
    np.testing.assert_array_equal(found.gradient[:3], [1, 1, 1])
    epsilon = float(np.float32(1e-7))
    assert evaluate(Poisson(inputs="rate"), f32([-epsilon]), f32([1])).gradient[0] == -INF
    full = [
        evaluate(Poisson(full=full), f32([0] * 3), f32([0.5, 1, 2]), reduction="none").loss for full in (False, True)
    ]
    np.testing.assert_array_equal(full[0], [1, 1, 1])
    np.testing.assert_allclose(full[1], [1, 1, 2 * math.log(2) - 1 + math.log(4 * math.pi) / 2], rtol=ULP)


def test_hinges_at_the_margin() -> None:
    x, t = f32([1, 1.5, 0.5, -1, -2, NAN]), f32([1, 1, 1, 0, -1, 1])
    found = evaluate(Hinge(), x, t, reduction="none")
    np.testing.assert_array_equal(found.loss, f32([0, 0, 0.5, 0, 0, NAN]))
    np.testing.assert_array_equal(found.gradient, f32([-1, 0, -1, 1, 0, NAN]))
    squared = evaluate(SquaredHinge(), x, t, reduction="none")
    np.testing.assert_array_equal(squared.loss, f32([0, 0, 0.25, 0, 0, NAN]))
    np.testing.assert_array_equal(squared.gradient, f32([0, 0, -1, 0, 0, NAN]))


def test_classes_that_tie_for_the_maximum_share_its_gradient() -> None:
    x = f32([[0, 2, 2, 1], [3, 2, 2, 2], [4, 2, 2, 2], [-1, -2, -3, -INF]])
    found = evaluate(CategoricalHinge(), x, np.zeros(4, int), reduction="none")
    np.testing.assert_array_equal(found.loss, [3, 0, 0, 2])  # the right class counts as 0 in the maximum
    np.testing.assert_array_equal(
        found.gradient, [[-1, 0.5, 0.5, 0], f32([-1, 1 / 3, 1 / 3, 1 / 3]), [0] * 4, [-1, 0, 0, 0]]
    )
    assert np.isnan(evaluate(CategoricalHinge(), f32([[0, NAN]]), np.array([0])).gradient).all()


def test_absolute_errors_have_no_slope_at_zero() -> None:
    x = f32([1, 2, 3, NAN])
    for spec in (
        MeanAbsoluteError(),
        SmoothL1(beta=0),
        Quantile(quantile=0.3),
        MeanAbsolutePercentageError(),
        LogCosh(),
    ):
        found = evaluate(spec, x, f32([1, 2, 3, 0]), reduction="none")
        np.testing.assert_array_equal(found.loss, f32([0, 0, 0, NAN]))
        np.testing.assert_array_equal(found.gradient, f32([0, 0, 0, NAN]))
    quarter = evaluate(Quantile(quantile=0.25), f32([1, 3]), f32([2, 2]), reduction="none")
    assert (quarter.loss.tolist(), quarter.gradient.tolist()) == ([0.25, 0.75], [-0.25, 0.75])


def test_a_percentage_of_a_small_target_is_of_epsilon() -> None:
    found = evaluate(MeanAbsolutePercentageError(epsilon=0.5), f32([1, 1, 1]), f32([0, 0.25, -2]), reduction="none")
    assert found.loss.tolist() == [200, 150, 150] and found.gradient.tolist() == [200, 200, 50]


def test_squared_logarithmic_error_below_epsilon_and_far_apart() -> None:
    spec = MeanSquaredLogarithmicError(epsilon=0.5)
    found = evaluate(spec, f32([0, 0.5, -3, NAN, 0]), f32([0, 2, 2, 1, NAN]), reduction="none")
    two = math.log(2) ** 2
    np.testing.assert_allclose(found.loss, f32([0, two, two, NAN, NAN]), rtol=ULP)
    np.testing.assert_allclose(found.gradient, f32([0, 2 * -math.log(2) / 1.5, 0, NAN, NAN]), rtol=ULP)
    for x, t in ((1e-7, 1e30), (1e30, 1e-7), (1e30, 1e30)):
        far = evaluate(MeanSquaredLogarithmicError(), f32([x]), f32([t]))
        assert far.loss == close((math.log1p(x) - math.log1p(t)) ** 2, rel=ULP)


def test_log_cosh_at_both_ends() -> None:
    x = f32([1e-15, 1e-3, 0.999, 1.001, 80, 1e30, INF, -INF])
    found = evaluate(LogCosh(), x, np.zeros_like(x), reduction="none")
    small = float(x[1])
    ends = [5e-31, small**2 / 2 - small**4 / 12, *(math.log(math.cosh(v)) for v in map(float, x[2:5])), 1e30, INF, INF]
    np.testing.assert_allclose(found.loss, ends, rtol=ULP)
    np.testing.assert_allclose(found.gradient, np.tanh(x.astype(float)), rtol=ULP)


def test_cosine_of_short_and_of_equal_vectors() -> None:
    x, t = f32([[0, 0], [3, 4], [1e-8, 0], [1, 0], [INF, 1]]), f32([[1, 2], [3, 4], [1, 0], [0, 0], [1, 1]])
    found = evaluate(CosineSimilarity(form="distance"), x, t, reduction="none")
    np.testing.assert_allclose(found.loss, [1, 0, 1 - 1e-8 / 1e-6, 1, NAN], rtol=ULP)
    assert found.loss[1] == 0
    # a length below epsilon is a constant
    np.testing.assert_allclose(found.gradient[0], -t[0] / math.sqrt(5) * 1e6, rtol=ULP)
    np.testing.assert_allclose(found.gradient[2], [-1e6, 0], rtol=ULP)
    np.testing.assert_allclose(found.gradient[[1, 3]], 0, atol=ULP)
    assert np.isnan(found.gradient[4]).all()


def test_the_distance_of_nearly_parallel_vectors_does_not_cancel() -> None:
    x, t = f32([[1, 1e-5, 0], [3, 4, 1e-3]]), f32([[1, 0, 0], [6, 8, 0]])
    found = evaluate(CosineSimilarity(form="distance"), x, t, reduction="none")
    with localcontext() as context:
        context.prec = 60
        for row, answers, loss in zip(x, t, found.loss, strict=True):
            truth = cosine_truth(CosineSimilarity(form="distance"))(decimals(row), decimals(answers))
            assert loss == close(float(truth), rel=ULP)


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
        with pytest.raises(ValueError, match="expected 1 to 3 for Boundary"):
            evaluate(Boundary(), np.zeros(shape, np.float32), np.zeros(shape, np.float32))


# Sobel, distances, windows, differences -----------------------------------------------------------------------


def along(matrix: Array, axis: int, shape: tuple[int, ...]) -> Array:
    """A matrix for one axis, as a matrix over the positions."""
    result = np.ones((1, 1), np.int64)
    for a, size in enumerate(shape):
        result = np.kron(result, matrix if a == axis else np.eye(size, dtype=np.int64))
    return result


def neighbour_matrix(size: int, step: int, padding: Any) -> Array:
    """Row i selects what stands at i + step."""
    fill: dict[str, Any] = {"constant_values": -1} if padding == "zeros" else {}
    padded = np.pad(np.arange(size), 1, mode=PADDINGS[padding], **fill)  # type: ignore[call-overload]
    return (padded[1 + step : 1 + step + size][:, None] == np.arange(size)).astype(np.int64)


def sobel_matrix(shape: tuple[int, ...], k: int, padding: Any) -> Array:
    """The difference along axis k, smoothed along the others."""
    result = np.eye(math.prod(shape), dtype=np.int64)
    for axis, size in enumerate(shape):
        low, high = (neighbour_matrix(size, step, padding) for step in (-1, 1))
        one = high - low if axis == k else low + high + 2 * np.eye(size, dtype=np.int64)
        result = along(one, axis, shape) @ result
    return result


@pytest.mark.parametrize("spatial", SPATIAL, ids=str)
@pytest.mark.parametrize("padding", PADDINGS)
def test_sobel_is_its_matrices_and_its_gradient_their_transposes(spatial: tuple[int, ...], padding: Any) -> None:
    # small integers: every step is exact, so the bits must be equal
    draw = random(math.prod(spatial))
    n = math.prod(spatial)
    matrices = [sobel_matrix(spatial, k, padding) for k in range(len(spatial))]
    x = draw.integers(-9, 10, (2, *spatial, 2))
    t = draw.integers(-9, 10, x.shape)
    s = draw.integers(0, 4, (2, *spatial))
    responses = [np.einsum("ij,bjc->bic", m, (x - t).reshape(2, n, 2)) for m in matrices]
    spec = Boundary(kernel="sobel", padding=padding)
    found = evaluate(spec, x.astype(np.float32), t, sample_weight=s, reduction="none")
    squares = sum((r**2).sum(-1) for r in responses).reshape(s.shape)
    assert_same_bits(found.loss, (s * squares / 2).astype(np.float32))
    flat = s.reshape(2, n, 1)
    gradient = sum(np.einsum("ij,bic->bjc", m, flat * r) for m, r in zip(matrices, responses, strict=True))
    assert_same_bits(found.gradient, gradient.reshape(x.shape).astype(np.float32))


def test_sobel_on_probabilities_is_the_chain_rule() -> None:
    spatial = (4, 3)
    x, labels = logits(1, *spatial, 3), random(1).integers(0, 3, (1, *spatial))
    exps = np.exp(x.reshape(12, 3).astype(float))
    p = exps / exps.sum(-1, keepdims=True)
    value, back = 0.0, np.zeros((12, 3))
    for k in range(2):
        matrix = sobel_matrix(spatial, k, "reflect")
        response = matrix @ (p - np.eye(3)[labels.ravel()])
        value += (response**2).sum() / 36
        back += 2 * matrix.T @ response / 36
    found = evaluate(Boundary(kernel="sobel", on="probabilities", padding="reflect"), x, labels)
    assert found.loss == close(value, rel=2 * ULP)
    expected = (p * (back - (p * back).sum(-1, keepdims=True))).reshape(x.shape)
    np.testing.assert_allclose(found.gradient, expected, rtol=0, atol=2 * ULP * abs(expected).max())


def test_sobel_counts_as_the_laplacian_with_its_diagonals() -> None:
    labels = random(2).integers(0, 3, (2, 6, 5))
    labels[0, 2, 1] = labels[1, 5, 4] = 9
    x = logits(2, 6, 5, 3)
    counted = [
        evaluate(Boundary(kernel=kernel, ignore_index=9), x, labels, reduction="none").loss > 0
        for kernel in ("sobel", "laplacian8")
    ]
    np.testing.assert_array_equal(*counted)
    assert not counted[0].all()


ROOT2, ROOT5 = math.sqrt(2), math.sqrt(5)


def distances_of(inside: Any, valid: Any = None, **options: Any) -> Array:
    """What DistanceMap sees of one class: its map on an input of ones."""
    t = f32(inside)[None, ..., None]
    mask = None if valid is None else np.asarray(valid, bool)[None]
    spec = DistanceMap(activation="none", **options)
    return np.asarray(evaluate(spec, t * 0 + 1, t, sample_weight=mask, reduction="none").loss[0])


def test_distances_are_to_the_other_side() -> None:
    np.testing.assert_array_equal(distances_of([0, 0, 1, 1, 1, 1, 0]), [2, 1, 0, -1, -1, 0, 1])
    expected = f32([[ROOT5, 2, ROOT5], [ROOT2, 1, ROOT2], [1, 0, 1]])
    np.testing.assert_array_equal(distances_of([[0, 0, 0], [0, 0, 0], [0, 1, 0]]), expected)
    hole = distances_of([[1, 1, 1], [1, 1, 1], [1, 0, 1]])
    np.testing.assert_array_equal(hole, f32(1 - np.array([[ROOT5, 2, ROOT5], [ROOT2, 1, ROOT2], [1, 0, 1]])))
    volume = np.zeros((3, 3, 3))
    volume[0, 0, 0] = 1
    assert distances_of(volume)[2, 2, 2] == np.float32(math.sqrt(12)) and distances_of(volume)[0, 2, 1] == np.float32(
        ROOT5
    )
    for nothing in (np.zeros((3, 2)), np.ones((3, 2))):
        assert not distances_of(nothing).any()
    np.testing.assert_array_equal(distances_of([0.5, 0.5000001, 0.4]), [1, 0, 1])


def test_distances_take_masked_positions_as_outside() -> None:
    np.testing.assert_array_equal(distances_of([1, 1, 1, 1, 1], [1, 1, 1, 0, 1]), [-2, -1, 0, 0, 0])
    assert not distances_of([0, 0, 1, 0], [1, 1, 0, 1]).any()


def test_distances_of_samples_and_classes_are_their_own() -> None:
    draw = random(3)
    labels = draw.integers(0, 3, (2, 3, 4))
    grid = np.stack(np.meshgrid(np.arange(3), np.arange(4), indexing="ij"), -1).reshape(12, 2)
    apart = np.sqrt(((grid[:, None] - grid[None]) ** 2).sum(-1))
    expected = np.zeros((2, 12, 3))
    for b, c in product(range(2), range(3)):
        inside = labels[b].ravel() == c
        nearest = np.where(inside, np.inf, apart)[:, :].min(1), np.where(inside, apart, np.inf).min(1)
        expected[b, :, c] = np.where(inside, 1 - nearest[0], nearest[1])
    x = logits(2, 3, 4, 3)
    found = evaluate(DistanceMap(), x, labels, reduction="sum")
    exps = np.exp(x.reshape(2, 12, 3).astype(float))
    p = exps / exps.sum(-1, keepdims=True)
    assert found.loss == close((p * f32(expected)).sum() / 3, rel=4 * ULP)
    gradient = (p * (expected - (p * expected).sum(-1, keepdims=True)) / 3).reshape(x.shape)
    np.testing.assert_allclose(found.gradient, gradient, rtol=0, atol=2 * ULP * abs(gradient).max())
    given = evaluate(DistanceMap(target="distances"), x, f32(expected).reshape(x.shape), reduction="sum")
    assert_same_bits(given.loss, found.loss)
    assert_same_bits(given.gradient, found.gradient)
    with pytest.raises(ValueError, match="expected dense targets for DistanceMap"):
        evaluate(DistanceMap(target="distances"), x, labels)


def test_distance_map_through_the_sigmoid() -> None:
    x, t = f32([[0.5, NAN, -3], [1, NAN, 2]])[..., None], f32([[-1, 0, 2], [0, 1, -2]])[..., None]
    spec = DistanceMap(activation="sigmoid", target="distances")
    found = evaluate(spec, x, t, sample_weight=np.array([[1, 1, 1], [1, 0, 1]], bool), reduction="none")
    p = 1 / (1 + np.exp(-np.where(np.isnan(x), 0, x).astype(float)))
    np.testing.assert_allclose(found.loss, (p * t)[..., 0] * [[1, 1, 1], [1, 0, 1]], rtol=ULP)
    np.testing.assert_allclose(
        found.gradient, t * p * (1 - p) * np.isfinite(x), rtol=2 * ULP
    )  # no NaN: D = 0, or masked
    assert np.isnan(evaluate(spec, x, t).gradient[1, 1])


def test_a_label_out_of_range_has_no_distance() -> None:
    x, labels = logits(1, 4, 2), np.array([[0, 1, 7, 0]])
    found = evaluate(DistanceMap(), x, labels, labels="nan", reduction="none")
    np.testing.assert_array_equal(np.isnan(found.loss), [[False, False, True, False]])
    np.testing.assert_array_equal(np.isnan(found.gradient).all(-1), [[False, False, True, False]])


def decimal_ssim(x: Array, t: Array, spec: Any) -> tuple[list[float], Array]:
    """Of one channel on a plane: the map at the positions that count, and the gradient of its sum."""
    half = spec.window // 2
    e = [math.exp(-(j * j) / (2 * spec.sigma**2)) for j in range(-half, half + 1)]
    omega = [d32(v / math.fsum(e)) for v in e]
    c1, c2 = d32((0.01 * spec.data_range) ** 2), d32((0.03 * spec.data_range) ** 2)
    rows, columns = x.shape
    answers = decimals(t.ravel())
    centres = list(product(range(half, rows - half), range(half, columns - half)))

    def at(v: Numbers, row: int, column: int) -> Decimal:
        def mean(function: Callable[[Decimal, Decimal], Decimal]) -> Decimal:
            steps = product(range(spec.window), repeat=2)
            where = [(i, j, (row + i - half) * columns + column + j - half) for i, j in steps]
            return total(omega[i] * omega[j] * function(v[k], answers[k]) for i, j, k in where)

        mx, mt = mean(lambda a, b: a), mean(lambda a, b: b)
        sx, st_, sxt = (
            mean(lambda a, b: a * a) - mx * mx, mean(lambda a, b: b * b) - mt * mt, mean(lambda a, b: a * b) - mx * mt,
        )  # fmt: skip
        similarity = (2 * mx * mt + c1) * (2 * sxt + c2) / ((mx * mx + mt * mt + c1) * (sx + st_ + c2))
        return 1 - similarity

    numbers = decimals(x.ravel())
    values = [float(at(numbers, *centre)) for centre in centres]
    gradient = slopes(lambda v: total(at(v, *centre) for centre in centres), numbers)
    return values, np.array(gradient).reshape(x.shape)


@pytest.mark.parametrize("noise", [1.0, 0.01])
@pytest.mark.parametrize("spec", [SSIM(window=3), SSIM(window=3, sigma=0.6, data_range=4)], ids=str)
def test_ssim_is_its_formula(spec: Any, noise: float) -> None:
    draw = random(5)
    t = f32(draw.random((4, 5)))
    x = f32(t + noise * draw.standard_normal((4, 5)))
    with localcontext() as context:
        context.prec = 60
        values, gradient = decimal_ssim(x, t, spec)
    found = evaluate(spec, x[None, ..., None], t[None, ..., None], reduction="none")
    inner = found.loss[0, 1:-1, 1:-1].ravel()
    np.testing.assert_allclose(inner, values, rtol=ULP)
    edge = found.loss[0].copy()
    edge[1:-1, 1:-1] = 0
    assert not edge.any()
    np.testing.assert_allclose(found.gradient[0, ..., 0], gradient, rtol=0, atol=2 * ULP * abs(gradient).max())


def test_ssim_counts_whole_windows() -> None:
    x, t = logits(1, 5, 6, 2), logits(1, 5, 6, 2, seed=1)
    same = evaluate(SSIM(window=3), x, x, reduction="none")
    assert not same.loss.any() and not same.gradient.any()
    assert not evaluate(SSIM(), x, t).loss.any()  # a window of 11
    mask = np.ones((1, 5, 6), bool)
    mask[0, 1, 1] = False
    values = evaluate(SSIM(window=3), x, t, sample_weight=mask, reduction="none")
    near = np.maximum(*np.meshgrid(abs(np.arange(5) - 1), abs(np.arange(6) - 1), indexing="ij")) <= 1
    inner = np.zeros((5, 6), bool)
    inner[1:-1, 1:-1] = True
    np.testing.assert_array_equal(values.loss[0] > 0, inner & ~near)
    mean = evaluate(SSIM(window=3), x, t, sample_weight=mask)
    assert mean.loss == close(values.loss.astype(float).sum() / (inner & ~near).sum(), rel=2 * ULP)
    spoiled = x.copy()
    spoiled[~mask] = NAN
    found = evaluate(SSIM(window=3), spoiled, t, sample_weight=mask)
    assert_same_bits(found.loss, mean.loss)
    assert_same_bits(found.gradient, mean.gradient)
    # without the mask the NaN is seen by every window that holds it
    seen = evaluate(SSIM(window=3), spoiled, t, reduction="none")
    np.testing.assert_array_equal(np.isnan(seen.loss[0]), inner & near)


@pytest.mark.parametrize("spatial", [(5,), (3, 4), (2, 3, 2), (1, 3)], ids=str)
def test_total_variation_is_the_sum_of_absolute_differences(spatial: tuple[int, ...]) -> None:
    draw = random(7)
    x, s = draw.integers(-4, 5, (2, *spatial, 2)), draw.integers(0, 3, (2, *spatial))
    expected, gradient = np.zeros(s.shape), np.zeros(x.shape)
    for axis in range(1, 1 + len(spatial)):
        step = np.diff(x, axis=axis)
        here = tuple(slice(0, -1) if a == axis else slice(None) for a in range(s.ndim))
        there = tuple(slice(1, None) if a == axis else slice(None) for a in range(s.ndim))
        expected[here] += abs(step).sum(-1) / 2
        pull = np.sign(step) * s[here][..., None] / 2
        gradient[here] -= pull
        gradient[there] += pull
    found = evaluate(TotalVariation(), f32(x), np.zeros(x.shape, int), sample_weight=s, reduction="none")
    assert_same_bits(found.loss, (s * expected).astype(np.float32))
    np.testing.assert_array_equal(found.gradient, gradient)


def test_total_variation_leaves_out_differences_to_what_is_not_valid() -> None:
    x = f32([[1, 2, NAN, 5, 9]])[..., None]
    mask = np.array([[1, 1, 0, 1, 1]], bool)
    found = evaluate(TotalVariation(), x, x * 0, sample_weight=mask, reduction="none")
    np.testing.assert_array_equal(found.loss, [[1, 0, 0, 4, 0]])
    np.testing.assert_array_equal(found.gradient[..., 0], [[-1, 1, 0, -1, 1]])
    assert evaluate(TotalVariation(), x, x * 0, sample_weight=mask).loss == 5 / 4
    assert np.isnan(evaluate(TotalVariation(), x, x * 0, reduction="none").loss[0, 1:3]).all()


# Regions ------------------------------------------------------------------------------------------------------


def group_score(spec: Any, p: Numbers, t: Numbers, s: Numbers) -> Decimal:
    """Score of one group, by the docstrings."""
    overlap = total(w * (min(a, b) if spec.overlap == "minimum" else a * b) for a, b, w in zip(p, t, s, strict=True))
    size_p, size_t = (
        total(w * (v * v if spec.squared else v) for v, w in zip(values, s, strict=True)) for values in (p, t)
    )
    eta = d32(spec.smooth)
    below = eta if spec.smooth_denominator is None else d32(spec.smooth_denominator)
    if isinstance(spec, Dice):
        above, denominator = 2 * overlap + eta, size_p + size_t + below
    elif isinstance(spec, Jaccard):
        above, denominator = overlap + eta, size_p + size_t - overlap + below
    else:
        wrong = d32(spec.alpha) * (size_p - overlap) + d32(spec.beta) * (size_t - overlap)
        above, denominator = overlap + eta, overlap + wrong + below
    denominator = max(denominator, d32(spec.epsilon))
    return above / denominator if denominator else Decimal(0)


def region_truth(spec: Any, t: Array, s: Array, reduction: str) -> Callable[[Numbers], Decimal]:
    """M of an input (samples, positions, classes), flattened."""
    samples, positions, classes = t.shape
    answers, weights = decimals(t.ravel()), decimals(s.ravel())
    counted = [c for c in (spec.classes or range(classes)) if c or spec.background]

    def truth(x: Numbers) -> Decimal:
        p = list(x)
        for k in range(0, len(x), classes):
            row = x[k : k + classes]
            if spec.activation == "softmax":
                p[k : k + classes] = decimal_softmax(row)
            elif spec.activation == "sigmoid":
                p[k : k + classes] = map(sigmoid, row)
        losses = []
        for sample in [[b] for b in range(samples)] if spec.per_sample else [list(range(samples))]:
            for group in [[c] for c in counted] if spec.per_class else [counted]:
                where = [(b, i, c) for b in sample for i in range(positions) for c in group]
                index = [(b * positions + i) * classes + c for b, i, c in where]
                truths = [answers[k] for k in index]
                score = group_score(
                    spec, [p[k] for k in index], truths, [weights[b * positions + i] for b, i, _ in where]
                )
                loss = -max(score, d32(spec.epsilon)).ln() if spec.log else 1 - score
                if isinstance(spec, FocalTversky) and not spec.power_of_mean:
                    loss = power(loss, spec.gamma)
                if spec.empty_class != "keep" and not any(truths):
                    if spec.empty_class == "exclude":
                        continue
                    loss = Decimal(0)
                losses.append(loss if spec.class_weights is None else d32(spec.class_weights[group[0]]) * loss)
        value = total(losses) / (len(losses) or 1) if reduction == "mean" else total(losses)
        powered = isinstance(spec, FocalTversky) and spec.power_of_mean
        return power(value, spec.gamma) if powered else value

    return truth


REGIONS: list[Any] = [
    Dice(),
    Dice(smooth=1, squared=True, activation="sigmoid"),
    Dice(per_sample=True, log=True, class_weights=(0.5, 2, 3)),
    Dice(per_class=False, smooth=1e-5, background=False),
    Dice(overlap="minimum", activation="none"),
    Jaccard(),
    Jaccard(log=True, smooth=0.5, smooth_denominator=1.5),
    Jaccard(squared=True, per_sample=True, per_class=False, classes=(0, 2)),
    Jaccard(empty_class="exclude", per_sample=True),
    Tversky(alpha=0.3, beta=0.7, class_weights=(0.5, 2, 3), empty_class="zero"),
    Tversky(squared=True, alpha=0.2, beta=1.5, activation="none"),
    Tversky(overlap="minimum", alpha=0.2, beta=0.9, smooth=0.1),
    FocalTversky(),
    FocalTversky(gamma=2.5, per_sample=True, classes=(1, 2)),
    FocalTversky(power_of_mean=True, class_weights=(0.5, 2, 3)),
    FocalTversky(power_of_mean=True, gamma=1.5, per_sample=True, empty_class="exclude"),
    FocalTversky(log=True, gamma=1.3),
    Dice(epsilon=20),
    Jaccard(epsilon=20, squared=True, activation="sigmoid"),
]


@pytest.mark.parametrize("spec", REGIONS, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_regions_are_their_ratios(spec: Any, reduction: Any) -> None:
    samples, positions, classes = 2, 4, 3
    x = drawn("probabilities" if spec.activation == "none" else "logits", samples, positions, classes)
    t = drawn("one_hot" if spec.empty_class != "keep" else "soft", samples, positions, classes, seed=3)
    if spec.empty_class != "keep":
        t[0, :, 1] = 0  # a class that one sample does not have
    s = f32(random(4).uniform(0, 2, (samples, positions)))
    s[0, 1] = 0
    found = evaluate(spec, x, t, sample_weight=s, reduction=reduction)
    with localcontext() as context:
        context.prec = 60
        truth = region_truth(spec, t, s, reduction)
        value = float(truth(decimals(x.ravel())))
        gradient = np.array(slopes(truth, decimals(x.ravel()))).reshape(x.shape)
    assert found.loss == close(value, rel=4 * ULP)
    scale = abs(gradient).max()
    assert scale > 0
    np.testing.assert_allclose(found.gradient, gradient, rtol=0, atol=4 * ULP * scale)


def test_regions_of_a_sure_prediction_do_not_cancel() -> None:
    # 1 - score is about the probability that is wrong
    for gap in (15, 25, 40):
        x, labels = f32([[[gap, 0], [0, gap]]]), np.array([[0, 1]])
        wrong = 1 / (1 + math.exp(gap))
        for spec, expected in (
            (Dice(), wrong),
            (Jaccard(), 2 * wrong / (1 + wrong)),
            (Dice(log=True), -math.log1p(-wrong)),
        ):
            found = evaluate(spec, x, labels)
            assert found.loss == close(expected, rel=2 * ULP)
            assert found.gradient[0, 0, 0] < 0


def test_a_region_of_nothing() -> None:
    x, empty = f32([[[0.5, 0], [0.25, 0]]]), f32([[[1, 0], [0, 0]]])  # class 1: neither predicted nor there

    def found(**options: Any) -> tuple[float, list[float]]:
        result = evaluate(Dice(activation="none", **options), x, empty)
        return float(result.loss), result.gradient[0, :, 1].tolist()

    own = 1 - 1 / 1.75  # of class 0
    assert found() == (close((own + 1) / 2, rel=ULP), [0, 0])  # 0 / epsilon
    assert found(epsilon=0) == (close((own + 1) / 2, rel=ULP), [0, 0])  # 0 / 0
    smooth = 1 - 2 / 2.75
    assert found(smooth=1) == (close(smooth / 2, rel=ULP), [0.5, 0.5])
    for empty_class, count in (("zero", 2), ("exclude", 1)):
        assert found(smooth=1, empty_class=empty_class) == (close(smooth / count, rel=ULP), [0, 0])
    alone = evaluate(Dice(activation="none", classes=(1,), empty_class="exclude"), x, empty)
    assert alone.loss == 0 and not bits_of(alone.gradient).any()
    unseen = evaluate(Tversky(activation="none", beta=0, epsilon=0), empty * 0, empty)  # 0 / 0 with a target
    assert unseen.loss == 1 and not unseen.gradient.any()
    # with targets but below epsilon, the denominator is a constant: the gradient is that of -2 I / epsilon
    small = evaluate(Dice(activation="none", epsilon=8, classes=(0,)), x, empty)
    assert small.loss == 1 - 1 / 8 and small.gradient[0].tolist() == [[-0.25, 0], [0, 0]]
    # 1.75, the denominator itself, is not below it
    just = [evaluate(Dice(activation="none", epsilon=e, classes=(0,)), x, empty) for e in (0, 1.75)]
    assert_same_bits(just[0].gradient, just[1].gradient)
    assert just[1].gradient[0, 1, 0] > 0


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 2)])
def test_regions_of_an_empty_batch(per_sample: bool, shape: tuple[int, ...]) -> None:
    x, t = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    groups = not per_sample or shape[0] > 0
    for spec, value in (
        (Dice(per_sample=per_sample), 1),
        (Jaccard(per_sample=per_sample, smooth=1), 0),
        (Tversky(per_sample=per_sample, empty_class="exclude"), 0),
        (Lovasz(per_sample=per_sample), 0),
        (Lovasz(per_sample=per_sample, classes="all"), 0),
    ):
        found = evaluate(spec, x, t)
        assert_same_bits(found.loss, np.float32(value * groups))
        assert found.gradient.shape == shape


def test_a_logarithm_of_a_region_stops_at_epsilon() -> None:
    x, t = f32([[[0.0], [1.0]]]), f32([[[1.0], [0.0]]])
    found = evaluate(Dice(activation="none", log=True, epsilon=0.125), x, t)
    assert found.loss == close(math.log(8), rel=ULP) and not found.gradient.any()
    powered = evaluate(FocalTversky(activation="none", log=True, epsilon=0.125, gamma=2), x, t)
    assert powered.loss == close(math.log(8) ** 2, rel=ULP) and not powered.gradient.any()


def test_a_power_of_no_loss_has_no_gradient() -> None:
    t = f32([[[1, 0], [0, 1]]])
    for power_of_mean in (False, True):
        found = evaluate(FocalTversky(activation="none", power_of_mean=power_of_mean), t, t)
        assert found.loss == 0 and not bits_of(found.gradient).any()


REGION_TERMS = [Dice, Jaccard, Tversky, FocalTversky]


@pytest.mark.parametrize("term", REGION_TERMS)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
def test_regions_do_not_see_what_is_hidden(term: Any, activation: Any) -> None:
    x, labels = abs(logits(2, 5, 3)), random(1).integers(0, 3, (2, 5))
    hidden = random(2).random((2, 5)) < 0.3
    assert hidden.any(1).all()
    spoiled = x.copy()
    spoiled[hidden] = NAN
    for per_sample in (False, True):
        spec = term(activation=activation, per_sample=per_sample, ignore_index=9)
        shorter = spec if per_sample else term(activation=activation)
        ignored = evaluate(spec, spoiled, np.where(hidden, 9, labels))
        masked = evaluate(spec, spoiled, labels, sample_weight=~hidden)
        weightless = evaluate(spec, spoiled, labels, sample_weight=(~hidden).astype(np.float32))
        for found in (masked, weightless):
            assert_same_bits(found.loss, ignored.loss)
            assert_same_bits(found.gradient, ignored.gradient)
        assert not bits_of(ignored.gradient[hidden]).any() and np.isfinite(ignored.gradient).all()
        if not per_sample:  # the batch is one group: without the hidden positions it is the same
            rest = evaluate(shorter, x[~hidden], labels[~hidden])
            assert_same_bits(rest.loss, ignored.loss)
            assert_same_bits(rest.gradient, ignored.gradient[~hidden])
    assert np.isnan(evaluate(term(activation=activation), spoiled, labels).loss)


def test_the_minimum_has_half_its_slope_where_both_are_equal() -> None:
    x, t = f32([[[0.25], [0.5], [0.75]]]), f32([[[0.5], [0.5], [0.5]]])
    found = evaluate(Dice(activation="none", overlap="minimum"), x, t)
    # 1 - 2 I / (P + T), I = 1.25, P + T = 3
    slope = [-(2 * d * 3 - 2.5) / 9 for d in (1, 0.5, 0)]
    np.testing.assert_allclose(found.gradient[0, :, 0], slope, rtol=ULP)
    assert found.loss == close(1 - 2.5 / 3, rel=ULP)
    assert np.isnan(evaluate(Dice(activation="none", overlap="minimum"), x * NAN, t).loss)


@pytest.mark.parametrize("term", [*REGION_TERMS, Lovasz])
def test_regions_have_no_map(term: Any) -> None:
    x, labels = logits(2, 3, 2), np.zeros((2, 3), int)
    with pytest.raises(ValueError, match="has no map"):
        evaluate(CrossEntropy() + term(), x, labels, reduction="none")
    # but a sum with a term that has one
    both = evaluate(CrossEntropy() + 0.5 * term(), x, labels)
    alone = evaluate(CrossEntropy(), x, labels), evaluate(term(), x, labels)
    assert both.loss == close(float(alone[0].loss) + 0.5 * float(alone[1].loss), rel=ULP)
    expected = alone[0].gradient + 0.5 * alone[1].gradient
    np.testing.assert_allclose(both.gradient, expected, rtol=0, atol=ULP * abs(expected).max())


def lovasz_truth(spec: Any, t: Array) -> Callable[[Numbers], Decimal]:
    """The mean over the samples, by the docstring: errors in order, and a Jaccard loss for every k."""
    samples, positions, classes = t.shape
    if not spec.per_sample:
        samples, positions = 1, samples * positions
    answers = t.reshape(samples, positions, classes)

    def jaccard(labels: list[int], k: int) -> Decimal:
        found, present = sum(labels[:k]), sum(labels)
        return 1 - Decimal(present - found) / Decimal(present + k - found) if k else Decimal(0)

    def truth(x: Numbers) -> Decimal:
        means = []
        for b in range(samples):
            rows = [x[k * classes : (k + 1) * classes] for k in range(b * positions, (b + 1) * positions)]
            p = [decimal_softmax(row) for row in rows] if spec.activation == "softmax" else rows
            losses = []
            for c in range(classes):
                labels = [int(v) for v in answers[b, :, c]]
                if spec.activation == "hinge":
                    errors = [
                        max(Decimal(0), 1 - (2 * label - 1) * row[c]) for label, row in zip(labels, p, strict=True)
                    ]
                else:
                    errors = [abs(label - row[c]) for label, row in zip(labels, p, strict=True)]
                order = sorted(range(positions), key=lambda i, errors=errors: -errors[i])  # type: ignore[misc]
                ranked = [labels[i] for i in order]
                steps = [jaccard(ranked, k + 1) - jaccard(ranked, k) for k in range(positions)]
                if spec.classes == "all" or any(labels):
                    losses.append(total(errors[i] * step for i, step in zip(order, steps, strict=True)))
            means.append(total(losses) / (len(losses) or 1))
        return total(means) / samples

    return truth


@pytest.mark.parametrize("activation", ["softmax", "none", "hinge"])
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("classes", ["present", "all"])
def test_lovasz_is_its_formula(activation: Any, per_sample: bool, classes: Any) -> None:
    spec = Lovasz(activation=activation, per_sample=per_sample, classes=classes)
    x = logits(2, 4, 3) if activation != "none" else 3 * drawn("probabilities", 2, 4, 3) - 1  # some are outside [0, 1]
    labels = np.array([[0, 2, 2, 0], [1, 0, 0, 1]])
    t = np.eye(3)[labels]
    found = evaluate(spec, x, labels)
    with localcontext() as context:
        context.prec = 60
        truth = lovasz_truth(spec, t)
        value = float(truth(decimals(x.ravel())))
        gradient = np.array(slopes(truth, decimals(x.ravel()))).reshape(x.shape)
    assert found.loss == close(value, rel=4 * ULP)
    np.testing.assert_allclose(found.gradient, gradient, rtol=0, atol=4 * ULP * abs(gradient).max())
    added = evaluate(spec, x, labels, reduction="sum")
    assert added.loss == close(value * (2 if per_sample else 1), rel=4 * ULP)
    np.testing.assert_allclose(
        added.gradient, gradient * (2 if per_sample else 1), rtol=0, atol=8 * ULP * abs(gradient).max()
    )


def test_lovasz_orders_equal_errors_by_their_positions() -> None:
    x, labels = f32([[[0.5], [0.5]], [[0.5], [0.5]]]), f32([[[0], [1]], [[0], [1]]])
    found = evaluate(Lovasz(activation="none"), x, labels)
    # steps: 2 / (3 * 2), 1 / 3, 1 / (4 * 3), 1 / 4
    np.testing.assert_array_equal(found.gradient.ravel(), f32([1 / 3, -1 / 3, 1 / 12, -1 / 4]))
    assert found.loss == 0.5
    wide = evaluate(Lovasz(activation="none"), np.tile(x[:1], (1, 3, 1)), np.tile(labels[:1], (1, 3, 1)))
    steps = [3 / (4 * 3), 1 / 4, 2 / (5 * 4), 1 / 5, 1 / (6 * 5), 1 / 6]
    np.testing.assert_allclose(wide.gradient.ravel(), [step * (-1) ** i for i, step in enumerate(steps)], rtol=ULP)


def test_lovasz_at_its_edges() -> None:
    spec = Lovasz(activation="hinge")
    x, labels = f32([[[2], [1], [-3], [0.5]]]), f32([[[1], [1], [0], [0]]])
    found = evaluate(spec, x, labels)  # errors 0, 0, 0 and 1.5, whose step is 2 / (3 * 2)
    np.testing.assert_array_equal(found.gradient.ravel(), f32([0, 0, 0, 1 / 3]))
    assert found.loss == 0.5
    none = f32([[[0.75], [0.25]]]), np.zeros((1, 2, 1), np.float32)
    assert evaluate(Lovasz(activation="none"), *none).loss == 0
    every = evaluate(Lovasz(activation="none", classes="all"), *none)
    assert every.loss == 0.75 and every.gradient.ravel().tolist() == [1, 0]
    with pytest.raises(ValueError, match="a boolean mask"):
        evaluate(Lovasz(), logits(1, 2, 2), np.zeros((1, 2), int), sample_weight=f32([1]))
    x, labels = logits(1, 4, 2), np.array([[0, 1, 7, 0]])
    assert np.isnan(evaluate(Lovasz(), x, labels, labels="nan").loss)
    assert np.isnan(evaluate(Lovasz(), x, labels, labels="nan").gradient[0, 2]).all()


@pytest.mark.parametrize("activation", ["softmax", "none", "hinge"])
def test_lovasz_does_not_see_what_is_hidden(activation: Any) -> None:
    x, labels = logits(2, 5, 3), random(1).integers(0, 3, (2, 5))
    hidden = random(2).random((2, 5)) < 0.3
    spoiled = x.copy()
    spoiled[hidden] = NAN
    ignored = evaluate(Lovasz(activation=activation, ignore_index=9), spoiled, np.where(hidden, 9, labels))
    masked = evaluate(Lovasz(activation=activation), spoiled, labels, sample_weight=~hidden)
    rest = evaluate(Lovasz(activation=activation), x[~hidden], labels[~hidden])
    for found in (masked, rest):
        assert_same_bits(found.loss, ignored.loss)
    assert_same_bits(masked.gradient, ignored.gradient)
    assert_same_bits(rest.gradient, ignored.gradient[~hidden])
    assert not bits_of(ignored.gradient[hidden]).any()
    seen = evaluate(Lovasz(activation=activation), spoiled, labels)
    assert np.isnan(seen.loss) and np.isnan(seen.gradient[hidden]).all() and np.isfinite(seen.gradient[~hidden]).all()


# Penalties ------------------------------------------------------------------------------------------------------


def test_penalties_are_sums_over_weights() -> None:
    w = f32([[1.5, -2, 0], [1e-39, -0.5, 3]])  # one of them a subnormal, which counts as 0
    for spec, value, gradient in (
        (0.25 * L1(), 7 / 4, np.sign(w) / 4 * (abs(w) > 1e-38)),
        (0.25 * L2(), 15.5 / 4, w / 2 * (abs(w) > 1e-38)),
    ):
        found = penalty(spec, w, upstream=2)
        assert_same_bits(found.loss, np.float32(value))
        assert_same_bits(found.gradient, f32(2 * gradient) + f32(0))
    both = penalty(0.5 * L1() + 0.25 * L2(), w)
    assert both.loss == 7 / 2 + 15.5 / 4
    large = logits(1000)
    weight = float(np.float32(0.01))
    assert penalty(0.01 * L2(), large).loss == close(weight * math.fsum(large.astype(float) ** 2), rel=ULP)
    with pytest.raises(ValueError, match="has no map"):
        evaluate(L1(), w[0], w[0], reduction="none")


# What means divide by -------------------------------------------------------------------------------------------


def test_normalizers_are_what_their_names_say() -> None:
    x, labels = logits(3, 4, 2), random(1).integers(0, 2, (3, 4))
    labels[0, 1] = labels[2, 3] = 9
    s = f32(random(2).uniform(0, 2, (3, 4)))
    values = evaluate(CategoricalHinge(ignore_index=9), x, labels, sample_weight=s, reduction="none").loss
    counted = labels != 9
    divisors: dict[Any, float] = {
        "valid": 10, "elements": 12, "batch": 3, "one": 1, "sample_weights": s[counted].astype(float).sum(),
    }  # fmt: skip
    for normalizer, divisor in divisors.items():
        spec = CategoricalHinge(ignore_index=9, normalizer=normalizer)
        found = evaluate(spec, x, labels, sample_weight=s)
        assert found.loss == close(values.astype(float).sum() / divisor, rel=2 * ULP)
        plain = evaluate(spec, x, labels, sample_weight=s, reduction="sum").gradient
        np.testing.assert_allclose(found.gradient, plain / divisor, rtol=2 * ULP)
        # without sample weights, their sum is a number of positions
        if normalizer == "sample_weights":
            bare = [evaluate(replace(spec, normalizer=n), x, labels).loss for n in (normalizer, "valid")]
            assert_same_bits(*bare)
    # a stencil's mean divides by what counts for it
    boundary = Boundary(ignore_index=9, normalizer="sample_weights")
    whole = evaluate(boundary, x, labels, sample_weight=s, reduction="none").loss.astype(float).sum()
    near = counted & np.pad(counted, ((0, 0), (1, 1)), constant_values=True)[:, 2:]
    near &= np.pad(counted, ((0, 0), (1, 1)), constant_values=True)[:, :-2]
    assert evaluate(boundary, x, labels, sample_weight=s).loss == close(
        whole / s[near].astype(float).sum(), rel=2 * ULP
    )


@pytest.mark.parametrize("normalizer", ["valid", "elements", "batch", "sample_weights", "one"])
def test_a_mean_over_nothing_is_zero_or_nan(normalizer: Any) -> None:
    x, target = np.zeros((0, 3, 2), np.float32), np.zeros((0, 3, 2), np.float32)
    for empty in ("zero", "nan"):
        spec = MeanAbsoluteError(normalizer=normalizer, empty=empty)
        found = evaluate(spec, x, target)
        assert math.isnan(found.loss) == (empty == "nan" and normalizer != "one")
        assert evaluate(spec, x, target, reduction="sum").loss == 0
        assert evaluate(spec, x, target, reduction="none").loss.shape == (0, 3)
        weightless = evaluate(spec, logits(1, 3, 2), logits(1, 3, 2), sample_weight=f32([0]))
        assert math.isnan(weightless.loss) == (empty == "nan" and normalizer == "sample_weights")
        masked = evaluate(spec, logits(1, 3, 2), logits(1, 3, 2), sample_weight=np.array([False]))
        assert math.isnan(masked.loss) == (empty == "nan" and normalizer in ("valid", "sample_weights"))
        assert not bits_of(masked.gradient).any()


def test_a_schedule_has_no_value_without_a_step() -> None:
    spec: Any = dualloss.Linear(0, 1, steps=10) * MeanSquaredError()
    with pytest.raises(TypeError, match=r"spec\.at\(step\)"):
        evaluate(spec, f32([1]), f32([0]))
    assert evaluate(spec.at(5), f32([1]), f32([0])).loss == 0.5


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
    with pytest.raises(ValueError, match="ignore_index=9 has no meaning"):
        evaluate(CrossEntropy(ignore_index=9), x, x)
    with pytest.raises(ValueError, match="expected a channel axis for CosineSimilarity"):
        evaluate(MeanSquaredError() + CosineSimilarity(), x[:, 0], x[:, 0])
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
