"""The scripts and the notebook of examples/ run, and say what they promise."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_python(*arguments: str | Path) -> str:
    process = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_every_example_has_a_test():
    """A file that is added here gets a test."""
    assert sorted(path.name for path in EXAMPLES.iterdir() if path.is_file()) == [
        "downloads.py",
        "kernel_of_a_function.py",
        "nearest_digits.py",
        "post.ipynb",
        "processes.py",
    ]


def test_kernel_of_a_function():
    """The loop and the kernel agree, and explain() says which way a function goes."""
    text = run_python(EXAMPLES / "kernel_of_a_function.py")
    assert "same bits: True" in text
    assert "traced: " in text
    assert "called: " in text


def test_nearest_digits():
    """Digits are read."""
    assert "445 of 450 digits read right" in run_python(EXAMPLES / "nearest_digits.py")


def test_downloads():
    """Six downloads of half a second arrive, twice."""
    text = run_python(EXAMPLES / "downloads.py")
    assert text.count("/5: 12 bytes") == 1
    assert "ThreadPool: 6 downloads in " in text
    assert "Threads: 72 bytes in " in text
    one_by_one = 6 * 0.5
    for seconds in re.findall(r" in ([0-9.]+) s", text):
        assert 0.5 <= float(seconds) < one_by_one


def test_processes():
    """One part is lost and says why; the others are there."""
    lines = run_python(EXAMPLES / "processes.py").splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"part {i}" for i in range(6)]
    assert "was killed by SIGKILL while it ran __main__.count_primes" in lines.pop(3)
    assert all(line.endswith(" primes") for line in lines)


def test_notebook_runs():
    """The cells run from top to bottom, and both ways find the loop's matrix."""
    notebook = json.loads((EXAMPLES / "post.ipynb").read_text())
    code = "\n".join(
        "".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"
    )
    said = run_python("-c", code)
    assert said.count("the same: True") == 2
    assert said.count("I am number") == 5
    assert said.count("was killed by SIGKILL") == 1


def test_notebook_is_clean_and_valid():
    """No outputs are stored, and the format is nbformat 4.5."""
    notebook = json.loads((EXAMPLES / "post.ipynb").read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
