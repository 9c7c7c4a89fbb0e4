"""Softmax and sigmoid of docs/numerics/classification.md, and the way of a gradient back through them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from .arithmetic import INF, NAN, asum, chop, ex_star, exp_star, ln1p_star, log1p_star, times
from .core import Batch, Rows


@dataclass(frozen=True)
class Softmax:
    """Of one position: d_c, p_c, r_c (which is 1 - p_c) and L; all NaN where it is bad."""

    bad: bool
    d: list[float]
    p: list[float]
    rest: list[float]
    log_sum: float


def softmax(
    x: list[float], exp: Callable[[float], float] = exp_star, log1p: Callable[[float], float] = log1p_star
) -> Softmax:
    """Softmax."""
    if any(math.isnan(v) or v == INF for v in x) or all(v == -INF for v in x):
        nans = [NAN] * len(x)
        return Softmax(True, nans, nans, nans, NAN)
    m = max(x)
    d = [v - m for v in x]
    e = [exp(v) for v in d]
    k0 = sum(v == 0 for v in d)
    t = asum([ec if dc < 0 else 0.0 for ec, dc in zip(e, d, strict=True)])
    others, whole = t + (k0 - 1), t + k0
    p = [ec / whole for ec in e]
    rest = [(others if dc == 0 else whole - ec) / whole for dc, ec in zip(d, e, strict=True)]
    return Softmax(False, d, p, rest, log1p(others))


def fine_softmax(x: list[float]) -> Softmax:
    """Softmax, the fine one."""
    return softmax(x, ex_star, ln1p_star)


def through_softmax(soft: Softmax, g: list[float]) -> list[float]:
    """docs/numerics/segmentation.md, Boundary: from the gradient for the probabilities that for the logits."""
    if all(gc == 0 for gc in g):
        return [0.0] * len(g)
    if soft.bad or any(math.isnan(gc) for gc in g):
        return [NAN] * len(g)
    shift = max(gc for gc, dc in zip(g, soft.d, strict=True) if dc == 0)
    h = [gc - shift for gc in g]
    q = [chop(pc) for pc in soft.p]
    total = asum([qc * hc for qc, hc in zip(q, h, strict=True)])
    return [times(qc, hc - total) for qc, hc in zip(q, h, strict=True)]


@dataclass(frozen=True)
class Sigmoid:
    """Of one number: the sigmoid, 1 - the sigmoid, and -log of either."""

    sigma: float
    sigma_bar: float
    n_plus: float
    n_minus: float


def sigmoid(x: float) -> Sigmoid:
    """Sigmoid."""
    if math.isnan(x):
        return Sigmoid(NAN, NAN, NAN, NAN)
    v = exp_star(-abs(x))
    log_sum = log1p_star(v)
    near, far = 1 / (1 + v), v / (1 + v)
    return Sigmoid(
        near if x >= 0 else far,
        far if x >= 0 else near,
        (-x if x < 0 else 0.0) + log_sum,
        (x if x > 0 else 0.0) + log_sum,
    )


@dataclass(frozen=True)
class Activated:
    """Probabilities p of every element, 1 - p, and `back`: from the gradient for p that for the input."""

    p: Rows
    rest: Rows
    back: Callable[[Rows], Rows]


def activate(activation: str, batch: Batch) -> Activated:
    """The option `activation` of region terms and DistanceMap."""
    if activation == "softmax":
        softs = [softmax(row) for row in batch.x]
        return Activated(
            [soft.p for soft in softs],
            [soft.rest for soft in softs],
            lambda h: [through_softmax(soft, row) for soft, row in zip(softs, h, strict=True)],
        )
    if activation == "sigmoid":
        sigmoids = [[sigmoid(x) for x in row] for row in batch.x]

        def back(h: Rows) -> Rows:
            return [
                [0.0 if hc == 0 else times(hc, times(s.sigma, s.sigma_bar)) for hc, s in zip(row, of_row, strict=True)]
                for row, of_row in zip(h, sigmoids, strict=True)
            ]

        p = [[s.sigma for s in row] for row in sigmoids]
        return Activated(p, [[s.sigma_bar for s in row] for row in sigmoids], back)
    return Activated(batch.x, [[1 - x for x in row] for row in batch.x], lambda h: h)
