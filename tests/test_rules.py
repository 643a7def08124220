"""Tests for lightning_mixup.rules: losses and metrics as people write them by hand."""

import copy
import types

import numpy as np
import pytest
import torch
import torchmetrics
from mixing_by_hand import (
    BATCH,
    CLASSES,
    assert_mixture,
    candidates_of,
    dominant,
    draw_weights,
)
from sklearn.metrics import accuracy_score
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint
from torchmetrics import classification
from torchmetrics.functional import accuracy

from lightning_mixup import MixedTarget, merge
from lightning_mixup.targets import Usage

WEIGHTS = pytest.mark.parametrize("per_sample", [False, True], ids=["per_batch", "per_sample"])
CLASS_WEIGHT = torch.tensor([0.5, 1.0, 3.0, 0.1], dtype=torch.float64)
CENTERS = torch.arange(16.0, dtype=torch.float64).reshape(CLASSES, CLASSES).sin()


def labels(*shape):
    return torch.randint(0, CLASSES, shape or (BATCH,))


def make_target(y, *, per_sample, usage=None):
    """Returns a mixed target and its dominant labels."""
    candidates, weights = candidates_of(y), draw_weights(per_sample=per_sample)
    return MixedTarget(candidates, weights, usage), dominant(candidates, weights)


# Losses. Each is a mean over samples, and nonlinear ones are among them.


def no_reduction(x, y):
    return F.cross_entropy(x, y, reduction="none")


def one_hot_by_scatter(x, y):
    return torch.zeros_like(x).scatter_(1, y[:, None], 1.0)


def one_hot_by_index(x, y):
    one_hot = torch.zeros_like(x)
    one_hot[torch.arange(len(y)), y] = 1
    return one_hot


def one_hot_by_list(x, y):
    one_hot = torch.zeros_like(x)
    one_hot[range(len(y)), y] = 1
    return one_hot


def one_hot_row_by_row(x, y):
    one_hot = torch.zeros_like(x)
    for i in range(len(y)):
        one_hot[i, y[i]] = 1
    return one_hot


ONE_HOTS = {
    "one_hot": lambda x, y: F.one_hot(y, CLASSES),
    "scatter_": one_hot_by_scatter,
    "scatter": lambda x, y: torch.zeros_like(x).scatter(1, y.unsqueeze(1), 1.0),
    "torch.scatter": lambda x, y: torch.scatter(torch.zeros_like(x), 1, y.view(-1, 1), 1.0),
    "scatter_add": lambda x, y: torch.zeros_like(x).scatter_add(
        1, y[:, None], torch.ones_like(x[:, :1])
    ),
    "arange and label": one_hot_by_index,
    "range and label": one_hot_by_list,
    "row by row": one_hot_row_by_row,
    "index_put_": lambda x, y: torch.zeros_like(x).index_put_(
        (torch.arange(len(y)), y), x.new_tensor(1.0)
    ),
    "eye": lambda x, y: torch.eye(CLASSES).to(x)[y],
    "eye.index_select": lambda x, y: torch.eye(CLASSES).to(x).index_select(0, y),
    "compared with arange": lambda x, y: (y.unsqueeze(1) == torch.arange(CLASSES)).to(x),
    "stacked": lambda x, y: torch.stack([y == c for c in range(CLASSES)], dim=1).type_as(x),
    "joined": lambda x, y: torch.cat([(y == c)[:, None] for c in range(CLASSES)], dim=-1).float(),
    "masked by columns": lambda x, y: torch.zeros_like(x).masked_fill_(
        y[:, None] == torch.arange(CLASSES), 1
    ),
}


@WEIGHTS
@pytest.mark.parametrize("one_hot", ONE_HOTS.values(), ids=ONE_HOTS)
def test_one_hot_labels_of_any_making_give_the_mixture(one_hot, per_sample):
    def loss(x, y):
        probability = (one_hot(x, y) * x.softmax(1)).sum(1)
        return (-((1 - probability) ** 2) * probability.log()).mean()

    assert_mixture(loss, labels(), per_sample=per_sample)


def focal_of_loss(x, y):
    nll = no_reduction(x, y)
    return ((1 - torch.exp(-nll)) ** 2 * nll).mean()


def focal_of_gather(x, y):
    log_p = x.log_softmax(1).gather(1, y.view(-1, 1)).view(-1)
    return (-((1 - log_p.exp()) ** 2) * log_p).mean()


def binary_focal(x, y):
    z, t = x[:, 0], (y > 1).float()
    p = torch.sigmoid(z)
    p_t = p * t + (1 - p) * (1 - t)
    nll = F.binary_cross_entropy_with_logits(z, t.to(z), reduction="none")
    return ((0.25 * t + 0.75 * (1 - t)) * nll * (1 - p_t) ** 2).mean()


def class_by_class(x, y):
    total = 0.0
    for c in range(CLASSES):
        is_c = y == c
        total = total + (is_c * -x.log_softmax(1)[:, c]).sum() * (c + 1)
    return total / len(y)


def sample_by_sample(x, y):
    total = 0
    for logits, label in zip(x, y, strict=True):
        total = total - logits.log_softmax(0)[label] * CLASS_WEIGHT[label]
    return total / len(y)


def collected(x, y):
    losses = [-x[i].log_softmax(0)[y[i]] * CLASS_WEIGHT[y[i]] for i in range(len(y))]
    return torch.stack(losses).mean()


def into_a_buffer(x, y):
    losses = torch.zeros(len(y)).to(x)
    for i in range(len(y)):
        losses[i] = F.cross_entropy(x[i], y[i]) - x[i, y[i]] ** 2
    return losses.mean()


def masked_into_a_buffer(x, y):
    losses, easy, hard = torch.zeros(len(y)).to(x), x[:, 0] > 0, x[:, 0] <= 0
    losses[easy] = no_reduction(x[easy], y[easy])
    losses[hard] = no_reduction(x[hard], y[hard]) * CLASS_WEIGHT[y[hard]]
    return losses.mean()


def ldam(x, y):
    margin = CLASS_WEIGHT[y].view(-1, 1)
    own = F.one_hot(y, CLASSES).bool()
    return F.cross_entropy(3 * torch.where(own, x - margin, x), y)


def ldam_of_its_authors(x, y):
    index = torch.zeros_like(x, dtype=torch.uint8)
    index.scatter_(1, y.data.view(-1, 1), 1)
    index_float = index.type(torch.DoubleTensor)
    batch_m = torch.matmul(CLASS_WEIGHT[None, :], index_float.transpose(0, 1))
    batch_m = batch_m.view((-1, 1))
    x_m = x - batch_m
    return F.cross_entropy(3 * torch.where(index.bool(), x_m, x), y)


def class_balanced(x, y):
    one_hot = F.one_hot(y, CLASSES).double()
    weights = CLASS_WEIGHT.unsqueeze(0).repeat(one_hot.shape[0], 1) * one_hot
    weights = weights.sum(1).unsqueeze(1).repeat(1, CLASSES)
    return F.binary_cross_entropy_with_logits(x, one_hot, weight=weights)


def arcface(x, y):
    cosine = F.normalize(x) @ F.normalize(CENTERS).T
    one_hot = torch.zeros_like(cosine).scatter_(1, y.view(-1, 1).long(), 1)
    phi = cosine * 0.8 - torch.sqrt(1.001 - cosine**2) * 0.6
    return F.cross_entropy((one_hot * phi + (1.0 - one_hot) * cosine) * 5, y)


def margin_in_place(x, y):
    z = 1.0 * x
    z[torch.arange(len(y)), y] -= 0.5
    return F.cross_entropy(z, y)


def margin_subtracted(x, y):
    z = 1.0 * x
    z -= 0.3 * F.one_hot(y, CLASSES)
    return F.cross_entropy(z, y)


def ignoring(x, y):
    y = y.clone()
    y[y == 2] = -100
    return F.cross_entropy(x, y, reduction="sum") / len(y)


def from_one(x, y):
    y = y + 1
    y -= 1
    y[y == CLASSES - 1] = -100
    return no_reduction(x, y).mean()


def where_ignored(x, y):
    y = torch.where(y == 3, torch.full_like(y, -1), y)
    return F.cross_entropy(x, y, reduction="none", ignore_index=-1).mean()


def by_parts(x, y):
    pairs = zip(x.split(5), y.split(5), strict=True)
    return sum(F.cross_entropy(a, b, reduction="sum") for a, b in pairs) / len(y)


def reordered(x, y):
    order = torch.arange(len(y)).flip(0)
    weight = CLASS_WEIGHT[y[order]]
    return (F.cross_entropy(x[order], y[order], reduction="none") * weight).mean()


def rejoined(x, y):
    easy, losses = x[:, 0] > 0, no_reduction(x, y)
    return torch.cat([losses[easy], 2 * losses[~easy]]).sum() / len(y)


HAND_WRITTEN = {
    "gather": lambda x, y: -x.log_softmax(1).gather(1, y[:, None]).squeeze(1).mean(),
    "take_along_dim": lambda x, y: -torch.take_along_dim(x.log_softmax(1), y[:, None], 1).mean(),
    "range index": lambda x, y: -x.log_softmax(1)[range(len(y)), y].mean(),
    "arange index": lambda x, y: -x.log_softmax(1)[torch.arange(len(y)), y].mean(),
    "focal of the loss": focal_of_loss,
    "focal of gather": focal_of_gather,
    "binary focal": binary_focal,
    "generalised": lambda x, y: ((1 - x.softmax(1)[range(len(y)), y] ** 0.7) / 0.7).mean(),
    "hinge": lambda x, y: F.relu(1 - (2 * F.one_hot(y, CLASSES) - 1) * x).sum(1).mean(),
    "poly-1": lambda x, y: (
        no_reduction(x, y) + 1 - (F.one_hot(y, CLASSES) * x.softmax(-1)).sum(-1)
    ).mean(),
    "class weight": lambda x, y: (CLASS_WEIGHT[y] * no_reduction(x, y)).mean(),
    "class weight selected": lambda x, y: (
        CLASS_WEIGHT.index_select(0, y) * no_reduction(x, y)
    ).mean(),
    "where": lambda x, y: torch.where(y == 2, no_reduction(x, y), x[:, 0] ** 2).mean(),
    "class by class": class_by_class,
    "sample by sample": sample_by_sample,
    "collected": collected,
    "into a buffer": into_a_buffer,
    "masked into a buffer": masked_into_a_buffer,
    "ldam": ldam,
    "ldam of its authors": ldam_of_its_authors,
    "class-balanced": class_balanced,
    "costs": lambda x, y: (
        ((F.one_hot(y, CLASSES).double() @ CENTERS) * x.softmax(1)).sum(1).mean()
    ),
    "class weight by product": lambda x, y: (
        (F.one_hot(y, CLASSES).double() @ CLASS_WEIGHT) * no_reduction(x, y)
    ).mean(),
    "arcface": arcface,
    "margin in place": margin_in_place,
    "margin subtracted": margin_subtracted,
    "center": lambda x, y: ((x - CENTERS[y]) ** 2).sum(dim=1).mean(),
    "center distance": lambda x, y: (x - CENTERS[y]).norm(dim=1).mean(),
    "ignoring": ignoring,
    "labels from one": from_one,
    "where ignored": where_ignored,
    "by parts": by_parts,
    "reordered": reordered,
    "rejoined": rejoined,
    "twice the batch": lambda x, y: F.cross_entropy(torch.cat([x, x**2]), torch.cat([y, y])),
    "viewed": lambda x, y: F.cross_entropy(x.view(-1, CLASSES), y.view(-1, 1).squeeze(-1).long()),
    "max": lambda x, y: (torch.max(y.to(x), x.new_full((1,), 1.5)) * x[:, 0].exp()).mean(),
    "ordinal": lambda x, y: F.binary_cross_entropy_with_logits(
        x, (y[:, None] > torch.arange(CLASSES)).to(x)
    ),
    "squared error": lambda x, y: ((x[:, 0] - y.float()) ** 2).mean(),
    "kept dimension": lambda x, y: (
        -((F.one_hot(y, CLASSES) * x.softmax(1)).sum(1, keepdim=True).log()).mean()
    ),
    "center by column": lambda x, y: ((x[:, 0] - CENTERS[y, 1]) ** 2).mean(),
    "center by row": lambda x, y: ((x[:, 0] - CENTERS.T[1, y]) ** 2).mean(),
    "all columns": lambda x, y: ((x - CENTERS[y, :]) ** 2).mean(),
    "entries of log p": lambda x, y: -x.log_softmax(1)[torch.arange(len(y)), y].sum() / len(y),
    "lerp": lambda x, y: (no_reduction(x, y) * 0.9 - 0.1 * x.log_softmax(1).mean(dim=1)).mean(),
}


@WEIGHTS
@pytest.mark.parametrize("loss", HAND_WRITTEN.values(), ids=HAND_WRITTEN)
def test_a_loss_written_by_hand_is_the_mixture(loss, per_sample):
    assert_mixture(loss, labels(), per_sample=per_sample)


@WEIGHTS
@pytest.mark.parametrize("loss", [focal_of_gather, arcface, sample_by_sample, into_a_buffer])
def test_three_candidates_are_mixed_alike(loss, per_sample):
    assert_mixture(loss, labels(), per_sample=per_sample, count=3)


@WEIGHTS
@pytest.mark.parametrize(
    "loss", [focal_of_gather, binary_focal, arcface, margin_in_place, class_by_class, reordered]
)
def test_a_loss_takes_nothing_from_the_device(loss, per_sample, monkeypatch):
    """On the meta device there is nothing that could be taken."""
    monkeypatch.setitem(globals(), "CLASS_WEIGHT", CLASS_WEIGHT.to("meta"))
    monkeypatch.setitem(globals(), "CENTERS", CENTERS.to("meta"))
    x = torch.randn(BATCH, CLASSES, device="meta", dtype=torch.float64, requires_grad=True)
    y = torch.zeros(BATCH, device="meta", dtype=torch.long)
    weights = torch.rand((2, BATCH) if per_sample else 2, device="meta")

    loss(x, MixedTarget([y, y], weights)).backward()

    assert x.grad.device.type == "meta"


# Losses of the whole batch, which stay mixed until the step returns them.


def focal_of_mean(x, y):
    ce = F.cross_entropy(x, y)
    return (1 - (-ce).exp()) ** 2 * ce


def mean_where_wrong(x, y):
    wrong = (x.argmax(1) != y).float()
    return (no_reduction(x, y) * wrong).sum() / wrong.sum()


def mean_by_counts(x, y):
    positive = (y == 1).double()
    return (x[:, 0] * positive).sum() / positive.sum() - (x[:, 1] * positive).mean() ** 2


def dice_of_the_batch(x, y):
    p, t = x.softmax(1), F.one_hot(y, CLASSES).to(x)
    return 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)


def wrong_by_class_count(x, y):
    weight = 1 / (torch.bincount(y[x.argmax(1) != y], minlength=CLASSES) + 1.0)
    return (weight.to(x)[y] * no_reduction(x, y)).mean()


OF_THE_BATCH = {
    "focal of the mean": focal_of_mean,
    "mean over wrong predictions": mean_where_wrong,
    "mean over one class": mean_by_counts,
    "Dice": dice_of_the_batch,
    "weights of counted labels": wrong_by_class_count,
    "root": lambda x, y: F.cross_entropy(x, y).sqrt(),
    "flooding": lambda x, y: (F.cross_entropy(x, y) - 1.5).abs() + 1.5,
    "in place": lambda x, y: F.cross_entropy(x, y).mul_(0.5).pow(2),
    "two of them": lambda x, y: F.cross_entropy(x, y) * F.multi_margin_loss(x, y),
    "a list": lambda x, y: torch.stack([F.cross_entropy(x, y), x.mean()]).prod(),
    "a branch": lambda x, y: torch.where(y.sum() > 0, F.cross_entropy(x, y), x.sum()),
    "clamped": lambda x, y: torch.clamp(F.cross_entropy(x, y), max=1.6) ** 2,
}


@pytest.mark.parametrize("loss", OF_THE_BATCH.values(), ids=OF_THE_BATCH)
def test_a_function_of_the_whole_batch_is_the_mixture_for_one_weight(loss):
    assert_mixture(loss, labels(), per_sample=False)


def mixed_loss():
    x = torch.randn(BATCH, CLASSES, dtype=torch.float64, requires_grad=True)
    target, _ = make_target(labels(), per_sample=False)
    return x, F.cross_entropy(x, target)


@pytest.mark.parametrize(
    "read",
    [
        lambda loss: loss.item(),
        lambda loss: float(loss.detach()),
        lambda loss: loss.detach().cpu().numpy(),
        lambda loss: torch.isclose(loss, merge(loss)).item() * merge(loss).item(),
        lambda loss: float(f"{loss:.17f}"),
        lambda loss: torch.zeros((), dtype=torch.float64).add_(loss.detach()).item(),
        lambda loss: torch.zeros(1, dtype=torch.float64).add_(loss.detach()).item(),
    ],
    ids=["item", "float", "numpy", "isclose", "format", "total", "total (1,)"],
)
def test_a_loss_of_the_batch_reads_as_the_merged_one(read):
    _, loss = mixed_loss()

    assert read(loss) == pytest.approx(merge(loss).item(), rel=1e-15)


@pytest.mark.parametrize("limit", [-0.01, 0.01])
def test_a_branch_on_a_loss_asks_the_merged_one(limit):
    _, loss = mixed_loss()
    value = merge(loss).item()

    assert bool(loss > value + limit) == (limit < 0)
    assert not torch.isnan(loss)
    assert torch.isfinite(loss).all()


@pytest.mark.parametrize(
    "differentiate",
    [
        lambda loss, x: loss.backward() or x.grad,
        lambda loss, x: torch.autograd.backward(loss) or x.grad,
        lambda loss, x: torch.autograd.backward([loss]) or x.grad,
        lambda loss, x: torch.autograd.grad(loss, x)[0],
        lambda loss, x: torch.autograd.grad(loss, x, create_graph=True)[0],
    ],
    ids=["backward", "autograd.backward", "autograd.backward of a list", "grad", "create_graph"],
)
def test_a_loss_of_the_batch_is_differentiated_like_a_plain_one(differentiate):
    x, loss = mixed_loss()
    expected = torch.autograd.grad(merge(loss), x, retain_graph=True)[0]

    assert_close(differentiate(loss, x), expected)


def test_losses_of_two_batches_add_up_as_numbers():
    (_, one), (_, other) = mixed_loss(), mixed_loss()
    expected = merge(one) + merge(other)

    total = one + other

    assert type(total) is torch.Tensor
    assert type(one) is type(other) is MixedTarget
    assert_close(total, expected)


def test_a_merged_count_may_be_given_by_keyword():
    target, _ = make_target(labels(), per_sample=True)
    losses, count = no_reduction(torch.randn(BATCH, CLASSES), target), (target == 1).sum()

    assert_close(merge(torch.div(losses, other=count)), merge(losses / count))
    assert (losses[0] / count).dtype is losses.dtype


def test_the_type_of_a_merged_count_is_plain():
    target, best = make_target(labels(), per_sample=True)

    assert (target == best).sum().type() == "torch.LongTensor"


def test_a_loss_of_another_batch_is_added_in_place():
    (_, one), (_, other) = mixed_loss(), mixed_loss()
    total = one.detach()
    expected = merge(total) + merge(other).detach()

    total.add_(other.detach())

    assert_close(merge(2 * total), 2 * expected)


def test_a_variable_of_nothing_is_still_empty():
    assert torch.autograd.Variable().shape == (0,)


def test_losses_of_single_samples_add_up_in_place():
    target, _ = make_target(labels(), per_sample=True)
    losses = no_reduction(torch.randn(BATCH, CLASSES, dtype=torch.float64), target)

    total = losses[0].clone()
    for i in range(1, BATCH):
        total += losses[i]

    assert_close(merge(2 * total), 2 * merge(losses).sum())


def test_a_running_total_and_a_counter_stay_plain():
    _, loss = mixed_loss()
    target, best = make_target(labels(), per_sample=False)
    total, hits = torch.zeros(()), torch.zeros(1, dtype=torch.long)

    total += loss.detach()
    hits += (target == best).sum()

    assert type(total) is type(hits) is torch.Tensor
    assert hits.item() == BATCH


def test_a_kept_loss_is_plain_when_the_step_is_over():
    x, usage = torch.randn(BATCH, CLASSES), Usage()
    target, _ = make_target(labels(), per_sample=False, usage=usage)
    running = 0.9 * torch.tensor(1.0) + 0.1 * F.cross_entropy(x, target)
    expected = merge(running)

    usage.end()

    assert type(running) is torch.Tensor
    assert_close(running, expected)


def test_what_was_written_to_by_label_is_plain_when_the_step_is_over():
    usage = Usage()
    target, best = make_target(labels(), per_sample=False, usage=usage)
    confusion = torch.zeros(CLASSES, CLASSES)

    confusion[best, target] += 1
    usage.end()

    assert type(confusion) is torch.Tensor
    assert_close(confusion, (F.one_hot(best, CLASSES).sum(0) > 0).float().diag())


# Labels that are read as numbers.


def differing_target(usage):
    return MixedTarget(
        [torch.tensor([0, 1, 2]), torch.tensor([1, 1, 0])], torch.tensor([0.6, 0.4]), usage
    )


@pytest.mark.parametrize(
    "read",
    [
        lambda y: y.tolist(),
        lambda y: y[0].item(),
        lambda y: y.cpu().numpy(),
        lambda y: np.asarray(y),
        lambda y: np.unique(y),
        lambda y: int(y[2]),
        lambda y: bool(y[0] == 1),
        lambda y: [10, 20, 30][y[2]],
        lambda y: len(torch.zeros(3)[y == 1]),
    ],
    ids=["tolist", "item", "numpy", "asarray", "unique", "int", "branch", "index", "length"],
)
def test_reading_labels_as_numbers_is_noticed_where_it_happens(read):
    usage = Usage()

    read(differing_target(usage))

    _, file, line = usage.read_as
    assert file == read.__code__.co_filename == __file__
    assert line == read.__code__.co_firstlineno


def test_the_first_reading_is_the_one_remembered():
    usage = Usage()
    target = differing_target(usage)

    target.tolist()
    target[0].item()

    assert usage.read_as[0] == "tolist"


@pytest.mark.parametrize(
    "read",
    [
        lambda y: y[1].item(),
        lambda y: (y == torch.tensor([0, 0, 0])).sum().item(),
        lambda y: y.shape[0] + len(y) + y.numel(),
        lambda y: bool((y >= 0).all()),
        lambda y: f"{y}",
        lambda y: accuracy(torch.tensor([0, 1, 1]), y, task="multiclass", num_classes=3),
        lambda y: F.cross_entropy(torch.randn(3, 3), y).item(),
        lambda y: y[:2].max().item(),
    ],
    ids=["alike", "matches", "shape", "all alike", "print", "metric", "loss", "maximum"],
)
def test_reading_what_labels_agree_on_or_what_counts_them_is_no_news(read):
    usage = Usage()

    read(differing_target(usage))

    assert usage.read_as is None


def test_reading_labels_as_numbers_is_refused_in_a_module_that_can_be_named():
    class Loss(nn.Module):
        def forward(self, y):
            return y.tolist()

    with pytest.raises(RuntimeError, match=r"reads labels as numbers.*loss='criterion'"):
        Loss()(differing_target(Usage()))


def test_an_operation_that_some_label_alone_does_not_survive_is_refused():
    target, x = differing_target(Usage()), torch.randn(3, requires_grad=True)

    with pytest.raises(RuntimeError, match=r"works for the dominant label, but not for another"):
        x[target == 1] * torch.ones(3)  # which broadcasts for the one, and not for the two


# Several targets.


def test_labels_of_two_batches_do_not_meet():
    target, _ = make_target(labels(), per_sample=False)
    other, _ = make_target(labels(), per_sample=False)
    losses = no_reduction(torch.randn(BATCH, CLASSES, requires_grad=True), target)

    with pytest.raises(RuntimeError, match="combines the labels of two mixed batches"):
        losses * other


def test_labels_of_two_batches_meet_when_the_first_is_over():
    kept, own = make_target(labels(), per_sample=False)
    kept.usage.ended = True
    target, _ = make_target(labels(), per_sample=False)
    x = torch.randn(BATCH, CLASSES)

    loss = (F.cross_entropy(x, target, reduction="none") * (kept == 1)).mean()

    assert_close(loss, (F.cross_entropy(x, target, reduction="none") * (own == 1)).mean())


@WEIGHTS
def test_two_targets_of_one_batch_meet(per_sample):
    """As where the second says which samples the first one's loss counts for."""
    weights, usage = draw_weights(per_sample=per_sample), Usage()
    x, (y, z) = torch.randn(BATCH, CLASSES, dtype=torch.float64), labels(2, BATCH)

    def loss(x, y, z):
        return (no_reduction(x, y) * (z == 1)).mean()

    targets = [MixedTarget(candidates_of(t), weights.clone(), usage) for t in (y, z)]
    actual = loss(x, *targets)

    share = weights.reshape(2, -1)
    losses = [
        no_reduction(x, a) * (b == 1)
        for a, b in zip(candidates_of(y), candidates_of(z), strict=True)
    ]
    assert_close(actual, (share * torch.stack(losses)).sum(0).mean(), rtol=0, atol=1e-12)


def test_an_embedded_label_is_the_point_in_between():
    """A model that is conditioned on the class sees what an interpolated label means to it."""
    embedding = nn.Embedding(CLASSES, 3)
    candidates, weights = candidates_of(labels()), draw_weights(per_sample=True)

    embedded = embedding(MixedTarget(candidates, weights))

    by_hand = sum(w[:, None] * embedding(y) for w, y in zip(weights, candidates, strict=True))
    assert type(embedded) is torch.Tensor
    assert_close(embedded, by_hand.float())


# Metrics, against the dominant labels.


def top_k_of_the_imagenet_example(output, target, topk=(1, 3)):
    with torch.no_grad():
        maxk = max(topk)
        batch_size = target.size(0)
        _, pred = output.topk(maxk, 1, True, True)
        pred = pred.t()
        correct = pred.eq(target.view(1, -1).expand_as(pred))
        res = []
        for k in topk:
            correct_k = correct[:k].reshape(-1).float().sum(0, keepdim=True)
            res.append(correct_k.mul_(100.0 / batch_size))
        return torch.cat(res)


def confusion_by_loop(x, y):
    matrix = torch.zeros(CLASSES, CLASSES)
    for t, p in zip(y.view(-1), x.argmax(1).view(-1), strict=True):
        matrix[t.long(), p.long()] += 1
    return merge(matrix)


def f1_of_counts(x, y):
    p, t = (x[:, 0] > 0).long(), (y > 1).long()
    true_positive = (t * p).sum().to(torch.float32)
    false = ((1 - t) * p).sum().to(torch.float32) + (t * (1 - p)).sum().to(torch.float32)
    return 2 * true_positive / (2 * true_positive + false)


def hits_of_each_class(x, y):
    hits = x.argmax(1) == y
    return [(hits & (y == c)).sum() for c in range(CLASSES)]


METRICS = {
    "mean": lambda x, y: (x.argmax(dim=1) == y).float().mean(),
    "attached": lambda x, y: (torch.sigmoid(x[:, 0]).round() == (y > 1).float()).float().mean(),
    "attached, type_as": lambda x, y: (x[:, 0].sign().relu() == (y > 1).type_as(x)).sum(),
    "eq": lambda x, y: x.argmax(1).eq(y).sum().item() / len(y),
    "torch.eq": lambda x, y: torch.eq(x.argmax(1), y).double().mean(),
    "reversed": lambda x, y: (y == x.argmax(1)).sum() / y.size(0),
    "data": lambda x, y: torch.sum(x.argmax(1) == y.data),
    "view_as": lambda x, y: (
        x.argmax(1, keepdim=True).eq(y.view_as(x.argmax(1, keepdim=True))).sum().item()
    ),
    "errors": lambda x, y: (x.argmax(1) != y).sum(),
    "cpu numpy": lambda x, y: np.mean(x.argmax(1).cpu().numpy() == y.cpu().numpy()),
    "sklearn": lambda x, y: accuracy_score(y.cpu().numpy(), x.argmax(1).cpu().numpy()),
    "sklearn of tensors": lambda x, y: accuracy_score(y, x.argmax(1)),
    "lists": lambda x, y: sum(
        a == b for a, b in zip(y.tolist(), x.argmax(1).tolist(), strict=True)
    ),
    "top k": lambda x, y: top_k_of_the_imagenet_example(x, y),
    "any of top 2": lambda x, y: (x.topk(2).indices == y[:, None]).any(dim=1).float().mean(),
    "long cast": lambda x, y: ((x[:, 0] > 0).long() == (y > 1).long()).float().mean(),
    "each class": hits_of_each_class,
    "hits": lambda x, y: y[x.argmax(1) == y].bincount(minlength=CLASSES),
    "confusion": confusion_by_loop,
    "confusion by bincount": lambda x, y: torch.bincount(CLASSES * y + x.argmax(1), minlength=16),
    "f1": f1_of_counts,
    "counts": lambda x, y: [(y == c).sum().item() for c in range(CLASSES)],
    "unique": lambda x, y: y.unique(),
    "largest": lambda x, y: int(y.max()),
    "sorted": lambda x, y: merge(y.sort().values),
    "is in": lambda x, y: torch.isin(y, torch.tensor([1, 2])).sum().item(),
    "printed": lambda x, y: len(f"{y} {y[0]}"),
}


@WEIGHTS
@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_a_metric_written_by_hand_reads_the_dominant_labels(metric, per_sample):
    x = torch.randn(BATCH, CLASSES, requires_grad=True)
    target, own = make_target(labels(), per_sample=per_sample)

    actual = metric(x, target)

    assert_close(actual, metric(x, own), rtol=0, atol=0)
    assert not target.usage.met_gradient


@WEIGHTS
def test_floats_compared_with_predictions_count_as_the_dominant_ones(per_sample):
    x = torch.randn(BATCH, requires_grad=True)
    target, own = make_target((torch.rand(BATCH) > 0.5).float(), per_sample=per_sample)

    hits = x.sigmoid().round() == target

    assert_close(hits.float().mean(), (x.sigmoid().round() == own).float().mean())


@WEIGHTS
def test_the_loss_may_come_before_the_metric_or_after(per_sample):
    x, z = torch.randn(BATCH, CLASSES, requires_grad=True), labels() > 1
    target, own = make_target(z.int(), per_sample=per_sample)

    def step(y, *, first):
        before = (x[:, 0].sigmoid().round() == y).sum() if first else None
        y = y.type_as(x)
        loss = F.binary_cross_entropy_with_logits(x[:, 0], y)
        after = (x[:, 0].sigmoid().round() == y.int()).sum()
        return loss, after if before is None else before

    first, second = step(target, first=True), step(target, first=False)

    assert_close(first, second, rtol=0, atol=0)
    assert_close(first[1], step(own, first=True)[1])


# torchmetrics.

MULTICLASS = {"task": "multiclass", "num_classes": CLASSES}
TORCHMETRICS = {
    "micro accuracy": lambda: torchmetrics.Accuracy(**MULTICLASS),
    "macro accuracy": lambda: torchmetrics.Accuracy(**MULTICLASS, average="macro"),
    "top 2": lambda: torchmetrics.Accuracy(**MULTICLASS, top_k=2),
    "f1": lambda: torchmetrics.F1Score(**MULTICLASS, average="macro"),
    "recall by class": lambda: torchmetrics.Recall(**MULTICLASS, average=None),
    "auroc": lambda: torchmetrics.AUROC(**MULTICLASS),
    "binned auroc": lambda: torchmetrics.AUROC(**MULTICLASS, thresholds=5),
    "average precision": lambda: torchmetrics.AveragePrecision(**MULTICLASS),
    "confusion": lambda: torchmetrics.ConfusionMatrix(**MULTICLASS),
    "calibration": lambda: torchmetrics.CalibrationError(**MULTICLASS),
    "kappa": lambda: torchmetrics.CohenKappa(**MULTICLASS),
    "matthews": lambda: torchmetrics.MatthewsCorrCoef(**MULTICLASS),
    "jaccard": lambda: torchmetrics.JaccardIndex(**MULTICLASS),
    "hinge": lambda: torchmetrics.HingeLoss(**MULTICLASS),
    "exact match of maps": lambda: torchmetrics.ExactMatch(**MULTICLASS),
    "collection": lambda: torchmetrics.MetricCollection([
        classification.MulticlassAccuracy(CLASSES),
        classification.MulticlassF1Score(CLASSES),
    ]),
    "by class": lambda: torchmetrics.ClasswiseWrapper(
        classification.MulticlassAccuracy(CLASSES, average=None)
    ),
}


def states_of(metric):
    parts = metric.values() if isinstance(metric, torchmetrics.MetricCollection) else [metric]
    return [
        tensor
        for module in parts
        for part in module.modules()
        for state in part.metric_state.values()
        for tensor in (state if isinstance(state, list) else [state])
    ]


@WEIGHTS
@pytest.mark.parametrize("by_call", [True, False], ids=["call", "update"])
@pytest.mark.parametrize("make_metric", TORCHMETRICS.values(), ids=TORCHMETRICS)
def test_torchmetrics_see_the_dominant_labels(make_metric, by_call, per_sample):
    maps = make_metric is TORCHMETRICS["exact match of maps"]
    x = torch.randn(BATCH, CLASSES, *[2] * maps, requires_grad=True)
    target, own = make_target(labels(BATCH, *[2] * maps), per_sample=per_sample)
    metric, expected = make_metric(), make_metric()
    expected.update(x, own)

    if by_call:
        metric(x, target)
    else:
        metric.update(x, target)

    assert_close(metric.compute(), expected.compute())
    assert {type(state) for state in states_of(metric)} == {torch.Tensor}
    assert not target.usage.met_gradient


@WEIGHTS
@pytest.mark.parametrize("cast", [torch.Tensor.int, torch.Tensor.long, torch.Tensor.bool])
def test_torchmetrics_see_the_dominant_of_binary_and_multilabel_floats(cast, per_sample):
    x = torch.randn(BATCH, CLASSES)
    target, own = make_target((torch.rand(BATCH, CLASSES) > 0.5).float(), per_sample=per_sample)
    multilabel = classification.MultilabelAccuracy(CLASSES)
    binary = classification.BinaryF1Score()

    actual = multilabel(x, cast(target)), binary(x[:, 0], cast(target[:, 0]))

    assert_close(actual, (multilabel(x, own.long()), binary(x[:, 0], own[:, 0].long())))


@WEIGHTS
def test_functional_torchmetrics_see_the_dominant_labels(per_sample):
    x = torch.randn(BATCH, CLASSES)
    target, own = make_target(labels(), per_sample=per_sample)

    actual = accuracy(x, target, **MULTICLASS, average="macro")

    assert_close(actual, accuracy(x, own, **MULTICLASS, average="macro"))


class Collected(torchmetrics.Metric):
    """As users write a metric that needs all labels at the end."""

    def __init__(self):
        super().__init__()
        self.add_state("targets", default=[], dist_reduce_fx="cat")

    def update(self, y):
        self.targets.append(y)

    def compute(self):
        return torchmetrics.utilities.dim_zero_cat(self.targets)


@WEIGHTS
def test_a_metric_that_keeps_raw_labels_keeps_the_dominant_ones(per_sample):
    metric = Collected()
    (first, own), (second, other) = (
        make_target(labels(), per_sample=per_sample) for _ in range(2)
    )

    metric.update(first)
    first.usage.ended = True
    metric(second)
    second.usage.ended = True

    assert type(metric.compute()) is torch.Tensor
    assert_close(copy.deepcopy(metric).compute(), torch.cat([own, other]))


def test_a_functional_metric_of_classes_is_given_classes_also_of_float_labels():
    target = MixedTarget([torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])], torch.ones(2) / 2)

    assert accuracy(torch.tensor([0.2, 0.9]), target, task="binary") == 1


def test_a_metric_may_be_the_loss_of_float_targets():
    x = torch.randn(BATCH, requires_grad=True)
    target = MixedTarget([torch.zeros(BATCH), torch.ones(BATCH)], torch.tensor([0.75, 0.25]))

    loss = torchmetrics.MeanSquaredError()(x, target)

    assert_close(loss, F.mse_loss(x, torch.full((BATCH,), 0.25)))
    assert target.usage.met_gradient


def test_a_module_that_is_named_like_a_metric_is_none():
    names = {**globals(), "__name__": "torchmetrics_of_mine"}
    loss = types.FunctionType(focal_of_gather.__code__, names)

    assert_mixture(loss, labels(), per_sample=False)


# Parts of a step that torch runs as functions.


class Custom(torch.autograd.Function):
    """A loss with a backward pass of its own."""

    @staticmethod
    def forward(ctx, x, y):
        return x[range(len(y)), y].mean()


def test_labels_in_a_custom_autograd_function_are_refused():
    target, _ = make_target(labels(), per_sample=False)

    with pytest.raises(RuntimeError, match="it is run in a custom autograd function"):
        Custom.apply(torch.randn(BATCH, CLASSES, requires_grad=True), target)


class Halved(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient / 2


def test_a_loss_of_the_batch_may_pass_a_custom_autograd_function():
    x, loss = mixed_loss()
    expected = torch.autograd.grad(merge(loss), x, retain_graph=True)[0] / 2

    Halved.apply(loss).backward()

    assert_close(x.grad, expected)


@WEIGHTS
def test_a_criterion_with_a_backward_hook_is_the_mixture(per_sample):
    criterion = nn.CrossEntropyLoss()
    criterion.register_full_backward_hook(lambda module, grad_input, grad_output: None)

    assert_mixture(criterion, labels(), per_sample=per_sample)


@pytest.mark.parametrize(
    "watch", [lambda loss: loss.register_hook(torch.neg), lambda loss: loss.retain_grad()]
)
def test_watching_the_gradient_of_a_mixed_loss_is_refused(watch):
    """It would be that of the merged value, which what follows need not go through."""
    _, loss = mixed_loss()

    with pytest.raises(RuntimeError, match="watches the gradient of one tensor"):
        watch(loss)


class Fused(torch.autograd.Function):
    """A loss that is differentiated as it is computed."""

    @staticmethod
    def forward(ctx, x, y):
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            loss = F.cross_entropy(leaf, y)
        ctx.save_for_backward(*torch.autograd.grad(loss, leaf))
        return merge(loss).detach()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0], None


def test_a_custom_autograd_function_may_differentiate_by_itself():
    assert_mixture(Fused.apply, labels(), per_sample=False)


@WEIGHTS
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_checkpointed_loss_is_the_mixture(use_reentrant, per_sample):
    def loss(x, y):
        return checkpoint(focal_of_gather, x, y, use_reentrant=use_reentrant)

    x = torch.randn(BATCH, CLASSES, requires_grad=True)
    target, _ = make_target(labels(), per_sample=per_sample)
    expected = torch.autograd.grad(focal_of_gather(x, copy.deepcopy(target)), x)[0]
    target.usage.met_gradient = False

    checkpointed = 2 * loss(x, target)

    assert target.usage.met_gradient
    checkpointed.backward()
    assert_close(x.grad, 2 * expected)


def test_losses_per_sample_from_a_reentrant_checkpoint_are_refused():
    x = torch.randn(BATCH, CLASSES, requires_grad=True)
    target, _ = make_target(labels(), per_sample=False)
    losses = checkpoint(no_reduction, x, target, use_reentrant=True)

    with pytest.raises(RuntimeError, match=r"mean\(\): .* use_reentrant=True instead of False"):
        losses.mean()
