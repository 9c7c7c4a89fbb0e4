"""Segmentation terms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..spec import Boundary
from .core import Found, Inputs, Reals, Softmax, implements
from .distances import Bound

_PAD_MODES: Mapping[str, Any] = {
    "zeros": {"mode": "constant", "constant_values": -1},
    "replicate": {"mode": "edge"},
    "reflect": {"mode": "reflect"},
}


@dataclass(frozen=True)
class Stencil:
    """`K` as a table: each of `sources` holds the neighbour of every position; -1 is a zero off the edge."""

    sources: list[NDArray[np.int64]]

    @staticmethod
    def of(kernel: str, padding: str, spatial: tuple[int, ...]) -> Stencil:
        """The table for these spatial axes."""
        table = np.pad(np.arange(math.prod(spatial)).reshape(spatial), 1, **_PAD_MODES[padding])
        sources = []
        for offset in itertools.product((-1, 0, 1), repeat=len(spatial)):
            steps = sum(map(abs, offset))
            if steps == 1 or (steps and kernel == "laplacian8"):
                window = tuple(slice(1 + o, 1 + o + n) for o, n in zip(offset, spatial, strict=True))
                sources.append(table[window].ravel())
        return Stencil(sources)

    def looks_at(self, u: Reals, source: NDArray[np.int64]) -> Reals:
        """`u` at the source, for `u` of shape `(B, positions, C)`."""
        return np.where((source < 0)[:, None], np.zeros((), u.dtype), u[:, source])

    def apply(self, u: Reals) -> Reals:
        """The sum over the neighbours of their difference to the centre."""
        return sum((self.looks_at(u, source) - u for source in self.sources), np.zeros_like(u))

    def transposed(self, y: Reals) -> Reals:
        """The adjoint of `apply`: what each position got from a source goes back to it."""
        result = np.zeros_like(y)
        for source in self.sources:
            result -= y
            inside = source >= 0
            into: Any = (slice(None), source[inside])
            np.add.at(result, into, y[:, inside])
        return result


def _native(term: Boundary) -> Bound:
    return Bound(loss=4, map=24, gradient=24 if term.on == "logits" else 96)


@implements(Boundary, native=_native)
def boundary(term: Boundary, inputs: Inputs) -> Found:
    """`V` = mean over c of `(K q - K t)^2`; gradient `K^T (2 c D)`, through the softmax if `q` is one."""
    shape, spatial, channels = inputs.x.shape, inputs.x.shape[1:-1], inputs.x.shape[-1]
    rows = (shape[0], math.prod(spatial), channels)
    stencil = Stencil.of(term.kernel, term.padding, spatial)
    softmax = Softmax.of(inputs.x)
    q, apart = inputs.x, inputs.x - inputs.t
    if term.on == "probabilities":  # p - t is t's complement less p's where p is nearly 1
        q = softmax.p
        apart = np.where(q > softmax.rest, (1 - inputs.t) - softmax.rest, q - inputs.t)
    d = stencil.apply(apart.reshape(rows)).reshape(shape)

    # Off the edge is valid with any padding: what it shows there is the position or its neighbour anyway.
    inside = Stencil.of(term.kernel, "zeros", spatial)
    invalid = ~inputs.valid.reshape((*rows[:2], 1))
    touched = invalid | np.any([inside.looks_at(invalid, source) for source in inside.sources], axis=0)
    counts = ~touched.reshape(shape[:-1])

    def gradient(c: Reals) -> Reals:
        y = np.where(c[..., None] == 0, 0.0, c[..., None] * 2 * d / channels)
        g = stencil.transposed(y.reshape(rows)).reshape(shape)
        if term.on == "logits":
            return g
        unused = (g == 0).all(-1, keepdims=True)
        # The Jacobian does not see a shift; less the likeliest class's, what is left at p = 1 is small.
        g = g - np.take_along_axis(g, inputs.x.argmax(-1)[..., None], -1)
        return np.where(unused, 0.0, q * (g - (q * g).sum(-1, keepdims=True)))

    return Found((d * d).mean(-1), counts, np.longdouble(counts.sum()), gradient)
