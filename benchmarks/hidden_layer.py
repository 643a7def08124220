"""Mixing at a hidden layer, forward and backward, as ratios to cloning the same features.

All arms run interleaved in one process; figures are medians over rounds, with their quartiles.
The formulas of others are those of their code: the paper's (github.com/vikasverma1077/
manifold_mixup, `mixup_process`) gathers partners by a permutation; `roll` is the usual short form.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from lightning_mixup import Mix

SHAPE, WEIGHT, SHIFT = (64, 256, 32, 32), 0.7, 5


def clone(x: Tensor) -> Tensor:
    return x.clone()


def ours(x: Tensor) -> Tensor:
    return Mix(WEIGHT, SHIFT, len(x)).blend(x)


def ours_per_sample(x: Tensor) -> Tensor:
    weights = torch.linspace(0, 1, len(x), dtype=torch.float64).numpy()
    return Mix(weights, SHIFT, len(x)).blend(x)


def roll(x: Tensor) -> Tensor:
    return torch.lerp(x.roll(-SHIFT, 0), x, WEIGHT)


def of_the_paper(x: Tensor) -> Tensor:
    indices = torch.randperm(len(x))
    return x * WEIGHT + x[indices] * (1 - WEIGHT)


ARMS = (clone, ours, ours_per_sample, roll, of_the_paper)


def measure(arm: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> float:
    x.grad = None
    start = time.perf_counter()
    arm(x).backward(grad)
    return time.perf_counter() - start


def main(rounds: int) -> None:
    x = torch.randn(SHAPE, requires_grad=True)
    grad = torch.randn(SHAPE)
    for arm in ARMS:
        measure(arm, x, grad)
    times = [[measure(arm, x, grad) for arm in ARMS] for _ in range(rounds)]
    print(f"forward and backward at {SHAPE}, float32, {torch.get_num_threads()} threads:")
    for arm, column in zip(ARMS, zip(*times, strict=True), strict=True):
        ratios = [time / row[0] for time, row in zip(column, times, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"  {arm.__name__:16} {middle:5.2f}  ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    main(parser.parse_args().rounds)
