"""What an entry of a batch could be, by its name, its place, its dtype and its shape."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from lightning_mixup.containers import (
    Path,
    key_of,
    length_of,
    words_of,
)

__all__ = [
    "INPUT_NAMES",
    "TARGET_NAMES",
    "WEIGHT_NAMES",
    "by_name",
    "by_position",
    "can_be_mixed",
    "find_weights",
    "is_alike",
    "is_float",
    "is_named_id",
    "is_weight",
    "likely_targets",
    "other_labels",
    "tells_apart",
]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


INPUT_NAMES = _words("""
    x input inputs image images img imgs pixel_values data feature features feat feats
    input_values input_features waveform waveforms wav audio audios video videos signal signals
    spectrogram spectrograms spec mel series time_series
""")

TARGET_NAMES = _words("""
    y label labels target targets mask masks class classes class_id class_ids category categories
""")

# A float for each sample, by which its loss counts: mixed like a label, and with it.
WEIGHT_NAMES = _words("""
    weight weights sample_weight sample_weights loss_weight loss_weights
""")

# An entry of such a name tells samples apart and means nothing to a model: strings, or one integer
# for each sample. That of a user, a shop or a token is a category, which a model embeds.
_ID_NAMES = _words("""
    id ids idx index indices key keys uid uuid path paths name names file files filename filenames
""")
_OWNERS_OF_IDS = _words("""
    sample samples example examples instance row batch data file image images img audio video
    clip frame segment window patch tile slide recording document doc
""")


def by_name(batch: Any, leaves: dict[Path, Any], names: frozenset[str]) -> tuple[Path, ...]:
    """Returns the tensors whose key, or that of what holds them, is one of the names."""
    return tuple(
        path
        for path, value in leaves.items()
        if isinstance(value, Tensor)
        and any(key_of(batch, path[:i]).lower() in names for i in range(1, len(path) + 1))
    )


def by_position(leaves: dict[Path, Any], position: int) -> tuple[Path, ...]:
    """Returns the tensors at one place of a list or tuple: inputs come first, targets second."""
    return tuple(
        path
        for path, value in leaves.items()
        if isinstance(value, Tensor) and path and isinstance(path[0], int) and path[0] == position
    )


def find_weights(batch: Any, leaves: dict[Path, Any], known: tuple[Path, ...]) -> tuple[Path, ...]:
    """Returns the weights of losses that go with entries of the same samples."""
    sizes = {length_of(leaves[path]) for path in known}
    return tuple(
        path
        for path in by_name(batch, leaves, WEIGHT_NAMES)
        if path not in known and length_of(leaves[path]) in sizes and can_be_mixed(leaves[path])
    )


def is_weight(batch: Any, path: Path) -> bool:
    """Returns whether an entry is called a weight, by which the losses of samples count."""
    return key_of(batch, path).lower() in WEIGHT_NAMES


def likely_targets(
    batch: Any, leaves: dict[Path, Any], *, by_place: bool = True
) -> tuple[Path, ...]:
    """Returns what the usual names, or else the second place, make a target.

    Of two lists, the second may be anything, such as a batch without labels.
    """
    second = by_position(leaves, 1) if by_place else ()
    if len(second) == 1 and _is_in_list(second) and _is_in_list(by_position(leaves, 0)):
        second = ()
    return by_name(batch, leaves, TARGET_NAMES) or second


def other_labels(batch: Any, leaves: dict[Path, Any]) -> tuple[Path, ...]:
    """Returns the tensors that are called labels of something, as ``next_sentence_label`` is."""
    names = TARGET_NAMES - {"mask", "masks"}
    return tuple(
        path
        for path, value in leaves.items()
        if isinstance(value, Tensor) and path and words_of(batch, path)[-1] in names
    )


def _is_in_list(paths: tuple[Path, ...]) -> bool:
    return any(isinstance(part, int) for path in paths for part in path[1:])


def tells_apart(batch: Any, path: Path, value: Any) -> bool:
    """Returns whether an entry is recognisably an id, a path or an index of each sample."""
    *owner, last = words_of(batch, path)
    if isinstance(value, Tensor):
        is_integer, is_one_each = not can_be_mixed(value), value.numel() == length_of(value)
    else:
        array = np.asarray(value if isinstance(value, np.ndarray) else value[:1])
        if array.dtype.kind in "OSU":
            return last in _ID_NAMES or last.isdecimal()  # Strings in a tuple are paths.
        is_integer, is_one_each = array.dtype.kind in "iu", array.size == len(array)
    return is_integer and is_one_each and last in _ID_NAMES and {*owner} <= _OWNERS_OF_IDS


def is_named_id(batch: Any, path: Path) -> bool:
    """Returns whether an entry is called an id or an index, of whatever."""
    return words_of(batch, path)[-1] in _ID_NAMES


def is_alike(value: Any, first: Tensor) -> bool:
    """Returns whether a tensor may hold other samples, as those of an episode's queries."""
    if not isinstance(value, Tensor) or value.is_nested or value.ndim < 2 or len(value) == 1:
        return False
    return can_be_mixed(value) and value.shape[1:] == first.shape[1:]


def is_float(value: Any) -> bool:
    """Returns whether an entry is a tensor that can be interpolated."""
    return isinstance(value, Tensor) and can_be_mixed(value)


def can_be_mixed(value: Tensor) -> bool:
    """Returns whether a tensor can be interpolated."""
    is_number = value.is_floating_point() and value.dtype.itemsize > 1  # Floats of 8 bits store.
    return is_number or value.is_complex()
