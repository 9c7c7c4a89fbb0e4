"""What a kernel is called with."""

from __future__ import annotations

LANES = 8
"""Positions in a vector."""
TILE = 16
"""Positions that are fetched at a time: as many as float32 numbers in a cache line."""
POINTERS = ("x", "label", "target", "mask", "weight", "gradient")
"""The kernel's arrays: float32, int64, float32, bool, float32 and float32."""
GEOMETRY = (
    "height", "width", "positions", "block", "plane",
    "x_sample", "x_channel", "x_position", "t_sample", "t_channel", "t_position", "rows", "share", "threads",
    "work",
)  # fmt: skip
"""Numbers the kernel gets: rows of a sample, positions of a row and of a sample (the last row may be shorter), columns
that are worked on at a time, rows of a plane (of 3-D inputs; else 1), strides in elements, rows of all samples, rows
that a thread takes at a time, threads to use, and bytes of memory that each of them needs.

The gradient has the strides of x.
"""
ARGUMENTS = ("arrays", "geometry", "parameters", "first", "last", "states", "work")
"""The arguments of the function of a kernel."""
