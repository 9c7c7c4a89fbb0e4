"""What losses may compute, as float64 formulas whose conventions are options: the hypotheses of a comparison."""

from . import classification, region, regression, stencil
from ._base import LOOSE, Family, log_softmax, sigmoid

FAMILIES: tuple[Family, ...] = (
    *classification.FAMILIES,
    *regression.FAMILIES,
    *region.FAMILIES,
    *stencil.FAMILIES,
)

__all__ = ["FAMILIES", "LOOSE", "Family", "log_softmax", "sigmoid"]
