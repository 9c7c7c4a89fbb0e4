"""A sample of the proof that imported losses are the libraries' own; and that it can fail."""

from __future__ import annotations

import json
from typing import Any

import pytest

import dualloss as dl
from dualloss.vendors import ROWS
from dualloss.vendors.proof import __main__ as proof
from dualloss.vendors.proof import evaluate

GRIDS, MISSING = proof.available()


@pytest.mark.parametrize("vendor", proof.PACKAGES)
def test_the_library_is_there(vendor: str) -> None:
    if vendor in MISSING:
        pytest.skip(f"{vendor} is not compared: {MISSING[vendor]}")


CASES = list(proof.sample(every=120))


@pytest.mark.parametrize(
    "case", CASES, ids=[f"{case.loss.vendor}-{case.loss.name}-{i}" for i, case in enumerate(CASES)]
)
def test_the_imported_loss_is_the_librarys_own(case: Any) -> None:
    result = proof.run(case)
    assert result["verdict"] == "equal", result


def test_every_loss_that_can_be_imported_is_in_the_proof() -> None:
    rows = {(row.vendor, row.name) for row in ROWS.values() if row.vendor not in MISSING}
    assert rows == {(loss.vendor, loss.name) for loss in GRIDS}


def test_the_grid_is_large() -> None:
    # torch and keras alone
    assert sum(len(list(loss.combinations())) for loss in GRIDS if loss.vendor in ("torch", "keras")) >= 1000


@pytest.mark.parametrize(
    ("name", "options", "wrong"),
    [
        ("CrossEntropyLoss", {"weight": [0.5, 2.0, 0.25], "targets": "indices"}, dl.CrossEntropy()),
        ("MSELoss", {}, dl.MeanSquaredError() + 1e-5 * dl.MeanAbsoluteError()),
        ("Tversky", {"alpha": 0.3, "beta": 0.7}, dl.Tversky(like="keras", alpha=0.3, beta=0.7)),
    ],
)
def test_a_wrong_import_is_found(monkeypatch: pytest.MonkeyPatch, name: str, options: Any, wrong: Any) -> None:
    grid = next(loss for loss in GRIDS if loss.name == name)
    cases = (case for case in grid.cases() if case.kind != "one class" and case.kind != "all ignored")
    case = next(case for case in cases if options.items() <= case.options.items())
    assert proof.run(case)["verdict"] == "equal"
    monkeypatch.setattr(evaluate, "spec_of", lambda case: wrong)
    assert proof.run(case)["verdict"] == "not equal"


def test_the_report_holds_every_case(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.json"
    code = proof.main(["--json", str(path), "--every", "8", "--only", "torch.MSELoss", "--allow-missing"])
    report = json.loads(path.read_text())
    assert code == 0
    assert len(report["cases"]) > 1
    assert {case["verdict"] for case in report["cases"]} == {"equal"}
    assert report["installed"]["torch"] and report["definitions"]["torch"] == "2.13"
    assert "torch.MSELoss" in capsys.readouterr().out


def test_a_missing_library_is_a_failure_unless_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "available", lambda: (GRIDS, {"monai": "No module named 'monai'"}))
    chosen = ["--every", "16", "--only", "torch.MSELoss"]
    assert proof.main(chosen) == 1
    assert proof.main([*chosen, "--allow-missing"]) == 0
