"""dualloss for PyTorch: :class:`Loss`, an ``nn.Module``, :func:`total_loss`, :func:`penalty` and :class:`Terms`."""

try:
    from .loss import Loss, total_loss
    from .metrics import Terms
    from .penalties import penalty
except ModuleNotFoundError as error:
    if error.name not in ("torch", "tensorflow", "keras"):
        raise
    raise ModuleNotFoundError(
        f"dualloss.torch needs PyTorch, and there is no module {error.name!r}: install the extra torch", name=error.name
    ) from error

__all__ = ["Loss", "Terms", "penalty", "total_loss"]
