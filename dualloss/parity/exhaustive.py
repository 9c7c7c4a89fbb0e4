"""exp and log1p on every argument they can get, on every library and device here.

What is expected comes from the digest of the true results, which ``reference_digests`` computes with MPFR (gmpy2),
independently of any float64 library: see ``python -m dualloss.parity.exhaustive``.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import fast
from ..exact import functions
from ..exact.numpy_ops import NumpyOps

Array = Any

DIGESTS = {
    "exp": "9f2ac3cdc40e6dda5a75f29c985f019ccd55a17a340e3ce345790937f1477fa2",
    "log1p": "3c58113febb5a6eb239d3dcc201a70f12ecf109ec8dab23a10c70ca9ad1d8537",
}
"""SHA-256 of the little-endian float64 results on all arguments, in the order of :func:`arguments`."""


_KEPT = {
    "exp": (functions.EXP_BITS, functions.EXP_THRESHOLD),
    "log1p": (functions.LOG1P_BITS, functions.LOG1P_THRESHOLD),
}


@dataclass(frozen=True)
class Row:
    """One function on one library.

    Attributes:
        function: ``"exp"`` or ``"log1p"``.
        engine: the library and device.
        count: how many arguments were checked.
        ok: whether every result is the true one.
        slack: distance, in float64 ulp, from the nearest result to a change of the kept bits.
    """

    function: str
    engine: str
    count: int
    ok: bool
    slack: int

    def __str__(self) -> str:
        verdict = "every result right" if self.ok else "WRONG RESULTS"
        return (
            f"{self.function:6} {self.engine:22} {self.count:>9,} arguments: {verdict} "
            f"(closest to a threshold: {self.slack} ulp)"
        )


def arguments(function: str) -> Array:
    """Every argument: 89,433 for exp; for log1p 0 and all 4,915,200 16-bit numbers from 2^-126 up to 2^24."""
    if function == "exp":
        return np.arange(functions.EXP_LOWEST, 1, dtype=np.float64)
    mantissa = np.arange(1 << 15, 1 << 16, dtype=np.float64)
    scales = np.ldexp(1.0, np.arange(-126 - 15, 24 - 15))
    return np.concatenate([[0.0], (scales[:, None] * mantissa).ravel()])


def scan() -> Iterator[Row]:
    """Check every function on every library and device of this interpreter."""
    for engine, evaluate in _engines():
        for function in ("exp", "log1p"):
            given = arguments(function)
            kept, raw = evaluate(function, given)
            yield checked(function, engine, kept, raw)


def checked(function: str, engine: str, kept: Array, raw: Array) -> Row:
    """Whether these kept bits, of the library's own results, are the true ones."""
    found = hashlib.sha256(np.ascontiguousarray(kept, "<f8").tobytes()).hexdigest()
    return Row(function, engine, len(kept), found == DIGESTS[function], _slack(function, raw))


def _slack(function: str, raw: Array) -> int:
    bits, threshold = _KEPT[function]
    step = 1 << (53 - bits)
    low = (np.ascontiguousarray(raw).view(np.int64) + threshold) & (step - 1)
    return int(np.minimum(low, step - low).min())


def _both(ops: Any, function: str, given: Array) -> tuple[Array, Array]:
    """The kept bits and the library's own result."""
    if function == "exp":
        return functions.exp_on_grid(ops, given), ops.exp(given * (1 / functions.EXP_GRID))
    return functions.log1p_on_grid(ops, given), ops.log1p(given)


def _engines() -> Iterator[tuple[str, Callable[[str, Array], tuple[Array, Array]]]]:
    yield "numpy", lambda function, given: _both(NumpyOps(), function, given)
    if fast.enabled:
        yield "kernels", _kernels
    if importlib.util.find_spec("torch") is not None:
        yield from _torch()
        import torch

        if fast.on_devices and torch.cuda.is_available():
            yield "kernels cuda", lambda function, given: on_device(function, given, "cuda")
    if importlib.util.find_spec("tensorflow") is not None:
        yield from _tensorflow()


def _kernels(function: str, given: Array) -> tuple[Array, Array]:
    """What the kernels of CPUs compute."""
    from ..fast.kernel import Arrays, Kernel

    def compute(node: Any) -> Array:
        arrays = Arrays(True, 0, given.astype(np.float32), None, None, None, True)
        Kernel([], node, 1).run(arrays, [0.0], 1)
        return arrays.result()

    return _in_parts(function, compute)


def on_device(function: str, given: Array, device: str) -> tuple[Array, Array]:
    """What the kernels of :mod:`dualloss.torch.gpu` compute."""
    import torch

    from ..torch import gpu

    x = torch.from_numpy(given.astype(np.float32)).to(device)
    label = torch.zeros(len(given), dtype=torch.int64, device=device)

    def compute(node: Any) -> Array:
        result = torch.empty_like(x)
        arrays = gpu.Arrays(True, 0, x, label, None, None, result)
        parameters, states = torch.zeros(1, dtype=torch.float64, device=device), gpu.new_states(1, x.device)
        # Large blocks: for the interpreter every program takes the same time.
        block = 1 << 17 if device == "cpu" else gpu.BLOCK
        gpu.Kernel([], node, 1, f"scan {function} {id(node)}").run(arrays, parameters, states, block=block)
        return result.cpu().numpy()

    return _in_parts(function, compute)


def _in_parts(function: str, compute: Callable[[Any], Array]) -> tuple[Array, Array]:
    """Kernels write float32, so a float64 number comes out as the three that add up to it."""
    from ..fast.trace import Graph, TraceOps

    ops: Any = TraceOps(Graph(1, 0))
    found = []
    for result in _both(ops, function, ops.graph.leaf("x", "f", chan=True)):
        rest = result * 2.0**90  # so that no part is below float32's normal numbers
        total: Any = 0.0
        for _ in range(3):
            total = total + compute(rest).astype(np.float64)
            rest = rest - ops.float32(rest)
        found.append(total * 2.0**-90)
    return found[0], found[1]


def _torch() -> Iterator[tuple[str, Callable[[str, Array], tuple[Array, Array]]]]:
    import torch

    from ..torch.ops import TorchOps

    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        for compiled in (False, True):

            def run(function: str, given: Array, device: str = device, compiled: bool = compiled) -> Any:
                call = torch.compile(_both, dynamic=False) if compiled else _both
                results = call(TorchOps(), function, torch.from_numpy(given).to(device))
                return tuple(r.cpu().numpy() for r in results)

            yield f"torch {'compiled' if compiled else 'eager'} {device}", run


def _tensorflow() -> Iterator[tuple[str, Callable[[str, Array], tuple[Array, Array]]]]:
    import tensorflow as tf

    from ..tf.ops import TensorFlowOps

    def call(function: str, given: Any) -> Any:
        return _both(TensorFlowOps(), function, given)

    for device in ("/CPU:0", *(["/GPU:0"] if tf.config.list_physical_devices("GPU") else [])):
        for how, function_of in (
            ("eager", call),
            ("graph", tf.function(call, autograph=False)),
            ("XLA", tf.function(call, autograph=False, jit_compile=True)),
        ):

            def run(function: str, given: Array, device: str = device, function_of: Any = function_of) -> Any:
                with tf.device(device):
                    return tuple(r.numpy() for r in function_of(function, tf.constant(given)))

            yield f"tf {how} {device}", run


def reference_digests() -> dict[str, str]:
    """The digests from MPFR: the largest number of so many bits not above true value plus threshold."""
    import gmpy2

    digests = {}
    with gmpy2.context(gmpy2.get_context(), precision=120):
        for function in DIGESTS:
            bits, threshold = _KEPT[function]
            results = []
            for argument in arguments(function).tolist():
                if function == "exp":
                    true = gmpy2.exp(gmpy2.mpfr(argument) / functions.EXP_GRID)
                else:
                    true = gmpy2.log1p(gmpy2.mpfr(argument))
                if true == 0:
                    results.append(0.0)
                    continue
                exponent = gmpy2.get_exp(true)
                ulp = gmpy2.exp2(exponent - 53)  # get_exp counts from 0.5: true is in [2^(e-1), 2^e)
                shifted = (true + threshold * ulp) / gmpy2.exp2(exponent - bits)
                kept = min(gmpy2.floor(shifted), 1 << bits)  # a carry into the next binade: its first number
                results.append(float(kept * gmpy2.exp2(exponent - bits)))
            digests[function] = hashlib.sha256(np.array(results, "<f8").tobytes()).hexdigest()
    return digests


if __name__ == "__main__":
    print(reference_digests())
