"""Section 1 of docs/numerics.md: roundings, functions, sums."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from decimal import Context, Decimal
from fractions import Fraction
from functools import cache

NAN, INF = math.nan, math.inf


def bits(v: float) -> int:
    """The 64 bits of a float64 as a signed integer."""
    return int(struct.unpack("<q", struct.pack("<d", v))[0])


def value(b: int) -> float:
    """The float64 of these 64 bits."""
    return float(struct.unpack("<d", struct.pack("<q", b))[0])


def chop(v: float) -> float:
    """The leading 48 significant bits of a float64, rounded toward zero."""
    return value(bits(v) & ~0b11111)


def times(a: float, b: float) -> float:
    """The page's circled product: chop(a * b)."""
    return chop(a * b)


def divide(a: float, b: float) -> float:
    """a / b as IEEE 754 has it, also for b = 0."""
    if b:
        return a / b
    return NAN if a == 0 or math.isnan(a) else math.copysign(INF, a) * math.copysign(1, b)


def floor_log2(v: Fraction) -> int:
    """The largest integer e with 2^e <= v, for v > 0."""
    e = v.numerator.bit_length() - v.denominator.bit_length()
    return e if Fraction(2) ** e <= v else e - 1


def _nearest(v: float, digits: int, unit: int, end: int) -> float:
    """The multiple of 2^unit, of at most `digits` significant bits, that is nearest to v; ties to even.

    A result of 2^end or more is an infinity. Zero has no sign and NaN no payload.
    """
    if math.isnan(v):
        return NAN
    if v == 0 or math.isinf(v):
        return v if v else 0.0
    exact = Fraction(v)
    step = Fraction(2) ** max(floor_log2(abs(exact)) - (digits - 1), unit)
    result = round(exact / step) * step  # round() of a Fraction takes ties to even
    if abs(result) >= Fraction(2) ** end:
        return math.copysign(INF, v)
    return float(result)


def float32(v: float) -> float:
    """The nearest float32; +0 below 2^-126. Also of an integer of any size."""
    return 0.0 if abs(v) < 2.0**-126 else _nearest(v, digits=24, unit=-149, end=128)


def bfloat16(v: float) -> float:
    """The nearest bfloat16; +0 below 2^-126."""
    return 0.0 if abs(v) < 2.0**-126 else _nearest(v, digits=8, unit=-133, end=128)


def float16(v: float) -> float:
    """The nearest float16, subnormals kept."""
    return _nearest(v, digits=11, unit=-24, end=16)


def load(v: float) -> float:
    """1.1: a float16, bfloat16 or float32 that comes in; +0 below 2^-126."""
    return 0.0 if abs(v) < 2.0**-126 else v


# ------------------------------------------------------------------------------------------------------------
# 1.2, 1.3: exp* and log1p*

# Enough digits for an exact 1 + q (up to 141 decimal places), and far more than the 19 or so that decide.
_DECIMAL = Context(prec=200)


def _keep_bits(bits: int, true: Fraction, raise_by: int) -> float:
    """The largest number of so many bits not above true + raise_by * ulp64; ulp64 is that of true's binade."""
    raised = true + raise_by * Fraction(2) ** (floor_log2(true) - 52)
    step = Fraction(2) ** (floor_log2(raised) - (bits - 1))
    return float(raised // step * step)


@cache
def _exp_kept(k: int) -> float:
    """E of 1.2, for exp(k 2^-10)."""
    return _keep_bits(33, Fraction(_DECIMAL.exp(Decimal(k * 2.0**-10))), 535902)


@cache
def _log1p_kept(q: float) -> float:
    """Λ of 1.3, for log1p(q)."""
    if q == 0:
        return 0.0
    return _keep_bits(28, Fraction(_DECIMAL.ln(_DECIMAL.add(Decimal(1), Decimal(q)))), 17772251)


def exp_star(d: float) -> float:
    """exp(d) for d <= 0."""
    if math.isnan(d):
        return NAN
    z = d if d >= -88 else -88.0
    y = z * 2.0**10
    k = round(y)
    r = (y - k) * 2.0**-10
    e_kept = _exp_kept(k)
    e = e_kept + times(e_kept, r + times(r, r) * 0.5)
    return 0.0 if k < -89432 else e


def log1p_star(s: float) -> float:
    """log(1 + s) for 0 <= s < 2^23."""
    q = value((bits(s) + 2**36) & ~(2**37 - 1))
    return _log1p_kept(q) + (s - q) / (1 + q)


# ------------------------------------------------------------------------------------------------------------
# 1.4: ln*, ln1p*, ex*, pow*

_LN2_HIGH, _LN2_LOW = float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33")
_INVERSE_LN2 = float.fromhex("0x1.71547652b82fep+0")


def horner(v: float, coefficients: Iterable[float]) -> float:
    """The first coefficient; then v times what there is, chopped, plus the next."""
    result, *rest = coefficients
    for coefficient in rest:
        result = times(v, result) + coefficient
    return result


def _ratio(z: float) -> float:
    """log((1 + z) / (1 - z))."""
    w = times(z, z)
    return chop(2 * z + times(2 * z, times(w, horner(w, [1 / k for k in range(23, 1, -2)]))))


def eta(v: float) -> float:
    """v - log(1 + v) for |v| <= 1/4."""
    z = v / (v + 2)
    w = times(z, z)
    return times(v, z) - times(2 * z, times(w, horner(w, [1 / k for k in range(23, 1, -2)])))


def ln_star(v: float) -> float:
    """log(v); NaN for v < 0."""
    if math.isnan(v) or v < 0:
        return NAN
    if v == 0 or v == INF:
        return INF if v else -INF
    m, e = math.frexp(v)  # 1/2 <= m < 1
    m, e = 2 * m, e - 1
    if m >= 1.5:
        m, e = m / 2, e + 1
    return e * _LN2_HIGH + chop(_ratio((m - 1) / (m + 1)) + times(e, _LN2_LOW))


def ln1p_star(s: float) -> float:
    """log(1 + s)."""
    return _ratio(s / (s + 2)) if -0.25 <= s < 0.5 else ln_star(s + 1)


def ex_star(d: float) -> float:
    """exp(d); 0 below 2^-126, an infinity from 2^128 up."""
    if math.isnan(d):
        return NAN
    z = min(max(d, -90.0), 90.0)
    k = round(z * _INVERSE_LN2)
    r = chop(chop(z - k * _LN2_HIGH) - times(k, _LN2_LOW))
    y = chop(r + times(times(r, r), horner(r, [1 / math.factorial(j) for j in range(13, 1, -1)])))
    result = (y + 1) * 2.0**k
    return 0.0 if result < 2.0**-126 else INF if result >= 2.0**128 else result


def pow_star(v: float, gamma: float) -> float:
    """v to the power of a constant."""
    if gamma == 0:
        return 1.0
    if gamma == 1:
        return v
    if gamma == 2:
        return times(v, v)
    return 0.0 if v == 0 else ex_star(times(ln_star(v), gamma))


# ------------------------------------------------------------------------------------------------------------
# 1.5, 1.6: sums


def asum(*lists: Sequence[float]) -> float:
    """The sum along the channels of one position."""
    terms = [v for one in lists for v in one]
    infinities = {v for v in terms if math.isinf(v)}
    if any(math.isnan(v) for v in terms) or len(infinities) == 2:
        return NAN
    if infinities:
        return infinities.pop()
    largest = max(abs(v) for v in terms)
    b = len(terms).bit_length()
    e = -600 if largest == 0 else max(floor_log2(Fraction(largest)), -600)
    return sum(round(v * 2.0 ** (51 - b - e)) for v in terms) * 2.0 ** (e - 51 + b)


def exact_sum(values: Iterable[float]) -> float:
    """The sum over positions: exact over multiples of 2^-160, then rounded once."""
    total, infinities, nan = 0, set(), False
    for v in values:
        if math.isnan(v):
            nan = True
        elif abs(v) >= 2.0**128:
            infinities.add(math.copysign(INF, v))
        else:
            total += math.trunc(Fraction(v) * 2**160)
    if nan or len(infinities) == 2:
        return NAN
    return infinities.pop() if infinities else total / 2**160  # int / int rounds once, to nearest even
