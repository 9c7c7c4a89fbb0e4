"""dualloss for TensorFlow and Keras: :class:`Loss`, a ``keras.losses.Loss``, and :func:`total_loss`."""

from .loss import Loss, total_loss

__all__ = ["Loss", "total_loss"]
