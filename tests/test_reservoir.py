"""Tests for lightning_mixup.reservoir: a bounded sample that no split of the data changes."""

import pytest
import torch

from lightning_mixup.reservoir import Reservoir

CLASSES = 4


def numbered(size, *places):
    """Returns logits whose first column counts the samples, and their classes."""
    shape = (size, *places)
    number = torch.arange(torch.tensor(shape).prod()).reshape(shape)
    logits = torch.stack([number, *torch.randn(CLASSES - 1, *shape)], 1).float()
    return logits, number % CLASSES


def kept_of(*reservoirs):
    """Returns what processes keep together, in the order of the data."""
    counts = sum(each.counts() for each in reservoirs)
    parts = [each.keep(counts) for each in reservoirs]
    logits, target, is_odd = (torch.cat(part) for part in zip(*parts, strict=True))
    order = logits[:, 0].argsort()
    return logits[order], target[order], is_odd[order]


def filled(batches, **options):
    reservoir = Reservoir(CLASSES, **options)
    for logits, target in batches:
        reservoir.add(logits, target)
    return reservoir


def split(data, sizes):
    return zip(*(column.split(sizes) for column in data), strict=True)


def test_all_is_kept_while_there_is_room():
    logits, target = numbered(100)

    kept, labels, is_odd = kept_of(filled([(logits, target)], capacity=100 * CLASSES))

    assert kept.equal(logits)
    assert labels.equal(target)
    assert is_odd.equal(torch.arange(100) % 2 == 1)


@pytest.mark.parametrize("capacity", [10_000, 1000, 100, 5, 0])
@pytest.mark.parametrize("sizes", [1, 7, [999, 1], 1000], ids=str)
def test_the_split_into_batches_changes_nothing(capacity, sizes):
    data = numbered(1000)
    whole = kept_of(filled([data], capacity=capacity))

    parts = kept_of(filled(split(data, sizes), capacity=capacity))

    assert [one.equal(other) for one, other in zip(parts, whole, strict=True)] == [True] * 3


@pytest.mark.parametrize("capacity", [10_000, 1000, 100, 0])
@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_keep_together_what_one_does(capacity, world_size):
    """As `DistributedSampler` deals the data out: 1000 samples, to three processes unevenly."""
    logits, target = numbered(1000)
    whole = kept_of(filled([(logits, target)], capacity=capacity))
    own = [slice(rank, None, world_size) for rank in range(world_size)]

    ranks = [
        filled(
            split((logits[rows], target[rows]), 64),
            rank=rank,
            world_size=world_size,
            capacity=capacity,
        )
        for rank, rows in enumerate(own)
    ]

    together = kept_of(*ranks)
    assert [one.equal(other) for one, other in zip(together, whole, strict=True)] == [True] * 3


def test_what_one_process_has_no_room_for_no_other_keeps():
    """Else a process with little data would be over-represented."""
    sizes = (2000, 40)
    ranks = [
        filled([numbered(size)], rank=rank, world_size=2, capacity=500 * CLASSES)
        for rank, size in enumerate(sizes)
    ]

    counts = sum(each.counts() for each in ranks)
    shares = [
        len(each.keep(counts).target) / size for each, size in zip(ranks, sizes, strict=True)
    ]

    assert shares == pytest.approx([0.2, 0.2], abs=0.15)


def test_processes_cut_samples_into_rows_as_one_does():
    """Tokens, flattened by the step: sample 1 of 3 tokens is the second process's first."""
    logits, target = numbered(10 * 3)
    whole = kept_of(filled([(logits, target)], capacity=40))
    ranks = [
        Reservoir(CLASSES, rank=rank, world_size=2, rows_per_sample=3, capacity=40)
        for rank in range(2)
    ]

    for rank, reservoir in enumerate(ranks):
        rows = torch.arange(30).view(10, 3)[rank::2].flatten()
        reservoir.add(logits[rows], target[rows])

    together = kept_of(*ranks)
    assert [one.equal(other) for one, other in zip(together, whole, strict=True)] == [True] * 3


@pytest.mark.parametrize("capacity", [3999, 1000, 40])
def test_a_full_reservoir_is_more_than_a_quarter_full_and_no_more_than_full(capacity):
    kept, _, _ = kept_of(filled(split(numbered(1000), 50), capacity=capacity))

    assert capacity / 4 < kept.numel() <= capacity


def test_what_is_kept_depends_on_the_place_alone():
    logits, target = numbered(1000)
    places = kept_of(filled([(logits, target)], capacity=800))[0][:, 0]
    others = torch.cat([logits[:, :1], torch.randn(1000, CLASSES - 1)], 1)

    assert kept_of(filled([(others, target * 0)], capacity=800))[0][:, 0].equal(places)


def test_what_is_kept_is_spread_evenly():
    """In halves, by chance to five standard deviations: of classes, of time, of the two halves."""
    kept, target, is_odd = kept_of(filled([numbered(40_000)], capacity=40_000))

    shares = torch.stack([is_odd, target < 2, kept[:, 0] < 20_000]).double().mean(1)
    assert shares.tolist() == pytest.approx([0.5] * 3, abs=5 * 0.5 / len(kept) ** 0.5)


def test_samples_of_both_halves_are_kept_alike():
    _, _, is_odd = kept_of(filled([numbered(1000)], capacity=400))

    assert 0.3 < is_odd.float().mean() < 0.7


@pytest.mark.parametrize("capacity", [10_000, 100])
def test_maps_keep_each_pixel_with_its_label_and_an_image_in_one_half(capacity):
    logits, target = numbered(6, 3, 5)

    kept, labels, is_odd = kept_of(filled(split((logits, target), 4), capacity=capacity))

    number = kept[:, 0].long()
    assert kept.equal(logits.movedim(1, -1).reshape(-1, CLASSES)[number])
    assert labels.equal(number % CLASSES)
    assert is_odd.equal(number // 15 % 2 == 1)


def test_maps_of_several_sizes_keep_each_image_in_one_half():
    """Sentences, say, that each batch pads to the longest of its own."""
    sizes = [(1, 2), (1, 3), (2, 1), (1, 2)]

    *_, is_odd = filled(numbered(*size) for size in sizes).keep(Reservoir(CLASSES).counts())

    assert is_odd.tolist() == [False] * 2 + [True] * 3 + [False, True] + [False] * 2


def test_one_sample_without_a_batch_dimension_is_kept():
    logits, target = numbered(2)

    kept = kept_of(filled(zip(logits, target, strict=True)))

    assert kept[0].equal(logits)


def test_what_is_kept_is_a_copy():
    logits, target = numbered(3)
    reservoir = filled([(logits, target)])

    logits.zero_()
    target.zero_()

    assert kept_of(reservoir)[1].tolist() == [0, 1, 2]
    assert kept_of(reservoir)[0][:, 0].tolist() == [0, 1, 2]


def test_dtypes_are_kept_and_no_graph_is():
    logits, target = numbered(3)
    reservoir = filled([(logits.double().requires_grad_(), target.int())])

    kept = reservoir.keep(reservoir.counts())

    assert (kept.logits.dtype, kept.target.dtype) == (torch.float64, torch.int64)
    assert not kept.logits.requires_grad


def test_an_empty_reservoir_keeps_nothing():
    reservoir = Reservoir(CLASSES)

    assert [len(part) for part in reservoir.keep(reservoir.counts())] == [0, 0, 0]
