"""What each operation does with mixed tensors: the rule of `targets.py`, case by case.

Most of this is for weights per sample, which travel with the samples. With one weight per batch
there is nothing to follow: an operation runs once per candidate, whatever it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from lightning_mixup.calls import Call
from lightning_mixup.losses import is_class_loss, run_class_loss, run_reduced_loss
from lightning_mixup.operations import (
    BATCH_SUMS,
    CHANGES_SHAPE,
    COMPARISONS,
    ELEMENTWISE,
    JOINS,
    LOOKUPS,
    READS,
    REDUCTIONS,
    STRUCTURE,
    reduced_dims,
    signature_of,
    weights_after,
    writes_in_place,
)
from lightning_mixup.targets import (
    Kind,
    MixedTarget,
    is_live,
    make_mixed,
    plain,
    reading,
    turn_into_mixed,
    weighted_sum,
)
from lightning_mixup.trees import map_tensors, map_together

__all__ = ["run"]


def run(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Runs an operation by the rule; called with torch's dispatch to subclasses switched off."""
    call = Call(func, args, kwargs)
    if not call.live or call.name in READS or _inside_a_metric():
        return call.of(reading)
    if any(tensor.usage is not call.usage for tensor in call.live):
        call.refuse("combines the labels of two mixed batches")
    if kwargs.get("out") is not None:
        call.refuse("writes into out=")
    gradient = torch.is_grad_enabled() and any(t.requires_grad for t in call.tensors())
    call.usage.met_gradient |= gradient
    if writes_in_place(call.name):
        call.kind = _kind_of_result(call, gradient=gradient)
        return _write_in_place(call)
    numbers = [tensor.kind is Kind.NUMBER for tensor in call.live]
    if all(numbers):
        return _run_on_numbers(call, gradient=gradient)
    if any(numbers):
        call = Call(func, *map_tensors((args, kwargs), _number_as_plain))
    call.kind = _kind_of_result(call, gradient=gradient)
    return _run_on_labels(call)


MixedTarget.rule = staticmethod(run)


def _run_on_labels(call: Call) -> Any:
    if is_class_loss(call):
        return run_class_loss(call)
    if call.name == "embedding":  # a model conditioned on the class sees the point in between
        embedded = call.per_candidate()
        return weighted_sum(embedded, call.aligned_left(embedded[0]))
    if call.kind is Kind.VERDICT and call.name in REDUCTIONS:
        return call.of_candidate(0)
    if call.name in JOINS:
        return _join(call)
    return _once_per_sample(call) if call.per_sample else _once_per_batch(call)


def _run_on_numbers(call: Call, *, gradient: bool) -> Any:
    """Float targets are numbers, until a cast or a comparison makes class labels of them."""
    with_scalars = all(t.ndim == 0 for t in call.others())
    if call.name in COMPARISONS and (with_scalars or call.name.strip("_") in ("eq", "ne")):
        call.kind = Kind.LABEL if with_scalars else Kind.VERDICT
        return _run_on_labels(call)
    moves = call.name in STRUCTURE and call.args[0] is call.live[0]
    maps = call.name in ELEMENTWISE - COMPARISONS and with_scalars and not gradient
    own = call.of(plain)
    if len(call.live) > 1 or not (moves or maps):
        return own
    call.kind = Kind.NUMBER
    return _moved(call, [own, *call.per_candidate()])


def _kind_of_result(call: Call, *, gradient: bool) -> Kind:
    kinds = {tensor.kind for tensor in call.live}
    if gradient or Kind.LOSS in kinds:
        return Kind.LOSS
    compares = call.name in COMPARISONS and any(t.ndim > 0 for t in call.others())
    return Kind.VERDICT if compares or Kind.VERDICT in kinds else Kind.LABEL


def _number_as_plain(tensor: Tensor) -> Tensor:
    return plain(tensor) if is_live(tensor) and tensor.kind is Kind.NUMBER else tensor


# One weight per batch.


def _once_per_batch(call: Call) -> Any:
    """A weight per batch can wait until the result is a scalar."""
    if any(tensor.weights is not call.weights for tensor in call.live):
        return _combine_single_samples(call)
    reduces = call.name not in STRUCTURE and any(tensor.ndim > 0 for tensor in call.live)

    def finish(*rows: Any) -> Any:
        if not isinstance(rows[0], Tensor):
            return rows[0]
        if not (reduces and rows[0].ndim == 0):
            return make_mixed(rows, call.weights, call.kind, call.usage)
        return weighted_sum(rows, call.weights) if rows[0].is_floating_point() else rows[0]

    return map_together(finish, call.per_candidate())


def _combine_single_samples(call: Call) -> Any:
    """Losses of single samples, cut from a batch with weights per sample, can be added up."""
    adds = call.name in ("add", "sub", "__add__", "__radd__", "__sub__", "__rsub__")
    if adds and all(tensor.kind is Kind.LOSS for tensor in call.live):
        return call.of(reading)
    return call.refuse("combines samples that have different weights")


# Weights per sample.


def _once_per_sample(call: Call) -> Any:
    """Weights per sample travel with the samples, and merge at the first sum over them."""
    if call.name in REDUCTIONS:
        return _reduce(call)
    signature = signature_of(call.func)
    if signature is not None and "reduction" in signature.parameters:
        return run_reduced_loss(call)
    if call.name in STRUCTURE and call.args[0] is call.live[0]:
        if len(call.live) > 1:
            call.refuse("selects by label, which gives each label its own number of samples")
        return _moved(call, call.per_candidate())
    if call.name in ELEMENTWISE:
        results = call.per_candidate()
        return make_mixed(results, call.aligned_right(results[0]), call.kind, call.usage)
    if call.name in LOOKUPS:
        return _look_up(call)
    if call.kind is Kind.LOSS:
        call.refuse("needs one weight per batch")
    return call.of_candidate(0)


def _moved(call: Call, rows: list[Any]) -> Any:
    """Weights move as the entries do."""
    source = call.live[0]
    pieces = rows[0] if isinstance(rows[0], (tuple, list)) else [rows[0]]
    if source.weights.ndim == 1 or call.name not in STRUCTURE:
        weights = iter([source.weights] * len(pieces))
    else:
        shape, rest = source.candidates[0].shape, (call.args[1:], call.kwargs)
        weights = weights_after(call.func, call.name, shape, source.weights, pieces, *rest)
    return map_together(lambda *row: make_mixed(row, next(weights), call.kind, call.usage), rows)


def _look_up(call: Call) -> Any:
    """Entries of a tensor, one for each label, or one slice."""
    index = call.args[1] if call.name == "__getitem__" else None
    parts = index if isinstance(index, tuple) else (index,)
    if any(isinstance(part, Tensor) and part.dtype == torch.bool for part in parts):
        call.refuse("selects by label, which gives each label its own number of samples")
    if any(part is ... or isinstance(part, (int, slice)) for part in parts):
        call.refuse("looks up labels elsewhere than in the first dimensions")
    results = call.per_candidate()
    return make_mixed(results, call.aligned_left(results[0]), call.kind, call.usage)


def _reduce(call: Call) -> Any:
    source = call.live[0]
    if len(call.live) > 1:
        call.refuse("reduces several mixed tensors at once")
    dims = reduced_dims(call.name, source.ndim, call.args, call.kwargs)
    results = call.per_candidate()
    if len(dims) < source.ndim and all(source.weights.shape[1 + d] == 1 for d in dims):
        kept = [1 + d for d in range(source.ndim) if d not in dims]
        fewer = source.weights.reshape(
            len(source.weights), *(source.weights.shape[d] for d in kept)
        )

        def finish(*rows: Any) -> Any:
            weights = source.weights if rows[0].ndim == source.ndim else fewer
            return make_mixed(rows, weights, call.kind, call.usage)

        return map_together(finish, results)
    if not (isinstance(results[0], Tensor) and results[0].is_floating_point()):
        return results[0]
    if call.name in BATCH_SUMS:
        merged = weighted_sum(source.candidates, source.weights)
        return call.of(lambda t: merged if t is source else plain(t))
    if call.kind is Kind.LOSS:
        call.refuse("reduces the batch by other means than a sum or a mean")
    return results[0]


# Both.


def _join(call: Call) -> Any:
    """Concatenates candidates; a plain tensor has a single candidate, of weight 1."""
    parts, results = call.args[0], call.per_candidate()
    alike = all(is_live(part) and part.weights is call.weights for part in parts)
    if alike and not call.per_sample:
        return make_mixed(results, call.weights, call.kind, call.usage)
    whole = torch.zeros_like(call.weights.reshape(len(call.weights), -1)[:, 0])
    whole[0] = 1.0
    expanded = [_expanded(part.weights if is_live(part) else whole, part.shape) for part in parts]
    rows = [
        call.func([weights[k] for weights in expanded], *call.args[1:], **call.kwargs)
        for k in range(len(whole))
    ]
    return make_mixed(results, torch.stack(rows), call.kind, call.usage)


def _expanded(weights: Tensor, shape: torch.Size) -> Tensor:
    sizes = weights.shape[1:] or [1] * len(shape)
    return weights.reshape(-1, *sizes).expand(-1, *shape)


def _write_in_place(call: Call) -> Any:
    """Writes into every candidate, and so into the tensor itself, which is the dominant one."""
    base = call.args[0]
    if call.name in CHANGES_SHAPE:
        call.refuse("changes a shape in place")
    if not is_live(base):
        return _write_into_plain(call)
    if base.kind is Kind.NUMBER:
        call.of(plain)
    call.per_candidate()
    base.kind = Kind.LOSS if call.kind is Kind.LOSS else base.kind
    return base


def _write_into_plain(call: Call) -> Any:
    """A plain tensor that is written to by label becomes a mixed one."""
    base = call.args[0]
    if all(tensor.kind is Kind.NUMBER for tensor in call.live):
        return call.of(plain)
    if type(base) is not Tensor:
        call.refuse(f"writes into a {type(base).__name__}")
    weights = _weights_of_written(call) if call.per_sample else call.weights
    others = [base.clone() for _ in range(len(weights) - 1)]
    for k, row in enumerate([base, *others]):
        Call(call.func, (row, *call.args[1:]), call.kwargs).of_candidate(k)
    return turn_into_mixed(base, others, weights, call.kind, call.usage)


def _weights_of_written(call: Call) -> Tensor:
    """Returns the weights of a plain tensor's entries, each of which one sample has written."""
    base, index = call.args[0], call.args[1] if len(call.args) > 1 else None
    if call.name.startswith("scatter") or call.name.strip("_") in ELEMENTWISE:
        return call.aligned_right(base)
    if is_live(index) and index.dtype == torch.bool:
        return call.aligned_left(base)
    rows = index[0] if isinstance(index, tuple) else None
    if rows is None or isinstance(rows, (slice, int, MixedTarget)) or call.weights.ndim != 2:
        call.refuse("writes by label in a way that needs one weight per batch")
    weights = torch.zeros_like(call.weights[:, :1]).repeat(1, len(base))
    weights[0] = 1.0
    weights[:, rows] = call.weights
    return weights.reshape(*weights.shape, *[1] * (base.ndim - 1))


_DOORS = ("torchmetrics", "lightning.pytorch.core.module", "pytorch_lightning.core.module")


def _inside_a_metric() -> bool:
    """Returns whether torchmetrics, or Lightning's ``self.log``, is what runs the operation.

    Metrics do more with labels than compare them (top-k, macro averages, lists), so the dominant
    candidate is taken at their door and not found out operation by operation.
    """
    if torch.compiler.is_compiling():
        return False
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith(_DOORS):
            return True
        if module == "lightning_mixup.callback":  # where the training step begins
            return False
        frame = frame.f_back
    return False
