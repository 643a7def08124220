"""Tests for README.md and the pages in docs/: what they show works as printed.

- A ``python`` block runs by itself, in an empty folder.
- A ``diff`` block is a plain Lightning script and ours. Both run, on a `model`, a `train_loader`
  and a `val_loader` that are given.
- The blocks of pages about a model, such as docs/calibration.md, are given these as well.
- The commands of an ``sh`` or ``bash`` block are known: make targets and files exist, extras too.
"""

import re
from importlib.metadata import metadata
from pathlib import Path

import pytest
import torch
from lightning import LightningModule
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

ROOT = Path(__file__).parents[1]
ABOUT_A_MODEL = [ROOT / "docs" / f"{name}.md" for name in ("calibration", "reading-the-report")]
OTHERS = [ROOT / "README.md", *sorted({*ROOT.glob("docs/*.md")} - {*ABOUT_A_MODEL})]

BLOCKS, PAGE_BLOCKS = (
    re.findall(
        r"^```(\w+)\n(.*?)^```$",
        "".join(page.read_text("utf-8") for page in pages),
        re.MULTILINE | re.DOTALL,
    )
    for pages in (OTHERS, ABOUT_A_MODEL)
)
PAGE_BLOCKS = [block for block in PAGE_BLOCKS if block[0] == "python"]
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
# A loader without workers and few steps between logs: Lightning's advice, not the reader's matter.
quietly = pytest.mark.filterwarnings(
    "ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"
)


def blocks(*languages):
    """Returns the blocks in these languages, each named by its first line."""
    found = [text for language, text in BLOCKS if language in languages]
    return [pytest.param(text, id=text.partition("\n")[0]) for text in found]


def extras():
    """Returns the names of the package's extras."""
    return set(metadata("lightning-mixup").get_all("Provides-Extra"))


def commands():
    """Returns the shell commands, without comments and prompts."""
    lines = "".join(text for language, text in BLOCKS if language in {"sh", "bash"}).splitlines()
    bare = [re.sub(r"(^\$ |\s*#.*$)", "", line).strip() for line in lines]
    return [command for line in bare for command in line.split(" && ") if command]


class Classifier(LightningModule):
    """The plain module of the README's diff."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return cross_entropy(self.layer(x), y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", cross_entropy(self.layer(x), y))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def model_and_data():
    """Returns what a block is given, by name."""
    data = TensorDataset(torch.randn(8, 4), torch.arange(8) % 3)
    return {
        "model": Classifier(),
        "train_loader": DataLoader(data, batch_size=4),
        "val_loader": DataLoader(data, batch_size=4),
    }


@pytest.mark.parametrize("language", ["python", "diff", "sh|bash"])
def test_shows_code_in_each_form(language):
    """Else the tests below would have nothing to run, and pass."""
    assert blocks(*language.split("|"))


@quietly
@pytest.mark.parametrize("block", blocks("python"))
def test_python_runs_as_printed(block, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})


@quietly
@pytest.mark.parametrize("number", range(len(PAGE_BLOCKS)))
def test_the_page_on_calibration_runs_as_printed(number, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    _, block = PAGE_BLOCKS[number]
    given = model_and_data()

    exec(compile(block, "calibration.md", "exec"), given)

    for key in re.findall(r"# logs (\w+)(?: and (\w+))?", block):
        assert set(filter(None, key)) <= set(given["trainer"].callback_metrics)
    assert given["trainer"].state.finished


@quietly
@pytest.mark.parametrize("side", ["-", "+"], ids=["before", "after"])
@pytest.mark.parametrize("block", blocks("diff"))
def test_both_sides_of_the_diff_run(block, side, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    lines = [line for line in block.splitlines() if line[:1] in {side, " "}]
    given = model_and_data()

    script = "\n".join(line[2:] for line in lines)
    exec(compile(script, "README.md", "exec"), given)

    assert given["trainer"].state.finished


@pytest.mark.parametrize("block", blocks("diff"))
def test_the_diff_is_a_diff(block):
    assert all(re.match(r"([-+ ] |[-+ ]?$)", line) for line in block.splitlines())


@pytest.mark.parametrize("command", commands())
def test_commands_exist(command):
    match command.split():
        case ["make", *targets]:
            assert set(targets) <= TARGETS
        case ["git", "clone", *_] | ["cd", _]:
            pass
        case ["python" | ".venv/bin/python", script, *_]:
            assert (ROOT / script).is_file()
        case ["pip", "install", *options, source]:
            # From a clone: the package is in no registry yet.
            local = re.fullmatch(r"\"?\.[\w/-]*(?:\[(?P<extras>[\w,]+)\])?\"?", source)
            assert local
            assert set(options) <= {"-e"}
            assert set(filter(None, (local["extras"] or "").split(","))) <= extras()
        case _:
            pytest.fail(
                f"{command!r} has no form that this test knows. Teach it, or mend the README."
            )
