"""The truth in float64: every term as its formula stands in a textbook, with NumPy.

This is what the exact and the native numerics are measured against. It shares no code with either and has
none of their roundings: it works in `numpy.longdouble` (64 significant bits on x86, float64 on platforms with
nothing wider), avoids cancellation where the formulas allow it, and rounds to float64 at the end. A loss of
1e-30 is as right as a loss of 1.

What it computes is docs/numerics.md and docs/numerics/, without the roundings. The constants of a spec are read
as float32, as there: they are part of the question, not of the error. Inside this package the channels are
last, `(B, *spatial, C)`; a "map" is `(B, *spatial)`. To add a term, write one function under `@implements` in
the module of its family.
"""

from . import classification, penalties, region, regression, segmentation  # noqa: F401  (they register their terms)
from .core import PenaltyResult, Reduction, Result, evaluate, evaluate_penalty, native_bound
from .distances import Bound, scaled_ulp_error, ulp, ulp_error

__all__ = [
    "Bound",
    "PenaltyResult",
    "Reduction",
    "Result",
    "evaluate",
    "evaluate_penalty",
    "native_bound",
    "scaled_ulp_error",
    "ulp",
    "ulp_error",
]
