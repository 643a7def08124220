"""Tests for lightning_mixup.callback in the Trainer of pytorch_lightning, the older package."""

import pytest
import torch
from torch.nn import functional as F
from torchmetrics import Accuracy
from zoo import CLASSES, Classifier, make_loader, parameters_of

from lightning_mixup import MixupCallback

pl = pytest.importorskip("pytorch_lightning")


class OldName(pl.LightningModule):
    """The tests' usual module."""

    def __init__(self):
        super().__init__()
        self.net = Classifier().net
        self.train_acc = Accuracy(task="multiclass", num_classes=CLASSES)

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self.net(x)
        loss = F.cross_entropy(logits, y)
        self.train_acc(logits, y)
        self.log("train_loss", loss)
        self.log("train_acc", self.train_acc, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", F.cross_entropy(self.net(x), y))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class NewName(Classifier):
    """The same module by the other name."""

    training_step = OldName.training_step
    validation_step = OldName.validation_step
    configure_optimizers = OldName.configure_optimizers


def test_both_packages_train_and_report_alike(make_trainer, tmp_path):
    old, new = OldName(), NewName()
    new.load_state_dict(old.state_dict(), strict=False)
    trainer = pl.Trainer(
        callbacks=[MixupCallback(1.0, seed=1)],
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    expected = make_trainer(callbacks=[MixupCallback(1.0, seed=1)])

    trainer.fit(old, make_loader(), make_loader())
    expected.fit(new, make_loader(), make_loader())

    assert torch.equal(parameters_of(old), parameters_of(new))
    logged = trainer.callback_metrics
    assert logged == expected.callback_metrics
    assert {"train_acc", "val_accuracy", "val_ece"} <= logged.keys()
