"""Inputs and targets, the channels on axis 1: random ones, and edges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Data:
    """An input of shape (B, C, *spatial) and its target: class indices (B, *spatial), or dense."""

    x: Array
    target: Array


Kind = Callable[[np.random.Generator, tuple[int, ...], Any], Data]
"""Makes data of a shape; `ignore` is the label or target that the loss ignores, or None."""


def _positions(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], *shape[2:])


def _labels(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    labels = rng.integers(0, shape[1], _positions(shape))
    if labels.size >= shape[1]:  # every class occurs
        labels.reshape(-1)[: shape[1]] = np.arange(shape[1])
    return labels


def _some(rng: np.random.Generator, values: Array, ignore: Any) -> Array:
    """Every third value ignored, at random, but not all."""
    if ignore is None:
        return values
    hit = rng.random(values.shape) < 1 / 3
    hit.reshape(-1)[0] = False
    return np.where(hit, ignore, values).astype(values.dtype)


def _float(values: Array) -> Array:
    return values.astype(np.float32)


def one_hot(labels: Array, channels: int) -> Array:
    """The dense target of class indices."""
    return _float(np.moveaxis(labels[..., None] == np.arange(channels), -1, 1))


def softmax(x: Array) -> Array:
    """Probabilities over the channels."""
    e = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    return _float(e / e.sum(1, keepdims=True))


# --- Inputs ---


def logits(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Of the size that networks give."""
    return _float(rng.normal(0, 3, shape))


def extreme(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """So large that softmax and sigmoid are 0 or 1 to the last bit; none equal."""
    return _float(rng.choice([-60.0, 60.0], shape) + rng.normal(0, 5, shape))


def uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Probabilities of single channels."""
    return _float(rng.uniform(0.01, 0.99, shape))


def distribution(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Probabilities over the channels."""
    return softmax(rng.normal(0, 2, shape))


# --- Class indices ---


def labels_of(x: Callable[..., Array]) -> dict[str, Kind]:
    """Class indices for inputs of a kind: all classes, one of them only, some ignored, all ignored."""
    return {
        "labels": lambda rng, shape, ignore: Data(x(rng, shape), _some(rng, _labels(rng, shape), ignore)),
        "one class": lambda rng, shape, ignore: Data(
            x(rng, shape), _some(rng, np.full(_positions(shape), shape[1] - 1), ignore)
        ),
        "all ignored": lambda rng, shape, ignore: Data(
            x(rng, shape), _labels(rng, shape) if ignore is None else np.full(_positions(shape), ignore)
        ),
    }


LABELS: dict[str, Kind] = {
    **labels_of(logits),
    "labels, saturated": labels_of(extreme)["labels"],
}
"""Class indices for logits."""

LOG_PROBABILITIES: dict[str, Kind] = labels_of(
    lambda rng, shape: _float(np.log(softmax(logits(rng, shape)).astype(np.float64)))
)
"""Class indices for log-probabilities."""


def certain(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Distributions, some of them 0 and 1 exactly."""
    sure = one_hot(rng.integers(0, shape[1], _positions(shape)), shape[1])
    return np.where(rng.random((shape[0], 1, *shape[2:])) < 0.3, sure, distribution(rng, shape))


LABELS_OF_PROBABILITIES: dict[str, Kind] = {**labels_of(distribution), "labels, certain": labels_of(certain)["labels"]}
"""Class indices for probabilities."""

# --- Dense targets ---


def dense(x: Callable[..., Array], t: Callable[..., Array]) -> Kind:
    """Dense targets of a kind for inputs of a kind; ignored elements hold the ignored value."""
    return lambda rng, shape, ignore: Data(x(rng, shape), _some(rng, t(rng, shape), ignore))


def hard(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """One-hot, every class occurring."""
    return one_hot(_labels(rng, shape), shape[1])


def binary(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """0 and 1, every channel by itself."""
    return _float(rng.random(shape) < 0.4)


def zeros(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Empty masks."""
    return np.zeros(shape, np.float32)


def ones(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Full masks."""
    return np.ones(shape, np.float32)


def fractions(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Anything from 0 to 1, both included."""
    return _float(np.clip(rng.uniform(-0.2, 1.2, shape), 0, 1))


def mixed(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Probabilities of single channels, some of them 0 and 1 exactly."""
    sure = _float(rng.random(shape) < 0.5)
    return np.where(rng.random(shape) < 0.3, sure, uniform(rng, shape))


DISTRIBUTIONS: dict[str, Kind] = {
    "one-hot": dense(logits, hard),
    "soft": dense(logits, distribution),
    "one-hot, saturated": dense(extreme, hard),
}
"""Dense targets that sum to 1, for logits."""
UNNORMALISED: dict[str, Kind] = {"any sum": dense(logits, fractions)}
DISTRIBUTIONS_OF_PROBABILITIES: dict[str, Kind] = {
    "one-hot": dense(distribution, hard),
    "soft": dense(distribution, distribution),
    "one-hot, certain": dense(certain, hard),
    "any sum": dense(distribution, fractions),
}
"""The same for probabilities."""

BINARY: dict[str, Kind] = {
    "0 and 1": dense(logits, binary),
    "0 and 1, saturated": dense(extreme, binary),
    "empty": dense(logits, zeros),
    "full": dense(logits, ones),
}
"""Independent channels, for logits."""
BINARY_SOFT: dict[str, Kind] = {"soft": dense(logits, fractions)}
BINARY_OF_PROBABILITIES: dict[str, Kind] = {
    "0 and 1": dense(uniform, binary),
    "0 and 1, certain": dense(mixed, binary),
    "empty": dense(uniform, zeros),
    "full": dense(uniform, ones),
}
"""The same for probabilities."""
BINARY_SOFT_OF_PROBABILITIES: dict[str, Kind] = {"soft": dense(uniform, fractions)}

# --- Numbers ---


def _near(rng: np.random.Generator, shape: tuple[int, ...], ignore: Any) -> Data:
    """Errors of 0, of exactly the places where branches meet, tiny ones and large ones."""
    t = _float(rng.integers(-3, 4, shape))
    errors = rng.choice([0, 0.5, -0.5, 1, -1, 2.5, -2.5, 2.0**-12, -(2.0**-12), 300, -300], shape)
    return Data(_float(t + errors), t)


NUMBERS: dict[str, Kind] = {
    "numbers": dense(logits, logits),
    "branches": _near,
    "far": lambda rng, shape, ignore: Data(_float(1e4 * rng.normal(size=shape)), logits(rng, shape)),
}
"""Predictions and targets that are any numbers."""
POSITIVES: dict[str, Kind] = {
    "positive": lambda rng, shape, ignore: Data(_float(rng.gamma(2, 2, shape)), _float(rng.gamma(2, 2, shape))),
    "zeros": lambda rng, shape, ignore: Data(
        _float(rng.gamma(2, 2, shape)), _float(np.where(rng.random(shape) < 0.3, 0, rng.gamma(2, 2, shape)))
    ),
}
"""Sizes."""
NEGATIVES: dict[str, Kind] = {"below 0": dense(logits, logits)}
COUNTS: dict[str, Kind] = {
    "counts": lambda rng, shape, ignore: Data(_float(rng.gamma(2, 2, shape)), _float(rng.poisson(3, shape))),
    "no counts": lambda rng, shape, ignore: Data(_float(rng.gamma(2, 2, shape)), zeros(rng, shape)),
}
"""Rates and counts."""
LOG_RATES: dict[str, Kind] = {
    "counts": lambda rng, shape, ignore: Data(_float(rng.normal(0, 1.5, shape)), _float(rng.poisson(3, shape))),
    "no counts": lambda rng, shape, ignore: Data(_float(rng.normal(0, 1.5, shape)), zeros(rng, shape)),
}
"""Logarithms of rates, and counts."""
SIGNS: dict[str, Kind] = {
    "0 and 1": dense(logits, binary),
    "-1 and 1": dense(logits, lambda rng, shape: 2 * binary(rng, shape) - 1),
    "on the margin": lambda rng, shape, ignore: Data(
        _float(rng.choice([-1.0, 1.0, 2.0, 0.0], shape)), 2 * binary(rng, shape) - 1
    ),
}
"""Answers yes and no."""
LOGARITHMS: dict[str, Kind] = {
    "distributions": lambda rng, shape, ignore: Data(
        _float(np.log(distribution(rng, shape).astype(np.float64))), distribution(rng, shape)
    ),
    "one-hot": lambda rng, shape, ignore: Data(
        _float(np.log(distribution(rng, shape).astype(np.float64))), hard(rng, shape)
    ),
}
"""Log-probabilities and probabilities."""
LOGARITHMS_OF_BOTH: dict[str, Kind] = {
    "log targets": lambda rng, shape, ignore: Data(
        *(_float(np.log(distribution(rng, shape).astype(np.float64))) for _ in range(2))
    )
}
VECTORS: dict[str, Kind] = {
    "vectors": dense(logits, logits),
    "short": lambda rng, shape, ignore: Data(
        _float(logits(rng, shape) * rng.choice([1.0, 1e-9, 0.0], (shape[0], 1, *shape[2:]))), logits(rng, shape)
    ),
}
"""Vectors along the channels, some of almost no length."""
IMAGES: dict[str, Kind] = {
    "noise": dense(uniform, uniform),
    "nearly equal": lambda rng, shape, ignore: _noisy(rng, shape),
}
"""Images of values from 0 to 1."""


def _noisy(rng: np.random.Generator, shape: tuple[int, ...]) -> Data:
    t = uniform(rng, shape)
    return Data(_float(t + rng.normal(0, 0.05, shape)), t)
