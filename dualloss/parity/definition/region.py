"""The terms of docs/numerics/region.md."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .activations import Activated, activate
from .arithmetic import NAN, asum, chop, exact_sum, float32, ln1p_star, ln_star, pow_star, times
from .core import Batch, Ratio, Rows, implements


def _samples(batch: Batch, per_sample: bool) -> list[range]:
    """The positions of each sample, or of the batch."""
    if not per_sample:
        return [range(batch.n)]
    size = batch.n // batch.shape[0] if batch.n else 0
    return [range(b * size, (b + 1) * size) for b in range(batch.shape[0])]


def _zeros(batch: Batch) -> Rows:
    return [[0.0] * batch.channels for _ in batch.x]


# ------------------------------------------------------------------------------------------------------------
# Ratios of sums


@dataclass(frozen=True)
class _Element:
    """A position and class of a group."""

    i: int
    c: int
    p: float
    r: float
    t: float
    u: float
    s: float | None


@dataclass(frozen=True)
class _Group:
    """A group with its score: A and φ under the class weight, B₁ and B₂ of the gradient."""

    elements: list[_Element]  # at positions that count
    classes: list[int]
    counts: bool
    a: float
    phi: float
    b1: float
    b2: float


def _element(i: int, c: int, activated: Activated, batch: Batch) -> _Element:
    p, r, t = chop(activated.p[i][c]), chop(activated.rest[i][c]), batch.t[i][c]
    u = chop((1 - t) - r if p > r else p - t)
    return _Element(i, c, p, r, t, u, None if batch.weights is None else batch.weights[i])


def _overlaps(options: Any, e: _Element) -> tuple[float, float, float, float]:
    """I, X, Y and T of an element."""
    if options.overlap == "minimum":
        if math.isnan(e.u):
            return NAN, NAN, NAN, e.t
        return e.p if e.u < 0 else e.t, e.u if e.u > 0 else 0.0, -e.u if e.u < 0 else 0.0, e.t
    if options.squared:
        return times(e.p, e.t), times(e.u, e.u), times(e.p, e.u), e.t
    return times(e.p, e.t), times(e.p, 1 - e.t), times(e.t, e.r), e.t


def _group(options: Any, classes: list[int], elements: list[_Element]) -> _Group:
    """Score and loss of a group."""
    kind = type(options).__name__
    alpha, beta = (1.0, 1.0) if kind in ("Dice", "Jaccard") else (float32(options.alpha), float32(options.beta))
    kappa = 2 if kind == "Dice" else 1
    eta = float32(options.smooth)
    eta_below = eta if options.smooth_denominator is None else float32(options.smooth_denominator)
    epsilon = float32(options.epsilon)

    weighted = []
    for e in elements:
        row = _overlaps(options, e)
        if e.s is not None:
            row = (0.0, 0.0, 0.0, 0.0) if e.s == 0 else tuple(times(e.s, v) for v in row)  # type: ignore[assignment]
        weighted.append(row)
    i, x, y, t = (exact_sum(row[k] for row in weighted) for k in range(4))

    a, b = (beta, alpha - beta) if options.squared else (alpha, beta)
    errors = chop(times(a, x) + times(b, y))
    d = chop(kappa * i + errors) + eta_below
    low = d < epsilon or d == 0
    below = epsilon if low else d
    score = (kappa * i + eta) / below if below else 0.0
    loss = 1 - score if low else (errors + (eta_below - eta)) / below

    value, phi = loss, 1.0
    if options.log:
        value = 0 - ln1p_star(0 - loss) if loss <= 0.25 else 0 - ln_star(score)
        if score < epsilon:
            value, phi = 0 - ln_star(epsilon), 0.0
        else:
            phi = 1 / score
    if kind == "FocalTversky" and not options.power_of_mean:
        value, slope = _power(value, float32(options.gamma))
        phi = times(phi, slope)
    counts = True
    if t == 0 and options.empty_class != "keep":
        value = phi = 0.0
        counts = options.empty_class == "zero"
    if options.class_weights is not None:
        w = float32(options.class_weights[classes[0]])
        value, phi = times(w, value), times(w, phi)

    if low:
        b1, b2 = 0.0, chop(kappa / below) if below else 0.0
    else:
        other = beta - alpha if options.squared else beta
        b1, b2 = chop(times(score, alpha) / below), chop((kappa * loss + times(score, other)) / below)
    return _Group(elements, classes, counts, value, phi, b1, b2)


def _power(base: float, gamma: float) -> tuple[float, float]:
    """The power, and what its derivative is by the page; both 0 for a base that is not above 0."""
    if base <= 0:
        return 0.0, 0.0
    value = pow_star(base, gamma)
    return value, times(gamma, value / base)


@implements("Dice", "Jaccard", "Tversky", "FocalTversky")
def region(options: Any, batch: Batch) -> Ratio:
    """Groups and sums, Score and loss of a group, Gradient."""
    activated = activate(options.activation, batch)
    chosen = range(batch.channels) if options.classes is None else options.classes
    counted = [c for c in chosen if c or options.background]
    groups = []
    for sample in _samples(batch, options.per_sample):
        for classes in [[c] for c in counted] if options.per_class else [counted]:
            elements = [_element(i, c, activated, batch) for i in sample if batch.valid[i] for c in classes]
            groups.append(_group(options, classes, elements))
    counting = [group for group in groups if group.counts]
    powered = type(options).__name__ == "FocalTversky" and options.power_of_mean

    def reduced(reduction: str) -> tuple[float, float]:
        """M, before a power, and R."""
        if options.per_sample:
            total = exact_sum(group.a for group in counting)
        elif options.per_class:
            of_class = {group.classes[0]: group.a for group in counting}
            total = asum([of_class.get(c, 0.0) for c in range(batch.channels)])
        else:
            total = asum([group.a if group.counts else 0.0 for group in groups])
        if not counting:
            return 0.0, 0.0
        return (total, 1.0) if reduction == "sum" else (total / len(counting), 1 / len(counting))

    def value(reduction: str) -> float:
        m, _ = reduced(reduction)
        return _power(m, float32(options.gamma))[0] if powered else m

    def gradient(w: float, reduction: str) -> Rows:
        m, r = reduced(reduction)
        h = _zeros(batch)
        for group in counting:
            phi = times(group.phi, _power(m, float32(options.gamma))[1]) if powered else group.phi
            psi = times(w, times(r, phi))
            for e in group.elements:
                if psi != 0 and e.s != 0:
                    slope = times(psi, _slope(options, group, e))
                    h[e.i][e.c] = slope if e.s is None else times(e.s, slope)
        return activated.back(h)

    return Ratio(value, gradient)


def _slope(options: Any, group: _Group, e: _Element) -> float:
    """H before ψ."""
    if options.squared:
        return times(group.b1 * 2, e.u) - times(group.b2, e.t)
    delta = e.t
    if options.overlap == "minimum":
        delta = 1.0 if e.u < 0 else 0.0 if e.u > 0 else 0.5
    return times(group.b1, 1 - delta) - times(group.b2, delta)


# ------------------------------------------------------------------------------------------------------------
# Lovasz


@dataclass(frozen=True)
class _Error:
    """The error of a position: v, e, and t, which is 0 or 1."""

    i: int
    v: float
    e: float
    t: int


def _errors(options: Any, activated: Activated, batch: Batch, c: int, positions: Iterable[int]) -> list[_Error]:
    """In their order."""
    errors = []
    for i in positions:
        t = 1 if batch.t[i][c] > 0.5 else 0
        if options.activation == "hinge":
            v = chop(1 - times(2 * t - 1, batch.x[i][c]))
            v = 0.0 if v < 0 else v
        else:
            v = chop(activated.rest[i][c] if t else activated.p[i][c])
        errors.append(_Error(i, v, NAN if math.isnan(batch.t[i][c]) else abs(v), t))
    return sorted(errors, key=lambda error: (not math.isnan(error.e), 0 if math.isnan(error.e) else -error.e, error.i))


def _steps(errors: list[_Error]) -> list[float]:
    """Δ."""
    total, found, steps = sum(error.t for error in errors), 0, []
    for k, error in enumerate(errors, start=1):
        found += error.t
        union, intersection = total + k - found, total - found
        if error.t:
            steps.append(1 / union)
        elif total:
            steps.append(intersection / (union * (union - 1)))
        else:
            steps.append(1.0 if k == 1 else 0.0)
    return steps


def _product(e: float, step: float) -> float:
    """What an error adds."""
    return 0.0 if step == 0 and not math.isnan(e) else times(e, step)


@implements("Lovasz")
def lovasz(options: Any, batch: Batch) -> Ratio:
    """Lovasz."""
    if batch.weights is not None:
        raise ValueError("sample_weight with Lovasz, expected none, or a boolean mask")
    activated = activate("none" if options.activation == "hinge" else options.activation, batch)
    samples = []  # by sample and class that counts: the errors and their steps
    for sample in _samples(batch, options.per_sample):
        valid = [i for i in sample if batch.valid[i]]
        by_class = {c: _errors(options, activated, batch, c, valid) for c in range(batch.channels)}
        samples.append(
            {
                c: (errors, _steps(errors))
                for c, errors in by_class.items()
                if options.classes == "all" or any(error.t or math.isnan(batch.t[error.i][c]) for error in errors)
            }
        )

    def mean(by_class: dict[int, tuple[list[_Error], list[float]]]) -> float:
        """Of the classes of a sample."""
        if not by_class:
            return 0.0
        of_class = {
            c: exact_sum(_product(error.e, step) for error, step in zip(*pair, strict=True))
            for c, pair in by_class.items()
        }
        return asum([of_class.get(c, 0.0) for c in range(batch.channels)]) / len(by_class)

    def value(reduction: str) -> float:
        total = exact_sum(mean(by_class) for by_class in samples)
        return total / len(samples) if samples and reduction == "mean" else total

    def gradient(w: float, reduction: str) -> Rows:
        h = _zeros(batch)
        for by_class in samples:
            for c, (errors, steps) in by_class.items():
                r = 1 / len(by_class)
                if options.per_sample and reduction == "mean":
                    r = times(r, 1 / len(samples))
                psi = times(w, r)
                for error, step in zip(errors, steps, strict=True):
                    rising = bool(error.t == 0) != bool(error.v < 0)  # whether the error grows with p
                    if math.isnan(error.e):
                        h[error.i][c] = NAN
                    elif error.e != 0:
                        h[error.i][c] = times(psi, step if rising else -step)
        return activated.back(h)

    return Ratio(value, gradient)
