"""What this package raises: one base class, and under it the kinds that Python itself has.

Who catches `MixupError` catches all that we refuse and nothing else; who catches ``ValueError``
and the like, as Python's own functions raise, need not know of it.
"""

from __future__ import annotations

__all__ = [
    "MixupError",
    "MixupImportError",
    "MixupRuntimeError",
    "MixupTypeError",
    "MixupValueError",
]


class MixupError(Exception):
    """The base class of all errors that this package raises.

    Each is a ``TypeError``, ``ValueError``, ``RuntimeError`` or ``ImportError`` as well, and its
    message says what was given, what is expected and what to write.

    Example:
        >>> from lightning_mixup import MixupCallback
        >>> try:
        ...     MixupCallback(alpha=0.2, prob=2)
        ... except MixupError as error:
        ...     print(error)
        prob=2 is not a probability. Give a number from 0 to 1.
    """


class MixupTypeError(MixupError, TypeError):
    """Something of a type or dtype that can't be used."""


class MixupValueError(MixupError, ValueError):
    """Something of the right type that doesn't fit."""


class MixupRuntimeError(MixupError, RuntimeError):
    """A step that can't be mixed, or read, as it went."""


class MixupImportError(MixupError, ImportError):
    """An optional dependency that is not installed."""
