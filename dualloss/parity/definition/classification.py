"""The terms of docs/numerics/classification.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .core import (
    NAN,
    Batch,
    Term,
    asum,
    chop,
    each_channel,
    exact_sum,
    exp_star,
    float32,
    implements,
    log1p_star,
    pointwise,
    softmax,
    times,
)


@implements("CrossEntropy", about_classes=True)
def cross_entropy(options: Any, batch: Batch) -> Term:
    """docs/numerics/classification.md, CrossEntropy."""
    classes = batch.channels
    weights = None if options.class_weights is None else [float32(w) for w in options.class_weights]
    if weights is not None and len(weights) != classes:
        raise ValueError(f"class_weights has {len(weights)} numbers, expected {classes}")
    epsilon = options.label_smoothing
    keep, spread = float32(1 - epsilon), float32(epsilon / classes)

    values, gradients = [], []
    for x, t in zip(batch.x, batch.t, strict=True):
        soft = softmax(x)
        if soft is None:
            values.append(NAN)
            gradients.append([NAN] * classes)
            continue
        d, log_sum = soft.d, soft.log_sum
        smoothed = t if epsilon == 0 else [chop(keep * tc + spread) for tc in t]
        u = smoothed if weights is None else [times(w, v) for w, v in zip(weights, smoothed, strict=True)]
        terms = [0.0 if uc == 0 else uc * (log_sum - dc) for uc, dc in zip(u, d, strict=True)]
        values.append(chop(asum(terms)))
        total = asum(u)
        not_p = [
            soft.others / soft.whole if dc == 0 else (soft.whole - ec) / soft.whole
            for dc, ec in zip(d, soft.e, strict=True)
        ]
        gradients.append([times(pc, total - uc) - times(uc, rc) for pc, uc, rc in zip(soft.p, u, not_p, strict=True)])

    if options.normalizer == "elements":
        normalizer = float(batch.n)
    elif options.normalizer == "valid" or weights is None:
        normalizer = float(sum(batch.valid))
    else:
        normalizer = exact_sum(
            asum([times(w, tc) for w, tc in zip(weights, t, strict=True)])
            for t, valid in zip(batch.t, batch.valid, strict=True)
            if valid
        )
    return Term(values, batch.valid, normalizer, False, pointwise(gradients))


@implements("BinaryCrossEntropy")
def binary_cross_entropy(options: Any, batch: Batch) -> Term:
    """docs/numerics/classification.md, BinaryCrossEntropy."""
    epsilon = options.label_smoothing
    keep, spread = float32(1 - epsilon), float32(epsilon / 2)
    positive = options.pos_weight
    if positive is not None and not isinstance(positive, Sequence):
        positive = [positive] * batch.channels
    if positive is not None and len(positive) != batch.channels:
        raise ValueError(f"pos_weight has {len(positive)} numbers, expected {batch.channels}")

    def one(channel: int, x: float, t: float) -> tuple[tuple[float, ...], float]:
        if math.isnan(x):
            return (NAN, NAN), NAN
        smoothed = t if epsilon == 0 else chop(keep * t + spread)
        alpha = smoothed if positive is None else times(float32(positive[channel]), smoothed)
        beta = 1 - smoothed
        v = exp_star(-abs(x))
        log_sum = log1p_star(v)
        sigma = 1 / (1 + v) if x >= 0 else v / (1 + v)
        sigma_bar = v / (1 + v) if x >= 0 else 1 / (1 + v)
        a = 0.0 if alpha == 0 else alpha * ((-x if x < 0 else 0.0) + log_sum)
        b = 0.0 if beta == 0 else beta * ((x if x > 0 else 0.0) + log_sum)
        return (a, b), times(beta, sigma) - times(alpha, sigma_bar)

    return each_channel(batch, one)
