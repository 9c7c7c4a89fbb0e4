"""What a loss computes: the formula, with its conventions, that gives its values on the probes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .case import Case
from .formulas import FAMILIES, Family
from .probes import FULL, Array, Probe
from .runner import Observation

RELATIVE = 1e-5
"""How far a loss in float32 may be from its formula, of the value."""
ABSOLUTE = 4e-6
"""The same of the loss of the first probe: what cancels is off by as much."""
OTHER = ("precision", "labels", "shapes", "not finite", "upstream", FULL)
"""Groups of probes of which formulas say nothing."""


@dataclass(frozen=True)
class Part:
    """A formula with its options and its factor."""

    factor: float
    family: Family
    options: Mapping[str, Any]

    def value(self, probe: Probe, activation: str) -> float:
        """The part of the loss."""
        with np.errstate(all="ignore"):
            try:
                return self.factor * self.family.value(probe, activation, **self.options)
            except (IndexError, ValueError):
                return math.nan

    def deviations(self) -> int:
        """How many options are not the plain definition's."""
        return sum(value != self.family.options[name][0] for name, value in self.options.items()) + (self.factor != 1.0)


@dataclass(frozen=True)
class Identity:
    """What a loss computes.

    Attributes:
        parts: the formulas that add up to it.
        explained: the names of the probes whose values they give.
        unexplained: of those that they do not.
    """

    parts: tuple[Part, ...]
    explained: tuple[str, ...]
    unexplained: tuple[str, ...]

    def value(self, probe: Probe, activation: str) -> float:
        """The loss, float64."""
        return sum(part.value(probe, activation) for part in self.parts)

    def gradient(self, probe: Probe, activation: str, step: float = 1e-5) -> Array:
        """The derivative by the input, by central differences."""
        x = probe.x.astype(np.float64)
        found = np.empty(x.shape)
        for place in np.ndindex(*x.shape):
            pair = []
            for sign in (1.0, -1.0):
                moved = x.copy()
                moved[place] += sign * step
                pair.append(self.value(_with(probe, moved), activation))
            found[place] = (pair[0] - pair[1]) / (2 * step)
        return found * probe.upstream

    @property
    def deviations(self) -> int:
        """How many options are not the plain definition's."""
        return sum(part.deviations() for part in self.parts)


def _with(probe: Probe, x: Array) -> Probe:
    from dataclasses import replace

    return replace(probe, x=x)


def near(found: float, expected: float, scale: float) -> bool:
    """Whether a loss in float32 can be this number."""
    if math.isnan(expected) or math.isnan(found):
        return math.isnan(expected) and math.isnan(found)
    if math.isinf(expected) or math.isinf(found):
        return expected == found
    return abs(found - expected) <= RELATIVE * abs(expected) + ABSOLUTE * abs(scale)


def identify(
    case: Case, activation: str, probes: Sequence[Probe], seen: Sequence[Observation],
    settings: Sequence[Mapping[str, Any]],
) -> list[Identity]:  # fmt: skip
    """The formulas that explain most of what was seen, at most a few hundred, the best first; empty: there are none."""
    known = [(p, o.value) for p, o in zip(probes, seen, strict=True) if o.value is not None and p.group not in OTHER]
    known.sort(key=lambda pair: not math.isfinite(pair[1]) or pair[1] == 0)  # numbers first
    if len(known) < 4 or not all(math.isfinite(v) and v != 0 for _, v in known[:2]):
        return []
    scale = known[0][1]
    found: list[tuple[Part, ...]] = []
    scaled: list[tuple[Part, ...]] = []
    fitted = [k for k, (p, v) in enumerate(known) if p.group in FITTED and math.isfinite(v)][:14]
    for family in FAMILIES:
        if not family.applies(case):
            continue
        for options in family.variants(case, settings):
            part = Part(1.0, family, options)
            first = part.value(known[0][0], activation)
            if near(scale, first, scale):
                found.append((part,))
                continue
            if family.linear is not None and options[family.linear] == family.options[family.linear][0]:
                found += _solved(part, first, known, activation)
            if math.isfinite(first) and first != 0:
                factor = scale / first
                second = factor * part.value(known[1][0], activation)
                if near(known[1][1], second, scale):
                    scaled.append((Part(factor, family, options),))
    best = _ranked(case, activation, known, scale, found)[:200] + _ranked(case, activation, known, scale, scaled)[:200]
    best.sort(key=lambda one: (-len(one.explained), one.deviations))
    if not best or len(best[0].explained) < 0.5 * len(known):
        parts = [
            Part(1.0, family, options)
            for family in FAMILIES if family.applies(case)
            for options in family.variants(case, settings) if _composable(family, options)
        ]  # fmt: skip
        pairs = _pairs(parts, [known[k] for k in fitted], activation)
        best = best + _ranked(case, activation, known, scale, pairs)
    best = [one for one in best if len(one.explained) >= 0.5 * len(known)]
    best.sort(key=lambda one: (-len(one.explained), len(one.parts), one.deviations))
    return best[:300]


def _solved(part: Part, first: float, known: Sequence[tuple[Probe, float]], activation: str) -> list[tuple[Part, ...]]:
    """The formula with the number that gives the first loss, of which it is a linear function; if it gives others."""
    name = part.family.linear
    assert name is not None
    plain = part.options[name]
    other = Part(1.0, part.family, {**part.options, name: plain + 1.0})
    slope = other.value(known[0][0], activation) - first
    if not math.isfinite(slope) or slope == 0:
        return []
    number = rounded(plain + (known[0][1] - first) / slope)
    solved = Part(1.0, part.family, {**part.options, name: number})
    most = 1.0 if name == "smoothing" else math.inf
    if not 0 < number < most or not near(known[1][1], solved.value(known[1][0], activation), known[0][1]):
        return []
    return [(solved,)]


FITTED = ("scale", "order", "parts", "border", "masks", "sizes", "ties")
"""Groups of probes on which two formulas are fitted."""


def _composable(family: Family, options: Mapping[str, Any]) -> bool:
    """Whether a formula may be a part of a sum: only with its commonest conventions, else there are too many."""
    rare = sum(value != family.options[name][0] for name, value in options.items())
    return rare <= 3


def _ranked(
    case: Case, activation: str, known: Sequence[tuple[Probe, float]], scale: float, found: Sequence[tuple[Part, ...]]
) -> list[Identity]:
    ranked = []
    for parts in found:
        yes: list[str] = []
        no: list[str] = []
        for probe, value in known:
            expected = sum(part.value(probe, activation) for part in parts)
            (yes if near(value, expected, scale) else no).append(probe.name)
        ranked.append(Identity(parts, tuple(yes), tuple(no)))
    ranked.sort(key=lambda one: (-len(one.explained), one.deviations))
    return ranked


def _pairs(parts: Sequence[Part], known: Sequence[tuple[Probe, float]], activation: str) -> list[tuple[Part, ...]]:
    """Two formulas whose sum, with factors, gives the values: first on a few probes, then on all of them."""
    few = known[:FEW]
    if len(few) < FEW:
        return []
    values = np.array([value for _, value in few])
    columns = np.array([[part.value(probe, activation) for probe, _ in few] for part in parts])
    usable = np.flatnonzero(np.isfinite(columns).all(1) & columns.any(1))
    whole: dict[int, Array] = {}

    def column(k: int) -> Array:
        if k not in whole:
            rest = [parts[k].value(probe, activation) for probe, _ in known[FEW:]]
            whole[k] = np.array([*columns[k], *rest])
        return whole[k]

    every = np.array([value for _, value in known])
    weight = _weights(every)
    found: list[tuple[Part, ...]] = []
    for one, other in _fitting(columns[usable], [id(parts[int(k)].family) for k in usable], values):
        i, j = int(usable[one]), int(usable[other])
        both = np.stack([column(i), column(j)], 1) * weight[:, None]
        if not np.isfinite(both).all():
            continue
        factors = np.linalg.lstsq(both, every * weight, rcond=None)[0]
        if np.abs(both @ factors - every * weight).max() < 2e-5:
            found.append(tuple(
                Part(rounded(float(factor)), parts[k].family, parts[k].options)
                for factor, k in zip(factors, (i, j), strict=True)
            ))  # fmt: skip
    return found


FEW = 6
"""Probes on which pairs of formulas are looked for."""


def _weights(values: Array) -> Array:
    """Small losses count as much as large ones, but for those that are next to nothing."""
    return np.asarray(1.0 / np.maximum(np.abs(values), 1e-3 * np.abs(values).max()))


def _fitting(columns: Array, families: Sequence[int], values: Array, most: int = 2000) -> list[tuple[int, int]]:
    """The pairs of columns, of different families, of which a linear combination is nearest to the values."""
    weight = _weights(values)
    v, m, kinds = values * weight, columns * weight, np.array(families)
    size, b, whole = (m * m).sum(1), m @ v, float(v @ v)
    found: list[tuple[float, int, int]] = []
    for i in range(len(m)):
        others = np.flatnonzero(kinds[i + 1 :] != kinds[i]) + i + 1
        if not len(others):
            continue
        g = m[others] @ m[i]
        det = size[i] * size[others] - g * g
        with np.errstate(all="ignore"):
            p = (size[others] * b[i] - g * b[others]) / det
            q = (size[i] * b[others] - g * b[i]) / det
            rest = whole - p * b[i] - q * b[others]
        good = np.flatnonzero((rest < 1e-8 * whole) & (det > 1e-9 * size[i] * size[others]))
        found += [(float(rest[k]), i, int(others[k])) for k in good]
    return [(i, j) for _, i, j in sorted(found)[:most]]


def rounded(factor: float) -> float:
    """The short number that was meant, if there is one."""
    for digits in range(1, 5):
        short = float(f"{factor:.{digits}g}")
        if abs(short - factor) <= 2e-5 * abs(factor):
            return short
    return factor
