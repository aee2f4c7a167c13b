"""
Threads, processes and pairwise kernels at C speed: change the import, keep the code.

Layout: public names are listed here and defined in `kernels` (matrices of all pairs),
`pools` (threads and other engines that run Python tasks), `threads` (one thread, locks,
counters) and `_config` (how many threads).  `_core` is the C extension.  Importing starts
no thread and imports nothing but NumPy.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from pydistrib import _threadpoolctl
from pydistrib._config import (
    cpu_count,
    num_threads,
    obey_environment,
    set_num_threads,
    show_config,
)
from pydistrib._core import AsyncResult, Counter, MapResult, ResultIterator
from pydistrib.kernels.metrics import (
    Metric,
    absolute_distance,
    chebyshev,
    euclidean,
    rbf,
    sqeuclidean,
)
from pydistrib.kernels.pairwise import Explanation, explain, kernel, pairwise
from pydistrib.kernels.tracing.refusal import NotTraceable
from pydistrib.pools.protocol import Future, PoolStats, TimeoutError, WorkerStats
from pydistrib.pools.threads import ThreadPool, ThreadPoolExecutor
from pydistrib.threads import (
    Barrier,
    BoundedSemaphore,
    Condition,
    Event,
    Local,
    Lock,
    RLock,
    Semaphore,
    Thread,
)

if _TYPE_CHECKING:
    from pydistrib.errors import PoolBroken, WorkerDied
    from pydistrib.pools.processes import Pool, ProcessPoolExecutor
    from pydistrib.processes import Process, get_context

__version__ = "0.1.0"

__all__ = [
    "AsyncResult",
    "Barrier",
    "BoundedSemaphore",
    "Condition",
    "Counter",
    "Event",
    "Explanation",
    "Future",
    "Local",
    "Lock",
    "MapResult",
    "Metric",
    "NotTraceable",
    "Pool",
    "PoolBroken",
    "PoolStats",
    "Process",
    "ProcessPoolExecutor",
    "RLock",
    "ResultIterator",
    "Semaphore",
    "Thread",
    "ThreadPool",
    "ThreadPoolExecutor",
    "TimeoutError",
    "WorkerDied",
    "WorkerStats",
    "absolute_distance",
    "chebyshev",
    "cpu_count",
    "euclidean",
    "explain",
    "get_context",
    "kernel",
    "num_threads",
    "pairwise",
    "rbf",
    "set_num_threads",
    "show_config",
    "sqeuclidean",
]

obey_environment()
_threadpoolctl.register_when_imported()
del obey_environment

# Imported when they are first used: they need multiprocessing, which takes its time.
_LATER = {
    "Pool": "pydistrib.pools.processes",
    "PoolBroken": "pydistrib.errors",
    "Process": "pydistrib.processes",
    "ProcessPoolExecutor": "pydistrib.pools.processes",
    "WorkerDied": "pydistrib.errors",
    "get_context": "pydistrib.processes",
}


def __getattr__(name: str) -> _Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(_import_module(_LATER[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
