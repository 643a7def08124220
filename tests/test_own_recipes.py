"""Tests that what docs/recipes.md shows under "Write your own recipe" trains, as it is printed."""

import pickle
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import LightningModule
from scipy import stats
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import lightning_mixup
from lightning_mixup import (
    Affinity,
    ByEpoch,
    CutMix,
    Mixup,
    MixupCallback,
    OneOf,
    RegMixup,
    Weights,
)

PAGE = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text("utf-8")
SECTION = re.search(r"^## Write your own recipe$(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)[1]
TEXTS = re.findall(r"^```python\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
NAMES = ["weights", "partners", "blend"]
CLASSES, SIZE, BATCH = 3, 8, 24


@pytest.fixture(params=range(3), ids=NAMES)
def own(request, monkeypatch):
    """Returns a module with the names that a block defines."""
    module = types.ModuleType(f"own_{NAMES[request.param]}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # or nothing could be pickled
    exec(compile(TEXTS[request.param], "recipes.md", "exec"), vars(module))
    if NAMES[request.param] == "blend":
        assert "recipe=SpectralMixup(1.0)" in SECTION
        module.recipe = module.SpectralMixup(1.0)
    return module


class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.body, self.head = torch.nn.Linear(SIZE, SIZE), torch.nn.Linear(SIZE, CLASSES)
        self.callback, self.mix = None, None

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.mix = self.callback.mix
        return cross_entropy(self.head(self.body(x).tanh()), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def make_batch():
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(BATCH, SIZE, generator=generator)
    return x, torch.randint(CLASSES, (BATCH,), generator=generator)


def train(make_trainer, recipe, batch, **settings):
    """Returns the module after a step, and its gradient."""
    torch.manual_seed(0)
    module = Module()
    module.callback = MixupCallback(recipe=recipe, seed=3, calibration=False, **settings)
    grads = []
    module.on_before_optimizer_step = lambda optimizer: grads.append([
        parameter.grad.clone() for parameter in module.parameters()
    ])
    loader = DataLoader(TensorDataset(*batch), batch_size=BATCH)
    make_trainer(callbacks=[module.callback]).fit(module, loader)
    return module, grads[0]


def interpolated(x, partner, share):
    return share * x + (1 - share) * x[partner]


def spectral(x, partner, share):
    """By numpy's transform of all frequencies, and Euler's formula."""

    def of_one(own, other, weight):
        waves = [
            np.exp(-2j * np.pi * k * np.arange(SIZE) / SIZE) for k in range(SIZE)
        ]  # a row of the transform's matrix each
        matrix = torch.tensor(np.array(waves), dtype=torch.complex128)
        mine, theirs = matrix @ own.to(matrix.dtype), matrix @ other.to(matrix.dtype)
        strength = weight * mine.abs() + (1 - weight) * theirs.abs()
        return (matrix.conj() @ (strength * mine / mine.abs()) / SIZE).real.to(own.dtype)

    rows = zip(x, x[partner], share.flatten(), strict=True)
    return torch.stack([of_one(*row) for row in rows])


def expected_grad(module, batch, blend, place):
    """Returns the gradient by hand: a loss for each of both labels, weighted sample by sample."""
    x, y = batch
    share = module.mix.weight.float().expand(BATCH)
    partner, column = module.mix.partner, share.reshape(-1, 1)
    module.zero_grad()
    x = blend(x, partner, column) if place == "input" else x
    hidden = module.body(x)
    hidden = blend(hidden, partner, column) if place == "body" else hidden
    logits = module.head(hidden.tanh())
    own, other = (cross_entropy(logits, label, reduction="none") for label in (y, y[partner]))
    (share * own + (1 - share) * other).mean().backward()
    return [parameter.grad.clone() for parameter in module.parameters()]


def blend_of(own):
    return spectral if hasattr(own, "SpectralMix") else interpolated


@pytest.mark.parametrize("text", TEXTS, ids=NAMES)
def test_it_takes_at_most_15_lines(text):
    assert len(text.splitlines()) <= 15


@pytest.mark.parametrize("place", ["input", "body"])
def test_the_gradient_is_that_of_the_formula(own, place, make_trainer):
    batch = make_batch()

    module, grad = train(make_trainer, own.recipe, batch, layers=place)

    torch.testing.assert_close(grad, expected_grad(module, batch, blend_of(own), place))
    assert not torch.allclose(module.mix.weight, torch.ones(()).double())


@pytest.mark.parametrize(
    "around",
    [OneOf, lambda recipe: OneOf(recipe, CutMix(), weights=[1, 0]), lambda r: ByEpoch({0: r})],
    ids=["one", "one of several", "by epoch"],
)
def test_it_takes_part_in_other_recipes(own, around, make_trainer):
    batch = make_batch()

    module, grad = train(make_trainer, around(own.recipe), batch)

    torch.testing.assert_close(grad, expected_grad(module, batch, blend_of(own), "input"))


def test_it_regularises(own):
    x, y = make_batch()

    mixed_x, mixed_y = RegMixup(own.recipe)(x, y)

    assert torch.equal(mixed_x[:BATCH], x)
    assert mixed_x.shape == (2 * BATCH, SIZE)
    assert mixed_y.shape == (2 * BATCH,)


@pytest.mark.parametrize("per_sample", [False, True])
def test_it_takes_what_the_recipe_takes(own, per_sample, make_trainer):
    batch = make_batch()
    given = {"weight": own.recipe.weight, "partners": own.recipe.partners}
    alpha = None if given["weight"] else 0.5
    recipe = type(own.recipe)(alpha, per_sample=per_sample, **given)

    module, grad = train(make_trainer, recipe, batch)

    assert module.mix.weight.shape == ((BATCH,) if per_sample else ())
    torch.testing.assert_close(grad, expected_grad(module, batch, blend_of(own), "input"))


def test_it_is_drawn(own):
    figure = MixupCallback(recipe=own.recipe).show(make_batch(), count=1)

    assert figure.get_suptitle().replace("\n", " ") == repr(own.recipe)


def test_its_repr_makes_it_and_a_copy_equals_it(own):
    made = eval(repr(own.recipe), vars(own))

    assert made == own.recipe == pickle.loads(pickle.dumps(own.recipe))
    assert hash(made) == hash(own.recipe)


@pytest.mark.parametrize("own", [0], indirect=True, ids=["weights"])
def test_the_weights_are_triangular(own):
    drawn = own.Triangular(0.8).draw(np.random.default_rng(0), 2000)

    assert stats.kstest(drawn, stats.triang(0.8).cdf).pvalue > 0.01


@pytest.mark.parametrize("own", [1], indirect=True, ids=["partners"])
def test_partners_are_as_likely_as_classes_are_confused(own):
    y = torch.arange(3).repeat(400)

    mix = own.recipe.draw(np.random.default_rng(0), len(y), targets=[y])

    pairs = torch.stack([y, y[mix.partner]])
    counts = [int(((pairs[0] == 0) & (pairs[1] == k)).sum()) for k in range(3)]
    assert counts[0] == 0
    assert stats.chisquare(counts[1:], [400 * 5 / 6, 400 / 6]).pvalue > 0.01
    assert (pairs[1][y > 0] == 0).all()


@pytest.mark.parametrize("kind", ["Weights", "Affinity", "Recipe", "Schedule"])
def test_a_part_that_is_no_dataclass_says_what_it_is(kind):
    """And not where in memory, which a checkpoint would take for another one in each run."""
    base = getattr(lightning_mixup, kind)
    part = type("Own", (base,), dict.fromkeys(base.__abstractmethods__))()
    part.size = 3

    assert repr(part) == "Own(size=3)"


class Seven(Weights):
    def draw(self, rng, size=None):
        return rng.random(7)


class Rows(Affinity):
    def between(self, inputs, targets):
        return torch.ones(3)


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (
            Mixup(weight=Seven()),
            r"Seven\(\) drew weights of shape \(7,\) for 4 samples\. Return one",
        ),
        (CutMix(weight=Seven(), per_sample=True), r"drew weights of shape \(7,\) for 4 samples"),
        (Mixup(1.0, rounds=2, partners=Rows()), r"between\(\) returned the shape \(3,\)\. Return"),
    ],
    ids=repr,
)
def test_parts_that_draw_for_another_number_of_samples_are_refused_in_words(recipe, said):
    with pytest.raises(ValueError, match=said):
        recipe(torch.randn(4, 2, 6), torch.arange(4))
