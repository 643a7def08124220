"""How everything here is measured: arms in turn, medians with quartiles, rows of one table.

An arm is a function that returns one figure, most often the seconds that something took. In each
round every arm has its turn, in an order drawn anew, and what is compared is compared within the
round: so a machine that slows down slows all of them.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

_Name = TypeVar("_Name", bound=Hashable)
_T = TypeVar("_T")


class Spread(NamedTuple):
    """The median of what the rounds came to, between the quartiles."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        return cls(*statistics.quantiles(values, n=4, method="inclusive"))


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: What is measured, against what.
        arm: Whose it is; ours begin with "ours".
        measured: A ratio, unless there is a unit; None where the machine can't tell.
        most: What it must not exceed, of ours.
        unit: Such as "μs".
    """

    what: str
    arm: str
    measured: Spread | None
    most: float | None = None
    unit: str = ""

    @property
    def is_missed(self) -> bool:
        return None not in (self.measured, self.most) and self.measured.middle > self.most


@dataclass(frozen=True)
class Plan:
    """How much is measured: everything, or next to nothing, to see whether it runs."""

    rounds: int = 9
    tiny: bool = False

    def pick(self, full: _T, tiny: _T) -> _T:
        return tiny if self.tiny else full


def interleave(arms: Mapping[_Name, Callable[[], float]], rounds: int) -> dict[_Name, list[float]]:
    """Returns what each arm measured in each round, after one that doesn't count."""
    rng, figures = random.Random(0), {name: [] for name in arms}
    for _ in range(1 + rounds):
        for name in rng.sample(list(arms), len(arms)):
            figures[name].append(arms[name]())
    return {name: measured[1:] for name, measured in figures.items()}


def over(figures: Mapping[_Name, list[float]], base: _Name) -> dict[_Name, Spread]:
    """Returns each arm's figures over those of one of them in the same round."""
    return {
        name: Spread.of(mine / theirs for mine, theirs in zip(own, figures[base], strict=True))
        for name, own in figures.items()
    }


def rows_of(
    what: str, spreads: Mapping[str, Spread], most: Mapping[str, float] | None = None
) -> list[Row]:
    return [Row(what, arm, spread, (most or {}).get(arm)) for arm, spread in spreads.items()]


def timed(function: Callable[[], Any], calls: int = 1, device: str = "cpu") -> Callable[[], float]:
    """Returns an arm: the seconds of a call, its result freed.

    Of several calls it is the median; on a GPU their mean, as nothing waits in between.
    """
    batches, each = (calls, 1) if device == "cpu" else (1, calls)

    def once() -> float:
        wait_for(device)
        start = time.perf_counter()
        for _ in range(each):
            function()
        wait_for(device)
        return (time.perf_counter() - start) / each

    return lambda: statistics.median(once() for _ in range(batches))


def wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def grown(function: Callable[[], Any]) -> Callable[[], float]:
    """Returns an arm: by how many bytes the process grows during a call, at the most.

    It is Linux's own peak of resident memory, set back before: whoever allocates is counted, and
    what is allocated but never touched is not.
    """

    def arm() -> float:
        Path("/proc/self/clear_refs").write_text("5", "ascii")
        before = _peak()
        function()
        return _peak() - before

    return arm


def _peak() -> int:
    lines = Path("/proc/self/status").read_text("ascii", "replace").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
