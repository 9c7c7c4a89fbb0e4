"""What the parity suite compares: configurations (a spec and how it is called) times families of values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .. import (
    SSIM,
    TOTAL_LOSS,
    BinaryCrossEntropy,
    BinaryFocal,
    Boundary,
    CategoricalHinge,
    Charbonnier,
    CosineSimilarity,
    CrossEntropy,
    Dice,
    DistanceMap,
    Focal,
    FocalTversky,
    Hinge,
    Huber,
    Jaccard,
    KLDivergence,
    LogCosh,
    Lovasz,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    MeanSquaredLogarithmicError,
    NegativeLogLikelihood,
    Poisson,
    Quantile,
    SmoothL1,
    Spec,
    SquaredHinge,
    TotalVariation,
    Tversky,
)
from ..spec import Term
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
        target: ``"labels"``, ``"onehot"``, ``"soft"`` (from 0 to 1), ``"even"`` (1 / classes, which small logits are
            near) or ``"counts"`` (integers from 0 to 7).
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

_EDGES = (0.0, 1.0, 1e-7, 2e-7, 5e-8, 1.0 - 2.0**-24, 1.0 - 2.0**-23, 0.5, 1e-30, 1e-12)

PROBABILITIES: dict[str, Callable[[str, tuple[int, ...]], Array]] = {
    "probabilities": generator.uniform,
    "edges": _chosen(*_EDGES),
    "tiny_probabilities": lambda name, shape: np.abs(_spread(name, shape)) % 1.0,
    "one_hot": _chosen(0.0, 0.0, 1.0),
    "nothing": _chosen(0.0),
    "outside": _chosen(-0.5, -1e-9, 0.25, 1.0, 1.5, 2.0),
    "not_finite": _sparse(np.inf, _chosen(0.25, np.nan, 0.5, 0.75, 0.5)),
    "all_ignored": generator.uniform,
    "zero_weights": _sparse(np.nan, generator.uniform),
}
"""Families of inputs for terms that take probabilities. The last two also change labels or weights."""


def families(spec: Spec) -> dict[str, Callable[[str, tuple[int, ...]], Array]]:
    """The families of inputs for a spec."""
    takes = [getattr(term, "inputs", getattr(term, "activation", None)) for _, term in spec.parts]
    return PROBABILITIES if any(kind in ("probabilities", "rate", "none") for kind in takes) else FAMILIES


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
    x = round_to(families(config.spec)[family](seed, shape), config.dtype)
    target: Array = generator.labels(seed + "/labels", positions, classes)
    if config.spec.ignore_index is not None:
        target = np.where(generator.uniform(seed + "/ignored", positions) < 0.2, IGNORED, target)
        if family == "all_ignored":
            target = np.full_like(target, IGNORED)
    if config.target == "onehot":
        target = (target[..., None] == np.arange(classes)).astype(np.float32)
    elif config.target == "soft":
        target = generator.uniform(seed + "/soft", shape).astype(np.float32)
    elif config.target == "even":
        target = np.full(shape, 1.0 / classes, np.float32)
    elif config.target == "counts":
        target = generator.labels(seed + "/counts", shape, 8).astype(np.float32)
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
    known = families(config.spec)
    for family in config.families or known:
        yield make(config, family if family in known else next(iter(known)))


WEIGHTED = CrossEntropy(class_weights=(0.25, 1.0, 3.7), label_smoothing=0.1, normalizer="weights")

SPECS: dict[str, Spec] = {
    "cross_entropy": CrossEntropy(),
    "cross_entropy_weighted": WEIGHTED,
    "cross_entropy_valid": CrossEntropy(class_weights=(2.0, 0.0, 0.3), ignore_index=IGNORED, normalizer="valid"),
    "cross_entropy_all": CrossEntropy(label_smoothing=0.2, ignore_index=IGNORED, normalizer="elements"),
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

MORE: dict[str, Spec] = {
    # The first of a term runs the whole matrix, its other options a part of it.
    "negative_log_likelihood": NegativeLogLikelihood(),
    "negative_log_likelihood_weighted": NegativeLogLikelihood(class_weights=(0.5, 0.0, 1.3), ignore_index=IGNORED),
    "cross_entropy_probabilities": CrossEntropy(inputs="probabilities"),
    "cross_entropy_probabilities_plain": CrossEntropy(
        inputs="probabilities", renormalize="never", label_smoothing=0.1, class_weights=(0.3, 1.7, 1.0)
    ),
    "cross_entropy_probabilities_after": CrossEntropy(inputs="probabilities", renormalize="after", clip=1e-3),
    "cross_entropy_batch": CrossEntropy(normalizer="batch", ignore_index=IGNORED, empty="nan"),
    "cross_entropy_sample_weights": CrossEntropy(normalizer="sample_weights", class_weights=(0.3, 1.7, 1.0)),
    "cross_entropy_one": CrossEntropy(normalizer="one"),
    "binary_cross_entropy_probabilities": BinaryCrossEntropy(inputs="probabilities", label_smoothing=0.1),
    "binary_cross_entropy_probabilities_weighted": BinaryCrossEntropy(
        inputs="probabilities", pos_weight=3.0, class_weights=(0.2, 1.0, 2.5), clip=1e-3
    ),
    "binary_cross_entropy_floor": BinaryCrossEntropy(inputs="probabilities", clip=None),
    "binary_cross_entropy_floor_weighted": BinaryCrossEntropy(
        inputs="probabilities", clip=None, class_weights=(0.2, 1.0, 2.5), channels="sum"
    ),
    "binary_cross_entropy_ignore": BinaryCrossEntropy(ignore_value=1.0, class_weights=(0.2, 1.0, 2.5), channels="sum"),
    "focal": Focal(),
    "focal_alpha": Focal(gamma=0.5, alpha=(0.25, 0.5, 2.0), label_smoothing=0.1, channels="mean"),
    "focal_odd": Focal(gamma=3.7, alpha=0.25, ignore_index=IGNORED),
    "focal_none": Focal(gamma=0.0, normalizer="elements"),
    "focal_clip_softmax": Focal(clip_softmax=True, clip=1e-3, alpha=0.25),
    "focal_probabilities": Focal(inputs="probabilities", gamma=1.0),
    "focal_probabilities_plain": Focal(inputs="probabilities", renormalize=False, gamma=1.5, alpha=0.25),
    "binary_focal": BinaryFocal(),
    "binary_focal_alpha": BinaryFocal(gamma=0.5, alpha=0.25, label_smoothing=0.1, class_weights=(0.2, 1.0, 2.5)),
    "binary_focal_odd": BinaryFocal(gamma=3.7, alpha=0.75, channels="sum", ignore_index=IGNORED),
    "binary_focal_probabilities": BinaryFocal(inputs="probabilities", alpha=0.25),
    "kl_divergence": KLDivergence(),
    "kl_divergence_log_probabilities": KLDivergence(inputs="log_probabilities", channels="mean"),
    "kl_divergence_log_target": KLDivergence(inputs="log_probabilities", log_target=True, normalizer="batch"),
    "kl_divergence_logits_log_target": KLDivergence(log_target=True),
    "kl_divergence_probabilities": KLDivergence(inputs="probabilities"),
    "poisson": Poisson(),
    "poisson_full": Poisson(full=True, channels="sum"),
    "poisson_rate": Poisson(inputs="rate", full=True),
    "hinge": Hinge(),
    "squared_hinge": SquaredHinge(),
    "categorical_hinge": CategoricalHinge(),
    "categorical_hinge_ignore": CategoricalHinge(ignore_index=IGNORED),
    "mean_squared_error_sum": MeanSquaredError(channels="sum", normalizer="batch"),
    "mean_absolute_error": MeanAbsoluteError(),
    "mean_absolute_percentage_error": MeanAbsolutePercentageError(),
    "mean_squared_logarithmic_error": MeanSquaredLogarithmicError(),
    "smooth_l1": SmoothL1(beta=0.3),
    "smooth_l1_zero": SmoothL1(beta=0.0, channels="sum"),
    "log_cosh": LogCosh(),
    "cosine_similarity": CosineSimilarity(),
    "cosine_similarity_distance": CosineSimilarity(form="distance", epsilon=0.5),
    "quantile": Quantile(quantile=0.9),
    "dice": Dice(),
    "dice_smooth": Dice(smooth=1.0, squared=True, class_weights=(0.2, 1.0, 2.5)),
    "dice_sigmoid": Dice(activation="sigmoid", per_class=False, smooth=1e-5, smooth_denominator=1e-3),
    "dice_sample": Dice(per_sample=True, background=False, empty_class="exclude", smooth=1e-5),
    "dice_minimum": Dice(overlap="minimum", smooth=0.3, per_sample=True),
    "dice_log": Dice(log=True, empty_class="zero", ignore_index=IGNORED),
    "dice_probabilities": Dice(activation="none", per_class=False, per_sample=True, epsilon=0.0),
    "jaccard": Jaccard(),
    "jaccard_squared": Jaccard(squared=True, smooth=0.5, classes=(0, 2), empty_class="zero", log=True),
    "tversky": Tversky(alpha=0.3, beta=0.7),
    "tversky_squared": Tversky(alpha=0.9, beta=0.2, squared=True, smooth=1.0, per_sample=True, activation="sigmoid"),
    "focal_tversky": FocalTversky(),
    "focal_tversky_mean": FocalTversky(gamma=1.5, power_of_mean=True, empty_class="exclude"),
    "focal_tversky_log": FocalTversky(gamma=2.0, log=True, smooth=0.1, per_sample=True, class_weights=(0.2, 1.0, 2.5)),
    "lovasz": Lovasz(),
    "lovasz_sample": Lovasz(per_sample=True, classes="all", ignore_index=IGNORED),
    "lovasz_hinge": Lovasz(activation="hinge", per_sample=True),
    "lovasz_probabilities": Lovasz(activation="none", classes="all"),
    "boundary_sobel": Boundary(kernel="sobel"),
    "boundary_sobel_probabilities": Boundary(
        kernel="sobel", on="probabilities", padding="reflect", channels="sum", ignore_index=IGNORED
    ),
    "distance_map": DistanceMap(),
    "distance_map_ignore": DistanceMap(activation="sigmoid", ignore_index=IGNORED, normalizer="batch"),
    "distance_map_given": DistanceMap(activation="none", target="distances"),
    "ssim": SSIM(window=3),
    "ssim_wide": SSIM(window=5, sigma=0.8, data_range=255.0, channels="sum"),
    "total_variation": TotalVariation(),
    "total_variation_sum": TotalVariation(channels="sum", normalizer="batch"),
    "everything": 0.5 * CrossEntropy(ignore_index=IGNORED)
    + 0.3 * Dice(per_sample=True)
    + 2.0 * Jaccard(background=False)
    + 0.1 * Focal()
    + 0.01 * Boundary(kernel="sobel"),
    "charbonnier": Charbonnier(epsilon=0.3),
}
"""The specs of the rest of the catalogue, by name. New ones stand last: the calls of a spec depend on its place."""

PRIMARY = frozenset(
    {
        "negative_log_likelihood", "focal", "binary_focal", "kl_divergence", "poisson", "hinge", "squared_hinge",
        "categorical_hinge", "mean_absolute_error", "mean_absolute_percentage_error", "mean_squared_logarithmic_error",
        "smooth_l1", "log_cosh", "cosine_similarity", "quantile", "dice", "jaccard", "tversky", "focal_tversky",
        "lovasz", "boundary_sobel", "distance_map", "ssim", "total_variation", "cross_entropy_probabilities",
        "binary_cross_entropy_probabilities", "charbonnier",
    }
)  # fmt: skip
"""Of these, the ones that run the whole matrix."""


def _together(kind: dict[str, Callable[[str, tuple[int, ...]], Array]]) -> Spec:
    """All terms of the matrix that take inputs of a kind, in one sum: they compile at once."""
    known = {name: spec for name, spec in MORE.items() if families(spec) is kind and isinstance(spec, Term)}
    # Distances are computed on the host, which a graph that is compiled as a whole cannot do; tests compile them apart.
    chosen = [spec for name, spec in known.items() if name in PRIMARY or kind is PROBABILITIES]
    chosen = [spec for spec in chosen if not isinstance(spec, DistanceMap) and spec.ignore_index is None]
    total: Any = 0
    for k, spec in enumerate(chosen):
        total = total + 0.25 * (k + 1) * spec
    return total


MORE["all_of_logits"] = _together(FAMILIES)
MORE["all_of_probabilities"] = _together(PROBABILITIES)


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
    for index, (name, spec) in enumerate([*SPECS.items(), *MORE.items()]):
        whole = name in SPECS or name in PRIMARY
        compiled = _COMPILED[index % len(_COMPILED)]
        compiled = compiled if _called(spec, *_CALLS[compiled][:3]) else _COMPILED[0]
        for row, (target, weight, reduction, dtype) in enumerate(_CALLS):
            if row if name.startswith("all_of") else not (whole or (row + index) % 4 == 0 or row == compiled):
                continue
            if not whole and target == "soft" and isinstance(spec, Poisson):
                target = "counts"
            if not _called(spec, target, weight, reduction):
                continue
            result.append(
                Config(
                    f"{name}/{target}-{weight}-{reduction}-{dtype}",
                    _group(name, spec),
                    spec,
                    shape=_LARGER if any(term.least_length > 4 for _, term in spec.parts) else Config.shape,
                    dtype=dtype,
                    target=target,
                    weight=weight,
                    reduction=reduction,
                    compiled=(whole and (row == compiled or (row == 0 and name == "total_loss")))
                    or (row == 0 and name.startswith("all_of")),
                )
            )
        for place, (shape_name, shape) in enumerate(_SHAPES.items()):
            if not (whole or (place + index) % 4 == 0) or not _takes(spec, shape) or name.startswith("all_of"):
                continue
            labels = shape_name not in ("one_class", "vector") or spec.ignore_index is not None
            labels = labels and _called(spec, "labels", "none", "mean")
            config = Config(
                f"{name}/{shape_name}",
                _group(name, spec),
                _for_classes(spec, shape),
                shape=shape,
                target="labels" if labels else "soft",
                families=("scale_1", "ties", "nan", "spread") if families(spec) is FAMILIES else (),
            )
            if shape_name == "one_class" and spec.ignore_index is None and _called(spec, "soft", "position", "mean"):
                config = replace(config, weight="position")
            result.append(config)
    for reduction in ("mean", "none"):
        name = f"kl_divergence/even-{reduction}"
        result.append(Config(name, "kl_divergence", KLDivergence(), (2, 4, 5, 4), target="even", reduction=reduction))
    return result


_LARGER = (2, 6, 7, 3)
"""For windows that the usual shape has no room for."""

_COMPILED = (0, 3, 4, 8)
"""Rows of the calls that compiled engines run, one a spec in turn: all with labels, which every spec takes."""


def _group(name: str, spec: Spec) -> str:
    """Of a sum, the group is named after it; of a term, after the term."""
    return spec.names[0] if len(spec.parts) == 1 else next(g for g in _SUMS if name.startswith(g))


_SUMS = ("total_loss", "three_terms", "everything", "all_of_logits", "all_of_probabilities")


def _called(spec: Spec, target: str, weight: str, reduction: str) -> bool:
    """Whether the spec can be called like this."""
    terms = [term for _, term in spec.parts]
    if spec.ignore_index is not None and target != "labels":
        return False
    if target == "labels" and any(getattr(term, "target", None) == "distances" for term in terms):
        return False
    if reduction == "none" and not all(term.has_map for term in terms):
        return False
    return weight in ("none", "mask") or not any(isinstance(term, Lovasz) for term in terms)


def _takes(spec: Spec, shape: tuple[int, ...]) -> bool:
    """Whether the spec is defined on the shape."""
    spatial = len(shape) - 2
    try:
        for _, term in _for_classes(spec, shape).parts:
            term.check_layout(channels=shape[-1] if len(shape) > 1 else 1, spatial=spatial)
            if min(shape[1:-1], default=0) < term.least_length:
                return False
            if len(shape) == 1 and (term.needs_channels or getattr(term, "pos_weight", None) is not None):
                return False
    except ValueError:
        return False
    # Dense targets, which one channel without an axis has, have no ignore_index; labels need a term about classes.
    labels = len(shape) > 1 and (shape[-1] > 1 or any(term.about_classes for _, term in spec.parts))
    return spec.ignore_index is None or labels


def _for_classes(spec: Spec, shape: tuple[int, ...]) -> Spec:
    """The spec with its constants repeated or cut to the number of channels."""
    channels = shape[-1] if len(shape) > 1 else 1
    total: Any = 0
    for weight, term in spec.parts:
        changes: dict[str, Any] = {}
        for option in ("class_weights", "pos_weight", "alpha"):
            values = getattr(term, option, None)
            if isinstance(values, tuple):
                changes[option] = tuple(values[c % len(values)] for c in range(channels))
        if getattr(term, "classes", None) == (0, 2) and channels < 3:
            changes["classes"] = (0,)
        total = total + weight * (replace(term, **changes) if changes else term)
    return total
