"""Comparing losses: known causes are named first, what agrees is left alone, and no loss can break it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tensorflow")

from compare_combinations import combinations  # noqa: E402
from compare_pairs import PAIRS, Pair  # noqa: E402

import dualloss as dl  # noqa: E402
from dualloss import cli  # noqa: E402
from dualloss.check import Case, Report, Side, compare, sides  # noqa: E402
from dualloss.check.causes import CAUSES  # noqa: E402
from dualloss.check.diagnose import gradient_ulp, ulp  # noqa: E402
from dualloss.check.formulas import FAMILIES  # noqa: E402
from dualloss.check.probes import battery  # noqa: E402

ROOT = Path(__file__).parent
SEG = Case(3, (8, 9))


def report_of(pair: Pair) -> Report:
    if pair.missing:
        pytest.skip(f"needs {', '.join(pair.missing)}")
    return compare(*pair.built())


@pytest.mark.parametrize("pair", [p for p in PAIRS if p.causes], ids=lambda p: p.name)
def test_the_cause_is_named_first(pair: Pair) -> None:
    report = report_of(pair)
    assert [f.cause.number for f in report.causes][:1] == [*pair.causes], report.text()


@pytest.mark.parametrize("pair", [p for p in PAIRS if not p.causes], ids=lambda p: p.name)
def test_what_agrees_has_no_cause(pair: Pair) -> None:
    report = report_of(pair)
    assert report.same and not report.findings, report.text()
    assert report.exit_code == 0
    compared = sum(row.compared for row in report.rows)
    assert report.verdict.startswith(f"No difference found: {compared} probes, values at most ")


def test_every_cause_has_a_pair() -> None:
    named = {number for pair in PAIRS for number in pair.causes}
    known = {cause.number for cause in CAUSES}
    assert known == named and known >= set(range(1, 42))
    assert sum(not pair.causes for pair in PAIRS) >= 20


@pytest.mark.parametrize("pair", [*combinations(5, seed=1)], ids=lambda p: p.name)
def test_two_causes_are_both_named(pair: Pair) -> None:
    report = compare(*pair.built())
    assert set(pair.causes) <= {f.cause.number for f in report.findings[:3]}, report.text()


def test_the_other_side_is_predicted() -> None:
    pair = next(pair for pair in PAIRS if pair.name == "total_loss_reflected")
    report = report_of(pair)
    predicted = report.predicted
    assert predicted is not None and predicted[0] <= 64 and predicted[1] >= 20
    gradient = report.gradient_predicted
    assert gradient is not None and gradient <= 64
    assert "With all of these mended in a, b's values are predicted within" in report.text()


def test_mending_it_alone_is_told() -> None:
    pair = next(pair for pair in PAIRS if pair.name == "edges_reflected")
    (finding, *_) = report_of(pair).findings
    assert finding.mends and set(finding.mends) <= set(finding.shows)
    assert "inside only" not in finding.shows or "border only" in finding.shows


def test_an_unknown_cause_is_said_to_be_one() -> None:
    def strange(input: Any, target: Any) -> Any:
        return torch.nn.functional.cross_entropy(input + 0.3 * input.sin(), target)

    report = compare(torch.nn.CrossEntropyLoss(), strange, Case(3, targets="one-hot"))
    assert report.exit_code == 1 and not report.findings
    assert "for an unknown cause" in report.verdict
    said = report.text()
    assert "No cause explains it. Ruled out: " in said and "class-weights-divided" not in said
    assert "not tested, since no formula here gives the values of b" in said


def test_the_side_that_is_off_is_told() -> None:
    def careless(input: Any, target: Any) -> Any:
        return -torch.nn.functional.one_hot(target, 3).movedim(-1, 1).mul((input.softmax(1) + 1e-3).log()).sum(1).mean()

    report = compare(dl.CrossEntropy(), careless, SEG)
    (line,) = report.oracle
    assert line.startswith("Against the float64 truth of a's spec, CrossEntropy(): a at most ")
    assert float(line.split("a at most ")[1].split(" ")[0]) <= 1


# ------------------------------------------------------------------------------------------------------------
# Whatever a loss does


def of_bad(name: str, **options: Any) -> Report:
    return compare("compare_bad:good", f"compare_bad:{name}", SEG, **options)


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # where compare_bad is


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("raises", 2, "b (raises): RuntimeError: the data are not what they were"),
        ("exits", 2, "b (exits): SystemExit: 3"),
        ("gives_nan", 1, "They differ"),
        ("gives_a_number", 2, "returns float, expected a tensor"),
        ("gives_two", 2, "returns tuple, expected a tensor: wrap it in a function that returns the loss"),
        ("cuts_the_graph", 1, "b is not differentiable by its input"),
        ("prints", 0, "note: b: prints: batch of 4"),
        ("changes_its_input", 0, "note: b: changes its input"),
        (
            "changes_the_default",
            0,
            "note: b: changes PyTorch's default dtype: torch.float32 before, torch.float64 after",
        ),
        ("draws", 0, "note: b: uses PyTorch's random numbers"),
        ("counts", 1, "b changes from call to call: "),
        ("wants_a_gpu", 2, "b (wants_a_gpu): "),
        # Averaged by hand, -100 counts.
        ("keeps_the_map", 1, "note: b: returns a number for each position or sample: their mean is compared"),
        ("NUMBER", 2, "3 is int, expected a loss"),
        ("Settings", 0, "No difference found"),
    ],
)
def test_every_misbehaviour_has_a_line(name: str, code: int, said: str) -> None:
    import compare_bad

    report = compare(compare_bad.good, getattr(compare_bad, name), SEG)
    assert said in report.text()
    assert report.exit_code == code, report.text()
    assert "Traceback" not in report.text()


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("prints", 0, "note: b: prints: batch of 4"),
        ("missing", 2, "missing in compare_bad: NameError"),
        ("Settings(scale=1.0)", 0, "No difference found"),
        ("dies", 2, "its process ended with exit status 7: for a reason"),
        ("reads", 2, "b (compare_bad:reads): EOFError"),
    ],
)
def test_so_it_has_in_a_process_of_its_own(name: str, code: int, said: str) -> None:
    report = of_bad(name)
    assert said in report.text()
    assert report.exit_code == code, report.text()


def test_what_both_refuse_is_not_compared() -> None:
    loss = torch.nn.CrossEntropyLoss()
    report = compare(loss, loss, Case(3, weights="sample"))
    assert report.exit_code == 2
    assert report.verdict.startswith(
        "Could not compare: both sides refuse sample weights: a: takes no sample weights; b:"
    )

    def small_only(input: Any, target: Any) -> Any:
        if len(input) > 4:
            raise MemoryError("too large")
        return loss(input, target)

    report = compare(small_only, small_only, Case(3, batch=8))
    assert report.exit_code == 2 and "both sides refuse the size asked for: a: MemoryError: too large" in report.verdict


@pytest.mark.parametrize(
    ("naive", "right", "case"),
    [
        (lambda x, t: (x.exp().sum(1).log() - x.gather(1, t[:, None])[:, 0]).mean(), torch.nn.CrossEntropyLoss(), {}),
        (lambda x, t: (x.exp().log1p() - x * t).mean(), torch.nn.BCEWithLogitsLoss(), {"targets": "binary"}),
        (lambda x, t: ((x - t) / t).abs().mean(), lambda x, t: ((x - t).abs() / t).mean(),
         {"targets": "values", "inputs": "values"}),
        (lambda x, t: torch.nanmean((x - t) ** 2), torch.nn.MSELoss(), {"targets": "values", "inputs": "values"}),
        (lambda x, t: torch.nn.functional.cross_entropy(x, t) * (2 if len(x) == 3 else 1), torch.nn.CrossEntropyLoss(),
         {"batch": 8}),
        (torch.nn.CrossEntropyLoss(), torch.nn.CrossEntropyLoss(weight=torch.where(torch.arange(21) == 10, 5.0, 1.0)),
         {"classes": 21}),
    ],
)  # fmt: skip
def test_what_shows_rarely_is_seen(naive: Any, right: Any, case: dict[str, Any]) -> None:
    """Overflow, targets below 0, missing targets, batches of 3, a class that few batches have."""
    assert compare(naive, right, Case(**case, a=Side(framework="torch"), b=Side(framework="torch"))).exit_code == 1


@pytest.mark.parametrize("classes", [3, 150])
def test_rounding_is_no_difference(classes: int) -> None:
    """Gradients of certain predictions are small differences of larger numbers."""
    tf = pytest.importorskip("tensorflow")

    def in_torch(input: Any, target: Any) -> Any:
        p, axes = input.softmax(1), (0, 2, 3)
        return (1 - (2 * (p * target).sum(axes) + 1) / (p.sum(axes) + target.sum(axes) + 1)).mean()

    def in_tf(y_true: Any, y_pred: Any) -> Any:
        p, t, axes = tf.nn.softmax(y_pred), tf.cast(y_true, y_pred.dtype), (0, 1, 2)
        both, sizes = tf.reduce_sum(p * t, axes), tf.reduce_sum(p, axes) + tf.reduce_sum(t, axes)
        return tf.reduce_mean(1 - (2 * both + 1) / (sizes + 1))

    report = compare(in_torch, in_tf, Case(classes, (8, 8), targets="one-hot"))
    assert report.same, report.text()


def test_what_hangs_is_given_up() -> None:
    report = compare("compare_bad:good", "compare_bad:hangs", Case(3), timeout=1.0)
    assert report.exit_code == 2 and "took more than 1 s" in report.verdict


def test_a_process_that_is_lost_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sides, "GRACE", 1.0)
    report = compare("compare_bad:good", "compare_bad:hangs_in_c", Case(3), timeout=1.0)
    lost = [row for row in report.rows if row.b.error is not None and "took more than" in row.b.error]
    one_class = "one class only, certain and right"
    assert [row.probe.name for row in lost] == ["certain and right, 40", "certain and right, 120", one_class]
    assert report.exit_code == 1


def test_losses_of_this_process_are_not_changed() -> None:
    import compare_bad

    before = torch.get_default_dtype()
    report = compare(compare_bad.good, compare_bad.changes_the_default, Case(3))
    assert torch.get_default_dtype() == before
    assert "changes PyTorch's default dtype" in report.text()


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("no_colon", "neither module:loss"),
        ("no_such_module_here:loss", "import no_such_module_here: ModuleNotFoundError"),
        ("spec_that_is_missing.json", "spec_that_is_missing.json: "),
    ],
)
def test_references_that_lead_nowhere(reference: str, said: str) -> None:
    report = compare(dl.CrossEntropy(), reference, SEG)
    assert report.exit_code == 2 and said in report.verdict


def test_an_interpreter_that_is_not_there() -> None:
    report = compare("compare_bad:good", "compare_bad:good", SEG, python_b="/no/such/python")
    assert report.exit_code == 2 and "/no/such/python" in report.verdict
    with pytest.raises(ValueError, match="python_a is 'x', but the loss is an object of this process"):
        compare(dl.CrossEntropy(), dl.CrossEntropy(), SEG, python_a="x")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"targets": "classes"}, "targets is 'classes', expected one of 'index', "),
        ({"classes": 0}, "classes is 0, expected an integer >= 1 or None"),
        ({"classes": None}, "classes is None, but targets='index' needs a number of classes"),
        ({"batch": 0}, "batch is 0, expected an integer >= 1"),
        ({"spatial": (4, 0)}, r"spatial is \(4, 0\), expected integers >= 1"),
        ({"targets": "values", "ignore_index": 3}, "ignore_index is 3, but targets='values' have no labels"),
    ],
)
def test_cases_that_make_no_sense(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Case(**options)
    with pytest.raises(ValueError, match="layout is 'middle', expected one of 'auto', 'first', 'last'"):
        Side(layout="middle")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------
# The command, the page, the fixture


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = "torch.nn:CrossEntropyLoss(label_smoothing=0.1)", "keras.losses:CategoricalCrossentropy(from_logits=True)"
    files = ["--json", str(tmp_path / "r.json"), "--html", str(tmp_path / "r.html")]
    assert cli.main(["compare", a, b, "--classes", "4", "--spatial", "6x7", "--targets", "one-hot", *files]) == 1
    out = capsys.readouterr().out
    assert out.startswith("They differ on ") and "[20: smoothing-missing]" in out
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["exit_code"] == 1 and found["findings"][0]["name"] == "smoothing-missing"
    assert found["a"] == a and len(found["probes"]) > 20
    assert "<html" in (tmp_path / "r.html").read_text()


def test_a_spec_as_a_file(tmp_path: Path) -> None:
    file = tmp_path / "spec.json"
    file.write_text(dl.CrossEntropy().to_json())
    assert cli.main(["compare", str(file), "compare_bad:good", "--spatial", "8x9"]) == 0
    nowhere = str(tmp_path / "none" / "r.html")
    assert cli.main(["compare", str(file), "compare_bad:good", "--html", nowhere]) == 2
    assert cli.main(["compare", str(file), "compare_bad:good", "--timeout", "0"]) == 2
    assert cli.main(["compare", str(file), "compare_bad:good", "--classes", "-1"]) == 2


def test_the_fixture(assert_same_loss: Any) -> None:
    report = assert_same_loss(dl.CrossEntropy(), torch.nn.CrossEntropyLoss(), SEG)
    assert report.same
    with pytest.raises(pytest.fail.Exception, match="One sums where the other averages"):
        assert_same_loss(dl.CrossEntropy(), torch.nn.CrossEntropyLoss(reduction="sum"), SEG)


def test_importing_it_loads_no_framework() -> None:
    code = "import sys, dualloss.check, dualloss.check.plugin; print({'torch', 'tensorflow', 'keras'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent, check=True)
    assert done.stdout.strip() == "set()"


def test_every_loss_gets_the_same_probes() -> None:
    one, other = battery(SEG), battery(SEG)
    for p, q in zip(one, other, strict=True):
        np.testing.assert_array_equal(p.x, q.x)
        np.testing.assert_array_equal(p.target, q.target)
    assert len({p.name for p in one}) == len(one)


def test_ulp() -> None:
    one = np.float32(1.0)
    assert ulp(float(one), float(np.nextafter(one, np.float32(2)))) == 1
    assert ulp(float("nan"), float("nan")) == 0 and ulp(1.0, float("inf")) == float("inf")
    a, b = np.array([1.0, np.nan]), np.array([np.nan, 1.0])
    assert gradient_ulp(a, b) == float("inf") and gradient_ulp(a, a) == 0


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_formulas_have_a_plain_variant(family: Any) -> None:
    """The first of each option's values is the plain definition, so it has to be a number on a plain batch."""
    kinds: list[dict[str, Any]] = [
        {"targets": "index"}, {"targets": "one-hot"}, {"targets": "binary"},
        {"targets": "values", "inputs": "values"}, {"targets": "probabilities", "inputs": "log-probabilities"},
    ]  # fmt: skip
    cases = [case for kind in kinds if family.applies(case := Case(3, (12, 13), **kind))]
    assert cases
    for case in cases:
        plain = next(iter(family.variants(case, [])))
        probe = battery(case, (12, 13))[0]
        with np.errstate(all="ignore"):
            assert isinstance(family.value(probe, "none", **plain), float)
