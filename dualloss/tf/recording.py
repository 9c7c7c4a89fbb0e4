"""Recordings of a training: the loss's inputs, its value, its terms and its gradient at chosen steps."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from .. import __version__
from ..recording import THE_LOSS, Chosen, Convention, Writer, about, check_name
from .distances import in_xla
from .loss import Loss

Tensor = Any

_FLOATS = ("float16", "bfloat16", "float32", "float64")
_NOT_STORED = -1
"""Stands for the number of a step that is not stored."""


class Recorder(keras.callbacks.Callback):
    """What :func:`record` gives: a callback of Keras, and a context manager, at whose end the recording ends."""

    def __init__(self, path: str | os.PathLike[str], *, weights: bool = False, **options: Any) -> None:
        super().__init__()
        versions = {"dualloss": __version__, "tensorflow": tf.__version__, "keras": keras.__version__}
        self._writer = Writer(path, framework="tf", versions=versions, **options)
        self._with_weights = weights
        self._evaluating = False

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def loss(
        self,
        criterion: Callable[..., Any] | str,
        *,
        channel_axis: int | Literal["auto"] | None = "auto",
        order: str = "auto",
    ) -> Callable[..., Any]:
        """The criterion, recorded: call it, or compile the model with it, in its place.

        At a chosen step it stores the input, the target, the sample weight, the loss, of a :class:`dualloss.tf.Loss`
        each term, and, when the gradient is taken, the one that arrives at the loss and the one by the input, as far as
        it goes through this loss. While Keras evaluates it records nothing and counts no step; in a loop of one's own,
        evaluate with the criterion itself.

        Args:
            criterion: a :class:`dualloss.tf.Loss` or another ``keras.losses.Loss``, the name of one, or a function. Of
                a Keras loss comes a ``keras.losses.Loss``, which is saved as the criterion.
            channel_axis: the axis of the input that holds the channels; None: there is none; "auto": that of the
                criterion, else the last.
            order: "input-first" or "target-first"; "auto": as the arguments' names say, else the target comes first.

        Raises:
            RuntimeError: the recording has a loss already.
            ValueError: from the call: XLA compiles it.
        """
        called = keras.losses.get(criterion) if isinstance(criterion, str) else criterion
        axis = getattr(called, "channel_axis", -1) if channel_axis == "auto" else channel_axis
        convention = Convention.of(called, order, "target-first")
        self._writer.describe(**_description(called))
        recorded = functools.partial(self._recorded, called, convention, axis)
        if isinstance(called, keras.losses.Loss):
            return _RecordedLoss(called, recorded)

        @functools.wraps(called)
        @tf.autograph.experimental.do_not_convert
        def function(*args: Any, **kwargs: Any) -> Any:
            return recorded(args, kwargs)

        return function

    def tensor(self, name: str, value: Any, *, channel_axis: int | None = None) -> None:
        """Store a tensor or an array at a chosen step, such as the batch as "data"; inside graphs, too.

        Args:
            name: any but those of the loss's own arrays.
            value: a tensor, an array or a number.
            channel_axis: the axis that holds channels, if there is one.
        """
        number = self._begin(f"tensor {check_name(name)}")
        self._put(number, {name: (value, channel_axis)})

    def weights(self, model: keras.Model) -> None:
        """Store the trainable weights of a model at a chosen step, outside of graphs: before the first loss, and after
        the optimizer's steps. The others, such as running statistics, come with them, as its state.

        Raises:
            RuntimeError: it is called inside a graph.
        """
        if not tf.executing_eagerly():
            raise RuntimeError("weights() was called inside a graph, expected it outside of tf.function")
        number, kind, state = self._writer.begin_weights()
        if number is not None:
            others = [w for w in model.non_trainable_weights if keras.backend.standardize_dtype(w.dtype) in _FLOATS]
            for prefix, found in ((kind, model.trainable_weights), (state, others)):
                self._put(number, {f"{prefix}/{weight.path}": (weight.value, None) for weight in found})

    def step(self) -> None:
        """End the step. Without it a step ends where something begins that it has already, such as the loss."""
        self._writer.next()

    def close(self) -> None:
        """End the recording. What was recorded goes on working, and records nothing."""
        self._writer.close()

    def on_train_begin(self, logs: Any = None) -> None:
        """Refuse a model that XLA compiles; store the weights that the training starts with."""
        if self.model.jit_compile and not self.model.run_eagerly:
            raise ValueError(
                "the model has jit_compile=True (Keras' default), expected jit_compile=False: a graph that XLA "
                "compiles cannot store arrays; model.compile(..., jit_compile=False)"
            )
        if self._with_weights:
            self.weights(self.model)
        elif self._writer.empty:
            raise ValueError("the recorder has no loss, expected a model compiled with loss=recorder.loss(...)")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """End the step, with the count of the optimizer's updates."""
        if self._writer.chosen:
            if self.model.optimizer is not None:
                self._writer.note(iteration=int(tf.convert_to_tensor(self.model.optimizer.iterations)))
            if self._with_weights:
                self.weights(self.model)
        self.step()

    def on_test_begin(self, logs: Any = None) -> None:
        """Record nothing of an evaluation."""
        self._evaluating = True

    def on_test_end(self, logs: Any = None) -> None:
        """Record again."""
        self._evaluating = False

    def _recorded(
        self,
        criterion: Callable[..., Any],
        convention: Convention,
        axis: int | None,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            raise ValueError("a recorded loss is called by several replicas, expected one")
        number = self._begin(THE_LOSS)
        if isinstance(number, int) and number == _NOT_STORED:
            return criterion(*args, **kwargs)
        given, target, weight = convention.find(args, kwargs)
        if given is None or target is None:
            return criterion(*args, **kwargs)  # which says what is missing
        input = tf.convert_to_tensor(given)
        found: dict[str, tuple[Any, int | None]] = {}
        for name, value in (("input", input), ("target", target), ("sample_weight", weight)):
            if value is not None:
                value = tf.convert_to_tensor(value)
                like = name != "sample_weight" and value.shape.rank == input.shape.rank
                found[name] = (value, axis if like else None)
        self._put(number, found)
        watched = self._watched(input, number, "gradient", axis)
        if (mask := getattr(given, "_keras_mask", None)) is not None:
            watched._keras_mask = mask
        args, kwargs = convention.replace(args, kwargs, watched)
        terms: dict[str, Tensor] = {}
        if isinstance(criterion, Loss):
            loss, terms = criterion(*args, **{**kwargs, "return_terms": True})
            self._note_schedule(criterion, number)
        else:
            loss = criterion(*args, **kwargs)
        if tf.is_tensor(loss):
            values = {"loss": loss, **{f"terms/{name}": value for name, value in terms.items()}}
            self._put(number, {name: (value, None) for name, value in values.items()})
            loss = self._watched(loss, number, "upstream", None)
        return (loss, terms) if terms and kwargs.get("return_terms") else loss

    def _watched(self, x: Tensor, number: Any, name: str, axis: int | None) -> Tensor:
        """The tensor, whose gradient is stored when it is taken."""

        @tf.custom_gradient
        def identity(x: Tensor) -> Any:
            def gradient(upstream: Tensor) -> Tensor:
                self._put(number, {name: (upstream, axis)})
                return upstream

            return tf.identity(x), gradient

        return identity(x)

    def _begin(self, mark: str) -> Any:
        """The number of the step that what is marked so belongs to, or -1; in a graph, a tensor."""

        def begin() -> Any:
            number = None if self._evaluating else self._writer.begin(mark)
            return np.int64(_NOT_STORED if number is None else number)

        if tf.executing_eagerly():
            return int(begin())
        if in_xla():
            raise ValueError(
                "a recording stores arrays on the host, which a graph compiled with jit_compile=True cannot call: "
                "compile the Keras model (or the step) with jit_compile=False"
            )
        return tf.ensure_shape(tf.numpy_function(begin, [], tf.int64), ())

    def _put(self, number: Any, values: Mapping[str, tuple[Any, int | None]]) -> None:
        """Store arrays, each with its channel axis."""
        tensors = [tf.convert_to_tensor(value) for value, _ in values.values()]
        dtypes = ["bfloat16" if tensor.dtype == tf.bfloat16 else None for tensor in tensors]
        tensors = [tf.bitcast(t, tf.uint16) if d else t for t, d in zip(tensors, dtypes, strict=True)]

        def put(number: Any, *arrays: Any) -> Any:
            for (name, (_, axis)), dtype, array in zip(values.items(), dtypes, arrays, strict=True):
                self._writer.put(int(number), name, array, dtype=dtype, channel_axis=axis)
            return np.int64(0)

        self._on_host(put, number, tensors)

    def _note_schedule(self, criterion: Loss, number: Any) -> None:
        if criterion.spec.scheduled:

            def note(number: Any) -> Any:
                self._writer.note(schedule=criterion.step)
                return np.int64(0)

            self._on_host(note, number, [])

    def _on_host(self, function: Callable[..., Any], number: Any, tensors: list[Tensor]) -> None:
        """Call the function now, or where the graph runs, if the step is stored."""
        if tf.executing_eagerly():
            if int(number) != _NOT_STORED:
                function(number, *(tensor.numpy() for tensor in tensors))
            return
        number = tf.convert_to_tensor(number, tf.int64)
        tf.cond(
            number >= 0,
            lambda: tf.numpy_function(function, [number, *tensors], tf.int64),
            lambda: tf.constant(0, tf.int64),
        )


def record(
    path: str | os.PathLike[str],
    *,
    steps: Chosen | None = None,
    every: int = 1,
    max_bytes: int = 1 << 30,
    whole: int = 1 << 24,
    start: int = 0,
    weights: bool = False,
) -> Recorder:
    """Record a training in a folder, for ``dualloss diff`` and ``dualloss check-recording``::

        rec = dualloss.tf.record("run", every=10)
        model.compile("adam", loss=rec.loss(loss), jit_compile=False)
        model.fit(x, y, callbacks=[rec])

    or in a loop of one's own::

        with dualloss.tf.record("run", every=10) as rec:
            criterion = rec.loss(criterion)
            for x, y in batches:
                with tf.GradientTape() as tape:
                    loss = criterion(y, model(x, training=True))
                optimizer.apply(tape.gradient(loss, model.trainable_weights), model.trainable_weights)
                rec.step()

    The training computes the same bits with and without it. What is on disk is readable at any moment.

    Args:
        path: a folder, new or empty.
        steps: the steps to store: their numbers, or a function of the number; None: every ``every``-th.
        every: see ``steps``.
        max_bytes: how many bytes the files may have together; near it only samples are stored, then nothing.
        whole: up to how many bytes an array is kept whole; of larger ones a hash, statistics and a sample.
        start: the number of the first step, of a training that resumes.
        weights: whether, in ``fit``, a chosen step has the model's weights after its update, and the first one those
            before.

    Raises:
        FileExistsError: the folder has something in it.
        TypeError, ValueError: arguments out of range.
    """
    return Recorder(
        path, weights=weights, steps=steps, every=every, max_bytes=max_bytes, whole=whole, start=start
    )  # fmt: skip


def _description(criterion: Callable[..., Any]) -> dict[str, Any]:
    found = about(criterion)
    if isinstance(criterion, Loss):
        found |= {"spec": criterion.spec.to_json(), "reduction": criterion.reduction, "numerics": criterion.numerics}
    return found


@keras.saving.register_keras_serializable(package="dualloss")
class _RecordedLoss(keras.losses.Loss):
    """A Keras loss, recorded. It is saved, and comes back, as the loss itself."""

    def __init__(self, criterion: keras.losses.Loss, recorded: Callable[..., Any]) -> None:
        super().__init__(name=criterion.name, reduction=criterion.reduction, dtype=criterion.dtype)
        self._criterion = criterion
        self._recorded = recorded

    @tf.autograph.experimental.do_not_convert
    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None, **options: Any) -> Any:
        return self._recorded((y_true, y_pred, sample_weight), options)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return self._criterion.call(y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        return {"criterion": keras.saving.serialize_keras_object(self._criterion)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> keras.losses.Loss:
        return keras.saving.deserialize_keras_object(config["criterion"])
