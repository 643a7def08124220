"""Tests for lightning_mixup.callback: draws of batches, ranks and seeds say nothing of each other.

Each test has fixed seeds, so that it passes or fails for good; the bounds are those that
independent draws keep to in all but one of some ten thousand cases.
"""

import itertools
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from lightning_mixup import Mixup, MixupCallback

PLACES = ["input", "first", "second", "third"]
COUNT, SIZE = 3000, 8
FIGURES = ["weight", "shift", "place"]


def stub_trainer(number):
    """Returns what a draw reads off a trainer."""
    progress = SimpleNamespace(total=SimpleNamespace(processed=number))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    return SimpleNamespace(fit_loop=loop, current_epoch=0)


def make(seed=1, **settings):
    settings = {"alpha": 1.0, "layers": PLACES, "calibration": False, **settings}
    return MixupCallback(seed=seed, **settings)


def draw(seed=1, rank=0, number=0, *, size=SIZE, callback=None, **settings):
    """Returns the mix of one batch, drawn by the public hook."""
    callback = callback or make(seed, **settings)
    batch = [torch.zeros(size, 1), torch.zeros(size, dtype=torch.long)]
    callback._rank = rank  # which `setup` asks the trainer for
    callback.on_train_batch_start(stub_trainer(number), None, batch, number)
    return callback.mix


PER_SAMPLE = {"alpha": None, "recipe": Mixup(1.0, per_sample=True)}


def figures(mix):
    return float(mix.drawn), mix.shift, PLACES.index(mix.place)


ONE = make()
VARIED = {
    "batch": lambda n: draw(number=n, callback=ONE),
    "rank": lambda n: draw(rank=n, callback=ONE),
    "seed": lambda n: draw(seed=n),
    "batch, far into a run": lambda n: draw(number=2**33 + n, callback=ONE),
}
each_varied = pytest.mark.parametrize("varied", VARIED)


@pytest.fixture(scope="module")
def drawn():
    """Weight, shift and place, for each of `COUNT` draws of which one thing is varied."""
    return {
        varied: np.array([figures(drawn_by(n)) for n in range(COUNT)])
        for varied, drawn_by in VARIED.items()
    }


def test_no_two_of_50_000_weights_are_the_same():
    """Of any batches, ranks and seeds; numbers take each other's places, too."""
    keys = itertools.product(range(6), range(6), range(22))

    weights = np.concatenate([draw(*key, size=64, **PER_SAMPLE).drawn for key in keys])

    assert len(weights) == 6 * 6 * 22 * 64
    assert len(np.unique(weights)) == len(weights)


@each_varied
def test_draws_are_uniform(drawn, varied):
    weights, shifts, places = drawn[varied].T

    counted = np.bincount(shifts.astype(int), minlength=SIZE)
    assert stats.kstest(weights, "uniform").pvalue > 0.001
    assert counted[0] == 0
    assert stats.chisquare(counted[1:]).pvalue > 0.001
    assert stats.chisquare(np.bincount(places.astype(int), minlength=4)).pvalue > 0.001


@pytest.mark.parametrize("lag", [1, 2, 3, 64])
@each_varied
def test_draws_are_uncorrelated(drawn, varied, lag):
    """Neither with each other, nor any with any of another draw: within 4 standard errors."""
    now, later = drawn[varied][:-lag], drawn[varied][lag:]

    correlations = np.corrcoef(np.hstack([now, later]), rowvar=False)

    off_diagonal = correlations[~np.eye(6, dtype=bool)]
    assert np.abs(off_diagonal).max() < 4 / np.sqrt(len(now))


@pytest.mark.parametrize(("first", "second"), [*itertools.product(FIGURES, FIGURES)])
@each_varied
def test_what_is_drawn_says_nothing_of_what_is_drawn_next(drawn, varied, first, second):
    """Whatever the dependence: by a chi-square test on the table of both."""
    now, later = (binned(drawn[varied], figure) for figure in (first, second))

    table = stats.contingency.crosstab(now[:-1], later[1:]).count

    assert stats.chi2_contingency(table).pvalue > 1e-4


@pytest.mark.parametrize(("first", "second"), [*itertools.combinations(FIGURES, 2)])
@each_varied
def test_weight_partner_and_place_of_a_draw_say_nothing_of_each_other(
    drawn, varied, first, second
):
    one, other = (binned(drawn[varied], figure) for figure in (first, second))

    table = stats.contingency.crosstab(one, other).count

    assert stats.chi2_contingency(table).pvalue > 1e-4


def binned(draws, figure):
    """Returns one column of the draws, the weights by tenths."""
    column = draws[:, FIGURES.index(figure)]
    return (10 * column if figure == "weight" else column).astype(int)


@pytest.mark.parametrize("size", [2, 5, 64])
@pytest.mark.parametrize(
    ("seed", "rank", "number"), [(0, 0, 0), (1, 2, 3), (-1, 1, 2**40), (2**64 + 5, 0, 7)]
)
def test_a_draw_is_what_numpy_gives_for_seed_rank_and_number(seed, rank, number, size):
    """Asked by whole numbers rather than words. A release that draws otherwise resumes no run."""
    bits = np.random.Philox(key=seed % 2**64 + rank * 2**64, counter=number * 2**192)
    rng = np.random.Generator(bits)
    rng.random()  # whether the batch is mixed
    shift = 1 + int(rng.random() * (size - 1))
    weights, place = rng.beta(1, 1, size), rng.integers(4)

    mix = draw(seed, rank, number, size=size, **PER_SAMPLE)

    assert np.array_equal(mix.drawn, weights)
    assert mix.partner.tolist() == [(i + int(shift)) % size for i in range(size)]
    assert mix.place == PLACES[place]


@pytest.mark.parametrize("before", [[], range(7), [9, 3, 8]], ids=["nothing", "all", "others"])
def test_a_draw_depends_on_nothing_that_was_drawn_before(before):
    callback = make(seed=3)
    for number in before:
        draw(number=number, callback=callback)
    np.random.seed(len(before))  # noqa: NPY002  what user code may do
    torch.manual_seed(len(before))

    resumed = pickle.loads(pickle.dumps(callback))

    assert figures(draw(number=7, callback=resumed)) == figures(draw(seed=3, number=7))


def test_prob_decides_whether_a_batch_is_mixed_but_not_how():
    half = [draw(number=n, prob=0.5) for n in range(100)]

    mixed = {n: figures(mix) for n, mix in enumerate(half) if mix is not None}

    assert 30 < len(mixed) < 70
    assert mixed == {n: figures(draw(number=n)) for n in mixed}
