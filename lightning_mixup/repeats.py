"""The samples that a distributed sampler repeats, so that every process has as many.

``DistributedSampler`` hands process r of R the positions r, r + R, r + 2R, … and repeats samples
behind the last position. They are known by arithmetic on the host alone.
"""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass
from typing import Any

from torch.utils.data import BatchSampler, DistributedSampler, Sampler

__all__ = ["Rows", "rows_of"]

# Whose samplers hand out positions as said above.
_KNOWN = frozenset(("torch", "lightning", "lightning_fabric", "pytorch_lightning"))


@dataclass(frozen=True)
class Rows:
    """The samples of one batch: the first ``own`` of all ``size`` are no repetitions."""

    own: int
    size: int

    @property
    def repeats(self) -> bool:
        """Returns whether there is any repetition."""
        return self.own < self.size


def rows_of(loader: Any, batch_idx: int) -> Rows | None:
    """Returns how many samples of a batch are no repetitions.

    Args:
        loader: A DataLoader, or anything else that yields batches.
        batch_idx: Which of this process's batches.

    Returns:
        None where nothing is repeated, as without a distributed sampler.

    Raises:
        ValueError: If samples are repeated by a sampler of another kind, in an unknown order.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> sampler = DistributedSampler(range(5), num_replicas=2, rank=1, shuffle=False)
        >>> rows_of(DataLoader(range(5), batch_size=2, sampler=sampler), batch_idx=1)
        Rows(own=0, size=1)
    """
    batches = getattr(loader, "batch_sampler", None)
    sampler = getattr(batches, "sampler", None) or getattr(loader, "sampler", None)
    if not isinstance(sampler, DistributedSampler) or not isinstance(sampler.dataset, Sized):
        return None
    total, given = len(sampler.dataset), sampler.num_samples
    own = len(range(sampler.rank, total, sampler.num_replicas))
    if own >= given:
        return None
    if type(sampler).__module__.partition(".")[0] not in _KNOWN:
        raise ValueError(_unknown(sampler))
    size = _batch_size(batches)
    start = batch_idx * size
    return Rows(min(size, max(own - start, 0)), min(size, given - start))


def _batch_size(batches: Sampler[Any] | None) -> int:
    """Returns the size of all batches but the last.

    Raises:
        ValueError: If they have no one size.
    """
    if batches is None:  # Lightning makes such loaders of those with a batch sampler
        return 1
    if type(batches) is not BatchSampler:
        raise ValueError(_unknown(batches))
    return batches.batch_size


def _unknown(sampler: Any) -> str:
    return (
        f"samples are repeated to even out the processes, and nobody knows which, as the loader "
        f"has a sampler of its own, {type(sampler).__name__}"
    )
