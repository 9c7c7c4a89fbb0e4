"""The terms of docs/numerics/segmentation.md."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .activations import activate, softmax, through_softmax
from .arithmetic import NAN, chop, divide, float32, times
from .core import Batch, Rows, Term, implements, over_channels
from .fields import Field, Offset, all_neighbours, nearest_neighbours
from .regression import sign


def _channel(batch: Batch, rows: Rows, c: int) -> Field:
    return Field(batch.shape, [row[c] for row in rows])


def _rows(batch: Batch, by_channel: list[Field]) -> Rows:
    """The fields of the channels, by position."""
    numbers = [field.numbers for field in by_channel]
    return [[of_channel[i] for of_channel in numbers] for i in range(batch.n)]


def _parts(batch: Batch, fields: list[list[Field]]) -> Rows:
    """The numbers of all the fields of all channels, by position."""
    return _rows(batch, [field for of_channel in fields for field in of_channel])


def _chopped_sum(fields: list[Field]) -> Field:
    """The first, then chop(sum + next)."""
    total = fields[0]
    for field in fields[1:]:
        total = total.combined(lambda a, b: chop(a + b), field)
    return total


def _scaled(c: list[float], field: Field) -> Field:
    """c ⊗ the field; 0 where c = 0, whatever stands there."""
    return field.combined(lambda v, ci: 0.0 if ci == 0 else times(ci, v), Field(field.shape, c))


# ------------------------------------------------------------------------------------------------------------
# Boundary


@dataclass(frozen=True)
class _Stencil:
    """K and its adjoint."""

    forward: Callable[[Field], Field]
    adjoint: Callable[[Field], Field]


def _laplacian(offsets: list[Offset], padding: str) -> _Stencil:
    def chain(center: Field, others: list[Field]) -> Field:
        """κ * center minus the others, left to right."""
        total = center.combined(lambda v: len(offsets) * v)
        for other in others:
            total = total.combined(lambda a, b: a - b, other)
        return total

    return _Stencil(
        lambda v: chain(v, [v.shifted(o, padding) for o in offsets]),
        lambda y: chain(y, [y.adjoint(o, padding) for o in offsets]),
    )


def _sobel(axis: int, axes: int, padding: str) -> _Stencil:
    """The difference along one axis, smoothed along the others."""
    others = [a for a in range(1, axes + 1) if a != axis]

    def smooth(before: Field, v: Field, after: Field) -> Field:
        return before.combined(lambda low, centre, high: chop(chop(low + high) + centre * 2), v, after)

    def forward(v: Field) -> Field:
        for a in others:
            v = smooth(v.shifted_along(a, -1, padding), v, v.shifted_along(a, 1, padding))
        return v.shifted_along(axis, 1, padding).combined(
            lambda high, low: high - low, v.shifted_along(axis, -1, padding)
        )

    def adjoint(y: Field) -> Field:
        z = y.adjoint_along(axis, 1, padding).combined(lambda high, low: high - low, y.adjoint_along(axis, -1, padding))
        for a in reversed(others):
            before, after = (z.adjoint_along(a, step, padding).combined(chop) for step in (-1, 1))
            z = smooth(before, z, after)
        return z

    return _Stencil(forward, adjoint)


@implements("Boundary")
def boundary(options: Any, batch: Batch) -> Term:
    """Boundary."""
    axes = len(batch.shape) - 1
    offsets = nearest_neighbours(axes) if options.kernel == "laplacian" else all_neighbours(axes)
    if options.kernel == "sobel":
        stencils = [_sobel(axis, axes, options.padding) for axis in range(1, axes + 1)]
    else:
        stencils = [_laplacian(offsets, options.padding)]
    on_logits = options.on == "logits"
    softs = [] if on_logits else [softmax(x) for x in batch.x]

    def apart(p: float, r: float, t: float) -> float:
        """chop(u), u being p - t."""
        return chop((1 - t) - r if p > r else p - t)

    responses = []  # D, by channel and stencil
    for c in range(batch.channels):
        t = _channel(batch, batch.t, c)
        if on_logits:
            x = _channel(batch, batch.x, c)
            of_channel = [k.forward(x).combined(lambda kx, kt: kx - kt, k.forward(t)) for k in stencils]
        else:
            u = _channel(batch, [soft.p for soft in softs], c).combined(
                apart, _channel(batch, [soft.rest for soft in softs], c), t
            )
            of_channel = [k.forward(u) for k in stencils]
        responses.append(of_channel)

    def gradient(c: list[float]) -> Rows:
        by_channel = []
        for of_channel in responses:
            ys = [_scaled(c, d.combined(lambda v: 2 * v)) for d in of_channel]
            by_channel.append(_chopped_sum([k.adjoint(y) for k, y in zip(stencils, ys, strict=True)]))
        g = _rows(batch, by_channel)
        return g if on_logits else [through_softmax(soft, row) for soft, row in zip(softs, g, strict=True)]

    squares = [[d.combined(lambda v: v * v) for d in of_channel] for of_channel in responses]
    value, share = over_channels(options, batch, _parts(batch, squares))
    # Off the edge counts as valid: ask for what is invalid, with zeros there.
    invalid = Field(batch.shape, [float(not valid) for valid in batch.valid])
    touched = invalid.combined(max, *(invalid.shifted(o, "zeros") for o in offsets))
    return Term(value, [v == 0 for v in touched.numbers], share, gradient)


# ------------------------------------------------------------------------------------------------------------
# DistanceMap


def signed_distances(batch: Batch) -> Rows:
    """The distances for classes: by a look at every pair of positions."""
    spatial = list(np.ndindex(batch.shape[1:]))
    result = [[0.0] * batch.channels for _ in range(batch.n)]
    for b in range(batch.shape[0]):
        for c in range(batch.channels):
            numbers = range(b * len(spatial), (b + 1) * len(spatial))
            sides: tuple[list[tuple[int, ...]], list[tuple[int, ...]]] = ([], [])  # outside, inside
            is_inside = [batch.valid[i] and batch.t[i][c] > 0.5 for i in numbers]
            for where, inside in zip(spatial, is_inside, strict=True):
                sides[inside].append(where)
            for i, where, inside in zip(numbers, spatial, is_inside, strict=True):
                if math.isnan(batch.t[i][c]):
                    result[i][c] = NAN
                elif sides[0] and sides[1]:
                    squares = [
                        sum((p - q) ** 2 for p, q in zip(where, other, strict=True)) for other in sides[not inside]
                    ]
                    nearest = math.sqrt(min(squares))
                    result[i][c] = float32(0 - (nearest - 1) if inside else nearest)
    return result


@implements("DistanceMap")
def distance_map(options: Any, batch: Batch) -> Term:
    """DistanceMap."""
    activated = activate(options.activation, batch)
    distances = batch.t if options.target == "distances" else signed_distances(batch)
    parts = [
        [0.0 if dc == 0 else pc * dc for pc, dc in zip(p, d, strict=True)]
        for p, d in zip(activated.p, distances, strict=True)
    ]

    def gradient(c: list[float]) -> Rows:
        return activated.back(
            [[0.0 if ci == 0 else times(ci, dc) for dc in d] for ci, d in zip(c, distances, strict=True)]
        )

    value, share = over_channels(options, batch, parts)
    return Term(value, batch.valid, share, gradient)


# ------------------------------------------------------------------------------------------------------------
# SSIM


def window_weights(window: int, sigma: float) -> list[float]:
    """ω_-h ... ω_h."""
    half = (window - 1) // 2
    e = [math.exp(-(j * j) / (2 * (sigma * sigma))) for j in range(-half, half + 1)]
    return [float32(v / math.fsum(e)) for v in e]


def _filtered(v: Field, weights: list[float], axes: list[int]) -> Field:
    """F along these axes."""
    half = len(weights) // 2
    for axis in axes:
        taps = [
            v.shifted_along(axis, j, "zeros").combined(partial(times, w))
            for j, w in zip(range(-half, half + 1), weights, strict=True)
        ]
        v = _chopped_sum(taps)
    return v


@dataclass(frozen=True)
class _Window:
    """What SSIM makes of the means at one position."""

    p: float
    mx: float
    md: float
    e1: float
    e2: float
    a1: float
    b1: float
    a2: float
    b2: float
    q: float


def _window(c1: float, c2: float, mx: float, mt: float, md: float, fdd: float, fxx: float, ftt: float) -> _Window:
    e1 = times(md, md)
    e2 = chop(fdd - e1)
    a1 = chop(times(mx, mt) * 2 + c1)
    b1 = chop(times(mx, mx) + times(mt, mt)) + c1
    b2 = chop(chop(fxx - times(mx, mx)) + chop(ftt - times(mt, mt))) + c2
    a2 = b2 - e2
    q = times(b1, b2)
    return _Window(divide(times(b1, e2) + times(a2, e1), q), mx, md, e1, e2, a1, b1, a2, b2, q)


@implements("SSIM")
def ssim(options: Any, batch: Batch) -> Term:
    """SSIM."""
    axes = list(range(1, len(batch.shape)))
    weights = window_weights(options.window, options.sigma)
    half = len(weights) // 2
    c1, c2 = (float32((k * options.data_range) * (k * options.data_range)) for k in (0.01, 0.03))

    def over(v: Field, w: Field) -> Field:
        return v.combined(times, w)

    images = []  # x, t and x - t, by channel
    windows: list[list[_Window]] = []  # by channel
    for c in range(batch.channels):
        x = Field(batch.shape, [row[c] if ok else 0.0 for row, ok in zip(batch.x, batch.valid, strict=True)])
        t = _channel(batch, batch.t, c)
        d = x.combined(lambda xi, ti: xi - ti, t)
        images.append((x, t, d))
        means = [_filtered(v, weights, axes).numbers for v in (x, t, d, over(d, d), over(x, x), over(t, t))]
        windows.append([_window(c1, c2, *numbers) for numbers in zip(*means, strict=True)])

    def gradient(c: list[float]) -> Rows:
        by_channel = []
        for (x, _, d), of_channel in zip(images, windows, strict=True):
            slopes = [_slopes(ci, window) for ci, window in zip(c, of_channel, strict=True)]
            a, b, e = (_filtered(Field(batch.shape, [s[k] for s in slopes]), weights, axes[::-1]) for k in range(3))
            by_channel.append(
                Field(
                    batch.shape,
                    [
                        chop(chop(_unless_zero(fb, di) - _unless_zero(fe, xi)) - fa)
                        for xi, di, fa, fb, fe in zip(
                            x.numbers, d.numbers, a.numbers, b.numbers, e.numbers, strict=True
                        )
                    ],
                )
            )
        return _rows(batch, by_channel)

    value, share = over_channels(options, batch, [[w.p for w in at] for at in zip(*windows, strict=True)])
    return Term(value, _whole_windows(batch, half), share, gradient)


def _slopes(c: float, w: _Window) -> tuple[float, float, float]:
    """a, b and e."""
    if c == 0:
        return 0.0, 0.0, 0.0
    b = times(c, divide(w.a1 * 2, w.q))
    of_a2 = times(c, divide(w.a2 * 2, w.q))
    e = times(b, divide(w.e2, w.b2))
    a = chop(times(w.mx, times(of_a2, divide(w.e1, w.b1)) - e) + times(w.md, b - of_a2))
    return a, b, e


def _unless_zero(filtered: float, v: float) -> float:
    return 0.0 if filtered == 0 else times(v, filtered)


def _whole_windows(batch: Batch, half: int) -> list[bool]:
    """Which positions have their window inside the image, and no invalid position in it."""
    valid = Field(batch.shape, [float(v) for v in batch.valid])
    for axis in range(1, len(batch.shape)):
        shifts = [valid.shifted_along(axis, j, "zeros") for j in range(-half, half + 1)]
        valid = shifts[0].combined(lambda *values: min(values), *shifts[1:])
    return [v == 1 for v in valid.numbers]


# ------------------------------------------------------------------------------------------------------------
# TotalVariation


@implements("TotalVariation")
def total_variation(options: Any, batch: Batch) -> Term:
    """TotalVariation."""
    axes = range(1, len(batch.shape))
    valid = Field(batch.shape, [float(v) for v in batch.valid])

    def difference(x: Field, axis: int) -> Field:
        """e_k: beyond the edge nothing is valid."""
        both = valid.combined(min, valid.shifted_along(axis, 1, "zeros"))
        return x.shifted_along(axis, 1, "zeros").combined(lambda high, low, ok: high - low if ok else 0.0, x, both)

    differences = [[difference(_channel(batch, batch.x, c), k) for k in axes] for c in range(batch.channels)]

    def gradient(c: list[float]) -> Rows:
        by_channel = []
        for of_channel in differences:
            ys = [_scaled(c, e.combined(sign)) for e in of_channel]
            adjoints = [
                y.shifted_along(k, -1, "zeros").combined(lambda low, at: low - at, y)
                for k, y in zip(axes, ys, strict=True)
            ]
            by_channel.append(_chopped_sum(adjoints))
        return _rows(batch, by_channel)

    absolute = [[e.combined(abs) for e in of_channel] for of_channel in differences]
    value, share = over_channels(options, batch, _parts(batch, absolute))
    return Term(value, batch.valid, share, gradient)
