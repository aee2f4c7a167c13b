"""
The engine of a `DaskPool`.

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
"""

from __future__ import annotations

import concurrent.futures
import functools
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
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from pydistrib._core import AsyncResult, MapResult, ResultIterator
from pydistrib.pools import dask_worker as wire
from pydistrib.pools.dask_cluster import (
    ClusterError,
    WorkerLostWarning,
    explain_error,
    listen,
    unlisten,
)
from pydistrib.pools.dask_data import Arrays, HasDaskFuture, Scattered, is_lost, with_data
from pydistrib.pools.dask_tasks import Loop, Parcel, Single, Source, Task
from pydistrib.pools.engine import Engine, Feeder, PoolStats, WorkerStats

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
        self.arrays = Arrays(self.scatter)
        self.durations: dict[str, float] = {}
        self.call_seconds = 1.0  # of late
        self.seen: Mapping[str, int] | None = None  # workers, news
        self.listening: dict[str, Any] = {}
        self.shares = False  # whether the last parcel came with arrays
        self.tallies: dict[str, _Tally] = {}
        self.by_value: frozenset[str] = frozenset(() if self.inproc else ("__main__",))
        # Guarded by `changed`, as the queue and what follows.
        self.changed = threading.Condition()
        self.queue: deque[Source] = deque()
        self.again: deque[Task] = deque()
        self.arrived: deque[tuple[Parcel, bool, Any]] = deque()
        self.lost: deque[str] = deque()
        self.abandoned: deque[Any] = deque()
        self.flying: set[Parcel] = set()
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
        self._enqueue(Single(call, False), lambda: _Here().start(call))

    def start_unit(self, call: AsyncResult[Any]) -> None:
        """Queue a stream's call: the stream may go on when the pool has been closed."""
        self._enqueue(Single(call, True), lambda: _Here().start(call))

    def start_map(self, result: MapResult[Any], timeout: float | None = None) -> None:
        """Queue a map: one task a chunk."""
        self._enqueue(Loop(result, timeout), lambda: _Here().start_map(result, timeout))

    def _enqueue(self, source: Source, run_here: Callable[[], object]) -> None:
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
                self.listening[address] = listen(self.client, self, address)

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
                unlisten(self.client, address, listening)
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

    def _cancel(self, parcel: Parcel) -> None:
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
            if self._in_quarantine():
                return False
            tasks = self._next_tasks()
            if not tasks:
                return False
            self._ship(tasks)
            if self.arrived:
                return True
        return False

    def _in_quarantine(self) -> bool:
        """Tell whether what is out, or comes next, is to be the only one out."""
        if not self.flying:
            return False
        with self.changed:
            return bool(self.again and self.again[0].quarantined) or any(
                task.quarantined for parcel in self.flying for task in parcel.tasks
            )

    def _may_send_ahead(self) -> bool:
        """Tell whether what comes next may wait at a worker, beyond recall."""
        with self.changed:
            if self.again or self.call_seconds < _PARCEL_SECONDS / 10:
                return True
            if self.shares:
                # Dask takes an array off a worker that has nothing to do with it.
                return True
            return bool(self.queue) and self.queue[0].ahead

    def _seconds(self, task: Task) -> float | None:
        """Guess how long a task will take; None if nothing is known."""
        seconds = self.durations.get(_name_of(task.func))
        return None if seconds is None else seconds * task.calls

    def _next_tasks(self) -> list[Task]:
        """Take the tasks of the next parcel off the queue."""
        tasks: list[Task] = []
        left = _PARCEL_SECONDS
        with self.changed:
            waiting = len(self.again) + len(self.queue)
            if self.queue and isinstance(self.queue[0], Loop):
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

    def _next_task(self) -> Task | None:
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

    def _ship(self, tasks: list[Task]) -> None:
        parcel = Parcel([])
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

    def _where(self, parcel: Parcel) -> list[str] | None:
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

    def _lend(self, parcel: Parcel, tasks: list[Task]) -> int | None:
        """Give tasks as they are to workers of this process, if that is what they are."""
        if not self.inproc:
            return None
        try:
            calls = [
                wire.Lent(t.kind, with_data(t.func), with_data(t.data), t.timeout)
                for t in tasks
            ]
        except HasDaskFuture:
            return None  # it is Dask that puts data in its place
        parcel.tasks = tasks
        parcel.lent = wire.lend(calls)
        return parcel.lent

    def _pack(self, parcel: Parcel, tasks: list[Task]) -> bytes:
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

    def _aside(self, parcel: Parcel, task: Task, alone: int) -> wire.Aside:
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
        if data._future is None or is_lost(data._future):
            data._future = self.scatter(data.value)
        return data._future

    # -- receiving ---------------------------------------------------------------------

    async def _collect(self, parcel: Parcel) -> None:
        """Wait for a parcel, in Dask's event loop."""
        try:
            value = await self.client.gather(parcel.future)
            success = True
        except BaseException as error:
            value, success = error, False
        with self.changed:
            self.arrived.append((parcel, success, value))
            self.changed.notify_all()

    def _receive(self, parcel: Parcel, success: bool, value: Any) -> None:
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

    def _open(self, parcel: Parcel, report: wire.Report) -> None:
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

    def _learn(self, task: Task, seconds: float) -> None:
        name = _name_of(task.func)
        each = seconds / max(task.calls, 1)
        self.call_seconds = each
        known = self.durations.get(name, each)
        self.durations[name] = 0.5 * known + 0.5 * each if each < known else each

    def _unknown(self, task: Task, worker: str, module: str, text: str) -> None:
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

    def _return_to_sender(self, parcel: Parcel, error: BaseException) -> None:
        """Deal with a parcel that failed as a whole."""
        import asyncio

        from distributed import KilledWorker

        trouble = self.trouble()
        tasks = [task for task in parcel.tasks if not task.settled]
        if trouble is not None:
            for task in tasks:
                task.end(False, trouble)
            return
        again: list[Task] = []
        for task in tasks:
            task.attempts += 1
            if isinstance(error, KilledWorker):
                # Which of them was it?  Or was it another that the same worker had?
                retry = not task.quarantined
                task.quarantined = len(parcel.tasks) == 1
                task.alone = True
            else:
                retry = isinstance(
                    error, concurrent.futures.CancelledError | asyncio.CancelledError
                )
            if retry and task.attempts <= _MOST_ATTEMPTS:
                again.append(task)
            else:
                task.end(False, explain_error(error))
        with self.changed:
            self.again.extendleft(reversed(again))


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
