"""What runs in the process of one side: a loss is called on what arrives, line by line, and never stops it.

Arrays come and go as .npy files in a folder; nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .case import Case, Side
from .probes import Probe
from .runner import CannotRun, Runner, resolve


def main(folder: Path) -> None:
    """Answer until the other end closes."""
    # What a loss prints, also from C, must not get among the answers.
    out = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)

    def answer(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    given = json.loads(sys.stdin.readline())
    fields = dict(given["case"])
    fields |= {"spatial": tuple(fields["spatial"]), **{name: Side(**fields[name]) for name in ("a", "b")}}
    case = Case(**fields)
    try:
        runner = Runner(resolve(given["reference"]), case, Side(**given["side"]), given["reference"], given["timeout"])
        about = runner.about()
    except CannotRun as error:
        answer({"error": str(error)})
        return
    except Exception as error:
        answer({"error": f"{given['reference']}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"})
        return
    answer(asdict(about))
    for line in sys.stdin:
        asked = json.loads(line)
        weight = np.load(folder / "weight.npy") if asked.pop("weighted") else None
        seen = runner.run(
            Probe(x=np.load(folder / "x.npy"), target=np.load(folder / "target.npy"), weight=weight, **asked)
        )
        if seen.gradient is not None:
            np.save(folder / "gradient.npy", seen.gradient)
        # As text: JSON has no NaN.
        value = None if seen.value is None else repr(seen.value)
        answer({
            "value": value, "differentiated": seen.gradient is not None, "error": seen.error, "notes": seen.notes,
            "dtype": seen.dtype, "shape": seen.shape,
        })  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
