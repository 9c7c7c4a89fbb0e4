"""dualloss for PyTorch: :class:`Loss`, an ``nn.Module``, and :func:`total_loss`."""

from .loss import Loss, total_loss

__all__ = ["Loss", "total_loss"]
