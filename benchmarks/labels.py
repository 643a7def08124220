"""The loss of mixed labels, forward and backward, as ratios to that of soft targets."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import peers
import torch
from measure import Plan, Row, interleave, over, rows_of, timed
from torch import Tensor
from torch.nn import functional as F

from lightning_mixup import Mix, merge

WEIGHT, SHIFT = 0.7, 5
SOFT, OURS, PER_SAMPLE = "soft targets", "ours", "ours, a weight per sample"


def arms(y: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """Returns losses of logits; whatever they are of is made of the labels anew each time."""
    drawn = np.random.default_rng(0).beta(peers.ALPHA, peers.ALPHA, len(y))
    partner = (torch.arange(len(y)) + SHIFT) % len(y)
    made: dict[str, Callable[[Tensor], Tensor]] = {
        SOFT: lambda logits: peers.soft_targets(logits, y, partner, WEIGHT),
        OURS: lambda logits: _of_ours(logits, y, Mix(WEIGHT, SHIFT, len(y))),
        PER_SAMPLE: lambda logits: _of_ours(logits, y, Mix(drawn, SHIFT, len(y))),
        "two CE calls, the paper's code": lambda logits: peers.two_losses(
            logits, y, partner, WEIGHT
        ),
        "by hand: one `log_softmax`, two NLL": lambda logits: peers.two_gathers(
            logits, y, partner, WEIGHT
        ),
    }
    if find_spec("timm"):
        made["timm `mixup_target`, `SoftTargetCrossEntropy`"] = lambda logits: (
            peers.soft_targets_of_timm(logits, y, WEIGHT)
        )
    return made


def _of_ours(logits: Tensor, y: Tensor, mix: Mix) -> Tensor:
    loss: Tensor = merge(F.cross_entropy(logits, mix.label(y)))
    return loss


def there_and_back(arm: Callable[[Tensor], Tensor], logits: Tensor) -> None:
    logits.grad = None
    arm(logits).backward()


def rows(plan: Plan) -> list[Row]:
    size, classes = plan.pick((1024, 1000), (8, 5))
    logits = torch.randn(size, classes, requires_grad=True)
    timers = {
        name: timed(lambda arm=arm: there_and_back(arm, logits), plan.pick(20, 1))
        for name, arm in arms(torch.randint(classes, (size,))).items()
    }
    return rows_of(
        f"labels: mixed CE, B={size}, C={classes}, forward and backward, over soft targets",
        over(interleave(timers, plan.rounds), SOFT),
        {OURS: 0.45, PER_SAMPLE: 0.45},
    )
