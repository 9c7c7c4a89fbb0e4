"""The loss as a ``keras.losses.Loss``: shapes and dtypes checked, then exact or native numerics."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from .. import TOTAL_LOSS
from ..exact import engine, functions
from ..exact.layout import Layout, Names, check_mergeable, check_options, check_sums, label_error, lay_out
from ..exact.terms import Inputs
from ..spec import Spec, from_json, step_number
from . import fast, native
from .distances import distances
from .ops import TensorFlowOps

Tensor = Any

_OPS = TensorFlowOps()
_NAMES = Names("y_pred", "y_true", "sample_weight")
_FLOATS = (tf.float16, tf.bfloat16, tf.float32)
_NO_CLASS = -(2**63)
"""Stands for a label that is no integer or beyond int64: never a class, and no ``ignore_index`` can be it."""


class _Given(NamedTuple):
    """What a loss is computed from, checked.

    ``settings`` are the layout's: numbers, by which ``tf.function`` knows that it has traced them before.
    """

    y_pred: Tensor
    target: Tensor
    mask: Tensor | None
    weight: Tensor | None
    distances: Tensor | None
    settings: tuple[int, int, int, bool, bool]


@keras.saving.register_keras_serializable(package="dualloss")
class Loss(keras.losses.Loss):
    """A loss spec as a Keras loss.

    Args:
        spec: the loss, for example ``dualloss.TOTAL_LOSS``.
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for the per-position map.
        numerics: ``"exact"``: the bits that docs/numerics.md defines, the same on every framework and device;
            ``"native"``: differentiable any number of times; TensorFlow's own formulas, but for value and first
            derivative where a kernel has them.
        channel_axis: the axis of the prediction that holds the classes or channels.
        jit_compile: whether exact numerics and kernels compile the loss, and only the loss, with XLA: True, False or
            ``"auto"`` (True wherever TensorFlow has XLA, since that is several times faster). The bits are the same.
        name: the name of the loss.

    Shapes:
        y_pred: logits (no softmax or sigmoid before the loss) or values, (B, *spatial, C), or (B,) for terms without
            classes; float16, bfloat16 or float32. The last axis holds channels for regression terms too.
        y_true: (B, *spatial) class indices (integers, or floats of integer value), or dense targets
            (probabilities, values) of the prediction's shape.
        sample_weight: (B,) or (B, *spatial). It scales values and gradients, not what a mean divides by; a boolean
            one is a mask, which leaves positions out of both, as does a Keras mask of the prediction.
        loss: a float32 scalar, or (B, *spatial) for ``reduction="none"``.

    The whole reduction happens here; Keras adds nothing to it. Under ``tf.distribute`` with n replicas a mean is
    divided by n, as Keras expects. Labels out of range raise a ValueError in eager mode; inside graphs the loss and
    that position's gradient become NaN (``run_eagerly=True`` shows which label it is). If everything is ignored the
    loss and the gradient are 0.

    Schedules: the loss of a spec with a schedule has a ``step``, at first 0, which its config holds.
    :class:`dualloss.tf.ScheduleSteps` moves it in ``fit``, :meth:`advance` or ``loss.step = n`` elsewhere; nothing else
    does.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        reduction: str = "mean",
        numerics: str = "exact",
        channel_axis: int = -1,
        jit_compile: bool | str = "auto",
        name: str | None = None,
    ) -> None:
        check_options(spec, reduction, numerics, channel_axis)
        if jit_compile not in (True, False, "auto"):
            raise ValueError(f"jit_compile is {jit_compile!r}, expected True, False or 'auto'")
        if keras.backend.backend() != "tensorflow":
            raise RuntimeError(
                f"Keras runs on {keras.backend.backend()}, expected tensorflow: set KERAS_BACKEND=tensorflow"
            )
        super().__init__(name=name, reduction=reduction)
        self.spec = spec
        self.numerics = numerics
        self.channel_axis = channel_axis
        self.jit_compile = jit_compile
        compiled = bool(jit_compile)  # "auto": every build of TensorFlow in use has XLA
        self._forward = tf.function(self._evaluate, autograph=False, jit_compile=True) if compiled else self._evaluate
        self._backward = tf.function(_scaled, autograph=False, jit_compile=True) if compiled else _scaled
        self._totals = tf.function(self._sums, autograph=False, jit_compile=True) if compiled else self._sums
        self._reached = 0
        self._weights = None
        if spec.scheduled:
            with tf.init_scope():
                self._weights = tf.Variable(engine.numbers(spec, 0), trainable=False, dtype=tf.float64)

    @tf.autograph.experimental.do_not_convert
    def __call__(
        self,
        y_true: Tensor,
        y_pred: Tensor,
        sample_weight: Tensor | None = None,
        *,
        return_terms: bool = False,
        totals: Tensor | None = None,
    ) -> Any:
        """The loss.

        Args:
            y_true: the target.
            y_pred: the prediction.
            sample_weight: weights or a mask.
            return_terms: also return a dict of each term's value before its weight, without gradient, for logging.
            totals: what :meth:`sums` gives for the whole batch of which this is a part (exact numerics): with its
                normalisers the gradients of the parts are those of the whole, to the bit. Their losses are its
                shares; of a ratio of sums, such as Dice, each is the whole: log what :meth:`from_sums` gives.

        Raises:
            TypeError: unsupported dtypes.
            ValueError: shapes that do not fit; labels out of range.
        """
        given = self._prepare(y_true, y_pred, sample_weight)
        with tf.name_scope(self.name):
            if self.numerics == "native":
                if totals is not None:
                    raise ValueError("totals needs numerics='exact'")
                layout = Layout(*given.settings)
                # Without labels, or with weights, a derivative by those may be asked for, too.
                only = bool(self.jit_compile) and layout.labels and given.weight is None
                if only and fast.serves(self.spec, self.reduction, layout, given):
                    constant = given._replace(y_pred=tf.stop_gradient(given.y_pred))
                    loss, values, gradient = self._forward(
                        constant, None, self._exact_weights(), None, tf.executing_eagerly()
                    )
                    terms = dict(zip(self.spec.names, tf.unstack(values), strict=True)) if return_terms else {}
                    loss = self._attach_native(given, loss, gradient)
                else:
                    loss, terms = self._native(given)
                    terms = {name: tf.stop_gradient(value) for name, value in terms.items()}
            else:
                if totals is not None:
                    totals = tf.convert_to_tensor(totals)
                    channels = Layout(*given.settings).channels
                    totals = tf.ensure_shape(
                        totals, check_sums("totals", totals.shape, totals.dtype.name, self.spec, channels)
                    )
                constant = given._replace(y_pred=tf.stop_gradient(given.y_pred))
                args = (constant, totals, self._exact_weights())
                # In eager mode the labels have been looked at.
                loss, values, gradient = self._forward(*args, None, tf.executing_eagerly())
                terms = dict(zip(self.spec.names, tf.unstack(values), strict=True)) if return_terms else {}
                loss = self._attach(given.y_pred, loss, gradient, args)
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            if replicas > 1 and self.reduction == "mean":
                loss = loss * (1.0 / replicas)
        return (loss, terms) if return_terms else loss

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The per-position map, whatever the reduction."""
        options = {**self._options(), "reduction": "none"}
        loss = Loss(self.spec, **options)
        loss._weights = self._weights
        return loss(y_true, y_pred)

    @tf.autograph.experimental.do_not_convert
    def sums(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """The exact sums behind the loss: int64 of shape (K, M, 12), K terms with up to M sums each.

        M is 2, for values and normaliser, unless a term that is a ratio of sums needs more. Sums of parts of a batch
        (micro-batches, replicas) add, with ``+`` or an all-reduce, to those of the whole, whatever the split.
        :meth:`from_sums` turns them into the loss; ``totals=`` in :meth:`__call__` uses them.
        """
        self._needs_exact("sums")
        check_mergeable(self.spec)
        given = self._prepare(y_true, y_pred, sample_weight)
        return self._totals(given._replace(y_pred=tf.stop_gradient(given.y_pred)))

    @tf.autograph.experimental.do_not_convert
    def from_sums(self, sums: Tensor, *, return_terms: bool = False) -> Any:
        """The loss (without a gradient) from :meth:`sums`, and on demand each term's value as in :meth:`__call__`."""
        self._needs_exact("from_sums")
        if self.reduction == "none":
            raise ValueError("reduction is 'none', expected 'mean' or 'sum': sums have no map")
        sums = tf.convert_to_tensor(sums)
        check_sums("sums", sums.shape, sums.dtype.name, self.spec)
        loss, values = engine.from_sums(_OPS, self.spec, sums, self.reduction, self._exact_weights())
        return (loss, dict(zip(self.spec.names, tf.unstack(values), strict=True))) if return_terms else loss

    @property
    def step(self) -> int:
        """How many steps the schedules have done. Set it, or call :meth:`advance`, outside of ``tf.function``."""
        return self._reached

    @step.setter
    def step(self, value: Any) -> None:
        if not tf.executing_eagerly():
            raise RuntimeError("step is set inside a graph, where that happens once only; set it outside tf.function")
        self._reached = step_number("step", value)
        if self._weights is not None:
            self._weights.assign(engine.numbers(self.spec, self._reached))

    def advance(self, n: int = 1) -> None:
        """Move the schedules by ``n`` steps. Of a spec without schedules only the count changes.

        Call it after each step of the optimizer, outside of ``tf.function``: what it changes are the values of a
        variable, for which nothing is traced anew.
        """
        self.step = self._reached + n

    def get_config(self) -> dict[str, Any]:
        """The settings; the spec as JSON, and with a schedule the step."""
        step = {"step": self._reached} if self.spec.scheduled else {}
        return {"spec": self.spec.to_json(), **self._options(), **step}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Loss:
        """The loss with these settings."""
        options = {key: value for key, value in config.items() if key not in ("spec", "step")}
        loss = cls(from_json(config["spec"]), **options)
        if "step" in config:
            loss.step = config["step"]
        return loss

    def __repr__(self) -> str:
        """The call that makes this loss, and with a schedule the step."""
        options = [f"{key}={value!r}" for key, value in self._options().items()]
        step = [f"step={self._reached}"] if self.spec.scheduled else []
        return f"{type(self).__name__}({', '.join([repr(self.spec), *options, *step])})"

    def _options(self) -> dict[str, Any]:
        return {
            "reduction": self.reduction,
            "numerics": self.numerics,
            "channel_axis": self.channel_axis,
            "jit_compile": self.jit_compile,
            "name": self.name,
        }

    def _exact_weights(self) -> Tensor | None:
        """The terms' weights at the step of the schedules; None: those of the spec."""
        return None if self._weights is None else tf.convert_to_tensor(self._weights)

    def _native_weights(self) -> list[Tensor] | None:
        if self._weights is None:
            return None
        now = tf.cast(self._weights, tf.float32)
        return [w if isinstance(w, float) else now[k] for k, (w, _) in enumerate(self.spec.parts)]

    def _needs_exact(self, what: str) -> None:
        if self.numerics != "exact":
            raise ValueError(f"{what} needs numerics='exact', this loss has numerics={self.numerics!r}")

    def _prepare(self, y_true: Tensor, y_pred: Tensor, weight: Tensor | None) -> _Given:
        """Check everything; labels as int64, dense targets as floats, mask and weight per position."""
        keras_mask = getattr(y_pred, "_keras_mask", None)
        y_pred, y_true = tf.convert_to_tensor(y_pred), tf.convert_to_tensor(y_true)
        if y_pred.dtype not in _FLOATS:
            raise TypeError(f"y_pred has dtype {y_pred.dtype.name}, expected float16, bfloat16 or float32")
        weight = None if weight is None else tf.convert_to_tensor(weight)
        for name, value in (("y_pred", y_pred), ("y_true", y_true), ("sample_weight", weight)):
            if value is not None and value.shape.rank is None:
                raise ValueError(f"{name} has an unknown number of axes, expected a known one")
        layout = lay_out(
            self.spec,
            y_pred.shape,
            y_true.shape,
            None if weight is None else weight.shape,
            self.channel_axis,
            _NAMES,
            mask=weight is not None and weight.dtype == tf.bool,
        )
        if layout.labels:
            target = _labels(y_true)
        else:
            _check_dtype("y_true", y_true)
            target = y_true if y_true.dtype in _FLOATS else tf.cast(y_true, tf.float32)
        mask = None
        if keras_mask is not None:
            mask = tf.cast(tf.convert_to_tensor(keras_mask), tf.bool)
            lay_out(self.spec, y_pred.shape, y_true.shape, mask.shape, self.channel_axis, _MASK_NAMES, mask=True)
            mask = _per_position(mask, y_pred, layout.axis)
        if weight is not None:
            _check_dtype("sample_weight", weight)
            weight = _per_position(weight, y_pred, layout.axis)
            if weight.dtype == tf.bool:
                mask, weight = (weight if mask is None else tf.logical_and(mask, weight)), None
            elif weight.dtype not in _FLOATS:
                weight = tf.cast(weight, tf.float32)
        if layout.labels:
            _check_labels(target, y_true, layout.channels, self.spec.ignore_index, mask)
        away = None
        if any(term.needs_distances for _, term in self.spec.parts):
            away = distances(target, mask, self.spec.ignore_index, layout.labels, layout.channels, layout.axis)
        return _Given(y_pred, target, mask, weight, away, astuple(layout))

    def _evaluate(
        self,
        given: _Given,
        totals: Tensor | None,
        weights: Tensor | None,
        upstream: Tensor | None,
        trusted: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Loss, terms, and the float32 gradient: for an upstream gradient of 1, or for ``reduction="none"`` for the one
        given, since a stencil spreads it. ``trusted`` says that labels are known to be classes.
        """
        layout = Layout(*given.settings)
        if self.jit_compile and fast.serves(self.spec, self.reduction, layout, given):
            return fast.evaluate(self.spec, self.reduction, layout, given, totals, weights, trusted)
        inputs = self._inputs(given)
        result = engine.evaluate(_OPS, self.spec, inputs, self.reduction, totals, weights)
        loss, terms, spread = result.loss, result.terms, None
        if self.reduction == "none":
            loss, terms = tf.squeeze(loss, inputs.axis), tf.squeeze(terms, inputs.axis + 1)
            if upstream is None:
                return loss, terms, None
            spread = functions.load(_OPS, tf.expand_dims(upstream, inputs.axis))
        return loss, terms, tf.reshape(result.gradient(spread), tf.shape(given.y_pred))

    def _sums(self, given: _Given) -> Tensor:
        return engine.evaluate(_OPS, self.spec, self._inputs(given), self.reduction).sums

    def _inputs(self, given: _Given) -> Inputs:
        y_pred, target, mask, weight, away, settings = given
        layout = Layout(*settings)
        axis = layout.axis
        mask = None if mask is None else tf.expand_dims(mask, axis)
        weight = None if weight is None else functions.load(_OPS, tf.expand_dims(weight, axis))
        target = tf.expand_dims(target, axis) if layout.labels else _shaped(target)
        ignore = self.spec.ignore_index
        dense, valid = engine.targets(_OPS, target, layout.labels, layout.channels, axis, ignore, mask)
        away = None if away is None else functions.load(_OPS, away)
        return Inputs(_OPS, functions.load(_OPS, _shaped(y_pred)), dense, valid, axis, layout.spatial, weight, away)

    def _attach(self, y_pred: Tensor, loss: Tensor, gradient: Tensor | None, args: tuple[Any, ...]) -> Tensor:
        """The loss, connected to the prediction by its gradient."""

        @tf.custom_gradient
        def scaled(y_pred: Tensor, upstream: Tensor) -> Any:
            def again(*_: Any) -> Any:
                raise RuntimeError(
                    "exact numerics can be differentiated once only: for second derivatives use "
                    "dualloss.tf.Loss(spec, numerics='native')"
                )

            if gradient is None:
                given, totals, weights = args
                spread = self._forward(given._replace(y_pred=y_pred), totals, weights, upstream)[2]
                return self._backward(None, spread, y_pred.dtype.name), again
            return self._times(upstream, gradient, y_pred.dtype), again

        @tf.custom_gradient
        def attached(y_pred: Tensor) -> Any:
            return tf.identity(loss), lambda upstream: scaled(y_pred, upstream)

        return attached(y_pred)

    def _native(self, given: _Given) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and terms by TensorFlow's own formulas."""
        layout = Layout(*given.settings)
        return native.loss(
            self.spec,
            _shaped(given.y_pred),
            given.target if layout.labels else _shaped(given.target),
            given.weight,
            mask=given.mask,
            reduction=self.reduction,
            channel_axis=layout.axis,
            distances=given.distances,
            weights=self._native_weights(),
        )

    def _times(self, upstream: Tensor, gradient: Tensor, dtype: Any) -> Tensor:
        """The float32 gradient for an upstream gradient, in the input's dtype."""

        def product() -> Tensor:
            return self._backward(upstream, gradient, dtype.name)

        if dtype != tf.float32 or not fast.spares_products():
            return product()
        return tf.cond(tf.equal(upstream, 1.0), lambda: gradient, product)

    def _attach_native(self, given: _Given, loss: Tensor, gradient: Tensor) -> Tensor:
        """The loss with the gradient that a kernel gave; a derivative of that is the formulas'."""

        @tf.custom_gradient
        def scaled(y_pred: Tensor, upstream: Tensor) -> Any:
            def again(*above: Tensor) -> Any:
                with tf.GradientTape() as outer:
                    outer.watch([y_pred, upstream])
                    with tf.GradientTape() as inner:
                        inner.watch(y_pred)
                        value, _ = self._native(given._replace(y_pred=y_pred))
                    first = inner.gradient(value, y_pred, output_gradients=upstream)
                return outer.gradient(first, [y_pred, upstream], output_gradients=above[0])

            return self._times(upstream, gradient, y_pred.dtype), again

        @tf.custom_gradient
        def attached(y_pred: Tensor) -> Any:
            return tf.identity(loss), lambda upstream: scaled(y_pred, upstream)

        return attached(given.y_pred)


_MASK_NAMES = Names("y_pred", "y_true", "the Keras mask of y_pred")


@keras.saving.register_keras_serializable(package="dualloss")
def total_loss(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Softmax cross-entropy plus 0.5 times the mean squared difference of the Laplacians, exact.

    Args:
        y_true: (B, *spatial) class indices or (B, *spatial, C) one-hot or soft targets; 1 to 3 spatial axes.
        y_pred: (B, *spatial, C) logits.

    Returns:
        The mean, a float32 scalar, with the same bits as ``dualloss.torch.total_loss`` of the same values.
    """
    return _TOTAL_LOSS(y_true, y_pred)


def _scaled(upstream: Tensor | None, gradient: Tensor, dtype: str) -> Tensor:
    return engine.backward(_OPS, upstream, gradient, dtype)


def _shaped(x: Tensor) -> Tensor:
    """A rank-1 prediction or target with a channel axis of length 1."""
    return tf.expand_dims(x, 1) if x.shape.rank == 1 else x


def _check_dtype(name: str, value: Tensor) -> None:
    if value.dtype not in _FLOATS and not value.dtype.is_integer and value.dtype != tf.bool:
        raise TypeError(
            f"{name} has dtype {value.dtype.name}, expected float16, bfloat16, float32, an integer dtype or bool: "
            "cast it"
        )


def _labels(y_true: Tensor) -> Tensor:
    """Class indices as int64; a float that is no integer is no class.

    Keras makes floats of labels, and under ``tf.distribute`` builds a model with their mean, a float64.
    """
    if not y_true.dtype.is_integer and not y_true.dtype.is_floating:
        raise TypeError(
            f"y_true has dtype {y_true.dtype.name}, expected integer class indices for its shape {y_true.shape}"
        )
    if y_true.dtype.is_integer:
        labels = tf.cast(y_true, tf.int64)
        return tf.where(labels < 0, tf.constant(_NO_CLASS, tf.int64), labels) if y_true.dtype == tf.uint64 else labels
    wide = tf.cast(y_true, tf.float64)
    whole = tf.logical_and(tf.equal(wide, tf.math.rint(wide)), tf.abs(wide) < 2.0**62)
    return tf.where(whole, tf.cast(tf.where(whole, wide, 0.0), tf.int64), tf.constant(_NO_CLASS, tf.int64))


def _check_labels(labels: Tensor, given: Tensor, channels: int, ignore: int | None, mask: Tensor | None) -> None:
    """Inside a graph values cannot be looked at; there the position becomes NaN."""
    if not tf.executing_eagerly():
        return
    wrong = tf.logical_or(labels < 0, labels >= channels)
    if ignore is not None:
        wrong = tf.logical_and(wrong, labels != ignore)
    if mask is not None:
        wrong = tf.logical_and(wrong, mask)
    where = tf.where(wrong)
    if len(where):
        position = tuple(where[0].numpy().tolist())
        raise label_error(given[position].numpy(), position, channels, ignore, _NAMES)


def _per_position(value: Tensor, y_pred: Tensor, axis: int) -> Tensor:
    """One value a sample laid over its positions; one a position as it is."""
    if value.shape.rank != 1 or y_pred.shape.rank <= 2:
        return value
    shape = tf.shape(y_pred)
    positions = tf.concat([shape[:axis], shape[axis + 1 :]], 0)
    return tf.broadcast_to(tf.reshape(value, [-1] + [1] * (y_pred.shape.rank - 2)), positions)


_TOTAL_LOSS = Loss(TOTAL_LOSS, name="total_loss")
