"""Compares every loss with its mixture worked out by hand, and writes the table."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from losses import CLASSES, LOSSES, evaluate
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_mixup import MixedTarget, merge
from lightning_mixup.calls import NoRuleError
from lightning_mixup.losses import evaluate_per_candidate

BATCH, SIZE, DIMS = 12, 8, 6
PARTS = 4  # weights are multiples of a quarter
ENTRIES = ("exact", "soft-label form", "refused", "refused after the step")
TOLERANCES = {"exact": 0.0, "soft-label form": 2e-4}  # A smoothed ratio depends on the size.
README = Path(__file__).parent / "README.md"
START, END = "<!-- table -->\n", "<!-- end of table -->\n"

Loss = Callable[[Tensor, Tensor], Tensor]
Expected = Iterator[tuple[str, Tensor]]

FORMS = {  # the shape of x, the shape of y, and how many labels there are
    "classes": ((BATCH, CLASSES), (BATCH,), CLASSES),
    "embeddings": ((BATCH, DIMS), (BATCH,), CLASSES),
    "binary": ((BATCH,), (BATCH,), 2),
    "multilabel": ((BATCH, CLASSES), (BATCH, CLASSES), 2),
    "maps": ((BATCH, CLASSES, SIZE, SIZE), (BATCH, SIZE, SIZE), CLASSES),
    "binary maps": ((BATCH, 1, SIZE, SIZE), (BATCH, 1, SIZE, SIZE), 2),
    "multilabel maps": ((BATCH, CLASSES, SIZE, SIZE), (BATCH, CLASSES, SIZE, SIZE), 2),
}


def entry(loss: Loss, x: Tensor, candidates: list[Tensor], weights: Tensor) -> str:
    """Returns what comes of a loss of a mixed target: one of `ENTRIES`, or what is wrong."""
    with Precision() as precision:
        loss(x, candidates[0])
    tolerance = 1e-5 if precision.is_single else 1e-9
    law = per_sample if weights.ndim > 1 else per_batch
    by_hand = list(law(loss, x, candidates, weights, tolerance))
    target = MixedTarget(candidates, weights)
    try:
        actual = with_gradient(merge(loss(x, target)), x)
    except NoRuleError as error:
        says = "MixupCallback(loss='criterion')" in str(error)
        ways_out = says and has_way_out(loss, x, target, by_hand[0][1])
        return "refused" if ways_out else "**refused without a way out**"
    except Exception as error:
        return f"**{type(error).__name__}**: {error}".splitlines()[0]
    if not target.usage.met_gradient:
        return "refused after the step"
    for name, expected in by_hand:
        if all_close(actual, with_gradient(expected, x), max(tolerance, TOLERANCES[name])):
            return name
    return f"**{actual[0]:.6f}**, not {by_hand[0][1]:.6f}"


def has_way_out(loss: Loss, x: Tensor, target: MixedTarget, expected: Tensor) -> bool:
    """Returns whether a loss that is named, MixupCallback(loss=...), is exact."""
    if target.weights.ndim > 1:
        return True  # with one weight per batch
    named = evaluate_per_candidate(loss, (x, target), {})
    return all_close(with_gradient(merge(named), x), with_gradient(expected, x), 1e-5)


def per_batch(
    loss: Loss, x: Tensor, candidates: list[Tensor], weights: Tensor, tolerance: float
) -> Expected:
    """With one weight per batch, the weighted sum whatever the loss."""
    losses = [loss(x, y) for y in candidates]
    yield "exact", weights[0] * losses[0] + weights[1] * losses[1]
    yield "soft-label form", repeated(loss, x, candidates, weights.expand(BATCH, -1).T)


def per_sample(
    loss: Loss, x: Tensor, candidates: list[Tensor], weights: Tensor, tolerance: float
) -> Expected:
    """With weights per sample, the mixture if the loss is a sum or mean over samples.

    Then, and only then, the samples move it from one candidate to the other each by itself.
    Otherwise the weights belong into its sums: as if a sample was there once for each quarter.
    """
    first, second = candidates
    start, end = loss(x, first), loss(x, second)
    moves = torch.stack([loss(x, swap(first, second, i)) - start for i in range(BATCH)])
    if all_close([start + moves.sum()], [end], tolerance):
        yield "exact", start + (weights[1].to(moves) * moves).sum()
        return
    yield "soft-label form", repeated(loss, x, candidates, weights)


def repeated(loss: Loss, x: Tensor, candidates: list[Tensor], weights: Tensor) -> Tensor:
    """Returns a loss of a batch in which each sample has each label as often as it weighs."""
    quarters = torch.arange(PARTS).repeat(BATCH).reshape(-1, *[1] * (candidates[0].ndim - 1))
    shares = (PARTS * weights[0]).repeat_interleave(PARTS).reshape(quarters.shape)
    rows = [y.repeat_interleave(PARTS, dim=0) for y in candidates]
    x_rows = x.repeat_interleave(PARTS, dim=0)
    size = loss(x, candidates[0]) / loss(x_rows, rows[0])  # not 1 for a sum
    return size.detach() * loss(x_rows, torch.where(quarters < shares, *rows))


def swap(y: Tensor, other: Tensor, i: int) -> Tensor:
    """Returns labels, one of them taken from others."""
    return torch.cat([y[:i], other[i : i + 1], y[i + 1 :]])


def with_gradient(value: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a loss and its gradient."""
    return value.detach(), *torch.autograd.grad(value, x)


def all_close(actual: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float) -> bool:
    """Returns whether a value and a gradient agree, each by its own size."""
    return all(
        (a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1e-3)
        for a, b in zip(actual, expected, strict=True)
    )


class Precision(TorchDispatchMode):
    """Notes whether a loss computes in single precision, of more than labels."""

    is_single = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Lets every operation pass."""
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.dtype == torch.float32:
            self.is_single |= bool(result.frac().any())
        return result


def entries(expression: str, form: str) -> list[str]:
    """Returns the entries of one loss, with one weight per batch and with a weight per sample."""
    torch.manual_seed(0)
    shape, labels, count = FORMS[form]
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    y = torch.randint(count, labels)
    loss, candidates = partial(evaluate, expression), [y, y.roll(5, dims=0)]
    share = torch.randint(1, PARTS, (BATCH,), dtype=torch.float64) / PARTS
    both = torch.tensor([0.25, 0.75], dtype=torch.float64), torch.stack([share, 1 - share])
    return [entry(loss, x, candidates, weights) for weights in both]


def main() -> None:
    """Prints the table, and writes it into the README."""
    warnings.simplefilter("ignore")
    columns = "one weight per batch", "a weight per sample"
    rows = [
        (f"`{line.strip()}`", *entries(line.strip(), form))
        for form, lines in LOSSES.items()
        for line in lines.strip().splitlines()
    ]
    lines = [f"{len(rows)} losses:", ""]
    for k, column in enumerate(columns, start=1):
        counts = Counter(row[k] if row[k] in ENTRIES else "wrong" for row in rows)
        lines.append(f"- {column}: {', '.join(f'{n} {name}' for name, n in counts.items())}")
    lines += ["", "<details><summary>The table</summary>", ""]
    lines += [f"| loss | {' | '.join(columns)} |", "|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    lines += ["", "</details>"]
    table = "\n".join(lines) + "\n"
    print(table)
    before, after = README.read_text().split(START)[0], README.read_text().split(END)[1]
    README.write_text(before + START + table + END + after)
    wrong = [row for row in rows if not {*row[1:]} <= {*ENTRIES}]
    sys.exit(f"{len(wrong)} are neither right nor refused" if wrong else 0)


if __name__ == "__main__":
    main()
