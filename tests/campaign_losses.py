"""What the modules of the campaign do with their labels."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

CLASSES = 4
CLASS_WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)


@dataclass(frozen=True)
class Task:
    """A loss, as a user writes it, of labels as a loader hands them over."""

    loss: Callable[..., Any]
    label: Callable[[int, torch.Generator], Any]
    outputs: int = CLASSES
    mass: Callable[[Any], Any] | None = None
    """How much one sample counts in the mean; None for all alike."""
    numbers: bool = False
    """Whether labels are numbers, of which a loss is given what lies between."""
    is_sum: bool = False
    is_weighted: bool = False
    """Whether the batch brings a weight for each sample's loss."""
    ordinary: bool = True
    """Whether such a loss is to be mixed, and never refused with a weight per batch."""


def _classes(size, generator):
    return torch.randint(CLASSES, (size,), generator=generator)


def _floats(*shape):
    return lambda size, g: torch.rand(size, *shape, generator=g, dtype=torch.float64)


def _bits(*shape):
    return lambda size, g: torch.randint(2, (size, *shape), generator=g)


def _pixels(size, generator):
    return torch.randint(3, (size, 2, 2), generator=generator)


def _with(change, make):
    return lambda size, generator: change(make(size, generator))


def _ignored(label):
    """Of every third entry."""
    return torch.where(torch.arange(label.numel()).reshape(label.shape) % 3 == 1, -100, label)


def _first_is(value):
    def change(label):
        label[:1] = value
        return label

    return change


def _rows(logits, label):
    return -F.log_softmax(logits, 1)[torch.arange(len(logits)), label].mean()


def _focal(logits, label):
    shares = F.softmax(logits, 1).gather(1, label[:, None])
    return -((1 - shares) ** 2 * shares.log()).mean()


def _margin(logits, label):
    """Of no sample at all, torch returns what happens to be in memory."""
    return F.multi_margin_loss(logits, label) if len(label) else logits.sum()


def _one_hot(logits, label):
    return -(F.one_hot(label, CLASSES) * F.log_softmax(logits, 1)).sum(1).mean()


def _dense(logits, label):
    return F.cross_entropy(logits.reshape(-1, 3, 2, 2), label)


def _binary(logits, label):
    return F.binary_cross_entropy_with_logits(logits[:, 0], label.to(logits))


def _bce(logits, label):
    return F.binary_cross_entropy_with_logits(logits.reshape(label.shape), label.to(logits))


def _weighted_classes(logits, label, weight):
    return (F.cross_entropy(logits, label, reduction="none") * weight).mean()


def _weighted_numbers(logits, label, weight):
    return (F.mse_loss(logits[:, 0], label, reduction="none") * weight).mean()


def _read_as_numbers(logits, label):
    return -F.log_softmax(logits, 1)[range(len(logits)), label.tolist()].mean()


def _counted(label):
    return (label != -100).double().flatten(1).sum(1) if label.ndim > 1 else (label != -100)


def _class_mass(label):
    return CLASS_WEIGHTS[label.clamp(min=0)] * (label != -100)


_CE = F.cross_entropy
TASKS = {
    "classes": Task(_CE, _classes),
    "label smoothing": Task(lambda z, y: _CE(z, y, label_smoothing=0.1), _classes),
    "class weights": Task(
        lambda z, y: _CE(z, y, weight=CLASS_WEIGHTS), _classes, mass=_class_mass
    ),
    "ignored": Task(_CE, _with(_ignored, _classes), mass=_counted),
    "ignored, class weights": Task(
        lambda z, y: _CE(z, y, weight=CLASS_WEIGHTS), _with(_ignored, _classes), mass=_class_mass
    ),
    "sum": Task(lambda z, y: _CE(z, y, reduction="sum"), _classes, is_sum=True),
    "none": Task(lambda z, y: _CE(z, y, reduction="none").mean(), _classes),
    "nll": Task(lambda z, y: F.nll_loss(F.log_softmax(z, 1), y), _classes),
    "gather": Task(lambda z, y: -F.log_softmax(z, 1).gather(1, y[:, None]).mean(), _classes),
    "rows": Task(_rows, _classes),
    "focal": Task(_focal, _classes),
    "one_hot": Task(_one_hot, _classes),
    "margin": Task(_margin, _classes),
    "classes in bytes": Task(
        lambda z, y: _CE(z, y.long()), _with(lambda y: y.to(torch.uint8), _classes)
    ),
    "classes in int32": Task(_CE, _with(lambda y: y.int(), _classes), ordinary=False),
    "classes in floats": Task(lambda z, y: _CE(z, y.long()), _with(lambda y: y.float(), _classes)),
    "column of classes": Task(lambda z, y: _CE(z, y[:, 0]), _with(lambda y: y[:, None], _classes)),
    "one-hot integers": Task(
        lambda z, y: _CE(z, y.to(z)), _with(lambda y: F.one_hot(y, CLASSES), _classes)
    ),
    "one-hot floats": Task(
        _CE, _with(lambda y: F.one_hot(y, CLASSES).double(), _classes), numbers=True
    ),
    "shares": Task(_CE, _with(lambda y: y.softmax(1), _floats(CLASSES)), numbers=True),
    "binary integers": Task(_binary, _bits()),
    "binary bools": Task(_binary, _with(lambda y: y.bool(), _bits())),
    "binary floats": Task(_binary, _with(lambda y: y.double(), _bits()), numbers=True),
    "several integers": Task(_bce, _bits(3), outputs=3),
    "several floats": Task(_bce, _with(lambda y: y.float(), _bits(3)), outputs=3, numbers=True),
    "number": Task(lambda z, y: F.mse_loss(z[:, 0], y), _floats(), numbers=True),
    "column of numbers": Task(lambda z, y: F.l1_loss(z[:, :1], y), _floats(1), numbers=True),
    "half number": Task(
        lambda z, y: F.mse_loss(z[:, 0], y.to(z)),
        _with(lambda y: y.half(), _floats()),
        numbers=True,
    ),
    "integer number": Task(lambda z, y: F.mse_loss(z[:, 0], y.to(z)), _classes),
    "not a number": Task(
        lambda z, y: F.huber_loss(z[:, 0], y), _with(_first_is(torch.nan), _floats()), numbers=True
    ),
    "mask": Task(_dense, _pixels, outputs=12),
    "mask, ignored": Task(_dense, _with(_ignored, _pixels), outputs=12, mass=_counted),
    "mask of bits": Task(_bce, _bits(2, 2), outputs=4),
    "mask of floats": Task(_bce, _floats(2, 2), outputs=4, numbers=True),
    "weighted classes": Task(_weighted_classes, _classes, is_weighted=True),
    "weighted numbers": Task(_weighted_numbers, _floats(), numbers=True, is_weighted=True),
    "out of range": Task(_CE, _with(_first_is(9), _classes), ordinary=False),
    "below range": Task(_CE, _with(_first_is(-1), _classes), ordinary=False),
    "no labels": Task(lambda z, y: z.square().mean(), _classes, ordinary=False),
    "read as numbers": Task(_read_as_numbers, _classes, ordinary=False),
}
