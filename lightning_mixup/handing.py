"""Handing another batch to a step, which is given its batch or fetches it itself."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["fetches", "hand_over"]


def fetches(step: Callable[..., Any]) -> bool:
    """Returns whether a step fetches its batches itself, from a ``dataloader_iter``.

    Example:
        >>> fetches(lambda dataloader_iter: None), fetches(lambda batch, batch_idx: None)
        (True, False)
    """
    return "dataloader_iter" in inspect.signature(step).parameters


def hand_over(
    step: Callable[..., Any],
    args: Any,
    kwargs: dict[str, Any],
    change: Callable[[Any], Any],
    *,
    is_fetching: bool = False,
) -> Any:
    """Calls a step with another batch than its own.

    Args:
        step: The step, whose first argument is the batch or an iterator of batches.
        args: Its arguments.
        kwargs: Its keyword arguments, one of which is the first where there are no others.
        change: Given a batch, returns what the step is to have for it.
        is_fetching: Whether the step `fetches`, which takes too long to find out in each step.

    Returns:
        What the step returns.

    Example:
        >>> hand_over(lambda batch, batch_idx: batch, (3, 0), {}, change=lambda batch: -batch)
        -3
    """
    if is_fetching:
        change = functools.partial(_Fetching, change=change)
    if args:
        return step(change(args[0]), *args[1:], **kwargs)
    name = next(name for name in inspect.signature(step).parameters if name in kwargs)
    return step(**{**kwargs, name: change(kwargs[name])})


class _Fetching:
    """An iterator of batches that changes each as it is fetched."""

    def __init__(self, batches: Iterator[Any], change: Callable[[Any], Any]) -> None:
        self._batches, self._change = batches, change

    def __iter__(self) -> _Fetching:
        return self

    def __next__(self) -> Any:
        batch, *numbers = next(self._batches)
        return self._change(batch), *numbers

    def __getattr__(self, name: str) -> Any:
        """Has what Lightning's own iterator has, such as ``done``."""
        return getattr(self._batches, name)
