"""Samples: what is measured of scores and labels, one number each, and which of them can't be.

Nothing here is summed or kept. Shapes: N samples, C classes, ``*`` any trailing dimensions. Values
are looked at on the CPU only, as to ask for one would make another device wait.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lightning_mixup.errors import MixupTypeError, MixupValueError

__all__ = [
    "Measured",
    "check_batch",
    "check_dtypes",
    "check_probabilities",
    "given_scores",
    "known_labels",
    "measure",
    "measure_binary",
]


class Measured(NamedTuple):
    """What is counted of samples; all of shape (N, *)."""

    confidence: Tensor  # float
    event: Tensor  # bool, what the confidence is the probability of
    hit: Tensor  # bool, whether the predicted class is the target
    nll: Tensor  # float, NaN where there are no probabilities
    brier: Tensor  # float


def measure(
    logits: Tensor, probabilities: Tensor, target: Tensor, stray: Tensor | None
) -> Measured:
    """Returns what is measured of the most probable class of (N, C) scores.

    Args:
        logits: Of shape (N, C), up to any constant per sample.
        probabilities: Their softmax.
        target: Classes, of shape (N,).
        stray: Where the target was no class: a wrong prediction, with an infinite nll.
    """
    prediction = _largest(logits)
    confidence = probabilities.amax(1)
    top, own = logits.gather(1, torch.stack([prediction, target], 1)).unbind(1)
    hit = prediction == target
    if stray is not None:
        own, hit = own.masked_fill(stray, -math.inf), hit.masked_fill(stray, False)  # noqa: FBT003
    # -log softmax(own) = top - own - log softmax(top), without a second softmax.
    nll = top - own - confidence.log()
    squares = torch.linalg.vector_norm(probabilities, dim=1).square()
    brier = torch.sub(squares + 1, torch.exp(-nll), alpha=2)
    return Measured(confidence, hit, hit, nll, brier)


def _largest(logits: Tensor) -> Tensor:
    """Returns the first class with the largest logit, of each sample."""
    if logits.device.type != "cpu":
        return logits.argmax(1)
    # A tenth of the time of torch's own, which takes longer than the softmax.
    return torch.from_numpy(logits.numpy().argmax(1))


def measure_binary(logits: Tensor, probabilities: Tensor, target: Tensor) -> Measured:
    """Returns what is measured of the positive class, of scores and 0 or 1 of the same shape."""
    event = target == 1
    nll = softplus(torch.where(event, -logits, logits))
    brier = (probabilities - event.to(probabilities)).square()
    return Measured(probabilities, event, (logits > 0) == event, nll, brier)


def given_scores(
    logits: Tensor | None, target: Tensor | None, probabilities: Tensor | None
) -> tuple[Tensor, Tensor, str]:
    """Returns the scores, at least in float32, the target, and the scores' name.

    Raises:
        MixupTypeError: Unless there is one of both.
    """
    name = "logits" if probabilities is None else "probabilities"
    scores = logits if probabilities is None else probabilities
    if scores is None or target is None or (logits is not None and probabilities is not None):
        raise MixupTypeError(
            "update() takes a target, and either logits or probabilities. "
            "Write `update(logits, target)` or `update(probabilities=p, target=target)`."
        )
    if scores.is_floating_point() and scores.element_size() < 4:
        scores = scores.float()
    return scores.detach(), target, name


def check_dtypes(scores: Tensor, target: Tensor, name: str) -> None:
    """Raises unless scores are floating-point and targets are not.

    Raises:
        MixupTypeError: If so.
    """
    if not scores.is_floating_point():
        raise MixupTypeError(
            f"`{name}` have dtype {scores.dtype}, but must be floating-point. "
            "Pass the scores that go into the softmax, not the predicted classes."
        )
    if target.is_floating_point():
        raise MixupTypeError(
            f"`target` has dtype {target.dtype}, but must hold integer class indices. "
            "Pass `target.argmax(1)` for one-hot labels; soft labels have no single class."
        )


def check_batch(scores: Tensor, target: Tensor, name: str) -> None:
    """Raises unless scores are (N, C, *) and targets (N, *).

    Raises:
        MixupValueError: If so.
    """
    check_dtypes(scores, target, name)
    if scores.ndim < 2 or scores.shape[:1] + scores.shape[2:] != target.shape:
        raise MixupValueError(
            f"`{name}` of shape {tuple(scores.shape)} and `target` of shape "
            f"{tuple(target.shape)} do not fit: they must be (N, C, *) and (N, *). "
            f"Move the classes to dimension 1, for example with `{name}.movedim(-1, 1)`."
        )
    if scores.shape[1] < 2:
        raise MixupValueError(
            f"`{name}` of shape {tuple(scores.shape)} have one class, of which every model is "
            "certain. Pass `torch.cat([torch.zeros_like(z), z], 1)` for binary logits `z`."
        )


def known_labels(
    target: Tensor, ignored: Tensor | None, classes: int
) -> tuple[Tensor, Tensor | None]:
    """Returns labels as int64, all of them classes, and where they were not, if it can be.

    Raises:
        MixupValueError: If one is not, on the CPU.
    """
    target = target.long()
    if target.device.type != "cpu":
        known = target.clamp(0, classes - 1)
        return known, known != target
    if ignored is not None:
        target = target.masked_fill(ignored, 0)
    lowest, highest = (label.item() for label in target.aminmax()) if target.numel() else (0, 0)
    if lowest < 0 or highest >= classes:
        raise MixupValueError(
            f"`target` holds the label {lowest if lowest < 0 else highest}, but there are "
            f"{classes} classes, so labels run from 0 to {classes - 1}. "
            "Set `ignore_index` to leave a label out."
        )
    return target, None


def check_probabilities(probabilities: Tensor, total: Tensor | None = None) -> None:
    """Raises unless probabilities are from 0 to 1, and their sums, if given, 1.

    Raises:
        MixupValueError: If so.
    """
    if probabilities.device.type != "cpu":
        return
    stray = (probabilities < 0) | (probabilities > 1 + 1e-3)
    if stray.any():
        raise MixupValueError(
            f"`probabilities` hold {probabilities[stray][0].item():g}, but must be from 0 to 1. "
            "Pass logits as `update(logits, target)`."
        )
    if total is not None and ((total - 1).abs() > 1e-2).any():
        raise MixupValueError(
            f"`probabilities` sum to {total[(total - 1).abs() > 1e-2][0].item():g}, but must sum "
            "to 1 over dimension 1. Pass what a softmax returned."
        )
