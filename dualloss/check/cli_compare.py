"""`dualloss compare`: two losses, and why they differ."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, get_args

from .case import Activation, Case, Feed, Framework, Inputs, Layout, Order, Side, Targets, Weights

EPILOG = """\
A and B: module:expression, such as torch.nn:CrossEntropyLoss(label_smoothing=0.1) or my_package.losses:total_loss; or a
file with a spec, as Spec.to_json writes it. Each loss runs in a process of its own. Exit status: 0 they agree, 1 they
differ, 2 they could not be compared.
"""


def add_command(commands: Any) -> None:
    """Add it to the commands of `dualloss`."""
    parser = commands.add_parser(
        "compare", help="call two losses on the same batches, and say why they differ", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("a", metavar="A")
    add("b", metavar="B")
    add(
        "--classes",
        type=int,
        default=3,
        metavar="C",
        help="classes or channels; 0: inputs without an axis for them (default 3)",
    )
    add("--spatial", type=_sizes, default=(), metavar="HxW", help="spatial axes, such as 64x64 (default: none)")
    add("--batch", type=int, default=4, metavar="B", help="samples (default 4)")
    add("--targets", choices=get_args(Targets), default="index", help="what the data has (default index)")
    add("--inputs", choices=get_args(Inputs), default="logits", help="what the losses are given (default logits)")
    add("--ignore-index", type=int, metavar="K", help="a label that both leave out")
    add("--weights", choices=get_args(Weights), default="none", help="whether both take sample weights (default none)")
    add("--replicas", type=int, default=1, metavar="N", help="over how many replicas the losses would run")
    add("--seed", type=int, default=0)
    add(
        "--timeout", type=float, default=20.0, metavar="S", help="seconds that a loss may take for a batch (default 20)"
    )
    for side in "ab":
        group = parser.add_argument_group(f"how {side} is called")
        add = group.add_argument
        add(f"--activation-{side}", choices=get_args(Activation), default="none", help="the last layer of its model")
        add(f"--targets-{side}", choices=get_args(Feed), default="auto", help="class indices, or one-hot")
        add(f"--layout-{side}", choices=get_args(Layout), default="auto", help="channels on axis 1 (first), or last")
        add(f"--order-{side}", choices=get_args(Order), default="auto", help="which argument comes first")
        add(f"--framework-{side}", choices=get_args(Framework), default="auto")
        add(f"--python-{side}", metavar="PATH", help="the interpreter that has its framework")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report there")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page there")
    parser.set_defaults(run=_compare)


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.lower().split("x") if part)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 64x64") from None


def _compare(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from .compare import compare

    console = Console()
    try:
        sides = {
            side: Side(**{
                name: getattr(options, f"{name}_{side}")
                for name in ("activation", "targets", "layout", "order", "framework")
            })
            for side in "ab"
        }  # fmt: skip
        case = Case(
            classes=options.classes or None, spatial=options.spatial, batch=options.batch, targets=options.targets,
            inputs=options.inputs, ignore_index=options.ignore_index, weights=options.weights,
            replicas=options.replicas, seed=options.seed, **sides,
        )  # fmt: skip
    except ValueError as error:
        print(f"dualloss compare: {error}", file=sys.stderr)
        return 2
    columns = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)
        report = compare(
            options.a, options.b, case, timeout=options.timeout, python_a=options.python_a, python_b=options.python_b,
            progress=lambda text, done, total: bar.update(task, description=text, completed=done, total=total),
        )  # fmt: skip
    console.print(report.text(), markup=False, highlight=False, soft_wrap=True)
    if options.json:
        options.json.write_text(json.dumps(report.to_json(), indent=2) + "\n")
    if options.html:
        report.to_html(options.html)
        console.print(f"written: {options.html}", markup=False, highlight=False)
    return report.exit_code
