"""What users give to the methods of a pool, checked."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterable
from typing import (
    Any,
    Generic,
    SupportsIndex,
    TypeVar,
)

import numpy as np

from pydistrib.errors import TimeoutError

T = TypeVar("T")
R = TypeVar("R")


def whole_number(value: SupportsIndex, name: str, at_least: int) -> int:
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


def worker_count(value: SupportsIndex, name: str, most: int, too_few: str) -> int:
    """Check a number of workers; `too_few` is the standard library's text."""
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name} must be a whole number or None, not {type(value).__name__}"
        ) from None
    if count < 1:
        raise ValueError(too_few)
    if count > most:
        raise ValueError(f"{name} must be at most {most}, not {count}")
    return count


def time_limit(value: float | None) -> float | None:
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


def check_callable(func: object, name: str = "func") -> None:
    if not callable(func):
        raise TypeError(f"{name} must be callable, not {type(func).__name__}")


class Retrying(Generic[R]):
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


def with_retries(func: Callable[..., R], retries: int) -> Callable[..., R]:
    check_callable(func)
    count = whole_number(retries, "retries", 0)
    return Retrying(func, count) if count else func


def as_items(iterable: Iterable[T]) -> tuple[T, ...] | np.ndarray[Any, Any]:
    """Take a snapshot of the items; an array stays, and is handed out row by row."""
    if isinstance(iterable, np.ndarray):
        if iterable.ndim == 0:
            raise TypeError("iterable must have rows, but is a 0-dimensional array")
        return iterable
    return tuple(iterable)


def check_out(out: object, count: int) -> None:
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be an ndarray, not {type(out).__name__}")
    if out.ndim == 0 or len(out) != count:
        raise ValueError(
            f"out must have one row for each of the {count} items, but its shape is "
            f"{out.shape}"
        )
    if not out.flags.writeable:
        raise ValueError("out must be writeable")
