"""The kernels of CUDA devices in Triton's interpreter, which runs them on CPUs: the bits of the array engine.

For the session ``triton`` of nox, which installs triton and sets TRITON_INTERPRET=1; elsewhere all of it is skipped.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")  # before triton, whose LLVM would meet torch's
pytest.importorskip("triton", reason="triton is not installed: nox -s triton does that")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("TRITON_INTERPRET=1 is not set: nox -s triton does that", allow_module_level=True)

import dualloss as dl
import dualloss.torch
from dualloss import fast
from dualloss.exact import engine, loss_and_gradient
from dualloss.exact.numpy_ops import NumpyOps
from dualloss.exact.sums import LIMBS, STATE, to_float
from dualloss.fast.host import HostOps
from dualloss.parity import cases, exhaustive
from dualloss.torch import gpu

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = [c for c in cases.configs() if c.dtype == "float32" and c.reduction != "none"]
pytestmark = pytest.mark.filterwarnings("default")  # NumPy's, of NaN and infinities, which the interpreter meets


@pytest.fixture(autouse=True)
def on_cpu() -> Iterator[None]:
    with gpu.interpreted(), np.errstate(all="ignore"):
        yield


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


def check(case: cases.Case, what: fast.Signature, first: bool) -> None:
    """One case, its channels first or last in memory."""
    x, target, weight, config = case.input, case.target, case.weight, case.config
    wanted = loss_and_gradient(config.spec, x, target, weight, reduction=config.reduction, check_labels=False)
    positions = x.shape[:-1] if x.ndim > 1 else x.shape
    if weight is not None and weight.ndim < len(positions):
        weight = np.broadcast_to(weight.reshape(-1, *[1] * (len(positions) - 1)), positions)
    first = first and x.ndim > 1
    arrays = [np.array(x), np.array(target)]
    if first:
        arrays = [np.ascontiguousarray(np.moveaxis(v, -1, 1)) if v.shape == x.shape else v for v in arrays]
    given, weighted = (None if v is None else torch.tensor(np.array(v)) for v in (target, weight))
    given = torch.tensor(arrays[1])
    gradient = torch.empty(arrays[0].shape, dtype=torch.float32)
    loss, terms, sums = gpu.evaluate(
        what, config.reduction, 1 if first else x.ndim - 1, torch.tensor(arrays[0]), given,
        mask=weighted if what.mask else None, weight=weighted if what.weight else None, gradient=gradient,
    )  # fmt: skip
    found = np.moveaxis(gradient.numpy(), 1, -1) if first else gradient.numpy()
    assert same(loss.numpy(), wanted.loss)
    assert same(terms.numpy(), np.stack(list(wanted.terms.values())))
    assert same(sums.numpy(), wanted.sums)
    assert same(found, wanted.gradient)


def all_classes(case: cases.Case, what: fast.Signature) -> bool:
    given: Any = case.weight
    mask = np.broadcast_to(given, case.target.shape) if what.mask and given.ndim > 1 else None
    return fast.all_classes(np.array(case.target), mask, what.channels, what.spec.ignore_index)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_bits_are_those_of_the_array_engine(config: cases.Config) -> None:
    what = signature(config)
    if fast.program(what) is None:
        assert not (config.spec == dl.TOTAL_LOSS or isinstance(config.spec, dl.CrossEntropy))
        return
    for k, family in enumerate(cases.families(config.spec)):
        case = cases.make(config, family)
        check(case, what, k % 2 > 0)
        if what.labels and k % 3 == 0 and all_classes(case, what):
            check(case, signature(config, trusted=True), k % 2 == 0)
