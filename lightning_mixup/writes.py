"""What is written in place into a mixed tensor, or by label into a plain one.

A write reaches every candidate and the tensor's own data together, or it raises. A plain tensor
that is written to by label becomes mixed itself, since whoever holds it will read it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_mixup.calls import Call, NoRuleError
from lightning_mixup.operations import (
    REDUCTIONS,
    RESIZES,
    SCATTERS,
    VIEWS_IN_PLACE,
    same_layout,
    weights_after,
    whole,
    writes_elementwise,
    writes_in_place,
)
from lightning_mixup.targets import (
    Kind,
    MixedTarget,
    has_own_value,
    is_live,
    is_lost,
    plain,
    reading,
    release,
    turn_into_mixed,
    weighted_sum,
)
from lightning_mixup.trees import tensors_in

__all__ = ["add_up", "scattered_weights", "write"]


def add_up(call: Call) -> Any:
    """Runs an operation on losses and counts of different samples or batches, as on numbers."""
    base = call.args[0] if call.args else None
    if writes_in_place(call.name) and is_live(base):
        release(base)
    return call.of(reading)


def write(call: Call, *, gradient: bool) -> Tensor:
    """Runs an operation that writes into its first argument, and returns that.

    Raises:
        NoRuleError: If candidates and own data would come apart, or a gradient be lost.
    """
    if not call.args:
        call.refuse("is given by keyword what it writes into")
    base: Tensor = call.args[0]
    if call.name in RESIZES:
        call.refuse("changes a tensor itself, and not its entries")
    if isinstance(base, MixedTarget) and base.usage.ended:
        release(base)
    if is_live(base):
        return _write_into_live(call, base, gradient=gradient)
    root = _root(base)
    if root.numel() == 1 and call.only_totals:
        written: Tensor = call.of(reading)  # a running total or a counter stays a number
        return written
    if type(base) is not Tensor or type(root) is not Tensor:
        call.refuse(f"writes into a {type(base).__name__}")
    try:
        return _write_into_plain(call, base, gradient=gradient)
    except NoRuleError:
        if gradient:
            raise
    call.of(reading)
    kind = Kind.NUMBER if call.only_numbers else Kind.UNRULED
    return _turned(base, [], call.weights, kind, call)


def _write_into_live(call: Call, base: MixedTarget, *, gradient: bool) -> Tensor:
    if is_lost(base) and not gradient and any(map(base.usage.keeps, (base, _root(base)))):
        call.of(reading)
        return base
    call.check_ruled()
    return (_view_in_place if call.name in VIEWS_IN_PLACE else _write_into_mixed)(call, base)


def _write_into_mixed(call: Call, base: MixedTarget) -> Tensor:
    """Writes into every candidate, and so into the tensor itself, which is the dominant one."""
    weights = _weights_written(call, base)
    for k in range(len(weights)):
        call.of_candidate(k)
    base.weights = weights
    if base.kind is not Kind.NUMBER:
        base.kind = Kind.LOSS if call.kind is Kind.LOSS else base.kind
    if call.only_numbers or (call.settled and base.kind is not Kind.LOSS):
        call.of(plain)
    elif has_own_value(base):
        plain(base).copy_(weighted_sum(base.candidates, weights))
    return base


def _view_in_place(call: Call, base: MixedTarget) -> MixedTarget:
    arguments = call.args[1:]
    if call.per_sample:
        name, form = call.name[:-1], base.candidates[0].shape
        view = getattr(Tensor, name)
        views = [view(plain(base), *arguments, **call.kwargs)]
        moved = weights_after(view, name, form, base.weights, views, arguments, call.kwargs)
        base.weights = moved[0]
    call.func(base, *arguments, **call.kwargs)
    # Copies of a mixed tensor may share its candidates, so those are left as they are.
    base.others = tuple(call.func(row[...], *arguments, **call.kwargs) for row in base.others)
    if base.source is not None:
        base.source = call.func(base.source[...], *arguments, **call.kwargs)
    return base


def _write_into_plain(call: Call, base: Tensor, *, gradient: bool) -> Tensor:
    """Writes one candidate into the tensor itself, and the others into copies."""
    call.check_ruled()
    numbers = call.only_numbers
    if numbers and gradient:
        written: Tensor = call.of(plain)
        return written
    weights = _weights_written(call, base)
    root = _root(base)
    copies = [root.clone() for _ in range(len(weights) - (not numbers))]
    if base is not root and copies[0].stride() != root.stride():
        call.refuse("writes into a view of a tensor that has gaps in memory")
    rows = [_same_view(base, root, copy) for copy in copies]
    if numbers:
        call.of(plain)
    else:
        rows = [base, *rows]
    for k, row in enumerate(rows):
        Call(call.func, (row, *call.args[1:]), call.kwargs).of_candidate(k)
    return _turned(base, copies, weights, Kind.NUMBER if numbers else call.kind, call)


def _turned(base: Tensor, copies: list[Tensor], weights: Tensor, kind: Kind, call: Call) -> Tensor:
    """Makes a tensor mixed, and what it is a view of; its copies hold the other candidates."""
    root = _root(base)
    for tensor in [base] if root is base else [base, root]:
        others = [_same_view(tensor, root, copy) for copy in copies]
        turn_into_mixed(tensor, others, weights, kind, call.usage).lost_at = call.lost_at
    return base


def _root(tensor: Tensor) -> Tensor:
    base = tensor._base
    return tensor if base is None else base


def _same_view(tensor: Tensor, root: Tensor, copy: Tensor) -> Tensor:
    """Returns the part of a copy that a tensor is of its root."""
    if tensor is root:
        return copy
    offset = tensor.storage_offset() - root.storage_offset()
    return copy.as_strided(tensor.size(), tensor.stride(), offset)


# Weights per sample: those of each entry, after the write.


def _weights_written(call: Call, base: Tensor) -> Tensor:
    if not call.usage.per_sample or call.settled:
        return call.weights
    if is_live(base) and len(call.live) == 1:
        if call.name[:-1] in REDUCTIONS:
            call.refuse("combines samples that have different weights")
        return call.weights
    if _root(base) is not base and not is_live(base):
        call.refuse("writes into a view")
    if writes_elementwise(call.name):
        return call.aligned_right(base)
    if call.name[:-1] in SCATTERS:
        return scattered_weights(call, base)
    if call.name not in ("__setitem__", "index_put_") or len(call.args) != 3:
        call.refuse("writes by label")
    index = call.args[1]
    labels = [tensor for tensor in tensors_in(index) if is_live(tensor)]
    if not labels:
        return _weights_of_placed(call, base)
    if index is labels[0] and index.dtype == torch.bool:
        return call.aligned_left(base)
    return _weights_of_rows(call, base)


def scattered_weights(call: Call, result: Tensor) -> Tensor:
    """Returns the weights of what is scattered within samples."""
    weights = call.aligned_right(result)
    dim = call.kwargs.get("dim", call.args[1] if len(call.args) > 1 else 0)
    if weights.ndim > 1 and weights.shape[1:][dim] > 1:
        call.refuse("writes into other samples")
    return weights


def _weights_of_placed(call: Call, base: Tensor) -> Tensor:
    """Mixed values written at places that are the same for all candidates."""
    index, value = call.args[1:]
    weights = _expanded(call, base, base.shape)
    for row, written in zip(weights, value.weights, strict=True):
        row[index] = written.expand(value.shape)
    return weights


def _weights_of_rows(call: Call, base: Tensor) -> Tensor:
    """Entries of rows, as in ``x[range(B), y] = 1``."""
    index = call.args[1]
    rows = index[0] if isinstance(index, (tuple, list)) else None
    picked, *others = (tensor.weights for tensor in call.live if tensor is not base)
    one = isinstance(rows, int) or (isinstance(rows, Tensor) and rows.ndim == 0)
    if rows is None or isinstance(rows, (slice, MixedTarget)) or picked.ndim != 2 - one:
        call.refuse("writes by label elsewhere than in rows")
    if not all(same_layout(other, picked) for other in others):
        call.refuse("combines samples that have different weights")
    row_by_row = picked.reshape(len(picked), -1, *[1] * (base.ndim - 1))
    if _in_order(call, picked) and row_by_row.shape[1] == len(base):
        if is_live(base) and not same_layout(base.weights, picked):
            call.refuse("combines samples that have different weights")
        return row_by_row
    weights = _expanded(call, base, torch.Size([len(base), *row_by_row.shape[2:]]))
    weights[:, rows] = row_by_row.squeeze(1) if one else row_by_row
    return weights


def _in_order(call: Call, weights: Tensor) -> bool:
    """Returns whether weights are those of the whole batch, as it came."""
    ranking = call.usage.ranking
    return ranking is not None and same_layout(weights, ranking[0])


def _expanded(call: Call, base: Tensor, shape: torch.Size) -> Tensor:
    """Copies the weights of a tensor's entries before a write; a plain one has one candidate."""
    weights = base.weights if is_live(base) else whole(call.weights)
    sizes = weights.shape[1:] or [1] * len(shape)
    if any(size not in (1, full) for size, full in zip(sizes, shape, strict=True)):
        call.refuse("writes into samples that have different weights")
    return weights.reshape(-1, *sizes).expand(-1, *shape).clone()
