"""Tests for MixupCallback over time: nothing outlives its step, grows, or is lost on the way."""

import copy
import gc
import os
import pickle
import weakref
from collections import Counter
from pathlib import Path

import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import LearningRateFinder
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from twins import HIDDEN, Plain, mixup
from zoo import CLASSES, FEATURES, parameters_of

from lightning_mixup import Mixup
from lightning_mixup.interception import Interception
from lightning_mixup.layers import Layer
from lightning_mixup.targets import Usage

PLACES = ["input", HIDDEN]
each_place = pytest.mark.parametrize("place", [None, *PLACES], ids=str)
each_weighting = pytest.mark.parametrize("per_sample", [False, True], ids=["batch", "sample"])


class Marker:
    """Lives as long as the graph that it is a part of."""


class Mark(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, marker):
        ctx.marker = marker
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


class Remembers(Plain):
    """Keeps weak references to all that a step has, or hands on."""

    def __init__(self):
        super().__init__()
        self.seen = {"train": [], "validate": []}

    def training_step(self, batch, batch_idx):
        return self.remembered(batch, self.seen["train"])

    def validation_step(self, batch, batch_idx):
        self.remembered(batch, self.seen["validate"])

    def remembered(self, batch, seen):
        x, y = batch
        marker = Marker()
        logits = Mark.apply(self.net(x), marker)
        loss = F.cross_entropy(logits, y)
        one_hot = torch.zeros(len(y), CLASSES).scatter_(1, y[:, None], 1.0)
        loss = loss + (one_hot - logits).square().mean()
        self.log("loss", loss)
        kept = [x, y, logits, marker, one_hot, loss]
        seen += map(weakref.ref, [*kept, *getattr(y, "candidates", ())])
        return {"loss": loss, "logits": logits.detach()}


class Looks(Callback):
    """Counts what is alive when a batch starts, where Lightning has forgotten the one before."""

    def __init__(self, module):
        self.module = module
        self.alive = {"train": [], "validate": []}

    def look(self, stage):
        self.alive[stage].append(sum(made() is not None for made in self.module.seen[stage]))

    def on_train_batch_start(self, *args):
        self.look("train")

    def on_validation_batch_start(self, *args):
        self.look("validate")

    def on_train_start(self, *args):  # the sanity check is over, or the finder
        self.look("validate")
        self.look("train")

    def on_fit_end(self, *args):
        self.look("validate")
        self.look("train")


@pytest.fixture(autouse=True)
def frozen():
    """Has the collector leave out what there was before, which takes it half a second."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def no_collector():
    """Cycles would hold a GPU's memory until the collector comes, so there must be none."""
    gc.disable()
    yield
    gc.enable()


@each_weighting
@each_place
def test_no_reference_to_a_batch_or_a_graph_outlives_its_step(
    make_trainer, no_collector, place, per_sample
):
    """None is a fit without the callback, which Lightning leaves nothing of, either."""
    module = Remembers()
    looks = Looks(module)
    recipe = Mixup(1.0, per_sample=per_sample)
    ours = [mixup(recipe=recipe, layers=place, calibration=True)] if place else []

    make_trainer(callbacks=[looks, *ours], max_epochs=2).fit(module)

    assert set(looks.alive["train"]) == {0}
    assert set(looks.alive["validate"]) == {0}
    assert len(module.seen["train"]) == 8 * (6 + 2 * len(ours))


@each_place
def test_no_reference_outlives_the_last_step_of_a_tuner(make_trainer, no_collector, place):
    module = Remembers()
    looks = Looks(module)
    finder = LearningRateFinder(num_training_steps=5)
    ours = [mixup(layers=place)] if place else []

    make_trainer(callbacks=[*ours, finder, looks], enable_checkpointing=True).fit(module)

    assert len(looks.alive["train"]) >= 2  # of the finder and of the fit
    assert set(looks.alive["train"]) == {0}


def live():
    """Returns how many objects there are, by their type."""
    gc.collect()
    return Counter(map(type, gc.get_objects()))


class Counts(Callback):
    """Takes stock at some steps: of tensors, of all objects, and of resident memory in MiB.

    It goes first, so that no step is under way.
    """

    def __init__(self, steps):
        self.steps, self.tensors, self.objects, self.memory = set(steps), [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx in self.steps:
            found = live()
            self.tensors.append({kind: found[kind] for kind in found if issubclass(kind, Tensor)})
            self.objects.append(found.total())
            pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
            self.memory.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)


class Forgets(Plain):
    """Keeps no record of its own, is small, and has as many batches as it takes."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, CLASSES), nn.Identity(), nn.Identity())

    def note(self, loss):
        pass

    def train_dataloader(self):
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(16, FEATURES, generator=generator)
        return DataLoader([(x, x[:, :CLASSES].argmax(1))] * 10_001, batch_size=None)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux for the memory")
@pytest.mark.parametrize(
    ("per_sample", "steps"), [(True, 10_000), (False, 1_000)], ids=["sample", "batch"]
)
def test_10_000_steps_grow_nothing(make_trainer, per_sample, steps):
    counts = Counts([steps // 10, steps // 2, steps])
    recipe = Mixup(0.5, per_sample=per_sample)
    ours = mixup(recipe=recipe, prob=0.9, layers=PLACES, calibration=True)
    settings = {"max_steps": steps + 1, "val_check_interval": steps // 10}

    make_trainer(callbacks=[counts, ours], **settings).fit(Forgets())

    assert counts.tensors == counts.tensors[:1] * 3
    # What is made once has been made by the second count.
    assert abs(counts.objects[2] - counts.objects[1]) < 10
    assert counts.memory[2] - counts.memory[1] < 1


def test_any_number_of_fits_grows_nothing(make_trainer):
    module, ours = Plain(), mixup(layers=PLACES, calibration=True)
    counted = []

    class CountsOurs(Callback):
        def on_train_start(self, trainer, pl_module):
            found = live()
            counted.append([found[kind] for kind in (Interception, Layer, Usage, Tensor)])

    def fit(_):
        make_trainer(callbacks=[ours, CountsOurs()]).fit(module)

    list(map(fit, range(6)))

    assert counted[0][:2] == [3, 1]  # of training_step, all_gather and the layer
    assert counted[2:] == counted[1:2] * 4  # the first made gradients


# Copies, and other processes.


class CopiesIt(Callback):
    """Copies another callback in the middle of a step."""

    def __init__(self, callback, copying):
        self.callback, self.copying = callback, copying

    def on_before_backward(self, trainer, pl_module, loss):
        self.copied = self.copying(self.callback)


@pytest.mark.parametrize(
    "copying",
    [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))],
    ids=["copy", "deepcopy", "pickle"],
)
@pytest.mark.parametrize("place", PLACES)
def test_a_copy_from_the_middle_of_a_fit_mixes_as_a_new_one(make_trainer, place, copying):
    ours = mixup(layers=place, calibration=True)
    copies = CopiesIt(ours, copying)
    first, second = Plain(), Plain()

    make_trainer(callbacks=[ours, copies]).fit(first)
    make_trainer(callbacks=[copies.copied]).fit(second)

    assert first.losses == second.losses
    assert torch.equal(*map(parameters_of, (first, second)))


def test_a_fit_in_a_spawned_process_is_the_one_in_this(make_trainer, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as this process has one thread
    modules = [Plain(), Plain()]
    callbacks = [mixup(layers=HIDDEN, calibration=True) for _ in modules]

    spawned = {"strategy": "ddp_spawn", "use_distributed_sampler": False}

    make_trainer(callbacks=callbacks[:1]).fit(modules[0])
    make_trainer(callbacks=callbacks[1:], **spawned).fit(modules[1])

    assert torch.equal(*map(parameters_of, modules))
    assert "training_step" not in vars(modules[1])
    assert callbacks[1].mix is None
