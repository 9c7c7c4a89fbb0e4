"""The value of every term over many batches, as Keras metrics."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from ..exact import running
from ..spec import Subset
from .loss import Loss
from .ops import TensorFlowOps

Tensor = Any

_OPS = TensorFlowOps()


@keras.saving.register_keras_serializable(package="dualloss")
class TermMetric(keras.metrics.Metric):
    """One term's value over many batches, before its weight: what to log of an epoch.

    It adds the exact sums behind the term, whatever the loss's numerics: the value is that of all batches as one, to
    the bit, however they were split, and that of ``dualloss.torch.Terms``. A term whose sums do not add
    (``Lovasz(per_sample=False)``) is averaged over the batches.

    ``model.compile(metrics=...)`` leaves the sample weights out, ``model.compile(weighted_metrics=...)`` uses them.

    Args:
        loss: the loss; its ``reduction`` is "mean" or "sum".
        term: the term's name in ``loss.spec.names``.
        name: the name of the metric; None: that of the term.
    """

    def __init__(self, loss: Loss, term: str, name: str | None = None) -> None:
        if not isinstance(loss, Loss):
            raise TypeError(f"loss is {type(loss).__name__}, expected a dualloss.tf.Loss")
        if loss.reduction == "none":
            raise ValueError("loss has reduction='none', expected 'mean' or 'sum': sums have no map")
        if term not in loss.spec.names:
            raise ValueError(f"term is {term!r}, expected one of {', '.join(map(repr, loss.spec.names))}")
        super().__init__(name=name or term)
        self.loss = loss
        self.term = term
        spec = Subset.of(loss.spec, [loss.spec.names.index(term)])
        options = {key: getattr(loss, key) for key in ("reduction", "channel_axis", "jit_compile")}
        self._alone = Loss(spec, **options)
        self._term = spec.parts[0][1]
        self._state: Any = None

    @tf.autograph.experimental.do_not_convert
    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        """Add a batch: the arguments of the loss. It costs about the term without its gradient."""
        if self._term.mergeable:
            more = self._alone.sums(y_true, y_pred, sample_weight)[0]
        else:
            _, terms = self._alone(y_true, y_pred, sample_weight, return_terms=True)
            more = running.of_value(_OPS, next(iter(terms.values())))
        if self._state is None:  # how many sums there are depends on the number of channels
            with tf.init_scope():
                self._state = self.add_variable(more.shape, "zeros", "int64", name="state")
        self._state.assign(running.added(_OPS, tf.convert_to_tensor(self._state), more))

    @tf.autograph.experimental.do_not_convert
    def result(self) -> Tensor:
        """The term's value, a float32 scalar; 0 before the first batch."""
        if self._state is None:
            return tf.zeros(())
        state = tf.convert_to_tensor(self._state)
        if not self._term.mergeable:
            return running.value(_OPS, state, self.loss.reduction)
        _, terms = self._alone.from_sums(state[None], return_terms=True)
        return next(iter(terms.values()))

    def get_config(self) -> dict[str, Any]:
        """The settings."""
        return {"loss": keras.saving.serialize_keras_object(self.loss), "term": self.term, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TermMetric:
        """The metric with these settings."""
        return cls(**{**config, "loss": keras.saving.deserialize_keras_object(config["loss"])})


def term_metrics(loss: Loss) -> list[TermMetric]:
    """A :class:`TermMetric` for each term of a loss."""
    return [TermMetric(loss, name) for name in loss.spec.names]
