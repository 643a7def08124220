"""The containers of a batch: what is in them, and a copy with entries replaced.

A batch is nested containers around tensors: lists, tuples and dicts, what looks like a dict
(Hugging Face's ``BatchEncoding``, PyG's ``Batch``), dataclasses and other objects with attributes.
A path names one entry: the indices, keys and attributes that lead to it, ``(1,)`` in
``x, y = batch``, ``("image",)`` in a dict.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, MutableSequence, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lightning_mixup.errors import MixupTypeError

__all__ = [
    "Path",
    "child",
    "get_entries",
    "get_entry",
    "is_mapping",
    "key_of",
    "kinds_in",
    "leaves_of",
    "length_of",
    "name_of_path",
    "replace_entries",
    "selector_of",
    "words_of",
]

Path: TypeAlias = tuple[Any, ...]


def get_entry(batch: Any, path: Path) -> Any:
    """Returns the entry at a path."""
    return get_entries(batch, [path])[0]


def get_entries(batch: Any, paths: Iterable[Path]) -> list[Any]:
    """Returns the entries at several paths."""
    found = []
    for path in paths:
        node = batch
        for part in path:  # As `child` does, most of it without a call.
            node = node[part] if isinstance(node, (list, tuple, dict)) else child(node, part)
        found.append(node)
    return found


def replace_entries(batch: Any, values: Mapping[Path, Any]) -> Any:
    """Returns a copy of a batch's containers, with some entries replaced.

    Args:
        batch: Nested containers. Never modified.
        values: The new entries by their paths.

    Returns:
        The copy, of the same types, or the batch itself where there is nothing to replace.
        Entries that are not named are the batch's own.

    Example:
        >>> replace_entries({"x": 1, "y": (2, 3)}, {("y", 0): 20})
        {'x': 1, 'y': (20, 3)}
    """
    if not values:
        return batch
    if () in values:
        return values[()]
    items: dict[Any, Any] = {}
    below: dict[Any, dict[Path, Any]] = {}
    for (first, *rest), value in values.items():
        if rest:
            below.setdefault(first, {})[tuple(rest)] = value
        else:
            items[first] = value
    for key, inner in below.items():
        items[key] = replace_entries(child(batch, key), inner)
    if isinstance(batch, (list, tuple)):
        kept = list(batch)
        for i, value in items.items():
            kept[i] = value
        return type(batch)(*kept) if hasattr(batch, "_fields") else type(batch)(kept)
    if is_mapping(batch):
        return _with_items(batch, items)
    changed = copy.copy(batch)
    for name, value in items.items():
        object.__setattr__(changed, name, value)  # frozen dataclasses refuse setattr
    return changed


def _with_items(batch: Any, items: dict[Any, Any]) -> Any:
    """Returns a copy of what looks like a dict, with some items replaced.

    Raises:
        MixupTypeError: If it can't be copied.
    """
    if not hasattr(batch, "__setitem__"):
        return type(batch)({**batch, **items})
    changed = copy.copy(batch)
    if not hasattr(batch, "__copy__"):  # of a dict that it holds, `copy` makes another name
        for name, value in vars(changed).items() if hasattr(changed, "__dict__") else ():
            if isinstance(value, (MutableMapping, MutableSequence)):
                setattr(changed, name, copy.copy(value))
    for key, value in items.items():
        before = batch[key]
        changed[key] = value
        if batch[key] is value and before is not value:
            batch[key] = before
            raise MixupTypeError(
                f"The batch holds a {type(batch).__name__}, and copy.copy() of it writes into the "
                "original. Give it a method __copy__, or hand over a dict."
            )
    return changed


def name_of_path(path: Path) -> str:
    """Writes a path as a user would, ``batch[1]`` or ``'views.left'``."""
    if not path:
        return "the batch"
    if all(isinstance(part, int) for part in path):
        return "batch" + "".join(f"[{part}]" for part in path)
    return repr(".".join(map(str, path)))


def selector_of(paths: Sequence[Path]) -> Any:
    """Writes paths as what names them, ``1``, ``'views.left'`` or a list of these.

    Example:
        >>> selector_of([(1,), ("views", "left")])
        [1, 'views.left']
    """
    names = [path[0] if len(path) == 1 else ".".join(map(str, path)) for path in paths]
    return names[0] if len(names) == 1 else names


def leaves_of(
    tree: Any, path: Path = (), above: tuple[Any, ...] = ()
) -> Iterator[tuple[Path, Any]]:
    """Yields the entries of a batch with their paths.

    Example:
        >>> list(leaves_of({"x": 1, "y": {"z": 2}}))
        [(('x',), 1), (('y', 'z'), 2)]
    """
    is_loop = any(tree is node for node in above)
    children = None if is_loop else _children(tree)
    if children is None:
        yield path, tree
        return
    for key, value in children:
        yield from leaves_of(value, (*path, key), (*above, tree))


def kinds_in(node: Any) -> list[Any]:
    """Returns what containers of the same form have in common: the types of what they hold.

    Those of anything but a sequence come with their keys or attributes.
    """
    if isinstance(node, (list, tuple)):
        return list(map(type, node))
    return [(key, type(value)) for key, value in _children(node) or ()]


def key_of(batch: Any, path: Path) -> str:
    """Returns an entry's own key, or its field of a namedtuple; the batch itself has none."""
    if not path:
        return ""
    names = getattr(get_entry(batch, path[:-1]), "_fields", None)
    return str(names[path[-1]] if names else path[-1])


def words_of(batch: Any, path: Path) -> list[str]:
    """Returns the words of an entry's key, as in ``sample_id``."""
    return key_of(batch, path).lower().replace("-", "_").split("_")


def length_of(node: Any) -> int | None:
    """Returns how many samples a tensor, an array or a list could hold, None for other things."""
    if isinstance(node, (list, tuple)):
        is_one = hasattr(node, "_fields") or isinstance(node, torch.Size)
        return None if is_one else len(node)
    if getattr(node, "is_nested", False):
        return int(node.size(0))  # Nested tensors needn't have a shape.
    shape = getattr(node, "shape", None)
    return shape[0] if shape else None


def child(node: Any, key: Any) -> Any:
    """Returns what a container holds at an index, a key or an attribute."""
    by_key = isinstance(node, (list, tuple, dict)) or is_mapping(node)
    return node[key] if by_key else getattr(node, key)


def is_mapping(node: Any) -> bool:
    """Returns whether something is a dict, or looks like one, as PyG's ``Data`` does."""
    return isinstance(node, Mapping) or (hasattr(node, "keys") and hasattr(node, "__getitem__"))


def _children(node: Any) -> list[tuple[Any, Any]] | None:
    """Returns the keys and values of a container, None for what is an entry itself."""
    if isinstance(node, (Tensor, str, bytes, type)):
        return None
    if isinstance(node, (list, tuple)):
        is_entry = not hasattr(node, "_fields") and _is_plain_data(node)
        return None if is_entry else list(enumerate(node))
    if is_mapping(node):
        if hasattr(node, "__copy__"):
            node = copy.copy(node)  # PyG's HeteroData makes what it is asked for
        return [(key, node[key]) for key in node.keys()]  # noqa: SIM118  PyG's Data iterates pairs
    if is_dataclass(node):
        return [(field.name, getattr(node, field.name)) for field in fields(node)]
    names = [*getattr(node, "__dict__", ()), *_slots_of(type(node))]
    public = [(name, getattr(node, name)) for name in names if not name.startswith("_")]
    return public or None


def _slots_of(kind: type) -> list[str]:
    """Returns the names of slots, of classes that hold nothing else."""
    slots = [getattr(base, "__slots__", ()) for base in kind.__mro__[:-1]]
    return [name for names in slots for name in ([names] if isinstance(names, str) else names)]


def _is_plain_data(values: Sequence[Any]) -> bool:
    """Returns whether a list holds paths or numbers rather than entries of a batch."""
    return all(isinstance(value, (str, bytes, int, float)) or value is None for value in values)
