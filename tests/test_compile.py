"""Tests for lightning_mixup.rules and mends under torch.compile: one graph, the same numbers."""

import pytest
import torch
from mixing_by_hand import CLASSES, candidates_of, draw_weights
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional as F
from torch.testing import assert_close
from zoo import Classifier, make_loader, parameters_of

from lightning_mixup import MixedTarget, Mixup, MixupCallback, merge

WEIGHTS = pytest.mark.parametrize("per_sample", [False, True], ids=["per_batch", "per_sample"])
SMALL = 8
TABLE = torch.arange(float(CLASSES**2)).view(CLASSES, CLASSES).sin()

# Behind a graph break Dynamo looks whether what goes on has a gradient.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def no_reduction(x, y):
    return F.cross_entropy(x, y, reduction="none")


def focal(x, y):
    ce = no_reduction(x, y)
    return ((1 - (-ce).exp()) ** 2 * ce).mean()


def focal_of_mean(x, y):
    ce = F.cross_entropy(x, y)
    return (1 - (-ce).exp()) ** 2 * ce


def smoothed(x, y):
    log_probs = x.log_softmax(1)
    picked = log_probs.gather(1, y.unsqueeze(1)).squeeze(1)
    return -(0.9 * picked + 0.1 * log_probs.mean(1)).mean()


def without_class(x, y):
    y = y.clone()
    y[y == 2] = -100
    return F.cross_entropy(x, y)


def with_accuracy(x, y):
    accuracy = (x.argmax(1) == y).float().mean()
    return F.cross_entropy(x, y) + 0 * accuracy


LOSSES = {
    "cross_entropy": F.cross_entropy,
    "class weights": lambda x, y: F.cross_entropy(x, y, TABLE[0].abs().to(x)),
    "nll_loss": lambda x, y: F.nll_loss(x.log_softmax(1), y, reduction="sum"),
    "no reduction": no_reduction,
    "multi_margin_loss": F.multi_margin_loss,
    "bce": lambda x, y: F.binary_cross_entropy_with_logits(x[:, 0], (y == 1).to(x)),
    "regression": lambda x, y: F.mse_loss(x[:, 0], y.to(x)),
    "gather": smoothed,
    "index": lambda x, y: -x.log_softmax(1)[torch.arange(len(y)), y].mean(),
    "one-hot": lambda x, y: -(F.one_hot(y, CLASSES) * x.log_softmax(1)).sum(1).mean(),
    "class loop": lambda x, y: sum(((y == c) * x[:, c]).sum() for c in range(CLASSES)),
    "where": lambda x, y: torch.where(y == 1, x[:, 0].relu(), x[:, 1]).mean(),
    "table": lambda x, y: (TABLE.to(x)[y] * x).sum(),
    "embedding": lambda x, y: (F.embedding(y, TABLE.to(x)) * x).mean(),
    "stack": lambda x, y: F.cross_entropy(x, torch.stack((y, y)).amax(0)),
    "focal": focal,
    "focal of the mean": focal_of_mean,
    "metric beside": with_accuracy,
}
# Writes into what is no target, and with a weight per sample those into labels, break the graph.
WITH_BREAKS = {
    "edited labels": without_class,
    "scatter_": lambda x, y: (torch.zeros_like(x).scatter_(1, y[:, None], 1.0) * x).sum(),
}


def draw_batch(size, *, per_sample):
    x = torch.randn(size, CLASSES, dtype=torch.float64, requires_grad=True)
    weights = draw_weights(per_sample=per_sample, batch=size)
    return x, candidates_of(torch.randint(0, CLASSES, (size,))), weights


def with_gradient(loss, x, candidates, weights):
    value = merge(loss(x, MixedTarget(candidates, weights)))
    return value.detach(), *torch.autograd.grad(value.sum(), x)


def assert_compiled_alike(loss, *, per_sample, most_graphs, **options):
    """Over batches of which every fourth is a short one."""
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(loss, backend=counter, **options)
    batches = [draw_batch(SMALL - (i % 4 == 3), per_sample=per_sample) for i in range(12)]

    actual = [with_gradient(compiled, *batch) for batch in batches]

    assert_close(actual, [with_gradient(loss, *batch) for batch in batches])
    assert 0 < counter.frame_count <= most_graphs


@WEIGHTS
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_compiled_loss_is_one_graph_with_the_same_numbers(loss, per_sample):
    """And one more graph when the size of the batch turns out to change."""
    if loss is focal_of_mean and per_sample:
        pytest.skip("a function of the batch: no mixture")
    assert_compiled_alike(loss, per_sample=per_sample, most_graphs=2, fullgraph=True)


@WEIGHTS
@pytest.mark.parametrize("loss", WITH_BREAKS.values(), ids=WITH_BREAKS)
def test_a_compiled_loss_with_graph_breaks_has_the_same_numbers(loss, per_sample):
    assert_compiled_alike(loss, per_sample=per_sample, most_graphs=12)


class Step(nn.Module):
    """A network, its loss and its accuracy."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(CLASSES, 8), nn.ReLU(), nn.Linear(8, CLASSES)).double()

    def forward(self, x, y):
        logits = self.net(x)
        return F.cross_entropy(logits, y), (logits.argmax(1) == y).float().mean()


@WEIGHTS
def test_a_compiled_step_is_one_graph_with_the_same_loss_and_metric(per_sample):
    step, (x, candidates, weights) = Step(), draw_batch(SMALL, per_sample=per_sample)
    compiled = torch.compile(step, backend="eager", fullgraph=True)

    (loss, accuracy), (expected, correct) = (
        merge(run(x, MixedTarget(candidates, weights))) for run in (compiled, step)
    )

    assert_close((loss, accuracy), (expected, correct))
    parameters = list(step.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    assert_close(gradients, torch.autograd.grad(expected, parameters))


@WEIGHTS
def test_that_labels_met_a_gradient_is_known_of_a_compiled_loss(per_sample):
    x, candidates, weights = draw_batch(SMALL, per_sample=per_sample)
    target = MixedTarget(candidates, weights)

    torch.compile(F.cross_entropy, backend="eager", fullgraph=True)(x, target)

    assert target.usage.met_gradient


class WithCompiledLoss(Classifier):
    def __init__(self):
        super().__init__()
        self.compiled_loss = torch.compile(focal, backend="eager", fullgraph=True)

    def loss(self, logits, y):
        return self.compiled_loss(logits, y)


class WithEagerLoss(Classifier):
    def loss(self, logits, y):
        return focal(logits, y)


@WEIGHTS
@pytest.mark.parametrize(
    ("eager", "compiled"),
    [
        (WithEagerLoss, WithCompiledLoss),
        (Classifier, lambda: torch.compile(Classifier(), backend="eager")),
    ],
    ids=["loss", "module"],
)
def test_a_compiled_fit_ends_with_the_same_parameters(make_trainer, eager, compiled, per_sample):
    def fit(make):
        torch.manual_seed(1)
        module = make()
        mixup = MixupCallback(recipe=Mixup(1.0, per_sample=per_sample), seed=2)
        make_trainer(callbacks=[mixup]).fit(module, make_loader())
        return parameters_of(module)

    assert_close(list(fit(compiled)), list(fit(eager)))
