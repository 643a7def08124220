"""What a step's own loss calls say of its logits and targets, and which of them to believe.

The call also tells what the tensor means, so that nothing is guessed from values: cross entropy
takes logits, NLL log-probabilities, BCE probabilities. All are brought to one form, logits of
shape (N, C, *) with integer targets of shape (N, *). A step with several losses is read only where
they can't mean different things; else the answer is a sentence that says what was seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_mixup.containers import leaves_of
from lightning_mixup.trees import tensors_in

__all__ = ["LossProbe", "Observation", "entry_of"]

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
])
# Losses that apply a function themselves, which must not have been applied before.
_SQUASHES = {"cross_entropy": "softmax", "binary_cross_entropy_with_logits": "sigmoid"}
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


@dataclass(frozen=True)
class Observation:
    """Logits and targets of one classification loss."""

    logits: Tensor  # (N, C, *), or (C,) for one sample; up to a constant per sample
    target: Tensor  # (N, *) or (), integer
    ignore_index: int | None = None
    is_binary: bool = False  # two columns were made of one
    loss: str = "logits_fn"  # the function that was called
    given: tuple[Tensor, Tensor] | None = None  # what it was called with

    def probabilities(self) -> Tensor:
        """Returns what torchmetrics takes: (N, C, *), or (N,) for a binary loss."""
        classes = 1 if self.logits.ndim > 1 else 0
        probabilities = _at_least_float32(self.logits).softmax(classes)
        return probabilities[:, 1] if self.is_binary else probabilities

    def has_soft_labels(self) -> Tensor | None:
        """Returns whether float targets hold shares of classes, without waiting for the device.

        A 0-d bool tensor; None where the targets are integers.
        """
        if self.given is None or not self.given[1].is_floating_point():
            return None
        target = self.given[1]
        strays = ((target != 0) & (target != 1)).any()
        if self.is_binary:
            return strays
        return strays | (target.sum(min(1, target.ndim - 1)) != 1).any()

    def is_unnormalised(self) -> bool:
        """Returns whether what NLL was given are no log-probabilities; waits for the device."""
        if self.loss != "nll_loss":
            return False
        total = self.logits.double().logsumexp(min(1, self.logits.ndim - 1))
        # Half precision is exact to about 0.01; NaN is for others to find.
        return bool((total.abs() > 0.05).any())

    def rows(self, start: int, stop: int) -> Observation:
        """Returns a part of the samples."""
        return replace(self, logits=self.logits[start:stop], target=self.target[start:stop])


class LossProbe(TorchFunctionMode):
    """Watches for classification losses while it is active.

    Attributes:
        observations: What they were given, in order.
        declined: Why other losses can't be used, in words.

    Example:
        >>> with LossProbe() as probe:
        ...     loss = torch.nn.functional.nll_loss(torch.zeros(4, 3), torch.arange(8)[:4] % 3)
        >>> probe.declined
        ['the labels of nll_loss are made in the step, as by torch.arange']
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
        self._squashed: list[tuple[str, weakref.ref[Tensor]]] = []
        self._made = weakref.WeakValueDictionary[int, Tensor]()  # by id

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
            if name in _READERS:
                self._read(name, *args, **kwargs)
            return func(*args, **kwargs)
        if not (self._made or self.observations or name in _NOTED or name.endswith("_loss")):
            return func(*args, **kwargs)
        self._note_loss(name, args, kwargs)
        self._note_writing(name, args, kwargs)
        out = func(*args, **kwargs)
        self._note_making(name, args, kwargs, out)
        return out

    def choose(self, batch: Any, outputs: Any) -> Observation | str:
        """Returns the one observation of a step that can't be wrong, or why there is none.

        Args:
            batch: What the step was given.
            outputs: What it returned.
        """
        if self._was_changed:
            return "what the loss was given was changed in place afterwards"
        found = _distinct(self.observations)
        if not found:
            return (self.declined or ["no loss was seen in it"])[0]
        if len(found) == 1 and not self._rivals:
            return found[0]
        named = outputs.get("logits") if isinstance(outputs, dict) else None
        if isinstance(named, Tensor):
            those = [each for each in found if _is_same(_given(each)[0], named)]
            if len(those) == 1:
                return those[0]
        whole = None if self._rivals else _joined(found, batch)
        if whole is not None:
            return whole
        shapes = ", ".join(str(tuple(_given(each)[0].shape)) for each in found)
        others = f" and {self._rivals} more that can't be read" if self._rivals else ""
        return (
            f"it computes {len(found)} classification losses, of inputs of the shapes "
            f"{shapes}{others}"
        )

    def _note_loss(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if name in _READERS:
            self._read(name, *args, **kwargs)
        elif name in _UNREADABLE:
            self.declined.append(f"{name} says nothing of probabilities")
            self._rivals += 1
        elif name.endswith("_loss") or name == "kl_div":
            self.declined.append(f"{name} is not a loss of classes")

    def _read(self, name: str, *args: Any, **kwargs: Any) -> None:
        found = _READERS[name](*args, **kwargs)
        if isinstance(found, str):
            self.declined.append(f"the targets of {name} are {found}")
            self._rivals += found == _MULTI_LABEL
        elif torch.compiler.is_compiling():  # which can't follow the questions below
            self.observations.append(replace(found, loss=name))
        elif not _has_memory(_given(found)[0]):
            self.declined.append(
                f"{name} is computed inside of torch.func, for a sample at a time"
            )
            self._rivals += 1
        elif self._is_made(kwargs["target"] if "target" in kwargs else args[1]):
            self.declined.append(f"the labels of {name} are made in the step, as by torch.arange")
        elif self._is_squashed(name, _given(found)[0]):
            squash = _SQUASHES[name]
            self.declined.append(
                f"{name} is given the output of a {squash}, not what goes into it"
            )
            self._rivals += 1
        else:
            self.observations.append(replace(found, loss=name))

    def _is_squashed(self, name: str, scores: Tensor) -> bool:
        """Returns whether logits were expected and probabilities given."""
        outputs = (made() for squash, made in self._squashed if squash == _SQUASHES.get(name))
        return any(made is not None and _is_same(made, scores) for made in outputs)

    def _note_writing(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Notices what is changed in place: what a loss was given, or labels in the making."""
        in_place = name in _WRITING or (name.endswith("_") and not name.endswith("__"))
        written = args[0] if (in_place or kwargs.get("inplace")) and args else kwargs.get("out")
        if not isinstance(written, Tensor):
            return
        if not all(self._is_made(source) for source in tensors_in((list(args), kwargs))):
            self._made.pop(id(written), None)
        self._was_changed |= any(
            _shares_memory(written, given) for each in self.observations for given in _given(each)
        )

    def _note_making(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> None:
        """Notices what is made of nothing, and softmaxes; none of it is kept alive."""
        if not isinstance(out, Tensor):
            return
        if name in _SQUASHES.values():
            self._squashed.append((name, weakref.ref(out)))
        made = name in _FACTORIES
        if self._made and not made:
            sources = tensors_in((list(args), kwargs))
            made = bool(sources) and all(self._is_made(source) for source in sources)
        if made:
            self._made[id(out)] = out
        else:
            self._made.pop(id(out), None)  # as it was written to

    def _is_made(self, tensor: Tensor) -> bool:
        return self._made.get(id(tensor)) is tensor


def entry_of(batch: Any, tensor: Tensor) -> Tensor | None:
    """Returns the entry of a batch whose samples a tensor holds, all of them and in order.

    Args:
        batch: Nested containers.
        tensor: One that a step has used, such as a view of an entry, or a copy of equal values.

    Example:
        >>> x, y = torch.rand(2, 3), torch.tensor([[1, 2, 0], [0, 1, 1]])
        >>> entry_of((x, y), y.view(-1)) is y
        True
    """
    if not tensor.ndim:
        return None
    entries = [entry for entry in _entries(batch) if entry.numel() == tensor.numel()]
    views = (entry for entry in entries if _is_same(entry, tensor))
    copies = (entry for entry in entries if len(entry) == len(tensor) and _is_equal(entry, tensor))
    found = next(views, None)
    return next(copies, None) if found is None else found


def _entries(batch: Any) -> list[Tensor]:
    leaves = (leaf for _, leaf in leaves_of(batch))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim]


def _is_equal(one: Tensor, other: Tensor) -> bool:
    return one.device == other.device and torch.equal(
        one.reshape(-1).to(other.dtype), other.reshape(-1)
    )


def _joined(found: list[Observation], batch: Any) -> Observation | None:
    """Joins losses of consecutive pieces of one entry of the batch, which leave nothing out."""
    first = found[0]
    if any(_kind(each) != _kind(first) for each in found):
        return None
    targets = [_given(each)[1] for each in found]
    wholes = (entry for entry in _entries(batch) if _start(entry) == _start(targets[0]))
    whole = next(wholes, None)
    if whole is None or not _are_pieces(targets, whole):
        return None
    return replace(
        first,
        logits=torch.cat([each.logits for each in found]),
        target=torch.cat([each.target for each in found]),
        given=(torch.cat([_given(each)[0] for each in found]), whole),
    )


def _are_pieces(targets: list[Tensor], whole: Tensor) -> bool:
    """Returns whether tensors are consecutive rows of another in memory, all that it has."""
    storage, end = _start(whole)
    for target in (whole, *targets):
        if not target.is_contiguous() or target.shape[1:] != whole.shape[1:]:
            return False
    for target in targets:
        if target.ndim != whole.ndim or _start(target) != (storage, end):
            return False
        end += target.numel()
    is_all = sum(map(len, targets)) == len(whole)
    return is_all and all(target.dtype == whole.dtype for target in targets)


def _distinct(found: list[Observation]) -> list[Observation]:
    """Leaves out losses of the very same logits and targets as one before."""
    kept: list[Observation] = []
    for each in found:
        if not any(_is_repeated(each, other) for other in kept):
            kept.append(each)
    return kept


def _is_repeated(one: Observation, other: Observation) -> bool:
    (scores, target), (others_scores, others_target) = _given(one), _given(other)
    if _kind(one) != _kind(other) or not _is_same(scores, others_scores):
        return False
    if target.shape != others_target.shape or target.dtype != others_target.dtype:
        return False
    return _is_same(target, others_target) or torch.equal(target, others_target)


def _kind(each: Observation) -> tuple[Any, ...]:
    return each.loss, each.ignore_index, each.is_binary, each.logits.shape[1:], each.logits.dtype


def _given(each: Observation) -> tuple[Tensor, Tensor]:
    return each.given or (each.logits, each.target)


def _start(tensor: Tensor) -> tuple[int, int | torch.SymInt]:
    return tensor.untyped_storage().data_ptr(), tensor.storage_offset()


def _has_memory(tensor: Tensor) -> bool:
    """Returns whether a tensor can be kept, which those inside of ``vmap`` and the like can't."""
    try:
        _start(tensor)
    except (RuntimeError, NotImplementedError):
        return False
    return True


def _shares_memory(one: Tensor, other: Tensor) -> bool:
    return _start(one)[0] == _start(other)[0]


def _is_same(one: Tensor, other: Tensor) -> bool:
    """Returns whether two tensors are the same numbers in memory, not just equal ones."""
    same_form = one.numel() == other.numel() and one.dtype == other.dtype
    return same_form and _start(one) == _start(other) and _shares_layout(one, other)


def _shares_layout(one: Tensor, other: Tensor) -> bool:
    if one.shape == other.shape:
        return one.stride() == other.stride()
    return one.is_contiguous() and other.is_contiguous()


_MULTI_LABEL = "multi-label"


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
        return Observation(input.detach(), target.detach().argmax(classes), given=given)
    return Observation(input.detach(), target, ignore_index, given=given)


def _from_binary_logits(
    input: Tensor, target: Tensor, *rest: Any, **options: Any
) -> Observation | str:
    return _binary(torch.zeros_like(input), input, target, input)


def _from_binary_probabilities(
    input: Tensor, target: Tensor, *rest: Any, **options: Any
) -> Observation | str:
    wide = _at_least_float32(input)
    return _binary(torch.log1p(-wide), wide.log(), target, input)


def _binary(
    negative: Tensor, positive: Tensor, target: Tensor, given: Tensor
) -> Observation | str:
    # (N,), (N, 1) and dense (N, 1, *); with more columns each is a question of its own.
    if positive.ndim > 1 and positive.shape[1] != 1:
        return _MULTI_LABEL
    logits = torch.stack([negative.reshape(-1), positive.reshape(-1)], dim=1)
    return Observation(
        logits.detach(),
        target.detach().reshape(-1).long(),
        is_binary=True,
        given=(given.detach(), target.detach()),
    )


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.element_size() < 4 else x


_READERS: dict[str, Callable[..., Observation | str]] = {
    "cross_entropy": _from_cross_entropy,
    "nll_loss": _from_cross_entropy,  # of the same first arguments; log-probabilities are logits
    "binary_cross_entropy_with_logits": _from_binary_logits,
    "binary_cross_entropy": _from_binary_probabilities,
}

_NOTED = frozenset((*_READERS, *_UNREADABLE, *_SQUASHES.values(), *_FACTORIES, "kl_div"))
