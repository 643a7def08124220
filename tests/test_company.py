"""Tests for MixupCallback among other callbacks and settings: what comes of it, and what they see.

Each run with the callback is held against one of a twin that mixes by hand. Both are in double
precision, so that only the order of sums is between them.
"""

import copy
import io
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
from lightning import Callback
from lightning.pytorch import callbacks as lightnings
from lightning.pytorch.tuner import Tuner
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.testing import assert_close
from twins import HIDDEN, ByHand, ByHandInside, Plain, blended, mixup, state_of
from zoo import make_loader

from lightning_mixup import MixedTarget

pytestmark = [
    pytest.mark.filterwarnings("ignore:The PyTorch Profiler default schedule will be overridden"),
    pytest.mark.filterwarnings(
        "ignore:You are trying to `self.log\\(\\)` but `Trainer\\(barebones"
    ),
]

TWINS = {"input": ByHand, HIDDEN: ByHandInside}
each_place = pytest.mark.parametrize("place", TWINS)


def swa():
    return lightnings.StochasticWeightAveraging(0.05, swa_epoch_start=1)


def ema():
    if not hasattr(lightnings, "EMAWeightAveraging"):
        pytest.skip("newer than this Lightning")
    return lightnings.EMAWeightAveraging(decay=0.8)


class Thaws(lightnings.BaseFinetuning):
    """Freezes the first layer for an epoch."""

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.net[0])

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.net[0], optimizer)


COMPANY = {
    "nobody": {},
    "accumulation": {"accumulate_grad_batches": 3},
    "accumulation-scheduler": {
        "callbacks": lambda: [lightnings.GradientAccumulationScheduler({0: 1, 1: 2, 2: 4})]
    },
    "clipped-norm": {"gradient_clip_val": 0.05},
    "clipped-values": {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    "swa": {"callbacks": lambda: [swa()]},
    "ema": {"callbacks": lambda: [ema()]},
    "early-stopping": {
        "callbacks": lambda: [
            lightnings.EarlyStopping(
                "train_loss", stopping_threshold=1.43, check_on_train_epoch_end=True
            )
        ],
    },
    "lr-finder": {
        "callbacks": lambda: [lightnings.LearningRateFinder(num_training_steps=8)],
        "enable_checkpointing": True,
    },
    "batch-size-finder": {
        "callbacks": lambda: [
            lightnings.BatchSizeFinder(steps_per_trial=2, max_trials=2, init_val=4)
        ],
        "enable_checkpointing": True,
    },
    "finetuning": {
        "callbacks": lambda: [Thaws()],
    },
    "pruning": {
        "callbacks": lambda: [lightnings.ModelPruning("l1_unstructured", amount=0.2)],
        "precision": "32-true",  # its masks don't follow
    },
    "checkpoints": {
        "callbacks": lambda: [lightnings.ModelCheckpoint(every_n_train_steps=1)],
        "enable_checkpointing": True,
    },
    "throughput": {
        "callbacks": lambda: [lightnings.ThroughputMonitor(lambda batch: len(batch[0]))],
    },
    "reloading": {"reload_dataloaders_every_n_epochs": 1},
    "overfit-batches": {"overfit_batches": 2},
    "fast-dev-run": {"fast_dev_run": 3},
    "max-steps": {"max_steps": 6},
    "max-time": {"max_time": timedelta(minutes=1)},
    "limited": {"limit_train_batches": 3, "limit_val_batches": 0},
    "validated-often": {"val_check_interval": 2},
    "simple-profiler": {"profiler": "simple"},
    "advanced-profiler": {"profiler": "advanced"},
    "pytorch-profiler": {"profiler": "pytorch"},
    "anomaly-detection": {"detect_anomaly": True},
    "barebones": {"barebones": True, "log_every_n_steps": None},
    "summary": {
        "callbacks": lambda: [lightnings.ModelSummary(max_depth=-1)],
        "enable_model_summary": True,
    },
    "progress-bar": {"enable_progress_bar": True},
}

# How often the step runs: 12 times, unless somebody takes part in that. Finders run it more often,
# as Lightning's versions differ in.
FINDERS = {"lr-finder", "batch-size-finder"}
STEPS = {
    "swa": 12 + 4,  # for BatchNorm
    "early-stopping": 8,
    "reloading": 4 + 3 + 2,
    "overfit-batches": 6,
    "fast-dev-run": 3,
    "max-steps": 6,
    "limited": 9,
}


def fit(make_trainer, module, *callbacks, is_first=True, **settings):
    others = settings.pop("callbacks", list)()
    together = [*callbacks, *others] if is_first else [*others, *callbacks]
    trainer = make_trainer(
        callbacks=together, **{"max_epochs": 3, "precision": "64-true", **settings}
    )
    trainer.fit(module)
    return module


@pytest.mark.parametrize(("place", "is_first"), [("input", True), (HIDDEN, False)])
@pytest.mark.parametrize("company", COMPANY)
def test_a_run_in_company_is_the_run_that_is_mixed_by_hand(
    make_trainer, tmp_path, company, place, is_first
):
    settings = COMPANY[company]
    tolerance = 1e-6 if "precision" in settings else 1e-12

    mixed = fit(make_trainer, Plain(), mixup(layers=place), is_first=is_first, **settings)
    by_hand = fit(make_trainer, TWINS[place](), default_root_dir=tmp_path / "twin", **settings)

    steps = len(mixed.losses)
    assert steps > 12 if company in FINDERS else steps == STEPS.get(company, 12)
    assert_close(mixed.losses, by_hand.losses, rtol=0, atol=tolerance)
    assert_close(state_of(mixed), state_of(by_hand), rtol=0, atol=tolerance)


# Others who mix, or stand in for the step.


@pytest.mark.parametrize("others", [[HIDDEN], ["net.0", HIDDEN]], ids=len)
def test_several_that_mix_are_refused_with_what_to_write_instead(make_trainer, others):
    module = Plain()
    before = state_of(module)
    several = [mixup(), *(mixup(layers=place) for place in others)]
    trainer = make_trainer(callbacks=several)

    with pytest.raises(ValueError, match=rf"has {len(several)} callbacks that mix.*Keep one") as e:
        trainer.fit(module)

    assert repr(several[-1]) in str(e.value)
    assert_close(state_of(module), before, rtol=0, atol=0)
    assert "training_step" not in vars(module)
    assert f"write layers={['input', *others]}" in str(e.value)
    fit(make_trainer, module, mixup(layers=["input", *others]))


def test_the_same_one_twice_is_refused_too(make_trainer):
    twice = [mixup()] * 2

    with pytest.raises(ValueError, match=r"has 2 callbacks that mix, .*\. Keep one\.$"):
        make_trainer(callbacks=twice).fit(Plain())


class StandsIn(Callback):
    """Counts the calls of a step in its place, from a hook on, and puts back what it found.

    Args:
        hook: When it begins.
    """

    def __init__(self, hook):
        setattr(self, hook, self.begin)
        self.calls = 0

    def begin(self, trainer, pl_module, stage=None):
        step = self.found = pl_module.training_step

        def stand_in(batch, batch_idx):
            self.calls += 1
            return step(batch, batch_idx)

        pl_module.training_step = stand_in

    def teardown(self, trainer, pl_module, stage):
        pl_module.training_step = self.found


@pytest.mark.parametrize("is_first", [True, False], ids=["ours first", "theirs first"])
@pytest.mark.parametrize("hook", ["setup", "on_fit_start", "on_train_start"])
def test_a_callback_that_replaces_the_step_too_is_called_and_mixed_once(
    make_trainer, hook, is_first
):
    other = StandsIn(hook)
    both = {"callbacks": lambda: [other], "is_first": is_first}
    mixed = fit(make_trainer, Plain(), mixup(), **both)
    by_hand = fit(make_trainer, ByHand())

    assert other.calls == 12
    assert_close(state_of(mixed), state_of(by_hand), rtol=0, atol=1e-12)
    # What was put back may be ours, and does nothing any more but call the step.
    mixed.load_state_dict(state_of(Plain()))
    fit(make_trainer, mixed)
    assert_close(state_of(mixed), state_of(fit(make_trainer, Plain())), rtol=0, atol=0)


def saved_and_loaded(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


class IsCopied(Plain):
    """Copies itself in its fourth step, by what it is given."""

    copying = None

    def training_step(self, batch, batch_idx):
        if self.copying and len(self.losses) == 3:
            copying, self.copying = self.copying, None
            self.copied = [copying(self)]  # in a list, lest it be a module of this one
        return super().training_step(batch, batch_idx)


@each_place
@pytest.mark.parametrize("copying", [saved_and_loaded, copy.deepcopy])
def test_a_copy_in_the_middle_of_a_fit_trains_by_itself_as_if_nobody_had_mixed(
    make_trainer, copying, place
):
    module = IsCopied()
    module.copying = copying
    plain = Plain().double()

    fit(make_trainer, module, mixup(layers=place))
    by_hand = fit(make_trainer, TWINS[place]())
    [copied] = module.copied
    plain.load_state_dict(copied.state_dict())
    fit(make_trainer, copied)
    fit(make_trainer, plain)

    assert_close(state_of(module), state_of(by_hand), rtol=0, atol=1e-12)
    assert_close(state_of(copied), state_of(plain), rtol=0, atol=1e-12)
    assert_close(copied.losses[3:], plain.losses, rtol=0, atol=1e-12)


def test_a_batch_that_the_module_skips_leaves_no_mix_behind(make_trainer):
    """Lightning ends the epoch there, without a word to callbacks about the batch."""

    class Skips(Plain):
        def on_train_batch_start(self, batch, batch_idx):
            return -1 if batch_idx == 2 else None

    class Looks(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            self.mix = callback.mix

    callback, looks = mixup(), Looks()

    fit(make_trainer, Skips(), callback, callbacks=lambda: [looks])

    assert looks.mix is None


def test_fits_in_two_threads_do_not_meet(make_trainer, tmp_path):
    """In single precision: for double, Lightning changes the default type of all threads."""
    together, alone = ([(Plain(), place) for place in TWINS] for _ in range(2))

    def run(case):
        module, place = case
        settings = {"precision": "32-true", "default_root_dir": tmp_path / place}
        fit(make_trainer, module, mixup(layers=place, calibration=True), **settings)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(run, together))
    list(map(run, alone))

    assert [module.losses for module, _ in together] == [module.losses for module, _ in alone]


# Tuners, and what averages the weights.


def tune(trainer, module):
    """Tunes by Lightning's functions, and returns the losses that the rate was chosen by."""
    tuner = Tuner(trainer)
    tuner.scale_batch_size(module, steps_per_trial=2, max_trials=2, init_val=4)
    return tuner.lr_find(module, num_training=8).results["loss"]


@each_place
def test_tuners_run_mixed_and_the_fit_after_them_draws_from_the_start(
    make_trainer, tmp_path, place
):
    module, twin = Plain(), TWINS[place]()
    double = {"precision": "64-true", "max_epochs": 3}
    trainer = make_trainer(callbacks=[mixup(layers=place)], **double)
    other = make_trainer(default_root_dir=tmp_path / "twin", **double)

    found, by_hand = tune(trainer, module), tune(other, twin)
    trainer.fit(module)
    other.fit(twin)

    assert_close(found, by_hand, rtol=0, atol=1e-12)
    assert (module.lr, module.batch_size) == (twin.lr, twin.batch_size)
    assert_close(state_of(module), state_of(twin), rtol=0, atol=1e-12)


class Sees(Plain):
    """Keeps what its BatchNorm sees, and whether Lightning only updates its statistics."""

    def __init__(self, *, norm=True):
        super().__init__()
        if not norm:
            self.net[1] = nn.Identity()
        self.seen = []

    def training_step(self, batch, batch_idx):
        if self.trainer.fit_loop._skip_backward:
            self.seen.append((type(batch[1]), batch[0].clone()))
        return super().training_step(batch, batch_idx)


def test_the_batchnorm_pass_of_swa_sees_mixed_batches_with_draws_of_their_own(make_trainer):
    module, draws = Sees(), ByHand().draws

    fit(make_trainer, module, mixup(), callbacks=lambda: [swa()])

    expected = [
        blended(x.double(), draws(12 + i, len(x))) for i, (x, _) in enumerate(make_loader())
    ]
    assert [kind for kind, _ in module.seen] == [MixedTarget] * 4
    assert_close([x for _, x in module.seen], expected, rtol=0, atol=1e-12)


def test_statistics_of_clean_batches_are_had_by_a_pass_after_the_fit(make_trainer):
    module = fit(make_trainer, Sees(), mixup(), callbacks=lambda: [swa()]).float()
    mixed = module.net[1].running_var.clone()
    x = torch.cat([x for x, _ in make_loader()])

    update_bn(make_loader(), module.net)

    assert_close(module.net[1].running_mean, module.net[0](x).mean(0))
    assert (module.net[1].running_var > mixed).all()


AVERAGES = {  # whether the last figures are those of the weights that stay in the module
    "swa": (swa, True, True),
    "swa-without-batchnorm": (swa, False, False),
    "ema": (ema, True, True),
}


@pytest.mark.parametrize(("average", "norm", "same"), AVERAGES.values(), ids=AVERAGES)
def test_which_weights_the_last_figures_belong_to(make_trainer, average, norm, same):
    module, callback = Sees(norm=norm), mixup(calibration=True)

    fit(make_trainer, module, callback, callbacks=lambda: [average()])
    logged = module.trainer.callback_metrics["val_nll"].clone()
    [figures] = module.trainer.validate(module, verbose=False)

    assert (abs(figures["val_nll"] - float(logged)) < 1e-6) == same
