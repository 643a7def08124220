"""Tests for lightning_mixup.calibration."""

import copy
import pickle
from datetime import timedelta

import pytest
import torch
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    nll_loss,
    one_hot,
)
from torch.testing import assert_close
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    BinaryCalibrationError,
    MulticlassAccuracy,
    MulticlassCalibrationError,
)

from lightning_mixup.calibration import (
    BinaryCalibrationStatistics,
    CalibrationStatistics,
    _find_cell,
)
from lightning_mixup.reliability import ReliabilityBins
from lightning_mixup.samples import measure

USUAL_BINS = (1, 10, 12, 15, 20, 25, 30, 50, 100)
OTHER_BINS = (2, 7, 13, 37, 64, 999, 4001, 6000)
# What the true logits are multiplied by: a model that believes them too little, well, too much.
SCALES = pytest.mark.parametrize("scale", [0.4, 1.0, 3.0], ids=["under", "calibrated", "over"])


def draw(n=2000, classes=10, scale=1.0):
    """Returns logits and labels drawn from their softmax; then the logits are scaled."""
    logits = 2 * torch.randn(n, classes)
    target = torch.multinomial(logits.softmax(1), 1).squeeze(1)
    return scale * logits, target


def measured(logits, target, batch_size=None, **settings):
    statistics = CalibrationStatistics(**settings)
    size = batch_size or len(target)
    for batch in zip(logits.split(size), target.split(size), strict=True):
        statistics.update(*batch)
    return statistics


def torchmetrics_figure(metric, logits, target):
    metric.update(logits, target)
    return metric.compute()


def exact_ece(logits, target, n_bins=15):
    """The textbook sum over bins, one bin at a time, in float64."""
    confidence, prediction = logits.softmax(1).max(1)
    correct, confidence = (prediction == target).double().numpy(), confidence.double().numpy()
    edges = torch.linspace(0, 1, n_bins + 1).double().numpy()
    ece = 0.0
    for m in range(n_bins):
        last = m == n_bins - 1
        inside = (edges[m] <= confidence) & ((confidence < edges[m + 1]) | last)
        if inside.any():
            share = inside.sum() / len(inside)
            ece += share * abs(correct[inside].mean() - confidence[inside].mean())
    return torch.tensor(ece, dtype=torch.float64)


def assert_same_figures(actual, expected):
    """To the last bit."""
    assert_close(actual.compute(), expected.compute(), rtol=0, atol=0, equal_nan=True)


# Laws.


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batches_pool_into_the_whole(batch_size):
    """The split into batches cannot change a figure."""
    logits, target = draw(200)

    assert_same_figures(measured(logits, target, batch_size), measured(logits, target))


def test_bins_add():
    logits, target = draw(200)

    added = measured(logits[:80], target[:80]).bins() + measured(logits[80:], target[80:]).bins()

    whole = measured(logits, target).bins()
    for name in ("count", "correct", "confidence"):
        assert_close(getattr(added, name), getattr(whole, name), rtol=0, atol=1e-12)


def test_processes_pool_into_the_whole():
    """The split over devices cannot change a figure: sums are added, not figures averaged."""
    logits, target = draw(300)
    other = measured(logits[:90], target[:90])
    here = measured(
        logits[90:],
        target[90:],
        dist_sync_fn=lambda sums, group: [sums, other.sums],
        distributed_available_fn=lambda: True,
    )

    assert_same_figures(here, measured(logits, target))


def test_a_process_without_data_holds_sums_like_the_others():
    """Gathering tensors of different dtypes or shapes would hang or return garbage."""
    idle, busy = CalibrationStatistics().sums, measured(*draw(10)).sums

    assert (idle.shape, idle.dtype) == (busy.shape, busy.dtype)


def test_order_does_not_matter():
    logits, target = draw()
    order = torch.randperm(len(target))

    assert_same_figures(measured(logits[order], target[order], 64), measured(logits, target, 64))


@pytest.mark.parametrize("shape", [(300, 2), (300, 1000), (9, 5, 7, 9), (9, 21, 64)], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_no_split_and_no_order_changes_a_bit(shape, dtype):
    logits = (4 * torch.randn(shape)).to(dtype)
    target = torch.randint(shape[1], shape[:1] + shape[2:])
    logits[0] = torch.nan
    order = torch.randperm(len(target))

    shuffled = [measured(logits[order], target[order], size) for size in (1, 3, 7)]

    whole = measured(logits, target)
    for split in shuffled:
        assert torch.equal(split.sums, whole.sums)
        assert_same_figures(split, whole)


def count_in_process(rank, folder):
    """Counts every other sample, in batches of a size of its own, and pools."""
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=2,
        timeout=timedelta(minutes=1),
    )
    logits, target = torch.load(folder / "samples.pt")
    batch_size = (32, 300)[rank]
    figures = measured(logits[rank::2], target[rank::2], batch_size, ignore_index=3).compute()
    torch.save(figures, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_figures_of_one(tmp_path):
    logits, target = draw(1001)
    logits[5] = torch.nan
    torch.save((logits, target), tmp_path / "samples.pt")
    expected = measured(logits, target, ignore_index=3).compute()

    other = torch.multiprocessing.get_context("spawn").Process(
        target=count_in_process, args=(1, tmp_path)
    )
    other.start()
    count_in_process(0, tmp_path)
    other.join()

    for rank in (0, 1):
        assert_close(torch.load(tmp_path / f"{rank}.pt"), expected, rtol=0, atol=0)


def test_a_constant_per_sample_does_not_matter():
    """So log-probabilities may be given for logits."""
    logits, target = draw()

    shifted = measured(logits.double().log_softmax(1) - 5, target).compute()

    assert_close(shifted, measured(logits.double(), target).compute(), rtol=0, atol=1e-8)


def test_a_calibrated_model_has_no_gap_and_little_error():
    bins = measured(*draw(20_000)).bins()

    assert bins.confidence_gap().abs() < 0.01
    assert bins.expected_calibration_error() < 2 * bins.noise_floor()


@pytest.mark.parametrize(("scale", "sign"), [(0.4, -1), (3.0, 1)], ids=["under", "over"])
def test_the_sign_of_the_gap_tells_over_from_under_confidence(scale, sign):
    figures = measured(*draw(scale=scale)).compute()

    assert figures["confidence_gap"].sign() == sign
    assert figures["ece"] > 0.1


def test_the_noise_floor_is_the_error_of_calibrated_models():
    """On average over models; the formula is an approximation for well-filled bins."""
    models = [measured(*draw(2000)).bins() for _ in range(40)]

    error = torch.stack([bins.expected_calibration_error() for bins in models]).mean()
    floor = torch.stack([bins.noise_floor() for bins in models]).mean()

    assert_close(error, floor, rtol=0.1, atol=0)


def test_the_noise_floor_survives_a_confidence_rounded_up():
    count = torch.tensor([3.0, 0.0], dtype=torch.float64)

    assert ReliabilityBins(count, count, count * (1 + 1e-12)).noise_floor() == 0


def test_one_bin_makes_the_error_the_gap():
    figures = measured(*draw(scale=0.4), n_bins=1).compute()

    assert_close(figures["ece"], -figures["confidence_gap"], rtol=0, atol=1e-12)


def test_nothing_given_is_modified_and_nothing_remembers_a_gradient():
    logits, target = draw(20)
    given = logits.clone().requires_grad_(), target.clone()

    statistics = measured(*given)

    assert_close(given, (logits, target), rtol=0, atol=0)
    assert not statistics.sums.requires_grad


@pytest.mark.parametrize("batch_size", [1, 100, 4095, 10_000])
def test_memory_does_not_grow_with_the_data(batch_size):
    """Neither counted samples nor those that wait to be."""
    logits, target = draw(10_000, classes=3)

    statistics = measured(logits, target, batch_size)

    waiting = [*(batch[:2] for batch in statistics._given), *statistics._measured]
    assert sum(part.nbytes for parts in waiting for part in parts) < 200_000
    assert statistics.sums.nbytes < 150_000
    assert not statistics._given
    assert not statistics._measured


# Independent oracles.


@SCALES
@pytest.mark.parametrize("batch_size", [32, 1000])
def test_equals_torchmetrics(scale, batch_size):
    logits, target = draw(5000, scale=scale)
    ece = torchmetrics_figure(MulticlassCalibrationError(10, n_bins=15), logits, target)
    accuracy = torchmetrics_figure(MulticlassAccuracy(10, average="micro"), logits, target)

    figures = measured(logits, target, batch_size).compute()

    assert_close(figures["ece"].float(), ece, rtol=0, atol=5e-6)
    assert figures["accuracy"].float() == accuracy


NORMS = pytest.mark.parametrize(
    ("norm", "figure"), [("l1", "ece"), ("l2", "rmsce"), ("max", "mce")], ids=["l1", "l2", "max"]
)


@SCALES
@NORMS
@pytest.mark.parametrize("n_bins", [1, 7, 10, 15, 64])
def test_equals_each_norm_of_torchmetrics(scale, norm, figure, n_bins):
    logits, target = draw(2000, scale=scale)
    metric = MulticlassCalibrationError(10, n_bins=n_bins, norm=norm)

    figures = measured(logits, target, n_bins=n_bins).compute()

    theirs = torchmetrics_figure(metric, logits, target)
    assert_close(figures[figure].float(), theirs, rtol=0, atol=5e-6)


@SCALES
@pytest.mark.parametrize("n_bins", USUAL_BINS + OTHER_BINS)
def test_equals_the_exact_sum(scale, n_bins):
    logits, target = draw(scale=scale)

    figures = measured(logits, target, n_bins=n_bins).compute()

    assert_close(figures["ece"], exact_ece(logits, target, n_bins), rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_bins", USUAL_BINS + OTHER_BINS)
def test_bins_are_those_of_torchmetrics_to_the_last_bit(n_bins):
    """Confidences on every edge, and next to it on both sides, fall where torchmetrics' do."""
    edges = torch.linspace(0, 1, n_bins + 1)[1:]
    below, above = edges.nextafter(torch.tensor(0.0)), edges.nextafter(torch.tensor(2.0))
    confidence = torch.cat([below, edges, above]).clamp(max=1)
    theirs = torch.bucketize(confidence, torch.linspace(0, 1, n_bins + 1), right=True) - 1

    statistics = BinaryCalibrationStatistics(n_bins)
    statistics.update(probabilities=confidence, target=torch.ones_like(confidence).long())

    bins = statistics.bins()
    assert bins.count.tolist() == theirs.clamp(max=n_bins - 1).bincount(minlength=n_bins).tolist()


@pytest.mark.parametrize("n_bins", USUAL_BINS)
def test_other_numbers_of_bins_follow_from_the_same_sums(n_bins):
    logits, target = draw()

    bins = measured(logits, target).bins(n_bins)

    expected = exact_ece(logits, target, n_bins)
    assert_close(bins.expected_calibration_error(), expected, rtol=0, atol=1e-12)


def test_logits_that_look_like_probabilities_are_still_logits():
    """The torchmetrics class would take a batch within [0, 1] for probabilities."""
    logits, target = torch.rand(300, 5), torch.randint(5, (300,))

    figures = measured(logits, target, batch_size=1).compute()

    assert_close(figures["ece"], exact_ece(logits, target), rtol=0, atol=1e-12)


def test_full_confidence_belongs_to_the_last_bin():
    """The torchmetrics class gives it a bin of its own (torchmetrics#3510)."""
    logits, target = draw(scale=20)
    certain = (logits.softmax(1).amax(1) == 1).sum()

    statistics = measured(logits, target)

    assert certain > 500
    assert statistics.bins().count[-1] >= certain
    assert_close(statistics.compute()["ece"], exact_ece(logits, target), rtol=0, atol=1e-12)


def test_a_million_samples_stay_exact():
    """Calibrated and confident, as in segmentation. The float32 sums of torchmetrics drift."""
    confidence = 0.96 + 0.03 * torch.rand(1_000_000)
    logits = torch.stack([confidence.logit(), torch.zeros_like(confidence)], 1)
    target = (torch.rand_like(confidence) > confidence).long()
    expected = exact_ece(logits, target)
    theirs = torchmetrics_figure(MulticlassCalibrationError(2, n_bins=15), logits, target)

    figures = measured(logits, target).compute()

    assert (theirs - expected).abs() > 5e-4
    assert_close(figures["ece"], expected, rtol=0, atol=1e-12)


@SCALES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_nll_is_the_mean_cross_entropy(scale, dtype):
    logits, target = draw(scale=scale)

    figures = measured(logits.to(dtype), target).compute()

    atol = {torch.float32: 1e-6, torch.float64: 1e-9}[dtype]
    expected = cross_entropy(logits.to(dtype).double(), target)
    assert_close(figures["nll"], expected, rtol=0, atol=atol)


@SCALES
def test_brier_is_the_mean_squared_distance_to_the_label(scale):
    logits, target = draw(scale=scale)

    figures = measured(logits.double(), target).compute()

    distance = logits.double().softmax(1) - one_hot(target, 10)
    assert_close(figures["brier"], distance.square().sum(1).mean(), rtol=0, atol=1e-9)


def test_the_headline_is_the_cheap_part_of_all_figures():
    statistics = CalibrationStatistics()
    statistics.update(torch.randn(50, 3), torch.arange(50) % 3)

    headline, figures = statistics.headline(), statistics.compute()

    assert set(headline) == {
        "accuracy", "ece", "confidence_gap", "nll", "brier", "nonfinite", "count"
    }  # fmt: skip
    assert headline.items() <= figures.items()


def test_figures_are_those_of_the_bins():
    statistics = measured(*draw(), n_bins=7)
    bins, cells = statistics.bins(), statistics.cells()

    figures = statistics.compute()

    expected = {
        "mce": bins.maximum_calibration_error(),
        "rmsce": bins.root_mean_square_calibration_error(),
        "debiased_l2": bins.debiased_calibration_error(),
        "adaptive_ece": cells.equal_mass(7).expected_calibration_error(),
        "smooth_ece": cells.smooth_calibration_error(),
        "noise_floor": bins.noise_floor(),
    }
    assert {name: figures[name] for name in expected} == expected


@pytest.mark.parametrize("factor", [1e5, 1e9])
def test_an_nll_may_be_large_and_exact(factor):
    logits, target = draw(300)

    figures = measured(factor * logits, target).compute()

    expected = cross_entropy((factor * logits).double(), target)
    assert_close(figures["nll"], expected, rtol=1e-6, atol=0)


# Of the positive class.


def draw_binary(shape=(2000,), scale=1.0):
    logits = (2 * torch.randn(shape)).clamp(-5, 5)  # so that no float32 probability is 1
    return scale * logits, torch.bernoulli(logits.sigmoid()).long()


def measured_binary(logits, target, **settings):
    statistics = BinaryCalibrationStatistics(**settings)
    statistics.update(logits, target)
    return statistics


@SCALES
@NORMS
@pytest.mark.parametrize("n_bins", [1, 7, 10, 15, 64])
def test_equals_each_norm_of_binary_torchmetrics(scale, norm, figure, n_bins):
    logits, target = draw_binary(scale=scale)
    metric = BinaryCalibrationError(n_bins=n_bins, norm=norm)

    figures = measured_binary(logits, target, n_bins=n_bins).compute()

    theirs = torchmetrics_figure(metric, logits, target)
    assert_close(figures[figure].float(), theirs, rtol=0, atol=5e-6)


@SCALES
def test_binary_scores_are_the_textbooks(scale):
    logits, target = draw_binary(scale=scale)
    logits = logits.double()

    figures = measured_binary(logits, target).compute()

    expected = {
        "accuracy": ((logits > 0) == target).double().mean(),
        "confidence_gap": logits.sigmoid().mean() - target.double().mean(),
        "nll": binary_cross_entropy_with_logits(logits, target.double()),
        "brier": (logits.sigmoid() - target).square().mean(),
    }
    actual = {name: figures[name] for name in expected}
    assert_close(actual, expected, rtol=0, atol=1e-9)


def test_every_label_is_a_prediction_of_its_own():
    """Also in a map, and also where some are left out."""
    logits, target = draw_binary((20, 4, 3, 5))
    target[:, 1, 2] = -1
    kept = target >= 0

    labels = measured_binary(logits, target, ignore_index=-1)

    assert_same_figures(labels, measured_binary(logits[kept], target[kept]))


def test_a_binary_classifier_has_top_label_figures_too():
    """Two classes: the same scores, but for Brier, whose sum is over both."""
    logits, target = draw_binary()
    two = torch.stack([torch.zeros_like(logits), logits], 1)

    top, positive = measured(two, target).compute(), measured_binary(logits, target).compute()

    assert top["accuracy"] == positive["accuracy"]
    assert_close(top["nll"], positive["nll"], rtol=0, atol=1e-6)
    assert_close(top["brier"], 2 * positive["brier"], rtol=0, atol=1e-6)
    assert top["ece"] != positive["ece"]


def test_a_certain_logit_counts_and_a_nan_does_not():
    logits = torch.tensor([torch.inf, -torch.inf, torch.nan, torch.inf])

    figures = measured_binary(logits, torch.tensor([1, 0, 1, 0])).compute()

    assert (figures["count"], figures["nonfinite"], figures["nll"]) == (3, 1, torch.inf)
    assert_close(figures["ece"], torch.tensor(1 / 3).double())


def test_rejects_binary_targets_of_another_shape_or_value():
    with pytest.raises(ValueError, match=r"\(4, 1\) and .*\(4,\) do not fit.*logits.squeeze\(1\)"):
        measured_binary(torch.ones(4, 1), torch.ones(4).long())
    with pytest.raises(ValueError, match="holds the label 2"):
        measured_binary(torch.ones(2), torch.tensor([1, 2]))


# Probabilities.


@pytest.mark.parametrize("n_bins", [10, 15])
def test_probabilities_are_taken_as_they_are(n_bins):
    """Tenths lie on the edges of bins, and would fall beside them after a logarithm."""
    top = torch.arange(5, 11).repeat(40) / 10
    target = torch.bernoulli(1 - top).long()
    metric = MulticlassCalibrationError(2, n_bins=n_bins)
    p = torch.stack([top, 1 - top], 1)[top < 1]  # one is theirs to miss
    target = target[top < 1]

    statistics = CalibrationStatistics(n_bins)
    statistics.update(probabilities=p, target=target)

    figures = statistics.compute()
    theirs = torchmetrics_figure(metric, p, target)
    assert_close(figures["ece"].float(), theirs, rtol=0, atol=5e-6)
    assert_close(figures["nll"], nll_loss(p.double().log(), target), rtol=0, atol=1e-6)


def test_binary_probabilities_are_taken_as_they_are():
    p = torch.arange(10).repeat(50) / 10
    target = torch.bernoulli(p).long()
    metric = BinaryCalibrationError(n_bins=10)

    statistics = BinaryCalibrationStatistics(10)
    statistics.update(probabilities=p, target=target)

    theirs = torchmetrics_figure(metric, p, target)
    assert_close(statistics.compute()["ece"].float(), theirs, rtol=0, atol=5e-6)


@pytest.mark.parametrize("statistics", [CalibrationStatistics, BinaryCalibrationStatistics])
@pytest.mark.parametrize("name", ["logits", "probabilities"])
@pytest.mark.parametrize("shape", [(40, 2), (100, 300)], ids=str)
def test_what_was_given_may_be_written_to_afterwards(statistics, name, shape):
    """As a loop does that fills the same tensors again and again."""
    scores = torch.rand(shape).softmax(1)
    target = torch.randint(2, shape[:1] if statistics is CalibrationStatistics else shape)
    kept, reused = statistics(ignore_index=-1), statistics(ignore_index=-1)
    kept.update(**{name: scores.clone(), "target": target.clone()})

    reused.update(**{name: scores, "target": target})
    scores.fill_(0.5)
    target.fill_(-1)

    assert_same_figures(reused, kept)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"probabilities": torch.tensor([[2.0, -1.0]])}, ValueError, "hold 2, .* Pass logits as"),
        ({"probabilities": torch.tensor([[0.5, 0.4]])}, ValueError, "sum to 0.9, but must sum"),
        ({}, TypeError, "either logits or probabilities"),
        ({"logits": torch.ones(1, 2), "probabilities": torch.ones(1, 2)}, TypeError, "either"),
    ],
    ids=["logits", "sum", "none", "both"],
)
def test_rejects_what_are_no_probabilities(given, error, message):
    with pytest.raises(error, match=message):
        CalibrationStatistics().update(**given, target=torch.tensor([0]))


# What comes in.


def test_dense_predictions_count_every_pixel():
    logits, target = draw(2 * 6 * 7, classes=4)
    image = logits.reshape(2, 6, 7, 4).movedim(-1, 1)

    dense = measured(image, target.reshape(2, 6, 7))

    assert_same_figures(dense, measured(logits, target))


@pytest.mark.parametrize(
    ("ignore_index", "dtype"),
    [(-100, torch.long), (255, torch.uint8), (3, torch.int32)],
    ids=["outside", "uint8", "a class"],
)
def test_ignored_labels_are_as_if_absent(ignore_index, dtype):
    logits, target = draw(300)
    ignored = torch.rand(300) < 0.3
    marked = target.masked_fill(ignored, ignore_index).to(dtype)
    kept = marked != ignore_index

    statistics = measured(logits, marked, ignore_index=ignore_index)

    assert_same_figures(statistics, measured(logits[kept], marked[kept]))


def test_ignored_labels_are_those_torchmetrics_ignores():
    image, target = torch.randn(2, 4, 6, 7), torch.randint(4, (2, 6, 7))
    target[:, :2] = -100
    settings = {"num_classes": 4, "ignore_index": -100}
    ece = torchmetrics_figure(MulticlassCalibrationError(**settings), image, target)
    accuracy = torchmetrics_figure(MulticlassAccuracy(**settings, average="micro"), image, target)

    figures = measured(image, target, ignore_index=-100).compute()

    assert_close(figures["ece"].float(), ece, rtol=0, atol=5e-6)
    assert figures["accuracy"].float() == accuracy


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_widened_first(dtype):
    logits, target = draw()

    half = measured(logits.to(dtype), target)

    assert_same_figures(half, measured(logits.to(dtype).float(), target))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_samples_without_a_softmax_are_left_out_and_counted(value):
    logits, target = draw(100)
    broken = logits.clone()
    broken[:7, 2] = value

    figures = measured(broken, target, batch_size=10).compute()

    expected = measured(logits[7:], target[7:]).compute() | {
        "nonfinite": torch.tensor(7.0).double()
    }
    assert_close(figures, expected, rtol=0, atol=1e-12)


def test_a_class_may_be_ruled_out():
    logits, target = draw(100)
    logits[target != 0, 0] = -torch.inf

    figures = measured(logits, target).compute()

    assert figures["nonfinite"] == 0
    assert_close(figures["nll"], cross_entropy(logits.double(), target), rtol=0, atol=1e-6)


def test_ruling_out_the_truth_costs_an_infinite_nll():
    figures = measured(torch.tensor([[0.0, 1.0, -torch.inf]]), torch.tensor([2])).compute()

    assert figures["nll"] == torch.inf
    assert figures["accuracy"] == 0


def test_one_sample_may_come_without_a_batch():
    logits, target = draw(1)

    statistics = CalibrationStatistics()
    statistics.update(logits[0], target[0])

    assert_same_figures(statistics, measured(logits, target))


def test_an_empty_batch_adds_nothing():
    logits, target = draw(50)
    statistics = measured(logits, target)

    statistics.update(logits[:0], target[:0])

    assert_same_figures(statistics, measured(logits, target))


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric:UserWarning")
def test_without_samples_figures_are_nan():
    figures = CalibrationStatistics().compute()

    assert figures.pop("count") == figures.pop("nonfinite") == 0
    assert torch.stack(list(figures.values())).isnan().all()
    assert CalibrationStatistics().bins().noise_floor().isnan()


# A metric among metrics.


def test_its_dtype_cannot_be_set():
    """It would round the counts; a collection of metrics sets it for all of them."""
    logits, target = draw(50)
    statistics = measured(logits, target)

    statistics.set_dtype(torch.float16)

    assert_same_figures(statistics, measured(logits, target))


def test_it_shares_counts_with_its_like_in_a_collection():
    logits, target = draw(200)
    collection = MetricCollection({
        "a": CalibrationStatistics(),
        "b": CalibrationStatistics(),
        "c": CalibrationStatistics(7),
    })

    for batch in zip(logits.split(20), target.split(20), strict=True):
        collection.update(*batch)

    assert collection["a"].compute()["count"] == 200
    assert_same_figures(collection["b"], measured(logits, target))
    assert_same_figures(collection["c"], measured(logits, target, n_bins=7))


def test_many_samples_find_the_cells_that_few_do():
    """They are looked up in another way, which is faster for many."""
    edges = CalibrationStatistics().edges
    exact = edges.view(torch.float32)[:-1]
    confidence = torch.cat([exact, exact.nextafter(torch.tensor(0.0)), torch.rand(10_000)])
    confidence = torch.cat([confidence, torch.tensor([0.0, 1.0, torch.nan, -torch.nan])])

    many = _find_cell(confidence, edges)

    few = torch.cat([_find_cell(part, edges) for part in confidence.split(100)])
    assert torch.equal(many, few)


def test_each_figure_is_a_float64_scalar():
    figures = measured(*draw(50)).compute()

    assert {(figure.shape, figure.dtype) for figure in figures.values()} == {((), torch.float64)}
    assert figures["count"] == 50


def test_calling_it_returns_the_figures_of_the_batch():
    logits, target = draw(100)
    statistics = CalibrationStatistics()

    batches = [statistics(logits[i : i + 50], target[i : i + 50]) for i in (0, 50)]

    assert_close(batches[1], measured(logits[50:], target[50:]).compute(), rtol=0, atol=1e-12)
    assert_same_figures(statistics, measured(logits, target))


def test_pooled_bins_are_read_within_the_sync_context():
    statistics = measured(*draw(30), distributed_available_fn=lambda: True)

    with statistics.sync_context(dist_sync_fn=lambda sums, group: [sums, sums]):
        pooled = statistics.bins().count.sum()

    assert pooled == 60
    assert statistics.bins().count.sum() == 30


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda metric: pickle.loads(pickle.dumps(metric))]
)
def test_a_copy_goes_on_alone(copied):
    logits, target = draw(100)
    original = measured(logits[:50], target[:50])

    clone = copied(original)
    clone.update(logits[50:], target[50:])

    assert_same_figures(clone, measured(logits, target))
    assert_same_figures(original, measured(logits[:50], target[:50]))


def test_sums_reset_in_inference_mode_can_be_added_to_outside():
    logits, target = draw(50)
    statistics = measured(logits, target)
    with torch.inference_mode():
        statistics.reset()
        statistics.update(logits, target)

    statistics.update(logits, target)

    assert statistics.compute()["count"] == 100


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_casting_the_model_that_holds_it_leaves_it_exact(dtype):
    """As Lightning's `precision="bf16-true"` does, which torchmetrics does not guard against."""
    logits, target = draw()
    model = torch.nn.ModuleDict({"calibration": CalibrationStatistics()}).to(dtype)

    model["calibration"].update(logits, target)

    assert_same_figures(model["calibration"], measured(logits, target))


def test_small_batches_wait_to_be_measured_and_counted_together():
    """And again after each count; several times faster than each of them alone."""
    logits, target = draw(10_000, classes=3)

    statistics = measured(logits, target, batch_size=100)

    assert sum(len(batch.scores) for batch in statistics._given) == 10_000 - 5500
    assert not statistics._measured


def test_large_batches_wait_to_be_counted_together():
    logits, target = draw(10_000, classes=300)

    statistics = measured(logits, target, batch_size=100)

    assert not statistics._given
    assert sum(len(parts[0]) for parts in statistics._measured) == 10_000 - 2 * 4100


def test_nothing_leaves_the_device():
    """On `meta` there is nothing to look at: to ask for a value would raise."""
    statistics = CalibrationStatistics(ignore_index=-100).to("meta")

    statistics.update(torch.randn(8, 5, 3, device="meta"), torch.zeros(8, 3, device="meta").long())

    assert statistics.sums.device.type == "meta"


def test_where_labels_cannot_be_checked_a_stray_one_is_wrong_with_infinite_nll():
    stray = torch.tensor([True, True])

    one = measure(torch.zeros(2, 3), torch.ones(2, 3) / 3, torch.tensor([0, 2]), stray)

    assert not one.hit.any()
    assert (one.nll == torch.inf).all()


# Errors.


@pytest.mark.parametrize("n_bins", [0, -15, 6001])
def test_rejects_a_number_of_bins_that_no_histogram_has(n_bins):
    with pytest.raises(ValueError, match=f"n_bins={n_bins} is not between 1 and 6000. Use 15"):
        CalibrationStatistics(n_bins)


def test_rejects_bins_that_the_cells_cannot_be_put_into():
    message = r"n_bins=11 does not divide the 6000 .* with CalibrationStatistics\(n_bins=11\)"
    with pytest.raises(ValueError, match=message):
        CalibrationStatistics().bins(11)


@pytest.mark.parametrize(
    ("logits", "target", "error", "message"),
    [
        (
            torch.ones(4, 3).long(),
            torch.zeros(4).long(),
            TypeError,
            "`logits` have dtype torch.int64",
        ),
        (torch.ones(4, 3), torch.ones(4, 3), TypeError, r"Pass `target.argmax\(1\)` for one-hot"),
        (
            torch.ones(4, 3),
            torch.zeros(5).long(),
            ValueError,
            r"\(4, 3\) and `target` of shape \(5,\)",
        ),
        (
            torch.ones(4, 7, 3),
            torch.zeros(4, 7).long(),
            ValueError,
            "Move the classes to dimension 1",
        ),
        (torch.ones(3), torch.zeros(3).long(), ValueError, r"must be \(N, C, \*\) and \(N, \*\)"),
        (torch.ones(4, 3), torch.tensor(0), ValueError, r"\(4, 3\) and `target` of shape \(\)"),
        (torch.ones(4, 1), torch.zeros(4).long(), ValueError, "for binary logits `z`"),
        (torch.ones(2, 3), torch.tensor([0, 3]), ValueError, "holds the label 3, .* from 0 to 2"),
        (torch.ones(2, 3), torch.tensor([-100, 0]), ValueError, "holds the label -100"),
    ],
    ids=["integers", "soft", "sizes", "classes last", "1-d", "0-d", "one class", "7", "-100"],
)
def test_rejects_what_it_cannot_measure(logits, target, error, message):
    with pytest.raises(error, match=message):
        CalibrationStatistics().update(logits, target)
