"""Writes the golden vectors: ``python -m dualloss.parity.write_vectors``. A changed line needs a reviewed reason.

A vector is written only if the executable definition and the NumPy engine agree on every bit of it.
"""

from __future__ import annotations

import os
import sys
from multiprocessing import get_context
from pathlib import Path

from .cases import Config, cases, configs
from .engines import NumPy
from .runner import defined, digest, first_difference

HEADER = """\
# Golden vectors of the parity suite: SHA-256 of the bits of losses and gradients (channels last, little-endian) of
# all cases of a configuration, in order. Written by python -m dualloss.parity.write_vectors; see CONTRIBUTING.md.
"""


def vector(config: Config) -> tuple[str, str | None]:
    """The line of a configuration, and where definition and engine disagree, if they do."""
    run = NumPy().start(config)
    made = list(cases(config))
    outcomes = [run(case) for case in made]
    for case, outcome in zip(made, outcomes, strict=True):
        expected = defined(case)
        for quantity in ("loss", "gradient"):
            found = first_difference(getattr(outcome, quantity), getattr(expected, quantity))
            if found is not None:
                return "", f"{case.name}: {quantity} differs from the definition: {found}"
    return f"{digest(outcomes)} {config.name}", None


def main(processes: int = 1) -> int:
    """Write ``vectors.txt`` beside this file; 1 if definition and engine disagree."""
    if processes == 1:
        results = [vector(config) for config in configs()]
    else:
        with get_context("spawn").Pool(processes) as pool:
            results = list(pool.imap(vector, configs(), chunksize=4))
    lines = [line for line, _ in results]
    wrong = [difference for _, difference in results if difference is not None]
    for difference in wrong:
        print(difference, file=sys.stderr)
    if wrong:
        return 1
    Path(__file__).with_name("vectors.txt").write_text(HEADER + "\n".join(lines) + "\n")
    print(f"{len(lines)} vectors")
    return 0


if __name__ == "__main__":
    sys.exit(main(os.cpu_count() or 1))
