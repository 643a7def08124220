"""Which of a step's losses can be believed, and why others can't."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_mixup.containers import leaves_of
from lightning_mixup.observation import (
    Observation,
    has_memory,
    inputs_of,
    is_equal,
    is_same,
    shares_memory,
    start_of,
)

__all__ = [
    "MULTI_LABEL",
    "agreeing",
    "distinct",
    "doubt_of_labels",
    "entry_of",
    "is_alike",
    "joined",
    "leaving_out",
    "made_by",
]

# What leaves out or weighs entries of a loss with reduction="none".
_PICKS = frozenset(("index_select", "gather", "take", "take_along_dim", "__setitem__", "select"))
_PRODUCTS = frozenset(("mul", "multiply", "mul_", "multiply_"))
_SUMS_OF_PRODUCTS = frozenset(("matmul", "dot", "inner", "vdot", "mv", "einsum", "tensordot"))
MULTI_LABEL = "multi-label"


def entry_of(batch: Any, tensor: Tensor) -> Tensor | None:
    """Returns the entry of a batch whose samples a tensor holds, all of them and in order.

    Args:
        batch: Nested containers.
        tensor: One that a step has used, such as a view of an entry, or a copy of equal values.

    Example:
        >>> x, y = torch.rand(2, 3), torch.tensor([[1, 2, 0], [0, 1, 1]])
        >>> entry_of((x, y), y.view(-1)) is y
        True
    """
    if not tensor.ndim:
        return None
    entries = [entry for entry in _entries(batch) if entry.numel() == tensor.numel()]
    views = (entry for entry in entries if is_same(entry, tensor))
    copies = (entry for entry in entries if len(entry) == len(tensor) and is_equal(entry, tensor))
    found = next(views, None)
    return next(copies, None) if found is None else found


def _entries(batch: Any) -> list[Tensor]:
    leaves = (leaf for _, leaf in leaves_of(batch))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim and has_memory(leaf)]


def leaving_out(
    name: str, args: tuple[Any, ...], each: Tensor, others: list[Tensor]
) -> list[bool | Tensor]:
    """Returns, without waiting for the device, whether entries of a loss are left out."""
    if name in _PRODUCTS:
        # A factor of zero may also be that of focal loss, where the loss itself is nothing.
        is_half = any(x.is_floating_point() and x.element_size() < 4 for x in (each, *others))
        least = 0.01 if is_half else 1e-5
        return [((other == 0) & (each.abs() > least)).any() for other in others]
    if name in _SUMS_OF_PRODUCTS:
        return [(other == 0).any() for other in others]
    if name in ("masked_fill", "masked_fill_"):
        return [other.bool().any() for other in others[:1]]
    if name == "masked_select":
        return [~other.all() for other in others]
    if name == "where" and len(args) > 1 and isinstance(args[0], Tensor):
        return [~args[0].all() if args[1] is each else args[0].any()]
    if name == "__getitem__" and args[0] is each:
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        return [_leaves_out(part) for part in index]
    return [True] if name in _PICKS and args[0] is each else []


def _leaves_out(part: Any) -> bool | Tensor:
    if isinstance(part, Tensor) and part.dtype == torch.bool:
        return ~part.all()
    return not (
        part is None or part is Ellipsis or (isinstance(part, slice) and part == slice(None))
    )


def made_by(name: str, maker: str) -> str:
    """Says that labels are made in the step."""
    return f"the labels of {name} are made in the step, by {maker}"


def doubt_of_labels(each: Observation, batch: Any) -> str:
    """Returns why targets may be no classes of the samples of a batch, in words."""
    if each.origin is not None and not _is_data(each.origin.source, batch):
        return made_by(each.loss, each.origin.name)
    target = inputs_of(each)[1]
    entries = _entries(batch)
    if not target.ndim or not entries:
        return ""
    is_tiled = any(_is_tiled(target, entry) for entry in entries)
    if is_tiled and entry_of(batch, target) is None:  # else a mask that is all background
        return f"the targets of {each.loss} hold every label several times, as of views or crops"
    if each.is_binary and target.ndim == 3 and target.shape[1] == 1 < target.shape[2]:
        return f"the targets of {each.loss} are {MULTI_LABEL}"
    if each.is_binary and target.numel() == len(target):
        size = target.numel()
        is_known = any(
            size <= len(entry) or (size == entry.numel() and entry.ndim > 2) for entry in entries
        )
        if not is_known:
            return f"the targets of {each.loss} are {MULTI_LABEL}"
    return ""


def _is_data(source: Any, batch: Any) -> bool:
    if not isinstance(source, Tensor):
        return _is_within(source, batch)
    if not has_memory(source):
        return False
    shared = any(shares_memory(source, entry) for entry in _entries(batch))
    return shared or entry_of(batch, source) is not None


def _is_within(numbers: Any, batch: Any) -> bool:
    """Returns whether the very same list is in a batch."""
    if isinstance(batch, dict):
        batch = list(batch.values())
    if numbers is batch or not isinstance(batch, (list, tuple)):
        return numbers is batch
    return any(_is_within(numbers, part) for part in batch)


def _is_tiled(target: Tensor, entry: Tensor) -> bool:
    """Returns whether targets are several times an entry of the batch."""
    size = len(entry)
    if not size or target.shape[1:] != entry.shape[1:] or target.device != entry.device:
        return False
    times, rest = divmod(len(target), size)
    if rest or times < 2:
        return False
    copies = target.reshape(times, *entry.shape) == entry
    repeats = target.reshape(size, times, *entry.shape[1:]) == entry[:, None]
    return bool(copies.all() | repeats.all())


def agreeing(found: Observation, named: Tensor) -> Observation | str:
    """Returns an observation whose logits are those that the step returns, or why not."""
    if not _is_other(found, named):
        return found
    return (
        f"what {found.loss} is given are other logits than outputs['logits'], as with a margin or "
        "a prior in the loss"
    )


def _is_other(each: Observation, named: Tensor) -> bool:
    """Returns whether logits by name say something else than those of the loss do."""
    given = inputs_of(each)[0]
    if named.shape != given.shape or is_same(given, named):
        return False
    named = named.detach().to(given.device, torch.float32)
    if each.is_binary:
        one, other = (each.logits[:, 1] - each.logits[:, 0]).float(), named.reshape(-1)
    else:
        classes = min(1, given.ndim - 1)
        one, other = (x - x.mean(classes, keepdim=True) for x in (given.float(), named))
    scale = (one * other).sum() / (other * other).sum().clamp(min=1e-30)
    strays = (one - scale * other).abs() > 0.02 * one.abs().max()
    return bool(strays.any() | (scale < 0))


def is_alike(one: Observation, other: Observation) -> bool:
    """Returns whether two losses say the same by value, of logits that say anything."""
    if one.is_binary != other.is_binary or one.ignore_index != other.ignore_index:
        return False
    if one.logits.shape != other.logits.shape or one.target.shape != other.target.shape:
        return False
    if one.logits.device != other.logits.device or not torch.equal(one.target, other.target):
        return False
    classes = min(1, one.logits.ndim - 1)
    first, second = (each.logits.float().softmax(classes) for each in (one, other))
    is_empty = ((first - first.mean(classes, keepdim=True)).abs() < 1e-6).all()
    return torch.allclose(first, second, atol=1e-5, equal_nan=True) and not bool(is_empty)


def joined(found: list[Observation], batch: Any) -> Observation | None:
    """Joins losses of consecutive pieces of one entry of the batch, which leave nothing out."""
    first = found[0]
    if any(_kind(each) != _kind(first) for each in found):
        return None
    targets = [inputs_of(each)[1] for each in found]
    wholes = (entry for entry in _entries(batch) if start_of(entry) == start_of(targets[0]))
    whole = next(wholes, None)
    if whole is None or not _are_pieces(targets, whole):
        return None
    return replace(
        first,
        logits=torch.cat([each.logits for each in found]),
        target=torch.cat([each.target for each in found]),
        given=(torch.cat([inputs_of(each)[0] for each in found]), whole),
    )


def _are_pieces(targets: list[Tensor], whole: Tensor) -> bool:
    """Returns whether tensors are consecutive rows of another in memory, all that it has."""
    storage, end = start_of(whole)
    for target in (whole, *targets):
        if not target.is_contiguous() or target.shape[1:] != whole.shape[1:]:
            return False
    for target in targets:
        if target.ndim != whole.ndim or start_of(target) != (storage, end):
            return False
        end += target.numel()
    is_all = sum(map(len, targets)) == len(whole)
    return is_all and all(target.dtype == whole.dtype for target in targets)


def distinct(found: list[Observation]) -> list[Observation]:
    """Leaves out losses of the very same logits and targets as one before."""
    kept: list[Observation] = []
    for each in found:
        if not any(_is_repeated(each, other) for other in kept):
            kept.append(each)
    return kept


def _is_repeated(one: Observation, other: Observation) -> bool:
    (scores, target), (others_scores, others_target) = inputs_of(one), inputs_of(other)
    if _kind(one) != _kind(other) or not is_same(scores, others_scores):
        return False
    if target.shape != others_target.shape or target.dtype != others_target.dtype:
        return False
    return is_same(target, others_target) or torch.equal(target, others_target)


def _kind(each: Observation) -> tuple[Any, ...]:
    return each.loss, each.ignore_index, each.is_binary, each.logits.shape[1:], each.logits.dtype
