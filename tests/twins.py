"""A module, and its twin that mixes by hand: with the paper's words, and only the draw is ours."""

from types import SimpleNamespace

import torch
from lightning import LightningModule
from torch import nn
from torch.nn import functional as F
from zoo import CLASSES, FEATURES, make_loader

from lightning_mixup import Mixup, MixupCallback

HIDDEN = "net.2"  # the layer at which the twin mixes, too


class Plain(LightningModule):
    """A user's module, with BatchNorm and all that tuners ask for."""

    place = "input"

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(FEATURES, 8),
            nn.BatchNorm1d(8),
            nn.Tanh(),
            nn.Linear(8, CLASSES, bias=False),
        )
        self.lr, self.batch_size, self.losses = 0.1, 16, []
        self.flops_per_batch = 1  # which a monitor of Lightning's asks for

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        self.note(loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", F.cross_entropy(self.net(x), y))

    def note(self, loss):
        """Keeps and logs the loss as a number; that of mixed labels is plain from then on."""
        self.losses.append(float(loss.detach()))
        self.log("train_loss", loss)

    def train_dataloader(self):
        """Returns another one in each epoch, where somebody asks."""
        return make_loader(batch_size=self.batch_size + 8 * self.current_epoch)

    def val_dataloader(self):
        return make_loader(size=32)

    def configure_optimizers(self):
        trained = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.SGD(trained, lr=self.lr, momentum=0.9)


class ByHand(Plain):
    """Mixes in its own step, at its ``place``; it numbers the batches by itself.

    Args:
        settings: What `MixupCallback` is given in the other run.
    """

    def __init__(self, **settings):
        super().__init__()
        self.draws = Draws(**settings)

    def on_train_start(self):
        self.number = 0

    def training_step(self, batch, batch_idx):
        x, y = batch
        mix = self.draws(self.number, len(x))
        self.number += 1
        logits = self.forward_mixed(x, mix)
        own, other = (F.cross_entropy(logits, z, reduction="none") for z in (y, y[mix.partner]))
        weight = mix.weight.to(own)
        loss = (weight * own + (1 - weight) * other).mean()
        self.note(loss)
        return loss

    def forward_mixed(self, x, mix):
        return self.net(blended(x, mix))


class ByHandInside(ByHand):
    """Mixes behind the third module of its network."""

    place = HIDDEN

    def forward_mixed(self, x, mix):
        return self.net[3](blended(self.net[:3](x), mix))


class Draws:
    """Gives the mix of a batch by its number, from a callback that no Trainer knows."""

    def __init__(self, **settings):
        self.callback = mixup(**settings)

    def __call__(self, number, size):
        progress = SimpleNamespace(total=SimpleNamespace(processed=number))
        loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
        trainer = SimpleNamespace(fit_loop=loop, current_epoch=0)
        batch = [torch.zeros(size, 1), torch.zeros(size, dtype=torch.long)]
        self.callback.on_train_batch_start(trainer, None, batch, number)
        return self.callback.mix


def mixup(**settings):
    """Returns the callback of the tests, whose draws the twin knows."""
    return MixupCallback(**{"recipe": Mixup(1.0), "seed": 1, "calibration": False, **settings})


def blended(x, mix):
    weight = mix.weight.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    return weight * x + (1 - weight) * x[mix.partner]


def state_of(module):
    """Returns a copy of all that a module has learned."""
    return {name: value.clone() for name, value in module.state_dict().items()}
