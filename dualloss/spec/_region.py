"""Terms that compare regions: ratios of sums over positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ._base import Term, option, register
from ._validate import (
    boolean,
    check_length,
    choice,
    indices,
    integer,
    not_negative,
    not_negatives,
    optional,
    positive,
)

ACTIVATIONS = ("softmax", "sigmoid", "none")


@dataclass(frozen=True, kw_only=True, repr=False)
class Region(Term):
    """A term that is a ratio of sums over positions, one for each group. Options of all such terms:

    activation: what makes probabilities `p` of the input: "softmax" over the channels (default), "sigmoid", or "none":
        they are probabilities already.
    per_sample: whether every sample is a group of its own (default False: the batch is one).
    per_class: whether every class is a group of its own (default True).
    smooth: added to the numerator of the score, a finite number >= 0.
    smooth_denominator: added to the denominator; None (default): as `smooth`.
    epsilon: the smallest denominator, a finite number >= 0; the gradient of a smaller one is 0. (A denominator of 0
        is a score of 0.)
    overlap: what `I` sums: "product", `p * t` (default), or "minimum", `min(p, t)`. Both agree for targets of 0 and 1.
    squared: whether the sums of `p` and `t` in the denominator are of their squares (default False).
    classes: the class indices that count, or None (default): all.
    background: whether the class 0 counts (default True).
    class_weights: the weight of each class's loss (of the `C` classes of the input), or None. The mean divides by the
        number of groups, not by the weights. Needs `per_class`.
    empty_class: the loss of a group without target (`sum of t = 0`): "keep" (default), what the formula gives; "zero",
        0 without a gradient; "exclude", 0, and the group does not count in the mean.
    log: whether the loss is `-log(max(score, epsilon))` in place of `1 - score` (default False).
    ignore_index: the label of positions to leave out, or None (default). In a sum it applies to all terms.

    The sums are over the valid positions, each times its sample weight. The mean is over the groups; with
    `reduction="sum"` the groups are added. There is no map, hence no `reduction="none"`.
    """

    activation: Literal["softmax", "sigmoid", "none"] = option("softmax", choice(*ACTIVATIONS))
    per_sample: bool = option(False, boolean)
    per_class: bool = option(True, boolean)
    smooth: float = option(0.0, not_negative)
    smooth_denominator: float | None = option(None, optional(not_negative))
    epsilon: float = option(1e-7, not_negative)
    overlap: Literal["product", "minimum"] = option("product", choice("product", "minimum"))
    squared: bool = option(False, boolean)
    classes: Sequence[int] | None = option(None, optional(indices))
    background: bool = option(True, boolean)
    class_weights: Sequence[float] | None = option(None, optional(not_negatives))
    empty_class: Literal["keep", "zero", "exclude"] = option("keep", choice("keep", "zero", "exclude"))
    log: bool = option(False, boolean)
    ignore_index: int | None = option(None, optional(integer))

    needs_channels = True
    about_classes = True
    has_map = False
    zero_gradient = "denominator below epsilon, and the option empty_class: 0 for that group"

    def check_options(self) -> None:
        """Weights of classes need groups of classes."""
        if self.class_weights is not None and not self.per_class:
            raise ValueError("class_weights with per_class=False, expected per_class=True, or no class_weights")
        if self.squared and self.overlap == "minimum":
            raise ValueError('squared=True with overlap="minimum", expected overlap="product"')
        if self.log and not self.epsilon:
            raise ValueError("log=True with epsilon=0, expected an epsilon > 0, below which the score is not followed")

    def check_layout(self, *, channels: int, spatial: int) -> None:
        """The classes must be there, and one weight for each."""
        check_length("class_weights", self.class_weights, channels)
        if self.classes is not None and self.classes[-1] >= channels:
            raise ValueError(f"classes={self.classes}, expected indices below {channels}, the number of channels")
        if not self.counted(channels):
            raise ValueError(f"background=False leaves no class of {channels}, expected at least one")

    def count_sums(self, channels: int) -> int:
        """Four of each group of the batch; of samples the values and how many there are."""
        groups = channels if self.per_class else 1
        return 2 if self.per_sample else 4 * groups

    def counted(self, channels: int) -> tuple[int, ...]:
        """The classes that count."""
        chosen = range(channels) if self.classes is None else self.classes
        return tuple(c for c in chosen if c or self.background)


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class Dice(Region):
    """Dice loss: overlap relative to the mean size of the two regions.

    For each group, with sums over its positions (and its classes):

        I = sum of p * t,   P = sum of p (or p**2),   T = sum of t (or t**2)
        score = (2 * I + smooth) / max(P + T + smooth_denominator, epsilon)
        loss  = 1 - score

    Options: as of all region terms.

    Sources: Dice (1945), Measures of the Amount of Ecologic Association Between Species; Milletari et al. (2016),
    V-Net (squared=True).
    """


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class Jaccard(Region):
    """Jaccard loss: intersection over union.

    For each group, with sums over its positions (and its classes):

        I = sum of p * t,   P = sum of p (or p**2),   T = sum of t (or t**2)
        score = (I + smooth) / max(P + T - I + smooth_denominator, epsilon)
        loss  = 1 - score

    Options: as of all region terms.

    Sources: Jaccard (1912), The Distribution of the Flora in the Alpine Zone; Rahman and Wang (2016), Optimizing
    Intersection-over-Union in Deep Neural Networks for Image Segmentation.
    """


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class Tversky(Region):
    """Tversky loss: false positives and false negatives weighted apart.

    For each group, with sums over its positions (and its classes):

        I = sum of p * t,   FP = sum of p (or p**2) - I,   FN = sum of t (or t**2) - I
        score = (I + smooth) / max(I + alpha * FP + beta * FN + smooth_denominator, epsilon)
        loss  = 1 - score

    With alpha = beta = 0.5 and half the smoothing it is `Dice`, with alpha = beta = 1 it is `Jaccard`.

    Options:
        alpha: the weight of false positives, a finite number >= 0; default 0.5.
        beta: the weight of false negatives; default 0.5.

    Further options: as of all region terms.

    Source: Salehi et al. (2017), Tversky Loss Function for Image Segmentation Using 3D Fully Convolutional Deep
    Networks.
    """

    alpha: float = option(0.5, not_negative)
    beta: float = option(0.5, not_negative)


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class FocalTversky(Region):
    """Focal Tversky loss: a power of the Tversky loss.

    For each group, with sums over its positions (and its classes):

        I = sum of p * t,   FP = sum of p (or p**2) - I,   FN = sum of t (or t**2) - I
        score = (I + smooth) / max(I + alpha * FP + beta * FN + smooth_denominator, epsilon)
        loss  = (1 - score)**gamma

    Options:
        alpha: the weight of false positives, a finite number >= 0; default 0.3.
        beta: the weight of false negatives; default 0.7.
        gamma: the exponent, a finite number > 0; default 0.75. Of the mean of the groups' losses if
            `power_of_mean`, else of each. Where the base is 0 the gradient is 0.
        power_of_mean: default False.

    Further options: as of all region terms.

    Source: Abraham and Khan (2019), A Novel Focal Tversky Loss Function with Improved Attention U-Net for Lesion
    Segmentation (which writes the exponent as 1 / gamma).
    """

    alpha: float = option(0.3, not_negative)
    beta: float = option(0.7, not_negative)
    gamma: float = option(0.75, positive)
    power_of_mean: bool = option(False, boolean)

    zero_gradient = Region.zero_gradient + "; where 1 - score = 0: 0"


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class Lovasz(Term):
    """Lovász loss: the convex extension of the Jaccard loss to errors that are numbers.

    For each group (a class, or a class of a sample), over its positions i, `t` being 1 for the class and 0 else:

        e[i] = |t[i] - p[i]|                                  activation="softmax"
               max(0, 1 - (2 * t[i] - 1) * x[i])              activation="hinge" (every channel a question)
        order the errors, the largest first; ties in the order of the positions
        J(k) = 1 - (T - sum of the first k t) / (T + sum of the first k (1 - t)),   T = sum of t,   J(0) = 0
        loss = sum over k of  e[k-th] * (J(k) - J(k - 1))

    Targets must be class indices, or dense ones of zeros and ones: those above 0.5 count as 1, others as 0.

    Options:
        activation: "softmax" over the channels (default), "none" (the input holds probabilities) or "hinge".
        per_sample: whether every sample is a group of its own (default False: the batch is one).
        classes: "present" (default), the mean is over the classes that occur in the target (0 if none does); or
            "all".
        ignore_index: the label of positions to leave out, or None (default). In a sum it applies to all terms.

    The order needs the whole batch: with `per_sample=False` there are no sums of parts. Sample weights are refused
    but for boolean masks. With `reduction="sum"` the samples' losses (means over classes) are added.

    Source: Berman, Triki and Blaschko (2018), The Lovász-Softmax loss.
    """

    activation: Literal["softmax", "none", "hinge"] = option("softmax", choice("softmax", "none", "hinge"))
    per_sample: bool = option(False, boolean)
    classes: Literal["present", "all"] = option("present", choice("present", "all"))
    ignore_index: int | None = option(None, optional(integer))

    needs_channels = True
    about_classes = True
    has_map = False
    takes_weights = False
    zero_gradient = "an error of 0: 0; errors that tie have the gradient of their order by position"

    @property
    def mergeable(self) -> bool:
        """An order of the batch needs all of it."""
        return self.per_sample
