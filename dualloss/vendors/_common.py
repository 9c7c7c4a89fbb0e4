"""What several importers and exporters do alike."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

from ..spec import BinaryCrossEntropy, BinaryFocal, CrossEntropy, Focal, KLDivergence, Poisson, Spec, Term
from ._registry import Context, Given, Row, convert, show

Options = dict[str, Any]


# --- PyTorch's arrays of weights ---


def numbers(array: Any) -> list[float]:
    """The elements of an array, of any shape, in one list."""
    nested = array.tolist()
    while isinstance(nested, list) and nested and isinstance(nested[0], list):
        nested = [item for inner in nested for item in inner]
    return nested if isinstance(nested, list) else [nested]


def per_channel(given: Given, option: str) -> float | tuple[float, ...] | None:
    """A weight that PyTorch aligns with the input's last axes: None, one number, or one for each channel."""
    array = given[option]
    if array is None:
        return None
    shape = tuple(array.shape)
    values = numbers(array)
    if len(values) == 1:
        return values[0]
    while shape[0] == 1:
        shape = shape[1:]
    if any(length != 1 for length in shape[1:]):
        given.refuse(option, "weights of single elements; a spec has them for channels, a call has sample weights")
    spatial = given.context.spatial
    found = len(shape) - 1
    if spatial is None and found == 0:
        given.refuse(
            option,
            "PyTorch aligns it with the last axis, which holds the channels of inputs (B, C) only: say spatial=0 if "
            "these are your inputs; with spatial axes the weight needs the shape (C, 1, ..., 1)",
        )
    if spatial is not None and spatial != found:
        given.refuse(
            option,
            f"PyTorch aligns it with axis {-1 - found} of the input, which does not hold the channels of inputs with "
            f"spatial={spatial}: the weight needs the shape {('C', *(1,) * spatial)}".replace("'", ""),
        )
    return tuple(values)


def refuse_reduction(given: Given, mean: str, has_map: bool = True) -> None:
    """Raise ValueError for the reduction of a loss, which is none that a spec says."""
    reduction = given["reduction"]
    if reduction in ("none", None):
        given.refuse(
            "reduction",
            f'a spec says what the loss is; import it with reduction="{mean}" and make '
            'Loss(spec, reduction="none"), which has one value for every position'
            if has_map
            else "a ratio of sums has no value at a position",
        )
    given.refuse("reduction", f'expected "{mean}" or "sum"')


def refuse_region_sum(given: Given, mean: str) -> None:
    """Raise ValueError for the sum over groups, which a spec does not say, but a Loss."""
    given.refuse(
        "reduction",
        f'whether groups are added is not a matter of the spec: import it with reduction="{mean}" and make '
        'Loss(spec, reduction="sum"), which adds the losses of classes and samples',
    )


# --- Exporters ---

Exporter = Callable[[Any, Context], Any]


def single_term(spec: Spec, library: str) -> Term:
    """The only term of a spec, of weight 1."""
    if not isinstance(spec, Spec):
        raise TypeError(f"spec is {type(spec).__name__}, expected a loss spec such as dualloss.CrossEntropy()")
    (weight, term), *more = spec.parts
    if more:
        raise ValueError(f"{library} has no loss for a sum of terms: {spec}")
    if weight != 1:
        raise ValueError(f"{spec} has the weight {weight}, expected 1: export the term and multiply what it gives")
    return term


def check_round_trip(term: Term, row: Row, read: Callable[[str], Any], context: Context) -> None:
    """Raise ValueError unless the loss that was made says what the term does."""
    back = convert(row, read, context)
    if not isinstance(back, type(term)):
        raise ValueError(f"{row.label} would compute {back}, not {term}")
    ours, theirs = canonical(term), canonical(back)
    differ = [
        f"{f.name}={show(getattr(theirs, f.name))} where the spec has {show(getattr(term, f.name))}"
        for f in fields(ours)
        if getattr(ours, f.name) != getattr(theirs, f.name)
    ]
    if differ:
        raise ValueError(f"{row.label} does not compute {term}: it has {'; '.join(differ)}")


def canonical(term: Term) -> Term:
    """The term without what has no meaning in it, and with weights as the float32 that they are used as."""
    changes: Options = {}
    default = {f.name: f.default for f in fields(term)}
    meaningless: Sequence[str] = ()
    if isinstance(term, CrossEntropy | BinaryCrossEntropy | BinaryFocal) and term.inputs == "logits":
        meaningless = ("clip", "renormalize")
    if isinstance(term, Focal) and term.inputs == "logits":
        meaningless = ("renormalize",) if term.clip_softmax else ("clip", "renormalize")
    if isinstance(term, Focal) and term.inputs == "probabilities":
        meaningless = ("clip_softmax",)
    if isinstance(term, KLDivergence) and term.inputs != "probabilities":
        meaningless = ("clip",)
    if isinstance(term, Poisson) and term.inputs == "log_rate":
        meaningless = ("epsilon",)
    changes = {name: default[name] for name in meaningless if name in default}
    if getattr(term, "normalizer", None) == "weights" and getattr(term, "class_weights", None) is None:
        changes["normalizer"] = "valid"
    for f in fields(term):
        value = getattr(term, f.name)
        if isinstance(value, tuple) and all(isinstance(item, float) for item in value):
            changes[f.name] = tuple(float32(item) for item in value)
        if f.name == "pos_weight" and isinstance(value, float):
            changes[f.name] = float32(value)
    return replace(term, **changes)


def float32(value: float) -> float:
    """The nearest float32."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])
