"""Which layers of a network can be mixed, found out by running it once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.parameter import is_lazy

from lightning_mixup.containers import leaves_of, replace_entries
from lightning_mixup.errors import MixupTypeError, MixupValueError
from lightning_mixup.layers import UnfitOutputError, map_features, refusal_of
from lightning_mixup.names import is_time_first, named_layers

__all__ = ["suggest_layers"]


def suggest_layers(model: nn.Module, example_input: Any) -> list[tuple[str, tuple[int, ...]]]:
    """Lists the layers of a network that can be mixed, in the order in which they finish.

    These are the modules that run exactly once, whose output counts the samples in its first
    dimension, and that nothing of the input passes by: in the branch of a residual block,
    features would be mixed, and the shortcut beside them not.

    Args:
        model: The network, or a LightningModule with a ``forward``. It is run once, in
            evaluation mode; mode, buffers, gradients and the random state stay as they were.
        example_input: What ``forward`` takes: a tensor, a tuple of arguments or a dict of keyword
            arguments, with at least two samples. Never modified.

    Returns:
        The name of each layer, as it is called in ``model``, and the shape of its first output.
        For a part of a LightningModule, put that part's name before them: ``"net.stem"``.

    Raises:
        MixupTypeError: If the module has no ``forward``.
        MixupValueError: If the network puts out fewer than two samples.

    Example:
        >>> class Residual(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.stem, self.branch = nn.Linear(3, 8), nn.Linear(8, 8)
        ...         self.head = nn.Linear(8, 2)
        ...     def forward(self, x):
        ...         x = self.stem(x)
        ...         return self.head(x + self.branch(x))
        >>> suggest_layers(Residual(), torch.rand(4, 3))
        [('stem', (4, 8)), ('head', (4, 2))]
    """
    arguments, sources = _traced(_as_arguments(example_input))
    runs: dict[nn.Module, list[_Run]] = {}

    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        runs.setdefault(module, []).append(_Run(module, inputs, output))

    names = named_layers(model)
    with _evaluation(model), _hooks(names.values(), record):
        output = _run(model, *arguments["args"], **arguments["kwargs"])
    results = _tensors(output)
    batch_size = len(results[0]) if results else 0
    if batch_size < 2:
        raise MixupValueError(
            f"suggest_layers() ran {type(model).__name__} on {batch_size} samples. Give an "
            "example_input of two at least, so that it can tell which dimension counts them."
        )
    for run in itertools.chain(*runs.values()):
        if run.begins and run.can_be_mixed(batch_size):
            sources |= run.nodes
    ends = _nodes(results)

    def fits(module: nn.Module) -> bool:
        run, *again = runs[module]
        if again or is_time_first(module) or not run.can_be_mixed(batch_size):
            return False
        return not (run.nodes and _reaches(ends, sources, past=run.nodes))

    return [
        (name, runs[module][0].shape)
        for module in filter(fits, runs)
        for name in (name for name, named in names.items() if named is module)
    ]


class _Run:
    """One call of a module, by what it put out.

    ``begins`` says that autograd's graph begins here, as it does with an embedding.
    """

    def __init__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        tensors = _tensors(output)
        self.shape = tuple(tensors[0].shape) if tensors else ()
        self.nodes = _nodes(tensors)
        self.begins = not any(module.children()) and not _nodes(_tensors(inputs))
        self._sizes: set[int] = set()

        def look(x: Tensor) -> Tensor:
            self._sizes.add(-1 if refusal_of(x, len(x)) else len(x))
            return x

        with suppress(UnfitOutputError):
            map_features(module, output, look)

    def can_be_mixed(self, batch_size: int) -> bool:
        return self._sizes == {batch_size}


def _run(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    try:
        return model(*args, **kwargs)
    except NotImplementedError as error:
        inside = next((name for name, _ in model.named_children()), "net")
        raise MixupTypeError(
            f"{type(model).__name__} has no forward to run. Give the network inside it and what "
            f"that takes, suggest_layers(module.{inside}, its_input), and put the network's name "
            f"before those that are listed, '{inside}.…'."
        ) from error


def _as_arguments(example_input: Any) -> dict[str, Any]:
    if isinstance(example_input, tuple):
        return {"args": example_input, "kwargs": {}}
    if type(example_input) is dict:
        return {"args": (), "kwargs": example_input}
    return {"args": (example_input,), "kwargs": {}}


def _traced(arguments: dict[str, Any]) -> tuple[dict[str, Any], set[Node]]:
    """Returns a copy that autograd follows, and where it begins."""
    followed = {
        path: value.detach().requires_grad_().clone()
        for path, value in leaves_of(arguments)
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    return replace_entries(arguments, followed), _nodes(followed.values())


def _tensors(tree: Any) -> list[Tensor]:
    return [value for _, value in leaves_of(tree) if isinstance(value, Tensor) and value.ndim]


def _nodes(tensors: Iterable[Tensor]) -> set[Node]:
    return {x.grad_fn for x in tensors if x.grad_fn is not None}


def _reaches(ends: set[Node], sources: set[Node], *, past: set[Node]) -> bool:
    """Returns whether a way leads from the outputs back to the inputs, past some nodes."""
    seen, ahead = set(past), list(ends)
    while ahead:
        node = ahead.pop()
        if node in seen:
            continue
        if node in sources:
            return True
        seen.add(node)
        ahead += [before for before, _ in node.next_functions if before is not None]
    return False


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, with gradients: without them, torch's transformers take another way."""
    modules = list(model.modules())
    modes = [module.training for module in modules]
    buffers = [(module, {**module._buffers}) for module in modules]
    values = {buffer: buffer.clone() for buffer in model.buffers() if not is_lazy(buffer)}
    used = {x.get_device() for x in model.parameters() if x.is_cuda}
    try:
        with torch.enable_grad(), torch.random.fork_rng(used):
            model.eval()
            yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        for module, own in buffers:
            module._buffers.update(own)
        for buffer, value in values.items():
            buffer.data.copy_(value)


@contextmanager
def _hooks(modules: Iterable[nn.Module], hook: Any) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
