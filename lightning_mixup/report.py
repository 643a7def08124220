"""The report on a run: what is said, shown and saved of one dataloader's figures.

An entry is a plain dict, which JSON can hold; a report has several, by name. Nothing here knows
Lightning or processes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch

from lightning_mixup.errors import MixupValueError
from lightning_mixup.reliability import ReliabilityBins
from lightning_mixup.verdict import verdict_on

__all__ = ["Entry", "as_json", "as_text", "bins_of", "make_entry", "print_entry", "read_report"]

Entry: TypeAlias = dict[str, Any]

_SUMS = ("count", "correct", "confidence")
_INTEGERS = ("count", "nonfinite", "temperature_samples")
_ROWS = {
    "accuracy": "accuracy",
    "ece": "ECE",
    "noise_floor": "noise floor of ECE",
    "confidence_gap": "confidence gap",
    "nll": "NLL",
    "brier": "Brier score",
}
_SIGNED = "confidence_gap"


def make_entry(
    figures: Mapping[str, float | None],
    bins: ReliabilityBins,
    history: Sequence[Mapping[str, float | None]] = (),
) -> Entry:
    """Puts together what is known of one dataloader.

    Args:
        figures: Those of all samples, and of the best temperature.
        bins: The sums of all samples in bins of equal width.
        history: The figures after each epoch, all of the same names.

    Returns:
        The figures by name, None for what is not known; ``"verdict"``, a sentence; ``"bins"``,
        the sums as lists; and ``"history"``, a list for each of its figures.

    Example:
        >>> bins = ReliabilityBins(*torch.tensor([[0.0, 2.0], [0.0, 1.0], [0.0, 1.5]]))
        >>> unknown = ("temperature", "ece_at_temperature", "noise_floor_at_temperature")
        >>> make_entry({"ece": 0.25, **dict.fromkeys(unknown)}, bins)["bins"]["correct"]
        [0.0, 1.0]
    """
    entry: Entry = {name: _known(name, figure) for name, figure in figures.items()}
    entry["verdict"] = verdict_on(bins, figures)
    entry["bins"] = {name: getattr(bins, name).tolist() for name in _SUMS}
    names = history[0] if history else ()
    entry["history"] = {name: [_known(name, row[name]) for row in history] for name in names}
    return entry


def _known(name: str, figure: float | None) -> float | None:
    if figure is None or math.isnan(figure):
        return None
    return int(figure) if name in _INTEGERS else figure


def bins_of(entry: Mapping[str, Any]) -> ReliabilityBins:
    """Returns the sums of an entry, to be drawn, or pooled with those of other runs.

    Raises:
        MixupValueError: If it has none.

    Example:
        >>> sums = {"count": [0, 2], "correct": [0, 1], "confidence": [0, 1.5]}
        >>> bins_of({"bins": sums}).confidence_gap()
        tensor(0.2500, dtype=torch.float64)
    """
    if "bins" not in entry:
        raise MixupValueError(
            f"The entry has no `bins`, only {', '.join(map(repr, entry)) or 'nothing'}. Pass what "
            "calibration.json holds of one dataloader, as read_report(path)['val']."
        )
    columns = (torch.tensor(entry["bins"][name], dtype=torch.float64) for name in _SUMS)
    return ReliabilityBins(*columns)


def print_entry(entry: Mapping[str, Any], name: str) -> None:
    """Prints a table and the verdict: with rich where it is installed, as plain text elsewhere."""
    try:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        print(as_text(entry, name))
        return
    heading, *rows = _cells(entry)
    table = Table(box=SIMPLE_HEAD)
    for number, cell in enumerate(heading):
        table.add_column(cell, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    console.print(Text(_title(entry, name), style="italic"))
    console.print(table)
    console.print(*_notes(entry), sep="\n", markup=False)


def as_text(entry: Mapping[str, Any], name: str) -> str:
    """Returns the table and the verdict as plain text."""
    cells = _cells(entry)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [_title(entry, name)]
    for first, *others in cells:
        figures = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *figures]).rstrip())
    return "\n".join([*lines, *_notes(entry)])


def _title(entry: Mapping[str, Any], name: str) -> str:
    epochs = entry["history"].get("epoch")
    after = f" after epoch {epochs[-1]}" if epochs else ""
    count = entry["count"]
    return f"Calibration of {name}{after}: {count:,} sample{'' if count == 1 else 's'}"


def _cells(entry: Mapping[str, Any]) -> list[list[str]]:
    """Returns the table, headings first: the figures as they are, and at the best temperature."""
    scaled = entry["ece_at_temperature"] is not None
    table = [["", "as it is"]]
    if scaled:
        table[0].append(f"logits / {entry['temperature']:.3g}")
    for name, words in _ROWS.items():
        form = "+.3f" if name == _SIGNED else ".3f"
        row = [words, _formatted(entry[name], form)]
        if scaled:
            at_best = (
                entry["accuracy"] if name == "accuracy" else entry.get(f"{name}_at_temperature")
            )
            row.append(_formatted(at_best, form))
        table.append(row)
    return table


def _formatted(figure: float | None, form: str) -> str:
    # With a plain hyphen, as a redirected standard output on Windows has no minus sign.
    return "" if figure is None else f"{figure:{form}}"


def _notes(entry: Mapping[str, Any]) -> list[str]:
    notes = [entry["verdict"]]
    fitted, samples = entry["temperature_samples"], entry["count"]
    if fitted < samples:
        notes.append(
            f"The temperature is fitted on {fitted:,} of {samples:,} samples, as many as there is "
            "room for."
        )
    if entry["nonfinite"]:
        notes.append(f"Left out: {entry['nonfinite']:,} samples with NaN or infinite logits.")
    return notes


def as_json(report: Mapping[str, Any]) -> str:
    """Returns a report as JSON. An infinite figure, which JSON has no word for, becomes null."""
    return json.dumps(_finite(report), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_report(path: str | Path) -> dict[str, Any]:
    """Reads what a run has left behind: ``calibration.json``.

    Args:
        path: The file.

    Returns:
        What `CalibrationMonitor.report` returned at the end of that run: entries by name, such as
        ``report["val"]["ece"]``.

    Raises:
        MixupValueError: If the file is none of these.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "calibration.json")
        ...     _ = path.write_text('{"val": {"ece": 0.02, "bins": {}}}')
        ...     read_report(path)["val"]["ece"]
        0.02
    """
    report = json.loads(Path(path).read_text("utf-8"))
    if not isinstance(report, dict) or not all(
        isinstance(entry, dict) and "bins" in entry for entry in report.values()
    ):
        raise MixupValueError(
            f"{path} holds no report on calibration. Give a calibration.json, as it lies in the "
            "log folder of a run with a CalibrationMonitor."
        )
    return report
