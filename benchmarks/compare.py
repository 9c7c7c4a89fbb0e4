"""How well `dualloss compare` names causes: every pair of losses with a known cause, and pairs with two at once.

    python benchmarks/compare.py            # writes docs/compare.md and the table of causes in docs/migration.md

The pairs are those of the tests (tests/compare_pairs.py, tests/compare_combinations.py).
"""

from __future__ import annotations

import collections
import platform
import sys
import time
from pathlib import Path

import torch  # noqa: F401  (before TensorFlow)

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from compare_combinations import combinations  # noqa: E402
from compare_pairs import PAIRS  # noqa: E402

from dualloss.check import compare  # noqa: E402
from dualloss.check.causes import CAUSES  # noqa: E402

BEGIN, END = "<!-- causes: written by nox -s causes -->", "<!-- end of the causes -->"

PAGE = """\
# How well causes are named

Written by `nox -s causes`; do not edit. Measured on {machine}, with {libraries}.

{total} pairs of losses with one known cause: named first in {first}, among the first three in {three}. {agree} pairs
that agree: {quiet} without a cause. {combined} pairs with two causes at once: both among the first three in {both}
({share:.0%}). A comparison took {median:.1f} s (median) here, {worst:.1f} s at most, without starting the frameworks.

## Confusion matrix

Rows: the cause that a pair has. Columns: what was named first.

{matrix}
## Pairs that agree

{quiet_table}
## Two causes at once

{combinations}"""


def table(header: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ("---",) * len(header), *lines)) + "\n"


def causes_table() -> str:
    """All causes, with both fixes' first lines."""
    lines: list[tuple[str, ...]] = []
    seen = set()
    for cause in CAUSES:
        if cause.number not in seen:
            seen.add(cause.number)
            lines.append((str(cause.number), cause.section, f"**{cause.title}.** {cause.text}", f"`{cause.name}`"))
    return table(("", "section", "cause", "name"), lines)


def main() -> int:
    """Compare every pair, and write the pages."""
    named = {cause.number: cause.name for cause in CAUSES}
    seconds = []
    found: dict[int, list[tuple[str, list[int]]]] = collections.defaultdict(list)
    agreeing: list[tuple[str, str]] = []
    missing = set()
    for pair in PAIRS:
        if pair.missing:
            missing |= set(pair.missing)
            print(f"left out: {pair.name} needs {', '.join(pair.missing)}")
            continue
        started = time.perf_counter()
        report = compare(*pair.built())
        seconds.append(time.perf_counter() - started)
        numbers = list(dict.fromkeys(f.cause.number for f in report.causes))
        if pair.causes:
            found[pair.causes[0]].append((pair.name, numbers))
        else:
            agreeing.append((pair.name, "none" if report.same else report.verdict))
        print(f"{pair.name}: {numbers[:3]}", flush=True)
    both: list[tuple[str, ...]] = []
    for pair in combinations():
        report = compare(*pair.built())
        numbers = list(dict.fromkeys(f.cause.number for f in report.findings))[:3]
        both.append((pair.name, ", ".join(named[n] for n in pair.causes), ", ".join(named[n] for n in numbers),
                     "yes" if set(pair.causes) <= set(numbers) else "**no**"))  # fmt: skip
        print(f"{pair.name}: {numbers}", flush=True)
    pairs = [(cause, name, numbers) for cause, rows in sorted(found.items()) for name, numbers in rows]
    first = sum(numbers[:1] == [cause] for cause, _, numbers in pairs)
    three = sum(cause in numbers[:3] for cause, _, numbers in pairs)
    quiet = sum(said == "none" for _, said in agreeing)
    whole = sum(line[-1] == "yes" for line in both)
    lines: list[tuple[str, ...]] = [
        (f"{cause}: {named[cause]}", f"`{name}`", named[numbers[0]] if numbers else "nothing",
         "" if numbers[:1] == [cause] else "**another**")
        for cause, name, numbers in pairs
    ]  # fmt: skip
    import importlib.metadata as metadata

    packages = ("torch", "tensorflow-cpu", "keras", "segmentation-models-pytorch", "monai", "kornia")
    versions = []
    for package in packages:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            print(f"{package} is not installed: its pairs are left out")
    text = PAGE.format(
        machine=f"{platform.machine()}, Python {platform.python_version()}", libraries=", ".join(versions),
        total=len(pairs), first=first, three=three, agree=len(agreeing), quiet=quiet, combined=len(both), both=whole,
        share=whole / len(both), median=sorted(seconds)[len(seconds) // 2], worst=max(seconds),
        matrix=table(("cause", "pair", "named first", ""), lines),
        quiet_table=table(("pair", "cause named"), [(f"`{name}`", said) for name, said in agreeing]),
        combinations=table(("pair", "causes", "first three named", "both"), both),
    )  # fmt: skip
    (ROOT / "docs" / "compare.md").write_text(text)
    page = ROOT / "docs" / "migration.md"
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{causes_table()}\n{END}{after}")
    print(f"\n{first} of {len(pairs)} causes named first, {quiet} of {len(agreeing)} agreeing pairs without a cause, "
          f"{whole} of {len(both)} combinations")  # fmt: skip
    return 0 if first == len(pairs) and quiet == len(agreeing) and whole >= 0.8 * len(both) else 1


if __name__ == "__main__":
    sys.exit(main())
