"""Tests for lightning_mixup.targets: what a mixed tensor is, holds and becomes."""

import copy
import gc
import io
import pickle
import weakref

import pytest
import torch
from mixing_by_hand import BATCH, CLASSES, candidates_of, dominant, draw_weights
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_mixup import MixedTarget, merge
from lightning_mixup.targets import Kind, Usage, is_live, plain

WEIGHTS = pytest.mark.parametrize("per_sample", [False, True], ids=["per_batch", "per_sample"])
DTYPES = [torch.int64, torch.int32, torch.uint8, torch.bool]


def labels(*shape):
    return torch.randint(0, CLASSES, shape or (BATCH,))


def make_target(y, *, per_sample=False, count=2):
    weights = draw_weights(per_sample=per_sample, batch=len(y), candidates=count)
    return MixedTarget(candidates_of(y, count), weights)


def interpolated(candidates, weights):
    return sum(
        w.reshape(-1, *[1] * (y.ndim - 1)) * y for w, y in zip(weights, candidates, strict=True)
    )


def losses_of(target):
    """Returns per-sample losses of a target, which stay mixed."""
    torch.manual_seed(1)
    x = torch.randn(BATCH, CLASSES, dtype=torch.float64, requires_grad=True)
    return F.cross_entropy(x, target, reduction="none")


# What it holds.


@WEIGHTS
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("shape", [(BATCH,), (BATCH, 1), (BATCH, 5), (BATCH, 2, 3)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_labels_read_as_the_dominant_candidate(dtype, shape, count, per_sample):
    candidates = candidates_of(labels(*shape).to(dtype), count)
    weights = draw_weights(per_sample=per_sample, candidates=count)

    target = MixedTarget(candidates, weights)

    assert_close(merge(target), dominant(candidates, weights))
    assert (target.shape, target.dtype, target.device) == (shape, dtype, candidates[0].device)


@WEIGHTS
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("shape", [(BATCH,), (BATCH, 1), (BATCH, 5)], ids=str)
def test_floats_read_as_the_interpolated_value(shape, count, per_sample):
    candidates = candidates_of(torch.randn(shape, dtype=torch.float64), count)
    weights = draw_weights(per_sample=per_sample, candidates=count)

    target = MixedTarget(candidates, weights)

    assert_close(merge(target), interpolated(candidates, weights), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floats_of_weight_one_are_unchanged_bit_for_bit(dtype):
    y = torch.randn(BATCH, 2).to(dtype)

    target = MixedTarget(candidates_of(y), torch.tensor([1.0, 0.0], dtype=torch.float64))

    assert_close(merge(target), y, rtol=0, atol=0)


def test_the_dominant_candidate_lies_in_memory_of_its_own():
    """So that a metric that keeps it keeps nothing else."""
    y = labels()

    assert plain(make_target(y)).untyped_storage().nbytes() == y.untyped_storage().nbytes()


def test_a_candidate_without_weight_may_be_infinite():
    y, infinite = torch.tensor([1.0, 2.0]), torch.tensor([float("inf"), float("nan")])

    target = MixedTarget([y, infinite], torch.tensor([1.0, 0.0]))

    assert_close(merge(target), y, rtol=0, atol=0)


def test_the_first_of_equals_is_dominant():
    target = MixedTarget([torch.tensor([0, 1]), torch.tensor([2, 3])], torch.ones(2) / 2)

    assert target.tolist() == [0, 1]


@WEIGHTS
def test_candidates_are_ranked_by_weight_and_sum_to_one(per_sample):
    target = make_target(labels(), per_sample=per_sample, count=3)

    weights = target.weights

    assert_close(weights, weights.sort(dim=0, descending=True).values)
    assert_close(weights.sum(dim=0), torch.ones_like(weights[0]))


def test_the_given_tensors_are_never_modified():
    candidates, weights = candidates_of(labels()), draw_weights(per_sample=True)
    before = copy.deepcopy((candidates, weights))
    target = MixedTarget(candidates, weights)

    target[:] = -1
    target += 1

    assert_close((candidates, weights), before)


@pytest.mark.parametrize(
    ("candidates", "weights", "words"),
    [
        ([torch.zeros(3), torch.zeros(4)], torch.ones(2), r"float32 \(3,\)', 'float32 \(4,\)'"),
        ([torch.zeros(3), torch.zeros(3).long()], torch.ones(2), r"float32.*int64.*must be alike"),
        ([torch.zeros(3)] * 2, torch.ones(3), r"shape \(3,\).*for 2 candidates.*Give floats of"),
        ([torch.zeros(3)] * 2, torch.ones(2, 4), r"shape \(2, 4\).*or \(2, 3\) with weights per"),
        ([torch.zeros(3)] * 2, torch.ones(2).long(), r"dtype torch.int64.*Give floats"),
    ],
    ids=["shapes", "dtypes", "too many", "other batch", "integers"],
)
def test_what_does_not_fit_is_refused(candidates, weights, words):
    with pytest.raises(ValueError, match=words):
        MixedTarget(candidates, weights)


# What stays mixed: structure.

STRUCTURES = {
    "clone": lambda y: y.clone(),
    "detach": lambda y: y.detach(),
    "contiguous": lambda y: y.contiguous(),
    "to": lambda y: y.to(torch.int32).to("cpu").cpu().long(),
    "view": lambda y: y.view(-1, 3).reshape(-1),
    "slices": lambda y: torch.cat([y[:5], y[5:]]),
    "chunks": lambda y: torch.cat(y.chunk(4)),
    "unbind": lambda y: torch.stack(y.unbind()),
    "iteration": lambda y: torch.stack(list(y)),
    "unpacked": lambda y: torch.stack([*y]),
    "split": lambda y: torch.concat(y.split(5), dim=0),
    "two turns": lambda y: y.flip(0).flip(0),
    "reversed": lambda y: reversed(y).flip(0),
    "index": lambda y: y[torch.arange(BATCH)],
    "mask": lambda y: y[torch.ones(BATCH, dtype=torch.bool)],
    "columns": lambda y: y.unsqueeze(1).expand(-1, 2)[:, 1],
    "transposed": lambda y: y.view(1, -1).T.squeeze(),
    "where": lambda y: torch.where(y >= 0, y, -y),
    "masked_fill": lambda y: y.masked_fill(y < 0, 0),
    "arithmetic": lambda y: (2 * y + 1) // 2,
    "float and back": lambda y: y.float().long(),
    "deepcopy": copy.deepcopy,
    "pickle": lambda y: pickle.loads(pickle.dumps(y)),
}


@WEIGHTS
@pytest.mark.parametrize("change", STRUCTURES.values(), ids=STRUCTURES)
def test_structure_acts_on_candidates_and_weights_alike(change, per_sample):
    x = torch.randn(BATCH, CLASSES, dtype=torch.float64)
    target = make_target(labels(), per_sample=per_sample)

    changed = change(target)

    assert isinstance(changed, MixedTarget)
    assert_close(merge(changed), merge(target))
    assert_close(F.cross_entropy(x, changed), F.cross_entropy(x, target), rtol=0, atol=1e-12)


@WEIGHTS
@pytest.mark.parametrize("where", [0, 1])
def test_plain_tensors_that_are_joined_have_weight_one(where, per_sample):
    x = torch.randn(2 * BATCH, CLASSES, dtype=torch.float64)
    y, target = labels(), make_target(labels(), per_sample=per_sample)
    own, other = x.chunk(2) if where == 0 else x.chunk(2)[::-1]

    joined = torch.cat([target, y] if where == 0 else [y, target])

    expected = (F.cross_entropy(own, target) + F.cross_entropy(other, y)) / 2
    assert_close(F.cross_entropy(x, joined), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_a_cast_does_not_touch_the_weights(dtype):
    target = make_target(labels())

    assert target.to(dtype).weights is target.weights


@WEIGHTS
@pytest.mark.parametrize("form", ["view_as", "type_as", "to", "expand_as", "reshape_as"])
def test_what_takes_the_form_of_a_label_does_not_become_mixed(form, per_sample):
    target, x = make_target(labels(), per_sample=per_sample), torch.randn(BATCH)

    assert type(getattr(x, form)(target)) is Tensor


@WEIGHTS
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32], ids=str)
def test_the_name_of_the_type_is_plain(dtype, per_sample):
    y = labels().to(dtype)
    target = make_target(y, per_sample=per_sample)

    assert target.type() == y.type()
    assert torch.zeros(2).type(target.type()).dtype == y.dtype


# What reads.


def test_a_label_is_no_key_that_changes():
    target = make_target(labels())

    assert hash(target) == hash(target) == id(target)


@pytest.mark.parametrize(
    "read",
    [str, repr, len, Tensor.tolist, Tensor.numpy, lambda y: y[0].item(), lambda y: int(y[1])],
)
def test_what_reads_a_label_sees_the_dominant_one(read):
    target = make_target(labels())

    assert str(read(target)) == str(read(merge(target)))


@WEIGHTS
def test_losses_read_as_their_weighted_sum(per_sample):
    candidates, weights = candidates_of(labels()), draw_weights(per_sample=per_sample)

    losses = losses_of(MixedTarget(candidates, weights))

    by_hand = sum(w * losses_of(y) for w, y in zip(weights, candidates, strict=True))
    assert_close(torch.tensor(losses.tolist(), dtype=torch.float64), by_hand.detach())
    assert_close(merge(losses), by_hand)


@WEIGHTS
def test_casts_and_comparisons_make_labels_of_floats(per_sample):
    y = (torch.rand(BATCH, 3) > 0.5).float()
    candidates, weights = candidates_of(y), draw_weights(per_sample=per_sample)
    target, own = MixedTarget(candidates, weights), dominant(candidates, weights)

    casts = [target.long(), target.bool(), target > 0.5, target == 1, target.argmax(dim=1)]

    expected = [own.long(), own.bool(), own > 0.5, own == 1, own.argmax(dim=1)]
    assert {cast.kind for cast in casts} == {Kind.LABEL}
    assert_close(merge(casts), expected)


@pytest.mark.parametrize("test", [torch.isnan, torch.isfinite, lambda y: y != y])
def test_what_is_missing_in_one_is_missing_in_between(test):
    missing = torch.tensor([1.0, float("nan"), 2.0])
    target = MixedTarget([missing, torch.ones(3)], torch.tensor([0.4, 0.6]))

    assert_close(test(target), test(missing))


# merge() and the end of a step.


def test_merge_leaves_other_trees_as_they_are():
    tree = {"loss": torch.ones(1), "n": 3}

    assert merge(tree) is tree


def test_merge_reaches_into_trees():
    target = make_target(labels())
    tree = {"y": target, "more": [(target, 1), "word"]}

    merged = merge(tree)

    assert type(merged["y"]) is type(merged["more"][0][0]) is Tensor
    assert_close(merged["y"], plain(target))
    assert type(tree["y"]) is MixedTarget


@WEIGHTS
def test_after_its_step_a_label_is_plain_in_every_way(per_sample):
    x, target = torch.randn(BATCH, CLASSES), make_target(labels(), per_sample=per_sample)
    own = merge(target)

    target.usage.ended = True

    assert not is_live(target)
    assert type(target.clone()) is type(target + 1) is type(target[:3]) is Tensor
    assert type(target.as_subclass(Tensor)) is Tensor
    assert_close(F.cross_entropy(x, target), F.cross_entropy(x, own))


@WEIGHTS
def test_after_its_step_a_loss_is_still_the_weighted_sum(per_sample):
    """As modules collect losses over an epoch."""
    losses = losses_of(make_target(labels(), per_sample=per_sample)).detach()
    before = merge(losses)

    losses.usage.ended = True

    assert_close(torch.stack([losses, losses]).mean(), before.mean())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda y: pickle.loads(pickle.dumps(y))])
@pytest.mark.parametrize("make", [lambda y: y, losses_of], ids=["labels", "losses"])
def test_after_its_step_a_copy_is_a_plain_tensor(make, copied):
    kept = make(make_target(labels())).detach()
    own = merge(kept)

    kept.usage.ended = True

    assert type(copied(kept)) is Tensor
    assert_close(copied(kept), own)


def test_after_its_step_a_checkpoint_holds_plain_tensors():
    """Which `torch.load` takes without trusting the file."""
    module = nn.Module()
    module.register_buffer("counts", torch.zeros(CLASSES))
    target, file = make_target(labels()), io.BytesIO()
    module.counts[target] += 1
    target.usage.ended = True

    torch.save(module.state_dict(), file)

    file.seek(0)
    assert_close(torch.load(file, weights_only=True)["counts"], merge(module.counts))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda y: pickle.loads(pickle.dumps(y))])
@WEIGHTS
def test_copies_of_one_batch_still_meet(copied, per_sample):
    usage, weights = Usage(), draw_weights(per_sample=per_sample)
    targets = [MixedTarget(candidates_of(labels()), weights, usage) for _ in range(2)]

    y, z = copied(targets)

    assert_close(merge(y + z), merge(targets[0] + targets[1]))


def test_a_copy_shares_nothing_with_the_original():
    target = make_target(labels())
    before = [candidate.clone() for candidate in target.candidates]

    copy.deepcopy(target).fill_(-1)

    assert_close(list(target.candidates), before)


# Whether labels met a gradient.

MEETINGS = {
    "loss": (True, lambda x, y: F.cross_entropy(x, y)),
    "gather": (True, lambda x, y: x.gather(1, y[:, None])),
    "index": (True, lambda x, y: x[range(BATCH), y]),
    "product": (True, lambda x, y: x[:, 0] * y),
    "where": (True, lambda x, y: torch.where(y == 1, x[:, 0], x[:, 1])),
    "written": (True, lambda x, y: (1 * x).scatter_(1, y[:, None], 0)),
    "joined": (True, lambda x, y: torch.cat([x[:, 0], y.double()])),
    "comparison": (False, lambda x, y: x[:, 0] == y),
    "rank": (False, lambda x, y: x[:, 0] > y),
    "cast": (False, lambda x, y: y.type_as(x)),
    "form": (False, lambda x, y: y.view_as(x[:, 0])),
    "detached": (False, lambda x, y: F.cross_entropy(x.detach(), y)),
    "read": (False, lambda x, y: x[:, 0] * y.numpy().sum()),
}


@WEIGHTS
@pytest.mark.parametrize(("meets", "operation"), MEETINGS.values(), ids=MEETINGS)
def test_it_is_known_whether_labels_met_a_gradient(meets, operation, per_sample):
    x = torch.randn(BATCH, CLASSES, dtype=torch.float64, requires_grad=True)
    target = make_target(labels(), per_sample=per_sample)

    operation(x, target)

    assert target.usage.met_gradient == meets


def test_without_gradients_labels_meet_none():
    target = make_target(labels())

    with torch.no_grad():
        F.cross_entropy(torch.randn(BATCH, CLASSES, requires_grad=True), target)

    assert not target.usage.met_gradient


# Memory.


@pytest.mark.parametrize("make", [lambda y: y, losses_of, lambda y: y.view(3, -1).T[0]])
def test_a_mixed_tensor_is_freed_at_once(make):
    """Without the garbage collector, which does not see through torch."""
    gc.disable()
    made = make(make_target(labels()))
    alive = [weakref.ref(candidate) for candidate in made.others]

    del made

    gc.enable()
    assert [reference() for reference in alive] == [None] * len(alive)
