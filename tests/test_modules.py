"""Tests of whole modules, in the styles that people publish: loss, gradient and train metrics.

Each module is trained by a Trainer, with and without mixup. Its loss must be the mixture of the
losses that its own, plain ``training_step`` gives the mixed inputs with one label or the other;
what it logs beside losses must be what that step logs for the dominant labels.
"""

import math

import numpy as np
import pytest
import torch
from lightning import LightningModule
from lightning.pytorch.demos.boring_classes import BoringModel
from oracle import ByHand, Dominant, Record, combined, shares_of
from sklearn.metrics import accuracy_score, f1_score
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.data import DataLoader
from torchmetrics import (
    Accuracy,
    ConfusionMatrix,
    F1Score,
    JaccardIndex,
    MeanAbsoluteError,
    MeanSquaredError,
    MetricCollection,
    PearsonCorrCoef,
)
from torchmetrics.classification import MultilabelAUROC, MultilabelF1Score
from torchmetrics.functional import accuracy

from lightning_mixup import MixedTarget, Mixup, MixupCallback
from lightning_mixup.batch import find_entries
from lightning_mixup.containers import get_entry, replace_entries

BATCH, FEATURES, CLASSES = 8, 6, 4

WEIGHTS = {False: "per_batch", True: "per_sample"}


def points(*shape):
    return torch.randn(BATCH, *(shape or (FEATURES,)))


def labels(*shape, classes=CLASSES):
    """Returns labels of which every class has some, whatever the shape."""
    count = BATCH * math.prod(shape)
    return torch.arange(count)[torch.randperm(count)].remainder(classes).reshape(BATCH, *shape)


class Style(LightningModule):
    """What the modules have in common."""

    lr = 0.1
    width = CLASSES  # of what `net` gives
    select = {}  # noqa: RUF012  inputs= and targets=, where the batch leaves them open
    is_mean = True  # over samples, so that each can have a weight of its own
    numbers = True  # Float targets are numbers, and are interpolated.

    def __init__(self):
        super().__init__()
        last = nn.Linear(8, self.width, bias=False)  # so that predictions vary from the start
        self.net = nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), last)

    @staticmethod
    def data():
        return points(), labels()

    def loss(self, z, y):
        return F.cross_entropy(z, y)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = self.loss(self.net(x), y)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class Pixels(Style):
    """Segmentation: a label for each pixel."""

    is_mean = False

    def __init__(self):
        super().__init__()
        last = nn.Conv2d(4, CLASSES, 1, bias=False)
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), last)

    @staticmethod
    def data():
        return points(3, 5, 5), labels(5, 5)


class Binary(Style):
    width = 1

    @staticmethod
    def data():
        return points(), labels(classes=2)


class Regression(Style):
    @staticmethod
    def data():
        return points(), torch.randn(BATCH)


# Classifiers, and what they do with labels beside the loss.


class Template(Style):
    """A step that is shared, an output that is a dict, a metric that is called."""

    def __init__(self):
        super().__init__()
        self.criterion = nn.CrossEntropyLoss()
        self.train_acc = Accuracy(task="multiclass", num_classes=CLASSES)

    def model_step(self, batch):
        x, y = batch
        logits = self.net(x)
        return self.criterion(logits, y), logits.argmax(dim=1), y

    def training_step(self, batch, batch_idx):
        loss, predictions, targets = self.model_step(batch)
        value = self.train_acc(predictions, targets)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/acc", value, on_step=False, on_epoch=True)
        return {"loss": loss, "preds": predictions, "targets": targets}


class Collection(Pixels):
    """A dict of an image and a mask, weights of classes, pixels to ignore, cloned metrics."""

    def __init__(self):
        super().__init__()
        self.criterion = nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 0.5, 3.0]), ignore_index=0)
        options = {"task": "multiclass", "num_classes": CLASSES, "ignore_index": 0}
        metrics = MetricCollection([Accuracy(**options), JaccardIndex(**options)])
        self.train_metrics = metrics.clone(prefix="train_")

    @staticmethod
    def data():
        return {"image": points(3, 5, 5), "mask": labels(5, 5)}

    def training_step(self, batch, batch_idx):
        x, y = batch["image"], batch["mask"]
        z = self.net(x)
        loss = self.criterion(z, y)
        self.log("train_loss", loss, batch_size=len(x))
        self.log("void", (y == 0).float().mean(), batch_size=len(x))
        self.train_metrics(z, y)
        self.log_dict(self.train_metrics, batch_size=len(x))
        return loss


class PerClassReport(Style):
    """A confusion matrix in the step, of which a line is logged for each class."""

    def __init__(self):
        super().__init__()
        self.confusion = ConfusionMatrix(task="multiclass", num_classes=CLASSES)
        self.f1 = F1Score(task="multiclass", num_classes=CLASSES, average="macro")

    def training_step(self, batch, batch_idx):
        x, y = batch
        z = self.net(x)
        matrix = self.confusion(z.argmax(1), y)
        recall = matrix.diag() / matrix.sum(dim=1)
        self.log_dict({f"recall_{c}": value for c, value in enumerate(recall)})
        self.f1.update(z, y)
        self.log("f1", self.f1, on_step=False, on_epoch=True)
        return F.cross_entropy(z, y, label_smoothing=0.1)


class ScikitInStep(Style):
    """Metrics of NumPy arrays, step by step and again when the epoch ends."""

    def __init__(self):
        super().__init__()
        self.outputs = []

    def training_step(self, batch, batch_idx):
        x, y = batch
        z = self.net(x)
        loss = F.cross_entropy(z, y)
        predictions = z.argmax(1).cpu()
        self.log("acc", accuracy_score(y.cpu(), predictions))
        self.log("f1", f1_score(y.cpu().numpy(), predictions.numpy(), average="macro"))
        self.log("hits", torch.sum(y == predictions).item() / (len(y) * 1.0))
        self.log("train_loss", loss.item())
        self.outputs.append({"loss": loss.detach(), "true": y.tolist(), "seen": predictions})
        return {"loss": loss, "acc": torch.sum(y == predictions).item()}

    def on_train_epoch_end(self):
        true = np.concatenate([output["true"] for output in self.outputs])
        seen = torch.cat([output["seen"] for output in self.outputs]).numpy()
        self.log("epoch_acc", accuracy_score(true, seen))
        self.outputs.clear()


class CollectedOutputs(Binary):
    """Tensors of labels, kept for a metric of the whole epoch."""

    def __init__(self):
        super().__init__()
        self.outputs = []

    def training_step(self, batch, batch_idx):
        x, y = batch
        score = self.net(x).sigmoid().squeeze(-1)
        loss = F.binary_cross_entropy(score, y.float())
        self.log_dict({"train_loss": loss.item(), "acc": ((score > 0.5) == y).float().mean()})
        self.outputs.append((score.detach().cpu(), y.cpu()))
        return loss

    def on_train_epoch_end(self):
        scores, y = (torch.cat(part) for part in zip(*self.outputs, strict=True))
        self.log("epoch_acc", accuracy(scores, y, task="binary"))
        self.log("epoch_gap", scores[y == 1].mean() - scores[y == 0].mean())
        self.outputs.clear()


class Buffers(Style):
    """One-hot labels that become indices, written with the predictions into plain tensors."""

    numbers = False

    def __init__(self):
        super().__init__()
        self.true, self.seen = torch.zeros(128), torch.zeros(128)

    @staticmethod
    def data():
        return {"image": points(), "label": F.one_hot(labels(), CLASSES).float()}

    def training_step(self, batch, batch_idx):
        z = self.net(batch["image"])
        seen, y = z.argmax(1), torch.argmax(batch["label"], dim=1)
        place = slice(batch_idx * BATCH, (batch_idx + 1) * BATCH)
        self.true[place], self.seen[place] = y, seen
        nearly = torch.sum(seen == y) + torch.sum(seen == y + 1) + torch.sum(seen == y - 1)
        self.log("nearly", nearly.float())
        return {"loss": F.cross_entropy(z, y.long()), "nearly": nearly}

    def on_train_epoch_end(self):
        self.log("true", (self.true * torch.arange(128)).sum())
        self.log("agree", (self.true == self.seen).float().mean())


class TopK(Style):
    """Accuracies by hand, without gradients and in place, of a frozen backbone with dropout."""

    def __init__(self):
        super().__init__()
        self.net.requires_grad_(requires_grad=False)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(CLASSES, CLASSES))

    @torch.no_grad()
    def accuracies(self, z, y, ks=(1, 3)):
        best = z.topk(max(ks), dim=1).indices.t()
        correct = best.eq(y.view(1, -1).expand_as(best))
        sums = [correct[:k].contiguous().view(-1).float().sum(0, keepdim=True) for k in ks]
        return [total.mul_(100.0 / len(y)) for total in sums]

    def training_step(self, batch, batch_idx):
        x, y = batch
        with torch.no_grad():
            features = self.net(x)
        z = self.head(features)
        loss = F.cross_entropy(z, y)
        top1, top3 = self.accuracies(z, y)
        self.log_dict({"train_loss": loss, "top1": top1, "top3": top3}, on_step=True)
        return loss


class CountsByImage(Pixels):
    """Hits and misses of each image by histograms, collected in tables of integers."""

    is_mean = True

    def training_step(self, batch, batch_idx):
        x, y = batch
        z = self.net(x)
        predictions = z.argmax(1)
        hits = torch.zeros(BATCH, CLASSES, dtype=torch.long)
        misses = torch.zeros(BATCH, CLASSES, dtype=torch.long)
        for i in range(BATCH):
            matched = torch.where(predictions[i] == y[i], y[i], -1).float()
            hit = torch.histc(matched, bins=CLASSES, min=0, max=CLASSES - 1)
            all_of_class = torch.histc(y[i].float(), bins=CLASSES, min=0, max=CLASSES - 1)
            hits[i], misses[i] = hit.long(), (all_of_class - hit).long()
        self.log("recall", (hits.sum(0) / (hits + misses).sum(0)).mean())
        return F.cross_entropy(z, y.long())


# Losses of class labels.


class Penalised(Style):
    """Penalties that are added in place."""

    def loss(self, z, y):
        loss = F.cross_entropy(z, y)
        penalty = torch.tensor(0.0)
        for parameter in self.parameters():
            penalty += torch.norm(parameter, 1)
        loss += 0.01 * penalty
        return loss


class BinaryHead(Binary):
    """One logit, labels in its form, a metric that turns them back."""

    def __init__(self):
        super().__init__()
        self.train_acc = Accuracy(task="binary")

    def training_step(self, batch, batch_idx):
        x, y = batch
        z = self.net(x)
        target = y.view((-1, 1)).type_as(x)
        self.log("train_acc", self.train_acc(torch.sigmoid(z), target.int()))
        return F.binary_cross_entropy_with_logits(input=z, target=target)


class Focal(Style):
    """Weights by label and by confidence, both detached."""

    def loss(self, z, y):
        alpha = torch.tensor([0.1, 0.2, 0.3, 0.4])
        log_p = F.log_softmax(z, dim=1).gather(1, y.view(-1, 1)).view(-1)
        p = log_p.detach().exp()
        return (-((1 - p) ** 2) * log_p * alpha.gather(0, y.data.view(-1))).mean()


class FocalOfTheMean(Style):
    is_mean = False

    def loss(self, z, y):
        mean = F.cross_entropy(z.squeeze(), y)
        return (1 - torch.exp(-mean)) ** 2 * mean


class MistakesOnly(Style):
    """A mean over the samples that the prediction misses."""

    is_mean = False

    def loss(self, z, y):
        wrong = (z.argmax(dim=1) != y).float()
        each = F.cross_entropy(z, y, reduction="none")
        return (each * wrong).sum() / wrong.sum().clamp(min=1)


class SmoothedByHand(Style):
    """A distribution that is written by label where there are no gradients."""

    def loss(self, z, y):
        log_p = z.log_softmax(dim=-1)
        with torch.no_grad():
            target = torch.zeros_like(log_p).fill_(0.1 / (CLASSES - 1))
            target.scatter_(1, y.data.unsqueeze(1), 0.9)
        return torch.mean(torch.sum(-target * log_p, dim=-1))


class AngularMargin(Style):
    """A head that is given the labels, and a margin for the right class."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CLASSES, CLASSES))

    def head(self, z, y):
        cosine = F.linear(F.normalize(z), F.normalize(self.weight)).clamp(-0.99, 0.99)
        shifted = cosine * math.cos(0.3) - (1 - cosine**2).sqrt() * math.sin(0.3)
        one_hot = torch.zeros_like(cosine)
        one_hot.scatter_(1, y.view(-1, 1).long(), 1)
        logits = one_hot * shifted + (1.0 - one_hot) * cosine
        logits *= 8.0
        return logits

    def loss(self, z, y):
        return F.cross_entropy(self.head(z, y), y)


class MarginByClass(Style):
    """Rare classes have wider margins: a product of one-hot labels with a vector."""

    def loss(self, z, y):
        margins = torch.tensor([0.1, 0.2, 0.3, 0.5])
        index = torch.zeros_like(z, dtype=torch.uint8).scatter_(1, y.data.view(-1, 1), 1)
        of_sample = torch.matmul(margins[None, :], index.float().transpose(0, 1)).view(-1, 1)
        return F.cross_entropy(3 * torch.where(index.bool(), z - of_sample, z), y)


class Hinge(Style):
    """Scores that are picked by label, and a write by label into the margins."""

    def loss(self, z, y):
        samples = torch.arange(len(y))
        margins = torch.clamp(z - z[samples, y].unsqueeze(1) + 1.0, min=0)
        margins[samples, y] = 0
        return margins.sum() / len(y)


class SymmetricEntropy(Style):
    """One-hot labels as rows of a unit matrix, clamped and logarithmised."""

    def loss(self, z, y):
        one_hot = torch.eye(CLASSES)[y].to(z).clamp(min=1e-4)
        reverse = -torch.sum(z.softmax(1) * torch.log(one_hot), dim=1)
        return F.cross_entropy(z, y) + 0.1 * reverse.mean()


class Ranks(Style):
    """Ordered classes: is the label above each threshold?"""

    width = CLASSES - 1

    def __init__(self):
        super().__init__()
        self.train_mae = MeanAbsoluteError()

    def training_step(self, batch, batch_idx):
        x, y = batch
        z = self.net(x)
        levels = (y.unsqueeze(1) > torch.arange(CLASSES - 1)).type_as(z)
        terms = F.logsigmoid(z) * levels + (F.logsigmoid(z) - z) * (1 - levels)
        self.train_mae.update((z > 0).sum(1), y)
        self.log("train_mae", self.train_mae, on_step=False, on_epoch=True)
        return torch.mean(-torch.sum(terms, dim=1))


class ConditionalRanks(Style):
    """Ordered classes: of those above a threshold, which are above the next?"""

    is_mean = False

    def loss(self, z, y):
        total, count = 0.0, 0
        for k in range(CLASSES - 1):
            above = y > k - 1
            target = (y[above] > k).to(torch.int64)
            if len(target) < 1:
                continue
            count += len(target)
            score = z[above, k]
            each = F.logsigmoid(score) * target + (F.logsigmoid(score) - score) * (1 - target)
            total += -each.sum()
        return total / count


class Tokens(Style):
    """A label for each word, of sentences that are filled up."""

    select = {"inputs": "embedded", "targets": "labels"}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.train_acc = Accuracy(task="multiclass", num_classes=CLASSES, ignore_index=-100)

    @staticmethod
    def data():
        lengths = torch.arange(BATCH).remainder(5) + 2
        mask = (torch.arange(7) < lengths[:, None]).long()
        return {"embedded": points(7, FEATURES), "mask": mask, "labels": labels(7)}

    def training_step(self, batch, batch_idx):
        z, active = self.net(batch["embedded"]).flatten(0, 1), batch["mask"].view(-1) == 1
        y = batch["labels"].view(-1)
        y = torch.where(active, y, torch.tensor(-100).type_as(y))
        self.train_acc(z, y)
        self.log("train_acc", self.train_acc)
        return F.cross_entropy(z, y)


class CentresAndDistillation(Style):
    """A centre for each class, and a teacher that knows no labels."""

    def __init__(self):
        super().__init__()
        self.centres = nn.Parameter(torch.randn(CLASSES, CLASSES))
        self.teacher = nn.Linear(FEATURES, CLASSES).requires_grad_(requires_grad=False)

    def training_step(self, batch, batch_idx):
        x, y = batch
        z, taught = self.net(x), self.teacher(x)
        centre_loss = (z - self.centres.index_select(0, y)).pow(2).sum() / 2.0 / len(y)
        soft = F.kl_div(z.log_softmax(1), taught.softmax(1), reduction="batchmean")
        self.log_dict({"centre_loss": centre_loss, "soft": soft})
        self.log("top1", z.argmax(1).eq(y).sum().item() / y.size(0))
        return F.cross_entropy(z, y) + 0.1 * centre_loss + 0.5 * soft


class RecallWeighted(Pixels):
    """Weights of classes that the batch itself decides, class by class."""

    def loss(self, z, y):
        predictions, weight = z.argmax(dim=1), torch.zeros(CLASSES)
        for c in range(CLASSES):
            of_class = y == c
            if of_class.sum() < 1:
                continue
            hits = ((predictions == c) & of_class).sum().float()
            weight[c] = 1 - hits / of_class.sum().float()
        return F.cross_entropy(z, y, weight=weight.detach())


class SoftJaccard(Pixels):
    """Intersection over union of each class in the batch, absent classes masked in place."""

    def loss(self, z, y):
        p = z.softmax(dim=1).flatten(2)
        target = F.one_hot(y.view(len(y), -1), CLASSES).permute(0, 2, 1).type(p.dtype)
        intersection = torch.sum(p * target, dim=(0, 2))
        union = torch.sum(p + target, dim=(0, 2)) - intersection
        loss = 1.0 - intersection / union.clamp_min(1e-7)
        loss *= (target.sum(dim=(0, 2)) > 0).to(loss.dtype)
        return loss.mean()


class Lovasz(Pixels):
    """Errors that are sorted, and a gradient that is written by differences."""

    def loss(self, z, y):
        p, y = z.softmax(1).permute(0, 2, 3, 1).reshape(-1, CLASSES), y.reshape(-1)
        losses = []
        for c in range(CLASSES):
            foreground = (y == c).float()
            if foreground.sum() == 0:
                continue
            errors, order = torch.sort((foreground - p[:, c]).abs(), descending=True)
            truth = foreground[order]
            left = truth.sum() - truth.cumsum(0)
            jaccard = 1.0 - left / (truth.sum() + (1 - truth).cumsum(0))
            jaccard[1:] = jaccard[1:] - jaccard[:-1]
            losses.append(torch.dot(errors, jaccard))
        return torch.stack(losses).mean()


class HardPixels(Pixels):
    """The worst pixels only, of those that are not void."""

    def loss(self, z, y):
        each = F.cross_entropy(z, y, ignore_index=0, reduction="none").view(-1)
        return each.topk(len(each) // 8).values.mean()


class SeveralScales(Pixels):
    """Deep supervision: labels that are resized, cross entropy and Dice of each output."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        z, loss = self.net(x), 0
        for weight, size in ((1.0, 5), (0.4, 3)):
            small = F.interpolate(y.float().unsqueeze(1), size=(size, size), mode="nearest")
            target, scores = small.squeeze(1).long(), F.adaptive_avg_pool2d(z, size)
            p, one_hot = scores.softmax(1), F.one_hot(target, CLASSES).permute(0, 3, 1, 2)
            overlap, total = (p * one_hot).sum((2, 3)), (p + one_hot).sum((2, 3))
            dice = (2 * overlap + 1) / (total + 1)
            loss = loss + weight * (F.cross_entropy(scores, target) + 1 - dice.mean())
        self.log("train_loss", loss)
        return loss


# Losses that compare samples.


class SupervisedContrast(Style):
    """Samples of one class attract each other."""

    is_mean = False

    def training_step(self, batch, batch_idx):
        x, y = batch
        z = self.net(x)
        features, y_column = F.normalize(z, dim=1), y.contiguous().view(-1, 1)
        mask = torch.eq(y_column, y_column.T).float().to(z.device)
        others = torch.scatter(torch.ones_like(mask), 1, torch.arange(len(y)).view(-1, 1), 0)
        mask = mask * others
        scores = features @ features.T / 0.5
        scores = scores - scores.max(dim=1, keepdim=True).values.detach()
        log_p = scores - torch.log((scores.exp() * others).sum(1, keepdim=True) + 1e-9)
        contrast_loss = -((mask * log_p).sum(1) / (mask.sum(1) + 1e-8)).mean()
        self.log("contrast_loss", contrast_loss)
        return F.cross_entropy(z, y) + contrast_loss


class HardTriplets(Style):
    """For each sample the farthest of its class and the nearest of another."""

    is_mean = False

    def loss(self, z, y):
        n = len(y)
        distances = torch.cdist(z, z).clamp(min=1e-12)
        same = y.expand(n, n).eq(y.expand(n, n).t())
        far = torch.stack([distances[i][same[i]].max() for i in range(n)])
        near = torch.stack([distances[i][~same[i]].min() for i in range(n)])
        return F.margin_ranking_loss(near, far, torch.ones_like(near), margin=0.3)


class Prototypes(Style):
    """Half of a batch makes a prototype of each class for the other half."""

    is_mean = False

    @staticmethod
    def data():
        return points(), torch.arange(BATCH).remainder(CLASSES)

    def training_step(self, batch, batch_idx):
        x, y = batch
        (support, query), (y_support, y_query) = self.net(x).chunk(2), y.chunk(2)
        classes, _ = torch.unique(y_support).sort()
        of_class = [support[torch.where(y_support == c)[0]].mean(dim=0) for c in classes]
        distances = (torch.stack(of_class)[None] - query[:, None]).pow(2).sum(dim=2)
        log_p = F.log_softmax(-distances, dim=1)
        target = (classes[None, :] == y_query[:, None]).long().argmax(dim=-1)
        self.log("train_loss", F.cross_entropy(log_p, target))
        return F.cross_entropy(log_p, target)


class Pairs(Binary):
    """Each positive should score higher than each negative."""

    is_mean = False

    def loss(self, z, y):
        positive, negative = z[y == 1], z[y == 0]
        return torch.relu(1 - (positive - negative.T)).mean()


# Numbers, several labels, several targets.


class Quantiles(Regression):
    def __init__(self):
        super().__init__()
        self.pearson = PearsonCorrCoef()

    def training_step(self, batch, batch_idx):
        x, y = batch
        z = self.net(x)
        losses = []
        for i, q in enumerate((0.1, 0.5, 0.9)):
            error = y - z[:, i]
            losses.append(torch.max((q - 1) * error, q * error).unsqueeze(1))
        self.pearson(z[:, 1], y)
        self.log("pearson", self.pearson, on_step=False, on_epoch=True)
        return torch.cat(losses, dim=1).sum(dim=1).mean()


class Concordance(Regression):
    """A correlation over the batch."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        z = self.net(x)[:, 0]
        covariance = ((z - z.mean()) * (y - y.mean())).mean()
        spread = z.var(unbiased=False) + y.var(unbiased=False) + (z.mean() - y.mean()) ** 2
        self.log("rmse", F.mse_loss(z, y).sqrt())
        return 1.0 - 2.0 * covariance / (spread + 1e-8)


class Ratings(Style):
    """Whole numbers as numbers, and the root of a metric."""

    width = 1

    def __init__(self):
        super().__init__()
        self.mse = MeanSquaredError()

    def training_step(self, batch, batch_idx):
        x, rating = batch
        z, y = self.net(x).flatten(), rating.float()
        self.log("train/rmse", torch.sqrt(self.mse(z, y)))
        return F.mse_loss(z, y)


class Survival(Style):
    """Two targets that belong together: the batch is sorted by the time of the event."""

    select = {"inputs": 0, "targets": [1, 2]}  # noqa: RUF012
    is_mean = False

    @staticmethod
    def data():
        return points(), labels(classes=2), torch.randperm(100)[:BATCH]

    def training_step(self, batch, batch_idx):
        x, event, time = batch
        order = torch.argsort(time, descending=True)
        risk, event = self.net(x)[order, 0], event[order]
        log_total = torch.log(torch.cumsum(torch.exp(risk), dim=0))
        return -torch.sum(event * (risk - log_total)) / len(event)


class MultiLabel(Style):
    def __init__(self):
        super().__init__()
        self.criterion = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0, 3.0, 4.0]))
        self.f1, self.auroc = MultilabelF1Score(CLASSES), MultilabelAUROC(CLASSES)

    @staticmethod
    def data():
        return points(), labels(CLASSES, classes=2)

    def training_step(self, batch, batch_idx):
        x, y = batch
        z = self.net(x)
        p = torch.sigmoid(z)
        self.f1(p, y)
        self.auroc.update(p, y.int())
        self.log("f1", self.f1, on_step=True, on_epoch=True)
        self.log("auroc", self.auroc, on_step=False, on_epoch=True)
        return self.criterion(z, y.float())


class Tagging(Style):
    """A waveform in, probabilities of tags out, dicts all along."""

    select = {"inputs": "mixture", "targets": "tags"}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        pooled = nn.Sequential(nn.Conv1d(1, 4, 9, stride=4), nn.AdaptiveAvgPool1d(1))
        self.net = nn.Sequential(pooled, nn.Flatten(), nn.Linear(4, CLASSES), nn.Sigmoid())

    @staticmethod
    def data():
        return {"mixture": points(1, 64), "tags": labels(CLASSES, classes=2).float()}

    def training_step(self, batch, batch_idx):
        output, target = {"p": self.net(batch["mixture"])}, {"p": batch["tags"]}
        losses = {"bce": F.binary_cross_entropy(output["p"], target["p"])}
        losses["l1"] = F.l1_loss(output["p"], target["p"])
        for name, value in losses.items():
            self.log(f"step/{name}", value.item())
        return losses["bce"] + losses["l1"]


class Asymmetric(MultiLabel):
    """Gradients that are switched off and on again in the middle of a loss."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        p = self.net(x).sigmoid()
        negative = (1 - p + 0.05).clamp(max=1)
        loss = y * torch.log(p.clamp(min=1e-8)) + (1 - y) * torch.log(negative.clamp(min=1e-8))
        torch.set_grad_enabled(False)
        weight = torch.pow(1 - p * y - negative * (1 - y), 1 * y + 4 * (1 - y))
        torch.set_grad_enabled(True)
        loss *= weight
        return -loss.sum()


class Heads(Style):
    """A dict of targets, one of them a number, and uncertainties that are learnt."""

    select = {"inputs": "image", "targets": ["y.colour", "y.size", "y.price"]}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        widths = {"colour": 3, "size": CLASSES, "price": 1}
        self.heads = nn.ModuleDict({k: nn.Linear(CLASSES, n) for k, n in widths.items()})
        self.log_vars = nn.Parameter(torch.zeros(3))

    @staticmethod
    def data():
        y = {"colour": labels(classes=3), "size": labels(), "price": torch.randn(BATCH)}
        return {"image": points(), "y": y}

    def training_step(self, batch, batch_idx):
        features, total = self.net(batch["image"]), 0
        for i, (name, head) in enumerate(self.heads.items()):
            z, y = head(features), batch["y"][name]
            if name == "price":
                loss = F.smooth_l1_loss(z.squeeze(1), y)
            else:
                loss = F.cross_entropy(z, y)
                options = {"task": "multiclass", "num_classes": z.shape[1], "average": "macro"}
                self.log(f"{name}_acc", accuracy(z, y, **options))
            self.log(f"{name}_loss", loss)
            total += torch.exp(-self.log_vars[i]) * loss + self.log_vars[i]
        return total


# Optimisation by hand; no labels at all.


class BalancedByHand(Binary):
    """Weights that the batch itself decides, an optimiser that is stepped every other time."""

    is_mean = False

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        x, y = batch
        z = self.net(x).squeeze(-1)
        negative, positive = torch.sum(y) / len(y), torch.sum(y == 0) / len(y)
        largest = torch.max(negative, positive)
        weight = torch.where(y == 0, negative / largest, positive / largest)
        loss = F.binary_cross_entropy_with_logits(z, y.float(), weight=weight)
        loss /= 2
        optimizer = self.optimizers()
        self.manual_backward(loss)
        self.clip_gradients(optimizer, gradient_clip_val=10.0, gradient_clip_algorithm="norm")
        if batch_idx % 2:
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            self.log("acc", ((z > 0) == y).float().mean())
        self.log("train_loss", loss)
        return loss


class Closure(Style):
    """An optimiser that computes the loss as often as it likes."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=self.lr, max_iter=2)

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer, values = self.optimizers(), []

        def closure():
            loss = F.cross_entropy(self.net(x), y)
            optimizer.zero_grad()
            self.manual_backward(loss)
            values.append(loss.item())
            return loss

        loss = optimizer.step(closure)
        self.log("train_loss", values[0])
        return {"loss": loss}


class Unlabelled(BoringModel):
    """Lightning's own demo: a batch that is one tensor."""

    lr = 0.1
    select = {"targets": None}  # noqa: RUF012
    is_mean = numbers = True

    @staticmethod
    def data():
        return points(32)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


STYLES = [
    Template,
    Collection,
    PerClassReport,
    ScikitInStep,
    CollectedOutputs,
    Buffers,
    TopK,
    CountsByImage,
    Penalised,
    BinaryHead,
    Focal,
    FocalOfTheMean,
    MistakesOnly,
    SmoothedByHand,
    AngularMargin,
    MarginByClass,
    Hinge,
    SymmetricEntropy,
    Ranks,
    ConditionalRanks,
    Tokens,
    CentresAndDistillation,
    RecallWeighted,
    SoftJaccard,
    Lovasz,
    HardPixels,
    SeveralScales,
    SupervisedContrast,
    HardTriplets,
    Prototypes,
    Pairs,
    Quantiles,
    Concordance,
    Ratings,
    Survival,
    MultiLabel,
    Tagging,
    Asymmetric,
    Heads,
    BalancedByHand,
    Closure,
    Unlabelled,
]
MEANS = [style for style in STYLES if style.is_mean]
COMPARING = [ConditionalRanks, Lovasz, SupervisedContrast, HardTriplets, Prototypes, Pairs]
by_name = pytest.mark.parametrize("style", STYLES, ids=lambda style: style.__name__)


# The oracle: plain steps on batches that are mixed by hand.


def fit(make_trainer, style, batches, *, mixup=None, lr=0.1, epochs=1):
    """Trains a module that always begins alike; returns its record, its trainer and itself."""
    torch.manual_seed(3)
    module = style()
    module.lr = lr
    record = Record(mixup)
    callbacks = [record] if mixup is None else [record, mixup]
    trainer = make_trainer(callbacks=callbacks, max_epochs=epochs)
    trainer.fit(module, DataLoader(batches, batch_size=None))
    return record, trainer, module


def mixup_for(style, *, per_sample=False):
    recipe = Mixup(1.0, per_sample=per_sample)
    return MixupCallback(recipe=recipe, calibration=False, seed=1, **style.select)


def mixed_by_hand(style, batch, by_hand):
    """Returns a plain batch: mixed inputs, and the partner's label where it says so."""
    entries = find_entries(batch, **{"inputs": "auto", "targets": "auto", **style.select})

    def label(y):
        number = style.numbers and y.is_floating_point()
        return by_hand.blend(y) if number else by_hand.label(y)

    changed = {path: by_hand.blend(get_entry(batch, path)) for path in entries.inputs}
    changed |= {path: label(get_entry(batch, path)) for path in entries.targets}
    return replace_entries(batch, changed)


@pytest.mark.parametrize(
    ("style", "per_sample"),
    [(style, False) for style in STYLES] + [(style, True) for style in MEANS],
    ids=lambda value: value.__name__ if isinstance(value, type) else WEIGHTS[value],
)
def test_a_modules_loss_is_the_mixture_and_its_metrics_are_the_dominant_labels(
    make_trainer, style, per_sample
):
    batch = style.data()
    mixup = mixup_for(style, per_sample=per_sample)

    record, trainer, _ = fit(make_trainer, style, [batch], mixup=mixup)

    (mix,) = record.mixes
    swaps, shares = shares_of(mix)
    by_hand = [mixed_by_hand(style, batch, ByHand(mix, swapped)) for swapped in swaps]
    each, _, _ = fit(make_trainer, style, by_hand, lr=0.0)
    dominant = mixed_by_hand(style, batch, Dominant(mix))
    _, plain, _ = fit(make_trainer, style, [dominant])
    loss = combined(shares, each.losses)
    assert_close(record.losses[0].double(), loss, rtol=1e-5, atol=1e-5)
    for key, value in record.logged[0].items():
        expected = combined(shares, [logged[key] for logged in each.logged])
        assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)
    metrics = {k: v for k, v in plain.callback_metrics.items() if "loss" not in k}
    assert_close({k: trainer.callback_metrics[k] for k in metrics}, metrics)
    if trainer.lightning_module.automatic_optimization:
        gradients = [combined(shares, parts) for parts in zip(*each.gradients, strict=True)]
        actual = [gradient.double() for gradient in record.gradients[0]]
        assert_close(actual, gradients, rtol=1e-4, atol=1e-5)


@by_name
def test_a_module_trains_on_and_keeps_nothing_that_is_mixed(make_trainer, style):
    batches = [style.data() for _ in range(3)]

    record, trainer, module = fit(make_trainer, style, batches, mixup=mixup_for(style), epochs=2)

    assert len(record.losses) == 6
    assert all(type(loss) is torch.Tensor and loss.isfinite() for loss in record.losses)
    kept = [*vars(module).values(), *module.state_dict().values()]
    kept += trainer.callback_metrics.values()
    assert not any(isinstance(value, MixedTarget) for value in kept)


@pytest.mark.parametrize("style", COMPARING, ids=lambda style: style.__name__)
def test_a_loss_that_compares_samples_asks_for_one_weight_per_batch(make_trainer, style):
    mixup = mixup_for(style, per_sample=True)

    with pytest.raises(RuntimeError, match="With one weight per batch, per_sample=False"):
        fit(make_trainer, style, [style.data()], mixup=mixup)
