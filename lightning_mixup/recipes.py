"""How a batch is mixed: recipes, frozen descriptions that draw one `Mix` for each batch.

A recipe has no state and no randomness of its own. What it draws, a `Mix`, is applied alike to
inputs, hidden features and targets. Nothing here knows Lightning.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from lightning_mixup.blend import Weight, interpolate
from lightning_mixup.errors import MixupTypeError, MixupValueError
from lightning_mixup.partners import draw_shift, partner_indices, take_partners
from lightning_mixup.targets import MixedTarget, Usage, make_target

__all__ = ["INPUT", "Mix", "Mixup"]

INPUT = "input"
"""The place that is the input itself."""


@dataclass(frozen=True, eq=False)
class Mix:
    r"""One batch's draw: who is mixed with whom, with which weight, and where.

    Args:
        drawn: The share that a sample keeps of itself, as it was drawn on the host: a number, or
            an array of shape (B,).
        shift: Sample i is mixed with sample ``(i + shift) % B``.
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

    drawn: Weight
    shift: int
    batch_size: int
    device: torch.device | str = "cpu"
    place: str = INPUT

    @cached_property
    def weight(self) -> Tensor:
        """The share that a sample keeps of itself, () or (B,), on the batch's device.

        It is float64, so that losses in double precision lose nothing; float32 on Apple's MPS.
        """
        dtype = torch.float32 if torch.device(self.device).type == "mps" else torch.float64
        if isinstance(self.drawn, float):
            return torch.full((), self.drawn, dtype=dtype, device=self.device)
        return torch.from_numpy(self.drawn).to(dtype).to(self.device, non_blocking=True)

    @cached_property
    def partner(self) -> Tensor:
        """Whom each sample is mixed with, of shape (B,) and dtype int64, on the batch's device."""
        return partner_indices(self.shift, self.batch_size, self.device)

    def blend(self, x: Tensor) -> Tensor:
        r"""Returns a mixed copy of a floating-point tensor of shape (B, \*)."""
        return interpolate(x, self.drawn, self.shift)

    def label(self, y: Tensor, usage: Usage | None = None) -> MixedTarget:
        r"""Returns a target of shape (B, \*) together with its partners', weighted."""
        partners = self._partners_of(y)
        if not isinstance(self.drawn, float):
            weights = torch.stack([self.weight, 1 - self.weight])
            return MixedTarget([y, partners], weights, usage)
        # What is known on the host need not be sorted on the device.
        rows = [y.clone(), partners] if self.drawn >= 0.5 else [partners, y.clone()]
        usage = usage or Usage()
        usage.shares = self._sorted_shares
        return make_target(rows, self._sorted_weights, usage)

    @property
    def _sorted_shares(self) -> tuple[float, ...]:
        """The weights of both labels, the larger first."""
        drawn = float(self.drawn)
        return (drawn, 1 - drawn) if drawn >= 0.5 else (1 - drawn, drawn)

    @cached_property
    def _sorted_weights(self) -> Tensor:
        """The same as one tensor for all targets of the mix."""
        shares, device = self._sorted_shares, torch.device(self.device)
        if device.type == "cpu":
            return torch.tensor(shares, dtype=torch.float64)
        # Filled in, as a copy would wait for the device.
        weights = self.weight.new_empty(len(shares))
        for i, share in enumerate(shares):
            weights[i : i + 1].fill_(share)
        return weights

    def _partners_of(self, y: Tensor) -> Tensor:
        """Returns the targets that are mixed in; a weight of 1 has its own.

        Of another one, a loss that is infinite would make NaN with a share of zero.
        """
        if isinstance(self.drawn, float):
            return y.clone() if self.drawn == 1 else take_partners(y, self.shift)
        partners = take_partners(y, self.shift)
        for i in np.flatnonzero(self.drawn == 1):
            partners[i] = y[i]
        return partners


@dataclass(frozen=True)
class Mixup:
    r"""Mixup: each sample is interpolated with a partner, and so is its target.

    .. math::
        \tilde{x} = \lambda x_i + (1 - \lambda) x_j, \quad
        \tilde{y} = \lambda y_i + (1 - \lambda) y_j, \quad
        \lambda \sim \mathrm{Beta}(\alpha, \alpha)

    Reference:
        | mixup: Beyond Empirical Risk Minimization (Zhang et al., 2018)
        | https://arxiv.org/abs/1710.09412

    Args:
        alpha: The parameter of the Beta distribution, at least 0. 0 is no mixing, 1 draws weights
            uniformly, ``math.inf`` mixes half and half. 0.2, the paper's choice for ImageNet, is
            mild: most samples stay near one parent, so it seldom harms; small data sets and noisy
            labels take 1.0 and more.
        per_sample: Draws one weight for each sample rather than one for the batch. One per batch
            is the paper's own code, and exact for every loss; one per sample varies more within a
            batch, and needs a loss that is a sum or mean over samples.

    Raises:
        MixupTypeError: If alpha is not a number, or per_sample not a bool.
        MixupValueError: If alpha is negative or NaN.

    Example:
        >>> x, y = torch.randn(8, 3), torch.arange(8)
        >>> mixed_x, mixed_y = Mixup(alpha=0.2)(x, y)
        >>> loss = torch.nn.functional.cross_entropy(torch.nn.Linear(3, 8)(mixed_x), mixed_y)
    """

    alpha: float = 0.2
    per_sample: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        """Refuses an alpha that is no parameter of a Beta distribution.

        Raises:
            MixupTypeError: If alpha is not a number, or per_sample not a bool.
            MixupValueError: If alpha is negative or NaN.
        """
        hint = "Use 0.2 for mild mixing, 1.0 for strong, 0 for none, math.inf for half and half."
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, Real):
            raise MixupTypeError(f"alpha={self.alpha!r} is not a number. {hint}")
        if not self.alpha >= 0:
            raise MixupValueError(f"alpha={self.alpha!r} is not at least 0. {hint}")
        if not isinstance(self.per_sample, bool):
            raise MixupTypeError(
                f"per_sample={self.per_sample!r} is not a bool. Give True or False."
            )
        object.__setattr__(self, "alpha", float(self.alpha))  # of Fractions and numpy's, too

    @property
    def mixes(self) -> bool:
        """Whether this recipe ever changes a batch."""
        return self.alpha > 0

    def describe(self) -> str:
        """Says in words how the weights are drawn."""
        drawn = "half and half"
        if not math.isinf(self.alpha):
            drawn = f"Beta({self.alpha:g}, {self.alpha:g})"
        return f"{drawn} for each sample" if self.per_sample else drawn

    def draw(
        self, rng: np.random.Generator, batch_size: int, device: torch.device | str = "cpu"
    ) -> Mix | None:
        """Draws the mix of one batch.

        Args:
            rng: The source of randomness.
            batch_size: B.
            device: Where the batch is. Nothing waits for it.

        Returns:
            The mix, or None where there is nothing to mix: for a batch of one, or alpha 0.

        Example:
            >>> Mixup(alpha=math.inf).draw(np.random.default_rng(0), batch_size=2).weight
            tensor(0.5000, dtype=torch.float64)
        """
        if batch_size < 2 or not self.mixes:
            return None
        shift = draw_shift(rng, batch_size)
        half = math.isinf(self.alpha)
        if self.per_sample:
            drawn = (
                np.full(batch_size, 0.5) if half else rng.beta(self.alpha, self.alpha, batch_size)
            )
            return Mix(drawn, shift, batch_size, device)
        return Mix(0.5 if half else rng.beta(self.alpha, self.alpha), shift, batch_size, device)

    def __call__(
        self, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        r"""Mixes one batch, in a loop without Lightning.

        Args:
            x: Floating-point inputs, of shape (B, \*). Never modified.
            y: Targets, of shape (B, \*): class indices, or floats. Never modified.
            generator: A generator of the CPU; by default torch's global one, so that
                ``torch.manual_seed`` decides.

        Returns:
            The mixed inputs, and a `MixedTarget`; ``x`` and ``y`` themselves for a batch of one
            and for alpha 0.

        Raises:
            MixupTypeError: If ``x`` is not floating-point, or one of them no tensor.
            MixupValueError: If ``x`` and ``y`` disagree on B.
        """
        for name, value in (("x", x), ("y", y)):
            if not isinstance(value, Tensor):
                raise MixupTypeError(
                    f"Mixup got a {type(value).__name__} as {name}. Give a tensor, for example "
                    f"`torch.as_tensor({name})`."
                )
        if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
            raise MixupValueError(
                f"Mixup got inputs of shape {tuple(x.shape)} and targets of shape "
                f"{tuple(y.shape)}. Give one target for each input."
            )
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
        mix = self.draw(np.random.Generator(np.random.Philox(seed)), len(x), x.device)
        return (x, y) if mix is None else (mix.blend(x), mix.label(y))
