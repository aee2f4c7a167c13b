"""
How many threads, and everything else that a user can set from outside.

One CPU budget holds for the whole process.  The first of these that is set decides::

    the argument of the call     workers=4
    the context                  with pydistrib.num_threads(4): ...
    the pool whose worker calls  what follows, divided by the pool's workers
    the process                  pydistrib.set_num_threads(4)
    the environment              PYDISTRIB_NUM_THREADS=4
    the machine                  affinity mask and cgroup quota

The environment variables are read where they are first needed, and stand in
`ENVIRONMENT` with what they mean.
"""

from __future__ import annotations

import operator
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Final, SupportsIndex, overload

import numpy as np

from pydistrib import _core

ENVIRONMENT: Final = {
    "PYDISTRIB_NUM_THREADS": "threads of a call that does not say (default: the CPUs)",
    "PYDISTRIB_SIMD": "instruction set of the kernels (default: the best there is)",
    "PYDISTRIB_CACHE_MB": "freed results kept for re-use, in MiB (default: 256; 0: off)",
}

# What native threads can be asked for; more is a mistake, not a machine.
MAX_THREADS: Final = 1024

_process_threads: int | None = None
# In a thread of a pool: how many threads share the budget.
_pool_workers: ContextVar[int] = ContextVar("pydistrib_pool_workers", default=1)
# There, too: the CPUs that a cluster gave to this process, where it does not own them all.
_pool_cpus: ContextVar[int | None] = ContextVar("pydistrib_pool_cpus", default=None)
_context_threads: ContextVar[int | None] = ContextVar("pydistrib_num_threads", default=None)


def whole_number(value: SupportsIndex, rule: str) -> int:
    """
    Take an argument as an int, or raise a TypeError that quotes `rule`.

    A bool is refused: ``decimals=False`` and ``workers=True`` mean something else than the
    numbers 0 and 1.
    """
    if not isinstance(value, (bool, np.bool_)):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise TypeError(f"{rule}, not {value!r:.80} of type {type(value).__name__}")


def thread_count(value: SupportsIndex, name: str) -> int:
    """Check a number of threads that the user gave as `name`."""
    count = whole_number(value, f"{name} must be an integer of at least 1 or None")
    if count < 1:
        raise ValueError(f"{name} must be at least 1, not {count}")
    return min(count, MAX_THREADS)


def environment_number(variable: str, at_least: int) -> int | None:
    """Read a whole number from the environment; None where it is not set."""
    text = os.environ.get(variable, "").strip()
    if not text:
        return None
    try:
        number = int(text)
    except ValueError:
        number = at_least - 1
    if number < at_least:
        raise ValueError(
            f"the environment variable {variable} is {text!r}; it must be a whole number "
            f"of at least {at_least}, or unset"
        )
    return number


@cache
def _environment_threads() -> int | None:
    count = environment_number("PYDISTRIB_NUM_THREADS", at_least=1)
    return None if count is None else min(count, MAX_THREADS)


@cache
def _machine_threads(_pid: int) -> int:
    return int(_core.cpu_info()["usable"])


def cpu_count() -> int:
    """
    Count the CPUs that this process may use.

    Returns
    -------
    int
        The size of the affinity mask, or the cgroup's CPU quota rounded up where that is
        smaller: in a container limited to two CPUs this is 2, on any host.  At least 1.

    See Also
    --------
    num_threads : The number of threads that calls use by default.

    Examples
    --------
    >>> import pydistrib
    >>> pydistrib.cpu_count() >= 1
    True
    """
    return int(_core.cpu_info()["usable"])


def set_num_threads(n: int | None) -> None:
    """
    Set how many threads the calls of this process use by default.

    Parameters
    ----------
    n : int or None
        Threads, at least 1, the calling thread included; None goes back to the
        environment variable ``PYDISTRIB_NUM_THREADS`` or the machine's CPUs.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is less than 1.

    See Also
    --------
    num_threads : The same for a ``with`` block.

    Examples
    --------
    >>> import pydistrib
    >>> pydistrib.set_num_threads(2)
    >>> pydistrib.num_threads()
    2
    >>> pydistrib.set_num_threads(None)
    """
    global _process_threads
    _process_threads = None if n is None else thread_count(n, "n")


@overload
def num_threads() -> int: ...
@overload
def num_threads(n: int) -> AbstractContextManager[int]: ...
def num_threads(n: int | None = None) -> int | AbstractContextManager[int]:
    """
    Tell how many threads a call uses by default, or set it for a ``with`` block.

    Parameters
    ----------
    n : int, optional
        Threads inside the block, at least 1, the calling thread included.  It holds for
        the thread or asyncio task that runs the block, and wins over `set_num_threads`.

    Returns
    -------
    int or context manager
        Without `n` the number in force; with it a context manager that sets it.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is less than 1, or ``PYDISTRIB_NUM_THREADS`` is not a number of at least 1.

    See Also
    --------
    set_num_threads : The same for the whole process.

    Examples
    --------
    >>> import pydistrib
    >>> with pydistrib.num_threads(1):
    ...     pydistrib.num_threads()
    1
    """
    if n is None:
        return _threads_and_reason()[0]
    return _limited(thread_count(n, "n"))


@contextmanager
def _limited(count: int) -> Iterator[int]:
    token = _context_threads.set(count)
    try:
        yield count
    finally:
        _context_threads.reset(token)


def enter_pool(workers: int, cpus: int | None = None) -> None:
    """Make the calling thread one of a pool's, for good; `cpus` are all the pool has."""
    _pool_workers.set(workers)
    _pool_cpus.set(cpus)


def _threads_and_reason() -> tuple[int, str]:
    count = _context_threads.get()
    if count is not None:
        return count, "num_threads() context"
    count, reason = _process_budget()
    workers = _pool_workers.get()
    if workers > 1:
        return max(1, count // workers), f"{reason}, shared by {workers} workers"
    return count, reason


def default_threads() -> int:
    """Give the process's budget where neither a call nor set_num_threads() says."""
    count = _environment_threads()
    return _machine_threads(os.getpid()) if count is None else count


def _process_budget() -> tuple[int, str]:
    if _process_threads is not None:
        return _process_threads, "set_num_threads()"
    count = _environment_threads()
    if count is not None:
        return count, "PYDISTRIB_NUM_THREADS"
    cpus = _pool_cpus.get()
    if cpus is not None:
        return cpus, "threads of this worker"
    return _machine_threads(os.getpid()), "CPUs this process may use"


def resolve_workers(workers: SupportsIndex | None) -> int:
    """Give the number of threads of one call whose argument `workers` may be None."""
    if workers is not None:
        return thread_count(workers, "workers")
    return _threads_and_reason()[0]


def obey_environment() -> None:
    """Do what ``PYDISTRIB_SIMD`` and ``PYDISTRIB_CACHE_MB`` say."""
    held = environment_number("PYDISTRIB_CACHE_MB", at_least=0)
    if held is not None:
        _core.set_result_cache_limit(min(held << 20, sys.maxsize))
    name = os.environ.get("PYDISTRIB_SIMD", "").strip().lower()
    if name and not _core.simd_select(name):
        raise ValueError(
            f"the environment variable PYDISTRIB_SIMD is {name!r}; this machine and build "
            f"have {', '.join(_core.simd_info()['available'])}"
        )


def show_config() -> None:
    """
    Print what was chosen for this process, and why.

    The report names the versions, the CPUs and what limits them, the threads that a call
    uses and who said so, the instruction set, and the environment variables that are set.

    See Also
    --------
    num_threads : The number of threads alone.

    Examples
    --------
    >>> import pydistrib
    >>> pydistrib.show_config()  # doctest: +ELLIPSIS
    pydistrib ...
    """
    from pydistrib import __version__

    cpu = _core.cpu_info()
    simd = _core.simd_info()
    threads, reason = _threads_and_reason()
    forced = os.environ.get("PYDISTRIB_SIMD")
    quota = f"{cpu['quota']:g} CPUs" if cpu["quota"] else "none"
    cache_info = _core.result_cache_info()
    free_threaded = not getattr(sys, "_is_gil_enabled", lambda: True)()
    rows = [
        ("Python", sys.version.split()[0] + (" (no GIL)" if free_threaded else "")),
        ("NumPy", np.__version__),
        (
            "CPUs",
            f"{cpu['usable']} usable: {cpu['online']} online, {cpu['affinity']} in the "
            f"affinity mask, cgroup quota {quota}",
        ),
        ("threads", f"{threads} a call ({reason}); {_core.team_threads()} alive now"),
        (
            "SIMD",
            f"{simd['active']} ({'PYDISTRIB_SIMD' if forced else 'best of this machine'}); "
            f"available: {', '.join(simd['available'])}",
        ),
        (
            "result cache",
            f"{cache_info['held'] >> 20} of at most {cache_info['limit'] >> 20} MiB held",
        ),
    ]
    print(f"pydistrib {__version__}")
    for name, text in rows:
        print(f"  {name:<13}{text}")
    for variable, meaning in ENVIRONMENT.items():
        if variable in os.environ:
            print(f"  {variable}={os.environ[variable]}  ({meaning})")
