"""Temperature scaling: one number that the logits are divided by, after training.

It changes no prediction and mends what over- and under-confidence have in common over all
samples. Shapes: M samples, C classes.
"""

# Without `from __future__ import annotations`, as TorchScript takes no strings for types.

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from lightning_mixup.calibration import CalibrationStatistics
from lightning_mixup.errors import MixupTypeError, MixupValueError
from lightning_mixup.reservoir import Kept

__all__ = ["Pool", "TemperatureScaled", "best_temperature", "cross_fit"]

# Adds up numbers over processes, each of which must take part.
Pool: TypeAlias = Callable[[list[Any]], list[Any]]

_CHUNK = 1 << 20  # numbers that are widened to float64 at a time
_STEPS = 200
_PRECISION = 1e-12


class TemperatureScaled(nn.Module):
    """A module that returns logits, with these divided by a temperature: to deploy.

    ``TemperatureScaled(model, monitor.temperature)`` predicts the same classes with other
    confidences. It can be scripted, exported, compiled and pickled as far as the module can; to
    script it, the module must take one input. The temperature is in the ``state_dict``.

    Reference:
        | On Calibration of Modern Neural Networks (Guo, Pleiss, Sun and Weinberger, 2017),
        | section 4.2, https://arxiv.org/abs/1706.04599

    Args:
        module: Returns logits, what goes into the softmax or sigmoid. Never modified.
        temperature: Above 0. Above 1 it makes the module less confident, below 1 more so.

    Raises:
        MixupTypeError: If the module is none, or the temperature no number.
        MixupValueError: If the temperature is not above 0, or not finite.

    Example:
        >>> scaled = TemperatureScaled(nn.Identity(), 2.0)
        >>> scaled(torch.tensor([[4.0, 0.0]]))
        tensor([[2., 0.]])
    """

    temperature: Tensor

    def __init__(self, module: nn.Module, temperature: float) -> None:
        super().__init__()
        if not isinstance(module, nn.Module):
            raise MixupTypeError(
                f"module={module!r} is a {type(module).__name__}. Give an nn.Module that returns "
                "logits."
            )
        self.module = module
        self.register_buffer("temperature", torch.tensor(_checked(temperature)))

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Returns the module's logits, divided by the temperature.

        Raises:
            MixupTypeError: If the module returns no tensor.
        """
        logits = self.module(*args, **kwargs)
        if not isinstance(logits, Tensor):
            raise MixupTypeError(
                f"{type(self.module).__name__} returned a {type(logits).__name__}, not a tensor. "
                "Give a module whose forward returns the logits alone."
            )
        return logits / self.temperature

    def extra_repr(self) -> str:
        """Shows the temperature."""
        return f"temperature={self.temperature.item():.4g}"

    def __prepare_scriptable__(self) -> nn.Module:
        """Has TorchScript, which knows no ``*args``, script a chain of the two."""
        return nn.Sequential(self.module, _Divide(self.temperature))


class _Divide(nn.Module):
    """The last of the two modules that TorchScript is given."""

    temperature: Tensor

    def __init__(self, temperature: Tensor) -> None:
        super().__init__()
        self.register_buffer("temperature", temperature)

    def forward(self, logits: Tensor) -> Tensor:
        return logits / self.temperature


def _checked(temperature: object) -> float:
    if isinstance(temperature, Tensor) and temperature.numel() == 1:
        temperature = temperature.item()
    if isinstance(temperature, bool) or not isinstance(temperature, Real):
        raise MixupTypeError(
            f"temperature={temperature!r} is a {type(temperature).__name__}. Give a number, such "
            "as CalibrationMonitor.temperature, which is None where none could be fitted."
        )
    if not 0 < float(temperature) < math.inf:
        raise MixupValueError(
            f"temperature={temperature!r} is not above 0 and finite. Give 1 to change nothing."
        )
    return float(temperature)


def _alone(sums: list[Any]) -> list[Any]:
    return sums


def best_temperature(logits: Tensor, target: Tensor, *, pool: Pool = _alone) -> float | None:
    r"""Returns the temperature with the least negative log-likelihood.

    .. math:: T = \operatorname*{arg\,min}_T
        -\sum_i \log \operatorname{softmax}(z_i / T)_{y_i}

    In :math:`\beta = 1 / T` that is convex, so Newton's method, kept within what brackets the
    root of the gradient, finds it.

    Reference:
        | On Calibration of Modern Neural Networks (Guo, Pleiss, Sun and Weinberger, 2017),
        | section 4.2, https://arxiv.org/abs/1706.04599

    Args:
        logits: Floating-point, of shape (M, C). Samples with NaN or infinite ones should be left
            out; a class may be ruled out by :math:`-\infty`.
        target: Class indices, of shape (M,).
        pool: Adds up numbers over processes, each of which must take part.

    Returns:
        The temperature, above 0. None where none is best: without any sample; where every sample
        is classified correctly, so that the smaller the better; or where the logits say nothing
        of the target, or worse, so that the larger the better.

    Example:
        >>> logits = torch.tensor([[3.0, 0.0], [3.0, 0.0], [3.0, 0.0], [3.0, 0.0]])
        >>> target = torch.tensor([0, 0, 0, 1])  # right in 3 of 4, so 3 / T = log 3
        >>> round(best_temperature(logits, target), 4)
        2.7307
    """
    lead = _lead(logits, target)
    (contested,) = pool([float((lead.amax(1) > 0).sum())] if len(lead) else [0.0])
    if not contested or pool(_derivatives(lead, 0.0))[0] >= 0:
        return None
    beta, low, high = 1.0, 0.0, math.inf
    for _ in range(_STEPS):
        slope, curvature = pool(_derivatives(lead, beta))
        low, high = (beta, high) if slope < 0 else (low, beta)
        next_beta = beta - slope / curvature if curvature > 0 else math.nan
        if not low <= next_beta <= high:
            next_beta = 10 * beta if high == math.inf else (low + high) / 2
        if abs(next_beta - beta) <= _PRECISION * beta:
            break
        beta = next_beta
    return 1 / beta


def _lead(logits: Tensor, target: Tensor) -> Tensor:
    """Returns how far each logit is above that of the sample's class."""
    wide = _wide(logits)
    own = wide.gather(1, target.unsqueeze(1))
    lead = wide - own
    # A sample whose own class is ruled out has an infinite loss at every temperature.
    return lead[own.squeeze(1).isfinite()]


def _derivatives(lead: Tensor, beta: float) -> list[float]:
    """Returns the first and second derivative of the summed negative log-likelihood by beta."""
    slope = curvature = 0.0
    for chunk in torch.split(lead, max(1, _CHUNK // max(1, lead.shape[1]))):
        # A class that is ruled out has no weight at beta > 0; at 0, it stays ruled out.
        # Classes first: of two, sums over the last dimension take three times as long.
        x = chunk.T.contiguous().double()
        p = torch.where(x == -math.inf, -math.inf, beta * x).softmax(0)
        x = x.masked_fill(x == -math.inf, 0)
        mean = (p * x).sum(0)
        slope += float(mean.sum())
        curvature += float((p * (x - mean).square()).sum())
    return [slope, curvature]


_AT_BEST = ("confidence_gap", "ece", "nll", "brier", "noise_floor")


def cross_fit(kept: Kept, *, pool: Pool = _alone) -> dict[str, float | None]:
    """Returns the best temperature of all samples, and what temperatures do for unseen ones.

    Each half of the samples is scaled by the best temperature of the other half. The bins of both
    are pooled before a figure is taken of them, as the mean of two halves' ECE would have the
    noise of halves.

    Args:
        kept: Samples, as by :meth:`lightning_mixup.reservoir.Reservoir.keep`; the two halves are
            those in even and in odd positions of the data.
        pool: Adds up numbers over processes, each of which must take part.

    Returns:
        ``"temperature"``; ``"ece_at_temperature"`` and likewise ``noise_floor``,
        ``confidence_gap``, ``nll`` and ``brier``; and ``"temperature_samples"``, how many it was
        fitted on. None where there is no best temperature; of the figures, where a half has none.

    Example:
        >>> logits = torch.tensor([[3.0, 0.0]]).expand(8, 2)
        >>> target, is_odd = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1]), torch.arange(8) % 2 == 1
        >>> figures = cross_fit(Kept(logits, target, is_odd))
        >>> round(figures["temperature"], 3), round(figures["ece_at_temperature"], 6)
        (2.731, 0.0)
    """
    logits, target, is_odd = kept
    halves = [Kept(logits[half], target[half], is_odd[half]) for half in (~is_odd, is_odd)]
    whole = best_temperature(logits, target, pool=pool)
    best = [best_temperature(half.logits, half.target, pool=pool) for half in halves]
    (samples,) = pool([len(target)])
    figures: dict[str, float | None] = {"temperature": whole}
    figures |= {f"{name}_at_temperature": None for name in _AT_BEST}
    of_other = [each for each in reversed(best) if each is not None]
    if len(of_other) == len(halves):
        statistics = CalibrationStatistics()
        for half, scale in zip(halves, of_other, strict=True):
            if len(half.target):
                statistics.update(_wide(half.logits) / scale, half.target)
        statistics.sums = torch.tensor(pool(statistics.sums.tolist()))
        at_best = {**statistics.headline(), "noise_floor": statistics.bins().noise_floor()}
        figures |= {f"{name}_at_temperature": float(at_best[name]) for name in _AT_BEST}
    return {**figures, "temperature_samples": int(samples)}


def _wide(logits: Tensor) -> Tensor:
    return logits.float() if logits.element_size() < 4 else logits
