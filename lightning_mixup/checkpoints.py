"""What a checkpoint keeps of `MixupCallback`, and how the run that resumes it differs.

Plain numbers, strings and dicts, which ``torch.load(weights_only=True)`` reads.
"""

from __future__ import annotations

from typing import Any

import lightning_mixup

__all__ = ["DECISIVE", "DRAWS", "describe_run", "tell_differences"]

DECISIVE = ("alpha", "recipe", "prob", "strength", "layers", "inputs", "targets")
"""The arguments that decide what is mixed."""

DRAWS = 1
"""Raised whenever the same seed and arguments come to draw something else."""


def describe_run(seed: int, arguments: dict[str, str], processes: int) -> dict[str, Any]:
    """Returns what decides the draws of a run; arguments are as in its repr, without defaults."""
    return {
        "seed": seed,
        "arguments": {name: arguments[name] for name in DECISIVE if name in arguments},
        "processes": processes,
        "draws": DRAWS,
        "version": lightning_mixup.__version__,
    }


def tell_differences(
    made: dict[str, Any], now: dict[str, Any], defaults: dict[str, str]
) -> str | None:
    """Says what a checkpoint was made with that its run doesn't go on with, if anything.

    Args:
        made: What `describe_run` returned for the checkpoint.
        now: What it returns for the run.
        defaults: Those of the arguments that have one, as in a repr.
    """
    if "arguments" not in made:
        return (
            "by a version that kept its seed alone, so nothing tells whether it mixed alike: "
            "compare the arguments of MixupCallback yourself"
        )
    phrases = [_in_words(run, defaults) for run in (made, now)]
    if made["draws"] == now["draws"]:
        for words in phrases:
            del words["draws"]
    before, after = phrases
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    then, today = (
        ", ".join(words[name] for name in changed if name in words) for words in phrases
    )
    if not changed:
        return None
    return f"with {then}, and goes on {f'with {today}' if today else 'without'}"


def _in_words(run: dict[str, Any], defaults: dict[str, str]) -> dict[str, str]:
    """Returns a phrase for each thing that decides the draws."""
    count = run["processes"]
    return {
        **{name: f"{name}={text}" for name, text in {**defaults, **run["arguments"]}.items()},
        "processes": f"{count} process{'es' * (count != 1)}",
        "draws": f"the draws of lightning-mixup {run['version']}",
    }
