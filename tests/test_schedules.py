"""Tests for lightning_mixup.schedules: what they are at a moment, and what a fit makes of them."""

import copy
import csv
import math
import pickle
import re
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning import Callback
from lightning.pytorch import callbacks as lightnings
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from packaging.version import Version
from resumable_run import SeededSteps, WithPositions, state_of
from resumable_run import make_trainer as make_resumable_trainer
from scipy import stats
from torch.utils.data import DataLoader, IterableDataset
from twins import Plain, mixup
from zoo import Classifier, make_loader, parameters_of

import lightning_mixup
from lightning_mixup import (
    Alternate,
    ByEpoch,
    CutMix,
    Fade,
    MixedTarget,
    Mixup,
    MixupCallback,
    OffAtEnd,
    OneOf,
    Overlay,
    RegMixup,
    SamplePairing,
    Schedule,
    WarmUp,
)
from lightning_mixup.schedules import End, Moment, Product, find_end, value_at

PAGE = (Path(__file__).parents[1] / "docs" / "schedules.md").read_text("utf-8")
ROWS = re.findall(r"^\| `(\w+\(epochs.*?)` \|.*\| ([\d., ]+) \|$", PAGE, re.MULTILINE)
NAMES = vars(lightning_mixup)


def by_epoch(schedule, epochs):
    """Returns what a schedule is in each epoch of a fit."""
    return [schedule.at(Moment(epoch, 10**6, End(epochs, None))) for epoch in range(epochs)]


def by_step(schedule, steps):
    """Returns what a schedule is in each step of a fit."""
    return [schedule.at(Moment(10**6, step, End(None, steps))) for step in range(steps)]


# What it is at a moment.


@pytest.mark.parametrize(("unit", "values_of"), [("epochs", by_epoch), ("steps", by_step)])
@pytest.mark.parametrize(("written", "values"), ROWS)
def test_a_schedule_is_what_the_page_says(written, values, unit, values_of):
    schedule = eval(written.replace("epochs", unit), NAMES)

    assert values_of(schedule, 6) == [float(value) for value in values.split(", ")]


def test_the_page_shows_every_schedule():
    shown = {written.partition("(")[0] for written, _ in ROWS}

    assert shown == {"Alternate", "Fade", "OffAtEnd", "WarmUp"}


counts = st.integers(0, 30)
pairs = st.tuples(counts, counts)
units = st.sampled_from(["epochs", "steps"])
simple = st.one_of(
    st.builds(lambda unit, n: WarmUp(**{unit: n}), units, counts),
    st.builds(lambda unit, n: OffAtEnd(**{unit: n}), units, counts),
    st.builds(lambda unit, pair: Fade(**{unit: sorted(pair)}), units, pairs),
    st.builds(lambda unit, n: Fade(**{unit: (n, None)}), units, counts),
    st.builds(
        lambda unit, pair, n: Alternate(**{unit: pair}, start=n), units, pairs.filter(any), counts
    ),
)
moments = st.builds(Moment, counts, counts, st.builds(End, counts, counts))


@given(simple, simple, st.floats(0, 1), moments)
def test_a_product_is_one_at_each_moment(first, second, factor, moment):
    product = factor * first * second

    assert product.at(moment) == pytest.approx(factor * first.at(moment) * second.at(moment))
    assert (second * factor * first).at(moment) == pytest.approx(product.at(moment))
    assert 0 <= product.at(moment) <= product.most == factor


@given(simple, simple, st.floats(0, 1))
def test_the_repr_makes_a_schedule_again(first, second, factor):
    product = factor * first * second

    again = eval(repr(product), NAMES)

    assert again == product == pickle.loads(pickle.dumps(product))
    assert hash(again) == hash(product)


@given(counts, counts)
def test_at_the_end_it_is_off_for_exactly_the_last_ones(epochs, last):
    expected = [1.0] * max(epochs - last, 0) + [0.0] * min(last, epochs)

    assert by_epoch(OffAtEnd(epochs=last), epochs) == expected


@pytest.mark.parametrize("number", [0.5, np.float64(0.5), np.float32(0.5)], ids=type)
def test_numbers_multiply_from_either_side(number):
    assert number * WarmUp(epochs=5) == WarmUp(epochs=5) * number == 0.5 * WarmUp(epochs=5)


def test_what_one_writes_in_a_file_is_what_one_multiplies():
    parts = [WarmUp(steps=np.int64(5)), Fade(epochs=[5, None]), Alternate(epochs=[8, 2])]

    product = Product(parts, factor=0.5)

    assert product == 0.5 * WarmUp(steps=5) * Fade(epochs=(5, None)) * Alternate(epochs=(8, 2))
    assert repr(parts) == "[WarmUp(steps=5), Fade(epochs=(5, None)), Alternate(epochs=(8, 2))]"
    assert 1 * parts[0] is parts[0]


def test_the_pages_own_schedule_is_that_of_the_authors_code():
    block = next(b for b in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "Hesitation" in b)
    exec(block, space := {})

    def published(epoch):
        return (100 - epoch) / 10 if epoch >= 90 else float(epoch < 60 or epoch % 2 == 0)

    assert by_epoch(space["WithoutHesitation"](), 100) == [published(e) for e in range(100)]


@given(
    epochs=st.integers(1, 5) | st.just(-1),
    steps=st.integers(1, 30) | st.just(-1),
    batches=st.integers(1, 7),
    accumulated=st.integers(1, 9),
)
def test_the_end_is_where_a_loop_comes_to(epochs, steps, batches, accumulated):
    """As Lightning's: with the last batch of an epoch the optimizer steps in any case."""
    epoch = taken = stepped = 0
    while epoch != epochs and not 0 <= steps <= stepped and (epochs, steps) != (-1, -1):
        for batch in range(1, batches + 1):
            taken += 1
            stepped += batch % accumulated == 0 or batch == batches
            if stepped == steps:
                break
        epoch += 1

    end = find_end(epochs, steps, batches, accumulated)

    assert end == (End() if epochs == steps == -1 else End(epoch, taken))


# What a fit makes of it.


class Draws(Callback):
    """Keeps the mix of each batch, by epoch, and what was drawn for it."""

    def __init__(self, mixup):
        self.mixup, self.mixes = mixup, []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.mixes.append(self.mixup.mix)

    @property
    def mixed(self):
        return [mix is not None for mix in self.mixes]

    @property
    def drawn(self):
        return [mix and (float(mix.drawn), mix.shift, mix.place) for mix in self.mixes]


def fit(make_trainer, module=None, loader=None, callbacks=(), trainer=(), **settings):
    """Returns what was drawn in a fit, of five batches an epoch."""
    draws = Draws(mixup(**settings))
    made = make_trainer(callbacks=[draws.mixup, draws, *callbacks], **dict(trainer))
    loader = make_loader(size=20, batch_size=4) if loader is None else loader
    made.fit(module or Classifier(), loader)
    return draws


ENDS = {
    "epochs": {"max_epochs": 2},
    "accumulated": {"max_epochs": 2, "accumulate_grad_batches": 2},
    "steps": {"max_epochs": -1, "max_steps": 7},
    "steps accumulated": {"max_epochs": -1, "max_steps": 4, "accumulate_grad_batches": 2},
    "whichever comes first": {"max_epochs": 9, "max_steps": 8},
    "limited": {"max_epochs": 3, "limit_train_batches": 3},
}


@pytest.mark.parametrize("name", ENDS)
def test_the_last_steps_of_a_fit_are_off(make_trainer, name):
    mixed = fit(make_trainer, prob=OffAtEnd(steps=2), trainer=ENDS[name]).mixed

    assert mixed == [True] * (len(mixed) - 2) + [False] * 2


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"max_epochs": 3}, [5, 5, 0]), ({"max_epochs": 9, "max_steps": 12}, [5, 5, 0, 0])],
)
def test_the_last_epochs_of_a_fit_are_off(make_trainer, settings, expected):
    mixed = fit(make_trainer, prob=OffAtEnd(epochs=1), trainer=settings).mixed

    assert [sum(mixed[i : i + 5]) for i in range(0, len(mixed), 5)] == expected[: len(mixed) // 4]


class Stream(IterableDataset):
    """Has no length."""

    def __iter__(self):
        return iter(make_loader(size=20).dataset)


def stream():
    return DataLoader(Stream(), batch_size=4)


@pytest.mark.parametrize(
    ("schedule", "settings"),
    [
        (OffAtEnd(epochs=1), {"max_epochs": 2}),
        (OffAtEnd(steps=5), {"max_epochs": -1, "max_steps": 10}),
        (OffAtEnd(steps=5), {"max_epochs": 2, "limit_train_batches": 5}),
        (Fade(steps=(5, 5)), {"max_epochs": 2}),
    ],
)
def test_a_stream_ends_where_it_is_told_to(make_trainer, schedule, settings):
    mixed = fit(make_trainer, loader=stream(), prob=schedule, trainer=settings).mixed

    assert mixed == ([True] * 5 + [False] * 5)[: len(mixed)]


class ByHand(Classifier):
    """Takes the steps of its optimizer itself."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.manual_backward(super().training_step(batch, batch_idx))
        self.optimizers().step()


@pytest.mark.parametrize(
    ("case", "settings"),
    [
        ({"prob": OffAtEnd(epochs=1)}, {"max_epochs": -1}),
        ({"strength": 0.5 * Fade(epochs=(2, None))}, {"max_epochs": -1}),
        ({"prob": OffAtEnd(steps=1), "loader": stream()}, {"max_epochs": 2}),
        ({"prob": OffAtEnd(epochs=1), "loader": stream()}, {"max_epochs": -1, "max_steps": 2}),
        ({"prob": OffAtEnd(steps=1), "module": ByHand()}, {"max_epochs": 2, "max_steps": 2}),
        (
            {
                "prob": OffAtEnd(steps=1),
                "callbacks": [lightnings.GradientAccumulationScheduler({1: 2})],
            },
            {"max_epochs": 2, "max_steps": 2},
        ),
    ],
    ids=["no limit", "fade", "stream", "steps of a stream", "by hand", "accumulated"],
)
def test_an_end_that_nobody_knows_is_refused_before_the_first_step(make_trainer, case, settings):
    name = "strength" if "strength" in case else "prob"
    written = re.escape(f"{name}={case[name]!r}")
    module = case.get("module") or Classifier()
    before = parameters_of(module)

    with pytest.raises(ValueError, match=f"{written} counts (epochs|steps) from the end of the"):
        fit(make_trainer, trainer=settings, **{**case, "module": module})

    assert torch.equal(parameters_of(module), before)


def test_a_fit_without_any_limit_is_refused_before_its_data_is_asked_for(make_trainer):
    ours = mixup(prob=OffAtEnd(epochs=1))

    with pytest.raises(ValueError, match="the Trainer has no max_epochs"):
        make_trainer(callbacks=[ours], max_epochs=-1).fit(Endless())


class Endless(Classifier):
    def train_dataloader(self):
        raise AssertionError


def test_a_scheduled_batch_is_drawn_as_one_of_a_constant(make_trainer):
    """Whatever the schedule was before: each epoch has the draws of its own probability."""
    scheduled = fit(make_trainer, prob=WarmUp(epochs=2), trainer={"max_epochs": 3}).drawn
    halves, wholes = (
        fit(make_trainer, prob=prob, trainer={"max_epochs": 3}).drawn for prob in (0.5, 1.0)
    )

    assert scheduled == [None] * 5 + halves[5:10] + wholes[10:]
    assert 0 < sum(map(bool, halves[5:10])) < 5


def test_a_milder_batch_is_drawn_as_one_of_a_smaller_alpha(make_trainer):
    scheduled = fit(make_trainer, strength=WarmUp(epochs=2), trainer={"max_epochs": 3}).drawn
    mild, whole = (
        fit(make_trainer, recipe=Mixup(alpha), trainer={"max_epochs": 3}).drawn
        for alpha in (0.5, 1.0)
    )

    assert scheduled == [None] * 5 + mild[5:10] + whole[10:]


@pytest.mark.parametrize("strength", [0.5, np.float32(0.5)])
@pytest.mark.parametrize("recipe", [Mixup(1.0), ByEpoch({0: Mixup(1.0)}), OneOf(Mixup(1.0))])
def test_a_constant_strength_is_that_of_the_milder_recipe(make_trainer, recipe, strength):
    drawn = fit(make_trainer, recipe=recipe, strength=strength).drawn

    assert drawn == fit(make_trainer, recipe=recipe.at_strength(0.5)).drawn


def test_batches_are_mixed_as_often_as_the_schedule_says(make_trainer):
    prob = 0.8 * WarmUp(epochs=2)
    loader = make_loader(size=400, batch_size=2)

    mixed = fit(make_trainer, loader=loader, prob=prob, trainer={"max_epochs": 3}).mixed

    counted = np.reshape(mixed, (3, 200)).sum(axis=1)
    assert counted[0] == 0
    assert stats.binomtest(int(counted[1]), 200, 0.4).pvalue > 0.001
    assert stats.binomtest(int(counted[2]), 200, 0.8).pvalue > 0.001


class Keep(Callback):
    """Keeps the weights at the end of each epoch."""

    def __init__(self):
        self.weights = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.weights.append(parameters_of(pl_module))


@pytest.mark.parametrize("settings", [{}, {"recipe": RegMixup()}], ids=["Mixup", "RegMixup"])
@pytest.mark.parametrize("argument", ["prob", "strength"])
def test_while_a_schedule_is_0_training_is_that_without_mixing_to_the_bit(
    make_trainer, argument, settings
):
    module, kept, plain = Classifier(), Keep(), Keep()
    twin = copy.deepcopy(module)
    schedule = Alternate(epochs=(1, 0), start=2)

    trainer = {"max_epochs": 3}
    fit(
        make_trainer, module, callbacks=[kept], trainer=trainer, **{argument: schedule}, **settings
    )
    make_trainer(callbacks=[plain], max_epochs=3).fit(twin, make_loader(size=20, batch_size=4))

    same = [torch.equal(*both) for both in zip(kept.weights, plain.weights, strict=True)]
    assert same == [True, True, False]


@pytest.mark.parametrize("argument", ["prob", "strength"])
@pytest.mark.parametrize("value", [0, 0.0 * WarmUp(epochs=0)])
def test_at_0_nothing_is_mixed(make_trainer, argument, value):
    assert not any(fit(make_trainer, **{argument: value}).mixed)


# Resumed.

SCHEDULED = {
    "by epoch": {"prob": WarmUp(epochs=2), "strength": Fade(epochs=(1, None))},
    "by step": {
        "prob": 0.9 * WarmUp(steps=12) * OffAtEnd(steps=3),
        "strength": Fade(steps=(4, None)),
    },
}
QUIET = {"enable_checkpointing": False}


def train(folder, *callbacks, checkpoint=None, seed=1, name, **options):
    """Runs or resumes a fit and returns its Trainer."""
    torch.manual_seed(seed)
    ours = mixup(seed=None, recipe=Mixup(1.0, per_sample=True), **SCHEDULED[name])
    trainer = make_resumable_trainer(folder, [ours, SeededSteps(), *callbacks], **options)
    trainer.fit(WithPositions(), ckpt_path=checkpoint)
    return trainer


@pytest.fixture(scope="module", params=SCHEDULED)
def whole(request, tmp_path_factory):
    """Returns the name and the end of a run that nothing interrupts, and its checkpoints."""
    folder = tmp_path_factory.mktemp("whole")
    saving = {"filename": "{step}", "auto_insert_metric_name": False, "save_top_k": -1}
    saved = ModelCheckpoint(folder, every_n_train_steps=1, **saving)
    return request.param, folder, state_of(train(folder, saved, name=request.param))


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
@pytest.mark.filterwarnings("ignore:.* callbacks used to create the checkpoint need to be")
@pytest.mark.parametrize("step", [3, 7, 10, 17])
def test_in_the_middle_of_a_schedule_a_run_is_resumed_to_the_bit(whole, tmp_path, step):
    name, folder, expected = whole
    if step == 7 and Version(lightning.__version__) < Version("2.5"):
        pytest.skip("Lightning takes one batch more then")

    checkpoint = folder / f"{step}.ckpt"
    trainer = train(tmp_path, checkpoint=checkpoint, seed=2, name=name, **QUIET)

    state = state_of(trainer)
    assert state["steps"] == expected["steps"]
    assert all(torch.equal(v, expected["model"][k]) for k, v in state["model"].items())


# In the logs.


def logged(folder):
    """Returns the rows of a CSV log that hold something of ours, as numbers."""
    with next(folder.rglob("metrics.csv")).open(encoding="utf-8") as file:
        rows = [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]
    ours = [{k: float(v) for k, v in r.items() if k in ("step", *OURS)} for r in rows]
    return [row for row in ours if len(row) > 1]


OURS = ("mixup_prob", "mixup_strength", "mixup_weight", "mixup_place")


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"prob": WarmUp(steps=8)}, {"mixup_prob"}),
        ({"strength": WarmUp(steps=8)}, {"mixup_strength"}),
        ({"prob": WarmUp(steps=8), "log_mix": True}, {"mixup_prob", "mixup_weight"}),
        ({"prob": 0.5, "strength": 0.5, "log_mix": True}, {"mixup_weight"}),
        ({"prob": 0.5}, set()),
    ],
)
def test_what_is_scheduled_is_logged_and_nothing_else(make_trainer, tmp_path, settings, names):
    trainer = {"logger": CSVLogger(tmp_path), "max_epochs": 2}

    fit(make_trainer, trainer=trainer, **settings)

    rows = logged(tmp_path)
    assert set().union(*rows) - {"step", "mixup_place"} == names
    assert all(row.keys() >= names for row in rows)


def test_the_logs_show_the_schedule_at_the_steps_that_are_logged(make_trainer, tmp_path):
    """As often as Lightning's own metrics, which are counted in steps of the optimizer."""
    settings = {"prob": WarmUp(steps=8), "strength": Fade(epochs=(0, 2))}
    trainer = {"logger": CSVLogger(tmp_path), "max_epochs": 2, "log_every_n_steps": 2}

    fit(make_trainer, trainer=trainer, **settings)

    assert logged(tmp_path) == [
        {"step": step, "mixup_prob": min(step / 8, 1), "mixup_strength": [1, 0.5][step // 5]}
        for step in (1, 3, 5, 7, 9)
    ]


# In company.


class Watched(Plain):
    """Keeps whether the labels of each step were mixed."""

    def __init__(self):
        super().__init__()
        self.mixed = []

    def training_step(self, batch, batch_idx):
        self.mixed.append(isinstance(batch[1], MixedTarget))
        return super().training_step(batch, batch_idx)


FINDERS = {
    "learning rate": lambda: lightnings.LearningRateFinder(num_training_steps=8),
    "batch size": lambda: lightnings.BatchSizeFinder(steps_per_trial=2, max_trials=2, init_val=4),
}


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("finder", FINDERS)
def test_trials_before_the_fit_see_the_most_of_a_schedule(make_trainer, finder, is_first):
    ours, module = mixup(prob=WarmUp(epochs=1) * OffAtEnd(epochs=1)), Watched()
    together = [ours, FINDERS[finder]()] if is_first else [FINDERS[finder](), ours]

    if Version(lightning.__version__) < Version("2.5"):
        pytest.skip("of Lightning 2.4 a finder uses up an epoch of the fit")

    trainer = make_trainer(callbacks=together, max_epochs=3, enable_checkpointing=True)
    trainer.fit(module)

    batches = trainer.num_training_batches
    assert (
        module.mixed.index(False) >= 4
    )  # trials, of which Lightning's versions take more or less
    fit = [False] * batches + [True] * batches + [False] * batches
    assert module.mixed[-len(fit) :] == fit


def test_a_quick_run_sees_the_most_of_a_schedule(make_trainer):
    ended = {"max_epochs": -1, "fast_dev_run": 2}

    assert fit(make_trainer, prob=OffAtEnd(epochs=9), trainer=ended).mixed == [True, True]


def test_the_announcement_and_the_repr_tell_of_schedules(make_trainer, caplog):
    ours = mixup(prob=0.5 * WarmUp(epochs=5), strength=0.5)

    with caplog.at_level("INFO"):
        fit(make_trainer, prob=ours.prob, strength=0.5)

    told = "prob=0.5 * WarmUp(epochs=5), strength=0.5"
    assert f"partners within the batch, {told}" in caplog.text
    assert f"MixupCallback(1.0, {told}, calibration=False, seed=1)" == repr(ours)


# Refused.


class TooMuch(Schedule):
    def at(self, moment):
        return 1.5


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: WarmUp(), ValueError, r"WarmUp\(\) counts either epochs or steps\. Write WarmUp"),
        (lambda: OffAtEnd(1, 2), ValueError, r"OffAtEnd\(epochs=1, steps=2\) counts either"),
        (lambda: Alternate(start=2), ValueError, r"Alternate\(start=2\) counts either"),
        (lambda: WarmUp(epochs=1.5), TypeError, r"counts by 1\.5, no whole number\. Write Warm"),
        (lambda: OffAtEnd(steps=True), TypeError, "counts by True, no whole number"),
        (lambda: WarmUp(epochs=-1), ValueError, r"counts by -1, below 0\. Write WarmUp"),
        (lambda: Alternate(steps=(1, 1), start=-1), ValueError, "counts by -1, below 0"),
        (lambda: Fade(epochs=50), TypeError, r"Fade\(epochs=50\) needs a pair of epochs\. Wri"),
        (lambda: Fade(steps=(1, "2")), TypeError, "counts by '2', no whole number"),
        (lambda: Fade(epochs=(None, 2)), TypeError, "counts by None, no whole number"),
        (lambda: Alternate(steps=(1, 2, 3)), TypeError, "needs a pair of steps"),
        (lambda: Alternate(epochs=(1, None)), TypeError, "counts by None, no whole number"),
        (lambda: Fade(epochs=(3, 2)), ValueError, r"Fade\(epochs=\(3, 2\)\) ends before it beg"),
        (lambda: Alternate(epochs=(0, 0)), ValueError, "has no length to repeat"),
        (lambda: 2 * WarmUp(epochs=5), ValueError, r"factor=2\.0 is not from 0 to 1"),
        (lambda: math.nan * WarmUp(epochs=5), ValueError, "factor=nan is not from 0 to 1"),
        (lambda: True * WarmUp(epochs=5), TypeError, "unsupported operand"),
        (lambda: WarmUp(epochs=5) * "2", TypeError, "can't multiply|unsupported operand"),
        (lambda: Product([0.5]), TypeError, r"Product got 0\.5, a float, which is no schedule"),
        (
            lambda: value_at("prob", TooMuch(), Moment(3, 4)),
            ValueError,
            r"prob=TooMuch\(\) comes to 1\.5 at Moment\(epoch=3.*Mend what TooMuch\.at\(\) ret",
        ),
        (lambda: MixupCallback(prob="0.5"), TypeError, r"prob='0\.5' is not a number.*schedule"),
        (lambda: MixupCallback(strength="x"), TypeError, r"strength='x' is not a number"),
        (lambda: MixupCallback(strength=1.5), ValueError, r"strength=1\.5 is not from 0 to 1"),
    ],
)
def test_what_is_no_schedule_is_refused(make, kind, words):
    with pytest.raises(kind, match=words):
        make()


class Own(Mixup):
    def at_strength(self, strength):
        return lightning_mixup.Recipe.at_strength(self, strength)


@pytest.mark.parametrize("strength", [0, 0.5, WarmUp(epochs=5)])
@pytest.mark.parametrize(
    "recipe",
    [SamplePairing(), Overlay(), OneOf(Mixup(), Overlay()), ByEpoch({0: Own(), 5: None})],
    ids=lambda recipe: type(recipe).__name__,
)
def test_a_recipe_without_degrees_takes_no_strength(recipe, strength):
    words = rf"strength={re.escape(repr(strength))}.* makes a recipe milder.*Write prob="
    with pytest.raises(ValueError, match=words.replace("0 makes", "0.* makes")):
        MixupCallback(recipe=recipe, strength=strength)


@pytest.mark.parametrize("recipe", [SamplePairing(), Overlay(), Own()])
def test_a_recipe_without_degrees_takes_a_prob_and_full_strength(recipe):
    assert MixupCallback(recipe=recipe, prob=WarmUp(epochs=5), strength=1).strength == 1


@pytest.mark.parametrize(
    "recipe", [CutMix(), RegMixup(), OneOf(Mixup(), CutMix()), ByEpoch({0: CutMix(), 2: None})]
)
def test_a_recipe_with_degrees_takes_a_strength(recipe):
    assert MixupCallback(recipe=recipe, strength=WarmUp(epochs=5)).recipe is recipe
