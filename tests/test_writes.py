"""Tests for lightning_mixup.writes: in-place edits of labels, and writes by label."""

import pytest
import torch
from mixing_by_hand import BATCH, CLASSES, candidates_of, dominant, draw_weights
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_mixup import MixedTarget, merge
from lightning_mixup.targets import Kind

WEIGHTS = pytest.mark.parametrize("per_sample", [False, True], ids=["per_batch", "per_sample"])
EVEN = torch.arange(BATCH) % 2 == 0


def labels(*shape):
    return torch.randint(0, CLASSES, shape or (BATCH,))


def set_item(index, value):
    """Returns a function that edits a tensor in place."""

    def edit(y):
        y[index(y) if callable(index) else index] = value

    return edit


def edit_rows(y):
    for row in y:
        row += 1


def edit_view(y):
    y.view(-1)[EVEN] = -100


def edit_columns(y):
    y.unsqueeze(1).T[0, 3:5] = 7


def subtract_one(y):
    y -= 1


def swap_halves(y):
    y[: BATCH // 2] = y[BATCH // 2 :].clone()


EDITS = {
    "by mask": set_item(EVEN, -100),
    "by own mask": set_item(lambda y: y == 2, -100),
    "by index": set_item(torch.tensor([3, 1]), 9),
    "by slice": set_item(slice(2, 5), 9),
    "all": set_item(..., 9),
    "from a tensor": lambda y: y.__setitem__(EVEN, torch.arange(BATCH // 2).to(y.dtype)),
    "through a view": edit_view,
    "through views of views": edit_columns,
    "row by row": edit_rows,
    "subtract": subtract_one,
    "masked_fill_": lambda y: y.masked_fill_(y == 1, -1),
    "clamp_": lambda y: y.clamp_(1, 2),
    "zero_": lambda y: y.zero_(),
    "copy_": lambda y: y.copy_(torch.arange(BATCH)),
    "index_fill_": lambda y: y.index_fill_(0, torch.tensor([0, 2]), 5),
    "scatter_": lambda y: y.scatter_(0, torch.tensor([1, 2]), 6),
    "add_": lambda y: y.add_(1).mul_(2),
    "data": lambda y: y.data.fill_(3),
    "detached": lambda y: y.detach().fill_(3),
    "out of its own": lambda y: y.add_(y),
}


@WEIGHTS
@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edit_reaches_all_candidates_and_the_own_data(edit, per_sample):
    target = MixedTarget(candidates_of(labels()), draw_weights(per_sample=per_sample))
    expected = [candidate.clone() for candidate in target.candidates]

    edit(target)
    for candidate in expected:
        edit(candidate)

    assert_close(list(target.candidates), expected)
    assert_close(merge(target), expected[0])


@WEIGHTS
@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edit_of_floats_reaches_the_interpolated_value(edit, per_sample):
    """As if the batch had held it, or, if labels decide, between the edited candidates."""
    candidates = candidates_of(labels().double())
    weights = draw_weights(per_sample=per_sample)
    target = MixedTarget(candidates, weights)
    by_labels = edit in (EDITS["by own mask"], EDITS["masked_fill_"])
    before = merge(target).clone()

    edit(target)

    for y in [*candidates, before]:
        edit(y)
    between = sum(w * y for w, y in zip(weights, candidates, strict=True))
    assert_close(merge(target), between if by_labels else before)
    assert_close(
        sorted(target.candidates[0].tolist()), sorted(target.long().tolist()), check_dtype=False
    )


def test_a_swap_of_samples_is_followed_with_one_weight_per_batch():
    target = MixedTarget(candidates_of(labels()), draw_weights(per_sample=False))
    expected = [candidate.clone() for candidate in target.candidates]

    swap_halves(target)
    for candidate in expected:
        swap_halves(candidate)

    assert_close(list(target.candidates), expected)


def test_a_swap_of_samples_takes_their_weights_along():
    target = MixedTarget(candidates_of(labels()), draw_weights(per_sample=True))
    x, (_, second) = torch.randn(BATCH, CLASSES), target.chunk(2)
    expected = F.cross_entropy(x, torch.cat([second, second]))

    swap_halves(target)

    assert_close(F.cross_entropy(x, target), expected)


@WEIGHTS
@pytest.mark.parametrize(
    "edit",
    [
        lambda y: y.unsqueeze_(1),
        lambda y: y.unsqueeze_(0).squeeze_(0),
        lambda y: y.unsqueeze_(-1).transpose_(0, 1),
        lambda y: y.unsqueeze_(-1).t_(),
    ],
    ids=["unsqueeze_", "squeeze_", "transpose_", "t_"],
)
def test_a_view_in_place_is_one_of_every_candidate(edit, per_sample):
    target = MixedTarget(candidates_of(labels()), draw_weights(per_sample=per_sample))
    copy = target.long()
    expected = [edit(row.clone()) for row in target.candidates]

    edit(target)

    assert_close(list(target.candidates), expected)
    assert_close(merge(target), expected[0])
    assert [row.shape for row in copy.candidates] == [(BATCH,), (BATCH,)]
    assert target.weights.ndim == (1 + target.ndim if per_sample else 1)


def test_a_resized_tensor_is_refused():
    target = MixedTarget(candidates_of(labels()), draw_weights(per_sample=False))

    with pytest.raises(
        RuntimeError, match=r"_\(\): it changes a tensor itself, and not its entries"
    ):
        target.resize_as_(labels(3))


def test_another_storage_is_refused():
    target = MixedTarget(candidates_of(labels()), draw_weights(per_sample=False))

    with pytest.raises(RuntimeError, match="changes a tensor itself"):
        target.data = labels()


@WEIGHTS
def test_out_is_refused(per_sample):
    target = MixedTarget(candidates_of(labels()), draw_weights(per_sample=per_sample))

    with pytest.raises(RuntimeError, match=r"eq\(\): it writes into out="):
        torch.eq(target, labels(), out=torch.zeros(BATCH, dtype=torch.bool))


@pytest.mark.parametrize(
    "edit",
    [
        lambda y: y.scatter_(0, y, y),
        lambda y: y.add_(y.flip(0)),
        lambda y: y.__setitem__((y == 1).nonzero().squeeze(1), 0),
        lambda y: F.dropout2d(y.view(1, 1, -1), inplace=True),
    ],
    ids=["scatter_", "turned", "nonzero", "inplace"],
)
def test_an_edit_that_no_rule_follows_is_refused_and_edits_nothing(edit):
    target = MixedTarget(candidates_of(labels()), draw_weights(per_sample=True))
    before = [candidate.clone() for candidate in target.candidates]

    with pytest.raises(RuntimeError, match="Mixed labels have no rule for"):
        edit(target)

    assert_close(list(target.candidates), before)


# Plain tensors that are written to by label.


def one_hot(y, write):
    made = torch.zeros(BATCH, CLASSES)
    write(made, y)
    return made


def write_rows(made, y):
    made[torch.arange(BATCH), y] = 1


def write_through_view(made, y):
    made.view(-1)[y + CLASSES * torch.arange(BATCH)] = 1


def write_through_row(made, y):
    for i in range(BATCH):
        made[i][y[i]] = 1


WRITES = {
    "scatter_": lambda made, y: made.scatter_(1, y[:, None], 1.0),
    "rows": write_rows,
    "through a view": write_through_view,
    "through rows": write_through_row,
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_tensor_that_is_written_to_by_label_is_mixed_itself(write):
    """Whoever holds it will read it, and not what the write returns."""
    target = MixedTarget(candidates_of(labels()), draw_weights(per_sample=False))

    made = one_hot(target, write)

    assert isinstance(made, MixedTarget)
    assert_close(list(made.candidates), [one_hot(y, write) for y in target.candidates])


def test_what_is_a_view_of_it_sees_the_same():
    target = MixedTarget(candidates_of(labels()), draw_weights(per_sample=False))
    base = torch.zeros(2, BATCH, CLASSES)
    view = base[1]

    view.scatter_(1, target[:, None], 1.0)
    base += 1

    expected = F.one_hot(target, CLASSES) + 1.0
    assert_close(list(view.candidates), list(expected.candidates))
    assert_close(list(base[0].candidates), [torch.ones(BATCH, CLASSES)] * 2)


def test_a_view_of_a_part_that_was_detached_is_found_in_it():
    """The part begins in the middle of its memory, but a copy of it does not."""
    target = MixedTarget(candidates_of(labels()), draw_weights(per_sample=False))
    part = torch.zeros(2, BATCH, CLASSES)[1].detach()

    part[:].scatter_(1, target[:, None], 1.0)

    expected = F.one_hot(target, CLASSES).float()
    assert_close(list(part.candidates), list(expected.candidates))


@WEIGHTS
def test_labels_that_losses_are_written_into_read_as_losses(per_sample):
    x = torch.randn(BATCH, CLASSES, dtype=torch.float64, requires_grad=True)
    target = MixedTarget(candidates_of(labels()), draw_weights(per_sample=per_sample))
    losses = F.cross_entropy(x, target, reduction="none")
    written = target.double()

    written.copy_(losses)

    assert_close(merge(written), merge(losses))


@WEIGHTS
def test_gradients_flow_through_what_is_written(per_sample):
    x = torch.randn(BATCH, CLASSES, requires_grad=True)
    target = MixedTarget(candidates_of(labels()), draw_weights(per_sample=per_sample))

    logits = 2 * x
    logits[range(BATCH), target] *= 0
    logits.sum().backward()

    share = F.one_hot(target, CLASSES).to(x)
    expected = 2 * (
        1
        - sum(w.reshape(-1, 1) * c for w, c in zip(target.weights, share.candidates, strict=True))
    )
    assert_close(x.grad, expected.float().expand_as(x.grad))


@WEIGHTS
def test_a_buffer_is_plain_again_in_the_next_step(per_sample):
    """Counts by class, which live as long as the module."""
    counts, expected = torch.zeros(CLASSES), torch.zeros(CLASSES)

    for _ in range(3):
        candidates, weights = candidates_of(labels()), draw_weights(per_sample=per_sample)
        target, own = MixedTarget(candidates, weights), dominant(candidates, weights)
        counts.scatter_add_(0, target, torch.ones(BATCH))
        counts[target] *= 2
        target.usage.ended = True
        expected.scatter_add_(0, own, torch.ones(BATCH))
        expected[own] *= 2

    assert type(counts.clone()) is Tensor
    assert_close(counts.clone(), expected)


def test_a_buffer_of_losses_keeps_their_weighted_sum():
    losses, x = torch.zeros(BATCH), torch.randn(BATCH, CLASSES, requires_grad=True)
    target = MixedTarget(candidates_of(labels()), draw_weights(per_sample=False))
    each = F.cross_entropy(x, target, reduction="none").detach()

    losses[EVEN] = each[EVEN]
    target.usage.ended = True
    other = MixedTarget(candidates_of(labels()), draw_weights(per_sample=False))
    losses[other == -1] = 0

    assert_close(merge(losses), merge(each) * EVEN)


def test_entries_picked_by_label_are_copies():
    """As all that an index tensor picks, though torch views what a single one does."""
    target = MixedTarget([torch.tensor([0, 1]), torch.tensor([1, 0])], torch.tensor([0.7, 0.3]))
    counts = torch.zeros(2)

    counts[target[0]] += 1

    assert_close(list(counts.candidates), [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])])


@pytest.mark.parametrize("part", [lambda w: w, lambda w: w[:]], ids=["whole", "view"])
def test_what_is_no_plain_tensor_is_not_written_to(part):
    target = MixedTarget(candidates_of(labels()), draw_weights(per_sample=False))
    weight = nn.Parameter(torch.zeros(CLASSES, 2))

    with torch.no_grad(), pytest.raises(RuntimeError, match="it writes into a "):
        part(weight)[target] = 1.0

    assert type(weight) is nn.Parameter


def test_what_is_written_into_must_not_be_given_by_keyword():
    target = MixedTarget(candidates_of(labels()), draw_weights(per_sample=False))

    with pytest.raises(RuntimeError, match="is given by keyword what it writes into"):
        torch.relu_(input=target)


def test_a_loss_that_is_written_into_a_part_stays_mixed():
    target = MixedTarget(candidates_of(labels()), draw_weights(per_sample=False))
    loss, losses = F.cross_entropy(torch.randn(BATCH, CLASSES), target), torch.zeros(3)

    losses[0] += loss

    assert_close([row[0] for row in losses.candidates], list(loss.candidates))


@pytest.mark.parametrize("view", [lambda y: y.unfold(0, 2, 2)], ids=["unfold"])
def test_a_view_that_no_rule_follows_is_not_written_to(view):
    """It shares its memory with the dominant candidate alone."""
    target = MixedTarget(candidates_of(labels()), draw_weights(per_sample=True))
    before = [candidate.clone() for candidate in target.candidates]

    with pytest.raises(RuntimeError, match=r"it is given what unfold\(\) made of them"):
        view(target).zero_()

    assert_close(list(target.candidates), before)


def test_what_no_rule_follows_reads_as_the_dominant_write_and_refuses_a_gradient():
    """Here a copy of the whole that the view belongs to would not have the same gaps."""
    target = MixedTarget(candidates_of(labels()), draw_weights(per_sample=False))
    gaps = torch.zeros(2 * BATCH, CLASSES)[::2].detach()

    gaps[:].scatter_(1, target[:, None], 1.0)
    gaps[:, 1].mul_(2)

    expected = F.one_hot(merge(target), CLASSES) * torch.tensor([1.0, 2.0, 1.0, 1.0])
    assert_close(merge(gaps), expected)
    for edit in (torch.mul, Tensor.mul_):
        with pytest.raises(RuntimeError, match=r"it is given what scatter_\(\) made of them"):
            edit(gaps, torch.ones(CLASSES, requires_grad=True))


def test_a_write_names_the_operation_that_had_no_rule():
    target = MixedTarget(candidates_of(labels()), draw_weights(per_sample=True))
    made = torch.zeros(BATCH, CLASSES)

    made.copy_(torch.einsum("bc,cd->bd", F.one_hot(target, CLASSES).float(), torch.eye(CLASSES)))

    with pytest.raises(RuntimeError, match=r"mul\(\): it is given what einsum\(\) made of them"):
        made * torch.ones(CLASSES, requires_grad=True)


# Weights of what is written, with weights per sample.


def test_each_row_has_the_weights_of_the_sample_that_wrote_it():
    target = MixedTarget(candidates_of(labels()), draw_weights(per_sample=True))
    order = torch.randperm(BATCH)
    made = torch.zeros(BATCH, CLASSES)

    made[order, target[order]] = 1

    assert_close(made.weights[:, :, 0], target.weights)


def test_rows_that_nobody_wrote_are_the_same_for_all_candidates():
    target = MixedTarget(candidates_of(labels()), draw_weights(per_sample=True))
    made = torch.zeros(BATCH, CLASSES)

    made[EVEN, target[EVEN]] = 1

    assert_close(made.weights[:, EVEN, 0], target.weights[:, EVEN])
    assert_close(made.weights[0, ~EVEN, 0], torch.ones(BATCH // 2, dtype=torch.float64))


def test_rows_of_other_samples_are_refused():
    target = MixedTarget(candidates_of(labels()), draw_weights(per_sample=True))
    turned = F.one_hot(target.flip(0), CLASSES)

    with pytest.raises(RuntimeError, match="combines samples that have different weights"):
        turned[range(BATCH), target] = 5


def test_single_losses_in_a_buffer_keep_their_weights():
    x = torch.randn(BATCH, CLASSES, dtype=torch.float64, requires_grad=True)
    target = MixedTarget(candidates_of(labels()), draw_weights(per_sample=True))
    losses = torch.zeros(BATCH, dtype=torch.float64)

    for i in range(BATCH):
        losses[i] = x[i, target[i]] ** 2

    assert losses.kind is Kind.LOSS
    assert_close(losses.sum(), (x[range(BATCH), target] ** 2).sum())


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda made, y: made.scatter_(0, y[:, None], 1.0), "writes into other samples"),
        (lambda made, y: made.index_add_(0, y, made.clone()), "writes by label"),
        (lambda made, y: made.__setitem__(y, 1.0), "writes by label elsewhere than in rows"),
        (lambda made, y: made.__setitem__((slice(None), y), 1.0), "elsewhere than in rows"),
        (lambda made, y: made[:].scatter_(1, y[:, None], 1.0), "writes into a view"),
        (lambda made, y: made.__setitem__((range(BATCH), y), y.flip(0)), "different weights"),
        (
            lambda made, y: made.scatter_(1, y[:, None], y.flip(0)[:, None] / 2),
            "different weights",
        ),
        (lambda made, y: made.mul_(y[:, None] * y.flip(0)[:, None]), r"what mul\(\) made of them"),
    ],
    ids=["scatter_", "index_add_", "by label", "columns", "view", "turned", "two", "product"],
)
def test_writes_that_no_rule_follows_are_refused_where_a_gradient_is_at_stake(write, words):
    target = MixedTarget(candidates_of(labels()), draw_weights(per_sample=True))
    made = 2 * torch.randn(BATCH, CLASSES, requires_grad=True)

    with pytest.raises(RuntimeError, match=words):
        write(made, target)
