"""One batch's draw: a `Mix`, which is applied alike to inputs, hidden features and targets.

A recipe draws it; its class says how samples are blended and what becomes of their labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from lightning_mixup.blend import combine, interpolate, paste, paste_resized
from lightning_mixup.errors import MixupRuntimeError, MixupTypeError, MixupValueError
from lightning_mixup.partners import Shift, partner_indices, take_partners
from lightning_mixup.regions import Boxes
from lightning_mixup.targets import MixedTarget, Usage, make_target
from lightning_mixup.weights import Weight

__all__ = [
    "INPUT",
    "Blend",
    "Combined",
    "Joined",
    "Mix",
    "Paired",
    "Pasted",
    "Resized",
    "Rounds",
    "Summed",
]

_CPU = torch.device("cpu")

INPUT = "input"
"""The place that is the input itself."""

Blend = tuple[Weight, list[tuple[Weight, Shift]]]
"""What a blended sample is a sum of: its own share, and those of its partners."""


@dataclass(frozen=True, eq=False)
class Mix:
    r"""One batch's draw: who is mixed with whom, with which weight, and where.

    Samples are interpolated, and so are their labels. A subclass may do otherwise: `blend` and
    `label` are all that is ever asked of it.

    Args:
        drawn: The share that a sample keeps of itself, as it was drawn on the host: a number, or
            an array of shape (B,).
        shift: Sample i is mixed with sample ``(i + shift) % B``: a number, or a tensor of shape
            (B,) on the batch's device.
        batch_size: B.
        device: Where the batch is.
        place: What is mixed: ``"input"``, the input itself, or the name of a hidden layer.

    Example:
        >>> mix = Mix(0.75, shift=1, batch_size=2)
        >>> mix.weight, mix.partner, mix.place
        (tensor(0.7500, dtype=torch.float64), tensor([1, 0]), 'input')
        >>> mix.blend(torch.tensor([[0.0], [4.0]]))
        tensor([[1.],
                [3.]])
    """

    doubles: ClassVar[bool] = False
    """Whether a mixed batch has the samples of the clean one before its own."""

    drawn: Weight
    shift: Shift
    batch_size: int
    device: torch.device | str = "cpu"
    place: str = INPUT

    @cached_property
    def weight(self) -> Tensor:
        """The share that a sample keeps of itself, () or (B,), on the batch's device.

        It is float64, so that losses in double precision lose nothing; float32 on Apple's MPS.
        """
        return self._on_device(self.drawn)

    @cached_property
    def partner(self) -> Tensor:
        """Whom each sample is mixed with, of shape (B,) and dtype int64, on the batch's device.

        With several rounds, whom it is mixed with first.
        """
        return partner_indices(self.shift, self.batch_size, self.device)

    @property
    def shares(self) -> list[tuple[Weight, Shift]]:
        """The share of each partner in the labels, and how far it is."""
        return [(1 - self.drawn, self.shift)]

    @property
    def linear(self) -> Blend:
        """What `blend` makes a sum of.

        Raises:
            MixupRuntimeError: If it is not known to be one.
        """
        if type(self).blend is not Mix.blend:
            raise MixupRuntimeError(
                f"{type(self).__name__} blends in a way of its own, whose gradient is not known "
                "inside a compiled network. Mix at the input, or compile the parts of the network "
                "before and after the layer."
            )
        return self.drawn, self.shares

    def blend(self, x: Tensor) -> Tensor:
        r"""Returns a mixed copy of a floating-point tensor of shape (B, \*)."""
        return interpolate(x, self.drawn, self.shift)

    def label(self, y: Tensor, usage: Usage | None = None) -> Tensor:
        r"""Returns a target of shape (B, \*) together with its partners', weighted.

        It is a `MixedTarget`, or a plain tensor where a mixed sample has a label of its own.
        """
        rows, usage, ranking = [y.clone()], usage or Usage(), self._ranking
        for _, shift in self.shares:
            rows.append(take_partners(y, shift))
        if ranking is None:
            return self._label_by_sample(rows, usage)
        # What is known on the host need not be sorted on the device.
        order, usage.shares, weights = ranking
        ranked = [rows[k] for k in order]
        if 0 in usage.shares:  # Of another label, an infinite loss would make NaN of nothing.
            counts = zip(ranked, usage.shares, strict=True)
            ranked = [row if share else ranked[0].clone() for row, share in counts]
        return make_target(ranked, weights, usage)

    def _label_by_sample(self, rows: Sequence[Tensor], usage: Usage) -> MixedTarget:
        """Returns targets of samples that have weights of their own."""
        weights, order, chosen = self._ranking_by_sample
        usage.ranking, usage.per_sample = (weights, order), True
        first, *others = rows
        dims, ranked = [1] * (first.ndim - 1), []
        for masks in chosen.reshape(*chosen.shape, *dims):
            row = first
            for mask, other in zip(masks, others, strict=True):
                row = other.where(mask, row)
            ranked.append(row)
        return make_target(ranked, weights.reshape(*weights.shape, *dims), usage)

    def weigh(self, weights: Tensor, usage: Usage | None = None) -> Tensor:
        r"""Returns the weights of the samples' losses, of shape (B, \*), mixed as labels are."""
        return self.label(weights, usage)

    @cached_property
    def _ranking(self) -> tuple[list[int], tuple[float, ...], Tensor] | None:
        """The order of the candidates, the largest weight first, and the weights in this order.

        These as numbers, and as one tensor for all targets of the mix. None, where samples have
        weights of their own.
        """
        weights = self._weights()
        if np.ndarray in map(type, weights):
            return None
        order = sorted(range(len(weights)), key=weights.__getitem__, reverse=True)
        shares = tuple(map(float, map(weights.__getitem__, order)))
        if self.device == _CPU:
            return order, shares, torch.from_numpy(np.array(shares))
        # Filled in, as a copy would wait for the device.
        ranked = self.weight.new_empty(len(shares))
        for i, share in enumerate(shares):
            ranked[i : i + 1].fill_(share)
        return order, shares, ranked

    @cached_property
    def _ranking_by_sample(self) -> tuple[Tensor, Tensor, Tensor]:
        """The weights, (K, B), of each sample the largest first; their order; and who is chosen.

        This, of shape (K, K - 1, B), says whether the candidate is that of the first partner, of
        the second, and so on, where it isn't the sample's own.
        """
        drawn = self._weights()
        shares = np.empty((len(drawn), self.batch_size))
        for row, weight in zip(shares, drawn, strict=True):
            row[:] = weight
        order = (-shares).argsort(axis=0, kind="stable")
        weights = shares[order, np.arange(self.batch_size)]
        # Of another label, an infinite loss would make NaN of nothing.
        counted = np.where(weights == 0, order[0], order)
        chosen = counted[:, None] == np.arange(1, len(shares))[:, None]
        return self._on_device(weights), self._on_device(order), self._on_device(chosen)

    def _weights(self) -> list[Weight]:
        """Returns the share of each candidate: of a sample's own label, and of its partners'."""
        return [self.drawn, *map(itemgetter(0), self.shares)]

    def _on_device(self, numbers: float | np.ndarray) -> Tensor:
        """Returns numbers of the host on the device, for which nothing waits."""
        dtype = torch.float32 if torch.device(self.device).type == "mps" else torch.float64
        if isinstance(numbers, float):
            return torch.full((), numbers, dtype=dtype, device=self.device)
        copied = torch.from_numpy(numbers)
        copied = copied.to(dtype) if copied.is_floating_point() else copied
        return copied.to(self.device, non_blocking=True)


@dataclass(frozen=True, eq=False)
class Combined(Mix):
    """Samples are sums of any number of samples, by their shares."""

    @property
    def linear(self) -> Blend:
        """What `blend` makes a sum of."""
        return self.drawn, self.shares

    def blend(self, x: Tensor) -> Tensor:
        r"""Returns a mixed copy of a floating-point tensor of shape (B, \*)."""
        return combine(x, *self.linear)


@dataclass(frozen=True, eq=False)
class Rounds(Combined):
    """Several rounds of interpolation, each with partners of the batch as it was.

    Args:
        parts: The share of each partner, and how far it is. ``drawn`` is what remains.

    Example:
        >>> mix = Rounds(0.5, shift=1, batch_size=3, parts=((0.25, 1), (0.25, 2)))
        >>> mix.blend(torch.tensor([[0.0], [4.0], [8.0]]))
        tensor([[3.],
                [4.],
                [5.]])
    """

    parts: Sequence[tuple[Weight, Shift]] = field(kw_only=True)

    @property
    def shares(self) -> list[tuple[Weight, Shift]]:
        """The share of each partner in the labels, and how far it is."""
        return list(self.parts)


@dataclass(frozen=True, eq=False)
class Paired(Mix):
    """Samples are interpolated, and keep their own labels."""

    def label(self, y: Tensor, usage: Usage | None = None) -> Tensor:
        """Returns a target as it is."""
        return y


@dataclass(frozen=True, eq=False)
class Summed(Combined):
    """Samples are added up, and have all labels that any of them has.

    Args:
        shifts: How far each partner is.
    """

    shifts: Sequence[Shift] = field(kw_only=True)

    @property
    def shares(self) -> list[tuple[Weight, Shift]]:
        """Each partner is heard like the sample itself."""
        return [(1.0, shift) for shift in self.shifts]

    def label(self, y: Tensor, usage: Usage | None = None) -> Tensor:
        r"""Returns the union of the labels, a plain tensor.

        Raises:
            MixupTypeError: If they are indices, of which a sample can have only one.
        """
        if not y.is_floating_point():
            raise MixupTypeError(
                f"Overlay gives a sum of samples all their labels, and a target of {y.dtype} and "
                f"shape {tuple(y.shape)} has room for one. Give floats, 1 for each class that is "
                "there: of class indices, `torch.nn.functional.one_hot(y, num_classes).float()`."
            )
        # Not twice its own, where a sample found no partner.
        return combine(y, *self.linear).clamp_(0, 1)

    def weigh(self, weights: Tensor, usage: Usage | None = None) -> Tensor:
        """Returns the mean of what the losses of those added up would count."""
        others = (take_partners(weights, shift) for shift in self.shifts)
        return torch.stack([weights, *others]).mean(dim=0)


@dataclass(frozen=True, eq=False)
class Pasted(Mix):
    r"""A box of each sample is replaced by that of its partner; labels count by area.

    Args:
        areas: The share of the area that shows the partner of each round. ``drawn`` is the rest.
        boxes: Those of each round, of shape (D, 2) or (B, D, 2), pasted one over the other.
        shifts: How far the partner of each round is.
        dims: The D dimensions that are cut, counted from the end where negative.
        shape: That of the input, (B, \*).
    """

    areas: Sequence[Weight] = field(kw_only=True)
    boxes: Sequence[Boxes] = field(kw_only=True)
    shifts: Sequence[Shift] = field(kw_only=True)
    dims: Sequence[int] = field(kw_only=True)
    shape: Sequence[int] = field(kw_only=True)
    name: ClassVar[str] = "CutMix"

    @property
    def sizes(self) -> list[int]:
        """How long the dimensions are that are cut."""
        return [self.shape[dim] for dim in self.dims]

    @property
    def shares(self) -> list[tuple[Weight, Shift]]:
        """The share of the area that shows each partner, and how far it is."""
        return list(zip(self.areas, self.shifts, strict=True))

    def blend(self, x: Tensor) -> Tensor:
        r"""Returns a copy of a tensor of shape (B, \*) with boxes pasted in.

        Raises:
            MixupValueError: If its size is another than that of the boxes.
        """
        if [x.shape[dim] for dim in self.dims if -x.ndim < dim < x.ndim] != self.sizes:
            raise MixupValueError(
                f"{self.name} pastes the same boxes, drawn for the sizes {tuple(self.sizes)}, "
                f"into all inputs, and one has the shape {tuple(x.shape)}. Name inputs of one "
                "size by inputs=, or choose Mixup."
            )
        return self._pasted(x, is_map=False)

    def label(self, y: Tensor, usage: Usage | None = None) -> Tensor:
        """Returns labels weighted by area; of a map of labels a plain copy, pasted likewise."""
        return self._pasted(y, is_map=True) if self._is_map(y) else super().label(y, usage)

    def _is_map(self, y: Tensor) -> bool:
        """Returns whether a target has a label for each place that can be pasted.

        Raises:
            MixupValueError: If that can't be told, or it has one for each of other places.
        """
        fits = all(self._reaches(dim, y) for dim in self.dims)
        shape, sizes = tuple(y.shape), tuple(self.sizes)
        if fits and y.ndim == 2 and y.is_floating_point():
            raise MixupValueError(
                f"{self.name} can't tell whether the target of shape {shape} has a label for each "
                f"place, as the input is of the size {sizes}, or a share for each class. Write "
                "y.unsqueeze(1) for labels of places, and class indices for those of samples."
            )
        if not fits and y.ndim > 2:
            raise MixupValueError(
                f"{self.name} pastes into maps of labels what it pastes into the input, of the "
                f"size {sizes}, and the target has the shape {shape}. Give both one size, say by "
                "CutMix(dims=...) which dimensions are cut, or choose Mixup."
            )
        return fits

    def _reaches(self, dim: int, y: Tensor) -> bool:
        """Returns whether a dimension is the same in a target, and what leads to it likewise."""
        there, here = tuple(self.shape), tuple(y.shape)
        if not -y.ndim < dim < y.ndim:
            return False
        return here[dim:] == there[dim:] if dim < 0 else here[1 : dim + 1] == there[1 : dim + 1]

    def _pasted(self, x: Tensor, *, is_map: bool) -> Tensor:
        pasted = x
        for box, shift in zip(self.boxes, self.shifts, strict=True):
            pasted = paste(x, box, shift, self.dims, onto=pasted)
        return pasted


@dataclass(frozen=True, eq=False)
class Resized(Pasted):
    """The whole of its partner is resized and pasted into each sample; labels count by area."""

    name: ClassVar[str] = "ResizeMix"

    def _pasted(self, x: Tensor, *, is_map: bool) -> Tensor:
        return paste_resized(x, self.boxes[0], self.shift, self.dims, is_map=is_map)


@dataclass(frozen=True, eq=False)
class Joined(Mix):
    """The clean batch, and after it the mixed one.

    Args:
        mix: How the mixed one is mixed.
    """

    doubles: ClassVar[bool] = True

    mix: Mix = field(kw_only=True)

    @classmethod
    def of(cls, mix: Mix) -> Joined:
        """Returns a mix together with the clean batch."""
        return cls(mix.drawn, mix.shift, mix.batch_size, mix.device, mix.place, mix=mix)

    def blend(self, x: Tensor) -> Tensor:
        r"""Returns the samples and the mixed ones, of shape (2 B, \*)."""
        return torch.cat((x, self.mix.blend(x)))

    def label(self, y: Tensor, usage: Usage | None = None) -> Tensor:
        """Returns the targets and the mixed ones: of the former, all candidates are the same."""
        return self._joined(y, self.mix.label(y), usage)

    def weigh(self, weights: Tensor, usage: Usage | None = None) -> Tensor:
        """Returns the weights of the losses, likewise."""
        return self._joined(weights, self.mix.weigh(weights), usage)

    def _joined(self, y: Tensor, mixed: Tensor, usage: Usage | None) -> Tensor:
        if not isinstance(mixed, MixedTarget):
            return torch.cat((y, mixed))
        rows = [torch.cat((y, row)) for row in mixed.candidates]
        if mixed.weights.ndim == 1:
            usage = usage or Usage()
            usage.shares = mixed.usage.shares
            return make_target(rows, mixed.weights, usage)
        weights = mixed.weights.reshape(len(rows), -1)
        return MixedTarget(rows, torch.cat((weights, weights), dim=1), usage)
