"""The file format of a spec: JSON with a version.

```
{"dualloss": 1, "terms": [{"weight": 1.0, "term": "CrossEntropy", "label_smoothing": 0.0, ...}, ...]}
```

Every option is written, so that a file keeps its meaning if a default ever changes. Floats are written in the
shortest form that reads back to the same bits. This module knows the frame (version, weights, names); what a
term's options may be is for the term to say. A file is data only: nothing in it is imported or executed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NoReturn

from ._validate import show

VERSION = 1
RESERVED = ("weight", "term")
"""The keys of a term's object that are not options."""


def write(rows: Iterable[dict[str, Any]]) -> str:
    """The JSON text for terms given as `{"weight": ..., "term": ..., **options}`."""
    return json.dumps({"dualloss": VERSION, "terms": list(rows)}, allow_nan=False)


def read(text: str) -> list[dict[str, Any]]:
    """The terms of a JSON text, as `write` took them. Anything else is a ValueError."""
    if not isinstance(text, str):
        raise TypeError(f"text={show(text)}, expected the JSON as a str")
    try:
        document = json.loads(text, object_pairs_hook=_unique_keys, parse_int=_integer, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"the spec is not JSON: {error}") from error
    except RecursionError:
        raise ValueError("the spec is not JSON that this reads: nested too deeply") from None

    if not isinstance(document, dict):
        raise ValueError(f"the spec is {show(document)}, expected an object with 'dualloss' and 'terms'")
    version = _required(document, "dualloss", "the spec")
    if type(version) is not int or version != VERSION:  # True and 1.0 equal 1, too
        raise ValueError(f"the spec has version {show(version)}, expected {VERSION}")
    rows = _required(document, "terms", "the spec")
    if len(document) > 2:
        unknown = next(key for key in document if key not in ("dualloss", "terms"))
        raise ValueError(f"the spec has the unknown key {show(unknown)}, expected 'dualloss' and 'terms'")
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"terms is {show(rows)}, expected a list of at least one term")
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"terms[{i}] is {show(row)}, expected an object with 'weight' and 'term'")
        for key in RESERVED:
            _required(row, key, f"terms[{i}]")
    return rows


def _required(found: dict[str, Any], key: str, where: str) -> Any:
    if key not in found:
        raise ValueError(f"{where} has the keys {show(sorted(found))}, expected also {key!r}")
    return found[key]


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {show(key)} comes twice in one object, expected once")
        result[key] = value
    return result


def _integer(digits: str) -> int:
    if len(digits) > 400:  # more than any option takes, and less than Python's own limit on reading them
        raise ValueError(f"the spec holds an integer of {len(digits)} digits, expected none so long")
    return int(digits)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"the spec holds {name}, expected finite numbers")
