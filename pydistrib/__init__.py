"""
Threads, processes and pairwise kernels at C speed: change the import, keep the code.

Layout: public names are listed here and defined in `kernels` (matrices of all pairs),
`pools` (threads, processes, a Dask cluster), `threads` and `processes` (one of them; locks,
counters), `shared` (state in shared memory) and `_config` (how many threads).  `_core` is
the C extension.  Importing starts no thread and imports nothing but NumPy.
"""

from importlib import import_module as _import_module
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
    from pydistrib.pools.broken import PoolBroken, WorkerDied
    from pydistrib.pools.dask import ClusterError, DaskPool, WorkerLostWarning
    from pydistrib.pools.processes import Pool, ProcessPoolExecutor
    from pydistrib.processes import Process, get_context

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
    "Pool",
    "PoolBroken",
    "PoolStats",
    "Process",
    "ProcessPoolExecutor",
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
    "WorkerDied",
    "WorkerLostWarning",
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
    "share",
    "shared_empty",
    "show_config",
    "sqeuclidean",
]

# Imported when somebody asks for one of them: Dask and multiprocessing take their time.
_LATER = {
    "ClusterError": "pydistrib.pools.dask",
    "DaskPool": "pydistrib.pools.dask",
    "Pool": "pydistrib.pools.processes",
    "PoolBroken": "pydistrib.pools.broken",
    "Process": "pydistrib.processes",
    "ProcessPoolExecutor": "pydistrib.pools.processes",
    "WorkerDied": "pydistrib.pools.broken",
    "WorkerLostWarning": "pydistrib.pools.dask",
    "get_context": "pydistrib.processes",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(_import_module(_LATER[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


obey_environment()
_threadpoolctl.register_when_imported()
del obey_environment, TYPE_CHECKING
