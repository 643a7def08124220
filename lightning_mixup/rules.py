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

from lightning_mixup.calls import Call, NoRuleError
from lightning_mixup.losses import (
    is_class_loss,
    run_class_loss,
    run_reduced_loss,
    takes_reduction,
)
from lightning_mixup.operations import (
    BATCH_SUMS,
    CASTS,
    COMPARISONS,
    COPIES,
    COUNTS,
    ELEMENTWISE,
    FINITENESS,
    JOINS,
    LOOKUPS,
    READS,
    REDUCTIONS,
    RESHAPES,
    SCATTERS,
    STRUCTURE,
    joined_dim,
    layout,
    looked_up_dim,
    reduced_dims,
    weights_after,
    writes_in_place,
)
from lightning_mixup.targets import Kind, MixedTarget, is_live, plain, reading, weighted_sum
from lightning_mixup.trees import fingerprint, map_together, tensors_in
from lightning_mixup.writes import scattered_weights, write

__all__ = ["run"]


def run(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Runs an operation by the rule; called with torch's dispatch to subclasses switched off.

    Raises:
        NoRuleError: If there is none, and a gradient or a write is at stake.
    """
    call = Call(func, args, kwargs)
    if call.live and not torch.is_grad_enabled() and _inside(_AUTOGRAD_FUNCTIONS):
        call.refuse("is run in a custom autograd function, whose gradient nobody can follow")
    if not call.live or call.name in READS or (call.name in CASTS and not is_live(args[0])):
        return call.of(reading)
    if _inside(_METRICS):
        # A metric that is called, unlike one that is updated, may be the loss of float targets.
        is_number = call.live[0].kind is Kind.NUMBER
        call.usage.met_gradient |= is_number and torch.is_grad_enabled()
        return call.of(reading)
    gradient = _meets_gradient(call)
    call.usage.met_gradient |= gradient
    try:
        return _by_rule(call, gradient=gradient)
    except NoRuleError:
        if gradient or writes_in_place(call.name) or "out" in kwargs:
            raise
    return call.unruled()


MixedTarget.rule = staticmethod(run)


def _meets_gradient(call: Call) -> bool:
    if call.name in COMPARISONS:
        return False
    # Of what y.type_as(x) or y.view_as(x) is given besides y, only the form matters.
    tensors = call.tensors[:1] if call.name in STRUCTURE else call.tensors
    if torch.is_grad_enabled():
        return any(tensor.requires_grad for tensor in tensors)
    # Reentrant checkpointing runs its region without gradients first, and again with them.
    numbers = any(tensor.is_floating_point() and not is_live(tensor) for tensor in tensors)
    return numbers and _inside(_CHECKPOINTS)


def _by_rule(call: Call, *, gradient: bool) -> Any:
    if any(tensor.usage is not call.usage for tensor in call.live):
        call.refuse("combines the labels of two mixed batches")
    if call.kwargs.get("out") is not None:
        call.refuse("writes into out=")
    call.kind = _kind_of_result(call, gradient=gradient)
    if writes_in_place(call.name):
        return write(call, gradient=gradient)
    if call.only_numbers:
        return _run_on_numbers(call, gradient=gradient)
    call.check_ruled()
    return _run_on_labels(call)


def _kind_of_result(call: Call, *, gradient: bool) -> Kind:
    kinds = {tensor.kind for tensor in call.live}
    if gradient or Kind.LOSS in kinds or takes_reduction(call):
        return Kind.LOSS
    compares = call.name in COMPARISONS and not call.with_numbers
    return Kind.VERDICT if compares or Kind.VERDICT in kinds else Kind.LABEL


def _run_on_numbers(call: Call, *, gradient: bool) -> Any:
    """Float targets are numbers, until a cast or a comparison makes class labels of them."""
    if call.name in COMPARISONS:
        compares_labels = call.name.strip("_") in ("eq", "ne") and not call.with_numbers
        if not compares_labels and (len(call.live) > 1 or not call.with_numbers):
            return call.of(plain)
        call.kind = Kind.VERDICT if compares_labels else Kind.LABEL
    elif gradient or call.name in FINITENESS or takes_reduction(call):
        return call.of(plain)
    else:
        call.kind = Kind.NUMBER
    call.check_ruled()
    return _run_on_labels(call)


def _run_on_labels(call: Call) -> Any:
    if call.kind is Kind.VERDICT and call.name in REDUCTIONS:
        return call.of_candidate(0)
    if call.name in JOINS:
        return _join(call)
    if not call.same_samples:
        return _combine_single_samples(call)
    if is_class_loss(call):
        return run_class_loss(call)
    if call.name == "embedding":  # a model conditioned on the class sees the point in between
        embedded = call.rows()
        return weighted_sum(embedded, call.aligned_left(embedded[0]))
    return _once_per_sample(call) if call.per_sample else _once_per_batch(call)


# One weight per batch, or a single sample.


def _once_per_batch(call: Call) -> Any:
    """A weight per batch can wait until the result is a scalar."""
    rows = call.rows()
    reduces = call.name not in STRUCTURE and any(tensor.ndim > 0 for tensor in call.live)
    reduces = reduces and call.kind is not Kind.NUMBER
    if call.name == "__getitem__" and all(tensor.ndim == 0 for tensor in call.live):
        rows = [row.clone() for row in rows]  # of x[y[i]], which are views of one x

    def finish(*row: Any) -> Any:
        merges = reduces and isinstance(row[0], Tensor) and row[0].ndim == 0
        return (call.merged if merges else call.mixed)(row, call.weights)

    return map_together(finish, rows)


def _combine_single_samples(call: Call) -> Any:
    """Losses of single samples, cut from a batch with weights per sample, can be added up."""
    adds = call.name in ("add", "sub", "__add__", "__radd__", "__sub__", "__rsub__")
    single = all(tensor.kind is Kind.LOSS and tensor.ndim == 0 for tensor in call.live)
    if adds and single:
        return call.of(reading)
    return call.refuse("combines samples that have different weights")


# Weights per sample.


def _once_per_sample(call: Call) -> Any:
    """Weights per sample travel with the samples, and merge at the first sum over them."""
    if call.name in STRUCTURE and is_live(call.args[0]):
        return _move(call)
    if call.name in LOOKUPS:
        return _look_up(call)
    if takes_reduction(call):
        return run_reduced_loss(call)
    if call.name in ELEMENTWISE or (call.name in ("max", "min") and _is_binary(call)):
        return _elementwise(call)
    if call.name in REDUCTIONS:
        return _reduce(call)
    if call.name in SCATTERS:
        rows = call.rows()
        return call.mixed(rows, scattered_weights(call, rows[0]))
    return call.refuse("needs one weight per batch")


def _is_binary(call: Call) -> bool:
    return len(call.args) > 1 and isinstance(call.args[1], Tensor)


def _elementwise(call: Call) -> Any:
    rows = call.rows()
    if not isinstance(rows[0], Tensor):  # torch.where(y == 1) alone
        call.refuse("selects by label, which gives each label its own number of samples")
    return call.mixed(rows, call.aligned_right(rows[0]))


def _move(call: Call) -> Any:
    """Weights move as the entries do."""
    source = call.live[0]
    if len(call.live) > 1:
        call.refuse("selects by label, which gives each label its own number of samples")
    rows = call.rows()
    if isinstance(rows[0], str):  # y.type()
        return rows[0]
    weights = iter(_moved_weights(call, source, tensors_in(rows[0])))
    return map_together(lambda *row: call.mixed(row, next(weights)), rows)


def _moved_weights(call: Call, source: MixedTarget, pieces: list[Tensor]) -> list[Tensor]:
    """Moves the weights; twice in the same way gives the same ones, for the same samples."""
    shape, given = source.candidates[0].shape, (call.args[1:], call.kwargs)
    if call.name in RESHAPES:
        given = (pieces[0].shape,), {}
        if pieces[0].numel() != source.numel():
            call.refuse("changes the size of the entries")
    elif call.name not in COPIES:
        return weights_after(call.func, call.name, shape, source.weights, pieces, *given)
    key = (call.name, shape, layout(source.weights), fingerprint(given))
    if key not in call.usage.moved:
        weights = weights_after(call.func, call.name, shape, source.weights, pieces, *given)
        call.usage.moved[key] = given, weights
    return call.usage.moved[key][1]


def _look_up(call: Call) -> Any:
    """Entries of a tensor, one for each label, or one slice."""
    if call.name == "__getitem__":
        _check_index(call)
    elif call.name != "one_hot" and looked_up_dim(call.name, call.args, call.kwargs) == 0:
        if is_live(call.args[0]):
            call.refuse("looks up samples by label")
    elif call.name == "index_select":
        call.refuse("looks up labels elsewhere than in the first dimensions")
    rows = call.rows()
    return call.mixed(rows, call.aligned_left(rows[0]))


def _check_index(call: Call) -> None:
    """Refuses what does not give one entry, or one slice, for each label."""
    index = call.args[1]
    parts = index if isinstance(index, tuple) else (index,)
    if any(isinstance(part, Tensor) and part.dtype == torch.bool for part in parts):
        call.refuse("selects by label, which gives each label its own number of samples")
    if parts[0] is None or parts[0] is ... or isinstance(parts[0], (bool, slice)):
        call.refuse("looks up labels elsewhere than in the first dimensions")
    if any(getattr(part, "ndim", 1) > call.live[0].ndim for part in parts):
        call.refuse("looks up each label several times")


def _reduce(call: Call) -> Any:
    source = call.live[0]
    if len(call.live) > 1:
        call.refuse("reduces several mixed tensors at once")
    dims = reduced_dims(call.name, source.ndim, call.args, call.kwargs)
    if len(dims) < source.ndim and all(source.weights.shape[1 + d] == 1 for d in dims):
        kept = [0, *(1 + d for d in range(source.ndim) if d not in dims)]
        fewer = source.weights.reshape([source.weights.shape[d] for d in kept])

        def finish(*row: Any) -> Any:
            return call.mixed(row, source.weights if row[0].ndim == source.ndim else fewer)

        return map_together(finish, call.rows())
    if call.kind is Kind.NUMBER:
        call.refuse("reduces the batch")
    if call.name in COUNTS and not source.is_floating_point():
        return call.of_candidate(0)
    if call.name not in BATCH_SUMS:
        call.refuse("reduces the batch by other means than a sum or a mean")
    merged = weighted_sum(source.candidates, source.weights)
    return call.of(lambda tensor: merged if tensor is source else tensor)


def _join(call: Call) -> Any:
    """Concatenates candidates; a plain tensor has a single candidate, of weight 1."""
    rows = call.rows()
    dim = 1 + joined_dim(call.args, call.kwargs) % rows[0].ndim
    stacks, single = call.name == "stack", not call.per_sample
    if call.same_samples:
        weights = call.weights.unsqueeze(dim) if stacks and not single else call.weights
        if single or weights.shape[dim] == 1:
            return call.mixed(rows, weights)
    whole = torch.zeros_like(call.weights.reshape(len(call.weights), -1)[:, 0])
    whole[0] = 1.0

    def weights_of(tensor: Tensor) -> Tensor:
        weights = tensor.weights if is_live(tensor) else whole
        weights = weights.reshape(len(whole), *(weights.shape[1:] or [1] * tensor.ndim))
        if stacks:
            return weights.unsqueeze(dim)
        return weights.expand(*[-1] * dim, tensor.shape[dim - 1], *[-1] * (tensor.ndim - dim))

    parts = [weights_of(tensor) for tensor in call.tensors]
    sizes = [max(part.shape[d] for part in parts) for d in range(parts[0].ndim)]
    sizes[dim] = -1
    return call.mixed(rows, torch.cat([part.expand(sizes) for part in parts], dim))


# Who asks.

# Metrics do more with labels than compare them (top-k, macro averages, lists), so the dominant
# candidate is taken at their door, and at that of Lightning's own ``self.log``.
_METRICS = ("torchmetrics", "lightning.pytorch.core.module", "pytorch_lightning.core.module")
_AUTOGRAD_FUNCTIONS = ("torch.autograd.function",)
_CHECKPOINTS = ("torch.utils.checkpoint",)
# Where a training step begins, and where torch itself runs a part of it as a function.
_BORDERS = ("lightning_mixup.callback", *_CHECKPOINTS)


def _inside(packages: tuple[str, ...]) -> bool:
    """Returns whether an operation is run by one of these packages or modules."""
    if torch.compiler.is_compiling():
        return False
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith(packages) and any(f"{module}.".startswith(f"{p}.") for p in packages):
            return True
        if module in _BORDERS:
            return False
        frame = frame.f_back
    return False
