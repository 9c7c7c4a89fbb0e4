"""The losses of `keras.losses`, as its TensorFlow backend computes them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

from ..spec import (
    BinaryCrossEntropy,
    BinaryFocal,
    CategoricalHinge,
    CosineSimilarity,
    CrossEntropy,
    Dice,
    Focal,
    Hinge,
    Huber,
    KLDivergence,
    LogCosh,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    MeanSquaredLogarithmicError,
    Poisson,
    Spec,
    SquaredHinge,
    Term,
    Tversky,
)
from ._common import Exporter, Options, check_round_trip, refuse_reduction, refuse_region_sum, single_term
from ._registry import REFUSED, ROWS, Context, Given, Importer, Refused, Row, find, imports, refuses, show

MODULE = "keras.src.losses.losses"
EPSILON = 1e-7
"""Keras' own, unless `keras.config.set_epsilon` set another."""

MEAN = "sum_over_batch_size"

OPTIONS: Mapping[str, Options] = {
    "BinaryCrossentropy": {"from_logits": False, "label_smoothing": 0.0, "axis": -1},
    "BinaryFocalCrossentropy": {
        "apply_class_balancing": False,
        "alpha": 0.25,
        "gamma": 2.0,
        "from_logits": False,
        "label_smoothing": 0.0,
        "axis": -1,
    },
    "CategoricalCrossentropy": {"from_logits": False, "label_smoothing": 0.0, "axis": -1},
    "CategoricalFocalCrossentropy": {
        "alpha": 0.25,
        "gamma": 2.0,
        "from_logits": False,
        "label_smoothing": 0.0,
        "axis": -1,
    },
    "CategoricalHinge": {},
    "CosineSimilarity": {"axis": -1},
    "Dice": {"axis": None},
    "Hinge": {},
    "Huber": {"delta": 1.0},
    "KLDivergence": {},
    "LogCosh": {},
    "MeanAbsoluteError": {},
    "MeanAbsolutePercentageError": {},
    "MeanSquaredError": {},
    "MeanSquaredLogarithmicError": {},
    "Poisson": {},
    "SparseCategoricalCrossentropy": {"from_logits": False, "ignore_class": None, "axis": -1},
    "SquaredHinge": {},
    "Tversky": {"alpha": 0.5, "beta": 0.5, "axis": None},
}
"""The options of every class that enter the value, with their defaults, which are those of its function, too."""

FUNCTIONS: Mapping[str, str] = {
    "binary_crossentropy": "BinaryCrossentropy",
    "binary_focal_crossentropy": "BinaryFocalCrossentropy",
    "categorical_crossentropy": "CategoricalCrossentropy",
    "categorical_focal_crossentropy": "CategoricalFocalCrossentropy",
    "categorical_generalized_cross_entropy": "CategoricalGeneralizedCrossEntropy",
    "categorical_hinge": "CategoricalHinge",
    "circle": "Circle",
    "cosine_similarity": "CosineSimilarity",
    "ctc": "CTC",
    "dice": "Dice",
    "hinge": "Hinge",
    "huber": "Huber",
    "kl_divergence": "KLDivergence",
    "log_cosh": "LogCosh",
    "mean_absolute_error": "MeanAbsoluteError",
    "mean_absolute_percentage_error": "MeanAbsolutePercentageError",
    "mean_squared_error": "MeanSquaredError",
    "mean_squared_logarithmic_error": "MeanSquaredLogarithmicError",
    "poisson": "Poisson",
    "sparse_categorical_crossentropy": "SparseCategoricalCrossentropy",
    "squared_hinge": "SquaredHinge",
    "tversky": "Tversky",
}
"""The class that is the same loss as a function of `keras.losses`."""

ALIASES: Mapping[str, str] = {
    "bce": "BinaryCrossentropy",
    "BCE": "BinaryCrossentropy",
    "kld": "KLDivergence",
    "KLD": "KLDivergence",
    "mae": "MeanAbsoluteError",
    "MAE": "MeanAbsoluteError",
    "mse": "MeanSquaredError",
    "MSE": "MeanSquaredError",
    "mape": "MeanAbsolutePercentageError",
    "MAPE": "MeanAbsolutePercentageError",
    "msle": "MeanSquaredLogarithmicError",
    "MSLE": "MeanSquaredLogarithmicError",
}
"""Short string identifiers."""

LOST: Mapping[str, tuple[str, ...]] = {"Huber": ("delta",), "CosineSimilarity": ("axis",)}
"""Options that Keras does not write into a config."""


# --- What a loss is given as ---


def identify(loss: Any) -> tuple[Row, Callable[[str], Any]]:
    """The row of a loss, and a function that reads its options."""
    if isinstance(loss, str):
        return _named(loss)
    if isinstance(loss, Mapping):
        return _config(loss)
    if isinstance(loss, FunctionType):
        return _function(loss, {})
    if not callable(loss):
        raise TypeError(f"loss={show(loss)}, expected a loss of keras.losses, its config or its name")
    kind = type(loss)
    if (kind.__module__, kind.__qualname__) == (MODULE, "LossFunctionWrapper"):
        return _function(loss.fn, {**loss._fn_kwargs, "reduction": loss.reduction, "dtype": loss.dtype})
    row = find(kind, ("keras",))
    fn = getattr(loss, "fn", None)
    if getattr(fn, "__module__", "") != MODULE or FUNCTIONS.get(getattr(fn, "__name__", "")) != row.name:
        raise ValueError(f"{row.label} has the fn {show(fn)}, expected that of its class")
    if own := {"call", "__call__"}.intersection(vars(loss)):
        raise ValueError(f"{row.label} has a {own.pop()} of its own, expected that of its class")
    # The public attributes are copies: what is set on them later does not change the loss.
    return row, reader(row, {**loss._fn_kwargs, "reduction": loss.reduction, "dtype": loss.dtype})


def reader(row: Row, given: Options) -> Callable[[str], Any]:
    """Reads options: those given, else the defaults."""
    keras = sys.modules.get("keras")
    floatx = "float32" if keras is None else keras.config.floatx()
    options = {"reduction": MEAN, **OPTIONS[row.name], **given}
    if options.get("dtype") is None:
        options["dtype"] = floatx
    if unknown := sorted(set(options) - {"reduction", "dtype", *OPTIONS[row.name]}, key=str):
        known = ", ".join(OPTIONS[row.name]) or "none"
        raise ValueError(f"{row.label} has the unknown option {unknown[0]!r}, expected {known}")
    return options.__getitem__


def _row(name: str, what: str) -> Row:
    if (MODULE, name) in REFUSED:
        raise ValueError(REFUSED[MODULE, name])
    if (MODULE, name) not in ROWS:
        raise ValueError(f"{what} is no loss that is known, expected one of {', '.join(sorted(OPTIONS))}")
    return ROWS[MODULE, name]


def _named(name: str) -> tuple[Row, Callable[[str], Any]]:
    """A string identifier. Keras gives functions for some, which `compile` wraps: the same loss."""
    row = _row(FUNCTIONS.get(name) or ALIASES.get(name, name), show(name))
    return row, reader(row, {})


def _function(function: Any, options: Options) -> tuple[Row, Callable[[str], Any]]:
    name = getattr(function, "__name__", "")
    if getattr(function, "__module__", None) != MODULE or name not in FUNCTIONS:
        raise ValueError(f"{function!r} is no function of keras.losses")
    row = _row(FUNCTIONS[name], f"keras.losses.{name}")
    return row, reader(row, options)


def _config(config: Mapping[str, Any]) -> tuple[Row, Callable[[str], Any]]:
    """What `keras.losses.serialize` writes, or its keys "class_name" and "config" alone."""
    if "class_name" not in config or "config" not in config:
        raise ValueError(
            f"the config has the keys {sorted(map(str, config))}, expected 'class_name' and 'config', as "
            "keras.losses.serialize(loss) gives them"
        )
    name, options = config["class_name"], config["config"]
    if not isinstance(name, str):
        raise ValueError(f"the config has the class_name {show(name)}, expected a str")
    if name == "function":
        if not isinstance(options, str) or config.get("registered_name", name) != name:
            raise ValueError(f"the config is of the function {show(options)}, expected one of keras.losses")
        return _named(options)
    module = config.get("module", "keras.losses")
    registered = config.get("registered_name")
    if module not in ("keras.losses", MODULE) or registered not in (None, name):
        shown = f"{module}.{name}" + ("" if registered in (None, name) else f", registered as {registered!r}")
        raise ValueError(f"the config is of {shown}, expected a class of keras.losses itself")
    if not isinstance(options, Mapping):
        raise ValueError(f"the config of {name} is {show(options)}, expected a dict of its options")
    given = {key: _decoded(value) for key, value in options.items() if key != "name"}
    if name == "LossFunctionWrapper" and "fn" in given:
        function = given.pop("fn")
        if not isinstance(function, Mapping):
            raise ValueError(f"the config of {name} has fn={show(function)}, expected the config of a function")
        row, _ = _config(function)
        return row, reader(row, given)
    row = _row(name, f"keras.losses.{name}")
    for option in LOST.get(name, ()):
        if option not in given:
            raise ValueError(
                f"the config of {row.label} has no {option!r}: Keras does not write it, so it may have been another "
                f"than the default {OPTIONS[name][option]!r}. Give the instance, or add {option!r} to the config"
            )
    return row, reader(row, given)


def _decoded(value: Any) -> Any:
    """Tuples and arrays as Keras serialises them."""
    if isinstance(value, Mapping):
        match value:
            case {"class_name": "__tuple__", "items": list() | tuple() as items}:
                return tuple(items)
            case {"class_name": "__numpy__" | "__tensor__", "config": {"value": array}}:
                return array
    return value


# --- The importers ---


def importer(name: str, *terms: type[Term], holds: str = "", notes: tuple[str, ...] = ()) -> Callable[..., Importer]:
    """Register an importer of this module."""
    return imports("keras", MODULE, name, *(term.__name__ for term in terms), holds=holds, notes=(*notes, *SHAPES))


SHAPES = (
    "float16 inputs are float32 there and here; a NaN at a masked position or one of weight 0 stays NaN there, is left "
    "out here.",
    "Predictions (..., 1) and targets without that axis are squeezed there, a ValueError here.",
    "Sample weights of shape (B,) for losses (B, ..., T): aligned with the last axis there (an error, unless T is B), "
    "weights of the samples here. Weights that broadcast otherwise, such as (B, 1), are a ValueError here.",
    "Boolean sample weights: the weights 0 and 1 there; a mask here, which what the mean divides by leaves out, too.",
    "A dtype is not in a loss's config: what it was stays unknown there and here.",
)
CHANNELS = "predictions with a channel axis, the last one"
RECOVERED = (
    "from_logits=False: where the predictions come straight from a softmax or sigmoid, Keras' TensorFlow backend goes "
    "back to its input and computes from logits; here they are probabilities."
)
FROM_LOGITS_TWICE = "from_logits=True on the output of a softmax or sigmoid: Keras goes back to its input, too."


def epsilon() -> float:
    """Keras' epsilon as configured now; its default if Keras is not imported."""
    keras = sys.modules.get("keras")
    return float(keras.config.epsilon()) if keras is not None else EPSILON


def reduction(given: Given) -> Options:
    """What the mean divides by. Keras divides by the number of losses that no mask leaves out; 0 / 0 is 0."""
    given.fixed("dtype", "float32", why="dualloss computes losses as float32; make the loss with dtype='float32'")
    match given["reduction"]:
        case "sum_over_batch_size" | "mean":
            return {"normalizer": "valid"}
        case "sum":
            return {"normalizer": "one"}
        case "mean_with_sample_weight":
            return {"normalizer": "sample_weights"}
    refuse_reduction(given, MEAN)
    raise AssertionError


def last_axis(given: Given, smoothing: str = "") -> None:
    """Refuse classes on another axis than the last."""
    given.fixed(
        "axis",
        -1,
        why="which axis holds the channels is not a matter of the spec: import it with axis=-1 and make "
        f"Loss(spec, channel_axis=...){smoothing}",
    )


SMOOTHING = ". (Besides, Keras 3.15.1 smooths labels by the length of the last axis, whatever the axis.)"


def inputs(given: Given, **probabilities: Any) -> Options:
    """Logits, or probabilities with their options."""
    return {"inputs": "logits"} if given["from_logits"] else {"inputs": "probabilities", **probabilities}


@importer(
    "BinaryCrossentropy",
    BinaryCrossEntropy,
    holds=CHANNELS,
    notes=(RECOVERED, FROM_LOGITS_TWICE, "A logit of an infinity: NaN there, 0 here where the answer is right."),
)
def binary_crossentropy(loss: Given) -> Spec:
    """The mean over the last axis, then over the rest."""
    last_axis(loss)
    return BinaryCrossEntropy(
        label_smoothing=loss["label_smoothing"], **inputs(loss, clip=epsilon()), **reduction(loss)
    )


@importer(
    "BinaryFocalCrossentropy",
    BinaryFocal,
    holds=CHANNELS,
    notes=(
        RECOVERED,
        "Where the answer is right to the last bit, the gradient for gamma < 1 and for gamma = 0 is NaN there, 0 here.",
        "from_logits=True: far from 0 the logits' probabilities round to 0 or 1 there, before they enter 1 - q.",
    ),
)
def binary_focal_crossentropy(loss: Given) -> Spec:
    """With alpha only if classes are balanced."""
    last_axis(loss)
    return BinaryFocal(
        gamma=loss["gamma"],
        alpha=loss["alpha"] if loss["apply_class_balancing"] else None,
        label_smoothing=loss["label_smoothing"],
        **inputs(loss, clip=epsilon()),
        **reduction(loss),
    )


SUM_TO_ONE = (
    "From logits, where the targets of a position don't sum to 1, the gradient is the softmax less the target there "
    "(for all zeros: the softmax), not the derivative of the value."
)


@importer(
    "CategoricalCrossentropy",
    CrossEntropy,
    holds="dense targets; from logits: that sum to 1 over the classes",
    notes=(
        RECOVERED,
        FROM_LOGITS_TWICE,
        SUM_TO_ONE,
        "A logit of -inf beside a target of 0: NaN there; here the class counts nothing.",
    ),
)
def categorical_crossentropy(loss: Given) -> Spec:
    """Probabilities are divided by their sum, then clipped."""
    last_axis(loss, SMOOTHING)
    return CrossEntropy(
        label_smoothing=loss["label_smoothing"],
        **inputs(loss, clip=epsilon(), renormalize="before"),
        **reduction(loss),
    )


@importer(
    "CategoricalFocalCrossentropy",
    Focal,
    holds="dense targets",
)
def categorical_focal_crossentropy(loss: Given) -> Spec:
    """Clipped from logits, too; alpha is a factor of every class."""
    last_axis(loss, SMOOTHING)
    options = {"inputs": "logits", "clip_softmax": True} if loss["from_logits"] else {"inputs": "probabilities"}
    return Focal(
        gamma=loss["gamma"],
        alpha=loss["alpha"],
        label_smoothing=loss["label_smoothing"],
        clip=epsilon(),
        **options,
        **reduction(loss),
    )


@importer(
    "SparseCategoricalCrossentropy",
    CrossEntropy,
    holds="class indices",
    notes=(
        f"{RECOVERED} Not so with ignore_class.",
        FROM_LOGITS_TWICE,
        "Labels with an axis of length 1 in place of the classes are squeezed there, a ValueError here.",
        "Labels out of range: an error there on the CPU, NaN on the GPU; a ValueError here, NaN inside graphs.",
    ),
)
def sparse_categorical_crossentropy(loss: Given) -> Spec:
    """Probabilities are clipped, then divided by their sum."""
    last_axis(loss)
    return CrossEntropy(
        ignore_index=loss["ignore_class"], **inputs(loss, clip=epsilon(), renormalize="after"), **reduction(loss)
    )


@importer("KLDivergence", KLDivergence)
def kl_divergence(loss: Given) -> Spec:
    """Of probabilities, both clipped; the sum over the last axis."""
    return KLDivergence(inputs="probabilities", clip=epsilon(), **reduction(loss))


@importer("Poisson", Poisson)
def poisson(loss: Given) -> Spec:
    """Of rates."""
    return Poisson(inputs="rate", epsilon=epsilon(), **reduction(loss))


@importer("MeanSquaredError", MeanSquaredError)
def mean_squared_error(loss: Given) -> Spec:
    """Squared error."""
    return MeanSquaredError(**reduction(loss))


@importer("MeanAbsoluteError", MeanAbsoluteError)
def mean_absolute_error(loss: Given) -> Spec:
    """Absolute error."""
    return MeanAbsoluteError(**reduction(loss))


@importer("MeanAbsolutePercentageError", MeanAbsolutePercentageError)
def mean_absolute_percentage_error(loss: Given) -> Spec:
    """Absolute error in percent."""
    return MeanAbsolutePercentageError(epsilon=epsilon(), **reduction(loss))


@importer("MeanSquaredLogarithmicError", MeanSquaredLogarithmicError)
def mean_squared_logarithmic_error(loss: Given) -> Spec:
    """Squared error of logarithms."""
    return MeanSquaredLogarithmicError(epsilon=epsilon(), **reduction(loss))


@importer("Huber", Huber, notes=("An infinite error: the gradient is NaN there, delta here.",))
def huber(loss: Given) -> Spec:
    """Huber's loss."""
    return Huber(delta=loss["delta"], **reduction(loss))


@importer(
    "LogCosh",
    LogCosh,
    notes=("Errors below 1e-3: the value loses its digits there (an error of 1e-4 costs 0); not here.",),
)
def log_cosh(loss: Given) -> Spec:
    """Logarithm of the hyperbolic cosine."""
    return LogCosh(**reduction(loss))


@importer("CosineSimilarity", CosineSimilarity)
def cosine_similarity(loss: Given) -> Spec:
    """Vectors shorter than 1e-7 count as if they had that length."""
    last_axis(loss)
    return CosineSimilarity(epsilon=1e-14, **reduction(loss))


BINARY = "targets all from {0, 1}, or none of them 0 (Keras makes -1 of 0 only if the whole batch is of 0 and 1)"


@importer("Hinge", Hinge, holds=BINARY)
def hinge(loss: Given) -> Spec:
    """Hinge loss."""
    return Hinge(**reduction(loss))


@importer("SquaredHinge", SquaredHinge, holds=BINARY)
def squared_hinge(loss: Given) -> Spec:
    """Squared hinge loss."""
    return SquaredHinge(**reduction(loss))


@importer("CategoricalHinge", CategoricalHinge, holds="dense targets")
def categorical_hinge(loss: Given) -> Spec:
    """Hinge loss over classes; the right class counts in the maximum, as 0."""
    return CategoricalHinge(**reduction(loss))


REGION = "probabilities; without sample weights and masks; predictions with the channels last"
REGION_NOTES = (
    "A sample weight is a factor of the whole loss there; here it weighs the positions in the sums.",
    "Targets of another shape broadcast there; they are a ValueError here.",
)


@importer("Dice", Dice, holds=REGION, notes=REGION_NOTES)
def dice(loss: Given) -> Spec:
    """Without smoothing; by default one ratio of the whole batch and all classes."""
    return Dice(**region(loss))


SWAP = (
    "Keras 3.15.1 documents alpha as the weight of false positives and uses it as that of false negatives (and beta "
    "the other way round)."
)


@importer("Tversky", Tversky, holds=REGION, notes=(SWAP, *REGION_NOTES))
def tversky(loss: Given) -> Spec:
    """What the option alpha means is what `like` says, unless both are equal."""
    alpha, beta = loss["alpha"], loss["beta"]
    if loss.like not in (None, "keras", loss.version):
        loss.refuse("alpha", f'like={show(loss.like)}, expected "keras" or "{loss.version}"')
    if alpha != beta:
        documented = {"alpha": alpha, "beta": beta}
        chosen = loss.choose(
            "alpha", documented=documented, computed={"alpha": beta, "beta": alpha}, why=f"beta={show(beta)}: {SWAP}"
        )
    else:
        chosen = {"alpha": alpha, "beta": beta}
    return Tversky(**chosen, **region(loss))


def region(loss: Given) -> Options:
    """The options of a ratio of sums: over the axes of `axis`."""
    loss.fixed("dtype", "float32", why="dualloss computes losses as float32; make the loss with dtype='float32'")
    groups = _groups(loss)
    if loss["axis"] is not None:  # else the loss is one number, which no reduction changes
        if loss["reduction"] == "sum":
            refuse_region_sum(loss, MEAN)
        if loss["reduction"] not in ("sum_over_batch_size", "mean", "mean_with_sample_weight"):
            refuse_reduction(loss, MEAN, has_map=False)
    return {"activation": "none", "smooth": 0.0, "smooth_denominator": epsilon(), "epsilon": 0.0, **groups}


def _groups(loss: Given) -> Options:
    axis = loss["axis"]
    if axis is None:
        return {"per_sample": False, "per_class": False}
    spatial = loss.context.spatial
    if spatial is None:
        loss.refuse("axis", "which axes these are depends on the inputs: say how many spatial axes they have, spatial=")
    rank = spatial + 2
    given = [axis] if isinstance(axis, int) else list(axis)
    axes = sorted({a + rank if a < 0 else a for a in given})
    known = {
        tuple(range(1, spatial + 1)): {"per_sample": True, "per_class": True},
        tuple(range(spatial + 1)): {"per_sample": False, "per_class": True},
        tuple(range(1, spatial + 2)): {"per_sample": True, "per_class": False},
        tuple(range(spatial + 2)): {"per_sample": False, "per_class": False},
    }
    if tuple(axes) not in known:
        loss.refuse(
            "axis",
            f"for inputs (B, *spatial, C) with spatial={spatial} expected "
            + ", ".join(map(str, known))
            + " or None: sums are over all spatial axes; import it for channels last",
        )
    return known[tuple(axes)]


refuses(
    "keras",
    MODULE,
    CTC="its sequences are not aligned with the targets; a spec has a target for every position",
    Circle="it compares all pairs of embeddings of a batch; a spec has a prediction and its target",
    CategoricalGeneralizedCrossEntropy="no term has its power (1 - p**q) / q",
)


# --- Specs as losses of keras.losses ---

_EXPORTERS: dict[type[Term], Exporter] = {}


def exports(term: type[Term]) -> Callable[[Exporter], Exporter]:
    """Register the function that makes the loss nearest to a term."""

    def register(function: Exporter) -> Exporter:
        _EXPORTERS[term] = function
        return function

    return register


def export(spec: Spec, context: Context) -> Any:
    """The loss of keras.losses for a spec, or a ValueError that says why there is none."""
    term = single_term(spec, "keras.losses")
    if type(term) not in _EXPORTERS:
        raise ValueError(f"keras.losses has no loss for {type(term).__name__}")
    made = _EXPORTERS[type(term)](term, context)
    row, read = identify(made)
    like = f"keras=={row.version}" if row.name == "Tversky" else None
    check_round_trip(term, row, read, Context("indices", context.spatial, None, like))
    return made


def _reduction(term: Any) -> str:
    return {"one": "sum", "sample_weights": "mean_with_sample_weight"}.get(term.normalizer, MEAN)


@exports(CrossEntropy)
def _(term: CrossEntropy, context: Context) -> Any:
    import keras

    from_logits = term.inputs == "logits"
    if context.targets == "indices":
        if term.label_smoothing:
            raise ValueError(
                f"keras.losses has no {term} of class indices: SparseCategoricalCrossentropy has no label_smoothing; "
                'targets="probabilities" gives a CategoricalCrossentropy'
            )
        return keras.losses.SparseCategoricalCrossentropy(
            from_logits=from_logits, ignore_class=term.ignore_index, reduction=_reduction(term)
        )
    return keras.losses.CategoricalCrossentropy(
        from_logits=from_logits, label_smoothing=term.label_smoothing, reduction=_reduction(term)
    )


@exports(BinaryCrossEntropy)
def _(term: BinaryCrossEntropy, context: Context) -> Any:
    import keras

    return keras.losses.BinaryCrossentropy(
        from_logits=term.inputs == "logits", label_smoothing=term.label_smoothing, reduction=_reduction(term)
    )


@exports(BinaryFocal)
def _(term: BinaryFocal, context: Context) -> Any:
    import keras

    balancing = {} if term.alpha is None else {"apply_class_balancing": True, "alpha": term.alpha}
    return keras.losses.BinaryFocalCrossentropy(
        gamma=term.gamma,
        from_logits=term.inputs == "logits",
        label_smoothing=term.label_smoothing,
        reduction=_reduction(term),
        **balancing,
    )


@exports(Focal)
def _(term: Focal, context: Context) -> Any:
    import keras

    return keras.losses.CategoricalFocalCrossentropy(
        alpha=1.0 if term.alpha is None else term.alpha,
        gamma=term.gamma,
        from_logits=term.inputs == "logits",
        label_smoothing=term.label_smoothing,
        reduction=_reduction(term),
    )


@exports(KLDivergence)
def _(term: KLDivergence, context: Context) -> Any:
    import keras

    return keras.losses.KLDivergence(reduction=_reduction(term))


@exports(Poisson)
def _(term: Poisson, context: Context) -> Any:
    import keras

    return keras.losses.Poisson(reduction=_reduction(term))


@exports(Huber)
def _(term: Huber, context: Context) -> Any:
    import keras

    return keras.losses.Huber(delta=term.delta, reduction=_reduction(term))


def _plain(name: str) -> Exporter:
    """A loss whose only option is the reduction."""

    def make(term: Any, context: Context) -> Any:
        import keras

        return getattr(keras.losses, name)(reduction=_reduction(term))

    return make


for _term, _name in (
    (MeanSquaredError, "MeanSquaredError"),
    (MeanAbsoluteError, "MeanAbsoluteError"),
    (MeanAbsolutePercentageError, "MeanAbsolutePercentageError"),
    (MeanSquaredLogarithmicError, "MeanSquaredLogarithmicError"),
    (LogCosh, "LogCosh"),
    (CosineSimilarity, "CosineSimilarity"),
    (Hinge, "Hinge"),
    (SquaredHinge, "SquaredHinge"),
    (CategoricalHinge, "CategoricalHinge"),
):
    exports(_term)(_plain(_name))


def _axis(term: Dice | Tversky, context: Context) -> Any:
    if not term.per_sample and not term.per_class:
        return None
    if context.spatial is None:
        raise ValueError(
            f"keras.losses.{type(term).__name__} has an axis for {term}: say how many spatial axes your inputs have, "
            "spatial=..."
        )
    return tuple(range(int(term.per_sample), context.spatial + (1 if term.per_class else 2)))


@exports(Dice)
def _(term: Dice, context: Context) -> Any:
    import keras

    return keras.losses.Dice(axis=_axis(term, context))


@exports(Tversky)
def _(term: Tversky, context: Context) -> Any:
    import keras

    # As version 3.15.1 computes: its alpha weighs false negatives.
    return keras.losses.Tversky(alpha=term.beta, beta=term.alpha, axis=_axis(term, context))


__all__ = ["ALIASES", "FUNCTIONS", "OPTIONS", "Refused", "export", "identify"]
