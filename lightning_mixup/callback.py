"""`MixupCallback`: when a batch is mixed, and how it gets to ``training_step``.

``on_train_batch_start`` intercepts the batch and draws its mix; ``training_step`` is then handed
a mixed copy. The recipe says how to mix, `batch.py` what is mixed, `targets.py` how a loss sees
it; here is only the order of events.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from numbers import Integral
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_mixup.arguments import (
    check_probability,
    check_selector,
    check_type,
    choose_recipe,
    find_module,
)
from lightning_mixup.batch import Entries, Selector, find_entries, looks_mixed
from lightning_mixup.containers import get_entry, name_of_path, replace_entries
from lightning_mixup.doors import gather_plainly, guard_metrics
from lightning_mixup.interception import Interception, without_module
from lightning_mixup.losses import evaluate_per_candidate
from lightning_mixup.monitor import CalibrationMonitor
from lightning_mixup.recipes import Mix, Mixup
from lightning_mixup.targets import MixedTarget, Usage, merge

__all__ = ["MixupCallback"]

_log = logging.getLogger(__name__)


class MixupCallback(Callback):
    """Mixes every training batch on its device, and reports what that does to calibration.

    The LightningModule stays as it is: its ``training_step`` receives a mixed copy of the batch
    whose targets are `MixedTarget`, so that its own loss is the mixup loss and its own train
    metrics are those against the dominant label. Validation, test and predict see the loader's
    batch, and there `CalibrationMonitor` logs accuracy, ECE, confidence gap and NLL.

    Reference:
        | mixup: Beyond Empirical Risk Minimization (Zhang et al., 2018)
        | https://arxiv.org/abs/1710.09412

    Args:
        alpha: Short for ``recipe=Mixup(alpha)``. Without either, 0.2: the paper's choice for
            ImageNet, mild enough to be a safe start elsewhere. 0 mixes nothing and still
            reports, which makes the baseline arm of a sweep.
        recipe: How a batch is mixed, such as ``Mixup(1.0, per_sample=True)``.
        prob: The probability that a batch is mixed, in [0, 1]. 1 as in the paper: with a small
            alpha most batches are nearly clean anyway.
        inputs: What is mixed: an index, key or dotted path in the batch, several, or a function
            of the batch that returns the tensors. ``"auto"`` takes the first of two, or the
            usual names such as ``image``, and never guesses.
        targets: The targets, likewise. None for modules that use no labels.
        loss: The name of a submodule that computes the loss, where torch can't look into it
            (scripted, fused, custom autograd). It is evaluated once per candidate label.
        calibration: True reports with a `CalibrationMonitor`, False doesn't; or give your own.
        seed: Decides the draws, together with the rank and the number of the batch. By default
            the seed of ``seed_everything`` or ``torch.manual_seed``; a resumed run goes on with
            that of its checkpoint. No global state is touched.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If both alpha and recipe are given, or a number is out of its range.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[MixupCallback(alpha=0.2)], logger=False, barebones=True)
    """

    mix: Mix | None
    """The draw of the batch in progress; None where it is not mixed."""

    _interceptions: list[Interception]
    _usages: list[Usage]  # of the labels that were mixed in this step
    _entries: Entries | None
    _batch_number: int | None  # for which the mix was drawn
    _fetches: bool  # whether the step takes a dataloader_iter
    _announced: bool
    _told: bool  # of labels that were read as numbers

    def __init__(  # noqa: PLR0913  all but the first by keyword, each one decision
        self,
        alpha: float | None = None,
        *,
        recipe: Mixup | None = None,
        prob: float = 1.0,
        inputs: Selector = "auto",
        targets: Selector = "auto",
        loss: str | None = None,
        calibration: bool | CalibrationMonitor = True,
        seed: int | None = None,
    ) -> None:
        self.recipe = choose_recipe(alpha, recipe)
        self.prob = check_probability(prob)
        self.inputs = check_selector("inputs", inputs)
        self.targets = check_selector("targets", targets)
        self.loss = check_type("loss", loss, str, "a submodule's name, such as 'criterion'")
        self.seed = None if seed is None else int(check_type("seed", seed, Integral, "an integer"))
        self.calibration = calibration
        self.monitor = _monitor_from(calibration)
        self._reporting = self.monitor
        self._seed = self.seed or 0
        vars(self).update(_at_rest())

    def __repr__(self) -> str:
        short = self.recipe == Mixup(self.recipe.alpha)
        arguments = [repr(self.recipe.alpha) if short else f"recipe={self.recipe!r}"]
        for name, parameter in inspect.signature(type(self)).parameters.items():
            value = getattr(self, name, None)
            if name not in ("alpha", "recipe") and value != parameter.default:
                arguments.append(f"{name}={value!r}")
        return f"MixupCallback({', '.join(arguments)})"

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out what belongs to a fit, so that callbacks can be copied in the middle."""
        return without_module({**vars(self), **_at_rest()})

    @property
    def _mixes(self) -> bool:
        return self.prob > 0 and self.recipe.mixes

    # When.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stands in for ``training_step`` until the fit ends."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        others = [other for other in callbacks if isinstance(other, CalibrationMonitor)]
        stands_back = bool(others) if self.calibration is True else self.monitor in others
        self._reporting = None if stands_back else self.monitor
        if stage != "fit":
            return
        self._release()
        self._seed = torch.initial_seed() if self.seed is None else self.seed
        self._fetches = "dataloader_iter" in inspect.signature(pl_module.training_step).parameters

        def step(method: Any, args: Any, kwargs: Any) -> Any:
            return self._run_step(trainer, method, args, kwargs)

        self._interceptions.append(Interception(pl_module, "training_step", step))
        self._interceptions.append(Interception(pl_module, "all_gather", gather_plainly))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finds the named loss and the metrics, which ``configure_model`` may have made."""
        if not self._mixes:
            rank_zero_info(f"{self!r} mixes nothing.")
        if self.loss is not None:
            criterion = find_module(pl_module, self.loss)
            self._interceptions.append(Interception(criterion, "forward", evaluate_per_candidate))
        self._interceptions += guard_metrics(pl_module)
        self._report("on_fit_start", trainer, pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Draws the mix of this batch, unless the step will fetch it."""
        self._end_step()
        if not self._fetches:
            self._draw(trainer, batch)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Forgets the mix: what the user kept of mixed labels reads as plain from here on."""
        self._end_step()

    # Lightning skips `teardown` when training fails, so both exits release the module.
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leaves the module as it was found."""
        self._release()
        self._report("teardown", trainer, pl_module, stage)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leaves the module as it was found."""
        self._release()
        self._report("on_exception", trainer, pl_module, exception)

    def state_dict(self) -> dict[str, Any]:
        """Keeps the seed, so that a resumed run draws on."""
        return {"seed": self._seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over the seed of the run that is resumed."""
        self._seed = state_dict["seed"]

    # What.

    def apply(self, batch: Any) -> Any:
        """Returns a copy of a batch, mixed by this step's mix.

        Args:
            batch: The batch of this step, or one built alike. Never modified.

        Returns:
            The mixed copy, on the batch's device; the batch itself where ``mix`` is None.

        Example:
            >>> callback = MixupCallback(alpha=0.2)
            >>> callback.apply("outside of a training step nothing is mixed")
            'outside of a training step nothing is mixed'
        """
        if self.mix is None or self._entries is None:
            return batch
        return self._mixed(batch, self.mix, self._entries, Usage())

    def _mixed(self, batch: Any, mix: Mix, entries: Entries, usage: Usage) -> Any:
        self._usages.append(usage)
        changed = {path: mix.blend(get_entry(batch, path)) for path in entries.inputs}
        for path in entries.targets:
            changed[path] = mix.label(get_entry(batch, path), usage)
        return replace_entries(batch, changed)

    def _draw(self, trainer: Trainer, batch: Any) -> None:
        """Draws from the seed, the rank and the number of the batch, and from nothing else."""
        self.mix = None
        self._batch_number = _batch_number(trainer)
        if not self._mixes:
            return
        self._entries = find_entries(batch, self.inputs, self.targets)
        self._announce(batch, self._entries)
        rng = _generator(self._seed, trainer.global_rank, self._batch_number)
        if rng.random() < self.prob:
            self.mix = self.recipe.draw(rng, self._entries.batch_size, self._entries.device)

    def _run_step(
        self, trainer: Trainer, method: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        """Hands a mixed copy to the step; only in training, and only in the mix's own step."""
        if not trainer.training:
            return method(*args, **kwargs)
        usages: list[Usage] = []

        def hand(batch: Any) -> Any:
            return self._handed(trainer, batch, usages)

        given = args[0] if args else next(iter(kwargs.values()))  # what Lightning gives first
        handed = _Fetching(given, hand) if self._fetches else hand(given)
        if args:
            output = method(handed, *args[1:], **kwargs)
        else:
            output = method(**{**kwargs, next(iter(kwargs)): handed})
        for usage in usages:
            self._check(trainer, usage, output)
        return merge(output)

    def _handed(self, trainer: Trainer, batch: Any, usages: list[Usage]) -> Any:
        """Returns what the step is handed for a batch."""
        is_new = self._batch_number != _batch_number(trainer)
        if is_new:
            # The learning rate finder swaps callbacks out, and on_train_batch_start with them.
            self._end_step()
        if is_new or self._fetches:
            self._draw(trainer, batch)
        if self.mix is None or self._entries is None or _is_mixed(batch, self._entries):
            return batch
        usages.append(Usage())
        return self._mixed(batch, self.mix, self._entries, usages[-1])

    def _check(self, trainer: Trainer, usage: Usage, output: Any) -> None:
        """Looks at what became of the labels in a step."""
        module = trainer.lightning_module
        skips = output is None and module.automatic_optimization
        if not skips and self._entries is not None:
            _check_use(module, self._entries, usage)
        if usage.read_as is not None and not self._told and trainer.is_global_zero:
            self._told = True
            _tell_of_reading(*usage.read_as)

    def _announce(self, batch: Any, entries: Entries) -> None:
        """Says once what is mixed, and warns if something else seems to mix, too."""
        if self._announced:
            return
        self._announced = True
        rank_zero_info(
            f"MixupCallback: mixing {entries.describe()}: {self.recipe.describe()}, partners "
            "within the batch."
        )
        for path in entries.targets:
            if looks_mixed(get_entry(batch, path)):
                rank_zero_warn(
                    f"The target {name_of_path(path)} holds shares of classes: it looks mixed or "
                    "smoothed already. If a collate function or a transform mixes the batches, "
                    "leave that or MixupCallback out; for smoothing, use the loss's own "
                    "label_smoothing. If these are soft labels by nature, all is well."
                )

    def _end_step(self) -> None:
        for usage in self._usages:
            usage.end()
        self._usages.clear()
        self.mix = None

    def _release(self) -> None:
        for interception in reversed(self._interceptions):
            interception.release()
        self._end_step()
        vars(self).update(_at_rest())

    # The monitor that this callback brings along.

    def _report(self, hook: str, *args: Any) -> None:
        if self._reporting is not None:
            getattr(self._reporting, hook)(*args)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets the monitor watch."""
        self._report("on_validation_start", trainer, pl_module)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any
    ) -> None:
        """Lets the monitor count."""
        self._report("on_validation_batch_end", trainer, pl_module, *args)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets the monitor finish."""
        self._report("on_validation_end", trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets the monitor watch."""
        self._report("on_test_start", trainer, pl_module)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Lets the monitor count."""
        self._report("on_test_batch_end", trainer, pl_module, *args)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets the monitor finish."""
        self._report("on_test_end", trainer, pl_module)


class _Fetching:
    """An iterator of batches for a step that takes a ``dataloader_iter``."""

    def __init__(self, batches: Iterator[Any], hand: Callable[[Any], Any]) -> None:
        self._batches, self._hand = batches, hand

    def __iter__(self) -> _Fetching:
        return self

    def __next__(self) -> Any:
        batch, *numbers = next(self._batches)
        return self._hand(batch), *numbers


def _at_rest() -> dict[str, Any]:
    """Returns what a callback holds outside of a fit."""
    nothing: dict[str, Any] = dict.fromkeys(("mix", "_entries", "_batch_number"))
    flags = dict.fromkeys(("_fetches", "_announced", "_told"), False)
    return {**nothing, **flags, "_interceptions": [], "_usages": []}


def _is_mixed(batch: Any, entries: Entries) -> bool:
    """Returns whether a step is handed again what it was handed before, as a second pass may."""
    return any(isinstance(get_entry(batch, path), MixedTarget) for path in entries.targets)


def _batch_number(trainer: Trainer) -> int:
    """Returns Lightning's own count, which alone is right however a run was stopped or resumed."""
    return trainer.fit_loop.epoch_loop.total_batch_idx


def _generator(seed: int, rank: int, batch_number: int) -> np.random.Generator:
    """Returns randomness that no other batch, rank or seed has."""
    key = np.array([seed % 2**64, rank], dtype=np.uint64)
    # Numpy counts up the lowest word as it draws, so the batch has the highest to itself.
    counter = np.array([0, 0, 0, batch_number], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def _check_use(module: LightningModule, entries: Entries, usage: Usage) -> None:
    """Refuses a step in which the mixed labels met no loss.

    Raises:
        RuntimeError: Then.
    """
    if usage.met_gradient or not entries.targets:
        return
    names = " and ".join(map(name_of_path, entries.targets))
    raise RuntimeError(
        f"MixupCallback mixed the target {names}, but no loss in {type(module).__name__}."
        "training_step used it: no operation with a gradient met the labels. If this module uses "
        "no labels, write targets=None; if they are another entry of the batch, targets=...; if "
        "the loss is fused or a custom autograd function, or reads labels as numbers (.item(), "
        ".numpy()), put it into a submodule and name that, loss='criterion'."
    )


def _tell_of_reading(operation: str, file: str, line: int) -> None:
    """Logs the line where labels were read as numbers, as a metric rightly may."""
    _log.warning(
        "%s:%s: training_step reads mixed labels as plain numbers here, by %s(), and is given the "
        "dominant label of each sample. That is right for a metric. Should a loss depend on these "
        "numbers, put it into a submodule and name that, MixupCallback(loss='criterion').",
        file,
        line,
        operation,
    )


def _monitor_from(calibration: bool | CalibrationMonitor) -> CalibrationMonitor | None:  # noqa: FBT001
    if isinstance(calibration, CalibrationMonitor):
        return calibration
    if not isinstance(calibration, bool):
        raise TypeError(
            f"calibration={calibration!r} is a {type(calibration).__name__}. Give True, False or "
            "CalibrationMonitor(...)."
        )
    return CalibrationMonitor() if calibration else None
