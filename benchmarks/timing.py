"""
Timing: contestants take turns in one process, and a row of the report says what came out.

A round runs every contestant once: a pause, so that the threads of the one before stop
spinning; untimed calls, so that its own are awake and its data is in the caches; then
timed calls.  What disturbs the machine for a while so disturbs all of them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

PAUSE_SECONDS = 0.03  # OpenBLAS's threads spin for some 20 ms after their work
TIMED_SECONDS = 0.02  # in a round, of one contestant
MAX_TIMED_CALLS = 20


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

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        return cls(min(seconds), statistics.median(seconds))


@dataclass(frozen=True)
class Row:
    """
    One line of the report: a value, the bar it has to reach, and the times behind it.

    `peer` names what ours was measured against; `better` says on which side of the target
    a value is good.  Without a target the row is for information.
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

    def __post_init__(self) -> None:
        met = None
        if self.target is not None:
            higher = self.value >= self.target
            met = higher if self.better == "higher" else self.value <= self.target
        object.__setattr__(self, "met", met)


def once(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def take_turns(
    contestants: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, Timing]:
    """Time all contestants, in turns; one whose call returns seconds times itself."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, call in contestants.items():
            time.sleep(PAUSE_SECONDS)
            first = _seconds_of(call)
            calls = min(MAX_TIMED_CALLS, int(TIMED_SECONDS / max(first, 1e-6)))
            if first < 1.0:
                seconds[name] += [_seconds_of(call) for _ in range(max(calls, 1))]
            else:
                seconds[name].append(first)
    return {name: Timing.of(values) for name, values in seconds.items()}


def _seconds_of(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    own = call()
    elapsed = time.perf_counter() - start
    return own if isinstance(own, float) else elapsed


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
