"""Tests for lightning_mixup.compiled: hidden layers mixed inside compiled networks."""

import copy
import gc
import pickle
from collections.abc import Callable
from functools import partial

import pytest
import torch
from lightning import LightningModule
from torch import nn
from torch._dynamo.backends.registry import lookup_backend
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset
from zoo import CLASSES, FEATURES

from lightning_mixup import Mixup, MixupCallback
from lightning_mixup.compiled import Switch, blend_by_switch
from lightning_mixup.recipes import Mix

BATCH = 8
BLOCKS = "net.blocks.*"

BACKENDS = pytest.mark.parametrize("backend", ["eager", "aot_eager"])
WEIGHTS = pytest.mark.parametrize("per_sample", [False, True], ids=["per_batch", "per_sample"])
REENTRANT = pytest.mark.parametrize("use_reentrant", [False, True], ids=["plain", "reentrant"])


pytestmark = [
    # Dynamo makes an instance of each autograd function that it traces.
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    # And looks whether what goes into a graph has a gradient.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Counter:
    """A backend that counts the graphs it is given, and how often they run."""

    def __init__(self, backend="aot_eager"):
        self.graphs = self.runs = 0
        self._compile = lookup_backend(backend)

    def __call__(self, graph, inputs):
        self.graphs += 1
        run = self._compile(graph, inputs)

        def counted(*args):
            self.runs += 1
            return run(*args)

        return counted


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(FEATURES, FEATURES)

    def forward(self, x):
        return x + self.linear(x).tanh()


class Network(nn.Module):
    def __init__(self, depth=2, make_block=Block):
        super().__init__()
        self.blocks = nn.ModuleList(make_block() for _ in range(depth))
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, x):
        for block in self.blocks:
            x = self.run_block(block, x)
        return self.head(x)

    def run_block(self, block, x):
        return block(x)


class Learner(LightningModule):
    """Records losses and gradients, outside of what may be compiled."""

    def __init__(self, net):
        super().__init__()
        self.net, self.seen = net, []

    def logits(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.logits(x).float(), y)

    def validation_step(self, batch, batch_idx):
        return self.training_step(batch, batch_idx)

    def on_after_backward(self):
        self.seen += [p.grad.clone() for p in self.parameters() if p.grad is not None]

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.seen.append(outputs["loss"])

    def on_validation_batch_end(self, outputs, batch, batch_idx):
        self.seen.append(outputs)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Double(Learner):
    """In which differences of 1e-12 show."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.logits(x), y)


class Staying(Double):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


class CompiledLate(Double):
    options: dict

    def configure_model(self):
        self.net = torch.compile(self.net, **self.options)


def make_net(make=Network, *, dtype=torch.float64, seed=1):
    torch.manual_seed(seed)
    return make().to(dtype)


def make_loader(*shape, batches=3, dtype=torch.float64, short=3):
    """Returns a loader whose last batch is a short one."""
    generator = torch.Generator().manual_seed(1)
    size = batches * BATCH + short
    x = torch.randn(size, *(shape or (FEATURES,)), generator=generator, dtype=dtype)
    y = torch.randint(0, CLASSES, (size,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=BATCH)


@pytest.fixture
def fit(make_trainer) -> Callable[..., list[torch.Tensor]]:
    """Returns a function that fits and returns the losses and gradients of each step."""

    def run(
        module, layers=BLOCKS, *, loader=None, val=False, per_sample=True, mixes=True, **options
    ):
        learner = getattr(module, "_orig_mod", module)
        learner.seen = []
        loader = make_loader() if loader is None else loader
        mixup = MixupCallback(
            recipe=Mixup(1.0, per_sample=per_sample), layers=layers, calibration=False, seed=2
        )
        trainer = make_trainer(callbacks=[mixup] if mixes else [], **options)
        trainer.fit(module, loader, loader if val else None)
        return learner.seen

    return run


def assert_same(actual, expected, tolerance=1e-12):
    assert len(actual) == len(expected) > 0
    assert_close(actual, expected, rtol=0, atol=tolerance)


# How users compile.


def the_network(module, **options):
    module.net = torch.compile(module.net, **options)
    return module


def the_network_in_place(module, **options):
    module.net.compile(**options)
    return module


def each_block(module, **options):
    for i, block in enumerate(module.net.blocks):
        module.net.blocks[i] = torch.compile(block, **options)
    return module


def each_block_in_place(module, **options):
    for block in module.net.blocks:
        block.compile(**options)
    return module


def a_method(module, **options):
    module.logits = torch.compile(module.logits, **options)
    return module


def the_module(module, **options):
    return torch.compile(module, **options)


def in_configure_model(module, **options):
    late = CompiledLate(module.net)
    late.options = options
    return late


WAYS = [
    the_network,
    the_network_in_place,
    each_block,
    each_block_in_place,
    a_method,
    the_module,
    in_configure_model,
]


@pytest.mark.parametrize("compile_", WAYS, ids=lambda way: way.__name__)
def test_a_compiled_fit_equals_an_eager_one(fit, compile_):
    """With a short last batch, and evaluation in between, which is not mixed."""
    places, options = ["input", BLOCKS], {"val": True, "val_check_interval": 2}
    counter = Counter()
    module = compile_(Double(make_net()), backend=counter, fullgraph=True)

    actual = fit(module, places, **options)

    assert counter.runs > 0
    assert_same(actual, fit(Double(make_net()), places, **options))


@WEIGHTS
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_shapes_may_be_dynamic_or_static(fit, dynamic, per_sample):
    module = the_network(Double(make_net()), backend="aot_eager", dynamic=dynamic)

    actual = fit(module, per_sample=per_sample)

    assert_same(actual, fit(Double(make_net()), per_sample=per_sample))


NUMBERS = {
    "float32": (torch.float32, "32-true"),
    "bfloat16": (torch.bfloat16, "32-true"),
    "autocast": (torch.float32, "bf16-mixed"),
}


@pytest.mark.parametrize(("dtype", "precision"), NUMBERS.values(), ids=NUMBERS)
def test_lower_precision_is_the_same_too(fit, dtype, precision):
    loader = make_loader(dtype=dtype)
    options = {"loader": loader, "precision": precision}
    module = the_network(Learner(make_net(dtype=dtype)), backend="aot_eager")

    actual = fit(module, **options)

    assert_same(actual, fit(Learner(make_net(dtype=dtype)), **options), 1e-6)


def test_evaluation_of_a_compiled_network_is_plain(fit, make_trainer):
    """Where the parameters stay, it is the same before, in the middle of and after a fit."""
    module = the_network(Staying(make_net()), backend="aot_eager")
    rounds = []
    module.on_validation_epoch_start = lambda: rounds.append([])
    module.on_validation_batch_end = lambda outputs, *_: rounds[-1].append(outputs)

    fit(module, val=True, val_check_interval=2, num_sanity_val_steps=-1)
    make_trainer().validate(module, make_loader(), verbose=False)

    assert_same(rounds[:3], [rounds[3]] * 3, 0)


# How many graphs.


@pytest.mark.parametrize(
    "compile_", [the_network, each_block_in_place], ids=lambda way: way.__name__
)
def test_the_callback_costs_no_graph_and_every_step_runs_compiled(fit, compile_):
    """Dynamo gives up without a word, so what ran is counted, too: over 200 steps."""
    loader = make_loader(batches=200, short=0)

    def count(*, mixes):
        torch._dynamo.reset()
        counter = Counter("eager")
        module = compile_(Double(make_net(partial(Network, 12))), backend=counter)
        fit(module, loader=loader, mixes=mixes)
        return counter.graphs, counter.runs

    graphs, runs = count(mixes=True)

    assert (graphs, runs) == count(mixes=False)
    assert runs >= 200


@pytest.mark.parametrize("afresh", [False, True], ids=["one network", "a network each"])
def test_many_fits_share_their_graphs(fit, afresh):
    counter = Counter("eager")
    loader = make_loader(short=0)
    module = the_network(Double(make_net()), backend=counter)

    counts = []
    for _ in range(10):
        if afresh:
            module = the_network(Double(make_net()), backend=counter)
        fit(module, loader=loader)
        counts.append((counter.graphs, counter.runs))

    assert counts == [(1, 3 * (i + 1)) for i in range(10)]


def test_a_network_compiled_before_runs_plain_before_and_after_each_fit(fit):
    net = torch.compile(make_net(), backend="aot_eager", fullgraph=True)
    start, x = copy.deepcopy(net.state_dict()), make_loader().dataset[:BATCH][0]
    expected = make_net()(x)

    def run():
        net.load_state_dict(start)
        return net.train()(x)

    def fit_again():
        net.load_state_dict(start)
        return fit(Double(net))

    outputs, first = [run()], fit_again()
    outputs, second = [*outputs, run()], fit_again()
    outputs.append(run())

    assert_same(outputs, [expected] * 3)
    assert_same(first, fit(Double(make_net())))
    assert_same(second, first)


# What layers put out.


class Split(nn.Module):
    """Puts out a tuple with a dict."""

    def __init__(self):
        super().__init__()
        self.left, self.right = Block(), Block()

    def forward(self, x):
        return self.left(x), {"right": self.right(x), "count": 3, "sum": x.sum()}


class OneLayer(nn.Module):
    """A layer, and what is done with what it puts out."""

    def __init__(self, make_layer, use):
        super().__init__()
        self.before, self.layer = Block(), make_layer()
        self.use, self.head = use, nn.Linear(FEATURES, CLASSES)

    def forward(self, x):
        return self.head(self.use(self.layer, self.before(x)))


class Put(nn.Module):
    """Puts out what a function returns."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def both(layer, x):
    left, others = layer(x)
    return left + others["right"] + others["sum"]


def first_alone(layer, x):
    return layer(x)[0]


def second_alone(layer, x):
    return layer(x)[1]["right"]


OUTPUTS = {
    "both of a tuple": (Split, both),
    "the first alone": (Split, first_alone),
    "the second alone": (Split, second_alone),
    "the same twice": (lambda: Put(lambda x: (x, x)), lambda layer, x: torch.add(*layer(x))),
    "its input": (nn.Identity, lambda layer, x: layer(x) + x),
    "its input, then written to": (nn.Identity, lambda layer, x: layer(x).mul_(2) + x),
    "in place": (partial(nn.ReLU, inplace=True), lambda layer, x: layer(x) + x),
    "a view": (
        lambda: Put(lambda x: x.view(len(x), 2, -1).transpose(1, 2)),
        lambda layer, x: layer(x).flatten(1) * x,
    ),
}


@pytest.mark.parametrize(("make_layer", "use"), OUTPUTS.values(), ids=OUTPUTS)
def test_outputs_of_any_form_are_mixed_alike(fit, make_layer, use):
    make = partial(OneLayer, make_layer, use)
    options = {"layers": "net.layer"}

    actual = fit(the_network(Double(make_net(make)), backend="aot_eager"), **options)

    assert_same(actual, fit(Double(make_net(make)), **options))


class Images(Network):
    """Convolutions of images, the channels last in memory."""

    def __init__(self):
        nn.Module.__init__(self)
        self.blocks = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.head = nn.Linear(3, CLASSES)

    def forward(self, x):
        x = x.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            x = block(x).relu_()
        return self.head(x.mean((2, 3)))


@BACKENDS
def test_channels_may_be_last(fit, backend):
    def make():
        return Double(make_net(Images).to(memory_format=torch.channels_last))

    images = {"loader": make_loader(3, 4, 4)}

    assert_same(fit(the_network(make(), backend=backend), **images), fit(make(), **images))


@pytest.mark.parametrize("backend", [None, "eager", "aot_eager"], ids=str)
@WEIGHTS
def test_the_operation_keeps_dtype_and_layout_and_writes_to_no_argument(backend, per_sample):
    weight = torch.rand(4, dtype=torch.float64).numpy() if per_sample else 0.3
    mix = Mix(weight, shift=1, batch_size=4)
    switch = Switch(lambda x, number: mix)
    x = torch.randn(4, 2, 3, 5, dtype=torch.complex128)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    kept = x.detach().clone()

    def run(x):
        return blend_by_switch(x, switch.handle)

    out = (torch.compile(run, backend=backend, fullgraph=True) if backend else run)(x)

    assert out.dtype == x.dtype
    assert out.stride() == x.stride()
    assert torch.equal(x, kept)
    expected = mix.blend(x)
    cotangent = torch.randn_like(out)
    assert_same([out], [expected])
    assert_same(*(torch.autograd.grad(y, x, cotangent) for y in (out, expected)))


# What is refused.


def both_of(pair):
    x, numbers = pair
    return x + numbers[:, None]


REFUSED = {
    "integers": (
        lambda: Put(lambda x: (x, torch.arange(len(x)))),
        lambda layer, x: both_of(layer(x)),
        ValueError,
        r"layer 'net\.layer': it puts out a tensor of shape \(8,\) and torch\.int64",
    ),
    "time first": (
        lambda: Put(lambda x: x.t()),
        lambda layer, x: layer(x).t(),
        ValueError,
        r"layer 'net\.layer': it puts out .* shape \(6, 8\), .* the 8 samples of the batch",
    ),
    "twice": (
        Block,
        lambda layer, x: layer(layer(x)),
        RuntimeError,
        r"layer 'net\.layer', which ran 2 times in Double\.training_step",
    ),
    "never": (
        Block,
        lambda layer, x: x,
        RuntimeError,
        r"layer 'net\.layer', which did not run in Double\.training_step",
    ),
}


@BACKENDS
@pytest.mark.parametrize(("make_layer", "use", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_mixed_is_refused_by_name(fit, backend, make_layer, use, error, words):
    module = Double(make_net(partial(OneLayer, make_layer, use)))

    with pytest.raises(error, match=words):
        fit(the_network(module, backend=backend), "net.layer")


# Activation checkpointing.


class CheckpointedBlock(Block):
    """Whose output is checkpointed inside, so that mixing is not."""

    use_reentrant: bool

    def forward(self, x):
        return checkpoint(super().forward, x, use_reentrant=self.use_reentrant)


class EachCheckpointed(Network):
    use_reentrant: bool

    def run_block(self, block, x):
        return checkpoint(block, x, use_reentrant=self.use_reentrant)


class AllCheckpointed(Network):
    use_reentrant: bool

    def forward(self, x):
        return checkpoint(super().forward, x, use_reentrant=self.use_reentrant)


class WithGradientOfInput(Double):
    """As reentrant checkpoints need it."""

    def logits(self, x):
        return self.net(x.requires_grad_())


class CheckpointedOutside(Double):
    use_reentrant: bool

    def logits(self, x):
        return checkpoint(self.net, x.requires_grad_(), use_reentrant=self.use_reentrant)


def in_blocks(use_reentrant):
    block = type("Checkpointed", (CheckpointedBlock,), {"use_reentrant": use_reentrant})
    return WithGradientOfInput(make_net(partial(Network, make_block=block)))


def around(make, use_reentrant):
    net = make_net(make)
    net.use_reentrant = use_reentrant
    return WithGradientOfInput(net)


def around_network(use_reentrant):
    module = CheckpointedOutside(make_net())
    module.use_reentrant = use_reentrant
    return module


CHECKPOINTED = {
    "in blocks": in_blocks,
    "around blocks": partial(around, EachCheckpointed),
    "in the network": partial(around, AllCheckpointed),
    "around the network": around_network,
}
COMPILERS = {
    "not compiled": lambda module: module,
    "compiled": partial(the_network, backend="aot_eager"),
}


@REENTRANT
@pytest.mark.parametrize("make", CHECKPOINTED.values(), ids=CHECKPOINTED)
@pytest.mark.parametrize("compile_", COMPILERS.values(), ids=COMPILERS)
def test_activation_checkpointing_changes_no_gradient(fit, compile_, make, use_reentrant):
    actual = fit(compile_(make(use_reentrant)))

    assert_same(actual, fit(Double(make_net())))


class ByHand(CheckpointedOutside):
    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if self.trainer.training:
            self.optimizers().zero_grad()
            self.manual_backward(loss)
            self.optimizers().step()
        return loss


@REENTRANT
@pytest.mark.parametrize("compile_", COMPILERS.values(), ids=COMPILERS)
def test_what_a_backward_in_the_step_runs_again_is_not_counted(fit, compile_, use_reentrant):
    module = ByHand(make_net())
    module.use_reentrant = use_reentrant

    assert_same(fit(compile_(module)), fit(Double(make_net())))


# Wrappers.


class Holding(nn.Module):
    """Holds a module under the name that a wrapper of torch gives it."""

    def __init__(self, name, module):
        super().__init__()
        self.name = name
        self.add_module(name, module)

    def forward(self, *args):
        return getattr(self, self.name)(*args)


WRAPPERS = {
    "compiled": partial(torch.compile, backend="aot_eager"),
    "checkpointed": checkpoint_wrapper,
    "sharded": partial(Holding, "_fsdp_wrapped_module"),
    "parallel": partial(Holding, "module"),
    "compiled around checkpointed": lambda module: torch.compile(
        checkpoint_wrapper(module), backend="aot_eager"
    ),
    "checkpointed around compiled": lambda module: checkpoint_wrapper(
        torch.compile(module, backend="aot_eager")
    ),
}


@pytest.mark.parametrize("where", ["network", "blocks"])
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_names_are_seen_through_wrappers(fit, wrap, where):
    """Of which `configure_model` may be the one that puts them there."""

    class Wrapped(Double):
        def configure_model(self):
            if where == "network":
                self.net = wrap(self.net)
            else:
                self.net.blocks = nn.ModuleList(map(wrap, self.net.blocks))

    assert_same(fit(Wrapped(make_net())), fit(Double(make_net())))


# What is left behind, and what is made in the middle.


@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_of_a_compiled_network_made_in_a_fit_is_plain(fit, make_copy):
    copies = []

    class Copying(Double):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            copies.append((make_copy(self.net), self.net(batch[0])))

    net = make_net()
    net.compile(backend="aot_eager")
    fit(Copying(net))

    x = [batch[0] for batch in make_loader()]
    assert_same(
        [made(one) for (made, _), one in zip(copies, x, strict=True)],
        [plain for _, plain in copies],
    )


def test_a_fit_leaves_no_switch_behind(fit):
    gc.collect()
    before = len(Switch._all)
    module = the_network(Double(make_net()), backend="aot_eager")

    fit(module)

    torch._dynamo.reset()
    gc.collect()
    assert len(Switch._all) == before


@pytest.mark.parametrize("compile_", [lambda module, **_: module, the_network])
def test_losses_of_several_steps_may_share_a_backward(fit, compile_):
    """By the weights of their own step, though it is over."""

    class Sharing(Double):
        automatic_optimization = False

        def on_train_epoch_start(self):
            self.losses = []

        def training_step(self, batch, batch_idx):
            self.losses.append(super().training_step(batch, batch_idx))

        def on_train_batch_end(self, outputs, batch, batch_idx):
            pass

        def on_train_epoch_end(self):
            self.manual_backward(sum(self.losses))

    class Adding(Staying):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            pass

        def on_train_epoch_end(self):
            count = len(list(self.parameters()))
            self.seen = [sum(self.seen[i::count]) for i in range(count)]

    actual = fit(compile_(Sharing(make_net()), backend="aot_eager"))

    assert_same(actual, fit(Adding(make_net())))
