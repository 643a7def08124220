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

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "BATCH_SUMS",
    "CASTS",
    "COMPARISONS",
    "COPIES",
    "DISTANCES",
    "ELEMENTWISE",
    "FACTS",
    "FINITENESS",
    "HOOKS",
    "JOINS",
    "LOOKUPS",
    "NUMBERS",
    "PRINTS",
    "PRODUCTS",
    "REDUCTIONS",
    "RESHAPES",
    "RESIZES",
    "SCATTERS",
    "SIZES",
    "STRUCTURE",
    "TALLIES",
    "VIEWS_IN_PLACE",
    "is_asked_in_place",
    "is_sum_of_sizes",
    "joined_dim",
    "layout",
    "looks_up_samples",
    "name_of",
    "names",
    "parameters_of",
    "reduced_dims",
    "reorders",
    "same_layout",
    "takes_reduction",
    "weights_after",
    "whole",
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
    double half bfloat16 cdouble cfloat pin_memory conj conj_physical resolve_conj resolve_neg
    to_dense
""")

RESHAPES = names("view reshape flatten unflatten view_as reshape_as ravel")

_VIEWS = names("""
    squeeze unsqueeze transpose permute movedim moveaxis swapaxes swapdims t T mT H mH adjoint
    narrow select expand expand_as broadcast_to chunk split tensor_split hsplit vsplit dsplit
    split_with_sizes unsafe_chunk unsafe_split unsafe_split_with_sizes unbind diagonal atleast_1d
    atleast_2d atleast_3d
""")

# Copies whose last dimensions come each from one of the source.
_REARRANGED = names("index_select flip fliplr flipud repeat tile")

# What may copy entries in another order.
COPIES = _REARRANGED | names("__getitem__ masked_select take roll repeat_interleave __reversed__")

# What may put the samples into another order, of as many.
_ORDERS = names("__getitem__ index_select flip flipud roll take __reversed__")

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
    sigmoid expit logit log_sigmoid relu relu6 leaky_relu elu selu celu gelu silu mish softplus
    softsign tanhshrink hardtanh hardsigmoid hardswish lgamma gammaln digamma entr xlog1py clamp
    clip clamp_min clamp_max maximum minimum fmax fmin where lerp addcmul addcdiv hypot atan2
    masked_fill dropout nan_to_num isnan isinf isfinite isposinf isneginf heaviside threshold rrelu
    alpha_dropout feature_alpha_dropout feature_dropout
""")

# Whether a number is one.
FINITENESS = names("isnan isinf isfinite isposinf isneginf")

# Linear in the entries, so candidates may be merged before.
BATCH_SUMS = names("sum mean nansum nanmean")

REDUCTIONS = BATCH_SUMS | names("""
    any all count_nonzero amax amin max min prod logsumexp norm std var argmax argmin median
    softmax log_softmax softmin cumsum cumprod normalize vector_norm topk sort argsort
""")

# Of two tensors, along a dimension.
DISTANCES = names("cosine_similarity pairwise_distance")

# What asks for the form of a tensor, or makes an unrelated one of the same form.
FACTS = names("""
    __get__ __len__ __dir__ shape size dim ndimension numel nelement stride storage_offset
    element_size data_ptr storage untyped_storage is_floating_point is_complex is_signed
    is_contiguous is_pinned is_shared is_same_size is_set_to is_inference is_conj is_neg
    get_device dim_order result_type can_cast requires_grad_
    zeros_like ones_like empty_like full_like rand_like randn_like randint_like new_zeros
    new_ones new_empty new_full new is_nested _is_view
""")

SIZES = names("__len__ shape size numel nelement")

# What turns entries into numbers or arrays that no rule can follow.
NUMBERS = names("""
    __bool__ __int__ __float__ __index__ __contains__ __array__ __dlpack__ __dlpack_device__ item
    tolist numpy is_nonzero equal allclose new_tensor
""")

PRINTS = names("__repr__ __format__")

# What watches the gradient of one tensor.
HOOKS = names("register_hook retain_grad register_post_accumulate_grad_hook")

# Which labels there are in the batch, and how often.
TALLIES = names("bincount histc unique unique_consecutive unique_dim _unique _unique2")

# Entries of one tensor, picked by another.
LOOKUPS = names("__getitem__ gather take_along_dim index_select one_hot take")

# Sums over the last dimension of the first and, of the second, the last but one.
PRODUCTS = names("matmul mm bmm mv linear __matmul__")

# Entries of one tensor, written where another says; the first argument after it is a dimension.
SCATTERS = names("scatter scatter_add scatter_reduce")

# Views of a tensor that it becomes itself.
VIEWS_IN_PLACE = names("squeeze_ unsqueeze_ t_ transpose_ swapaxes_ swapdims_")

# What changes a tensor, but not by its entries.
RESIZES = names("resize_ resize_as_ as_strided_ set_ __set__ detach_ module_load")

_IN_PLACE_DUNDERS = names("""
    __setitem__ __iadd__ __isub__ __imul__ __itruediv__ __ifloordiv__ __imod__ __ipow__ __iand__
    __ior__ __ixor__ __ilshift__ __irshift__ __idiv__ __set__
""")


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def name_of(func: Callable[..., Any]) -> str:
    """Returns an operation's name; a property such as ``y.T`` has the name of the property."""
    name: str = getattr(func, "__name__", type(func).__name__)
    if name not in ("__get__", "__set__"):
        return name.removeprefix("special_").removeprefix("linalg_")
    attribute: str = getattr(getattr(func, "__self__", None), "__name__", name)
    if name == "__set__":
        return "requires_grad_" if attribute == "requires_grad" else name
    return attribute if attribute in STRUCTURE or attribute in SIZES else name


def writes_in_place(name: str) -> bool:
    """Returns whether an operation of this name writes into its first argument."""
    if name.endswith("__"):
        return name in _IN_PLACE_DUNDERS
    return name.endswith("_") or name == "module_load"


def writes_elementwise(name: str) -> bool:
    """Returns whether what is written at a place depends on nothing but what stands there."""
    return name in _IN_PLACE_DUNDERS - {"__setitem__"} or name[:-1] in ELEMENTWISE | {"copy"}


def is_asked_in_place(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> bool:
    """Returns whether a function is given ``inplace=True``."""
    given = {name: value for (name, _), value in zip(parameters_of(func), args, strict=False)}
    return bool({**given, **kwargs}.get("inplace", False))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def parameters_of(func: Callable[..., Any]) -> tuple[tuple[str, Any], ...]:
    """Returns the parameters of an operation written in Python, with their defaults."""
    return _parameters_of(func)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def takes_reduction(func: Callable[..., Any]) -> bool:
    """Returns whether an operation is a loss that reduces the batch itself."""
    return any(name == "reduction" for name, _ in _parameters_of(func))


@cache
def _parameters_of(func: Callable[..., Any]) -> tuple[tuple[str, Any], ...]:
    try:
        parameters = inspect.signature(func).parameters
    except ValueError:  # It is written in C.
        return ()
    return tuple((name, parameter.default) for name, parameter in parameters.items())


# Where a reduction has its dimension, if not second, and which it has by default, if not all.
_DIM_AT = dict.fromkeys(["norm", "normalize", "vector_norm", "cosine_similarity", "topk"], 2)
_DEFAULT_DIM = {"normalize": 1, "cosine_similarity": 1, "pairwise_distance": -1}
_DEFAULT_DIM |= dict.fromkeys(["topk", "sort", "argsort"], -1)


def reduced_dims(name: str, ndim: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> set[int]:
    """Returns the dimensions that a reduction runs over, all of them where none is given."""
    at = _DIM_AT.get(name, 1)
    dim = kwargs.get("dim", kwargs.get("axis", args[at] if len(args) > at else None))
    if dim is None or isinstance(dim, (bool, Tensor)):
        dim = _DEFAULT_DIM.get(name)
    if dim is None or (isinstance(dim, (list, tuple)) and not dim):
        return set(range(ndim))
    return {d % ndim for d in ((dim,) if isinstance(dim, int) else dim)} if ndim else set()


def is_sum_of_sizes(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Returns whether a reduction is a norm of order 1."""
    order = kwargs.get("p", kwargs.get("ord", args[1] if len(args) > 1 else 2))
    return name in ("norm", "vector_norm") and order == 1


def joined_dim(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Returns the dimension along which tensors are concatenated or stacked."""
    dim: int = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0))
    return dim


def looks_up_samples(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Returns whether entries are picked along the first dimension, which may be the samples'."""
    if name in ("one_hot", "take"):
        return False
    position = 2 if name == "take_along_dim" else 1
    dim = kwargs.get("dim", args[position] if len(args) > position else None)
    return dim is None or dim % max(1, args[0].ndim) == 0


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


def whole(weights: Tensor) -> Tensor:
    """Returns the weights, of shape (K,), of what has a single candidate, as plain tensors have.

    Example:
        >>> whole(torch.rand(2, 8))
        tensor([1., 0.])
    """
    weights = weights.new_zeros(len(weights))
    weights[:1] = 1.0
    return weights


def same_layout(weights: Tensor, others: Tensor) -> bool:
    """Returns whether weights are those of the same samples in the same order.

    Where tensors have no memory yet, as Dynamo traces, that is unknown.
    """
    return not torch.compiler.is_dynamo_compiling() and layout(weights) == layout(others)


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
    views = name in _VIEWS or (name == "__getitem__" and _is_basic_index(args[0]))
    if views and not torch.compiler.is_dynamo_compiling():
        moved = func(weights[0].expand(shape), *args, **kwargs)
        return [_as_moved(weights, row) for row in _pieces(moved)]
    moved = [_pieces(func(row.expand(shape), *args, **kwargs)) for row in weights]
    constant = _constant_dims(name, weights, args, kwargs)
    copies = [
        torch.stack([_compact(row, constant) for row in rows]) for rows in zip(*moved, strict=True)
    ]
    repeats_no_sample = name in ("repeat", "tile") and copies[0].shape == weights.shape
    return [weights] if repeats_no_sample else copies


def reorders(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> bool:
    """Returns whether an operation may have put the samples of its first argument in new order.

    Example:
        >>> y = torch.arange(3)
        >>> reorders("__getitem__", (y, torch.tensor([2, 0, 1])), {}, y)
        True
        >>> reorders("__getitem__", (y, slice(None)), {}, y)
        False
    """
    source, *rest = args
    if name not in _ORDERS or not isinstance(result, Tensor):
        return False
    if result.ndim == 0 or source.ndim == 0 or len(result) != len(source):
        return False
    first = rest[0] if rest else None
    if name == "__getitem__":
        index = first[0] if isinstance(first, tuple) and first else first
        return isinstance(index, (Tensor, list, np.ndarray)) and not _is_mask(index)
    if name == "index_select":
        return kwargs.get("dim", first) in (0, -source.ndim)
    if name == "flip":
        dims = kwargs.get("dims", rest[0] if len(rest) == 1 else rest)
        return bool({0, -source.ndim} & set(dims if isinstance(dims, Sequence) else [dims]))
    return True


def _is_mask(index: Any) -> bool:
    return getattr(index, "dtype", None) in (torch.bool, np.dtype(bool))


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
