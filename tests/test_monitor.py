"""Tests for lightning_mixup.monitor: what is in the log, and whose it is."""

import logging

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    BinaryAccuracy,
    MulticlassAccuracy,
    MulticlassCalibrationError,
)
from zoo import CLASSES, Classifier, make_loader

from lightning_mixup import CalibrationMonitor, MixupCallback, classification_metrics

FIGURES = ("accuracy", "ece", "confidence_gap", "nll", "brier")


class Echo(Classifier):
    """Its logits are the input, so that a test decides what the model says."""

    def forward(self, x):
        return x


def logits_and_labels(scale, size=2000):
    """Returns labels drawn from the logits' own softmax, and the logits times the scale."""
    logits = 2 * torch.randn(size, CLASSES)
    labels = torch.multinomial(logits.softmax(1), 1).squeeze(1)
    return scale * logits, labels


def validate(make_trainer, logits, labels, *, batch_size=64, monitor=None, module=None):
    """Returns what `trainer.validate` has logged."""
    trainer = make_trainer(callbacks=[monitor or CalibrationMonitor()])
    loader = DataLoader(TensorDataset(logits, labels), batch_size=batch_size)
    trainer.validate(module or Echo(), loader, verbose=False)
    return trainer.callback_metrics


def exact_ece(logits, labels, n_bins=15):
    """Returns the textbook's sum, in float64; a confidence of 1 belongs to the last bin."""
    top = logits.softmax(1).max(1)
    confidence, correct = top.values.numpy(), (top.indices == labels).numpy()
    edges = np.linspace(0, 1, n_bins + 1).astype(np.float32)
    bins = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, n_bins - 1)
    return sum(
        abs(correct[bins == b].sum() - confidence[bins == b].astype(np.float64).sum())
        for b in range(n_bins)
    ) / len(labels)


# The figures.


@pytest.mark.parametrize("batch_size", [64, 333])
@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0], ids=["under", "calibrated", "over"])
def test_ece_and_accuracy_are_those_of_torchmetrics(make_trainer, scale, batch_size):
    logits, labels = logits_and_labels(scale)

    logged = validate(make_trainer, logits, labels, batch_size=batch_size)

    ece = MulticlassCalibrationError(CLASSES, n_bins=15)(logits, labels)
    torch.testing.assert_close(logged["val_ece"], ece, rtol=0, atol=5e-6)
    assert logged["val_accuracy"] == MulticlassAccuracy(CLASSES, average="micro")(logits, labels)
    torch.testing.assert_close(logged["val_nll"], F.cross_entropy(logits, labels))


@pytest.mark.parametrize(("scale", "sign"), [(0.3, -1), (3.0, 1)], ids=["under", "over"])
def test_the_gap_is_above_zero_for_the_over_confident(make_trainer, scale, sign):
    logits, labels = logits_and_labels(scale)

    logged = validate(make_trainer, logits, labels)

    assert logged["val_confidence_gap"] * sign > 0.05
    confidence = logits.softmax(1).amax(1).mean()
    torch.testing.assert_close(logged["val_confidence_gap"], confidence - logged["val_accuracy"])


@pytest.mark.parametrize(
    "logits",
    [torch.rand(500, CLASSES), 200 * torch.randn(500, CLASSES)],
    ids=["logits-in-0-1", "confidence-1"],
)
def test_where_torchmetrics_guesses_the_figure_is_the_exact_sum(make_trainer, logits):
    labels = torch.randint(CLASSES, (500,))

    logged = validate(make_trainer, logits, labels)

    assert abs(float(logged["val_ece"]) - exact_ece(logits, labels)) < 1e-6


class LogProbabilities(Echo):
    def loss(self, logits, y):
        return F.nll_loss(F.log_softmax(logits, dim=1), y)


class OwnCriterion(Echo):
    def __init__(self):
        super().__init__()
        self.criterion = nn.CrossEntropyLoss(ignore_index=0)

    def loss(self, logits, y):
        return self.criterion(logits, y)


def test_log_probabilities_give_the_same_figures(make_trainer):
    logits, labels = logits_and_labels(2.0)

    logged = validate(make_trainer, logits, labels, module=LogProbabilities())

    expected = validate(make_trainer, logits, labels)
    for figure in FIGURES:
        torch.testing.assert_close(logged[f"val_{figure}"], expected[f"val_{figure}"])


def test_ignored_labels_do_not_count(make_trainer):
    logits, labels = logits_and_labels(2.0)

    logged = validate(make_trainer, logits, labels, module=OwnCriterion())

    expected = validate(make_trainer, logits[labels != 0], labels[labels != 0])
    assert logged["val_ece"] == expected["val_ece"]


class BinaryEcho(Echo):
    from_logits = True

    def loss(self, x, y):
        if self.from_logits:
            return F.binary_cross_entropy_with_logits(x, y.float()[:, None])
        return F.binary_cross_entropy(x.sigmoid()[:, 0], y.float())


@pytest.mark.parametrize("from_logits", [True, False])
def test_a_binary_loss_is_read_as_two_classes(make_trainer, from_logits):
    x, y = 2 * torch.randn(500, 1), torch.randint(2, (500,))
    module = BinaryEcho()
    module.from_logits = from_logits

    logged = validate(make_trainer, x, y, module=module)

    two_columns = torch.cat([torch.zeros_like(x), x], dim=1)
    expected = validate(make_trainer, two_columns, y)
    for figure in FIGURES:
        torch.testing.assert_close(logged[f"val_{figure}"], expected[f"val_{figure}"])


# The log.


def test_every_epoch_starts_afresh(make_trainer):
    monitor = CalibrationMonitor()
    trainer = make_trainer(callbacks=[monitor], max_epochs=3, num_sanity_val_steps=2)

    trainer.fit(Classifier(), make_loader(), make_loader())

    assert monitor.statistics["val"][0].compute()["count"] == 64


def test_the_figures_are_where_lightning_looks_for_them(make_trainer, tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, monitor="val_ece", filename="{epoch}-{val_ece:.3f}")
    stopping = EarlyStopping("val_nll", patience=5)
    trainer = make_trainer(
        callbacks=[MixupCallback(), checkpoint, stopping], max_epochs=2, enable_checkpointing=True
    )

    trainer.fit(Classifier(), make_loader(), make_loader())

    assert {f"val_{figure}" for figure in FIGURES} <= set(trainer.callback_metrics)
    assert set(trainer.progress_bar_metrics) == {"val_ece"}
    assert {f"val_{figure}" for figure in FIGURES} <= set(trainer.logged_metrics)
    assert checkpoint.best_model_score <= trainer.callback_metrics["val_ece"]
    assert "val_ece=0." in checkpoint.best_model_path


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_validate_and_test_alone(make_trainer, stage):
    trainer = make_trainer(callbacks=[MixupCallback()])

    (logged,) = getattr(trainer, stage)(Classifier(), make_loader(), verbose=False)

    prefix = {"validate": "val", "test": "test"}[stage]
    assert {f"{prefix}_{figure}" for figure in FIGURES} <= set(logged)


@pytest.mark.parametrize(
    "settings",
    [{"num_sanity_val_steps": 2}, {"val_check_interval": 0.5}, {"limit_val_batches": 1}],
    ids=str,
)
def test_figures_are_those_of_the_last_validation(make_trainer, settings):
    trainer = make_trainer(callbacks=[MixupCallback()], max_epochs=2, **settings)
    module = Classifier()

    trainer.fit(module, make_loader(), make_loader())

    logged = dict(trainer.callback_metrics)
    limit = {key: value for key, value in settings.items() if "limit" in key}
    again = make_trainer(callbacks=[MixupCallback()], **limit)
    again.validate(module, make_loader(), verbose=False)
    for figure in FIGURES:
        assert logged[f"val_{figure}"] == again.callback_metrics[f"val_{figure}"]


def test_several_loaders_have_lightnings_suffixes(make_trainer):
    class TwoLoaders(Echo):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            super().validation_step(batch, batch_idx)

    trainer = make_trainer(callbacks=[CalibrationMonitor()])
    data = [logits_and_labels(scale, size=200) for scale in (0.3, 3.0)]
    loaders = [DataLoader(TensorDataset(*d), batch_size=50) for d in data]

    first, second = trainer.validate(TwoLoaders(), loaders, verbose=False)

    for logged, (logits, labels), suffix in zip((first, second), data, "01", strict=True):
        expected = validate(make_trainer, logits, labels)["val_ece"]
        assert logged[f"val_ece/dataloader_idx_{suffix}"] == pytest.approx(float(expected))


class LogsItsOwn(Classifier):
    """Logs `val_accuracy` in the step, or when the epoch ends."""

    where = "step"

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        if self.where == "step":
            self.log("val_accuracy", torch.tensor(-1.0))

    def on_validation_epoch_end(self):
        if self.where == "epoch-end":
            self.log_dict({"val_accuracy": torch.tensor(-1.0)})


@pytest.mark.parametrize("where", ["step", "epoch-end"])
@pytest.mark.parametrize("epochs", [1, 2])
def test_a_key_of_the_module_stays_the_modules(make_trainer, caplog, where, epochs):
    caplog.set_level(logging.INFO)
    module = LogsItsOwn()
    module.where = where
    trainer = make_trainer(callbacks=[MixupCallback()], max_epochs=epochs, num_sanity_val_steps=0)

    trainer.fit(module, make_loader(), make_loader())

    assert trainer.callback_metrics["val_accuracy"] == -1
    assert trainer.logged_metrics["val_accuracy"] == -1
    assert trainer.callback_metrics["val_ece"] > 0
    said = [line for line in caplog.messages if "val_accuracy is logged by the module" in line]
    assert len(said) == 1


class LogsInBatchEnd(Callback):
    def on_validation_batch_end(self, trainer, pl_module, *args):
        self.log("val_accuracy", torch.tensor(-1.0))


class LogsByTheModule(Callback):
    def on_validation_batch_end(self, trainer, pl_module, *args):
        pl_module.log("val_accuracy", torch.tensor(-1.0))


class LogsInEpochEnd(Callback):
    def on_validation_epoch_end(self, trainer, pl_module):
        self.log("val_accuracy", torch.tensor(-1.0))


@pytest.mark.parametrize("is_first", [False, True], ids=["after ours", "before ours"])
@pytest.mark.parametrize("kind", [LogsInBatchEnd, LogsByTheModule, LogsInEpochEnd])
def test_a_key_of_another_callback_stays_the_callbacks(make_trainer, kind, is_first):
    callbacks = [kind(), MixupCallback()] if is_first else [MixupCallback(), kind()]
    trainer = make_trainer(callbacks=callbacks, max_epochs=2, num_sanity_val_steps=0)

    trainer.fit(Classifier(), make_loader(), make_loader())

    assert trainer.callback_metrics["val_accuracy"] == -1
    assert trainer.callback_metrics["val_ece"] > 0


class PartlyLabelled(Classifier):
    """Has a label of -1 where it is not known, which costs nothing."""

    def validation_step(self, batch, batch_idx):
        x, y = batch
        F.binary_cross_entropy_with_logits(self(x)[:, 0], y)


def test_labels_that_cannot_be_counted_are_no_error_of_mixups(make_trainer):
    trainer = make_trainer(callbacks=[MixupCallback()], num_sanity_val_steps=0)

    x, _ = make_loader().dataset.tensors
    y = (torch.arange(len(x)) < 40).float() - (torch.arange(len(x)) > 50).float()

    with pytest.warns(UserWarning, match="there is no val_ece.* holds the label -1"):
        trainer.fit(
            PartlyLabelled(), make_loader(), DataLoader(TensorDataset(x, y), batch_size=16)
        )

    assert trainer.state.finished


def test_masked_labels_of_logits_fn_are_left_out(make_trainer):
    def masked(module, batch, outputs):
        x, y = batch
        return module(x), y.masked_fill(y == 0, -100)

    trainer = make_trainer(callbacks=[CalibrationMonitor(logits_fn=masked)])
    trainer.validate(Classifier(), make_loader(), verbose=False)

    kept = int((make_loader().dataset.tensors[1] != 0).sum())
    assert trainer.callbacks[0].statistics["val"][0].compute()["count"] == kept


def test_two_monitors_leave_nothing_on_the_module_however_often_they_watch(make_trainer):
    module, loader = Classifier(), make_loader()
    monitors = [CalibrationMonitor(prefix="a_"), CalibrationMonitor(prefix="b_")]

    trainer = make_trainer(callbacks=monitors, max_epochs=3)
    trainer.fit(module, loader, loader)

    assert not {"validation_step", "log"} & set(vars(module))


def test_a_prefix_renames_ours(make_trainer):
    monitor = CalibrationMonitor(prefix="clean_")
    trainer = make_trainer(callbacks=[MixupCallback(calibration=monitor)])

    trainer.fit(LogsItsOwn(), make_loader(), make_loader())

    assert trainer.callback_metrics["val_accuracy"] == -1
    assert trainer.callback_metrics["clean_val_accuracy"] > 0


@pytest.mark.parametrize(
    ("metrics", "key"),
    [
        (MulticlassCalibrationError(CLASSES), "val_MulticlassCalibrationError"),
        (MetricCollection({"tm_ece": MulticlassCalibrationError(CLASSES)}), "val_tm_ece"),
        (MetricCollection([MulticlassCalibrationError(CLASSES)], prefix="tm/"), "val_tm/Multi"),
    ],
    ids=["one", "named", "prefixed"],
)
def test_torchmetrics_are_logged_beside(make_trainer, metrics, key):
    logits, labels = logits_and_labels(3.0)
    monitor = CalibrationMonitor(metrics)

    logged = validate(make_trainer, logits, labels, monitor=monitor)

    (found,) = [name for name in logged if name.startswith(key)]
    expected = MulticlassCalibrationError(CLASSES)(logits, labels)
    torch.testing.assert_close(logged[found], expected, rtol=0, atol=1e-6)
    assert logged["val_ece"] > 0


@pytest.mark.parametrize("is_binary", [False, True], ids=["classes", "binary"])
def test_one_word_makes_metrics_of_as_many_classes_as_there_are(make_trainer, is_binary):
    monitor = CalibrationMonitor(classification_metrics)
    x, y = 2 * torch.randn(500, 1), torch.randint(2, (500,))
    data, module = ((x, y), BinaryEcho()) if is_binary else (logits_and_labels(1.0), Echo())

    logged = validate(make_trainer, *data, monitor=monitor, module=module)

    kind = "Binary" if is_binary else "Multiclass"
    theirs = classification_metrics(1 if is_binary else CLASSES)
    expected = theirs(x.sigmoid()[:, 0] if is_binary else data[0].softmax(1), data[1])
    assert logged[f"val_{kind}Accuracy"] == expected[f"{kind}Accuracy"] == logged["val_accuracy"]
    torch.testing.assert_close(
        logged[f"val_{kind}CalibrationError"], expected[f"{kind}CalibrationError"]
    )


def test_metrics_get_no_sample_that_the_loss_ignores(make_trainer):
    logits, labels = logits_and_labels(2.0)
    monitor = CalibrationMonitor(classification_metrics)

    logged = validate(make_trainer, logits, labels, module=OwnCriterion(), monitor=monitor)

    torch.testing.assert_close(logged["val_MulticlassAccuracy"], logged["val_accuracy"])
    torch.testing.assert_close(
        logged["val_MulticlassCalibrationError"], logged["val_ece"], rtol=0, atol=5e-6
    )


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        (
            lambda classes: classes,
            r"metrics\(num_classes\) returned 5, which is not of torchmetrics",
        ),
        (
            lambda classes: MulticlassAccuracy(classes, average="none"),
            r"of shape \(5,\), but only",
        ),
        (lambda classes: MetricCollection({"ece": MulticlassAccuracy(classes)}), "figure of ours"),
    ],
    ids=["no-metric", "vector", "name"],
)
def test_metrics_that_cannot_be_logged_are_refused_in_words(make_trainer, metrics, words):
    with pytest.raises((TypeError, ValueError), match=words):
        validate(make_trainer, *logits_and_labels(1.0), monitor=CalibrationMonitor(metrics))


def test_a_metric_can_not_take_the_name_of_a_figure_of_ours():
    with pytest.raises(ValueError, match=r"metrics holds 'nll'.*'tm_nll'"):
        CalibrationMonitor(MetricCollection({"nll": MulticlassAccuracy(CLASSES)}))


def test_the_metrics_that_were_given_are_never_updated(make_trainer):
    metric = MulticlassAccuracy(CLASSES)

    validate(make_trainer, *logits_and_labels(1.0), monitor=CalibrationMonitor(metric))

    assert metric.update_count == 0


def test_metrics_that_share_state_are_all_right(make_trainer):
    """Of a group, torchmetrics updates one metric, and the others follow when asked together."""
    logits, labels = logits_and_labels(1.0)
    metrics = MetricCollection({
        "micro": MulticlassAccuracy(CLASSES, average="micro"),
        "macro": MulticlassAccuracy(CLASSES, average="macro"),
    })

    logged = validate(make_trainer, logits, labels, monitor=CalibrationMonitor(metrics))

    for name, metric in metrics.items():
        torch.testing.assert_close(logged[f"val_{name}"], metric(logits, labels))


def test_metrics_of_a_binary_loss_get_one_probability(make_trainer):
    x, y = 2 * torch.randn(500, 1), torch.randint(2, (500,))
    monitor = CalibrationMonitor(BinaryAccuracy())

    logged = validate(make_trainer, x, y, monitor=monitor, module=BinaryEcho())

    assert logged["val_BinaryAccuracy"] == BinaryAccuracy()(x.sigmoid()[:, 0], y)


# What can't be read.


class Silent(Classifier):
    def validation_step(self, batch, batch_idx):
        return {"logits": self(batch[0]), "labels": batch[1]}


class SquaredError(Classifier):
    def loss(self, prediction, y):
        return F.mse_loss(prediction[:, 0], y.float())


@pytest.mark.parametrize("calibration", ["mine", "the trainer's"])
def test_who_asks_for_figures_gets_an_error_where_there_are_none(make_trainer, calibration):
    monitor = CalibrationMonitor()
    mine = calibration == "mine"
    callbacks = [MixupCallback(calibration=monitor) if mine else monitor]

    module = SquaredError()
    with pytest.raises(RuntimeError, match=r"mse_loss is not a loss of classes.*logits_fn="):
        make_trainer(callbacks=callbacks).fit(module, make_loader(), make_loader())

    assert {"validation_step", "log", "training_step"}.isdisjoint(vars(module))


def test_mixup_itself_warns_once_in_a_run(make_trainer):
    trainer = make_trainer(callbacks=[MixupCallback()], max_epochs=2)

    with pytest.warns(UserWarning, match=r"there is no val_ece.*mse_loss") as warned:
        trainer.fit(SquaredError(), make_loader(), make_loader())

    assert len([each for each in warned if "CalibrationMonitor" in str(each.message)]) == 1
    assert "val_ece" not in trainer.callback_metrics


def test_logits_fn_names_them(make_trainer):
    monitor = CalibrationMonitor(logits_fn=lambda module, batch, out: (out["logits"], batch[1]))
    trainer = make_trainer(callbacks=[monitor])

    trainer.fit(Silent(), make_loader(), make_loader())

    assert trainer.callback_metrics["val_ece"] > 0


@pytest.mark.parametrize("returned", [None, torch.ones(3), (torch.ones(3, 2), [0, 1, 0])], ids=str)
def test_logits_fn_must_return_two_tensors(make_trainer, returned):
    monitor = CalibrationMonitor(logits_fn=lambda *_: returned)

    with pytest.raises(TypeError, match=r"logits_fn returned .*Return \(logits, target\)"):
        validate(make_trainer, *logits_and_labels(1.0), monitor=monitor)


def test_samples_that_are_not_finite_are_left_out_with_one_warning(make_trainer):
    logits, labels = logits_and_labels(1.0)
    broken = logits.clone()
    broken[3], broken[700, 1] = torch.nan, torch.inf
    monitor = CalibrationMonitor(classification_metrics)

    with pytest.warns(
        UserWarning, match="2 of 2000 samples of val have NaN or infinite"
    ) as warned:
        logged = validate(make_trainer, broken, labels, monitor=monitor)

    fine = torch.ones(2000, dtype=torch.bool)
    fine[[3, 700]] = False
    expected = validate(
        make_trainer,
        logits[fine],
        labels[fine],
        monitor=CalibrationMonitor(classification_metrics),
    )
    assert len([each for each in warned if "CalibrationMonitor" in str(each.message)]) == 1
    for key in set(expected) - {"val_loss"}:  # which is the module's own
        torch.testing.assert_close(logged[key], expected[key], rtol=0, atol=1e-6)


def test_without_a_validation_loader_one_line_says_why(make_trainer, caplog):
    caplog.set_level(logging.INFO)

    make_trainer(callbacks=[MixupCallback()]).fit(Classifier(), make_loader())

    (line,) = [message for message in caplog.messages if "no val_ece" in message]
    assert "no validation loader" in line


# Company.


class Silenced(Echo):
    def validation_step(self, batch, batch_idx):
        self.loss(self(batch[0]), batch[1])


class LogsNothing(Classifier):
    def validation_step(self, batch, batch_idx):
        self.loss(self(batch[0]), batch[1])

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch[1])


@pytest.mark.parametrize("settings", [{"fast_dev_run": True}, {"barebones": True}], ids=str)
def test_runs_in_lightnings_other_modes(make_trainer, settings):
    quiet = {"logger": None, "enable_checkpointing": None, "enable_progress_bar": None}
    trainer = make_trainer(
        callbacks=[CalibrationMonitor()],
        **{**quiet, "enable_model_summary": None, "log_every_n_steps": None, **settings},
    )

    trainer.fit(LogsNothing(), make_loader(), make_loader())

    assert trainer.state.finished


@pytest.mark.parametrize("when", ["on_validation_batch_start", "on_validation_batch_end"])
@pytest.mark.parametrize("is_first", [True, False], ids=["before-ours", "after-ours"])
def test_steps_that_another_callback_runs_do_not_count(make_trainer, when, is_first):
    """As one that asks how the model does on noisy copies of the batch."""
    logits, labels = logits_and_labels(1.0)
    noisy = Callback()
    place = 0 if "start" in when else 1  # behind the outputs

    def run_step(trainer, module, *rest):
        batch = rest[place]
        module.validation_step([-batch[0], batch[1]], 0)

    setattr(noisy, when, run_step)
    ours = CalibrationMonitor()
    trainer = make_trainer(callbacks=[noisy, ours] if is_first else [ours, noisy])
    loader = DataLoader(TensorDataset(logits, labels), batch_size=64)

    trainer.validate(Silenced(), loader, verbose=False)

    expected = validate(make_trainer, logits, labels)
    assert trainer.callback_metrics["val_accuracy"] == expected["val_accuracy"]


def test_two_monitors_of_other_prefixes_log_the_same(make_trainer):
    callbacks = [CalibrationMonitor(prefix="a_"), CalibrationMonitor(prefix="b_")]
    trainer = make_trainer(callbacks=callbacks)

    trainer.fit(Classifier(), make_loader(), make_loader())

    logged = trainer.callback_metrics
    for figure in FIGURES:
        assert logged[f"a_val_{figure}"] == logged[f"b_val_{figure}"]


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_runs_in_other_precisions(make_trainer, precision):
    trainer = make_trainer(callbacks=[MixupCallback()], precision=precision)

    trainer.fit(Classifier(), make_loader(), make_loader())

    assert 0 < trainer.callback_metrics["val_ece"] < 1


def test_the_module_is_as_it_was_found(make_trainer):
    module = Classifier()

    validate(make_trainer, *next(iter(make_loader(size=8))), module=module)

    assert {"validation_step", "log"}.isdisjoint(vars(module))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"metrics": [MulticlassAccuracy(5)]}, r"not of torchmetrics\. Give a Metric, or several"),
        ({"prefix": 1}, r"prefix=1 is not a string"),
        ({"logits_fn": "logits"}, r"logits_fn='logits' can't be called"),
    ],
    ids=["metrics", "prefix", "logits_fn"],
)
def test_a_wrong_argument_is_refused_in_words(arguments, words):
    with pytest.raises(TypeError, match=words):
        CalibrationMonitor(**arguments)


@pytest.mark.parametrize("call", ["CalibrationMonitor()", "CalibrationMonitor(prefix='clean_')"])
def test_the_repr_is_the_call_that_made_it(call):
    assert repr(eval(call)) == call
