"""What makes probabilities of inputs: softmax, sigmoid, clips; and the way back for gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .constants import Reals, float32


@dataclass(frozen=True)
class Softmax:
    """`p`, `-log p`, and for each class the sum of the others: `1 - p` without cancellation."""

    p: Reals
    minus_log: Reals
    rest: Reals

    @staticmethod
    def of(x: Reals) -> Softmax:
        """NaN where an input is NaN or +inf, or all are -inf."""
        d = x - x.max(-1, keepdims=True)  # NaN if any x is NaN or +inf, or all are -inf
        e = np.exp(d)
        # The largest has e = 1; log1p of the sum of the others is right where that sum is tiny.
        top = np.arange(x.shape[-1]) == np.expand_dims(x.argmax(-1), -1)
        others = np.where(top, 0.0, e).sum(-1, keepdims=True)
        total = 1 + others
        bad = np.isnan(d).any(-1, keepdims=True)
        p, minus_log, rest = e / total, np.log1p(others) - d, sum_of_others(e) / total
        return Softmax(*(np.where(bad, np.nan, v) for v in (p, minus_log, rest)))

    def back(self, g: Reals) -> Reals:
        """The gradient for the logits, from that for `p`: `p (g - sum of p g)`; 0 where `g` is 0 for every class."""
        unused = (g == 0).all(-1, keepdims=True)
        # The Jacobian does not see a shift; less the likeliest class's, what is left at p = 1 is small.
        shifted = g - np.take_along_axis(g, self.p.argmax(-1)[..., None], -1)
        return np.where(unused, 0.0, self.p * (shifted - (self.p * shifted).sum(-1, keepdims=True)))


@dataclass(frozen=True)
class Sigmoid:
    """`p` and `1 - p` with their negative logarithms."""

    p: Reals
    rest: Reals
    minus_log: Reals
    minus_log_rest: Reals

    @staticmethod
    def of(x: Reals) -> Sigmoid:
        """NaN for NaN."""
        small = np.exp(-abs(x))
        near, far = 1 / (1 + small), small / (1 + small)
        up = (x >= 0) | np.isnan(x)
        p, rest = np.where(up, near, far), np.where(up, far, near)
        return Sigmoid(p, rest, np.maximum(-x, 0) + np.log1p(small), np.maximum(x, 0) + np.log1p(small))

    def back(self, g: Reals) -> Reals:
        """The gradient for the logits, from that for `p`."""
        return np.where(g == 0, 0.0, g * self.p * self.rest)


@dataclass(frozen=True)
class Activated:
    """Probabilities `p`, `1 - p`, and what turns a gradient for `p` into one for the input."""

    p: Reals
    rest: Reals
    back: Callable[[Reals], Reals]

    @staticmethod
    def of(activation: str, x: Reals) -> Activated:
        """ "softmax", "sigmoid", or "none": `x` are the probabilities."""
        if activation == "none":
            return Activated(x, 1 - x, lambda g: g)
        made = Softmax.of(x) if activation == "softmax" else Sigmoid.of(x)
        return Activated(made.p, made.rest, made.back)

    def minus(self, t: Reals) -> Reals:
        """`p - t`: `t`'s complement less `p`'s where `p` is nearly 1."""
        return np.where(self.p > self.rest, (1 - t) - self.rest, self.p - t)


@dataclass(frozen=True)
class Clipped:
    """Values `y` of (0, 1) kept away from 0 and 1, with logarithms.

    Attributes:
        p, rest: the clipped value and what it lacks to 1.
        minus_log, minus_log_rest: their negative logarithms.
        inside: where nothing was clipped.
    """

    p: Reals
    rest: Reals
    minus_log: Reals
    minus_log_rest: Reals
    inside: Reals

    @staticmethod
    def of(y: Reals, rest: Reals, clip: float) -> Clipped:
        """From `y` and `1 - y`, each right by itself. NaN stays NaN."""
        low = float32(clip)
        high = float32(1 - clip)
        inside = (y >= low) & (y <= high)
        p = np.where(y < low, low, np.where(y > high, high, y))
        rest = np.where(y < low, 1 - low, np.where(y > high, 1 - high, rest))
        # log1p of the smaller of the two: right near 1 as well as near 0.
        minus_log = np.where(p > rest, -np.log1p(-rest), -np.log(p))
        minus_log_rest = np.where(rest > p, -np.log1p(-p), -np.log(rest))
        return Clipped(p, rest, minus_log, minus_log_rest, inside)


@dataclass(frozen=True)
class Shares:
    """Inputs that are probabilities, divided by their sum or not: `y`, `1 - y`, where they are none, the way back."""

    y: Reals
    rest: Reals
    bad: Reals
    back: Callable[[Reals], Reals]

    @staticmethod
    def of(x: Reals, renormalize: bool) -> Shares:
        """NaN at every class where an input is NaN or infinite, or the sum is 0."""
        bad = np.asarray(~np.isfinite(x).all(-1, keepdims=True))
        if not renormalize:
            y, rest = (np.where(bad, np.nan, v) for v in (x, 1 - x))
            return Shares(y, rest, bad, lambda h: np.where(bad, np.nan, -h))
        total = x.sum(-1, keepdims=True)
        bad = bad | (total == 0)
        y, rest = (np.where(bad, np.nan, v / total) for v in (x, sum_of_others(x)))

        def back(h: Reals) -> Reals:
            """From minus the derivative for `y`: `(sum of h y - h) / total`, the two shares of `h` taken together."""
            return np.where(bad, np.nan, (sum_of_others(h * y) - h * rest) / total)

        return Shares(y, rest, bad, back)


def sum_of_others(values: Reals) -> Reals:
    """For each channel the sum of the channels before it and of those behind it."""
    none = np.zeros_like(values[..., :1])
    before = np.concatenate([none, values[..., :-1]], -1).cumsum(-1)
    behind = np.concatenate([none, values[..., :0:-1]], -1).cumsum(-1)[..., ::-1]
    return before + behind
