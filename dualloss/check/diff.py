"""What of two recorded trainings diverged first: data, targets, logits, loss, gradient or update."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass

from ..recording import Recording
from .divergence import STAGES, Comparison, Explain, Found, LossArrays
from .growth import Growth, grow, growth_text
from .matching import json_ready

__all__ = ["STAGES", "DiffReport", "Explain", "Growth", "LossArrays", "diff"]

_UNSHOWN = ("upstream", "initial weights", "initial state")


@dataclass(frozen=True)
class DiffReport:
    """What diverged first.

    Attributes:
        a, b: the recordings' folders.
        stage: one of :data:`STAGES`, or "rounding" if the runs drift apart from rounding alone; None: nothing diverged.
        step: the step at which it shows.
        same_bits: whether everything that both recordings have is the same to the bit.
        verdict: the same in a sentence.
        findings: how it diverged.
        notes: what else is to be known.
        explanation: why the losses differ, where that was asked for.
        growth: by quantity.
        series: the relative differences by quantity and step.
    """

    a: str
    b: str
    stage: str | None
    step: int | None
    same_bits: bool
    verdict: str
    findings: tuple[str, ...]
    notes: tuple[str, ...]
    explanation: str | None
    growth: dict[str, Growth]
    series: dict[str, dict[int, float]]

    @property
    def ok(self) -> bool:
        """Whether nothing diverged, but for rounding within the tolerances."""
        return self.stage is None

    def text(self) -> str:
        """The report, the verdict first."""
        lines = [self.verdict, *(f"  {finding}" for finding in self.findings)]
        if self.explanation is not None:
            lines += ["", self.explanation]
        if self.series:
            lines += ["", "relative differences", *_table(self.series, self.step)]
        grown = [f"  {name}: {growth_text(growth)}" for name, growth in self.growth.items() if growth.doubling]
        if grown:
            lines += ["", "growth", *grown]
        if self.notes:
            lines += ["", *(f"note: {note}" for note in self.notes)]
        return "\n".join(lines) + "\n"

    def to_json(self) -> str:
        """The report as JSON; NaN and infinities are strings."""
        return json.dumps(json_ready({"ok": self.ok, **asdict(self)}), indent=2, allow_nan=False)


def diff(
    a: Recording | str | os.PathLike[str],
    b: Recording | str | os.PathLike[str],
    *,
    explain: Explain | None = None,
) -> DiffReport:
    """Compare two recordings, step by step of the same number.

    Args:
        a, b: recordings, or their folders; of the same framework or of both.
        explain: called with what both recorded of the loss, if that is what diverged and the arrays are whole.

    Raises:
        RecordingError: what is there is no recording, or there is no common step.
    """
    first, second = (r if isinstance(r, Recording) else Recording(r) for r in (a, b))
    comparison = Comparison(first, second, explain)
    found = comparison.run()
    growth = {name: grow(row) for name, row in comparison.series.items() if name not in _UNSHOWN}
    return DiffReport(
        a=str(first.path),
        b=str(second.path),
        stage=None if found is None else found.stage,
        step=None if found is None else found.step,
        same_bits=comparison.bits,
        verdict=_verdict(found, comparison),
        findings=() if found is None else tuple(found.findings),
        notes=tuple(comparison.notes),
        explanation=comparison.explanation,
        growth=growth,
        series=comparison.series,
    )


def _verdict(found: Found | None, comparison: Comparison) -> str:
    count = f"{len(comparison.steps)} step{'s' if len(comparison.steps) > 1 else ''}"
    if found is None and comparison.activation is not None:
        return f"same training: the loss of one takes the {comparison.activation.name} back: {count}"
    if found is None and comparison.state is not None:
        return f"same training within rounding: {count}; but not the state that evaluation uses"
    if found is None:
        return f"same bits: {count}" if comparison.bits else f"same within rounding: {count}"
    if found.stage == "rounding":
        return f"the runs drift apart from rounding: nothing diverged at once ({found.extra})"
    names = {"logits": "the logits, so the model", "gradient": "the gradient of the loss"}
    return f"diverged first: {names.get(found.stage, f'the {found.stage}')}, at step {found.step}"


def _table(series: dict[str, dict[int, float]], found: int | None) -> list[str]:
    """Some of the steps: the first ones, then ever fewer; those around the one where it diverged; the last."""
    steps = sorted({step for row in series.values() for step in row})
    around = [steps.index(found) + k for k in (-1, 0, 1)] if found in steps else []
    fewer = [k if k < 4 else round(4 * 1.6 ** (k - 4)) for k in range(16)]
    chosen = sorted({k for k in (*fewer, *around, len(steps) - 1) if 0 <= k < len(steps)})
    names = [name for name in series if name not in _UNSHOWN]
    widths = [max(len(name), 8) for name in names]
    lines = ["  " + "step".rjust(8) + "".join("  " + n.rjust(w) for n, w in zip(names, widths, strict=True))]
    for before, index in zip([-1, *chosen], chosen, strict=False):
        if (between := index - before - 1) > 0:
            lines.append("  " + "...".rjust(8) + f"  and {between} step{'s' if between > 1 else ''} between")
        cells = []
        for name, width in zip(names, widths, strict=True):
            value = series[name].get(steps[index])
            shown = "" if value is None else "0" if value == 0 else f"{value:.1e}" if math.isfinite(value) else "other"
            cells.append("  " + shown.rjust(width))
        lines.append("  " + str(steps[index]).rjust(8) + "".join(cells))
    return lines
