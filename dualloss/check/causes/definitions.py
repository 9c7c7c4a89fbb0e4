"""Losses of the same name that are not the same."""

from __future__ import annotations

from collections.abc import Iterator

from ._base import Cause, Difference, Evidence, Match, OptionCause, register, said, shown

SECTION = "Definitions"


@register(SECTION)
class BinarySmoothing(OptionCause):
    number, name = 18, "binary-smoothing"
    title = "Binary label smoothing: towards 1/2, or towards the other class"
    text = (
        "Keras: y (1 - s) + s/2; segmentation-models-pytorch mixes y with 1 - y by s. Keras' 0.1 is SMP's 0.05, "
        "exactly."
    )
    torch = "smp.losses.SoftBCEWithLogitsLoss(smooth_factor=s / 2)"
    tf = "keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=2 * s)"
    family = ("binary cross-entropy",)
    option = "smoothing_form"


@register(SECTION)
class SmoothingAxis(OptionCause):
    number, name = 19, "smoothing-axis"
    title = "Label smoothing divides by the size of another axis than that of the classes"
    text = (
        "Keras 3.15.1's CategoricalCrossentropy(axis=...) off the last axis takes the last axis' size for the "
        "number of classes."
    )
    torch = "torch.nn.CrossEntropyLoss(label_smoothing=s)"
    tf = "t = (1 - s) * y + s / K  # smooth by hand, and label_smoothing=0"
    option = "smoothed_over"
    weight = 1.2


@register(SECTION)
class SparseSmoothing(OptionCause):
    number, name = 20, "smoothing-missing"
    title = "Label smoothing on one side only"
    text = (
        "One side smooths its targets, the other does not. Keras 3.15.1's SparseCategoricalCrossentropy has no label "
        "smoothing; CategoricalCrossentropy of one-hot targets has."
    )
    torch = "torch.nn.CrossEntropyLoss(label_smoothing=s)"
    tf = "keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=s)  # targets one-hot"
    option = "smoothing"
    values = (0.0,)
    weight = 1.1


@register(SECTION)
class HuberScale(OptionCause):
    number, name = 21, "huber-smooth-l1"
    title = "Huber and smooth L1 differ by the factor delta"
    text = (
        "torch.nn.SmoothL1Loss(beta=d) is torch.nn.HuberLoss(delta=d) / d; keras.losses.Huber is PyTorch's HuberLoss."
    )
    torch = "torch.nn.HuberLoss(delta=d)"
    tf = "keras.losses.Huber(delta=d)"
    family = ("difference",)
    option = "kind"
    values = ("smooth L1",)
    against = ("Huber",)


@register(SECTION)
class OtherKind(OptionCause):
    number, name = 49, "another-loss"
    title = "They are different losses"
    text = "Both have a known formula, and the formulas are not the same kind."
    torch = "use the same loss on both sides"
    tf = "use the same loss on both sides"
    option = "kind"

    def fits(self, difference: Difference, evidence: Evidence) -> bool:
        return difference.values != {"smooth L1", "Huber"}


@register(SECTION)
class PoissonInput(OptionCause):
    number, name = 22, "poisson-log-input"
    title = "Poisson: PyTorch takes the logarithm of the rate by default"
    text = "torch.nn.PoissonNLLLoss(log_input=True) is the default; keras.losses.Poisson takes rates."
    torch = "torch.nn.PoissonNLLLoss(log_input=False, eps=1e-7)"
    tf = "keras.losses.Poisson()(y, tf.exp(x))"
    family = ("Poisson loss",)
    option = "reads"


@register(SECTION)
class CosineOffset(OptionCause):
    number, name = 23, "cosine-offset"
    title = "Cosine similarity: 1 - cos against -cos"
    text = (
        "PyTorch's CosineEmbeddingLoss and 1 - cosine_similarity are Keras' CosineSimilarity plus 1: the "
        "gradients agree."
    )
    torch = "loss = -F.cosine_similarity(x, t).mean()"
    tf = "loss = 1.0 + keras.losses.CosineSimilarity()(t, x)"
    family = ("cosine similarity",)
    option = "offset"


@register(SECTION)
class BinaryFocalAlpha(OptionCause):
    number, name = 24, "binary-focal-alpha"
    title = "Binary focal loss: alpha is off by default, or 0.25"
    text = "Keras, SMP and MONAI leave alpha out by default; kornia has 0.25."
    torch = "kornia.losses.BinaryFocalLossWithLogits(alpha=None)"
    tf = "keras.losses.BinaryFocalCrossentropy(apply_class_balancing=True, alpha=0.25)"
    family = ("binary focal loss",)
    option = "alpha"


@register(SECTION)
class FocalStructure(OptionCause):
    number, name = 25, "focal-structure"
    title = "Multiclass focal loss: softmax, or one class against the rest"
    text = (
        "SMP and MONAI (use_softmax=False) apply a sigmoid per class; Keras and kornia a softmax. MONAI and "
        "kornia weigh "
        "the first class by 1 - alpha, Keras all by the same alpha."
    )
    torch = "monai.losses.FocalLoss(use_softmax=True)  # of one-hot targets"
    tf = "keras.losses.CategoricalFocalCrossentropy(from_logits=True, alpha=1.0)"
    family = ("focal loss",)
    option = "structure"


@register(SECTION)
class FocalBalance(OptionCause):
    number, name = 25, "focal-structure"
    title, text, torch, tf = FocalStructure.title, FocalStructure.text, FocalStructure.torch, FocalStructure.tf
    family = ("focal loss",)
    option = "balance"


@register(SECTION)
class FocalAlpha(OptionCause):
    number, name = 25, "focal-structure"
    title, text, torch, tf = FocalStructure.title, FocalStructure.text, FocalStructure.torch, FocalStructure.tf
    family = ("focal loss",)
    option = "alpha"


@register(SECTION)
class TverskySwapped(OptionCause):
    number, name = 26, "tversky-swapped"
    title = "Tversky: alpha and beta are swapped"
    text = "Keras 3.15.1 weighs false negatives by alpha, others false positives: invisible at 0.5 and 0.5."
    torch = "smp.losses.TverskyLoss(alpha=b, beta=a)"
    tf = "keras.losses.Tversky(alpha=b, beta=a)"
    family = ("overlap",)
    option = "weights"
    weight = 1.2

    def fits(self, difference: Difference, evidence: Evidence) -> bool:
        return tuple(difference.a) == tuple(reversed(difference.b))


@register(SECTION)
class TverskyVersion(OptionCause):
    number, name = 30, "version-drift"
    title = "A version of a library computes something else"
    text = "kornia's Tversky loss used only alpha + beta in 0.9.0rc1, both of them in 0.9.0."
    torch = "pip install 'kornia>=0.9.0'"
    tf = "keras.losses.Tversky(alpha=a, beta=b)"
    family = ("overlap",)
    option = "weights"

    def fits(self, difference: Difference, evidence: Evidence) -> bool:
        swapped = tuple(difference.a) == tuple(reversed(difference.b))
        return not swapped and "kornia" in evidence.libraries()


@register(SECTION)
class OverlapAxes(OptionCause):
    number, name = 27, "dice-axes"
    title = "Dice: over everything, by class over the batch, or by sample"
    text = (
        "Keras adds up everything, SMP each class over the batch, MONAI each sample and class: equal for B = C = "
        "1 only."
    )
    torch = "monai.losses.DiceLoss(batch=True)  # by class over the batch, as SMP"
    tf = "keras.losses.Dice(axis=(1, 2))  # by sample and class, as MONAI"
    family = ("overlap",)
    option = "over"


@register(SECTION)
class OverlapSmoothing(OptionCause):
    number, name = 28, "dice-smoothing"
    title = "Dice: another smoothing constant, or in another place"
    text = (
        "SMP clamps the denominator at 1e-7, MONAI adds 1e-5 above and below, SMP's older one 1.0. The difference"
        " grows as "
        "masks shrink."
    )
    torch = "monai.losses.DiceLoss(smooth_nr=s, smooth_dr=s)"
    tf = "loss = 1 - (2 * inter + s) / (total + s)"
    family = ("overlap",)
    option = "smooth"


@register(SECTION)
class OverlapAbsent(OptionCause):
    number, name = 29, "dice-empty-mask"
    title = "Dice of an empty mask: 1 here, 0 there"
    text = (
        "Keras gives 1 for a class without foreground, MONAI about 1 (unless both are empty), SMP 0: it leaves "
        "the class out."
    )
    torch = "loss = loss * (t.sum(axes) > 0)  # leave absent classes out, as SMP does"
    tf = "loss = loss * tf.cast(tf.reduce_sum(t, axes) > 0, loss.dtype)"
    family = ("overlap",)
    option = "absent"


@register(SECTION)
class OverlapSquares(OptionCause):
    number, name = 50, "dice-squares"
    title = "Dice: the denominator adds squares on one side"
    text = "Milletari's form has p^2 + t^2 below; most libraries have p + t (MONAI: squared_pred)."
    torch = "monai.losses.DiceLoss(squared_pred=True)"
    tf = "total = tf.reduce_sum(p * p) + tf.reduce_sum(t * t)"
    family = ("overlap",)
    option = "squared"


@register(SECTION)
class OverlapBackground(OptionCause):
    number, name = 51, "dice-background"
    title = "Dice: one side leaves out the background class"
    text = "MONAI's include_background=False leaves out the first channel."
    torch = "monai.losses.DiceLoss(include_background=True)"
    tf = "keras.losses.Dice()(t[..., 1:], p[..., 1:])  # without the first class"
    family = ("overlap",)
    option = "background"


@register(SECTION)
class Settings(Cause):
    number, name = 43, "another-setting"
    title = "A setting has another value"
    text = "Both compute the same formula, with another number or another convention in it."
    torch = "give both the same"
    tf = "give both the same"
    last = True

    def find(self, evidence: Evidence) -> Iterator[Match]:
        for d in evidence.differences:
            yield Match(said(d), (d,))


@register(SECTION)
class Offset(Cause):
    number, name = 52, "constant-offset"
    title = "A constant offset: the gradients agree"
    text = "One loss is the other plus a number. Training is the same; what is logged is not."
    torch = "loss = loss + offset"
    tf = "loss = loss + offset"

    def find(self, evidence: Evidence) -> Iterator[Match]:
        for relation in evidence.relations:
            if relation.name == "offset":
                yield Match(relation.detail, relations=(relation,), weight=0.8)


@register(SECTION)
class TargetEntropy(Cause):
    number, name = 62, "target-entropy"
    title = "Cross-entropy against Kullback-Leibler divergence: the entropy of the target"
    text = (
        "KL is cross-entropy less the entropy of the targets, which does not depend on the model: the gradients agree, "
        "the values only for one-hot targets."
    )
    torch = (
        "loss = F.cross_entropy(x, t)  # or F.kl_div(x.log_softmax(1), t, reduction='sum') / positions on both sides"
    )
    tf = "loss = keras.losses.CategoricalCrossentropy(from_logits=True)(t, x)  # or KLDivergence on both sides"

    def find(self, evidence: Evidence) -> Iterator[Match]:
        for d in evidence.differences:
            if d.option == "formula" and all(
                any(name in str(side) for side in (d.a, d.b)) for name in ("cross-entropy", "Kullback-Leibler")
            ):
                yield Match(f"a is {shown(d.a)}, b is {shown(d.b)}", (d,), weight=1.2)


@register(SECTION)
class OtherLoss(Cause):
    number, name = 49, "another-loss"
    title, text, torch, tf = OtherKind.title, OtherKind.text, OtherKind.torch, OtherKind.tf

    def find(self, evidence: Evidence) -> Iterator[Match]:
        for d in evidence.differences:
            if d.option == "formula":
                yield Match(f"a is {shown(d.a)}, b is {shown(d.b)}", (d,), weight=0.9)
