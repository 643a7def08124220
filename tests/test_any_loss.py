"""Tests for lightning_mixup.rules: any loss of any target, against the mixture worked out by hand.

A loss is a function of logits, target and reduction. What a mixed target must give is known in
three ways: the weighted sum over candidates, with one weight per batch; sample by sample, with a
weight for each; and for floats the loss of the interpolated target. A loss that is no mean over
samples, but made of sums over them, is made of the mixture of those sums: its soft-label form.
"""

import contextlib
import functools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from mixing_by_hand import draw_weights
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_mixup import MixedTarget, merge
from lightning_mixup.calls import NoRuleError
from lightning_mixup.targets import Usage

CLASSES, STEPS, SIDE = 4, 3, 2
WEIGHT = torch.tensor([0.5, 1.0, 3.0, 0.25], dtype=torch.float64)
COUNTS = torch.tensor([40.0, 20.0, 5.0, 100.0], dtype=torch.float64)
CENTERS = torch.arange(16.0, dtype=torch.float64).reshape(CLASSES, CLASSES).sin()
COSTS = (torch.arange(4.0)[:, None] - torch.arange(4.0)).abs().double()

REDUCTIONS = ("mean", "sum", "none")
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8)
TOLERANCE = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.float16: 3e-2,
    torch.bfloat16: 2e-1,
}


# Targets.


@dataclass(frozen=True)
class Target:
    """What is predicted: the shapes of a sample's logits and label, and how labels are drawn."""

    logits: tuple[int, ...]
    label: tuple[int, ...]
    draw: Callable[..., torch.Tensor]
    dtypes: tuple[torch.dtype, ...] = INTEGERS
    heads: int = 1

    @property
    def is_number(self):
        return self.dtypes == ()  # that of the logits, or another float type

    @property
    def is_class(self):
        return self.draw in (classes, with_ignored, with_ignored_maps)

    def heads_of(self, y):
        return y if self.heads == 1 else y.unbind(1)


def classes(*shape):
    return torch.randint(0, CLASSES, shape)


def with_ignored(*shape):
    y = classes(*shape)
    return torch.where((torch.rand(shape) < 0.2) & (torch.arange(shape[0]) > 0).view(-1, 1), -1, y)


def with_ignored_maps(*shape):
    return with_ignored(shape[0], math.prod(shape[1:])).view(shape)


def one_hot(*shape):
    return F.one_hot(classes(shape[0]), CLASSES)


def binary(*shape):
    return torch.randint(0, 2, shape)


def soft(*shape):
    return torch.rand(shape, dtype=torch.float64).softmax(1)


def with_missing(*shape):
    y = torch.randn(shape, dtype=torch.float64)
    y[1:][torch.rand(y[1:].shape) < 0.3] = torch.nan
    return y


def normal(*shape):
    return torch.randn(shape, dtype=torch.float64)


def positive(*shape):
    return torch.rand(shape, dtype=torch.float64) + 0.1


SIGNED = (torch.int64, torch.int32, torch.int16)
TARGETS = {
    "classes": Target((CLASSES,), (), classes, (*INTEGERS, *FLOATS)),
    "class ids": Target((CLASSES,), (), classes, SIGNED),
    "bytes": Target((CLASSES,), (), classes, (torch.uint8,)),
    "classes (B, 1)": Target((CLASSES,), (1,), classes, (*INTEGERS, *FLOATS)),
    "two heads": Target((CLASSES,), (2,), classes, (torch.int64,), heads=2),
    "sequences": Target((STEPS, CLASSES), (STEPS,), with_ignored, SIGNED),
    "maps": Target((CLASSES, SIDE, SIDE), (SIDE, SIDE), with_ignored_maps, SIGNED),
    "one-hot": Target((CLASSES,), (CLASSES,), one_hot, (*INTEGERS, torch.bool)),
    "float one-hot": Target((CLASSES,), (CLASSES,), one_hot, FLOATS),
    "binary": Target((), (), binary, (*INTEGERS, torch.bool)),
    "binary (B, 1)": Target((1,), (1,), binary, (*INTEGERS, torch.bool)),
    "masks": Target((1, SIDE, SIDE), (SIDE, SIDE), binary, (*INTEGERS, torch.bool)),
    "multi-label": Target((CLASSES,), (CLASSES,), binary, (*INTEGERS, torch.bool)),
    "soft labels": Target((CLASSES,), (CLASSES,), soft, ()),
    "float binary": Target((), (), binary, ()),
    "float masks": Target((1, SIDE, SIDE), (1, SIDE, SIDE), binary, ()),
    "float multi-label": Target((CLASSES,), (CLASSES,), binary, ()),
    "numbers": Target((), (), normal, ()),
    "numbers (B, 1)": Target((1,), (1,), normal, ()),
    "numbers (B, D)": Target((3,), (3,), normal, ()),
    "positive numbers": Target((), (), positive, ()),
    "missing numbers": Target((3,), (3,), with_missing, ()),
}


# Losses with one number per sample, as people write them: reduced by whoever calls them.


def nll(x, y):
    return F.cross_entropy(x, y, reduction="none")


def hot(x, y):
    return F.one_hot(y, CLASSES).to(x)


def scattered(x, y):
    return torch.zeros_like(x).scatter_(1, y.view(-1, 1), 1.0)


def by_range(x, y):
    return -x.log_softmax(1)[range(len(y)), y]


def crammer_singer(x, y):
    own = x.gather(1, y.view(-1, 1))
    margins = (x - own + 1).clamp(min=0)
    margins = margins.masked_fill(F.one_hot(y, CLASSES).bool(), 0)
    return margins.max(dim=1).values


def weston_watkins(x, y):
    margins = torch.clamp(x - x[torch.arange(len(y)), y].unsqueeze(1) + 1.0, min=0)
    margins[torch.arange(len(y)), y] = 0
    return margins.sum(dim=1)


def class_by_class(x, y):
    log_p, total = x.log_softmax(1), 0.0
    for c in range(CLASSES):
        total = total - (y == c) * log_p[:, c] * (c + 1)
    return total


def ignored_in_place(x, y):
    y = y.clone()
    y[y == 2] = -100
    return nll(x, y)


def ignored_by_view(x, y):
    y = y.clone()
    y.view(-1)[y.view(-1) == 1] = -100
    return nll(x, y)


def focal_of_losses(x, y):
    ce = nll(x, y)
    return (1 - torch.exp(-ce)) ** 2 * ce


def focal_of_gather(x, y):
    log_p = F.log_softmax(x, dim=-1).gather(1, y.view(-1, 1)).view(-1)
    alpha = WEIGHT.to(x).gather(0, y)
    return -1 * (1 - log_p.exp()) ** 2 * log_p * alpha


def focal_of_one_hot(x, y):
    t = hot(x, y)
    p = x.sigmoid()
    p_t = p * t + (1 - p) * (1 - t)
    ce = F.binary_cross_entropy_with_logits(x, t, reduction="none")
    return ((0.25 * t + 0.75 * (1 - t)) * (1 - p_t) ** 2 * ce).sum(1)


def ldam(x, y):
    index = torch.zeros_like(x, dtype=torch.uint8)
    index.scatter_(1, y.data.view(-1, 1), 1)
    margin = torch.matmul(WEIGHT.to(x)[None, :], index.to(x).transpose(0, 1)).view(-1, 1)
    return nll(3 * torch.where(index.bool(), x - margin, x), y)


def arcface(x, y):
    cosine = F.linear(F.normalize(x), F.normalize(CENTERS.to(x)))
    sine = torch.sqrt((1.001 - cosine**2).clamp(0, 1))
    phi = cosine * 0.88 - sine * 0.48
    phi = torch.where(cosine > -0.9, phi, cosine - 0.2)
    t = scattered(cosine, y.long())
    return nll((t * phi + (1.0 - t) * cosine) * 4, y)


def cosface(x, y):
    cosine = F.linear(F.normalize(x), F.normalize(CENTERS.to(x)))

    margin = torch.zeros_like(cosine)
    margin.scatter_(1, y[:, None], 0.3)
    return nll((cosine - margin) * 4, y)


def margin_in_place(x, y):
    z = x.clone()
    z[torch.arange(len(y)), y] -= 0.5
    return nll(z, y)


def margin_row_by_row(x, y):
    z = 1.0 * x
    for i in range(len(y)):
        z[i, y[i]] -= 0.5
    return nll(z, y)


def margin_through_rows(x, y):
    z = torch.zeros_like(x)
    for i in range(len(y)):
        z[i][y[i]] += 0.5
    return nll(x - z, y)


def smoothed_by_sum(x, y):
    log_p = F.log_softmax(x, dim=-1)
    own = -log_p.gather(dim=-1, index=y.unsqueeze(1)).squeeze(1)
    return 0.9 * own - 0.1 * log_p.mean(dim=-1)


def smoothed_by_fill(x, y):
    with torch.no_grad():
        t = torch.zeros_like(x)
        t.fill_(0.1 / (CLASSES - 1))
        t.scatter_(1, y.data.unsqueeze(1), 0.9)
    return torch.sum(-t * x.log_softmax(dim=-1), dim=-1)


def smoothed_by_full(x, y):
    t = torch.full_like(x, 0.1 / CLASSES)
    t[torch.arange(len(y)), y] += 0.9
    return -(t * x.log_softmax(1)).sum(1)


def effective_numbers(x, y):
    weight = (1 - 0.99) / (1 - 0.99 ** COUNTS.to(x))
    t = hot(x, y)
    weight = (weight.unsqueeze(0).repeat(len(y), 1) * t).sum(1).unsqueeze(1).repeat(1, CLASSES)
    return F.binary_cross_entropy_with_logits(x, t, weight=weight, reduction="none").sum(1)


def symmetric(x, y):
    p = x.softmax(1).clamp(min=1e-3, max=1.0)
    t = torch.clamp(hot(x, y), min=1e-2, max=1.0)
    return 0.5 * nll(x, y) - torch.sum(p * torch.log(t), dim=1)


def bootstrapped_soft(x, y):
    return 0.9 * nll(x, y) - 0.1 * (x.softmax(1) * x.log_softmax(1)).sum(1)


def bootstrapped_hard(x, y):
    return 0.9 * nll(x, y) + 0.1 * nll(x, x.argmax(1).detach())


def own_center(x, y):
    return (x - CENTERS.to(x).index_select(0, y.long())).pow(2).sum(1)


def center_of_distances(x, y):
    """The center loss that is most copied, whose mask compares labels with all classes."""
    distances = (x[:, None] - CENTERS.to(x)).pow(2).sum(2)
    mask = y.unsqueeze(1).expand(len(y), CLASSES).eq(torch.arange(CLASSES).expand(len(y), CLASSES))
    return (distances * mask.to(x)).clamp(min=1e-6, max=1e6).sum(1)


def own_or_other_center(x, y):
    distances = torch.cdist(x, CENTERS.to(x))
    own = distances.gather(1, y[:, None]).squeeze(1)
    other = distances.masked_fill(F.one_hot(y, CLASSES).bool(), 1e4).min(1).values
    return F.relu(own - other + 0.5)


def coral(x, y):
    levels = (y.unsqueeze(1) > torch.arange(CLASSES - 1)).to(x)
    z = x[:, 1:]
    return -(F.logsigmoid(z) * levels + (F.logsigmoid(z) - z) * (1 - levels)).sum(1)


def coral_by_list(x, y):
    levels = torch.stack([y > c for c in range(CLASSES - 1)], dim=1).to(x)
    return F.binary_cross_entropy_with_logits(x[:, 1:], levels, reduction="none").mean(1)


def soft_ordinal(x, y):
    t = (-(torch.arange(CLASSES) - y[:, None]).abs().to(x)).softmax(1)
    return -(t * x.log_softmax(1)).sum(1)


def earth_mover(x, y):
    gap = torch.cumsum(hot(x, y), dim=1) - torch.cumsum(x.softmax(1), dim=1)
    return (gap**2).mean(1)


def collected(x, y):
    losses = []
    for xi, yi in zip(x, y, strict=True):
        losses.append(-xi.log_softmax(0)[yi] * WEIGHT.to(x)[yi])
    return torch.stack(losses)


def collected_rows(x, y):
    rows = [F.cross_entropy(xi[None], yi[None], reduction="none") for xi, yi in zip(x, y)]  # noqa: B905
    return torch.cat(rows)


def chunked(x, y):
    pairs = zip(torch.chunk(x, 2), torch.chunk(y, 2), strict=True)
    return torch.cat([nll(a, b) for a, b in pairs])


def normalised(x, y):
    log_p = x.log_softmax(1)
    return -(hot(x, y) * log_p).sum(1) / (-log_p.sum(1))


def evidential(x, y):
    alpha = F.softplus(x) + 1
    total = alpha.sum(dim=1, keepdim=True)
    return (hot(x, y) * (torch.digamma(total) - torch.digamma(alpha))).sum(dim=1)


def jensen_shannon(x, y):
    p, t = x.softmax(1), hot(x, y)
    m = (0.5 * (p + t)).clamp(1e-4, 1).log()
    return (F.kl_div(m, t, reduction="none").sum(1) + F.kl_div(m, p, reduction="none").sum(1)) / 2


def proxy_nca(x, y):
    distances = torch.cdist(F.normalize(x), F.normalize(CENTERS.to(x))) ** 2
    own = distances[range(len(y)), y]
    others = torch.where(F.one_hot(y, CLASSES).bool(), -1e4, -distances)
    return own + others.logsumexp(1)


def distilled(x, y):
    teacher = CENTERS.to(x)[0].softmax(0).expand_as(x)
    return 0.3 * nll(x, y) + 0.7 * F.kl_div(x.log_softmax(1), teacher, reduction="none").sum(1)


def unlikely_others(x, y):
    p = x.softmax(1)
    return nll(x, y) - ((1 - hot(x, y)) * (1 - p).clamp(min=1e-3).log()).sum(1)


def dice_of_sample(x, y):
    p, t = x.softmax(1), hot(x, y)
    return 1 - (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)


def into_a_buffer(x, y):
    losses = torch.zeros(len(y), dtype=x.dtype)
    for i in range(len(y)):
        losses[i] = F.cross_entropy(x[i], y[i]) - x[i, y[i]] ** 2
    return losses


def no_sample_masked(x, y):
    losses = torch.zeros(len(y), dtype=x.dtype)
    easy = x[:, 0] > 1e4
    losses[easy] = nll(x[easy], y[easy])
    return losses + nll(x, y)


def weighted_by_rank(x, y):
    rank = (x.argsort(dim=1, descending=True) == y[:, None]).to(x).argmax(1)
    return (1 + rank) * nll(x, y)


def structure(x, y):
    """The loss of PraNet: places near a border weigh more."""
    t = y.unsqueeze(1).to(x)
    weight = 1 + 5 * (F.avg_pool2d(t, 3, stride=1, padding=1) - t).abs()
    losses = F.binary_cross_entropy_with_logits(x, t, reduction="none")
    return ((weight * losses).sum((2, 3)) / weight.sum((2, 3))).squeeze(1)


def boundary(x, y):
    t = y.unsqueeze(1).to(x)
    return (x.sigmoid() * (F.max_pool2d(t, 3, stride=1, padding=1) - t)).flatten(1).sum(1)


def enlarged(x, y):
    t = F.interpolate(y.unsqueeze(1).to(x), scale_factor=2, mode="nearest")
    z = F.interpolate(x, scale_factor=2, mode="bilinear")
    return F.binary_cross_entropy_with_logits(z, t, reduction="none")


def margin_by_rank(x, y):
    best = x.topk(2, dim=1).values
    rival = torch.where(x.argmax(1) == y, best[:, 1], best[:, 0])
    return F.relu(1 - x.gather(1, y[:, None])[:, 0] + rival)


EACH = {
    "classes": {
        "gather": lambda x, y: -x.log_softmax(1).gather(1, y[:, None]).squeeze(1),
        "take_along_dim": lambda x, y: (
            -torch.take_along_dim(x.log_softmax(1), y[:, None], 1)[:, 0]
        ),
        "logp[range(B), y]": by_range,
        "logp[arange, y]": lambda x, y: -x.log_softmax(1)[torch.arange(len(y)), y],
        "one_hot": lambda x, y: -(hot(x, y) * x.log_softmax(1)).sum(1),
        "scatter_": lambda x, y: -(scattered(x, y) * x.softmax(1)).sum(1).log(),
        "eye": lambda x, y: -(torch.eye(CLASSES).to(x)[y] * x.softmax(1)).sum(-1).log(),
        "einsum": lambda x, y: -torch.einsum("bc,bc->b", hot(x, y), x.log_softmax(1)),
        "einsum with costs": lambda x, y: torch.einsum(
            "bc,cd,bd->b", hot(x, y), COSTS.to(x), x.softmax(1)
        ),
        "bmm": lambda x, y: -torch.bmm(hot(x, y)[:, None], x.log_softmax(1)[:, :, None]).view(-1),
        "logsumexp": lambda x, y: x.logsumexp(1) - x.gather(1, y.unsqueeze(1)).squeeze(),
        "log of probabilities": lambda x, y: (
            -torch.log(x.softmax(1)[range(len(y)), y].clamp(min=1e-3))
        ),
        "vmap": lambda x, y: torch.vmap(F.cross_entropy)(x, y),
        "linear of one-hot": lambda x, y: (F.linear(hot(x, y), COSTS.to(x)) * x.softmax(1)).sum(1),
        "mv of one-hot": lambda x, y: torch.mv(hot(x, y), WEIGHT.to(x)) * nll(x, y),
        "isin": lambda x, y: nll(x, y) * torch.isin(y, torch.tensor([1, 2])),
        "bucketize": lambda x, y: nll(x[:, :3], torch.bucketize(y, torch.tensor([1, 2]))),
        "superclass": lambda x, y: nll(x[:, :2], torch.tensor([0, 1, 0, 1])[y]),
        "cosine to center": lambda x, y: 1 - F.cosine_similarity(x, CENTERS.to(x)[y]),
        "distance to center": lambda x, y: F.pairwise_distance(x, CENTERS.to(x)[y]),
        "dropped out": lambda x, y: F.dropout(nll(x, y), 0.0),
        "scattered margin": lambda x, y: nll(
            x.scatter(1, y[:, None], x.gather(1, y[:, None]) - 0.3), y
        ),
        "rank": weighted_by_rank,
        "hit or missed": lambda x, y: torch.where(x.argmax(1) == y, nll(x, y), 2 * nll(x, y)),
        "weight[y]": lambda x, y: WEIGHT.to(x)[y] * nll(x, y),
        "index_select": lambda x, y: WEIGHT.to(x).index_select(0, y) * nll(x, y),
        "torch.take": lambda x, y: torch.take(WEIGHT.to(x), y) * nll(x, y),
        "costs[y]": lambda x, y: (COSTS.to(x)[y] * x.softmax(1)).sum(1),
        "costs by product": lambda x, y: ((hot(x, y) @ COSTS.to(x)) * x.softmax(1)).sum(1),
        "temperature[y]": lambda x, y: nll(x / WEIGHT.to(x)[y][:, None], y),
        "where": lambda x, y: torch.where(y == 2, nll(x, y), x[:, 0] ** 2),
        "class by class": class_by_class,
        "y[mask] = -100": ignored_in_place,
        "view[mask] = -100": ignored_by_view,
        "masked_fill": lambda x, y: nll(x, y.masked_fill(y == 0, -100)),
        "masked_fill of losses": lambda x, y: nll(x, y).masked_fill(y == 0, 0.0),
        "focal of the losses": focal_of_losses,
        "focal of gather": focal_of_gather,
        "focal of one-hot": focal_of_one_hot,
        "generalised": lambda x, y: (1 - x.softmax(1)[range(len(y)), y] ** 0.7) / 0.7,
        "absolute error": lambda x, y: (hot(x, y) - x.softmax(1)).abs().sum(1),
        "Brier": lambda x, y: ((hot(x, y) - x.softmax(1)) ** 2).sum(1),
        "Crammer-Singer": crammer_singer,
        "Weston-Watkins": weston_watkins,
        "one-vs-all hinge": lambda x, y: F.relu(1 - (2 * F.one_hot(y, CLASSES) - 1) * x).sum(1),
        "runner-up margin": margin_by_rank,
        "LDAM": ldam,
        "ArcFace": arcface,
        "CosFace": cosface,
        "margin in place": margin_in_place,
        "margin row by row": margin_row_by_row,
        "margin through rows": margin_through_rows,
        "poly-1": lambda x, y: nll(x, y) + 1 - (hot(x, y) * x.softmax(-1)).sum(-1),
        "smoothed by a sum": smoothed_by_sum,
        "smoothed by fill_": smoothed_by_fill,
        "smoothed by full_like": smoothed_by_full,
        "effective numbers": effective_numbers,
        "logit adjustment": lambda x, y: nll(x + (COUNTS / COUNTS.sum()).log().to(x), y),
        "symmetric": symmetric,
        "bootstrapped, soft": bootstrapped_soft,
        "bootstrapped, hard": bootstrapped_hard,
        "center": own_center,
        "center of distances": center_of_distances,
        "own or other center": own_or_other_center,
        "CORAL": coral,
        "CORAL by list": coral_by_list,
        "soft ordinal": soft_ordinal,
        "earth mover's": earth_mover,
        "squared error of ids": lambda x, y: (x[:, 0] - y.to(x)) ** 2,
        "for xi, yi in zip": collected,
        "rows joined": collected_rows,
        "chunks joined": chunked,
        "normalised": normalised,
        "evidential": evidential,
        "Jensen-Shannon": jensen_shannon,
        "proxy NCA": proxy_nca,
        "distilled": distilled,
        "unlikelihood": unlikely_others,
        "Dice of a sample": dice_of_sample,
        "into a buffer": into_a_buffer,
        "no sample masked": no_sample_masked,
        "Taylor": lambda x, y: sum((1 - x.softmax(1)[range(len(y)), y]) ** k / k for k in (1, 2)),
        "vmapped": lambda x, y: torch.stack([
            F.cross_entropy(a, b) for a, b in zip(x.unbind(), y.unbind(), strict=True)
        ]),
        "swapped": lambda x, y: nll(x.flip(0), y.flip(0)).flip(0),
        "sorted by score": lambda x, y: nll(x[x[:, 0].argsort()], y[x[:, 0].argsort()])[
            x[:, 0].argsort().argsort()
        ],
    },
    "classes (B, 1)": {
        "(B, 1), squeezed": lambda x, y: nll(x, y.squeeze(1)),
        "(B, 1), gather": lambda x, y: -x.log_softmax(1).gather(1, y)[:, 0],
        "(B, 1), compared": lambda x, y: -((y == torch.arange(CLASSES)) * x.log_softmax(1)).sum(1),
        "(B, 1), flat": lambda x, y: F.multi_margin_loss(x, y.flatten(), reduction="none"),
    },
    "two heads": {
        "two heads": lambda x, y: nll(x[:, :2], y[0] % 2) + 0.5 * nll(x, y[1]),
        "two heads, one conditional": lambda x, y: nll(x[:, :2], y[0] % 2) * (y[1] > 0),
        "uncertainty of two heads": lambda x, y: (
            nll(x[:, :2], y[0] % 2) * math.exp(-0.3) + nll(x, y[1]) * math.exp(0.2) + 0.1
        ),
    },
    "sequences": {
        "sequence, transposed": lambda x, y: F.cross_entropy(
            x.transpose(1, 2), y, ignore_index=-1, reduction="none"
        ),
        "sequence, flat": lambda x, y: F.cross_entropy(
            x.reshape(-1, CLASSES), y.reshape(-1), ignore_index=-1, reduction="none"
        ).view(y.shape),
        "sequence, shifted": lambda x, y: F.cross_entropy(
            x[:, :-1].flatten(0, 1), y[:, 1:].flatten(), ignore_index=-1, reduction="none"
        ).view(len(y), -1),
        "sequence, gather": lambda x, y: (
            -x.log_softmax(-1).gather(-1, y.clamp(min=0).unsqueeze(-1)).squeeze(-1) * (y != -1)
        ),
        "sequence, mean of each": lambda x, y: (
            (F.cross_entropy(x.permute(0, 2, 1), y.clamp(min=0), reduction="none") * (y >= 0)).sum(
                1
            )
            / (y >= 0).sum(1).clamp(min=1)
        ),
        "sequence, step by step": lambda x, y: sum(
            F.cross_entropy(x[:, t], y[:, t], ignore_index=-1, reduction="none")
            for t in range(STEPS)
        ),
    },
    "maps": {
        "map": lambda x, y: F.cross_entropy(x, y, ignore_index=-1, reduction="none"),
        "map, y[mask] = -100": lambda x, y: nll(x, torch.where(y == -1, -100, y)),
        "map, scatter_": lambda x, y: (
            -(torch.zeros_like(x).scatter_(1, y.clamp(min=0).unsqueeze(1), 1.0) * x.log_softmax(1))
            * (y >= 0).unsqueeze(1)
        ).sum(1),
        "map, flat": lambda x, y: nll(
            x.permute(0, 2, 3, 1).reshape(-1, CLASSES), y.clamp(min=0).view(-1)
        ).view(y.shape),
        "map, focal": lambda x, y: focal_of_losses(x, y.clamp(min=0)),
        "map, Dice of a sample": lambda x, y: dice_of_maps(x, y).mean(1),
        "map, Tversky of a sample": lambda x, y: tversky_of_maps(x, y).mean(1),
    },
    "one-hot": {
        "one-hot, cross_entropy": lambda x, y: F.cross_entropy(x, y.to(x), reduction="none"),
        "one-hot, argmax": lambda x, y: nll(x, y.to(torch.uint8).argmax(1)),
        "one-hot, max": lambda x, y: nll(x, y.long().max(dim=1)[1]),
        "one-hot, nonzero": lambda x, y: nll(x, y.nonzero()[:, 1]),
        "one-hot, where": lambda x, y: -torch.where(y > 0, x.log_softmax(1), 0.0).sum(1),
        "one-hot, masked": lambda x, y: -x.log_softmax(1)[y.bool()],
        "one-hot, focal": lambda x, y: -(y * (1 - x.softmax(1)) ** 2 * x.log_softmax(1)).sum(-1),
    },
    "float one-hot": {
        "float one-hot, argmax": lambda x, y: nll(x, y.argmax(dim=1)),
        "float one-hot, max": lambda x, y: nll(x, torch.max(y, 1)[1]),
        "float one-hot, bool": lambda x, y: -(y.bool() * x.log_softmax(1)).sum(1),
        "float one-hot, compared": lambda x, y: -((y == 1) * x.softmax(1)).sum(1).log(),
    },
    "binary": {
        "binary": lambda x, y: F.binary_cross_entropy_with_logits(x, y.to(x), reduction="none"),
        "binary by hand": lambda x, y: torch.where(y == 1, -F.logsigmoid(x), -F.logsigmoid(-x)),
        "binary focal": lambda x, y: binary_focal(x, y.type_as(x)),
        "binary hinge": lambda x, y: F.relu(1 - (2 * y.to(x) - 1) * x),
        "binary exponential": lambda x, y: torch.exp(-(y.to(x) * 2 - 1) * x),
    },
    "binary (B, 1)": {
        "binary (B, 1)": lambda x, y: F.binary_cross_entropy(
            x.sigmoid(), y.to(x.dtype), reduction="none"
        )[:, 0],
        "binary (B, 1), squeezed": lambda x, y: F.soft_margin_loss(
            x.squeeze(1), 2 * y.squeeze(1).to(x) - 1, reduction="none"
        ),
    },
    "masks": {
        "mask": lambda x, y: F.binary_cross_entropy_with_logits(
            x, y.unsqueeze(1).to(x), reduction="none"
        ),
        "mask, Dice of a sample": lambda x, y: dice_of_masks(
            x.sigmoid().flatten(1), y.to(x).flatten(1)
        ),
        "mask, structure": structure,
        "mask, boundary": boundary,
        "mask, enlarged": enlarged,
    },
    "multi-label": {
        "multi-label": lambda x, y: F.binary_cross_entropy_with_logits(
            x, y.to(x), pos_weight=WEIGHT.to(x), reduction="none"
        ).mean(1),
        "multi-label, asymmetric": lambda x, y: asymmetric(x, y.to(x)),
        "multi-label, hinge": lambda x, y: F.relu(1 - (2 * y.to(x) - 1) * x).mean(1),
        "multi-label, ranking": lambda x, y: (
            F.relu(1 + x[:, None, :] - x[:, :, None])
            * ((y[:, :, None] > 0) & (y[:, None, :] == 0)).to(x)
        ).sum((1, 2)),
        "multi-label, logsumexp": lambda x, y: F.softplus(
            torch.logsumexp(x.masked_fill(y.bool(), -1e4), 1)
            + torch.logsumexp((-x).masked_fill(~y.bool(), -1e4), 1)
        ),
        "multi-label, where": lambda x, y: torch.where(
            y == 1, 2 * F.softplus(-x), F.softplus(x)
        ).sum(1),
    },
    "soft labels": {
        "soft, by hand": lambda x, y: -(y * x.log_softmax(1)).sum(1),
        "soft, kl": lambda x, y: F.kl_div(x.log_softmax(1), y, reduction="none").sum(1),
        "soft, temperature": lambda x, y: -((y / 0.5).softmax(1) * x.log_softmax(1)).sum(1),
        "soft, sharpened": lambda x, y: (
            -(y**2 / (y**2).sum(1, keepdim=True) * x.log_softmax(1)).sum(1)
        ),
        "soft, squared": lambda x, y: ((x.softmax(1) - y) ** 2).sum(1),
        "soft, focal": lambda x, y: -((y - x.softmax(1)).abs() ** 2 * y * x.log_softmax(1)).sum(1),
    },
    "float binary": {
        "float binary": lambda x, y: F.binary_cross_entropy_with_logits(x, y, reduction="none"),
        "float binary, focal": lambda x, y: binary_focal(x, y),
    },
    "float masks": {
        "float mask": lambda x, y: F.binary_cross_entropy_with_logits(x, y, reduction="none"),
        "float mask, Dice of a sample": lambda x, y: dice_of_masks(
            x.sigmoid().flatten(1), y.flatten(1)
        ),
    },
    "float multi-label": {
        "float multi-label": lambda x, y: F.binary_cross_entropy_with_logits(
            x, y, pos_weight=WEIGHT.to(x), reduction="none"
        ),
        "float multi-label, asymmetric": lambda x, y: asymmetric(x, y),
        "float multi-label, soft margin": lambda x, y: F.multilabel_soft_margin_loss(
            x, y, reduction="none"
        ),
    },
    "numbers": {
        "quantile": lambda x, y: torch.max(0.9 * (y - x), -0.1 * (y - x)),
        "quantile by where": lambda x, y: torch.where(y > x, 0.9 * (y - x), 0.1 * (x - y)),
        "Huber by hand": lambda x, y: torch.where(
            (x - y).abs() < 1, 0.5 * (x - y) ** 2, (x - y).abs() - 0.5
        ),
        "log-cosh": lambda x, y: torch.log(torch.cosh(x - y)),
        "relative": lambda x, y: (x - y).abs() / (y.abs() + 1),
        "far targets weigh more": lambda x, y: (1 + y**2) * (x - y) ** 2,
        "standardised": lambda x, y: (x - (y - 0.3) / 1.7) ** 2,
        "Gaussian by hand": lambda x, y: 0.5 * (x.exp() + (x - y) ** 2 * (-x).exp()),
        "eps-insensitive": lambda x, y: F.relu((x - y).abs() - 0.1),
    },
    "numbers (B, 1)": {
        "number (B, 1), squeezed": lambda x, y: (x.squeeze(1) - y.squeeze(1)) ** 2,
        "number (B, 1), flat": lambda x, y: F.smooth_l1_loss(
            x.flatten(), y.view(-1), reduction="none"
        ),
    },
    "numbers (B, D)": {
        "numbers, columns": lambda x, y: (x[:, 0] - y[:, 0]) ** 2 + (x[:, 2] - y[:, 2]).abs(),
        "numbers, distance": lambda x, y: (x - y).norm(dim=1),
        "numbers, cosine": lambda x, y: 1 - F.cosine_similarity(x, y),
        "numbers, tasks": lambda x, y: sum((a - b) ** 2 for a, b in zip(x.T, y.T, strict=True)),
    },
    "positive numbers": {
        "log error": lambda x, y: (x - torch.log1p(y)) ** 2,
        "gamma": lambda x, y: x + y * torch.exp(-x),
        "Tweedie": lambda x, y: -y * torch.exp(-0.5 * x) / -0.5 + torch.exp(0.5 * x) / 0.5,
    },
    "missing numbers": {
        "missing, where": lambda x, y: torch.where(y.isnan(), 0.0, (x - y.nan_to_num()) ** 2),
        "missing, mask": lambda x, y: (x - torch.nan_to_num(y)) ** 2 * (~torch.isnan(y)).to(x),
    },
}


def binary_focal(x, y):
    p = x.sigmoid()
    p_t = p * y + (1 - p) * (1 - y)
    ce = F.binary_cross_entropy_with_logits(x, y, reduction="none")
    return (0.25 * y + 0.75 * (1 - y)) * (1 - p_t) ** 2 * ce


def asymmetric(x, y):
    p = torch.sigmoid(x)
    q = (1 - p + 0.05).clamp(max=1)
    losses = y * p.clamp(min=1e-3).log() + (1 - y) * q.clamp(min=1e-3).log()
    p_t = p * y + q * (1 - y)
    return -(losses * torch.pow(1 - p_t, y + 2 * (1 - y))).sum(1)


def dice_of_masks(p, t):
    return 1 - (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)


def maps_of(x, y):
    """Returns probabilities and one-hot labels, without ignored places."""
    valid = (y != -1).unsqueeze(1)
    t = F.one_hot(y.clamp(min=0).long(), CLASSES).permute(0, 3, 1, 2).to(x)
    return x.softmax(1) * valid, t * valid


def dice_of_maps(x, y):
    p, t = maps_of(x, y)
    return 1 - (2 * (p * t).sum((2, 3)) + 1) / (p.sum((2, 3)) + t.sum((2, 3)) + 1)


def tversky_of_maps(x, y):
    p, t = (part.flatten(2) for part in maps_of(x, y))
    hit, false, missed = (p * t).sum(2), (p * (1 - t)).sum(2), ((1 - p) * t).sum(2)
    return 1 - (hit + 1) / (hit + 0.3 * false + 0.7 * missed + 1)


# Losses that reduce the batch themselves.


def options(x, **more):
    return {"weight": WEIGHT.to(x), **more}


TORCH = {
    "classes": {
        "cross_entropy": F.cross_entropy,
        "cross_entropy, smoothed": functools.partial(F.cross_entropy, label_smoothing=0.1),
        "nll_loss": lambda x, y, **o: F.nll_loss(x.log_softmax(1), y, **o),
        "multi_margin_loss": F.multi_margin_loss,
        "MultiMarginLoss, weighted": lambda x, y, **o: nn.MultiMarginLoss(**options(x), **o)(x, y),
        "cross_entropy of one-hot": lambda x, y, **o: F.cross_entropy(x, hot(x, y), **o),
        "hinge_embedding_loss": lambda x, y, **o: F.hinge_embedding_loss(
            x[:, 0], 2 * (y > 1).long() - 1, **o
        ),
        "cosine_embedding_loss": lambda x, y, **o: F.cosine_embedding_loss(
            x, x.detach().flip(1), 2 * (y > 1).long() - 1, **o
        ),
        "margin_ranking_loss": lambda x, y, **o: F.margin_ranking_loss(
            x[:, 0], x[:, 1], 2 * (y > 1).long() - 1, margin=0.5, **o
        ),
        "triplet_margin_loss of centers": lambda x, y, **o: F.triplet_margin_loss(
            x, CENTERS.to(x)[y], CENTERS.to(x)[(y + 1) % CLASSES], **o
        ),
    },
    "binary": {
        "BCEWithLogitsLoss": lambda x, y, **o: nn.BCEWithLogitsLoss(**o)(x, y.to(x)),
        "binary_cross_entropy": lambda x, y, **o: F.binary_cross_entropy(
            x.sigmoid(), y.to(x), **o
        ),
    },
    "multi-label": {
        "multilabel_soft_margin_loss": lambda x, y, **o: F.multilabel_soft_margin_loss(
            x, y.to(x), **o
        ),
        "BCEWithLogitsLoss, weighted": lambda x, y, **o: nn.BCEWithLogitsLoss(**options(x), **o)(
            x, y.to(x)
        ),
    },
    "soft labels": {
        "cross_entropy of soft labels": F.cross_entropy,
        "soft, weighted and smoothed": lambda x, y, **o: F.cross_entropy(
            x, y, **options(x, label_smoothing=0.1), **o
        ),
        "KLDivLoss": lambda x, y, **o: F.kl_div(
            x.log_softmax(1), y, reduction=o["reduction"].replace("mean", "batchmean")
        ),
    },
    "numbers": {
        "mse_loss": F.mse_loss,
        "l1_loss": F.l1_loss,
        "smooth_l1_loss": F.smooth_l1_loss,
        "huber_loss": F.huber_loss,
        "gaussian_nll_loss": lambda x, y, **o: F.gaussian_nll_loss(x, y, x**2 + 1, **o),
    },
    "positive numbers": {"poisson_nll_loss": F.poisson_nll_loss},
    "numbers (B, D)": {"MSELoss": lambda x, y, **o: nn.MSELoss(**o)(x, y)},
}


# Losses made of sums over the batch: the loss, what it sums, and what it makes of the sums.


def one(x, y):
    return torch.ones(len(y), dtype=x.dtype)


def quotient(total, count):
    return total.sum() / count.sum()


def at_least_one(total, count):
    return total.sum() / count.sum().clamp(min=1)


def of_mean(change):
    return lambda total, count: change(total.sum() / count.sum())


def of_means(change):
    return lambda a, b, count: change(a.sum() / count.sum(), b.sum() / count.sum())


def nll_and_one(x, y):
    return nll(x, y), one(x, y)


def nll_margin_and_one(x, y):
    return nll(x, y), F.multi_margin_loss(x, y, reduction="none"), one(x, y)


def weighted_mean(x, y):
    weight = WEIGHT.to(x)[y]
    return (weight * nll(x, y)).sum() / weight.sum()


def weights_to_mean_one(x, y):
    weight = WEIGHT.to(x)[y]
    return (nll(x, y) * (weight / weight.sum())).sum()


def masked_mean(x, y):
    mask = (y != 2).float().to(x)
    return torch.sum(nll(x, y) * mask) / torch.sum(mask)


def mean_of_missed(x, y):
    missed = (x.argmax(dim=1) != y).to(x)
    return (nll(x, y) * missed).sum() / missed.sum().clamp(min=1)


def focal_by_positives(x, y):
    return focal_of_one_hot(x, y).sum() / (y > 0).sum().clamp(min=1)


def overlaps(x, y):
    p, t = x.softmax(1), hot(x, y)
    return p * t, p, t


def dice(hit, p, t):
    return 1 - ((2 * hit + 1) / (p + t + 1)).mean()


def jaccard(hit, p, t):
    return 1 - ((hit + 1) / (p + t - hit + 1)).mean()


def focal_tversky(hit, p, t):
    return ((1 - (hit + 1) / (hit + 0.3 * (p - hit) + 0.7 * (t - hit) + 1)) ** 0.75).mean()


def generalised_dice(hit, p, t):
    share = 1 / (t + 1) ** 2
    return 1 - 2 * (share * hit).sum() / (share * (p + t)).sum()


def of_overlaps(finish):
    def loss(x, y):
        p, t = x.softmax(dim=1), hot(x, y)
        return finish((p * t).sum(0), p.sum(0), t.sum(0))

    return loss, overlaps, finish


def map_overlaps(x, y):
    p, t = maps_of(x, y)
    return (p * t).sum((2, 3)), p.sum((2, 3)), t.sum((2, 3))


def of_map_overlaps(finish):
    def loss(x, y):
        p, t = maps_of(x, y)
        dims = (0, 2, 3)
        return finish((p * t).sum(dims), p.sum(dims), t.sum(dims))

    return loss, map_overlaps, finish


def flat_dice(x, y):
    p, t = x.sigmoid().view(-1), y.to(x).view(-1)
    return 1 - (2.0 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)


def mask_overlaps(x, y):
    t = y.unsqueeze(1).to(x)
    return x.sigmoid() * t, x.sigmoid(), t


def squared_focal(ce):
    return (1 - torch.exp(-ce)) ** 2 * ce


def uncertain(first, second):
    return first * math.exp(-0.3) + 0.3 + second * math.exp(0.2) - 0.2


def valid_nll(x, y):
    return F.cross_entropy(x.mT, y, ignore_index=-1, reduction="none"), (y != -1).to(x)


def valid_mean(x, y):
    losses = F.cross_entropy(x.transpose(1, 2), y, ignore_index=-1, reduction="none")
    mask = y.ne(-1)
    return (losses * mask).sum() / mask.sum()


def valid_mean_of_gather(x, y):
    mask = (y != -1).unsqueeze(-1)
    losses = -x.log_softmax(-1).gather(-1, y.clamp(min=0).unsqueeze(-1))
    losses.masked_fill_(~mask, 0.0)
    return losses.sum() / mask.sum()


def micro_batched(x, y):
    total = 0
    for a, b in zip(x.chunk(2), y.chunk(2), strict=True):
        total = total + F.cross_entropy(a, b) * len(b) / len(y)
    return total


SUMS = {
    "classes": {
        "micro-batches": (micro_batched, nll_and_one, quotient),
        "sum in a loop": (
            lambda x, y: sum(F.cross_entropy(a, b) for a, b in zip(x, y, strict=True)) / len(y),
            nll_and_one,
            quotient,
        ),
        "weighted mean": (
            weighted_mean,
            lambda x, y: (WEIGHT.to(x)[y] * nll(x, y), WEIGHT.to(x)[y]),
            quotient,
        ),
        "weights divided by their sum": (
            weights_to_mean_one,
            lambda x, y: (WEIGHT.to(x)[y] * nll(x, y), WEIGHT.to(x)[y]),
            quotient,
        ),
        "masked mean": (
            masked_mean,
            lambda x, y: (nll(x, y) * (y != 2), (y != 2).to(x)),
            quotient,
        ),
        "mean of what is missed": (
            mean_of_missed,
            lambda x, y: (nll(x, y) * (x.argmax(1) != y), (x.argmax(1) != y).to(x)),
            at_least_one,
        ),
        "focal by positives": (
            focal_by_positives,
            lambda x, y: (focal_of_one_hot(x, y), (y > 0).to(x)),
            at_least_one,
        ),
        "Dice": of_overlaps(dice),
        "Jaccard": of_overlaps(jaccard),
        "Tversky, focal": of_overlaps(focal_tversky),
        "Dice, generalised": of_overlaps(generalised_dice),
        "focal of the mean": (
            lambda x, y: squared_focal(F.cross_entropy(x, y)),
            nll_and_one,
            of_mean(squared_focal),
        ),
        "log of the mean": (
            lambda x, y: torch.log(1 + nll(x, y).mean()),
            nll_and_one,
            of_mean(torch.log1p),
        ),
        "root of the mean": (
            lambda x, y: F.mse_loss(x[:, 0], y.to(x)).sqrt(),
            lambda x, y: ((x[:, 0] - y.to(x)) ** 2, one(x, y)),
            of_mean(torch.sqrt),
        ),
        "loss / loss.detach()": (
            lambda x, y: F.cross_entropy(x, y) / F.cross_entropy(x, y).detach(),
            nll_and_one,
            of_mean(lambda ce: ce / ce.detach()),
        ),
        "uncertainty of two losses": (
            lambda x, y: uncertain(F.cross_entropy(x, y), F.multi_margin_loss(x, y)),
            nll_margin_and_one,
            of_means(uncertain),
        ),
        "larger of two losses": (
            lambda x, y: torch.max(F.cross_entropy(x, y), F.multi_margin_loss(x, y)),
            nll_margin_and_one,
            of_means(torch.max),
        ),
        "product of two losses": (
            lambda x, y: F.cross_entropy(x, y) * F.multi_margin_loss(x, y),
            nll_margin_and_one,
            of_means(torch.mul),
        ),
        "two losses stacked": (
            lambda x, y: torch.stack([F.cross_entropy(x, y), F.multi_margin_loss(x, y)]).norm(),
            nll_margin_and_one,
            of_means(torch.hypot),
        ),
    },
    "sequences": {
        "sequence, valid mean": (valid_mean, valid_nll, quotient),
        "sequence, valid mean of gather": (valid_mean_of_gather, valid_nll, quotient),
        "sequence, perplexity": (
            lambda x, y: torch.exp(
                F.cross_entropy(x.reshape(-1, CLASSES), y.view(-1), ignore_index=-1)
            ),
            valid_nll,
            of_mean(torch.exp),
        ),
    },
    "maps": {
        "map, Dice": of_map_overlaps(dice),
        "map, Jaccard": of_map_overlaps(jaccard),
        "map, Dice and cross_entropy": (
            lambda x, y: of_map_overlaps(dice)[0](x, y) + F.cross_entropy(x, y, ignore_index=-1),
            lambda x, y: (
                *map_overlaps(x, y),
                F.cross_entropy(x, y, ignore_index=-1, reduction="none"),
                (y != -1).to(x),
            ),
            lambda hit, p, t, total, count: dice(hit, p, t) + quotient(total, count),
        ),
    },
    "masks": {
        "mask, Dice": (
            flat_dice,
            mask_overlaps,
            lambda hit, p, t: 1 - (2 * hit.sum() + 1) / (p.sum() + t.sum() + 1),
        ),
    },
}

# The same as one call of torch's: the loss, and what it divides by.
COUNTED = {
    "bytes": {
        "CrossEntropyLoss, weighted, of uint8": (
            lambda x, y, **o: nn.CrossEntropyLoss(**options(x), **o)(x, y),
            lambda x, y: WEIGHT.to(x)[y],
        ),
    },
    "class ids": {
        "CrossEntropyLoss, weighted": (
            lambda x, y, **o: nn.CrossEntropyLoss(**options(x), **o)(x, y),
            lambda x, y: WEIGHT.to(x)[y],
        ),
        "CrossEntropyLoss, all options": (
            lambda x, y, **o: F.cross_entropy(
                x, y, **options(x, label_smoothing=0.2, ignore_index=2), **o
            ),
            lambda x, y: WEIGHT.to(x)[y] * (y != 2),
        ),
        "NLLLoss, weighted": (
            lambda x, y, **o: nn.NLLLoss(**options(x), **o)(x.log_softmax(1), y),
            lambda x, y: WEIGHT.to(x)[y],
        ),
    },
    "sequences": {
        "sequence, ignore_index": (
            lambda x, y, **o: F.cross_entropy(x.mT, y, ignore_index=-1, **o),
            lambda x, y: (y != -1).to(x),
        ),
    },
    "maps": {
        "map, ignore_index": (
            lambda x, y, **o: F.cross_entropy(x, y, ignore_index=-1, **o),
            lambda x, y: (y != -1).to(x),
        ),
        "map, ignore_index, weighted": (
            lambda x, y, **o: F.cross_entropy(x, y, **options(x, ignore_index=-1), **o),
            lambda x, y: WEIGHT.to(x)[y.clamp(min=0)] * (y != -1),
        ),
    },
}


# Losses of the batch as a whole, of which samples with weights of their own have no mixture.


def hard_examples(x, y):
    return nll(x, y).topk(max(1, len(y) // 2)).values.mean()


def hard_by_sort(x, y):
    return torch.sort(nll(x, y), descending=True)[0][: max(1, len(y) // 2)].mean()


def hard_by_threshold(x, y):
    losses = nll(x, y)
    return losses[losses > losses.detach().mean() - 1e-3].mean()


def kept_only(x, y):
    return F.cross_entropy(x[y != 2], y[y != 2], reduction="sum")


def supervised_contrastive(x, y):
    z = F.normalize(x)
    same = torch.eq(y.contiguous().view(-1, 1), y.contiguous().view(-1, 1).T).to(x)
    logits = z @ z.T / 0.5
    logits = logits - logits.max(dim=1, keepdim=True).values.detach()
    others = torch.scatter(torch.ones_like(same), 1, torch.arange(len(y)).view(-1, 1), 0)
    same = same * others
    log_p = logits - torch.log((logits.exp() * others).sum(1, keepdim=True) + 1e-3)
    return -((same * log_p).sum(1) / same.sum(1).clamp(min=1)).mean()


def triplets_of_batch(x, y):
    distances = torch.cdist(x, x)
    same = y.unsqueeze(0) == y.unsqueeze(1)
    far = torch.where(same, distances, 0.0).max(1).values
    near = torch.where(same, 1e3, distances).min(1).values
    return F.relu(far - near + 1).mean()


def contrastive_pairs(x, y):
    same = (y[:, None] == y[None, :]).to(x)
    squared = ((x[:, None] - x[None, :]) ** 2).sum(2)
    return (same * squared + (1 - same) * F.relu(4 - squared)).mean()


def class_means(x, y):
    total = 0
    for c in range(CLASSES):
        mask = y == c
        total = total + (x[mask].sum(0) ** 2).sum()
    return total / len(y)


def prototypes(x, y):
    t = hot(x, y)
    means = t.T @ x / t.sum(0).clamp(min=1)[:, None]
    return F.cross_entropy(-torch.cdist(x, means), y)


def prototypes_by_index_add(x, y):
    sums = torch.zeros(CLASSES, CLASSES, dtype=x.dtype).index_add(0, y, x)
    return (sums**2).mean()


def of_positions(x, y):
    return (x[torch.where(y == 1)] ** 2).sum()


def permuted_targets(x, y):
    losses = nll(x, y)
    return (losses * losses.flip(0)).mean()


WHOLE = {
    "classes": {
        "OHEM by topk": hard_examples,
        "OHEM by sort": hard_by_sort,
        "OHEM by threshold": hard_by_threshold,
        "x[y != 2]": kept_only,
        "supervised contrastive": supervised_contrastive,
        "hardest triplets": triplets_of_batch,
        "contrastive pairs": contrastive_pairs,
        "class means": class_means,
        "prototypes": prototypes,
        "prototypes by index_add": prototypes_by_index_add,
        "x[torch.where(y == 1)]": of_positions,
        "losses times losses": permuted_targets,
        "spread of losses": lambda x, y: nll(x, y).mean() + nll(x, y).var(unbiased=False),
        "largest loss": lambda x, y: nll(x, y).max(),
        "tilted": lambda x, y: nll(x, y).logsumexp(0),
    },
    "numbers": {
        "correlation": lambda x, y: (
            -((x - x.mean()) * (y - y.mean())).sum() / ((x.var() + 1) * (y.var() + 1)).sqrt()
        ),
        "explained variance": lambda x, y: ((x - y) ** 2).sum() / ((y - y.mean()) ** 2).sum(),
        "worst error": lambda x, y: (x - y).abs().max(),
        "differences": lambda x, y: ((x[:, None] - x) - (y[:, None] - y)).abs().mean(),
    },
    "missing numbers": {
        "missing, selected": lambda x, y: F.mse_loss(x[~y.isnan()], y[~y.isnan()]),
        "missing, nanmean": lambda x, y: torch.nanmean((x - y) ** 2),
        "missing, masked mean": lambda x, y: (
            torch.where(y.isnan(), 0.0, (x - y.nan_to_num()) ** 2).sum() / (~y.isnan()).sum()
        ),
    },
}


# All of them, in one form.


@dataclass(frozen=True)
class Case:
    """A loss of one kind of target, the sums that it is made of, and what it makes of them."""

    target: Target
    loss: Callable[..., torch.Tensor]
    sums: Callable[..., tuple[torch.Tensor, ...]] | None = None
    finish: Callable[..., torch.Tensor] = quotient
    reductions: tuple[str, ...] = REDUCTIONS


def of_each(target, each):
    def loss(x, y, reduction):
        losses = each(x, y)
        return losses if reduction == "none" else getattr(losses, reduction)()

    return Case(target, loss, lambda x, y: (each(x, y), torch.ones_like(each(x, y))))


def of_torch(target, loss, count=None):
    def sums(x, y):
        losses = loss(x, y, reduction="none")
        return losses, torch.ones_like(losses) if count is None else count(x, y)

    return Case(target, lambda x, y, reduction: loss(x, y, reduction=reduction), sums)


def of_batch(target, loss, *parts):
    return Case(target, lambda x, y, reduction: loss(x, y), *parts, reductions=("mean",))


CASES = {
    name: make(TARGETS[kind], *(parts if isinstance(parts, tuple) else (parts,)))
    for make, table in [
        (of_each, EACH),
        (of_torch, TORCH),
        (of_torch, COUNTED),
        (of_batch, SUMS),
        (of_batch, WHOLE),
    ]
    for kind, losses in table.items()
    for name, parts in losses.items()
}

# What has no rule although there is a mixture. With one weight per batch, nothing.
NO_RULE = {
    "per_batch": frozenset({"vmap"}),
    "per_sample": frozenset({
        "vmap",
        "einsum",
        "einsum with costs",
        "isin",
        "bucketize",
        "margin row by row",
        "margin through rows",
        "no sample masked",
        "one-hot, nonzero",
        "one-hot, masked",
        "mask, structure",
        "mask, boundary",
        "mask, enlarged",
    }),
}

# What is wrong, and known to be; the table says it, too.

WRONG: dict[str, set[str]] = {"per_batch": set(), "per_sample": set()}


# Batches of the types that a loss works with.


@dataclass(frozen=True)
class Types:
    """The types of logits and labels, and whether the loss is given ``y.long()``."""

    logits: torch.dtype
    label: torch.dtype
    casts: bool = False

    @property
    def tolerance(self):
        return max(TOLERANCE[self.logits], TOLERANCE.get(self.label, 0))


class Batch:
    """Logits, candidates and weights for a loss, and what it gives."""

    def __init__(self, name, types, *, weights="per_batch", size=4, count=2):
        self.case, self.types = CASES[name], types
        target = self.case.target
        self.x = torch.randn(size, *target.logits, dtype=torch.float64).to(types.logits)
        self.x.requires_grad_()
        y = target.draw(size, *target.label).to(types.label)
        self.candidates = [y, *(y[torch.randperm(size)] for _ in range(count - 1))]
        self.weights = draw_weights(
            per_sample=weights == "per_sample", batch=size, candidates=count
        )

    def plain(self, y, reduction):
        """Returns the loss of labels that are not mixed."""
        return self._call(self.x, self.case.target.heads_of(y), reduction)

    def mixed(self, reduction):
        """Returns the loss of the mixed labels."""
        candidates, weights = self.candidates, self.weights
        if self.case.target.heads == 1:
            return self._call(self.x, MixedTarget(candidates, weights), reduction)
        usage, heads = Usage(), zip(*(y.unbind(1) for y in candidates), strict=True)
        targets = [MixedTarget(head, weights, usage) for head in heads]
        return self._call(self.x, targets, reduction)

    def by_hand(self, reduction):
        """Returns what mixed labels must give, None where there is no mixture."""
        if self.case.target.is_number:
            shape = self.weights.shape + (1,) * (self.candidates[0].ndim + 1 - self.weights.ndim)
            shares = self.weights.to(self.types.label).view(shape)
            return self.plain(sum(w * y for w, y in self._pairs(shares)), reduction)
        if self.weights.ndim == 1:
            return sum(w.to(self.x) * self.plain(y, reduction) for w, y in self._pairs())
        if self.case.sums is None:
            return None
        sums = self._weighted_sums()
        if reduction == "mean":
            return self.case.finish(*(part.sum(0) for part in sums))
        return sums[0] if reduction == "none" else sums[0].sum()

    def mean_over_samples(self):
        """Returns the mean of the losses of each sample alone, weighted."""
        losses = [
            w[i].to(self.x) * self._call(self.x[i : i + 1], self._sample(y, i), "mean")
            for w, y in self._pairs()
            for i in range(len(self.x))
        ]
        return sum(losses) / len(self.x)

    def _call(self, x, y, reduction):
        return self.case.loss(x, y.long() if self.types.casts else y, reduction)

    def _pairs(self, shares=None):
        return zip(self.weights if shares is None else shares, self.candidates, strict=True)

    def _sample(self, y, i):
        y = y[i : i + 1]
        return self.case.target.heads_of(y.long() if self.case.target.is_class else y)

    def _weighted_sums(self):
        """Returns what the loss sums, of each sample alone, weighted."""
        samples = []
        for i in range(len(self.x)):
            of_candidates = [
                [w[i].to(self.x) * part for part in self.case.sums(self.x[i : i + 1], sample)]
                for w, sample in ((w, self._sample(y, i)) for w, y in self._pairs())
            ]
            samples.append([sum(parts) for parts in zip(*of_candidates, strict=True)])
        return [torch.cat(parts) for parts in zip(*samples, strict=True)]

    def graded(self, value):
        """Returns a loss and its gradient, of several in a direction that tells them apart."""
        value = merge(value)
        direction = torch.arange(1.0, value.numel() + 1).sin().to(value).view(value.shape)
        (gradient,) = torch.autograd.grad((value * direction).sum(), self.x, retain_graph=True)
        return value.detach(), gradient

    def assert_close(self, actual, expected):
        tolerance = self.types.tolerance
        actual, expected = self.graded(actual), self.graded(expected)
        assert_close(actual, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


@functools.cache
def types_of(name):
    """Returns the types for which a loss works with plain labels, the usual ones first."""
    target = CASES[name].target
    found = {}
    for x in FLOATS:
        for y in target.dtypes or dict.fromkeys((x, *FLOATS[:2])):
            for casts in [False] * (not (target.is_class and y in FLOATS)) + [
                True
            ] * target.is_class:
                if (x, y) not in found and works(name, Types(x, y, casts)):
                    found[x, y] = Types(x, y, casts)
    return list(found.values())


def works(name, types):
    torch.default_generator.manual_seed(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            batch = Batch(name, types, size=12)
            batch.graded(batch.plain(batch.candidates[0], batch.case.reductions[0]))
    except (RuntimeError, IndexError, TypeError, ValueError, UserWarning):
        return False
    return True


@st.composite
def batches(draw, name=None, weights=None):
    """Draws a loss, if it is not given, its batch and a reduction."""
    name = draw(st.sampled_from(RIGHT[weights])) if name is None else name
    torch.default_generator.manual_seed(draw(st.integers(0, 2**20)))
    types = draw(st.sampled_from(types_of(name)))
    size, count = draw(st.sampled_from([4, 3, 5, 2])), draw(st.integers(2, 3))
    reduction = draw(st.sampled_from(CASES[name].reductions))
    return name, Batch(name, types, weights=weights, size=size, count=count), reduction


# The laws.

WEIGHTS = pytest.mark.parametrize("weights", ["per_batch", "per_sample"])
RIGHT = {key: [name for name in CASES if name not in names] for key, names in WRONG.items()}


def may_be_refused(name, weights):
    case = CASES[name]
    whole = case.sums is None and not case.target.is_number
    return name in NO_RULE[weights] or (whole and weights == "per_sample")


@contextlib.contextmanager
def unless_refused(name, weights):
    """Ends a comparison where a loss is refused, which must be known of it."""
    try:
        yield
    except NoRuleError:
        assert may_be_refused(name, weights)


def right_losses():
    return [(name, weights) for weights, names in RIGHT.items() for name in names]


@pytest.mark.parametrize(("name", "weights"), right_losses())
@settings(max_examples=3, phases=[Phase.generate])
@given(data=st.data())
def test_any_loss_of_any_target_is_the_mixture(data, name, weights):
    """Or is refused, if it is no sum over samples, or listed above."""
    _, batch, reduction = data.draw(batches(name, weights))

    with unless_refused(name, weights):
        actual = batch.mixed(reduction)
        expected = batch.by_hand(reduction)
        assert expected is not None
        batch.assert_close(actual, expected)


@WEIGHTS
@settings(max_examples=150)
@given(data=st.data())
def test_a_weight_of_one_is_the_plain_loss(data, weights):
    name, batch, reduction = data.draw(batches(weights=weights))
    batch.weights[0], batch.weights[1:] = 1, 0

    with unless_refused(name, weights):
        actual = batch.mixed(reduction)
        batch.assert_close(actual, batch.plain(batch.candidates[0], reduction))


@WEIGHTS
@settings(max_examples=150)
@given(data=st.data())
def test_candidates_that_agree_give_the_plain_loss(data, weights):
    name, batch, reduction = data.draw(batches(weights=weights))
    batch.candidates = batch.candidates[:1] * len(batch.candidates)

    with unless_refused(name, weights):
        actual = batch.mixed(reduction)
        batch.assert_close(actual, batch.plain(batch.candidates[0], reduction))


@WEIGHTS
@settings(max_examples=150)
@given(data=st.data())
def test_the_order_of_the_candidates_changes_nothing(data, weights):
    name, batch, reduction = data.draw(batches(weights=weights))

    with unless_refused(name, weights):
        expected = batch.mixed(reduction)
        batch.candidates, batch.weights = batch.candidates[::-1], batch.weights.flip(0)
        batch.assert_close(batch.mixed(reduction), expected)


# What a documentation may say of each loss.


def table():
    """Returns rows of a loss, and what it gives with one weight per batch and with one per sample.

    Each is tried with a few batches: "exact", the "interpolated target" of floats, the
    "soft-label form", "refused", "inexact" or "fails" by another error than a refusal.
    """
    return [(name, *(result_of(name, weights) for weights in WRONG)) for name in CASES]


@functools.cache
def result_of(name, weights):
    results = []
    for seed in range(4):
        torch.default_generator.manual_seed(seed)
        results.append(result_with(Batch(name, types_of(name)[0], weights=weights)))
    order = ["inexact", "fails", "refused", "soft-label form", "interpolated target", "exact"]
    return min(results, key=order.index)


def result_with(batch):
    reduction = batch.case.reductions[0]
    try:
        actual = batch.mixed(reduction)
    except NoRuleError:
        return "refused"
    except (RuntimeError, IndexError, UserWarning):
        return "fails"
    if not agree(batch, actual, batch.by_hand(reduction)):
        return "inexact"
    if batch.case.target.is_number:
        return "interpolated target"
    exact = batch.weights.ndim == 1 or agree(batch, actual, batch.mean_over_samples())
    return "exact" if exact else "soft-label form"


def agree(batch, actual, expected):
    try:
        batch.assert_close(actual, expected)
    except AssertionError:
        return False
    return True


def test_the_table_says_what_each_loss_gives():
    rows = {name: results for name, *results in table()}

    assert rows.keys() == CASES.keys()
    assert rows["cross_entropy"] == ["exact", "exact"]
    assert rows["quantile"] == ["interpolated target", "interpolated target"]
    assert rows["Dice"] == ["exact", "soft-label form"]
    assert rows["OHEM by topk"] == ["exact", "refused"]


@WEIGHTS
def test_the_lists_above_name_what_is_refused_or_wrong_and_nothing_else(weights):
    results = {name: result_of(name, weights) for name in CASES}

    refused = {name for name, result in results.items() if result == "refused"}
    wrong = {name for name, result in results.items() if result in ("inexact", "fails")}

    assert refused == {name for name in CASES if may_be_refused(name, weights)}
    assert wrong == WRONG[weights]
