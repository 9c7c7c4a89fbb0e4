"""The grids of `torch.nn`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from . import data as d
from .grid import Loss, Options

C = 3
SHAPES = [(6, C), (2, C, 5), (2, C, 3, 4), (1, C, 2, 3, 2)]
ALL_SHAPES = [*SHAPES, (7,)]
WEIGHTS = [0.5, 2.0, 0.25]
UNEVEN = [0.3, 1.7, 0.9]


def tensor(values: Any) -> Any:
    """A tensor, or None."""
    return None if values is None else torch.tensor(values)


def channels(values: Any, shape: tuple[int, ...]) -> Any:
    """Weights of channels, aligned as PyTorch wants them for inputs of a shape; one number stays one."""
    if values is None or isinstance(values, float):
        return tensor(values)
    return torch.tensor(values).reshape(-1, *(1,) * (len(shape) - 2))


def shapes(options: Options) -> list[tuple[int, ...]]:
    """All of them, or that of the options."""
    return [options["shape"]] if "shape" in options else SHAPES


def spatial(options: Options, shape: tuple[int, ...]) -> Options:
    """The keyword that says where channels are."""
    return {"spatial": len(shape) - 2}


REDUCTIONS = ["mean", "sum"]


def _cross_entropy(o: Options) -> Any:
    ignore = {} if o["ignore_index"] is None else {"ignore_index": o["ignore_index"]}
    return nn.CrossEntropyLoss(
        weight=tensor(o["weight"]), label_smoothing=o["label_smoothing"], reduction=o["reduction"], **ignore
    )


def _weighted(kind: Any) -> Any:
    def make(o: Options) -> Any:
        arrays = {name: channels(o[name], o["shape"]) for name in ("weight", "pos_weight") if name in o}
        return kind(reduction=o["reduction"], **arrays)

    return make


def plain(kind: Any) -> Any:
    """A loss whose grid holds its arguments."""
    return lambda o: kind(**{name: value for name, value in o.items() if name != "targets"})


LOSSES = [
    Loss(
        "torch",
        "CrossEntropyLoss",
        {
            "targets": ["indices"],
            "weight": [None, WEIGHTS, UNEVEN],
            "ignore_index": [None, 255, 1],
            "label_smoothing": [0.0, 0.1, 0.5],
            "reduction": REDUCTIONS,
        },
        lambda o: d.LABELS,
        _cross_entropy,
        shapes,
    ),
    Loss(
        "torch",
        "CrossEntropyLoss",
        {
            "targets": ["probabilities"],
            "weight": [None, WEIGHTS, UNEVEN],
            "ignore_index": [None],
            "label_smoothing": [0.0, 0.1, 0.5],
            "reduction": REDUCTIONS,
        },
        lambda o: {**d.DISTRIBUTIONS, **d.UNNORMALISED},
        _cross_entropy,
        shapes,
        keywords=lambda o, shape: {"targets": "probabilities"},
        repeats=4,
    ),
    Loss(
        "torch",
        "NLLLoss",
        {"weight": [None, WEIGHTS, UNEVEN], "ignore_index": [-100, 255, 1], "reduction": REDUCTIONS},
        lambda o: d.LOG_PROBABILITIES,
        lambda o: nn.NLLLoss(weight=tensor(o["weight"]), ignore_index=o["ignore_index"], reduction=o["reduction"]),
        shapes,
    ),
    Loss(
        "torch",
        "BCELoss",
        {"shape": SHAPES, "weight": [None, 0.5, UNEVEN], "reduction": REDUCTIONS},
        lambda o: {**d.BINARY_OF_PROBABILITIES, **d.BINARY_SOFT_OF_PROBABILITIES},
        _weighted(nn.BCELoss),
        shapes,
        keywords=spatial,
    ),
    Loss(
        "torch",
        "BCEWithLogitsLoss",
        {
            "shape": SHAPES,
            "weight": [None, 0.5, UNEVEN],
            "pos_weight": [None, 3.0, WEIGHTS],
            "reduction": REDUCTIONS,
        },
        lambda o: {**d.BINARY, **d.BINARY_SOFT},
        _weighted(nn.BCEWithLogitsLoss),
        shapes,
        keywords=spatial,
    ),
    Loss(
        "torch",
        "MultiLabelSoftMarginLoss",
        {"weight": [None, WEIGHTS, UNEVEN], "reduction": REDUCTIONS},
        lambda o: {**d.BINARY, **d.BINARY_SOFT},
        lambda o: nn.MultiLabelSoftMarginLoss(weight=tensor(o["weight"]), reduction=o["reduction"]),
        lambda o: [(6, C), (1, C)],
        keywords=spatial,
    ),
    Loss("torch", "MSELoss", {"reduction": REDUCTIONS}, lambda o: d.NUMBERS, plain(nn.MSELoss), lambda o: ALL_SHAPES),
    Loss("torch", "L1Loss", {"reduction": REDUCTIONS}, lambda o: d.NUMBERS, plain(nn.L1Loss), lambda o: ALL_SHAPES),
    Loss(
        "torch",
        "SmoothL1Loss",
        {"beta": [0.0, 0.5, 1.0, 2.5], "reduction": REDUCTIONS},
        lambda o: d.NUMBERS,
        plain(nn.SmoothL1Loss),
        lambda o: ALL_SHAPES,
    ),
    Loss(
        "torch",
        "HuberLoss",
        {"delta": [0.5, 1.0, 2.5], "reduction": REDUCTIONS},
        lambda o: d.NUMBERS,
        plain(nn.HuberLoss),
        lambda o: ALL_SHAPES,
    ),
    Loss(
        "torch",
        "KLDivLoss",
        {"log_target": [False, True], "reduction": [*REDUCTIONS, "batchmean"]},
        lambda o: d.LOGARITHMS_OF_BOTH if o["log_target"] else d.LOGARITHMS,
        plain(nn.KLDivLoss),
        shapes,
        repeats=4,
    ),
    Loss(
        "torch",
        "PoissonNLLLoss",
        {"log_input": [False, True], "full": [False, True], "eps": [1e-8, 1e-3], "reduction": REDUCTIONS},
        lambda o: d.LOG_RATES if o["log_input"] else d.COUNTS,
        plain(nn.PoissonNLLLoss),
        shapes,
    ),
]
