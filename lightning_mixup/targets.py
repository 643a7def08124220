"""Labels of a mixed batch, for losses and metrics that know nothing of mixing.

One rule: **every operation runs once per candidate and its result stays mixed, with the same
weights. The candidates merge, weighted, when the step returns its loss.** What compares a label
with predictions, counts or prints it reads the dominant candidate. So a loss becomes exactly the
mixup loss, also where it is nonlinear in the label or a function of the whole batch, and a train
metric is the one against the dominant label. Nobody is asked for the number of classes. With
weights per sample, the candidates merge at the first sum over the batch.

Here is the tensor; what each operation does with it stands in `rules.py`. Candidates are kept as
a tuple, the dominant one first, and not stacked: then a view of a mixed tensor is a view of each
candidate, so that ``y.view(-1)[mask] = -100`` reaches ``y``, and candidates may differ in length,
as in ``logits[y != -100]``.

Notation: K candidates, B samples, ``*`` any further dimensions.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from lightning_mixup.errors import MixupValueError
from lightning_mixup.trees import map_tensors, tensors_in

if TYPE_CHECKING:
    from typing_extensions import TypeIs

__all__ = [
    "Kind",
    "MixedTarget",
    "Usage",
    "as_number",
    "candidates_of",
    "dominant",
    "has_own_value",
    "is_live",
    "is_lost",
    "make_mixed",
    "make_target",
    "meet_gradient",
    "merge",
    "plain",
    "reading",
    "release",
    "turn_into_mixed",
    "weighted_sum",
]


class Kind(Enum):
    """What a mixed tensor holds, which decides how it is read."""

    LABEL = "class labels and what follows from them alone; reads as the dominant candidate"
    NUMBER = "float targets; reads, and enters a loss, as the interpolated value"
    VERDICT = "labels compared with predictions; reduced as the dominant candidate's"
    LOSS = "labels that met a gradient or a loss; reads as the weighted sum"
    UNRULED = "what came of an operation without a rule; reads as the dominant candidate"


class Usage:
    """What became of one mix's labels, shared by all that was made of them.

    Attributes:
        mixes: Whether a target was made of any; a recipe may leave labels as they are.
        touched: Whether any operation was given mixed labels.
        met_gradient: Whether mixed labels met a gradient.
        reordered: Whether mixed labels were put into another order.
        read_as: How labels that differ were read as plain numbers, in which file and line.
        ended: Whether the step is over.
        kept: What is to be plain when it is: single losses, tensors that a write made mixed, and
            those in memory of their own of which only that is known.
        per_sample: Whether every sample has weights of its own.
        shares: The weights, the largest first, where they are the same for all samples and known
            on the host, which spares the device to look them up.
        ranking: The weights, the largest first, and the order that sorted them.
        moved: Weights of copies in another order, by what was copied and how.
    """

    __slots__ = (
        "ended",
        "kept",
        "met_gradient",
        "mixes",
        "moved",
        "per_sample",
        "ranking",
        "read_as",
        "reordered",
        "shares",
        "touched",
    )

    def __init__(self, *, per_sample: bool = False) -> None:
        self.mixes = False
        self.touched = False
        self.reordered = False
        self.met_gradient = False
        self.read_as: tuple[str, str, int] | None = None
        self.ended = False
        self.kept: list[weakref.ref[MixedTarget]] = []
        self.per_sample = per_sample
        self.shares: tuple[float, ...] | None = None
        self.ranking: tuple[Tensor, Tensor] | None = None
        self.moved: dict[Any, tuple[Any, list[Tensor]]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Starts afresh in a copy; targets that shared it share the new one."""
        return functools.partial(Usage, per_sample=self.per_sample), ()

    def rank(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Sorts the weights of the first target; the others of a mix have the same."""
        if self.ranking is None:
            order = _order_of(weights)
            self.ranking = weights.take_along_dim(order, dim=0), order
            self.per_sample = weights.ndim > 1
        return self.ranking

    def shares_of(self, tensor_weights: Tensor) -> Tensor | tuple[float, ...]:
        """Returns weights as what is quickest to multiply by."""
        # Compiled code may hold no numbers, which change from step to step.
        known = None if torch.compiler.is_dynamo_compiling() else self.shares
        return tensor_weights if known is None else known

    def keep(self, tensor: MixedTarget) -> None:
        """Remembers a tensor that is to be plain when the step is over."""
        self.kept.append(weakref.ref(tensor))

    def keeps(self, tensor: Tensor) -> bool:
        """Returns whether a tensor's data is its own, and no candidate's."""
        return any(reference() is tensor for reference in self.kept)

    def end(self) -> None:
        """Makes plain again what was written to; what else is kept reads as a plain tensor."""
        self.ended = True
        with torch._C.DisableTorchFunctionSubclass():
            for reference in self.kept:
                tensor = reference()
                if isinstance(tensor, MixedTarget):
                    release(tensor)
        self.kept.clear()
        self.moved.clear()


class MixedTarget(Tensor):
    r"""K candidate targets and their weights, which a loss takes for one target.

    A function of the target that ends in a sum or mean over samples gives

    .. math:: \sum_k w_k \, L(y^{(k)})

    with the weights inside the sum where each sample has its own. The tensor's own data is the
    dominant candidate; for targets that are quantities (regression, soft labels) it is the
    interpolated value :math:`\sum_k w_k y^{(k)}`, which is also what a loss is given.

    Reference:
        | mixup: Beyond Empirical Risk Minimization (Zhang et al., 2018)
        | https://arxiv.org/abs/1710.09412

    Args:
        candidates: K targets, each of shape (B, \*), of one dtype and device. Never modified.
        weights: The share of each candidate, of shape (K,), or (K, B) with weights per sample.
            They sum to one over K.
        usage: Shared by the targets of one mix, which have the same weights; by default a new one.

    Raises:
        MixupValueError: If the candidates differ in shape or dtype, or don't fit the weights.

    Example:
        >>> weights = torch.tensor([0.75, 0.25])
        >>> target = MixedTarget([torch.tensor([0, 2]), torch.tensor([2, 0])], weights)
        >>> log_probs = torch.tensor([[-1.0, -2.0, -3.0], [-3.0, -2.0, -1.0]])
        >>> torch.nn.functional.nll_loss(log_probs, target)  # 0.75 * 1 + 0.25 * 3
        tensor(1.5000)
        >>> (log_probs.argmax(dim=1) == target).float().mean()  # against the dominant labels
        tensor(1.)
    """

    weights: Tensor  # (K,), or (K, b, ...) where b is B, or 1 along dimensions without weights
    kind: Kind
    usage: Usage

    # All candidates, or all but the dominant one where that is the tensor's own data: an alias of
    # the tensor is not kept, as torch would never free the cycle; so they can't differ, either.
    others: tuple[Tensor, ...]

    # The plain tensor that this one is a view of, so that torch.compile sees plain ones alone.
    source: Tensor | None

    lost_at: str  # the operation that had no rule, if only the own data is known

    rule: ClassVar[Callable[..., Any]]  # `rules.py`, which builds upon this class, puts it here

    def __new__(
        cls, candidates: Sequence[Tensor], weights: Tensor, usage: Usage | None = None
    ) -> MixedTarget:
        """Sorts the candidates by weight."""
        _check_candidates(candidates, weights)
        usage = Usage() if usage is None else usage
        weights, order = usage.rank(weights)
        ndim = candidates[0].ndim
        order = order.reshape(*order.shape, *[1] * (ndim + 1 - order.ndim))
        stacked = torch.stack(tuple(candidates))
        # Each in memory of its own, as a metric may keep the dominant one.
        rows = [stacked.gather(0, which.expand_as(stacked[:1]))[0] for which in order]
        if weights.ndim == 2:
            weights = weights.reshape(*weights.shape, *[1] * (ndim - 1))
        return make_target(rows, weights, usage)

    @property
    def candidates(self) -> tuple[Tensor, ...]:
        r"""The targets, each of shape (B, \*), the dominant one first."""
        with torch._C.DisableTorchFunctionSubclass():
            return candidates_of(self)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Runs an operation by the rule."""
        if func in _DIFFERENTIATE:  # which may run a checkpointed loss again, by the rule
            with torch.enable_grad():
                args, kwargs = merge((args, kwargs or {}))
            return func(*args, **kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            return MixedTarget.rule(func, args, kwargs or {})

    def as_subclass(self, cls: type) -> Any:
        """Stays mixed, as torch makes a subclass without asking."""
        return self if is_live(self) else super().as_subclass(cls)

    def set_(self, *args: Any, **kwargs: Any) -> Any:
        """Is refused like ``y.data = ...``, as torch would not ask here, either."""
        return MixedTarget.__torch_function__(Tensor.set_, (MixedTarget,), (self, *args), kwargs)

    @property
    def real(self) -> Tensor:  # type: ignore[override]
        """Labels are real; that nobody can set it is the point."""
        return torch.real(self) if self.is_complex() else self

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        """Copies the candidates, too."""
        with torch._C.DisableTorchFunctionSubclass():
            if self.usage.ended:
                copied = reading(self).clone()
            else:
                rows = [row.clone() for row in _rows(self)]
                copied = make_mixed(rows, self.weights, self.kind, self.usage)
        memo[id(self)] = copied
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickles the candidates, too."""
        with torch._C.DisableTorchFunctionSubclass():
            if self.usage.ended:
                return reading(self).__reduce_ex__(protocol)  # type: ignore[no-untyped-call]
            return make_mixed, (_rows(self), self.weights, self.kind, self.usage)


_DIFFERENTIATE = (Tensor.backward, torch.autograd.backward, torch.autograd.grad)


def merge(tree: Any) -> Any:
    """Replaces every mixed tensor in nested lists, tuples and dicts by a plain one.

    Class labels become the dominant candidate, float targets the interpolated value, and what
    met a gradient the weighted sum.

    Example:
        >>> target = MixedTarget([torch.tensor([0]), torch.tensor([1])], torch.tensor([0.4, 0.6]))
        >>> merge({"label": target})
        {'label': tensor([1])}
    """
    is_one = isinstance(tree, Tensor)  # as most steps return
    if not is_one and not any(isinstance(tensor, MixedTarget) for tensor in tensors_in(tree)):
        return tree
    with torch._C.DisableTorchFunctionSubclass():
        return reading(tree) if is_one else map_tensors(tree, reading)


def make_target(rows: Sequence[Tensor], weights: Tensor, usage: Usage) -> MixedTarget:
    """Makes a target of candidates that are sorted by weight, each in memory of its own."""
    usage.mixes = True
    if not _is_quantity(rows[0]):
        return make_mixed(rows, weights, Kind.LABEL, usage)
    parts = [row.where(share != 0, 0) for row, share in zip(rows, weights, strict=True)]
    own = weighted_sum(parts, usage.shares_of(weights))
    return make_mixed([own, *rows], weights, Kind.NUMBER, usage)


def make_mixed(rows: Sequence[Tensor], weights: Tensor, kind: Kind, usage: Usage) -> MixedTarget:
    """Makes a mixed tensor of its candidates, or of a value of its own and its candidates."""
    if kind is Kind.NUMBER and not _is_quantity(rows[0]):
        rows, kind = rows[1:], Kind.LABEL
    first, *others = rows
    made = first.as_subclass(MixedTarget)
    made.source, made.others, made.weights = first, tuple(others), weights
    made.kind, made.usage = kind, usage
    if first.ndim == 0 and not torch.compiler.is_dynamo_compiling():
        usage.keep(made)  # as a user may keep a running loss
    return made


def turn_into_mixed(
    tensor: Tensor, others: Sequence[Tensor], weights: Tensor, kind: Kind, usage: Usage
) -> MixedTarget:
    """Makes a mixed tensor of a plain one, which itself is the dominant candidate."""
    tensor.__class__ = MixedTarget  # as torch's own UninitializedParameter does
    assert isinstance(tensor, MixedTarget)  # noqa: S101  it is now
    tensor.source, tensor.others, tensor.weights = None, tuple(others), weights
    tensor.kind, tensor.usage = kind, usage
    usage.keep(tensor)
    return tensor


def _is_quantity(tensor: Tensor) -> bool:
    """Returns whether a tensor's type is that of quantities, which can be interpolated."""
    return tensor.is_floating_point() or tensor.is_complex()


def _adds_up(tensor: MixedTarget) -> bool:
    """Returns whether candidates have a weighted sum; what labels select may differ in size."""
    return _is_quantity(tensor) and all(row.shape == tensor.shape for row in tensor.others)


def release(tensor: MixedTarget) -> None:
    """Makes a mixed tensor itself plain, the reverse of `turn_into_mixed`."""
    value = reading(tensor)
    differs = tensor.kind is Kind.LOSS and not has_own_value(tensor)
    tensor.__class__ = Tensor  # type: ignore[assignment]
    for name in MixedTarget.__annotations__:
        tensor.__dict__.pop(name, None)
    if differs:
        with torch.no_grad():
            tensor.copy_(value)


def weighted_sum(rows: Sequence[Tensor], weights: Tensor | Sequence[float]) -> Tensor:
    """Returns the sum of the candidates' values by weight, in their dtype."""
    if isinstance(weights, Tensor):
        shares = weights.to(rows[0]).unbind()
        total = rows[0] * shares[0]
        for row, share in zip(rows[1:], shares[1:], strict=True):
            total = total + row * share
        return total
    total = rows[0] * weights[0]
    for row, number in zip(rows[1:], weights[1:], strict=True):
        total = total.add(row, alpha=number)
    return total


def is_live(value: Any) -> TypeIs[MixedTarget]:
    """Returns whether something is a mixed tensor of a step that still runs."""
    return isinstance(value, MixedTarget) and not value.usage.ended


def has_own_value(tensor: MixedTarget) -> bool:
    """Returns whether a tensor's own data is what its candidates come to, and none of them."""
    return tensor.kind is Kind.NUMBER or len(tensor.others) == tensor.weights.shape[0]


def meet_gradient(tree: Any) -> None:
    """Counts float targets as used by what may be their loss."""
    for tensor in tensors_in(tree):
        if is_live(tensor) and tensor.kind is Kind.NUMBER:
            tensor.usage.met_gradient |= torch.is_grad_enabled()


def candidates_of(tensor: MixedTarget) -> tuple[Tensor, ...]:
    """Returns the candidates; called with dispatch to subclasses switched off."""
    return tensor.others if has_own_value(tensor) else (plain(tensor), *tensor.others)


def is_lost(tensor: MixedTarget) -> bool:
    """Returns whether only the own data is known, as an operation without a rule leaves it."""
    return tensor.kind is Kind.UNRULED or (tensor.kind is Kind.NUMBER and not tensor.others)


def plain(tensor: Tensor) -> Tensor:
    """Returns a tensor's own data; called with dispatch to subclasses switched off."""
    if not isinstance(tensor, MixedTarget):
        return tensor
    if tensor.source is not None:
        return tensor.source
    if torch.compiler.is_dynamo_compiling():
        torch._dynamo.graph_break()
    return tensor[...]


def reading(tensor: Tensor) -> Tensor:
    """Returns the plain tensor that a print, a count or a metric is given."""
    if not isinstance(tensor, MixedTarget):
        return tensor
    if tensor.kind is Kind.LOSS and not has_own_value(tensor) and _adds_up(tensor):
        return weighted_sum(tensor.candidates, tensor.usage.shares_of(tensor.weights))
    source = tensor.source
    if source is not None and source.requires_grad == tensor.requires_grad:
        return source
    return tensor[...]  # Whose gradient is that of the tensor itself, as behind a checkpoint.


def dominant(tensor: Tensor) -> Tensor:
    """Returns the plain tensor that a metric of classes is given, also of float targets."""
    if is_live(tensor) and tensor.kind is Kind.NUMBER and not is_lost(tensor):
        return tensor.others[0][...]
    return reading(tensor)


def as_number(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns the only candidate of what is merged already, and anything else as it is."""
    if not is_live(tensor) or tensor.weights.shape[0] > 1:
        return tensor
    return tensor.candidates[0].to(dtype)


def _order_of(weights: Tensor) -> Tensor:
    """Returns the order that puts the largest weights first; equal ones stay in theirs."""
    if len(weights) != 2:
        return weights.argsort(dim=0, descending=True, stable=True)
    swapped = weights[1] > weights[0]  # many times as quick as to sort each sample's two
    return torch.stack((swapped, ~swapped)).long()


def _rows(tensor: MixedTarget) -> list[Tensor]:
    return [plain(tensor), *tensor.others]


def _check_candidates(candidates: Sequence[Tensor], weights: Tensor) -> None:
    forms = {f"{str(c.dtype).removeprefix('torch.')} {tuple(c.shape)}" for c in candidates}
    if len(forms) != 1:
        raise MixupValueError(
            f"MixedTarget got candidates of the forms {sorted(forms)}, but they must be alike. "
            "Give K targets of one batch, as in MixedTarget([y, y[partner]], weights)."
        )
    shape = tuple(candidates[0].shape)
    expected = [(len(candidates),), (len(candidates), *shape[:1])]
    if tuple(weights.shape) not in expected or not weights.is_floating_point():
        raise MixupValueError(
            f"MixedTarget got weights of shape {tuple(weights.shape)} and dtype {weights.dtype} "
            f"for {len(candidates)} candidates of shape {shape}. Give floats of shape "
            f"{expected[0]}, or {expected[1]} with weights per sample."
        )
