"""
A Dask cluster as a pool: `DaskPool`.

The engine keeps a queue of calls of its own and has few Dask tasks, *parcels*, on their way
at a time: enough to keep every worker busy.  So calls that wait can be cancelled for
nothing, the cluster's scheduler never has more than a handful of objects of ours, and short
calls, once it is known that they are short, travel many in a parcel::

    start() --> queue --> parcels (Dask tasks) --> workers
                  ^           |
                  |           +--> outcomes --> settled
                  +-- calls of parcels that were lost, or returned unbegun

One thread of the client does all of that; Dask's event loop only hands it what arrived.

An array of 16 KB or more that is an argument of several calls is sent once, as a Dask
future that the parcels depend on; workers get it from one another.  It is known by its
identity, and before it is used again its content is compared, by a digest, with what was
sent: an array that was changed between two calls is sent anew.

Dask is imported by those who make a `DaskPool`.
"""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import itertools
import logging
import os
import pickle
import sys
import sysconfig
import threading
import time
import uuid
import warnings
import weakref
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pydistrib._core import AsyncResult, MapResult, ResultIterator
from pydistrib.pools import dask_worker as wire
from pydistrib.pools.engine import Engine, Feeder, PoolStats, WorkerStats, run_chunk
from pydistrib.pools.protocol import PoolBase

INSTALL: Final = "pip install 'pydistrib[dask]'"

_LOGGER = logging.getLogger("pydistrib")

# An array of this size is sent apart the first time it is seen.
_ALONE: Final = 1 << 20

# A payload of this size does not travel inside of Dask's graph.
_HEAVY: Final = 4 << 20

# Short calls are put together until they take this long, in seconds.
_PARCEL_SECONDS: Final = 0.05

# How often a call is sent again after what it needs was lost with a worker.
_MOST_ATTEMPTS: Final = 5

# How often the connection is looked at while calls are out, in seconds.
_LOOK: Final = 0.25

# How often the workers are counted while there is something to send, in seconds.
_LOOK_AT_WORKERS: Final = 2.0

# Items of a stream that may be out where its user does not say.
_STREAM_LIMIT: Final = 4096


class ClusterError(RuntimeError):
    """The cluster is gone or not fit for what was asked of it; the text says what to do."""


class WorkerLostWarning(RuntimeWarning):
    """A worker of the cluster was lost; its tasks are run again by others."""


def _import_distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise ImportError(f"DaskPool needs dask.distributed: {INSTALL}") from error
    return distributed


# --------------------------------------------------------------------------------------
# Tasks and parcels
# --------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Task:
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
    alone: bool = False
    by_value: frozenset[str] = frozenset()  # modules that travelled whole with it
    settled: bool = False

    def end(self, success: bool, value: Any) -> None:
        if not self.settled:
            self.settled = True
            self.data = None  # nobody needs it any more, and it may be large
            self.settle(success, value)


@dataclass(eq=False)
class _Parcel:
    """Tasks that travel together, and the Dask future of their report."""

    tasks: list[_Task]
    future: Any = None
    shared: list[Any] = field(default_factory=list)
    worker: str = ""  # where it should go, if that matters
    lent: int | None = None


class _Single:
    """An `AsyncResult` in the queue: a source of one task."""

    def __init__(self, call: AsyncResult[Any], ahead: bool) -> None:
        self.owner = call
        self.ahead = ahead  # nobody will want it back once it is with a worker
        self.submitted = time.monotonic()

    def next(self) -> _Task | None:
        begun = self.owner._begin()
        if begun is None:
            return None
        func, args, kwargs = begun
        kind, data, calls = wire.CALL, (args, kwargs), 1
        if func is run_chunk:  # a unit of a stream
            func, items, star = args
            kind, data, calls = wire.STARMAP if star else wire.MAP, items, len(items)
        return _Task(
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


class _Loop:
    """A `MapResult` in the queue: a source of one task for each chunk."""

    ahead = True

    def __init__(self, result: MapResult[Any], timeout: float | None) -> None:
        self.owner = result
        self.timeout = timeout
        self.chunk = 1 if timeout is not None else result._chunk
        self.at = 0
        self.begun: Any = None
        self.submitted = time.monotonic()

    def next(self) -> _Task | None:
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
        return _Task(
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


_Source = _Single | _Loop


# --------------------------------------------------------------------------------------
# Arrays that many tasks get
# --------------------------------------------------------------------------------------


class Scattered:
    """
    What `DaskPool.scatter` returns: data that lies on the workers.

    Given as an argument, or anywhere inside of one, a task gets the data in its place.

    Attributes
    ----------
    value : object
        The data; kept, so that it can be sent again when its worker is lost.
    """

    def __init__(self, value: Any) -> None:
        self.value = value
        self._future: Any = None

    def result(self, timeout: float | None = None) -> Any:
        """Return the data."""
        return self.value

    def __reduce__(self) -> Any:
        raise TypeError("scattered data can only be sent to the pool that scattered it")


@dataclass(eq=False)
class _Entry:
    """An array that was seen; `future` is None until it is sent apart."""

    ref: weakref.ref[NDArray[Any]]
    digest: bytes = b""
    future: Any = None
    checked: float = 0.0


def _digest(array: NDArray[Any]) -> bytes:
    plain = array if array.flags.c_contiguous else array.ravel(order="K")
    if not plain.flags.c_contiguous:
        plain = np.ascontiguousarray(plain)
    return hashlib.sha256(plain.reshape(-1).view(np.uint8).data).digest()


def _is_lost(future: Any) -> bool:
    return bool(future.status in ("cancelled", "lost", "error"))


class _Arrays:
    """The arrays that were sent apart; used by the engine's thread alone."""

    def __init__(self, send: Callable[[Any], Any]) -> None:
        self.send = send
        self.entries: dict[int, _Entry] = {}

    def future_of(self, array: NDArray[Any], needed: float, alone: int) -> Any:
        """
        Give the future of an array, or None if it is to travel with its call.

        `needed` is when the call was made: it may see the array as it was at any time
        after that.  `alone` is the size from which an array that was never seen before
        is sent apart.
        """
        entry = self.entries.get(id(array))
        if entry is None or entry.ref() is not array:
            entry = self._remember(array)
            if array.nbytes < alone:
                return None
        if entry.future is not None and not _is_lost(entry.future):
            if needed <= entry.checked:
                return entry.future
            now = time.monotonic()
            if _digest(array) == entry.digest:
                entry.checked = now
                return entry.future
        now = time.monotonic()
        entry.digest = _digest(array)
        view = np.asarray(array).view()
        view.flags.writeable = False  # the tasks of a worker share it
        entry.future = self.send(view)
        entry.checked = now
        return entry.future

    def _remember(self, array: NDArray[Any]) -> _Entry:
        key = id(array)

        def forget(ref: weakref.ref[NDArray[Any]]) -> None:
            entry = self.entries.get(key)
            if entry is not None and entry.ref is ref:
                del self.entries[key]

        entry = _Entry(weakref.ref(array, forget))
        self.entries[key] = entry
        return entry


# --------------------------------------------------------------------------------------
# The engine
# --------------------------------------------------------------------------------------


@dataclass
class _Tally:
    """What a worker has done."""

    tasks: int = 0
    parcels: int = 0
    waited: float = 0.0
    run_time: float = 0.0
    cpu_time: float = 0.0


class _Here(Engine):
    """Runs a call at once: for calls that a task of the pool itself makes."""

    workers = 1

    def start(self, call: AsyncResult[Any]) -> None:
        begun = call._begin()
        if begun is None:
            return
        func, args, kwargs = begun
        try:
            value = func(*args, **(kwargs or {}))
        except BaseException as error:
            call._settle(False, error)
        else:
            call._settle(True, value)

    def close(self) -> None:
        raise NotImplementedError

    terminate = join = close

    def stats(self) -> PoolStats:
        raise NotImplementedError


class _Streams(_Here):
    """What the feeder of a stream sees of an engine."""

    def __init__(self, engine: DaskEngine) -> None:
        self.engine = engine
        self.stream_limit = engine.stream_limit

    def start(self, call: AsyncResult[Any]) -> None:
        self.engine.start_unit(call)

    def abandon(self, result: AsyncResult[Any]) -> None:
        self.engine.abandon(result)


class DaskEngine(Engine):
    """
    Runs calls on the workers of a Dask cluster.

    Parameters
    ----------
    client : distributed.Client
        Who submits the tasks.
    on_end : callable
        Called when the pool has ended: closes what belongs to it.
    owns_workers : bool
        Whether that closes the workers.
    """

    stream_limit = _STREAM_LIMIT

    def __init__(
        self, client: Any, on_end: Callable[[], object], owns_workers: bool
    ) -> None:
        self.client = client
        self.owns_workers = owns_workers
        self.name = f"pydistrib-{uuid.uuid4().hex[:8]}"
        self.scheduler = str(client.scheduler.address)
        # Workers of this process get what there is, uncopied.
        self.inproc = self.shares_memory = self.scheduler.startswith("inproc:")
        self.on_end = on_end
        self.pid = os.getpid()
        self.arrays = _Arrays(self.scatter)
        self.durations: dict[str, float] = {}
        self.call_seconds = 1.0  # of late
        self.seen: Mapping[str, int] | None = None  # workers, news
        self.listening: dict[str, Any] = {}
        self.shares = False  # whether the last parcel came with arrays
        self.tallies: dict[str, _Tally] = {}
        self.by_value: frozenset[str] = frozenset(() if self.inproc else ("__main__",))
        # Guarded by `changed`, as the queue and what follows.
        self.changed = threading.Condition()
        self.queue: deque[_Source] = deque()
        self.again: deque[_Task] = deque()
        self.arrived: deque[tuple[_Parcel, bool, Any]] = deque()
        self.lost: deque[str] = deque()
        self.abandoned: deque[Any] = deque()
        self.flying: set[_Parcel] = set()
        self.feeders: list[tuple[Feeder, threading.Thread]] = []
        self.closing = self.terminated = self.ended = False
        self.thread: threading.Thread | None = None
        info = client.scheduler_info()["workers"].values()
        limits = [int(worker["memory_limit"]) for worker in info]
        self.memory_limit = min((limit for limit in limits if limit), default=None)
        self._set_workers(client.nthreads())

    # -- the protocol ------------------------------------------------------------------

    def start(self, call: AsyncResult[Any]) -> None:
        """Queue a call."""
        if self.closing:
            raise ValueError("Pool not running")
        self._enqueue(_Single(call, False), lambda: _Here().start(call))

    def start_unit(self, call: AsyncResult[Any]) -> None:
        """Queue a stream's call: the stream may go on when the pool has been closed."""
        self._enqueue(_Single(call, True), lambda: _Here().start(call))

    def start_map(self, result: MapResult[Any], timeout: float | None = None) -> None:
        """Queue a map: one task a chunk."""
        self._enqueue(_Loop(result, timeout), lambda: _Here().start_map(result, timeout))

    def _enqueue(self, source: _Source, run_here: Callable[[], object]) -> None:
        if os.getpid() != self.pid:
            raise RuntimeError(
                "the pool is the parent process's; this process was forked: make a pool "
                "in it"
            )
        if wire.in_a_task(self.name):
            run_here()  # else all workers might wait for one another
            return
        with self.changed:
            if not self.ended and not self.terminated:
                self.queue.append(source)
                self._wake()
                return
        if self.terminated:
            source.cancel(_cancelled("the pool was terminated"))
        else:
            run_here()  # a stream that goes on after join()

    def _wake(self) -> None:
        if self.thread is None:
            self.thread = threading.Thread(
                target=self._run, name="pydistrib-dask", daemon=True
            )
            self.thread.start()
        self.changed.notify_all()

    def start_stream(
        self, stream: ResultIterator[Any], timeout: float | None = None
    ) -> None:
        """Feed a stream by a thread of its own."""
        if wire.in_a_task(self.name):
            _Here().start_stream(stream, timeout)
            return
        feeder = Feeder(_Streams(self), stream, timeout)
        thread = threading.Thread(target=feeder.run, name="pydistrib-imap", daemon=True)
        with self.changed:
            self.feeders = [pair for pair in self.feeders if pair[1].is_alive()]
            self.feeders.append((feeder, thread))
            thread.start()

    def abandon(self, result: AsyncResult[Any]) -> None:
        """Take a call or map off the queue, or off the workers."""
        with self.changed:
            if self.thread is not None and not self.ended:
                self.abandoned.append(result)
                self.changed.notify_all()

    def close(self) -> None:
        """Take no more tasks."""
        with self.changed:
            self.closing = True
            self._wake()

    def terminate(self) -> None:
        """Cancel everything, also what runs, and close a cluster of one's own."""
        with self.changed:
            self.closing = self.terminated = True
            self._wake()
        if self.thread is not threading.current_thread():
            self.join()

    def join(self) -> None:
        """Wait for the end."""
        thread = self.thread
        if thread is not None:
            thread.join()

    def stats(self) -> PoolStats:
        """Tell what the workers have reported."""
        with self.changed:
            queued = len(self.queue) + len(self.again)
            tallies = list(self.tallies.items())
        workers = tuple(
            WorkerStats(
                name=name,
                tasks=tally.tasks,
                queue_wait=tally.waited / max(tally.parcels, 1),
                run_time=tally.run_time,
                gil_wait=0.0,
                cpu_time=tally.cpu_time,
                gil_share=min(1.0, tally.cpu_time / tally.run_time)
                if tally.run_time
                else None,
            )
            for name, tally in tallies
        )
        return PoolStats(sum(worker.tasks for worker in workers), queued, workers)

    # -- the cluster -------------------------------------------------------------------

    def _set_workers(self, threads: Mapping[str, int]) -> None:
        """Learn which workers there are, and how many threads they have."""
        self.looked = time.monotonic()
        self.addresses = list(threads)
        self.workers = max(1, sum(threads.values()))
        for address in threads:
            if address not in self.listening:
                self.listening[address] = _listen(self.client, self, address)

    async def _look_at_workers(self) -> None:
        """Ask the scheduler for its workers, in Dask's event loop."""
        try:
            threads = await self.client.scheduler.ncores()
        except Exception as error:  # trouble() tells what it is
            _LOGGER.debug("no answer of the scheduler: %s", error)
        else:
            with self.changed:
                self.seen = threads
                self.changed.notify_all()

    def scatter(self, value: Any, broadcast: bool = False) -> Any:
        """Send a value to a worker, or to all; give its Dask future."""
        [future] = self.client.scatter([value], hash=False, broadcast=broadcast)
        return future

    def trouble(self) -> ClusterError | None:
        """Tell why the cluster cannot be used, if so."""
        client = self.client
        if client.status == "running":
            comm = client.scheduler_comm
            report = client._handle_report_task
            if comm is not None and not comm.comm.closed() and not report.done():
                return None
        if client.status in ("closed", "closing"):
            cluster = client.cluster
            if cluster is None or cluster.status.name not in ("closed", "closing"):
                return ClusterError(
                    "the Dask client was closed: make a DaskPool of a new one"
                )
        return ClusterError(
            f"the Dask scheduler at {self.scheduler} is gone: start it again and make a "
            "DaskPool of a new client"
        )

    def worker_event(self, address: str, event: Any) -> None:
        """Hear of a worker; called by Dask's event loop."""
        _, message = event
        action = message.get("action") if isinstance(message, Mapping) else None
        if action == "remove-worker" and not message.get("expected", False):
            with self.changed:
                if self.flying and not self.terminated:
                    self.lost.append(address)
                    self.changed.notify_all()

    # -- the engine's thread -----------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as error:  # a bug here must not leave anybody waiting
            self._fail_all(error)
            raise
        finally:
            with self.changed:
                self.ended = True
            if self.flying:
                self._fail_all(_cancelled("the pool was terminated"))
                if self.owns_workers:
                    time.sleep(2 * wire.LOOK)  # they shall see it before they close
            self._fail_all(_cancelled("the pool was terminated"))
            for address, listening in self.listening.items():
                _unlisten(self.client, address, listening)
            self.arrays.entries.clear()
            self.on_end()

    def _turn(self) -> bool:
        """Do what there is to do, then wait for more; False at the end."""
        self._warn_of_lost_workers()
        while self.arrived:
            self._receive(*self.arrived.popleft())
        while self.abandoned:
            self._abandon(self.abandoned.popleft())
        if self.terminated:
            return False
        if (self.flying or self.queue or self.again) and not self.arrived:
            trouble = self.trouble()
            if trouble is not None:
                self._fail_all(trouble)
        sent = self._send()
        with self.changed:
            if sent or self.arrived or self.abandoned or self.lost or self.terminated:
                return True
            if self.closing and not self._is_busy():
                return False
            self.changed.wait(_LOOK if self.flying or self.closing else None)
        return True

    def _is_busy(self) -> bool:
        feeds = any(t.is_alive() and not f.waits for f, t in self.feeders)
        return bool(self.queue or self.again or self.flying) or feeds

    def _warn_of_lost_workers(self) -> None:
        while self.lost:
            text = (
                f"the Dask worker {self.lost.popleft()} was lost; what it was doing is "
                "done again"
            )
            try:
                warnings.warn(text, WorkerLostWarning, stacklevel=2)
            except WorkerLostWarning:  # warnings are errors: nobody is here to take it
                _LOGGER.warning("%s", text)

    def _fail_all(self, error: BaseException) -> None:
        with self.changed:
            sources, tasks, parcels = self.queue, self.again, self.flying
            self.queue, self.again, self.flying = deque(), deque(), set()
        for parcel in parcels:
            self._cancel(parcel)
            for task in parcel.tasks:
                task.end(False, error)
        for task in tasks:
            task.end(False, error)
        for source in sources:
            source.cancel(error)

    def _cancel(self, parcel: _Parcel) -> None:
        if self.client.status == "running":
            # Dask says so itself if it can't: the connection is gone.
            try:
                parcel.future.cancel()
            except Exception as error:
                _LOGGER.debug("could not cancel %r: %s", parcel.future, error)

    def _abandon(self, owner: Any) -> None:
        error = _cancelled("nobody waited for the task any more")
        with self.changed:
            gone = [source for source in self.queue if source.owner is owner]
            self.queue = deque(s for s in self.queue if s.owner is not owner)
            tasks = [task for task in self.again if task.owner is owner]
            self.again = deque(t for t in self.again if t.owner is not owner)
            parcels = list(self.flying)
        for source in gone:
            source.cancel(error)
        for task in tasks:
            task.end(False, error)
        for parcel in parcels:
            for task in parcel.tasks:
                if task.owner is owner:
                    task.end(False, error)
            if all(task.settled for task in parcel.tasks):
                with self.changed:
                    self.flying.discard(parcel)
                self._cancel(parcel)

    # -- sending -----------------------------------------------------------------------

    def _send(self) -> bool:
        """Fill the workers; True if there may be more to send."""
        if self.seen is not None:
            self._set_workers(self.seen)
            self.seen = None
        elif (
            time.monotonic() - self.looked > _LOOK_AT_WORKERS
            and (self.flying or self.queue)
            and self.trouble() is None
        ):
            self.looked = time.monotonic()
            self._in_loop(self._look_at_workers())
        while len(self.flying) < self.workers * (2 if self._may_send_ahead() else 1):
            tasks = self._next_tasks()
            if not tasks:
                return False
            self._ship(tasks)
            if self.arrived:
                return True
        return False

    def _may_send_ahead(self) -> bool:
        """Tell whether what comes next may wait at a worker, beyond recall."""
        with self.changed:
            if self.again or self.call_seconds < _PARCEL_SECONDS / 10:
                return True
            if self.shares:
                # Dask takes an array off a worker that has nothing to do with it.
                return True
            return bool(self.queue) and self.queue[0].ahead

    def _seconds(self, task: _Task) -> float | None:
        """Guess how long a task will take; None if nothing is known."""
        seconds = self.durations.get(_name_of(task.func))
        return None if seconds is None else seconds * task.calls

    def _next_tasks(self) -> list[_Task]:
        """Take the tasks of the next parcel off the queue."""
        tasks: list[_Task] = []
        left = _PARCEL_SECONDS
        with self.changed:
            waiting = len(self.again) + len(self.queue)
            if self.queue and isinstance(self.queue[0], _Loop):
                loop = self.queue[0]
                waiting += (loop.owner.total - loop.at) // loop.chunk
            # No more than each worker's share, so that all of them have something to do.
            most = max(1, -(-waiting // (2 * self.workers)))
            while len(tasks) < most:
                task = self._next_task()
                if task is None:
                    break
                tasks.append(task)
                seconds = self._seconds(task)
                if seconds is None or task.alone or task.timeout is not None:
                    break
                left -= seconds
                if left <= 0 or (self.again and self.again[0].alone):
                    break
        return tasks

    def _next_task(self) -> _Task | None:
        if self.again:
            return self.again.popleft()
        while self.queue:
            source = self.queue[0]
            task = source.next()
            if source.over():
                self.queue.popleft()
            if task is not None:
                return task
        return None

    def _in_loop(self, work: Coroutine[Any, Any, None]) -> None:
        import asyncio

        asyncio.run_coroutine_threadsafe(work, self.client.loop.asyncio_loop)

    def _ship(self, tasks: list[_Task]) -> None:
        parcel = _Parcel([])
        try:
            payload: Any = self._lend(parcel, tasks)
            if payload is None:
                payload = self._pack(parcel, tasks)
            if not parcel.tasks:
                return
            trouble = self.trouble()
            if trouble is not None:
                raise trouble
            self.shares = bool(parcel.shared)
            if parcel.lent is None and len(payload) > _HEAVY:
                payload = self.scatter(np.frombuffer(payload, np.uint8))
            key = f"{_name_of(tasks[0].func)}-{uuid.uuid4().hex}"
            where = self._where(parcel)
            parcel.future = self.client.submit(
                wire.run_parcel,
                self.name,
                payload,
                *parcel.shared,
                key=key,
                pure=False,
                workers=where,
                allow_other_workers=where is not None,
            )
            with self.changed:
                self.flying.add(parcel)
            self._in_loop(self._collect(parcel))
        except Exception as error:
            with self.changed:
                self.flying.discard(parcel)
            error = self.trouble() or error
            for task in parcel.tasks:
                task.end(False, error)

    def _where(self, parcel: _Parcel) -> list[str] | None:
        """
        Choose the worker of a parcel that comes with arrays.

        Dask would send most of them to the worker that has the arrays, and then take
        the arrays off the others.
        """
        if not parcel.shared or len(self.addresses) < 2:
            return None
        counts = Counter(other.worker for other in self.flying)
        parcel.worker = min(self.addresses, key=lambda address: counts[address])
        return [parcel.worker]

    def _lend(self, parcel: _Parcel, tasks: list[_Task]) -> int | None:
        """Give tasks as they are to workers of this process, if that is what they are."""
        if not self.inproc:
            return None
        try:
            calls = [
                wire.Lent(t.kind, _with_data(t.func), _with_data(t.data), t.timeout)
                for t in tasks
            ]
        except _DaskFuture:
            return None  # it is Dask that puts data in its place
        parcel.tasks = tasks
        parcel.lent = wire.lend(calls)
        return parcel.lent

    def _pack(self, parcel: _Parcel, tasks: list[_Task]) -> bytes:
        """Pickle tasks, those that can be, into a parcel."""
        functions: list[bytes] = []
        places: dict[int, int] = {}
        calls: list[wire.Packed] = []
        for task in tasks:
            begun = len(parcel.shared)
            task.by_value = self.by_value
            try:
                place = places.get(id(task.func))
                if place is None:
                    aside = self._aside(parcel, task, wire.BIG)
                    functions.append(wire.pack(task.func, aside, self.by_value))
                    place = places[id(task.func)] = len(functions) - 1
                aside = self._aside(parcel, task, _ALONE)
                data = wire.pack(task.data, aside, self.by_value)
            except Exception as error:
                del parcel.shared[begun:]
                error.add_note("The function and its arguments are sent to the workers.")
                task.end(False, error)
            else:
                calls.append(wire.Packed(task.kind, place, data, task.timeout))
                parcel.tasks.append(task)
        return pickle.dumps((functions, calls), 5)

    def _aside(self, parcel: _Parcel, task: _Task, alone: int) -> wire.Aside:
        """Make the function that finds what travels beside a pickle."""
        from distributed import Future

        def aside(obj: Any) -> int | None:
            if isinstance(obj, np.ndarray):
                plain = type(obj) in (np.ndarray, np.memmap) and not obj.dtype.hasobject
                if not plain or obj.nbytes < wire.BIG:
                    return None
                future = self.arrays.future_of(obj, task.submitted, alone)
            elif isinstance(obj, Scattered):
                future = self.future_of_scattered(obj)
            elif isinstance(obj, Future):
                future = obj
            elif isinstance(obj, AsyncResult | concurrent.futures.Future):
                raise TypeError(
                    f"{obj!r} is a result that is not there yet, and cannot be an "
                    "argument: give what its get() or result() returns"
                )
            else:
                return None
            if future is None:
                return None
            for place, other in enumerate(parcel.shared):
                if other is future:
                    return place
            parcel.shared.append(future)
            return len(parcel.shared) - 1

        return aside

    def future_of_scattered(self, data: Scattered) -> Any:
        """Give the Dask future of scattered data; send it again if it was lost."""
        if data._future is None or _is_lost(data._future):
            data._future = self.scatter(data.value)
        return data._future

    # -- receiving ---------------------------------------------------------------------

    async def _collect(self, parcel: _Parcel) -> None:
        """Wait for a parcel, in Dask's event loop."""
        try:
            value = await self.client.gather(parcel.future)
            success = True
        except BaseException as error:
            value, success = error, False
        with self.changed:
            self.arrived.append((parcel, success, value))
            self.changed.notify_all()

    def _receive(self, parcel: _Parcel, success: bool, value: Any) -> None:
        with self.changed:
            if parcel not in self.flying:
                return
            self.flying.discard(parcel)
        parcel.future = None
        if parcel.lent is not None:
            wire.take_back(parcel.lent)
        if success:
            self._open(parcel, wire.Report(*value))
        else:
            self._return_to_sender(parcel, value)

    def _open(self, parcel: _Parcel, report: wire.Report) -> None:
        """Settle the tasks of a parcel."""
        buffers = iter(report.buffers)
        outcomes = deque(report.outcomes)
        report.outcomes.clear()  # a worker of this process has the same list
        seconds = 0.0
        done = len(outcomes)
        for task in parcel.tasks[:done]:
            outcome = outcomes.popleft()
            own = list(itertools.islice(buffers, outcome.buffers))
            seconds += outcome.seconds
            if outcome.status == wire.UNKNOWN:
                self._unknown(task, report.worker, *pickle.loads(outcome.data))
                continue
            self._learn(task, outcome.seconds)
            try:
                value = outcome.data if report.lent else wire.unpack_outcome(outcome, own)
                success = outcome.status == wire.DONE
            except Exception as error:
                value, success = error, False
            task.end(success, value)
        # What was not begun, because others took long, goes to whoever is free.
        rest = [t for t in parcel.tasks[done:] if not t.settled]
        with self.changed:
            self.again.extendleft(reversed(rest))
            tally = self.tallies.setdefault(report.worker, _Tally())
            tally.tasks += sum(t.calls for t in parcel.tasks[:done])
            tally.parcels += 1
            tally.run_time += seconds
            tally.cpu_time += report.cpu_seconds
            tally.waited += max(0.0, time.monotonic() - parcel.tasks[0].submitted - seconds)

    def _learn(self, task: _Task, seconds: float) -> None:
        name = _name_of(task.func)
        each = seconds / max(task.calls, 1)
        self.call_seconds = each
        known = self.durations.get(name, each)
        self.durations[name] = 0.5 * known + 0.5 * each if each < known else each

    def _unknown(self, task: _Task, worker: str, module: str, text: str) -> None:
        """Deal with a function or class that the worker does not find."""
        if module in task.by_value or not _is_ours(module):
            task.end(
                False,
                ClusterError(
                    f"the worker {worker} cannot find what the task needs ({text}): "
                    f"install {module.partition('.')[0]} on the workers, as here"
                ),
            )
            return
        # The user's own module: it travels by value from now on.
        self.by_value |= {module}
        with self.changed:
            self.again.appendleft(task)

    def _return_to_sender(self, parcel: _Parcel, error: BaseException) -> None:
        """Deal with a parcel that failed as a whole."""
        import asyncio

        from distributed import KilledWorker

        trouble = self.trouble()
        tasks = [task for task in parcel.tasks if not task.settled]
        if trouble is not None:
            for task in tasks:
                task.end(False, trouble)
            return
        again: list[_Task] = []
        for task in tasks:
            task.attempts += 1
            if isinstance(error, KilledWorker):
                # Which of them was it?
                retry, task.alone = len(parcel.tasks) > 1, True
            else:
                retry = isinstance(
                    error, concurrent.futures.CancelledError | asyncio.CancelledError
                )
            if retry and task.attempts <= _MOST_ATTEMPTS:
                again.append(task)
            else:
                task.end(False, _explained(error))
        with self.changed:
            self.again.extendleft(reversed(again))


class _DaskFuture(Exception):
    """There is a Dask future among the arguments."""


def _with_data(obj: Any) -> Any:
    """Put scattered data in its place, in containers of Python's own."""
    kind = type(obj)
    if kind is Scattered:
        return obj.value
    if kind in (list, tuple):
        items = [_with_data(item) for item in obj]
        same = all(a is b for a, b in zip(items, obj, strict=True))
        return obj if same else kind(items)
    if kind is dict:
        values = {key: _with_data(value) for key, value in obj.items()}
        return obj if all(values[key] is obj[key] for key in obj) else values
    if kind is functools.partial:
        args, kwargs = _with_data(obj.args), _with_data(obj.keywords)
        same = args is obj.args and kwargs is obj.keywords
        return obj if same else functools.partial(obj.func, *args, **kwargs)
    if kind.__module__.startswith("distributed."):
        raise _DaskFuture
    return obj


def _explained(error: BaseException) -> BaseException:
    """Say what to do about an error that Dask gave."""
    if isinstance(error, ModuleNotFoundError) and "pydistrib" in str(error):
        explained = ClusterError(
            f"pydistrib is not installed where the scheduler or a worker runs ({error}): "
            f"{INSTALL} there"
        )
        explained.__cause__ = error
        return explained
    cause = error.__cause__
    if isinstance(error, RuntimeError) and isinstance(cause, ModuleNotFoundError):
        return _explained(cause)
    return error


def _cancelled(text: str) -> concurrent.futures.CancelledError:
    return concurrent.futures.CancelledError(text)


def _name_of(func: Any) -> str:
    while isinstance(func, functools.partial) or hasattr(func, "retries"):
        func = func.func
    return str(getattr(func, "__qualname__", type(func).__qualname__))


def _is_ours(module: str) -> bool:
    """Tell whether a module is the user's own code, and not an installed package."""
    loaded = sys.modules.get(module)
    if loaded is None or module.partition(".")[0] == "pydistrib":
        return False
    path = getattr(loaded, "__file__", None)
    if path is None:
        return module not in sys.builtin_module_names
    installed = (sysconfig.get_paths()[name] for name in ("purelib", "platlib", "stdlib"))
    return not path.startswith(tuple(installed))


def _listen(client: Any, engine: DaskEngine, address: str) -> Any:
    """
    Have an engine told of what becomes of a worker; gives what `_unlisten` needs.

    Not of all workers by one topic: some events of that one can't be sent, and Dask then
    closes the connection.
    """
    weak = weakref.ref(engine)
    before = client._event_handlers.get(address)

    def handler(event: Any) -> Any:
        listener = weak()
        if listener is not None:
            listener.worker_event(address, event)
        return None if before is None else before(event)

    client.subscribe_topic(address, handler)
    return handler, None if before is _ignore else before


def _ignore(_: Any) -> None:
    """Stand in for the handler of a pool that has ended: events may still come."""


def _unlisten(client: Any, address: str, listening: Any) -> None:
    handler, before = listening
    handlers = client._event_handlers
    if client.status != "running" or handlers.get(address) is not handler:
        return
    handlers[address] = _ignore if before is None else before
    if before is None:
        client.unsubscribe_topic(address)


# --------------------------------------------------------------------------------------
# DaskPool
# --------------------------------------------------------------------------------------


def _start_cluster(distributed: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    """Start a cluster of this machine, and a client of it."""
    settings = {"dashboard_address": "localhost:0", "scheduler_port": 0, **options}
    try:
        cluster = distributed.LocalCluster(**settings)
    except (RuntimeError, OSError) as error:
        if _is_port_in_use(error):
            raise ClusterError(
                f"a port is in use ({_root(error)}): leave scheduler_port out, then a free "
                "one is taken"
            ) from error
        raise ClusterError(f"the local cluster did not start: {_root(error)}") from error
    try:
        return distributed.Client(cluster, set_as_default=False), cluster
    except BaseException:
        cluster.close()
        raise


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _is_port_in_use(error: BaseException) -> bool:
    root = _root(error)
    return isinstance(root, OSError) and "in use" in str(root).lower()


def _connect(distributed: Any, address: str) -> Any:
    try:
        return distributed.Client(address, set_as_default=False)
    except OSError as error:
        raise ClusterError(
            f"there is no Dask scheduler at {address}: start one with 'dask scheduler'"
        ) from error


# Travels by value, to places where pydistrib may be missing.
_PROBE: Final = """
def probe():
    try:
        from pydistrib.pools.dask_worker import versions
        return versions()
    except Exception as error:
        return "%s: %s" % (type(error).__name__, error)
"""


def _check_versions(client: Any) -> None:
    """Raise `ClusterError` if a worker can't run what this process sends."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(_PROBE, namespace)
    answers = client.run(namespace["probe"], on_error="return")
    here = wire.versions()
    for worker, there in sorted(answers.items()):
        if not isinstance(there, dict):
            raise ClusterError(
                f"pydistrib cannot be imported on the worker {worker} ({there}): install "
                f"it there, {INSTALL}"
            )
        for name, version in here.items():
            if there.get(name) != version:
                raise ClusterError(
                    f"the worker {worker} has {name} {there.get(name)}, and this process "
                    f"has {name} {version}: install the same version on both"
                )


class DaskPool(PoolBase):
    """
    A Dask cluster with the methods of a pool.

    Parameters
    ----------
    client : distributed.Client, str or None, optional
        A client, or the address of a scheduler.  Without it a cluster of this machine is
        started, on free ports, and closed when the pool ends.
    **cluster_options
        Without `client`: what `distributed.LocalCluster` takes, such as ``n_workers``,
        ``threads_per_worker``, ``processes`` and ``memory_limit``.

    Raises
    ------
    ImportError
        If Dask is not installed: ``pip install 'pydistrib[dask]'``.
    ClusterError
        If there is no scheduler at that address, a port is in use, or a worker lacks
        pydistrib or has another version of it or of Python.
    TypeError
        If `client` is something else, or both it and options were given.

    See Also
    --------
    ThreadPool : The same methods on threads of this process.

    Notes
    -----
    - Functions and arguments are pickled; lambdas, closures and what is defined in
      ``__main__``, or in a module that the workers don't have, travel by value.
      Workers that are threads of this process get them as they are.
    - Calls wait in this process, and few of them, in *parcels*, with Dask: at most twice
      as many as the workers have threads.  Short calls share a parcel.
    - An array of at least 16 KB that several calls get is sent once to each worker that
      needs it, and is read-only there.  One of less than 1 MB that calls get as an
      argument of their own is known as such from the second of them on.
    - ``imap`` and ``imap_unordered`` take no more than 4096 items ahead, or `buffersize`.
    - When a worker is lost, its calls run again on another, so a call may run more than
      once; a `WorkerLostWarning` tells of it.
    - What is abandoned (Ctrl-C in `map`, a closed iterator, `terminate`, a time limit) is
      stopped on the workers as soon as it runs Python code; the worker is free at once.
    - A call that a task of the pool makes itself, which is possible with worker threads
      of this process, runs at once in that task.
    - In a task `num_threads()` is 1, unless ``PYDISTRIB_NUM_THREADS`` or
      `set_num_threads` says more on the worker: that, divided by its threads.

    In a script, make the pool under ``if __name__ == "__main__":``, as with every pool of
    processes.

    Examples
    --------
    >>> from pydistrib import DaskPool
    >>> with DaskPool(processes=False) as pool:  # doctest: +SKIP
    ...     pool.map(abs, [-1, 2, -3])
    [1, 2, 3]
    """

    def __init__(self, client: Any = None, **cluster_options: Any) -> None:
        distributed = _import_distributed()
        cluster = None
        own = client is None or isinstance(client, str)
        if client is not None and cluster_options:
            raise TypeError(
                f"{', '.join(cluster_options)}: options are for a cluster that the pool "
                "starts, and cannot be given with a client"
            )
        if client is None:
            client, cluster = _start_cluster(distributed, cluster_options)
        elif isinstance(client, str):
            client = _connect(distributed, client)
        elif not isinstance(client, distributed.Client):
            raise TypeError(
                "client must be a distributed.Client, the address of a scheduler or None, "
                f"not {type(client).__name__}"
            )
        elif client.asynchronous:
            raise TypeError(
                "client is asynchronous: a DaskPool needs Client(asynchronous=False)"
            )
        if client.status != "running":
            raise ClusterError("the Dask client was closed: make a new one")
        self.client = client
        end = functools.partial(_close, client if own else None, cluster)
        try:
            _check_versions(client)
            super().__init__(DaskEngine(client, end, cluster is not None))
        except BaseException:
            end()
            raise

    def scatter(self, data: Any, *, broadcast: bool = False) -> Any:
        """
        Send data to the workers, for tasks to come.

        Parameters
        ----------
        data : object, list, tuple or dict
            What to send; of a list, tuple or dict every item, or value, by itself.  It
            must not be changed any more.
        broadcast : bool, optional
            Send it to all workers now, instead of to one, from which others get it.

        Returns
        -------
        Scattered, list, tuple or dict
            What stands for the data in the arguments of tasks.

        Raises
        ------
        ValueError
            If the pool is closed.
        ClusterError
            If the cluster is gone.

        See Also
        --------
        gather : Results of many tasks.

        Notes
        -----
        Arrays need no scattering: see the notes of the class.
        """
        self._check_running()
        if isinstance(data, Mapping):
            return {key: self._scatter(value, broadcast) for key, value in data.items()}
        if type(data) in (list, tuple, set, frozenset):
            return type(data)([self._scatter(value, broadcast) for value in data])
        return self._scatter(data, broadcast)

    def _scatter(self, value: Any, broadcast: bool) -> Scattered:
        assert isinstance(self._engine, DaskEngine)
        trouble = self._engine.trouble()
        if trouble is not None:
            raise trouble
        scattered = Scattered(value)
        sent = value
        if type(value) is np.ndarray:
            sent = value.view()
            sent.flags.writeable = False
        scattered._future = self._engine.scatter(sent, broadcast)
        return scattered

    def gather(self, futures: Any, timeout: float | None = None) -> Any:
        """
        Wait for results, and return them in the form in which they were asked for.

        Parameters
        ----------
        futures : Future, AsyncResult, Scattered, or list, tuple, set, dict or iterator
            What `submit`, `apply_async`, `scatter` or Dask itself returned, nested in any
            way.
        timeout : float, optional
            Seconds that all of it may take.

        Returns
        -------
        object
            The results; of an iterator as a list.

        Raises
        ------
        Exception
            What the first failing task raised.
        TimeoutError
            If not all results came in time.

        See Also
        --------
        as_completed : Results one by one, in the order in which they are done.
        """
        end = None if timeout is None else time.monotonic() + timeout
        return self._gather(futures, end)

    def _gather(self, what: Any, end: float | None) -> Any:
        left = None if end is None else max(0.0, end - time.monotonic())
        if isinstance(what, AsyncResult):
            return what.get(left)
        if isinstance(what, concurrent.futures.Future | Scattered) or (
            type(what).__module__.startswith("distributed.")
        ):
            return what.result(timeout=left)
        if isinstance(what, Mapping):
            return {key: self._gather(value, end) for key, value in what.items()}
        if isinstance(what, tuple | set | frozenset):
            return type(what)([self._gather(value, end) for value in what])
        if isinstance(what, list | Iterator):
            return [self._gather(value, end) for value in what]
        if isinstance(what, Iterable) and not isinstance(what, str | bytes | np.ndarray):
            return [self._gather(value, end) for value in what]
        return what


def _close(client: Any, cluster: Any) -> None:
    """Close what belongs to a pool."""
    for part in (client, cluster):
        if part is not None:
            try:
                part.close()
            except Exception as error:
                _LOGGER.debug("while closing %r: %s", part, error)
