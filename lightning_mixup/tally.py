"""What the batches of one dataloader add up to, over all processes.

A process may have seen no batch, or one that can't be read. So that none waits for the others in
vain, every process takes part in pooling a loader, once and in the order of the loaders; and where
one can't tell, none shows a figure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed
from torchmetrics import Metric, MetricCollection

from lightning_mixup.calibration import CalibrationStatistics
from lightning_mixup.errors import MixupTypeError, MixupValueError
from lightning_mixup.observation import Observation
from lightning_mixup.reliability import ReliabilityBins
from lightning_mixup.reservoir import Kept, Reservoir
from lightning_mixup.temperature import cross_fit

__all__ = ["FIGURES", "Metrics", "Tally", "check_names"]

Metrics: TypeAlias = Metric | MetricCollection | Callable[[int], Metric | MetricCollection]

_T = TypeVar("_T")

FIGURES = ("accuracy", "ece", "confidence_gap", "nll", "brier")


@dataclass(frozen=True)
class _Form:
    """What all observations of a loader have in common."""

    classes: int
    is_binary: bool
    ignore_index: int | None


@dataclass(frozen=True)
class _Report:
    """What a process tells the others before they pool."""

    form: _Form | None
    withheld: str
    has_metrics: bool


class Tally:
    """Counts the observations of one loader.

    Args:
        metrics: The user's, which are copied; or a function of the number of classes.

    Attributes:
        statistics: Our own; those of no samples until there is an observation.
        rows_per_sample: Into how many rows of logits each sample is cut, such as its tokens.
        bins: The sums of all processes in equal-width bins, once pooled; None where withheld.
        withheld: Why there are no figures, in words; empty where there are.
        lacks_metrics: Whether the user's metrics are NaN, as some process had nothing for them.

    Example:
        >>> tally = Tally()
        >>> tally.add(Observation(torch.tensor([[0.0, 2.0]]), torch.tensor([1])))
        >>> tally.figures()["accuracy"]
        tensor(1., dtype=torch.float64)
    """

    def __init__(self, metrics: Metrics | None = None) -> None:
        self.statistics = CalibrationStatistics()
        self.bins: ReliabilityBins | None = None
        self.rows_per_sample = 1
        self.withheld = ""
        self.lacks_metrics = False
        self._given = metrics
        self._metrics: Metric | MetricCollection | None = None
        self._has_metrics = False  # whether they were updated
        self._form: _Form | None = None
        self._is_asked = False  # whether a batch with labels that count was doubted
        self._has_soft_labels: Tensor | None = None
        self._reservoir: Reservoir | None = None
        self._figures: dict[str, Tensor] | None = None
        self._more: dict[str, float | None] | None = None

    def names(self) -> list[str]:
        """Returns the names of the figures, ours first."""
        if self._metrics is None:
            return list(FIGURES)
        if isinstance(self._metrics, Metric):
            return [*FIGURES, type(self._metrics).__name__]
        return [*FIGURES, *map(str, self._metrics.keys(keep_base=False))]

    def add(self, observation: Observation) -> None:
        """Adds a batch; what can't be added is withheld, together with all others."""
        form = _form_of(observation)
        if self._form is None:
            if not self.withheld:
                self._open(form, observation.logits.device)
        elif form != self._form:
            self.withheld = (
                f"the losses of its batches differ: of {_described(self._form)} in one and "
                f"{_described(form)} in another"
            )
        if not self._is_asked and not self.withheld and observation.given is not None:
            self.withheld = _doubt(observation)
            self._is_asked = bool(len(observation.counted()))
        if self.withheld:
            return
        soft = observation.has_soft_labels()
        if soft is not None:
            before = self._has_soft_labels
            self._has_soft_labels = soft if before is None else before | soft
        if observation.target.numel():
            try:
                self.statistics.update(observation.logits, observation.target)
            except ValueError as error:
                self.withheld = f"its labels can't be counted: {error}"
                return
            self._update_metrics(observation)
            if self._reservoir is not None:
                self._reservoir.add(observation.logits, observation.target)

    @property
    def is_open(self) -> bool:
        """Returns whether there was an observation."""
        return self._form is not None

    @property
    def is_pooled(self) -> bool:
        """Returns whether the figures have been asked for."""
        return self._figures is not None

    def figures(self) -> dict[str, Tensor]:
        """Pools all processes, each of which must call this, and returns the figures by name.

        Empty where there is no batch in any process, or figures are withheld.
        """
        if self._figures is None:
            self._figures = self._pool()
        return self._figures

    def more_figures(self) -> dict[str, float | None]:
        """Returns what takes longer, at the end of a run: all figures, and the temperature's.

        Every process must call this. Empty where there are no figures.
        """
        if self._more is None:
            self._more = self._pool_more()
        return self._more

    def _open(self, form: _Form, device: torch.device) -> None:
        self._form = form
        self.statistics = CalibrationStatistics(ignore_index=form.ignore_index)
        if device.type != "mps":  # which has no float64
            self.statistics = self.statistics.to(device)
        # No sample, so that asking is no mistake should there be none.
        nothing = torch.zeros(0, form.classes, device=device)
        self.statistics.update(nothing, torch.zeros(0, dtype=torch.long, device=device))
        self._reservoir = Reservoir(
            form.classes,
            rank=_rank(),
            world_size=_world_size(),
            rows_per_sample=self.rows_per_sample,
        )
        if self._given is None:
            return
        if isinstance(self._given, (Metric, MetricCollection)):
            made = self._given.clone()
        else:
            made = self._given(1 if form.is_binary else form.classes)
            _check_made(made)
        check_names(made)
        self._metrics = made.to(device)
        self._metrics.reset()

    def _update_metrics(self, observation: Observation) -> None:
        if self._metrics is None:
            return
        probabilities, target = _counted(observation)
        if len(target):
            self._metrics.update(probabilities, target)
            self._has_metrics = True

    def _pool(self) -> dict[str, Tensor]:
        if self._has_soft_labels is not None and self._has_soft_labels and not self.withheld:
            self.withheld = "the targets of its loss are soft in some batches"
        reports = _gathered(_Report(self._form, self.withheld, self._has_metrics))
        forms = {report.form for report in reports if report.form is not None}
        self.withheld = next((report.withheld for report in reports if report.withheld), "")
        if len(forms) > 1 and not self.withheld:
            self.withheld = "the losses of its batches differ between processes"
        if self.withheld or not forms:
            return {}
        if self._form is None:
            self._open(forms.pop(), _device_of_pooling())
        with self.statistics.sync_context():
            ours = self.statistics.headline()
            self.bins = self.statistics.bins()
        if self._reservoir is not None:
            self._reservoir.leave_device()
        return {**ours, **self._pool_metrics(reports)}

    def _pool_more(self) -> dict[str, float | None]:
        if not self.figures() or self._reservoir is None:
            return {}
        figures = {name: float(value) for name, value in self.statistics.compute().items()}
        kept = self._reservoir.keep(np.array(_summed(self._reservoir.counts().tolist())))
        self._reservoir = None  # which takes room
        return {**figures, **cross_fit(_usable(kept, self._form), pool=_summed)}

    def _pool_metrics(self, reports: list[_Report]) -> dict[str, Tensor]:
        if self._metrics is None:
            return {}
        names = self.names()[len(FIGURES) :]
        if not all(report.has_metrics for report in reports):
            # torchmetrics would have some processes wait for states that others don't have.
            self.lacks_metrics = True
            return dict.fromkeys(names, torch.tensor(torch.nan))
        computed: Any = self._metrics.compute()
        figures: dict[Any, Tensor] = (
            {names[0]: computed} if isinstance(self._metrics, Metric) else computed
        )
        for name, figure in figures.items():
            _check_scalar(name, figure)
        return {str(name): figure for name, figure in figures.items()}


def _form_of(observation: Observation) -> _Form:
    classes = observation.logits.shape[min(1, observation.logits.ndim - 1)]
    return _Form(classes, observation.is_binary, observation.ignore_index)


def _described(form: _Form) -> str:
    ignored = "" if form.ignore_index in (None, -100) else f", ignoring {form.ignore_index}"
    return "two classes in one column" if form.is_binary else f"{form.classes} classes{ignored}"


def _doubt(observation: Observation) -> str:
    """Asks what waits for the device, and is therefore asked of the first labels alone."""
    soft = observation.has_soft_labels()
    if soft is not None and soft:
        return f"the targets of {observation.loss} are soft"
    if observation.is_unnormalised():
        return (
            "nll_loss is given no log-probabilities over the classes; it takes the output of "
            "log_softmax(..., dim=1)"
        )
    if observation.lacks_a_class():
        return f"a class has the weight 0 in {observation.loss}, so that its labels don't count"
    squash = observation.squash()
    if squash:
        return f"{observation.loss} is given the output of a {squash}, not what goes into it"
    return ""


def _counted(observation: Observation) -> tuple[Tensor, Tensor]:
    """Returns probabilities and targets without the samples that our statistics leave out, too."""
    probabilities, target = observation.probabilities(), observation.target
    if not target.ndim:
        probabilities, target = probabilities[None], target[None]
    flat = (
        probabilities if probabilities.ndim == 1 else probabilities.movedim(1, -1).flatten(0, -2)
    )
    labels = target.flatten()
    counts = flat.isfinite() if flat.ndim == 1 else flat.isfinite().all(1)
    if observation.ignore_index is not None:
        counts = counts & (labels != observation.ignore_index)
    if counts.all():
        return probabilities, target
    return flat[counts], labels[counts]


def _usable(kept: Kept, form: _Form | None) -> Kept:
    """Leaves out the samples that our statistics leave out."""
    logits, target, _ = kept
    # A NaN is its sample's largest logit.
    counts = logits.amax(1).isfinite() & (target >= 0) & (target < logits.shape[1])
    if form is not None and form.ignore_index is not None:
        counts = counts & (target != form.ignore_index)
    return Kept(*(part[counts] for part in kept))


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _rank() -> int:
    return distributed.get_rank() if _is_distributed() else 0


def _world_size() -> int:
    return distributed.get_world_size() if _is_distributed() else 1


def _gathered(report: _T) -> list[_T]:
    """Returns what every process reports."""
    if not _is_distributed():
        return [report]
    reports: list[Any] = [None] * _world_size()
    distributed.all_gather_object(reports, report)
    return reports


def _summed(numbers: list[Any]) -> list[Any]:
    """Adds up each number over the processes, in one order, so that all have the same sums."""
    return [sum(column) for column in zip(*_gathered(numbers), strict=True)]


def _device_of_pooling() -> torch.device:
    """Returns the device of tensors that the processes exchange."""
    on_cuda = distributed.is_initialized() and "nccl" in distributed.get_backend()
    return torch.device("cuda", torch.cuda.current_device()) if on_cuda else torch.device("cpu")


def _check_made(made: object) -> None:
    if not isinstance(made, (Metric, MetricCollection)):
        raise MixupTypeError(
            f"metrics(num_classes) returned {made!r}, which is not of torchmetrics. Return a "
            "Metric, or several as MetricCollection({'name': metric})."
        )


def check_names(metrics: Metric | MetricCollection) -> None:
    """Refuses metrics that have the name of a figure of ours.

    Raises:
        MixupValueError: Then.
    """
    names = [] if isinstance(metrics, Metric) else map(str, metrics.keys(keep_base=False))
    for name in names:
        if name in FIGURES:
            raise MixupValueError(
                f"metrics holds {name!r}, which is the name of a figure of ours. Give it another, "
                f"such as MetricCollection({{'tm_{name}': ...}})."
            )


def _check_scalar(name: str, figure: object) -> None:
    if not isinstance(figure, Tensor) or figure.numel() != 1:
        form = f"shape {tuple(figure.shape)}" if isinstance(figure, Tensor) else repr(type(figure))
        raise MixupTypeError(
            f"The metric {name} computes something of {form}, but only single numbers can be "
            "logged. Give it average='macro' or 'micro', or log it yourself."
        )
