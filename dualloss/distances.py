"""Signed distances to the boundary of each class, which DistanceMap weighs probabilities with."""

from __future__ import annotations

from typing import Any


def signed_distances(target: Any, classes: int, valid: Any = None) -> Any:
    """For every sample, position and class the Euclidean distance to the nearest position of the other side.

    Outside the class it is the distance to the nearest position inside, inside the class 1 minus the distance to the
    nearest position outside, in positions. A class without positions in a sample, or with all of them, has zeros.

    Args:
        target: integer class indices, (B, *spatial), or dense, (B, *spatial, classes), of booleans or floats, of which
            an element above 0.5 is inside. 1 to 3 spatial axes. A label that is no class is outside of every class.
        classes: the number of classes.
        valid: booleans, (B, *spatial), or None. What is not valid is outside.

    Returns:
        A float32 NumPy array, (B, *spatial, classes).

    Raises:
        ImportError: where SciPy is missing.
        TypeError: for dtypes other than these.
        ValueError: for shapes that do not fit.
    """
    import numpy as np

    transform = _transform()
    given = np.asarray(target)
    if given.dtype.kind in "iu":
        if not 2 <= given.ndim <= 4:
            raise ValueError(f"target has shape {given.shape}, expected a batch axis and 1 to 3 spatial axes")
        inside = given[..., None] == np.arange(classes)
    elif given.dtype.kind in "bf":
        if not 3 <= given.ndim <= 5 or given.shape[-1] != classes:
            raise ValueError(
                f"target has shape {given.shape} and dtype {given.dtype}, that of dense targets, expected a batch "
                f"axis, 1 to 3 spatial axes and {classes} classes; or integer class indices"
            )
        inside = given > 0.5
    else:
        raise TypeError(f"target has dtype {given.dtype}, expected integer class indices, floats or booleans")
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
    return result


def _transform() -> Any:
    try:
        from scipy.ndimage import distance_transform_edt
    except ImportError as error:
        raise ImportError(
            "the distances that DistanceMap needs are computed with SciPy: pip install 'dualloss[distances]'; or pass "
            "them as the target of DistanceMap(target='distances')"
        ) from error
    return distance_transform_edt
