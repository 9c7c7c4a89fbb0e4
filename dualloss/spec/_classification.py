"""Terms for class labels and probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ._base import Term, option, register
from ._validate import check_length, choice, fraction, integer, not_negative_or_several, not_negatives, optional


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class CrossEntropy(Term):
    """Softmax cross-entropy of logits, for class indices or dense targets of any values.

    At a position with `C` logits `x` and the target `t` (of a class index: 1 for its class, else 0):

        p  = softmax(x)
        t' = (1 - label_smoothing) * t + label_smoothing / C
        V  = -sum over c of  class_weights[c] * t'[c] * log(p[c])

    A class without target (`class_weights[c] * t'[c] = 0`) counts nothing, even where `p[c] = 0`.

    Options:
        label_smoothing: a number from 0 to 1; default 0, no smoothing.
        class_weights: one finite number >= 0 for each class (any sequence; kept as a tuple of floats), or
            None, the default: all 1. Each is 0 or of a magnitude that float32 holds as a normal number. The
            exact numerics use them rounded to float32. That there are `C` of them is checked when the loss
            sees an input.
        ignore_index: the label of positions to leave out, an integer of 64 bits, or None, the default. In a
            sum it applies to all terms.
        normalizer: what the mean divides the sum of `V` by. "weights" (default): the sum of `class_weights[c]
            * t[c]` over the valid positions (before smoothing), or their number without class weights.
            "valid": the number of valid positions. "all": the number of positions, ignored ones too. A
            position is valid unless its label is ignored or a mask excludes it.

    Sources: `torch.nn.CrossEntropyLoss`, whose mean over class indices is the one of "weights". Label
    smoothing: Szegedy et al. (2016), Rethinking the Inception Architecture for Computer Vision.
    """

    label_smoothing: float = option(0.0, fraction)
    class_weights: Sequence[float] | None = option(None, optional(not_negatives))
    ignore_index: int | None = option(None, optional(integer))
    normalizer: Literal["weights", "valid", "all"] = option("weights", choice("weights", "valid", "all"))

    needs_channels = True
    about_classes = True

    def check_layout(self, *, channels: int, spatial: int) -> None:
        """There must be one class weight for each class."""
        check_length("class_weights", self.class_weights, channels)


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class BinaryCrossEntropy(Term):
    """Binary cross-entropy of logits: every channel is a question of its own.

    At a position with `C` logits `x` and the targets `t`:

        t' = (1 - label_smoothing) * t + label_smoothing / 2
        p  = sigmoid(x)
        V  = mean over c of  -(pos_weight[c] * t'[c] * log(p[c]) + (1 - t'[c]) * log(1 - p[c]))

    The mean over positions divides by the number of valid ones (not ignored by another term of the sum, not
    masked).

    Options:
        pos_weight: the weight of the positive answer: a finite number >= 0, one for each channel (any
            sequence; kept as a tuple of floats), or None, the default: 1. Each is 0 or of a magnitude that
            float32 holds as a normal number. The exact numerics use them rounded to float32. That there are
            `C` of them is checked when the loss sees an input.
        label_smoothing: a number from 0 to 1; default 0, no smoothing.

    Sources: `torch.nn.BCEWithLogitsLoss` (with `pos_weight`); the smoothing is that of
    `keras.losses.BinaryCrossentropy`, after Szegedy et al. (2016).
    """

    pos_weight: float | Sequence[float] | None = option(None, optional(not_negative_or_several))
    label_smoothing: float = option(0.0, fraction)

    def check_layout(self, *, channels: int, spatial: int) -> None:
        """There must be one weight for each channel."""
        if isinstance(self.pos_weight, tuple):
            check_length("pos_weight", self.pos_weight, channels)
