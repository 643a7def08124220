"""What every test starts from: a fixed seed, one thread, and a quiet Trainer."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import settings
from lightning import Trainer

collect_ignore = ["typing_api.py"]  # for mypy alone

torch.manual_seed(
    0
)  # for the data of cases, so that every process that collects them has the same

# Deterministic, like every other test; the first call of a torch function misses any deadline.
settings.register_profile("tests", derandomize=True, deadline=None)
settings.load_profile("tests")


@pytest.fixture(scope="session", autouse=True)
def process() -> None:
    """One thread, since tiny tensors gain nothing from more, and plots that need no screen."""
    torch.set_num_threads(1)
    os.environ["MPLBACKEND"] = "agg"


@pytest.fixture(scope="module", autouse=True)
def module_environment() -> Iterator[None]:
    """Keeps what fixtures of a module leave in the environment inside it."""
    with clean_environment():
        yield


@contextmanager
def clean_environment() -> Iterator[None]:
    with mock.patch.dict(os.environ):
        for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
            os.environ.pop(name, None)
        yield


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    """Seeds each test alike, and keeps what `seed_everything` leaves in the environment inside it.

    Not by `seed_everything` itself: our draws follow it, so a test that wants it calls it.
    """
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (the global state is what user code under test may use)
    torch.manual_seed(0)
    with clean_environment():
        yield


@pytest.fixture(autouse=True)
def draw_on_request(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws reports only for tests marked `pictures`, as each picture takes a second."""
    if request.node.get_closest_marker("pictures") is None:
        monkeypatch.setattr("lightning_mixup.publishing.find_spec", lambda name: None)


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """Returns a function that makes a quiet one-epoch CPU Trainer; keywords override."""

    def make(**overrides: Any) -> Trainer:
        quiet = {
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
        small = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "log_every_n_steps": 1}
        return Trainer(**{**quiet, **small, "default_root_dir": tmp_path, **overrides})

    return make
