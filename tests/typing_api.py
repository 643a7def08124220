"""The public names as a type checker sees them; `mypy` reads this file and nobody runs it."""

from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from lightning_mixup import (
    Beta,
    ByEpoch,
    CalibrationMonitor,
    CalibrationStatistics,
    CutMix,
    Fade,
    MixedTarget,
    Mixup,
    MixupCallback,
    OffAtEnd,
    OneOf,
    Recipe,
    RegMixup,
    ReliabilityBins,
    ResizeMix,
    SameClass,
    Schedule,
    TemperatureScaled,
    WarmUp,
    classification_metrics,
    compare_reports,
    merge,
    read_report,
    reliability_diagram,
)


def logits_of(module: LightningModule, batch: Any, outputs: Any) -> tuple[Tensor, Tensor]:
    return outputs["logits"], batch[1]


recipe: Mixup = Mixup(0.2, per_sample=True)
x, y = recipe(torch.randn(4, 2), torch.arange(4), torch.Generator())
target: MixedTarget = MixedTarget([y, y], torch.tensor([0.5, 0.5]))
candidates: tuple[Tensor, ...] = target.candidates
plain: Tensor = merge(target)

metrics = MetricCollection({"macro": MulticlassAccuracy(num_classes=3)})
monitor = CalibrationMonitor(metrics, prefix="clean_", logits_fn=logits_of)
factory = CalibrationMonitor(classification_metrics)
callback = MixupCallback(recipe=recipe, prob=0.5, inputs=["a", "b.c"], targets=1, seed=1)
part: Recipe = Mixup(weight=Beta(2, 5), partners=SameClass(), rounds=2)
several: Recipe = OneOf(CutMix(1.0, dims=(-1,)), part, RegMixup(ResizeMix()), weights=[1, 2, 3])
by_epoch = MixupCallback(recipe=ByEpoch({0: several, 10: None}))
shown = by_epoch.show((torch.rand(4, 2), torch.arange(4)), class_names=["a", "b"])
schedule: Schedule = 0.5 * WarmUp(epochs=5) * OffAtEnd(steps=10) * 0.5
scheduled = MixupCallback(prob=schedule, strength=Fade(epochs=(50, None)))
Trainer(callbacks=[MixupCallback(0.2, calibration=monitor, targets=None), callback])
if callback.mix is not None:
    weight: Tensor = callback.mix.weight
    place: str = callback.mix.place

statistics: CalibrationStatistics = monitor.statistics["val"][0]
bins: ReliabilityBins = statistics.bins(10)
figure = reliability_diagram(bins, title="clean")


temperature: float | None = monitor.temperature
deployed = TemperatureScaled(torch.nn.Linear(2, 3), temperature or 1.0)
reports: dict[str, dict[str, Any]] = {"now": monitor.report(), "then": read_report("c.json")}
compare_reports({name: report["val"] for name, report in reports.items()})
monitor.plot("val").savefig("val.png")
