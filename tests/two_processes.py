"""What test_processes.py runs in one process and in two: ``python two_processes.py result.json``.

Each case is a run of a Trainer and returns what rank zero has logged. The modules' logits are
their inputs, so that both worlds see the same numbers.
"""

import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch.nn import functional as F
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
)
from zoo import CLASSES, Classifier, make_loader

from lightning_mixup import CalibrationMonitor, MixupCallback, classification_metrics

WORLD = int(os.environ.get("WORLD_SIZE", "1"))
RANK = int(os.environ.get("RANK", "0"))


class Echo(Classifier):
    def forward(self, x):
        return x

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        return self.loss(self(batch[0]), batch[1])

    def test_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch[1])


class Tokens(Echo):
    def loss(self, logits, y):
        return F.cross_entropy(logits.reshape(-1, CLASSES), y.view(-1))


class Masks(Echo):
    def loss(self, logits, y):
        return F.binary_cross_entropy_with_logits(logits, y.float())


class ShiftedLabels(Echo):
    def loss(self, logits, y):
        return F.cross_entropy(logits, (y + 1) % CLASSES)


class SortedByLabel(Echo):
    """As packed sequences are by their length: the last row is not the last sample."""

    def loss(self, logits, y):
        order = y.argsort()
        return F.cross_entropy(logits[order], y[order])


class SilentInSecondProcess(Echo):
    def loss(self, logits, y):
        return F.cross_entropy(logits, y) if RANK == 0 else logits.sum()


class Shards(IterableDataset):
    """Samples of which each process has as many as `shares` says, one behind the other."""

    def __init__(self, data, shares):
        starts = [0, *torch.tensor(shares).cumsum(0).tolist()]
        own = slice(0, sum(shares)) if WORLD == 1 else slice(starts[RANK], starts[RANK + 1])
        self.samples = [tuple(column[i] for column in data) for i in range(len(data[0]))][own]

    def __iter__(self):
        return iter(self.samples)


def samples(size, *shape, classes=CLASSES):
    generator = torch.Generator().manual_seed(size + 1)
    logits = 2 * torch.randn(size, CLASSES if classes > 2 else 1, *shape, generator=generator)
    noise = torch.rand(size, classes, *shape, generator=generator)
    both = logits if classes > 2 else torch.cat([torch.zeros_like(logits), logits], 1)
    # As drawn from probabilities of half these logits.
    return logits, (both / 2 - (-noise.log()).log()).argmax(1)


def loader(size, **options):
    return DataLoader(TensorDataset(*samples(size)), **{"batch_size": 4, **options})


def shards(*shares):
    return DataLoader(Shards(samples(sum(shares)), shares), batch_size=4)


def evaluate(loaders, module=None, *, callback=None, stage="validate"):
    callback = callback or CalibrationMonitor(classification_metrics, pictures=False)
    trainer = make_trainer([callback])
    getattr(trainer, stage)(module or Echo(), loaders, verbose=False)
    logged = {key: float(value) for key, value in trainer.callback_metrics.items()}
    return logged, getattr(callback, "monitor", callback).report()


def make_trainer(callbacks, **options):
    return Trainer(
        accelerator="cpu",
        devices=WORLD,
        strategy="ddp" if WORLD > 1 else "auto",
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tempfile.mkdtemp(),
        **{"enable_checkpointing": False, **options},
    )


def evaluate_tokens(size):
    logits, labels = samples(size, 3)
    data = TensorDataset(logits.movedim(1, -1), labels)
    return evaluate(DataLoader(data, batch_size=4), Tokens())


def evaluate_masks(size):
    logits, labels = samples(size, 2, 3, classes=2)
    return evaluate(DataLoader(TensorDataset(logits, labels[:, None]), batch_size=4), Masks())


def fit():
    """Returns the figures of the last epoch, and those of one process on the same weights."""
    module, data = Classifier(), make_loader(37)
    checkpoint = ModelCheckpoint(tempfile.mkdtemp(), monitor="val_ece")
    mixup = MixupCallback(seed=1, calibration=CalibrationMonitor(pictures=False))
    callbacks = [mixup, checkpoint, EarlyStopping("val_nll")]
    trainer = make_trainer(callbacks, max_epochs=2, enable_checkpointing=True)
    trainer.fit(module, make_loader(32), data)
    x, y = data.dataset.tensors
    figures = {
        "val_accuracy": float(trainer.callback_metrics["val_accuracy"]),
        "exact": float((module(x).argmax(1) == y).float().mean()),
    }
    return figures, mixup.monitor.report()


def refused(run):
    """Returns why a run was refused."""
    try:
        return run()
    except RuntimeError as error:
        return {"error": str(error)}, {}


CASES = {
    "uneven": lambda: evaluate(loader(37)),
    "even": lambda: evaluate(loader(40)),
    "one row in the last batch": lambda: evaluate(loader(17, batch_size=8)),
    "single samples": lambda: evaluate(loader(7, batch_size=1)),
    "one sample": lambda: evaluate(loader(1)),
    "shuffled": lambda: evaluate(loader(37, shuffle=True)),
    "subset": lambda: evaluate(loader(37, sampler=SubsetRandomSampler(range(3, 22)))),
    "two loaders": lambda: evaluate([loader(37), loader(5)]),
    "test": lambda: evaluate(loader(37), stage="test"),
    "tokens": lambda: evaluate_tokens(37),
    "masks": lambda: evaluate_masks(37),
    "unevenly sharded": lambda: evaluate(shards(17, 4)),
    "nothing in the second process": lambda: evaluate(shards(17, 0)),
    "nothing in the first process": lambda: evaluate(shards(0, 17)),
    "nothing of the first loader in the second process": lambda: evaluate([
        shards(9, 0),
        shards(8, 5),
    ]),
    "nothing of the second loader in the second process": lambda: evaluate([
        shards(9, 7),
        shards(8, 0),
    ]),
    "nothing of the first loader in the first process": lambda: evaluate([
        shards(0, 9),
        shards(8, 5),
    ]),
    "shifted labels": lambda: evaluate(loader(37), ShiftedLabels(), callback=MixupCallback()),
    "shifted labels, even": lambda: evaluate(loader(40), ShiftedLabels()),
    "sorted": lambda: evaluate(loader(37), SortedByLabel(), callback=MixupCallback()),
    "silent in the second process": lambda: evaluate(
        loader(37), SilentInSecondProcess(), callback=MixupCallback()
    ),
    "asked for, silent in the second process": lambda: refused(
        lambda: evaluate(loader(37), SilentInSecondProcess())
    ),
    "fit": fit,
}


def run_case(case):
    torch.manual_seed(0)  # as random samplers need it, to draw alike in each process
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        logged, report = case()
    said = [str(each.message) for each in warned if "CalibrationMonitor" in str(each.message)]
    return {"logged": logged, "report": report, "warned": said}


def run_all():
    torch.set_num_threads(1)
    return {name: run_case(case) for name, case in CASES.items()}


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(run_all()), encoding="utf-8")
