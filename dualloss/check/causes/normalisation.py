"""What a sum of losses is divided by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

from ._base import Cause, Difference, Evidence, Match, OptionCause, register, said, shown

SECTION = "Normalisation"
_SUM = "divided by the sum of weights"


def _weighted(d: Difference) -> bool:
    return _SUM in d.values and d.a != d.b


@register(SECTION)
class ClassWeightsDivided(OptionCause):
    number, name = 1, "class-weights-divided"
    title = "Class weights: one mean divides by the number of elements, the other by the sum of the weights"
    text = (
        "PyTorch's cross-entropy of class indices divides by the sum of w[y]; Keras (class weights given as sample "
        "weights) by the number of elements. Value and gradient share the factor mean(w[y]), which changes with "
        "each batch."
    )
    torch = "per = F.cross_entropy(x, y, weight=w, reduction='none')\nloss = per.mean()  # as Keras does"
    tf = (
        "keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction='mean_with_sample_weight')  # as "
        "PyTorch"
    )
    family = ("cross-entropy",)
    option = "weighted"
    values = (_SUM,)

    def fits(self, difference: Difference, evidence: Evidence) -> bool:
        smooth = difference.options_a["smoothing"] and difference.options_b["smoothing"]
        both_torch = evidence.about_a.framework == evidence.about_b.framework == "torch"
        missing = any(d.option == "class_weight" for d in evidence.differences)
        return not smooth and not both_torch and not missing


@register(SECTION)
class ProbabilityTargetsDivided(OptionCause):
    number, name = 2, "probability-targets-divided"
    title = "PyTorch divides a weighted cross-entropy by another number for one-hot targets than for class indices"
    text = (
        "torch.nn.CrossEntropyLoss(weight=w) divides by the sum of w[y] where targets are class indices, and by the "
        "number of elements where they are probabilities: one-hot and index targets differ by mean(w[y])."
    )
    torch = "criterion(x, onehot.argmax(1))  # or: hand indices over on both sides"
    tf = "keras.losses.CategoricalCrossentropy(...)  # divides by the elements, as PyTorch does for one-hot targets"
    family = ("cross-entropy",)
    option = "weighted"
    values = (_SUM,)
    against = ("divided by elements",)
    weight = 1.2

    def fits(self, difference: Difference, evidence: Evidence) -> bool:
        return evidence.about_a.framework == evidence.about_b.framework == "torch"


@register(SECTION)
class SmoothedWeights(OptionCause):
    number, name = 3, "smoothing-with-class-weights"
    title = "Label smoothing together with class weights: three libraries' ways give three values"
    text = (
        "PyTorch weighs every class of the smoothed target and divides by the sum of w[y] (indices) or by the elements "
        "(probabilities); Keras weighs the whole position by the weight of its label. They agree once either is off."
    )
    torch = "t = (1 - s) * onehot + s / K\nloss = (w[y] * -(t * x.log_softmax(1)).sum(1)).mean()  # as Keras does"
    tf = (
        "t = (1 - s) * y + s / K\n"
        "loss = tf.reduce_sum(-tf.nn.log_softmax(x) * t * w) / tf.reduce_sum(tf.reduce_sum(y * w, -1))"
    )
    family = ("cross-entropy",)
    option = "weighted"
    weight = 1.5

    def fits(self, difference: Difference, evidence: Evidence) -> bool:
        return bool(difference.options_a["smoothing"] and difference.options_b["smoothing"])


@register(SECTION)
class ClassWeightsMissing(OptionCause):
    number, name = 61, "class-weights-missing"
    title = "Class weights on one side only"
    text = "One side weighs positions by their class, the other does not; then also what a mean divides by differs."
    torch = "torch.nn.CrossEntropyLoss(weight=w)"
    tf = "loss(y, x, sample_weight=tf.gather(w, y))  # reduction='mean_with_sample_weight' divides as PyTorch does"
    option = "class_weight"
    values = (None,)
    weight = 1.4

    def find(self, evidence: Evidence) -> Iterator[Match]:
        # What the mean divides by follows from it.
        divided = tuple(d for d in evidence.differences if d.option == "weighted")
        for match in super().find(evidence):
            yield replace(match, differences=(*match.differences, *divided))


@register(SECTION)
class PositiveWeightMissing(OptionCause):
    number, name = 61, "class-weights-missing"
    title, text, torch, tf = (
        "The weight of positives on one side only",
        "One side weighs the positive class (pos_weight), the other does not.",
        "torch.nn.BCEWithLogitsLoss(pos_weight=w)", "tf.nn.weighted_cross_entropy_with_logits(y, x, pos_weight=w)",
    )  # fmt: skip
    option = "pos_weight"
    values = (1.0,)
    weight = 1.4


@register(SECTION)
class IgnoredAsClass(OptionCause):
    number, name = 44, "ignore-index-missing"
    title, text, torch, tf = (
        "An ignored label counts as the first class on one side",
        "The label that stands for 'no class' was replaced by 0 and not masked, so it trains the first class.",
        "torch.nn.CrossEntropyLoss(ignore_index=k)",
        "keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=k)",
    )  # fmt: skip
    option = "ignored"
    values = ("counted as the first class",)


@register(SECTION)
class IgnoredDivided(OptionCause):
    number, name = 4, "ignored-positions-divided"
    title = "Ignored positions: one mean leaves them out of what it divides by, the other counts them"
    text = (
        "A loss that is multiplied by a 0/1 mask, or whose function form is averaged by hand, still divides by all "
        "positions: value and gradient are smaller by the fraction of valid ones."
    )
    torch = "F.cross_entropy(x, y, ignore_index=k)  # divides by the valid positions"
    tf = (
        "keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=k)  # the class form, not the "
        "function"
    )
    option = "ignored"
    values: ClassVar[tuple[Any, ...] | None] = ("divided by all",)
    against: ClassVar[tuple[Any, ...] | None] = ("left out",)


@register(SECTION)
class IgnoredBySample(IgnoredDivided):
    title = "Ignored positions: one mean is over all valid positions, the other over samples' own means"
    text = "A mean of means weighs a sample with few valid positions as much as one with many."
    values = ("left out, by sample",)
    against = ("left out", "divided by all")


@register(SECTION)
class IgnoreMissing(OptionCause):
    number, name = 44, "ignore-index-missing"
    title = "One side ignores a label, the other does not"
    text = (
        "The label that stands for 'no class' counts on one side: as a class, as zeros of a one-hot target, or "
        "not at all."
    )
    torch = "torch.nn.CrossEntropyLoss(ignore_index=k)"
    tf = "keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=k)"
    option = "ignore"

    def fits(self, difference: Difference, evidence: Evidence) -> bool:
        return evidence.case.ignore_index is not None

    def find(self, evidence: Evidence) -> Iterator[Match]:
        yield from super().find(evidence)
        rows = [row for row in evidence.of("ignored") if (row.a.error is None) != (row.b.error is None)]
        if rows:
            side, error = ("a", rows[0].a.error) if rows[0].a.error else ("b", rows[0].b.error)
            names = tuple(row.probe.name for row in rows)
            yield Match(f"{side} raises on label {evidence.case.ignore_index}: {error}", probes=names, weight=1.2)


@register(SECTION)
class EverythingIgnored(OptionCause):
    number, name = 5, "everything-ignored"
    title = "If everything is ignored, one loss is 0 and the other NaN"
    text = "PyTorch divides 0 by 0; Keras divides without NaN. A batch of padding alone ends the training on one side."
    torch = "loss = F.cross_entropy(x, y, ignore_index=k, reduction='sum') / (y != k).sum().clamp(min=1)"
    tf = "loss = tf.math.divide(total, tf.reduce_sum(valid))  # tf.math.divide_no_nan gives 0"
    option = "empty"


@register(SECTION)
class KullbackLeibler(OptionCause):
    number, name = 6, "kl-divergence"
    title = "Kullback-Leibler divergence: what is divided by, logarithms, and the order of arguments"
    text = (
        "torch.nn.KLDivLoss takes log-probabilities as its input, and its 'mean' divides by the classes too "
        "(factor K); "
        "'batchmean' divides by the first axis only. Keras takes probabilities and means over positions."
    )
    torch = "F.kl_div(log_p, t, reduction='sum') / positions  # = torch.nn.KLDivLoss('batchmean') without spatial axes"
    tf = "keras.losses.KLDivergence()(t, p)"
    family = ("Kullback-Leibler divergence",)
    option = "reduction"


@register(SECTION)
class KullbackLeiblerArguments(OptionCause):
    number, name = 6, "kl-divergence"
    title, text, torch, tf = (
        KullbackLeibler.title, KullbackLeibler.text, KullbackLeibler.torch, KullbackLeibler.tf,
    )  # fmt: skip
    family = ("Kullback-Leibler divergence",)
    option = "order"


@register(SECTION)
class KullbackLeiblerReads(OptionCause):
    number, name = 6, "kl-divergence"
    title, text, torch, tf = (
        KullbackLeibler.title, KullbackLeibler.text, KullbackLeibler.torch, KullbackLeibler.tf,
    )  # fmt: skip
    family = ("Kullback-Leibler divergence",)
    option = "reads"


@register(SECTION)
class TargetLength(Cause):
    number, name = 7, "ctc-target-length"
    title = "CTC: PyTorch's mean divides each loss by the length of its target first"
    text = (
        "torch.nn.CTCLoss(reduction='mean') divides by the target lengths before it averages; tf.nn.ctc_loss does not."
    )
    torch = "F.ctc_loss(log_p, y, lengths, target_lengths, reduction='none').mean()"
    tf = "tf.reduce_mean(tf.nn.ctc_loss(...) / tf.cast(target_lengths, tf.float32))"

    def find(self, evidence: Evidence) -> Iterator[Match]:
        for relation in evidence.relations:
            if relation.name == "factor" and "ctc" in evidence.kinds():
                yield Match(f"constant factor {relation.detail}", relations=(relation,), weight=1.5)


@register(SECTION)
class FocalAverage(OptionCause):
    number, name = 8, "focal-average-over-classes"
    title = "Focal loss: one averages over classes too"
    text = "MONAI and kornia average the map of positions and classes, Keras sums over classes: the constant factor K."
    torch = "loss = monai.losses.FocalLoss(reduction='none')(x, t).sum(1).mean()"
    tf = "loss = keras_focal / K"
    family = ("focal loss",)
    option = "average"
    values = ("positions and classes",)
    against = ("positions",)


@register(SECTION)
class FocalSum(OptionCause):
    number, name = 9, "focal-sum-averages-space"
    title = "Focal loss: a 'sum' that averages the spatial axes first"
    text = (
        "MONAI's FocalLoss(reduction='sum') takes means over the spatial axes before it sums: a factor, the "
        "number of voxels."
    )
    torch = "loss = monai.losses.FocalLoss(reduction='none')(x, t).sum()"
    tf = "loss = tf.reduce_sum(per_voxel)"
    family = ("focal loss",)
    option = "average"
    values = ("sum of means over positions",)


@register(SECTION)
class Replicas(Cause):
    number, name = 10, "replicas"
    title = "Several replicas: one side divides by their number"
    text = (
        "Keras scales each replica's loss by 1/replicas and adds the gradients; DDP averages the means of ranks. "
        "A loss "
        "reported by one replica is off by their number."
    )
    torch = "loss = loss / torch.distributed.get_world_size()  # where gradients are summed"
    tf = "loss = loss * strategy.num_replicas_in_sync  # what Keras divided by"

    def find(self, evidence: Evidence) -> Iterator[Match]:
        n = evidence.case.replicas
        for d in evidence.differences:
            if n > 1 and d.option == "factor" and any(abs(d.a / d.b / f - 1) < 1e-5 for f in (n, 1 / n)):
                yield Match(
                    f"a has {shown(d.a)} times the {d.family}, b {shown(d.b)} times, with {n} replicas",
                    (d,),
                    weight=2.0,
                )
        for relation in evidence.relations:
            if n > 1 and relation.factor is not None and any(abs(relation.factor / f - 1) < 1e-5 for f in (n, 1 / n)):
                yield Match(f"constant factor {relation.detail}, with {n} replicas", relations=(relation,), weight=2.0)


@register(SECTION)
class Reduction(OptionCause):
    number, name = 45, "reduction"
    title = "One sums where the other averages"
    text = (
        "reduction='sum' against 'mean' (or 'sum_over_batch_size', or a sum over positions that is averaged over "
        "samples): the factor is the number of elements, so the step size changes with the batch."
    )
    torch = "torch.nn.CrossEntropyLoss(reduction='mean')"
    tf = "keras.losses.MeanSquaredError(reduction='sum_over_batch_size')  # any loss of Keras has it"
    option = "reduction"

    def fits(self, difference: Difference, evidence: Evidence) -> bool:
        return difference.family != "Kullback-Leibler divergence"


@register(SECTION)
class Average(OptionCause):
    number, name = 45, "reduction"
    title, text, torch, tf = Reduction.title, Reduction.text, Reduction.torch, Reduction.tf
    option = "average"

    def fits(self, difference: Difference, evidence: Evidence) -> bool:
        named = ("positions and classes", "positions"), ("sum of means over positions",)
        return set(named[0]) != difference.values and named[1][0] not in difference.values


@register(SECTION)
class SampleWeights(OptionCause):
    number, name = 46, "sample-weights-divided"
    title = "Sample weights: one mean divides by their sum, the other by the number of elements; or one ignores them"
    text = (
        "Keras' default divides a weighted sum by the number of elements; 'mean_with_sample_weight' by the "
        "weights' sum."
    )
    torch = "loss = (w * per).sum() / per.numel()  # or / w.sum(): the same on both sides"
    tf = "keras.losses.MeanSquaredError(reduction='mean_with_sample_weight')  # any loss of Keras has it"
    option = "weighting"

    def fits(self, difference: Difference, evidence: Evidence) -> bool:
        return "last axis" not in difference.values


@register(SECTION)
class Factor(Cause):
    number, name = 47, "constant-factor"
    title = "A constant factor"
    text = "Value and gradient of one loss are those of the other times the same number, on every probe."
    torch = "loss = factor * loss"
    tf = "loss = factor * loss"

    def find(self, evidence: Evidence) -> Iterator[Match]:
        for d in evidence.differences:
            if d.option == "factor" and d.family != "squared size":
                yield Match(f"a has {shown(d.a)} times the {d.family}, b {shown(d.b)} times", (d,), weight=0.9)
        for relation in evidence.relations:
            if relation.name == "factor":
                yield Match(relation.detail, relations=(relation,), weight=0.5)


@register(SECTION)
class TermWeight(Cause):
    number, name = 48, "weight-of-a-term"
    title = "A term of a sum has another weight, or is missing"
    text = "Both losses are sums of the same kinds of terms, but one term counts more on one side, or is not there."
    torch = "loss = a + 0.5 * b  # the same weights on both sides"
    tf = "loss = a + 0.5 * b"

    def find(self, evidence: Evidence) -> Iterator[Match]:
        for d in evidence.differences:
            if d.option == "weight":
                yield Match(f"the {d.family} has weight {shown(d.a)} in a, {shown(d.b)} in b", (d,))
            elif d.option == "term":
                yield Match(said(d), (d,))
