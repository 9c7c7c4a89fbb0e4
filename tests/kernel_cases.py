"""What the tests of the kernels, on CPUs and on CUDA devices, share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import dualloss as dl
from dualloss import fast
from dualloss.exact import loss_and_gradient
from dualloss.parity import cases

CONFIGS = [c for c in cases.configs() if c.dtype == "float32" and c.reduction != "none"]
HOT = {
    "total_loss": dl.TOTAL_LOSS,
    "cross_entropy": dl.CrossEntropy(class_weights=(1, 0.5, 2), label_smoothing=0.1, ignore_index=1),
    "binary_cross_entropy": dl.BinaryCrossEntropy(pos_weight=2),
    "focal": dl.Focal(alpha=0.25) + dl.BinaryFocal(alpha=0.25),
    "regression": dl.MeanSquaredError() + dl.Huber() + dl.MeanAbsoluteError(),
    "boundary": dl.Boundary(kernel="sobel", on="probabilities") + dl.Boundary(kernel="laplacian8"),
    "regions": dl.Dice()
    + dl.Jaccard(activation="sigmoid", per_class=False, log=True)
    + dl.FocalTversky(classes=(0, 2)),
    "scheduled": dl.CrossEntropy() + dl.Linear(0, 0.5, steps=10) * dl.Boundary(),
}


def signature(config: cases.Config, trusted: bool = False) -> fast.Signature:
    shape, given, mask = config.shape, config.weight != "none", config.weight == "mask"
    channels = shape[-1] if len(shape) > 1 else 1
    labels = config.target == "labels"
    spatial = max(len(shape) - 2, 0)
    return fast.Signature(config.spec, channels, spatial, labels, mask, given and not mask, trusted and labels)


def same(found: Any, wanted: Any) -> bool:
    a, b = np.ascontiguousarray(found), np.ascontiguousarray(wanted)
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    return a.tobytes() == b.tobytes()


def all_classes(case: cases.Case, what: fast.Signature) -> bool:
    given: Any = case.weight
    mask = np.broadcast_to(given, case.target.shape) if what.mask and given.ndim > 1 else None
    return fast.all_classes(np.array(case.target), mask, what.channels, what.spec.ignore_index)


def assert_bits(case: cases.Case, what: fast.Signature, first: bool, compute: Callable[..., tuple[Any, ...]]) -> None:
    """One case, its channels first or last in memory.

    ``compute(axis, x, target, mask, weight)`` gives loss, terms, sums and gradient; they have to be the array engine's.
    """
    x, target, weight, config = case.input, case.target, case.weight, case.config
    wanted = loss_and_gradient(config.spec, x, target, weight, reduction=config.reduction, check_labels=False)
    positions = x.shape[:-1] if x.ndim > 1 else x.shape
    if weight is not None and weight.ndim < len(positions):
        weight = np.broadcast_to(weight.reshape(-1, *[1] * (len(positions) - 1)), positions)
    first = first and x.ndim > 1
    arrays = [x, target]
    if first:
        arrays = [np.ascontiguousarray(np.moveaxis(v, -1, 1)) if v.shape == x.shape else v for v in arrays]
    axis = 1 if first else x.ndim - 1
    loss, terms, sums, gradient = compute(axis, *arrays, weight if what.mask else None, weight if what.weight else None)
    assert same(loss, wanted.loss)
    assert same(terms, np.stack(list(wanted.terms.values())))
    assert same(sums, wanted.sums)
    assert same(np.moveaxis(gradient, 1, -1) if first else gradient, wanted.gradient)
