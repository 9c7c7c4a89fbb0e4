"""The kernels of total_loss compiled for a CUDA device that need not be here: ``python -m dualloss.parity.ptx``.

Prints, for each launch, what ptxas says of registers and spills, and counts of instructions in PTX and, where
cuobjdump is (triton brings it), machine code. Needs torch and triton.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import TOTAL_LOSS, fast

COUNTED = {
    "fma": r"\bfma\.rn\.f64", "add": r"\b(?:add|sub)(?:\.rn)?\.f64", "mul": r"\bmul(?:\.rn)?\.f64",
    "div": r"\bdiv\.rn\.f64", "other roundings": r"\b(?:div|sqrt)\.(?:approx|full|rz|rm|rp)",
    "atomic int64 add": r"\b(?:atom|red)\.global\.gpu\.relaxed\.add\.u64",
}  # fmt: skip
"""What is looked for in PTX."""
FP64 = ("DADD", "DMUL", "DFMA", "DSETP")


def launches(channels: int, capability: int, labels: str = "*i64") -> Iterator[dict[str, Any]]:
    """Registers, spilled bytes and counts of instructions of each launch of total_loss with its gradient.

    Args:
        channels: the number of channels.
        capability: the device's, 90 for 9.0.
        labels: the type of the pointer to the labels.
    """
    import torch  # noqa: F401  (before triton, whose LLVM would meet torch's)
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from ..fast.gpu.source import ARGUMENTS
    from ..torch import gpu

    what = fast.Signature(TOTAL_LOSS, channels, 2, True, False, False, True)
    kernel = gpu.compiled(what, False, True, True)
    types = ["*fp32", labels, "*fp32", "*u8", "*fp32", "*fp32", "*fp64", "*fp64", "*i64", "*fp64", "*i32"]
    signature = dict(zip(ARGUMENTS, types + ["i32"] * (len(ARGUMENTS) - len(types)), strict=True))
    known = {"WHEN": -1, "BLOCK": gpu.BLOCK, "x_position": 1}
    signature.update(dict.fromkeys(known, "constexpr"))
    for number, function in enumerate(kernel.launches(wide=False)):
        # As when it is launched on tensors: pointers are aligned, and the sizes divided by 16.
        aligned = {(k,): [["tt.divisibility", 16]] for k in range(len(ARGUMENTS)) if ARGUMENTS[k] not in known}
        source = ASTSource(fn=function, signature=signature, constexprs=known, attrs=aligned)
        done = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=gpu.OPTIONS)
        yield {"launch": number, **_assembled(done.asm["ptx"]), **_machine_code(done.asm["cubin"])}


def _assembled(text: str) -> dict[str, Any]:
    import triton

    target = re.search(r"^\.target (\w+)", text, re.MULTILINE)
    assert target is not None
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "kernel.ptx").write_text(text)
        said = subprocess.run(
            [triton.knobs.nvidia.ptxas.path, "-v", f"-arch={target[1]}", "kernel.ptx", "-o", "kernel.cubin"],
            cwd=folder, check=True, capture_output=True, text=True,
        ).stderr  # fmt: skip
    registers = re.search(r"Used (\d+) registers", said)
    assert registers is not None
    spilled = [int(n) for n in re.findall(r"(\d+) bytes spill", said)]
    counts = {name: len(re.findall(pattern, text)) for name, pattern in COUNTED.items()}
    return {"registers": int(registers[1]), "spilled bytes": sum(spilled), "PTX": counts}


def _machine_code(cubin: bytes) -> dict[str, Any]:
    import triton

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        text = subprocess.run(
            [triton.knobs.nvidia.cuobjdump.path, "-sass", str(path)], check=True, capture_output=True, text=True
        ).stdout
    found = re.findall(r"^\s+/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P\w+\s+)?(\w+)", text, re.MULTILINE)
    counts = Counter(found)
    return {"instructions": len(found), "float64 instructions": sum(counts[name] for name in FP64)}


def main() -> None:
    """Print what :func:`launches` finds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--channels", type=int, default=21)
    parser.add_argument("--capability", type=int, default=90, help="of the device: 90 for 9.0")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = list(launches(options.channels, options.capability))
    if options.json:
        print(json.dumps(found))
        return
    for launch in found:
        print(", ".join(f"{name}: {value}" for name, value in launch.items()))


if __name__ == "__main__":
    main()
