"""Tests for lightning_mixup on a GPU: ``pytest -m gpu``; elsewhere they are skipped.

The rest of the suite holds on the CPU. What could differ here is what a device is asked for and
when, so: a GPU comes to the CPU's numbers, everything stays on it, and nothing waits for it.
"""

import copy

import pytest
import torch
from lightning import Callback
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from zoo import Classifier, make_loader, parameters_of

from lightning_mixup import Mixup, MixupCallback

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
GPU = {"accelerator": "gpu", "devices": 1}
RECIPES = [Mixup(1.0), Mixup(1.0, per_sample=True)]
each_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=["per-batch", "per-sample"])
each_place = pytest.mark.parametrize("layers", ["input", "net.0", ["input", "net.0", "net.1"]])


class Bare(Classifier):
    """Without a metric of its own, of which we do not promise that nothing waits for it."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.loss(self(x), y)


class Smoothed(Bare):
    def loss(self, logits, y):
        weight = torch.ones(logits.shape[1], device=logits.device)
        return F.cross_entropy(logits, y, weight=weight, ignore_index=3, label_smoothing=0.1)


class Focal(Bare):
    """A loss that is worked out operation by operation."""

    def loss(self, logits, y):
        picked = logits.log_softmax(1).gather(1, y[:, None])[:, 0]
        return -((1 - picked.exp()) ** 2 * picked).mean()


class OneHot(Bare):
    def loss(self, logits, y):
        return F.mse_loss(logits, F.one_hot(y, logits.shape[1]).float())


class Record(Callback):
    """Keeps the losses, which stay on the device until the fit is over."""

    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"])


class NothingWaits(Callback):
    """Has the GPU refuse to be waited for, from before the mixup is told of a batch."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx:  # in the first, the batch is made out, and told of
            torch.cuda.set_sync_debug_mode("error")


class WaitsAgain(Callback):
    """Ends that, after the mixup is told that the batch is over."""

    def __init__(self):
        self.modes = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.modes.append(torch.cuda.get_sync_debug_mode())
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def synced():
    """Lets the device be waited for again, also after a failure."""
    yield
    torch.cuda.set_sync_debug_mode("default")


def loader(device="cuda", size=64):
    """Batches that are on the device already: a copy from pageable memory waits by itself."""
    x, y = make_loader(size).dataset.tensors
    pairs = zip(x.split(16), y.split(16), strict=True)
    batches = [(part.to(device), labels.to(device)) for part, labels in pairs]
    return torch.utils.data.DataLoader(batches, batch_size=None)


@pytest.mark.parametrize("mixup", [False, True], ids=["plain", "mixed"])
@pytest.mark.parametrize("module", [Bare, Smoothed, Focal])
@each_place
@each_recipe
def test_nothing_in_a_step_waits_for_the_device(
    make_trainer, synced, recipe, layers, module, mixup
):
    """Plain: that Lightning and torch do not, so that a failure of the others is ours."""
    around = WaitsAgain()
    between = [MixupCallback(recipe=recipe, layers=layers)] if mixup else []

    make_trainer(callbacks=[NothingWaits(), *between, around], **GPU).fit(module(), loader())

    assert around.modes == [0, 2, 2, 2]


def test_the_test_above_would_notice(make_trainer, synced):
    class Waits(Bare):
        def loss(self, logits, y):
            loss = super().loss(logits, y)
            assert loss.item() > 0
            return loss

    trainer = make_trainer(callbacks=[NothingWaits(), MixupCallback(), WaitsAgain()], **GPU)

    with pytest.raises(RuntimeError, match="synchroniz"):
        trainer.fit(Waits(), loader())


@pytest.mark.parametrize("module", [Classifier, Smoothed, Focal, OneHot])
@each_place
@each_recipe
def test_a_gpu_comes_to_the_losses_weights_and_figures_of_the_cpu(
    make_trainer, recipe, layers, module
):
    """In double precision, as matrix products round differently."""
    on_gpu, reports = module(), module is Classifier
    on_cpu = copy.deepcopy(on_gpu)
    results = []
    for trained, device in ((on_cpu, {}), (on_gpu, GPU)):
        record = Record()
        mixup = MixupCallback(recipe=recipe, layers=layers, seed=1, calibration=reports)
        trainer = make_trainer(callbacks=[mixup, record], precision="64-true", **device)
        trainer.fit(trained, make_loader(), make_loader(48))
        logged = {key: float(value) for key, value in trainer.callback_metrics.items()}
        results.append((torch.stack(record.losses).cpu(), parameters_of(trained).cpu(), logged))

    (losses, weights, logged), (gpu_losses, gpu_weights, gpu_logged) = results
    assert ("val_ece" in logged) == reports
    assert_close(gpu_losses, losses, rtol=0, atol=1e-9)
    assert_close(gpu_weights, weights, rtol=0, atol=1e-9)
    assert gpu_logged == pytest.approx(logged, abs=1e-6)


@each_recipe
def test_all_stays_on_the_device(make_trainer, recipe):
    seen = []

    class Module(Bare):
        def loss(self, logits, y):
            seen.extend([logits, y, *y.candidates, y.weights, mixup.mix.weight, mixup.mix.partner])
            return super().loss(logits, y)

    mixup = MixupCallback(recipe=recipe, layers=["input", "net.0"])

    make_trainer(callbacks=[mixup], **GPU).fit(Module(), make_loader())

    assert {tensor.device.type for tensor in seen} == {"cuda"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@each_recipe
def test_an_input_is_blended_as_on_the_cpu_in_its_dtype_and_layout(recipe, dtype):
    x = torch.randn(8, 3, 4, 4, dtype=dtype).to(memory_format=torch.channels_last)
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]

    mixed, _ = recipe(x.cuda(), torch.arange(8).cuda(), generators[0])

    expected, _ = recipe(x, torch.arange(8), generators[1])
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    assert_close(mixed.cpu(), expected)


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
@each_place
@each_recipe
def test_mixed_precision_comes_near_to_full_precision(make_trainer, recipe, layers, precision):
    losses = []
    for each in ("32-true", precision):
        torch.manual_seed(0)
        record, mixup = Record(), MixupCallback(recipe=recipe, layers=layers, seed=1)
        make_trainer(callbacks=[mixup, record], precision=each, **GPU).fit(Bare(), make_loader())
        losses.append(torch.stack(record.losses).float())

    assert_close(losses[1], losses[0], rtol=0, atol=0.05)


@each_recipe
def test_a_resumed_run_ends_as_one_that_was_never_stopped(make_trainer, tmp_path, recipe):
    def train(epochs, resumed=None):
        torch.manual_seed(0)
        module, mixup = Bare(), MixupCallback(recipe=recipe, layers=["input", "net.0"], seed=1)
        trainer = make_trainer(callbacks=[mixup], max_epochs=epochs, **GPU)
        trainer.fit(module, make_loader(), ckpt_path=resumed)
        trainer.save_checkpoint(checkpoint)
        return parameters_of(module)

    checkpoint = tmp_path / "last.ckpt"
    whole = train(2)
    train(1)

    resumed = train(2, checkpoint)

    assert torch.equal(resumed, whole)


@pytest.mark.filterwarnings("default")  # what inductor has to say of this machine
@each_recipe
def test_a_compiled_network_comes_to_the_same_losses(make_trainer, recipe):
    losses = []
    for compiled in (False, True):
        torch.manual_seed(0)
        module, record = Bare(), Record()
        layers = ["input", "net.0", "net.1"]
        if compiled:
            module.net = nn.Sequential(*module.net)
            module.net.compile()
        mixup = MixupCallback(recipe=recipe, layers=layers, seed=1)
        make_trainer(callbacks=[mixup, record], **GPU).fit(module, make_loader())
        losses.append(torch.stack(record.losses))

    assert_close(losses[1], losses[0], rtol=0, atol=1e-4)
