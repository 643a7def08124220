"""Nested lists, tuples, dicts and slices, in which tensors are found and replaced."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["fingerprint", "map_tensors", "map_together", "tensors_in"]


def map_tensors(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Returns a copy of a tree in which every tensor is changed; the tree is never modified.

    Example:
        >>> map_tensors({"a": [torch.tensor(1), "kept"]}, lambda t: t + 1)
        {'a': [tensor(2), 'kept']}
    """
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, (list, tuple)):
        return _rebuilt(tree, [map_tensors(value, change) for value in tree])
    if isinstance(tree, dict):
        changed = {key: map_tensors(value, change) for key, value in tree.items()}
        return changed if type(tree) is dict else _updated(tree, changed)
    if isinstance(tree, slice):
        parts = (tree.start, tree.stop, tree.step)
        return slice(*(map_tensors(part, change) for part in parts))
    return tree


def map_together(combine: Callable[..., Any], trees: Sequence[Any]) -> Any:
    """Returns a tree of what is combined from the leaves at the same place of several.

    Example:
        >>> map_together(lambda *leaves: sum(leaves), [(1, 2), (10, 20)])
        (11, 22)
    """
    first = trees[0]
    if isinstance(first, (list, tuple)) and not isinstance(first, torch.Size):
        parts = zip(*trees, strict=True)
        return _rebuilt(first, [map_together(combine, part) for part in parts])
    if isinstance(first, dict):
        return {key: map_together(combine, [tree[key] for tree in trees]) for key in first}
    return combine(*trees)


def tensors_in(*trees: Any) -> list[Tensor]:
    """Returns the tensors of trees, in order.

    Example:
        >>> tensors_in({"a": [torch.tensor(1), "b"]})
        [tensor(1)]
    """
    found: list[Tensor] = []
    _collect(trees, found)
    return found


_LEAVES = (str, int, float)


def _collect(values: Iterable[Any], found: list[Tensor]) -> None:
    for value in values:  # most are leaves, and not worth more questions
        if value is None or isinstance(value, _LEAVES):
            continue
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            _collect(value, found)
        elif isinstance(value, dict):
            _collect(value.values(), found)
        elif isinstance(value, slice):
            _collect((value.start, value.stop, value.step), found)


def fingerprint(tree: Any) -> Any:
    """Returns something hashable that is the same for the same tensors, unchanged, in one tree.

    Example:
        >>> index = torch.tensor([0, 2])
        >>> fingerprint([index, 1]) == fingerprint([index, 1]) != fingerprint([index.clone(), 1])
        True
    """
    if isinstance(tree, Tensor):
        return id(tree), None if tree.is_inference() else tree._version
    if isinstance(tree, (list, tuple)):
        return tuple(fingerprint(value) for value in tree)
    if isinstance(tree, dict):
        return tuple((key, fingerprint(value)) for key, value in tree.items())
    if isinstance(tree, slice):
        return fingerprint((tree.start, tree.stop, tree.step))
    return type(tree), tree if isinstance(tree, Hashable) else id(tree)


def _rebuilt(like: Any, values: list[Any]) -> Any:
    if isinstance(like, list) and type(like) is not list:
        made = copy.copy(like)  # whatever its constructor takes
        made[:] = values
        return made
    return type(like)(*values) if hasattr(like, "_fields") else type(like)(values)


def _updated(like: dict[Any, Any], changed: dict[Any, Any]) -> dict[Any, Any]:
    """Returns a dict of the same type, such as a defaultdict."""
    made = copy.copy(like)
    for key, value in changed.items():  # Hugging Face's ModelOutput refuses `update`
        made[key] = value
    return made
