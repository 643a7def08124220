"""Tests for MixupCallback in any precision and layout: what is mixed, and what stays the same."""

import numpy as np
import pytest
import torch
from lightning import Callback
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.data import DataLoader
from twins import HIDDEN, ByHand, ByHandInside, Plain, blended, mixup, state_of
from zoo import CLASSES, FEATURES

from lightning_mixup import MixedTarget, Mixup
from lightning_mixup.blend import transpose_interpolate
from lightning_mixup.recipes import Mix

X, Y = torch.randn(8, FEATURES), torch.arange(8) % CLASSES
TWINS = {"input": ByHand, HIDDEN: ByHandInside}
each_place = pytest.mark.parametrize("place", TWINS)
each_weighting = pytest.mark.parametrize("per_sample", [False, True], ids=["batch", "sample"])


# How far losses and weights may be apart after four steps: half precision rounds in other places
# where the mixing is written out. Without mixing, or with other draws, it is 0.03 and more.
TOLERANCES = {
    "64-true": 1e-14,
    "32-true": 1e-6,
    "bf16-mixed": 5e-3,
    "16-mixed": 5e-3,
    "16-true": 5e-3,
    "bf16-true": 2e-2,
}


@pytest.mark.filterwarnings("ignore:.*AMP with fp16 is not supported on CPU")
@each_weighting
@each_place
@pytest.mark.parametrize("precision", TOLERANCES)
def test_a_run_in_any_precision_is_the_run_that_is_mixed_by_hand(
    make_trainer, precision, place, per_sample
):
    recipe, tolerance = Mixup(1.0, per_sample=per_sample), TOLERANCES[precision]
    module, twin = Plain(), TWINS[place](recipe=recipe)

    make_trainer(callbacks=[mixup(recipe=recipe, layers=place)], precision=precision).fit(module)
    make_trainer(precision=precision).fit(twin)

    assert_close(module.losses, twin.losses, rtol=0, atol=tolerance)
    assert_close(state_of(module), state_of(twin), rtol=0, atol=tolerance)


# What the step is handed.


class Receives(Plain):
    """Keeps what the step is handed, and takes the type of its loss."""

    def __init__(self, *batches):
        super().__init__()
        self.loader = DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)
        self.received, self.types = [], []

    def training_step(self, batch, batch_idx):
        self.received.append(batch)
        x = batch[0].flatten(1)[:, :FEATURES].to(self.net[0].weight)
        loss = F.cross_entropy(self.net(x), batch[1])
        self.types.append(loss.dtype)
        return loss

    def train_dataloader(self):
        return self.loader


class Given(Callback):
    """Keeps each batch as it was when Lightning had moved and cast it."""

    def __init__(self):
        self.batches = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches.append(batch)


LAYOUTS = {
    "contiguous": torch.randn(8, 2, 4, 3),
    "channels_last": torch.randn(8, 2, 4, 3).to(memory_format=torch.channels_last),
    "channels_last_3d": torch.randn(8, 2, 4, 3, 2).to(memory_format=torch.channels_last_3d),
    "transposed": torch.randn(3, 8, 4).transpose(0, 1),
    "sliced": torch.randn(8, 4, 6)[:, ::2, 1:],
    "expanded": torch.randn(1, 2, 4, 3).expand(8, 2, 4, 3),
    "double": torch.randn(8, 2, 4).double(),
    "half": torch.randn(8, 2, 4).half(),
}
with torch.inference_mode():
    LAYOUTS["inference"] = torch.randn(8, 2, 4)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_the_step_is_handed_the_type_and_layout_that_lightning_gives(
    make_trainer, layout, precision
):
    x = LAYOUTS[layout]
    before = x.clone()
    module, plain, given = Receives((x, Y)), Receives((x, Y)), Given()

    make_trainer(callbacks=[given, mixup()], precision=precision).fit(module)
    make_trainer(precision=precision).fit(plain)

    [(mixed, label)], [(own, own_label)] = module.received, given.batches
    assert (mixed.dtype, mixed.shape) == (own.dtype, own.shape)
    assert mixed.stride() == torch.empty_like(own).stride()
    assert (label.dtype, label.shape) == (own_label.dtype, own_label.shape)
    assert module.types == plain.types
    expected = blended(own.double(), ByHand().draws(0, 8))
    assert_close(mixed.double(), expected, rtol=0, atol=4 * torch.finfo(own.dtype).eps)
    assert torch.equal(x, before)


class Thing:
    """Something in a batch that nobody knows."""


REST = [
    torch.randn(8, 3),
    torch.randn(3, 8).T,
    torch.eye(8).to_sparse(),
    torch.ones(8, 1, requires_grad=True),
    np.arange(8),
    ["a"] * 8,
    Thing(),
    None,
]


class Unpacks(Receives):
    """Takes the first two of what is nested in its batches."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch["data"], batch_idx)
        self.received[-1] = batch
        return loss


def test_what_is_not_mixed_is_handed_on_itself(make_trainer):
    module, given = Unpacks({"data": (X, Y, *REST), "more": REST}), Given()
    callback = mixup(inputs="data.0", targets="data.1")

    make_trainer(callbacks=[given, callback]).fit(module)

    [received], [own] = module.received, given.batches
    assert isinstance(received["data"][1], MixedTarget)
    assert list(map(id, received["data"][2:])) == list(map(id, own["data"][2:]))
    assert list(map(id, received["more"])) == list(map(id, own["more"]))
    assert own["data"][0] is X  # nor did Lightning copy anything on the CPU


def test_a_batch_that_is_not_mixed_is_handed_on_itself(make_trainer):
    loader_batches = [(X, Y)] * 20
    module, given, callback = Receives(*loader_batches), Given(), mixup(prob=0.5)

    make_trainer(callbacks=[given, callback]).fit(module)

    pairs = zip(module.received, given.batches, strict=True)
    mixed = [isinstance(received[1], MixedTarget) for received, _ in pairs]
    same = [received is own for received, own in zip(module.received, given.batches, strict=True)]
    assert same == [not it for it in mixed]
    assert 4 < sum(mixed) < 16


class Image(torch.Tensor):
    """A tensor of the user's own kind, as torchvision has them."""


@each_weighting
def test_a_tensor_of_the_users_own_kind_stays_one(make_trainer, per_sample):
    module = Receives((X.as_subclass(Image), Y))
    recipe = Mixup(1.0, per_sample=per_sample)

    make_trainer(callbacks=[mixup(recipe=recipe)]).fit(module)

    [(mixed, _)] = module.received
    assert type(mixed) is Image
    expected = blended(X, ByHand(recipe=recipe).draws(0, 8))
    assert_close(mixed.as_subclass(torch.Tensor), expected)


# Infinity and NaN.


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan], ids=str)
@each_weighting
def test_one_sample_that_is_not_finite_reaches_none_but_its_partner(make_trainer, per_sample, bad):
    """The other samples are bit for bit as if it were finite."""
    spoiled = X.clone()
    spoiled[2, 3] = bad
    recipe = Mixup(1.0, per_sample=per_sample)
    modules = [Receives((x, Y)) for x in (X, spoiled)]

    for module in modules:
        make_trainer(callbacks=[mixup(recipe=recipe)]).fit(module)

    clean, received = (module.received[0][0] for module in modules)
    partner = ByHand(recipe=recipe).draws(0, 8).partner
    reached = (torch.arange(8) == 2) | (partner == 2)
    assert torch.equal(received[~reached], clean[~reached])
    assert reached.sum() == 2
    assert not received[reached, 3].isfinite().any()
    assert torch.equal(received[reached, :3], clean[reached, :3])


class Whole(Mixup):
    """Gives every second sample, or all, a weight of exactly one."""

    def draw(self, rng, batch_size, device="cpu", inputs=(), targets=()):
        mix = super().draw(rng, batch_size, device)
        weights = np.full(batch_size, 0.75)
        weights[::2] = 1.0
        return Mix(weights if self.per_sample else 1.0, mix.shift, batch_size, device)


class Masks(Plain):
    """Rules classes out by a logit of minus infinity: here all but each sample's own label."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, 2 * CLASSES))

    def training_step(self, batch, batch_idx):
        x, y, allowed = batch
        logits = self.net(x).masked_fill(~allowed, -torch.inf)
        loss = F.cross_entropy(logits, y, reduction="none")
        self.note(loss[self.kept].mean())
        return loss[self.kept].mean()

    kept = slice(None)

    def train_dataloader(self):
        return DataLoader([self.batch], batch_size=None, collate_fn=lambda batch: batch)


@pytest.mark.parametrize("place", ["input", "net.1"])
@each_weighting
def test_a_weight_of_one_trains_as_if_there_were_no_partner(make_trainer, place, per_sample):
    """Though the loss by the partner's label is infinite."""
    y = torch.arange(8)
    mixed, plain = Masks(), Masks()
    mixed.kept = plain.kept = slice(None, None, 2 if per_sample else 1)
    allowed = F.one_hot(y, 2 * CLASSES).bool() | (torch.arange(2 * CLASSES) > 7)
    mixed.batch = plain.batch = (X, y, allowed)
    recipe = Whole(1.0, per_sample=per_sample)
    callback = mixup(recipe=recipe, layers=place, inputs=0, targets=1)

    make_trainer(callbacks=[callback], precision="64-true", max_epochs=3).fit(mixed)
    make_trainer(precision="64-true", max_epochs=3).fit(plain)

    assert np.isfinite(plain.losses).all()
    assert_close(mixed.losses, plain.losses, rtol=0, atol=1e-14)
    assert_close(state_of(mixed), state_of(plain), rtol=0, atol=1e-14)


@pytest.mark.parametrize("bad", [torch.inf, torch.nan], ids=str)
def test_a_gradient_that_is_not_finite_reaches_no_partner_of_a_weight_of_one(bad):
    weights, gradient = np.array([1.0, 0.5, 1.0, 0.25]), torch.ones(4, 3)
    clean = transpose_interpolate(gradient, weights, 1)
    gradient[2] = bad

    passed = transpose_interpolate(gradient, weights, 1)

    assert torch.equal(passed[[0, 1, 3]], clean[[0, 1, 3]])
    assert not passed[2].isfinite().any()


# What is no dense tensor of real numbers.


def nested(layout):
    return torch.nested.nested_tensor([row[: 2 + i % 4] for i, row in enumerate(X)], layout=layout)


REFUSED = {
    "coo": (X.to_sparse, "torch.sparse_coo", "to_dense"),
    "csr": (X.to_sparse_csr, "torch.sparse_csr", "to_dense"),
    "csc": (X.to_sparse_csc, "torch.sparse_csc", "to_dense"),
    "bsr": (lambda: X.to_sparse_bsr((2, 2)), "torch.sparse_bsr", "to_dense"),
    "mkldnn": (X.to_mkldnn, "torch._mkldnn", "to_dense"),
    "quantized": (
        lambda: torch.quantize_per_tensor(X, 0.1, 0, torch.quint8),
        "quantized",
        "dequantize",
    ),
    "nested": (lambda: nested(torch.strided), "nested", "to_padded_tensor"),
    "jagged": (lambda: nested(torch.jagged), "nested", "to_padded_tensor"),
    "float8": (lambda: X.to(torch.float8_e5m2), "dtype torch.float8_e5m2", "float"),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.filterwarnings("ignore:.*[Qq]uantiz.*deprecated")
@pytest.mark.parametrize(
    ("kind", "entry"), [*((kind, 0) for kind in REFUSED), ("csr", 1), ("quantized", 1)]
)
def test_what_is_not_dense_is_refused_before_a_step_with_what_makes_it_so(
    make_trainer, kind, entry
):
    make, words, change = REFUSED[kind]
    module = Receives((make(), Y) if entry == 0 else (X, make()))
    before = state_of(module)
    match = rf"batch\[{entry}\] (is|has) {words}.*batch\[{entry}\]\.{change}\("

    with pytest.raises(TypeError, match=match):
        make_trainer(callbacks=[mixup()]).fit(module)

    assert module.received == []
    assert_close(state_of(module), before, rtol=0, atol=0)


def test_a_sparse_input_is_fine_where_a_layer_is_mixed(make_trainer):
    class Multiplies(nn.Linear):
        def forward(self, x):
            return torch.sparse.mm(x, self.weight.T) + self.bias

    class Sparse(Plain):
        def __init__(self):
            super().__init__()
            self.net[0] = Multiplies(FEATURES, 8)
            self.net[0].load_state_dict(Plain().net[0].state_dict())

        def training_step(self, batch, batch_idx):
            assert batch[0].layout is torch.sparse_coo
            return super().training_step(batch, batch_idx)

    module, twin = Sparse(), ByHandInside()
    make_trainer(callbacks=[mixup(layers=HIDDEN)]).fit(module, batches_of(lambda x: x.to_sparse()))
    make_trainer().fit(twin, batches_of(lambda x: x))

    assert_close(state_of(module), state_of(twin), rtol=0, atol=1e-6)


def batches_of(change):
    batches = [(change(X * i), Y) for i in range(1, 4)]
    return DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)


class Complex(Plain):
    """Learns complex numbers, by a loss that is not linear in them."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(FEATURES, 3, dtype=torch.complex128)

    def training_step(self, batch, batch_idx):
        x, y = batch
        output = self.net(x)
        loss = F.mse_loss(torch.view_as_real(output), torch.view_as_real(y))
        loss = (
            loss + (output.abs() - y.abs()).square().mean() + (output.real - y.real).abs().mean()
        )
        self.note(loss)
        return loss


class ComplexByHand(Complex):
    """Mixes in its own step."""

    def __init__(self, **settings):
        super().__init__()
        self.draws = ByHand(**settings).draws

    def training_step(self, batch, batch_idx):
        mix = self.draws(batch_idx, len(batch[0]))
        return super().training_step([blended(value, mix) for value in batch], batch_idx)


@each_weighting
def test_complex_inputs_and_targets_are_interpolated(make_trainer, per_sample):
    recipe = Mixup(1.0, per_sample=per_sample)
    y = torch.randn(8, 3, dtype=torch.complex128)
    batches = [(torch.randn(8, FEATURES, dtype=torch.complex128), y * i) for i in range(1, 4)]
    loader = DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)
    module, twin = Complex(), ComplexByHand(recipe=recipe)

    make_trainer(callbacks=[mixup(recipe=recipe)], limit_val_batches=0).fit(module, loader)
    make_trainer(limit_val_batches=0).fit(twin, loader)

    assert_close(module.losses, twin.losses, rtol=0, atol=1e-12)
    assert_close(state_of(module), state_of(twin), rtol=0, atol=1e-12)
