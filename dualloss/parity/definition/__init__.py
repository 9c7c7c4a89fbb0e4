"""The exact numerics of docs/numerics.md, executable: scalar Python, slow, sharing no code with the engines.

Section numbers and formulas are those of the page, and of the pages in docs/numerics/ on the terms. Scalars are
Python floats, so `+ - * /` round once, to nearest even, as the page asks. Everything else is exact arithmetic on
integers and fractions: the roundings, the sums and the kept bits of exp and log1p. NumPy only holds the arrays
that come in and go out.
"""

from . import classification, penalties, region, regression, segmentation  # noqa: F401  (they register their terms)
from .arithmetic import (
    asum,
    bfloat16,
    bits,
    chop,
    ex_star,
    exact_sum,
    exp_star,
    float16,
    float32,
    ln1p_star,
    ln_star,
    load,
    log1p_star,
    pow_star,
)
from .core import TERMS, Batch, Ratio, Result, Term, evaluate, penalty

__all__ = [
    "TERMS",
    "Batch",
    "Ratio",
    "Result",
    "Term",
    "asum",
    "bfloat16",
    "bits",
    "chop",
    "evaluate",
    "ex_star",
    "exact_sum",
    "exp_star",
    "float16",
    "float32",
    "ln1p_star",
    "ln_star",
    "load",
    "log1p_star",
    "penalty",
    "pow_star",
]
