"""Families of torch operations, and what each does to weights that travel with the samples.

Nothing here knows of mixing: names are sorted by what they do to a batch, and a few functions
follow one tensor's weights through views, copies and reductions. Weights of a tensor of shape
(s_1, ..., s_n) have the shape (K, w_1, ..., w_n) where w_i is s_i along the dimensions on which
they vary and 1 along the others. The weights of a view are a view of the weights, so where they
lie in memory tells whose they are.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "BATCH_SUMS",
    "CASTS",
    "CHANGES_FORM",
    "COMPARISONS",
    "COPIES",
    "COUNTS",
    "ELEMENTWISE",
    "FINITENESS",
    "JOINS",
    "LOOKUPS",
    "NUMBERS",
    "PRODUCTS",
    "READS",
    "REDUCTIONS",
    "RESHAPES",
    "SCATTERS",
    "SIZES",
    "STRUCTURE",
    "TALLIES",
    "joined_dim",
    "layout",
    "looked_up_dim",
    "name_of",
    "names",
    "reduced_dims",
    "signature_of",
    "weights_after",
    "writes_elementwise",
    "writes_in_place",
]


def names(text: str) -> frozenset[str]:
    """Returns the words of a text."""
    return frozenset(text.split())


# Give a tensor the form of another.
CASTS = names("to type_as view_as reshape_as expand_as")

# Same shape, same order of samples: weights stay as they are.
SAME_SHAPE = names("""
    clone contiguous detach data to type type_as cpu cuda long int short byte char bool float
    double half bfloat16 pin_memory conj resolve_conj
""")

RESHAPES = names("view reshape flatten unflatten view_as reshape_as ravel")

_VIEWS = names("""
    squeeze unsqueeze transpose permute movedim moveaxis swapaxes swapdims t T mT H mH adjoint
    narrow select expand expand_as broadcast_to chunk split tensor_split hsplit vsplit dsplit
    split_with_sizes unbind diagonal unfold atleast_1d atleast_2d atleast_3d
""")

# Copies whose last dimensions come each from one of the source.
_REARRANGED = names("index_select flip fliplr flipud repeat tile")

# What may copy entries in another order.
COPIES = _REARRANGED | names("__getitem__ masked_select take roll repeat_interleave __reversed__")

# What moves entries and makes no new ones.
STRUCTURE = SAME_SHAPE | RESHAPES | _VIEWS | COPIES

JOINS = names("cat concat concatenate stack")

COMPARISONS = names("""
    eq ne gt lt ge le __eq__ __ne__ __gt__ __lt__ __ge__ __le__ greater less greater_equal
    less_equal not_equal isclose
""")

ELEMENTWISE = COMPARISONS | names("""
    add sub subtract rsub mul multiply div divide true_divide floor_divide remainder fmod pow
    float_power __add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __rtruediv__ __div__
    __rdiv__ __floordiv__ __rfloordiv__ __mod__ __rmod__ __pow__ __rpow__ __neg__ __pos__ __abs__
    __and__ __rand__ __or__ __ror__ __xor__ __rxor__ __invert__ logical_and logical_or logical_not
    logical_xor bitwise_and bitwise_or bitwise_not bitwise_xor neg negative positive abs absolute
    sign sgn exp exp2 expm1 log log2 log10 log1p logaddexp xlogy square sqrt rsqrt reciprocal round
    floor ceil trunc frac sin cos tan asin acos atan arcsin arccos arctan sinh cosh tanh erf erfc
    sigmoid logit logsigmoid relu relu6 leaky_relu elu selu gelu silu softplus hardtanh hardsigmoid
    clamp clip clamp_min clamp_max maximum minimum fmax fmin where lerp addcmul addcdiv hypot atan2
    masked_fill nan_to_num isnan isinf isfinite isposinf isneginf heaviside
""")

# Whether a number is one.
FINITENESS = names("isnan isinf isfinite isposinf isneginf")

# Linear in the entries, so candidates may be merged before.
BATCH_SUMS = names("sum mean nansum nanmean")

# Of integers, these say how many.
COUNTS = BATCH_SUMS | names("any all count_nonzero")

REDUCTIONS = COUNTS | names("""
    amax amin max min prod logsumexp norm std var argmax argmin median
    softmax log_softmax softmin cumsum cumprod normalize vector_norm
""")

# What asks for a fact, a count or a printout, or makes an unrelated tensor of the same form.
READS = names("""
    __get__ __len__ __bool__ __int__ __float__ __index__ __contains__ __repr__ __format__
    __array__ __dlpack__ __dlpack_device__ __dir__ item tolist numpy shape size dim ndimension
    numel nelement stride storage_offset element_size data_ptr storage untyped_storage
    is_floating_point is_complex is_signed is_contiguous is_pinned is_shared is_nonzero
    is_same_size is_set_to is_inference is_conj is_neg get_device dim_order result_type
    can_cast equal allclose register_hook retain_grad requires_grad_ zeros_like ones_like
    empty_like full_like rand_like randn_like randint_like new_zeros new_ones new_empty
    new_full new_tensor new
""")

# What turns entries into numbers or arrays that no rule can follow.
NUMBERS = names("""
    __bool__ __int__ __float__ __index__ __contains__ __array__ __dlpack__ item tolist numpy equal
    allclose new_tensor
""")

SIZES = names("__len__ shape size numel nelement")

# Which labels there are in the batch, and how often.
TALLIES = names("bincount histc unique unique_consecutive unique_dim _unique _unique2")

# Entries of one tensor, picked by another.
LOOKUPS = names("__getitem__ gather take_along_dim index_select one_hot take")

# Sums over the last dimension of the first and, of the second, the last but one.
PRODUCTS = names("matmul mm bmm __matmul__")

# Entries of one tensor, written where another says; the first argument after it is a dimension.
SCATTERS = names("scatter scatter_add scatter_reduce")

CHANGES_FORM = names("""
    squeeze_ unsqueeze_ t_ transpose_ swapaxes_ swapdims_ resize_ resize_as_ set_ __set__
""")

_IN_PLACE_DUNDERS = names("""
    __setitem__ __iadd__ __isub__ __imul__ __itruediv__ __ifloordiv__ __imod__ __ipow__ __iand__
    __ior__ __ixor__ __ilshift__ __irshift__ __idiv__ __set__
""")


def name_of(func: Callable[..., Any]) -> str:
    """Returns an operation's name; a property such as ``y.T`` has the name of the property."""
    name = getattr(func, "__name__", type(func).__name__)
    if name not in ("__get__", "__set__"):
        return name
    attribute: str = getattr(getattr(func, "__self__", None), "__name__", name)
    if name == "__set__":
        return "requires_grad_" if attribute == "requires_grad" else name
    return attribute if attribute in STRUCTURE or attribute in SIZES else name


def writes_in_place(name: str) -> bool:
    """Returns whether an operation of this name writes into its first argument."""
    if name.endswith("__"):
        return name in _IN_PLACE_DUNDERS
    return name.endswith("_")


def writes_elementwise(name: str) -> bool:
    """Returns whether what is written at a place depends on nothing but what stands there."""
    return name in _IN_PLACE_DUNDERS - {"__setitem__"} or name[:-1] in ELEMENTWISE | {"copy"}


@cache
def signature_of(func: Callable[..., Any]) -> inspect.Signature | None:
    """Returns the signature of an operation written in Python, None for one written in C."""
    try:
        return inspect.signature(func)
    except ValueError:
        return None


def reduced_dims(name: str, ndim: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> set[int]:
    """Returns the dimensions that a reduction runs over, all of them where none is given."""
    position = 2 if name in ("norm", "normalize", "vector_norm") else 1
    dim = kwargs.get("dim", kwargs.get("axis", args[position] if len(args) > position else None))
    if dim is None and name == "normalize":
        dim = 1
    if dim is None or isinstance(dim, bool) or (isinstance(dim, (list, tuple)) and not dim):
        return set(range(ndim))
    return {d % ndim for d in ((dim,) if isinstance(dim, int) else dim)} if ndim else set()


def joined_dim(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Returns the dimension along which tensors are concatenated or stacked."""
    dim: int = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0))
    return dim


def looked_up_dim(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """Returns the dimension along which entries are picked."""
    position = 2 if name == "take_along_dim" else 1
    dim: int | None = kwargs.get("dim", args[position] if len(args) > position else None)
    return dim


def layout(weights: Tensor) -> tuple[Any, ...]:
    """Returns where weights lie in memory, apart from dimensions on which they do not vary.

    Example:
        >>> weights = torch.rand(2, 8)
        >>> layout(weights) == layout(weights.unsqueeze(2)) != layout(weights.flip(1))
        True
    """
    steps = zip(weights.shape, weights.stride(), strict=True)
    varying = [(size, stride) for size, stride in steps if size > 1]
    return weights.untyped_storage()._cdata, weights.storage_offset(), *varying


def weights_after(  # noqa: PLR0913  an operation, what it is applied to and what comes of it
    func: Callable[..., Any],
    name: str,
    shape: torch.Size,
    weights: Tensor,
    results: Sequence[Tensor],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> list[Tensor]:
    """Follows per-sample weights through an operation that only moves entries.

    Args:
        func: The operation.
        name: Its name, one of ``STRUCTURE``.
        shape: The shape of what it is applied to.
        weights: The weights of that.
        results: What comes of it.
        args: Its positional arguments after the first.
        kwargs: Its keyword arguments.

    Returns:
        The weights of each result.
    """
    if name in SAME_SHAPE:
        return [weights] * len(results)
    if name in RESHAPES:
        return [_reshaped(weights, shape, result.shape) for result in results]
    if name in _VIEWS or (name == "__getitem__" and _is_basic_index(args[0])):
        moved = func(weights[0].expand(shape), *args, **kwargs)
        return [_as_moved(weights, row) for row in _pieces(moved)]
    moved = [_pieces(func(row.expand(shape), *args, **kwargs)) for row in weights]
    constant = _constant_dims(name, weights, args, kwargs)
    copies = [
        torch.stack([_compact(row, constant) for row in rows]) for rows in zip(*moved, strict=True)
    ]
    repeats_no_sample = name in ("repeat", "tile") and copies[0].shape == weights.shape
    return [weights] if repeats_no_sample else copies


def _pieces(result: Any) -> Sequence[Tensor]:
    return [result] if isinstance(result, Tensor) else result


def _is_basic_index(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is ... or type(part) in (int, slice) for part in parts)


def _as_moved(weights: Tensor, row: Tensor) -> Tensor:
    """Views all weights as one row of them was; what was expanded has the stride 0."""
    steps = list(zip(row.shape, row.stride(), strict=True))
    sizes = [size if stride else min(1, size) for size, stride in steps]
    strides = (weights.stride(0), *row.stride())
    return weights.as_strided((len(weights), *sizes), strides, row.storage_offset())


def _constant_dims(
    name: str, weights: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterable[int]:
    """Returns the dimensions that stay constant in a copy, counted from the last."""
    by_row = name == "__getitem__" and isinstance(args[0], Tensor) and args[0].ndim == 1
    by_dim = name in ("roll", "repeat_interleave") and len(args) + len(kwargs) > 1
    if not (by_row or by_dim or name in _REARRANGED):
        return ()
    return [d for d in range(1 - weights.ndim, 0) if weights.shape[d] == 1]


def _compact(row: Tensor, constant: Iterable[int]) -> Tensor:
    """Keeps one entry along each dimension on which the weights do not vary."""
    for d in constant:
        row = row.narrow(d, 0, min(1, row.shape[d]))
    return row


def _reshaped(weights: Tensor, old: torch.Size, new: torch.Size) -> Tensor:
    """Reshapes weights as their tensor was, group by group of dimensions with equal products."""
    if prod(new) == 0:
        return weights.new_empty(len(weights), *new)
    varies = [size > 1 for size in weights.shape[1:]]
    expanded: list[int] = []
    shape: list[int] = []
    i = j = 0
    while i < len(old) or j < len(new):
        i_end, j_end = i + (i < len(old)), j + (j < len(new))
        while prod(old[i:i_end]) != prod(new[j:j_end]):
            if prod(old[i:i_end]) < prod(new[j:j_end]):
                i_end += 1
            else:
                j_end += 1
        alive = any(varies[i:i_end])
        expanded += old[i:i_end] if alive else [1] * (i_end - i)
        shape += new[j:j_end] if alive else [1] * (j_end - j)
        i, j = i_end, j_end
    rows = len(weights)
    return weights.expand(rows, *expanded).reshape(rows, *shape)
