"""What each recipe costs, with its draw and its labels, as ratios to cloning the inputs."""

from __future__ import annotations

import peers
import torch
from measure import Plan, Row, interleave, over, rows_of, timed

from lightning_mixup import (
    CutMix,
    LabelKernel,
    Mixup,
    NearestNeighbors,
    Overlay,
    Recipe,
    RegMixup,
    ResizeMix,
    SameClass,
    SamplePairing,
)

SIZE = (128, 3, 224, 224)
CLONE = "`x.clone()`"
RECIPES: tuple[Recipe, ...] = (
    Mixup(1.0),
    Mixup(1.0, rounds=2),
    Mixup(1.0, partners=SameClass()),
    Mixup(1.0, partners=NearestNeighbors()),
    CutMix(1.0),
    CutMix(1.0, per_sample=True),
    CutMix(1.0, rounds=2),
    ResizeMix(),
    SamplePairing(),
    RegMixup(),
)


def rows(plan: Plan) -> list[Row]:
    x = torch.randn(plan.pick(SIZE, (6, 3, 8, 8)))
    y = torch.arange(len(x)) % peers.CLASSES
    several, numbers = torch.eye(peers.CLASSES)[y], torch.rand(len(x))
    arms = {CLONE: x.clone}
    arms |= {f"ours, `{recipe}`": lambda recipe=recipe: recipe(x, y) for recipe in RECIPES}
    kernel = Mixup(1.0, partners=LabelKernel(0.1))
    arms[f"ours, `{kernel}`"] = lambda: kernel(x, numbers)
    arms[f"ours, `{Overlay()}`"] = lambda: Overlay()(x, several)
    arms |= {**peers.packaged(x, y), **peers.packaged_cutmix(x, y)}
    times = interleave({name: timed(arm) for name, arm in arms.items()}, plan.rounds)
    what = (
        f"each recipe, {'×'.join(map(str, x.shape))} float32, with draw and labels, over {CLONE}"
    )
    return rows_of(what, over(times, CLONE))
