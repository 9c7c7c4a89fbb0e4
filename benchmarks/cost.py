"""What the loss costs: time and memory of loss and gradient, against plain code, and the targets for both.

Every size and framework has a process of its own. In it, for each mode (PyTorch eager and compiled; TensorFlow eager,
graph, XLA and Keras' training step) three losses take turns on the same batch, so that what else the machine does
meets all alike: `plain`, the terms as people write them (benchmarks/plain.py); `native`, `Loss(spec,
numerics="native")`; and `exact`, `Loss(spec)`; beside them, of total_loss, `peer`, a composition of libraries. Peak
memory is that of one step in a fresh process. The demo's share is that of the loss in a training step of its U-Net.

    python benchmarks/cost.py                       # everything; writes docs/performance.{json,md} and the plots
    python benchmarks/cost.py --size 4x21x128x128   # one size, printed only
    python benchmarks/cost.py --check               # exit status 1 if a target is missed
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from plain import DEMOS, MODES, SPECS, STEPS, Size, Step, elements

from dualloss import __version__

DOCS = Path(__file__).parents[1] / "docs"
MODULES = {"torch": "torch", "tf": "tensorflow"}
PACKAGES = (
    "numpy", "torch", "tensorflow", "tensorflow-cpu", "keras", "llvmlite", "segmentation-models-pytorch", "kornia",
)  # fmt: skip
SIZES = ("4x21x128x128", "8x19x256x256", "1x150x512x512", "16x2x512x512", "2x4x64x96x96")
POSITIONS = tuple(f"1x21x{n}x{n}" for n in (32, 64, 128, 256, 512))
CLASSES = tuple(f"1x{n}x128x128" for n in (2, 5, 20, 60, 200))

TARGETS = (
    ("torch", "eager", "exact", "eager", 0.5),
    ("torch", "compile", "exact", "compile", 0.5),
    ("tf", "eager", "exact", "graph", 1.0),
    ("tf", "graph", "exact", "graph", 1.0),
    ("tf", "fit", "exact", "graph", 1.0),
    ("tf", "XLA", "exact", "XLA", 0.15),
    ("torch", "eager", "native", "eager", 0.5),
    ("torch", "compile", "native", "compile", 0.5),
    ("tf", "eager", "native", "eager", 0.5),
    ("tf", "graph", "native", "graph", 0.5),
    ("tf", "XLA", "native", "XLA", 0.5),
)
"""Framework, mode and loss; the mode whose plain code it is compared with; the largest ratio of medians."""
MEMORY_TARGET = 0.4
DEMO_TARGET = 0.03
DEMO = "8x11x64x64"
"""The size of the demo's batches."""

Row = dict[str, Any]


def measure(steps: dict[str, Step], budget: float) -> dict[str, Row]:
    """First calls, then timings of each in turns: at least 5 rounds, then until the budget, in seconds, is spent."""
    found: dict[str, Row] = {}
    running: dict[str, Step] = {}
    values = {}
    for name, step in steps.items():
        started = time.perf_counter()
        try:
            values[name] = step()
        except Exception as error:  # a mode may be missing here: torch.compile without a C++ compiler
            found[name] = {"error": f"{type(error).__name__}: {error}"[:300]}
            continue
        found[name] = {"first": 1e3 * (time.perf_counter() - started), "times": []}
        running[name] = step
        step()
    for name, value in values.items():
        if "plain" in values and name != "kernel" and not np.isclose(value, values["plain"], rtol=1e-4):
            raise AssertionError(f"{name} is {value}, plain {values['plain']}: they compute different losses")
    started = time.perf_counter()
    rounds = 0
    while rounds < 5 or (rounds < 50 and time.perf_counter() - started < budget):
        for name, step in running.items():
            before = time.perf_counter()
            step()
            found[name]["times"].append(1e3 * (time.perf_counter() - before))
        rounds += 1
    for row in found.values():
        if "times" in row:
            quartiles = statistics.quantiles(row.pop("times"), n=4, method="inclusive")
            row |= dict(zip(("lower", "median", "upper"), quartiles, strict=True), rounds=rounds)
    return found


def work(options: argparse.Namespace) -> list[Row]:
    """The rows of one framework, loss and size: this is what a process does."""
    framework, loss, where = options.work, options.loss, options.size
    modes = tuple(options.modes.split(","))
    rows = []
    for mode, steps in STEPS[framework](loss, where, modes):
        chosen = {name: step for name, step in steps.items() if name in options.losses.split(",")}
        for name, found in measure(chosen, options.budget).items():
            rows.append({"framework": framework, "mode": mode, "loss": loss, "numerics": name, **found})
    return rows


def demo(options: argparse.Namespace) -> list[Row]:
    """What a step of the demo's training takes, and the loss alone."""
    found = measure(dict(DEMOS[options.demo]()), options.budget)
    return [{"framework": options.demo, "what": name, **row} for name, row in found.items()]


def peak(options: argparse.Namespace) -> list[Row]:
    """The memory that a step takes beyond what there was before it, in MiB; compilers have run on a smaller batch."""
    small = (1, options.size[1], *[16] * (len(options.size) - 2))
    ((_, warm),) = STEPS[options.peak](options.loss, small, (options.modes,))
    warm[options.losses]()
    ((_, steps),) = STEPS[options.peak](options.loss, options.size, (options.modes,))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is held now
    before = _status("VmRSS")
    steps[options.losses]()
    return [{"mode": options.modes, "numerics": options.losses, "memory": (_status("VmHWM") - before) / 1024}]


def _status(name: str) -> int:
    """A line of the kernel's account of this process, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def process(kind: str, framework: str, loss: str, where: str, modes: str, losses: str, budget: float) -> list[Row]:
    """What a process of its own finds."""
    command = [sys.executable, __file__, kind, framework, "--loss", loss, "--size", where, "--modes", modes]
    environment = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    command += ["--losses", losses, "--budget", str(budget)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"the process of {framework} on {where} ended with exit status {done.returncode}")
    rows: list[Row] = json.loads(done.stdout.splitlines()[-1])
    return [{"size": where, **row} for row in rows]


def machine() -> dict[str, Any]:
    """What the times depend on."""
    cpu = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = [line for line in information.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": cpu, "cores": cores, "system": platform.platform()}


def versions() -> dict[str, str]:
    """Of dualloss, Python and the packages that matter, as far as they are installed."""
    found = {"dualloss": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def bandwidth() -> float:
    """GB/s of a copy that no cache holds, read and written bytes together; the best of some."""
    source = np.ones(1 << 26, np.float32)
    target = np.empty_like(source)
    best = 0.0
    for _ in range(5):
        before = time.perf_counter()
        np.copyto(target, source)
        best = max(best, 2 * source.nbytes / (time.perf_counter() - before) / 1e9)
    return best


def find(rows: list[Row], **wanted: str) -> Row | None:
    """The row with these properties that has a median."""
    return next((r for r in rows if "median" in r and all(r[k] == v for k, v in wanted.items())), None)


def verdicts(report: Row) -> list[Row]:
    """The targets, for every size that was measured."""
    found = []
    for framework, mode, numerics, against, limit in TARGETS:
        for where in report["sizes"]:
            base: Row = {"size": where, "framework": framework, "loss": "total_loss"}
            ours = find(report["rows"], **base, mode=mode, numerics=numerics)
            plain = find(report["rows"], **base, mode=against, numerics="plain")
            if ours and plain:
                ratio = ours["median"] / plain["median"]
                name = f"{framework} {mode}, {numerics}, against plain {against}"
                verdict = {"target": name, "size": where, "ratio": ratio, "limit": limit, "met": ratio <= limit}
                alone = find(report["rows"], **base, mode=against, numerics="kernel")
                found.append(verdict | ({"floor": alone["median"] / plain["median"]} if alone else {}))
    for where in report["sizes"]:
        memory = {r["numerics"]: r["memory"] for r in report["memory"] if r["size"] == where}
        if {"exact", "plain"} <= set(memory):
            ratio = memory["exact"] / memory["plain"]
            name = "peak extra memory, torch eager, exact, against plain eager"
            met = ratio <= MEMORY_TARGET
            found.append({"target": name, "size": where, "ratio": ratio, "limit": MEMORY_TARGET, "met": met})
    for framework in dict.fromkeys(row["framework"] for row in report["demo"]):
        medians = demo_medians(report, framework)
        name, ratio = f"share of the demo's training step, {framework}, exact", medians["loss"] / medians["step"]
        verdict = {"target": name, "size": SIZES[0], "ratio": ratio, "limit": DEMO_TARGET, "met": ratio <= DEMO_TARGET}
        floor = {"floor": medians["kernel"] / medians["step"]} if "kernel" in medians else {}
        found.append(verdict | floor)
    return found


def demo_medians(report: Row, framework: str) -> dict[str, float]:
    """Milliseconds of a step of the demo, of the loss in it, and of the kernel alone."""
    return {row["what"]: float(row["median"]) for row in report["demo"] if row["framework"] == framework}


def markdown(header: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """A table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ("---",) * len(header), *lines)) + "\n"


def targets_table(report: Row) -> str:
    """A row for each target, a column for each size."""
    found = verdicts(report)
    lines = []
    for name in dict.fromkeys(v["target"] for v in found):
        of = {v["size"]: v for v in found if v["target"] == name}
        limit = next(iter(of.values()))["limit"]
        cells = [f"{of[s]['ratio']:.2f}{'' if of[s]['met'] else ' ✗'}" if s in of else "" for s in report["sizes"]]
        lines.append((name, f"{limit:g}", *cells))
    return markdown(("ratio of medians", "target", *report["sizes"]), lines)


def times_table(report: Row, where: str) -> str:
    """All that was measured of total_loss on one size."""
    lines: list[tuple[str, ...]] = []
    for row in report["rows"]:
        if row["size"] == where and row["loss"] == "total_loss":
            name = (row["framework"], row["mode"], row["numerics"])
            if "error" in row:
                lines.append((*name, "failed", "", ""))
                continue
            quartiles = f"{row['lower']:.1f} to {row['upper']:.1f}"
            lines.append((*name, f"{row['median']:.1f}", quartiles, f"{row['first'] / 1e3:.1f}"))
    return markdown(("framework", "mode", "loss", "median ms", "quartiles", "first call, s"), lines)


SINGLE = (("torch", "eager"), ("torch", "compile"), ("tf", "graph"), ("tf", "XLA"))
"""Where the other hot terms are measured."""


def terms_table(report: Row) -> str:
    """The other hot terms, each against its plain code in the same mode."""
    lines = []
    for loss in SPECS:
        cells = []
        for framework, mode in SINGLE:
            base = {"framework": framework, "mode": mode, "loss": loss, "size": SIZES[0]}
            plain, exact = (find(report["rows"], **base, numerics=n) for n in ("plain", "exact"))
            cells.append(
                f"{plain['median']:.1f}, {exact['median']:.1f}: {exact['median'] / plain['median']:.2f}"
                if plain and exact
                else ""
            )
        if any(cells):
            lines.append((f"`{SPECS[loss]}`", *cells))
    header = ("plain ms, exact ms: ratio", *(f"{framework} {mode}" for framework, mode in SINGLE))
    return markdown(header, lines)


FLOORS = """\
## What is missed, and why

`kernel alone` is the compiled kernel called in the same turns with its gradient in memory that is there already: it
reads the logits, writes the gradient and does nothing else, so no arrangement of the code around it gets below. What
lies between: memory for the gradient that the system hands out page by page; under torch.compile one more pass for the
upstream gradient, which a compiled graph cannot leave out (an operator may not return its input), while eager mode and
TensorFlow leave it out where that is 1; and the calls themselves.
"""

PAGE = """\
# What exactness costs

Written by `nox -s bench`; do not edit. One run on {machine};
{versions}.

Forward and backward of
`total_loss` (cross-entropy plus half the boundary term), float32 logits, class indices as targets, medians; all losses
of a mode took turns in one process, with OMP_WAIT_POLICY=PASSIVE: without it PyTorch's idle threads spin, and plain
code takes many times as long as soon as anything else runs. Compare within a row; on another machine run it again.
`plain` is the code that people write by hand, `peer` what they compose of libraries: segmentation-models-pytorch's
cross-entropy and kornia's filter, or Keras' own losses and a convolution. A first call compiles what those before it
have not compiled: native and exact numerics share a kernel.

With llvmlite installed (the extra `fast`) one pass of a kernel that is compiled for your CPU computes the exact loss;
without it, and for what kernels do not cover, the array engine does, which takes many times as long.

## The targets

{targets}
✗: missed. {demo}
`fit` is one `train_on_batch` of a Keras model with one weight, the optimizer included, compiled as Keras does by
default. Peak extra memory is what a step adds to the process, the gradient included: at {first} {memory}.

{floors}## 4x21x128x128

{times}
![Time of total_loss against plain code](performance-bars.png)

## Other terms, 4x21x128x128

{terms}
## Growth

Against the time that reading the logits and writing the gradient once takes at the {bandwidth:.1f} GB/s of a copy:

![Time against size](performance-size.png)

{growth}"""


def growth_table(report: Row) -> str:
    """Time for each element over the sizes."""
    lines = []
    for where in (*POSITIONS, *CLASSES):
        row = find(report["rows"], size=where, framework="torch", mode="eager", numerics="exact")
        plain = find(report["rows"], size=where, framework="torch", mode="eager", numerics="plain")
        if row and plain:
            number = elements(parse_size(where))
            each = [f"{r['median']:.2f} ms, {1e6 * r['median'] / number:.1f} ns" for r in (row, plain)]
            lines.append((where, f"{number:,}", *each))
    return markdown(("size", "elements", "exact: time, for each element", "plain"), lines)


def demo_line(report: Row) -> str:
    """How long the demo's steps take."""
    parts = []
    for framework in dict.fromkeys(row["framework"] for row in report["demo"]):
        medians = demo_medians(report, framework)
        kernel = f" (the kernel alone {medians['kernel']:.1f} ms)" if "kernel" in medians else ""
        parts.append(f"{framework} {medians['loss']:.1f} of {medians['step']:.0f} ms{kernel}")
    if not parts:
        return ""
    return f"The demo trains on {DEMO}; its loss takes, after all else that a step does, {', '.join(parts)}."


def floors_table(report: Row) -> str:
    """What was missed, beside what the kernel alone takes."""
    lines: list[tuple[str, ...]] = [
        (
            v["target"],
            DEMO if "demo" in v["target"] else v["size"],
            f"{v['limit']:g}",
            f"{v['ratio']:.3f}",
            f"{v['floor']:.3f}" if "floor" in v else "",
        )
        for v in verdicts(report)
        if not v["met"]
    ]
    if not lines:
        return ""
    return FLOORS + "\n" + markdown(("missed", "size", "target", "ratio", "the kernel alone"), lines) + "\n"


def write(report: Row) -> None:
    """The page, its data and its plots."""
    (DOCS / "performance.json").write_text(json.dumps(report, indent=1) + "\n")
    plots(report)
    where = report["machine"]
    named = ", ".join(f"{package} {version}" for package, version in report["versions"].items())
    memory = [f"{r['memory']:.0f} MiB {r['numerics']}" for r in report["memory"] if r["size"] == SIZES[0]]
    text = PAGE.format(
        machine=f"{where['cpu']}, {where['cores']} cores, {where['system']}",
        versions=named,
        targets=targets_table(report),
        floors=floors_table(report),
        times=times_table(report, SIZES[0]),
        terms=terms_table(report),
        bandwidth=report["bandwidth"],
        growth=growth_table(report),
        first=SIZES[0],
        demo=demo_line(report),
        memory=", ".join(memory),
    )
    (DOCS / "performance.md").write_text(text)


def plots(report: Row) -> None:
    """Bars against plain code, and time against size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [r for r in report["rows"] if r["size"] == SIZES[0] and r["loss"] == "total_loss" and "median" in r]
    modes = list(dict.fromkeys((r["framework"], r["mode"]) for r in rows))
    figure, axes = pyplot.subplots(figsize=(9, 4.5), layout="constrained")
    for k, numerics in enumerate(("peer", "plain", "native", "exact")):
        of = {(r["framework"], r["mode"]): r for r in rows if r["numerics"] == numerics}
        places = [i + 0.21 * (k - 1.5) for i, mode in enumerate(modes) if mode in of]
        axes.bar(places, [of[mode]["median"] for mode in modes if mode in of], 0.2, label=numerics)
    axes.set_xticks(range(len(modes)), [" ".join(mode) for mode in modes])
    axes.set(yscale="log", ylabel="ms, forward and backward", title=f"total_loss, {SIZES[0]}")
    axes.legend()
    figure.savefig(DOCS / "performance-bars.png", dpi=100)

    figure, both = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained", sharey=True)
    for axes, sizes, label in zip(
        both, (POSITIONS, CLASSES), ("positions, 21 classes", "classes, 128x128"), strict=True
    ):
        for numerics in ("plain", "exact"):
            found = {s: find(report["rows"], size=s, mode="eager", numerics=numerics) for s in sizes}
            points = [(elements(parse_size(s)), r["median"]) for s, r in found.items() if r]
            axes.plot(*zip(*points, strict=True), "o-", label=f"{numerics}, torch eager")
        numbers = [elements(parse_size(s)) for s in sizes]
        axes.plot(numbers, [8e-6 * n / report["bandwidth"] for n in numbers], "k--", label="copy of the logits")
        axes.set(xscale="log", yscale="log", xlabel=f"elements ({label})", ylabel="ms, forward and backward")
        axes.legend()
    figure.savefig(DOCS / "performance-size.png", dpi=100)


def parse_size(text: str) -> Size:
    """The numbers of `4x21x128x128`."""
    numbers = tuple(int(part) for part in text.split("x"))
    if len(numbers) not in (4, 5) or min(numbers) < 1:
        raise ValueError(text)
    return numbers


def main() -> int:
    """Run the benchmark."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--size", type=parse_size, help="only this one, such as 4x21x128x128, and nothing is written")
    add("--check", action="store_true", help="exit with 1 if a target is missed")
    add("--budget", type=float, default=4.0, help="seconds for the rounds of a mode (default: 4)")
    add("--work", choices=STEPS, help=argparse.SUPPRESS)
    add("--peak", choices=STEPS, help=argparse.SUPPRESS)
    add("--demo", choices=DEMOS, help=argparse.SUPPRESS)
    add("--loss", default="total_loss", help=argparse.SUPPRESS)
    add("--modes", help=argparse.SUPPRESS)
    add("--losses", default="plain,native,exact", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for part in (work, peak, demo):
        if getattr(options, part.__name__):
            print(json.dumps(part(options)))
            return 0

    sizes = SIZES if options.size is None else ("x".join(map(str, options.size)),)
    report: Row = {"machine": machine(), "versions": versions(), "sizes": sizes, "rows": [], "memory": [], "demo": []}
    print(", ".join(f"{key} {value}" for key, value in {**report["machine"], **report["versions"]}.items()))
    here = [framework for framework in STEPS if importlib.util.find_spec(MODULES[framework]) is not None]
    for name in (*(MODULES[framework] for framework in STEPS), "segmentation_models_pytorch", "kornia"):
        if importlib.util.find_spec(name) is None:
            print(f"{name} is not installed: left out")
    report["bandwidth"] = bandwidth()

    def run(framework: str, loss: str, where: str, modes: str, losses: str) -> None:
        report["rows"] += process("--work", framework, loss, where, modes, losses, options.budget)

    for where in sizes:
        for framework in here:
            print(f"{framework}, {where}", flush=True)
            run(framework, "total_loss", where, ",".join(MODES[framework]), "plain,native,exact,peer,kernel")
        if "torch" in here and Path("/proc/self/clear_refs").exists():
            for numerics in ("plain", "exact"):
                report["memory"] += process("--peak", "torch", "total_loss", where, "eager", numerics, 0)
    if options.size is None:
        for framework in here:
            print(f"{framework}, demo", flush=True)
            report["demo"] += process("--demo", framework, "total_loss", SIZES[0], "", "", options.budget)
        for framework, mode in SINGLE:
            for loss in SPECS:
                if framework in here and loss != "total_loss":
                    print(f"{framework}, {loss}", flush=True)
                    run(framework, loss, SIZES[0], mode, "plain,exact")
        for where in (*POSITIONS, *CLASSES):
            if "torch" in here:
                print(f"growth, {where}", flush=True)
                run("torch", "total_loss", where, "eager", "plain,exact")
        write(report)
    for where in sizes:
        print(f"\n{where}\n\n{times_table(report, where)}")
    print(targets_table(report))
    missed = [v for v in verdicts(report) if not v["met"]]
    failed = [row for row in report["rows"] if "error" in row]
    for row in failed:
        print(f"{row['framework']} {row['mode']} {row['numerics']} on {row['size']} failed: {row['error']}")
    print(f"{len(missed)} of {len(verdicts(report))} targets missed")
    return 1 if failed or (options.check and missed) else 0


if __name__ == "__main__":
    sys.exit(main())
