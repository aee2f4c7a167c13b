"""The rules of the house for the C sources: layers, calls, size, first comments, tests."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src"

# A folder may include headers of itself and of the folders named here.
MAY_INCLUDE = {
    "base": set(),
    "thread": {"base"},
    "shm": {"base", "thread"},
    "simd": {"base"},
    "pairwise": {"base", "thread", "simd"},
    "expr": {"base", "thread", "simd", "pairwise"},
    "py": {"base", "thread", "shm", "simd", "pairwise", "expr"},
}

# The core reports by statuses: it talks to nobody, ends nothing, and knows no Python.
CORE_BANNED = re.compile(
    r"\b(f?printf|puts|perror|exit|_exit|abort|assert|Py[A-Z_]\w*)\s*\("
)

# All memory of the core is checked, counted and aligned in one place.
ALLOCATION = re.compile(r"\b(malloc|calloc|realloc|aligned_alloc|free|strdup)\s*\(")
ALLOCATES = {"base/alloc.c", "base/recycle.c"}

# Borrowed references race without the GIL; errors go to the caller, not to the screen.
PY_BANNED = re.compile(
    r"\b(PyDict_GetItem(String|WithError)?|PyList_GetItem|PyErr_Print|"
    r"PyWeakref_GetObject|PyImport_AddModule|PyEval_GetBuiltins)\s*\("
)

UNSAFE_TEXT = re.compile(r"\b(strcpy|strcat|sprintf|vsprintf|gets|strtok)\s*\(")

MAX_FUNCTION_LINES = 60

FILES = sorted(path for path in SRC.rglob("*.[ch]"))
IDS = [str(path.relative_to(SRC)) for path in FILES]
files = pytest.mark.parametrize("path", FILES, ids=IDS)


def code_of(path):
    """The text without comments and literals, its lines where they were."""
    text = path.read_text()
    pattern = r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\''
    keep_lines = lambda match: "\n" * match.group().count("\n")  # noqa: E731
    includes = re.findall(r'^\s*#\s*include\s+"[^"]+"', text, re.M)
    return re.sub(pattern, keep_lines, text, flags=re.S), includes


def test_the_folders_are_the_layers():
    folders = {path.name for path in SRC.iterdir() if path.is_dir()}
    assert folders <= set(MAY_INCLUDE)


@files
def test_includes_point_downward(path):
    layer = path.parent.name
    _, includes = code_of(path)
    for line in includes:
        header = line.split('"')[1]
        assert (SRC / header).exists(), f"{header} is not named from src/"
        assert header.split("/")[0] in MAY_INCLUDE[layer] | {layer}, header


@files
def test_only_the_binding_knows_python(path):
    text = path.read_text()
    if path.parent.name != "py":
        assert not re.search(r"#\s*include\s*<(Python|numpy/)", text)


@files
def test_no_banned_call(path):
    layer, code = path.parent.name, code_of(path)[0]
    banned = [UNSAFE_TEXT, PY_BANNED if layer == "py" else CORE_BANNED]
    if f"{layer}/{path.name}" not in ALLOCATES:
        banned.append(ALLOCATION)
    for pattern in banned:
        assert not pattern.search(code), pattern.search(code)


@files
def test_every_file_opens_with_its_idea(path):
    first = path.read_text().splitlines()[0]
    assert re.match(r"// \S.{15,}", first), first


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.suffix == ".h"], ids=lambda p: p.name
)
def test_headers_are_guarded_by_their_name(path):
    text = path.read_text()
    if path.name.endswith("_tpl.h"):  # included several times
        assert "#ifndef PD_" not in text
        return
    if path.name.startswith("vec_"):  # one of them in a level file
        assert "#ifndef PD_SIMD_VEC_H" in text
        return
    guard = f"PD_{path.parent.name}_{path.stem}_H".upper()
    assert f"#ifndef {guard}\n#define {guard}\n" in text


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.suffix == ".c"], ids=lambda p: p.name
)
def test_a_source_with_a_header_includes_it_first(path):
    _, includes = code_of(path)
    if path.with_suffix(".h").exists():
        assert includes[0].split('"')[1] == f"{path.parent.name}/{path.stem}.h"


@files
def test_functions_fit_a_screen(path):
    lines = path.read_text().splitlines()
    start = None
    for number, line in enumerate(lines):
        if line == "{":
            start = number
        elif line == "}" and start is not None:
            length = number - start + 1
            assert length <= MAX_FUNCTION_LINES, f"line {start}: {length} lines"
            start = None


def test_every_layer_of_the_core_has_its_tests():
    tests = {path.stem for path in (ROOT / "tests" / "core").glob("test_*.c")}
    assert tests >= {"test_base", "test_recycle", "test_team", "test_simd", "test_pairwise"}


def test_core_tests_run_all_that_they_define():
    for path in (ROOT / "tests" / "core").glob("test_*.c"):
        text = path.read_text()
        defined = re.findall(r"^static void\n(\w+)\(void\)\n\{", text, re.M)
        run = set(re.findall(r"RUN\((\w+)\)", text))
        # Called, or given by name to a table or to a macro that makes tests of it.
        helpers = {
            name
            for name in defined
            if re.search(rf"(?<!RUN\()(?<!static void\n)\b{name}\b", text)
        }
        assert set(defined) - helpers <= run, path.name


def test_every_c_file_is_formatted_by_the_rules_of_lint():
    lint = (ROOT / "Makefile").read_text()
    assert "src/*/*.[ch]" in lint
    assert all(len(path.relative_to(SRC).parts) == 2 for path in FILES)


def test_nothing_generated_is_committed():
    done = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    names = done.stdout.split()
    assert not [name for name in names if re.search(r"\.(so|o|pyc|egg-info)$", name)]
