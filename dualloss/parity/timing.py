"""Forward and backward of total_loss on every device here, for ``dualloss gpu``."""

from __future__ import annotations

import importlib.util
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .. import TOTAL_LOSS, __version__, fast
from . import generator

SHAPE = (4, 128, 128, 21)
REPEATS = 20


def devices() -> Iterator[str]:
    """What is here: versions and devices, a line each."""
    yield f"dualloss {__version__}, Python {platform.python_version()}, {platform.platform()}, numpy {np.__version__}"
    if importlib.util.find_spec("torch") is None:
        yield "torch: not installed"
    else:
        import torch

        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        yield f"torch {torch.__version__}, CUDA {torch.version.cuda}: {', '.join(names) or 'no CUDA device'}"
    if importlib.util.find_spec("tensorflow") is None:
        yield "tensorflow: not installed"
    else:
        import tensorflow as tf

        found = [tf.config.experimental.get_device_details(d) for d in tf.config.list_physical_devices("GPU")]
        named = ", ".join(str(d.get("device_name")) for d in found)
        yield f"tensorflow {tf.__version__}: {named or 'no GPU'}"


def total_loss() -> Iterator[str]:
    """Medians and quartiles of forward and backward, float32, a line each."""
    x = (generator.bell("timing", SHAPE) * 3.0).astype(np.float32)
    labels = generator.labels("timing", SHAPE[:-1], SHAPE[-1])
    yield f"total_loss, forward and backward, {'x'.join(map(str, SHAPE))} float32, median [quartiles] of {REPEATS}:"
    if importlib.util.find_spec("torch") is not None:
        yield from _torch(x, labels)
    if importlib.util.find_spec("tensorflow") is not None:
        yield from _tensorflow(x, labels)


def _timed(step: Callable[[], Any]) -> str:
    return _shown(_seconds(step))


def _shown(seconds: list[float]) -> str:
    low, middle, high = statistics.quantiles(seconds, n=4)
    return f"{middle * 1e3:8.2f} ms [{low * 1e3:.2f}, {high * 1e3:.2f}]"


def _seconds(step: Callable[[], Any]) -> list[float]:
    for _ in range(3):
        step()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return seconds


def _torch(x: Any, labels: Any) -> Iterator[str]:
    import torch
    import torch.nn.functional as F

    import dualloss.torch

    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        logits = torch.from_numpy(x).movedim(-1, 1).contiguous().to(device).requires_grad_()
        target = torch.from_numpy(labels).to(device)
        kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], device=device).expand(x.shape[-1], 1, 3, 3)

        def plain(logits: Any, target: Any, kernel: Any = kernel) -> Any:
            classes = logits.shape[1]
            one_hot = F.one_hot(target, classes).movedim(-1, 1).float()
            found, wanted = (F.conv2d(v, kernel, padding=1, groups=classes) for v in (logits, one_hot))
            return F.cross_entropy(logits, target) + 0.5 * F.mse_loss(found, wanted)

        # What no loss can do without: the logits read once, a gradient written once.
        copied = torch.empty_like(logits)

        def copy(logits: Any = logits, copied: Any = copied, device: str = device) -> None:
            copied.detach().copy_(logits.detach())
            if device == "cuda":
                torch.cuda.synchronize()

        least = _seconds(copy)
        moved = 2 * logits.numel() * logits.element_size() / statistics.median(least) / 1e9
        yield f"  torch {device:5} copy of the logits          {_shown(least)}, {moved:.0f} GB/s"
        exact = dualloss.torch.Loss(TOTAL_LOSS)
        native = dualloss.torch.Loss(TOTAL_LOSS, numerics="native")
        kernels = fast.on_devices if device == "cuda" else fast.enabled
        ways: tuple[tuple[str, Any, bool], ...] = (
            ("plain", plain, False),
            ("exact", exact, kernels),
            ("native", native, kernels),
            *([("exact, no kernels", exact, False), ("native, no kernels", native, False)] if kernels else []),
        )
        for name, criterion, used in ways:
            for how in ("eager", "compiled"):
                torch.compiler.reset()  # what is compiled keeps the kernels, or their lack, of when it was traced
                call: Any = torch.compile(criterion) if how == "compiled" else criterion

                def step(call: Any = call, logits: Any = logits, target: Any = target, device: str = device) -> None:
                    logits.grad = None
                    call(logits, target).backward()
                    if device == "cuda":
                        torch.cuda.synchronize()

                with fast.using(used):
                    seconds = _seconds(step)
                ratio = statistics.median(seconds) / statistics.median(least)
                yield f"  torch {device:5} {how:9} {name:18} {_shown(seconds)}, {ratio:.1f} copies"


def _tensorflow(x: Any, labels: Any) -> Iterator[str]:
    import tensorflow as tf

    import dualloss.tf

    def plain(target: Any, logits: Any) -> Any:
        classes = logits.shape[-1]
        one_hot = tf.one_hot(target, classes)
        kernel = tf.constant([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[:, :, None, None]
        kernel = tf.tile(kernel, [1, 1, classes, 1])
        edges = [tf.nn.depthwise_conv2d(v, kernel, [1, 1, 1, 1], "SAME") for v in (logits, one_hot)]
        entropy = tf.nn.softmax_cross_entropy_with_logits(labels=one_hot, logits=logits)
        return tf.reduce_mean(entropy) + 0.5 * tf.reduce_mean(tf.square(edges[0] - edges[1]))

    exact = dualloss.tf.Loss(TOTAL_LOSS)
    native = dualloss.tf.Loss(TOTAL_LOSS, numerics="native")
    for device in ("/CPU:0", *(["/GPU:0"] if tf.config.list_physical_devices("GPU") else [])):
        with tf.device(device):
            logits, target = tf.constant(x), tf.constant(labels)
            for name, criterion in (("plain", plain), ("exact", exact), ("native", native)):

                def gradient(criterion: Any = criterion, logits: Any = logits, target: Any = target) -> Any:
                    with tf.GradientTape() as tape:
                        tape.watch(logits)
                        loss = criterion(target, logits)
                    return tape.gradient(loss, logits)

                for how in ("graph", "XLA"):
                    call: Any = tf.function(gradient, jit_compile=how == "XLA", autograph=False)

                    def step(call: Any = call) -> Any:
                        return call().numpy()

                    yield f"  tf {device:8} {how:9} {name:7} {_timed(step)}"
