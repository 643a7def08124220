"""Tests for lightning_mixup.mixes: what becomes of samples and labels, at the input and at layers.

The oracle is a matrix: row i says of which samples, and with which share, mixed sample i is made.
"""

import functools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.testing import assert_close

from lightning_mixup import (
    Beta,
    CutMix,
    LabelKernel,
    MixedTarget,
    Mixup,
    OtherClass,
    Overlay,
    RegMixup,
    SameClass,
    SamplePairing,
    Uniform,
    merge,
)
from lightning_mixup.compiled import Switch, blend_by_switch
from lightning_mixup.layers import Layer
from lightning_mixup.mixes import Mix, Rounds
from lightning_mixup.partners import draw_shift
from lightning_mixup.targets import Usage

BATCH, CLASSES, FEATURES = 6, 4, 5
Y = torch.tensor([0, 1, 2, 0, 1, 3])
BEYOND = Uniform(-0.5, 1.5)


def draw(recipe, y=Y, seed=1):
    x = torch.randn(len(y), 1, 4, 4)
    return recipe.draw(np.random.default_rng(seed), len(y), inputs=[x], targets=[y])


def matrix(mix, own=None, shares=None):
    """Returns what a mix multiplies labels by, or something else of these shares."""
    rows, size = np.arange(mix.batch_size), mix.batch_size
    made = np.diag(np.broadcast_to(mix.drawn if own is None else own, size).astype(float))
    for share, shift in mix.shares if shares is None else shares:
        partners = (rows + np.asarray(shift)) % size
        np.add.at(made, (rows, partners), np.broadcast_to(share, size))
    return torch.tensor(made)


def soft(mix, y=Y):
    """Returns the share of each class in each mixed sample."""
    return matrix(mix) @ F.one_hot(y, CLASSES).double()


INTERPOLATING = {
    "mixup": Mixup(1.0),
    "two rounds": Mixup(1.0, rounds=2),
    "three rounds": Mixup(1.0, rounds=3),
    "beyond": Mixup(weight=BEYOND),
    "beyond, two rounds": Mixup(weight=BEYOND, rounds=2),
    "same class": Mixup(1.0, partners=SameClass()),
    "other class, two rounds": Mixup(weight=Beta(2, 5), partners=OtherClass(), rounds=2),
    "similar": Mixup(1.0, partners=LabelKernel(1.0)),
}
each = pytest.mark.parametrize("recipe", INTERPOLATING.values(), ids=INTERPOLATING)
per_sample_or_not = pytest.mark.parametrize("per_sample", [False, True])


def with_weights(recipe, *, per_sample):
    return replace(recipe, per_sample=per_sample) if hasattr(recipe, "per_sample") else recipe


# Rounds and weights.


@pytest.mark.parametrize("rounds", [1, 2, 3])
@pytest.mark.parametrize("weights", [Beta(1.0, 1.0), Beta(2, 5), BEYOND], ids=repr)
@per_sample_or_not
def test_rounds_are_the_formula_one_after_the_other(rounds, weights, per_sample):
    rng, x = np.random.default_rng(1), torch.randn(BATCH, 3, dtype=torch.float64)
    expected = x
    for _ in range(rounds):
        partner = (torch.arange(BATCH) + draw_shift(rng, BATCH)) % BATCH
        weight = weights.draw(rng, BATCH if per_sample else None)
        weight = torch.as_tensor(weight, dtype=torch.float64).reshape(-1, 1)
        expected = weight * expected + (1 - weight) * x[partner]

    mix = draw(Mixup(weight=weights, rounds=rounds, per_sample=per_sample))

    assert_close(mix.blend(x), expected, rtol=0, atol=1e-12)


@each
@per_sample_or_not
def test_samples_and_labels_are_of_the_same_shares_that_sum_to_one(recipe, per_sample):
    x = torch.randn(BATCH, 3, dtype=torch.float64)
    mix = draw(with_weights(recipe, per_sample=per_sample))

    target = mix.label(Y)

    assert_close(matrix(mix).sum(1), torch.ones(BATCH, dtype=torch.float64))
    assert_close(mix.blend(x), matrix(mix) @ x, rtol=0, atol=1e-12)
    assert_close(target.weights.sum(0), torch.ones_like(target.weights[0]))
    assert_close(mix.label(x).as_subclass(torch.Tensor), mix.blend(x), rtol=0, atol=1e-12)
    assert (target.weights[:-1] >= target.weights[1:]).all()


def with_gradient(loss, logits):
    loss = merge(loss)
    return loss.detach(), *torch.autograd.grad(loss, logits)


def smoothed(logits, y):
    return F.cross_entropy(logits, y, label_smoothing=0.1)


def by_gather(logits, y):
    return -logits.log_softmax(1).gather(1, y[:, None]).mean()


def brier(logits, y):
    return (logits.softmax(1) - F.one_hot(y, CLASSES)).square().sum(1).mean()


@each
@per_sample_or_not
@pytest.mark.parametrize("loss", [F.cross_entropy, smoothed, by_gather, brier])
def test_the_loss_is_the_sum_of_those_of_the_labels_by_weight(recipe, per_sample, loss):
    """In value and gradient, also where weights are negative."""
    logits = torch.randn(BATCH, CLASSES, dtype=torch.float64, requires_grad=True)
    mix = draw(with_weights(recipe, per_sample=per_sample))

    actual = with_gradient(loss(logits, mix.label(Y)), logits)

    shares = matrix(mix).tolist()
    terms = [
        shares[i][j] / BATCH * loss(logits[i : i + 1], Y[j : j + 1])
        for i in range(BATCH)
        for j in range(BATCH)
    ]
    assert_close(actual, with_gradient(sum(terms), logits), rtol=0, atol=1e-12)


@each
@per_sample_or_not
def test_of_quantities_the_loss_is_that_of_what_lies_between_or_beyond(recipe, per_sample):
    y = torch.randn(BATCH, 2, dtype=torch.float64)
    outputs = torch.randn(BATCH, 2, dtype=torch.float64, requires_grad=True)
    mix = draw(with_weights(recipe, per_sample=per_sample))

    actual = with_gradient(F.mse_loss(outputs, mix.label(y)), outputs)

    expected = with_gradient(F.mse_loss(outputs, matrix(mix) @ y), outputs)
    assert_close(actual, expected, rtol=0, atol=1e-12)


@per_sample_or_not
@pytest.mark.parametrize("rounds", [1, 2])
def test_of_a_partner_without_a_share_the_label_does_not_matter(per_sample, rounds):
    """Its loss may be infinite, which would make NaN with a share of zero."""
    logits = torch.zeros(BATCH, CLASSES)
    logits[0, 1:] = -torch.inf
    weight = np.ones(BATCH) if per_sample else 1.0
    options = {"parts": ((0 * weight, 1), (0 * weight, 2))} if rounds == 2 else {}
    mix = (Rounds if options else Mix)(weight, 1, BATCH, **options)
    y = torch.tensor([0, 1, 2, 3, 1, 2])

    loss = merge(F.cross_entropy(logits, mix.label(y)))

    assert_close(loss, F.cross_entropy(logits, y))


# Own labels, and all labels.


@pytest.mark.parametrize("y", [Y, torch.randn(BATCH), torch.randint(0, 2, (BATCH, 4, 4))], ids=str)
def test_sample_pairing_is_half_and_half_and_leaves_labels_alone(y):
    x = torch.randn(BATCH, 3, dtype=torch.float64)
    mix = draw(SamplePairing(), y)

    assert_close(mix.blend(x), (x + x[mix.partner]) / 2, rtol=0, atol=1e-15)
    assert mix.label(y) is y
    assert mix.weigh(y) is y


@pytest.mark.parametrize("shape", [(8,), (1, 8), (1, 4, 8), (1, 2, 4, 4)], ids=str)
@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_an_overlay_is_the_sum_with_the_union_of_the_labels(shape, rounds):
    x = torch.randn(BATCH, *shape, dtype=torch.float64)
    y = (torch.rand(BATCH, CLASSES) > 0.6).float()
    rng = np.random.default_rng(1)
    shifts = [draw_shift(rng, BATCH) for _ in range(rounds)]

    mix = draw(Overlay(rounds))

    rolled = [np.roll(x.numpy(), -shift, axis=0) for shift in shifts]
    labels = [np.roll(y.numpy(), -shift, axis=0) for shift in shifts]
    assert_close(mix.blend(x), torch.tensor(x.numpy() + sum(rolled)), rtol=0, atol=1e-12)
    union = np.sum([y.numpy(), *labels], axis=0).clip(0, 1)
    assert type(mix.label(y)) is torch.Tensor
    assert np.array_equal(mix.label(y).numpy(), union)


def test_an_overlay_averages_the_weights_of_the_losses():
    weights = torch.rand(BATCH)
    mix = draw(Overlay(2))

    others = [torch.roll(weights, -shift, 0) for shift in mix.shifts]

    assert_close(mix.weigh(weights), (weights + sum(others)) / 3)


@pytest.mark.parametrize("y", [Y, F.one_hot(Y), F.one_hot(Y).bool()], ids=["index", "int", "bool"])
def test_an_overlay_of_indices_is_refused_in_words(y):
    with pytest.raises(TypeError, match=r"has room for one\. Give floats.*one_hot\(y, num_cla"):
        Overlay()(torch.randn(BATCH, 3), y)


# Nothing that is given is modified.

ALL = {
    **INTERPOLATING,
    "pairing": SamplePairing(),
    "overlay": Overlay(2),
    "CutMix": CutMix(rounds=2),
    "RegMixup": RegMixup(),
    "RegMixup, per sample": RegMixup(Mixup(1.0, per_sample=True, rounds=2)),
}
each_of_all = pytest.mark.parametrize("recipe", ALL.values(), ids=ALL)


@each_of_all
@per_sample_or_not
def test_what_is_given_is_never_modified(recipe, per_sample):
    x, y = torch.randn(BATCH, 1, 4, 4), torch.rand(BATCH, CLASSES)
    before = x.clone(), y.clone()
    mix = draw(with_weights(recipe, per_sample=per_sample), Y)

    mixed_x, mixed_y = mix.blend(x), mix.label(y)
    mixed_x += 1
    if isinstance(mixed_y, MixedTarget):
        mixed_y += 1

    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


@each_of_all
def test_a_batch_of_one_is_left_as_it_is(recipe):
    x, y = torch.randn(1, 1, 4, 4), torch.eye(2)[:1]

    mixed_x, mixed_y = recipe(x, y)

    assert mixed_x is x
    assert mixed_y is y


# Hidden layers, eager and compiled.

AT_LAYERS = {
    **INTERPOLATING,
    "pairing": SamplePairing(),
    "pairing, same class": SamplePairing(SameClass()),
    "overlay": Overlay(2),
    "overlay, same class": Overlay(2, partners=SameClass()),
}
each_at_layers = pytest.mark.parametrize("recipe", AT_LAYERS.values(), ids=AT_LAYERS)


def features_matrix(mix):
    """Returns what a mix multiplies features by."""
    own, shares = mix.linear
    made = matrix(mix, own, shares)
    if type(mix).__name__ == "Summed" and isinstance(mix.shift, torch.Tensor):
        alone = mix.shift == 0
        made[alone] = torch.eye(mix.batch_size, dtype=torch.float64)[alone]
    return made


@each_at_layers
@per_sample_or_not
def test_a_switch_mixes_as_the_matrix_does_with_both_gradients(recipe, per_sample):
    """What a compiled network is given, here without a compiler."""
    mix = draw(with_weights(recipe, per_sample=per_sample))
    switch = Switch(lambda x, number: mix)
    x = torch.randn(BATCH, 2, dtype=torch.float64, requires_grad=True)
    blend = functools.partial(
        blend_by_switch, handle=switch.handle, number=0, rounds=recipe.most_partners
    )

    assert_close(blend(x), features_matrix(mix) @ x, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(blend, x)
    assert torch.autograd.gradgradcheck(blend, x)


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def make_net():
    torch.manual_seed(1)
    parts = nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, CLASSES)
    return nn.Sequential(*parts).double()


def gradients(net, loss):
    loss = merge(loss)
    return loss.detach(), *torch.autograd.grad(loss, list(net.parameters()))


def by_hand(net, mix, x, y):
    hidden = features_matrix(mix) @ net[1](net[0](x))
    return gradients(net, F.cross_entropy(net[2](hidden), labels_by_hand(mix, y)))


def labels_by_hand(mix, y):
    """Returns shares of classes, of which cross entropy is linear."""
    one_hot = F.one_hot(y, CLASSES).double()
    if type(mix).__name__ == "Paired":
        return one_hot
    if type(mix).__name__ == "Summed":
        return (features_matrix(mix) @ one_hot > 0).double()
    return matrix(mix) @ one_hot


def label(mix, y):
    is_sum = type(mix).__name__ == "Summed"
    return mix.label(F.one_hot(y, CLASSES).double() if is_sum else y)


def run_layer(compile_, recipe, mix, y):
    """Returns loss and gradients of a network whose middle is mixed, and those by hand."""
    net, x = make_net(), torch.randn(len(y), FEATURES, dtype=torch.float64)
    expected = by_hand(net, mix, x, y)
    layer = Layer("1", net[1], recipe.most_partners)
    layer.start_step(mix, Usage())
    actual = gradients(net, F.cross_entropy(compile_(net)(x), label(mix, y)))
    layer.release()
    return actual, expected


@each_at_layers
@per_sample_or_not
def test_a_hidden_layer_is_mixed_like_its_labels(recipe, per_sample):
    mix = draw(with_weights(recipe, per_sample=per_sample))

    actual, expected = run_layer(lambda net: net, recipe, mix, Y)

    assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "per_sample", "backend"),
    [
        ("two rounds", False, "aot_eager"),
        ("two rounds", True, "eager"),
        ("beyond", True, "aot_eager"),
        ("same class", True, "aot_eager"),
        ("other class, two rounds", False, "aot_eager"),
        ("pairing", False, "aot_eager"),
        ("overlay", False, "eager"),
        ("overlay, same class", False, "aot_eager"),
    ],
)
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_compiled_layer_is_mixed_like_its_labels(name, per_sample, backend):
    recipe = AT_LAYERS[name]
    mix = draw(with_weights(recipe, per_sample=per_sample))
    compile_ = functools.partial(torch.compile, backend=backend, fullgraph=True)

    actual, expected = run_layer(compile_, recipe, mix, Y)

    assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_one_compiled_layer_takes_each_mix_in_turn():
    """As `OneOf` draws them: more or fewer partners, cyclic or of each, and none."""
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph

    recipes = [Mixup(1.0), AT_LAYERS["other class, two rounds"], SamplePairing(), Overlay(2)]
    net, x = make_net(), torch.randn(BATCH, FEATURES, dtype=torch.float64)
    layer = Layer("1", net[1], 2)
    compiled = torch.compile(net, backend=count)
    mixes = [draw(recipe, seed=seed) for seed in range(2) for recipe in recipes]

    actual = []
    for mix in mixes:
        layer.start_step(mix, Usage())
        actual.append(gradients(net, F.cross_entropy(compiled(x), label(mix, Y))))
        layer.forget()
    plain = compiled(x)
    layer.release()

    assert_close(actual, [by_hand(net, mix, x, Y) for mix in mixes], rtol=0, atol=1e-12)
    assert_close(plain, net(x))
    assert len(graphs) == 1


class Smoother(Mix):
    """Written as a user's: blends in a way of its own."""

    def blend(self, x):
        return x.roll(1, 0)


class Smooth(Mixup):
    mix = Smoother


def test_a_blend_of_ones_own_needs_a_few_lines():
    x = torch.randn(BATCH, 3)

    mixed_x, mixed_y = Smooth(math.inf)(x, Y)

    assert torch.equal(mixed_x, x.roll(1, 0))
    assert mixed_y.weights.tolist() == [0.5, 0.5]


def test_a_blend_of_ones_own_has_no_gradient_that_is_known_in_compiled_networks():
    with pytest.raises(RuntimeError, match=r"Smoother blends in a way of its own.*Mix at the inp"):
        _ = draw(Smooth(1.0)).linear


def test_a_blend_of_ones_own_has_one_round():
    with pytest.raises(ValueError, match=r"Smooth blends in a way of its own, in one round, and"):
        Smooth(1.0, rounds=2)


class Sent(TorchFunctionMode):
    """Notes which types are sent to a device, in place of sending them."""

    def __init__(self):
        super().__init__()
        self.dtypes = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.to and "mps" in map(str, args[1:]):
            self.dtypes.add(args[0].dtype)
            return args[0]
        return func(*args, **(kwargs or {}))


def test_no_double_is_sent_to_a_device_that_has_none():
    mix = Mix(np.array([0.7, 0.2]), shift=1, batch_size=2, device="mps")

    with Sent() as sent:
        weight, label = mix.weight, mix.label(torch.tensor([0, 1]))

    assert weight.dtype is label.weights.dtype is torch.float32
    assert sent.dtypes == {torch.float32, torch.int64, torch.bool}
