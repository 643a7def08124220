"""Tests for lightning_mixup.repeats: which samples a distributed sampler repeats."""

import pytest
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, SequentialSampler

from lightning_mixup.repeats import rows_of


def own_samples(size, world, batch_size, **options):
    """Returns what all processes are handed without the rows that are said to be repetitions."""
    kept = []
    for rank in range(world):
        sampler = DistributedSampler(range(size), world, rank, **options)
        loader = DataLoader(range(size), batch_size=batch_size, sampler=sampler)
        for number, batch in enumerate(loader):
            rows = rows_of(loader, number)
            assert rows is None or rows.size == len(batch)
            kept += batch.tolist() if rows is None else batch[: rows.own].tolist()
    return kept


@pytest.mark.parametrize("shuffle", [False, True], ids=["in-order", "shuffled"])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("size", [1, 2, 7, 16, 37])
def test_every_sample_counts_once(size, world, batch_size, shuffle):
    assert sorted(own_samples(size, world, batch_size, shuffle=shuffle)) == list(range(size))


def test_a_sampler_that_drops_the_last_repeats_nothing():
    assert sorted(own_samples(37, 4, 4, shuffle=False, drop_last=True)) == list(range(36))


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(range(5)),
        DataLoader(range(5), sampler=SequentialSampler(range(5))),
        [1, 2],
        None,
    ],
    ids=["plain", "sampler", "list", "none"],
)
def test_other_loaders_repeat_nothing(loader):
    assert rows_of(loader, 0) is None


class OwnOrder(DistributedSampler):
    pass


class OwnBatches(BatchSampler):
    pass


def test_samplers_of_ones_own_are_refused_where_they_repeat_something():
    data = range(5)
    known = DistributedSampler(data, 2, 1)
    batches = DataLoader(data, batch_sampler=OwnBatches(known, 2, drop_last=False))

    with pytest.raises(ValueError, match="a sampler of its own, OwnOrder"):
        rows_of(DataLoader(data, sampler=OwnOrder(data, 2, 1)), 0)
    with pytest.raises(ValueError, match="a sampler of its own, OwnBatches"):
        rows_of(batches, 0)
    assert rows_of(DataLoader(range(4), sampler=OwnOrder(range(4), 2, 0)), 0) is None


def test_loaders_of_single_samples_have_no_batch_sampler():
    sampler = DistributedSampler(range(5), 2, 1, shuffle=False)
    loader = DataLoader(range(5), batch_size=None, sampler=sampler)

    assert [rows_of(loader, number).own for number in range(3)] == [1, 1, 0]
