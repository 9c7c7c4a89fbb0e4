"""A comparison as one page that needs nothing else: no network, no script, no fonts."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .case import Case
from .causes import CAUSES, Row, said
from .diagnose import GRADIENT, Finding, described, tolerance
from .identify import Identity
from .probes import FULL, Array
from .report import Report
from .runner import About, Observation

SHORT = 120
"""Characters of a message that are shown unfolded."""
HUGE = 4000
"""Characters of a message that are shown at all."""
INNER = ("name", "training", "is_full_backward_hook")
"""What objects of PyTorch and Keras have beside their options."""
CELLS = 64
"""Cells of a heat map along an axis, at most."""
NAMED = 8
"""Probes that a finding names unfolded."""
CLASSES = 24
"""Classes that the bar chart shows, at most."""
PREDICTABLE = 4000
"""Elements of the first probe up to which its formula is differentiated: that takes two evaluations each."""
ASIDE = ("upstream", "parts", "precision", "not finite", "labels", "shapes")
"""Groups of probes whose gradients are larger or odd by construction: no good picture of where losses differ."""
DECADES = 8
"""Powers of ten on a logarithmic axis, at most: smaller numbers lie at its end, so that the others have room."""
LEAST = -3
"""The first bin of the histogram: 2**LEAST ulp and less."""
WIDTH = 360.0
"""Of the drawings, in CSS pixels of a narrow phone: text in them keeps its size there."""

VIRIDIS = (
    "#440154", "#481a6c", "#472f7d", "#414487", "#39568c", "#31688e", "#2a788e", "#23888e", "#1f988b", "#22a884",
    "#35b779", "#54c568", "#7ad151", "#a5db36", "#d2e21b", "#fde725",
)  # fmt: skip
"""Colours in perceptual order, from little to much."""

CSS = """
:root{color-scheme:light dark;--bg:#f4f5f7;--card:#fff;--fg:#1b1f24;--muted:#57606a;--line:#d5d9de;--code:#f4f5f7;
--same:#0b6394;--differ:#b3430a;--gradient:#7a3d9a;--failed:#5a4a00;--tint:#fff3ea;--calm:#eaf4fb;--dull:#fbf6df}
@media (prefers-color-scheme:dark){:root{--bg:#111417;--card:#1b1f24;--fg:#e6e9ec;--muted:#a3adb8;--line:#394049;
--code:#111417;--same:#71bdea;--differ:#f2a05e;--gradient:#cda2e6;--failed:#e5cf6b;--tint:#2c211a;--calm:#172630;
--dull:#2a2717}}
*{box-sizing:border-box}
html{scroll-behavior:smooth}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
body{margin:0 auto;max-width:1240px;padding:16px;background:var(--bg);color:var(--fg);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif;overflow-wrap:anywhere}
h1{font-size:1.35rem;line-height:1.3;margin:0}h2{font-size:1.15rem;margin:0 0 12px}h3{font-size:1rem;margin:0}
h4{font-size:.85rem;margin:12px 0 4px;color:var(--muted)}p{margin:8px 0}ul{margin:4px 0;padding-left:1.2em}
a{color:var(--same)}code,pre,.name{font-family:ui-monospace,"SF Mono",Menlo,Consolas,"Liberation Mono",monospace;
font-size:.88em}pre{background:var(--code);border:1px solid var(--line);border-radius:6px;padding:10px;margin:0;
white-space:pre-wrap}
section,.side{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:16px;margin:16px 0}
.verdict{display:flex;gap:14px;align-items:flex-start;padding:16px;border-radius:10px;border:2px solid;
background:var(--card);margin-bottom:16px}
.text{margin:8px 0}.verdict .text{margin:4px 0 0}.verdict .mark{font-size:2rem;line-height:1;font-weight:700;margin:0}
.verdict.same{border-color:var(--same);background:var(--calm)}.same>.mark{color:var(--same)}
.verdict.differ{border-color:var(--differ);background:var(--tint)}.differ>.mark{color:var(--differ)}
.verdict.failed{border-color:var(--failed);background:var(--dull)}.failed>.mark{color:var(--failed)}
nav{display:flex;flex-wrap:wrap;gap:4px 16px;margin:12px 2px}
.sides{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,340px),1fr));gap:16px}.side{margin:0}
.side h2{display:flex;gap:10px;align-items:baseline;margin:0 0 8px}.letter{font-weight:700;border-radius:6px;
padding:0 8px;background:var(--fg);color:var(--card)}
dl{display:grid;grid-template-columns:auto 1fr;gap:4px 12px;margin:0}dt{color:var(--muted)}dd{margin:0}
.muted,figcaption{color:var(--muted);font-size:.88rem}
.finding{border:1px solid var(--line);border-radius:8px;padding:10px 14px;margin:10px 0}
.finding>summary{cursor:pointer}.finding>summary h3{display:inline}
.rank{display:inline-block;min-width:1.6em;text-align:center;border-radius:6px;background:var(--differ);
color:var(--card);font-weight:700;margin-right:6px}
.chip{display:inline-block;border:1px solid var(--line);border-radius:12px;padding:0 9px;margin:2px 2px;
font-size:.85rem;color:inherit;text-decoration:none}a.chip:hover{border-color:var(--same)}
.score{display:flex;align-items:center;gap:10px;font-size:.88rem;color:var(--muted)}
.track{flex:0 1 180px;height:8px;border-radius:4px;background:var(--line);overflow:hidden}
.track span{display:block;height:100%;background:var(--differ)}
.wide{overflow-x:auto;border:1px solid var(--line);border-radius:8px}
table{border-collapse:collapse;width:100%;font-size:.86rem;overflow-wrap:normal}
th,td{padding:5px 10px;text-align:left;vertical-align:top;border-top:1px solid var(--line)}
thead th{border-top:0;white-space:nowrap}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tbody th{font-weight:400;position:sticky;left:0;background:var(--card);min-width:12em;max-width:18em;z-index:1;
overflow-wrap:anywhere}
tr.differ th,tr.differ td{background:var(--tint)}tr.differ td.mark{color:var(--differ);font-weight:600}
td.mark{white-space:nowrap}td.notes{min-width:13em;max-width:30em;overflow-wrap:anywhere}
tr:target th,tr:target td{outline:2px solid var(--same);outline-offset:-2px}
section:has(#only:checked) tr.same:not(:target){display:none}
td details summary{cursor:pointer}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:24px}
figure{margin:0}svg{display:block;overflow:visible;width:100%;max-width:460px;height:auto}svg.key{display:inline-block;width:14px;
height:14px;vertical-align:-2px}
svg text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif;fill:var(--muted)}
.axis{stroke:var(--line);fill:none}.diagonal{stroke:var(--muted);stroke-dasharray:4 3;fill:none}
.point{fill:none;stroke:var(--same);stroke-width:1.6}.point.value{fill:var(--differ);stroke:var(--card);
stroke-width:.7}.point.only{fill:var(--gradient);stroke:var(--card);stroke-width:.7}
.column{fill:var(--same)}.column.odd{fill:var(--differ)}.band{fill:var(--muted);opacity:.3}
.bad{stroke:#fff;stroke-width:1;fill:none}.badcell{fill:#b3430a}.legend{display:flex;flex-wrap:wrap;gap:2px 18px;
margin:8px 0;padding:0;list-style:none;font-size:.88rem}
footer{color:var(--muted);font-size:.86rem;margin:20px 2px}
@media (max-width:640px){body{padding:8px}section,.side{padding:12px}td.notes{min-width:26em}
tbody th{min-width:8.5em}}
@media print{body{background:#fff}section,.finding{break-inside:avoid}nav{display:none}}
"""


def page(report: Report) -> str:
    """A comparison as an HTML page, verdict first.

    Args:
        report: the comparison; one that failed has a page, too.

    Returns:
        The page: one document without scripts, links to other places or fonts of its own.
    """
    parts = [
        _verdict(report), _contents(report), _sides(report), _findings(report), _remaining(report), _table(report),
        _pictures(report), _footer(report),
    ]  # fmt: skip
    title = f"{_brief(report.name_a, 60)} and {_brief(report.name_b, 60)}: {_word(report)}"
    # The policy makes browsers refuse what could come from elsewhere, should a text ever slip through.
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_e(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


# Text.


def _e(text: object) -> str:
    """Text for the page; what losses say may hold anything, even what no page may, such as half a surrogate pair."""
    plain = (
        c if c.isprintable() or c == "\n" else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in str(text)
    )
    return html.escape("".join(plain))


def _brief(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _message(text: str) -> str:
    """A message, folded where it is long, cut where it is huge."""
    if len(text) <= SHORT:
        return _e(text)
    more = f" … and {len(text) - HUGE} more characters" if len(text) > HUGE else ""
    return f"<details><summary>{_e(_brief(text, SHORT))}</summary>{_e(text[:HUGE])}{more}</details>"


def _apart(found: float | None) -> str:
    """A distance in ulp."""
    return "none" if found is None else "∞" if math.isinf(found) else f"{found:.3g}"


def _value(seen: Observation) -> str:
    """A value with all digits that a float32 has: those that differ in the last place look different."""
    return "raises" if seen.error is not None else "none" if seen.value is None else f"{seen.value:.9g}"


def _many(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"


# The parts of the page.


def _word(report: Report) -> str:
    return "could not compare" if report.failed is not None else "no difference" if report.same else "they differ"


def _verdict(report: Report) -> str:
    kind, mark = (
        ("failed", "!") if report.failed is not None else ("same", "=") if report.same else ("differ", "≠")
    )  # fmt: skip
    head, colon, rest = report.verdict.partition(": ")
    text = f'<div class="text">{_message(rest)}</div>' if colon else ""
    return (
        f'<header class="verdict {kind}"><p class="mark" aria-hidden="true">{mark}</p>'
        f"<div><h1>{_e(head)}</h1>{text}</div></header>"
    )


def _contents(report: Report) -> str:
    if not report.rows:
        return ""
    places = [("findings", "Why"), ("probes", "Probes"), ("pictures", "Pictures")]
    links = "".join(f'<a href="#{place}">{name}</a>' for place, name in places)
    return f'<nav aria-label="On this page">{links}</nav>'


def _sides(report: Report) -> str:
    sides = (
        ("a", report.name_a, report.about_a, report.identity_a),
        ("b", report.name_b, report.about_b, report.identity_b),
    )
    cards = "".join(_side(report, *side) for side in sides)
    return f'<div class="sides">{cards}</div>\n<p class="muted">{_e(_batch(report.case))}</p>'


def _side(report: Report, letter: str, name: str, about: About | None, identity: Identity | None) -> str:
    facts = []
    if about is not None:
        made = {"torch": "PyTorch", "tf": "TensorFlow", "spec": "a spec"}.get(about.framework, about.framework)
        facts.append(("made of", _e(made) + (f", from {_e(about.library)}" if about.library else "")))
        if about.calls:
            facts.append(("called", "<ul>" + "".join(f"<li>{_message(call)}</li>" for call in about.calls) + "</ul>"))
        options = {k: v for k, v in about.settings.items() if v is not None and k not in INNER}
        if options and about.framework != "spec":  # a spec's name has them
            facts.append(("options", _message(", ".join(f"{key}={value!r}" for key, value in options.items()))))
    if formula := _formula(report, identity):
        facts.append(("computes", formula))
    listed = "".join(f"<dt>{term}</dt><dd>{fact}</dd>" for term, fact in facts)
    known = f"<dl>{listed}</dl>" if listed else ""
    head = f'<span class="letter">{letter}</span><span class="name">{_e(_brief(name, 3 * SHORT))}</span>'
    return f'<div class="side"><h2>{head}</h2>{known}</div>'


def _formula(report: Report, identity: Identity | None) -> str:
    """What a side computes; of losses that agree nobody asked."""
    if identity is not None:
        return " + ".join(f"<code>{_e(described(part))}</code>" for part in identity.parts)
    return "" if report.same or report.failed is not None else "no known formula"


def _batch(case: Case) -> str:
    """The batch in words."""
    shape = " x ".join(map(str, case.shape)) if len(case.shape) > 1 else f"{case.shape[0]} numbers"
    words = [f"Batch: {case.inputs} of {shape}", f"targets: {case.targets}"]
    if case.ignore_index is not None:
        words.append(f"ignore_index {case.ignore_index}")
    if case.weights != "none":
        words.append(f"a weight for each {case.weights}")
    if case.replicas > 1:
        words.append(f"{case.replicas} replicas")
    return f"{', '.join(words)}, seed {case.seed}."


def _findings(report: Report) -> str:
    places = {row.probe.name: k for k, row in enumerate(report.rows)}
    cards = "".join(_finding(report, k, finding, places) for k, finding in enumerate(report.findings, 1))
    if not cards:
        if not report.rows or report.failed is not None:
            return ""
        if report.same:
            return (
                '<section id="findings"><h2>Why</h2><p>Nothing differs, so there is nothing to explain.</p></section>'
            )
        names = ", ".join(dict.fromkeys(cause.name for cause in CAUSES))
        cards = (
            "<p>No known cause explains it. The pictures below may say where to look.</p>"
            f"<details><summary>What was ruled out</summary><p>{_e(names)}</p></details>"
        )
    heading = "Also found" if report.same else "Why"
    return f'<section id="findings"><h2>{heading}</h2>{_differences(report)}{cards}</section>'


def _differences(report: Report) -> str:
    if not report.differences:
        return ""
    items = "".join(
        f"<li>{_e(d.family + ', ' if d.family else '')}{_message(said(d))}</li>" for d in report.differences
    )
    return f"<p>Their formulas differ in:</p><ul>{items}</ul>"


def _finding(report: Report, rank: int, finding: Finding, places: dict[str, int]) -> str:
    cause = finding.cause
    score = min(1.0, max(0.0, finding.score))
    lines = [
        f'<summary><span class="rank">{rank}</span><h3>{_e(cause.title)}</h3> '
        f'<span class="muted">{cause.number} {_e(cause.name)}</span></summary>',
        f'<div class="text">{_message(finding.detail)}</div>',
        '<div class="score"><span class="track" aria-hidden="true">'
        f'<span style="width:{100 * score:.0f}%"></span></span><span>score {score:.2f}</span></div>',
    ]
    if finding.shows:
        chips = [_chip(name, places) for name in finding.shows]
        more = ""
        if len(chips) > NAMED:
            more = f"<details><summary>and {len(chips) - NAMED} more</summary>{''.join(chips[NAMED:])}</details>"
        shown = _many(len(chips), "probe", "probes")
        lines.append(f"<p>Shows on {shown}: {''.join(chips[:NAMED])}</p>{more}")
    if finding.mends:
        lines.append(
            f"<p>Mended alone, {len(finding.mends)} of "
            f"{_many(len(report.differing), 'differing probe', 'differing probes')} agree.</p>"
        )
    lines.append(f"<p>{_e(cause.text)}</p>{_fixes(cause.torch, cause.tf)}")
    return f'<details class="finding"{" open" if rank <= 2 else ""}>{"".join(lines)}</details>'


def _chip(name: str, places: dict[str, int]) -> str:
    if name in places:
        return f'<a class="chip" href="#p{places[name]}">{_e(name)}</a>'
    return f'<span class="chip">{_e(name)}</span>'


def _fixes(torch: str, tf: str) -> str:
    fixes = [("PyTorch and TensorFlow", torch)] if torch == tf else [("PyTorch", torch), ("TensorFlow", tf)]
    return "".join(f"<h4>{name}</h4><pre><code>{_e(code)}</code></pre>" for name, code in fixes)


def _remaining(report: Report) -> str:
    """How much the formulas leave open, and who is right where a spec says it."""
    lines = []
    predicted = None if report.failed is not None or report.same else report.predicted
    if predicted is not None:
        mended = "With all of this mended in a" if report.differences else "By the formula found for it"
        worst = "no closer" if math.isinf(predicted[0]) else f"within {predicted[0]:.3g} ulp"
        lines.append(f"{mended}, b's values are predicted {worst} on {predicted[1]} of {len(report.rows)} probes.")
        if report.rows[0].probe.x.size <= PREDICTABLE and (gradient := report.gradient_predicted) is not None:
            close = "no closer than its derivative" if math.isinf(gradient) else f"within {gradient:.3g} ulp"
            lines.append(f"b's gradient on the first probe is predicted {close}, of its largest element.")
    lines += report.oracle
    if not lines:
        return ""
    heading = "What remains" if predicted is not None else "Which is right"
    items = "".join(f"<p>{_e(line)}</p>" for line in lines)
    return f"<section><h2>{heading}</h2>{items}</section>"


def _footer(report: Report) -> str:
    from .. import __version__

    return (
        f"<footer><p>Rounding: {_e(tolerance())}. An ulp is a unit in the last place of float32.</p>"
        f"<p>{report.seconds:.1f} s, dualloss {_e(__version__)}, exit status {report.exit_code}.</p></footer>"
    )


# The table.


def _table(report: Report) -> str:
    rows = report.rows
    if not rows:
        return ""
    common = _everywhere(rows, "a"), _everywhere(rows, "b")
    above = "".join(
        f'<div class="text">{side}, wherever it returns: {_message(note)}</div>'
        for side, notes in zip("ab", common, strict=True)
        for note in notes
    )
    mixed = 0 < len(report.differing) < len(rows)
    only = '<p><label><input type="checkbox" id="only"> only those that differ</label></p>' if mixed else ""
    heads = "".join(
        f'<th scope="col"{" class=" + chr(34) + "number" + chr(34) if number else ""}>{name}</th>'
        for name, number in (
            ("Probe", False), ("Group", False), ("a", True), ("b", True), ("Value, ulp", True), ("Gradient, ulp", True),
            ("Same?", False), ("Errors and notes", False),
        )
    )  # fmt: skip
    body = "\n".join(_row(k, row, common) for k, row in enumerate(rows))
    edges = sum(row.edge is not None for row in rows)
    count = f"{len(report.differing)} of {_many(len(rows), 'probe', 'probes')}"
    if edges:
        count += f"; {_many(edges, 'probe', 'probes')} at the edge of what losses take, which counts as the same"
    legend = (
        f"These differ: {count}. Gradients: the element that differs most, in ulp of the largest one. ∞: finite on one "
        "side only."
    )
    return (
        f'<section id="probes"><h2>Probes</h2><p class="muted" id="legend">{legend}</p>{above}{only}'
        '<div class="wide" role="region" aria-label="Probes" tabindex="0"><table aria-describedby="legend">'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div></section>"
    )


def _everywhere(rows: Sequence[Row], side: str) -> tuple[str, ...]:
    """Notes that all probes of a side have: said once, they leave the table to the others."""
    seen = [getattr(row, side) for row in rows]
    notes = [set(one.notes) for one in seen if one.error is None]
    return tuple(sorted(set.intersection(*notes))) if len(notes) > 2 else ()


def _row(k: int, row: Row, common: tuple[tuple[str, ...], tuple[str, ...]]) -> str:
    notes = [] if row.edge is None else [f"at the edge: {row.edge}"]
    for side, seen, known in (("a", row.a, common[0]), ("b", row.b, common[1])):
        if seen.error is not None and seen.error not in (row.edge or ""):
            notes.append(f"{side} raises: {seen.error}")
        notes += [f"{side}: {note}" for note in seen.notes if note not in known]
    numbers = (_value(row.a), _value(row.b), _apart(row.value_ulp), _apart(row.gradient_ulp))
    cells = "".join(f'<td class="number">{number}</td>' for number in numbers)
    kind = "differ" if not row.same else "same" if row.edge is None else "edge"
    return (
        f'<tr id="p{k}" class="{kind}"><th scope="row">{_e(row.probe.name)}</th>'
        f'<td>{_e(row.probe.group)}</td>{cells}<td class="mark">{_judged(row)}</td>'
        f'<td class="notes">{"".join(f"<div>{_message(note)}</div>" for note in notes)}</td></tr>'
    )


def _judged(row: Row) -> str:
    if row.same:
        return "= same" if row.edge is None else "~ edge"
    return "≠ " + ("gradient" if row.value_same else "value" if row.gradient_same else "value, gradient")


# The pictures.


def _pictures(report: Report) -> str:
    if not report.rows:
        return ""
    gradients = [row for row in report.rows if _comparable(row)]
    figures = [_scatter(report.rows), _histogram(gradients), *_places(report.case, gradients)]
    return (
        '<section id="pictures"><h2>Pictures</h2><div class="figures">'
        + "\n".join(f"<figure>{figure}</figure>" for figure in figures)
        + "</div></section>"
    )


def _svg(height: float, label: str, *content: str) -> str:
    """A drawing; browsers show the `title` of its elements."""
    return f'<svg viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-label="{_e(label)}">' + "".join(content) + "</svg>"


def _text(x: float, y: float, text: str, anchor: str = "middle", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{_e(text)}</text>'


def _line(x: float, y: float, to_x: float, to_y: float, kind: str = "axis") -> str:
    return f'<path class="{kind}" d="M{x:.1f} {y:.1f}L{to_x:.1f} {to_y:.1f}"/>'


@dataclass(frozen=True)
class _Scale:
    """An axis of numbers of any size.

    Attributes:
        low, high: its ends, transformed.
        linear: up to where it is linear about 0, logarithmic beyond; 0: logarithmic, for positive numbers.
    """

    low: float
    high: float
    linear: float

    @classmethod
    def of(cls, values: Sequence[float]) -> _Scale:
        """The axis on which these numbers have room."""
        sizes = [abs(v) for v in values if v]
        linear = max(min(sizes), 1e-5 * max(sizes)) if sizes else 1.0
        if values and all(v > 0 for v in values):
            linear = 0.0
        ends = [cls(0.0, 1.0, linear)._moved(v) for v in values] or [0.0]
        if not linear:
            ends = [max(end, max(ends) - DECADES) for end in ends]
        room = max(0.06 * (max(ends) - min(ends)), 0.25 - 0.5 * (max(ends) - min(ends)))
        return cls(min(ends) - room, max(ends) + room, linear)

    def _moved(self, value: float) -> float:
        if not self.linear:
            return math.log10(value)
        return math.copysign(math.log10(1 + abs(value) / self.linear), value)

    def __call__(self, value: float) -> float:
        """The place of a number, from 0 to 1; what is too small for the axis lies at its end."""
        return max(0.0, (self._moved(value) - self.low) / (self.high - self.low))

    def holds(self, value: float) -> bool:
        """Whether it is large enough for the axis."""
        return self._moved(value) >= self.low

    def ticks(self) -> list[float]:
        """Round numbers on it, with room between them for their names."""
        found: list[float] = []
        for digits in ((1.0,), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)):
            found = [v for v in self._candidates(digits) if self.holds(v) and self(v) <= 1]
            if len(found) > 2:
                break
        kept: list[float] = []
        for value in found:
            if all(abs(self(value) - self(other)) > 0.14 for other in kept):
                kept.append(value)
        return kept

    def _candidates(self, digits: Sequence[float]) -> Iterator[float]:
        if not self.linear:
            decades = range(max(-323, math.floor(self.low)), min(307, math.ceil(self.high)) + 1)
            yield from (float(f"{digit}e{k}") for k in decades for digit in digits)
            return
        yield 0.0
        top = max(abs(self.low), abs(self.high)) + math.log10(self.linear)
        decades = range(min(307, math.ceil(top)), max(-323, math.floor(math.log10(self.linear))) - 1, -1)
        yield from (float(f"{sign}{digit}e{k}") for k in decades for digit in digits[::-1] for sign in ("", "-"))


KINDS = {
    "same": ("point", "the same"),
    "value": ("point value", "the values differ"),
    "only": ("point only", "only the gradients differ"),
}
"""How the scatter plot marks probes: by shape and by colour."""


def _kind(row: Row) -> str:
    return "same" if row.same else "only" if row.value_same else "value"


def _mark(kind: str, x: float, y: float, title: str = "") -> str:
    told = f"<title>{_e(title)}</title>" if title else ""
    if kind == "same":
        return f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="4">{told}</circle>'
    shape = "m0 -6.5 6.5 6.5-6.5 6.5-6.5-6.5z" if kind == "value" else "m0-6.5 6.2 11h-12.4z"
    return f'<path class="{KINDS[kind][0]}" d="M{x:.1f} {y:.1f}{shape}">{told}</path>'


def _finite(seen: Observation) -> bool:
    return seen.value is not None and math.isfinite(seen.value)


def _scatter(rows: Sequence[Row]) -> str:
    """The values of b over those of a."""
    title = "<h3>Values of b over those of a</h3>"
    shown = [row for row in rows if _finite(row.a) and _finite(row.b)]
    if not shown:
        return f"{title}<p>No probe has finite values on both sides.</p>"
    points = [(row, row.a.value or 0.0, row.b.value or 0.0) for row in shown]
    scale = _Scale.of([v for _, a, b in points for v in (a, b)])
    left, top, size = 52.0, 8.0, 300.0
    drawn = _square(scale, left, top, size)
    for row, a, b in sorted(points, key=lambda point: not point[0].same):  # what differs lies on top
        told = f"{row.probe.name}: a {a:.9g}, b {b:.9g}, {_apart(row.value_ulp)} ulp"
        drawn.append(_mark(_kind(row), left + size * scale(a), top + size * (1 - scale(b)), told))
    key = "".join(
        f'<li><svg class="key" viewBox="-8 -8 16 16" aria-hidden="true">{_mark(kind, 0, 0)}</svg> {name}</li>'
        for kind, (_, name) in KINDS.items() if any(_kind(row) == kind for row in shown)
    )  # fmt: skip
    axes = "logarithmic" if not scale.linear else f"linear up to {scale.linear:.2g}, logarithmic beyond"
    caption = f"{_many(len(shown), 'probe', 'probes')}; both axes are {axes}. On the line, a and b are equal."
    if any(not scale.holds(v) for _, a, b in points for v in (a, b)):
        caption += " Values too small for the axes lie at their ends."
    out = [row.probe.name for row in rows if not (_finite(row.a) and _finite(row.b))]
    if out:
        caption += f" Left out: {_many(len(out), 'probe', 'probes')} without a finite value on both sides."
    return (
        title + _svg(350, "Scatter plot of the values of b over those of a", *drawn)
        + f'<ul class="legend">{key}</ul><figcaption>{_e(caption)}</figcaption>'
    )  # fmt: skip


def _square(scale: _Scale, left: float, top: float, size: float) -> list[str]:
    """The frame of a scatter plot of one quantity over itself."""
    drawn = [f'<rect class="axis" x="{left:g}" y="{top:g}" width="{size:g}" height="{size:g}"/>']
    for tick in scale.ticks():
        x, y = left + size * scale(tick), top + size * (1 - scale(tick))
        drawn += [_line(x, top, x, top + size), _line(left, y, left + size, y)]
        drawn += [_text(x, top + size + 16, f"{tick:g}"), _text(left - 6, y + 4, f"{tick:g}", "end")]
    drawn += [_text(left + size / 2, top + size + 34, "a"), _text(10, top + size / 2, "b")]
    return [*drawn, _line(left, top + size, left + size, top, "diagonal")]


def _comparable(row: Row) -> bool:
    a, b = row.a.gradient, row.b.gradient
    return a is not None and b is not None and a.shape == b.shape == row.probe.x.shape and a.size > 0


def _gap(row: Row) -> tuple[Array, Array]:
    """How far the gradients of a probe are apart, and where this is no number: only one of them is finite."""
    a, b = np.asarray(row.a.gradient, np.float64), np.asarray(row.b.gradient, np.float64)
    with np.errstate(all="ignore"):
        gap = np.abs(a - b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    bad = ~same & ~np.isfinite(gap)
    return np.where(same | bad, 0.0, gap), bad


def _largest(gradient: Array | None) -> float:
    """The size of the largest finite element."""
    sizes = np.abs(np.asarray(gradient, np.float64))
    return float(sizes[np.isfinite(sizes)].max(initial=2.0**-126))


def _bins(rows: Iterable[Row]) -> tuple[int, dict[int, int], int]:
    """Elements of gradients by their distance: those without one, those of 2**k ulp, those not finite on one side."""
    none, odd = 0, 0
    counts: dict[int, int] = {}
    for row in rows:
        gap, bad = _gap(row)
        largest = max(_largest(row.a.gradient), _largest(row.b.gradient))
        apart = gap[gap > 0] / 2.0 ** (math.floor(math.log2(largest)) - 23)
        powers = np.maximum(np.frexp(apart)[1] - 1, LEAST)
        for k, count in enumerate(np.bincount(powers - LEAST).tolist(), LEAST):
            if count:
                counts[k] = counts.get(k, 0) + count
        odd += int(bad.sum())
        none += int((~bad & (gap == 0)).sum())
    return none, counts, odd


def _histogram(rows: Sequence[Row]) -> str:
    """How far the elements of gradients are apart."""
    title = "<h3>How far gradients are apart</h3>"
    if not rows:
        return f"{title}<p>No probe has a gradient on both sides.</p>"
    none, counts, odd = _bins(rows)
    elements = none + sum(counts.values()) + odd
    caption = (
        f"{elements:,} elements of {_many(len(rows), 'probe', 'probes')}: {none:,} without a difference, {odd:,} not "
        "finite on one side. Counts are on a logarithmic axis. Left of the grey band it is rounding."
    )
    drawing = _svg(264, "Histogram of the differences of gradients", *_columns(none, counts, odd))
    return f"{title}{drawing}<figcaption>{caption}</figcaption>"


def _columns(none: int, counts: dict[int, int], odd: int) -> list[str]:
    """The histogram's columns and axes: one for 0, one for each power of 2, one for what is not finite."""
    first, last = min([0, *counts]), max([9, *counts])
    bins = [(f"{_power(k)} to {_power(k + 1)} ulp", counts.get(k, 0)) for k in range(first, last + 1)]
    if first == LEAST:
        bins[0] = (f"less than {_power(LEAST + 1)} ulp", bins[0][1])
    bins = [("no difference", none), *bins, ("not finite on one side", odd)]
    left, base, height = 54.0, 198.0, 190.0
    step = (WIDTH - left - 4) / (len(bins) + 2)
    decades = max(1, math.ceil(math.log10(max(count for _, count in bins) + 1)))

    def up(count: float) -> float:
        return height * math.log10(1 + count) / math.log10(1 + 10.0**decades)

    def across(k: float) -> float:  # the columns at the ends stand apart: they are no powers of 2
        return left + step * (k if k < 1 else k + 1 if k < len(bins) - 1 else k + 2)

    # Gradients may be apart by a fraction of the largest element, which is 2**23 to 2**24 ulp large: hence a band.
    start, end = (across(1 + math.log2(size * GRADIENT) - first) for size in (2.0**23, 2.0**24))
    drawn = [
        f'<rect class="band" x="{start:.1f}" y="{base - height:g}" width="{end - start:.1f}" height="{height:g}"/>'
    ]
    for k in range(decades + 1):
        y = base - up(10.0**k)
        drawn += [_line(left, y, WIDTH - 4, y), _text(left - 6, y + 4, f"{10**k:,}" if k < 5 else f"1e{k}", "end")]
    drawn.append(_line(left, base, WIDTH - 4, base))
    for k, (told, count) in enumerate(bins):
        if count:
            odd_one = " odd" if k == len(bins) - 1 else ""
            drawn.append(
                f'<rect class="column{odd_one}" x="{across(k) + 0.5:.1f}" y="{base - up(count):.1f}" '
                f'width="{step - 1:.1f}" height="{up(count):.1f}"><title>{told}: {count:,}</title></rect>'
            )
    names = [k for k in range(first, last) if k % 4 == 0]
    drawn += [_text(across(1 + k - first), base + 16, _power(k)) for k in names]
    drawn.append(_text(left + step / 2, base + 16, "0"))
    drawn.append(_text(WIDTH - 2, base + 32, "not finite", "end"))
    drawn.append(_text(left + (WIDTH - left) / 2, base + 52, "ulp of the largest element of a probe's gradient"))
    return drawn


def _power(k: int) -> str:
    """A power of 2, short."""
    return f"{2.0**k:g}" if k <= 12 else f"2^{k}"


# Where they differ.


def _places(case: Case, rows: Sequence[Row]) -> list[str]:
    """Where, and for which classes, the gradients of a probe differ."""
    title = "<h3>Where gradients differ</h3>"
    row = _clearest(rows)
    if row is None:
        return [f"{title}<p>No probe has a finite gradient on both sides.</p>"]
    gap, bad = _gap(row)
    if not gap.any() and not bad.any():
        return [f"{title}<p>Nowhere: no element differs on any probe.</p>"]
    figures = [f"{title}{_map(case, gap, bad)}<figcaption>{_e(_told(case, row, gap))}</figcaption>"]
    if case.classes is not None and case.classes > 1 and gap.any():
        figures.append(_by_class(gap, _quoted(row)))
    return figures


def _quoted(row: Row) -> str:
    return f"Probe “{row.probe.name}” ({row.probe.group})"


def _told(case: Case, row: Row, gap: Array) -> str:
    """Which probe it is, and where it differs most."""
    assert row.a.gradient is not None and row.b.gradient is not None
    if not gap.any():
        return f"{_quoted(row)}: what is finite on both sides is the same."
    place = np.unravel_index(int(gap.argmax()), gap.shape)
    return (
        f"{_quoted(row)}: the largest difference is {gap.max():.3g}, at {_named(case, place)}: "
        f"a {row.a.gradient[place]:.6g}, b {row.b.gradient[place]:.6g}."
        + (" That is rounding." if row.gradient_same else "")
    )


def _clearest(rows: Sequence[Row]) -> Row | None:
    """The probe whose gradients are furthest apart; the one of full size, if that shows it."""
    finite = [row for row in rows if (np.isfinite(row.a.gradient) & np.isfinite(row.b.gradient)).any()]  # type: ignore[arg-type]

    def clear(row: Row) -> tuple[bool, bool, bool, bool, float]:
        most, group = float(_gap(row)[0].max()), row.probe.group
        return most > 0 and not row.gradient_same, most > 0, group == FULL, group not in ASIDE, most

    return max(finite, key=clear, default=None)


def _named(case: Case, place: Sequence[np.intp]) -> str:
    """An element in words."""
    sample, *rest = (int(k) for k in place)
    words = [f"sample {sample}"]
    inner, classes = rest[: len(case.spatial)], rest[len(case.spatial) :]
    if inner:
        words.append(f"position ({', '.join(map(str, inner))})" if len(inner) > 1 else f"position {inner[0]}")
    return ", ".join(words + [f"class {k}" for k in classes])


def _flat(case: Case, values: Array) -> tuple[Array, str]:
    """An array of an input's shape as maps, (maps, rows, columns), and what these are."""
    axes = len(case.spatial)
    if not axes:
        if case.classes is None:
            return values.reshape(1, 1, -1), "Columns: samples."
        return values.reshape(1, values.shape[0], -1), "Rows: samples; columns: classes."
    most = ""
    if case.classes is not None:
        values, most = values.max(-1), " Over the classes, the largest."
    if axes == 1:
        return values[None], f"Rows: samples; columns: positions.{most}"
    if axes > 2:
        values = values.max(tuple(range(1, axes - 1)))
        most += " Over the first spatial axis, too." if axes == 3 else " Over all but the last two spatial axes, too."
    return values, f"A map for a sample.{most}"


def _pooled(values: Array, rows: int, columns: int) -> Array:
    """The largest number of each block of a map."""
    for axis, block in ((-2, rows), (-1, columns)):
        if block > 1:
            values = np.maximum.reduceat(values, np.arange(0, values.shape[axis], block), axis)
    return values


def _maps(case: Case, gap: Array, bad: Array) -> tuple[Array, Array, str]:
    """The maps with no more cells than there is room for, the cells that are not finite, and what both are."""
    maps, about = _flat(case, gap)
    marks, _ = _flat(case, bad.astype(np.int8))
    rows, columns = (-(-size // CELLS) for size in maps.shape[1:])
    if len(case.spatial) > 1:  # images keep their shape
        rows = columns = max(rows, columns)
    if rows * columns > 1:
        about += f" A cell is the largest of {rows} x {columns}."
    if bad.any():
        about += " A cross: not finite on one side."
    return _pooled(maps, rows, columns), _pooled(marks, rows, columns), about


def _map(case: Case, gap: Array, bad: Array) -> str:
    """Heat maps of a probe: of the samples that differ most, as many as there is room for."""
    maps, marks, about = _maps(case, gap, bad)
    samples, height, width = maps.shape
    images = len(case.spatial) > 1
    count = min(samples, 4, max(1, CELLS // max(height, width)))
    worst = np.argsort(-np.where(marks, np.inf, maps).reshape(samples, -1).max(1), kind="stable")
    across = (WIDTH - 12.0 * (count - 1)) / count
    wide = min(across / width, 40.0, WIDTH / height if images else 40.0)
    tall = wide if images else min(max(wide, 14.0), WIDTH / height)
    top = 18.0 if images else 2.0
    drawn = []
    for k, sample in enumerate(sorted(worst[:count].tolist())):
        x = k * (across + 12.0)
        if images:
            drawn.append(_text(x, 12, f"sample {sample}", "start"))
        drawn.append(_cells(maps[sample], marks[sample], gap.max(), (x, top), (wide, tall)))
    if images and count < samples:
        about += f" {_many(count, 'sample', 'samples')} of {samples}: those that differ most."
    end = top + tall * height + 14
    drawing = _svg(end + 34, "Heat map of the difference of gradients", *drawn, _colours(end, gap.max()))
    return f'{drawing}<p class="muted">|gradient of a - gradient of b|. {about}</p>'


def _cells(values: Array, marks: Array, most: float, corner: tuple[float, float], size: tuple[float, float]) -> str:
    """A map: runs of one colour are one shape, for pages of a modest size; maps of few cells tell their numbers."""
    levels = _levels(values, most)
    height, width = values.shape
    inside = []
    if values.size <= 400:
        for i, k in np.ndindex(height, width):
            told = "not finite on one side" if marks[i, k] else f"{values[i, k]:.3g}"
            inside.append(
                f'<path fill="{VIRIDIS[levels[i, k]]}" d="M{k} {i}h1v1h-1z"><title>{i}, {k}: {told}</title></path>'
            )
    else:
        for level in np.unique(levels):
            runs = "".join(f"M{k} {i}h{n}v1h-{n}z" for i, k, n in _runs(levels == level))
            inside.append(f'<path fill="{VIRIDIS[level]}" d="{runs}"/>')
    crosses = "".join(f"M{k} {i}l1 1M{k + 1} {i}l-1 1" for i, k in np.argwhere(marks))
    if crosses:
        cells = "".join(f"M{k} {i}h{n}v1h-{n}z" for i, k, n in _runs(marks > 0))
        inside.append(f'<path class="badcell" d="{cells}" pointer-events="none"/>')
        inside.append(f'<path class="bad" d="{crosses}" vector-effect="non-scaling-stroke" pointer-events="none"/>')
    where = f"translate({corner[0]:.2f} {corner[1]:.2f}) scale({size[0]:.4f} {size[1]:.4f})"
    return f'<g transform="{where}" shape-rendering="crispEdges">{"".join(inside)}</g>'


def _levels(values: Array, most: float) -> Array:
    """The colours of numbers from 0 to the largest, by the square root: one outlier leaves the others visible."""
    share = np.sqrt(values / most) if most > 0 else np.zeros(values.shape)
    return np.minimum((share * len(VIRIDIS)).astype(np.int64), len(VIRIDIS) - 1)


def _runs(where: Array) -> Iterator[tuple[int, int, int]]:
    """Row, first column and length of the runs of a mask."""
    for i, line in enumerate(where):
        ends = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(np.int8), [0]])))
        yield from ((i, int(k), int(n - k)) for k, n in zip(ends[::2], ends[1::2], strict=True))


def _colours(y: float, most: float) -> str:
    """The colour scale."""
    step = 200.0 / len(VIRIDIS)
    boxes = [
        f'<rect fill="{colour}" x="{k * step:.2f}" y="{y:.1f}" width="{step + 0.3:.2f}" height="10"/>'
        for k, colour in enumerate(VIRIDIS)
    ]
    names = (
        _text(0, y + 26, "0", "start"),
        _text(100, y + 26, f"{most / 4:.2g}"),
        _text(200, y + 26, f"{most:.2g}", "end"),
    )
    return "".join([*boxes, *names])


def _by_class(gap: Array, probe: str) -> str:
    """The mean difference of every class."""
    means = gap.reshape(-1, gap.shape[-1]).mean(0)
    chosen = sorted(np.argsort(-means, kind="stable")[:CLASSES].tolist())
    most = float(means.max()) or 1.0
    left, step = 74.0, 22.0
    drawn = []
    for k, one in enumerate(chosen):
        y, length = 2 + k * step, 200.0 * float(means[one]) / most
        drawn.append(_text(left - 8, y + 13, f"class {one}", "end"))
        drawn.append(
            f'<rect class="column" x="{left:g}" y="{y:g}" width="{max(length, 0.5):.1f}" height="{step - 5:g}"/>'
        )
        drawn.append(_text(left + length + 6, y + 13, f"{means[one]:.3g}", "start"))
    rest = len(means) - len(chosen)
    more = f" {_many(rest, 'class', 'classes')} that differ less are left out." if rest else ""
    drawing = _svg(6 + step * len(chosen), "Bar chart of the mean difference by class", *drawn)
    caption = f"{probe}: the mean of |gradient of a - gradient of b| of each class.{more}"
    return f"<h3>Which classes differ</h3>{drawing}<figcaption>{_e(caption)}</figcaption>"
