"""One loss, two frameworks, the same bits.

A loss is described once, by a spec: `CrossEntropy(ignore_index=255) + 0.5 * Boundary()`.
`dualloss.torch.Loss(spec)` and `dualloss.tf.Loss(spec)` compute it. Importing this package loads neither
framework.
"""

from .distances import signed_distances
from .spec import (
    L1,
    L2,
    SSIM,
    BinaryCrossEntropy,
    BinaryFocal,
    Boundary,
    CategoricalHinge,
    Charbonnier,
    CosineSimilarity,
    CrossEntropy,
    Dice,
    DistanceMap,
    Focal,
    FocalTversky,
    Hinge,
    Huber,
    Jaccard,
    KLDivergence,
    Linear,
    LogCosh,
    Lovasz,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    MeanSquaredLogarithmicError,
    NegativeLogLikelihood,
    Poisson,
    Quantile,
    SmoothL1,
    Spec,
    SquaredHinge,
    TotalVariation,
    Tversky,
    from_json,
)
from .vendors import from_keras, from_torch, to_keras, to_torch

__version__ = "0.1.0"

TOTAL_LOSS = CrossEntropy() + 0.5 * Boundary()
"""Cross-entropy plus half the boundary term: what `total_loss` of either framework computes."""

__all__ = [
    "L1",
    "L2",
    "SSIM",
    "TOTAL_LOSS",
    "BinaryCrossEntropy",
    "BinaryFocal",
    "Boundary",
    "CategoricalHinge",
    "Charbonnier",
    "CosineSimilarity",
    "CrossEntropy",
    "Dice",
    "DistanceMap",
    "Focal",
    "FocalTversky",
    "Hinge",
    "Huber",
    "Jaccard",
    "KLDivergence",
    "Linear",
    "LogCosh",
    "Lovasz",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanSquaredError",
    "MeanSquaredLogarithmicError",
    "NegativeLogLikelihood",
    "Poisson",
    "Quantile",
    "SmoothL1",
    "Spec",
    "SquaredHinge",
    "TotalVariation",
    "Tversky",
    "__version__",
    "from_json",
    "from_keras",
    "from_torch",
    "signed_distances",
    "to_keras",
    "to_torch",
]
