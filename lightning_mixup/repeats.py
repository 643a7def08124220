"""The samples that a distributed sampler repeats, so that every process has as many.

``DistributedSampler`` hands process r of R the positions r, r + R, r + 2R, … and repeats samples
behind the last position. They are known by arithmetic on the host alone.
"""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.utils.data import BatchSampler, DistributedSampler, Sampler

from lightning_mixup.beliefs import entry_of
from lightning_mixup.errors import MixupValueError
from lightning_mixup.observation import Observation

__all__ = ["Rows", "rows_of", "rows_per_sample", "without_repeats"]

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
        MixupValueError: If samples are repeated by a sampler of another kind, in an unknown order.

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
        raise MixupValueError(_unknown(sampler))
    size = _batch_size(batches)
    start = batch_idx * size
    return Rows(min(size, max(own - start, 0)), min(size, given - start))


def without_repeats(found: Observation, batch: Any, rows: Rows) -> Observation | str:
    """Leaves out the samples that a distributed sampler has repeated.

    Args:
        found: What was observed of a batch.
        batch: The batch, to see that its samples are in order, and how many rows each has.
        rows: What `rows_of` says of it.

    Returns:
        The observation without them, or why they can't be told from others.

    Example:
        >>> import torch
        >>> batch = (torch.rand(2, 3), torch.tensor([1, 0]))
        >>> found = without_repeats(Observation(*batch), batch, Rows(own=1, size=2))
        >>> found.target
        tensor([1])
    """
    if not rows.repeats:
        return found
    if not found.target.ndim:
        found = replace(found, logits=found.logits[None], target=found.target[None], given=None)
    if not rows.own:
        return found.rows(0, 0)
    entry = _labels_of(batch, found)
    if entry is None or len(entry) != rows.size:
        return (
            "a sample of this batch is repeated to even out the processes, and its place among "
            f"the targets of shape {tuple(found.target.shape)} is not known, as they are none of "
            "the batch's own"
        )
    return found.rows(0, rows.own * (len(found.target) // rows.size))


def rows_per_sample(found: Observation, batch: Any) -> int:
    """Returns into how many rows of its labels a sample was cut, such as its tokens.

    Example:
        >>> import torch
        >>> batch = (torch.rand(2, 4, 3), torch.zeros(2, 4, dtype=torch.long))
        >>> rows_per_sample(Observation(batch[0].view(8, 3), batch[1].view(8)), batch)
        4
    """
    entry = _labels_of(batch, found)
    return max(1, len(found.target) // len(entry)) if entry is not None and len(entry) else 1


def _labels_of(batch: Any, found: Observation) -> Tensor | None:
    """Returns the entry of a batch that the labels of an observation are."""
    given = found.target if found.given is None else found.given[1]
    entries = (entry_of(batch, target) for target in (given, found.target))
    return next((each for each in entries if each is not None), None)


def _batch_size(batches: Sampler[Any] | None) -> int:
    """Returns the size of all batches but the last.

    Raises:
        MixupValueError: If they have no one size.
    """
    if batches is None:  # Lightning makes such loaders of those with a batch sampler
        return 1
    if type(batches) is not BatchSampler:
        raise MixupValueError(_unknown(batches))
    return batches.batch_size


def _unknown(sampler: Any) -> str:
    return (
        f"samples are repeated to even out the processes, and nobody knows which, as the loader "
        f"has a sampler of its own, {type(sampler).__name__}"
    )
