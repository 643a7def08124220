"""Where the inputs and targets are in a batch, and a copy with them replaced.

A batch is nested containers around tensors: lists, tuples and dicts, what looks like a dict
(Hugging Face's ``BatchEncoding``, PyG's ``Batch``), dataclasses and other objects with attributes.
A path names one entry: the indices, keys and attributes that lead to it, ``(1,)`` in
``x, y = batch``, ``("image",)`` in a dict.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

__all__ = [
    "Entries",
    "find_entries",
    "get_entry",
    "looks_mixed",
    "name_of_path",
    "replace_entries",
]

Path: TypeAlias = tuple[Any, ...]
Selector: TypeAlias = "int | str | Callable[[Any], Any] | Sequence[int | str] | None"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_INPUT_NAMES = _words("""
    x input inputs image images img imgs pixel_values data feature features feat feats
    input_values input_features waveform waveforms wav audio audios video videos signal signals
    spectrogram spectrograms spec mel series time_series
""")

_TARGET_NAMES = _words("""
    y label labels target targets mask masks class classes class_id class_ids category categories
""")

# A float for each sample, by which its loss counts: mixed like a label, and with it.
_WEIGHT_NAMES = _words("""
    weight weights sample_weight sample_weights loss_weight loss_weights
""")

# An integer entry of such a name tells samples apart and means nothing to a model.
_ID_NAMES = ("id", "ids", "idx", "index", "indices", "key", "keys", "uid", "uuid", "path", "paths")


@dataclass(frozen=True)
class Entries:
    """The entries of a batch that are mixed."""

    inputs: tuple[Path, ...]
    targets: tuple[Path, ...]
    batch_size: int
    device: torch.device

    def describe(self) -> str:
        """Names the entries in words."""
        inputs, targets = (
            " and ".join(map(name_of_path, paths)) for paths in (self.inputs, self.targets)
        )
        return f"{inputs}, with the target {targets}" if targets else f"{inputs}, without a target"


def find_entries(batch: Any, inputs: Selector = "auto", targets: Selector = "auto") -> Entries:
    """Finds what is to be mixed in a batch.

    Args:
        batch: Nested containers around tensors. Never modified.
        inputs: An index, a key or a dotted path (``"views.left"``, ``"0.image"``), several of
            them, or a function of the batch that returns the entries; ``"auto"`` goes by position
            (inputs first, targets second) and by the usual names (``image``, ``label``, …), and
            refuses what these leave open.
        targets: Likewise, with a ``weight`` for each sample's loss; None where there are no
            targets to mix.

    Returns:
        The paths of inputs and targets, and the size and device of the batch.

    Raises:
        TypeError: If an input is not floating-point, or an entry is no tensor.
        ValueError: If inputs and targets can't be told apart, or disagree on the batch size.

    Example:
        >>> batch = {"image": torch.rand(4, 3, 8, 8), "label": torch.arange(4), "path": ["a"] * 4}
        >>> find_entries(batch).describe()
        "'image', with the target 'label'"
    """
    leaves = dict(_leaves(batch))
    target_paths = _find_targets(batch, leaves, targets, inputs)
    input_paths = _find_inputs(batch, leaves, inputs, target_paths)
    if targets == "auto":
        target_paths += _find_weights(batch, leaves, (*input_paths, *target_paths))
    mixed = (*input_paths, *target_paths)
    for path in input_paths:
        _check_input(path, leaves[path])
    _check_once(leaves, mixed)
    _check_sizes(leaves, mixed)
    first = leaves[input_paths[0]]
    if inputs == "auto":
        unused = _likely_targets(batch, leaves) if targets is None else ()
        _check_rest(leaves, (*mixed, *unused), len(first))
    return Entries(input_paths, target_paths, len(first), first.device)


def replace_entries(batch: Any, values: Mapping[Path, Any]) -> Any:
    """Returns a copy of a batch's containers, with some entries replaced.

    Args:
        batch: Nested containers. Never modified.
        values: The new entries by their paths.

    Returns:
        The copy, of the same types. Entries that are not named are the batch's own.

    Example:
        >>> replace_entries({"x": 1, "y": (2, 3)}, {("y", 0): 20})
        {'x': 1, 'y': (20, 3)}
    """
    if () in values:
        return values[()]
    below: dict[Any, dict[Path, Any]] = {}
    for (first, *rest), value in values.items():
        below.setdefault(first, {})[tuple(rest)] = value
    if not isinstance(batch, (list, tuple)):
        changed = copy.copy(batch)
        for key, inner in below.items():
            value = replace_entries(_child(batch, key), inner)
            if _is_mapping(batch):
                changed[key] = value
            else:
                object.__setattr__(changed, key, value)  # frozen dataclasses refuse setattr
        return changed
    items = [
        replace_entries(item, below[i]) if i in below else item for i, item in enumerate(batch)
    ]
    return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)


def get_entry(batch: Any, path: Path) -> Any:
    """Returns the entry at a path."""
    for part in path:
        batch = _child(batch, part)
    return batch


def _child(node: Any, key: Any) -> Any:
    by_key = isinstance(node, (list, tuple)) or _is_mapping(node)
    return node[key] if by_key else getattr(node, key)


def _is_mapping(node: Any) -> bool:
    """Returns whether something is a dict, or looks like one, as PyG's ``Data`` does."""
    return isinstance(node, Mapping) or (hasattr(node, "keys") and hasattr(node, "__getitem__"))


def looks_mixed(target: Tensor) -> bool:
    """Returns whether a target holds shares of classes, as mixing and smoothing make them.

    Example:
        >>> looks_mixed(torch.tensor([[0.9, 0.1], [0.0, 1.0]]))
        True
        >>> looks_mixed(torch.eye(3))
        False
    """
    if not target.is_floating_point() or target.ndim < 2 or target.shape[1] < 2:
        return False
    shares = (target >= 0).all() & ((target.sum(dim=1) - 1).abs() < 1e-3).all()
    return bool(shares & (target < 0.999).logical_and(target > 0.001).any())


def name_of_path(path: Path) -> str:
    """Writes a path as a user would, ``batch[1]`` or ``'views.left'``."""
    if not path:
        return "the batch"
    if all(isinstance(part, int) for part in path):
        return "batch" + "".join(f"[{part}]" for part in path)
    return repr(".".join(map(str, path)))


def _leaves(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    children = _children(tree)
    if children is None:
        yield path, tree
        return
    for key, value in children:
        yield from _leaves(value, (*path, key))


def _children(node: Any) -> list[tuple[Any, Any]] | None:
    """Returns the keys and values of a container, None for what is an entry itself."""
    if isinstance(node, (Tensor, str, bytes, type)):
        return None
    if isinstance(node, (list, tuple)):
        is_entry = not hasattr(node, "_fields") and _is_plain_data(node)
        return None if is_entry else list(enumerate(node))
    if _is_mapping(node):
        return [(key, node[key]) for key in node.keys()]  # noqa: SIM118  PyG's Data iterates pairs
    if is_dataclass(node):
        return [(field.name, getattr(node, field.name)) for field in fields(node)]
    public = {k: v for k, v in getattr(node, "__dict__", {}).items() if not k.startswith("_")}
    return list(public.items()) or None


def _is_plain_data(values: Sequence[Any]) -> bool:
    """Returns whether a list holds paths or numbers rather than entries of a batch."""
    return all(isinstance(value, (str, bytes, int, float)) or value is None for value in values)


def _find_targets(
    batch: Any, leaves: dict[Path, Any], targets: Selector, inputs: Selector
) -> tuple[Path, ...]:
    if targets is None:
        return ()
    if targets != "auto":
        return _select(batch, leaves, targets, "targets")
    chosen = set() if inputs in ("auto", None) else set(_select(batch, leaves, inputs, "inputs"))
    free = {path: value for path, value in leaves.items() if path not in chosen}
    found = _likely_targets(batch, free)
    if len(found) != 1:
        reason = "has several entries that could be the target" if found else "has no target"
        raise ValueError(_cannot_tell(leaves, reason))
    return found


def _likely_targets(batch: Any, leaves: dict[Path, Any]) -> tuple[Path, ...]:
    return _by_name(batch, leaves, _TARGET_NAMES) or _by_position(leaves, 1)


def _find_inputs(
    batch: Any, leaves: dict[Path, Any], inputs: Selector, targets: tuple[Path, ...]
) -> tuple[Path, ...]:
    if inputs is None:
        raise ValueError("inputs=None mixes nothing. Name an entry, or leave the callback out.")
    if inputs != "auto":
        return _select(batch, leaves, inputs, "inputs")
    free = {path: value for path, value in leaves.items() if path not in targets}
    found = _by_name(batch, free, _INPUT_NAMES) or _by_position(free, 0)
    tensors = [path for path, value in free.items() if isinstance(value, Tensor)]
    only_integers = not any(map(_can_be_mixed, (free[path] for path in tensors)))
    if not found and (len(tensors) == 1 or only_integers):
        found = tuple(tensors[:1])
    if not found:
        raise ValueError(_cannot_tell(leaves, "has entries that don't tell which is the input"))
    return found


def _find_weights(
    batch: Any, leaves: dict[Path, Any], known: tuple[Path, ...]
) -> tuple[Path, ...]:
    sizes = {leaves[path].shape[:1] for path in known}
    named = _by_name(batch, leaves, _WEIGHT_NAMES)
    return tuple(
        path
        for path in named
        if path not in known and leaves[path].shape[:1] in sizes and _can_be_mixed(leaves[path])
    )


def _by_name(batch: Any, leaves: dict[Path, Any], names: frozenset[str]) -> tuple[Path, ...]:
    """Returns the tensors whose own key, or field of a namedtuple, is one of the names."""
    return tuple(
        path
        for path, value in leaves.items()
        if isinstance(value, Tensor) and path and _key(batch, path).lower() in names
    )


def _key(batch: Any, path: Path) -> str:
    names = getattr(get_entry(batch, path[:-1]), "_fields", None)
    return str(names[path[-1]] if names else path[-1])


def _by_position(leaves: dict[Path, Any], position: int) -> tuple[Path, ...]:
    """Returns the tensors at one place of a list or tuple: inputs come first, targets second."""
    return tuple(
        path
        for path, value in leaves.items()
        if isinstance(value, Tensor) and path and isinstance(path[0], int) and path[0] == position
    )


def _select(batch: Any, leaves: dict[Path, Any], selector: Any, argument: str) -> tuple[Path, ...]:
    if callable(selector):
        return _select_by(selector, batch, leaves, argument)
    several = isinstance(selector, Sequence) and not isinstance(selector, str)
    return tuple(
        _resolve(batch, leaves, part, argument) for part in (selector if several else [selector])
    )


def _select_by(
    function: Callable[[Any], Any], batch: Any, leaves: dict[Path, Any], argument: str
) -> tuple[Path, ...]:
    """Finds the entries that a function returns.

    Raises:
        ValueError: If it returns something else.
    """
    returned = function(batch)
    wanted = returned if isinstance(returned, (list, tuple)) else [returned]
    found = [[path for path, value in leaves.items() if value is tensor] for tensor in wanted]
    if not all(found) or not all(isinstance(tensor, Tensor) for tensor in wanted):
        name = getattr(function, "__name__", repr(function))
        reason = f"has no entry that {argument}={name} returned: it must be a tensor of the batch"
        raise ValueError(_cannot_tell(leaves, f"{reason} itself, and no view or copy"))
    return tuple(paths[0] for paths in found)


def _resolve(batch: Any, leaves: dict[Path, Any], selector: int | str, argument: str) -> Path:
    """Follows an index, key or dotted path into the batch.

    Raises:
        TypeError: If it leads to something else than a tensor.
        ValueError: If it leads nowhere.
    """
    node: Any = batch
    path: Path = ()
    whole = isinstance(selector, int) or (_is_mapping(batch) and selector in batch)
    parts = [selector] if whole else str(selector).split(".")
    try:
        for part in parts:
            key = part
            if isinstance(node, Sequence):
                names = getattr(node, "_fields", ())
                key = names.index(part) if part in names else range(len(node))[int(part)]
            node, path = _child(node, key), (*path, key)
    except (AttributeError, KeyError, IndexError, ValueError, TypeError) as error:
        raise ValueError(_cannot_tell(leaves, f"has no entry {argument}={selector!r}")) from error
    if not isinstance(node, Tensor):
        raise TypeError(
            f"{argument}={selector!r} is a {type(node).__name__} in this batch, but a tensor is "
            f"mixed. The batch holds\n{_inventory(leaves)}"
        )
    return path


def _can_be_mixed(value: Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def _check_input(path: Path, value: Tensor) -> None:
    name = name_of_path(path)
    if _can_be_mixed(value):
        if value.layout != torch.strided:
            raise TypeError(
                f"The input {name} is {value.layout}, and dense tensors are mixed. Convert it in "
                "on_after_batch_transfer, for example with `x.to_dense()`."
            )
        return
    if value.dtype == torch.uint8:
        raise TypeError(
            f"The input {name} has dtype torch.uint8, and images are mixed as floats. Convert "
            "them on the device before, in the module's on_after_batch_transfer(self, batch, "
            "dataloader_idx), for example `x, y = batch; return x.float() / 255, y`."
        )
    raise TypeError(
        f"The input {name} has dtype {value.dtype}, and integers can't be interpolated. If it "
        "holds token or category ids, they can be mixed at a hidden layer only, such as their "
        "embedding: name a hidden layer, layers=[...], once there is a version with it. If it is "
        "the target, say so: MixupCallback(inputs=..., targets=...). If it holds quantities, "
        "convert it in the module's on_after_batch_transfer, for example with `x.float()`."
    )


def _check_once(leaves: dict[Path, Any], paths: tuple[Path, ...]) -> None:
    """Refuses an entry that is named twice.

    Raises:
        ValueError: Then.
    """
    twice = sorted({name_of_path(path) for path in paths if paths.count(path) > 1})
    if twice:
        raise ValueError(_cannot_tell(leaves, f"has {', '.join(twice)} named more than once"))


def _check_sizes(leaves: dict[Path, Any], paths: tuple[Path, ...]) -> None:
    """Refuses entries that don't have the same samples.

    Raises:
        ValueError: Then.
    """
    sizes = {tuple(leaves[path].shape[:1]) for path in paths}
    if len(sizes) == 1 and () not in sizes:
        return
    shapes = ", ".join(f"{name_of_path(p)} {tuple(leaves[p].shape)}" for p in paths)
    raise ValueError(
        f"Inputs and targets don't have the same batch size: {shapes}. The first dimension counts "
        "the samples; say what is mixed with MixupCallback(inputs=..., targets=...)."
    )


def _check_rest(leaves: dict[Path, Any], known: tuple[Path, ...], batch_size: int) -> None:
    """Refuses a batch of which a part would stay unmixed without a word.

    Raises:
        ValueError: Then.
    """
    for path, value in leaves.items():
        if path in known or not isinstance(value, Tensor):
            continue
        if value.shape[:1] == (batch_size,) and not _is_id(path, value):
            raise ValueError(
                _cannot_tell(leaves, f"has an entry {name_of_path(path)} beside the input")
            )


def _is_id(path: Path, value: Tensor) -> bool:
    words = str(path[-1]).lower().replace("-", "_").split("_")
    return not value.is_floating_point() and words[-1] in _ID_NAMES


def _cannot_tell(leaves: dict[Path, Any], reason: str) -> str:
    inputs, targets = _suggestion(leaves)
    return (
        f"MixupCallback can't tell what to mix: the batch {reason}. It "
        f"holds\n{_inventory(leaves)}\n"
        "Say which entries are mixed, by index, key, dotted path or a function, for example "
        f"MixupCallback(inputs={inputs!r}, targets={targets!r}); others are left alone. "
        "targets=None is for modules that use no labels."
    )


def _suggestion(leaves: dict[Path, Any]) -> tuple[Any, Any]:
    """Returns selectors that could be meant: a target by its name, and all that goes with it."""
    tensors = {path: value for path, value in leaves.items() if isinstance(value, Tensor) and path}
    named = [path for path in tensors if str(path[-1]).lower() in _TARGET_NAMES]
    if len(tensors) < 2:
        return 0, 1
    if len(named) != 1:
        first, second, *_ = map(_selector, tensors)
        return first, second
    size = tensors[named[0]].shape[:1]
    others = [path for path in tensors if path not in named]
    alike = [p for p in others if _can_be_mixed(tensors[p]) and tensors[p].shape[:1] == size]
    inputs = [_selector(path) for path in alike or others[:1]]
    return inputs[0] if len(inputs) == 1 else inputs, _selector(named[0])


def _selector(path: Path) -> Any:
    return path[0] if len(path) == 1 else ".".join(map(str, path))


def _inventory(leaves: dict[Path, Any]) -> str:
    lines = []
    for path, value in leaves.items():
        kind = type(value).__name__
        if isinstance(value, Tensor):
            kind = f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
        lines.append(f"  {name_of_path(path)}: {kind}")
    return "\n".join(lines) or "  nothing"
