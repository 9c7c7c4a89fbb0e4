"""Writes the golden vectors: ``python -m dualloss.parity.write_vectors``. A changed line needs a reviewed reason.

A vector is written only if the executable definition and the NumPy engine agree on every bit of it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from .cases import cases, configs
from .engines import NumPy
from .runner import defined, digest, first_difference

HEADER = """\
# Golden vectors of the parity suite: SHA-256 of the bits of losses and gradients (channels last, little-endian) of
# all cases of a configuration, in order. Written by python -m dualloss.parity.write_vectors; see CONTRIBUTING.md.
"""


def main() -> int:
    """Write ``vectors.txt`` beside this file; 1 if definition and engine disagree."""
    lines = []
    for config in configs():
        run = NumPy().start(config)
        made = list(cases(config))
        outcomes = [run(case) for case in made]
        for case, outcome in zip(made, outcomes, strict=True):
            expected = defined(case)
            for quantity in ("loss", "gradient"):
                found = first_difference(getattr(outcome, quantity), getattr(expected, quantity))
                if found is not None:
                    print(f"{case.name}: {quantity} differs from the definition: {found}", file=sys.stderr)
                    return 1
        lines.append(f"{digest(outcomes)} {config.name}")
    Path(__file__).with_name("vectors.txt").write_text(HEADER + "\n".join(lines) + "\n")
    print(f"{len(lines)} vectors")
    return 0


if __name__ == "__main__":
    sys.exit(main())
