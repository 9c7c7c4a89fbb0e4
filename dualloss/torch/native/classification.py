"""Cross-entropies."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from ...spec import BinaryCrossEntropy, CrossEntropy
from .core import (
    Found,
    Inputs,
    Labels,
    constants,
    implements,
    kept,
    over_channels,
    per_channel,
    select,
    smooth,
    target,
    weighted_log,
)


@implements(CrossEntropy)
def cross_entropy(term: CrossEntropy, inputs: Inputs) -> Found:
    """`-sum_c w_c t'_c log p_c`; framework primitives for class indices, log-softmax for dense targets."""
    keep = kept(inputs.valid, inputs.weight)
    x = select(keep, inputs.x)
    w = None if term.class_weights is None else constants(term.class_weights, x)

    if isinstance(inputs.target, Labels) and not term.label_smoothing:
        ids, known = inputs.target
        # The label's weight says the rest about it as well: NaN out of range, 0 where not kept.
        u = torch.ones_like(ids, dtype=x.dtype) if w is None else w[ids]
        weights = u = torch.where(known, u, math.nan)
        values = weighted_log(select(keep, u), F.cross_entropy(x, ids, reduction="none"))
    else:
        t = target(inputs)
        u = smooth(select(keep, t), term.label_smoothing, 1 / x.shape[1])
        u = u if w is None else per_channel(w, x) * u
        weights = t if w is None else per_channel(w, x) * t
        values = select(keep, weighted_log(u, -F.log_softmax(x, 1)).sum(1))

    if w is None:
        return Found(values, inputs.valid)
    return Found(values, inputs.valid, select(inputs.valid, weights))


@implements(BinaryCrossEntropy)
def binary_cross_entropy(term: BinaryCrossEntropy, inputs: Inputs) -> Found:
    """Mean over channels of `-(pi t' log sigmoid(x) + (1 - t') log sigmoid(-x))`."""
    keep = kept(inputs.valid, inputs.weight)
    x = select(keep, inputs.x)
    t = smooth(select(keep, target(inputs)), term.label_smoothing, 1 / 2)
    positive = t
    if term.pos_weight is not None:
        positive = per_channel(constants(term.pos_weight, x), x) * t
    # Two log-sigmoids rather than the primitive: it cancels for confident answers.
    values = weighted_log(positive, -F.logsigmoid(x)) + weighted_log(1 - t, -F.logsigmoid(-x))
    return Found(select(keep, over_channels(term, values)), inputs.valid)
