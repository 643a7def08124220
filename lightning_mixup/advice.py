"""What a refusal says: what a batch holds, and what makes it work.

Every word of it must be right when it is followed to the letter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from lightning_mixup.containers import (
    Path,
    get_entry,
    is_mapping,
    length_of,
    name_of_path,
    selector_of,
    words_of,
)
from lightning_mixup.roles import (
    TARGET_NAMES,
    WEIGHT_NAMES,
    by_name,
    can_be_mixed,
    find_weights,
    is_float,
    tells_apart,
)

__all__ = [
    "LAYERS",
    "MAKE_TENSORS",
    "call_for",
    "cannot_tell",
    "conversion",
    "inventory",
    "on_lists",
    "suggestion",
]

# In the words of several messages.
MAKE_TENSORS = "`torch.as_tensor` of numbers, `torch.stack` of tensors of one size"
LAYERS = (
    "MixupCallback(layers=[...]); `MixupCallback.suggest_layers(network, its_input)` lists them"
)


def cannot_tell(
    batch: Any, leaves: dict[Path, Any], reason: str, *, has_targets: bool = True
) -> str:
    """Says why a batch leaves open what is mixed, what it holds, and what makes it work."""
    inputs, targets = suggestion(batch, leaves, has_targets=has_targets)
    arrays = [name_of_path(path) for path, value in leaves.items() if _is_array(value)]
    is_whole = inputs and (targets or not arrays)
    call = "MixupCallback(inputs=..., targets=...)"
    example = f", for example {call_for(inputs, targets)}" if is_whole else f", {call}"
    sentences = [
        f"MixupCallback can't tell what to mix: the batch {reason}. It holds\n"
        f"{inventory(leaves)}\n"
        f"Say which entries are mixed, by index, key, dotted path or a function{example}; others "
        "are left alone. targets=None is for modules that use no labels."
    ]
    sets = _sets(batch, leaves)
    pairs = _are_pairs(*sets)
    if arrays:
        names = " and ".join(arrays)
        sentences.append(f"To mix {names}, make a tensor in the collate function: {MAKE_TENSORS}.")
    tensors = [path for path, value in leaves.items() if isinstance(value, Tensor)]
    integers = [
        name_of_path(path)
        for path in tensors
        if path not in sets[1] and not can_be_mixed(leaves[path])
        if not tells_apart(batch, path, leaves[path])
    ]
    if integers:
        sentences.append(
            f"Integers such as {integers[0]} can't be interpolated: if the model computes with "
            f"them, name a layer behind which all is floats, one row for each sample, {LAYERS}."
        )
    if pairs:
        sentences.append(
            "Of several sets of samples, such as an episode's support and queries, one is enough; "
            "its first dimension counts samples, not episodes."
        )
    return " ".join(sentences) + ("" if pairs else on_lists(batch, leaves, tensors))


def conversion(batch: Any, path: Path, change: str) -> str:
    """Writes the hook that changes an entry, or where else to do so if its container is frozen."""
    hook = "in the module's on_after_batch_transfer(self, batch, dataloader_idx), for example "
    owner, entry = batch, "batch"
    for i, part in enumerate(path):
        owner = get_entry(batch, path[:i])
        names = getattr(owner, "_fields", None)
        by_key = names is None and (isinstance(owner, (list, tuple)) or is_mapping(owner))
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


def on_lists(batch: Any, leaves: dict[Path, Any], paths: Sequence[Path]) -> str:
    """Says what to do about a list with an entry for each sample, if it is one."""
    lists = [
        path[:i]
        for path in paths
        for i in range(leaves[path].ndim > 0, len(path))
        if i + 1 < len(path) or i > 0
        if length_of(get_entry(batch, path[:i])) is not None
    ]
    if not lists:
        return ""
    return (
        f" If {name_of_path(min(lists, key=len))} has an entry for each sample, make one tensor "
        "of them in the collate function, `torch.stack`, resized or padded where their sizes "
        "differ; or name a hidden layer with one row for each sample, MixupCallback(layers=[...])."
    )


def call_for(inputs: tuple[Path, ...], targets: tuple[Path, ...]) -> str:
    """Writes the arguments that name entries."""
    named = selector_of(targets) if targets else None
    return f"MixupCallback(inputs={selector_of(inputs)!r}, targets={named!r})"


def suggestion(
    batch: Any, leaves: dict[Path, Any], *, has_targets: bool = True
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Returns entries that could be meant: targets, and all that goes with them."""
    inputs, targets = _sets(batch, leaves)
    if not has_targets:
        inputs, targets = [path for path, value in leaves.items() if is_float(value)], []
    if _are_pairs(inputs, targets):
        inputs, targets = inputs[-1:], targets[-1:]  # queries follow their support
    size = length_of(leaves[(targets or inputs)[0]]) if targets or inputs else None
    inputs = [path for path in inputs if length_of(leaves[path]) == size]
    targets = [path for path in targets if length_of(leaves[path]) == size]
    weights = find_weights(batch, leaves, tuple(targets)) if inputs else ()
    return tuple(inputs), (*targets, *weights)


def _are_pairs(inputs: list[Path], targets: list[Path]) -> bool:
    return len(inputs) == len(targets) > 1 and not _are_together(targets)


def _sets(batch: Any, leaves: dict[Path, Any]) -> tuple[list[Path], list[Path]]:
    """Returns what could be inputs and targets, of each set of samples in a batch."""
    tensors = {p: v for p, v in leaves.items() if isinstance(v, Tensor) and p and length_of(v)}
    if any(_is_of_one_sample(batch, path, value) for path, value in leaves.items()):
        return [], []
    weights = by_name(batch, tensors, WEIGHT_NAMES)
    ends = [path for path in tensors if words_of(batch, path)[-1] in TARGET_NAMES]
    named = list(by_name(batch, tensors, TARGET_NAMES)) or ends
    floats = [p for p, v in tensors.items() if is_float(v) and p not in (*weights, *ends, *named)]
    if named:
        return floats, named
    numbers = [path for path, value in tensors.items() if not is_float(value)]
    if not numbers and len(floats) == 2:
        return floats[:1], floats[1:]
    if any(tensors[path].ndim == 1 for path in floats[1:]):
        return [], []  # one number for each sample could be a weight
    is_clear = len(numbers) in (1, len(floats)) or _are_together(numbers)
    return (floats, numbers) if is_clear else ([], [])


def _are_together(paths: list[Path]) -> bool:
    """Returns whether all are in one container of the batch."""
    owners = {path[:-1] for path in paths}
    return len(owners) == 1 and owners != {()}


def _is_of_one_sample(batch: Any, path: Path, value: Any) -> bool:
    """Returns whether an entry is in a list of records, or of scalars, one for each sample."""
    is_scalar = isinstance(value, Tensor) and value.ndim == 0
    lists = [i for i in range(len(path)) if length_of(get_entry(batch, path[:i])) is not None]
    return any(0 < i < len(path) - 1 or (is_scalar and len(path) > 1) for i in lists)


def _is_array(value: Any) -> bool:
    """Returns whether numbers could be a tensor, and are none."""
    if isinstance(value, Tensor) or not length_of(value):
        return False
    return np.asarray(value).dtype.kind in "biufc"


def inventory(leaves: dict[Path, Any]) -> str:
    """Lists the entries of a batch with their shapes and dtypes."""
    lines = []
    for path, value in leaves.items():
        kind = type(value).__name__
        if isinstance(value, Tensor):
            shape = "nested" if value.is_nested else tuple(value.shape)
            kind = f"{str(value.dtype).removeprefix('torch.')} {shape}"
        lines.append(f"  {name_of_path(path)}: {kind}")
    return "\n".join(lines) or "  nothing"
