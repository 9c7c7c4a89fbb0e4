"""`python -m dualloss.vendors.proof`: runs the grids and prints, for every loss, how far ours is from the library's.

Exits with 1 if a case is out of bounds, or if a library is not installed (unless `--allow-missing`).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from ...spec import VERSIONS
from .grid import NATIVE, Case, Loss

PACKAGES = {"torch": "torch", "keras": "keras", "smp": "segmentation-models-pytorch", "monai": "monai"}
NUMERICS = ("native", "exact")


@dataclass
class Summary:
    """What was found for a loss."""

    options: set[str] = field(default_factory=set)
    cases: int = 0
    failed: int = 0
    worst: dict[str, list[float]] = field(default_factory=lambda: {name: [0.0, 0.0] for name in NUMERICS})


def main(arguments: list[str] | None = None) -> int:
    """Run the proof; 0 if it holds."""
    given = _parser().parse_args(arguments)
    grids, missing = available()
    start = time.monotonic()
    results: list[dict[str, Any]] = []
    summaries: dict[tuple[str, str], Summary] = {}
    for loss in grids:
        if given.only and given.only not in (loss.name, loss.vendor, f"{loss.vendor}.{loss.name}"):
            continue
        summary = summaries.setdefault((loss.vendor, loss.name), Summary())
        for case in list(loss.cases())[:: given.every]:
            result = run(case)
            results.append(result)
            _add(summary, result)
        if loss is grids[-1] or grids[grids.index(loss) + 1].name != loss.name:
            print(_line(loss, summary), flush=True)
    failures = [result for result in results if result["verdict"] != "equal"]
    for result in failures[:20]:
        print(f"NOT EQUAL {result}")
    combinations = sum(len(summary.options) for summary in summaries.values())
    seconds = time.monotonic() - start
    print(
        f"{len(summaries)} losses, {combinations} combinations of options, {len(results)} cases in {seconds:.0f} s: "
        f"{len(failures)} not equal"
    )
    for vendor, why in missing.items():
        print(f"{vendor}: not run, {why}")
    if given.json:
        _write(given.json, results, missing, len(summaries), combinations)
    return int(bool(failures or not results or (missing and not given.allow_missing)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dualloss.vendors.proof", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every case to a file")
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


def run(case: Case) -> dict[str, Any]:
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
    for numerics, bound in zip(NUMERICS, (NATIVE, case.loss.exact), strict=True):
        found = errors(ours(case, spec, numerics), double, single)
        result[f"{numerics}_ulp"] = found
        equal &= max(found) <= bound
    result["verdict"] = "equal" if equal else "not equal"
    return result


def _add(summary: Summary, result: dict[str, Any]) -> None:
    summary.cases += 1
    summary.failed += int(result["verdict"] != "equal")
    summary.options.add(json.dumps(result["options"], default=str))
    for numerics in NUMERICS:
        pairs = zip(summary.worst[numerics], result[f"{numerics}_ulp"], strict=True)
        summary.worst[numerics] = [max(pair) for pair in pairs]


def _line(loss: Loss, summary: Summary) -> str:
    def shown(numerics: str) -> str:
        return " ".join(f"{error:8.2f}" for error in summary.worst[numerics])

    name = f"{loss.vendor}.{loss.name}"
    verdict = f"{summary.failed} NOT EQUAL" if summary.failed else "equal"
    return (
        f"{name:36} {len(summary.options):4} options {summary.cases:4} cases   native {shown('native')} ulp   "
        f"exact {shown('exact')} ulp   {verdict}"
    )


def _write(path: Path, results: list[dict[str, Any]], missing: dict[str, str], losses: int, combinations: int) -> None:
    installed = {vendor: importlib.metadata.version(PACKAGES[vendor]) for vendor in PACKAGES if vendor not in missing}
    report = {
        "python": sys.version.split()[0],
        "definitions": dict(VERSIONS),
        "installed": installed,
        "missing": missing,
        "losses": losses,
        "combinations": combinations,
        "cases": results,
    }
    path.write_text(json.dumps(_plain(report), indent=1, allow_nan=False))
    print(f"wrote {path}")


def _plain(value: Any) -> Any:
    """JSON has no NaN and infinities: their names."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value - value != 0:
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def sample(every: int) -> Iterator[Case]:
    """Every N-th case of each grid of the libraries that are installed."""
    for loss in available()[0]:
        yield from list(loss.cases())[::every]


if __name__ == "__main__":
    sys.exit(main())
