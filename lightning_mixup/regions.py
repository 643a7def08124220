"""Where samples are cut: boxes in one, two or three dimensions, drawn and counted on the host.

A box is an int64 array of shape (D, 2) with the first and the last but one place along each of D
dimensions, or of shape (B, D, 2) with one for each sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

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
    lengths = (whole * np.power(share, 1 / len(sizes))[..., None]).astype(np.int64)
    centres = (rng.random((*count, len(sizes))) * whole).astype(np.int64)
    first = centres - lengths // 2
    return np.stack([first.clip(0), (first + lengths).clip(None, whole)], axis=-1)


def place_boxes(rng: np.random.Generator, side: float, sizes: Sequence[int]) -> Boxes:
    """Draws a box whose sides are this part of the whole, anywhere inside; at least one place.

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
    shares: list[Weight] = []
    above: list[Boxes] = []
    for box in reversed(boxes):
        shares.append(_covered([box, *above], sizes) - _covered(above, sizes))
        above.append(box)
    shares.append(1.0 - _covered(above, sizes))
    return shares[::-1]


def _covered(boxes: Sequence[Boxes], sizes: Sequence[int]) -> Weight:
    """Returns the share of the area that any box covers, by inclusion and exclusion."""
    if not boxes:
        return 0.0
    first, *others = boxes
    within = [_common(first, other) for other in others]
    return _area(first, sizes) + _covered(others, sizes) - _covered(within, sizes)


def _common(one: Boxes, other: Boxes) -> Boxes:
    return np.stack(
        [np.maximum(one[..., 0], other[..., 0]), np.minimum(one[..., 1], other[..., 1])], axis=-1
    )


def _area(box: Boxes, sizes: Sequence[int]) -> Weight:
    share = (box[..., 1] - box[..., 0]).clip(0).prod(axis=-1) / np.prod(sizes)
    return share if box.ndim > 2 else float(share)
