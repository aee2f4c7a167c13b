"""
Threads, processes and pairwise kernels at C speed: change the import, keep the code.

Layout: public names are listed here and defined in `kernels` (matrices of all pairs),
`pools` (threads, a Dask cluster), `threads` (one thread, locks, counters), `shared` (state
in shared memory) and `_config` (how many threads).  `_core` is the C extension.  Importing
starts no thread and imports nothing but NumPy.
"""

from typing import TYPE_CHECKING

from pydistrib import _threadpoolctl
from pydistrib._config import (
    cpu_count,
    num_threads,
    obey_environment,
    set_num_threads,
    show_config,
)
from pydistrib._core import AsyncResult, Counter, MapResult, ResultIterator
from pydistrib.errors import TimeoutError
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
from pydistrib.pools.engine import PoolStats, WorkerStats
from pydistrib.pools.futures import Future
from pydistrib.pools.threads import ThreadPool, ThreadPoolExecutor
from pydistrib.shared import (
    Manager,
    SharedArray,
    SharedDict,
    SharedLock,
    share,
    shared_empty,
)
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

if TYPE_CHECKING:
    from pydistrib.pools.dask import ClusterError, DaskPool, WorkerLostWarning

__version__ = "0.1.0"

__all__ = [
    "AsyncResult",
    "Barrier",
    "BoundedSemaphore",
    "ClusterError",
    "Condition",
    "Counter",
    "DaskPool",
    "Event",
    "Explanation",
    "Future",
    "Local",
    "Lock",
    "Manager",
    "MapResult",
    "Metric",
    "NotTraceable",
    "PoolStats",
    "RLock",
    "ResultIterator",
    "Semaphore",
    "SharedArray",
    "SharedDict",
    "SharedLock",
    "Thread",
    "ThreadPool",
    "ThreadPoolExecutor",
    "TimeoutError",
    "WorkerLostWarning",
    "WorkerStats",
    "absolute_distance",
    "chebyshev",
    "cpu_count",
    "euclidean",
    "explain",
    "kernel",
    "num_threads",
    "pairwise",
    "rbf",
    "set_num_threads",
    "share",
    "shared_empty",
    "show_config",
    "sqeuclidean",
]

# Imported when somebody asks for one of them: few do, and it takes its time.
_OF_DASK = ("ClusterError", "DaskPool", "WorkerLostWarning")


def __getattr__(name: str) -> object:
    if name not in _OF_DASK:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pydistrib.pools import dask

    found: object = getattr(dask, name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


obey_environment()
_threadpoolctl.register_when_imported()
del obey_environment, TYPE_CHECKING
