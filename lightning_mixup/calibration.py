"""Calibration: whether a classifier's confidence can be believed, from a state of fixed size.

`CalibrationStatistics` and `BinaryCalibrationStatistics`, each a torchmetrics ``Metric``, collect
integers, so that no figure depends on how the data is split. Nothing here knows Lightning, or
draws. Shapes: N samples, C classes, K cells, ``*`` any trailing dimensions.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_mixup.errors import MixupValueError
from lightning_mixup.reliability import ReliabilityBins
from lightning_mixup.samples import (
    Measured,
    check_batch,
    check_dtypes,
    check_probabilities,
    given_scores,
    known_labels,
    measure,
    measure_binary,
)

__all__ = ["BinaryCalibrationStatistics", "CalibrationStatistics"]

# Divisible by every usual number of bins, and fine enough for figures that need no bins at all.
_CELLS = 6000
# Units of 1: fractions are counted in 2**-31. Float32 confidences above 2**-7 are whole multiples,
# and the sum of 2**32 of them fits into an int64.
_UNITS = 2.0**31
# A negative log-likelihood above this is counted as infinite.
_ENDLESS = 2.0**40
# How many scores wait, at most, to be measured together, and how many samples to be counted.
_PATIENCE_GIVEN = 1 << 14
_PATIENCE_MEASURED = 1 << 12
_TOTALS = 5  # Brier score, nll behind the point, nll before it, endless ones, hits


class _Batch(NamedTuple):
    """Samples that were checked and not measured yet."""

    scores: Tensor  # (N, C), or (N,) of a binary classifier
    target: Tensor  # (N,) int64
    ignored: Tensor | None  # (N,) bool
    stray: Tensor | None  # (N,) bool, where the target was no class
    are_logits: bool  # or else probabilities

    def form(self) -> tuple[Any, ...]:
        """Returns what batches must have in common to be one."""
        scores, _, ignored, stray, are_logits = self
        form = (scores.dtype, scores.device, scores.shape[1:])
        return (*form, ignored is None, stray is None, are_logits)

    @staticmethod
    def joined(batches: list[_Batch]) -> _Batch:
        """Returns batches of one form as one."""
        scores, target, ignored, stray, are_logits = zip(*batches, strict=True)
        return _Batch(
            torch.cat(scores),
            torch.cat(target),
            None if ignored[0] is None else torch.cat(ignored),
            None if stray[0] is None else torch.cat(stray),
            are_logits[0],
        )


class _Statistics(Metric):
    """The counts, and the figures on them; how samples are measured is its subclasses' part."""

    full_state_update = False
    is_differentiable = False
    _sums: Tensor  # int64: a column of K + 2 without and with the event, one of confidence, totals
    _given: list[_Batch]  # those not measured yet
    _measured: list[list[Tensor]]  # those not counted yet: what was measured, and is ignored
    _room_given: int  # how many more scores may wait to be measured
    _room_measured: int  # and how many more samples to be counted
    edges: Tensor  # (K,) int32, the bits of float32 upper edges

    def __init__(
        self, n_bins: int = 15, *, ignore_index: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not 1 <= n_bins <= _CELLS:
            raise MixupValueError(
                f"n_bins={n_bins!r} is not between 1 and {_CELLS}. "
                "Use 15, as most of the literature."
            )
        self.n_bins = n_bins
        self.ignore_index = ignore_index
        self.n_cells = _CELLS // n_bins * n_bins
        # One more cell collects samples without probabilities, and one more those to be ignored.
        size = 3 * (self.n_cells + 2) + _TOTALS
        self.add_state("sums", torch.zeros(size, dtype=torch.int64), dist_reduce_fx="sum")
        # As integers, so that they are not rounded when the module that holds this metric is cast.
        self.register_buffer("edges", _make_edges(n_bins, self.n_cells), persistent=False)

    def compute(self) -> dict[str, Tensor]:
        """Returns the figures of all batches so far, pooled over processes."""
        cells, bins = self.cells(), self.bins()
        others = {
            "mce": bins.maximum_calibration_error(),
            "rmsce": bins.root_mean_square_calibration_error(),
            "debiased_l2": bins.debiased_calibration_error(),
            "adaptive_ece": cells.equal_mass(self.n_bins).expected_calibration_error(),
            "smooth_ece": cells.smooth_calibration_error(),
            "noise_floor": bins.noise_floor(),
        }
        return {**self.headline(), **self._on_device(others)}

    def headline(self) -> dict[str, Tensor]:
        """Returns the figures that are cheap: those of a log, and what was left out.

        As with ``bins``, they are this process's own.
        """
        cells = self.cells()
        samples = cells.count.sum()
        brier, rest, whole, endless, hits = self._host()[-_TOTALS:].double()
        nll = torch.where(endless > 0, math.inf, whole + rest / _UNITS)
        left_out = self._host()[: 2 * (self.n_cells + 2)].reshape(2, -1)[:, self.n_cells]
        figures = {
            "accuracy": hits / samples,
            "ece": self.bins().expected_calibration_error(),
            "confidence_gap": cells.confidence_gap(),
            "nll": nll / samples,
            "brier": brier / _UNITS / samples,
            "nonfinite": left_out.sum(),
            "count": samples,
        }
        return self._on_device(figures)

    def _on_device(self, figures: dict[str, Tensor]) -> dict[str, Tensor]:
        values = torch.stack([figure.double() for figure in figures.values()])
        dtype = torch.float32 if self.sums.device.type == "mps" else torch.float64
        return dict(zip(figures, values.to(self.sums.device, dtype).unbind(), strict=True))

    def bins(self, n_bins: int | None = None) -> ReliabilityBins:
        """Returns the sums in equal-width bins, for a reliability diagram.

        They are this process's own; within ``with statistics.sync_context():``, which every
        process must enter, they are pooled.

        Args:
            n_bins: By default the metric's own, whose edges are bit for bit those of
                torchmetrics. With another number, which must divide the number of cells, a
                confidence within 1e-7 of an edge may count next door.

        Returns:
            Sums of shape (n_bins,), in float64 on the CPU.

        Raises:
            MixupValueError: If ``n_bins`` does not divide the number of cells.
        """
        n_bins = self.n_bins if n_bins is None else n_bins
        if n_bins < 1 or self.n_cells % n_bins:
            raise MixupValueError(
                f"n_bins={n_bins!r} does not divide the {self.n_cells} cells of this metric. Give "
                f"a divisor, or make the metric with {type(self).__name__}(n_bins={n_bins!r})."
            )
        cells = self.cells()
        columns = torch.stack([cells.count, cells.correct, cells.confidence])
        return ReliabilityBins(*columns.reshape(3, n_bins, -1).sum(-1))

    def set_dtype(self, dst_type: str | torch.dtype) -> Metric:
        """Changes nothing: the counts are integers, whatever the dtype of the model."""
        return self

    def cells(self) -> ReliabilityBins:
        """Returns the narrow bins behind all others, 6000 or a little less.

        Returns:
            Sums of shape (K,), in float64 on the CPU; as with ``bins``, this process's own.
        """
        columns = self._host()[:-_TOTALS].reshape(3, -1)[:, : self.n_cells]
        without, event, confidence = columns
        return ReliabilityBins(
            (without + event).double(), event.double(), confidence.double() / _UNITS
        )

    def _host(self) -> Tensor:
        """Returns the sums where there is float64, which Apple's MPS lacks."""
        return self.sums.cpu()

    def _ignored(self, target: Tensor) -> Tensor | None:
        # As int64, as uint8, for one, cannot be compared with -100.
        return None if self.ignore_index is None else target.long() == self.ignore_index

    @property
    def sums(self) -> Tensor:
        """The state: whoever reads it finds everything counted."""
        self._measure_given()
        self._count_measured()
        return self._sums

    @sums.setter
    def sums(self, value: Tensor) -> None:
        self._sums, self._given, self._measured = value, [], []
        self._room_given, self._room_measured = _PATIENCE_GIVEN, _PATIENCE_MEASURED

    def _add(self, batch: _Batch) -> None:
        """Takes in samples: small batches are cheaper to measure together, and all to count."""
        if batch.scores.numel() >= _PATIENCE_GIVEN:  # which is not copied
            self._measure(batch)
        else:
            # What waits must not change with what was given.
            scores, target = batch.scores.clone(), batch.target.clone()
            self._given.append(batch._replace(scores=scores, target=target))
            self._room_given -= scores.numel()
            if self._room_given <= 0:
                self._measure_given()
        if self._room_measured <= 0:
            self._count_measured()

    def _measure_given(self) -> None:
        given, self._given, self._room_given = self._given, [], _PATIENCE_GIVEN
        for _, alike in groupby(given, key=_Batch.form):
            self._measure(_Batch.joined(list(alike)))

    def _measure(self, batch: _Batch) -> None:
        measured = self._measured_of(batch)
        ignored = torch.zeros_like(measured.hit) if batch.ignored is None else batch.ignored
        self._measured.append([*measured, ignored])
        self._room_measured -= len(ignored)

    @abstractmethod
    def _measured_of(self, batch: _Batch) -> Measured:
        """Measures samples."""

    def _count_measured(self) -> None:
        """Counts samples. Asks for no value, and for no shape that depends on one."""
        if not self._measured:
            return
        columns = zip(*self._measured, strict=True)
        self._measured, self._room_measured = [], _PATIENCE_MEASURED
        device = self._sums.device  # perhaps the CPU, for samples of a device without float64
        parts = (torch.cat(column).to(device) for column in columns)
        confidence, event, hit, nll, brier, ignored = parts
        width = self.n_cells + 2
        cell = _find_cell(confidence, self.edges)  # of a NaN, the one after the last
        cell.masked_fill_(ignored, width - 1)
        place = torch.add(cell, event, alpha=width)

        finite = nll.clamp(max=_ENDLESS)
        whole = finite.floor()
        rows = torch.stack([confidence, brier, finite - whole])
        shares = (rows.masked_fill_(confidence.isnan() | ignored, 0) * _UNITS).long()
        rows = torch.stack([whole, (nll > _ENDLESS).to(whole), hit.to(whole)])
        totals = rows.masked_fill_(confidence.isnan() | ignored, 0).long().sum(1)

        # A state that was reset in inference mode must not be written to later.
        if self._sums.is_inference() and not torch.is_inference_mode_enabled():
            self._sums = self._sums.clone()
        self._sums.index_add_(0, place, torch.ones_like(place))
        self._sums[2 * width : -_TOTALS].index_add_(0, cell, shares[0])
        self._sums[-_TOTALS:] += torch.cat([shares[1:].sum(1), totals])


class CalibrationStatistics(_Statistics):
    r"""Accuracy, calibration and proper scores of a classifier, from a state of fixed size.

    Samples add to at most 6000 cells of confidence, the largest probability of a sample, in one
    tensor of integers (144 kB): memory does not grow with the data, and figures are the same bit
    for bit however it is split into batches or over processes. Bins are left-closed, as those of
    torchmetrics' ``MulticlassCalibrationError`` (Guo et al. print right-closed ones), but a
    confidence of 1 belongs to the last of them. An update never waits for the device.

    ``update(logits, target)`` takes:

    * ``logits``: floating-point scores of shape (N, C, \*), or (C,) for one sample, up to any
      constant per sample; so log-probabilities will do. Half precision is widened to float32
      before the softmax. Never modified. A binary classifier's logits ``z`` are
      ``torch.stack([torch.zeros_like(z), z], 1)``.
    * ``target``: integer class indices of shape (N, \*), or () for one sample. Never modified.
    * ``probabilities``: instead of logits, what a softmax returned:
      ``update(probabilities=p, target=y)``. What a tensor is, is never guessed from its values.

    A sample without a softmax (a NaN or :math:`+\infty` among its logits) is left out and counted
    as ``nonfinite``. A logit of :math:`-\infty` rules its class out: if that was the target,
    ``nll`` is infinite. Of probabilities, each is rounded down to a multiple of
    :math:`2^{-31}`; up to :math:`2^{31}` samples can be counted.

    ``compute()`` returns a dict of 0-d float64 tensors (float32 on MPS), NaN without any sample:

    * ``accuracy``, and ``confidence_gap``: mean confidence minus accuracy, above zero for an
      over-confident model;
    * ``ece``, ``mce``, ``rmsce`` and ``debiased_l2``: expected, maximum, root mean square and
      debiased calibration error, over bins of equal width;
    * ``adaptive_ece`` over as many bins of equally many samples, ``smooth_ece`` without bins;
    * ``noise_floor``: the ECE that a calibrated model would show;
    * ``nll``, infinite from :math:`2^{40}` for a sample, and ``brier``, the squared distance
      between probabilities and one-hot label summed over the classes: 0 to 2;
    * ``count``, the samples without those left out, and ``nonfinite``.

    Formulas and sources are in :class:`lightning_mixup.ReliabilityBins`.

    Args:
        n_bins: Number of equal-width bins, 1 to 6000. The default is the number in most of the
            literature.
        ignore_index: Samples with this target are left out, as in ``cross_entropy``.
        **kwargs: Passed whole to :class:`torchmetrics.Metric`.

    Raises:
        MixupValueError: If ``n_bins`` is not between 1 and 6000.

    Example:
        >>> statistics = CalibrationStatistics()
        >>> statistics.update(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]))
        >>> figures = statistics.compute()
        >>> [round(figures[name].item(), 3) for name in ("accuracy", "ece", "confidence_gap")]
        [0.5, 0.425, 0.306]
    """

    def update(
        self,
        logits: Tensor | None = None,
        target: Tensor | None = None,
        *,
        probabilities: Tensor | None = None,
    ) -> None:
        """Adds a batch; the class says what it takes.

        Raises:
            MixupTypeError: If ``logits`` are not floating-point, if ``target`` is, or unless
                exactly one of ``logits`` and ``probabilities`` is given.
            MixupValueError: If shapes disagree, if there are fewer than two classes, if a label
                is not a class, or if probabilities are none. The last two are checked on the CPU
                only, as asking would make other devices wait; there, such a label counts as
                wrong, with an infinite nll.
        """
        scores, target, name = given_scores(logits, target, probabilities)
        if scores.ndim == 1 and target.ndim == 0:
            scores, target = scores[None], target[None]
        check_batch(scores, target, name)
        if scores.ndim > 2:  # a row for each sample, whose sums depend on no row beside it
            scores, target = scores.movedim(1, -1).reshape(-1, scores.shape[1]), target.flatten()
        ignored = self._ignored(target)
        target, stray = known_labels(target, ignored, scores.shape[1])
        if probabilities is not None:
            check_probabilities(scores, total=scores.sum(1))
        self._add(_Batch(scores, target, ignored, stray, are_logits=probabilities is None))

    def _measured_of(self, batch: _Batch) -> Measured:
        scores, target, _, stray, are_logits = batch
        if are_logits:
            return measure(scores, scores.softmax(1), target, stray)
        return measure(scores.log(), scores, target, stray)


class BinaryCalibrationStatistics(_Statistics):
    r"""Calibration of yes-or-no predictions, from a state of fixed size: of the positive class.

    Like :class:`CalibrationStatistics`, but "confidence" is the probability of a yes, however
    small, and is compared with how often a yes was right, as in torchmetrics'
    ``BinaryCalibrationError`` and scikit-learn's ``calibration_curve``. (The top-label figures of
    a binary classifier are those of ``CalibrationStatistics``.) With several labels per sample,
    every label is a prediction of its own.

    ``update(logits, target)`` takes:

    * ``logits``: floating-point scores that go into the sigmoid, of any shape: (N,), (N, C) for
      C labels, (N, C, \*) for maps. Half precision is widened to float32. Never modified.
    * ``target``: integers or booleans of the same shape, 1 for yes, 0 for no. Never modified.
    * ``probabilities``: instead of logits, what a sigmoid returned.

    ``compute()`` returns the same figures, but ``confidence_gap`` is the mean probability minus
    the share of yes, and ``brier`` the squared distance :math:`(p - y)^2`, from 0 to 1.
    ``accuracy`` counts a probability above one half as a yes.

    Args:
        n_bins: Number of equal-width bins, 1 to 6000.
        ignore_index: Predictions with this target are left out.
        **kwargs: Passed whole to :class:`torchmetrics.Metric`.

    Raises:
        MixupValueError: If ``n_bins`` is not between 1 and 6000.

    Example:
        >>> statistics = BinaryCalibrationStatistics(n_bins=5)
        >>> p = torch.tensor([0.1, 0.1, 0.1, 0.9])
        >>> statistics.update(probabilities=p, target=torch.tensor([0, 0, 1, 1]))
        >>> statistics.compute()["ece"]
        tensor(0.2000, dtype=torch.float64)
    """

    def update(
        self,
        logits: Tensor | None = None,
        target: Tensor | None = None,
        *,
        probabilities: Tensor | None = None,
    ) -> None:
        """Adds a batch; the class says what it takes.

        Raises:
            MixupTypeError: If ``logits`` are not floating-point, if ``target`` is, or unless
                exactly one of ``logits`` and ``probabilities`` is given.
            MixupValueError: If shapes disagree, if a label is neither 0 nor 1, or if
                probabilities are none. The last two are checked on the CPU only.
        """
        scores, target, name = given_scores(logits, target, probabilities)
        check_dtypes(scores, target, name)
        if scores.shape != target.shape:
            raise MixupValueError(
                f"`{name}` of shape {tuple(scores.shape)} and `target` of shape "
                f"{tuple(target.shape)} do not fit: there must be one target for each. "
                f"Reshape one, for example with `{name}.squeeze(1)`."
            )
        scores, target = scores.flatten(), target.flatten()
        ignored = self._ignored(target)
        target, _ = known_labels(target, ignored, 2)
        if probabilities is not None:
            check_probabilities(scores)
        self._add(_Batch(scores, target, ignored, None, are_logits=probabilities is None))

    def _measured_of(self, batch: _Batch) -> Measured:
        scores, target, _, _, are_logits = batch
        if are_logits:
            return measure_binary(scores, scores.sigmoid(), target)
        return measure_binary(scores.logit(), scores, target)


def _make_edges(n_bins: int, n_cells: int) -> Tensor:
    """Returns the upper edges of the cells; every edge of torchmetrics' bins is among them."""
    edges = torch.linspace(0, 1, n_cells + 1, dtype=torch.float32)
    # `linspace` rounds differently for each length, so the coarse edges are put in as they are.
    edges[:: n_cells // n_bins] = torch.linspace(0, 1, n_bins + 1, dtype=torch.float32)
    edges[-1] = math.inf  # a confidence of 1 belongs to the last cell
    return edges[1:].view(torch.int32)


def _find_cell(confidence: Tensor, edges: Tensor) -> Tensor:
    """Returns the cell of each confidence, which is looked up as float32, as in torchmetrics."""
    confidence, edges = confidence.float(), edges.view(torch.float32)
    if confidence.device.type != "cpu" or confidence.numel() < 5000:
        return torch.bucketize(confidence, edges, right=True)
    # Right or one too low, then put right. Ten times as fast as `bucketize` on many.
    guess = (confidence * len(edges) - 0.01).nan_to_num_(0).long()
    return (guess + (confidence >= edges.take(guess))).masked_fill_(confidence.isnan(), len(edges))
