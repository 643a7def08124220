"""How probability and strength change in the course of a fit: schedules, multiplied like numbers.

A schedule is a pure function of a moment: it has no state, so that a run which is resumed goes on
where it was. Epochs and steps are counted from 0. Nothing here knows Lightning.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias

from lightning_mixup.errors import MixupTypeError, MixupValueError
from lightning_mixup.parameters import call_of, check_number

__all__ = [
    "Alternate",
    "End",
    "Fade",
    "Moment",
    "OffAtEnd",
    "Product",
    "Schedule",
    "WarmUp",
    "check_end",
    "find_end",
    "most_of",
    "value_at",
]

Unit: TypeAlias = Literal["epochs", "steps"]


@dataclass(frozen=True)
class End:
    """When a fit ends: how many epochs and steps it has, None where nobody knows.

    Example:
        >>> End(epochs=100, steps=39_100)
        End(epochs=100, steps=39100)
    """

    epochs: int | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Moment:
    """A moment in a fit.

    Attributes:
        epoch: How many epochs went before.
        step: How many steps went before. They are counted in batches, as they come to
            ``training_step``, also where several make one step of the optimizer.
        end: When the fit ends, as far as it is known.

    Example:
        >>> Moment(epoch=3, step=1200, end=End(epochs=100))
        Moment(epoch=3, step=1200, end=End(epochs=100, steps=None))
    """

    epoch: int
    step: int
    end: End = End()


class Schedule(ABC):
    """A number from 0 to 1 for each moment of a fit: ``prob=`` or ``strength=`` of the callback.

    Schedules are multiplied with each other, and with numbers from 0 to 1. A schedule of one's
    own says what it is ``at`` a moment.

    Example:
        >>> 0.5 * WarmUp(epochs=5) * OffAtEnd(epochs=10)
        0.5 * WarmUp(epochs=5) * OffAtEnd(epochs=10)
        >>> class SecondHalf(Schedule):
        ...     needs = ("epochs",)
        ...     def at(self, moment):
        ...         return float(2 * moment.epoch >= moment.end.epochs)
        >>> [SecondHalf().at(Moment(epoch, 0, End(epochs=4))) for epoch in range(4)]
        [0.0, 0.0, 1.0, 1.0]
    """

    @property
    def needs(self) -> tuple[Unit, ...]:
        """In what the end of the fit must be known."""
        return ()

    @property
    def most(self) -> float:
        """The most that it comes to, which trial runs such as the batch size finder's take."""
        return 1.0

    @abstractmethod
    def at(self, moment: Moment) -> float:
        """Returns a number from 0 to 1."""

    def __mul__(self, other: Schedule | float) -> Schedule:
        """Returns the product, at each moment."""
        if isinstance(other, bool) or not isinstance(other, (Schedule, Real)):
            return NotImplemented
        return _product(self, other)

    __rmul__ = __mul__

    def __repr__(self) -> str:
        return call_of(self)


@dataclass(frozen=True, repr=False)
class WarmUp(Schedule):
    """Rises evenly from 0, in the first epoch or step, to 1, and stays there.

    Args:
        epochs: From how many epochs on it is 1. Within an epoch it stays the same.
        steps: From how many steps on it is 1; one of both is given.

    Raises:
        MixupTypeError: If it is no whole number.
        MixupValueError: If it is negative, or both are given or neither.

    Example:
        >>> [WarmUp(epochs=4).at(Moment(epoch, 0)) for epoch in range(6)]
        [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """

    epochs: int | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        _set_count(self, "WarmUp(epochs=5) or WarmUp(steps=1000)")

    def at(self, moment: Moment) -> float:
        """Returns a number from 0 to 1."""
        now, whole = _now(self, moment), getattr(self, _unit(self))
        return now / whole if now < whole else 1.0


@dataclass(frozen=True, repr=False)
class OffAtEnd(Schedule):
    """Is 1, and 0 in the last epochs or steps of the fit, which train on samples as they are.

    The end is that of ``max_epochs`` or ``max_steps``, whichever comes first.

    Args:
        epochs: In how many of the last epochs it is 0.
        steps: In how many of the last steps it is 0; one of both is given.

    Raises:
        MixupTypeError: If it is no whole number.
        MixupValueError: If it is negative, or both are given or neither.

    Example:
        >>> [OffAtEnd(epochs=2).at(Moment(epoch, 0, End(epochs=5))) for epoch in range(5)]
        [1.0, 1.0, 1.0, 0.0, 0.0]
    """

    epochs: int | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        _set_count(self, "OffAtEnd(epochs=10) or OffAtEnd(steps=1000)")

    @property
    def needs(self) -> tuple[Unit, ...]:
        """In what the end of the fit must be known."""
        return (_unit(self),)

    def at(self, moment: Moment) -> float:
        """Returns 0 or 1."""
        unit = _unit(self)
        return float(_now(self, moment) < getattr(moment.end, unit) - getattr(self, unit))


@dataclass(frozen=True, repr=False)
class Fade(Schedule):
    """Is 1, and falls evenly to 0 between two epochs or steps.

    Args:
        epochs: Up to which epoch it is 1, and from which on it is 0: ``(50, 100)``, or
            ``(50, None)`` for the end of the fit. The same twice switches off there. Within an
            epoch it stays the same.
        steps: Up to which step it is 1, and from which on 0; one of both is given.

    Raises:
        MixupTypeError: If it is no pair of whole numbers.
        MixupValueError: If these are negative or in the wrong order, or both are given or neither.

    Example:
        >>> [Fade(epochs=(2, None)).at(Moment(epoch, 0, End(epochs=6))) for epoch in range(6)]
        [1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    """

    epochs: tuple[int, int | None] | None = None
    steps: tuple[int, int | None] | None = None

    def __post_init__(self) -> None:
        hint = "Fade(epochs=(50, 100)), or Fade(epochs=(50, None)) for the end of the fit"
        first, last = _set_pair(self, hint, open_ended=True)
        if last is not None and last < first:
            raise MixupValueError(f"{self!r} ends before it begins. Write {hint}.")

    @property
    def needs(self) -> tuple[Unit, ...]:
        """In what the end of the fit must be known."""
        unit = _unit(self)
        return (unit,) if getattr(self, unit)[1] is None else ()

    def at(self, moment: Moment) -> float:
        """Returns a number from 0 to 1."""
        now, unit = _now(self, moment), _unit(self)
        first, last = getattr(self, unit)
        last = getattr(moment.end, unit) if last is None else last
        if now >= last:
            return 0.0
        return (last - now) / (last - first) if now > first else 1.0


@dataclass(frozen=True, repr=False)
class Alternate(Schedule):
    """Is 1 for some epochs or steps, then 0 for some, and so on.

    Args:
        epochs: For how many epochs it is 1, and then for how many 0: ``(8, 2)``.
        steps: For how many steps it is 1, and then for how many 0; one of both is given.
        start: With which epoch or step it begins; before it is 0. ``Alternate(epochs=(1, 0),
            start=5)`` is off for five epochs, and on from there.

    Raises:
        MixupTypeError: If these are no whole numbers.
        MixupValueError: If one is negative, both of a pair are 0, or both or neither are given.

    Example:
        >>> [Alternate(epochs=(2, 1), start=1).at(Moment(epoch, 0)) for epoch in range(7)]
        [0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0]
    """

    epochs: tuple[int, int] | None = None
    steps: tuple[int, int] | None = None
    start: int = 0

    def __post_init__(self) -> None:
        hint = "Alternate(epochs=(8, 2)), on for 8 and off for 2,"
        if not any(_set_pair(self, hint)):
            raise MixupValueError(f"{self!r} has no length to repeat. Write {hint} for example.")
        object.__setattr__(self, "start", _whole(self, self.start, hint))

    def at(self, moment: Moment) -> float:
        """Returns 0 or 1."""
        on, off = getattr(self, _unit(self))
        since = _now(self, moment) - self.start
        return float(since >= 0 and since % (on + off) < on)


@dataclass(frozen=True, init=False, repr=False)
class Product(Schedule):
    """The product of schedules, as ``*`` makes it; by this name in a YAML file.

    Args:
        schedules: The schedules.
        factor: A number from 0 to 1.

    Raises:
        MixupTypeError: If one is no schedule, or the factor no number.
        MixupValueError: If the factor is not from 0 to 1.

    Example:
        >>> Product([WarmUp(epochs=5), OffAtEnd(epochs=10)], factor=0.5)
        0.5 * WarmUp(epochs=5) * OffAtEnd(epochs=10)
    """

    schedules: tuple[Schedule, ...]
    factor: float

    def __init__(self, schedules: Sequence[Schedule], factor: float = 1.0) -> None:
        hint = "Schedules are multiplied with each other, and with numbers from 0 to 1."
        number = check_number("factor", factor, 0, 1, hint)
        for schedule in schedules:
            if not isinstance(schedule, Schedule):
                raise MixupTypeError(
                    f"Product got {schedule!r}, a {type(schedule).__name__}, which is no "
                    "schedule. Give schedules, such as [WarmUp(epochs=5), OffAtEnd(epochs=10)]."
                )
        object.__setattr__(self, "schedules", tuple(schedules))
        object.__setattr__(self, "factor", number)

    def __repr__(self) -> str:
        factor = [self.factor] if self.factor != 1 or not self.schedules else []
        return " * ".join(map(repr, [*factor, *self.schedules]))

    @property
    def needs(self) -> tuple[Unit, ...]:
        """In what the end of the fit must be known."""
        return tuple(unit for schedule in self.schedules for unit in schedule.needs)

    @property
    def most(self) -> float:
        """The most that it can come to."""
        return self.factor * math.prod(schedule.most for schedule in self.schedules)

    def at(self, moment: Moment) -> float:
        """Returns a number from 0 to 1."""
        return self.factor * math.prod(schedule.at(moment) for schedule in self.schedules)


def most_of(value: float | Schedule) -> float:
    """Returns a number, or the most that a schedule comes to."""
    return value.most if isinstance(value, Schedule) else value


def value_at(name: str, schedule: Schedule, moment: Moment | None) -> float:
    """Returns what a schedule is at a moment, or without one the most that it comes to.

    Raises:
        MixupValueError: If a schedule of the user's own leaves the range from 0 to 1.
    """
    number = schedule.most if moment is None else schedule.at(moment)
    if not 0 <= number <= 1:
        when, what = ("at most", "most") if moment is None else (f"at {moment}", "at()")
        raise MixupValueError(
            f"{name}={schedule!r} comes to {number!r} {when}, which is not from 0 to 1. Mend what "
            f"{type(schedule).__name__}.{what} returns."
        )
    return float(number)


def find_end(max_epochs: int, max_steps: int, batches: int | None, accumulated: int | None) -> End:
    """Returns when a fit ends that is limited in epochs, in steps of the optimizer, or in both.

    Args:
        max_epochs: The most epochs; -1 for no limit.
        max_steps: The most steps of the optimizer; -1 for no limit.
        batches: In an epoch; None where nobody knows.
        accumulated: How many batches make a step of the optimizer; None where nobody knows.
            With the last of an epoch it makes one in any case.

    Example:
        >>> find_end(max_epochs=-1, max_steps=5, batches=7, accumulated=2)
        End(epochs=2, steps=9)
    """
    epochs = None if max_epochs < 0 else max_epochs
    steps = None if epochs is None or batches is None else epochs * batches
    if max_steps < 0:
        return End(epochs, steps)
    if batches is None and epochs is None and accumulated == 1:
        return End(None, max_steps)
    if batches is None or accumulated is None:
        return End()  # Whether epochs or steps run out first, nobody knows.
    whole, rest = divmod(max_steps, math.ceil(batches / accumulated))
    least = min(whole * batches + rest * accumulated, math.inf if steps is None else steps)
    return End(math.ceil(least / batches), int(least))


def check_end(name: str, schedule: Schedule, end: End) -> None:
    """Refuses a schedule that counts from the end of a fit which nobody knows.

    Raises:
        MixupValueError: Then.
    """
    missing = [unit for unit in schedule.needs if getattr(end, unit) is None]
    if missing:
        raise MixupValueError(
            f"{name}={schedule!r} counts {missing[0]} from the end of the fit, and nobody knows "
            "this one's: the Trainer has no max_epochs; or the loader has no length, and so no "
            "steps; or max_steps are taken by hand, or of changing numbers of batches. Write "
            "Trainer(max_epochs=...) without max_steps for a schedule by epochs, with "
            "limit_train_batches=... as well for one by steps, or a schedule that knows its own "
            "end, such as Fade(epochs=(50, 100))."
        )


def _product(one: Schedule, other: Schedule | float) -> Schedule:
    both = [_factors(one), _factors(other)]
    parts = [schedule for _, schedules in both for schedule in schedules]
    factor = both[0][0] * both[1][0]
    is_single = factor == 1 and len(parts) == 1
    return parts[0] if is_single else Product(parts, factor)


def _factors(value: Schedule | float) -> tuple[float, Sequence[Schedule]]:
    """Returns the number and the schedules of which something is the product."""
    if isinstance(value, Product):
        return value.factor, value.schedules
    return (1.0, [value]) if isinstance(value, Schedule) else (value, [])


def _unit(schedule: Any) -> Unit:
    return "steps" if schedule.epochs is None else "epochs"


def _now(schedule: Any, moment: Moment) -> int:
    return moment.step if schedule.epochs is None else moment.epoch


def _set_count(schedule: Schedule, hint: str) -> None:
    """Keeps the number of epochs or steps, as an integer."""
    unit = _only_unit(schedule, hint)
    object.__setattr__(schedule, unit, _whole(schedule, getattr(schedule, unit), hint))


def _set_pair(
    schedule: Schedule, hint: str, *, open_ended: bool = False
) -> tuple[int, int | None]:
    """Keeps and returns the pair of numbers of epochs or steps, as integers.

    Raises:
        MixupTypeError: If it is no pair.
    """
    unit = _only_unit(schedule, hint)
    pair = getattr(schedule, unit)
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise MixupTypeError(f"{schedule!r} needs a pair of {unit}. Write {hint}.")
    first = _whole(schedule, pair[0], hint)
    last = None if open_ended and pair[1] is None else _whole(schedule, pair[1], hint)
    object.__setattr__(schedule, unit, (first, last))
    return first, last


def _only_unit(schedule: Any, hint: str) -> Unit:
    """Returns whether epochs or steps are counted.

    Raises:
        MixupValueError: If both are given, or neither.
    """
    if (schedule.epochs is None) == (schedule.steps is None):
        raise MixupValueError(f"{schedule!r} counts either epochs or steps. Write {hint}.")
    return _unit(schedule)


def _whole(schedule: Schedule, number: Any, hint: str) -> int:
    """Returns a number of epochs or steps, as an integer.

    Raises:
        MixupTypeError: If it is no whole number.
        MixupValueError: If it is negative.
    """
    if isinstance(number, bool) or not isinstance(number, Integral):
        raise MixupTypeError(f"{schedule!r} counts by {number!r}, no whole number. Write {hint}.")
    if number < 0:
        raise MixupValueError(f"{schedule!r} counts by {number!r}, below 0. Write {hint}.")
    return int(number)
