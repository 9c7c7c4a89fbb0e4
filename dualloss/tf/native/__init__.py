"""Native numerics: every term as one would write it in TensorFlow, for its tapes to differentiate.

The counterpart of this package is dualloss/torch/native/: the same files, the same functions in the same order.
Half precision is computed in float32, and the gradient comes back in the input's dtype; float64 stays float64.
The bounds against the float64 oracle stand in `dualloss.oracle`, where each term is registered.

A `tf.where` keeps a value out of the result, but not out of the gradient: 0 times the NaN or infinity of
the branch not taken is NaN. So what must not count is replaced *before* it enters a formula.
"""

from . import classification, penalties, region, regression, segmentation  # noqa: F401  (they register their terms)
from .core import loss
from .penalties import penalty

__all__ = ["loss", "penalty"]
