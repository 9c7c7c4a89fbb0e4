"""Scenes of handwritten digits: the data of the demo.

scikit-learn's 1,797 handwritten digits (8x8 pixels) are scaled up to 18 to 26 pixels and placed on a 64x64
canvas with uneven light, noise and a contrast of their own. Every pixel has one of 11 classes: 0 is the
background, `d + 1` the ink of digit `d`. Training and held-out scenes are made of disjoint sets of digits, so
that a net has to read handwriting it has not seen.

A batch is a function of its seed and number alone: every framework sees the same scenes in the same order.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

SIZE = 64
CLASSES = 11
CLASS_NAMES = ("background", *"0123456789")
HELD_OUT_DIGITS = 300

Split = Literal["train", "held-out"]


@cache
def digits(split: Split) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The digits of one split: images (n, 8, 8) from 0 to 1, and what they show, (n,)."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    chosen = order[:HELD_OUT_DIGITS] if split == "held-out" else order[HELD_OUT_DIGITS:]
    return data.images[chosen] / 16, data.target[chosen]


@cache
def stretch(size: int) -> NDArray[np.float64]:
    """The matrix (size, 8) that scales 8 pixels up to `size` by linear interpolation."""
    centres = (np.arange(size) + 0.5) * 8 / size - 0.5
    return np.stack([np.interp(centres, np.arange(8), unit) for unit in np.eye(8)], axis=1)


def scene(rng: np.random.Generator, split: Split) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """One scene: the image (64, 64) and the class of every pixel (64, 64)."""
    images, values = digits(split)
    slope_y, slope_x = rng.uniform(-0.3, 0.3, 2)
    across = np.linspace(-1, 1, SIZE)
    image = rng.uniform(0, 0.4) + slope_y * across[:, None] + slope_x * across
    classes = np.zeros((SIZE, SIZE), np.int64)
    for _ in range(rng.integers(8, 13)):
        which, size = rng.integers(len(values)), rng.integers(18, 27)
        top, left = rng.integers(0, SIZE - size + 1, 2)
        window = slice(top, top + size), slice(left, left + size)
        ink = stretch(size) @ images[which] @ stretch(size).T
        if classes[window][ink > 0].any():  # it would run into another digit
            continue
        image[window] += rng.uniform(0.6, 1.2) * ink
        classes[window][ink > 0.4] = values[which] + 1
    return (image + rng.normal(0, 0.05, image.shape)).astype(np.float32), classes


@dataclass(frozen=True)
class Scenes:
    """An endless supply of batches: `Scenes("train", 16).batch(7)` is the same everywhere, every time."""

    split: Split
    size: int
    seed: int = 0

    def batch(self, number: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Batch `number`: images (size, 64, 64) and classes (size, 64, 64)."""
        rng = np.random.default_rng([self.seed, number])
        images, classes = zip(*(scene(rng, self.split) for _ in range(self.size)), strict=True)
        return np.stack(images), np.stack(classes)
