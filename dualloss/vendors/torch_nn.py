"""The losses of `torch.nn`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..spec import (
    BinaryCrossEntropy,
    CrossEntropy,
    Huber,
    KLDivergence,
    MeanAbsoluteError,
    MeanSquaredError,
    NegativeLogLikelihood,
    Poisson,
    SmoothL1,
    Spec,
    Term,
)
from ._common import Exporter, Options, check_round_trip, per_channel, refuse_reduction, single_term
from ._registry import Context, Given, Importer, find, imports, refuses

MODULE = "torch.nn.modules.loss"


def importer(name: str, *terms: type[Term], holds: str = "", notes: tuple[str, ...] = ()) -> Callable[..., Importer]:
    """Register an importer of this module."""
    return imports("torch", MODULE, name, *(term.__name__ for term in terms), holds=holds, notes=notes)


DTYPE = "float16 inputs: the result is float16 there, so a large mean overflows; it is float32 here."
BROADCAST = "Targets of another shape broadcast there, with a warning; they are a ValueError here."
WEIGHTS = "a weight holds one number, or one for each channel"


def reduction(given: Given, *, normalizer: str = "valid") -> Options:
    """What a mean divides by, of a loss with one value at a position. PyTorch's mean of nothing is NaN."""
    match given["reduction"]:
        case "mean" | "elementwise_mean":
            return {"normalizer": normalizer, "empty": "nan"}
        case "sum":
            return {"normalizer": "one"}
    refuse_reduction(given, "mean")
    raise AssertionError


def elementwise(given: Given) -> Options:
    """The same of a loss with a value for every channel, whose sum and mean are over these as well."""
    options = reduction(given)
    return {**options, "channels": "sum" if options["normalizer"] == "one" else "mean"}


def class_weights(given: Given) -> list[float] | None:
    """The weights of classes."""
    return None if given["weight"] is None else given["weight"].tolist()


ALL_ZERO = (
    "Where all weights of the classes that occur are 0, value and gradient are NaN there; here the gradient is 0."
)


@importer(
    "CrossEntropyLoss",
    CrossEntropy,
    holds='inputs of shape (B, C, *spatial); class indices, or with targets="probabilities" dense targets',
    notes=(
        ALL_ZERO,
        "-inf at a label of weight 0: the value is NaN there; here it counts nothing.",
        "NaN logits at an ignored position: that position's gradient is NaN there, 0 here.",
        "A logit of -inf beside a dense target of 0: the value is NaN there; here the class counts nothing.",
        "Labels out of range are an IndexError there, a ValueError here.",
        DTYPE,
    ),
)
def cross_entropy(loss: Given) -> Spec:
    """Indices: the mean divides by the weights of the labels. Probabilities: by the number of positions."""
    ignore = loss["ignore_index"]
    indices = loss.targets == "indices"
    if not indices and ignore >= 0:
        loss.refuse("ignore_index", "PyTorch refuses it with probabilities as targets")
    return CrossEntropy(
        class_weights=class_weights(loss),
        label_smoothing=max(0.0, loss["label_smoothing"]),  # a negative one is none
        ignore_index=ignore if indices else None,
        **reduction(loss, normalizer="weights" if indices else "valid"),
    )


@importer(
    "NLLLoss",
    NegativeLogLikelihood,
    holds="inputs of shape (B, C, *spatial), class indices",
    notes=(ALL_ZERO, "-inf at a label of weight 0: the value is NaN there; here it counts nothing.", DTYPE),
)
def negative_log_likelihood(loss: Given) -> Spec:
    """The mean divides by the weights of the labels."""
    return NegativeLogLikelihood(
        class_weights=class_weights(loss), ignore_index=loss["ignore_index"], **reduction(loss, normalizer="weights")
    )


@importer(
    "BCELoss",
    BinaryCrossEntropy,
    holds=f"{WEIGHTS}; probabilities and targets from 0 to 1",
    notes=("Targets outside 0 to 1 are an error there (from 2.13 on), computed here.", DTYPE),
)
def binary_cross_entropy(loss: Given) -> Spec:
    """Of probabilities, with logarithms of at least -100."""
    return weighted(loss, inputs="probabilities", clip=None)


@importer(
    "BCEWithLogitsLoss",
    BinaryCrossEntropy,
    holds=WEIGHTS,
    notes=("A logit of an infinity with the right answer: the value is NaN there, 0 here.", DTYPE),
)
def binary_cross_entropy_with_logits(loss: Given) -> Spec:
    """Of logits."""
    return weighted(loss, pos_weight=per_channel(loss, "pos_weight"))


def weighted(loss: Given, **options: Any) -> Spec:
    """Binary cross-entropy with a weight: of channels, or of the term."""
    weight = per_channel(loss, "weight")
    if isinstance(weight, tuple):
        return BinaryCrossEntropy(class_weights=weight, **options, **elementwise(loss))
    term = BinaryCrossEntropy(**options, **elementwise(loss))
    return term if weight is None else weight * term


@importer(
    "MultiLabelSoftMarginLoss",
    BinaryCrossEntropy,
    holds="inputs of shape (B, C); without a weight and with the mean, of any shape",
    notes=("The classes are the last axis there, whatever the input's shape.", DTYPE),
)
def multi_label_soft_margin(loss: Given) -> Spec:
    """Binary cross-entropy whose classes are the last axis, of which it takes the mean first."""
    options = reduction(loss)
    weight = loss["weight"]
    if (weight is not None or options["normalizer"] == "one") and loss.context.spatial != 0:
        loss.refuse(
            "reduction" if weight is None else "weight",
            "its classes are the last axis, the channels are axis 1: say spatial=0 if your inputs have the shape "
            "(B, C), where both are the same",
        )
    channels = per_channel(loss, "weight")
    if isinstance(channels, float):
        return channels * BinaryCrossEntropy(**options)
    return BinaryCrossEntropy(class_weights=channels, **options)


@importer("MSELoss", MeanSquaredError, notes=(BROADCAST, DTYPE))
def mean_squared_error(loss: Given) -> Spec:
    """Squared error."""
    return MeanSquaredError(**elementwise(loss))


@importer(
    "L1Loss",
    MeanAbsoluteError,
    notes=("A NaN has a value of NaN and a gradient of 0 there; here both are NaN.", BROADCAST, DTYPE),
)
def mean_absolute_error(loss: Given) -> Spec:
    """Absolute error."""
    return MeanAbsoluteError(**elementwise(loss))


@importer("SmoothL1Loss", SmoothL1, notes=(BROADCAST, DTYPE))
def smooth_l1(loss: Given) -> Spec:
    """Huber's loss divided by beta."""
    return SmoothL1(beta=loss["beta"], **elementwise(loss))


@importer("HuberLoss", Huber, notes=(BROADCAST, DTYPE))
def huber(loss: Given) -> Spec:
    """Huber's loss."""
    return Huber(delta=loss["delta"], **elementwise(loss))


@importer(
    "KLDivLoss",
    KLDivergence,
    holds="inputs with a channel axis; targets >= 0 (with log_target: above -inf)",
    notes=(
        "A target of 0 beside an input of -inf: the value is NaN there; here the class counts nothing.",
        "A negative target: NaN there; here it counts nothing. A log_target of -inf likewise.",
        BROADCAST,
        DTYPE,
    ),
)
def kl_divergence(loss: Given) -> Spec:
    """Of log-probabilities. "mean" divides by the number of elements, "batchmean" by that of samples."""
    if loss["reduction"] == "batchmean":
        options: Options = {"normalizer": "batch", "empty": "nan", "channels": "sum"}
    else:
        options = elementwise(loss)
    return KLDivergence(inputs="log_probabilities", log_target=loss["log_target"], **options)


@importer(
    "PoissonNLLLoss",
    Poisson,
    notes=("float16 inputs with log_input=False: eps is 0 there.", BROADCAST, DTYPE),
)
def poisson(loss: Given) -> Spec:
    """Of logarithms of rates, or of rates."""
    options = {"inputs": "log_rate"} if loss["log_input"] else {"inputs": "rate", "epsilon": loss["eps"]}
    return Poisson(full=loss["full"], **options, **elementwise(loss))


PAIRS = "it compares two predictions with each other; a spec has one prediction and its target"
refuses(
    "torch",
    MODULE,
    CosineEmbeddingLoss=f"{PAIRS}; for the cosine of a prediction and its target: CosineSimilarity(form='distance')",
    MarginRankingLoss=PAIRS,
    HingeEmbeddingLoss="its input is a distance, which one label makes small and the other large; no term says that",
    TripletMarginLoss="it compares three embeddings; a spec has one prediction and its target",
    TripletMarginWithDistanceLoss="it compares three embeddings; a spec has one prediction and its target",
    CTCLoss="its sequences are not aligned with the targets; a spec has a target for every position",
    GaussianNLLLoss="it has two predictions, mean and variance; a spec has one",
    MultiLabelMarginLoss="its target is a list of the right classes; no term has such a margin",
    MultiMarginLoss="no term adds the margins of all wrong classes; CategoricalHinge has that of the best one",
    SoftMarginLoss="its targets are -1 and 1: BinaryCrossEntropy of the targets (t + 1) / 2 is the same loss",
    NLLLoss2d="deprecated; give an NLLLoss",
)
refuses(
    "torch",
    "torch.nn.modules.adaptive",
    AdaptiveLogSoftmaxWithLoss="it has weights of its own, of clusters of classes; a spec holds no arrays",
)


# --- Specs as losses of torch.nn ---

_EXPORTERS: dict[type[Term], Exporter] = {}


def exports(term: type[Term]) -> Callable[[Exporter], Exporter]:
    """Register the function that makes the loss nearest to a term."""

    def register(function: Exporter) -> Exporter:
        _EXPORTERS[term] = function
        return function

    return register


def export(spec: Spec, context: Context) -> Any:
    """The loss of torch.nn for a spec, or a ValueError that says why there is none."""
    term = single_term(spec, "torch.nn")
    if type(term) not in _EXPORTERS:
        raise ValueError(f"torch.nn has no loss for {type(term).__name__}")
    made = _EXPORTERS[type(term)](term, context)
    row = find(type(made), ("torch",))
    has_targets = type(term) is CrossEntropy
    context = context if has_targets else Context("indices", context.spatial)
    check_round_trip(term, row, lambda option: getattr(made, option), context)
    return made


def _reduction(term: Any) -> str:
    return "sum" if term.normalizer == "one" else "mean"


def _weight(values: Any, spatial: int | None, option: str) -> Any:
    """The weights of channels as PyTorch wants them: aligned with the last axes."""
    import torch

    if values is None or isinstance(values, float):
        return None if values is None else torch.tensor(values)
    if spatial is None:
        raise ValueError(
            f"{option}={show_tuple(values)} of torch.nn's losses is aligned with the last axes: say how many spatial "
            "axes your inputs have, spatial=..."
        )
    return torch.tensor(values).reshape(-1, *(1,) * spatial)


def show_tuple(values: tuple[float, ...]) -> str:
    """Some of the numbers."""
    return f"({', '.join(map(repr, values[:3]))}{', ...' if len(values) > 3 else ''})"


def _classes(values: Any) -> Any:
    import torch

    return None if values is None else torch.tensor(values)


@exports(CrossEntropy)
def _(term: CrossEntropy, context: Context) -> Any:
    from torch import nn

    if term.inputs != "logits":
        raise ValueError(f"torch.nn has no loss for {term}: its cross-entropy is of logits, inputs={term.inputs!r}")
    ignore = {} if term.ignore_index is None else {"ignore_index": term.ignore_index}
    return nn.CrossEntropyLoss(
        weight=_classes(term.class_weights),
        label_smoothing=term.label_smoothing,
        reduction=_reduction(term),
        **ignore,
    )


@exports(NegativeLogLikelihood)
def _(term: NegativeLogLikelihood, context: Context) -> Any:
    from torch import nn

    ignore = {} if term.ignore_index is None else {"ignore_index": term.ignore_index}
    return nn.NLLLoss(weight=_classes(term.class_weights), reduction=_reduction(term), **ignore)


@exports(BinaryCrossEntropy)
def _(term: BinaryCrossEntropy, context: Context) -> Any:
    from torch import nn

    weight = _weight(term.class_weights, context.spatial, "class_weights")
    if term.inputs == "probabilities":
        return nn.BCELoss(weight=weight, reduction=_reduction(term))
    return nn.BCEWithLogitsLoss(
        weight=weight, pos_weight=_weight(term.pos_weight, context.spatial, "pos_weight"), reduction=_reduction(term)
    )


@exports(MeanSquaredError)
def _(term: MeanSquaredError, context: Context) -> Any:
    from torch import nn

    return nn.MSELoss(reduction=_reduction(term))


@exports(MeanAbsoluteError)
def _(term: MeanAbsoluteError, context: Context) -> Any:
    from torch import nn

    return nn.L1Loss(reduction=_reduction(term))


@exports(SmoothL1)
def _(term: SmoothL1, context: Context) -> Any:
    from torch import nn

    return nn.SmoothL1Loss(beta=term.beta, reduction=_reduction(term))


@exports(Huber)
def _(term: Huber, context: Context) -> Any:
    from torch import nn

    return nn.HuberLoss(delta=term.delta, reduction=_reduction(term))


@exports(KLDivergence)
def _(term: KLDivergence, context: Context) -> Any:
    from torch import nn

    reduction = "batchmean" if term.normalizer == "batch" else _reduction(term)
    return nn.KLDivLoss(log_target=term.log_target, reduction=reduction)


@exports(Poisson)
def _(term: Poisson, context: Context) -> Any:
    from torch import nn

    return nn.PoissonNLLLoss(
        log_input=term.inputs == "log_rate", full=term.full, eps=term.epsilon, reduction=_reduction(term)
    )
