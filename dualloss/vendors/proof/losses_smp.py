"""The grids of segmentation-models-pytorch."""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
import types
from typing import Any

import torch

from . import data as d
from .grid import Loss, Options


def load() -> Any:
    """The package's losses. They need PyTorch and NumPy; the package itself needs torchvision and timm as well."""
    name = "segmentation_models_pytorch"
    if name not in sys.modules:
        found = importlib.machinery.PathFinder.find_spec(name)
        if found is None or found.submodule_search_locations is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        # An empty parent, at the same place, instead of the package's own __init__.
        parent = types.ModuleType(name)
        parent.__path__ = list(found.submodule_search_locations)
        sys.modules[name] = parent
    return importlib.import_module(f"{name}.losses")


losses = load()

C = 3
SHAPES = [(2, C, 5), (2, C, 3, 4), (1, C, 2, 3, 2)]
MODES = ["binary", "multiclass", "multilabel"]


def shapes(o: Options) -> list[tuple[int, ...]]:
    """One channel for the mode "binary"."""
    return [(shape[0], 1, *shape[2:]) if o.get("mode") == "binary" else shape for shape in SHAPES]


def kinds(o: Options) -> Any:
    """Class indices or dense targets, for logits or probabilities."""
    logits = o.get("from_logits", True)
    if o["mode"] == "multiclass":
        return d.LABELS if logits else d.LABELS_OF_PROBABILITIES
    return {**d.BINARY, **d.BINARY_SOFT} if logits else {**d.BINARY_OF_PROBABILITIES, **d.BINARY_SOFT_OF_PROBABILITIES}


def make(name: str) -> Any:
    """A loss whose grid holds its arguments."""
    return lambda o: getattr(losses, name)(**o)


def region_valid(o: Options) -> bool:
    """No options about classes for one; labels to ignore for class indices only."""
    if o["mode"] == "binary" and (o["classes"] is not None or o["class_weights"] is not None):
        return False
    return o["ignore_index"] is None or o["mode"] == "multiclass"


REGION: dict[str, list[Any]] = {
    "mode": MODES,
    "from_logits": [True, False],
    "log_loss": [False, True],
    "smooth": [0.0, 1.0],
    "classes": [None, [0, 2]],
    "class_weights": [None, [0.5, 2.0, 1.0]],
    "ignore_index": [None, 255],
}


def soft_bce(o: Options) -> Any:
    """With weights of channels, for the shapes with two spatial axes."""
    weight = None if o["weight"] is None else torch.tensor(o["weight"]).reshape(-1, 1, 1)
    return losses.SoftBCEWithLogitsLoss(
        weight=weight,
        pos_weight=None if o["pos_weight"] is None else torch.tensor(o["pos_weight"]),
        ignore_index=o["ignore_index"],
        reduction=o["reduction"],
        smooth_factor=o["smooth_factor"],
    )


LOSSES = [
    Loss("smp", "DiceLoss", REGION, kinds, make("DiceLoss"), shapes, valid=region_valid),
    Loss("smp", "JaccardLoss", REGION, kinds, make("JaccardLoss"), shapes, valid=region_valid),
    Loss(
        "smp",
        "TverskyLoss",
        {**REGION, "smooth": [0.5], "alpha": [0.3, 1.0], "beta": [0.7], "gamma": [1.0, 1.5]},
        kinds,
        make("TverskyLoss"),
        shapes,
        valid=region_valid,
        repeats=1,
    ),
    Loss(
        "smp",
        "LovaszLoss",
        {"mode": ["binary", "multiclass"], "per_image": [False, True], "ignore_index": [None, 255]},
        lambda o: (
            {"0 and 1": d.BINARY["0 and 1"], "empty": d.BINARY["empty"], "full": d.BINARY["full"]}
            if o["mode"] == "binary"
            else {name: d.LABELS[name] for name in ("labels", "one class")}
        ),
        make("LovaszLoss"),
        lambda o: shapes(o)[1:],
        valid=lambda o: o["ignore_index"] is None or o["mode"] == "multiclass",
        repeats=6,
    ),
    Loss(
        "smp",
        "FocalLoss",
        {
            "mode": MODES,
            "alpha": [None, 0.25],
            "gamma": [1.0, 2.0, 3.5],
            "from_logits": [True, False],
            "class_weights": [None, [0.5, 2.0, 1.0]],
            "ignore_index": [None, 255],
            "reduction": ["mean", "sum"],
        },
        lambda o: {
            name: kind
            for name, kind in kinds(o).items()
            if name not in ("soft", "0 and 1, certain")  # beyond what the row holds for
        },
        make("FocalLoss"),
        shapes,
        valid=lambda o: (
            (o["class_weights"] is None or o["mode"] != "binary")
            and (o["ignore_index"] is None or o["mode"] == "multiclass")
            and (o["from_logits"] or o["mode"] != "multiclass")
        ),
    ),
    Loss(
        "smp",
        "SoftBCEWithLogitsLoss",
        {
            "weight": [None, [0.5, 2.0, 1.0]],
            "pos_weight": [None, 3.0],
            "ignore_index": [None, -100],
            "reduction": ["mean", "sum"],
            "smooth_factor": [None, 0.1],
        },
        lambda o: {**d.BINARY, **d.BINARY_SOFT},
        soft_bce,
        lambda o: [shape for shape in SHAPES if o["weight"] is None or len(shape) == 4],
    ),
    Loss(
        "smp",
        "SoftCrossEntropyLoss",
        {"smooth_factor": [0.0, 0.1], "ignore_index": [None, -100, 1], "reduction": ["mean", "sum"]},
        lambda o: d.LABELS,
        make("SoftCrossEntropyLoss"),
        shapes,
    ),
]
