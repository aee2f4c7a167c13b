"""
Threads, processes and pairwise kernels at C speed: change the import, keep the code.

Layout: public names are listed here and defined in `kernels` (matrices of all pairs),
`pools` (threads and other engines that run Python tasks), `shared` (state in shared memory)
and `_config` (how many threads).
`_core` is the C extension.  Importing starts no thread and imports nothing but NumPy.
"""

from pydistrib._config import (
    cpu_count,
    num_threads,
    obey_environment,
    set_num_threads,
    show_config,
)
from pydistrib.kernels.metrics import (
    Metric,
    absolute_distance,
    chebyshev,
    euclidean,
    rbf,
    sqeuclidean,
)
from pydistrib.kernels.pairwise import Explanation, explain, kernel, pairwise
from pydistrib.shared import (
    Manager,
    SharedArray,
    SharedDict,
    SharedLock,
    share,
    shared_empty,
)

__version__ = "0.1.0"

__all__ = [
    "Explanation",
    "Manager",
    "Metric",
    "SharedArray",
    "SharedDict",
    "SharedLock",
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

obey_environment()
del obey_environment
