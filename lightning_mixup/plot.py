"""Pictures of calibration; the one place that knows matplotlib, imported where it is used.

Figures are made without pyplot, so no display is needed and no global state is touched. An entry,
below, is what the monitor reports of one dataloader, as it stands in ``calibration.json``.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_mixup.errors import MixupImportError, MixupValueError
from lightning_mixup.report import bins_of
from lightning_mixup.verdict import range_of_chance

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.text import Text

    from lightning_mixup.reliability import ReliabilityBins

__all__ = [
    "compare_reports",
    "draw_title",
    "history_plot",
    "new_figure",
    "reliability_diagram",
    "report_plot",
    "wrap",
]

# Okabe and Ito's vermilion and blue, which color-blind readers tell apart, each with a tint; in a
# gray print the hatches remain. A gap that may be chance has a paler tint, and no hatch.
_OVER: dict[str, Any] = {"edgecolor": "#D55E00", "facecolor": "#F7DDCB", "hatch": "////"}
_UNDER: dict[str, Any] = {"edgecolor": "#0072B2", "facecolor": "#D3E6F2", "hatch": "...."}
_OVER_BY_CHANCE: dict[str, Any] = {"edgecolor": "#EAB99A", "facecolor": "#FCF3ED"}
_UNDER_BY_CHANCE: dict[str, Any] = {"edgecolor": "#9CC6E1", "facecolor": "#EFF6FA"}
_PLAIN: dict[str, Any] = {"edgecolor": "white", "facecolor": "#C5CAD3"}
_RANGE: dict[str, Any] = {"fmt": "none", "ecolor": "#333333", "elinewidth": 1, "capsize": 2.5}
# Words that users wrote: a dollar in them begins no formula.
_VERBATIM: dict[str, Any] = {"horizontalalignment": "left", "parse_math": False}

# The panels of a history: the name of each figure, and its heading.
_PANELS = {
    "accuracy": "accuracy",
    "ece": "ECE (gray: noise floor)",
    "confidence_gap": "confidence gap",
    "nll": "NLL",
}


def reliability_diagram(
    bins: ReliabilityBins, *, title: str = "", figure: Figure | SubFigure | None = None
) -> Figure | SubFigure:
    """Draws accuracy against confidence, and below it how many samples stand behind each bar.

    Each upper bar is a bin's accuracy. The colored part is the gap between it and the bin's mean
    confidence, by its sign; these gaps, weighted by the counts below, sum to the ECE. The thin
    ranges say where nine of ten accuracies would lie if the model were calibrated: a gap within
    them may be chance, and is drawn pale and without hatching. (So one bin in ten of a calibrated
    model is hatched nevertheless.) Differences in ECE smaller than the noise floor mean little.
    The lower panel also shows the accuracy and the mean confidence of all samples: the distance
    between them is the gap.

    Reference:
        | On Calibration of Modern Neural Networks (Guo, Pleiss, Sun and Weinberger, 2017)
        | https://arxiv.org/abs/1706.04599
        | Increasing the Reliability of Reliability Diagrams (Bröcker and Smith, 2007), for ranges
        | https://doi.org/10.1175/WAF993.1

    Args:
        bins: As returned by :meth:`lightning_mixup.calibration.CalibrationStatistics.bins`.
        title: A name for the model, above the diagram. Long ones are wrapped.
        figure: An empty figure or subfigure to draw into, for several diagrams side by side;
            by default a new figure, with a legend. For a legend to several diagrams, pass what
            ``figure.axes[0].get_legend_handles_labels()`` returns for one of them.

    Returns:
        The figure drawn into; ``figure.savefig("reliability.png")`` writes it.

    Raises:
        MixupImportError: If matplotlib is not installed.

    Example:
        >>> import torch
        >>> from lightning_mixup.calibration import CalibrationStatistics
        >>> statistics = CalibrationStatistics()
        >>> statistics.update(torch.randn(100, 10), torch.randint(10, (100,)))
        >>> figure = reliability_diagram(statistics.bins(), title="untrained")
    """
    canvas = new_figure(4.4, 6) if figure is None else figure
    upper, lower = canvas.subplots(2, 1, height_ratios=(3.5, 1))
    _draw_diagram(upper, lower, bins, title)
    if figure is None:
        _draw_legend(canvas, upper)
    return canvas


def history_plot(
    history: Mapping[str, Sequence[float | None]],
    *,
    title: str = "",
    figure: Figure | SubFigure | None = None,
) -> Figure | SubFigure:
    """Draws accuracy, ECE, confidence gap and NLL over epochs, each in a panel of its own.

    Of the ECE, what lies within the gray band, from zero to the noise floor, may be chance.

    Args:
        history: Values by name, one for each validation; ``epoch`` and ``step`` say when it was.
            None, NaN and infinity leave a gap, and a missing name has no panel. Never modified.
        title: A name for the model, above the panels. Long ones are wrapped.
        figure: An empty figure or subfigure to draw into; by default a new figure.

    Returns:
        The figure drawn into.

    Raises:
        MixupImportError: If matplotlib is not installed.

    Example:
        >>> figure = history_plot({"epoch": [0, 1, 2], "accuracy": [0.7, None, 0.9]})
        >>> [panel.get_title(loc="left") for panel in figure.axes]
        ['accuracy']
    """
    canvas = new_figure(4.4, 6) if figure is None else figure
    values = {name: [math.nan if v is None else v for v in history[name]] for name in history}
    epochs = values.get("epoch", [])
    # An epoch with several validations is no single place, but a step is.
    unit = "epoch" if len(set(epochs)) == len(epochs) else "step"
    names = [name for name in _PANELS if name in history]
    for row, name in enumerate(names, start=1):
        axes = canvas.add_subplot(len(names), 1, row)
        _draw_curve(axes, values.get(unit, []), values[name])
        if name == "ece" and "noise_floor" in values:
            _draw_floor(axes, values.get(unit, []), values["noise_floor"])
        if name == "confidence_gap":
            _draw_signs(axes, values.get(unit, []), values[name])
        axes.set_title(_PANELS[name], loc="left", fontsize="medium")
        axes.tick_params(labelbottom=row == len(names))
        axes.set_xlabel(unit if row == len(names) else "")
    draw_title(canvas, title)
    return canvas


def report_plot(entry: Mapping[str, Any], *, title: str = "") -> Figure:
    """Draws the reliability diagram, the history beside it, and the verdict below.

    Args:
        entry: Figures of one dataloader: ``bins``, ``verdict`` and, if they are to be drawn,
            ``history``, of two validations or more. Never modified.
        title: A name for the run, above. Long ones are wrapped.

    Returns:
        A new figure; ``figure.savefig("report.png")`` writes it.

    Raises:
        MixupImportError: If matplotlib is not installed.
        MixupValueError: If the entry has no bins.

    Example:
        >>> bins = {"count": [4.0, 8.0], "correct": [1.0, 8.0], "confidence": [2.0, 7.0]}
        >>> figure = report_plot({"bins": bins, "verdict": "Too few samples to tell."})
    """
    bins, history = bins_of(entry), entry.get("history", {})
    ratios = (1.15, 1) if len(history.get("epoch", ())) > 1 else (1,)
    canvas = new_figure(7.6 if len(ratios) > 1 else 4.4, 6.5)
    left, *right = canvas.subfigures(1, len(ratios), squeeze=False, width_ratios=ratios).flat
    _draw_legend(left, reliability_diagram(bins, figure=left).axes[0])
    for panel in right:
        history_plot(history, figure=panel)
    draw_title(canvas, title)
    caption = canvas.supxlabel(entry["verdict"], x=0.02, fontsize="medium", **_VERBATIM)
    wrap(caption, 0.95 * canvas.bbox.width)
    return canvas


def compare_reports(entries: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draws the reliability diagrams of several runs on one scale, two in a row, with one legend.

    Args:
        entries: By the name of each run, the figures of one dataloader. Never modified.

    Returns:
        A new figure; ``figure.savefig("comparison.png")`` writes it.

    Raises:
        MixupImportError: If matplotlib is not installed.
        MixupValueError: If there is no entry, or if one has no bins.

    Example:
        >>> bins = {"count": [4.0, 8.0], "correct": [1.0, 8.0], "confidence": [2.0, 7.0]}
        >>> figure = compare_reports({"plain": {"bins": bins}, "mixup": {"bins": bins}})
    """
    if not entries:
        raise MixupValueError(
            "compare_reports({}) has nothing to draw. Give at least one entry by the name of its "
            'run, as {"plain": entry, "mixup": entry}.'
        )
    columns, rows = min(2, len(entries)), math.ceil(len(entries) / 2)
    canvas = new_figure(4 * columns, 0.7 + 4.6 * rows)
    grid = canvas.subplots(2 * rows, columns, squeeze=False, height_ratios=(3.5, 1) * rows)
    panels = list(zip(grid[::2].flat, grid[1::2].flat, strict=True))
    for pair, (name, entry) in zip(panels, entries.items(), strict=False):
        _draw_diagram(*pair, bins_of(entry), name)
    for upper, lower in panels[len(entries) :]:
        upper.remove()
        lower.remove()
    drawn = [lower for _, lower in panels[: len(entries)]]
    highest = max(lower.get_ylim()[1] for lower in drawn)
    for lower in drawn:
        lower.set_ylim(0, highest)
    _draw_legend(canvas, canvas.axes[0])
    return canvas


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty figure of that size, in inches.

    Raises:
        MixupImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MixupImportError(
            "Pictures are drawn with matplotlib, which is not installed. "
            "Write `pip install matplotlib`, or install lightning-mixup with its extra `plot`."
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def draw_title(canvas: Figure | SubFigure, title: str) -> None:
    """Writes a title above all, in as many lines as it takes."""
    if title:
        words = canvas.suptitle(title, x=0.02, fontweight="bold", **_VERBATIM)
        wrap(words, 0.95 * canvas.bbox.width)


def _draw_legend(canvas: Figure | SubFigure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside lower center", ncols=2, fontsize="small")


def wrap(text: Text, width: float) -> None:
    """Breaks a text's lines, so that none is wider than that many pixels."""
    lines = text.get_text().split("\n")
    for columns in range(max(map(len, lines)), 0, -1):
        text.set_text("\n".join(textwrap.fill(line, columns) for line in lines))
        if text.get_window_extent().width <= width:
            return


def _draw_diagram(upper: Axes, lower: Axes, bins: ReliabilityBins, title: str) -> None:
    _draw_accuracy(upper, bins)
    _draw_counts(lower, bins)
    upper.tick_params(labelbottom=False)
    upper.text(0, 1.03, _summary(bins), transform=upper.transAxes)
    # Above the summary's two lines.
    heading = upper.set_title(title, loc="left", pad=36, fontweight="bold", **_VERBATIM)
    wrap(heading, upper.bbox.width)


def _summary(bins: ReliabilityBins) -> str:
    total = bins.count.sum().item()
    if not total:
        return "no samples"
    gap = f"{bins.confidence_gap():+.3f}".replace("-", "\N{MINUS SIGN}")
    return (
        f"ECE {bins.expected_calibration_error():.3f}, noise floor {bins.noise_floor():.3f}\n"
        f"gap {gap}, {total:,.0f} sample{'s' if total > 1 else ''}"
    )


def _draw_accuracy(axes: Axes, bins: ReliabilityBins) -> None:
    # An empty bin gives 0 / 0, and matplotlib draws no bar of NaN height.
    accuracy, confidence = bins.correct / bins.count, bins.confidence / bins.count
    low, high = range_of_chance(bins)
    beyond = (accuracy < low) | (high < accuracy)
    over = (confidence - accuracy).where(confidence > accuracy, math.nan)
    under = (accuracy - confidence).where(accuracy > confidence, math.nan)
    _draw_bars(axes, accuracy, label="accuracy", **_PLAIN)
    _draw_bars(axes, over.where(~beyond, math.nan), accuracy, **_OVER_BY_CHANCE)
    _draw_bars(axes, under.where(~beyond, math.nan), confidence, **_UNDER_BY_CHANCE)
    _draw_bars(axes, over.where(beyond, math.nan), accuracy, label="over-confident", **_OVER)
    _draw_bars(axes, under.where(beyond, math.nan), confidence, label="under-confident", **_UNDER)
    middle, reach = ((low + high) / 2).tolist(), ((high - low) / 2).tolist()
    axes.errorbar(_middles(bins), middle, reach, label="range of chance (90 %)", **_RANGE)
    axes.plot([0, 1], [0, 1], "--", color="black", linewidth=1, label="perfect calibration")
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")


def _draw_counts(axes: Axes, bins: ReliabilityBins) -> None:
    _draw_bars(axes, bins.count, **_PLAIN)
    axes.set(xlim=(0, 1), ylim=(0, 1.4 * bins.count.max().item() or 1))
    axes.set(xlabel="confidence", ylabel="samples")
    axes.locator_params(axis="y", nbins=2, integer=True)
    axes.yaxis.set_major_formatter(lambda count, _: _brief(count))
    if len(bins.count) <= 20:  # or the numbers would run into each other
        for middle, count in zip(_middles(bins), bins.count.tolist(), strict=True):
            place: dict[str, Any] = {"transform": axes.transAxes, "va": "top", "ha": "center"}
            axes.text(middle, 0.95, _brief(count) if count else "", fontsize=6, **place)
    if bins.count.any():
        accuracy, confidence = bins.accuracy().item(), bins.mean_confidence().item()
        line: dict[str, Any] = {"ymax": 0.75, "color": "black"}  # below the numbers
        axes.axvline(accuracy, label=f"accuracy {accuracy:.3f}", **line)
        axes.axvline(confidence, linestyle=":", label=f"confidence {confidence:.3f}", **line)
        # Above the panel, where no bar can be in the way.
        above: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1)}
        axes.legend(**above, ncols=2, fontsize="small", frameon=False)


def _brief(count: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * size:
            return f"{count / size:{'.2g' if count < 10 * size else '.0f'}}{unit}"
    return f"{count:.0f}"


def _middles(bins: ReliabilityBins) -> list[float]:
    return [(index + 0.5) / len(bins.count) for index in range(len(bins.count))]


def _draw_bars(axes: Axes, height: Tensor, bottom: Tensor | None = None, **style: Any) -> None:
    width = 1 / len(height)
    left = [index * width for index in range(len(height))]
    start = 0 if bottom is None else bottom.tolist()
    axes.bar(left, height.tolist(), width, start, align="edge", **style)


def _draw_curve(axes: Axes, times: list[float], values: list[float]) -> None:
    size = min(4.0, 1 + 100 / (len(times) + 1))  # markers, as one value alone is no line
    axes.plot(times, values, "o-", color="black", linewidth=1.2, markersize=size)
    axes.margins(y=0.15)
    if times:
        axes.set_xlim(min(times) - 0.5, max(times) + 0.5)
    axes.grid(axis="y", color="#E4E6EA")
    axes.set_axisbelow(True)
    axes.locator_params(axis="y", nbins=4)
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)


def _draw_floor(axes: Axes, times: list[float], floor: list[float]) -> None:
    """Draws a band from zero, of bars that touch, since one value alone would have no band."""
    apart = [after - before for before, after in pairwise(times)]
    axes.bar(times, floor, min(apart, default=1), color="#C5CAD3", linewidth=0)


def _draw_signs(axes: Axes, times: list[float], gaps: list[float]) -> None:
    """Tints what lies between the line and zero, and leaves room for a word on either side."""
    reach = 2 * max((abs(gap) for gap in gaps if math.isfinite(gap)), default=0) or 1
    axes.set_ylim(-reach, reach)
    axes.axhline(0, color="black", linewidth=0.8, linestyle="--")
    for sign, word, style in ((1, "over-confident", _OVER), (-1, "under-confident", _UNDER)):
        tint: dict[str, Any] = {"color": style["facecolor"], "linewidth": 0}
        where = [sign * gap > 0 for gap in gaps]
        axes.fill_between(times, gaps, where=where, interpolate=True, **tint)
        ink: dict[str, Any] = {"color": style["edgecolor"], "fontsize": "small"}
        place: dict[str, Any] = {"transform": axes.transAxes, "va": "center", "ha": "right"}
        axes.text(0.98, 0.5 + 0.37 * sign, word, **place, **ink)
