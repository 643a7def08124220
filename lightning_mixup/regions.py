"""Where samples are cut: boxes in one, two or three dimensions, drawn and counted on the host.

A box is an int64 array of shape (D, 2) with the first place along each of D dimensions and that
after the last, as slices have them, or of shape (B, D, 2) with one box for each sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lightning_mixup.weights import Weight

__all__ = ["Boxes", "draw_boxes", "place_boxes", "visible_shares"]

Boxes: TypeAlias = "npt.NDArray[np.int64]"


def draw_boxes(rng: np.random.Generator, share: Weight, sizes: Sequence[int]) -> Boxes:
    """Draws boxes that cover about a share of the area, in the form of the whole.

    Their centre is anywhere, and what lies outside is cut off, as in CutMix.

    Reference:
        | CutMix: Regularization Strategy to Train Strong Classifiers (Yun et al., 2019), section 3
        | https://arxiv.org/abs/1905.04899

    Args:
        rng: The source of randomness.
        share: The share to cover, in [0, 1], or several, of shape (B,).
        sizes: How long each of D dimensions is.

    Returns:
        A box, or one for each share.

    Example:
        >>> draw_boxes(np.random.default_rng(0), 0.25, sizes=(8, 8))
        array([[3, 7],
               [0, 4]])
    """
    count, whole = np.shape(share), np.array(sizes)
    side = np.clip(share, 0, 1) ** (1 / len(sizes))
    lengths = (whole * side[..., None]).astype(np.int64)
    centres = (rng.random((*count, len(sizes))) * whole).astype(np.int64)
    first = centres - lengths // 2
    return np.stack([first.clip(0), (first + lengths).clip(None, whole)], axis=-1)


def place_boxes(rng: np.random.Generator, side: float, sizes: Sequence[int]) -> Boxes:
    """Draws a box whose sides are this part of the whole, anywhere inside; at least one place.

    Args:
        rng: The source of randomness.
        side: The part of the whole, in [0, 1], along each dimension.
        sizes: How long each of D dimensions is.

    Example:
        >>> place_boxes(np.random.default_rng(0), side=0.5, sizes=(8, 8))
        array([[3, 7],
               [1, 5]])
    """
    whole = np.array(sizes)
    lengths = (whole * side).astype(np.int64).clip(1, whole)
    first = (rng.random(len(sizes)) * (whole - lengths + 1)).astype(np.int64)
    return np.stack([first, first + lengths], axis=-1)


def visible_shares(boxes: Sequence[Boxes], sizes: Sequence[int]) -> list[Weight]:
    """Returns the exact shares of the area that remain visible of what is pasted, in this order.

    Args:
        boxes: Those of each layer, each pasted over those before.
        sizes: How long each of D dimensions is.

    Returns:
        The share of what is below all boxes, and that of each layer: numbers that sum to one, or
        arrays of shape (B,).

    Example:
        >>> visible_shares([np.array([[0, 4], [0, 4]]), np.array([[2, 4], [0, 8]])], (8, 8))
        [0.625, 0.125, 0.25]
    """
    whole = math.prod(sizes)
    # By the last of so many, as each covers what is below.
    covered = [_covered(boxes[first:]) for first in range(len(boxes) + 1)]
    places = [whole - covered[0], *(a - b for a, b in pairwise(covered))]
    return [count / whole for count in places]


def _covered(boxes: Sequence[Boxes]) -> Any:
    """Returns how many places any box covers, by inclusion and exclusion."""
    if not boxes:
        return 0
    first, *others = boxes
    within = [_common(first, other) for other in others]
    return _places(first) + _covered(others) - _covered(within)


def _common(one: Boxes, other: Boxes) -> Boxes:
    return np.stack(
        [np.maximum(one[..., 0], other[..., 0]), np.minimum(one[..., 1], other[..., 1])], axis=-1
    )


def _places(box: Boxes) -> Any:
    """Returns how many places are in a box, or in each of several."""
    count = (box[..., 1] - box[..., 0]).clip(0).prod(axis=-1)
    return count if box.ndim > 2 else int(count)
