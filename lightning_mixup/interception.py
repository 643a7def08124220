"""Standing in for a method of a module for a while, and leaving no trace."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

from torch import nn

__all__ = ["Interception", "without_module"]

_Around = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


class Interception:
    """Stands in for one method of a module until it is released.

    Users save and copy modules in the middle of a fit, so in a pickle or deepcopy of the module
    the plain method stands again.

    Args:
        module: Whose method it is.
        name: The method's name.
        around: Called in its place with the method, its arguments and keyword arguments.

    Example:
        >>> import torch
        >>> module = nn.ReLU()
        >>> double = lambda method, args, kwargs: 2 * method(*args, **kwargs)
        >>> interception = Interception(module, "forward", double)
        >>> module(torch.ones(1))
        tensor([2.])
        >>> interception.release()
        >>> module(torch.ones(1))
        tensor([1.])
    """

    def __init__(self, module: nn.Module, name: str, around: _Around) -> None:
        _put(module, name, _living(module.__dict__.get(name)))
        self.method = getattr(module, name)
        functools.update_wrapper(self, self.method, updated=())
        # Lightning looks one level deep to find which arguments a step takes.
        self.__wrapped__ = _signed(inspect.unwrap(self.method))
        self._module, self._name = module, name
        self._around: _Around | None = around
        self._before = module.__dict__.get(name)
        module.__dict__[name] = self._stand_in

    @property
    def _stand_in(self) -> Callable[..., Any]:
        """What takes the method's place.

        For ``forward`` that is a method, too: of another object, Dynamo would make a graph of its
        own in every fit. The rest is asked for its signature, which an object can borrow.
        """
        return self.__call__ if self._name == "forward" else self

    @property
    def stands(self) -> bool:
        """Whether this is what is called for the method."""
        return bool(getattr(self._module, self._name) == self._stand_in)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls what stands in for the method."""
        if self._around is None:
            return self.method(*args, **kwargs)
        return self._around(self.method, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        """Looks like the method in all else, as Lightning and others take methods apart."""
        return getattr(self.__dict__["method"], name)

    def release(self) -> None:
        """Puts the method back; a wrapper that somebody has put around this one keeps working."""
        self._around = None
        _put(self._module, self._name, _living(self._module.__dict__.get(self._name)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles and copies as the plain method, or as what does nothing but call it."""
        return (_plain if self._stand_in is self else _released), (self.method,)


class _Signed:
    """A function whose signature is worked out once, as Lightning asks for it in each step."""

    def __init__(self, function: FunctionType) -> None:
        self.__wrapped__ = function

    @functools.cached_property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.__wrapped__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self).get("__wrapped__"), name)  # which a copy has not from the first


def _signed(method: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the same method, of a function that knows its signature."""
    if not isinstance(method, MethodType) or not isinstance(method.__func__, FunctionType):
        return method
    return MethodType(_Signed(method.__func__), method.__self__)


def _living(stand_in: Any) -> Any:
    """Returns what stands for a method once those that are released are left out."""
    owner = stand_in if isinstance(stand_in, Interception) else getattr(stand_in, "__self__", None)
    if isinstance(owner, Interception) and owner._around is None:
        return _living(owner._before)
    return stand_in


def _put(module: nn.Module, name: str, stand_in: Any) -> None:
    if stand_in is not None:
        module.__dict__[name] = stand_in
    else:
        module.__dict__.pop(name, None)


def _plain(method: Callable[..., Any]) -> Callable[..., Any]:
    return method


def _released(method: Callable[..., Any]) -> Interception:
    made = Interception.__new__(Interception)
    made.method, made._around, made._name, made._before = method, None, "forward", None
    return made


def without_module(state: dict[str, Any]) -> dict[str, Any]:
    """Leaves out the methods of the module that Lightning hangs on its callbacks.

    A copy of the callback would copy the module with them.

    Example:
        >>> without_module({"prefix": "", "log": nn.Module().forward})
        {'prefix': ''}
    """
    return {key: value for key, value in state.items() if key not in ("log", "log_dict")}
