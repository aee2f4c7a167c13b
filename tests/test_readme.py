"""What the README says is so: its code runs, its values, names and paths are right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pydistrib import _config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", blocks("python"))
def test_python_blocks_run(block):
    """Every block is a script; a line with ``# => value`` has that value."""
    namespace: dict[str, object] = {}
    pending: list[str] = []
    for line in block.splitlines():
        expression, arrow, value = line.partition("  # => ")
        if not arrow:
            pending.append(line)
            continue
        exec("\n".join(pending), namespace)
        pending.clear()
        assert repr(eval(expression, namespace)) == value, expression
    exec("\n".join(pending), namespace)


def test_make_targets_exist():
    """Every command of make that is named can be given."""
    targets = set(re.findall(r"\bmake (\w+)", "\n".join(blocks("sh")))) | set(
        re.findall(r"`make (\w+)`", README)
    )
    assert {"demo", "test", "lint", "bench", "sanitize"} <= targets
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_paths_exist():
    """Every file and folder that is named is there."""
    named = set(re.findall(r"\]\(([^):]+)\)", README))
    named |= set(re.findall(r"`((?:src|pydistrib|tests)/[\w/.]+)`", README))
    named |= {
        line.split()[0] for text in blocks("text") for line in text.splitlines() if line
    }
    assert len(named) > 12
    assert sorted(path for path in named if not (ROOT / path).exists()) == []


def test_layers_are_complete():
    """Every layer of the core is in the layout."""
    named = set(re.findall(r"^src/(\w+)", "\n".join(blocks("text")), re.MULTILINE))
    assert {path.name for path in (ROOT / "src").iterdir() if path.is_dir()} == named


def test_settings_are_complete():
    """The environment variables are those that the package reads."""
    documented = re.findall(r"^\| `(PYDISTRIB_\w+)`", README, re.MULTILINE)
    assert documented == list(_config.ENVIRONMENT)


def test_speed_table_is_filled():
    """No release without numbers: the table of `make bench` has rows."""
    table = README.split("<!-- speed table: begin")[1].split("<!-- speed table: end")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len(rows) > 2
