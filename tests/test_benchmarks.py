"""Tests for benchmarks/: that each still runs, on next to nothing; never how fast anything is."""

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TOPICS = {  # and how many lines they have of ours without the peers
    "inputs": 9,
    "blends": 12,
    "hidden_layer": 2,
    "labels": 2,
    "steps": 7,
    "monitor": 3,
    "imports": 1,
    "growth": 9,
    "gpu": 6,
}


@pytest.fixture
def load(monkeypatch):
    """Returns a function that imports a script beside the others, as where one is run."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def test_every_topic_has_a_line_here(load):
    assert load("run").TOPICS.keys() == TOPICS.keys()


@pytest.mark.filterwarnings("ignore")  # of the peers, where they are installed
@pytest.mark.parametrize("topic", TOPICS)
def test_a_benchmark_runs(load, topic):
    plan = load("measure").Plan(rounds=2, tiny=True)

    rows = load("run").TOPICS[topic](plan)

    ours = [row for row in rows if row.arm.startswith("ours")]
    assert len(ours) == TOPICS[topic]
    assert all(row.measured is None or row.measured.low <= row.measured.high for row in rows)


@pytest.mark.filterwarnings("ignore")  # what a compiler and the peers have to say
def test_what_a_gpu_is_asked_runs_on_the_cpu_too(load):
    rows = load("gpu").rows_on("cpu", load("measure").Plan(rounds=2, tiny=True))

    assert len(rows) == len(load("gpu").rows(None))


def test_arms_take_turns_and_the_first_round_does_not_count(load):
    turns = []

    def arm(name):
        turns.append(name)
        return float(len(turns))

    arms = {name: lambda name=name: arm(name) for name in "abc"}
    figures = load("measure").interleave(arms, 20)

    rounds = ["".join(turns[i : i + 3]) for i in range(0, len(turns), 3)]
    assert len(rounds) == 21
    assert {"".join(sorted(each)) for each in rounds} == {"abc"}
    assert len(set(rounds)) == 6
    expected = [i + 1.0 for i, name in enumerate(turns) if name == "a"][1:]
    assert figures["a"] == expected


def test_ratios_are_of_the_same_round(load):
    figures = {"base": [1.0, 10.0, 100.0], "arm": [2.0, 30.0, 400.0]}

    spreads = load("measure").over(figures, "base")

    assert spreads["arm"] == (2.5, 3.0, 3.5)


@pytest.mark.parametrize(
    ("measured", "most", "ends"),
    [
        ((1.0, 1.2, 1.3), 1.1, "| 1.20 (1.00 to 1.30) | ≤ 1.1 | **missed** |"),
        ((1.0, 1.1, 1.3), 1.1, "| 1.10 (1.00 to 1.30) | ≤ 1.1 |  |"),
        ((1.0, 1.1, 1.3), None, "| 1.10 (1.00 to 1.30) |  |  |"),
        (None, 0.0, "|  | ≤ 0 |  |"),
    ],
    ids=["missed", "met", "free", "blank"],
)
def test_the_table_marks_what_is_missed(load, measured, most, ends):
    measure = load("measure")
    row = measure.Row("a", "ours", measured and measure.Spread(*measured), most)

    lines = load("run").table([row, row])

    assert lines[-2] == f"| a | ours {ends}"
    assert lines[-1] == f"|  | ours {ends}"
