"""Signed distances to the boundary of each class, which DistanceMap weighs probabilities with."""

from __future__ import annotations

from typing import Any


def signed_distances(target: Any, classes: int, valid: Any = None, *, channel_axis: int = -1) -> Any:
    """For every sample, position and class the Euclidean distance to the nearest position of the other side.

    Outside the class it is the distance to the nearest position inside, inside the class 1 minus the distance to the
    nearest position outside, in positions. A class without positions in a sample, or with all of them, has zeros.

    Args:
        target: integer class indices, (B, *spatial), or dense, (B, *spatial, classes), of booleans or floats, of which
            an element above 0.5 is inside. 1 to 3 spatial axes. A label that is no class is outside of every class.
        classes: the number of classes.
        valid: booleans, (B, *spatial), or None. What is not valid is outside.
        channel_axis: the axis of the classes in the result and in a dense target: -1 (default) for Keras, 1 for
            PyTorch.

    Returns:
        A float32 NumPy array, (B, *spatial, classes), or with the classes on ``channel_axis``.

    Raises:
        ImportError: where SciPy is missing.
        TypeError: for dtypes other than these.
        ValueError: for shapes that do not fit.
    """
    import numpy as np

    transform = _transform()
    given = np.asarray(target)
    labels = given.dtype.kind in "iu"
    if not labels and given.dtype.kind not in "bf":
        raise TypeError(f"target has dtype {given.dtype}, expected integer class indices, floats or booleans")
    axes = given.ndim + labels
    if not 3 <= axes <= 5:
        what = "" if labels else f" and dtype {given.dtype}, that of dense targets"
        classes_too = "" if labels else f" and {classes} classes; or integer class indices"
        raise ValueError(
            f"target has shape {given.shape}{what}, expected a batch axis and 1 to 3 spatial axes{classes_too}"
        )
    if type(channel_axis) is not int or not -axes < channel_axis < axes or channel_axis == 0:
        raise ValueError(f"channel_axis is {channel_axis!r}, expected an axis of {axes} that is not the batch axis")
    if labels:
        inside = given[..., None] == np.arange(classes)
    else:
        if given.shape[channel_axis] != classes:
            raise ValueError(
                f"target has shape {given.shape} and dtype {given.dtype}, that of dense targets, expected {classes} "
                f"classes on axis {channel_axis}; or integer class indices"
            )
        inside = np.moveaxis(given, channel_axis, -1) > 0.5
    if valid is not None:
        allowed = np.asarray(valid)
        if allowed.dtype.kind != "b":
            raise TypeError(f"valid has dtype {allowed.dtype}, expected booleans")
        if allowed.shape != inside.shape[:-1]:
            raise ValueError(f"valid has shape {allowed.shape}, expected {inside.shape[:-1]}")
        inside &= allowed[..., None]
    result = np.zeros(inside.shape, np.float32)
    for sample in range(inside.shape[0]):
        for c in range(classes):
            region = inside[sample, ..., c]
            if region.any() and not region.all():
                result[sample, ..., c] = np.where(region, 1.0 - transform(region), transform(~region))
    return np.ascontiguousarray(np.moveaxis(result, -1, channel_axis))


def _transform() -> Any:
    try:
        from scipy.ndimage import distance_transform_edt
    except ImportError as error:
        raise ImportError(
            "the distances that DistanceMap needs are computed with SciPy: pip install 'dualloss[distances]'; or pass "
            "them as the target of DistanceMap(target='distances')"
        ) from error
    return distance_transform_edt
