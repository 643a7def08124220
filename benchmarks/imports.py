"""The time of importing the package, each time in a new process."""

from __future__ import annotations

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
    return lambda: float(subprocess.check_output(command, cwd=ROOT))


def rows(plan: Plan) -> list[Row]:
    ours, theirs = plan.pick(("lightning_mixup", "lightning"), ("json", "string"))
    times = interleave({name: importing(name) for name in (ours, theirs)}, plan.rounds)
    what = "`import lightning_mixup` over `import lightning`"
    return [Row(what, "ours", over(times, theirs)[ours], 1.05)]
