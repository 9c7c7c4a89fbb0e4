"""Which axis is what: the one place where shapes are checked, for every backend and both numerics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..spec import Spec

Shape = Sequence[int | None]
"""A shape; None for an axis whose length is not known yet."""

REDUCTIONS = ("mean", "sum", "none")
NUMERICS = ("exact", "native")


@dataclass(frozen=True)
class Layout:
    """The axes of an input.

    Attributes:
        rank: of the arrays the terms see (a rank-1 input gets a channel axis of length 1).
        axis: the channel axis, counted from 0.
        channels: its length.
        labels: the target holds class indices.
        per_sample: the sample weight has one value a sample, of an input with spatial axes.
    """

    rank: int
    axis: int
    channels: int
    labels: bool
    per_sample: bool

    @property
    def spatial(self) -> tuple[int, ...]:
        """The spatial axes."""
        return tuple(a for a in range(1, self.rank) if a != self.axis)


@dataclass(frozen=True)
class Names:
    """What the arguments are called where the user stands."""

    input: str = "input"
    target: str = "target"
    weight: str = "sample_weight"


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(map(repr, choices))}")


def check_options(spec: object, reduction: str, numerics: str, channel_axis: object) -> None:
    """Check what a Loss is made from."""
    if isinstance(spec, type) and issubclass(spec, Spec):
        raise TypeError(f"spec is the class {spec.__name__}, expected an instance: {spec.__name__}()")
    if not isinstance(spec, Spec):
        raise TypeError(
            f"spec is {type(spec).__name__}, expected a loss spec such as dualloss.TOTAL_LOSS; dualloss.from_torch and "
            "dualloss.from_keras make one of another library's loss"
        )
    check_choice("reduction", reduction, REDUCTIONS)
    for _, term in spec.parts:
        name = type(term).__name__
        if term.about_weights:
            raise ValueError(
                f"spec has the term {name}, a penalty on the weights of a model, expected terms of an input and a "
                "target: compute it with dualloss.torch.penalty or dualloss.tf.Regularizer"
            )
        if reduction == "none" and not term.has_map:
            raise ValueError(
                f"reduction is 'none', expected 'mean' or 'sum' for {name}, which has no value at a position"
            )
        if term.needs_dense and spec.ignore_index is not None:
            raise ValueError(
                f"spec has ignore_index={spec.ignore_index}, a class index, and {name}, which takes no class indices, "
                "expected a spec without ignore_index and a boolean mask as sample weight"
            )
        if term.needs_dense and (others := [type(t).__name__ for _, t in spec.parts if not t.needs_dense]):
            raise ValueError(
                f"spec has {term}, whose target holds distances, and {others[0]}, whose target does not, expected a "
                "loss of each, added: loss(x, y) + 0.1 * other(x, distances)"
            )
    check_choice("numerics", numerics, NUMERICS)
    if not isinstance(channel_axis, int) or isinstance(channel_axis, bool):
        raise TypeError(f"channel_axis is {channel_axis!r}, expected an integer")


def check_penalty(spec: object, numerics: str) -> None:
    """Check what a penalty on weights is made from."""
    if not isinstance(spec, Spec):
        raise TypeError(f"spec is {type(spec).__name__}, expected a sum of penalties such as 0.01 * dualloss.L2()")
    for _, term in spec.parts:
        if not term.about_weights:
            raise ValueError(f"spec has the term {type(term).__name__}, expected penalties only, L1 and L2")
    if spec.scheduled:
        raise ValueError(f"spec is {spec}, which follows a schedule, expected numbers for weights: spec.at(step)")
    check_choice("numerics", numerics, NUMERICS)


def lay_out(
    spec: Spec,
    input: Shape,
    target: Shape,
    weight: Shape | None,
    channel_axis: int,
    names: Names = Names(),
    *,
    mask: bool = False,
) -> Layout:
    """Check the shapes against each other and the spec; ``mask``: the weight is boolean.

    Raises:
        ValueError: naming the argument, its shape and what was expected.
    """
    given = tuple(input)
    if not given:
        raise ValueError(f"{names.input} has shape (), expected a batch axis and, but for rank 1, a channel axis")
    if len(given) == 1:
        shape: tuple[int | None, ...] = (*given, 1)
        axis = 1
        needs = [type(term).__name__ for _, term in spec.parts if term.needs_channels]
        if needs:
            raise ValueError(
                f"{names.input} has shape {_show(given)}, expected a batch and a channel axis for {needs[0]}"
            )
    else:
        shape = given
        axis = channel_axis + len(shape) if channel_axis < 0 else channel_axis
        if not 0 < axis < len(shape):
            raise ValueError(
                f"channel_axis is {channel_axis}, expected an axis of {names.input}, of shape {_show(given)}, "
                "after the batch axis 0"
            )
    channels = shape[axis]
    if channels is None:
        raise ValueError(f"{names.input} has shape {_show(given)}, expected a known length of its channel axis {axis}")
    positions = shape[:axis] + shape[axis + 1 :]
    if not 0 < channels <= 2**23:
        raise ValueError(f"{names.input} has {channels} channels (axis {axis}), expected 1 to {2**23}")
    wanted = tuple(target)
    labels = not _fits(wanted, given)
    if labels and (len(given) == 1 or not _fits(wanted, positions)):
        indices = "" if len(given) == 1 else f"{_show(positions)} class indices or "
        raise ValueError(
            f"{names.target} has shape {_show(wanted)}, expected {indices}{_show(given)} dense targets "
            f"for {names.input} {_show(given)}{_hint(wanted, given, positions)}"
        )
    if not labels and spec.ignore_index is not None:
        raise ValueError(
            f"{names.target} has shape {_show(wanted)}, that of dense targets, where ignore_index="
            f"{spec.ignore_index} has no meaning; expected {_show(positions)} class indices, or a boolean "
            f"{names.weight} in place of ignore_index"
        )
    if labels and (dense := [type(term).__name__ for _, term in spec.parts if term.needs_dense]):
        raise ValueError(
            f"{names.target} has shape {_show(wanted)}, that of class indices, expected {_show(given)} dense targets "
            f"for {dense[0]}"
        )
    if labels and channels == 1 and not any(term.about_classes for _, term in spec.parts):
        raise ValueError(
            f"{names.target} has shape {_show(wanted)}, that of class indices, but {names.input} {_show(given)} has "
            f"one channel; expected dense targets of shape {_show(given)}: add the channel axis to {names.target} "
            "(an index into one channel could only be 0)"
        )
    per_sample = False
    if weight is not None:
        if not mask and (unweighted := [type(term).__name__ for _, term in spec.parts if not term.takes_weights]):
            raise ValueError(f"{names.weight} is not boolean, expected a boolean mask or None for {unweighted[0]}")
        given_weight = tuple(weight)
        per_sample = len(positions) > 1 and len(given_weight) == 1
        if not _fits(given_weight, positions[:1] if per_sample else positions):
            expected = _show(positions[:1])
            expected += f" or {_show(positions)}" if len(positions) > 1 else ""
            raise ValueError(
                f"{names.weight} has shape {_show(given_weight)}, expected {expected} for {names.input} {_show(given)}"
                f"{_hint(given_weight, given, positions)}"
            )
    layout = Layout(len(shape), axis, channels, labels, per_sample)
    for _, term in spec.parts:
        term.check_layout(channels=channels, spatial=len(layout.spatial))
        for a in layout.spatial:
            length = shape[a]
            if length is not None and length < term.least_length:
                raise ValueError(
                    f"{names.input} has shape {_show(given)}, {length} positions along axis {a}, expected at least "
                    f"{term.least_length} for {term}"
                )
    return layout


def check_mergeable(spec: Spec) -> None:
    """Raise ValueError unless the sums of parts of a batch add up to those of the whole."""
    for _, term in spec.parts:
        if not term.mergeable:
            raise ValueError(
                f"{term} has no sums of parts: its order needs the whole batch; expected per_sample=True, or no sums "
                "and totals"
            )


def check_sums(name: str, shape: Shape, dtype: str, spec: Spec, channels: int | None = None) -> Shape:
    """Raise unless an argument of this shape and dtype can be what ``sums`` gave for this spec.

    Args:
        name: what the argument is called.
        channels: of the input; None if there is no input: then it is what the sums say.

    Returns:
        The shape they must have; None for what depends on channels that are not given.
    """
    check_mergeable(spec)

    def most(channels: int) -> int:
        return max(term.count_sums(channels) for _, term in spec.parts)

    given = tuple(shape)
    expected = (len(spec.parts), None if channels is None else most(channels), 12)
    if dtype != "int64":
        raise TypeError(f"{name} has dtype {dtype}, expected int64, as sums() gives them")
    if not _fits(given, expected):
        raise ValueError(f"{name} has shape {_show(given)}, expected {_show(expected)}, as sums() gives them")
    if channels is None and given[1] is not None:
        said = max(1, given[1] // 4)
        if most(said) != given[1]:
            raise ValueError(
                f"{name} has shape {_show(given)}, expected {most(said)} sums for each term, as sums() gives them"
            )
        for _, term in spec.parts:
            if term.count_sums(1) != term.count_sums(2):  # groups of classes, so the sums say how many there are
                try:
                    term.check_layout(channels=said, spatial=2)
                except ValueError as error:
                    raise ValueError(f"{name} has shape {_show(given)}, the sums of {said} channels: {error}") from None
    return expected


def label_error(value: object, position: Sequence[int], channels: int, ignore: int | None, names: Names) -> ValueError:
    """The error for a label out of range."""
    ignored = "" if ignore is None else f" (ignore_index is {ignore})"
    if channels == 1:  # one channel is a question of yes or no, not a choice of classes
        ignored += "; for labels 0 and 1 use BinaryCrossEntropy and a target with the channel axis"
    return ValueError(
        f"{names.target} has label {value} at position {tuple(position)}, expected 0 to {channels - 1}{ignored}"
    )


def _fits(shape: Shape, expected: Shape) -> bool:
    return len(shape) == len(expected) and all(
        a is None or b is None or a == b for a, b in zip(shape, expected, strict=True)
    )


def _hint(wanted: Shape, given: Shape, positions: Shape) -> str:
    """What a beginner may have missed."""
    wanted, given = tuple(wanted), tuple(given)
    if len(wanted) == len(given) and any(
        n == 1 and _fits(wanted[:a] + wanted[a + 1 :], positions) for a, n in enumerate(wanted)
    ):
        return "; remove the axis of length 1"
    if len(given) > 2 and (_fits(wanted, given[:-1]) or _fits(wanted, (given[0], *given[2:]))):
        return "; are the channels on another axis? channel_axis says where"
    return ""


def _show(shape: Shape) -> str:
    inner = ", ".join("?" if n is None else str(n) for n in shape)
    return f"({inner},)" if len(shape) == 1 else f"({inner})"
