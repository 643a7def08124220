"""Mixing at a hidden layer, forward and backward, as ratios to cloning the same features."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import peers
import torch
from measure import Plan, Row, interleave, over, rows_of, timed
from torch import Tensor

from lightning_mixup import Mix

SHAPE, WEIGHT, SHIFT = (64, 256, 32, 32), 0.7, 5
CLONE, OURS, PER_SAMPLE = "`clone`", "ours", "ours, a weight per sample"


def arms(x: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    drawn = np.random.default_rng(0).beta(peers.ALPHA, peers.ALPHA, len(x))
    return {
        CLONE: torch.clone,
        OURS: lambda x: Mix(WEIGHT, SHIFT, len(x)).blend(x),
        PER_SAMPLE: lambda x: Mix(drawn, SHIFT, len(x)).blend(x),
        "`roll` and `lerp`": lambda x: peers.roll_and_lerp(x, WEIGHT),
        "the paper's code": lambda x: peers.of_manifold_mixup(x, WEIGHT),
    }


def there_and_back(arm: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> None:
    x.grad = None
    arm(x).backward(grad)


def rows(plan: Plan) -> list[Row]:
    shape = plan.pick(SHAPE, (6, 4, 2, 2))
    x, grad = torch.randn(shape, requires_grad=True), torch.randn(shape)
    timers = {
        name: timed(lambda arm=arm: there_and_back(arm, x, grad)) for name, arm in arms(x).items()
    }
    return rows_of(
        f"hidden layer, forward and backward, {'×'.join(map(str, shape))}, over {CLONE}",
        over(interleave(timers, plan.rounds), CLONE),
        {OURS: 1.15, PER_SAMPLE: 1.15},
    )
