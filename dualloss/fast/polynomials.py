"""The numbers behind exp and log1p of the kernels, which the definition lets be any good to 57 and 130 ulp."""

from __future__ import annotations

import math

import numpy as np

MAGIC = 1.5 * 2.0**52
"""Added to an integer below 2^51 in magnitude, it leaves the integer in the low bits."""
MAGIC_BITS = 0x4338000000000000
_THROUGH = np.polynomial.Chebyshev.interpolate(np.exp, 10, [-math.log(2.0) / 2, math.log(2.0) / 2])
EXP = tuple(float(c) for c in _THROUGH.convert(kind=np.polynomial.Polynomial).coef[::-1])
"""The polynomial of degree 10 through exp at the Chebyshev nodes, the highest power first: good to some ulp."""
ATANH = tuple(2.0 / k for k in range(23, 1, -2))
"""Of 2 atanh(s) = 2 s + s (z P(z)), z = s^2, the highest power first."""
ROOT = 0x3FE6A09E667F3BCD
"""The bits of sqrt(1/2): the least mantissa."""
