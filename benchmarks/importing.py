"""Fills in the tables of docs/importing.md from the importers: `nox -s terms`.

What holds and what differs comes from `dualloss.vendors.ROWS`, measurements from docs/vendors.json (`nox -s vendors --
--summary docs/vendors.json`). With `--check` nothing is written: it exits 1 if the page is not what would be.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from dualloss.vendors import REFUSED, ROWS, Row

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "importing.md"
MARK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

Measured = dict[tuple[str, str], dict[str, Any]]


def cell(text: str) -> str:
    """Text in a table."""
    return text.replace("|", "\\|")


def losses(vendor: str, measured: Measured) -> list[str]:
    """The losses of a library: a table, and below it where they differ."""
    rows = [row for row in ROWS.values() if row.vendor == vendor]
    lines = [
        "| loss | becomes | equal for | options, cases | exact: value, gradient | native: value, gradient |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        found = measured.get((vendor, row.name))
        numbers = ["", "", ""]
        if found:
            numbers[0] = f"{found['combinations']}, {found['cases']}"
            numbers[1:] = (", ".join(f"{e:.2g}" for e in found[f"{kind}_ulp"]) for kind in ("exact", "native"))
        terms = ", ".join(f"[`{term}`](terms.md#{term.lower()})" for term in row.terms)
        lines.append("| " + " | ".join([f"`{row.name}`", terms, cell(row.holds), *numbers]) + " |")
    return [*lines, "", *edges(rows)]


def edges(rows: list[Row]) -> list[str]:
    """Every note, and the losses that it is of."""
    notes: dict[str, list[str]] = {}
    for row in rows:
        for note in row.notes:
            notes.setdefault(note, []).append(row.name)
    owners = {note: "All" if len(of) == len(rows) else ", ".join(f"`{n}`" for n in of) for note, of in notes.items()}
    return [f"- {owners[note]}: {note}" for note in sorted(notes, key=lambda note: -len(notes[note]))]


def refused() -> list[str]:
    """The losses that cannot be imported."""
    lines = ["| loss | why |", "|---|---|"]
    for why in REFUSED.values():
        label, _, reason = why.partition(": ")
        lines.append(f"| `{label}` | {cell(reason)} |")
    return lines


def page(text: str) -> str:
    """The page with its tables filled in."""
    report = json.loads((DOCS / "vendors.json").read_text())
    measured = {(row["vendor"], row["loss"]): row for row in report["summary"]}

    def table(match: re.Match[str]) -> str:
        name = match[2]
        lines = refused() if name == "refused" else total(report) if name == "total" else losses(name, measured)
        return match[1] + "\n".join(lines) + "\n" + match[3]

    return MARK.sub(table, text)


def total(report: dict[str, Any]) -> list[str]:
    """What was run in all."""
    cases = sum(row["cases"] for row in report["summary"])
    versions = ", ".join(f"{name} {version}" for name, version in report["installed"].items())
    return [
        f"{report['losses']} losses, {report['combinations']:,} combinations of options, {cases:,} cases, "
        f"{report['not_equal']} out of bounds ({versions}; Python {report['python']}, {report['machine']})."
    ]


def main() -> int:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is out of date")
    given = parser.parse_args()
    before = PAGE.read_text()
    after = page(before)
    if given.check:
        print("docs/importing.md is " + ("up to date" if after == before else "out of date: run nox -s terms"))
        return int(after != before)
    PAGE.write_text(after)
    print(f"{len(ROWS)} losses")
    return 0


if __name__ == "__main__":
    sys.exit(main())
