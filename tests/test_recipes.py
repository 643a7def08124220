"""Tests for lightning_mixup.recipes: what is drawn, and mixing without Lightning."""

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from lightning_mixup import (
    MixedTarget,
    Mixup,
    Weights,
)


@pytest.mark.parametrize("alpha", [Fraction(1, 2), np.float32(0.5), 0.5], ids=repr)
def test_any_kind_of_number_is_an_alpha(alpha):
    recipe = Mixup(alpha)

    assert recipe.describe() == "Beta(0.5, 0.5), partners within the batch"
    assert repr(recipe) == "Mixup(alpha=0.5)"


@pytest.mark.parametrize("recipe", [Mixup(0.3), Mixup(0.3, per_sample=True)], ids=str)
def test_weights_follow_beta_and_partners_are_others(recipe):
    rng = np.random.default_rng(1)

    mixes = [recipe.draw(rng, batch_size=4) for _ in range(2000)]

    weights = torch.stack([mix.weight for mix in mixes]).flatten()
    assert stats.kstest(weights, stats.beta(0.3, 0.3).cdf).pvalue > 0.01
    assert not any((mix.partner == torch.arange(4)).any() for mix in mixes)


@pytest.mark.parametrize(("recipe", "shape"), [(Mixup(), ()), (Mixup(per_sample=True), (4,))])
def test_there_is_a_weight_per_batch_or_per_sample(recipe, shape):
    mix = recipe.draw(np.random.default_rng(0), batch_size=4)

    assert mix.weight.shape == shape
    assert mix.weight.dtype == torch.float64
    assert mix.place == "input"


@pytest.mark.parametrize(("alpha", "size"), [(0, 4), (0.2, 1), (0.2, 0)])
def test_there_is_nothing_to_draw_for_alpha_0_or_a_batch_of_one(alpha, size):
    assert Mixup(alpha).draw(np.random.default_rng(0), batch_size=size) is None


@pytest.mark.parametrize("alpha", [1e-300, 1e-3, 1e6, math.inf])
def test_extreme_alphas_still_give_weights(alpha):
    weight = Mixup(alpha, per_sample=True).draw(np.random.default_rng(0), 64).weight

    assert ((weight >= 0) & (weight <= 1)).all()


@pytest.mark.parametrize("per_sample", [False, True])
def test_one_draw_serves_inputs_and_targets(per_sample):
    """With one-hot inputs, the mixed input is the mixed target."""
    y = torch.arange(6)
    x = F.one_hot(y).double()

    mixed_x, mixed_y = Mixup(1.0, per_sample=per_sample)(x, y)

    soft = sum(
        weight.reshape(-1, 1) * F.one_hot(candidate, 6)
        for weight, candidate in zip(mixed_y.weights, mixed_y.candidates, strict=True)
    )
    torch.testing.assert_close(mixed_x, soft, rtol=0, atol=1e-15)


@pytest.mark.parametrize("per_sample", [False, True])
def test_the_first_candidate_is_the_dominant_one(per_sample):
    _, y = Mixup(1.0, per_sample=per_sample)(torch.randn(16, 2), torch.arange(16))

    assert (y.weights[0] >= y.weights[1]).all()
    assert torch.equal(y.as_subclass(torch.Tensor), y.candidates[0])


def test_a_tie_is_won_by_the_samples_own_label():
    y = torch.arange(5)

    _, mixed = Mixup(math.inf)(torch.randn(5, 2), y)

    assert torch.equal(mixed.candidates[0], y)


def test_a_loop_without_lightning_follows_torch_manual_seed():
    x, y = torch.randn(8, 2), torch.arange(8)
    torch.manual_seed(5)
    first = Mixup(1.0)(x, y)[0]
    torch.manual_seed(5)
    second = Mixup(1.0)(x, y)[0]
    generator = torch.Generator().manual_seed(5)

    third = Mixup(1.0)(x, y, generator)[0]

    assert torch.equal(first, second)
    assert torch.equal(first, third)
    assert not torch.equal(first, Mixup(1.0)(x, y)[0])


def test_what_is_given_is_never_modified():
    x, y = torch.randn(8, 2), torch.arange(8)
    before = x.clone(), y.clone()

    _, mixed = Mixup(1.0)(x, y)
    mixed[:4] = -100

    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


@pytest.mark.parametrize(("alpha", "size"), [(0.0, 8), (1.0, 1)])
def test_what_is_not_mixed_comes_back_itself(alpha, size):
    x, y = torch.randn(size, 2), torch.arange(size)

    mixed_x, mixed_y = Mixup(alpha)(x, y)

    assert mixed_x is x
    assert mixed_y is y


def test_float_targets_are_interpolated():
    x = torch.randn(8, 2)

    mixed_x, mixed_y = Mixup(1.0)(x, x.sum(1))

    assert isinstance(mixed_y, MixedTarget)
    torch.testing.assert_close(mixed_x.sum(1), mixed_y.as_subclass(torch.Tensor))


def test_a_recipe_is_frozen_and_hashable():
    assert {Mixup(0.2): 1}[Mixup(0.2)] == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        Mixup(0.2).alpha = 1.0


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"alpha": -1}, ValueError, r"alpha=-1 is not at least 0\. Use 0.2"),
        ({"alpha": float("nan")}, ValueError, r"alpha=nan"),
        ({"alpha": "1"}, TypeError, r"alpha='1' is not a number"),
        ({"per_sample": "yes"}, TypeError, r"per_sample='yes' is not a bool"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_refused_in_words(arguments, error, words):
    with pytest.raises(error, match=words):
        Mixup(**arguments)


@pytest.mark.parametrize("y", [torch.arange(3), torch.tensor(0)], ids=["other", "scalar"])
def test_inputs_and_targets_of_different_size_are_refused(y):
    with pytest.raises(ValueError, match=r"inputs of shape \(4, 2\) and targets of shape"):
        Mixup()(torch.randn(4, 2), y)


def test_what_is_no_tensor_is_refused():
    with pytest.raises(TypeError, match=r"Mixup got a list as y\. Give a tensor"):
        Mixup()(torch.randn(2, 2), [0, 1])


def test_integer_inputs_are_refused():
    with pytest.raises(TypeError, match=r"`x` has dtype torch.int64\. Convert it"):
        Mixup()(torch.arange(4), torch.arange(4))


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (Mixup(0.2), "Beta(0.2, 0.2)"),
        (Mixup(math.inf, per_sample=True), "half and half for each sample"),
    ],
)
def test_a_recipe_says_what_it_does(recipe, words):
    assert recipe.describe() == f"{words}, partners within the batch"


@pytest.mark.parametrize("per_sample", [False, True])
def test_weights_of_ones_own_that_are_no_numbers_are_refused(per_sample):
    class Broken(Weights):
        def draw(self, rng, size=None):
            return math.nan if size is None else np.full(size, math.inf)

    recipe = Mixup(weight=Broken(), per_sample=per_sample)

    with pytest.raises(ValueError, match=r"Broken\(\) drew .*Return weights that are finite"):
        recipe(torch.rand(4, 2), torch.arange(4))
