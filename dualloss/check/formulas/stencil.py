"""Losses of edges: the Laplacians of input and target compared, with the kernels and paddings that people use."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..probes import Array, Probe
from ._base import Family, activated, log_softmax, one_hot, sigmoid

PADDING: dict[str, Any] = {"zeros": "constant", "reflected": "reflect", "repeated": "edge", "circular": "wrap"}
KERNELS = ("4 neighbours", "8 neighbours", "4 neighbours, norm 1", "8 neighbours, norm 1")
"""Of images; along a line and in space the neighbours along the axes, and all there are."""


def stencil(kernel: str, axes: int) -> Array:
    """The weights of a Laplacian, 3 along each axis."""
    places = np.indices((3,) * axes) - 1
    near = np.abs(places).sum(0)
    weights = (near == 1 if kernel.startswith("4") else near > 0).astype(float)
    weights[(1,) * axes] = -weights.sum()
    return weights / np.abs(weights).sum() if "norm" in kernel else weights


def filtered(v: Array, kernel: Array, padding: str) -> Array:
    """Each channel of (B, *spatial, C) correlated with a kernel."""
    axes = kernel.ndim
    if padding != "none":
        v = np.pad(v, ((0, 0), *((1, 1),) * axes, (0, 0)), PADDING[padding])
    sizes = [n - 2 for n in v.shape[1:-1]]
    out = np.zeros((v.shape[0], *sizes, v.shape[-1]))
    for place in np.ndindex(*kernel.shape):
        if kernel[place]:
            out += kernel[place] * v[(slice(None), *(slice(i, i + n) for i, n in zip(place, sizes, strict=True)))]
    return out


def edges(probe: Probe, activation: str, *, of: str, kernel: str, padding: str, kind: str, average: str) -> float:
    """The mean squared or absolute difference of Laplacians."""
    x, t = activated(probe, activation), one_hot(probe)
    if of == "softmax":
        x = np.exp(log_softmax(x))
    elif of == "sigmoid":
        x = sigmoid(x)
    if not probe.channels:
        x, t = x[..., None], t[..., None]
    if average == "summed over channels before the filter":
        x, t = x.sum(-1, keepdims=True), t.sum(-1, keepdims=True)
    weights = stencil(kernel, x.ndim - 2)
    d = filtered(x, weights, padding) - filtered(t, weights, padding)
    each = np.abs(d) if kind == "absolute" else d * d
    if average == "sum":
        return float(each.sum())
    return float(each.sum() / each.shape[0]) if average == "sum, mean over samples" else float(each.mean())


EDGES = Family(
    "difference of Laplacians",
    edges,
    {
        "of": ("as it comes", "softmax", "sigmoid"),
        "kernel": KERNELS,
        "padding": ("zeros", "reflected", "repeated", "none", "circular"),
        "kind": ("squared", "absolute"),
        "average": ("mean", "sum", "sum, mean over samples", "summed over channels before the filter"),
    },
    lambda case: len(case.spatial) in (1, 2, 3),
    {},
    {},
)


def _blurred(v: Array, window: Array, padding: str) -> Array:
    """Each channel of (B, H, W, C) under a separable window."""
    if padding == "reflected":
        half = len(window) // 2
        v = np.pad(v, ((0, 0), (half, half), (half, half), (0, 0)), "reflect")
    for axis in (1, 2):
        v = np.apply_along_axis(np.convolve, axis, v, window, "valid")
    return v


def similarity(probe: Probe, activation: str, *, padding: str, form: str, window: float) -> float:
    """1 less the mean structural similarity of images with a range of 1; Wang et al. (2004)."""
    x, t = activated(probe, activation), one_hot(probe)
    if not probe.channels:
        x, t = x[..., None], t[..., None]
    width = int(window)
    gauss = np.exp(-((np.arange(width) - width // 2) ** 2) / (2 * 1.5**2))
    gauss /= gauss.sum()
    if min(x.shape[1:3]) < width:
        return float("nan")
    mx, mt = _blurred(x, gauss, padding), _blurred(t, gauss, padding)
    xx = _blurred(x * x, gauss, padding) - mx * mx
    tt = _blurred(t * t, gauss, padding) - mt * mt
    xt = _blurred(x * t, gauss, padding) - mx * mt
    c1, c2 = 0.01**2, 0.03**2
    score = (2 * mx * mt + c1) * (2 * xt + c2) / ((mx * mx + mt * mt + c1) * (xx + tt + c2))
    if form == "(1 - s) / 2":
        return float(np.clip((1 - score) / 2, 0, 1).mean())
    return float(1 - score.mean()) if form == "1 - s" else float(score.mean())


SIMILARITY = Family(
    "structural similarity",
    similarity,
    {"padding": ("none", "reflected"), "form": ("1 - s", "(1 - s) / 2", "s"), "window": (11.0, 7.0)},
    lambda case: len(case.spatial) == 2 and min(case.spatial) >= 7 and case.inputs in ("values", "probabilities"),
    {"window": ("window",)},
    {},
)

FAMILIES = (EDGES, SIMILARITY)
