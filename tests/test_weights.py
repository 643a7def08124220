"""Tests for lightning_mixup.weights: which shares are drawn, and how they fade."""

import copy
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats

import lightning_mixup
from lightning_mixup import Beta, CutMix, Fixed, Mixup, Uniform
from lightning_mixup.weights import Weights

BUILT_IN = [
    Beta(0.2),
    Beta(2, 5),
    Beta(math.inf),
    Beta(0),
    Fixed(0.5),
    Fixed(-0.3),
    Uniform(),
    Uniform(-0.5, 1.5),
]
each_one = pytest.mark.parametrize("weights", BUILT_IN, ids=repr)


class Coin(Weights):
    """Written as a user's: two numbers, of whatever type numpy draws."""

    def __init__(self, *sides):
        self.sides = sides

    def draw(self, rng, size=None):
        return rng.choice(self.sides, size)


def draw(weights, count=4000):
    return weights.draw(np.random.default_rng(1), count)


@pytest.mark.parametrize(
    ("weights", "law"),
    [
        (Beta(0.2), stats.beta(0.2, 0.2)),
        (Beta(2, 5), stats.beta(2, 5)),
        (Uniform(), stats.uniform(0, 1)),
        (Uniform(-0.5, 1.5), stats.uniform(-0.5, 2)),
        (Beta(3.0).at_strength(0.5), stats.beta(1.5, 1.5)),
        (Beta(2, 5).at_strength(0.1), stats.beta(0.2, 0.5)),
        (Uniform(0.0, 0.5).at_strength(0.5), stats.uniform(0.5, 0.25)),
    ],
    ids=lambda value: repr(value) if isinstance(value, Weights) else "",
)
def test_weights_follow_the_distribution(weights, law):
    assert stats.kstest(draw(weights), law.cdf).pvalue > 0.01


@pytest.mark.parametrize(
    ("weights", "weight"), [(Fixed(0.7), 0.7), (Beta(math.inf), 0.5), (Beta(0), 1.0)], ids=repr
)
def test_what_has_one_value_draws_that(weights, weight):
    assert weights.draw(np.random.default_rng(0)) == weight
    assert draw(weights, 3).tolist() == [weight] * 3


@each_one
def test_a_single_weight_is_a_float_and_several_are_an_array(weights):
    assert isinstance(weights.draw(np.random.default_rng(0)), float)
    assert (draw(weights, 5).dtype, draw(weights, 5).shape) == (np.float64, (5,))


@each_one
@pytest.mark.parametrize("strength", [1, 0.3, 0])
def test_weights_lie_within_their_bounds(weights, strength):
    milder = weights.at_strength(strength)
    low, high = milder.bounds

    drawn = draw(milder)

    assert low <= drawn.min() <= drawn.max() <= high
    assert milder.mixes == (drawn != 1).any()


@pytest.mark.parametrize("weights", [*BUILT_IN, Coin(0.3, 0.7)], ids=repr)
def test_strength_1_changes_nothing_and_strength_0_mixes_nothing(weights):
    assert weights.at_strength(1) == weights
    assert not weights.at_strength(0).mixes
    assert (draw(weights.at_strength(0)) == 1).all()


@pytest.mark.parametrize("weights", [*BUILT_IN[4:], Beta(math.inf), Coin(0.3, 0.7)], ids=repr)
def test_of_half_strength_half_is_given_away(weights):
    np.testing.assert_allclose(1 - draw(weights.at_strength(0.5)), (1 - draw(weights)) / 2)


@pytest.mark.parametrize("strength", [0.9, 0.5, 0.01])
@pytest.mark.parametrize("weights", [Beta(0.2), Beta(8.0), Beta(1, 3)], ids=repr)
def test_a_milder_beta_keeps_the_mean_and_mixes_less_strongly(weights, strength):
    """By how much the smaller of two shares is on average, as Mixup with a smaller alpha."""
    full, milder = draw(weights), draw(weights.at_strength(strength))

    assert abs(full.mean() - milder.mean()) < 0.03
    assert np.minimum(milder, 1 - milder).mean() < np.minimum(full, 1 - full).mean()


@each_one
def test_a_distribution_is_its_own_description(weights):
    """So that YAML, checkpoints, copies and sets can hold it."""
    written = eval(repr(weights), {**vars(lightning_mixup), "inf": math.inf})

    assert written == weights
    assert hash(written) == hash(weights)
    assert pickle.loads(pickle.dumps(weights)) == copy.deepcopy(weights) == weights


@pytest.mark.parametrize("number", [Fraction(1, 2), np.float32(0.5), 0.5], ids=repr)
def test_any_kind_of_number_is_a_parameter(number):
    assert repr(Beta(number, 2)) == "Beta(a=0.5, b=2.0)"
    assert repr(Fixed(number)) == "Fixed(weight=0.5)"
    assert repr(Uniform(0, number)) == "Uniform(low=0.0, high=0.5)"


def test_a_beta_of_one_number_is_symmetric():
    assert Beta(0.3) == Beta(0.3, 0.3)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (Beta(2, 5), "Beta(2, 5)"),
        (Beta(math.inf), "half and half"),
        (Fixed(0.5), "the weight 0.5"),
        (Uniform(-0.5, 1.5), "weights from -0.5 to 1.5"),
    ],
)
def test_a_distribution_says_what_it_draws(weights, words):
    assert weights.describe() == words


@pytest.mark.parametrize(
    "sides", [(0, 1), (0.25, 0.75), (np.float32(0.25), np.float32(0.75))], ids=str
)
@pytest.mark.parametrize("recipe", [Mixup, CutMix], ids=lambda recipe: recipe.__name__)
@pytest.mark.parametrize("per_sample", [False, True])
def test_a_distribution_of_ones_own_draws_whatever_numbers_it_likes(recipe, per_sample, sides):

    x, y = torch.rand(6, 3, 4, 4), torch.arange(6)

    mixed_x, mixed_y = recipe(weight=Coin(*sides), per_sample=per_sample)(x, y)

    assert mixed_x.dtype == x.dtype
    np.testing.assert_allclose(mixed_y.weights.sum(0), 1)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Beta(-1), ValueError, r"a=-1 is not at least 0\. Use 0\.2"),
        (lambda: Beta(1, math.nan), ValueError, r"b=nan is not at least 0"),
        (lambda: Beta("1"), TypeError, r"a='1' is not a number"),
        (lambda: Beta(True), TypeError, r"a=True is not a number"),
        (lambda: Beta(0, 1), ValueError, r"Beta\(a=0, b=1\) is no distribution: only alike"),
        (lambda: Beta(1, math.inf), ValueError, r"is no distribution.*or Fixed\(1\.0\)"),
        (lambda: Fixed(math.inf), ValueError, r"weight=inf is not finite\. Give a share"),
        (lambda: Fixed(math.nan), ValueError, r"weight=nan"),
        (lambda: Fixed(None), TypeError, r"weight=None is not a number"),
        (lambda: Uniform(0.6, 0.4), ValueError, r"low is above high\. Write Uniform\(0\.4, 0\.6"),
        (lambda: Uniform(-math.inf, 0), ValueError, r"low=-inf is not finite"),
        (lambda: Uniform(0, "1"), TypeError, r"high='1' is not a number"),
    ],
)
def test_what_is_no_distribution_is_refused_in_words(make, error, words):
    with pytest.raises(error, match=words):
        make()
