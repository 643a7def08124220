"""Tests for lightning_mixup.batch, and containers, roles and advice, on which it rests.

What is found in a batch, a copy with it replaced, and what a refusal says.
"""

import dataclasses
import re
from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_mixup import MixupCallback
from lightning_mixup.batch import find_entries, looks_mixed, marks_unknown
from lightning_mixup.containers import get_entry, replace_entries

X, Y = torch.randn(4, 3), torch.arange(4)
Pair = namedtuple("Pair", ["label", "image"])
Indexed = namedtuple("Indexed", ["image", "label", "index"])
Crop = namedtuple("Crop", ["top", "left", "height", "width"])
IMAGES = [torch.randn(3, 8, 8 + i) for i in range(4)]
EPISODE = (torch.randn(6, 3), torch.arange(6) % 3, torch.randn(9, 3), torch.arange(9) % 3)


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
        ({"image": X, "label": Y, "mean": X[:1]}, "'image', with the target 'label'"),
        ({"image": X, "label": Y, "id": np.arange(4)}, "'image', with the target 'label'"),
        ({"image": X, "label": Y, "image-id": [7, 8, 9, 9]}, "'image', with the target 'label'"),
        ({"image": X, "label": Y, "patient_name": "abcd"}, "'image', with the target 'label'"),
        ({"image": X, "label": Y, "note": None}, "'image', with the target 'label'"),
        (
            {"image": X, "label": Y, "crop": Crop(*torch.ones(4))},
            "'image', with the target 'label'",
        ),
        (Indexed(X, Y, Y), "batch[0], with the target batch[1]"),
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
        ({"image": X, "input_ids": torch.stack([Y, Y], 1), "label": Y}, "an entry 'input_ids'"),
        ({"x": X, "user_id": Y, "y": Y}, "an entry 'user_id' beside"),
        ({"x": X, "indices": torch.zeros(4, 5).long(), "y": Y}, "an entry 'indices' beside"),
        ({"x": X, "category_id": Y, "label": Y}, "an entry 'category_id' beside"),
        ({"x": X, "edge_index": torch.zeros(2, 9).long(), "y": Y}, "an entry 'edge_index' beside"),
        ({"image": X, "caption": ["a cat"] * 4, "label": Y}, "an entry 'caption' beside"),
        ({"image": X, "age": [1.5, 2.0, 7.0, 9.0], "label": Y}, "an entry 'age' beside"),
        ({"image": X, "age": X.numpy(), "label": Y}, "an entry 'age' beside"),
        ({"image": X, "id": X[:, 0].numpy(), "label": Y}, "an entry 'id' beside"),
        ({"image": X, "boxes": [torch.rand(2, 4)] * 4, "label": Y}, "an entry 'boxes.0' beside"),
        (
            {"image": X, "label": Y, "unlabelled": torch.randn(7, 3)},
            "an entry 'unlabelled' beside",
        ),
        (EPISODE, r"an entry batch\[2\] beside"),
        ([[torch.randn(4, 8, 8 + i) for i in range(4)], Y], r"either samples or views in"),
        ([list(torch.randn(4, 4, 8)), Y], r"either samples or views in"),
        ((X.numpy(), Y), "don't tell which is the input"),
        ({"image": X, "label": [0, 1, 2, 0]}, "has no target"),
        ((X, [Y, Y]), "several entries that could be the target"),
        (X, "has no target"),
        (Y, "has no target"),
        ("batch", "has no target"),
        ({}, "has no target"),
    ],
    ids=str,
)
def test_what_cannot_be_told_is_refused_with_an_inventory(batch, words):
    with pytest.raises(ValueError, match=words) as caught:
        find_entries(batch)

    assert "Say which entries are mixed, by index, key, dotted path" in str(caught.value)
    if isinstance(batch, dict):
        assert all(re.search(rf"'{key}(\.0)?': ", str(caught.value)) for key in batch)


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
    "batch", [(X, X[:, :1], Y), (X, Y[:, None], Y)], ids=["features", "categories"]
)
def test_the_second_place_tells_no_target_where_the_input_alone_is_named(batch):
    """What is left over is the user's matter then, so that the label could stay unmixed."""
    with pytest.raises(ValueError, match=r"several entries that could be the target"):
        find_entries(batch, inputs=0)


def test_of_what_is_beside_the_named_input_an_id_is_no_target():
    assert find_entries((X, Y, {"id": Y, "path": ["a"] * 4}), inputs=0).targets == ((1,),)


def test_a_tensor_that_is_in_a_batch_twice_is_chosen_twice():
    batch = {"image": X, "again": X, "label": Y}

    entries = find_entries(batch, lambda batch: batch["again"], "label")

    assert entries.inputs == (("image",), ("again",))


def test_views_without_labels_are_all_mixed_or_named():
    views = [X, X.clone()]

    with pytest.raises(ValueError, match=r"MixupCallback\(inputs=\[0, 1\], targets=None\)"):
        find_entries(views, targets=None)

    assert find_entries(views, [0, 1], None).inputs == ((0,), (1,))


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (X.byte(), r"uint8, and images are mixed as floats.*batch\[0\].float\(\) / 255"),
        (Y, r"int64.*name the layer that embeds them, MixupCallback\(layers=\[...\]\)"),
        (X > 0, r"torch.bool"),
        (X.to(torch.float8_e4m3fn), r"float8_e4m3fn.*batch\[0\].float\(\)"),
        (X.to_sparse(), r"sparse_coo.*batch\[0\].to_dense\(\)"),
    ],
    ids=["uint8", "int64", "bool", "float8", "sparse"],
)
def test_what_cannot_be_interpolated_is_refused(x, words):
    with pytest.raises(TypeError, match=words):
        find_entries((x, Y))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors_are_refused_and_padded(layout):
    x = torch.nested.nested_tensor([X, X[:2]], layout=layout)

    assert "dense tensors are mixed" in refusal_of((x, Y[:2]))
    assert "batch[0].to_padded_tensor(0.0)" in refusal_of((x, Y[:2]))
    assert "batch[0]: float32 nested" in refusal_of((x, Y[:2]), inputs="none")
    assert find_entries((x.to_padded_tensor(0.0), Y[:2])).batch_size == 2


def test_samples_in_a_list_are_counted_by_labels_that_are_not_mixed():
    """At a hidden layer nobody looks at the input, of which each may have one row."""
    samples, views = [torch.randn(1, 8) for _ in range(4)], [torch.randn(4, 8) for _ in range(2)]

    found = [find_entries((x, Y), targets=None, at_input=False) for x in (samples, views)]

    assert [entries.batch_size for entries in found] == [4, 4]


def test_a_list_of_samples_is_told_from_views_by_labels_that_are_not_mixed():
    with pytest.raises(ValueError, match=r"has either samples or views in batch\[0\]"):
        find_entries(([torch.randn(3, 8) for _ in range(4)], Y), targets=None)

    views = [torch.randn(4, 8) for _ in range(3)]
    assert find_entries((views, Y), targets=None).inputs == ((0, 0), (0, 1), (0, 2))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors_count_the_samples_that_a_layer_mixes(layout):
    x = torch.nested.nested_tensor([X, X[:2]], layout=layout)

    assert find_entries((x, Y[:2]), targets=None, at_input=False).batch_size == 2


@pytest.mark.parametrize("form", [None, "keys"])
def test_a_sparse_target_is_refused(form):
    batch = (X, X.to_sparse()) if form is None else {"image": X, "label": X.to_sparse()}

    with pytest.raises(TypeError, match=r"sparse_coo, and dense tensors are mixed.*to_dense\(\)"):
        find_entries(batch)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize(("inputs", "targets"), [(0, 1), (1, 0)])
def test_quantized_tensors_are_refused_and_dequantized(inputs, targets):
    x = torch.quantize_per_tensor(X, 0.1, 0, torch.qint8)

    with pytest.raises(TypeError, match=r"\[0\] is quantized, .* `.*batch\[0\]\.dequantize\(\)"):
        find_entries([x, X], inputs, targets)


def test_a_target_of_floats_that_only_store_is_refused():
    with pytest.raises(TypeError, match=r"batch\[1\] has dtype torch.float8_e5m2.*float\(\)"):
        find_entries([X, X.to(torch.float8_e5m2)])


FORMS = [
    lambda x: [x, Y],
    lambda x: (x, Y),
    lambda x: [[x, X], Y],
    lambda x: {"image": x, "label": Y},
    lambda x: {"data": Record(x), "label": Y},
    lambda x: Encoding(image=x, label=Y),
    lambda x: Graph(image=x, label=Y),
    lambda x: Pair(Y, x),
    lambda x: Sample(x, Y),
    lambda x: Slotted(x, Y),
    lambda x: Record(x, Y),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "make", [torch.Tensor.byte, torch.Tensor.to_sparse], ids=["uint8", "sparse"]
)
def test_the_hook_that_a_message_writes_converts_a_batch_of_any_form(form, make):
    batch = form(make(255 * X.sigmoid()))
    message = refusal_of(batch)

    body = re.search(r"on_after_batch_transfer\(.*?\), for example `(.*?)`", message).group(1)
    scope = {"dataclasses": dataclasses}
    exec("def convert(batch):\n    " + body.replace("; ", "\n    "), scope)

    assert find_entries(scope["convert"](batch)).batch_size == 4


@pytest.mark.parametrize("batch", [((X.byte(), X), Y), {"image": Sample(X.byte()), "label": Y}])
def test_what_no_hook_can_write_to_is_converted_in_the_dataset(batch):
    assert "Convert them in the dataset, for example with `x.float() / 255`" in refusal_of(batch)


def refusal_of(batch, **arguments):
    with pytest.raises((TypeError, ValueError)) as caught:
        find_entries(batch, **arguments)
    return str(caught.value)


SUPPORT, QUERY = EPISODE[:2], EPISODE[2:]


@pytest.mark.parametrize(
    ("batch", "inputs", "targets"),
    [
        (EPISODE, 2, 3),
        ((EPISODE[0], EPISODE[1], EPISODE[0], EPISODE[1]), 2, 3),
        ((SUPPORT, QUERY), "1.0", "1.1"),
        ({"support": SUPPORT, "query": QUERY}, "query.0", "query.1"),
        (
            dict(zip(("support_x", "support_y", "query_x", "query_y"), EPISODE, strict=True)),
            "query_x",
            "query_y",
        ),
        ({"a": (X, Y), "b": (X, Y)}, "b.0", "b.1"),
        ({"labelled": (X, Y), "more": X}, ["labelled.0", "more"], "labelled.1"),
        (
            {"image": X, "age": X, "labels": {"a": Y, "b": Y}},
            ["image", "age"],
            ["labels.a", "labels.b"],
        ),
        ({"image": X, "mask": X > 0, "label": Y}, "image", ["mask", "label"]),
        ({"image": X, "attention_mask": X, "label": Y}, "image", "label"),
        ((X, [Y, Y]), 0, ["1.0", "1.1"]),
    ],
    ids=str,
)
def test_the_advice_names_what_goes_together(batch, inputs, targets):
    advice = re.search(r"for example (MixupCallback\(.*?\))[;.]", refusal_of(batch)).group(1)

    mixup = eval(advice, {"MixupCallback": MixupCallback})

    assert (mixup.inputs, mixup.targets) == (inputs, targets)
    assert find_entries(batch, mixup.inputs, mixup.targets).batch_size > 1


@pytest.mark.parametrize(
    "batch",
    [
        (X, torch.stack([Y, Y], 1), Y),  # words and their lengths, or the other way round
        (X, Y, X[:, 0]),  # perhaps a weight of each sample's loss
    ],
    ids=["lengths", "weight"],
)
def test_no_example_is_made_up_where_it_could_be_wrong(batch):
    assert "by index, key, dotted path or a function, MixupCallback(inputs=..., " in refusal_of(
        batch
    )


def test_the_advice_for_a_weight_takes_it_along():
    message = refusal_of({"image": X, "label": Y, "weight": X[:, 0]}, targets="label")

    assert "MixupCallback(inputs='image', targets=['label', 'weight'])" in message


@pytest.mark.parametrize(
    "batch",
    [
        (IMAGES, Y),
        {"image": IMAGES, "label": Y},
        (X, [{"boxes": torch.rand(i + 1, 4), "labels": Y[: i + 1]} for i in range(4)]),
        [(X[i], Y[i]) for i in range(4)],
        [{"image": X[i], "label": Y[i]} for i in range(4)],
        (list(X), list(Y)),
    ],
    ids=["images", "named images", "boxes", "pairs", "dicts", "two lists"],
)
def test_lists_with_an_entry_for_each_sample_are_told_to_be_stacked(batch):
    message = refusal_of(batch)

    assert re.search(r"has an entry for each sample, make one tensor .* `torch.stack`", message)
    assert "MixupCallback(inputs=" not in message.replace("MixupCallback(inputs=..., targets", "")


@pytest.mark.parametrize("entry", [Y.numpy(), Y.tolist()], ids=["array", "list"])
def test_numbers_that_are_no_tensor_are_told_to_be_one(entry):
    message = refusal_of((X, entry))

    assert "To mix batch[1], make a tensor in the collate function: `torch.as_tensor`" in message
    assert "for example MixupCallback" not in message
    assert find_entries((X, torch.as_tensor(entry))).batch_size == 4
    assert "as_tensor" in refusal_of((X, entry), targets=1)


@pytest.mark.parametrize(
    "batch",
    [
        {"x": torch.randn(9, 3), "edge_index": torch.zeros(2, 9).long(), "batch": Y, "y": Y},
        (torch.nn.utils.rnn.pack_sequence([X, X[:2]]), Y[:2]),
        {"cont": X, "cat": Y, "y": Y},
        {"input_ids": Y, "attention_mask": X, "labels": Y},
        {"input_ids": Y, "attention_mask": Y},
    ],
    ids=["graphs", "sequences", "table", "float mask", "no labels"],
)
def test_what_only_a_layer_makes_one_row_of_is_told_so(batch):
    message = refusal_of(batch)

    assert (
        "MixupCallback(layers=[...]); `MixupCallback.suggest_layers(network, its_input)`"
        in message
    )
    assert "inputs='attention_mask'" not in message


class Making(Graph):
    """Makes what it is asked for, as PyG's HeteroData does, and has names of another level."""

    def keys(self):
        return ["x"]

    def __getitem__(self, key):
        return self.store.setdefault(key, {})

    def __copy__(self):
        return Making(**self.store)


def test_nothing_is_made_in_a_batch_by_looking_at_it():
    batch = Making(paper={"x": X})

    refusal_of(batch)

    assert list(batch.store) == ["paper"]
    assert "hides inputs='paper.x'" in refusal_of(batch, inputs="paper.x", targets=None)


@pytest.mark.parametrize("y", [torch.arange(3), torch.tensor(1)], ids=["other", "scalar"])
def test_different_batch_sizes_are_refused(y):
    with pytest.raises(ValueError, match=r"the same batch size: batch\[0\] \(4, 3\), batch\[1\]"):
        find_entries((X, y))


def test_token_ids_in_a_dict_are_told_as_such():
    batch = {"input_ids": Y, "attention_mask": Y, "labels": Y}

    with pytest.raises(
        TypeError, match=r"'input_ids' has dtype torch.int64.*the layer that embeds"
    ):
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
        ((X, Y, X), "inputs=[0, 2], targets=1"),
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


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (torch.tensor([[1.0, 0.0, -1.0]]), True),
        (torch.tensor([1.0, 0.0, -1.0]).half(), True),
        (torch.tensor([[1, 0, -1]]), False),
        (torch.tensor([[1.0, -1.0]]), False),  # those of a hinge loss
        (torch.tensor([[1.0, 0.0]]), False),
        (torch.tensor([[1.0, 0.0, -1.0, 0.5]]), False),
        (torch.tensor([[1.0, 0.0, -1.0, torch.nan]]), False),
    ],
)
def test_labels_that_are_unknown_are_recognised(target, expected):
    assert marks_unknown(target) is expected


# Graphs of PyG itself, where it is installed.


def graph(nodes, **entries):
    from torch_geometric.data import Data

    edges = torch.randint(0, nodes, (2, 3))
    return Data(x=torch.randn(nodes, 5), edge_index=edges, **entries)


@pytest.fixture
def pyg():
    return pytest.importorskip("torch_geometric")


GRAPHS = {
    "graphs": lambda: [graph(n, y=torch.tensor([n])) for n in (3, 4, 5)],
    "as many nodes as graphs": lambda: [graph(1, y=torch.tensor([n])) for n in range(3)],
    "labels of nodes": lambda: [graph(8, y=torch.arange(8), train_mask=torch.arange(8) < 4)],
}


@pytest.mark.parametrize("make", GRAPHS.values(), ids=GRAPHS)
def test_graphs_of_pyg_are_told_to_name_a_layer(pyg, make):
    batch = pyg.data.Batch.from_data_list(make())

    assert "MixupCallback(layers=[...]); `MixupCallback.suggest_layers" in refusal_of(batch)


def test_an_entry_of_a_pyg_batch_is_replaced_in_a_copy(pyg):
    batch = pyg.data.Batch.from_data_list([graph(4, y=torch.arange(4)) for _ in range(2)])
    before = {key: batch[key] for key in batch.keys()}  # noqa: SIM118  iterates over pairs

    entries = find_entries(batch, "x", "y")
    copied = replace_entries(batch, {entries.inputs[0]: X})

    assert type(copied) is type(batch)
    assert copied.x is X
    assert all(batch[key] is value for key, value in before.items())
    assert all(copied[key] is value for key, value in before.items() if key != "x")


def test_nothing_is_written_to_a_graph_of_several_kinds(pyg):
    batch = pyg.data.HeteroData()
    batch["paper"].x, batch["paper"].y = X, Y

    refusal_of(batch)

    assert batch.node_types == ["paper"]


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


def test_of_nothing_to_replace_the_batch_is_itself():
    """A tensor, of which a copy is a copy of its memory."""
    assert replace_entries(X, {}) is X


def test_a_batch_of_one_does_not_tell_what_the_next_ones_hold():
    """The label of several numbers may be one of several samples."""
    single = find_entries((X[:1], X[:1], torch.rand(3)))

    assert single.of_next((X, X, torch.rand(4))) is None
    assert find_entries((X, Y)).of_next((X[:1], Y[:1])).batch_size == 1


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


# Whole batches: what is found in them, and the mixed copy.

TARGETS = {
    "classes": Y,
    "a number": X[:, 0],
    "soft labels": torch.eye(4),
    "pixels": torch.zeros(4, 5, 5).long(),
    "bools": X > 0,
}
LEFT_ALONE = {
    "sample_id": Y,
    "index": Y[:, None],
    "path": ["a", "b", "c", "d"],
    "scale": torch.tensor(2.0),
    "std": torch.ones(3),
    "note": None,
    "epoch": 3,
    "source": "a camera",
}
REFUSED = {
    "age": X.clone(),
    "age_mask": X > 0,
    "category_ids": torch.zeros(4, 2).long(),
    "user_id": Y.clone(),
    "indices": torch.zeros(4, 5).long(),
    "heights": [1.0, 2.0, 3.0, 4.0],
    "array": np.ones((4, 2)),
    "queries": torch.randn(9, 3),
}


def dataclass_of(**entries):
    return dataclasses.make_dataclass("Made", entries)(**entries)


def frozen_of(**entries):
    return dataclasses.make_dataclass("Made", entries, frozen=True)(**entries)


def slotted_of(**entries):
    return dataclasses.make_dataclass("Made", entries, slots=True)(**entries)


def namedtuple_of(**entries):
    return namedtuple("Made", entries)(**entries)


class Attributes:
    """An object with attributes and nothing else."""

    def __init__(self, **entries):
        vars(self).update(entries)


NAMED = [
    dict,
    OrderedDict,
    Encoding,
    Graph,
    Attributes,
    SimpleNamespace,
    namedtuple_of,
    dataclass_of,
    frozen_of,
    slotted_of,
]
by_form = st.sampled_from(NAMED)


def child(node, name):
    """Returns an entry of any named form, by itself and not by the code under test."""
    if isinstance(node, (dict, UserDict, Graph)):
        return node[name]
    return node[name] if isinstance(name, int) else getattr(node, name)


@st.composite
def whole_batches(draw, extras):
    """Draws a batch; returns it with the ways to its inputs, its target and the rest."""
    target, form = draw(st.sampled_from(list(TARGETS.values()))), draw(by_form)
    chosen = draw(st.lists(st.sampled_from(list(extras)), unique=True, max_size=3))
    rest = {name: extras[name] for name in chosen}
    nesting = draw(st.sampled_from(["flat", "inputs", "extras", "pair", "views", "all"]))
    views = {"image": [X.clone(), X.clone()]} if nesting == "views" else {"image": X.clone()}
    if nesting == "views":
        wrap = draw(st.sampled_from([list, tuple]))
        batch = draw(st.sampled_from([list, tuple]))([wrap(views["image"]), target])
        return batch, [(0, 0), (0, 1)], (1,), {}
    ways = {name: (name,) for name in rest}
    if nesting == "pair":
        batch = draw(st.sampled_from([list, tuple]))([form(**views, **rest), target])
        return batch, [(0, "image")], (1,), {name: (0, name) for name in rest}
    if nesting == "inputs":
        inner = draw(by_form)(**views)
        return form(data=inner, label=target, **rest), [("data", "image")], ("label",), ways
    if nesting == "extras" and rest:
        batch = form(meta=draw(by_form)(**rest), **views, label=target)
        return batch, [("image",)], ("label",), {name: ("meta", name) for name in rest}
    if nesting == "all":
        batch = {"batch": form(**views, label=target, **rest)}
        ways = {name: ("batch", name) for name in rest}
        return batch, [("batch", "image")], ("batch", "label"), ways
    return form(**views, label=target, **rest), [("image",)], ("label",), ways


def follow(batch, way):
    for name in way:
        batch = child(batch, name)
    return batch


def types_along(batch, way):
    return [type(follow(batch, way[:i])) for i in range(len(way))]


@given(whole_batches(LEFT_ALONE))
def test_of_any_batch_the_copy_differs_in_inputs_and_target_alone(drawn):
    batch, inputs, target, ways = drawn
    mixed, others = [*inputs, target], [*ways.values()]
    before = [follow(batch, way) for way in (*mixed, *others)]
    values = [value.clone() for value in before[: len(mixed)]]

    entries = find_entries(batch)
    paths = (*entries.inputs, *entries.targets)
    new = [object() for _ in paths]
    copied = replace_entries(batch, dict(zip(paths, new, strict=True)))

    assert [follow(copied, way) for way in mixed] == new
    assert all(follow(copied, way) is follow(batch, way) for way in others)
    assert all(types_along(copied, way) == types_along(batch, way) for way in (*mixed, *others))
    after = [follow(batch, way) for way in (*mixed, *others)]
    assert all(one is other for one, other in zip(before, after, strict=True))
    assert all(torch.equal(*pair) for pair in zip(values, before, strict=False))


@given(whole_batches(REFUSED))
def test_of_no_batch_a_part_stays_unmixed_without_a_word(drawn):
    batch, inputs, target, ways = drawn
    first = inputs[0]

    if ways:
        with pytest.raises(ValueError, match="beside the input"):
            find_entries(batch)

    chosen = find_entries(batch, lambda batch: follow(batch, first), lambda b: follow(b, target))
    assert len(chosen.inputs) == len(chosen.targets) == 1
