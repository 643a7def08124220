"""Who asks for an operation, which the call stack tells.

Metrics do more with labels than compare them (top-k, macro averages, lists), so they are told
from losses by who they are, and not operation by operation. Under ``torch.compile`` there is no
stack to look at, and no one but a loss asks.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
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


class _Packages(dict[str, bool]):
    """Whether a module belongs to some packages, which is asked of every frame."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def __missing__(self, module: str) -> bool:
        self[module] = any(f"{module}.".startswith(f"{name}.") for name in self.names)
        return self[module]


# Lightning's own module is one that logs.
_METRICS = _Packages(
    "torchmetrics", "lightning.pytorch.core.module", "pytorch_lightning.core.module"
)
_CLASS_METRICS = _Packages("torchmetrics.classification", "torchmetrics.functional.classification")
_AUTOGRAD_FUNCTIONS = _Packages("torch.autograd.function")
# Whose autograd function passes on what it is given.
_MODULE_HOOKS = _Packages("torch.utils.hooks")
_CHECKPOINTS = _Packages("torch.utils.checkpoint")
# Where a training step begins, and where torch itself runs a part of it as a function.
_BORDERS = frozenset(("lightning_mixup.callback", *_CHECKPOINTS.names))
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


def _inside(packages: _Packages) -> bool:
    if torch.compiler.is_dynamo_compiling():
        return False
    frame: FrameType | None = sys._getframe(1)
    module = ""
    while frame is not None and module not in _BORDERS:  # Of every operation: as fast as can be.
        module = frame.f_globals.get("__name__", "")
        if packages[module]:
            return True
        frame = frame.f_back
    return False


def _frames() -> Iterator[FrameType]:
    """Yields the frames of the training step, from the innermost to the one that begins it."""
    if torch.compiler.is_dynamo_compiling():
        return
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        if frame.f_globals.get("__name__") in _BORDERS:
            return
        frame = frame.f_back
