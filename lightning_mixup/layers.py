"""Mixing what hidden layers put out.

While a fit lasts, the ``forward`` of a named layer is stood in for. In the steps that draw the
layer its output is mixed; in all others, and in evaluation, it is handed on as it is.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from lightning_mixup.compiled import Switch, blend_by_switch
from lightning_mixup.containers import leaves_of, replace_entries
from lightning_mixup.errors import MixupRuntimeError, MixupValueError
from lightning_mixup.interception import Interception
from lightning_mixup.mixes import Mix
from lightning_mixup.names import inside
from lightning_mixup.roles import can_be_mixed
from lightning_mixup.targets import Usage, is_live
from lightning_mixup.trees import map_tensors

__all__ = [
    "Layer",
    "UnfitOutputError",
    "map_features",
    "refusal_of",
]

# Newer than the oldest torch that we run on.
_is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", lambda: False)
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, Enum)
_WITH_STATE = (nn.RNN.forward, nn.LSTM.forward, nn.GRU.forward)  # as second output


class Layer:
    """One named layer, whose output is mixed in the steps that draw it.

    Args:
        name: Its name, for messages.
        module: The layer. `release` leaves it as it was found.
        rounds: With how many partners a sample is mixed at most.

    Example:
        >>> module = nn.Identity()
        >>> layer = Layer("net.layer1", module)
        >>> layer.start_step(Mix(0.75, shift=1, batch_size=2), Usage())
        >>> module(torch.tensor([[0.0], [4.0]]))
        tensor([[1.],
                [3.]])
        >>> layer.calls
        1
    """

    def __init__(self, name: str, module: nn.Module, rounds: int = 1) -> None:
        self.name, self._rounds = name, rounds
        self._calls: Counter[int] = Counter()
        self._mix: Mix | None = None
        self._usage = Usage()
        self._is_in_step = False
        self._module = inside(module)
        self._switch = Switch(self._choose)
        self._interception = Interception(module, "forward", self._run)

    def start_step(self, mix: Mix, usage: Usage) -> None:
        """Mixes from here on, as the labels are mixed whose usage is given."""
        self._mix, self._usage, self._is_in_step = mix, usage, True
        self._calls.clear()

    def end_step(self) -> None:
        """Mixes only where a backward pass runs the layer again, as checkpointing does."""
        self._is_in_step = False

    def forget(self) -> None:
        """Mixes no more, until the next step starts."""
        self._mix, self._is_in_step = None, False

    def release(self) -> None:
        """Leaves the module as it was found."""
        self._interception.release()
        self.forget()

    @property
    def calls(self) -> int:
        """How often it ran in this step, but for what activation checkpointing repeats."""
        return max(self._calls.values(), default=0)

    def _run(self, method: Any, args: Any, kwargs: Any) -> Any:
        output = method(*args, **kwargs)
        if _is_exporting():
            return output
        if torch.compiler.is_compiling():
            return self._blended_when_run(output)
        mix = self._mix_of_call(0)
        return (
            output if mix is None else self._map(output, lambda x: self._checked(x, mix).blend(x))
        )

    def _blended_when_run(self, output: Any) -> Any:
        numbers = itertools.count()

        def blend(x: Tensor) -> Tensor:
            return blend_by_switch(x, self._switch.handle, next(numbers), self._rounds)

        return self._map(output, blend)

    def _choose(self, x: Tensor, number: int) -> Mix | None:
        mix = self._mix_of_call(number)
        return None if mix is None else self._checked(x, mix)

    def _mix_of_call(self, number: int) -> Mix | None:
        """Counts by tensor, as a compiler leaves out those that nobody uses.

        Raises:
            MixupRuntimeError: If the step's labels are in another order by now.
        """
        if torch._C._current_graph_task_id() != -1:  # in a backward pass, by checkpointing
            return self._mix
        if self._mix is None or not self._is_in_step:
            return None
        self._calls[number] += 1
        if self._usage.reordered:
            raise MixupRuntimeError(
                f"MixupCallback can't mix at the layer {self.name!r}: the labels of this step "
                "were put into another order before it ran, so that its partners are others. Sort "
                "the samples in the collate function, or mix at the input."
            )
        return self._mix

    def _map(self, output: Any, blend: Callable[[Tensor], Tensor]) -> Any:
        try:
            return map_features(self._module, output, blend)
        except UnfitOutputError as error:
            raise MixupValueError(self._refusal(str(error))) from error

    def _checked(self, x: Tensor, mix: Mix) -> Mix:
        refusal = refusal_of(x, mix.batch_size)
        if refusal is not None:
            raise MixupValueError(self._refusal(refusal))
        return mix

    def _refusal(self, reason: str) -> str:
        return (
            f"MixupCallback can't mix at the layer {self.name!r}: it puts out {reason}. Name "
            "another layer, for example one around it, inside it or after it: `MixupCallback."
            "suggest_layers(network, its_input)` lists those that can be mixed."
        )


class UnfitOutputError(MixupValueError):
    """What a layer puts out can't be mixed."""


def map_features(module: nn.Module, output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    r"""Returns a copy of a module's output in which each tensor, of shape (B, \*), is changed.

    Raises:
        UnfitOutputError: If there is none, or something else in which there may be some.

    Example:
        >>> rnn = nn.GRU(2, 3, num_layers=2, batch_first=True)
        >>> _ = map_features(rnn, rnn(torch.rand(4, 5, 2)), lambda x: print(x.shape) or x)
        torch.Size([4, 5, 3])
        torch.Size([4, 2, 3])
    """
    tensors, unknown = _contents(output)
    if unknown:
        kinds = ", ".join(sorted({type(value).__name__ for value in unknown}))
        raise UnfitOutputError(f"{kinds}, in which tensors could hide")
    if not any(x.ndim for x in tensors):
        raise UnfitOutputError("no tensor of the samples")
    if any(is_live(x) for x in tensors):
        raise UnfitOutputError("what it computes with the labels, such as a loss")

    def change_samples(x: Tensor) -> Tensor:
        return change(x) if x.ndim else x  # a number belongs to no sample

    def change_state(x: Tensor) -> Tensor:
        return change_samples(x.transpose(0, 1)).transpose(0, 1)

    if type(module).forward in _WITH_STATE:
        features, state = output  # the state of shape (layers, B, features)
        return _replaced(features, change_samples), _replaced(state, change_state)
    return _replaced(output, change_samples)


def _contents(output: Any) -> tuple[list[Tensor], list[Any]]:
    """Returns the tensors in an output, and what is neither a tensor nor plain."""
    leaves = _flat(output)
    others = [x for x in leaves if not isinstance(x, (Tensor, *_PLAIN))]
    return [x for x in leaves if isinstance(x, Tensor)], others


def _flat(tree: Any) -> list[Any]:
    """Returns the leaves of containers that hold nothing else: of a plain object, who knows."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    elif is_dataclass(tree) and not torch.compiler.is_compiling():
        tree = [getattr(tree, field.name) for field in fields(tree)]
    return [leaf for x in tree for leaf in _flat(x)] if isinstance(tree, (list, tuple)) else [tree]


def _replaced(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if torch.compiler.is_compiling():
        return map_tensors(output, change)
    tensors = [(path, x) for path, x in leaves_of(output) if isinstance(x, Tensor)]
    return replace_entries(output, {path: change(x) for path, x in tensors})


def refusal_of(x: Tensor, batch_size: int) -> str | None:
    """Says what a tensor is if it can't be mixed, or returns None if it can be.

    Example:
        >>> refusal_of(torch.rand(4, 2), batch_size=4)
        >>> refusal_of(torch.rand(7, 4, 2), batch_size=4)
        'a tensor of shape (7, 4, 2), whose first dimension is not the 4 samples of the batch'
    """
    if x.is_nested:
        return "a nested tensor"
    tensor = f"a tensor of shape {tuple(x.shape)}"
    if not can_be_mixed(x):
        return f"{tensor} and {x.dtype}, which can't be interpolated"
    if x.layout != torch.strided:
        return f"{tensor} that is not dense, but {x.layout}"
    if len(x) != batch_size:
        return f"{tensor}, whose first dimension is not the {batch_size} samples of the batch"
    return None
