"""The grids of `keras.losses`."""

from __future__ import annotations

from typing import Any

import keras

from . import data as d
from .grid import Loss, Options

C = 3
SHAPES = [(6, C), (2, C, 5), (2, C, 3, 4), (1, C, 2, 3, 2)]
REDUCTIONS = ["sum_over_batch_size", "sum", "mean_with_sample_weight"]
BINARY = ("BinaryCrossentropy", "BinaryFocalCrossentropy")
SMOOTHINGS = [0.0, 0.1, 0.5]


def make(name: str) -> Any:
    """A loss whose grid holds its arguments."""
    return lambda o: getattr(keras.losses, name)(**{key: value for key, value in o.items() if key != "sample_weight"})


def loss(name: str, kinds: Any, grid: dict[str, list[Any]] | None = None, **more: Any) -> Loss:
    """A row of this library."""
    choose = kinds if callable(kinds) else lambda o: kinds
    options = {**(grid or {}), "reduction": REDUCTIONS, "sample_weight": [False, True]}
    # One channel, too, where they are not classes.
    shapes = [*SHAPES, (6, 1)] if name in ("MeanSquaredError", "Huber", *BINARY) else SHAPES
    return Loss("keras", name, options, choose, make(name), lambda o: shapes, **more)


def _groups(o: Options) -> Any:
    """The axes of the grid, by what they are."""
    spatial = o["spatial"]
    return {
        "all": None,
        "sample and class": tuple(range(1, spatial + 1)),
        "class": tuple(range(spatial + 1)),
        "sample": tuple(range(1, spatial + 2)),
    }[o["axis"]]


def region(name: str, grid: dict[str, list[Any]]) -> Loss:
    """Dice and Tversky."""
    return Loss(
        "keras",
        name,
        {
            "spatial": [1, 2, 3],
            "axis": ["all", "sample and class", "class", "sample"],
            **grid,
            "reduction": ["sum_over_batch_size", "mean_with_sample_weight"],
        },
        lambda o: {**d.DISTRIBUTIONS_OF_PROBABILITIES, **d.BINARY_OF_PROBABILITIES},
        lambda o: getattr(keras.losses, name)(
            **{key: value for key, value in o.items() if key != "spatial"} | {"axis": _groups(o)}
        ),
        lambda o: [shape for shape in SHAPES if len(shape) == o["spatial"] + 2],
        keywords=lambda o, shape: (
            {"spatial": o["spatial"]} | ({"like": "keras==3.15.1"} if o.get("alpha") != o.get("beta") else {})
        ),
    )


LOSSES = [
    loss("MeanSquaredError", d.NUMBERS),
    loss("MeanAbsoluteError", d.NUMBERS),
    loss("MeanAbsolutePercentageError", {**d.POSITIVES, **d.NEGATIVES}),
    loss("MeanSquaredLogarithmicError", {**d.POSITIVES, **d.NEGATIVES}),
    loss("Huber", d.NUMBERS, {"delta": [0.5, 1.0, 2.5]}),
    loss("LogCosh", d.NUMBERS),
    loss("CosineSimilarity", d.VECTORS),
    loss("Hinge", d.SIGNS),
    loss("SquaredHinge", d.SIGNS),
    loss("CategoricalHinge", {**d.DISTRIBUTIONS, **d.UNNORMALISED}),
    loss(
        "BinaryCrossentropy",
        lambda o: (
            {**d.BINARY, **d.BINARY_SOFT}
            if o["from_logits"]
            else {**d.BINARY_OF_PROBABILITIES, **d.BINARY_SOFT_OF_PROBABILITIES}
        ),
        {"from_logits": [False, True], "label_smoothing": SMOOTHINGS},
        repeats=4,
    ),
    loss(
        "BinaryFocalCrossentropy",
        lambda o: (
            {"0 and 1": d.BINARY["0 and 1"], **d.BINARY_SOFT}
            if o["from_logits"]
            else {**d.BINARY_OF_PROBABILITIES, **d.BINARY_SOFT_OF_PROBABILITIES}
        ),
        {
            "apply_class_balancing": [False, True],
            "alpha": [0.25, 0.5],
            "gamma": [0.5, 1.0, 2.0, 3.5],
            "from_logits": [False, True],
            "label_smoothing": SMOOTHINGS,
        },
        # Beyond 1e-4 from 0 and 1; there its gradient for gamma < 1 is NaN where the answer is right.
        valid=lambda o: o["gamma"] >= 1 or o["from_logits"] or o["label_smoothing"] > 0,
    ),
    loss(
        "CategoricalCrossentropy",
        lambda o: d.DISTRIBUTIONS if o["from_logits"] else d.DISTRIBUTIONS_OF_PROBABILITIES,
        {"from_logits": [False, True], "label_smoothing": SMOOTHINGS},
        repeats=4,
    ),
    loss(
        "CategoricalFocalCrossentropy",
        lambda o: {**d.DISTRIBUTIONS, **d.UNNORMALISED} if o["from_logits"] else d.DISTRIBUTIONS_OF_PROBABILITIES,
        {
            "alpha": [0.25, 1.0, [0.2, 0.7, 1.5]],
            "gamma": [0.0, 0.5, 1.0, 2.0, 3.5],
            "from_logits": [False, True],
            "label_smoothing": SMOOTHINGS,
        },
    ),
    loss(
        "SparseCategoricalCrossentropy",
        lambda o: d.LABELS if o["from_logits"] else d.LABELS_OF_PROBABILITIES,
        {"from_logits": [False, True], "ignore_class": [None, 255, -1, 1]},
        ignore=lambda o: o["ignore_class"],
        repeats=4,
    ),
    loss("KLDivergence", d.DISTRIBUTIONS_OF_PROBABILITIES),
    loss("Poisson", d.COUNTS),
    region("Dice", {}),
    region("Tversky", {"alpha": [0.5, 0.3, 1.0], "beta": [0.5, 0.7, 1.0]}),
]
