"""Tests for the scripts in examples/."""

import io
import re
import runpy
from contextlib import redirect_stdout
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cross_entropy
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
)

pytest.importorskip("rich", reason="needs the extra `examples`")

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPT = EXAMPLES / "digits.py"
BETTER, WORSE = (0.6, 0.7), (0.4, 0.3)  # where 0.5 is what it was


@pytest.fixture(scope="module")
def digits():
    """The script's names, without the script being run."""
    return SimpleNamespace(**runpy.run_path(str(SCRIPT)))


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    """What a small demo prints, and the folder it writes to."""
    folder, printed = tmp_path_factory.mktemp("demo") / "out", io.StringIO()
    with redirect_stdout(printed):
        digits.main(seeds=2, epochs=1, out=folder)
    return printed.getvalue(), folder


@pytest.fixture
def figures(digits):
    """Twelve figures of two seeds each, all 0.5."""
    keys = product(digits.REPLACED, digits.ALPHAS, digits.LOGGED)
    return {key: [0.5, 0.5] for key in keys}


def measure(trainer):
    """Returns accuracy, ECE, gap and NLL of a trained module, by other means than ours."""
    images, labels = trainer.val_dataloaders.dataset.tensors
    with torch.no_grad():
        logits = trainer.model.eval().network(images)
    accuracy = multiclass_accuracy(logits, labels, num_classes=10, average="micro")
    error = multiclass_calibration_error(logits.softmax(1), labels, num_classes=10, n_bins=15)
    gap = logits.softmax(1).amax(1).mean() - accuracy
    return [figure.item() for figure in (accuracy, error, gap, cross_entropy(logits, labels))]


@pytest.mark.parametrize(("labels", "alpha"), [("clean", 0), ("corrupted", 0.2)])
def test_the_table_holds_what_the_trained_networks_do(digits, run, labels, alpha):
    printed, _ = run
    fits = [digits.fit(digits.REPLACED[labels], alpha, seed, epochs=1) for seed in range(2)]

    row = next(line for line in printed.splitlines() if line.split()[:2] == [labels, str(alpha)])

    columns = zip(*(measure(trainer) for trainer, _ in fits), strict=True)
    expected = [figure for values in columns for figure in (mean(values), stdev(values))]
    shown = [float(word) for word in row.split()[2:] if word != "±"]
    assert shown == pytest.approx(expected, abs=6e-4)


def test_the_table_has_a_row_for_every_training(digits, run):
    printed, _ = run

    rows = [tuple(line.split()[:2]) for line in printed.splitlines() if "±" in line]

    combinations = product(digits.REPLACED, digits.ALPHAS)
    assert rows[:-1] == [(labels, f"{alpha:g}") for labels, alpha in combinations]
    assert rows[-1] == ("Means", "±")


def test_what_is_printed_fits_into_80_columns(run):
    printed, folder = run

    assert max(len(line) for line in printed.splitlines() if str(folder) not in line) <= 80


def test_the_picture_is_written_where_the_last_line_says(run):
    printed, folder = run

    assert printed.endswith(f"They are in {folder / 'digits.png'}\n")
    assert (folder / "digits.png").read_bytes().startswith(b"\x89PNG")


def test_alphas_share_a_seeds_data_and_nothing_else(digits):
    first, mixed, other = (
        digits.fit(0.0, alpha, seed, epochs=1)[0] for alpha, seed in [(0, 0), (0.2, 0), (0, 1)]
    )

    images, mixed_images, other_images = (
        trainer.val_dataloaders.dataset.tensors[0] for trainer in (first, mixed, other)
    )
    assert torch.equal(images, mixed_images)
    assert not torch.equal(images, other_images)
    assert not torch.equal(first.model.network[0].weight, mixed.model.network[0].weight)


def test_only_training_labels_are_corrupted(digits):
    torch.manual_seed(0)
    train, val = (loader.dataset.tensors for loader in digits.load_data(0.0))
    torch.manual_seed(0)
    corrupted_train, same_val = (loader.dataset.tensors for loader in digits.load_data(0.4))

    wrong = (train[1] != corrupted_train[1]).double().mean()

    assert torch.equal(train[0], corrupted_train[0])
    assert all(map(torch.equal, val, same_val))
    assert wrong == pytest.approx(0.36, abs=0.03)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("accuracy", BETTER, "accuracy better (2/2 seeds)"),
        ("accuracy", WORSE, "accuracy worse (2/2 seeds)"),
        ("accuracy", (0.4, 0.7), "accuracy better (1/2 seeds)"),
        ("ece", BETTER, "ECE worse (2/2 seeds)"),
        ("ece", (0.3, 0.6), "ECE better (1/2 seeds)"),
        ("nll", WORSE, "NLL better (2/2 seeds)"),
        ("confidence_gap", (0.1, 0.3), "from over-confident (+0.500) to over-confident (+0.200)"),
        ("confidence_gap", (-0.1, 0), "from over-confident (+0.500) to under-confident (-0.050)"),
    ],
)
def test_the_sentences_follow_the_figures(digits, figures, name, values, expected):
    figures["corrupted", 0.2, name] = list(values)

    sentence = digits.summarize(figures, "corrupted", 0.2)

    assert sentence.startswith("With corrupted labels, alpha=0.2 makes accuracy ")
    assert expected in sentence


def run_example(name, **settings):
    """Returns what a small run of another example prints, and its names."""
    names, printed = runpy.run_path(str(EXAMPLES / f"{name}.py")), io.StringIO()
    with redirect_stdout(printed):
        names["main"](**settings)
    return printed.getvalue(), SimpleNamespace(**names)


def test_hidden_layers_are_suggested_and_mixed():
    printed, example = run_example("hidden_layers", seeds=2, epochs=1)

    indented = [line for line in printed.splitlines() if line.startswith("  ")]
    suggested = {line.split()[0] for line in indented if line.strip()}
    assert {"stem", "blocks.0", "blocks.2", "head"} <= suggested
    assert not any("branch" in name for name in suggested)
    for name in example.CALLBACKS:
        assert re.search(rf"{name} *│ 0\.\d+ ± 0\.\d+", printed)


@pytest.mark.filterwarnings("ignore")  # what the libraries whose docstrings it reads say
def test_each_verdict_has_its_picture(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)  # as where a script is run

    printed, _ = run_example("verdicts", epochs=1, out=tmp_path)

    pictures = ["calibrated.png", "over-confident.png", "too-few.png", "under-confident.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == pictures
    assert printed.count("Calibration of") == 4
    assert printed.count("Too few samples to tell: of 40") == 1


def test_recipes_are_compared_with_no_mixing():
    printed, example = run_example("recipes", seeds=2, epochs=1)

    figure = r"\d+\.\d{3} ± \d+\.\d{3}"
    mixing = [recipe for recipe in example.OF_IMAGES + example.OF_NUMBERS if recipe.mixes]
    assert printed.count("no mixing") == 2
    for recipe in mixing:
        assert re.search(rf"{re.escape(repr(recipe))} *│ {figure}", printed)


def test_each_kind_of_data_has_its_picture(tmp_path):
    printed, _ = run_example("mixes", out=tmp_path)

    pictures = ["mixed-cells.png", "mixed-digits.png", "mixed-series.png", "mixed-songs.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == pictures
    assert printed.startswith(f"Pictures are in {tmp_path}: mixed-digits, ")


def test_text_is_mixed_at_its_embedding():
    printed, example = run_example("text", seeds=2, epochs=1)

    assert re.match(r"\d{4} docstrings of numpy, scipy.stats, torch.nn, sklearn", printed)
    for name in example.CALLBACKS:
        assert re.search(rf"{name} *│ 0\.\d+ ± 0\.\d+", printed)


def test_words_are_encoded_alike_in_every_run():
    example = SimpleNamespace(**runpy.run_path(str(EXAMPLES / "text.py")))

    first, again = (
        example.encode("A normal distribution."),
        example.encode("a NORMAL distribution"),
    )

    assert first == again
    assert len(first) == example.LENGTH
    assert all(0 < number < example.WORDS for number in first[:3])
    assert set(first[3:]) == {0}
