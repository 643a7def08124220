"""Tests for the report of a run: table, verdict, temperature, file and pictures, in a Trainer."""

import csv
import io
import json
import logging
import math
import sys
from contextlib import suppress

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import Logger
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch.distributions import Categorical
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from zoo import Classifier, make_loader

from lightning_mixup import CalibrationMonitor, MixupCallback, classification_metrics
from lightning_mixup.errors import MixupTypeError, MixupValueError
from lightning_mixup.report import as_text, bins_of, make_entry, read_report
from lightning_mixup.reservoir import Reservoir

FILE = "calibration.json"


class Echo(Classifier):
    """Its logits are its inputs, multiplied by a number."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        return F.cross_entropy(self(batch[0]), batch[1])

    test_step = validation_step


class ManyLoaders(Classifier):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        return super().validation_step(batch, batch_idx)


def drawn(temperature=1.0, size=2000, classes=5):
    """Returns a loader of logits, and of labels of which that temperature is about the best."""
    logits = 3 * torch.randn(size, classes)
    target = Categorical(logits=logits / temperature).sample()
    return DataLoader(TensorDataset(logits, target), batch_size=100)


def evaluated(loader, trainer, module=None, *, stage="validate"):
    """Returns the monitor of a finished evaluation."""
    getattr(trainer, stage)(module or Echo(), loader, verbose=False)
    return trainer.callbacks[0]


def rows_of(logger):
    """Returns what a logger has written, line by line."""
    with open(f"{logger.log_dir}/metrics.csv") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def digits():
    """Logits of a model trained on one half of the digits, for the other half."""
    images, labels = load_digits(return_X_y=True)
    model = LogisticRegression(max_iter=500).fit(images[::2] / 16, labels[::2])
    logits = torch.tensor(model.decision_function(images[1::2] / 16), dtype=torch.float32)
    data = TensorDataset(logits, torch.tensor(labels[1::2]))
    return DataLoader(data, batch_size=64)


@pytest.mark.parametrize(("factor", "claim"), [(3, "Over-confident"), (1 / 3, "Under-confident")])
def test_a_trained_model_made_too_sure_or_too_unsure_is_called_so(
    digits, make_trainer, factor, claim
):
    own = evaluated(digits, make_trainer(callbacks=[CalibrationMonitor()])).temperature

    trainer = make_trainer(callbacks=[CalibrationMonitor()])
    monitor = evaluated(digits, trainer, Echo(factor))

    assert monitor.report()["val"]["verdict"].startswith(f"{claim} by ")
    assert monitor.temperature == pytest.approx(factor * own, rel=1e-5)


def test_the_figures_are_those_that_were_logged(make_trainer):
    trainer = make_trainer(callbacks=[CalibrationMonitor()])

    monitor = evaluated(drawn(), trainer, stage="test")

    entry = monitor.report()["test"]
    logged = {key: value.item() for key, value in trainer.callback_metrics.items()}
    reported = {f"test_{name}": entry[name] for name in ("accuracy", "ece", "nll", "brier")}
    assert {key: logged[key] for key in reported} == pytest.approx(reported, rel=1e-6)
    gap = bins_of(entry).confidence_gap().item()
    assert entry["confidence_gap"] == pytest.approx(gap)
    assert entry["history"] == {}


def test_the_report_is_there_at_the_end_and_is_the_users(make_trainer):
    monitor = CalibrationMonitor()
    before = monitor.report(), monitor.temperature

    evaluated(drawn(), make_trainer(callbacks=[monitor]))
    monitor.report().clear()

    assert before == ({}, None)
    assert set(monitor.report()) == {"val"}


def test_the_history_is_what_each_epoch_logged(make_trainer, tmp_path):
    callback = MixupCallback(alpha=0.2)
    logger = CSVLogger(tmp_path)
    trainer = make_trainer(
        callbacks=[callback], max_epochs=4, logger=logger, num_sanity_val_steps=2
    )

    trainer.fit(Classifier(), make_loader(), make_loader(40))

    history = callback.monitor.report()["val"]["history"]
    logged = [row for row in rows_of(logger) if row["val_ece"]]
    assert history["epoch"] == [0, 1, 2, 3]
    assert history["step"] == [4, 8, 12, 16]
    assert history["ece"] == pytest.approx([float(row["val_ece"]) for row in logged])
    assert history["nll"][-1] == pytest.approx(callback.monitor.report()["val"]["nll"])


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_resumed_run_has_the_whole_history(make_trainer, tmp_path):
    options = {"enable_checkpointing": True}
    keep = ModelCheckpoint(tmp_path / "kept", save_top_k=-1)
    first = MixupCallback()
    trainer = make_trainer(callbacks=[first, keep], max_epochs=3, **options)
    trainer.fit(Classifier(), make_loader(), make_loader(40))
    (path,) = (tmp_path / "kept").glob("epoch=1*")

    second = MixupCallback()
    resumed = make_trainer(callbacks=[second, keep], max_epochs=3, **options)
    resumed.fit(Classifier(), make_loader(), make_loader(40), ckpt_path=path)

    history = second.monitor.report()["val"]["history"]
    assert history["epoch"] == [0, 1, 2]
    assert history["ece"][:2] == first.monitor.report()["val"]["history"]["ece"][:2]


def test_another_fit_has_a_history_of_its_own(make_trainer):
    callback = MixupCallback()

    make_trainer(callbacks=[callback], max_epochs=2).fit(
        Classifier(), make_loader(), make_loader(40)
    )
    make_trainer(callbacks=[callback]).fit(Classifier(), make_loader(), make_loader(40))

    assert callback.monitor.report()["val"]["history"]["epoch"] == [0]


def test_a_fit_that_goes_on_goes_on_with_its_history(make_trainer):
    callback, module = MixupCallback(), Classifier()
    trainer = make_trainer(callbacks=[callback])

    trainer.fit(module, make_loader(), make_loader(40))
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, make_loader(), make_loader(40))

    assert callback.monitor.report()["val"]["history"]["epoch"] == [0, 1, 2]


class Stops(Classifier):
    """As by Ctrl-C, in the third epoch."""

    def training_step(self, batch, batch_idx):
        if self.current_epoch == 2:
            raise KeyboardInterrupt
        return super().training_step(batch, batch_idx)


def test_a_fit_that_its_user_has_stopped_has_a_report(make_trainer, tmp_path):
    callback = MixupCallback()
    trainer = make_trainer(callbacks=[callback], max_epochs=9)

    with suppress(SystemExit, KeyboardInterrupt):  # either, or none, by Lightning's version
        trainer.fit(Stops(), make_loader(), make_loader(40))

    report = read_report(tmp_path / FILE)
    assert report == callback.monitor.report()
    assert report["val"]["history"]["epoch"] == [0, 1]


def test_two_monitors_may_have_one_prefix(make_trainer):
    first, second = CalibrationMonitor(), CalibrationMonitor(classification_metrics)

    evaluated(drawn(), make_trainer(callbacks=[first, second]), stage="test")

    assert first.report() == second.report()


def test_a_sanity_check_is_no_end_of_a_run(make_trainer):
    callback = MixupCallback()
    trainer = make_trainer(callbacks=[callback], num_sanity_val_steps=2, check_val_every_n_epoch=5)

    trainer.fit(Classifier(), make_loader(), make_loader(40))

    assert callback.monitor.report() == {}


def test_a_fit_without_validation_does_not_report_on_the_one_before(
    make_trainer, capsys, tmp_path
):
    callback, module = MixupCallback(), Classifier()
    make_trainer(callbacks=[callback]).fit(module, make_loader(), make_loader(40))
    capsys.readouterr()

    make_trainer(callbacks=[callback]).fit(module, make_loader())

    assert callback.monitor.report() == {}
    assert "Calibration of" not in capsys.readouterr().out
    assert [path.name for path in tmp_path.glob("calibration*")] == [FILE]


@pytest.mark.filterwarnings("ignore:`Trainer.barebones=True")
def test_a_barebones_test_does_not_report_on_the_one_before(make_trainer, capsys):
    monitor = evaluated(drawn(), make_trainer(callbacks=[CalibrationMonitor()]), stage="test")
    capsys.readouterr()

    evaluated(drawn(), Trainer(callbacks=[monitor], barebones=True), stage="test")

    assert monitor.report() == {}
    assert "Calibration of" not in capsys.readouterr().out


def test_what_cannot_be_read_has_no_report(make_trainer, tmp_path):
    class Opaque(Classifier):
        def validation_step(self, batch, batch_idx):
            return batch[0].sum()

    callback = MixupCallback()
    trainer = make_trainer(callbacks=[callback])

    with pytest.warns(match="there is no val_ece"):
        trainer.fit(Opaque(), make_loader(), make_loader())

    assert callback.monitor.report() == {}
    assert not list(tmp_path.rglob(FILE))


def test_each_of_several_loaders_has_an_entry(make_trainer):
    trainer = make_trainer(callbacks=[CalibrationMonitor()])

    monitor = evaluated([drawn(3.0), drawn(1.0)], trainer)

    first, second = (monitor.report()[f"val/dataloader_idx_{index}"] for index in range(2))
    assert first["temperature"] == monitor.temperature == pytest.approx(3, rel=0.1)
    assert second["temperature"] == pytest.approx(1, rel=0.1)


def test_the_temperature_is_that_of_validation_also_after_a_test(make_trainer):
    """It was chosen there; to choose it on test data would flatter the model."""
    trainer = make_trainer(callbacks=[CalibrationMonitor()])
    monitor = evaluated(drawn(3.0), trainer)
    of_validation = monitor.temperature

    evaluated(drawn(1.0), trainer, stage="test")

    assert monitor.temperature == of_validation
    assert monitor.report()["test"]["temperature"] == pytest.approx(1, rel=0.1)


def test_of_more_samples_than_there_is_room_for_it_says_so(make_trainer, monkeypatch, capsys):
    monkeypatch.setitem(Reservoir.__init__.__kwdefaults__, "capacity", 4000)

    monitor = evaluated(drawn(2.0), make_trainer(callbacks=[CalibrationMonitor()]), stage="test")

    fitted = monitor.report()["test"]["temperature_samples"]
    assert 400 < fitted <= 800
    assert monitor.temperature == pytest.approx(2, rel=0.2)
    assert f"fitted on {fitted} of 2,000 samples" in capsys.readouterr().out.replace("\n", " ")


# What is printed.


@pytest.mark.parametrize("has_rich", [True, False])
@pytest.mark.parametrize("stage", ["fit", "test"])
def test_a_table_and_the_verdict_are_printed(make_trainer, capsys, monkeypatch, stage, has_rich):
    if not has_rich:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    monitor = CalibrationMonitor()
    trainer = make_trainer(callbacks=[monitor], max_epochs=2)

    if stage == "fit":
        trainer.fit(Classifier(), make_loader(), make_loader(2000))
    else:
        trainer.test(Echo(), drawn(), verbose=False)

    printed = capsys.readouterr().out
    entry = next(iter(monitor.report().values()))
    of = "val after epoch 1" if stage == "fit" else "test"
    assert f"Calibration of {of}: 2,000 samples" in printed
    assert f"logits / {entry['temperature']:.3g}" in printed
    assert [f"{entry['ece']:.3f}", f"{entry['ece_at_temperature']:.3f}"] == row(printed, "ECE")
    assert [f"{entry['nll']:.3f}", f"{entry['nll_at_temperature']:.3f}"] == row(printed, "NLL")
    assert entry["verdict"] in " ".join(printed.split())


def row(printed, heading):
    """Returns the figures of a row of a table."""
    (line,) = (line for line in printed.splitlines() if line.strip().startswith(f"{heading} "))
    return line.split()[len(heading.split()) :]


def test_a_validation_prints_nothing_and_leaves_no_file(make_trainer, capsys, tmp_path):
    """It may be one of many, and `report()` has it."""
    evaluated(drawn(), make_trainer(callbacks=[CalibrationMonitor()]))

    assert "Calibration" not in capsys.readouterr().out
    assert not list(tmp_path.rglob("calibration*"))


def test_who_quiets_lightning_quiets_the_report(make_trainer, capsys):
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        evaluated(drawn(), make_trainer(callbacks=[CalibrationMonitor()]), stage="test")
    finally:
        logger.setLevel(level)

    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("has_rich", [True, False])
def test_a_terminal_without_unicode_shows_the_report(make_trainer, monkeypatch, has_rich):
    """Such as a standard output that Windows redirects to a file."""
    if not has_rich:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", screen)

    evaluated(drawn(1 / 3), make_trainer(callbacks=[CalibrationMonitor()]), stage="test")

    screen.flush()
    printed = screen.buffer.getvalue().decode("ascii")
    assert "Under-confident by 0." in printed
    assert " -0." in printed


def test_what_cannot_be_printed_is_a_warning(make_trainer, monkeypatch, tmp_path):
    screen = io.StringIO()
    screen.close()
    monkeypatch.setattr(sys, "stdout", screen)
    trainer = make_trainer(callbacks=[CalibrationMonitor()])

    with pytest.warns(match="could not be printed: ValueError: I/O operation on closed file"):
        evaluated(drawn(), trainer, stage="test")

    assert (tmp_path / FILE).exists()


def test_names_are_printed_as_they_are(make_trainer, capsys):
    """To rich, brackets would be markup."""
    trainer = make_trainer(callbacks=[CalibrationMonitor(prefix="[/b]")])

    evaluated(drawn(), trainer, stage="test")

    assert "Calibration of [/b]test: 2,000 samples" in capsys.readouterr().out


def test_without_a_best_temperature_the_table_has_one_column(make_trainer):
    x = 2 * torch.eye(3)[torch.arange(30) % 3]
    loader = DataLoader(TensorDataset(x, torch.arange(30) % 3), batch_size=10)

    monitor = evaluated(loader, make_trainer(callbacks=[CalibrationMonitor()]))

    entry = monitor.report()["val"]
    assert monitor.temperature is None
    assert "logits /" not in as_text(entry, "")
    assert row(as_text(entry, ""), "accuracy") == ["1.000"]


# What is saved.


def test_the_file_is_the_report(make_trainer, tmp_path):
    logger = CSVLogger(tmp_path)

    monitor = evaluated(
        drawn(), make_trainer(callbacks=[CalibrationMonitor()], logger=logger), stage="test"
    )

    assert read_report(f"{logger.log_dir}/{FILE}") == monitor.report()


def test_a_test_is_added_to_the_file_of_its_fit(make_trainer, tmp_path):
    monitor = CalibrationMonitor()
    trainer = make_trainer(callbacks=[monitor])

    trainer.fit(Classifier(), make_loader(), make_loader(40))
    trainer.test(Classifier(), make_loader(40), verbose=False)

    (path,) = tmp_path.glob("calibration*")
    assert set(read_report(path)) == {"val", "test"}


def test_no_file_of_another_run_is_written_over(make_trainer, tmp_path):
    mine = tmp_path / FILE
    mine.write_text("somebody's")
    callback = MixupCallback()

    make_trainer(callbacks=[callback]).fit(Classifier(), make_loader(), make_loader(40))
    first = (tmp_path / "calibration-v1.json").read_text()
    make_trainer(callbacks=[callback]).fit(Classifier(), make_loader(), make_loader(80))

    assert mine.read_text() == "somebody's"
    assert (tmp_path / "calibration-v1.json").read_text() == first
    assert read_report(tmp_path / "calibration-v2.json")["val"]["count"] == 80


@pytest.mark.parametrize("options", [{"default_root_dir": None}, {"fast_dev_run": True}], ids=str)
def test_who_wants_no_files_gets_none(make_trainer, tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    trainer = make_trainer(callbacks=[MixupCallback()], **options)

    trainer.fit(Classifier(), make_loader(), make_loader(40))

    assert not list(tmp_path.rglob("*"))


def test_prefixes_keep_the_files_of_two_monitors_apart(make_trainer, tmp_path):
    first, second = CalibrationMonitor(), CalibrationMonitor(prefix="other_")

    evaluated(drawn(), make_trainer(callbacks=[first, second]), stage="test")

    names = {path.name for path in tmp_path.glob("*calibration*")}
    assert names == {FILE, f"other_{FILE}"}


def test_a_prefix_with_a_slash_is_one_name(make_trainer, tmp_path):
    """TensorBoard groups figures by such prefixes."""
    trainer = make_trainer(callbacks=[CalibrationMonitor(prefix="clean/")])

    evaluated(drawn(), trainer, stage="test")

    assert [path.name for path in tmp_path.rglob("*")] == [f"clean_{FILE}"]


def test_infinite_figures_are_null_in_the_file_and_infinite_in_the_report(make_trainer, tmp_path):
    logits, target = drawn().dataset.tensors
    logits[0, target[0]] = -torch.inf
    loader = DataLoader(TensorDataset(logits, target), batch_size=100)

    monitor = evaluated(loader, make_trainer(callbacks=[CalibrationMonitor()]), stage="test")

    assert monitor.report()["test"]["nll"] == math.inf
    assert json.loads((tmp_path / FILE).read_text())["test"]["nll"] is None


def test_what_is_no_report_is_refused(tmp_path):
    path = tmp_path / "other.json"
    path.write_text('{"val": 3}')

    with pytest.raises(MixupValueError, match=r"holds no report on calibration\. Give a cal"):
        read_report(path)


def test_a_disk_that_is_full_is_a_warning(make_trainer, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr("lightning_mixup.publishing.as_json", fail)
    trainer = make_trainer(callbacks=[CalibrationMonitor()])

    with pytest.warns(match="could not be saved: OSError: No space left on device"):
        evaluated(drawn(), trainer, stage="test")


def test_a_report_that_fails_takes_no_fit_with_it(make_trainer, tmp_path, monkeypatch):
    """Nor its last checkpoint, which Lightning saves later."""
    monkeypatch.setattr("lightning_mixup.record.make_entry", lambda *_: 1 / 0)
    keep = ModelCheckpoint(tmp_path, save_last=True)
    trainer = make_trainer(callbacks=[MixupCallback(), keep], enable_checkpointing=True)

    with pytest.warns(match="could not be made: ZeroDivisionError"):
        trainer.fit(Classifier(), make_loader(), make_loader(40))

    assert (tmp_path / "last.ckpt").is_file()


def test_final_figures_are_logged_where_a_run_ends(make_trainer, tmp_path):
    logger = CSVLogger(tmp_path)
    callback = MixupCallback()
    trainer = make_trainer(callbacks=[callback], logger=logger)

    trainer.fit(Classifier(), make_loader(), make_loader(400))

    entry = callback.monitor.report()["val"]
    final = rows_of(logger)[-1]
    assert final["step"] == "4"
    assert float(final["val_noise_floor"]) == entry["noise_floor"]
    assert float(final["val_temperature"]) == entry["temperature"]


# Pictures.


class Recording(Logger):
    """A logger that takes pictures by the methods of those that it is named after."""

    def __init__(self):
        super().__init__()
        self.calls = []
        self.run_id = "run"

    name = version = "recording"
    save_dir = None

    @property
    def experiment(self):
        return self

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        pass

    def add_image(self, tag, image, step, dataformats):
        assert dataformats == "HWC"
        self.calls.append((tag, image))


class Nameless(Recording):
    """As one whose server is out of reach may be."""

    @property
    def version(self):
        raise ConnectionError("offline")


def test_a_logger_without_a_folder_is_a_warning(make_trainer):
    trainer = make_trainer(callbacks=[CalibrationMonitor()], logger=Nameless())

    with pytest.warns(match="could not be saved: ConnectionError: offline"):
        evaluated(drawn(), trainer, stage="test")


class TensorBoardLogger(Recording):
    pass


class WandbLogger(Recording):
    def log_image(self, key, images, step=None):
        self.calls += [(key, image) for image in images]


class MLFlowLogger(Recording):
    def log_image(self, run_id, image, artifact_file):
        assert run_id == "run"
        self.calls.append((artifact_file.removesuffix(".png"), image))


class CometLogger(Recording):
    def log_image(self, image_data, name, step):
        self.calls.append((name, image_data))


@pytest.mark.pictures
@pytest.mark.parametrize("kind", [TensorBoardLogger, WandbLogger, MLFlowLogger, CometLogger])
def test_loggers_that_show_pictures_are_handed_them(make_trainer, tmp_path, kind):
    logger = kind()
    trainer = make_trainer(callbacks=[CalibrationMonitor()], logger=logger)

    evaluated(drawn(), trainer, stage="test")

    ((tag, image),) = logger.calls
    assert tag == "calibration/test"
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.std() > 10
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.pictures
def test_elsewhere_a_picture_lies_beside_the_file(make_trainer, tmp_path):
    logger = CSVLogger(tmp_path)
    callback = MixupCallback()
    trainer = make_trainer(callbacks=[callback], logger=logger, max_epochs=2)

    trainer.fit(ManyLoaders(), make_loader(), [make_loader(40), make_loader(48)])

    pictures = {path.name: path.read_bytes()[:4] for path in tmp_path.rglob("*.png")}
    assert pictures == dict.fromkeys(
        ["calibration_val_0.png", "calibration_val_1.png"], b"\x89PNG"
    )


@pytest.mark.pictures
@pytest.mark.parametrize("stage", ["test", "validate"])
def test_pictures_are_drawn_where_asked_for_and_at_the_end_of_a_test(
    make_trainer, tmp_path, stage
):
    monitor = CalibrationMonitor(pictures=stage == "validate")

    evaluated(drawn(), make_trainer(callbacks=[monitor]), stage=stage)

    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.pictures
def test_a_logger_that_fails_is_a_warning(make_trainer):
    class WandbLogger(Recording):
        def log_image(self, *args, **kwargs):
            raise ConnectionError("offline")

    trainer = make_trainer(callbacks=[CalibrationMonitor()], logger=WandbLogger())

    with pytest.warns(match="could not be handed to a logger: ConnectionError: offline"):
        evaluated(drawn(), trainer, stage="test")


def test_without_matplotlib_all_else_is_there(make_trainer, tmp_path):
    """As in all tests here that don't ask for pictures."""
    evaluated(drawn(), make_trainer(callbacks=[CalibrationMonitor()]), stage="test")

    assert [path.name for path in tmp_path.rglob("calibration*")] == [FILE]


def test_a_report_can_be_drawn_by_hand(make_trainer):
    monitor = evaluated(drawn(), make_trainer(callbacks=[CalibrationMonitor()]))

    figure = monitor.plot()

    assert figure.axes


@pytest.mark.parametrize("name", [None, "test"])
def test_what_is_not_known_cannot_be_drawn(name):
    with pytest.raises(
        MixupValueError, match=r"There is no report on .* yet, only on \[\]\. Call"
    ):
        CalibrationMonitor().plot(name)


def test_pictures_are_yes_or_no():
    with pytest.raises(MixupTypeError, match="pictures='png' is a str"):
        CalibrationMonitor(pictures="png")


def test_an_entry_says_what_was_left_out():
    bins = bins_of({"bins": {"count": [10], "correct": [5], "confidence": [7.0]}})
    figures = dict.fromkeys(
        ["accuracy", "ece", "noise_floor", "confidence_gap", "nll", "brier", "temperature"], 0.5
    )
    none = {
        **dict.fromkeys(["ece_at_temperature", "noise_floor_at_temperature"]),
        "count": 10.0,
        "temperature_samples": 10,
    }

    entry = make_entry({**figures, **none, "nonfinite": 1234.0}, bins)

    assert "Left out: 1,234 samples with NaN or infinite logits." in as_text(entry, "")
