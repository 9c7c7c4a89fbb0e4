"""The page of a comparison: well-formed, complete, self-contained, whatever the losses did and said."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dualloss
from dualloss.check.case import Case
from dualloss.check.causes import Row
from dualloss.check.compare import compare, rows_of
from dualloss.check.html import page
from dualloss.check.probes import FULL, Probe
from dualloss.check.report import Report
from dualloss.check.runner import About, Observation

VOID = ("meta", "br", "input", "link", "hr", "img")
BLOCKS = (
    "address",
    "details",
    "div",
    "dl",
    "figure",
    "h1",
    "h2",
    "h3",
    "h4",
    "ol",
    "p",
    "pre",
    "section",
    "table",
    "ul",
)
"""Elements before which browsers end a paragraph."""


class Page(HTMLParser):
    """What is on a page; parsing fails where tags are not balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.cells: dict[str, list[str]] = {}
        self.text = ""
        self._row: list[str] | None = None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        assert not (tag in BLOCKS and "p" in self.open), f"<{tag}> in a paragraph"
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self._row = []
        elif tag in ("td", "th") and self._row is not None:
            self._row.append("")

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        assert "svg" in self.open, f"<{tag}/> closes nothing in HTML"
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> in {self.open}"
        self.open.pop()
        if tag == "tr" and self._row:
            self.cells[self._row[0]] = self._row[1:]
            self._row = None

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data
        if self._row and {"td", "th"} & set(self.open):
            self._row[-1] += data


def probe(name: str = "base", group: str = "scale", shape: tuple[int, ...] = (2, 3)) -> Probe:
    return Probe(name, group, np.ones(shape, np.float32), np.zeros(shape[:-1], np.int64))


def report(
    case: Case, probes: Sequence[Probe], a: Sequence[Observation], b: Sequence[Observation], **more: Any
) -> Report:
    about = About("one", "torch", calls=("called as loss(input, target)",))
    rows = rows_of(probes, a, b)
    return replace(Report(case, "one", "two", about, replace(about, name="two"), rows, [], [], None, 0.25), **more)


def of_gradients(case: Case, a: np.ndarray, b: np.ndarray, group: str = "scale") -> Report:
    one = [Observation(1.0, a)]
    return report(case, [probe(group=group, shape=a.shape)], one, [Observation(1.0, b)])


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).standard_normal(shape)


@pytest.fixture(scope="module")
def smoothing() -> Report:
    """Specs that differ in one option."""
    return compare(dualloss.CrossEntropy(), dualloss.CrossEntropy(label_smoothing=0.1), Case(3, (8, 8)))


def test_verdict_findings_and_formulas_are_there(smoothing: Report) -> None:
    found = Page(page(smoothing))
    head, _, cause = smoothing.verdict.partition(": ")
    assert head in found.text and cause in found.text
    assert smoothing.findings
    for finding in smoothing.findings:
        for text in (finding.cause.title, finding.cause.name, finding.detail, finding.cause.torch, finding.cause.tf):
            assert text in found.text
    assert "cross-entropy (smoothing: 0.1)" in found.text
    predicted = smoothing.predicted
    assert predicted is not None and f"within {predicted[0]:.3g} ulp on {predicted[1]} of" in found.text
    assert all(line in found.text for line in smoothing.oracle)
    assert dualloss.__version__ in found.text


def test_probes_that_findings_name_are_linked(smoothing: Report) -> None:
    found = Page(page(smoothing))
    places = {value for name, value in found.attributes if name == "id"}
    links = [value for name, value in found.attributes if name == "href"]
    assert links and all(link.startswith("#") and link[1:] in places for link in links)


def test_table_has_the_numbers_of_the_rows(smoothing: Report) -> None:
    cells = Page(page(smoothing)).cells
    for row in smoothing.rows:
        group, a, b, value, gradient, same, _ = cells[row.probe.name]
        assert group == row.probe.group
        for text, seen in ((a, row.a), (b, row.b)):
            if seen.value is not None and math.isfinite(seen.value):
                assert np.float32(text) == np.float32(seen.value)
            else:
                assert text == ("raises" if seen.error else str(seen.value))
        for text, apart in ((value, row.value_ulp), (gradient, row.gradient_ulp)):
            assert text == ("none" if apart is None else "∞" if math.isinf(apart) else f"{apart:.3g}")
        assert same.startswith("≠") != row.same


def test_losses_that_agree() -> None:
    found = Page(page(compare(dualloss.CrossEntropy(), dualloss.CrossEntropy(), Case(3))))
    assert "No difference found" in found.text
    assert "nothing to explain" in found.text
    assert "no element differs on any probe" in found.text


def test_a_written_page_is_the_page(smoothing: Report, tmp_path: Path) -> None:
    smoothing.to_html(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page(smoothing)


def test_nothing_comes_from_elsewhere(smoothing: Report) -> None:
    text = page(smoothing)
    assert re.findall(r"https?:|url\(|@import", text) == []
    found = Page(text)
    assert not {"script", "link", "img", "iframe", "object"} & set(found.tags)
    assert not [value for name, value in found.attributes if name == "src" or name.startswith("on")]


def test_comparison_that_failed() -> None:
    why = "import nowhere: ModuleNotFoundError: <b>no</b> module"
    found = Page(page(Report.impossible(Case(), ("nowhere:loss", "b.json"), why, 0.5)))
    assert "Could not compare" in found.text and why in found.text and "b.json" in found.text
    assert "table" not in found.tags


def test_failed_comparison_with_rows() -> None:
    seen = [Observation(error="ValueError: shape")]
    found = Page(
        page(report(Case(3), [probe()], seen, [Observation(1.0, numbers(2, 3))], failed="a: ValueError: shape"))
    )
    assert "a raises: ValueError: shape" in found.cells["base"][-1]
    assert "No probe has finite values on both sides" in found.text
    assert "No probe has a gradient on both sides" in found.text


def test_text_of_losses_is_escaped() -> None:
    evil = "<script>alert('x')</script>&\"'<!--"
    about = About(evil, evil, evil, settings={evil: evil}, calls=(evil,))
    seen = [Observation(1.0, notes=(evil,)), Observation(error=evil)]
    other = [Observation(2.0), Observation(3.0)]
    shown = report(Case(3), [probe(evil), probe("other", evil)], seen, other, name_a=evil, about_a=about, oracle=[evil])
    text = page(shown)
    found = Page(text)
    assert "<script" not in text and "<!--" not in text
    assert found.text.count(evil) >= 7
    assert f"a raises: {evil}" in found.cells["other"][-1]


def test_huge_and_odd_errors(tmp_path: Path) -> None:
    huge = "x" * 1_000_000
    odd = "\x00\x1b[31mred\ud800\u202e"
    seen = [Observation(error=huge), Observation(error=odd)]
    made = report(Case(3), [probe(), probe("odd")], seen, seen, failed=huge)
    made.to_html(tmp_path / "report.html")  # what UTF-8 cannot hold is not there
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(text) < 100_000
    assert "more characters" in text
    assert not {"\x00", "\x1b", "\ud800", "\u202e"} & set(text)
    assert "a raises: \N{REPLACEMENT CHARACTER}" in Page(text).cells["odd"][-1]


def test_notes_of_all_probes_are_said_once() -> None:
    seen = [Observation(1.0, notes=("prints: step",)) for _ in range(4)]
    seen[2] = replace(seen[2], notes=("prints: step", "changes the seed"))
    made = report(Case(3), [probe(f"p{k}") for k in range(4)], seen, [Observation(1.0)] * 4)
    found = Page(page(made))
    assert found.text.count("prints: step") == 1
    assert found.cells["p2"][-1] == "a: changes the seed"


def test_edges_are_told_apart() -> None:
    refused = Observation(error="TypeError: half")
    made = report(Case(3), [probe(), probe("half", "precision")], [Observation(1.0)] * 2, [Observation(1.0), refused])
    row: Row = made.rows[1]
    assert row.same and row.edge is not None
    assert Page(page(made)).cells["half"][-2:] == ["~ edge", f"at the edge: {row.edge}"]


@pytest.mark.parametrize(
    "values",
    [
        [(1.0, 1.0), (2.0, 2.5)],
        [(1.0, 1.0)],
        [(0.0, 0.0)],
        [(0.0, 1e-30), (-5.0, 5.0), (3.0, 3.0)],
        [(1e-45, 1e-45), (1.0, 3e38)],
        [(5e-324, 1.7e308), (1e308, 1e-308)],
        [(-1.7e308, 1.7e308), (0.0, 5e-324)],
        [(-0.5, -0.25), (-0.5, -0.25)],
        [(math.nan, 1.0), (math.inf, -math.inf), (1.0, None), (None, None)],
    ],
)
def test_scatter_plot_of_any_values(values: list[tuple[float | None, float | None]]) -> None:
    probes = [probe(f"p{k}") for k in range(len(values))]
    made = report(Case(3), probes, [Observation(a) for a, _ in values], [Observation(b) for _, b in values])
    text = page(made)
    Page(text)
    drawn = sum(all(v is not None and math.isfinite(v) for v in pair) for pair in values)
    assert len(re.findall(r"<title>p\d+: a ", text)) == drawn
    places = re.findall(
        r'class="point[^"]*" (?:cx="([^"]*)" cy="([^"]*)" r="4">|d="M(\S+) ([^m"]*)m[^"]*">)<title>', text
    )
    assert len(places) == drawn
    for numbers_ in places:
        assert all(0 <= float(number) <= 360 for number in numbers_ if number)


def test_scatter_plot_has_its_points_beside_the_diagonal() -> None:
    probes = [probe(name) for name in ("equal", "above", "below")]
    text = page(
        report(Case(3), probes, [Observation(v) for v in (1.0, 2.0, 5.0)], [Observation(v) for v in (1.0, 4.0, 3.0)])
    )
    x0, y0, x1, y1 = map(float, re.findall(r'class="diagonal" d="M(\S+) (\S+)L(\S+) ([^"]+)"', text)[0])
    x, y = map(float, re.findall(r'cx="([^"]*)" cy="([^"]*)" r="4"><title>equal', text)[0])
    places = {"equal": (x, y)}
    for left, down, name in re.findall(r'd="M(\S+) ([^m"]*)m[^"]*"><title>(\w+):', text):
        places[name] = (float(left), float(down))

    def over(name: str) -> float:
        x, y = places[name]
        return (y0 + (x - x0) * (y1 - y0) / (x1 - x0)) - y  # y grows downwards

    assert abs(over("equal")) < 0.3
    assert over("above") > 10 and over("below") < -10


def test_marks_tell_what_differs() -> None:
    same, small, large = numbers(2, 3), numbers(2, 3), 2 * numbers(2, 3)
    made = report(
        Case(3), [probe("same"), probe("value"), probe("only")],
        [Observation(1.0, same), Observation(1.0, small), Observation(1.0, small)],
        [Observation(1.0, same), Observation(2.0, small), Observation(1.0, large)],
    )  # fmt: skip
    text = page(made)
    assert re.search(r'class="point" [^>]*><title>same:', text)
    assert re.search(r'class="point value" [^>]*><title>value:', text)
    assert re.search(r'class="point only" [^>]*><title>only:', text)


@pytest.mark.parametrize(
    ("case", "shape", "words"),
    [
        (Case(3), (4, 3), "Rows: samples; columns: classes."),
        (Case(None, targets="values", inputs="values"), (5,), "Columns: samples."),
        (Case(None, (6, 7), targets="values", inputs="values"), (2, 6, 7), "A map for a sample."),
        (Case(3, (9,)), (4, 9, 3), "Rows: samples; columns: positions."),
        (Case(1, (9, 8)), (2, 9, 8, 1), "A map for a sample."),
        (Case(3, (4, 6, 7)), (2, 4, 6, 7, 3), "Over the first spatial axis, too."),
        (Case(2, (2, 3, 4, 5)), (1, 2, 3, 4, 5, 2), "Over all but the last two spatial axes, too."),
        (Case(3, (200, 131)), (3, 200, 131, 3), "A cell is the largest of 4 x 4."),
        (Case(3, (64, 2)), (2, 64, 2, 3), "sample 1"),
        (Case(100), (150, 100), "A cell is the largest of 3 x 2."),
    ],
)
def test_map_of_every_kind_of_case(case: Case, shape: tuple[int, ...], words: str) -> None:
    a = numbers(*shape)
    b = a.copy()
    b[(-1,) * len(shape)] += 0.5
    text = page(of_gradients(case, a, b))
    found = Page(text)
    assert words in found.text
    assert f"the largest difference is 0.5, at sample {shape[0] - 1}" in found.text
    assert "#fde725" in text.partition('class="legend"')[2]
    assert len(text) < 200_000
    heights = [float(value.split()[3]) for name, value in found.attributes if name == "viewbox" and "-8" not in value]
    assert all(0 < height <= 720 for height in heights)
    assert ("Which classes differ" in found.text) == (case.classes is not None and case.classes > 1)


def test_map_keeps_the_largest_of_what_it_merges() -> None:
    a = np.zeros((1, 200, 200, 2))
    b = a.copy()
    b[0, 101, 53, 1] = 3.0
    text = page(of_gradients(Case(2, (200, 200)), a, b, FULL))
    runs = re.findall(r'<path fill="#fde725" d="([^"]*)"', text)
    assert runs == ["M13 25h1v1h-1z"]  # by blocks of 4
    assert "position (101, 53), class 1: a 0, b 3." in Page(text).text


def test_map_of_gradients_that_are_not_finite() -> None:
    a = numbers(2, 4, 5, 3)
    b = a.copy()
    a[0, 0, 0, 0] = b[0, 0, 0, 0] = math.inf
    a[0, 1, 1, 0] = b[0, 1, 1, 0] = math.nan
    b[1, 2, 3, 1] = math.nan
    b[1, 0, 0, 0] += 1.0
    text = page(of_gradients(Case(3, (4, 5)), a, b))
    found = Page(text)
    assert "120 elements of 1 probe: 118 without a difference, 1 not finite on one side." in found.text
    assert "A cross: not finite on one side." in found.text
    assert text.count('class="badcell"') == 1
    assert "the largest difference is 1, at sample 1, position (0, 0), class 0" in found.text


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_gradient_that_is_nowhere_finite(value: float) -> None:
    a = numbers(2, 3)
    found = Page(page(of_gradients(Case(3), a, np.full_like(a, value))))
    assert "No probe has a finite gradient on both sides" in found.text
    assert "6 not finite on one side" in found.text


def test_histogram_counts_in_ulp_of_the_largest_element() -> None:
    a = np.array([[1.0, 0.5, 0.25], [0.125, 0.0, 0.0]])
    ulp = 2.0**-23
    b = a + np.array([[0.0, ulp, 2 * ulp], [3 * ulp, 4 * ulp, ulp / 1024]])
    text = page(of_gradients(Case(3), a, b))
    told = dict(re.findall(r"<title>([^<]*): ([\d,]+)</title></rect>", text))
    assert told == {
        "no difference": "1", "1 to 2 ulp": "1", "2 to 4 ulp": "2", "4 to 8 ulp": "1", "less than 0.25 ulp": "1",
    }  # fmt: skip


def test_map_is_of_the_probe_that_shows_most() -> None:
    small, large = probe("small", shape=(2, 4, 4, 3)), probe("large", FULL, (2, 8, 8, 3))
    zero = [np.zeros(one.x.shape) for one in (small, small, large)]
    probes = [small, replace(small, name="thrice", group="upstream"), large]

    def shown(*apart: float) -> str:
        b = [Observation(1.0, gradient + by) for gradient, by in zip(zero, apart, strict=True)]
        found = Page(page(report(Case(3, (8, 8)), probes, [Observation(1.0, gradient) for gradient in zero], b)))
        return re.findall("Probe “(.*?)”", found.text)[0]

    assert shown(1.0, 3.0, 0.5) == "large"
    assert shown(1.0, 3.0, 0.0) == "small"
    assert shown(0.0, 3.0, 0.0) == "thrice"
