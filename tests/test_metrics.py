"""Tests for lightning_mixup.rules and doors: every metric of torchmetrics, walked by name.

A metric that is given mixed labels must equal the same metric given the dominant ones; float
targets are read as the interpolated value. What it keeps must be plain tensors. Names come from
torchmetrics' own `__all__` and options from its signatures, so that a new metric can't be missed.
`table()` says of each metric what it reads, for the docs.
"""

from __future__ import annotations

import inspect
import itertools
import typing
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
import torchmetrics
from lightning import LightningModule
from mixing_by_hand import (
    BATCH,
    CLASSES,
    assert_mixture,
    candidates_of,
    dominant,
    draw_weights,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import (
    Metric,
    MetricCollection,
    aggregation,
    classification,
    clustering,
    nominal,
    regression,
    retrieval,
    text,
    wrappers,
)
from torchmetrics.functional import classification as functional

from lightning_mixup import MixedTarget, Mixup, MixupCallback, merge
from lightning_mixup.doors import guard_metrics
from lightning_mixup.trees import tensors_in

# Curves without positives and the like: the same with and without mixing.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torchmetrics")

POINTS = 3  # of a map, or of a sequence


@dataclass(frozen=True, kw_only=True)
class Case:
    """A metric, and what it is given.

    Attributes:
        make: Makes a metric; of a functional one, this is the function.
        draw: Returns predictions that need a gradient, and labels.
        inputs: What the user's step makes of them.
        own: What a metric must read, of candidates and weights.
    """

    make: Callable[..., Any]
    draw: Callable[[], tuple[Tensor, Tensor]]
    inputs: Callable[[Any, Any], tuple[Any, ...]] = lambda x, y: (x, y)
    own: Callable[[list[Tensor], Tensor], Tensor] = dominant


def drawn(task, *, maps=False, ignored=False):
    """Returns logits and class labels; some are -1 if these are ignored."""
    points = [POINTS] * maps
    classes = [] if task == "binary" else [CLASSES]
    several = [CLASSES] if task == "multilabel" else []
    x = torch.randn(BATCH, *classes, *points, requires_grad=True)
    y = torch.randint(0, CLASSES if task == "multiclass" else 2, (BATCH, *several, *points))
    if ignored:
        y[::5] = -1
    return x, y


def drawn_numbers(*shape):
    """Returns predictions and positive float targets."""
    y = torch.rand(BATCH, *shape, dtype=torch.float64) + 0.1
    return torch.randn_like(y).requires_grad_(), y


def interpolated(candidates, weights):
    """Returns the weighted sum of float targets."""
    shape = weights.shape + (1,) * (1 + candidates[0].ndim - weights.ndim)
    return (torch.stack(candidates) * weights.reshape(shape)).sum(dim=0).to(candidates[0].dtype)


multiclass = partial(drawn, "multiclass")
binary = partial(drawn, "binary")
multilabel = partial(drawn, "multilabel")


# Classification: each name of `__all__`, each option of its signature.

TASKS = ("binary", "multiclass", "multilabel")
EXCLUDED = {
    "Dice": "left torchmetrics",
    "dice": "left torchmetrics",
    "specicity_at_sensitivity": "was misspelt, and left torchmetrics",
    "demographic_parity": "takes no labels",
    "ClusterAccuracy": "needs a package of its own",
    "FeatureShare": "shares a network between metrics of images",
    "MetricInputTransformer": "is abstract",
}
NEEDED = {
    "num_classes": CLASSES,
    "num_labels": CLASSES,
    "num_groups": 2,
    "beta": 2.0,
    "min_recall": 0.5,
    "min_precision": 0.5,
    "min_specificity": 0.5,
    "min_sensitivity": 0.5,
}
OPTIONS = {
    "thresholds": [5],  # by default none, and labels are kept in a list
    "threshold": [0.3],
    "top_k": [2],
    "ignore_index": [-1, 0],
    "squared": [True],
    "max_fpr": [0.5],
    "fpr_range": [(0.0, 0.5)],
    "n_bins": [5],
    "zero_division": [1.0],
    "normalization": [],  # of predictions alone
}
TAKES_MAPS = {"multidim_average", "thresholds", "normalize"}


def choices(annotation):
    """Returns the values of a `Literal`, wherever it stands in an annotation."""
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    return [choice for part in typing.get_args(annotation) for choice in choices(part)]


def name_of(label):
    """Returns the metric's name, which an id begins with."""
    return label.partition("-")[0]


def options_of(parameters) -> Iterator[dict[str, Any]]:
    """Yields the defaults, then each other value of one parameter at a time."""
    yield {}
    for name, parameter in parameters.items():
        values = OPTIONS.get(name, choices(parameter.annotation))
        yield from ({name: value} for value in values if value != parameter.default)


def tasks_of(name, module):
    """Returns the tasks of a metric, which is named for one or chooses by ``task=``."""
    if name == "equal_opportunity":
        return ["binary"]
    named = [task for task in TASKS if name.lower().startswith(task)]
    return named or [
        task
        for task in TASKS
        if {f"{task.capitalize()}{name}", f"{task}_{name}"} & set(module.__all__)
    ]


def variants_of(name, module):
    """Yields an id, the arguments and the data of each variant of a metric."""
    parameters = inspect.signature(getattr(module, name)).parameters
    needed = {key: value for key, value in NEEDED.items() if key in parameters}
    chooses = "task" in parameters and not name.lower().startswith(TASKS)
    for task in tasks_of(name, module):
        is_exact_match = "exact" in name.lower() and task == "multiclass"
        if chooses:
            yield (
                f"{name}-{task}",
                {**needed, "task": task},
                partial(drawn, task, maps=is_exact_match),
            )
            continue
        for option in options_of(parameters):
            maps = is_exact_match or "multidim_average" in option
            draw = partial(drawn, task, maps=maps, ignored=option.get("ignore_index") == -1)
            chosen = "".join(f"-{key}={value}" for key, value in option.items())
            yield f"{name}{chosen}", {**needed, **option}, draw
        if TAKES_MAPS & set(parameters) and not is_exact_match:
            yield f"{name}-maps=True", needed, partial(drawn, task, maps=True)


def with_groups(x, y):
    return x, y, torch.arange(len(y)) % 2


def cases_of(module):
    """Returns the cases of a module's `__all__`, by id."""
    cases = {}
    for name in sorted(set(module.__all__) - set(EXCLUDED)):
        metric = getattr(module, name)
        compared = "fair" in name.lower() or "group" in name.lower() or "opportunity" in name
        inputs = {"inputs": with_groups} if compared else {}
        for label, arguments, draw in variants_of(name, module):
            cases[label] = Case(make=partial(metric, **arguments), draw=draw, **inputs)
    return cases


CLASSIFICATION = cases_of(classification)
FUNCTIONAL = cases_of(functional)


# What else takes class labels.


def accuracy(**arguments):
    return classification.MulticlassAccuracy(CLASSES, **arguments)


def f1():
    return classification.MulticlassF1Score(CLASSES, average="none")


def curve(**arguments):
    return classification.MulticlassAUROC(CLASSES, **arguments)


def tracked(metric):
    """Returns a tracker in its first epoch."""
    tracker = wrappers.MetricTracker(metric)
    tracker.increment()
    return tracker


def in_tasks(x, y):
    return {"coarse": x[:, 0], "fine": x}, {"coarse": (y > 1).long(), "fine": y}


def several(**arguments):
    return MetricCollection(
        {"accuracy": accuracy(), "recall": classification.MulticlassRecall(CLASSES)}
        | {"f1": f1(), "curve": curve()},
        **arguments,
    )


WRAPPED = {
    "MetricCollection": several,
    "MetricCollection-no groups": partial(several, compute_groups=False),
    "MetricCollection-groups given": partial(
        several, compute_groups=[["accuracy", "recall"], ["f1"], ["curve"]]
    ),
    "MetricCollection-prefix": partial(several, prefix="train/", postfix="_mixed"),
    "MetricCollection-nested": lambda: MetricCollection([
        several(prefix="a_"),
        MetricCollection([accuracy(top_k=2)], prefix="b_"),
    ]),
    "MetricCollection-cloned": lambda: several().clone(prefix="train_"),
    "MetricTracker": lambda: tracked(accuracy()),
    "MetricTracker-collection": lambda: tracked(several()),
    "ClasswiseWrapper": lambda: wrappers.ClasswiseWrapper(f1()),
    "ClasswiseWrapper-in a collection": lambda: MetricCollection({
        "f1": wrappers.ClasswiseWrapper(f1(), labels=list("abcd")),
        "top": accuracy(),
    }),
    "MinMaxMetric": lambda: wrappers.MinMaxMetric(accuracy()),
    "BootStrapper": lambda: wrappers.BootStrapper(accuracy(), num_bootstraps=3, raw=True),
    "BootStrapper-multinomial": lambda: wrappers.BootStrapper(
        curve(), num_bootstraps=3, sampling_strategy="multinomial"
    ),
    "Running": lambda: wrappers.Running(accuracy(), window=2),
    "BinaryTargetTransformer": lambda: wrappers.BinaryTargetTransformer(
        classification.MultilabelAccuracy(CLASSES)
    ),
    "LambdaInputTransformer": lambda: wrappers.LambdaInputTransformer(
        accuracy(), transform_pred=lambda x: -x, transform_target=lambda y: (y + 1) % CLASSES
    ),
    "CompositionalMetric": lambda: accuracy() + f1(),
    "CompositionalMetric-of lists": lambda: abs(1 - 2 * curve()),
}
NO_WRAPPERS = ("MetricCollection", "CompositionalMetric")
WRAPPERS = {
    label: Case(make=make, draw=multilabel if label == "BinaryTargetTransformer" else multiclass)
    for label, make in WRAPPED.items()
    if name_of(label) in (*wrappers.__all__, *NO_WRAPPERS)  # which were fewer once
} | {
    "MultioutputWrapper": Case(
        make=lambda: wrappers.MultioutputWrapper(classification.BinaryAUROC(), CLASSES),
        draw=multilabel,
    ),
    "MultitaskWrapper": Case(
        make=lambda: wrappers.MultitaskWrapper({
            "coarse": classification.BinaryF1Score(),
            "fine": several(),
        }),
        draw=multiclass,
        inputs=in_tasks,
    ),
}

IN_QUERIES = {
    name: Case(
        make=getattr(retrieval, name),
        draw=binary,
        inputs=lambda x, y: (x, y, torch.arange(len(y)) % 3),
    )
    for name in retrieval.__all__
}
PREDICTED_CLASSES = {
    name: Case(
        make=partial(metric, **{"num_classes": CLASSES} if "num_classes" in parameters else {}),
        draw=multiclass,
        inputs=lambda x, y: (x.argmax(dim=1), y),
    )
    for module in (clustering, nominal)
    for name in sorted(set(module.__all__) - set(EXCLUDED))
    for metric in [getattr(module, name)]
    for parameters in [inspect.signature(metric).parameters]
    if list(inspect.signature(metric.update).parameters)[-1] == "target"
}
OTHERS = {
    "MulticlassAUROC-compute_on_cpu=True": Case(
        make=partial(curve, compute_on_cpu=True), draw=multiclass
    ),
    "Perplexity": Case(
        make=text.Perplexity,
        draw=partial(multiclass, maps=True),
        inputs=lambda x, y: (x.movedim(1, 2), y),
    ),
}


# Metrics as users write them, with torchmetrics' `Metric` for a base.


class RawTargets(Metric):
    """Needs all labels in the end."""

    full_state_update = False

    def __init__(self):
        super().__init__()
        self.add_state("targets", default=[], dist_reduce_fx="cat")

    def update(self, x, y):
        self.targets.append(y)

    def compute(self):
        return torchmetrics.utilities.dim_zero_cat(self.targets)


class RawTargetsTwice(RawTargets):
    """Asks torchmetrics for two updates per call."""

    full_state_update = True


class LabelsAsTheyCame(RawTargets):
    """Gives away what it was given."""

    def compute(self):
        return list(self.targets)


class LastTargets(Metric):
    """Keeps the labels of the last batch."""

    full_state_update = True

    def __init__(self):
        super().__init__()
        self.add_state("last", default=torch.zeros(0, dtype=torch.long), dist_reduce_fx=None)

    def update(self, x, y):
        self.last = y

    def compute(self):
        return self.last


class Hits(Metric):
    """Counts what is right."""

    def __init__(self):
        super().__init__()
        self.add_state("correct", default=torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, x, y):
        self.correct += (x.argmax(1) == y).sum()
        self.total += y.numel()

    def compute(self):
        return self.correct / self.total


class HitsOfEachClass(Metric):
    """Counts by an index."""

    def __init__(self):
        super().__init__()
        self.add_state("counts", default=torch.zeros(CLASSES, CLASSES), dist_reduce_fx="sum")

    def update(self, x, y):
        for label, guess in zip(y, x.argmax(1), strict=True):
            self.counts[label, guess] += 1

    def compute(self):
        return self.counts


USERS = {
    name: Case(make=make, draw=multiclass)
    for name, make in {
        "your own, a list of labels": RawTargets,
        "your own, a list of labels, updated twice": RawTargetsTwice,
        "your own, labels as they came": LabelsAsTheyCame,
        "your own, the last labels": LastTargets,
        "your own, hits": Hits,
        "your own, hits of each class": HitsOfEachClass,
        "your own, in a collection": lambda: MetricCollection([RawTargets(), Hits()]),
    }.items()
}


# Float targets.

REGRESSION_NEEDS = {"MinkowskiDistance": {"p": 3.0}, "CriticalSuccessIndex": {"threshold": 0.5}}
REGRESSION_OPTIONS = {
    "MeanSquaredError-num_outputs=4": Case(
        make=partial(regression.MeanSquaredError, num_outputs=CLASSES),
        draw=partial(drawn_numbers, CLASSES),
        own=interpolated,
    ),
    "ExplainedVariance-multioutput=raw_values": Case(
        make=partial(regression.ExplainedVariance, multioutput="raw_values"),
        draw=partial(drawn_numbers, CLASSES),
        own=interpolated,
    ),
    "MultioutputWrapper-numbers": Case(
        make=lambda: wrappers.MultioutputWrapper(regression.SpearmanCorrCoef(), CLASSES),
        draw=partial(drawn_numbers, CLASSES),
        own=interpolated,
    ),
}


def regression_case(name):
    """Returns a case for a metric of numbers, positive ones, vectors or distributions."""
    metric = partial(getattr(regression, name), **REGRESSION_NEEDS.get(name, {}))
    vectors = {
        "CosineSimilarity": lambda x, y: (x, y),
        "ContinuousRankedProbabilityScore": lambda x, y: (x, y[:, 0]),
        "KLDivergence": lambda x, y: (x.softmax(1), y / y.sum(1, keepdim=True)),
        "JensenShannonDivergence": lambda x, y: (x.softmax(1), y / y.sum(1, keepdim=True)),
    }
    if name in vectors:
        draw = partial(drawn_distributions if "Divergence" in name else drawn_numbers, CLASSES)
        return Case(make=metric, draw=draw, inputs=vectors[name], own=interpolated)
    return Case(
        make=metric, draw=drawn_numbers, inputs=lambda x, y: (x.sigmoid(), y), own=interpolated
    )


def drawn_distributions(*shape):
    """Returns predictions, and targets that sum to one."""
    x, y = drawn_numbers(*shape)
    return x, y / y.sum(dim=1, keepdim=True)


REGRESSION = {name: regression_case(name) for name in regression.__all__} | REGRESSION_OPTIONS
METRICS = CLASSIFICATION | WRAPPERS | IN_QUERIES | PREDICTED_CLASSES | OTHERS | USERS | REGRESSION


def having_option(cases, *names):
    """Returns the cases of an option, of any one if none is named."""
    found = {label: case for label, case in cases.items() if "=" in label}
    return {label: found[label] for label in found if not names or any(n in label for n in names)}


def without_option(cases):
    return {label: case for label, case in cases.items() if "=" not in label}


# Options that choose what is kept; others choose what is computed of it.
DIFFERENT_STATES = without_option(METRICS) | having_option(
    METRICS, "thresholds=", "samplewise", "maps=", "top_k=", "compute_on_cpu="
)


# Feeding them.

BY_CALL, BY_UPDATE, BY_BOTH = ("call", "call"), ("update", "update"), ("call", "update")
OF_BOTH = (False, True)  # The first batch has one weight for all samples, the second one each.
WEIGHTS = pytest.mark.parametrize("per_sample", [False, True], ids=["per_batch", "per_sample"])
DOORS = pytest.mark.parametrize("doors", [BY_CALL, BY_UPDATE], ids=["call", "update"])


@dataclass(frozen=True)
class Batch:
    """Predictions, mixed labels and what a metric must read of them."""

    x: Tensor
    target: MixedTarget
    own: Tensor


def draw_batch(case, *, per_sample, count=2):
    x, y = case.draw()
    candidates = candidates_of(y, count)
    weights = draw_weights(per_sample=per_sample, candidates=count)
    return Batch(x, MixedTarget(candidates, weights), case.own(candidates, weights))


def draw_batches(case, per_sample):
    """Returns two batches, of two candidates and of three."""
    first, second = per_sample
    return (
        draw_batch(case, per_sample=first, count=2),
        draw_batch(case, per_sample=second, count=3),
    )


def feed(case, metric, batches, doors, *, mixed):
    """Returns what a metric gives for each batch that it is called with, and in the end."""
    torch.default_generator.manual_seed(1)  # Bootstraps are drawn.
    values = []
    for batch, door in zip(batches, doors, strict=True):
        inputs = case.inputs(batch.x, batch.target if mixed else batch.own)
        if door == "call":
            values.append(metric(*inputs))
        else:
            metric.update(*inputs)
        batch.target.usage.ended = mixed  # as the callback does when a step is over
    return [*values, metric.compute()]


# Before torchmetrics 1.4 a metric gives away the very labels that its `update` kept. They read as
# plain ones, the step being over.
_ALLOW_SUBCLASSES = not hasattr(Metric, "_copy_state_dict")


def assert_same(actual, expected, case):
    """Asserts that results are equal, undefined ones too, and that they are plain tensors."""
    close = {"rtol": 0, "atol": 0} if case.own is dominant else {}
    assert_close(actual, expected, **close, equal_nan=True, allow_subclasses=_ALLOW_SUBCLASSES)


def assert_metric_reads_its_own(case, *, per_sample, doors):
    batches = draw_batches(case, per_sample)
    expected = feed(case, case.make(), batches, doors, mixed=False)

    actual = feed(case, case.make(), batches, doors, mixed=True)

    assert_same(actual, expected, case)


def assert_function_reads_its_own(case, *, per_sample):
    batch = draw_batch(case, per_sample=per_sample)

    actual = case.make(*case.inputs(batch.x, batch.target))

    assert_same(actual, case.make(*case.inputs(batch.x, batch.own)), case)


def types_kept_by(metric):
    """Returns the types of all tensors in a metric and its parts: states, caches and results."""
    return {type(tensor) for part in metric.modules() for tensor in tensors_in(vars(part))}


def types_kept_of_mixed_labels(case):
    metric = case.make()
    interceptions = guard_metrics(metric)  # as the callback does
    feed(case, metric, draw_batches(case, OF_BOTH), BY_BOTH, mixed=True)
    for interception in interceptions:
        interception.release()
    return types_kept_by(metric)


def parametrize(cases):
    return pytest.mark.parametrize("case", cases.values(), ids=cases)


# The laws.


@pytest.mark.parametrize(
    ("module", "cases"),
    [
        (classification, CLASSIFICATION),
        (functional, FUNCTIONAL),
        (wrappers, WRAPPERS),
        (retrieval, IN_QUERIES),
        (regression, REGRESSION),
    ],
    ids=["classification", "functional", "wrappers", "retrieval", "regression"],
)
def test_every_name_of_torchmetrics_has_a_case_or_a_reason(module, cases):
    assert set(module.__all__) - set(map(name_of, cases)) - set(EXCLUDED) == set()


@DOORS
@WEIGHTS
@parametrize(without_option(METRICS))
def test_a_metric_of_mixed_labels_is_that_of_the_dominant_ones(case, per_sample, doors):
    assert_metric_reads_its_own(case, per_sample=(per_sample, per_sample), doors=doors)


@parametrize(having_option(METRICS))
def test_no_option_of_a_metric_changes_what_it_reads(case):
    assert_metric_reads_its_own(case, per_sample=OF_BOTH, doors=BY_BOTH)


@WEIGHTS
@parametrize(without_option(FUNCTIONAL))
def test_a_function_of_mixed_labels_is_that_of_the_dominant_ones(case, per_sample):
    assert_function_reads_its_own(case, per_sample=per_sample)


@parametrize(having_option(FUNCTIONAL))
def test_no_option_of_a_function_changes_what_it_reads(case):
    assert_function_reads_its_own(case, per_sample=True)


@parametrize(DIFFERENT_STATES)
def test_a_metric_keeps_plain_tensors_only(case):
    assert types_kept_of_mixed_labels(case) == {Tensor}


@parametrize(without_option(CLASSIFICATION))
def test_a_metric_of_class_labels_is_not_taken_for_the_loss(case):
    batch = draw_batch(case, per_sample=False)

    case.make()(*case.inputs(batch.x, batch.target))

    assert not batch.target.usage.met_gradient


# Labels that are floats for the loss and integers for the metric.


def binary_loss(x, y):
    return F.binary_cross_entropy_with_logits(x, y)


def loss_first(x, y, metric):
    loss = binary_loss(x, y.to(x))
    return loss, metric(x, y.int())


def metric_first(x, y, metric):
    value = metric(x, y.int())
    return binary_loss(x, y.to(x)), value


def there_and_back(x, y, metric):
    y = y.type_as(x)
    loss = binary_loss(x, y)
    y = y.long()
    return loss, metric(x, y)


def back_and_there(x, y, metric):
    y = y.bool()
    value = metric(x, y.to(torch.int64))
    y = y.to(x)
    return binary_loss(x, y), value


def above_a_half(x, y, metric):
    value = metric(x, (y > 0.5).int())
    return binary_loss(x, y.to(x)), value


def of_a_smooth_copy(x, y, metric):
    smooth = y.to(x) * 0.9 + 0.05
    loss = binary_loss(x, smooth)
    return loss, metric(x, smooth.round().long())


ORDERS = pytest.mark.parametrize(
    "step",
    [
        loss_first,
        metric_first,
        there_and_back,
        back_and_there,
        above_a_half,
        of_a_smooth_copy,
    ],
)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool], ids=str)


def binary_metrics():
    return MetricCollection([
        classification.MultilabelAccuracy(CLASSES, average="none"),
        classification.MultilabelAUROC(CLASSES),
    ])


@WEIGHTS
@DTYPES
@ORDERS
def test_labels_may_be_floats_for_the_loss_and_integers_for_the_metric(step, dtype, per_sample):
    case = Case(make=binary_metrics, draw=lambda: (lambda x, y: (x, y.to(dtype)))(*multilabel()))
    batch, metric = draw_batch(case, per_sample=per_sample), binary_metrics()

    _, value = step(batch.x, batch.target, metric)

    assert_same(value, binary_metrics()(batch.x, batch.own.long()), case)
    assert types_kept_by(metric) == {Tensor}


@WEIGHTS
@DTYPES
@ORDERS
def test_the_loss_of_such_labels_is_the_mixture(step, dtype, per_sample):
    def loss(x, y):
        return step(x, y, binary_metrics())[0]

    assert_mixture(loss, multilabel()[1].to(dtype), per_sample=per_sample, tolerance=1e-6)


# Losses that are logged by a metric.


AGGREGATIONS = ["MeanMetric", "SumMetric", "MaxMetric", "CatMetric", "RunningMean"]


def each_cross_entropy(x, y):
    return F.cross_entropy(x, y, reduction="none")


def each_focal(x, y):
    log_p = x.log_softmax(1).gather(1, y[:, None])[:, 0]
    return -((1 - log_p.exp()) ** 2) * log_p


@WEIGHTS
@pytest.mark.parametrize("reduce", [Tensor.mean, Tensor.sum, Tensor.clone, Tensor.detach])
@pytest.mark.parametrize("each_loss", [each_cross_entropy, each_focal])
@pytest.mark.parametrize("name", AGGREGATIONS)
def test_an_average_of_losses_is_that_of_the_mixtures(name, each_loss, reduce, per_sample):
    x, y = multiclass()
    candidates, weights = candidates_of(y), draw_weights(per_sample=per_sample)
    metric, expected = (getattr(aggregation, name)() for _ in range(2))
    rows = torch.stack([each_loss(x, row) for row in candidates])
    expected(reduce((rows * weights.reshape(2, -1).to(rows)).sum(dim=0)))

    metric(reduce(each_loss(x, MixedTarget(candidates, weights))))

    assert_close(metric.compute(), expected.compute(), allow_subclasses=False)
    assert types_kept_by(metric) == {Tensor}


@WEIGHTS
def test_a_mean_of_losses_may_be_weighted(per_sample):
    batch = draw_batch(Case(make=f1, draw=multiclass), per_sample=per_sample)
    loss = each_cross_entropy(batch.x, batch.target)
    metric, expected = aggregation.MeanMetric(), aggregation.MeanMetric()

    metric.update(loss, weight=torch.arange(BATCH))
    metric.update(loss.mean(), weight=BATCH)

    expected.update(merge(loss), weight=torch.arange(BATCH))
    expected.update(merge(loss.mean()), weight=BATCH)
    assert_close(metric.compute(), expected.compute(), allow_subclasses=False)


# Float labels without a cast, which torchmetrics takes in places as long as they are 0 and 1.


@parametrize({
    label: case
    for label, case in without_option(CLASSIFICATION).items()
    if "multiclass" not in label.lower()
})
def test_float_labels_without_a_cast_are_the_dominant_ones(case):
    def draw():
        x, y = case.draw()
        return x, y.float()

    batch = draw_batch(replace(case, draw=draw), per_sample=False)
    own = batch.target.candidates[0]

    try:
        expected = case.make()(*case.inputs(batch.x, own))
    except (RuntimeError, ValueError):
        return  # It takes no floats at all.
    assert_same(case.make()(*case.inputs(batch.x, batch.target)), expected, case)


# In training.


class Measured(LightningModule):
    """Logs metrics by name, and feeds a copy of each with what was merged before."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, CLASSES)
        self.called, self.updated, self.expected = (
            MetricCollection(
                {"accuracy": accuracy(top_k=2), "auroc": curve(), "hits": Hits()}, prefix=prefix
            )
            for prefix in ("called_", "updated_", "")
        )
        self.mean_loss, self.losses, self.kept = aggregation.MeanMetric(), [], set()

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self.net(x)
        loss = F.cross_entropy(logits, y)
        self.called(logits, y)
        self.updated.update(logits, y)
        self.mean_loss(loss)
        self.expected.update(logits, merge(y))
        self.losses.append(merge(loss).detach())
        self.log_dict(self.called, on_step=False, on_epoch=True)
        self.log("mean_loss", self.mean_loss, on_step=False, on_epoch=True)
        return loss

    def on_train_epoch_end(self):
        self.kept = types_kept_by(self.called) | types_kept_by(self.updated)
        self.log_dict(self.updated.compute())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@WEIGHTS
def test_metrics_in_a_training_step_are_logged_as_those_of_the_dominant_labels(
    make_trainer, per_sample
):
    module = Measured()
    batches = DataLoader(
        TensorDataset(torch.randn(32, 3), torch.randint(0, CLASSES, (32,))), batch_size=8
    )
    trainer = make_trainer(callbacks=[MixupCallback(recipe=Mixup(1.0, per_sample=per_sample))])

    trainer.fit(module, batches)

    expected = module.expected.compute()
    logged = {
        f"{prefix}_{name}": expected[name] for prefix in ("called", "updated") for name in expected
    }
    logged["mean_loss"] = torch.stack(module.losses).mean()
    assert_close({name: trainer.callback_metrics[name] for name in logged}, logged)
    assert module.kept == {Tensor}


# For the docs.


def reads(case, *, is_function):
    """Returns in a few words what a metric of mixed labels is."""
    whose = "dominant label's" if case.own is dominant else "interpolated value's"
    try:
        assert_reads_its_own(case, is_function=is_function)
    except AssertionError:
        return f"not the {whose}"
    except Exception as error:  # Whatever a metric raises is what the table says.
        return f"raises {type(error).__name__}"
    if is_function or types_kept_of_mixed_labels(case) == {Tensor}:
        return whose
    return f"{whose}, but the metric keeps the mixed labels"


def assert_reads_its_own(case, *, is_function):
    """Asserts what the tests above do, by both doors and under both weightings."""
    for per_sample, doors in itertools.product((False, True), (BY_CALL, BY_UPDATE)):
        if is_function:
            assert_function_reads_its_own(case, per_sample=per_sample)
        else:
            assert_metric_reads_its_own(case, per_sample=(per_sample,) * 2, doors=doors)


def table() -> list[tuple[str, str]]:
    """Returns each metric's name and what it reads, by running it; and what is left out."""
    torch.manual_seed(0)
    rows: dict[str, set[str]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for cases in (METRICS, FUNCTIONAL):
            for label, case in cases.items():
                said = reads(case, is_function=cases is FUNCTIONAL)
                rows.setdefault(name_of(label), set()).add(said)
    left_out = [(name, f"not tried: {reason}") for name, reason in EXCLUDED.items()]
    return [(name, "; ".join(sorted(said))) for name, said in rows.items()] + left_out
