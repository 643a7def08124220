"""Tests for lightning_mixup.temperature: the best one number to divide logits by."""

import copy
import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import nn
from torch.distributions import Categorical
from torch.nn.functional import cross_entropy
from torchmetrics.functional.classification import multiclass_calibration_error

from lightning_mixup.errors import MixupTypeError, MixupValueError
from lightning_mixup.reservoir import Kept
from lightning_mixup.temperature import TemperatureScaled, best_temperature, cross_fit


def drawn(temperature=1.0, size=2000, classes=5, scale=3.0):
    """Returns logits and labels of which that temperature is about the best."""
    logits = scale * torch.randn(size, classes)
    return logits, Categorical(logits=logits / temperature).sample()


def by_scipy(logits, target):
    """Returns the best temperature by scipy's scalar optimisation, over its logarithm."""
    found = minimize_scalar(
        lambda x: cross_entropy(logits.double() / torch.tensor(x).exp(), target).item(),
        bracket=(-1, 1),
        tol=1e-10,
    )
    return torch.tensor(found.x).exp().item()


def halves(logits, target):
    return Kept(logits, target, torch.arange(len(target)) % 2 == 1)


@pytest.mark.parametrize("temperature", [0.05, 0.6, 1.0, 3.0, 50.0])
@pytest.mark.parametrize("classes", [2, 5, 100])
def test_it_is_what_scipy_finds(temperature, classes):
    logits, target = drawn(temperature, classes=classes)

    assert best_temperature(logits, target) == pytest.approx(by_scipy(logits, target), rel=1e-6)


@pytest.mark.parametrize("factor", [1e-4, 1 / 3, 3, 1e4])
def test_it_grows_with_the_logits(factor):
    logits, target = drawn()

    scaled = best_temperature(logits.double() * factor, target)

    assert scaled == pytest.approx(factor * best_temperature(logits.double(), target), rel=1e-8)


def test_constants_change_nothing():
    """As a softmax knows logits up to a constant for each sample only."""
    logits, target = drawn()

    shifted = best_temperature(logits + 50 * torch.randn(len(target), 1), target)

    assert shifted == pytest.approx(best_temperature(logits, target), rel=1e-5)


def test_the_order_changes_nothing():
    logits, target = drawn()
    order = torch.randperm(len(target))

    shuffled = best_temperature(logits[order], target[order])

    assert shuffled == pytest.approx(best_temperature(logits, target), rel=1e-12)


def test_processes_find_together_what_one_finds():
    """Two halves, one of them in the place of the sums that another process would send."""
    logits, target = drawn()
    whole = best_temperature(logits, target)
    sent = []
    best_temperature(logits, target, pool=lambda sums: sent.append(sums) or sums)

    steps = iter(sent)
    found = best_temperature(logits[:0], target[:0], pool=lambda sums: next(steps))

    assert found == whole


@pytest.mark.parametrize(
    ("logits", "target"),
    [
        ([[2.0, 0.0], [0.0, 1.0]], [0, 1]),
        ([[2.0, 0.0], [0.0, 1.0]], [1, 0]),
        ([[1.0, 0.0], [0.0, 1.0]], [0, 0]),
        ([[1.0, 1.0], [0.0, 0.0]], [0, 1]),
    ],
    ids=["all right", "all wrong", "no better than chance", "no opinion"],
)
def test_where_none_is_best_there_is_none(logits, target):
    assert best_temperature(torch.tensor(logits), torch.tensor(target)) is None


def test_of_no_samples_there_is_none():
    assert best_temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)) is None


def test_classes_that_are_ruled_out_stay_so():
    logits, target = drawn(classes=3)
    wider = torch.cat([logits, torch.full((len(target), 2), -torch.inf)], 1)

    assert best_temperature(wider, target) == pytest.approx(best_temperature(logits, target))


def test_samples_whose_own_class_is_ruled_out_say_nothing():
    """Their loss is infinite at every temperature."""
    logits, target = drawn(2.0)
    best = best_temperature(logits[3:], target[3:])

    logits[range(3), target[:3]] = -torch.inf

    assert best_temperature(logits, target) == best


def test_half_precision_is_widened():
    logits, target = drawn()
    rounded = logits.half()

    assert best_temperature(rounded, target) == best_temperature(rounded.float(), target)


def test_figures_at_the_temperature_are_those_of_each_half_scaled_by_the_others():
    logits, target = drawn(2.0)
    even, odd = (by_scipy(logits[half::2], target[half::2]) for half in range(2))
    scaled = logits.double().clone()
    scaled[0::2] /= odd
    scaled[1::2] /= even
    p = scaled.softmax(1)

    figures = cross_fit(halves(logits, target))

    ece = multiclass_calibration_error(p, target, num_classes=5, n_bins=15)
    one_hot = nn.functional.one_hot(target, 5)
    gap = p.amax(1).mean() - (p.argmax(1) == target).double().mean()
    assert figures["temperature"] == pytest.approx(by_scipy(logits, target), rel=1e-6)
    assert figures["temperature_samples"] == len(target)
    assert figures["ece_at_temperature"] == pytest.approx(ece.item(), abs=1e-5)
    assert figures["nll_at_temperature"] == pytest.approx(cross_entropy(scaled, target).item())
    brier = (p - one_hot).square().sum(1).mean().item()
    assert figures["brier_at_temperature"] == pytest.approx(brier, abs=1e-6)
    assert figures["confidence_gap_at_temperature"] == pytest.approx(gap.item(), abs=1e-6)
    # About: the mean deviation of a normal variable, in each of 15 bins.
    place = (15 * p.amax(1)).long()
    count, sums = place.bincount(), place.bincount(p.amax(1))
    floor = (sums - sums.square() / count).nan_to_num().mul(2 / torch.pi).sqrt().sum() / len(p)
    assert figures["noise_floor_at_temperature"] == pytest.approx(floor.item(), abs=1e-5)


def test_without_errors_in_one_half_there_is_a_temperature_and_no_figures_at_it():
    logits = torch.tensor([[3.0, 0.0]]).expand(8, 2)
    target = torch.tensor([0, 0, 0, 1, 0, 0, 0, 1])

    figures = cross_fit(halves(logits, target))

    assert figures["temperature"] is not None
    assert figures["ece_at_temperature"] is None


class Pair(nn.Module):
    def forward(self, x, y):
        return x + y


def export(module, *inputs):
    return torch.export.export(module, inputs).module()


def load_saved(module, *inputs):
    made = TemperatureScaled(copy.deepcopy(module.module), 1.0)
    made.load_state_dict(module.state_dict())
    return made


@pytest.mark.parametrize(
    "deploy",
    [
        lambda module, *inputs: module,
        lambda module, *inputs: pickle.loads(pickle.dumps(module)),
        lambda module, *inputs: copy.deepcopy(module),
        lambda module, *inputs: torch.compile(module, backend="eager", fullgraph=True),
        export,
        load_saved,
    ],
    ids=["plain", "pickled", "copied", "compiled", "exported", "loaded"],
)
@pytest.mark.parametrize("network", [nn.Linear(3, 2), Pair()], ids=["one input", "two inputs"])
def test_a_scaled_module_divides_however_it_is_deployed(deploy, network):
    inputs = [torch.randn(4, 3)] * (1 if isinstance(network, nn.Linear) else 2)
    scaled = TemperatureScaled(network, 2.5)

    deployed = deploy(scaled, *inputs)

    torch.testing.assert_close(deployed(*inputs), network(*inputs) / 2.5)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize(
    "script", [torch.jit.script, lambda m: torch.jit.trace(m, torch.ones(4, 3))]
)
def test_a_scaled_module_can_be_scripted_and_traced(script):
    network, x = nn.Linear(3, 2), torch.randn(4, 3)

    scripted = script(TemperatureScaled(network, 2.5))

    torch.testing.assert_close(scripted(x), network(x) / 2.5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_the_logits_keep_their_dtype(dtype):
    """Also where the module was cast whole."""
    scaled = TemperatureScaled(nn.Identity(), 2.0)
    x = torch.ones(2, 3, dtype=dtype)

    assert scaled(x).dtype == dtype
    assert scaled.to(dtype)(x).dtype == dtype


def test_the_temperature_is_seen_and_not_trained():
    scaled = TemperatureScaled(nn.Linear(3, 2), 1.25)

    assert "temperature=1.25" in repr(scaled)
    assert sum(p.numel() for p in scaled.parameters()) == 8


@pytest.mark.parametrize("temperature", [2, np.float32(2), torch.tensor(2.0), Fraction(2)])
def test_any_real_number_is_a_temperature(temperature):
    assert TemperatureScaled(nn.Identity(), temperature)(torch.tensor(4.0)) == 2


@pytest.mark.parametrize("temperature", [0, -1.0, torch.inf, torch.nan, torch.tensor(0.0)])
def test_temperatures_that_are_not_positive_are_refused(temperature):
    with pytest.raises(
        MixupValueError, match=r"not above 0 and finite\. Give 1 to change nothing"
    ):
        TemperatureScaled(nn.Identity(), temperature)


@pytest.mark.parametrize("temperature", [None, "2", True, torch.ones(2)])
def test_what_is_no_number_is_refused(temperature):
    with pytest.raises(MixupTypeError, match="Give a number, such as CalibrationMonitor"):
        TemperatureScaled(nn.Identity(), temperature)


def test_what_is_no_module_is_refused():
    with pytest.raises(MixupTypeError, match=r"Give an nn\.Module that returns logits"):
        TemperatureScaled(torch.relu, 2.0)


def test_a_module_that_returns_more_than_logits_is_refused():
    with pytest.raises(
        MixupTypeError, match=r"returned a tuple, not a tensor\. Give a module whose"
    ):
        TemperatureScaled(nn.LSTM(3, 2), 2.0)(torch.ones(1, 3))
