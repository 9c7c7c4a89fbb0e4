"""Writes docs/terms.md, the table of the terms, from the registry: `nox -s terms`.

Formulas and options come from the docstrings of `dualloss.spec`, equivalents from the importers of
`dualloss.vendors`, errors from docs/accuracy.json (`nox -s accuracy -- --write`). With `--check` nothing is
written: it exits 1 if the page is not what would be.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
import textwrap
from dataclasses import fields
from pathlib import Path
from typing import Any

from dualloss import vendors
from dualloss.spec import TERMS, Term

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "terms.md"

HEAD = """\
# Terms

Written by `nox -s terms` from the registry, the importers and [accuracy.json](accuracy.md); do not edit. Bit by bit
the terms are defined in [numerics.md](numerics.md). Every term works in PyTorch, TensorFlow and NumPy, exact and
native. Errors are the largest measured, in float32 ulp: of the mean, and of the gradient relative to its largest
element ([how](accuracy.md)). Where a native error is in the millions, the loss itself is nearly nothing: the
frameworks' float32 log-softmax loses a confident cross-entropy (a loss below about 1e-7), and Focal with it. The last
column says where the gradient is zero, or undefined by the formula and set.

"""


def formula(term: type[Term]) -> str:
    """The first indented block of the docstring."""
    lines = inspect.cleandoc(term.__doc__ or "").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("    "))
    stop = next((i for i in range(start, len(lines)) if lines[i] and not lines[i].startswith("    ")), len(lines))
    return textwrap.dedent("\n".join(lines[start:stop])).strip()


def axes(term: type[Term]) -> str:
    """The numbers of spatial axes that the term takes."""
    if term.about_weights:
        return "weights"
    taken = []
    for spatial in range(5):
        try:
            term().check_layout(channels=3, spatial=spatial)
        except ValueError:
            continue
        taken.append(spatial)
    return f"{taken[0]}-D to {taken[-1]}-D" if taken[-1] < 4 else "any"


def options(term: type[Term]) -> list[tuple[str, str, str]]:
    """Name, default and description of every option; the description from the nearest docstring that has one."""
    found = []
    for option in fields(term):
        texts = (described(cls, option.name) for cls in term.__mro__ if issubclass(cls, Term))
        found.append((option.name, repr(option.default), next(filter(None, texts), "")))
    return found


def described(cls: type[Term], name: str) -> str:
    """What a docstring says of an option: the entry `name: ...` and the lines below that are indented more."""
    lines = iter(inspect.cleandoc(cls.__dict__.get("__doc__") or "").splitlines())
    for line in lines:
        entry = re.match(r"( *)((?:\w+, )*\w+): (.*)", line)
        if entry and name in entry[2].split(", "):
            text = [entry[3]]
            for more in lines:
                if not more.startswith(entry[1] + "    "):
                    break
                text.append(more.strip())
            return " ".join(text)
    return ""


def equivalents(term: str) -> list[Any]:
    """The other libraries' losses that are imported as this term."""
    return [row for row in vendors.ROWS.values() if term in row.terms]


def number(value: float | None) -> str:
    """Three digits."""
    return "" if value is None else f"{value:.3g}"


def page() -> str:
    """The whole page."""
    errors = json.loads((DOCS / "accuracy.json").read_text())
    lines = [
        HEAD + "| term | input axes | equivalents | exact: loss, gradient | native torch | native TF | zero gradient |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, term in sorted(TERMS.items()):
        known = dict.fromkeys(f"{row.vendor} `{row.name}`" for row in equivalents(name))
        measured = []
        for numerics in ("exact", "native torch", "native tf"):
            row = errors.get(name, {}).get(numerics, {})
            measured.append(f"{number(row.get('mean'))}, {number(row.get('gradient'))}" if row else "")
        cells = [f"[`{name}`](#{name.lower()})", axes(term), ", ".join(known), *measured, term.zero_gradient]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    for name, term in sorted(TERMS.items()):
        summary = inspect.cleandoc(term.__doc__ or "").split("\n\n")[0]
        lines += ["", f"## {name}", "", " ".join(summary.split()), "", "```", formula(term), "```", ""]
        if rows := options(term):
            lines += ["| option | default | |", "|---|---|---|"]
            lines += [f"| `{n}` | `{default}` | {text.replace('|', chr(92) + '|')} |" for n, default, text in rows]
        for row in equivalents(name):
            held = f", for {row.holds}" if row.holds else ""
            lines += ["", " ".join([f"- {row.vendor} {row.version} `{row.name}`{held}.", *row.notes])]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


def main() -> int:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is out of date")
    given = parser.parse_args()
    text = page()
    if given.check:
        same = PAGE.exists() and PAGE.read_text() == text
        print("docs/terms.md is up to date" if same else "docs/terms.md is out of date: run nox -s terms")
        return 0 if same else 1
    PAGE.write_text(text)
    print(f"{len(TERMS)} terms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
