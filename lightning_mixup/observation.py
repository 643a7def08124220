"""One classification loss as it was observed, and how tensors are told apart."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "Observation",
    "Origin",
    "at_least_float32",
    "has_memory",
    "inputs_of",
    "is_equal",
    "is_same",
    "shares_memory",
    "start_of",
]


@dataclass(frozen=True)
class Origin:
    """What made a tensor that is none of the data's, unless what it was made of is."""

    name: str
    source: Any = None  # the scores of an argmax, or the numbers of a list

    @property
    def is_predicted(self) -> bool:
        """Returns whether it may be a prediction."""
        return isinstance(self.source, Tensor)


@dataclass(frozen=True)
class Observation:
    """Logits and targets of one classification loss."""

    logits: Tensor  # (N, C, *), or (C,) for one sample; up to a constant per sample
    target: Tensor  # (N, *) or (), integer
    ignore_index: int | None = None
    is_binary: bool = False  # two columns were made of one
    loss: str = "logits_fn"  # the function that was called
    given: tuple[Tensor, Tensor] | None = None  # what it was called with
    weight: Tensor | None = None  # of the classes
    squashed: Tensor | None = None  # the latest output of a sigmoid before it
    origin: Origin | None = None  # of labels that may be none of the data's

    def probabilities(self) -> Tensor:
        """Returns what torchmetrics takes: (N, C, *), or (N,) for a binary loss."""
        classes = 1 if self.logits.ndim > 1 else 0
        probabilities = at_least_float32(self.logits).softmax(classes)
        return probabilities[:, 1] if self.is_binary else probabilities

    def has_soft_labels(self) -> Tensor | None:
        """Returns whether float targets hold shares of classes, without waiting for the device.

        A 0-d bool tensor; None where the targets are integers.
        """
        if self.given is None or not self.given[1].is_floating_point():
            return None
        target = self.given[1]
        strays = ((target != 0) & (target != 1)).any()
        if self.is_binary:
            return strays
        return strays | (target.sum(min(1, target.ndim - 1)) != 1).any()

    def counted(self) -> Tensor:
        """Returns the logits (M, C) of what the loss does not ignore; waits for the device."""
        logits = self.logits if self.logits.ndim > 1 else self.logits[None]
        flat = at_least_float32(logits).movedim(1, -1).flatten(0, -2)
        counts = flat.isfinite().all(1)
        if self.loss == "nll_loss":  # of which minus infinity is a class without probability
            counts = ~flat.isnan().any(1)
        if self.ignore_index is not None:
            counts = counts & (self.target.flatten() != self.ignore_index)
        return flat[counts]

    def is_unnormalised(self) -> bool:
        """Returns whether what NLL was given are no log-probabilities; waits for the device."""
        if self.loss != "nll_loss":
            return False
        # Half precision is exact to about 0.01; NaN is for others to find.
        return bool((self.counted().logsumexp(1).abs() > 0.05).any())

    def squash(self) -> str:
        """Returns what was applied that the loss applies itself; waits for the device."""
        if self.loss == "cross_entropy":
            counted = self.counted()
            is_softmax = (counted >= 0).all() & ((counted.sum(1) - 1).abs() < 0.01).all()
            return "softmax" if len(counted) and is_softmax else ""
        if self.loss != "binary_cross_entropy_with_logits" or self.squashed is None:
            return ""
        scores = inputs_of(self)[0].reshape(-1).float()
        # Clamped or rounded, at most.
        is_sigmoid = ((scores - self.squashed.reshape(-1).float()).abs() < 0.01).all()
        return "sigmoid" if is_sigmoid else ""

    def lacks_a_class(self) -> bool:
        """Returns whether a class has no weight in the loss; waits for the device."""
        return self.weight is not None and bool((self.weight == 0).any())

    def rows(self, start: int, stop: int) -> Observation:
        """Returns a part of the samples."""
        return replace(self, logits=self.logits[start:stop], target=self.target[start:stop])


def is_equal(one: Tensor, other: Tensor) -> bool:
    """Returns whether two tensors hold the same values, in whatever shape."""
    return one.device == other.device and torch.equal(
        one.reshape(-1).to(other.dtype), other.reshape(-1)
    )


def inputs_of(each: Observation) -> tuple[Tensor, Tensor]:
    """Returns what the loss was called with."""
    return each.given or (each.logits, each.target)


def start_of(tensor: Tensor) -> tuple[int, int | torch.SymInt]:
    """Returns where a tensor begins in memory."""
    return tensor.untyped_storage().data_ptr(), tensor.storage_offset()


def has_memory(tensor: Tensor) -> bool:
    """Returns whether a tensor can be kept, which those inside of ``vmap`` and the like can't."""
    try:
        start_of(tensor)
    except (RuntimeError, NotImplementedError):
        return False
    return True


def shares_memory(one: Tensor, other: Tensor) -> bool:
    """Returns whether two tensors lie in one storage; sparse ones and the like have none."""
    return has_memory(one) and has_memory(other) and start_of(one)[0] == start_of(other)[0]


def is_same(one: Tensor, other: Tensor) -> bool:
    """Returns whether two tensors are the same numbers in memory, not just equal ones."""
    same_form = one.numel() == other.numel() and one.dtype == other.dtype
    return same_form and start_of(one) == start_of(other) and _shares_layout(one, other)


def _shares_layout(one: Tensor, other: Tensor) -> bool:
    if one.shape == other.shape:
        return one.stride() == other.stride()
    return one.is_contiguous() and other.is_contiguous()


def at_least_float32(x: Tensor) -> Tensor:
    """Widens half precision."""
    return x.float() if x.element_size() < 4 else x
