"""
The tasks of a process pool: a call, a part of a map, a unit of a stream.

A map is an iterator of its parts, which are pickled when there is room for them; a stream
has a thread that advances its input.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from pydistrib._core import AsyncResult, Job, MapResult, ResultIterator
from pydistrib.pools import worker as protocol
from pydistrib.pools.arguments import Retrying
from pydistrib.pools.packing import Function, Seen

if TYPE_CHECKING:
    from pydistrib.pools.process_engine import ProcessEngine


class Task(Job):
    """What is posted: how to run it, and whom the outcome is for."""

    __slots__ = ("begun", "engine", "seen")

    engine: ProcessEngine
    begun: bool  # as far as is known; this and `seen` only where there is a limit
    seen: float | None  # when it was first seen with a worker

    def set_limit(self, limit: float) -> None:
        """Let it be stopped when it has run for so many seconds."""
        self.limit = limit
        self.announce = True  # the worker says when it begins
        self.begun = False
        self.seen = None

    def begin(self) -> None:
        """The worker says that it has begun."""

    def describe(self) -> str:
        """Name the task in errors."""
        source = self.source
        return describe(source[0]) if source is not None else "a task"


def describe(func: Any) -> str:
    if isinstance(func, Retrying):
        func = func.func
    name = getattr(func, "__qualname__", None)
    if isinstance(name, str):
        return f"{getattr(func, '__module__', '?')}.{name}"
    try:
        return repr(func)[:200]
    except Exception:
        return f"an object of type {type(func).__name__}"


class Call(Task):
    __slots__ = ()

    def __init__(self, engine: ProcessEngine, result: AsyncResult[Any]) -> None:
        self.engine = engine
        self.result = result
        self.plain = result._plain
        if not self.plain:
            self.announce = result._has_future
            if result._timeout is not None:
                self.set_limit(result._timeout)

    def begin(self) -> None:
        self.result._begin()

    def cancel(self, result: AsyncResult[Any]) -> bool:
        if not self.engine.cancel(self):
            return False
        self.settled = True
        result._fail(CancelledError("the task was cancelled"))
        return True


class Part(Task):
    """Some items of a map."""

    __slots__ = ()

    def __init__(self, loop: Map, start: int, count: int, mode: int) -> None:
        self.result = loop.result
        self.group = loop
        self.start = start
        self.count = count
        self.mode = mode
        self.plain = loop.plain
        if loop.limit is not None:
            self.set_limit(loop.limit)


class Map(Iterator["Task"]):
    """A map: an iterator of its parts, which are made when there is room for them."""

    def __init__(
        self, engine: ProcessEngine, result: MapResult[Any], limit: float | None
    ) -> None:
        self.engine = engine
        self.result = result
        self.limit = limit
        self.plain = limit is None and result._plain
        self.cancelled = False
        self.tasks = self._make_tasks()

    def __next__(self) -> Task:
        return next(self.tasks)

    def fail(self, why: BaseException) -> None:
        self.cancelled = True
        self.result._fail(why)

    def _make_tasks(self) -> Iterator[Task]:
        taken = self.result._take(self.cancel, self.engine.board)
        if taken is None:
            return
        func, items, _ = taken
        size = 1 if self.limit is not None else self.result._chunk
        star = self.result._star
        seen: Seen = {}
        try:
            function = self.engine.packer.function(func, seen)
        except Exception as error:
            self.result._settle(False, error)
            return
        retries = func.retries if isinstance(func, Retrying) else 0
        several = protocol.STARS if star else protocol.ITEMS
        model: Part | None = None
        if size == 1 and not star:
            model = Part(self, 0, 1, protocol.ITEM)
            model.retries = retries
            model.source = (func, None)
            model.function = function
            model.payload = b""
        start = -size
        while (start := start + size) < self.result.total:
            if model is not None:
                start = self.engine.board.post_items(
                    model, items, start, self.engine.packer.small_pickle
                )
            if self.cancelled or start >= self.result.total:
                return
            mode = several
            chunk = items[start : start + size]
            if size == 1:
                mode = protocol.STAR if star else protocol.ITEM
                chunk = chunk[0]
            part = Part(self, start, min(size, len(items) - start), mode)
            part.retries = retries
            part.source = (func, chunk)
            part.function = function
            try:
                if mode == protocol.STAR and not isinstance(chunk, (tuple, list)):
                    chunk = tuple(chunk)
                elif mode == protocol.STARS:
                    chunk = [tuple(item) for item in chunk]
                self.engine.packer.pickle(part, chunk, seen)
            except Exception as error:
                part.settle(False, error)
                continue
            yield part

    def cancel(self, result: AsyncResult[Any]) -> bool:
        if result.ready():
            return False
        self.cancelled = True
        result._fail(CancelledError("the map was cancelled"))
        queued = [*self.engine.again, *self.engine.waiting]
        parts = [item for item in queued if isinstance(item, Part)]
        for part in self.engine.board.jobs(result) + parts:
            if part.result is result:
                self.engine.cancel(part)
        return True


class Unit(Task):
    """One item, or a chunk, of a stream."""

    __slots__ = ("feeder", "index")

    def __init__(self, feeder: Feeder, index: int, mode: int) -> None:
        self.engine = feeder.engine
        self.mode = mode
        if feeder.limit is not None:
            self.set_limit(feeder.limit)
        self.feeder = feeder
        self.index = index
        feeder.out.add(self)

    def settle(self, success: bool, value: Any) -> None:
        self.settled = True
        self.feeder.out.discard(self)
        stream = self.feeder.stream()
        if stream is not None:
            stream._deliver(self.index, success, value)


class Feeder:
    """Feeds a stream; it keeps no stream alive that its user has dropped."""

    def __init__(
        self, engine: ProcessEngine, stream: ResultIterator[Any], limit: float | None
    ) -> None:
        self.engine = engine
        self.limit = limit
        self.chunk, self.star = stream._chunk, stream._star
        out = stream._limit
        self.room = threading.Semaphore(out) if out else None
        self.out: set[Unit] = set()
        self.func, self.input = stream._source(self._taken)
        self.stream = weakref.ref(stream, lambda _: self._taken())
        self.function: Function | None = None
        self.seen: Seen = {}
        self.stopped: BaseException | None = None
        self.index = 0

    def _taken(self) -> None:
        if self.room is not None:
            self.room.release()
        stream = self.stream()
        if stream is None or stream._closed:
            self._take_back()

    def _take_back(self) -> None:
        """Nobody wants the results: what no worker has begun is not run."""
        for unit in list(self.out):
            if self.engine.board.retract(unit):
                self.out.discard(unit)

    def hurry(self) -> None:
        """Go on to the end of the input without waiting for the consumer."""
        if self.room is not None:
            self.room.release()

    def stop(self, why: BaseException) -> None:
        """Let no more units go out: the pool was terminated."""
        self.stopped = why
        self.hurry()

    def abandon(self, why: BaseException) -> None:
        """In a forked child, where no thread feeds it: let the stream end."""
        stream = self.stream()
        units = list(self.out)
        for unit in units:
            unit.settle(False, why)
        if stream is not None:
            stream._end(max([self.index, *(unit.index + 1 for unit in units)]), why)

    def run(self) -> None:
        error: BaseException | None = None
        try:
            while self._wanted():
                unit = self._pull()
                if unit is None:
                    break
                self._send(unit)
        except BaseException as raised:
            error = raised
        stream = self.stream()
        if stream is None or stream._closed:
            self._take_back()  # what was posted meanwhile
        if stream is not None and error is not None and self.stopped is None:
            stream._deliver(self.index, False, error)
            self.index += 1
        if stream is not None:
            if self.stopped is None:
                stream._end(self.index)
            else:
                stream._end(self.index, self.stopped)
        del stream
        self.engine.feeder_ended(self)

    def _wanted(self) -> bool:
        if self.room is not None and not self.engine.closing:
            self.room.acquire()
        stream = self.stream()
        return stream is not None and not stream._closed and self.stopped is None

    def _pull(self) -> tuple[int, Any] | None:
        """Take the next unit off the input: how it is to be called, and what with."""
        if self.chunk > 1:
            items = list(itertools.islice(self.input, self.chunk))
            return (protocol.ITEMS, items) if items else None
        for item in self.input:
            return protocol.ITEM, item
        return None

    def _send(self, unit: tuple[int, Any]) -> None:
        mode, what = unit
        task = Unit(self, self.index, mode)  # then the index: see abandon()
        self.index += 1
        task.source = (self.func, what)
        try:
            if self.function is None:
                self.function = self.engine.packer.function(self.func, self.seen)
            task.function = self.function
            if isinstance(self.func, Retrying):
                task.retries = self.func.retries
            self.engine.packer.pickle(task, what, self.seen)
        except Exception as error:
            task.settle(False, error)
            return
        self.engine.post_and_wait(task, self)
