"""Tests for lightning_mixup.trees."""

from collections import defaultdict, namedtuple

import pytest
import torch
from torch.testing import assert_close

from lightning_mixup.trees import fingerprint, map_tensors, map_together, tensors_in

Pair = namedtuple("Pair", ["first", "second"])
ONE, TWO = torch.tensor([1.0]), torch.tensor([2.0])


def test_tensors_are_changed_wherever_they_are():
    tree = {"a": [ONE, (TWO, "word")], "b": Pair(ONE, slice(TWO, None, 3)), "c": None}

    changed = map_tensors(tree, lambda tensor: tensor + 1)

    expected = {"a": [TWO, (TWO + 1, "word")], "b": Pair(TWO, slice(TWO + 1, None, 3)), "c": None}
    assert changed == expected


def test_the_tree_is_never_modified():
    tree = {"a": [ONE]}

    changed = map_tensors(tree, torch.neg)

    assert changed is not tree
    assert changed["a"] is not tree["a"]
    assert tree["a"][0] is ONE


@pytest.mark.parametrize(
    "tree", [[1], (1, 2), Pair(1, 2), torch.Size([2, 3]), {"a": 1}, slice(1, 2), "word", 1.5, None]
)
def test_what_holds_no_tensor_is_rebuilt_as_it_was(tree):
    changed = map_tensors(tree, torch.neg)

    assert changed == tree
    assert type(changed) is type(tree)


def test_what_torch_returns_by_name_keeps_its_names():
    values = torch.max(torch.tensor([[1.0, 3.0]]), dim=1)

    changed = map_tensors(values, lambda tensor: tensor + 1)

    assert_close([changed.values, changed.indices], [torch.tensor([4.0]), torch.tensor([2])])


def test_leaves_at_the_same_place_are_combined():
    trees = [{"a": [k, (k, Pair(k, 2 * k))]} for k in (1, 10)]

    combined = map_together(lambda *leaves: sum(leaves), trees)

    assert combined == {"a": [11, (11, Pair(11, 22))]}


def test_a_size_is_one_leaf():
    sizes = [torch.Size([2, 3]), torch.Size([4, 3])]

    assert map_together(lambda *leaves: leaves, sizes) == tuple(sizes)


def test_trees_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="zip"):
        map_together(max, [(1, 2), (1,)])


def test_tensors_are_found_in_order():
    three = torch.tensor([3.0])

    found = tensors_in(({"a": [ONE, "b"]}, slice(TWO, None), 4, Pair(three, None)))

    assert [tensor.item() for tensor in found] == [1, 2, 3]


@pytest.mark.parametrize(
    "tree", [0, "word", None, ..., (1, [2]), slice(1, None), {"a": ONE}, torch.Size([2])], ids=str
)
def test_a_fingerprint_is_hashable_and_the_same_for_the_same(tree):
    assert hash(fingerprint(tree)) == hash(fingerprint(tree))
    assert fingerprint(tree) == fingerprint(tree)


def test_a_fingerprint_tells_tensors_apart_and_edits():
    index = torch.tensor([0, 1])
    before, equal = fingerprint([index]), fingerprint([index.clone()])

    index[0] = 2

    assert len({before, equal, fingerprint([index])}) == 3


@pytest.mark.parametrize(
    ("tree", "other"), [(1, True), (1, 1.0), ([1, 2], [2, 1]), (slice(1), 1), ({"a": 1}, {"b": 1})]
)
def test_a_fingerprint_tells_other_trees_apart(tree, other):
    assert fingerprint(tree) != fingerprint(other)


def test_what_cannot_be_hashed_is_known_by_itself():
    array = torch.tensor([1, 2]).numpy()

    assert fingerprint(array) == fingerprint(array) != fingerprint(array.copy())


def test_a_dict_keeps_its_type_and_what_else_it_holds():
    tree = defaultdict(list, a=torch.tensor(1))

    changed = map_tensors(tree, torch.neg)

    assert (type(changed), changed.default_factory, changed["a"].item()) == (defaultdict, list, -1)
    assert tree["a"].item() == 1
