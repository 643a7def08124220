"""Recipes made of recipes: one of several, one for each range of epochs, clean and mixed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_mixup.errors import MixupTypeError, MixupValueError
from lightning_mixup.mixes import Joined, Mix
from lightning_mixup.parameters import check_number
from lightning_mixup.recipes import Mixup, Recipe

__all__ = ["ByEpoch", "OneOf", "RegMixup"]


class _Several(Recipe):
    """Several recipes, by one of which a batch is mixed: it may need what any of them needs."""

    @property
    @abstractmethod
    def parts(self) -> Sequence[Recipe]:
        """These recipes."""

    @property
    def fits_layers(self) -> bool:
        """Whether hidden features can be mixed by all of them."""
        return all(recipe.fits_layers for recipe in self.parts)

    @property
    def reads_inputs(self) -> bool:
        """Whether one of them looks at the inputs."""
        return any(recipe.reads_inputs for recipe in self.parts)

    @property
    def doubles(self) -> bool:
        """Whether one of them makes batches of twice the size."""
        return any(recipe.doubles for recipe in self.parts)

    @property
    def most_partners(self) -> int:
        """With how many partners a sample is mixed at most."""
        return max((recipe.most_partners for recipe in self.parts), default=1)


@dataclass(frozen=True, init=False, repr=False)
class OneOf(_Several):
    """One of several recipes, drawn anew for each batch.

    Args:
        recipes: The first of them, or a list of all, as in a YAML file.
        others: The others.
        weights: How likely each is, relative to the others; equally by default.

    Raises:
        MixupTypeError: If one is no recipe, or weights are no numbers.
        MixupValueError: If weights are negative, all 0, or not as many as recipes.

    Example:
        >>> from lightning_mixup.recipes import CutMix
        >>> recipe = OneOf(Mixup(0.2), CutMix(1.0), weights=[3, 1])
        >>> recipe
        OneOf(Mixup(alpha=0.2), CutMix(alpha=1.0), weights=[0.75, 0.25])
        >>> mixed_x, mixed_y = recipe(torch.rand(4, 3, 8, 8), torch.arange(4))
    """

    recipes: tuple[Recipe, ...]
    weights: tuple[float, ...]

    def __init__(
        self,
        recipes: Recipe | Sequence[Recipe],
        *others: Recipe,
        weights: Sequence[float] | None = None,
    ) -> None:
        first = recipes if isinstance(recipes, Sequence) else [recipes]
        listed = tuple(_check_part("OneOf", recipe) for recipe in (*first, *others))
        object.__setattr__(self, "recipes", listed)
        object.__setattr__(self, "weights", _check_shares(weights, len(listed)))

    def __repr__(self) -> str:
        listed = ", ".join(map(repr, self.recipes))
        is_even = len(set(self.weights)) == 1
        return f"OneOf({listed}{'' if is_even else f', weights={list(self.weights)}'})"

    @property
    def mixes(self) -> bool:
        """Whether this recipe ever changes a batch."""
        return any(r.mixes for r, share in zip(self.recipes, self.weights, strict=True) if share)

    @property
    def parts(self) -> Sequence[Recipe]:
        """The recipes."""
        return self.recipes

    def describe(self) -> str:
        """Says in words how a batch is mixed."""
        shares = zip(self.recipes, self.weights, strict=True)
        return "; or ".join(f"{recipe.describe()} ({share:.0%})" for recipe, share in shares)

    def at_strength(self, strength: float) -> OneOf:
        """Returns the same choice of milder recipes."""
        milder = [recipe.at_strength(strength) for recipe in self.recipes]
        return OneOf(milder, weights=self.weights)

    def pick(self, rng: np.random.Generator) -> Recipe:
        """Draws a recipe, and of that again, should it be one of several."""
        return self.recipes[rng.choice(len(self.recipes), p=self.weights)].pick(rng)

    def draw(
        self,
        rng: np.random.Generator,
        batch_size: int,
        device: torch.device | str = "cpu",
        inputs: Sequence[Tensor] = (),
        targets: Sequence[Tensor] = (),
    ) -> Mix | None:
        """Draws a recipe, and with that the mix of one batch."""
        return self.pick(rng).draw(rng, batch_size, device, inputs, targets)


@dataclass(frozen=True, init=False, repr=False)
class ByEpoch(_Several):
    """A recipe for each range of epochs, as `MixupCallback` knows them.

    Args:
        recipes: From which epoch on, counted from 0, which recipe holds; None mixes nothing.
            Before the first nothing is mixed.

    Raises:
        MixupTypeError: If it is no mapping, or one is no recipe.
        MixupValueError: If it is empty, or an epoch is no number of one.

    Example:
        >>> from lightning_mixup.recipes import CutMix
        >>> recipe = ByEpoch({0: Mixup(0.2), 50: CutMix(1.0), 90: None})
        >>> recipe.at_epoch(49), recipe.at_epoch(50), recipe.at_epoch(90)
        (Mixup(alpha=0.2), CutMix(alpha=1.0), None)
    """

    ranges: tuple[tuple[int, Recipe | None], ...]

    def __init__(self, recipes: Mapping[int, Recipe | None]) -> None:
        object.__setattr__(self, "ranges", _check_ranges(recipes))

    def __repr__(self) -> str:
        return f"ByEpoch({dict(self.ranges)!r})"

    @property
    def parts(self) -> Sequence[Recipe]:
        """The recipes, without the ranges in which nothing is mixed."""
        return [recipe for _, recipe in self.ranges if recipe is not None]

    @property
    def mixes(self) -> bool:
        """Whether this recipe ever changes a batch."""
        return any(recipe.mixes for recipe in self.parts)

    def describe(self) -> str:
        """Says in words how a batch is mixed."""
        return "; ".join(
            f"from epoch {epoch}: {'nothing' if recipe is None else recipe.describe()}"
            for epoch, recipe in self.ranges
        )

    def at_epoch(self, epoch: int) -> Recipe | None:
        """Returns the recipe that holds in an epoch, None where nothing is mixed."""
        begun = [recipe for first, recipe in self.ranges if first <= epoch]
        return begun[-1] if begun else None

    def at_strength(self, strength: float) -> ByEpoch:
        """Returns the same with milder recipes."""
        return ByEpoch({
            epoch: None if recipe is None else recipe.at_strength(strength)
            for epoch, recipe in self.ranges
        })

    def draw(
        self,
        rng: np.random.Generator,
        batch_size: int,
        device: torch.device | str = "cpu",
        inputs: Sequence[Tensor] = (),
        targets: Sequence[Tensor] = (),
    ) -> Mix | None:
        """Is refused, as nothing tells the epoch.

        Raises:
            MixupValueError: Always.
        """
        raise MixupValueError(
            f"{self!r} has a recipe for each epoch. In a loop without Lightning, write "
            "`recipe.at_epoch(epoch)(x, y)`."
        )


_NEARLY_HALF = Mixup(20.0)


@dataclass(frozen=True, repr=False)
class RegMixup(Recipe):
    r"""RegMixup: the clean batch and the mixed one together, in one batch of twice the size.

    The loss is the mean of the clean and the mixed one; mixing regularises. With large weights,
    which mix almost half and half, it keeps predictions of what lies between classes unsure.
    A step costs what one of twice the batch does.

    .. math:: \mathrm{CE}(p(x), y) + \mathrm{CE}(p(\tilde{x}), \tilde{y})

    Reference:
        | RegMixup: Mixup as a Regularizer Can Surprisingly Improve Accuracy and Out Distribution
        | Robustness (Pinto et al., 2022), equation 3 with η = 1, over 2
        | https://arxiv.org/abs/2206.14502

    Args:
        recipe: How the mixed part is mixed; ``Mixup(20.0)``, the paper's, by default.

    Raises:
        MixupTypeError: If it is no recipe.
        MixupValueError: If it makes batches of twice the size itself.

    Example:
        >>> x, y = RegMixup()(torch.rand(4, 3), torch.arange(4))
        >>> x.shape, y.shape
        (torch.Size([8, 3]), torch.Size([8]))
    """

    recipe: Recipe = _NEARLY_HALF

    def __post_init__(self) -> None:
        if _check_part("RegMixup", self.recipe).doubles:
            raise MixupValueError(
                f"RegMixup got {self.recipe!r}, which makes a batch of twice the size already. "
                "Write RegMixup once, around recipes that don't, such as OneOf(Mixup(20.0), "
                "CutMix(1.0))."
            )

    @property
    def mixes(self) -> bool:
        """Whether this recipe ever changes a batch."""
        return self.recipe.mixes

    @property
    def fits_layers(self) -> bool:
        """Not, as the batch that a hidden layer sees is not to be doubled."""
        return False

    @property
    def doubles(self) -> bool:
        """Whether it makes batches of twice the size: it does."""
        return True

    def describe(self) -> str:
        """Says in words how a batch is mixed."""
        return f"clean and mixed together, {self.recipe.describe()}"

    def at_strength(self, strength: float) -> RegMixup:
        """Returns the same with a milder recipe."""
        return RegMixup(self.recipe.at_strength(strength))

    def pick(self, rng: np.random.Generator) -> RegMixup:
        """Draws by which recipe the mixed part is mixed."""
        return RegMixup(self.recipe.pick(rng))

    def draw(
        self,
        rng: np.random.Generator,
        batch_size: int,
        device: torch.device | str = "cpu",
        inputs: Sequence[Tensor] = (),
        targets: Sequence[Tensor] = (),
    ) -> Mix | None:
        """Draws the mix of one batch."""
        mix = self.recipe.draw(rng, batch_size, device, inputs, targets)
        return None if mix is None else Joined.of(mix)


def _check_part(name: str, recipe: Any) -> Recipe:
    """Returns what can be a part of another recipe.

    Raises:
        MixupTypeError: If it can't.
    """
    if isinstance(recipe, ByEpoch):
        raise MixupTypeError(
            f"{name} got {recipe!r} as a part, but epochs come first. Write ByEpoch around "
            f"{name}, as in ByEpoch({{0: {name}(...), 50: ...}})."
        )
    if not isinstance(recipe, Recipe):
        raise MixupTypeError(
            f"{name} got {recipe!r}, a {type(recipe).__name__}, which is no recipe. Give recipes, "
            "such as Mixup(0.2) and CutMix(1.0)."
        )
    return recipe


def _check_shares(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    """Returns how likely each of several recipes is.

    Raises:
        MixupTypeError: If these are no numbers.
        MixupValueError: If there are no recipes, or not as many weights, or none is above 0.
    """
    hint = "Give one for each recipe, such as OneOf(Mixup(0.2), CutMix(1.0), weights=[3, 1])."
    if not count:
        raise MixupValueError("OneOf() got no recipes. Write OneOf(Mixup(0.2), CutMix(1.0)).")
    if weights is None:
        return (1 / count,) * count
    if isinstance(weights, str) or not isinstance(weights, (Sequence, np.ndarray)):
        raise MixupTypeError(f"weights={weights!r} is not a list of numbers. {hint}")
    numbers = [check_number("weights", weight, 0, float("inf"), hint) for weight in weights]
    total = sum(numbers)
    if len(numbers) != count or not 0 < total < float("inf"):
        raise MixupValueError(
            f"OneOf() got weights={weights!r} for {count} recipes, but needs as many finite ones, "
            f"at least 0 and one above. {hint}"
        )
    if len(set(numbers)) == 1:
        return (1 / count,) * count
    is_sum = abs(total - 1) < 1e-12  # as of those that a repr shows
    return tuple(number if is_sum else number / total for number in numbers)


def _check_ranges(recipes: Any) -> tuple[tuple[int, Recipe | None], ...]:
    """Returns from which epoch on which recipe holds, in order.

    Raises:
        MixupTypeError: If it is no mapping, or one is no recipe.
        MixupValueError: If it is empty, or an epoch is no number of one.
    """
    hint = "Write, for example, ByEpoch({0: Mixup(0.2), 50: CutMix(1.0), 90: None})."
    if not isinstance(recipes, Mapping):
        raise MixupTypeError(f"ByEpoch got {recipes!r}, a {type(recipes).__name__}. {hint}")
    if not recipes:
        raise MixupValueError(f"ByEpoch got no recipes. {hint}")
    for epoch, recipe in recipes.items():
        if isinstance(epoch, bool) or not isinstance(epoch, Integral) or epoch < 0:
            raise MixupValueError(f"ByEpoch got {epoch!r} as an epoch, counted from 0. {hint}")
        if recipe is not None:
            _check_part("ByEpoch", recipe)
    return tuple((int(epoch), recipes[epoch]) for epoch in sorted(recipes))
