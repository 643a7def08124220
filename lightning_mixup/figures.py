"""Metrics of torchmetrics that need the number of classes, made when the logits are seen."""

from __future__ import annotations

from torchmetrics import MetricCollection
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryCalibrationError,
    MulticlassAccuracy,
    MulticlassCalibrationError,
)

from lightning_mixup.errors import MixupValueError

__all__ = ["classification_metrics"]


def classification_metrics(num_classes: int) -> MetricCollection:
    """Makes torchmetrics' calibration error (15 bins) and accuracy, for any number of classes.

    Written as ``CalibrationMonitor(classification_metrics)``, it logs them beside ours. They
    agree up to rounding, but for three cases, which ``docs/calibration.md`` explains.

    Args:
        num_classes: 2 or more: ``MulticlassCalibrationError`` and ``MulticlassAccuracy`` (over all
            samples, not the mean over classes). 1, for a binary loss: ``BinaryCalibrationError``,
            which is the error of P(y = 1) and not of the confidence, and ``BinaryAccuracy``.

    Returns:
        The metrics, by the names of their classes.

    Raises:
        MixupValueError: If there is no class.

    Example:
        >>> sorted(classification_metrics(10))
        ['MulticlassAccuracy', 'MulticlassCalibrationError']
    """
    if num_classes < 1:
        raise MixupValueError(
            f"num_classes={num_classes!r} is below 1. Give the number of columns of the logits, "
            "or 1 for a binary loss."
        )
    if num_classes == 1:
        return MetricCollection([BinaryCalibrationError(n_bins=15), BinaryAccuracy()])
    accuracy = MulticlassAccuracy(num_classes, average="micro")
    return MetricCollection([MulticlassCalibrationError(num_classes, n_bins=15), accuracy])
