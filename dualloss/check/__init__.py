"""Two losses that somebody wrote: whether they agree, and if not, why. Imports no framework by itself."""

from .case import Case, Side
from .compare import compare
from .report import Report

__all__ = ["Case", "Report", "Side", "compare"]
