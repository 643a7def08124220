"""Mends for torch, where it would hand on dominant labels for mixed ones without a word."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch._dynamo.variables import TupleVariable, torch_function
from torch._functorch import eager_transforms, vmap

from lightning_mixup.calls import NoRuleError
from lightning_mixup.targets import MixedTarget, is_live

__all__ = ["keep_variables", "look_into_tuples", "refuse_transforms"]


def look_into_tuples() -> None:
    """Lets Dynamo find tensor subclasses in tuples, as torch itself does.

    It looks for them in lists and dicts alone, so that ``logits[rows, y]`` and
    ``torch.stack((y, z))`` would be traced with the tensors' own data: silently wrong, see
    https://github.com/pytorch/pytorch/issues/176686.
    """
    flatten = getattr(torch_function, "_flatten_vts", None)
    if flatten is None:  # of another release of torch
        return

    def flatten_tuples_too(values: Iterable[Any]) -> list[Any]:
        leaves: list[Any] = []
        for value in flatten(values):
            if value.is_realized() and isinstance(value, TupleVariable):
                leaves += flatten_tuples_too(value.items)
            else:
                leaves.append(value)
        return leaves

    torch_function._flatten_vts = flatten_tuples_too  # type: ignore[assignment]


def keep_variables() -> None:
    """Lets ``torch.autograd.Variable(y)`` be ``y``, as it is said to be since torch 0.4.

    It makes a plain tensor of a subclass without asking it. Losses of that time still use it.

    Example:
        >>> target = MixedTarget([torch.tensor([0]), torch.tensor([1])], torch.tensor([0.4, 0.6]))
        >>> torch.autograd.Variable(target) is target
        True
    """
    metaclass = type(torch.autograd.Variable)
    make = metaclass.__call__

    def keep(cls: type, *args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], MixedTarget):
            return args[0]
        return make(cls, *args, **kwargs)

    metaclass.__call__ = keep  # type: ignore[assignment, method-assign]


def refuse_transforms() -> None:
    """Lets ``torch.vmap`` and ``torch.func.grad`` refuse mixed labels.

    They make plain tensors of them without asking.

    Example:
        >>> target = MixedTarget([torch.tensor([0]), torch.tensor([1])], torch.tensor([0.4, 0.6]))
        >>> torch.vmap(torch.neg)(target)
        Traceback (most recent call last):
        ...
        lightning_mixup.calls.NoRuleError: Mixed labels can't be given to torch.vmap ...
    """
    for module, name in ((vmap, "_add_batch_dim"), (eager_transforms, "_wrap_for_grad")):
        wrap = getattr(module, name, None)
        if wrap is not None:
            setattr(module, name, functools.partial(_refuse_or_wrap, wrap))


def _refuse_or_wrap(wrap: Callable[..., Any], tensor: Any, *args: Any) -> Any:
    if is_live(tensor):
        raise NoRuleError(
            "Mixed labels can't be given to torch.vmap or torch.func.grad, which would take the "
            "dominant ones. Name the submodule that computes the loss, "
            "MixupCallback(loss='criterion'), and it is evaluated once per candidate label."
        )
    return wrap(tensor, *args)
