"""Probabilities, without cancellation."""

from __future__ import annotations

import tensorflow as tf

from .core import Tensor


def probabilities(x: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """`p` by the activation, and `1 - p`, right where `p` rounds to 1 as well.

    A likely `p` is 1 less the others: so their small gradients are not differences of large ones.
    """
    if activation == "none":
        return x, 1 - x
    if activation == "sigmoid":
        p, others, likely = tf.sigmoid(x), tf.sigmoid(-x), x > 0
    else:
        p = tf.nn.softmax(x)
        likely = p > 0.5  # one class at most
        others = tf.reduce_sum(tf.where(~likely, p, 0), -1, keepdims=True)
    return tf.where(likely, 1 - others, p), tf.where(likely, others, 1 - p)


def apart(p: Tensor, rest: Tensor, t: Tensor) -> Tensor:
    """`p - t`, for `rest = 1 - p`."""
    return tf.where(p > rest, (1 - t) - rest, p - t)
