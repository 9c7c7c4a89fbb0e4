"""Terms for dense prediction: they look at neighbouring positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ._base import Term, option, register
from ._validate import choice, integer, optional


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class Boundary(Term):
    """Squared difference of the edges of input and target, edges being what a Laplacian responds to.

    At a position with `C` channels, for `q` the input or its softmax and the target `t`:

        V = mean over c of  (K q[c] - K t[c])**2

    `K` is a discrete Laplacian along the spatial axes (1 to 3 of them): the sum over the neighbours of their
    difference to the centre. On a plane:

        "laplacian"   0  1  0        "laplacian8"   1  1  1
                      1 -4  1                       1 -8  1
                      0  1  0                       1  1  1

    The mean over positions divides by the number of those that count: valid ones (not ignored, not masked)
    whose neighbours are all valid; beyond the edge counts as valid.

    Options:
        kernel: "laplacian" (default), the neighbours along each axis; "laplacian8", the diagonal ones as well
            (8 on a plane, 26 in a volume).
        on: "logits" (default), `q` is the input as it stands; "probabilities", its softmax over the channels.
        padding: what stands beyond the edge: "zeros" (default), "replicate" (the nearest position), "reflect"
            (the mirror image, the edge not repeated).
        ignore_index: the label of positions to leave out, an integer of 64 bits, or None, the default. In a
            sum it applies to all terms.

    Source: the Laplacian as a detector of edges is that of Marr and Hildreth (1980), Theory of Edge Detection
    (here without their Gaussian); the stencils are its usual differences over nearest neighbours.
    """

    kernel: Literal["laplacian", "laplacian8"] = option("laplacian", choice("laplacian", "laplacian8"))
    on: Literal["logits", "probabilities"] = option("logits", choice("logits", "probabilities"))
    padding: Literal["zeros", "replicate", "reflect"] = option("zeros", choice("zeros", "replicate", "reflect"))
    ignore_index: int | None = option(None, optional(integer))

    needs_channels = True

    def check_layout(self, *, channels: int, spatial: int) -> None:
        """A stencil needs axes to lie along."""
        if not 1 <= spatial <= 3:
            raise ValueError(f"the input has {spatial} spatial axes, expected 1 to 3 for Boundary")
