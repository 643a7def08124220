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

import numpy as np
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

# An entry of such a name tells samples apart and means nothing to a model: strings, or one integer
# for each sample. That of a user, a shop or a token is a category, which a model embeds.
_ID_NAMES = _words("""
    id ids idx index indices key keys uid uuid path paths name names file files filename filenames
""")
_OWNERS_OF_IDS = _words("""
    sample samples example examples instance row batch data file image images img audio video
""")

# What makes it work, in the words of several messages.
_MAKE_TENSORS = "`torch.as_tensor` of numbers, `torch.stack` of tensors of one size"
_LAYERS = "MixupCallback(layers=[...]); `callback.suggest_layers(module, batch)` lists them"


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
    for path in mixed:
        _check_dense(batch, path, leaves[path])
    for path in input_paths:
        _check_input(batch, leaves, path)
    _check_once(batch, leaves, mixed)
    _check_sizes(batch, leaves, mixed)
    first = leaves[input_paths[0]]
    entries = Entries(input_paths, target_paths, len(first), first.device)
    if inputs == "auto":
        _check_views(batch, leaves, input_paths)
        unused = _likely_targets(batch, leaves) if targets is None else ()
        _check_rest(batch, leaves, entries, unused)
    return entries


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
        node = copy.copy(node)  # PyG's HeteroData makes what it is asked for.
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
        raise ValueError(_cannot_tell(batch, leaves, reason))
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
        raise ValueError(
            _cannot_tell(batch, leaves, "has entries that don't tell which is the input")
        )
    return found


def _find_weights(
    batch: Any, leaves: dict[Path, Any], known: tuple[Path, ...]
) -> tuple[Path, ...]:
    sizes = {_length(leaves[path]) for path in known}
    return tuple(
        path
        for path in _by_name(batch, leaves, _WEIGHT_NAMES)
        if path not in known and _length(leaves[path]) in sizes and _can_be_mixed(leaves[path])
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
        raise ValueError(_cannot_tell(batch, leaves, f"{reason} itself, and no view or copy"))
    return tuple(path for paths in found for path in paths)  # one tensor may be several entries


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
        raise ValueError(
            _cannot_tell(batch, leaves, f"has no entry {argument}={selector!r}")
        ) from error
    if isinstance(node, Tensor) and path not in leaves:
        raise ValueError(_cannot_tell(batch, leaves, f"hides {argument}={selector!r}"))
    if not isinstance(node, Tensor):
        raise TypeError(
            f"{argument}={selector!r} is a {type(node).__name__} in this batch, but a tensor is "
            f"mixed: make one of it in the collate function, by {_MAKE_TENSORS}. The batch "
            f"holds\n{_inventory(leaves)}"
        )
    return path


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and _can_be_mixed(value)


def _can_be_mixed(value: Tensor) -> bool:
    is_number = value.is_floating_point() and value.dtype.itemsize > 1  # Floats of 8 bits store.
    return is_number or value.is_complex()


def _length(node: Any) -> int | None:
    """Returns how many samples a tensor, an array or a list could hold, None for other things."""
    if isinstance(node, (list, tuple)):
        return None if hasattr(node, "_fields") else len(node)
    if getattr(node, "is_nested", False):
        return int(node.size(0))  # Nested tensors needn't have a shape.
    shape = getattr(node, "shape", None)
    return shape[0] if shape else None


# Refusals, each with the sentence that makes it work.


def _check_dense(batch: Any, path: Path, value: Tensor) -> None:
    """Refuses sparse and nested tensors.

    Raises:
        TypeError: For them.
    """
    if value.is_nested or value.layout != torch.strided:
        kind = "nested" if value.is_nested else value.layout
        change = "to_padded_tensor(0.0)" if value.is_nested else "to_dense()"
        raise TypeError(
            f"The entry {name_of_path(path)} is {kind}, and dense tensors are mixed. Convert it "
            f"{_conversion(batch, path, change)}."
        )


def _check_input(batch: Any, leaves: dict[Path, Any], path: Path) -> None:
    """Refuses what can't be interpolated.

    Raises:
        TypeError: For integers, and other types that are no numbers.
    """
    name, value = name_of_path(path), leaves[path]
    if _can_be_mixed(value):
        return
    if value.dtype == torch.uint8:
        raise TypeError(
            f"The input {name} has dtype torch.uint8, and images are mixed as floats. Convert "
            f"them {_conversion(batch, path, 'float() / 255')}."
        )
    inputs, targets = _suggestion(batch, leaves)
    example = f", for example {_call(inputs, targets)}" if inputs else ""
    raise TypeError(
        f"The input {name} has dtype {value.dtype}, which can't be interpolated. If it holds "
        f"token or category ids, name the layer that embeds them, {_LAYERS}. If it is no input, "
        f"say what is by inputs= and targets={example}. "
        f"If it holds quantities, convert it {_conversion(batch, path, 'float()')}."
    )


def _conversion(batch: Any, path: Path, change: str) -> str:
    """Writes the hook that changes an entry, or where else to do so if its container is frozen."""
    hook = "in the module's on_after_batch_transfer(self, batch, dataloader_idx), for example "
    owner, entry = batch, "batch"
    for i, part in enumerate(path):
        owner = get_entry(batch, path[:i])
        names = getattr(owner, "_fields", None)
        by_key = names is None and (isinstance(owner, (list, tuple)) or _is_mapping(owner))
        entry += f"[{part!r}]" if by_key else f".{names[part] if names else part}"
    field, changed = entry.rpartition(".")[2], f"{entry}.{change}"
    frozen = getattr(owner, "__dataclass_params__", None)
    if not path:
        return f"{hook}`return {changed}`"
    if not isinstance(owner, tuple) and not (frozen and frozen.frozen):
        return f"{hook}`{entry} = {changed}; return batch`"
    if len(path) > 1:
        return f"in the dataset, for example with `x.{change}`"
    if hasattr(owner, "_fields"):
        return f"{hook}`return batch._replace({field}={changed})`"
    if frozen:
        return f"{hook}`return dataclasses.replace(batch, {field}={changed})`"
    return f"{hook}`batch = list(batch); {entry} = {changed}; return batch`"


def _check_once(batch: Any, leaves: dict[Path, Any], paths: tuple[Path, ...]) -> None:
    """Refuses an entry that is named twice.

    Raises:
        ValueError: Then.
    """
    twice = sorted({name_of_path(path) for path in paths if paths.count(path) > 1})
    if twice:
        raise ValueError(
            _cannot_tell(batch, leaves, f"has {', '.join(twice)} named more than once")
        )


def _check_sizes(batch: Any, leaves: dict[Path, Any], paths: tuple[Path, ...]) -> None:
    """Refuses entries that don't have the same samples.

    Raises:
        ValueError: Then.
    """
    sizes = {_length(leaves[path]) for path in paths}
    if len(sizes) == 1 and None not in sizes:
        return
    shapes = ", ".join(f"{name_of_path(p)} {tuple(leaves[p].shape)}" for p in paths)
    raise ValueError(
        f"Inputs and targets don't have the same batch size: {shapes}. The first dimension counts "
        "the samples; say what is mixed with MixupCallback(inputs=..., targets=...). Where a "
        "sample has several rows, as graphs have nodes, name a hidden layer with one row for each "
        f"sample, such as the pooling, {_LAYERS}.{_on_lists(batch, leaves, paths)}"
    )


def _check_views(batch: Any, leaves: dict[Path, Any], inputs: tuple[Path, ...]) -> None:
    """Refuses as many tensors as samples, of different size: each of them may be a sample.

    Raises:
        ValueError: Then.
    """
    shapes = {leaves[path].shape for path in inputs}
    owners = {path[:-1] for path in inputs}
    if len(shapes) > 1 and len(owners) == 1 and len(inputs) == len(leaves[inputs[0]]):
        owner = owners.pop()
        if owner and _length(get_entry(batch, owner)) == len(inputs):
            reason = f"has samples or views of different size in {name_of_path(owner)}"
            raise ValueError(_cannot_tell(batch, leaves, reason))


def _check_rest(
    batch: Any, leaves: dict[Path, Any], entries: Entries, unused: tuple[Path, ...]
) -> None:
    """Refuses a batch of which a part would stay unmixed without a word.

    Raises:
        ValueError: Then.
    """
    first = leaves[entries.inputs[0]]
    for path, value in leaves.items():
        if path in entries.inputs + entries.targets:
            continue
        counts = path not in unused and _counts_samples(batch, path, value, entries.batch_size)
        if (counts and not _tells_apart(batch, path, value)) or _is_alike(value, first):
            reason = f"has an entry {name_of_path(path)} beside the input"
            has_targets = bool(entries.targets)
            raise ValueError(_cannot_tell(batch, leaves, reason, has_targets=has_targets))


def _counts_samples(batch: Any, path: Path, value: Any, batch_size: int) -> bool:
    """Returns whether an entry has a part for each sample, or is in a list that has."""
    lists = range(1, len(path)) if isinstance(value, Tensor) else ()
    lengths = [_length(value), *(_length(get_entry(batch, path[:i])) for i in lists)]
    return batch_size in lengths or (isinstance(value, Tensor) and _is_named_id(batch, path))


def _is_named_id(batch: Any, path: Path) -> bool:
    return _words_of(batch, path)[-1] in _ID_NAMES


def _words_of(batch: Any, path: Path) -> list[str]:
    return _key(batch, path).lower().replace("-", "_").split("_")


def _is_alike(value: Any, first: Tensor) -> bool:
    """Returns whether a tensor may hold other samples, as those of an episode's queries."""
    if not isinstance(value, Tensor) or value.is_nested or value.ndim < 2 or len(value) == 1:
        return False
    return _can_be_mixed(value) and value.shape[1:] == first.shape[1:]


def _tells_apart(batch: Any, path: Path, value: Any) -> bool:
    """Returns whether an entry is recognisably an id, a path or an index of each sample."""
    *owner, last = _words_of(batch, path)
    if isinstance(value, Tensor):
        is_integer, count = not _can_be_mixed(value), value.numel()
    else:
        array = np.asarray(value)
        if array.dtype.kind in "OSU":
            return last in _ID_NAMES or last.isdecimal()  # Strings in a tuple are paths.
        is_integer, count = array.dtype.kind in "iu", array.size
    is_of_sample = last in _ID_NAMES and {*owner} <= _OWNERS_OF_IDS
    return is_integer and is_of_sample and count == _length(value)


# What makes it work.


def _cannot_tell(
    batch: Any, leaves: dict[Path, Any], reason: str, *, has_targets: bool = True
) -> str:
    inputs, targets = _suggestion(batch, leaves, has_targets=has_targets)
    arrays = [name_of_path(path) for path, value in leaves.items() if _is_array(value)]
    is_whole = inputs and (targets or not arrays)
    example = f", for example {_call(inputs, targets)}" if is_whole else ""
    sentences = [
        f"MixupCallback can't tell what to mix: the batch {reason}. It holds\n"
        f"{_inventory(leaves)}\n"
        f"Say which entries are mixed, by index, key, dotted path or a function{example}; others "
        "are left alone. targets=None is for modules that use no labels."
    ]
    pairs = _are_pairs(*_sets(batch, leaves))
    if arrays:
        names = " and ".join(arrays)
        sentences.append(
            f"To mix {names}, make a tensor in the collate function: {_MAKE_TENSORS}."
        )
    tensors = [path for path, value in leaves.items() if isinstance(value, Tensor)]
    integers = [
        name_of_path(path)
        for path in tensors
        if path not in _sets(batch, leaves)[1] and not _can_be_mixed(leaves[path])
        if not _tells_apart(batch, path, leaves[path])
    ]
    if integers:
        sentences.append(
            f"Integers such as {integers[0]} can't be interpolated: if the model computes with "
            f"them, name a layer behind which all is floats, one row for each sample, {_LAYERS}."
        )
    if pairs:
        sentences.append(
            "Of several sets of samples, such as an episode's support and queries, one is enough; "
            "its first dimension counts samples, not episodes."
        )
    return " ".join(sentences) + ("" if pairs else _on_lists(batch, leaves, tensors))


def _on_lists(batch: Any, leaves: dict[Path, Any], paths: Sequence[Path]) -> str:
    """Says what to do about a list with an entry for each sample, if it is one."""
    lists = [
        path[:i]
        for path in paths
        for i in range(leaves[path].ndim > 0, len(path))
        if i + 1 < len(path) or i > 0
        if _length(get_entry(batch, path[:i])) is not None
    ]
    if not lists:
        return ""
    return (
        f" If {name_of_path(min(lists, key=len))} has an entry for each sample, make one tensor "
        "of them in the collate function, `torch.stack`, resized or padded where their sizes "
        "differ; or name a hidden layer with one row for each sample, MixupCallback(layers=[...])."
    )


def _suggestion(
    batch: Any, leaves: dict[Path, Any], *, has_targets: bool = True
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Returns entries that could be meant: targets, and all that goes with them."""
    inputs, targets = _sets(batch, leaves)
    if not has_targets:
        inputs, targets = [path for path, value in leaves.items() if _is_float(value)], []
    if _are_pairs(inputs, targets):
        inputs, targets = inputs[-1:], targets[-1:]  # queries follow their support
    size = _length(leaves[(targets or inputs)[0]]) if targets or inputs else None
    inputs = [path for path in inputs if _length(leaves[path]) == size]
    targets = [path for path in targets if _length(leaves[path]) == size]
    weights = _find_weights(batch, leaves, tuple(targets)) if inputs else ()
    return tuple(inputs), (*targets, *weights)


def _are_pairs(inputs: list[Path], targets: list[Path]) -> bool:
    return len(inputs) == len(targets) > 1


def _sets(batch: Any, leaves: dict[Path, Any]) -> tuple[list[Path], list[Path]]:
    """Returns what could be inputs and targets, of each set of samples in a batch."""
    tensors = {p: v for p, v in leaves.items() if isinstance(v, Tensor) and p and _length(v)}
    if any(_is_of_one_sample(batch, path, value) for path, value in leaves.items()):
        return [], []
    weights = _by_name(batch, tensors, _WEIGHT_NAMES)
    ends = [path for path in tensors if _words_of(batch, path)[-1] in _TARGET_NAMES]
    floats = [p for p, v in tensors.items() if _is_float(v) and p not in (*weights, *ends)]
    named = list(_by_name(batch, tensors, _TARGET_NAMES)) or ends
    if named:
        return floats, named
    numbers = [path for path, value in tensors.items() if not _is_float(value)]
    rank = min((tensors[path].ndim for path in numbers), default=0)
    numbers = [path for path in numbers if tensors[path].ndim == rank]
    if not numbers or not floats:
        return floats[:1], floats[1:2]
    if all(isinstance(path[0], int) for path in tensors):  # inputs first, targets after them
        numbers = [path for path in numbers if path > floats[0]]
        floats = [path for path in floats if not numbers or path < numbers[-1]]
    chosen = numbers[: len(floats)]
    lists = {path[:-1] for path in chosen} - {()}
    return floats, [path for path in numbers if path in chosen or path[:-1] in lists]


def _is_of_one_sample(batch: Any, path: Path, value: Any) -> bool:
    """Returns whether an entry is in a list of records, or of scalars, one for each sample."""
    is_scalar = isinstance(value, Tensor) and value.ndim == 0
    lists = [i for i in range(len(path)) if _length(get_entry(batch, path[:i])) is not None]
    return any(0 < i < len(path) - 1 or (is_scalar and len(path) > 1) for i in lists)


def _call(inputs: tuple[Path, ...], targets: tuple[Path, ...]) -> str:
    """Writes the arguments that name entries."""
    chosen = []
    for paths in (inputs, targets):
        names = [path[0] if len(path) == 1 else ".".join(map(str, path)) for path in paths]
        chosen.append(names[0] if len(names) == 1 else names)
    return f"MixupCallback(inputs={chosen[0]!r}, targets={chosen[1] or None!r})"


def _is_array(value: Any) -> bool:
    """Returns whether numbers could be a tensor, and are none."""
    if isinstance(value, Tensor) or not _length(value):
        return False
    return np.asarray(value).dtype.kind in "biufc"


def _inventory(leaves: dict[Path, Any]) -> str:
    lines = []
    for path, value in leaves.items():
        kind = type(value).__name__
        if isinstance(value, Tensor):
            shape = "nested" if value.is_nested else tuple(value.shape)
            kind = f"{str(value.dtype).removeprefix('torch.')} {shape}"
        lines.append(f"  {name_of_path(path)}: {kind}")
    return "\n".join(lines) or "  nothing"
