"""What mixing adds to a step under `Trainer`: over mixup by hand, over a real net, as it grows.

The time of a step is that from one batch asked for to the next, so it has all that Lightning does.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from measure import Plan, Row, Spread, interleave, over
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mixup import Mixup, MixupCallback

FEATURES, CLASSES, BATCH, ALPHA = 64, 10, 64, 0.2
WARM_UP = 5  # steps that don't count

Arms = dict[Any, Callable[[], float]]


class Plain(LightningModule):
    """Without mixup."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class OfSeveralTargets(Plain):
    """Whose loss is the sum of those of all labels."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, *labels = batch
        logits = self.net(x)
        return sum(F.cross_entropy(logits, y) for y in labels)


class ByHand(Plain):
    """With mixup in `training_step`, as people write it after the paper's code."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        weight = np.random.beta(ALPHA, ALPHA)  # noqa: NPY002  as people write it
        partner = torch.randperm(len(x), device=x.device)
        logits = self.net(weight * x + (1 - weight) * x[partner])
        own, other = F.cross_entropy(logits, y), F.cross_entropy(logits, y[partner])
        return weight * own + (1 - weight) * other


class Loader:
    """Hands out one batch over and over, and notes when it is asked for the next."""

    def __init__(self, batch: list[Tensor], steps: int) -> None:
        self.batch, self.steps = batch, steps
        self.times: list[float] = []

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[Tensor]]:
        for _ in range(self.steps):
            self.times.append(time.perf_counter())
            yield self.batch


def step_of(
    module: LightningModule, batch: list[Tensor], steps: int, callbacks: Sequence[Callback] = ()
) -> float:
    """Returns the seconds of a step, of one fit.

    It is the first quartile of all steps: other processes can only make a step longer.
    """
    loader = Loader(batch, WARM_UP + 1 + steps)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    trainer.fit(module, loader)
    seconds = [end - start for start, end in pairwise(loader.times[WARM_UP:])]
    return Spread.of(seconds).low


def mlp(features: int = FEATURES) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, 64), nn.ReLU(), nn.Linear(64, CLASSES))


def batch_of(size: int, *shape: int, labels: int = 1) -> list[Tensor]:
    return [torch.randn(size, *shape), *torch.randint(CLASSES, (labels, size))]


def microseconds(seconds: Sequence[float], base: Sequence[float]) -> Spread:
    return Spread.of(1e6 * (mine - none) for mine, none in zip(seconds, base, strict=True))


def against_hand(plan: Plan) -> list[Row]:
    """On an MLP so small that all but the bookkeeping is nearly free."""
    batch, net, steps = batch_of(BATCH, FEATURES), mlp(), plan.pick(300, 3)
    recipe, mix = Mixup(ALPHA, per_sample=True), MixupCallback
    ours = "ours"
    modules: dict[str, tuple[type[Plain], Callable[[], list[Callback]]]] = {
        "none": (Plain, list),
        "by hand": (ByHand, list),
        ours: (Plain, lambda: [mix(ALPHA)]),
        "ours, a weight per sample": (Plain, lambda: [mix(recipe=recipe)]),
        "ours, at a hidden layer": (Plain, lambda: [mix(ALPHA, layers="net.0")]),
    }
    arms = {
        name: lambda kind=kind, make=make: step_of(kind(net), batch, steps, make())
        for name, (kind, make) in modules.items()
    }
    times = interleave(arms, plan.rounds)
    added = {name: np.subtract(own, times["none"]) for name, own in times.items()}
    what = "whole step on a tiny MLP: (callback − none) / (by hand − none)"
    rows = [
        Row(what, name, Spread.of(added[name] / added["by hand"]), 1.5 if name == ours else None)
        for name in modules
        if name.startswith(ours)
    ]
    none = Spread.of(1e6 * seconds for seconds in times["none"])
    rows.append(Row("the same step, in μs, and what is added to it", "none", none, unit="μs"))
    return rows + [
        Row(rows[-1].what, name, microseconds(times[name], times["none"]), unit="μs")
        for name in modules
        if name != "none"
    ]


class Block(nn.Module):
    """The basic block of a ResNet."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(inside, outside, 3, stride)
        self.second = _convolution(outside, outside, 3)
        same = stride == 1 and inside == outside
        self.shortcut = nn.Identity() if same else _convolution(inside, outside, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


def _convolution(inside: int, outside: int, size: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inside, outside, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outside))


def resnet_18(width: int = 64) -> nn.Sequential:
    """As published, so that 32×32 images are few pixels to it, and a step is short."""
    widths = [width, width, 2 * width, 4 * width, 8 * width]
    blocks: list[nn.Module] = []
    for i, (inside, outside) in enumerate(pairwise(widths)):
        blocks += [Block(inside, outside, stride=1 + (i > 0)), Block(outside, outside, stride=1)]
    stem = [_convolution(3, width, 7, stride=2), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * width, CLASSES)]
    return nn.Sequential(*stem, *blocks, *head)


def on_a_resnet(plan: Plan) -> list[Row]:
    batch = batch_of(plan.pick(64, 2), 3, 32, 32)
    net, steps = resnet_18(plan.pick(64, 2)), plan.pick(6, 2)
    arms: Arms = {
        "none": lambda: step_of(Plain(net), batch, steps),
        "by hand": lambda: step_of(ByHand(net), batch, steps),
        "ours": lambda: step_of(Plain(net), batch, steps, [MixupCallback(ALPHA)]),
    }
    spreads = over(interleave(arms, plan.rounds), "none")
    what = f"ResNet-18 on 32×32, batch {len(batch[0])}, CPU: step with over without"
    return [Row(what, "ours", spreads["ours"], 1.02), Row(what, "by hand", spreads["by hand"])]


def growth(
    what: str, sizes: Sequence[int], most: float, make: Callable[[int], Any], plan: Plan
) -> list[Row]:
    """Returns what is added at each size, and how many times as much at the last as at the first.

    Args:
        what: What grows.
        sizes: Its sizes, in order.
        most: What the last must not exceed, in times of the first.
        make: Makes a module, a batch and a callback of a size.
        plan: How much is measured.
    """
    arms: Arms = {}
    for size in sizes:
        module, batch, callback = make(size)
        step = functools.partial(step_of, module, batch, plan.pick(200, 2))
        arms[size, False], arms[size, True] = step, functools.partial(step, [callback])
    times = interleave(arms, plan.rounds)
    added = [np.subtract(times[size, True], times[size, False]) for size in sizes]
    spreads = [Spread.of(1e6 * seconds) for seconds in added]
    title = f"what a step grows by, with {what}"
    rows = [
        Row(title, f"ours, {size}", spread, unit="μs")
        for size, spread in zip(sizes, spreads, strict=True)
    ]
    last = f"ours, {sizes[-1]} over {sizes[0]}"
    return [*rows, Row(title, last, Spread.of(added[-1] / added[0]), most)]


def grown(plan: Plan) -> list[Row]:
    """Flat in the samples, but for mixing them; at most linear in the others."""
    width, depth = 16, plan.pick(16, 4)

    def with_samples(size: int) -> Any:
        return Plain(mlp(width)), batch_of(size, width), MixupCallback(ALPHA)

    def with_layers(count: int) -> Any:
        layers = [nn.Linear(width, width) for _ in range(depth)]
        names = [f"net.{i}" for i in range(count)]
        net = nn.Sequential(*layers, nn.Linear(width, CLASSES))
        return Plain(net), batch_of(BATCH, width), MixupCallback(ALPHA, layers=names)

    def with_targets(count: int) -> Any:
        targets = list(range(1, 1 + count))
        callback = MixupCallback(ALPHA, inputs=0, targets=targets)
        return OfSeveralTargets(mlp(width)), batch_of(BATCH, width, labels=count), callback

    samples = plan.pick((16, 128, 1024), (4, 8))
    layers, labels = plan.pick((1, 4, 16), (1, 4)), plan.pick((1, 2, 4, 8), (1, 2))
    flat = 2.0  # of 64 times the samples: reading them is what is left
    return [
        *growth("samples in the batch", samples, flat, with_samples, plan),
        *growth("named layers", layers, layers[-1] / layers[0], with_layers, plan),
        *growth("targets", labels, labels[-1] / labels[0], with_targets, plan),
    ]


def rows(plan: Plan) -> list[Row]:
    return [*against_hand(plan), *on_a_resnet(plan)]
