"""Train in both frameworks, prove that the losses agree to the last bit, and draw what was learnt.

`python examples/same_bits.py [--out DIR] [--quick]`

The two trainings start from the same weights and see the same scenes. Convolutions round differently in
PyTorch and TensorFlow, so the nets drift apart a little; the losses don't. Every 20 steps the logits of the
training net go through both losses, and value and gradient are compared as bits. Writes `loss_curves.png`
and `predictions.png`; fails if a single bit differs.
"""

import os
import sys
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads leave the cores to the other framework
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

import torch  # first: TensorFlow brings its own copies of some libraries

# isort: split
import keras
import matplotlib
import numpy as np
import tensorflow as tf
import train_keras
import train_torch
from common import Result, Settings
from numpy.typing import NDArray
from scenes import CLASS_NAMES

import dualloss as dl
import dualloss.tf
import dualloss.torch

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.colors import ListedColormap, to_hex
from matplotlib.patches import Patch

EVERY = 20
COLOURS = ("#20232a", *map(to_hex, plt.get_cmap("tab10")(range(10))))  # background, ten digits
LINES: dict[str, dict[str, Any]] = {  # the curves lie on each other: thick below, dashed above
    "PyTorch": {"color": "#ff922b", "linewidth": 4},
    "Keras": {"color": "#1864ab", "linewidth": 1.5, "linestyle": (0, (4, 2))},
}


@dataclass
class Comparison:
    """Feeds the same logits to both losses and counts the values whose bits differ."""

    checks: int = 0
    values: int = 0
    differing: int = 0

    def __post_init__(self) -> None:
        spec = dl.CrossEntropy() + 0.5 * dl.Boundary()
        self.in_torch, self.in_tf = dualloss.torch.Loss(spec), dualloss.tf.Loss(spec)

    def __call__(self, logits: NDArray[np.float32], classes: NDArray[np.int64]) -> None:
        """Compare for logits (B, H, W, 11) and classes (B, H, W)."""
        x = torch.from_numpy(logits).movedim(-1, 1).requires_grad_()
        loss = self.in_torch(x, torch.from_numpy(classes))
        (gradient,) = torch.autograd.grad(loss, x)
        ours = np.append(gradient.movedim(1, -1).numpy(), loss.detach().numpy())

        y = tf.constant(logits)
        with tf.GradientTape() as tape:
            tape.watch(y)
            loss = self.in_tf(classes, y)
        theirs = np.append(tape.gradient(loss, y).numpy(), loss.numpy())

        self.checks += 1
        self.values += ours.size
        self.differing += int((ours.view(np.uint32) != theirs.view(np.uint32)).sum())

    def __str__(self) -> str:
        return (
            f"{self.checks} comparisons of loss and gradient: "
            f"{self.differing:,} of {self.values:,} values differ in a bit"
        )


class CompareKerasNet(keras.callbacks.Callback):
    """Hands the Keras net's logits to the comparison while the net trains."""

    def __init__(self, compare: Comparison, settings: Settings) -> None:
        super().__init__()
        self.compare, self.settings = compare, settings

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if batch % EVERY == 0:
            images, classes = self.settings.train_scenes.batch(batch)
            self.compare(self.model(images[..., None]).numpy(), classes)


def draw_losses(settings: Settings, results: dict[str, Result], subtitle: str) -> None:
    """Both loss curves: every step, and the mean over 20 steps."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for framework, result in results.items():
        steps, window = np.arange(1, settings.steps + 1), min(EVERY, settings.steps)
        axes.plot(steps, result.losses, color=LINES[framework]["color"], alpha=0.3, linewidth=0.8)
        smooth = np.convolve(result.losses, np.ones(window) / window, "valid")
        label = f"{framework}: mean IoU {result.iou:.3f} on held-out scenes"
        axes.plot(steps[window - 1 :], smooth, label=label, **LINES[framework])
    axes.set(yscale="log", xlabel="step", ylabel="loss: CrossEntropy() + 0.5 * Boundary()")
    axes.set_yticks([0.1, 0.2, 0.5, 1, 2], ["0.1", "0.2", "0.5", "1", "2"])
    axes.yaxis.set_minor_formatter("")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.suptitle("Training loss (faint: every step, bold: mean over 20 steps)")
    axes.set_title(subtitle, fontsize=9)
    figure.savefig(settings.out / "loss_curves.png", dpi=150)


def draw_predictions(settings: Settings, results: dict[str, Result], rows: int = 5) -> None:
    """The first held-out scenes: image, truth, and what either net reads."""
    images, truth = settings.held_out_scenes
    columns: dict[str, NDArray[Any]] = {
        "scene": images,
        "truth": truth,
        **{name: got.predicted for name, got in results.items()},
    }
    figure, grid = plt.subplots(rows, len(columns), figsize=(8.6, 1.85 * rows), layout="constrained")
    for row, line in enumerate(grid):
        for axes, (title, pictures) in zip(line, columns.items(), strict=True):
            if title == "scene":
                axes.imshow(pictures[row], cmap="gray")
            else:
                axes.imshow(pictures[row], ListedColormap(COLOURS), vmin=0, vmax=len(COLOURS) - 1)
            axes.set(xticks=[], yticks=[], title=title if row == 0 else "")
    patches = [Patch(color=colour, label=name) for colour, name in zip(COLOURS, CLASS_NAMES, strict=True)]
    figure.legend(handles=patches, loc="outside right center", title="class")
    figure.suptitle("Held-out scenes: digits that neither net has seen")
    figure.savefig(settings.out / "predictions.png", dpi=150)


def main() -> None:
    settings = Settings.from_command_line(__doc__)
    compare = Comparison()

    def watch(step: int, logits: torch.Tensor, classes: torch.Tensor) -> None:
        if step % EVERY == 0:
            compare(logits.movedim(1, -1).contiguous().numpy(), classes.numpy())

    results = {
        "PyTorch": train_torch.train(settings, watch),
        "Keras": train_keras.train(settings, CompareKerasNet(compare, settings)),
    }
    print(compare)
    draw_losses(settings, results, str(compare))
    draw_predictions(settings, results)
    print(f"drawn: {settings.out / 'loss_curves.png'}, {settings.out / 'predictions.png'}")
    if compare.differing:
        sys.exit("the losses differ")


if __name__ == "__main__":
    main()
