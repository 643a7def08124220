"""Tests for lightning_mixup.monitor on validation steps as others write them.

Each step is either read, and its figures are then those of an oracle: float64 NumPy on the
module's own logits of the whole validation set at once. Or it is declined in words. There is no
third outcome, as a wrong figure is worse than none.
"""

import warnings

import numpy as np
import pytest
import torch
from lightning import LightningModule
from torch import nn
from torch.nn import functional as F
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from lightning_mixup import CalibrationMonitor, MixupCallback

# Of a step that fetches its own batches, Lightning warns whatever it does.
pytestmark = pytest.mark.filterwarnings("ignore:.*`dataloader_iter`")

SIZE, BATCH, FEATURES, CLASSES = 37, 10, 6, 4  # the last batch is a short one


def oracle(logits, labels):
    """Returns the figures of logits (N, C) and labels (N,), one by one as their papers say."""
    logits, labels = logits.detach().double().numpy(), labels.numpy()
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    p = shifted / shifted.sum(1, keepdims=True)
    confidence, correct = p.max(1), p.argmax(1) == labels
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = [abs((correct[bins == b] - confidence[bins == b]).sum()) for b in range(15)]
    own = p[np.arange(len(labels)), labels]
    return {
        "accuracy": correct.mean(),
        "ece": sum(gaps) / len(labels),
        "confidence_gap": confidence.mean() - correct.mean(),
        "nll": -np.log(own).mean(),
        "brier": ((p - np.eye(p.shape[1])[labels]) ** 2).sum(1).mean(),
    }


def two_columns(logits):
    """Returns binary logits as those of two classes."""
    flat = logits.reshape(-1, 1)
    return torch.cat([torch.zeros_like(flat), flat], dim=1)


class Style(LightningModule):
    """A classifier of rows; the styles change its step, its data or what is true of them."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(FEATURES, CLASSES)
        self.aux = nn.Linear(FEATURES, CLASSES)
        nn.init.normal_(self.net.weight, std=1.5)

    def forward(self, x):
        return self.net(x)

    def data(self):
        return torch.randn(SIZE, FEATURES), torch.randint(CLASSES, (SIZE,))

    def truth(self, x, y):
        """Returns the logits and labels of all samples."""
        return self.net(x), y

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", self.loss(self(x), y))

    def loss(self, logits, y):
        return F.cross_entropy(logits, y)


def loader_of(*columns):
    """Returns a loader of what the columns hold."""
    columns = [column.split(BATCH) for column in columns]
    return DataLoader(list(zip(*columns, strict=True)), batch_size=None)


def run(make_trainer, module, monitor, stage="validate"):
    """Returns what is logged of the module's data, and the data."""
    data = module.data()
    trainer = make_trainer(callbacks=[monitor])
    getattr(trainer, stage)(module, module.loader(*data), verbose=False)
    return trainer.callback_metrics, data


Style.loader = staticmethod(loader_of)


# Steps that are read.


class Plain(Style):
    pass


class Criterion(Style):
    def __init__(self):
        super().__init__()
        self.criterion = nn.CrossEntropyLoss()

    def loss(self, logits, y):
        return self.criterion(logits, y)


class ImportedFunction(Style):
    def loss(self, logits, y):
        return cross_entropy(logits, y)


class ByKeyword(Style):
    def loss(self, logits, y):
        return F.cross_entropy(target=y, input=logits)


class LogSoftmaxAndNll(Style):
    def loss(self, logits, y):
        return F.nll_loss(F.log_softmax(logits, dim=1), y)


class SoftmaxLogAndNll(Style):
    def loss(self, logits, y):
        return F.nll_loss(logits.softmax(1).log(), y)


class LabelSmoothing(Style):
    def loss(self, logits, y):
        return F.cross_entropy(logits, y, label_smoothing=0.1)


class ClassWeights(Style):
    def loss(self, logits, y):
        return F.cross_entropy(logits, y, torch.tensor([1.0, 2.0, 3.0, 0.5]))


class Focal(Style):
    def loss(self, logits, y):
        ce = F.cross_entropy(logits, y, reduction="none")
        return ((1 - (-ce).exp()) ** 2 * ce).mean()


class Temperature(Style):
    def loss(self, logits, y):
        return F.cross_entropy(logits / 2.5, y)

    def truth(self, x, y):
        return self.net(x) / 2.5, y


class ShiftedLabels(Style):
    """Labels that count from one."""

    def loss(self, logits, y):
        return F.cross_entropy(logits, y - 1)

    def data(self):
        x, y = super().data()
        return x, y + 1

    def truth(self, x, y):
        return self.net(x), y - 1


class IgnoredClass(Style):
    def loss(self, logits, y):
        return nn.CrossEntropyLoss(ignore_index=0)(logits, y)

    def truth(self, x, y):
        return self.net(x)[y != 0], y[y != 0]


class MaskedSubset(Style):
    def loss(self, logits, y):
        return F.cross_entropy(logits[y > 1], y[y > 1])

    def truth(self, x, y):
        return self.net(x)[y > 1], y[y > 1]


class OneHot(Style):
    def loss(self, logits, y):
        return F.cross_entropy(logits, F.one_hot(y, CLASSES).float())


class OneHotInData(Style):
    def data(self):
        x, y = super().data()
        return x, F.one_hot(y, CLASSES).double()

    def loss(self, logits, y):
        return F.cross_entropy(logits.double(), y)

    def truth(self, x, y):
        return self.net(x), y.argmax(1)


class LoggedTwice(Style):
    """The same loss for each sample, and its mean."""

    def loss(self, logits, y):
        F.cross_entropy(logits, y, reduction="none").max()
        return F.cross_entropy(logits, y)


class Distillation(Style):
    def loss(self, logits, y):
        teacher = self.aux(torch.ones(len(y), FEATURES)).softmax(1)
        return F.cross_entropy(logits, y) + F.kl_div(
            logits.log_softmax(1), teacher, reduction="sum"
        )


class BoxesToo(Style):
    def loss(self, logits, y):
        return F.cross_entropy(logits, y) + F.smooth_l1_loss(logits[:, 0], y.float())


class Chunks(Style):
    """Micro-batches of one batch, to save memory."""

    def validation_step(self, batch, batch_idx):
        x, y = batch
        for part, labels in zip(x.split(4), y.split(4), strict=True):
            F.cross_entropy(self(part), labels)


class MainHeadIsNamed(Style):
    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        loss = F.cross_entropy(self.aux(x), y) + F.cross_entropy(logits, y)
        return {"loss": loss, "logits": logits}


class ContrastiveToo(Style):
    """The labels of its second loss are places in the batch."""

    def loss(self, logits, y):
        pairs = F.cross_entropy(logits @ logits.T, torch.arange(len(y)))
        return F.cross_entropy(logits, y) + pairs


class HuggingFace(Style):
    """The network computes the loss, and returns it with the logits."""

    def forward(self, x, labels=None):
        logits = self.net(x)
        return {"loss": nn.CrossEntropyLoss()(logits.view(-1, CLASSES), labels), "logits": logits}

    def validation_step(self, batch, batch_idx):
        out = self(batch[0], labels=batch[1])
        self.log("val_loss", out["loss"])
        return out


class InItsParent(Plain):
    def validation_step(self, batch, batch_idx):
        return super().validation_step(batch, batch_idx)


class LossOfAHelper(Style):
    def validation_step(self, batch, batch_idx):
        return self.shared_step(batch)

    def shared_step(self, batch):
        x, y = batch
        return F.cross_entropy(self.forward(x), y)


class DictBatch(Style):
    def loader(self, x, y):
        parts = zip(x.split(BATCH), y.split(BATCH), strict=True)
        return DataLoader([{"image": a, "label": b} for a, b in parts], batch_size=None)

    def validation_step(self, batch, batch_idx):
        F.cross_entropy(self(batch["image"]), batch["label"])


class FetchesItself(Style):
    def validation_step(self, dataloader_iter):
        (x, y), _, _ = next(dataloader_iter)
        F.cross_entropy(self(x), y)


class MeanOfViews(Style):
    """Test-time augmentation: the mean of the probabilities."""

    def probabilities(self, x):
        return (self.net(x).softmax(1) + self.net(-x).softmax(1)) / 2

    def validation_step(self, batch, batch_idx):
        x, y = batch
        F.nll_loss(self.probabilities(x).log(), y)

    def truth(self, x, y):
        return self.probabilities(x).log(), y


class Sequence(Style):
    """A class for each token, some of which are padding."""

    def data(self):
        return torch.randn(SIZE, 5, FEATURES), torch.randint(CLASSES, (SIZE, 5))

    def validation_step(self, batch, batch_idx):
        x, y = batch
        y = y.masked_fill(x[..., 0] > 1, -100)
        F.cross_entropy(self(x).view(-1, CLASSES), y.view(-1))

    def truth(self, x, y):
        kept = x[..., 0] <= 1
        return self.net(x)[kept], y[kept]


class Segmentation(Style):
    """(B, C, H, W), and pixels that are not labelled."""

    def data(self):
        y = torch.randint(CLASSES, (SIZE, 3, 2))
        y[:, 0, 0] = 255
        return torch.randn(SIZE, 3, 2, FEATURES), y

    def forward(self, x):
        return self.net(x).movedim(-1, 1)

    def loss(self, logits, y):
        return F.cross_entropy(logits, y, None, None, 255)

    def truth(self, x, y):
        return self.net(x)[y != 255], y[y != 255]


class HalfPrecision(Style):
    def loss(self, logits, y):
        return F.cross_entropy(logits.bfloat16(), y)

    def truth(self, x, y):
        return self.net(x).bfloat16(), y


class CompiledNet(Style):
    def __init__(self):
        super().__init__()
        self.fast = torch.compile(self.net, backend="eager")

    def forward(self, x):
        return self.fast(x)


class CompiledLoss(Style):
    def __init__(self):
        super().__init__()
        self.fast = torch.compile(F.cross_entropy, backend="eager")

    def loss(self, logits, y):
        return self.fast(logits, y)


class ScriptedNet(Style):
    def forward(self, x):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.jit.trace(self.net, x)(x)


class Binary(Style):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(FEATURES, 1)

    def data(self):
        return torch.randn(SIZE, FEATURES), torch.randint(2, (SIZE,))

    def loss(self, logits, y):
        return F.binary_cross_entropy_with_logits(logits.squeeze(1), y.float())

    def truth(self, x, y):
        return two_columns(self.net(x)), y


class BinaryColumn(Binary):
    def loss(self, logits, y):
        return nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0))(logits, y.float()[:, None])


class BinaryProbabilities(Binary):
    def loss(self, logits, y):
        return nn.BCELoss()(logits.sigmoid(), y.float().unsqueeze(1))


class BinaryFocal(Binary):
    def loss(self, logits, y):
        each = F.binary_cross_entropy_with_logits(logits[:, 0], y.float(), reduction="none")
        return ((1 - (-each).exp()) ** 2 * each).mean()


class BinaryMasks(Binary):
    """(B, 1, H, W)."""

    def data(self):
        return torch.randn(SIZE, 3, 2, FEATURES), torch.randint(2, (SIZE, 1, 3, 2)).float()

    def forward(self, x):
        return self.net(x).movedim(-1, 1)

    def loss(self, logits, y):
        return F.binary_cross_entropy_with_logits(logits, y)

    def truth(self, x, y):
        return two_columns(self(x)), y.long().flatten()


class TwoOfSoftmax(Binary):
    """A binary problem with two columns."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(FEATURES, 2)

    def loss(self, logits, y):
        return F.cross_entropy(logits, y)

    def truth(self, x, y):
        return self.net(x), y


class WrittenLabels(Style):
    """Labels that the step writes into a tensor it has made, from those of the batch."""

    def loss(self, logits, y):
        labels = torch.zeros_like(y)
        labels[y > 1] = 1
        return F.cross_entropy(logits, labels)

    def truth(self, x, y):
        return self.net(x), (y > 1).long()


class FocalOfItsAuthors(Binary):
    """As torchvision has it: factors of labels and of probabilities that saturate."""

    def __init__(self):
        super().__init__()
        nn.init.normal_(self.net.weight, std=9.0)

    def loss(self, logits, y):
        logits, y = logits[:, 0], y.float()
        p = logits.sigmoid()
        ce = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
        p_t = p * y + (1 - p) * (1 - y)
        return ((0.25 * y + 0.75 * (1 - y)) * (ce * (1 - p_t) ** 2)).mean()


class HardExamples(Style):
    def loss(self, logits, y):
        return F.cross_entropy(logits, y, reduction="none").topk(3)[0].mean()


class SampleWeights(Style):
    def loss(self, logits, y):
        return (F.cross_entropy(logits, y, reduction="none") * (1 + y)).mean()


class MasksOfAllOnes(Style):
    def loss(self, logits, y):
        each, mask = F.cross_entropy(logits, y, reduction="none"), y >= 0
        return (each * mask)[mask].masked_fill(~mask, 0).sum() / mask.sum()


class OneHotArgmax(Style):
    def data(self):
        x, y = super().data()
        return x, F.one_hot(y, CLASSES).float()

    def loss(self, logits, y):
        return F.cross_entropy(logits, y.argmax(1))

    def truth(self, x, y):
        return self.net(x), y.argmax(1)


class LabelsInAList(Style):
    """That the collate function left as they were, and are made a tensor in the step."""

    def loader(self, x, y):
        parts = zip(x.split(BATCH), y.split(BATCH), strict=True)
        return DataLoader([{"x": a, "y": b.tolist()} for a, b in parts], batch_size=None)

    def validation_step(self, batch, batch_idx):
        F.cross_entropy(self(batch["x"]), torch.tensor(batch["y"]).to(self.device))


class BinaryMasksSqueezed(BinaryMasks):
    """(B, H, W), as the masks of most datasets are."""

    def data(self):
        x, y = super().data()
        return x, y.squeeze(1)

    def loss(self, logits, y):
        return F.binary_cross_entropy_with_logits(logits.squeeze(1).float(), y)


class BinaryMasksFlat(BinaryMasksSqueezed):
    def loss(self, logits, y):
        return F.binary_cross_entropy_with_logits(logits.flatten(), y.flatten())


class PaddedNll(Style):
    """Whose padding has zeros for log-probabilities."""

    def data(self):
        kept = torch.rand(SIZE, 5) > 0.5
        y = torch.randint(CLASSES, (SIZE, 5)).masked_fill(~kept, -100)
        return torch.randn(SIZE, 5, FEATURES), y

    def loss(self, logits, y):
        given = logits.log_softmax(-1) * (y >= 0)[..., None]
        return F.nll_loss(given.view(-1, CLASSES), y.view(-1))

    def truth(self, x, y):
        return self.net(x)[y >= 0], y[y >= 0]


class NextToken(Style):
    """Whose targets are several times as many as there are samples."""

    def data(self):
        return torch.randn(SIZE, 5, FEATURES), torch.randint(CLASSES, (SIZE, 5))

    def loss(self, logits, y):
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), y[:, 1:].flatten())

    def truth(self, x, y):
        return self.net(x)[:, :-1].flatten(0, 1), y[:, 1:].flatten()


class TwoForms(Style):
    """Of one loss."""

    def loss(self, logits, y):
        F.cross_entropy(logits.double(), y)
        return F.cross_entropy(logits, y) + F.nll_loss(logits.log_softmax(1), y)


class CalledTwice(Style):
    def validation_step(self, batch, batch_idx):
        x, y = batch
        F.cross_entropy(self(x), y)
        F.cross_entropy(self(x), y)


class LogitsByName(Style):
    """The same up to what a softmax or a temperature leaves as it is."""

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        if batch_idx:
            return {"loss": F.nll_loss(logits.log_softmax(1), y), "logits": logits.bfloat16()}
        return {"loss": F.nll_loss((3 * logits / 3).log_softmax(1), y), "logits": logits}


class SparseAfterwards(Style):
    """Tensors without a storage are written to when the loss is done."""

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        loss = F.cross_entropy(logits, y)
        torch.eye(3).to_sparse().mul_(2)
        torch.func.vmap(lambda row: row.clone().add_(1).sum())(logits)
        torch.nested.nested_tensor([logits[0], logits[1, :2]], layout=torch.jagged).mul_(2)
        return {"loss": loss, "logits": logits.to_sparse()}


class TriesALoss(Style):
    """That raises, and is none."""

    def loss(self, logits, y):
        with pytest.raises(RuntimeError):
            F.cross_entropy(logits, y.half())
        return F.cross_entropy(logits, y)


class NothingInTheMasks(BinaryMasksFlat):
    """And a label of the image, which is then the same for all pixels."""

    def data(self):
        x, y = super().data()
        return x, y * (torch.arange(SIZE) >= BATCH)[:, None, None], torch.zeros(SIZE)

    def loader(self, x, y, label):
        return loader_of(x, y, label)

    def validation_step(self, batch, batch_idx):
        x, y, _ = batch
        self.loss(self(x), y)

    def truth(self, x, y, label):
        return super().truth(x, y)


class EmptyFirst(Style):
    def loader(self, x, y):
        parts = zip(x.split(BATCH), y.split(BATCH), strict=True)
        return DataLoader([(x[:0], y[:0]), *parts], batch_size=None)


READ = [
    FocalOfItsAuthors, HardExamples, SampleWeights, MasksOfAllOnes, OneHotArgmax,
    BinaryMasksSqueezed, BinaryMasksFlat, PaddedNll, NextToken, TwoForms, CalledTwice,
    LabelsInAList, NothingInTheMasks, LogitsByName, SparseAfterwards, TriesALoss, EmptyFirst,
    Plain, Criterion, ImportedFunction, ByKeyword, LogSoftmaxAndNll, SoftmaxLogAndNll,
    LabelSmoothing, ClassWeights, Focal, Temperature, ShiftedLabels, IgnoredClass, MaskedSubset,
    OneHot, OneHotInData, LoggedTwice, Distillation, BoxesToo, Chunks, MainHeadIsNamed,
    ContrastiveToo, HuggingFace, InItsParent, LossOfAHelper, DictBatch, FetchesItself, MeanOfViews,
    Sequence, Segmentation, HalfPrecision, CompiledNet, CompiledLoss, ScriptedNet, Binary,
    BinaryColumn, BinaryProbabilities, BinaryFocal, BinaryMasks, TwoOfSoftmax, WrittenLabels,
]  # fmt: skip


@pytest.mark.parametrize("style", READ)
def test_the_figures_are_those_of_the_modules_own_logits(make_trainer, style):
    module = style()

    logged, data = run(make_trainer, module, CalibrationMonitor())

    for figure, expected in oracle(*module.truth(*data)).items():
        assert float(logged[f"val_{figure}"]) == pytest.approx(expected, abs=1e-6), figure


class OnlyTests(Style):
    validation_step = LightningModule.validation_step

    def test_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch[1])


class ValidatesToTest(Style):
    def test_step(self, batch, batch_idx):
        return self.validation_step(batch, batch_idx)


@pytest.mark.parametrize("style", [OnlyTests, ValidatesToTest])
def test_the_figures_of_a_test_are_those_of_its_own_step(make_trainer, style):
    module = style()

    logged, data = run(make_trainer, module, CalibrationMonitor(), "test")

    for figure, expected in oracle(*module.truth(*data)).items():
        assert float(logged[f"test_{figure}"]) == pytest.approx(expected, abs=1e-6), figure


def test_a_step_that_is_compiled_as_a_whole_is_read(make_trainer):
    module = LossOfAHelper()
    module.validation_step = torch.compile(module.validation_step, backend="eager", fullgraph=True)

    logged, data = run(make_trainer, module, CalibrationMonitor())

    for figure, expected in oracle(*module.truth(*data)).items():
        assert float(logged[f"val_{figure}"]) == pytest.approx(expected, abs=1e-6), figure


# Steps that are declined.


class Regression(Style):
    def loss(self, logits, y):
        return F.mse_loss(logits[:, 0], y.float())


class Hinge(Style):
    def loss(self, logits, y):
        return F.multi_margin_loss(logits, y)


class HingeToo(Style):
    def validation_step(self, batch, batch_idx):
        x, y = batch
        F.multi_margin_loss(self(x), y) + F.cross_entropy(self.aux(x), y)


class SoftLabels(Style):
    def loss(self, logits, y):
        return F.cross_entropy(logits, F.one_hot(y, CLASSES) * 0.9 + 0.025)


class SoftBinary(Binary):
    def loss(self, logits, y):
        return F.binary_cross_entropy_with_logits(logits[:, 0], y * 0.9)


class SoftOnceInAWhile(Style):
    """From the second batch on, so that the first can't tell."""

    def validation_step(self, batch, batch_idx):
        x, y = batch
        F.cross_entropy(self(x), F.one_hot(y, CLASSES) * (1 - 0.1 * batch_idx))


class MultiLabel(Style):
    def loss(self, logits, y):
        return F.binary_cross_entropy_with_logits(logits, F.one_hot(y, CLASSES).float())


class MultiLabelToo(Style):
    """Which of the two is meant?"""

    def loss(self, logits, y):
        labels = F.one_hot(y, CLASSES).float()
        return F.cross_entropy(logits[:, :3], y % 3) + F.binary_cross_entropy_with_logits(
            logits, labels
        )


class AuxiliaryHead(Style):
    def validation_step(self, batch, batch_idx):
        x, y = batch
        F.cross_entropy(self(x), y) + 0.4 * F.cross_entropy(self.aux(x), y)


class AuxiliaryHeadFirst(Style):
    def validation_step(self, batch, batch_idx):
        x, y = batch
        0.4 * F.cross_entropy(self.aux(x), y) + F.cross_entropy(self(x), y)


class TwoTasks(Style):
    """Columns of one tensor of labels."""

    def data(self):
        return torch.randn(SIZE, FEATURES), torch.randint(CLASSES, (SIZE, 2))

    def validation_step(self, batch, batch_idx):
        x, y = batch
        F.cross_entropy(self(x), y[:, 0]) + F.cross_entropy(self.aux(x), y[:, 1])


class TwoTasksInRows(Style):
    """One behind the other in memory, as the chunks of a batch are."""

    def validation_step(self, batch, batch_idx):
        x, y = batch
        F.cross_entropy(self(x), y[0]) + F.cross_entropy(self.aux(x), y[1])

    def data(self):
        return torch.randn(SIZE, FEATURES), torch.randint(CLASSES, (SIZE, 2))

    def loader(self, x, y):
        parts = zip(x.split(BATCH), y.split(BATCH), strict=True)
        return DataLoader([(a, b.T.contiguous()) for a, b in parts], batch_size=None)


class SomeChunks(Style):
    """Leaves out a part of the batch."""

    def validation_step(self, batch, batch_idx):
        x, y = batch
        F.cross_entropy(self(x[:2]), y[:2]) + F.cross_entropy(self(x[2:4]), y[2:4])


class LossOfEachView(Style):
    def validation_step(self, batch, batch_idx):
        x, y = batch
        F.cross_entropy(self(x), y) + F.cross_entropy(self(-x), y)


class TeacherAndStudent(Style):
    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("teacher_loss", F.cross_entropy(self.aux(x), y))
        self.log("val_loss", F.cross_entropy(self(x), y))


class OnlyAMetric(Style):
    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_acc", (self(x).softmax(1).argmax(1) == y).float().mean())


class AtTheEnd(Style):
    def validation_step(self, batch, batch_idx):
        self.kept = (self(batch[0]), batch[1])

    def on_validation_epoch_end(self):
        self.log("val_loss", F.cross_entropy(*self.kept))


class ByHand(Style):
    def loss(self, logits, y):
        return -logits.log_softmax(1).gather(1, y[:, None]).mean()


with warnings.catch_warnings():
    warnings.simplefilter("ignore")

    @torch.jit.script
    def scripted_loss(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits, y)


class ScriptedLoss(Style):
    def loss(self, logits, y):
        return scripted_loss(logits, y)


class LoopOverSamples(Style):
    def validation_step(self, batch, batch_idx):
        for x, y in zip(*batch, strict=True):
            F.cross_entropy(self(x), y)


class SampleBySample(Style):
    def validation_step(self, batch, batch_idx):
        torch.func.vmap(lambda x, y: F.cross_entropy(self.net(x), y))(*batch)


class Contrastive(Style):
    def loss(self, logits, y):
        return F.cross_entropy(logits @ logits.T, torch.arange(len(y)))


class MomentumContrast(Style):
    def loss(self, logits, y):
        return F.cross_entropy(logits, torch.zeros(len(y)).long())


class RealOrFake(Binary):
    def loss(self, logits, y):
        label = torch.zeros_like(logits)
        label[:2] = 1
        return F.binary_cross_entropy_with_logits(logits, label)


class SoftmaxTwice(Style):
    def loss(self, logits, y):
        return F.cross_entropy(logits.softmax(1), y)


class SigmoidTwice(Binary):
    def loss(self, logits, y):
        return F.binary_cross_entropy_with_logits(logits.sigmoid(), y.float()[:, None])


class NllOfLogits(Style):
    def loss(self, logits, y):
        return F.nll_loss(logits, y)


class NllOverTheBatch(Style):
    def loss(self, logits, y):
        return F.nll_loss(logits.log_softmax(0), y)


class ChangedAfterwards(Style):
    def loss(self, logits, y):
        loss = F.cross_entropy(logits, y)
        logits.mul_(100)
        return loss


class LabelsChangedAfterwards(Style):
    def loss(self, logits, y):
        loss = F.cross_entropy(logits, y)
        y[0] = 0
        return loss


class ClassesOfTheBatch(Style):
    """Whose number is that of the samples."""

    def loss(self, logits, y):
        return F.cross_entropy(logits @ logits.T, y % len(y))


class SkipsABatch(Style):
    def validation_step(self, batch, batch_idx):
        if batch_idx != 1:
            super().validation_step(batch, batch_idx)


class RunsItselfTwice(Style):
    def validation_step(self, batch, batch_idx, again=True):
        super().validation_step(batch, batch_idx)
        if again:
            self.validation_step([-batch[0], batch[1]], batch_idx, again=False)


class Masked(Style):
    """Padding of class 0, whose loss is masked."""

    def loss(self, logits, y):
        mask = (y != 0).float()
        return (F.cross_entropy(logits, y, reduction="none") * mask).sum() / mask.sum()


class MaskedInPlace(Style):
    def loss(self, logits, y):
        return F.cross_entropy(logits, y, reduction="none").mul_(y != 0).mean()


class MaskedByADot(Style):
    def loss(self, logits, y):
        return F.cross_entropy(logits, y, reduction="none") @ (y != 0).float()


class MaskedByIndex(Style):
    def loss(self, logits, y):
        return F.cross_entropy(logits, y, reduction="none").view(-1, 1)[y != 0].mean()


class MaskedByWhere(Style):
    def loss(self, logits, y):
        return torch.where(y != 0, F.cross_entropy(logits, y, reduction="none"), 0).mean()


class MaskedByFill(Style):
    def loss(self, logits, y):
        return F.cross_entropy(logits, y, reduction="none").masked_fill(y == 0, 0).mean()


class MaskedByWriting(Style):
    def loss(self, logits, y):
        each = F.cross_entropy(logits, y, reduction="none")
        each[y == 0] = 0
        return each.mean()


class MaskedByWeight(Binary):
    def loss(self, logits, y):
        mask = torch.arange(len(y)) > 2
        return F.binary_cross_entropy_with_logits(logits[:, 0], y.float(), weight=mask.float())


class ClassWithoutWeight(Style):
    def loss(self, logits, y):
        return F.cross_entropy(logits, y, torch.tensor([0.0, 1.0, 1.0, 1.0]))


class SoftmaxOfANet(Style):
    """Which is compiled, or viewed and cast as those of a segmentation are."""

    def __init__(self):
        super().__init__()
        self.fast = torch.compile(nn.Sequential(self.net, nn.Softmax(1)), backend="eager")

    def forward(self, x):
        return self.fast(x)


class SoftmaxAfterwards(Style):
    def loss(self, logits, y):
        return F.cross_entropy(logits.bfloat16().softmax(1).float().clamp(1e-7, 1)[y >= 0], y)


class SoftmaxOfViews(Style):
    def loss(self, logits, y):
        return F.cross_entropy((logits.softmax(1) + (2 * logits).softmax(1)) / 2, y)


class SoftmaxAfterNothing(EmptyFirst):
    def loss(self, logits, y):
        return F.cross_entropy(logits.softmax(1), y)


class SigmoidAfterwards(Binary):
    def loss(self, logits, y):
        given = logits.sigmoid().clamp(1e-6, 1 - 1e-6).squeeze()
        return F.binary_cross_entropy_with_logits(given, y.float())


class SigmoidInPlace(Binary):
    def loss(self, logits, y):
        return F.binary_cross_entropy_with_logits(logits.sigmoid_()[:, 0], y.float())


class SpecialExpit(Binary):
    def loss(self, logits, y):
        return F.binary_cross_entropy_with_logits(torch.special.expit(logits)[:, 0], y.float())


class PseudoLabels(Style):
    def loss(self, logits, y):
        return F.cross_entropy(logits, logits.softmax(1).argmax(1))


class SurePseudoLabels(Style):
    def loss(self, logits, y):
        sure, labels = self.aux(torch.ones(len(y), FEATURES)).softmax(1).max(1)
        return F.cross_entropy(logits, torch.where(sure > 0.1, labels, -100))


class RandomLabels(Style):
    def loss(self, logits, y):
        return F.cross_entropy(logits, torch.randint(CLASSES, (len(y),)))


class ShuffledPlaces(Style):
    def loss(self, logits, y):
        return F.cross_entropy(F.pad(logits @ logits.T, (0, 3)), torch.randperm(len(y)))


class ListedPlaces(Style):
    def loss(self, logits, y):
        return F.cross_entropy(logits, torch.tensor([i % CLASSES for i in range(len(y))]))


class ViewsInOneLoss(Style):
    def validation_step(self, batch, batch_idx):
        x, y = batch
        F.cross_entropy(self(torch.cat([x, -x])), torch.cat([y, y]))


class CropsInOneLoss(Style):
    def validation_step(self, batch, batch_idx):
        x, y = batch
        crops = torch.stack([x, -x, x / 2], 1)
        F.cross_entropy(self(crops).flatten(0, 1), y.repeat_interleave(3))


class MarginInTheLoss(Style):
    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        loss = F.cross_entropy(logits - 3 * F.one_hot(y, CLASSES), y)
        return {"loss": loss, "logits": logits}


class MultiLabelFlat(Style):
    def loss(self, logits, y):
        labels = F.one_hot(y, CLASSES).float()
        return F.binary_cross_entropy_with_logits(logits.view(-1), labels.view(-1))


class MultiLabelInTheLastDimension(Style):
    def loss(self, logits, y):
        labels = F.one_hot(y, CLASSES).float()
        return F.binary_cross_entropy_with_logits(logits[:, None], labels[:, None])


class MultiLabelTokens(Style):
    """(B, T, K) is no (B, H, W)."""

    def data(self):
        y = torch.randint(2, (SIZE, 3, CLASSES)).float()
        return torch.randn(SIZE, 3, FEATURES), y

    def loss(self, logits, y):
        return F.binary_cross_entropy_with_logits(logits, y)


class NllOfLogitsAfterNothing(EmptyFirst):
    def loss(self, logits, y):
        return F.nll_loss(logits, y)


_MASK = "entries of a loss with reduction='none' are left out afterwards"
_MANY = "the targets of cross_entropy hold every label several times"

DECLINED = {
    **dict.fromkeys(
        [
            *(Masked, MaskedInPlace, MaskedByADot, MaskedByIndex, MaskedByWhere, MaskedByFill),
            MaskedByWriting,
        ],
        _MASK,
    ),
    MaskedByWeight: "the weight of binary_cross_entropy_with_logits holds zeros",
    ClassWithoutWeight: "a class has the weight 0 in cross_entropy",
    **dict.fromkeys(
        [SoftmaxOfANet, SoftmaxAfterwards, SoftmaxOfViews, SoftmaxAfterNothing],
        "cross_entropy is given the output of a softmax",
    ),
    **dict.fromkeys(
        [SigmoidAfterwards, SigmoidInPlace, SpecialExpit], "is given the output of a sigmoid"
    ),
    PseudoLabels: "made in the step, by argmax",
    SurePseudoLabels: "made in the step, by max",
    RandomLabels: "made in the step, by randint",
    ShuffledPlaces: "made in the step, by randperm",
    ListedPlaces: "made in the step, by tensor",
    ViewsInOneLoss: _MANY,
    CropsInOneLoss: _MANY,
    MarginInTheLoss: r"other logits than outputs\['logits'\]",
    MultiLabelFlat: "multi-label",
    MultiLabelInTheLastDimension: "multi-label",
    MultiLabelTokens: "multi-label",
    NllOfLogitsAfterNothing: "nll_loss is given no log-probabilities over the classes",
    Regression: "mse_loss is not a loss of classes",
    Hinge: "multi_margin_loss says nothing of probabilities",
    HingeToo: "1 classification losses, .* and 1 more that can't be read",
    SoftLabels: "the targets of cross_entropy are soft",
    SoftBinary: "the targets of binary_cross_entropy_with_logits are soft",
    SoftOnceInAWhile: "the targets of its loss are soft in some batches",
    MultiLabel: "the targets of binary_cross_entropy_with_logits are multi-label",
    MultiLabelToo: r"1 classification losses, of inputs of the shapes \(10, 3\) and 1 more",
    AuxiliaryHead: r"2 classification losses, of inputs of the shapes \(10, 4\), \(10, 4\)",
    AuxiliaryHeadFirst: "2 classification losses",
    TwoTasks: "2 classification losses",
    TwoTasksInRows: "2 classification losses",
    SomeChunks: "2 classification losses",
    LossOfEachView: "2 classification losses",
    TeacherAndStudent: "2 classification losses",
    OnlyAMetric: "no loss was seen in it",
    AtTheEnd: "no loss was seen in it",
    ByHand: "no loss was seen in it",
    ScriptedLoss: "no loss was seen in it",
    LoopOverSamples: "10 classification losses",
    SampleBySample: "cross_entropy is computed inside of torch.func",
    Contrastive: "the labels of cross_entropy are made in the step",
    MomentumContrast: "the labels of cross_entropy are made in the step",
    RealOrFake: "the labels of binary_cross_entropy_with_logits are made in the step",
    SoftmaxTwice: "cross_entropy is given the output of a softmax",
    SigmoidTwice: "binary_cross_entropy_with_logits is given the output of a sigmoid",
    NllOfLogits: "nll_loss is given no log-probabilities over the classes",
    NllOverTheBatch: "nll_loss is given no log-probabilities over the classes",
    ChangedAfterwards: "changed in place",
    LabelsChangedAfterwards: "changed in place",
    ClassesOfTheBatch: "of 10 classes in one and 7 classes in another",
    SkipsABatch: "no loss was seen in it",
    RunsItselfTwice: "2 classification losses",
}


@pytest.mark.parametrize("style", DECLINED)
def test_who_asks_for_figures_that_there_are_none_of_is_told_by_an_error(make_trainer, style):
    words = rf"has no logits and class labels .*{DECLINED[style]}.*logits_fn="

    with pytest.raises(RuntimeError, match=words):
        run(make_trainer, style(), CalibrationMonitor())


@pytest.mark.parametrize("style", DECLINED)
def test_with_mixup_alone_it_is_one_warning_and_no_figure(make_trainer, style):
    with pytest.warns(UserWarning, match=DECLINED[style]) as warned:
        logged, _ = run(make_trainer, style(), MixupCallback())

    assert len([each for each in warned if "CalibrationMonitor" in str(each.message)]) == 1
    ours = [f"val_{name}" for name in ("accuracy", "ece", "confidence_gap", "nll", "brier")]
    assert all(logged[key].isnan() for key in ours if key in logged)


@pytest.mark.parametrize("style", [AuxiliaryHead, OnlyAMetric, ByHand, MultiLabel])
def test_the_way_out_that_the_message_names_works(make_trainer, style):
    monitor = CalibrationMonitor(
        logits_fn=lambda module, batch, outputs: (module(batch[0]), batch[1])
    )
    module = style()

    logged, data = run(make_trainer, module, monitor)

    assert float(logged["val_ece"]) == pytest.approx(oracle(*module.truth(*data))["ece"])
