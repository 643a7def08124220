"""Tests for lightning_mixup.choices: one of several recipes, one per epoch, clean and mixed."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from lightning import Callback, LightningModule
from scipy import stats
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.data import DataLoader

import lightning_mixup
from lightning_mixup import (
    ByEpoch,
    CutMix,
    Fixed,
    LabelKernel,
    Mixup,
    MixupCallback,
    OneOf,
    Overlay,
    RegMixup,
    ResizeMix,
    SameClass,
    SamplePairing,
    merge,
)
from lightning_mixup.batch import find_entries

BATCH = 6
X, Y = torch.randn(BATCH, 2, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2])


def draw(recipe, seed=0, x=X, y=Y):
    return recipe.draw(np.random.default_rng(seed), BATCH, inputs=[x], targets=[y])


# Every recipe as a description.

EVERY = [
    Mixup(),
    Mixup(math.inf, per_sample=True),
    Mixup(weight=Fixed(0.5), partners=LabelKernel(0.5), rounds=2),
    CutMix(0.5, dims=(-1,)),
    ResizeMix(0.2),
    SamplePairing(),
    SamplePairing(SameClass()),
    Overlay(2),
    OneOf(Mixup(0.2), CutMix(1.0)),
    OneOf(Mixup(0.2), CutMix(1.0), SamplePairing(), weights=[3, 7, 5]),
    ByEpoch({0: Mixup(0.2), 5: OneOf(CutMix()), 9: None}),
    RegMixup(),
    RegMixup(OneOf(CutMix(), Mixup(0.2), weights=[0.1, 0.2])),
]
each_of_all = pytest.mark.parametrize("recipe", EVERY, ids=repr)


@each_of_all
def test_a_recipe_is_its_own_description(recipe):
    """So that YAML, checkpoints, copies and sets can hold it."""
    written = eval(repr(recipe), {**vars(lightning_mixup), "inf": math.inf})

    assert written == recipe
    assert hash(written) == hash(recipe)
    assert pickle.loads(pickle.dumps(recipe)) == copy.deepcopy(recipe) == recipe


@each_of_all
def test_the_repr_of_a_callback_is_the_call_that_made_it(recipe):
    callback = MixupCallback(recipe=recipe)

    again = eval(repr(callback), {**vars(lightning_mixup), "inf": math.inf})

    assert again.recipe == recipe
    assert copy.deepcopy(callback).recipe == pickle.loads(pickle.dumps(callback)).recipe == recipe


@each_of_all
def test_strength_1_is_the_recipe_itself(recipe):
    assert recipe.at_strength(1) == recipe


@pytest.mark.parametrize(
    ("recipe", "milder"),
    [
        (OneOf(Mixup(1.0), CutMix(2.0), weights=[3, 1]), (Mixup(0.5), CutMix(1.0))),
        (OneOf(Mixup(weight=Fixed(0.5))), (Mixup(weight=Fixed(0.75)),)),
    ],
)
def test_a_choice_of_milder_recipes_is_as_likely(recipe, milder):
    assert recipe.at_strength(0.5) == OneOf(milder, weights=recipe.weights)
    assert not recipe.at_strength(0).mixes


def test_milder_recipes_hold_in_the_same_epochs_and_beside_the_clean_batch():
    by_epoch = ByEpoch({0: Mixup(1.0), 3: None}).at_strength(0.5)

    assert by_epoch == ByEpoch({0: Mixup(0.5), 3: None})
    assert RegMixup(Mixup(20.0)).at_strength(0.5) == RegMixup(Mixup(10.0))


@pytest.mark.parametrize("recipe", [SamplePairing(), Overlay(), OneOf(SamplePairing())], ids=repr)
def test_what_has_no_degrees_says_so(recipe):
    with pytest.raises(ValueError, match=r"has no strength=0\.5\. Let prob= decide"):
        recipe.at_strength(0.5)


# One of several.


@pytest.mark.parametrize("weights", [None, [3, 1, 1], np.array([0.2, 0.0, 0.8])], ids=str)
def test_recipes_are_drawn_as_often_as_their_weights_say(weights):
    values = [0.1, 0.2, 0.3]
    recipe = OneOf([Mixup(weight=Fixed(value)) for value in values], weights=weights)
    rng = np.random.default_rng(1)

    drawn = [recipe.draw(rng, BATCH).drawn for _ in range(1500)]

    shares = np.ones(3) if weights is None else np.array(weights, dtype=float)
    counts = np.array([drawn.count(value) for value in values])
    possible = shares > 0
    expected = 1500 * shares[possible] / shares.sum()
    assert counts.sum() == counts[possible].sum() == 1500
    assert stats.chisquare(counts[possible], expected).pvalue > 0.01


def test_recipes_may_be_a_list_as_in_a_yaml_file():
    parts = [Mixup(0.2), CutMix(1.0)]

    assert OneOf(parts) == OneOf(tuple(parts)) == OneOf(*parts)
    assert OneOf(parts, weights=[6, 2]) == OneOf(*parts, weights=(0.75, 0.25))


def test_a_choice_is_what_its_parts_are():
    parts = OneOf(Mixup(0.2, rounds=3), SamplePairing(), weights=[1, 3])

    assert (parts.mixes, parts.fits_layers, parts.reads_inputs, parts.doubles) == (1, 1, 0, 0)
    assert parts.most_partners == 3
    assert not OneOf(Mixup(0), CutMix(0)).mixes
    assert not OneOf(Mixup(0), CutMix(1.0), weights=[1, 0]).mixes
    assert OneOf(Mixup(), CutMix()).reads_inputs
    assert not OneOf(Mixup(), CutMix()).fits_layers
    assert parts.describe() == (
        "Beta(0.2, 0.2) in 3 rounds, partners within the batch (25%); or SamplePairing, half and "
        "half with the own label, partners within the batch (75%)"
    )


# One for each range of epochs.

RANGES = ByEpoch({4: None, 1: Mixup(0.2), 2: CutMix(1.0)})


@pytest.mark.parametrize(
    ("epoch", "recipe"), [(0, None), (1, Mixup(0.2)), (3, CutMix(1.0)), (4, None), (99, None)]
)
def test_each_epoch_has_the_recipe_of_its_range(epoch, recipe):
    assert RANGES.at_epoch(epoch) == recipe


def test_ranges_of_epochs_are_what_their_parts_are():
    assert (RANGES.mixes, RANGES.fits_layers, RANGES.reads_inputs) == (True, False, True)
    assert ByEpoch({0: Mixup(rounds=2), 3: None}).most_partners == 2
    assert ByEpoch({0: Mixup(rounds=2), 3: None}).fits_layers
    assert not ByEpoch({0: None, 2: Mixup(0)}).mixes
    assert RANGES.describe() == (
        "from epoch 1: Beta(0.2, 0.2), partners within the batch; from epoch 2: CutMix, area by "
        "Beta(1, 1), partners within the batch; from epoch 4: nothing"
    )


def test_without_epochs_ranges_are_refused_in_words():
    with pytest.raises(ValueError, match=r"without Lightning, write `recipe\.at_epoch\(epoch\)"):
        RANGES(X, Y)


class Learner(LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(32, 3))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Mixes(Callback):
    """Keeps in which epoch which kind of mix was drawn; stands before the mixup."""

    def __init__(self, mixup):
        self.mixup, self.seen = mixup, []

    def on_train_batch_end(self, trainer, *_):
        mix = self.mixup.mix
        self.seen.append((trainer.current_epoch, mix and type(mix).__name__))


def make_loader(size=BATCH):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(size, 2, 4, 4, generator=generator)
    return DataLoader(list(zip(x, torch.arange(size) % 3, strict=True)), batch_size=BATCH)


def test_in_a_trainer_each_epoch_has_its_recipe_resumed_too(make_trainer, tmp_path):
    def run(epochs, path=None):
        mixup = MixupCallback(recipe=RANGES, calibration=False, seed=1)
        seen = Mixes(mixup)
        trainer = make_trainer(callbacks=[seen, mixup], max_epochs=epochs)
        trainer.fit(Learner(), make_loader(), ckpt_path=path)
        return trainer, seen.seen

    expected = [(0, None), (1, "Mix"), (2, "Pasted"), (3, "Pasted"), (4, None)]
    _, whole = run(5)
    trainer, first = run(2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    _, rest = run(5, tmp_path / "half.ckpt")

    assert whole == first + rest == expected


# Clean and mixed together.

INSIDE = {
    "mixup": Mixup(20.0),
    "per sample": Mixup(1.0, per_sample=True),
    "two rounds": Mixup(1.0, rounds=2),
    "same class": Mixup(1.0, partners=SameClass()),
    "CutMix": CutMix(1.0),
    "CutMix, per sample": CutMix(1.0, per_sample=True),
    "ResizeMix": ResizeMix(),
    "pairing": SamplePairing(),
    "one of": OneOf(Mixup(1.0), CutMix()),
}
each_inside = pytest.mark.parametrize("recipe", INSIDE.values(), ids=INSIDE)


@each_inside
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss_is_that_of_the_clean_batch_and_of_the_mixed_one(recipe, reduction):
    net = nn.Sequential(nn.Flatten(), nn.Linear(32, 3)).double()
    x = X.double()

    def loss(x, y):
        made = merge(F.cross_entropy(net(x), y, reduction=reduction))
        return made.detach(), *torch.autograd.grad(made, list(net.parameters()))

    alone, both = draw(recipe), draw(RegMixup(recipe))
    actual = loss(both.blend(x), both.label(Y))

    scale = 0.5 if reduction == "mean" else 1.0
    parts = zip(loss(x, Y), loss(alone.blend(x), alone.label(Y)), strict=True)
    assert_close(list(actual), [scale * (clean + mixed) for clean, mixed in parts])


@each_inside
def test_the_clean_batch_comes_first_and_is_as_it_was(recipe):
    mix = draw(RegMixup(recipe))

    mixed_x, mixed_y = mix.blend(X), mix.label(Y.double())

    assert torch.equal(mixed_x[:BATCH], X)
    assert torch.equal(mixed_x[BATCH:], mix.mix.blend(X))
    assert_close(mixed_y.as_subclass(torch.Tensor)[:BATCH], Y.double())
    weights = mix.weigh(torch.arange(6.0) / 6)
    assert_close(weights.as_subclass(torch.Tensor)[:BATCH], torch.arange(6.0) / 6)


def test_maps_and_unions_are_joined_too():
    masks, labels = torch.randint(0, 3, (BATCH, 4, 4)), (torch.rand(BATCH, 3) > 0.5).float()
    cut, summed = draw(RegMixup(CutMix())), draw(RegMixup(Overlay()))

    assert torch.equal(cut.label(masks), torch.cat((masks, cut.mix.label(masks))))
    assert torch.equal(summed.label(labels), torch.cat((labels, summed.mix.label(labels))))


class Watching(Learner):
    """Keeps what it was handed."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(2, momentum=1.0)
        self.batches = []

    def training_step(self, batch, batch_idx):
        self.batches.append(batch)
        return F.cross_entropy(self.net(self.norm(batch["image"])), batch["label"])


def fit_one(make_trainer, batch, recipe=None, **settings):
    """Trains on one batch; returns what the module was handed, and the module."""
    module = Watching()
    mixup = MixupCallback(recipe=recipe or RegMixup(), calibration=False, seed=1, **settings)
    seen = Mixes(mixup)
    mixes = []
    seen.on_train_batch_end = lambda *_: mixes.append(mixup.mix)
    trainer = make_trainer(callbacks=[seen, mixup])
    trainer.fit(module, DataLoader([batch], batch_size=None))
    return module.batches[0], module, mixes[0]


def test_batch_norm_sees_both_halves(make_trainer):
    handed, module, mix = fit_one(make_trainer, {"image": X, "label": Y})

    both = torch.cat((X, mix.mix.blend(X)))
    assert_close(handed["image"], both)
    assert_close(module.norm.running_mean, both.mean(dim=(0, 2, 3)))


class Info:
    """A container that is nothing else."""

    def __init__(self, place):
        self.place = place


REST = {
    "sample_id": (torch.arange(BATCH), lambda twice: twice.tolist() == [*range(BATCH)] * 2),
    "path": (list("abcdef"), lambda twice: twice == list("abcdef") * 2),
    "name": (tuple("abcdef"), lambda twice: "".join(twice) == "abcdef" * 2),
    "array": (np.arange(BATCH), lambda twice: twice.tolist() == [*range(BATCH)] * 2),
    "boxes": (
        [torch.full((n, 4), float(n)) for n in range(BATCH)],
        lambda twice: [len(box) for box in twice] == [*range(BATCH)] * 2,
    ),
    "meta": (
        [{"id": n, "size": (n, n)} for n in range(BATCH)],
        lambda twice: [item["id"] for item in twice] == [*range(BATCH)] * 2,
    ),
    "views": (
        [torch.arange(BATCH), torch.arange(BATCH)],
        lambda twice: [view.tolist() for view in twice] == [[*range(BATCH)] * 2] * 2,
    ),
    "inside": (
        {"more": {"row": torch.arange(BATCH)}, "number": 3},
        lambda twice: (twice["more"]["row"].tolist(), twice["number"]) == ([*range(BATCH)] * 2, 3),
    ),
    "info": (Info(torch.arange(BATCH)), lambda twice: len(twice.place) == 2 * BATCH),
    "of the batch": (torch.tensor(3.0), lambda twice: twice.ndim == 0),
    "of classes": (torch.rand(3), lambda twice: twice.shape == (3,)),
    "nothing": (None, lambda twice: twice is None),
}


@pytest.mark.parametrize(("value", "is_doubled"), REST.values(), ids=REST)
def test_what_else_a_batch_has_for_each_sample_is_doubled(make_trainer, value, is_doubled):
    batch = {"image": X, "label": Y, "rest": value}

    handed, *_ = fit_one(make_trainer, batch, inputs="image", targets="label")

    assert is_doubled(handed["rest"])
    assert batch["rest"] is value


def test_a_tuple_of_two_samples_is_no_list_for_each_sample(make_trainer):
    """Where the batch itself is as long as it has samples."""
    batch = {"both": [X[:2], Y[:2]], "names": ["a", "b"]}
    mix = RegMixup().draw(np.random.default_rng(0), 2)

    entries = find_entries(batch, "both.0", "both.1")

    assert entries.doubled_rest(batch) == {("names",): ["a", "b", "a", "b"]}
    assert mix.blend(X[:2]).shape[0] == 4


def test_a_shape_is_no_list_for_each_sample():
    batch = {"image": X[:3], "label": Y[:3], "shape": torch.Size([1, 8, 8])}

    assert find_entries(batch).doubled_rest(batch) == {}


class Ragged:
    shape = (BATCH,)


def test_what_cannot_be_doubled_is_refused_in_words(make_trainer):
    batch = {"image": X, "label": Y, "rest": Ragged()}

    with pytest.raises(TypeError, match=r"the entry 'rest' is a Ragged, which it can't double"):
        fit_one(make_trainer, batch, inputs="image", targets="label")


def test_batches_that_are_not_mixed_are_not_doubled(make_trainer):
    handed, _, mix = fit_one(make_trainer, {"image": X, "label": Y}, RegMixup(Mixup(0)))

    assert mix is None
    assert torch.equal(handed["image"], X)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (OneOf, TypeError, r"missing 1 required"),
        (lambda: OneOf([]), ValueError, r"OneOf\(\) got no recipes\. Write OneOf\(Mixup"),
        (lambda: OneOf(0.2), TypeError, r"OneOf got 0\.2, a float, which is no recipe"),
        (lambda: OneOf(Mixup(), weights=[1, 1]), ValueError, r"for 1 recipes, but needs as many"),
        (lambda: OneOf(Mixup(), weights=[0]), ValueError, r"at least 0 and one above"),
        (lambda: OneOf(Mixup(), weights=[math.inf]), ValueError, r"as many finite ones"),
        (lambda: OneOf(Mixup(), weights=[-1]), ValueError, r"weights=-1 is not at least 0"),
        (lambda: OneOf(Mixup(), weights=["1"]), TypeError, r"weights='1' is not a number"),
        (lambda: OneOf(Mixup(), weights=1), TypeError, r"weights=1 is not a list of numbers"),
        (lambda: OneOf(RANGES), TypeError, r"epochs come first\. Write ByEpoch around OneOf"),
        (lambda: RegMixup(RANGES), TypeError, r"Write ByEpoch around RegMixup"),
        (lambda: RegMixup(20.0), TypeError, r"RegMixup got 20\.0, a float, which is no recipe"),
        (lambda: RegMixup(RegMixup()), ValueError, r"makes a batch of twice the size already"),
        (lambda: RegMixup(OneOf(Mixup(), RegMixup())), ValueError, r"Write RegMixup once, around"),
        (lambda: ByEpoch({}), ValueError, r"ByEpoch got no recipes\. Write, for example"),
        (lambda: ByEpoch([Mixup()]), TypeError, r"ByEpoch got \[Mixup\(alpha=0\.2\)\], a list"),
        (lambda: ByEpoch({-1: Mixup()}), ValueError, r"ByEpoch got -1 as an epoch"),
        (lambda: ByEpoch({True: Mixup()}), ValueError, r"ByEpoch got True as an epoch"),
        (lambda: ByEpoch({0: 0.2}), TypeError, r"ByEpoch got 0\.2, a float, which is no recipe"),
        (lambda: ByEpoch({0: RANGES}), TypeError, r"epochs come first"),
        (
            lambda: MixupCallback(recipe=RegMixup(), layers=["input", "net.layer1"]),
            ValueError,
            r"mixes inputs alone, and layers=\['input', 'net\.layer1'\] names hidden",
        ),
    ],
)
def test_what_is_no_choice_is_refused_in_words(make, error, words):
    with pytest.raises(error, match=words):
        make()
