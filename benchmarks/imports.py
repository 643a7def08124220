"""The time of importing the package, each time in a new process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from measure import Plan, Row, interleave, over

SCRIPT = """
import time
start = time.perf_counter()
import {}
print(time.perf_counter() - start)
"""
ROOT = Path(__file__).parents[1]


def importing(name: str) -> Callable[[], float]:
    """Returns an arm: the seconds that a module and all that it needs take."""
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT.format(name)]
    # With bytecode, as of installed packages: the first round, which doesn't count, writes it.
    unwanted = "PYTHONDONTWRITEBYTECODE"
    environment = {key: value for key, value in os.environ.items() if key != unwanted}
    return lambda: float(subprocess.check_output(command, cwd=ROOT, env=environment))


def rows(plan: Plan) -> list[Row]:
    ours, theirs = plan.pick(("lightning_mixup", "lightning"), ("json", "string"))
    times = interleave({name: importing(name) for name in (ours, theirs)}, plan.rounds)
    what = "`import lightning_mixup` over `import lightning`"
    return [Row(what, "ours", over(times, theirs)[ours], 1.05)]
