"""`like=`: the options with which a term is the loss of another library, at a stated version."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ._validate import show

VERSIONS: Mapping[str, str] = {"torch": "2.13", "keras": "3.15.1", "smp": "0.6.0", "monai": "1.6.1"}
"""The libraries, and the version whose definitions stand here."""

Options = dict[str, Any]
Preset = Callable[[Options], Options]

_PRESETS: dict[tuple[str, str], Preset] = {}


def define(term: str, like: str, **defaults: Any) -> None:
    """`term(like=like)` starts from these options; others that are given replace them."""
    define_function(term, like, lambda given: {**defaults, **given})


def define_function(term: str, like: str, function: Preset) -> None:
    """`term(like=like, **given)` has the options `function(given)`: for definitions that are no mere defaults."""
    _PRESETS[term, like] = function


def preset(term: type, like: str, given: Options) -> Options:
    """The options of `term(like=like, **given)`. A library or version without a definition is a ValueError."""
    known = sorted(name for of, name in _PRESETS if of == term.__name__)
    library, _, version = str(like).partition("==")
    # The version that the definitions were taken from is what the bare name means, unless it had a bug of its own.
    name = library if version == VERSIONS.get(library) and (term.__name__, like) not in _PRESETS else like
    found = _PRESETS.get((term.__name__, name))
    if found is None:
        shown = (f"{of!r} (of version {VERSIONS[of]})" if of in VERSIONS else repr(of) for of in known)
        expected = ", ".join(shown) if known else "none: no library's definition is known for this term"
        raise ValueError(f"like={show(like)} for {term.__name__}, expected {expected}")
    return found(given)
