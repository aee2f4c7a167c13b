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

import concurrent.futures
import functools
import operator
import queue
import threading
import time
import warnings
import weakref
from collections.abc import (
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from types import TracebackType
from typing import (
    Any,
    ClassVar,
    Final,
    ParamSpec,
    Self,
    TypeVar,
)

import numpy as np

from pydistrib._core import AsyncResult, CallbackLane, MapResult, ResultIterator
from pydistrib.errors import TimeoutError
from pydistrib.pools import awaiting
from pydistrib.pools.arguments import (
    as_items,
    check_out,
    time_limit,
    whole_number,
    with_retries,
)
from pydistrib.pools.engine import Engine, PoolStats
from pydistrib.pools.futures import Future, submit_to
from pydistrib.pools.progress import ProgressIterator, bar_type, show_progress

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")

# The values of a pool's state, as in multiprocessing.pool.
RUN: Final = "RUN"
CLOSE: Final = "CLOSE"
TERMINATE: Final = "TERMINATE"

awaiting.install()


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

    def _wait_for(self, result: AsyncResult[R]) -> R:
        """Get a result that nobody else can have."""
        try:
            return result.get()
        except KeyboardInterrupt:
            if not result.ready():
                self._engine.abandon(result)
            raise
        finally:
            del result  # an exception refers to this frame, and the result to it

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
                with_retries(func, retries),
                args,
                kwds,
                callback,
                error_callback,
                self._lane,
                None,
                time_limit(timeout),
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
        func = with_retries(func, retries)
        limit = time_limit(timeout)
        items = as_items(iterable)
        if out is not None:
            check_out(out, len(items))
        if chunksize is None:
            chunk = self._engine.default_chunk(len(items))
        else:
            chunk = whole_number(chunksize, "chunksize", 1)
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
        new_bar = bar_type() if progress else None
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
        if new_bar is not None:
            _bars[result] = show_progress(result, new_bar(total=result.total))
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
        func = with_retries(func, retries)
        seconds = time_limit(timeout)
        chunk = whole_number(chunksize, "chunksize", 1)
        limit = 0
        if buffersize is not None:
            limit = max(1, whole_number(buffersize, "buffersize", 1) // chunk)
        new_bar = bar_type() if progress else None
        stream: ResultIterator[Any] = ResultIterator(
            func, iterable, chunk, False, ordered, limit
        )
        total = operator.length_hint(iterable) or None
        self._engine.start_stream(stream, seconds)
        return stream if new_bar is None else ProgressIterator(stream, new_bar(total=total))

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
