"""The terms of docs/numerics/regression.md."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .arithmetic import INF, NAN, asum, chop, ex_star, float32, horner, ln1p_star, times
from .core import Batch, Rows, Term, by_element, implements, pointwise

OfDifference = Callable[[float, float], tuple[float, float]]
"""From d and t to P and g."""


def sign(d: float) -> float:
    """1, -1, or 0 for 0; NaN for NaN."""
    return d if math.isnan(d) or d == 0 else math.copysign(1.0, d)


def _of_difference(options: Any, batch: Batch, function: OfDifference) -> Term:
    """A term whose P and g are functions of d = x - t, and perhaps of t; NaN where d is."""

    def one(channel: int, x: float, t: float) -> tuple[tuple[float, ...], float]:
        d = x - t
        if math.isnan(d):
            return (NAN,), NAN
        p, g = function(d, t)
        return (p,), g

    return by_element(options, batch, one)


@implements("MeanSquaredError")
def mean_squared_error(options: Any, batch: Batch) -> Term:
    """MeanSquaredError."""
    return _of_difference(options, batch, lambda d, t: (d * d, 2 * d))


@implements("MeanAbsoluteError")
def mean_absolute_error(options: Any, batch: Batch) -> Term:
    """MeanAbsoluteError."""
    return _of_difference(options, batch, lambda d, t: (abs(d), sign(d)))


@implements("MeanAbsolutePercentageError")
def mean_absolute_percentage_error(options: Any, batch: Batch) -> Term:
    """MeanAbsolutePercentageError."""
    epsilon = float32(options.epsilon)

    def function(d: float, t: float) -> tuple[float, float]:
        q = 100 / (abs(t) if abs(t) > epsilon else epsilon)
        return abs(d) * q, sign(d) * q

    return _of_difference(options, batch, function)


@implements("Huber")
def huber(options: Any, batch: Batch) -> Term:
    """Huber."""
    delta = float32(options.delta)

    def function(d: float, t: float) -> tuple[float, float]:
        a = abs(d)
        p = (d * d) * 0.5 if a <= delta else delta * (a - delta * 0.5)
        return p, delta if d > delta else -delta if d < -delta else d

    return _of_difference(options, batch, function)


@implements("SmoothL1")
def smooth_l1(options: Any, batch: Batch) -> Term:
    """SmoothL1."""
    beta = float32(options.beta)

    def function(d: float, t: float) -> tuple[float, float]:
        a = abs(d)
        if beta > 0 and a < beta:
            return times(d, d) * (0.5 * (1 / beta)), times(d, 1 / beta)
        return a - 0.5 * beta, sign(d)

    return _of_difference(options, batch, function)


@implements("Charbonnier")
def charbonnier(options: Any, batch: Batch) -> Term:
    """Charbonnier."""
    epsilon = float32(options.epsilon)

    def function(d: float, t: float) -> tuple[float, float]:
        p = math.sqrt(times(d, d) + epsilon * epsilon)
        return p, sign(d) if math.isinf(p) else d / chop(p)

    return _of_difference(options, batch, function)


@implements("Quantile")
def quantile(options: Any, batch: Batch) -> Term:
    """Quantile."""
    tau, tau_bar = float32(options.quantile), float32(1 - options.quantile)

    def function(d: float, t: float) -> tuple[float, float]:
        if d == 0:
            return 0.0, 0.0
        return (tau * abs(d), -tau) if d < 0 else (tau_bar * abs(d), tau_bar)

    return _of_difference(options, batch, function)


@implements("MeanSquaredLogarithmicError")
def mean_squared_logarithmic_error(options: Any, batch: Batch) -> Term:
    """MeanSquaredLogarithmicError."""
    epsilon = float32(options.epsilon)

    def one(channel: int, x: float, t: float) -> tuple[tuple[float, ...], float]:
        if math.isnan(x) or math.isnan(t):
            return (NAN,), NAN
        y, u = max(x, epsilon), max(t, epsilon)
        q = ln1p_star((y - u) / (u + 1)) if y >= u else 0 - ln1p_star((u - y) / (y + 1))
        g = (q / (y + 1)) * 2 if x >= epsilon else 0.0
        return (q * q,), NAN if math.isnan(q) else g

    return by_element(options, batch, one)


_COSH = [1 / math.factorial(2 * k) for k in range(9, 0, -1)]
_SINH = [1 / math.factorial(2 * k + 1) for k in range(9, 0, -1)]
_LOG_2 = float.fromhex("0x1.62e42fefa39efp-1")


@implements("LogCosh")
def log_cosh(options: Any, batch: Batch) -> Term:
    """LogCosh."""

    def function(d: float, t: float) -> tuple[float, float]:
        a = abs(d)
        if a < 1:
            w = times(a, a)
            h = times(w, horner(w, _COSH))
            p, g = ln1p_star(h), chop(a + times(a, times(w, horner(w, _SINH)))) / (1 + h)
        else:
            v = ex_star(-2 * a)
            p, g = chop(a + ln1p_star(v)) - _LOG_2, (1 - v) / (1 + v)
        return p, math.copysign(g, d)

    return _of_difference(options, batch, function)


@implements("CosineSimilarity")
def cosine_similarity(options: Any, batch: Batch) -> Term:
    """CosineSimilarity."""
    epsilon = float32(options.epsilon)
    values: list[float] = []
    gradients: Rows = []
    for x, t in zip(batch.x, batch.t, strict=True):
        xx, tt = asum([v * v for v in x]), asum([v * v for v in t])
        if not (xx < INF and tt < INF):  # NaN is not below either
            values.append(NAN)
            gradients.append([NAN] * batch.channels)
            continue
        xx_least, tt_least = max(xx, epsilon), max(tt, epsilon)
        n = math.sqrt(xx_least * tt_least)
        k = asum([xc * tc for xc, tc in zip(x, t, strict=True)]) / n
        if options.form == "negative":
            values.append(chop(0 - k))
        elif xx >= epsilon and tt >= epsilon:
            lengths = chop(math.sqrt(xx_least)), chop(math.sqrt(tt_least))
            u = [xc / lengths[0] - tc / lengths[1] for xc, tc in zip(x, t, strict=True)]
            values.append(chop(asum([v * v for v in u]) * 0.5))
        else:
            values.append(chop(1 - k))
        along = [times(k, xc / xx_least) if xx >= epsilon else 0.0 for xc in x]
        gradients.append([v - chop(tc / n) for v, tc in zip(along, t, strict=True)])
    return Term(values, batch.valid, None, pointwise(gradients))
