"""How a batch is mixed: recipes, frozen descriptions that draw one `Mix` for each batch.

A recipe is put together from a distribution of weights (`weights.py`), a choice of partners
(`partners.py`) and a way of blending (`blend.py`). It has no state and no randomness of its own.
Nothing here knows Lightning.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import lru_cache
from numbers import Integral
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from lightning_mixup.errors import MixupTypeError, MixupValueError
from lightning_mixup.mixes import Mix, Paired, Pasted, Resized, Rounds, Summed
from lightning_mixup.parameters import call_of, check_count, check_number
from lightning_mixup.partners import ANY_OTHER, Partners, Shift
from lightning_mixup.regions import draw_boxes, place_boxes, visible_shares
from lightning_mixup.weights import ALPHA_HINT, Beta, Weight, Weights

__all__ = ["CutMix", "Mixup", "Overlay", "Recipe", "ResizeMix", "SamplePairing"]


class Recipe(ABC):
    """How a batch is mixed.

    Example:
        >>> isinstance(Mixup(0.2), Recipe), isinstance(CutMix(1.0), Recipe)
        (True, True)
    """

    partners: Partners = ANY_OTHER
    """Who is mixed with whom."""

    rounds: int = 1
    """With how many partners each sample is mixed."""

    @property
    def mixes(self) -> bool:
        """Whether this recipe ever changes a batch."""
        return True

    @property
    def fits_layers(self) -> bool:
        """Whether hidden features can be mixed like this, and not inputs alone."""
        return True

    @property
    def doubles(self) -> bool:
        """Whether it makes batches of twice the size."""
        return False

    @property
    def most_partners(self) -> int:
        """With how many partners a sample is mixed at most."""
        return self.rounds

    @property
    def reads_inputs(self) -> bool:
        """Whether it looks at the inputs."""
        return self.partners.reads_inputs or not self.fits_layers

    @abstractmethod
    def describe(self) -> str:
        """Says in words how a batch is mixed."""

    def __repr__(self) -> str:
        return call_of(self)

    def at_strength(self, strength: float) -> Recipe:
        """Returns the same recipe, milder: at 1 as it is, at 0 it mixes nothing.

        Raises:
            MixupValueError: If it knows of no degrees.
        """
        if strength == 1:
            return self
        raise MixupValueError(
            f"{self!r} mixes or it doesn't, and has no strength={strength:g}. Let prob= decide "
            "how often it does."
        )

    def at_epoch(self, epoch: int) -> Recipe | None:
        """Returns the recipe that holds in an epoch, None where nothing is mixed."""
        return self

    def pick(self, rng: np.random.Generator) -> Recipe:
        """Draws by which recipe one batch is mixed: by itself, unless it is made of several."""
        return self

    @abstractmethod
    def draw(
        self,
        rng: np.random.Generator,
        batch_size: int,
        device: torch.device | str = "cpu",
        inputs: Sequence[Tensor] = (),
        targets: Sequence[Tensor] = (),
    ) -> Mix | None:
        r"""Draws the mix of one batch.

        Args:
            rng: The source of randomness.
            batch_size: B.
            device: Where the batch is. Nothing waits for it.
            inputs: Tensors of shape (B, \*), for recipes that look at them.
            targets: Tensors of shape (B, \*), likewise.

        Returns:
            The mix, or None where there is nothing to mix, as for a batch of one.
        """

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
            The mixed inputs, and a `MixedTarget` or what the recipe makes of labels; ``x`` and
            ``y`` themselves where nothing is mixed, as for a batch of one.

        Raises:
            MixupTypeError: If ``x`` is not floating-point, or one of them no tensor.
            MixupValueError: If ``x`` and ``y`` disagree on B.
        """
        name = type(self).__name__
        for argument, value in (("x", x), ("y", y)):
            if not isinstance(value, Tensor):
                raise MixupTypeError(
                    f"{name} got a {type(value).__name__} as {argument}. Give a tensor, for "
                    f"example `torch.as_tensor({argument})`."
                )
        if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
            raise MixupValueError(
                f"{name} got inputs of shape {tuple(x.shape)} and targets of shape "
                f"{tuple(y.shape)}. Give one target for each input."
            )
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
        rng = np.random.Generator(np.random.Philox(seed))
        mix = self.draw(rng, len(x), x.device, [x], [y])
        return (x, y) if mix is None else (mix.blend(x), mix.label(y))


@dataclass(frozen=True, repr=False)
class Mixup(Recipe):
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
            uniformly, ``math.inf`` mixes half and half. 0.2, the paper's choice for ImageNet and
            the default, is mild: most samples stay near one parent, so it seldom harms; small
            data sets and noisy labels take 1.0 and more.
        per_sample: Draws one weight for each sample rather than one for the batch. One per batch
            is the paper's own code, and exact for every loss; one per sample varies more within a
            batch, and needs a loss that is a sum or mean over samples.
        weight: Another distribution than ``Beta(alpha)``: ``Beta(2, 5)``, ``Fixed(0.5)``,
            ``Uniform(0.0, 1.0)``.
        partners: Who is mixed with whom, such as ``SameClass()``.
        rounds: With how many partners each sample is mixed, one after the other: after two,
            :math:`\lambda_2 (\lambda_1 x_i + (1 - \lambda_1) x_j) + (1 - \lambda_2) x_k`.

    Raises:
        MixupTypeError: If an argument is of the wrong type.
        MixupValueError: If alpha is negative or NaN, or given beside weight, or rounds below 1.

    Example:
        >>> x, y = torch.randn(8, 3), torch.arange(8)
        >>> mixed_x, mixed_y = Mixup(alpha=0.2)(x, y)
        >>> loss = torch.nn.functional.cross_entropy(torch.nn.Linear(3, 8)(mixed_x), mixed_y)
        >>> Mixup(weight=Beta(2, 5), rounds=2)
        Mixup(weight=Beta(a=2.0, b=5.0), rounds=2)
    """

    mix: ClassVar[type[Mix]] = Mix
    """What blends and labels a batch that was drawn: another one makes a recipe of one's own."""

    alpha: float | None = None
    _: KW_ONLY
    per_sample: bool = False
    weight: Weights | None = None
    partners: Partners = ANY_OTHER
    rounds: int = 1

    def __post_init__(self) -> None:
        _check_weight(self, default=0.2)
        _check_parts(self)
        if self.rounds > 1 and self.mix is not Mix:
            raise MixupValueError(
                f"{type(self).__name__} blends in a way of its own, in one round, and got "
                f"rounds={self.rounds}. Leave rounds out."
            )

    @property
    def mixes(self) -> bool:
        """Whether this recipe ever changes a batch."""
        return _weights_of(self).mixes

    def describe(self) -> str:
        """Says in words how a batch is mixed."""
        return _in_words(self)

    def at_strength(self, strength: float) -> Mixup:
        """Returns the same recipe, milder: at 1 as it is, at 0 it mixes nothing."""
        return _milder(self, strength)

    def draw(
        self,
        rng: np.random.Generator,
        batch_size: int,
        device: torch.device | str = "cpu",
        inputs: Sequence[Tensor] = (),
        targets: Sequence[Tensor] = (),
    ) -> Mix | None:
        """Draws the mix of one batch.

        Example:
            >>> import math
            >>> Mixup(alpha=math.inf).draw(np.random.default_rng(0), batch_size=2).weight
            tensor(0.5000, dtype=torch.float64)
        """
        weights = _weights_of(self)
        if batch_size < 2 or not weights.mixes:
            return None
        draws: list[tuple[Weight, Shift]] = []
        for _ in range(self.rounds):
            shift = self.partners.draw(rng, batch_size, device, inputs, targets)
            weight = _draw_weight(weights, rng, batch_size, per_sample=self.per_sample)
            draws.append((weight, shift))
        if self.rounds == 1:
            return self.mix(*draws[0], batch_size, device)
        kept: Weight = 1.0  # in the rounds that come after, so from the last on
        parts: list[tuple[Weight, Shift]] = []
        for weight, shift in reversed(draws):
            parts.insert(0, ((1 - weight) * kept, shift))
            kept = weight * kept
        return Rounds(kept, draws[0][1], batch_size, device, parts=tuple(parts))


@dataclass(frozen=True, repr=False)
class CutMix(Recipe):
    r"""CutMix: a box of each sample is replaced by that of its partner; labels count by area.

    The weight is the exact share of the area that a sample keeps. Where the target is a map, as
    in segmentation, the same box is pasted into it, so that it stays hard. Boxes are cut from
    series and spectra (one dimension), images (two) and videos (three).

    Reference:
        | CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features
        | (Yun et al., 2019), https://arxiv.org/abs/1905.04899

    Args:
        alpha: The parameter of the Beta distribution from which the area is drawn, before what
            lies outside is cut off; 1.0, the paper's, by default.
        per_sample: Draws a box for each sample rather than one for the batch.
        weight: Another distribution than ``Beta(alpha)``, within [0, 1].
        partners: Who is mixed with whom.
        rounds: How many boxes are pasted, one over the other.
        dims: The dimensions that are cut; by default all after the channels, of (B, C, ...), and
            the last of (B, N). ``(-1,)`` cuts out times from a spectrogram, ``(-2, -1)`` the same
            box from all frames of a video, ``(1,)`` times from series of shape (B, T, C). A
            target is a map if it has these dimensions, and all behind them if counted from the
            end, or all before them if from the front, in the size of the input.

    Raises:
        MixupTypeError: If an argument is of the wrong type.
        MixupValueError: If a number is out of range, or alpha given beside weight.

    Example:
        >>> x, y = torch.rand(4, 3, 8, 8), torch.arange(4)
        >>> mixed_x, mixed_y = CutMix(alpha=1.0)(x, y)
        >>> mask = (x.mean(dim=1) > 0.5).long()
        >>> _, mixed_mask = CutMix()(x, mask)
        >>> mixed_mask.unique()
        tensor([0, 1])
    """

    alpha: float | None = None
    _: KW_ONLY
    per_sample: bool = False
    weight: Weights | None = None
    partners: Partners = ANY_OTHER
    rounds: int = 1
    dims: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _check_weight(self, default=1.0)
        _check_parts(self)
        low, high = _weights_of(self).bounds
        if not 0 <= low <= high <= 1:
            raise MixupValueError(
                f"CutMix got weight={self.weight!r}, and an area is a share from 0 to 1. Choose "
                "weights in this range, or Mixup to extrapolate."
            )
        if self.dims is not None:
            object.__setattr__(self, "dims", _check_dims(self.dims))

    @property
    def mixes(self) -> bool:
        """Whether this recipe ever changes a batch."""
        return _weights_of(self).mixes

    @property
    def fits_layers(self) -> bool:
        """Not, as a place of hidden features shows more of an input than is cut."""
        return False

    def describe(self) -> str:
        """Says in words how a batch is mixed."""
        return f"CutMix, area by {_in_words(self)}"

    def at_strength(self, strength: float) -> CutMix:
        """Returns the same recipe, milder: at 1 as it is, at 0 it mixes nothing."""
        return _milder(self, strength)

    def draw(
        self,
        rng: np.random.Generator,
        batch_size: int,
        device: torch.device | str = "cpu",
        inputs: Sequence[Tensor] = (),
        targets: Sequence[Tensor] = (),
    ) -> Mix | None:
        """Draws the mix of one batch."""
        weights = _weights_of(self)
        if batch_size < 2 or not weights.mixes:
            return None
        dims, sizes = _dims_and_sizes(self, inputs, self.dims)
        shifts, boxes = [], []
        for _ in range(self.rounds):
            shifts.append(self.partners.draw(rng, batch_size, device, inputs, targets))
            weight = _draw_weight(weights, rng, batch_size, per_sample=self.per_sample)
            boxes.append(draw_boxes(rng, 1 - weight, sizes))
        kept, *areas = visible_shares(boxes, sizes)
        return Pasted(
            kept,
            shifts[0],
            batch_size,
            device,
            areas=areas,
            boxes=boxes,
            shifts=shifts,
            dims=dims,
            shape=inputs[0].shape,
        )


@dataclass(frozen=True, repr=False)
class ResizeMix(Recipe):
    """ResizeMix: the whole of its partner is made smaller and pasted into each sample.

    Unlike CutMix, what is pasted always shows the partner's object. Labels count by the exact
    area; maps of labels are resized to the nearest and pasted likewise.

    Reference:
        | ResizeMix: Mixing Data with Preserved Object Information and True Labels
        | (Qin et al., 2020), https://arxiv.org/abs/2012.11101

    Args:
        low: The smallest side of what is pasted, as a part of the whole; 0.1 as in the paper.
        high: The largest; 0.8 as in the paper. Sides are equally likely in between.
        partners: Who is mixed with whom.

    Raises:
        MixupTypeError: If an argument is of the wrong type.
        MixupValueError: If low and high are no range within [0, 1].

    Example:
        >>> x, y = torch.rand(4, 3, 8, 8), torch.arange(4)
        >>> mixed_x, mixed_y = ResizeMix()(x, y)
    """

    low: float = 0.1
    high: float = 0.8
    _: KW_ONLY
    partners: Partners = ANY_OTHER

    def __post_init__(self) -> None:
        hint = "Give the sides of what is pasted as parts of the whole, such as 0.1 to 0.8."
        for name in ("low", "high"):
            object.__setattr__(self, name, check_number(name, getattr(self, name), 0, 1, hint))
        if self.low > self.high:
            raise MixupValueError(
                f"ResizeMix(low={self.low!r}, high={self.high!r}) is no range: low is above "
                f"high. {hint}"
            )
        _check_parts(self)

    @property
    def mixes(self) -> bool:
        """Whether this recipe ever changes a batch."""
        return self.high > 0

    @property
    def fits_layers(self) -> bool:
        """Not, as a place of hidden features shows more of an input than is pasted."""
        return False

    def describe(self) -> str:
        """Says in words how a batch is mixed."""
        return f"ResizeMix, sides from {self.low:g} to {self.high:g}, {self.partners.describe()}"

    def at_strength(self, strength: float) -> ResizeMix:
        """Returns the same recipe with smaller sides: at 0 it mixes nothing."""
        return replace(self, low=self.low * strength, high=self.high * strength)

    def draw(
        self,
        rng: np.random.Generator,
        batch_size: int,
        device: torch.device | str = "cpu",
        inputs: Sequence[Tensor] = (),
        targets: Sequence[Tensor] = (),
    ) -> Mix | None:
        """Draws the mix of one batch."""
        if batch_size < 2 or not self.mixes:
            return None
        dims, sizes = _dims_and_sizes(self, inputs, None)
        shift = self.partners.draw(rng, batch_size, device, inputs, targets)
        box = place_boxes(rng, rng.uniform(self.low, self.high), sizes)
        kept, *areas = visible_shares([box], sizes)
        return Resized(
            kept,
            shift,
            batch_size,
            device,
            areas=areas,
            boxes=[box],
            shifts=[shift],
            dims=dims,
            shape=inputs[0].shape,
        )


@dataclass(frozen=True, repr=False)
class SamplePairing(Recipe):
    """SamplePairing: each sample is averaged with a partner, and keeps its own label.

    The training loss stays high, as half of what is seen is another sample: the paper turns it
    off for the last epochs, and on and off before, which ``prob=`` takes as a schedule.

    Reference:
        | Data Augmentation by Pairing Samples for Images Classification (Inoue, 2018)
        | https://arxiv.org/abs/1801.02929

    Args:
        partners: Who is mixed with whom.

    Raises:
        MixupTypeError: If they are none.

    Example:
        >>> x, y = torch.tensor([[0.0], [4.0]]), torch.tensor([0, 1])
        >>> SamplePairing()(x, y)
        (tensor([[2.],
                [2.]]), tensor([0, 1]))
    """

    partners: Partners = ANY_OTHER

    def __post_init__(self) -> None:
        _check_parts(self)

    def describe(self) -> str:
        """Says in words how a batch is mixed."""
        return f"SamplePairing, half and half with the own label, {self.partners.describe()}"

    def draw(
        self,
        rng: np.random.Generator,
        batch_size: int,
        device: torch.device | str = "cpu",
        inputs: Sequence[Tensor] = (),
        targets: Sequence[Tensor] = (),
    ) -> Mix | None:
        """Draws the mix of one batch."""
        if batch_size < 2:
            return None
        shift = self.partners.draw(rng, batch_size, device, inputs, targets)
        return Paired(0.5, shift, batch_size, device)


@dataclass(frozen=True, repr=False)
class Overlay(Recipe):
    """Overlay: samples are added up, with the union of their labels, as sounds are heard together.

    For multi-label classification of sounds, as in solutions of BirdCLEF. Targets are floats, 1
    for each class that is there; the loss is one per class, such as
    ``binary_cross_entropy_with_logits``. Weights of the samples' losses are averaged.

    Reference:
        | BirdCLEF 2023, 2nd place, ``Mixup`` of its modules/model.py
        | https://github.com/LIHANG-HONG/birdclef2023-2nd-place-solution

    Args:
        rounds: How many partners are added to each sample.
        partners: Who they are.

    Raises:
        MixupTypeError: If an argument is of the wrong type.
        MixupValueError: If rounds is below 1.

    Example:
        >>> clips, birds = torch.tensor([[0.1, 0.2], [0.0, 0.5]]), torch.eye(2)
        >>> Overlay()(clips, birds)
        (tensor([[0.1000, 0.7000],
                [0.1000, 0.7000]]), tensor([[1., 1.],
                [1., 1.]]))
    """

    rounds: int = 1
    _: KW_ONLY
    partners: Partners = ANY_OTHER

    def __post_init__(self) -> None:
        _check_parts(self)

    def describe(self) -> str:
        """Says in words how a batch is mixed."""
        return f"sums of {self.rounds + 1} with all their labels, {self.partners.describe()}"

    def draw(
        self,
        rng: np.random.Generator,
        batch_size: int,
        device: torch.device | str = "cpu",
        inputs: Sequence[Tensor] = (),
        targets: Sequence[Tensor] = (),
    ) -> Mix | None:
        """Draws the mix of one batch."""
        if batch_size < 2:
            return None
        shifts = [
            self.partners.draw(rng, batch_size, device, inputs, targets)
            for _ in range(self.rounds)
        ]
        return Summed(1.0, shifts[0], batch_size, device, shifts=shifts)


_Weighed = TypeVar("_Weighed", Mixup, CutMix)


def _weights_of(recipe: Mixup | CutMix) -> Weights:
    """Returns the distribution that a recipe draws weights from."""
    return _beta(recipe.alpha) if recipe.weight is None else recipe.weight


# Asked for in each step, which is no time to check an alpha again.
_beta = lru_cache(Beta)


def _draw_weight(
    weights: Weights, rng: np.random.Generator, batch_size: int, *, per_sample: bool
) -> Weight:
    """Draws a weight for the batch or one for each sample, whatever numbers those are.

    Raises:
        MixupValueError: If a distribution of one's own draws others.
    """
    weight = weights.draw(rng, batch_size if per_sample else None)
    if isinstance(weight, float) and math.isfinite(weight):
        return weight  # as nearly always
    if np.shape(weight) not in ((), (batch_size,)):
        raise MixupValueError(
            f"{weights!r} drew weights of shape {tuple(np.shape(weight))} for {batch_size} "
            "samples. Return one number, or `size` of them where a size is given."
        )
    if not np.isfinite(weight).all():
        raise MixupValueError(f"{weights!r} drew {weight!r}. Return weights that are finite.")
    return np.asarray(weight, np.float64) if np.ndim(weight) else float(weight)


def _milder(recipe: _Weighed, strength: float) -> _Weighed:
    if strength == 1:
        return recipe
    milder = _weights_of(recipe).at_strength(strength)
    if isinstance(milder, Beta) and milder.a == milder.b:
        return replace(recipe, alpha=milder.a, weight=None)
    return replace(recipe, alpha=None, weight=milder)


def _in_words(recipe: Mixup | CutMix) -> str:
    each = " for each sample" if recipe.per_sample else ""
    rounds = f" in {recipe.rounds} rounds" if recipe.rounds > 1 else ""
    return f"{_weights_of(recipe).describe()}{each}{rounds}, {recipe.partners.describe()}"


def _check_weight(recipe: Mixup | CutMix, default: float) -> None:
    """Completes a recipe that says nothing of its weights.

    Raises:
        MixupTypeError: If alpha is not a number, or weight no distribution.
        MixupValueError: If alpha is negative or NaN, or both are given.
    """
    name, alpha, weight = type(recipe).__name__, recipe.alpha, recipe.weight
    if weight is None:
        given = default if alpha is None else alpha
        number = check_number("alpha", given, 0, math.inf, ALPHA_HINT)
        object.__setattr__(recipe, "alpha", number)  # of Fractions and numpy's, too
    elif alpha is not None:
        raise MixupValueError(
            f"{name} got both alpha={alpha!r} and weight={weight!r}. alpha is short for "
            "weight=Beta(alpha): give one of them."
        )
    elif not isinstance(weight, Weights):
        raise MixupTypeError(
            f"weight={weight!r} is a {type(weight).__name__}, not a distribution of weights. "
            "Write, for example, weight=Fixed(0.5)."
        )


def _check_parts(recipe: Recipe) -> None:
    """Refuses partners that are none, a flag that is none, and a number of rounds that is none.

    Raises:
        MixupTypeError: If one is of the wrong type.
        MixupValueError: If rounds is below 1.
    """
    per_sample = getattr(recipe, "per_sample", False)
    if not isinstance(per_sample, bool):
        raise MixupTypeError(f"per_sample={per_sample!r} is not a bool. Give True or False.")
    if not isinstance(recipe.partners, Partners):
        raise MixupTypeError(
            f"partners={recipe.partners!r} is a {type(recipe.partners).__name__}, and says not "
            "who is mixed with whom. Write, for example, partners=SameClass()."
        )
    hint = "Give the number of partners that each sample is mixed with, such as 1."
    check_count("rounds", recipe.rounds, hint)


def _check_dims(dims: Any) -> tuple[int, ...]:
    """Returns the dimensions that are cut, as a tuple.

    Raises:
        MixupTypeError: If they are no integers.
        MixupValueError: If there are none, one is twice there, or the samples' own among them.
    """
    hint = "Give those that are cut, such as (-2, -1) for images."
    if not isinstance(dims, (tuple, list)) or not all(
        isinstance(dim, Integral) and not isinstance(dim, bool) for dim in dims
    ):
        raise MixupTypeError(f"dims={dims!r} are no dimensions. {hint}")
    if not dims or len(set(dims)) < len(dims) or 0 in dims:
        raise MixupValueError(
            f"dims={dims!r} must be different dimensions, and not 0, along which samples lie. "
            f"{hint}"
        )
    return tuple(int(dim) for dim in dims)


def _dims_and_sizes(
    recipe: Recipe, inputs: Sequence[Tensor], dims: tuple[int, ...] | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the dimensions of the inputs that are cut, and how long they are.

    Raises:
        MixupValueError: If there are no inputs, or the first has no such dimensions, or a single
            place in them.
    """
    name = type(recipe).__name__
    if not inputs:
        raise MixupValueError(
            f"{name} draws boxes in the size of the inputs, and got none. Write "
            "draw(rng, batch_size, device, inputs=[x])."
        )
    shape = tuple(inputs[0].shape)
    count = min(1, len(shape) - 1) if len(shape) < 3 else len(shape) - 2
    cut = tuple(range(-count, 0)) if dims is None else dims
    places = {dim % len(shape) for dim in cut if -len(shape) < dim < len(shape)}
    if not 1 <= len(cut) <= 3 or len(places) < len(cut):
        raise MixupValueError(
            f"{name} cuts one, two or three dimensions after that of the samples, and can't cut "
            f"dims={cut} from inputs of shape {shape}. Inputs are of shape (B, N), (B, C, L), "
            "(B, C, H, W) or (B, C, T, H, W)."
        )
    sizes = tuple(shape[dim] for dim in cut)
    if math.prod(sizes) == 1:
        raise MixupValueError(
            f"{name} finds nothing to cut: along dims={cut}, inputs of shape {shape} have a "
            "single place. Say where the places are, such as CutMix(dims=(1,)) for series of "
            "shape (B, T, C), give inputs with the channels first, or choose Mixup."
        )
    return cut, sizes
