"""Tests for lightning_mixup.calls: one operation, its candidates and the weights of its result."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_mixup import MixedTarget
from lightning_mixup.calls import Call, NoRuleError
from lightning_mixup.targets import Kind, Usage, plain

B, T = 4, 3
WEIGHTS = torch.tensor([[0.9, 0.6, 0.7, 0.8], [0.1, 0.4, 0.3, 0.2]])


def make_target(*shape, weights=WEIGHTS, usage=None):
    y = torch.arange(B).reshape(B, *[1] * (len(shape) - 1)).expand(shape).contiguous()
    return MixedTarget([y, y.flip(0)], weights, usage)


@pytest.fixture
def y():
    return make_target(B)


@pytest.fixture
def rules_off():
    """As the rules themselves are run: no operation in them is sent to the rules again."""
    with torch._C.DisableTorchFunctionSubclass():
        yield


RULES_OFF = pytest.mark.usefixtures("rules_off")


@RULES_OFF
def test_mixed_tensors_are_found_wherever_they_are(y):
    x = torch.zeros(B)

    call = Call(torch.stack, ([x, y],), {"dim": 0})

    assert call.name == "stack"
    assert [tensor is y for tensor in call.tensors] == [False, True]
    assert call.live == [call.tensors[1]]


@RULES_OFF
def test_what_belongs_to_a_step_that_is_over_is_not_mixed(y):
    y.usage.ended = True

    assert Call(torch.neg, (y,), {}).live == []


@RULES_OFF
def test_an_operation_is_run_on_each_candidate(y):
    call = Call(torch.add, (torch.ones(B, dtype=torch.long), y), {"alpha": 2})

    rows = call.rows()

    assert_close(rows, [1 + 2 * torch.arange(B), 1 + 2 * torch.arange(B).flip(0)])
    assert {type(row) for row in rows} == {Tensor}


@RULES_OFF
def test_of_a_number_the_own_value_comes_first():
    y = MixedTarget([torch.zeros(B), torch.ones(B)], torch.tensor([0.75, 0.25]))

    rows = Call(torch.neg, (y,), {}, Kind.NUMBER).rows()

    assert_close(rows, [torch.full((B,), -0.25), -torch.zeros(B), -torch.ones(B)])


@RULES_OFF
@pytest.mark.parametrize(
    ("others", "with_numbers"),
    [((), True), ((2,), True), ((torch.tensor(2),), True), ((torch.zeros(1),), False)],
    ids=str,
)
def test_a_number_may_be_a_tensor(y, others, with_numbers):
    assert Call(torch.eq, (y, *others), {}).with_numbers == with_numbers


# Whose samples they are.


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (lambda y: y, True),
        (lambda y: y.float(), True),
        (lambda y: y[:, None], True),
        (lambda y: y.view(2, 2).view(-1), True),
        (lambda y: y.flip(0), False),
        (lambda y: y[1:], False),
        (lambda y: y[0], False),
    ],
    ids=["itself", "cast", "column", "there and back", "turned", "later", "the first"],
)
def test_it_is_known_whether_two_arguments_are_of_the_same_samples(y, other, same):
    call = Call(torch.add, (y, other(y)), {})

    assert call.same_samples == same


@pytest.mark.parametrize("index", [torch.tensor([2, 0]), [2, 0], torch.tensor([1, 0, 1, 0]) > 0])
def test_the_same_selection_gives_the_same_samples(y, index):
    first, again, other = y[index], y[index], y[torch.tensor([1, 3])]

    assert Call(torch.add, (first, again), {}).same_samples
    assert not Call(torch.add, (first, other), {}).same_samples


def test_a_selection_that_was_edited_is_another(y):
    index = torch.tensor([2, 0])
    first = y[index]
    index[0] = 1
    other = y[index]

    assert not Call(torch.add, (first, other), {}).same_samples


# Weights of results.


@RULES_OFF
def test_weights_are_aligned_with_the_first_dimensions_of_a_lookup(y):
    weights = Call(torch.nn.functional.one_hot, (y,), {}).aligned_left(torch.zeros(B, 5))

    assert_close(weights, WEIGHTS[:, :, None])


@RULES_OFF
def test_weights_are_aligned_as_broadcasting_aligns():
    y = make_target(B, 1)

    weights = Call(torch.add, (y, torch.zeros(7, B, T)), {}).aligned_right(torch.zeros(7, B, T))

    assert_close(weights, WEIGHTS[:, None, :, None])


@RULES_OFF
def test_one_weight_per_batch_needs_no_alignment():
    y = make_target(B, weights=torch.tensor([0.7, 0.3]))

    assert_close(Call(torch.neg, (y,), {}).aligned_right(torch.zeros(B)), torch.tensor([0.7, 0.3]))


@RULES_OFF
@pytest.mark.parametrize(
    ("align", "result", "words"),
    [
        (Call.aligned_left, torch.zeros(T), "combines samples"),
        (Call.aligned_left, torch.zeros(()), "makes one value of samples"),
        (Call.aligned_right, torch.zeros(B, T), "combines samples"),
        (Call.aligned_right, torch.zeros(()), "combines samples"),
    ],
)
def test_what_does_not_align_has_no_rule(y, align, result, words):
    with pytest.raises(NoRuleError, match=f"{words}.* that have different weights"):
        align(Call(torch.neg, (y,), {}), result)


@RULES_OFF
def test_two_that_align_at_different_places_have_no_rule():
    usage = Usage()
    row, column = make_target(B, usage=usage), make_target(B, 1, usage=usage)

    with pytest.raises(NoRuleError, match="combines samples that have different weights"):
        Call(torch.eq, (row, column), {}).aligned_right(torch.zeros(B, B))


@RULES_OFF
def test_a_result_stays_mixed(y):
    call = Call(torch.neg, (y,), {}, Kind.LOSS)
    rows = [torch.zeros(B), torch.ones(B)]

    mixed = call.mixed(rows, WEIGHTS)

    assert_close(list(mixed.candidates), rows)
    assert (mixed.kind, mixed.usage) == (Kind.LOSS, y.usage)


@RULES_OFF
def test_the_data_of_a_loss_of_the_batch_is_the_merged_one(y):
    call = Call(torch.neg, (y,), {}, Kind.LOSS)
    rows = [torch.tensor(0.0), torch.tensor(1.0)]

    mixed = call.mixed(rows, torch.tensor([0.75, 0.25]))

    assert_close(list(mixed.candidates), rows)
    assert_close(plain(mixed), torch.tensor(0.25))


@RULES_OFF
@pytest.mark.parametrize("value", ["torch.LongTensor", 3, None])
def test_what_is_no_tensor_passes(y, value):
    assert Call(torch.neg, (y,), {}).mixed([value, value], WEIGHTS) is value


@RULES_OFF
def test_a_refusal_names_the_operation_and_the_ways_out(y):
    with pytest.raises(
        NoRuleError,
        match=r"no rule for neg\(\): it is impossible\..*per_sample=False.*"
        r"Name the submodule .*MixupCallback\(loss='criterion'\).*targets=None",
    ):
        Call(torch.neg, (y,), {}).refuse("is impossible")


def test_a_refusal_is_a_runtime_error():
    assert issubclass(NoRuleError, RuntimeError)
