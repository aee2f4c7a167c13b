"""
Threads as a pool: `ThreadPool` and `ThreadPoolExecutor`.

The queue and what the threads do is C (`_core.TaskQueue`).  Here are the threads
themselves, ordinary `threading.Thread` objects that the queue asks for when it needs
one, the time limits, and what happens after a fork and at exit.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import concurrent.futures.thread
import heapq
import itertools
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, SupportsIndex, TypeVar

from pydistrib import _config
from pydistrib._core import AsyncResult, CallbackLane, MapResult, ResultIterator, TaskQueue
from pydistrib.errors import TimeoutError
from pydistrib.pools.arguments import worker_count
from pydistrib.pools.engine import Engine, PoolStats, WorkerStats
from pydistrib.pools.futures import submit_to
from pydistrib.pools.protocol import RUN, PoolBase, PoolExecutor

R = TypeVar("R")
P = ParamSpec("P")

MAX_WORKERS = 32768

_LOGGER = logging.getLogger("concurrent.futures")


def _has_gil() -> bool:
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


# --------------------------------------------------------------------------------------
# Time limits
# --------------------------------------------------------------------------------------


class _Watchdog:
    """One thread for the whole process, started by the first time limit."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.order = itertools.count()
        # (deadline, order, seconds, crew, result), the references weak.
        self.limits: list[tuple[float, int, float, Any, Any]] = []
        self.running = False
        self.keep = 1024

    def watch(self, crew: _Crew, result: AsyncResult[Any], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        entry = (
            deadline,
            next(self.order),
            seconds,
            weakref.ref(crew),
            weakref.ref(result),
        )
        with self.changed:
            heapq.heappush(self.limits, entry)
            if len(self.limits) > self.keep:
                self._forget_the_done()
            if self.limits[0] is entry:
                self.changed.notify()
            if not self.running:
                self.running = True
                threading.Thread(
                    target=self._run, name="pydistrib-time-limits", daemon=True
                ).start()

    def _forget_the_done(self) -> None:
        self.limits = [
            entry
            for entry in self.limits
            if (result := entry[4]()) is not None and not result.ready()
        ]
        heapq.heapify(self.limits)
        self.keep = max(1024, 2 * len(self.limits))

    def _run(self) -> None:
        while True:
            with self.changed:
                while not self.limits or self.limits[0][0] > time.monotonic():
                    left = self.limits[0][0] - time.monotonic() if self.limits else None
                    self.changed.wait(left)
                _, _, seconds, crew_ref, result_ref = heapq.heappop(self.limits)
            crew, result = crew_ref(), result_ref()
            if crew is not None and result is not None:
                crew.expire(result, seconds)
            del crew, result


# --------------------------------------------------------------------------------------
# The threads of one queue
# --------------------------------------------------------------------------------------


class _Crew:
    """The threads of one queue.  They and the queue refer to it, it not to the queue."""

    def __init__(
        self,
        workers: int,
        prefix: str,
        initializer: Callable[..., object] | None,
        initargs: Iterable[Any],
    ) -> None:
        self.workers = workers
        self.prefix = prefix
        self.initializer = initializer
        self.initargs = initargs
        self.threads: list[threading.Thread] = []
        self.broken = False
        self.numbers = itertools.count()
        self.queue: Callable[[], TaskQueue | None] = lambda: None

    def spawn(self) -> BaseException | None:
        """
        Start one more thread; called by the queue.

        What a signal's handler raises meanwhile is returned: the thread runs.  What is
        raised says that it doesn't.
        """
        thread = threading.Thread(
            target=_work,
            args=(self, self.queue()),
            name=f"{self.prefix}_{next(self.numbers)}",
            daemon=True,
        )
        self.threads.append(thread)
        try:
            thread.start()
        except (RuntimeError, MemoryError, OSError):
            self.threads.remove(thread)
            raise
        except BaseException as raised:
            return raised
        return None

    def watch(self, result: AsyncResult[Any], seconds: float) -> None:
        """Begin a time limit; called by the thread that is about to run the call."""
        _watchdog.watch(self, result, seconds)

    def expire(self, result: AsyncResult[Any], seconds: float) -> None:
        queue = self.queue()
        if queue is None:
            return
        error = TimeoutError(f"the task ran for more than {seconds:g} s")
        ident = queue.expire(result, error)
        if ident:
            # Stuck in its task: the pool goes on without it.
            self.threads = [t for t in self.threads if t.ident != ident]


def _work(crew: _Crew, queue: TaskQueue) -> None:
    _config.enter_pool(crew.workers)
    if crew.initializer is not None:
        try:
            crew.initializer(*crew.initargs)
        except BaseException as error:
            crew.broken = True
            _LOGGER.critical("Exception in initializer:", exc_info=True)
            broken = concurrent.futures.thread.BrokenThreadPool(
                "A thread initializer failed, the thread pool is not usable anymore"
            )
            broken.__cause__ = error
            queue.break_down(broken)
    del crew
    queue.work()


class ThreadEngine(Engine):
    """
    Runs tasks in threads of this process.

    Parameters
    ----------
    workers : int
        The most threads there will be; they are started when they are needed.
    prefix : str
        Of the threads' names.
    initializer, initargs
        Each thread first calls ``initializer(*initargs)``.  If that raises, all tasks
        fail with `concurrent.futures.thread.BrokenThreadPool`.
    """

    shares_memory = True

    def __init__(
        self,
        workers: int,
        prefix: str,
        initializer: Callable[..., object] | None,
        initargs: Iterable[Any],
    ) -> None:
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self.workers = workers
        self.crew = _Crew(workers, prefix, initializer, initargs)
        self.queue = TaskQueue(workers, _has_gil(), self.crew.spawn, self.crew.watch)
        self.crew.queue = weakref.ref(self.queue)
        self.start = self.queue.start  # type: ignore[method-assign,assignment]
        _queues[self.queue] = self.crew

    def start(self, call: AsyncResult[Any]) -> None:
        """Queue a call."""
        self.queue.start(call)

    def default_chunk(self, count: int) -> int:
        """One item: the native loop hands them out for next to nothing."""
        return 1

    def start_map(self, result: MapResult[Any], timeout: float | None = None) -> None:
        """Queue a map as one job, or one call for each item with a `timeout`."""
        if timeout is None:
            self.queue.start(result)
        else:
            super().start_map(result, timeout)

    def start_stream(
        self, stream: ResultIterator[Any], timeout: float | None = None
    ) -> None:
        """Queue a stream as one job, or feed it call by call with a `timeout`."""
        if timeout is None:
            self.queue.start(stream)
        else:
            super().start_stream(stream, timeout)

    def fill(self) -> None:
        """Start all threads now."""
        self.queue.fill()

    def close(self) -> None:
        """Take no more tasks."""
        self.queue.close()

    def terminate(self) -> None:
        """Cancel what has not begun.  A thread can't be killed: what runs goes on."""
        self.queue.terminate()

    def join(self) -> None:
        """Wait for all threads."""
        self.queue.drain()
        waited: set[threading.Thread] = set()
        # A thread that takes a task may start another one meanwhile.
        while late := [t for t in self.crew.threads if t not in waited]:
            for thread in late:
                thread.join()
                waited.add(thread)

    def stats(self) -> PoolStats:
        """Read the threads' counters."""
        _, queued, past, rows = self.queue.info()
        names = {t.ident: t.name for t in list(self.crew.threads)}
        workers = tuple(_worker_stats(names, *row) for row in rows)
        return PoolStats(past + sum(w.tasks for w in workers), queued, workers)


def _worker_stats(
    names: dict[int | None, str],
    ident: int,
    tasks: int,
    taken: int,
    queue_ns: int,
    run_ns: int,
    gil_ns: int,
    cpu_ns: int,
) -> WorkerStats:
    cpu = cpu_ns / 1e9 if cpu_ns >= 0 else None
    return WorkerStats(
        name=names.get(ident, str(ident)),
        tasks=tasks,
        queue_wait=queue_ns / 1e9 / max(taken, 1),
        run_time=run_ns / 1e9,
        gil_wait=gil_ns / 1e9,
        cpu_time=cpu,
        gil_share=None if cpu is None or run_ns == 0 else min(1.0, cpu * 1e9 / run_ns),
    )


# --------------------------------------------------------------------------------------
# ThreadPool
# --------------------------------------------------------------------------------------


class ThreadPoolExecutor(concurrent.futures.ThreadPoolExecutor):
    """
    `concurrent.futures.ThreadPoolExecutor` on the native queue.

    Its Futures are real ones: it works with asyncio's `run_in_executor`, `wait`,
    `as_completed`, Dask, SciPy.  At exit the interpreter waits for what was submitted.

    Parameters
    ----------
    max_workers : int, optional
        Threads, at least 1; by default 4 more than CPUs, and at most 32.  They are
        started when they are needed.
    thread_name_prefix : str, optional
        Of the threads' names.
    initializer : callable, optional
        Each thread first calls ``initializer(*initargs)``.
    initargs : tuple, optional
        Its arguments.

    Raises
    ------
    ValueError
        If `max_workers` is less than 1.
    TypeError
        If `max_workers` is not an integer or `initializer` is not callable.

    See Also
    --------
    ThreadPool : With `map` and the other methods of multiprocessing's pools.

    Examples
    --------
    >>> from pydistrib import ThreadPoolExecutor
    >>> with ThreadPoolExecutor(2) as executor:
    ...     executor.submit(pow, 2, 10).result()
    1024
    """

    _names = itertools.count()

    def __init__(
        self,
        max_workers: SupportsIndex | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
    ) -> None:
        if max_workers is None:
            workers = min(32, _config.cpu_count() + 4)
        else:
            workers = worker_count(
                max_workers,
                "max_workers",
                MAX_WORKERS,
                "max_workers must be greater than 0",
            )
        prefix = thread_name_prefix or f"ThreadPoolExecutor-{next(self._names)}"
        self._take(ThreadEngine(workers, prefix, initializer, initargs))
        _executors.add(self)

    def _take(self, engine: ThreadEngine) -> None:
        self._engine = engine
        self._max_workers = engine.workers
        self._shutdown = False

    @property
    def _threads(self) -> set[threading.Thread]:  # type: ignore[override]
        return set(self._engine.crew.threads)

    @property
    def _broken(self) -> bool:  # type: ignore[override]
        return self._engine.crew.broken

    def submit(
        self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[R]:
        """
        Start ``fn(*args, **kwargs)`` and return its Future.

        Parameters
        ----------
        fn : callable
            What to call.
        *args, **kwargs
            Its arguments.

        Returns
        -------
        concurrent.futures.Future
            Gets the result or the exception.

        Raises
        ------
        RuntimeError
            If the executor, or the interpreter, was shut down.
        TypeError
            If `fn` is not callable.
        """
        if self._shutdown:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if _exiting:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        return submit_to(self._engine, fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """
        Take no more calls, as `concurrent.futures.Executor.shutdown`.

        Parameters
        ----------
        wait : bool, optional
            Whether to wait until all calls have ended.
        cancel_futures : bool, optional
            Whether to cancel those that have not begun.
        """
        self._shutdown = True
        if cancel_futures:
            self._engine.terminate()
        else:
            self._engine.close()
        if wait:
            self._engine.join()

    def __del__(self) -> None:
        # Dropped without shutdown(): its threads end when all is done.
        if not getattr(self, "_shutdown", True):
            self._engine.close()


class _ThreadPoolView(ThreadPoolExecutor):
    """`ThreadPool.executor`: the same threads; shutting it down closes the pool."""

    def __init__(self, pool: PoolBase) -> None:
        assert isinstance(pool._engine, ThreadEngine)
        self._pool = pool
        self._take(pool._engine)

    def submit(
        self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[R]:
        """Start ``fn(*args, **kwargs)`` and return its Future."""
        if self._pool._state != RUN:
            raise RuntimeError("cannot schedule new futures after shutdown")
        return submit_to(self._engine, fn, args, kwargs)

    shutdown = PoolExecutor.shutdown

    def __del__(self) -> None:
        pass  # the threads are the pool's


class ThreadPool(PoolBase):
    """
    `multiprocessing.pool.ThreadPool`, faster and without its faults.

    Parameters
    ----------
    processes : int, optional
        How many threads run tasks, at least 1; by default `pydistrib.num_threads`.
        They are started when they are needed; with an initializer at once.
    initializer : callable, optional
        Each thread first calls ``initializer(*initargs)``.  If that raises, all tasks
        fail with `concurrent.futures.thread.BrokenThreadPool`, whose cause it is.
    initargs : iterable, optional
        Its arguments.

    Raises
    ------
    ValueError
        If `processes` is less than 1 or more than 32768.
    TypeError
        If `processes` is not an integer or `initializer` is not callable.

    See Also
    --------
    ThreadPoolExecutor : With `concurrent.futures`' interface alone.

    Notes
    -----
    Where it differs from the standard library's:

    - A function that is not callable, or a chunk size below 1, is an error of the call.
    - A task that waits for a task of the same pool runs it itself if it has not begun:
      nested calls cannot deadlock.
    - Everything that a task raises is its result, SystemExit and KeyboardInterrupt too.
    - What `terminate` cancels raises `concurrent.futures.CancelledError` rather than
      keep its waiters for ever.
    - Callbacks run in the worker that has the result; what they raise goes to
      `threading.excepthook`, and the pool goes on.
    - A time limit gives the result at once.  The task itself is stopped as soon as it
      runs Python code; until then it has a thread that no longer counts.

    At exit of the interpreter tasks that have not begun are dropped and those that run
    are left behind, as in the standard library: use `close` and `join`.  After a fork
    the child's copy has no threads and no tasks; it starts new threads when it is used,
    and waiting for a task of the parent raises RuntimeError.

    In a worker `num_threads()` is the process's budget divided by the number of workers,
    so that native kernels don't oversubscribe the CPUs.  The threads of BLAS and OpenMP
    are left as they are, since most libraries have one setting for the whole process:
    use `threadpoolctl.threadpool_limits`, which limits pydistrib too.

    Examples
    --------
    >>> from pydistrib import ThreadPool
    >>> with ThreadPool(2) as pool:
    ...     pool.map(abs, [-1, 2, -3])
    [1, 2, 3]
    """

    _executor_type = _ThreadPoolView  # type: ignore[assignment]
    _names = itertools.count(1)

    def __init__(
        self,
        processes: SupportsIndex | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
    ) -> None:
        if processes is None:
            workers = _config.num_threads()
        else:
            workers = worker_count(
                processes,
                "processes",
                MAX_WORKERS,
                "Number of processes must be at least 1",
            )
        prefix = f"ThreadPool-{next(self._names)}"
        engine = ThreadEngine(workers, prefix, initializer, initargs)
        super().__init__(engine)
        self._processes = workers
        _pools.add(self)
        if initializer is not None:
            engine.fill()

    @property
    def _pool(self) -> list[threading.Thread]:
        """The workers, as multiprocessing's tests look at them: with those to come."""
        assert isinstance(self._engine, ThreadEngine)
        threads = list(self._engine.crew.threads)
        missing = self._processes - len(threads)
        return threads + [threading.Thread(daemon=True) for _ in range(missing)]


# --------------------------------------------------------------------------------------
# Fork and exit
# --------------------------------------------------------------------------------------

_watchdog = _Watchdog()
_queues: weakref.WeakKeyDictionary[TaskQueue, _Crew] = weakref.WeakKeyDictionary()
_pools: weakref.WeakSet[ThreadPool] = weakref.WeakSet()
_executors: weakref.WeakSet[ThreadPoolExecutor] = weakref.WeakSet()
_exiting = False


def _after_fork_in_child() -> None:
    global _watchdog
    _watchdog = _Watchdog()
    for pool in list(_pools):
        pool._lane = CallbackLane()  # the old one's thread may be gone
    for queue, crew in list(_queues.items()):
        crew.threads = []
        queue.after_fork(
            RuntimeError("the task was the parent process's; this process was forked")
        )


def _finish_executors() -> None:
    """Wait for what was submitted to executors, before other threads are joined."""
    global _exiting
    _exiting = True
    for executor in list(_executors):
        executor._engine.close()
    for executor in list(_executors):
        executor._engine.join()


def _drop_pools() -> None:
    for pool in list(_pools):
        pool._engine.terminate()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_drop_pools)
# The place where the standard library's executors wait; atexit comes after it.
getattr(threading, "_register_atexit", atexit.register)(_finish_executors)
