"""Terms for class labels and probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ._base import NORMALIZERS, Normalizer, PerChannel, PerPosition, option, register
from ._validate import (
    boolean,
    check_length,
    choice,
    clip_margin,
    fraction,
    integer,
    not_negative,
    not_negative_or_several,
    not_negatives,
    number,
    optional,
    positive,
    show,
)

INPUTS = choice("logits", "probabilities")
WITH_WEIGHTS = choice("weights", *NORMALIZERS)


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class CrossEntropy(PerPosition):
    """Softmax cross-entropy, for class indices or dense targets of any values.

    At a position with `C` inputs `x` and the target `t` (of a class index: 1 for its class, else 0):

        p  = softmax(x)                                             inputs="logits"
             clip(x / sum of x, clip, 1 - clip)                     inputs="probabilities", renormalize="before"
             y / sum of y,  y = clip(x, clip, 1 - clip)             inputs="probabilities", renormalize="after"
             clip(x, clip, 1 - clip)                                inputs="probabilities", renormalize="never"
        t' = (1 - label_smoothing) * t + label_smoothing / C
        V  = -sum over c of  class_weights[c] * t'[c] * log(p[c])

    A class without target (`class_weights[c] * t'[c] = 0`) counts nothing, even where `p[c] = 0`.

    Options:
        inputs: "logits" (default) or "probabilities".
        clip: how far probabilities are kept from 0 and 1, from 3e-8 and below 0.5; default 1e-7. It has no meaning
            for logits. Beyond it the gradient is 0.
        renormalize: when probabilities are divided by their sum: "before" the clip (default), "after" it, or "never".
            No meaning for logits.
        label_smoothing: a number from 0 to 1; default 0, no smoothing.
        class_weights: one finite number >= 0 for each class (any sequence; kept as a tuple of floats), or
            None, the default: all 1. Each is 0 or of a magnitude that float32 holds as a normal number. The
            exact numerics use them rounded to float32. That there are `C` of them is checked when the loss
            sees an input.
        ignore_index: the label of positions to leave out, an integer of 64 bits, or None, the default. In a
            sum it applies to all terms.
        normalizer: as of all such terms, and "weights" (the default here): the sum of `class_weights[c] * t[c]`
            over the valid positions (before smoothing), or their number without class weights. A position is
            valid unless its label is ignored or a mask excludes it.
        empty: as of all such terms.

    Sources: `torch.nn.CrossEntropyLoss`, whose mean over class indices is the one of "weights". Label
    smoothing: Szegedy et al. (2016), Rethinking the Inception Architecture for Computer Vision. Probabilities:
    `keras.losses.CategoricalCrossentropy` ("before"), `keras.losses.SparseCategoricalCrossentropy` ("after").
    """

    inputs: Literal["logits", "probabilities"] = option("logits", INPUTS)
    clip: float = option(1e-7, clip_margin)
    renormalize: Literal["before", "after", "never"] = option("before", choice("before", "after", "never"))
    label_smoothing: float = option(0.0, fraction)
    class_weights: Sequence[float] | None = option(None, optional(not_negatives))
    ignore_index: int | None = option(None, optional(integer))
    normalizer: Normalizer = option("weights", WITH_WEIGHTS)

    needs_channels = True
    about_classes = True
    zero_gradient = 'inputs="probabilities": 0 where clipped'

    def check_layout(self, *, channels: int, spatial: int) -> None:
        """There must be one class weight for each class."""
        check_length("class_weights", self.class_weights, channels)


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class NegativeLogLikelihood(PerPosition):
    """Negative log-likelihood of log-probabilities, such as a log-softmax gives.

    At a position with `C` inputs `x` and the target `t` (of a class index: 1 for its class, else 0):

        V = -sum over c of  class_weights[c] * t[c] * x[c]

    A class without target counts nothing, even where `x[c]` is infinite.

    Options:
        class_weights, ignore_index, normalizer, empty: as of `CrossEntropy`.

    Source: `torch.nn.NLLLoss`.
    """

    class_weights: Sequence[float] | None = option(None, optional(not_negatives))
    ignore_index: int | None = option(None, optional(integer))
    normalizer: Normalizer = option("weights", WITH_WEIGHTS)

    needs_channels = True
    about_classes = True
    zero_gradient = "of the other classes: 0"

    def check_layout(self, *, channels: int, spatial: int) -> None:
        """There must be one class weight for each class."""
        check_length("class_weights", self.class_weights, channels)


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class BinaryCrossEntropy(PerChannel):
    """Binary cross-entropy: every channel is a question of its own.

    At a position with `C` inputs `x` and the targets `t`:

        t' = (1 - label_smoothing) * t + label_smoothing / 2
        p  = sigmoid(x)                                     inputs="logits"
             clip(x, clip, 1 - clip)                        inputs="probabilities", clip a number
             x, log(p) and log(1 - p) at least -100         inputs="probabilities", clip=None
        V  = mean over c of  class_weights[c] * -(pos_weight[c] * t'[c] * log(p[c]) + (1 - t'[c]) * log(1 - p[c]))

    Options:
        inputs: "logits" (default) or "probabilities".
        clip: how far probabilities are kept from 0 and 1: from 3e-8 and below 0.5, default 1e-7; the gradient is 0
            beyond. None: the logarithms are kept above -100, and the gradient is that of `torch.nn.BCELoss`,
            `(p - t') / max(p * (1 - p), 1e-12)`. No meaning for logits.
        pos_weight: the weight of the positive answer: a finite number >= 0, one for each channel (any
            sequence; kept as a tuple of floats), or None, the default: 1. Each is 0 or of a magnitude that
            float32 holds as a normal number. The exact numerics use them rounded to float32. That there are
            `C` of them is checked when the loss sees an input.
        class_weights: the weight of each channel: such a sequence, or None, the default: all 1. It scales values,
            not what the mean divides by.
        label_smoothing: a number from 0 to 1; default 0, no smoothing.
        ignore_value: a number: elements whose dense target is this number have the value and gradient 0; they stay
            in what the mean divides by. Default None.

    Further options: `normalizer`, `empty`, `channels`, as of all such terms.

    Sources: `torch.nn.BCEWithLogitsLoss` (with `pos_weight`), `torch.nn.BCELoss`; the smoothing and the clip are
    those of `keras.losses.BinaryCrossentropy`, the smoothing after Szegedy et al. (2016).
    """

    inputs: Literal["logits", "probabilities"] = option("logits", INPUTS)
    clip: float | None = option(1e-7, optional(clip_margin))
    pos_weight: float | Sequence[float] | None = option(None, optional(not_negative_or_several))
    class_weights: Sequence[float] | None = option(None, optional(not_negatives))
    label_smoothing: float = option(0.0, fraction)
    ignore_value: float | None = option(None, optional(number))

    zero_gradient = 'inputs="probabilities": 0 where clipped'

    def check_options(self) -> None:
        """`torch.nn.BCELoss` knows no `pos_weight`, and its gradient has no place for one."""
        if self.inputs == "probabilities" and self.clip is None and self.pos_weight is not None:
            raise ValueError(f"pos_weight={show(self.pos_weight)} with clip=None, expected a clip, or no pos_weight")

    def check_layout(self, *, channels: int, spatial: int) -> None:
        """There must be one weight for each channel."""
        check_length("class_weights", self.class_weights, channels)
        if isinstance(self.pos_weight, tuple):
            check_length("pos_weight", self.pos_weight, channels)


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class Focal(PerChannel):
    """Focal loss over classes: cross-entropy that counts less where the answer is right already.

    At a position with `C` inputs `x` and the target `t` (of a class index: 1 for its class, else 0):

        p  = softmax(x), or clip(softmax(x), clip, 1 - clip)        inputs="logits"; with clip_softmax
             clip(x / sum of x, clip, 1 - clip)                     inputs="probabilities"
             clip(x, clip, 1 - clip)                                inputs="probabilities", renormalize=False
        t' = (1 - label_smoothing) * t + label_smoothing / C
        V  = sum over c of  alpha[c] * (1 - p[c])**gamma * t'[c] * -log(p[c])

    Options:
        gamma: the exponent, a finite number >= 0; default 2. With 0 it is the cross-entropy.
        alpha: the weight of each class, a number for all, or None, the default: 1.
        inputs, clip, label_smoothing, ignore_index: as of `CrossEntropy`.
        renormalize: whether probabilities are divided by their sum before the clip (default True).
        clip_softmax: whether the softmax of logits is clipped as well (default False).
        channels: "sum" (default) or "mean" over the classes.
        normalizer, empty: as of all such terms ("valid" is the default).

    Sources: Lin et al. (2017), Focal Loss for Dense Object Detection; `keras.losses.CategoricalFocalCrossentropy`.
    """

    gamma: float = option(2.0, not_negative)
    alpha: float | Sequence[float] | None = option(None, optional(not_negative_or_several))
    inputs: Literal["logits", "probabilities"] = option("logits", INPUTS)
    clip: float = option(1e-7, clip_margin)
    renormalize: bool = option(True, boolean)
    clip_softmax: bool = option(False, boolean)
    label_smoothing: float = option(0.0, fraction)
    ignore_index: int | None = option(None, optional(integer))
    channels: Literal["mean", "sum"] = option("sum", choice("mean", "sum"))

    needs_channels = True
    about_classes = True
    zero_gradient = 'inputs="probabilities": 0 where clipped'

    def check_layout(self, *, channels: int, spatial: int) -> None:
        """There must be one weight for each class."""
        if isinstance(self.alpha, tuple):
            check_length("alpha", self.alpha, channels)


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class BinaryFocal(PerChannel):
    """Binary focal loss: every channel is a question of its own (one class against the rest).

    At a position with `C` inputs `x` and the targets `t`:

        t' = (1 - label_smoothing) * t + label_smoothing / 2
        p  = sigmoid(x)                       inputs="logits"
             clip(x, clip, 1 - clip)          inputs="probabilities"
        q  = t' * p + (1 - t') * (1 - p)      (probabilities: of x itself, not clipped)
        b  = -(t' * log(p) + (1 - t') * log(1 - p))
        a  = alpha * t' + (1 - alpha) * (1 - t'), or 1 without alpha
        V  = mean over c of  class_weights[c] * a[c] * (1 - q[c])**gamma * b[c]

    Options:
        gamma: the exponent, a finite number >= 0; default 2. With 0 it is the binary cross-entropy.
        alpha: the weight of the positive answer, from 0 to 1 (the negative one has 1 - alpha), or None, the
            default.
        class_weights: the weight of each channel, or None, the default: all 1.
        inputs: "logits" (default) or "probabilities".
        clip: how far probabilities are kept from 0 and 1: from 3e-8 and below 0.5, default 1e-7; the gradient is 0
            beyond. No meaning for logits.
        label_smoothing: a number from 0 to 1; default 0.
        ignore_index: the label of positions to leave out, or None, the default. In a sum it applies to all terms.

    Further options: `normalizer`, `empty`, `channels`, as of all such terms.

    Sources: Lin et al. (2017), Focal Loss for Dense Object Detection; `keras.losses.BinaryFocalCrossentropy`.
    """

    gamma: float = option(2.0, not_negative)
    alpha: float | None = option(None, optional(fraction))
    class_weights: Sequence[float] | None = option(None, optional(not_negatives))
    inputs: Literal["logits", "probabilities"] = option("logits", INPUTS)
    clip: float = option(1e-7, clip_margin)
    label_smoothing: float = option(0.0, fraction)
    ignore_index: int | None = option(None, optional(integer))

    zero_gradient = 'inputs="probabilities": 0 where clipped'

    def check_layout(self, *, channels: int, spatial: int) -> None:
        """There must be one weight for each channel."""
        check_length("class_weights", self.class_weights, channels)


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class KLDivergence(PerChannel):
    """Kullback-Leibler divergence of the input's distribution from the target's.

    At a position with `C` inputs `x` and the targets `t`:

        l = log_softmax(x)                    inputs="logits"
            x                                 inputs="log_probabilities"
            log(x), x in [clip, 1]            inputs="probabilities"
        V = sum over c of  t[c] * (log(t[c]) - l[c])             log_target=False
                           exp(t[c]) * (t[c] - l[c])             log_target=True

    A class with `t[c] <= 0` (log_target: `exp(t[c]) = 0`) counts nothing.

    Options:
        inputs: "logits" (default), "log_probabilities" or "probabilities".
        log_target: whether the targets are logarithms; default False.
        clip: for probabilities, input and target are kept in [clip, 1] (then `t[c] <= 0` counts as `clip`): a number
            from 3e-8 and below 0.5; default 1e-7; the input's gradient is 0 beyond. No meaning for other inputs.
        channels: "sum" (default) or "mean" over the classes.
        normalizer, empty: as of all such terms.

    Sources: Kullback and Leibler (1951), On Information and Sufficiency; `torch.nn.KLDivLoss`
    ("log_probabilities"), `keras.losses.KLDivergence` ("probabilities").
    """

    inputs: Literal["logits", "log_probabilities", "probabilities"] = option(
        "logits", choice("logits", "log_probabilities", "probabilities")
    )
    log_target: bool = option(False, boolean)
    clip: float = option(1e-7, clip_margin)
    channels: Literal["mean", "sum"] = option("sum", choice("mean", "sum"))

    needs_channels = True
    zero_gradient = 'inputs="probabilities": 0 where clipped'

    def check_options(self) -> None:
        """Logarithms are not clipped to [clip, 1]."""
        if self.log_target and self.inputs == "probabilities":
            raise ValueError('log_target=True with inputs="probabilities", expected inputs "log_probabilities"')


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class Poisson(PerChannel):
    """Negative log-likelihood of counts under a Poisson distribution.

    At a position with `C` inputs `x` and the targets `t`:

        V = mean over c of  exp(x[c]) - t[c] * x[c]                   inputs="log_rate"
                            x[c] - t[c] * log(x[c] + epsilon)         inputs="rate"
        with full=True, where t[c] > 1, also  + t[c] * log(t[c]) - t[c] + log(2 * pi * t[c]) / 2

    Options:
        inputs: "log_rate" (default) or "rate".
        epsilon: a finite number > 0 that float32 holds as a normal number; default 1e-7. No meaning for "log_rate".
        full: whether to add Stirling's approximation of the term that depends on the target alone; default False.

    Further options: `normalizer`, `empty`, `channels`, as of all such terms.

    Sources: `torch.nn.PoissonNLLLoss`, `keras.losses.Poisson` ("rate").
    """

    inputs: Literal["log_rate", "rate"] = option("log_rate", choice("log_rate", "rate"))
    epsilon: float = option(1e-7, positive)
    full: bool = option(False, boolean)


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class Hinge(PerChannel):
    """Hinge loss: every channel is a question of its own, answered by the sign.

    At a position with `C` inputs `x` and the targets `t`:

        t' = -1 where t = 0, else t
        V  = mean over c of  max(0, 1 - t'[c] * x[c])

    So targets may be -1 and 1, or 0 and 1. Options: `normalizer`, `empty`, `channels`, as of all such terms.

    Source: `keras.losses.Hinge`.
    """

    zero_gradient = "beyond the margin: 0 (on it: as inside)"


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class SquaredHinge(PerChannel):
    """Squared hinge loss.

    At a position with `C` inputs `x` and the targets `t`:

        t' = -1 where t = 0, else t
        V  = mean over c of  max(0, 1 - t'[c] * x[c])**2

    So targets may be -1 and 1, or 0 and 1. Options: `normalizer`, `empty`, `channels`, as of all such terms.

    Source: `keras.losses.SquaredHinge`.
    """

    zero_gradient = "beyond the margin: 0"


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class CategoricalHinge(PerPosition):
    """Hinge loss over classes: the right one against the best of the others.

    At a position with `C` inputs `x` and the target `t` (of a class index: 1 for its class, else 0):

        V = max(0, 1 + max over c of (1 - t[c]) * x[c]  -  sum over c of t[c] * x[c])

    (The product of the right class counts in the maximum, as 0.)

    Options:
        ignore_index: as of `CrossEntropy`.

    Further options: `normalizer`, `empty`, as of all such terms.

    Source: `keras.losses.CategoricalHinge`.
    """

    ignore_index: int | None = option(None, optional(integer))

    needs_channels = True
    about_classes = True
    zero_gradient = "beyond the margin: 0 (on it: as inside); classes that tie for the maximum share its gradient"
