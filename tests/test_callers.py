"""Tests for lightning_mixup.callers."""

import pytest
import torch
from lightning import LightningModule
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchmetrics import Metric
from torchmetrics.functional import accuracy

from lightning_mixup.callers import (
    in_autograd_function,
    in_checkpoint,
    in_class_metric,
    in_metric,
    in_submodule,
    line_of_user,
)

QUESTIONS = [in_autograd_function, in_checkpoint, in_class_metric, in_metric, in_submodule]


class Asks(nn.Module):
    def __init__(self, question):
        super().__init__()
        self.question = question

    def forward(self):
        self.answer = self.question()


class AskingStep(LightningModule):
    def training_step(self, batch, batch_idx):
        pass

    def forward(self, question):
        return question()


class AskingMetric(Metric):
    def __init__(self, question):
        super().__init__()
        self.question = question

    def update(self):
        self.answer = self.question()

    def compute(self):
        return torch.zeros(())


class AskingFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, answers):
        answers.append(in_autograd_function())
        return x.clone()


@pytest.mark.parametrize("question", QUESTIONS)
def test_nobody_asks_in_a_plain_function(question):
    assert not question()


def test_a_module_that_is_no_step_can_be_named():
    module = Asks(in_submodule)

    module()

    assert module.answer
    assert not AskingStep()(in_submodule)


def test_a_metric_asks_where_it_is_updated():
    metric = AskingMetric(in_metric)

    metric.update()

    assert metric.answer


def test_a_metric_of_classes_is_told_from_others(monkeypatch):
    answers = []
    x, y = torch.eye(3), torch.arange(3)
    monkeypatch.setattr(
        torch.Tensor, "argmax", lambda *_, **__: answers.append(in_class_metric()) or y
    )

    accuracy(x, y, task="multiclass", num_classes=3)

    assert answers == [True]


def test_a_custom_autograd_function_asks_and_a_hook_does_not():
    answers, asks = [], Asks(in_autograd_function)

    AskingFunction.apply(torch.zeros(1), answers)
    asks.register_forward_hook(lambda *_: None)
    asks()

    assert answers == [True]
    assert not asks.answer


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_checkpoint_ends_the_step_for_those_who_ask(use_reentrant):
    answers = []

    def ask(x):
        answers.append((in_checkpoint(), in_submodule()))
        return x

    class Outer(nn.Module):
        def forward(self, x):
            return checkpoint(ask, x, use_reentrant=use_reentrant)

    Outer()(torch.zeros(1, requires_grad=True))

    assert answers == [(True, False)]


def test_the_line_of_the_user_is_known():
    file, line = line_of_user()

    assert file == __file__
    assert line == test_the_line_of_the_user_is_known.__code__.co_firstlineno + 1
