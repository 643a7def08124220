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

from lightning_mixup.blend import combine, interpolate, transpose_combine, transpose_interpolate
from lightning_mixup.mixes import Mix
from lightning_mixup.partners import Shift
from lightning_mixup.weights import Weight

__all__ = ["Switch", "blend_by_switch"]

_EACH = -1  # how far a partner is, where that differs between samples


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


def blend_by_switch(x: Tensor, handle: Tensor, number: int = 0, rounds: int = 1) -> Tensor:
    r"""Returns a copy of a tensor of shape (B, \*), mixed as the switch of a handle says.

    ``rounds`` is with how many partners a sample is mixed at most.
    """
    blended: Tensor = _Blend.apply(x, handle, number, rounds)  # type: ignore[no-untyped-call]
    return blended


class _Blend(torch.autograd.Function):
    """Mixes in place, in a copy that a compiler can do without."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, handle: Tensor, number: int, rounds: int) -> Tensor:
        out = x.clone()
        ctx.save_for_backward(*_mix(out, handle, number, rounds))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        shares, shifts = ctx.saved_tensors
        return _Back.apply(grad, shares, shifts), None, None, None  # type: ignore[no-untyped-call]


class _Back(torch.autograd.Function):
    """Passes a gradient back; a function of its own, so that it has a gradient, too."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, shares: Tensor, shifts: Tensor) -> Tensor:
        ctx.save_for_backward(shares, shifts)
        out = grad.clone()
        _follow(out, shares, shifts, transposed=True)
        return out

    @staticmethod
    def backward(ctx: Any, x: Tensor) -> tuple[Tensor, None, None]:
        shares, shifts = ctx.saved_tensors
        out = x.clone()
        _follow(out, shares, shifts, transposed=False)
        return out, None, None


@torch.library.custom_op("lightning_mixup::mix", mutates_args=("x",))
def _mix(x: Tensor, handle: Tensor, number: int, rounds: int) -> tuple[Tensor, Tensor]:
    """Mixes in place; returns what the backward needs, empty places where nothing is mixed.

    On the host the shares of the sample itself and of each partner, (1 + rounds, B), with how far
    they are for the whole batch in a further column; on the device how far they are for each
    sample, (rounds, B), where that differs.
    """
    mix = Switch.at(handle).choose(x, number)
    shares = torch.zeros(1 + rounds, len(x) + 1, dtype=torch.float64)
    shifts = torch.zeros(rounds, len(x), dtype=torch.int64, device=x.device)
    if mix is not None:
        own, parts = mix.linear
        for row, share in zip(shares, [own, *(share for share, _ in parts)], strict=False):
            row[:-1] = torch.as_tensor(share, dtype=torch.float64)
        for k, (_, shift) in enumerate(parts):
            if isinstance(shift, int):
                shares[1 + k, -1] = shift
            else:
                shares[1 + k, -1] = _EACH
                shifts[k] = shift
        x.copy_(mix.blend(x))
    return shares, shifts


@_mix.register_fake
def _(x: Tensor, handle: Tensor, number: int, rounds: int) -> tuple[Tensor, Tensor]:
    shares = torch.empty(1 + rounds, x.shape[0] + 1, dtype=torch.float64)
    return shares, x.new_empty((rounds, x.shape[0]), dtype=torch.int64)


@torch.library.custom_op("lightning_mixup::follow", mutates_args=("x",))
def _follow(x: Tensor, shares: Tensor, shifts: Tensor, transposed: bool) -> None:  # noqa: FBT001
    """Mixes in place by what `_mix` returned, or passes a gradient back by it."""
    own, *others = (_as_drawn(row[:-1]) for row in shares)
    far = [int(shift) for shift in shares[1:, -1]]
    parts: list[tuple[Weight, Shift]] = [
        (share, each if shift == _EACH else shift)
        for share, shift, each in zip(others, far, shifts, strict=True)
        if shift
    ]
    if not parts:
        return
    is_cyclic = len(parts) == 1 and far[0] != _EACH
    if is_cyclic and bool((shares[:2, :-1].sum(dim=0) - 1).abs().max() < 1e-12):
        mix = transpose_interpolate if transposed else interpolate
        x.copy_(mix(x, own, far[0]))
    else:
        mix_all = transpose_combine if transposed else combine
        x.copy_(mix_all(x, own, parts))


def _as_drawn(row: Tensor) -> Weight:
    """Returns a number, if all are the same, or an array."""
    weights = row.numpy()
    return float(weights[0]) if bool((weights == weights[0]).all()) else weights
