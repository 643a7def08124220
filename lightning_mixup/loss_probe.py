"""What a step's own loss calls say of its logits and targets, and which of them to believe.

The call also tells what the tensor means, so that nothing is guessed from values: cross entropy
takes logits, NLL log-probabilities, BCE probabilities. All are brought to one form, logits of
shape (N, C, *) with integer targets of shape (N, *). A step with several losses is read only where
they can't mean different things; else the answer is a sentence that says what was seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_mixup.beliefs import (
    MULTI_LABEL,
    agreeing,
    distinct,
    doubt_of_labels,
    is_alike,
    joined,
    leaving_out,
    made_by,
)
from lightning_mixup.observation import (
    Observation,
    Origin,
    at_least_float32,
    has_memory,
    inputs_of,
    is_same,
    shares_memory,
)
from lightning_mixup.trees import tensors_in

__all__ = ["LossProbe"]

# What makes tensors out of nothing; labels that come from these are none of the data's.
_FACTORIES = frozenset([
    "arange",
    "zeros",
    "ones",
    "full",
    "eye",
    "zeros_like",
    "ones_like",
    "full_like",
    "new_zeros",
    "new_ones",
    "new_full",
    "rand",
    "randn",
    "rand_like",
    "randn_like",
    "randint",
    "randint_like",
    "randperm",
    "linspace",
    "multinomial",
    "empty",
    "empty_like",
    "new_empty",
])
_WRAPPERS = frozenset(("tensor", "as_tensor", "new_tensor"))  # of Python's numbers, or of arrays
_ARGMAXES = frozenset(("argmax", "max"))
_SIGMOIDS = frozenset(("sigmoid", "sigmoid_", "special_expit", "expit"))
_SQUEEZES = frozenset(("squeeze", "__getitem__", "select"))
# Losses of classes whose probabilities can't be known, or are never in one place.
_UNREADABLE = frozenset((
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "soft_margin_loss",
    "ctc_loss",
    "linear_cross_entropy",
))
_WRITING = frozenset(("__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__"))


T = TypeVar("T")


class _Notes(Generic[T]):
    """What is known of tensors while they live; none is kept alive."""

    def __init__(self) -> None:
        self._notes: dict[int, tuple[weakref.ref[Tensor], T]] = {}

    def __bool__(self) -> bool:
        return bool(self._notes)

    def __contains__(self, one: object) -> bool:
        return id(one) in self._notes

    def put(self, tensor: Tensor, note: T) -> None:
        key, notes = id(tensor), self._notes
        notes[key] = weakref.ref(tensor, lambda _: notes.pop(key, None)), note

    def drop(self, tensor: Tensor) -> None:
        self._notes.pop(id(tensor), None)

    def get(self, tensor: Tensor) -> T | None:
        found = self._notes.get(id(tensor))
        return found[1] if found is not None and found[0]() is tensor else None


class LossProbe(TorchFunctionMode):
    """Watches for classification losses while it is active.

    Attributes:
        observations: What they were given, in order.
        declined: Why other losses can't be used, in words.

    Example:
        >>> with LossProbe() as probe:
        ...     loss = torch.nn.functional.nll_loss(torch.zeros(4, 3), torch.arange(8)[:4] % 3)
        >>> probe.declined
        ['the labels of nll_loss are made in the step, by arange']
        >>> labels = torch.tensor([0, 1, 2, 0])
        >>> with LossProbe() as probe:
        ...     loss = torch.nn.functional.nll_loss(torch.zeros(4, 3).log_softmax(1), labels)
        >>> probe.observations[0].logits.shape
        torch.Size([4, 3])
    """

    def __init__(self) -> None:
        super().__init__()
        self.observations: list[Observation] = []
        self.declined: list[str] = []
        self._rivals = 0  # losses of classes among those that were declined
        self._was_changed = False
        self._made = _Notes[Origin]()
        self._squeezed = _Notes[str]()  # of a dimension of size one
        self._each = _Notes[str]()  # losses with reduction="none", and what is computed of them
        self._notes = (self._made, self._squeezed, self._each)
        self._sigmoid: Tensor | None = None  # the latest output of one
        self._left_out: list[tuple[bool | Tensor, str]] = []  # whether labels don't count

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Takes note of a loss, and lets every operation pass."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if torch.compiler.is_compiling():  # which can't follow all the rest
            out = func(*args, **kwargs)
            if name in _READERS:
                self._read(name, out, *args, **kwargs)
            return out
        if self._says_nothing(name, args, kwargs):
            return func(*args, **kwargs)
        sources = _sources(args, kwargs)
        if self._each:
            self._note_leaving_out(name, args, sources)  # before it is done in place
        out = func(*args, **kwargs)
        self._note_loss(name, out, args, kwargs)
        self._note_writing(name, args, kwargs, sources)
        for tensor in [out] if isinstance(out, Tensor) else _tensors_of(out):
            self._note_making(name, args or (kwargs.get("data"),), tensor, sources)
        return out

    def choose(self, batch: Any, outputs: Any) -> Observation | str:
        """Returns the one observation of a step that can't be wrong, or why there is none.

        Args:
            batch: What the step was given.
            outputs: What it returned.
        """
        if self._was_changed:
            return "what the loss was given was changed in place afterwards"
        found = distinct(self.observations)
        if not found:
            return (self.declined or ["no loss was seen in it"])[0]
        doubts = (doubt_of_labels(each, batch) for each in self.observations)
        left_out = (words for is_left_out, words in self._left_out if is_left_out)
        doubt = next(filter(None, (*left_out, *doubts)), None)
        if doubt is not None:
            return doubt
        named = outputs.get("logits") if isinstance(outputs, dict) else None
        if not isinstance(named, Tensor) or not has_memory(named):
            named = None
        if len(found) == 1 and not self._rivals:
            return found[0] if named is None else agreeing(found[0], named)
        return self._one_of(found, batch, named)

    def _one_of(
        self, found: list[Observation], batch: Any, named: Tensor | None
    ) -> Observation | str:
        """Returns the one that the step names, or all of them where they are one."""
        if named is not None:
            those = [each for each in found if is_same(inputs_of(each)[0], named)]
            if len(those) == 1:
                return those[0]
        whole = None if self._rivals else joined(found, batch)
        if whole is not None:
            return whole
        if not self._rivals and all(is_alike(each, found[0]) for each in found[1:]):
            return found[0]
        shapes = ", ".join(str(tuple(inputs_of(each)[0].shape)) for each in found)
        others = f" and {self._rivals} more that can't be read" if self._rivals else ""
        return (
            f"it computes {len(found)} classification losses, of inputs of the shapes "
            f"{shapes}{others}"
        )

    def _says_nothing(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Returns whether an operation can be let pass quickly, as nearly all can."""
        if name in _NOTED or name.endswith("_loss"):
            return False
        if not (self.observations or self._made or self._squeezed):
            return True
        if kwargs or name.endswith("_"):  # which may write
            return False
        for arg in args:
            if isinstance(arg, (list, tuple)) or any(arg in notes for notes in self._notes):
                return False
        return True

    def _note_loss(
        self, name: str, out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if name in _READERS:
            self._read(name, out, *args, **kwargs)
        elif name in _UNREADABLE:
            self.declined.append(f"{name} says nothing of probabilities")
            self._rivals += 1
        elif name.endswith("_loss") or name == "kl_div":
            self.declined.append(f"{name} is not a loss of classes")

    def _read(self, name: str, out: Any, *args: Any, **kwargs: Any) -> None:
        if torch.compiler.is_compiling():  # which can't follow the questions below
            found = _READERS[name](*args, **kwargs)
            if isinstance(found, str):
                self._decline(name, found)
            else:
                self.observations.append(replace(found, loss=name))
            return
        scores = kwargs["input"] if "input" in kwargs else args[0]
        target = kwargs["target"] if "target" in kwargs else args[1]
        dense = any(self._squeezed.get(each) is not None for each in (scores, target))
        found = _READERS[name](*args, **kwargs, **({"dense": dense} if name in _BINARY else {}))
        origin = self._made.get(target)
        if isinstance(found, str):
            self._decline(name, found)
        elif not has_memory(inputs_of(found)[0]):
            self.declined.append(
                f"{name} is computed inside of torch.func, for a sample at a time"
            )
            self._rivals += 1
        elif origin is not None and origin.source is None:
            self.declined.append(made_by(name, origin.name))
        else:
            self._keep(replace(found, loss=name, origin=origin), out)
            weight = kwargs.get("weight", args[2] if len(args) > 2 else None)
            if name in _BINARY and isinstance(weight, Tensor):
                self._left_out.append(((weight == 0).any(), f"the weight of {name} holds zeros"))

    def _decline(self, name: str, targets: str) -> None:
        self.declined.append(f"the targets of {name} are {targets}")
        self._rivals += targets == MULTI_LABEL

    def _keep(self, found: Observation, out: Any) -> None:
        squashed = self._sigmoid
        device = found.logits.device
        is_fit = squashed is not None and squashed.numel() == found.target.numel()
        if squashed is not None and is_fit and squashed.device == device:
            found = replace(found, squashed=squashed)
        self.observations.append(found)
        if isinstance(out, Tensor) and out.ndim:
            self._each.put(out, "each")

    def _note_leaving_out(self, name: str, args: tuple[Any, ...], sources: list[Tensor]) -> None:
        """Notices what of a loss for each sample doesn't count in the end."""
        each = next((source for source in sources if self._each.get(source)), None)
        if each is None:
            return
        others = [one for one in sources if one.ndim and not self._each.get(one)]
        words = "entries of a loss with reduction='none' are left out afterwards, as by a mask"
        try:
            answers = leaving_out(name, args, each, others)
        except (RuntimeError, TypeError):  # as of sparse masks, or of a call that will raise
            answers = [True]
        self._left_out += [(lost, words) for lost in answers]

    def _note_writing(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], sources: list[Tensor]
    ) -> None:
        """Notices what is changed in place: what a loss was given, or labels in the making."""
        in_place = name in _WRITING or (name.endswith("_") and not name.endswith("__"))
        written = args[0] if (in_place or kwargs.get("inplace")) and args else kwargs.get("out")
        if not isinstance(written, Tensor):
            return
        self._note_origin(written, sources)
        self._was_changed |= any(
            shares_memory(written, given)
            for each in self.observations
            for given in inputs_of(each)
        )

    def _note_making(
        self, name: str, args: tuple[Any, ...], out: Tensor, sources: list[Tensor]
    ) -> None:
        """Notices where a result is from."""
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if name in _SIGMOIDS and has_memory(out):
            self._sigmoid = out.detach()
        if name in _FACTORIES or (name in _WRAPPERS and _is_of_numbers(name, args)):
            is_listed = name in _WRAPPERS and isinstance(args[0], (list, tuple))
            self._made.put(out, Origin(name, args[0] if is_listed else None))
        elif name in _ARGMAXES and first is not None and _is_argmax(first, out):
            self._made.put(out, self._made.get(first) or Origin(name, first.detach()))
        elif self._made:
            self._note_origin(out, sources)
        if first is None or out.is_nested or first.is_nested:  # whose shapes are unknown
            return
        is_squeeze = name in _SQUEEZES and out.ndim < first.ndim and out.numel() == first.numel()
        if is_squeeze or (self._squeezed.get(first) and out.shape == first.shape):
            self._squeezed.put(out, "squeezed")
        from_each = self._each and any(self._each.get(source) for source in sources)
        if from_each and out.ndim and out.is_floating_point():
            self._each.put(out, "each")

    def _note_origin(self, out: Tensor, sources: list[Tensor]) -> None:
        """Made is what is made of nothing else, or has any part in a prediction."""
        origins = [self._made.get(source) for source in sources]
        known = [origin for origin in origins if origin is not None]
        predicted = next((origin for origin in known if origin.is_predicted), None)
        if predicted is not None:
            self._made.put(out, predicted)
        elif known and len(known) == len(sources):
            self._made.put(out, known[0])
        else:
            self._made.drop(out)


def _sources(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    found = []
    for arg in args:
        if isinstance(arg, Tensor):
            found.append(arg)
        elif isinstance(arg, (list, tuple)):
            found += tensors_in(arg)
    return found + tensors_in(kwargs) if kwargs else found


def _tensors_of(out: Any) -> list[Tensor]:
    return [one for one in out if isinstance(one, Tensor)] if isinstance(out, tuple) else []


def _is_argmax(scores: Tensor, out: Tensor) -> bool:
    """Returns whether places were made of scores; whole numbers, as one-hot labels, are none."""
    return scores.is_floating_point() and not out.is_floating_point()


def _is_of_numbers(name: str, args: tuple[Any, ...]) -> bool:
    """Returns whether a tensor is made of Python's numbers."""
    data = args[1 if name == "new_tensor" else 0] if args else None
    return isinstance(data, (bool, int, float, list, tuple, range)) and not tensors_in(data)


def _from_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,  # noqa: FBT001  torch's own signature
    ignore_index: int = -100,
    *rest: Any,
    **options: Any,
) -> Observation | str:
    classes = min(1, input.ndim - 1)
    if input.shape[classes] == 1:
        return "of a single class"
    given = (input.detach(), target.detach())
    if target.is_floating_point():  # one-hot, or soft labels, for which `ignore_index` is nothing
        labels = target.detach().argmax(classes)
        return Observation(input.detach(), labels, given=given, weight=weight)
    return Observation(input.detach(), target, ignore_index, given=given, weight=weight)


def _from_binary_logits(  # noqa: PLR0913  torch's own signature
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,  # noqa: FBT001
    reduce: bool | None = None,  # noqa: FBT001
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
    *,
    dense: bool = False,
) -> Observation | str:
    found = _binary(torch.zeros_like(input), input, target, input, dense=dense)
    return found if isinstance(found, str) else replace(found, weight=pos_weight)


def _from_binary_probabilities(
    input: Tensor, target: Tensor, *rest: Any, dense: bool = False, **options: Any
) -> Observation | str:
    wide = at_least_float32(input)
    return _binary(torch.log1p(-wide), wide.log(), target, input, dense=dense)


def _binary(
    negative: Tensor, positive: Tensor, target: Tensor, given: Tensor, *, dense: bool
) -> Observation | str:
    # (N,), (N, 1), dense (N, 1, *), and (N, *) if that was squeezed; with more columns each is a
    # question of its own.
    is_column = positive.ndim < 2 or positive.shape[1] == 1
    if not is_column and not (dense and positive.ndim > 2):
        return MULTI_LABEL
    logits = torch.stack([negative.reshape(-1), positive.reshape(-1)], dim=1)
    return Observation(
        logits.detach(),
        target.detach().reshape(-1).long(),
        is_binary=True,
        given=(given.detach(), target.detach()),
    )


_READERS: dict[str, Callable[..., Observation | str]] = {
    "cross_entropy": _from_cross_entropy,
    "nll_loss": _from_cross_entropy,  # of the same first arguments; log-probabilities are logits
    "binary_cross_entropy_with_logits": _from_binary_logits,
    "binary_cross_entropy": _from_binary_probabilities,
}

_BINARY = frozenset(("binary_cross_entropy_with_logits", "binary_cross_entropy"))
_NOTED = frozenset((
    *(*_READERS, *_UNREADABLE, *_FACTORIES, *_WRAPPERS),
    *(*_ARGMAXES, *_SIGMOIDS, *_SQUEEZES, "kl_div"),
))
