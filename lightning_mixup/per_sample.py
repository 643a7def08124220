"""Operations on tensors whose samples have weights of their own, which travel with the samples.

They merge at the first sum over the samples. What combines, reorders or selects samples in a way
that no rule here follows is refused; with one weight per batch (`rules.py`) nothing of this is
needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_mixup.calls import Call
from lightning_mixup.losses import run_reduced_loss
from lightning_mixup.operations import (
    BATCH_SUMS,
    COPIES,
    DISTANCES,
    ELEMENTWISE,
    LOOKUPS,
    PRODUCTS,
    REDUCTIONS,
    RESHAPES,
    SCATTERS,
    STRUCTURE,
    is_sum_of_sizes,
    joined_dim,
    layout,
    looks_up_samples,
    reduced_dims,
    takes_reduction,
    weights_after,
    whole,
)
from lightning_mixup.targets import Kind, MixedTarget, is_live, make_mixed, plain, weighted_sum
from lightning_mixup.trees import fingerprint, map_together, tensors_in
from lightning_mixup.writes import scattered_weights

__all__ = ["embed", "join", "run_per_sample"]


def run_per_sample(call: Call) -> Any:
    """Runs an operation on each candidate, and finds the weights of its result."""
    if call.name in STRUCTURE and is_live(call.args[0]):
        return _move(call)
    if call.name == "broadcast_tensors":
        shape = call.of(plain)[0].shape
        return tuple(_expanded(tensor, shape) for tensor in call.tensors)
    if call.name in LOOKUPS:
        return _look_up(call)
    if takes_reduction(call.func):
        return run_reduced_loss(call)
    if call.name in ELEMENTWISE or (call.name in ("max", "min") and _is_binary(call)):
        return _elementwise(call)
    if call.name in REDUCTIONS or call.name in DISTANCES:
        return _reduce(call)
    if call.name in PRODUCTS and len(call.args) > 1:
        return _multiply(call)
    if call.name in SCATTERS:
        rows = call.rows()
        return call.mixed(rows, scattered_weights(call, rows[0]))
    return call.refuse("needs one weight per batch")


def _expanded(tensor: Tensor, shape: torch.Size) -> Any:
    if is_live(tensor):
        return MixedTarget.rule(Tensor.expand, (tensor, shape), {})
    return plain(tensor).expand(shape)


def embed(call: Call) -> Any:
    """Looks up labels in a table; a model conditioned on them sees the point in between."""
    table = call.tensors[call.func is F.embedding]  # torch.embedding has it first
    if call.per_sample and is_live(table):
        call.refuse("looks up samples")
    rows = call.rows()
    weights = call.aligned_left(rows[0])
    merges = table.is_floating_point() and not is_live(table)
    return weighted_sum(rows, weights) if merges else call.mixed(rows, weights)


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
    if call.name == "repeat_interleave" and len(call.args) + len(call.kwargs) == 1:
        call.refuse("repeats by label")
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
    if call.name not in COPIES | RESHAPES or torch.compiler.is_dynamo_compiling():
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
    elif looks_up_samples(call.name, call.args, call.kwargs):
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


def _multiply(call: Call) -> Any:
    """Products with a matrix, as of one-hot labels with a table of costs."""
    source, (left, right) = call.live[0], call.args[:2]
    summed = -1 if source is left else -2
    transposed = call.name == "linear" and source is not left
    if len(call.live) > 1 or source.weights.shape[summed] > 1 or transposed:
        call.refuse("combines samples that have different weights")
    rows = call.rows()
    align = call.aligned_left if right.ndim == 1 else call.aligned_right
    return call.mixed(rows, align(rows[0]))


def _reduce(call: Call) -> Any:
    source = call.live[0]
    if len(call.live) > 1:
        call.refuse("reduces several mixed tensors at once")
    if call.name in DISTANCES and any(t.shape != source.shape for t in call.tensors):
        call.refuse("compares tensors of several shapes")
    dims = reduced_dims(call.name, source.ndim, call.args, call.kwargs)
    if all(source.weights.shape[1 + d] == 1 for d in dims):
        kept = [0, *(1 + d for d in range(source.ndim) if d not in dims)]
        fewer = source.weights.reshape([source.weights.shape[d] for d in kept])

        def finish(*row: Any) -> Any:
            return call.mixed(row, source.weights if row[0].ndim == source.ndim else fewer)

        return map_together(finish, call.rows())
    if call.kind is Kind.NUMBER:
        call.refuse("reduces the batch")
    if call.name in ("any", "all"):
        return call.of_candidate(0)
    if call.name in BATCH_SUMS:
        return _merge(call, source, source.candidates)
    if is_sum_of_sizes(call.name, call.args, call.kwargs):
        return _merge(call, source, [row.abs() for row in source.candidates])
    return call.refuse("reduces the batch by other means than a sum or a mean")


def _merge(call: Call, source: MixedTarget, rows: Sequence[Tensor]) -> Any:
    """Merges at the first sum: the soft-label form, as a mixture with one candidate.

    What has met no loss reads as the dominant candidate's, since it may be a metric's count.
    """
    if not rows[0].is_floating_point():
        double = torch.float32 if source.device.type == "mps" else torch.float64
        rows = [row.to(double) for row in rows]
    merged = weighted_sum(rows, source.weights)
    soft = call.of(lambda tensor: merged if tensor is source else tensor)
    if call.kind is Kind.LOSS:
        return soft
    return make_mixed([call.of_candidate(0), soft], soft.new_ones(1), call.kind, call.usage)


def join(call: Call) -> Any:
    """Concatenates candidates; a plain tensor has a single candidate, of weight 1."""
    rows = call.rows()
    dim = 1 + joined_dim(call.args, call.kwargs) % rows[0].ndim
    stacks, single = call.name == "stack", not call.per_sample
    if call.same_samples:
        weights = call.weights.unsqueeze(dim) if stacks and not single else call.weights
        if single or weights.shape[dim] == 1:
            return call.mixed(rows, weights)

    def weights_of(tensor: Tensor) -> Tensor:
        weights = tensor.weights if is_live(tensor) else whole(call.weights)
        weights = weights.reshape(len(weights), *(weights.shape[1:] or [1] * tensor.ndim))
        if stacks:
            return weights.unsqueeze(dim)
        return weights.expand(*[-1] * dim, tensor.shape[dim - 1], *[-1] * (tensor.ndim - dim))

    parts = [weights_of(tensor) for tensor in call.tensors]
    sizes = [max(part.shape[d] for part in parts) for d in range(parts[0].ndim)]
    sizes[dim] = -1
    return call.mixed(rows, torch.cat([part.expand(sizes) for part in parts], dim))
