"""dualloss for PyTorch.

:class:`Loss`, an ``nn.Module``, and :func:`total_loss`; :func:`penalty` for weights, :class:`Terms` for logging, and
:func:`record` to compare trainings.
"""

try:
    from .loss import Loss, total_loss
    from .metrics import Terms
    from .penalties import penalty
    from .recording import record
except ModuleNotFoundError as error:
    if error.name not in ("torch", "tensorflow", "keras"):
        raise
    raise ModuleNotFoundError(
        f"dualloss.torch needs PyTorch, and there is no module {error.name!r}: install the extra torch", name=error.name
    ) from error

__all__ = ["Loss", "Terms", "penalty", "record", "total_loss"]
