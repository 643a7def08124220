"""Nested lists, tuples, dicts and slices, in which tensors are found and replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["map_tensors", "map_together", "tensors_in"]


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
        return {key: map_tensors(value, change) for key, value in tree.items()}
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
        return _rebuilt(
            first, [map_together(combine, parts) for parts in zip(*trees, strict=True)]
        )
    return combine(*trees)


def tensors_in(tree: Any) -> Iterator[Tensor]:
    """Yields the tensors of a tree.

    Example:
        >>> list(tensors_in({"a": [torch.tensor(1), "b"]}))
        [tensor(1)]
    """
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from tensors_in(value)
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from tensors_in(value)
    elif isinstance(tree, slice):
        yield from tensors_in((tree.start, tree.stop, tree.step))


def _rebuilt(like: Any, values: list[Any]) -> Any:
    if isinstance(like, torch.Size):
        return like
    return type(like)(*values) if hasattr(like, "_fields") else type(like)(values)
