"""Terms on the weights of a model: no target."""

from __future__ import annotations

from dataclasses import dataclass

from ._base import Term, register


@dataclass(frozen=True, kw_only=True, repr=False)
class Penalty(Term):
    """A term on an array of weights. It has no options; `0.01 * L2()` says how much it counts.

    `dualloss.torch.penalty(spec, parameters)` and `dualloss.tf.Regularizer(spec)` compute it. A Loss refuses it.
    """

    has_map = False
    about_weights = True


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class L1(Penalty):
    """Sum of the absolute values of an array of weights.

    For weights `w`:

        sum of |w|

    Source: Tibshirani (1996), Regression Shrinkage and Selection via the Lasso; `keras.regularizers.L1`.
    """

    zero_gradient = "at w = 0: 0"


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class L2(Penalty):
    """Sum of the squares of an array of weights. There is no factor 1/2: the gradient is 2 w.

    For weights `w`:

        sum of w**2

    Source: Hoerl and Kennard (1970), Ridge Regression; `keras.regularizers.L2`.
    """
