"""Progress bars of maps and of streams, by tqdm: the terminal's or the notebook's."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from typing import (
    Any,
    Generic,
    Self,
    TypeVar,
)

from pydistrib._core import MapResult, ResultIterator

R = TypeVar("R")


def bar_type() -> Any:
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


def show_progress(result: MapResult[Any], bar: Any) -> threading.Thread:
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
