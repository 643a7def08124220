"""Tests for lightning_mixup.tally: what the batches of a loader add up to, and what they don't."""

import pytest
import torch

from lightning_mixup import classification_metrics
from lightning_mixup.loss_probe import LossProbe
from lightning_mixup.observation import Observation
from lightning_mixup.tally import FIGURES, Tally

LOGITS, LABELS = torch.randn(8, 3), torch.arange(8) % 3


def test_batches_add_up_to_the_whole():
    parts, whole = Tally(), Tally()

    for rows in (slice(0, 3), slice(3, 4), slice(4, 8)):
        parts.add(Observation(LOGITS[rows], LABELS[rows]))
    whole.add(Observation(LOGITS, LABELS))

    for name in FIGURES:
        torch.testing.assert_close(parts.figures()[name], whole.figures()[name])


def test_single_samples_without_a_batch_dimension_count():
    tally = Tally(classification_metrics)

    for logits, label in zip(LOGITS, LABELS, strict=True):
        tally.add(Observation(logits, label))

    assert tally.figures()["count"] == 8
    torch.testing.assert_close(
        tally.figures()["MulticlassAccuracy"].double(), tally.figures()["accuracy"]
    )


def test_without_a_batch_there_are_no_figures():
    assert Tally().figures() == {}


@pytest.mark.parametrize(
    "other",
    [
        Observation(LOGITS[:, :2], LABELS % 2),
        Observation(LOGITS, LABELS, ignore_index=0),
        Observation(LOGITS[:, :2], LABELS % 2, is_binary=True),
    ],
    ids=["classes", "ignored", "binary"],
)
def test_batches_of_another_kind_withhold_all(other):
    tally = Tally()
    tally.add(Observation(LOGITS, LABELS))

    tally.add(other)

    assert "the losses of its batches differ" in tally.withheld
    assert tally.figures() == {}


def test_one_soft_batch_in_the_middle_withholds_all():
    tally = Tally()

    for weight in (1.0, 0.9, 1.0):
        with LossProbe() as probe:
            torch.nn.functional.binary_cross_entropy_with_logits(
                LOGITS[:, 0], weight * (LABELS > 1)
            )
        tally.add(probe.observations[0])

    assert tally.figures() == {}
    assert "soft in some batches" in tally.withheld
