"""Terms for dense prediction: they look at neighbouring positions, or at distances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ._base import PerChannel, option, register
from ._validate import choice, integer, odd, optional, positive


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class Boundary(PerChannel):
    """Squared difference of the edges of input and target, edges being what a difference stencil responds to.

    At a position with `C` channels, for `q` the input or its softmax and the target `t`:

        V = mean over c of  (K q[c] - K t[c])**2                         a Laplacian
            mean over c of  sum over k of (K_k q[c] - K_k t[c])**2       "sobel"

    The Laplacian along the spatial axes (1 to 3 of them): the sum over the neighbours of their difference to the
    centre. Sobel has one stencil for each spatial axis k: the difference (-1, 0, 1) along it, smoothed by (1, 2, 1)
    along the others. On a plane:

        "laplacian"   0  1  0        "laplacian8"   1  1  1        "sobel"   -1 0 1   -1 -2 -1
                      1 -4  1                       1 -8  1                  -2 0 2    0  0  0
                      0  1  0                       1  1  1                  -1 0 1    1  2  1

    The mean over positions divides by the number of those that count: valid ones (not ignored, not masked)
    whose neighbours are all valid; beyond the edge counts as valid.

    Options:
        kernel: "laplacian" (default), the neighbours along each axis; "laplacian8", the diagonal ones as well
            (8 on a plane, 26 in a volume); "sobel".
        on: "logits" (default), `q` is the input as it stands; "probabilities", its softmax over the channels.
        padding: what stands beyond the edge: "zeros" (default), "replicate" (the nearest position), "reflect"
            (the mirror image, the edge not repeated).
        ignore_index: the label of positions to leave out, an integer of 64 bits, or None, the default. In a
            sum it applies to all terms.

    Further options: `normalizer`, `empty`, `channels`, as of all such terms.

    Source: the Laplacian as a detector of edges is that of Marr and Hildreth (1980), Theory of Edge Detection
    (here without their Gaussian); the stencils are its usual differences over nearest neighbours. Sobel and Feldman
    (1968), A 3x3 Isotropic Gradient Operator for Image Processing.
    """

    kernel: Literal["laplacian", "laplacian8", "sobel"] = option(
        "laplacian", choice("laplacian", "laplacian8", "sobel")
    )
    on: Literal["logits", "probabilities"] = option("logits", choice("logits", "probabilities"))
    padding: Literal["zeros", "replicate", "reflect"] = option("zeros", choice("zeros", "replicate", "reflect"))
    ignore_index: int | None = option(None, optional(integer))

    needs_channels = True

    def check_layout(self, *, channels: int, spatial: int) -> None:
        """A stencil needs axes to lie along."""
        check_spatial("Boundary", spatial)


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class DistanceMap(PerChannel):
    """Boundary loss after Kervadec: probability times signed distance to the target's boundary.

    At a position with `C` channels, probabilities `p` and signed distances `D`:

        V = mean over c of  p[c] * D[c]

    `D[c]` is the distance to the nearest position of the other side, in positions: inside the class `c` minus the
    distance to the nearest position outside it, plus 1; outside it the distance to the nearest position inside. A
    class without positions, or with all, has D = 0. For class indices and one-hot targets (an element above 0.5 is
    inside) the distances of each sample are computed on the host with SciPy's exact Euclidean transform, rounded to
    float32; with `target="distances"` the dense target holds them, so that other terms of the same sum have no target:
    add that loss to theirs. Ignored and masked positions count as outside.

    Options:
        activation: "softmax" over the channels (default), "sigmoid", or "none".
        target: "classes" (default) or "distances". `dualloss.signed_distances` computes them.
        ignore_index: the label of positions to leave out, or None (default). In a sum it applies to all terms.

    Further options: `normalizer`, `empty`, `channels`, as of all such terms.

    Source: Kervadec et al. (2019), Boundary loss for highly unbalanced segmentation.
    """

    activation: Literal["softmax", "sigmoid", "none"] = option("softmax", choice("softmax", "sigmoid", "none"))
    target: Literal["classes", "distances"] = option("classes", choice("classes", "distances"))
    ignore_index: int | None = option(None, optional(integer))

    needs_channels = True
    about_classes = True

    @property
    def needs_distances(self) -> bool:
        """Unless the target holds them."""
        return self.target == "classes"

    @property
    def needs_dense(self) -> bool:
        """For the distances that it holds."""
        return self.target == "distances"

    def check_layout(self, *, channels: int, spatial: int) -> None:
        """Distances need axes to lie along."""
        check_spatial("DistanceMap", spatial)


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class SSIM(PerChannel):
    """Structural dissimilarity: 1 less the structural similarity of input and target, two images.

    At a position, with means, variances and covariance under a Gaussian window:

        ssim = (2 * mx * mt + c1) * (2 * sxt + c2) / ((mx**2 + mt**2 + c1) * (sx2 + st2 + c2))
        V    = mean over c of  (1 - ssim[c])
        c1 = (0.01 * data_range)**2,   c2 = (0.03 * data_range)**2
        sx2 = mean of x**2 - mx**2, st2 and sxt likewise

    The positions that count are those whose window lies inside the image, and has no invalid position in it; so an
    image has at least `window` positions along each axis.

    Options:
        data_range: the difference between the largest and the smallest possible value, from 1.1e-17 to 6e20, where
            c1 and c2 are normal float32; default 1.
        window: the side of the window, odd; default 11.
        sigma: the standard deviation of the Gaussian, in positions; default 1.5.

    Further options: `normalizer`, `empty`, `channels`, as of all such terms.

    Source: Wang et al. (2004), Image Quality Assessment: From Error Visibility to Structural Similarity (without
    its downsampling).
    """

    data_range: float = option(1.0, positive)
    window: int = option(11, odd)
    sigma: float = option(1.5, positive)

    needs_channels = True

    def check_options(self) -> None:
        """The constants c1 and c2 must be there in float32."""
        if not 1.1e-17 <= self.data_range <= 6e20:
            raise ValueError(f"data_range={self.data_range!r}, expected a number from 1.1e-17 to 6e20")

    @property
    def least_length(self) -> int:
        """One window's."""
        return self.window

    def check_layout(self, *, channels: int, spatial: int) -> None:
        """A window needs axes to lie along."""
        check_spatial("SSIM", spatial)


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class TotalVariation(PerChannel):
    """Anisotropic total variation of the input: the sum of absolute differences of neighbours.

    At a position i with `C` channels, over the spatial axes k (1 to 3 of them):

        V = mean over c of  sum over k of  |x[c, i + 1 along k] - x[c, i]|

    The difference is 0 on the far edge, and where one of the two positions is not valid. The target says nothing
    here, but for the positions to ignore; give any that fits the input.

    Options: `normalizer`, `empty`, `channels`, as of all such terms; with `normalizer="batch"` and `channels="sum"`
    the mean is that of `tf.image.total_variation` over the samples.

    Source: Rudin, Osher and Fatemi (1992), Nonlinear Total Variation Based Noise Removal Algorithms.
    """

    needs_channels = True
    zero_gradient = "equal neighbours: 0"

    def check_layout(self, *, channels: int, spatial: int) -> None:
        """Differences need axes to lie along."""
        check_spatial("TotalVariation", spatial)


def check_spatial(name: str, spatial: int) -> None:
    """Raise ValueError unless the input has 1 to 3 spatial axes."""
    if not 1 <= spatial <= 3:
        raise ValueError(f"the input has {spatial} spatial axes, expected 1 to 3 for {name}")
