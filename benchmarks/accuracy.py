"""Largest errors against the float64 oracle, exact and native: prints the table of docs/accuracy.md.

python benchmarks/accuracy.py [--write]     exits 1 if an exact result misses its bound
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import tensorflow as tf
import torch

import dualloss.tf
import dualloss.torch
from dualloss import BinaryCrossEntropy, Boundary, CrossEntropy, Huber, MeanSquaredError, Spec, oracle
from dualloss.exact import loss_and_gradient
from dualloss.parity import generator

Array = Any
Call = Callable[[Spec, Array, Array, str], tuple[Array, Array]]

SPECS: dict[str, Spec] = {
    "CrossEntropy()": CrossEntropy(),
    "CrossEntropy(label_smoothing=0.1)": CrossEntropy(label_smoothing=0.1),
    "BinaryCrossEntropy()": BinaryCrossEntropy(),
    "BinaryCrossEntropy(pos_weight=3.7, label_smoothing=0.1)": BinaryCrossEntropy(pos_weight=3.7, label_smoothing=0.1),
    "MeanSquaredError()": MeanSquaredError(),
    "Huber(delta=0.7)": Huber(delta=0.7),
    "Boundary()": Boundary(),
    'Boundary(kernel="laplacian8", padding="reflect")': Boundary(kernel="laplacian8", padding="reflect"),
    'Boundary(on="probabilities")': Boundary(on="probabilities"),
    "TOTAL_LOSS": dualloss.TOTAL_LOSS,
}

BOUNDS = {"position": 2.0, "map": 2.0, "mean": 1.0, "gradient": 2.0}
"""What exact results must hold, in ulp: of each value of the map, of its largest, the mean, the gradient's largest."""

CANCELS = 'Boundary(on="probabilities")'
"""No bound by position: where probabilities nearly cancel, 2^-33 of them is many ulp of what is left."""


def inputs() -> Iterator[tuple[str, Array, Array, Array]]:
    """Logits of several scales and numbers of classes, labels and one-hot targets; one batch of one pixel each too."""
    for classes in (2, 3, 21, 257):
        for scale in (0.01, 0.3, 1.0, 3.0, 10.0, 40.0):
            for shape in ((2, 12, 11), (1, 1, 1)):
                for repeat in range(3 if shape == (1, 1, 1) else 1):
                    name = f"accuracy/{classes}/{scale}/{shape}/{repeat}"
                    x = (generator.bell(name, (*shape, classes)) * scale).astype(np.float32)
                    yield name, x, *_targets(name, shape, classes)
        for margin in (5.0, 14.0, 20.0, 40.0):  # confident and right: losses down to 1e-17
            for shape in ((2, 12, 11), (1, 1, 1)):
                name = f"accuracy/confident/{classes}/{margin}/{shape}"
                labels, one_hot = _targets(name, shape, classes)
                x = (one_hot * margin + generator.bell(name, one_hot.shape) * 0.7).astype(np.float32)
                yield name, x, labels, one_hot


def _targets(name: str, shape: tuple[int, ...], classes: int) -> tuple[Array, Array]:
    labels = generator.labels(name + "/labels", shape, classes)
    return labels, (labels[..., None] == np.arange(classes)).astype(np.float32)


def exact(spec: Spec, x: Array, target: Array, reduction: str) -> tuple[Array, Array]:
    """The exact numerics, which every framework shares."""
    result = loss_and_gradient(spec, x, target, reduction=reduction)
    return result.loss, result.gradient


def native_torch(spec: Spec, x: Array, target: Array, reduction: str) -> tuple[Array, Array]:
    """PyTorch's formulas, eager."""
    logits = torch.from_numpy(x).requires_grad_()
    criterion = dualloss.torch.Loss(spec, reduction=reduction, numerics="native", channel_axis=-1)
    loss = criterion(logits, torch.from_numpy(target))
    loss.sum().backward()
    assert logits.grad is not None
    return loss.detach().numpy(), logits.grad.numpy()


def native_tf(spec: Spec, x: Array, target: Array, reduction: str) -> tuple[Array, Array]:
    """TensorFlow's formulas, eager."""
    logits = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = dualloss.tf.Loss(spec, reduction=reduction, numerics="native")(target, logits)
    return loss.numpy(), tape.gradient(loss, logits).numpy()


CALLS: dict[str, Call] = {"exact": exact, "native torch": native_torch, "native tf": native_tf}


def measure(spec: Spec) -> dict[str, dict[str, float]]:
    """Largest error of each quantity, by numerics, in float32 ulp."""
    worst = {name: dict.fromkeys(BOUNDS, 0.0) for name in CALLS}
    for _, x, labels, one_hot in inputs():
        for target in (labels, one_hot):
            truth = {r: oracle.evaluate(spec, x, target, reduction=r) for r in ("mean", "none")}
            for name, call in CALLS.items():
                row = worst[name]
                got_map, _ = call(spec, x, target, "none")
                got, gradient = call(spec, x, target, "mean")
                for quantity, found, true, scaled in (
                    ("position", got_map, truth["none"].loss, False),
                    ("map", got_map, truth["none"].loss, True),
                    ("mean", got, truth["mean"].loss, False),
                    ("gradient", gradient, truth["mean"].gradient, True),
                ):
                    row[quantity] = max(row[quantity], _error(found, true, scaled))
    return worst


def _error(got: Array, truth: Array, scaled: bool) -> float:
    """In ulp of each value, or of the largest; what is below the smallest normal float32 counts as 0, by definition."""
    truth, got = (np.where(np.abs(v) < 2.0**-126, 0.0, v) for v in (np.float64(truth), np.float64(got)))
    unit = oracle.ulp(np.abs(truth).max() if scaled else truth)
    return float(np.max(np.abs(got - truth) / unit))


def main() -> int:
    """Print the table; with --write also into docs/accuracy.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/accuracy.md")
    options = parser.parse_args()
    lines = [
        "| term | numerics | per position | of the map's largest | mean | gradient |",
        "|---|---|---|---|---|---|",
    ]
    missed = []
    for name, spec in SPECS.items():
        for numerics, row in measure(spec).items():
            lines.append(f"| `{name}` | {numerics} | " + " | ".join(f"{row[q]:.3g}" for q in BOUNDS) + " |")
            print(lines[-1], flush=True)
            if numerics == "exact":
                held = {q: b for q, b in BOUNDS.items() if q != "position" or name != CANCELS}
                missed += [f"{name}: {q} {row[q]:.3g} > {bound}" for q, bound in held.items() if row[q] > bound]
    versions = (
        f"Python {platform.python_version()}, numpy {np.__version__}, torch {torch.__version__}, "
        f"tensorflow {tf.__version__}, {platform.machine()} CPU"
    )
    if options.write:
        page = Path(__file__).parents[1] / "docs" / "accuracy.md"
        page.write_text(PAGE.format(table="\n".join(lines), versions=versions, count=len(list(inputs())) * 2))
    for line in missed:
        print(f"bound missed: {line}")
    return 1 if missed else 0


PAGE = """\
# Accuracy

Written by `python benchmarks/accuracy.py --write` (`nox -s accuracy -- --write`). {versions}.

Largest errors over {count} inputs a term: 2 to 257 classes, logits of scale 0.01 to 40, confident and right
predictions with losses down to 1e-17, batches of 264 positions and of one, index and one-hot targets,
float32. The truth is `dualloss.oracle`, in extended precision. The unit is the ulp (spacing of float32) at
the true value; in the fourth column at the largest value of the true map, for the gradient at the largest
element of the true gradient. Values below 2^-126 count as 0. Native numerics ran eagerly; exact numerics are
the same bits everywhere.

{table}

Exact bounds that the command checks: 2 ulp per position, 1 ulp for the mean, 2 ulp of its scale for the
gradient. One entry has no bound: `Boundary(on="probabilities")` per position. Where the probabilities of
neighbours nearly cancel, what is left is far below the map's other values (by 26 orders of magnitude in the
worst entry), and the error of the softmax, 2^-33 of a probability, is many ulp of it. The huge native figures
are of the same kind: losses of confident predictions that float32 formulas round to 0, and cancelling
stencils.
"""


if __name__ == "__main__":
    sys.exit(main())
