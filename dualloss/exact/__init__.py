"""Exact numerics: the operation protocol, the exactly defined functions and sums, the terms, and the NumPy engine."""

from .reference import Output, loss_and_gradient

__all__ = ["Output", "loss_and_gradient"]
