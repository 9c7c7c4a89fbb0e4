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
    if len(known) < 4 or not math.isfinite(known[0][1]) or known[0][1] == 0:
        return []
    scale = known[0][1]
    found: list[tuple[Part, ...]] = []
    scaled: list[tuple[Part, ...]] = []
    columns: list[tuple[Part, Array]] = []
    fitted = [k for k, (p, v) in enumerate(known) if p.group in FITTED and math.isfinite(v)][:14]
    for family in FAMILIES:
        if not family.applies(case):
            continue
        for options in family.variants(case, settings):
            part = Part(1.0, family, options)
            first = part.value(known[0][0], activation)
            if near(scale, first, scale):
                found.append((part,))
            elif math.isfinite(first) and first != 0:
                factor = scale / first
                second = factor * part.value(known[1][0], activation)
                if near(known[1][1], second, scale):
                    scaled.append((Part(factor, family, options),))
    best = _ranked(case, activation, known, scale, found)[:200] + _ranked(case, activation, known, scale, scaled)[:200]
    best.sort(key=lambda one: (-len(one.explained), one.deviations))
    if not best or len(best[0].explained) < 0.5 * len(known):
        for family in FAMILIES:
            if family.applies(case):
                for options in family.variants(case, settings):
                    if _composable(family, options):
                        part = Part(1.0, family, options)
                        columns.append((part, np.array([part.value(known[k][0], activation) for k in fitted])))
        pairs = _pairs(columns, np.array([known[k][1] for k in fitted]))
        best = best + _ranked(case, activation, known, scale, pairs)
    best = [one for one in best if len(one.explained) >= 0.5 * len(known)]
    best.sort(key=lambda one: (-len(one.explained), len(one.parts), one.deviations))
    return best[:300]


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


def _pairs(columns: Sequence[tuple[Part, Array]], values: Array) -> list[tuple[Part, ...]]:
    """Two formulas whose sum, with factors, gives the values."""
    columns = [(part, column) for part, column in columns if np.isfinite(column).all() and column.any()]
    if len(columns) < 2 or len(values) < 5:
        return []
    weight = 1.0 / np.maximum(np.abs(values), 1e-3 * np.abs(values).max())
    v = values * weight
    m = np.array([column * weight for _, column in columns])
    families = np.array([id(part.family) for part, _ in columns])
    size = (m * m).sum(1)
    b = m @ v
    whole = v @ v
    found = []
    for i in range(len(columns)):
        others = np.flatnonzero(families[i + 1 :] != families[i]) + i + 1
        if not len(others):
            continue
        g = m[others] @ m[i]
        det = size[i] * size[others] - g * g
        with np.errstate(all="ignore"):
            p = (size[others] * b[i] - g * b[others]) / det
            q = (size[i] * b[others] - g * b[i]) / det
            rest = whole - p * b[i] - q * b[others]
        good = np.flatnonzero((rest < 1e-8 * whole) & (det > 1e-9 * size[i] * size[others]))
        for k in good:
            j = others[k]
            residual = m[i] * p[k] + m[j] * q[k] - v
            if np.abs(residual).max() < 2e-5:
                found.append((p[k], i, q[k], j))
    parts = []
    for p, i, q, j in found[:2000]:
        pair = []
        for factor, place in ((float(p), i), (float(q), int(j))):
            part = columns[place][0]
            pair.append(Part(rounded(factor), part.family, part.options))
        parts.append(tuple(pair))
    return parts


def rounded(factor: float) -> float:
    """The short number that was meant, if there is one."""
    for digits in range(1, 5):
        short = float(f"{factor:.{digits}g}")
        if abs(short - factor) <= 2e-5 * abs(factor):
            return short
    return factor
