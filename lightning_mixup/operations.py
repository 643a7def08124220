"""Families of torch operations, and what each does to weights that travel with the samples.

Nothing here knows of mixing: names are sorted by what they do to a batch, and three functions
follow one tensor's weights through views, copies and reductions. Weights of a tensor of shape
(s_1, ..., s_n) have the shape (K, w_1, ..., w_n) where w_i is s_i along the dimensions on which
they vary and 1 along the others.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "BATCH_SUMS",
    "CHANGES_SHAPE",
    "COMPARISONS",
    "ELEMENTWISE",
    "JOINS",
    "LOOKUPS",
    "READS",
    "REDUCTIONS",
    "STRUCTURE",
    "name_of",
    "reduced_dims",
    "signature_of",
    "weights_after",
    "writes_in_place",
]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Same shape, same order of samples: weights stay as they are.
SAME_SHAPE = _names("""
    clone contiguous detach data to type type_as cpu cuda long int short byte char bool float
    double half bfloat16 pin_memory alias conj resolve_conj
""")

RESHAPES = _names("view reshape flatten unflatten view_as reshape_as ravel")

_VIEWS = _names("""
    squeeze unsqueeze transpose permute movedim moveaxis swapaxes swapdims t T mT H mH adjoint
    narrow select expand expand_as broadcast_to chunk split tensor_split hsplit vsplit dsplit
    split_with_sizes unbind diagonal unfold atleast_1d atleast_2d atleast_3d
""")

# Copies in which each dimension of the result comes from one of the source.
_REARRANGED = _names("index_select roll flip fliplr flipud repeat repeat_interleave tile")

# What moves entries and makes no new ones.
STRUCTURE = SAME_SHAPE | RESHAPES | _VIEWS | _REARRANGED | {"__getitem__", "masked_select", "take"}

JOINS = _names("cat concat concatenate stack")

COMPARISONS = _names("""
    eq ne gt lt ge le __eq__ __ne__ __gt__ __lt__ __ge__ __le__ greater less greater_equal
    less_equal not_equal isclose
""")

ELEMENTWISE = COMPARISONS | _names("""
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

# Linear in the entries, so candidates may be merged before.
BATCH_SUMS = _names("sum mean nansum nanmean")

REDUCTIONS = BATCH_SUMS | _names("""
    amax amin max min prod logsumexp norm std var any all argmax argmin median count_nonzero
    softmax log_softmax softmin cumsum cumprod normalize vector_norm
""")

# What asks for a fact, a count or a printout, or makes an unrelated tensor of the same form.
READS = _names("""
    __get__ __len__ __bool__ __int__ __float__ __index__ __contains__ __repr__ __format__ __hash__
    __array__ __dir__ __reversed__ item tolist numpy size dim ndimension numel nelement stride
    storage_offset element_size data_ptr storage untyped_storage is_floating_point is_complex
    is_signed is_contiguous is_pinned is_shared is_nonzero is_same_size is_set_to is_inference
    is_conj is_neg get_device dim_order result_type can_cast equal allclose bincount histc unique
    unique_consecutive _unique _unique2 _return_output _return_inverse _return_counts
    _unique_impl _unique_consecutive_impl unique_dim backward grad register_hook retain_grad
    requires_grad_ zeros_like ones_like empty_like full_like rand_like randn_like randint_like
    new_zeros new_ones new_empty new_full new_tensor new
""")

# Entries of one tensor, picked by another.
LOOKUPS = _names("__getitem__ gather take_along_dim one_hot take")

CHANGES_SHAPE = _names("""
    squeeze_ unsqueeze_ t_ transpose_ swapaxes_ swapdims_ resize_ resize_as_ set_ rename_
""")

_IN_PLACE_DUNDERS = _names("""
    __setitem__ __iadd__ __isub__ __imul__ __itruediv__ __ifloordiv__ __imod__ __ipow__ __iand__
    __ior__ __ixor__ __ilshift__ __irshift__ __idiv__
""")


def name_of(func: Callable[..., Any]) -> str:
    """Returns an operation's name; a property such as ``y.T`` has the name of the property."""
    name = getattr(func, "__name__", type(func).__name__)
    if name != "__get__":
        return name
    attribute: str = getattr(getattr(func, "__self__", None), "__name__", name)
    return attribute if attribute in STRUCTURE else name


def writes_in_place(name: str) -> bool:
    """Returns whether an operation of this name writes into its first argument."""
    return name in _IN_PLACE_DUNDERS or (name.endswith("_") and not name.endswith("__"))


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
    if dim is None or isinstance(dim, bool) or (isinstance(dim, (list, tuple)) and not dim):
        return set(range(ndim))
    return {d % ndim for d in ((dim,) if isinstance(dim, int) else dim)} if ndim else set()


def weights_after(  # noqa: PLR0913  an operation, what it is applied to and what comes of it
    func: Callable[..., Any],
    name: str,
    shape: torch.Size,
    weights: Tensor,
    results: Sequence[Tensor],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Iterator[Tensor]:
    """Follows per-sample weights through an operation that only moves entries.

    Args:
        func: The operation.
        name: Its name, one of ``STRUCTURE``.
        shape: The shape of what it is applied to.
        weights: The weights of that.
        results: What comes of it.
        args: Its positional arguments after the first.
        kwargs: Its keyword arguments.

    Yields:
        The weights of each result.
    """
    if name in SAME_SHAPE:
        yield from [weights] * len(results)
    elif name in RESHAPES:
        yield from (_reshaped(weights, shape, result.shape) for result in results)
    else:
        moved = [func(row.expand(shape), *args, **kwargs) for row in weights]
        constant = _constant_dims(name, weights, args)
        for rows in [moved] if isinstance(moved[0], Tensor) else zip(*moved, strict=True):
            yield torch.stack([_compact(row, constant) for row in rows])


def _constant_dims(name: str, weights: Tensor, args: tuple[Any, ...]) -> Iterable[int] | None:
    """Returns the dimensions that stay constant in a copy; None: read them off the strides."""
    by_tensor = name == "__getitem__" and not _is_basic_index(args[0])
    if name in _REARRANGED or (by_tensor and isinstance(args[0], Tensor) and args[0].ndim == 1):
        return [d for d, size in enumerate(weights.shape[1:]) if size == 1]
    return () if by_tensor or name in ("masked_select", "take") else None


def _is_basic_index(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is ... or isinstance(part, (int, slice)) for part in parts)


def _compact(row: Tensor, constant: Iterable[int] | None) -> Tensor:
    """Keeps one entry along each dimension on which the weights do not vary."""
    if constant is None:  # a view: what was expanded has the stride 0
        constant = [d for d, stride in enumerate(row.stride()) if stride == 0]
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
