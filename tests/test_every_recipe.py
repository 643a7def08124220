"""Tests for every recipe in a real Trainer: a module of the user's, and the same written by hand.

The oracle knows of the callback its draw alone: weight, partner, boxes. It writes the formulas of
the papers in loops over samples, and the labels as shares of classes.
"""

import numpy as np
import pytest
import torch
from lightning import Callback, LightningModule
from lightning.pytorch.loggers.logger import DummyLogger
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from lightning_mixup import (
    Beta,
    ByEpoch,
    CutMix,
    LabelKernel,
    Mixup,
    MixupCallback,
    NearestNeighbors,
    OneOf,
    OtherClass,
    Overlay,
    RegMixup,
    ResizeMix,
    SameClass,
    SamplePairing,
    Uniform,
)

BATCH, CLASSES, SHAPE = 8, 3, (2, 6, 5)


class Images(LightningModule):
    """Written without a word of mixing, in double precision, in which 1e-12 shows."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten())
        self.head = nn.Linear(48, CLASSES)
        self.double()

    def forward(self, x):
        return self.head(self.body(x))

    def loss(self, logits, y):
        return F.cross_entropy(logits, y)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.loss(self(x), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Sounds(Images):
    """With several labels for each sample."""

    def loss(self, logits, y):
        return F.binary_cross_entropy_with_logits(logits, y)


class Careless(Images):
    """Uses no labels."""

    def training_step(self, batch, batch_idx):
        return self(batch[0]).square().mean()


class Record(Callback):
    """Keeps mixes, losses and gradients; stands before the mixup."""

    def __init__(self, mixup):
        self.mixup, self.mixes, self.losses, self.gradients = mixup, [], [], []

    def on_after_backward(self, trainer, pl_module):
        self.gradients.append([p.grad.clone() for p in pl_module.parameters()])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.mixes.append(self.mixup.mix)
        self.losses.append(outputs["loss"])


def make_loader(*, multi_hot=False, size=2 * BATCH + 3):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(size, *SHAPE, generator=generator, dtype=torch.float64)
    y = torch.randint(0, CLASSES, (size,), generator=generator)
    if multi_hot:
        y = (torch.rand(size, CLASSES, generator=generator, dtype=torch.float64) > 0.6).double()
    return DataLoader(TensorDataset(x, y), batch_size=BATCH)


# By hand.


def interpolated(mix, x):
    weight = mix.weight.expand(len(x))
    return torch.stack([
        weight[i] * x[i] + (1 - weight[i]) * x[j] for i, j in enumerate(mix.partner.tolist())
    ])


def in_rounds(mix, x):
    made = [w * sample for w, sample in zip(mix.weight.expand(len(x)), x, strict=True)]
    for share, shift in mix.parts:
        shares = np.broadcast_to(share, len(x))
        far = np.broadcast_to(np.asarray(shift), len(x))
        for i in range(len(x)):
            made[i] = made[i] + shares[i] * x[(i + int(far[i])) % len(x)]
    return torch.stack(made)


def pasted(mix, x):
    made = x.clone()
    for boxes, shift in zip(mix.boxes, mix.shifts, strict=True):
        far = np.broadcast_to(np.asarray(shift), len(x))
        for i, box in enumerate(np.broadcast_to(boxes, (len(x), 2, 2)).tolist()):
            (top, bottom), (left, right) = box
            j = (i + int(far[i])) % len(x)
            made[i, ..., top:bottom, left:right] = x[j, ..., top:bottom, left:right]
    return made


def resized(mix, x):
    made, ((top, bottom), (left, right)) = x.clone(), mix.boxes[0].tolist()
    small = F.interpolate(x, size=(bottom - top, right - left), mode="bilinear")
    for i, j in enumerate(mix.partner.tolist()):
        if i != j:
            made[i, :, top:bottom, left:right] = small[j]
    return made


def by_area(mix, labels):
    """Returns labels that are pasted as the images are, and the mean of all places."""
    return pasted(mix, labels[:, :, None, None].expand(*labels.shape, *SHAPE[1:])).mean((2, 3))


def summed(mix, x):
    made = x.clone()
    for shift in mix.shifts:
        made = made + torch.roll(x, -shift, 0)
    return made


def by_hand(mix, x, labels):
    """Returns what a batch and the shares of its classes become."""
    kind = type(mix).__name__
    if kind == "Joined":
        mixed_x, mixed_labels = by_hand(mix.mix, x, labels)
        return torch.cat((x, mixed_x)), torch.cat((labels, mixed_labels))
    return {
        "NoneType": lambda: (x, labels),
        "Mix": lambda: (interpolated(mix, x), interpolated(mix, labels)),
        "Rounds": lambda: (in_rounds(mix, x), in_rounds(mix, labels)),
        "Pasted": lambda: (pasted(mix, x), by_area(mix, labels)),
        "Resized": lambda: (resized(mix, x), interpolated(mix, labels)),
        "Paired": lambda: (interpolated(mix, x), labels),
        "Summed": lambda: (summed(mix, x), (summed(mix, labels) > 0).double()),
    }[kind]()


def fit(make_trainer, module, recipe, loader, **settings):
    mixup = MixupCallback(recipe=recipe, calibration=False, seed=4, **settings)
    record = Record(mixup)
    make_trainer(callbacks=[record, mixup]).fit(module, loader)
    return record


def fit_by_hand(module, mixes, loader, layer=None):
    """Trains as the recorded mixes say; returns the losses and the gradients."""
    optimizer = module.configure_optimizers()
    losses, gradients = [], []
    for mix, (x, y) in zip(mixes, loader, strict=True):
        labels = y if y.ndim == 2 else F.one_hot(y, CLASSES).double()
        mixed_x, mixed_labels = by_hand(mix, x, labels)
        if layer is None:
            outputs = module(mixed_x)
        else:
            outputs = module.head(by_hand(mix, module.body(x), labels)[0])
        loss = module.loss(outputs, mixed_labels)
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.detach())
        gradients.append([p.grad.clone() for p in module.parameters()])
        optimizer.step()
    return losses, gradients


def assert_trains_as_by_hand(record, module, loader, layer=None):
    assert any(mix is not None for mix in record.mixes)
    losses, gradients = fit_by_hand(module, record.mixes, loader, layer)
    assert_close(record.losses, losses, rtol=0, atol=1e-12)
    assert_close(record.gradients, gradients, rtol=0, atol=1e-12)


RECIPES = {
    "mixup": Mixup(1.0),
    "mixup, per sample": Mixup(1.0, per_sample=True),
    "skewed": Mixup(weight=Beta(2, 5), partners=OtherClass()),
    "beyond": Mixup(weight=Uniform(-0.5, 1.5)),
    "beyond, per sample": Mixup(weight=Uniform(-0.5, 1.5), per_sample=True),
    "two rounds": Mixup(1.0, rounds=2),
    "two rounds, per sample": Mixup(1.0, rounds=2, per_sample=True, partners=SameClass()),
    "same class": Mixup(1.0, partners=SameClass()),
    "neighbours": Mixup(weight=Uniform(), per_sample=True, partners=NearestNeighbors(2)),
    "similar": Mixup(2.0, partners=LabelKernel(1.0)),
    "CutMix": CutMix(),
    "CutMix, per sample": CutMix(per_sample=True),
    "CutMix, two boxes": CutMix(0.5, rounds=2),
    "CutMix, other class, per sample": CutMix(per_sample=True, rounds=2, partners=OtherClass()),
    "ResizeMix": ResizeMix(),
    "ResizeMix, same class": ResizeMix(partners=SameClass()),
    "pairing": SamplePairing(),
    "pairing, other class": SamplePairing(OtherClass()),
    "one of": OneOf(Mixup(1.0), CutMix(per_sample=True), ResizeMix(), SamplePairing()),
    "one of, at layers, too": OneOf(Mixup(1.0, rounds=2), SamplePairing()),
    "RegMixup": RegMixup(),
    "RegMixup, per sample": RegMixup(Mixup(1.0, per_sample=True, rounds=2)),
    "RegMixup of CutMix": RegMixup(CutMix(per_sample=True)),
    "RegMixup of pairing": RegMixup(SamplePairing()),
    "RegMixup of one of": RegMixup(OneOf(Mixup(1.0), CutMix(), ResizeMix())),
}
each_recipe = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


@each_recipe
def test_a_module_of_the_users_trains_as_if_it_were_written_by_hand(make_trainer, recipe):
    record = fit(make_trainer, Images(), recipe, make_loader())

    assert_trains_as_by_hand(record, Images(), make_loader())


SUMS = {"overlay": Overlay(), "of three": Overlay(2), "clean, too": RegMixup(Overlay())}


@pytest.mark.parametrize("recipe", SUMS.values(), ids=SUMS)
def test_clips_are_laid_over_each_other_as_if_by_hand(make_trainer, recipe):
    loader = make_loader(multi_hot=True)

    record = fit(make_trainer, Sounds(), recipe, loader)

    assert_trains_as_by_hand(record, Sounds(), loader)


FITTING = {name: recipe for name, recipe in RECIPES.items() if recipe.fits_layers}


@pytest.mark.parametrize("recipe", FITTING.values(), ids=FITTING)
def test_a_hidden_layer_is_mixed_as_if_by_hand(make_trainer, recipe):
    record = fit(make_trainer, Images(), recipe, make_loader(), layers="body")

    assert_trains_as_by_hand(record, Images(), make_loader(), layer="body")


UNFIT = {name: recipe for name, recipe in RECIPES.items() if not recipe.fits_layers}


@pytest.mark.parametrize("recipe", UNFIT.values(), ids=UNFIT)
def test_what_has_no_meaning_at_layers_is_refused_in_words(recipe):
    with pytest.raises(
        ValueError, match=r"mixes inputs alone, and layers=.* names hidden.*choose Mixu"
    ):
        MixupCallback(recipe=recipe, layers="body")


@each_recipe
def test_a_batch_of_one_is_left_as_it_is(make_trainer, recipe):
    loader = make_loader(size=1)

    record = fit(make_trainer, Images(), recipe, loader)

    assert record.mixes == [None]
    assert_close(record.losses, fit_by_hand(Images(), [None], loader)[0], rtol=0, atol=0)


class Weighted(Sounds):
    """Whose samples count by a weight."""

    def training_step(self, batch, batch_idx):
        loss = F.binary_cross_entropy_with_logits(
            self(batch["image"]), batch["label"], reduction="none"
        )
        return (loss.mean(1) * batch["weight"]).mean()


@pytest.mark.parametrize("recipe", [*SUMS.values(), SamplePairing()], ids=[*SUMS, "pairing"])
def test_weights_of_samples_are_averaged_or_left_alone(make_trainer, recipe):
    x, y = make_loader(multi_hot=True).dataset.tensors
    weight, module = torch.rand(len(x)).double(), Weighted()
    batch = {"image": x, "label": y, "weight": weight}

    record = fit(make_trainer, Weighted(), recipe, DataLoader([batch], batch_size=None))

    (mix,) = record.mixes
    mixed_x, mixed_y = by_hand(mix, x, y)
    parts = [weight] if isinstance(recipe, RegMixup) else []
    mix = getattr(mix, "mix", mix)
    mean = summed(mix, weight) / (1 + len(mix.shifts)) if hasattr(mix, "shifts") else weight
    mixed = {"image": mixed_x, "label": mixed_y, "weight": torch.cat([*parts, mean])}
    assert_close(record.losses[0], module.training_step(mixed, 0).detach())


class Segmenter(Images):
    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(2, CLASSES, 1)
        self.head = nn.BatchNorm2d(CLASSES)
        self.double()


@pytest.mark.parametrize(
    "recipe", [CutMix(), CutMix(per_sample=True, rounds=2), RegMixup(CutMix())], ids=repr
)
def test_maps_are_pasted_as_if_by_hand(make_trainer, recipe):
    x, _ = make_loader().dataset.tensors
    y, module = torch.randint(0, CLASSES, (len(x), *SHAPE[1:])), Segmenter()

    record = fit(make_trainer, Segmenter(), recipe, DataLoader([(x, y)], batch_size=None))

    (mix,) = record.mixes
    inner = getattr(mix, "mix", mix)
    mixed = [pasted(inner, x), pasted(inner, y)]
    if isinstance(recipe, RegMixup):
        mixed = [torch.cat((x, mixed[0])), torch.cat((y, mixed[1]))]
    assert_close(record.losses[0], module.training_step(mixed, 0).detach())


# Labels that nobody uses.


def test_what_leaves_labels_alone_asks_nobody_to_use_them(make_trainer):
    record = fit(make_trainer, Careless(), SamplePairing(), make_loader())

    assert {type(mix).__name__ for mix in record.mixes} == {"Paired"}


@pytest.mark.parametrize(
    "recipe", [Mixup(), ByEpoch({0: SamplePairing(), 1: Mixup()})], ids=["alone", "later"]
)
def test_what_mixes_labels_does_whatever_came_before(make_trainer, recipe):
    mixup = MixupCallback(recipe=recipe, calibration=False)

    with pytest.raises(RuntimeError, match=r"but no loss in Careless\.training_step used it"):
        make_trainer(callbacks=[mixup], max_epochs=2).fit(Careless(), make_loader())


# What is said.


class Logger(DummyLogger):
    def __init__(self):
        super().__init__()
        self.metrics = []

    def log_metrics(self, metrics, step=None):
        self.metrics.append(metrics)


@each_recipe
def test_the_weight_of_each_step_is_logged(make_trainer, recipe):
    logger = Logger()
    mixup = MixupCallback(recipe=recipe, calibration=False, log_mix=True, seed=1)
    record = Record(mixup)

    make_trainer(callbacks=[record, mixup], logger=logger).fit(Images(), make_loader())

    logged = [metrics["mixup_weight"] for metrics in logger.metrics if "mixup_weight" in metrics]
    assert logged == pytest.approx([float(mix.weight.mean()) for mix in record.mixes])


def test_a_batch_in_which_nobody_has_a_partner_is_told_of(make_trainer):
    loader = make_loader(multi_hot=True)
    loader.dataset.tensors[1].copy_(torch.rand_like(loader.dataset.tensors[1]))
    mixup = MixupCallback(recipe=Mixup(partners=SameClass()), calibration=False)

    with pytest.warns(UserWarning, match=r"No sample of the first batch found a partner.*LabelKe"):
        make_trainer(callbacks=[mixup]).fit(Sounds(), loader)


def test_sums_of_samples_with_quantities_for_labels_are_told_of(make_trainer):
    loader = make_loader(multi_hot=True)
    loader.dataset.tensors[1].mul_(7.5)
    mixup = MixupCallback(recipe=Overlay(), calibration=False)

    with pytest.warns(UserWarning, match=r"Overlay adds up targets and clamps.*choose Mixup"):
        make_trainer(callbacks=[mixup]).fit(Sounds(), loader)


def test_partners_by_labels_need_labels(make_trainer):
    mixup = MixupCallback(recipe=Mixup(partners=SameClass()), targets=None, inputs=0)

    with pytest.raises(ValueError, match=r"SameClass\(\) compares the targets, and there are non"):
        make_trainer(callbacks=[mixup]).fit(Careless(), make_loader())


def test_a_run_that_goes_on_with_another_recipe_is_told_of(make_trainer, tmp_path):
    path = tmp_path / "run.ckpt"

    def run(recipe, **resumed):
        mixup = MixupCallback(recipe=recipe, calibration=False, seed=1)
        trainer = make_trainer(callbacks=[mixup], max_epochs=2 if resumed else 1)
        trainer.fit(Images(), make_loader(), **resumed)
        return trainer

    run(CutMix(0.5)).save_checkpoint(path)
    run(CutMix(0.5), ckpt_path=path)  # without a word, which would be an error

    with pytest.warns(UserWarning, match=r"with recipe=CutMix\(alpha=0\.5\), and goes on with"):
        run(OneOf(CutMix(0.5), Mixup(0.2)), ckpt_path=path)
