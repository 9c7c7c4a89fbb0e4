"""Runs engines over configurations and compares every bit."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from . import definition
from .cases import Case, Config, cases
from .engines import Engine, NumPy, Outcome, as_bits, available, to_numpy

Array = Any

REFERENCE = "numpy"


@dataclass(frozen=True)
class Difference:
    """The first differing element of one quantity of one case."""

    engine: str
    against: str
    case: str
    quantity: str
    count: int
    index: tuple[int, ...]
    got: int
    expected: int

    def __str__(self) -> str:
        width = 8
        return (
            f"{self.case}: {self.quantity} of {self.engine} differs from {self.against} in {self.count} elements; "
            f"first at {list(self.index)}: 0x{self.got:0{width}x}, expected 0x{self.expected:0{width}x}"
        )


@dataclass
class Tally:
    """What one engine was put through."""

    cases: int = 0
    comparisons: int = 0
    elements: int = 0
    seconds: float = 0.0
    differences: list[Difference] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@dataclass
class Report:
    """The result of a run.

    Attributes:
        tallies: by engine; also ``"definition"`` and ``"golden vectors"``, which the reference is compared with.
        terms: by term: comparisons and differences.
        missing: what could not run, a line each.
    """

    tallies: dict[str, Tally] = field(default_factory=dict)
    terms: dict[str, list[int]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @property
    def comparisons(self) -> int:
        """How many quantities (a loss, a map, a gradient) were compared."""
        return sum(t.comparisons for t in self.tallies.values())

    @property
    def differences(self) -> list[Difference]:
        """Every difference found."""
        return [d for t in self.tallies.values() for d in t.differences]

    @property
    def errors(self) -> list[str]:
        """Every engine that raised."""
        return [e for t in self.tallies.values() for e in t.errors]

    @property
    def ok(self) -> bool:
        """Whether something was compared, and nothing differed or failed."""
        return self.comparisons > 0 and not self.differences and not self.errors

    def tally(self, engine: str) -> Tally:
        """The tally of an engine, made when first asked for."""
        return self.tallies.setdefault(engine, Tally())

    def compare(self, engine: str, against: str, case: Case, got: Outcome, expected: Outcome) -> None:
        """Compare loss and gradient of one case."""
        tally = self.tally(engine)
        tally.cases += 1
        term = self.terms.setdefault(case.config.term, [0, 0])
        for quantity in ("loss", "gradient"):
            difference = first_difference(getattr(got, quantity), getattr(expected, quantity))
            tally.comparisons += 1
            tally.elements += int(getattr(expected, quantity).size)
            term[0] += 1
            if difference is not None:
                term[1] += 1
                tally.differences.append(Difference(engine, against, case.name, quantity, *difference))


def first_difference(got: Array, expected: Array) -> tuple[int, tuple[int, ...], int, int] | None:
    """How many elements differ and the first of them; another shape or dtype differs everywhere."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return max(int(got.size), int(expected.size), 1), (), 0, 0
    where = np.argwhere(got != expected)
    if not len(where):
        return None
    index = tuple(int(i) for i in where[0])
    return len(where), index, int(got[index]), int(expected[index])


def golden_vectors() -> dict[str, str]:
    """The reviewed hashes, by configuration."""
    text = resources.files(__package__).joinpath("vectors.txt").read_text()
    lines = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return {name: digest for digest, name in lines}


def digest(outcomes: Iterable[Outcome]) -> str:
    """SHA-256 of losses and gradients, channels last, little-endian."""
    sha = hashlib.sha256()
    for outcome in outcomes:
        for bits in (outcome.loss, outcome.gradient):
            sha.update(np.ascontiguousarray(bits).astype(bits.dtype.newbyteorder("<")).tobytes())
    return sha.hexdigest()


def defined(case: Case) -> Outcome:
    """The executable definition's outcome."""
    config: Any = case.config
    held = case.input.astype(np.float16) if config.dtype == "float16" else case.input
    result = definition.evaluate(
        config.spec, held, case.target, sample_weight=case.weight, reduction=config.reduction,
        upstream=case.upstream, dtype=config.dtype, labels="nan",
    )  # fmt: skip
    return Outcome(as_bits(result.loss), as_bits(to_numpy(result.gradient, config.dtype)))


def run(
    configs: Sequence[Config],
    engines: Sequence[Engine],
    *,
    compile_all: bool = False,
    others: Mapping[str, str] | None = None,
    progress: Callable[[str, int], None] = lambda text, steps: None,
) -> Report:
    """Compare engines with the reference, and the reference with definition and golden vectors.

    Args:
        configs: what to run.
        engines: in this interpreter.
        compile_all: whether compiling engines run every configuration, not only those marked for them.
        others: frameworks that live in another interpreter: its path, by framework.
        progress: called with a description and the number of configurations done since.
    """
    report = Report()
    beyond: Counter[tuple[str, str]] = Counter()
    golden = golden_vectors()
    reference: dict[str, Outcome] = {}
    numpy = NumPy().start(configs[0]) if configs else None
    for config in configs:
        progress(f"definition  {config.name}", 0)
        made = list(cases(config))
        outcomes = []
        for case in made:
            assert numpy is not None
            outcome = reference[case.name] = numpy(case)
            outcomes.append(outcome)
            start = time.perf_counter()
            report.compare("definition", REFERENCE, case, defined(case), outcome)
            report.tally("definition").seconds += time.perf_counter() - start
        _compare_golden(report, golden, config, made, digest(outcomes))
        for engine in engines:
            if engine.name == REFERENCE or (engine.compiles and not (config.compiled or compile_all)):
                continue
            if reason := engine.cannot(config):
                beyond[engine.name, reason] += 1
                continue
            progress(f"{engine.name}  {config.name}", 0)
            for case, got in _outcomes(report.tally(engine.name), engine, config, made):
                report.compare(engine.name, REFERENCE, case, got, reference[case.name])
        progress(config.name, 1)
    report.missing += _said(beyond)
    for framework, python in (others or {}).items():
        progress(f"{framework} in {python}", 0)
        for name, case, got, seconds in _elsewhere(report, framework, python, configs, compile_all):
            report.compare(name, REFERENCE, case, got, reference[case.name])
            report.tally(name).seconds += seconds
    return report


def collect(
    configs: Sequence[Config], engines: Sequence[Engine], compile_all: bool
) -> tuple[dict[str, Array], dict[str, list[str]], list[str]]:
    """For another interpreter: outcomes as arrays by ``engine|case|quantity``, errors by engine, what cannot run."""
    arrays: dict[str, Array] = {}
    errors: dict[str, list[str]] = {}
    beyond: Counter[tuple[str, str]] = Counter()
    for engine in engines:
        tally = Tally()
        for config in configs:
            if engine.compiles and not (config.compiled or compile_all):
                continue
            if reason := engine.cannot(config):
                beyond[engine.name, reason] += 1
                continue
            for case, got in _outcomes(tally, engine, config, list(cases(config))):
                arrays[f"{engine.name}|{case.name}|loss"] = got.loss
                arrays[f"{engine.name}|{case.name}|gradient"] = got.gradient
        errors[engine.name] = tally.errors
    return arrays, errors, _said(beyond)


def _said(beyond: Counter[tuple[str, str]]) -> list[str]:
    return [f"{count} configurations on {engine}: {reason}" for (engine, reason), count in beyond.items()]


def _outcomes(tally: Tally, engine: Engine, config: Config, made: Sequence[Case]) -> Iterator[tuple[Case, Outcome]]:
    """An engine's outcomes; what it raises is an error of the report, not of the run."""
    start = time.perf_counter()
    try:
        call = engine.start(config)
        for case in made:
            yield case, call(case)
    except Exception:
        last = traceback.format_exc().strip().splitlines()
        tally.errors.append(f"{engine.name} failed on {config.name}: {last[-1]}")
    tally.seconds += time.perf_counter() - start


def _compare_golden(report: Report, golden: dict[str, str], config: Config, made: list[Case], found: str) -> None:
    tally = report.tally("golden vectors")
    tally.cases += len(made)
    tally.comparisons += 1
    expected = golden.get(config.name, "nothing")
    if expected != found:
        report.terms.setdefault(config.term, [0, 0])[1] += 1
        tally.errors.append(f"{config.name}: the reference's SHA-256 is {found}, the golden vector's {expected}")


def _elsewhere(
    report: Report, framework: str, python: str, configs: Sequence[Config], compile_all: bool
) -> Iterator[tuple[str, Case, Outcome, float]]:
    root = str(Path(__file__).resolve().parents[2])
    with tempfile.TemporaryDirectory() as folder:
        names = Path(folder, "configs.txt")
        names.write_text("\n".join(config.name for config in configs))
        out = Path(folder, "outcomes.npz")
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        command = [python, "-m", "dualloss.parity.worker", framework, str(names), str(out), str(int(compile_all))]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
        if done.returncode:
            detail = (done.stderr.strip().splitlines() or ["no message"])[-1]
            report.tally(f"{framework} in {python}").errors.append(f"{framework} in {python} failed: {detail}")
            return
        with np.load(out) as stored:
            arrays = {key: stored[key] for key in stored.files}
    by_name = {case.name: case for config in configs for case in cases(config)}
    for message in arrays.pop("errors"):
        report.tally(f"{framework} in {python}").errors.append(str(message))
    for line in arrays.pop("missing"):
        report.missing.append(f"{python}: {line}")
    for key, loss in arrays.items():
        engine, name, quantity = key.split("|")
        if quantity == "loss":
            yield engine, by_name[name], Outcome(loss, arrays[f"{engine}|{name}|gradient"]), 0.0


def here_or_elsewhere(others: Mapping[str, str]) -> tuple[list[Engine], list[str]]:
    """The engines of this interpreter, without the frameworks that another one runs."""
    return available(tuple(f for f in ("numpy", "torch", "tf") if f not in others))
