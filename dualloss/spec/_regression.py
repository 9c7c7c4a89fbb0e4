"""Terms for targets that are numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ._base import PerChannel, PerPosition, option, register
from ._validate import choice, not_negative, open_fraction, positive


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class MeanSquaredError(PerChannel):
    """Squared error.

    At a position with `C` inputs `x` and the targets `t`:

        V = mean over c of  (x[c] - t[c])**2

    There is no factor 1/2. Options: `normalizer`, `empty`, `channels`, as of all such terms.

    Source: `torch.nn.MSELoss`, `keras.losses.MeanSquaredError`.
    """


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class MeanAbsoluteError(PerChannel):
    """Absolute error.

    At a position with `C` inputs `x` and the targets `t`:

        V = mean over c of  |x[c] - t[c]|

    Options: `normalizer`, `empty`, `channels`, as of all such terms.

    Source: `torch.nn.L1Loss`, `keras.losses.MeanAbsoluteError`.
    """

    zero_gradient = "at x = t: 0"


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class MeanAbsolutePercentageError(PerChannel):
    """Absolute error in percent of the target.

    At a position with `C` inputs `x` and the targets `t`:

        V = mean over c of  100 * |x[c] - t[c]| / max(|t[c]|, epsilon)

    Options:
        epsilon: the smallest divisor: a finite number > 0 that float32 holds as a normal number; default 1e-7.

    Further options: `normalizer`, `empty`, `channels`, as of all such terms.

    Source: `keras.losses.MeanAbsolutePercentageError`.
    """

    epsilon: float = option(1e-7, positive)

    zero_gradient = "at x = t: 0"


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class MeanSquaredLogarithmicError(PerChannel):
    """Squared error of the logarithms.

    At a position with `C` inputs `x` and the targets `t`:

        V = mean over c of  (log(max(x[c], epsilon) + 1) - log(max(t[c], epsilon) + 1))**2

    Options:
        epsilon: the smallest input and target: a finite number > 0 that float32 holds as a normal number;
            default 1e-7.

    Further options: `normalizer`, `empty`, `channels`, as of all such terms.

    Source: `keras.losses.MeanSquaredLogarithmicError`.
    """

    epsilon: float = option(1e-7, positive)

    zero_gradient = "x < epsilon: 0"


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class Huber(PerChannel):
    """Huber's loss: squared error near the target, absolute error far from it.

    At a position with `C` inputs `x` and the targets `t`:

        d = x - t
        V = mean over c of  d[c]**2 / 2                      where |d[c]| <= delta
                            delta * (|d[c]| - delta / 2)     elsewhere

    Options:
        delta: where the two branches meet: a finite number > 0 that float32 holds as a normal number; default
            1. The exact numerics use it rounded to float32.

    Further options: `normalizer`, `empty`, `channels`, as of all such terms.

    Sources: Huber (1964), Robust Estimation of a Location Parameter; `torch.nn.HuberLoss`,
    `keras.losses.Huber`. (The "smooth L1" loss is this one divided by `delta`.)
    """

    delta: float = option(1.0, positive)


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class SmoothL1(PerChannel):
    """Smooth L1: Huber's loss divided by where its branches meet.

    At a position with `C` inputs `x` and the targets `t`:

        d = x - t
        V = mean over c of  d[c]**2 / (2 * beta)     where |d[c]| < beta
                            |d[c]| - beta / 2        elsewhere

    Options:
        beta: where the two branches meet: a finite number >= 0, 0 or one that float32 holds as a normal number;
            default 1. With 0 it is the absolute error. The exact numerics use it rounded to float32.

    Further options: `normalizer`, `empty`, `channels`, as of all such terms.

    Sources: Girshick (2015), Fast R-CNN; `torch.nn.SmoothL1Loss`.
    """

    beta: float = option(1.0, not_negative)

    zero_gradient = "beta = 0, at x = t: 0"


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class LogCosh(PerChannel):
    """Logarithm of the hyperbolic cosine of the error.

    At a position with `C` inputs `x` and the targets `t`:

        V = mean over c of  log(cosh(x[c] - t[c]))

    Options: `normalizer`, `empty`, `channels`, as of all such terms.

    Source: `keras.losses.LogCosh`.
    """


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class Charbonnier(PerChannel):
    """Charbonnier's loss: absolute error, smooth at zero.

    At a position with `C` inputs `x` and the targets `t`:

        V = mean over c of  sqrt((x[c] - t[c])**2 + epsilon**2)

    Options:
        epsilon: how far it is smooth, a finite number > 0 that float32 holds as a normal number; default 1e-3. The
            exact numerics use it rounded to float32.

    Further options: `normalizer`, `empty`, `channels`, as of all such terms.

    Source: Charbonnier et al. (1994), Two Deterministic Half-Quadratic Regularization Algorithms for Computed Imaging.
    """

    epsilon: float = option(1e-3, positive)


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class CosineSimilarity(PerPosition):
    """Angle between input and target, both being vectors along the channels.

    At a position with `C` inputs `x` and the targets `t`:

        cos = sum over c of  x[c] * t[c] / (sqrt(max(sum of x**2, epsilon)) * sqrt(max(sum of t**2, epsilon)))
        V   = -cos         form="negative"
              1 - cos      form="distance"

    Options:
        form: "negative" (default) or "distance".
        epsilon: the smallest squared length: a finite number > 0 that float32 holds as a normal number; default
            1e-12.

    Further options: `normalizer`, `empty`, as of all such terms.

    Source: `keras.losses.CosineSimilarity` ("negative").
    """

    form: Literal["negative", "distance"] = option("negative", choice("negative", "distance"))
    epsilon: float = option(1e-12, positive)

    needs_channels = True
    zero_gradient = "a squared length below epsilon is a constant"


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class Quantile(PerChannel):
    """Quantile (pinball) loss: least for the quantile of the targets.

    At a position with `C` inputs `x` and the targets `t`:

        V = mean over c of  quantile * (t[c] - x[c])           where t[c] >= x[c]
                            (1 - quantile) * (x[c] - t[c])     elsewhere

    Options:
        quantile: a number above 0 and below 1; default 0.5, half the absolute error.

    Further options: `normalizer`, `empty`, `channels`, as of all such terms.

    Source: Koenker and Bassett (1978), Regression Quantiles.
    """

    quantile: float = option(0.5, open_fraction)

    zero_gradient = "at x = t: 0"
