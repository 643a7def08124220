"""Mixed targets, and what must come of them, worked out sample by sample."""

import torch
from torch.testing import assert_close

from lightning_mixup import MixedTarget, merge

BATCH, CLASSES = 12, 4


def draw_weights(*, per_sample, batch=BATCH, candidates=2):
    """Returns shares that sum to one over the candidates, of shape (K,) or (K, B)."""
    shares = torch.rand(candidates, *([batch] if per_sample else []), dtype=torch.float64) + 0.01
    return shares / shares.sum(dim=0)


def candidates_of(y, count=2):
    """Returns a target, its partner's, and so on."""
    return [y.roll(3 * k, dims=0) for k in range(count)]


def dominant(candidates, weights):
    """Returns each sample's candidate of the largest weight."""
    best = weights.argmax(dim=0).expand(len(candidates[0]))
    return torch.stack([candidates[k][i] for i, k in enumerate(best.tolist())])


def loss_by_hand(loss, x, candidates, weights):
    """Returns the mixture of a loss: with weights per sample, of one that is a mean over them."""
    if weights.ndim == 1:
        pairs = zip(weights, candidates, strict=True)
        return sum(weight * loss(x, y) for weight, y in pairs)
    samples = [
        weights[k, i] * loss(x[i : i + 1], y[i : i + 1])
        for k, y in enumerate(candidates)
        for i in range(len(y))
    ]
    return sum(samples) / len(x)


def with_gradient(value, x):
    """Returns a loss and its gradient by the logits."""
    (gradient,) = torch.autograd.grad(value, x)
    return value.detach(), gradient


def assert_mixture(loss, y, *, per_sample, x=None, count=2, tolerance=1e-12):
    """Asserts that a loss of a mixed target is the mixture, in value and gradient."""
    x = torch.randn(len(y), CLASSES, dtype=torch.float64) if x is None else x
    x.requires_grad_()
    candidates = candidates_of(y, count)
    weights = draw_weights(per_sample=per_sample, batch=len(y), candidates=count)

    mixed = loss(x, MixedTarget(candidates, weights))
    actual = with_gradient(merge(mixed), x)
    expected = with_gradient(loss_by_hand(loss, x, candidates, weights), x)

    assert_close(actual, expected, rtol=0, atol=tolerance)
