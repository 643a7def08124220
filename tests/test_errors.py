"""Tests for lightning_mixup.errors, and of what every other module raises."""

import ast
import builtins
import importlib
import inspect
import pickle
from pathlib import Path

import pytest

import lightning_mixup
from lightning_mixup import MixupError

PACKAGE = Path(lightning_mixup.__file__).parent
MODULES = sorted(path.stem for path in PACKAGE.glob("[!_]*.py"))


def raised_in(name):
    """Returns the line and the class of each error that a module makes; None for other forms."""
    module = importlib.import_module(f"lightning_mixup.{name}")
    tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
    made = [node for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc]
    return [(node.lineno, class_of(node.exc, module)) for node in made]


def class_of(expression, module):
    is_plain = isinstance(expression, ast.Call) and isinstance(expression.func, ast.Name)
    name = expression.func.id if is_plain else ""
    return getattr(module, name, None) or getattr(builtins, name, None)


def is_ours(kind):
    return inspect.isclass(kind) and issubclass(kind, MixupError)


def kinds(of=MixupError):
    """Returns the classes of our errors, the base class left out."""
    direct = of.__subclasses__()
    return [*direct, *(deeper for each in direct for deeper in kinds(each))]


@pytest.mark.parametrize("name", MODULES)
def test_every_error_that_is_raised_is_one_of_ours(name):
    """But for a bare `raise`, which hands on what the user's own code raised."""
    foreign = [(line, kind) for line, kind in raised_in(name) if not is_ours(kind)]

    assert not foreign


def test_the_errors_are_found():
    assert sum(len(raised_in(name)) for name in MODULES) > 50


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_an_error_is_also_of_a_kind_that_python_has(kind):
    """So that code which catches those, as it may have done, catches ours."""
    assert issubclass(kind, (TypeError, ValueError, RuntimeError, ImportError))


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_an_error_travels_between_processes(kind):
    error = pickle.loads(pickle.dumps(kind("what was given")))

    assert (type(error), str(error)) == (kind, "what was given")
