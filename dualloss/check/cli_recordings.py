"""The commands ``dualloss diff`` and ``dualloss check-recording``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Protocol

from ..recording import RecordingError


class Report(Protocol):
    """What the commands print."""

    @property
    def ok(self) -> bool:
        """Whether nothing differs."""

    def text(self) -> str:
        """The report for people."""

    def to_json(self) -> str:
        """The report for programs."""


def add_commands(commands: Any) -> None:
    """Add the commands to those of ``dualloss``: to what ``add_subparsers`` gave."""
    diff = commands.add_parser("diff", help="say what of two recorded trainings diverged first")
    diff.add_argument("a", type=Path, help="the folder of a recording")
    diff.add_argument("b", type=Path, help="the folder of another one, of either framework")
    diff.add_argument("--json", type=Path, metavar="FILE", help="also write the result there")
    diff.set_defaults(run=_diff)
    check = commands.add_parser(
        "check-recording", help="replay a recording through a spec, without the framework it comes from"
    )
    check.add_argument("recording", type=Path, help="the folder of a recording")
    check.add_argument("--spec", type=Path, metavar="FILE", help="the spec as JSON; default: the recording's own")
    check.add_argument("--reduction", choices=("mean", "sum", "none"), help="default: the recording's own, else mean")
    check.add_argument(
        "--ulp", type=float, help="up to which error, relative to the scale, both are the same (default 64)"
    )
    check.add_argument("--json", type=Path, metavar="FILE", help="also write the result there")
    check.set_defaults(run=_check)


def _diff(options: argparse.Namespace) -> int:
    from .diff import diff
    from .explain import explain

    try:
        report = diff(options.a, options.b, explain=explain)
    except RecordingError as error:
        return _failed(error)
    return _shown(report, options.json)


def _check(options: argparse.Namespace) -> int:
    from ..spec import from_json
    from .replay import ULP, check_recording

    spec = None
    if options.spec is not None:
        try:
            spec = from_json(options.spec.read_text())
        except (OSError, ValueError) as error:
            return _failed(f"--spec {options.spec}: {error}")
    try:
        report = check_recording(
            options.recording, spec, reduction=options.reduction, ulp=ULP if options.ulp is None else options.ulp
        )
    except RecordingError as error:
        return _failed(error)
    return _shown(report, options.json)


def _shown(report: Report, file: Path | None) -> int:
    print(report.text(), end="")
    if file is not None:
        file.write_text(report.to_json() + "\n")
    return 0 if report.ok else 1


def _failed(error: object) -> int:
    print(f"dualloss: {error}", file=sys.stderr)
    return 2
