"""Tests for CutMix and ResizeMix: labels count by the area that is seen, maps are pasted alike."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F
from torch.testing import assert_close

import lightning_mixup
from lightning_mixup import (
    AnyOther,
    CutMix,
    Fixed,
    LabelKernel,
    MixedTarget,
    NearestNeighbors,
    OtherClass,
    ResizeMix,
    SameClass,
    Uniform,
    recipes,
)
from lightning_mixup.blend import paste

BATCH = 6
SHAPES = {"1-D": (9,), "series": (2, 17), "images": (3, 12, 7), "videos": (1, 4, 6, 5)}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
PARTNERS = [AnyOther(), SameClass(), OtherClass(), NearestNeighbors(2), LabelKernel(1.0)]
each_choice = pytest.mark.parametrize("partners", PARTNERS, ids=lambda choice: choice.describe())
per_sample_or_not = pytest.mark.parametrize("per_sample", [False, True])


def owners(*shape):
    """Returns samples of which each place tells whose it is."""
    return torch.arange(BATCH).double().reshape(-1, *[1] * len(shape)).expand(BATCH, *shape)


def draw(recipe, x, y=None, seed=0):
    targets = [torch.arange(BATCH) % 3 if y is None else y]
    return recipe.draw(np.random.default_rng(seed), BATCH, inputs=[x], targets=targets)


def seen(mixed):
    """Returns which share of each sample shows whom, of shape (B, B)."""
    return F.one_hot(mixed.reshape(BATCH, -1).long(), BATCH).double().mean(dim=1)


@each_shape
@each_choice
@per_sample_or_not
@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_labels_count_exactly_by_the_area_that_is_seen(shape, partners, per_sample, rounds):
    x = owners(*shape)
    mix = draw(CutMix(per_sample=per_sample, partners=partners, rounds=rounds), x, seed=3)

    label = mix.label(torch.eye(BATCH, dtype=torch.float64))

    assert_close(label.as_subclass(torch.Tensor), seen(mix.blend(x)), rtol=0, atol=1e-15)


@each_shape
@per_sample_or_not
@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_the_weight_is_exactly_the_own_area(shape, per_sample, rounds):
    x = owners(*shape)
    mix = draw(CutMix(per_sample=per_sample, rounds=rounds), x, seed=4)

    own = seen(mix.blend(x)).diagonal()

    assert torch.equal(mix.weight.expand(BATCH), own)


@each_shape
@each_choice
def test_a_resized_partner_counts_exactly_by_its_area(shape, partners):
    x = owners(*shape)
    mix = draw(ResizeMix(partners=partners), x)

    label = mix.label(torch.eye(BATCH, dtype=torch.float64))

    assert_close(label.as_subclass(torch.Tensor), seen(mix.blend(x).round()), rtol=0, atol=1e-15)


MAPS = {
    "classes of pixels": ((3, 8, 10), (8, 10), torch.int64, {}),
    "classes of pixels, 8 bits": ((3, 8, 10), (8, 10), torch.uint8, {}),
    "yes or no": ((3, 8, 10), (8, 10), torch.bool, {}),
    "a float mask": ((3, 8, 10), (1, 8, 10), torch.float32, {}),
    "several masks": ((3, 8, 10), (4, 8, 10), torch.float32, {}),
    "places of a series": ((2, 11), (11,), torch.int64, {}),
    "values of a series": ((2, 11), (1, 11), torch.float32, {}),
    "voxels": ((1, 4, 6, 5), (4, 6, 5), torch.int64, {}),
    "a row of values": ((11,), (11,), torch.int64, {}),
    "times of a spectrogram": ((1, 6, 9), (9,), torch.int64, {"dims": (-1,)}),
    "events at times": ((1, 6, 9), (4, 9), torch.float32, {"dims": (-1,)}),
    "all frames alike": ((2, 4, 6, 5), (4, 6, 5), torch.int64, {"dims": (-2, -1)}),
    "one mask for all frames": ((2, 4, 6, 5), (6, 5), torch.int64, {"dims": (-2, -1)}),
    "times first": ((9, 4), (9,), torch.int64, {"dims": (1,)}),
    "times first, events": ((9, 4), (9, 2), torch.float32, {"dims": (1,)}),
    "channels last": ((8, 10, 3), (8, 10), torch.int64, {"dims": [1, 2]}),
}
LIKE = {"times first": lambda x: x[..., 0], "times first, events": lambda x: x[..., :1]}
LIKE["channels last"] = LIKE["times first"]
LIKE["times of a spectrogram"] = lambda x: x[:, 0, 0]
LIKE["events at times"] = lambda x: x[:, 0, :1]
LIKE["one mask for all frames"] = lambda x: x[:, 0, 0]


def channel(x, y):
    """Returns the part of an input that has the shape of its map."""
    if x.ndim == y.ndim == 2:
        return x
    return x[:, 0] if y.ndim < x.ndim else x[:, :1]


@pytest.mark.parametrize("name", MAPS)
@per_sample_or_not
@pytest.mark.parametrize("rounds", [1, 2])
def test_a_map_is_pasted_where_its_image_is(name, per_sample, rounds):
    """Hard as it was, and of its own type."""
    inner, shape, dtype, options = MAPS[name]
    x, y = owners(*inner), owners(*shape).to(dtype)

    mix = draw(CutMix(per_sample=per_sample, rounds=rounds, **options), x, seed=5)
    mixed_x, mixed_y = mix.blend(x), mix.label(y)

    assert type(mixed_y) is torch.Tensor
    assert mixed_y.dtype == dtype
    like = LIKE.get(name, lambda x: channel(x, y))(mixed_x).to(dtype)
    assert torch.equal(mixed_y, like.expand_as(mixed_y))
    assert not torch.equal(mixed_y, y)


@pytest.mark.parametrize("name", [name for name in MAPS if not MAPS[name][3]])
def test_a_map_is_resized_where_its_image_is(name):
    inner, shape, dtype, _ = MAPS[name]
    x, y = owners(*inner), owners(*shape).to(dtype)

    mix = draw(ResizeMix(0.5, 0.9), x)
    mixed_x, mixed_y = mix.blend(x).round(), mix.label(y)

    assert mixed_y.dtype == dtype
    assert torch.equal(mixed_y, channel(mixed_x, y).to(dtype).expand_as(mixed_y))
    assert not torch.equal(mixed_y, y)


@pytest.mark.parametrize("name", [name for name in MAPS if not MAPS[name][3]])
def test_a_resized_map_has_what_is_nearest(name):
    inner, shape, dtype, _ = MAPS[name]
    x, y = torch.rand(BATCH, *inner), torch.randint(0, 5, (BATCH, *shape)).to(dtype)
    mix = draw(ResizeMix(0.4, 0.9), x)
    box, shift = mix.boxes[0], mix.shift
    flat = y.float().reshape(BATCH, -1, *mix.sizes)
    small = F.interpolate(flat, size=[*(box[:, 1] - box[:, 0])], mode="nearest-exact")
    expected = flat.clone()
    expected[(..., *(slice(*pair) for pair in box))] = small.roll(-shift, 0)

    assert torch.equal(mix.label(y), expected.reshape(y.shape).to(dtype))


@each_shape
def test_the_whole_partner_is_resized_and_pasted(shape):
    """By hand, with torch's interpolation."""
    x = torch.randn(BATCH, *shape)
    mix = draw(ResizeMix(0.3, 0.8), x)
    box = mix.boxes[0]
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(box)]
    flat = x.reshape(BATCH, -1, *mix.sizes)
    small = F.interpolate(flat, size=[*(box[:, 1] - box[:, 0])], mode=mode)
    expected = flat.clone()
    expected[(..., *(slice(*pair) for pair in box))] = small.roll(-mix.shift, 0)

    assert_close(mix.blend(x), expected.reshape(x.shape), rtol=0, atol=0)


@pytest.mark.parametrize("recipe", [CutMix(), ResizeMix()], ids=repr)
def test_a_label_for_each_sample_is_no_map_where_there_are_as_many_places(recipe):
    _, y = recipe(owners(BATCH), torch.arange(BATCH))

    assert isinstance(y, MixedTarget)


def test_sides_of_what_is_resized_are_uniform():
    x = torch.empty(BATCH, 1, 1000)

    mixes = [draw(ResizeMix(0.1, 0.8), x, seed=seed) for seed in range(500)]

    assert (
        stats.kstest([1 - mix.drawn for mix in mixes], stats.uniform(0.1, 0.7).cdf).pvalue > 0.01
    )


@pytest.mark.parametrize("recipe", [CutMix(2.0), CutMix(weight=Uniform(0.2, 0.9))], ids=repr)
def test_areas_before_they_are_cut_off_follow_the_weights(recipe):
    shares, original = [], recipes.draw_boxes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            recipes,
            "draw_boxes",
            lambda rng, s, sizes: shares.append(s) or original(rng, s, sizes),
        )
        for seed in range(1000):
            draw(recipe, torch.empty(BATCH, 1, 10), seed=seed)

    law = stats.beta(2, 2) if recipe.weight is None else stats.uniform(0.2, 0.7)
    assert stats.kstest(1 - np.array(shares), law.cdf).pvalue > 0.01


EVERY = {
    "CutMix": CutMix(),
    "CutMix, per sample": CutMix(per_sample=True),
    "CutMix, same class": CutMix(partners=SameClass()),
    "CutMix, same class, per sample": CutMix(per_sample=True, partners=SameClass(), rounds=2),
    "ResizeMix": ResizeMix(),
    "ResizeMix, same class": ResizeMix(partners=SameClass()),
}
each_recipe = pytest.mark.parametrize("recipe", EVERY.values(), ids=EVERY)


@each_recipe
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_dtype_and_memory_format_are_kept(recipe, dtype):
    x = torch.randn(BATCH, 3, 8, 6).to(dtype).to(memory_format=torch.channels_last)

    mixed = draw(recipe, x).blend(x)

    assert mixed.dtype == dtype
    assert mixed.is_contiguous(memory_format=torch.channels_last)


@each_recipe
def test_inputs_and_maps_are_never_modified(recipe):
    x, y = torch.randn(BATCH, 3, 8, 6), torch.randint(0, 3, (BATCH, 8, 6))
    before = x.clone(), y.clone()
    mix = draw(recipe, x)

    mixed_x, mixed_y = mix.blend(x), mix.label(y)
    mixed_x += 1
    mixed_y += 1

    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


@each_recipe
@pytest.mark.parametrize("shape", [(2,), (1, 2), (3, 1, 2), (3, 1, 9), (1, 1, 1, 2)], ids=str)
def test_dimensions_of_one_place_can_be_cut_beside_others(recipe, shape):
    x = owners(*shape)
    mix = draw(recipe, x)

    label = mix.label(torch.eye(BATCH + 1, dtype=torch.float64)[:BATCH])

    assert_close(label.as_subclass(torch.Tensor)[:, :BATCH], seen(mix.blend(x)))


@per_sample_or_not
@pytest.mark.parametrize("weight", [0.0, 1 - 1e-12])
def test_a_weight_that_cuts_nothing_changes_nothing_and_0_often_everything(per_sample, weight):
    x = owners(3, 5, 4)
    mix = draw(CutMix(weight=Fixed(weight), per_sample=per_sample), x)

    mixed = mix.blend(x)

    assert (mix.weight.max() < 1) if weight == 0 else torch.equal(mixed, x)
    assert torch.equal(mix.weight.expand(BATCH), seen(mixed).diagonal())


def test_a_gradient_goes_to_what_is_seen():
    x = torch.randn(BATCH, 1, 4, 5, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(draw(CutMix(rounds=2, per_sample=True), x).blend, x)
    assert torch.autograd.gradcheck(draw(ResizeMix(), x).blend, x)


def test_boxes_are_pasted_by_hand():
    x, boxes = torch.randn(3, 2, 6), np.array([[[0, 2]], [[3, 3]], [[1, 6]]])

    pasted = paste(x, boxes, shift=2, dims=[-1])

    expected = x.clone()
    expected[0, :, :2], expected[2, :, 1:] = x[2, :, :2], x[1, :, 1:]
    assert torch.equal(pasted, expected)


@pytest.mark.parametrize("text", [repr(recipe) for recipe in [*EVERY.values(), CutMix(dims=(1,))]])
def test_a_recipe_is_its_own_description(text):
    assert repr(eval(text, dict(vars(lightning_mixup)))) == text


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (CutMix(), "CutMix, area by Beta(1, 1), partners within the batch"),
        (
            CutMix(weight=Fixed(0.5), per_sample=True, rounds=2, partners=SameClass()),
            "CutMix, area by the weight 0.5 for each sample in 2 rounds, partners by SameClass()",
        ),
        (ResizeMix(), "ResizeMix, sides from 0.1 to 0.8, partners within the batch"),
    ],
)
def test_a_recipe_says_what_it_does(recipe, words):
    assert recipe.describe() == words


@pytest.mark.parametrize(
    ("recipe", "strength", "milder"),
    [
        (CutMix(1.0), 1, CutMix(1.0)),
        (CutMix(1.0), 0.25, CutMix(0.25)),
        (CutMix(weight=Fixed(0.5)), 0.5, CutMix(weight=Fixed(0.75))),
        (ResizeMix(0.2, 0.8), 0.5, ResizeMix(0.1, 0.4)),
    ],
)
def test_a_milder_recipe_cuts_less(recipe, strength, milder):
    assert recipe.at_strength(strength) == milder
    assert not recipe.at_strength(0).mixes


X = torch.rand(4, 3, 8, 6)


@pytest.mark.parametrize("recipe", [CutMix(), ResizeMix()], ids=["CutMix", "ResizeMix"])
@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (torch.rand(4, 8), torch.rand(4, 8), r"can't tell whether .*\(4, 8\) .*unsqueeze\(1\)"),
        (torch.rand(4, 2, 8), torch.rand(4, 8), r"can't tell whether .* of the size \(8,\)"),
        (X, torch.zeros(4, 16, 12), r"pastes into maps .* of the size \(8, 6\), .*\(4, 16, 12\)"),
        (
            torch.rand(4),
            torch.arange(4),
            r"cuts one, .* can't cut dims=\(\) from inputs of shape \(4,\)",
        ),
        (torch.rand(4, 1, 2, 2, 2, 2), torch.arange(4), r"cuts one, two or three dimensions"),
        (torch.rand(4, 8, 1), torch.arange(4), r"finds nothing to cut: along dims=\(-1,\), .* \("),
        (torch.rand(4, 1), torch.arange(4), r"finds nothing to cut: .* have a single place\. Say"),
    ],
    ids=["row", "series", "size", "scalars", "4-D", "channels last", "one column"],
)
def test_what_has_two_meanings_or_none_is_refused_in_words(recipe, x, y, words):
    with pytest.raises(ValueError, match=f"{type(recipe).__name__} {words}"):
        recipe(x, y)


@pytest.mark.parametrize("recipe", [CutMix(), ResizeMix()], ids=["CutMix", "ResizeMix"])
def test_inputs_of_several_sizes_are_refused_in_words(recipe):
    mix = recipe.draw(np.random.default_rng(0), 4, inputs=[X])

    with pytest.raises(ValueError, match=r"for the sizes \(8, 6\), .*shape \(4, 3, 8, 8\)\. Name"):
        mix.blend(torch.rand(4, 3, 8, 8))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: CutMix(dims=-1), TypeError, r"dims=-1 are no dimensions\. Give those that"),
        (lambda: CutMix(dims=(1.0,)), TypeError, r"dims=\(1\.0,\) are no dimensions"),
        (lambda: CutMix(dims=()), ValueError, r"dims=\(\) must be different dimensions"),
        (lambda: CutMix(dims=(0, 1)), ValueError, r"and not 0, along which samples lie"),
        (lambda: CutMix(dims=(-1, -1)), ValueError, r"must be different dimensions"),
        (
            lambda: CutMix(dims=(3, -1))(X, torch.arange(4)),
            ValueError,
            r"can't cut dims=\(3, -1\)",
        ),
        (lambda: CutMix(dims=(4,))(X, torch.arange(4)), ValueError, r"can't cut dims=\(4,\)"),
        (lambda: CutMix(dims=(-4,))(X, torch.arange(4)), ValueError, r"can't cut dims=\(-4,\)"),
        (lambda: CutMix(-1), ValueError, r"alpha=-1 is not at least 0"),
        (lambda: CutMix(weight=Uniform(0, 1.5)), ValueError, r"an area is a share from 0 to 1"),
        (lambda: CutMix(0.2, weight=Fixed(0.5)), ValueError, r"CutMix got both alpha=0\.2 and"),
        (lambda: CutMix(weight=0.5), TypeError, r"weight=0\.5 is a float, not a distribution"),
        (lambda: CutMix(rounds=0), ValueError, r"rounds=0 is not at least 1"),
        (lambda: CutMix(rounds=1.5), TypeError, r"rounds=1\.5 is not an integer"),
        (lambda: CutMix().draw(np.random.default_rng(0), 4), ValueError, r"boxes in the size of"),
        (lambda: ResizeMix(0.5, 0.2), ValueError, r"low is above high\. Give the sides"),
        (lambda: ResizeMix(0.5, 1.2), ValueError, r"high=1\.2 is not from 0 to 1"),
        (lambda: ResizeMix("0", 1), TypeError, r"low='0' is not a number"),
        (lambda: ResizeMix(math.nan), ValueError, r"low=nan"),
    ],
)
def test_what_cannot_be_cut_is_refused_in_words(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(
    ("dims", "shape", "target", "is_map"),
    [
        ((-2,), (4, 3, 8, 8), (4, 8, 8), True),
        ((3,), (4, 3, 8, 8), (4, 8, 8), False),
        ((2,), (4, 3, 8, 8), (4, 8, 8), False),  # along which a square map has another axis
        ((2,), (4, 3, 8, 8), (4, 3, 8, 8), True),
        ((1,), (4, 8, 3), (4, 8), True),
        ((-2, -1), (4, 3, 5, 8, 8), (4, 5, 8, 8), True),
    ],
)
def test_a_map_has_the_dimensions_that_are_cut_where_the_input_has_them(
    dims, shape, target, is_map
):
    recipe, y = CutMix(weight=Fixed(0.5), dims=dims), torch.zeros(target, dtype=torch.long)
    y += torch.arange(4).reshape(-1, *[1] * (len(target) - 1))

    if is_map:
        x, mixed = recipe(
            torch.zeros(shape) + torch.arange(4.0).reshape(-1, *[1] * (len(shape) - 1)), y
        )
        assert torch.equal(mixed.sum() - y.sum(), torch.tensor(0))
        assert type(mixed) is torch.Tensor
        assert len(x) == 4
    else:
        with pytest.raises(ValueError, match=r"CutMix pastes into maps of labels"):
            recipe(torch.zeros(shape), y)
