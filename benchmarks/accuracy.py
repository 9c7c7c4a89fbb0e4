"""Largest errors against the float64 oracle, exact and native: the tables of docs/accuracy.md and docs/accuracy.json.

python benchmarks/accuracy.py [--write] [--only TEXT] [--exact]     exits 1 if an exact result misses its bound
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import tensorflow as tf
import torch

import dualloss as dl
import dualloss.tf
import dualloss.torch
from dualloss import Spec, fast, oracle
from dualloss.exact import loss_and_gradient
from dualloss.parity import generator

Array = Any
Call = Callable[[Spec, Array, Array, str], tuple[Array, Array]]
Input = tuple[Array, Array]
"""An input with its channels last, and a target."""

# --- Inputs: what a term would get ---

SPACE, PIXEL, SMALL = (2, 12, 11), (1, 1, 1), (1, 5, 4)
SCALES = (0.01, 0.3, 1.0, 3.0, 10.0, 40.0)


def softmax(x: Array) -> Array:
    """Probabilities in float32, as a network gives them; no subnormals, which exact numerics read as 0."""
    e = np.exp(np.float64(x) - x.max(-1, keepdims=True))
    p = e / e.sum(-1, keepdims=True)
    return np.where(p < 2.0**-126, 0.0, p).astype(np.float32)


def one_hot(labels: Array, classes: int) -> Array:
    """Dense targets of 0 and 1."""
    return (labels[..., None] == np.arange(classes)).astype(np.float32)


def drawn(name: str, shape: Sequence[int], scale: float = 1.0) -> Array:
    """Float32 values around 0."""
    return (generator.bell(name, shape) * scale).astype(np.float32)


def uniform(name: str, shape: Sequence[int]) -> Array:
    """Float32 values from 0 to 1."""
    return generator.uniform(name, shape).astype(np.float32)


def logits(classes: Sequence[int] = (2, 3, 21, 257), shapes: Sequence[Any] = (SPACE, PIXEL)) -> Iterator[Input]:
    """Logits of several scales; and confident ones, right with losses down to 1e-17; labels and one-hot targets."""
    for c in classes:
        for shape in shapes if c < 100 else (SMALL, PIXEL):
            for scale in SCALES:
                name = f"logits/{c}/{scale}/{shape}"
                labels = generator.labels(name + "/labels", shape, c)
                yield drawn(name, (*shape, c), scale), labels
            for margin in (5.0, 14.0, 20.0, 40.0):
                name = f"confident/{c}/{margin}/{shape}"
                target = one_hot(generator.labels(name + "/labels", shape, c), c)
                yield (target * margin + generator.bell(name, target.shape) * 0.7).astype(np.float32), target


def soft(of: Callable[[], Iterator[Input]] = logits) -> Iterator[Input]:
    """Targets that are probabilities."""
    for i, (x, _) in enumerate(of()):
        yield x, softmax(drawn(f"soft/{i}", x.shape, 2.0))


def questions() -> Iterator[Input]:
    """Logits with targets of 0 and 1 for every channel, or anything between."""
    for i, (x, _) in enumerate(logits((1, 21))):
        yield x, (generator.uniform(f"bits/{i}", x.shape) < 0.5).astype(np.float32)
        if i % 4 == 0:
            yield x, uniform(f"part/{i}", x.shape)


def probabilities() -> Iterator[Input]:
    """Softmaxes of the logits, and scores that do not sum to 1."""
    for i, (x, target) in enumerate(logits((2, 21))):
        p = softmax(x)
        yield (p if i % 3 else p * np.float32(2.7)), target


def chances() -> Iterator[Input]:
    """Probabilities for questions."""
    for x, target in questions():
        yield (1 / (1 + np.exp(-np.float64(x)))).astype(np.float32), target


def log_probabilities() -> Iterator[Input]:
    """Logarithms of softmaxes, and their labels."""
    for x, target in logits((2, 21)):
        shifted = np.float64(x) - x.max(-1, keepdims=True)
        yield (shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))).astype(np.float32), target


def log_targets() -> Iterator[Input]:
    """Targets that are logarithms of probabilities."""
    for x, t in soft():
        yield x, np.log(np.maximum(t, 1e-30)).astype(np.float32)


def counts() -> Iterator[Input]:
    """Logarithms of rates, and counts."""
    for i, scale in enumerate((0.01, 1.0, 3.0)):
        for shape in (SPACE, PIXEL):
            x = drawn(f"rate/{i}", (*shape, 3), scale)
            yield x, np.floor(np.exp(x) * 2 * uniform(f"count/{i}", x.shape)).astype(np.float32)
            yield x, generator.labels(f"counts/{i}", x.shape, 5).astype(np.float32)


def rates() -> Iterator[Input]:
    """Rates, and counts."""
    for x, target in counts():
        yield np.exp(x), target


def numbers() -> Iterator[Input]:
    """Numbers of several scales against targets of the same, of another, and nearly equal ones."""
    for c in (1, 21):
        for scale in (1e-3, 1.0, 1e4):
            for shape in (SPACE, PIXEL):
                name = f"numbers/{c}/{scale}/{shape}"
                t = drawn(name + "/target", (*shape, c), scale)
                yield drawn(name, t.shape, scale), t
                yield drawn(name, t.shape, 1.0), t
                yield t * (1 + drawn(name, t.shape, 1e-5)), t


def positive() -> Iterator[Input]:
    """Numbers from 0 up; some below epsilon."""
    for x, t in numbers():
        yield np.maximum(x, -x / 1000), abs(t)


def vectors() -> Iterator[Input]:
    """Vectors of 2 to 257 numbers at any angle, at small ones, and nearly parallel."""
    for c in (2, 3, 21, 257):
        for i, shape in enumerate((SPACE, PIXEL)):
            t = drawn(f"vectors/{c}/{i}/target", (*shape, c), 3.0)
            x = drawn(f"vectors/{c}/{i}", t.shape, 0.2)
            yield x, t
            yield (t + x).astype(np.float32), t
            yield (t * np.float32(0.3) + x * np.float32(1e-4)).astype(np.float32), t


def maps() -> Iterator[Input]:
    """Logits and labels of maps; classes that do not occur, and maps of one class."""
    yield from logits((2, 5, 21), (SPACE, (3, 40), (2, 4, 5, 6)))
    x = drawn("maps", (*SPACE, 4), 3.0)
    yield x, generator.labels("maps/labels", SPACE, 2)
    yield x, np.ones(SPACE, np.int64)


def soft_maps() -> Iterator[Input]:
    """Maps with targets between 0 and 1."""
    yield from soft(maps)


def maps_of_probabilities() -> Iterator[Input]:
    """Softmaxes of the logits of maps."""
    for x, target in maps():
        yield softmax(x), target


def maps_of_distances() -> Iterator[Input]:
    """Logits of maps, and distances to a boundary."""
    for x, target in maps():
        dense = target if target.ndim == x.ndim else one_hot(target, x.shape[-1])
        yield x, dl.signed_distances(dense, x.shape[-1])


def images() -> Iterator[Input]:
    """Images of 1 and 3 channels with values from 0 to 1: noise, gradients, an even grey; others, near and brighter."""
    for c in (1, 3):
        for i, shape in enumerate(((2, 17, 16), (1, 13, 11), (1, 11, 11))):
            name = f"images/{c}/{i}"
            noise = uniform(name, (*shape, c))
            slope = np.float32(np.indices(shape)[1:].sum(0)[..., None] / sum(shape)) + 0 * noise
            grey = np.full_like(noise, 0.5)
            for t in (noise, slope, grey):
                yield uniform(name + "/other", t.shape), t
                yield (t + drawn(name + "/near", t.shape, 1e-3)).astype(np.float32), t
                yield (t * np.float32(0.9)).astype(np.float32), t


def images_255() -> Iterator[Input]:
    """The same with values from 0 to 255."""
    for x, t in images():
        yield x * np.float32(255), t * np.float32(255)


def weights() -> Iterator[Input]:
    """Arrays of weights of several scales, as an input of one channel; the target says nothing."""
    for i, (shape, scale) in enumerate((((3, 3, 16, 32), 0.05), ((1000,), 1.0), ((1,), 3.0), ((7, 5), 1e4))):
        w = drawn(f"weights/{i}", shape, scale)
        yield w, np.zeros_like(w)


# --- What is measured ---


@dataclass(frozen=True)
class Entry:
    """A spec, its inputs, and where an exact result may miss the bound of all, with the reason."""

    spec: Spec | Callable[[int], Spec]
    inputs: Callable[[], Iterator[Input]]
    name: str = ""
    exempt: tuple[str, ...] = ()
    why: str = ""

    @property
    def title(self) -> str:
        """The spec as one writes it."""
        return self.name or repr(self.spec)


def _weighted(make: Callable[..., Spec], option: str, **options: Any) -> Callable[[int], Spec]:
    """The spec with a weight for each of so many classes."""
    return lambda c: make(**{option: tuple(0.1 + i % 7 for i in range(c))}, **options)


CANCELS = (
    "where the probabilities of neighbours nearly cancel, what is left is far below the map's other values, and the "
    "error of the softmax, 2^-32.7 of a probability, is many ulp of it."
)

ENTRIES = [
    Entry(dl.CrossEntropy(), logits),
    Entry(dl.CrossEntropy(label_smoothing=0.1), logits),
    Entry(_weighted(dl.CrossEntropy, "class_weights"), soft, "CrossEntropy(class_weights=...)"),
    Entry(dl.CrossEntropy(inputs="probabilities"), probabilities),
    Entry(dl.CrossEntropy(inputs="probabilities", renormalize="after", label_smoothing=0.1), probabilities),
    Entry(dl.CrossEntropy(inputs="probabilities", renormalize="never"), probabilities),
    Entry(dl.NegativeLogLikelihood(), log_probabilities),
    Entry(dl.BinaryCrossEntropy(), questions),
    Entry(dl.BinaryCrossEntropy(pos_weight=3.7, label_smoothing=0.1), questions),
    Entry(dl.BinaryCrossEntropy(inputs="probabilities"), chances),
    Entry(dl.BinaryCrossEntropy(inputs="probabilities", clip=None), chances),
    Entry(dl.Focal(), logits),
    Entry(dl.Focal(gamma=0.5, alpha=0.25, label_smoothing=0.1), logits),
    Entry(dl.Focal(clip_softmax=True), logits),
    Entry(dl.Focal(inputs="probabilities"), probabilities),
    Entry(dl.BinaryFocal(), questions),
    Entry(dl.BinaryFocal(gamma=1.5, alpha=0.25, label_smoothing=0.1), questions),
    Entry(dl.BinaryFocal(inputs="probabilities"), chances),
    Entry(dl.KLDivergence(), soft),
    Entry(dl.KLDivergence(log_target=True), log_targets),
    Entry(dl.KLDivergence(inputs="log_probabilities"), functools.partial(soft, log_probabilities), ""),
    Entry(dl.KLDivergence(inputs="probabilities"), functools.partial(soft, probabilities), ""),
    Entry(dl.Poisson(), counts),
    Entry(dl.Poisson(full=True), counts),
    Entry(dl.Poisson(inputs="rate"), rates),
    Entry(dl.Hinge(), questions),
    Entry(dl.SquaredHinge(), questions),
    Entry(dl.CategoricalHinge(), logits),
    Entry(dl.MeanSquaredError(), numbers),
    Entry(dl.MeanAbsoluteError(), numbers),
    Entry(dl.MeanAbsolutePercentageError(), numbers),
    Entry(dl.MeanSquaredLogarithmicError(), positive),
    Entry(dl.Huber(delta=0.7), numbers),
    Entry(dl.SmoothL1(beta=0.7), numbers),
    Entry(dl.Charbonnier(epsilon=0.3), numbers),
    Entry(dl.LogCosh(), numbers),
    Entry(dl.CosineSimilarity(), vectors),
    Entry(dl.CosineSimilarity(form="distance"), vectors),
    Entry(dl.Quantile(quantile=0.9), numbers),
    Entry(dl.Dice(), maps),
    Entry(dl.Dice(squared=True, per_sample=True, activation="sigmoid", smooth=1.0), maps),
    Entry(dl.Dice(log=True, per_class=False, smooth=1e-5), maps),
    Entry(dl.Dice(activation="none", overlap="minimum"), maps_of_probabilities),
    Entry(dl.Dice(empty_class="exclude", background=False), soft_maps),
    Entry(dl.Jaccard(), maps),
    Entry(dl.Jaccard(log=True, per_sample=True, smooth=1.0), maps),
    Entry(dl.Tversky(alpha=0.3, beta=0.7), maps),
    Entry(dl.Tversky(alpha=0.3, beta=0.7, squared=True), soft_maps),
    Entry(dl.FocalTversky(), maps),
    Entry(dl.FocalTversky(gamma=1.5, power_of_mean=True, smooth=1.0), maps),
    Entry(dl.Lovasz(), maps),
    Entry(dl.Lovasz(activation="hinge", per_sample=True), maps),
    Entry(dl.Lovasz(activation="none", classes="all"), maps_of_probabilities),
    Entry(dl.Boundary(), maps),
    Entry(dl.Boundary(kernel="laplacian8", padding="reflect"), maps),
    Entry(dl.Boundary(kernel="sobel", padding="replicate"), maps),
    Entry(dl.Boundary(on="probabilities"), maps, "", ("position",), CANCELS),
    Entry(dl.Boundary(on="probabilities", kernel="sobel"), maps, "", ("position",), CANCELS),
    Entry(dl.DistanceMap(), maps),
    Entry(dl.DistanceMap(activation="sigmoid", target="distances"), maps_of_distances),
    Entry(dl.SSIM(), images),
    Entry(dl.SSIM(window=7, data_range=255), images_255),
    Entry(dl.TotalVariation(), maps),
    Entry(dl.L1(), weights),
    Entry(dl.L2(), weights),
    Entry(dl.TOTAL_LOSS, maps, "TOTAL_LOSS"),
]

QUANTITIES = ("position", "map", "mean", "gradient")
BOUNDS = {"position": 1.0, "map": 1.0, "mean": 1.0, "gradient": 4.0}
"""What exact results must hold, in ulp: of each value of the map, of its largest, the mean, the gradient's largest."""
WHOLE = 4.0
"""The bound of the value of a term without a map."""


def exact(spec: Spec, x: Array, target: Array, reduction: str) -> tuple[Array, Array]:
    """The exact numerics, which every framework shares."""
    if _about_weights(spec):
        return torch_penalty(spec, x, "exact")
    result = loss_and_gradient(spec, x, target, reduction=reduction)
    return result.loss, result.gradient


def native_torch(spec: Spec, x: Array, target: Array, reduction: str) -> tuple[Array, Array]:
    """PyTorch's formulas, eager."""
    if _about_weights(spec):
        return torch_penalty(spec, x, "native")
    leaf = torch.from_numpy(x).requires_grad_()
    criterion = dualloss.torch.Loss(spec, reduction=reduction, numerics="native", channel_axis=-1)
    loss = criterion(leaf, torch.from_numpy(target))
    loss.sum().backward()
    assert leaf.grad is not None
    return loss.detach().numpy(), leaf.grad.numpy()


def torch_penalty(spec: Spec, x: Array, numerics: str) -> tuple[Array, Array]:
    """A penalty by PyTorch."""
    leaf = torch.from_numpy(x).requires_grad_()
    loss = dualloss.torch.penalty(spec, [leaf], numerics=numerics)
    loss.backward()
    assert leaf.grad is not None
    return loss.detach().numpy(), leaf.grad.numpy()


def native_tf(spec: Spec, x: Array, target: Array, reduction: str) -> tuple[Array, Array]:
    """TensorFlow's formulas, eager."""
    leaf = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(leaf)
        if _about_weights(spec):
            loss = dualloss.tf.Regularizer(spec, numerics="native")(leaf)
        else:
            loss = dualloss.tf.Loss(spec, reduction=reduction, numerics="native")(target, leaf)
    return loss.numpy(), tape.gradient(loss, leaf).numpy()


CALLS: dict[str, Call] = {"exact": exact, "native torch": native_torch, "native tf": native_tf}


def _about_weights(spec: Spec) -> bool:
    return all(term.about_weights for _, term in spec.parts)


def truth(spec: Spec, x: Array, target: Array) -> tuple[float, Array, Array | None]:
    """The mean (of a penalty the sum), the gradient, and the map, if there is one."""
    if _about_weights(spec):
        penalty = oracle.evaluate_penalty(spec, [x])
        return penalty.loss, penalty.gradients[0], None
    result = oracle.evaluate(spec, x, target)
    return result.loss, result.gradient, result.map


def measure(entry: Entry, calls: Sequence[str]) -> tuple[dict[str, dict[str, float | None]], int]:
    """Largest error of each quantity, by numerics, in float32 ulp; None for the map of a term without one."""
    worst: dict[str, dict[str, float | None]] = {name: {} for name in calls}
    given = list(entry.inputs())
    for x, target in given:
        spec = entry.spec if isinstance(entry.spec, Spec) else entry.spec(x.shape[-1])
        mean, gradient, positions = truth(spec, x, target)
        for name in calls:
            row = worst[name]
            got, got_gradient = CALLS[name](spec, x, target, "mean")
            errors = {"mean": _error(got, mean, False), "gradient": _error(got_gradient, gradient, True)}
            if positions is not None:
                got_map, _ = CALLS[name](spec, x, target, "none")
                errors |= {q: _error(got_map, positions, q == "map") for q in ("position", "map")}
            for quantity in QUANTITIES:
                error = errors.get(quantity)
                row[quantity] = None if error is None else max(row.get(quantity) or 0.0, error)
    return worst, len(given)


def _error(got: Array, true: Array, scaled: bool) -> float:
    """In ulp of each value, or of the largest; what is below the smallest normal float32 counts as 0, by definition."""
    wanted, found = (np.where(np.abs(v) < 2.0**-126, 0.0, v) for v in (np.float64(true), np.float64(got)))
    if not np.isfinite(found).all():
        return math.inf
    unit = oracle.ulp(np.abs(wanted).max() if scaled else wanted)
    return float(np.max(np.abs(found - wanted) / unit))


def bounds(entry: Entry) -> dict[str, float]:
    """What the exact result must hold."""
    spec = entry.spec if isinstance(entry.spec, Spec) else entry.spec(3)
    whole = any(not term.has_map and not term.about_weights for _, term in spec.parts)
    held = BOUNDS | ({"mean": WHOLE} if whole else {})
    return {q: bound for q, bound in held.items() if q not in entry.exempt}


def figure(value: float | None) -> str:
    """For the table."""
    return "" if value is None else f"{value:.3g}"


@fast.using(False)  # native numerics by the frameworks' formulas
def main() -> int:
    """Print the table; with --write also into docs/accuracy.md and docs/accuracy.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/accuracy.md and docs/accuracy.json")
    parser.add_argument("--only", default="", help="measure the entries whose title has this text")
    parser.add_argument("--exact", action="store_true", help="measure the exact numerics alone")
    options = parser.parse_args()
    if options.write and (options.only or options.exact):
        parser.error("--write needs all entries and numerics")
    calls = ["exact"] if options.exact else list(CALLS)
    lines = [
        "| term | numerics | per position | of the map's largest | mean | gradient |",
        "|---|---|---|---|---|---|",
    ]
    missed, exempt, total = [], [], 0
    terms: dict[str, dict[str, dict[str, float | None]]] = {}
    for entry in ENTRIES:
        if options.only not in entry.title:
            continue
        rows, number = measure(entry, calls)
        total += number
        for numerics, row in rows.items():
            lines.append(f"| `{entry.title}` | {numerics} | " + " | ".join(figure(row[q]) for q in QUANTITIES) + " |")
            print(lines[-1], flush=True)
        for quantity, bound in bounds(entry).items():
            value = rows["exact"][quantity]
            if value is not None and not value <= bound:
                missed.append(f"{entry.title}: {quantity} {value:.3g} > {bound}")
        if entry.exempt:
            exempt.append(f"* `{entry.title}`, {' and '.join(entry.exempt)}: {entry.why}")
        if entry.title != "TOTAL_LOSS":
            of_term = terms.setdefault(entry.title.partition("(")[0], {})
            for numerics, row in rows.items():
                best = of_term.setdefault(numerics, {})
                for quantity in ("position", "mean", "gradient"):
                    value = row[quantity]
                    best[quantity] = None if value is None else max(best.get(quantity) or 0.0, float(f"{value:.3g}"))
    if options.write:
        docs = Path(__file__).parents[1] / "docs"
        versions = (
            f"Python {platform.python_version()}, numpy {np.__version__}, torch {torch.__version__}, "
            f"tensorflow {tf.__version__}, {platform.machine()} CPU"
        )
        page = PAGE.format(table="\n".join(lines), versions=versions, count=total, exempt="\n".join(exempt))
        (docs / "accuracy.md").write_text(page)
        (docs / "accuracy.json").write_text(json.dumps(terms, indent=1) + "\n")
    for line in missed:
        print(f"bound missed: {line}")
    return 1 if missed else 0


PAGE = """\
# Accuracy

Written by `python benchmarks/accuracy.py --write` (`nox -s accuracy -- --write`). {versions}.

Largest errors over {count} inputs such as each term would get, float32: logits of scale 0.01 to 40, confident and
right predictions with losses down to 1e-17, probabilities, counts, nearly parallel vectors, images; 2 to 257 classes
(regions: to 21), batches of 264 positions and of one, index, one-hot and soft targets. The truth is `dualloss.oracle`,
in extended precision. The unit is the ulp (spacing of float32) at the true value; in the fourth column at the largest
value of the true map, for the gradient at the largest element of the true gradient. Values below 2^-126 count as 0. A
term without a map has no value at a position; the mean of a penalty is its sum. Native numerics ran eagerly; exact
numerics are the same bits everywhere. docs/accuracy.json has each term's worst figures.

{table}

Exact bounds that the command checks: 1 ulp per position and for the mean, 4 ulp for the value of a region term, 4 ulp
of its scale for the gradient; but for

{exempt}

The huge native figures are of the same kind: losses of confident predictions that float32 formulas round to 0,
differences of nearly equal numbers; and of Lovasz, errors that float32 cannot tell apart come in another order, which
changes the gradient, not the value.
"""


if __name__ == "__main__":
    sys.exit(main())
