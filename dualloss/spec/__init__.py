"""What a loss is: terms, their algebra, JSON in and out. No arrays, and nothing but the standard library.

A term is a frozen dataclass under `@register`, its options declared with `option`. Adding one here is one
class in the module of its family and one line below.
"""

from ._base import TERMS, Spec, Sum, Term, from_json, option, register
from ._classification import BinaryCrossEntropy, CrossEntropy
from ._regression import Huber, MeanSquaredError
from ._segmentation import Boundary

__all__ = [
    "TERMS",
    "BinaryCrossEntropy",
    "Boundary",
    "CrossEntropy",
    "Huber",
    "MeanSquaredError",
    "Spec",
    "Sum",
    "Term",
    "from_json",
    "option",
    "register",
]
