"""Mixing inside a compiled network, as one operation that ``torch.compile`` does not look into.

Which layer is mixed changes from step to step. Were that traced, each place would make a graph
of its own, and after eight of them Dynamo gives up without a word. So every named layer holds
the operation in the graph, and what it does in a step is found out when it runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from lightning_mixup.blend import interpolate, transpose_interpolate
from lightning_mixup.recipes import Mix

__all__ = ["Switch", "blend_by_switch"]


class Switch:
    """Decides, when the operation runs, how it mixes.

    Args:
        choose: Given a tensor, and which one of a call it is, returns its mix, or None to leave
            it as it is.

    Example:
        >>> switch = Switch(lambda x, number: Mix(0.75, shift=1, batch_size=2))
        >>> blend_by_switch(torch.tensor([[0.0], [4.0]]), switch.handle)
        tensor([[1.],
                [3.]])
    """

    _numbers = itertools.count()
    _all: ClassVar[WeakValueDictionary[int, Switch]] = WeakValueDictionary()

    def __init__(self, choose: Callable[[Tensor, int], Mix | None]) -> None:
        self.choose = choose
        number = next(self._numbers)
        # A tensor: numbers and objects would be compiled in, so that each layer and each fit had
        # a graph of its own.
        self.handle = torch.tensor(number, device="cpu")
        self._all[number] = self

    @classmethod
    def at(cls, handle: Tensor) -> Switch:
        """Returns the switch of a handle."""
        return cls._all[int(handle)]


def blend_by_switch(x: Tensor, handle: Tensor, number: int = 0) -> Tensor:
    r"""Returns a copy of a tensor of shape (B, \*), mixed as the switch of a handle says."""
    blended: Tensor = _Blend.apply(x, handle, number)  # type: ignore[no-untyped-call]
    return blended


class _Blend(torch.autograd.Function):
    """Mixes in place, in a copy that a compiler can do without."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, handle: Tensor, number: int) -> Tensor:
        out = x.clone()
        ctx.save_for_backward(_mix(out, handle, number))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (plan,) = ctx.saved_tensors
        return _Back.apply(grad, plan), None, None  # type: ignore[no-untyped-call]


class _Back(torch.autograd.Function):
    """Passes a gradient back; a function of its own, so that it has a gradient, too."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, plan: Tensor) -> Tensor:
        ctx.save_for_backward(plan)
        out = grad.clone()
        _follow(out, plan, transposed=True)
        return out

    @staticmethod
    def backward(ctx: Any, x: Tensor) -> tuple[Tensor, None]:
        (plan,) = ctx.saved_tensors
        out = x.clone()
        _follow(out, plan, transposed=False)
        return out, None


@torch.library.custom_op("lightning_mixup::mix", mutates_args=("x",))
def _mix(x: Tensor, handle: Tensor, number: int) -> Tensor:
    """Mixes in place; returns the shift and the weights, of shape (1 + B,), for the backward."""
    mix = Switch.at(handle).choose(x, number)
    plan = torch.zeros(1 + len(x), dtype=torch.float64)
    if mix is not None:
        plan[0], plan[1:] = mix.shift, torch.as_tensor(mix.drawn, dtype=torch.float64)
        x.copy_(mix.blend(x))
    return plan


@_mix.register_fake
def _(x: Tensor, handle: Tensor, number: int) -> Tensor:
    return torch.empty(1 + x.shape[0], dtype=torch.float64)


@torch.library.custom_op("lightning_mixup::follow", mutates_args=("x",))
def _follow(x: Tensor, plan: Tensor, transposed: bool) -> None:  # noqa: FBT001
    """Mixes in place by a plan, or passes a gradient back by it."""
    shift, weights = int(plan[0]), plan[1:].numpy()
    if shift:
        is_one = bool((weights == weights[0]).all())
        mix = transpose_interpolate if transposed else interpolate
        x.copy_(mix(x, float(weights[0]) if is_one else weights, shift))
