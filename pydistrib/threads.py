"""
Threads, locks and counters: `threading`, with results.

`Thread` is `threading.Thread` and keeps what its target returns or raises.  The locks are
the standard library's own.  `Counter` and `Local` count without one.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from threading import (
    Barrier,
    BoundedSemaphore,
    Condition,
    Event,
    Lock,
    RLock,
    Semaphore,
)
from typing import Any, Generic, TypeVar, cast, overload

from pydistrib._core import Counter
from pydistrib.errors import TimeoutError

__all__ = [
    "Barrier",
    "BoundedSemaphore",
    "Condition",
    "Counter",
    "Event",
    "Local",
    "Lock",
    "RLock",
    "Semaphore",
    "Thread",
]

T = TypeVar("T")
R = TypeVar("R")

# Threads whose failure nobody has read yet, by identity: a Thread need not be hashable.
_unread: dict[int, weakref.ref[Thread[Any]]] = {}


class Thread(threading.Thread, Generic[R]):
    """
    `threading.Thread` with a `result`.

    Parameters
    ----------
    group : None
        For the standard library's sake.
    target : callable, optional
        What the thread calls.
    name : str, optional
        Its name.
    args : iterable, optional
        Positional arguments of `target`.
    kwargs : mapping, optional
        Keyword arguments of `target`.
    daemon : bool, optional
        Whether the program may end while the thread runs.

    See Also
    --------
    ThreadPool : Many tasks on a few threads.

    Notes
    -----
    If `target` raises, `result` raises the same.  A failure that nobody has read by the
    time the object goes away, or at exit, is given to `threading.excepthook`, once.
    A subclass that overrides `run` has no result; its failures are handled as in the
    standard library.

    Examples
    --------
    >>> from pydistrib import Thread
    >>> thread = Thread(target=pow, args=(2, 10))
    >>> thread.start()
    >>> thread.result()
    1024
    """

    _value: R | None = None
    _error: BaseException | None = None

    def __init__(
        self,
        group: None = None,
        target: Callable[..., R] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        daemon: bool | None = None,
    ) -> None:
        super().__init__(group, target, name, args, kwargs, daemon=daemon)

    def run(self) -> None:
        """Call the target and keep its result or its exception."""
        try:
            if self._target is not None:  # type: ignore[attr-defined]
                self._value = self._target(*self._args, **self._kwargs)  # type: ignore[attr-defined]
        except BaseException as error:
            self._error = error
            _unread[id(self)] = weakref.ref(self)
        finally:
            # As in the standard library: the arguments may refer to this thread.
            del self._target, self._args, self._kwargs  # type: ignore[attr-defined]

    def result(self, timeout: float | None = None) -> R:
        """
        Wait for the thread and return what its target returned.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait; by default for ever.

        Returns
        -------
        object
            What `target` returned; the same at every call.

        Raises
        ------
        TimeoutError
            If the thread has not ended in time.
        RuntimeError
            If it was not started, or is the calling thread.
        Exception
            What `target` raised.
        """
        self.join(timeout)
        if self.is_alive():
            raise TimeoutError(f"{self.name} has not ended after {timeout} s")
        _unread.pop(id(self), None)
        if self._error is not None:
            raise self._error
        return cast(R, self._value)

    def __del__(self) -> None:
        if _unread.pop(id(self), None) is not None:
            _report(self)


def _report(thread: Thread[Any]) -> None:
    error = thread._error
    if error is not None:
        threading.excepthook(
            threading.ExceptHookArgs((type(error), error, error.__traceback__, thread))
        )


def _report_all() -> None:
    while _unread:
        _, reference = _unread.popitem()
        thread = reference()
        if thread is not None:
            _report(thread)


atexit.register(_report_all)


class Local(Generic[T]):
    """
    A value of its own for each thread, put together when it is read.

    Parameters
    ----------
    make : callable, optional
        Makes the value that a thread begins with; by default 0.

    Attributes
    ----------
    value
        The calling thread's value.

    See Also
    --------
    Counter : One number that all threads add to.

    Notes
    -----
    Only its own thread changes a value, so ``local.value += 1`` loses nothing and needs
    no lock.  The values of threads that have ended are kept.

    Examples
    --------
    >>> from pydistrib import Local, ThreadPool
    >>> seen = Local()
    >>> def count(item):
    ...     seen.value += 1
    >>> with ThreadPool(2) as pool:
    ...     _ = pool.map(count, range(100))
    >>> seen.total()
    100
    """

    @overload
    def __init__(self: Local[int]) -> None: ...
    @overload
    def __init__(self, make: Callable[[], T]) -> None: ...
    def __init__(self, make: Callable[[], Any] = int) -> None:
        if not callable(make):
            raise TypeError(f"make must be callable, not {type(make).__name__}")
        self._make = make
        self._local = threading.local()
        self._cells: list[list[T]] = []  # one of length 1 for each thread; only grows

    def _cell(self) -> list[T]:
        try:
            return cast("list[T]", self._local.cell)
        except AttributeError:
            cell = self._local.cell = [self._make()]
            self._cells.append(cell)
            return cell

    @property
    def value(self) -> T:
        """The calling thread's value."""
        return self._cell()[0]

    @value.setter
    def value(self, value: T) -> None:
        self._cell()[0] = value

    def values(self) -> list[T]:
        """
        List the values of all threads that have one.

        Returns
        -------
        list
            In the order in which the threads first used theirs.
        """
        return [cell[0] for cell in list(self._cells)]

    def total(self, combine: Callable[[list[T]], Any] = sum) -> Any:
        """
        Put the values of all threads together.

        Parameters
        ----------
        combine : callable, optional
            Called with the list of `values`; by default their sum.

        Returns
        -------
        object
            What `combine` returned.
        """
        return combine(self.values())
