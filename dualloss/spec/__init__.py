"""What a loss is: terms, their algebra, JSON in and out. No arrays, and nothing but the standard library.

A term is a frozen dataclass under `@register`, its options declared with `option`. Adding one here is one
class in the module of its family and one line below.
"""

from . import _libraries  # noqa: F401  (it registers what `like` knows)
from ._base import TERMS, PerChannel, PerPosition, Spec, Sum, Term, from_json, option, register
from ._classification import (
    BinaryCrossEntropy,
    BinaryFocal,
    CategoricalHinge,
    CrossEntropy,
    Focal,
    Hinge,
    KLDivergence,
    NegativeLogLikelihood,
    Poisson,
    SquaredHinge,
)
from ._penalties import L1, L2, Penalty
from ._presets import VERSIONS
from ._region import Dice, FocalTversky, Jaccard, Lovasz, Region, Tversky
from ._regression import (
    Charbonnier,
    CosineSimilarity,
    Huber,
    LogCosh,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    MeanSquaredLogarithmicError,
    Quantile,
    SmoothL1,
)
from ._schedules import Linear, Schedule, Weight, step_number
from ._segmentation import SSIM, Boundary, DistanceMap, TotalVariation
from ._subset import Subset

__all__ = [
    "L1",
    "L2",
    "SSIM",
    "TERMS",
    "VERSIONS",
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
    "Penalty",
    "PerChannel",
    "PerPosition",
    "Poisson",
    "Quantile",
    "Region",
    "Schedule",
    "SmoothL1",
    "Spec",
    "SquaredHinge",
    "Subset",
    "Sum",
    "Term",
    "TotalVariation",
    "Tversky",
    "Weight",
    "from_json",
    "option",
    "register",
    "step_number",
]
