"""The calls and maps of a `DaskPool`, cut into tasks, and the parcels that carry them."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pydistrib._core import AsyncResult, MapResult
from pydistrib.pools import dask_worker as wire
from pydistrib.pools.engine import run_chunk


@dataclass(eq=False)
class Task:
    """
    A call, or a chunk of a map, on its way.

    `settle(success, value)` gives the outcome to its owner.
    """

    owner: Any
    kind: str
    func: Callable[..., Any]
    data: Any
    timeout: float | None
    settle: Callable[[bool, Any], object]
    calls: int = 1
    submitted: float = 0.0
    attempts: int = 0
    alone: bool = False  # in its parcel
    quarantined: bool = False  # on the whole cluster
    by_value: frozenset[str] = frozenset()  # modules that travelled whole with it
    settled: bool = False

    def end(self, success: bool, value: Any) -> None:
        if not self.settled:
            self.settled = True
            self.data = None  # nobody needs it any more, and it may be large
            self.settle(success, value)


@dataclass(eq=False)
class Parcel:
    """Tasks that travel together, and the Dask future of their report."""

    tasks: list[Task]
    future: Any = None
    shared: list[Any] = field(default_factory=list)
    worker: str = ""  # where it should go, if that matters
    lent: int | None = None


class Single:
    """An `AsyncResult` in the queue: a source of one task."""

    def __init__(self, call: AsyncResult[Any], ahead: bool) -> None:
        self.owner = call
        self.ahead = ahead  # nobody will want it back once it is with a worker
        self.submitted = time.monotonic()

    def next(self) -> Task | None:
        begun = self.owner._begin()
        if begun is None:
            return None
        func, args, kwargs = begun
        kind, data, calls = wire.CALL, (args, kwargs), 1
        if func is run_chunk:  # a unit of a stream
            func, items, star = args
            kind, data, calls = wire.STARMAP if star else wire.MAP, items, len(items)
        return Task(
            self.owner,
            kind,
            func,
            data,
            self.owner._timeout,
            self.owner._settle,
            calls,
            self.submitted,
        )

    def over(self) -> bool:
        return True

    def cancel(self, error: BaseException) -> None:
        if self.owner._begin() is not None:
            self.owner._settle(False, error)


class Loop:
    """A `MapResult` in the queue: a source of one task for each chunk."""

    ahead = True

    def __init__(self, result: MapResult[Any], timeout: float | None) -> None:
        self.owner = result
        self.timeout = timeout
        self.chunk = 1 if timeout is not None else result._chunk
        self.at = 0
        self.begun: Any = None
        self.submitted = time.monotonic()

    def next(self) -> Task | None:
        result = self.owner
        if self.at == 0:
            self.begun = result._begin()
        if self.begun is None:
            self.at = result.total
            return None
        func, items, _ = self.begun
        start, self.at = self.at, min(self.at + self.chunk, result.total)
        chunk = items[start : self.at]
        settle = functools.partial(_settle_part, result, start, len(chunk))
        kind = wire.STARMAP if result._star else wire.MAP
        return Task(
            result,
            kind,
            func,
            chunk if isinstance(chunk, np.ndarray) else list(chunk),
            self.timeout,
            settle,
            len(chunk),
            self.submitted,
        )

    def over(self) -> bool:
        return self.at >= self.owner.total

    def cancel(self, error: BaseException) -> None:
        self.at = self.owner.total
        self.owner._settle(False, error)


def _settle_part(
    result: MapResult[Any], start: int, count: int, success: bool, value: Any
) -> None:
    result._part(start, count, success, value)


Source = Single | Loop
