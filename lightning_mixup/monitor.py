"""`CalibrationMonitor`: what a validation epoch says about calibration, in the logs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lightning_mixup.calibration import CalibrationStatistics
from lightning_mixup.interception import Interception, without_module
from lightning_mixup.loss_probe import LossProbe, Observation

__all__ = ["CalibrationMonitor"]

LogitsFn: TypeAlias = Callable[[LightningModule, Any, Any], tuple[Tensor, Tensor]]

_FIGURES = ("accuracy", "ece", "confidence_gap", "nll")
_WAY_OUT = (
    "Pass CalibrationMonitor(logits_fn=lambda module, batch, outputs: (logits, target)) to name "
    "them, or MixupCallback(calibration=False) to do without."
)


class CalibrationMonitor(Callback):
    r"""Logs accuracy and calibration of every validation and test epoch.

    ``val_accuracy``, ``val_ece`` (expected calibration error, 15 bins), ``val_confidence_gap``
    (mean confidence minus accuracy; above zero is over-confident) and ``val_nll``, and the same
    as ``test_…``: all over the whole epoch, from state of fixed size. ``val_ece`` is shown in the
    progress bar; loggers, ``ModelCheckpoint`` and ``EarlyStopping`` see all of them.

    Logits and targets are those of the loss that the module's own step computes. A key that the
    module logs itself stays the module's.

    Reference:
        | On Calibration of Modern Neural Networks (Guo, Pleiss, Sun and Weinberger, 2017)
        | https://arxiv.org/abs/1706.04599

    Args:
        metrics: torchmetrics of your own, logged beside as ``val_<name>``. They are given
            probabilities of shape (N, C, \*), of shape (N,) for a binary loss, and class indices.
        prefix: Put in front of every name.
        logits_fn: Called with the module, the batch and the step's output; returns logits of
            shape (N, C, \*) and integer targets of shape (N, \*). For steps whose loss is none
            that can be read.

    Raises:
        TypeError: If an argument is of the wrong type.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[CalibrationMonitor()], logger=False, barebones=True)
    """

    def __init__(
        self,
        metrics: Metric | MetricCollection | None = None,
        *,
        prefix: str = "",
        logits_fn: LogitsFn | None = None,
    ) -> None:
        if metrics is not None and not isinstance(metrics, (Metric, MetricCollection)):
            raise TypeError(
                f"metrics={metrics!r} is not of torchmetrics. Give a Metric, or several as "
                "MetricCollection({'name': metric})."
            )
        if not isinstance(prefix, str):
            raise TypeError(f"prefix={prefix!r} is not a string. Give one such as 'clean_'.")
        if logits_fn is not None and not callable(logits_fn):
            raise TypeError(
                f"logits_fn={logits_fn!r} can't be called. Give a function of the module, the "
                "batch and the step's output that returns (logits, target)."
            )
        self.metrics = metrics
        self.prefix = prefix
        self.logits_fn = logits_fn
        self.statistics: dict[str, list[CalibrationStatistics]] = {}
        """The counts of the last epoch: by stage, "val" or "test", one for each dataloader."""
        self._stage = ""
        self._probe: LossProbe | None = None
        self._interceptions: list[Interception] = []
        self._counters: dict[int, list[Metric | MetricCollection]] = {}
        self._keys_of_module: set[str] = set()
        self._keys_of_ours: set[str] = set()
        self._said: set[str] = set()

    def __repr__(self) -> str:
        parameters = inspect.signature(type(self)).parameters.values()
        given = {p.name: getattr(self, p.name) for p in parameters}
        changed = [f"{p.name}={given[p.name]!r}" for p in parameters if given[p.name] != p.default]
        return f"CalibrationMonitor({', '.join(changed)})"

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out what belongs to a running epoch, so that callbacks can be copied."""
        state = {**vars(self), "_interceptions": [], "_probe": None, "_counters": {}}
        return without_module(state)

    # When.

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says so where there will be nothing to report."""
        if not trainer.enable_validation and not trainer.barebones:
            self._say(
                "no loader",
                "there is no val_ece, as fit has no validation loader or the module no "
                "validation_step. Pass trainer.fit(..., val_dataloaders=...).",
            )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watches the validation steps."""
        self._start_watching(trainer, pl_module, "val", "validation_step")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watches the test steps."""
        self._start_watching(trainer, pl_module, "test", "test_step")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Counts a batch."""
        self._count(pl_module, outputs, batch, dataloader_idx)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Counts a batch."""
        self._count(pl_module, outputs, batch, dataloader_idx)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the module as it was found."""
        self._stop_watching()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the module as it was found."""
        self._stop_watching()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forgets what it knew of the module."""
        self._forget()

    # Lightning skips `teardown` when a run fails, so both exits release the module.
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leaves the module as it was found."""
        self._forget()

    # What.

    def _start_watching(
        self, trainer: Trainer, module: LightningModule, stage: str, step: str
    ) -> None:
        self._stop_watching()
        if trainer.barebones:  # which logs nothing
            return
        self._stage = stage
        self.statistics[stage] = []
        self._interceptions = [
            Interception(module, step, self._observe),
            Interception(module, "log", self._note_key),
        ]

    def _stop_watching(self) -> None:
        for interception in self._interceptions:
            interception.release()
        self._interceptions, self._counters, self._probe = [], {}, None

    def _forget(self) -> None:
        self._stop_watching()
        self._keys_of_module.clear()
        self._keys_of_ours.clear()
        self._said.clear()

    def _observe(self, method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        with LossProbe() as self._probe:
            return method(*args, **kwargs)

    def _note_key(self, method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Takes note of what the module logs itself."""
        key = kwargs["name"] if "name" in kwargs else args[0]
        self._keys_of_module.add(key)
        if key in self._keys_of_ours:  # the later of two wins in Lightning, here the module
            self._say_left_out(key)
        return method(*args, **kwargs)

    def _count(
        self, module: LightningModule, outputs: Any, batch: Any, dataloader_idx: int
    ) -> None:
        if not self._interceptions:
            return
        observation = self._find_logits(module, batch, outputs)
        self._probe = None  # nothing of a batch outlives it
        if observation is None:
            return
        if dataloader_idx not in self._counters:
            self._counters[dataloader_idx] = self._open(module, observation)
        statistics, *others = self._counters[dataloader_idx]
        statistics.update(observation.logits, observation.target)
        for metric in others:
            metric.update(observation.probabilities(), observation.target)

    def _find_logits(
        self, module: LightningModule, batch: Any, outputs: Any
    ) -> Observation | None:
        if self.logits_fn is not None:
            logits, target = self.logits_fn(module, batch, outputs)
            return Observation(logits.detach(), target)
        step = "validation_step" if self._stage == "val" else "test_step"
        found = self._probe.observations if self._probe else []
        if not found:
            reasons = (self._probe.declined if self._probe else []) or ["no loss was seen in it"]
            self._say(
                f"no logits in {step}",
                f"there is no {self._stage}_ece, as {step} has no logits and class labels that "
                f"can be read: {reasons[0]}. {_WAY_OUT}",
            )
            return None
        if len(found) > 1:
            shapes = ", ".join(str(tuple(observation.logits.shape)) for observation in found)
            self._say(
                f"several losses in {step}",
                f"{step} computes {len(found)} classification losses, of logits of the shapes "
                f"{shapes}; {self._stage}_ece is of the first. {_WAY_OUT}",
            )
        return found[0]

    def _open(
        self, module: LightningModule, observation: Observation
    ) -> list[Metric | MetricCollection]:
        """Makes fresh counters, and has Lightning log them when the epoch is over."""
        device = observation.logits.device
        statistics = CalibrationStatistics(ignore_index=observation.ignore_index)
        if device.type != "mps":  # which has no float64
            statistics = statistics.to(device)
        self.statistics[self._stage].append(statistics)
        for figure in _FIGURES:
            self._log(module, figure, _Figure(statistics, figure))
        if self.metrics is None:
            return [statistics]
        metrics = self.metrics.clone().to(device)
        metrics.reset()
        if isinstance(metrics, Metric):
            self._log(module, type(metrics).__name__, _Figure(metrics))
        else:
            for name in map(str, metrics.keys(keep_base=False)):
                self._log(module, name, _Figure(metrics, name))
        return [statistics, metrics]

    def _log(self, module: LightningModule, figure: str, value: _Figure) -> None:
        key = f"{self.prefix}{self._stage}_{figure}"
        if key in self._keys_of_module:  # ours would be the later, and win silently
            self._say_left_out(key)
            return
        self._keys_of_ours.add(key)
        value.update()
        log = self._interceptions[1].method  # the module's own
        in_bar = figure == "ece"
        log(key, value, prog_bar=in_bar, on_step=False, on_epoch=True, metric_attribute=key)

    def _say_left_out(self, key: str) -> None:
        self._say(
            key,
            f"the module logs {key} itself, so ours is left out. "
            "CalibrationMonitor(prefix='clean_') gives ours another name.",
        )

    def _say(self, topic: str, sentence: str) -> None:
        """Says something once in a run, on rank zero."""
        if topic not in self._said:
            self._said.add(topic)
            rank_zero_info(f"CalibrationMonitor: {sentence}")


class _Figure(Metric):
    """One figure of a metric that has several, in the form that Lightning logs.

    It has no state, and never synchronises: the metric behind it does, once for all figures.
    """

    full_state_update = False
    _source: Metric | MetricCollection

    def __init__(self, source: Metric | MetricCollection, name: str | None = None) -> None:
        super().__init__(sync_on_compute=False)
        object.__setattr__(self, "_source", source)  # not as a submodule, which Lightning resets
        self._figure = name

    def update(self) -> None:
        """Nothing: the metric behind it is updated."""

    def compute(self) -> Tensor:
        """Takes the figure from the metric behind."""
        computed: Any = self._source.compute()
        value: Tensor = computed if self._figure is None else computed[self._figure]
        return value.float()
