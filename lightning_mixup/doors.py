"""Where labels leave the training step, and the dominant ones are handed over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torchmetrics import Metric

from lightning_mixup.calls import Call
from lightning_mixup.targets import Kind, meet_gradient, merge

__all__ = ["gather_plainly", "update_plainly"]


def update_plainly(
    metric: Metric, update: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Updates a metric with plain labels, so that no mixed ones get into its state.

    Example:
        >>> from lightning_mixup.targets import MixedTarget
        >>> from torchmetrics.classification import MulticlassAccuracy
        >>> accuracy = MulticlassAccuracy(num_classes=2)
        >>> candidates = [torch.tensor([0, 1]), torch.tensor([1, 0])]
        >>> target = MixedTarget(candidates, torch.tensor([0.75, 0.25]))
        >>> update_plainly(accuracy, accuracy.update, (torch.tensor([0, 1]), target), {})
        >>> accuracy.compute()
        tensor(1.)
    """
    if metric._enable_grad:  # It is called, not updated: it may be the loss of float targets.
        meet_gradient((args, kwargs))
    return update(*merge(args), **merge(kwargs))


def gather_plainly(
    gather: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Gathers losses and counts from all ranks, but no labels, whose weights differ by rank.

    Raises:
        NoRuleError: If labels are gathered in a training step of several ranks.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        call = Call(gather, args, kwargs)
        if any(tensor.kind is Kind.LABEL for tensor in call.live):
            call.refuse("gathers labels, which every rank mixes by weights of its own")
    return gather(*merge(args), **merge(kwargs))
