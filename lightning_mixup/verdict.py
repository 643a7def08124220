"""From figures to a sentence: over- or under-confident, by more than chance, and what helps.

Whether a figure is more than chance is asked of models that are calibrated: labels are drawn for
them as their confidences say, again and again (consistency resampling, Bröcker and Smith 2007,
"Increasing the Reliability of Reliability Diagrams", Weather and Forecasting 22).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Binomial

from lightning_mixup.reliability import ReliabilityBins

__all__ = ["Chance", "chance_of", "range_of_chance", "verdict_on"]

_DRAWS = 4000
# A calibrated model is called over- or under-confident once in a hundred times, and
# miscalibrated otherwise once in another hundred.
_LEVEL = 0.01
_BLIND = 0.075  # where chance may bring about a larger ECE, samples are too few
_NEGLIGIBLE = 0.005  # an ECE on which no decision hangs, however surely it is measured
_CANCELLED = 0.5  # of the ECE: a gap below that is the smaller part of it
_FAR = 3  # times the noise floor, and chance is out of the question
_MENDED = 0.9  # what a temperature leaves of the ECE, at most, to be worth a word
_MAYBE_CHANCE = 2  # times the noise floor: about the most that chance brings about
_GOAL = 0.01  # the noise floor to ask for more samples for


class Chance(NamedTuple):
    """What calibrated models of the same confidences show; each in all but 1 % of cases."""

    ece: float  # at most
    lowest_gap: float
    highest_gap: float


def chance_of(bins: ReliabilityBins) -> Chance:
    """Draws labels as a calibrated model's would be, and returns what that model shows.

    A bin's probability is taken half a sample nearer to the middle, since a handful of samples
    can't vouch for a confidence of nearly 1; and of the distances to both, the larger is taken.

    Args:
        bins: At least one sample, in bins of any number.

    Example:
        >>> few = ReliabilityBins(*torch.tensor([[20.0], [18.0], [18.0]], dtype=torch.float64))
        >>> round(chance_of(few).ece, 2)
        0.2
    """
    columns = np.stack([bins.count.numpy(), bins.confidence.numpy()])
    count, confidence = columns[:, columns[0] > 0]
    smoothed = np.clip((confidence + 0.5) / (count + 1), 0, 1)
    rng = np.random.Generator(np.random.Philox(0))  # the same verdict every time
    hits = rng.binomial(count.astype(np.int64), smoothed, size=(_DRAWS, len(count)))
    excess = np.stack([confidence - hits, count * smoothed - hits]) / count.sum()
    ece, gap = np.abs(excess).max(0).sum(1), excess.sum(2)  # of confidence, over accuracy
    return Chance(
        float(np.quantile(ece, 1 - _LEVEL)),
        float(np.quantile(gap.min(0), _LEVEL / 2)),
        float(np.quantile(gap.max(0), 1 - _LEVEL / 2)),
    )


def range_of_chance(bins: ReliabilityBins) -> tuple[Tensor, Tensor]:
    """Returns the 5 % and 95 % points of each bin's accuracy in a calibrated model.

    They are those of a binomial distribution with the bin's count and mean confidence, of shape
    (M,), and NaN where a bin is empty.

    Example:
        >>> few = ReliabilityBins(*torch.tensor([[20.0], [18.0], [18.0]], dtype=torch.float64))
        >>> [point.item() for point in range_of_chance(few)]
        [0.8, 1.0]
    """
    points = bins.count.new_full((len(bins.count), 2), math.nan)
    for index in bins.count.nonzero().flatten():
        count = bins.count[index].round().clamp(min=1)
        chance = (bins.confidence[index] / bins.count[index]).clamp(0, 1)
        # Only hits within six standard deviations, as there may be millions.
        reach = 6 * (count * chance * (1 - chance)).sqrt() + 10
        least, most = (count * chance - reach).clamp(min=0), (count * chance + reach).min(count)
        hits = torch.arange(int(least), int(most) + 1, dtype=count.dtype)
        chances = Binomial(count, chance).log_prob(hits).softmax(0)  # type: ignore[no-untyped-call]
        place = torch.searchsorted(chances.cumsum(0), count.new_tensor([0.05, 0.95]))
        points[index] = hits[place] / count
    return points[:, 0], points[:, 1]


def verdict_on(bins: ReliabilityBins, temperature: Mapping[str, Any]) -> str:
    """Says in a sentence whether a model is calibrated, and what a temperature would mend.

    Args:
        bins: The sums of all samples.
        temperature: ``"temperature"``, ``"ece_at_temperature"`` and
            ``"noise_floor_at_temperature"``, as by
            :func:`lightning_mixup.temperature.cross_fit`.

    Example:
        >>> bins = ReliabilityBins(*torch.tensor([[1000.0], [700.0], [900.0]]).double())
        >>> at_best = {"temperature": 2.5, "ece_at_temperature": 0.012}
        >>> at_best["noise_floor_at_temperature"] = 0.012
        >>> print(verdict_on(bins, at_best))
        Over-confident by 0.200: it claims 0.900 and is right 0.700 of the time; ECE 0.200 is far
        above the noise floor of 0.008, and logits divided by T = 2.50 would bring it to 0.012.
    """
    if not bins.count.sum():
        return "There were no samples to judge by."
    chance = chance_of(bins)
    ece, gap = float(bins.expected_calibration_error()), float(bins.confidence_gap())
    is_biased = not chance.lowest_gap <= gap <= chance.highest_gap
    if not is_biased and ece <= chance.ece:
        return _unremarkable(bins, chance)
    if ece < _NEGLIGIBLE:
        return (
            f"Well calibrated: ECE {_short(ece)} is more than chance (noise floor "
            f"{_short(float(bins.noise_floor()))}), but too little to matter."
        )
    is_mixed = abs(gap) < _CANCELLED * ece and ece > _FAR * float(bins.noise_floor())
    if is_biased and not is_mixed:
        claim = (
            f"{'Over' if gap > 0 else 'Under'}-confident by {_short(abs(gap))}: it claims "
            f"{_short(float(bins.mean_confidence()))} and is right "
            f"{_short(float(bins.accuracy()))} of the time"
        )
    else:
        rest = f"mostly cancels out (gap {gap:+.3f})" if is_biased else "cancels out"
        claim = f"Over-confident in some bins and under-confident in others, which {rest}"
    return f"{claim}; {_against_floor(bins, chance)}, and {_remedy(bins, temperature)}."


def _unremarkable(bins: ReliabilityBins, chance: Chance) -> str:
    samples, ece = int(bins.count.sum()), _short(float(bins.expected_calibration_error()))
    floor = float(bins.noise_floor())
    if chance.ece <= _BLIND:
        return (
            f"Well calibrated, as far as {samples:,} samples can tell: ECE {ece} is within what "
            f"chance makes of a calibrated model (noise floor {_short(floor)})."
        )
    wanted = _round_up(max(samples * (floor / _GOAL) ** 2, samples + 1, 100))
    return (
        f"Too few samples to tell: of {samples:,}, even a calibrated model may show an ECE of "
        f"{_short(chance.ece)} by chance, and this one shows {ece}; about {wanted:,} would do."
    )


def _against_floor(bins: ReliabilityBins, chance: Chance) -> str:
    ece, floor = float(bins.expected_calibration_error()), float(bins.noise_floor())
    if ece <= chance.ece:
        return f"ECE {_short(ece)} alone might be chance (noise floor {_short(floor)})"
    far = "far " if ece > _FAR * floor else ""
    return f"ECE {_short(ece)} is {far}above the noise floor of {_short(floor)}"


def _remedy(bins: ReliabilityBins, temperature: Mapping[str, Any]) -> str:
    best, mended = temperature["temperature"], temperature["ece_at_temperature"]
    floor = temperature["noise_floor_at_temperature"]
    if best is None and bins.accuracy() == 1:
        return "no temperature is best where every sample is right"
    if best is None:
        return "no temperature mends that, as the logits tell nothing of the labels"
    divided = f"logits divided by T = {_of_three_digits(best)}"
    if mended is None or floor is None:
        return f"{divided} might help: half of the samples do not suffice to tell"
    if mended < _MENDED * float(bins.expected_calibration_error()):
        return f"{divided} would bring it to {_short(mended)}"
    if mended <= _MAYBE_CHANCE * floor:
        return f"{divided} might help: their ECE, {_short(mended)}, may be chance"
    return f"no temperature mends that: {divided}, the best, would have {_short(mended)}"


def _of_three_digits(number: float) -> str:
    return f"{number:.2f}" if 0.1 <= number < 1000 else f"{number:.3g}"


def _short(figure: float) -> str:
    return f"{figure:.3f}" if abs(figure) >= 0.001 or not figure else f"{figure:.2g}"


def _round_up(number: float) -> int:
    """Returns a number with one or two digits that count."""
    power = 10 ** max(0, len(str(int(number))) - 2)
    return int(-(-number // power) * power)
