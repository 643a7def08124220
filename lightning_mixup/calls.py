"""One operation on mixed tensors: its arguments, its candidates and the weights of its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from torch import Tensor

from lightning_mixup.operations import name_of
from lightning_mixup.targets import Kind, MixedTarget, Usage, is_live, plain
from lightning_mixup.trees import map_tensors, tensors_in

__all__ = ["Call"]


@dataclass(slots=True)
class Call:
    """An operation with its arguments, mixed tensors among them."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    name: str = ""
    live: tuple[MixedTarget, ...] = ()
    kind: Kind = Kind.LABEL  # of the result

    def __post_init__(self) -> None:
        self.name = name_of(self.func)
        self.live = tuple(t for t in self.tensors() if is_live(t))

    @property
    def usage(self) -> Usage:
        """What became of these labels."""
        return self.live[0].usage

    @property
    def weights(self) -> Tensor:
        """The weights of the first mixed argument."""
        return self.live[0].weights

    @property
    def per_sample(self) -> bool:
        """Whether the samples have weights of their own."""
        return any(tensor.weights.ndim > 1 for tensor in self.live)

    def tensors(self) -> Iterator[Tensor]:
        """Yields all tensors among the arguments."""
        return tensors_in((self.args, self.kwargs))

    def others(self) -> Iterator[Tensor]:
        """Yields those that are not mixed."""
        return (tensor for tensor in self.tensors() if not is_live(tensor))

    def of(self, choose: Callable[[Tensor], Tensor]) -> Any:
        """Runs the operation on what is chosen for each tensor."""
        return self.func(*map_tensors(self.args, choose), **map_tensors(self.kwargs, choose))

    def of_candidate(self, k: int) -> Any:
        """Runs the operation on one candidate."""
        return self.of(lambda t: t.candidates[k] if is_live(t) else plain(t))

    def per_candidate(self) -> list[Any]:
        """Runs the operation on each candidate."""
        return [self.of_candidate(k) for k in range(len(self.weights))]

    def aligned_left(self, result: Tensor) -> Tensor:
        """Returns the weights of a result whose first dimensions are the target's."""
        sizes = self._weighted_sizes()
        if any(size > 1 for size in sizes[result.ndim :]):
            self.refuse("makes one value of samples that have different weights")
        return self._reshaped(sizes[: result.ndim] + [1] * (result.ndim - len(sizes)), result)

    def aligned_right(self, result: Tensor) -> Tensor:
        """Returns the weights of a result by the rules of broadcasting."""
        sizes = self._weighted_sizes()
        return self._reshaped([1] * (result.ndim - len(sizes)) + sizes, result)

    def _weighted_sizes(self) -> list[int]:
        return max((list(tensor.weights.shape[1:]) for tensor in self.live), key=len)

    def _reshaped(self, sizes: list[int], result: Tensor) -> Tensor:
        if not self.per_sample:
            return self.weights
        rows = len(self.weights)
        varied = [t.weights for t in self.live if t.weights.numel() > rows] or [self.weights]
        fits = all(size in (1, full) for size, full in zip(sizes, result.shape, strict=True))
        if not fits or len({weights.numel() for weights in varied}) > 1:
            self.refuse("combines samples that have different weights")
        return varied[0].reshape(rows, *sizes)

    def refuse(self, reason: str) -> NoReturn:
        """Raises, with the ways out.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError(
            f"{self.name}() {reason}, for which mixed labels have no rule. Name the module that "
            "computes the loss, MixupCallback(loss='criterion'): it is evaluated once per "
            "candidate label; or mix with one weight per batch, Mixup(alpha, per_sample=False); "
            "or pass targets=None if these labels need no mixing."
        )
