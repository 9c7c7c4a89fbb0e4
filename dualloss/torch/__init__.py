"""dualloss for PyTorch: :class:`Loss`, an ``nn.Module``, and :func:`total_loss`."""

try:
    from .loss import Loss, total_loss
except ModuleNotFoundError as error:
    if error.name not in ("torch", "tensorflow", "keras"):
        raise
    raise ModuleNotFoundError(
        f"dualloss.torch needs PyTorch, and there is no module {error.name!r}: install the extra torch", name=error.name
    ) from error

__all__ = ["Loss", "total_loss"]
