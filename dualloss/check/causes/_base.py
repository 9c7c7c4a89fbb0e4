"""What a cause is, and the evidence that it is looked for in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..case import Case
from ..identify import Identity
from ..probes import Probe
from ..runner import About, Observation


@dataclass(frozen=True)
class Row:
    """A probe and what both losses did on it.

    Attributes:
        probe: the probe.
        a, b: what was seen.
        value_ulp: how far the values are apart, in units in the last place of float32; None: one has none, inf: one
            is not finite where the other is.
        gradient_ulp: the same of the gradients' elements, relative to the largest of them.
        value_same, gradient_same: whether rounding explains what is between them.
        edge: what differs where it is loud or harmless: one side refuses the batch, or NaN comes out elsewhere of
            inputs that are not finite. It makes no difference between losses.
    """

    probe: Probe
    a: Observation
    b: Observation
    value_ulp: float | None
    gradient_ulp: float | None
    value_same: bool
    gradient_same: bool
    edge: str | None = None

    @property
    def same(self) -> bool:
        """Whether nothing differs here."""
        return self.value_same and self.gradient_same

    @property
    def compared(self) -> bool:
        """Whether there is anything to compare: not if both sides refuse the batch."""
        return self.a.error is None or self.b.error is None


@dataclass(frozen=True)
class Difference:
    """A convention in which the formulas of both losses differ.

    Attributes:
        family: the name of the formula.
        option: what differs.
        a, b: how it is in each.
        options_a, options_b: all options of both formulas.
    """

    family: str
    option: str
    a: Any
    b: Any
    options_a: Mapping[str, Any] = field(repr=False)
    options_b: Mapping[str, Any] = field(repr=False)

    @property
    def values(self) -> set[Any]:
        """Both."""
        return {self.a, self.b}


@dataclass(frozen=True)
class Relation:
    """What turns one loss into the other, whatever they are.

    Attributes:
        name: its kind, such as "factor" or "input".
        detail: which one.
        factor: of values and gradients, where it is a number.
        explains: the probes on which it holds.
        of: "b": it makes b of a; "a": the other way round.
    """

    name: str
    detail: str
    explains: tuple[str, ...]
    factor: float | None = None
    of: str = "b"


@dataclass
class Evidence:
    """All that is known of two losses.

    Attributes:
        case: what was compared.
        about_a, about_b: what they say of themselves.
        rows: the probes.
        identity_a, identity_b: the formulas found, or None.
        differences: in what the formulas differ.
        relations: what turns one into the other.
    """

    case: Case
    about_a: About
    about_b: About
    rows: Sequence[Row]
    identity_a: Identity | None = None
    identity_b: Identity | None = None
    differences: list[Difference] = field(default_factory=list)
    relations: list[Relation] = field(default_factory=list)

    def of(self, *groups: str) -> list[Row]:
        """The probes of some groups."""
        return [row for row in self.rows if row.probe.group in groups]

    def kinds(self) -> str:
        """The names of both losses, in lower case."""
        return f"{self.about_a.kind} {self.about_a.name} {self.about_b.kind} {self.about_b.name}".lower()

    def libraries(self) -> set[str]:
        """Where they come from."""
        return {self.about_a.library, self.about_b.library}


@dataclass(frozen=True)
class Match:
    """That a cause is there.

    Attributes:
        detail: what it is here, with the numbers.
        differences: the conventions that it speaks of.
        relations: the relations that it speaks of.
        probes: where it shows, as far as neither of these says it.
        weight: how much it says: among causes that explain the same, the larger is named first.
        edge: whether it makes no difference between losses: it is said, but not counted.
    """

    detail: str
    differences: tuple[Difference, ...] = ()
    relations: tuple[Relation, ...] = ()
    probes: tuple[str, ...] = ()
    weight: float = 1.0
    edge: bool = False


class Cause:
    """Why two losses differ.

    Attributes:
        number: its number in the table of causes.
        name: a short name for machines.
        title: what it is, in one line.
        text: why it is so, and how it shows.
        torch, tf: code that mends it in a loss of either framework, or says what to write there.
        section: what kind of cause it is.
        last: whether it is looked for only in what no other cause speaks of.
    """

    number: ClassVar[int]
    name: ClassVar[str]
    title: ClassVar[str]
    text: ClassVar[str]
    torch: ClassVar[str]
    tf: ClassVar[str]
    section: ClassVar[str]
    last: ClassVar[bool] = False

    def find(self, evidence: Evidence) -> Iterable[Match]:
        """Where it is, in what is known."""
        raise NotImplementedError


CAUSES: list[Cause] = []
"""All causes, by number once they are sorted."""


def register(section: str) -> Callable[[type[Cause]], type[Cause]]:
    """Add a cause to the table."""

    def add(kind: type[Cause]) -> type[Cause]:
        kind.section = section
        CAUSES.append(kind())
        CAUSES.sort(key=lambda cause: cause.number)
        return kind

    return add


class OptionCause(Cause):
    """A cause that is a difference of formulas in one option.

    Attributes:
        family: of which formulas; empty: of any.
        option: which option.
        values: one side has one of these; None: any.
        against: and the other one of these; None: any.
    """

    family: ClassVar[tuple[str, ...]] = ()
    option: ClassVar[str]
    values: ClassVar[tuple[Any, ...] | None] = None
    against: ClassVar[tuple[Any, ...] | None] = None
    weight: ClassVar[float] = 1.0

    def fits(self, difference: Difference, evidence: Evidence) -> bool:
        """Whether there is more to it than the option."""
        return True

    def find(self, evidence: Evidence) -> Iterator[Match]:
        for d in evidence.differences:
            if d.option != self.option or (self.family and d.family not in self.family):
                continue
            for one, other in ((d.a, d.b), (d.b, d.a)):
                if (self.values is None or one in self.values) and (self.against is None or other in self.against):
                    if self.fits(d, evidence):
                        yield Match(said(d), (d,), weight=self.weight)
                    break


def said(d: Difference) -> str:
    """A difference in words."""
    return f"{d.option.replace('_', ' ')}: a has {shown(d.a)}, b has {shown(d.b)}"


def shown(value: Any) -> str:
    """A value in words."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple):
        return "(" + ", ".join(shown(v) for v in value) + ")"
    return str(value)
