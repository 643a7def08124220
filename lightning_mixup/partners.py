"""Who is mixed with whom.

A partner is told by how far it is: sample i meets sample ``(i + shift) % B``. By default the
shift is one number for the batch, a cyclic shift: nobody is their own partner, everybody is the
partner of one, and nothing needs to be gathered. Where labels or distances decide, it is a tensor
on the batch's device, of shape (B,); 0 is the sample itself, which stays as it is.

Partners of one's own are a subclass of `Affinity`, which says how much two samples attract.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
import torch
from torch import Tensor

from lightning_mixup.errors import MixupValueError
from lightning_mixup.parameters import call_of, check_count, check_number

__all__ = [
    "ANY_OTHER",
    "Affinity",
    "AnyOther",
    "LabelKernel",
    "NearestNeighbors",
    "OtherClass",
    "Partners",
    "SameClass",
    "Shift",
    "draw_shift",
    "partner_indices",
    "pick_partners",
    "rolls",
    "take_partners",
]

Shift: TypeAlias = "int | Tensor"


class Partners(ABC):
    """Who is mixed with whom."""

    reads_inputs: ClassVar[bool] = False
    """Whether it looks at the inputs."""

    reads_targets: ClassVar[bool] = False
    """Whether it looks at the targets."""

    def __repr__(self) -> str:
        return call_of(self)

    @abstractmethod
    def draw(
        self,
        rng: np.random.Generator,
        batch_size: int,
        device: torch.device | str = "cpu",
        inputs: Sequence[Tensor] = (),
        targets: Sequence[Tensor] = (),
    ) -> Shift:
        r"""Draws the partners of a batch.

        Args:
            rng: The source of randomness, on the host.
            batch_size: B, at least 2.
            device: Where the batch is. Nothing waits for it.
            inputs: Tensors of shape (B, \*).
            targets: Tensors of shape (B, \*), the first of which decides.

        Returns:
            How far each partner is: a number, or a tensor of shape (B,), dtype int64.
        """

    def describe(self) -> str:
        """Says in words who is mixed with whom."""
        return f"partners by {self!r}"


@dataclass(frozen=True)
class AnyOther(Partners):
    """Any other sample of the batch, equally likely: a cyclic shift by a random distance.

    Example:
        >>> AnyOther().draw(np.random.default_rng(0), batch_size=2)
        1
    """

    def draw(
        self,
        rng: np.random.Generator,
        batch_size: int,
        device: torch.device | str = "cpu",
        inputs: Sequence[Tensor] = (),
        targets: Sequence[Tensor] = (),
    ) -> int:
        """Draws one distance for the batch."""
        return draw_shift(rng, batch_size)

    def describe(self) -> str:
        """Says in words who is mixed with whom."""
        return "partners within the batch"


ANY_OTHER = AnyOther()


class Affinity(Partners):
    """Partners that are drawn by how much two samples attract each other.

    A subclass says that by `between`. Where a sample is attracted by none, it is its own partner
    and stays as it is.

    Example:
        >>> class Younger(Affinity):
        ...     def between(self, inputs, targets):
        ...         return targets[0][None] < targets[0][:, None]
        >>> Younger().draw(np.random.default_rng(0), 3, targets=[torch.tensor([30, 20, 10])])
        tensor([2, 1, 0])
    """

    @abstractmethod
    def between(self, inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        r"""Returns to what sample i is attracted by sample j, of shape (B, B), at least 0.

        The diagonal doesn't count. NaN counts as 0.

        Args:
            inputs: Tensors of shape (B, \*), on the batch's device.
            targets: Tensors of shape (B, \*).
        """

    def draw(
        self,
        rng: np.random.Generator,
        batch_size: int,
        device: torch.device | str = "cpu",
        inputs: Sequence[Tensor] = (),
        targets: Sequence[Tensor] = (),
    ) -> Tensor:
        """Draws a partner for each sample, with probabilities in proportion to affinity.

        Raises:
            MixupValueError: If there is nothing to compare, or not each with each.
        """
        if self.reads_inputs and not inputs:
            raise MixupValueError(
                f"{self!r} compares the inputs, and there are none: at hidden layers alone, "
                "inputs are not looked for. Add 'input' to layers, or choose other partners."
            )
        if self.reads_targets and not targets:
            raise MixupValueError(
                f"{self!r} compares the targets, and there are none. Name them by targets=, or "
                "choose other partners."
            )
        with torch.no_grad():
            affinity = self.between(inputs, targets)
            if affinity.shape != (batch_size, batch_size):
                raise MixupValueError(
                    f"{self!r} compares {batch_size} samples, and its between() returned the "
                    f"shape {tuple(affinity.shape)}. Return a tensor of shape (B, B), such as "
                    "`y[:, None] == y[None]`."
                )
            return pick_partners(affinity, rng.random(batch_size))


@dataclass(frozen=True)
class SameClass(Affinity):
    """Another sample of the same class, equally likely: labels stay what they are.

    Targets are the same where they are equal in all entries, so one-hot and multi-hot targets
    work like class indices.

    Example:
        >>> y = torch.tensor([0, 1, 0, 1])
        >>> SameClass().draw(np.random.default_rng(0), 4, targets=[y])
        tensor([2, 2, 2, 2])
    """

    reads_targets: ClassVar[bool] = True

    def between(self, inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """Returns 1 where the classes agree."""
        return _agree(self, targets[0])


@dataclass(frozen=True)
class OtherClass(Affinity):
    """A sample of another class, equally likely: no mix is spent within a class.

    Example:
        >>> y = torch.tensor([0, 0, 1])
        >>> OtherClass().draw(np.random.default_rng(0), 3, targets=[y])[:2]
        tensor([2, 1])
    """

    reads_targets: ClassVar[bool] = True

    def between(self, inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """Returns 1 where the classes differ; of NaN, nobody knows."""
        same = _agree(self, targets[0])
        known = same.diagonal()  # as NaN is not even equal to itself
        return ~same & known & known[:, None]


@dataclass(frozen=True)
class NearestNeighbors(Affinity):
    """One of the nearest samples of the same class in the batch, by Euclidean distance.

    With weights from ``Uniform(0, 1)`` this is SMOTE's interpolation, within a batch. Distances
    need B² times the size of an input: for large images prefer `SameClass`.

    Reference:
        | SMOTE: Synthetic Minority Over-sampling Technique (Chawla et al., 2002)
        | https://arxiv.org/abs/1106.1813

    Args:
        k: Among how many neighbours one is drawn, at least 1; 5 as in the paper. Where a class
            has fewer, all of them.

    Raises:
        MixupTypeError: If k is not an integer.
        MixupValueError: If it is below 1.

    Example:
        >>> x, y = torch.tensor([[0.0], [1.0], [5.0], [0.1]]), torch.tensor([0, 0, 0, 1])
        >>> NearestNeighbors(k=1).draw(np.random.default_rng(0), 4, inputs=[x], targets=[y])
        tensor([1, 3, 3, 0])
    """

    reads_inputs: ClassVar[bool] = True
    reads_targets: ClassVar[bool] = True

    k: int = 5

    def __post_init__(self) -> None:
        check_count("k", self.k, "Give the number of neighbours to draw from, such as 5.")

    def between(self, inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """Returns 1 for the k nearest of the same class."""
        same = _agree(self, targets[0]).fill_diagonal_(0)
        distances = _distances(torch.cat([_rows(x) for x in inputs], dim=1))
        distances = distances.masked_fill(~same, math.inf)
        nearest = distances.topk(min(self.k, len(same)), dim=1, largest=False)
        found = torch.zeros_like(same).scatter_(1, nearest.indices, True)  # noqa: FBT003
        return found & distances.isfinite()


@dataclass(frozen=True)
class LabelKernel(Affinity):
    r"""A sample with a similar target, for regression: C-Mixup, within the batch.

    .. math:: P(j \mid i) \propto \exp\left(-\frac{\|y_i - y_j\|^2}{2 \, b^2}\right)

    Reference:
        | C-Mixup: Improving Generalization in Regression (Yao et al., 2022), equation 6
        | https://arxiv.org/abs/2210.05775

    Args:
        bandwidth: The standard deviation of the kernel, in the unit of the target, above 0. The
            paper tunes it; a tenth to the whole of the targets' standard deviation is a start.
            ``math.inf`` is any other sample.

    Raises:
        MixupTypeError: If it is not a number.
        MixupValueError: If it is not above 0.

    Example:
        >>> y = torch.tensor([0.0, 10.0, 0.1, 10.1])
        >>> LabelKernel(bandwidth=0.5).draw(np.random.default_rng(0), 4, targets=[y])
        tensor([2, 2, 2, 2])
    """

    reads_targets: ClassVar[bool] = True

    bandwidth: float

    def __post_init__(self) -> None:
        hint = "Give a difference of targets that is still similar, in their unit."
        bandwidth = check_number("bandwidth", self.bandwidth, 0, math.inf, hint)
        if bandwidth == 0:
            raise MixupValueError(f"bandwidth={self.bandwidth!r} is not above 0. {hint}")
        object.__setattr__(self, "bandwidth", bandwidth)

    def between(self, inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """Returns the Gaussian kernel of the distance between targets.

        Of the exponents the largest of each row is made 0, so that also who is far from all
        others has a partner: in the limit, the nearest.
        """
        distances = _distances(_rows(targets[0])).fill_diagonal_(math.inf)
        nearest = distances.amin(dim=1, keepdim=True)
        # a² - b² in this form, as squares of many bandwidths are infinite.
        further, both = distances - nearest, distances + nearest
        kernel = torch.exp(-0.5 * (further / self.bandwidth) * (both / self.bandwidth))
        return kernel.masked_fill(further == 0, 1.0) * distances.isfinite()


def draw_shift(rng: np.random.Generator, batch_size: int) -> int:
    """Draws a shift under which every other sample is equally likely as a partner.

    Args:
        rng: The source of randomness.
        batch_size: B, at least 2.

    Returns:
        A number in [1, B - 1].

    Example:
        >>> draw_shift(np.random.default_rng(0), batch_size=2)
        1
    """
    return 1 + int(rng.random() * (batch_size - 1))  # many times as quick as `integers`


def pick_partners(affinity: Tensor, uniforms: np.ndarray) -> Tensor:
    """Draws for each sample one of the others, in proportion to their affinity.

    Args:
        affinity: Of shape (B, B), at least 0; its diagonal doesn't count, NaN counts as 0.
        uniforms: Numbers in [0, 1) that decide, of shape (B,), on the host. Nothing waits for
            the device.

    Returns:
        How far each partner is, of shape (B,), dtype int64, on the device of ``affinity``: 0,
        the sample itself, where no other has any.

    Example:
        >>> affinity = torch.tensor([[9.0, 1.0, 3.0], [0.0, 9.0, 0.0], [1.0, 0.0, 0.0]])
        >>> pick_partners(affinity, np.array([0.2, 0.5, 0.9]))
        tensor([1, 0, 1])
    """
    dtype = torch.float32 if affinity.device.type == "mps" else torch.float64
    sums = affinity.to(dtype).nan_to_num(nan=0.0).fill_diagonal_(0).cumsum(dim=1)
    total = sums[:, -1:]
    drawn = torch.from_numpy(uniforms).to(dtype).to(affinity.device, non_blocking=True)
    # Rounded up to the total, it would pick beyond the last who has any.
    below = torch.nextafter(total, torch.zeros_like(total))
    picked = torch.searchsorted(sums, torch.minimum(drawn[:, None] * total, below), right=True)
    own = torch.arange(len(sums), device=affinity.device)
    return torch.where(total[:, 0] > 0, (picked[:, 0] - own) % len(sums), 0)


def partner_indices(shift: Shift, batch_size: int, device: torch.device | str = "cpu") -> Tensor:
    """Returns the position of each sample's partner, of shape (B,) and dtype int64.

    Example:
        >>> partner_indices(1, batch_size=4)
        tensor([1, 2, 3, 0])
    """
    return (torch.arange(batch_size, device=device) + shift) % batch_size


def take_partners(x: Tensor, shift: Shift) -> Tensor:
    r"""Returns each sample's partner, as a copy of the shape (B, \*) of ``x``.

    Example:
        >>> take_partners(torch.tensor([10, 20, 30]), shift=1)
        tensor([20, 30, 10])
    """
    if isinstance(shift, Tensor):
        partners = partner_indices(shift, len(x), x.device)
        # The faster forgets other memory formats.
        return x.index_select(0, partners) if x.is_contiguous() else x[partners]
    if rolls(x):
        return x.roll(-shift, 0)
    out, head = torch.empty_like(x), len(x) - shift
    out[:head], out[head:] = x[shift:], x[:shift]
    return out


# Not halves, as autocast joins none of another type than its own, nor what only some devices roll.
_ROLLED = frozenset((
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float32, torch.float64, torch.complex64, torch.complex128),
))


def rolls(x: Tensor) -> bool:
    """Returns whether ``roll`` is right for a tensor: it may forget other memory formats."""
    return x.dtype in _ROLLED and x.is_contiguous()


def _agree(partners: Partners, target: Tensor) -> Tensor:
    """Returns which targets are equal, of shape (B, B).

    Raises:
        MixupValueError: If a sample has a map of them.
    """
    if target.ndim > 2:
        raise MixupValueError(
            f"{partners!r} compares the classes of samples, and the target of shape "
            f"{tuple(target.shape)} has many for each. Choose AnyOther(), or name first in "
            "targets= the one that tells a sample's class."
        )
    rows = target.reshape(len(target), -1)
    return (rows[:, None] == rows[None]).all(dim=-1)


def _rows(x: Tensor) -> Tensor:
    """Returns what distances are measured between, of shape (B, N)."""
    x = torch.view_as_real(x) if x.is_complex() else x
    rows = x.detach().reshape(len(x), -1)
    if rows.dtype.itemsize == 8 and rows.device.type != "mps":
        return rows.double()  # times in seconds, too
    return rows.float()


def _distances(rows: Tensor) -> Tensor:
    """Returns the distances between rows, of shape (B, B): infinite where a NaN hides them.

    By differences: a matrix product loses those of rows far from 0, such as years.
    """
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.nan_to_num(nan=math.inf, posinf=math.inf)
