"""How two samples become one: pure functions of tensors.

Nothing here draws or stores anything. ``weight`` is always the share that a sample keeps of
itself. B is the batch, ``*`` any further dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_mixup.errors import MixupTypeError, MixupValueError
from lightning_mixup.partners import Shift, partner_indices, rolls, take_partners
from lightning_mixup.regions import Boxes
from lightning_mixup.weights import Weight

__all__ = [
    "combine",
    "interpolate",
    "paste",
    "paste_resized",
    "transpose_combine",
    "transpose_interpolate",
]


_SMALL = 2**20  # bytes


def interpolate(x: Tensor, weight: Weight, shift: Shift) -> Tensor:
    r"""Blends each sample with its partner.

    .. math:: \tilde{x}_i = \lambda_i \, x_i + (1 - \lambda_i) \, x_{(i + s) \bmod B}

    Reference:
        | mixup: Beyond Empirical Risk Minimization (Zhang et al., 2018)
        | https://arxiv.org/abs/1710.09412

    Args:
        x: Floating-point (or complex) samples, of shape (B, \*). Never modified.
        weight: The share kept, as it was drawn on the host: a number for the batch, or a float64
            array of shape (B,) with one per sample. Rounded to the dtype of ``x``.
        shift: The distance s to the partner, in [1, B - 1], or a tensor of shape (B,) of them.

    Returns:
        The blended samples, with the shape, dtype, device and memory format of ``x``. A sample
        with a weight of 1 is copied, whatever its partner holds.

    Raises:
        MixupTypeError: If ``x`` is not floating-point: integers cannot be averaged.
        MixupValueError: If there is not one weight for each sample, or the partner not in the
            batch.

    Example:
        >>> x = torch.tensor([[0.0], [4.0]])
        >>> interpolate(x, weight=np.array([1.0, 0.25]), shift=1)
        tensor([[0.],
                [1.]])
    """
    _check_floating("interpolate", x)
    batch_size = x.shape[0]
    if not isinstance(weight, float) and len(weight) != batch_size:
        raise MixupValueError(
            f"interpolate() got {batch_size} samples in `x` but {len(weight)} weights. "
            "Draw the weights from the size of this batch."
        )
    if isinstance(shift, Tensor):
        return _gathered(x, weight, shift)
    if not 0 < shift < batch_size:
        raise MixupValueError(
            f"interpolate() got {batch_size} samples in `x` and shift={shift}, but a partner is "
            "at a distance from 1 to one less than there are samples. Draw it from the size of "
            "this batch."
        )
    if not (x.requires_grad and torch.is_grad_enabled()):
        return _interpolated(x, weight, shift)
    blended: Tensor = _Interpolate.apply(x, weight, shift)  # type: ignore[no-untyped-call]
    return blended


def transpose_interpolate(grad: Tensor, weight: Weight, shift: int) -> Tensor:
    r"""Passes a gradient back through `interpolate`: multiplies it by the transposed matrix.

    .. math::
        g_j = \lambda_j \, \tilde{g}_j + (1 - \lambda_i) \, \tilde{g}_i, \quad j = (i + s) \bmod B

    Args:
        grad: The gradient by the blended samples, of shape (B, \*). Never modified.
        weight: As in `interpolate`.
        shift: As in `interpolate`.

    Returns:
        The gradient by the samples, with the shape, dtype and device of ``grad``.

    Example:
        >>> transpose_interpolate(torch.tensor([[1.0], [0.0]]), weight=0.75, shift=1)
        tensor([[0.7500],
                [0.2500]])
    """
    if isinstance(weight, float):  # the same shares, the other way round
        return interpolate(grad, weight, len(grad) - shift)
    passed: Tensor = _Transposed.apply(grad, weight, shift)  # type: ignore[no-untyped-call]
    return passed


def _interpolated(x: Tensor, weight: Weight, shift: int) -> Tensor:
    """Copies the partners of few bytes, in fewer calls; of many, it takes longer than to blend."""
    if isinstance(weight, float) and _is_one(weight, x.dtype):
        return x.clone()
    if x.is_cpu and x.nbytes < _SMALL and rolls(x):
        out = x.roll(-shift, 0).lerp_(x, _broadcast(weight, x))
    else:
        out = _by_slices(x, weight, shift)
    whole = None if isinstance(weight, float) else _whole(weight, x)
    return out if whole is None else out.index_copy_(0, whole, x.index_select(0, whole))


def _by_slices(x: Tensor, weight: Weight, shift: int) -> Tensor:
    """Two calls of ``lerp`` read each entry twice and write it once; no partner is copied."""
    out, head = torch.empty_like(x), len(x) - shift
    own, own_last = x.split_with_sizes((head, shift))
    partner_of_last, partner = x.split_with_sizes((shift, head))
    blend, blend_of_last = out.split_with_sizes((head, shift))
    share, share_of_last = _shares(weight, x, head)
    torch.lerp(partner, own, share, out=blend)
    torch.lerp(partner_of_last, own_last, share_of_last, out=blend_of_last)
    return out


def _gathered(x: Tensor, weight: Weight, shift: Tensor) -> Tensor:
    """Partners anywhere have to be copied; torch knows the gradient."""
    if isinstance(weight, float) and _is_one(weight, x.dtype):
        return x.clone()
    share = _broadcast(weight, x)
    blended = torch.lerp(take_partners(x, shift), x, share)
    return x.where(share == 1, blended) if isinstance(share, Tensor) else blended


class _Interpolate(torch.autograd.Function):
    """The same with a gradient, for which nothing is saved."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Weight, shift: int) -> Tensor:
        ctx.weight, ctx.shift = weight, shift
        return _interpolated(x, weight, shift)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return transpose_interpolate(grad, ctx.weight, ctx.shift), None, None


class _Transposed(torch.autograd.Function):
    """What a sample passes back to itself and to its partner."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, weight: npt.NDArray[np.float64], shift: int) -> Tensor:
        ctx.weight, ctx.shift = weight, shift
        share, head = _column(weight, grad), len(grad) - shift
        rest = 1 - share
        out: Tensor = grad * share
        out[shift:].addcmul_(grad[:head], rest[:head])
        out[:shift].addcmul_(grad[head:], rest[head:])
        whole = _whole(weight, grad)
        if whole is None:
            return out
        partners = (whole + shift) % len(grad)
        theirs = grad.index_select(0, partners) * share.index_select(0, partners)
        return out.index_copy_(0, partners, theirs)

    @staticmethod
    def backward(ctx: Any, x: Tensor) -> tuple[Tensor, None, None]:
        return interpolate(x, ctx.weight, ctx.shift), None, None


def _shares(weight: Weight, x: Tensor, head: int) -> tuple[Any, ...]:
    """Returns the shares of the first samples and of the others."""
    if not isinstance(weight, float):
        return _column(weight, x).split_with_sizes((head, len(x) - head))
    # On the CPU, `lerp` takes a tensor faster than a number; a GPU would have to be sent it.
    share = x.new_full((), weight) if x.is_cpu else weight
    return share, share


def _column(weight: npt.NDArray[np.float64], x: Tensor) -> Tensor:
    """Returns one share for each sample, on the device, which nothing waits for."""
    column = torch.from_numpy(weight.reshape(-1, *[1] * (x.ndim - 1))).to(x.dtype)
    return column.to(x.device, non_blocking=True)


def _whole(weight: npt.NDArray[np.float64], x: Tensor) -> Tensor | None:
    """Returns which samples keep all of themselves; None where no one does.

    What a partner holds or passes back may be infinite, and makes NaN with a share of zero.
    """
    found = np.flatnonzero(_is_one(weight, x.dtype))
    return torch.from_numpy(found).to(x.device, non_blocking=True) if found.size else None


def _is_one(weight: Weight, dtype: torch.dtype) -> Any:
    """Returns whether a weight rounds to one, or each of them."""
    low, high = _near_one(dtype)
    return (weight >= low) & (weight <= high)


@cache
def _near_one(dtype: torch.dtype) -> tuple[float, float]:
    """Returns between which numbers a type has none but one."""
    eps = torch.finfo(dtype).eps  # the step above one; that below is half of it
    return 1 - eps / 4, 1 + eps / 2


def _broadcast(weight: Weight, x: Tensor) -> Any:
    """Returns a number, or a column on the device, which nothing waits for."""
    return weight if isinstance(weight, float) else _column(weight, x)


def combine(x: Tensor, own: Weight, parts: Sequence[tuple[Weight, Shift]]) -> Tensor:
    r"""Adds to a share of each sample shares of its partners.

    .. math:: \tilde{x}_i = w_i \, x_i + \sum_r v_{ri} \, x_{(i + s_{ri}) \bmod B}

    Args:
        x: Floating-point (or complex) samples, of shape (B, \*). Never modified.
        own: The share w of a sample itself, a number or an array of shape (B,).
        parts: For each partner the share v, likewise, and the distance s.

    Returns:
        The sums, with the shape, dtype and device of ``x``. Where a partner's share is 0, it
        doesn't matter what that holds. Who is their own partner stays as they are.

    Raises:
        MixupTypeError: If ``x`` is not floating-point.

    Example:
        >>> combine(torch.tensor([[1.0], [10.0]]), own=1.0, parts=[(1.0, 1)])
        tensor([[11.],
                [11.]])
    """
    _check_floating("combine", x)
    total: Tensor = x * _broadcast(own, x)
    for share, shift in parts:
        if isinstance(shift, Tensor):
            _add(total, take_partners(x, shift), share)
        else:  # by slices, no partner is copied
            head = len(x) - shift
            first, last = (
                (share, share) if isinstance(share, float) else (share[:head], share[head:])
            )
            _add(total[:head], x[shift:], first)
            _add(total[head:], x[:shift], last)
    alone = _alone(parts, x)
    return total if alone is None else x.where(alone, total)


def transpose_combine(grad: Tensor, own: Weight, parts: Sequence[tuple[Weight, Shift]]) -> Tensor:
    r"""Passes a gradient back through `combine`: multiplies it by the transposed matrix.

    Args:
        grad: The gradient by the sums, of shape (B, \*). Never modified.
        own: As in `combine`.
        parts: As in `combine`.

    Returns:
        The gradient by the samples, with the shape, dtype and device of ``grad``.

    Example:
        >>> transpose_combine(torch.tensor([[1.0], [0.0]]), own=0.75, parts=[(0.25, 1)])
        tensor([[0.7500],
                [0.2500]])
    """
    alone = _alone(parts, grad)
    blended = grad if alone is None else grad.where(~alone, 0)
    total: Tensor = blended * _broadcast(own, grad)
    for share, shift in parts:
        passed = torch.zeros_like(grad)
        _add(passed, blended, share)
        total = total.index_add(0, partner_indices(shift, len(grad), grad.device), passed)
    return total if alone is None else total + (grad - blended)


def paste(
    x: Tensor, boxes: Boxes, shift: Shift, dims: Sequence[int], onto: Tensor | None = None
) -> Tensor:
    r"""Pastes into each sample what its partner has in a box.

    Reference:
        | CutMix: Regularization Strategy to Train Strong Classifiers (Yun et al., 2019)
        | https://arxiv.org/abs/1905.04899

    Args:
        x: Samples of any dtype, of shape (B, \*). Never modified.
        boxes: A box of shape (D, 2) for the batch, or of shape (B, D, 2) with one per sample.
        shift: The distance to the partner.
        dims: The D dimensions of ``x`` that the boxes are in.
        onto: What is pasted onto, if it is no longer ``x`` itself. Never modified.

    Returns:
        A copy, with the shape, dtype, device and memory format of ``x``.

    Example:
        >>> x = torch.tensor([[1, 2, 3], [4, 5, 6]])
        >>> paste(x, np.array([[1, 3]]), shift=1, dims=[1])
        tensor([[1, 5, 6],
                [4, 2, 3]])
    """
    below = x if onto is None else onto
    if boxes.ndim == 2:
        out, region = below.clone(), _region(boxes, dims, x.ndim)
        out[region] = take_partners(x[region], shift)
        return out
    return torch.where(_mask(boxes, dims, x), take_partners(x, shift), below)


def paste_resized(
    x: Tensor, box: Boxes, shift: Shift, dims: Sequence[int], *, is_map: bool = False
) -> Tensor:
    r"""Pastes into each sample the whole of its partner, resized to a box.

    Reference:
        | ResizeMix: Mixing Data with Preserved Object Information and True Labels
        | (Qin et al., 2020), https://arxiv.org/abs/2012.11101

    Args:
        x: Samples of shape (B, \*). Never modified.
        box: A box of shape (D, 2).
        shift: The distance to the partner.
        dims: The last D dimensions of ``x``, with one, two or three of them.
        is_map: Takes the nearest value, as nothing is between classes, rather than interpolating.

    Returns:
        A copy, with the shape, dtype and device of ``x``. Who is their own partner stays as they
        are.

    Raises:
        MixupTypeError: If ``x`` is neither floating-point nor a map.

    Example:
        >>> x = torch.tensor([[1.0, 1.0, 3.0, 3.0], [0.0, 0.0, 0.0, 0.0]])
        >>> paste_resized(x, np.array([[0, 2]]), shift=1, dims=[1])
        tensor([[0., 0., 3., 3.],
                [1., 3., 0., 0.]])
    """
    out, lengths = x.clone(), [int(length) for length in box[:, 1] - box[:, 0]]
    small = x
    if is_map:
        for dim, length in zip(dims, lengths, strict=True):
            size = x.shape[dim]
            places = (torch.arange(length, device=x.device) * 2 + 1) * size // (2 * length)
            small = small.index_select(dim, places)
    else:
        _check_floating("paste_resized", x)
        mode = ("linear", "bilinear", "trilinear")[len(dims) - 1]
        flat = x.reshape(len(x), -1, *x.shape[x.ndim - len(dims) :])
        small = F.interpolate(flat, size=lengths, mode=mode, align_corners=False)
        small = small.reshape(*x.shape[: x.ndim - len(dims)], *lengths)
    region = _region(box, dims, x.ndim)
    pasted, alone = take_partners(small, shift), _alone([(1.0, shift)], x)
    out[region] = pasted if alone is None else out[region].where(alone, pasted)
    return out


def _check_floating(name: str, x: Tensor) -> None:
    """Refuses what can't be averaged.

    Raises:
        MixupTypeError: Then.
    """
    if not (x.is_floating_point() or x.is_complex()):
        raise MixupTypeError(
            f"{name}() blends floating-point tensors, but `x` has dtype {x.dtype}. "
            "Convert it first, for example with `x.float()`."
        )


def _alone(parts: Sequence[tuple[Weight, Shift]], x: Tensor) -> Tensor | None:
    """Returns who found no partner, as a column that fits ``x``; None where everybody has one."""
    shifts = [shift for _, shift in parts if isinstance(shift, Tensor)]
    if len(shifts) < len(parts):
        return None
    return (torch.stack(shifts) == 0).all(dim=0).reshape(-1, *[1] * (x.ndim - 1))


def _add(total: Tensor, x: Tensor, share: Weight) -> None:
    """Adds a share of samples in place; of what has a share of 0, it doesn't matter what it is."""
    if isinstance(share, float):
        if share:
            total.add_(x, alpha=share)
        return
    column = _broadcast(share, x)
    total.addcmul_(x if share.all() else x.where(column != 0, 0), column)


def _region(box: Boxes, dims: Sequence[int], ndim: int) -> tuple[slice, ...]:
    region = [slice(None)] * ndim
    for dim, (first, last) in zip(dims, box.tolist(), strict=True):
        region[dim] = slice(first, last)
    return tuple(region)


def _mask(boxes: Boxes, dims: Sequence[int], x: Tensor) -> Tensor:
    """Returns where samples are inside of their boxes, of a shape that fits ``x``."""
    inside = torch.ones((), dtype=torch.bool, device=x.device)
    limits = torch.from_numpy(boxes).to(x.device, non_blocking=True)
    for number, dim in enumerate(dims):
        column = [-1, *[1] * (x.ndim - 1)]
        first, last = (limits[:, number, side].reshape(column) for side in (0, 1))
        row = [1] * x.ndim
        row[dim] = -1
        place = torch.arange(x.shape[dim], device=x.device).reshape(row)
        inside = inside & (place >= first) & (place < last)
    return inside
