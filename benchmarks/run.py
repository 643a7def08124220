"""Measures everything, prints one table, and writes it into the README."""

from __future__ import annotations

import argparse
import datetime
import inspect
import logging
import os
import platform
import textwrap
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import blends
import gpu
import hidden_layer
import imports
import inputs
import labels
import monitor
import peers
import steps
import torch
from measure import Plan, Row

README = Path(__file__).parent / "README.md"
START, END = "<!-- table -->\n", "<!-- end of table -->\n"
TOPICS: dict[str, Callable[[Plan], list[Row]]] = {
    "inputs": inputs.rows,
    "blends": blends.rows,
    "hidden_layer": hidden_layer.rows,
    "labels": labels.rows,
    "steps": steps.rows,
    "monitor": monitor.rows,
    "imports": imports.rows,
    "growth": steps.grown,
    "gpu": gpu.rows,
}
LIBRARIES = ("torch", "lightning", "torchmetrics", *peers.PACKAGES)


def machine() -> str:
    """Names the processor, and what runs on it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    where = [f"{_processor()}, {cores} cores, torch's threads: {torch.get_num_threads()}"]
    if torch.cuda.is_available():
        where.append(torch.cuda.get_device_name())
    installed = [f"{name} {found}" for name in LIBRARIES if (found := _version(name))]
    return "; ".join([*where, f"Python {platform.python_version()}", ", ".join(installed)])


def _processor() -> str:
    told = Path("/proc/cpuinfo")
    lines = told.read_text("utf-8").splitlines() if told.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.machine())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def table(rows: Sequence[Row]) -> list[str]:
    lines = ["| what | arm | measured | must reach | |", "|---|---|---|---|---|"]
    last = ""
    for row in rows:
        what, last = row.what if row.what != last else "", row.what
        must = "" if row.most is None else f"≤ {round(row.most, 3):g}"
        missed = "**missed**" if row.is_missed else ""
        lines.append(f"| {what} | {row.arm} | {_written(row)} | {must} | {missed} |")
    return lines


def _written(row: Row) -> str:
    if row.measured is None:
        return ""
    digits = 2 if not row.unit else 0 if row.measured.middle >= 10 else 1
    low, middle, high = (f"{figure:.{digits}f}" for figure in row.measured)
    return f"{middle}{f' {row.unit}' * bool(row.unit)} ({low} to {high})"


def document(rows: Sequence[Row], plan: Plan, note: str, seconds: float) -> str:
    """Returns what the README says of a run."""
    by_hand = textwrap.dedent(inspect.getsource(steps.ByHand.training_step))
    about = (
        f"{datetime.date.today()}; {machine()}. Medians of {plan.rounds} rounds, with quartiles; "
        f"{seconds / 60:.1f} minutes in all. {note}"
    )
    code = ["The code by hand, in `training_step`:", "", "```python", by_hand.rstrip(), "```"]
    return "\n".join([about.strip(), "", *table(rows), "", *code]) + "\n"


def measured(topics: Sequence[str], plan: Plan) -> list[Row]:
    rows = []
    for topic in topics:
        print(f"... {topic}", flush=True)
        rows += TOPICS[topic](plan)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("topics", nargs="*", help="some of the topics, which writes nothing")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--note", default="", help="what else there is to say of the machine")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # Lightning's advice on tiny loaders
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    plan, start = Plan(given.rounds), time.perf_counter()
    rows = measured(given.topics or list(TOPICS), plan)
    text = document(rows, plan, given.note, time.perf_counter() - start)
    print(text)
    if not given.topics:
        whole = README.read_text("utf-8")
        before, after = whole.split(START)[0], whole.split(END)[1]
        README.write_text(before + START + text + END + after, "utf-8")


if __name__ == "__main__":
    main()
