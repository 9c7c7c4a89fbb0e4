"""Terms for targets that are numbers."""

from __future__ import annotations

from dataclasses import dataclass

from ._base import Term, option, register
from ._validate import positive


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class MeanSquaredError(Term):
    """Squared error.

    At a position with `C` inputs `x` and the targets `t`:

        V = mean over c of  (x[c] - t[c])**2

    There is no factor 1/2. The mean over positions divides by the number of valid ones (not ignored by
    another term of the sum, not masked). There are no options.

    Source: `torch.nn.MSELoss`, `keras.losses.MeanSquaredError`.
    """


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class Huber(Term):
    """Huber's loss: squared error near the target, absolute error far from it.

    At a position with `C` inputs `x` and the targets `t`:

        d = x - t
        V = mean over c of  d[c]**2 / 2                      where |d[c]| <= delta
                            delta * (|d[c]| - delta / 2)     elsewhere

    The mean over positions divides by the number of valid ones (not ignored by another term of the sum, not
    masked).

    Options:
        delta: where the two branches meet: a finite number > 0 that float32 holds as a normal number; default
            1. The exact numerics use it rounded to float32.

    Sources: Huber (1964), Robust Estimation of a Location Parameter; `torch.nn.HuberLoss`,
    `keras.losses.Huber`. (The "smooth L1" loss is this one divided by `delta`.)
    """

    delta: float = option(1.0, positive)
