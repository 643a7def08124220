"""What the batches of the campaign are made of, and in which containers."""

import types
from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from typing import Any

import numpy as np
import torch

USUAL = {"x": "image", "x2": "features", "y": "label", "w": "weight", "ids": "id", "names": "path"}
ODD = {"x": "a", "x2": "b", "y": "c", "w": "d", "ids": "e", "names": "f"}
EXTRAS = {
    "ids": lambda size: torch.arange(size),
    "names": lambda size: [f"{i}.png" for i in range(size)],
    "user_id": lambda size: torch.arange(size) % 3,
    "none": lambda size: None,
    "meta": lambda size: {"source": "scan", "shape": (3, 4)},
    "number": lambda size: 3,
    "scalar": lambda size: torch.tensor(0.5),
    "array": lambda size: np.arange(size),
    "table": lambda size: torch.rand(5, 2),
}


@dataclass(frozen=True)
class Container:
    """A way to put the parts of a batch together, by their names."""

    build: Callable[[dict[str, Any], dict[str, str]], Any]
    path: Callable[[list[str], dict[str, str], str], tuple[Any, ...] | None]
    """Where a part is: of the parts' names, what they are called, and the part."""


def _named(kind):
    return Container(kind, lambda parts, names, part: (names.get(part, part),))


def _as_dict(parts, names):
    return {names.get(part, part): value for part, value in parts.items()}


def _in_order(kind):
    return Container(
        lambda parts, names: kind(parts.values()), lambda parts, names, part: (parts.index(part),)
    )


def _as_namedtuple(parts, names):
    return namedtuple("Batch", _as_dict(parts, names))(*parts.values())


def _as_dataclass(parts, names):
    return make_dataclass("Batch", _as_dict(parts, names))(*parts.values())


def _views_first(parts, names):
    return _views(parts), *[value for part, value in parts.items() if part not in ("x", "x2")]


def _views(parts):
    return tuple(value for part, value in parts.items() if part in ("x", "x2"))


def _path_by_views(parts, names, part):
    views = [name for name in parts if name in ("x", "x2")]
    others = [name for name in parts if name not in views]
    return (0, views.index(part)) if part in views else (1 + others.index(part),)


def _views_by_name(parts, names):
    views = {names[part]: parts[part] for part in ("x", "x2") if part in parts}
    rest = {part: value for part, value in parts.items() if part not in ("x", "x2")}
    return {"views": views, **_as_dict(rest, names)}


def _path_in_views(parts, names, part):
    name = names.get(part, part)
    return ("views", name) if part in ("x", "x2") else (name,)


def _pair_of_dict(parts, names):
    return _as_dict({part: value for part, value in parts.items() if part != "y"}, names), parts[
        "y"
    ]


def _path_in_pair(parts, names, part):
    return (1,) if part == "y" else (0, names.get(part, part))


def _as_samples(parts, names):
    """As of a collate function that does not stack."""
    x = parts["x"]
    can_be_listed = x.ndim and x.layout == torch.strided and not x.is_nested
    return list(x) if can_be_listed else x, parts["y"]


def _alone(parts, names):
    return parts["x"]


CONTAINERS = {
    "tuple": _in_order(tuple),
    "list": _in_order(list),
    "dict": _named(_as_dict),
    "ordered dict": _named(lambda parts, names: OrderedDict(_as_dict(parts, names))),
    "user dict": _named(lambda parts, names: UserDict(_as_dict(parts, names))),
    "namedtuple": _named(_as_namedtuple),
    "dataclass": _named(_as_dataclass),
    "object": _named(lambda parts, names: types.SimpleNamespace(**_as_dict(parts, names))),
    "tuple of views": Container(_views_first, _path_by_views),
    "dict of views": Container(_views_by_name, _path_in_views),
    "dict and label": Container(_pair_of_dict, _path_in_pair),
    "samples": Container(_as_samples, lambda parts, names, part: {"x": (0,), "y": (1,)}.get(part)),
    "alone": Container(_alone, lambda parts, names, part: () if part == "x" else None),
}


HELD = {"samples": ("x", "y"), "alone": ("x",)}
"""What is in a container that can't hold everything."""


def entry(batch, path):
    for key in path:
        by_name = isinstance(key, str) and (isinstance(batch, tuple) or not hasattr(batch, "keys"))
        batch = getattr(batch, key) if by_name else batch[key]
    return batch


@dataclass(frozen=True)
class Form:
    """What one batch is like."""

    size: int = 3
    label_size: int = 3
    shape: tuple[int, ...] = (2,)
    dtype: torch.dtype = torch.float32
    layout: str = "contiguous"
    second_view: bool = False
    extras: tuple[str, ...] = ()
    container: str = "tuple"
    names: str = "usual"

    @property
    def is_ordinary(self):
        """Whether anyone would say what is mixed, at the input, without being told."""
        return (
            self.size == self.label_size > 0
            and self.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
            and self.layout in ("contiguous", "transposed", "expanded", "channels_last")
            and not self.second_view
            and not self.extras
            and self.container not in ("alone", "samples", "dict of views")
            and (self.names == "usual" or self.container in ("tuple", "list"))
        )

    def parts(self, task, seed):
        """Makes the entries of a batch, by the parts that they play."""
        generator = torch.Generator().manual_seed(seed)
        parts = {"x": self._input(generator)}
        if self.second_view:
            parts["x2"] = self._input(generator)
        parts["y"] = task.label(self.label_size, generator)
        if task.is_weighted:
            parts["w"] = torch.rand(self.label_size, generator=generator, dtype=torch.float64)
        parts |= {extra: EXTRAS[extra](self.size) for extra in self.extras}
        return {part: parts[part] for part in HELD.get(self.container, parts) if part in parts}

    def _input(self, generator):
        shape = (self.size, *self.shape)
        x = torch.randn(shape, generator=generator, dtype=torch.float64) * 2
        if self.dtype.is_complex:
            x = torch.complex(x, x.flip(0))
        elif not self.dtype.is_floating_point:
            x = x.abs()
        return LAYOUTS[self.layout](x.to(self.dtype))

    def batch(self, parts):
        return CONTAINERS[self.container].build(parts, self._names)

    def read(self, batch, parts):
        """Returns the entries of a batch, as a user's step takes them out."""
        paths = {part: self.path(part, parts) for part in parts}
        return {part: entry(batch, path) for part, path in paths.items() if path is not None}

    def path(self, part, parts):
        return CONTAINERS[self.container].path(list(parts), self._names, part)

    def paths(self, part, parts):
        """Returns the ways to a part, if there is any; in a namedtuple it has a place as well."""
        if part not in parts:
            return []
        by_place = [(list(parts).index(part),)] * (self.container == "namedtuple")
        return [self.path(part, parts), *by_place]

    def is_built_like(self, other):
        mine, theirs = (
            (form.container, form.names, form.second_view, form.extras) for form in (self, other)
        )
        return mine == theirs

    @property
    def _names(self):
        return ODD if self.names == "odd" else USUAL


def _transposed(x):
    return x.transpose(0, -1).contiguous().transpose(0, -1)


def _real(x):
    return x.real.float() if x.is_complex() else x.float()


def _infinite(x):
    return x.index_fill(0, torch.tensor([0]), torch.inf) if len(x) else x


LAYOUTS = {
    "contiguous": lambda x: x,
    "transposed": _transposed,
    "expanded": lambda x: x[:1].expand(x.shape),
    "channels_last": lambda x: (
        x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
    ),
    "conjugate": lambda x: x.conj(),
    "sparse": lambda x: _real(x).to_sparse(),
    "rows": lambda x: _real(x).to_sparse_csr() if x.ndim == 2 else _real(x).to_sparse(),
    "mkldnn": lambda x: _real(x).to_mkldnn(),
    "quantized": lambda x: torch.quantize_per_tensor(_real(x), 0.1, 0, torch.qint8),
    "nested": lambda x: (
        torch.nested.nested_tensor(list(_real(x))) if x.numel() and x.ndim > 1 else x
    ),
    "infinite": lambda x: _infinite(_real(x)),
    "number": lambda x: _real(x).sum(),
}


def numbers_of(x):
    """Returns doubles of shape (B, features), whatever the user's input is."""
    if isinstance(x, list):
        x = torch.stack(x)
    if x.is_nested:
        x = torch.nested.to_padded_tensor(x, 0.0)
    elif x.is_quantized:
        x = x.dequantize()
    elif x.layout != torch.strided:
        x = x.to_dense()
    if x.is_complex():
        x = torch.view_as_real(x.resolve_conj())
    x = x.to(torch.float64)
    return x.reshape(len(x), x.shape[1:].numel()) if x.ndim else x.reshape(1, 1)
