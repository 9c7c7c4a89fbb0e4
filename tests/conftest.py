"""What the tests of the backends share: losses with their data, and the comparison of bits."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from dualloss import TOTAL_LOSS, BinaryCrossEntropy, Boundary, CrossEntropy, Huber, MeanSquaredError, Spec, fast

IGNORED = 255


@dataclass(frozen=True)
class Case:
    """A spec and data for it, the channels on the last axis."""

    spec: Spec
    x: Any
    target: Any
    weight: Any = None


def _case(spec: Spec, shape: tuple[int, ...], target: str, weight: str = "") -> Case:
    rng = np.random.default_rng(7)
    x = rng.normal(0, 3, shape).astype(np.float32)
    positions = shape[:-1] if len(shape) > 1 else shape
    labels = rng.integers(0, shape[-1], positions)
    if target == "labels":
        t = labels
        if spec.ignore_index is not None:
            t = np.where(rng.random(positions) < 0.2, IGNORED, labels)
    elif target == "one_hot":
        t = np.eye(shape[-1], dtype=np.float32)[labels]
    else:
        t = rng.random(shape).astype(np.float32)
    weights = {
        "": None,
        "sample": rng.random(positions[:1]).astype(np.float32),
        "position": np.where(rng.random(positions) < 0.2, 0, rng.random(positions)).astype(np.float32),
        "mask": rng.random(positions) < 0.8,
        "sample_mask": np.arange(positions[0]) % 2 == 0,
    }
    return Case(spec, x, t, weights[weight])


SPECS = {
    "total": (TOTAL_LOSS, (2, 5, 6, 4), "labels"),
    "total_one_hot": (TOTAL_LOSS, (2, 5, 6, 4), "one_hot"),
    "total_weighted": (TOTAL_LOSS, (3, 4, 5, 3), "labels", "sample"),
    "classes_weighted": (
        CrossEntropy(class_weights=(1, 0.3, 0, 2, 0.7), label_smoothing=0.1, ignore_index=IGNORED),
        (2, 4, 3, 5),
        "labels",
        "position",
    ),
    "flat": (CrossEntropy(normalizer="elements"), (9, 5), "labels", "sample_mask"),
    "boundary_of_probabilities": (
        Boundary(kernel="laplacian8", on="probabilities", padding="reflect", ignore_index=IGNORED),
        (2, 5, 4, 3),
        "labels",
        "mask",
    ),
    "volume": (CrossEntropy() + 2 * Boundary(padding="replicate"), (2, 3, 2, 4, 3), "soft", "position"),
    "binary": (BinaryCrossEntropy(pos_weight=(2, 0.5, 1), label_smoothing=0.2), (3, 7, 3), "soft", "sample"),
    "rank_1": (MeanSquaredError() + 0.1 * BinaryCrossEntropy(), (11,), "soft", "sample"),
    "all_terms": (
        CrossEntropy(ignore_index=IGNORED)
        + 0.5 * Boundary()
        + 0.1 * MeanSquaredError()
        + 0.25 * BinaryCrossEntropy()
        + 3 * Huber(delta=0.7),
        (2, 4, 5, 3),
        "labels",
        "mask",
    ),
}  # fmt: skip


@pytest.fixture(params=SPECS)
def case(request: pytest.FixtureRequest) -> Case:
    """Every kind of spec, target and weight once."""
    return _case(*SPECS[request.param])


@pytest.fixture
def total() -> Case:
    """The total loss of small logits and their labels."""
    return _case(*SPECS["total"])


@pytest.fixture
def formulas() -> Iterator[None]:
    """Native numerics by the frameworks' own formulas, without kernels."""
    with fast.using(False):
        yield


@pytest.fixture
def make_case() -> Callable[..., Case]:
    """A spec with data of any shape."""
    return _case


@pytest.fixture
def same_bits() -> Callable[[Any, Any], None]:
    """Asserts that two arrays, of whichever library, have the same shape, dtype and bits."""

    def check(actual: Any, expected: Any) -> None:
        found, wanted = _bits(actual), _bits(expected)
        assert found[0] == wanted[0]
        np.testing.assert_array_equal(found[1], wanted[1], strict=True)

    return check


def _bits(value: Any) -> tuple[str, Any]:
    """The name of the dtype, and the bits as unsigned integers."""
    if type(value).__module__.startswith("torch"):
        value = value.detach().cpu().contiguous()
        name = str(value.dtype).removeprefix("torch.")
        if name == "bfloat16":
            return name, value.view(dtype=__import__("torch").int16).numpy().view(np.uint16)
        value = value.numpy()
    elif hasattr(value, "numpy"):
        value = value.numpy()
    value = np.asarray(value)
    return value.dtype.name, value.view(f"u{value.dtype.itemsize}")
