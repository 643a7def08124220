"""Who asks for an operation, which the call stack tells.

Metrics do more with labels than compare them (top-k, macro averages, lists), so they are told
from losses by who they are, and not operation by operation. Under ``torch.compile`` there is no
stack to look at, and no one but a loss asks.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import lru_cache
from types import FrameType

import torch

__all__ = [
    "in_autograd_function",
    "in_checkpoint",
    "in_class_metric",
    "in_metric",
    "in_submodule",
    "line_of_user",
]

# Lightning's own module is one that logs.
_METRICS = ("torchmetrics", "lightning.pytorch.core.module", "pytorch_lightning.core.module")
_CLASS_METRICS = ("torchmetrics.classification", "torchmetrics.functional.classification")
_AUTOGRAD_FUNCTIONS = ("torch.autograd.function",)
_MODULE_HOOKS = ("torch.utils.hooks",)  # whose autograd function passes on what it is given
_CHECKPOINTS = ("torch.utils.checkpoint",)
# Where a training step begins, and where torch itself runs a part of it as a function.
_BORDERS = ("lightning_mixup.callback", *_CHECKPOINTS)
_CALL_OF_MODULE = torch.nn.Module._call_impl.__code__


def in_metric() -> bool:
    """Returns whether torchmetrics asks, or a log."""
    return _inside(_METRICS)


def in_class_metric() -> bool:
    """Returns whether a metric asks that takes classes, and no other numbers."""
    return _inside(_CLASS_METRICS)


def in_checkpoint() -> bool:
    """Returns whether a part of the step runs that will be run again."""
    return _inside(_CHECKPOINTS)


def in_autograd_function() -> bool:
    """Returns whether a custom autograd function runs, whose gradient nobody can follow."""
    if torch.is_grad_enabled() or not _inside(_AUTOGRAD_FUNCTIONS):
        return False
    return not _inside(_MODULE_HOOKS)


def in_submodule() -> bool:
    """Returns whether a module runs that may be named as the loss, as a LightningModule can't."""
    return any(
        frame.f_code is _CALL_OF_MODULE and not hasattr(frame.f_locals["self"], "training_step")
        for frame in _frames()
    )


def line_of_user() -> tuple[str, int] | None:
    """Returns the file and the line from where this was called that are no library's."""
    for frame in _frames():
        ours = frame.f_globals.get("__name__", "").startswith("lightning_mixup.")
        if not ours and "site-packages" not in frame.f_code.co_filename:
            return frame.f_code.co_filename, frame.f_lineno
    return None


def _inside(packages: tuple[str, ...]) -> bool:
    if torch.compiler.is_compiling():
        return False
    frame: FrameType | None = sys._getframe(1)
    module = ""
    while frame is not None and module not in _BORDERS:  # Of every operation: as fast as can be.
        module = frame.f_globals.get("__name__", "")
        if _belongs(module, packages):
            return True
        frame = frame.f_back
    return False


@lru_cache
def _belongs(module: str, packages: tuple[str, ...]) -> bool:
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


def _frames() -> Iterator[FrameType]:
    """Yields the frames of the training step, from the innermost to the one that begins it."""
    if torch.compiler.is_compiling():
        return
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        if frame.f_globals.get("__name__") in _BORDERS:
            return
        frame = frame.f_back
