"""The losses of segmentation-models-pytorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..spec import (
    BinaryCrossEntropy,
    BinaryFocal,
    CrossEntropy,
    FocalTversky,
    Jaccard,
    Lovasz,
    Spec,
    Term,
    Tversky,
)
from ._common import Options, numbers, per_channel, refuse_reduction
from ._registry import Given, imports, refuses

PACKAGE = "segmentation_models_pytorch.losses"


def importer(name: str, module: str, *terms: type[Term], holds: str, notes: tuple[str, ...] = ()) -> Callable[..., Any]:
    """Register an importer of a module of the package."""
    return imports("smp", f"{PACKAGE}.{module}", name, *(t.__name__ for t in terms), holds=holds, notes=notes)


MODES = 'class indices (B, *spatial) for mode="multiclass"; targets of the input\'s shape for "binary" and "multilabel"'
NOT_NEGATIVE = "targets and probabilities >= 0"
MASK_OF_DENSE = (
    "it would leave out elements of a dense target; a spec leaves out positions by the label of class indices. Give "
    "the call a boolean mask as sample weight"
)


def reduction(given: Given, normalizer: str) -> Options:
    """What the mean divides by. Unknown reductions are treated as none there."""
    match given["reduction"]:
        case "mean":
            return {"normalizer": normalizer, "empty": "nan"}
        case "sum":
            return {"normalizer": "one"}
    refuse_reduction(given, "mean")
    raise AssertionError


def class_weights(given: Given, counted: list[int] | None = None) -> tuple[float, ...] | None:
    """Weights of a mean that divides by their sum, for one that divides by their number."""
    if given["class_weights"] is None:
        return None
    weights = numbers(given["class_weights"])
    if counted is not None and max(counted) >= len(weights):
        given.refuse("class_weights", f"expected one for every class, also for class {max(counted)} of classes")
    total = sum(weights if counted is None else (weights[c] for c in counted))
    if total == 0:
        given.refuse("class_weights", "their sum is 0: the loss is NaN")
    number = len(weights) if counted is None else len(counted)
    return tuple(weight * number / total for weight in weights)


def ignored(given: Given) -> int | None:
    """A label to ignore: only class indices have one."""
    if given["ignore_index"] is not None and given["mode"] != "multiclass":
        given.refuse("ignore_index", f"with mode={given['mode']!r} {MASK_OF_DENSE}")
    ignore: int | None = given["ignore_index"]
    return ignore


# --- Regions ---

REGION_NOTES = (
    "NaN at an ignored position: everything is NaN there; here the position is left out.",
    "from_logits=False, where a probability equals the target: the gradient of |p - t| is 0 there and here.",
)


def region(loss: Given) -> Options:
    """What Dice, Jaccard and Tversky have in common: |p - t| for the intersection, 0 for classes without target."""
    mode = loss["mode"]
    activation = "none" if not loss["from_logits"] else "softmax" if mode == "multiclass" else "sigmoid"
    classes = None if loss["classes"] is None else [int(c) for c in numbers(loss["classes"])]
    if classes is not None and (not classes or min(classes) < 0 or len(set(classes)) < len(classes)):
        loss.refuse("classes", "expected at least one class index >= 0, and none twice")
    return {
        "activation": activation,
        "per_class": mode != "binary",
        "smooth": loss["smooth"],
        "epsilon": loss["eps"],
        "overlap": "minimum",
        "classes": classes,
        "class_weights": class_weights(loss, classes),
        "empty_class": "zero",
        "log": loss["log_loss"],
        "ignore_index": ignored(loss),
    }


@importer("DiceLoss", "dice", Tversky, holds=f"{MODES}; {NOT_NEGATIVE}", notes=REGION_NOTES)
def dice(loss: Given) -> Spec:
    """Tversky with alpha = beta = 0.5, hence smoothing that counts double against Dice's."""
    return Tversky(alpha=0.5, beta=0.5, **region(loss))


@importer("JaccardLoss", "jaccard", Jaccard, holds=f"{MODES}; {NOT_NEGATIVE}", notes=REGION_NOTES)
def jaccard(loss: Given) -> Spec:
    """Jaccard."""
    return Jaccard(**region(loss))


@importer(
    "TverskyLoss",
    "tversky",
    Tversky,
    FocalTversky,
    holds=f"{MODES}; {NOT_NEGATIVE}",
    notes=(*REGION_NOTES, "gamma < 1, where the loss is 0: the gradient is NaN there, 0 here."),
)
def tversky(loss: Given) -> Spec:
    """With gamma the power of the mean."""
    options = {"alpha": loss["alpha"], "beta": loss["beta"], **region(loss)}
    if loss["gamma"] == 1:
        return Tversky(**options)
    return FocalTversky(gamma=loss["gamma"], power_of_mean=True, **options)


@importer(
    "LovaszLoss",
    "lovasz",
    Lovasz,
    holds='class indices and at least two spatial axes for mode="multiclass"; one channel and targets of 0 and 1 for '
    '"binary"; errors that are all different',
    notes=(
        "Errors that tie: the gradient depends on an unstable sort there, on their positions here.",
        'mode="multiclass", everything ignored: an empty tensor of shape (0, C) there, 0 here.',
        'mode="multiclass", inputs (B, C, L) of one spatial axis: read as images (B, H, W) of one class there.',
    ),
)
def lovasz(loss: Given) -> Spec:
    """Hinge for one channel, softmax for classes; from_logits says nothing there."""
    if loss["mode"] == "multilabel":
        loss.refuse("mode", "it orders the errors of all channels in one list; a spec orders those of every class")
    return Lovasz(
        activation="softmax" if loss["mode"] == "multiclass" else "hinge",
        classes="present" if loss["mode"] == "multiclass" else "all",
        per_sample=loss["per_image"],
        ignore_index=ignored(loss),
    )


# --- Classification ---


@importer(
    "FocalLoss",
    "focal",
    BinaryFocal,
    holds=f"{MODES}, of 0 and 1; from_logits=False: probabilities from eps to 1 - eps",
    notes=(
        'mode="multiclass" asks of every class by itself, against the rest: it is no softmax.',
        "gamma < 1, where the answer is right to the last bit: the gradient is NaN there, 0 here.",
        "Labels out of range count as no class there, a ValueError here.",
        "Targets between 0 and 1: the focal factor is 1 - exp(-b) there, a mixture here.",
    ),
)
def focal(loss: Given) -> Spec:
    """One class against the rest; the mean over classes of means over positions."""
    function = loss["focal_loss_fn"]
    keywords = getattr(function, "keywords", None)
    if keywords is None or getattr(function.func, "__name__", "") != "focal_loss_with_logits":
        loss.refuse("focal_loss_fn", "expected the function that the constructor sets")
    loss = Given(
        loss.label,
        loss.vendor,
        lambda option, of=loss: keywords[option] if option in keywords else of.read(option),  # type: ignore[misc]
        loss.context,
        loss.asked,
    )
    loss.fixed("normalized", False, why="the sum of the focal factors as divisor; no normalizer is that")
    loss.fixed("reduced_threshold", None, why="no term has a focal factor with a threshold")
    if loss["mode"] == "multiclass" and not loss["from_logits"]:
        loss.refuse("from_logits", "it takes log(p) for the logit of a sigmoid; no term does")
    inputs = {} if loss["from_logits"] else {"inputs": "probabilities", "clip": loss["eps"]}
    return BinaryFocal(
        gamma=loss["gamma"],
        alpha=loss["alpha"],
        class_weights=class_weights(loss),
        ignore_index=ignored(loss),
        # "binary" adds all elements, "multilabel" and "multiclass" take the mean of the classes' sums.
        channels="sum" if (loss["mode"], loss["reduction"]) == ("binary", "sum") else "mean",
        **inputs,
        **reduction(loss, "valid"),
    )


@importer(
    "SoftBCEWithLogitsLoss",
    "soft_bce",
    BinaryCrossEntropy,
    holds="a weight holds one number, or one for each channel",
    notes=(
        "NaN at an ignored element: the value is NaN there; here the element is left out.",
        "A logit of an infinity with the right answer: the value is NaN there, 0 here.",
    ),
)
def soft_bce(loss: Given) -> Spec:
    """Ignored elements stay in what the mean divides by."""
    weight = per_channel(loss, "weight")
    options = reduction(loss, "valid")
    term = BinaryCrossEntropy(
        pos_weight=per_channel(loss, "pos_weight"),
        class_weights=weight if isinstance(weight, tuple) else None,
        label_smoothing=2 * (loss["smooth_factor"] or 0.0),
        ignore_value=loss["ignore_index"],
        channels="sum" if options["normalizer"] == "one" else "mean",
        **options,
    )
    return weight * term if isinstance(weight, float) else term


@importer(
    "SoftCrossEntropyLoss",
    "soft_ce",
    CrossEntropy,
    holds="class indices",
    notes=("The default smooth_factor=None is a TypeError when the loss of version 0.6.0 is called.",),
)
def soft_ce(loss: Given) -> Spec:
    """Ignored positions stay in what the mean divides by."""
    smoothing = loss["smooth_factor"]
    if smoothing is None:
        if loss.like != "smp":
            loss.refuse(
                "smooth_factor",
                'version 0.6.0 raises a TypeError when this is called. Give smooth_factor=0.0, or say like="smp" for '
                "what it documents, no smoothing",
            )
        smoothing = 0.0
    loss.fixed(
        "dim",
        1,
        why="which axis holds the channels is not a matter of the spec: import it with dim=1 and make "
        "Loss(spec, channel_axis=...)",
    )
    return CrossEntropy(label_smoothing=smoothing, ignore_index=loss["ignore_index"], **reduction(loss, "elements"))


refuses("smp", f"{PACKAGE}.mcc", MCCLoss="no term is the correlation coefficient of Matthews")
