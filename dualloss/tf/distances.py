"""Signed distances for tensors, computed on the host; in graphs a call of NumPy's function."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from ..distances import signed_distances

Tensor = Any


def distances(target: Tensor, mask: Tensor | None, ignore: int | None, labels: bool, classes: int, axis: int) -> Tensor:
    """float32 of the prediction's shape: of int64 labels per position, or of a dense target of its shape.

    Raises:
        ValueError: inside a graph that XLA compiles, which cannot call the host.
    """
    rank = target.shape.rank + (1 if labels else 0)
    last = [a for a in range(rank) if a != axis] + [axis]
    given = target if labels else tf.transpose(target > 0.5, last)
    valid = mask
    if labels and ignore is not None:
        known = tf.not_equal(target, tf.constant(ignore, tf.int64))
        valid = known if mask is None else tf.logical_and(mask, known)
    arrays = [given] if valid is None else [given, valid]
    if tf.executing_eagerly():
        found = tf.constant(signed_distances(arrays[0].numpy(), classes, *(a.numpy() for a in arrays[1:])))
    elif in_xla():
        raise ValueError(
            "DistanceMap computes distances on the host, which a graph compiled with jit_compile=True cannot call: "
            "compile the step (or the Keras model) with jit_compile=False, or pass what dualloss.signed_distances "
            "gives as y_true of DistanceMap(target='distances')"
        )
    else:
        found = tf.numpy_function(lambda t, *v: signed_distances(t, classes, *v), arrays, tf.float32)
    back = [last.index(a) for a in range(rank)]
    shape = [*target.shape[:axis], classes, *target.shape[axis if labels else axis + 1 :]]
    return tf.ensure_shape(tf.transpose(tf.reshape(found, _last(given, labels, classes)), back), shape)


def _last(given: Tensor, labels: bool, classes: int) -> Tensor:
    """The shape of the distances, channels last: ``numpy_function`` forgets even the rank."""
    shape = tf.shape(given)
    return tf.concat([shape, [classes]], 0) if labels else shape


def in_xla() -> bool:
    """Whether the graph under construction is one that ``tf.function(jit_compile=True)`` compiles."""
    graph = tf.compat.v1.get_default_graph()
    while graph is not None:
        context = getattr(graph, "_get_control_flow_context", lambda: None)()
        while context is not None:
            if getattr(context, "IsXLAContext", lambda: False)():
                return True
            context = getattr(context, "outer_context", None)
        graph = getattr(graph, "outer_graph", None)
    return False
