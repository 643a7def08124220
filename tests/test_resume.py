"""Tests for lightning_mixup.checkpoints and resumed runs: they end as if nothing had happened.

To the last bit, with an order of the data that resumes by itself. `resumable_run.py` runs what is
killed, all in one process that forks; what fails by an exception runs here.
"""

import inspect
import json
import os
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import lightning
import numpy as np
import pytest
import resumable_run
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, OnExceptionCheckpoint
from packaging.version import Version
from resumable_run import SeededSteps, WithPositions, make_data, make_mixup, make_trainer, state_of
from torch import nn
from torch.utils.data import DataLoader

import lightning_mixup
from lightning_mixup import CalibrationMonitor, Mixup, MixupCallback, OffAtEnd, WarmUp

pytestmark = [
    # Lightning takes any loader without a state of its own for one that can't resume.
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
    # It misses the callbacks that saved, and what OnExceptionCheckpoint has not saved yet.
    pytest.mark.filterwarnings("ignore:.* callbacks used to create the checkpoint need to be"),
    pytest.mark.filterwarnings("ignore:`.fit.ckpt_path=None.` was called without a model"),
    pytest.mark.filterwarnings("ignore:.fit.ckpt_path=.last.. is set, but there is no last"),
]
QUIET = {"enable_checkpointing": False}


def same(first, second):
    """Returns whether two nested states are equal to the last bit."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


# Killed.


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Where the states of all runs are, and how each life of theirs has ended."""
    folder = tmp_path_factory.mktemp("killed")
    script = subprocess.run(
        [sys.executable, resumable_run.__file__, str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60 * (1 + len(resumable_run.CASES) // 7),
        check=False,
    )
    assert script.returncode == 0, script.stderr
    return folder, json.loads((folder / "lives.json").read_text("utf-8"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="killed runs are forked")
@pytest.mark.parametrize("name", resumable_run.CASES)
def test_a_killed_run_ends_as_one_that_nothing_interrupts(killed, name):
    folder, lives = killed
    case = resumable_run.CASES[name]
    if case["order"] == "states":
        pytest.importorskip("torchdata")
    whole = resumable_run.name_of_whole(case)

    ends = [  # of each process
        [torch.load(folder / f"{run}-{rank}.pt") for rank in range(case["world"])]
        for run in (name, whole)
    ]

    assert same(*ends)
    assert lives[name] == [-9] * len(case["kills"]) + [0]
    assert lives[whole] == [0]


# Failed, or stopped.


def at_end(value):
    """Marks what is saved with the last batch of an epoch."""
    late = Version(lightning.__version__) >= Version("2.5")
    reason = "Lightning takes one batch more then"
    return pytest.param(value, marks=pytest.mark.skipif(not late, reason=reason))


@pytest.mark.parametrize("kind", [resumable_run.ResumingSampler, resumable_run.SeededSteps])
def test_the_docs_show_what_is_tested_here(kind):
    page = Path(__file__).parents[1] / "docs" / "resuming.md"

    assert inspect.getsource(kind) in page.read_text("utf-8")


class Fail(Callback):
    """Raises once, at a step and a hook."""

    def __init__(self, step, hook):
        self.step = step
        setattr(self, hook, self.fail)

    def fail(self, trainer, *args):
        if trainer.fit_loop.epoch_loop.batch_progress.total.processed == self.step:
            raise ArithmeticError


def train(folder, *callbacks, seed=1, checkpoint=None, module=WithPositions, **options):
    """Runs or resumes a fit and returns its Trainer."""
    torch.manual_seed(seed)
    trainer = make_trainer(folder, [make_mixup(), SeededSteps(), *callbacks], **options)
    # A step that fails has moved the statistics of a BatchNorm already.
    trainer.fit(module(norm=nn.LayerNorm), ckpt_path=checkpoint)
    return trainer


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Returns the end of a run that nothing interrupts; every checkpoint of it is kept."""
    folder = tmp_path_factory.mktemp("whole")
    saving = {"filename": "{step}", "auto_insert_metric_name": False, "save_top_k": -1}
    callbacks = [ModelCheckpoint(folder, every_n_train_steps=1, **saving)]
    return folder, state_of(train(folder, *callbacks))


@pytest.mark.parametrize("step", [1, 6, at_end(7), 8, at_end(14), 20])
def test_from_each_checkpoint_a_run_ends_alike(whole, tmp_path, step):
    folder, expected = whole

    trainer = train(tmp_path, seed=2, checkpoint=folder / f"{step}.ckpt", **QUIET)

    assert same(state_of(trainer), expected)


FAILURES = [
    [(3, "on_train_batch_start")],
    [(5, "on_before_backward")],
    [(7, "on_after_backward")],
    [(13, "on_before_optimizer_step")],
    at_end([(14, "on_train_batch_end")]),
    [(6, "on_before_backward"), (6, "on_after_backward"), (16, "on_before_optimizer_step")],
]


@pytest.mark.parametrize("failures", FAILURES, ids=str)
def test_after_exceptions_a_run_ends_alike(whole, tmp_path, failures):
    """The step that failed is taken again, with the same mix."""
    _, expected = whole

    for number, failure in enumerate(failures):
        with pytest.raises(ArithmeticError):
            train(tmp_path, Fail(*failure), OnExceptionCheckpoint(tmp_path), seed=1 + number)
    trainer = train(tmp_path, checkpoint=tmp_path / "on_exception.ckpt", seed=9, **QUIET)

    assert same(state_of(trainer), expected)


class Evaluated(WithPositions):
    """Has a loader for each stage."""

    def val_dataloader(self):
        return DataLoader(make_data(1), batch_size=8)

    test_dataloader = predict_dataloader = val_dataloader

    def validation_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx)

    test_step = predict_step = validation_step


def test_from_a_validation_inside_an_epoch_a_run_ends_alike(whole, tmp_path):
    _, expected = whole
    options = {"val_check_interval": 3, "num_sanity_val_steps": 0, "module": Evaluated}
    train(tmp_path, ModelCheckpoint(tmp_path, filename="last"), max_steps=11, **options)

    trainer = train(tmp_path, seed=2, checkpoint=tmp_path / "last.ckpt", **QUIET, **options)

    assert same(state_of(trainer), expected)


# Resumed otherwise.


def make_checkpoint(folder, *callbacks):
    """Returns a checkpoint in the middle of a run with these callbacks."""
    trainer = make_trainer(folder, list(callbacks), max_steps=4, **QUIET)
    trainer.fit(WithPositions())
    trainer.save_checkpoint(folder / "made.ckpt")
    return folder / "made.ckpt"


def resume(checkpoint, *callbacks, **options):
    """Resumes a run for two steps."""
    trainer = make_trainer(checkpoint.parent, list(callbacks), max_steps=6, **QUIET, **options)
    trainer.fit(WithPositions(), ckpt_path=checkpoint)


def change(checkpoint, **changes):
    """Writes other things into our part of a checkpoint, or with None leaves them out."""
    content = torch.load(checkpoint)
    state = {**content["callbacks"]["MixupCallback"], **changes}
    content["callbacks"]["MixupCallback"] = {k: v for k, v in state.items() if v is not None}
    torch.save(content, checkpoint)


def mixup(**arguments):
    return MixupCallback(**{"calibration": False, **arguments})


class Draws(Callback):
    """Keeps the shares that were drawn."""

    def __init__(self, mixup):
        self.mixup, self.shares = mixup, []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.shares.append(float(self.mixup.mix.weight))


def first_of(batch):
    return batch[0]


@pytest.mark.parametrize(
    ("then", "now", "told"),
    [
        ({"alpha": 0.2}, {"alpha": 0.4}, "with alpha=0.2, and goes on with alpha=0.4"),
        (
            {"alpha": 0.2},
            {"recipe": Mixup(0.2, per_sample=True)},
            "with alpha=0.2, and goes on with recipe=Mixup(alpha=0.2, per_sample=True)",
        ),
        ({"prob": 0.5}, {}, "with prob=0.5, and goes on with prob=1.0"),
        (
            {"prob": 0.5 * WarmUp(epochs=5)},
            {"prob": OffAtEnd(steps=2), "strength": 0.5},
            "with prob=0.5 * WarmUp(epochs=5), strength=1.0, and goes on with "
            "prob=OffAtEnd(steps=2), strength=0.5",
        ),
        ({"targets": 1}, {}, "with targets=1, and goes on with targets='auto'"),
        (
            {"layers": ["input", "body"]},
            {"layers": "body"},
            "with layers=['input', 'body'], and goes on with layers='body'",
        ),
        (
            {"prob": 0.5, "inputs": 0},
            {"prob": 0.4, "inputs": first_of},
            "with prob=0.5, inputs=0, and goes on with prob=0.4, inputs=first_of",
        ),
        ({"alpha": 0.2}, {"alpha": 0}, "with alpha=0.2, and goes on with alpha=0.0"),
        (
            {"seed": 3},
            {"seed": 5},
            "with seed=3, which decides the draws of a resumed run; seed=5",
        ),
    ],
    ids=["alpha", "recipe", "prob", "schedule", "targets", "layers", "two", "no mixing", "seed"],
)
def test_other_arguments_than_the_checkpoints_are_told(tmp_path, then, now, told):
    checkpoint = make_checkpoint(tmp_path, mixup(**then))

    with pytest.warns(UserWarning, match=re.escape(f"The checkpoint was made {told}")) as warned:
        resume(checkpoint, mixup(**now))

    assert sum("The checkpoint was made" in str(each.message) for each in warned) == 1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"draws": 0, "version": "0.0.9"},
            f"with the draws of lightning-mixup 0.0.9, and goes on with the draws of "
            f"lightning-mixup {lightning_mixup.__version__}",
        ),
        ({"processes": 2}, "with 2 processes, and goes on with 1 process"),
        ({"arguments": {"alpha": "0.2", "scale": "2"}}, "with scale=2, and goes on without"),
        (
            {"arguments": None, "processes": None, "draws": None, "version": None},
            "by a version that kept its seed alone",
        ),
    ],
    ids=["other draws", "two processes", "an argument to come", "the seed alone"],
)
def test_another_version_and_other_processes_are_told(tmp_path, changes, told):
    checkpoint = make_checkpoint(tmp_path, mixup())
    change(checkpoint, **changes)

    with pytest.warns(UserWarning, match=re.escape(f"The checkpoint was made {told}")) as warned:
        resume(checkpoint, mixup())

    assert sum("The checkpoint was made" in str(each.message) for each in warned) == 1


@pytest.mark.parametrize(
    ("then", "now"),
    [
        ({}, {"seed": None}),
        ({"alpha": 1}, {"alpha": np.float32(1)}),
        ({"prob": 0.5}, {"prob": Fraction(1, 2)}),
        ({"prob": WarmUp(steps=5) * 0.5}, {"prob": 0.5 * WarmUp(steps=np.int64(5))}),
        ({"inputs": lambda batch: batch[0]}, {"inputs": lambda batch: batch[0]}),
        ({"seed": 3}, {"seed": 3, "log_mix": True, "calibration": CalibrationMonitor()}),
    ],
    ids=["same", "alpha", "prob", "schedule", "functions", "what decides no draw"],
)
def test_of_equal_arguments_nothing_is_told(tmp_path, then, now):
    """All warnings are errors here."""
    checkpoint = make_checkpoint(tmp_path, mixup(**then))
    change(checkpoint, version="0.0.9")

    resume(checkpoint, mixup(**now))


def test_the_checkpoints_seed_decides(tmp_path):
    whole = Draws(mixup(seed=3))
    checkpoint = make_checkpoint(tmp_path, whole.mixup, whole)
    resumed = Draws(mixup(seed=5))

    with pytest.warns(UserWarning, match="seed=5 is not used. Leave seed out to resume"):
        resume(checkpoint, resumed.mixup, resumed)

    expected = Draws(mixup(seed=3))
    trainer = make_trainer(tmp_path, [expected.mixup, expected], max_steps=6, **QUIET)
    trainer.fit(WithPositions())
    assert whole.shares + resumed.shares == expected.shares


def test_a_run_that_begins_to_mix_is_told(tmp_path):
    checkpoint = make_checkpoint(tmp_path)

    with pytest.warns(UserWarning, match=r"made without mixing, and goes on with MixupCallback"):
        resume(checkpoint, mixup())


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_evaluation_of_a_checkpoint_is_told_nothing(tmp_path, stage):
    checkpoint = make_checkpoint(tmp_path, mixup(seed=3))
    trainer = make_trainer(tmp_path, [mixup(alpha=2.0, seed=5)], **QUIET)

    getattr(trainer, stage)(Evaluated(), ckpt_path=checkpoint)

    assert trainer.state.finished


@pytest.mark.parametrize("seed", [3, 10**30, -1])
def test_a_checkpoint_is_read_without_trust(tmp_path, seed):
    """As Lightning reads it, where nothing but tensors and plain types may be in it."""
    made = mixup(recipe=Mixup(np.float64(0.5)), prob=np.float32(0.5), inputs=first_of, seed=seed)
    checkpoint = make_checkpoint(tmp_path, made)

    state = torch.load(checkpoint, weights_only=True)["callbacks"]["MixupCallback"]

    assert state == made.state_dict()
    assert state["seed"] == seed
