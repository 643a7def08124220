"""Tests for lightning_mixup.blend and lightning_mixup.partners: two samples become one."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lightning_mixup import Mixup, Overlay, ResizeMix, SamplePairing
from lightning_mixup.blend import (
    combine,
    interpolate,
    transpose_combine,
    transpose_interpolate,
)
from lightning_mixup.partners import partner_indices, take_partners


@pytest.fixture(autouse=True, params=[2**20, 0], ids=["few bytes", "many bytes"])
def size(request, monkeypatch):
    """Few bytes and many are blended in ways of their own."""
    monkeypatch.setattr("lightning_mixup.blend._SMALL", request.param)


SHAPES = [(5,), (5, 3), (5, 3, 4, 2)]
WEIGHTS = {
    "per-batch": 0.3,
    "per-sample": np.array([0.1, 0.9, 0.5, 0.0, 1.0]),
    "per-batch-beyond": 1.3,
    "per-sample-beyond": np.array([1.4, -0.3, 0.5, 2.0, 1.0]),
}
each_weight = pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("shift", [1, 2, 4])
@each_weight
def test_each_sample_is_blended_with_its_partner(shape, shift, weight):
    x = torch.randn(shape, dtype=torch.float64)
    share = np.broadcast_to(weight, 5)

    blended = interpolate(x, weight, shift)

    for i in range(5):
        expected = share[i] * x[i] + (1 - share[i]) * x[(i + shift) % 5]
        assert_close(blended[i], expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("weight", [1.0, np.ones(5)], ids=["per-batch", "per-sample"])
def test_full_weight_is_the_identity(shape, weight):
    x = torch.randn(shape)
    x[0] = torch.inf  # a partner that would make NaN of everything

    assert torch.equal(interpolate(x, weight, 1), x)


# Rounded to half precision, whose steps are 0.0005 below one and 0.001 above it.
each_one = pytest.mark.parametrize("one", [1 - 1e-4, 1 + 4e-4])


@each_one
def test_a_weight_that_rounds_to_one_copies(one):
    x = torch.tensor([1.0, torch.inf, 2.0], dtype=torch.float16)

    assert torch.equal(interpolate(x, np.array([one, 0.5, one]), 1)[[0, 2]], x[[0, 2]])
    assert torch.equal(interpolate(x, one, 1), x)


@each_one
def test_a_weight_that_rounds_to_one_passes_its_gradient_to_nobody_else(one):
    grad = torch.tensor([torch.inf, 1.0, 2.0], dtype=torch.float16)

    passed = transpose_interpolate(grad, np.array([one, 0.5, one]), 1)

    assert passed.tolist() == [torch.inf, 0.5, 2.5]
    assert torch.equal(transpose_interpolate(grad, one, 1), grad)


@each_weight
def test_commutes_with_linear_maps(weight):
    """Why one draw serves every layer."""
    x, w = torch.randn(5, 3).double(), torch.randn(3, 4).double()

    assert_close(interpolate(x @ w, weight, 2), interpolate(x, weight, 2) @ w)


def test_one_weight_keeps_the_mean():
    x = torch.randn(5, 3).double()

    assert_close(interpolate(x, WEIGHTS["per-batch"], 2).mean(0), x.mean(0))


@each_weight
def test_has_the_right_gradient(weight):
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(lambda x: interpolate(x, weight, 2), x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@each_weight
def test_dtype_and_memory_format_are_kept(dtype, weight):
    x = torch.randn(5, 3, 4, 4).to(dtype).to(memory_format=torch.channels_last)

    blended = interpolate(x, weight, 1)

    assert blended.dtype == dtype
    assert blended.is_contiguous(memory_format=torch.channels_last)
    reference = interpolate(x.double(), weight, 1)
    assert_close(blended.double(), reference, rtol=0, atol=8 * torch.finfo(dtype).eps)


@each_weight
def test_memory_format_is_kept_by_partners_anywhere(weight):
    x = torch.randn(5, 3, 4, 4).to(memory_format=torch.channels_last)
    shift = torch.tensor([1, 3, 0, 2, 1])

    assert interpolate(x, weight, shift).is_contiguous(memory_format=torch.channels_last)
    summed = combine(x, 0.5, [(weight, shift), (0.25, 2)])
    assert summed.is_contiguous(memory_format=torch.channels_last)


@each_weight
def test_non_contiguous_and_complex_inputs_are_blended(weight):
    x = torch.randn(3, 5, dtype=torch.complex128).T

    assert_close(interpolate(x, weight, 2), interpolate(x.clone(), weight, 2))
    assert_close(interpolate(x, weight, 2).real, interpolate(x.real, weight, 2))


@each_weight
def test_the_input_is_never_modified(weight):
    x = torch.randn(5, 3)
    before = x.clone()

    interpolate(x, weight, 1)

    assert torch.equal(x, before)


def test_the_device_is_kept():
    assert interpolate(torch.empty(5, 3, device="meta"), WEIGHTS["per-sample"], 1).is_meta


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("other", [torch.float16, torch.bfloat16])
def test_any_type_is_blended_under_autocast(dtype, other):
    """Of which torch joins halves of its own type alone."""
    x = torch.randn(5, 3).to(dtype)

    with torch.autocast("cpu", dtype=other):
        blended, partners = interpolate(x, 0.5, 1), take_partners(x, 2)

    assert torch.equal(blended, interpolate(x, 0.5, 1))
    assert torch.equal(partners, x[[2, 3, 4, 0, 1]])


@pytest.mark.parametrize("shift", [1, 3])
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float16, torch.complex64])
def test_partners_of_any_layout_keep_it(dtype, shift):
    x = (torch.randn(5, 2, 4, 4) > 0).to(dtype)
    layouts = [x, x.contiguous(memory_format=torch.channels_last), x[..., 1:3], x.transpose(1, 3)]

    for given in layouts:
        partners = take_partners(given, shift)

        assert torch.equal(partners, given[partner_indices(shift, 5)])
        assert partners.stride() == torch.empty_like(given).stride()


def test_partners_are_a_cyclic_shift():
    x = torch.randn(5, 2)

    assert torch.equal(take_partners(x, 2), x[partner_indices(2, 5)])
    assert partner_indices(2, 5).tolist() == [2, 3, 4, 0, 1]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool], ids=str)
@pytest.mark.parametrize(
    "recipe",
    [Mixup(1.0), Mixup(1.0, rounds=2), ResizeMix(), SamplePairing(), Overlay()],
    ids=repr,
)
def test_refuses_what_cannot_be_averaged(recipe, dtype):
    x = torch.ones(5, 1, 4, 4, dtype=dtype)
    with pytest.raises(TypeError, match=r"blends floating-point tensors, but `x` has dtype"):
        recipe(x, torch.eye(5))


def test_refuses_weights_of_another_batch():
    with pytest.raises(ValueError, match=r"5 samples in `x` but 3 weights"):
        interpolate(torch.randn(5), np.ones(3), 1)


@each_weight
def test_nothing_is_kept_for_the_backward_pass(weight):
    """So that a mixed layer holds one copy of its features alive, what it hands on."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda x: x):
        blended = interpolate(torch.randn(5, 3, requires_grad=True), weight, 2)

    blended.sum().backward()

    assert kept == []


@each_weight
@pytest.mark.parametrize("shift", [1, 2, 4])
def test_the_gradient_and_its_gradient_are_those_of_the_formula(weight, shift):
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(lambda x: interpolate(x, weight, shift), x)
    assert torch.autograd.gradgradcheck(lambda x: interpolate(x, weight, shift), x)


@each_weight
@pytest.mark.parametrize("shift", [1, 3])
def test_transposing_is_the_adjoint(weight, shift):
    """The sum of <Mx, g> is that of <x, M'g>."""
    x, grad = torch.randn(2, 5, 3).double()

    forward = (interpolate(x, weight, shift) * grad).sum()

    assert_close(forward, (x * transpose_interpolate(grad, weight, shift)).sum())


@pytest.mark.parametrize("shift", [0, 5, 6, -1])
def test_a_partner_outside_the_batch_is_refused(shift):
    with pytest.raises(ValueError, match=f"5 samples in `x` and shift={shift}"):
        interpolate(torch.randn(5, 3), 0.5, shift)


# Weights beyond 0 and 1.

BEYOND = {
    "above": 1.4,
    "below": -0.3,
    "per-sample": np.array([1.4, -0.3, 0.5, 1.0, 1 + 1e-9]),
}
each_beyond = pytest.mark.parametrize("weight", BEYOND.values(), ids=BEYOND)
SHIFTS = {"cyclic": 2, "each": torch.tensor([1, 3, 0, 2, 1])}
each_shift = pytest.mark.parametrize("shift", SHIFTS.values(), ids=SHIFTS)


def matrix(own, parts):
    """Returns what blending multiplies by, of shape (B, B)."""
    rows = np.arange(5)
    made = np.diag(np.broadcast_to(own, 5).astype(float))
    for share, shift in parts:
        np.add.at(made, (rows, (rows + np.asarray(shift)) % 5), np.broadcast_to(share, 5))
    alone = np.all([np.broadcast_to(shift, 5) == 0 for _, shift in parts], axis=0)
    made[alone] = np.eye(5)[alone]
    return torch.tensor(made)


@each_beyond
@each_shift
def test_beyond_0_and_1_samples_are_extrapolated(weight, shift):
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)

    expected = matrix(weight, [(1 - weight, shift)]) @ x
    assert_close(interpolate(x, weight, shift), expected, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x: interpolate(x, weight, shift), x)
    assert torch.autograd.gradgradcheck(lambda x: interpolate(x, weight, shift), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@each_shift
def test_only_what_rounds_to_one_is_copied(dtype, shift):
    x = torch.tensor([1.0, 2.0, 3.0, 4.0, torch.inf]).to(dtype)
    near = 1 + torch.finfo(dtype).eps / 4

    assert torch.equal(interpolate(x, near, shift), x)
    assert torch.equal(interpolate(x, np.full(5, near), shift), x)
    assert not torch.equal(interpolate(x, 1.5, shift)[:2], x[:2])


# Sums of several.

SUMS = {
    "two rounds": (0.25, [(0.25, 1), (0.5, 3)]),
    "a sum": (1.0, [(1.0, 2)]),
    "per sample": (np.linspace(0, 1, 5), [(np.linspace(1, 0, 5), 1)]),
    "partners of each": (0.5, [(0.5, SHIFTS["each"])]),
    "a sum, partners of each": (1.0, [(1.0, SHIFTS["each"]), (1.0, SHIFTS["each"])]),
    "both": (np.linspace(0, 1, 5), [(0.5, SHIFTS["each"]), (np.linspace(0.5, -0.5, 5), 4)]),
}
each_sum = pytest.mark.parametrize(("own", "parts"), SUMS.values(), ids=SUMS)


@each_sum
def test_sums_have_the_value_and_the_gradients_of_the_matrix(own, parts):
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)

    assert_close(combine(x, own, parts), matrix(own, parts) @ x, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x: combine(x, own, parts), x)
    assert torch.autograd.gradgradcheck(lambda x: combine(x, own, parts), x)


@each_sum
def test_sums_are_passed_back_by_the_transposed_matrix(own, parts):
    grad = torch.randn(5, 3, dtype=torch.float64)

    passed = transpose_combine(grad, own, parts)

    assert_close(passed, matrix(own, parts).T @ grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("share", [0.0, np.array([0.0, 1, 1, 0, 1])], ids=["all", "some"])
def test_of_what_has_no_share_it_does_not_matter_what_it_holds(share):
    """Neither in value nor in gradient."""
    x, grad = torch.ones(5, 2), torch.ones(5, 2)
    x[1], grad[0] = torch.nan, torch.inf

    blended = combine(x, 1.0, [(share, 1)])

    assert blended[0].tolist() == [1.0, 1.0]
    assert transpose_combine(grad, 1.0, [(share, 1)])[1].isfinite().all()
