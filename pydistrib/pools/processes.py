"""
Processes as a pool: `Pool` and `ProcessPoolExecutor`.

What they do is the engine's (`process_engine`); here are the standard library's interfaces.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import itertools
import multiprocessing
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ParamSpec, SupportsIndex, TypeVar

from pydistrib import _config
from pydistrib.pools.arguments import worker_count
from pydistrib.pools.crew import Worker
from pydistrib.pools.futures import submit_to
from pydistrib.pools.process_engine import ProcessEngine
from pydistrib.pools.protocol import PoolBase, PoolExecutor
from pydistrib.pools.start_methods import method_of

R = TypeVar("R")
P = ParamSpec("P")

MAX_WORKERS = 4096


def _start_engine(
    workers: int,
    context: Any,
    initializer: Callable[..., object] | None,
    initargs: Iterable[Any],
    max_tasks: int | None,
    prefix: str,
) -> ProcessEngine:
    method = method_of(context)
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
      needs no ``if __name__ == "__main__"``.  A forked worker has those that there were
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
        if processes is None:
            workers = _config.num_threads()
        else:
            workers = worker_count(
                processes,
                "processes",
                MAX_WORKERS,
                "Number of processes must be at least 1",
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
        if max_workers is None:
            workers = _config.num_threads()
        else:
            workers = worker_count(
                max_workers,
                "max_workers",
                MAX_WORKERS,
                "max_workers must be greater than 0",
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

_executors: weakref.WeakSet[ProcessPoolExecutor] = weakref.WeakSet()


def _finish_executors() -> None:
    """Wait for what was submitted to executors, before other threads are joined."""
    executors = list(_executors)
    for executor in executors:
        executor._shutdown = True
        executor._engine.close()
    for executor in executors:
        executor._engine.join()


os.register_at_fork(after_in_child=_executors.clear)
getattr(threading, "_register_atexit", atexit.register)(_finish_executors)
