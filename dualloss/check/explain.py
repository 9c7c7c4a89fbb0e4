"""Why two losses that were recorded differ: the diagnosis of a comparison, without the losses at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from .case import Case, Inputs, Targets
from .causes import Evidence
from .compare import rows_of
from .diagnose import closest, described, differences, find
from .identify import identify
from .probes import Array, Probe
from .relations import without_calls
from .runner import About, Observation

LARGE = 100_000
"""Elements of a batch above which fewer steps have to do, for the time they take."""


class Recorded(Protocol):
    """What a recording has of a loss at a step: float arrays with the channels last, None where there is none."""

    @property
    def input(self) -> Array | None: ...  # noqa: D102

    @property
    def target(self) -> Array | None: ...  # noqa: D102

    @property
    def sample_weight(self) -> Array | None: ...  # noqa: D102

    @property
    def loss(self) -> Array | None: ...  # noqa: D102

    @property
    def gradient(self) -> Array | None: ...  # noqa: D102

    @property
    def framework(self) -> str: ...  # noqa: D102

    @property
    def kind(self) -> str: ...  # noqa: D102

    @property
    def settings(self) -> Mapping[str, Any]: ...  # noqa: D102


def explain(a: Sequence[Recorded], b: Sequence[Recorded]) -> str:
    """The causes, in words, a line each; or that none is known.

    Args:
        a, b: some steps of each: the first of both from the same input and target, four or more of each are needed to
            tell formulas apart.
    """
    steps = [[step for step in side if step.input is not None and step.loss is not None] for side in (a, b)]
    if min(map(len, steps)) < 4:
        count = f"a: {len(steps[0])}, b: {len(steps[1])}"
        return f"fewer than 4 steps hold input and loss whole ({count}): not enough to say why"
    large = max(step.input.size for side in steps for step in side if step.input is not None) > LARGE
    steps = [side[: 6 if large else 15] for side in steps]
    case = case_of(steps[0])
    probes = [[_probe(case, k, step) for k, step in enumerate(side)] for side in steps]
    seen = [[_seen(step) for step in side] for side in steps]
    settings = [side[0].settings for side in steps]
    found = [identify(case, "none", p, s, settings) for p, s in zip(probes, seen, strict=True)]
    one, other = closest(found[0], found[1])
    abouts = [About(side[0].kind, side[0].framework, kind=side[0].kind) for side in steps]
    rows = rows_of(probes[0], seen[0], seen[1])
    evidence = Evidence(case, abouts[0], abouts[1], rows, one, other)
    lines = []
    for name, identity in (("a", one), ("b", other)):
        if identity is not None:
            lines.append(f"{name} computes {' + '.join(described(part) for part in identity.parts)}")
    if one is not None and other is not None:
        evidence.differences = differences(one, other)
    else:
        evidence.relations = without_calls(case, rows[:1])
    findings = [f for f in find(evidence) if not f.edge]
    lines += [f"{f.cause.title} [{f.cause.number}: {f.cause.name}]: {f.detail}" for f in findings[:3]]
    return "\n".join(lines) if findings else "\n".join([*lines, "no cause that is known explains it"])


def case_of(steps: Sequence[Recorded]) -> Case:
    """The case that arrays are of, as far as they say it."""
    x, target = np.asarray(steps[0].input), np.asarray(steps[0].target)
    labels = target.dtype.kind in "iu" and target.ndim < x.ndim
    channels = labels or x.ndim > 1
    classes = x.shape[-1] if channels else None
    kind: Targets = "index"
    if not labels:
        kind = "values"
        whole = bool(np.isin(target, (0, 1)).all())
        sums = classes is not None and classes > 1 and bool(np.allclose(target.sum(-1), 1.0, atol=1e-5))
        if sums:
            kind = "one-hot" if whole else "probabilities"
        elif whole:
            kind = "binary"
    inputs: Inputs = "logits" if kind != "values" else "values"
    if kind != "values" and x.min() >= 0 and x.max() <= 1:
        inputs = "probabilities"
    elif classes is not None and classes > 1 and x.max() <= 0 and np.allclose(np.exp(x).sum(-1), 1.0, atol=1e-4):
        inputs = "log-probabilities"
    spatial = x.shape[1:-1] if channels else x.shape[1:]
    weight = steps[0].sample_weight
    weights: Any = "none" if weight is None else "sample" if np.ndim(weight) == 1 and spatial else "position"
    return Case(classes, tuple(spatial), x.shape[0], kind, inputs, weights=weights)


def _probe(case: Case, k: int, step: Recorded) -> Probe:
    target = np.asarray(step.target)
    target = target.astype(np.int64 if case.targets == "index" else np.float32)
    x = np.asarray(step.input, np.float32)
    return Probe(f"step {k}", "scale", x, target, step.sample_weight, channels=case.classes is not None)


def _seen(step: Recorded) -> Observation:
    gradient = None if step.gradient is None else np.asarray(step.gradient, np.float64)
    return Observation(float(np.mean(np.asarray(step.loss, np.float64))), gradient)
