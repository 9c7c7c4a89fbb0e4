"""The terms of docs/numerics/classification.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .activations import Softmax, fine_softmax, sigmoid, softmax, through_softmax
from .arithmetic import INF, NAN, asum, chop, divide, eta, ex_star, float32, ln1p_star, ln_star, pow_star, times
from .core import Batch, Rows, Term, by_element, by_position, implements, over_channels, pointwise

# ------------------------------------------------------------------------------------------------------------
# What several terms use


def _constants(given: Any, channels: int) -> list[float] | None:
    """An option that is None, one number for all channels or one for each: float32, by channel."""
    if given is None:
        return None
    return [float32(v) for v in (given if isinstance(given, Sequence) else [given] * channels)]


def _weighted(constants: list[float] | None, t: list[float]) -> list[float]:
    """The constants ⊗ t, or t without."""
    return t if constants is None else [times(w, tc) for w, tc in zip(constants, t, strict=True)]


def _smoothed(t: float, epsilon: float, answers: int) -> float:
    """t' of so many answers."""
    return t if epsilon == 0 else chop(float32(1 - epsilon) * t + float32(epsilon / answers))


def _log(p: float, r: float) -> float:
    """ln(p; r)."""
    return ln1p_star(0 - r) if r <= 0.25 else ln_star(p)


@dataclass(frozen=True)
class _Clipped:
    """Probabilities, one channel: p, r and whether it is inside."""

    p: float
    r: float
    inside: bool


def _clipped(y: float, rest: float, clip: float) -> _Clipped:
    """Of y and 1 - y."""
    least, most = float32(clip), float32(1 - clip)
    if y < least:
        return _Clipped(least, 1 - least, False)
    return _Clipped(most, 1 - most, False) if rest < 1 - most else _Clipped(y, rest, True)


def _back(z: float | None, y: list[float], h: list[float]) -> list[float]:
    """back(h); no Z where nothing is divided by it."""
    if z is None:
        return [0 - hc for hc in h]
    total = asum([hc * yc for hc, yc in zip(h, y, strict=True)])
    return [(total - hc) / z for hc in h]


def _probabilities(x: list[float], before: bool) -> tuple[float | None, list[float]] | None:
    """Z where it divides, and y; None where bad."""
    z = asum(x)
    if not all(abs(v) < INF for v in x) or (before and z == 0):  # NaN is not below an infinity
        return None
    return (z, [v / z for v in x]) if before else (None, x)


def _answered(targets: list[float], n: list[float]) -> list[float]:
    """The targets times n, 0 where there is no target."""
    return [0.0 if u == 0 else u * v for u, v in zip(targets, n, strict=True)]


# ------------------------------------------------------------------------------------------------------------
# Classes


@implements("CrossEntropy")
def cross_entropy(options: Any, batch: Batch) -> Term:
    """CrossEntropy."""
    classes = batch.channels
    weights = _constants(options.class_weights, classes)
    values: list[float] = []
    gradients: Rows = []
    for x, t in zip(batch.x, batch.t, strict=True):
        u = _weighted(weights, [_smoothed(tc, options.label_smoothing, classes) for tc in t])
        total = asum(u)
        if options.inputs == "logits":
            soft = softmax(x)
            n = [soft.log_sum - dc for dc in soft.d]
            g = [times(pc, total - uc) - times(uc, rc) for pc, uc, rc in zip(soft.p, u, soft.rest, strict=True)]
            values.append(NAN if soft.bad else chop(asum(_answered(u, n))))
            gradients.append([NAN] * classes if soft.bad else g)
            continue
        given = _probabilities(x, options.renormalize == "before")
        if given is None:
            values.append(NAN)
            gradients.append([NAN] * classes)
            continue
        z, y = given
        at = [_clipped(v, 1 - v, options.clip) for v in y]
        h = [uc if math.isnan(uc) else chop(uc / v.p) if v.inside else 0.0 for uc, v in zip(u, at, strict=True)]
        n = [0 - _log(v.p, v.r) for v in at]
        if options.renormalize == "after":
            z_after = asum([v.p for v in at])
            h = [hc - total / z_after if v.inside else hc for hc, v in zip(h, at, strict=True)]
            n = [ln1p_star(chop((z_after - v.p) / v.p)) for v in at]
        values.append(chop(asum(_answered(u, n))))
        gradients.append(_back(z, y, h))
    return Term(values, batch.valid, None, pointwise(gradients), _says(weights, batch))


def _says(weights: list[float] | None, batch: Batch) -> list[float] | None:
    """For the normaliser "weights"."""
    return None if weights is None else [asum(_weighted(weights, t)) for t in batch.t]


@implements("NegativeLogLikelihood")
def negative_log_likelihood(options: Any, batch: Batch) -> Term:
    """NegativeLogLikelihood."""
    weights = _constants(options.class_weights, batch.channels)
    u = [_weighted(weights, t) for t in batch.t]
    values = [chop(asum(_answered(ui, [0 - xc for xc in x]))) for x, ui in zip(batch.x, u, strict=True)]
    gradients = [[0 - uc for uc in ui] for ui in u]
    return Term(values, batch.valid, None, pointwise(gradients), _says(weights, batch))


@dataclass(frozen=True)
class _Classes:
    """Of one position, what Focal looks at: Z, y, p, r, l and whether p is inside."""

    z: float | None
    y: list[float]
    p: list[float]
    rest: list[float]
    n: list[float]
    inside: list[bool]


def _of_logits(soft: Softmax) -> _Classes:
    return _Classes(None, soft.p, soft.p, soft.rest, [soft.log_sum - dc for dc in soft.d], [True] * len(soft.p))


def _of_probabilities(z: float | None, y: list[float], rest: list[float], clip: float) -> _Classes:
    """Of y and 1 - y."""
    at = [_clipped(yc, rc, clip) for yc, rc in zip(y, rest, strict=True)]
    n = [0 - _log(v.p, v.r) for v in at]
    return _Classes(z, y, [v.p for v in at], [v.r for v in at], n, [v.inside for v in at])


def _focal_slopes(a: list[float], f: list[float], gamma: float, on: _Classes, clipping: bool) -> list[float]:
    """g of Focal; for clip_softmax that for the softmax."""
    w = [
        0.0 if rc == 0 or gamma == 0 or pc == 0 else times(gamma, times(fc, nc / rc))
        for rc, pc, fc, nc in zip(on.rest, on.p, f, on.n, strict=True)
    ]
    if clipping:
        h = [
            ac if math.isnan(ac) else times(ac, wc + chop(fc / pc)) if ac != 0 and inside else 0.0
            for ac, wc, fc, pc, inside in zip(a, w, f, on.p, on.inside, strict=True)
        ]
        return _back(on.z, on.y, h)
    e = [0.0 if ac == 0 else times(ac, times(pc, wc) + fc) for ac, pc, wc, fc in zip(a, on.p, w, f, strict=True)]
    total = asum(e)
    return [times(pc, total - ec) - times(ec, rc) for pc, ec, rc in zip(on.p, e, on.rest, strict=True)]


@implements("Focal")
def focal(options: Any, batch: Batch) -> Term:
    """Focal."""
    classes, gamma = batch.channels, float32(options.gamma)
    alpha = _constants(options.alpha, classes)
    on_logits = options.inputs == "logits"
    clipping = not on_logits or options.clip_softmax
    softs = [softmax(x) for x in batch.x] if on_logits else []
    parts: Rows = []
    slopes: Rows = []
    for i, (x, t) in enumerate(zip(batch.x, batch.t, strict=True)):
        on: _Classes | None = None
        if not on_logits:
            given = _probabilities(x, options.renormalize)
            if given is not None:
                z, y = given
                on = _of_probabilities(z, y, [1 - v for v in y], options.clip)
        elif not softs[i].bad:
            soft = softs[i]
            on = _of_probabilities(None, soft.p, soft.rest, options.clip) if clipping else _of_logits(soft)
        if on is None:
            parts.append([NAN] * classes)
            slopes.append([NAN] * classes)
            continue
        a = _weighted(alpha, [_smoothed(tc, options.label_smoothing, classes) for tc in t])
        f = [pow_star(rc, gamma) for rc in on.rest]
        parts.append([0.0 if ac == 0 else times(ac, fc) * nc for ac, fc, nc in zip(a, f, on.n, strict=True)])
        slopes.append(_focal_slopes(a, f, gamma, on, clipping))
    value, share = over_channels(options, batch, parts)

    def gradient(c: list[float]) -> Rows:
        g = pointwise(slopes)(c)
        if not (on_logits and clipping):
            return g
        return [through_softmax(soft, row) for soft, row in zip(softs, g, strict=True)]

    return Term(value, batch.valid, share, gradient)


@implements("KLDivergence")
def kl_divergence(options: Any, batch: Batch) -> Term:
    """KLDivergence."""
    least = float32(options.clip)
    parts: Rows = []
    beside: list[float] = []
    gradients: Rows = []
    for x, t in zip(batch.x, batch.t, strict=True):
        if options.log_target:
            tau, q = [ex_star(tc) for tc in t], t
        else:
            tau = [0.0 if tc <= 0 else tc for tc in t]
            if options.inputs == "probabilities":
                tau = [_limited(tc, least) for tc in t]
            q = [ln_star(v) for v in tau]
        if options.inputs == "logits":
            soft = fine_softmax(x)
            n = [soft.log_sum - dc for dc in soft.d]
            total = asum(tau)
            g = [times(pc, total - v) - times(v, rc) for pc, v, rc in zip(soft.p, tau, soft.rest, strict=True)]
            hidden = [soft.bad] * batch.channels
        elif options.inputs == "log_probabilities":
            n, g = [0 - xc for xc in x], [0 - v for v in tau]
            hidden = [False] * batch.channels
        else:
            y = [_limited(xc, least) for xc in x]
            n = [0 - ln_star(yc) for yc in y]
            g = [0 - v / yc if least <= xc <= 1 else 0.0 for v, yc, xc in zip(tau, y, x, strict=True)]
            hidden = [math.isnan(xc) for xc in x]
        p = [0.0 if v == 0 else v * (qc + nc) for v, qc, nc in zip(tau, q, n, strict=True)]
        rest = 0.0
        if options.inputs == "logits" and 0.5 <= (mass := asum(tau)) <= 2:
            p = [_beside(pc, v, qc + nc) for pc, v, qc, nc in zip(soft.p, tau, q, n, strict=True)]
            rest = mass - 1
        parts.append([NAN if nan or math.isnan(tc) else v for v, nan, tc in zip(p, hidden, t, strict=True)])
        beside.append(rest)
        gradients.append([NAN if nan or math.isnan(tc) else v for v, nan, tc in zip(g, hidden, t, strict=True)])
    return by_position(options, batch, parts, gradients, beside)


def _beside(p: float, tau: float, log: float) -> float:
    """tau log(tau / p) + p - tau; log is log(tau / p)."""
    if tau == 0:
        return p
    v = (p - tau) / tau
    return tau * eta(v) if abs(v) <= 0.25 else (p - tau) + times(tau, log)


def _limited(v: float, least: float) -> float:
    """v limited to [least, 1]; NaN stays."""
    return least if v < least else 1.0 if v > 1 else v


@implements("CategoricalHinge")
def categorical_hinge(options: Any, batch: Batch) -> Term:
    """CategoricalHinge."""
    values: list[float] = []
    gradients: Rows = []
    for x, t in zip(batch.x, batch.t, strict=True):
        v = [0.0 if tc == 1 else times(1 - tc, xc) for xc, tc in zip(x, t, strict=True)]
        most = max(v)
        k = sum(vc == most for vc in v)
        m = (most - asum([0.0 if tc == 0 else tc * xc for xc, tc in zip(x, t, strict=True)])) + 1
        if any(math.isnan(vc) for vc in v) or math.isnan(m):
            values.append(NAN)
            gradients.append([NAN] * batch.channels)
            continue
        values.append(chop(m) if m > 0 else 0.0)
        g = [((1 - tc) / k if vc == most else 0.0) - tc for vc, tc in zip(v, t, strict=True)]
        gradients.append(g if m >= 0 else [0.0] * batch.channels)
    return Term(values, batch.valid, None, pointwise(gradients))


# ------------------------------------------------------------------------------------------------------------
# Every channel a question of its own


@implements("BinaryCrossEntropy")
def binary_cross_entropy(options: Any, batch: Batch) -> Term:
    """BinaryCrossEntropy."""
    positive = _constants(options.pos_weight, batch.channels)
    weights = _constants(options.class_weights, batch.channels)
    ignored = None if options.ignore_value is None else float32(options.ignore_value)

    def one(channel: int, x: float, t: float) -> tuple[tuple[float, ...], float]:
        if ignored is not None and t == ignored:
            return (0.0, 0.0), 0.0
        outside = options.inputs == "probabilities" and options.clip is None and not 0 <= x <= 1
        if math.isnan(x) or math.isnan(t) or outside:
            return (NAN, NAN), NAN
        smoothed = _smoothed(t, options.label_smoothing, 2)
        alpha = smoothed if positive is None else times(positive[channel], smoothed)
        beta = 1 - smoothed
        if weights is not None:
            alpha, beta = times(weights[channel], alpha), times(weights[channel], beta)
        if options.inputs == "logits":
            s = sigmoid(x)
            yes, no = s.n_plus, s.n_minus
            g = times(beta, s.sigma) - times(alpha, s.sigma_bar)
        elif options.clip is not None:
            at = _clipped(x, 1 - x, options.clip)
            yes, no = 0 - _log(at.p, at.r), 0 - _log(at.r, at.p)
            g = chop(beta / at.r) - chop(alpha / at.p) if at.inside else 0.0
        else:
            yes, no = min(0 - ln_star(x), 100.0), min(0 - ln1p_star(0 - x), 100.0)
            g = (x - smoothed) / max(x * (1 - x), float32(1e-12))
            g = g if weights is None else times(weights[channel], g)
        return (0.0 if alpha == 0 else alpha * yes, 0.0 if beta == 0 else beta * no), g

    return by_element(options, batch, one)


@implements("BinaryFocal")
def binary_focal(options: Any, batch: Batch) -> Term:
    """BinaryFocal."""
    gamma = float32(options.gamma)
    weights = _constants(options.class_weights, batch.channels)

    def one(channel: int, x: float, t: float) -> tuple[tuple[float, ...], float]:
        if math.isnan(x) or math.isnan(t) or (options.inputs == "probabilities" and not 0 <= x <= 1):
            return (NAN,), NAN
        yes = _smoothed(t, options.label_smoothing, 2)
        no = 1 - yes
        a = 1.0
        if options.alpha is not None:
            a = times(float32(options.alpha), yes) + times(float32(1 - options.alpha), no)
        if weights is not None:
            a = weights[channel] if options.alpha is None else times(weights[channel], a)
        if options.inputs == "logits":
            of_x = sigmoid(x)
            sigma, sigma_bar, n_plus, n_minus = of_x.sigma, of_x.sigma_bar, of_x.n_plus, of_x.n_minus
            slope = times(no, sigma) - times(yes, sigma_bar)
            change = times(no - yes, times(sigma, sigma_bar))
        else:
            at = _clipped(x, 1 - x, options.clip)
            sigma, sigma_bar, n_plus, n_minus = x, 1 - x, 0 - _log(at.p, at.r), 0 - _log(at.r, at.p)
            slope = chop(no / at.r) - chop(yes / at.p) if at.inside else 0.0
            change = no - yes
        s = times(yes, sigma_bar) + times(no, sigma)
        f = pow_star(s, gamma)
        b = chop((0.0 if yes == 0 else times(yes, n_plus)) + (0.0 if no == 0 else times(no, n_minus)))
        p = 0.0 if times(a, f) == 0 else times(a, f) * b
        w = 0.0 if s == 0 or gamma == 0 or b == INF else times(gamma, times(f, b / s))
        return (p,), times(a, times(f, slope) + times(w, change))

    return by_element(options, batch, one)


@implements("Poisson")
def poisson(options: Any, batch: Batch) -> Term:
    """Poisson."""
    epsilon = float32(options.epsilon)
    two_pi = float.fromhex("0x1.921fb54442d18p+2")

    def one(channel: int, x: float, t: float) -> tuple[tuple[float, ...], float]:
        if options.inputs == "log_rate":
            rate = ex_star(x)
            p, g = [rate, 0.0 if t == 0 else 0 - t * x], rate - t
        else:
            y = x + epsilon
            p, g = [x, 0.0 if t == 0 else 0 - t * ln_star(y)], 1.0 if t == 0 else 1 - divide(t, y)
        if options.full:
            p += [t * ln_star(t), 0 - t, 0.5 * ln_star(times(t, two_pi))] if t > 1 else [0.0, 0.0, 0.0]
        return tuple(p), g

    return by_element(options, batch, one)


@implements("Hinge", "SquaredHinge")
def hinge(options: Any, batch: Batch) -> Term:
    """Hinge, SquaredHinge."""
    squared = type(options).__name__ == "SquaredHinge"

    def one(channel: int, x: float, t: float) -> tuple[tuple[float, ...], float]:
        side = -1.0 if t == 0 else t
        m = 1 - times(side, x)
        if math.isnan(m):
            return (NAN,), NAN
        if squared:
            return (m * m if m > 0 else 0.0,), times(m, side) * -2 if m > 0 else 0.0
        return (m if m > 0 else 0.0,), 0 - side if m >= 0 else 0.0

    return by_element(options, batch, one)
