"""Tests for lightning_mixup.reliability: the figures on bins, against their sources' formulas."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lightning_mixup.reliability import ReliabilityBins

CELLS = 6000
KINDS = (
    *("calibrated", "over", "near one", "sine"),
    *("saturated", "constant", "tenths", "wrong", "tiny"),
)


def draw(kind, n=2000):
    """Returns confidences and whether they were right, as float64."""
    u = torch.rand(n, dtype=torch.float64)
    confidence = {
        "calibrated": 0.1 + 0.9 * u,
        "over": 0.5 + 0.5 * u,
        "near one": 1 - 0.04 * u**2,
        "sine": u,
        "saturated": torch.sigmoid(6 + 4 * torch.randn_like(u)).clamp(min=0.5),
        "constant": torch.full_like(u, 0.7),
        "tenths": (10 * u).round() / 10,
        "wrong": 0.6 + 0.4 * u,
        "tiny": 1 - 1e-4 * u,
    }[kind]
    truth = {
        "over": confidence**3,
        "near one": confidence - 0.03,
        "sine": confidence + 0.15 * torch.sin(20 * confidence),
        "saturated": confidence**1.5,
        "tenths": confidence**1.3,
        "wrong": torch.full_like(u, 0.05),
    }.get(kind, confidence)
    return confidence, (torch.rand_like(u) < truth).double()


def binned(confidence, correct, n_bins):
    index = (confidence * n_bins).long().clamp(max=n_bins - 1)
    parts = torch.stack([torch.ones_like(confidence), correct, confidence])
    return ReliabilityBins(*parts.new_zeros(3, n_bins).index_add(1, index, parts))


# Independent oracles.


def gaps(confidence, correct, n_bins):
    """The share and the gap of each bin that is not empty, one at a time."""
    index = np.minimum((confidence.numpy() * n_bins).astype(int), n_bins - 1)
    f, y = confidence.numpy(), correct.numpy()
    return np.array([
        (np.mean(index == m), y[index == m].mean() - f[index == m].mean())
        for m in range(n_bins)
        if (index == m).any()
    ]).T


def kumar_debiased(confidence, correct, n_bins):
    """`unbiased_l2_ce` of uncertainty-calibration 0.1.4, for bins of equal width."""
    index = np.minimum((confidence.numpy() * n_bins).astype(int), n_bins - 1)
    total = 0.0
    for m in range(n_bins):
        f, y = confidence.numpy()[index == m], correct.numpy()[index == m]
        if len(y) >= 2:
            variance = y.mean() * (1 - y.mean()) / (len(y) - 1)
            total += len(y) / len(index) * ((f.mean() - y.mean()) ** 2 - variance)
    return max(total, 0.0) ** 0.5


def relplot_sm_ece(confidence, correct):
    """`smECE` of relplot 1.0.3, from every sample: its kernel, its grids and its search."""
    f, r = confidence.numpy(), (confidence - correct).numpy()

    def smoothed(values, sigma, at):
        points = max(2000, round(20 / sigma)) // 2 + 1
        left = (f * (points - 1)).astype(int).clip(0, points - 2)
        share = f * (points - 1) - left
        grid = np.bincount(left, (1 - share) * values, points)
        grid += np.bincount(left + 1, share * values, points)
        t = np.linspace(0, 1, points) - 0.5
        kernel = np.exp(-t * t / (2 * sigma**2)) / (math.sqrt(2 * math.pi) * sigma)
        mirrored = np.concatenate([grid[::-1][:-1], grid, grid[::-1][1:]])
        spectrum = np.fft.rfft(mirrored, 4 * points) * np.fft.rfft(kernel, 4 * points)
        valid = np.fft.irfft(spectrum, 4 * points)[points - 1 : len(mirrored)]
        return np.interp(at, np.linspace(0, 1, points), valid[points // 2 :][:points])

    def error(sigma):
        at = np.linspace(0, 1, max(round(10 / sigma), 200))
        return np.abs(smoothed(r, sigma, at)).sum() / smoothed(np.ones_like(r), sigma, at).sum()

    start, end = 1.0, 0.0
    for _ in range(10):
        middle = (start + end) / 2
        if middle < 0.001 or middle < error(middle):
            end = middle
        else:
            start = middle
    return error(start)


def adaptive_ece(confidence, correct, n_bins):
    """Sorted samples in bins of equal size, one at a time."""
    order = np.argsort(confidence.numpy(), kind="stable")
    parts = np.array_split((correct - confidence).numpy()[order], n_bins)
    return sum(abs(part.sum()) for part in parts) / len(order)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_bins", [1, 7, 15, 100])
def test_errors_are_the_norms_of_the_gaps(kind, n_bins):
    samples = draw(kind)
    share, gap = gaps(*samples, n_bins)

    bins = binned(*samples, n_bins)

    figures = {
        bins.expected_calibration_error: (share * abs(gap)).sum(),
        bins.maximum_calibration_error: abs(gap).max(),
        bins.root_mean_square_calibration_error: math.sqrt((share * gap**2).sum()),
    }
    for figure, expected in figures.items():
        assert figure().item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [20, 2000])
def test_the_debiased_error_is_that_of_uncertainty_calibration(kind, n):
    samples = draw(kind, n)

    debiased = binned(*samples, 15).debiased_calibration_error()

    assert debiased.item() == pytest.approx(kumar_debiased(*samples, 15), abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [300, 20_000])
def test_the_smooth_error_is_that_of_relplot(kind, n):
    samples = draw(kind, n)

    smooth = binned(*samples, CELLS).smooth_calibration_error()

    assert smooth.item() == pytest.approx(relplot_sm_ece(*samples), abs=5e-4)


@pytest.mark.parametrize("kind", ["calibrated", "over", "sine", "wrong"])
def test_the_adaptive_error_is_that_of_sorted_samples(kind):
    """But for samples of one cell, which are not told apart: well below the noise."""
    samples = draw(kind, 20_000)
    cells = binned(*samples, CELLS)

    error = cells.equal_mass(15).expected_calibration_error()

    distance = abs(error.item() - adaptive_ece(*samples, 15))
    assert distance < 0.1 * cells.equal_mass(15).noise_floor().item()


# Laws.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_bins", [1, 4, 15])
def test_bins_of_equal_mass_hold_equally_many_and_all(kind, n_bins):
    cells = binned(*draw(kind), CELLS)

    bins = cells.equal_mass(n_bins)

    assert_close(bins.count, torch.full_like(bins.count, 2000 / n_bins), rtol=0, atol=1e-9)
    assert_close(bins.correct.sum(), cells.correct.sum(), rtol=0, atol=1e-9)
    assert_close(bins.confidence.sum(), cells.confidence.sum(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_errors_are_in_order(kind):
    """The gap is the least of all, as signs cancel; the worst bin is the most."""
    bins = binned(*draw(kind), 15)

    error = bins.expected_calibration_error()

    assert bins.confidence_gap().abs() <= error + 1e-12
    assert error <= bins.root_mean_square_calibration_error() + 1e-12
    assert bins.root_mean_square_calibration_error() <= bins.maximum_calibration_error() + 1e-12
    assert bins.debiased_calibration_error() <= bins.root_mean_square_calibration_error() + 1e-12


def test_debiased_errors_of_calibrated_models_do_not_grow_with_bins():
    few, many = ([binned(*draw("calibrated"), m) for _ in range(30)] for m in (10, 200))
    squares = [
        torch.stack([bins.debiased_calibration_error() ** 2 for bins in models]).mean()
        for models in (few, many)
    ]
    biased = torch.stack([bins.root_mean_square_calibration_error() ** 2 for bins in many]).mean()

    assert squares[1] < 0.2 * biased


def test_one_constant_confidence_has_the_smooth_error_of_its_gap():
    confidence, correct = draw("constant")

    smooth = binned(confidence, correct, CELLS).smooth_calibration_error()

    assert smooth.item() == pytest.approx(abs(0.7 - correct.mean().item()), abs=1e-6)


def test_to_be_certain_and_wrong_is_a_smooth_error_of_one():
    certain = ReliabilityBins(*torch.tensor([[0, 10], [0, 0], [0, 10]]).double())

    assert certain.smooth_calibration_error().item() == pytest.approx(1)


def test_without_samples_every_figure_is_nan():
    none = ReliabilityBins(*torch.zeros(3, 15, dtype=torch.float64))

    figures = [
        none.accuracy(),
        none.confidence_gap(),
        none.expected_calibration_error(),
        none.maximum_calibration_error(),
        none.root_mean_square_calibration_error(),
        none.debiased_calibration_error(),
        none.smooth_calibration_error(),
        none.equal_mass(4).expected_calibration_error(),
        none.noise_floor(),
    ]
    assert torch.stack(figures).isnan().all()
