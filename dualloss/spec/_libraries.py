"""The definitions of other libraries' losses, as `like=` knows them.

Each line says what a loss of that library is with its own defaults, in the options of our terms. Options given beside
`like` keep our meaning, with the exceptions said here. The versions stand in `_presets.VERSIONS`; dualloss/vendors
imports whole loss objects, and its proof measures that they are these.
"""

from __future__ import annotations

from typing import Any

from ._presets import VERSIONS, define, define_function

# --- torch.nn: the mean of nothing is NaN ---

define("CrossEntropy", "torch", ignore_index=-100, empty="nan")
define("NegativeLogLikelihood", "torch", ignore_index=-100, empty="nan")
define("KLDivergence", "torch", inputs="log_probabilities", channels="mean", empty="nan")
define("Poisson", "torch", epsilon=1e-8, empty="nan")
for _term in ("MeanSquaredError", "MeanAbsoluteError", "SmoothL1", "Huber"):
    define(_term, "torch", empty="nan")


def _torch_binary_cross_entropy(given: dict[str, Any]) -> dict[str, Any]:
    clip = {"clip": None} if given.get("inputs") == "probabilities" else {}
    return {"empty": "nan", **clip, **given}


define_function("BinaryCrossEntropy", "torch", _torch_binary_cross_entropy)

# --- keras.losses: probabilities by default ---

define("CrossEntropy", "keras", inputs="probabilities", normalizer="valid")
define("BinaryCrossEntropy", "keras", inputs="probabilities")
define("BinaryFocal", "keras", inputs="probabilities")
define("KLDivergence", "keras", inputs="probabilities")
define("Poisson", "keras", inputs="rate")
define("CosineSimilarity", "keras", epsilon=1e-14)
for _term in (
    "MeanSquaredError",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanSquaredLogarithmicError",
    "Huber",
    "LogCosh",
    "Hinge",
    "SquaredHinge",
    "CategoricalHinge",
):
    define(_term, "keras")


def _keras_focal(given: dict[str, Any]) -> dict[str, Any]:
    options = {"alpha": 0.25, "inputs": "probabilities", **given}
    return options if options["inputs"] == "probabilities" else {"clip_softmax": True, **options}


define_function("Focal", "keras", _keras_focal)

_KERAS_REGION = {"activation": "none", "per_class": False, "smooth": 0.0, "smooth_denominator": 1e-7, "epsilon": 0.0}

define("Dice", "keras", **_KERAS_REGION)
define("Tversky", "keras", **_KERAS_REGION)


def _keras_tversky(given: dict[str, Any]) -> dict[str, Any]:
    """What this version computes: `alpha` and `beta`, given as one gives them to it, weigh the other errors."""
    swapped = {"alpha": "beta", "beta": "alpha"}
    return {**_KERAS_REGION, **{swapped.get(name, name): value for name, value in given.items()}}


define_function("Tversky", f"keras=={VERSIONS['keras']}", _keras_tversky)

# --- segmentation-models-pytorch: |p - t| for the intersection, 0 for a class without target ---

_SMP_REGION = {"overlap": "minimum", "empty_class": "zero"}

define("Tversky", "smp", **_SMP_REGION)
define("Jaccard", "smp", **_SMP_REGION)
define("FocalTversky", "smp", alpha=0.5, beta=0.5, gamma=1.0, power_of_mean=True, **_SMP_REGION)
define("Lovasz", "smp")
define("BinaryFocal", "smp", empty="nan")
define("BinaryCrossEntropy", "smp", ignore_value=-100.0, empty="nan")
define("CrossEntropy", "smp", normalizer="elements", ignore_index=-100, empty="nan")


def _smp_dice(given: dict[str, Any]) -> dict[str, Any]:
    """Its score is (I + s) / max((P + T) / 2 + s, 1e-7): all constants count double here."""
    if given.get("log"):
        raise ValueError('Dice(like="smp", log=True), expected Tversky(like="smp", log=True), which is that loss')
    return {**_SMP_REGION, "epsilon": 2e-7, **given}


define_function("Dice", "smp", _smp_dice)

# --- MONAI: no activation, a ratio for every sample and class ---


def _monai_region(smooth: float) -> dict[str, Any]:
    return {
        "activation": "none",
        "per_sample": True,
        "smooth": smooth,
        "smooth_denominator": smooth,
        "epsilon": 0.0,
    }


define("Dice", "monai", **_monai_region(1e-5))
define("Jaccard", "monai", **_monai_region(0.5e-5))
define("Tversky", "monai", **_monai_region(1e-5))
define("SSIM", "monai", empty="nan")
define("DistanceMap", "monai", activation="none", empty="nan")


def _monai_focal(given: dict[str, Any], ignoring: str) -> dict[str, Any]:
    """The mean is over classes, too; what version 1.6.1 does with an ignored label is another mean."""
    if given.get("ignore_index") is None:
        return {"channels": "mean", "empty": "nan", **given}
    return {"channels": ignoring, **given}


for _term in ("Focal", "BinaryFocal"):
    define_function(_term, "monai", lambda given: _monai_focal(given, "mean"))
    define_function(_term, f"monai=={VERSIONS['monai']}", lambda given: _monai_focal(given, "sum"))
