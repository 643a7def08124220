"""Tests that the mixing of bird-song solutions is ours, as docs/recipes.md says.

Restated from the formulas of modules/model.py in LIHANG-HONG/birdclef2023-2nd-place-solution, the
classes ``Mixup(mix_beta, mixup_prob, mixup_double)`` and ``Mixup2(mix_beta, mixup2_prob)``, with
the partners given instead of drawn.
"""

import numpy as np
import pytest
import torch
from lightning import LightningModule
from scipy import stats
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader

from lightning_mixup import Mixup, MixupCallback, OneOf, Overlay

BIRDS, CLIPS = 5, 6
SHAPES = {2: (40,), 3: (8, 5), 4: (1, 8, 5)}  # waveforms, spectrograms, spectrograms as images


def add_clips(clips, birds, weights, partners):
    """Their Mixup: the sum of clips, the union of birds, the mean of weights."""
    heard = [clips, *(clips[partner] for partner in partners)]
    there = [birds, *(birds[partner] for partner in partners)]
    counted = [weights, *(weights[partner] for partner in partners)]
    return sum(heard), sum(there).clamp(0, 1), sum(counted) / len(counted)


def interpolate_clips(clips, birds, weights, partner, shares):
    """Their Mixup2: each clip has a share of its own."""

    def between(x):
        column = shares.reshape(-1, *[1] * (x.ndim - 1))
        return column * x + (1 - column) * x[partner]

    return between(clips), between(birds), between(weights)


class Detector(LightningModule):
    """A module like theirs: a loss per class and sample, which sample weights multiply."""

    def __init__(self, shape):
        super().__init__()
        self.layer = torch.nn.Linear(int(np.prod(shape)), BIRDS)
        self.callback, self.seen = None, []

    def loss_of(self, clips, birds, weights):
        logits = self.layer(clips.flatten(1))
        loss = binary_cross_entropy_with_logits(logits, birds, reduction="none")
        return (loss.sum(dim=1) * weights).sum()

    def training_step(self, batch, batch_idx):
        loss = self.loss_of(batch["audio"], batch["birds"], batch["weight"])
        (grad,) = torch.autograd.grad(loss, self.layer.weight, retain_graph=True)
        self.seen.append((self.callback.mix, batch, float(loss.detach()), grad))
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def make_batch(shape):
    return {
        "audio": torch.randn(CLIPS, *shape),
        "birds": torch.bernoulli(torch.full((CLIPS, BIRDS), 0.4)),
        "weight": torch.rand(CLIPS),
    }


def run(make_trainer, recipe, shape, prob=1.0, batches=1):
    """Returns the module, which has seen batches, and the batches as they were."""
    data = [make_batch(shape) for _ in range(batches)]
    module = Detector(shape)
    entries = {"inputs": "audio", "targets": ["birds", "weight"]}
    module.callback = MixupCallback(recipe=recipe, prob=prob, **entries, calibration=False, seed=2)
    trainer = make_trainer(callbacks=[module.callback])
    trainer.fit(module, DataLoader(data, batch_size=None))
    return module, data


def check(module, clean, step, expected):
    """Compares what a step was handed, its loss and its gradient with what was expected."""
    _, batch, loss, grad = step
    clips, birds, weights = expected
    module.layer.zero_grad()
    expected_loss = module.loss_of(clips, birds, weights)
    (expected_grad,) = torch.autograd.grad(expected_loss, module.layer.weight)
    torch.testing.assert_close(batch["audio"], clips)
    assert loss == pytest.approx(float(expected_loss.detach()), rel=1e-5)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-4, atol=1e-5)
    assert not torch.equal(batch["audio"], clean["audio"])


@pytest.mark.parametrize("rounds", [1, 2], ids=["mixup_double=1", "mixup_double=0"])
@pytest.mark.parametrize("ndim", SHAPES)
def test_overlay_is_their_mixup(ndim, rounds, make_trainer):
    module, data = run(make_trainer, Overlay(rounds), SHAPES[ndim])

    (clean,), (step,) = data, module.seen
    partners = [(torch.arange(CLIPS) + shift) % CLIPS for shift in step[0].shifts]
    assert len(partners) == rounds
    check(module, clean, step, add_clips(*clean.values(), partners))


@pytest.mark.parametrize("ndim", SHAPES)
def test_a_weight_per_sample_is_their_mixup2(ndim, make_trainer):
    module, data = run(make_trainer, Mixup(2.0, per_sample=True), SHAPES[ndim])

    (clean,), (step,) = data, module.seen
    partner, shares = step[0].partner, step[0].weight.float()
    assert shares.unique().numel() == CLIPS
    check(module, clean, step, interpolate_clips(*clean.values(), partner, shares))


def test_theirs_and_ours_draw_alike_how_often_and_how_many(make_trainer):
    prob, double, batches = 0.7, 0.6, 300
    recipe = OneOf(Overlay(), Overlay(rounds=2), weights=[double, 1 - double])

    module, _ = run(make_trainer, recipe, (2,), prob=prob, batches=batches)

    rounds = [0 if mix is None else len(mix.shifts) for mix, *_ in module.seen]
    seen = [rounds.count(k) for k in range(3)]
    expected = np.array([1 - prob, prob * double, prob * (1 - double)]) * batches
    assert stats.chisquare(seen, expected).pvalue > 0.01
