"""Tests of whole modules, written as their sources write them: batches and steps of every form.

What stands in the first part is nobody's work on mixup: Lightning's examples and templates, and
the idioms of libraries around it, made small. Each is trained as it is. What its batch leaves
open is said to the callback, and the batch that is mixed by hand is built entry by entry.
"""

import copy
import functools
import pickle
import time
import warnings
from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning, StochasticWeightAveraging
from lightning.pytorch.demos.boring_classes import BoringModel, ManualOptimBoringModel
from lightning.pytorch.utilities import CombinedLoader
from oracle import ByHand, Dominant, Record, combined, shares_of
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.data import DataLoader
from torchmetrics import Accuracy, MaxMetric, MeanAbsoluteError, MeanMetric, MetricCollection
from torchmetrics.classification import BinaryF1Score

from lightning_mixup import MixedTarget, Mixup, MixupCallback

BATCH, CLASSES = 6, 4


def randn(*shape):
    return torch.randn(BATCH, *shape)


def labels(*shape, classes=CLASSES):
    """Returns labels of which every class has some."""
    y = torch.arange(BATCH * max(1, torch.Size(shape).numel())).remainder(classes)
    return y[torch.randperm(len(y))].reshape(BATCH, *shape)


def multiclass(**options):
    return Accuracy(task="multiclass", num_classes=CLASSES, **options)


# Lightning's examples.


class Backbone(nn.Module):
    def __init__(self, hidden_dim=16):
        super().__init__()
        self.l1 = nn.Linear(6 * 6, hidden_dim)
        self.l2 = nn.Linear(hidden_dim, CLASSES)

    def forward(self, x):
        x = x.view(x.size(0), -1)
        x = torch.relu(self.l1(x))
        return self.l2(x)


class LitClassifier(LightningModule):
    """basic_examples/backbone_image_classifier.py."""

    def __init__(self, backbone=None, learning_rate=0.1):
        super().__init__()
        self.save_hyperparameters(ignore=["backbone"])
        self.backbone = Backbone() if backbone is None else backbone

    def forward(self, x):
        return self.backbone(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        y_hat = self(x)
        return F.cross_entropy(y_hat, y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        y_hat = self(x)
        loss = F.cross_entropy(y_hat, y)
        self.log("valid_loss", loss, on_step=True)

    def predict_step(self, batch, batch_idx, dataloader_idx=None):
        x, _ = batch
        return self(x)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.learning_rate)


class LitAutoEncoder(LightningModule):
    """basic_examples/autoencoder.py."""

    def __init__(self, hidden_dim=16, learning_rate=10e-3):
        super().__init__()
        self.save_hyperparameters()
        self.encoder = nn.Sequential(nn.Linear(36, hidden_dim), nn.ReLU())
        self.encoder.append(nn.Linear(hidden_dim, 3))
        self.decoder = nn.Sequential(nn.Linear(3, hidden_dim), nn.ReLU())
        self.decoder.append(nn.Linear(hidden_dim, 36))

    def forward(self, x):
        z = self.encoder(x)
        return self.decoder(z)

    def training_step(self, batch, batch_idx):
        return self._common_step(batch, batch_idx, "train")

    def validation_step(self, batch, batch_idx):
        self._common_step(batch, batch_idx, "val")

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.learning_rate)

    def _prepare_batch(self, batch):
        x, _ = batch
        return x.view(x.size(0), -1)

    def _common_step(self, batch, batch_idx, stage):
        x = self._prepare_batch(batch)
        loss = F.mse_loss(x, self(x))
        self.log(f"{stage}_loss", loss, on_step=True)
        return loss


class GAN(LightningModule):
    """domain_templates/generative_adversarial_net.py."""

    def __init__(self, latent_dim=5):
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(latent_dim, 36), nn.Tanh())
        self.discriminator = nn.Sequential(nn.Flatten(), nn.Linear(36, 1), nn.Sigmoid())

    def forward(self, z):
        return self.generator(z)

    @staticmethod
    def adversarial_loss(y_hat, y):
        return F.binary_cross_entropy(y_hat, y)

    def training_step(self, batch):
        imgs, _ = batch
        opt_g, opt_d = self.optimizers()
        z = torch.randn(imgs.shape[0], self.hparams.latent_dim)
        z = z.type_as(imgs)
        valid = torch.ones(imgs.size(0), 1)
        valid = valid.type_as(imgs)

        self.toggle_optimizer(opt_g)
        g_loss = self.adversarial_loss(self.discriminator(self(z)), valid)
        opt_g.zero_grad()
        self.manual_backward(g_loss)
        opt_g.step()
        self.untoggle_optimizer(opt_g)

        self.toggle_optimizer(opt_d)
        real_loss = self.adversarial_loss(self.discriminator(imgs), valid)
        fake = torch.zeros(imgs.size(0), 1)
        fake = fake.type_as(imgs)
        fake_loss = self.adversarial_loss(self.discriminator(self(z).detach()), fake)
        d_loss = (real_loss + fake_loss) / 2
        opt_d.zero_grad()
        self.manual_backward(d_loss)
        opt_d.step()
        self.untoggle_optimizer(opt_d)
        self.log_dict({"d_loss": d_loss, "g_loss": g_loss})

    def configure_optimizers(self):
        opt_g = torch.optim.Adam(self.generator.parameters(), lr=2e-2, betas=(0.5, 0.999))
        opt_d = torch.optim.Adam(self.discriminator.parameters(), lr=2e-2, betas=(0.5, 0.999))
        return opt_g, opt_d


class DoubleConv(nn.Module):
    def __init__(self, in_ch, out_ch):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(in_ch, out_ch, kernel_size=3, padding=1),
            nn.BatchNorm2d(out_ch),
            nn.ReLU(inplace=True),
        )

    def forward(self, x):
        return self.net(x)


class UNet(nn.Module):
    def __init__(self, num_classes=CLASSES, features=4):
        super().__init__()
        self.inc = DoubleConv(3, features)
        self.down = nn.Sequential(nn.MaxPool2d(2, stride=2), DoubleConv(features, 2 * features))
        self.up = nn.ConvTranspose2d(2 * features, features, kernel_size=2, stride=2)
        self.merge = DoubleConv(2 * features, features)
        self.outc = nn.Conv2d(features, num_classes, kernel_size=1)

    def forward(self, x):
        skip = self.inc(x)
        up = self.up(self.down(skip))
        return self.outc(self.merge(torch.cat([skip, up], dim=1)))


class SemSegment(LightningModule):
    """domain_templates/semantic_segmentation.py."""

    def __init__(self):
        super().__init__()
        self.net = UNet()

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_nb):
        img, mask = batch
        img = img.float()
        mask = mask.long()
        out = self(img)
        loss_val = F.cross_entropy(out, mask, ignore_index=3)
        log_dict = {"train_loss": loss_val.detach()}
        return {"loss": loss_val, "log": log_dict, "progress_bar": log_dict}

    def validation_step(self, batch, batch_idx):
        img, mask = batch
        out = self(img.float())
        self.log("val_loss", F.cross_entropy(out, mask.long(), ignore_index=3))

    def configure_optimizers(self):
        opt = torch.optim.Adam(self.net.parameters(), lr=0.01)
        sch = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=10)
        return [opt], [sch]


class MilestonesFinetuning(BaseFinetuning):
    def __init__(self, milestones=(1, 10), *, train_bn=False):
        super().__init__()
        self.milestones, self.train_bn = milestones, train_bn

    def freeze_before_training(self, pl_module):
        self.freeze(modules=pl_module.feature_extractor, train_bn=self.train_bn)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == self.milestones[0]:
            self.unfreeze_and_add_param_group(
                modules=pl_module.feature_extractor[-2:],
                optimizer=optimizer,
                train_bn=self.train_bn,
            )


class TransferLearningModel(LightningModule):
    """domain_templates/computer_vision_fine_tuning.py."""

    def __init__(self, lr=1e-2):
        super().__init__()
        self.lr = lr
        self.feature_extractor = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )
        self.fc = nn.Sequential(nn.Dropout(0.2), nn.Linear(4, 1))
        self.loss_func = F.binary_cross_entropy_with_logits
        self.train_acc = Accuracy(task="binary")
        self.valid_acc = Accuracy(task="binary")

    def forward(self, x):
        x = self.feature_extractor(x)
        x = x.squeeze(-1).squeeze(-1)
        return self.fc(x)

    def loss(self, logits, labels):
        return self.loss_func(input=logits, target=labels)

    def training_step(self, batch, batch_idx):
        x, y = batch
        y_logits = self.forward(x)
        y_scores = torch.sigmoid(y_logits)
        y_true = y.view((-1, 1)).type_as(x)
        train_loss = self.loss(y_logits, y_true)
        self.log("train_acc", self.train_acc(y_scores, y_true.int()), prog_bar=True)
        return train_loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        y_logits = self.forward(x)
        y_scores = torch.sigmoid(y_logits)
        y_true = y.view((-1, 1)).type_as(x)
        self.log("val_loss", self.loss(y_logits, y_true), prog_bar=True)
        self.log("val_acc", self.valid_acc(y_scores, y_true.int()), prog_bar=True)

    def configure_optimizers(self):
        trainable_parameters = list(filter(lambda p: p.requires_grad, self.parameters()))
        optimizer = torch.optim.Adam(trainable_parameters, lr=self.lr)
        return [optimizer], [torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[1])]


# Templates and courses.


class MNISTLitModule(LightningModule):
    """The Hydra template's: a step that is shared, averages of losses, the best so far."""

    def __init__(self, net=None, optimizer=torch.optim.Adam, scheduler=None):
        super().__init__()
        self.save_hyperparameters(logger=False, ignore=["net"])
        self.net = Backbone() if net is None else net
        self.criterion = nn.CrossEntropyLoss()
        self.train_acc, self.val_acc = multiclass(), multiclass()
        self.train_loss, self.val_loss = MeanMetric(), MeanMetric()
        self.val_acc_best = MaxMetric()

    def forward(self, x):
        return self.net(x)

    def on_train_start(self):
        self.val_loss.reset()
        self.val_acc.reset()
        self.val_acc_best.reset()

    def model_step(self, batch):
        x, y = batch
        logits = self.forward(x)
        loss = self.criterion(logits, y)
        preds = torch.argmax(logits, dim=1)
        return loss, preds, y

    def training_step(self, batch, batch_idx):
        loss, preds, targets = self.model_step(batch)
        self.train_loss(loss)
        self.train_acc(preds, targets)
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("train/acc", self.train_acc, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        loss, preds, targets = self.model_step(batch)
        self.val_loss(loss)
        self.val_acc(preds, targets)
        self.log("val/loss", self.val_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("val/acc", self.val_acc, on_step=False, on_epoch=True, prog_bar=True)

    def on_validation_epoch_end(self):
        acc = self.val_acc.compute()
        self.val_acc_best(acc)
        self.log("val/acc_best", self.val_acc_best.compute(), sync_dist=True, prog_bar=True)

    def configure_optimizers(self):
        return {"optimizer": self.hparams.optimizer(params=self.trainer.model.parameters())}


class SharedStep(LightningModule):
    """One step for every stage, that looks up what belongs to it; validation trains in name."""

    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Dropout(0.2), nn.GELU())
        self.head = nn.Linear(8, CLASSES)
        metrics = MetricCollection({"acc": multiclass(), "top2": multiclass(top_k=2)})
        self.train_metrics = metrics.clone(prefix="train_")
        self.val_metrics = metrics.clone(prefix="val_")

    def _step(self, batch, stage):
        x, y = batch
        logits = self.head(self.model(x))
        loss = F.cross_entropy(logits, y, label_smoothing=0.1)
        metrics = getattr(self, f"{stage}_metrics")
        metrics.update(logits.softmax(dim=-1), y)
        self.log(f"{stage}_loss", loss, on_step=stage == "train", on_epoch=True)
        self.log_dict(metrics, on_step=False, on_epoch=True)
        return loss

    def training_step(self, batch, batch_idx):
        return {"loss": self._step(batch, "train" if self.training else "val")}

    def validation_step(self, batch, batch_idx):
        return self.training_step(batch, batch_idx)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


# Batches of other libraries.


class BatchFeature(UserDict):
    """As Hugging Face's: a dict by key and by attribute, that moves itself."""

    def __getattr__(self, name):
        try:
            return self.__dict__["data"][name]
        except KeyError:
            raise AttributeError(name) from None

    def to(self, device, **options):
        self.data = {k: v.to(device) for k, v in self.data.items()}
        return self


@dataclass
class ModelOutput:
    loss: Any = None
    logits: Any = None

    def __getitem__(self, index):
        return (self.loss, self.logits)[index]


class ForImageClassification(nn.Module):
    """As Hugging Face's: the model computes its own loss where it is given labels."""

    def __init__(self):
        super().__init__()
        self.vit = nn.Sequential(nn.Flatten(1), nn.Linear(36, 8), nn.LayerNorm(8))
        self.classifier = nn.Linear(8, CLASSES)

    def forward(self, pixel_values=None, labels=None, return_dict=None):
        logits = self.classifier(self.vit(pixel_values))
        loss = None
        if labels is not None:
            loss_fct = nn.CrossEntropyLoss()
            loss = loss_fct(logits.view(-1, CLASSES), labels.view(-1))
        return ModelOutput(loss=loss, logits=logits)


class ImageTransformer(LightningModule):
    def __init__(self):
        super().__init__()
        self.model = ForImageClassification()

    def forward(self, **inputs):
        return self.model(**inputs)

    def training_step(self, batch, batch_idx):
        outputs = self(**batch)
        loss = outputs[0]
        predictions = outputs.logits.argmax(-1)
        correct = (predictions == batch["labels"]).sum().item()
        self.log("training_loss", loss)
        self.log("training_accuracy", correct / batch.pixel_values.shape[0])
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("validation_loss", self(**batch).loss, on_epoch=True)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=5e-2)


class PopsLabels(ImageTransformer):
    """The labels are taken out of the batch, for a loss with weights of classes."""

    def training_step(self, batch, batch_idx):
        labels = batch.pop("labels")
        logits = self.model(**batch).logits
        loss_fct = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0, 0.5]).to(self.device))
        batch["preds"] = logits.argmax(-1)
        self.log("train_acc", (batch["preds"] == labels).float().mean(), batch_size=len(labels))
        return loss_fct(logits.view(-1, CLASSES), labels.view(-1))


class BertClassifier(LightningModule):
    """A pooled encoder of embeddings, whose attention mask stays whole numbers."""

    def __init__(self, dim=8):
        super().__init__()
        self.position_embeddings = nn.Embedding(5, dim)
        layer = nn.TransformerEncoderLayer(dim, 2, 16, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.pooler = nn.Sequential(nn.Linear(dim, dim), nn.Tanh())
        self.drop = nn.Dropout(p=0.3)
        self.out = nn.Linear(dim, CLASSES)

    def forward(self, inputs_embeds, attention_mask, labels=None):
        positions = torch.arange(inputs_embeds.size(1), device=self.device)
        hidden = inputs_embeds + self.position_embeddings(positions)
        hidden = self.encoder(hidden, src_key_padding_mask=attention_mask == 0)
        output = self.out(self.drop(self.pooler(hidden[:, 0])))
        loss = 0
        if labels is not None:
            loss = F.cross_entropy(output, labels)
        return loss, output

    def training_step(self, batch, batch_idx):
        labels = batch["labels"]
        loss, outputs = self(batch["inputs_embeds"], batch["attention_mask"], labels)
        self.log("train_loss", loss, prog_bar=True)
        self.log("correct", torch.eq(outputs.argmax(1), labels).sum().float())
        return {"loss": loss, "predictions": outputs, "labels": labels}

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=2e-2)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


class Tabular(LightningModule):
    """The whole batch goes into ``forward``; categories come one-hot; rows have weights."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Linear(5, 3, bias=False)
        self.normalizing_batch_norm = nn.BatchNorm1d(3)
        self.backbone = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, CLASSES))
        self.train_accuracy = multiclass(average="macro")

    def forward(self, x):
        continuous = self.normalizing_batch_norm(x["continuous"])
        embedded = self.embedding(x["categorical"])
        return {"logits": self.backbone(torch.cat([continuous, embedded], 1))}

    def calculate_loss(self, output, y, weight, tag):
        computed = F.cross_entropy(output["logits"], y.squeeze(), reduction="none")
        loss = (computed * weight).mean()
        self.log(f"{tag}_loss", loss, on_epoch=True, on_step=False, prog_bar=True)
        return loss

    def training_step(self, batch, batch_idx):
        output, y = self(batch), batch["target"]
        self.train_accuracy(output["logits"], y.squeeze(-1))
        self.log("train_accuracy", self.train_accuracy, on_epoch=True, on_step=False)
        return self.calculate_loss(output, y, batch["sample_weight"], tag="train")

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class SpeechCommands(LightningModule):
    """A convolutional network on waveforms, of a tuple as torchaudio gives it."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(1, 4, kernel_size=8, stride=4), nn.BatchNorm1d(4)
        self.fc1 = nn.Linear(4, CLASSES)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.avg_pool1d(x, x.shape[-1])
        x = x.permute(0, 2, 1)
        return F.log_softmax(self.fc1(x), dim=2)

    def training_step(self, batch, batch_idx):
        waveform, sample_rate, target, _ = batch
        assert (sample_rate == 16000).all()
        output = self(waveform)
        loss = F.nll_loss(output.squeeze(), target)
        pred = output.argmax(dim=-1)
        self.log("train_correct", pred.squeeze().eq(target).sum().item() * 1.0, batch_size=BATCH)
        self.log("train_loss", loss.item(), batch_size=len(target))
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01, weight_decay=0.0001)


class Utterances(NamedTuple):
    spectrograms: torch.Tensor
    labels: torch.Tensor
    input_lengths: torch.Tensor
    label_lengths: torch.Tensor


class SpeechRecognition(LightningModule):
    """Characters of a spectrogram, aligned by CTC: two targets that belong together."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 8, batch_first=True)
        self.dense = nn.Linear(8, CLASSES + 1)
        self.criterion = nn.CTCLoss(blank=CLASSES, zero_infinity=True)

    def training_step(self, batch, batch_idx):
        spectrograms, labels, input_lengths, label_lengths = batch
        hidden, _ = self.rnn(spectrograms)
        output = F.log_softmax(self.dense(hidden), dim=2).transpose(0, 1)
        loss = self.criterion(output, labels, input_lengths, label_lengths)
        self.log("characters", label_lengths.float().mean(), batch_size=len(labels))
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class VideoClassification(LightningModule):
    """PyTorchVideo's: a dict of a clip, its label and where it comes from."""

    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten()
        )
        self.head = nn.Linear(4, CLASSES)
        self.train_accuracy = multiclass()

    def forward(self, x):
        return self.head(self.model(x))

    def training_step(self, batch, batch_idx):
        x = batch["video"]
        y_hat = self.forward(x)
        loss = F.cross_entropy(y_hat, batch["label"])
        acc = self.train_accuracy(F.softmax(y_hat, dim=-1), batch["label"])
        size = x.shape[0]
        self.log("train_loss", loss, batch_size=size)
        self.log("train_acc", acc, on_step=True, on_epoch=True, prog_bar=True, batch_size=size)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class BinarySegmentation(LightningModule):
    """A mask of floats for Dice and cross entropy, whole numbers again for the metrics."""

    def __init__(self):
        super().__init__()
        self.model = UNet(num_classes=1)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        self.f1 = nn.ModuleDict({"train_f1": BinaryF1Score(), "valid_f1": BinaryF1Score()})

    def forward(self, image):
        return self.model(image / self.std)

    def shared_step(self, batch, stage):
        image, mask = batch["image"], batch["mask"]
        assert image.ndim == 4
        h, w = image.shape[2:]
        assert h % 2 == 0
        assert w % 2 == 0
        assert mask.ndim == 4
        logits_mask = self.forward(image)
        prob_mask = logits_mask.sigmoid()
        overlap = (prob_mask * mask).sum(dim=(0, 2, 3))
        dice = 1 - (2 * overlap / (prob_mask + mask).sum(dim=(0, 2, 3)).clamp_min(1e-7)).mean()
        loss = dice + F.binary_cross_entropy_with_logits(logits_mask, mask)
        pred_mask = (prob_mask > 0.5).float()
        hits = (pred_mask.long() * mask.long()).sum()
        misses = ((1 - pred_mask.long()) * mask.long()).sum()
        self.log(f"{stage}_recall", hits / (hits + misses))
        f1 = self.f1[f"{stage}_f1"]
        f1(prob_mask, mask.int())
        self.log(f"{stage}_f1", f1, on_step=False, on_epoch=True)
        return loss

    def training_step(self, batch, batch_idx):
        return self.shared_step(batch, "train")

    def validation_step(self, batch, batch_idx):
        return self.shared_step(batch, "valid")

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-2)


class DenseGraphs(LightningModule):
    """PyG's batch of dense graphs, which all have the same number of nodes."""

    def __init__(self):
        super().__init__()
        self.lin1, self.lin2 = nn.Linear(3, 8), nn.Linear(8, CLASSES)
        self.train_acc = multiclass()

    def forward(self, x, adj, mask=None):
        x = self.lin1(adj @ x).relu() * mask.unsqueeze(-1)
        return self.lin2(x.mean(dim=1)).log_softmax(dim=-1)

    def training_step(self, data, batch_idx):
        out = self(data.x, data.adj, data.mask)
        loss = F.nll_loss(out, data.y.view(-1))
        self.train_acc(out.argmax(dim=-1), data.y.view(-1))
        self.log("train_acc", self.train_acc, on_epoch=True, batch_size=data.x.size(0))
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Nodes(LightningModule):
    """One graph, of which each node is a sample: some are for training, some for later."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, CLASSES)

    def forward(self, data):
        source, target = data.edge_index
        messages = torch.zeros_like(data.x).index_add_(0, target, data.x[source])
        return self.lin(data.x + messages)

    def training_step(self, data, batch_idx):
        out = self(data)
        loss = F.cross_entropy(out[data.train_mask], data.y[data.train_mask])
        pred = out.argmax(dim=-1)
        correct = pred[data.train_mask] == data.y[data.train_mask]
        self.log("train_acc", correct.float().mean(), batch_size=1)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01, weight_decay=5e-4)


class Forecaster(LightningModule):
    """Two dicts of series and a target with an empty place for weights, decoded with teaching."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.GRU(2, 6, batch_first=True), nn.GRU(2, 6, batch_first=True)
        self.output_layer = nn.Linear(6, 1)
        self.mae = MeanAbsoluteError()

    def forward(self, x, taught):
        _, hidden = self.encoder(x["encoder_cont"])
        steps = torch.stack([taught, x["decoder_cont"][..., 0]], dim=-1)
        decoded, _ = self.decoder(steps, hidden)
        return {"prediction": self.output_layer(decoded).squeeze(-1)}

    def training_step(self, batch, batch_idx):
        x, (y, weight) = batch
        assert weight is None
        last = x["encoder_cont"][:, -1:, 0]
        out = self(x, torch.cat([last, y[:, :-1]], dim=1))
        prediction = out["prediction"]
        self.mae(prediction, y)
        self.log("train_MAE", self.mae, on_step=True, on_epoch=True, batch_size=len(y))
        return F.smooth_l1_loss(prediction, y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class Multimodal(LightningModule):
    """An image and a row of a table, three heads, labels in a dict of their own."""

    def __init__(self):
        super().__init__()
        self.image_encoder = nn.Sequential(nn.Flatten(), nn.Linear(36, 8))
        self.tabular_encoder = nn.Linear(3, 8)
        self.age_head, self.gender_head = nn.Linear(16, 1), nn.Linear(16, 2)
        self.race_head = nn.Linear(16, CLASSES)
        self.mae, self.gender_acc = MeanAbsoluteError(), Accuracy(task="multiclass", num_classes=2)

    def forward(self, image, tabular):
        features = torch.cat([self.image_encoder(image), self.tabular_encoder(tabular)], dim=1)
        return self.age_head(features), self.gender_head(features), self.race_head(features)

    def training_step(self, batch, batch_idx):
        age_hat, gender_hat, race_hat = self(batch["image"], batch["tabular"])
        y = batch["labels"]
        losses = {
            "age_loss": F.l1_loss(age_hat, y["age"].unsqueeze(1)),
            "gender_loss": F.cross_entropy(gender_hat, y["gender"]),
            "race_loss": F.cross_entropy(race_hat, y["race"]),
        }
        loss = sum(losses.values()) / len(losses)
        self.log_dict({**losses, "train_loss": loss})
        self.log("train_age_mae", self.mae(age_hat.squeeze(1), y["age"]))
        self.log("train_gender_acc", self.gender_acc(gender_hat, y["gender"]))
        self.log("train_race_acc", (race_hat.argmax(1) == y["race"]).float().mean())
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


@dataclass
class Pair:
    """A batch class of somebody's own, that Lightning moves by its own method."""

    anchor: torch.Tensor
    other: torch.Tensor
    same: torch.Tensor

    def to(self, device, **options):
        return replace(self, anchor=self.anchor.to(device), other=self.other.to(device))


class Siamese(LightningModule):
    def __init__(self):
        super().__init__()
        self.tower = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh())

    def training_step(self, batch: Pair, batch_idx):
        output1, output2 = self.tower(batch.anchor), self.tower(batch.other)
        distance = F.pairwise_distance(output1, output2)
        closer = (1 - batch.same) * torch.pow(distance, 2)
        farther = batch.same * torch.pow(torch.clamp(2.0 - distance, min=0.0), 2)
        loss_contrastive = torch.mean(closer + farther)
        guessed = (distance > 1).long()
        self.log("acc", (guessed == batch.same).float().mean(), batch_size=len(batch.same))
        return loss_contrastive

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


# Few labels, or none.


class FixMatch(LightningModule):
    """Labelled and unlabelled batches at once, of different sizes."""

    def __init__(self, threshold=0.3, lambda_u=1.0):
        super().__init__()
        self.save_hyperparameters()
        self.model = Backbone()

    def training_step(self, batch, batch_idx):
        inputs_x, targets_x = batch["labeled"]
        inputs_u_w, inputs_u_s = batch["unlabeled"]
        batch_size = inputs_x.shape[0]
        logits = self.model(torch.cat((inputs_x, inputs_u_w, inputs_u_s)))
        logits_x = logits[:batch_size]
        logits_u_w, logits_u_s = logits[batch_size:].chunk(2)
        lx = F.cross_entropy(logits_x, targets_x, reduction="mean")
        pseudo_label = torch.softmax(logits_u_w.detach(), dim=-1)
        max_probs, targets_u = torch.max(pseudo_label, dim=-1)
        mask = max_probs.ge(self.hparams.threshold).float()
        lu = (F.cross_entropy(logits_u_s, targets_u, reduction="none") * mask).mean()
        loss = lx + self.hparams.lambda_u * lu
        acc = (logits_x.argmax(1) == targets_x).float().mean()
        self.log_dict({"loss_x": lx, "loss_u": lu, "mask": mask.mean()}, batch_size=batch_size)
        self.log("acc_x", acc, batch_size=batch_size)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.03, momentum=0.9, nesterov=True)


class MeanTeacher(LightningModule):
    """A teacher that follows its student, and labels of which some are missing."""

    def __init__(self, alpha=0.9):
        super().__init__()
        self.alpha = alpha
        self.student = Backbone()
        self.teacher = copy.deepcopy(self.student)
        self.teacher.requires_grad_(requires_grad=False)
        self.train_acc = multiclass(ignore_index=-1)

    def training_step(self, batch, batch_idx):
        x, y = batch
        noisy = x + 0.1 * torch.randn_like(x)
        logits = self.student(noisy)
        with torch.no_grad():
            taught = self.teacher(x)
        class_loss = F.cross_entropy(logits, y, ignore_index=-1, reduction="sum") / len(x)
        consistency = F.mse_loss(logits.softmax(dim=1), taught.softmax(dim=1))
        self.log_dict({"class_loss": class_loss, "consistency_loss": consistency})
        self.train_acc(logits, y)
        self.log("train_acc", self.train_acc, on_step=False, on_epoch=True)
        self.log("labelled", (y != -1).float().mean())
        return class_loss + 10 * consistency

    def on_train_batch_end(self, outputs, batch, batch_idx):
        pairs = zip(self.teacher.parameters(), self.student.parameters(), strict=True)
        for ema_param, param in pairs:
            ema_param.data.mul_(self.alpha).add_(param.data, alpha=1 - self.alpha)

    def configure_optimizers(self):
        return torch.optim.SGD(self.student.parameters(), lr=0.05)


class ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, alpha):
        ctx.alpha = alpha
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output.neg() * ctx.alpha, None


class DomainAdversarial(LightningModule):
    """Loaders of two domains, and a gradient that is turned round."""

    def __init__(self):
        super().__init__()
        self.feature = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU())
        self.class_classifier, self.domain_classifier = nn.Linear(8, CLASSES), nn.Linear(8, 2)

    def training_step(self, batch, batch_idx):
        (s_img, s_label), (t_img, _) = batch
        s_feature, t_feature = self.feature(s_img), self.feature(t_img)
        class_output = self.class_classifier(s_feature)
        err_s_label = F.nll_loss(F.log_softmax(class_output, dim=1), s_label)
        features = ReverseGradient.apply(torch.cat([s_feature, t_feature]), 0.5)
        domain_label = torch.cat([torch.zeros(len(s_img)), torch.ones(len(t_img))]).long()
        err_domain = F.cross_entropy(self.domain_classifier(features), domain_label)
        self.log("acc", (class_output.argmax(1) == s_label).float().mean(), batch_size=len(s_img))
        return err_s_label + err_domain

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class SimCLR(LightningModule):
    """Two views of each image, and nothing of their labels."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(36, 8))
        self.projection = nn.Sequential(nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x):
        return self.encoder(x)

    def shared_step(self, batch):
        (img1, img2), _ = batch
        z1, z2 = (F.normalize(self.projection(self(img)), dim=1) for img in (img1, img2))
        out = torch.cat([z1, z2], dim=0)
        sim = torch.exp(out @ out.t().contiguous() / 0.5)
        neg = sim.sum(dim=-1) - torch.e ** (1 / 0.5)
        pos = torch.exp(torch.sum(z1 * z2, dim=-1) / 0.5)
        return -torch.log(torch.cat([pos, pos], dim=0) / (neg + 1e-6)).mean()

    def training_step(self, batch, batch_idx):
        loss = self.shared_step(batch)
        self.log("train_loss", loss, on_step=True, on_epoch=False)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class VAE(LightningModule):
    """A step that returns its logs, and samples what it decodes."""

    def __init__(self, kl_coeff=0.1):
        super().__init__()
        self.kl_coeff = kl_coeff
        self.encoder, self.decoder = nn.Linear(36, 8), nn.Linear(3, 36)
        self.fc_mu, self.fc_var = nn.Linear(8, 3), nn.Linear(8, 3)

    def _run_step(self, x):
        x = self.encoder(x.flatten(1))
        mu, log_var = self.fc_mu(x), self.fc_var(x)
        p = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
        q = torch.distributions.Normal(mu, torch.exp(log_var / 2))
        z = q.rsample()
        return z, self.decoder(z), p, q

    def step(self, batch, batch_idx):
        x, _ = batch
        _, x_hat, p, q = self._run_step(x)
        recon_loss = F.mse_loss(x_hat, x.flatten(1), reduction="mean")
        kl = torch.distributions.kl_divergence(q, p).mean() * self.kl_coeff
        loss = kl + recon_loss
        return loss, {"recon_loss": recon_loss, "kl_loss": kl, "loss": loss}

    def training_step(self, batch, batch_idx):
        loss, logs = self.step(batch, batch_idx)
        self.log_dict({f"train_{k}": v for k, v in logs.items()}, on_step=True, on_epoch=False)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class Diffusion(LightningModule):
    """Noise that is to be found again, in batches that are a dict of one entry."""

    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(37, 16), nn.ReLU(), nn.Linear(16, 36))

    def training_step(self, batch, batch_idx):
        images = batch["images"]
        noise = torch.randn_like(images)
        steps = torch.randint(100, (images.size(0),), device=self.device)
        share = (steps / 100).view(-1, 1, 1, 1)
        noisy_images = (1 - share).sqrt() * images + share.sqrt() * noise
        residual = self.model(torch.cat([noisy_images.flatten(1), steps[:, None] / 100], dim=1))
        loss = F.mse_loss(residual, noise.flatten(1))
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


# Steps of other forms.


class FetchesItself(LitClassifier):
    def training_step(self, dataloader_iter):
        batch, _, _ = next(dataloader_iter)
        x, y = batch
        y_hat = self(x)
        loss = F.cross_entropy(y_hat, y)
        self.log("train_acc", (y_hat.argmax(1) == y).float().mean(), batch_size=x.size(0))
        self.log("train_loss", loss, batch_size=x.size(0))
        return loss


class SharpnessAware(LitClassifier):
    """Two passes over a batch, of which the first only tells where to look."""

    def __init__(self, rho=0.05):
        super().__init__()
        self.automatic_optimization = False
        self.rho = rho

    def compute_loss(self, batch):
        x, y = batch
        return F.cross_entropy(self(x), y)

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        loss_1 = self.compute_loss(batch)
        self.manual_backward(loss_1)
        norm = torch.stack([p.grad.norm() for p in self.parameters()]).norm()
        steps = [self.rho * p.grad / (norm + 1e-12) for p in self.parameters()]
        with torch.no_grad():
            for p, step in zip(self.parameters(), steps, strict=True):
                p.add_(step)
        optimizer.zero_grad()
        loss_2 = self.compute_loss(batch)
        self.manual_backward(loss_2)
        with torch.no_grad():
            for p, step in zip(self.parameters(), steps, strict=True):
                p.sub_(step)
        optimizer.step()
        self.log("train_loss", loss_1, prog_bar=True)
        return loss_1


class KeepsMetricsInADict(LitClassifier):
    """Metrics that no module knows of, and one that is made in the step."""

    def __init__(self):
        super().__init__()
        self.metrics = {"acc": multiclass(), "acc_of_classes": multiclass(average="macro")}

    def training_step(self, batch, batch_idx):
        x, y = batch
        y_hat = self(x)
        for metric in self.metrics.values():
            metric.update(y_hat, y)
        self.log("top2", multiclass(top_k=2)(y_hat, y))
        return F.cross_entropy(y_hat, y)

    def on_train_epoch_end(self):
        for name, metric in self.metrics.items():
            self.log(f"train_{name}", metric.compute())
            metric.reset()


class QuasiNewton(MNISTLitModule):
    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=1)


class Warmup(SharedStep):
    """An optimizer step of its own."""

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        optimizer.step(closure=optimizer_closure)
        for group in optimizer.param_groups:
            group["lr"] = min(1.0, (self.trainer.global_step + 1) / 5.0) * 1e-2


class SkipsBadBatches(MNISTLitModule):
    """No loss where it is no number, or where nothing is labelled."""

    def training_step(self, batch, batch_idx):
        if batch_idx == 1:
            return None
        loss = super().training_step(batch, batch_idx)
        if not torch.isfinite(loss):
            return None
        return {"loss": loss, "size": len(batch[1])}


class AugmentsOnDevice(LightningModule):
    """Images come as bytes; flips and scales are the device's work, of training batches alone."""

    def __init__(self):
        super().__init__()
        self.net = Backbone()
        self.train_acc = multiclass()

    def on_after_batch_transfer(self, batch, dataloader_idx):
        x, y = batch
        x = (x.float() / 255.0 - 0.5) / 0.25
        if self.trainer.training and torch.rand(()) < 0.9:
            x = x.flip(-1)
        return x, y

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self.net(x)
        self.log("train_acc", self.train_acc(logits, y), on_step=False, on_epoch=True)
        return F.cross_entropy(logits, y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", F.cross_entropy(self.net(x), y))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


def timed(method):
    @functools.wraps(method)
    def wrapper(*args, **kwargs):
        start = time.perf_counter()
        result = method(*args, **kwargs)
        wrapper.seconds = time.perf_counter() - start
        return result

    return wrapper


class Decorated(SharedStep):
    @timed
    def training_step(self, batch):
        return {"loss": self._step(batch, "train" if self.training else "val")}

    def validation_step(self, batch):
        return self.training_step(batch)


def with_a_step_of_its_own():
    """A module whose step somebody has replaced on the instance."""
    module = MNISTLitModule()
    module.training_step = timed(module.training_step)
    return module


def with_a_partial():
    module = MNISTLitModule()
    module.training_step = functools.partial(MNISTLitModule.training_step, module)
    return module


class Profiler(Callback):
    """Wraps the step of any module for as long as a fit lasts."""

    def __init__(self, wrap=timed):
        self.wrap = wrap

    def setup(self, trainer, pl_module, stage):
        self.step = pl_module.training_step
        pl_module.training_step = self.wrap(self.step)

    def teardown(self, trainer, pl_module, stage):
        pl_module.training_step = self.step


def plainly_wrapped(step):
    def wrapper(batch, batch_idx):
        return step(batch, batch_idx)

    return wrapper


# What each is given, and its batch mixed by hand.


def pair(batch, by):
    x, y = batch
    return by.blend(x), by.label(y)


def images(*, classes=CLASSES, channels=1):
    return randn(channels, 6, 6), labels(classes=classes)


def loader_of(batches):
    return DataLoader(batches, batch_size=None)


def of_labelled_and_unlabelled(batches):
    loaders = {key: loader_of([batch[key] for batch in batches]) for key in batches[0]}
    return CombinedLoader(loaders, "max_size_cycle")


def of_two_domains(batches):
    return [loader_of(of_domain) for of_domain in zip(*batches, strict=True)]


class Fitted(NamedTuple):
    """What came of a fit."""

    module: LightningModule
    trainer: Trainer
    record: Record

    @property
    def losses(self):
        """All that a mixture of labels must mix: losses by name, and the first gradient."""
        named = {k: v for k, v in self.trainer.callback_metrics.items() if "loss" in k}
        named["backward()"] = self.record.backwarded[0]
        if self.record.losses:
            named["returned"] = self.record.losses[0]
        named["gradient"] = torch.cat([part.flatten() for part in self.record.gradients[0]])
        return {name: value.double() for name, value in named.items()}

    @property
    def metrics(self):
        return {k: v for k, v in self.trainer.callback_metrics.items() if "loss" not in k}


@dataclass(frozen=True)
class Case:
    """A module, a batch for it, and what its user says to the callback and the Trainer."""

    module: Callable[[], LightningModule]
    data: Callable[[], Any] = images
    by_hand: Callable[[Any, ByHand], Any] = pair
    select: dict = field(default_factory=dict)  # inputs= and targets=
    is_mean: bool = True  # of losses of samples, so that each can have a weight of its own
    loader: Callable[[list], Any] = loader_of
    earlier: Callable[[], list] = list  # callbacks before the mixup
    later: Callable[[], list] = list
    trainer: dict = field(default_factory=dict)

    def mixup(self, *, per_sample=False):
        recipe = Mixup(1.0, per_sample=per_sample)
        return MixupCallback(recipe=recipe, calibration=False, seed=5, **self.select)

    def fit(self, make_trainer, batches, mixup=None, *, epochs=1, validation=None):
        """Trains a module that always begins alike."""
        torch.manual_seed(3)
        module, record = self.module(), Record(mixup)
        mixups = [] if mixup is None else [mixup]
        callbacks = [record, *self.earlier(), *mixups, *self.later()]
        trainer = make_trainer(callbacks=callbacks, max_epochs=epochs, **self.trainer)
        trainer.fit(module, self.loader(batches), validation)
        return Fitted(module, trainer, record)


def pyg_data(**entries):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it has torch script
        data = pytest.importorskip("torch_geometric.data")
    return data.Data(**entries)


def dense_graphs():
    mask = torch.arange(5) < 4
    entries = {"x": randn(5, 3), "adj": randn(5, 5).abs(), "mask": mask.expand(BATCH, 5)}
    return pyg_data(**entries, y=labels()[:, None])


def replaced(data, **entries):
    """Returns a copy of an object with other entries."""
    data = copy.copy(data)
    for name, value in entries.items():
        setattr(data, name, value)
    return data


def one_graph():
    edges = torch.stack([torch.randperm(BATCH), torch.randperm(BATCH)])
    return pyg_data(x=randn(3), edge_index=edges, y=labels(), train_mask=torch.arange(BATCH) < 5)


NO_LABELS = {"targets": None}
CASES = {
    "boring": Case(BoringModel, lambda: randn(32), lambda x, by: by.blend(x), NO_LABELS),
    "boring_by_hand": Case(
        ManualOptimBoringModel, lambda: randn(32), lambda x, by: by.blend(x), NO_LABELS
    ),
    "backbone": Case(LitClassifier),
    "autoencoder": Case(LitAutoEncoder, select=NO_LABELS),
    "gan": Case(GAN, select=NO_LABELS),
    "unet": Case(
        SemSegment,
        lambda: (randn(3, 6, 6), labels(6, 6)),
        is_mean=False,  # a mean over the pixels that are not void
    ),
    "fine_tuning": Case(
        TransferLearningModel,
        lambda: images(classes=2, channels=3),
        earlier=lambda: [MilestonesFinetuning()],
    ),
    "hydra_template": Case(MNISTLitModule),
    "shared_step": Case(SharedStep, trainer={"val_check_interval": 1}),
    "hugging_face": Case(
        ImageTransformer,
        lambda: BatchFeature(pixel_values=randn(1, 6, 6), labels=labels()),
        lambda b, by: BatchFeature(
            pixel_values=by.blend(b.pixel_values), labels=by.label(b.labels)
        ),
    ),
    "hugging_face_pop": Case(
        PopsLabels,
        lambda: {"pixel_values": randn(1, 6, 6), "labels": labels()},
        lambda b, by: {
            "pixel_values": by.blend(b["pixel_values"]),
            "labels": by.label(b["labels"]),
        },
        is_mean=False,  # a mean by weights of classes
    ),
    "bert": Case(
        BertClassifier,
        lambda: {
            "inputs_embeds": randn(5, 8),
            "attention_mask": (torch.arange(5) < labels()[:, None] + 2).long(),
            "labels": labels(),
        },
        lambda b, by: {
            **b,
            "inputs_embeds": by.blend(b["inputs_embeds"]),
            "labels": by.label(b["labels"]),
        },
        {"inputs": "inputs_embeds", "targets": "labels"},
    ),
    "tabular": Case(
        Tabular,
        lambda: {
            "continuous": randn(3),
            "categorical": F.one_hot(labels(classes=5), 5).float(),
            "target": labels(1),
            "sample_weight": torch.rand(BATCH) + 0.5,
        },
        lambda b, by: {
            "continuous": by.blend(b["continuous"]),
            "categorical": by.blend(b["categorical"]),
            "target": by.label(b["target"]),
            "sample_weight": by.label(b["sample_weight"]),
        },
        {"inputs": ["continuous", "categorical"], "targets": ["target", "sample_weight"]},
    ),
    "speech_commands": Case(
        SpeechCommands,
        lambda: (randn(1, 40), torch.full((BATCH,), 16000), labels(), ["speaker"] * BATCH),
        lambda b, by: (by.blend(b[0]), b[1], by.label(b[2]), b[3]),
        {"inputs": 0, "targets": 2},
    ),
    "ctc": Case(
        SpeechRecognition,
        lambda: Utterances(
            randn(12, 3), labels(4), torch.full((BATCH,), 12), labels(classes=3) + 2
        ),
        lambda b, by: Utterances(by.blend(b[0]), by.label(b[1]), b[2], by.label(b[3])),
        {"inputs": "spectrograms", "targets": ["labels", "label_lengths"]},
        is_mean=False,  # a mean by lengths
    ),
    "video": Case(
        VideoClassification,
        lambda: {
            "video": randn(3, 4, 5, 5),
            "label": labels(),
            "video_name": ["clip.mp4"] * BATCH,
            "video_index": torch.arange(BATCH),
            "clip_index": torch.zeros(BATCH).long(),
        },
        lambda b, by: {**b, "video": by.blend(b["video"]), "label": by.label(b["label"])},
    ),
    "dice": Case(
        BinarySegmentation,
        lambda: {"image": randn(3, 6, 6), "mask": labels(1, 6, 6, classes=2).float()},
        lambda b, by: {"image": by.blend(b["image"]), "mask": by.soft_label(b["mask"])},
    ),
    "dense_graphs": Case(
        DenseGraphs,
        dense_graphs,
        lambda b, by: replaced(b, x=by.blend(b.x), adj=by.blend(b.adj), y=by.label(b.y)),
        {"inputs": ["x", "adj"], "targets": "y"},
    ),
    "nodes": Case(
        Nodes,
        one_graph,
        lambda b, by: replaced(b, x=by.blend(b.x), y=by.label(b.y)),
        {"inputs": "x", "targets": "y"},
    ),
    "forecaster": Case(
        Forecaster,
        lambda: ({"encoder_cont": randn(6, 2), "decoder_cont": randn(3, 2)}, (randn(3), None)),
        lambda b, by: ({k: by.blend(x) for k, x in b[0].items()}, (by.blend(b[1][0]), None)),
    ),
    "multimodal": Case(
        Multimodal,
        lambda: {
            "image": randn(1, 6, 6),
            "tabular": randn(3),
            "labels": {"age": randn().abs(), "gender": labels(classes=2), "race": labels()},
        },
        lambda b, by: {
            "image": by.blend(b["image"]),
            "tabular": by.blend(b["tabular"]),
            "labels": {
                "age": by.blend(b["labels"]["age"]),
                "gender": by.label(b["labels"]["gender"]),
                "race": by.label(b["labels"]["race"]),
            },
        },
        {
            "inputs": ["image", "tabular"],
            "targets": ["labels.age", "labels.gender", "labels.race"],
        },
    ),
    "siamese": Case(
        Siamese,
        lambda: Pair(randn(1, 6, 6), randn(1, 6, 6), labels(classes=2)),
        lambda b, by: Pair(by.blend(b.anchor), by.blend(b.other), by.label(b.same)),
        {"inputs": ["anchor", "other"], "targets": "same"},
    ),
    "fixmatch": Case(
        FixMatch,
        lambda: {
            "labeled": images(),
            "unlabeled": (torch.randn(12, 1, 6, 6), torch.randn(12, 1, 6, 6)),
        },
        lambda b, by: {**b, "labeled": pair(b["labeled"], by)},
        {"inputs": "labeled.0", "targets": "labeled.1"},
        loader=of_labelled_and_unlabelled,
    ),
    "mean_teacher": Case(MeanTeacher, lambda: (randn(1, 6, 6), labels(classes=CLASSES + 1) - 1)),
    "domain_adversarial": Case(
        DomainAdversarial,
        lambda: (images(), images()),
        lambda b, by: (pair(b[0], by), (by.blend(b[1][0]), b[1][1])),
        {"inputs": ["0.0", "1.0"], "targets": "0.1"},
        loader=of_two_domains,
    ),
    "simclr": Case(
        SimCLR,
        lambda: ((randn(1, 6, 6), randn(1, 6, 6)), labels()),
        lambda b, by: ([by.blend(view) for view in b[0]], b[1]),
        {"inputs": ["0.0", "0.1"], "targets": None},
    ),
    "vae": Case(VAE, select=NO_LABELS),
    "diffusion": Case(
        Diffusion,
        lambda: {"images": randn(1, 6, 6)},
        lambda b, by: {"images": by.blend(b["images"])},
        NO_LABELS,
    ),
    "dataloader_iter": Case(FetchesItself),
    "sharpness_aware": Case(SharpnessAware),
    "metrics_in_a_dict": Case(KeepsMetricsInADict),
    "lbfgs": Case(QuasiNewton),
    "warmup": Case(Warmup),
    "accumulation": Case(
        MNISTLitModule, trainer={"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}
    ),
    "skips": Case(SkipsBadBatches),
    "augments_on_device": Case(
        AugmentsOnDevice,
        lambda: (torch.randint(256, (BATCH, 1, 6, 6), dtype=torch.uint8), labels()),
        lambda b, by: (by.blend(b[0].float()), by.label(b[1])),
    ),
    "decorated": Case(Decorated),
    "step_on_the_instance": Case(with_a_step_of_its_own),
    "partial": Case(with_a_partial),
    "averaged_weights": Case(
        SharedStep,
        later=lambda: [StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=1)],
    ),
    "wrapped_before": Case(MNISTLitModule, earlier=lambda: [Profiler()]),
    "wrapped_after": Case(MNISTLitModule, later=lambda: [Profiler()]),
    "wrapped_after_plainly": Case(MNISTLitModule, later=lambda: [Profiler(plainly_wrapped)]),
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*`dataloader_iter`"),
    pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning"),
]


@pytest.mark.filterwarnings("ignore:The batch has a train_mask")
@pytest.mark.parametrize(
    ("name", "per_sample"),
    [(name, False) for name in CASES]
    + [(name, True) for name, case in CASES.items() if case.is_mean],
    ids=lambda value: value if isinstance(value, str) else ["per_batch", "per_sample"][value],
)
def test_its_loss_is_the_mixture_and_its_metrics_are_the_dominant_labels(
    make_trainer, name, per_sample
):
    case = CASES[name]
    batch = case.data()

    def fit_plainly(by_hand):
        return case.fit(make_trainer, [case.by_hand(batch, by_hand)])

    fitted = case.fit(make_trainer, [batch], case.mixup(per_sample=per_sample))

    (mix,) = fitted.record.mixes
    swaps, shares = shares_of(mix)
    each = [fit_plainly(ByHand(mix, swapped)).losses for swapped in swaps]
    mixture = {key: combined(shares, [losses[key] for losses in each]) for key in each[0]}
    assert_close(fitted.losses, mixture, rtol=1e-4, atol=1e-5)
    assert_close(fitted.metrics, fit_plainly(Dominant(mix)).metrics)


class SeesBatches(Callback):
    """Keeps whether the batch that callbacks are given stays as it is."""

    def __init__(self):
        self.stays = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batch, self.before = batch, pickle.dumps(batch)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch is self.batch:  # which it isn't where the step fetches its own
            self.stays.append(pickle.dumps(batch) == self.before)


@pytest.mark.filterwarnings("ignore:The batch has a train_mask")
@pytest.mark.parametrize("name", CASES)
def test_it_trains_on_and_only_its_step_sees_mixed_batches(make_trainer, name):
    case = CASES[name]
    batches = [case.data() for _ in range(3)]
    before, watcher = pickle.dumps(batches), SeesBatches()
    watched = replace(case, later=lambda: [*case.later(), watcher])

    fitted = watched.fit(make_trainer, batches, case.mixup(), epochs=2)

    assert pickle.dumps(batches) == before
    assert all(watcher.stays)
    assert torch.stack(fitted.record.backwarded).isfinite().all()
    kept = [*vars(fitted.module).values(), *fitted.module.state_dict().values()]
    kept += fitted.trainer.callback_metrics.values()
    assert not any(isinstance(value, MixedTarget) for value in kept)


VALIDATED = """
    autoencoder augments_on_device backbone decorated dice fine_tuning hugging_face hydra_template
    shared_step step_on_the_instance unet warmup
"""


@pytest.mark.parametrize("name", VALIDATED.split())
def test_its_validation_is_that_of_plain_batches(make_trainer, name):
    case = CASES[name]
    batches = [case.data() for _ in range(3)]

    fitted = case.fit(make_trainer, batches, case.mixup(), validation=loader_of(batches))

    (plain,) = make_trainer().validate(fitted.module, loader_of(batches), verbose=False)
    assert plain
    logged = fitted.trainer.callback_metrics
    assert_close({key: float(logged[key]) for key in plain}, plain)
