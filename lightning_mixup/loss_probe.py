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
from typing import Any, Generic, TypeVar

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
# What leaves out or weighs entries of a loss with reduction="none".
_PICKS = frozenset(("index_select", "gather", "take", "take_along_dim", "__setitem__", "select"))
_PRODUCTS = frozenset(("mul", "multiply", "mul_", "multiply_"))
_SUMS_OF_PRODUCTS = frozenset(("matmul", "dot", "inner", "vdot", "mv", "einsum", "tensordot"))
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


@dataclass(frozen=True)
class _Origin:
    """What made a tensor that is none of the data's, unless what it was made of is."""

    name: str
    source: Any = None  # the scores of an argmax, or the numbers of a list

    @property
    def is_predicted(self) -> bool:
        """Returns whether it may be a prediction."""
        return isinstance(self.source, Tensor)


@dataclass(frozen=True)
class Observation:
    """Logits and targets of one classification loss."""

    logits: Tensor  # (N, C, *), or (C,) for one sample; up to a constant per sample
    target: Tensor  # (N, *) or (), integer
    ignore_index: int | None = None
    is_binary: bool = False  # two columns were made of one
    loss: str = "logits_fn"  # the function that was called
    given: tuple[Tensor, Tensor] | None = None  # what it was called with
    weight: Tensor | None = None  # of the classes
    squashed: Tensor | None = None  # the latest output of a sigmoid before it
    origin: _Origin | None = None  # of labels that may be none of the data's

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

    def counted(self) -> Tensor:
        """Returns the logits (M, C) of what the loss does not ignore; waits for the device."""
        logits = self.logits if self.logits.ndim > 1 else self.logits[None]
        flat = _at_least_float32(logits).movedim(1, -1).flatten(0, -2)
        counts = flat.isfinite().all(1)
        if self.loss == "nll_loss":  # of which minus infinity is a class without probability
            counts = ~flat.isnan().any(1)
        if self.ignore_index is not None:
            counts = counts & (self.target.flatten() != self.ignore_index)
        return flat[counts]

    def is_unnormalised(self) -> bool:
        """Returns whether what NLL was given are no log-probabilities; waits for the device."""
        if self.loss != "nll_loss":
            return False
        # Half precision is exact to about 0.01; NaN is for others to find.
        return bool((self.counted().logsumexp(1).abs() > 0.05).any())

    def squash(self) -> str:
        """Returns what was applied that the loss applies itself; waits for the device."""
        if self.loss == "cross_entropy":
            counted = self.counted()
            is_softmax = (counted >= 0).all() & ((counted.sum(1) - 1).abs() < 0.01).all()
            return "softmax" if len(counted) and is_softmax else ""
        if self.loss != "binary_cross_entropy_with_logits" or self.squashed is None:
            return ""
        scores = _given(self)[0].reshape(-1).float()
        # Clamped or rounded, at most.
        is_sigmoid = ((scores - self.squashed.reshape(-1).float()).abs() < 0.01).all()
        return "sigmoid" if is_sigmoid else ""

    def lacks_a_class(self) -> bool:
        """Returns whether a class has no weight in the loss; waits for the device."""
        return self.weight is not None and bool((self.weight == 0).any())

    def rows(self, start: int, stop: int) -> Observation:
        """Returns a part of the samples."""
        return replace(self, logits=self.logits[start:stop], target=self.target[start:stop])


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
        self._made = _Notes[_Origin]()
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
        found = _distinct(self.observations)
        if not found:
            return (self.declined or ["no loss was seen in it"])[0]
        doubts = (_doubt_of_labels(each, batch) for each in self.observations)
        left_out = (words for is_left_out, words in self._left_out if is_left_out)
        doubt = next(filter(None, (*left_out, *doubts)), None)
        if doubt is not None:
            return doubt
        named = outputs.get("logits") if isinstance(outputs, dict) else None
        if not isinstance(named, Tensor) or not _has_memory(named):
            named = None
        if len(found) == 1 and not self._rivals:
            return found[0] if named is None else _agreeing(found[0], named)
        return self._one_of(found, batch, named)

    def _one_of(
        self, found: list[Observation], batch: Any, named: Tensor | None
    ) -> Observation | str:
        """Returns the one that the step names, or all of them where they are one."""
        if named is not None:
            those = [each for each in found if _is_same(_given(each)[0], named)]
            if len(those) == 1:
                return those[0]
        whole = None if self._rivals else _joined(found, batch)
        if whole is not None:
            return whole
        if not self._rivals and all(_is_alike(each, found[0]) for each in found[1:]):
            return found[0]
        shapes = ", ".join(str(tuple(_given(each)[0].shape)) for each in found)
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
                self.declined.append(f"the targets of {name} are {found}")
                self._rivals += found == _MULTI_LABEL
            else:
                self.observations.append(replace(found, loss=name))
            return
        scores = kwargs["input"] if "input" in kwargs else args[0]
        target = kwargs["target"] if "target" in kwargs else args[1]
        dense = any(self._squeezed.get(each) is not None for each in (scores, target))
        found = _READERS[name](*args, **kwargs, **({"dense": dense} if name in _BINARY else {}))
        origin = self._made.get(target)
        if isinstance(found, str):
            self.declined.append(f"the targets of {name} are {found}")
            self._rivals += found == _MULTI_LABEL
        elif not _has_memory(_given(found)[0]):
            self.declined.append(
                f"{name} is computed inside of torch.func, for a sample at a time"
            )
            self._rivals += 1
        elif origin is not None and origin.source is None:
            self.declined.append(_made_by(name, origin.name))
        else:
            self._keep(replace(found, loss=name, origin=origin), out)
            weight = kwargs.get("weight", args[2] if len(args) > 2 else None)
            if name in _BINARY and isinstance(weight, Tensor):
                self._left_out.append(((weight == 0).any(), f"the weight of {name} holds zeros"))

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
            answers = _lost(name, args, each, others)
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
            _shares_memory(written, given) for each in self.observations for given in _given(each)
        )

    def _note_making(
        self, name: str, args: tuple[Any, ...], out: Tensor, sources: list[Tensor]
    ) -> None:
        """Notices where a result is from."""
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if name in _SIGMOIDS and _has_memory(out):
            self._sigmoid = out.detach()
        if name in _FACTORIES or (name in _WRAPPERS and _is_of_numbers(name, args)):
            is_listed = name in _WRAPPERS and isinstance(args[0], (list, tuple))
            self._made.put(out, _Origin(name, args[0] if is_listed else None))
        elif name in _ARGMAXES and first is not None and _is_argmax(first, out):
            self._made.put(out, self._made.get(first) or _Origin(name, first.detach()))
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
    return [
        leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim and _has_memory(leaf)
    ]


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


def _made_by(name: str, maker: str) -> str:
    return f"the labels of {name} are made in the step, by {maker}"


def _lost(
    name: str, args: tuple[Any, ...], each: Tensor, others: list[Tensor]
) -> list[bool | Tensor]:
    """Returns, without waiting for the device, whether entries of a loss are left out."""
    if name in _PRODUCTS:
        # A factor of zero may also be that of focal loss, where the loss itself is nothing.
        is_half = any(x.is_floating_point() and x.element_size() < 4 for x in (each, *others))
        least = 0.01 if is_half else 1e-5
        return [((other == 0) & (each.abs() > least)).any() for other in others]
    if name in _SUMS_OF_PRODUCTS:
        return [(other == 0).any() for other in others]
    if name in ("masked_fill", "masked_fill_"):
        return [other.bool().any() for other in others[:1]]
    if name == "masked_select":
        return [~other.all() for other in others]
    if name == "where" and len(args) > 1 and isinstance(args[0], Tensor):
        return [~args[0].all() if args[1] is each else args[0].any()]
    if name == "__getitem__" and args[0] is each:
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        return [_leaves_out(part) for part in index]
    return [True] if name in _PICKS and args[0] is each else []


def _leaves_out(part: Any) -> bool | Tensor:
    if isinstance(part, Tensor) and part.dtype == torch.bool:
        return ~part.all()
    return not (
        part is None or part is Ellipsis or (isinstance(part, slice) and part == slice(None))
    )


def _doubt_of_labels(each: Observation, batch: Any) -> str:
    """Returns why targets may be no classes of the samples of a batch, in words."""
    if each.origin is not None and not _is_data(each.origin.source, batch):
        return _made_by(each.loss, each.origin.name)
    target = _given(each)[1]
    entries = _entries(batch)
    if not target.ndim or not entries:
        return ""
    is_tiled = any(_is_tiled(target, entry) for entry in entries)
    if is_tiled and entry_of(batch, target) is None:  # else a mask that is all background
        return f"the targets of {each.loss} hold every label several times, as of views or crops"
    if each.is_binary and target.ndim == 3 and target.shape[1] == 1 < target.shape[2]:
        return f"the targets of {each.loss} are {_MULTI_LABEL}"
    if each.is_binary and target.numel() == len(target):
        size = target.numel()
        is_known = any(
            size <= len(entry) or (size == entry.numel() and entry.ndim > 2) for entry in entries
        )
        if not is_known:
            return f"the targets of {each.loss} are {_MULTI_LABEL}"
    return ""


def _is_data(source: Any, batch: Any) -> bool:
    if not isinstance(source, Tensor):
        return _is_within(source, batch)
    if not _has_memory(source):
        return False
    shared = any(_shares_memory(source, entry) for entry in _entries(batch))
    return shared or entry_of(batch, source) is not None


def _is_within(numbers: Any, batch: Any) -> bool:
    """Returns whether the very same list is in a batch."""
    if isinstance(batch, dict):
        batch = list(batch.values())
    if numbers is batch or not isinstance(batch, (list, tuple)):
        return numbers is batch
    return any(_is_within(numbers, part) for part in batch)


def _is_tiled(target: Tensor, entry: Tensor) -> bool:
    """Returns whether targets are several times an entry of the batch."""
    size = len(entry)
    if not size or target.shape[1:] != entry.shape[1:] or target.device != entry.device:
        return False
    times, rest = divmod(len(target), size)
    if rest or times < 2:
        return False
    copies = target.reshape(times, *entry.shape) == entry
    repeats = target.reshape(size, times, *entry.shape[1:]) == entry[:, None]
    return bool(copies.all() | repeats.all())


def _agreeing(found: Observation, named: Tensor) -> Observation | str:
    if not _is_other(found, named):
        return found
    return (
        f"what {found.loss} is given are other logits than outputs['logits'], as with a margin or "
        "a prior in the loss"
    )


def _is_other(each: Observation, named: Tensor) -> bool:
    """Returns whether logits by name say something else than those of the loss do."""
    given = _given(each)[0]
    if named.shape != given.shape or _is_same(given, named):
        return False
    named = named.detach().to(given.device, torch.float32)
    if each.is_binary:
        one, other = (each.logits[:, 1] - each.logits[:, 0]).float(), named.reshape(-1)
    else:
        classes = min(1, given.ndim - 1)
        one, other = (x - x.mean(classes, keepdim=True) for x in (given.float(), named))
    scale = (one * other).sum() / (other * other).sum().clamp(min=1e-30)
    strays = (one - scale * other).abs() > 0.02 * one.abs().max()
    return bool(strays.any() | (scale < 0))


def _is_alike(one: Observation, other: Observation) -> bool:
    """Returns whether two losses say the same by value, of logits that say anything."""
    if one.is_binary != other.is_binary or one.ignore_index != other.ignore_index:
        return False
    if one.logits.shape != other.logits.shape or one.target.shape != other.target.shape:
        return False
    if one.logits.device != other.logits.device or not torch.equal(one.target, other.target):
        return False
    classes = min(1, one.logits.ndim - 1)
    first, second = (each.logits.float().softmax(classes) for each in (one, other))
    is_empty = ((first - first.mean(classes, keepdim=True)).abs() < 1e-6).all()
    return torch.allclose(first, second, atol=1e-5, equal_nan=True) and not bool(is_empty)


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
    """Returns whether two tensors lie in one storage; sparse ones and the like have none."""
    return _has_memory(one) and _has_memory(other) and _start(one)[0] == _start(other)[0]


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
    wide = _at_least_float32(input)
    return _binary(torch.log1p(-wide), wide.log(), target, input, dense=dense)


def _binary(
    negative: Tensor, positive: Tensor, target: Tensor, given: Tensor, *, dense: bool
) -> Observation | str:
    # (N,), (N, 1), dense (N, 1, *), and (N, *) if that was squeezed; with more columns each is a
    # question of its own.
    is_column = positive.ndim < 2 or positive.shape[1] == 1
    if not is_column and not (dense and positive.ndim > 2):
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

_BINARY = frozenset(("binary_cross_entropy_with_logits", "binary_cross_entropy"))
_NOTED = frozenset((
    *(*_READERS, *_UNREADABLE, *_FACTORIES, *_WRAPPERS),
    *(*_ARGMAXES, *_SIGMOIDS, *_SQUEEZES, "kl_div"),
))
