"""What every library's importers share: their registry, how options are read, and how a loss is refused."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NoReturn

from ..spec import VERSIONS, Spec

PACKAGES: Mapping[str, str] = MappingProxyType(
    {"torch": "torch.nn", "keras": "keras.losses", "smp": "segmentation_models_pytorch.losses", "monai": "monai.losses"}
)
"""Where a library's losses stand for its users."""


def show(value: object) -> str:
    """A short repr for messages; of an array, its numbers and its shape if it has axes of length 1."""
    if hasattr(value, "tolist") and hasattr(value, "shape"):
        shape = tuple(value.shape)
        return reprlib.repr(value.tolist()) + (f" of shape {shape}" if 1 in shape else "")
    return reprlib.repr(value)


@dataclass(frozen=True)
class Row:
    """A loss of another library that can be imported, and what is known of it.

    Attributes:
        vendor: "torch", "keras", "smp" or "monai".
        version: the version that the importer was written from and measured against.
        module: the module of its class, as `type(loss).__module__` says.
        name: the name of its class.
        terms: the terms that a spec of it may have.
        holds: the inputs and targets for which both are equal; empty: all that the loss takes.
        notes: edges at which the library's loss does something else.
    """

    vendor: str
    version: str
    module: str
    name: str
    terms: tuple[str, ...]
    holds: str
    notes: tuple[str, ...]

    @property
    def label(self) -> str:
        """The name with which users call it."""
        return f"{PACKAGES[self.vendor]}.{self.name}"


@dataclass(frozen=True)
class Context:
    """What an object does not say about itself: the keywords of `from_torch` and `from_keras`."""

    targets: str = "indices"
    spatial: int | None = None
    classes: int | None = None
    like: str | None = None


class Refused(ValueError):
    """A loss that no spec says; the message is complete."""


@dataclass
class Given:
    """A loss that is being imported."""

    label: str
    vendor: str
    read: Callable[[str], Any]
    context: Context
    asked: set[str] = field(default_factory=set)

    def __getitem__(self, option: str) -> Any:
        """An option of the loss."""
        try:
            return self.read(option)
        except (AttributeError, KeyError):
            raise Refused(
                f"{self.label} has no option {option!r} here; these definitions are those of {self.vendor} "
                f"{VERSIONS[self.vendor]}"
            ) from None

    @property
    def like(self) -> str | None:
        """The `like` that was given: a use of it, so that the others can be told that it says nothing here."""
        self.asked.add("like")
        return self.context.like

    @property
    def targets(self) -> str:
        """The `targets` that was given."""
        self.asked.add("targets")
        return self.context.targets

    @property
    def version(self) -> str:
        """`like` for what the version behind these definitions computes, bugs included."""
        return f"{self.vendor}=={VERSIONS[self.vendor]}"

    def refuse(self, option: str, why: str) -> NoReturn:
        """Raise ValueError for the value of an option."""
        raise Refused(f"{self.label}({option}={show(self[option])}): {why}")

    def fixed(self, option: str, *expected: Any, why: str) -> None:
        """Refuse an option that is none of these."""
        if self[option] not in expected:
            self.refuse(option, why)

    def choose(self, option: str, *, documented: Any, computed: Any, why: str) -> Any:
        """One of two readings, where what a version computes is not what the library says of it."""
        if self.like == self.version:
            return computed
        if self.like == self.vendor:
            return documented
        self.refuse(option, f'{why} Say which: like="{self.version}" or like="{self.vendor}"')

    def part(self, name: str, of: str) -> Given:
        """A loss inside this one, of exactly the class that the library calls `of` ("monai.DiceLoss")."""
        inner = self[name]
        row = ROWS.get((type(inner).__module__, type(inner).__qualname__))
        if row is None or f"{row.vendor}.{row.name}" != of:
            self.refuse(name, f"expected a {of} itself, as the constructor makes it")
        unchanged(inner, f"{self.label}'s {name}")
        return Given(f"{self.label}'s {name}", self.vendor, lambda option: getattr(inner, option), self.context)


Importer = Callable[[Given], Spec]

_ROWS: dict[tuple[str, str], Row] = {}
_IMPORTERS: dict[tuple[str, str], Importer] = {}
_REFUSED: dict[tuple[str, str], str] = {}

ROWS: Mapping[tuple[str, str], Row] = MappingProxyType(_ROWS)
"""Every loss that can be imported, by the module and name of its class."""
REFUSED: Mapping[tuple[str, str], str] = MappingProxyType(_REFUSED)
"""Losses that cannot be imported, by the module and name of their class, and why."""


def imports(
    vendor: str, module: str, name: str, *terms: str, holds: str = "", notes: Iterable[str] = ()
) -> Callable[[Importer], Importer]:
    """Register the importer of a class."""

    def register(function: Importer) -> Importer:
        key = (module, name)
        _ROWS[key] = Row(vendor, VERSIONS[vendor], module, name, terms, holds, tuple(notes))
        _IMPORTERS[key] = function
        return function

    return register


def refuses(vendor: str, module: str, **reasons: str) -> None:
    """Register classes of a module that no spec says, each with the reason."""
    _REFUSED.update({(module, name): f"{PACKAGES[vendor]}.{name}: {why}" for name, why in reasons.items()})


def rows(vendor: str) -> tuple[Row, ...]:
    """The rows of a library."""
    return tuple(row for row in ROWS.values() if row.vendor == vendor)


def find(kind: type, vendors: tuple[str, ...]) -> Row:
    """The row of exactly this class; else a ValueError that says what there is."""
    key = (kind.__module__, kind.__qualname__)
    row = ROWS.get(key)
    if row is not None and row.vendor in vendors:
        return row
    if key in REFUSED:
        raise ValueError(REFUSED[key])
    for base in kind.__mro__[1:]:
        of = ROWS.get((base.__module__, base.__qualname__))
        if of is not None:
            raise ValueError(
                f"{kind.__module__}.{kind.__qualname__} is a subclass of {of.label} and may compute something else; "
                f"expected a {of.label} itself"
            )
    names = ", ".join(row.label for vendor in vendors for row in rows(vendor))
    raise ValueError(
        f"{kind.__module__}.{kind.__qualname__} is not known: only the options of libraries' own losses can be read. "
        f"Write it as a sum of terms (docs/terms.md). Expected one of {names}"
    )


def unchanged(loss: Any, label: str) -> None:
    """Raise ValueError for a module of PyTorch's that was given a forward or hooks of its own."""
    for name in ("forward", "__call__"):
        if name in vars(loss):
            raise ValueError(f"{label} has a {name} of its own, expected that of its class")
    for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        if getattr(loss, name, None):
            raise ValueError(f"{label} has {name[1:].replace('_', ' ')}, which no spec says; expected none")


def convert(row: Row, read: Callable[[str], Any], context: Context) -> Spec:
    """The spec of a loss whose options `read` gives."""
    given = Given(row.label, row.vendor, read, context)
    try:
        spec = _IMPORTERS[row.module, row.name](given)
    except Refused as error:
        raise ValueError(str(error)) from None
    except (TypeError, ValueError) as error:  # an option that its term does not take
        raise ValueError(f"{row.label}: {error}") from error
    if context.like is not None and "like" not in given.asked:
        raise ValueError(f"like={show(context.like)}, but {row.label} computes what it says: expected none")
    if context.targets != "indices" and "targets" not in given.asked:
        raise ValueError(f"targets={show(context.targets)}, but the mean of {row.label} does not depend on them")
    return spec
