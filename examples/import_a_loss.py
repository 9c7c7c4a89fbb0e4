"""Take a loss from PyTorch to Keras and one back, with all its options: `python examples/import_a_loss.py`."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

import torch  # first: TensorFlow brings its own copies of some libraries

# isort: split
import keras
import numpy as np

import dualloss as dl
import dualloss.tf
import dualloss.torch


def from_torch_to_keras() -> None:
    """A cross-entropy with class weights, smoothed labels and an ignored one, for images (B, H, W, C)."""
    theirs = torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 4.0, 0.5]), ignore_index=255, label_smoothing=0.1)
    text = dl.from_torch(theirs).to_json()  # keep it beside the model
    ours = dualloss.tf.Loss(dl.from_json(text))  # for model.compile(loss=...)

    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (2, 16, 16, 3)).astype(np.float32)
    labels = np.where(rng.random((2, 16, 16)) < 0.1, 255, rng.integers(0, 3, (2, 16, 16)))
    in_keras = float(ours(labels, logits))
    in_torch = theirs(torch.from_numpy(logits).movedim(-1, 1), torch.from_numpy(labels)).item()
    print(f"torch.nn.CrossEntropyLoss  {in_torch:.9f}   the same in Keras    {in_keras:.9f}")
    np.testing.assert_allclose(in_keras, in_torch, rtol=2e-7)


def from_keras_to_torch() -> None:
    """A focal loss of logits, for images (B, C, H, W)."""
    theirs = keras.losses.CategoricalFocalCrossentropy(alpha=0.25, gamma=2.0, from_logits=True)
    ours = dualloss.torch.Loss(dl.from_keras(theirs))

    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (2, 3, 16, 16)).astype(np.float32)
    labels = rng.integers(0, 3, (2, 16, 16))
    in_torch = ours(torch.from_numpy(logits), torch.from_numpy(labels)).item()  # class indices will do
    in_keras = float(theirs(np.eye(3, dtype=np.float32)[labels], np.moveaxis(logits, 1, -1)))
    print(f"keras' categorical focal   {in_keras:.9f}   the same in PyTorch  {in_torch:.9f}")
    np.testing.assert_allclose(in_torch, in_keras, rtol=1e-6)


def what_has_no_spec() -> None:
    """Is refused with the reason, never approximated."""
    try:
        dl.from_keras(keras.losses.Tversky(alpha=0.3, beta=0.7))
    except ValueError as error:
        print(error)


if __name__ == "__main__":
    from_torch_to_keras()
    from_keras_to_torch()
    what_has_no_spec()
