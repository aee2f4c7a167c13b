"""
What is compared, and how it is timed.

Both sides of a comparison are timed alike: `time.perf_counter` around the call, the
same number of calls, the shortest counts.  Everything that the call does is inside:
tracing and its checks, starting threads, allocating the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

import pydistrib
from pydistrib.demo.server import SlowServer

INSTALL: Final = "pip install 'pydistrib[demo]'"


class MissingPackage(Exception):
    """A package that the demo needs is not installed: its name, and what installs it."""

    def __init__(self, name: str, install: str = INSTALL) -> None:
        super().__init__(name)
        self.install = install


@dataclass(frozen=True)
class Setting:
    """What every comparison may use: short inputs or not, and a server."""

    quick: bool
    server: SlowServer


@dataclass(frozen=True)
class Score:
    """How good an answer is: the value of a measure, and what it was measured on."""

    name: str
    value: float
    on: str


@dataclass(frozen=True)
class Comparison:
    """
    One answer, computed by an original and by pydistrib.

    `same` says whether two answers agree, and `note`, once they are there, what else is
    to be said.  `peer` is a third way, where an expert would not write the original;
    its answer must agree as well.
    """

    size: str
    original_name: str
    original: Callable[[], Any]
    ours: Callable[[], Any]
    same: Callable[[Any, Any], bool]
    repeats: int = 3
    note: Callable[[], str] = str
    peer_name: str = ""
    peer: Callable[[], Any] | None = None
    score: Callable[[Any], Score] | None = None


@dataclass(frozen=True)
class Example:
    """
    A line of the table: its title and what it compares.

    `needs` are the public names of pydistrib without which there is no such line.
    """

    title: str
    compare: Callable[[Setting], Comparison]
    needs: tuple[str, ...] = ()

    def exists(self) -> bool:
        """Tell whether this pydistrib has what the example needs."""
        return all(hasattr(pydistrib, name) for name in self.needs)


@dataclass(frozen=True)
class Row:
    """
    The outcome of an example.

    Where a package is missing, `missing` names it, and `install` is what installs it.
    """

    example: str
    size: str = ""
    original: str = ""
    original_seconds: float | None = None
    pydistrib_seconds: float | None = None
    pydistrib_first_call_seconds: float | None = None
    ratio: float | None = None
    same: bool | None = None
    calls: int | None = None
    peer: str = ""
    peer_seconds: float | None = None
    score: Score | None = None
    note: str = ""
    missing: str = ""
    install: str = ""


def run_example(example: Example, setting: Setting, say: Callable[[str], None]) -> Row:
    """
    Run all sides of an example.

    `say` is told what is being done.  A missing package gives a row that names it; any
    other exception is the caller's.
    """
    say("(loading)")
    try:
        comparison = example.compare(setting)
    except MissingPackage as missing:
        return Row(example.title, missing=str(missing), install=missing.install)
    return _measure(example.title, comparison, say)


def _measure(title: str, c: Comparison, say: Callable[[str], None]) -> Row:
    def timed(name: str, call: Callable[[], Any]) -> tuple[Any, list[float]]:
        times = []
        for i in range(c.repeats):
            say(f"({name}, call {i + 1} of {c.repeats})")
            start = perf_counter()
            answer = call()
            times.append(perf_counter() - start)
        return answer, times

    expected, original_times = timed(c.original_name, c.original)
    answer, times = timed("pydistrib", c.ours)
    same, peer_times = c.same(expected, answer), None
    if c.peer:
        peer_answer, peer_times = timed(c.peer_name, c.peer)
        same = same and c.same(peer_answer, answer)
    return Row(
        example=title,
        size=c.size,
        original=c.original_name,
        original_seconds=min(original_times),
        pydistrib_seconds=min(times),
        pydistrib_first_call_seconds=times[0],
        ratio=min(original_times) / min(times),
        same=same,
        calls=c.repeats,
        peer=c.peer_name,
        peer_seconds=min(peer_times) if peer_times else None,
        score=c.score(answer) if c.score else None,
        note=c.note(),
    )
