"""One loss, two frameworks, the same bits.

A loss is described once, by a spec: `CrossEntropy(ignore_index=255) + 0.5 * Boundary()`.
`dualloss.torch.Loss(spec)` and `dualloss.tf.Loss(spec)` compute it. Importing this package loads neither
framework.
"""

from .spec import BinaryCrossEntropy, Boundary, CrossEntropy, Huber, MeanSquaredError, Spec, from_json

__version__ = "0.1.0"

TOTAL_LOSS = CrossEntropy() + 0.5 * Boundary()
"""Cross-entropy plus half the boundary term: what `total_loss` of either framework computes."""

__all__ = [
    "TOTAL_LOSS",
    "BinaryCrossEntropy",
    "Boundary",
    "CrossEntropy",
    "Huber",
    "MeanSquaredError",
    "Spec",
    "__version__",
    "from_json",
]
