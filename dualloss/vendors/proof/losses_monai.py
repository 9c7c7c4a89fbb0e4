"""The grids of MONAI."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from . import data as d
from .data import Array
from .grid import Loss, Options

losses: Any = importlib.import_module("monai.losses")

C = 3
SHAPES = [(2, C, 5), (2, C, 3, 4), (1, C, 2, 3, 2)]
LIKE = "monai==1.6.1"


def shapes(o: Options) -> list[tuple[int, ...]]:
    """With the channels of the grid."""
    return [(shape[0], o.get("channels", C), *shape[2:]) for shape in SHAPES]


def target(o: Options, t: Array, shape: tuple[int, ...]) -> Array:
    """Class indices with an axis of length 1."""
    return t[:, None] if t.ndim < len(shape) else t


def activated(o: Options) -> Options:
    """The options of an activation, by its name."""
    return {"softmax": o["activation"] == "softmax", "sigmoid": o["activation"] == "sigmoid"}


def arguments(o: Options) -> Options:
    """The options that are the loss's own arguments."""
    own = {key: value for key, value in o.items() if key not in ("activation", "channels", "smooth")}
    if "smooth" in o:
        own |= {"smooth_nr": o["smooth"][0], "smooth_dr": o["smooth"][1]}
    return {**own, **(activated(o) if "activation" in o else {})}


def kinds(o: Options) -> Any:
    """Class indices for one-hot, else dense targets; probabilities without an activation."""
    logits = o["activation"] != "none"
    if o["to_onehot_y"] and o.get("soft_label") and not logits:
        return {name: kind for name, kind in d.LABELS_OF_PROBABILITIES.items() if name != "labels, certain"}
    if o["to_onehot_y"]:
        return d.LABELS if logits else d.LABELS_OF_PROBABILITIES
    if o.get("soft_label"):
        return d.BINARY_SOFT if logits else d.BINARY_SOFT_OF_PROBABILITIES
    return d.BINARY if logits else {**d.BINARY_OF_PROBABILITIES, **d.BINARY_SOFT_OF_PROBABILITIES}


def make(name: str) -> Any:
    """A loss whose grid holds its arguments."""
    return lambda o: getattr(losses, name)(**arguments(o))


def weight(o: Options, values: list[float] | None) -> Any:
    """As many weights as there are classes."""
    return values if values is None or o["include_background"] else values[1:]


def _dice(o: Options) -> Any:
    return losses.DiceLoss(**{**arguments(o), "weight": weight(o, o["weight"])})


def _dice_ce(o: Options) -> Any:
    weights = None if o["weight"] is None else torch.tensor(o["weight"])
    return losses.DiceCELoss(**{**arguments(o), "weight": weights})


def _dice_focal(o: Options) -> Any:
    return losses.DiceFocalLoss(**{**arguments(o), "weight": weight(o, o["weight"])})


def _ignores_labels(o: Options) -> bool:
    return o["ignore_index"] is None or o["to_onehot_y"]


LOSSES = [
    Loss(
        "monai",
        "DiceLoss",
        {
            "include_background": [True, False],
            "to_onehot_y": [True, False],
            "activation": ["softmax", "sigmoid", "none"],
            "squared_pred": [False, True],
            "jaccard": [False, True],
            "batch": [False, True],
            "weight": [None, [0.5, 2.0, 1.0]],
            "soft_label": [False, True],
            "ignore_index": [None, 255],
        },
        kinds,
        _dice,
        shapes,
        valid=lambda o: _ignores_labels(o) and not (o["squared_pred"] and o["soft_label"]),
        target=target,
        repeats=1,
    ),
    Loss(
        "monai",
        "TverskyLoss",
        {
            "include_background": [True, False],
            "to_onehot_y": [True, False],
            "activation": ["softmax", "sigmoid", "none"],
            "alpha": [0.3, 1.0],
            "beta": [0.7],
            "batch": [False, True],
            "soft_label": [False, True],
            "ignore_index": [None, 1],
            "smooth": [[1e-5, 1e-5], [0.5, 1.0]],
        },
        kinds,
        make("TverskyLoss"),
        shapes,
        valid=_ignores_labels,
        target=target,
        repeats=1,
    ),
    Loss(
        "monai",
        "FocalLoss",
        {
            "use_softmax": [False],
            "include_background": [True, False],
            "to_onehot_y": [True, False],
            "gamma": [0.5, 2.0, 3.5],
            "alpha": [None, 0.25],
            "weight": [None, [0.5, 2.0, 1.0], 3.0],
            "ignore_index": [None, 255],
        },
        lambda o: d.LABELS if o["to_onehot_y"] else d.BINARY,
        lambda o: losses.FocalLoss(
            **{**o, "weight": weight(o, o["weight"]) if isinstance(o["weight"], list) else o["weight"]}
        ),
        shapes,
        keywords=lambda o, shape: {"classes": shape[1]} | ({"like": LIKE} if o["ignore_index"] is not None else {}),
        valid=_ignores_labels,
        target=target,
    ),
    Loss(
        "monai",
        "FocalLoss",
        {
            "use_softmax": [True],
            "to_onehot_y": [True, False],
            "gamma": [1.0, 2.0, 3.5],
            "alpha": [None, 0.25, [0.2, 0.7, 1.5]],
            "weight": [None, [0.5, 2.0, 1.0], 3.0],
            "ignore_index": [None, 255],
        },
        lambda o: d.LABELS if o["to_onehot_y"] else {"one-hot": d.DISTRIBUTIONS["one-hot"], **d.UNNORMALISED},
        make("FocalLoss"),
        shapes,
        keywords=lambda o, shape: {"classes": shape[1]} | ({"like": LIKE} if o["ignore_index"] is not None else {}),
        valid=_ignores_labels,
        target=target,
    ),
    Loss(
        "monai",
        "DiceCELoss",
        {
            "include_background": [True, False],
            "to_onehot_y": [True, False],
            "activation": ["softmax", "sigmoid"],
            "squared_pred": [False, True],
            "batch": [False, True],
            "weight": [None, [0.5, 2.0, 1.0]],
            "lambda_dice": [1.0, 0.5],
            "label_smoothing": [0.0, 0.1],
        },
        lambda o: d.LABELS if o["to_onehot_y"] else d.DISTRIBUTIONS,
        _dice_ce,
        shapes,
        keywords=lambda o, shape: {"classes": shape[1]},
        target=target,
        repeats=1,
    ),
    Loss(
        "monai",
        "DiceCELoss",
        {"channels": [1], "activation": ["sigmoid"], "weight": [None, [2.0]], "lambda_ce": [1.0, 0.25]},
        lambda o: d.BINARY,
        _dice_ce,
        shapes,
        keywords=lambda o, shape: {"classes": 1},
        repeats=4,
    ),
    Loss(
        "monai",
        "DiceFocalLoss",
        {
            "include_background": [True, False],
            "to_onehot_y": [True, False],
            "activation": ["softmax", "sigmoid"],
            "gamma": [2.0, 1.0],
            "alpha": [None, 0.25],
            "weight": [None, [0.5, 2.0, 1.0]],
            "lambda_focal": [1.0, 0.5],
        },
        lambda o: d.LABELS if o["to_onehot_y"] else d.BINARY,
        _dice_focal,
        shapes,
        keywords=lambda o, shape: {"classes": shape[1]},
        target=target,
        repeats=1,
    ),
    Loss(
        "monai",
        "SSIMLoss",
        {"spatial_dims": [2, 3], "win_size": [3, 5], "kernel_sigma": [1.5, 0.8], "data_range": [1.0, 2.0]},
        lambda o: d.IMAGES,
        make("SSIMLoss"),
        lambda o: [(2, 2, 7, 6)] if o["spatial_dims"] == 2 else [(1, 2, 5, 6, 5)],
        # Its window is computed in float32, with other roundings than ours, and variances cancel.
        native=16.0,
        exact=16.0,
    ),
    Loss(
        "monai",
        "BoundaryLoss",
        {"to_onehot_y": [True, False], "activation": ["softmax", "sigmoid", "none"], "batch": [False, True]},
        lambda o: {name: kind for name, kind in kinds(o).items() if name not in ("soft", "all ignored")},
        make("BoundaryLoss"),
        lambda o: [(2, C, 5, 6), (1, C, 3, 4, 4)],
        target=target,
    ),
]
