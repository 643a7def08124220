"""Tests for lightning_mixup.loss_probe: what a loss call says of logits and targets."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_mixup.loss_probe import LossProbe

LOGITS, LABELS = torch.randn(6, 4), torch.arange(6) % 4
BINARY = torch.randn(6, requires_grad=True)


@pytest.mark.parametrize(
    "loss",
    [
        lambda: F.cross_entropy(LOGITS, LABELS),
        lambda: nn.CrossEntropyLoss()(LOGITS, LABELS),
        lambda: nn.CrossEntropyLoss(reduction="none", label_smoothing=0.1)(LOGITS, LABELS),
        lambda: F.cross_entropy(target=LABELS, input=LOGITS),
        lambda: F.nll_loss(LOGITS.log_softmax(1), LABELS),
        lambda: nn.NLLLoss()(F.log_softmax(LOGITS, dim=1), LABELS),
    ],
)
def test_classification_losses_are_seen(loss):
    with LossProbe() as probe:
        loss()

    (seen,) = probe.observations
    torch.testing.assert_close(seen.probabilities(), LOGITS.softmax(1))
    assert torch.equal(seen.target, LABELS)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (lambda: F.cross_entropy(LOGITS, LABELS, ignore_index=3), 3),
        (lambda: F.cross_entropy(LOGITS, LABELS, None, None, 3), 3),
        (lambda: nn.NLLLoss(ignore_index=1)(LOGITS, LABELS), 1),
        (lambda: F.cross_entropy(LOGITS, LABELS), -100),
    ],
)
def test_the_ignored_index_is_read_by_keyword_and_position(loss, expected):
    with LossProbe() as probe:
        loss()

    assert probe.observations[0].ignore_index == expected


@pytest.mark.parametrize("shape", [(6,), (6, 1)], ids=str)
@pytest.mark.parametrize("from_logits", [True, False])
def test_binary_losses_are_two_classes(shape, from_logits):
    x, y = BINARY.reshape(shape), (LABELS > 1).float().reshape(shape)

    with LossProbe() as probe:
        if from_logits:
            F.binary_cross_entropy_with_logits(x, y)
        else:
            nn.BCELoss()(x.sigmoid(), y)

    (seen,) = probe.observations
    torch.testing.assert_close(seen.probabilities(), BINARY.detach().sigmoid())
    assert torch.equal(seen.target, (LABELS > 1).long())
    assert not seen.logits.requires_grad


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        (lambda: F.mse_loss(LOGITS, LOGITS), "mse_loss is not a loss of classes"),
        (lambda: F.cross_entropy(LOGITS, LOGITS.softmax(1)), "cross_entropy are soft"),
        (lambda: F.cross_entropy(LOGITS[:, :1], 0 * LABELS), "are of a single class"),
        (lambda: F.binary_cross_entropy_with_logits(LOGITS, LOGITS.sigmoid()), "multi-label"),
        (lambda: F.binary_cross_entropy_with_logits(BINARY, BINARY.sigmoid()), "are soft"),
    ],
)
def test_other_losses_are_declined_in_words(loss, reason):
    with LossProbe() as probe:
        loss()

    assert not probe.observations
    assert reason in probe.declined[0]


def test_the_loss_itself_is_untouched():
    plain = F.cross_entropy(LOGITS, LABELS)

    with LossProbe():
        watched = F.cross_entropy(LOGITS, LABELS)

    assert watched == plain


def test_nothing_is_watched_afterwards_even_if_the_step_raises():
    probe = LossProbe()

    with pytest.raises(ZeroDivisionError), probe:
        raise ZeroDivisionError
    F.cross_entropy(LOGITS, LABELS)

    assert not probe.observations
