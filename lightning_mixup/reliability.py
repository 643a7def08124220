"""Reliability: sums over samples of like confidence, and the figures of calibration on them.

`ReliabilityBins` holds three sums per bin and the formulas on them, each with its source. Nothing
here knows of logits, batches or processes. Shapes: N samples, M bins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ReliabilityBins"]


@dataclass(frozen=True)
class ReliabilityBins:
    r"""Sums over the samples whose confidence lies in one of M bins.

    Below, :math:`n_m`, :math:`a_m` and :math:`s_m` are the entries of ``count``, ``correct`` and
    ``confidence``, and :math:`N = \sum_m n_m`. Every figure is a 0-d tensor between 0 and 1 (the
    gap: between -1 and 1), and NaN without any sample.

    Example:
        >>> bins = ReliabilityBins(*torch.tensor([[2.0, 8.0], [1.0, 6.0], [0.8, 7.2]]))
        >>> bins.expected_calibration_error()
        tensor(0.1400)
        >>> bins.confidence_gap()  # above zero: over-confident
        tensor(0.1000)
    """

    count: Tensor  # (M,) float64, how many samples
    correct: Tensor  # (M,) float64, how many of them were classified correctly
    confidence: Tensor  # (M,) float64, the sum of their confidences

    def __add__(self, other: ReliabilityBins) -> ReliabilityBins:
        """Pools the samples of two sets of bins, such as those of several seeds."""
        return ReliabilityBins(
            self.count + other.count,
            self.correct + other.correct,
            self.confidence + other.confidence,
        )

    def accuracy(self) -> Tensor:
        """Returns the share of samples that were classified correctly, a 0-d tensor."""
        return self.correct.sum() / self.count.sum()

    def mean_confidence(self) -> Tensor:
        """Returns the mean confidence of all samples, a 0-d tensor."""
        return self.confidence.sum() / self.count.sum()

    def confidence_gap(self) -> Tensor:
        """Returns mean confidence minus accuracy: above zero, the model is over-confident."""
        return self.mean_confidence() - self.accuracy()

    def expected_calibration_error(self) -> Tensor:
        r"""Returns the mean gap between confidence and accuracy, weighted by bin size.

        .. math:: \mathrm{ECE}
            = \sum_m \frac{n_m}{N} \left| \frac{a_m}{n_m} - \frac{s_m}{n_m} \right|
            = \frac{1}{N} \sum_m \left| a_m - s_m \right|

        Reference:
            | Obtaining Well Calibrated Probabilities Using Bayesian Binning
            | (Naeini, Cooper and Hauskrecht, 2015)
            | On Calibration of Modern Neural Networks (Guo, Pleiss, Sun and Weinberger, 2017)
            | https://arxiv.org/abs/1706.04599
        """
        return (self.correct - self.confidence).abs().sum() / self.count.sum()

    def maximum_calibration_error(self) -> Tensor:
        r"""Returns the gap of the worst bin, which a single small bin may decide.

        .. math:: \mathrm{MCE} = \max_m \left| \frac{a_m}{n_m} - \frac{s_m}{n_m} \right|

        Reference:
            | On Calibration of Modern Neural Networks (Guo, Pleiss, Sun and Weinberger, 2017),
            | equation 5, https://arxiv.org/abs/1706.04599
        """
        gaps = ((self.correct - self.confidence) / self.count).abs()
        total = self.count.sum()
        return gaps.nan_to_num(0).amax() * (total / total)  # NaN without any sample

    def root_mean_square_calibration_error(self) -> Tensor:
        r"""Returns the root of the mean squared gap, weighted by bin size.

        .. math:: \sqrt{\sum_m \frac{n_m}{N} \left( \frac{a_m}{n_m} - \frac{s_m}{n_m} \right)^2}

        Reference:
            | Verified Uncertainty Calibration (Kumar, Liang and Ma, 2019), definition 2.1 with p=2
            | https://arxiv.org/abs/1909.10155
        """
        squares = (self.correct - self.confidence).square() / self.count
        return (squares.nan_to_num(0).sum() / self.count.sum()).sqrt()

    def debiased_calibration_error(self) -> Tensor:
        r"""Returns the root mean square gap without what a bin's accuracy scatters by chance.

        With :math:`y_m = a_m / n_m` and :math:`c_m = s_m / n_m`, over bins of two samples or more:

        .. math:: \sqrt{\max\left(0, \sum_m \frac{n_m}{N} \left[
            (y_m - c_m)^2 - \frac{y_m (1 - y_m)}{n_m - 1} \right]\right)}

        Reference:
            | Verified Uncertainty Calibration (Kumar, Liang and Ma, 2019), definition 5.2
            | https://arxiv.org/abs/1909.10155
        """
        accuracy = self.correct / self.count
        gaps = (self.correct - self.confidence) / self.count
        unbiased = gaps.square() - accuracy * (1 - accuracy) / (self.count - 1)
        shares = torch.where(self.count >= 2, self.count * unbiased, 0)
        return (shares.sum() / self.count.sum()).clamp(min=0).sqrt()

    def noise_floor(self) -> Tensor:
        r"""Returns about the ECE that a perfectly calibrated model of these bins would show.

        .. math:: \frac{1}{N} \sum_m \sqrt{\frac{2}{\pi} \, n_m c_m (1 - c_m)},
            \qquad c_m = \frac{s_m}{n_m}

        Each bin's accuracy scatters around its confidence like a binomial mean, and an absolute
        value never averages to zero. Differences in ECE below this mean little.
        """
        # n c (1 - c) = s - s^2 / n
        variance = (self.confidence - self.confidence.square() / self.count).nan_to_num(0)
        # Rounding may leave a sum of confidences slightly above the count.
        return (variance.clamp(min=0) * 2 / math.pi).sqrt().sum() / self.count.sum()

    def equal_mass(self, n_bins: int = 15) -> ReliabilityBins:
        """Returns bins of equally many samples each, for adaptive figures.

        ``bins.equal_mass().expected_calibration_error()`` is the adaptive ECE. A bin that is cut
        gives each side its share; so start from many narrow bins, as those of
        ``CalibrationStatistics.cells()``.

        Reference:
            | Posterior Calibration and Exploratory Analysis for Natural Language Processing Models
            | (Nguyen and O'Connor, 2015), https://arxiv.org/abs/1508.05154

        Args:
            n_bins: How many bins to make.
        """
        sums = torch.stack([self.count, self.correct, self.confidence])
        until = sums.cumsum(1)
        cuts = until[0, -1] * torch.arange(1, n_bins).to(sums) / n_bins
        cell = torch.searchsorted(until[0], cuts).clamp(max=sums.shape[1] - 1)
        beyond = (until[0, cell] - cuts) / self.count[cell]  # this share lies above the cut
        at_cuts = until[:, cell] - beyond * sums[:, cell]
        edges = torch.cat([torch.zeros_like(until[:, :1]), at_cuts, until[:, -1:]], 1)
        return ReliabilityBins(*edges.diff(dim=1))

    def smooth_calibration_error(self) -> Tensor:
        r"""Returns the SmoothECE: the mean gap after smoothing over confidence, without bins.

        The gaps are smoothed with a Gaussian of standard deviation :math:`\sigma`, reflected at 0
        and 1, to :math:`\hat r_\sigma`; then

        .. math:: \mathrm{smECE}_\sigma = \int_0^1 |\hat r_\sigma(t)| \, \mathrm{d}t,

        and :math:`\sigma` is the width that equals its own error. As in the authors' package
        relplot (1.0.3), it is searched for in steps of :math:`2^{-10}`, the integral is a mean
        over a mesh with both ends, and a confidence of exactly 1 counts half. Start from many
        narrow bins, as those of ``CalibrationStatistics.cells()``, in place of all samples.

        Reference:
            | Smooth ECE: Principled Reliability Diagrams via Kernel Smoothing
            | (Błasiok and Nakkiran, 2024), definition 1.1 and section 3
            | https://arxiv.org/abs/2309.12236
        """
        if not self.count.any():
            return self.count.sum() / 0
        return _self_consistent(self.count, self.confidence - self.correct, self.confidence)


def _self_consistent(density: Tensor, gaps: Tensor, confidence: Tensor) -> Tensor:
    """Returns the SmoothECE of the smallest width that is not below it, by bisection."""
    where = (confidence / density).nan_to_num(0).clamp(0, 1)
    spectra: dict[int, Tensor] = {}
    width, below, error = 1.0, 0.0, gaps.new_tensor(math.nan)
    for step in range(11):
        middle = (width + below) / 2 if step else width
        mesh = max(1000, round(10 / middle))  # a step is at most a tenth of the width
        if mesh not in spectra:
            spectra[mesh] = _spectra(torch.stack([density, gaps]), where * mesh, mesh)
        smoothed = _smooth_error(middle, spectra[mesh])
        if step == 0 or (middle >= _NARROWEST and middle >= smoothed):
            width, error = middle, smoothed
        else:
            below = middle
    return error


_NARROWEST = 0.001  # relplot's `eps`


def _spectra(weights: Tensor, place: Tensor, mesh: int) -> Tensor:
    """Returns cosine spectra of weights, each shared among the two mesh points beside it."""
    left = place.long().clamp(max=mesh - 1)
    right_share = place - left
    points = weights.new_zeros(len(weights), mesh + 1)
    points.scatter_add_(1, left.expand_as(weights), weights * (1 - right_share))
    points.scatter_add_(1, (left + 1).expand_as(weights), weights * right_share)
    # Reflected at both ends, which themselves come once, as in relplot.
    spectra: Tensor = torch.fft.rfft(torch.cat([points, points[:, 1:-1].flip(1)], 1)).real
    return spectra


def _smooth_error(width: float, spectra: Tensor) -> Tensor:
    """Returns the SmoothECE of one width, of the spectra of samples and of their gaps."""
    points = max(200, round(10 / width))  # both ends of the mesh weigh as much as points within
    frequency = math.pi * torch.arange(points).to(spectra)
    gaussian = torch.exp(-0.5 * (width * frequency).square())
    # Of higher frequencies nothing is left.
    smoothed = torch.fft.irfft(spectra[:, :points] * gaussian, n=2 * (points - 1))
    areas: Tensor = smoothed[:, :points].abs().sum(1)
    return areas[1] / areas[0]
