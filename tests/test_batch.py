"""Tests for lightning_mixup.batch: what is found in a batch, and a copy with it replaced."""

import re
from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_mixup.batch import find_entries, get_entry, looks_mixed, replace_entries

X, Y = torch.randn(4, 3), torch.arange(4)
Pair = namedtuple("Pair", ["label", "image"])


class Encoding(UserDict):
    """A dict of another library, like Hugging Face's."""


@dataclass(frozen=True)
class Sample:
    """A batch that nobody can write to."""

    image: object
    label: object = None


@dataclass(slots=True)
class Slotted:
    first: object
    label: object = None


class Record:
    """An object with attributes, as a collate function of one's own may return."""

    def __init__(self, image, label=None):
        self.image, self.label, self._cache = image, label, {"secret": X}

    def to(self, device):
        return self


class Graph:
    """Looks like a dict, iterates over pairs and can be called, like PyG's Data."""

    def __init__(self, **entries):
        self.store = entries

    def keys(self):
        return list(self.store)

    def __iter__(self):
        return iter(self.store.items())

    def __getitem__(self, key):
        return self.store[key]

    def __setitem__(self, key, value):
        self.store[key] = value

    def __copy__(self):
        return Graph(**self.store)

    def __call__(self):
        return iter(self)


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (Sample(X, Y), "'image', with the target 'label'"),
        (
            {"image": X, "label": Y, "weight": X[:, 0]},
            "'image', with the target 'label' and 'weight'",
        ),
        ({"image": X, "label": Y, "weights": torch.ones(7)}, "'image', with the target 'label'"),
        (Slotted(X, Y), "'first', with the target 'label'"),
        (Record(X, Y), "'image', with the target 'label'"),
        (SimpleNamespace(x=X, y=Y), "'x', with the target 'y'"),
        (Graph(x=X, y=Y), "'x', with the target 'y'"),
        ((Sample(X), Y), "'0.image', with the target batch[1]"),
        ({"data": Record(X), "label": Y}, "'data.image', with the target 'label'"),
        ((X, Y), "batch[0], with the target batch[1]"),
        ([X, Y], "batch[0], with the target batch[1]"),
        ([[X, X], Y], "batch[0][0] and batch[0][1], with the target batch[1]"),
        ({"image": X, "label": Y}, "'image', with the target 'label'"),
        ({"Input": X, "Target": Y}, "'Input', with the target 'Target'"),
        ({"image": X, "mask": Y}, "'image', with the target 'mask'"),
        ({"x": X, "y": X}, "'x', with the target 'y'"),
        (
            {"pixel_values": X, "labels": Y, "path": ["a"] * 4},
            "'pixel_values', with the target 'labels'",
        ),
        ({"image": X, "label": Y, "sample_id": Y}, "'image', with the target 'label'"),
        ({"image": X, "label": Y, "mean": torch.zeros(3)}, "'image', with the target 'label'"),
        ({"glucose": X, "label": Y}, "'glucose', with the target 'label'"),
        ({"image": X, "audio": X, "label": Y}, "'image' and 'audio', with the target 'label'"),
        (({"image": X}, Y), "'0.image', with the target batch[1]"),
        ({"data": {"image": X}, "label": Y}, "'data.image', with the target 'label'"),
        (Pair(Y, X), "batch[1], with the target batch[0]"),
        (Encoding(image=X, label=Y), "'image', with the target 'label'"),
        ((X, Y, ["a", "b", "c", "d"]), "batch[0], with the target batch[1]"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_the_usual_forms_are_found(batch, expected):
    entries = find_entries(batch)

    assert entries.describe() == expected
    assert entries.batch_size == 4
    assert entries.device == torch.device("cpu")


@pytest.mark.parametrize(
    ("batch", "inputs", "targets", "expected"),
    [
        ((Y, X), 1, 0, "batch[1], with the target batch[0]"),
        ((Y, X), -1, -2, "batch[1], with the target batch[0]"),
        ((X, Y, X), 0, 1, "batch[0], with the target batch[1]"),
        ((X, Y, X), [0, 2], 1, "batch[0] and batch[2], with the target batch[1]"),
        ({"a": X, "b": Y}, "a", "b", "'a', with the target 'b'"),
        ({"a": X, "b": Y}, "auto", "b", "'a', with the target 'b'"),
        ({"image": X, "b": Y}, "image", "b", "'image', with the target 'b'"),
        ({"a": {"left": X, "right": X}, "label": Y}, ["a.left", "a.right"], "label", None),
        (({"image": X, "age": X}, Y), "0.image", 1, "'0.image', with the target batch[1]"),
        ({"a.b": X, "label": Y}, "a.b", "label", "'a.b', with the target 'label'"),
        ({"image": X, "boxes": X, "label": Y}, "image", ("boxes", "label"), None),
        (Pair(Y, X), "image", "label", "batch[1], with the target batch[0]"),
        (Sample(Y, X), "label", "image", "'label', with the target 'image'"),
        (({"a": Record(X)}, Y), "0.a.image", 1, "'0.a.image', with the target batch[1]"),
        (
            Sample(Y, X),
            lambda batch: batch.label,
            lambda batch: batch.image,
            "'label', with the target 'image'",
        ),
        (
            (X, X.clone(), Y),
            lambda batch: batch[:2],
            lambda batch: batch[2],
            "batch[0] and batch[1], with the target batch[2]",
        ),
        (X, "auto", None, "the batch, without a target"),
        ([X], "auto", None, "batch[0], without a target"),
        ((X, Y), 0, None, "batch[0], without a target"),
        ((X, Y), "auto", None, "batch[0], without a target"),
        ({"image": X, "label": Y}, "auto", None, "'image', without a target"),
    ],
)
def test_indices_keys_and_paths_are_followed(batch, inputs, targets, expected):
    entries = find_entries(batch, inputs, targets)

    expected = expected or {
        "a": "'a.left' and 'a.right', with the target 'label'",
        "image": "'image', with the target 'boxes' and 'label'",
    }.get(next(iter(batch)))
    assert entries.describe() == expected


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({"a": X, "b": Y}, "has no target"),
        ({"image": X, "label": Y, "target": Y}, "several entries that could be the target"),
        ({"a": X, "b": X, "label": Y}, "don't tell which is the input"),
        ({"image": X, "tabular": X, "label": Y}, "an entry 'tabular' beside the input"),
        ({"image": X, "kind": Y, "label": Y}, "an entry 'kind' beside the input"),
        ({"image": X, "label": Y, "idx": X}, "an entry 'idx' beside the input"),
        ((X, Y, Y), r"an entry batch\[2\] beside the input"),
        ((X, [Y, Y]), "several entries that could be the target"),
        (X, "has no target"),
        ("batch", "has no target"),
        ({}, "has no target"),
    ],
    ids=str,
)
def test_what_cannot_be_told_is_refused_with_an_inventory(batch, words):
    with pytest.raises(ValueError, match=words) as caught:
        find_entries(batch)

    assert re.search(r"for example MixupCallback\(inputs=.+, targets=.+\)", str(caught.value))
    if isinstance(batch, dict):
        assert all(f"'{key}': " in str(caught.value) for key in batch)


@pytest.mark.parametrize(
    ("inputs", "targets", "error", "words"),
    [
        ("imgae", "label", ValueError, r"has no entry inputs='imgae'(.|\n)*'image': float32"),
        ("image", 7, ValueError, r"has no entry targets=7"),
        ("image.left", "label", ValueError, r"has no entry inputs='image.left'"),
        ("path", "label", TypeError, r"inputs='path' is a list in this batch, but a tensor"),
        ("label", "image", TypeError, r"'label' has dtype torch.int64"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(inputs, targets, error, words):
    batch = {"image": X, "label": Y, "path": ["a"] * 4}

    with pytest.raises(error, match=words):
        find_entries(batch, inputs, targets)


@pytest.mark.parametrize(
    "choose", [lambda batch: batch["image"][:2], lambda batch: None, lambda batch: 3.5]
)
def test_a_function_must_return_what_is_in_the_batch(choose):
    with pytest.raises(ValueError, match=r"no entry that inputs=<lambda> returned: .*no view"):
        find_entries({"image": X, "label": Y}, choose)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (X.byte(), r"uint8, and images are mixed as floats.*return x.float\(\) / 255, y"),
        (Y, r"int64.*name a hidden layer"),
        (X > 0, r"torch.bool"),
        (X.to_sparse(), r"sparse_coo.*x.to_dense\(\)"),
    ],
    ids=["uint8", "int64", "bool", "sparse"],
)
def test_what_cannot_be_interpolated_is_refused(x, words):
    with pytest.raises(TypeError, match=words):
        find_entries((x, Y))


@pytest.mark.parametrize("y", [torch.arange(3), torch.tensor(1)], ids=["other", "scalar"])
def test_different_batch_sizes_are_refused(y):
    with pytest.raises(ValueError, match=r"the same batch size: batch\[0\] \(4, 3\), batch\[1\]"):
        find_entries((X, y))


def test_token_ids_in_a_dict_are_told_as_such():
    batch = {"input_ids": Y, "attention_mask": Y, "labels": Y}

    with pytest.raises(TypeError, match=r"'input_ids' has dtype torch.int64.*name a hidden layer"):
        find_entries(batch)


@pytest.mark.parametrize(("inputs", "targets"), [(0, 0), ([0, 0], 1), (0, [1, 1])])
def test_an_entry_named_twice_is_refused(inputs, targets):
    with pytest.raises(ValueError, match=r"batch\[\d\] named more than once"):
        find_entries((X, X), inputs, targets)


@pytest.mark.parametrize(
    ("batch", "advice"),
    [
        ({"image": X, "depth": X, "label": Y}, "inputs=['image', 'depth'], targets='label'"),
        ({"a": X, "ids": Y, "mean": torch.ones(2), "y": Y}, "inputs='a', targets='y'"),
        ((X, Y, X), "inputs=0, targets=1"),
    ],
)
def test_the_advice_takes_the_target_by_its_name_and_what_goes_with_it(batch, advice):
    with pytest.raises(ValueError, match=re.escape(advice)):
        find_entries(batch, "nothing of the kind")


def test_the_advice_names_entries_of_this_batch():
    with pytest.raises(ValueError, match=r"inputs='first', targets='second.left'"):
        find_entries({"first": X, "second": {"left": X}})


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (Y, False),
        (torch.eye(4), False),
        (torch.eye(4) * 0.9 + 0.025, True),
        (torch.tensor([[0.3, 0.7], [0.0, 1.0]]), True),
        (torch.tensor([[0.3, 0.3], [0.0, 1.0]]), False),
        (torch.tensor([[1.0, 1.0], [0.0, 1.0]]), False),
        (torch.rand(4), False),
        (torch.ones(4, 1), False),
        (torch.full((2, 2, 3, 3), 0.5), True),
        (torch.tensor([[1.5, -0.5]]), False),
    ],
)
def test_shares_of_classes_look_mixed(target, expected):
    assert looks_mixed(target) is expected


# A copy with entries replaced.

leaves = st.sampled_from([X, Y, "text", None, 3.5])
keys = st.sampled_from(["a", "b", "c"])
containers = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3),
        st.lists(inner, min_size=1, max_size=3).map(tuple),
        st.tuples(inner, inner).map(lambda pair: Pair(*pair)),
        st.dictionaries(keys, inner, min_size=1),
        st.dictionaries(keys, inner, min_size=1).map(OrderedDict),
        st.dictionaries(keys, inner, min_size=1).map(Encoding),
        st.dictionaries(keys, inner, min_size=1).map(lambda entries: Graph(**entries)),
        st.dictionaries(keys, inner, min_size=1).map(lambda entries: SimpleNamespace(**entries)),
        st.tuples(inner, inner).map(lambda pair: Sample(*pair)),
        st.tuples(inner, inner).map(lambda pair: Slotted(*pair)),
        st.tuples(inner, inner).map(lambda pair: Record(*pair)),
    ),
    max_leaves=6,
)


def paths_of(tree, path=()):
    """Returns the paths of all leaves."""
    if isinstance(tree, (dict, UserDict, Graph)):
        return [p for key in tree.keys() for p in paths_of(tree[key], (*path, key))]  # noqa: SIM118
    if isinstance(tree, (Sample, Slotted, Record, SimpleNamespace)):
        names = [
            name for name in ("a", "b", "c", "image", "first", "label") if hasattr(tree, name)
        ]
        return [p for name in names for p in paths_of(getattr(tree, name), (*path, name))]
    if isinstance(tree, (list, tuple)):
        return [p for i, value in enumerate(tree) for p in paths_of(value, (*path, i))]
    return [path]


@given(containers, st.data())
def test_the_copy_differs_in_the_named_entries_and_the_original_in_none(tree, data):
    paths = paths_of(tree)
    named = data.draw(st.sets(st.sampled_from(paths)))
    before = {path: get_entry(tree, path) for path in paths}

    copied = replace_entries(tree, {path: ("new", path) for path in named}) if named else tree

    for path in paths:
        assert get_entry(tree, path) is before[path]
        expected = ("new", path) if path in named else before[path]
        found = get_entry(copied, path)
        assert found == expected if path in named else found is expected
    if () not in named:
        assert type(copied) is type(tree)
