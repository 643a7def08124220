"""Calibration: whether a classifier's confidence can be believed, from sums of fixed size.

`ReliabilityBins` holds three sums per bin and the formulas on them; `CalibrationStatistics`, a
torchmetrics ``Metric``, collects the sums. Nothing here knows Lightning, or draws. Shapes: N
samples, C classes, M bins, ``*`` any trailing dimensions. "Confidence" is the largest softmax
probability of a sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["CalibrationStatistics", "ReliabilityBins"]

# Divisible by every usual number of bins, and fine enough for figures that need no bins at all.
_CELLS = 6000
# Two more columns collect the samples that do not count.
_NONFINITE, _IGNORED = _CELLS, _CELLS + 1


@dataclass(frozen=True)
class ReliabilityBins:
    r"""Sums over the samples whose confidence lies in one of M bins.

    Below, :math:`n_m`, :math:`a_m` and :math:`s_m` are the entries of ``count``, ``correct`` and
    ``confidence``, and :math:`N = \sum_m n_m`. Without any sample, every figure is NaN.

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

    def noise_floor(self) -> Tensor:
        r"""Returns about the ECE that a perfectly calibrated model of these bins would show.

        .. math:: \frac{1}{N} \sum_m \sqrt{\frac{2}{\pi} \, n_m c_m (1 - c_m)},
            \qquad c_m = \frac{s_m}{n_m}

        Each bin's accuracy scatters around its confidence like a binomial mean, and an absolute
        value never averages to zero. Differences in ECE below this mean little.
        """
        # n c (1 - c) = s - s^2 / n, which needs no guard for empty bins but the clamp of n.
        variance = self.confidence - self.confidence**2 / self.count.clamp(min=1)
        # Rounding may leave a sum of confidences slightly above the count.
        return (variance.clamp(min=0) * 2 / math.pi).sqrt().sum() / self.count.sum()


class CalibrationStatistics(Metric):
    r"""Accuracy, calibration error and negative log-likelihood, from sums of fixed size.

    Samples add to 6000 cells of confidence in one float64 tensor (240 kB), so memory does not
    grow with the data, and batches and processes pool exactly. Bins are left-closed, as those of
    torchmetrics' ``MulticlassCalibrationError`` (Guo et al. print right-closed ones), but a
    confidence of 1 belongs to the last of them. An update never waits for the device.

    ``update(logits, target)`` takes:

    * ``logits``: floating-point scores of shape (N, C, \*), or (C,) for one sample, up to any
      constant per sample; so log-probabilities will do, probabilities will not. Half precision
      is widened to float32 before the softmax. Never modified.
    * ``target``: integer class indices of shape (N, \*), or () for one sample. Never modified.

    A sample whose softmax is NaN (a NaN or :math:`+\infty` among its logits) is left out and
    counted as ``nonfinite``. A logit of :math:`-\infty` rules its class out: if that was the
    target, ``nll`` is infinite. On Apple's MPS, which has no float64, leave the metric on the CPU.

    ``compute()`` returns a dict of 0-d float64 tensors: ``accuracy``, ``ece``,
    ``confidence_gap`` (mean confidence minus accuracy), ``nll``, ``brier`` (the squared distance
    between probabilities and one-hot label, summed over the classes: 0 to 2), ``nonfinite`` and
    ``count`` (samples, without those left out). Without any sample the first five are NaN.

    Args:
        n_bins: Number of equal-width bins of the ECE, a divisor of 6000. The default is the
            number in most of the literature.
        ignore_index: Samples with this target are left out, as in ``cross_entropy``.
        **kwargs: Passed whole to :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If ``n_bins`` does not divide 6000.

    Example:
        >>> statistics = CalibrationStatistics()
        >>> statistics.update(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]))
        >>> {name: round(figure.item(), 3) for name, figure in statistics.compute().items()}
        {'accuracy': 0.5, 'ece': 0.425, 'confidence_gap': 0.306, 'nll': 0.72,
         'brier': 0.549, 'nonfinite': 0.0, 'count': 2.0}
    """

    full_state_update = False
    is_differentiable = False
    sums: Tensor  # (5, 6002): count, correct, confidence, nll and Brier score, in every cell

    def __init__(
        self, n_bins: int = 15, *, ignore_index: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        _check_bins(n_bins)
        self.n_bins = n_bins
        self.ignore_index = ignore_index
        zeros = torch.zeros(5, _CELLS + 2, dtype=torch.float64)
        self.add_state("sums", zeros, dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Adds a batch; the class says what it takes.

        Raises:
            TypeError: If ``logits`` are not floating-point, or ``target`` is.
            ValueError: If shapes disagree, if there are fewer than two classes, or if a label is
                not a class. The last is checked on the CPU only, as asking would make other
                devices wait; there, such a sample counts as wrong, with an infinite nll.
        """
        if logits.ndim == 1 and target.ndim == 0:
            logits, target = logits[None], target[None]
        _check_batch(logits, target)
        target = target.long()  # uint8, for one, cannot be compared with -100
        ignored = torch.zeros_like(target, dtype=torch.bool)
        if self.ignore_index is not None:
            ignored = target == self.ignore_index
        _check_labels(target, ignored, logits.shape[1])

        confidence, correct, nll, brier = _measure(logits, target)
        cell = _cell(confidence, self.n_bins).masked_fill(confidence.isnan(), _NONFINITE)
        cell = cell.masked_fill(ignored, _IGNORED).flatten()
        figures = torch.stack([torch.ones_like(nll), correct.to(nll), confidence, nll, brier])
        # Whoever casts the module that holds this metric casts its state with it.
        sums = self.sums.double()
        # Not in place: a state that was reset in inference mode must not be written to later.
        self.sums = sums.index_add(1, cell.to(sums.device), figures.flatten(1).to(sums))

    def compute(self) -> dict[str, Tensor]:
        """Returns the figures of all batches so far, pooled over processes."""
        bins = self.bins()
        return {
            "accuracy": bins.accuracy(),
            "ece": bins.expected_calibration_error(),
            "confidence_gap": bins.confidence_gap(),
            "nll": self.sums[3, :_CELLS].sum() / bins.count.sum(),
            "brier": self.sums[4, :_CELLS].sum() / bins.count.sum(),
            "nonfinite": self.sums[0, _NONFINITE],
            "count": bins.count.sum(),
        }

    def bins(self, n_bins: int | None = None) -> ReliabilityBins:
        """Returns the sums in equal-width bins, for a reliability diagram.

        They are this process's own; within ``with statistics.sync_context():``, which every
        process must enter, they are pooled.

        Args:
            n_bins: A divisor of 6000, by default the metric's own, whose edges are bit for bit
                those of torchmetrics. With another number, a confidence within 1e-7 of an edge
                may count next door.
        """
        n_bins = self.n_bins if n_bins is None else n_bins
        _check_bins(n_bins)
        return ReliabilityBins(*self.sums[:3, :_CELLS].reshape(3, n_bins, -1).sum(-1))


def _measure(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns confidence, correctness, nll and Brier score, each of shape (N, *)."""
    logits = logits.float() if logits.element_size() < 4 else logits
    top, prediction = logits.max(1)
    probabilities = logits.softmax(1)
    confidence = probabilities.amax(1)
    classes = logits.shape[1]
    own = logits.gather(1, target.clamp(0, classes - 1).unsqueeze(1)).squeeze(1)
    own = own.masked_fill((target < 0) | (target >= classes), -math.inf)
    # -log softmax(own) = top - own - log softmax(top), without a second softmax.
    nll = top - own - confidence.log()
    brier = 1 + probabilities.square().sum(1) - 2 * (-nll).exp()
    return confidence, prediction == target, nll, brier


def _cell(confidence: Tensor, n_bins: int) -> Tensor:
    """Returns the cell of each confidence; every edge of torchmetrics' bins is a cell's edge."""
    confidence = confidence.float().nan_to_num(0)  # float32, as torchmetrics bins
    linspace = partial(torch.linspace, 0, 1, dtype=torch.float32, device=confidence.device)
    edges = linspace(steps=_CELLS + 1)
    # `linspace` rounds differently for each length, so the coarse edges are put in as they are.
    edges[:: _CELLS // n_bins] = linspace(steps=n_bins + 1)
    edges[-1] = math.inf  # a confidence of 1 belongs to the last cell
    # Right or one too low, then put right. On big batches 15 times as fast as `bucketize`.
    guess = (confidence * _CELLS - 0.01).long()
    return guess + (confidence >= edges.take(guess + 1))


def _check_bins(n_bins: int) -> None:
    if n_bins < 1 or _CELLS % n_bins:
        raise ValueError(
            f"n_bins={n_bins!r} does not divide the {_CELLS} cells of confidence. "
            "Use 15, as most of the literature, or for example 10, 12, 20, 25, 30, 50 or 100."
        )


def _check_batch(logits: Tensor, target: Tensor) -> None:
    if not logits.is_floating_point():
        raise TypeError(
            f"`logits` have dtype {logits.dtype}, but must be floating-point. "
            "Pass the scores that go into the softmax, not the predicted classes."
        )
    if target.is_floating_point():
        raise TypeError(
            f"`target` has dtype {target.dtype}, but must hold integer class indices. "
            "Pass `target.argmax(1)` for one-hot labels; soft labels have no single class."
        )
    if logits.ndim < 2 or logits.shape[:1] + logits.shape[2:] != target.shape:
        raise ValueError(
            f"`logits` of shape {tuple(logits.shape)} and `target` of shape "
            f"{tuple(target.shape)} do not fit: they must be (N, C, *) and (N, *). "
            "Move the classes to dimension 1, for example with `logits.movedim(-1, 1)`."
        )
    if logits.shape[1] < 2:
        raise ValueError(
            f"`logits` of shape {tuple(logits.shape)} have one class, of which every model is "
            "certain. Pass `torch.cat([torch.zeros_like(z), z], 1)` for binary logits `z`."
        )


def _check_labels(target: Tensor, ignored: Tensor, classes: int) -> None:
    if target.device.type != "cpu":
        return
    strays = target[((target < 0) | (target >= classes)) & ~ignored]
    if len(strays):
        raise ValueError(
            f"`target` holds the label {strays[0].item()}, but there are {classes} classes, so "
            f"labels run from 0 to {classes - 1}. Set `ignore_index` to leave a label out."
        )
