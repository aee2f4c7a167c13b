"""Docstrings: their examples run, and they have the sections and form of numpydoc."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import pydistrib

ROOT = Path(__file__).parent.parent
PACKAGE = Path(pydistrib.__file__).parent

# Checks of numpydoc that do not hold here, each with its reason.
IGNORED = {
    "ES01": "a summary may be enough; long texts for their own sake are not wanted",
    "EX01": "methods and types are shown in the examples of what makes them",
    "SA01": "methods and types name their relatives in the text",
    "SA04": "a See Also entry in the same page needs no description",
    "YD01": "context managers are not generators to those who use them",
}

# Methods that have the names and meaning of the standard library's say it in a sentence.
FOR_METHODS_OF_POOLS = {"PR01", "RT01"}

# For functions all sections count.
FOR_FUNCTIONS = {"EX01", "SA01"}


def modules():
    for module in pkgutil.walk_packages([str(PACKAGE)], "pydistrib."):
        if not module.name.endswith(("__main__", "_core")):
            yield module.name


def own_names():
    """Public names but those of the standard library, which documents them itself."""
    for name in pydistrib.__all__:
        home = getattr(getattr(pydistrib, name), "__module__", None) or "pydistrib"
        if home.split(".")[0] not in ("threading", "_thread", "multiprocessing"):
            yield name


def public_objects():
    """Full names of public functions, classes, and the classes' methods and properties."""
    for name in own_names():
        thing = getattr(pydistrib, name)
        if not getattr(thing, "__module__", "").startswith("pydistrib"):
            continue  # the standard library's own
        if inspect.isfunction(thing) or inspect.isclass(thing):
            yield f"pydistrib.{name}"
        if inspect.isclass(thing):
            for attribute, value in vars(thing).items():
                if callable(value) and (
                    not attribute.startswith("_") or attribute == "__call__"
                ):
                    yield f"pydistrib.{name}.{attribute}"


@pytest.mark.parametrize("name", ["pydistrib", *modules()])
def test_examples(name):
    module = importlib.import_module(name)
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failures, _ = doctest.testmod(module, optionflags=options)
    assert failures == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    for name in own_names():
        thing = getattr(pydistrib, name)
        if inspect.isfunction(thing) and thing.__module__.startswith("pydistrib"):
            assert any(test.examples for test in finder.find(thing)), name


@pytest.mark.parametrize("name", [*public_objects()])
def test_numpydoc(name):
    validate = pytest.importorskip("numpydoc.validate").validate
    _, first, *method = name.split(".")
    thing = getattr(pydistrib, first)
    ignored = set(IGNORED)
    if inspect.isfunction(thing):
        ignored -= FOR_FUNCTIONS
    if method and ".pools" in thing.__module__ + str(thing.__mro__):
        ignored |= FOR_METHODS_OF_POOLS
    if issubclass(type(thing), type) and thing.__module__ == "pydistrib._core":
        ignored |= FOR_METHODS_OF_POOLS | {"GL02"}  # a docstring in C ends with its text
    if "\nAttributes\n" in inspect.getdoc(thing):
        ignored |= {"PR01"}  # nobody makes it but the package
    errors = [
        f"{code}: {text}" for code, text in validate(name)["errors"] if code not in ignored
    ]
    assert not errors


def test_the_readme_names_what_there_is():
    text = (ROOT / "README.md").read_text()
    for name in re.findall(r"`pydistrib\.(\w+)", text):
        assert hasattr(pydistrib, name) or (PACKAGE / name).exists(), name


@pytest.mark.parametrize("name", [*modules()])
def test_every_module_says_what_it_is(name):
    source = Path(inspect.getsourcefile(importlib.import_module(name)))
    assert not source.read_text().strip() or importlib.import_module(name).__doc__, name
