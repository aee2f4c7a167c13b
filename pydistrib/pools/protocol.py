"""
The pool protocol: what every pool can do, whatever runs its tasks.

Two halves meet here.  `PoolBase` has all the methods that users call, written once, with
the names and the behaviour of `multiprocessing.pool.Pool` and what it lacks.  An `Engine`
runs the tasks: threads of this process, other processes, a cluster.  It has to be able
to start one call, and to end; loops and streams of calls it gets for nothing, and it may
do better at them if it can::

    user --> PoolBase.map, imap, submit ... --> Engine.start, start_map, start_stream
                  |                                     |
                  +--> AsyncResult, MapResult,          |
                       ResultIterator, Future  <--------+  results, errors

The results are the same objects for every engine; an engine settles them from whatever
thread has the outcome.
"""

from __future__ import annotations

import abc
import concurrent.futures
import contextlib
import functools
import itertools
import multiprocessing
import operator
import queue
import threading
import time
import warnings
import weakref
from collections.abc import (
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Final,
    Generic,
    ParamSpec,
    Self,
    SupportsIndex,
    TypeVar,
)

import numpy as np

from pydistrib import _core
from pydistrib._core import AsyncResult, CallbackLane, MapResult, ResultIterator

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")

TimeoutError = multiprocessing.TimeoutError

# The values of a pool's state, as in multiprocessing.pool.
RUN: Final = "RUN"
CLOSE: Final = "CLOSE"
TERMINATE: Final = "TERMINATE"


# --------------------------------------------------------------------------------------
# asyncio, which is imported by those who use it
# --------------------------------------------------------------------------------------


def _set_done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _wake(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    # A RuntimeError says that the loop was closed: nobody waits any more.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(_set_done, future)


def _await(result: AsyncResult[R]) -> Generator[Any, None, R]:
    import asyncio

    loop = asyncio.get_running_loop()
    done = loop.create_future()
    result._then(functools.partial(_wake, loop, done))
    try:
        yield from done
    except asyncio.CancelledError:
        result.cancel()
        raise
    return result.get()


async def _anext(iterator: ResultIterator[R]) -> R:
    import asyncio

    loop = asyncio.get_running_loop()
    while True:
        news = loop.create_future()
        if not iterator._listen(functools.partial(_wake, loop, news)):
            break
        await news
    try:
        return iterator.next(0)
    except StopIteration:
        raise StopAsyncIteration from None


def _report(error: BaseException) -> None:
    """Tell of an error in a callback as the standard library's threads do."""
    thread = threading.current_thread()
    threading.excepthook(
        threading.ExceptHookArgs((type(error), error, error.__traceback__, thread))
    )


_core._set_pool_hooks(
    TimeoutError, concurrent.futures.CancelledError, _await, _anext, _report
)


# --------------------------------------------------------------------------------------
# Arguments
# --------------------------------------------------------------------------------------


def _whole_number(value: SupportsIndex, name: str, at_least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name} must be a whole number of at least {at_least}, "
            f"not {type(value).__name__}"
        ) from None
    if number < at_least:
        raise ValueError(f"{name} must be at least {at_least}, not {number}")
    return min(number, 1 << 40)  # more than anybody has; keeps sums within 64 bits


def _time_limit(value: float | None) -> float | None:
    if value is None:
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        raise TypeError(
            f"timeout must be a number of seconds or None, not {type(value).__name__}"
        ) from None
    if not seconds > 0:
        raise ValueError(f"timeout must be more than 0 seconds, not {value!r}")
    return min(seconds, threading.TIMEOUT_MAX)


def _check_callable(func: object, name: str = "func") -> None:
    if not callable(func):
        raise TypeError(f"{name} must be callable, not {type(func).__name__}")


class _Retrying(Generic[R]):
    """A function that is called again when it fails; it can be pickled if `func` can."""

    def __init__(self, func: Callable[..., R], retries: int) -> None:
        self.func = func
        self.retries = retries

    def __call__(self, *args: Any, **kwargs: Any) -> R:
        for _ in range(self.retries):
            try:
                return self.func(*args, **kwargs)
            except TimeoutError:
                raise  # the time limit is one for all attempts
            except Exception:
                continue
        return self.func(*args, **kwargs)


def _with_retries(func: Callable[..., R], retries: int) -> Callable[..., R]:
    _check_callable(func)
    count = _whole_number(retries, "retries", 0)
    return _Retrying(func, count) if count else func


def _as_items(iterable: Iterable[T]) -> tuple[T, ...] | np.ndarray[Any, Any]:
    """Take a snapshot of the items; an array stays, and is handed out row by row."""
    if isinstance(iterable, np.ndarray):
        if iterable.ndim == 0:
            raise TypeError("iterable must have rows, but is a 0-dimensional array")
        return iterable
    return tuple(iterable)


def _check_out(out: object, count: int) -> None:
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be an ndarray, not {type(out).__name__}")
    if out.ndim == 0 or len(out) != count:
        raise ValueError(
            f"out must have one row for each of the {count} items, but its shape is "
            f"{out.shape}"
        )
    if not out.flags.writeable:
        raise ValueError("out must be writeable")


# --------------------------------------------------------------------------------------
# Progress
# --------------------------------------------------------------------------------------


def _bar_type() -> Any:
    """Give tqdm's bar, the terminal's or the notebook's, as the case may be."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise ImportError(
            "progress=True needs tqdm: pip install tqdm, or 'pydistrib[progress]'"
        ) from None
    return tqdm


def _follow(result: MapResult[Any], bar: Any) -> None:
    with bar:
        while not result.ready():
            result.wait(0.1)
            bar.update(result.completed - bar.n)
        if result.successful():
            bar.update(result.total - bar.n)


def _show_progress(result: MapResult[Any], bar: Any) -> threading.Thread:
    thread = threading.Thread(
        target=_follow, args=(result, bar), name="pydistrib-progress", daemon=True
    )
    thread.start()
    return thread


class ProgressIterator(Generic[R]):
    """A `ResultIterator` that moves a bar for every result that is taken."""

    def __init__(self, results: ResultIterator[R], bar: Any) -> None:
        self._results = results
        self._bar = bar

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> R:
        return self.next()

    def next(self, timeout: float | None = None) -> R:
        """Return the next result, as `ResultIterator.next`."""
        return self._moving(lambda: self._results.next(timeout))

    def _moving(self, take: Callable[[], R]) -> R:
        try:
            result = take()
        except StopIteration:
            self._bar.close()
            raise
        self._bar.update()
        return result

    def __aiter__(self) -> AsyncIterator[R]:
        return self

    async def __anext__(self) -> R:
        try:
            result = await self._results.__anext__()
        except StopAsyncIteration:
            self._bar.close()
            raise
        self._bar.update()
        return result

    def close(self) -> None:
        """Cancel the rest and close the bar."""
        self._results.close()
        self._bar.close()


# --------------------------------------------------------------------------------------
# Engines
# --------------------------------------------------------------------------------------


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
        Time it waited for Python's lock before it could begin a task, in all.
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
        feeder = _Feeder(self, stream, timeout)
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


class _Feeder:
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
            call._then(functools.partial(_give_unit, stream, index, self.chunk, call))
        call._then(functools.partial(self.out.discard, call))


def _give_unit(
    stream: ResultIterator[Any], index: int, chunk: int, call: AsyncResult[list[Any]]
) -> None:
    try:
        values = call.get()
    except BaseException as error:
        stream._deliver(index, False, error)
    else:
        stream._deliver(index, True, values if chunk > 1 else values[0])


# --------------------------------------------------------------------------------------
# Futures
# --------------------------------------------------------------------------------------


class Future(concurrent.futures.Future[R]):
    """
    A `concurrent.futures.Future` of a pool.

    A task of the same pool that waits for it runs its call itself, if no worker has
    begun it yet: so nested calls cannot deadlock.
    """

    _call: AsyncResult[R] | None = None

    def _help(self, timeout: float | None) -> None:
        if timeout is None and self._call is not None and not self.done():
            self._call._help()

    def result(self, timeout: float | None = None) -> R:
        """
        Return the result, as `concurrent.futures.Future.result`.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait; by default for ever.

        Returns
        -------
        object
            What the call returned.

        Raises
        ------
        TimeoutError
            If it has not come in time.
        CancelledError
            If the Future was cancelled.
        Exception
            What the call raised.
        """
        self._help(timeout)
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """
        Return the exception, as `concurrent.futures.Future.exception`.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait; by default for ever.

        Returns
        -------
        BaseException or None
            What the call raised, or None if it returned.

        Raises
        ------
        TimeoutError
            If it has not ended in time.
        CancelledError
            If the Future was cancelled.
        """
        self._help(timeout)
        return super().exception(timeout)


def submit_to(
    engine: Engine,
    func: Callable[..., R],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Future[R]:
    """Start a call that a Future mirrors."""
    future: Future[R] = Future()
    call = AsyncResult(func, args, kwargs, None, None, None, future)
    future._call = call
    engine.start(call)
    return future


class PoolExecutor(concurrent.futures.Executor):
    """
    A pool as a `concurrent.futures.Executor`; `shutdown` closes the pool.

    Parameters
    ----------
    pool : PoolBase
        The pool whose workers run what is submitted.
    """

    def __init__(self, pool: PoolBase) -> None:
        self._pool = pool
        self._max_workers = pool._engine.workers

    def submit(
        self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[R]:
        """Start ``fn(*args, **kwargs)`` and return its Future."""
        if self._pool._state != RUN:
            raise RuntimeError("cannot schedule new futures after shutdown")
        return submit_to(self._pool._engine, fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Close the pool, as `concurrent.futures.Executor.shutdown`."""
        if cancel_futures:
            self._pool.terminate()
        else:
            self._pool.close()
        if wait:
            self._pool.join()


# --------------------------------------------------------------------------------------
# Pools
# --------------------------------------------------------------------------------------


class PoolBase:
    """
    The methods of every pool.

    Parameters
    ----------
    engine : Engine
        What runs the tasks.
    """

    _executor_type: ClassVar[type[PoolExecutor]] = PoolExecutor
    _state = TERMINATE  # until __init__ is through

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lane = CallbackLane()
        self._start = engine.start
        self._state = RUN

    # -- life --------------------------------------------------------------------------

    def _check_running(self) -> None:
        if self._state != RUN:
            raise ValueError("Pool not running")

    def __enter__(self) -> Self:
        self._check_running()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.terminate()

    def __del__(self, _warn: Any = warnings.warn, _category: Any = ResourceWarning) -> None:
        if self._state == RUN:
            _warn(f"unclosed running multiprocessing pool {self!r}", _category, source=self)
            self._state = CLOSE
            self._engine.close()

    def __repr__(self) -> str:
        cls = type(self)
        return (
            f"<{cls.__module__}.{cls.__qualname__} state={self._state} "
            f"pool_size={self._engine.workers}>"
        )

    def __reduce__(self) -> Any:
        raise NotImplementedError(
            "pool objects cannot be passed between processes or pickled"
        )

    def close(self) -> None:
        """
        Take no more tasks; the workers end when those there are have been done.

        See Also
        --------
        terminate : Cancel what has not begun.
        join : Wait for the workers to end.
        """
        if self._state == RUN:
            self._state = CLOSE
            self._engine.close()

    def terminate(self) -> None:
        """
        Cancel all tasks that have not begun, and end.

        Whoever waits for one of them gets `concurrent.futures.CancelledError`.  Leaving
        a ``with`` block terminates the pool.

        See Also
        --------
        close : Let the tasks end.
        """
        self._state = TERMINATE
        self._engine.terminate()

    def join(self) -> None:
        """
        Wait until all workers have ended, after `close` or `terminate`.

        An iterator that has more input than its `buffersize` lets in does not keep the
        workers: whoever takes its results after that computes the rest.

        Raises
        ------
        ValueError
            If the pool is still running.
        """
        if self._state == RUN:
            raise ValueError("Pool is still running")
        self._engine.join()

    # -- one call ----------------------------------------------------------------------

    def apply(
        self,
        func: Callable[..., R],
        args: Sequence[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        retries: int = 0,
    ) -> R:
        """
        Run ``func(*args, **kwds)`` on a worker and return its result.

        Parameters
        ----------
        func : callable
            What to call.
        args : sequence, optional
            Its positional arguments.
        kwds : mapping, optional
            Its keyword arguments.
        timeout : float, optional
            Seconds that it may run; then `TimeoutError` is raised here and, as soon as
            it runs Python code, in the task.
        retries : int, optional
            How often to call `func` again when it raises an Exception.  The time limit
            is one for all attempts.

        Returns
        -------
        object
            What `func` returned.

        Raises
        ------
        ValueError
            If the pool is closed.
        TypeError
            If `func` is not callable.

        See Also
        --------
        apply_async : The same without waiting.
        """
        value: R = self._wait_for(
            self.apply_async(func, args, kwds, timeout=timeout, retries=retries)
        )
        return value

    def _wait_for(self, result: AsyncResult[Any]) -> Any:
        """Get a result that nobody else can have."""
        try:
            return result.get()
        except KeyboardInterrupt:
            if not result.ready():
                self._engine.abandon(result)
            raise

    def apply_async(
        self,
        func: Callable[..., R],
        args: Sequence[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        callback: Callable[[R], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        timeout: float | None = None,
        retries: int = 0,
    ) -> AsyncResult[R]:
        """
        Start ``func(*args, **kwds)`` on a worker and return its result-to-be.

        Parameters
        ----------
        func : callable
            What to call.
        args : sequence, optional
            Its positional arguments.
        kwds : mapping, optional
            Its keyword arguments.
        callback, error_callback : callable, optional
            Called with the result or with the exception, before the result is ready,
            in a worker; one at a time for the whole pool, so they should be quick and
            not wait for other results of the pool that have callbacks.  What they raise
            goes to `threading.excepthook`.
        timeout : float, optional
            Seconds that it may run; then the result is `TimeoutError`, which is also
            raised in the task as soon as it runs Python code.
        retries : int, optional
            How often to call `func` again when it raises an Exception.

        Returns
        -------
        AsyncResult
            Has `get`, `wait`, `ready`, `successful`, `cancel`, and can be awaited.

        Raises
        ------
        ValueError
            If the pool is closed.
        TypeError
            If `func` is not callable.

        See Also
        --------
        submit : The same with a `concurrent.futures.Future`.
        """
        call: AsyncResult[R]
        if callback is None and error_callback is None and timeout is None and not retries:
            call = AsyncResult(func, args, kwds)
        else:
            call = AsyncResult(
                _with_retries(func, retries),
                args,
                kwds,
                callback,
                error_callback,
                self._lane,
                None,
                _time_limit(timeout),
            )
        self._start(call)
        return call

    def submit(
        self, func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]:
        """
        Start ``func(*args, **kwargs)`` on a worker and return its Future.

        Parameters
        ----------
        func : callable
            What to call.
        *args, **kwargs
            Its arguments.

        Returns
        -------
        Future
            A `concurrent.futures.Future`.

        Raises
        ------
        ValueError
            If the pool is closed.
        TypeError
            If `func` is not callable.

        See Also
        --------
        as_completed : Futures in the order in which they are done.
        """
        self._check_running()
        return submit_to(self._engine, func, args, kwargs)

    def as_completed(
        self,
        results: Iterable[AsyncResult[R] | concurrent.futures.Future[R]],
        timeout: float | None = None,
    ) -> Iterator[Any]:
        """
        Yield results in the order in which they are done.

        Parameters
        ----------
        results : iterable of AsyncResult or Future
            What `submit`, `apply_async` or `map_async` returned.
        timeout : float, optional
            Seconds that all of them may take, from the first `next` on.

        Yields
        ------
        AsyncResult or Future
            Each of `results`, ready.

        Raises
        ------
        TimeoutError
            If they are not all done in time.
        """
        done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        pending = list(dict.fromkeys(results))
        deadline = None if timeout is None else time.monotonic() + timeout
        for result in pending:
            if isinstance(result, concurrent.futures.Future):
                result.add_done_callback(done.put)
            else:
                result._then(functools.partial(done.put, result))
        for result in pending:
            # In a worker of this pool nobody else may be there to run them.
            if done.empty():
                _help(result)
            yield _take(done, deadline)

    # -- many calls --------------------------------------------------------------------

    def _start_map(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        star: bool,
        chunksize: int | None,
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
        out: np.ndarray[Any, Any] | None,
        timeout: float | None,
        retries: int,
    ) -> MapResult[Any]:
        self._check_running()
        func = _with_retries(func, retries)
        limit = _time_limit(timeout)
        items = _as_items(iterable)
        if out is not None:
            _check_out(out, len(items))
        if chunksize is None:
            chunk = self._engine.default_chunk(len(items))
        else:
            chunk = _whole_number(chunksize, "chunksize", 1)
        result: MapResult[Any] = MapResult(
            func, items, chunk, star, out, callback, error_callback, self._lane
        )
        if len(items) == 0:
            result._settle(True, [] if out is None else out)
        else:
            self._engine.start_map(result, limit)
        return result

    def map(
        self,
        func: Callable[[T], R],
        iterable: Iterable[T],
        chunksize: int | None = None,
        *,
        out: np.ndarray[Any, Any] | None = None,
        timeout: float | None = None,
        retries: int = 0,
        progress: bool = False,
    ) -> Any:
        """
        Call `func` on every item and return the results in the order of the items.

        Parameters
        ----------
        func : callable
            Called with one item.
        iterable : iterable
            The items; it is read to its end before the first call.  The rows of an
            array are handed out as views.
        chunksize : int, optional
            How many items a worker takes at a time.
        out : ndarray of shape (number of items, ...), optional
            Results are written to its rows, and it is returned.
        timeout : float, optional
            Seconds that each call may run.
        retries : int, optional
            How often each call is repeated when it raises an Exception.
        progress : bool, optional
            Show a bar (needs tqdm).

        Returns
        -------
        list or ndarray
            The results, or `out`.

        Raises
        ------
        Exception
            What the first failing call raised; as in the standard library the other
            calls are made all the same, apart from the rest of its chunk.

        See Also
        --------
        imap : Results one by one, input as it is needed.
        """
        result = self.map_async(
            func,
            iterable,
            chunksize,
            out=out,
            timeout=timeout,
            retries=retries,
            progress=progress,
        )
        return self._get_with_bar(result)

    def map_async(
        self,
        func: Callable[[T], R],
        iterable: Iterable[T],
        chunksize: int | None = None,
        callback: Callable[[list[R]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        out: np.ndarray[Any, Any] | None = None,
        timeout: float | None = None,
        retries: int = 0,
        progress: bool = False,
    ) -> MapResult[R]:
        """
        Start what `map` does and return its result-to-be.

        Parameters
        ----------
        func, iterable, chunksize, out, timeout, retries, progress
            As for `map`.
        callback, error_callback : callable, optional
            As for `apply_async`; called once, with the list or the first exception.

        Returns
        -------
        MapResult
            An AsyncResult with `completed` and `total`.

        See Also
        --------
        map : The same, waiting.
        """
        return self._map_with_bar(
            func,
            iterable,
            False,
            chunksize,
            callback,
            error_callback,
            out,
            timeout,
            retries,
            progress,
        )

    def starmap(
        self,
        func: Callable[..., R],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        *,
        out: np.ndarray[Any, Any] | None = None,
        timeout: float | None = None,
        retries: int = 0,
        progress: bool = False,
    ) -> Any:
        """
        Call ``func(*item)`` on every item; otherwise as `map`.

        Parameters
        ----------
        func : callable
            Called with the parts of one item.
        iterable : iterable of iterables
            The items.
        chunksize, out, timeout, retries, progress
            As for `map`.

        Returns
        -------
        list or ndarray
            The results, or `out`.

        See Also
        --------
        map : For functions of one argument.
        """
        result = self.starmap_async(
            func,
            iterable,
            chunksize,
            out=out,
            timeout=timeout,
            retries=retries,
            progress=progress,
        )
        return self._get_with_bar(result)

    def starmap_async(
        self,
        func: Callable[..., R],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[R]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        out: np.ndarray[Any, Any] | None = None,
        timeout: float | None = None,
        retries: int = 0,
        progress: bool = False,
    ) -> MapResult[R]:
        """
        Start what `starmap` does and return its result-to-be.

        Parameters
        ----------
        func, iterable, chunksize, out, timeout, retries, progress
            As for `starmap`.
        callback, error_callback : callable, optional
            As for `map_async`.

        Returns
        -------
        MapResult
            An AsyncResult with `completed` and `total`.

        See Also
        --------
        starmap : The same, waiting.
        """
        return self._map_with_bar(
            func,
            iterable,
            True,
            chunksize,
            callback,
            error_callback,
            out,
            timeout,
            retries,
            progress,
        )

    def _map_with_bar(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        star: bool,
        chunksize: int | None,
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
        out: np.ndarray[Any, Any] | None,
        timeout: float | None,
        retries: int,
        progress: bool,
    ) -> MapResult[Any]:
        bar_type = _bar_type() if progress else None
        result = self._start_map(
            func,
            iterable,
            star,
            chunksize,
            callback,
            error_callback,
            out,
            timeout,
            retries,
        )
        if bar_type is not None:
            _bars[result] = _show_progress(result, bar_type(total=result.total))
        return result

    def _get_with_bar(self, result: MapResult[Any]) -> Any:
        try:
            return self._wait_for(result)
        finally:
            thread = _bars.pop(result, None)
            if thread is not None and result.ready():
                thread.join()

    def imap(
        self,
        func: Callable[[T], R],
        iterable: Iterable[T],
        chunksize: int = 1,
        *,
        buffersize: int | None = None,
        timeout: float | None = None,
        retries: int = 0,
        progress: bool = False,
    ) -> Any:
        """
        Call `func` on every item and give the results one by one, in order.

        Parameters
        ----------
        func : callable
            Called with one item.
        iterable : iterable
            The items; the workers advance it, one at a time, while results are taken.
        chunksize : int, optional
            How many items make one task.
        buffersize : int, optional
            How many items may be on their way: taken from the input, and their results
            not yet taken by you.  It makes endless inputs possible.  By default, as in
            the standard library, the input is read as fast as it can be.
        timeout : float, optional
            Seconds that each call may run.
        retries : int, optional
            How often each call is repeated when it raises an Exception.
        progress : bool, optional
            Show a bar (needs tqdm).

        Returns
        -------
        ResultIterator
            Has `next` with a `timeout`, `close`, which cancels the rest, and works with
            ``for`` and ``async for``.  It raises what a call raised in its place, and
            goes on after that; an error of the input comes last.

        See Also
        --------
        imap_unordered : Results as soon as they are there.
        """
        return self._start_stream(
            func, iterable, True, chunksize, buffersize, timeout, retries, progress
        )

    def imap_unordered(
        self,
        func: Callable[[T], R],
        iterable: Iterable[T],
        chunksize: int = 1,
        *,
        buffersize: int | None = None,
        timeout: float | None = None,
        retries: int = 0,
        progress: bool = False,
    ) -> Any:
        """
        Call `func` on every item and give the results in the order of their arrival.

        Parameters
        ----------
        func, iterable, chunksize, buffersize, timeout, retries, progress
            As for `imap`.

        Returns
        -------
        ResultIterator
            As for `imap`.

        See Also
        --------
        imap : Results in the order of the items.
        """
        return self._start_stream(
            func, iterable, False, chunksize, buffersize, timeout, retries, progress
        )

    def _start_stream(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        ordered: bool,
        chunksize: int,
        buffersize: int | None,
        timeout: float | None,
        retries: int,
        progress: bool,
    ) -> Any:
        self._check_running()
        func = _with_retries(func, retries)
        time_limit = _time_limit(timeout)
        chunk = _whole_number(chunksize, "chunksize", 1)
        limit = 0
        if buffersize is not None:
            limit = max(1, _whole_number(buffersize, "buffersize", 1) // chunk)
        bar_type = _bar_type() if progress else None
        stream: ResultIterator[Any] = ResultIterator(
            func, iterable, chunk, False, ordered, limit
        )
        total = operator.length_hint(iterable) or None
        self._engine.start_stream(stream, time_limit)
        return (
            stream if bar_type is None else ProgressIterator(stream, bar_type(total=total))
        )

    # -- other faces -------------------------------------------------------------------

    @functools.cached_property
    def executor(self) -> concurrent.futures.Executor:
        """The pool as a `concurrent.futures.Executor`."""
        return self._executor_type(self)

    def stats(self) -> PoolStats:
        """
        Tell what the pool and each of its workers have done so far.

        Returns
        -------
        PoolStats
            Tasks, time in the queue, time in tasks, time waited for Python's lock.
        """
        return self._engine.stats()


# The threads that move the bars of maps, so that map() ends after its bar.
_bars: weakref.WeakKeyDictionary[MapResult[Any], threading.Thread] = (
    weakref.WeakKeyDictionary()
)


def _help(result: AsyncResult[Any] | concurrent.futures.Future[Any]) -> None:
    if isinstance(result, Future):
        result._help(None)
    elif isinstance(result, AsyncResult):
        result._help()


def _take(done: queue.SimpleQueue[Any], deadline: float | None) -> Any:
    left = None if deadline is None else max(0.0, deadline - time.monotonic())
    try:
        return done.get(timeout=left)
    except queue.Empty:
        raise TimeoutError("not all results came in time") from None
