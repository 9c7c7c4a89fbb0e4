"""Cross-entropies."""

from __future__ import annotations

import numpy as np

from ..spec import BinaryCrossEntropy, CrossEntropy
from .core import Found, Inputs, Softmax, exact_sum, float32, implements, pointwise, smooth, sum_of_others, weighted_log
from .distances import Bound


@implements(CrossEntropy, native=Bound(loss=4, map=4, gradient=10))
def cross_entropy(term: CrossEntropy, inputs: Inputs) -> Found:
    """`V = -sum_c u_c log p_c` with `u_c = w_c t'_c`; gradient `p_c sum_j u_j - u_c`."""
    channels = inputs.x.shape[-1]
    w = np.ones(channels, np.longdouble)
    if term.class_weights is not None:
        w = np.array([float32(v) for v in term.class_weights])
    u = w * smooth(inputs.t, term.label_smoothing, 1 / channels)
    soft = Softmax.of(inputs.x)
    value = weighted_log(u, soft.minus_log).sum(-1)
    # p_c sum_j u_j - u_c, the two shares of u_c taken together: for a single class nothing cancels.
    g = soft.p * sum_of_others(u) - u * soft.rest

    normaliser = np.longdouble(inputs.valid.sum())
    if term.normalizer == "elements":
        normaliser = np.longdouble(inputs.valid.size)
    elif term.normalizer == "weights" and term.class_weights is not None:
        normaliser = exact_sum(np.where(inputs.valid, (w * inputs.t).sum(-1), 0.0))
    return Found(value, inputs.valid, normaliser, pointwise(g))


@implements(BinaryCrossEntropy, native=Bound(loss=4, map=5, gradient=6))
def binary_cross_entropy(term: BinaryCrossEntropy, inputs: Inputs) -> Found:
    """Mean over c of `-a log sigmoid(x) - b log sigmoid(-x)`; gradient `b sigmoid(x) - a sigmoid(-x)`."""
    x, channels = inputs.x, inputs.x.shape[-1]
    t = smooth(inputs.t, term.label_smoothing, 1 / 2)
    weights = term.pos_weight if isinstance(term.pos_weight, tuple) else (term.pos_weight,)
    a = t if term.pos_weight is None else np.array([float32(v) for v in weights]) * t
    b = 1 - t
    small = np.exp(-abs(x))
    minus_log = np.maximum(-x, 0) + np.log1p(small)  # -log sigmoid(x)
    minus_log_other = np.maximum(x, 0) + np.log1p(small)  # -log sigmoid(-x)
    value = (weighted_log(a, minus_log) + weighted_log(b, minus_log_other)).mean(-1)
    near, far = 1 / (1 + small), small / (1 + small)
    g = b * np.where(x >= 0, near, far) - a * np.where(x >= 0, far, near)
    return Found(value, inputs.valid, np.longdouble(inputs.valid.sum()), pointwise(g / channels))
