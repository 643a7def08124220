"""Mixing inputs, as ratios to cloning them: time, and memory at its peak."""

from __future__ import annotations

import sys

import numpy as np
import peers
import torch
from measure import Plan, Row, grown, interleave, over, rows_of, timed

from lightning_mixup import Mix, Mixup

IMAGENET, CIFAR = (256, 3, 224, 224), (128, 3, 32, 32)
WEIGHT, SHIFT = 0.7, 5
OURS, PER_SAMPLE = "ours", "ours, a weight per sample"
CLONE = "`x.clone()`"


def arms(x: torch.Tensor) -> peers.Mixers:
    y = torch.arange(len(x)) % peers.CLASSES
    recipe = Mixup(peers.ALPHA)
    # As drawn: some weights of so small an alpha round to one, which is work of its own.
    drawn = np.random.default_rng(0).beta(peers.ALPHA, peers.ALPHA, len(x))
    return {
        CLONE: x.clone,
        OURS: lambda: Mix(WEIGHT, SHIFT, len(x)).blend(x),
        PER_SAMPLE: lambda: Mix(drawn, SHIFT, len(x)).blend(x),
        "ours, with draw and labels": lambda: recipe(x, y),
        **peers.packaged(x, y),
        "index and `lerp`": lambda: peers.index_and_lerp(x, WEIGHT),
        "the paper's code": lambda: peers.of_the_paper(x, WEIGHT),
    }


def rows(plan: Plan) -> list[Row]:
    large = torch.randn(plan.pick(IMAGENET, (6, 3, 8, 8)))
    small = torch.randn(plan.pick(CIFAR, (6, 3, 8, 8)))
    calls = plan.pick(50, 1)
    what, made = "×".join(map(str, large.shape)), arms(large)
    times = interleave({name: timed(arm) for name, arm in made.items()}, plan.rounds)
    found = rows_of(
        f"input mixing, {what} float32, over {CLONE}",
        over(times, CLONE),
        {OURS: 1.15, PER_SAMPLE: 1.15},
    )
    if sys.platform == "linux":
        peaks = interleave({name: grown(arm) for name, arm in made.items()}, plan.rounds)
        peaks["batch"] = [float(large.nbytes)] * plan.rounds
        spreads = over(peaks, "batch")
        del spreads["batch"]
        found += rows_of(
            "extra peak memory of it, in batches", spreads, {OURS: 1.05, PER_SAMPLE: 1.05}
        )
    times = interleave({name: timed(arm, calls) for name, arm in arms(small).items()}, plan.rounds)
    return found + rows_of(
        f"input mixing, {'×'.join(map(str, small.shape))} float32, over {CLONE}",
        over(times, CLONE),
        {OURS: 2.5, PER_SAMPLE: 2.5},
    )
