"""A bounded sample of logits and labels: the same one, however the data is split.

Whether a sample is kept depends on its position in the data alone, through a hash; so nothing is
drawn, no device is asked, and processes that each saw a part keep together what one would.
Shapes: N samples, C classes, ``*`` any trailing dimensions.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Kept", "Reservoir"]

# 20 MB of float32: all of 500,000 samples of ten classes, or 5,000 of a thousand.
_CAPACITY = 5_000_000
_LEVELS = 66  # of a hash of 64 bits, and one beyond, at which nothing is kept


class Kept(NamedTuple):
    """Logits and labels of the samples that were kept."""

    logits: Tensor  # (M, C), on the CPU
    target: Tensor  # (M,) int64
    is_odd: Tensor  # (M,) bool, whether a sample's position in the data is odd: two halves


class _Chunk(NamedTuple):
    """What is kept of one batch."""

    rows: range  # of dimension 0, among all that this process has seen
    per_row: int  # samples in each row, such as the pixels of an image
    kept: NDArray[np.int64] | None  # which of them are kept; None for all
    logits: Tensor  # (M, C)
    target: Tensor  # (M,)


class Reservoir:
    """Keeps the logits of all samples while there is room, and of fewer and fewer beyond.

    Each sample has a level, by the hash of its position: half of them 0, a quarter 1, and so on.
    Where there is no room for more, those of the lowest level are let go.

    Args:
        classes: C.
        rank: This process, of `world_size`; process r of R is taken to see the samples r, r + R,
            r + 2R, …, as ``DistributedSampler`` hands them out without a shuffle.
        world_size: The number of processes.
        rows_per_sample: Into how many rows each sample was cut, such as its tokens, where
            dimension 0 counts these.
        capacity: How many logits there is room for, in all processes together.

    Attributes:
        seen: How many samples this process has seen.

    Example:
        >>> reservoir = Reservoir(classes=3)
        >>> reservoir.add(torch.eye(3), torch.arange(3))
        >>> reservoir.keep(reservoir.counts()).is_odd
        tensor([False,  True, False])
    """

    def __init__(
        self,
        classes: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        rows_per_sample: int = 1,
        capacity: int = _CAPACITY,
    ) -> None:
        self.seen = 0
        self._room = capacity // classes
        self._rank, self._world_size = rank, world_size
        self._rows_per_sample = rows_per_sample
        self._rows = 0  # seen of dimension 0
        self._lowest = 0  # the level below which nothing is kept
        self._chunks: list[_Chunk] = []
        self._size = 0  # of all chunks
        self._counts: NDArray[np.int64] | None = None  # of all chunks by level, once asked for

    def add(self, logits: Tensor, target: Tensor) -> None:
        r"""Adds a batch; waits for no device.

        Args:
            logits: Of shape (N, C, \*), or (C,) for one sample. What is kept is copied.
            target: Of shape (N, \*), or ().
        """
        if not target.ndim:
            logits, target = logits[None], target[None]
        shape = target.shape
        rows, per_row = range(self._rows, self._rows + shape[0]), math.prod(shape[1:])
        self._rows += shape[0]
        self.seen += shape[0] * per_row
        kept = None
        if self._lowest or self._size + shape[0] * per_row > self._room:
            kept = self._make_room(rows, per_row)
            if not len(kept):
                return
        else:
            self._counts = None
        self._chunks.append(_Chunk(rows, per_row, kept, *_copied(logits, target, kept)))
        self._size += shape[0] * per_row if kept is None else len(kept)

    def counts(self) -> NDArray[np.int64]:
        """Returns how many samples of each level are kept, to be added up over processes.

        Of the levels that were let go it says more than there is room for.
        """
        if self._counts is None:
            nothing = np.zeros(_LEVELS, dtype=np.int64)
            self._counts = sum(map(self._histogram, self._chunks), nothing)
        self._counts[: self._lowest] = self._room + 1
        return self._counts

    def keep(self, counts: NDArray[np.int64]) -> Kept:
        """Lets go what all processes together have no room for, and returns what is left.

        Args:
            counts: The sum of ``counts()`` over all processes.
        """
        self._raise(_lowest_that_fits(counts, self._room))
        if not self._chunks:
            none = torch.zeros(0, dtype=torch.int64)
            return Kept(torch.zeros(0, 2), none, none.bool())
        logits = torch.cat([chunk.logits for chunk in self._chunks])
        target = torch.cat([chunk.target for chunk in self._chunks])
        # Those of one image are in one half.
        odd = [self._places(chunk) // chunk.per_row % 2 == 1 for chunk in self._chunks]
        is_odd = torch.from_numpy(np.concatenate(odd))
        return Kept(logits.cpu(), target.long().cpu(), is_odd)

    def leave_device(self) -> None:
        """Moves what is kept to the CPU, as the device is needed for other things."""
        self._chunks = [
            chunk._replace(logits=chunk.logits.cpu(), target=chunk.target.cpu())
            for chunk in self._chunks
        ]

    def _make_room(self, rows: range, per_row: int) -> NDArray[np.int64]:
        """Lets go of levels until new samples fit, and returns the indices of those that do."""
        levels = _levels(self._places_in(rows, per_row))
        self._counts = self.counts() + np.bincount(levels, minlength=_LEVELS)
        self._raise(_lowest_that_fits(self._counts, self._room))
        return np.flatnonzero(levels >= self._lowest)

    def _raise(self, lowest: int) -> None:
        """Lets go of what is below a level."""
        if lowest > self._lowest:
            self._lowest = lowest
            left = map(self._thinned, self._chunks)
            self._chunks = [chunk for chunk in left if len(chunk.target)]
            self._size = sum(len(chunk.target) for chunk in self._chunks)

    def _thinned(self, chunk: _Chunk) -> _Chunk:
        """Returns what of a chunk is not below the lowest level."""
        stays = np.flatnonzero(_levels(self._places(chunk)) >= self._lowest)
        index = torch.from_numpy(stays).to(chunk.logits.device, non_blocking=True)
        kept = stays if chunk.kept is None else chunk.kept[stays]
        logits, target = _taken(chunk.logits, chunk.target, index)
        return chunk._replace(kept=kept, logits=logits, target=target)

    def _histogram(self, chunk: _Chunk) -> NDArray[np.int64]:
        return np.bincount(_levels(self._places(chunk)), minlength=_LEVELS)

    def _places(self, chunk: _Chunk) -> NDArray[np.int64]:
        """Returns where in the data the samples of a chunk are."""
        places = self._places_in(chunk.rows, chunk.per_row)
        return places if chunk.kept is None else places[chunk.kept]

    def _places_in(self, rows: range, per_row: int) -> NDArray[np.int64]:
        """Returns where in the data, as one process would see it, all samples of rows are."""
        sample, within = np.divmod(np.arange(rows.start, rows.stop), self._rows_per_sample)
        row = (sample * self._world_size + self._rank) * self._rows_per_sample + within
        places: NDArray[np.int64] = (row[:, None] * per_row + np.arange(per_row)).ravel()
        return places


def _lowest_that_fits(counts: NDArray[np.int64], room: int) -> int:
    """Returns the lowest level from which on there is room for all."""
    above = counts[::-1].cumsum()[::-1]
    return int(np.argmax(above <= room))


def _levels(place: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Returns the level of each place: how many zeros its hash begins with.

    The hash is the output function of SplitMix64 (Steele, Lea and Flood, 2014).
    """
    x = place.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    # As float64, its exponent counts the bits that are left.
    _, bits = np.frexp((x ^ (x >> np.uint64(31))).astype(np.float64))
    return (64 - np.minimum(bits, 64)).astype(np.uint8)


def _copied(
    logits: Tensor, target: Tensor, kept: NDArray[np.int64] | None
) -> tuple[Tensor, Tensor]:
    """Copies the logits (M, C) and labels (M,) of all samples, or of those that are kept."""
    logits, target = logits.detach(), target.detach()
    if target.ndim > 1 and kept is None:
        return logits.flatten(2).movedim(1, 2).flatten(0, 1).clone(), target.flatten().clone()
    if kept is None:
        return logits.clone(), target.clone()
    index = torch.from_numpy(kept).to(logits.device, non_blocking=True)
    if target.ndim == 1:
        return _taken(logits, target, index)
    row, place = index // target[0].numel(), index % target[0].numel()
    return logits.flatten(2)[row, :, place], target.flatten(1)[row, place]


def _taken(logits: Tensor, target: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Copies rows, whole ones at a time, as ``logits[index]`` does not."""
    return logits.index_select(0, index), target.index_select(0, index)
