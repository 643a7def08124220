"""Tests for lightning_mixup.callback: what happens to a batch between the loader and the loss."""

import copy
import gc
import inspect
import logging
import math
import pickle
import re
import weakref
from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning import Callback, seed_everything
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.utilities import CombinedLoader
from scipy import stats
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import Metric
from torchmetrics.functional import accuracy
from zoo import CLASSES, FEATURES, Classifier, make_loader, parameters_of

from lightning_mixup import (
    CalibrationMonitor,
    MixedTarget,
    Mixup,
    MixupCallback,
    NearestNeighbors,
)

CLASS_WEIGHT = torch.tensor([0.5, 1.0, 2.0, 3.0, 0.1])


def stub_trainer(number):
    """Returns what a draw reads off a trainer."""
    progress = SimpleNamespace(total=SimpleNamespace(processed=number))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    return SimpleNamespace(fit_loop=loop, current_epoch=0)


def draw(callback, number, size=16, rank=0, device="cpu"):
    """Returns the mix of one batch, drawn by the public hook."""
    batch = [
        torch.zeros(size, 2, device=device),
        torch.zeros(size, dtype=torch.long, device=device),
    ]
    callback._rank = rank  # which `setup` asks the trainer for
    callback.on_train_batch_start(stub_trainer(number), None, batch, number)
    return callback.mix


class Recorder(Callback):
    """Keeps each batch's mix, and what `training_step` made of it; goes behind MixupCallback."""

    def __init__(self, mixup):
        self.mixup = mixup
        self.mixes, self.batches, self.outputs, self.gradients = [], [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.mixes.append(self.mixup.mix)
        self.batches.append(batch)

    def on_after_backward(self, trainer, pl_module):
        self.gradients.append([p.grad.clone() for p in pl_module.parameters()])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.outputs.append(outputs["loss"] if outputs else None)


def mixed_by_hand(x, mix):
    weight = mix.weight.to(x).reshape(-1, *[1] * (x.ndim - 1))
    return weight * x + (1 - weight) * x[mix.partner]


def loss_by_hand(logits, y, mix, class_weight):
    """Returns the mixup loss in the words of the paper, a sample at a time."""
    share = mix.weight.to(logits).expand(len(y))
    class_weight = torch.ones(CLASSES).to(logits) if class_weight is None else class_weight
    total = norm = 0.0
    for i, partner in enumerate(mix.partner.tolist()):
        for label, weight in ((y[i], share[i]), (y[partner], 1 - share[i])):
            total = total - weight * class_weight[label] * logits[i].log_softmax(0)[label]
            norm = norm + weight * class_weight[label]
    return total / norm


class Oracle(Recorder):
    """Computes each batch's loss and gradients by hand, before the step runs."""

    def __init__(self, mixup):
        super().__init__(mixup)
        self.losses, self.expected_gradients = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        (x, y), mix = batch, self.mixup.mix
        logits = pl_module(mixed_by_hand(x, mix))
        loss = loss_by_hand(logits, y, mix, pl_module.class_weight)
        self.losses.append(loss.detach())
        self.expected_gradients.append(torch.autograd.grad(loss, list(pl_module.parameters())))


# The loss and the metrics.


@pytest.mark.parametrize(("precision", "tolerance"), [("32-true", 1e-6), ("64-true", 1e-12)])
@pytest.mark.parametrize("class_weight", [None, CLASS_WEIGHT], ids=["plain", "class-weights"])
@pytest.mark.parametrize("per_sample", [False, True], ids=["per-batch", "per-sample"])
def test_an_unmodified_modules_loss_is_the_mixup_loss(
    make_trainer, per_sample, class_weight, precision, tolerance
):
    mixup = MixupCallback(recipe=Mixup(1.0, per_sample=per_sample))
    oracle = Oracle(mixup)
    trainer = make_trainer(callbacks=[mixup, oracle], precision=precision)

    trainer.fit(Classifier(class_weight), make_loader())

    assert len(oracle.losses) == 4
    for got, expected in zip(oracle.outputs, oracle.losses, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)
    for got, expected in zip(oracle.gradients, oracle.expected_gradients, strict=True):
        torch.testing.assert_close(got, list(expected), rtol=0, atol=tolerance)


@pytest.mark.parametrize("per_sample", [False, True], ids=["per-batch", "per-sample"])
def test_the_modules_train_accuracy_is_that_of_the_dominant_labels(make_trainer, per_sample):
    mixup = MixupCallback(recipe=Mixup(1.0, per_sample=per_sample))
    recorder = Recorder(mixup)
    module = Classifier()
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.0)
    trainer = make_trainer(callbacks=[mixup, recorder])

    trainer.fit(module, make_loader())

    logits, dominant = [], []
    for (x, y), mix in zip(recorder.batches, recorder.mixes, strict=True):
        logits.append(module(mixed_by_hand(x, mix)))
        dominant.append(torch.where(mix.weight >= 0.5, y, y[mix.partner]))
    expected = accuracy(
        torch.cat(logits), torch.cat(dominant), task="multiclass", num_classes=CLASSES
    )
    assert trainer.callback_metrics["train_acc"] == expected
    assert type(module.train_acc.tp) is torch.Tensor


def test_the_logged_loss_is_the_merged_one(make_trainer):
    mixup = MixupCallback(alpha=1.0)
    recorder = Recorder(mixup)
    trainer = make_trainer(callbacks=[mixup, recorder])

    trainer.fit(Classifier(), make_loader(batch_size=64))

    assert trainer.callback_metrics["train_loss"] == recorder.outputs[0]
    assert type(recorder.outputs[0]) is torch.Tensor


class Regressor(Classifier):
    def loss(self, prediction, y):
        return F.mse_loss(prediction[:, 0], y)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.loss(self(x), y)


def test_a_regression_sees_interpolated_targets(make_trainer):
    x, y = torch.randn(32, FEATURES), torch.randn(32)
    mixup = MixupCallback(alpha=1.0)
    recorder = Recorder(mixup)
    module = Regressor().double()
    before = copy.deepcopy(module)
    trainer = make_trainer(callbacks=[mixup, recorder], precision="64-true")

    trainer.fit(module, DataLoader(TensorDataset(x, y), batch_size=32))

    mix = recorder.mixes[0]
    prediction = before(mixed_by_hand(x.double(), mix))[:, 0]
    expected = (prediction - mixed_by_hand(y.double(), mix)).square().mean()
    torch.testing.assert_close(recorder.outputs[0], expected.detach(), rtol=0, atol=1e-12)


class Binary(Classifier):
    """Integer targets that a loss turns into floats."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.binary_cross_entropy_with_logits(self(x)[:, 0], (y > 2).float())


def test_a_binary_loss_on_cast_labels_is_the_mixture(make_trainer):
    mixup = MixupCallback(alpha=1.0)
    recorder = Recorder(mixup)
    module = Binary()
    before = copy.deepcopy(module)
    trainer = make_trainer(callbacks=[mixup, recorder])

    trainer.fit(module, make_loader(batch_size=64))

    (x, y), mix = recorder.batches[0], recorder.mixes[0]
    logits = before(mixed_by_hand(x, mix))[:, 0]
    own, other = (
        F.binary_cross_entropy_with_logits(logits, (labels > 2).float())
        for labels in (y, y[mix.partner])
    )
    expected = (mix.weight * own + (1 - mix.weight) * other).float()
    torch.testing.assert_close(recorder.outputs[0], expected.detach(), rtol=0, atol=1e-6)


class Scripted(Classifier):
    """A criterion into which nobody can look."""

    def __init__(self):
        super().__init__()
        self.criterion = torch.jit.script(nn.CrossEntropyLoss())

    def loss(self, logits, y):
        return self.criterion(logits, y)


class CustomFunction(torch.autograd.Function):
    """Cross entropy with a gradient written by hand."""

    @staticmethod
    def forward(ctx, logits, y):
        ctx.save_for_backward(logits.softmax(1) - F.one_hot(y, logits.shape[1]))
        return F.cross_entropy(logits, y)

    @staticmethod
    def backward(ctx, grad):
        (difference,) = ctx.saved_tensors
        return grad * difference / len(difference), None


class CustomLoss(nn.Module):
    def forward(self, logits, y):
        return CustomFunction.apply(logits, y)


class WithCustomLoss(Classifier):
    def __init__(self):
        super().__init__()
        self.criterion = CustomLoss()

    def loss(self, logits, y):
        return self.criterion(logits, y)


scripting = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


@scripting
@pytest.mark.parametrize("module", [Scripted, WithCustomLoss])
def test_a_named_loss_is_evaluated_once_per_candidate(make_trainer, module):
    mixup = MixupCallback(alpha=1.0, loss="criterion")
    oracle = Oracle(mixup)
    trainer = make_trainer(callbacks=[mixup, oracle])

    trainer.fit(module(), make_loader(batch_size=64))

    torch.testing.assert_close(oracle.outputs[0], oracle.losses[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(
        oracle.gradients[0], list(oracle.expected_gradients[0]), rtol=0, atol=1e-6
    )


@scripting
def test_a_scripted_loss_needs_no_name(make_trainer):
    mixup = MixupCallback(alpha=1.0)
    oracle = Oracle(mixup)
    trainer = make_trainer(callbacks=[mixup, oracle])

    trainer.fit(Scripted(), make_loader(batch_size=64))

    torch.testing.assert_close(oracle.outputs[0], oracle.losses[0], rtol=0, atol=1e-6)


def test_a_loss_that_torch_cannot_look_into_is_refused_unless_named(make_trainer):
    trainer = make_trainer(callbacks=[MixupCallback()])

    with pytest.raises(RuntimeError, match=r"MixupCallback\(loss='criterion'\)"):
        trainer.fit(WithCustomLoss(), make_loader())


def test_a_loss_of_labels_read_as_numbers_is_refused(make_trainer):
    class Reads(Classifier):
        def loss(self, logits, y):
            return -sum(logits[i].log_softmax(0)[label] for i, label in enumerate(y.tolist()))

    with pytest.raises(RuntimeError, match=r"reads labels as numbers \(.item\(\), .numpy\(\)\)"):
        make_trainer(callbacks=[MixupCallback()]).fit(Reads(), make_loader())


class BranchesOnLabels(Classifier):
    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = self.loss(self(x), y)
        return loss if y[0] == 1 else 2 * loss  # read here


def test_labels_read_as_numbers_beside_a_loss_are_told_once_with_their_line(make_trainer, caplog):
    make_trainer(callbacks=[MixupCallback(1.0)], max_epochs=2).fit(
        BranchesOnLabels(), make_loader()
    )

    (said,) = [message for message in caplog.messages if "reads mixed labels" in message]
    file, line, rest = said.split(":", 2)
    assert file == __file__
    source = inspect.getsource(inspect.getmodule(BranchesOnLabels)).splitlines()
    assert source[int(line) - 1].endswith("# read here")
    assert "by __bool__()" in rest


class WithTwoLosses(WithCustomLoss):
    def loss(self, logits, y):
        return F.cross_entropy(logits, y) + self.criterion(logits, y)


def test_an_opaque_loss_beside_another_is_refused_too(make_trainer):
    trainer = make_trainer(callbacks=[MixupCallback()])

    with pytest.raises(RuntimeError, match="run in a custom autograd function"):
        trainer.fit(WithTwoLosses(), make_loader())


def test_an_opaque_loss_beside_another_is_right_once_named(make_trainer):
    mixup = MixupCallback(alpha=1.0, loss="criterion")
    oracle = Oracle(mixup)
    trainer = make_trainer(callbacks=[mixup, oracle])

    trainer.fit(WithTwoLosses(), make_loader(batch_size=64))

    torch.testing.assert_close(oracle.outputs[0], 2 * oracle.losses[0], rtol=0, atol=1e-6)
    twice = [2 * gradient for gradient in oracle.expected_gradients[0]]
    torch.testing.assert_close(oracle.gradients[0], twice, rtol=0, atol=1e-6)


class Checkpointed(Classifier):
    """Labels inside of a region that torch runs again in the backward pass."""

    reentrant = False

    def loss(self, logits, y):
        return checkpoint(F.cross_entropy, logits, y, use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_of_a_loss_gives_the_same_gradients(make_trainer, reentrant):
    mixup = MixupCallback(alpha=1.0)
    oracle = Oracle(mixup)
    module = Checkpointed()
    module.reentrant = reentrant

    make_trainer(callbacks=[mixup, oracle]).fit(module, make_loader(batch_size=64))

    torch.testing.assert_close(
        oracle.gradients[0], list(oracle.expected_gradients[0]), rtol=0, atol=1e-6
    )


# The draws.


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_weights_of_10_000_batches_follow_beta(alpha):
    callback = MixupCallback(alpha, seed=1)

    weights = [float(draw(callback, number).weight) for number in range(10_000)]

    assert stats.kstest(weights, stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_weights_per_sample_follow_beta_too():
    callback = MixupCallback(recipe=Mixup(0.4, per_sample=True), seed=1)

    weights = np.concatenate([draw(callback, n, size=50).weight.numpy() for n in range(200)])

    assert stats.kstest(weights, stats.beta(0.4, 0.4).cdf).pvalue > 0.01


def test_prob_is_kept():
    callback = MixupCallback(1.0, prob=0.3, seed=1)

    mixed = sum(draw(callback, number) is not None for number in range(10_000))

    assert stats.binomtest(mixed, 10_000, 0.3).pvalue > 0.01


def test_partners_are_uniform_over_the_others():
    callback = MixupCallback(seed=1)

    partners = [int(draw(callback, number, size=8).partner[0]) for number in range(10_000)]

    counts = np.bincount(partners, minlength=8)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:]).pvalue > 0.01


def test_every_sample_is_the_partner_of_one():
    partner = draw(MixupCallback(seed=1), number=0, size=9).partner

    assert sorted(partner.tolist()) == list(range(9))
    assert not (partner == torch.arange(9)).any()


def test_successive_batches_share_no_draw():
    """A counter in the wrong word lets batch n + 1 see all but one of the draws of batch n."""
    callback = MixupCallback(recipe=Mixup(1.0, per_sample=True), seed=1)

    weights = torch.cat([draw(callback, number, size=64).weight for number in range(100)])

    assert len(weights.unique()) == len(weights)


def test_ranks_and_seeds_draw_differently():
    drawn = {
        (seed, rank): float(draw(MixupCallback(seed=seed), 3, rank=rank).weight)
        for seed in (0, 1)
        for rank in (0, 1)
    }

    assert len(set(drawn.values())) == 4


@pytest.mark.parametrize("seed", [-1, 0, 2**64 + 5, 10**30, np.int64(7)])
def test_any_integer_is_a_seed(seed):
    assert draw(MixupCallback(seed=seed), 0) is not None


def test_draws_touch_no_global_state():
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002

    draw(MixupCallback(), 0)

    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002


def test_infinite_alpha_mixes_half_and_half():
    assert draw(MixupCallback(math.inf), 0).weight == 0.5


# Where it runs.


class NoHostCopies(TorchFunctionMode):
    """Raises where a value would be taken to the host."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        taken = {"cpu", "tolist", "numpy", "item", "__bool__", "__float__", "__int__", "nonzero"}
        assert name not in taken, f"{name}() takes a value to the host"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("per_sample", [False, True], ids=["per-batch", "per-sample"])
def test_all_stays_on_the_batchs_device(per_sample):
    """`meta` has no values, so nothing can have waited for one."""
    callback = MixupCallback(recipe=Mixup(per_sample=per_sample))
    batch = [torch.zeros(16, 2, device="meta"), torch.zeros(16, dtype=torch.long, device="meta")]

    with NoHostCopies():
        callback.on_train_batch_start(stub_trainer(0), None, batch, 0)
        x, y = callback.apply(batch)
        loss = F.cross_entropy(nn.Linear(2, 3, device="meta")(x), y)
        loss.backward()

    tensors = [x, y, *y.candidates, y.weights, callback.mix.weight, callback.mix.partner, loss]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


@pytest.mark.parametrize("settings", [{"alpha": 0.0}, {"alpha": 1.0, "prob": 0.0}], ids=str)
def test_without_mixing_the_run_is_bit_identical_to_one_without_callback(make_trainer, settings):
    trained = []
    for callbacks in ([], [MixupCallback(**settings)]):
        seed_everything(7, verbose=False)
        module = Classifier()
        trainer = make_trainer(callbacks=callbacks, max_epochs=2)
        trainer.fit(module, make_loader(shuffle=True), make_loader())
        trained.append(parameters_of(module))

    assert torch.equal(*trained)


def fit_with_seed(make_trainer, seed, **settings):
    seed_everything(seed, verbose=False)
    module = Classifier()
    seed_everything(0, verbose=False) if "seed" in settings else None
    make_trainer(callbacks=[MixupCallback(1.0, **settings)], max_epochs=2).fit(
        module, make_loader()
    )
    return parameters_of(module)


def test_two_fits_with_the_same_seed_are_bit_identical(make_trainer):
    first, second, other = (fit_with_seed(make_trainer, seed) for seed in (3, 3, 4))

    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_a_resumed_run_takes_over_the_seed(make_trainer, tmp_path):
    torch.manual_seed(11)
    first = make_trainer(callbacks=[MixupCallback()], max_epochs=1)
    first.fit(Classifier(), make_loader())
    first.save_checkpoint(tmp_path / "last.ckpt")
    torch.manual_seed(12)
    mixup = MixupCallback()
    recorder = Recorder(mixup)

    second = make_trainer(callbacks=[mixup, recorder], max_epochs=2)
    second.fit(Classifier(), make_loader(), ckpt_path=tmp_path / "last.ckpt")

    expected = draw(MixupCallback(seed=11), number=4)
    assert recorder.mixes[0].weight == expected.weight


# Who sees what.


class Watcher(Classifier):
    """Keeps every batch that a step receives; validation calls the training step."""

    def __init__(self):
        super().__init__()
        self.seen = {"train": [], "val": [], "test": [], "predict": []}

    def training_step(self, batch, batch_idx):
        self.seen["train" if self.trainer.training else "val"].append(batch)
        x, y = batch
        return self.loss(self(x), y)

    def validation_step(self, batch, batch_idx):
        return self.training_step(batch, batch_idx)

    def test_step(self, batch, batch_idx):
        self.seen["test"].append(batch)

    def predict_step(self, batch, batch_idx):
        self.seen["predict"].append(batch)
        return batch


def test_only_training_sees_mixed_batches(make_trainer):
    module = Watcher()
    loader = make_loader()
    mixup = MixupCallback(1.0, calibration=False)
    trainer = make_trainer(callbacks=[mixup], num_sanity_val_steps=2)

    trainer.fit(module, loader, loader)
    trainer.validate(module, loader, verbose=False)
    trainer.test(module, loader, verbose=False)
    trainer.predict(module, loader)

    assert all(isinstance(y, MixedTarget) for _, y in module.seen["train"])
    clean = module.seen["val"] + module.seen["test"] + module.seen["predict"]
    assert len(clean) == 2 + 4 + 4 + 4 + 4
    assert not any(isinstance(y, MixedTarget) for _, y in clean)
    originals = [x for x, _ in loader]
    assert all(any(torch.equal(x, original) for original in originals) for x, _ in clean)


@pytest.mark.parametrize("form", [tuple, list, lambda xy: {"image": xy[0], "label": xy[1]}])
def test_the_loaders_tensors_and_containers_stay_whole(make_trainer, form):
    class Batches(Classifier):
        def training_step(self, batch, batch_idx):
            x, y = batch.values() if isinstance(batch, dict) else batch
            return self.loss(self(x), y)

    x, y = torch.randn(32, FEATURES), torch.randint(CLASSES, (32,))
    batches = [form((x[:16], y[:16])), form((x[16:], y[16:]))]
    before = copy.deepcopy(batches)
    parts = [list(b.values()) if isinstance(b, dict) else list(b) for b in batches]

    make_trainer(callbacks=[MixupCallback(1.0)]).fit(
        Batches(), DataLoader(batches, batch_size=None)
    )

    after = [list(b.values()) if isinstance(b, dict) else list(b) for b in batches]
    assert all(
        a is b
        for old, new in zip(parts, after, strict=True)
        for a, b in zip(old, new, strict=True)
    )
    torch.testing.assert_close(batches, before, rtol=0, atol=0)


def test_other_callbacks_can_see_the_mixed_batch(make_trainer):
    class Peek(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.mixed = mixup.apply(batch)
            self.expected = mixed_by_hand(batch[0], mixup.mix)
            self.place = mixup.mix.place

    mixup, peek = MixupCallback(1.0), Peek()

    make_trainer(callbacks=[mixup, peek]).fit(Classifier(), make_loader())

    torch.testing.assert_close(peek.mixed[0], peek.expected)
    assert isinstance(peek.mixed[1], MixedTarget)
    assert peek.place == "input"
    assert mixup.mix is None


def test_a_batch_of_one_is_left_as_it_is(make_trainer):
    module = Watcher()

    make_trainer(callbacks=[MixupCallback(1.0)]).fit(module, make_loader(size=9, batch_size=4))

    kinds = [type(y) for _, y in module.seen["train"]]
    assert kinds == [MixedTarget, MixedTarget, torch.Tensor]


def test_a_short_last_batch_is_mixed_too(make_trainer):
    module = Watcher()

    make_trainer(callbacks=[MixupCallback(1.0)]).fit(module, make_loader(size=11, batch_size=4))

    assert [len(x) for x, _ in module.seen["train"]] == [4, 4, 3]
    assert isinstance(module.seen["train"][-1][1], MixedTarget)


@pytest.mark.filterwarnings("ignore:Total length of:UserWarning")
def test_an_empty_validation_loader_just_works(make_trainer):
    trainer = make_trainer(callbacks=[MixupCallback()])
    empty = DataLoader(TensorDataset(torch.zeros(0, FEATURES), torch.zeros(0, dtype=torch.long)))

    trainer.fit(Classifier(), make_loader(), empty)

    assert trainer.state.finished


def test_what_a_module_keeps_of_its_labels_is_plain_after_the_step(make_trainer):
    class Keeper(Classifier):
        def on_train_start(self):
            self.kept = []

        def training_step(self, batch, batch_idx):
            x, y = batch
            self.kept.append(y)
            return self.loss(self(x), y)

        def on_train_epoch_end(self):
            self.together = torch.cat(self.kept)

    module = Keeper()

    make_trainer(callbacks=[MixupCallback(1.0)]).fit(module, make_loader())

    assert type(module.together) is torch.Tensor
    assert module.together.shape == (64,)


class KeepsLabels(Metric):
    def __init__(self):
        super().__init__()
        self.add_state("labels", [])

    def update(self, labels):
        self.labels.append(labels)

    def compute(self):
        return torch.cat(self.labels).double().mean()


def test_a_metric_of_the_modules_own_keeps_plain_labels_already_in_the_step(make_trainer):
    class Keeper(Classifier):
        def __init__(self):
            super().__init__()
            self.metrics = nn.ModuleDict({"kept": KeepsLabels()})
            self.kinds = set()

        def training_step(self, batch, batch_idx):
            x, y = batch
            self.metrics["kept"].update(y)
            self.kinds.update(map(type, self.metrics["kept"].labels))
            return self.loss(self(x), y)

    module = Keeper()
    before = module.metrics["kept"].update

    make_trainer(callbacks=[MixupCallback(1.0)]).fit(module, make_loader())

    assert module.kinds == {torch.Tensor}
    assert module.metrics["kept"].update is before


def test_a_buffer_that_counts_by_label_is_plain_after_the_step(make_trainer):
    class Counts(Classifier):
        def __init__(self):
            super().__init__()
            self.register_buffer("confusion", torch.zeros(CLASSES, CLASSES))

        def training_step(self, batch, batch_idx):
            x, y = batch
            self.confusion[y, self(x).argmax(dim=1)] += 1
            return self.loss(self(x), y)

    module = Counts()

    make_trainer(callbacks=[MixupCallback(1.0)]).fit(module, make_loader())

    assert type(module.confusion) is torch.Tensor


def test_what_a_step_returns_is_plain(make_trainer):
    class Sees(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.kinds = {name: type(value) for name, value in outputs.items()}

    sees = Sees()

    make_trainer(callbacks=[MixupCallback(1.0), sees]).fit(ByKeyword(), make_loader())

    assert sees.kinds == {"loss": torch.Tensor, "labels": torch.Tensor}


# How steps are written.


class WithoutIndex(Classifier):
    def training_step(self, batch):
        return super().training_step(batch, 0)


class ByKeyword(Classifier):
    def training_step(self, batch, batch_idx):
        x, y = batch
        return {"loss": self.loss(self.forward(x), y), "labels": y}


class Manual(Classifier):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(self(x), y))
        optimizer.step()


class Fetching(Classifier):
    """Fetches its own batches, as pipelined training does."""

    def training_step(self, dataloader_iter):
        (x, y), *_ = next(dataloader_iter)
        return self.loss(self(x), y)


@pytest.mark.filterwarnings("ignore:.*`dataloader_iter`")
@pytest.mark.parametrize("per_sample", [False, True], ids=["per_batch", "per_sample"])
def test_a_step_that_fetches_its_batches_gets_the_same_mixed_ones(make_trainer, per_sample):
    def fit(module):
        mixup = MixupCallback(recipe=Mixup(1.0, per_sample=per_sample), seed=1)
        make_trainer(callbacks=[mixup], max_epochs=2).fit(module, make_loader(size=60))
        return parameters_of(module)

    torch.manual_seed(3)
    module = Classifier()
    fetching = Fetching()
    fetching.load_state_dict(module.state_dict())

    assert torch.equal(fit(fetching), fit(module))


class WithSecondPass(Classifier):
    """Hands itself the batch that it was handed, as sharpness-aware minimisation does."""

    def training_step(self, batch, batch_idx):
        losses = self.__dict__.setdefault("losses", [])
        again = bool(losses) and losses[-1][1] == batch_idx
        loss = super().training_step(batch, batch_idx)
        losses.append((loss.detach(), batch_idx))
        return loss if again else loss + 0 * self.training_step(batch, batch_idx)


def test_a_batch_that_is_mixed_is_not_mixed_again(make_trainer):
    module = WithSecondPass()

    make_trainer(callbacks=[MixupCallback(1.0)]).fit(module, make_loader())

    first, second = module.losses[0][0], module.losses[1][0]
    torch.testing.assert_close(first, second)


class WithLBFGS(Classifier):
    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), max_iter=3)


class SkipsSome(Classifier):
    def training_step(self, batch, batch_idx):
        return None if batch_idx % 2 else super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning")
@pytest.mark.parametrize(
    "module", [WithoutIndex, ByKeyword, Manual, WithLBFGS, SkipsSome], ids=lambda m: m.__name__
)
def test_steps_of_every_form_train(make_trainer, module):
    trained = module()
    before = parameters_of(trained)
    mixup = MixupCallback(1.0)
    recorder = Recorder(mixup)

    make_trainer(callbacks=[mixup, recorder]).fit(trained, make_loader())

    assert all(mix is not None for mix in recorder.mixes)
    assert not torch.equal(parameters_of(trained), before)
    assert "training_step" not in vars(trained)


@dataclass
class Sample:
    image: object
    label: object


class Record(SimpleNamespace):
    def to(self, device):
        return self


@pytest.mark.parametrize("form", [Sample, Record])
@pytest.mark.parametrize("select", ["names", "functions"])
def test_batches_with_attributes_are_mixed_in_a_copy(make_trainer, form, select):
    class ByAttribute(Classifier):
        def training_step(self, batch, batch_idx):
            assert type(batch) is form
            self.seen = batch
            return self.loss(self(batch.image), batch.label)

    def collate(samples):
        x, y = zip(*samples, strict=True)
        return form(image=torch.stack(x), label=torch.stack(y))

    by_function = {"inputs": lambda batch: batch.image, "targets": lambda batch: batch.label}
    mixup = MixupCallback(1.0, **(by_function if select == "functions" else {}))
    peek, module = Recorder(mixup), ByAttribute()
    loader = DataLoader(make_loader().dataset, batch_size=16, collate_fn=collate)

    make_trainer(callbacks=[mixup, peek]).fit(module, loader)

    mix, original = peek.mixes[-1], peek.batches[-1]
    torch.testing.assert_close(module.seen.image, mix.blend(original.image))
    assert isinstance(module.seen.label, MixedTarget)
    assert type(original.label) is torch.Tensor


def test_the_learning_rate_finder_runs_mixed(make_trainer):
    """It swaps the callbacks out, so that nobody calls `on_train_batch_start`."""
    module = Watcher()
    finder = LearningRateFinder(max_lr=1e-3, num_training_steps=30, early_stop_threshold=None)
    module.lr = 0.1
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=module.lr)

    make_trainer(callbacks=[MixupCallback(1.0), finder], enable_checkpointing=True).fit(
        module, make_loader(size=512)
    )

    assert len(finder.optimal_lr.results["loss"]) == 30
    assert len(module.seen["train"]) >= 32  # Before Lightning 2.6 the fit goes on from there.
    assert all(isinstance(y, MixedTarget) for _, y in module.seen["train"])


def test_a_module_that_ignores_its_labels_trains_with_targets_none(make_trainer):
    class Autoencoder(Classifier):
        def training_step(self, batch, batch_idx):
            x, _ = batch
            return self(x).square().mean()

    trainer = make_trainer(callbacks=[MixupCallback(1.0, targets=None)])

    trainer.fit(Autoencoder(), make_loader())

    assert trainer.state.finished


# No trace is left.


def test_after_fit_the_module_is_as_it_was_found(make_trainer):
    module, plain = Classifier(), Classifier()

    make_trainer(callbacks=[MixupCallback()]).fit(module, make_loader(), make_loader())
    make_trainer().fit(plain, make_loader(), make_loader())

    assert set(vars(module)) == set(vars(plain))
    assert module.training_step.__func__ is Classifier.training_step
    assert not module._forward_hooks
    assert not module._forward_pre_hooks


class Crashing(Classifier):
    broken = True

    def training_step(self, batch, batch_idx):
        if self.broken and batch_idx == 2:
            raise ZeroDivisionError
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        if self.broken and not self.trainer.sanity_checking and batch_idx == 1:
            raise ZeroDivisionError
        return super().validation_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore:Found \\d+ module.* in eval mode")
@pytest.mark.parametrize("check_every", [4, 1], ids=["in-training", "in-validation"])
def test_a_crashed_fit_leaves_nothing_behind_and_a_second_one_works(make_trainer, check_every):
    """Lightning skips `teardown` where training raises."""
    module, callback = Crashing(), MixupCallback()
    trainer = make_trainer(callbacks=[callback], val_check_interval=check_every)

    with pytest.raises(ZeroDivisionError):
        trainer.fit(module, make_loader(), make_loader())

    assert {"training_step", "validation_step", "log"}.isdisjoint(vars(module))
    assert callback.mix is None
    module.broken = False
    again = make_trainer(callbacks=[callback])
    again.fit(module, make_loader(), make_loader())
    assert again.callback_metrics["val_ece"] >= 0


def test_modules_and_callbacks_can_be_copied_in_the_middle_of_a_fit(make_trainer):
    class Copies(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            trainer_reference, pl_module.trainer = pl_module.trainer, None
            self.copied = copy.deepcopy(pl_module)
            self.loaded = pickle.loads(pickle.dumps(pl_module))
            pl_module.trainer = trainer_reference
            self.callback = pickle.loads(pickle.dumps(copy.deepcopy(mixup)))

    mixup, copies, module = MixupCallback(1.0), Copies(), Classifier()

    make_trainer(callbacks=[mixup, copies]).fit(module, make_loader())

    for twin in (copies.copied, copies.loaded):
        assert twin.training_step.__func__ is Classifier.training_step
        assert twin.training_step.__self__ is twin
    assert copies.callback.mix is None
    assert repr(copies.callback) == repr(mixup)
    assert not any(inspect.ismethod(value) for value in vars(copies.callback).values())


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"alpha": -0.1}, ValueError, r"alpha=-0.1 is not at least 0\. Use 0.2"),
        ({"alpha": math.nan}, ValueError, r"alpha=nan is not at least 0"),
        ({"alpha": "0.2"}, TypeError, r"alpha='0.2' is not a number"),
        ({"alpha": True}, TypeError, r"alpha=True is not a number"),
        ({"prob": 1.5}, ValueError, r"prob=1.5 is not a probability\. Give a number from 0 to 1"),
        ({"prob": -0.1}, ValueError, r"prob=-0.1 is not a probability"),
        ({"prob": math.nan}, ValueError, r"prob=nan is not a probability"),
        ({"prob": "half"}, TypeError, r"prob='half' is not a number"),
        ({"alpha": 0.2, "recipe": Mixup(1.0)}, ValueError, r"both alpha=0.2 and recipe=Mixup"),
        ({"alpha": Mixup(1.0)}, TypeError, r"is a recipe\. Write recipe=Mixup\(alpha=1.0"),
        ({"recipe": "mixup"}, TypeError, r"recipe='mixup' is a str, not a recipe"),
        ({"recipe": Mixup}, TypeError, r"not a recipe"),
        ({"inputs": 1.5}, TypeError, r"inputs=1.5 names no entry of a batch"),
        ({"inputs": None}, TypeError, r"inputs=None names no entry"),
        ({"targets": []}, TypeError, r"targets=\[\] names no entry"),
        ({"loss": nn.CrossEntropyLoss()}, TypeError, r"Give a submodule's name"),
        ({"calibration": "yes"}, TypeError, r"Give True, False or CalibrationMonitor"),
        ({"seed": 1.5}, TypeError, r"seed=1.5 is a float\. Give an integer"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_wrong_argument_is_refused_in_words(arguments, error, words):
    with pytest.raises(error, match=words):
        MixupCallback(**arguments)


def test_a_misspelled_loss_is_refused_with_the_closest_names(make_trainer):
    trainer = make_trainer(callbacks=[MixupCallback(loss="criterium")])

    with pytest.raises(ValueError, match=r"no submodule 'criterium'.*\['criterion'\]"):
        trainer.fit(WithCustomLoss(), make_loader())


class AnyBatch(Classifier):
    """Its step must not run."""

    def training_step(self, batch, batch_idx):
        raise AssertionError("a step was taken on a batch that can't be mixed")


X, Y = torch.randn(8, FEATURES), torch.arange(8) % CLASSES
IDS = torch.arange(24).reshape(8, 3)
EPISODE = (torch.randn(10, FEATURES), torch.arange(10) % CLASSES, X, Y)
Pair = namedtuple("Pair", ["image", "label"])


@pytest.mark.parametrize(
    ("batch", "error", "words"),
    [
        ((IDS, Y), TypeError, r"batch\[0\] has dtype torch.int64.*MixupCallback\(layers=\[...\]"),
        ({"input_ids": IDS, "attention_mask": IDS, "labels": Y}, TypeError, r"suggest_layers\("),
        (
            {"image": X, "input_ids": IDS, "label": Y},
            ValueError,
            r"entry 'input_ids'(.|\n)*layers",
        ),
        ({"x": torch.randn(20, 6), "y": Y}, ValueError, r"as graphs have nodes, .*suggest_layers"),
        (([X, X[:7], X[:6]], Y[:3]), ValueError, r"batch\[0\] has an entry for each sample"),
        (EPISODE, ValueError, r"inputs=2, targets=3\)(.|\n)*an episode's support and queries"),
        ({"a": (X, Y), "b": (X, Y)}, ValueError, r"inputs='b.0', targets='b.1'"),
        ((X, Y.tolist()), ValueError, r"To mix batch\[1\], make a tensor in the collate function"),
        ((X.to_sparse(), Y), TypeError, r"sparse_coo.*to_dense\(\)"),
        ((X, X.to_sparse()), TypeError, r"sparse_coo.*to_dense\(\)"),
        ((X.byte(), Y), TypeError, r"uint8.*on_after_batch_transfer"),
        ({"a": X, "b": Y}, ValueError, r"can't tell what to mix(.|\n)*'a': float32 \(8, 6\)"),
        ((X, Y[:4]), ValueError, r"the same batch size: batch\[0\] \(8, 6\), batch\[1\] \(4,\)"),
        (X, ValueError, r"has no target"),
        ([X], ValueError, r"has no target(.|\n)*targets=None"),
        ((X, Y, X), ValueError, r"an entry batch\[2\] beside the input"),
    ],
    ids=str,
)
def test_a_batch_that_cannot_be_mixed_is_refused_before_a_step(make_trainer, batch, error, words):
    trainer = make_trainer(callbacks=[MixupCallback()])

    with pytest.raises(error, match=words):
        trainer.fit(AnyBatch(), DataLoader([batch], batch_size=None))

    assert trainer.global_step == 0


# What the messages advise, followed to the letter.


def refusal(make_trainer, module, batch, mixup=None):
    """Returns the message with which a batch is refused."""
    with pytest.raises((TypeError, ValueError, RuntimeError)) as caught:
        make_trainer(callbacks=[mixup or MixupCallback()]).fit(
            module, DataLoader([batch], batch_size=None)
        )
    return str(caught.value)


@pytest.mark.parametrize(
    ("batch", "names"),
    [
        ({"a": X, "b": Y}, ("a", "b")),
        ((X, Y, X), (0, 1)),
        ({"image": X, "depth": X, "label": Y}, ("image", "label")),
    ],
    ids=["dict", "three", "extra"],
)
def test_the_advice_for_a_batch_that_leaves_it_open_works(make_trainer, batch, names):
    class ByName(Classifier):
        def training_step(self, batch, batch_idx):
            x, y = (batch[name] for name in names)
            return self.loss(self(x), y)

    message = refusal(make_trainer, ByName(), batch)

    advice = re.search(r"for example (MixupCallback\(.*\));", message).group(1)
    trainer = make_trainer(callbacks=[eval(advice)])
    trainer.fit(ByName(), DataLoader([batch], batch_size=None))
    assert trainer.global_step == 1


@pytest.mark.parametrize(
    "form",
    [
        lambda x, y: [x, y],
        lambda x, y: (x, y),
        Pair,
        Sample,
        lambda x, y: {"image": x, "label": y},
        lambda x, y: Record(image=x, label=y),
    ],
    ids=["list", "tuple", "namedtuple", "dataclass", "dict", "object"],
)
@pytest.mark.parametrize("change", ["float() / 255", "float()", "to_dense()"])
def test_the_advice_to_convert_works_for_any_form_of_batch(make_trainer, form, change):
    class Converting(Classifier):
        def training_step(self, batch, batch_idx):
            parts = batch if isinstance(batch, dict) else getattr(batch, "__dict__", None)
            x, y = parts.values() if parts else batch
            return self.loss(self(x), y)

    bad = {"float() / 255": (255 * X.sigmoid()).byte(), "float()": X.int(), "to_dense()": None}
    x = X.to_sparse() if change == "to_dense()" else bad[change]
    message = refusal(make_trainer, Converting(), form(x, Y))

    pattern = r"(on_after_batch_transfer\(.*?\)), for example `(.*?)`"
    signature, body = re.search(pattern, message).groups()
    assert change in body
    scope = {}
    exec(f"def {signature}:\n    " + body.replace("; ", "\n    "), scope)
    Converting.on_after_batch_transfer = scope["on_after_batch_transfer"]
    trainer = make_trainer(callbacks=[MixupCallback()])
    trainer.fit(Converting(), DataLoader([form(x, Y)], batch_size=None))
    assert trainer.global_step == 1


class Episodes(Classifier):
    """Classifies queries by the nearest mean of an episode's support."""

    def training_step(self, batch, batch_idx):
        support, classes, queries, y = batch
        means = torch.stack([self(support)[classes == c].mean(dim=0) for c in range(CLASSES)])
        return self.loss(-torch.cdist(self(queries), means), y)


def test_the_advice_for_episodes_mixes_their_queries(make_trainer):
    class Watching(Episodes):
        def training_step(self, batch, batch_idx):
            self.seen = batch
            return super().training_step(batch, batch_idx)

    message = refusal(make_trainer, Watching(), EPISODE)

    mixup = eval(re.search(r"for example (MixupCallback\(.*?\));", message).group(1))
    mixup.recipe, module, recorder = Mixup(1.0), Watching(), Recorder(mixup)
    make_trainer(callbacks=[mixup, recorder]).fit(module, DataLoader([EPISODE], batch_size=None))
    assert torch.equal(module.seen[0], EPISODE[0])
    assert type(module.seen[1]) is torch.Tensor
    torch.testing.assert_close(module.seen[2], recorder.mixes[0].blend(EPISODE[2]))
    assert isinstance(module.seen[3], MixedTarget)


def test_the_advice_for_several_loaders_at_once_works(make_trainer):
    class Several(Classifier):
        def training_step(self, batch, batch_idx):
            return sum(self.loss(self(x), y) for x, y in batch.values())

    def loaders():
        return {"a": make_loader(), "b": make_loader()}

    with pytest.raises(ValueError, match="has no target") as caught:
        make_trainer(callbacks=[MixupCallback()]).fit(Several(), CombinedLoader(loaders()))
    advice = re.search(r"for example (MixupCallback\(.*?\));", str(caught.value)).group(1)

    trainer = make_trainer(callbacks=[eval(advice)])
    trainer.fit(Several(), CombinedLoader(loaders()))
    assert trainer.global_step == 4


@pytest.mark.parametrize(
    "collate",
    [
        lambda samples: (torch.stack([x for x, _ in samples]), [int(y) for _, y in samples]),
        lambda samples: ([x for x, _ in samples], [y for _, y in samples]),
        list,
    ],
    ids=["numbers", "two lists", "pairs"],
)
def test_the_advice_to_collate_tensors_works(make_trainer, collate):
    samples = list(zip(X, Y, strict=True))
    message = refusal(make_trainer, AnyBatch(), collate(samples))

    tensor_of = {"as_tensor": torch.as_tensor, "stack": torch.stack}
    makers = re.findall(r"`torch\.(\w+)`", message)
    assert makers
    x = torch.stack([x for x, _ in samples])
    y = tensor_of[makers[0]]([y for _, y in samples])
    trainer = make_trainer(callbacks=[MixupCallback()])
    trainer.fit(Classifier(), DataLoader([(x, y)], batch_size=None))
    assert trainer.global_step == 1


def test_the_advice_for_a_module_without_labels_works(make_trainer):
    class Autoencoder(Classifier):
        def training_step(self, batch, batch_idx):
            (x,) = batch
            return self(x).pow(2).mean()

    message = refusal(make_trainer, Autoencoder(), [X])

    assert "targets=None is for modules that use no labels" in message
    trainer = make_trainer(callbacks=[MixupCallback(targets=None)])
    trainer.fit(Autoencoder(), DataLoader([[X]], batch_size=None))
    assert trainer.global_step == 1


def test_the_advice_for_a_loss_that_reads_labels_as_numbers_works(make_trainer):
    class Reading(nn.Module):
        def forward(self, logits, y):
            return -sum(logits[i].log_softmax(0)[label] for i, label in enumerate(y.tolist()))

    class WithReading(Classifier):
        def __init__(self):
            super().__init__()
            self.criterion = Reading()

        def loss(self, logits, y):
            return self.criterion(logits, y)

    message = refusal(make_trainer, WithReading(), (X, Y), MixupCallback(1.0))

    advice = re.search(r"MixupCallback\(loss='criterion'\)", message).group(0)
    trainer = make_trainer(callbacks=[eval(advice)])
    trainer.fit(WithReading(), DataLoader([(X, Y)], batch_size=None))
    assert trainer.global_step == 1


@pytest.mark.parametrize("settings", [{"alpha": 0}, {"prob": 0}], ids=str)
def test_what_cannot_be_mixed_is_no_matter_where_nothing_is(make_trainer, settings):
    class Bytes(Classifier):
        def training_step(self, batch, batch_idx):
            x, y = batch
            return self.loss(self(x.float()), y)

    trainer = make_trainer(callbacks=[MixupCallback(**settings)])

    trainer.fit(Bytes(), DataLoader([(X.byte(), Y)], batch_size=None))

    assert trainer.state.finished


@pytest.mark.parametrize("setting", ["prob", "strength"])
def test_what_cannot_be_mixed_is_no_matter_once_nothing_is(make_trainer, setting):
    class Bytes(Classifier):
        def training_step(self, batch, batch_idx):
            x, y = batch
            return self.loss(self(x.float()), y)

    class Off(Callback):
        def on_train_batch_end(self, *_):
            setattr(mixup, setting, 0.0)

    mixup = MixupCallback(1.0)
    trainer = make_trainer(callbacks=[mixup, Off()])

    trainer.fit(Bytes(), DataLoader([(X, Y), (X.byte(), Y)], batch_size=None))

    assert trainer.global_step == 2


def test_a_target_that_no_loss_ever_used_is_refused(make_trainer):
    class Forgetful(Classifier):
        def training_step(self, batch, batch_idx):
            x, y = batch
            self.log("share", (y == 0).float().mean())
            return self(x).square().mean()

    module = Forgetful()
    before = parameters_of(module)
    trainer = make_trainer(callbacks=[MixupCallback()])

    with pytest.raises(RuntimeError, match=r"the target batch\[1\], but no loss in Forgetful"):
        trainer.fit(module, make_loader())

    assert torch.equal(parameters_of(module), before)


# What is shown.


@pytest.mark.parametrize(
    "call",
    [
        "MixupCallback(0.2)",
        "MixupCallback(1.0, prob=0.5, targets='label', seed=3)",
        "MixupCallback(recipe=Mixup(alpha=1.0, per_sample=True), calibration=False)",
        "MixupCallback(0.0, calibration=CalibrationMonitor(prefix='clean_'))",
    ],
)
def test_the_repr_is_the_call_that_made_it(call):
    assert repr(eval(call)) == call


def test_what_is_mixed_is_said_once(make_trainer, caplog):
    caplog.set_level(logging.INFO)

    make_trainer(callbacks=[MixupCallback(calibration=False)], max_epochs=2).fit(
        Classifier(), make_loader()
    )

    said = [message for message in caplog.messages if message.startswith("MixupCallback")]
    assert said == [
        "MixupCallback: mixing batch[0] and batch[1] at the input, Beta(0.2, 0.2), partners "
        "within the batch"
    ]


def test_inputs_that_are_only_compared_are_not_said_to_be_mixed(make_trainer, caplog):
    caplog.set_level(logging.INFO)
    recipe = Mixup(0.2, partners=NearestNeighbors(k=2))
    mixup = MixupCallback(recipe=recipe, layers="net.0", calibration=False)

    make_trainer(callbacks=[mixup]).fit(Classifier(), make_loader())

    assert (
        "MixupCallback: mixing batch[1] at 'net.0', Beta(0.2, 0.2), partners by "
        "NearestNeighbors(k=2)" in caplog.messages
    )


def test_who_compares_tokens_by_distance_is_told_to_choose_other_partners(make_trainer):
    recipe = Mixup(0.2, partners=NearestNeighbors(k=2))
    mixup = MixupCallback(recipe=recipe, layers="net.0", calibration=False)
    loader = DataLoader(TensorDataset(torch.randint(9, (8, 5)), torch.arange(8)), batch_size=8)

    with pytest.raises(TypeError, match=r"k=2\)\) compares the inputs, .* Choose other partners"):
        make_trainer(callbacks=[mixup]).fit(Classifier(), loader)


class SoftLabels(Classifier):
    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y)


def test_targets_that_are_mixed_already_get_one_warning(make_trainer):
    """As those of a collate function that mixes, too."""
    x, y = torch.randn(32, FEATURES), F.one_hot(torch.arange(32) % CLASSES).float()
    loader = DataLoader(TensorDataset(x, 0.8 * y + 0.2 * y.roll(1, 0)), batch_size=8)

    with pytest.warns(UserWarning, match=r"batch\[1\] .* looks mixed or smoothed") as warned:
        make_trainer(callbacks=[MixupCallback()], max_epochs=2).fit(SoftLabels(), loader)

    assert len([w for w in warned if "looks mixed" in str(w.message)]) == 1


class Masked(Classifier):
    def training_step(self, batch, batch_idx):
        x, y = batch
        known = y >= 0
        return F.binary_cross_entropy_with_logits(self(x)[known], y[known])


def test_labels_that_may_be_unknown_get_one_warning(make_trainer):
    labels = torch.arange(32 * CLASSES).reshape(32, CLASSES) % 3 - 1.0
    loader = DataLoader(TensorDataset(torch.randn(32, FEATURES), labels), batch_size=8)
    mixup = MixupCallback(calibration=False)

    with pytest.warns(
        UserWarning, match=r"batch\[1\] holds -1, 0 and 1 alone.*y\[known\]"
    ) as warned:
        make_trainer(callbacks=[mixup], max_epochs=2).fit(Masked(), loader)

    assert len([w for w in warned if "holds -1" in str(w.message)]) == 1


class Weighted(Classifier):
    def training_step(self, batch, batch_idx):
        losses = F.cross_entropy(self(batch["image"]), batch["label"], reduction="none")
        self.losses.append((losses * batch["weight"]).mean().detach())
        return (losses * batch["weight"]).mean()


@pytest.mark.parametrize("per_sample", [False, True], ids=["per_batch", "per_sample"])
def test_a_weight_of_each_samples_loss_is_mixed_with_its_label(make_trainer, per_sample):
    """λ·w_a·loss(y_a) + (1 − λ)·w_b·loss(y_b), and not a mean weight for both."""
    module = Weighted()
    module.losses = []
    net = copy.deepcopy(module.net)
    batch = {
        "image": torch.randn(16, FEATURES),
        "label": torch.arange(16) % CLASSES,
        "weight": torch.rand(16),
    }
    mixup = MixupCallback(recipe=Mixup(1.0, per_sample=per_sample))
    peek = Recorder(mixup)

    make_trainer(callbacks=[mixup, peek]).fit(module, DataLoader([batch], batch_size=None))

    mix = peek.mixes[0]
    own, partner = batch, {name: value[mix.partner] for name, value in batch.items()}
    logits = net(mix.blend(batch["image"]))
    each = [
        b["weight"] * F.cross_entropy(logits, b["label"], reduction="none") for b in (own, partner)
    ]
    expected = (mix.weight * each[0] + (1 - mix.weight) * each[1]).mean()
    torch.testing.assert_close(module.losses[0].double(), expected.detach().double())


def test_that_nothing_is_mixed_is_said(make_trainer, caplog):
    caplog.set_level(logging.INFO)

    make_trainer(callbacks=[MixupCallback(0)]).fit(Classifier(), make_loader(), make_loader())

    assert "MixupCallback(0.0) mixes nothing." in caplog.messages


def test_calibration_false_logs_nothing(make_trainer):
    trainer = make_trainer(callbacks=[MixupCallback(calibration=False)])

    trainer.fit(Classifier(), make_loader(), make_loader())

    assert "val_ece" not in trainer.callback_metrics


def test_alpha_zero_still_reports(make_trainer):
    trainer = make_trainer(callbacks=[MixupCallback(alpha=0)])

    trainer.fit(Classifier(), make_loader(), make_loader())

    assert trainer.callback_metrics["val_ece"] > 0


def test_a_monitor_given_to_both_is_run_once(make_trainer, caplog):
    caplog.set_level(logging.INFO)
    monitor = CalibrationMonitor()
    trainer = make_trainer(callbacks=[MixupCallback(calibration=monitor), monitor])

    trainer.fit(Classifier(), make_loader(), make_loader())

    assert trainer.callback_metrics["val_ece"] > 0
    assert not [message for message in caplog.messages if "no val_ece" in message]


def test_a_monitor_of_the_trainers_own_is_the_only_one(make_trainer):
    own = CalibrationMonitor(prefix="own_")
    trainer = make_trainer(callbacks=[MixupCallback(), own])

    trainer.fit(Classifier(), make_loader(), make_loader())

    assert "own_val_ece" in trainer.callback_metrics
    assert "val_ece" not in trainer.callback_metrics


class WritesByLabel(Classifier):
    """Makes one-hot labels in place, which turns plain tensors into mixed ones."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        one_hot = torch.zeros(len(y), CLASSES).scatter_(1, y[:, None], 1.0)
        self.made = [weakref.ref(tensor) for tensor in (x, y, one_hot)]
        return -(one_hot * self(x).log_softmax(1)).sum(1).mean()


def test_nothing_of_a_batch_outlives_its_step(make_trainer):
    class Checks(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            gc.collect()
            self.alive = [made() is not None for made in pl_module.made]

    checks = Checks()

    make_trainer(callbacks=[MixupCallback(1.0), checks]).fit(WritesByLabel(), make_loader())

    assert checks.alive == [False, False, False]
