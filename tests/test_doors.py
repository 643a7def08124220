"""Tests for lightning_mixup.doors."""

import pytest
import torch
from torch import distributed, nn
from torchmetrics import MeanSquaredError, Metric, MinMaxMetric
from torchmetrics.classification import BinaryAccuracy

from lightning_mixup import MixedTarget
from lightning_mixup.doors import gather_plainly, guard_metrics

LABELS = [torch.tensor([0, 1, 2]), torch.tensor([1, 1, 0])]
WEIGHTS = torch.tensor([0.4, 0.6])


class Keeping(Metric):
    """Keeps its targets as they come."""

    def __init__(self):
        super().__init__()
        self.add_state("targets", [])

    def update(self, target):
        self.targets.append(target)

    def compute(self):
        return torch.cat(self.targets)


def test_a_metrics_state_holds_the_dominant_labels():
    metric, target = Keeping(), MixedTarget(LABELS, WEIGHTS)
    guard_metrics(metric)

    metric.update(target=target)

    assert [type(kept) for kept in metric.targets] == [torch.Tensor]
    assert metric.compute().tolist() == [1, 1, 0]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_classification_metric_is_given_classes_also_of_float_labels(wrapped):
    """Which it takes as long as they are 0 and 1, so the interpolated ones would not do."""
    target = MixedTarget([torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])], WEIGHTS)
    accuracy = BinaryAccuracy()
    metric = MinMaxMetric(accuracy) if wrapped else accuracy
    guard_metrics(nn.ModuleList([metric]))

    metric.update(torch.tensor([0.9, 0.2]), target)

    assert accuracy.compute() == 1


def test_a_classification_metric_reads_what_no_rule_followed():
    weights = torch.stack([WEIGHTS, WEIGHTS.flip(0)])
    target, metric = MixedTarget([torch.zeros(2), torch.zeros(2)], weights), BinaryAccuracy()
    guard_metrics(metric)

    metric.update(torch.tensor([0.9, 0.2]), target.cumsum(0))

    assert metric.compute() == 0.5


@pytest.mark.parametrize("call", [True, False], ids=["called", "updated"])
def test_a_metric_that_is_called_may_be_the_loss_of_float_targets(call):
    metric, target = MeanSquaredError(), MixedTarget([y.float() for y in LABELS], WEIGHTS)
    guard_metrics(metric)

    (metric if call else metric.update)(torch.rand(3), target)

    assert target.usage.met_gradient is call


def test_a_metric_that_is_called_without_gradients_is_no_loss():
    metric, target = MeanSquaredError(), MixedTarget([y.float() for y in LABELS], WEIGHTS)
    guard_metrics(metric)

    with torch.no_grad():
        metric(torch.rand(3), target)

    assert not target.usage.met_gradient


def test_a_released_metric_is_as_it_was_found():
    metric = Keeping()
    before = metric.update

    for interception in guard_metrics(metric):
        interception.release()

    assert metric.update is before


def test_without_ranks_gathering_is_left_alone():
    target = MixedTarget(LABELS, WEIGHTS)

    gathered = gather_plainly(lambda tensor: tensor, (target,), {})

    assert gathered.tolist() == [1, 1, 0]


def test_gathering_labels_of_several_ranks_is_refused(monkeypatch):
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    target = MixedTarget(LABELS, WEIGHTS)

    with pytest.raises(RuntimeError, match="gathers labels, which every rank mixes by weights"):
        gather_plainly(lambda tensor: tensor, (target,), {})


def test_losses_of_several_ranks_are_gathered(monkeypatch):
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    loss = torch.nn.functional.cross_entropy(torch.randn(3, 3), MixedTarget(LABELS, WEIGHTS))

    gathered = gather_plainly(lambda tensor: tensor, (loss,), {})

    assert type(gathered) is torch.Tensor
    assert gathered.item() == loss.item()
