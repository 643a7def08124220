"""Tests for lightning_mixup.monitor with two processes: the figures are those of one.

`two_processes.py` runs all cases at once, in one pair of processes, which start but once.
"""

import json
import math
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import two_processes

SCRIPT = Path(two_processes.__file__)
WITHHELD = ["shifted labels", "sorted", "silent in the second process"]
# Where torchmetrics can't be asked, as it would have one process wait for the other.
LACKS_METRICS = [name for name in two_processes.CASES if name.startswith("nothing")] + [
    "one sample"
]
NOT_IN_TABLE = "nothing of the first loader in the first process"
REFUSED = "asked for, silent in the second process"
SHOWN = [
    name for name in two_processes.CASES if name not in {*WITHHELD, NOT_IN_TABLE, REFUSED, "fit"}
]
# Where a sample has another position in the data of one process, and so may be in the other half.
IN_ORDER = [name for name in SHOWN if "shard" not in name and "nothing" not in name]
OTHER_HALVES = {*SHOWN} - {*IN_ORDER} | {"shuffled", "subset"}
OF_HALVES = re.compile("at_temperature|verdict")


@pytest.fixture(scope="module")
def alone():
    """What one process has logged, in each case."""
    return two_processes.run_all()


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What each of two processes has logged, in each case."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    paths = [folder / f"{rank}.json" for rank in range(2)]
    started = [start(rank, port, path) for rank, path in enumerate(paths)]
    try:
        outputs = [process.communicate(timeout=100)[0] for process in started]
    except subprocess.TimeoutExpired:
        pytest.fail("a process waits for the other in vain")
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(outputs)
    return [json.loads(path.read_text("utf-8")) for path in paths]


def start(rank, port, path):
    """Starts one of two processes, as torchrun does."""
    world = {"WORLD_SIZE": 2, "RANK": rank, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": 2}
    server = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    settings = {**world, **server, "GROUP_RANK": 0, "OMP_NUM_THREADS": 1}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(path)],
        env={**os.environ, **{name: str(value) for name, value in settings.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("name", SHOWN)
def test_two_processes_log_what_one_does(alone, together, name, rank):
    """Also where the sampler repeats samples to even out the processes.

    To the last bit of what a softmax computes, which for maps depends on the batch's size.
    """
    expected, logged = alone[name]["logged"], together[rank][name]["logged"]

    for key in expected:
        if "Multiclass" not in key:
            tolerance = 1e-6 if name == "masks" else 0
            assert logged[key] == pytest.approx(expected[key], rel=tolerance, abs=0)
        elif name not in LACKS_METRICS or not math.isnan(logged[key]):
            # torchmetrics adds up float32, in another order
            assert logged[key] == pytest.approx(expected[key], abs=1e-6)
    assert set(logged) == set(expected)
    assert any("val_ece" in key or "test_ece" in key for key in logged)


def close_to(figure):
    """As temperatures are where float32 probabilities differ in the last bit."""
    return pytest.approx(figure, rel=1e-5) if isinstance(figure, float) else figure


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("name", SHOWN)
def test_two_processes_report_what_one_does(alone, together, name, rank):
    expected, report = alone[name]["report"], together[rank][name]["report"]

    assert report.keys() == expected.keys()
    for entry in expected:
        for key, figure in expected[entry].items():
            if name not in OTHER_HALVES or not OF_HALVES.search(key):
                assert report[entry][key] == close_to(figure)


@pytest.mark.parametrize("name", [n for n in LACKS_METRICS if "loader" not in n])
def test_metrics_of_torchmetrics_are_nan_where_a_process_has_nothing_for_them(together, name):
    first, second = (ranks[name]["logged"]["val_MulticlassAccuracy"] for ranks in together)

    assert math.isnan(first)
    assert math.isnan(second)
    (warned,) = together[0][name]["warned"]
    assert "your metrics are NaN" in warned


@pytest.mark.parametrize("name", WITHHELD)
def test_what_one_process_cannot_tell_no_process_shows(together, name):
    logged = [ranks[name]["logged"] for ranks in together]

    assert all(math.isnan(value) for each in logged for value in each.values())
    (warned,) = together[0][name]["warned"]
    assert "there is no val_ece" in warned


def test_what_was_asked_for_and_one_process_cannot_tell_is_an_error_in_all(together):
    first, second = (ranks[REFUSED]["logged"]["error"] for ranks in together)

    assert first == second
    assert "no loss was seen in it" in first


def test_a_loader_that_the_first_process_has_nothing_of_is_left_out_of_its_table(alone, together):
    expected = alone[NOT_IN_TABLE]["logged"]

    first, second = (ranks[NOT_IN_TABLE]["logged"] for ranks in together)

    ece = "val_ece/dataloader_idx_{}".format
    assert ece(0) not in first
    assert first[ece(1)] == second[ece(1)] == expected[ece(1)]
    assert second[ece(0)] == expected[ece(0)]


def test_checkpoints_and_early_stopping_see_the_pooled_figures(together):
    first, second = (ranks["fit"]["logged"] for ranks in together)

    assert first == second
    assert first["val_accuracy"] == pytest.approx(first["exact"])
