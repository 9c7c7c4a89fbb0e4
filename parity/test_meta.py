"""The suite can fail: whatever is made wrong, ``runner.run`` reports it, by name, element and bits.

First engines whose outcome is changed after the fact, which the comparison with the reference must find;
then faults in the code that all engines share, which the definition, the golden vectors and the exhaustive
scan must find.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dualloss import Boundary, CrossEntropy, cli
from dualloss.exact import engine, functions, stencil
from dualloss.exact.numpy_ops import NumpyOps
from dualloss.parity import cases, exhaustive, runner
from dualloss.parity.cases import Case, Config
from dualloss.parity.engines import Engine, NumPy, Outcome

Array = Any
Mutation = Callable[[Case, Outcome], Outcome]

PLAIN = Config("meta", "cross_entropy", CrossEntropy(), shape=(2, 4, 5, 3), families=("scale_1", "nan", "saturated"))
STENCIL = replace(
    PLAIN, name="meta stencil", term="boundary", spec=Boundary(padding="replicate"), families=("scale_1",)
)


MIRROR = replace(STENCIL, name="meta mirror", spec=Boundary(padding="reflect"))


class Mutated(NumPy):
    """The NumPy engine, with its outcome changed on one family."""

    def __init__(self, mutation: Mutation, family: str = "scale_1") -> None:
        super().__init__()
        self.name = "mutated"
        self._mutation, self._family = mutation, family

    def start(self, config: Config) -> Callable[[Case], Outcome]:
        run = super().start(config)

        def call(case: Case) -> Outcome:
            outcome = run(case)
            return self._mutation(case, outcome) if case.family == self._family else outcome

        return call


class Raising(Engine):
    name, framework = "raising", "numpy"

    def start(self, config: Config) -> Callable[[Case], Outcome]:
        raise RuntimeError("no such device")


def vector(config: Config) -> str:
    run = NumPy().start(config)
    return runner.digest(run(case) for case in cases.cases(config))


@pytest.fixture(autouse=True)
def golden(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Right golden vectors of the configurations here, made before anything is mutated."""
    vectors = {config.name: vector(config) for config in (PLAIN, STENCIL, MIRROR)}
    monkeypatch.setattr(runner, "golden_vectors", lambda: vectors)
    return vectors


def gradient(change: Callable[[Array], None]) -> Mutation:
    def mutate(case: Case, outcome: Outcome) -> Outcome:
        changed = outcome.gradient.copy()
        change(changed)
        return Outcome(outcome.loss, changed)

    return mutate


def only_difference(mutation: Mutation, family: str = "scale_1") -> runner.Difference:
    report = runner.run([PLAIN], [Mutated(mutation, family)])
    assert not report.ok
    assert not report.errors
    (difference,) = report.differences
    assert difference.engine == "mutated"
    assert difference.against == "numpy"
    assert difference.case == f"meta/{family}"
    assert report.terms["cross_entropy"][1] == 1
    return difference


def test_nothing_wrong_is_ok() -> None:
    report = runner.run([PLAIN, STENCIL], [Mutated(lambda case, outcome: outcome)])
    assert report.ok
    # Loss and gradient of four cases, by the definition and by the engine; two golden vectors.
    assert report.comparisons == 2 * 2 * 4 + 2


@pytest.mark.parametrize("bit", [0, 1, 12, 30, 31])
def test_one_bit_of_one_gradient_element(bit: int) -> None:
    def change(g: Array) -> None:
        g[1, 0, 2, 1] ^= np.uint32(1 << bit)

    found = only_difference(gradient(change))
    assert (found.quantity, found.count, found.index) == ("gradient", 1, (1, 0, 2, 1))
    assert found.got ^ found.expected == 1 << bit
    assert f"0x{found.got:08x}, expected 0x{found.expected:08x}" in str(found)
    assert "[1, 0, 2, 1]" in str(found)


def test_one_bit_of_the_loss() -> None:
    found = only_difference(lambda case, o: Outcome(np.asarray(o.loss ^ np.uint32(1)), o.gradient))
    assert (found.quantity, found.count, found.index) == ("loss", 1, ())
    assert found.got ^ found.expected == 1


def test_the_place_of_a_nan() -> None:
    def change(g: Array) -> None:
        flat = g.reshape(-1, g.shape[-1])
        nan = (flat & 0x7FFFFFFF > 0x7F800000).all(axis=1)
        assert nan.any() and not nan.all()
        here, there = np.flatnonzero(nan)[0], np.flatnonzero(~nan)[0]
        flat[[here, there]] = flat[[there, here]]

    found = only_difference(gradient(change), "nan")
    assert (found.quantity, found.count) == ("gradient", 6)
    assert 0x7FC00000 in (found.got, found.expected)


@pytest.mark.parametrize("other", [0x7FC00001, 0xFFC00000, 0x7F800001], ids=hex)
def test_the_payload_or_sign_of_a_nan(other: int) -> None:
    def change(g: Array) -> None:
        where = tuple(np.argwhere(g == 0x7FC00000)[0])
        g[where] = other

    found = only_difference(gradient(change), "nan")
    assert (found.count, found.got, found.expected) == (1, other, 0x7FC00000)


def test_minus_zero_in_place_of_zero() -> None:
    def change(g: Array) -> None:
        where = tuple(np.argwhere(g == 0)[0])
        g[where] = 0x80000000

    found = only_difference(gradient(change), "saturated")
    assert (found.count, found.got, found.expected) == (1, 0x80000000, 0)


@pytest.mark.parametrize(
    "changed",
    [
        lambda g: g[..., :2],
        lambda g: g[None],
        lambda g: np.moveaxis(g, -1, 1),
        lambda g: g.astype(np.uint16),
        lambda g: g.view(np.int32),
        lambda g: g[:0],
    ],
    ids=["cut", "axis more", "channels first", "16 bits", "signed", "empty"],
)
def test_another_shape_or_dtype(changed: Callable[[Array], Array]) -> None:
    found = only_difference(lambda case, o: Outcome(o.loss, changed(o.gradient)))
    assert found.quantity == "gradient"
    assert found.count == 120


def test_a_scalar_loss_of_another_shape() -> None:
    found = only_difference(lambda case, o: Outcome(o.loss[None], o.gradient))
    assert found.quantity == "loss"


def test_an_engine_that_raises() -> None:
    report = runner.run([PLAIN], [Raising(), Mutated(lambda case, outcome: outcome)])
    assert not report.ok
    assert not report.differences
    (error,) = report.errors
    assert error == "raising failed on meta: RuntimeError: no such device"
    assert report.tallies["mutated"].comparisons == 6  # the others went on


def test_an_engine_that_raises_in_the_middle() -> None:
    def mutate(case: Case, outcome: Outcome) -> Outcome:
        raise ValueError("out of memory")

    report = runner.run([PLAIN], [Mutated(mutate, "nan")])
    assert not report.ok
    assert report.errors == ["mutated failed on meta: ValueError: out of memory"]


def test_no_comparison_is_not_ok() -> None:
    assert not runner.run([], []).ok
    assert not runner.run([], [NumPy()]).ok
    assert not runner.Report().ok


def test_a_changed_golden_vector(golden: dict[str, str]) -> None:
    right = golden["meta"]
    golden["meta"] = right[:-1] + ("0" if right[-1] != "0" else "1")
    report = runner.run([PLAIN, STENCIL], [])
    assert not report.ok
    assert not report.differences
    (error,) = report.errors
    assert error.startswith("meta: ") and right in error and golden["meta"] in error


def test_a_missing_golden_vector(golden: dict[str, str]) -> None:
    del golden["meta"]
    (error,) = runner.run([PLAIN], []).errors
    assert error.startswith("meta: ") and "nothing" in error


# ------------------------------------------------------------------------------------------------------------
# Faults in what all engines share


def faulty(config: Config) -> runner.Report:
    report = runner.run([config], [Mutated(lambda case, outcome: outcome)])
    assert not report.ok
    assert not report.tallies["mutated"].differences  # it has the same fault
    assert report.tallies["definition"].differences
    assert report.tallies["golden vectors"].errors
    return report


def test_a_padding_from_the_other_side(monkeypatch: pytest.MonkeyPatch) -> None:
    right = stencil._shift

    def wrong(ops: Any, v: Array, axis: int, step: int, padding: str) -> Array:
        if padding == "replicate" and step < 0:
            edge = ops.cut(v, axis, -1, None)
            return ops.concat([edge, ops.cut(v, axis, 0, -1)], axis)
        return right(ops, v, axis, step, padding)

    monkeypatch.setattr(stencil, "_shift", wrong)
    faulty(STENCIL)


def test_an_adjoint_that_is_not_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicated edges would not show it: their stencil is its own adjoint."""
    monkeypatch.setattr(stencil, "neighbour_adjoint", stencil.neighbour)
    report = faulty(MIRROR)
    assert {d.quantity for d in report.differences} == {"gradient"}


def test_another_normaliser(monkeypatch: pytest.MonkeyPatch) -> None:
    right = engine.scale
    monkeypatch.setattr(
        engine, "scale", lambda ops, term, amount, reduction: right(ops, term, amount, "sum") * (1 / 13)
    )
    report = faulty(PLAIN)
    assert {d.quantity for d in report.differences} == {"loss", "gradient"}


def test_an_exp_that_is_good_to_float32_only(monkeypatch: pytest.MonkeyPatch) -> None:
    shift_exp(monkeypatch, 1 << 29)
    faulty(PLAIN)


@pytest.fixture
def exp_row(monkeypatch: pytest.MonkeyPatch) -> Callable[[], exhaustive.Row]:
    """The scan of exp, on NumPy alone."""
    monkeypatch.setattr(exhaustive.importlib.util, "find_spec", lambda name: None)

    def scan() -> exhaustive.Row:
        row = next(iter(exhaustive.scan()))
        assert row.function == "exp"
        return row

    return scan


def shift_exp(monkeypatch: pytest.MonkeyPatch, ulp: int, only: float | None = None) -> None:
    right = NumpyOps.exp

    def wrong(self: NumpyOps, v: Array) -> Array:
        shifted = (right(self, v).view(np.int64) + ulp).view(np.float64)
        return shifted if only is None else np.where(v == only, shifted, right(self, v))

    monkeypatch.setattr(NumpyOps, "exp", wrong)


@pytest.mark.parametrize("ulp", [-40, 40])
def test_an_exp_within_its_margin_is_fine(
    monkeypatch: pytest.MonkeyPatch, exp_row: Callable[[], exhaustive.Row], ulp: int
) -> None:
    """The thresholds leave 57 ulp: the scan must not cry wolf."""
    shift_exp(monkeypatch, ulp)
    row = exp_row()
    assert row.ok
    assert row.slack < 30  # but it shows


def test_an_exp_beyond_its_margin(monkeypatch: pytest.MonkeyPatch, exp_row: Callable[[], exhaustive.Row]) -> None:
    """One wrong result among 89,433, one float64-ulp further than its distance from the threshold."""
    k = exhaustive.arguments("exp")
    raw = NumpyOps().exp(k * (1 / functions.EXP_GRID))
    low = (raw.view(np.int64) + functions.EXP_THRESHOLD) & ((1 << (53 - functions.EXP_BITS)) - 1)
    worst = int(np.argmin(low))
    argument = float(k[worst] / functions.EXP_GRID)
    shift_exp(monkeypatch, -int(low[worst]), argument)
    assert exp_row().ok  # at the threshold: still the same
    monkeypatch.undo()
    monkeypatch.setattr(exhaustive.importlib.util, "find_spec", lambda name: None)
    shift_exp(monkeypatch, -int(low[worst]) - 1, argument)
    row = exp_row()
    assert not row.ok
    assert "WRONG" in str(row)


# ------------------------------------------------------------------------------------------------------------
# The command line


@pytest.fixture
def two_configs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "configs", lambda: [PLAIN, STENCIL])


def command_line(monkeypatch: pytest.MonkeyPatch, engines: list[Engine], *arguments: str) -> int:
    pytest.importorskip("rich")
    monkeypatch.setattr(runner, "available", lambda frameworks: (engines, []))
    return cli.main(["parity", *arguments])


@pytest.mark.usefixtures("two_configs")
def test_exit_status_of_a_difference(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def change(g: Array) -> None:
        g[0, 1, 1, 2] ^= np.uint32(4)

    assert command_line(monkeypatch, [Mutated(gradient(change))], "--terms", "cross_entropy") == 1
    out = capsys.readouterr().out
    assert "meta/scale_1: gradient of mutated differs from numpy in 1 elements; first at [0, 1, 1, 2]" in out
    assert "13 comparisons, 1 differing" in out


@pytest.mark.usefixtures("two_configs")
def test_exit_status_without_a_difference(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(monkeypatch, [Mutated(lambda case, outcome: outcome)], "--every", "1") == 0
    assert "18 comparisons, 0 differing" in capsys.readouterr().out


@pytest.mark.usefixtures("two_configs")
def test_exit_status_of_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(monkeypatch, [Raising()]) == 1
    assert "raising failed on meta: RuntimeError: no such device" in capsys.readouterr().out


@pytest.mark.usefixtures("two_configs")
def test_exit_status_of_a_changed_vector(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], golden: dict[str, str]
) -> None:
    golden["meta"] = "0" * 64
    assert command_line(monkeypatch, []) == 1
    assert "golden vector" in capsys.readouterr().out


@pytest.mark.usefixtures("two_configs")
@pytest.mark.parametrize("arguments", [("--terms", "hubr"), ("--engines", "jax"), ("--every", "0")])
def test_exit_status_of_wrong_arguments(monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    assert command_line(monkeypatch, [NumPy()], *arguments) == 2
