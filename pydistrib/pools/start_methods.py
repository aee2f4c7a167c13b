"""How worker processes are started: what users said, or what is safe here."""

from __future__ import annotations

import multiprocessing
import sys
import threading
from typing import Any

from pydistrib.pools import nursery as nurseries


def _has_openmp() -> bool:
    """Tell whether an OpenMP library is loaded, whose threads a fork loses for good."""
    try:
        with open("/proc/self/maps") as maps:
            return any(
                name in line for line in maps for name in ("libgomp", "libiomp", "libomp")
            )
    except OSError:
        return True


def default_method() -> str:
    """
    Choose how the workers of a pool are started.

    What `multiprocessing.set_start_method` said; else fork, where the standard library
    forks as well and it is safe: while this process has one thread, and no OpenMP; else
    forkserver.

    Returns
    -------
    str
        ``"fork"``, ``"forkserver"`` or ``"spawn"``.
    """
    said = multiprocessing.get_start_method(allow_none=True)
    if said is not None:
        return said
    if sys.version_info >= (3, 14) or sys.platform != "linux":
        return "forkserver"
    if threading.active_count() > 1 or _has_openmp():
        return "forkserver"
    return "fork"


def method_of(context: Any) -> str:
    if context is None:
        return default_method()
    method = context if isinstance(context, str) else _ask_method(context)
    if method is None:
        return default_method()
    if method not in nurseries.METHODS:
        raise ValueError(
            f"context must be one of {', '.join(nurseries.METHODS)}, not {method!r}"
        )
    return method


def _ask_method(context: Any) -> str | None:
    ask = getattr(context, "get_start_method", None)
    if ask is None:
        raise TypeError(
            "context must be a context of multiprocessing, a start method's name or "
            f"None, not {type(context).__name__}"
        )
    try:
        method: str | None = ask(allow_none=True)
    except TypeError:
        method = ask()
    return method
