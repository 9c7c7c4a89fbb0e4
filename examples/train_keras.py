"""Train the U-Net in Keras on TensorFlow: `python examples/train_keras.py [--out DIR] [--quick]`."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
from common import Result, Settings, finish
from numpy.typing import NDArray
from unet_keras import unet

import dualloss as dl
import dualloss.tf


class Batches(keras.utils.PyDataset):
    """The training scenes, as `fit` wants them."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings

    def __len__(self) -> int:
        return self.settings.steps

    def __getitem__(self, step: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        images, classes = self.settings.train_scenes.batch(step)
        return images[..., None], classes


class StepLosses(keras.callbacks.Callback):
    """Keeps the loss of every step, where Keras itself shows the mean of the epoch so far."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Start the mean afresh."""
        self.model.reset_metrics()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Take it."""
        if logs:
            self.losses.append(float(logs["loss"]))


def train(settings: Settings, *watch: keras.callbacks.Callback) -> Result:
    """Train and judge the net; further callbacks may watch."""
    net = unet()
    falling = keras.optimizers.schedules.PolynomialDecay(settings.learning_rate, settings.steps, 0.0)
    net.compile(
        optimizer=keras.optimizers.Adam(falling, epsilon=settings.adam_epsilon),
        loss=dualloss.tf.Loss(dl.CrossEntropy() + 0.5 * dl.Boundary()),
    )
    history = StepLosses()
    net.fit(Batches(settings), shuffle=False, callbacks=[history, *watch])
    predicted = net.predict(settings.held_out_scenes[0][..., None], batch_size=50, verbose=0).argmax(-1)
    return finish(settings, "Keras", history.losses, predicted)


if __name__ == "__main__":
    train(Settings.from_command_line(__doc__))
