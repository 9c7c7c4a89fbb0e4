"""Terms for class labels and probabilities."""

from __future__ import annotations

import numpy as np

from ..spec import (
    BinaryCrossEntropy,
    BinaryFocal,
    CategoricalHinge,
    CrossEntropy,
    Focal,
    Hinge,
    KLDivergence,
    NegativeLogLikelihood,
    Poisson,
    SquaredHinge,
)
from .activations import Clipped, Shares, Sigmoid, Softmax, sum_of_others
from .constants import Reals, float32, float32s
from .core import Found, Inputs, implements, per_channel, pointwise
from .distances import Bound

_TAU = np.longdouble("6.283185307179586476925286766559")


def smooth(t: Reals, smoothing: float, classes: int) -> Reals:
    """`(1 - smoothing) t + smoothing / classes`."""
    return float32(1 - smoothing) * t + float32(smoothing / classes) if smoothing else t


def weighted_log(u: Reals, minus_log: Reals) -> Reals:
    """`u * -log p`, and 0 where `u` is: a class without target counts nothing, even at `p = 0`."""
    return np.where((u == 0) & ~np.isnan(minus_log), 0.0, u * minus_log)


@implements(CrossEntropy, native=Bound(loss=4, map=4, gradient=10))
def cross_entropy(term: CrossEntropy, inputs: Inputs) -> Found:
    """`V = -sum_c u_c log p_c` with `u_c = w_c t'_c`; of logits the gradient is `p_c sum_j u_j - u_c`."""
    w = float32s(term.class_weights, inputs.channels)
    u = w * smooth(inputs.t, term.label_smoothing, inputs.channels)
    mass = None if term.class_weights is None else (w * inputs.t).sum(-1)
    if term.inputs == "logits":
        soft = Softmax.of(inputs.x)
        # p_c sum_j u_j - u_c, the two shares of u_c taken together: for a single class nothing cancels.
        g = soft.p * sum_of_others(u) - u * soft.rest
        return Found(weighted_log(u, soft.minus_log).sum(-1), inputs.valid, pointwise(g), mass)
    shares = Shares.of(inputs.x, term.renormalize == "before")
    clipped = Clipped.of(shares.y, shares.rest, term.clip)
    if term.renormalize == "after":
        others = sum_of_others(clipped.p)
        total = clipped.p + others
        minus_log = np.log1p(others / clipped.p)
        h = (u * others - clipped.p * sum_of_others(u)) / (clipped.p * total)
    else:
        minus_log = clipped.minus_log
        h = u / clipped.p
    g = shares.back(np.where(clipped.inside | np.isnan(u), h, 0.0))
    return Found(weighted_log(u, minus_log).sum(-1), inputs.valid, pointwise(g), mass)


@implements(NegativeLogLikelihood, native=Bound(loss=4, map=5, gradient=2))
def negative_log_likelihood(term: NegativeLogLikelihood, inputs: Inputs) -> Found:
    """`V = -sum_c u_c x_c` with `u_c = w_c t_c`; gradient `-u_c`."""
    u = float32s(term.class_weights, inputs.channels) * inputs.t
    value = np.where(u == 0, 0.0, u * -inputs.x).sum(-1)
    return Found(value, inputs.valid, pointwise(-u), None if term.class_weights is None else u.sum(-1))


@implements(BinaryCrossEntropy, native=Bound(loss=4, map=5, gradient=6))
def binary_cross_entropy(term: BinaryCrossEntropy, inputs: Inputs) -> Found:
    """`-a log p - b log(1 - p)`; of logits the gradient is `b p - a (1 - p)`."""
    x, t, w = inputs.x, inputs.t, float32s(term.class_weights, inputs.channels)
    smoothed = smooth(t, term.label_smoothing, 2)
    a = w * float32s(term.pos_weight, inputs.channels) * smoothed
    b = w * (1 - smoothed)
    if term.inputs == "logits":
        made = Sigmoid.of(x)
        minus_log, minus_log_rest, g = made.minus_log, made.minus_log_rest, b * made.p - a * made.rest
    elif term.clip is None:
        off = np.isnan(x) | (x < 0) | (x > 1)
        minus_log, minus_log_rest = (np.where(off, np.nan, np.minimum(v, 100)) for v in (-np.log(x), -np.log1p(-x)))
        g = np.where(off, np.nan, w * (x - smoothed) / np.maximum(x * (1 - x), float32(1e-12)))
    else:
        clipped = Clipped.of(x, 1 - x, term.clip)
        minus_log, minus_log_rest = clipped.minus_log, clipped.minus_log_rest
        g = np.where(clipped.inside | np.isnan(x + t), b / clipped.rest - a / clipped.p, 0.0)
    value = weighted_log(a, minus_log) + weighted_log(b, minus_log_rest)
    if term.ignore_value is not None:
        ignored = t == float32(term.ignore_value)
        value, g = np.where(ignored, 0.0, value), np.where(ignored, 0.0, g)
    return per_channel(term, inputs, value, g)


@implements(Focal, native=Bound(loss=8, map=5, gradient=10))
def focal(term: Focal, inputs: Inputs) -> Found:
    """`sum_c A_c F(p_c)` with `F(p) = (1 - p)^gamma * -log p`.

    Its derivative is `-gamma (1 - p)^(gamma - 1) * -log p - (1 - p)^gamma / p`.
    """
    gamma = float32(term.gamma)
    a = float32s(term.alpha, inputs.channels) * smooth(inputs.t, term.label_smoothing, inputs.channels)

    def powers(p: Reals, rest: Reals, minus_log: Reals) -> tuple[Reals, Reals]:
        """`(1 - p)^gamma` and its part in `-F'`, which vanishes at `p = 1` and does not count at `p = 0`."""
        f = rest**gamma
        slope = np.where((rest == 0) | (gamma == 0) | (p == 0), 0.0, gamma * f * (minus_log / rest))
        return f, slope

    if term.inputs == "logits" and not term.clip_softmax:
        soft = Softmax.of(inputs.x)
        f, slope = powers(soft.p, soft.rest, soft.minus_log)
        e = np.where(a == 0, 0.0, a * (soft.p * slope + f))
        value = weighted_log(a, f * soft.minus_log)
        g = np.where(np.isnan(soft.p), np.nan, soft.p * sum_of_others(e) - e * soft.rest)
        return per_channel(term, inputs, value, g)

    if term.inputs == "logits":
        soft = Softmax.of(inputs.x)
        y, rest = soft.p, soft.rest
    else:
        shares = Shares.of(inputs.x, term.renormalize)
        y, rest = shares.y, shares.rest
    clipped = Clipped.of(y, rest, term.clip)
    f, slope = powers(clipped.p, clipped.rest, clipped.minus_log)
    h = np.where((a != 0) & (clipped.inside | np.isnan(a)), a * (slope + f / clipped.p), 0.0)
    value = weighted_log(a, f * clipped.minus_log)
    if term.inputs != "logits":
        return per_channel(term, inputs, value, shares.back(h))
    g = np.where(np.isnan(y), np.nan, soft.back(-h))
    return per_channel(term, inputs, value, g)


@implements(BinaryFocal, native=Bound(loss=4, map=6, gradient=8))
def binary_focal(term: BinaryFocal, inputs: Inputs) -> Found:
    """`a s^gamma b`: `b` the binary cross-entropy, `s = t' (1 - p) + (1 - t') p` what the answer lacks to 1."""
    x, gamma, w = inputs.x, float32(term.gamma), float32s(term.class_weights, inputs.channels)
    t = smooth(inputs.t, term.label_smoothing, 2)
    a = w if term.alpha is None else w * (float32(term.alpha) * t + float32(1 - term.alpha) * (1 - t))
    if term.inputs == "logits":
        made = Sigmoid.of(x)
        p, rest, bent = made.p, made.rest, made.p * made.rest  # bent: the derivative of p
        minus_log, minus_log_rest = made.minus_log, made.minus_log_rest
        z = (1 - t) * p - t * rest
    else:
        p, rest, bent = x, 1 - x, np.ones_like(x)
        clipped = Clipped.of(x, rest, term.clip)
        minus_log, minus_log_rest = clipped.minus_log, clipped.minus_log_rest
        z = np.where(clipped.inside, (1 - t) / clipped.rest - t / clipped.p, 0.0)
    b = weighted_log(t, minus_log) + weighted_log(1 - t, minus_log_rest)
    s = t * rest + (1 - t) * p
    f = s**gamma
    value = np.where(a * f == 0, 0.0, a * f * b)
    # At infinite logits b grows slower than the derivative of p falls.
    slope = np.where((s == 0) | (gamma == 0) | (b == np.inf), 0.0, gamma * f * (b / s))
    g = a * (f * z + slope * ((1 - t) - t) * bent)
    off = np.isnan(x) | ((x < 0) | (x > 1) if term.inputs == "probabilities" else False)
    return per_channel(term, inputs, np.where(off, np.nan, value), np.where(off, np.nan, g))


@implements(KLDivergence, native=Bound(loss=4, map=6, gradient=8))
def kl_divergence(term: KLDivergence, inputs: Inputs) -> Found:
    """`sum_c tau_c (log tau_c - log p_c)`; of logits the gradient is `p_c sum_j tau_j - tau_c`."""
    x, t = inputs.x, inputs.t
    tau, log_tau = (np.exp(t), t) if term.log_target else (np.where(t <= 0, 0.0, t), np.log(np.maximum(t, 0)))
    if term.inputs == "logits":
        soft = Softmax.of(x)
        bad, minus_log = np.isnan(soft.p), soft.minus_log
        g = np.where(bad, np.nan, soft.p * sum_of_others(tau) - tau * soft.rest)
    elif term.inputs == "log_probabilities":
        bad, minus_log, g = np.zeros(x.shape, bool), -x, -tau
    else:
        low = float32(term.clip)
        tau, y = np.clip(t, low, 1), np.clip(x, low, 1)
        bad, minus_log, log_tau = np.isnan(x) | np.isnan(t), -np.log(y), np.log(tau)
        g = np.where((x >= low) & (x <= 1), -tau / y, np.where(bad, np.nan, 0.0))
    value = np.where(tau == 0, 0.0, tau * (log_tau + minus_log))
    if term.inputs == "logits":
        # The sum of tau log(tau / p) + p - tau is larger by 1 - sum tau; near p = tau it does not cancel.
        total = tau.sum(-1, keepdims=True)
        u = np.divide(soft.p - tau, tau, out=np.zeros_like(tau), where=tau > 0)
        close = np.where(tau == 0, soft.p, tau * (u - np.log1p(u)))
        close = np.where(np.abs(u) < 0.5, close, value + (soft.p - tau))
        close[..., :1] += total - 1
        value = np.where((total > 0.4) & (total < 3), close, value)
    return per_channel(term, inputs, np.where(bad | np.isnan(t), np.nan, value), g)


@implements(Poisson, native=Bound(loss=4, map=5, gradient=5))
def poisson(term: Poisson, inputs: Inputs) -> Found:
    """`rate - t log rate`; of a rate `x` the logarithm is that of `x + epsilon`."""
    x, t = inputs.x, inputs.t
    above = x + float32(term.epsilon)
    rate, log_rate = (np.exp(x), x) if term.inputs == "log_rate" else (x, np.log(above))
    value = rate - np.where(t == 0, 0.0, t * log_rate)
    if term.full:
        value = value + np.where(t > 1, t * np.log(t) - t + np.log(_TAU * t) / 2, 0.0)
    g = rate - t if term.inputs == "log_rate" else 1 - np.where(t == 0, 0.0, t / above)
    return per_channel(term, inputs, value, g)


def _margins(inputs: Inputs) -> tuple[Reals, Reals]:
    """The targets with -1 for 0, and `1 - t x`."""
    t = np.where(inputs.t == 0, -1.0, inputs.t)
    return t, 1 - t * inputs.x


@implements(Hinge, native=Bound(loss=2, map=4, gradient=2))
def hinge(term: Hinge, inputs: Inputs) -> Found:
    """`max(0, m)`, `m = 1 - t x`; on the margin the gradient is that inside."""
    t, m = _margins(inputs)
    return per_channel(term, inputs, np.maximum(m, 0), np.where(m < 0, 0.0, np.where(np.isnan(m), m, -t)))


@implements(SquaredHinge, native=Bound(loss=2, map=4, gradient=3))
def squared_hinge(term: SquaredHinge, inputs: Inputs) -> Found:
    """`max(0, m)^2`, `m = 1 - t x`."""
    t, m = _margins(inputs)
    short = np.maximum(m, 0)
    return per_channel(term, inputs, short**2, np.where(m <= 0, 0.0, -2 * short * t))


@implements(CategoricalHinge, native=Bound(loss=5, map=3, gradient=3))
def categorical_hinge(term: CategoricalHinge, inputs: Inputs) -> Found:
    """`max(0, 1 + max_c (1 - t_c) x_c - sum_c t_c x_c)`; classes that tie for the maximum share its gradient."""
    x, t = inputs.x, inputs.t
    # The right class counts in the maximum as 0 even at infinity, and wrong ones nothing in the sum.
    wrong = np.where(t == 1, 0.0, (1 - t) * x)
    best = wrong.max(-1, keepdims=True)
    m = 1 + best - np.where(t == 0, 0.0, t * x).sum(-1, keepdims=True)
    ties = wrong == best
    g = np.where(ties, (1 - t) / ties.sum(-1, keepdims=True), 0.0) - t
    g = np.where(m < 0, 0.0, np.where(np.isnan(m), np.nan, g))
    return Found(np.maximum(m, 0)[..., 0], inputs.valid, pointwise(g))
