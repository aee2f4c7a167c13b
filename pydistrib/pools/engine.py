"""
Engines: what runs the tasks of a pool, and what it tells of them.

An engine has to be able to start one call and to end; loops and streams of calls it gets
for nothing from `Engine`, and it may do better at them if it can.
"""

from __future__ import annotations

import abc
import functools
import itertools
import threading
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydistrib._core import AsyncResult, MapResult, ResultIterator

R = TypeVar("R")


@dataclass(frozen=True)
class WorkerStats:
    """
    What one worker of a pool has done; times in seconds.

    Parameters
    ----------
    name : str
        Of its thread or process.
    tasks : int
        Tasks that it has run.
    queue_wait : float
        How long, on average, what it took off the queue had been waiting there.
    run_time : float
        Time inside tasks, in all.
    gil_wait : float
        Time it waited for Python's lock before it could begin a task, in all; always 0
        for a process, whose lock nobody else has but threads that its tasks start.
    cpu_time : float or None
        CPU time that the worker used, where the system tells.
    gil_share : float or None
        The share of its run time that it computed rather than waited, at most 1: for
        tasks in pure Python, the share of the time that it held Python's lock.
    """

    name: str
    tasks: int
    queue_wait: float
    run_time: float
    gil_wait: float
    cpu_time: float | None
    gil_share: float | None


@dataclass(frozen=True)
class PoolStats:
    """
    What a pool has done so far.

    Parameters
    ----------
    tasks : int
        Tasks that have been run.
    queued : int
        Tasks that wait; a map counts as one.
    workers : tuple of WorkerStats
        The workers there are now; a pool starts them when they are needed.
    """

    tasks: int
    queued: int
    workers: tuple[WorkerStats, ...]


def run_chunk(func: Callable[..., R], chunk: Iterable[Any], star: bool) -> list[R]:
    """Call `func` on each item of `chunk`: what engines run for a piece of a map."""
    return list(itertools.starmap(func, chunk) if star else map(func, chunk))


class Engine(abc.ABC):
    """
    What runs the tasks of a pool.

    An engine has to define `start`, `close`, `terminate` and `join`.  It takes a call by
    ``call._begin()``, which gives (function, args, kwargs), or None if the call was
    cancelled, and gives its outcome by ``call._settle(True, value)`` or
    ``call._settle(False, exception)``, from any thread.

    Attributes
    ----------
    workers : int
        How many tasks it runs at a time.
    shares_memory : bool
        Whether tasks get the very objects that the caller has.
    memory_limit : int or None
        Bytes that a worker may use, where there is such a limit.
    stream_limit : int
        How many items of a stream may be out where its user does not say, or 0.
    """

    workers: int
    shares_memory: bool = False
    memory_limit: int | None = None
    stream_limit: int = 0

    @abc.abstractmethod
    def start(self, call: AsyncResult[Any]) -> None:
        """Run `call` some time; ``call._timeout`` is its time limit or None."""

    @abc.abstractmethod
    def close(self) -> None:
        """Take no more tasks; the workers end when all are done."""

    @abc.abstractmethod
    def terminate(self) -> None:
        """End; tasks that have not begun fail with `CancelledError`."""

    @abc.abstractmethod
    def join(self) -> None:
        """Wait until all workers have ended."""

    @abc.abstractmethod
    def stats(self) -> PoolStats:
        """Tell what has been done so far."""

    def abandon(self, result: AsyncResult[Any]) -> None:  # noqa: B027
        """Stop what can be stopped: nobody waits for `result` any more."""

    def default_chunk(self, count: int) -> int:
        """Say how many of `count` items make a task: the standard library's rule."""
        return max(1, -(-count // (4 * self.workers)))

    def start_map(self, result: MapResult[Any], timeout: float | None = None) -> None:
        """Run a map: here as one call for each chunk, or each item with a `timeout`."""
        begun = result._begin()
        if begun is None:
            return
        func, items, _ = begun
        size = 1 if timeout is not None else result._chunk
        for start in range(0, result.total, size):
            chunk = items[start : start + size]
            call: AsyncResult[list[Any]] = AsyncResult(
                run_chunk,
                (func, chunk, result._star),
                None,
                None,
                None,
                None,
                None,
                timeout,
            )
            call._then(functools.partial(_give_part, result, start, len(chunk), call))
            try:
                self.start(call)
            except Exception as error:
                call._settle(False, error)

    def start_stream(
        self, stream: ResultIterator[Any], timeout: float | None = None
    ) -> None:
        """Run a stream: here by a thread that advances the input, one call a unit."""
        feeder = Feeder(self, stream, timeout)
        threading.Thread(target=feeder.run, name="pydistrib-imap", daemon=True).start()


def _give_part(
    result: MapResult[Any], start: int, count: int, call: AsyncResult[list[Any]]
) -> None:
    try:
        values = call.get()
    except BaseException as error:
        result._part(start, count, False, error)
    else:
        result._part(start, count, True, values)


class Feeder:
    """Feeds a stream from Python; it keeps no stream alive that its user has dropped."""

    def __init__(
        self, engine: Engine, stream: ResultIterator[Any], timeout: float | None
    ) -> None:
        self.engine = engine
        self.timeout = timeout
        self.chunk, self.star = stream._chunk, stream._star
        limit = stream._limit or -(-engine.stream_limit // self.chunk)
        self.room = threading.Semaphore(limit) if limit else None
        self.out: set[AsyncResult[Any]] = set()
        self.waits = False  # for the consumer to take something
        self.func, self.input = stream._source(self._taken)
        self.stream = weakref.ref(stream, lambda _: self._taken())

    def _taken(self) -> None:
        if self.room is not None:
            self.room.release()
        stream = self.stream()
        if stream is None or stream._closed:
            for call in list(self.out):
                self.engine.abandon(call)

    def _next_unit(self) -> list[Any]:
        return list(itertools.islice(self.input, self.chunk))

    def run(self) -> None:
        index = 0
        error: BaseException | None = None
        while error is None and self._wanted():
            try:
                unit = self._next_unit()
                if not unit:
                    break
                self._start(index, unit)
            except BaseException as raised:
                error = raised
            else:
                index += 1
        stream = self.stream()
        if stream is not None and error is not None:
            stream._deliver(index, False, error)
            index += 1
        if stream is not None:
            stream._end(index)

    def _wanted(self) -> bool:
        if self.room is not None:
            self.waits = True
            self.room.acquire()
            self.waits = False
        stream = self.stream()
        return stream is not None and not stream._closed

    def _start(self, index: int, unit: list[Any]) -> None:
        stream = self.stream()
        call: AsyncResult[list[Any]] = AsyncResult(
            run_chunk,
            (self.func, unit, self.star),
            None,
            None,
            None,
            None,
            None,
            self.timeout,
        )
        self.out.add(call)
        self.engine.start(call)
        if stream is not None:
            call._then(functools.partial(_give_unit, self.stream, index, self.chunk, call))
        call._then(functools.partial(self.out.discard, call))


def _give_unit(
    ref: weakref.ref[ResultIterator[Any]],
    index: int,
    chunk: int,
    call: AsyncResult[list[Any]],
) -> None:
    stream = ref()
    if stream is None:
        return
    try:
        values = call.get()
    except BaseException as error:
        stream._deliver(index, False, error)
    else:
        stream._deliver(index, True, values if chunk > 1 else values[0])
