"""Saying no: why a function cannot be traced, and how that is never overlooked."""

from __future__ import annotations

import threading
from typing import NoReturn


class NotTraceable(Exception):
    """
    A function cannot be traced; the message says why.

    `kernel` and `pairwise` raise it if ``trace="require"`` was given; by default they call
    the function itself instead, once for each pair.  `explain` gives the same reason.

    See Also
    --------
    kernel : Its notes say what can be traced.
    explain : Which way a function goes, and why.
    """


class Refusal(BaseException):
    """
    Stops a trace.

    It is no `Exception`, so that a traced function that catches those lets it pass.
    """


class _Active(threading.local):
    """The first refusal of the trace that runs in this thread."""

    reason: str | None = None


_active = _Active()


def refuse(reason: str) -> NoReturn:
    """
    Stop the trace that runs in this thread.

    The reason is also kept: a traced function that catches everything would else swallow
    the refusal, and go on as it would not with real numbers.
    """
    if _active.reason is None:
        _active.reason = reason
    raise Refusal(reason)


def start_watching() -> None:
    """Forget earlier refusals."""
    _active.reason = None


def check_refused() -> None:
    """Raise the refusal that a traced function swallowed."""
    if _active.reason is not None:
        raise Refusal(_active.reason)
