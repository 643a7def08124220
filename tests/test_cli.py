"""Tests that recipes can be written in a YAML file, for LightningCLI."""

import re
from pathlib import Path

import pytest
import yaml
from lightning.pytorch.demos.boring_classes import BoringModel

from lightning_mixup import (
    Alternate,
    Beta,
    ByEpoch,
    CalibrationMonitor,
    CutMix,
    Fade,
    LabelKernel,
    Mixup,
    MixupCallback,
    OffAtEnd,
    OneOf,
    Overlay,
    RegMixup,
    SameClass,
    Uniform,
    WarmUp,
)

pytest.importorskip("jsonargparse", reason="LightningCLI needs jsonargparse")

PAGE = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text("utf-8")
SHOWN = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
# What jsonargparse and Lightning say to each other is not ours.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def make_callback(tmp_path):
    """Returns a function that makes the callback of a YAML file."""

    def make(text):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        quiet = ["--trainer.logger=false", "--trainer.enable_checkpointing=false"]
        args = ["--config", str(path), *quiet, "--trainer.accelerator=cpu"]
        # Only here, as the import itself has jsonargparse say things to older Lightnings.
        from lightning.pytorch.cli import LightningCLI

        cli = LightningCLI(BoringModel, run=False, args=args, save_config_callback=None)
        found = [c for c in cli.trainer.callbacks if isinstance(c, MixupCallback)]
        return found[0], cli.parser.dump(cli.config, skip_none=False)

    return make


def written(init_args):
    callback = {"class_path": "lightning_mixup.MixupCallback", "init_args": init_args}
    return yaml.safe_dump({"trainer": {"callbacks": [callback]}})


def part(name, **init_args):
    return {"class_path": f"lightning_mixup.{name}", "init_args": init_args}


AS_SHOWN = [
    MixupCallback(recipe=CutMix(1.0, partners=SameClass())),
    MixupCallback(recipe=OneOf(Mixup(weight=Beta(8, 2)), CutMix(), weights=[3, 1]), prob=0.5),
    MixupCallback(recipe=ByEpoch({0: Mixup(0.2), 50: RegMixup(), 90: None})),
]


@pytest.mark.parametrize("number", range(3))
def test_what_the_page_shows_makes_the_callback(number, make_callback):
    callback, _ = make_callback(SHOWN[number])

    assert repr(callback) == repr(AS_SHOWN[number])


OTHERS = {
    "alpha": ({"alpha": 0.2}, MixupCallback(0.2)),
    "dims": (
        {"recipe": part("CutMix", dims=[-2, -1], per_sample=True)},
        MixupCallback(recipe=CutMix(dims=(-2, -1), per_sample=True)),
    ),
    "one in another": (
        {"recipe": part("RegMixup", recipe=part("Overlay", rounds=2))},
        MixupCallback(recipe=RegMixup(Overlay(2))),
    ),
    "one of one": (
        {"recipe": part("OneOf", recipes=part("Overlay"))},
        MixupCallback(recipe=OneOf(Overlay())),
    ),
    "partners and weights": (
        {
            "recipe": part(
                "Mixup", weight=part("Uniform"), partners=part("LabelKernel", bandwidth=0.5)
            )
        },
        MixupCallback(recipe=Mixup(weight=Uniform(), partners=LabelKernel(0.5))),
    ),
    "the rest": (
        {
            "alpha": 1.0,
            "layers": ["input", "layer"],
            "inputs": ["views.left", 1],
            "targets": None,
            "seed": 1,
            "calibration": part("CalibrationMonitor", prefix="clean_"),
        },
        MixupCallback(
            1.0,
            layers=["input", "layer"],
            inputs=["views.left", 1],
            targets=None,
            seed=1,
            calibration=CalibrationMonitor(prefix="clean_"),
        ),
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_every_argument_can_be_written(name, make_callback):
    init_args, expected = OTHERS[name]

    callback, _ = make_callback(written(init_args))

    assert repr(callback) == repr(expected)


@pytest.mark.parametrize("text", SHOWN, ids=["CutMix", "OneOf", "ByEpoch"])
def test_a_configuration_that_was_saved_makes_the_same(text, make_callback):
    """As ``SaveConfigCallback`` writes it beside the logs."""
    callback, saved = make_callback(text)

    again, _ = make_callback(saved)

    assert repr(again) == repr(callback)


def test_what_is_refused_is_refused_in_words(make_callback):
    with pytest.raises(ValueError, match=r"alpha=-1.0 is not at least 0\. Use 0.2"):
        make_callback(written({"recipe": part("Mixup", alpha=-1.0)}))


@pytest.mark.parametrize(
    ("prob", "schedule"),
    [
        (part("OffAtEnd", epochs=10), OffAtEnd(epochs=10)),
        (part("Fade", epochs=[50, None]), Fade(epochs=(50, None))),
        (
            part(
                "schedules.Product",
                schedules=[part("WarmUp", steps=100), part("Alternate", epochs=[8, 2])],
            ),
            WarmUp(steps=100) * Alternate(epochs=(8, 2)),
        ),
        (0.5, 0.5),
    ],
)
def test_a_schedule_is_written_by_its_class(make_callback, prob, schedule):
    callback, _ = make_callback(written({"alpha": 0.4, "prob": prob, "strength": prob}))

    assert callback.prob == schedule
    assert callback.strength == schedule
