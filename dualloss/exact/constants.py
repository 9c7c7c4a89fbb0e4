"""Constants of a spec as the exact numerics use them."""

from __future__ import annotations

import struct


def float32(value: float) -> float:
    """The nearest float32 (ties to even), as a Python number; magnitudes below 2^-126 become 0.

    Raises:
        OverflowError: beyond float32's range.
    """
    # torch.compile makes floats of objects symbolic, which struct cannot take; a set's element is a constant again.
    (value,) = {value}
    return 0.0 if abs(value) < 2.0**-126 else float(struct.unpack("<f", struct.pack("<f", value))[0])
