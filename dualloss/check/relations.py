"""What turns one loss into the other, whatever they compute: factors, offsets, changes of the batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from .case import Case
from .causes import Relation, Row
from .formulas import log_softmax, sigmoid
from .identify import near
from .probes import Array, Probe
from .runner import Observation

Run = Callable[[Probe], Observation]
NEEDED = 4
"""Probes that a relation has to hold on, at least."""


def relations(case: Case, rows: Sequence[Row], run_a: Run, run_b: Run) -> list[Relation]:
    """All that hold on every probe where both have a number."""
    usable = [
        row for row in rows
        if row.a.value is not None and row.b.value is not None and math.isfinite(row.a.value)
        and math.isfinite(row.b.value) and row.probe.group not in ("precision", "not finite", "shapes", "labels")
    ]  # fmt: skip
    if len(usable) < NEEDED or all(row.value_same for row in usable):
        return []
    found = [*_factors(case, usable), *_offset(usable)]
    if not found:
        found += _changes(case, usable, run_a, "b") + _changes(case, usable, run_b, "a")
    return found


def without_calls(case: Case, rows: Sequence[Row]) -> list[Relation]:
    """What one batch can tell: the factor, if gradients have the same one, or an offset, if they are equal."""
    (row,) = rows
    a, b = row.a.value, row.b.value
    if a is None or b is None or not a or row.a.gradient is None or row.b.gradient is None:
        return []
    factor, whole = b / a, float(np.vdot(row.a.gradient, row.a.gradient))
    if row.gradient_same and not row.value_same:
        return [Relation("offset", f"b is a + {b - a:.7g}; the gradients agree", (row.probe.name,))]
    if not whole or not np.isfinite(whole):
        return []
    steeper = float(np.vdot(row.a.gradient, row.b.gradient)) / whole
    left = np.abs(row.b.gradient - steeper * row.a.gradient).max()
    if left <= 1e-4 * np.abs(row.b.gradient).max() and abs(steeper / factor - 1) < 1e-3:
        return [Relation("factor", f"value and gradient of b are {factor:.7g} times a's", (row.probe.name,), factor)]
    return []


def _scale(rows: Sequence[Row]) -> float:
    return float(np.median([abs(row.b.value or 0.0) for row in rows]))


def _factors(case: Case, rows: Sequence[Row]) -> Iterator[Relation]:
    sizes: list[tuple[str, Callable[[Probe], float]]] = [
        ("1", lambda p: 1.0),
        ("the number of samples", lambda p: p.x.shape[0]),
        ("the number of elements", lambda p: p.x.size),
        ("the number of positions", lambda p: _positions(case, p)),
        ("the number of positions of a sample", lambda p: _positions(case, p) / p.x.shape[0]),
        ("the number of elements of a sample", lambda p: p.x.size / p.x.shape[0]),
    ]
    for name, size in sizes:
        for sign, how in ((1, "times"), (-1, "divided by")):
            ratios = [
                (row.b.value or 0.0) / ((row.a.value or 1.0) * size(row.probe) ** sign) for row in rows if row.a.value
            ]
            if len(ratios) < NEEDED:
                continue
            factor = float(np.median(ratios))
            if not math.isfinite(factor) or factor == 0 or (name == "1" and (abs(factor - 1) < 1e-5 or sign < 0)):
                continue
            scale = _scale(rows)
            if not all(
                near(row.b.value or 0.0, factor * (row.a.value or 0.0) * size(row.probe) ** sign, scale) for row in rows
            ):
                continue
            if name != "1" and abs(factor - 1) > 1e-5:
                continue
            detail = f"b is {factor:.7g} times a" if name == "1" else f"b is a {how} {name}"
            if name == "1" and factor < 1:
                detail += f" (a is {1 / factor:.7g} times b)"
            yield Relation(
                "factor", detail, tuple(row.probe.name for row in rows), factor,
            )  # fmt: skip
            return


def _positions(case: Case, probe: Probe) -> float:
    return probe.x.size / (1 if case.classes is None else probe.x.shape[-1])


def _offset(rows: Sequence[Row]) -> Iterator[Relation]:
    gaps = [(row.b.value or 0.0) - (row.a.value or 0.0) for row in rows]
    offset = float(np.median(gaps))
    scale = _scale(rows)
    if abs(offset) < 1e-4 * scale or not all(row.gradient_same for row in rows):
        return
    if all(near(row.b.value or 0.0, (row.a.value or 0.0) + offset, scale) for row in rows):
        yield Relation(
            "offset", f"b is a + {offset:.7g}; the gradients agree", tuple(row.probe.name for row in rows),
        )  # fmt: skip


def _changes(case: Case, rows: Sequence[Row], run: Run, of: str) -> list[Relation]:
    """One side on changed batches against the other on the batches as they are."""
    dense = not rows[0].probe.labels
    axes = tuple(range(1, 1 + len(case.spatial)))

    def on_x(function: Callable[[Array], Array]) -> Callable[[Probe], Probe]:
        return lambda p: replace(p, x=function(p.x.astype(np.float64)).astype(np.float32))

    changes: list[tuple[str, str, Callable[[Probe], Probe]]] = []
    if case.classes is not None:
        changes.append(("input", "a softmax of its input", on_x(lambda x: np.exp(log_softmax(x)))))
    changes.append(("input", "a sigmoid of its input", on_x(sigmoid)))
    if case.spatial:
        changes.append((
            "flipped", "the images flipped",
            lambda p: replace(p, x=np.flip(p.x, axes).copy(), target=np.flip(p.target, axes).copy()),
        ))  # fmt: skip
    if dense:
        changes.append(("swapped", "target and prediction swapped", lambda p: replace(p, x=p.target, target=p.x)))
        if case.spatial and case.classes is not None:
            changes.append((
                "axis", "the channels taken for a spatial axis",
                lambda p: replace(p, x=np.swapaxes(p.x, 1, -1).copy(), target=np.swapaxes(p.target, 1, -1).copy()),
            ))  # fmt: skip
    differing = [row for row in rows if not row.value_same]
    if not differing:  # of equal values nothing has to be explained
        return []
    sample = (differing + [row for row in rows if row.value_same])[:10]
    found = []
    for name, detail, change in changes:
        held = 0
        other = "a" if of == "b" else "b"
        for row in sample:
            seen = run(change(row.probe))
            wanted = getattr(row, of).value
            if seen.value is None or not near(wanted, seen.value, _scale(rows)):
                break
            held += 1
        if held == len(sample) >= NEEDED:
            explains = tuple(row.probe.name for row in rows)
            found.append(Relation(name, f"{of} is what {other} gives for {detail}", explains, of=of))
    return found
