"""Losses of real numbers: powers, Huber and its scaled form, cosine, hinge."""

from __future__ import annotations

import numpy as np

from ..case import Case
from ..probes import Array, Probe
from ._base import Family, activated, one_hot, reduced


def _any(case: Case) -> bool:
    return case.targets in ("values", "binary", "probabilities", "one-hot", "index")


def difference(
    probe: Probe, activation: str, *, kind: str, delta: float, factor: float, reduction: str, weighting: str,
    broadcast: str,
) -> float:  # fmt: skip
    """A function of `x - t`, added up."""
    x, t = activated(probe, activation), one_hot(probe)
    if broadcast == "(N,) against (N, 1)":
        if x.ndim != 1:
            return float("nan")
        x, t = x[None, :], t[:, None]
    d = x - t
    size = np.abs(d)
    each: Array
    if kind == "squared":
        each = d * d
    elif kind == "absolute":
        each = size
    elif kind == "Huber":
        each = np.where(size <= delta, 0.5 * d * d, delta * (size - 0.5 * delta))
    elif kind == "smooth L1":
        each = np.where(size < delta, 0.5 * d * d / delta, size - 0.5 * delta)
    elif kind == "log cosh":
        each = size + np.log1p(np.exp(-2 * size)) - np.log(2.0)
    elif kind == "relative":
        each = 100.0 * size / np.maximum(np.abs(t), 1e-7)
    else:
        each = (np.log1p(np.maximum(x, 1e-7)) - np.log1p(np.maximum(t, 1e-7))) ** 2
    return factor * reduced(each, reduction, probe.weight, weighting)


DIFFERENCE = Family(
    "difference",
    difference,
    {
        "kind": ("squared", "absolute", "Huber", "smooth L1", "log cosh", "relative", "logarithmic"),
        "delta": (1.0, 0.5, 2.0),
        "factor": (1.0, 0.5),
        "reduction": ("mean", "sum", "sum, mean over samples"),
        "weighting": ("elements", "sum of weights", "last axis", "ignored"),
        "broadcast": ("no", "(N,) against (N, 1)"),
    },
    _any,
    {"delta": ("delta", "beta")},
    {
        "delta": lambda o, _: o["kind"] in ("Huber", "smooth L1"),
        "weighting": lambda _, case: case.weights != "none",
        "broadcast": lambda _, case: case.classes is None and not case.spatial,
    },
)


def cosine(probe: Probe, activation: str, *, offset: float, eps: str, over: str) -> float:
    """`offset - cos(x, t)`."""
    x, t = activated(probe, activation), one_hot(probe)
    axes = -1 if over == "the last axis" else 1
    with np.errstate(all="ignore"):
        if eps == "norms squared at least 1e-12":
            x = x / np.sqrt(np.maximum((x * x).sum(axes, keepdims=True), 1e-12))
            t = t / np.sqrt(np.maximum((t * t).sum(axes, keepdims=True), 1e-12))
            cos = (x * t).sum(axes)
        else:
            cos = (x * t).sum(axes) / np.maximum(np.sqrt((x * x).sum(axes) * (t * t).sum(axes)), 1e-8)
    return float(np.mean(offset - cos))


COSINE = Family(
    "cosine similarity",
    cosine,
    {
        "offset": (0.0, 1.0),
        "eps": ("norms squared at least 1e-12", "product of norms at least 1e-8"),
        "over": ("the last axis", "axis 1"),
    },
    lambda case: (
        case.classes is not None and case.classes > 1 and case.targets in ("values", "probabilities", "one-hot")
    ),
    {},
    {},
)


def hinge(probe: Probe, activation: str, *, signs: str, squared: str, reduction: str) -> float:
    """`max(0, 1 - t x)`."""
    x, t = activated(probe, activation), one_hot(probe)
    if signs == "0 and 1 become -1 and 1":
        t = 2 * t - 1
    each = np.maximum(0.0, 1.0 - t * x)
    return reduced(each**2 if squared == "yes" else each, reduction)


HINGE = Family(
    "hinge loss",
    hinge,
    {
        "signs": ("0 and 1 become -1 and 1", "as they are"),
        "squared": ("no", "yes"),
        "reduction": ("mean", "sum"),
    },
    lambda case: case.targets == "binary",
    {},
    {},
)


def size(probe: Probe, activation: str, *, kind: str, reduction: str) -> float:
    """The squares of the input, whatever the target: a penalty."""
    x = activated(probe, activation)
    each: Array = x * x if kind == "squares" else np.abs(x)
    return float(each.mean() if reduction == "mean" else each.sum())


SIZE = Family(
    "squared size",
    size,
    {"kind": ("squares", "absolute values"), "reduction": ("sum", "mean")},
    lambda case: case.inputs == "values",
    {},
    {},
)

FAMILIES = (DIFFERENCE, COSINE, HINGE, SIZE)
