"""
Timing: contestants take turns in one process, and a row of the report says what came out.

A round runs every contestant once: a pause, so that the threads of the one before stop
spinning; untimed calls, so that its own are awake and its data is in the caches; then
timed calls.  What disturbs the machine for a while so disturbs all of them.

A turn is *disturbed* if threads of this process had to wait for a CPU for more than a
twentieth of it, which Linux counts: then other processes had it.  There are more rounds,
up to a limit, until every contestant has had turns that were not disturbed, and only those
count.  Where there are none, all count, the report says so, and no target counts as met.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

PAUSE_SECONDS = 0.03  # OpenBLAS's threads spin for some 20 ms after their work
TIMED_SECONDS = 0.02  # in a round, of one contestant
MAX_TIMED_CALLS = 20
MOST_ROUNDS = 3  # times as many as asked for


@dataclass(frozen=True)
class Settings:
    """How much to measure, and with how many threads."""

    quick: bool
    threads: int

    @property
    def rounds(self) -> int:
        return 3 if self.quick else 9


@dataclass(frozen=True)
class Timing:
    """Seconds of a call."""

    minimum: float
    median: float
    disturbed: bool = False  # not one call had the CPUs that it wanted


@dataclass(frozen=True)
class Row:
    """
    One line of the report: a value, the bar it has to reach, and the times behind it.

    `peer` names what ours was measured against; `better` says on which side of the target
    a value is good.  Without a target the row is for information; `met` is None there, and
    where a time was disturbed.
    """

    subject: str
    case: str
    peer: str
    value: float
    unit: str
    target: float | None = None
    better: Literal["higher", "lower"] = "higher"
    ours: Timing | None = None
    theirs: Timing | None = None
    note: str = ""
    met: bool | None = field(init=False)

    @property
    def disturbed(self) -> bool:
        return any(t is not None and t.disturbed for t in (self.ours, self.theirs))

    def __post_init__(self) -> None:
        met = None
        if self.target is not None and not self.disturbed:
            higher = self.value >= self.target
            met = higher if self.better == "higher" else self.value <= self.target
        object.__setattr__(self, "met", met)


@dataclass
class _Turns:
    """Seconds of the calls of one contestant."""

    undisturbed: list[float] = field(default_factory=list)
    all: list[float] = field(default_factory=list)

    def take(self, call: Callable[[], object]) -> None:
        time.sleep(PAUSE_SECONDS)
        waited = _waited_seconds()
        seconds = [_seconds_of(call)]
        if seconds[0] < 1.0:
            calls = min(MAX_TIMED_CALLS, int(TIMED_SECONDS / max(seconds[0], 1e-6)))
            seconds = [_seconds_of(call) for _ in range(max(calls, 1))]
        time.sleep(0.002)  # a thread's waiting counts when it is over
        waited = _waited_seconds() - waited
        self.all += seconds
        if 0 <= waited < 0.05 * sum(seconds):
            self.undisturbed += seconds

    def timing(self) -> Timing:
        counted = self.undisturbed or self.all
        return Timing(
            min(counted), statistics.median(counted), disturbed=not self.undisturbed
        )


def take_turns(
    contestants: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, Timing]:
    """Time all contestants, in turns; one whose call returns seconds times itself."""
    turns = {name: _Turns() for name in contestants}
    for turn in range(rounds * MOST_ROUNDS):
        waiting = [name for name, t in turns.items() if not t.undisturbed]
        if turn >= rounds and not waiting:
            break
        for name in contestants if turn < rounds else waiting:
            turns[name].take(contestants[name])
    return {name: t.timing() for name, t in turns.items()}


def _seconds_of(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    own = call()
    elapsed = time.perf_counter() - start
    return own if isinstance(own, float) else elapsed


def _waited_seconds() -> float:
    """How long the threads of this process have been ready to run and did not."""
    total = 0
    for task in Path("/proc/self/task").glob("*/schedstat"):
        try:
            total += int(task.read_text().split()[1])
        except (OSError, IndexError):
            continue  # the thread ended meanwhile
    return 1e-9 * total


def ratio_row(
    subject: str,
    case: str,
    peer: str,
    ours: Timing,
    theirs: Timing,
    target: float | None,
    note: str = "",
) -> Row:
    """A row that says how many times faster ours is: the ratio of the medians."""
    return Row(
        subject,
        case,
        peer,
        theirs.median / ours.median,
        "x",
        target,
        ours=ours,
        theirs=theirs,
        note=note,
    )
