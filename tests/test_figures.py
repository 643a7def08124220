"""Tests for lightning_mixup.figures: metrics by one word."""

import pytest
import torch
from torch.nn import functional as F
from torchmetrics.functional.classification import binary_accuracy, multiclass_accuracy

from lightning_mixup import classification_metrics


def test_accuracy_is_over_samples_and_not_the_mean_over_classes():
    preds, target = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 0, 2])

    computed = classification_metrics(3)(F.one_hot(preds, 3).float(), target)

    assert computed["MulticlassAccuracy"] == 0.75
    assert multiclass_accuracy(preds, target, 3, average="macro") != 0.75


def test_one_class_stands_for_a_binary_loss():
    p, y = torch.rand(50), torch.randint(2, (50,))

    computed = classification_metrics(1)(p, y)

    assert computed["BinaryAccuracy"] == binary_accuracy(p, y)
    assert set(computed) == {"BinaryAccuracy", "BinaryCalibrationError"}


def test_no_class_is_refused():
    with pytest.raises(ValueError, match=r"num_classes=0 is below 1\. Give"):
        classification_metrics(0)
