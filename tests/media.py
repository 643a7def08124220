"""Small modules for images, sounds, tables, series, videos, maps and words, and data for each.

Each is written in another of the styles of public code, without a word of mixup. What sklearn
brings along is real (digits, tumours, diabetes), all else is made up here.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning import LightningModule
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchmetrics import Accuracy, MetricCollection
from torchmetrics.classification import MultilabelF1Score


@dataclass(frozen=True)
class Medium:
    """A module, its data, and how well it does on samples that it has not seen.

    Attributes:
        module: Makes the module.
        load: Returns the training samples and those held out, each (x, y).
        error: How wrong predictions are: given what the module puts out, and the labels.
        constant: The best constant prediction, from the labels of the training samples and the
            number of held-out ones, in the form of the module's output.
        layer: A hidden layer in which mixing has a meaning.
        batch: Puts the entries of a sample together, as its dataset returns them.
    """

    module: Callable[[], LightningModule]
    load: Callable[[], tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]]
    error: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    constant: Callable[[torch.Tensor, int], torch.Tensor]
    layer: str
    batch: Callable[..., Any] = lambda x, y: (x, y)
    batch_size: int = 32
    epochs: int = 3

    def loader(self):
        generator = torch.Generator().manual_seed(1)
        data = Samples(self.load()[0], self.batch)
        return DataLoader(data, self.batch_size, shuffle=True, generator=generator)

    @torch.no_grad()
    def skill(self, module):
        """Returns the part of the best constant prediction's error that a module takes away."""
        (_, seen), (x, y) = self.load()
        constant = self.error(self.constant(seen, len(y)), y)
        return float(1 - self.error(module.eval()(x), y) / constant)


class Samples(Dataset):
    def __init__(self, tensors, batch):
        self.tensors, self.batch = tensors, batch

    def __len__(self):
        return len(self.tensors[0])

    def __getitem__(self, index):
        return self.batch(*(tensor[index] for tensor in self.tensors))


def split(x, y, size):
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(x)))
    first, rest = order[:size], order[size:]
    return (x[first], y[first]), (x[rest], y[rest])


def standardized(x):
    return (x - x.mean(dim=0)) / x.std(dim=0)


def misses(logits, y):
    """The share of labels that are not the likeliest."""
    return (logits.argmax(dim=1) != y).float().mean()


def majority(y, size):
    """The class that most have, of whole samples or of each of their places."""
    counts = torch.bincount(y.flatten()).float()
    return counts.reshape(1, -1, *[1] * (y.ndim - 1)).expand(size, -1, *y.shape[1:])


def mean(y, size):
    return y.mean(dim=0).expand(size, *y.shape[1:])


# Images: digits of 8 x 8. A batch is a dict, metrics come in a collection, the model in blocks.


@functools.cache
def digits():
    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    return split(x, torch.tensor(data.target), 400)


class DigitClassifier(LightningModule):
    def __init__(self, num_classes: int = 10, lr: float = 0.02):
        super().__init__()
        self.save_hyperparameters()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.block = nn.Sequential(nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Linear(96, num_classes)
        self.criterion = nn.CrossEntropyLoss(label_smoothing=0.05)
        self.train_metrics = MetricCollection(
            {"acc": Accuracy(task="multiclass", num_classes=num_classes)}, prefix="train/"
        )

    def forward(self, x):
        return self.head(self.block(self.stem(x)).flatten(1))

    def training_step(self, batch, batch_idx):
        logits = self(batch["image"])
        loss = self.criterion(logits, batch["label"])
        self.train_metrics.update(logits, batch["label"])
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def on_train_epoch_end(self):
        self.log_dict(self.train_metrics.compute())
        self.train_metrics.reset()

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
        steps = self.trainer.estimated_stepping_batches
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.hparams.lr, steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


# Sounds: clips in which some of four tones are heard. A batch is a named tuple, the steps share
# their code, rare classes count more.

TONES, CLIP = 4, 128


class Clip(NamedTuple):
    waveform: torch.Tensor
    tags: torch.Tensor


@functools.cache
def clips(size=600):
    generator = torch.Generator().manual_seed(0)
    tags = (torch.rand(size, TONES, generator=generator) < 0.35).float()
    pitch = 2 * torch.pi * torch.tensor([0.06, 0.13, 0.22, 0.34])[:, None]
    phase = 6.3 * torch.rand(size, TONES, 1, generator=generator)
    tones = torch.sin(pitch * torch.arange(CLIP) + phase)
    noise = 0.5 * torch.randn(size, CLIP, generator=generator)
    return split(((tags[..., None] * tones).sum(dim=1) + noise)[:, None], tags, 320)


class SoundTagger(LightningModule):
    def __init__(self):
        super().__init__()
        self.frontend = nn.Conv1d(1, 24, kernel_size=24, stride=4)
        self.encoder = nn.Sequential(nn.Conv1d(24, 24, 3), nn.ReLU(), nn.AdaptiveMaxPool1d(1))
        self.classifier = nn.Linear(24, TONES)
        self.register_buffer("pos_weight", torch.full((TONES,), 1.2))
        self.f1 = MultilabelF1Score(num_labels=TONES)

    def forward(self, waveform):
        features = self.encoder(F.relu(self.frontend(waveform)))
        return self.classifier(features.squeeze(-1))

    def _shared_step(self, batch, stage):
        waveform, tags = batch
        logits = self(waveform)
        loss = F.binary_cross_entropy_with_logits(logits, tags, pos_weight=self.pos_weight)
        self.log(f"{stage}_loss", loss, on_step=True, on_epoch=True)
        self.log(f"{stage}_f1", self.f1(logits.sigmoid(), tags.int()))
        return {"loss": loss, "logits": logits.detach()}

    def training_step(self, batch, batch_idx):
        return self._shared_step(batch, "train")

    def configure_optimizers(self):
        return [torch.optim.Adam(self.parameters(), lr=0.01)], []


def log_odds(y, size):
    return mean(y, size).logit()


# Tables: tumours by 30 measurements. Plain tuples, class weights, log-probabilities. The last
# batch of an epoch is one sample.


@functools.cache
def tumours():
    data = load_breast_cancer()
    x = standardized(torch.tensor(data.data, dtype=torch.float32))
    return split(x, torch.tensor(data.target), 193)


class TumourNet(LightningModule):
    def __init__(self, class_weights=(1.5, 1.0)):
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(30, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 2), nn.LogSoftmax(dim=1)
        )
        self.loss = nn.NLLLoss(weight=torch.tensor(class_weights))

    def forward(self, x):
        return self.model(x)

    def training_step(self, train_batch, batch_idx):
        x, y = train_batch
        log_probs = self.forward(x)
        loss = self.loss(log_probs, y)
        self.log("train_loss", loss)
        self.log("train_acc", (log_probs.argmax(1) == y).float().mean())
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


# Regression: how diabetes went on, by ten measurements. Targets of shape (B, 1), of no unit.


@functools.cache
def diabetes():
    x, y = (torch.tensor(part, dtype=torch.float32) for part in load_diabetes(return_X_y=True))
    return split(standardized(x), standardized(y)[:, None], 300)


class Progression(LightningModule):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(10, 24)
        self.act = nn.Tanh()
        self.out = nn.Linear(24, 1)

    def forward(self, x):
        return self.out(self.act(self.hidden(x)))

    def training_step(self, batch, _):
        features, target = batch
        loss = nn.functional.mse_loss(self(features), target)
        self.log("mse", loss.detach())
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


# Series: the slope hidden in a noisy series of shape (B, C, T). A recurrent layer, whose output is
# a tuple, and an optimizer that the step itself drives.

TIMES = 12


@functools.cache
def series(size=500):
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(size, generator=generator)
    noise = 0.7 * torch.randn(size, 2, TIMES, generator=generator)
    slopes = y[:, None, None] * torch.tensor([[1.0], [-1.0]])
    return split(slopes * torch.linspace(-1, 1, TIMES) + noise, y, 300)


class SlopeForecaster(LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.rnn = nn.GRU(input_size=2, hidden_size=16, batch_first=True)
        self.fc = nn.Linear(16, 1)

    def forward(self, x):
        output, _ = self.rnn(x.transpose(1, 2))
        return self.fc(output.mean(dim=1)).squeeze(-1)

    def training_step(self, batch, batch_idx):
        opt = self.optimizers()
        opt.zero_grad()
        loss = F.mse_loss(self(batch[0]), batch[1])
        self.manual_backward(loss)
        opt.step()
        self.log("loss", loss)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.02)


# Events: in which of three states a series is at each step; a target of shape (B, L).


@functools.cache
def states(size=300, length=32):
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(3, (size, length // 8), generator=generator).repeat_interleave(8, dim=1)
    x = torch.stack([y == 1, y == 2], dim=1) + torch.randn(size, 2, length, generator=generator)
    return split(x, y, 200)


class StateTracker(LightningModule):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(2, 16, 7, padding=3), nn.ReLU())
        self.per_step = nn.Conv1d(16, 3, 1)

    def forward(self, x):
        return self.per_step(self.body(x))

    def training_step(self, batch, batch_idx):
        x, states = batch
        logits = self(x).transpose(1, 2).reshape(-1, 3)
        return F.cross_entropy(logits, states.reshape(-1))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.02)


# Videos: a blob that moves in one of four directions, of shape (B, C, T, H, W).


@functools.cache
def videos(size=320, frames=4, side=8):
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(4, (size,), generator=generator)
    step = torch.tensor([[0.0, 1], [0, -1], [1, 0], [-1, 0]])[y] * 1.3
    middle = (side - 1) / 2 + torch.randn(size, 2, generator=generator)
    time = torch.arange(frames) - (frames - 1) / 2
    place = middle[:, None] + step[:, None] * time[:, None]
    rows, columns = (torch.arange(side) - place[..., i, None] for i in (0, 1))
    blobs = torch.exp(-0.5 * (rows[..., None] ** 2 + columns[..., None, :] ** 2))
    return split(blobs[:, None] + 0.1 * torch.randn(blobs[:, None].shape), y, 220)


class VideoClassifier(LightningModule):
    def __init__(self, learning_rate=0.02):
        super().__init__()
        self.learning_rate = learning_rate
        self.backbone = nn.Sequential(nn.Conv3d(1, 12, 3, padding=1, stride=(1, 2, 2)), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool3d((2, 2, 2))
        self.fc = nn.Linear(96, 4)
        self.train_acc = Accuracy(task="multiclass", num_classes=4)

    def forward(self, video):
        return self.fc(self.pool(self.backbone(video)).flatten(1))

    def training_step(self, batch, batch_idx):
        y_hat = self.forward(batch["video"])
        loss = F.cross_entropy(y_hat, batch["label"])
        acc = self.train_acc(F.softmax(y_hat, dim=-1), batch["label"])
        self.log("train_loss", loss, batch_size=batch["video"].shape[0])
        self.log("train_acc", acc, on_epoch=True, batch_size=batch["video"].shape[0])
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.learning_rate)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)]


# Maps: squares of two kinds on a background, of which each pixel has a label.


@functools.cache
def scenes(size=220, side=12):
    generator = torch.Generator().manual_seed(0)
    kind = torch.randint(1, 3, (size, 1, 1), generator=generator)
    corner = torch.randint(side - 6, (size, 2), generator=generator)[..., None]
    rows, columns = ((torch.arange(side) - corner[:, i]).clamp(-1, 6) for i in (0, 1))
    inside = ((rows >= 0) & (rows < 6))[:, :, None] & ((columns >= 0) & (columns < 6))[:, None]
    y = inside * kind
    x = torch.tensor([0.0, 1.0, -1.0])[y] + 0.7 * torch.randn(y.shape, generator=generator)
    return split(x[:, None], y, 150)


class Segmenter(LightningModule):
    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 12, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2))
        self.up = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(), nn.Upsample(None, 2))
        self.last = nn.Conv2d(12, 3, 1)

    def forward(self, x):
        return self.last(self.up(self.down(x)))

    def training_step(self, batch, batch_idx):
        img, mask = batch["image"], batch["mask"]
        out = self(img)
        loss = F.cross_entropy(out, mask.long())
        iou = ((out.argmax(1) == mask) & (mask > 0)).sum() / (mask > 0).sum().clamp(min=1)
        self.log_dict({"loss": loss, "foreground": iou})
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.02)


# Words: texts of ids, of which those of one kind prevail.


@functools.cache
def texts(size=500, length=9, words=16):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(words, (size, length), generator=generator)
    return split(x, ((x % 2).sum(dim=1) > length // 2).long(), 320)


class TextClassifier(LightningModule):
    def __init__(self, vocab_size=16):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, 8)
        self.classifier = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, input_ids):
        return self.classifier(self.embed(input_ids).mean(dim=1))

    def training_step(self, batch, batch_idx):
        logits = self(batch["input_ids"])
        return F.cross_entropy(logits, batch["labels"])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.05)


MEDIA = {
    "images": Medium(
        DigitClassifier,
        digits,
        misses,
        majority,
        "stem",
        lambda x, y: {"image": x, "label": y},
    ),
    "sounds": Medium(
        SoundTagger, clips, F.binary_cross_entropy_with_logits, log_odds, "encoder", Clip, epochs=5
    ),
    "tables": Medium(TumourNet, tumours, misses, majority, "model.0"),
    "regression": Medium(Progression, diabetes, F.mse_loss, mean, "act"),
    "series": Medium(SlopeForecaster, series, F.mse_loss, mean, "rnn"),
    "states": Medium(StateTracker, states, misses, majority, "body"),
    "videos": Medium(
        VideoClassifier,
        videos,
        misses,
        majority,
        "backbone",
        lambda x, y: {"video": x, "label": y},
        batch_size=16,
    ),
    "maps": Medium(
        Segmenter,
        scenes,
        misses,
        majority,
        "down",
        lambda x, y: {"image": x, "mask": y},
        batch_size=16,
    ),
    "words": Medium(
        TextClassifier,
        texts,
        misses,
        majority,
        "embed",
        lambda x, y: {"input_ids": x, "labels": y},
    ),
}
