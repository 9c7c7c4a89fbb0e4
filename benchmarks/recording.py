"""What recording a training costs: the time of its steps with and without it, in turns.

The model is three convolutions, the loss total_loss; a block is ten steps. Every framework has a process of its own.

    python benchmarks/recording.py                                  # the table of docs/recording.md
    python benchmarks/recording.py --size 1x21x64x64 --rounds 5
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dualloss import TOTAL_LOSS

Step = Callable[[], Any]

BLOCK = 10
CHANNELS = 32
VARIANTS: dict[str, dict[str, Any] | None] = {
    "without": None,
    "every step, whole": {},
    "every step, samples": {"whole": 0},
    "every 10th step, whole": {"every": 10},
    "every 100th step, whole": {"every": 100},
}


def data(size: tuple[int, ...]) -> tuple[Any, Any]:
    """Images of three channels and labels."""
    rng = np.random.default_rng(0)
    batch, classes, *spatial = size
    return rng.normal(0, 1, (batch, *spatial, 3)).astype(np.float32), rng.integers(0, classes, (batch, *spatial))


def torch_steps(size: tuple[int, ...], folder: Path) -> dict[str, Step]:
    """A training step in PyTorch, eager, for every variant."""
    import torch

    import dualloss.torch

    images, labels = data(size)
    x, y = torch.from_numpy(np.moveaxis(images, -1, 1).copy()), torch.from_numpy(labels)
    layers: list[Any] = []
    for before, after in ((3, CHANNELS), (CHANNELS, CHANNELS), (CHANNELS, size[1])):
        layers += [torch.nn.Conv2d(before, after, 3, padding=1), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    criterion = dualloss.torch.Loss(TOTAL_LOSS)

    def made(options: dict[str, Any] | None, path: Path) -> Step:
        recorder = None if options is None else dualloss.torch.record(path, **options)
        called = criterion if recorder is None else recorder.loss(criterion)

        def step() -> None:
            optimizer.zero_grad()
            called(model(x), y).backward()
            optimizer.step()
            if recorder:
                recorder.step()

        return step

    return {name: made(options, folder / name) for name, options in VARIANTS.items()}


def tf_steps(size: tuple[int, ...], folder: Path) -> dict[str, Step]:
    """A training step in TensorFlow, a graph, for every variant."""
    import keras
    import tensorflow as tf

    import dualloss.tf

    x, y = (tf.constant(array) for array in data(size))
    model = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            *(keras.layers.Conv2D(CHANNELS, 3, padding="same", activation="relu") for _ in range(2)),
            keras.layers.Conv2D(size[1], 3, padding="same"),
        ]
    )
    optimizer = keras.optimizers.SGD(1e-3)
    optimizer.build(model.trainable_weights)
    criterion = dualloss.tf.Loss(TOTAL_LOSS)

    def made(options: dict[str, Any] | None, path: Path) -> Step:
        recorder = None if options is None else dualloss.tf.record(path, **options)
        called = criterion if recorder is None else recorder.loss(criterion)

        @tf.function
        def train() -> None:
            with tf.GradientTape() as tape:
                loss = called(y, model(x, training=True))
            optimizer.apply(tape.gradient(loss, model.trainable_weights), model.trainable_weights)

        def step() -> None:
            train()
            if recorder:
                recorder.step()

        return step

    return {name: made(options, folder / name) for name, options in VARIANTS.items()}


STEPS = {"torch": torch_steps, "tf": tf_steps}


def measure(framework: str, size: tuple[int, ...], rounds: int) -> dict[str, float]:
    """The median time of a step in ms, by variant."""
    with tempfile.TemporaryDirectory() as folder:
        steps = STEPS[framework](size, Path(folder))
        times: dict[str, list[float]] = {name: [] for name in steps}
        for step in steps.values():
            step()
        names = list(steps)
        for number in range(rounds):
            for name in (*names[number % len(names) :], *names[: number % len(names)]):
                started = time.perf_counter()
                for _ in range(BLOCK):
                    steps[name]()
                times[name].append(1e3 * (time.perf_counter() - started) / BLOCK)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="4x21x128x128", help="of the logits, BxCxHxW (default 4x21x128x128)")
    parser.add_argument("--rounds", type=int, default=15, help="blocks of ten steps of each variant (default 15)")
    parser.add_argument("--work", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = tuple(map(int, options.size.split("x")))
    if options.work:
        print(json.dumps(measure(options.work, size, options.rounds)))
        return
    print(f"logits {options.size}, float32, {platform.machine()}, {os.cpu_count()} CPUs; ms a step, ratio to without")
    for framework in STEPS:
        result = subprocess.run(
            [sys.executable, __file__, "--work", framework, "--size", options.size, "--rounds", str(options.rounds)],
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        found = json.loads(result.stdout.splitlines()[-1])
        for name, value in found.items():
            print(f"  {framework:5}  {name:24}  {value:8.2f}  {value / found['without']:5.2f}")


if __name__ == "__main__":
    main()
