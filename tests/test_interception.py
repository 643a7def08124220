"""Tests for lightning_mixup.interception: standing in for a method without leaving a trace."""

import copy
import functools
import inspect
import pickle
from types import MethodType

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import nn

from lightning_mixup.interception import Interception


class Doubler(nn.Module):
    def forward(self, x, y=0):
        return 2 * x + y

    def step(self, x, y=0):
        return self(x, y)


def negated(method, args, kwargs):
    return -method(*args, **kwargs)


def test_what_stands_in_is_called_with_the_method_and_its_arguments():
    module = Doubler()

    Interception(module, "forward", negated)

    assert module(3, y=1) == -7


def test_after_release_the_module_is_as_it_was():
    module = Doubler()
    before = dict(vars(module))

    Interception(module, "forward", negated).release()

    assert vars(module) == before
    assert module(3) == 6


def test_releasing_twice_is_harmless():
    module = Doubler()
    interception = Interception(module, "forward", negated)

    interception.release()
    interception.release()

    assert module(3) == 6


def test_an_earlier_wrapper_of_somebody_else_comes_back():
    module = Doubler()
    module.forward = theirs = lambda x: 10 * x

    interception = Interception(module, "forward", negated)

    assert module(1) == -10
    interception.release()
    assert module.forward is theirs


def test_a_later_wrapper_of_somebody_else_keeps_working():
    module = Doubler()
    interception = Interception(module, "forward", negated)
    ours = module.forward
    module.forward = lambda x: ours(x) + 1

    interception.release()

    assert module(3) == 7


def test_the_signature_can_be_read_one_level_deep():
    """As Lightning does, to find whether a step takes `batch_idx`."""
    module = Doubler()
    Interception(module, "step", negated)
    Interception(module, "step", negated)

    assert inspect.getfullargspec(module.step.__wrapped__).args == ["self", "x", "y"]


class Steps(LightningModule):
    """Steps as users write them."""

    def one(self, batch): ...

    def usual(self, batch, batch_idx): ...

    def other_names(self, data, i): ...

    def defaults(self, batch, number=0, *, flag: bool = False): ...

    def anything(self, *args, **kwargs): ...

    def fetching(self, dataloader_iter): ...

    @staticmethod
    def static(batch, batch_idx): ...

    @functools.partialmethod
    def partial(self, batch, batch_idx): ...

    own = functools.partial(lambda batch, batch_idx: None)


@pytest.mark.parametrize("name", [n for n in vars(Steps) if not n.startswith("_")])
def test_a_step_is_asked_for_its_arguments_with_the_same_answers(name):
    """As Lightning asks in each step, where it finds the signature at hand."""
    module = Steps()
    before = getattr(module, name)
    questions = [("batch_idx", {"min_args": 2}), ("dataloader_iter", {"explicit": True})]

    Interception(module, name, negated)

    step = getattr(module, name)
    wrapped = functools.wraps(step)(lambda *args: step(*args))
    for asked in (step, wrapped):
        assert inspect.signature(asked) == inspect.signature(before)
        for parameter, options in questions:
            answer = is_param_in_hook_signature(asked, parameter, **options)
            assert answer == is_param_in_hook_signature(before, parameter, **options)
    assert inspect.signature(copy.copy(step.__wrapped__)) == inspect.signature(before)


def test_the_signature_is_worked_out_once(monkeypatch):
    module = Steps()
    Interception(module, "usual", negated)

    first = is_param_in_hook_signature(module.usual, "batch_idx", min_args=2)
    monkeypatch.delattr(inspect, "_signature_from_function")

    assert first is is_param_in_hook_signature(module.usual, "batch_idx", min_args=2) is True


def test_a_method_that_has_no_signature_can_be_stood_in_for():
    module = nn.Module()
    module.forward = MethodType(torch.mul, torch.ones(2))
    Interception(module, "forward", negated)

    assert torch.equal(module(3), torch.full((2,), -3.0))


def test_it_can_be_wrapped_and_taken_apart_as_a_method():
    """As Lightning does, to find whether a step is overridden."""
    module = Doubler()
    Interception(module, "step", negated)

    wrapper = functools.wraps(module.step)(lambda *args: module.step(*args))

    assert wrapper.__wrapped__.__code__ is Doubler.step.__code__
    assert module.step.__func__ is Doubler.step


def test_copies_and_pickles_hold_the_plain_method():
    module = Doubler()
    Interception(module, "forward", negated)
    Interception(module, "step", negated)

    twins = copy.deepcopy(module), pickle.loads(pickle.dumps(module))

    for twin in twins:
        assert twin(3) == twin.step(3) == 6
        assert twin.step.__self__ is twin
        assert twin.forward.__self__.method.__self__ is twin
    assert module(3) == -6


def test_it_knows_whether_it_stands():
    module = Doubler()
    interceptions = [Interception(module, name, negated) for name in ("forward", "step")]

    assert all(interception.stands for interception in interceptions)
    module.forward, module.step = module.forward, module.step.method
    assert [interception.stands for interception in interceptions] == [True, False]


@pytest.mark.parametrize("name", ["forward", "step"])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)], ids=str)
def test_several_leave_nothing_behind_in_whatever_order_they_go(name, order):
    module = Doubler()
    interceptions = [Interception(module, name, negated) for _ in range(3)]

    for released, index in enumerate(order, start=1):
        interceptions[index].release()
        assert getattr(module, name)(3) == 6 * (-1) ** (3 - released)

    assert name not in vars(module)


def test_one_that_somebody_put_back_after_its_release_is_dropped_by_the_next():
    module = Doubler()
    first = Interception(module, "step", negated)
    first.release()
    module.step = first

    second = Interception(module, "step", negated)

    assert second.method == Doubler.step.__get__(module)
    second.release()
    assert "step" not in vars(module)


def test_a_module_can_be_saved_while_intercepted(tmp_path):
    module = Doubler()
    Interception(module, "forward", negated)

    torch.save(module, tmp_path / "module.pt")

    assert torch.load(tmp_path / "module.pt", weights_only=False)(3) == 6
