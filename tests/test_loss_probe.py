"""Tests for lightning_mixup.loss_probe: what a loss call says of logits and targets."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_mixup.beliefs import entry_of
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
        (lambda: F.cross_entropy(LOGITS[:, :1], 0 * LABELS), "are of a single class"),
        (lambda: F.binary_cross_entropy_with_logits(LOGITS, LOGITS.sigmoid()), "multi-label"),
        (lambda: F.cross_entropy(LOGITS, torch.zeros(6).long()), "made in the step, by zeros"),
        (lambda: F.cross_entropy(LOGITS, LABELS.new_tensor(6 * [1])), "by new_tensor"),
    ],
)
def test_other_losses_are_declined_in_words(loss, reason):
    with LossProbe() as probe:
        loss()

    assert not probe.observations
    assert reason in probe.declined[0]


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (lambda: F.cross_entropy(LOGITS, LABELS), None),
        (lambda: F.cross_entropy(LOGITS, LOGITS.softmax(1)), True),
        (lambda: F.cross_entropy(LOGITS, F.one_hot(LABELS).float()), False),
        (lambda: F.cross_entropy(LOGITS, 1 - F.one_hot(LABELS).float()), True),
        (lambda: F.binary_cross_entropy_with_logits(BINARY, BINARY.sigmoid()), True),
        (lambda: F.binary_cross_entropy_with_logits(BINARY, (BINARY > 0).float()), False),
    ],
    ids=["integer", "soft", "one-hot", "not-one", "soft-binary", "binary"],
)
def test_soft_labels_are_told_from_one_hot_ones(loss, expected):
    with LossProbe() as probe:
        loss()

    soft = probe.observations[0].has_soft_labels()
    assert (None if soft is None else bool(soft)) is expected


def test_labels_that_are_written_from_data_are_no_made_ones():
    with LossProbe() as probe:
        labels = torch.zeros(6, dtype=torch.long)
        labels[LABELS > 1] = LABELS[LABELS > 1]
        F.cross_entropy(LOGITS, labels)

    assert len(probe.observations) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda x, y: x.mul_(2),
        lambda x, y: x.view(-1).add_(1),
        lambda x, y: y.__setitem__(0, 3),
        lambda x, y: F.relu(x, inplace=True),
        lambda x, y: torch.neg(x, out=x),
    ],
    ids=["method", "view", "labels", "argument", "out"],
)
def test_what_is_changed_after_the_loss_is_noticed(change):
    x, y = LOGITS.clone(), LABELS.clone()

    with LossProbe() as probe:
        F.cross_entropy(x, y)
        change(x, y)

    assert "changed in place" in probe.choose((x, y), None)


@pytest.mark.parametrize("make", [torch.tensor, torch.as_tensor], ids=["tensor", "as_tensor"])
def test_labels_of_a_list_are_the_datas_if_the_list_is(make):
    listed = LABELS.tolist()

    with LossProbe() as probe:
        F.cross_entropy(LOGITS, make(data=listed))

    assert probe.choose({"x": [LOGITS, listed]}, None) is probe.observations[0]
    assert "made in the step, by" in probe.choose((LOGITS, list(listed)), None)


@pytest.mark.parametrize(
    "labels",
    [
        lambda: LABELS + torch.tensor(0),
        lambda: torch.where(LABELS > 1, torch.tensor(1), torch.tensor(0)),
        lambda: torch.tensor([3, 2, 1, 0])[LABELS],
        lambda: torch.zeros(6, 4).scatter_(1, LABELS[:, None], 1),
        lambda: torch.empty(6, dtype=torch.long).copy_(LABELS),
        lambda: F.one_hot(LABELS).argmax(1),
    ],
    ids=["sum", "where", "look-up", "scatter", "copy", "argmax"],
)
def test_labels_that_the_data_has_a_part_in_are_read(labels):
    with LossProbe() as probe:
        F.cross_entropy(LOGITS, labels())

    assert probe.choose((LOGITS, LABELS), None) is probe.observations[0]


def test_operations_on_tensors_without_memory_are_let_pass():
    with LossProbe() as probe:
        each = F.cross_entropy(LOGITS, LABELS, reduction="none")
        torch.eye(6).to_sparse() @ each
        torch.nested.nested_tensor([LOGITS[0], LOGITS[1, :2]], layout=torch.jagged).sigmoid()
        torch.vmap(lambda row: row.sigmoid().squeeze())(LOGITS)
        F.binary_cross_entropy_with_logits(LOGITS[:, 0], (LABELS > 1).float())

    assert "are left out afterwards" in probe.choose((LOGITS, LABELS), None)


def test_the_same_loss_twice_is_one():
    with LossProbe() as probe:
        F.cross_entropy(LOGITS, LABELS)
        F.cross_entropy(LOGITS.view(6, 4), LABELS.clone())

    assert probe.choose((LOGITS, LABELS), None) is probe.observations[0]


def test_equal_logits_of_two_losses_are_one():
    with LossProbe() as probe:
        F.cross_entropy(LOGITS, LABELS)
        F.nll_loss(LOGITS.double().log_softmax(1), LABELS)

    assert probe.choose((LOGITS, LABELS), None) is probe.observations[0]


def test_two_heads_that_start_from_zero_are_two_losses():
    with LossProbe() as probe:
        F.cross_entropy(0 * LOGITS, LABELS)
        F.cross_entropy(0 * LOGITS, LABELS)

    assert "2 classification losses" in probe.choose((LOGITS, LABELS), None)


def test_a_loss_that_raises_is_none():
    with LossProbe() as probe, pytest.raises(RuntimeError):
        F.cross_entropy(LOGITS, LABELS.half())

    assert not probe.observations


def test_the_entry_that_targets_come_from_is_found():
    x, y, mask = torch.randn(4, 3), torch.tensor([[0, 1], [2, 0], [1, 1], [0, 2]]), torch.ones(4)
    batch = {"image": x, "label": y, "mask": mask}

    assert entry_of(batch, y.view(-1)) is y
    assert entry_of(batch, y.float()) is y
    assert entry_of(batch, y.T.reshape(-1)) is None
    assert entry_of(batch, y[[1, 0, 2, 3]]) is None


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
