"""Losses that torch computes in one call: cross entropy, and all that take ``reduction=``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from lightning_mixup.callers import in_metric
from lightning_mixup.calls import Call
from lightning_mixup.errors import MixupRuntimeError
from lightning_mixup.operations import FINITENESS, name_of, names, parameters_of
from lightning_mixup.targets import Kind, MixedTarget, is_live, make_mixed, plain, weighted_sum
from lightning_mixup.trees import map_tensors, map_together, tensors_in

__all__ = [
    "class_loss_at_once",
    "evaluate_per_candidate",
    "is_class_loss",
    "run_class_loss",
    "run_reduced_loss",
]

# Their mean is the mean of what ``reduction="none"`` gives, whatever the labels.
_PLAIN_MEANS = names("""
    binary_cross_entropy binary_cross_entropy_with_logits cosine_embedding_loss cross_entropy
    gaussian_nll_loss hinge_embedding_loss huber_loss kl_div l1_loss margin_ranking_loss mse_loss
    multi_margin_loss multilabel_margin_loss multilabel_soft_margin_loss poisson_nll_loss
    smooth_l1_loss soft_margin_loss triplet_margin_loss triplet_margin_with_distance_loss
""")
# Of each entry, with broadcasting; the others give one loss for each sample.
_ELEMENTWISE = names("""
    binary_cross_entropy binary_cross_entropy_with_logits gaussian_nll_loss hinge_embedding_loss
    huber_loss kl_div l1_loss mse_loss poisson_nll_loss smooth_l1_loss soft_margin_loss
""")
_MEANS_BY_WEIGHT = names("l1_loss mse_loss")  # if they are given any
_DEFAULTS = dict(parameters_of(F.cross_entropy)[2:])  # behind logits and labels
_GATHERED_FROM = 2**17  # logits on, as `_gathered` takes less time of so many


def is_class_loss(call: Call) -> bool:
    """Returns whether a call is cross entropy or NLL of class indices."""
    if call.func is not F.cross_entropy and call.func is not F.nll_loss:
        return False
    target = call.args[1] if len(call.args) > 1 else call.kwargs["target"]
    return not (target.is_floating_point() or is_live(call.kwargs.get("weight")))


def class_loss_at_once(args: Any, kwargs: dict[str, Any]) -> MixedTarget | None:
    """Computes the loss of most steps: cross entropy by torch's defaults, with one weight.

    `run_class_loss` comes to the same, after all that is asked of any operation. On a small
    network these questions take longer than the loss.

    Args:
        args: The arguments of ``F.cross_entropy``, as it hands them on itself.
        kwargs: Its keyword arguments, likewise.

    Returns:
        The mixed loss; None where there is more to it.
    """
    if torch.compiler.is_dynamo_compiling() or kwargs != _DEFAULTS or len(args) != 2:
        return None
    logits, target = args
    is_plain = isinstance(logits, Tensor) and not isinstance(logits, MixedTarget)
    if not is_plain or not is_live(target) or target.source is None:
        return None
    usage, labels = target.usage, (target.source, *target.others)
    is_class = target.kind is Kind.LABEL and not target.is_floating_point()
    if not is_class or usage.shares is None or target.weights.ndim > 1:
        return None
    has_gradient = logits.requires_grad and torch.is_grad_enabled()
    if not has_gradient or logits.numel() >= _GATHERED_FROM or in_metric():
        return None
    usage.touched = usage.met_gradient = True
    log_probs = logits.log_softmax(min(1, logits.ndim - 1))
    losses = [F.nll_loss(log_probs, y) for y in labels]
    total = weighted_sum(losses, usage.shares)
    return make_mixed([total, *losses], target.weights, Kind.LOSS, usage)


def run_class_loss(call: Call) -> Any:
    """Computes cross entropy or NLL: one ``log_softmax``, and a gather for each candidate."""
    return _class_loss(call, *call.args, **call.kwargs)


def _class_loss(  # noqa: PLR0913  torch's own signature, as its arguments may be positional
    call: Call,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,  # noqa: FBT001
    ignore_index: int = -100,
    reduce: bool | None = None,  # noqa: FBT001
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    """With weights per sample, a mean divides by the same mixture of the class weights."""
    reduction = _modern_reduction(size_average, reduce, reduction)
    loss = call.func
    options: dict[str, Any] = {"weight": weight, "ignore_index": ignore_index}
    if label_smoothing:
        options["label_smoothing"] = label_smoothing
    elif loss is F.cross_entropy and not is_live(input):
        input, loss = F.log_softmax(input, dim=min(1, input.ndim - 1)), F.nll_loss
    merges_late = not call.per_sample and reduction != "none"
    options["reduction"] = reduction if merges_late else "none"
    targets = call.candidates_of(target)
    if loss is F.nll_loss and weight is None and _may_be_gathered(input, targets, ignore_index):
        losses = _gathered(input, targets, options["reduction"])
    else:
        inputs = call.candidates_of(input)
        losses = [loss(x, y, **options) for x, y in zip(inputs, targets, strict=True)]
    weights = call.weights if merges_late else call.aligned_left(losses[0])
    if merges_late or reduction == "none":
        return call.mixed(losses, weights)
    total = weighted_sum(losses, weights).sum()
    if reduction == "sum":
        return total
    counts = [_class_weights(y, weight, ignore_index).to(total) for y in targets]
    return total / weighted_sum(counts, weights).sum()


def _may_be_gathered(log_probs: Tensor, targets: Sequence[Tensor], ignore_index: int) -> bool:
    """Returns whether `_gathered` does what ``nll_loss`` would, and takes less time.

    The backward of ``nll_loss`` fills a tensor of the size of the logits for each candidate, that
    of a gather one for all: a fifth of the loss's time. Of few logits the gather takes longer, on
    a GPU its backward isn't deterministic, and labels that are ignored or no classes are left to
    torch.
    """
    if log_probs.numel() < _GATHERED_FROM or torch.compiler.is_dynamo_compiling():
        return False
    if log_probs.device.type != "cpu" or log_probs.dtype not in (torch.float32, torch.float64):
        return False
    form = (torch.int64, log_probs.shape[:1] + log_probs.shape[2:])
    if is_live(log_probs) or any((y.dtype, y.shape) != form for y in targets):
        return False
    return all(_are_plain_classes(y, log_probs.shape[1], ignore_index) for y in targets)


def _are_plain_classes(labels: Tensor, classes: int, ignore_index: int) -> bool:
    lowest, highest = labels.aminmax()
    return bool(lowest >= 0 and highest < classes and not (labels == ignore_index).any())


def _gathered(log_probs: Tensor, targets: Sequence[Tensor], reduction: str) -> Sequence[Tensor]:
    """Picks each candidate's column first, so that what is left has K classes and not C."""
    columns = log_probs.gather(1, torch.stack(tuple(targets), dim=1))
    return [
        F.nll_loss(columns, torch.full_like(y, k), reduction=reduction)
        for k, y in enumerate(targets)
    ]


def _class_weights(labels: Tensor, weight: Tensor | None, ignore_index: int) -> Tensor:
    counted = labels != ignore_index
    if weight is None:
        return counted
    return weight[labels.long().masked_fill(~counted, 0)] * counted


def _modern_reduction(size_average: bool | None, reduce: bool | None, reduction: str) -> str:  # noqa: FBT001
    if size_average is None and reduce is None:
        return reduction
    return "none" if reduce is False else "sum" if size_average is False else "mean"


def run_reduced_loss(call: Call) -> Any:
    """With weights per sample: a loss per sample first, then weighted, then reduced."""
    defaults = dict(parameters_of(call.func))
    options = {**defaults, **dict(zip(defaults, call.args, strict=False)), **call.kwargs}
    reduction = _modern_reduction(
        options.pop("size_average", None), options.pop("reduce", None), options["reduction"]
    )
    by_weight = call.name in _MEANS_BY_WEIGHT and options.get("weight") is not None
    if reduction == "mean" and (by_weight or call.name not in _PLAIN_MEANS):
        call.refuse("divides by more than the number of samples")
    if call.name not in _ELEMENTWISE and is_live(options.get("weight")):
        call.refuse("is given class weights that differ by sample")
    single = Call(call.func, (), {**options, "reduction": "none"}, call.kind)
    losses = single.rows()
    align = single.aligned_right if call.name in _ELEMENTWISE else single.aligned_left
    weights = align(losses[0])
    if reduction == "none":
        return single.mixed(losses, weights)
    total = weighted_sum(losses, weights)
    if reduction == "batchmean":
        return total.sum() / len(total)
    return total.mean() if reduction == "mean" else total.sum()


def evaluate_per_candidate(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    r"""Calls a loss that torch cannot look into once per candidate, and weights the results.

    This is the way for scripted, fused and custom-autograd losses. Float targets are numbers, of
    which it is given what lies between, unless it makes class labels of them.

    Args:
        function: Returns one number, or one per sample, of shape (B, \*).
        args: Its arguments, mixed targets among them.
        kwargs: Its keyword arguments.

    Returns:
        The weighted sum of the numbers; where there is one per sample, mixed losses.

    Raises:
        MixupRuntimeError: If every sample has its own weight, but the function reduced the batch.

    Example:
        >>> from lightning_mixup.targets import MixedTarget
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
        if call.only_numbers:
            with suppress(_LabelsMadeError):
                return _of_numbers(call)
        call.kind = Kind.LOSS
        return map_together(lambda *results: _weighted_result(call, results), call.rows())


class _LabelsMadeError(Exception):
    """Float targets turned out to be class labels."""


def _of_numbers(call: Call) -> Any:
    """Calls a loss with what lies between the candidates.

    Raises:
        _LabelsMadeError: If it makes class labels of that, as ``y.long()`` and ``y == 1`` do.
    """
    watch = _Watch()

    def choose(tensor: Tensor) -> Tensor:
        value = plain(tensor)
        if is_live(tensor):
            watch.numbers.append(value)
        return value

    args, kwargs = map_tensors(call.args, choose), map_tensors(call.kwargs, choose)
    with watch:
        return call.func(*args, **kwargs)


class _Watch(TorchFunctionMode):
    """Looks at what is made of float targets alone, as what meets predictions is no label."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result, given = func(*args, **(kwargs or {})), tensors_in((args, kwargs))
        if _tells_nothing(name_of(func)) or not (given and all(map(self._knows, given))):
            return result
        made = tensors_in(result)
        if not all(x.is_floating_point() for x in made):
            raise _LabelsMadeError
        self.numbers += made
        return result

    def _knows(self, tensor: Tensor) -> bool:
        return any(tensor is number for number in self.numbers)


def _tells_nothing(name: str) -> bool:
    """Returns whether an operation may make integers or bools of what are numbers."""
    return name in FINITENESS or name.startswith("new_") or name.endswith("_like")


def _weighted_result(call: Call, results: Sequence[Any]) -> Any:
    if not isinstance(results[0], Tensor):
        return results[0]
    if results[0].ndim > 0:
        return call.mixed(results, call.aligned_left(results[0]))
    if call.per_sample:
        raise MixupRuntimeError(
            "The loss named in MixupCallback(loss=...) returned one number for the batch, but "
            "every sample has a weight of its own. Let it return one loss per sample "
            "(reduction='none') and average them in training_step, or mix with "
            "Mixup(alpha, per_sample=False)."
        )
    return call.mixed(results, call.weights)
