"""
Results of pools in asyncio, which is imported by those who use it.

The core calls what is here when a result is awaited, and when an error is left that nobody
can get any more.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import threading
from collections.abc import (
    Generator,
)
from typing import (
    TYPE_CHECKING,
    Any,
    TypeVar,
)

from pydistrib import _core
from pydistrib._core import AsyncResult, ResultIterator
from pydistrib.errors import TimeoutError

if TYPE_CHECKING:
    import asyncio

R = TypeVar("R")


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
        return result.get()
    except asyncio.CancelledError:
        result.cancel()
        raise
    finally:
        del result  # an exception refers to this frame, and the result to it


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


def install() -> None:
    """Tell the core what to raise, and what to call for asyncio and for lost errors."""
    cancelled = concurrent.futures.CancelledError
    _core._set_pool_hooks(TimeoutError, cancelled, _await, _anext, _report)
