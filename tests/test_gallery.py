"""Tests for lightning_mixup.gallery, and for MixupCallback.show."""

import builtins
import random
import re
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from lightning import LightningModule
from matplotlib.backends.backend_agg import FigureCanvasAgg
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_mixup import (
    Beta,
    ByEpoch,
    CutMix,
    Fixed,
    Mixup,
    MixupCallback,
    OneOf,
    Overlay,
    RegMixup,
    ResizeMix,
    SameClass,
    SamplePairing,
    Uniform,
    mix_plot,
)
from lightning_mixup.mixes import Joined

THREE_QUARTERS = Mixup(weight=Fixed(0.75))
BIRDS = ["robin", "wren", "owl"]
IMAGES, LABELS = torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 2, 2, 1, 0])


def captions(figure):
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    return [title.replace("\N{NO-BREAK SPACE}", " ") for title in titles]


def pictured(axes):
    """Returns the numbers that a panel shows, whatever it shows them as."""
    if axes.images:
        return np.asarray(axes.images[0].get_array())
    if axes.patches:
        return np.array([bar.get_height() for bar in axes.patches])
    return np.array([line.get_ydata() for line in axes.lines])


def drawn_mix(recipe, x, y, seed=3):
    return recipe.draw(np.random.default_rng(seed), len(x), "cpu", [x], [y])


ALL = [
    Mixup(1.0),
    Mixup(1.0, per_sample=True, rounds=2),
    CutMix(1.0),
    ResizeMix(),
    SamplePairing(),
    RegMixup(),
]


@pytest.mark.parametrize("recipe", ALL, ids=repr)
def test_a_row_shows_a_sample_each_partner_and_the_mixed_one(recipe):
    mix = drawn_mix(recipe, IMAGES, LABELS)
    mixed = mix.blend(IMAGES)[-len(IMAGES) :]  # of RegMixup the second half
    inner = mix.mix if isinstance(mix, Joined) else mix

    figure = mix_plot([IMAGES], [LABELS], mix, count=2)

    width = 2 + len(inner.shares)
    for i in range(2):
        row = figure.axes[width * i : width * (i + 1)]
        partners = [(i + shift) % 6 for _, shift in inner.shares]
        expected = [IMAGES[i], *(IMAGES[j] for j in partners), mixed[i]]
        for axes, image in zip(row, expected, strict=True):
            assert np.array_equal(pictured(axes), image.movedim(0, -1).numpy())


FORMS = {
    "gray": ((5, 1, 6, 6), lambda x: x[0]),
    "spectrogram": ((5, 20, 30), lambda x: x),
    "multispectral": ((5, 7, 6, 6), lambda x: x.mean(0)),
    "video": ((5, 1, 4, 6, 6), lambda x: x[0, 2]),
    "series": ((5, 2, 30), lambda x: x),
    "many channels": ((5, 12, 30), lambda x: x[:3]),
    "one long row": ((5, 40), lambda x: x[None]),
    "table": ((5, 7), lambda x: x),
    "numbers": ((5,), lambda x: x[None]),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_drawn_goes_by_the_shape(form):
    shape, shown = FORMS[form]
    x, y = torch.randn(shape), torch.arange(5)
    mix = drawn_mix(Mixup(1.0), x, y)

    figure = mix_plot([x], [y], mix, count=1)

    own, _, mixed = map(pictured, figure.axes)
    np.testing.assert_allclose(own, shown(x[0]).numpy(), rtol=1e-6)
    np.testing.assert_allclose(mixed, shown(mix.blend(x)[0]).numpy(), rtol=1e-6, atol=1e-7)


def test_of_complex_numbers_the_magnitude_is_drawn():
    x = torch.randn(4, 16, 16, dtype=torch.complex64)

    figure = mix_plot([x], [], drawn_mix(Mixup(1.0), x, x), count=1)

    np.testing.assert_allclose(pictured(figure.axes[0]), x[0].abs().numpy(), rtol=1e-6)


def test_the_panels_of_a_row_have_one_scale():
    x = torch.randn(4, 1, 8, 8) * torch.tensor([1.0, 9.0, 1.0, 1.0]).reshape(4, 1, 1, 1)

    figure = mix_plot([x], [], drawn_mix(Overlay(), x, x))

    limits = [axes.images[0].get_clim() for axes in figure.axes[:3]]
    shown = np.concatenate([pictured(axes) for axes in figure.axes[:3]])
    assert set(limits) == {(shown.min(), shown.max())}


def test_colors_beyond_their_range_are_stretched_alike():
    """As those of normalised images, which would be cut off."""
    x = (IMAGES - 0.45) / 0.22
    mix = drawn_mix(Mixup(1.0), x, LABELS)

    figure = mix_plot([x], [LABELS], mix, count=1)

    values = torch.stack([x[0], x[mix.partner[0]], mix.blend(x)[0]]).movedim(1, -1)
    expected = (values - values.min()) / (values.max() - values.min())
    np.testing.assert_allclose([pictured(axes) for axes in figure.axes], expected, atol=1e-6)


def test_numbers_that_are_not_finite_leave_the_scale_alone():
    x = torch.rand(4, 1, 8, 8)
    x[0, 0, 0, 0], x[0, 0, 1, 1] = float("nan"), float("inf")

    figure = mix_plot([x], [], drawn_mix(SamplePairing(), x, x), count=1)

    assert all(0 <= limit <= 1 for limit in figure.axes[0].images[0].get_clim())


# What is written.


def words(recipe, y, x=IMAGES, names=None, i=0):
    """Returns the captions of one row."""
    figure = mix_plot([x], [y], drawn_mix(recipe, x, y), count=i + 1, class_names=names)
    return captions(figure)[-len(figure.axes) // (i + 1) :]


def test_captions_tell_weight_partner_and_labels(monkeypatch):
    monkeypatch.setattr("lightning_mixup.partners.draw_shift", lambda rng, batch_size: 2)
    mix = drawn_mix(THREE_QUARTERS, IMAGES, LABELS)
    partner = int(mix.partner[2])
    other = BIRDS[LABELS[partner]]

    said = words(THREE_QUARTERS, LABELS, names=BIRDS, i=2)

    assert other != "owl"
    assert said == [
        "sample 2\nlabel owl",
        f"with 0.25 of sample {partner}\nlabel {other}",
        f"mixed, 0.75 of itself\n0.75 × owl + 0.25 × {other}",
    ]


def test_labels_that_agree_are_named_once():
    assert words(Mixup(1.0, partners=SameClass()), LABELS, names=BIRDS)[-1].endswith("label robin")


HOT = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 0], [0, 0, 1], [1, 0, 0]])
SAID = {
    "indices": (LABELS + 4, "4", "6", "0.75 × 4 + 0.25 × 6"),
    "indices in a column": (LABELS[:, None] + 4, "4", "6", "0.75 × 4 + 0.25 × 6"),
    "numbers": (torch.arange(6.0), "0", "3", "0.75"),
    "several numbers": (torch.arange(12.0).reshape(6, 2), "[0, 1]", "[6, 7]", "[1.5, 2.5]"),
    "many numbers": (torch.ones(6, 9) * 2, *["[2, 2, 2, 2 …]"] * 3),
    "one-hot": (torch.eye(6), "0", "3", "0.75 × 0 + 0.25 × 3"),
    "multi-hot": (HOT.float(), "[0, 2]", "[0, 1]", "[0, 0.25 × 1, 0.75 × 2]"),
    "whole multi-hot": (HOT, "[0, 2]", "[0, 1]", "0.75 × [0, 2] + 0.25 × [0, 1]"),
    "bool": (HOT.bool(), "[0, 2]", "[0, 1]", "0.75 × [0, 2] + 0.25 × [0, 1]"),
    "one of bool": (HOT[:, 0].bool(), "1", "1", "1"),
}


@pytest.mark.parametrize("form", SAID)
def test_labels_of_any_form_are_put_into_words(form, monkeypatch):
    y, own, other, both = SAID[form]
    monkeypatch.setattr("lightning_mixup.partners.draw_shift", lambda rng, batch_size: 3)

    lines = [caption.split("\n") for caption in words(THREE_QUARTERS, y)]
    said = [" ".join(label).removeprefix("label ") for _, *label in lines]

    assert said == [own, other, both]


def test_beyond_the_range_a_share_has_its_sign():
    said = words(Mixup(weight=Fixed(1.25)), torch.arange(6))[-1]

    assert said.startswith("mixed, 1.25 of itself\n1.25 × 0 − 0.25 × ")


def test_with_a_weight_per_sample_each_row_has_its_own():
    recipe = Mixup(weight=Uniform(), per_sample=True)
    mix = drawn_mix(recipe, IMAGES, LABELS)

    figure = mix_plot([IMAGES], [torch.arange(6)], mix, count=3)

    said, weights = captions(figure)[2::3], [f"{w:.2f}" for w in mix.weight[:3]]
    own = [re.search(rf"(\S+) × {i}(?: |$)", text, re.MULTILINE)[1] for i, text in enumerate(said)]
    assert [text.split()[1] for text in said] == weights
    assert own == weights


def test_all_partners_of_several_rounds_are_named():
    said = words(Mixup(weight=Fixed(0.5), rounds=2), LABELS)

    assert [text.partition(" of")[0] for text in said[1:]] == [
        "with 0.25",
        "with 0.50",
        "mixed, 0.25",
    ]


def test_sample_pairing_keeps_its_own_label():
    assert words(SamplePairing(), LABELS)[-1] == "mixed, 0.50 of itself\nlabel 0"


def test_an_overlay_is_the_sum_with_all_labels():
    y = torch.eye(3)[LABELS]
    partner = LABELS[drawn_mix(Overlay(), IMAGES, y).partner[2]]
    all_birds = [BIRDS[k] for k in sorted({2, int(partner)})]

    said = words(Overlay(), y, names=BIRDS, i=2)[-1]

    assert said == f"sum of 2\nlabel {' + '.join(all_birds)}"


def test_who_has_no_partner_stays_itself():
    y = torch.tensor([7, 1, 1, 1, 1, 1])

    assert words(Mixup(1.0, partners=SameClass()), y)[1].endswith("of itself\nlabel 7")


def test_names_that_are_missing_are_numbers():
    assert words(Mixup(1.0), LABELS, names=["robin"], i=2)[0] == "sample 2\nlabel 2"


def test_a_dollar_in_a_name_begins_no_formula():
    mix = drawn_mix(Mixup(1.0), IMAGES, LABELS)

    figure = mix_plot([IMAGES], [LABELS], mix, count=1, class_names=["$x$"] * 3)

    assert not any(axes._left_title.get_parse_math() for axes in figure.axes)


def test_no_more_is_drawn_than_there_is():
    figure = mix_plot([IMAGES[:2]], [], drawn_mix(Mixup(1.0), IMAGES[:2], LABELS[:2]), count=9)

    assert captions(figure)[::3] == ["sample 0", "sample 1"]


# Maps.

MASKS = torch.randint(3, (6, 8, 8))


def painted(mask):
    colors = torch.tensor([[0, 0, 0], [0, 0x72, 0xB2], [0xD5, 0x5E, 0]]) / 255
    return colors[mask]


def test_cut_maps_are_drawn_as_they_are_pasted():
    mix = drawn_mix(CutMix(1.0), IMAGES, MASKS)

    figure = mix_plot([IMAGES], [MASKS], mix, count=1)

    shown = [pictured(axes) for axes in figure.axes[3:]]
    masks = [MASKS[0], MASKS[mix.partner[0]], mix.label(MASKS)[0]]
    np.testing.assert_allclose(shown, [painted(mask) for mask in masks], atol=1e-6)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("shape", [(6, 8, 8), (6, 1, 8, 8)], ids=str)
def test_blended_maps_are_drawn_in_blended_colors(per_sample, shape):
    mix = drawn_mix(Mixup(1.0, per_sample=per_sample), IMAGES, MASKS)
    weight = mix.weight.expand(6)[1]

    figure = mix_plot([IMAGES], [MASKS.reshape(shape)], mix, count=2)

    expected = weight * painted(MASKS[1]) + (1 - weight) * painted(MASKS[mix.partner[1]])
    np.testing.assert_allclose(pictured(figure.axes[-1]), expected, atol=1e-6)


def test_labels_that_are_left_out_are_white():
    masks = MASKS.clone()
    masks[0, 0, 0], masks[0, 0, 1] = -100, 255

    figure = mix_plot([IMAGES], [masks], drawn_mix(CutMix(1.0), IMAGES, masks), count=1)

    assert (pictured(figure.axes[3])[0, :2] == 1).all()


def test_labels_of_times_are_lines():
    x, y = torch.randn(4, 2, 20), torch.randint(3, (4, 20))

    figure = mix_plot([x], [y], drawn_mix(CutMix(1.0), x, y), count=1)

    assert np.array_equal(pictured(figure.axes[3]), y[:1].numpy())


# The callback.


def test_show_draws_what_the_fit_mixes(make_trainer):
    handed = []

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 3)

        def training_step(self, batch, batch_idx):
            x, y = batch
            handed.append(x.clone())
            return cross_entropy(self.layer(x), y)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    loader = DataLoader(TensorDataset(torch.randn(12, 3), torch.arange(12) % 3), batch_size=6)
    recipe = OneOf(Mixup(1.0), Mixup(weight=Beta(2, 5)))
    callback = MixupCallback(recipe=recipe, seed=4, calibration=False)
    make_trainer(callbacks=[callback]).fit(Module(), loader)

    figures = [callback.show(batch, number=i, count=2) for i, batch in enumerate(loader)]

    for figure, x in zip(figures, handed, strict=True):
        shown = np.stack([pictured(axes) for axes in figure.axes[2::3]])
        np.testing.assert_array_equal(shown, x[:2].numpy())


def test_without_a_seed_it_is_that_of_torch():
    batch = IMAGES, LABELS
    torch.manual_seed(11)

    unseeded, seeded, other = (
        captions(MixupCallback(recipe=Mixup(1.0), seed=seed).show(batch, count=1))
        for seed in (None, 11, 12)
    )

    assert unseeded == seeded != other


def test_show_leaves_batch_and_randomness_alone():
    batch = {"image": IMAGES.clone(), "label": LABELS.clone(), "id": ["a"] * 6}
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002

    MixupCallback(alpha=1.0).show(batch, count=1)

    assert torch.equal(batch["image"], IMAGES)
    assert torch.equal(batch["label"], LABELS)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])  # noqa: NPY002


def test_the_title_is_the_recipe_that_was_drawn():
    recipe = ByEpoch({0: Mixup(0.2), 5: RegMixup(OneOf(CutMix(1.0), ResizeMix()))})
    callback = MixupCallback(recipe=recipe, seed=0)

    drawn = {
        callback.show((IMAGES, LABELS), count=1, epoch=5, number=n).get_suptitle()
        for n in range(4)
    }

    assert drawn == {"RegMixup(recipe=CutMix(alpha=1.0))", "RegMixup(recipe=ResizeMix())"}


def test_entries_are_those_that_are_mixed():
    batch = [LABELS, torch.ones(6), {"left": IMAGES, "right": IMAGES.flip(0)}]
    callback = MixupCallback(alpha=1.0, inputs=["2.left", "2.right"], targets=0)

    figure = callback.show(batch, count=1)

    assert np.array_equal(pictured(figure.axes[0]), IMAGES[0].movedim(0, -1))
    assert np.array_equal(pictured(figure.axes[3]), IMAGES[5].movedim(0, -1))


def test_weights_of_losses_are_no_labels():
    batch = {"image": IMAGES, "label": LABELS, "weight": torch.full((6,), 0.125)}

    figure = MixupCallback(alpha=1.0).show(batch, count=1)

    assert captions(figure)[0] == "sample 0\nlabel 0"


@pytest.mark.parametrize(
    ("settings", "batch", "words"),
    [
        ({"layers": "net.0"}, (IMAGES, LABELS), r"layers=\['net.0'\] mixes hidden features"),
        ({"prob": 0}, (IMAGES, LABELS), r"prob=0, mixes nothing\. Choose an alpha"),
        ({"alpha": 0}, (IMAGES, LABELS), r"Mixup\(alpha=0.0\), with prob=1, mixes nothing"),
        (
            {"recipe": ByEpoch({3: Mixup()})},
            (IMAGES, LABELS),
            "a range of epochs without a recipe, with prob=1, mixes nothing",
        ),
        ({}, (IMAGES[:1], LABELS[:1]), "There is no mix to draw: a batch of one sample"),
        ({}, (torch.rand(4, 1, 1, 1, 1, 1), LABELS[:4]), r"can't draw inputs of shape \(4, 1, 1"),
    ],
    ids=str,
)
def test_what_can_not_be_shown_is_refused_in_words(settings, batch, words):
    with pytest.raises(ValueError, match=words):
        MixupCallback(**settings).show(batch)


def test_a_count_below_one_is_refused():
    with pytest.raises(ValueError, match=r"count=0 leaves no sample to draw\. Give 1 or more"):
        MixupCallback().show((IMAGES, LABELS), count=0)


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    real_import = builtins.__import__

    def no_matplotlib(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_matplotlib)

    with pytest.raises(ImportError, match="pip install matplotlib"):
        MixupCallback().show((IMAGES, LABELS))


def test_pyplot_is_left_alone():
    """So that no display is needed."""
    before = "matplotlib.pyplot" in sys.modules

    MixupCallback().show((IMAGES, LABELS), count=1)

    assert ("matplotlib.pyplot" in sys.modules) == before


# The picture.


@pytest.mark.parametrize("names", [None, ["a rather long name of a class, as they come"] * 3])
@pytest.mark.parametrize("shape", [(6, 3, 8, 8), (6, 1, 8, 80), (6, 3, 8, 2), (6, 2, 30)], ids=str)
def test_no_caption_runs_into_the_next_panel(shape, names):
    x = torch.rand(shape)
    mix = drawn_mix(Mixup(1.0, rounds=2), x, LABELS)

    figure = mix_plot([x], [LABELS], mix, count=1, class_names=names, title="a title")

    FigureCanvasAgg(figure).draw()
    boxes = [axes._left_title.get_window_extent() for axes in figure.axes]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    assert boxes[-1].x1 <= figure.bbox.width
