"""The losses of MONAI."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from ..spec import (
    SSIM,
    BinaryCrossEntropy,
    BinaryFocal,
    CrossEntropy,
    Dice,
    DistanceMap,
    Focal,
    Jaccard,
    Spec,
    Term,
    Tversky,
)
from ._common import Options, numbers, refuse_reduction, refuse_region_sum
from ._registry import Given, imports, refuses, show

PACKAGE = "monai.losses"


def importer(name: str, module: str, *terms: type[Term], holds: str, notes: tuple[str, ...] = ()) -> Callable[..., Any]:
    """Register an importer of a module of the package."""
    return imports("monai", f"{PACKAGE}.{module}", name, *(t.__name__ for t in terms), holds=holds, notes=notes)


LABELS = (
    "inputs with spatial axes; class indices (here without their axis of length 1) where to_onehot_y=True, else dense "
    "targets"
)
SEVERAL = "more than one channel where options are about classes (they are ignored for one: say classes=1)"
NOT_NEGATIVE = "with soft_label=True predictions and targets >= 0"
SATURATED = "gamma < 1, where the answer is right to the last bit: the gradient is NaN there, 0 here"


def ignored(given: Given) -> int | None:
    """A label to ignore: only class indices have one."""
    if given["ignore_index"] is not None and not given["to_onehot_y"]:
        given.refuse(
            "ignore_index",
            "without to_onehot_y=True the target is dense and the option says which of its positions to leave out; a "
            "spec leaves out positions by the label of class indices. Give the call a boolean mask as sample weight",
        )
    ignore: int | None = given["ignore_index"]
    return ignore


# --- Regions ---

REGION_NOTES = (
    "Inputs (B, C) without spatial axes: one ratio of the whole batch and all classes there.",
    "A denominator of 0 (smooth_dr=0): NaN there; a score of 0 here.",
    "NaN at an ignored position: everything is NaN there; here the position is left out.",
)


KINK = (
    "soft_label=True, a prediction of exactly 0: the gradient of its |p| is 0 there, 1 here; at p = t = 0 the whole "
    "gradient is 0 there, at p = 0 < t that of the intersection is half of ours. The value is the same."
)


def activation(given: Given) -> Literal["softmax", "sigmoid", "none"]:
    """What makes probabilities."""
    given.fixed("other_act", None, why="a spec's activation is softmax, sigmoid or none")
    if given["softmax"] and given["sigmoid"]:
        given.refuse("sigmoid", "with softmax=True, too, MONAI applies one after the other; no term does")
    return "softmax" if given["softmax"] else "sigmoid" if given["sigmoid"] else "none"


def region(given: Given, smoothing: float = 1.0) -> Options:
    """What Dice and Tversky have in common: a ratio for every sample (but batch=True) and class."""
    match given["reduction"]:
        case "mean":
            pass
        case "sum":
            refuse_region_sum(given, "mean")
        case _:
            refuse_reduction(given, "mean", has_map=False)
    return {
        "activation": activation(given),
        "per_sample": not given["batch"],
        "smooth": smoothing * given["smooth_nr"],
        "smooth_denominator": smoothing * given["smooth_dr"],
        "epsilon": 0.0,
        "background": bool(given["include_background"]),
        "overlap": "minimum" if given["soft_label"] else "product",
        "ignore_index": ignored(given),
    }


@importer(
    "DiceLoss",
    "dice",
    Dice,
    Jaccard,
    holds=f"{LABELS}; {SEVERAL}; {NOT_NEGATIVE}",
    notes=("The mean of weighted losses does not divide by the weights, there and here.", KINK, *REGION_NOTES),
)
def dice(loss: Given) -> Spec:
    """Dice; Jaccard with half the smoothing where jaccard=True."""
    loss = _of_channels(loss)
    options = region(loss, 0.5 if loss["jaccard"] else 1.0)
    if loss["squared_pred"]:
        options.update(squared=True, overlap="product")
    factor, weights = _weights(loss)
    if weights is not None and len(weights) == 1:
        weights = None  # a single class that counts has no weight there
    if factor is not None:
        classes = loss.context.classes
        several = options["background"] and options["activation"] == "softmax"
        if classes is None and not several:
            loss.refuse("class_weight", "one number weighs the classes unless only one counts: say classes=...")
        if not options["background"] and classes == 2:
            factor = None
    if weights is not None:
        # The weights are those of the counted classes; the background's own does not matter.
        options["class_weights"] = weights if options["background"] else (1.0, *weights)
    term = Jaccard(**options) if loss["jaccard"] else Dice(**options)
    return term if factor is None else factor * term


def _weights(given: Given) -> tuple[float | None, tuple[float, ...] | None]:
    """The weight as one number, or as one for each class."""
    array = given["class_weight"]
    if array is None:
        return None, None
    values = numbers(array)
    if min(values) < 0:
        given.refuse("class_weight", "expected weights >= 0")
    return (values[0], None) if len(array.shape) == 0 else (None, tuple(values))


def _of_channels(given: Given) -> Given:
    """The same loss, without its options about classes if there is one channel, for which they are ignored."""
    if given.context.classes != 1:
        return given
    neutral = {"softmax": False, "to_onehot_y": False, "include_background": True, "class_weight": None}
    return Given(
        given.label,
        given.vendor,
        lambda option: neutral[option] if option in neutral else given.read(option),
        given.context,
        given.asked,
    )


@importer(
    "TverskyLoss",
    "tversky",
    Tversky,
    holds=f"{LABELS}; {SEVERAL}; {NOT_NEGATIVE}",
    notes=(
        KINK,
        "smooth_nr other than smooth_dr, a score near 1: 1 - score cancels, and that constants are float32 shows.",
        *REGION_NOTES,
    ),
)
def tversky(loss: Given) -> Spec:
    """alpha weighs false positives."""
    loss = _of_channels(loss)
    return Tversky(alpha=loss["alpha"], beta=loss["beta"], **region(loss))


# --- Focal ---

FOCAL_IGNORE = (
    "MONAI 1.6.1 divides the sum over positions and classes by the number of valid positions, without an ignore_index "
    "by that of positions and classes; so setting one multiplies the loss by the number of classes."
)
FOCAL_SUM = "MONAI 1.6.1 adds the spatial means of all samples and classes, not the losses of all positions."


@importer(
    "FocalLoss",
    "focal_loss",
    BinaryFocal,
    Focal,
    holds=f"{LABELS}; targets of 0 and 1 unless use_softmax=True; {SEVERAL}",
    notes=(
        FOCAL_IGNORE,
        FOCAL_SUM,
        f"use_softmax=True: {SATURATED}; a logit of -inf: NaN there.",
        "Targets between 0 and 1, sigmoid: the focal factor is of the scaled logit there, a mixture here.",
    ),
)
def focal(loss: Given) -> Spec:
    """Sigmoid, every channel a question of its own, or softmax; the mean is over classes, too."""
    ignore = ignored(loss)
    options: Options = {"gamma": loss["gamma"], "ignore_index": ignore, "channels": "mean", "normalizer": "valid"}
    if loss.like not in (None, "monai", loss.version):
        loss.refuse("gamma", f'like={show(loss.like)}, expected "monai" or "{loss.version}"')
    match loss["reduction"]:
        case "mean":
            options["empty"] = "nan" if ignore is None else "zero"
            if ignore is not None:
                options["channels"] = loss.choose("ignore_index", documented="mean", computed="sum", why=FOCAL_IGNORE)
        case "sum":
            why = f"{FOCAL_SUM} No normalizer is the number of positions of a sample."
            if loss.like != "monai":
                loss.refuse("reduction", f'{why} Say like="monai" for the sum that it documents')
            options.update(normalizer="one", channels="sum")
        case _:
            refuse_reduction(loss, "mean")
    return _softmax_focal(loss, options) if loss["use_softmax"] else _sigmoid_focal(loss, options)


def _sigmoid_focal(loss: Given, options: Options) -> Spec:
    alpha = loss["alpha"]
    if alpha is not None and not isinstance(alpha, float):
        loss.refuse("alpha", "one for each class, and 1 for the negative answers; a spec has 1 - alpha for these")
    factor, weights = _weights(loss)
    if not loss["include_background"]:
        weights = _without_background(loss, weights, options["channels"] == "mean")
    term = BinaryFocal(alpha=alpha, class_weights=weights, **options)
    return term if factor is None else factor * term


def _without_background(loss: Given, weights: tuple[float, ...] | None, mean: bool) -> tuple[float, ...]:
    """Weights of channels that leave out the first, also from the number of channels that the mean divides by."""
    classes = loss.context.classes or (None if weights is None else len(weights) + 1)
    if classes is None:
        loss.refuse("include_background", "say how many channels the inputs have, classes=...")
    if classes == 1:
        return (1.0,)
    kept = weights if weights is not None else (1.0,) * (classes - 1)
    if len(kept) != classes - 1:
        loss.refuse("class_weight", f"expected {classes - 1}, one for each of classes={classes} but the background")
    scale = classes / (classes - 1) if mean else 1.0
    return (0.0, *(scale * weight for weight in kept))


def _softmax_focal(loss: Given, options: Options) -> Spec:
    if not loss["include_background"]:
        loss.refuse("include_background", "with use_softmax=True it is a softmax without the first class; no term is")
    alpha, classes = loss["alpha"], loss.context.classes
    factor, weights = _weights(loss)
    if isinstance(alpha, float):
        classes = classes or (None if weights is None else len(weights))
        if classes is None:
            loss.refuse("alpha", "1 - alpha for class 0, alpha for the others: say how many there are, classes=...")
        alphas: list[float] | None = [1 - alpha] + [alpha] * (classes - 1)
    else:
        alphas = None if alpha is None else numbers(alpha)
    if weights is not None:
        alphas = [a * w for a, w in zip(alphas or [1.0] * len(weights), weights, strict=True)]
    term = Focal(alpha=alphas, **options)
    return term if factor is None else factor * term


# --- Sums of two ---


@importer(
    "DiceCELoss",
    "dice",
    Dice,
    Jaccard,
    CrossEntropy,
    BinaryCrossEntropy,
    holds=f"{LABELS}; {SEVERAL}",
    notes=(
        "The cross-entropy is of the softmax, whatever the activation of the Dice loss; for one channel it is binary.",
        "Class indices as targets: its mean divides by the weights of the labels; dense ones: by their number.",
        *REGION_NOTES,
    ),
)
def dice_ce(loss: Given) -> Spec:
    """A weighted sum of the Dice loss and the cross-entropy."""
    overlap, entropy = _dice_part(loss), loss.part("cross_entropy", "torch.CrossEntropyLoss")
    entropy.fixed("ignore_index", -100, why="the constructor of the sum sets none")
    entropy.fixed("reduction", "mean", why="expected that of the sum")
    labels, weights, classes = overlap["to_onehot_y"], entropy["weight"], loss.context.classes
    if classes is None and not labels and not overlap["softmax"] and weights is None:
        loss.refuse("lambda_ce", "the cross-entropy of one channel is another than of several: say classes=...")
    if classes == 1:
        pos_weight = None if weights is None else numbers(weights)[0]
        second: Spec = BinaryCrossEntropy(pos_weight=pos_weight, empty="nan")
    else:
        second = CrossEntropy(
            class_weights=None if weights is None else numbers(weights),
            label_smoothing=max(0.0, entropy["label_smoothing"]),
            normalizer="weights" if labels else "valid",
            empty="nan",
        )
    return loss["lambda_dice"] * dice(overlap) + loss["lambda_ce"] * second


def _dice_part(loss: Given) -> Given:
    """The Dice loss of a sum; in a spec a label that it ignores would be ignored by the other loss, too."""
    overlap = loss.part("dice", "monai.DiceLoss")
    overlap.fixed("ignore_index", None, why="in a spec all terms of a sum ignore the same label")
    return overlap


@importer(
    "DiceFocalLoss",
    "dice",
    Dice,
    Jaccard,
    BinaryFocal,
    holds=f"{LABELS}; targets of 0 and 1; {SEVERAL}",
    notes=("The focal loss is that of the sigmoid, whatever the activation of the Dice loss.", *REGION_NOTES),
)
def dice_focal(loss: Given) -> Spec:
    """A weighted sum of the Dice loss and the sigmoid's focal loss."""
    second = loss.part("focal", "monai.FocalLoss")
    second.fixed("ignore_index", None, why="in a spec all terms of a sum ignore the same label")
    return loss["lambda_dice"] * dice(_dice_part(loss)) + loss["lambda_focal"] * focal(second)


@importer(
    "SSIMLoss",
    "ssim_loss",
    SSIM,
    holds="inputs with spatial axes at least as long as the window",
    notes=("Variances are differences of large numbers there; here their cancellation is avoided where it can be.",),
)
def ssim(loss: Given) -> Spec:
    """One less the mean structural similarity, under a Gaussian window."""
    if loss["reduction"] != "mean":
        loss.refuse("reduction", 'no normalizer is what the means of samples leave of it; import it with "mean"')
    inner = loss["ssim_metric"]  # where it looks for its options, whatever is set on the loss itself
    metric = Given(loss.label, loss.vendor, lambda option: getattr(inner, option), loss.context, loss.asked)
    kernel = str(metric["kernel_type"])
    if kernel.rsplit(".", 1)[-1].lower() != "gaussian":
        metric.refuse("kernel_type", "a spec's window is Gaussian")
    metric.fixed("k1", 0.01, why="a spec's is 0.01")
    metric.fixed("k2", 0.03, why="a spec's is 0.03")
    windows, sigmas = set(_all(metric["kernel_size"])), set(_all(metric["kernel_sigma"]))
    if len(windows) > 1:
        metric.refuse("kernel_size", "a spec's window is of one size")
    if len(sigmas) > 1:
        metric.refuse("kernel_sigma", "a spec's window has one sigma")
    return SSIM(data_range=metric["data_range"], window=windows.pop(), sigma=sigmas.pop(), empty="nan")


@importer(
    "BoundaryLoss",
    "boundary_loss",
    DistanceMap,
    holds=f"2 or 3 spatial axes; class indices where to_onehot_y=True, else targets of 0 and 1; {SEVERAL}",
)
def boundary(loss: Given) -> Spec:
    """Probability times signed distance; batch=True takes the same mean in another order."""
    loss.fixed("include_background", True, why="a DistanceMap has no option to leave out a class")
    if loss["reduction"] != "mean":
        loss.refuse("reduction", 'no normalizer is what the means of samples leave of it; import it with "mean"')
    return DistanceMap(activation=activation(loss), empty="nan")


def _all(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


OTHER = "no term is of this kind"
refuses(
    "monai",
    f"{PACKAGE}.dice",
    GeneralizedDiceLoss="no term weighs classes by their size in the target",
    GeneralizedDiceFocalLoss="no term weighs classes by their size in the target",
    GeneralizedWassersteinDiceLoss="no term has distances between classes",
    MaskedDiceLoss="its mask multiplies predictions and targets; import the DiceLoss and give the call a boolean mask "
    "as sample weight",
)
refuses(
    "monai",
    f"{PACKAGE}.spatial_mask",
    MaskedLoss="its mask multiplies predictions and targets; import the loss itself and give the call a boolean mask "
    "as sample weight",
)
refuses("monai", f"{PACKAGE}.mcc_loss", MCCLoss="no term is the correlation coefficient of Matthews")
refuses(
    "monai",
    f"{PACKAGE}.unified_focal_loss",
    AsymmetricFocalTverskyLoss=OTHER,
    AsymmetricFocalLoss=OTHER,
    AsymmetricUnifiedFocalLoss=OTHER,
)
refuses("monai", f"{PACKAGE}.cldice", SoftclDiceLoss=OTHER, SoftDiceclDiceLoss=OTHER)
refuses("monai", f"{PACKAGE}.aucm_loss", AUCMLoss=OTHER)
refuses("monai", f"{PACKAGE}.deform", BendingEnergyLoss=OTHER, DiffusionLoss=OTHER)
refuses("monai", f"{PACKAGE}.giou_loss", BoxGIoULoss="its inputs are boxes; a spec has a target for every position")
refuses(
    "monai",
    f"{PACKAGE}.image_dissimilarity",
    LocalNormalizedCrossCorrelationLoss=OTHER,
    GlobalMutualInformationLoss=OTHER,
)
refuses("monai", f"{PACKAGE}.barlow_twins", BarlowTwinsLoss="it compares all pairs of embeddings of a batch")
refuses("monai", f"{PACKAGE}.contrastive", ContrastiveLoss="it compares all pairs of embeddings of a batch")
NETWORK = "it is a function of a network beside its inputs"
refuses("monai", f"{PACKAGE}.adversarial_loss", PatchAdversarialLoss=NETWORK)
refuses("monai", f"{PACKAGE}.perceptual", PerceptualLoss=NETWORK)
refuses("monai", f"{PACKAGE}.sure_loss", SURELoss=NETWORK)
refuses("monai", f"{PACKAGE}.spectral_loss", JukeboxLoss="it is of spectra; no term has a Fourier transform")
WRAPPED = "it is a sum of another loss over several outputs: import that, and add as many"
refuses("monai", f"{PACKAGE}.ds_loss", DeepSupervisionLoss=WRAPPED)
refuses("monai", f"{PACKAGE}.multi_scale", MultiScaleLoss=WRAPPED)
refuses("monai", f"{PACKAGE}.nacl_loss", NACLLoss=OTHER)
refuses("monai", f"{PACKAGE}.hausdorff_loss", HausdorffDTLoss=OTHER, LogHausdorffDTLoss=OTHER)
