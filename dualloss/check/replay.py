"""A recording replayed through a spec, without a framework: does the loss that was recorded compute it?"""

from __future__ import annotations

import importlib
import json
import math
import os
from dataclasses import asdict, dataclass

import numpy as np

from ..exact.reference import Output, loss_and_gradient
from ..oracle import Result, evaluate, scaled_ulp_error
from ..recording import Recording, RecordingError, Step, Stored, digest, plain, widen
from ..spec import Spec, from_json
from .matching import Array, factor_text, fit_factor, json_ready, number

ULP = 64.0
"""Up to so many units in the last place of the scale (2^-18 of it in float32) two losses are one, rounded otherwise.

The formulas of both frameworks stay within 10 of the truth (docs/accuracy.md), sums over a large batch add some.
"""


@dataclass(frozen=True)
class Replay:
    """A step, replayed. Errors are in units in the last place of the dtype that was recorded.

    Attributes:
        step: its number.
        same_bits: whether the loss, and the gradient where one was recorded, have the bits of the exact numerics.
        loss: the recorded loss (its mean, if it is a map).
        expected: that of the spec.
        loss_ulp: how far the recorded loss is from the exact one.
        loss_error: how far it is from the truth in float64.
        gradient_ulp: how far the gradient is from the exact one, relative to its largest element; None: not recorded.
        gradient_error: how far it is from the truth in float64.
        terms: how far each recorded term is from the exact one, in ulp.
        ok: whether both are within the limit.
        findings: what is known of a difference.
    """

    step: int
    same_bits: bool
    loss: float
    expected: float
    loss_ulp: float
    loss_error: float
    gradient_ulp: float | None
    gradient_error: float | None
    terms: dict[str, float]
    ok: bool
    findings: tuple[str, ...]


@dataclass(frozen=True)
class CheckReport:
    """What came of the replay.

    Attributes:
        recording: its folder.
        spec: the spec, as JSON.
        reduction: the reduction.
        ulp: the limit.
        verdict: "same bits", "same within N ulp" or "differs", in a sentence.
        replays: of every step that could be replayed.
        skipped: why others could not be, a line each.
        notes: what else is to be known.
    """

    recording: str
    spec: str
    reduction: str
    ulp: float
    verdict: str
    replays: tuple[Replay, ...]
    skipped: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every step that was replayed is within the limit."""
        return all(replay.ok for replay in self.replays)

    @property
    def same_bits(self) -> bool:
        """Whether every step that was replayed has the bits of the exact numerics."""
        return all(replay.same_bits for replay in self.replays)

    def text(self) -> str:
        """The report, the verdict first."""
        lines = [self.verdict]
        first = next((replay for replay in self.replays if not replay.ok), None)
        if first is not None:
            lines += [f"  {finding}" for finding in first.findings]
        lines += ["", "      step        recorded        expected  loss: ulp  of truth  gradient: ulp  of truth"]
        shown = self.replays if len(self.replays) <= 12 else (*self.replays[:11], self.replays[-1])
        for row in shown:
            lines.append(
                f"  {row.step:8d}  {row.loss:14.9g}  {row.expected:14.9g}  {_ulp(row.loss_ulp):>9}  "
                f"{_ulp(row.loss_error):>8}  {_ulp(row.gradient_ulp):>13}  {_ulp(row.gradient_error):>8}"
            )
        if len(shown) < len(self.replays):
            lines.append(f"  and {len(self.replays) - len(shown)} steps between")
        lines += [f"note: {line}" for line in (*self.skipped, *self.notes)]
        return "\n".join(lines) + "\n"

    def to_json(self) -> str:
        """The report as JSON; NaN and infinities are strings."""
        found = {"ok": self.ok, "same_bits": self.same_bits, **asdict(self)}
        return json.dumps(json_ready(found), indent=2, allow_nan=False)


def _ulp(value: float | None) -> str:
    return "" if value is None else "0" if value == 0 else f"{value:.3g}"


def check_recording(
    recording: Recording | str | os.PathLike[str],
    spec: Spec | None = None,
    *,
    reduction: str | None = None,
    ulp: float = ULP,
) -> CheckReport:
    """Replay every step whose input and target are whole, and compare the loss, the terms and the gradient.

    Args:
        recording: a recording or its folder, of either framework.
        spec: what the loss is said to compute; None: what the recording says. Of a schedule counts the recorded step.
        reduction: "mean", "sum" or "none"; None: what the recording says, else "mean".
        ulp: up to which error, relative to the scale, both are the same.

    Raises:
        RecordingError: there is no recording, no spec, or no step could be replayed.
    """
    found = recording if isinstance(recording, Recording) else Recording(recording)
    if spec is None:
        if "spec" not in found.loss:
            raise RecordingError(f"{str(found.path)!r} does not say which spec its loss has, expected spec= (--spec)")
        try:
            spec = from_json(found.loss["spec"])
        except ValueError as error:
            raise RecordingError(f"{str(found.path)!r} has a spec that cannot be read: {error}") from error
    reduction = reduction or found.loss.get("reduction", "mean")
    replays, skipped = [], []
    for step in found.steps.values():
        try:
            replays.append(_replay(step, spec, reduction, ulp))
        except (TypeError, ValueError, ImportError) as error:
            skipped.append(f"step {step.number} was not replayed: {error}")
    if not replays:
        reason = skipped[0] if skipped else "it has no complete step"
        raise RecordingError(f"{str(found.path)!r} cannot be replayed: {reason}")
    notes = [*found.limits, *found.dropped]
    if spec.scheduled and any("schedule" not in step.notes for step in found.steps.values()):
        notes.append("the spec has a schedule, whose step was not recorded: that of the recording was used")
    if not any(replay.gradient_ulp is not None for replay in replays):
        notes.append("no gradient was recorded")
    return CheckReport(
        str(found.path), spec.to_json(), reduction, ulp, _verdict(replays), tuple(replays), tuple(skipped), tuple(notes)
    )  # fmt: skip


def _verdict(replays: list[Replay]) -> str:
    count = f"{len(replays)} step{'s' if len(replays) > 1 else ''}"
    if all(replay.same_bits for replay in replays):
        return f"same bits as the spec: {count}"
    if all(replay.ok for replay in replays):
        worst = max(max(replay.loss_ulp, replay.gradient_ulp or 0.0) for replay in replays)
        return f"same as the spec within {worst:.3g} ulp: {count}"
    wrong = [replay for replay in replays if not replay.ok]
    return f"differs from the spec: at {len(wrong)} of {count}, first at step {wrong[0].step}"


def _replay(step: Step, spec: Spec, reduction: str, ulp: float) -> Replay:
    arrays = step.arrays
    for name in ("input", "target", "loss"):
        if name not in arrays:
            raise ValueError(f"it has no {name!r}")
    given = {name: _array(arrays[name]) for name in ("input", "target", "sample_weight") if name in arrays}
    given["target"] = _target(given["target"], given["input"].shape)
    now = spec.at(step.notes.get("schedule", step.number))
    upstream = arrays.get("upstream")
    fits = upstream is None or not upstream.shape or reduction == "none"
    above = 1.0 if upstream is None or not fits else upstream.values()
    exact = loss_and_gradient(now, **given, reduction=reduction, upstream=above, check_labels=False)
    truth: Result = evaluate(
        now, widen(*plain(given["input"])), widen(*plain(given["target"])),
        sample_weight=None if "sample_weight" not in given else widen(*plain(given["sample_weight"])),
        reduction=reduction, upstream=above,  # type: ignore[arg-type]
    )  # fmt: skip
    recorded, dtype = arrays["loss"].values(), _format(arrays["loss"])
    if recorded is None:
        raise ValueError("its loss was not kept whole")
    findings = []
    if recorded.shape != exact.loss.shape:
        findings.append(f"the loss has the shape {recorded.shape}, expected {exact.loss.shape}: another reduction")
        loss_ulp = loss_error = math.inf
    else:
        loss_ulp = scaled_ulp_error(recorded, exact.loss, dtype)
        loss_error = scaled_ulp_error(recorded, truth.loss, dtype)
    same_loss = digest(plain(exact.loss)[0]) == arrays["loss"].sha256 and arrays["loss"].dtype == "float32"
    terms = {
        name: scaled_ulp_error(stored.values(), value)
        for name, value in exact.terms.items()
        if (stored := arrays.get(f"terms/{name}")) is not None and stored.whole and stored.shape == np.shape(value)
    }
    gradient_ulp = gradient_error = None
    same_gradient = True
    if fits and (gradient := arrays.get("gradient")) is not None and gradient.shape == exact.gradient.shape:
        gradient_ulp, gradient_error, same_gradient = _gradients(gradient, exact, truth)
    ok = loss_ulp <= ulp and (gradient_ulp is None or gradient_ulp <= ulp)
    if not ok:
        findings += _findings(step, exact, recorded, loss_ulp, gradient_ulp, terms, ulp)
    return Replay(
        step.number, same_loss and same_gradient, float(np.mean(recorded)), float(np.mean(exact.loss)), loss_ulp,
        loss_error, gradient_ulp, gradient_error, terms, ok, tuple(findings),
    )  # fmt: skip


def _gradients(gradient: Stored, exact: Output, truth: Result) -> tuple[float, float, bool]:
    """The errors of a gradient that is there whole or as a sample, and whether it has the bits of the exact one."""
    raw, name = plain(exact.gradient)
    pick = slice(None, None, gradient.stride or 1)
    recorded = (gradient.values() if gradient.whole else gradient.sample()).reshape(-1)
    expected = widen(raw, name).reshape(-1)[pick]
    true = truth.gradient.reshape(-1)[pick]
    same = digest(raw) == gradient.sha256 and name == gradient.dtype
    dtype = _format(gradient)
    return scaled_ulp_error(recorded, expected, dtype), scaled_ulp_error(recorded, true, dtype), same


def _findings(
    step: Step,
    exact: Output,
    recorded: Array,
    loss_ulp: float,
    gradient_ulp: float | None,
    terms: dict[str, float],
    ulp: float,
) -> list[str]:
    """What is known of a difference."""
    found = []
    if loss_ulp > ulp and recorded.shape == exact.loss.shape == ():
        one, other = float(exact.loss), float(recorded)
        text = f"the loss is {other:.9g}, expected {one:.9g}"
        if one and other and math.isfinite(one) and math.isfinite(other):
            name = factor_text(other / one, step.arrays["input"].shape, "the spec's")
            text += f": it is {name}" if name else ""
        found.append(text)
    found += [
        f"the term {name} is {float(np.mean(step.arrays[f'terms/{name}'].values())):.9g}, expected "
        f"{float(np.mean(exact.terms[name])):.9g}"
        for name, error in terms.items()
        if error > ulp
    ]  # fmt: skip
    if gradient_ulp is not None and gradient_ulp > ulp:
        stored = step.arrays["gradient"]
        text = "the gradient differs"
        if stored.whole:
            factor = fit_factor(widen(*plain(exact.gradient)), stored.values())
            text = f"the gradient is {number(factor)} times the spec's, everywhere" if factor is not None else text
        if loss_ulp <= ulp:
            text += ", though the loss is the same"
        found.append(text)
    return found


def _format(stored: Stored) -> str:
    return stored.dtype if stored.dtype in ("float16", "bfloat16") else "float32"


def _array(stored: Stored) -> Array:
    """The array in its own dtype."""
    raw = stored.raw()
    if raw is None:
        raise ValueError(f"its {stored.name} has {stored.size} elements and was not kept whole (record with whole=)")
    if stored.dtype == "bfloat16":
        try:
            return raw.view(importlib.import_module("ml_dtypes").bfloat16)
        except ModuleNotFoundError as error:
            raise ImportError("its arrays are bfloat16, which needs ml-dtypes, of the extra cli") from error
    return raw


def _target(target: Array, shape: tuple[int, ...]) -> Array:
    """Labels as losses of Keras take them, floats and with an axis of length 1, as integers without it."""
    if len(shape) > 1 and target.shape == (*shape[:-1], 1) and shape[-1] > 1:
        target = target[..., 0]
    if len(shape) > 1 and target.shape == shape[:-1] and target.dtype.kind == "f" and bool((target % 1 == 0).all()):
        return target.astype(np.int64)
    return target.astype(np.float32) if target.dtype == np.float64 else target
