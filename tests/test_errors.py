"""Tests for lightning_mixup.errors, and of what every other module raises."""

import ast
import builtins
import functools
import importlib
import inspect
import pickle
import re
from pathlib import Path

import pytest

import lightning_mixup
from lightning_mixup import MixupError

PACKAGE = Path(lightning_mixup.__file__).parent
SIGNALS = {"_LabelsMadeError"}  # Which the function that they are raised for catches itself.
MODULES = sorted(path.stem for path in PACKAGE.glob("[!_]*.py"))


def raised_in(name):
    """Returns the line and the class of each error that a module makes; None for other forms."""
    module = importlib.import_module(f"lightning_mixup.{name}")
    tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
    made = [node for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc]
    errors = [node for node in made if getattr(node.exc, "id", "") not in SIGNALS]
    return [(node.lineno, class_of(node.exc, module)) for node in errors]


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


# The page.

PAGE = Path(__file__).parents[1] / "docs" / "errors.md"
ROWS = [
    row.replace("`", "").split(" | ")[0].removeprefix("| ")
    for row in re.findall(r"^\| `.*$", PAGE.read_text("utf-8"), re.MULTILINE)
]


@functools.cache
def texts_in(name):
    """Returns what each error that a module makes can say, with … for what is not known here."""
    source = Source(name)
    return [text for node in source.made() for text in source.texts(node) if text]


class Source:
    """A module's source, as far as it is needed to read the messages of its errors."""

    def __init__(self, name):
        self.tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
        self.functions = {
            node.name: node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef)
        }
        self.owner = {
            child: function for function in self.functions.values() for child in ast.walk(function)
        }

    def made(self):
        """Returns the calls that make an error, or raise one themselves."""
        raised = [node.exc for node in ast.walk(self.tree) if isinstance(node, ast.Raise)]
        calls = [node for node in ast.walk(self.tree) if isinstance(node, ast.Call)]
        refusals = [call for call in calls if getattr(call.func, "attr", "") == "refuse"]
        return [node for node in (*raised, *refusals) if node is not None]

    def texts(self, node):
        """Returns each text that an expression can be."""
        if isinstance(node, ast.Constant):
            return [node.value.replace("`", "")] if isinstance(node.value, str) else []
        if isinstance(node, ast.JoinedStr):
            parts = [getattr(part, "value", "…") for part in node.values]
            return [
                "".join(part if isinstance(part, str) else "…" for part in parts).replace("`", "")
            ]
        if isinstance(node, ast.IfExp):
            return [*self.texts(node.body), *self.texts(node.orelse)]
        if isinstance(node, ast.Name):
            return self._all(self._assigned(node))
        if isinstance(node, ast.Call):
            return self._all(node.args) or self._all(self._returned(node))
        return []

    def _all(self, nodes):
        return [text for node in nodes for text in self.texts(node)]

    def _assigned(self, name):
        nodes = ast.walk(self.owner[name])
        assigned = [node for node in nodes if isinstance(node, ast.Assign)]
        return [n.value for n in assigned if getattr(n.targets[0], "id", "") == name.id]

    def _returned(self, call):
        function = getattr(call.func, "id", getattr(call.func, "attr", ""))
        nodes = ast.walk(self.functions[function]) if function in self.functions else ()
        return [node.value for node in nodes if isinstance(node, ast.Return)]


@pytest.mark.parametrize("name", MODULES)
def test_the_page_lists_every_error(name):
    unlisted = [text for text in texts_in(name) if not any(row in text for row in ROWS)]

    assert not unlisted


@pytest.mark.parametrize("row", ROWS)
def test_the_page_lists_no_error_that_is_gone(row):
    """As what says most about some error, and not as a part of what others say."""
    texts = [text for name in MODULES for text in texts_in(name)]

    assert row in {max((r for r in ROWS if r in text), key=len, default="") for text in texts}


def test_each_error_has_one_entry():
    assert len(ROWS) == len(set(ROWS))
