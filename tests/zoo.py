"""Modules and loaders of the tests, written as users write theirs, without a word of mixup."""

import torch
from lightning import LightningModule
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import Accuracy

CLASSES, FEATURES = 5, 6


def make_loader(size=64, batch_size=16, *, shuffle=False):
    """Returns a loader of points in the plane of their class."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(size, FEATURES, generator=generator)
    y = x[:, :CLASSES].argmax(dim=1)
    return DataLoader(TensorDataset(x, y), batch_size=batch_size, shuffle=shuffle)


class Classifier(LightningModule):
    """Logs its own train accuracy; evaluates in a step of its own."""

    def __init__(self, class_weight=None):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(FEATURES, 16), nn.Tanh(), nn.Linear(16, CLASSES, bias=False)
        )
        self.register_buffer("class_weight", class_weight)
        self.train_acc = Accuracy(task="multiclass", num_classes=CLASSES)

    def forward(self, x):
        return self.net(x)

    def loss(self, logits, y):
        return F.cross_entropy(logits, y, weight=self.class_weight)

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        loss = self.loss(logits, y)
        self.train_acc(logits, y)
        self.log("train_acc", self.train_acc, on_step=False, on_epoch=True)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", self.loss(self(x), y))

    def test_step(self, batch, batch_idx):
        x, y = batch
        self.log("test_loss", self.loss(self(x), y))

    def predict_step(self, batch, batch_idx):
        return self(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def parameters_of(module):
    """Returns all parameters of a module as one vector."""
    return torch.cat([p.detach().flatten() for p in module.parameters()])
