"""What each operation does with mixed tensors: the rule of `targets.py`, case by case.

With one weight per batch there is nothing to follow: an operation runs once per candidate,
whatever it is. Weights per sample travel with the samples; `per_sample.py` says how.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_mixup.callers import (
    in_autograd_function,
    in_checkpoint,
    in_class_metric,
    in_metric,
    in_submodule,
    line_of_user,
)
from lightning_mixup.calls import Call, NoRuleError
from lightning_mixup.losses import class_loss_at_once, is_class_loss, run_class_loss
from lightning_mixup.mends import keep_variables, look_into_tuples, refuse_transforms
from lightning_mixup.operations import (
    CASTS,
    COMPARISONS,
    FACTS,
    FINITENESS,
    HOOKS,
    JOINS,
    NUMBERS,
    PRINTS,
    SIZES,
    STRUCTURE,
    TALLIES,
    is_asked_in_place,
    reorders,
    takes_reduction,
    writes_in_place,
)
from lightning_mixup.per_sample import embed, join, run_per_sample
from lightning_mixup.targets import (
    Kind,
    MixedTarget,
    as_number,
    dominant,
    has_own_value,
    is_live,
    meet_gradient,
    plain,
    reading,
    release,
)
from lightning_mixup.trees import map_tensors, map_together
from lightning_mixup.writes import add_up, write

__all__ = ["run"]


def run(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Runs an operation by the rule; called with torch's dispatch to subclasses switched off.

    Raises:
        NoRuleError: If there is none, and a gradient or a write is at stake.
    """
    loss = class_loss_at_once(args, kwargs) if func is F.cross_entropy else None
    if loss is not None:
        return loss
    call = Call(func, args, kwargs)
    if not call.live:
        return call.of(reading)
    call.usage.touched |= call.name not in FACTS
    if call.name in FACTS or call.name in NUMBERS or call.name in PRINTS:
        return _read(call)
    simpler = _simplified(call)
    if simpler is not None:
        return run(func, *simpler)
    _check_followed(call)
    reader = _reader(call)
    if reader is not None:
        return call.of(reader)
    gradient, usage = _meets_gradient(call), call.usage
    usage.met_gradient |= gradient
    try:
        result = _by_rule(call, gradient=gradient)
    except NoRuleError:
        if gradient or writes_in_place(call.name) or is_asked_in_place(func, args, kwargs):
            raise
        return call.unruled()
    if args and is_live(args[0]):
        usage.reordered |= reorders(call.name, args, kwargs, result)
    return result


MixedTarget.rule = staticmethod(run)
look_into_tuples()
keep_variables()
refuse_transforms()


def _read(call: Call) -> Any:
    """Answers with what the tensor's own data says, or reads as."""
    if call.name in NUMBERS or call.name in SIZES:
        _notice(call)
    if call.name not in FACTS:
        return call.of(reading)
    answer = call.func(*call.args, **call.kwargs)
    return call.args[0] if call.name == "requires_grad_" else answer


def _check_followed(call: Call) -> None:
    """Refuses what goes ways that no rule can follow."""
    if call.name in HOOKS:
        call.refuse("watches the gradient of one tensor, where every label has its own")
    if call.kwargs.get("out") is not None:
        call.refuse("writes into out=")


def _reader(call: Call) -> Callable[[Tensor], Tensor] | None:
    """Returns how labels are read by one who counts or compares them, if that is who asks."""
    if in_autograd_function():
        if not call.only_totals:
            call.refuse("is run in a custom autograd function, whose gradient nobody can follow")
        return reading
    if (call.name in TALLIES and call.per_sample) or (call.name in COMPARISONS and call.settled):
        return reading
    if not in_metric():
        return None
    if in_class_metric():
        return dominant
    meet_gradient(call.live)  # unless a metric is updated, which takes no gradients
    return reading


def _simplified(call: Call) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Returns other arguments for an operation, where some need not or cannot stay mixed."""
    args, kwargs = call.args, call.kwargs
    if call.name in CASTS and len(call.live) > is_live(args[0]):  # Others only lend their form.
        return (args[0], *map_tensors(args[1:], plain)), map_tensors(kwargs, plain)
    if call.differ_in_number:
        double = any(tensor.dtype is torch.float64 for tensor in call.tensors)
        dtype = torch.float64 if double else torch.get_default_dtype()
        settle = functools.partial(as_number, dtype=dtype)
        return map_tensors(args, settle), map_tensors(kwargs, settle)
    for tensor in call.live:
        if tensor.requires_grad and not tensor.candidates[-1].requires_grad:
            _reconnect(tensor, call)
            return args, kwargs
    return None


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
    return numbers and in_checkpoint()


def _by_rule(call: Call, *, gradient: bool) -> Any:
    if not call.same_mix:
        if call.only_totals:
            return add_up(call)
        call.refuse("combines the labels of two mixed batches")
    call.kind = _kind_of_result(call, gradient=gradient)
    if writes_in_place(call.name):
        if call.only_totals and not call.same_samples:
            return add_up(call)
        return write(call, gradient=gradient)
    if call.only_numbers:
        return _run_on_numbers(call, gradient=gradient)
    call.check_ruled()
    return _run_on_labels(call)


def _kind_of_result(call: Call, *, gradient: bool) -> Kind:
    if gradient or takes_reduction(call.func):
        return Kind.LOSS
    kinds = [tensor.kind for tensor in call.live]
    if Kind.LOSS in kinds:
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
    elif gradient or call.name in FINITENESS or takes_reduction(call.func):
        return call.of(plain)
    else:
        call.kind = Kind.NUMBER
    call.check_ruled()
    return _run_on_labels(call)


def _run_on_labels(call: Call) -> Any:
    if call.name in JOINS:
        return join(call)
    if not call.same_samples:
        if call.only_totals:
            return add_up(call)
        call.refuse("combines samples that have different weights")
    if is_class_loss(call):
        return run_class_loss(call)
    if call.name == "embedding" and call.kind is not Kind.NUMBER:
        return embed(call)
    return run_per_sample(call) if call.per_sample else _once_per_batch(call)


def _once_per_batch(call: Call) -> Any:
    rows = call.rows()
    if call.name == "__getitem__" and all(tensor.ndim == 0 for tensor in call.live):
        rows = [row.clone() for row in rows]  # of x[y[i]], which are views of one x
    return map_together(lambda *row: call.mixed(row, call.weights), rows)


def _notice(call: Call) -> None:
    """Remembers where labels were read as numbers, as a metric may, but no loss that is a module.

    Raises:
        NoRuleError: If a module reads them, which can be named.
    """
    if torch.compiler.is_dynamo_compiling():
        return
    alike = torch.equal if call.name in NUMBERS else Tensor.is_same_size
    labels = [t for t in call.live if t.kind is Kind.LABEL or call.name in SIZES]
    if all(alike(tensor.candidates[0], row) for tensor in labels for row in tensor.others):
        return
    if in_metric():
        return
    if call.name in NUMBERS and in_submodule():
        call.refuse("reads labels as numbers")
    line = line_of_user()
    if line is not None and call.usage.read_as is None:
        call.usage.read_as = call.name, *line
