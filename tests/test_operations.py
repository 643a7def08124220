"""Tests for lightning_mixup.operations: what operations do to a batch, told by their names."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import get_testing_overrides
from torch.testing import assert_close

from lightning_mixup import operations
from lightning_mixup.operations import (
    BATCH_SUMS,
    COMPARISONS,
    ELEMENTWISE,
    FACTS,
    JOINS,
    NUMBERS,
    REDUCTIONS,
    STRUCTURE,
    is_asked_in_place,
    is_sum_of_sizes,
    layout,
    looks_up_samples,
    name_of,
    parameters_of,
    reduced_dims,
    takes_reduction,
    weights_after,
    writes_elementwise,
    writes_in_place,
)

B, T, U = 4, 3, 2
INDEX, MASK = torch.tensor([2, 0, 0]), torch.tensor([True, False, True, True])
FAMILIES = {
    name: family for name, family in vars(operations).items() if isinstance(family, frozenset)
}
SPACES = (torch, Tensor, F, torch.linalg, torch._C._VariableFunctions, property)


# Names.


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_family_holds_operations_of_torch(family):
    """A name with a typing error would be a rule that never applies."""
    overridable = {name_of(function) for function in get_testing_overrides()}
    known = overridable.union(*map(dir, SPACES))

    assert family <= known


def test_an_operation_has_one_treatment():
    assert not STRUCTURE & (FACTS | NUMBERS | ELEMENTWISE | REDUCTIONS | JOINS)
    assert not (FACTS | NUMBERS) & (ELEMENTWISE | REDUCTIONS | JOINS)
    assert not ELEMENTWISE & (REDUCTIONS | JOINS)


def test_comparisons_are_elementwise_and_sums_are_reductions():
    assert COMPARISONS <= ELEMENTWISE
    assert BATCH_SUMS <= REDUCTIONS


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (torch.eq, "eq"),
        (Tensor.__getitem__, "__getitem__"),
        (F.cross_entropy, "cross_entropy"),
        (Tensor.T.__get__, "T"),
        (Tensor.data.__get__, "data"),
        (Tensor.shape.__get__, "shape"),
        (Tensor.grad_fn.__get__, "__get__"),
        (Tensor.data.__set__, "__set__"),
    ],
    ids=range(8),
)
def test_a_property_that_views_has_a_name_of_its_own(function, name):
    assert name_of(function) == name


@pytest.mark.parametrize(
    "name", ["add_", "__iadd__", "__setitem__", "index_put_", "__set__", "module_load"]
)
def test_these_write_in_place(name):
    assert writes_in_place(name)


@pytest.mark.parametrize("name", ["add", "__add__", "__invert__", "__getitem__", "__get__"])
def test_these_do_not_write_in_place(name):
    assert not writes_in_place(name)


@pytest.mark.parametrize("name", ["add_", "__imul__", "masked_fill_", "copy_", "clamp_"])
def test_these_write_entry_by_entry(name):
    assert writes_elementwise(name)


@pytest.mark.parametrize("name", ["__setitem__", "scatter_", "index_add_", "sort_", "cumsum_"])
def test_these_do_not_write_entry_by_entry(name):
    assert not writes_elementwise(name)


def test_a_signature_is_known_of_what_is_written_in_python():
    assert dict(parameters_of(F.cross_entropy))["reduction"] == "mean"
    assert parameters_of(torch.gather) == ()
    assert takes_reduction(F.cross_entropy)
    assert not takes_reduction(torch.gather)


@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [
        ("sum", (), {}),
        ("sum", (1,), {}),
        ("sum", (-1,), {}),
        ("sum", ((0, 2),), {}),
        ("sum", (), {"dim": [0, -1]}),
        ("mean", (), {"axis": 1}),
        ("sum", ((),), {}),
        ("std", (True,), {}),
        ("amax", (2,), {}),
        ("norm", (2, 1), {}),
        ("norm", (), {"dim": (0, 1)}),
        ("logsumexp", (0,), {}),
    ],
    ids=str,
)
def test_the_dimensions_of_a_reduction_are_those_that_vanish(name, args, kwargs):
    x = torch.randn(B, T, U)
    result = getattr(x, name)(*args, **kwargs)

    dims = reduced_dims(name, x.ndim, (x, *args), kwargs)

    assert result.shape == torch.Size([size for d, size in enumerate(x.shape) if d not in dims])


def test_normalize_runs_over_the_classes_unless_told_otherwise():
    assert reduced_dims("normalize", 3, (None,), {}) == {1}
    assert reduced_dims("normalize", 3, (None, 2.0, -1), {}) == {2}


@pytest.mark.parametrize(
    ("name", "args", "dims"),
    [
        ("topk", (2,), {2}),
        ("topk", (2, 0), {0}),
        ("sort", (), {2}),
        ("argsort", (1,), {1}),
        ("argsort", (), {2}),
        ("cosine_similarity", (torch.ones(B, T, U),), {1}),
        ("cosine_similarity", (torch.ones(B, T, U), -1), {2}),
        ("pairwise_distance", (torch.ones(B, T, U),), {2}),
    ],
    ids=str,
)
def test_what_has_a_dimension_of_its_own_runs_over_that(name, args, dims):
    assert reduced_dims(name, 3, (torch.ones(B, T, U), *args), {}) == dims


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "is_sum"),
    [
        ("norm", (), {}, False),
        ("norm", (1,), {}, True),
        ("norm", (), {"p": 1}, True),
        ("vector_norm", (), {"ord": 1}, True),
        ("vector_norm", (2,), {}, False),
        ("amax", (1,), {}, False),
    ],
    ids=str,
)
def test_a_norm_of_order_one_is_a_sum_of_sizes(name, args, kwargs, is_sum):
    assert is_sum_of_sizes(name, (torch.ones(B), *args), kwargs) is is_sum


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "samples"),
    [
        ("gather", (0,), {}, True),
        ("gather", (-2,), {}, True),
        ("gather", (), {"dim": 1}, False),
        ("take_along_dim", (INDEX, 0), {}, True),
        ("take_along_dim", (INDEX, 1), {}, False),
        ("take_along_dim", (INDEX,), {}, True),
        ("take", (INDEX,), {}, False),
        ("one_hot", (), {}, False),
    ],
    ids=str,
)
def test_it_is_known_where_a_lookup_runs_over_the_samples(name, args, kwargs, samples):
    assert looks_up_samples(name, (torch.ones(B, T), *args), kwargs) is samples


@pytest.mark.parametrize(
    ("args", "kwargs", "in_place"),
    [((), {}, False), ((), {"inplace": True}, True), ((0.5, True, True), {}, True)],
    ids=str,
)
def test_a_function_may_be_asked_to_write_in_place(args, kwargs, in_place):
    assert is_asked_in_place(F.dropout, (torch.ones(B), *args), kwargs) is in_place


# Weights that travel with the samples.

EVERY_FIFTH = (torch.arange(B * T * U) % 5 == 0).reshape(B, T, U)
GET = Tensor.__getitem__
MOVES = [
    (Tensor.clone,),
    (Tensor.double,),
    (Tensor.view, (B * T, U)),
    (Tensor.view, -1),
    (Tensor.view, (2, 2, T, 1, U)),
    (Tensor.reshape, (B, T * U)),
    (Tensor.flatten, 1),
    (Tensor.unflatten, 0, (2, 2)),
    (torch.ravel,),
    (Tensor.squeeze,),
    (Tensor.unsqueeze, -1),
    (Tensor.transpose, 0, 1),
    (Tensor.permute, 2, 0, 1),
    (Tensor.movedim, 0, -1),
    (Tensor.mT.__get__,),
    (Tensor.narrow, 0, 1, 2),
    (Tensor.select, 0, 1),
    (Tensor.expand, 5, B, T, U),
    (Tensor.chunk, 2),
    (Tensor.split, [1, 3]),
    (Tensor.unbind, 1),
    (Tensor.diagonal, 0, 0, 1),
    (Tensor.unfold, 0, 2, 1),
    (Tensor.index_select, 0, INDEX),
    (Tensor.roll, 1),
    (Tensor.roll, 1, 0),
    (Tensor.flip, 0),
    (Tensor.__reversed__,),
    (Tensor.repeat, 2, 1, 1),
    (Tensor.repeat, 3, 1, 1, 2),
    (Tensor.tile, (2, 1)),
    (Tensor.repeat_interleave, 2, 0),
    (Tensor.repeat_interleave, 2),
    (GET, 1),
    (GET, (slice(1, None), slice(None, None, 2))),
    (GET, (..., 1)),
    (GET, (None, slice(None), None)),
    (GET, INDEX),
    (GET, [2, 0]),
    (GET, MASK),
    (GET, (INDEX, INDEX % 2)),
    (GET, (slice(None), INDEX)),
    (GET, True),
    (GET, EVERY_FIFTH),
    (Tensor.masked_select, EVERY_FIFTH),
    (Tensor.take, INDEX),
]


def pieces_of(result):
    return [result] if isinstance(result, Tensor) else list(result)


@pytest.mark.parametrize(
    "varies", [(B, 1, 1), (B, T, 1), (1, T, 1), (B, 1, U), (B, T, U)], ids=str
)
@pytest.mark.parametrize("move", MOVES, ids=lambda move: f"{name_of(move[0])}{move[1:]}")
def test_weights_move_as_entries_do(move, varies):
    """The oracle is a weight for every single entry, moved as the entries themselves."""
    (move, *args), shape = move, torch.Size([B, T, U])
    weights = torch.rand(2, *varies)
    pieces = pieces_of(move(torch.zeros(shape), *args))
    entries = [pieces_of(move(row.expand(shape).clone(), *args)) for row in weights]

    moved = weights_after(move, name_of(move), shape, weights, pieces, tuple(args), {})

    expanded = [w.expand(2, *piece.shape) for w, piece in zip(moved, pieces, strict=True)]
    expected = [torch.stack(rows) for rows in zip(*entries, strict=True)]
    assert_close(expanded, expected, check_dtype=False)
    assert all(w.ndim == 1 + piece.ndim for w, piece in zip(moved, pieces, strict=True))


@pytest.mark.parametrize(
    ("move", "shape"),
    [
        ((Tensor.clone,), (2, B, 1, 1)),
        ((Tensor.unsqueeze, 1), (2, B, 1, 1, 1)),
        ((Tensor.transpose, 0, 2), (2, 1, 1, B)),
        ((GET, slice(2)), (2, 2, 1, 1)),
        ((GET, INDEX), (2, 3, 1, 1)),
        ((Tensor.flip, 0), (2, B, 1, 1)),
        ((Tensor.repeat, 2, 1, 1), (2, 2 * B, 1, 1)),
        ((Tensor.flatten, 1), (2, B, 1)),
        ((Tensor.flatten,), (2, B * T * U)),
    ],
    ids=str,
)
def test_weights_stay_small_where_they_do_not_vary(move, shape):
    """So that a sum over the classes of a sample keeps the sample's weight."""
    (move, *args), y = move, torch.zeros(B, T, U)
    pieces = pieces_of(move(y, *args))

    (moved,) = weights_after(
        move, name_of(move), y.shape, torch.rand(2, B, 1, 1), pieces, tuple(args), {}
    )

    assert moved.shape == shape


@pytest.mark.parametrize(
    "move",
    [(Tensor.unsqueeze, 0), (Tensor.transpose, 0, 1), (Tensor.view, (B, 1, T * U)), (GET, ...)],
    ids=lambda move: name_of(move[0]),
)
def test_the_weights_of_a_view_lie_where_they_lay(move):
    weights, (move, *args), y = torch.rand(2, B, 1, 1), move, torch.zeros(B, T, U)

    (moved,) = weights_after(
        move, name_of(move), y.shape, weights, [move(y, *args)], tuple(args), {}
    )

    assert layout(moved) == layout(weights)


@pytest.mark.parametrize(
    "other",
    [
        lambda weights: weights.clone(),
        lambda weights: weights[:, 1:],
        lambda weights: weights[:, :-1],
        lambda weights: weights[:, 0],
        lambda weights: weights.flip(1),
    ],
    ids=["copied", "later", "fewer", "one", "turned"],
)
def test_the_layout_tells_other_samples_apart(other):
    weights = torch.rand(2, B)

    assert layout(other(weights)) != layout(weights)


def test_the_layout_knows_a_sample_again():
    weights = torch.rand(2, B)

    assert layout(weights[:, 1]) == layout(weights.unsqueeze(2)[:, 1]) != layout(weights[:, 2])
