"""From what was seen to what causes it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .causes import CAUSES, Cause, Difference, Evidence, Match
from .identify import ABSOLUTE, RELATIVE, Identity, Part, near
from .probes import Array, Probe
from .runner import Observation

GRADIENT = 2e-5
"""How far gradients of float32 losses may be apart, of their largest element."""


@dataclass(frozen=True)
class Finding:
    """A cause that was found.

    Attributes:
        cause: which one.
        detail: what it is here.
        shows: the probes on which it makes a difference.
        mends: those that agree once it alone is mended.
        score: how much of what differs it explains, 1: all of it; times how much the cause says.
        edge: whether it makes no difference between losses.
    """

    cause: Cause
    detail: str
    shows: tuple[str, ...]
    mends: tuple[str, ...]
    score: float
    edge: bool = False


def ulp(a: float, b: float) -> float:
    """How far two numbers are apart in units in the last place of float32; inf where only one is finite."""
    if (math.isnan(a) and math.isnan(b)) or a == b:
        return 0.0
    if not (math.isfinite(a) and math.isfinite(b)):
        return math.inf
    size = max(abs(a), abs(b), 2.0**-126)
    return abs(a - b) / 2.0 ** (math.floor(math.log2(size)) - 23)


def gradient_ulp(a: Array, b: Array) -> float:
    """The same of two gradients, relative to the largest element; inf where NaN or inf stand at different places."""
    if a.shape != b.shape:
        return math.inf
    fine = np.isfinite(a)
    if (fine != np.isfinite(b)).any() or not np.array_equal(a[~fine], b[~fine], equal_nan=True):
        return math.inf
    if not fine.any():
        return 0.0
    largest = float(max(np.abs(a[fine]).max(), np.abs(b[fine]).max(), 2.0**-126))
    return float(np.abs(a[fine] - b[fine]).max()) / 2.0 ** (math.floor(math.log2(largest)) - 23)


def same_value(probe: Probe, a: Observation, b: Observation, scale: float) -> bool:
    """Whether two losses are the same but for rounding."""
    if a.error is not None or b.error is not None:
        return a.error is not None and b.error is not None
    if a.value is None or b.value is None:
        return a.value is b.value
    if probe.dtype == "float16":
        fine = math.isfinite(a.value) and math.isfinite(b.value)
        return (
            abs(a.value - b.value) <= 2e-3 * max(abs(a.value), abs(b.value), abs(scale))
            if fine
            else ulp(a.value, b.value) == 0
        )
    return near(a.value, b.value, scale)


def same_gradient(probe: Probe, a: Observation, b: Observation, scale: float) -> bool:
    """The same of their gradients; `scale` is the largest element of the first probe's."""
    if a.gradient is None or b.gradient is None:
        return (a.gradient is None) == (b.gradient is None) or a.error is not None or b.error is not None
    if gradient_ulp(a.gradient, b.gradient) == math.inf:
        return False
    fine = np.isfinite(a.gradient)
    if not fine.any():
        return True
    largest = max(np.abs(a.gradient[fine]).max(), np.abs(b.gradient[fine]).max())
    allowed = (4e-3 if probe.dtype == "float16" else GRADIENT) * largest + GRADIENT * scale
    return bool(np.abs(a.gradient[fine] - b.gradient[fine]).max() <= allowed)


COST = {"formula": 5, "term": 3}
"""How unlikely a difference is, against one in an option."""
READS = {
    ("softmax", "probabilities"): "logits", ("softmax", "logits"): "logits, softmax twice",
    ("log-softmax", "log-probabilities"): "logits", ("sigmoid", "probabilities"): "logits",
    ("sigmoid", "logits"): "logits, sigmoid twice",
}  # fmt: skip
"""What a formula makes of the model's own numbers, by the activation before it and what it reads."""


def differences(a: Identity, b: Identity, before: tuple[str, str] = ("none", "none")) -> list[Difference]:
    """In what two formulas differ, after these activations."""
    found = []
    left = list(b.parts)
    for part in a.parts:
        twin = next((other for other in left if other.family is part.family), None)
        if twin is None:
            if len(a.parts) == len(b.parts) == 1:
                other = left.pop()
                found.append(Difference("", "formula", described(part), described(other), part.options, other.options))
            else:
                found.append(
                    Difference(part.family.name, "term", described(part), "none of it", part.options, part.options)
                )
            continue
        left.remove(twin)
        for option, value in part.options.items():
            if option == "reads":
                one, two = (
                    READS.get((act, p.options[option]), p.options[option])
                    for act, p in zip(before, (part, twin), strict=True)
                )
                if one != two:
                    found.append(Difference(part.family.name, option, one, two, part.options, twin.options))
                continue
            if value != twin.options[option]:
                found.append(
                    Difference(part.family.name, option, value, twin.options[option], part.options, twin.options)
                )
        if not math.isclose(part.factor, twin.factor, rel_tol=1e-5 if len(a.parts) == len(b.parts) == 1 else 1e-4):
            what = "factor" if len(a.parts) == len(b.parts) == 1 else "weight"
            found.append(Difference(part.family.name, what, part.factor, twin.factor, part.options, twin.options))
    for part in left:
        found.append(Difference(part.family.name, "term", "none of it", described(part), part.options, part.options))
    return found


def described(part: Part) -> str:
    """A formula in words."""
    from .causes import shown

    rare = [f"{name.replace('_', ' ')}: {shown(value)}" for name, value in part.options.items()
            if value != part.family.options[name][0]]  # fmt: skip
    factor = "" if part.factor == 1.0 else f"{shown(part.factor)} * "
    return factor + part.family.name + (f" ({', '.join(rare)})" if rare else "")


def closest(
    ones: Sequence[Identity], others: Sequence[Identity], before: tuple[str, str] = ("none", "none")
) -> tuple[Identity | None, Identity | None]:
    """The two formulas, one for each loss, that explain most and differ least."""
    if not ones or not others:
        return (ones[0] if ones else None), (others[0] if others else None)

    def best(found: Sequence[Identity]) -> list[Identity]:
        most = len(found[0].explained)
        return [one for one in found if len(one.explained) >= most][:80]

    pairs = (
        (sum(COST.get(d.option, 1) for d in differences(a, b, before)), a.deviations + b.deviations, i + j, a, b)
        for i, a in enumerate(best(ones)) for j, b in enumerate(best(others))
    )  # fmt: skip
    *_, a, b = min(pairs, key=lambda pair: pair[:3])
    return a, b


def changed(identity: Identity, parts: Iterable[Difference]) -> Identity:
    """A formula with these conventions as b has them."""
    found = list(identity.parts)
    for d in parts:
        if d.option in ("formula", "term"):
            continue
        for k, part in enumerate(found):
            if part.family.name == d.family:
                if d.option in ("factor", "weight") and d.option not in part.options:
                    found[k] = replace(part, factor=d.b)
                else:
                    found[k] = replace(part, options={**part.options, d.option: d.options_b[d.option]})
    return replace(identity, parts=tuple(found))


def find(evidence: Evidence) -> list[Finding]:
    """The causes, what explains most first."""
    matches: list[tuple[Cause, Match]] = []
    claimed: set[int] = set()
    for cause in CAUSES:
        if not cause.last:
            for match in cause.find(evidence):
                matches.append((cause, match))
                claimed |= {id(d) for d in match.differences}
    rest = replace(evidence, differences=[d for d in evidence.differences if id(d) not in claimed])
    for cause in CAUSES:
        if cause.last:
            matches += [(cause, match) for match in cause.find(rest)]
    if evidence.differences:  # known formulas say more than that there is a factor
        plain = [m for m in matches if not (m[1].relations and m[0].name in ("constant-factor", "constant-offset"))]
        if any(m[1].differences for m in plain):
            matches = plain
    findings = [_weighed(evidence, cause, match) for cause, match in matches]
    findings = [f for f in findings if f.score > 0]
    findings.sort(key=lambda f: (f.edge, -f.score))
    unique: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        unique.setdefault((finding.cause.name, finding.detail), finding)
    return list(unique.values())


def _weighed(evidence: Evidence, cause: Cause, match: Match) -> Finding:
    if match.edge:
        return Finding(cause, match.detail, match.probes, (), 1.0, edge=True)
    differing = [row for row in evidence.rows if not row.same]
    names = {row.probe.name for row in differing}
    a, case = evidence.identity_a, evidence.case
    if match.differences and a is not None:
        shows, mends = [], []
        whole = any(d.option in ("formula", "term") for d in match.differences)
        after = changed(a, match.differences)
        activation = case.b.activation if any(d.option == "reads" for d in match.differences) else case.a.activation
        scale = evidence.rows[0].a.value or 1.0
        b = evidence.identity_b
        unsure = {*a.unexplained, *(() if b is None else b.unexplained)}  # there the formulas are not the losses
        for row in evidence.rows:
            if row.a.value is None or row.b.value is None or row.probe.name in unsure:
                continue
            before = a.value(row.probe, case.a.activation)
            now = after.value(row.probe, activation)
            if whole or not near(before, now, scale):
                shows.append(row.probe.name)
                if near(row.b.value, now, scale) and not row.value_same:
                    mends.append(row.probe.name)
        explained = names & set(shows)
    elif match.relations:
        shows = mends = list(dict.fromkeys(name for r in match.relations for name in r.explains))
        explained = names & set(shows)
    else:
        shows, mends = list(match.probes), []
        explained = names & set(shows) or ({"config"} if not match.probes else set())
    share = len(explained) / max(1, len(names))
    return Finding(
        cause, match.detail, tuple(shows), tuple(mends), match.weight * max(share, 0.05 if explained else 0.0)
    )


def tolerance() -> str:
    """What counts as rounding, in words."""
    return (
        f"values may differ by {RELATIVE:g} of themselves and {ABSOLUTE:g} of the first probe's; gradients by "
        f"{GRADIENT:g} of their largest element"
    )


def settings(*abouts: Any) -> list[Mapping[str, Any]]:
    """The numbers in what losses say of themselves: hypotheses are made of them, on both sides."""
    return [about.settings for about in abouts]
