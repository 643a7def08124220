"""Tests for lightning_mixup.plot."""

import copy
import io
import sys
from itertools import combinations

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy.stats import binom

from lightning_mixup.plot import compare_reports, history_plot, reliability_diagram, report_plot
from lightning_mixup.reliability import ReliabilityBins

OVER, UNDER = "over-confident", "under-confident"
SIXTY = "digits, 40 % of the labels noisy, mixup with alpha 0.2, seed 1"
VERDICT = (
    "Over-confident by 0.164, more than the noise floor of 0.022 explains: dividing the logits by "
    "3.02 would bring the ECE from 0.164 to 0.014, and the NLL from 1.31 to 0.46."
)


def make_bins(count, accuracy, confidence):
    count, accuracy, confidence = (
        torch.tensor(values, dtype=torch.float64) for values in (count, accuracy, confidence)
    )
    return ReliabilityBins(count, count * accuracy, count * confidence)


def random_bins(seed, n=15):
    generator = torch.Generator().manual_seed(seed)
    count = torch.randint(400, (n,), generator=generator).double()
    correct = torch.bernoulli(torch.full((n, 400), 0.7), generator=generator).double().cumsum(1)
    correct = torch.where(count > 0, correct[torch.arange(n), (count.long() - 1).clamp(0)], 0)
    return ReliabilityBins(count, correct, count * (torch.arange(n) + 0.4) / n)


def make_entry(bins, epochs=0, **changes):
    history = {name: [0.1 + 0.9 / (e + 1) for e in range(epochs)] for name in ("accuracy", "nll")}
    history |= {"epoch": list(range(epochs)), "step": [15 * e for e in range(epochs)]}
    history |= {"ece": [0.3 / (e + 1) for e in range(epochs)], "noise_floor": [0.02] * epochs}
    history |= {"confidence_gap": [0.2 - 0.3 / (e + 1) for e in range(epochs)]}
    sums = {name: getattr(bins, name).tolist() for name in ("count", "correct", "confidence")}
    return {"verdict": VERDICT, "bins": sums, "history": history} | changes


@pytest.fixture
def bins():
    """Four bins: empty, under-confident by 0.2, over-confident by 0.4, calibrated."""
    return make_bins([0, 10, 20, 10], [0.5, 0.6, 0.2, 0.9], [0, 0.4, 0.6, 0.9])


def boxes(bar_container):
    """Returns (left, bottom, top) of every visible bar of a series."""
    found = [bar.get_bbox() for bar in bar_container if bar.get_height() == bar.get_height()]
    return [tuple(round(edge, 6) for edge in (box.x0, box.y0, box.y1)) for box in found]


def series(axes, label):
    return next(group for group in axes.containers if group.get_label() == label)


def gaps(axes):
    """Returns the height of every gap by its place, above zero where it has the warm color."""
    found = {}
    for group in axes.containers:
        if isinstance(group, BarContainer) and group.get_label() != "accuracy":
            red, _, blue = to_rgb(group.patches[0].get_edgecolor())
            for left, bottom, top in boxes(group):
                found[left] = (top - bottom) * (1 if red > blue else -1)
    return found


def ranges(axes):
    """Returns the low and the high end of every range of chance, by its place."""
    drawn = next(group for group in axes.containers if isinstance(group, ErrorbarContainer))
    ends = [segment for segment in drawn.lines[2][0].get_segments() if len(segment)]
    return {round(low[0], 6): (low[1], high[1]) for low, high in ends if low[1] == low[1]}


def drawn_texts(figure, monkeypatch):
    """Draws a figure and returns every text in it, by where it came to lie."""
    seen, draw = [], Text.draw

    def spy(text, renderer):
        if text.get_visible() and text.get_text():
            seen.append(text)
        draw(text, renderer)

    with monkeypatch.context() as patch:
        patch.setattr(Text, "draw", spy)
        FigureCanvasAgg(figure).draw()
    return [(text.get_text(), text.get_window_extent()) for text in dict.fromkeys(seen)]


def test_bars_are_accuracies(bins):
    upper, _ = reliability_diagram(bins).axes

    accuracies = [(0.25, 0, 0.6), (0.5, 0, 0.2), (0.75, 0, 0.9)]
    assert boxes(series(upper, "accuracy")) == accuracies


def test_gaps_span_from_accuracy_to_confidence_in_the_color_of_their_sign(bins):
    upper, _ = reliability_diagram(bins).axes

    assert boxes(series(upper, OVER)) == [(0.5, 0.2, 0.6)]
    assert gaps(upper) == {0.25: pytest.approx(-0.2), 0.5: pytest.approx(0.4)}


@pytest.mark.parametrize("seed", range(3))
def test_gaps_weighted_by_the_counts_drawn_sum_to_the_figures(seed):
    bins = random_bins(seed)

    upper, lower = reliability_diagram(bins).axes

    counts = {left: top for left, _, top in boxes(lower.containers[0])}
    shares = [gap * counts[left] / sum(counts.values()) for left, gap in gaps(upper).items()]
    assert sum(shares) == pytest.approx(bins.confidence_gap().item(), abs=1e-5)
    ece = bins.expected_calibration_error().item()
    assert sum(abs(share) for share in shares) == pytest.approx(ece, abs=1e-5)


def test_adding_bins_draws_what_their_samples_would_have_drawn():
    """Accuracies of pooled bins are means, weighted by the counts."""
    one, other = random_bins(0), random_bins(1)

    pictures = [reliability_diagram(bins).axes for bins in (one, other, one + other)]

    heights = [
        torch.tensor([bar.get_height() for bar in series(upper, "accuracy")])
        for upper, _ in pictures
    ]
    counts = [torch.tensor([bar.get_height() for bar in lower.patches]) for _, lower in pictures]
    assert torch.equal(counts[2], counts[0] + counts[1])
    pooled = (heights[0] * counts[0]).nan_to_num() + (heights[1] * counts[1]).nan_to_num()
    torch.testing.assert_close((heights[2] * counts[2]).nan_to_num(), pooled)


def test_ranges_are_those_of_a_calibrated_model():
    counts = torch.tensor([1, 3, 20, 2000, 10_000_000]).repeat_interleave(4).tolist()
    chances = [0.001, 0.3, 0.97, 1.0] * 5

    upper, _ = reliability_diagram(make_bins(counts, [0.5] * 20, chances)).axes

    drawn = torch.tensor(list(ranges(upper).values()), dtype=torch.float64)
    low, high = (binom.ppf(point, counts, chances) / counts for point in (0.05, 0.95))
    assert drawn[:, 0].tolist() == pytest.approx(low, abs=1e-12)
    assert drawn[:, 1].tolist() == pytest.approx(high, abs=1e-12)


def test_gaps_are_hatched_where_they_exceed_the_range_of_chance():
    bins = random_bins(2, n=30)

    upper, _ = reliability_diagram(bins).axes

    hatched = {left for name in (OVER, UNDER) for left, _, _ in boxes(series(upper, name))}
    accuracy = {left + 1 / 60: top for left, _, top in boxes(series(upper, "accuracy"))}
    beyond = {
        left
        for place, (low, high) in ranges(upper).items()
        for left, top in accuracy.items()
        if abs(left - place) < 1e-5 and not low - 1e-6 <= top <= high + 1e-6
    }
    assert 0 < len(beyond) < len(accuracy)
    assert {left + 1 / 60 for left in hatched} == beyond


def test_signs_differ_in_color_and_in_hatch(bins):
    upper, _ = reliability_diagram(bins).axes

    over, under = (series(upper, name).patches[0] for name in (OVER, UNDER))
    assert over.get_hatch() != under.get_hatch()
    assert to_hex(over.get_edgecolor()) != to_hex(under.get_edgecolor())


def test_the_strip_below_counts_samples(bins):
    _, lower = reliability_diagram(bins).axes

    assert [bar.get_height() for bar in lower.patches] == [0, 10, 20, 10]
    assert [text.get_text() for text in lower.texts] == ["", "10", "20", "10"]


@pytest.mark.parametrize(
    ("count", "written"),
    [
        (999, "999"),
        (1000, "1k"),
        (1540, "1.5k"),
        (9970, "10k"),
        (99_700, "100k"),
        (999_999, "1M"),
        (2e9, "2G"),
    ],
)
def test_large_counts_are_written_briefly(count, written):
    _, lower = reliability_diagram(make_bins([count], [0.5], [0.5])).axes

    assert lower.texts[0].get_text() == written


def test_numbers_are_left_out_where_bins_are_too_narrow_for_them():
    assert not reliability_diagram(random_bins(0, n=50)).axes[1].texts


def test_the_strip_below_shows_accuracy_and_confidence(bins):
    _, lower = reliability_diagram(bins).axes

    assert {line.get_label(): line.get_xdata()[0] for line in lower.lines} == {
        "accuracy 0.475": pytest.approx(0.475),
        "confidence 0.625": pytest.approx(0.625),
    }


def test_the_figures_are_written_above(bins):
    upper, _ = reliability_diagram(bins, title="clean").axes

    assert upper.get_title(loc="left") == "clean"
    written = "ECE 0.250, noise floor 0.094\ngap +0.150, 40 samples"
    assert upper.texts[0].get_text() == written


def test_a_negative_gap_is_written_with_a_minus_sign(bins):
    upper, _ = reliability_diagram(ReliabilityBins(bins.count, bins.confidence, bins.correct)).axes

    assert "gap \N{MINUS SIGN}0.150" in upper.texts[0].get_text()


def test_one_sample_is_not_called_samples():
    upper, _ = reliability_diagram(make_bins([1], [1], [0.9])).axes

    assert upper.texts[0].get_text().endswith("1 sample")


def test_several_diagrams_share_a_figure_and_leave_the_legend_to_it(bins):
    figure = Figure(layout="constrained")
    left, right = figure.subfigures(1, 2)

    drawn = [reliability_diagram(bins, figure=left), reliability_diagram(bins, figure=right)]

    assert drawn == [left, right]
    assert len(figure.axes) == 4
    assert not left.legends + right.legends
    _, labels = left.axes[0].get_legend_handles_labels()
    known = {"accuracy", OVER, UNDER, "range of chance (90 %)", "perfect calibration"}
    assert set(labels) == known


def test_a_figure_of_its_own_has_one_legend(bins):
    figure = reliability_diagram(bins)

    assert len(figure.legends) == 1
    assert reliability_diagram(bins).axes[0].get_legend() is None


def test_a_history_is_drawn_into_the_figure_given(bins):
    figure = Figure(layout="constrained")

    assert history_plot(make_entry(bins, 3)["history"], figure=figure) is figure
    assert len(figure.axes) == 4


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf")])
def test_a_missing_value_leaves_a_gap_and_values_alone_are_dots(missing):
    history = {"epoch": [0, 1, 2, 3], "accuracy": [0.5, missing, 0.7, missing]}

    (line,) = history_plot(history).axes[0].lines

    drawn = torch.tensor(line.get_ydata())
    assert drawn.isfinite().tolist() == [True, False, True, False]
    assert drawn[[0, 2]].tolist() == [0.5, 0.7]
    assert line.get_marker() == "o"
    assert line.get_markersize() > 1


@pytest.mark.parametrize("epochs", [1, 2, 20])
def test_the_noise_floor_is_a_band_from_zero_without_holes(bins, epochs):
    axes = history_plot(make_entry(bins, epochs)["history"]).axes[1]

    edges = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches]
    assert [bar.get_height() for bar in axes.patches] == [0.02] * epochs
    assert [start for start, _ in edges[1:]] == pytest.approx([end for _, end in edges[:-1]])
    assert axes.get_ylim()[0] == 0


def test_an_epoch_with_several_validations_is_drawn_over_steps():
    history = {"epoch": [0, 0, 1], "step": [10, 20, 30], "accuracy": [0.1, 0.2, 0.3]}

    (axes,) = history_plot(history).axes

    assert axes.get_xlabel() == "step"
    assert list(axes.lines[0].get_xdata()) == [10, 20, 30]


def test_the_gap_leaves_room_for_the_words_on_either_side_of_zero(bins):
    figure = history_plot(
        make_entry(bins)["history"]
        | {
            "epoch": [0, 1],
            "confidence_gap": [-0.3, 0.2],
            "accuracy": [1, 1],
            "ece": [0, 0],
            "noise_floor": [0, 0],
            "nll": [1, 1],
        }
    )
    FigureCanvasAgg(figure).draw()

    axes = figure.axes[2]
    above, below = (text.get_window_extent() for text in axes.texts)
    assert [text.get_text() for text in axes.texts] == [OVER, UNDER]
    assert above.y0 > axes.transData.transform((0, 0.3))[1]
    assert below.y1 < axes.transData.transform((0, -0.3))[1]


@pytest.mark.parametrize(("epochs", "panels"), [(0, 2), (1, 2), (2, 6)])
def test_a_report_has_a_history_if_there_was_one(bins, epochs, panels):
    assert len(report_plot(make_entry(bins, epochs)).axes) == panels


def test_a_report_of_a_test_needs_no_history(bins):
    entry = make_entry(bins)
    del entry["history"]

    assert len(report_plot(entry).axes) == 2


def test_the_verdict_is_wrapped_and_keeps_its_words(bins):
    caption = report_plot(make_entry(bins, 3)).texts[-1].get_text()

    assert "\n" in caption
    assert caption.split() == VERDICT.split()


def test_compared_runs_share_their_scales_and_one_legend(bins):
    larger = ReliabilityBins(*(100 * sums for sums in (bins.count, bins.correct, bins.confidence)))

    figure = compare_reports({"plain": make_entry(bins), "mixup": make_entry(larger)})

    first, second, *strips = figure.axes
    assert [axes.get_title(loc="left") for axes in (first, second)] == ["plain", "mixup"]
    assert len({axes.get_ylim() for axes in (first, second)}) == 1
    assert len({axes.get_ylim() for axes in strips}) == 1
    assert strips[0].get_ylim()[1] > 2000
    assert len(figure.legends) == 1


@pytest.mark.parametrize("runs", [1, 3, 4])
def test_there_are_as_many_diagrams_as_runs(bins, runs):
    assert (
        len(compare_reports(dict.fromkeys(map(str, range(runs)), make_entry(bins))).axes)
        == 2 * runs
    )


CASES = {
    "no samples": make_bins([0] * 15, [0] * 15, [0] * 15),
    "one sample": make_bins([0] * 14 + [1], [1] * 15, [0.97] * 15),
    "one bin": make_bins([50, 0, 0], [0.2] * 3, [0.3] * 3),
    "always right": make_bins([60] * 15, [1] * 15, [(i + 0.5) / 15 for i in range(15)]),
    "ten million": make_bins([667_777] * 15, [0.5] * 15, [(i + 0.5) / 15 for i in range(15)]),
    "four decades": make_bins([10 ** (i / 3) // 1 for i in range(15)], [0.5] * 15, [0.5] * 15),
}
PICTURES = {
    "report of no samples": lambda: report_plot(make_entry(CASES["no samples"], 4), title=SIXTY),
    "report of one sample": lambda: report_plot(make_entry(CASES["one sample"], 4), title=SIXTY),
    "diagram": lambda: reliability_diagram(random_bins(0), title=SIXTY),
    "diagram with a word too long": lambda: reliability_diagram(random_bins(0), title="W" * 60),
    "test report": lambda: report_plot(make_entry(random_bins(0)), title=SIXTY),
    "one epoch": lambda: history_plot(make_entry(random_bins(0), 1)["history"], title=SIXTY),
    "no epoch": lambda: history_plot(make_entry(random_bins(0), 0)["history"], title=SIXTY),
    "300 epochs": lambda: history_plot(make_entry(random_bins(0), 300)["history"]),
    "four runs": lambda: compare_reports({
        f"{SIXTY}, {name}": make_entry(bins) for name, bins in [*CASES.items()][-4:]
    }),
    "one run": lambda: compare_reports({SIXTY: make_entry(random_bins(0))}),
}


@pytest.mark.parametrize("picture", PICTURES)
def test_no_text_is_cut_or_runs_into_another(picture, monkeypatch):
    figure = PICTURES[picture]()

    texts = drawn_texts(figure, monkeypatch)

    canvas = figure.bbox.padded(0.5)
    outside = [
        word
        for word, box in texts
        if not (canvas.contains(*box.min) and canvas.contains(*box.max))
    ]
    touching = [
        (one, other)
        for (one, box), (other, place) in combinations(texts, 2)
        if box.padded(-0.5).overlaps(place.padded(-0.5))
    ]
    assert len(texts) > 10
    assert (outside, touching) == ([], [])


@pytest.mark.parametrize(
    "draw",
    [
        report_plot,
        lambda entry: history_plot(entry["history"]),
        lambda e: compare_reports({"": e}),
    ],
    ids=["report", "history", "comparison"],
)
def test_drawing_changes_nothing_that_was_given(bins, draw):
    entry = make_entry(bins, 3)
    entry["history"]["accuracy"][1] = None
    before = copy.deepcopy(entry)

    draw(entry)

    assert entry == before


def test_drawing_leaves_the_bins_as_they_were(bins):
    before = copy.deepcopy(bins)

    reliability_diagram(bins)

    assert torch.equal(bins.count, before.count)
    assert torch.equal(bins.correct, before.correct)
    assert torch.equal(bins.confidence, before.confidence)


def test_a_dollar_in_a_name_begins_no_formula(bins):
    file, entry = io.BytesIO(), make_entry(bins, verdict="costs $5, not $_")

    report_plot(entry, title="a $_{ b$").savefig(file)
    compare_reports({"a $_{ b$": entry}).savefig(file)

    assert file.getvalue().startswith(b"\x89PNG")


def test_nothing_to_compare_is_an_error():
    with pytest.raises(ValueError, match=r"has nothing to draw\. Give at least one entry"):
        compare_reports({})


@pytest.mark.parametrize("draw", [report_plot, lambda entry: compare_reports({"plain": entry})])
def test_an_entry_without_bins_says_what_to_pass(draw):
    """As when a file of several dataloaders is passed whole."""
    with pytest.raises(ValueError, match=r"has no `bins`, only 'val'\. Pass what .* of one"):
        draw({"val": {}})


DRAW = {
    "diagram": reliability_diagram,
    "history": lambda bins: history_plot(make_entry(bins, 3)["history"]),
    "report": lambda bins: report_plot(make_entry(bins, 3)),
    "comparison": lambda bins: compare_reports({"plain": make_entry(bins)}),
}


@pytest.mark.parametrize("name", DRAW)
def test_without_matplotlib_the_error_names_the_extra(name, bins, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    with pytest.raises(ImportError, match=r"`pip install matplotlib`, or .* extra `plot`"):
        DRAW[name](bins)


@pytest.mark.parametrize("name", DRAW)
def test_pyplot_is_not_touched(name, bins, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)

    assert DRAW[name](bins).axes
