"""Where the inputs and targets are in a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from lightning_mixup.advice import (
    LAYERS,
    MAKE_TENSORS,
    call_for,
    cannot_tell,
    conversion,
    inventory,
    on_lists,
    suggestion,
)
from lightning_mixup.containers import (
    Path,
    child,
    get_entries,
    get_entry,
    is_mapping,
    kinds_in,
    leaves_of,
    length_of,
    name_of_path,
)
from lightning_mixup.errors import MixupTypeError, MixupValueError
from lightning_mixup.roles import (
    INPUT_NAMES,
    by_name,
    by_position,
    can_be_mixed,
    find_weights,
    is_alike,
    is_named_id,
    is_weight,
    likely_targets,
    other_labels,
    tells_apart,
)

__all__ = [
    "Entries",
    "Selector",
    "find_entries",
    "looks_mixed",
    "marks_unknown",
]

Selector: TypeAlias = "int | str | Callable[[Any], Any] | Sequence[int | str] | None"


@dataclass(frozen=True)
class Entries:
    """The entries of a batch that are mixed."""

    inputs: tuple[Path, ...]
    targets: tuple[Path, ...]
    batch_size: int
    device: torch.device
    form: Any = None
    """The containers and dtypes of the batch; None where each batch is to be looked at anew."""
    weights: frozenset[Path] = frozenset()
    """Those targets by which the losses of samples count."""

    @cached_property
    def mixed(self) -> tuple[Path, ...]:
        """All of them."""
        return (*self.inputs, *self.targets)

    @cached_property
    def _labels(self) -> tuple[Path, ...]:
        """The targets but for the weights of losses."""
        return tuple(path for path in self.targets if path not in self.weights)

    def describe(self) -> str:
        """Names the entries in words."""
        inputs, targets = (
            " and ".join(map(name_of_path, paths)) for paths in (self.inputs, self.targets)
        )
        return f"{inputs}, with the target {targets}" if targets else f"{inputs}, without a target"

    def of_next(self, batch: Any) -> Entries | None:
        """Returns the entries of another batch of the same form, or None if it is of another."""
        if self.form is None:
            return None
        try:
            values = get_entries(batch, self.mixed)
            is_alike = self.form_of(batch, values) == self.form
        except (AttributeError, KeyError, IndexError, TypeError):  # It hasn't these entries.
            return None
        if not is_alike:
            return None
        first, *others = values
        size, device = first.shape[0], first.device
        for other in others:
            if other.shape[0] != size:
                return None
        if size == self.batch_size and device == self.device:
            return self
        return replace(self, batch_size=size, device=device)

    def doubled_rest(self, batch: Any) -> dict[Path, Any]:
        """Returns what else a batch has for each sample, once more behind itself.

        Raises:
            MixupTypeError: If something is of a type that can't be joined.
        """
        paths = {self._first_per_sample(batch, leaf) for leaf, _ in leaves_of(batch)}
        return {path: _doubled(path, get_entry(batch, path)) for path in paths if path is not None}

    def _first_per_sample(self, batch: Any, leaf: Path) -> Path | None:
        """Returns the path of a leaf, or of a list around it, that has a part for each sample."""
        for path in (leaf[:depth] for depth in range(len(leaf) + 1)):
            node = get_entry(batch, path)
            is_around = any(mixed[: len(path)] == path for mixed in self.mixed)
            is_list = isinstance(node, (list, tuple))
            # Of tensors that have a part for each sample themselves, as views have.
            is_several = is_list and all(
                isinstance(part, Tensor) and length_of(part) == self.batch_size for part in node
            )
            is_entry = path == leaf or (is_list and not is_several)
            if is_entry and not is_around and length_of(node) == self.batch_size:
                return path
        return None

    def form_of(self, batch: Any, values: Sequence[Tensor]) -> Any:
        """Returns what another batch of the same form has in common.

        Args:
            batch: The batch.
            values: What it holds at these entries.
        """
        kinds = [*map(kinds_in, get_entries(batch, self._containers))]
        return kinds, [(x.dtype, x.layout, x.is_nested, x.ndim) for x in values]

    @cached_property
    def _containers(self) -> list[Path]:
        """The paths of what holds the entries, the outermost first."""
        return sorted({path[:i] for path in self.mixed for i in range(len(path))}, key=len)

    def values_in(self, batch: Any) -> dict[Path, Tensor]:
        """Returns what a batch holds at these entries."""
        return dict(zip(self.mixed, get_entries(batch, self.mixed), strict=True))

    def samples_in(self, batch: Any) -> tuple[list[Tensor], list[Tensor]]:
        """Returns the inputs and the targets of a batch, but for the weights of losses."""
        return get_entries(batch, self.inputs), get_entries(batch, self._labels)

    def check_size(self, values: Mapping[Path, Tensor]) -> None:
        """Refuses what belongs to a batch that has not as many samples as this one.

        Raises:
            MixupValueError: Then.
        """
        for path, value in values.items():
            size = value.shape[0]
            if size != self.batch_size:
                raise MixupValueError(
                    f"This step's mix was drawn for a batch of {self.batch_size} samples, and the "
                    f"entry {name_of_path(path)} has {size}. Mix the whole batch before it is "
                    "split up, or leave another batch's loss to a module of its own."
                )


def _doubled(path: Path, value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.cat((value, value))
    if isinstance(value, (list, tuple)):
        return value * 2
    if isinstance(value, np.ndarray):
        return np.concatenate((value, value))
    raise MixupTypeError(
        f"RegMixup makes a batch of twice the size, and the entry {name_of_path(path)} is a "
        f"{type(value).__name__}, which it can't double. Give tensors, arrays and lists, or "
        "choose Mixup."
    )


def find_entries(
    batch: Any, inputs: Selector = "auto", targets: Selector = "auto", *, at_input: bool = True
) -> Entries:
    """Finds what is to be mixed in a batch.

    Args:
        batch: Nested containers around tensors. Never modified.
        inputs: An index, a key or a dotted path (``"views.left"``, ``"0.image"``), several of
            them, or a function of the batch that returns the entries; ``"auto"`` goes by position
            (inputs first, targets second) and by the usual names (``image``, ``label``, …), and
            refuses what these leave open.
        targets: Likewise, with a ``weight`` for each sample's loss; None where there are no
            targets to mix.
        at_input: False where hidden layers are mixed instead, so that inputs may be anything.

    Returns:
        The paths of inputs and targets, and the size and device of the batch: 0, where all that
        is named is in parts of the batch that are None.

    Raises:
        MixupTypeError: If an input is not floating-point, or an entry is no tensor.
        MixupValueError: If inputs and targets can't be told apart, or disagree on the batch size.

    Example:
        >>> batch = {"image": torch.rand(4, 3, 8, 8), "label": torch.arange(4), "path": ["a"] * 4}
        >>> find_entries(batch).describe()
        "'image', with the target 'label'"
    """
    leaves = dict(leaves_of(batch))
    target_paths = _find_targets(batch, leaves, targets, inputs, at_input=at_input)
    input_paths = _find_inputs(batch, leaves, inputs, target_paths) if at_input else ()
    if targets == "auto":
        target_paths += find_weights(batch, leaves, (*input_paths, *target_paths))
    mixed = (*input_paths, *target_paths)
    for path in mixed:
        _check_dense(batch, path, leaves[path])
    for path in input_paths:
        _check_input(batch, leaves, path)
    for path in target_paths:
        _check_target(batch, leaves, path)
    _check_once(batch, leaves, mixed)
    if not mixed and (at_input or targets is not None):
        return Entries((), (), 0, torch.device("cpu"))  # of loaders that are exhausted
    first = leaves[mixed[0]] if mixed else _first_tensor(batch, leaves)
    _check_sizes(batch, leaves, mixed)
    size = length_of(first) or 0
    # Of one sample, what has a part for each can't be told from what has none.
    is_new = callable(inputs) or callable(targets) or not mixed or size < 2
    weights = frozenset(path for path in target_paths if is_weight(batch, path))
    entries = Entries(input_paths, target_paths, size, first.device, weights=weights)
    if not is_new:
        entries = replace(entries, form=entries.form_of(batch, get_entries(batch, mixed)))
    if at_input and inputs == "auto":
        unused = likely_targets(batch, leaves) if targets is None else ()
        _check_views(batch, leaves, input_paths, unused)
        _check_rest(batch, leaves, entries, unused)
    return entries


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


def marks_unknown(target: Tensor) -> bool:
    """Returns whether a target holds -1, 0 and 1 alone, as where -1 is a label that is unknown.

    Example:
        >>> marks_unknown(torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))
        True
        >>> marks_unknown(torch.tensor([1.0, -1.0]))
        False
    """
    if not target.is_floating_point():
        return False
    counts = [(target == value).sum() for value in (-1, 0, 1)]
    return bool((sum(counts) == target.numel()) & torch.stack(counts).all())


def _first_tensor(batch: Any, leaves: dict[Path, Any]) -> Tensor:
    """Returns what counts the samples where nothing is named: the first tensor.

    Unless it is one of a list that has as many as there are labels, which are not mixed.

    Raises:
        MixupValueError: If there is none.
    """
    tensors = {path: x for path, x in leaves.items() if isinstance(x, Tensor) and x.ndim}
    if not tensors:
        raise MixupValueError(
            cannot_tell(batch, leaves, "has no tensor by which to count the samples")
        )
    path, first = next(iter(tensors.items()))
    listed = length_of(get_entry(batch, path[:-1])) if path[:-1] else None
    labels = [tensors[label] for label in likely_targets(batch, tensors)]
    return next((label for label in labels if length_of(label) == listed), first)


def _find_targets(
    batch: Any, leaves: dict[Path, Any], targets: Selector, inputs: Selector, *, at_input: bool
) -> tuple[Path, ...]:
    if targets is None:
        return ()
    if targets != "auto":
        return _select(batch, leaves, targets, "targets")
    chosen = set() if inputs in ("auto", None) else set(_select(batch, leaves, inputs, "inputs"))
    free = {path: value for path, value in leaves.items() if path not in chosen}
    # At the input, what else there is will be looked at, too; at layers, only a pair is clear.
    is_pair = isinstance(batch, (list, tuple)) and len(batch) == 2
    found = likely_targets(batch, free, by_place=at_input or is_pair)
    if chosen and not is_pair and not likely_targets(batch, free, by_place=False):
        found = _like(batch, free, found)  # as nobody will look at what is left
    if not at_input:
        found = tuple(dict.fromkeys((*found, *other_labels(batch, free))))
    if len(found) != 1:
        reason = "has several entries that could be the target" if found else "has no target"
        raise MixupValueError(cannot_tell(batch, leaves, reason))
    return found


def _like(batch: Any, leaves: dict[Path, Any], found: tuple[Path, ...]) -> tuple[Path, ...]:
    """Returns all tensors with as many samples as those that were found; ids are left out."""
    sizes = {length_of(leaves[path]) for path in found}
    return tuple(
        path
        for path, value in leaves.items()
        if isinstance(value, Tensor) and length_of(value) in sizes
        if path in found or not tells_apart(batch, path, value)
    )


def _find_inputs(
    batch: Any, leaves: dict[Path, Any], inputs: Selector, targets: tuple[Path, ...]
) -> tuple[Path, ...]:
    if inputs is None:
        raise MixupValueError(
            "inputs=None mixes nothing. Name an entry, or leave the callback out."
        )
    if inputs != "auto":
        return _select(batch, leaves, inputs, "inputs")
    free = {path: value for path, value in leaves.items() if path not in targets}
    found = by_name(batch, free, INPUT_NAMES) or by_position(free, 0)
    tensors = [path for path, value in free.items() if isinstance(value, Tensor)]
    only_integers = not any(map(can_be_mixed, (free[path] for path in tensors)))
    if not found and (len(tensors) == 1 or only_integers):
        found = tuple(tensors[:1])
    if not found:
        raise MixupValueError(
            cannot_tell(batch, leaves, "has entries that don't tell which is the input")
        )
    return found


def _select(batch: Any, leaves: dict[Path, Any], selector: Any, argument: str) -> tuple[Path, ...]:
    if callable(selector):
        return _select_by(selector, batch, leaves, argument)
    several = isinstance(selector, Sequence) and not isinstance(selector, str)
    parts = selector if several else [selector]
    found = (_resolve(batch, leaves, part, argument) for part in parts)
    return tuple(path for path in found if path is not None)


def _select_by(
    function: Callable[[Any], Any], batch: Any, leaves: dict[Path, Any], argument: str
) -> tuple[Path, ...]:
    """Finds the entries that a function returns.

    Raises:
        MixupValueError: If it returns something else.
    """
    returned = function(batch)
    wanted = returned if isinstance(returned, (list, tuple)) else [returned]
    found = [[path for path, value in leaves.items() if value is tensor] for tensor in wanted]
    if not all(found) or not all(isinstance(tensor, Tensor) for tensor in wanted):
        name = getattr(function, "__name__", repr(function))
        reason = f"has no entry that {argument}={name} returned: it must be a tensor of the batch"
        raise MixupValueError(cannot_tell(batch, leaves, f"{reason} itself, and no view or copy"))
    return tuple(path for paths in found for path in paths)  # one tensor may be several entries


def _resolve(
    batch: Any, leaves: dict[Path, Any], selector: int | str, argument: str
) -> Path | None:
    """Follows an index, key or dotted path into the batch.

    None where it leads through a part that is None, as that of a loader which is exhausted.

    Raises:
        MixupTypeError: If it leads to something else than a tensor.
        MixupValueError: If it leads nowhere.
    """
    node: Any = batch
    path: Path = ()
    whole = isinstance(selector, int) or (is_mapping(batch) and selector in batch)
    parts = [selector] if whole else str(selector).split(".")
    try:
        for part in parts:
            key = part
            if node is None:
                return None
            if isinstance(node, Sequence):
                names = getattr(node, "_fields", ())
                key = names.index(part) if part in names else range(len(node))[int(part)]
            node, path = child(node, key), (*path, key)
    except (AttributeError, KeyError, IndexError, ValueError, TypeError) as error:
        raise MixupValueError(
            cannot_tell(batch, leaves, f"has no entry {argument}={selector!r}")
        ) from error
    if isinstance(node, Tensor) and path not in leaves:
        raise MixupValueError(cannot_tell(batch, leaves, f"hides {argument}={selector!r}"))
    if not isinstance(node, Tensor):
        raise MixupTypeError(
            f"{argument}={selector!r} is a {type(node).__name__} in this batch, but a tensor is "
            f"mixed: make one of it in the collate function, by {MAKE_TENSORS}. The batch "
            f"holds\n{inventory(leaves)}"
        )
    return path


def _check_dense(batch: Any, path: Path, value: Tensor) -> None:
    """Refuses sparse, nested and quantized tensors.

    Raises:
        MixupTypeError: For them.
    """
    kind, change = str(value.layout), "to_dense()"
    if value.is_nested:
        kind, change = "nested", "to_padded_tensor(0.0)"
    elif value.is_quantized:
        kind, change = "quantized", "dequantize()"
    elif value.layout == torch.strided:
        return
    raise MixupTypeError(
        f"The entry {name_of_path(path)} is {kind}, and dense tensors are mixed. Convert it "
        f"{conversion(batch, path, change)}."
    )


def _check_input(batch: Any, leaves: dict[Path, Any], path: Path) -> None:
    """Refuses what can't be interpolated.

    Raises:
        MixupTypeError: For integers, and other types that are no numbers.
    """
    name, value = name_of_path(path), leaves[path]
    if can_be_mixed(value):
        return
    if value.dtype == torch.uint8:
        raise MixupTypeError(
            f"The input {name} has dtype torch.uint8, and images are mixed as floats. Convert "
            f"them {conversion(batch, path, 'float() / 255')}."
        )
    inputs, targets = suggestion(batch, leaves)
    example = f", for example {call_for(inputs, targets)}" if inputs else ""
    raise MixupTypeError(
        f"The input {name} has dtype {value.dtype}, which can't be interpolated. If it holds "
        f"token or category ids, name the layer that embeds them, {LAYERS}. If it is no input, "
        f"say what is by inputs= and targets={example}. "
        f"If it holds quantities, convert it {conversion(batch, path, 'float()')}."
    )


def _check_target(batch: Any, leaves: dict[Path, Any], path: Path) -> None:
    """Refuses floats that only store, as nothing is between them.

    Raises:
        MixupTypeError: For them.
    """
    value = leaves[path]
    if value.is_floating_point() and not can_be_mixed(value):
        raise MixupTypeError(
            f"The target {name_of_path(path)} has dtype {value.dtype}, which stores floats and "
            f"can't compute with them. Convert it {conversion(batch, path, 'float()')}."
        )


def _check_once(batch: Any, leaves: dict[Path, Any], paths: tuple[Path, ...]) -> None:
    """Refuses an entry that is named twice.

    Raises:
        MixupValueError: Then.
    """
    twice = sorted({name_of_path(path) for path in paths if paths.count(path) > 1})
    if twice:
        raise MixupValueError(
            cannot_tell(batch, leaves, f"has {', '.join(twice)} named more than once")
        )


def _check_sizes(batch: Any, leaves: dict[Path, Any], paths: tuple[Path, ...]) -> None:
    """Refuses entries that don't have the same samples.

    Raises:
        MixupValueError: Then.
    """
    sizes = {length_of(leaves[path]) for path in paths}
    if len(sizes - {None}) == len(sizes) <= 1:
        return
    shapes = ", ".join(f"{name_of_path(p)} {tuple(leaves[p].shape)}" for p in paths)
    raise MixupValueError(
        f"Inputs and targets don't have the same batch size: {shapes}. The first dimension counts "
        "the samples; say what is mixed with MixupCallback(inputs=..., targets=...). Where a "
        "sample has several rows, as graphs have nodes, name a hidden layer with one row for each "
        f"sample, such as the pooling, {LAYERS}. Of several loaders, drop_last=True keeps batches "
        f"of one size.{on_lists(batch, leaves, paths)}"
    )


def _check_views(
    batch: Any, leaves: dict[Path, Any], inputs: tuple[Path, ...], unused: tuple[Path, ...]
) -> None:
    """Refuses as many tensors as each has rows, or as there are labels: each may be a sample.

    Raises:
        MixupValueError: Then.
    """
    owners = {path[:-1] for path in inputs}
    rows, labels = len(leaves[inputs[0]]), {length_of(leaves[path]) for path in unused}
    may_be_samples = len(inputs) in (labels - {rows}) or len(inputs) == rows > 1
    if len(owners) == 1 and may_be_samples:
        owner = owners.pop()
        if owner and length_of(get_entry(batch, owner)) == len(inputs):
            reason = f"has either samples or views in {name_of_path(owner)}"
            raise MixupValueError(cannot_tell(batch, leaves, reason))


def _check_rest(
    batch: Any, leaves: dict[Path, Any], entries: Entries, unused: tuple[Path, ...]
) -> None:
    """Refuses a batch of which a part would stay unmixed without a word.

    Raises:
        MixupValueError: Then.
    """
    first = leaves[entries.inputs[0]]
    for path, value in leaves.items():
        if path in entries.inputs + entries.targets:
            continue
        counts = path not in unused and _counts_samples(batch, path, value, entries.batch_size)
        if (counts and not tells_apart(batch, path, value)) or is_alike(value, first):
            reason = f"has an entry {name_of_path(path)} beside the input"
            has_targets = bool(entries.targets)
            raise MixupValueError(cannot_tell(batch, leaves, reason, has_targets=has_targets))


def _counts_samples(batch: Any, path: Path, value: Any, batch_size: int) -> bool:
    """Returns whether an entry has a part for each sample, or is in a list that has."""
    lists = range(1, len(path)) if isinstance(value, Tensor) else ()
    lengths = [length_of(value), *(length_of(get_entry(batch, path[:i])) for i in lists)]
    return batch_size in lengths or (isinstance(value, Tensor) and is_named_id(batch, path))
