"""Who is mixed with whom.

Partners are a cyclic shift of the batch: sample i meets sample ``(i + shift) % B``. Nobody is
their own partner, everybody is the partner of one, and nothing needs to be gathered.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["draw_shift", "partner_indices", "take_partners"]


def draw_shift(rng: np.random.Generator, batch_size: int) -> int:
    """Draws a shift under which every other sample is equally likely as a partner.

    Args:
        rng: The source of randomness.
        batch_size: B, at least 2.

    Returns:
        A number in [1, B - 1].

    Example:
        >>> draw_shift(np.random.default_rng(0), batch_size=2)
        1
    """
    return int(rng.integers(1, batch_size))


def partner_indices(shift: int, batch_size: int, device: torch.device | str = "cpu") -> Tensor:
    """Returns the position of each sample's partner, of shape (B,) and dtype int64.

    Example:
        >>> partner_indices(1, batch_size=4)
        tensor([1, 2, 3, 0])
    """
    return (torch.arange(batch_size, device=device) + shift) % batch_size


def take_partners(x: Tensor, shift: int) -> Tensor:
    r"""Returns each sample's partner, as a copy of the shape (B, \*) of ``x``.

    Example:
        >>> take_partners(torch.tensor([10, 20, 30]), shift=1)
        tensor([20, 30, 10])
    """
    return torch.cat((x[shift:], x[:shift]))
