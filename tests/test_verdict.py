"""Tests for lightning_mixup.verdict: what is said of a model, and how often it is wrong."""

import pytest
import torch
from torch.distributions import Categorical

from lightning_mixup.calibration import CalibrationStatistics
from lightning_mixup.reliability import ReliabilityBins
from lightning_mixup.verdict import chance_of, verdict_on

UNKNOWN = dict.fromkeys(["temperature", "ece_at_temperature", "noise_floor_at_temperature"])


def bins_of(size, temperature, scale=2.0, classes=10):
    """Returns the bins of a model whose best temperature is the one given."""
    logits = scale * torch.randn(size, classes)
    statistics = CalibrationStatistics()
    statistics.update(logits, Categorical(logits=logits / temperature).sample())
    return statistics.bins()


def made(*bins):
    """Returns bins of (samples, accuracy, confidence) each."""
    count, accuracy, confidence = torch.tensor(bins, dtype=torch.float64).T
    return ReliabilityBins(count, (count * accuracy).round(), count * confidence)


@pytest.mark.parametrize(
    ("temperature", "size", "beginning"),
    [
        (3.0, 2000, "Over-confident by 0."),
        (1 / 3, 2000, "Under-confident by 0."),
        (1.3, 10_000, "Over-confident by 0."),
        (0.8, 10_000, "Under-confident by 0."),
        (1.0, 2000, "Well calibrated, as far as 2,000 samples can tell: ECE 0."),
        (1.0, 100_000, "Well calibrated, as far as 100,000 samples can tell: ECE 0."),
        (1.0, 50, "Too few samples to tell: of 50, even a calibrated model may show an ECE of 0."),
        (1.1, 50, "Too few samples to tell: of 50"),
    ],
)
def test_models_are_called_what_they_were_made(temperature, size, beginning):
    assert verdict_on(bins_of(size, temperature), UNKNOWN).startswith(beginning)


@pytest.mark.parametrize(("size", "scale"), [(30, 1.0), (300, 6.0), (1000, 2.0), (10_000, 1.0)])
def test_chance_is_seldom_taken_for_more(size, scale):
    """In 100 models that are calibrated: 2 are expected, and 8 or more once in a thousand."""
    verdicts = [verdict_on(bins_of(size, 1.0, scale), UNKNOWN) for _ in range(100)]

    calm = [each for each in verdicts if each.startswith(("Well calibrated", "Too few"))]
    assert len(calm) > 92


@pytest.mark.parametrize("samples", [1, 5, 30])
def test_a_handful_of_samples_all_right_or_one_wrong_tells_nothing(samples):
    """However sure the model is: 0.99999 in each, and one error can't prove it wrong."""
    accuracy = 1 - 1 / samples

    assert verdict_on(made((samples, 1.0, 0.99999)), UNKNOWN).startswith("Too few samples")
    assert verdict_on(made((samples, accuracy, 0.99999)), UNKNOWN).startswith("Too few samples")


def test_what_cancels_out_is_found():
    verdict = verdict_on(made((5000, 0.4, 0.5), (5000, 0.9, 0.8)), UNKNOWN)

    assert verdict.startswith("Over-confident in some bins and under-confident in others, which")
    assert "ECE 0.100 is far above the noise floor of 0.005" in verdict


def test_a_small_remainder_of_what_cancels_out_is_not_the_main_thing():
    """However sure: an ECE of 0.1 is not told by "over-confident by 0.005"."""
    verdict = verdict_on(made((50_000, 0.395, 0.5), (50_000, 0.895, 0.8)), UNKNOWN)

    assert verdict.startswith("Over-confident in some bins and under-confident in others, which")
    assert "which mostly cancels out (gap +0.005); ECE 0.100 is far above" in verdict


def test_bins_that_chance_may_have_made_differ_are_not_said_to():
    bins = made(*[(100, s / 15 - (0.11, -0.05)[s % 2], s / 15) for s in range(2, 15)])

    assert verdict_on(bins, UNKNOWN).startswith("Over-confident by 0.03")


def test_what_is_sure_but_small_is_called_small():
    verdict = verdict_on(made((10_000_000, 0.897, 0.9)), UNKNOWN)

    assert verdict.startswith("Well calibrated: ECE 0.003 is more than chance")
    assert verdict.endswith("too little to matter.")


def test_a_gap_that_is_sure_where_the_ece_is_not_is_told_apart():
    """Small gaps of one sign add up in the gap; in the ECE, chance hides them."""
    bins = made(*[(100, share / 15 - 0.042, share / 15) for share in range(2, 15)])

    verdict = verdict_on(bins, UNKNOWN)

    assert verdict.startswith("Over-confident by 0.0")
    assert "ECE 0.043 alone might be chance (noise floor 0.034)" in verdict


@pytest.mark.parametrize(
    ("best", "mended", "floor", "words"),
    [
        (2.5, 0.01, 0.01, "logits divided by T = 2.50 would bring it to 0.010."),
        (0.00123, 0.01, 0.01, "logits divided by T = 0.00123 would bring it to 0.010."),
        (1.02, 0.195, 0.01, "that: logits divided by T = 1.02, the best, would have 0.195."),
        (2.5, 0.19, 0.1, "divided by T = 2.50 might help: their ECE, 0.190, may be chance."),
        (None, None, None, "no temperature mends that, as the logits tell nothing of the labels."),
        (0.3, None, None, "T = 0.30 might help: half of the samples do not suffice to tell."),
    ],
)
def test_it_says_what_a_temperature_would_mend(best, mended, floor, words):
    at_best = dict(zip(UNKNOWN, [best, mended, floor], strict=True))

    assert verdict_on(made((1000, 0.7, 0.9)), at_best).endswith(words)


def test_it_says_so_where_every_sample_is_right():
    verdict = verdict_on(made((1000, 1.0, 0.9)), UNKNOWN)

    assert verdict.startswith("Under-confident by 0.100")
    assert verdict.endswith("no temperature is best where every sample is right.")


@pytest.mark.parametrize("size", [100, 400])
def test_the_samples_asked_for_would_be_enough(size):
    """A calibrated model with that many has a noise floor of about a hundredth."""
    verdict = verdict_on(bins_of(size, 1.0, scale=1.0), UNKNOWN)

    wanted = int(verdict.rpartition("about ")[2].partition(" would")[0].replace(",", ""))

    assert float(bins_of(wanted, 1.0, scale=1.0).noise_floor()) == pytest.approx(0.01, rel=0.3)


def test_no_samples_are_no_verdict():
    assert verdict_on(made((0, 0.0, 0.0)), UNKNOWN) == "There were no samples to judge by."


def test_the_same_figures_have_the_same_verdict():
    bins = bins_of(1000, 1.1)

    assert verdict_on(bins, UNKNOWN) == verdict_on(bins, UNKNOWN)


def test_chance_is_what_calibrated_models_show():
    """The 99 % point of the ECE, against labels drawn sample by sample for 400 models."""
    logits = 2 * torch.randn(500, 10)
    shown = []
    for _ in range(400):
        statistics = CalibrationStatistics()
        statistics.update(logits, Categorical(logits=logits).sample())
        shown.append(statistics.bins().expected_calibration_error())

    chance = chance_of(statistics.bins())

    assert chance.ece == pytest.approx(torch.stack(shown).quantile(0.99).item(), rel=0.15)
    assert -chance.lowest_gap == pytest.approx(chance.highest_gap, rel=0.15)
