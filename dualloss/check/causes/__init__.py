"""Why two losses differ: every cause that is known, each with what it looks like and how it is mended."""

from . import definitions, gradients, normalisation, ranges, shapes  # noqa: F401  (each registers its causes)
from ._base import CAUSES, Cause, Difference, Evidence, Match, OptionCause, Relation, Row, said, shown

__all__ = ["CAUSES", "Cause", "Difference", "Evidence", "Match", "OptionCause", "Relation", "Row", "said", "shown"]
