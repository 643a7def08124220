"""Tests for lightning_mixup.per_sample: losses that are no sum over samples, and what refuses."""

import pytest
import torch
from mixing_by_hand import (
    BATCH,
    CLASSES,
    assert_mixture,
    candidates_of,
    dominant,
    draw_weights,
)
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_mixup import MixedTarget, merge
from lightning_mixup.targets import weighted_sum

CENTERS = torch.arange(16.0, dtype=torch.float64).reshape(CLASSES, CLASSES).sin()


def labels():
    return torch.randint(0, CLASSES, (BATCH,))


def make_target(y, *, per_sample):
    """Returns a mixed target and its dominant labels."""
    candidates, weights = candidates_of(y), draw_weights(per_sample=per_sample)
    return MixedTarget(candidates, weights), dominant(candidates, weights)


def no_reduction(x, y):
    return F.cross_entropy(x, y, reduction="none")


def hard_examples(x, y):
    return no_reduction(x, y).topk(4).values.mean()


def without_ignored(x, y):
    kept = y != 2
    return F.cross_entropy(x[kept], y[kept])


def dice(x, y):
    p, t = x.softmax(1), F.one_hot(y, CLASSES)
    return 1 - (2 * (p * t).sum(0) / (p**2 + t).sum(0)).mean()


def pairs(x, y):
    return (torch.eq(y.view(-1, 1), y.view(1, -1)).float() * (x @ x.T)).mean()


def triplets(x, y):
    order = torch.arange(len(y)).flip(0)
    return ((y == y[order]) * (x - x[order]).norm(dim=1)).mean()


def against_the_first(x, y):
    return ((y == y[0]) * x[:, 0]).mean()


def on_a_grid(x, y):
    return (torch.einsum("bc,bc->b", F.one_hot(y, CLASSES).double(), x) ** 2).mean()


def on_another_grid(x, y):
    costs = torch.einsum("bc,cd->bd", F.one_hot(y, CLASSES).double(), CENTERS)
    return (costs * x.softmax(1)).sum(1).mean()


def sums_by_class(x, y):
    return ((F.one_hot(y, CLASSES).double().T @ (x @ x.T)) ** 2).mean()


def kernel_of_labels(x, y):
    one_hot = F.one_hot(y, CLASSES).double()
    return ((one_hot @ one_hot.T) * (x @ x.T)).mean()


def through_a_view(x, y):
    one_hot = torch.zeros_like(x)
    one_hot.view(-1)[y + CLASSES * torch.arange(len(y))] = 1
    return (one_hot * x.softmax(1)).sum(1).log().mean()


def through_rows(x, y):
    one_hot = torch.zeros_like(x)
    for i in range(len(y)):
        one_hot[i][y[i]] = 1
    return (one_hot * x.softmax(1)).sum(1).log().mean()


def sorted_by_label(x, y):
    return (x[:, 0] * y.double().sort().values.flip(0)).mean()


def of_class_one(x, y):
    return (x[torch.where(y == 1)] ** 2).mean()


def added_to_the_turned(x, y):
    losses = no_reduction(x, y)
    return ((losses + losses.flip(0)) ** 2).mean()


def columns_by_label(x, y):
    return x.index_select(1, y).log_softmax(1)[:, 0].mean()


def columns_by_index(x, y):
    return x[:, y].log_softmax(1)[:, 0].mean()


def entries_of_all_rows(x, y):
    return x[torch.arange(len(y))[:, None], y].log_softmax(1)[:, 0].mean()


def samples_by_label(x, y):
    return ((F.one_hot(y, CLASSES) * x).gather(0, y[:, None]) ** 2).mean()


WHOLE_BATCH = [
    of_class_one,
    added_to_the_turned,
    columns_by_label,
    columns_by_index,
    entries_of_all_rows,
    samples_by_label,
    hard_examples,
    without_ignored,
    dice,
    pairs,
    triplets,
    against_the_first,
    on_a_grid,
    on_another_grid,
    sums_by_class,
    kernel_of_labels,
    through_a_view,
    through_rows,
    sorted_by_label,
]


@pytest.mark.parametrize("loss", WHOLE_BATCH)
def test_any_loss_is_the_mixture_with_one_weight_per_batch(loss):
    assert_mixture(loss, labels(), per_sample=False)


@pytest.mark.parametrize("loss", [loss for loss in WHOLE_BATCH if loss is not dice])
def test_what_no_rule_follows_is_refused_in_words(loss):
    """Rather than given a wrong value; each is exact with one weight per batch, as it says."""
    x = torch.randn(BATCH, CLASSES, dtype=torch.float64, requires_grad=True)
    target, _ = make_target(labels(), per_sample=True)
    ways_out = r".*per_sample=False.*loss='criterion'.*targets=None"

    with pytest.raises(RuntimeError, match=r"have no rule for \w+\(\): it " + ways_out):
        loss(x, target)


def test_a_refusal_names_the_operation_that_had_no_rule():
    """Not only the one that met the gradient, which may be lines below."""
    x = torch.randn(BATCH, CLASSES, dtype=torch.float64, requires_grad=True)
    target, _ = make_target(labels(), per_sample=True)

    with pytest.raises(RuntimeError, match=r"mul\(\): it is given what einsum\(\) made of"):
        on_another_grid(x, target)


def test_overlap_is_that_of_soft_labels_with_weights_per_sample():
    x, candidates = torch.randn(BATCH, CLASSES).double(), candidates_of(labels())
    x, weights = x.requires_grad_(), draw_weights(per_sample=True)

    actual = dice(x, MixedTarget(candidates, weights))

    p = x.softmax(1)
    t = sum(w[:, None] * F.one_hot(y, CLASSES) for w, y in zip(weights, candidates, strict=True))
    assert_close(actual, 1 - (2 * (p * t).sum(0) / (p**2 + t).sum(0)).mean(), rtol=0, atol=1e-12)


def test_a_mask_by_label_is_refused_even_if_it_selects_the_whole_batch():
    x = torch.randn(BATCH, CLASSES, requires_grad=True)
    weights = torch.tensor([[0.9], [0.1]]).expand(2, BATCH)
    target = MixedTarget([torch.ones(BATCH).long(), torch.zeros(BATCH).long()], weights)

    with pytest.raises(RuntimeError, match="selects by label, which gives each label its own"):
        x[target == 1]


def test_the_entries_of_a_label_in_another_type_read_as_the_dominant_ones():
    target, own = make_target(labels(), per_sample=True)

    assert_close(merge(target.view(torch.int32)), own.view(torch.int32))


def test_a_function_of_the_loss_of_a_single_sample_is_the_mixture():
    """Each sample alone is a batch with one weight, so nothing needs to merge before its loss."""

    def loss(x, y):
        each = [F.cross_entropy(a[None], b[None]) ** 2 for a, b in zip(x, y, strict=True)]
        return torch.stack(each).mean()

    assert_mixture(loss, labels(), per_sample=True)


@pytest.mark.parametrize("per_sample", [False, True], ids=["per_batch", "per_sample"])
def test_the_loss_of_a_single_sample_reads_as_the_mixture(per_sample):
    x, (target, _) = torch.randn(BATCH, CLASSES), make_target(labels(), per_sample=per_sample)

    loss = no_reduction(x[:1], target[:1]).mean()

    expected = [F.cross_entropy(x[0], y[0]) for y in target.candidates]
    assert_close(loss.item(), weighted_sum(expected, target[0].weights).item())
