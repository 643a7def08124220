"""Every recipe trains modules for every medium, as they are, to better than a constant predictor.

The modules and their data are in media.py. What counts is the skill on samples that were held out:
the part of the error of the best constant prediction (the majority, the mean, each tag as often
as it was there) that training takes away; 0 is no better than that, 1 perfect. The error is that
of the medium: missed labels, binary cross-entropy or squared error.

What is asked of a recipe was fixed beforehand, for each medium and not for each recipe: half of
what plain training reaches in the same few steps, as measured once and rounded down to a tenth.
"""

import functools

import pytest
import torch
from lightning import Trainer
from media import MEDIA
from zoo import parameters_of

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
    Recipe,
    RegMixup,
    ResizeMix,
    SameClass,
    SamplePairing,
    Uniform,
)

PLAIN = {  # at least the skill of plain training
    "images": 0.8,
    "sounds": 0.9,
    "tables": 0.8,
    "regression": 0.3,
    "series": 0.8,
    "states": 0.6,
    "videos": 0.8,
    "maps": 0.5,
    "words": 0.8,
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
PLACES = {"input": ["input"], "hidden": ["layer"], "either": ["input", "layer"]}


def runs(*places):
    """Returns each recipe with each of its media, at those of the places where both can be."""
    return [
        pytest.param(recipe, medium, PLACES[place], id=f"{medium}-{place}-{name}")
        for name, (recipe, media) in RECIPES.items()
        for medium in media
        for place in places
        if place == "hidden" or medium not in ONLY_HIDDEN
        if place == "input" or recipe.fits_layers
    ]


ALONE = runs("input", "hidden")
# Each batch draws a place as it draws a recipe, so that one run sees both.
INSIDE = [
    *(run for run in runs("input") if not run.values[0].fits_layers),
    *runs("either"),
    *(run for run in runs("hidden") if run.values[1] in ONLY_HIDDEN),
]


def one_of(recipe):
    """Returns a choice between a recipe and mixup."""
    if isinstance(recipe, ByEpoch):
        return ByEpoch({first: recipe and one_of(recipe) for first, recipe in recipe.ranges})
    return OneOf(recipe, Mixup(0.2))


def train(medium, *callbacks):
    torch.manual_seed(0)
    module = medium.module()
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=medium.epochs,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=50,
    )
    trainer.fit(module, medium.loader())
    return module


@functools.cache
def plainly_trained(name):
    return train(MEDIA[name])


def mixing(recipe, medium, places=("input",)):
    layers = [medium.layer if place == "layer" else place for place in places]
    return MixupCallback(recipe=recipe, layers=layers, seed=1, calibration=False)


def check_training(recipe, name, places):
    """Trains a medium's module with a recipe, which is to make a difference, and not the worse."""
    medium = MEDIA[name]

    module = train(medium, mixing(recipe, medium, places))

    assert not torch.equal(parameters_of(module), parameters_of(plainly_trained(name)))
    assert medium.skill(module) > NEEDED[name]


@pytest.mark.parametrize("name", MEDIA)
def test_plain_training_reaches_what_the_margins_are_half_of(name):
    skill = MEDIA[name].skill(plainly_trained(name))

    assert PLAIN[name] < skill < 1


@pytest.mark.parametrize(("recipe", "name", "places"), ALONE)
def test_a_recipe_trains(recipe, name, places):
    check_training(recipe, name, places)


@pytest.mark.parametrize(("recipe", "name", "places"), INSIDE)
def test_a_recipe_trains_inside_one_of(recipe, name, places):
    check_training(one_of(recipe), name, places)


@pytest.mark.parametrize("recipe", INPUTS_ALONE.values(), ids=INPUTS_ALONE)
def test_what_has_a_meaning_in_inputs_alone_is_refused_at_layers(recipe):
    medium = MEDIA["images"]

    with pytest.raises(ValueError, match=r"mixes inputs alone.* names hidden layers.*or choose M"):
        mixing(recipe, medium, PLACES["either"])
    with pytest.raises(ValueError, match=r"mixes inputs alone.* names hidden layers.*or choose M"):
        mixing(one_of(recipe), medium, PLACES["hidden"])


@pytest.mark.parametrize(
    ("name", "recipe", "words"),
    [
        ("images", Overlay(), r"all their labels, and a target of torch\.int64 .* room for one"),
        ("maps", SameClass(), r"classes of samples, and the target .* has many for each"),
        ("maps", NearestNeighbors(), r"classes of samples, and the target .* has many for each"),
        ("words", Mixup(0.2), r"'input_ids' has dtype torch\.int64.* name the layer that embeds"),
        ("words", CutMix(), r"'input_ids' has dtype torch\.int64.* name the layer that embeds"),
    ],
    ids=["one label", "many labels", "neighbours", "ids", "cut ids"],
)
def test_what_has_no_meaning_for_a_medium_is_refused_in_words(name, recipe, words):
    recipe = recipe if isinstance(recipe, Recipe) else Mixup(partners=recipe)

    with pytest.raises((TypeError, ValueError), match=words):
        train(MEDIA[name], mixing(recipe, MEDIA[name]))
