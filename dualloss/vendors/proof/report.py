"""What the proof found: one row a loss, printed and as JSON."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...spec import VERSIONS

PACKAGES = {"torch": "torch", "keras": "keras", "smp": "segmentation-models-pytorch", "monai": "monai"}
"""The distribution that a library comes in."""
NUMERICS = ("native", "exact")

Result = dict[str, Any]


def summary(results: Iterable[Result]) -> list[Result]:
    """For every loss: how many combinations of options and cases, and the largest errors of value and gradient."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result["vendor"], result["loss"]), []).append(result)
    return [
        {
            "vendor": vendor,
            "loss": loss,
            "combinations": len({json.dumps(case["options"], default=str) for case in cases}),
            "cases": len(cases),
            "not_equal": sum(case["verdict"] != "equal" for case in cases),
            **{
                f"{numerics}_ulp": [max((case[f"{numerics}_ulp"][i] for case in cases), default=0.0) for i in (0, 1)]
                for numerics in NUMERICS
            },
        }
        for (vendor, loss), cases in groups.items()
    ]


def line(row: Result) -> str:
    """A row as it is printed."""
    name = f"{row['vendor']}.{row['loss']}"
    errors = "   ".join(
        f"{numerics} {' '.join(f'{error:8.2f}' for error in row[f'{numerics}_ulp'])} ulp" for numerics in NUMERICS
    )
    verdict = f"{row['not_equal']} NOT EQUAL" if row["not_equal"] else "equal"
    return f"{name:36} {row['combinations']:4} options {row['cases']:5} cases   {errors}   {verdict}"


def version(package: str) -> str:
    """The version of an installed package; of one that is only on the path nobody knows it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def report(results: list[Result], missing: dict[str, str], cases: bool) -> Result:
    """All of it, with every case or without."""
    rows = summary(results)
    installed = {vendor: version(name) for vendor, name in PACKAGES.items() if vendor not in missing}
    beside = {name: sys.modules[name].__version__ for name in ("numpy", "tensorflow") if name in sys.modules}
    return {
        "python": sys.version.split()[0],
        "machine": f"{platform.system()} {platform.machine()}",
        "definitions": dict(VERSIONS),
        "installed": {**installed, **beside},
        "missing": missing,
        "losses": len(rows),
        "combinations": sum(row["combinations"] for row in rows),
        "not_equal": sum(row["not_equal"] for row in rows),
        "summary": rows,
        **({"cases": results} if cases else {}),
    }


def write(path: Path, value: Result) -> None:
    """As JSON, of which NaN and infinities are no part: by their names."""
    entries = (f"{json.dumps(key)}: {_text(entry)}" for key, entry in _plain(value).items())
    path.write_text("{\n" + ",\n".join(entries) + "\n}\n")


def _text(value: Any) -> str:
    """JSON, each row of a table on a line of its own."""
    if isinstance(value, list):
        return "[\n" + ",\n".join(json.dumps(row, allow_nan=False) for row in value) + "\n]"
    return json.dumps(value, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if value - value == 0 else str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)
