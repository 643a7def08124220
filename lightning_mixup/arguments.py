"""What users write in a constructor, checked as early as it can be known."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

from lightning_mixup.batch import Selector
from lightning_mixup.errors import MixupTypeError, MixupValueError
from lightning_mixup.mixes import INPUT
from lightning_mixup.parameters import check_number
from lightning_mixup.recipes import Mixup, Recipe
from lightning_mixup.schedules import Schedule

__all__ = [
    "check_flag",
    "check_layers",
    "check_places",
    "check_probability",
    "check_selector",
    "check_strength",
    "check_type",
    "choose_recipe",
]


def choose_recipe(alpha: float | None, recipe: Recipe | None) -> Recipe:
    """Returns the recipe that alpha is short for, or the one given.

    Raises:
        MixupTypeError: If the recipe is none.
        MixupValueError: If both are given.
    """
    if isinstance(alpha, Recipe):
        raise MixupTypeError(f"alpha={alpha!r} is a recipe. Write recipe={alpha!r}.")
    if recipe is None:
        return Mixup() if alpha is None else Mixup(alpha)
    if alpha is not None:
        raise MixupValueError(
            f"MixupCallback got both alpha={alpha!r} and recipe={recipe!r}. alpha is short for "
            "recipe=Mixup(alpha): give one of them."
        )
    if not isinstance(recipe, Recipe):
        raise MixupTypeError(
            f"recipe={recipe!r} is a {type(recipe).__name__}, not a recipe. Write, for example, "
            "recipe=Mixup(1.0, per_sample=True)."
        )
    return recipe


def check_probability(prob: float | Schedule) -> float | Schedule:
    """Returns a number in [0, 1], or a schedule of such.

    Raises:
        MixupTypeError: If it is neither.
        MixupValueError: If it is out of range.
    """
    if isinstance(prob, Schedule):
        return prob
    if isinstance(prob, bool) or not isinstance(prob, Real):
        raise MixupTypeError(
            f"prob={prob!r} is not a number. Give a probability, from 0 to 1, or a schedule such "
            "as OffAtEnd(epochs=10)."
        )
    if not 0 <= prob <= 1:
        raise MixupValueError(f"prob={prob!r} is not a probability. Give a number from 0 to 1.")
    return float(prob)


def check_strength(recipe: Recipe, strength: float | Schedule) -> float | Schedule:
    """Returns a number in [0, 1], or a schedule of such, by which a recipe can be made milder.

    Raises:
        MixupTypeError: If it is neither.
        MixupValueError: If it is out of range, or the recipe knows of no degrees.
    """
    if not isinstance(strength, Schedule):
        hint = "Give 1 for the recipe as it is, less for a milder one, or WarmUp(epochs=5)."
        strength = check_number("strength", strength, 0, 1, hint)
    if strength == 1:
        return strength
    try:
        recipe.at_strength(0.5)
    except MixupValueError as error:
        raise MixupValueError(
            f"strength={strength!r} makes a recipe milder, and recipe={recipe!r} holds something "
            f"that mixes or doesn't. Write prob={strength!r}, so that it mixes less often."
        ) from error
    return strength


def check_flag(name: str, value: bool) -> bool:  # noqa: FBT001
    """Returns True or False.

    Raises:
        MixupTypeError: If it is neither.
    """
    if isinstance(value, bool):
        return value
    raise MixupTypeError(f"{name}={value!r} is a {type(value).__name__}. Give True or False.")


def check_layers(layers: str | Sequence[str]) -> tuple[str, ...]:
    """Returns the names of places, each once.

    Raises:
        MixupTypeError: If it is neither a name nor several.
        MixupValueError: If it names nothing.
    """
    names = [layers] if isinstance(layers, str) else layers
    advice = 'Give names such as "input" and "net.layer1", as in `module.named_modules()`.'
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise MixupTypeError(f"layers={layers!r} is neither a name nor a list of names. {advice}")
    if not names or "" in names:
        raise MixupValueError(f"layers={layers!r} leaves no place to mix. {advice}")
    return tuple(dict.fromkeys(names))


def check_places(recipe: Recipe, places: Sequence[str]) -> None:
    """Refuses a recipe that can't mix hidden layers where there are some.

    Raises:
        MixupValueError: Then.
    """
    hidden = [place for place in places if place != INPUT]
    if hidden and not recipe.fits_layers:
        raise MixupValueError(
            f"recipe={recipe!r} mixes inputs alone, and layers={list(places)!r} names hidden "
            "layers. What is pasted or doubled has a meaning in the input: of hidden features, "
            'each shows more of it than its place. Write layers="input", or choose Mixup(), which '
            "interpolates."
        )


def check_selector(name: str, selector: Selector) -> Selector:
    """Returns what names one or more entries of a batch.

    Raises:
        MixupTypeError: If it is neither index, key or path, nor several of them, nor a function.
    """
    if callable(selector):
        return selector
    parts = selector if isinstance(selector, (list, tuple)) else [selector]
    fits = all(isinstance(part, (int, str)) and not isinstance(part, bool) for part in parts)
    if (fits and parts) or (name == "targets" and selector is None):
        return selector
    raise MixupTypeError(
        f"{name}={selector!r} names no entry of a batch. Give an index such as 0, a key or dotted "
        "path such as 'image', a list of them, or a function of the batch that returns tensors."
    )


def check_type(name: str, value: Any, kind: type, expected: str) -> Any:
    """Returns None, or a value of the given type.

    Raises:
        MixupTypeError: If it is of another.
    """
    if value is None or (isinstance(value, kind) and not isinstance(value, bool)):
        return value
    raise MixupTypeError(f"{name}={value!r} is a {type(value).__name__}. Give {expected}.")
