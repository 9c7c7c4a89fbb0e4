"""The suite itself, on a sample: every engine agrees, the vectors are those of the definition, nothing is
skipped unsaid.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dualloss import cli
from dualloss import fast as kernels
from dualloss.parity import cases, exhaustive, generator, runner, write_vectors
from dualloss.parity.engines import Engine, available

Array = Any

ALL = {config.name: config for config in cases.configs()}
SAMPLE = [
    ALL[name]
    for name in (
        "cross_entropy_valid/labels-mask-none-float32",
        "boundary_probabilities/soft-position-mean-bfloat16",
        "binary_cross_entropy_weighted/onehot-sample-none-float16",
        "three_terms/classes_257",
        "total_loss_ignore/volume",
        "huber/vector",
        "total_loss/empty",
    )
]


@cache
def engines() -> tuple[list[Engine], list[str]]:
    return available()


def fast() -> list[Engine]:
    return [engine for engine in engines()[0] if not engine.compiles]


def failures(report: runner.Report) -> str:
    return "\n".join([*report.errors, *map(str, report.differences)][:5])


def count(configs: list[cases.Config]) -> int:
    return sum(len(config.families or cases.FAMILIES) for config in configs)


@pytest.mark.parametrize("config", SAMPLE, ids=lambda config: config.name)
def test_engines_that_do_not_compile(config: cases.Config) -> None:
    chosen = [engine for engine in fast() if not engine.cannot(config)]
    report = runner.run([config], chosen)
    assert report.ok, failures(report)
    others = [engine for engine in chosen if engine.name != "numpy"]
    assert len(others) >= 1
    # Loss and gradient of each case, by the definition and by each engine; a golden vector.
    assert report.comparisons == 2 * count([config]) * (len(others) + 1) + 1
    for engine in others:
        assert report.tallies[engine.name].cases == count([config])


@pytest.mark.parametrize("name", sorted(cases.PRIMARY))
def test_every_term_on_an_engine_of_each_framework(name: str) -> None:
    """The rest of the matrix, and the engines that compile for each term, are for `dualloss parity`."""
    config = next(config for config in ALL.values() if config.name.startswith(f"{name}/") and config.weight == "mask")
    chosen = [engine for engine in fast() if engine.name in ("torch eager", "tf eager")]
    report = runner.run([config], chosen)
    assert report.ok, failures(report)
    assert report.comparisons == 2 * len(list(cases.cases(config))) * (len(chosen) + 1) + 1


@pytest.mark.parametrize("name", ["total_loss", "all_of_logits", "all_of_probabilities"])
def test_compiled_engines(name: str) -> None:
    """On the total loss; on all terms of a kind in one sum those of TensorFlow, since Inductor takes minutes for it."""
    config = ALL[f"{name}/labels-none-mean-float32"]
    compiled = [engine for engine in engines()[0] if engine.compiles]
    if name != "total_loss":
        compiled = [engine for engine in compiled if engine.name == "tf loss in XLA"]
    if not compiled:
        pytest.skip("neither framework is installed")
    report = runner.run([config], compiled)
    assert report.ok, failures(report)
    assert report.comparisons == 2 * len(list(cases.cases(config))) * (len(compiled) + 1) + 1


@pytest.mark.parametrize("framework", ["torch", "tf"])
def test_a_framework_in_another_interpreter(framework: str) -> None:
    pytest.importorskip("torch" if framework == "torch" else "tensorflow")
    config = ALL["huber/vector"]
    report = runner.run([config], [], others={framework: sys.executable})
    assert report.ok, failures(report)
    here = [engine for engine in fast() if engine.framework == framework]
    for engine in here:
        assert report.tallies[engine.name].comparisons == 2 * count([config])
    assert report.comparisons == 2 * count([config]) * (len(here) + 1) + 1
    assert not report.missing


def test_an_interpreter_that_fails() -> None:
    report = runner.run([ALL["huber/vector"]], [], others={"torch": "/bin/false"})
    assert not report.ok
    assert "torch in /bin/false failed: no message" in report.errors


def test_a_framework_elsewhere_is_not_run_here() -> None:
    found, missing = runner.here_or_elsewhere({"torch": "python", "tf": "python"})
    assert [engine.name for engine in found] == ["numpy", "numpy channels first"]
    assert missing == []


def test_a_missing_framework_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found, missing = available()
    assert [engine.framework for engine in found] == ["numpy", "numpy"]
    assert missing == [
        "torch is not installed in this interpreter",
        "tensorflow with keras is not installed in this interpreter",
    ]
    pytest.importorskip("rich")
    assert cli.main(["parity", "--terms", "huber", "--every", "50"]) == 0
    out = capsys.readouterr().out
    assert "not run: torch is not installed in this interpreter" in out
    assert "not run: tensorflow with keras is not installed in this interpreter" in out


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    assert cli.main(["parity", "--terms", "huber", "--engines", "numpy", "--every", "50"]) == 0
    out = capsys.readouterr().out
    assert "Bits compared with the NumPy engine" in out
    for row in ("definition", "golden vectors", "numpy channels first", "huber"):
        assert row in out
    assert "comparisons, 0 differing" in out


def test_the_scan_of_exp_and_log1p(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every argument, on NumPy; `dualloss exhaustive` scans the others."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with kernels.using(False):
        exp, log1p = exhaustive.scan()
    assert exp.ok and exp.count == 89_433
    assert exp.slack >= 50
    assert log1p.ok and log1p.count == 4_915_201
    assert log1p.slack >= 120


# ------------------------------------------------------------------------------------------------------------
# Golden vectors and inputs


def test_every_configuration_has_a_vector() -> None:
    assert list(runner.golden_vectors()) == list(ALL)


def test_the_vectors_are_written_as_they_stand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(write_vectors, "configs", lambda: SAMPLE)
    monkeypatch.setattr(write_vectors, "__file__", str(tmp_path / "write_vectors.py"))
    assert write_vectors.main() == 0
    lines = (tmp_path / "vectors.txt").read_text().splitlines()
    written = [line for line in lines if not line.startswith("#")]
    vectors = runner.golden_vectors()
    assert written == [f"{vectors.get(config.name)} {config.name}" for config in SAMPLE]


def test_no_vector_is_written_where_the_definition_disagrees(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    right = write_vectors.defined

    def wrong(case: cases.Case) -> Any:
        outcome = right(case)
        return type(outcome)(outcome.loss ^ 1, outcome.gradient)

    monkeypatch.setattr(write_vectors, "configs", lambda: SAMPLE[-2:])
    monkeypatch.setattr(write_vectors, "defined", wrong)
    monkeypatch.setattr(write_vectors, "__file__", str(tmp_path / "write_vectors.py"))
    assert write_vectors.main() == 1
    assert not (tmp_path / "vectors.txt").exists()


def splitmix64(seed: int) -> list[int]:
    """The first five outputs, in Python's integers, after the paper's authors' C code."""
    found = []
    for _ in range(5):
        seed = (seed + 0x9E3779B97F4A7C15) % 2**64
        z = (seed ^ seed >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        found.append(z ^ z >> 31)
    return found


def fnv1a(name: str) -> int:
    found = 0xCBF29CE484222325
    for byte in name.encode():
        found = (found ^ byte) * 0x100000001B3 % 2**64
    return found


def test_the_generator_is_splitmix64_seeded_by_fnv() -> None:
    # The known outputs for the seeds 0 and 1234567, and the known hashes of "a" and "foobar".
    assert splitmix64(0)[:3] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert splitmix64(1234567) == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert fnv1a("a") == 0xAF63DC4C8601EC8C
    assert fnv1a("foobar") == 0x85944171F73967E8
    for name in ("", "a", "dualloss"):
        assert generator.integers(name, 5).tolist() == splitmix64(fnv1a(name))


def test_what_the_generator_draws() -> None:
    """Integers times powers of two: nothing here rounds."""
    drawn = [n >> 40 for n in generator.integers("x", 8).tolist()]
    assert (generator.uniform("x", (8,)) * 2.0**24).tolist() == drawn
    assert generator.bell("x", (2,)).tolist() == [sum(drawn[i::2]) * 2.0**-24 - 2 for i in range(2)]
    assert generator.labels("x", (8,), 5).tolist() == [n * 5 >> 24 for n in drawn]
    assert generator.labels("x", (8,), 5).dtype == np.int64


def test_inputs_are_exact_in_their_dtype() -> None:
    for dtype in ("float16", "bfloat16", "float32"):
        config = next(c for c in ALL.values() if c.dtype == dtype)
        for case in cases.cases(config):
            again = cases.round_to(case.input, dtype)
            assert again.dtype == np.float32
            np.testing.assert_array_equal(again.view(np.uint32), case.input.view(np.uint32))
