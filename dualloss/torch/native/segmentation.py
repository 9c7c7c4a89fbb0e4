"""Segmentation terms."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from ...spec import SSIM, Boundary, DistanceMap, TotalVariation
from .activation import apart, probabilities
from .core import Found, Inputs, implements, kept, over_channels, select, target
from .stencil import blurred, cut, eroded, laplacian, sobel, window_eroded


@implements(Boundary)
def boundary(term: Boundary, inputs: Inputs) -> Found:
    """`(K q - K t)^2`, over channels; `q` the input or its softmax. Sobel has one `K` for each axis."""
    counts = None if inputs.valid is None else eroded(inputs.valid, term.kernel)
    keep = kept(counts, inputs.weight)
    seen = None if keep is None else ~eroded(~keep, term.kernel)  # by a position that is kept
    x, t = select(seen, inputs.x), select(seen, target(inputs))
    u = x - t if term.on == "logits" else apart(*probabilities(x, "softmax"), t)
    if term.kernel != "sobel":
        edges = [laplacian(u, term.kernel, term.padding)]
    else:
        edges = [sobel(u, axis, term.padding) for axis in range(2, x.ndim)]
    d = [select(keep, edge) for edge in edges]
    return Found(over_channels(term, sum((v * v for v in d[1:]), d[0] * d[0])), counts)


@implements(DistanceMap)
def distance_map(term: DistanceMap, inputs: Inputs) -> Found:
    """`p D`, over channels."""
    keep = kept(inputs.valid, inputs.weight)
    t = target(inputs)
    given = t if inputs.distances is None else torch.where(t.isnan(), t, inputs.distances)
    distances = select(keep, t if term.target == "distances" else given)
    # Where the distance is 0 the probability is not looked at: a softmax's, where all of them are.
    far = distances != 0
    x = torch.where(far.any(1, keepdim=True) if term.activation == "softmax" else far, inputs.x, 0)
    p, _ = probabilities(x, term.activation)
    return Found(over_channels(term, p * distances), inputs.valid)


@implements(SSIM)
def ssim(term: SSIM, inputs: Inputs) -> Found:
    """`1 - luminance * (contrast and structure)`, over channels, from what either lacks to 1."""
    reach = term.window // 2
    valid = torch.ones_like(inputs.x[:, 0], dtype=torch.bool) if inputs.valid is None else inputs.valid
    counts = window_eroded(valid, reach, edge=False)
    keep = counts if inputs.weight is None else counts & (inputs.weight != 0)
    seen = ~window_eroded(~keep, reach, edge=True)  # by a window that is kept
    x, t = select(seen, inputs.x), select(seen, target(inputs))
    d = x - t
    means = blurred(torch.cat([x, t, d, x * x, t * t, d * d], 1), _gaussian(term.window, term.sigma))
    mx, mt, md, mxx, mtt, mdd = means.chunk(6, 1)
    luminance = md * md / (mx * mx + mt * mt + (0.01 * term.data_range) ** 2)
    variances = (mxx - mx * mx) + (mtt - mt * mt) + (0.03 * term.data_range) ** 2
    contrast = (mdd - md * md) / variances
    # (1 - l) and (1 - c) are SSIM's factors; l and c vanish for equal images.
    return Found(over_channels(term, select(keep, luminance + contrast - luminance * contrast)), counts)


def _gaussian(window: int, sigma: float) -> tuple[float, ...]:
    """The weights of a window; of sum 1."""
    weights = [math.exp(-((j - window // 2) ** 2) / (2 * sigma**2)) for j in range(window)]
    return tuple(weight / math.fsum(weights) for weight in weights)


@implements(TotalVariation)
def total_variation(term: TotalVariation, inputs: Inputs) -> Found:
    """The sum over axes of `|x[+1] - x|`, over channels."""
    x, parts = inputs.x, []
    for axis in range(2, x.ndim):
        keep = inputs.valid
        if keep is not None:
            keep = cut(keep, axis - 1, 0, -1) & cut(keep, axis - 1, 1, None)
        if inputs.weight is not None:
            keep = kept(keep, cut(inputs.weight, axis - 1, 0, -1))
        steps = select(keep, cut(x, axis, 1, None) - cut(x, axis, 0, -1)).abs()
        parts.append(F.pad(steps, [0, 0] * (x.ndim - 1 - axis) + [0, 1]))
    return Found(over_channels(term, sum(parts[1:], parts[0])), inputs.valid)
