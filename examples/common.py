"""What the two trainings share: settings, initial weights, score and result files. NumPy only."""

import argparse
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scenes import CLASSES, Scenes

WIDTHS = (8, 24, 48, 96)  # channels of the net's levels: 64x64, 32x32, 16x16 and 8x8 pixels
REQUIRED_IOU = 0.80


@dataclass(frozen=True)
class Settings:
    """One training. Everything that both frameworks must agree on stands here."""

    out: Path = Path("demo-out")
    steps: int = 600
    batch: int = 8
    held_out: int = 200  # scenes that the net is judged on
    learning_rate: float = 6e-3  # falls linearly to 0
    adam_epsilon: float = 1e-7  # PyTorch's default is 1e-8, Keras' 1e-7
    required_iou: float = REQUIRED_IOU

    @classmethod
    def from_command_line(cls, description: str | None) -> "Settings":
        """The settings for `--out DIR` and `--quick`."""
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("--out", type=Path, default=cls.out, help="folder for the results (%(default)s)")
        parser.add_argument("--quick", action="store_true", help="a few steps, to see that everything runs")
        options = parser.parse_args()
        options.out.mkdir(parents=True, exist_ok=True)
        if options.quick:
            return cls(out=options.out, steps=4, batch=2, held_out=6, required_iou=0.0)
        return cls(out=options.out)

    @property
    def train_scenes(self) -> Scenes:
        """The training batches."""
        return Scenes("train", self.batch)

    @property
    def held_out_scenes(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Images and classes that the net is judged on."""
        return Scenes("held-out", self.held_out).batch(0)


def initial_weights(seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """The convolution kernels by name, as PyTorch stores them: (out, in, height, width).

    Those of the way down and up are drawn by He's rule. The scores start small: every class is about equally
    likely. Biases start at 0.
    """
    rng = np.random.default_rng(seed)

    def he(width: int, channels: int) -> NDArray[np.float64]:
        return rng.normal(0, (2 / (9 * channels)) ** 0.5, (width, channels, 3, 3))

    weights = {}
    for level, width in enumerate(WIDTHS):
        above = WIDTHS[level - 1] if level else 1
        weights[f"down.{level}"] = he(width, above)
        weights[f"score.{level}"] = rng.normal(0, 0.05, (CLASSES, width, 1, 1))
    for level, (width, below) in enumerate(pairwise(WIDTHS)):
        weights[f"up.{level}"] = he(width, width + below)
    return {name: kernel.astype(np.float32) for name, kernel in weights.items()}


def mean_iou(truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> float:
    """Intersection over union, averaged over the 11 classes, background included."""
    pairs = np.bincount((truth * CLASSES + predicted).ravel(), minlength=CLASSES**2).reshape(CLASSES, CLASSES)
    hits = np.diag(pairs)
    return float(np.mean(hits / np.maximum(pairs.sum(0) + pairs.sum(1) - hits, 1)))


class Result(NamedTuple):
    """What a training leaves: the loss of every step, and how it reads the held-out scenes."""

    losses: NDArray[np.float32]
    predicted: NDArray[np.integer]
    iou: float


def finish(settings: Settings, framework: str, losses: list[float], predicted: NDArray[np.integer]) -> Result:
    """Save and report a training; exit with an error if the net reads too badly."""
    result = Result(np.array(losses, np.float32), predicted, mean_iou(settings.held_out_scenes[1], predicted))
    np.savez_compressed(settings.out / f"{framework}.npz", **result._asdict())
    score = f"{framework}: mean IoU {result.iou:.3f} over {CLASSES} classes on {len(predicted)} held-out scenes"
    if result.iou < settings.required_iou:
        sys.exit(f"{score}, below the required {settings.required_iou:.2f}")
    print(score, flush=True)
    return result
