"""What moves the schedules of a loss in ``fit``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from .loss import Loss


class ScheduleSteps(keras.callbacks.Callback):
    """Sets the step of scheduled losses to the optimizer's, ``model.optimizer.iterations``, before every batch.

    The optimizer counts its updates, saves the count with its state and restores it from a checkpoint, so a training
    that resumes goes on where the schedules were. In evaluation the weights are those of the step to come.

    With ``steps_per_execution=n`` Keras runs n batches at a time, and all n have the weights of the first of them.

    Args:
        losses: the losses; None: those in ``model.loss``, wherever they stand in its lists and dicts.
    """

    def __init__(self, losses: Iterable[Loss] | None = None) -> None:
        super().__init__()
        self._given = None if losses is None else list(losses)
        for loss in self._given or ():
            if not isinstance(loss, Loss):
                raise TypeError(f"losses holds {type(loss).__name__}, expected dualloss.tf.Loss only")

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Set the step."""
        self._set()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Set the step, for what is saved now."""
        self._set()

    def on_test_begin(self, logs: Any = None) -> None:
        """Set the step."""
        self._set()

    def _set(self) -> None:
        optimizer = self.model.optimizer
        losses = self._losses()
        if optimizer is None or not losses:
            return
        step = int(tf.convert_to_tensor(optimizer.iterations))
        for loss in losses:
            if loss.step != step:
                loss.step = step

    def _losses(self) -> list[Loss]:
        if self._given is not None:
            return self._given
        found = [loss for loss in keras.tree.flatten(self.model.loss) if isinstance(loss, Loss)]
        if not found:
            raise ValueError(
                f"model.loss is {self.model.loss!r}, expected a dualloss.tf.Loss in it; where the loss is held "
                "elsewhere: ScheduleSteps([loss])"
            )
        return [loss for loss in found if loss.spec.scheduled]
