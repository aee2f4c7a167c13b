"""
Arrays that many tasks of a cluster get: sent once, and known by their identity.

Before an array is used again its content is compared, by a digest, with what was sent: one
that was changed between two calls is sent anew.
"""

from __future__ import annotations

import functools
import hashlib
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Scattered:
    """
    What `DaskPool.scatter` returns: data that lies on the workers.

    Given as an argument, or anywhere inside of one, a task gets the data in its place.

    Attributes
    ----------
    value : object
        The data; kept, so that it can be sent again when its worker is lost.
    """

    def __init__(self, value: Any) -> None:
        self.value = value
        self._future: Any = None

    def result(self, timeout: float | None = None) -> Any:
        """Return the data."""
        return self.value

    def __reduce__(self) -> Any:
        raise TypeError("scattered data can only be sent to the pool that scattered it")


@dataclass(eq=False)
class Entry:
    """An array that was seen; `future` is None until it is sent apart."""

    ref: weakref.ref[NDArray[Any]]
    digest: bytes = b""
    future: Any = None
    checked: float = 0.0


def _digest(array: NDArray[Any]) -> bytes:
    plain = array if array.flags.c_contiguous else array.ravel(order="K")
    if not plain.flags.c_contiguous:
        plain = np.ascontiguousarray(plain)
    return hashlib.sha256(plain.reshape(-1).view(np.uint8).data).digest()


def is_lost(future: Any) -> bool:
    return bool(future.status in ("cancelled", "lost", "error"))


class Arrays:
    """The arrays that were sent apart; used by the engine's thread alone."""

    def __init__(self, send: Callable[[Any], Any]) -> None:
        self.send = send
        self.entries: dict[int, Entry] = {}

    def future_of(self, array: NDArray[Any], needed: float, alone: int) -> Any:
        """
        Give the future of an array, or None if it is to travel with its call.

        `needed` is when the call was made: it may see the array as it was at any time
        after that.  `alone` is the size from which an array that was never seen before
        is sent apart.
        """
        entry = self.entries.get(id(array))
        if entry is None or entry.ref() is not array:
            entry = self._remember(array)
            if array.nbytes < alone:
                return None
        if entry.future is not None and not is_lost(entry.future):
            if needed <= entry.checked:
                return entry.future
            now = time.monotonic()
            if _digest(array) == entry.digest:
                entry.checked = now
                return entry.future
        now = time.monotonic()
        entry.digest = _digest(array)
        view = np.asarray(array).view()
        view.flags.writeable = False  # the tasks of a worker share it
        entry.future = self.send(view)
        entry.checked = now
        return entry.future

    def _remember(self, array: NDArray[Any]) -> Entry:
        key = id(array)

        def forget(ref: weakref.ref[NDArray[Any]]) -> None:
            entry = self.entries.get(key)
            if entry is not None and entry.ref is ref:
                del self.entries[key]

        entry = Entry(weakref.ref(array, forget))
        self.entries[key] = entry
        return entry


class HasDaskFuture(Exception):
    """There is a Dask future among the arguments."""


def with_data(obj: Any) -> Any:
    """Put scattered data in its place, in containers of Python's own."""
    kind = type(obj)
    if kind is Scattered:
        return obj.value
    if kind in (list, tuple):
        items = [with_data(item) for item in obj]
        same = all(a is b for a, b in zip(items, obj, strict=True))
        return obj if same else kind(items)
    if kind is dict:
        values = {key: with_data(value) for key, value in obj.items()}
        return obj if all(values[key] is obj[key] for key in obj) else values
    if kind is functools.partial:
        args, kwargs = with_data(obj.args), with_data(obj.keywords)
        same = args is obj.args and kwargs is obj.keywords
        return obj if same else functools.partial(obj.func, *args, **kwargs)
    if kind.__module__.startswith("distributed."):
        raise HasDaskFuture
    return obj
