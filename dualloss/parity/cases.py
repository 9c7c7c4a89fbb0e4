"""What the parity suite compares: configurations (a spec and how it is called) times families of values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .. import TOTAL_LOSS, BinaryCrossEntropy, Boundary, CrossEntropy, Huber, MeanSquaredError, Spec
from . import generator

Array = Any

IGNORED = 255


@dataclass(frozen=True)
class Config:
    """A spec and how it is called: what a compiled engine compiles once.

    Attributes:
        name: unique.
        term: the group it belongs to, for ``--terms``.
        spec: the loss.
        shape: of the input, channels last.
        dtype: of the input.
        target: ``"labels"``, ``"onehot"`` or ``"soft"``.
        weight: ``"none"``, ``"sample"``, ``"position"`` or ``"mask"``.
        reduction: as the losses take it.
        compiled: whether engines that compile for each configuration run it (in a full run they run all).
        families: the families of values, or all.
    """

    name: str
    term: str
    spec: Spec
    shape: tuple[int, ...] = (2, 4, 5, 3)
    dtype: str = "float32"
    target: str = "labels"
    weight: str = "none"
    reduction: str = "mean"
    compiled: bool = False
    families: tuple[str, ...] = ()

    @property
    def positions(self) -> tuple[int, ...]:
        """The shape without the channel axis."""
        return self.shape[:-1] if len(self.shape) > 1 else self.shape


@dataclass(frozen=True)
class Case:
    """One call, in arrays every engine can read: channels last, the input's values exact in its dtype."""

    config: Config
    family: str
    input: Array = field(repr=False)
    target: Array = field(repr=False)
    weight: Array | None = field(repr=False)
    upstream: Array = field(repr=False)

    @property
    def name(self) -> str:
        """Unique."""
        return f"{self.config.name}/{self.family}"


def _scaled(scale: float) -> Callable[[str, tuple[int, ...]], Array]:
    return lambda name, shape: generator.bell(name, shape) * scale


def _chosen(*values: float) -> Callable[[str, tuple[int, ...]], Array]:
    """Elements drawn from a few values."""

    def draw(name: str, shape: tuple[int, ...]) -> Array:
        return np.array(values)[generator.labels(name, shape, len(values))]

    return draw


def _sparse(rare: float, among: Callable[[str, tuple[int, ...]], Array]) -> Callable[[str, tuple[int, ...]], Array]:
    def draw(name: str, shape: tuple[int, ...]) -> Array:
        return np.where(generator.uniform(name + "?", shape) < 0.06, rare, among(name, shape))

    return draw


def _spread(name: str, shape: tuple[int, ...]) -> Array:
    """Every exponent of float32."""
    exponent = generator.labels(name + "exponent", shape, 250).astype(np.int32) - 125
    return np.ldexp(generator.bell(name, shape), exponent)


FAMILIES: dict[str, Callable[[str, tuple[int, ...]], Array]] = {
    "scale_1e-3": _scaled(1e-3),
    "scale_1": _scaled(1.0),
    "scale_30": _scaled(30.0),
    "scale_1e4": _scaled(1e4),
    "ties": _chosen(-1.0, 0.0, 0.0, 2.0),
    "equal": _chosen(0.5),
    "saturated": _chosen(-120.0, 0.0, 95.0),
    "confident": _chosen(0.0, 13.5, 27.0),
    "tiny": _chosen(0.0, -0.0, 1e-45, -1e-40, 1.1754944e-38, -1.2e-38, 6e-8, 5e-6),
    "minus_infinity": _sparse(-np.inf, _scaled(3.0)),
    "plus_infinity": _sparse(np.inf, _scaled(3.0)),
    "nan": _sparse(np.nan, _scaled(3.0)),
    "huge": _chosen(-3.4e38, -1e38, 0.0, 1e38, 3.4e38),
    "spread": _spread,
    "all_ignored": _scaled(3.0),
    "zero_weights": _sparse(np.nan, _scaled(3.0)),
}
"""Families of inputs. The last two also change labels or weights."""


def round_to(values: Array, dtype: str) -> Array:
    """float32 holding values of ``dtype``, rounded to nearest even (infinite beyond its range)."""
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
        if dtype == "float16":
            return narrow.astype(np.float16).astype(np.float32)
    if dtype == "bfloat16":
        bits = narrow.view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
        return np.where(np.isnan(narrow), narrow, rounded.view(np.float32))
    return narrow


def make(config: Config, family: str) -> Case:
    """The arrays of a case."""
    seed = f"{config.name}/{family}"
    shape, positions = config.shape, config.positions
    classes = shape[-1] if len(shape) > 1 else 1
    x = round_to(FAMILIES[family](seed, shape), config.dtype)
    target: Array = generator.labels(seed + "/labels", positions, classes)
    if config.spec.ignore_index is not None:
        target = np.where(generator.uniform(seed + "/ignored", positions) < 0.2, IGNORED, target)
        if family == "all_ignored":
            target = np.full_like(target, IGNORED)
    if config.target == "onehot":
        target = (target[..., None] == np.arange(classes)).astype(np.float32)
    elif config.target == "soft":
        target = generator.uniform(seed + "/soft", shape).astype(np.float32)
    weight: Array | None = None
    if config.weight == "mask":
        weight = generator.uniform(seed + "/mask", positions) < (0.0 if family == "all_ignored" else 0.8)
    elif config.weight != "none":
        per = positions[:1] if config.weight == "sample" else positions
        weight = (generator.uniform(seed + "/weight", per) * 2.0).astype(np.float32)
        if family in ("zero_weights", "all_ignored"):
            weight = np.where(generator.uniform(seed + "/zero", per) < 0.5, np.float32(0.0), weight)
    upstream: Array = np.float32(1.0)
    if config.reduction == "none":
        upstream = (generator.bell(seed + "/upstream", positions)).astype(np.float32)
    elif config.dtype != "float32" or config.reduction == "sum":
        upstream = np.float32(1024.0 if config.dtype == "float16" else 0.7)
    return Case(config, family, x, target, weight, upstream)


def cases(config: Config) -> Iterator[Case]:
    """All cases of a configuration."""
    for family in config.families or FAMILIES:
        yield make(config, family)


WEIGHTED = CrossEntropy(class_weights=(0.25, 1.0, 3.7), label_smoothing=0.1, normalizer="weights")

SPECS: dict[str, Spec] = {
    "cross_entropy": CrossEntropy(),
    "cross_entropy_weighted": WEIGHTED,
    "cross_entropy_valid": CrossEntropy(class_weights=(2.0, 0.0, 0.3), ignore_index=IGNORED, normalizer="valid"),
    "cross_entropy_all": CrossEntropy(label_smoothing=0.2, ignore_index=IGNORED, normalizer="all"),
    "boundary": Boundary(),
    "boundary_8": Boundary(kernel="laplacian8", padding="replicate", ignore_index=IGNORED),
    "boundary_probabilities": Boundary(on="probabilities", padding="reflect"),
    "total_loss": TOTAL_LOSS,
    "total_loss_ignore": CrossEntropy(ignore_index=IGNORED) + 0.5 * Boundary(),
    "mean_squared_error": MeanSquaredError(),
    "binary_cross_entropy": BinaryCrossEntropy(),
    "binary_cross_entropy_weighted": BinaryCrossEntropy(pos_weight=(0.5, 2.0, 7.3), label_smoothing=0.1),
    "huber": Huber(delta=0.7),
    "three_terms": 0.3 * WEIGHTED + 1.7 * Boundary(on="probabilities", kernel="laplacian8") + 0.1 * Huber(),
}
"""The specs of the matrix, by name."""

_CALLS = (
    # target, weight, reduction, dtype: every pair of values of two columns occurs
    ("labels", "none", "mean", "float32"),
    ("onehot", "position", "mean", "float32"),
    ("soft", "sample", "sum", "float32"),
    ("labels", "mask", "none", "float32"),
    ("labels", "sample", "mean", "bfloat16"),
    ("onehot", "none", "none", "bfloat16"),
    ("soft", "position", "mean", "bfloat16"),
    ("onehot", "mask", "sum", "bfloat16"),
    ("labels", "position", "sum", "float16"),
    ("soft", "mask", "mean", "float16"),
    ("soft", "none", "none", "float16"),
    ("onehot", "sample", "none", "float16"),
    ("labels", "none", "sum", "float32"),
    ("soft", "none", "mean", "float32"),
    ("labels", "position", "none", "float32"),
    ("onehot", "mask", "mean", "float32"),
)

_SHAPES = {
    "one_class": (2, 4, 5, 1),
    "one_pixel": (1, 1, 1, 3),
    "column": (2, 1, 6, 3),
    "classes_257": (1, 2, 3, 257),
    "line": (2, 9, 3),
    "volume": (1, 3, 2, 4, 3),
    "pairs": (3, 2, 2, 3),
    "no_space": (6, 3),
    "vector": (7,),
    "empty": (0, 4, 5, 3),
}


def configs() -> list[Config]:
    """The whole matrix, in a fixed order."""
    result = []
    for index, (name, spec) in enumerate(SPECS.items()):
        for row, (target, weight, reduction, dtype) in enumerate(_CALLS):
            if spec.ignore_index is not None and target != "labels":
                continue
            result.append(
                Config(
                    f"{name}/{target}-{weight}-{reduction}-{dtype}",
                    _group(name),
                    spec,
                    dtype=dtype,
                    target=target,
                    weight=weight,
                    reduction=reduction,
                    compiled=row == _COMPILED[index % len(_COMPILED)] or (row == 0 and name == "total_loss"),
                )
            )
        for shape_name, shape in _SHAPES.items():
            if not _takes(spec, shape):
                continue
            config = Config(
                f"{name}/{shape_name}",
                _group(name),
                _for_classes(spec, shape),
                shape=shape,
                target="soft" if shape_name in ("one_class", "vector") and spec.ignore_index is None else "labels",
                families=("scale_1", "ties", "nan", "spread"),
            )
            if shape_name == "one_class" and spec.ignore_index is None:
                config = replace(config, weight="position")
            result.append(config)
    return result


_COMPILED = (0, 3, 4, 8)
"""Rows of the calls that compiled engines run, one a spec in turn: all with labels, which every spec takes."""


def _group(name: str) -> str:
    return next(g for g in _GROUPS if name.startswith(g))


_GROUPS = (
    "total_loss", "binary_cross_entropy", "cross_entropy", "boundary", "mean_squared_error", "huber", "three_terms",
)  # fmt: skip


def _takes(spec: Spec, shape: tuple[int, ...]) -> bool:
    """Whether the spec is defined on the shape."""
    spatial = len(shape) - 2
    try:
        for _, term in spec.parts:
            term.check_layout(channels=3, spatial=spatial)
            if len(shape) == 1 and (term.needs_channels or getattr(term, "pos_weight", None) is not None):
                return False
    except ValueError:
        return False
    # Dense targets have no ignore_index, and labels for one channel need a term about classes.
    return spec.ignore_index is None or (shape[-1] > 1 or any(term.about_classes for _, term in spec.parts))


def _for_classes(spec: Spec, shape: tuple[int, ...]) -> Spec:
    """The spec with its constants repeated or cut to the number of channels."""
    channels = shape[-1] if len(shape) > 1 else 1
    total: Any = 0
    for weight, term in spec.parts:
        changes = {}
        for option in ("class_weights", "pos_weight"):
            values = getattr(term, option, None)
            if values is not None:
                changes[option] = tuple(values[c % len(values)] for c in range(channels))
        total = total + weight * (replace(term, **changes) if changes else term)
    return total
