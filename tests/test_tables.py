"""Tests for docs/checked.md: its tables are what the tests find. Run as a script, writes them."""

import warnings
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pytest
import test_any_loss
import test_metrics
import torch

PAGE = Path(__file__).parents[1] / "docs" / "checked.md"
CONSTRAINTS = (PAGE.parents[1] / "constraints.txt").read_text("utf-8")
LOSSES = ("loss", "one weight per batch", "a weight per sample")
METRICS = ("metric of torchmetrics", "what it is of")


def written(head, rows):
    """Returns a table, folded under the counts of what is found."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    counts = [
        f"- {head[k]}: " + ", ".join(f"{n} {what}" for what, n in Counter(column).most_common())
        for k, column in enumerate(zip(*rows, strict=True))
        if k > 0
    ]
    summary = f"<details><summary>All {len(rows)}</summary>"
    return "\n".join([*counts, "", summary, "", *lines, "", "</details>"])


def tables():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        return [written(LOSSES, test_any_loss.table()), written(METRICS, test_metrics.table())]


def parts(page):
    """Returns the texts between the tables of a page, and the tables."""
    pieces = page.split("<!-- table -->\n")
    return pieces[::2], [piece.strip() for piece in pieces[1::2]]


@pytest.mark.skipif(
    f"torchmetrics=={version('torchmetrics')}\n" not in CONSTRAINTS,
    reason="the tables are of the torchmetrics in constraints.txt",
)
def test_the_tables_are_what_the_tests_find():
    """`make tables` writes them anew."""
    assert parts(PAGE.read_text("utf-8"))[1] == tables()


def main():
    torch.set_num_threads(1)
    texts, _ = parts(PAGE.read_text("utf-8"))
    page = texts[0]
    for text, table in zip(texts[1:], tables(), strict=True):
        page += f"<!-- table -->\n{table}\n<!-- table -->\n{text}"
    PAGE.write_text(page, "utf-8")


if __name__ == "__main__":
    main()
