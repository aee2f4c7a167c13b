"""The command line of ``python -m pydistrib``: options, order of work, exit code."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import numpy as np

import pydistrib
from pydistrib.demo.comparison import (
    INSTALL,
    Example,
    MissingPackage,
    Row,
    Setting,
    run_example,
)
from pydistrib.demo.picture import save_picture
from pydistrib.demo.post import EXAMPLES
from pydistrib.demo.server import SlowServer
from pydistrib.demo.table import Progress, as_json, as_text
from pydistrib.demo.uses import USES

SAME, DIFFERENT, INTERRUPTED = 0, 1, 130

DOWNLOAD_SECONDS: Final = {False: 1.0, True: 0.1}


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the demo and print its table.

    The exit code is 1 if any answer differed from the original's, else 0.
    """
    options = _parser().parse_args(arguments)
    try:
        return _run(options.quick, options.json, options.picture)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pydistrib",
        description="Run every example beside its original, then kernels on real data; "
        "print the times and whether the answers are the same.",
        epilog="Exit code: 0 if all answers are the same, 1 if any differs.",
    )
    parser.add_argument(
        "--quick", action="store_true", help="shorter downloads, smaller inputs"
    )
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    parser.add_argument(
        "--picture",
        type=_writable,
        default="pydistrib-demo.png",
        metavar="FILE",
        help="where to save the picture, a PNG (default: %(default)s)",
    )
    return parser


def _writable(text: str) -> Path:
    """Check before minutes of work, not after, that the picture can be saved."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder, not a file")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {str(path.parent)!r}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written")
    return path


def _run(quick: bool, as_machine: bool, picture: Path) -> int:
    examples = [example for example in EXAMPLES if example.exists()]
    uses = [example for example in USES if example.exists()]
    with (
        closing(Progress(len(examples) + len(uses) + 1, sys.stderr)) as progress,
        SlowServer(DOWNLOAD_SECONDS[quick]) as server,
    ):
        setting = Setting(quick, server)

        def rows_of(chosen: list[Example]) -> list[Row]:
            rows = []
            for example in chosen:
                progress.next(example.title)
                rows.append(run_example(example, setting, progress.say))
            return rows

        sections = {"examples": rows_of(examples), "uses": rows_of(uses)}
        progress.next("picture")
        missing = _missing_for(picture)
    all_same = not any(row.same is False for rows in sections.values() for row in rows)
    facts = {
        "pydistrib": pydistrib.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "threads": pydistrib.num_threads(),
        "quick": quick,
        "all_same": all_same,
        "picture": None if missing else str(picture.absolute()),
        "picture_missing": missing,
    }
    if as_machine:
        print(as_json(facts, sections))
    else:
        _print_text(facts, sections)
    return SAME if all_same else DIFFERENT


def _missing_for(picture: Path) -> str:
    try:
        save_picture(picture)
    except MissingPackage as missing:
        return str(missing)
    return ""


def _print_text(facts: dict[str, object], sections: dict[str, list[Row]]) -> None:
    print(
        f"pydistrib {facts['pydistrib']}, Python {facts['python']}, "
        f"NumPy {facts['numpy']}, {facts['machine']}, {facts['threads']} threads"
    )
    print(
        "Seconds are those of the fastest of three calls, or of one where calls are "
        "long, on both\nsides, with all that a call does; the first call of pydistrib "
        "stands below."
    )
    if facts["quick"]:
        print("--quick: short downloads and small inputs; the sizes say which.")
    titles = {"examples": "The post's examples", "uses": "Kernels on real data"}
    print()
    print(as_text({titles[name]: rows for name, rows in sections.items()}))
    print()
    if facts["picture"]:
        print(f"Picture: {facts['picture']}")
    else:
        print(f"Picture: needs {facts['picture_missing']}: {INSTALL}")
    if not facts["all_same"]:
        print("An answer differed from the original's: see NO above.")
