"""How two samples become one: pure functions of tensors.

Nothing here draws or stores anything. ``weight`` is always the share that a sample keeps of
itself. B is the batch, ``*`` any further dimensions.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_mixup.errors import MixupTypeError, MixupValueError

__all__ = ["Weight", "interpolate", "transpose_interpolate"]

Weight: TypeAlias = "float | npt.NDArray[np.float64]"


def interpolate(x: Tensor, weight: Weight, shift: int) -> Tensor:
    r"""Blends each sample with its partner.

    .. math:: \tilde{x}_i = \lambda_i \, x_i + (1 - \lambda_i) \, x_{(i + s) \bmod B}

    Reference:
        | mixup: Beyond Empirical Risk Minimization (Zhang et al., 2018)
        | https://arxiv.org/abs/1710.09412

    Args:
        x: Floating-point (or complex) samples, of shape (B, \*). Never modified.
        weight: The share kept, as it was drawn on the host: a number for the batch, or a float64
            array of shape (B,) with one per sample. Rounded to the dtype of ``x``.
        shift: The distance s to the partner, in [1, B - 1].

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
    if not (x.is_floating_point() or x.is_complex()):
        raise MixupTypeError(
            f"interpolate() blends floating-point tensors, but `x` has dtype {x.dtype}. "
            "Convert it first, for example with `x.float()`."
        )
    if not isinstance(weight, float) and len(weight) != len(x):
        raise MixupValueError(
            f"interpolate() got {len(x)} samples in `x` but {len(weight)} weights. "
            "Draw the weights from the size of this batch."
        )
    if not 0 < shift < len(x):
        raise MixupValueError(
            f"interpolate() got {len(x)} samples in `x` and shift={shift}, but a partner is at a "
            "distance from 1 to one less than there are samples. Draw it from the size of this "
            "batch."
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
    """Two slices of ``lerp`` read each entry twice and write it once; no partner is copied."""
    out, head = torch.empty_like(x), len(x) - shift
    if isinstance(weight, float) and weight >= _one(x.dtype):
        return out.copy_(x)
    share = _broadcast(weight, x)
    own, other = (share, share) if isinstance(share, float) else (share[:head], share[head:])
    torch.lerp(x[shift:], x[:head], own, out=out[:head])
    torch.lerp(x[:shift], x[head:], other, out=out[head:])
    for i in () if isinstance(weight, float) else _whole(weight, x.dtype):
        out[i] = x[i]
    return out


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
        share, head = _broadcast(weight, grad), len(grad) - shift
        rest = 1 - share
        out: Tensor = grad * share
        out[shift:].addcmul_(grad[:head], rest[:head])
        out[:shift].addcmul_(grad[head:], rest[head:])
        for i in _whole(weight, grad.dtype):
            partner = (i + shift) % len(grad)
            out[partner] = grad[partner] * share[partner]
        return out

    @staticmethod
    def backward(ctx: Any, x: Tensor) -> tuple[Tensor, None, None]:
        return interpolate(x, ctx.weight, ctx.shift), None, None


def _whole(weight: npt.NDArray[np.float64], dtype: torch.dtype) -> npt.NDArray[np.intp]:
    """Returns the samples that keep all of themselves.

    What a partner holds or passes back may be infinite, and makes NaN with a share of zero.
    """
    return np.flatnonzero(weight >= _one(dtype))


def _one(dtype: torch.dtype) -> float:
    """Returns the least weight that rounds to one."""
    return 1 - torch.finfo(dtype).eps / 4


def _broadcast(weight: Weight, x: Tensor) -> Any:
    """Returns a number, or a column on the device, which nothing waits for."""
    if isinstance(weight, float):
        return weight
    column = torch.from_numpy(weight).to(x.dtype).to(x.device, non_blocking=True)
    return column.reshape(-1, *[1] * (x.ndim - 1))
