"""Every recipe trains modules for every medium, as they are, to better than a constant predictor.

The modules and their data are in media.py. What counts is the skill on samples that were held out:
the part of the error of the best constant prediction (the majority, the mean, each tag as often
as it was there) that training takes away; 0 is no better than that, 1 perfect. The error is that
of the medium: missed labels, binary cross-entropy or squared error.

What is asked of a recipe was fixed beforehand, for each medium and not for each recipe: half of
what plain training reaches in the same few steps, as measured once and rounded down.
"""

import pytest
import torch
from media import MEDIA
from torch.nn import functional as F

from lightning_mixup import (
    Beta,
    ByEpoch,
    CutMix,
    Fixed,
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

PLAIN = {  # the skill of plain training
    "images": 0.86,
    "sounds": 0.88,
    "tables": 0.84,
    "regression": 0.36,
    "series": 0.82,
    "videos": 0.88,
    "states": 0.60,
    "maps": 0.56,
    "words": 0.84,
}
NEEDED = {medium: skill / 2 for medium, skill in PLAIN.items()}

FIVE = ("images", "sounds", "tables", "series", "videos")
CLASSES = ("images", "sounds", "tables", "videos")
NUMBERS = ("regression", "series")

RECIPES = {  # and for which media
    "mixup": (Mixup(0.2), MEDIA),
    "mostly its partner": (Mixup(weight=Beta(2, 5)), FIVE),
    "half and half": (Mixup(weight=Fixed(0.5)), FIVE),
    "extrapolated": (Mixup(weight=Uniform(-0.1, 1.1)), FIVE),
    "a weight per sample": (Mixup(1.0, per_sample=True), FIVE),
    "two rounds": (Mixup(1.0, rounds=2), (*FIVE, "words")),
    "the same class": (Mixup(1.0, partners=SameClass()), (*CLASSES, "words")),
    "another class": (Mixup(1.0, partners=OtherClass()), CLASSES),
    "SMOTE": (Mixup(weight=Uniform(), partners=NearestNeighbors(3), per_sample=True), CLASSES),
    "C-Mixup": (Mixup(1.0, partners=LabelKernel(0.3)), NUMBERS),
    "CutMix": (CutMix(), (*FIVE, "regression", "states", "maps")),
    "CutMix, a box per sample, twice": (CutMix(per_sample=True, rounds=2), (*FIVE, "maps")),
    "ResizeMix": (ResizeMix(), (*FIVE, "states", "maps")),
    "SamplePairing": (SamplePairing(), (*FIVE, "words")),
    "Overlay": (Overlay(), ["sounds"]),
    "RegMixup": (RegMixup(), (*FIVE, "regression", "maps")),
    "RegMixup of CutMix": (RegMixup(CutMix()), ["images", "maps"]),
    "by epoch": (ByEpoch({0: SamplePairing(), 1: Mixup(0.2), 2: None}), FIVE),
}
ONLY_HIDDEN = ["words"]  # are integers
INPUTS_ALONE = {name: recipe for name, (recipe, _) in RECIPES.items() if not recipe.fits_layers}
RUNS = [
    pytest.param(recipe, medium, place, id=f"{medium}-{place}-{name}")
    for name, (recipe, media) in RECIPES.items()
    for medium in media
    for place in ("input", "hidden")
    if (place == "hidden" or medium not in ONLY_HIDDEN)
    and (place == "input" or recipe.fits_layers)
]


def one_of(recipe):
    """Returns a choice between a recipe and mixup."""
    if isinstance(recipe, ByEpoch):
        return ByEpoch({first: recipe and one_of(recipe) for first, recipe in recipe.ranges})
    return OneOf(recipe, Mixup(0.2))


def train(make_trainer, medium, *callbacks, **settings):
    torch.manual_seed(0)
    module = medium.module()
    settings = {"max_epochs": medium.epochs, "log_every_n_steps": 50, **settings}
    make_trainer(callbacks=list(callbacks), **settings).fit(module, medium.loader())
    return module


def mixing(recipe, medium, place="input", **options):
    layers = medium.layer if place == "hidden" else "input"
    return MixupCallback(recipe=recipe, layers=layers, seed=1, calibration=False, **options)


@pytest.mark.parametrize("name", MEDIA)
def test_plain_training_reaches_what_the_margins_are_half_of(make_trainer, name):
    medium = MEDIA[name]

    skill = medium.skill(train(make_trainer, medium))

    assert skill == pytest.approx(PLAIN[name], abs=0.06)


@pytest.mark.parametrize(("recipe", "name", "place"), RUNS)
def test_a_recipe_trains(make_trainer, recipe, name, place):
    medium = MEDIA[name]

    skill = medium.skill(train(make_trainer, medium, mixing(recipe, medium, place)))

    assert skill > NEEDED[name]


@pytest.mark.parametrize(("recipe", "name", "place"), RUNS)
def test_a_recipe_trains_inside_one_of(make_trainer, recipe, name, place):
    medium = MEDIA[name]

    skill = medium.skill(train(make_trainer, medium, mixing(one_of(recipe), medium, place)))

    assert skill > NEEDED[name]
