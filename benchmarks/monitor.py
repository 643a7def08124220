"""What watching a validation epoch costs, as ratios to torchmetrics' ECE and accuracy.

Both arms run the same `cross_entropy` on the same batches. Ours has all that `CalibrationMonitor`
does: finding the loss call, checking it, and counting. Theirs updates `MulticlassCalibrationError`
and `MulticlassAccuracy`. Arms are interleaved; figures are medians over rounds, with quartiles.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from lightning_mixup.loss_probe import LossProbe
from lightning_mixup.tally import Tally

Batch = tuple[Tensor, Tensor]
SIZES = {"50,000 x 1000": (50_000, 1000, 256), "10,000 x 10": (10_000, 10, 128)}


def ours(batches: list[Batch]) -> None:
    tally = Tally()
    for batch in batches:
        with LossProbe() as probe:
            cross_entropy(*batch)
        tally.add(probe.choose(batch, None))
    tally.figures()


def of_torchmetrics(batches: list[Batch]) -> None:
    classes = batches[0][0].shape[1]
    error = MulticlassCalibrationError(classes, n_bins=15)
    metrics = MetricCollection([error, MulticlassAccuracy(classes, average="micro")])
    for logits, target in batches:
        cross_entropy(logits, target)
        metrics.update(logits.softmax(1), target)
    metrics.compute()


def loss_alone(batches: list[Batch]) -> None:
    for batch in batches:
        cross_entropy(*batch)


def measure(arm: Callable[[list[Batch]], None], batches: list[Batch]) -> float:
    start = time.perf_counter()
    arm(batches)
    return time.perf_counter() - start


def main(rounds: int) -> None:
    for name, (samples, classes, size) in SIZES.items():
        generator = torch.Generator().manual_seed(0)
        logits = 3 * torch.randn(samples, classes, generator=generator)
        target = torch.randint(classes, (samples,), generator=generator)
        batches = list(zip(logits.split(size), target.split(size), strict=True))
        arms = (of_torchmetrics, ours, loss_alone)
        for arm in arms:
            measure(arm, batches)
        times = [[measure(arm, batches) for arm in arms] for _ in range(rounds)]
        ratios = [(ours - loss) / (theirs - loss) for theirs, ours, loss in times]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"{name}: {middle:.2f} ({low:.2f} to {high:.2f}) of torchmetrics, loss taken off")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    main(parser.parse_args().rounds)
