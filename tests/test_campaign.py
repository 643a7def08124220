"""A campaign: a thousand generated cases of training, and no silent difference.

Each is a real fit of two batches. It ends with the mixture that is worked out by hand, or with one
of our own errors before the optimizer has taken that step, or with the error that plain training
has, too. A longer campaign::

    CAMPAIGN_CASES=20000 pytest tests/test_campaign.py

takes other cases each time, and prints how many came to what.
"""

import dataclasses
import logging
import math
import os
from collections import Counter

import pytest
import torch
from campaign import Case, outcome
from campaign_batches import CONTAINERS, EXTRAS, LAYOUTS, Form
from campaign_losses import TASKS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

IS_LONGER = "CAMPAIGN_CASES" in os.environ
CASES = int(os.environ.get("CAMPAIGN_CASES", "1000"))
SIZES = (2, 3, 7, 1, 0)
DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.complex64,
    torch.complex128,
    torch.int64,
    torch.int32,
    torch.int8,
    torch.uint8,
    torch.bool,
)
SHAPES = ((2,), (), (1,), (3, 2), (2, 2, 2), (1, 2, 2, 2), (0,))
PLACES = (
    "input",
    "first",
    ["input", "first"],
    ["first", "second", "head"],
    "[fh]*",
    ["act", "spare"],
    "spare",
    "criterion",
)
NAMED = (
    (("x",), None),
    (("x",), ("y",)),
    (("x", "x2"), ("y",)),
    (("x", "x2"), ("y", "w")),
    (("x",), ("x",)),
    (("y",), ("x",)),
    (("x2",), ("x", "y")),
    (None, ("y",)),
    (None, ("y", "w")),
    (None, ("w",)),
)
WRONG = (
    {"alpha": 0.2},
    {"recipe": None, "alpha": -1},
    {"recipe": None, "alpha": math.nan},
    {"recipe": None, "alpha": "0.2"},
    {"recipe": None, "alpha": True},
    {"recipe": 0.2},
    {"prob": -0.1},
    {"prob": 1.5},
    {"prob": math.nan},
    {"prob": "1"},
    {"layers": []},
    {"layers": ""},
    {"layers": 3},
    {"layers": None},
    {"layers": "net.layer9"},
    {"layers": "z*"},
    {"loss": "criterium"},
    {"loss": 3},
    {"inputs": True},
    {"inputs": []},
    {"targets": 0.5},
    {"seed": "1"},
    {"log_mix": 1},
    {"calibration": "yes"},
)
UNFIT = ({"inputs": 9}, {"inputs": "nothing.here"}, {"targets": "nothing"}, {"inputs": None})
"""Arguments that are refused with the first batch, if there is anything to mix."""


FORM = {
    "size": SIZES,
    "label_size": SIZES,
    "shape": SHAPES,
    "dtype": DTYPES,
    "layout": tuple(LAYOUTS),
    "second_view": (True,),
    "extras": (*((extra,) for extra in EXTRAS), ("ids", "names", "meta")),
    "names": ("odd",),
}
CASE = {
    "alpha": (0, 0.2, 1e-3, math.inf),
    "prob": (0, 0.5),
    "layers": PLACES,
    "loss": ("criterion",),
    "named": NAMED,
    "by_function": (True,),
    "targets_none": (True,),
    "wrong": WRONG,
    "unfit": UNFIT,
}


def some(draw, choices, most):
    """Draws values for a few of the settings; the others stay as is usual."""
    odd = draw(st.sets(st.sampled_from(sorted(choices)), max_size=most))
    return {name: draw(st.sampled_from(choices[name])) for name in sorted(odd)}


@st.composite
def forms(draw, **usual):
    size = draw(st.sampled_from((2, 3, 7)))
    own = {"size": size, "label_size": size, "container": draw(st.sampled_from(list(CONTAINERS)))}
    form = Form(**{**own, **usual, **some(draw, FORM, 2)})
    return dataclasses.replace(form, label_size=form.size) if form.container == "samples" else form


@st.composite
def cases(draw):
    """The second batch is as the first in most cases, but for its size."""
    first = draw(forms())
    size = draw(st.sampled_from(SIZES))
    second = dataclasses.replace(first, size=size, label_size=size)
    if not draw(st.integers(0, 4)):
        second = draw(forms(shape=first.shape, second_view=first.second_view))
    given = some(draw, CASE, 3)
    if "named" in given and second.container == "samples":
        second = first  # What was the place of a view would be that of one sample.
    return Case(
        task=draw(st.sampled_from(list(TASKS))),
        forms=(first, second),
        per_sample=draw(st.booleans()),
        seed=draw(st.integers(0, 999)),
        **given,
    )


def line(counted):
    words, count = counted
    return f"{count:7} {words}"


@pytest.fixture
def quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_a_case_ends_with_its_mixture_or_a_refusal(quiet, capsys):
    found = Counter()

    @settings(
        max_examples=CASES,
        derandomize=not IS_LONGER,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases())
    def run(case):
        found[outcome(case)] += 1

    run()

    if IS_LONGER:
        with capsys.disabled():
            print(f"\n{found.total()} cases", *map(line, found.most_common()), sep="\n")
    assert found.total() >= CASES
    assert found["mixed"] > CASES // 5
