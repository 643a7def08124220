"""What is known of a run: the figures after each epoch, and the entries of its report.

Names are those of a stage, ``"val"`` or ``"test"``, with Lightning's suffix where it has several
dataloaders: ``"val/dataloader_idx_0"``.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from lightning_mixup.report import Entry, make_entry
from lightning_mixup.tally import FIGURES, Tally

__all__ = ["Record"]

_Row = dict[str, float]


class Record:
    """History and report of one run.

    Attributes:
        history: The figures after each epoch of validation, by name.
        report: The entries, by name.
        new: The names of those that nobody was shown yet.
    """

    def __init__(self) -> None:
        self.history: dict[str, list[_Row]] = {}
        self.report: dict[str, Entry] = {}
        self.new: list[str] = []

    def start(self) -> None:
        """Begins a run, whose report is its own."""
        self.report, self.new = {}, []

    def go_on(self, step: int) -> None:
        """Forgets the history from a step on: all of it, where a run is not resumed."""
        history = self.history if step else {}
        self.history = {
            name: [row for row in rows if row["step"] <= step] for name, rows in history.items()
        }

    def remember(self, tallies: Sequence[Tally], *, epoch: int, step: int) -> None:
        """Adds the figures of an epoch of validation."""
        for name, tally in zip(_names("val", tallies), tallies, strict=True):
            if tally.bins is not None:
                row: _Row = {"epoch": epoch, "step": step}
                row.update({each: float(tally.figures()[each]) for each in FIGURES})
                row["noise_floor"] = float(tally.bins.noise_floor())
                self.history.setdefault(name, []).append(row)

    def conclude(self, stage: str, tallies: Sequence[Tally]) -> None:
        """Makes the entries of a stage; every process must call this."""
        kept = {name: entry for name, entry in self.report.items() if _stage_of(name) != stage}
        self.report, self.new = kept, []
        for name, tally in zip(_names(stage, tallies), tallies, strict=True):
            figures = tally.more_figures() if tally.is_pooled else {}
            if figures and tally.bins is not None:
                history = self.history.get(name, ()) if stage == "val" else ()
                self.report[name] = make_entry(figures, tally.bins, history)
                self.new.append(name)

    def main_name(self) -> str | None:
        """Returns the name of the entry to choose by: the first of validation, or else of test."""
        return min(self.report, key=lambda name: (_stage_of(name) == "test", name), default=None)

    def copied(self) -> dict[str, Entry]:
        """Returns the report, for users to change."""
        return copy.deepcopy(self.report)


def _stage_of(name: str) -> str:
    return name.partition("/")[0]


def _names(stage: str, tallies: Sequence[Tally]) -> list[str]:
    if len(tallies) == 1:
        return [stage]
    return [f"{stage}/dataloader_idx_{index}" for index in range(len(tallies))]
