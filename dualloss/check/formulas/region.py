"""Dice, Jaccard and Tversky: what they add up, over which axes, and what they do where nothing is there."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..case import Case
from ..probes import Probe
from ._base import Family, activated, log_softmax, one_hot, sigmoid


def _masks(case: Case) -> bool:
    return case.targets in ("binary", "one-hot", "index", "probabilities")


def overlap(
    probe: Probe, activation: str, *, reads: str, kind: str, over: str, smooth: tuple[float, float],
    weights: tuple[float, float], squared: str, absent: str, background: str, power: float, log: str,
) -> float:  # fmt: skip
    """`1 - (TP + s) / (TP + a FP + b FN + s')`, over samples, classes or everything."""
    x, t = activated(probe, activation), one_hot(probe)
    if not probe.channels:
        x, t = x[..., None], t[..., None]
    p = x
    if reads == "logits, softmax":
        p = np.exp(log_softmax(x))
    elif reads == "logits, sigmoid":
        p = sigmoid(x)
    if background == "left out" and p.shape[-1] > 1:
        p, t = p[..., 1:], t[..., 1:]
    inner = tuple(range(1, p.ndim - 1))
    axes: Any = {
        "everything": None, "the batch, by class": (0, *inner), "samples and classes": inner,
        "samples": (*inner, p.ndim - 1),
    }[over]  # fmt: skip
    both = (p * t).sum(axes)
    p_size = (p * p if squared == "both squared" else p).sum(axes)
    t_size = (t * t if squared == "both squared" else t).sum(axes)
    (a, b), (top, bottom) = weights, smooth
    if kind == "dice":
        above, under = 2 * both + top, p_size + t_size + bottom
    elif kind == "dice without the 2":
        above, under = both + top, p_size + t_size + bottom
    elif kind == "jaccard":
        above, under = both + top, p_size + t_size - both + bottom
    else:
        above, under = both + top, both + a * (p_size - both) + b * (t_size - both) + bottom
    if absent == "denominator at least 1e-7":
        under = np.maximum(under, 1e-7)
    score = above / under
    each = -np.log(np.maximum(score, 1e-7)) if log == "yes" else 1 - score
    if absent == "left out of the mean":
        there = np.asarray(t.sum(axes) > 0)
        return float(np.mean(np.where(there, each, 0.0).sum(-1) / np.maximum(there.sum(-1), 1)))
    if absent != "as it comes":
        each = each * (t.sum(axes) > 0)
    if power != 1.0:
        each = each**power
    return float(np.mean(each))


OVERLAP = Family(
    "overlap",
    overlap,
    {
        "reads": ("probabilities", "logits, sigmoid", "logits, softmax"),
        "kind": ("dice", "jaccard", "tversky", "dice without the 2"),
        "over": ("everything", "the batch, by class", "samples and classes", "samples"),
        "smooth": ((0.0, 0.0), (1e-7, 1e-7), (1e-6, 1e-6), (1e-5, 1e-5), (1.0, 1.0), (0.0, 1e-7), (0.0, 1e-5)),
        "weights": ((0.5, 0.5), (0.3, 0.7), (0.7, 0.3)),
        "squared": ("no", "both squared"),
        "absent": (
            "as it comes",
            "0, denominator at least 1e-7",
            "denominator at least 1e-7",
            "0",
            "left out of the mean",
        ),
        "background": ("counts", "left out"),
        "power": (1.0, 0.75, 4 / 3, 2.0),
        "log": ("no",),
    },
    _masks,
    {"power": ("gamma",)},
    {
        "weights": lambda o, _: o["kind"] == "tversky",
        "squared": lambda o, _: o["kind"] != "tversky",
        "power": lambda o, _: o["kind"] == "tversky" and o["absent"] == "as it comes",
        "background": lambda _, case: case.classes is not None and case.classes > 1,
    },
)

FAMILIES = (OVERLAP,)
