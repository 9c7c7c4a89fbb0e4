"""Cross-entropies, focal losses and divergences, with the conventions of Keras, PyTorch, SMP, MONAI and kornia."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..case import Case
from ..probes import Array, Probe
from ._base import Family, activated, log_softmax, one_hot, reduced, sigmoid

LOW, HIGH = 1e-7, float(np.float32(1 - 1e-7))
"""Where Keras clips probabilities, in float32."""


def _classes(case: Case) -> bool:
    return case.classes is not None and case.classes > 1 and case.targets in ("index", "one-hot", "probabilities")


def _binary(case: Case) -> bool:
    return case.targets in ("binary", "one-hot", "probabilities") or (
        case.targets == "index" and case.classes is not None
    )


def cross_entropy(
    probe: Probe, activation: str, *, reads: str, clip: str, smoothing: float, smoothed_over: str,
    class_weight: tuple[float, ...] | None, weighted: str, ignore: int | None, ignored: str, empty: str, reduction: str,
    weighting: str,
) -> float:  # fmt: skip
    """`-sum_c w_c t_c log p_c` and what implementations make of it."""
    x, t = activated(probe, activation), one_hot(probe)
    classes = x.shape[-1]
    if reads == "probabilities":
        p = x / x.sum(-1, keepdims=True) if clip.startswith("sum to 1") else x
        if "1e-07" in clip:
            p = np.clip(p, LOW, HIGH)
        if clip == "1e-07, sum to 1":
            p = p / p.sum(-1, keepdims=True)
        log = np.log(p)
    elif reads == "log-probabilities":
        log = x
    elif reads == "logits, softmax twice":
        log = log_softmax(np.exp(log_softmax(x)))
    else:
        log = log_softmax(x)
    over = classes
    if smoothed_over in ("first spatial axis", "last spatial axis"):
        over = x.shape[1 if smoothed_over == "first spatial axis" else -2]
    valid = np.ones(t.shape[:-1], bool)
    if probe.labels and ignore is not None and ignored == "counted as the first class":
        t[probe.target == ignore, 0] = 1.0
    elif probe.labels and ignore is not None:
        valid = probe.target != ignore
    w = np.ones(classes) if class_weight is None or len(class_weight) != classes else np.asarray(class_weight)
    of_label = (t * w).sum(-1)
    if smoothed_over == "the other classes":
        t, smoothing = t * (1 - smoothing) + (1 - t) * smoothing / (classes - 1), 0.0
    finite = np.where(t == 0, 0.0, t * -log) if reads != "logits" else t * -log
    if smoothing:
        if weighted == "by the label, smoothed outside":  # Keras: the weight of a sample, after smoothing
            each = of_label * (((1 - smoothing) * t + smoothing / over) * -log).sum(-1)
        else:
            each = ((1 - smoothing) * t * w * -log).sum(-1) + smoothing / over * (w * -log).sum(-1)
    else:
        each = (w * finite).sum(-1)
    each = np.where(valid, each, 0.0)
    if ignored == "left out, by sample":
        counts = valid.reshape(len(each), -1).sum(1)
        means = each.reshape(len(each), -1).sum(1) / np.maximum(counts, 1)
        return float(np.where(counts == 0, 0.0 if empty == "0" else np.nan, means).mean())
    count: float = each.size
    if weighted == "divided by the sum of weights":
        count = float(np.where(valid, of_label, 0.0).sum())
    elif ignored == "left out":
        count = float(valid.sum())
    if not valid.any() and empty == "0":
        return 0.0
    if probe.weight is not None or reduction != "mean" or weighting == "ignored":
        return reduced(each, reduction, probe.weight, weighting) * (each.size / count if reduction == "mean" else 1.0)
    return float(each.sum()) / count if count else float("nan")


CROSS_ENTROPY = Family(
    "cross-entropy",
    cross_entropy,
    {
        "reads": ("logits", "logits, softmax twice", "probabilities", "log-probabilities"),
        "clip": ("no", "sum to 1, 1e-07", "1e-07, sum to 1", "1e-07", "sum to 1"),
        "smoothing": (0.0,),
        "smoothed_over": ("classes", "the other classes", "first spatial axis", "last spatial axis"),
        "class_weight": (None,),
        "weighted": ("divided by elements", "divided by the sum of weights", "by the label, smoothed outside"),
        "ignore": (None,),
        "ignored": ("left out", "divided by all", "counted as the first class", "left out, by sample"),
        "empty": ("nan", "0"),
        "reduction": ("mean", "sum", "sum, mean over samples"),
        "weighting": ("elements", "sum of weights", "last axis", "ignored"),
    },
    _classes,
    {"smoothing": ("smooth",), "class_weight": ("weight",)},
    {
        "clip": lambda o, _: o["reads"] == "probabilities",
        "smoothed_over": lambda o, _: bool(o["smoothing"]),
        "weighted": lambda o, _: o["class_weight"] is not None,
        "ignored": lambda o, _: o["ignore"] is not None,
        "empty": lambda o, _: o["ignore"] is not None,
        "weighting": lambda _, case: case.weights != "none",
    },
    "smoothing",
)


def binary_cross_entropy(
    probe: Probe, activation: str, *, reads: str, clip: str, smoothing: float, smoothing_form: str,
    pos_weight: float | tuple[float, ...], reduction: str, ignore: int | None, ignored: str, weighting: str,
) -> float:  # fmt: skip
    """`-(w t log p + (1 - t) log(1 - p))`."""
    x, t = activated(probe, activation), one_hot(probe)
    valid = np.ones(t.shape, bool)
    if ignore is not None:
        valid &= (probe.target != ignore)[..., None] if probe.labels else probe.target != ignore
        t = np.where(valid, t, 0.0)
    if smoothing:
        t = t * (1 - smoothing) + (smoothing / 2 if smoothing_form == "towards 1/2" else smoothing * (1 - t))
    if reads == "probabilities":
        p = np.clip(x, LOW, HIGH) if clip == "1e-07" else x
        yes, no = np.log(p), np.log1p(-p)
        if clip == "log at -100":
            yes, no = np.maximum(yes, -100.0), np.maximum(no, -100.0)
        each = -(np.where(t == 0, 0.0, np.asarray(pos_weight) * t * yes) + np.where(t == 1, 0.0, (1 - t) * no))
    else:
        z = sigmoid(x) if reads == "logits, sigmoid twice" else x
        yes, no = -np.logaddexp(0.0, -z), -np.logaddexp(0.0, z)
        each = -(np.asarray(pos_weight) * t * yes + (1 - t) * no)
    each = np.where(valid, each, 0.0)
    if reduction == "mean of sums over classes":
        return float(each.sum() / (each.size / each.shape[-1])) if probe.channels else float(each.mean())
    share = valid.mean() if ignored == "left out" and reduction == "mean" else 1.0
    return reduced(each, reduction, probe.weight, weighting) / share if share else float("nan")


BINARY_CROSS_ENTROPY = Family(
    "binary cross-entropy",
    binary_cross_entropy,
    {
        "reads": ("logits", "probabilities", "logits, sigmoid twice"),
        "clip": ("no", "1e-07", "log at -100"),
        "smoothing": (0.0,),
        "smoothing_form": ("towards 1/2", "towards the other class"),
        "pos_weight": (1.0,),
        "reduction": ("mean", "sum", "sum, mean over samples", "mean of sums over classes"),
        "ignore": (None,),
        "ignored": ("left out", "divided by all"),
        "weighting": ("elements", "sum of weights", "last axis", "ignored"),
    },
    _binary,
    {"smoothing": ("smooth",), "pos_weight": ("pos_weight",)},
    {
        "clip": lambda o, _: o["reads"] == "probabilities",
        "smoothing_form": lambda o, _: o["smoothing"] != 0,
        "weighting": lambda _, case: case.weights != "none",
        "ignored": lambda o, _: o["ignore"] is not None,
    },
    "pos_weight",
)


def focal(
    probe: Probe, activation: str, *, reads: str, structure: str, gamma: float, alpha: float | None, balance: str,
    average: str, clip: str, smoothing: float,
) -> float:  # fmt: skip
    """`-alpha (1 - p)^gamma log p` over classes."""
    x, t = activated(probe, activation), one_hot(probe)
    classes = x.shape[-1]
    t = t * (1 - smoothing) + smoothing / classes
    if structure == "one against the rest":
        z = x if reads == "logits" else np.log(x) - np.log1p(-x)
        yes, no = -np.logaddexp(0.0, -z), -np.logaddexp(0.0, z)
        a = 1.0 if alpha is None else alpha * t + (1 - alpha) * (1 - t)
        p_t = sigmoid(z) * t + sigmoid(-z) * (1 - t)
        each = a * (1 - p_t) ** gamma * -(t * yes + (1 - t) * no)
    else:
        log = log_softmax(x) if reads == "logits" else np.log(x)
        if clip != "no":
            p = np.exp(log)
            log = np.log(np.clip(p / p.sum(-1, keepdims=True), LOW, HIGH))
        a = np.ones(classes)
        if alpha is not None:
            a = np.full(classes, alpha)
            if balance == "1 - alpha for the first class":
                a[0] = 1 - alpha
        p = np.exp(log)
        each = a * (1 - p) ** gamma * -np.where(t == 0, 0.0, t * log)
    if average == "positions":
        return float(each.sum(-1).mean())
    if average == "sum":
        return float(each.sum())
    if average == "sum of means over positions":
        return float(each.mean(tuple(range(1, each.ndim - 1))).sum()) if each.ndim > 2 else float(each.sum())
    return float(each.mean())


FOCAL = Family(
    "focal loss",
    focal,
    {
        "reads": ("logits", "probabilities"),
        "structure": ("softmax", "one against the rest"),
        "gamma": (2.0, 1.0, 3.0),
        "alpha": (None, 0.25),
        "balance": ("the same for all classes", "1 - alpha for the first class"),
        "average": ("positions", "positions and classes", "sum", "sum of means over positions"),
        "clip": ("no", "1e-07"),
        "smoothing": (0.0,),
    },
    _classes,
    {"gamma": ("gamma",), "alpha": ("alpha",), "smoothing": ("smooth",)},
    {
        "balance": lambda o, _: o["alpha"] is not None and o["structure"] == "softmax",
        "clip": lambda o, _: o["structure"] == "softmax",
    },
)


def binary_focal(
    probe: Probe, activation: str, *, reads: str, gamma: float, alpha: float | None, reduction: str, clip: str
) -> float:
    """`-alpha_t (1 - p_t)^gamma log p_t` of 0 and 1."""
    x, t = activated(probe, activation), one_hot(probe)
    if reads == "logits":
        p, yes, no = sigmoid(x), -np.logaddexp(0.0, -x), -np.logaddexp(0.0, x)
    else:
        p = np.clip(x, LOW, HIGH) if clip == "1e-07" else x
        yes, no = np.log(p), np.log1p(-p)
    p_t = p * t + (1 - p) * (1 - t)
    a: Any = 1.0 if alpha is None else alpha * t + (1 - alpha) * (1 - t)
    each = a * (1 - p_t) ** gamma * -(np.where(t == 0, 0.0, t * yes) + np.where(t == 1, 0.0, (1 - t) * no))
    return reduced(each, reduction)


BINARY_FOCAL = Family(
    "binary focal loss",
    binary_focal,
    {
        "reads": ("logits", "probabilities"),
        "gamma": (2.0, 1.0, 3.0),
        "alpha": (None, 0.25, 0.5, 0.75),
        "reduction": ("mean", "sum"),
        "clip": ("no", "1e-07"),
    },
    lambda case: case.targets == "binary",
    {"gamma": ("gamma",), "alpha": ("alpha",)},
    {"clip": lambda o, _: o["reads"] == "probabilities"},
)


def kl_divergence(probe: Probe, activation: str, *, reads: str, order: str, clip: str, reduction: str) -> float:
    """`sum_c t_c (log t_c - log p_c)`."""
    x, t = activated(probe, activation), one_hot(probe)
    if order == "reversed":
        x, t = t, x
        p, log_t = x, t if reads == "log-probabilities" else None
        if log_t is not None:
            t = np.exp(log_t)
    else:
        p = np.exp(x) if reads == "log-probabilities" else np.exp(log_softmax(x)) if reads == "logits" else x
    if clip == "1e-07":
        p, t = np.clip(p, LOW, 1), np.clip(t, LOW, 1)
    each = np.where(t == 0, 0.0, t * (np.log(np.where(t == 0, 1.0, t)) - np.log(p)))
    positions = each.size / each.shape[-1]
    divisor = {
        "positions": positions, "positions and classes": each.size, "samples": each.shape[0], "sum": 1.0,
    }[reduction]  # fmt: skip
    return float(each.sum() / divisor)


KL_DIVERGENCE = Family(
    "Kullback-Leibler divergence",
    kl_divergence,
    {
        "reads": ("log-probabilities", "probabilities", "logits"),
        "order": ("target from input", "reversed"),
        "clip": ("no", "1e-07"),
        "reduction": ("positions", "positions and classes", "samples", "sum"),
    },
    lambda case: case.targets in ("probabilities", "one-hot"),
    {},
    {},
)


def poisson(probe: Probe, activation: str, *, reads: str, eps: float, reduction: str) -> float:
    """`exp(x) - t x`, or of rates `x - t log x`."""
    x, t = activated(probe, activation), one_hot(probe)
    each: Array = np.exp(x) - t * x if reads == "logarithms of rates" else x - t * np.log(x + eps)
    return reduced(each, reduction)


POISSON = Family(
    "Poisson loss",
    poisson,
    {
        "reads": ("logarithms of rates", "rates"),
        "eps": (0.0, 1e-7, 1e-8),
        "reduction": ("mean", "sum"),
    },
    lambda case: case.targets in ("values", "binary"),
    {"eps": ("eps",)},
    {"eps": lambda o, _: o["reads"] == "rates"},
)

FAMILIES = (CROSS_ENTROPY, BINARY_CROSS_ENTROPY, FOCAL, BINARY_FOCAL, KL_DIVERGENCE, POISSON)
