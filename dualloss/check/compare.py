"""Two losses on the same probes: whether they agree, and if not, why."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from ..spec import from_json
from .case import Case, Feed
from .causes import Evidence, Row
from .diagnose import closest, differences, find, gradient_ulp, same_gradient, same_value, settings, ulp
from .identify import identify
from .probes import FULL, LARGER, Probe, battery
from .relations import relations
from .report import Report, oracle_lines
from .runner import NO_FORM, About, CannotRun, Observation
from .sides import Compared, side

Progress = Callable[[str, int, int], None]


def compare(
    a: Any,
    b: Any,
    case: Case | None = None,
    *,
    timeout: float = 20.0,
    python_a: str | None = None,
    python_b: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Call two losses on the same batches and find out why they differ.

    Args:
        a, b: each a :class:`dualloss.Spec`; a loss of PyTorch or of TensorFlow and Keras (a module, an object or a
            function), which is called here; or a str, which is called in a process of its own: `module:expression`,
            such as `torch.nn:CrossEntropyLoss(label_smoothing=0.1)` or `my_package.losses:total_loss`, or the name of a
            file with a spec as JSON.
        case: the batch, and how the losses are called; default: logits (4, 3) and class indices.
        timeout: seconds that a loss may take for a probe, above 0.
        python_a, python_b: the interpreters of processes, if the frameworks live in environments of their own.
        progress: called with what is done, how many steps have been, and how many there are.

    Returns:
        The report; its `exit_code` is 0 for losses that agree, 1 for those that do not, 2 where one cannot be called.

    Raises:
        ValueError: an interpreter was named for an object that is here already; a timeout that is not above 0.
    """
    case = Case() if case is None else case
    if not timeout > 0:
        raise ValueError(f"timeout is {timeout!r}, expected seconds above 0")
    for name, loss, python in (("python_a", a, python_a), ("python_b", b, python_b)):
        if python is not None and not isinstance(loss, str):
            raise ValueError(f"{name} is {python!r}, but the loss is an object of this process, expected a reference")
    started = time.monotonic()
    opened: list[Compared] = []
    try:
        for loss, how, python in ((a, case.a, python_a), (b, case.b, python_b)):
            opened.append(side(loss, case, how, timeout, python))
        abouts = [one.about() for one in opened]
        ignore = _ignored(case, abouts)
        if ignore is not None:  # said by a loss, not by whoever compares
            case = replace(case, ignore_index=ignore)
            for one in opened:
                one.close()
            opened[:] = [
                side(loss, case, how, timeout, python)
                for loss, how, python in ((a, case.a, python_a), (b, case.b, python_b))
            ]
            abouts = [one.about() for one in opened]
        _settle(case, (a, b), opened, abouts, timeout, (python_a, python_b))
        return _compared(case, opened, abouts, progress, started)
    except CannotRun as error:
        names = tuple(loss if isinstance(loss, str) else getattr(loss, "__name__", repr(loss)) for loss in (a, b))
        return Report.impossible(case, names, str(error), time.monotonic() - started)
    finally:
        for one in opened:
            one.close()


def _compared(
    case: Case, opened: Sequence[Compared], abouts: Sequence[Any], progress: Progress | None, started: float
) -> Report:
    probes = battery(case)
    if any(one.run(probes[0]).error for one in opened):  # some losses want images larger than their window
        probes = battery(case, LARGER)
    if any(getattr(about, "framework", "") == "spec" for about in abouts):
        probes = [
            p for p in probes if not p.trailing and p.dtype != "float64"
        ]  # of which specs say that they refuse it
    seen = _run(opened, probes, progress)
    _again(opened, probes[0], seen)
    rows = rows_of(probes, *seen)
    evidence = Evidence(case, abouts[0], abouts[1], rows)
    if never := _never(rows):
        return Report(case, abouts[0].name, abouts[1].name, abouts[0], abouts[1], rows, [], [], never,
                      time.monotonic() - started)  # fmt: skip
    if rows[0].a.error is not None or rows[0].b.error is not None:
        wrong = [f"{name} ({about.name}): {row}" for name, about, row in
                 (("a", abouts[0], rows[0].a.error), ("b", abouts[1], rows[0].b.error)) if row]  # fmt: skip
        return Report(case, abouts[0].name, abouts[1].name, abouts[0], abouts[1], rows, find(evidence), [],
                      "; ".join(wrong), time.monotonic() - started)  # fmt: skip
    if progress is not None:
        progress("looking for causes", len(probes), len(probes))
    if not all(row.same for row in rows):
        found = [
            identify(case, how.activation, probes, observations, settings(*abouts))
            for how, observations in ((case.a, seen[0]), (case.b, seen[1]))
        ]
        before = (case.a.activation, case.b.activation)
        evidence.identity_a, evidence.identity_b = closest(found[0], found[1], before)
        if evidence.identity_a is not None and evidence.identity_b is not None:
            evidence.differences = differences(evidence.identity_a, evidence.identity_b, before)
            whole = not (evidence.identity_a.unexplained or evidence.identity_b.unexplained)
        else:
            whole = False
        if not whole:  # formulas that explain everything leave nothing to guess
            evidence.relations = relations(case, rows, opened[0].run, opened[1].run)
    lines = oracle_lines(case, abouts, rows)
    return Report(
        case, abouts[0].name, abouts[1].name, abouts[0], abouts[1], rows, find(evidence), lines, None,
        time.monotonic() - started, evidence.identity_a, evidence.identity_b, tuple(evidence.differences),
        tuple(evidence.relations),
    )  # fmt: skip


def _run(
    opened: Sequence[Compared], probes: Sequence[Probe], progress: Progress | None
) -> tuple[list[Observation], list[Observation]]:
    """Both sides on all probes: those with processes of their own at the same time."""
    from .sides import Here

    seen: tuple[list[Observation], list[Observation]] = ([], [])
    together = not any(isinstance(one, Here) for one in opened)
    with ThreadPoolExecutor(2) as pool:
        for k, probe in enumerate(probes):
            if progress is not None:
                progress(probe.name, k, len(probes))
            call = pool.map if together else map
            both = list(call(_call, opened, (probe, probe)))
            for one, observation in zip(seen, both, strict=True):
                one.append(observation)
    return seen


def _finite(*seen: Observation) -> bool:
    """Whether any of these is a number: then what is not finite is hidden on one side only."""
    return any(o.value is not None and math.isfinite(o.value) for o in seen)


def _call(one: Compared, probe: Probe) -> Observation:
    return one.run(probe)


def _ignored(case: Case, abouts: Sequence[About]) -> int | None:
    """The label that a loss says it leaves out, if the case says none; PyTorch's default is no one's choice."""
    if case.ignore_index is not None or case.targets != "index":
        return None
    said = {about.settings.get(name) for about in abouts for name in ("ignore_index", "ignore_class")}
    said |= {from_json(about.spec).ignore_index for about in abouts if about.spec is not None}
    found = sorted(label for label in said if type(label) is int and label != -100)
    return found[0] if found else None


def _settle(
    case: Case, losses: tuple[Any, Any], opened: list[Compared], abouts: list[About], timeout: float,
    pythons: tuple[str | None, str | None],
) -> None:  # fmt: skip
    """Where a loss takes class indices and one-hot targets alike, give it those with which both agree, if any do."""
    first, second = battery(case)[:2]

    def agree() -> bool:
        for probe in (first, second):
            a, b = (one.run(probe) for one in opened)
            if a.value is None or b.value is None or not same_value(probe, a, b, b.value):
                return False
        return True

    if not any(about.guessed for about in abouts) or agree():
        return
    for k, about in enumerate(abouts):
        if not about.guessed:
            continue
        before = opened[k]
        how = (case.a, case.b)[k]
        other: Feed = "index" if any("targets one-hot" in call for call in about.calls) else "one-hot"
        try:
            opened[k] = side(losses[k], case, replace(how, targets=other), timeout, pythons[k])
        except CannotRun:
            continue
        if agree():
            before.close()
            abouts[k] = opened[k].about()
            return
        opened[k].close()
        opened[k] = before


def _again(opened: Sequence[Compared], probe: Probe, seen: Sequence[list[Observation]]) -> None:
    """Call both once more on the first probe: a loss whose value depends on when it is called says so."""
    for one, observations in zip(opened, seen, strict=True):
        first = observations[0]
        if first.value is None:
            continue
        second = one.run(probe)
        if second.value is not None and repr(second.value) != repr(first.value):
            note = f"changes from call to call: {first.value:.7g}, then {second.value:.7g} for the same batch"
            observations[0] = replace(first, notes=(*first.notes, note))


def _never(rows: Sequence[Row]) -> str | None:
    """What was asked for and could not be compared, since both sides refuse it."""
    for group, what in (("weights", "sample weights"), ("ignored", "ignored labels"), (FULL, "the size asked for")):
        of = [row for row in rows if row.probe.group == group]
        if of and not any(row.compared for row in of) and rows[0].compared:
            return f"both sides refuse {what}: a: {of[0].a.error}; b: {of[0].b.error}"
    return None


def rows_of(probes: Sequence[Probe], a: Sequence[Observation], b: Sequence[Observation]) -> list[Row]:
    """The observations side by side."""
    scale = next((o.value for o in b if o.value is not None and math.isfinite(o.value)), 1.0)
    sizes = [float(np.abs(o.gradient).max()) for o in (a[0], b[0]) if o.gradient is not None and o.gradient.size]
    size = max((s for s in sizes if math.isfinite(s)), default=0.0)
    rows = []
    for probe, one, other in zip(probes, a, b, strict=True):
        value = None if one.value is None or other.value is None else ulp(one.value, other.value)
        both = one.gradient is not None and other.gradient is not None
        gradient = gradient_ulp(one.gradient, other.gradient) if both else None  # type: ignore[arg-type]
        fraction = size if probe.group != FULL else 0.0
        same = same_value(probe, one, other, scale), same_gradient(probe, one, other, fraction)
        edge = None
        refused = [(name, o.error) for name, o in (("a", one), ("b", other)) if o.error is not None]
        unfit = any(NO_FORM in error for _, error in refused)
        if (probe.group in ("shapes", "precision", "labels") or unfit) and len(refused) == 1:
            same, edge = (True, True), f"{refused[0][0]} refuses it: {refused[0][1]}"
        elif same[0] and not same[1] and one.value is not None and math.isnan(one.value):
            same, edge = (True, True), "both give NaN, with NaN elsewhere in the gradients"
        elif probe.group == "not finite" and not all(same) and (same[0] or not _finite(one, other)):
            edge = f"a gives {one.value}, b {other.value}"
            if same[0]:
                edge = "NaN is elsewhere in the gradients" if gradient == math.inf else "the gradients differ"
            same = (True, True)
        rows.append(Row(probe, one, other, value, gradient, *same, edge))
    return rows
