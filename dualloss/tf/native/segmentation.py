"""Segmentation terms."""

from __future__ import annotations

import tensorflow as tf

from ...spec import Boundary
from .core import Found, Inputs, implements, kept, over_channels, select, target
from .stencil import eroded, laplacian


@implements(Boundary)
def boundary(term: Boundary, inputs: Inputs) -> Found:
    """Mean over channels of `(K q - K t)^2`; `q` the input or its softmax."""
    counts = None if inputs.valid is None else eroded(inputs.valid, term.kernel)
    keep = kept(counts, inputs.weight)
    seen = None if keep is None else ~eroded(~keep, term.kernel)  # by a position that is kept
    x, t = select(seen, inputs.x), select(seen, target(inputs))
    q = x if term.on == "logits" else tf.nn.softmax(x)
    # Slices, not a convolution: those may compute in TF32.
    d = select(keep, laplacian(q - t, term.kernel, term.padding))
    return Found(over_channels(term, d * d), counts)
