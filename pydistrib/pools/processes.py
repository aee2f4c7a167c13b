"""
Processes as a pool: `Pool` and `ProcessPoolExecutor`.

The table of tasks and the mailboxes of the workers are C and lie in shared memory
(`_core.Board`, `_core.Desk`).  Here is the parent's side::

    user's threads            the pool's thread                    workers
    --------------            -----------------                    -------
    pickle a task, post it --------------------------------------> claim it, run it
                              collect results, settle them <------ give the result
                              post what waited for room
                              note time limits, deaths  <- nursery

Tasks are posted by the thread that has them, without a hop, while there is room in the
table; then they wait in a queue as they are, and are pickled when their turn comes.  A
thread that waits for a result looks for it itself for a while, and settles what else
arrives, as far as that calls nobody's code: then the pool's thread may sleep.

A worker that dies takes down the one task that it has claimed.  The pool's thread reads
what the worker has still sent, and then knows which that is: the task fails, or is posted
again, and the nursery makes another worker.  A time limit, and the cancelling of a task
that runs, are such deaths on purpose: the task is first marked as doomed, so that its
worker can't go on to another one before it is killed.
"""

from __future__ import annotations

import atexit
import collections
import concurrent.futures
import contextlib
import heapq
import itertools
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from types import BuiltinFunctionType, FunctionType
from typing import Any, ParamSpec, SupportsIndex, TypeVar

import numpy as np

from pydistrib import _config
from pydistrib._core import AsyncResult, Board, Job, MapResult, Piece, ResultIterator
from pydistrib.errors import TimeoutError
from pydistrib.pools import nursery as nurseries
from pydistrib.pools import pickling
from pydistrib.pools import worker as protocol
from pydistrib.pools.arguments import Retrying
from pydistrib.pools.broken import PoolBroken, WorkerDied
from pydistrib.pools.engine import Engine, PoolStats, WorkerStats
from pydistrib.pools.futures import submit_to
from pydistrib.pools.protocol import PoolBase, PoolExecutor

R = TypeVar("R")
P = ParamSpec("P")

MAX_WORKERS = 4096

SLOTS = 2048  # tasks that are posted and not done; more of them wait as they are
INSIDE = 432  # bytes of a payload that fit into a slot
SHARED = 1 << 20  # arrays of this size are looked up: several tasks may have the same
COLLECT = 512  # reports read before others get their turn
STABLE = 1.0  # seconds: a worker that was idle so long and ends is no crash loop
LOAD_SECONDS = 30.0  # in which a task with a time limit has to begin, or its limit
LOOK_SECONDS = 1.0  # between looks for tasks that don't begin
TERM_SECONDS = 0.5  # from SIGTERM to SIGKILL
SPIN = 50e-6  # how long a worker looks for a task before it sleeps
WATCH = 50e-6  # how long the pool's thread looks for a result before it sleeps

Function = tuple[int, Piece, None, tuple[Piece, ...]]


# --------------------------------------------------------------------------------------
# Tasks
# --------------------------------------------------------------------------------------


class _Task(Job):
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
        return _describe(source[0]) if source is not None else "a task"


def _describe(func: Any) -> str:
    if isinstance(func, Retrying):
        func = func.func
    name = getattr(func, "__qualname__", None)
    if isinstance(name, str):
        return f"{getattr(func, '__module__', '?')}.{name}"
    try:
        return repr(func)[:200]
    except Exception:
        return f"an object of type {type(func).__name__}"


class _Call(_Task):
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


class _Part(_Task):
    """Some items of a map."""

    __slots__ = ()

    def __init__(self, loop: _Map, start: int, count: int, mode: int) -> None:
        self.result = loop.result
        self.group = loop
        self.start = start
        self.count = count
        self.mode = mode
        self.plain = loop.plain
        if loop.limit is not None:
            self.set_limit(loop.limit)


class _Map(Iterator["_Task"]):
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

    def __next__(self) -> _Task:
        return next(self.tasks)

    def fail(self, why: BaseException) -> None:
        self.cancelled = True
        self.result._fail(why)

    def _make_tasks(self) -> Iterator[_Task]:
        taken = self.result._take(self.cancel, self.engine.board)
        if taken is None:
            return
        func, items, _ = taken
        size = 1 if self.limit is not None else self.result._chunk
        star = self.result._star
        seen: _Seen = {}
        try:
            function = self.engine.function(func, seen)
        except Exception as error:
            self.result._settle(False, error)
            return
        retries = func.retries if isinstance(func, Retrying) else 0
        several = protocol.STARS if star else protocol.ITEMS
        model: _Part | None = None
        if size == 1 and not star:
            model = _Part(self, 0, 1, protocol.ITEM)
            model.retries = retries
            model.source = (func, None)
            model.function = function
            model.payload = b""
        start = -size
        while (start := start + size) < self.result.total:
            if model is not None:
                start = self.engine.board.post_items(
                    model, items, start, self.engine.small_pickle
                )
            if self.cancelled or start >= self.result.total:
                return
            mode = several
            chunk = items[start : start + size]
            if size == 1:
                mode = protocol.STAR if star else protocol.ITEM
                chunk = chunk[0]
            part = _Part(self, start, min(size, len(items) - start), mode)
            part.retries = retries
            part.source = (func, chunk)
            part.function = function
            try:
                if mode == protocol.STAR and not isinstance(chunk, (tuple, list)):
                    chunk = tuple(chunk)
                elif mode == protocol.STARS:
                    chunk = [tuple(item) for item in chunk]
                self.engine.pickle(part, chunk, seen)
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
        parts = [item for item in queued if isinstance(item, _Part)]
        for part in self.engine.board.jobs(result) + parts:
            if part.result is result:
                self.engine.cancel(part)
        return True


class _Unit(_Task):
    """One item, or a chunk, of a stream."""

    __slots__ = ("feeder", "index")

    def __init__(self, feeder: _Feeder, index: int, mode: int) -> None:
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


class _Feeder:
    """Feeds a stream; it keeps no stream alive that its user has dropped."""

    def __init__(
        self, engine: ProcessEngine, stream: ResultIterator[Any], limit: float | None
    ) -> None:
        self.engine = engine
        self.limit = limit
        self.chunk, self.star = stream._chunk, stream._star
        out = stream._limit
        self.room = threading.Semaphore(out) if out else None
        self.out: set[_Unit] = set()
        self.func, self.input = stream._source(self._taken)
        self.stream = weakref.ref(stream, lambda _: self._taken())
        self.function: Function | None = None
        self.seen: _Seen = {}
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
        task = _Unit(self, self.index, mode)  # then the index: see abandon()
        self.index += 1
        task.source = (self.func, what)
        try:
            if self.function is None:
                self.function = self.engine.function(self.func, self.seen)
            task.function = self.function
            if isinstance(self.func, Retrying):
                task.retries = self.func.retries
            self.engine.pickle(task, what, self.seen)
        except Exception as error:
            task.settle(False, error)
            return
        self.engine.post_and_wait(task, self)


# --------------------------------------------------------------------------------------
# Workers
# --------------------------------------------------------------------------------------


class Worker:
    """
    A worker of a pool, as seen from its parent.

    Attributes
    ----------
    name : str
        As `multiprocessing.current_process().name` in the worker.
    pid : int or None
        Its process, which is waited for while it is being made.
    exitcode : int or None
        As of `multiprocessing.Process`; None while it runs.
    """

    daemon = True

    def __init__(self, desk: int, name: str, stack_fd: int) -> None:
        self.desk = desk
        self.name = name
        self.exitcode: int | None = None
        self.ready_at: float | None = None
        self.asked = False  # the nursery is making it
        self.killed = False  # by us
        self._pid = 0
        self._stack_fd = stack_fd
        self._made = threading.Event()

    def __repr__(self) -> str:
        state = "started" if self.exitcode is None else f"ended {self.exitcode}"
        return f"<{type(self).__name__} name={self.name!r} pid={self._pid} {state}>"

    @property
    def pid(self) -> int | None:
        self._made.wait(30)
        return self._pid or None

    ident = pid

    def is_alive(self) -> bool:
        """Tell whether it runs, or is about to."""
        return self.exitcode is None

    def made(self, pid: int) -> None:
        self._pid = pid
        self._made.set()

    def ended(self, exitcode: int) -> None:
        self.exitcode = exitcode
        self._made.set()

    def stack(self) -> str:
        """Read what the fault handler has left."""
        try:
            size = os.fstat(self._stack_fd).st_size
            return os.pread(self._stack_fd, min(size, 1 << 16), 0).decode(
                "utf-8", "replace"
            )
        except OSError:
            return ""

    def forget(self) -> None:
        if self._stack_fd >= 0:
            os.close(self._stack_fd)
            self._stack_fd = -1


def _kills_for_memory() -> int:
    """Count the processes that the system has killed for want of memory."""
    count = 0
    for path, key in (
        ("/proc/vmstat", "oom_kill"),
        ("/sys/fs/cgroup/memory.events", "oom_kill"),
    ):
        try:
            with open(path) as lines:
                for line in lines:
                    name, _, value = line.partition(" ")
                    if name == key:
                        count += int(value)
        except (OSError, ValueError):
            continue
    return count


# Of one map or stream: arrays that were put into shared memory, by identity.  The array is
# kept while its copy is, so that the identity stays its own.
_Seen = dict[int, tuple[Any, "weakref.ref[Piece]"]]


# --------------------------------------------------------------------------------------
# The engine
# --------------------------------------------------------------------------------------


class ProcessEngine(Engine):
    """
    Runs tasks in other processes.

    Parameters
    ----------
    workers : int
        How many processes.
    method : str
        How they are started: ``"fork"``, ``"forkserver"`` or ``"spawn"``.
    initializer, initargs
        Each worker first calls ``initializer(*initargs)``.
    max_tasks : int, optional
        After so many tasks a worker is replaced.
    name : str
        Of the workers, before their number.
    """

    def __init__(
        self,
        workers: int,
        method: str,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        max_tasks: int | None = None,
        name: str = "PoolWorker",
    ) -> None:
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self.workers = workers
        self.method = method
        self.name = name
        self.board = Board(SLOTS, workers)
        self.ring = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        # Waiting: tasks, results whose call is not pickled yet, iterators of tasks.
        self.waiting: collections.deque[Any] = collections.deque()
        self.setup = protocol.Setup(
            main=nurseries.main_data() if method != "fork" else {},
            board_fd=self.board.fileno(),
            ring_fd=self.ring,
            workers=workers,
            spin=SPIN if _config.cpu_count() > 1 else 0.0,
            name=name,
            max_tasks=max_tasks,
            initializer=initializer,
            initargs=tuple(initargs),
        )
        main_file = getattr(sys.modules.get("__main__"), "__file__", None)
        self.main = (
            pickling.ForkedMain() if method == "fork" and main_file is not None else None
        )

        # Those that are posted once more.  Only who fills touches the head of a queue, so
        # the pool's thread, which has them, can't put them back into `waiting`.
        self.again: collections.deque[_Task] = collections.deque()
        self.fill_lock = threading.Lock()
        self.fill_again = False
        self.room = threading.Condition()  # feeders wait for room in the table
        self.feeders: set[_Feeder] = set()
        self.numbers = itertools.count(1)
        # id -> (function, what was sent, its code, what it depends on)
        self.functions: dict[int, tuple[Any, Function, Any, pickling.Dependencies]] = {}
        self.shared: dict[tuple[int, int], weakref.ref[Piece]] = {}

        self.limited = False  # there was a task with a time limit
        self.watching = False  # the pool's thread looks for such that don't begin
        self.look_at = 0.0
        self.limits: list[tuple[float, int, _Task]] = []  # the pool's thread's, as below
        self.crew: list[Worker | None] = [None] * workers
        self.desks_lock = threading.Lock()  # held to kill a worker, and to bury one
        self.past_tasks = 0
        self.deaths = 0  # since a task was last done
        self.done = 0  # tasks that the board itself had settled by then
        self.restart_at = 0.0
        self.kills = _kills_for_memory()

        self.closing = False
        self.terminating = False
        self.closed = False  # the board
        self.broken: BaseException | None = None
        self.over = False
        self.ended = threading.Event()

        try:
            self.nursery = nurseries.Nursery(method, self.setup)
        except BaseException:
            os.close(self.ring)
            raise
        for desk in range(workers):
            self.crew[desk] = self._new_worker(desk)
        self.board.attend(self.ring, (self.waiting, self.again))
        _engines.add(self)
        self.thread = threading.Thread(
            target=_serve, args=(self,), name="pydistrib-pool", daemon=True
        )
        self.thread.start()

    # -- pickling ----------------------------------------------------------------------

    def function(self, func: Any, seen: _Seen | None) -> Function:
        """Pickle a function, or find that it is in shared memory already."""
        known = self.functions.get(id(func))
        code = getattr(func, "__code__", None)
        if (
            known is not None
            and known[0] is func
            and known[2] is code
            and (not known[3] or pickling.unchanged(known[3]))
        ):
            return known[1]
        buffers: list[Any] = []
        data = pickling.dumps(func, buffers, self.main)
        pieces = self._pieces(buffers, seen)
        function: Function = (
            next(self.numbers),
            self.board.pack(data, pieces),
            None,
            pieces,
        )
        if not pieces and (found := self._dependencies(func, data)) is not None:
            if len(self.functions) >= 256:
                self.functions.clear()
            self.functions[id(func)] = (func, function, code, found)
        return function

    @staticmethod
    def _dependencies(func: Any, data: bytes) -> pickling.Dependencies | None:
        if type(func) not in (FunctionType, BuiltinFunctionType, type):
            return None
        if b"_set_main_function" in data or b"cloudpickle" in data:
            return pickling.dependencies(func)
        return []  # it is sent by its name, and stays what it is

    def pickle(self, task: _Task, what: Any, seen: _Seen | None) -> None:
        """Pickle a task's argument."""
        buffers: list[Any] = []
        self._place(task, pickling.dumps(what, buffers, self.main), buffers, seen)

    def small_pickle(self, what: Any) -> bytes | None:
        """Pickle what has no large buffers; else None."""
        buffers: list[Any] = []
        data = pickling.dumps(what, buffers, self.main)
        return None if buffers else data

    def _place(
        self, task: _Task, data: bytes, buffers: list[Any], seen: _Seen | None
    ) -> None:
        pieces = self._pieces(buffers, seen) if buffers else ()
        task.pieces = pieces
        if len(data) + 16 * len(pieces) <= INSIDE:
            task.payload = data
        else:
            task.payload = self.board.pack(data, pieces)

    def _pieces(self, buffers: list[Any], seen: _Seen | None) -> tuple[Piece, ...]:
        return tuple(
            self._shared_piece(buffer, seen)
            if memoryview(buffer).nbytes >= SHARED
            else self.board.put(buffer)
            for buffer in buffers
        )

    def _shared_piece(self, buffer: Any, seen: _Seen | None) -> Piece:
        view = memoryview(buffer)
        owner = view.obj
        if seen is not None and (entry := seen.get(id(owner))) is not None:
            piece = entry[1]()
            if piece is not None and entry[0] is owner and len(piece) == view.nbytes:
                return piece
        address = np.frombuffer(buffer.raw(), np.uint8).__array_interface__["data"][0]
        key = (address, view.nbytes)
        reference = self.shared.get(key)
        piece = None if reference is None else reference()
        if piece is None or not piece.same(buffer.raw()):
            piece = self.board.put(buffer)
            piece.shared = True
            shared = self.shared
            shared[key] = weakref.ref(piece, lambda gone: _forget(shared, key, gone))
        if seen is not None and isinstance(owner, np.ndarray):
            number = id(owner)
            seen[number] = (owner, weakref.ref(piece, lambda _: seen.pop(number, None)))
        return piece

    # -- posting -----------------------------------------------------------------------

    def _check(self) -> None:
        if self.broken is not None:
            raise PoolBroken(str(self.broken)) from self.broken
        if self.closing or self.terminating:
            raise ValueError("Pool not running")
        if self.over:
            raise RuntimeError(
                "the pool belongs to the process that made it, and this is a fork"
            )

    def start(self, call: AsyncResult[Any]) -> None:
        """Post a call, or let it wait for room."""
        self._check()
        if not self.waiting:
            task = self._call_task(call)
            if task is None or self._post(task):
                return
            # Rather make room here than have the pool's thread do it in turns with this.
            if self.board.settle() and not self.waiting and self._post(task):
                return
            self.waiting.append(task)
        else:
            self.waiting.append(call)
        self.fill()

    def _call_task(self, call: AsyncResult[Any]) -> _Task | None:
        task = _Call(self, call)
        taken = call._take(task.cancel, self.board)
        if taken is None:
            return None
        func, args, kwargs = taken
        task.source = (func, (args, kwargs))
        try:
            if type(func) is Retrying:
                task.retries = func.retries
            task.function = self.function(func, None)
            data = self.board.pickle_scalars(args, kwargs)
            if data is not None:
                task.payload = data
            else:
                self.pickle(task, (args, kwargs), None)
        except Exception as error:
            task.settle(False, error)
            return None
        except BaseException as error:
            task.settle(False, error)
            raise
        return task

    def _post(self, task: _Task) -> bool:
        posted = self.board.post(task)
        if posted and (task.pieces or type(task.payload) is not bytes):
            self._drop_own(task)
        if posted and task.limit is not None and not self.watching:
            self.limited = self.watching = True
            self.ring_up()
        return posted

    @staticmethod
    def _drop_own(task: _Task) -> None:
        """The board keeps the memory now; a task that may come again keeps it too."""
        if not task.retries:
            task.pieces = ()
            task.payload = b""

    def start_map(self, result: MapResult[Any], timeout: float | None = None) -> None:
        """Post the parts of a map, those for which there is no room later."""
        self._check()
        self.waiting.append(_Map(self, result, timeout))
        self.fill()

    def start_stream(
        self, stream: ResultIterator[Any], timeout: float | None = None
    ) -> None:
        """Start a thread that advances the stream's input and posts its units."""
        self._check()
        feeder = _Feeder(self, stream, timeout)
        self.feeders.add(feeder)
        threading.Thread(target=feeder.run, name="pydistrib-imap", daemon=True).start()

    def feeder_ended(self, feeder: _Feeder) -> None:
        self.feeders.discard(feeder)
        if self.closing:
            self.ring_up()

    def post_and_wait(self, task: _Task, feeder: _Feeder) -> None:
        """Post a unit of a stream, as soon as there is room."""
        while True:
            if self.terminating or self.broken is not None:
                task.settle(False, self.broken or CancelledError("the pool was terminated"))
                return
            if not self.waiting and self._post(task):
                return
            with self.room:
                full = self.waiting or self.board.free == 0
                # Else there is no room for its number behind a task that waits.
                self.room.wait(0.1 if full else 0.001)

    def fill(self) -> None:
        """Post what waits, while there is room.  One thread does it for all."""
        self.fill_again = True
        while self.fill_again and self.fill_lock.acquire(blocking=False):
            try:
                self.fill_again = False
                self._fill_some()
            finally:
                self.fill_lock.release()

    def _fill_some(self) -> None:
        waiting, again = self.waiting, self.again
        while again and self.board.free > 0:
            if not again[0].cancelled and not again[0].settled and not self._post(again[0]):
                return
            again.popleft()
        while waiting and self.board.free > 0:
            item = waiting[0]
            if isinstance(item, _Task):
                if not item.cancelled and not item.settled and not self._post(item):
                    return
                waiting.popleft()
            elif isinstance(item, AsyncResult):
                task = self._call_task(item)
                if task is None:
                    waiting.popleft()
                else:
                    waiting[0] = task
            else:
                task = next(item, None)
                if task is None:
                    waiting.popleft()
                elif not self._post(task):
                    waiting.appendleft(task)
                    return

    # -- cancelling --------------------------------------------------------------------

    def cancel(self, task: _Task) -> bool:
        """Keep a task from running, or kill the worker that runs it."""
        task.cancelled = True
        if self.board.retract(task) or self._stop(task):
            return True
        if task in self.waiting or task in self.again:
            return True
        task.cancelled = False
        return False

    def _stop(self, task: _Task) -> bool:
        # Whoever is at the desk until the lock is released is the one to be killed.
        with self.desks_lock:
            desk = self.board.doom(task)
            if desk < 0:
                return False
            task.settled = True
            worker = self.crew[desk]
            if worker is not None:
                worker.killed = True
                self.nursery.kill(desk, signal.SIGKILL)
        if self.nursery.late:
            self.ring_up()
        return True

    def abandon(self, result: AsyncResult[Any]) -> None:
        """Stop a call or a map, with the workers that run it: it was interrupted."""
        result.cancel()

    def cancel_waiting(self) -> None:
        """Cancel all calls that no worker has begun."""
        why = CancelledError("the executor was shut down")
        with self.fill_lock:
            items = [*self.again, *self.waiting]
            self.again.clear()
            self.waiting.clear()
        for item in items:
            if isinstance(item, _Task):
                self._fail(item, why)
            else:
                item._fail(why)
        for task in self.board.clear():
            self._fail(task, why)

    # -- life --------------------------------------------------------------------------

    def ring_up(self) -> None:
        """Wake the pool's thread."""
        with contextlib.suppress(OSError, ValueError):
            os.eventfd_write(self.ring, 1)

    def close(self) -> None:
        """Take no more tasks; the workers end when all are done."""
        self.closing = True
        for feeder in list(self.feeders):
            feeder.hurry()
        self.ring_up()

    def terminate(self) -> None:
        """Kill the workers; what has no result yet fails with `CancelledError`."""
        self.terminating = True
        self.ring_up()

    def join(self) -> None:
        """Wait until all workers have ended."""
        if self.over:
            return
        self.ended.wait()
        self.thread.join()

    def stats(self) -> PoolStats:
        """Read the counters that the workers keep in the table."""
        rows = []
        for worker in self.crew:
            if worker is None or not worker.asked:
                continue
            tasks, run_ns, _, wait_ns = self.board.desk_info(worker.desk)
            cpu = _cpu_seconds(worker._pid)
            rows.append(
                WorkerStats(
                    name=worker.name,
                    tasks=tasks,
                    queue_wait=wait_ns / 1e9 / tasks if tasks else 0.0,
                    run_time=run_ns / 1e9,
                    gil_wait=0.0,
                    cpu_time=cpu,
                    gil_share=None
                    if cpu is None or run_ns == 0
                    else min(1.0, cpu * 1e9 / run_ns),
                )
            )
        done = self.past_tasks + sum(row.tasks for row in rows)
        waiting = len(self.waiting) + len(self.again)
        queued = self.board.slots - self.board.free + waiting
        return PoolStats(done, queued, tuple(rows))

    # -- the pool's thread -------------------------------------------------------------

    def serve(self) -> None:
        poller = select.poll()
        poller.register(self.ring, select.POLLIN)
        poller.register(self.nursery.fileno(), select.POLLIN)
        poll_link = True
        while not self.terminating:
            if self._collect_all():
                self._after_progress()
                continue
            self._close_if_done()
            if self._all_gone():
                return
            self._repopulate()
            if self.setup.spin and self.board.free < SLOTS and self.board.watch(WATCH):
                continue
            self.board.sleep(True)
            if not self._collect_all():
                for fd, _ in poller.poll(self._patience()):
                    if fd != self.ring:
                        poll_link = self._read_nursery()
                        if not poll_link:
                            poller = self._new_nursery(poller)
            self.board.sleep(False)
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self.ring)
            self._check_limits()
            self._after_progress()

    def _after_progress(self) -> None:
        if self.nursery.late:
            self.nursery.send_late()
        if self.waiting or self.again:
            self.fill()
        if self.feeders:
            with self.room:
                self.room.notify_all()
        if self.limits or self.limited:
            self._check_limits()

    def _patience(self) -> float | None:
        """How long to sleep, in milliseconds."""
        times = [self.limits[0][0]] if self.limits else []
        self.watching = False
        if self.limited and self.board.free < self.board.slots:
            self.watching = True
            times.append(self.look_at)
        if self.nursery.late or any(w is None or not w.asked for w in self.crew):
            times.append(max(self.restart_at, time.monotonic() + 0.02))
        if not times:
            return None
        return max(0.0, min(times) - time.monotonic()) * 1000 + 1

    def _collect_all(self) -> int:
        count = 0
        for worker in self.crew:
            if worker is not None:
                count += self._collect(worker)
        return count

    def _collect(self, worker: Worker) -> int:
        try:
            settled, events = self.board.collect(worker.desk, COLLECT)
        except Exception:
            # Its mailbox makes no sense, or there is no memory to read it: it has to go.
            if worker.exitcode is None and not worker.killed:
                worker.killed = True
                self.nursery.kill(worker.desk, signal.SIGKILL)
            return 0
        for event in events:
            self._handle(worker, *event)
        return settled + len(events)

    def _handle(
        self, worker: Worker, desk: int, kind: int, task: Any, data: Any, buffers: Any
    ) -> None:
        if kind == protocol.RESULT:
            self.deaths = 0
            try:
                value = pickling.loads(data, buffers=buffers)
            except BaseException as refusal:
                self._settle(task, False, refusal)
            else:
                self._settle(task, True, value)
        elif kind == protocol.ERROR:
            self.deaths = 0
            self._failed(task, data)
        elif kind == protocol.TEXT:
            _print(data)
        elif kind == protocol.BEGUN:
            if task is not None and not task.settled:
                self._begun(task)
        elif kind == protocol.READY:
            worker.ready_at = time.monotonic()
        elif kind == protocol.FAILED:
            try:
                text, error = _unpickle_failure(data)
            except Exception as refusal:
                text, error = repr(refusal), refusal
            broken = PoolBroken(
                "the initializer of a worker failed, so the pool can't work:\n" + text
            )
            broken.__cause__ = error
            self._break(broken)

    def _settle(self, task: _Task, success: bool, value: Any) -> None:
        if task.settled:
            return
        try:
            task.settle(success, value)
        except Exception:
            # Of the pool's own making, or a Future that somebody else has set.
            sys.excepthook(*sys.exc_info())

    def _failed(self, task: _Task, data: Any) -> None:
        try:
            _, error = _unpickle_failure(data)
        except Exception as refusal:
            error = refusal
        if isinstance(error, protocol.Absent) and self._send_itself(task):
            return
        if isinstance(error, protocol.Absent):
            inner = error.args[0] if error.args else error
            inner.__cause__ = error.__cause__
            error = inner
        self._settle(task, False, error)

    def _send_itself(self, task: _Task) -> bool:
        """Post a task again whose function or argument the worker could not find."""
        if task.source is None or task.settled:
            return False
        func, what = task.source
        task.source = None  # so that it is done once
        try:
            buffers: list[Any] = []
            with pickling.by_value(func):
                data = pickling.dumps(func, buffers)
                pieces = self._pieces(buffers, None)
                task.function = (
                    next(self.numbers),
                    self.board.pack(data, pieces),
                    None,
                    pieces,
                )
                task.pieces = ()
                buffers = []
                data = pickling.dumps(what, buffers)
            self._place(task, data, buffers, None)
        except Exception:
            return False
        self.again.append(task)
        self.fill()
        return True

    def _begun(self, task: _Task) -> None:
        task.begin()
        if task.limit is not None:
            task.begun = True
            entry = (time.monotonic() + task.limit, next(self.numbers), task)
            heapq.heappush(self.limits, entry)

    def _check_limits(self) -> None:
        now = time.monotonic()
        while self.limits and self.limits[0][0] <= now:
            _, _, task = heapq.heappop(self.limits)
            self._time_out(task, f"the task ran for more than {task.limit:g} s")
        if self.limited and now >= self.look_at:
            self.look_at = now + LOOK_SECONDS
            for task in self.board.claimed():
                self._check_begin(task, now)

    def _check_begin(self, task: _Task, now: float) -> None:
        """Stop a task that was taken and does not begin: its worker hangs or is stopped."""
        if task.limit is None or task.begun:
            return
        if task.seen is None:
            task.seen = now
        elif now - task.seen > (most := max(task.limit, LOAD_SECONDS)):
            self._time_out(task, f"the task did not begin within {most:g} s")

    def _time_out(self, task: _Task, why: str) -> None:
        if not task.settled and self._stop(task):
            task.settled = False
            self._settle(task, False, TimeoutError(why))

    # -- workers -----------------------------------------------------------------------

    def _new_worker(self, desk: int) -> Worker:
        stack_fd = os.memfd_create("pydistrib-stack", os.MFD_CLOEXEC)
        return Worker(desk, f"{self.name}-{desk + 1}", stack_fd)

    def _wanted(self) -> int:
        if not self.closed:
            return self.workers
        return min(self.workers, self.board.slots - self.board.free)

    def _repopulate(self) -> None:
        if self.broken is not None or time.monotonic() < self.restart_at:
            return
        alive = sum(1 for w in self.crew if w is not None and w.asked)
        for desk, worker in enumerate(self.crew):
            if alive >= self._wanted():
                return
            if worker is None or not worker.asked:
                if not self._ask_for(desk, worker):
                    return
                alive += 1

    def _ask_for(self, desk: int, worker: Worker | None) -> bool:
        try:
            if worker is None:
                worker = self.crew[desk] = self._new_worker(desk)
            box_fd = self.board.open_desk(desk)
        except (OSError, MemoryError) as error:
            self._worker_failed(error)
            return False
        # A nursery that is gone is told by its end of the link.
        with contextlib.suppress(OSError):
            worker.asked = self.nursery.start(desk, box_fd, worker._stack_fd)
        if not worker.asked:
            self.board.close_desk(desk)
        return worker.asked

    def _worker_failed(self, why: BaseException) -> None:
        """A worker could not be made, or ended without a task: wait, or give up."""
        if self.done != self.board.settled:
            self.done = self.board.settled
            self.deaths = 0
        self.deaths += 1
        alive = any(w is not None and w.ready_at is not None for w in self.crew)
        if self.deaths > 16 + 2 * self.workers and not alive:
            broken = PoolBroken(
                f"{self.deaths} workers in a row ended before they did any task; the last: "
                f"{why}"
            )
            broken.__cause__ = why
            self._break(broken)
        elif self.deaths > 3:
            wait = 0.01 * 2 ** min(self.deaths - 4, 7)
            self.restart_at = time.monotonic() + min(wait, 1.0)

    def _read_nursery(self) -> bool:
        reports, there = self.nursery.reports()
        for what, desk, pid, status in reports:
            worker = self.crew[desk]
            if worker is None:
                continue
            if what == nurseries.STARTED:
                worker.made(pid)
            elif what == nurseries.REFUSED:
                worker.asked = False
                self.board.close_desk(desk)
                self._worker_failed(OSError(status, os.strerror(status)))
            elif what == nurseries.ENDED:
                self._bury(worker, status)
        return there

    def _bury(self, worker: Worker, exitcode: int) -> None:
        """A worker has ended: read what it has sent, fail what it has not finished."""
        worker.ended(exitcode)
        while self._collect(worker):
            pass
        self.past_tasks += self.board.desk_info(worker.desk)[0]
        with self.desks_lock:
            lost = self.board.close_desk(worker.desk)
            self.crew[worker.desk] = None
        kills = _kills_for_memory() if exitcode == -signal.SIGKILL else self.kills
        out_of_memory = kills > self.kills and not worker.killed
        self.kills = kills
        for task in lost:
            if not task.settled:
                self._lost(task, worker, exitcode, out_of_memory)
        if not lost and exitcode != 0:
            if worker.ready_at is not None and time.monotonic() - worker.ready_at > STABLE:
                self.deaths = 0
            died = WorkerDied(
                "no task", worker._pid, exitcode, out_of_memory, worker.stack()
            )
            self._worker_failed(died)
        worker.forget()

    def _lost(
        self, task: _Task, worker: Worker, exitcode: int, out_of_memory: bool
    ) -> None:
        if self.terminating or self.broken is not None:
            self._fail(task, self.broken or CancelledError("the pool was terminated"))
            return
        if task.retries > 0:
            task.retries -= 1
            if task.limit is not None:
                task.set_limit(task.limit)
            self.again.append(task)
            return
        died = WorkerDied(
            task.describe(), worker._pid, exitcode, out_of_memory, worker.stack()
        )
        self._settle(task, False, died)

    def _new_nursery(self, poller: select.poll) -> select.poll:
        """The nursery was killed, and its workers with it: have another."""
        poller.unregister(self.nursery.fileno())
        self.nursery.close()
        for worker in self.crew:
            if worker is not None and worker.asked:
                _await_death(worker._pid)
                self._bury(worker, -signal.SIGKILL)
        self._worker_failed(RuntimeError("the process that makes workers was killed"))
        while not self.terminating:
            try:
                self.nursery = nurseries.Nursery(self.method, self.setup)
            except (OSError, MemoryError) as error:
                self._worker_failed(error)
                if self.broken is not None:
                    break
                time.sleep(max(0.0, self.restart_at - time.monotonic()))
            else:
                poller.register(self.nursery.fileno(), select.POLLIN)
                break
        return poller

    # -- the end -----------------------------------------------------------------------

    def _waits(self) -> bool:
        return bool(self.waiting or self.again)

    def _close_if_done(self) -> None:
        if self.closing and not self.closed and not self.feeders and not self._waits():
            self.closed = True
            self.board.close()

    def _all_gone(self) -> bool:
        if not self.closed:
            return False
        if self._waits() or self.board.free < self.board.slots:
            return False
        return all(w is None or not w.asked for w in self.crew)

    def _break(self, why: BaseException) -> None:
        """The pool can't go on: everything fails."""
        if self.broken is None:
            self.broken = why
            self._fail_all(why)

    def _fail_all(self, why: BaseException) -> None:
        for feeder in list(self.feeders):
            feeder.stop(why)
        with self.room:
            self.room.notify_all()
        with self.fill_lock:
            items = [*self.again, *self.waiting]
            self.again.clear()
            self.waiting.clear()
        for item in items:
            if isinstance(item, _Task):
                self._fail(item, why)
            elif isinstance(item, AsyncResult):
                item._fail(why)
            else:
                item.fail(why)
        for task in self.board.clear():
            self._fail(task, why)

    def _fail(self, task: _Task, why: BaseException) -> None:
        if task.settled:
            return
        task.settled = True
        if isinstance(task, _Call):
            task.result._fail(why)
        elif isinstance(task, _Part):
            task.group.fail(why)
        else:
            task.settle(False, why)

    def end(self) -> None:
        """Let go of everything; the last thing that the pool's thread does."""
        why: BaseException = self.broken or CancelledError("the pool was terminated")
        self._fail_all(why)
        self._kill_workers()
        self.nursery.close()
        for worker in self.crew:
            if worker is not None and worker.asked:
                _await_death(worker._pid)
                worker.ended(-signal.SIGKILL)
                while self._collect(worker):
                    pass
                for task in self.board.close_desk(worker.desk):
                    self._fail(task, why)
        for worker in self.crew:
            if worker is not None:
                worker.ended(worker.exitcode if worker.exitcode is not None else -9)
                worker.forget()
        self._fail_all(why)
        self.functions.clear()
        ring, self.ring = self.ring, -1
        os.close(ring)

    def _kill_workers(self) -> None:
        alive = [w for w in self.crew if w is not None and w.asked]
        for worker in alive:
            worker.killed = True
            self.nursery.kill(worker.desk, signal.SIGTERM)
        end = time.monotonic() + TERM_SECONDS
        while any(w in self.crew for w in alive) and time.monotonic() < end:
            left = max(0.0, end - time.monotonic())
            if select.select([self.nursery], [], [], left)[0] and not self._read_nursery():
                return


def _forget(
    shared: dict[tuple[int, int], weakref.ref[Piece]],
    key: tuple[int, int],
    gone: weakref.ref[Piece],
) -> None:
    if shared.get(key) is gone:
        del shared[key]


def _serve(engine: ProcessEngine) -> None:
    try:
        engine.serve()
    except BaseException as error:
        broken = PoolBroken(f"the pool's own thread failed: {error!r}")
        broken.__cause__ = error
        engine.broken = broken
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        engine.terminating = True
        try:
            engine.end()
        finally:
            engine.ended.set()


def _await_death(pid: int) -> None:
    """Wait until a process that is being killed has ended."""
    if not pid:
        return
    try:
        fd = os.pidfd_open(pid)
    except (AttributeError, OSError):
        return
    try:
        select.select([fd], [], [], 5)
    finally:
        os.close(fd)


def _cpu_seconds(pid: int) -> float | None:
    if not pid:
        return None  # it may have worked before this process hears of its start
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def _print(data: bytes) -> None:
    """Print what a worker has printed."""
    stream = sys.stdout if data[0] == 1 else sys.stderr
    if stream is None:
        return
    with contextlib.suppress(Exception):
        stream.write(data[1:].decode("utf-8", "replace"))
        stream.flush()


def _unpickle_failure(data: Any) -> tuple[str, BaseException]:
    """Give the text of the worker's traceback and the exception, whose cause it is."""
    from multiprocessing.pool import (  # type: ignore[attr-defined]
        MaybeEncodingError,
        RemoteTraceback,
    )

    text, pickled = pickling.loads(data)
    try:
        error = pickling.loads(pickled)
        if not isinstance(error, BaseException):
            raise TypeError(f"not an exception: {error!r:.200}")
    except BaseException as refusal:
        error = MaybeEncodingError(refusal, text)
    error.__cause__ = RemoteTraceback(f'\n"""\n{text}"""')
    return text, error


# --------------------------------------------------------------------------------------
# Start methods
# --------------------------------------------------------------------------------------


def _has_openmp() -> bool:
    """Tell whether an OpenMP library is loaded, whose threads a fork loses for good."""
    try:
        with open("/proc/self/maps") as maps:
            return any(
                name in line for line in maps for name in ("libgomp", "libiomp", "libomp")
            )
    except OSError:
        return True


def default_method() -> str:
    """
    Choose how the workers of a pool are started.

    What `multiprocessing.set_start_method` said; else fork, where the standard library
    forks as well and it is safe: while this process has one thread, and no OpenMP; else
    forkserver.

    Returns
    -------
    str
        ``"fork"``, ``"forkserver"`` or ``"spawn"``.
    """
    said = multiprocessing.get_start_method(allow_none=True)
    if said is not None:
        return said
    if sys.version_info >= (3, 14) or sys.platform != "linux":
        return "forkserver"
    if threading.active_count() > 1 or _has_openmp():
        return "forkserver"
    return "fork"


def _method_of(context: Any) -> str:
    if context is None:
        return default_method()
    method = context if isinstance(context, str) else _ask_method(context)
    if method is None:
        return default_method()
    if method not in nurseries.METHODS:
        raise ValueError(
            f"context must be one of {', '.join(nurseries.METHODS)}, not {method!r}"
        )
    return method


def _ask_method(context: Any) -> str | None:
    ask = getattr(context, "get_start_method", None)
    if ask is None:
        raise TypeError(
            "context must be a context of multiprocessing, a start method's name or "
            f"None, not {type(context).__name__}"
        )
    try:
        method: str | None = ask(allow_none=True)
    except TypeError:
        method = ask()
    return method


def _start_engine(
    workers: int,
    context: Any,
    initializer: Callable[..., object] | None,
    initargs: Iterable[Any],
    max_tasks: int | None,
    prefix: str,
) -> ProcessEngine:
    method = _method_of(context)
    names = {"fork": "Fork", "forkserver": "ForkServer", "spawn": "Spawn"}
    try:
        return ProcessEngine(
            workers, method, initializer, initargs, max_tasks, names[method] + prefix
        )
    except RuntimeError:
        # A lock or a queue among the arguments that only a forked child can have.
        if context is not None or method == "fork" or initializer is None:
            raise
        if multiprocessing.get_start_method(allow_none=True) not in (None, "fork"):
            raise
        return ProcessEngine(
            workers, "fork", initializer, initargs, max_tasks, names["fork"] + prefix
        )


# --------------------------------------------------------------------------------------
# Pool
# --------------------------------------------------------------------------------------


def _process_count(value: SupportsIndex | None, name: str, too_few: str) -> int:
    if value is None:
        return _config.num_threads()
    try:
        count = value.__index__()
    except AttributeError:
        raise TypeError(
            f"{name} must be a whole number or None, not {type(value).__name__}"
        ) from None
    if count < 1:
        raise ValueError(too_few)
    if count > MAX_WORKERS:
        raise ValueError(f"{name} must be at most {MAX_WORKERS}, not {count}")
    return count


class _ProcessPoolView(PoolExecutor):
    """`Pool.executor`: the same processes; shutting it down closes the pool."""


class Pool(PoolBase):
    """
    `multiprocessing.Pool`, faster, and it survives its workers.

    Parameters
    ----------
    processes : int, optional
        How many, at least 1; by default `pydistrib.num_threads`.
    initializer : callable, optional
        Each worker first calls ``initializer(*initargs)``.  If that raises, the pool is
        broken: all tasks fail with `PoolBroken`, whose cause it is.
    initargs : iterable, optional
        Its arguments.
    maxtasksperchild : int, optional
        After so many tasks (a chunk of a map is one) a worker is replaced by a new one.
    context : context or str, optional
        How workers are started: what `multiprocessing.get_context` or
        `pydistrib.get_context` returns, or ``"fork"``, ``"forkserver"``, ``"spawn"``.  By
        default what `multiprocessing.set_start_method` said; else fork while this process
        has a single thread and no OpenMP library, before Python 3.14; else forkserver.

    Raises
    ------
    ValueError
        If a number is out of range or the start method does not exist.
    TypeError
        If an argument is of the wrong type.
    OSError
        If the system has no more processes, memory or descriptors.

    See Also
    --------
    ThreadPool : For functions that wait, or release Python's lock.
    ProcessPoolExecutor : With `concurrent.futures`' interface alone.

    Notes
    -----
    Where it differs from the standard library's:

    - A worker that is killed, crashes or exits fails the one task that it ran, with
      `WorkerDied`, or with ``retries=`` the task is run again; the worker is replaced.
    - ``timeout=`` and the `cancel` of a result stop a task that runs, by killing its
      worker.  The time counts from when the task begins; to load its function and its
      arguments a worker has half a minute, or that time if it is longer.
    - Functions of ``__main__``, lambdas and closures can be sent, also where workers are
      not forked: cloudpickle takes over where pickle can't.  Functions of ``__main__``
      share one namespace in a worker, which does not import the main module; so a script
      needs no ``if __name__ == "__main__"``.
      A forked worker has those that there were
      when the pool was made, with their globals as they were; newer ones are sent.
    - Arrays of 16 KB and more go through shared memory.  A task's arguments are its own to
      change; the same large array in several tasks is there once.  A result is the
      parent's own.
    - What workers print appears where the parent's ``print`` writes, line by line, before
      the task's result.
    - Workers may make processes and pools themselves.
    - What `terminate` cancels raises `concurrent.futures.CancelledError` rather than keep
      its waiters for ever.

    Callbacks run in the pool's own thread: they should be quick and not wait for results
    of this pool.  A fork of this process can't use the pool.  At exit of the interpreter
    open pools are terminated.

    Examples
    --------
    >>> from pydistrib import Pool
    >>> with Pool(2) as pool:
    ...     pool.map(abs, [-1, 2, -3])
    [1, 2, 3]
    """

    _executor_type = _ProcessPoolView

    def __init__(
        self,
        processes: SupportsIndex | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
    ) -> None:
        workers = _process_count(
            processes, "processes", "Number of processes must be at least 1"
        )
        if maxtasksperchild is not None and (
            not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0
        ):
            raise ValueError("maxtasksperchild must be a positive int or None")
        self._processes = workers
        super().__init__(
            _start_engine(
                workers, context, initializer, initargs, maxtasksperchild, "PoolWorker"
            )
        )

    @property
    def _pool(self) -> list[Worker]:
        """The workers, as multiprocessing's tests look at them."""
        assert isinstance(self._engine, ProcessEngine)
        return [worker for worker in self._engine.crew if worker is not None]

    def _repopulate_pool(self) -> None:
        """Do nothing: the pool's thread replaces workers."""
        assert isinstance(self._engine, ProcessEngine)
        self._engine.ring_up()


class ProcessPoolExecutor(concurrent.futures.Executor):
    """
    `concurrent.futures.ProcessPoolExecutor` on the workers of `Pool`.

    A worker that dies breaks its task's future, with `WorkerDied`, which is a
    `BrokenProcessPool`, and no other.

    Parameters
    ----------
    max_workers : int, optional
        Processes, at least 1; by default `pydistrib.num_threads`.
    mp_context : context or str, optional
        How they are started, as the `context` of `Pool`.
    initializer : callable, optional
        Each worker first calls ``initializer(*initargs)``.
    initargs : tuple, optional
        Its arguments.
    max_tasks_per_child : int, optional
        After so many tasks a worker is replaced.

    Raises
    ------
    ValueError
        If a number is out of range.
    TypeError
        If an argument is of the wrong type.

    See Also
    --------
    Pool : With `map` and the other methods of multiprocessing's pools.

    Examples
    --------
    >>> from pydistrib import ProcessPoolExecutor
    >>> with ProcessPoolExecutor(2) as executor:
    ...     executor.submit(pow, 2, 10).result()
    1024
    """

    def __init__(
        self,
        max_workers: SupportsIndex | None = None,
        mp_context: Any = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        *,
        max_tasks_per_child: int | None = None,
    ) -> None:
        workers = _process_count(
            max_workers, "max_workers", "max_workers must be greater than 0"
        )
        if max_tasks_per_child is not None:
            if not isinstance(max_tasks_per_child, int):
                raise TypeError("max_tasks_per_child must be an integer")
            if max_tasks_per_child <= 0:
                raise ValueError("max_tasks_per_child must be >= 1")
        self._max_workers = workers
        self._shutdown = False
        self._engine = _start_engine(
            workers, mp_context, initializer, initargs, max_tasks_per_child, "Process"
        )
        _executors.add(self)

    @property
    def _processes(self) -> dict[int, Worker]:
        return {w.pid: w for w in self._engine.crew if w is not None and w.pid is not None}

    def submit(
        self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[R]:
        """Start ``fn(*args, **kwargs)`` and return its Future."""
        if self._shutdown:
            raise RuntimeError("cannot schedule new futures after shutdown")
        return submit_to(self._engine, fn, args, kwargs)

    def map(
        self,
        fn: Callable[..., R],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[R]:
        """
        Call `fn` on the items of the iterables; results in order.

        Parameters
        ----------
        fn : callable
            Called with one item of each iterable.
        *iterables : iterable
            Read to the end of the shortest at once.
        timeout : float, optional
            Seconds that all of it may take; after that `next` raises TimeoutError.
        chunksize : int, optional
            How many calls make a task.

        Returns
        -------
        iterator
            Of the results.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if chunksize == 1:
            return super().map(fn, *iterables, timeout=timeout)
        items = list(zip(*iterables, strict=False))
        chunks = [items[i : i + chunksize] for i in range(0, len(items), chunksize)]
        results = super().map(_StarChunk(fn), chunks, timeout=timeout)
        return itertools.chain.from_iterable(results)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, as `concurrent.futures.Executor.shutdown`."""
        self._shutdown = True
        if cancel_futures:
            self._engine.cancel_waiting()
        self._engine.close()
        if wait:
            self._engine.join()

    def __del__(self) -> None:
        if not getattr(self, "_shutdown", True):
            self._engine.close()


class _StarChunk:
    """A function that is called on each item of a chunk; it can be pickled if `fn` can."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn

    def __call__(self, chunk: list[tuple[Any, ...]]) -> list[Any]:
        return [self.fn(*args) for args in chunk]


# --------------------------------------------------------------------------------------
# Fork and exit
# --------------------------------------------------------------------------------------

_engines: weakref.WeakSet[ProcessEngine] = weakref.WeakSet()
_executors: weakref.WeakSet[ProcessPoolExecutor] = weakref.WeakSet()


def _lose(result: AsyncResult[Any], why: BaseException) -> None:
    """Fail a call of the parent's in its fork: the parent calls back, and this does not."""
    future = result._future
    if future is not None:
        # Another thread may have had the lock, and is not here.
        future._condition = threading.Condition()
        future._done_callbacks.clear()
        future._waiters.clear()
    result._fail(why)


def _lose_task(engine: ProcessEngine, task: _Task, why: BaseException) -> None:
    if isinstance(task, _Call):
        task.settled = True
        _lose(task.result, why)
    else:
        engine._fail(task, why)


def _after_fork_in_child() -> None:
    lost = RuntimeError("the task was the parent process's; this process was forked")
    for engine in list(_engines):
        engine.over = True
        engine.fill_lock = threading.Lock()
        engine.room = threading.Condition()
        engine.desks_lock = threading.Lock()
        items = [*engine.again, *engine.waiting]
        engine.again.clear()
        engine.waiting.clear()
        for item in items:
            if isinstance(item, AsyncResult):
                _lose(item, lost)
            elif isinstance(item, _Task):
                _lose_task(engine, item, lost)
            else:
                item.fail(lost)
        for task in engine.board.abandon():
            _lose_task(engine, task, lost)
        for feeder in engine.feeders:
            feeder.abandon(lost)
    _engines.clear()
    _executors.clear()


def _finish_executors() -> None:
    """Wait for what was submitted to executors, before other threads are joined."""
    executors = list(_executors)
    for executor in executors:
        executor._shutdown = True
        executor._engine.close()
    for executor in executors:
        executor._engine.join()


def _drop_pools() -> None:
    engines = list(_engines)
    for engine in engines:
        engine.terminate()
    for engine in engines:
        engine.ended.wait(5)
    nurseries._end_zygote()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_drop_pools)
getattr(threading, "_register_atexit", atexit.register)(_finish_executors)
