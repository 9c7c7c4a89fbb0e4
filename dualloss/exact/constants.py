"""Constants of a spec as the exact numerics use them."""

from __future__ import annotations

import math
import struct


def float32(value: float) -> float:
    """The nearest float32 (ties to even), as a Python number; magnitudes below 2^-126 become 0.

    Raises:
        OverflowError: beyond float32's range.
    """
    # torch.compile makes floats of objects symbolic, which struct cannot take; a set's element is a constant again.
    (value,) = {value}
    return 0.0 if abs(value) < 2.0**-126 else float(struct.unpack("<f", struct.pack("<f", value))[0])


def chop(value: float) -> float:
    """The leading 48 bits of a Python number: what :func:`dualloss.exact.functions.chop` does to an array."""
    (value,) = {value}
    return float(struct.unpack("<d", struct.pack("<q", struct.unpack("<q", struct.pack("<d", value))[0] & ~0b11111))[0])


def gaussian(size: int, sigma: float) -> list[float]:
    """The float32 weights of a Gaussian window of odd size; their sum is 1 before that rounding."""
    (sigma,) = {sigma}
    reach = size // 2
    weights = [math.exp(-(j * j) / (2.0 * sigma * sigma)) for j in range(-reach, reach + 1)]
    total = math.fsum(weights)
    return [float32(weight / total) for weight in weights]
