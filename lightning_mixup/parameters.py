"""What weights, partners, recipes and schedules are made with: their numbers, and their reprs."""

from __future__ import annotations

import math
from dataclasses import MISSING, fields, is_dataclass
from numbers import Integral, Real
from typing import Any

from lightning_mixup.errors import MixupTypeError, MixupValueError

__all__ = ["call_of", "check_count", "check_number"]


def check_number(name: str, value: float, least: float, most: float, hint: str) -> float:
    """Returns a number in a range, as a float.

    Raises:
        MixupTypeError: If it is not a number.
        MixupValueError: If it is NaN or out of the range.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise MixupTypeError(f"{name}={value!r} is not a number. {hint}")
    if not least <= value <= most:
        reason = f"at least {least:g}" if math.isinf(most) else f"from {least:g} to {most:g}"
        raise MixupValueError(f"{name}={value!r} is not {reason}. {hint}")
    return float(value)


def check_count(name: str, value: int, hint: str) -> None:
    """Refuses what is no number of things, of which there is at least one.

    Raises:
        MixupTypeError: If it is not an integer.
        MixupValueError: If it is below 1.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise MixupTypeError(f"{name}={value!r} is not an integer. {hint}")
    if value < 1:
        raise MixupValueError(f"{name}={value!r} is not at least 1. {hint}")


def call_of(made: object) -> str:
    """Returns the call that makes an object, without defaults; also of one that is no dataclass.

    Example:
        >>> from lightning_mixup import Mixup
        >>> call_of(Mixup(0.2, rounds=2))
        'Mixup(alpha=0.2, rounds=2)'
    """
    known: Any = fields(made) if is_dataclass(made) else ()
    defaults = {field.name: field.default for field in known if field.repr}
    given = {name: getattr(made, name) for name in (defaults if known else vars(made))}
    written = [
        f"{name}={value!r}"
        for name, value in given.items()
        if value != defaults.get(name, MISSING)
    ]
    return f"{type(made).__name__}({', '.join(written)})"
