"""What each operation does with mixed tensors: the rule of `targets.py`, case by case.

With one weight per batch there is nothing to follow: an operation runs once per candidate,
whatever it is. Weights per sample travel with the samples; `per_sample.py` says how.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from lightning_mixup.calls import Call, NoRuleError
from lightning_mixup.losses import is_class_loss, run_class_loss, takes_reduction
from lightning_mixup.operations import (
    CASTS,
    COMPARISONS,
    FINITENESS,
    JOINS,
    NUMBERS,
    READS,
    REDUCTIONS,
    SIZES,
    STRUCTURE,
    TALLIES,
    writes_in_place,
)
from lightning_mixup.per_sample import combine_single_samples, join, run_per_sample
from lightning_mixup.targets import (
    Kind,
    MixedTarget,
    has_own_value,
    is_live,
    meet_gradient,
    plain,
    reading,
    release,
    weighted_sum,
)
from lightning_mixup.trees import map_together
from lightning_mixup.writes import write

__all__ = ["run"]


def run(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Runs an operation by the rule; called with torch's dispatch to subclasses switched off.

    Raises:
        NoRuleError: If there is none, and a gradient or a write is at stake.
    """
    call = Call(func, args, kwargs)
    for tensor in call.live:
        if tensor.requires_grad and not tensor.others[-1].requires_grad:
            _reconnect(tensor, call)
            return run(func, args, kwargs)
    if call.live and not torch.is_grad_enabled() and _inside(_AUTOGRAD_FUNCTIONS):
        call.refuse("is run in a custom autograd function, whose gradient nobody can follow")
    if not call.live or call.name in READS or (call.name in CASTS and not is_live(args[0])):
        if call.name in NUMBERS or call.name in SIZES:
            _notice(call)
        return call.of(reading)
    if call.per_sample and call.name in TALLIES:
        return call.of(reading)
    if _inside(_METRICS):
        meet_gradient(call.live)  # unless a metric is updated, which takes no gradients
        return call.of(reading)
    gradient = _meets_gradient(call)
    call.usage.met_gradient |= gradient
    try:
        return _by_rule(call, gradient=gradient)
    except NoRuleError:
        if gradient or writes_in_place(call.name) or "out" in kwargs:
            raise
    return call.unruled()


MixedTarget.rule = staticmethod(run)


def _reconnect(tensor: MixedTarget, call: Call) -> None:
    """Makes plain what an autograd function gave a gradient, which its candidates then lack."""
    if not has_own_value(tensor):
        call.refuse(
            "is given losses of the single samples from a custom autograd function, or from a "
            "checkpoint with use_reentrant=True instead of False"
        )
    release(tensor)


def _meets_gradient(call: Call) -> bool:
    if call.name in COMPARISONS:
        return False
    # Of what y.type_as(x) or y.view_as(x) is given besides y, only the form matters.
    tensors = call.tensors[:1] if call.name in STRUCTURE else call.tensors
    if torch.is_grad_enabled():
        return any(tensor.requires_grad for tensor in tensors)
    # Reentrant checkpointing runs its region without gradients first, and again with them.
    numbers = any(tensor.is_floating_point() and not is_live(tensor) for tensor in tensors)
    return numbers and _inside(_CHECKPOINTS)


def _by_rule(call: Call, *, gradient: bool) -> Any:
    if any(tensor.usage is not call.usage for tensor in call.live):
        if call.only_totals and not writes_in_place(call.name):
            return call.of(reading)
        call.refuse("combines the labels of two mixed batches")
    if call.kwargs.get("out") is not None:
        call.refuse("writes into out=")
    call.kind = _kind_of_result(call, gradient=gradient)
    if writes_in_place(call.name):
        return write(call, gradient=gradient)
    if call.only_numbers:
        return _run_on_numbers(call, gradient=gradient)
    call.check_ruled()
    return _run_on_labels(call)


def _kind_of_result(call: Call, *, gradient: bool) -> Kind:
    kinds = {tensor.kind for tensor in call.live}
    if gradient or Kind.LOSS in kinds or takes_reduction(call):
        return Kind.LOSS
    compares = call.name in COMPARISONS and not call.with_numbers
    return Kind.VERDICT if compares or Kind.VERDICT in kinds else Kind.LABEL


def _run_on_numbers(call: Call, *, gradient: bool) -> Any:
    """Float targets are numbers, until a cast or a comparison makes class labels of them."""
    if call.name in COMPARISONS:
        compares_labels = call.name.strip("_") in ("eq", "ne") and not call.with_numbers
        if not compares_labels and (len(call.live) > 1 or not call.with_numbers):
            return call.of(plain)
        call.kind = Kind.VERDICT if compares_labels else Kind.LABEL
    elif gradient or call.name in FINITENESS or takes_reduction(call):
        return call.of(plain)
    else:
        call.kind = Kind.NUMBER
    call.check_ruled()
    return _run_on_labels(call)


def _run_on_labels(call: Call) -> Any:
    if call.kind is Kind.VERDICT and call.name in REDUCTIONS and call.per_sample:
        return call.of_candidate(0)
    if call.name in JOINS:
        return join(call)
    if not call.same_samples:
        return combine_single_samples(call)
    if is_class_loss(call):
        return run_class_loss(call)
    if call.name == "embedding":  # a model conditioned on the class sees the point in between
        embedded = call.rows()
        return weighted_sum(embedded, call.aligned_left(embedded[0]))
    return run_per_sample(call) if call.per_sample else _once_per_batch(call)


def _once_per_batch(call: Call) -> Any:
    rows = call.rows()
    if call.name == "__getitem__" and all(tensor.ndim == 0 for tensor in call.live):
        rows = [row.clone() for row in rows]  # of x[y[i]], which are views of one x
    return map_together(lambda *row: call.mixed(row, call.weights), rows)


# Who asks.

# Metrics do more with labels than compare them (top-k, macro averages, lists), so the dominant
# candidate is taken at their door, and at that of Lightning's own ``self.log``.
_METRICS = ("torchmetrics", "lightning.pytorch.core.module", "pytorch_lightning.core.module")
_NOT_USERS = ("lightning_mixup.", "torch.", "numpy.")
_AUTOGRAD_FUNCTIONS = ("torch.autograd.function",)
_CHECKPOINTS = ("torch.utils.checkpoint",)
# Where a training step begins, and where torch itself runs a part of it as a function.
_BORDERS = ("lightning_mixup.callback", *_CHECKPOINTS)


def _notice(call: Call) -> None:
    """Remembers where labels were read as numbers; a metric may, but a loss is not mixed then."""
    alike = torch.equal if call.name in NUMBERS else Tensor.is_same_size
    labels = [t for t in call.live if t.kind is Kind.LABEL or call.name in SIZES]
    if all(alike(tensor.candidates[0], row) for tensor in labels for row in tensor.others):
        return
    if call.usage.read_as is not None or _inside(_METRICS):
        return
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_NOT_USERS):
        frame = frame.f_back
    if frame is not None:
        call.usage.read_as = call.name, frame.f_code.co_filename, frame.f_lineno


def _inside(packages: tuple[str, ...]) -> bool:
    """Returns whether an operation is run by one of these packages or modules."""
    if torch.compiler.is_compiling():
        return False
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith(packages) and any(f"{module}.".startswith(f"{p}.") for p in packages):
            return True
        if module in _BORDERS:
            return False
        frame = frame.f_back
    return False
