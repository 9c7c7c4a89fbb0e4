"""What is compared: the shape of the batch, and what model and data hand to the losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Targets = Literal["index", "one-hot", "probabilities", "binary", "values"]
Inputs = Literal["logits", "probabilities", "log-probabilities", "values"]
Activation = Literal["none", "softmax", "sigmoid", "log-softmax"]
Feed = Literal["auto", "index", "one-hot"]
Layout = Literal["auto", "first", "last"]
Framework = Literal["auto", "torch", "tf"]
Order = Literal["auto", "input-first", "target-first"]
Weights = Literal["none", "sample", "position"]


def _check(name: str, value: object, allowed: object) -> None:
    names = get_args(allowed)
    if value not in names:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(map(repr, names))}")


@dataclass(frozen=True)
class Side:
    """How one of the two losses is called.

    Attributes:
        activation: what stands between the logits and the loss on this side: the last layer of its model. The gradient
            is that by the logits.
        targets: whether class indices reach it as they are or one-hot; "auto" asks the loss what it takes.
        layout: where its channels are: on axis 1 or last; "auto": 1 for PyTorch, last for TensorFlow and specs.
        order: which argument comes first; "auto": as the arguments' names say, or else as its framework has it.
        framework: "torch" or "tf"; "auto": what the loss is made of.
    """

    activation: Activation = "none"
    targets: Feed = "auto"
    layout: Layout = "auto"
    order: Order = "auto"
    framework: Framework = "auto"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("activation", Activation), ("targets", Feed), ("layout", Layout), ("order", Order),
            ("framework", Framework),
        ):  # fmt: skip
            _check(name, getattr(self, name), allowed)


@dataclass(frozen=True)
class Case:
    """A batch that both losses get.

    Attributes:
        classes: the classes or channels C; None: the input is (B, *spatial), without an axis for them.
        spatial: the sizes of the spatial axes.
        batch: the samples B.
        targets: "index": class indices (B, *spatial); "one-hot": the same as (B, *spatial, C); "probabilities": soft
            ones; "binary": 0 or 1, "values": real numbers, both of the input's shape.
        inputs: what the losses are given, before a side's activation: "logits" or "values" (any real numbers),
            "probabilities" (each position sums to 1; of binary targets, each is between 0 and 1) or their logarithms.
        ignore_index: a label of class indices or binary masks that the losses leave out; probes use it.
        weights: whether both take sample weights: of shape (B,), or (B, *spatial).
        replicas: over how many replicas the losses would run: factors of this size are named so.
        seed: of the random numbers.
        a, b: how each side is called.
    """

    classes: int | None = 3
    spatial: tuple[int, ...] = ()
    batch: int = 4
    targets: Targets = "index"
    inputs: Inputs = "logits"
    ignore_index: int | None = None
    weights: Weights = "none"
    replicas: int = 1
    seed: int = 0
    a: Side = Side()
    b: Side = Side()

    def __post_init__(self) -> None:
        for name, allowed in (("targets", Targets), ("inputs", Inputs), ("weights", Weights)):
            _check(name, getattr(self, name), allowed)
        for name, value, least in (("batch", self.batch, 1), ("replicas", self.replicas, 1)):
            if type(value) is not int or value < least:
                raise ValueError(f"{name} is {value!r}, expected an integer >= {least}")
        if self.classes is not None and (type(self.classes) is not int or self.classes < 1):
            raise ValueError(f"classes is {self.classes!r}, expected an integer >= 1 or None")
        if any(type(n) is not int or n < 1 for n in self.spatial):
            raise ValueError(f"spatial is {self.spatial!r}, expected integers >= 1")
        if self.classes is None and self.targets in ("index", "one-hot", "probabilities"):
            raise ValueError(f"classes is None, but targets={self.targets!r} needs a number of classes")
        if self.ignore_index is not None and self.targets not in ("index", "binary"):
            raise ValueError(f"ignore_index is {self.ignore_index}, but targets={self.targets!r} have no labels")

    @property
    def shape(self) -> tuple[int, ...]:
        """The input's shape, its channels last."""
        return (self.batch, *self.spatial, *(() if self.classes is None else (self.classes,)))
