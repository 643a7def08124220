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
    """Two calls of ``lerp`` read each entry twice and write it once; no partner is copied."""
    if isinstance(weight, float) and _is_one(weight, x.dtype):
        return x.clone()
    out, head = torch.empty_like(x), len(x) - shift
    own, own_last = x.split_with_sizes((head, shift))
    partner_of_last, partner = x.split_with_sizes((shift, head))
    blend, blend_of_last = out.split_with_sizes((head, shift))
    share, share_of_last = _shares(weight, x, head)
    torch.lerp(partner, own, share, out=blend)
    torch.lerp(partner_of_last, own_last, share_of_last, out=blend_of_last)
    for i in _whole(weight, x.dtype):
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
        share, head = _column(weight, grad), len(grad) - shift
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


def _shares(weight: Weight, x: Tensor, head: int) -> tuple[Any, ...]:
    """Returns the shares of the first samples and of the others."""
    if not isinstance(weight, float):
        return _column(weight, x).split_with_sizes((head, len(x) - head))
    # On the CPU, `lerp` takes a tensor faster than a number; a GPU would have to be sent it.
    share = x.new_full((), weight) if x.device.type == "cpu" else weight
    return share, share


def _column(weight: npt.NDArray[np.float64], x: Tensor) -> Tensor:
    """Returns one share for each sample, on the device, which nothing waits for."""
    column = torch.from_numpy(weight.reshape(-1, *[1] * (x.ndim - 1))).to(x.dtype)
    return column.to(x.device, non_blocking=True)


def _whole(weight: Weight, dtype: torch.dtype) -> list[int]:
    """Returns which samples keep all of themselves, if each has a weight of its own.

    What a partner holds or passes back may be infinite, and makes NaN with a share of zero.
    """
    return [] if isinstance(weight, float) else _is_one(weight, dtype).nonzero()[0].tolist()


def _is_one(weight: Weight, dtype: torch.dtype) -> Any:
    """Returns whether a weight rounds to one, or each of them."""
    eps = torch.finfo(dtype).eps  # the step above one; that below is half of it
    return (weight >= 1 - eps / 4) & (weight <= 1 + eps / 2)
