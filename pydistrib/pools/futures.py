"""Futures of a pool: real ones of `concurrent.futures`."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any, TypeVar

from pydistrib._core import AsyncResult
from pydistrib.pools.engine import Engine

R = TypeVar("R")


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

    def cancel(self) -> bool:
        """Cancel the call, in a process also while it runs; True if that was done."""
        if self._call is not None and self._call._canceller is not None:
            return self._call.cancel()
        return super().cancel()

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
