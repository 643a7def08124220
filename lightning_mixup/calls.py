"""One operation on mixed tensors: its arguments, its candidates and the weights of its result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from lightning_mixup.errors import MixupRuntimeError
from lightning_mixup.operations import name_of, same_layout
from lightning_mixup.targets import (
    Kind,
    MixedTarget,
    Usage,
    candidates_of,
    is_live,
    is_lost,
    make_mixed,
    plain,
    reading,
    weighted_sum,
)
from lightning_mixup.trees import map_tensors, map_together, tensors_in

__all__ = ["Call", "NoRuleError"]


class NoRuleError(MixupRuntimeError):
    """An operation that no rule follows, of which only the dominant candidate can be read."""


class Call:
    """An operation with its arguments, mixed tensors among them.

    Attributes:
        func: The operation.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        name: Its name.
        tensors: All tensors among the arguments, in order.
        live: Those that are mixed.
        alone: Whether there is one of these, as in most calls: it differs from no other.
        usage: What became of the labels of the first of them.
        weights: The weights of the first of them.
        kind: What the result will be.
    """

    __slots__ = (
        "alone",
        "args",
        "func",
        "kind",
        "kwargs",
        "live",
        "name",
        "tensors",
        "usage",
        "weights",
    )

    def __init__(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        kind: Kind = Kind.LABEL,
    ) -> None:
        self.func, self.args, self.kwargs, self.kind = func, args, kwargs, kind
        self.name = name_of(func)
        self.tensors = tensors_in(args, kwargs)
        # By `is_live`, written out, as each operation on labels comes by here.
        self.live = [x for x in self.tensors if isinstance(x, MixedTarget) and not x.usage.ended]
        self.alone = len(self.live) == 1
        if self.live:
            self.usage: Usage = self.live[0].usage
            self.weights: Tensor = self.live[0].weights

    @property
    def per_sample(self) -> bool:
        """Whether the samples among the arguments have weights of their own."""
        if self.alone:
            return self.weights.ndim > 1
        return any(tensor.weights.ndim > 1 for tensor in self.live)

    @property
    def same_mix(self) -> bool:
        """Whether all mixed arguments belong to one mix."""
        return self.alone or all(tensor.usage is self.usage for tensor in self.live)

    @property
    def differ_in_number(self) -> bool:
        """Whether some mixed arguments have more candidates than others."""
        return not self.alone and len({tensor.weights.shape[0] for tensor in self.live}) > 1

    @property
    def same_samples(self) -> bool:
        """Whether all mixed arguments belong to the same samples in the same order."""
        if self.alone:
            return True
        first, *others = (tensor.weights for tensor in self.live)
        return all(other is first or same_layout(other, first) for other in others)

    @property
    def only_numbers(self) -> bool:
        """Whether all mixed arguments are float targets."""
        if self.alone:
            return self.live[0].kind is Kind.NUMBER
        return all(tensor.kind is Kind.NUMBER for tensor in self.live)

    @property
    def settled(self) -> bool:
        """Whether all mixed arguments are merged already."""
        return self.weights.shape[0] == 1

    @property
    def only_totals(self) -> bool:
        """Whether all mixed arguments are single losses or counts of matches."""
        totals = (Kind.LOSS, Kind.VERDICT)
        return all(tensor.kind in totals and tensor.ndim == 0 for tensor in self.live)

    @property
    def with_numbers(self) -> bool:
        """Whether all that is not mixed is a number, or a tensor of one."""
        return all(tensor.ndim == 0 or is_live(tensor) for tensor in self.tensors)

    def of(self, choose: Callable[[Tensor], Tensor]) -> Any:
        """Runs the operation on what is chosen for each tensor."""
        return self.func(*map_tensors(self.args, choose), **map_tensors(self.kwargs, choose))

    def of_candidate(self, k: int) -> Any:
        """Runs the operation on one candidate."""
        return self.of(lambda t: t.candidates[k] if is_live(t) else plain(t))

    def candidates_of(self, tensor: Tensor) -> Sequence[Tensor]:
        """Returns an argument's candidates; a plain tensor is the same for all."""
        if is_live(tensor):
            return candidates_of(tensor)
        return [plain(tensor)] * self.weights.shape[0]

    def _of_another(self, k: int) -> Any:
        try:
            return self.of_candidate(k)
        except (RuntimeError, IndexError, ValueError) as error:
            return self.refuse(f"works for the dominant label, but not for another ({error})")

    def rows(self) -> list[Any]:
        """Runs the operation on each candidate, and first on an own value where there is one."""
        rows = [self.of_candidate(0), *map(self._of_another, range(1, self.weights.shape[0]))]
        if self.kind is not Kind.NUMBER and not self.settled:
            return rows
        own = self.of(plain)
        if self.settled:
            rows = [map_together(_in_precision_of, (own, rows[0]))]
        return rows if self.kind is Kind.LOSS else [own, *rows]

    def mixed(self, rows: Sequence[Any], weights: Tensor) -> Any:
        """Makes one mixed result of what came of the candidates; numbers and names pass.

        The own data of a loss of the whole batch is the merged one, which is what everybody reads.
        """
        if not isinstance(rows[0], Tensor):
            return rows[0]
        if rows[0].layout is not torch.strided:
            self.refuse("makes a sparse tensor")
        if self.kind is Kind.LOSS and rows[0].ndim == 0:
            if rows[0].is_floating_point() or rows[0].is_complex():
                rows = [weighted_sum(rows, self.usage.shares_of(weights)), *rows]
            elif self.only_totals:
                rows = [self.of(reading), *rows]
        return make_mixed(rows, weights, self.kind, self.usage)

    def unruled(self) -> Any:
        """Runs the operation on what is read; labels of that must meet no gradient."""
        storages = {tensor.untyped_storage()._cdata for tensor in self.live}

        def lose(tensor: Tensor) -> Tensor:
            if tensor.layout is not torch.strided:
                self.refuse("makes a sparse tensor")
            is_number = self.only_numbers and tensor.is_floating_point()
            kind = Kind.NUMBER if is_number else Kind.UNRULED
            made = make_mixed([tensor], self.weights, kind, self.usage)
            made.lost_at = self.lost_at
            if tensor.untyped_storage()._cdata not in storages:
                self.usage.keep(made)
            return made

        return map_tensors(self.of(reading), lose)

    @property
    def lost_at(self) -> str:
        """The operation without a rule: this one, if it is given nothing of another."""
        return next((tensor.lost_at for tensor in self.live if is_lost(tensor)), self.name)

    def check_ruled(self) -> None:
        """Refuses what came of an operation without a rule."""
        if any(map(is_lost, self.live)):
            self.refuse(f"is given what {self.lost_at}() made of them")

    def aligned_left(self, result: Tensor) -> Tensor:
        """Returns the weights of a result whose first dimensions are the target's."""

        def align(sizes: list[int]) -> list[int]:
            if any(size > 1 for size in sizes[result.ndim :]):
                self.refuse("makes one value of samples that have different weights")
            return sizes[: result.ndim] + [1] * (result.ndim - len(sizes))

        return self._aligned(align, result)

    def aligned_right(self, result: Tensor) -> Tensor:
        """Returns the weights of a result by the rules of broadcasting."""
        return self._aligned(lambda sizes: [1] * (result.ndim - len(sizes)) + sizes, result)

    def _aligned(self, align: Callable[[list[int]], list[int]], result: Tensor) -> Tensor:
        if not self.per_sample:
            return self.weights
        first, *others = (align(list(tensor.weights.shape[1:])) for tensor in self.live)
        fits = all(size in (1, full) for size, full in zip(first, result.shape, strict=False))
        alike = all(other == first for other in others) and self.same_samples
        if not fits or not alike or len(first) > result.ndim:
            self.refuse("combines samples that have different weights")
        weights = self.weights
        kept = list(weights.shape[1:]) == first
        return weights if kept else weights.reshape(len(weights), *first)

    def refuse(self, reason: str) -> NoReturn:
        """Raises, with the ways out.

        Raises:
            NoRuleError: Always.
        """
        per_batch = ""
        if self.live and self.usage.per_sample:
            per_batch = "With one weight per batch, per_sample=False, nearly all have one. "
        raise NoRuleError(
            f"Mixed labels have no rule for {self.name}(): it {reason}. {per_batch}Name the "
            "submodule that computes the loss, MixupCallback(loss='criterion'), and it is "
            "evaluated once per candidate label; or pass targets=None if these labels need no "
            "mixing."
        )


def _in_precision_of(own: Any, row: Any) -> Any:
    """A merged count is a double, which must not make one of the loss that it divides."""
    return row.to(own.dtype) if isinstance(own, Tensor) and own.is_floating_point() else row
