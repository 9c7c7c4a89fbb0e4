"""Two recorded trainings, compared step by step and stage by stage, to find what diverged first."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..recording import PREFIXES, RESERVED, Recording, RecordingError, Step, Stored
from .growth import grow, growth_text
from .matching import (
    EPSILON,
    TOLERANCES,
    Activation,
    Alignment,
    Array,
    allowed,
    as_pair,
    bare,
    difference_text,
    factor_text,
    find_activation,
    find_order,
    fit_factor,
    labels_text,
    number,
    order_text,
    read_target,
    relative,
    same_bits,
    scaled_text,
    share_differing,
    turned_text,
)

STAGES = ("data", "targets", "sample weights", "logits", "loss", "gradient", "update")
"""What can diverge, each before what follows from it; beside them "rounding", which is no one's fault."""
JUMP = 100.0
"""By how much rounding does not grow in one step."""
_EVEN = 0.01
"""Within so much logits are nearly the same of all classes."""
_ROUNDED = 8 * EPSILON["float32"]
"""What one update of the same weights by the same gradient rounds, relative, is less."""


@dataclass(frozen=True)
class LossArrays:
    """What a recording has of a loss at a step, whole, the channels last; bfloat16 as float32.

    ``kind`` is its class or function, ``settings`` its options as far as they are simple values.
    """

    input: Array
    target: Array
    sample_weight: Array
    loss: Array
    gradient: Array
    upstream: Array
    framework: str
    kind: str
    settings: Mapping[str, Any]


Explain = Callable[[Sequence[LossArrays], Sequence[LossArrays]], str]
"""Says why two losses differ.

It is called with what both computed: first at the step where they differed, from the same input and target; then at up
to :data:`EXPLAINED` steps after it, from what each of them got.
"""
EXPLAINED = 15


@dataclass
class Found:
    """What diverged first: the stage, the step, how; of rounding, how far in ``extra``."""

    stage: str
    step: int
    findings: list[str] = field(default_factory=list)
    extra: str = ""


class Comparison:
    """The common steps of two recordings, stage by stage.

    Attributes:
        steps: the numbers of the common steps.
        series: the relative differences by quantity and step.
        notes: what else is to be known, as keys.
        bits: whether all that was compared so far has the same bits.
        explanation: why the losses differ, where that was asked for.
        activation: what one model ends in, and its loss takes back.
        state: how what is not trained differs, if it does.

    Raises:
        RecordingError: there is no common step.
    """

    def __init__(self, a: Recording, b: Recording, explain: Explain | None) -> None:
        self.a, self.b, self.explain = a, b, explain
        self.steps = [number for number in a.steps if number in b.steps]
        if not self.steps:
            raise RecordingError(
                f"the recordings have no step in common: {str(a.path)!r} has {_numbers(a)}, {str(b.path)!r} "
                f"{_numbers(b)}, expected some of the same number (record both with the same steps= or every=)"
            )
        self.notes: dict[str, None] = {}
        self.series: dict[str, dict[int, float]] = {}
        self.bits = True
        self.bits_until: set[int] = set()
        self.same_gradient: set[int] = set()
        self.explanation: str | None = None
        self.alignment = Alignment()
        self.activation: Activation | None = None
        self.state: str | None = None

    def run(self) -> Found | None:
        """Compare every common step; what diverged first, or None."""
        self._about()
        found: Found | None = None
        for step in self.steps:
            x, y = self.a.steps[step], self.b.steps[step]
            before = self.bits
            found_here = self._step(x, y)
            if found is None:
                found = found_here
            if before and self.bits:
                self.bits_until.add(step)
        for name, why in self.alignment.left_out.items():
            self._note(f"{name} was left out of the comparison: {why}")
        for name, how in self.alignment.reordered.items():
            self._note(f"{name} was compared reordered: {how}")
        if found is not None and found.stage == "loss" and self.activation is None:
            self._explain(found)
        if self.activation is not None:
            self._note(
                f"of what the losses were called with, {self.activation.text}: they were compared behind it, the "
                "gradients before it"
            )
        return found

    def _about(self) -> None:
        for name, recording in (("a", self.a), ("b", self.b)):
            for line in (*recording.limits, *recording.dropped):
                self._note(f"{name}: {line}")
            if not recording.meta["closed"]:
                self._note(f"{name} was not closed: it was cut off, or the training goes on")
        if len(self.a.steps) != len(self.steps) or len(self.b.steps) != len(self.steps):
            self._note(
                f"{len(self.steps)} steps are in both; a has {len(self.a.steps)}, b has {len(self.b.steps)}"
            )  # fmt: skip
        specs = [r.loss.get("spec") for r in (self.a, self.b)]
        for option in ("spec", "reduction", "numerics"):
            values = [r.loss.get(option) for r in (self.a, self.b)]
            if all(specs) and values[0] != values[1]:
                self._note(
                    f"the losses were made with another {option}: {_short(values[0])} against {_short(values[1])}"
                )

    def _note(self, text: str) -> None:
        self.notes.setdefault(text)

    # Each stage returns what it found, or None.

    def _step(self, x: Step, y: Step) -> Found | None:
        found = None
        for check in (
            self._data, self._targets, self._weights, self._logits, self._loss, self._gradient, self._update,
            self._state,
        ):  # fmt: skip
            found_here = check(x, y)
            found = found or found_here
        return found

    def _compare(
        self, quantity: str, x: Step, y: Step, name: str, pair: tuple[Array, Array] | None = None
    ) -> tuple[Stored, Stored, float] | None:
        """Both arrays of a name and their relative difference (NaN: they cannot be compared); None: not in both."""
        a, b = x.arrays.get(name), y.arrays.get(name)
        if a is None or b is None:
            if a is not b:
                self._note(f"{'a' if b is None else 'b'} alone has {name!r}")
            return None
        return a, b, self._measure(quantity, x.number, a, b, pair)

    def _measure(
        self, quantity: str, step: int, a: Stored, b: Stored, pair: tuple[Array, Array] | None = None
    ) -> float:  # fmt: skip
        if pair is None and same_bits(a, b):
            found = 0.0
        else:
            laid = as_pair(a, b) if pair is None else pair
            found = math.nan if laid is None else relative(laid[0], laid[1])
            self.bits = False
            if not (a.whole and b.whole):
                self._note(f"{a.name} was compared by a sample of its elements, where it is not whole")
            if found == 0 and not (a.whole and b.whole):
                found = abs((a.statistics.norm or 0) - (b.statistics.norm or 0)) / max(b.statistics.norm or 0, 1e-300)
        row = self.series.setdefault(quantity, {})
        row[step] = max(found, row.get(step, 0.0)) if not math.isnan(found) else math.inf
        return found

    def _data(self, x: Step, y: Step) -> Found | None:
        found = None
        for name in filter(_is_data, dict.fromkeys((*x.arrays, *y.arrays))):
            compared = self._compare("data", x, y, name)
            if found is not None or compared is None or compared[2] <= allowed("data", *compared[:2]):
                continue
            texts = self._relation(*compared[:2], "data")
            if not texts:
                moved = self._elsewhere(x, name)
                texts = [difference_text(*compared), *([moved] if moved else [])]
            found = Found("data", x.number, [f"{name}: {text}" for text in texts])
        return found

    def _relation(self, a: Stored, b: Stored, quantity: str) -> list[str]:
        pair = as_pair(a, b)
        if pair is None or not (a.whole and b.whole):
            return []
        x, y, _ = pair
        tolerance = allowed(quantity, a, b)
        order = find_order(x, y, tolerance)
        if order is not None:
            return [order_text(order)]
        channels = x.ndim > 2
        text = turned_text(x, y, channels, tolerance) or scaled_text(x, y, channels, max(tolerance, 1e-5))
        return [text] if text else []

    def _elsewhere(self, x: Step, name: str) -> str | None:
        """Whether another step of b has what this one of a has."""
        wanted = x.arrays[name]
        for step in self.b.steps.values():
            other = step.arrays.get(name)
            if other is not None and step.number != x.number and same_bits(wanted, other):
                return f"a's step {x.number} is b's step {step.number}: the batches come in another order"
        return self._samples(name)

    def _samples(self, name: str) -> str | None:
        """Whether all common steps together have the same samples, in another order."""
        bags: list[list[bytes]] = []
        for recording in (self.a, self.b):
            bag: list[bytes] = []
            for step in self.steps:
                array = recording.steps[step].arrays.get(name)
                if array is None or not array.whole or not array.shape:
                    return None
                bag += [row.tobytes() for row in np.ascontiguousarray(array.values())]
            bags.append(sorted(bag))
        few = len(set(bags[0])) < 0.5 * len(bags[0])  # such as single labels: chance would do
        return None if few or bags[0] != bags[1] else "all steps together have the same samples, in another order"

    def _targets(self, x: Step, y: Step) -> Found | None:
        a, b = x.arrays.get("target"), y.arrays.get("target")
        if a is None or b is None:
            self._compare("targets", x, y, "target")
            return None
        if same_bits(a, b):
            self._measure("targets", x.number, a, b)
            return None
        left, right = read_target(x), read_target(y)
        if (left is None or right is None) and a.shape != b.shape:
            self._note(
                f"the targets cannot be compared: their shapes are {a.shape} and {b.shape}, and not both are whole "
                "(record with whole=)"
            )
            self.bits = False
            return None
        if left is None or right is None:
            size = self._measure("targets", x.number, a, b)
            if size <= allowed("data", a, b):
                return None
            return Found("targets", x.number, [difference_text(a, b, size)])
        if left.encoding != right.encoding:
            self._note(f"the targets are encoded differently: a {left.encoding}; b {right.encoding}")
        if left.labels is not None and right.labels is not None and left.labels.shape == right.labels.shape:
            share = share_differing(left.labels, right.labels)
            self.series.setdefault("targets", {})[x.number] = share
            self.bits &= share == 0
            return None if share == 0 else self._labels(x, y, left.labels, right.labels)
        size = self._measure("targets", x.number, a, b)
        if size <= allowed("data", a, b):
            return None
        if left.values.shape == right.values.shape:
            if (found := self._together(x, y, left.values, right.values)) is not None:
                return found
            order = find_order(left.values, right.values, allowed("data", a, b))
            if order is not None:
                return self._ordered(x, y, order)
        texts = self._relation(a, b, "data")
        for hard, soft, name in ((left, right, "b"), (right, left, "a")):
            if hard.labels is not None and soft.values.shape[:-1] == hard.labels.shape and soft.labels is None:
                same = np.array_equal(soft.values.argmax(-1), hard.labels)
                texts += [f"{name}'s are soft, with the same largest classes (label smoothing in the data?)"] * same
        return self._moved(x, y, Found("targets", x.number, texts or [difference_text(a, b, size)]))

    def _labels(self, x: Step, y: Step, left: Array, right: Array) -> Found:
        """How labels differ."""
        if (found := self._together(x, y, left, right)) is not None:
            return found
        text = labels_text(left, right)
        if "differ" in text:  # no label stands for another one
            order = find_order(left, right, 0.0)
            if order is not None:
                return self._ordered(x, y, order)
            text = turned_text(left, right, False, 0.0) or text
        return self._moved(x, y, Found("targets", x.number, [text]))

    def _moved(self, x: Step, y: Step, found: Found) -> Found:
        """If another batch has these targets, it is the data that differ, unless those were recorded, and same."""
        if "differ" in found.findings[0] and (moved := self._elsewhere(x, "target")):
            found.findings.append(moved)
            if not any(_is_data(name) and name in y.arrays for name in x.arrays):
                found.stage = "data"
        return found

    def _together(self, x: Step, y: Step, left: Array, right: Array) -> Found | None:
        """Targets and logits in the same other order: the data are."""
        a, b = x.arrays.get("input"), y.arrays.get("input")
        if a is None or b is None or not (a.whole and b.whole) or a.shape != b.shape:
            return None
        order: Array = find_order(a.values(), b.values(), 10 * allowed("logits", a, b))
        if order is None or not np.array_equal(left, right[order]):
            return None
        return Found("data", x.number, [f"{order_text(order)} (targets and logits alike)"])

    def _ordered(self, x: Step, y: Step, order: Array) -> Found:
        """Targets alone in another order."""
        text = order_text(order)
        if any(_is_data(name) and name in y.arrays for name in x.arrays):
            text += "; but the data come in the same order"
        else:
            a, b = x.arrays.get("input"), y.arrays.get("input")
            pair = None if a is None or b is None else as_pair(a, b)
            if a is not None and b is not None and pair is not None and relative(*pair[:2]) <= allowed("logits", a, b):
                text += "; but the logits come in the same order"
        return Found("targets", x.number, [text])

    def _weights(self, x: Step, y: Step) -> Found | None:
        compared = self._compare("sample weights", x, y, "sample_weight")
        if compared is None:
            only = [name for name, step in (("a", x), ("b", y)) if "sample_weight" in step.arrays]
            return Found("sample weights", x.number, [f"{only[0]} alone has sample weights"]) if only else None
        a, b, size = compared
        if size <= allowed("data", a, b):
            return None
        return Found("sample weights", x.number, self._relation(a, b, "data") or [difference_text(a, b, size)])

    def _logits(self, x: Step, y: Step) -> Found | None:
        if x.number == self.steps[0]:
            self.activation = self._taken_back(x, y)
            self.alignment.agreed = self.activation is not None or self._agree(x, y)
        initial, first_tensor = self._initial(x, y), self._tensors(x, y)
        inputs = self._inputs(x, y)
        if self.activation is not None and inputs is None:
            self._note("where the losses' inputs are not whole, neither they nor losses and gradients were compared")
            return None
        compared = self._compare("logits", x, y, "input", inputs)
        if compared is None or compared[2] <= allowed("logits", *compared[:2]):
            return None
        a, b, size = compared
        ends = None if self.activation else find_activation(a, b)
        texts = [f"{ends.text}: one model ends in it"] if ends else []
        texts = texts or self._relation(a, b, "logits") or [difference_text(a, b, size)]
        if first_tensor:
            texts.append(first_tensor)
        if not any(_is_data(name) and name in y.arrays for name in x.arrays):
            texts.append("the data was not recorded in both: it could be that, too (rec.tensor('data', x))")
        if x.number == self.steps[0]:
            return Found("logits", x.number, [*texts, *([initial] if initial else [])])
        return self._later("logits", x.number, texts)

    def _agree(self, x: Step, y: Step) -> bool:
        """Whether the logits of the step are the same within rounding."""
        a, b = x.arrays.get("input"), y.arrays.get("input")
        if a is None or b is None:
            return False
        pair = as_pair(a, b)
        return pair is not None and relative(*pair[:2]) <= allowed("logits", a, b)

    def _initial(self, x: Step, y: Step) -> str | None:
        """Whether the weights were the same before this step, if they were recorded."""
        state = self._all_weights("initial state", x.number, self._weight_pairs(x, y, "initial-state/"))
        pairs = self._weight_pairs(x, y, "initial/")
        measured = self._all_weights("initial weights", x.number, pairs)
        if measured is None:
            return None
        size, worst = measured
        if size > allowed("weights", *pairs[0]):
            orders = self._orders(x.number, pairs)
            return orders or f"the weights differed before: {worst}"
        if state is not None and state[0] > TOLERANCES["weights"]:
            return f"the weights were the same before, but not the state (what is not trained): {state[1]}"
        return (
            None if self.alignment.left_out else "the weights were the same before: the model computes something else"
        )

    def _orders(self, step: int, pairs: list[tuple[Stored, Stored]]) -> str | None:
        """Whether the weights are the same but for an order along an axis, though the logits differ."""
        before, tried = self.alignment, copy.deepcopy(self.alignment)
        tried.agreed, self.alignment = True, tried
        measured = self._all_weights("initial weights", step, pairs)
        tried.agreed = before.agreed
        if measured is None or tried.left_out or measured[0] > allowed("weights", *pairs[0]):
            self.alignment = before
            self._all_weights("initial weights", step, pairs)
            return None
        return (
            f"the weights were the same before but for the order in {_listed([*tried.reordered])}: if that is the one "
            "of a Flatten of another layout, the model computes something else; if not, it is that"
        )

    def _tensors(self, x: Step, y: Step) -> str | None:
        """The first of the other tensors that differs, in the order in which a recorded them."""
        first = None
        for name in x.arrays:
            if name not in RESERVED and not name.startswith(PREFIXES) and not _is_data(name):
                compared = self._compare(f"tensor {name}", x, y, name)
                if first is None and compared is not None and not compared[2] <= allowed("logits", *compared[:2]):
                    first = f"the first tensor that differs is {name!r}: {difference_text(*compared)}"
        return first

    def _taken_back(self, x: Step, y: Step) -> Activation | None:
        """An activation that one model ends in and its loss takes back, so that both compute the same."""
        a, b = x.arrays.get("input"), y.arrays.get("input")
        one, other = x.arrays.get("loss"), y.arrays.get("loss")
        if a is None or b is None or one is None or other is None or one.shape != other.shape:
            return None
        found, pair = find_activation(a, b), as_pair(one, other)
        if found is None or pair is None or relative(*pair[:2]) > allowed("loss", one, other, a, b):
            return None
        if min(float(np.ptp(w.values(), -1).max(initial=0)) for w in (a, b)) < _EVEN:
            # Where all classes are as likely, another softmax leaves the loss as it is, but not the gradient.
            gradients = self._gradients(found, x, y)
            if gradients is None or relative(*gradients) > 10 * allowed("logits", a, b):
                return None
        return found

    def _inputs(self, x: Step, y: Step) -> tuple[Array, Array] | None:
        """Both inputs of the losses behind the activation that one model lacks; None: none does, or not whole."""
        a, b = x.arrays.get("input"), y.arrays.get("input")
        if self.activation is None or a is None or b is None or a.shape != b.shape or not (a.whole and b.whole):
            return None
        return self.activation.inputs(a.values(), b.values())

    def _later(self, quantity: str, step: int, texts: list[str]) -> Found:
        """Logits or weights that differ though all before was the same: the update, or rounding that grew."""
        row = self.series[quantity]
        earlier = [n for n in row if n < step]
        # The weights after the step before, if they were recorded and differ far too little for such a difference.
        unknown = [*self.alignment.left_out]
        if (
            quantity == "logits"
            and not unknown
            and JUMP * self.series.get("weights", {}).get(step - 1, math.inf) < row[step]
        ):
            texts.append(
                f"the weights were the same after step {step - 1}: the model computes something else (its mode, "
                "dropout, running statistics)"
            )
            return Found("logits", step, texts)
        for name in ("weights", "logits"):
            if (onset := self._onset(name, step if name == quantity else step - 1)) is not None:
                where, findings = onset
                factor = self._update_factor(where)
                rest = texts if quantity == "weights" else texts[1:]
                if unknown:
                    rest = [*rest, f"not all weights could be aligned, so these were not compared: {_listed(unknown)}"]
                return Found("update", where, [*([factor] if factor else []), *findings, *rest])
        first = min(row)
        if first == step:
            found = [
                f"the {quantity} differ already at the first step that both have them of, so what came before it is "
                "not known: an update, the weights that one started with, or the model"
            ]
            return Found("update", step, [*found, *texts])
        grown = grow({n: row[n] for n in (*earlier, step)})
        extra = f"the {quantity} differ by {row[first]:.2g} at step {first}, by {row[step]:.2g} at step {step}"
        more = [] if grown.shape is None else [growth_text(grown)]
        if grown.shape == "power":
            more.append("such a growth is that of a small constant difference of every update, more than of rounding")
        return Found("rounding", step, more, extra)

    def _onset(self, quantity: str, last: int) -> tuple[int, list[str]] | None:
        """The update by which the weights, or the logits after it, became more different than rounding makes them."""
        row = {n: v for n, v in self.series.get(quantity, {}).items() if n <= last}
        numbers = sorted(row)
        for k, n in enumerate(numbers):
            of_weights = quantity == "weights"
            before = row[numbers[k - 1]] if k else self.series.get("initial weights", {}).get(n, 0.0)
            exact = k > 0 and numbers[k - 1] in self.bits_until and row[n] > 0
            jumps = (k > 0 or of_weights) and self._jumps(n, before, row[n], of_weights)
            # One update of the same weights by the same gradient, which rounds once.
            small = of_weights and before == 0 and n in self.same_gradient and row[n] >= _ROUNDED
            if not (exact or jumps or small):
                continue
            found = [f"at step {n} the {quantity} differ by {row[n]:.2g}, relative"]
            if small and not jumps and not exact:
                found.append("more than one update rounds, unless it makes much of little, as Adam does")
            if jumps and k > 1 and not exact:
                found.append(
                    "before that step it was rounding; a unit that is on in one run only can make that leap, too"
                )
            if exact:
                found.append(
                    f"up to step {numbers[k - 1]} everything recorded has the same bits, the gradient included"
                )
            if k and (between := n - numbers[k - 1]) > 1:
                found.append(f"the {between - 1} steps between were not recorded; their data could differ, too")
            found.append(
                "so it is the optimizer (its learning rate, momentum, decay, epsilon, clipping) or the backward pass "
                "of the model"
            )
            if of_weights and not k and n not in self.series.get("initial weights", {}):
                found.append(
                    "the weights before it were not recorded in both, so they could have differed already "
                    "(rec.weights(model) before the first loss)"
                )
            return n if of_weights or not k else numbers[k - 1], found
        return None

    def _jumps(self, step: int, before: float, after: float, of_weights: bool) -> bool:
        """Whether rounding does not grow so much in one step.

        Where a difference has grown already, a unit that is on in one run and off in the other makes it leap, too:
        there it has to leap much farther, or to be another factor of the update.
        """
        if before <= _ROUNDED:
            return after >= JUMP * max(before, EPSILON["float32"])
        return after >= JUMP**2 * before or (
            of_weights and after >= JUMP * before and self._update_factor(step) is not None
        )

    def _update_factor(self, step: int) -> str | None:
        """How many times b's update is a's, in words."""
        factor = self._factor(step, "weights/")
        return None if factor is None else f"b's update is {number(float(f'{factor:.3g}'))} times a's"

    def _factor(self, step: int, kind: str) -> float | None:
        """How many times b's update is a's, where the weights before and after it were recorded; None: not at all, or
        once.
        """
        if step not in self.steps:
            return None
        moves: list[list[Array]] = [[], []]
        for a, b in self._weight_pairs(self.a.steps[step], self.b.steps[step], kind):
            before = [_before(recording, step, stored.name) for recording, stored in ((self.a, a), (self.b, b))]
            if before[0] is None or before[1] is None:
                return None
            if bare(a) in self.alignment.left_out:
                continue
            after, earlier = self.alignment.pair(a, b), self.alignment.pair(before[0], before[1])
            whole = all(w.whole for w in (a, b, before[0], before[1]))
            if after is None or earlier is None or not whole:
                return None
            for move, late, early in zip(moves, after, earlier, strict=True):
                move.append((late.astype(np.float64) - early).ravel())
        if not moves[0]:
            return None
        u, v = (np.concatenate(move) for move in moves)
        factor = fit_factor(u, v, 1e-2)
        if factor is None or abs(factor - 1) < max(1e-3, relative(factor * u, v)):
            return None
        return factor

    def _loss(self, x: Step, y: Step) -> Found | None:
        compared = self._compare("loss", x, y, "loss")
        if compared is None:
            return None
        a, b, size = compared
        u, v = a.values(), b.values()
        if a.shape != b.shape or u is None or v is None:
            if size <= allowed("loss", a, b):
                return None
            texts = (
                [f"a's loss has the shape {a.shape}, b's {b.shape}: another reduction"] if a.shape != b.shape else []
            )
            return Found("loss", x.number, texts or [difference_text(a, b, size)])
        if a.shape:
            most = allowed("loss", a, b) + 10 * self._moved_logits(x, y)[0]
            return None if size <= most else Found("loss", x.number, [difference_text(a, b, size)])
        one, other = float(u), float(v)
        if math.isfinite(one) and math.isfinite(other):
            largest, expected = self._moved_logits(x, y)
            rounding = allowed("loss", a, b) * max(abs(one), abs(other)) + 1e-6
            if expected is not None and abs(other - one - expected) <= rounding + 0.1 * abs(expected):
                return None
            if expected is None and abs(other - one) <= rounding + 10 * largest * max(abs(one), abs(other)):
                return None
        elif size == 0:
            return None
        texts = [f"{one:.9g} against {other:.9g}"]
        kinds = [str(r.loss.get("kind", "")) for r in (self.a, self.b)]
        shape = x.arrays["input"].shape if "input" in x.arrays else ()
        comparable = one and other and math.isfinite(one) and math.isfinite(other)
        if comparable and (name := factor_text(other / one, shape)) is not None:
            texts[0] += f": b's loss is {name}"
        terms = [name for name in x.arrays if name.startswith("terms/") and name in y.arrays]
        for name in terms:
            p, q = x.arrays[name], y.arrays[name]
            if p.shape == q.shape == ():
                left, right = float(p.values()), float(q.values())
                if not abs(left - right) <= 1e-5 * max(abs(left), abs(right)) + 1e-6:
                    texts.append(f"the term {name[6:]}: {left:.9g} against {right:.9g}")
        if terms and len(texts) == 1:
            texts.append("no term differs: their weights do")
        if not terms and all(kinds):
            texts.append(f"a's loss is {kinds[0]}, b's is {kinds[1]}")
        return Found("loss", x.number, texts)

    def _moved_logits(self, x: Step, y: Step) -> tuple[float, float | None]:
        """The largest difference of the logits, and what it makes of the loss, by the gradients; None: not known."""
        a, b = x.arrays.get("input"), y.arrays.get("input")
        if a is None or b is None or same_bits(a, b):
            return 0.0, 0.0
        if (inputs := self._inputs(x, y)) is not None:
            return float(np.abs(inputs[1] - inputs[0]).max(initial=0)), None
        if self.activation is not None:
            return math.inf, None
        pair = as_pair(a, b)
        if pair is None:
            return 0.0, None
        move = pair[1].astype(np.float64) - pair[0]
        largest = float(np.abs(move[np.isfinite(move)]).max(initial=0))
        gradients = []
        for step in (x, y):
            gradient, upstream = step.arrays.get("gradient"), step.arrays.get("upstream")
            if gradient is None or not gradient.whole or gradient.shape != step.arrays["input"].shape or pair[2]:
                return largest, None
            scale = 1.0 if upstream is None or upstream.shape else float(upstream.values())
            if scale == 0 or not math.isfinite(scale):
                return largest, None
            gradients.append(gradient.values().astype(np.float64) / scale)
        if not (a.whole and b.whole):
            return largest, None
        expected = float(((gradients[0] + gradients[1]) / 2 * move).sum())
        return largest, expected if math.isfinite(expected) else None

    @staticmethod
    def _gradients(activation: Activation, x: Step, y: Step) -> tuple[Array, Array] | None:
        """Both gradients by the logits, where one loss has them by what an activation makes of those."""
        sides = []
        for step in (x, y):
            given, gradient = step.arrays.get("input"), step.arrays.get("gradient")
            if given is None or gradient is None or given.shape != gradient.shape:
                return None
            if not (given.whole and gradient.whole):
                return None
            sides.append((given.values(), gradient.values()))
        return activation.gradients(sides[0], sides[1])

    def _gradient(self, x: Step, y: Step) -> Found | None:
        above = self._compare("upstream", x, y, "upstream")
        laid = None
        if self.activation is not None and (laid := self._gradients(self.activation, x, y)) is None:
            return None
        compared = self._compare("gradient", x, y, "gradient", laid)
        if compared is None:
            return None
        a, b, size = compared
        loss = x.arrays.get("loss")
        value = float(loss.values()) if loss is not None and not loss.shape else 1.0
        cancelled = 10 * EPSILON["float32"] / min(1.0, max(abs(value), 1e-6)) if math.isfinite(value) else 0.0
        if size <= allowed("gradient", a, b) + 10 * self._moved_logits(x, y)[0] + cancelled:
            return None
        texts = [difference_text(a, b, size)]
        pair = laid or as_pair(a, b)
        if pair is not None:
            factor = fit_factor(pair[0], pair[1])
            if factor is not None:
                texts = [f"b's gradient is {number(factor)} times a's, everywhere"]
                if factor < 0:
                    texts[0] += ": the sign differs"
        if above is not None and not same_bits(above[0], above[1]) and above[0].shape == above[1].shape == ():
            p, q = float(above[0].values()), float(above[1].values())
            texts.append(
                f"what arrives at the loss differs already, {p:.6g} against {q:.6g}: what stands between the loss and "
                "backward (a factor, a scaler of mixed precision, accumulation)"
            )
        return Found("gradient", x.number, texts)

    def _update(self, x: Step, y: Step) -> Found | None:
        if all(row.get(x.number, 0.0) == 0 for row in self.series.values()):
            self.same_gradient.add(x.number)
        pairs = self._weight_pairs(x, y, "weights/")
        measured = self._all_weights("weights", x.number, pairs)
        if measured is None:
            return None
        size, worst = measured
        return None if size <= allowed("weights", *pairs[0]) else self._later("weights", x.number, [worst])

    def _state(self, x: Step, y: Step) -> Found | None:
        """What is not trained, such as running statistics: no stage, since a training may not depend on it."""
        measured = self._all_weights("state", x.number, self._weight_pairs(x, y, "state/"))
        if measured is not None and measured[0] > TOLERANCES["weights"] and self.state is None:
            self.state = f"the state (what is not trained) differs from step {x.number} on: {measured[1]}"
            factor = self._factor(x.number, "state/")
            if factor is not None and not 0.9 < factor < 1.1:
                times = number(float(f"{factor:.2g}"))
                self.state += f"; it moves {times} times as far in b (another momentum of running statistics?)"
            self._note(self.state)
            if self.a.framework != self.b.framework and "var" in measured[1].partition(" ")[0]:
                self._note("PyTorch keeps the unbiased variance of a batch, n / (n - 1) times the one that Keras keeps")
        return None

    def _weight_pairs(self, x: Step, y: Step, kind: str) -> list[tuple[Stored, Stored]]:
        """The weights of both: by name, or where the names differ in order, if there are as many."""
        left, right = ({n: v for n, v in s.arrays.items() if n.startswith(kind)} for s in (x, y))
        if left.keys() == right.keys():
            return [(left[name], right[name]) for name in left]
        if len(left) == len(right):
            return list(zip(left.values(), right.values(), strict=True))
        self._note(f"a has {len(left)} arrays {kind}..., b has {len(right)}: they were not compared")
        return []

    def _all_weights(self, quantity: str, step: int, pairs: list[tuple[Stored, Stored]]) -> tuple[float, str] | None:
        """The relative difference of all weights together, since a bias that began at 0 is all rounding, and where it
        is largest; None: there are none that can be compared.
        """
        squares, total, worst, text = 0.0, 0.0, -1.0, ""
        norms = [max(a.statistics.norm or 0.0, b.statistics.norm or 0.0) for a, b in pairs]
        for (a, b), norm in zip(pairs, norms, strict=True):
            same = self.alignment.same_bits(a, b)
            pair = None if same else self.alignment.pair(a, b, math.hypot(*norms))
            if pair is None and not same:
                self.bits = False
                continue
            found = self._measure("one weight", step, a, b, pair)
            del self.series["one weight"]
            part = found * norm if math.isfinite(found) else math.inf
            squares, total = squares + part**2, total + norm**2
            if part > worst:
                worst, text = part, f"{bare(a)} differs most: {difference_text(a, b, found)}"
        if worst < 0:
            return None
        size = 0.0 if squares == 0 else math.sqrt(squares / total) if total else math.inf
        self.series.setdefault(quantity, {})[step] = size
        return size, text

    def _explain(self, found: Found) -> None:
        if self.explain is None:
            return
        numbers = [found.step, *(n for n in self.steps if n > found.step)][: 1 + EXPLAINED]
        targets = [read_target(recording.steps[found.step]) for recording in (self.a, self.b)]
        mixed = len({target.encoding.partition(",")[0] for target in targets if target is not None}) > 1
        sides = [
            [_loss_arrays(recording.steps[n], recording, labels=mixed) for n in numbers]
            for recording in (self.a, self.b)
        ]
        known = [[arrays for arrays in side if arrays is not None] for side in sides]
        if sides[0][0] is None or sides[1][0] is None:
            self._note("the losses' inputs were not kept whole, so why they differ cannot be said: record with whole=")
        else:
            self.explanation = self.explain(known[0], known[1])


def _is_data(name: str) -> bool:
    return name == "data" or name.startswith("data/")


def _before(recording: Recording, step: int, name: str) -> Stored | None:
    """The weights before the update of a step, if they were recorded."""
    kind, _, bare_name = name.partition("/")
    first = {"weights": "initial", "state": "initial-state"}[kind]
    initial = recording.steps[step].arrays.get(f"{first}/{bare_name}")
    last = recording.steps.get(step - 1)
    return initial if initial is not None or last is None else last.arrays.get(name)


def _loss_arrays(step: Step, recording: Recording, *, labels: bool) -> LossArrays | None:
    """What the step has of the loss, one-hot targets as labels if that is asked for; None: it is not all there."""
    found = {}
    for name in RESERVED:
        stored = step.arrays.get(name)
        found[name] = None if stored is None else stored.values()
        if stored is not None and found[name] is None:
            return None
    if found["input"] is None or found["target"] is None or found["loss"] is None:
        return None
    target = read_target(step)
    if labels and target is not None and target.labels is not None:
        found["target"] = target.labels
    loss = recording.loss
    return LossArrays(
        **found, framework=recording.framework, kind=loss.get("kind", ""), settings=loss.get("settings", {})
    )  # fmt: skip


def _numbers(recording: Recording) -> str:
    numbers = list(recording.steps)
    if numbers:
        return f"the steps {numbers[0]} to {numbers[-1]} ({len(numbers)})"
    return f"none (of {len(recording.dropped)}: {recording.dropped[0]})" if recording.dropped else "none"


def _short(text: object) -> str:
    shown = str(text)
    return shown if len(shown) <= 100 else shown[:97] + "..."


def _listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
