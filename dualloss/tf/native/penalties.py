"""Penalties on the weights of a model."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from ...spec import L1, L2, Spec
from .core import Inputs, Tensor, implements, loss, sum_of


def penalty(spec: Spec, arrays: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The value of all elements of some arrays together, and the terms before their weights.

    Args:
        spec: of terms about weights.
        arrays: at least one, of any shapes.
    """
    values, terms = [], []
    for array in arrays:
        column = tf.reshape(array, [-1, 1])
        value, found = loss(spec, column, column, None, reduction="sum", channel_axis=1)
        values.append(value)
        terms.append(found)
    return tf.add_n(values), {name: tf.add_n([of[name] for of in terms]) for name in spec.names}


@implements(L1)
def l1(term: L1, inputs: Inputs) -> Tensor:
    """`|w|`."""
    return sum_of(abs(inputs.x))


@implements(L2)
def l2(term: L2, inputs: Inputs) -> Tensor:
    """`w^2`."""
    return sum_of(inputs.x * inputs.x)
