"""Logarithms near 0, saturation, half precision."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ._base import Cause, Difference, Evidence, Match, OptionCause, register

SECTION = "Range and epsilon"


def _recovers(evidence: Evidence) -> bool:
    """Whether both sides put an activation before the loss."""
    return evidence.case.a.activation != "none" and evidence.case.b.activation != "none"


@register(SECTION)
class Clip(OptionCause):
    number, name = 11, "probability-clip"
    title = "Keras clips probabilities to [1e-7, 1 - 1e-7]"
    text = (
        "Beyond the clip the loss stops at 16.118 (15.942 for the other side of a binary one) and the gradient is 0: "
        "what is confidently wrong no longer learns."
    )
    torch = "p = p.clamp(1e-7, 1 - 1e-7)  # as Keras does; better: logits on both sides"
    tf = "keras.losses.CategoricalCrossentropy(from_logits=True)  # no softmax before it, no clip"
    option = "clip"

    def fits(self, difference: Difference, evidence: Evidence) -> bool:
        if "log at -100" in difference.values or _recovers(evidence):
            return False
        return any("1e-07" in v for v in difference.values) and not all("1e-07" in v for v in difference.values)


@register(SECTION)
class LogClamp(OptionCause):
    number, name = 12, "log-clamped-at-100"
    title = "PyTorch's binary cross-entropy clamps the logarithm at -100"
    text = (
        "torch.nn.BCELoss gives elements of exactly 100, with gradients up to 1e12, where Keras clips to about 16"
        " with 0."
    )
    torch = "torch.nn.BCEWithLogitsLoss()  # logits on both sides"
    tf = "keras.losses.BinaryCrossentropy(from_logits=True)"
    option = "clip"
    values = ("log at -100",)
    weight = 1.1


@register(SECTION)
class LogitRecovery(OptionCause):
    number, name = 13, "logit-recovery"
    title = "Keras on TensorFlow recovers the logits behind a softmax, others do not"
    text = (
        "A model that ends in a softmax, with a loss of probabilities: the TensorFlow backend of Keras goes back "
        "to the "
        "logits, so nothing saturates; on other backends and in PyTorch the loss stops at about 16, with gradient 0. "
        "Both agree until then."
    )
    torch = "criterion = torch.nn.CrossEntropyLoss()  # and no softmax in the model"
    tf = "keras.losses.CategoricalCrossentropy(from_logits=True)  # and no softmax in the model"
    option = "clip"
    weight = 1.3

    def fits(self, difference: Difference, evidence: Evidence) -> bool:
        return _recovers(evidence)


@register(SECTION)
class LogitRecoveryReads(LogitRecovery):
    option = "reads"

    def fits(self, difference: Difference, evidence: Evidence) -> bool:
        return _recovers(evidence) and "probabilities" in difference.values and "logits" in difference.values


@register(SECTION)
class Twice(OptionCause):
    number, name = 14, "softmax-twice"
    title = "Softmax (or sigmoid) twice"
    text = (
        "The model ends in a softmax and the loss takes logits, as PyTorch's always does: the loss stays within "
        "[log(e + K - 1) - 1, log(e + K - 1)], for K = 3 0.551 to 1.551, and training is slow rather than broken."
    )
    torch = "logits = model(x)  # remove the softmax before torch.nn.CrossEntropyLoss"
    tf = "keras.losses.CategoricalCrossentropy(from_logits=False)  # of a model that ends in a softmax"
    option = "reads"

    def fits(self, difference: Difference, evidence: Evidence) -> bool:
        twice = [v for v in difference.values if "twice" in str(v)]
        return len(twice) == 1 and not _recovers(evidence)


@register(SECTION)
class TwiceByActivation(OptionCause):
    number, name = 14, "softmax-twice"
    title, text, torch, tf = Twice.title, Twice.text, Twice.torch, Twice.tf
    option = "of"


@register(SECTION)
class WrongInputs(OptionCause):
    number, name = 42, "from-logits"
    title = "One side takes the input for logits, the other for probabilities"
    text = (
        "Keras' losses have from_logits=False as their default; PyTorch's cross-entropies take logits, its BCELoss and "
        "NLLLoss do not. Logits that are read as probabilities are clipped and normalised: a number comes out, and "
        "gradients, but nonsense."
    )
    torch = "torch.nn.CrossEntropyLoss()  # of logits; torch.nn.NLLLoss() of log-probabilities"
    tf = "keras.losses.CategoricalCrossentropy(from_logits=True)"
    option = "reads"

    def fits(self, difference: Difference, evidence: Evidence) -> bool:
        twice = any("twice" in str(v) for v in difference.values)
        rates = difference.family in ("Poisson loss", "Kullback-Leibler divergence")
        return not twice and not rates and not _recovers(evidence)


@register(SECTION)
class SumsToOne(OptionCause):
    number, name = 15, "probabilities-that-do-not-sum-to-1"
    title = "Probabilities that do not sum to 1: one side normalises them"
    text = "Keras divides by their sum; NLL of log(p) does not: the offset is log(sum p)."
    torch = "p = p / p.sum(1, keepdim=True)"
    tf = "y_pred = y_pred / tf.reduce_sum(y_pred, -1, keepdims=True)  # what Keras does by itself"
    option = "clip"

    def fits(self, difference: Difference, evidence: Evidence) -> bool:
        return ("sum to 1" in str(difference.a)) != ("sum to 1" in str(difference.b)) and not _recovers(evidence)


@register(SECTION)
class HalfPrecision(Cause):
    number, name = 16, "half-precision"
    title = "Half precision: one side overflows or rounds where the other casts up"
    text = (
        "In float16 functional losses compute in float16: 1 - 1e-7 is 1, log(0) is inf; PyTorch's clamps at 100, "
        "Keras' "
        "class form casts to float32 first."
    )
    torch = "loss = criterion(x.float(), t.float())"
    tf = "loss = criterion(tf.cast(y_true, tf.float32), tf.cast(y_pred, tf.float32))"

    def find(self, evidence: Evidence) -> Iterator[Match]:
        rows = [r for r in evidence.of("precision") if r.probe.dtype == "float16" and not r.same]
        wide = [r for r in evidence.rows if r.probe.dtype == "float32" and not r.same]
        if rows and (not wide or any(_strange(r.a.value) != _strange(r.b.value) for r in rows)):
            r = rows[0]
            yield Match(f"{r.probe.name}: a {r.a.value}, b {r.b.value}", probes=tuple(r.probe.name for r in rows))


def _strange(value: float | None) -> bool:
    return value is None or not math.isfinite(value)


@register(SECTION)
class DoublePrecision(Cause):
    number, name = 17, "float64"
    title = "float64 inputs: one side casts to float32, the other keeps them"
    text = "Keras' Loss casts to floatx; its function form and PyTorch keep float64. Harmless, but a reference is lost."
    torch = "loss = criterion(x.float(), t.float())"
    tf = "keras.config.set_floatx('float64')"

    def find(self, evidence: Evidence) -> Iterator[Match]:
        rows = [r for r in evidence.rows if r.probe.dtype == "float64" and r.a.dtype and r.b.dtype]
        for r in rows:
            if r.a.dtype != r.b.dtype:
                yield Match(
                    f"of float64 inputs a returns {r.a.dtype}, b {r.b.dtype}", probes=(r.probe.name,), edge=True
                )
