"""Tests for lightning_mixup.layers: mixing at hidden layers (Manifold Mixup), in a real Trainer.

The oracle is a twin of the module without the callback. A plain forward hook on the twin's layer
writes the formula of the paper, and its loss is combined with the weight by hand.
"""

import copy
import dataclasses
import functools
import gc
import logging
import pickle
import weakref
from collections import OrderedDict, namedtuple
from typing import ClassVar

import numpy as np
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.loggers import Logger
from scipy import stats
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointImpl,
    checkpoint_wrapper,
)
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader
from zoo import CLASSES, FEATURES, parameters_of

from lightning_mixup import MixedTarget, Mixup, MixupCallback

HIDDEN = 8
PLACES = ["input", "net.layer1", "net.layer2"]


# What is trained: each module takes all but the last entry of its batch, which is the target.


class Task(LightningModule):
    def training_step(self, batch, batch_idx):
        *inputs, y = batch
        return F.cross_entropy(self(*inputs), y)

    def validation_step(self, batch, batch_idx):
        *inputs, _ = batch
        self(*inputs)

    def test_step(self, batch, batch_idx):
        self.validation_step(batch, batch_idx)

    def predict_step(self, batch, batch_idx):
        *inputs, _ = batch
        return self(*inputs)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def sequence(first=None, second=None):
    first = first or nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.Tanh())
    second = second or nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.Tanh())
    head = nn.Linear(HIDDEN, CLASSES)
    return nn.Sequential(OrderedDict(layer1=first, layer2=second, head=head))


class Deep(Task):
    def __init__(self, first=None, second=None):
        super().__init__()
        self.net = sequence(first, second)

    def forward(self, x):
        return self.net(x)


class Linear(Deep):
    def __init__(self):
        super().__init__(nn.Linear(FEATURES, HIDDEN), nn.Linear(HIDDEN, HIDDEN))


def points(sizes=(4, 4, 3), dtype=torch.float64):
    """Returns batches of points, each with its class."""
    return [
        (torch.randn(size, FEATURES, dtype=dtype), torch.randint(CLASSES, (size,)))
        for size in sizes
    ]


def load(batches):
    """Returns a loader of batches that are made already."""
    return DataLoader(batches, batch_size=None)


# What must come of it.


def blended(h, mix, dim=0):
    """Returns the formula of the paper, along one dimension."""
    ones = [1] * (h.ndim - 1 - dim)
    weight = mix.weight.to(h).reshape(-1, *ones)
    return weight * h + (1 - weight) * h.index_select(dim, mix.partner)


def blended_output(output, mix):
    if isinstance(output, torch.Tensor):
        return blended(output, mix)
    return type(output)(blended(part, mix) for part in output)


def loss_by_hand(twin, batch, mix, blend=blended_output, hooked=None):
    """Returns the loss of a batch that is mixed by a hook, in the words of the paper."""
    *inputs, y = batch
    place = twin.get_submodule((hooked or {}).get(mix.place, mix.place).replace("input", ""))
    handle = place.register_forward_hook(lambda layer, args, output: blend(output, mix))
    if mix.place == "input":
        handle.remove()
        inputs[0] = blended(inputs[0], mix)
    logits = twin(*inputs)
    handle.remove()
    weight = mix.weight.to(logits)
    own, other = (
        F.cross_entropy(logits, labels, reduction="none") for labels in (y, y[mix.partner])
    )
    return (weight * own + (1 - weight) * other).mean()


class Recorder(Callback):
    """Keeps each batch's mix, loss and gradients; goes behind MixupCallback."""

    def __init__(self, mixup):
        self.mixup = mixup
        self.mixes, self.losses, self.gradients = [], [], []

    @property
    def places(self):
        return [mix.place for mix in self.mixes if mix is not None]

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.mixes.append(self.mixup.mix)

    def on_after_backward(self, trainer, pl_module):
        gradients = [p.grad for p in pl_module.parameters() if p.requires_grad]
        self.gradients.append([None if g is None else g.clone() for g in gradients])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].clone())


class Oracle(Recorder):
    """Works out each batch's loss and gradients with a twin, before the step runs."""

    def __init__(self, mixup, twin, by_hand=loss_by_hand):
        super().__init__(mixup)
        self.twin, self.by_hand = twin, by_hand
        self.expected, self.expected_gradients = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self.twin.load_state_dict(pl_module.state_dict())
        parameters = [p for p in self.twin.parameters() if p.requires_grad]
        with torch.random.fork_rng():  # so that the step drops out the same
            loss = self.by_hand(self.twin, batch, self.mixup.mix)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        self.expected.append(loss.detach())
        self.expected_gradients.append(list(gradients))


def assert_mixed_as_by_hand(
    make_trainer, module, batches, layers, *, twin=None, by_hand=loss_by_hand, **arguments
):
    """Asserts that an unmodified module trains as its twin mixed by hand; returns the places."""
    arguments = {"recipe": Mixup(2.0), "calibration": False, "seed": 1, **arguments}
    mixup = MixupCallback(layers=layers, **arguments)
    twin = copy.deepcopy(module) if twin is None else twin
    oracle = Oracle(mixup, twin, by_hand)

    make_trainer(callbacks=[mixup, oracle]).fit(module, load(batches))

    assert len(oracle.losses) == len(batches)
    assert_close(oracle.losses, oracle.expected, rtol=0, atol=1e-12)
    for got, expected in zip(oracle.gradients, oracle.expected_gradients, strict=True):
        assert [g is None for g in got] == [g is None for g in expected]
        got, expected = ([g for g in some if g is not None] for some in (got, expected))
        assert_close(got, expected, rtol=0, atol=1e-12)
    return oracle.places


def fit(make_trainer, module, batches, layers, *, recorder=Recorder, **settings):
    """Trains with layers; returns what was recorded."""
    names = ("recipe", "prob", "targets", "inputs", "seed", "log_mix")
    arguments = {name: settings.pop(name) for name in names if name in settings}
    if "recipe" not in arguments:
        arguments["alpha"] = 2.0
    mixup = MixupCallback(layers=layers, calibration=False, **arguments)
    recorded = recorder(mixup)
    callbacks = [mixup, recorded, *settings.pop("callbacks", ())]
    make_trainer(callbacks=callbacks, **settings).fit(module, load(batches))
    return recorded


# The laws.


def losses_of_linear_net(make_trainer, layers, recipe):
    torch.manual_seed(0)
    module, batches = Linear().double(), points()
    recorder = fit(make_trainer, module, batches, layers, recipe=recipe, seed=1)
    return torch.stack(recorder.losses), recorder.places


@pytest.mark.parametrize("layer", ["net.layer1", "net.layer2", "net.head", "net"])
@pytest.mark.parametrize("per_sample", [False, True], ids=["per-batch", "per-sample"])
def test_in_a_linear_network_every_layer_gives_the_loss_of_the_input(
    make_trainer, layer, per_sample
):
    """Mixing commutes with affine maps, since the weights sum to one."""
    recipe = Mixup(2.0, per_sample=per_sample)

    at_input, _ = losses_of_linear_net(make_trainer, "input", recipe)
    at_layer, places = losses_of_linear_net(make_trainer, layer, recipe)

    assert places == [layer] * 3
    assert_close(at_layer, at_input, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layers", [PLACES, "net.layer1", ["net.*"]], ids=str)
@pytest.mark.parametrize("per_sample", [False, True], ids=["per-batch", "per-sample"])
def test_where_is_mixed_changes_neither_weights_nor_partners(make_trainer, layers, per_sample):
    recipe = Mixup(2.0, per_sample=per_sample)
    first, second = (
        fit(make_trainer, Linear(), points(dtype=torch.float32), some, recipe=recipe, seed=5)
        for some in ("input", layers)
    )

    for at_input, at_layer in zip(first.mixes, second.mixes, strict=True):
        assert torch.equal(at_input.weight, at_layer.weight)
        assert torch.equal(at_input.partner, at_layer.partner)
    assert set(first.places) == {"input"}


class Inner(nn.Sequential):
    """Checkpoints what is inside of it."""

    def forward(self, x):
        return checkpoint(super().forward, x, use_reentrant=self.reentrant)


class Checkpointed(Deep):
    """Saves memory around a layer, inside it, or around all of the network."""

    def __init__(self, where, *, reentrant):
        super().__init__()
        self.where, self.reentrant = where, reentrant
        impl = CheckpointImpl.REENTRANT if reentrant else CheckpointImpl.NO_REENTRANT
        for name in ("layer1", "layer2"):
            if where == "inside":
                setattr(self.net, name, Inner(*getattr(self.net, name)))
                getattr(self.net, name).reentrant = reentrant
            if where == "wrapper":
                layer = checkpoint_wrapper(getattr(self.net, name), checkpoint_impl=impl)
                setattr(self.net, name, layer)
        if where == "wrapped net":
            self.net = checkpoint_wrapper(self.net, checkpoint_impl=impl)

    def forward(self, x):
        x = x.detach().requires_grad_()  # as reentrant checkpoints need it
        save = functools.partial(checkpoint, use_reentrant=self.reentrant)
        if self.where == "around":
            for layer in (self.net.layer1, self.net.layer2):
                x = save(layer, x)
            return self.net.head(x)
        return save(self.net, x) if self.where == "net" else self.net(x)


def manifold_loss(twin, batch, mix):
    """Manifold Mixup as its paper has it: the network is split at the layer."""
    (x, y), partner = batch, mix.partner
    shares = mix.weight.expand(len(y))[:, None]
    for place, layer in zip(PLACES, (nn.Identity(), *twin.net[:2]), strict=True):
        x = layer(x)
        if place == mix.place:
            x = shares * x + (1 - shares) * x[partner]
    log_probs = twin.net.head(x).log_softmax(1)
    soft = shares * F.one_hot(y, CLASSES) + (1 - shares) * F.one_hot(y[partner], CLASSES)
    return -(soft * log_probs).sum(1).mean()


CHECKPOINTS = ["nowhere", "around", "inside", "net", "wrapper", "wrapped net"]


@pytest.mark.parametrize("per_sample", [False, True], ids=["per-batch", "per-sample"])
@pytest.mark.parametrize("where", CHECKPOINTS)
@pytest.mark.parametrize("reentrant", [False, True], ids=["non-reentrant", "reentrant"])
def test_losses_and_gradients_are_those_of_manifold_mixup(
    make_trainer, per_sample, where, reentrant
):
    """Also where activations are checkpointed, so that layers run again in backward."""
    recipe, batches = Mixup(2.0, per_sample=per_sample), points([4] * 12)
    module, twin = Checkpointed(where, reentrant=reentrant).double(), Deep().double()

    places = assert_mixed_as_by_hand(
        make_trainer, module, batches, PLACES, twin=twin, by_hand=manifold_loss, recipe=recipe
    )

    assert set(places) == set(PLACES)


class Penalised(Checkpointed):
    """Penalises the gradient by its input, as WGAN-GP and JEM do."""

    def __init__(self, where="nowhere"):
        super().__init__(where, reentrant=False)

    def forward(self, x):
        return checkpoint(self.net, x, use_reentrant=False) if self.where == "net" else self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        x = x.detach().requires_grad_()
        loss = F.cross_entropy(self(x), y)
        (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
        return loss + gradient.square().sum()


def penalised_loss(twin, batch, mix):
    x, y = batch
    x = x.detach().requires_grad_()
    loss = manifold_loss(twin, (x, y), mix)
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    return loss + gradient.square().sum()


@pytest.mark.parametrize("where", ["nowhere", "net"])
@pytest.mark.parametrize("per_sample", [False, True], ids=["per-batch", "per-sample"])
@pytest.mark.parametrize("layer", PLACES[1:])
def test_a_gradient_penalty_is_differentiated_through_the_mixed_layer(
    make_trainer, where, per_sample, layer
):
    recipe, twin = Mixup(2.0, per_sample=per_sample), Deep().double()

    places = assert_mixed_as_by_hand(
        make_trainer,
        Penalised(where).double(),
        points(),
        layer,
        twin=twin,
        by_hand=penalised_loss,
        recipe=recipe,
    )

    assert places == [layer] * 3


# The draw.


@pytest.fixture(scope="module")
def draws(tmp_path_factory):
    """The places and weights of 900 batches."""
    mixup = MixupCallback(2.0, layers=PLACES, calibration=False, seed=3)
    recorder = Recorder(mixup)
    batches = load(points([2] * 900, torch.float32))
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=[mixup, recorder],
        barebones=True,
        default_root_dir=tmp_path_factory.mktemp("draws"),
    )
    trainer.fit(Deep(), batches)
    places = np.array([PLACES.index(place) for place in recorder.places])
    return places, np.array([float(mix.weight) for mix in recorder.mixes])


def test_every_place_is_drawn_equally_often(draws):
    places, _ = draws

    assert stats.chisquare(np.bincount(places, minlength=3)).pvalue > 0.01


def test_the_place_is_independent_of_the_weight(draws):
    places, weights = draws

    assert stats.kruskal(*(weights[places == place] for place in range(3))).pvalue > 0.01


def test_the_place_is_independent_of_the_last_one(draws):
    places, _ = draws

    pairs = np.zeros((3, 3))
    np.add.at(pairs, (places[:-1], places[1:]), 1)

    assert stats.chi2_contingency(pairs).pvalue > 0.01


def test_weights_follow_beta_wherever_they_are_used(draws):
    places, weights = draws

    for place in range(3):
        assert stats.kstest(weights[places == place], stats.beta(2, 2).cdf).pvalue > 0.01


def test_a_resumed_run_draws_the_same_places(make_trainer, tmp_path):
    batches = points([4] * 8, torch.float32)
    whole = fit(make_trainer, Deep(), batches, PLACES, seed=7, max_epochs=2)
    mixup = MixupCallback(2.0, layers=PLACES, seed=7)
    first = make_trainer(callbacks=[mixup])
    first.fit(Deep(), load(batches))
    first.save_checkpoint(tmp_path / "last.ckpt")
    mixup = MixupCallback(2.0, layers=PLACES)
    recorder = Recorder(mixup)

    second = make_trainer(callbacks=[mixup, recorder], max_epochs=2)
    second.fit(Deep(), load(batches), ckpt_path=tmp_path / "last.ckpt")

    assert recorder.places == whole.places[8:]
    assert len(set(whole.places)) == 3


def test_draws_of_places_touch_no_global_state(make_trainer):
    states = []

    class Watches(Recorder):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
            states.append((torch.get_rng_state(), np.random.get_state()[1].copy()))  # noqa: NPY002

    fit(make_trainer, Deep(), points(dtype=torch.float32), PLACES, recorder=Watches)

    assert torch.equal(states[0][0], states[-1][0])
    assert (states[0][1] == states[-1][1]).all()


def test_without_mixing_the_run_is_bit_identical_to_one_without_callback(make_trainer):
    plain, batches = Deep(), points(dtype=torch.float32)
    module = copy.deepcopy(plain)
    make_trainer().fit(plain, load(batches))

    recorder = fit(make_trainer, module, batches, PLACES[1:], prob=0)

    assert torch.equal(parameters_of(module), parameters_of(plain))
    assert recorder.mixes == [None] * 3


def test_prob_leaves_some_batches_as_they_are(make_trainer):
    module, twin = Deep().double(), Deep().double()
    batches = points([4] * 8)

    def by_hand(twin, batch, mix):
        x, y = batch
        return F.cross_entropy(twin(x), y) if mix is None else manifold_loss(twin, batch, mix)

    places = assert_mixed_as_by_hand(
        make_trainer, module, batches, PLACES, twin=twin, by_hand=by_hand, prob=0.5
    )

    assert 0 < len(places) < 8


# Real networks, beside a twin mixed by hand.


class Residual(Task):
    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
            self.bn = nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, padding=1)
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x):
            return self.relu(x + self.conv2(F.relu(self.bn(self.conv1(x)), inplace=True)))

    layers = ("input", "stem", "stage.?", "stage.0.bn")

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.stage = nn.Sequential(self.Block(4), self.Block(4))
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.head(self.stage(self.stem(x)).mean((2, 3)))

    @staticmethod
    def inputs(size):
        return (torch.randn(size, 3, 6, 6, dtype=torch.float64),)


class Tokens(Task):
    """Ids, whose embedding alone can be mixed."""

    layers = "embedding"

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, HIDDEN)
        self.pooler = nn.Linear(HIDDEN, HIDDEN)
        self.head = nn.Linear(HIDDEN, CLASSES)

    def forward(self, ids):
        return self.head(self.pooler(self.embedding(ids).mean(1)).tanh())

    @staticmethod
    def inputs(size):
        return (torch.randint(10, (size, 6)),)


class Pooled(Tokens):
    layers = ("embedding", "pooler")


class Attention(Tokens):
    """Drops out, too."""

    layers = ("embedding", "encoder.layers.?", "encoder.layers.0.linear1", "encoder")

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(HIDDEN, 2, 16, dropout=0.3, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, ids):
        return self.head(self.encoder(self.embedding(ids)).mean(1))


class Bags(Tokens):
    """Ids of all samples in one row, with an offset for each."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.EmbeddingBag(10, HIDDEN)

    def forward(self, ids, offsets):
        return self.head(self.embedding(ids, offsets))

    @staticmethod
    def inputs(size):
        return torch.randint(10, (3 * size + 1,)), 3 * torch.arange(size)


class Frozen(Residual):
    """Trains a head on the features of a network without gradients."""

    layers = ("input", "stage")

    def __init__(self):
        super().__init__()
        self.stem.requires_grad_(requires_grad=False)
        self.stage.requires_grad_(requires_grad=False)

    def forward(self, x):
        with torch.no_grad():
            features = self.stage(self.stem(x))
        return self.head(features.mean((2, 3)))


class SelfAttention(Tokens):
    """A layer with two outputs, and keyword arguments."""

    layers = ("attention",)

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(HIDDEN, 2, batch_first=True)

    def forward(self, ids):
        x = self.embedding(ids)
        out, weights = self.attention(query=x, key=x, value=x)
        return self.head((out * weights.sum(1)[..., None]).mean(1))


NETWORKS = [Residual, Tokens, Pooled, Attention, Bags, Frozen, SelfAttention]


@pytest.mark.parametrize("per_sample", [False, True], ids=["per-batch", "per-sample"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_trains_as_its_twin_mixed_by_hand(make_trainer, network, per_sample):
    batches = [(*network.inputs(n), torch.randint(CLASSES, (n,))) for n in [4] * 5 + [3]]
    layers = network.layers if isinstance(network.layers, str) else list(network.layers)

    places = assert_mixed_as_by_hand(
        make_trainer,
        network().double(),
        batches,
        layers,
        targets=len(batches[0]) - 1,
        recipe=Mixup(2.0, per_sample=per_sample),
    )

    assert len(places) == 6
    assert len(set(places)) > 1 or len(layers) == 1 or isinstance(layers, str)


class Recurrent(Task):
    """Uses the last output and the last state."""

    def __init__(self, cell=nn.LSTM, **settings):
        super().__init__()
        self.rnn = cell(FEATURES, HIDDEN, batch_first=True, **settings)
        self.head = nn.LazyLinear(CLASSES)

    def forward(self, x):
        out, state = self.rnn(x)
        states = state if isinstance(state, tuple) else (state,)
        flat = [part.transpose(0, 1).flatten(1) for part in states]
        return self.head(torch.cat([out[:, -1], *flat], dim=1))


def blended_recurrent(output, mix):
    out, state = output
    if isinstance(state, tuple):
        return blended(out, mix), tuple(blended(part, mix, dim=1) for part in state)
    return blended(out, mix), blended(state, mix, dim=1)


RECURRENT = {
    "lstm": (nn.LSTM, {}),
    "projected": (nn.LSTM, {"proj_size": 3, "num_layers": 2}),
    "both-ways": (nn.LSTM, {"bidirectional": True, "num_layers": 2}),
    "gru": (nn.GRU, {"num_layers": 2}),
    "rnn": (nn.RNN, {}),
}


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize(("cell", "settings"), RECURRENT.values(), ids=RECURRENT)
def test_a_recurrent_layer_is_mixed_with_its_states(make_trainer, cell, settings, size):
    """The states have the batch second, also where there are as many layers as samples."""
    module = Recurrent(cell, **settings).double()
    x = torch.randn(size, 5, FEATURES, dtype=torch.float64)
    module(x)  # makes the head's parameters
    by_hand = functools.partial(loss_by_hand, blend=blended_recurrent)
    batches = [(x, torch.randint(CLASSES, (size,)))] * 2

    places = assert_mixed_as_by_hand(make_trainer, module, batches, "rnn", by_hand=by_hand)

    assert places == ["rnn", "rnn"]


class LastLayer(nn.LSTM):
    """A recurrent layer that keeps its states to itself."""

    def forward(self, x):
        return super().forward(x)[0]


class OutputOnly(nn.Module):
    """The same, around a layer of the name that wrappers use."""

    def __init__(self):
        super().__init__()
        self.module = nn.GRU(FEATURES, HIDDEN, batch_first=True)

    def forward(self, x):
        return self.module(x)[0]


class Sequences(Task):
    def __init__(self, rnn):
        super().__init__()
        self.rnn, self.head = rnn, nn.Linear(HIDDEN, CLASSES)

    def forward(self, x):
        return self.head(self.rnn(x)[:, -1])


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("form", ["subclass", "wrapper"])
def test_a_recurrent_layer_without_states_is_mixed_as_any_other(make_trainer, form, size):
    rnn = LastLayer(FEATURES, HIDDEN, batch_first=True) if form == "subclass" else OutputOnly()
    x = torch.randn(size, 5, FEATURES, dtype=torch.float64)
    batches = [(x, torch.randint(CLASSES, (size,)))]

    places = assert_mixed_as_by_hand(make_trainer, Sequences(rnn).double(), batches, "rnn")

    assert places == ["rnn"]


# Graphs.


class Nodes(Task):
    """Classifies the nodes of a graph, each of which is a sample."""

    def __init__(self):
        super().__init__()
        conv = pytest.importorskip("torch_geometric.nn").GCNConv
        self.conv1, self.conv2 = conv(FEATURES, HIDDEN), conv(HIDDEN, HIDDEN)
        self.head = nn.Linear(HIDDEN, CLASSES)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch), batch.y)

    def forward(self, graph):
        x = self.conv1(graph.x, graph.edge_index).relu()
        return self.head(self.conv2(x, graph.edge_index))


class Graphs(Nodes):
    """Classifies whole graphs by the mean of their nodes."""

    def __init__(self):
        super().__init__()
        self.pool = pytest.importorskip("torch_geometric.nn").MeanAggregation()

    def forward(self, graphs):
        x = self.conv1(graphs.x, graphs.edge_index).relu()
        return self.head(self.pool(x, graphs.batch))


def graph(nodes, labels):
    data = pytest.importorskip("torch_geometric.data")
    x = torch.randn(nodes, FEATURES, dtype=torch.float64)
    edges = torch.randint(nodes, (2, 3 * nodes))
    return data.Data(x=x, edge_index=edges, y=torch.randint(CLASSES, (labels,)))


def graph_loss(twin, batch, mix):
    return loss_by_hand(twin, (batch, batch.y), mix)


@pytest.mark.parametrize("per_sample", [False, True], ids=["per-batch", "per-sample"])
def test_the_nodes_of_a_graph_are_mixed_after_a_convolution(make_trainer, per_sample):
    batches = [graph(7, 7) for _ in range(4)]

    places = assert_mixed_as_by_hand(
        make_trainer,
        Nodes().double(),
        batches,
        ["conv1", "conv2"],
        targets="y",
        by_hand=graph_loss,
        recipe=Mixup(2.0, per_sample=per_sample),
    )

    assert set(places) == {"conv1", "conv2"}


@pytest.mark.parametrize("targets", ["auto", "y"])
def test_graphs_are_mixed_where_each_is_one_vector(make_trainer, targets):
    """The batch is ragged, and its size is that of its target."""
    batch = pytest.importorskip("torch_geometric.data").Batch
    batches = [batch.from_data_list([graph(n, 1) for n in (3, 5, 4, 6)]) for _ in range(3)]

    places = assert_mixed_as_by_hand(
        make_trainer, Graphs().double(), batches, "pool", targets=targets, by_hand=graph_loss
    )

    assert places == ["pool"] * 3


def test_the_nodes_of_several_graphs_are_refused_where_graphs_are_the_samples(make_trainer):
    batch = pytest.importorskip("torch_geometric.data").Batch
    batches = [batch.from_data_list([graph(n, 1) for n in (3, 5, 4, 6)])]

    with pytest.raises((TypeError, ValueError, RuntimeError), match="conv1"):
        fit(make_trainer, Graphs().double(), batches, "conv1", targets="y")


# What a layer returns.


Pair = namedtuple("Pair", ["hidden", "more"])


@dataclasses.dataclass
class Output(OrderedDict):
    """As Hugging Face's ModelOutput: a dict whose entries are attributes, too."""

    hidden: torch.Tensor | None = None
    more: tuple | None = None
    absent: torch.Tensor | None = None

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None:
                super().__setitem__(field.name, value)

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        super().__setattr__(key, value)

    def __setattr__(self, name, value):
        if name in self and value is not None:
            super().__setitem__(name, value)
        super().__setattr__(name, value)

    def __getitem__(self, key):
        return super().__getitem__(key) if isinstance(key, str) else tuple(self.values())[key]

    def __reduce__(self):
        return type(self), tuple(getattr(self, field.name) for field in dataclasses.fields(self))


@dataclasses.dataclass
class Record:
    hidden: torch.Tensor


FORMS = {
    "tensor": (lambda h: h, lambda out: (out, out)),
    "tuple": (lambda h: (h, 2 * h), lambda out: out),
    "list": (lambda h: [h, 2 * h], lambda out: out),
    "namedtuple": (lambda h: Pair(h, 2 * h), lambda out: (out.hidden, out.more)),
    "dict": (lambda h: {"a": h, "b": 2 * h}, lambda out: (out["a"], out["b"])),
    "ordered-dict": (lambda h: OrderedDict(a=h, b=2 * h), lambda out: tuple(out.values())),
    "by-attribute": (lambda h: Output(h, (2 * h,)), lambda out: (out.hidden, out.more[0])),
    "by-key": (lambda h: Output(h, (2 * h,)), lambda out: (out["hidden"], out["more"][0])),
    "by-index": (lambda h: Output(h, (2 * h,)), lambda out: (out[0], out[1][0])),
    "nested": (
        lambda h: {"a": [(h,), None], "b": (2 * h, "words", 3)},
        lambda out: (out["a"][0][0], out["b"][0]),
    ),
    "with-a-scalar": (lambda h: (h, 2 * h, h.new_tensor(3.0)), lambda out: out[:2]),
    "dataclass": (lambda h: Record((h, 2 * h)), lambda out: out.hidden),
    "with-an-object": (lambda h: (h, Record(2 * h)), lambda out: (out[0], out[1].hidden)),
    "views": (lambda h: (h, h[:, None].expand(-1, 2, -1)), lambda out: (out[0], out[1][:, 1])),
}


class Packs(nn.Module):
    """Returns what its core computes, in some container."""

    def __init__(self, form):
        super().__init__()
        self.core, self.form = nn.Linear(FEATURES, HIDDEN), form

    def forward(self, x):
        return FORMS[self.form][0](self.core(x))


class Unpacks(Deep):
    def __init__(self, form):
        super().__init__(Packs(form))
        self.form, self.types = form, set()

    def forward(self, x):
        packed = self.net.layer1(x)
        self.types.add(type(packed))
        first, second = FORMS[self.form][1](packed)
        return self.net.head(self.net.layer2(first + second.square()))


@pytest.mark.parametrize("form", FORMS)
def test_every_tensor_in_an_output_is_mixed(make_trainer, form):
    """All of them are linear in what the core returns, where the twin is mixed."""
    module = Unpacks(form).double()
    by_hand = functools.partial(loss_by_hand, hooked={"net.layer1": "net.layer1.core"})

    assert_mixed_as_by_hand(make_trainer, module, points(), "net.layer1", by_hand=by_hand)

    assert module.types == {type(FORMS[form][0](torch.ones(2, 3)))}


def test_a_container_that_the_layer_keeps_is_not_written_to(make_trainer):
    class Keeps(nn.Linear):
        def forward(self, x):
            self.kept = {"hidden": super().forward(x)}
            self.plain = self.kept["hidden"].detach().clone()
            return self.kept

    class Module(Deep):
        def forward(self, x):
            self.got = self.net.layer1(x)
            return self.net.head(self.got["hidden"])

    module = Module(Keeps(FEATURES, HIDDEN))

    fit(make_trainer, module, points(dtype=torch.float32), "net.layer1")

    layer = module.net.layer1
    assert torch.equal(layer.kept["hidden"], layer.plain)
    assert not torch.equal(module.got["hidden"], layer.plain)


def test_a_scalar_in_an_output_is_left_alone(make_trainer):
    class Auxiliary(nn.Linear):
        def forward(self, x):
            h = super().forward(x)
            self.penalty = h.square().mean()
            return h, self.penalty

    class Module(Deep):
        def training_step(self, batch, batch_idx):
            x, y = batch
            h, penalty = self.net.layer1(x)
            self.same = penalty is self.net.layer1.penalty
            return F.cross_entropy(self.net.head(h), y) + penalty

    module = Module(Auxiliary(FEATURES, HIDDEN))

    fit(make_trainer, module, points(dtype=torch.float32), "net.layer1")

    assert module.same


def test_a_layer_that_returns_its_input_leaves_the_loaders_batch_whole(make_trainer):
    batches = points()
    before = copy.deepcopy(batches)
    module = Deep().double()
    module.net.layer1.insert(0, nn.Identity())

    places = assert_mixed_as_by_hand(make_trainer, module, batches, "net.layer1.0")

    assert places == ["net.layer1.0"] * 3
    assert_close(batches, before, rtol=0, atol=0)


@pytest.mark.parametrize("layer", ["net.layer1.0", "net.layer1.1", "net.layer2.0", "net.layer2"])
def test_what_is_mixed_before_or_after_a_write_in_place_is_right(make_trainer, layer):
    first = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(inplace=True))
    second = nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.ELU(inplace=True))

    places = assert_mixed_as_by_hand(make_trainer, Deep(first, second).double(), points(), layer)

    assert places == [layer] * 3


class Returns(nn.Module):
    """Returns whatever a test wants, and a gradient with it."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, h):
        return self.make(h)


class UsesLayer(Deep):
    """Runs a layer for its output, and trains without it."""

    def __init__(self, make):
        super().__init__()
        self.odd = Returns(make)

    def forward(self, x):
        h = self.net.layer1(x)
        self.odd(h)
        return self.net.head(h)


def nothing(h):
    return None


UNMIXABLE = {
    "none": nothing,
    "word": lambda h: "word",
    "scalar": lambda h: h.sum(),
    "empty": lambda h: (),
    "time-first": lambda h: h[None].expand(7, -1, -1),
    "windows": lambda h: h.repeat(4, 1),
    "half": lambda h: h[:2],
    "one-of-two": lambda h: (h, h.repeat(4, 1)),
    "one": lambda h: h.mean(0, keepdim=True),
    "ids": lambda h: h.argmax(1),
    "mask": lambda h: h > 0,
    "with-ids": lambda h: (h, h.argmax(1)),
    "with-a-mask": lambda h: {"h": h, "mask": h > 0},
    "sparse": lambda h: h.to_sparse(),
    "with-a-set": lambda h: [h, {h}],
    "with-an-iterator": lambda h: [h, iter([h])],
}


@pytest.mark.parametrize("make", UNMIXABLE.values(), ids=UNMIXABLE)
def test_an_output_that_cannot_be_mixed_is_refused_with_the_layers_name(make_trainer, make):
    with pytest.raises((TypeError, ValueError, RuntimeError), match=r"\bodd\b"):
        fit(make_trainer, UsesLayer(make), points([4], torch.float32), "odd")


@pytest.mark.parametrize(
    ("make", "words"),
    [(UNMIXABLE["with-ids"], "int64"), (UNMIXABLE["with-a-mask"], "bool")],
    ids=["ids", "mask"],
)
def test_integers_in_an_output_are_refused_with_their_dtype(make_trainer, make, words):
    with pytest.raises((TypeError, ValueError, RuntimeError), match=words):
        fit(make_trainer, UsesLayer(make), points([4], torch.float32), "odd")


class TimeFirst(Task):
    def __init__(self, cell):
        super().__init__()
        self.rnn, self.head = cell(FEATURES, HIDDEN), nn.Linear(HIDDEN, CLASSES)

    def forward(self, x):
        return self.head(self.rnn(x.transpose(0, 1))[0][-1])


@pytest.mark.parametrize("steps", [4, 5], ids=["as-many-steps-as-samples", "more-steps"])
@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_with_time_first_is_refused(make_trainer, cell, steps):
    """Even where steps could be taken for samples."""
    batches = [(torch.randn(4, steps, FEATURES), torch.randint(CLASSES, (4,)))]

    with pytest.raises((TypeError, ValueError, RuntimeError), match=r"\brnn\b"):
        fit(make_trainer, TimeFirst(cell), batches, "rnn")


class PackedSteps(Recurrent):
    def forward(self, x):
        lengths = torch.full((len(x),), x.shape[1])
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        _, (h, _) = self.rnn(packed)
        return self.head(h[-1])


def test_a_packed_sequence_is_refused(make_trainer):
    batches = [(torch.randn(4, 1, FEATURES), torch.randint(CLASSES, (4,)))]
    module = PackedSteps()
    module.head = nn.Linear(HIDDEN, CLASSES)

    with pytest.raises((TypeError, ValueError, RuntimeError), match=r"\brnn\b"):
        fit(make_trainer, module, batches, "rnn")


# Dtype and memory.


class Probed(Residual):
    """Keeps what comes out of its layer, as the module sees it."""

    def forward(self, x):
        self.hidden = self.stem(x)
        return self.head(self.stage(self.hidden).mean((2, 3)))


@pytest.mark.parametrize("per_sample", [False, True], ids=["per-batch", "per-sample"])
def test_autocast_keeps_the_dtype_of_the_layer(make_trainer, per_sample):
    module, batches = Probed(), [(torch.randn(4, 3, 6, 6), torch.randint(CLASSES, (4,)))]
    stem = copy.deepcopy(module.stem)

    recorder = fit(
        make_trainer,
        module,
        batches,
        "stem",
        precision="bf16-mixed",
        recipe=Mixup(2.0, per_sample=per_sample),
    )

    assert module.hidden.dtype == torch.bfloat16
    expected = blended(stem(batches[0][0]), recorder.mixes[0])
    assert_close(module.hidden.float(), expected, rtol=0, atol=0.05)


def test_channels_last_stays_channels_last(make_trainer):
    module = Probed().to(memory_format=torch.channels_last)
    x = torch.randn(4, 3, 6, 6).to(memory_format=torch.channels_last)

    fit(make_trainer, module, [(x, torch.randint(CLASSES, (4,)))], "stem")

    assert module.hidden.is_contiguous(memory_format=torch.channels_last)
    assert not module.hidden.is_contiguous()


STRIDES = {
    "transposed": lambda h: h.t().contiguous().t(),
    "every-second": lambda h: torch.stack((h, -h), dim=2).flatten(1)[:, ::2],
    "batch-expanded": lambda h: h.mean(0, keepdim=True).expand_as(h),
    "last-of-more": lambda h: torch.cat((h, h), dim=1)[:, HIDDEN:],
}


@pytest.mark.parametrize("view", STRIDES.values(), ids=STRIDES)
def test_outputs_with_any_strides_are_mixed(make_trainer, view):
    first = nn.Sequential(nn.Linear(FEATURES, HIDDEN), Returns(view))

    assert_mixed_as_by_hand(make_trainer, Deep(first).double(), points(), "net.layer1")


# Which layers.


def wrapped(module, name):
    """Returns a module inside another one, as FSDP, compilation and others wrap them."""
    wrapper = nn.Module()
    setattr(wrapper, name, module)
    wrapper.forward = module.__call__
    return wrapper


WRAPPERS = ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"]


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("inside", [False, True], ids=["layer", "net"])
@pytest.mark.parametrize("layers", ["net.layer1", "net.layer[1]"])
def test_a_layer_keeps_its_name_inside_of_a_wrapper(make_trainer, name, inside, layers):
    module = Deep().double()
    plain, twin = module.net, copy.deepcopy(module)
    if inside:
        module.net = wrapped(module.net, name)
    else:
        module.net.layer1 = wrapped(module.net.layer1, name)

    def by_hand(twin, batch, mix):
        return manifold_loss(twin, batch, mix)

    twin.load_state_dict = lambda state: twin.net.load_state_dict({
        key.replace(f"{name}.", ""): value for key, value in plain.state_dict().items()
    })

    places = assert_mixed_as_by_hand(
        make_trainer, module, points(), layers, twin=twin, by_hand=by_hand
    )

    assert places == ["net.layer1"] * 3


class Configured(Deep):
    """Makes its network late, as big ones do."""

    def __init__(self):
        super().__init__()
        del self.net

    def configure_model(self):
        self.net = sequence()


def test_layers_are_found_after_configure_model(make_trainer):
    recorder = fit(make_trainer, Configured(), points(dtype=torch.float32), PLACES[1:])

    assert set(recorder.places) <= set(PLACES[1:])
    assert len(recorder.places) == 3


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("net.layer1", {"net.layer1"}),
        (["net.layer1"], {"net.layer1"}),
        (("input", "net.layer1"), {"input", "net.layer1"}),
        ("net.layer?", {"net.layer1", "net.layer2"}),
        ("net.layer[2-9]", {"net.layer2"}),
        (["input", "net.layer?"], set(PLACES)),
        (["net.layer1.*", "net.head"], {"net.layer1.0", "net.layer1.1", "net.head"}),
        ("input", {"input"}),
    ],
    ids=range(8),
)
def test_names_and_patterns_select_their_layers(make_trainer, layers, expected):
    recorder = fit(make_trainer, Deep(), points([4] * 16, torch.float32), layers, seed=2)

    assert set(recorder.places) == expected


def test_by_default_the_input_is_mixed(make_trainer):
    mixup = MixupCallback(2.0)
    recorder = Recorder(mixup)

    make_trainer(callbacks=[mixup, recorder]).fit(Deep(), load(points(dtype=torch.float32)))

    assert recorder.places == ["input"] * 3
    assert repr(mixup) == "MixupCallback(2.0)"


@pytest.mark.parametrize("layers", ["net", ["input", "net.layer1"]], ids=str)
def test_the_repr_says_the_layers(layers):
    mixup = MixupCallback(2.0, layers=layers)

    assert eval(repr(mixup)).layers == mixup.layers
    assert repr(eval(repr(mixup))) == repr(mixup)


@pytest.mark.parametrize(
    ("layers", "close"),
    [("net.layr1", r"net\.layer1"), (["input", "net.laier2"], r"net\.layer2"), ("Net", "net")],
    ids=str,
)
def test_an_unknown_layer_is_refused_with_the_closest_names(make_trainer, layers, close):
    given = layers if isinstance(layers, str) else layers[-1]

    with pytest.raises(ValueError, match=f"(?s){given}.*{close}"):
        fit(make_trainer, Deep(), points(dtype=torch.float32), layers)


def test_a_pattern_that_matches_nothing_is_refused(make_trainer):
    with pytest.raises(ValueError, match=r"encoder\.\*"):
        fit(make_trainer, Deep(), points(dtype=torch.float32), ["net.layer1", "encoder.*"])


@pytest.mark.parametrize("layers", [3, 1.5, True, None, [3], ["net", None], b"net"], ids=repr)
def test_layers_of_the_wrong_type_are_refused_at_once(layers):
    with pytest.raises(TypeError, match="layers="):
        MixupCallback(2.0, layers=layers)


@pytest.mark.parametrize("layers", [[], ()], ids=repr)
def test_no_layers_at_all_are_refused_at_once(layers):
    with pytest.raises(ValueError, match="layers="):
        MixupCallback(2.0, layers=layers)


# Exactly once.


class Repeats(Deep):
    def forward(self, x):
        return self.net.head(self.net.layer1(x) + self.net.layer1(2 * x))


class PassesBy(Deep):
    """Has a layer that its step never runs, and one whose weight it uses without running it."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(1, 1)

    def forward(self, x):
        return F.linear(self.net.layer2(self.net.layer1(x)), self.net.head.weight)


class TwoPasses(Deep):
    """Runs all of its network on two views of a batch, as consistency losses do."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y) + F.cross_entropy(self(x + 0.1), y)


@pytest.mark.parametrize(
    ("module", "layer"),
    [
        (Repeats, "net.layer1"),
        (TwoPasses, "net.layer2"),
        (PassesBy, "unused"),
        (PassesBy, "net.head"),
    ],
)
def test_a_layer_that_does_not_run_exactly_once_is_refused(make_trainer, module, layer):
    """Labels would be mixed where nothing else is, or what is mixed would be mixed again."""
    with pytest.raises(RuntimeError, match=rf"(?s){layer}.*layers") as refusal:
        fit(make_trainer, module(), points(dtype=torch.float32), layer)

    assert "once" in str(refusal.value) or "did not run" in str(refusal.value)


def test_a_layer_that_runs_often_is_no_matter_where_another_is_mixed(make_trainer):
    recorder = fit(make_trainer, Repeats(), points(dtype=torch.float32), ["input", "net.head"])

    assert len(recorder.losses) == 3


@pytest.mark.parametrize("module", [Repeats, PassesBy])
def test_a_layer_may_run_as_it_likes_in_a_batch_that_is_not_mixed(make_trainer, module):
    """A batch of one has no partner."""
    recorder = fit(make_trainer, module(), points([1, 1], torch.float32), "net.layer1")

    assert recorder.mixes == [None, None]


class SecondPass(Deep):
    """Hands itself the batch that it was handed, and then uses it."""

    passes = 0

    def training_step(self, batch, batch_idx):
        self.passes += 1
        loss = super().training_step(batch, batch_idx)
        return loss + self.training_step(batch, batch_idx) if self.passes % 2 else loss


class FirstPass(SecondPass):
    """Does so before anything else."""

    def training_step(self, batch, batch_idx):
        self.passes += 1
        first = self.training_step(batch, batch_idx) if self.passes % 2 else 0
        return Deep.training_step(self, batch, batch_idx) + first


@pytest.mark.parametrize("module", [SecondPass, FirstPass])
def test_passes_in_a_step_within_the_step_are_counted(make_trainer, module):
    with pytest.raises(RuntimeError, match=r"net\.layer1"):
        fit(make_trainer, module(), points([4], torch.float32), "net.layer1")


class LossInside(Task):
    """Its network computes the loss, as Hugging Face's do when they are given labels."""

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = sequence()

        def forward(self, x, y):
            logits = self.net(x)
            return {"loss": F.cross_entropy(logits, y), "logits": logits}

    def __init__(self):
        super().__init__()
        self.model = self.Network()

    def training_step(self, batch, batch_idx):
        return self.model(*batch)["loss"]


def test_a_layer_that_computes_the_loss_is_refused(make_trainer):
    """What it puts out comes too late: labels would be mixed, and what met them would not."""
    with pytest.raises((TypeError, ValueError, RuntimeError), match="model"):
        fit(make_trainer, LossInside(), points([4], torch.float32), "model")


def test_a_layer_inside_of_what_computes_the_loss_is_mixed(make_trainer):
    recorder = fit(make_trainer, LossInside(), points([4], torch.float32), "model.net.layer1")

    assert recorder.places == ["model.net.layer1"]


class WithLBFGS(Deep):
    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), max_iter=3)


class Manual(Deep):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()
        return loss


class Validates(Deep):
    """Runs its network outside of the step, too, where nothing is mixed."""

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self(batch[0])


class Skips(Deep):
    """Skips a batch now and then, as Lightning allows it."""

    def training_step(self, batch, batch_idx):
        return None if batch_idx == 1 else super().training_step(batch, batch_idx)


class ByKeyword(Deep):
    def __init__(self):
        super().__init__(Returns(lambda h: h))
        self.net.layer1 = nn.Bilinear(FEATURES, FEATURES, HIDDEN)

    def forward(self, x):
        return self.net.head(self.net.layer2(self.net.layer1(input1=x, input2=x)))


STEPS = [WithLBFGS, Manual, Validates, Skips, ByKeyword]


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize("module", STEPS)
def test_steps_of_every_form_train_mixed_at_a_layer(make_trainer, module):
    class Finishes(Recorder):
        def on_train_batch_end(self, *args):
            pass

        def on_after_backward(self, *args):
            pass

    recorder = fit(
        make_trainer, module(), points(dtype=torch.float32), PLACES[1:], recorder=Finishes
    )

    assert len(recorder.places) == 3


def test_gradients_are_accumulated_over_batches_each_with_its_place(make_trainer):
    module, batches = Deep(), points([4] * 4, torch.float32)

    recorder = fit(make_trainer, module, batches, PLACES, accumulate_grad_batches=2)

    assert len(recorder.places) == 4


class Fetching(Deep):
    def training_step(self, dataloader_iter):
        (x, y), *_ = next(dataloader_iter)
        self.hidden = self.net.layer1(x)
        self.expected = blended(
            F.linear(x, *self.net.layer1[0].parameters()).tanh(), self.mixup.mix
        )
        return F.cross_entropy(self.net.head(self.hidden), y)


@pytest.mark.filterwarnings("ignore:Found `dataloader_iter` argument")
@pytest.mark.filterwarnings("ignore:You are using the `dataloader_iter` step flavor")
def test_a_step_that_fetches_its_batches_is_mixed_at_a_layer(make_trainer):
    module, mixup = Fetching(), MixupCallback(2.0, layers="net.layer1", calibration=False)
    object.__setattr__(module, "mixup", mixup)

    make_trainer(callbacks=[mixup]).fit(module, load(points(dtype=torch.float32)))

    assert_close(module.hidden, module.expected)


def test_the_learning_rate_finder_runs_mixed_at_a_layer(make_trainer):
    """It swaps the callbacks out, so that nobody calls `on_train_batch_start`."""
    seen = []

    class Module(Deep):
        lr = 0.1

        def training_step(self, batch, batch_idx):
            x, y = batch
            h = self.net.layer1(x)
            plain = F.linear(x, *self.net.layer1[0].parameters()).tanh()
            seen.append((isinstance(y, MixedTarget), torch.equal(h, plain)))
            return F.cross_entropy(self.net.head(h), y)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    finder = LearningRateFinder(max_lr=1e-3, num_training_steps=10, early_stop_threshold=None)
    batches = points([4] * 12, torch.float32)

    settings = {"callbacks": [finder], "enable_checkpointing": True}
    fit(make_trainer, Module(), batches, "net.layer1", **settings)

    assert len(finder.optimal_lr.results["loss"]) == 10
    assert len(seen) >= 12  # Before Lightning 2.6 the fit goes on from there.
    assert set(seen) == {(True, False)}


# Only in training.


class Watching(Deep):
    """Compares its hidden layer with one worked out from the weights."""

    def __init__(self):
        super().__init__()
        self.plain = {}

    def forward(self, x):
        h = self.net.layer1(x)
        plain = torch.equal(h, F.linear(x, *self.net.layer1[0].parameters()).tanh())
        self.plain.setdefault(str(self.trainer.state.stage.value), set()).add(plain)
        return self.net.head(self.net.layer2(h))


@pytest.mark.filterwarnings("ignore:Found \\d+ module.* in eval mode")
def test_only_training_is_mixed_at_a_layer(make_trainer):
    module, loader = Watching(), load(points(dtype=torch.float32))
    mixup = MixupCallback(2.0, layers="net.layer1", calibration=False)
    trainer = make_trainer(callbacks=[mixup], val_check_interval=1)

    trainer.fit(module, loader, loader)
    trainer.validate(module, loader, verbose=False)
    trainer.test(module, loader, verbose=False)
    trainer.predict(module, loader)

    assert module.plain == {
        "sanity_check": {True},
        "train": {False},
        "validate": {True},
        "test": {True},
        "predict": {True},
    }


def test_a_layer_that_runs_between_the_steps_is_not_mixed(make_trainer):
    class Between(Watching):
        def training_step(self, batch, batch_idx):
            self.state_of_fit = "step"
            return super().training_step(batch, batch_idx)

        def on_before_optimizer_step(self, optimizer):
            with torch.no_grad():
                h = self.net.layer1(self.x)
            self.between = torch.equal(
                h, F.linear(self.x, *self.net.layer1[0].parameters()).tanh()
            )

    module = Between()
    module.x = torch.randn(4, FEATURES)

    fit(make_trainer, module, points([4], torch.float32), "net.layer1")

    assert module.between


@pytest.mark.parametrize("places", ["net.layer1", PLACES], ids=["layer", "several"])
def test_labels_are_mixed_wherever_features_are(make_trainer, places):
    class Module(Deep):
        kinds: ClassVar = set()

        def training_step(self, batch, batch_idx):
            self.kinds.add(type(batch[1]))
            return super().training_step(batch, batch_idx)

    module = Module()

    fit(make_trainer, module, points([4] * 6, torch.float32), places)

    assert module.kinds == {MixedTarget}


def test_the_input_is_the_loaders_own_where_a_layer_is_mixed(make_trainer):
    class Module(Deep):
        def training_step(self, batch, batch_idx):
            self.seen = batch[0]
            return super().training_step(batch, batch_idx)

    module, batches = Module(), points([4], torch.float32)

    fit(make_trainer, module, batches, "net.layer1")

    assert module.seen is batches[0][0]


class Masked(Tokens):
    """Takes ids and a mask by the names that tokenizers give them."""

    def training_step(self, batch, batch_idx):
        h = self.embedding(batch["input_ids"]) * batch["attention_mask"][..., None]
        return F.cross_entropy(self.head(h.mean(1)), batch["labels"])


@pytest.mark.parametrize("extra", [{}, {"age": torch.rand(4, 1)}], ids=["ids", "more"])
def test_a_tokenizers_batch_needs_no_word(make_trainer, extra):
    """Entries beside the labels are not mixed, so they leave nothing open."""
    batch = {
        "input_ids": torch.randint(10, (4, 6)),
        "attention_mask": torch.ones(4, 6, dtype=torch.long),
        "labels": torch.randint(CLASSES, (4,)),
    }

    recorder = fit(make_trainer, Masked(), [{**batch, **extra}], "embedding")

    assert recorder.places == ["embedding"]


class Lengths(Tokens):
    def forward(self, ids, lengths):
        return self.head(self.embedding(ids).sum(1) / lengths[:, None])


@pytest.mark.parametrize("dtype", [torch.long, torch.float32], ids=str)
def test_the_second_of_three_entries_is_not_taken_for_the_target(make_trainer, dtype):
    lengths = torch.full((4,), 6, dtype=dtype)
    batch = torch.randint(10, (4, 6)), lengths, torch.randint(CLASSES, (4,))

    with pytest.raises(ValueError, match="targets="):
        fit(make_trainer, Lengths(), [batch], "embedding")


def test_a_module_without_labels_is_mixed_at_a_layer_too(make_trainer):
    class Sparse(Deep):
        def training_step(self, batch, batch_idx):
            (x,) = batch
            h = self.net.layer1(x)
            self.mixed = not torch.equal(h, F.linear(x, *self.net.layer1[0].parameters()).tanh())
            return self.net.head(h).square().mean()

    module = Sparse()

    fit(make_trainer, module, [[torch.randn(4, FEATURES)]], "net.layer1", targets=None, inputs=0)

    assert module.mixed


# No trace is left.


def traces(root):
    """Returns all that a callback could leave in a module and its layers."""
    return {
        name: (
            type(module),
            sorted(vars(module)),
            {key: len(v) for key, v in vars(module).items() if isinstance(v, OrderedDict)},
            getattr(module.forward, "__func__", module.forward),
        )
        for name, module in root.named_modules()
    }


def assert_plain(root):
    """Asserts that a copy runs what its classes say, and nothing else."""
    for module in root.modules():
        method = getattr(module.forward.__self__, "method", module.forward)
        assert method.__func__ is type(module).forward
        assert method.__self__ is module
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


class Crashing(Deep):
    crash = None

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if self.crash == "step" and batch_idx == 1:
            raise ZeroDivisionError
        return loss

    def on_train_batch_end(self, *args):
        if self.crash == "hook":
            raise ZeroDivisionError

    def validation_step(self, batch, batch_idx):
        if self.crash == "validation" and not self.trainer.sanity_checking:
            raise ZeroDivisionError


def fit_or_crash(trainer, module):
    loader = load(points(dtype=torch.float32))
    try:
        trainer.fit(module, loader, loader)
    except ZeroDivisionError:
        assert module.crash
    return traces(module)


@pytest.mark.filterwarnings("ignore:Found \\d+ module.* in eval mode")
@pytest.mark.parametrize("crash", [None, "step", "hook", "validation"])
def test_after_a_fit_or_a_crash_the_layers_are_as_they_were_found(make_trainer, crash):
    """As after a fit without the callback."""
    module, plain = Crashing(), Crashing()
    module.crash = plain.crash = crash
    callback = MixupCallback(2.0, layers=["input", "net", "net.*"], calibration=False)
    before = traces(module.net)

    after = fit_or_crash(make_trainer(callbacks=[callback]), module)

    assert after == fit_or_crash(make_trainer(), plain)
    assert traces(module.net) == before
    assert callback.mix is None


@pytest.mark.parametrize(
    ("module", "layers"),
    [(Repeats, "net.layer1"), (PassesBy, "unused"), (Deep, ["net.layer1", "no.such"])],
)
def test_a_refusal_leaves_nothing_behind(make_trainer, module, layers):
    module = module()
    before = {name: trace for name, trace in traces(module).items() if name}
    batches = points(dtype=torch.float32)

    with pytest.raises((RuntimeError, ValueError)):
        fit(make_trainer, module, batches, layers)

    assert {name: trace for name, trace in traces(module).items() if name} == before
    assert "training_step" not in vars(module)
    make_trainer().fit(module, load(batches))


def test_a_layer_that_raises_is_released(make_trainer):
    class Raises(nn.Linear):
        def forward(self, x):
            raise ZeroDivisionError

    module = Deep(Raises(FEATURES, HIDDEN))
    before = traces(module.net)

    with pytest.raises(ZeroDivisionError):
        fit(make_trainer, module, points(dtype=torch.float32), "net.layer1")

    assert traces(module.net) == before


def test_a_layer_that_was_replaced_in_training_is_released_too(make_trainer):
    class Replaces(Deep):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            if batch_idx == 2:
                self.net.layer1 = copy.deepcopy(self.net.layer1)

    module = Replaces()
    old, before = module.net.layer1, traces(module.net)

    fit(make_trainer, module, points(dtype=torch.float32), "net.layer1")

    assert module.net.layer1 is not old
    assert {
        "layer1." + name: trace for name, trace in traces(old).items() if name
    }.items() <= before.items()
    assert traces(old)[""] == before["layer1"]
    assert_plain(module.net)


@pytest.mark.parametrize("layers", ["alias", ["alias", "net.layer1"]], ids=str)
def test_a_layer_of_two_names_is_released(make_trainer, layers):
    module = Deep()
    module.alias = module.net.layer1
    before = traces(module.net)

    fit(make_trainer, module, points([4] * 6, torch.float32), layers)

    assert traces(module.net) == before


def test_the_users_own_hooks_stay(make_trainer):
    calls, module = [], Deep()
    module.net.layer1.register_forward_hook(lambda *args: calls.append("after"))
    module.net.layer1.register_forward_pre_hook(lambda *args: calls.append("before"))
    before = traces(module.net)

    fit(make_trainer, module, points(dtype=torch.float32), "net.layer1")

    assert calls == ["before", "after"] * 3
    assert traces(module.net) == before


class Copies(Deep):
    """Copies its network in the middle of a step, as an average of weights does."""

    def training_step(self, batch, batch_idx):
        x, _ = batch
        self.copies = [
            copy.deepcopy(self.net),
            pickle.loads(pickle.dumps(self.net)),
            copy.deepcopy(nn.ModuleList([self.net.layer1]))[0],
        ]
        linear1, linear2 = (layer[0].parameters() for layer in self.net[:2])
        h = F.linear(x, *linear1).tanh()
        logits = F.linear(F.linear(h, *linear2).tanh(), *self.net.head.parameters())
        outputs = [twin(x) for twin in self.copies]
        expected = [logits, logits, h]
        self.plain = [torch.equal(*pair) for pair in zip(outputs, expected, strict=True)]
        return super().training_step(batch, batch_idx)


def test_a_copy_of_a_layer_in_the_middle_of_a_step_does_not_mix(make_trainer):
    module = Copies()

    fit(make_trainer, module, points(dtype=torch.float32), "net.layer1")

    assert module.plain == [True, True, True]
    for twin in module.copies:
        assert_plain(twin)


def test_a_callback_can_be_copied_in_the_middle_of_a_fit(make_trainer):
    class Copy(Recorder):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.copied = pickle.loads(pickle.dumps(copy.deepcopy(self.mixup)))

    recorder = fit(
        make_trainer, Deep(), points(dtype=torch.float32), ["net.layer1", "net.*2"], recorder=Copy
    )

    assert repr(recorder.copied) == repr(recorder.mixup)
    assert recorder.copied.mix is None


class Hidden(Deep):
    """Remembers its activations as long as they live."""

    def forward(self, x):
        first = self.net.layer1(x)
        second = self.net.layer2(first.tanh())
        self.made = [weakref.ref(first), weakref.ref(second)]
        return self.net.head(second)


@pytest.mark.parametrize("layer", ["net.layer1.0", "net.layer2", "net.layer2.0"])
def test_nothing_of_a_layers_output_outlives_the_step(make_trainer, layer):
    class Layer(nn.Linear):
        def forward(self, x):
            h = super().forward(x)
            refs.append(weakref.ref(h))
            return h

    class Checks(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            gc.collect()
            alive.append([ref() is not None for ref in (*pl_module.made, *refs)])

    refs, alive = [], []
    module = Hidden(
        nn.Sequential(Layer(FEATURES, HIDDEN)), nn.Sequential(Layer(HIDDEN, HIDDEN), nn.Tanh())
    )

    fit(make_trainer, module, points(dtype=torch.float32), layer, callbacks=[Checks()])

    assert len(alive) == 3
    assert not any(map(any, alive))


# What it says.


class Rows(Logger):
    """Keeps what is logged in each step."""

    name, version = "rows", 0

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append(dict(metrics))

    def log_hyperparams(self, *args, **kwargs):
        pass


def logged(logger, key):
    return [row[key] for row in logger.rows if key in row]


def test_weight_and_place_of_each_step_are_logged(make_trainer):
    logger, batches = Rows(), points([4] * 8, torch.float32)

    recorder = fit(make_trainer, Deep(), batches, PLACES, log_mix=True, logger=logger)

    expected = torch.tensor([float(mix.weight) for mix in recorder.mixes])
    assert_close(torch.tensor(logged(logger, "mixup_weight")), expected)
    assert logged(logger, "mixup_place") == [PLACES.index(place) for place in recorder.places]
    assert len(set(recorder.places)) > 1


def test_an_unmixed_batch_is_logged_as_such(make_trainer):
    logger, batches = Rows(), points([4, 1] * 4, torch.float32)

    recorder = fit(
        make_trainer, Deep(), batches, PLACES, log_mix=True, logger=logger, prob=0.7, seed=3
    )

    weights = [1.0 if mix is None else float(mix.weight) for mix in recorder.mixes]
    assert_close(torch.tensor(logged(logger, "mixup_weight")), torch.tensor(weights))
    places = [PLACES.index(place) for place in recorder.places]
    assert [place for place in logged(logger, "mixup_place") if place >= 0] == places
    assert 0 < len(places) <= 4


def test_by_default_no_mix_is_logged(make_trainer):
    logger = Rows()

    fit(make_trainer, Deep(), points([4] * 3, torch.float32), PLACES, logger=logger)

    assert not logged(logger, "mixup_weight")
    assert not logged(logger, "mixup_place")


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (PLACES, "at the input, 'net.layer1' or 'net.layer2'"),
        (["input", "net.layer1"], "at the input or 'net.layer1'"),
        ("net.layer?", "'net.layer1' or 'net.layer2'"),
        ("net.layer1", "'net.layer1'"),
    ],
    ids=["three", "two", "pattern", "one"],
)
def test_where_is_mixed_is_said_once(make_trainer, caplog, layers, words):
    caplog.set_level(logging.INFO)

    fit(make_trainer, Deep(), points(dtype=torch.float32), layers, max_epochs=2)

    assert len([message for message in caplog.messages if words in message]) == 1


# Suggestions.


def suggested(model, example):
    suggestions = MixupCallback(2.0).suggest_layers(model, example)
    return [(name, tuple(shape)) for name, shape in suggestions]


def test_layers_are_suggested_in_the_order_they_run_with_the_shape_of_their_output():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Linear(3, 5), nn.Linear(FEATURES, 3)
            self.unused = nn.Linear(1, 1)

        def forward(self, x):
            return self.last(self.first(x))

    assert suggested(Backwards(), torch.randn(4, FEATURES)) == [
        ("first", (4, 3)),
        ("last", (4, 5)),
    ]


def test_what_cannot_be_mixed_is_not_suggested():
    class Odd(Deep):
        def __init__(self):
            super().__init__()
            self.twice, self.ids = nn.Linear(HIDDEN, HIDDEN), Returns(lambda h: h.argmax(1))
            self.windows, self.rnn = Returns(lambda h: h.repeat(2, 1)), nn.LSTM(HIDDEN, HIDDEN)
            self.unused, self.nothing = nn.Linear(1, 1), Returns(nothing)

        def forward(self, x):
            h = self.twice(self.twice(self.net.layer1(x)))
            self.ids(h), self.windows(h), self.nothing(h)
            out, _ = self.rnn(h[None].expand(7, -1, -1))
            return self.net.head(out[-1])

    names = [name for name, _ in suggested(Odd(), torch.randn(4, FEATURES))]

    assert {"net.layer1", "net.layer1.0", "net.layer1.1", "net.head"} == set(names)


def test_every_suggestion_can_be_mixed(make_trainer):
    torch.manual_seed(1)
    module = Residual().double()
    names = [name for name, _ in suggested(module, Residual.inputs(4)[0])]
    batches = [(*Residual.inputs(4), torch.randint(CLASSES, (4,))) for _ in range(24)]

    places = assert_mixed_as_by_hand(make_trainer, module, batches, names)

    assert {"stem", "stage.0", "stage.1", "head"} <= set(names)
    assert set(places) <= set(names)
    assert len(set(places)) > len(names) / 2


@pytest.mark.parametrize("form", ["tuple", "dict"])
def test_an_example_may_be_positional_or_keyword_arguments(form):
    class TwoInputs(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(10, HIDDEN), nn.Linear(HIDDEN, CLASSES)

        def forward(self, ids, mask=None):
            return self.head((self.embedding(ids) * mask[..., None]).mean(1))

    ids, mask = torch.randint(10, (4, 6)), torch.ones(4, 6, dtype=torch.long)
    example = (ids, mask) if form == "tuple" else {"ids": ids, "mask": mask}

    assert suggested(TwoInputs(), example) == [
        ("embedding", (4, 6, HIDDEN)),
        ("head", (4, CLASSES)),
    ]


def test_the_shape_of_a_layer_with_several_outputs_is_of_a_mixed_one():
    model = Recurrent()
    x = torch.randn(4, 5, FEATURES)
    model(x)

    assert ("rnn", (4, 5, HIDDEN)) in suggested(model, x)


def test_a_frozen_network_is_suggested_too():
    """A head on the features of a network without gradients is how many begin."""
    names = [name for name, _ in suggested(Frozen().double(), Frozen.inputs(4)[0])]

    assert {"stem", "stage", "head"} <= set(names)


def test_suggesting_layers_keeps_buffers_that_forward_writes():
    class Counts(nn.BatchNorm1d):
        def forward(self, x):
            self.num_batches_tracked += 1
            return super().forward(x)

    model = Deep(nn.Sequential(Counts(FEATURES), nn.Linear(FEATURES, HIDDEN)))

    assert suggested(model, torch.randn(4, FEATURES))

    assert model.net.layer1[0].num_batches_tracked == 0


def test_suggesting_layers_changes_nothing_in_the_model():
    model = nn.Sequential(Residual(), nn.Dropout(0.5), nn.Linear(CLASSES, 2))
    model[0].stage[0].bn.eval()
    x = torch.randn(4, 3, 6, 6)
    model(x).sum().backward()
    modes = [module.training for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    gradients = [p.grad.clone() for p in model.parameters()]
    before, random = traces(model), torch.get_rng_state()

    assert suggested(model, x)

    assert [module.training for module in model.modules()] == modes
    assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert_close([p.grad for p in model.parameters()], gradients, rtol=0, atol=0)
    assert traces(model) == before
    assert torch.equal(torch.get_rng_state(), random)


def test_a_model_that_fails_on_its_example_is_left_as_it_was():
    model = Deep()
    before = traces(model)

    with pytest.raises(Exception, match=r"shapes|size|Linear"):
        suggested(model, torch.randn(4, FEATURES + 1))

    assert traces(model) == before
    assert model.training


def test_a_module_without_forward_says_what_to_give():
    class Forwardless(LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(3, 2)

    module, x = Forwardless(), torch.rand(4, 3)

    with pytest.raises(
        TypeError, match=r"Forwardless has no forward.*suggest_layers\(module.net, "
    ):
        MixupCallback.suggest_layers(module, x)

    assert MixupCallback.suggest_layers(module.net, x) == []


@pytest.mark.parametrize("size", [0, 1])
def test_fewer_than_two_samples_suggest_nothing(size):
    with pytest.raises(ValueError, match=f"on {size} samples. Give an example_input of two"):
        MixupCallback.suggest_layers(nn.Linear(3, 2), torch.rand(size, 3))


class Reader(LightningModule):
    """Classifies whatever its network takes."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.network(batch["x"]), batch["label"])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Padded(nn.Module):
    """Takes images of different sizes, and pads them behind a convolution of each."""

    def __init__(self):
        super().__init__()
        self.stem, self.pool, self.head = nn.Conv2d(1, 4, 3), nn.Identity(), nn.Linear(4, 2)

    def forward(self, images):
        rows = [self.stem(image[None]).mean(dim=(2, 3)) for image in images]
        return self.head(self.pool(torch.cat(rows)))


WORDS = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(20, 2))
RAGGED = [torch.rand(1, 5 + i, 6) for i in range(4)]


@pytest.mark.parametrize(
    ("network", "x"),
    [(WORDS, torch.arange(20).reshape(4, 5) % 9), (Padded(), RAGGED)],
    ids=["words", "sizes"],
)
def test_the_advice_for_what_cannot_be_mixed_at_the_input_works(make_trainer, network, x):
    batches = [{"x": x, "label": torch.tensor([0, 1, 1, 0])}] * 2
    loader = DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)
    module = Reader(copy.deepcopy(network))
    before = copy.deepcopy(module.state_dict())

    with pytest.raises((TypeError, ValueError), match=r"MixupCallback\(layers=\[\.\.\.\]\)"):
        make_trainer(callbacks=[MixupCallback()]).fit(module, loader)
    assert_close(module.state_dict(), before, rtol=0, atol=0)

    (name, _), *_ = MixupCallback.suggest_layers(module.network, x)
    mixup = MixupCallback(layers=[f"network.{name}"])
    make_trainer(callbacks=[mixup]).fit(module, loader)
    assert mixup.places == (f"network.{name}",)
