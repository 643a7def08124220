"""Reliability diagrams; the one place that knows matplotlib, which is imported where it is used.

Figures are made without pyplot, so no display is needed and no global state is touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_mixup.errors import MixupImportError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from lightning_mixup.reliability import ReliabilityBins

__all__ = ["reliability_diagram"]

# Okabe and Ito's vermilion and blue, which color-blind readers tell apart, each with a tint; in a
# gray print the hatches remain.
_OVER: dict[str, Any] = {"edgecolor": "#D55E00", "facecolor": "#F7DDCB", "hatch": "////"}
_UNDER: dict[str, Any] = {"edgecolor": "#0072B2", "facecolor": "#D3E6F2", "hatch": "...."}
_PLAIN: dict[str, Any] = {"edgecolor": "white", "facecolor": "#C5CAD3"}


def reliability_diagram(
    bins: ReliabilityBins, *, title: str = "", figure: Figure | SubFigure | None = None
) -> Figure | SubFigure:
    """Draws accuracy against confidence, and below it how many samples stand behind each bar.

    Each upper bar is a bin's accuracy. The hatched part is the gap between it and the bin's mean
    confidence, colored by its sign; these gaps, weighted by the counts below, sum to the ECE.
    Differences in ECE smaller than the noise floor mean little. The lower panel also shows the
    accuracy and the mean confidence of all samples: the distance between them is the gap.

    Reference:
        | On Calibration of Modern Neural Networks (Guo, Pleiss, Sun and Weinberger, 2017)
        | https://arxiv.org/abs/1706.04599

    Args:
        bins: As returned by :meth:`lightning_mixup.calibration.CalibrationStatistics.bins`.
        title: A name for the model, above the diagram.
        figure: An empty figure or subfigure to draw into, for several diagrams side by side;
            by default a new figure, with a legend. For a legend to several diagrams, pass what
            ``figure.axes[0].get_legend_handles_labels()`` returns for one of them.

    Returns:
        The figure drawn into; ``figure.savefig("reliability.png")`` writes it.

    Raises:
        MixupImportError: If matplotlib is not installed.

    Example:
        >>> from lightning_mixup.calibration import CalibrationStatistics
        >>> statistics = CalibrationStatistics()
        >>> statistics.update(torch.randn(100, 10), torch.randint(10, (100,)))
        >>> figure = reliability_diagram(statistics.bins(), title="untrained")
    """
    canvas = _new_figure() if figure is None else figure
    upper, lower = canvas.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    _draw_accuracy(upper, bins)
    _draw_counts(lower, bins)
    upper.set_title(title, loc="left", pad=36, fontweight="bold")  # above the summary's two lines
    upper.text(0, 1.03, _summary(bins), transform=upper.transAxes)
    if figure is None:
        canvas.legend(*upper.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return canvas


def _new_figure() -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MixupImportError(
            "reliability_diagram() draws with matplotlib, which is not installed. "
            "Write `pip install matplotlib`, or install lightning-mixup with its extra `plot`."
        ) from error
    return Figure(figsize=(4.4, 5.8), layout="constrained")


def _summary(bins: ReliabilityBins) -> str:
    gap = f"{bins.confidence_gap():+.3f}".replace("-", "\N{MINUS SIGN}")
    return (
        f"ECE {bins.expected_calibration_error():.3f} (noise floor {bins.noise_floor():.3f})\n"
        f"gap {gap}"
    )


def _draw_accuracy(axes: Axes, bins: ReliabilityBins) -> None:
    # An empty bin gives 0 / 0, and matplotlib draws no bar of NaN height.
    accuracy, confidence = bins.correct / bins.count, bins.confidence / bins.count
    over = torch.where(confidence > accuracy, confidence - accuracy, torch.nan)
    under = torch.where(accuracy > confidence, accuracy - confidence, torch.nan)
    _draw_bars(axes, accuracy, label="accuracy", **_PLAIN)
    _draw_bars(axes, over, accuracy, label="over-confident", **_OVER)
    _draw_bars(axes, under, confidence, label="under-confident", **_UNDER)
    axes.plot([0, 1], [0, 1], "--", color="black", linewidth=1, label="perfect calibration")
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")


def _draw_counts(axes: Axes, bins: ReliabilityBins) -> None:
    accuracy, confidence = bins.accuracy().item(), bins.mean_confidence().item()
    _draw_bars(axes, bins.count, **_PLAIN)
    axes.axvline(accuracy, color="black", label=f"accuracy {accuracy:.3f}")
    axes.axvline(confidence, color="black", linestyle=":", label=f"confidence {confidence:.3f}")
    axes.set(xlabel="confidence", ylabel="samples")
    # Above the panel, where no bar can be in the way.
    place: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1)}
    axes.legend(**place, ncols=2, fontsize="small", frameon=False)


def _draw_bars(axes: Axes, height: Tensor, bottom: Tensor | None = None, **style: Any) -> None:
    width = 1 / len(height)
    left = [index * width for index in range(len(height))]
    start = 0 if bottom is None else bottom.tolist()
    axes.bar(left, height.tolist(), width, start, align="edge", **style)
