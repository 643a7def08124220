"""Which modules of a network dotted names and patterns mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn

from lightning_mixup.errors import MixupValueError
from lightning_mixup.mixes import INPUT

__all__ = ["find_layers", "find_module", "inside", "is_time_first", "named_layers"]

# What torch and Lightning put around a module; names are seen through it.
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module")
_NEVER_CALLED = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
_SAY_BATCH_FIRST = (
    nn.RNNBase,
    nn.MultiheadAttention,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
    nn.TransformerEncoder,
    nn.TransformerDecoder,
    nn.Transformer,
)


def find_layers(root: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """Returns the layers that names and patterns mean, by their names.

    Args:
        root: The module that holds them.
        names: Dotted names as in ``named_modules()``, seen through what torch and Lightning wrap
            around a module (``_orig_mod`` and the like). ``*``, ``?`` and ``[]`` stand for any
            characters but the dot.

    Raises:
        MixupValueError: If a name or pattern fits no module, or one that can't be mixed: a
            container that is never called, or one that puts out time before batch.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> list(find_layers(net, ["[02]"]))
        ['0', '2']
    """
    found: dict[str, nn.Module] = {}
    for name in names:
        found |= (
            _matching(root, name) if set(name) & set("*?[") else {name: find_module(root, name)}
        )
    for name, module in found.items():
        _check_layer(name, inside(module))
    return found


def find_module(root: nn.Module, name: str) -> nn.Module:
    """Returns a submodule by its dotted name, seen through wrappers.

    Raises:
        MixupValueError: If there is none of that name.
    """
    modules: dict[str, nn.Module] = {
        **dict(root.named_modules(remove_duplicate=False)),
        **named_layers(root),
    }
    if name and name in modules:
        return modules[name]
    raise MixupValueError(_no_submodule(root, name))


def named_layers(root: nn.Module) -> dict[str, nn.Module]:
    """Returns the submodules by their names, seen through wrappers, of which the outermost counts.

    Example:
        >>> import torch
        >>> compiled = torch.compile(nn.Sequential(nn.ReLU()), backend="eager")
        >>> list(named_layers(nn.ModuleDict({"net": compiled})))
        ['net', 'net.0']
    """
    layers: dict[str, nn.Module] = {}
    for name, module in _walk(root, ""):
        layers.setdefault(name, module)
    del layers[""]
    return layers


def _walk(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    yield name, module
    for key, child in module.named_children():
        is_wrapped = _is_wrapped(module, key) and (name or key != "module")
        yield from _walk(child, name if is_wrapped else f"{name}.{key}".removeprefix("."))


def _is_wrapped(module: nn.Module, key: str) -> bool:
    return key in _WRAPPERS and len(module._modules) == 1


def inside(module: nn.Module) -> nn.Module:
    """Returns the innermost module that a wrapper is around, which puts out what that does."""
    for key, child in module.named_children():
        if _is_wrapped(module, key) and key != "module":  # which users call theirs, too
            return inside(child)
    return module


def _matching(root: nn.Module, pattern: str) -> dict[str, nn.Module]:
    parts = pattern.split(".")
    found = {
        name: module
        for name, module in named_layers(root).items()
        if name.count(".") == len(parts) - 1 and all(map(fnmatchcase, name.split("."), parts))
    }
    if not found:
        raise MixupValueError(_no_submodule(root, pattern))
    return found


def _no_submodule(root: nn.Module, name: str) -> str:
    names = list(named_layers(root))
    close = get_close_matches(name, names) or [child for child, _ in root.named_children()]
    return (
        f"{type(root).__name__} has no submodule {name!r}. Did you mean one of {close}? "
        "`[name for name, _ in module.named_modules()]` lists them all."
    )


def _check_layer(name: str, module: nn.Module) -> None:
    kind = type(module).__name__
    if name == INPUT:
        raise MixupValueError(
            f"A {kind} is called {INPUT!r}, and so is the input itself. Name what is inside it."
        )
    if isinstance(module, _NEVER_CALLED):
        raise MixupValueError(
            f"layers={name!r} is a {kind}, which holds modules and puts nothing out itself. Name "
            f"what it holds, for example layers={name + '.*'!r}."
        )
    if is_time_first(module):
        raise MixupValueError(
            f"layers={name!r} is a {kind} with batch_first=False: it puts out time before batch. "
            "Name a layer after it whose output is batch-first, or make it batch_first=True."
        )


def is_time_first(module: nn.Module) -> bool:
    """Returns whether a module of torch puts out (time, batch, ...)."""
    parts = module.modules() if isinstance(module, _SAY_BATCH_FIRST) else ()
    return any(getattr(part, "batch_first", True) is False for part in parts)
