"""Losses that torch computes in one call: cross entropy, and all that take ``reduction=``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_mixup.calls import Call
from lightning_mixup.operations import signature_of
from lightning_mixup.targets import Kind, MixedTarget, make_mixed, plain, weighted_sum

__all__ = ["evaluate_per_candidate", "is_class_loss", "run_class_loss", "run_reduced_loss"]


def is_class_loss(call: Call) -> bool:
    """Returns whether a call is cross entropy or NLL of mixed class indices, and nothing else."""
    if call.name not in ("cross_entropy", "nll_loss"):
        return False
    target = call.args[1] if len(call.args) > 1 else call.kwargs.get("target")
    return len(call.live) == 1 and call.live[0] is target and not target.is_floating_point()


def run_class_loss(call: Call) -> Any:
    """Computes cross entropy or NLL: one ``log_softmax``, and a gather for each candidate."""
    return _class_loss(call, *call.args, **call.kwargs)


def _class_loss(  # noqa: PLR0913  torch's own signature, as its arguments may be positional
    call: Call,
    input: Tensor,
    target: MixedTarget,
    weight: Tensor | None = None,
    size_average: bool | None = None,  # noqa: FBT001
    ignore_index: int = -100,
    reduce: bool | None = None,  # noqa: FBT001
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    """With weights per sample, a mean divides by the same mixture of the class weights."""
    if size_average is not None or reduce is not None:
        reduction = "none" if reduce is False else "sum" if size_average is False else "mean"
    loss = call.func
    options: dict[str, Any] = {"weight": weight, "ignore_index": ignore_index}
    if label_smoothing:
        options["label_smoothing"] = label_smoothing
    elif call.name == "cross_entropy":
        input, loss = F.log_softmax(input, dim=min(1, input.ndim - 1)), F.nll_loss
    merges_late = not call.per_sample and reduction != "none"
    options["reduction"] = reduction if merges_late else "none"
    losses = [loss(input, candidate, **options) for candidate in target.candidates]
    if merges_late:
        return weighted_sum(losses, target.weights)
    if reduction == "none":
        return make_mixed(losses, target.weights, call.kind, call.usage)
    total = weighted_sum(losses, target.weights).sum()
    if reduction == "sum":
        return total
    counts = [_class_weights(c, weight, ignore_index).to(total) for c in target.candidates]
    return total / weighted_sum(counts, target.weights).sum()


def _class_weights(labels: Tensor, weight: Tensor | None, ignore_index: int) -> Tensor:
    counted = labels != ignore_index
    if weight is None:
        return counted
    return weight[labels.masked_fill(~counted, 0)] * counted


def run_reduced_loss(call: Call) -> Any:
    """With weights per sample: a loss per sample first, then weighted, then reduced."""
    signature = signature_of(call.func)
    assert signature is not None  # noqa: S101  the caller has seen its parameters
    bound = signature.bind(*call.args, **call.kwargs)
    bound.apply_defaults()
    reduction = bound.arguments["reduction"]
    if (
        bound.arguments.get("size_average") is not None
        or bound.arguments.get("reduce") is not None
    ):
        call.refuse("is given size_average= or reduce=")
    bound.arguments["reduction"] = "none"
    single = Call(call.func, bound.args, bound.kwargs)
    losses = single.per_candidate()
    weights = single.aligned_left(losses[0])
    if reduction == "none":
        return make_mixed(losses, weights, call.kind, call.usage)
    total = weighted_sum(losses, weights)
    if reduction == "batchmean":
        return total.sum() / len(total)
    return total.mean() if reduction == "mean" else total.sum()


def evaluate_per_candidate(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    r"""Calls a loss that torch cannot look into once per candidate, and weights the results.

    This is the way for scripted, fused and custom-autograd losses.

    Args:
        function: Returns one number, or one per sample, of shape (B, \*).
        args: Its arguments, mixed targets among them.
        kwargs: Its keyword arguments.

    Returns:
        The weighted sum of the numbers; where there is one per sample, mixed losses.

    Raises:
        RuntimeError: If every sample has its own weight, but the function reduced the batch.

    Example:
        >>> candidates = [torch.tensor([0]), torch.tensor([1])]
        >>> target = MixedTarget(candidates, torch.tensor([0.75, 0.25]))
        >>> evaluate_per_candidate(lambda y: y.double().mean(), (target,), {})
        tensor(0.2500, dtype=torch.float64)
    """
    with torch._C.DisableTorchFunctionSubclass():
        call = Call(function, args, kwargs)
        if not call.live:
            return function(*args, **kwargs)
        call.usage.met_gradient = True
        if all(tensor.kind is Kind.NUMBER for tensor in call.live):
            return call.of(plain)
        results = call.per_candidate()
        if results[0].ndim > 0:
            return make_mixed(results, call.aligned_left(results[0]), Kind.LOSS, call.usage)
        if call.per_sample:
            raise RuntimeError(
                "The loss named in MixupCallback(loss=...) returned one number for the batch, but "
                "every sample has a weight of its own. Let it return one loss per sample "
                "(reduction='none') and average them in training_step, or mix with "
                "Mixup(alpha, per_sample=False)."
            )
        return weighted_sum(results, call.weights)
