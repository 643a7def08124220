"""Tests for lightning_mixup.mends."""

import pytest
import torch
from torch.autograd import Variable
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_mixup import MixedTarget
from lightning_mixup.calls import NoRuleError

LABELS = [torch.tensor([0, 1, 2]), torch.tensor([1, 1, 0])]


@pytest.fixture
def target():
    return MixedTarget(LABELS, torch.tensor([0.75, 0.25]))


def test_a_variable_of_mixed_labels_is_themselves(target):
    assert Variable(target) is target
    assert Variable(target, requires_grad=False) is target


def test_a_variable_of_a_plain_tensor_is_as_ever():
    x = torch.ones(2)

    made = Variable(x, requires_grad=True)

    assert type(made) is torch.Tensor
    assert made.requires_grad
    assert isinstance(x, Variable)
    assert not x.requires_grad


def test_dynamo_finds_mixed_labels_in_tuples(target):
    def picked(x, y):
        return torch.stack((y, y)).sum() * x[torch.arange(3), y].sum()

    x = torch.randn(3, 3)

    compiled = torch.compile(picked, backend="eager", fullgraph=True)(x, target)

    assert_close(compiled.item(), picked(x, target).item())


@pytest.mark.parametrize(
    "transform",
    [
        lambda x, y: torch.vmap(F.cross_entropy)(x, y),
        lambda x, y: torch.func.grad(F.cross_entropy, argnums=0)(x, y),
        lambda x, y: torch.func.vjp(F.cross_entropy, x, y),
    ],
    ids=["vmap", "grad", "vjp"],
)
def test_transforms_of_functions_refuse_mixed_labels(transform, target):
    with pytest.raises(NoRuleError, match=r"can't be given to torch\.vmap"):
        transform(torch.randn(3, 3), target)


def test_transforms_may_close_over_mixed_labels(target):
    x = torch.randn(3, 3)

    gradient = torch.func.grad(lambda x: F.cross_entropy(x, target).as_subclass(torch.Tensor))(x)

    assert gradient.shape == (3, 3)


def test_transforms_of_plain_tensors_are_as_ever():
    x = torch.randn(3, 3)

    assert_close(torch.vmap(torch.neg)(x), -x)
    assert_close(torch.func.grad(lambda x: x.pow(2).sum())(x), 2 * x)
