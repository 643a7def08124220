"""Tests for lightning_mixup.blend and lightning_mixup.partners: two samples become one."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lightning_mixup.blend import interpolate, transpose_interpolate
from lightning_mixup.partners import partner_indices, take_partners

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


def test_partners_are_a_cyclic_shift():
    x = torch.randn(5, 2)

    assert torch.equal(take_partners(x, 2), x[partner_indices(2, 5)])
    assert partner_indices(2, 5).tolist() == [2, 3, 4, 0, 1]


@pytest.mark.parametrize("x", [torch.arange(5), torch.ones(5, dtype=torch.bool)], ids=["i", "b"])
def test_refuses_what_cannot_be_averaged(x):
    with pytest.raises(TypeError, match=r"blends floating-point tensors, but `x` has dtype"):
        interpolate(x, 0.5, 1)


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
