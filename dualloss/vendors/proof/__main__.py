"""Runs the grids and prints, for every loss, how far ours is from the library's: in ulp, of the value and the gradient.

Exits with 1 if a case is out of bounds, or if a library is not installed (unless --allow-missing).
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from ... import fast
from ...spec import VERSIONS
from .grid import Case, Loss
from .report import NUMERICS, PACKAGES, Result, line, report, summary, write


@fast.using(False)  # native numerics by the frameworks' formulas
def main(arguments: list[str] | None = None) -> int:
    """Run the proof; 0 if it holds."""
    given = _parser().parse_args(arguments)
    grids, missing = available()
    start, results = time.monotonic(), []
    wanted = [loss for loss in grids if given.only in (None, loss.name, loss.vendor, f"{loss.vendor}.{loss.name}")]
    for _, same in groupby(wanted, key=lambda loss: (loss.vendor, loss.name)):
        found = [run(case) for loss in same for case in list(loss.cases())[:: given.every]]
        results += found
        for row in summary(found):
            print(line(row), flush=True)
    failures = [result for result in results if result["verdict"] != "equal"]
    for result in failures[:20]:
        print(f"NOT EQUAL {result}")
    whole = report(results, missing, cases=True)
    print(
        f"{whole['losses']} losses, {whole['combinations']} combinations of options, {len(results)} cases "
        f"in {time.monotonic() - start:.0f} s: {len(failures)} not equal"
    )
    for vendor, version in VERSIONS.items():
        if not whole["installed"].get(vendor, version).startswith(version):
            print(f"{PACKAGES[vendor]} is {whole['installed'][vendor]}, the importers were written from {version}")
    for vendor, why in missing.items():
        print(f"{PACKAGES[vendor]}: not run, {why}")
    if given.json:
        write(given.json, whole)
    if given.summary:
        write(given.summary, report(results, missing, cases=False))
    return int(bool(failures or not results or (missing and not given.allow_missing)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dualloss.vendors.proof", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report, every case of it")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="write the report without the cases")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="run only every N-th case")
    parser.add_argument("--only", metavar="NAME", help="a library, a loss, or library.loss")
    parser.add_argument("--allow-missing", action="store_true", help="libraries that are not installed are no failure")
    return parser


def available() -> tuple[list[Loss], dict[str, str]]:
    """Every loss of the libraries that are here, and why others are not."""
    found: list[Loss] = []
    missing: dict[str, str] = {}
    for vendor in PACKAGES:
        try:
            found += importlib.import_module(f".losses_{vendor}", __package__).LOSSES
        except ImportError as error:
            missing[vendor] = str(error)
    return found, missing


def sample(every: int) -> Iterator[Case]:
    """Every N-th case of each grid of the libraries that are installed."""
    for loss in available()[0]:
        yield from list(loss.cases())[::every]


def run(case: Case) -> Result:
    """One case, as the report holds it."""
    from .compare import errors
    from .evaluate import OTHER, ours, spec_of, vendor

    spec = spec_of(case)
    single, double = vendor(case, "float32"), vendor(case, "float64")
    result: dict[str, Any] = {
        "vendor": case.loss.vendor,
        "version": VERSIONS[case.loss.vendor],
        "loss": case.loss.name,
        "options": case.options,
        "keywords": case.loss.keywords(case.options, case.shape),
        "data": case.kind,
        "shape": case.shape,
        "spec": str(spec),
        "framework": OTHER[case.loss.vendor],
        "value": double.value,
        "vendor_float32_ulp": errors(single, double),
    }
    equal = True
    # Native numerics are float32, as the library's: they need not be nearer to its float64 than it is itself.
    native = max(case.loss.native, *result["vendor_float32_ulp"])
    for numerics, bound in zip(NUMERICS, (native, case.loss.exact), strict=True):
        found = errors(ours(case, spec, numerics), double, single)
        result[f"{numerics}_ulp"] = found
        equal &= max(found) <= bound
    result["verdict"] = "equal" if equal else "not equal"
    return result


if __name__ == "__main__":
    sys.exit(main())
