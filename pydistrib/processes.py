"""
Processes: `multiprocessing`, with results.

`Process` is the standard library's and keeps what its target returns or raises.
`get_context` gives what `multiprocessing.get_context` gives, with our `Process` and `Pool`.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.context
import multiprocessing.process
import pickle
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, SupportsIndex, TypeVar, cast

from pydistrib.errors import TimeoutError
from pydistrib.pools import pickling
from pydistrib.pools.broken import WorkerDied
from pydistrib.pools.failures import pack_failure, unpack_failure
from pydistrib.pools.process_tasks import describe
from pydistrib.pools.processes import Pool as _Pool
from pydistrib.pools.processes import ProcessPoolExecutor as _Executor

__all__ = ["Context", "Process", "get_context"]

R = TypeVar("R")


class _Send:
    """The target of a `Process`, in the child: it sends the outcome."""

    def __init__(self, target: bytes | Callable[..., Any], link: Any) -> None:
        self.target = target
        self.link = link

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        with self.link:
            try:
                target = self.target
                if isinstance(target, bytes):
                    target, args, kwargs = pickle.loads(target)
                value = target(*args, **kwargs)
                data = pickling.dumps_result(value, None)
            except SystemExit:
                raise  # it has no result, but an exit code
            except BaseException as error:
                self.send(False, pack_failure(error))
                raise
            self.send(True, data)

    def send(self, success: bool, data: bytes) -> None:
        # A parent that has gone needs no result.
        with contextlib.suppress(OSError):
            self.link.send_bytes(bytes((success,)) + data)


def _slice(deadline: float | None) -> float:
    return 0.2 if deadline is None else max(0.0, min(0.2, deadline - time.monotonic()))


class _ProcessMixin(Generic[R]):
    """What `Process` adds to a class of multiprocessing's."""

    _receiver: multiprocessing.connection.Connection | None = None
    _sender: multiprocessing.connection.Connection | None = None
    _outcome: tuple[bool, Any] | None = None
    _task = "its target"

    def start(self) -> None:
        """Start the process; at most once."""
        target = self._target  # type: ignore[has-type]
        overridden = type(self).run is not multiprocessing.process.BaseProcess.run  # type: ignore[attr-defined]
        if target is None or overridden or self._receiver is not None:
            super().start()  # type: ignore[misc]
            return
        self._task = describe(target)
        self._receiver, self._sender = multiprocessing.Pipe(duplex=False)
        sent: Any = target
        kept = (self._target, self._args, self._kwargs)  # type: ignore[has-type]
        if self._start_method_name() != "fork":
            sent = self._by_value(target)
        self._target = _Send(sent, self._sender)
        if isinstance(sent, bytes):
            self._args: tuple[Any, ...] = ()
            self._kwargs: dict[str, Any] = {}
        try:
            super().start()  # type: ignore[misc]
        except BaseException:
            self._target, self._args, self._kwargs = kept
            self._receiver.close()
            self._receiver = None
            raise
        finally:
            self._sender.close()
            self._sender = None

    def _start_method_name(self) -> str | None:
        method = getattr(type(self), "_start_method", None)
        return method or multiprocessing.get_start_method()

    def _by_value(self, target: Any) -> Any:
        """Pickle the call if the child could not find its target by name."""
        module = sys.modules["__main__"]
        interactive = getattr(module, "__file__", None) is None
        try:
            data = pickle.dumps(target)
            known = not (interactive and b"__main__" in data)
        except Exception:
            known = False
        if known:
            return target
        return pickling.dumps((target, self._args, self._kwargs), None)

    def _receive(self, timeout: float | None) -> None:
        """Wait for the outcome; it may be larger than a pipe holds."""
        receiver = self._receiver
        if receiver is None or self._outcome is not None:
            return
        deadline = None if timeout is None else time.monotonic() + timeout
        # The pipe's end may have been inherited by others: it alone says nothing of a
        # death, so this looks for one now and then.
        while not receiver.poll(_slice(deadline)):
            if not self.is_alive() and not receiver.poll(0):  # type: ignore[attr-defined]
                self._outcome = (False, None)
                break
            if deadline is not None and time.monotonic() >= deadline:
                return
        if self._outcome is None:
            try:
                data = receiver.recv_bytes()
            except (EOFError, OSError):
                self._outcome = (False, None)
            else:
                self._outcome = (bool(data[0]), data[1:])
        receiver.close()
        self._receiver = None

    def join(self, timeout: float | None = None) -> None:
        """Wait until the process has ended, or for `timeout` seconds."""
        if self._receiver is not None:
            self._receive(timeout)
        super().join(timeout)  # type: ignore[misc]

    def result(self, timeout: float | None = None) -> R:
        """
        Wait for the process and return what its target returned.

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
            If the process has not ended in time.
        WorkerDied
            If it ended without a result: it was killed, crashed, or exited.
        RuntimeError
            If it was not started, or has no target.
        Exception
            What `target` raised.
        """
        if self._popen is None:  # type: ignore[attr-defined]
            raise RuntimeError("cannot give the result of a process before it is started")
        if self._receiver is None and self._outcome is None:
            raise RuntimeError("a process without a target has no result")
        self._receive(timeout)
        if self._outcome is None:
            raise TimeoutError(f"{self.name} has not ended after {timeout} s")  # type: ignore[attr-defined]
        self.join(5)
        success, data = self._outcome
        if data is None:
            raise WorkerDied(self._task, self.pid, self.exitcode or 0)  # type: ignore[attr-defined]
        if success:
            if isinstance(data, bytes):
                self._outcome = (True, [pickling.loads(data)])
            return cast(R, self._outcome[1][0])
        if isinstance(data, bytes):
            self._outcome = (False, unpack_failure(data)[1])
        raise self._outcome[1]

    def close(self) -> None:
        """Let go of the process's resources, as `multiprocessing.Process.close`."""
        super().close()  # type: ignore[misc]
        if self._receiver is not None:
            self._receiver.close()
            self._receiver = None

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        state.pop("_receiver", None)  # the parent's end
        state.pop("_sender", None)
        return state


class Process(_ProcessMixin[R], multiprocessing.Process):
    """
    `multiprocessing.Process` with a `result`.

    Parameters
    ----------
    group : None
        For the standard library's sake.
    target : callable, optional
        What the process calls.
    name : str, optional
        Its name.
    args : iterable, optional
        Positional arguments of `target`.
    kwargs : mapping, optional
        Keyword arguments of `target`.
    daemon : bool, optional
        Whether it is killed at the end of the program.

    See Also
    --------
    Pool : Many tasks on a few processes.

    Notes
    -----
    It is started as `multiprocessing.set_start_method` says.  A target that the child can't
    find by its name (a lambda, a closure, a function of a notebook) is sent itself.  If
    `target` raises, `result` raises the same, and the child prints the traceback, as the
    standard library's does.

    Examples
    --------
    >>> from pydistrib import Process
    >>> process = Process(target=pow, args=(2, 10))
    >>> process.start()
    >>> process.result()
    1024
    """

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
        super().__init__(group, target, name, args, dict(kwargs or {}), daemon=daemon)


class _ForkProcess(_ProcessMixin[Any], multiprocessing.context.ForkProcess):
    pass


class _ForkServerProcess(_ProcessMixin[Any], multiprocessing.context.ForkServerProcess):
    pass


class _SpawnProcess(_ProcessMixin[Any], multiprocessing.context.SpawnProcess):
    pass


_PROCESSES = {
    "fork": _ForkProcess,
    "forkserver": _ForkServerProcess,
    "spawn": _SpawnProcess,
}


class Context:
    """
    A context of multiprocessing, with pydistrib's `Process`, `Pool` and executor.

    Everything else is the standard context's.

    Parameters
    ----------
    method : str or None
        The start method; None: what is the default when it is used.
    """

    def __init__(self, method: str | None) -> None:
        self._context = multiprocessing.get_context(method)
        self._method = method
        self.Process: type[Any] = Process if method is None else _PROCESSES[method]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def __repr__(self) -> str:
        return f"<pydistrib context {self._method or 'default'}>"

    def Pool(
        self,
        processes: SupportsIndex | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
    ) -> _Pool:
        """Make a `Pool` whose workers are started so."""
        return _Pool(processes, initializer, initargs, maxtasksperchild, self._method)

    def ProcessPoolExecutor(
        self, max_workers: SupportsIndex | None = None, **options: Any
    ) -> _Executor:
        """Make a `ProcessPoolExecutor` whose workers are started so."""
        return _Executor(max_workers, self._method, **options)

    def get_context(self, method: str | None = None) -> Context:
        """Give this context, or another one."""
        return self if method is None else Context(method)


def get_context(method: str | None = None) -> Context:
    """
    Give a context whose processes and pools are started in one way.

    Parameters
    ----------
    method : str, optional
        ``"fork"``, ``"forkserver"`` or ``"spawn"``; None for the default.

    Returns
    -------
    Context
        Has what `multiprocessing.get_context` returns, with pydistrib's `Process` and
        `Pool`.

    Raises
    ------
    ValueError
        If there is no such start method.

    See Also
    --------
    Pool : Takes a context.

    Examples
    --------
    >>> import pydistrib
    >>> with pydistrib.get_context("fork").Pool(2) as pool:
    ...     pool.map(abs, [-1, 2])
    [1, 2]
    """
    return Context(method)
