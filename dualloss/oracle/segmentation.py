"""Segmentation terms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..spec import SSIM, Boundary, DistanceMap, TotalVariation
from .activations import Activated
from .constants import Reals, float32
from .core import Found, Inputs, implements, share
from .distances import Bound

_PAD_MODES: Mapping[str, Any] = {
    "zeros": {"mode": "constant", "constant_values": -1},
    "replicate": {"mode": "edge"},
    "reflect": {"mode": "reflect"},
}


@dataclass(frozen=True)
class Stencil:
    """`K` as a table: each of `sources` holds a neighbour of every position; -1 is a zero off the edge.

    The neighbours are added with `weights`, those of a Laplacian after taking the centre off each.
    """

    sources: list[NDArray[np.int64]]
    weights: list[int]
    centred: bool

    @staticmethod
    def of(kernel: str, padding: str, spatial: tuple[int, ...], along: int = 0) -> Stencil:
        """The table for these spatial axes; of "sobel" that of the difference along one of them."""
        table = np.pad(np.arange(math.prod(spatial)).reshape(spatial), 1, **_PAD_MODES[padding])
        sources, weights = [], []
        for offset in itertools.product((-1, 0, 1), repeat=len(spatial)):
            steps = sum(map(abs, offset))
            if kernel == "sobel":
                weight = offset[along] * 2 ** (len(spatial) - 1 - steps + abs(offset[along]))
            else:
                weight = int(steps == 1 or (steps > 0 and kernel == "laplacian8"))
            if weight:
                window = tuple(slice(1 + o, 1 + o + n) for o, n in zip(offset, spatial, strict=True))
                sources.append(table[window].ravel())
                weights.append(weight)
        return Stencil(sources, weights, kernel != "sobel")

    def looks_at(self, u: Reals, source: NDArray[np.int64]) -> Reals:
        """`u` at the source, for `u` of shape `(B, positions, C)`."""
        return np.where((source < 0)[:, None], np.zeros((), u.dtype), u[:, source])

    def apply(self, u: Reals) -> Reals:
        """The weighted sum over the neighbours, or over their differences to the centre."""
        result, centre = np.zeros_like(u), u if self.centred else 0
        for source, weight in zip(self.sources, self.weights, strict=True):
            result = result + weight * (self.looks_at(u, source) - centre)
        return result

    def transposed(self, y: Reals) -> Reals:
        """The adjoint of `apply`: what each position got from a source goes back to it."""
        result = np.zeros_like(y)
        for source, weight in zip(self.sources, self.weights, strict=True):
            result -= weight * y if self.centred else 0
            inside = source >= 0
            into: Any = (slice(None), source[inside])
            np.add.at(result, into, weight * y[:, inside])
        return result


def _native_boundary(term: Boundary) -> Bound:
    return Bound(loss=4, map=24, gradient=16 if term.on == "logits" else 32)


@implements(Boundary, native=_native_boundary)
def boundary(term: Boundary, inputs: Inputs) -> Found:
    """The sum of `(K q - K t)^2` over the stencils; gradient `K^T (2 c D)`, through the softmax if `q` is one."""
    shape, spatial = inputs.x.shape, inputs.x.shape[1:-1]
    rows, each = (shape[0], math.prod(spatial), shape[-1]), share(term, inputs)
    directions = range(len(spatial)) if term.kernel == "sobel" else (0,)
    stencils = [Stencil.of(term.kernel, term.padding, spatial, k) for k in directions]
    made = Activated.of("softmax" if term.on == "probabilities" else "none", inputs.x)
    apart = made.minus(inputs.t) if term.on == "probabilities" else inputs.x - inputs.t
    differences = [stencil.apply(apart.reshape(rows)) for stencil in stencils]
    value = sum((d * d for d in differences), np.zeros(rows, np.longdouble)).sum(-1) * each

    # Off the edge is valid with any padding: what it shows there is the position or its neighbour anyway.
    inside = Stencil.of("laplacian" if term.kernel == "laplacian" else "laplacian8", "zeros", spatial)
    invalid = ~inputs.valid.reshape((*rows[:2], 1))
    touched = invalid | np.any([inside.looks_at(invalid, source) for source in inside.sources], axis=0)

    def gradient(c: Reals) -> Reals:
        g = np.zeros(rows, np.longdouble)
        c = c.reshape((*rows[:2], 1))
        for stencil, d in zip(stencils, differences, strict=True):
            g = g + stencil.transposed(np.where(c == 0, 0.0, c * 2 * d * each))
        return made.back(g.reshape(shape))

    return Found(value.reshape(shape[:-1]), ~touched.reshape(shape[:-1]), gradient)


@implements(DistanceMap, native=Bound(loss=4, map=6, gradient=8))
def distance_map(term: DistanceMap, inputs: Inputs) -> Found:
    """The sum of `p D`."""
    made, each = Activated.of(term.activation, inputs.x), share(term, inputs)
    d = inputs.t if term.target == "distances" else _signed_distances(inputs.t, inputs.valid)
    value = np.where(d == 0, 0.0, made.p * d)

    def gradient(c: Reals) -> Reals:
        return made.back(np.where(c[..., None] == 0, 0.0, c[..., None] * d * each))

    return Found(value.sum(-1) * each, inputs.valid, gradient)


def _signed_distances(t: Reals, valid: NDArray[np.bool_]) -> Reals:
    """Of each class of each sample: to the class outside it, 1 less that to the outside within it; float32."""
    from scipy.ndimage import distance_transform_edt

    result = np.zeros(t.shape, np.longdouble)
    for sample, channel in np.ndindex(t.shape[0], t.shape[-1]):
        inside = (t[sample, ..., channel] > 0.5) & valid[sample]
        if inside.any() and not inside.all():
            distance = np.where(inside, 1 - distance_transform_edt(inside), distance_transform_edt(~inside))
            result[sample, ..., channel] = distance.astype(np.float32)
    return np.where(np.isnan(t), np.nan, result)


@dataclass(frozen=True)
class _Window:
    """The mean under a Gaussian window along the spatial axes, 0 off the edge; symmetric, so its own adjoint."""

    weights: Sequence[np.longdouble]

    @staticmethod
    def of(window: int, sigma: float) -> _Window:
        """The weights of one axis, rounded to float32: a constant, whose sum is not quite 1."""
        half = window // 2
        heights = [math.exp(-(j**2) / (2 * sigma**2)) for j in range(-half, half + 1)]
        return _Window([float32(height / math.fsum(heights)) for height in heights])

    def mean(self, v: Reals) -> Reals:
        """For `v` of shape `(B, *spatial, C)`."""
        half = len(self.weights) // 2
        for axis in range(1, v.ndim - 1):
            length = v.shape[axis]
            padded = np.moveaxis(np.pad(v, [(half * (a == axis),) * 2 for a in range(v.ndim)]), axis, 0)
            v = np.moveaxis(
                sum((w * padded[j : j + length] for j, w in enumerate(self.weights)), 0 * padded[:length]), 0, axis
            )
        return v

    def covers(self, valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The positions whose window lies inside and holds no invalid position."""
        half = len(self.weights) // 2
        for axis in range(1, valid.ndim):
            padded = np.pad(valid, [(half * (a == axis),) * 2 for a in range(valid.ndim)])
            valid = np.asarray(np.lib.stride_tricks.sliding_window_view(padded, len(self.weights), axis).all(-1))
        return valid


@implements(SSIM, native=Bound(loss=12, map=96, gradient=320))
def ssim(term: SSIM, inputs: Inputs) -> Found:
    """`1 - A1 A2 / (B1 B2)`; with `E1 = B1 - A1` and `E2 = B2 - A2` that is `(B1 E2 + A2 E1) / (B1 B2)`.

    `E1` is the square of the mean of `x - t`, `E2` its variance under the window.
    """
    window, t, each = _Window.of(term.window, term.sigma), inputs.t, share(term, inputs)
    x = np.where(inputs.valid[..., None], inputs.x, 0.0)
    c1, c2 = float32((0.01 * term.data_range) ** 2), float32((0.03 * term.data_range) ** 2)
    mx, mt, md = window.mean(x), window.mean(t), window.mean(x - t)
    e1, e2 = md * md, window.mean((x - t) ** 2) - md * md
    b1 = mx * mx + mt * mt + c1
    b2 = (window.mean(x * x) - mx * mx) + (window.mean(t * t) - mt * mt) + c2
    a1, a2 = 2 * mx * mt + c1, b2 - e2
    value = (b1 * e2 + a2 * e1) / (b1 * b2)
    similarity = a1 * a2 / (b1 * b2)
    # The derivatives of the similarity for the means of x, of x^2 and of x t.
    by_mean = 2 * (mt * (a2 - a1) / (b1 * b2) - similarity * mx * (1 / b1 - 1 / b2))
    by_square, by_product = -similarity / b2, 2 * a1 / (b1 * b2)

    def gradient(c: Reals) -> Reals:
        def spread(derivative: Reals, factor: Any) -> Reals:
            sent = window.mean(np.where(c[..., None] == 0, 0.0, c[..., None] * derivative * each))
            return np.where(sent == 0, 0.0, sent * factor)

        return -(spread(by_mean, 1) + spread(by_square, 2 * x) + spread(by_product, t))

    return Found(value.sum(-1) * each, window.covers(inputs.valid), gradient)


@implements(TotalVariation, native=Bound(loss=4, map=4, gradient=4))
def total_variation(term: TotalVariation, inputs: Inputs) -> Found:
    """The sum of `|x[i + 1] - x[i]|` along the axes, of pairs of valid positions."""
    x, each = inputs.x, share(term, inputs)
    value = np.zeros_like(x)
    pairs: list[tuple[Any, Any, Reals]] = []
    for axis in range(1, x.ndim - 1):
        here, there = (_part(x.ndim - 1, axis, s) for s in (slice(None, -1), slice(1, None)))
        known = (inputs.valid[here] & inputs.valid[there])[..., None]
        difference = np.where(known, x[there] - x[here], 0.0)
        value[here] += abs(difference)
        pairs.append((here, there, np.sign(difference)))

    def gradient(c: Reals) -> Reals:
        g = np.zeros_like(x)
        for here, there, sign in pairs:
            y = np.where(c[here][..., None] == 0, 0.0, c[here][..., None] * sign * each)
            g[there] += y
            g[here] -= y
        return g

    return Found(value.sum(-1) * each, inputs.valid, gradient)


def _part(dimensions: int, axis: int, part: slice) -> tuple[slice, ...]:
    return tuple(part if a == axis else slice(None) for a in range(dimensions))
