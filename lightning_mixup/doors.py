"""Where labels leave the training step, and the dominant ones are handed over."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torchmetrics import Metric

from lightning_mixup.calls import Call
from lightning_mixup.interception import Interception
from lightning_mixup.targets import Kind, dominant, meet_gradient, merge
from lightning_mixup.trees import map_tensors

__all__ = ["gather_plainly", "guard_metrics"]

_CLASSIFICATION = "torchmetrics.classification"


def guard_metrics(module: nn.Module) -> list[Interception]:
    """Gives the metrics in a module plain labels, so that no mixed ones get into their states.

    Args:
        module: A metric, or a module with some.

    Returns:
        What stands in for their ``update``, to be released in the end.

    Example:
        >>> from lightning_mixup.targets import MixedTarget
        >>> from torchmetrics.classification import MulticlassAUROC
        >>> metric = MulticlassAUROC(num_classes=2, thresholds=None)
        >>> interceptions = guard_metrics(metric)
        >>> candidates = [torch.tensor([0, 1]), torch.tensor([1, 0])]
        >>> target = MixedTarget(candidates, torch.tensor([0.75, 0.25]))
        >>> metric.update(torch.eye(2), target)
        >>> metric.target
        [tensor([0, 1])]
    """
    return [
        Interception(metric, "update", functools.partial(_update_plainly, metric))
        for metric in module.modules()
        if isinstance(metric, Metric)
    ]


def _update_plainly(
    metric: Metric, update: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    if any(isinstance(part, Metric) for part in metric.children()):
        return update(*args, **kwargs)  # It wraps others, and passes on what it is given.
    if any(part.__module__.startswith(_CLASSIFICATION) for part in type(metric).__mro__):
        with torch._C.DisableTorchFunctionSubclass():
            args, kwargs = map_tensors(args, dominant), map_tensors(kwargs, dominant)
        return update(*args, **kwargs)
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
            call.refuse(
                "gathers labels, which every rank mixes by weights of its own; if that is for a "
                "metric, gather lightning_mixup.merge(labels)"
            )
    return gather(*merge(args), **merge(kwargs))
