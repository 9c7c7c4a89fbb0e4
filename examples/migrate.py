"""A migration that went wrong, and how `dualloss compare` puts it right.

`python examples/migrate.py [--html FOLDER]`

`original` is a total_loss of PyTorch. `port` is the same loss in TensorFlow, as somebody wrote it, with three mistakes.
The comparison names them; each round mends the one that is named first, until both are the same.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

import torch  # first: TensorFlow brings its own copies of some libraries

# isort: split
import keras
import tensorflow as tf
import torch.nn.functional as F

from dualloss.check import Case, compare

LAPLACIAN = [[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]


def original(input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy plus half the mean squared difference of Laplacians; logits (B, C, H, W), class indices."""
    channels = input.shape[1]
    onehot = F.one_hot(target, channels).movedim(-1, 1).to(input.dtype)
    kernel = torch.tensor(LAPLACIAN, dtype=input.dtype).expand(channels, 1, 3, 3)
    found, wanted = (F.conv2d(v, kernel, padding=1, groups=channels) for v in (input, onehot))
    return F.cross_entropy(input, target) + 0.5 * F.mse_loss(found, wanted)


def port(from_logits: bool, padding: str, weight: float) -> Callable[[Any, Any], Any]:
    """The port: one-hot targets and logits, both (B, H, W, C); its settings are where the mistakes are."""
    cross_entropy = keras.losses.CategoricalCrossentropy(from_logits=from_logits)

    def edges(v: Any) -> Any:
        kernel = tf.tile(tf.constant(LAPLACIAN)[..., None, None], [1, 1, v.shape[-1], 1])
        padded = tf.pad(v, [[0, 0], [1, 1], [1, 1], [0, 0]], mode=padding)
        return tf.nn.depthwise_conv2d(padded, kernel, [1] * 4, "VALID")

    def total_loss(y_true: Any, y_pred: Any) -> Any:
        y_true, y_pred = tf.cast(y_true, tf.float32), tf.cast(y_pred, tf.float32)
        difference = edges(y_true) - edges(y_pred)
        return cross_entropy(y_true, y_pred) + weight * tf.reduce_mean(difference**2)

    return total_loss


MENDED: dict[str, dict[str, Any]] = {
    "from-logits": {"from_logits": True},
    "edge-kernel": {"padding": "CONSTANT"},
    "weight-of-a-term": {"weight": 0.5},
}
"""What each cause's fix is in this port."""


def main() -> None:
    """Compare and mend, until there is nothing left to mend."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--html", type=Path, metavar="FOLDER", help="also write each round's report there")
    folder = parser.parse_args().html
    settings: dict[str, Any] = {"from_logits": False, "padding": "REFLECT", "weight": 1.0}
    for attempt in range(1, 6):
        report = compare(original, port(**settings), Case(classes=4, spatial=(32, 32), batch=2))
        print(f"Round {attempt}: {settings}\n{report.verdict}")
        for finding in report.findings:
            print(f"  - [{finding.cause.number}] {finding.detail}")
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            report.to_html(folder / f"round{attempt}.html")
        if report.same:
            return
        named = next((f.cause.name for f in report.findings if f.cause.name in MENDED), None)
        if named is None:
            raise SystemExit("No cause that this example knows how to mend")
        print(f"  mending {named}\n")
        settings.update(MENDED[named])
    raise SystemExit("They still differ")


if __name__ == "__main__":
    main()
