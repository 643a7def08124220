"""What watching a validation epoch costs, as a ratio to torchmetrics' ECE and accuracy.

All run the same `cross_entropy` on the same batches under `Trainer`, and what that takes without
any figures is taken off. Ours is all that `CalibrationMonitor` does in an epoch: finding the loss,
checking it, counting, keeping a sample of logits, pooling, logging. Theirs is updated in
`validation_step`, computed and logged once at the end, which is the cheapest way to use it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from measure import Plan, Row, Spread, interleave
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from lightning_mixup import CalibrationMonitor

SIZES = {(50_000, 1000, 256): 1.0, (10_000, 10, 128): 1.5}


class Plain(LightningModule):
    """A step that is given its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        logits, target = batch
        return cross_entropy(self.scale * logits, target)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        logits, target = batch
        return cross_entropy(logits, target)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class OfTorchmetrics(Plain):
    """With metrics, as their manual has them."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        error = MulticlassCalibrationError(classes, n_bins=15)
        accuracy = MulticlassAccuracy(classes, average="micro")
        self.metrics = MetricCollection({"ece": error, "accuracy": accuracy})

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        logits, target = batch
        self.metrics.update(logits.softmax(1), target)
        return cross_entropy(logits, target)

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.metrics.compute())
        self.metrics.reset()


class Clock(Callback):
    """One of two, around the others: notes when it is told of validation, and of the end."""

    def __init__(self, times: dict[str, list[float]]) -> None:
        self.times = times

    def _note(self, hook: str) -> None:
        self.times.setdefault(hook, []).append(time.perf_counter())

    def on_validation_start(self, *args: Any) -> None:
        self._note("start")

    def on_validation_end(self, *args: Any) -> None:
        self._note("end")

    def on_train_end(self, *args: Any) -> None:
        self._note("conclusion")


def epoch_of(
    module: LightningModule,
    batches: list[Any],
    callbacks: list[Callback],
    concluded: list[float] | None = None,
) -> float:
    """Returns the seconds of one validation epoch in a fit; notes those of what ends the fit."""
    times: dict[str, list[float]] = {}
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Clock(times), *callbacks, Clock(times)],
    )
    loader = DataLoader(batches, batch_size=None)
    trainer.fit(module, DataLoader(batches[:1], batch_size=None), loader)
    if concluded is not None:
        concluded.append(times["conclusion"][1] - times["conclusion"][0])
    return times["end"][1] - times["start"][0]


def rows(plan: Plan) -> list[Row]:
    sizes = plan.pick(SIZES, {(60, 5, 16): 1.0})
    return [row for size, most in sizes.items() for row in _rows_of(*size, most, plan)]


def _rows_of(samples: int, classes: int, size: int, most: float, plan: Plan) -> list[Row]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(samples, classes, generator=generator)
    target = torch.randint(classes, (samples,), generator=generator)
    batches = list(zip(logits.split(size), target.split(size), strict=True))
    concluded: list[float] = []
    arms: dict[str, Callable[[], float]] = {
        "none": lambda: epoch_of(Plain(), batches, []),
        "torchmetrics": lambda: epoch_of(OfTorchmetrics(classes), batches, []),
        "ours": lambda: epoch_of(Plain(), batches, [CalibrationMonitor()], concluded),
    }
    times = interleave(arms, plan.rounds)
    ours, theirs = (np.subtract(times[name], times["none"]) for name in ("ours", "torchmetrics"))
    what = f"monitor, {samples:,}×{classes} in batches of {size}"
    absolute = f"{what}: what an epoch grows by"
    ratio = f"{what}, over torchmetrics' ECE and accuracy"
    return [
        Row(ratio, "ours", Spread.of(ours / theirs), most),
        Row(absolute, "torchmetrics", Spread.of(1e3 * theirs), unit="ms"),
        Row(absolute, "ours", Spread.of(1e3 * ours), unit="ms"),
        Row(
            absolute,
            "ours, once at the end of a fit: temperature and verdict",
            Spread.of(1e3 * seconds for seconds in concluded[1:]),
            unit="ms",
        ),
    ]
