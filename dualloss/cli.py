"""The command line: ``dualloss parity | exhaustive | gpu | compare | diff | check-recording``."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .check import cli_compare, cli_recordings

if TYPE_CHECKING:
    from .parity.runner import Report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0 only if everything it checked holds."""
    parser = _parser()
    options = parser.parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    try:
        import rich  # noqa: F401
    except ImportError:
        print(
            "dualloss: the command line needs rich, of the extra cli: pip install '.[cli]' in a clone", file=sys.stderr
        )
        return 2
    result: int = options.run(options)
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dualloss", description="One loss, two frameworks, the same bits.")
    commands = parser.add_subparsers(required=True, metavar="command")
    parity = commands.add_parser("parity", help="compare every engine bit for bit, and print a table")
    _parity_options(parity)
    parity.set_defaults(run=_parity)
    scan = commands.add_parser("exhaustive", help="check exp and log1p of every engine on every argument")
    scan.set_defaults(run=_exhaustive)
    gpu = commands.add_parser("gpu", help="parity, exhaustive scans and timings on every device here, in one call")
    _parity_options(gpu)
    gpu.set_defaults(run=_gpu)
    cli_compare.add_command(commands)
    cli_recordings.add_commands(commands)
    return parser


def _parity_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--terms", help="only these groups, comma-separated, such as total_loss,boundary")
    parser.add_argument("--engines", help="only engines whose names contain one of these, comma-separated")
    parser.add_argument(
        "--every", type=int, metavar="N", help="every N-th configuration beside those for compiled engines (default 4)"
    )
    parser.add_argument("--full", action="store_true", help="every configuration on every engine: hours")
    parser.add_argument("--python-torch", metavar="PATH", help="the interpreter that has torch, if it is another one")
    parser.add_argument("--python-tf", metavar="PATH", help="the interpreter that has TensorFlow, if it is another one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result there")


def _parity(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from .parity import cases, runner

    console = Console()
    chosen = cases.configs()
    if options.terms:
        groups = [part.strip() for part in options.terms.split(",")]
        known = sorted({config.term for config in chosen})
        for group in groups:
            if group not in known:
                console.print(f"--terms has {group!r}, expected some of {', '.join(known)}", markup=False)
                return 2
        chosen = [config for config in chosen if config.term in groups]
    every = 1 if options.full else 4 if options.every is None else options.every
    if every < 1:
        console.print(f"--every is {every}, expected at least 1", markup=False)
        return 2
    chosen = [config for index, config in enumerate(chosen) if index % every == 0 or config.compiled]
    others = {f: p for f, p in (("torch", options.python_torch), ("tf", options.python_tf)) if p}
    for python in others.values():
        if shutil.which(python) is None:
            console.print(f"there is no interpreter {python!r}", markup=False)
            return 2
    engines, missing = runner.here_or_elsewhere(others)
    if options.engines:
        parts = [part.strip() for part in options.engines.split(",")]
        engines = [engine for engine in engines if any(part in engine.name for part in parts)]
        if not engines:
            console.print(f"--engines {options.engines!r} names no engine that is here", markup=False)
            return 2
    columns = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=len(chosen))
        report = runner.run(
            chosen, engines, compile_all=options.full, others=others,
            progress=lambda text, steps: bar.update(task, description=text[:60], advance=steps),
        )  # fmt: skip
    report.missing[:0] = missing
    show(report, console)
    if options.json:
        options.json.write_text(json.dumps(as_json(report), indent=2) + "\n")
    return 0 if report.ok else 1


def show(report: Report, console: Any) -> None:
    """Print the tables, what is missing, every difference, and the count of comparisons."""
    from rich.table import Table

    table = Table(title="Bits compared with the NumPy engine")
    for name, justify in (("engine", "left"), ("cases", "right"), ("comparisons", "right"), ("elements", "right"),
                          ("differing", "right"), ("seconds", "right")):  # fmt: skip
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for name, tally in report.tallies.items():
        wrong = len(tally.differences) + len(tally.errors)
        table.add_row(
            name, f"{tally.cases:,}", f"{tally.comparisons:,}", f"{tally.elements:,}" if tally.elements else "",
            str(wrong), f"{tally.seconds:.1f}", style="bold red" if wrong else "",
        )  # fmt: skip
    console.print(table)
    terms = Table(title="By term")
    for name in ("term", "comparisons", "differing"):
        terms.add_column(name, justify="left" if name == "term" else "right")
    for term, (comparisons, differing) in report.terms.items():
        terms.add_row(term, f"{comparisons:,}", str(differing), style="bold red" if differing else "")
    console.print(terms)
    for line in report.missing:
        console.print(f"not run: {line}", markup=False, soft_wrap=True)
    for failure in (*report.errors, *report.differences):
        console.print(str(failure), markup=False, soft_wrap=True, style="red")
    differing = len(report.differences) + len(report.errors)
    console.print(f"{report.comparisons:,} comparisons, {differing} differing", markup=False)


def as_json(report: Report) -> dict[str, Any]:
    """The report for a file."""
    return {
        "comparisons": report.comparisons,
        "ok": report.ok,
        "missing": report.missing,
        "engines": {
            name: {
                "cases": t.cases,
                "comparisons": t.comparisons,
                "elements": t.elements,
                "seconds": round(t.seconds, 3),
                "differences": [str(d) for d in t.differences],
                "errors": t.errors,
            }
            for name, t in report.tallies.items()
        },
    }


def _exhaustive(options: argparse.Namespace) -> int:
    from rich.console import Console

    from .parity import exhaustive

    console = Console()
    ok = True
    for row in exhaustive.scan():
        ok &= row.ok
        console.print(str(row), markup=False, highlight=False, soft_wrap=True, style="" if row.ok else "red")
    return 0 if ok else 1


def _gpu(options: argparse.Namespace) -> int:
    from rich.console import Console

    from .parity import timing

    console = Console()
    for line in timing.devices():
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    status = _exhaustive(options) | _parity(options)
    for line in timing.total_loss():
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
