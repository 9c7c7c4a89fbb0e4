"""Runs one framework's engines in an interpreter of its own: ``python -m dualloss.parity.worker``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from .cases import configs
from .engines import available
from .runner import collect


def main(framework: str, names: str, out: str, compile_all: str) -> None:
    """Write the outcomes of the configurations listed in a file."""
    wanted = set(Path(names).read_text().splitlines())
    engines, missing = available((framework,))
    arrays, errors, beyond = collect([c for c in configs() if c.name in wanted], engines, compile_all == "1")
    arrays["errors"] = np.array([line for lines in errors.values() for line in lines], dtype=str)
    arrays["missing"] = np.array([*missing, *beyond], dtype=str)
    np.savez(out, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
