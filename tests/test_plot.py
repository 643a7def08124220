"""Tests for lightning_mixup.plot."""

import io
import sys

import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from lightning_mixup.plot import reliability_diagram
from lightning_mixup.reliability import ReliabilityBins

OVER, UNDER = "over-confident", "under-confident"


@pytest.fixture
def bins():
    """Four bins: empty, under-confident by 0.2, over-confident by 0.4, calibrated."""
    count, accuracy = torch.tensor([0.0, 10, 20, 10]), torch.tensor([0.5, 0.6, 0.2, 0.9])
    confidence = torch.tensor([0.0, 0.4, 0.6, 0.9])
    return ReliabilityBins(
        *(figure.double() for figure in (count, count * accuracy, count * confidence))
    )


def bars(axes, label):
    """Returns (left, bottom, top) of every visible bar of a series."""
    series = next(group for group in axes.containers if group.get_label() == label)
    boxes = [bar.get_bbox() for bar in series if bar.get_height() == bar.get_height()]
    return [tuple(round(edge, 6) for edge in (box.x0, box.y0, box.y1)) for box in boxes]


def test_bars_are_accuracies(bins):
    upper, _ = reliability_diagram(bins).axes

    assert bars(upper, "accuracy") == [(0.25, 0, 0.6), (0.5, 0, 0.2), (0.75, 0, 0.9)]


def test_gaps_span_from_accuracy_to_confidence_in_the_color_of_their_sign(bins):
    upper, _ = reliability_diagram(bins).axes

    assert bars(upper, OVER) == [(0.5, 0.2, 0.6)]
    assert bars(upper, UNDER) == [(0.25, 0.4, 0.6)]


def test_signs_differ_in_color_and_in_hatch(bins):
    upper, _ = reliability_diagram(bins).axes

    patches = {group.get_label(): group.patches[0] for group in upper.containers}
    assert patches[OVER].get_hatch() != patches[UNDER].get_hatch()
    assert to_hex(patches[OVER].get_edgecolor()) != to_hex(patches[UNDER].get_edgecolor())


def test_the_strip_below_counts_samples(bins):
    _, lower = reliability_diagram(bins).axes

    assert [bar.get_height() for bar in lower.patches] == [0, 10, 20, 10]


def test_the_strip_below_shows_accuracy_and_confidence(bins):
    _, lower = reliability_diagram(bins).axes

    assert {line.get_label(): line.get_xdata()[0] for line in lower.lines} == {
        "accuracy 0.475": pytest.approx(0.475),
        "confidence 0.625": pytest.approx(0.625),
    }


def test_the_figures_are_written_above(bins):
    upper, _ = reliability_diagram(bins, title="clean").axes

    assert upper.get_title(loc="left") == "clean"
    assert upper.texts[0].get_text() == "ECE 0.250 (noise floor 0.094)\ngap +0.150"


def test_a_negative_gap_is_written_with_a_minus_sign(bins):
    upper, _ = reliability_diagram(ReliabilityBins(bins.count, bins.confidence, bins.correct)).axes

    assert upper.texts[0].get_text().endswith("gap \N{MINUS SIGN}0.150")


def test_several_diagrams_share_a_figure_and_leave_the_legend_to_it(bins):
    figure = Figure(layout="constrained")
    left, right = figure.subfigures(1, 2)

    drawn = [reliability_diagram(bins, figure=left), reliability_diagram(bins, figure=right)]

    assert drawn == [left, right]
    assert len(figure.axes) == 4
    assert not left.legends + right.legends
    _, labels = left.axes[0].get_legend_handles_labels()
    assert set(labels) == {"accuracy", OVER, UNDER, "perfect calibration"}


def test_a_figure_of_its_own_has_one_legend(bins):
    figure = reliability_diagram(bins)

    assert len(figure.legends) == 1
    assert reliability_diagram(bins).axes[0].get_legend() is None


@pytest.mark.parametrize("count", [0.0, 5.0], ids=["no samples", "one bin filled"])
def test_it_can_be_saved_however_few_samples(count):
    file, sums = io.BytesIO(), torch.tensor([0.0, count], dtype=torch.float64)

    reliability_diagram(ReliabilityBins(sums, sums, sums)).savefig(file)

    assert file.getvalue().startswith(b"\x89PNG")


def test_without_matplotlib_the_error_names_the_extra(bins, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    with pytest.raises(ImportError, match=r"`pip install matplotlib`, or .* extra `plot`"):
        reliability_diagram(bins)


def test_pyplot_is_not_touched(bins, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)

    assert reliability_diagram(bins).axes
