"""The exact numerics in NumPy, for users without a framework and as the parity suite's reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..distances import signed_distances
from ..spec import Spec
from . import engine, functions
from .layout import Layout, Names, check_options, check_sums, label_error, lay_out
from .numpy_ops import NumpyOps
from .terms import Inputs

_DTYPES = ("float16", "bfloat16", "float32")
_OPS = NumpyOps()


@dataclass(frozen=True)
class Output:
    """Loss and gradient.

    Attributes:
        loss: float32, a scalar or for ``reduction="none"`` the map.
        gradient: of the input's shape and dtype.
        terms: each term's float32 value before its weight, by name.
        sums: int64 (K, M, 12), which adds over parts of a batch: of K terms up to M sums. M is 2, for values and
            normaliser, unless a term that is a ratio of sums needs more. None if a term cannot be put together from
            parts (:class:`dualloss.Lovasz` of a whole batch).
    """

    loss: Any
    gradient: Any
    terms: dict[str, Any]
    sums: Any


def loss_and_gradient(
    spec: Spec,
    input: Any,
    target: Any,
    sample_weight: Any = None,
    *,
    reduction: str = "mean",
    upstream: Any = 1.0,
    channel_axis: int = -1,
    check_labels: bool = True,
    totals: Any = None,
) -> Output:
    """The exact loss and its gradient with respect to ``input``.

    Args:
        spec: the loss.
        input: float16, ``ml_dtypes.bfloat16`` or float32, (B, ..., C) or as ``channel_axis`` says.
        target: class indices without the channel axis (integers), or dense targets of the input's shape.
        sample_weight: (B,) or one per position; booleans are a mask.
        reduction: ``"mean"``, ``"sum"``, ``"none"``.
        upstream: the gradient arriving at the loss: a float32 scalar, or of the map's shape for ``"none"``.
        channel_axis: the channel axis of ``input``.
        check_labels: if False, labels out of range give NaN, as in compiled graphs.
        totals: the ``sums`` of the whole batch, if this is a part of it: its normalisers are used.

    Raises:
        TypeError: unsupported dtypes.
        ValueError: shapes that do not fit; labels out of range.
    """
    check_options(spec, reduction, "exact", channel_axis)
    if spec.scheduled:
        raise ValueError(f"spec is {spec}, which follows a schedule, expected plain numbers: spec.at(step)")
    x, t = np.asarray(input), np.asarray(target)
    if x.dtype.name not in _DTYPES:
        raise TypeError(f"input has dtype {x.dtype}, expected one of {', '.join(_DTYPES)}")
    s = None if sample_weight is None else np.asarray(sample_weight)
    layout = lay_out(
        spec, x.shape, t.shape, None if s is None else s.shape, channel_axis, mask=s is not None and s.dtype.kind == "b"
    )
    if totals is not None:
        check_sums("totals", np.shape(totals), np.asarray(totals).dtype.name, spec, layout.channels)
    check_dtype("target", t, layout.labels)
    if s is not None:
        check_dtype("sample_weight", s, False)
    with np.errstate(all="ignore"):
        mask, weight = _weights(s, layout, x.shape)
        if layout.labels:
            if t.dtype == np.uint64:
                t = np.minimum(t, np.uint64(2**63 - 1))  # what int64 does not hold is no class
            t = t.astype(np.int64)
            if check_labels:
                _check_labels(t, layout, spec.ignore_index, None if mask is None else mask.squeeze(layout.axis))
            t = np.expand_dims(t, layout.axis)
        elif t.dtype.kind in "iub":
            t = t.astype(np.float32)
        shaped = x.reshape(-1, 1) if x.ndim == 1 else x
        dense, valid = engine.targets(
            _OPS, t.reshape(-1, 1) if t.ndim == 1 and x.ndim == 1 else t, layout.labels, layout.channels, layout.axis,
            spec.ignore_index, mask,
        )  # fmt: skip
        away = None
        if any(term.needs_distances for _, term in spec.parts):
            away = _distances(t, layout, spec.ignore_index, mask)
        inputs = Inputs(_OPS, functions.load(_OPS, shaped), dense, valid, layout.axis, layout.spatial, weight, away)
        result = engine.evaluate(_OPS, spec, inputs, reduction, totals)
        up: Any = np.asarray(upstream, np.float32)
        _check_upstream(up, result.loss if reduction != "none" else np.squeeze(result.loss, layout.axis))
        loss, terms, spread = result.loss, result.terms, None
        if reduction == "none":
            loss, terms = np.squeeze(loss, layout.axis), np.squeeze(terms, layout.axis + 1)
            spread = functions.load(_OPS, np.expand_dims(np.broadcast_to(up, loss.shape), layout.axis))
            up = None
        gradient = engine.backward(_OPS, up, result.gradient(spread), x.dtype.name).reshape(x.shape)
    mergeable = all(term.mergeable for _, term in spec.parts)
    return Output(loss, gradient, dict(zip(spec.names, terms, strict=True)), result.sums if mergeable else None)


def check_dtype(name: str, array: Any, labels: bool) -> None:
    """Labels must be integers; anything else float16, bfloat16, float32, integer or boolean."""
    if labels and array.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {array.dtype}, expected integer class indices for its shape {array.shape}")
    if array.dtype.kind not in "iub" and array.dtype.name not in _DTYPES:
        raise TypeError(f"{name} has dtype {array.dtype}, expected one of {', '.join(_DTYPES)}, integers or booleans")


def _check_upstream(up: Any, loss: Any) -> None:
    if up.shape not in ((), loss.shape):
        expected = "a scalar" if loss.shape == () else f"a scalar or the map's shape {loss.shape}"
        raise ValueError(f"upstream has shape {up.shape}, expected {expected}")


def _distances(t: Any, layout: Layout, ignore: int | None, mask: Any) -> Any:
    """Of labels with a channel axis of length 1, or of a dense target."""
    valid = None if mask is None else mask.squeeze(layout.axis)
    if layout.labels:
        t = t.squeeze(layout.axis)
        if ignore is not None:
            valid = t != ignore if valid is None else valid & (t != ignore)
    else:
        t = np.moveaxis(t > 0.5, layout.axis, -1)
    return np.moveaxis(signed_distances(t, layout.channels, valid), -1, layout.axis).astype(np.float64)


def _check_labels(t: Any, layout: Layout, ignore: int | None, mask: Any) -> None:
    wrong = (t < 0) | (t >= layout.channels)
    if ignore is not None:
        wrong &= t != ignore
    if mask is not None:
        wrong &= mask
    if wrong.any():
        where = np.argwhere(wrong)[0]
        raise label_error(t[tuple(where)], where.tolist(), layout.channels, ignore, Names())


def _weights(s: Any, layout: Layout, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """The mask and the weight, per position."""
    if s is None:
        return None, None
    positions = tuple(1 if a == layout.axis else shape[a] for a in range(len(shape))) if len(shape) > 1 else (*shape, 1)
    s = s.reshape(s.shape + (1,) * (layout.rank - 1)) if layout.per_sample else np.expand_dims(s, layout.axis)
    s = np.broadcast_to(s, positions)
    if s.dtype.kind == "b":
        return s, None
    return None, functions.load(_OPS, s.astype(np.float32) if s.dtype.kind in "iu" else s)
