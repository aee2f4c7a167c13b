"""What the package offers, and what importing it costs."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import pkgutil
import types
from pathlib import Path

import pydistrib
from pydistrib import _core

PACKAGE = Path(pydistrib.__file__).parent


def test_all_is_sorted_and_complete():
    assert pydistrib.__all__ == sorted(pydistrib.__all__)
    public = {
        name
        for name in dir(pydistrib)
        if not name.startswith("_")
        and not isinstance(getattr(pydistrib, name), types.ModuleType)
    }
    assert public == set(pydistrib.__all__)


def test_public_names_have_docstrings():
    for name in pydistrib.__all__:
        thing = getattr(pydistrib, name)
        assert thing.__doc__ or not thing.__module__.startswith("pydistrib"), name


def test_no_name_but_packages_beside_them():
    modules = {
        name
        for name, value in vars(pydistrib).items()
        if isinstance(value, types.ModuleType)
    }
    on_disk = {module.name for module in pkgutil.iter_modules([str(PACKAGE)])}
    assert modules <= on_disk


def test_the_version_is_that_of_the_distribution():
    assert pydistrib.__version__ == importlib.metadata.version("pydistrib")


def test_the_stub_has_the_names_of_the_core():
    tree = ast.parse((PACKAGE / "_core.pyi").read_text())
    stub = {
        node.name
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        and not node.name.startswith("_")
    }
    assert stub == {name for name in dir(_core) if not name.startswith("_")}


def test_functions_of_the_core_have_signatures_and_docstrings():
    for name in dir(_core):
        thing = getattr(_core, name)
        if not name.startswith("_"):
            assert thing.__doc__, name
            assert isinstance(thing, type) or thing.__text_signature__.endswith("/)"), name


def test_the_package_is_typed():
    assert (PACKAGE / "py.typed").exists()


def test_every_module_can_be_imported_first(run_python):
    names = [
        module.name
        for module in pkgutil.walk_packages([str(PACKAGE)], "pydistrib.")
        if not module.name.endswith("__main__") and ".demo" not in module.name
    ]
    assert "pydistrib.kernels.pairwise" in names
    for name in names:
        run_python(f"import {name}")
        assert importlib.import_module(name)


def test_importing_brings_nothing_but_numpy(run_python):
    code = """
        import sys
        import numpy
        before = set(sys.modules)
        import pydistrib
        new = {name.split(".")[0] for name in set(sys.modules) - before}
        # __mp_main__ is multiprocessing's other name for __main__.
        print(*sorted(new - {"numpy", "__mp_main__"} - set(sys.stdlib_module_names)))
    """
    assert run_python(code) == "pydistrib"


def test_importing_starts_no_thread(run_python):
    code = """
        import os, threading
        import numpy
        def count():
            if os.path.exists("/proc/self/task"):
                return len(os.listdir("/proc/self/task"))
            return threading.active_count()
        before = count()
        import pydistrib
        print(count() - before, threading.active_count())
    """
    assert run_python(code) == "0 1"
