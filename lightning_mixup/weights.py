"""With which weight samples are mixed: distributions of the share that a sample keeps of itself.

Frozen descriptions without randomness of their own. A distribution of one's own is a subclass of
`Weights` that says how to ``draw``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lightning_mixup.errors import MixupValueError
from lightning_mixup.parameters import call_of, check_number

__all__ = ["ALPHA_HINT", "Beta", "Fixed", "Uniform", "Weight", "Weights"]

Weight: TypeAlias = "float | npt.NDArray[np.float64]"

ALPHA_HINT = "Use 0.2 for mild mixing, 1.0 for strong, 0 for none, math.inf for half and half."
"""What to write where a parameter of a Beta distribution is refused."""


class Weights(ABC):
    """A distribution of weights: a subclass says how one draws them.

    Example:
        >>> class Coin(Weights):
        ...     def draw(self, rng, size=None):
        ...         return rng.choice([0.3, 0.7], size)
        >>> Coin().draw(np.random.default_rng(0), size=3)
        array([0.7, 0.7, 0.7])
    """

    def __repr__(self) -> str:
        return call_of(self)

    @property
    def mixes(self) -> bool:
        """Whether a weight other than 1 is ever drawn."""
        return True

    @property
    def bounds(self) -> tuple[float, float]:
        """Between which numbers weights lie."""
        return 0.0, 1.0

    @abstractmethod
    def draw(self, rng: np.random.Generator, size: int | None = None) -> Weight:
        """Draws one weight, or a float64 array of shape (size,).

        Args:
            rng: The source of randomness.
            size: How many; None for a single number.
        """

    def at_strength(self, strength: float) -> Weights:
        """Returns the weights of which a sample gives away only this part, in [0, 1]."""
        return self if strength == 1 else _Faded(self, strength)

    def describe(self) -> str:
        """Says in words how weights are drawn."""
        return repr(self)


@dataclass(frozen=True)
class Beta(Weights):
    r"""Weights :math:`\lambda \sim \mathrm{Beta}(a, b)`.

    Reference:
        | mixup: Beyond Empirical Risk Minimization (Zhang et al., 2018)
        | https://arxiv.org/abs/1710.09412

    Args:
        a: The first parameter, at least 0. The larger against b, the more a sample keeps of
            itself: the mean is a / (a + b).
        b: The second; by default the same. Alike, both may be 0, which is no mixing, and
            ``math.inf``, which is half and half.

    Raises:
        MixupTypeError: If one is not a number.
        MixupValueError: If one is negative or NaN, or they differ and one is 0 or infinite.

    Example:
        >>> Beta(2, 5).draw(np.random.default_rng(0), size=2).round(2)
        array([0.23, 0.12])
        >>> Beta(0.2).at_strength(0.5)
        Beta(a=0.1, b=0.1)
    """

    a: float
    b: float | None = None

    def __post_init__(self) -> None:
        a = check_number("a", self.a, 0, math.inf, ALPHA_HINT)
        b = a if self.b is None else check_number("b", self.b, 0, math.inf, ALPHA_HINT)
        if a != b and not 0 < min(a, b) <= max(a, b) < math.inf:
            raise MixupValueError(
                f"Beta(a={self.a!r}, b={self.b!r}) is no distribution: only alike can they be 0 "
                "or infinite. Write, for example, Beta(2, 5), or Fixed(1.0) to mix nothing."
            )
        object.__setattr__(self, "a", a)  # of Fractions and numpy's, too
        object.__setattr__(self, "b", b)

    @property
    def mixes(self) -> bool:
        """Whether a weight other than 1 is ever drawn."""
        return self.a > 0

    def draw(self, rng: np.random.Generator, size: int | None = None) -> Weight:
        """Draws one weight, or a float64 array of shape (size,)."""
        if 0 < self.a < math.inf:
            return rng.beta(self.a, self.b, size)  # type: ignore[arg-type]
        return _constant(0.5 if self.a else 1.0, size)

    def at_strength(self, strength: float) -> Weights:
        """Returns the distribution with both parameters multiplied: at 0 it mixes nothing.

        Half and half is no Beta distribution, of which a sample gives away less.
        """
        if strength == 1:
            return self
        if math.isinf(self.a):
            return Fixed(0.5).at_strength(strength)
        if strength == 0:
            return Beta(0.0)
        return Beta(self.a * strength, self.b * strength)  # type: ignore[operator]

    def describe(self) -> str:
        """Says in words how weights are drawn."""
        return "half and half" if math.isinf(self.a) else f"Beta({self.a:g}, {self.b:g})"


@dataclass(frozen=True)
class Fixed(Weights):
    """The same weight, always.

    Args:
        weight: The share that a sample keeps of itself, any number: below 0 and above 1 it is
            extrapolated.

    Raises:
        MixupTypeError: If it is not a number.
        MixupValueError: If it is infinite or NaN.

    Example:
        >>> Fixed(0.5).draw(np.random.default_rng(0))
        0.5
    """

    weight: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", _finite("weight", self.weight))

    @property
    def mixes(self) -> bool:
        """Whether a weight other than 1 is ever drawn."""
        return self.weight != 1

    @property
    def bounds(self) -> tuple[float, float]:
        """Between which numbers weights lie."""
        return self.weight, self.weight

    def draw(self, rng: np.random.Generator, size: int | None = None) -> Weight:
        """Returns the weight, or a float64 array of shape (size,) of it."""
        return _constant(self.weight, size)

    def at_strength(self, strength: float) -> Fixed:
        """Returns the weight that is nearer to 1 by this factor."""
        return Fixed(_nearer_to_one(self.weight, strength))

    def describe(self) -> str:
        """Says in words how weights are drawn."""
        return f"the weight {self.weight:g}"


@dataclass(frozen=True)
class Uniform(Weights):
    r"""Weights that are equally likely in a range.

    Below 0 or above 1 samples and labels are extrapolated, beyond what lies between two samples:
    the direction "possibility to extrapolate" of the paper's discussion. A loss of such labels
    has no lower bound, so keep the range near [0, 1].

    Reference:
        | mixup: Beyond Empirical Risk Minimization (Zhang et al., 2018), section 5
        | https://arxiv.org/abs/1710.09412

    Args:
        low: The smallest weight.
        high: The largest weight.

    Raises:
        MixupTypeError: If one is not a number.
        MixupValueError: If one is infinite or NaN, or low is above high.

    Example:
        >>> Uniform(0.9, 1.1).draw(np.random.default_rng(0), size=2).round(2)
        array([1.03, 0.95])
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", _finite("low", self.low))
        object.__setattr__(self, "high", _finite("high", self.high))
        if self.low > self.high:
            raise MixupValueError(
                f"Uniform(low={self.low!r}, high={self.high!r}) is no range: low is above high. "
                f"Write Uniform({self.high!r}, {self.low!r})."
            )

    @property
    def mixes(self) -> bool:
        """Whether a weight other than 1 is ever drawn."""
        return not self.low == self.high == 1

    @property
    def bounds(self) -> tuple[float, float]:
        """Between which numbers weights lie."""
        return self.low, self.high

    def draw(self, rng: np.random.Generator, size: int | None = None) -> Weight:
        """Draws one weight, or a float64 array of shape (size,)."""
        return rng.uniform(self.low, self.high, size)

    def at_strength(self, strength: float) -> Uniform:
        """Returns the range of weights that are nearer to 1 by this factor."""
        return Uniform(*(_nearer_to_one(bound, strength) for bound in (self.low, self.high)))

    def describe(self) -> str:
        """Says in words how weights are drawn."""
        return f"weights from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class _Faded(Weights):
    """The weights of another distribution, of which only a part is given away."""

    weights: Weights
    strength: float

    @property
    def mixes(self) -> bool:
        return self.strength > 0 and self.weights.mixes

    @property
    def bounds(self) -> tuple[float, float]:
        low, high = (_nearer_to_one(bound, self.strength) for bound in self.weights.bounds)
        return low, high

    def draw(self, rng: np.random.Generator, size: int | None = None) -> Weight:
        return 1 - self.strength * (1 - self.weights.draw(rng, size))

    def describe(self) -> str:
        return f"{self.weights.describe()} at strength {self.strength:g}"


def _nearer_to_one(weight: float, strength: float) -> float:
    return weight if strength == 1 else 1 - strength * (1 - weight)


def _constant(weight: float, size: int | None) -> Weight:
    return weight if size is None else np.full(size, weight)


def _finite(name: str, value: float) -> float:
    hint = "Give a share that a sample keeps of itself: 1 is all of it, 0.5 half."
    number = check_number(name, value, -math.inf, math.inf, hint)
    if not math.isfinite(number):
        raise MixupValueError(f"{name}={value!r} is not finite. {hint}")
    return number
