"""Where a program's functions are, and where what its workers print goes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import pydistrib

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pools need memfd")

METHODS = ["fork", "forkserver", "spawn"]

# No guard, and nothing that a worker could import.
PROGRAM = """
import dataclasses
import enum
import sys
import pydistrib

offset = 5

class Colour(enum.Enum):
    RED = 1

@dataclasses.dataclass
class Point:
    x: int
    colour: Colour = Colour.RED

    def moved(self, by):
        return Point(self.x + by, self.colour)

class Wrong(Exception):
    def __init__(self, code, text):
        super().__init__(code, text)
        self.code = code

def work(x):
    return 2 * x + offset

def adder(n):
    def add(x):
        return work(x) + n
    return add

def fail(x):
    raise Wrong(x, "text")

def factorial(n):
    return 1 if n == 0 else n * factorial(n - 1)

def count(n):
    yield from range(n)

for method in sys.argv[1:]:
    with pydistrib.Pool(2, context=method) as pool:
        assert pool.map(work, range(4)) == [5, 7, 9, 11]
        assert pool.map(lambda x: x - offset, range(3)) == [-5, -4, -3]
        assert pool.map(adder(10), range(3)) == [15, 17, 19]
        assert pool.map(Point, [1, 2]) == [Point(1), Point(2)]
        point = pool.apply(Point(3).moved, (4,))
        assert type(point) is Point and point.x == 7 and point.colour is Colour.RED
        assert list(pool.imap(factorial, count(5))) == [1, 1, 2, 6, 24]
        try:
            pool.apply(fail, (3,))
        except Wrong as error:
            assert (error.code, error.args) == (3, (3, "text"))
            assert "in fail" in str(error.__cause__)
        else:
            raise AssertionError

        def late(x):
            return work(x) + 1

        assert pool.map(late, [1]) == [8]
    pool.join()
    print(method)
"""

# As ipykernel has it: a main module that was made by hand and has no file.
NOTEBOOK = """
import sys, types
argv = sys.argv
main = sys.modules["__main__"] = types.ModuleType("__main__")
main.__builtins__ = __builtins__
for number, cell in enumerate({cells!r}):
    exec(compile(cell, f"<ipython-input-{{number}}>", "exec"), main.__dict__)
"""


def start(how, program, tmp_path):
    """Run a program in one of the ways there are; give what it printed."""
    text, args = None, []
    if how == "-":
        text, args = program, ["-"]
    elif how == "-c":
        args = ["-c", program]
    elif how == "notebook":
        args = ["-c", NOTEBOOK.format(cells=[program])]
    else:
        file = tmp_path / "a_program.py"
        file.write_text(program)
        args = ["-m", "a_program"] if how == "-m" else [str(file)]
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", *args, *METHODS],
        input=text,
        stdin=None if text is not None else subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("how", ["-", "-c", "-m", "file", "notebook"])
def test_functions_of_the_main_module(how, tmp_path):
    assert start(how, PROGRAM, tmp_path) == METHODS


CELLS = """
import pydistrib
def g(x):
    return x + 1
def f(x):
    return g(x)
pool = pydistrib.Pool(1, context={method!r})
====
print(pool.map(f, [1, 2]))
====
def g(x):
    return x + 2
====
print(pool.map(f, [1, 2]))
====
def f(x):
    return helper(x)
def helper(x):
    return x * 10
====
print(pool.map(f, [1, 2]))
====
def helper(x):
    return -x
====
print(pool.map(f, [1, 2]))
pool.terminate()
pool.join()
"""


@pytest.mark.parametrize("method", METHODS)
def test_a_cell_that_is_run_again_counts(method, run_python):
    cells = CELLS.format(method=method).split("====\n")
    out = run_python(NOTEBOOK.format(cells=cells))
    assert out.splitlines() == ["[2, 3]", "[3, 4]", "[10, 20]", "[-1, -2]"]


# --------------------------------------------------------------------------------------
# Output
# --------------------------------------------------------------------------------------


@pytest.fixture(params=METHODS)
def pool(request):
    with pydistrib.Pool(1, context=request.param) as pool:
        yield pool
    pool.join()


def talk(i):
    print("one", i)
    print("two\nlines", i)
    print("no", end=" ")
    print("newline", i, end="")
    sys.stdout.write("|")
    sys.stdout.buffer.write("bytes é\n".encode())
    sys.stdout.writelines(["a", "b", "\n"])
    print("error", i, file=sys.stderr)


def talk_much(size):
    print("x" * size)
    print("y" * size, end="")
    print("\ud800 z")


def reconfigure(_):
    sys.stdout.reconfigure(line_buffering=True)
    return sys.stdout.encoding, sys.stdout.closed, sys.stdout.fileno()


def greet():
    print("hello from the initializer")


def test_it_comes_as_it_was_printed(pool, capsys):
    pool.map(talk, range(3), 1)
    out, err = capsys.readouterr()
    assert out == "".join(
        f"one {i}\ntwo\nlines {i}\nno newline {i}|bytes é\nab\n" for i in range(3)
    )
    assert err == "error 0\nerror 1\nerror 2\n"


def test_much_of_it(pool, capsys):
    size = 3 << 20  # more than a mailbox holds
    pool.apply(talk_much, (size,))
    out = capsys.readouterr().out
    assert out == "x" * size + "\n" + "y" * size + "\\ud800 z\n"


def test_the_stream_is_as_usual(pool):
    assert pool.apply(reconfigure, (0,)) == ("utf-8", False, 1)


@pytest.mark.parametrize("method", METHODS)
def test_of_an_initializer(method, capsys):
    with pydistrib.Pool(1, greet, context=method) as pool:
        pool.apply(abs, (1,))
    pool.join()
    assert capsys.readouterr().out == "hello from the initializer\n"


def test_without_a_stdout(pool, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    pool.apply(talk, (1,))
    assert pool.apply(abs, (-1,)) == 1


class Unwilling:
    def write(self, _text):
        raise OSError("no space left")

    def flush(self):
        pass


def test_a_stdout_that_raises(pool, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Unwilling())
    pool.apply(talk, (1,))
    assert pool.apply(abs, (-1,)) == 1


def write_below(text):
    os.write(1, text.encode())
    subprocess.run(["echo", "from a child"], check=True)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_written_below_python(method, run_python):
    """By C code, or by the worker's own children: it goes where the parent's goes."""
    out = run_python(
        f"""
        import os, subprocess, pydistrib
        def write_below(text):
            os.write(1, text.encode())
            subprocess.run(["echo", "from a child"], check=True)
        with pydistrib.Pool(1, context={method!r}) as pool:
            pool.apply(write_below, ("raw\\n",))
        pool.join()
        print("end")
        """
    )
    assert out.splitlines() == ["raw", "from a child", "end"]


@pytest.mark.parametrize("method", METHODS)
def test_of_two_workers_whole_lines(method, capsys):
    with pydistrib.Pool(2, context=method) as pool:
        pool.map(print_lines, range(20), 1)
    pool.join()
    lines = capsys.readouterr().out.splitlines()
    assert sorted(lines) == sorted(
        f"task {i} line {j}" for i in range(20) for j in range(20)
    )
    for i in range(20):
        own = [line for line in lines if line.startswith(f"task {i} ")]
        assert own == [f"task {i} line {j}" for j in range(20)]


def print_lines(i):
    for j in range(20):
        print("task", i, "line", j)
