"""Tests for lightning_mixup.callback: which calls of ``training_step`` see mixed batches."""

import functools
import logging

import pytest
import torch
from lightning import Callback, LightningDataModule
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.data import DataLoader
from zoo import CLASSES, FEATURES, Classifier, make_loader, parameters_of

from lightning_mixup import MixedTarget, Mixup, MixupCallback

X, Y = torch.randn(8, FEATURES), torch.arange(8) % CLASSES


class Sees(Classifier):
    """Keeps of each batch whether its labels are mixed."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(isinstance(batch[1], MixedTarget))
        return super().training_step(batch, batch_idx)


def fit(make_trainer, module, mixup=None, loader=None, **settings):
    mixup = MixupCallback(1.0, seed=1) if mixup is None else mixup
    trainer = make_trainer(callbacks=[*settings.pop("earlier", []), mixup], **settings)
    trainer.fit(module, loader or make_loader())
    return module


def count_calls(module):
    """Puts a wrapper on a module's step, as profilers do."""
    step = module.training_step

    @functools.wraps(step)
    def wrapper(*args, **kwargs):
        return step(*args, **kwargs)

    module.training_step = wrapper


class WrapsItself(Sees):
    def setup(self, stage):
        count_calls(self)


class WrapsLate(Sees):
    def on_train_epoch_start(self):
        count_calls(self)


class Phases(Sees):
    def on_train_epoch_start(self):
        self.training_step = self.second_step

    def second_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx)


class ConfiguresModel(Sees):
    def configure_model(self):
        self.training_step = functools.partial(Sees.training_step, self)


@pytest.mark.parametrize(
    "kind", [WrapsItself, WrapsLate, Phases, ConfiguresModel], ids=lambda kind: kind.__name__
)
def test_a_step_that_is_replaced_after_setup_sees_mixed_batches(make_trainer, kind):
    module = fit(make_trainer, kind())

    assert module.seen == [True] * 4


def test_a_step_that_is_a_property_is_refused(make_trainer):
    class Property(Classifier):
        @property
        def training_step(self):
            return functools.partial(Classifier.training_step, self)

    with pytest.raises(TypeError, match=r"Property.training_step is a property.*Make it a method"):
        fit(make_trainer, Property())


def test_a_replaced_step_without_targets_is_mixed_once(make_trainer):
    """There is no mixed label by which to see that a batch is mixed already."""

    class Reconstructs(Classifier):
        def on_train_start(self):
            count_calls(self)
            count_calls(self)

        def training_step(self, batch, batch_idx):
            self.x = batch[0].clone()
            return self(batch[0]).square().mean()

    mixup = MixupCallback(1.0, targets=None, seed=1)

    class Compares(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.mixed = mixup.apply(batch)[0]

        def on_train_batch_end(self, trainer, pl_module, *args):
            assert_close(pl_module.x, self.mixed)

    trainer = make_trainer(callbacks=[mixup, Compares()])
    trainer.fit(Reconstructs(), make_loader())

    assert trainer.state.finished


@pytest.mark.parametrize(
    "hook",
    [
        "on_fit_start",
        "on_train_start",
        "on_train_epoch_start",
        "on_before_optimizer_step",
        "on_train_epoch_end",
        "on_train_end",
    ],
)
def test_a_step_that_the_module_runs_by_itself_is_not_mixed(make_trainer, hook):
    class Module(Sees):
        pass

    def run(self, *args):
        with torch.no_grad():
            self.by_itself = Sees.training_step
            Classifier.loss(self, self(X), Y)
            self.training_step((X, Y), 0)

    # `self.log` is not allowed in all hooks.
    Module.log = lambda self, *args, **kwargs: None
    setattr(Module, hook, run)

    module = fit(make_trainer, Module())

    assert module.seen.count(True) == 4
    assert module.seen.count(False) in (1, 4)


def test_a_batch_of_another_size_in_the_step_is_refused(make_trainer):
    class Replays(Classifier):
        def training_step(self, batch, batch_idx):
            if len(batch[0]) == 16:
                self.training_step((X, Y), batch_idx)
            return super().training_step(batch, batch_idx)

    words = r"drawn for a batch of 16 samples, and the entry batch\[0\] has 8"

    with pytest.raises(ValueError, match=words):
        fit(make_trainer, Replays(), MixupCallback(1.0, targets=1, inputs=0))


class AlternatesLabels(Classifier):
    """Uses the labels in every second step, as a GAN does."""

    first = 0

    def training_step(self, batch, batch_idx):
        if batch_idx % 2 == self.first:
            return super().training_step(batch, batch_idx)
        x, _ = batch
        return self(x).square().mean()


class UsesThemLater(AlternatesLabels):
    first = 1


class StopsEarly(Classifier):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        if batch_idx == 2:
            return
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)


@pytest.mark.parametrize(
    ("module", "targets"),
    [(AlternatesLabels, "auto"), (StopsEarly, "auto"), (AlternatesLabels, 1)],
)
def test_some_steps_may_do_without_the_labels(make_trainer, module, targets):
    mixup = MixupCallback(1.0, targets=targets)

    trained = fit(make_trainer, module(), mixup)

    assert trained.trainer.state.finished


@pytest.mark.parametrize("targets", ["auto", 1])
def test_the_advice_for_labels_that_are_used_later_works(make_trainer, targets):
    class Advised(UsesThemLater):
        def training_step(self, batch, batch_idx):
            x, y = batch
            return super().training_step(batch, batch_idx) + 0 * F.cross_entropy(self(x), y)

    advice = r"let the first do so, too, as in `loss \+ 0 \* cross_entropy\(logits, y\)`"

    with pytest.raises(RuntimeError, match=advice):
        fit(make_trainer, UsesThemLater(), MixupCallback(1.0, targets=targets))

    assert fit(make_trainer, Advised(), MixupCallback(1.0)).trainer.state.finished


def test_labels_that_are_touched_and_met_no_loss_are_refused_in_later_steps_too(make_trainer):
    class Reads(AlternatesLabels):
        def training_step(self, batch, batch_idx):
            if batch_idx % 2 == 0:
                return Classifier.training_step(self, batch, batch_idx)
            x, y = batch
            return self(x).square().mean() * float(y.float().mean())

    with pytest.raises(RuntimeError, match=r"no loss in Reads\.training_step used it"):
        fit(make_trainer, Reads(), MixupCallback(1.0, targets=1, seed=1))


class Fused(nn.Module):
    """Reads labels as numbers, as a fused loss does."""

    def forward(self, logits, y):
        return -logits.log_softmax(1)[range(len(logits)), y.tolist()].mean()


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_the_learning_rate_finder_knows_the_named_loss_and_layers(make_trainer):
    """It runs the loop before the callbacks' `on_fit_start`."""

    class Module(Sees):
        lr = 0.1

        def __init__(self):
            super().__init__()
            self.criterion, self.norms = Fused(), []

        def loss(self, logits, y):
            return self.criterion(logits, y)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    finder = LearningRateFinder(num_training_steps=5)
    mixup = MixupCallback(1.0, loss="criterion", layers="net.0")

    module = fit(make_trainer, Module(), mixup, earlier=[finder], enable_checkpointing=True)

    assert all(module.seen)
    assert finder.optimal_lr.results["loss"]
    assert len(module.seen) >= 4


@pytest.mark.filterwarnings("ignore:.*`dataloader_iter`")
def test_what_the_step_fetches_from_is_lightnings_own(make_trainer):
    class Fetches(Classifier):
        def training_step(self, dataloader_iter):
            batch, *_ = next(dataloader_iter)
            facts = dataloader_iter.done, dataloader_iter.fetched
            self.facts = [*getattr(self, "facts", []), facts]
            return self.loss(self(batch[0]), batch[1])

    mixed, plain = Fetches(), Fetches()
    fit(make_trainer, mixed)
    make_trainer().fit(plain, make_loader())

    assert mixed.facts == plain.facts


def test_a_step_that_is_called_by_keywords_is_handed_its_batch(make_trainer):
    class Calls(Callback):
        def setup(self, trainer, pl_module, stage):
            step = pl_module.training_step
            pl_module.training_step = lambda batch, batch_idx: step(
                batch_idx=batch_idx, batch=batch
            )

    module = Sees()
    make_trainer(callbacks=[MixupCallback(1.0), Calls()]).fit(module, make_loader())

    assert module.seen == [True] * 4


class Shelf:
    """Looks like a dict, and shares what it holds with its copies."""

    def __init__(self, **entries):
        self.entries = entries

    def keys(self):
        return self.entries.keys()

    def __getitem__(self, key):
        return self.entries[key]

    def __setitem__(self, key, value):
        self.entries[key] = value


@pytest.mark.parametrize("kind", [Shelf, dict], ids=["shelf", "dict"])
def test_a_batch_that_shares_what_it_holds_with_copies_stays_whole(make_trainer, kind):
    class Keyed(Sees):
        def training_step(self, batch, batch_idx):
            return super().training_step((batch["x"], batch["y"]), batch_idx)

    stored = kind(x=X.clone(), y=Y.clone())
    loader = DataLoader([stored] * 2, batch_size=None, collate_fn=lambda batch: batch)

    module = fit(make_trainer, Keyed(), loader=loader, max_epochs=2)

    assert module.seen == [True] * 4
    assert torch.equal(stored["x"], X)
    assert type(stored["y"]) is torch.Tensor


def test_a_batch_of_another_form_is_looked_at_anew(make_trainer):
    class Keyed(Sees):
        def training_step(self, batch, batch_idx):
            x = batch["image"] if "image" in batch else batch["x"]
            return super().training_step((x, batch["label"]), batch_idx)

    batches = [
        {"image": X, "label": Y},
        {"label": Y, "x": X, "id": Y},
        {"x": X[:3], "label": Y[:3]},
    ]

    module = fit(make_trainer, Keyed(), loader=DataLoader(batches, batch_size=None))

    assert module.seen == [True] * 3


@pytest.mark.parametrize("mode", ["max_size", "max_size_cycle", "min_size"])
@pytest.mark.parametrize(
    ("inputs", "targets"), [("a.0", "a.1"), ("b.0", "b.1"), (["a.0", "b.0"], ["a.1", "b.1"])]
)
def test_loaders_side_by_side_are_mixed_until_they_are_exhausted(
    make_trainer, mode, inputs, targets
):
    """CombinedLoader hands over None for a loader that is."""

    class Both(Classifier):
        def training_step(self, batch, batch_idx):
            parts = [part for part in batch.values() if part is not None]
            self.seen = [
                *getattr(self, "seen", []),
                [type(y) is not torch.Tensor for _, y in parts],
            ]
            return sum(self.loss(self(x), y) for x, y in parts)

    loaders = {"a": make_loader(64), "b": make_loader(32)}
    module = Both()

    mixup = MixupCallback(1.0, inputs=inputs, targets=targets)
    make_trainer(callbacks=[mixup]).fit(module, CombinedLoader(loaders, mode))

    names = [inputs] if isinstance(inputs, str) else inputs
    expected = {"a": "a.0" in names, "b": "b.0" in names}
    batches = [batch for batch, _, _ in CombinedLoader(loaders, mode)]
    assert module.seen == [
        [expected[name] for name, part in batch.items() if part is not None] for batch in batches
    ]


def test_a_short_batch_is_not_refused_for_what_else_it_holds(make_trainer):
    """Three means of three channels are no entry of three samples."""

    class Normalises(Classifier):
        def training_step(self, batch, batch_idx):
            return self.loss(self(batch["x"]), batch["y"])

    mean = torch.zeros(3)
    batches = [{"x": X[:n], "y": Y[:n], "mean": mean} for n in (8, 3)]

    trained = fit(make_trainer, Normalises(), loader=DataLoader(batches, batch_size=None))

    assert trained.trainer.global_step == 2


def test_rows_that_are_held_out_are_told_of(make_trainer):
    class Nodes(Classifier):
        def training_step(self, batch, batch_idx):
            chosen = batch["train_mask"]
            return F.cross_entropy(self(batch["x"])[chosen], batch["y"][chosen])

    batch = {"x": X, "y": Y, "train_mask": torch.arange(8) < 4}
    mixup = MixupCallback(1.0, inputs="x", targets="y")

    with pytest.warns(UserWarning, match="the labels of rows that are held out take part"):
        fit(make_trainer, Nodes(), mixup, DataLoader([batch], batch_size=None))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {},
            "mixing batch[0] and batch[1] at the input, Beta(0.2, 0.2), partners within the batch",
        ),
        (
            {"layers": ["net.0", "input"], "recipe": Mixup(1.0, per_sample=True)},
            "mixing batch[0] and batch[1] at the input or 'net.0', drawn for each batch, "
            "Beta(1, 1) for each sample, partners within the batch",
        ),
        (
            {"layers": "net.?"},
            "mixing batch[1] at 'net.0', 'net.1' or 'net.2', drawn for each batch, "
            "Beta(0.2, 0.2), partners within the batch",
        ),
    ],
)
def test_one_line_says_what_is_mixed_and_where(make_trainer, caplog, settings, words):
    caplog.set_level(logging.INFO)
    mixup = MixupCallback(calibration=False, **settings)

    fit(make_trainer, Classifier(), mixup, max_epochs=2)

    said = [message for message in caplog.messages if message.startswith("MixupCallback")]
    assert said == [f"MixupCallback: {words}"]


def test_refusals_come_before_any_step(make_trainer):
    module = Classifier()
    before = parameters_of(module)

    with pytest.raises(ValueError, match=r"has no submodule 'net\.9'"):
        fit(make_trainer, module, MixupCallback(layers="net.9"))

    assert torch.equal(parameters_of(module), before)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_the_batch_size_finder_runs_mixed(make_trainer):
    """One trial has one step, of number 0, and each is of another size."""

    class Data(LightningDataModule):
        batch_size = 2

        def train_dataloader(self):
            return make_loader(batch_size=self.batch_size)

        val_dataloader = train_dataloader

    finder = BatchSizeFinder(steps_per_trial=1, max_trials=3, mode="power")
    module = Sees()

    trainer = make_trainer(callbacks=[finder, MixupCallback(1.0)], enable_checkpointing=True)
    trainer.fit(module, datamodule=Data())

    assert all(module.seen)


class Ordered(Classifier):
    """Puts its samples into another order, as recurrent networks like them sorted by length."""

    def __init__(self, reorder, *, before):
        super().__init__()
        self.reorder, self.before = reorder, before

    def training_step(self, batch, batch_idx):
        x, y = batch
        if self.before:
            x, y = self.reorder(x), self.reorder(y)
            return self.loss(self(x), y)
        logits = self(x)
        return self.loss(self.reorder(logits), self.reorder(y))


REORDERS = {
    "index": lambda t: t[torch.arange(len(t)).flip(0)],
    "list": lambda t: t[list(range(len(t)))[::-1]],
    "index_select": lambda t: t.index_select(0, torch.randperm(len(t))),
    "flip": lambda t: t.flip(0),
}


@pytest.mark.parametrize("per_sample", [False, True], ids=["per_batch", "per_sample"])
@pytest.mark.parametrize("reorder", REORDERS.values(), ids=REORDERS)
def test_samples_in_another_order_are_refused_before_a_layer_and_no_matter_after_it(
    make_trainer, reorder, per_sample
):
    def mixup(layers):
        return MixupCallback(recipe=Mixup(1.0, per_sample=per_sample), layers=layers)

    with pytest.raises(RuntimeError, match="into another order before it ran"):
        fit(make_trainer, Ordered(reorder, before=True), mixup("net.0"))

    for before, layers in [(False, "net.0"), (True, "input")]:
        module = fit(make_trainer, Ordered(reorder, before=before), mixup(layers))
        assert module.trainer.state.finished


def looks_up(y):
    """Finds a number for each label in a table as long as the batch."""
    torch.arange(len(y))[y]
    return y


@pytest.mark.parametrize(
    "keep",
    [lambda y: y[:], lambda y: y[y >= 0], lambda y: y.view(-1), lambda y: y[...], looks_up],
    ids=["slice", "mask", "view", "ellipsis", "table"],
)
def test_labels_that_keep_their_order_are_mixed_at_layers(make_trainer, keep):
    class Keeps(Classifier):
        def training_step(self, batch, batch_idx):
            x, y = batch
            y = keep(y)
            return self.loss(self(x), y)

    assert fit(make_trainer, Keeps(), MixupCallback(1.0, layers="net.0")).trainer.state.finished


@pytest.mark.parametrize(
    "more",
    [{"next_sentence_label": Y}, {"topic_labels": Y}, {"teacher_target": X}],
    ids=lambda more: next(iter(more)),
)
def test_other_labels_beside_the_target_are_refused_at_layers_too(make_trainer, more):
    class Keyed(Classifier):
        def training_step(self, batch, batch_idx):
            return self.loss(self(batch["x"]), batch["label"])

    batch = {"x": X, "label": Y, **more}

    loader = DataLoader([batch], batch_size=None)

    with pytest.raises(ValueError, match="several entries that could be the target"):
        fit(make_trainer, Keyed(), MixupCallback(1.0, layers="net.0"), loader)


def test_an_entry_that_is_missing_at_first_is_looked_at_when_it_comes(make_trainer):
    class Keyed(Classifier):
        def training_step(self, batch, batch_idx):
            return self.loss(self(batch["x"]), batch["label"])

    batches = [{"x": X, "more": more, "label": Y} for more in (None, X)]

    with pytest.raises(ValueError, match="has an entry 'more' beside the input"):
        fit(make_trainer, Keyed(), loader=DataLoader(batches, batch_size=None))
