"""Tests for lightning_mixup.regions: boxes that are drawn, and their areas that are counted."""

import numpy as np
import pytest
from scipy import stats

from lightning_mixup.regions import draw_boxes, place_boxes, visible_shares

SIZES = [(64,), (40, 64), (16, 24, 32)]
each_size = pytest.mark.parametrize("sizes", SIZES, ids=str)
COUNT = 4000


def make_rng():
    return np.random.default_rng(1)


def box_of_the_paper(rng, weight, sizes):
    """Draws a box as the paper's own code does, and returns the share of the area outside."""
    sides = [int(size * (1 - weight) ** (1 / len(sizes))) for size in sizes]
    centres = [rng.integers(size) for size in sizes]
    inside = 1
    for size, side, centre in zip(sizes, sides, centres, strict=True):
        inside *= min(centre + side // 2, size) - max(centre - side // 2, 0)
    return 1 - inside / np.prod(sizes)


@pytest.mark.parametrize("sizes", [(224,), (224, 160), (160, 160, 160)], ids=str)
def test_areas_are_distributed_as_the_papers(sizes):
    rng = make_rng()
    theirs = [box_of_the_paper(rng, rng.beta(1, 1), sizes) for _ in range(COUNT)]

    boxes = draw_boxes(rng, 1 - rng.beta(1, 1, COUNT), sizes)

    ours = visible_shares([boxes], sizes)[0]
    assert stats.ks_2samp(ours, theirs).pvalue > 0.01


@each_size
def test_boxes_have_the_form_of_the_whole_and_their_share_before_they_are_cut_off(sizes):
    shares = make_rng().uniform(0.05, 0.6, COUNT)

    boxes = draw_boxes(make_rng(), shares, sizes)

    is_whole = ((boxes[..., 0] > 0) & (boxes[..., 1] < sizes)).all(axis=-1)
    sides = (boxes[..., 1] - boxes[..., 0])[is_whole]
    expected = shares[is_whole, None] ** (1 / len(sizes)) * sizes
    assert is_whole.sum() > 50
    assert ((sides <= expected) & (sides > expected - 1)).all()


@each_size
def test_centres_are_anywhere(sizes):
    boxes = draw_boxes(make_rng(), np.full(COUNT, 1e-9), sizes)

    for size, places in zip(sizes, boxes[..., 0].T, strict=True):
        assert stats.chisquare(np.bincount(places, minlength=size)).pvalue > 0.01


@each_size
@pytest.mark.parametrize(("share", "kept"), [(0.0, 1.0), (1e-9, 1.0)])
def test_of_no_share_nothing_is_covered(sizes, share, kept):
    box = draw_boxes(make_rng(), share, sizes)

    assert box.shape == (len(sizes), 2)
    assert visible_shares([box], sizes) == [kept, 0.0]


@pytest.mark.parametrize("sizes", [(1,), (1, 1), (1, 7), (3, 1, 1)], ids=str)
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_boxes_lie_within_however_small_the_whole_is(sizes, share):
    boxes = draw_boxes(make_rng(), np.full(50, share), sizes)

    assert boxes.dtype == np.int64
    assert ((boxes[..., 0] >= 0) & (boxes[..., 0] <= boxes[..., 1])).all()
    assert (boxes[..., 1] <= sizes).all()


def test_what_is_placed_is_uniform_and_never_cut_off():
    rng, sizes = make_rng(), (100, 300)

    boxes = np.stack([place_boxes(rng, 0.5, sizes) for _ in range(COUNT)])

    assert (boxes[..., 1] - boxes[..., 0] == [50, 150]).all()
    assert [boxes[..., 0].min(), boxes[:, 0, 1].max(), boxes[:, 1, 1].max()] == [0, 100, 300]
    assert stats.chisquare(np.bincount(boxes[:, 0, 0], minlength=51)).pvalue > 0.01


@pytest.mark.parametrize(("side", "length"), [(0.0, 1), (0.01, 1), (1.0, 7)])
def test_what_is_placed_has_one_place_at_least(side, length):
    box = place_boxes(make_rng(), side, (7, 7))

    assert (box[:, 1] - box[:, 0]).tolist() == [length, length]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("per_sample", [False, True])
@each_size
def test_visible_shares_are_what_one_counts(sizes, per_sample, count):
    """Painted one over the other, and counted: exactly."""
    rng = make_rng()
    size = 5 if per_sample else 1
    boxes = [draw_boxes(rng, rng.random(size), sizes) for _ in range(count)]
    painted = np.zeros((size, *sizes), dtype=int)
    for layer, box in enumerate(boxes, start=1):
        for canvas, limits in zip(painted, box, strict=True):
            canvas[tuple(slice(*pair) for pair in limits)] = layer

    shares = visible_shares(boxes if per_sample else [box[0] for box in boxes], sizes)

    for layer, share in enumerate(shares):
        counted = (painted == layer).reshape(size, -1).mean(axis=1)
        assert np.array_equal(np.broadcast_to(share, size), counted)
        assert isinstance(share, np.ndarray if per_sample and count else float)
