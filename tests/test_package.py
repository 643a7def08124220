"""Tests for lightning_mixup as a package: its names, its modules' order, what it ships."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest
from packaging.version import Version

import lightning_mixup

PACKAGE = Path(lightning_mixup.__file__).parent
# A module imports only from its left.
ORDER = [
    "errors",
    "trees",
    "operations",
    "targets",
    "calls",
    "callers",
    "mends",
    "losses",
    "writes",
    "per_sample",
    "rules",
    "parameters",
    "weights",
    "partners",
    "regions",
    "blend",
    "mixes",
    "recipes",
    "choices",
    "schedules",
    "randomness",
    "progress",
    "handing",
    "containers",
    "roles",
    "advice",
    "batch",
    "arguments",
    "interception",
    "compiled",
    "names",
    "layers",
    "suggestions",
    "doors",
    "observation",
    "beliefs",
    "loss_probe",
    "reliability",
    "samples",
    "calibration",
    "reservoir",
    "temperature",
    "verdict",
    "report",
    "plot",
    "gallery",
    "figures",
    "repeats",
    "tally",
    "record",
    "publishing",
    "monitor",
    "messages",
    "checkpoints",
    "callback",
]
KNOW_LIGHTNING = {"progress", "publishing", "monitor", "messages", "callback"}


def public(module):
    """Returns the module's names that are not private and not modules themselves."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }


def definitions(module):
    """Returns those of the public names that are classes and functions, imported ones included."""
    return {
        name
        for name in public(module)
        if inspect.isclass(vars(module)[name]) or inspect.isroutine(vars(module)[name])
    }


def imports(tree):
    """Returns the dotted names that a piece of source imports, wherever it does so."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def parse(name):
    return ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))


def test_all_is_what_is_public():
    assert public(lightning_mixup) == set(lightning_mixup.__all__) - {"__version__"}


@pytest.mark.parametrize("name", ORDER)
def test_a_module_lists_what_it_defines(name):
    module = importlib.import_module(f"lightning_mixup.{name}")
    defined = {
        key for key in definitions(module) if vars(module)[key].__module__ == module.__name__
    }

    assert defined == definitions(module) & set(module.__all__)


@pytest.mark.parametrize("name", [n for n in lightning_mixup.__all__ if n != "__version__"])
def test_a_public_name_shows_how_it_is_used(name):
    thing = getattr(lightning_mixup, name)

    assert ">>> " in (thing.__doc__ or ""), f"{name} has no docstring with an example"


def test_every_module_has_its_place_in_the_order():
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} == set(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_imports_point_one_way(name):
    ours = {
        imported.split(".")[1]
        for imported in imports(parse(name))
        if imported.startswith("lightning_mixup.")
    }

    assert ours <= set(ORDER[: ORDER.index(name)])


@pytest.mark.parametrize("name", sorted(set(ORDER) - KNOW_LIGHTNING))
def test_only_the_callbacks_know_lightning(name):
    roots = {imported.split(".")[0] for imported in imports(parse(name))}

    assert not roots & {"lightning", "pytorch_lightning"}


@pytest.mark.parametrize("name", ORDER)
def test_matplotlib_is_imported_where_a_plot_is_drawn(name):
    """The package works without the extra `plot`, until something is plotted."""
    tree = parse(name)
    at_import = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    top = imports(ast.Module(body=at_import, type_ignores=[]))
    for_types = [
        n for n in tree.body if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)
    ]
    anywhere = imports(ast.Module([n for n in tree.body if n not in for_types], type_ignores=[]))

    assert not any(imported.startswith("matplotlib") for imported in top)
    assert name == "plot" or not any(imported.startswith("matplotlib") for imported in anywhere)


def test_type_checkers_are_told_of_our_types():
    assert (PACKAGE / "py.typed").is_file()


def test_the_version_is_a_normal_one():
    """As PEP 440 writes it, so that the wheel's name and `__version__` say the same."""
    assert str(Version(lightning_mixup.__version__)) == lightning_mixup.__version__
    assert re.match(r"\d+\.\d+\.\d+", lightning_mixup.__version__)
