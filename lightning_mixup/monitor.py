"""`CalibrationMonitor`: what evaluation says about calibration, in the logs and in a report."""

from __future__ import annotations

import copy
import functools
import inspect
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lightning_mixup.arguments import check_flag
from lightning_mixup.calibration import CalibrationStatistics
from lightning_mixup.errors import MixupRuntimeError, MixupTypeError, MixupValueError
from lightning_mixup.interception import Interception, without_module
from lightning_mixup.loss_probe import LossProbe
from lightning_mixup.observation import Observation
from lightning_mixup.plot import report_plot
from lightning_mixup.publishing import Publisher, warning_of
from lightning_mixup.record import Record
from lightning_mixup.repeats import Rows, rows_of, rows_per_sample, without_repeats
from lightning_mixup.report import Entry, print_entry
from lightning_mixup.tally import Metrics, Tally, check_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CalibrationMonitor", "monitor_from"]

LogitsFn: TypeAlias = Callable[[LightningModule, Any, Any], tuple[Tensor, Tensor]]

_HOOK = "CalibrationMonitor"
_IGNORED = -100  # as by torch's losses, where they are told nothing else
_STEPS = {"val": "validation_step", "test": "test_step"}
_WAY_OUT = (
    "Pass CalibrationMonitor(logits_fn=lambda module, batch, outputs: (logits, target)) to name "
    "them, or MixupCallback(calibration=False) to do without."
)


class CalibrationMonitor(Callback):
    r"""Logs accuracy and calibration of every validation and test epoch.

    ``val_accuracy``, ``val_ece`` (expected calibration error, 15 bins), ``val_confidence_gap``
    (mean confidence minus accuracy; above zero is over-confident), ``val_nll`` and ``val_brier``,
    and the same as ``test_…``: all over the whole epoch and all processes, from state of fixed
    size. ``val_ece`` is shown in the progress bar; loggers, ``ModelCheckpoint`` and
    ``EarlyStopping`` see all of them. With several loaders they have Lightning's suffixes.

    Logits and targets are those of the loss that the module's own step computes. A step whose
    loss leaves it open what they are is an error that says what to write. A key that the module
    logs itself stays the module's.

    Reference:
        | On Calibration of Modern Neural Networks (Guo, Pleiss, Sun and Weinberger, 2017)
        | https://arxiv.org/abs/1706.04599

    Args:
        metrics: torchmetrics of your own, logged beside as ``val_<name>``: a ``Metric``, a
            ``MetricCollection``, or a function that makes either from the number of classes (1
            for a binary loss), such as `classification_metrics`. They are given probabilities of
            shape (N, C, \*), of shape (N,) for a binary loss, and class indices, without the
            samples that don't count: those of the loss's ``ignore_index`` and those with NaN.
        prefix: Put in front of every name.
        logits_fn: Called with the module, the batch and the step's output; returns logits of
            shape (N, C, \*) and integer targets of shape (N, \*). For steps whose loss is none
            that can be read.
        pictures: Draws the report at the end of fit and test, where matplotlib is installed: for
            TensorBoard, W&B, MLflow or Comet, or as a PNG in the log folder.

    Raises:
        MixupTypeError: If an argument is of the wrong type.
        MixupValueError: If a metric has the name of one of our figures.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[CalibrationMonitor()], logger=False, barebones=True)
    """

    def __init__(
        self,
        metrics: Metrics | None = None,
        *,
        prefix: str = "",
        logits_fn: LogitsFn | None = None,
        pictures: bool = True,
    ) -> None:
        _check_arguments(metrics, prefix, logits_fn)
        self.metrics = metrics
        self.prefix = prefix
        self.logits_fn = logits_fn
        self.pictures = check_flag("pictures", pictures)
        self._must_report = True  # as the user has asked for it
        self._stage = ""
        self._is_sanity_check = False
        self._probe: LossProbe | None = None
        self._interceptions: dict[str, Interception] = {}
        self._tallies: dict[str, list[Tally]] = {}
        self._logged: set[int] = set()  # the loaders whose figures are
        self._keys_of_module: set[str] = set()
        self._keys_of_ours: set[str] = set()
        self._said: set[str] = set()
        self._record = Record()
        self._publisher = Publisher(prefix, pictures=pictures)

    def __repr__(self) -> str:
        parameters = inspect.signature(type(self)).parameters.values()
        given = {p.name: getattr(self, p.name) for p in parameters}
        changed = [f"{p.name}={given[p.name]!r}" for p in parameters if given[p.name] != p.default]
        return f"CalibrationMonitor({', '.join(changed)})"

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out what belongs to a running epoch, so that callbacks can be copied."""
        return without_module({**vars(self), "_interceptions": {}, "_probe": None})

    @property
    def statistics(self) -> dict[str, list[CalibrationStatistics]]:
        """The counts of the last epoch: by stage, "val" or "test", one for each dataloader."""
        return {
            stage: [tally.statistics for tally in tallies]
            for stage, tallies in self._tallies.items()
        }

    @property
    def state_key(self) -> str:
        """As Lightning tells the states of several monitors apart in a checkpoint."""
        return self._generate_state_key(prefix=self.prefix)

    def state_dict(self) -> dict[str, Any]:
        """Keeps the history, so that the report on a resumed run has all of it."""
        return {"history": copy.deepcopy(self._record.history)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over the history of the run that is resumed."""
        self._record.history = copy.deepcopy(state_dict["history"])

    def report(self) -> dict[str, Entry]:
        """Returns what is known at the end of a fit, test or validation, on every process.

        An entry ``"val"``, ``"test"`` or, of several loaders, ``"val/dataloader_idx_0"`` holds the
        figures of :class:`CalibrationStatistics` by name; ``"temperature"``, the best T to divide
        logits by, and ``"ece_at_temperature"`` and likewise ``noise_floor``, ``confidence_gap``,
        ``nll`` and ``brier``, each half of the samples scaled by the other half's best;
        ``"verdict"``, a sentence; ``"bins"``, the sums behind the reliability diagram; and
        ``"history"``, lists of the figures after each epoch. What is not known is None.
        ``calibration.json`` is the same.

        Example:
            >>> CalibrationMonitor().report()  # before any run
            {}
        """
        return self._record.copied()

    @property
    def temperature(self) -> float | None:
        """The best temperature, of the first validation loader, or where there is none of test.

        None before the end of a run, and where none is best, as where every sample is right.
        """
        name = self._record.main_name()
        return None if name is None else self._record.report[name]["temperature"]

    def plot(self, name: str | None = None) -> Figure:
        """Draws the reliability diagram and the figures after each epoch.

        Args:
            name: The entry of ``report()`` to draw; by default that of validation, or where there
                is none of test.

        Returns:
            A matplotlib figure; ``figure.savefig("calibration.png")`` writes it.

        Raises:
            MixupImportError: If matplotlib is not installed.
            MixupValueError: If there is no such entry.
        """
        report = self._record.report
        name = self._record.main_name() if name is None else name
        if name not in report:
            raise MixupValueError(
                f"There is no report on {name or 'anything'} yet, only on {list(report)}. "
                "Call plot() when a fit, test or validation has ended."
            )
        return report_plot(report[name], title=f"{self.prefix}{name}")

    # When.

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says so where there will be nothing to report."""
        self._publisher = Publisher(self.prefix, pictures=self.pictures)
        self._record.start()
        self._tallies.pop("val", None)  # or a fit without validation would report on it
        if not trainer.enable_validation and not trainer.barebones:
            self._say(
                "there is no val_ece, as fit has no validation loader, limit_val_batches is 0, or "
                "the module has no validation_step. Pass trainer.fit(..., val_dataloaders=...)."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Goes on with the history of a run that is resumed, of which Lightning knows by now."""
        self._record.go_on(trainer.global_step)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watches the validation steps."""
        self._start_watching(trainer, pl_module, "val")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watches the test steps."""
        self._start_watching(trainer, pl_module, "test")

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
        if self._interceptions:
            rows = _rows(trainer, batch_idx, dataloader_idx)
            self._count(pl_module, batch, outputs, rows, dataloader_idx)

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
        self.on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes part in pooling what this process had no batch of."""
        self._finish(pl_module)
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._conclude("val")
        elif self._interceptions and not trainer.sanity_checking:
            when = {"epoch": trainer.current_epoch, "step": trainer.global_step}
            self._record.remember(self._tallies["val"], **when)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes part in pooling what this process had no batch of."""
        self._finish(pl_module)
        self._conclude("test")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finds the best temperature of the last validation, together with other processes."""
        if not self._is_sanity_check:
            self._conclude("val")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reports, now that progress bars are gone."""
        self._publish(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the module as it was found."""
        self._stop_watching()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the module as it was found."""
        self._stop_watching()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Reports on a test, and forgets what it knew of the module."""
        if stage == "test":
            self._publish(trainer)
        self._forget()

    # Lightning skips `teardown` when a run fails, so both exits release the module.
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leaves the module as it was found, and reports on a fit that its user has stopped."""
        # Alone: other processes may not get here, and this one would wait for them.
        stopped = isinstance(exception, KeyboardInterrupt) and trainer.world_size == 1
        if stopped and trainer.state.fn == TrainerFn.FITTING:
            self.on_train_end(trainer, pl_module)
            self._publish(trainer)
        self._forget()

    # What.

    def _start_watching(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self._stop_watching()
        self._tallies.pop(stage, None)
        if trainer.barebones:  # which logs nothing
            return
        self._stage = stage
        self._is_sanity_check = bool(trainer.sanity_checking)
        self._logged = set()
        self._tallies[stage] = [Tally(self.metrics) for _ in _loaders(trainer) or [None]]
        self._interceptions["log"] = Interception(module, "log", self._note_key)
        if self.logits_fn is None:

            def step(method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
                is_lightnings = module._current_fx_name == _STEPS[stage]
                if self._probe is not None or not is_lightnings:  # a step within, or another's
                    return method(*args, **kwargs)
                with LossProbe() as self._probe:
                    return method(*args, **kwargs)

            self._interceptions["step"] = Interception(module, _STEPS[stage], step)

    def _stop_watching(self) -> None:
        for interception in self._interceptions.values():
            interception.release()
        self._interceptions, self._probe = {}, None

    def _forget(self) -> None:
        self._stop_watching()
        self._keys_of_module.clear()
        self._keys_of_ours.clear()
        self._said.clear()

    def _note_key(self, method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Takes note of what the module logs itself."""
        key = kwargs["name"] if "name" in kwargs else args[0]
        self._keys_of_module.add(key)
        if key in self._keys_of_ours:  # the later of two wins in Lightning, here the module
            self._say_left_out(key)
        return method(*args, **kwargs)

    def _count(
        self,
        module: LightningModule,
        batch: Any,
        outputs: Any,
        rows: Rows | str | None,
        dataloader_idx: int,
    ) -> None:
        tally = self._tallies[self._stage][dataloader_idx]
        if not tally.withheld:
            found = self._find_logits(module, batch, outputs)
            if not isinstance(found, str) and rows is not None:
                found = rows if isinstance(rows, str) else without_repeats(found, batch, rows)
            if isinstance(found, str):
                tally.withheld = found
            else:
                if module.trainer.world_size > 1 and not tally.is_open:
                    tally.rows_per_sample = rows_per_sample(found, batch)
                tally.add(found)
            # Of several processes all raise when they pool, lest the others wait for one.
            if tally.withheld and module.trainer.world_size == 1:
                self._refuse(tally.withheld)
        self._probe = None  # nothing of a batch outlives it
        if tally.is_open and dataloader_idx not in self._logged:
            self._log_all(module, dataloader_idx)

    def _find_logits(self, module: LightningModule, batch: Any, outputs: Any) -> Observation | str:
        if self.logits_fn is not None:
            logits, target = _checked(self.logits_fn(module, batch, outputs))
            return Observation(logits.detach(), target.detach(), _IGNORED)
        if self._probe is None:
            return "it did not run by its own name"
        return self._probe.choose(batch, outputs)

    def _figures(self, dataloader_idx: int) -> dict[str, Tensor]:
        """Pools a loader; those before it first, as all processes must keep one order."""
        tallies = self._tallies[self._stage]
        for tally in tallies[: dataloader_idx + 1]:
            if not tally.is_pooled:
                self._comment(tally.figures(), tally)
        return tallies[dataloader_idx].figures()

    def _comment(self, figures: dict[str, Tensor], tally: Tally) -> None:
        """Says what the figures don't."""
        if tally.withheld:
            self._refuse(tally.withheld)
        left_out = int(figures.get("nonfinite", 0))
        if left_out:
            self._warn(
                f"{left_out} of {left_out + int(figures['count'])} samples of {self._stage} have "
                "NaN or infinite logits. They are left out of the figures. Look for what makes "
                "them, such as half precision or a division by zero.",
                topic=f"nonfinite {self._stage}",
            )
        if tally.lacks_metrics:
            self._warn(
                "your metrics are NaN, as a process had no samples for them. Give each process at "
                "least one batch."
            )

    def _finish(self, module: LightningModule) -> None:
        """Pools what is left, and logs what this process had no batch of."""
        if not self._interceptions:
            return
        for index in range(len(self._tallies[self._stage])):
            if self._figures(index) and index not in self._logged:
                self._log_all(module, index, is_late=True)

    def _conclude(self, stage: str) -> None:
        """Makes the report of a stage; the last checkpoint of a fit is yet to be saved."""
        with warning_of("made"):
            self._record.conclude(stage, self._tallies.get(stage, ()))

    def _publish(self, trainer: Trainer) -> None:
        """Shows and saves what is new, on the first process."""
        report, new = self._record.report, self._record.new
        self._record.new = []
        if not trainer.is_global_zero or not new:
            return
        if logging.getLogger("lightning.pytorch").isEnabledFor(logging.INFO):
            for name in new:
                with warning_of("printed"):
                    print_entry(report[name], f"{self.prefix}{name}")
        self._publisher.publish(trainer, report, new)

    def _log_all(
        self, module: LightningModule, dataloader_idx: int, *, is_late: bool = False
    ) -> None:
        """Has Lightning log the figures of a loader when the epoch is over."""
        self._logged.add(dataloader_idx)
        suffix = ""
        if is_late and len(self._tallies[self._stage]) > 1:
            if module.trainer.is_global_zero:
                self._warn(  # Lightning's table would show them in the columns of other loaders
                    f"figures of dataloader {dataloader_idx} are not logged, as the first process "
                    "had no batch of it. Give each process at least one."
                )
                return
            suffix = f"/dataloader_idx_{dataloader_idx}"
        results: Any = module.trainer._results
        others = {item.meta.name for item in results.values() if not _is_ours(item)}
        for name in self._tallies[self._stage][dataloader_idx].names():
            key = f"{self.prefix}{self._stage}_{name}"
            if key in self._keys_of_module | others:  # ours would be the later, and win silently
                self._say_left_out(key)
                continue
            self._keys_of_ours.add(key)
            value = _Figure(self._figures, dataloader_idx, name)
            value.update()
            # As `self.log` would, but for the hook's name: in one hook, Lightning refuses a key
            # that somebody else logs, too.
            results.log(
                _HOOK,
                key + suffix,
                value,
                prog_bar=name == "ece",
                logger=True,
                on_step=False,
                on_epoch=True,
                add_dataloader_idx=not suffix,
                metric_attribute=key,
            )

    def _refuse(self, reason: str) -> None:
        """Warns of figures that come with mixup, and raises where the user has asked for them.

        Raises:
            MixupRuntimeError: Then.
        """
        step = _STEPS[self._stage]
        sentence = (
            f"there is no {self.prefix}{self._stage}_ece, as {step} has no logits and class "
            f"labels that can be read without a doubt: {reason}. {_WAY_OUT}"
        )
        if self._must_report:
            raise MixupRuntimeError(f"CalibrationMonitor: {sentence}")
        self._warn(sentence, topic=f"refused {step}")

    def _say_left_out(self, key: str) -> None:
        self._say(
            f"{key} is logged by the module or another callback, too, so ours is left out. "
            "CalibrationMonitor(prefix='clean_') gives ours another name."
        )

    def _say(self, sentence: str) -> None:
        """Says something once in a run, on rank zero."""
        if self._is_new(sentence):
            rank_zero_info(f"CalibrationMonitor: {sentence}")

    def _warn(self, sentence: str, topic: str = "") -> None:
        """Warns of something once in a run, on rank zero."""
        if self._is_new(topic or sentence):
            rank_zero_warn(f"CalibrationMonitor: {sentence}")

    def _is_new(self, topic: str) -> bool:
        is_new = topic not in self._said
        self._said.add(topic)
        return is_new


# Lightning takes it for one that has no state, of which there may be two with the same prefix.
functools.update_wrapper(
    CalibrationMonitor.state_dict, Callback.state_dict, assigned=(), updated=()
)


def monitor_from(calibration: bool | CalibrationMonitor) -> CalibrationMonitor | None:  # noqa: FBT001
    """Returns the monitor that comes with mixup: one that was not asked for warns, never raises.

    Raises:
        MixupTypeError: If it is neither True, False nor a monitor.
    """
    if isinstance(calibration, CalibrationMonitor):
        return calibration
    if not isinstance(calibration, bool):
        raise MixupTypeError(
            f"calibration={calibration!r} is a {type(calibration).__name__}. Give True, False or "
            "CalibrationMonitor(...)."
        )
    if not calibration:
        return None
    monitor = CalibrationMonitor()
    monitor._must_report = False
    return monitor


class _Figure(Metric):
    """One figure of a loader, in the form that Lightning logs.

    It has no state, and never synchronises: what is behind it does, once for all figures.
    """

    full_state_update = False
    _source: Callable[[int], dict[str, Tensor]]

    def __init__(
        self, source: Callable[[int], dict[str, Tensor]], dataloader_idx: int, name: str
    ) -> None:
        super().__init__(sync_on_compute=False)
        self._source, self._dataloader_idx, self._figure = source, dataloader_idx, name

    def update(self) -> None:
        """Nothing: what is behind it is updated."""

    def compute(self) -> Tensor:
        """Takes the figure from behind; NaN where figures are withheld."""
        figures = self._source(self._dataloader_idx)
        value = figures.get(self._figure, torch.tensor(torch.nan))
        return value.float().reshape(())


def _check_arguments(metrics: object, prefix: object, logits_fn: object) -> None:
    """Refuses what is of the wrong type.

    Raises:
        MixupTypeError: Then.
    """
    if isinstance(metrics, (Metric, MetricCollection)):
        check_names(metrics)
    elif metrics is not None and (not callable(metrics) or isinstance(metrics, type)):
        raise MixupTypeError(
            f"metrics={metrics!r} is not of torchmetrics. Give a Metric, or several as "
            "MetricCollection({'name': metric}), or a function that makes them from the number of "
            "classes, such as lightning_mixup.classification_metrics."
        )
    if not isinstance(prefix, str):
        raise MixupTypeError(f"prefix={prefix!r} is not a string. Give one such as 'clean_'.")
    if logits_fn is not None and not callable(logits_fn):
        raise MixupTypeError(
            f"logits_fn={logits_fn!r} can't be called. Give a function of the module, the "
            "batch and the step's output that returns (logits, target)."
        )


def _checked(returned: Any) -> tuple[Tensor, Tensor]:
    """Returns what logits_fn has returned.

    Raises:
        MixupTypeError: If these are not two tensors.
    """
    is_pair = isinstance(returned, (tuple, list)) and len(returned) == 2
    if not is_pair or not all(isinstance(part, Tensor) for part in returned):
        raise MixupTypeError(
            f"logits_fn returned {type(returned).__name__}, not two tensors. Return "
            "(logits, target), of the shapes (N, C) and (N,)."
        )
    return returned[0], returned[1]


def _is_ours(item: Any) -> bool:
    return str(item.meta.fx).partition(".")[0] == _HOOK


def _loaders(trainer: Trainer) -> list[Any]:
    """Returns the loaders of this evaluation; those that are read side by side are one."""
    combined = _loop(trainer)._combined_loader
    if combined is None:
        return []
    return combined.flattened if combined._mode == "sequential" else [combined.flattened]


def _loop(trainer: Trainer) -> Any:
    if trainer.state.fn == TrainerFn.TESTING:
        return trainer.test_loop
    if trainer.state.fn == TrainerFn.VALIDATING:
        return trainer.validate_loop
    return trainer.fit_loop.epoch_loop.val_loop


def _rows(trainer: Trainer, batch_idx: int, dataloader_idx: int) -> Rows | str | None:
    """Returns which rows of a batch count, None for all, or why that is not known."""
    if trainer.world_size == 1:
        return None
    loaders = _loaders(trainer)
    loader = loaders[dataloader_idx] if dataloader_idx < len(loaders) else None
    try:
        if not isinstance(loader, list):
            return rows_of(loader, batch_idx)
        if any(rows_of(each, 0) is not None for each in loader):
            return (
                "samples are repeated to even out the processes, and nobody knows which, as "
                "loaders are combined"
            )
    except ValueError as error:
        return str(error)
    return None
