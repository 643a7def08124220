"""The randomness of a batch: a function of the seed, the rank and the number of the batch."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["Randomness"]


class Randomness:
    """One generator that is set anew for each batch, as one is not made as fast as that.

    Example:
        >>> randomness = Randomness()
        >>> first = randomness.of_batch(seed=1, rank=0, batch_number=7).random()
        >>> first == randomness.of_batch(seed=1, rank=0, batch_number=7).random()
        True
    """

    def __init__(self) -> None:
        self._philox = np.random.Philox(0)
        self._generator = np.random.Generator(self._philox)
        self._place: dict[str, tuple[int, ...]] = {}
        self._state: Any = {  # Tuples do for arrays.
            "bit_generator": "Philox",
            "state": self._place,
            "buffer": (0, 0, 0, 0),
            "buffer_pos": 4,  # at its end, as nothing was drawn
            "has_uint32": 0,
            "uinteger": 0,
        }

    def of_batch(self, seed: int, rank: int, batch_number: int) -> np.random.Generator:
        """Returns randomness that no other batch, rank or seed has, until the next call."""
        self._place["key"] = seed % 2**64, rank
        # Numpy counts up the lowest word as it draws, so the batch has the highest to itself.
        self._place["counter"] = 0, 0, 0, batch_number
        self._philox.state = self._state
        return self._generator
