"""What a step's own loss call says of its logits and targets.

The call also tells what the tensor means, so that nothing is guessed from values: cross entropy
takes logits, NLL log-probabilities, BCE probabilities. All are brought to one form, logits of
shape (N, C, *) with integer targets of shape (N, *).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["LossProbe", "Observation"]


@dataclass(frozen=True)
class Observation:
    """Logits and targets of one classification loss."""

    logits: Tensor  # (N, C, *), or (C,) for one sample; up to a constant per sample
    target: Tensor  # (N, *) or (), integer
    ignore_index: int | None = None
    is_binary: bool = False  # two columns were made of one

    def probabilities(self) -> Tensor:
        """Returns what torchmetrics takes: (N, C, *), or (N,) for a binary loss."""
        classes = 1 if self.logits.ndim > 1 else 0
        probabilities = _at_least_float32(self.logits).softmax(classes)
        return probabilities[:, 1] if self.is_binary else probabilities


class LossProbe(TorchFunctionMode):
    """Watches for classification losses while it is active.

    Attributes:
        observations: What they were given, in order.
        declined: Why other losses can't be used, in words.

    Example:
        >>> with LossProbe() as probe:
        ...     loss = torch.nn.functional.nll_loss(torch.zeros(4, 3), torch.arange(4) % 3)
        >>> probe.observations[0].logits.shape
        torch.Size([4, 3])
    """

    def __init__(self) -> None:
        super().__init__()
        self.observations: list[Observation] = []
        self.declined: list[str] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Takes note of a loss, and lets every operation pass."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _READERS:
            found = _READERS[name](*args, **kwargs)
            if isinstance(found, Observation):
                self.observations.append(found)
            else:
                self.declined.append(f"the targets of {name} are {found}")
        elif name.endswith("_loss") or name == "kl_div":
            self.declined.append(f"{name} is not a loss of classes")
        return func(*args, **kwargs)


def _from_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,  # noqa: FBT001  torch's own signature
    ignore_index: int = -100,
    *rest: Any,
    **options: Any,
) -> Observation | str:
    if target.is_floating_point():
        return "soft"
    if input.shape[min(1, input.ndim - 1)] == 1:
        return "of a single class"
    return Observation(input.detach(), target, ignore_index)


def _from_binary_logits(
    input: Tensor, target: Tensor, *rest: Any, **options: Any
) -> Observation | str:
    return _binary(torch.zeros_like(input), input, target)


def _from_binary_probabilities(
    input: Tensor, target: Tensor, *rest: Any, **options: Any
) -> Observation | str:
    input = _at_least_float32(input)
    return _binary(torch.log1p(-input), input.log(), target)


def _binary(negative: Tensor, positive: Tensor, target: Tensor) -> Observation | str:
    if positive.ndim > 2 or (positive.ndim == 2 and positive.shape[1] != 1):
        return "multi-label"
    if not ((target == 0) | (target == 1)).all():
        return "soft"
    logits = torch.stack([negative.reshape(-1), positive.reshape(-1)], dim=1)
    return Observation(logits.detach(), target.reshape(-1).long(), is_binary=True)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.element_size() < 4 else x


_READERS: dict[str, Callable[..., Observation | str]] = {
    "cross_entropy": _from_cross_entropy,
    "nll_loss": _from_cross_entropy,  # of the same first arguments; log-probabilities are logits
    "binary_cross_entropy_with_logits": _from_binary_logits,
    "binary_cross_entropy": _from_binary_probabilities,
}
