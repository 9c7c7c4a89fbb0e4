"""What the loss costs: time of total_loss and its gradient, against plain code, in one table.

For each framework and mode (PyTorch eager and compiled; TensorFlow eager, graph and XLA) three losses are
timed on the same random batch: `plain`, the two terms as people write them; `native`,
`Loss(spec, numerics="native")`; and `exact`, `Loss(spec)`. They take turns within one process, so that what
else the machine does meets all alike. Each framework has a process of its own, so that their threads do not
meet.

    python benchmarks/cost.py --size 4x21x128x128 --repeats 30 --json cost.json
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dualloss import TOTAL_LOSS, __version__

FRAMEWORKS = {"torch": "torch", "tf": "tensorflow"}
"""The modules to import."""

PACKAGES = ("numpy", "torch", "tensorflow", "tensorflow-cpu", "keras")
LAPLACIAN = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], np.float32)

Size = tuple[int, int, int, int]
"""Batch, channels, height, width."""

Step = Callable[[], float]
"""One forward and backward pass, finished when it returns the loss."""


def batch(size: Size) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Logits, channels last, and labels."""
    samples, channels, height, width = size
    rng = np.random.default_rng(0)
    logits = 3 * rng.standard_normal((samples, height, width, channels), np.float32)
    return logits, rng.integers(0, channels, (samples, height, width))


def torch_steps(size: Size, device: str) -> Iterator[tuple[str, dict[str, Step]]]:
    """The modes of PyTorch, each with its three losses."""
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from dualloss.torch import Loss

    place = torch.device("cuda" if device == "gpu" else "cpu")
    logits, labels = batch(size)
    x = torch.from_numpy(np.moveaxis(logits, -1, 1).copy()).to(place).requires_grad_()
    y = torch.from_numpy(labels).to(place)
    channels = size[1]
    kernel = torch.from_numpy(LAPLACIAN).expand(channels, 1, 3, 3).contiguous().to(place)

    def edges(images: Tensor) -> Tensor:
        return F.conv2d(images, kernel, padding=1, groups=channels)

    def plain(input: Tensor, target: Tensor) -> Tensor:
        one_hot = F.one_hot(target, channels).movedim(-1, 1).float()
        return F.cross_entropy(input, target) + 0.5 * F.mse_loss(edges(input), edges(one_hot))

    def step(loss: Callable[[Tensor, Tensor], Tensor]) -> Step:
        def once() -> float:
            x.grad = None
            value = loss(x, y)
            value.backward()
            if place.type == "cuda":
                torch.cuda.synchronize()
            return value.item()

        return once

    losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "plain": plain,
        "native": Loss(TOTAL_LOSS, numerics="native"),
        "exact": Loss(TOTAL_LOSS),
    }
    yield "eager", {name: step(loss) for name, loss in losses.items()}
    yield "compile", {name: step(torch.compile(loss)) for name, loss in losses.items()}


def tf_steps(size: Size, device: str) -> Iterator[tuple[str, dict[str, Step]]]:
    """The modes of TensorFlow, each with its three losses."""
    import tensorflow as tf

    from dualloss.tf import Loss

    place = "/GPU:0" if device == "gpu" else "/CPU:0"
    logits, labels = batch(size)
    channels = size[1]
    with tf.device(place):
        x, y = tf.constant(logits), tf.constant(labels)
        kernel = tf.tile(LAPLACIAN[:, :, None, None], [1, 1, channels, 1])

    def edges(images: Any) -> Any:
        return tf.nn.depthwise_conv2d(images, kernel, [1, 1, 1, 1], "SAME")

    def plain(y_true: Any, y_pred: Any) -> Any:
        one_hot = tf.one_hot(y_true, channels)
        cross_entropy = tf.nn.softmax_cross_entropy_with_logits(one_hot, y_pred)
        boundary = tf.square(edges(y_pred) - edges(one_hot))
        return tf.reduce_mean(cross_entropy) + 0.5 * tf.reduce_mean(boundary)

    def step(loss: Callable[[Any, Any], Any], compiled: Callable[[Any], Any]) -> Step:
        @compiled
        def both(y_true: Any, y_pred: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(y_pred)
                value = loss(y_true, y_pred)
            return value, tape.gradient(value, y_pred)

        def once() -> float:
            with tf.device(place):
                value, gradient = both(y, x)
                tf.reshape(gradient, [-1])[0].numpy()  # waits for it
                return float(value)

        return once

    modes: dict[str, Callable[[Any], Any]] = {
        "eager": lambda function: function,
        "graph": tf.function,
        "XLA": tf.function(jit_compile=True),
    }
    losses: dict[str, Callable[[Any, Any], Any]] = {
        "plain": plain,
        "native": Loss(TOTAL_LOSS, numerics="native"),
        "exact": Loss(TOTAL_LOSS),
    }
    for mode, compiled in modes.items():
        yield mode, {name: step(loss, compiled) for name, loss in losses.items()}


def measure(steps: dict[str, Step], repeats: int) -> dict[str, dict[str, Any]]:
    """First calls, then `repeats` timings of each, in turns; milliseconds."""
    found: dict[str, dict[str, Any]] = {}
    running: dict[str, Step] = {}
    values = {}
    for name, step in steps.items():
        started = time.perf_counter()
        try:
            values[name] = step()
        except Exception as error:  # a mode may be missing here: torch.compile without a C++ compiler
            found[name] = {"error": f"{type(error).__name__}: {error}"}
            continue
        found[name] = {"first": 1e3 * (time.perf_counter() - started), "times": []}
        running[name] = step
        step()
    for name, value in values.items():
        if not math.isclose(value, values.get("plain", value), rel_tol=1e-5):
            raise AssertionError(f"{name} is {value}, plain {values['plain']}: they compute different losses")
    for _ in range(repeats):
        for name, step in running.items():
            started = time.perf_counter()
            step()
            found[name]["times"].append(1e3 * (time.perf_counter() - started))
    return found


def worker(framework: str, size: Size, repeats: int, device: str) -> list[dict[str, Any]]:
    """The rows of one framework: this is what its process does."""
    rows = []
    for mode, steps in (torch_steps if framework == "torch" else tf_steps)(size, device):
        found = measure(steps, repeats)
        plain = statistics.median(found["plain"]["times"]) if "times" in found["plain"] else None
        for name, result in found.items():
            row: dict[str, Any] = {"framework": framework, "mode": mode, "loss": name, **result}
            if "times" in row:
                quartiles = statistics.quantiles(row["times"], n=4, method="inclusive")
                row |= dict(zip(("lower", "median", "upper"), quartiles, strict=True))
                row["ratio"] = row["median"] / plain if plain else None
            rows.append(row)
    return rows


def in_its_own_process(framework: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one framework."""
    size = "x".join(map(str, arguments.size))
    command = [sys.executable, __file__, "--worker", framework, "--size", size, "--device", arguments.device]
    environment = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    done = subprocess.run(
        [*command, "--repeats", str(arguments.repeats)], stdout=subprocess.PIPE, text=True, env=environment
    )
    if done.returncode:
        raise SystemExit(f"the process of {framework} ended with exit status {done.returncode}")
    rows: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return rows


def machine(device: str) -> dict[str, Any]:
    """What the times depend on."""
    cpu = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = [line for line in information.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": cpu, "cores": cores, "system": platform.platform(), "device": device}


def versions() -> dict[str, str]:
    """Of dualloss, Python and the packages that matter, as far as they are installed."""
    found = {"dualloss": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def table(rows: list[dict[str, Any]]) -> None:
    """Print the rows, by rich where it is installed."""
    header = ("framework", "mode", "loss", "median ms", "quartiles", "x plain", "first ms")
    cells = []
    for row in rows:
        numbers: tuple[str, ...] = ("failed", "", "", "")
        if "error" not in row:
            ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
            quartiles = f"{row['lower']:.1f} - {row['upper']:.1f}"
            numbers = (f"{row['median']:.1f}", quartiles, ratio, f"{row['first']:.0f}")
        cells.append((row["framework"], row["mode"], row["loss"], *numbers))
    try:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
        for line in (header, *cells):
            texts = [cell.ljust(width) for cell, width in zip(line[:3], widths, strict=False)]
            texts += [cell.rjust(width) for cell, width in zip(line[3:], widths[3:], strict=True)]
            print("  ".join(texts))
    else:
        grid = Table(box=SIMPLE_HEAD, pad_edge=False)
        for number, title in enumerate(header):
            grid.add_column(title, justify="left" if number < 3 else "right", no_wrap=True)
        for number, line in enumerate(cells):
            ends = number + 1 == len(cells) or cells[number + 1][:2] != line[:2]
            grid.add_row(*line, end_section=ends)
        Console().print(grid)


def size(text: str) -> Size:
    """The four numbers of `4x21x128x128`."""
    numbers = [int(part) for part in text.split("x")]
    if len(numbers) != 4 or min(numbers) < 1:
        raise ValueError(text)
    return numbers[0], numbers[1], numbers[2], numbers[3]


def main() -> int:
    """Run the benchmark; 1 if a loss failed to run."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--size", type=size, default=(4, 21, 128, 128), help="batch x channels x height x width: 4x21x128x128")
    add("--repeats", type=int, default=30, help="timings of each loss (default: 30)")
    add("--device", choices=("cpu", "gpu"), default="cpu", help="where to compute (default: cpu)")
    add("--json", type=Path, metavar="FILE", help="also write everything to FILE")
    add("--worker", choices=FRAMEWORKS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.repeats < 2:
        parser.error("--repeats must be 2 or more, for quartiles")
    if arguments.worker:
        print(json.dumps(worker(arguments.worker, arguments.size, arguments.repeats, arguments.device)))
        return 0

    report: dict[str, Any] = {
        "machine": machine(arguments.device),
        "versions": versions(),
        "size": arguments.size,
        "repeats": arguments.repeats,
        "rows": [],
    }
    print(", ".join(f"{key} {value}" for key, value in {**report["machine"], **report["versions"]}.items()))
    shape = " x ".join(map(str, arguments.size))
    print(f"total_loss and its gradient, float32 logits of {shape}, {arguments.repeats} repeats")
    for framework, module in FRAMEWORKS.items():
        if importlib.util.find_spec(module) is None:
            print(f"{module} is not installed: left out")
        else:
            report["rows"] += in_its_own_process(framework, arguments)
    table(report["rows"])
    failed = [row for row in report["rows"] if "error" in row]
    for row in failed:
        print(f"{row['framework']} {row['mode']} {row['loss']} failed: {row['error']}")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
