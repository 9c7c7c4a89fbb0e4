"""dualloss for TensorFlow and Keras.

:class:`Loss`, a ``keras.losses.Loss``, and :func:`total_loss`; :class:`Regularizer` for weights, :func:`term_metrics`
for logging, the callback :class:`ScheduleSteps`, and :func:`record` to compare trainings.
"""

try:
    from .callbacks import ScheduleSteps
    from .loss import Loss, total_loss
    from .metrics import TermMetric, term_metrics
    from .penalties import Regularizer
    from .recording import record
except ModuleNotFoundError as error:
    if error.name not in ("torch", "tensorflow", "keras"):
        raise
    raise ModuleNotFoundError(
        f"dualloss.tf needs TensorFlow and Keras 3, and there is no module {error.name!r}: install the extra tf",
        name=error.name,
    ) from error

__all__ = ["Loss", "Regularizer", "ScheduleSteps", "TermMetric", "record", "term_metrics", "total_loss"]
