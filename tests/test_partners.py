"""Tests for lightning_mixup.partners: who is mixed with whom."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from test_draws import stub_trainer

from lightning_mixup import (
    AnyOther,
    CutMix,
    LabelKernel,
    Mixup,
    MixupCallback,
    NearestNeighbors,
    OtherClass,
    Overlay,
    ResizeMix,
    SameClass,
    SamplePairing,
)
from lightning_mixup.partners import (
    Affinity,
    draw_shift,
    partner_indices,
    pick_partners,
    take_partners,
)

COUNT = 1000

CLASSES = {
    "indices": torch.tensor([0, 1, 2, 0, 1, 0, 2, 1]),
    "column": torch.tensor([[0], [1], [2], [0], [1], [0], [2], [1]]),
    "one-hot": torch.eye(3)[[0, 1, 2, 0, 1, 0, 2, 1]],
    "multi-hot": torch.tensor([[1, 1], [0, 1], [0, 0]])[[0, 1, 2, 0, 1, 0, 2, 1]],
    "floats": torch.tensor([1.5, -2.0, 0.0])[[0, 1, 2, 0, 1, 0, 2, 1]],
}
OF_EIGHT = [0, 1, 2, 0, 1, 0, 2, 1]
each_form = pytest.mark.parametrize("targets", CLASSES.values(), ids=CLASSES)


def draw(partners, size, *, seed=0, inputs=(), targets=()):
    """Returns the position of each sample's partner."""
    rng = np.random.default_rng(seed)
    shift = partners.draw(rng, size, inputs=inputs, targets=targets)
    return partner_indices(shift, size)


def counts(partners, size, *, draws=COUNT, inputs=(), targets=()):
    """Returns how often sample i has met sample j, in many draws."""
    rng = np.random.default_rng(1)
    table = np.zeros((size, size), dtype=int)
    for _ in range(draws):
        shift = partners.draw(rng, size, inputs=inputs, targets=targets)
        np.add.at(table, (np.arange(size), partner_indices(shift, size).numpy()), 1)
    return table


def assert_frequencies(table, probabilities):
    """By a chi-square test of each sample; nothing that is impossible has happened."""
    possible = probabilities > 0
    assert not table[~possible].any()
    for row, expected, mask in zip(table, probabilities, possible, strict=True):
        if mask.sum() > 1:
            assert stats.chisquare(row[mask], row.sum() * expected[mask]).pvalue > 1e-3


# Any other.


class Always:
    """A source of randomness that draws one number."""

    def __init__(self, number):
        self.random = lambda: number


@pytest.mark.parametrize("size", [2, 3, 4, 7, 49, 1000, 2**20 + 1, 2**31, 10**9 + 7])
def test_the_least_and_the_most_that_is_drawn_are_partners(size):
    assert draw_shift(Always(0.0), size) == 1
    assert draw_shift(Always(1 - 2**-53), size) == size - 1


def test_any_other_is_a_cyclic_shift_that_is_uniform_among_the_others():
    table = counts(AnyOther(), 5)

    assert_frequencies(table, (1 - np.eye(5)) / 4)
    assert all(len(set(np.diagonal(np.roll(table, -s, axis=1)))) == 1 for s in range(5))


# Picking by affinity.


@pytest.mark.parametrize("scale", [1.0, 1e-300, 1e300])
def test_partners_are_picked_as_numpy_chooses(scale):
    """The same uniform number, searched in the same cumulated probabilities."""
    rng = np.random.default_rng(0)
    affinity = rng.random((6, 6)) * (rng.random((6, 6)) > 0.3)
    np.fill_diagonal(affinity, 0)
    uniforms = rng.random((500, 6))

    picked = [pick_partners(torch.tensor(affinity * scale), row) for row in uniforms]

    limits = (affinity / affinity.sum(axis=1, keepdims=True)).cumsum(axis=1)
    expected = [
        [(np.searchsorted(limits[i], u, side="right") - i) % 6 for i, u in enumerate(row)]
        for row in uniforms
    ]
    assert torch.stack(picked).tolist() == expected


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-53])
@pytest.mark.parametrize("least", [0.1, 1e-323])
def test_who_attracts_nobody_is_never_picked(uniform, least):
    """Not at the ends of the unit interval, nor of what numbers there are."""
    affinity = torch.zeros(5, 5, dtype=torch.float64)
    affinity[:, 2] = least
    affinity[2, 1] = least

    shift = pick_partners(affinity, np.full(5, uniform))

    assert partner_indices(shift, 5).tolist() == [2, 2, 1, 2, 2]


def test_the_diagonal_and_nan_count_as_0():
    affinity = torch.full((3, 3), math.nan).fill_diagonal_(5.0)
    affinity[0, 2] = 1.0

    assert pick_partners(affinity, np.full(3, 0.9)).tolist() == [2, 0, 0]


class Younger(Affinity):
    """Written as a user's."""

    def between(self, inputs, targets):
        return targets[0][None] < targets[0][:, None]


def test_partners_of_ones_own_are_those_that_attract():
    ages = torch.tensor([30.0, 20.0, 10.0, 40.0])

    table = counts(Younger(), 4, targets=[ages])

    third = 1 / 3
    expected = [[0, 0.5, 0.5, 0], [0, 0, 1, 0], [0, 0, 1, 0], [third, third, third, 0]]
    assert_frequencies(table, np.array(expected))


# By class.


@each_form
def test_partners_of_the_same_class_share_it_and_are_equally_likely(targets):
    same = np.equal.outer(OF_EIGHT, OF_EIGHT) & ~np.eye(8, dtype=bool)

    table = counts(SameClass(), 8, targets=[targets], draws=500)

    assert_frequencies(table, same / same.sum(axis=1, keepdims=True))


@each_form
def test_partners_of_another_class_do_not_share_it_and_are_equally_likely(targets):
    other = ~np.equal.outer(OF_EIGHT, OF_EIGHT)

    table = counts(OtherClass(), 8, targets=[targets], draws=500)

    assert_frequencies(table, other / other.sum(axis=1, keepdims=True))


def test_the_first_target_decides():
    first, second = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1])

    assert draw(SameClass(), 4, targets=[first, second]).tolist() == [2, 3, 0, 1]


@pytest.mark.parametrize(
    "partners", [SameClass(), OtherClass(), LabelKernel(1.0), NearestNeighbors()], ids=repr
)
def test_who_has_no_label_is_nobodys_partner(partners):
    """NaN, as of a sample that is not labelled, leaves the others their partners."""
    y = torch.tensor([0.0, math.nan, 0.0, 1.0, 1.0])
    x = torch.randn(5, 2)

    table = counts(partners, 5, inputs=[x], targets=[y], draws=200)

    assert table[1].tolist() == [0, 200, 0, 0, 0]
    assert not table[[0, 2, 3, 4], 1].any()
    assert not table[[0, 2, 3, 4], [0, 2, 3, 4]].any()


# Nearest neighbours.


def nearest_by_force(x, y, k):
    """Returns which samples of the same class are the k nearest."""
    x = x.double().reshape(len(x), -1).numpy()
    found = np.zeros((len(x), len(x)), dtype=bool)
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i and y[j] == y[i]]
        others.sort(key=lambda j: np.sqrt(((x[i] - x[j]) ** 2).sum()))
        found[i, others[:k]] = True
    return found


@pytest.mark.parametrize("k", [1, 3, 50])
@pytest.mark.parametrize(
    ("centre", "spread"), [(0.0, 1.0), (2000.0, 1.0), (0.0, 1000.0)], ids=["0", "far", "clusters"]
)
def test_neighbours_are_the_nearest_of_the_class_by_brute_force(k, centre, spread):
    """Of a batch so large that torch would multiply matrices, and lose what is near."""
    x = centre + torch.randn(40, 1, 6) * 0.1 + spread * torch.randint(0, 3, (40, 2, 1))
    y = torch.arange(40) % 4

    found = NearestNeighbors(k).between([x], [y])

    flat = x.double().reshape(40, -1).numpy()
    distances = np.sqrt(((flat[:, None] - flat[None]) ** 2).sum(-1))
    near = nearest_by_force(x, y, k)
    assert np.array_equal(found.sum(1), near.sum(1))
    assert not found[np.not_equal.outer(y.numpy(), y.numpy()) | np.eye(40, dtype=bool)].any()
    assert (distances[found.numpy() > 0].sum() - distances[near].sum()) < 1e-4  # but for ties


def test_neighbours_are_equally_likely():
    x, y = torch.randn(9, 3), torch.zeros(9)
    near = nearest_by_force(x, y, 3)

    assert_frequencies(counts(NearestNeighbors(3), 9, inputs=[x], targets=[y]), near / 3)


def test_neighbours_are_near_in_all_inputs_together():
    left, right = torch.tensor([[0.0], [1.0], [0.1]]), torch.tensor([[0.0], [1.0], [9.0]])

    found = draw(NearestNeighbors(1), 3, inputs=[left, right], targets=[torch.zeros(3)])

    assert found.tolist() == [1, 0, 1]


def test_an_input_that_is_nan_or_complex_has_its_distances():
    x = torch.tensor([0.0, 3.0j, 1.0, math.nan])

    found = draw(NearestNeighbors(1), 4, inputs=[x], targets=[torch.zeros(4)])

    assert found.tolist() == [2, 0, 0, 3]


# Similar targets.


def kernel_by_hand(y, bandwidth):
    y = y.double().reshape(len(y), -1).numpy()
    squares = ((y[:, None] - y[None]) ** 2).sum(axis=-1)
    kernel = np.exp(-squares / (2 * bandwidth**2))
    np.fill_diagonal(kernel, 0)
    return kernel / kernel.sum(axis=1, keepdims=True)


TARGETS = {
    "numbers": torch.linspace(-1, 1, 6),
    "column": torch.linspace(-1, 1, 6)[:, None],
    "pairs": torch.tensor([[0.0, 0.0], [1, 0], [0, 1], [1, 1], [2, 0], [0, 2]]),
    "years": 2000 + torch.linspace(-1, 1, 6),
    "seconds": 1_700_000_000 + torch.tensor([0, 1, 2, 3, 1, 0]),
    "half": torch.linspace(-1, 1, 6).half(),
}


@pytest.mark.parametrize("bandwidth", [0.5, 2.0])
@pytest.mark.parametrize("y", TARGETS.values(), ids=TARGETS)
def test_partners_are_as_likely_as_the_kernel_says(y, bandwidth):
    table = counts(LabelKernel(bandwidth), len(y), targets=[y], draws=500)

    assert_frequencies(table, kernel_by_hand(y, bandwidth))


def test_a_kernel_without_end_is_any_other_sample():
    table = counts(LabelKernel(math.inf), 4, targets=[torch.tensor([0.0, 1, 5, 1e15])])

    assert_frequencies(table, (1 - np.eye(4)) / 3)


@pytest.mark.parametrize("bandwidth", [1e-2, 1e-30, 1e-300])
def test_who_is_far_from_all_others_meets_the_nearest(bandwidth):
    y = torch.tensor([0.0, 10.0, 11.0, 1e5])

    assert draw(LabelKernel(bandwidth), 4, targets=[y]).tolist() == [1, 2, 1, 2]


# What becomes of samples without a partner, and of all batches.

ALONE = {
    "Mixup": Mixup(1.0, partners=SameClass()),
    "per sample": Mixup(1.0, per_sample=True, partners=SameClass()),
    "two rounds": Mixup(1.0, rounds=2, partners=SameClass()),
    "two rounds, per sample": Mixup(1.0, rounds=2, per_sample=True, partners=SameClass()),
    "CutMix": CutMix(1.0, rounds=2, partners=SameClass()),
    "CutMix, per sample": CutMix(1.0, per_sample=True, partners=SameClass()),
    "ResizeMix": ResizeMix(partners=SameClass()),
    "SamplePairing": SamplePairing(partners=SameClass()),
    "Overlay": Overlay(2, partners=SameClass()),
}


@pytest.mark.parametrize("there", [1.0, 0.4], ids=["hard", "soft"])
@pytest.mark.parametrize("recipe", ALONE.values(), ids=ALONE)
def test_a_sample_without_a_partner_stays_exactly_as_it_is(recipe, there):
    x, y = torch.randn(5, 2, 6, 6), there * torch.eye(4)[[0, 1, 2, 0, 3]]
    alone = [1, 2, 4]

    mix = recipe.draw(np.random.default_rng(0), 5, inputs=[x], targets=[y])

    assert torch.equal(mix.blend(x)[alone], x[alone])
    assert not torch.equal(mix.blend(x)[0], x[0])
    torch.testing.assert_close(mix.label(y).as_subclass(torch.Tensor)[alone], y[alone])


@pytest.mark.parametrize("recipe", ALONE.values(), ids=ALONE)
def test_a_sample_without_a_partner_has_its_own_gradient(recipe):
    x = torch.randn(3, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    y = torch.eye(2, dtype=torch.float64)[[0, 1, 0]]
    mix = recipe.draw(np.random.default_rng(0), 3, inputs=[x], targets=[y])

    (grad,) = torch.autograd.grad((mix.blend(x)[1] * x.detach()[1]).sum(), x)

    torch.testing.assert_close(grad[1], x.detach()[1])
    assert not grad[[0, 2]].any()


@pytest.mark.parametrize("shift", [3, torch.tensor([1, 0, 4, 2, 1])], ids=["cyclic", "each"])
def test_partners_are_taken_from_where_they_are(shift):
    x = torch.randn(5, 2)
    far = np.broadcast_to(np.asarray(shift), 5)

    expected = torch.stack([x[(i + int(far[i])) % 5] for i in range(5)])

    assert torch.equal(take_partners(x, shift), expected)
    assert torch.equal(x[partner_indices(shift, 5)], expected)


@pytest.mark.parametrize("varied", ["number", "rank", "seed"])
def test_batches_ranks_and_seeds_draw_partners_of_their_own(varied):
    """Correlated draws would repeat the partner of a sample more often than one in seven."""
    batch = [torch.zeros(8, 1), torch.zeros(8, dtype=torch.long)]
    drawn = []
    for n in range(250):
        callback = MixupCallback(
            recipe=Mixup(1.0, partners=SameClass()),
            calibration=False,
            seed=n if varied == "seed" else 1,
        )
        callback._rank = n * (varied == "rank")
        callback.on_train_batch_start(stub_trainer(n * (varied == "number")), None, batch, 0)
        drawn.append(callback.mix.shift)
    drawn = torch.stack(drawn)

    repeats = (drawn[1:] == drawn[:-1]).sum().item()
    assert stats.binomtest(repeats, drawn[1:].numel(), 1 / 7).pvalue > 1e-3
    assert stats.chisquare(torch.bincount(drawn.flatten(), minlength=8)[1:]).pvalue > 1e-3


@pytest.mark.parametrize(
    "partners",
    [AnyOther(), SameClass(), OtherClass(), LabelKernel(0.5), NearestNeighbors(2)],
    ids=repr,
)
def test_partners_are_their_own_description(partners):
    assert eval(repr(partners)) == partners
    assert hash(partners) == hash(eval(repr(partners)))
    assert Mixup(0.2, partners=partners).describe().endswith(partners.describe())


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: NearestNeighbors(0), ValueError, r"k=0 is not at least 1\. Give the number"),
        (lambda: NearestNeighbors(1.5), TypeError, r"k=1\.5 is not an integer"),
        (lambda: NearestNeighbors(True), TypeError, r"k=True is not an integer"),
        (lambda: LabelKernel(0), ValueError, r"bandwidth=0 is not above 0"),
        (lambda: LabelKernel(-1), ValueError, r"bandwidth=-1 is not at least 0"),
        (lambda: LabelKernel(math.nan), ValueError, r"bandwidth=nan"),
        (lambda: LabelKernel("1"), TypeError, r"bandwidth='1' is not a number"),
        (lambda: Mixup(partners=SameClass), TypeError, r"says not who is mixed.*SameClass\(\)"),
        (lambda: draw(SameClass(), 4), ValueError, r"compares the targets, and there are none"),
        (
            lambda: draw(NearestNeighbors(), 4, targets=[torch.zeros(4)]),
            ValueError,
            r"NearestNeighbors\(k=5\) compares the inputs.*Add 'input' to layers",
        ),
        (
            lambda: draw(SameClass(), 4, targets=[torch.zeros(4, 2, 2)]),
            ValueError,
            r"the target of shape \(4, 2, 2\) has many for each\. Choose AnyOther",
        ),
    ],
)
def test_what_is_no_choice_of_partners_is_refused_in_words(make, error, words):
    with pytest.raises(error, match=words):
        make()
