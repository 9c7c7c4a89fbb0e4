"""Signed distances for DistanceMap, computed on the host."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dualloss.distances import signed_distances

pytest.importorskip("scipy")

LABELS = np.array([[[0, 0, 1, 1, 2], [0, 2, 2, 1, 1], [0, 0, 0, 0, 1]]])


def test_distances_of_one_row() -> None:
    found = signed_distances([[0, 0, 1, 1, 1]], 2)
    np.testing.assert_array_equal(found[0, :, 1], [2, 1, 0, -1, -2])
    np.testing.assert_array_equal(found[0, :, 0], [-1, 0, 1, 2, 3])
    assert found.dtype == np.float32


@pytest.mark.parametrize("axis", [1, 2, 3, -1, -2, -3])
def test_the_classes_lie_on_the_channel_axis(axis: int) -> None:
    last = signed_distances(LABELS, 3)
    found = signed_distances(LABELS, 3, channel_axis=axis)
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, np.moveaxis(last, -1, axis))
    one_hot = np.moveaxis(np.eye(3, dtype=np.float32)[LABELS], -1, axis)
    np.testing.assert_array_equal(signed_distances(one_hot, 3, channel_axis=axis), found)


def test_a_class_that_is_nowhere_or_everywhere_has_distance_0() -> None:
    found = signed_distances(np.ones((1, 4, 4), int), 3)
    assert not found.any()


def test_what_is_not_valid_is_outside() -> None:
    valid = np.array([[True, True, True, True, False]])
    found = signed_distances([[0, 0, 1, 1, 1]], 2, valid)
    np.testing.assert_array_equal(found[0, :, 1], [2, 1, 0, 0, 1])


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        (([1, 2], 3), {}, ValueError, r"target has shape \(2,\), expected a batch axis and 1 to 3 spatial axes"),
        (
            (np.zeros((2, 3, 4, 4), np.float32), 3),
            {},
            ValueError,
            r"\(2, 3, 4, 4\) and .* expected 3 classes on axis -1",
        ),
        ((np.zeros((2, 3), np.float32), 3), {}, ValueError, r"\(2, 3\) and dtype float32, that of dense targets"),
        ((np.zeros((2, 3), complex), 3), {}, TypeError, "target has dtype complex128, expected integer class"),
        (
            (LABELS, 3),
            {"channel_axis": 0},
            ValueError,
            "channel_axis is 0, expected an axis of 4 that is not the batch",
        ),
        ((LABELS, 3), {"channel_axis": 4}, ValueError, "channel_axis is 4, expected an axis of 4"),
        ((LABELS, 3), {"channel_axis": True}, ValueError, "channel_axis is True, expected an axis"),
        ((LABELS, 3, LABELS), {}, TypeError, "valid has dtype int64, expected booleans"),
        ((LABELS, 3, LABELS[0] > 0), {}, ValueError, r"valid has shape \(3, 5\), expected \(1, 3, 5\)"),
    ],
)
def test_error(args: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        signed_distances(*args, **options)
