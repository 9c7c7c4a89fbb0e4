"""What a comparison found: as an object, as text, as JSON and as a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..spec import from_json
from .case import Case
from .causes import CAUSES, Difference, OptionCause, Relation, Row
from .diagnose import Finding, described, gradient_ulp, tolerance, ulp
from .identify import Identity
from .runner import About


@dataclass(frozen=True)
class Report:
    """A comparison of two losses.

    Attributes:
        case: what was compared.
        name_a, name_b: the losses.
        about_a, about_b: what they say of themselves.
        rows: every probe, with what both did.
        causes: the causes, what explains most first, and what was noticed at the edges.
        oracle: of losses whose spec is known, how far both are from the float64 truth.
        failed: why nothing could be compared; None: it could.
        seconds: how long it took.
        identity_a, identity_b: the formulas that give the values seen, if they are known.
        differences: in what these differ.
        relations: what turns one loss into the other.
    """

    case: Case
    name_a: str
    name_b: str
    about_a: About | None
    about_b: About | None
    rows: Sequence[Row]
    causes: Sequence[Finding]
    oracle: Sequence[str]
    failed: str | None
    seconds: float
    identity_a: Identity | None = None
    identity_b: Identity | None = None
    differences: tuple[Difference, ...] = ()
    relations: tuple[Relation, ...] = field(default=())

    @classmethod
    def impossible(cls, case: Case, names: tuple[str, ...], why: str, seconds: float) -> Report:
        """A comparison that could not begin."""
        return cls(case, names[0], names[1], None, None, [], [], [], why, seconds)

    @property
    def same(self) -> bool:
        """Whether nothing differs on any probe."""
        return self.failed is None and all(row.same for row in self.rows)

    @property
    def findings(self) -> list[Finding]:
        """The causes of what differs, what explains most first."""
        return [finding for finding in self.causes if not finding.edge]

    @property
    def edges(self) -> list[Finding]:
        """What was noticed that makes no difference between the losses."""
        return [finding for finding in self.causes if finding.edge]

    @property
    def exit_code(self) -> int:
        """0: the same; 1: they differ; 2: they could not be compared."""
        return 2 if self.failed is not None else 0 if self.same else 1

    @property
    def differing(self) -> list[Row]:
        """The probes on which something differs."""
        return [row for row in self.rows if not row.same]

    @property
    def verdict(self) -> str:
        """The result in a sentence."""
        if self.failed is not None:
            return f"Could not compare: {self.failed}"
        if self.same:
            compared = [row for row in self.rows if row.compared]
            first = abs(self.rows[0].b.value or 0.0)
            worst = max((
                _off(row.a.value, row.b.value, first) for row in compared
                if row.a.value is not None and row.b.value is not None and row.probe.dtype == "float32"
                and math.isfinite(row.a.value) and math.isfinite(row.b.value)
            ), default=0.0)  # fmt: skip
            refused = len(self.rows) - len(compared)
            also = f"; on {refused} more both raise" if refused else ""
            return f"No difference found: {len(compared)} probes, values at most {worst:.3g} ulp apart{also}"
        count = f"on {len(self.differing)} of {len([row for row in self.rows if row.compared])} probes"
        if not self.findings:
            return f"They differ {count}, for an unknown cause"
        return f"They differ {count}: {self.findings[0].cause.title}"

    @cached_property
    def predicted(self) -> tuple[float, int] | None:
        """How far b's values are from its formula at most, and on how many probes that is known.

        In ulp; what is far smaller than the first probe's loss comes from cancellation and is left out.
        """
        if self.identity_b is None:
            return None
        apart, first = [], abs(self.rows[0].b.value or 0.0)
        for row in self.rows:
            value = row.b.value
            if row.probe.name in self.identity_b.explained and value is not None and abs(value) >= 1e-3 * first:
                apart.append(ulp(value, self.identity_b.value(row.probe, self.case.b.activation)))
        return (max(apart), len(apart)) if apart else None

    @cached_property
    def gradient_predicted(self) -> float | None:
        """How far b's gradient on the first probe is from its formula's derivative, in ulp of the largest element.

        None where nothing is known, or the probe is large.
        """
        row = self.rows[0]
        if self.identity_b is None or row.b.gradient is None or row.probe.x.size > 4000:
            return None
        return gradient_ulp(row.b.gradient, self.identity_b.gradient(row.probe, self.case.b.activation))

    def text(self) -> str:
        """The report for a terminal, verdict first."""
        lines = [self.verdict, "", f"  a: {self.name_a}", f"  b: {self.name_b}"]
        if self.case.ignore_index is not None:
            lines.append(f"  label {self.case.ignore_index} is to be ignored")
        for name, about in (("a", self.about_a), ("b", self.about_b)):
            if about is not None and about.calls:
                lines.append(f"  {name} is {', '.join(about.calls)}")
        if self.failed is not None:
            for k, finding in enumerate(self.findings, 1):
                lines += ["", *self._finding(k, finding)]
            return "\n".join(lines)
        for name, identity in (("a", self.identity_a), ("b", self.identity_b)):
            if identity is not None:
                lines.append(f"  {name} computes {' + '.join(described(part) for part in identity.parts)}")
                if identity.unexplained:
                    lines.append(f"    but for its values on: {', '.join(identity.unexplained)}")
            elif not self.same:
                lines.append(f"  {name} computes no formula that is known here")
        for k, finding in enumerate(self.findings[:6], 1):
            lines += ["", *self._finding(k, finding)]
        if len(self.findings) > 6:
            lines.append(f"\nand {len(self.findings) - 6} more, which explain less")
        predicted = self.predicted
        if self.findings and self.differences and predicted is not None:
            gradient = self.gradient_predicted
            also = f"; its gradient on the first probe within {gradient:.3g} ulp" if gradient is not None else ""
            lines += ["", f"With all of these mended in a, b's values are predicted within {predicted[0]:.3g} ulp on "
                          f"{predicted[1]} probes{also}."]  # fmt: skip
        if not self.same and not self.findings:
            unknown = [n for n, one in (("a", self.identity_a), ("b", self.identity_b)) if one is None]
            out = dict.fromkeys(c.name for c in CAUSES if not (unknown and isinstance(c, OptionCause)))
            lines += ["", f"No cause explains it. Ruled out: {', '.join(out)}."]
            if unknown:
                lines.append(
                    f"Conventions of formulas were not tested, since no formula here gives the values of "
                    f"{' and '.join(unknown)}: compare the terms of a sum one by one."
                )
        lines += [f"edge: {f.detail}  [{f.cause.number}: {f.cause.name}]" for f in self.edges]
        lines += [f"edge: {row.probe.name}: {row.edge}" for row in self.rows if row.edge is not None]
        notes = [f"{n}: {note} (on {row.probe.name!r})" for row in self.rows for n, seen in (("a", row.a), ("b", row.b))
                 for note in seen.notes]  # fmt: skip
        for note in dict.fromkeys(note.partition(" (on ")[0] for note in notes):
            lines.append(f"note: {note}")
        lines += ["", *self.oracle] if self.oracle else []
        lines += ["", *self._table(), "", f"Rounding: {tolerance()}. {self.seconds:.1f} s."]
        return "\n".join(lines)

    def _finding(self, k: int, finding: Finding) -> list[str]:
        cause = finding.cause
        lines = [f"{k}. {cause.title}  [{cause.number}: {cause.name}]", f"   {finding.detail}"]
        if finding.shows:
            shown = ", ".join(finding.shows[:5]) + (
                f" and {len(finding.shows) - 5} more" if len(finding.shows) > 5 else ""
            )
            lines.append(f"   shows on: {shown}")
        if finding.mends:
            lines.append(f"   mended alone, {len(finding.mends)} of {len(self.differing)} differing probes agree")
        lines.append(f"   {cause.text}")
        for framework, code in (("PyTorch", cause.torch), ("TensorFlow", cause.tf)):
            first, *rest = code.splitlines()
            lines.append(f"   {framework}: {first}")
            lines += [f"      {line}" for line in rest]
        return lines

    def _table(self) -> list[str]:
        def number(seen: Any) -> str:
            return "raises" if seen.error else "none" if seen.value is None else f"{seen.value:.7g}"

        def apart(found: float | None) -> str:
            return "" if found is None else f"{found:.3g}"

        lines = [f"{'probe':<36}{'a':>14}{'b':>14}{'ulp':>10}{'gradient ulp':>14}"]
        for row in self.rows:
            mark = "" if row.same else "  <"
            lines.append(
                f"{row.probe.name:<36}{number(row.a):>14}{number(row.b):>14}{apart(row.value_ulp):>10}"
                f"{apart(row.gradient_ulp):>14}{mark}"
            )
        errors = dict.fromkeys(
            f"{n} raises on {row.probe.name!r}: {seen.error}"
            for row in self.rows for n, seen in (("a", row.a), ("b", row.b)) if seen.error
        )  # fmt: skip
        return [*lines, *errors]

    def to_json(self) -> dict[str, Any]:
        """The report for machines: plain numbers, str and None; NaN and infinities as str."""

        def number(value: float | None) -> Any:
            return value if value is None or math.isfinite(value) else str(value)

        return {
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "a": self.name_a,
            "b": self.name_b,
            "formulas": {
                name: None if one is None else [described(part) for part in one.parts]
                for name, one in (("a", self.identity_a), ("b", self.identity_b))
            },
            "findings": [
                {
                    "number": f.cause.number, "name": f.cause.name, "title": f.cause.title, "detail": f.detail,
                    "score": f.score, "shows": list(f.shows), "mends": list(f.mends), "torch": f.cause.torch,
                    "tf": f.cause.tf,
                }
                for f in self.findings
            ],
            "edges": [{"number": f.cause.number, "name": f.cause.name, "detail": f.detail} for f in self.edges],
            "probes": [
                {
                    "name": row.probe.name, "group": row.probe.group, "same": row.same, "edge": row.edge,
                    "a": number(row.a.value),
                    "b": number(row.b.value), "value_ulp": number(row.value_ulp),
                    "gradient_ulp": number(row.gradient_ulp), "error_a": row.a.error, "error_b": row.b.error,
                    "notes_a": list(row.a.notes), "notes_b": list(row.b.notes),
                }
                for row in self.rows
            ],
            "oracle": list(self.oracle),
            "seconds": round(self.seconds, 2),
        }  # fmt: skip

    def to_html(self, path: str | Path) -> None:
        """Write a page that needs nothing else."""
        from .html import page

        Path(path).write_text(page(self), encoding="utf-8")


def oracle_lines(case: Case, abouts: Sequence[About], rows: Sequence[Row]) -> list[str]:
    """Which side is off, where a spec says what is right."""
    from .. import oracle

    lines = []
    for name, about in zip("ab", abouts, strict=True):
        if about.spec is None or (case.a if name == "a" else case.b).activation != "none":
            continue
        spec = from_json(about.spec)
        worst = {"a": 0.0, "b": 0.0}
        count, first = 0, 0.0
        for row in rows:
            if row.probe.dtype != "float32" or row.probe.trailing or row.probe.group in ("labels", "not finite"):
                continue
            if row.probe.x.size > 1 << 19:  # it takes its time
                continue
            try:
                found = oracle.evaluate(spec, row.probe.x, row.probe.target, sample_weight=row.probe.weight).loss
            except ValueError:
                continue
            count, first, truth = count + 1, first or abs(float(found)), float(np.float32(found))
            for side, seen in (("a", row.a), ("b", row.b)):
                worst[side] = max(worst[side], math.inf if seen.value is None else _off(seen.value, truth, first))
        if count:
            lines.append(
                f"Against the float64 truth of {name}'s spec, {spec}: a at most {worst['a']:.3g} ulp off, b "
                f"{worst['b']:.3g}, on {count} probes (of the first probe's loss, where that is larger)"
            )
    return lines


def _off(value: float, truth: float, first: float) -> float:
    """How far a loss is from the truth, in ulp of the larger of the truth and the first probe's loss."""
    if not (math.isfinite(value) and math.isfinite(truth)):
        return ulp(value, truth)
    return abs(value - truth) / 2.0 ** (math.floor(math.log2(max(abs(truth), first, 2.0**-126))) - 23)
