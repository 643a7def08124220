"""Tests for lightning_mixup.losses: torch's own losses, and those that are named."""

from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mixing_by_hand import (
    BATCH,
    CLASSES,
    assert_mixture,
    candidates_of,
    draw_weights,
    loss_by_hand,
    with_gradient,
)
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from torchmetrics import Metric

from lightning_mixup import MixedTarget, Mixup, merge
from lightning_mixup.losses import evaluate_per_candidate
from lightning_mixup.targets import Usage

WEIGHTS = pytest.mark.parametrize("per_sample", [False, True], ids=["per_batch", "per_sample"])
CLASS_WEIGHT = torch.tensor([0.5, 1.0, 3.0, 0.1], dtype=torch.float64)


def labels(*shape):
    return torch.randint(0, CLASSES, shape or (BATCH,))


def multi_hot(y):
    return torch.stack([y > c for c in range(CLASSES)], dim=1)


LOSSES = {
    "cross_entropy": F.cross_entropy,
    "cross_entropy by keyword": lambda x, y: F.cross_entropy(input=x, target=y),
    "cross_entropy by position": lambda x, y: F.cross_entropy(
        x, y, None, None, -100, None, "mean"
    ),
    "CrossEntropyLoss": nn.CrossEntropyLoss(),
    "label_smoothing": lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1),
    "nll_loss": lambda x, y: F.nll_loss(F.log_softmax(x, dim=1), y),
    "NLLLoss": lambda x, y: nn.NLLLoss()(x.log_softmax(-1), y),
    "cross_entropy of one-hot": lambda x, y: F.cross_entropy(x, F.one_hot(y, CLASSES).to(x)),
    "multi_margin_loss": F.multi_margin_loss,
    "multi_margin_loss, weighted": lambda x, y: F.multi_margin_loss(x, y, weight=CLASS_WEIGHT),
    "kl_div": lambda x, y: F.kl_div(
        x.log_softmax(1), F.one_hot(y, CLASSES).to(x), reduction="batchmean"
    ),
    "mse_loss of one-hot": lambda x, y: F.mse_loss(x, F.one_hot(y, CLASSES).to(x)),
    "mse_loss of class ids": lambda x, y: F.mse_loss(x[:, 0], y.to(x)),
    "smooth_l1_loss": lambda x, y: F.smooth_l1_loss(x[:, 0], y.to(x)),
    "huber_loss": lambda x, y: F.huber_loss(x[:, 0], y.to(x)),
    "bce by float": lambda x, y: F.binary_cross_entropy(x[:, 0].sigmoid(), (y > 1).float().to(x)),
    "bce by double": lambda x, y: F.binary_cross_entropy_with_logits(x[:, 0], (y > 1).double()),
    "bce by type_as": lambda x, y: F.binary_cross_entropy_with_logits(x[:, 0], (y > 1).type_as(x)),
    "bce by to": lambda x, y: F.binary_cross_entropy_with_logits(x[:, 0], (y > 1).to(x.dtype)),
    "bce by type": lambda x, y: F.binary_cross_entropy_with_logits(
        x[:, 0], (y > 1).type(x.type())
    ),
    "bce, (B, 1)": lambda x, y: F.binary_cross_entropy_with_logits(
        x[:, :1], (y > 1).unsqueeze(1).to(x)
    ),
    "bce of probabilities": lambda x, y: F.binary_cross_entropy(x[:, 0].sigmoid(), (y > 1).to(x)),
    "bce, pos_weight": lambda x, y: F.binary_cross_entropy_with_logits(
        x, multi_hot(y).to(x), pos_weight=CLASS_WEIGHT
    ),
    "multilabel_soft_margin_loss": lambda x, y: F.multilabel_soft_margin_loss(
        x, multi_hot(y).to(x)
    ),
    "soft_margin_loss": lambda x, y: F.soft_margin_loss(x[:, 0], 2 * (y > 1).to(x) - 1),
    "hinge_embedding_loss": lambda x, y: F.hinge_embedding_loss(x[:, 0], 2 * (y > 1).long() - 1),
    "cosine_embedding_loss": lambda x, y: F.cosine_embedding_loss(
        x, x.detach().flip(1), 2 * (y > 1).long() - 1
    ),
    "poisson_nll_loss": lambda x, y: F.poisson_nll_loss(x[:, 0], y.to(x)),
    "gaussian_nll_loss": lambda x, y: F.gaussian_nll_loss(x[:, 0], y.to(x), x[:, 1] ** 2 + 1),
}


# Class indices.


@WEIGHTS
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_loss_is_the_mixture_of_its_candidates_losses(loss, per_sample):
    assert_mixture(loss, labels(), per_sample=per_sample)


@WEIGHTS
@pytest.mark.parametrize("loss", ["cross_entropy", "nll_loss", "multi_margin_loss"])
def test_three_candidates_are_mixed_alike(loss, per_sample):
    assert_mixture(LOSSES[loss], labels(), per_sample=per_sample, count=3)


MANY = 2**17  # logits


@WEIGHTS
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("loss", ["cross_entropy", "nll_loss"])
@pytest.mark.parametrize("shape", [(4,), (4, 8)], ids=str)
def test_many_logits_are_mixed_alike(shape, loss, count, per_sample):
    x = torch.randn(4, MANY // 4 // prod(shape[1:]), *shape[1:], dtype=torch.float64)
    y = torch.randint(0, x.shape[1], shape)

    assert_mixture(LOSSES[loss], y, per_sample=per_sample, x=x, count=count)


@WEIGHTS
@pytest.mark.parametrize("ignored", [-100, 3], ids=["no class", "a class"])
def test_of_many_logits_labels_are_ignored_alike(ignored, per_sample):
    few, y = torch.randn(4, 8, dtype=torch.float64), torch.tensor([3, 0, ignored, 7])
    target = MixedTarget([y, y.roll(1)], draw_weights(per_sample=per_sample, batch=4))
    many = torch.full((4, MANY // 4), -torch.inf, dtype=torch.float64)
    many[:, :8] = few

    actual = F.cross_entropy(many, target, ignore_index=ignored)

    assert_close(actual, F.cross_entropy(few, target, ignore_index=ignored), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("y", "error", "match"),
    [
        ([0, 1, 2, MANY], IndexError, f"Target {MANY} is out of bounds"),
        ([0, 1, 2, -1], IndexError, "Target -1 is out of bounds"),
        ([0, 1], ValueError, r"batch_size \(4\) to match target batch_size \(2\)"),
    ],
    ids=["too high", "too low", "too few"],
)
def test_of_many_logits_wrong_labels_are_refused_as_torch_does(y, error, match):
    target = MixedTarget([torch.tensor(y)] * 2, torch.tensor([0.7, 0.3]))

    with pytest.raises(error, match=match):
        F.cross_entropy(torch.randn(4, MANY), target)


@WEIGHTS
@pytest.mark.parametrize(
    ("shape", "logits"),
    [((BATCH, 7), (BATCH, CLASSES, 7)), ((BATCH, 2, 3), (BATCH, CLASSES, 2, 3))],
    ids=["sequences", "maps"],
)
def test_cross_entropy_of_maps_is_the_mixture(shape, logits, per_sample):
    x = torch.randn(logits, dtype=torch.float64)

    assert_mixture(F.cross_entropy, labels(*shape), per_sample=per_sample, x=x)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("shape", [(BATCH,), (BATCH, 3)], ids=str)
@WEIGHTS
def test_cross_entropy_weighs_classes_as_the_labels_are_mixed(
    shape, smoothing, reduction, per_sample
):
    """A mean divides by the mixture of the class weights, and ignored labels weigh nothing.

    So one weight per batch keeps each candidate's own mean, whose divisors are the same, as
    partners are a permutation of the batch; and a weight of 1 is the plain loss.
    """
    options = {"weight": CLASS_WEIGHT, "ignore_index": 2, "label_smoothing": smoothing}
    x = torch.randn(BATCH, CLASSES, *shape[1:], dtype=torch.float64, requires_grad=True)
    candidates = candidates_of(labels(*shape))
    weights = draw_weights(per_sample=per_sample)
    share = weights.reshape(2, -1, *[1] * (len(shape) - 1))
    each = share * torch.stack([
        F.cross_entropy(x, y, **options, reduction="none") for y in candidates
    ])
    norm = share * torch.stack([CLASS_WEIGHT[y] * (y != 2) for y in candidates])
    by_hand = {"none": each.sum(0), "sum": each.sum(), "mean": each.sum() / norm.sum()}

    target = MixedTarget(candidates, weights)
    loss = F.cross_entropy(x, target, **options, reduction=reduction)

    assert_close(merge(loss), by_hand[reduction], rtol=0, atol=1e-12)
    assert_close(
        with_gradient(loss.sum(), x),
        with_gradient(by_hand[reduction].sum(), x),
        rtol=0,
        atol=1e-12,
    )


MOST_STEPS = {
    "by default": F.cross_entropy,
    "CrossEntropyLoss": nn.CrossEntropyLoss(),
    "sum": lambda x, y: F.cross_entropy(x, y, reduction="sum"),
    "none": lambda x, y: F.cross_entropy(x, y, reduction="none").square().mean(),
    "smoothed": lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1),
    "weighted": lambda x, y: F.cross_entropy(x, y, CLASS_WEIGHT),
    "ignored": lambda x, y: F.cross_entropy(x, y, ignore_index=1),
    "old reduction": lambda x, y: F.cross_entropy(x, y, reduce=False).sum(),
    "one-hot": lambda x, y: F.cross_entropy(x, F.one_hot(y, CLASSES).to(x)),
    "of some": lambda x, y: F.cross_entropy(x[y > 0], y[y > 0]),
    "logits by label": lambda x, y: F.cross_entropy(x - F.one_hot(y, CLASSES), y),
    "squared": lambda x, y: F.cross_entropy(x, y) ** 2,
    "without a gradient": lambda x, y: F.cross_entropy(x.detach(), y) * x.sum(),
}


def of_a_batch(loss, rounds, *, at_once):
    """Returns loss, gradient and candidates, with and without the way of most steps."""
    generator = torch.Generator().manual_seed(rounds)
    x = torch.randn(BATCH, CLASSES, dtype=torch.float64, generator=generator, requires_grad=True)
    y = torch.randint(CLASSES, (BATCH,), generator=generator)
    mix = Mixup(1.0, rounds=rounds).draw(np.random.default_rng(rounds), BATCH)
    with pytest.MonkeyPatch.context() as patch:
        if not at_once:
            patch.setattr("lightning_mixup.rules.class_loss_at_once", lambda *_: None)
        mixed = loss(x, mix.label(y))
    return merge(mixed), *torch.autograd.grad(merge(mixed), x), *mixed.candidates


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("loss", MOST_STEPS.values(), ids=MOST_STEPS)
def test_the_loss_of_most_steps_is_what_the_rule_comes_to(loss, rounds):
    quick = of_a_batch(loss, rounds, at_once=True)

    for value, expected in zip(quick, of_a_batch(loss, rounds, at_once=False), strict=True):
        assert_close(value, expected, rtol=1e-14, atol=1e-14)


def test_most_steps_are_asked_no_more_than_they_need(monkeypatch):
    """Or the test above would compare a way with itself."""
    monkeypatch.delattr("lightning_mixup.rules.run_class_loss")

    of_a_batch(F.cross_entropy, 1, at_once=True)
    with pytest.raises(NameError):
        of_a_batch(F.cross_entropy, 1, at_once=False)


def test_a_loss_without_a_gradient_is_no_use_of_the_labels():
    usage, x = Usage(), torch.randn(BATCH, CLASSES, requires_grad=True)
    target = Mixup(1.0).draw(np.random.default_rng(0), BATCH).label(labels(), usage)

    F.cross_entropy(x.detach(), target)
    with torch.no_grad():
        F.cross_entropy(x, target)

    assert usage.touched
    assert not usage.met_gradient


def test_labels_of_a_users_own_have_weights_of_their_own():
    """Also where they share what is known of a batch that has one weight."""
    x = torch.randn(BATCH, CLASSES, dtype=torch.float64, requires_grad=True)
    given = Mixup(1.0).draw(np.random.default_rng(0), BATCH).label(labels())
    weights = draw_weights(per_sample=True)

    target = MixedTarget(given.candidates, weights, given.usage)

    each = torch.stack([F.cross_entropy(x, y, reduction="none") for y in given.candidates])
    assert_close(merge(F.cross_entropy(x, target)), (weights * each).sum(0).mean())


class OfLosses(Metric):
    """A metric of a user's own, which no module has among its parts."""

    def __init__(self):
        super().__init__()
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64))

    def update(self, x, y):
        self.total = self.total + F.cross_entropy(x, y)

    def compute(self):
        return self.total


def test_a_metric_of_losses_is_that_of_the_dominant_labels():
    y, metric = labels(), OfLosses()
    x = torch.randn(BATCH, CLASSES, dtype=torch.float64, requires_grad=True)
    target = Mixup(1.0).draw(np.random.default_rng(0), BATCH).label(y)

    value = metric(x, target)

    assert_close(value, F.cross_entropy(x, merge(target)))
    assert type(value) is type(metric.total) is torch.Tensor


@WEIGHTS
@pytest.mark.filterwarnings("ignore:size_average and reduce args:UserWarning")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"reduce": False}, "none"),
        ({"size_average": False}, "sum"),
        ({"size_average": True, "reduce": True}, "mean"),
    ],
    ids=str,
)
@pytest.mark.parametrize("loss", [F.cross_entropy, F.multi_margin_loss], ids=["fast", "other"])
def test_the_old_names_of_reductions_mean_the_same(loss, old, new, per_sample):
    x = torch.randn(BATCH, CLASSES)
    target = MixedTarget(candidates_of(labels()), draw_weights(per_sample=per_sample))

    assert_close(merge(loss(x, target, **old)), merge(loss(x, target, reduction=new)))


@pytest.mark.parametrize("loss", ["cross_entropy", "label_smoothing", "bce by to"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_weight_of_one_is_the_plain_loss_bit_for_bit(dtype, loss):
    x, y = torch.randn(BATCH, CLASSES).to(dtype).requires_grad_(), labels()
    target = MixedTarget(candidates_of(y), torch.tensor([1.0, 0.0]))

    actual = LOSSES[loss](x, target)

    plain = with_gradient(LOSSES[loss](x, y), x)
    assert_close(with_gradient(actual, x), plain, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_weights_of_one_per_sample_are_the_plain_loss(dtype):
    x, y = torch.randn(BATCH, CLASSES).to(dtype).requires_grad_(), labels()
    weights = torch.tensor([[0.0], [1.0]]).expand(2, BATCH)
    options = {"weight": CLASS_WEIGHT.to(dtype), "ignore_index": 2}

    actual = F.cross_entropy(x, MixedTarget([y.flip(0), y], weights), **options)

    plain = with_gradient(F.cross_entropy(x, y, **options), x)
    assert_close(with_gradient(actual, x), plain)


@WEIGHTS
def test_single_precision_is_kept(per_sample):
    x, y = torch.randn(BATCH, CLASSES), labels()
    weights, candidates = draw_weights(per_sample=per_sample), candidates_of(y)

    loss = F.cross_entropy(x, MixedTarget(candidates, weights))

    by_hand = loss_by_hand(F.cross_entropy, x.double(), candidates, weights)
    assert_close(loss, by_hand.float(), rtol=0, atol=1e-6)


@WEIGHTS
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_loss_of_one_number_reads_as_the_merged_one(loss, per_sample):
    x = torch.randn(BATCH, CLASSES, dtype=torch.float64, requires_grad=True)
    target = MixedTarget(candidates_of(labels()), draw_weights(per_sample=per_sample))

    value = loss(x, target)

    assert value.item() == merge(value).item()
    assert type(merge(value)) is torch.Tensor


@WEIGHTS
def test_a_loss_takes_nothing_from_the_device(per_sample):
    """On the meta device there is nothing that could be taken."""
    x = torch.randn(BATCH, CLASSES, device="meta", requires_grad=True)
    weights = torch.rand((2, BATCH) if per_sample else 2, device="meta")
    y = torch.zeros(BATCH, dtype=torch.long, device="meta")

    F.cross_entropy(x, MixedTarget([y, y], weights), weight=x[0].detach()).backward()

    assert x.grad.shape == x.shape


@WEIGHTS
def test_autocast_casts_as_it_does_for_plain_labels(per_sample):
    x, y, linear = torch.randn(BATCH, 8), labels(), nn.Linear(8, CLASSES)
    weights, candidates = draw_weights(per_sample=per_sample), candidates_of(y)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = F.cross_entropy(linear(x), MixedTarget(candidates, weights))
        by_hand = loss_by_hand(F.cross_entropy, linear(x), candidates, weights)

    assert loss.dtype == torch.float32
    assert_close(loss.double(), by_hand.double(), rtol=0, atol=1e-2)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@WEIGHTS
def test_a_loss_needs_no_gradient(mode, per_sample):
    x, y = torch.randn(BATCH, CLASSES, dtype=torch.float64), labels()
    weights, candidates = draw_weights(per_sample=per_sample), candidates_of(y)

    with mode():
        loss = F.cross_entropy(x, MixedTarget(candidates, weights))
        by_hand = loss_by_hand(F.cross_entropy, x, candidates, weights)

    assert_close(loss, by_hand, rtol=0, atol=1e-12)


# Logits that are mixed too, as a margin on the own class makes them.


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@WEIGHTS
def test_class_weights_count_for_logits_with_a_margin(per_sample, reduction):
    x = torch.randn(BATCH, CLASSES, dtype=torch.float64)
    candidates, weights = candidates_of(labels()), draw_weights(per_sample=per_sample)

    def loss(y, reduction):
        logits = x.clone()
        logits[torch.arange(BATCH), y] -= 0.5
        options = {"weight": CLASS_WEIGHT, "ignore_index": 1, "reduction": reduction}
        return F.cross_entropy(logits, y, **options)

    actual = loss(MixedTarget(candidates, weights), reduction)

    share = weights.reshape(2, -1)
    total = (share * torch.stack([loss(y, "none") for y in candidates])).sum()
    norm = (share * torch.stack([CLASS_WEIGHT[y] * (y != 1) for y in candidates])).sum()
    assert_close(actual, total / norm if reduction == "mean" else total, rtol=0, atol=1e-12)


def test_class_weights_may_come_of_the_labels():
    x, y = torch.randn(BATCH, CLASSES, dtype=torch.float64), labels()
    weights, candidates = draw_weights(per_sample=False), [y, y.clamp(max=1)]

    def loss(x, y):
        counts = torch.zeros(CLASSES).to(x).scatter_add_(0, y, torch.ones(BATCH).to(x))
        return F.cross_entropy(x, y, weight=1 / (1 + counts))

    actual = loss(x, MixedTarget(candidates, weights))

    by_hand = loss_by_hand(loss, x, candidates, weights)
    assert_close(actual, by_hand, rtol=0, atol=1e-12)


# Float targets: the interpolated value.


def half(y):
    """Returns what may stand for a standard deviation, or for a mask."""
    return torch.tensor([0.0, 1.0, 0.5, 2.0]).to(y)


NUMBER_LOSSES = {
    "mse_loss": F.mse_loss,
    "l1_loss": F.l1_loss,
    "mse_loss, weighted": lambda x, y: F.mse_loss(x, y, weight=2 * torch.ones_like(x)),
    "bce": F.binary_cross_entropy_with_logits,
    "soft cross_entropy": F.cross_entropy,
    "kl_div": lambda x, y: F.kl_div(x.log_softmax(1), y, reduction="sum"),
    "by hand": lambda x, y: ((x - y) ** 2).mean(),
    "standardised": lambda x, y: F.mse_loss(x, (y - y.mean(0)) / (1 + half(y))),
    "masked": lambda x, y: F.mse_loss(x * half(x), y * half(y)),
    "finite": lambda x, y: F.mse_loss(x[~torch.isnan(y)], y[~torch.isnan(y)]),
    "columns": lambda x, y: F.mse_loss(x[:, 0], y[:, 0]) + F.l1_loss(x[:, 1], y[:, 1]),
    "stacked": lambda x, y: F.mse_loss(x[:, :2], torch.stack([y[:, 0], y[:, 3]], dim=1)),
    "joined": lambda x, y: F.mse_loss(torch.cat([x, x]), torch.cat([y, y])),
    "copied": lambda x, y: F.mse_loss(x, torch.zeros_like(x).copy_(y)),
    "placed": lambda x, y: F.mse_loss(x, placed(y)),
    "sorted": lambda x, y: F.mse_loss(x, y.sort(dim=0).values),
    "padded": lambda x, y: F.mse_loss(F.pad(x, (1, 0)), F.pad(y, (1, 0)) * 2),
    "projected": lambda x, y: F.mse_loss(x[:, :2], (y @ half(y).reshape(4, 1)).expand(-1, 2)),
    "mean": lambda x, y: (x.mean() - y.mean()) ** 2,
    "moments": lambda x, y: (x.mean() - y.mean()) ** 2 + (x.std() - y.std()) ** 2,
    "edited": lambda x, y: F.mse_loss(x, y.clone().mul_(2).sub_(1)),
}


def placed(y):
    """Returns a target that is put together column by column."""
    columns = y.new_zeros(y.shape)
    columns[:, 0] = y[:, 0]
    columns[:, 2] = y[:, 1]
    return columns


@WEIGHTS
@pytest.mark.parametrize("loss", NUMBER_LOSSES.values(), ids=NUMBER_LOSSES)
def test_a_loss_of_floats_sees_the_interpolated_target(loss, per_sample):
    x = torch.randn(BATCH, CLASSES, dtype=torch.float64, requires_grad=True)
    candidates = candidates_of(torch.rand(BATCH, CLASSES, dtype=torch.float64))
    weights = draw_weights(per_sample=per_sample)
    target = MixedTarget(candidates, weights)

    actual = with_gradient(loss(x, target), x)

    interpolated = (weights.reshape(2, -1, 1) * torch.stack(candidates)).sum(dim=0)
    assert_close(actual, with_gradient(loss(x, interpolated), x), rtol=0, atol=1e-12)
    assert target.usage.met_gradient


def test_labels_made_of_floats_that_no_rule_follows_are_refused():
    """Between two class ids there is none."""
    ids = labels().double()
    target = MixedTarget(candidates_of(ids), draw_weights(per_sample=True))
    x = torch.randn(2 * BATCH, CLASSES, requires_grad=True)

    with pytest.raises(RuntimeError, match=r"cross_entropy\(\): it is given what pad\(\) made"):
        F.cross_entropy(x, F.pad(target, (0, BATCH)).long())


# What is refused.


def ctc_loss(x, y):
    log_probs = x.log_softmax(1).unsqueeze(1).expand(-1, BATCH, -1)
    lengths = torch.full((BATCH,), BATCH), torch.ones(BATCH, dtype=torch.long)
    return F.ctc_loss(log_probs, y.clamp(min=1).unsqueeze(1), *lengths)


def weighted_mse_loss(x, y):
    return F.mse_loss(x[:, 0], y.to(x), weight=torch.ones_like(x[:, 0]))


@pytest.mark.parametrize("loss", [ctc_loss, weighted_mse_loss])
def test_a_mean_by_more_than_the_batch_is_refused_with_weights_per_sample(loss):
    x = torch.randn(BATCH, CLASSES, requires_grad=True)
    target = MixedTarget(candidates_of(labels()), draw_weights(per_sample=True))

    with pytest.raises(RuntimeError, match=r"_loss\(\): it divides by more than the number of"):
        loss(x, target)


# All together.

KINDS = {
    "labels": {
        "cross_entropy": lambda x, y, **o: F.cross_entropy(x, y, weight=weight_for(x), **o),
        "nll_loss": lambda x, y, **o: F.nll_loss(x, y, weight=weight_for(x), **o),
        "multi_margin_loss": F.multi_margin_loss,
    },
    "casts": {
        "bce": lambda x, y, **o: F.binary_cross_entropy_with_logits(x[:, 0], (y > 0).to(x), **o),
        "mse_loss": lambda x, y, **o: F.mse_loss(x, F.one_hot(y, x.shape[1]).to(x), **o),
    },
    "numbers": {
        "mse_loss": lambda x, y, **o: F.mse_loss(x[:, 0], y, **o),
        "bce": lambda x, y, **o: F.binary_cross_entropy_with_logits(x[:, 0], y, **o),
    },
}


def weight_for(x):
    return CLASS_WEIGHT[: x.shape[1]].to(x)


@st.composite
def cases(draw):
    """Draws a loss and what it is given."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    batch, classes, count = draw(
        st.tuples(st.integers(2, 6), st.integers(2, 4), st.integers(2, 3))
    )
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    kind = draw(st.sampled_from(sorted(KINDS)))
    name = draw(st.sampled_from(sorted(KINDS[kind])))
    weights = draw_weights(per_sample=draw(st.booleans()), batch=batch, candidates=count)
    x = torch.randn(batch, classes, dtype=dtype)
    y = torch.rand(batch, dtype=dtype) if kind == "numbers" else labels(batch) % classes
    return kind, name, x, candidates_of(y, count), weights


@given(case=cases(), reduction=st.sampled_from(["mean", "sum", "none"]))
def test_any_loss_of_any_target_is_the_mixture(case, reduction):
    kind, name, x, candidates, weights = case
    loss = KINDS[kind][name]
    share = weights.to(x).reshape(len(weights), -1)
    if kind == "numbers":
        each = loss(x, (share * torch.stack(candidates)).sum(0), reduction="none")
    else:
        each = torch.stack([loss(x, y, reduction="none") for y in candidates])
        each = (share.reshape(*share.shape, *[1] * (each.ndim - 2)) * each).sum(0)
    norm = torch.tensor(each.numel())
    if kind == "labels" and name != "multi_margin_loss":
        norm = (share * torch.stack([weight_for(x)[y] for y in candidates])).sum()
    by_hand = {"none": each, "sum": each.sum(), "mean": each.sum() / norm}[reduction]

    actual = loss(x, MixedTarget(candidates, weights), reduction=reduction)

    tolerance = 1e-12 if x.dtype == torch.float64 else 1e-5
    assert_close(merge(actual), by_hand, rtol=0, atol=tolerance)


# Losses that torch can't look into.


class Custom(torch.autograd.Function):
    """Negative log-likelihood with a backward pass of its own."""

    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return -x.log_softmax(1)[range(len(y)), y].mean()

    @staticmethod
    def backward(ctx, gradient):
        x, y = ctx.saved_tensors
        return gradient * (x.softmax(1) - F.one_hot(y, x.shape[1])) / len(y), None


class Fused(torch.autograd.Function):
    """A loss of numbers that can't be looked into."""

    @staticmethod
    def forward(ctx, x, y):
        return ((x - y) ** 2).mean()


def test_a_named_loss_is_evaluated_once_per_candidate():
    def loss(x, y):
        return evaluate_per_candidate(Custom.apply, (x, y), {})

    assert_mixture(loss, labels(), per_sample=False)


@WEIGHTS
def test_a_named_loss_per_sample_stays_mixed(per_sample):
    def loss(x, y):
        losses = evaluate_per_candidate(F.cross_entropy, (x, y), {"reduction": "none"})
        return (losses**2).mean()

    assert_mixture(loss, labels(), per_sample=per_sample)


def test_a_named_loss_may_return_several():
    x, target = (
        torch.randn(BATCH, CLASSES),
        MixedTarget(candidates_of(labels()), torch.ones(2) / 2),
    )

    def loss(x, y):
        return {"loss": F.cross_entropy(x, y), "log": (F.nll_loss(x, y), "a word")}

    results = evaluate_per_candidate(loss, (x, target), {})

    expected = {"loss": F.cross_entropy(x, target), "log": (F.nll_loss(x, target), "a word")}
    assert results["log"][1] == "a word"
    assert_close([results["loss"], results["log"][0]], [expected["loss"], expected["log"][0]])


def test_a_named_loss_sees_floats_as_the_interpolated_value():
    x, candidates = torch.randn(BATCH, 2), [torch.zeros(BATCH, 2), torch.ones(BATCH, 2)]
    target = MixedTarget(candidates, torch.tensor([0.75, 0.25]))

    loss = evaluate_per_candidate(F.mse_loss, (x, target), {})

    assert_close(loss, F.mse_loss(x, torch.full((BATCH, 2), 0.25)))
    assert target.usage.met_gradient


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize(
    "cast",
    [
        lambda y: y.long(),
        lambda y: y.view(-1).to(torch.int64),
        lambda y: F.one_hot(y.clamp(max=CLASSES - 1).type(torch.LongTensor), CLASSES).argmax(1),
        lambda y: torch.where(y == 1, 1, 3),
        lambda y: torch.stack([y == k for k in range(CLASSES)], 1).long().argmax(1),
    ],
    ids=["long", "to", "type", "where", "equal"],
)
def test_a_named_loss_that_makes_class_labels_of_floats_is_that_of_the_labels(cast, per_sample):
    """What lies between two of them, cut to an integer, is a third."""

    def loss(x, y):
        arguments = (x, y), {}
        losses = lambda x, y: F.cross_entropy(x, cast(y), reduction="none")  # noqa: E731
        return evaluate_per_candidate(losses, *arguments).mean()

    assert_mixture(loss, labels().double(), per_sample=per_sample)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x, y: F.mse_loss(x, y),
        lambda x, y: ((x - y).abs() > 0.5).to(x).mul((x - y) ** 2).mean(),
        lambda x, y: F.mse_loss(x[~y.isnan()], y[~y.isnan()]),
        lambda x, y: F.mse_loss(x * torch.ones_like(y, dtype=torch.long), y.new_tensor(2) * y),
        lambda x, y: torch.vmap(F.mse_loss)(x, y).mean(),
        lambda x, y: Fused.apply(x, y),
    ],
    ids=["mse", "huber", "nan", "like", "vmap", "fused"],
)
def test_a_named_loss_of_numbers_may_look_at_them(loss):
    x, candidates = torch.randn(BATCH, 2), [torch.zeros(BATCH, 2), torch.ones(BATCH, 2)]
    target = MixedTarget(candidates, torch.tensor([0.75, 0.25]))

    found = evaluate_per_candidate(loss, (x, target), {})

    assert_close(found, loss(x, torch.full((BATCH, 2), 0.25)))


def test_a_named_loss_of_plain_labels_is_simply_called():
    x, y = torch.randn(BATCH, CLASSES), labels()

    assert_close(evaluate_per_candidate(F.cross_entropy, (x, y), {}), F.cross_entropy(x, y))


def test_a_named_loss_that_reduces_is_refused_with_weights_per_sample():
    target = MixedTarget(candidates_of(labels()), draw_weights(per_sample=True))

    with pytest.raises(RuntimeError, match=r"returned one number.*Let it return one loss per"):
        evaluate_per_candidate(F.cross_entropy, (torch.randn(BATCH, CLASSES), target), {})
