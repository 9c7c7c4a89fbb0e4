"""dualloss for TensorFlow and Keras: :class:`Loss`, a ``keras.losses.Loss``, and :func:`total_loss`."""

try:
    from .loss import Loss, total_loss
except ModuleNotFoundError as error:
    if error.name not in ("torch", "tensorflow", "keras"):
        raise
    raise ModuleNotFoundError(
        f"dualloss.tf needs TensorFlow and Keras 3, and there is no module {error.name!r}: install the extra tf",
        name=error.name,
    ) from error

__all__ = ["Loss", "total_loss"]
