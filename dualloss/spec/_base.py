"""Specs and their algebra: a term, a weighted sum of terms, and the registry that JSON reads terms by."""

from __future__ import annotations

import functools
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field, fields
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypeVar

from . import _json
from ._presets import preset
from ._schedules import Schedule, Weight, check_weight, scaled, weight_from_json, weight_to_json
from ._validate import Check, choice, float32_number, show


def option(default: Any, check: Check) -> Any:
    """A dataclass field for an option: its default, and the check that every value passes through."""
    return field(default=default, metadata={"check": check})


class Spec(ABC):
    """What a loss is: a weighted sum of terms. Immutable, hashable, picklable; holds no arrays.

    Specs add (`a + b`, `sum([a, b])`) and take a factor from either side (`0.5 * a`). Sums flatten, factors
    distribute over the terms, and `1.0 * a == a`. The order of the terms is kept, since it is part of the
    exact numerics.

    A term's weight is a finite number: 0, or of a magnitude that float32 holds as a normal number; or a schedule,
    `Linear(0, 0.5, steps=1000) * b`, which is such a number at every step. The exact numerics use it rounded to
    float32. A term of weight 0 adds nothing to the loss.
    """

    # NumPy's scalars and arrays leave `*` to this class instead of going through their elements.
    __array_ufunc__ = None

    @property
    @abstractmethod
    def parts(self) -> tuple[tuple[Weight, Term], ...]:
        """The terms in order, each with its weight."""

    @property
    @abstractmethod
    def ignore_index(self) -> int | None:
        """The label that every term leaves out, or None."""

    @property
    def names(self) -> tuple[str, ...]:
        """One snake-case name for each part; from its second use on, a name gets a number (`boundary_2`)."""
        seen: Counter[str] = Counter()
        result = []
        for _, term in self.parts:
            name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(term).__name__).lower()
            seen[name] += 1
            result.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
        return tuple(result)

    def to_json(self) -> str:
        """The spec as JSON, read back by `from_json` to an equal spec."""
        return _json.write(
            {"weight": weight_to_json(weight), "term": type(term).__name__, **_options(term)}
            for weight, term in self.parts
        )

    def __add__(self, other: object) -> Spec:
        """The sum of two specs."""
        if isinstance(other, int | float | Schedule):
            raise TypeError(f"({self}) + {other}, expected a spec, or a number or schedule times one")
        if not isinstance(other, Spec):
            return NotImplemented
        return _spec(self.parts + other.parts)

    def __radd__(self, other: object) -> Spec:
        """`0 + spec`, which is what `sum()` starts with."""
        if type(other) in (int, float) and other == 0:
            return self
        if isinstance(other, int | float | Schedule):
            raise TypeError(f"{other} + ({self}), expected a spec, or a number or schedule times one")
        return NotImplemented

    def __sub__(self, other: object) -> Spec:
        """Refused: the way to say it is a negative weight."""
        raise TypeError(f"({self}) - ({other}), expected a sum: a + -1 * b has the weight -1")

    def __mul__(self, factor: Any) -> Spec:
        """The spec with every weight multiplied by a number, or by a schedule."""
        if isinstance(factor, Spec):
            raise TypeError(f"({factor}) times ({self}), expected a number or a schedule; + adds terms")
        return _spec(tuple((scaled(factor, weight), term) for weight, term in self.parts))

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> Spec:
        """The spec with every weight divided by a number."""
        number = float32_number("divisor", divisor)
        if number == 0:
            raise ZeroDivisionError(f"{self} / 0, expected a divisor other than 0")
        return self * (1 / number)

    def at(self, step: int) -> Spec:
        """The spec with every schedule replaced by its weight at this step, an integer >= 0."""
        if not self.scheduled:
            return self
        return _spec(tuple((w.at(step) if isinstance(w, Schedule) else w, term) for w, term in self.parts))

    @property
    def scheduled(self) -> bool:
        """Whether some weight follows a schedule."""
        return any(isinstance(weight, Schedule) for weight, _ in self.parts)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: a spec says what a loss is, a Loss of a framework computes it."""
        raise TypeError(
            "a spec computes nothing: make a loss of it, dualloss.torch.Loss(spec) or dualloss.tf.Loss(spec), "
            "and call that"
        )


@dataclass(frozen=True, kw_only=True, repr=False)
class Term(Spec):
    """One term, of weight 1. Its options are the fields of a frozen dataclass, declared with `option`.

    `like="torch"` (or "keras", "smp", "monai", or one of these with a version, "keras==3.15.1") starts from that
    library's definition of the loss in place of the defaults; it is no option of its own: the term that comes out has
    the options that say so.
    """

    like: InitVar[str | None] = None

    needs_channels: ClassVar[bool] = False
    """Whether an input without a channel axis, of shape (B,), makes no sense."""
    about_classes: ClassVar[bool] = False
    """Whether the channels are classes, so that class indices make sense even if there is only one."""
    has_map: ClassVar[bool] = True
    """Whether the term has a value at every position, which `reduction="none"` asks for."""
    takes_weights: ClassVar[bool] = True
    """Whether it takes sample weights other than a mask."""
    about_weights: ClassVar[bool] = False
    """Whether it is a penalty on the weights of a model, without a target."""
    zero_gradient: ClassVar[str] = ""
    """Where the gradient is zero or not defined by the formula, and what it is there: for the table of the terms."""

    def __post_init__(self, like: str | None) -> None:
        """Check every option and store it in its one form. (`register` has turned `like` into options.)"""
        for option_ in fields(self):
            checked = option_.metadata["check"](option_.name, getattr(self, option_.name))
            object.__setattr__(self, option_.name, checked)
        self.check_options()

    def check_options(self) -> None:
        """Raise ValueError for options that are right by themselves but not together."""

    @property
    def parts(self) -> tuple[tuple[Weight, Term], ...]:
        """This term, with the weight 1."""
        return ((1.0, self),)

    @property
    def ignore_index(self) -> int | None:
        """None; a term that can ignore a label has an option of this name."""
        return None

    @property
    def mergeable(self) -> bool:
        """Whether the sums of parts of a batch add up to those of the whole."""
        return True

    @property
    def needs_distances(self) -> bool:
        """Whether it asks for the signed distances to the boundary of the target's classes."""
        return False

    @property
    def needs_dense(self) -> bool:
        """Whether the target cannot be class indices, but holds something else, of use to no other term."""
        return False

    @property
    def least_length(self) -> int:
        """How many positions each spatial axis must have."""
        return 0

    def count_sums(self, channels: int) -> int:
        """How many sums the exact numerics keep of it: of most terms the values' and the normaliser."""
        return 2

    def check_layout(self, *, channels: int, spatial: int) -> None:
        """Raise ValueError for an input with so many channels and spatial axes that this term cannot take."""

    def __repr__(self) -> str:
        """The call that makes this term, with the options that are not at their default."""
        shown = (f.name for f in fields(self) if getattr(self, f.name) != f.default)
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"


Normalizer = Literal["weights", "valid", "elements", "batch", "sample_weights", "one"]
NORMALIZERS = ("valid", "elements", "batch", "sample_weights", "one")
"""What every mean can divide by; "weights" only that of a term with class weights."""
_NORMALIZER = choice(*NORMALIZERS)


@dataclass(frozen=True, kw_only=True, repr=False)
class PerPosition(Term):
    """A term with a value `V` at every position. Options of all such terms:

    normalizer: what the mean divides the sum of `V` by. "valid" (default): the number of positions that count: those
        neither ignored nor masked (a term that looks at neighbours may leave out more). "elements": the number of
        positions, ignored ones too. "batch": the number of samples. "sample_weights": the sum of the sample weights
        over the positions that count (without sample weights: their number). "one": 1, so that the mean is the sum.
    empty: what the mean is if its normaliser is 0: "zero" (default) or "nan". The gradient is 0 in any case.
    """

    normalizer: Normalizer = option("valid", _NORMALIZER)
    empty: Literal["zero", "nan"] = option("zero", choice("zero", "nan"))


@dataclass(frozen=True, kw_only=True, repr=False)
class PerChannel(PerPosition):
    """A term with a value for every channel of a position. An option of all such terms:

    channels: how `V` combines them: "mean" (default of most) or "sum".
    """

    channels: Literal["mean", "sum"] = option("mean", choice("mean", "sum"))


@dataclass(frozen=True, eq=False, repr=False)
class Sum(Spec):
    """A weighted sum of terms; `+` and `*` make these.

    An `ignore_index` on any of the terms applies to all of them; two different ones are a ValueError. A sum
    of a single term of weight 1 equals that term.
    """

    parts: tuple[tuple[Weight, Term], ...] = ()

    def __post_init__(self) -> None:
        """Check the weights and that the terms agree on the label to ignore."""
        if not self.parts:
            raise ValueError("parts=(), expected at least one pair of a weight and a term")
        for _, term in self.parts:
            if not isinstance(term, Term):
                raise TypeError(f"parts holds {show(term)}, expected pairs of a weight and a term")
        checked = tuple((check_weight("weight", weight), term) for weight, term in self.parts)
        object.__setattr__(self, "parts", checked)
        labels = self._ignored()
        if len(labels) > 1:
            shown = " and ".join(map(str, labels))
            raise ValueError(f"ignore_index is {shown} in one sum, expected one label for all its terms")

    @property
    def ignore_index(self) -> int | None:
        """The label that some term ignores, hence all do; or None."""
        return next(iter(self._ignored()), None)

    def _ignored(self) -> list[int]:
        labels = (term.ignore_index for _, term in self.parts)
        return list(dict.fromkeys(label for label in labels if label is not None))

    def __eq__(self, other: object) -> bool:
        """Whether the other spec has the same parts in the same order."""
        return self.parts == other.parts if isinstance(other, Spec) else NotImplemented

    def __hash__(self) -> int:
        """A hash that agrees with `==`, also for the sum that equals its only term."""
        weight, term = self.parts[0]
        return hash(term) if len(self.parts) == 1 and weight == 1 else hash(self.parts)

    def __repr__(self) -> str:
        """The expression that makes this sum."""
        return " + ".join(f"{term}" if weight == 1 else f"{weight!r} * {term}" for weight, term in self.parts)


_TERMS: dict[str, type[Term]] = {}

TERMS: Mapping[str, type[Term]] = MappingProxyType(_TERMS)
"""Every registered term by its class name, read-only; use `register` to add one."""

AnyTerm = TypeVar("AnyTerm", bound=Term)


_ELSEWHERE = {
    "weight": "of classes: class_weights; of the term: a factor, 0.5 * term",
    "from_logits": 'inputs="logits" or "probabilities"; of regions: activation',
    "smooth_factor": "label_smoothing",
    "ignore_class": "ignore_index",
    "reduction": "of the Loss: Loss(spec, reduction=...); what a mean divides by: normalizer",
    "sigmoid": 'activation="sigmoid"',
    "softmax": 'activation="softmax"',
    "mode": "activation and per_class say it",
}
"""What an option of other libraries is called here."""


def register(term: type[AnyTerm]) -> type[AnyTerm]:
    """Class decorator: make a term known by its class name, which is its name in JSON."""
    name = term.__name__
    if name in _TERMS:
        raise ValueError(f"a term of the name {name!r} is registered already, expected a new name")
    if taken := {f.name for f in fields(term)}.intersection(_json.RESERVED):
        raise ValueError(f"{name} has the option {taken.pop()!r}, expected a name that JSON leaves free")
    _TERMS[name] = term
    made = term.__init__

    @functools.wraps(made)
    def init(self: Term, *, like: str | None = None, **options: Any) -> None:
        known = [f.name for f in fields(term)]
        if unknown := [key for key in options if key not in known]:
            hint = f" ({_ELSEWHERE[unknown[0]]})" if unknown[0] in _ELSEWHERE else ""
            expected = f"one of {', '.join(known)}" if known else "none"
            raise TypeError(f"{name} has no option {unknown[0]!r}{hint}, expected {expected}")
        made(self, **(options if like is None else preset(type(self), like, options)))

    term.__init__ = init  # type: ignore[method-assign]
    return term


def from_json(text: str) -> Spec:
    """The spec that `Spec.to_json` wrote.

    Options that are not in the text get their defaults. A text that is not such a spec in every other respect
    (unknown version, term or option, missing or repeated key, a value of the wrong type or range, NaN or an
    infinity) is a ValueError that says what came and what is expected.
    """
    return _spec(tuple(_part(f"terms[{i}]", row) for i, row in enumerate(_json.read(text))))


def _part(where: str, row: dict[str, Any]) -> tuple[Weight, Term]:
    name = row["term"]
    if not isinstance(name, str) or name not in TERMS:
        raise ValueError(f"{where} has the term {show(name)}, expected one of {', '.join(sorted(TERMS))}")
    options = {key: value for key, value in row.items() if key not in _json.RESERVED}
    known = [f.name for f in fields(TERMS[name])]
    if unknown := [key for key in options if key not in known]:
        expected = f"one of {', '.join(known)}" if known else "none"
        raise ValueError(f"{where} ({name}) has the unknown option {show(unknown[0])}, expected {expected}")
    try:
        return weight_from_json(row["weight"]), TERMS[name](**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} ({name}): {error}") from error


def _spec(parts: tuple[tuple[Weight, Term], ...]) -> Spec:
    """The sum of these parts, or the term itself where that is all there is."""
    result = Sum(parts)
    weight, term = result.parts[0]
    return term if len(parts) == 1 and weight == 1 else result


def _options(term: Term) -> dict[str, Any]:
    return {f.name: getattr(term, f.name) for f in fields(term)}
