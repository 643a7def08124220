"""`MixupCallback`: when a batch is mixed, and how it gets to ``training_step``.

``on_train_batch_start`` intercepts the batch and draws its mix; ``training_step`` is then handed
a mixed copy. The recipe says how to mix, `batch.py` what is mixed, `targets.py` how a loss sees
it; here is only the order of events.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_mixup.arguments import (
    check_flag,
    check_layers,
    check_places,
    check_probability,
    check_selector,
    check_strength,
    check_type,
    choose_recipe,
)
from lightning_mixup.batch import Entries, Selector, find_entries
from lightning_mixup.checkpoints import DECISIVE, describe_run, tell_differences
from lightning_mixup.containers import Path, replace_entries
from lightning_mixup.doors import gather_plainly, guard_metrics
from lightning_mixup.errors import MixupTypeError
from lightning_mixup.gallery import check_shown, mix_plot
from lightning_mixup.handing import fetches, hand_over
from lightning_mixup.interception import Interception, without_module
from lightning_mixup.layers import Layer
from lightning_mixup.losses import evaluate_per_candidate
from lightning_mixup.messages import (
    announce,
    check_alone,
    check_runs,
    refuse_unused,
    tell_of_first,
    tell_of_reading,
)
from lightning_mixup.mixes import INPUT, Mix
from lightning_mixup.monitor import CalibrationMonitor, monitor_from
from lightning_mixup.names import find_layers, find_module
from lightning_mixup.progress import batch_number, data_rank, end_of_fit
from lightning_mixup.randomness import Randomness
from lightning_mixup.recipes import Mixup, Recipe
from lightning_mixup.schedules import End, Moment, Schedule, check_end, most_of, value_at
from lightning_mixup.suggestions import suggest_layers
from lightning_mixup.targets import MixedTarget, Usage, merge

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MixupCallback"]


class MixupCallback(Callback):
    """Mixes every training batch on its device, and reports what that does to calibration.

    The LightningModule stays as it is: its ``training_step`` receives a mixed copy of the batch
    whose targets are `MixedTarget`, so that its own loss is the mixup loss and its own train
    metrics are those against the dominant label. Validation, test and predict see the loader's
    batch, and there `CalibrationMonitor` logs accuracy, ECE, confidence gap and NLL.

    Reference:
        | mixup: Beyond Empirical Risk Minimization (Zhang et al., 2018)
        | https://arxiv.org/abs/1710.09412
        | Manifold Mixup: Better Representations by Interpolating Hidden States
        | (Verma et al., 2019), https://arxiv.org/abs/1806.05236

    Args:
        alpha: Short for ``recipe=Mixup(alpha)``. Without either, 0.2: the paper's choice for
            ImageNet, mild enough to be a safe start elsewhere. 0 mixes nothing and still
            reports, which makes the baseline arm of a sweep.
        recipe: How a batch is mixed, such as ``Mixup(1.0, per_sample=True)``, ``CutMix(1.0)`` or
            ``OneOf(Mixup(0.2), CutMix(1.0))``.
        prob: The probability that a batch is mixed, in [0, 1]. 1 as in the paper: with a small
            alpha most batches are nearly clean anyway. Or a schedule of it, such as
            ``OffAtEnd(epochs=10)``, or ``0.5 * WarmUp(epochs=5)``.
        strength: How much of the recipe is made use of, in [0, 1], or a schedule of it: 1 is all,
            0 mixes nothing. It multiplies the parameters of a Beta distribution, the sides of a
            pasted box, or else the share that a sample gives away.
        layers: Where it is mixed, Manifold Mixup: names of hidden layers as in
            ``module.named_modules()``, and ``"input"``; each batch draws one of them. Patterns
            such as ``"encoder.blocks.*"`` stand for each layer that they fit.
        inputs: What the input is: an index, key or dotted path in the batch, several, or a
            function of the batch that returns the tensors. ``"auto"`` takes the first of two, or
            the usual names such as ``image``, and never guesses.
        targets: The targets, likewise. None for modules that use no labels.
        loss: The name of a submodule that computes the loss, where torch can't look into it
            (scripted, fused, custom autograd). It is evaluated once per candidate label.
        calibration: True reports with a `CalibrationMonitor`, and warns where a module can't be
            read; False doesn't. Give your own for its options; it raises there.
        log_mix: Logs ``mixup_weight`` of every step (the mean of a weight per sample; 1 where
            nothing is mixed) and ``mixup_place``, a number into ``places``. What is scheduled is
            logged in any case, as ``mixup_prob`` and ``mixup_strength``.
        seed: Decides the draws, together with the rank and the number of the batch. By default
            the seed of ``seed_everything`` or ``torch.manual_seed`` in the first process; a
            resumed run goes on with that of its checkpoint. No global state is touched.

    Raises:
        MixupTypeError: If an argument is of the wrong type.
        MixupValueError: If both alpha and recipe are given, or a number is out of its range.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[MixupCallback(alpha=0.2)], logger=False, barebones=True)
    """

    mix: Mix | None
    """The draw of the batch in progress; None where it is not mixed."""

    places: tuple[str, ...]
    """Where batches are mixed, as the layers' names and patterns were understood in this fit."""

    _layers: dict[str, Layer]
    _layer: Layer | None  # that is mixed in this step
    _interceptions: list[Interception]
    _step: Interception | None  # of training_step
    _usages: list[Usage]  # of the labels that were mixed in this step
    _entries: Entries | None
    _batch_number: int | None  # for which the mix was drawn
    _has_started: bool  # whether Lightning has told of the batch; its finders don't
    _fetches: bool  # whether the step takes a dataloader_iter
    _found: bool  # whether the named modules are
    _made: list[weakref.ref[Tensor]]  # the inputs that were mixed in this step
    _randomness: Randomness
    _used: bool  # whether a loss has used the labels in this fit
    _said: set[str]  # of what something was said in this fit
    _end: End | None  # of the fit; None before it has begun, and in trial runs
    _scheduled: dict[str, float]  # what schedules have come to in this step

    def __init__(  # noqa: PLR0913  all but the first by keyword, each one decision
        self,
        alpha: float | None = None,
        *,
        recipe: Recipe | None = None,
        prob: float | Schedule = 1.0,
        strength: float | Schedule = 1.0,
        layers: str | Sequence[str] = INPUT,
        inputs: Selector = "auto",
        targets: Selector = "auto",
        loss: str | None = None,
        calibration: bool | CalibrationMonitor = True,
        log_mix: bool = False,
        seed: int | None = None,
    ) -> None:
        self.recipe = choose_recipe(alpha, recipe)
        self.prob = check_probability(prob)
        self.strength = check_strength(self.recipe, strength)
        settings = {"prob": self.prob, "strength": self.strength}
        self._schedules = {k: v for k, v in settings.items() if isinstance(v, Schedule)}
        self.layers, self.places = layers, check_layers(layers)
        check_places(self.recipe, self.places)
        self.inputs = check_selector("inputs", inputs)
        self.targets = check_selector("targets", targets)
        self.loss = check_type("loss", loss, str, "a submodule's name, such as 'criterion'")
        self.seed = None if seed is None else int(check_type("seed", seed, Integral, "an integer"))
        self.log_mix = check_flag("log_mix", log_mix)
        self.calibration = calibration
        self.monitor = monitor_from(calibration)
        self._reporting = self.monitor
        self._seed = self.seed or 0
        self._processes, self._rank = 1, 0
        vars(self).update(_at_rest())

    def __repr__(self) -> str:
        arguments = self._arguments().items()
        written = [text if name == "alpha" else f"{name}={text}" for name, text in arguments]
        return f"MixupCallback({', '.join(written)})"

    def _arguments(self) -> dict[str, str]:
        """Returns the arguments that would make this callback, without defaults."""
        alpha = self.recipe.alpha if isinstance(self.recipe, Mixup) else None
        short = alpha is not None and self.recipe == Mixup(alpha)
        made = {"alpha": repr(alpha)} if short else {"recipe": repr(self.recipe)}
        for name, parameter in inspect.signature(type(self)).parameters.items():
            value = getattr(self, name, None)
            if name not in ("alpha", "recipe") and value != parameter.default:
                made[name] = _name_of(value) if callable(value) else repr(value)
        return made

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out what belongs to a fit, so that callbacks can be copied in the middle."""
        return without_module({**vars(self), **_at_rest()})

    @property
    def _mixes(self) -> bool:
        return bool(self.prob and self.strength) and self.recipe.mixes

    # When.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stands in for ``training_step`` until the fit ends."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        check_alone([other for other in callbacks if isinstance(other, MixupCallback)])
        others = [other for other in callbacks if isinstance(other, CalibrationMonitor)]
        stands_back = bool(others) if self.calibration is True else self.monitor in others
        self._reporting = None if stands_back else self.monitor
        if stage != "fit":
            return
        self._release()
        # That of the first process, which is what a checkpoint holds.
        self._seed = trainer.strategy.broadcast(self._drawing_seed)
        self._processes, self._rank = trainer.world_size, data_rank(trainer)
        self._stand_in(trainer, pl_module)
        self._interceptions.append(Interception(pl_module, "all_gather", gather_plainly))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finds what is named, which ``configure_model`` may have made."""
        if not self._mixes:
            rank_zero_info(f"{self!r} mixes nothing.")
        if trainer.max_epochs == trainer.max_steps == -1:
            self._check_end(End())  # With a limit, how long it is comes to be known with the data.
        self._find_modules(pl_module)
        self._report("on_fit_start", trainer, pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Draws the mix of this batch, unless the step will fetch it."""
        self._end_step()
        self._has_started = True
        if self._step is not None and not self._step.stands:
            self._stand_in(trainer, pl_module)
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
        if self.log_mix or self._scheduled:
            self._log_mix(trainer)
        self._end_step()
        self._has_started = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets the mix of a batch that the module has skipped, whose end nobody tells."""
        self._end_step()
        self._has_started = False

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
        """Keeps the seed, so that a resumed run draws on, and what else decides the draws."""
        run = describe_run(self._seed, self._arguments(), self._processes)
        return run if self.monitor is None else {**run, "monitor": self.monitor.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over the seed of the run that is resumed, and warns where that is not enough."""
        if self._step is not None:  # Nothing is drawn outside of a fit.
            self._warn_of_differences(state_dict)
        self._seed = state_dict["seed"]
        if self.monitor is not None and "monitor" in state_dict:
            self.monitor.load_state_dict(state_dict["monitor"])

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Warns of a checkpoint that was made without mixing."""
        knows = self.state_key in checkpoint["callbacks"]
        if self._step is not None and self._mixes and not knows:
            rank_zero_warn(f"The checkpoint was made without mixing, and goes on with {self!r}.")

    def _warn_of_differences(self, made: dict[str, Any]) -> None:
        parameters = inspect.signature(type(self)).parameters.values()
        decide = [p for p in parameters if p.name in DECISIVE and p.default is not None]
        defaults = {parameter.name: repr(parameter.default) for parameter in decide}
        told = tell_differences(made, self.state_dict(), defaults)
        if told:
            rank_zero_warn(f"The checkpoint was made {told}.")
        if self.seed not in (None, made["seed"]):
            rank_zero_warn(
                f"The checkpoint was made with seed={made['seed']}, which decides the draws of a "
                f"resumed run; seed={self.seed} is not used. Leave seed out to resume."
            )

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
        return self._mixed(batch, self._entries.values_in(batch), Usage())

    def show(
        self,
        batch: Any,
        *,
        count: int = 4,
        number: int = 0,
        epoch: int = 0,
        class_names: Sequence[str] | None = None,
    ) -> Figure:
        """Draws how a batch is mixed at the input: samples, partners, and mixed, with labels.

        Works outside of a fit, and draws what the seed gives this number of a batch in the first
        process, as if ``prob`` were 1; of a scheduled ``strength`` it takes the most. `mix_plot`
        says how inputs of which shape are drawn.

        Args:
            batch: As a loader returns it, on any device. Never modified.
            count: How many samples are drawn, the first ones.
            number: The number of the batch, which decides the draw. Another one is another draw.
            epoch: The epoch, for recipes that go by it.
            class_names: What classes are called; by default they are numbered.

        Returns:
            A new figure; ``figure.savefig("mix.png")`` writes it.

        Raises:
            MixupValueError: If nothing is mixed, not at the input, or what can't be drawn.

        Example:
            >>> callback = MixupCallback(alpha=1.0, seed=0)
            >>> figure = callback.show((torch.rand(8, 3, 16, 16), torch.arange(8)))
        """
        recipe = self.recipe.at_epoch(epoch)
        milder = recipe and recipe.at_strength(most_of(self.strength))
        recipe = check_shown(milder, most_of(self.prob), self.places)
        entries = find_entries(batch, self.inputs, self.targets)
        rng = Randomness().of_batch(self._drawing_seed, 0, number)
        rng.random()  # which decides in a fit whether the batch is mixed
        recipe = recipe.pick(rng)
        x, y = entries.samples_in(batch)
        mix = recipe.draw(rng, entries.batch_size, entries.device, x, y)
        return mix_plot(x, y, mix, count=count, class_names=class_names, title=repr(recipe))

    @property
    def _drawing_seed(self) -> int:
        """The seed of this fit, or of one that would begin now."""
        if self._step is not None:
            return self._seed
        return torch.initial_seed() if self.seed is None else self.seed

    suggest_layers = staticmethod(suggest_layers)

    def _mixed(self, batch: Any, values: dict[Path, Tensor], usage: Usage) -> Any:
        mix, entries = self.mix, self._entries
        assert mix is not None  # noqa: S101  who calls this has looked
        assert entries is not None  # noqa: S101
        entries.check_size(values)
        self._usages.append(usage)
        changed = {}
        for path in entries.inputs if mix.place == INPUT else ():
            changed[path] = mix.blend(values[path])
            self._made.append(weakref.ref(changed[path]))
        for path in entries.targets:
            join = mix.weigh if path in entries.weights else mix.label
            changed[path] = join(values[path], usage)
        rest = entries.doubled_rest(batch) if mix.doubles else {}
        return replace_entries(batch, {**changed, **rest})

    def _find_modules(self, module: LightningModule) -> None:
        """Finds the named loss, the named layers and the metrics, once in a fit."""
        if self._found:
            return
        self._found = True
        if self.loss is not None:
            criterion = find_module(module, self.loss)
            self._interceptions.append(Interception(criterion, "forward", evaluate_per_candidate))
        self._interceptions += guard_metrics(module)
        names = check_layers(self.layers)
        found = find_layers(module, [name for name in names if name != INPUT])
        self.places = (*[INPUT] * (INPUT in names), *found)
        if self._mixes:
            self._layers = {
                name: Layer(name, layer, self.recipe.most_partners)
                for name, layer in found.items()
            }

    def _draw(self, trainer: Trainer, batch: Any) -> None:
        """Draws from the seed, the rank and the number of the batch, and from nothing else."""
        self.mix = self._layer = None
        self._batch_number = batch_number(trainer)
        prob, strength = self._heed_schedules(trainer)
        if not self._mixes:
            return
        entries = self._entries = self._find_entries(batch)
        rng = self._randomness.of_batch(self._seed, self._rank, self._batch_number)
        if rng.random() >= prob or not strength:
            return
        recipe = self.recipe.at_epoch(trainer.current_epoch)
        if recipe is None:
            return
        if strength != 1:
            recipe = recipe.at_strength(strength)
        inputs, targets = entries.samples_in(batch)
        mix = recipe.draw(rng, entries.batch_size, entries.device, inputs, targets)
        if mix is None:
            return
        if self._is_new("first mix"):
            tell_of_first(mix, targets)
        if self.places != (INPUT,):
            # Drawn last: a batch has the same weights wherever it is mixed.
            mix = replace(mix, place=self.places[rng.integers(len(self.places))])
        self.mix, self._layer = mix, self._layers.get(mix.place)

    def _find_entries(self, batch: Any) -> Entries:
        """Finds what is mixed in a batch, and says it of the first one."""
        known = self._entries and self._entries.of_next(batch)
        if known:
            return known
        entries = self._found_in(batch)
        if entries.batch_size and self._is_new("entries"):
            announce(batch, entries, self.places, self._in_words())
        return entries

    def _is_new(self, topic: str) -> bool:
        """Returns whether nothing was said of a topic yet."""
        is_new = topic not in self._said
        self._said.add(topic)
        return is_new

    def _found_in(self, batch: Any) -> Entries:
        """Finds what is mixed, and what is compared.

        Raises:
            MixupTypeError: If an input can't be mixed, or compared.
        """
        at_input = INPUT in self.places or self.recipe.reads_inputs
        try:
            return find_entries(batch, self.inputs, self.targets, at_input=at_input)
        except MixupTypeError as error:
            if INPUT in self.places or not at_input:
                raise
            raise MixupTypeError(
                f"{self.recipe!r} compares the inputs, wherever layers={self.layers!r} mixes. "
                "Choose other partners, such as SameClass(), where inputs can't be compared, as "
                f"of tokens. {error}"
            ) from error

    def _heed_schedules(self, trainer: Trainer) -> tuple[float, float]:
        """Returns probability and strength of this batch; in trial runs the most they come to.

        So that what is found there, such as a batch size, is right for all of the fit.
        """
        if not self._schedules:
            return self.prob, self.strength  # type: ignore[return-value]
        moment = None
        if self._end is not None:
            moment = Moment(trainer.current_epoch, batch_number(trainer), self._end)
        self._scheduled = {
            name: value_at(name, schedule, moment) for name, schedule in self._schedules.items()
        }
        now: dict[str, Any] = {"prob": self.prob, "strength": self.strength, **self._scheduled}
        return now["prob"], now["strength"]

    def _check_end(self, end: End) -> None:
        for name, schedule in self._schedules.items():
            check_end(name, schedule, end)

    def _in_words(self) -> str:
        """Says how a batch is mixed."""
        strength = [] if self.strength == 1 else [f"strength={self.strength!r}"]
        prob = [] if self.prob == 1 else [f"prob={self.prob!r}"]
        return ", ".join([self.recipe.describe(), *prob, *strength])

    def _stand_in(self, trainer: Trainer, module: LightningModule) -> None:
        """Stands in for ``training_step``; again, where it has been replaced in the meantime.

        Raises:
            MixupTypeError: If that is impossible.
        """
        self._fetches = fetches(module.training_step)
        step = functools.partial(self._run_step, trainer, module)
        self._step = Interception(module, "training_step", step)
        self._interceptions.append(self._step)
        if not self._step.stands:
            raise MixupTypeError(
                f"{type(module).__name__}.training_step is a property, which nothing can stand in "
                "for. Make it a method."
            )

    def _run_step(
        self,
        trainer: Trainer,
        module: LightningModule,
        method: Callable[..., Any],
        args: Any,
        kwargs: dict[str, Any],
    ) -> Any:
        """Hands a mixed copy to the step; only where Lightning runs it, which it notes itself."""
        if module._current_fx_name != "training_step":
            return method(*args, **kwargs)
        usages: list[Usage] = []
        change = functools.partial(self._handed, trainer, usages)
        try:
            output = hand_over(method, args, kwargs, change, is_fetching=self._fetches)
        finally:
            if self._layer is not None and usages:
                self._layer.end_step()
            if not self._has_started:
                self._batch_number = None
        for usage in usages:
            self._check(module, usage, output)
        return merge(output)

    def _handed(self, trainer: Trainer, usages: list[Usage], batch: Any) -> Any:
        """Returns what the step is handed for a batch."""
        is_new = self._batch_number != batch_number(trainer)
        if is_new:
            # The learning rate finder swaps callbacks out, and their hooks with them.
            self._find_modules(trainer.lightning_module)
            self._end_step()
        if is_new or self._fetches:
            self._draw(trainer, batch)
        if self.mix is None or self._entries is None:
            return batch
        values = self._entries.values_in(batch)
        if self._has_mixed(values.values()):
            return batch
        usages.append(Usage())
        if self._layer is not None:
            self._layer.start_step(self.mix, usages[-1])
        return self._mixed(batch, values, usages[-1])

    def _has_mixed(self, given: Iterable[Tensor]) -> bool:
        """Returns whether a step is handed again what it was handed before, as it may be."""
        for x in given:
            if isinstance(x, MixedTarget):
                return True
            for made in self._made:
                if made() is x:
                    return True
        return False

    def _check(self, module: LightningModule, usage: Usage, output: Any) -> None:
        """Looks at what became of the labels in a step."""
        skips = output is None and module.automatic_optimization
        if self._layer is not None:
            check_runs(module, self._layer, skips=skips)
        # As the step of a generator may, or a recipe that leaves labels plain.
        does_without = not usage.mixes or (self._used and not usage.touched)
        self._used |= usage.met_gradient
        if not (skips or does_without or usage.met_gradient):
            refuse_unused(module, self._entries)
        if usage.read_as is None or not module.trainer.is_global_zero:
            return
        if self._is_new("reading"):
            tell_of_reading(*usage.read_as)

    def _end_step(self) -> None:
        for usage in self._usages:
            usage.end()
        self._usages.clear()
        self._made.clear()
        if self._layer is not None:
            self._layer.forget()
        self.mix = self._layer = None

    def _log_mix(self, trainer: Trainer) -> None:
        """Logs to the loggers alone, when and as Lightning's own callbacks do."""
        mix, counts = self.mix, trainer.fit_loop.epoch_loop
        figures = {f"mixup_{name}": value for name, value in self._scheduled.items()}
        if self.log_mix:
            figures["mixup_weight"] = 1.0 if mix is None else float(np.mean(mix.drawn))
        if self.log_mix and mix is not None:
            figures["mixup_place"] = self.places.index(mix.place)
        if trainer._logger_connector.should_update_logs:
            for logger in trainer.loggers:
                logger.log_metrics(figures, step=counts._batches_that_stepped)

    def _release(self) -> None:
        for layer in reversed(self._layers.values()):
            layer.release()
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

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets the monitor pool."""
        self._report("on_validation_epoch_end", trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets the monitor finish."""
        self._report("on_validation_end", trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks when the fit ends, which is known by now, and lets the monitor go on."""
        if self._schedules and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._end = end_of_fit(trainer, pl_module)
            self._check_end(self._end)
        self._report("on_train_start", trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets the monitor conclude."""
        self._report("on_train_end", trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets the monitor report."""
        self._report("on_fit_end", trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets the monitor watch."""
        self._report("on_test_start", trainer, pl_module)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Lets the monitor count."""
        self._report("on_test_batch_end", trainer, pl_module, *args)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets the monitor pool."""
        self._report("on_test_epoch_end", trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets the monitor finish."""
        self._report("on_test_end", trainer, pl_module)


# Lightning takes it for one that has no state, and leaves it to `setup` to refuse two of them: it
# would not say what to write instead.
functools.update_wrapper(MixupCallback.state_dict, Callback.state_dict, assigned=(), updated=())


def _at_rest() -> dict[str, Any]:
    """Returns what a callback holds outside of a fit."""
    nothing = ["mix", "_layer", "_entries", "_step", "_batch_number", "_end"]
    untrue = ["_has_started", "_fetches", "_found", "_used"]
    return {
        **dict.fromkeys(nothing),
        **dict.fromkeys(untrue, False),
        "_layers": {},
        "_interceptions": [],
        "_usages": [],
        "_made": [],
        "_said": set(),
        "_scheduled": {},
        "_randomness": Randomness(),
    }


def _name_of(function: Callable[..., Any]) -> str:
    """Returns what names a function in every run, as the address in its repr does not."""
    return getattr(function, "__qualname__", type(function).__qualname__)
